//! Why a connection with TLS does not come about, in words that say what to do.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// What is wrong, as a client tells it. `name`: what the server is called here.
pub(super) fn in_words(error: &io::Error, name: &str) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => of_tls(error, name),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server ended the connection while TLS began; is it a port with TLS, or has it too many connections?"
                .into()
        }
        None => error.to_string(),
    }
}

fn of_tls(error: &Error, name: &str) -> String {
    use AlertDescription as Alert;
    use CertificateError as Wrong;
    let at = |time: &rustls::pki_types::UnixTime| {
        let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(time.as_secs()));
        time.map_or_else(String::new, |time| format!(" ({})", humantime::format_rfc3339_seconds(time)))
    };
    match error {
        Error::InvalidCertificate(wrong) => match wrong {
            Wrong::UnknownIssuer => {
                "the server's certificate comes from an authority that is not in --tls-ca: it is another server, or another authority"
                    .into()
            }
            Wrong::Expired => "the server's certificate has expired".into(),
            Wrong::ExpiredContext { not_after, .. } => format!("the server's certificate has expired{}", at(not_after)),
            Wrong::NotValidYet => "the server's certificate is not valid yet; is the clock of this machine right?".into(),
            Wrong::NotValidYetContext { not_before, .. } => {
                format!("the server's certificate is not valid yet{}; is the clock of this machine right?", at(not_before))
            }
            Wrong::NotValidForName => format!("the server's certificate is not for the name {name}"),
            Wrong::NotValidForNameContext { presented, .. } => {
                format!("the server's certificate is not for the name {name}, but for {}", presented.join(", "))
            }
            Wrong::InvalidPurpose | Wrong::InvalidPurposeContext { .. } => {
                "what the server shows is no certificate of a server".into()
            }
            // The library has no word of its own for it.
            other if other.to_string().contains("CaUsedAsEndEntity") => {
                "the server's certificate is one of an authority, as openssl makes those that sign themselves: make it with \
                 -addext basicConstraints=critical,CA:FALSE"
                    .into()
            }
            other => format!("the server's certificate is wrong: {other}"),
        },
        Error::AlertReceived(alert) => match alert {
            Alert::CertificateRequired => {
                "the server wants a certificate of this client, which shows none (--tls-cert, --tls-key)".into()
            }
            Alert::CertificateExpired => "the server refuses this client's certificate: it has expired, or is not valid yet".into(),
            Alert::CertificateRevoked => "the server refuses this client's certificate: it was revoked".into(),
            Alert::UnknownCA => {
                "the server refuses this client's certificate: it comes from an authority that the server does not know".into()
            }
            Alert::AccessDenied => {
                "the server refuses this client's certificate: it does not name one identity (docs/security.md)".into()
            }
            Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown => {
                "the server refuses this client's certificate; its log says why".into()
            }
            Alert::UserCanceled | Alert::CloseNotify => "the server ended the connection".into(),
            Alert::NoApplicationProtocol => {
                "what is there speaks TLS, and no gRPC: is it the page (--http)? Clients connect to the server's --listen address, contactctl \
                 to its --control address"
                    .into()
            }
            other => format!("the server refuses TLS: {other:?}"),
        },
        Error::InvalidMessage(_) => {
            "the server does not speak TLS on this port: leave out --tls-ca, or name the port that does".into()
        },
        other => format!("TLS failed: {other}"),
    }
}
