//! A server that is not reached, or is none: why, in words that say what to do.

use std::borrow::Cow;
use std::thread;

use crate::probe::{self, Found};
use crate::target;

/// What C-core says of a server that ends a connection which begins with HTTP/2.
const CLOSED: &str = "Socket closed";

/// Where clients connect, for those who are somewhere else.
pub(super) const LISTEN: &str = "clients connect to the server's --listen address, port 50051 unless that was set";

/// Why a connection did not come about, as C-core says it. What is no such thing stays as it is.
pub(super) fn in_words(said: &str) -> Cow<'_, str> {
    let is_name = said.contains("DNS resolution failed");
    if !is_name && !said.contains("failed to connect to all addresses") {
        return said.into();
    }
    if is_name {
        let why = said.rsplit(": ").next().unwrap_or_default();
        return format!("its name is not known here ({why}): it may be misspelt, or there is no network").into();
    }
    match said {
        _ if said.contains("Connection refused") => {
            "nobody listens there (Connection refused): contact-server is not running, or its --listen address is another"
                .into()
        }
        _ if is_no_grpc(said) => "what is there speaks no gRPC".into(),
        _ => said.into(),
    }
}

/// Whether C-core says that somebody is there who does not speak HTTP/2.
pub(super) fn is_no_grpc(said: &str) -> bool {
    said.contains(target::HTTP_1) || said.contains(CLOSED)
}

/// Looks what is there, and logs it, if it tells anything. `http2`: it speaks HTTP/2. Returns at once: this is for people, and nothing
/// waits for it.
pub(super) fn log_what_answers(server: &str, http2: bool) {
    let server = server.to_owned();
    let look = move || match probe::look(&server, http2) {
        Some(Found::Tls) => {
            log::warn!(
                "{server} speaks TLS: give --tls-ca, or --join with the invitation that contactctl invite prints"
            );
        }
        Some(Found::Page) => log::warn!("{server} is the page of a Contact server (--http); {LISTEN}"),
        Some(Found::Other(answer)) => {
            log::warn!("what answers at {server} is no Contact server, or a proxy without one: {answer}; {LISTEN}");
        }
        Some(Found::NoName(_)) | None => {}
    };
    // Without a thread there is no look.
    let _ = thread::Builder::new().name("probe".into()).spawn(look);
}
