//! Gives C-core a socket. The one module with unsafe code.
#![allow(
    unsafe_code,
    reason = "grpcio takes a connected socket by an unsafe call only; both of its conditions are kept by types"
)]

use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

/// What C-core will call the peer of calls on this socket, once it has it. It is the number of the file. C-core closes it when the
/// last call of the connection is gone, so for as long as a call looks at it, no other connection has it.
pub(crate) fn peer_of(socket: &UnixStream) -> i32 {
    socket.as_raw_fd()
}

/// Gives `socket` to `server`, which serves HTTP/2 on it.
pub(crate) fn hand_over(server: &mut grpcio::Server, socket: UnixStream) {
    let file = OwnedFd::from(socket).into_raw_fd();
    // SAFETY: it is a connected stream socket, since a `UnixStream` is one. Nobody else has it: it was owned, and its number is
    // given away here.
    unsafe { server.add_channel_from_fd(file) }
}
