//! The server's certificate, from its files; and who issues it, if that is this server.

use super::authority::Authority;
use super::identity::Verifier;
use crate::front::{Certificate, CurrentTls, FileError, ServerTls, WatchedTls};

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Tls {
    files: WatchedTls,
    authority: Option<Authority>,
}

impl Tls {
    /// Reads the files.
    pub(super) fn read(files: ServerTls, authority: Option<Authority>) -> Result<Tls, FileError> {
        let issuer = authority.clone();
        let files = WatchedTls::read(files, move |genuine| Verifier::over(genuine, issuer.clone()))?;
        Ok(Tls { files, authority })
    }

    /// What connections are accepted with, whenever that is asked for.
    pub(super) fn current(&self) -> CurrentTls {
        self.files.current()
    }

    /// Who issues certificates, if that is this server.
    pub(super) fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// Whether clients must show certificates.
    pub(super) fn asks_for_certificates(&self) -> bool {
        self.files.asks_for_certificates()
    }

    /// The certificate that is used.
    pub(super) fn certificate(&self) -> Certificate {
        self.files.certificate()
    }

    /// Renews the certificate if it is due and this server issues it, and reads the files anew, as [`WatchedTls::look`] does.
    pub(super) fn look(&self, at_once: bool) {
        if let Some(authority) = &self.authority {
            authority.look_after(self.certificate().left);
        }
        self.files.look(at_once);
    }
}
