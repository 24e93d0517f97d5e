//! What stands in front of C-core: TLS by rustls, and bounds that C-core does not have. C-core is given one end of a pair of
//! sockets and speaks plain HTTP/2 on it.
//!
//! ```text
//!             ┌───────────────── Front, on a server ────────────────┐
//! clients ──▶ places ──▶ TLS ──▶ is it let in? ──▶ frames, counted ──▶ one end of a pair of sockets: C-core
//!
//!             ┌── Dial, in a client ──┐
//! C-core ──▶ a socket of this process ──▶ TLS ──▶ the server
//! ```
//!
//! Both ends of a connection are one task of tokio. It keeps no buffer while nothing is on its way. A side that does not read
//! holds up the other one, so that the flow control of HTTP/2 goes through.

#[cfg(any(feature = "client", feature = "ctl"))]
mod dial;
#[cfg(feature = "server")]
mod door;
mod files;
#[cfg(feature = "server")]
mod frames;
#[cfg(feature = "server")]
mod handover;
#[cfg(feature = "server")]
mod places;
mod relay;
#[cfg(any(feature = "client", feature = "ctl"))]
mod trouble;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

#[cfg(any(feature = "client", feature = "ctl"))]
pub(crate) use self::dial::{Dial, DialError};
#[cfg(feature = "server")]
pub(crate) use self::door::{Bounds, Counts, CurrentTls, Front, Inside};
#[cfg(feature = "server")]
pub use self::files::ServerTls;
pub use self::files::{FileError, Tls};
#[cfg(feature = "server")]
pub(crate) use self::files::{Material, validity};
#[cfg(feature = "server")]
pub(crate) use self::handover::{hand_over, peer_of};

/// The only protocol that is spoken, as TLS names it (ALPN).
const HTTP_2: &[u8] = b"h2";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
