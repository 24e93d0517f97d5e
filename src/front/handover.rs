//! Gives C-core a socket, and knows which connection that was. The one module with unsafe code.
#![allow(
    unsafe_code,
    reason = "grpcio takes a connected socket by an unsafe call only; both of its conditions are kept by types"
)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// Where a connection comes from, as C-core names it of one that it took itself.
pub(crate) fn as_peer(address: SocketAddr) -> String {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let version = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    format!("{version}:{address}")
}

/// The number in the peer of a call, `fd:7`, if the call came over a socket that C-core was given.
pub(crate) fn number_of(peer: &str) -> Option<i32> {
    peer.strip_prefix("fd:")?.parse().ok()
}

/// What is known of connections, by the numbers of their files. Cheap to clone.
pub(crate) struct Numbered<T>(Arc<Mutex<HashMap<i32, Arc<T>>>>);

impl<T> Clone for Numbered<T> {
    fn clone(&self) -> Numbered<T> {
        Numbered(self.0.clone())
    }
}

impl<T> Default for Numbered<T> {
    fn default() -> Numbered<T> {
        Numbered(Arc::default())
    }
}

impl<T> Numbered<T> {
    pub(crate) fn get(&self, number: i32) -> Option<Arc<T>> {
        self.lock().get(&number).cloned()
    }

    /// To be said before C-core has the file: a call may come at once.
    pub(crate) fn set(&self, number: i32, connection: Arc<T>) {
        self.lock().insert(number, connection);
    }

    /// That connection is over. C-core may have closed its file, and another connection may have it.
    pub(crate) fn forget(&self, number: i32, connection: &Arc<T>) {
        let mut all = self.lock();
        if all.get(&number).is_some_and(|it| Arc::ptr_eq(it, connection)) {
            all.remove(&number);
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<i32, Arc<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
