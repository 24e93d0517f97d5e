//! Why a connection with TLS does not come about, in words that say what to do.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// What words call the two sides, and how the settings of this one begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Called {
    /// Who is connected to.
    pub(crate) other: &'static str,
    /// Who connects.
    pub(crate) this: &'static str,
    pub(crate) flags: &'static str,
}

impl Called {
    pub(super) const CLIENT: Called = Called { other: "server", this: "client", flags: "--tls" };
}

/// What is wrong, as the side tells it that connects. `name`: what the other one is called here.
pub(super) fn in_words(error: &io::Error, name: &str, called: Called) -> String {
    match tls(error) {
        Some(error) => of_tls(error, name, called),
        None if error.kind() == io::ErrorKind::UnexpectedEof => format!(
            "the {} ended the connection while TLS began; is it a port with TLS, or has it too many connections?",
            called.other
        ),
        None => error.to_string(),
    }
}

fn tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn of_tls(error: &Error, name: &str, Called { other, this, flags }: Called) -> String {
    use AlertDescription as Alert;
    use CertificateError as Wrong;
    let at = |time: &rustls::pki_types::UnixTime| {
        let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(time.as_secs()));
        time.map_or_else(String::new, |time| format!(" ({})", humantime::format_rfc3339_seconds(time)))
    };
    let is_wrong = |how: &str| format!("the {other}'s certificate {how}");
    let refuses = |why: &str| format!("the {other} refuses this {this}'s certificate{why}");
    match error {
        Error::InvalidCertificate(wrong) => match wrong {
            Wrong::UnknownIssuer => is_wrong(&format!(
                "comes from an authority that is not in {flags}-ca: it is another {other}, or another authority"
            )),
            Wrong::Expired => is_wrong("has expired"),
            Wrong::ExpiredContext { not_after, .. } => is_wrong(&format!("has expired{}", at(not_after))),
            Wrong::NotValidYet => is_wrong("is not valid yet; is the clock of this machine right?"),
            Wrong::NotValidYetContext { not_before, .. } => {
                is_wrong(&format!("is not valid yet{}; is the clock of this machine right?", at(not_before)))
            }
            Wrong::NotValidForName => is_wrong(&format!("is not for the name {name}")),
            Wrong::NotValidForNameContext { presented, .. } => {
                is_wrong(&format!("is not for the name {name}, but for {}", presented.join(", ")))
            }
            Wrong::InvalidPurpose | Wrong::InvalidPurposeContext { .. } => {
                format!("what the {other} shows is no certificate of a server")
            }
            wrong => is_wrong(&format!("is wrong: {wrong}")),
        },
        Error::AlertReceived(alert) => match alert {
            Alert::CertificateRequired => {
                format!("the {other} wants a certificate of this {this}, which shows none ({flags}-cert, {flags}-key)")
            }
            Alert::CertificateExpired => refuses(": it has expired, or is not valid yet"),
            Alert::CertificateRevoked => refuses(": it was revoked"),
            Alert::UnknownCA => refuses(&format!(": it comes from an authority that the {other} does not know")),
            Alert::AccessDenied => refuses(": it does not name one identity (docs/security.md)"),
            Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown => {
                refuses("; its log says why")
            }
            Alert::UserCanceled | Alert::CloseNotify => format!("the {other} ended the connection"),
            alert => format!("the {other} refuses TLS: {alert:?}"),
        },
        Error::InvalidMessage(_) => format!("the {other} does not speak TLS on this port"),
        error => format!("TLS failed: {error}"),
    }
}

/// What is wrong with who connects, as the other side tells it.
#[cfg(feature = "door")]
pub(super) fn of_arrival(error: &io::Error) -> String {
    use AlertDescription as Alert;
    use CertificateError as Wrong;
    let why = match tls(error) {
        Some(Error::NoCertificatesPresented) => "it shows no certificate, and --tls-client-ca asks for one",
        Some(Error::InvalidCertificate(Wrong::UnknownIssuer)) => {
            "its certificate comes from an authority that is not in --tls-client-ca"
        }
        Some(Error::AlertReceived(Alert::UnknownCA)) => "it does not know the authority that --tls-cert comes from",
        Some(Error::AlertReceived(Alert::BadCertificate)) => {
            "it refuses --tls-cert: perhaps that is not for the name by which it connects"
        }
        _ => return error.to_string(),
    };
    why.to_owned()
}
