//! Where NATS servers are.

use std::fmt;
use std::str::FromStr;

use async_nats::ServerAddr;

/// The URLs of some NATS servers, `nats://` or `tls://`. What is shown of them is without users and passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrls(Vec<ServerAddr>);

impl NatsUrls {
    pub(super) fn addresses(&self) -> &[ServerAddr] {
        &self.0
    }

    /// Whether one of them is not to be spoken to without TLS.
    pub(super) fn need_tls(&self) -> bool {
        self.0.iter().any(ServerAddr::tls_required)
    }
}

impl FromStr for NatsUrls {
    type Err = String;

    /// There are commas between them.
    fn from_str(urls: &str) -> Result<NatsUrls, String> {
        let url = |url: &str| {
            let address = url.trim().parse::<ServerAddr>().ok();
            address.filter(|it| matches!(it.scheme(), "nats" | "tls") && !it.host().is_empty())
        };
        let all = urls.split(',').map(url).collect::<Option<_>>();
        all.map(NatsUrls)
            .ok_or_else(|| "must be nats://HOST:PORT or tls://HOST:PORT, and commas between several".into())
    }
}

impl fmt::Display for NatsUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, url) in self.0.iter().enumerate() {
            let (comma, host, port) = (if at > 0 { ", " } else { "" }, url.host(), url.port());
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            write!(f, "{comma}{}://{host}:{port}", url.scheme())?;
        }
        Ok(())
    }
}

impl fmt::Debug for NatsUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsUrls({self})")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn urls_are_shown_without_whoever_they_let_in() {
        let urls: NatsUrls = "nats://ann:secret@a, tls://token@[::1]:4,10.0.0.1:5".parse().unwrap();
        assert_eq!(urls.to_string(), "nats://a:4222, tls://[::1]:4, nats://10.0.0.1:5");
        assert!(!format!("{urls:?}").contains("secret"));
        assert!(urls.need_tls());
        for wrong in ["", "http://a:4222", "ws://a", "nats://", "nats://a,", "nats://a b", "nats://a:x"] {
            assert!(wrong.parse::<NatsUrls>().is_err(), "{wrong}");
        }
    }
}
