//! What stands in front of C-core on ports that others reach: TLS by rustls, and bounds that C-core does not have. C-core is given one
//! end of a pair of sockets and speaks plain HTTP/2 on it. HTTP begins its connections by the same code, and goes on by itself.
//!
//! ```text
//!             ┌───── Front, on a server, or a worker that is dialled ─────┐
//! clients ──▶ places ──▶ TLS ──▶ is it let in? ──▶ frames, counted ──▶ one end of a pair of sockets: C-core
//!
//!             ┌── Dial, in a client, or a server that dials ──┐
//! C-core ──▶ a socket of this process ──▶ TLS ──▶ the server
//! ```
//!
//! Both ends of a connection are one task of tokio. It keeps no buffer while nothing is on its way. A side that does not read
//! holds up the other one, so that the flow control of HTTP/2 goes through.

#[cfg(feature = "door")]
mod credit;
mod dial;
#[cfg(feature = "door")]
mod door;
mod files;
#[cfg(feature = "door")]
mod frames;
#[cfg(feature = "door")]
mod greeting;
#[cfg(feature = "door")]
mod handover;
#[cfg(any(feature = "client", feature = "ctl"))]
mod join;
#[cfg(feature = "door")]
mod places;
mod relay;
mod trouble;
#[cfg(feature = "door")]
mod watched;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub(crate) use self::dial::{Dial, DialError, DialThread};
#[cfg(feature = "door")]
pub(crate) use self::door::{Bounds, Counts, Front, Inside, Refused};
#[cfg(feature = "door")]
pub use self::files::ServerTls;
pub(crate) use self::files::validity;
pub use self::files::{FileError, Tls};
#[cfg(feature = "cluster")]
pub(crate) use self::files::{read as read_file, roots as authorities};
#[cfg(feature = "door")]
pub(crate) use self::greeting::{Begun, CurrentTls, Entrance, Speaks};
#[cfg(feature = "door")]
pub(crate) use self::handover::{Numbered, as_peer, hand_over, number_of, peer_of};
#[cfg(any(feature = "client", feature = "ctl"))]
pub use self::join::{Invitation, JoinError, Joined, State, renew};
#[cfg(feature = "door")]
pub(crate) use self::places::{Place, Places, Stage, holder};
pub(crate) use self::trouble::Called;
#[cfg(feature = "door")]
pub(crate) use self::watched::{Certificate, TlsThread, WatchedTls};

/// How the answer of a port with TLS begins to those who speak none.
pub(crate) const SPEAKS_TLS: &str = "this port speaks TLS";
/// The header of those who change something over HTTP. The page names it to those who ask without.
pub(crate) const HTTP_MARK: &str = "x-contact";
/// The protocol of gRPC, as TLS names it (ALPN).
const HTTP_2: &[u8] = b"h2";
/// That of browsers.
#[cfg(feature = "door")]
const HTTP_1: &[u8] = b"http/1.1";
/// That of those who join: a message each way, and no gRPC.
const JOIN: &[u8] = b"contact-join/1";
/// The longest message of it, in bytes.
const LONGEST: usize = 64 * 1024;

/// The secret of an invitation.
#[cfg(feature = "server")]
pub(crate) struct Secret(String);

#[cfg(feature = "server")]
impl Secret {
    /// 256 bits that nobody can guess.
    pub(crate) fn new() -> Secret {
        Secret(base64url(&rand::random::<[u8; 32]>()))
    }

    pub(crate) fn of(text: &str) -> Secret {
        Secret(text.to_owned())
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// What is kept of it: SHA-256. It needs no salt, being random.
    pub(crate) fn hash(&self) -> String {
        base64url(ring::digest::digest(&ring::digest::SHA256, self.0.as_bytes()).as_ref())
    }
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    data_encoding::BASE64URL_NOPAD.encode(bytes)
}

pub(crate) fn from_base64url(text: &str) -> Option<Vec<u8>> {
    data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok()
}

/// The host of an address, `host:port`; an IPv6 address without its brackets.
pub(crate) fn host(address: &str) -> &str {
    let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
    host.trim_start_matches('[').trim_end_matches(']')
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
