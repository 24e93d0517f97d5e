//! Certificates and keys, from files in PEM.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use x509_parser::parse_x509_certificate;

use super::{HTTP_2, provider};

/// What `--tls-ca` is for the authorities that this machine trusts.
const SYSTEM: &str = "system";

/// How a client speaks TLS with its server. The files are read for each connection, so that new ones count from the next on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificates of the authorities that the server's may come from, in PEM. `system`: those that this machine trusts.
    pub ca: PathBuf,
    /// The client's own certificate, and those between it and its authority, in PEM; and its key. `None`: it shows none.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What is wrong with a file of TLS.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct FileError {
    path: PathBuf,
    why: String,
}

impl FileError {
    pub(crate) fn of(path: &Path) -> impl Fn(String) -> FileError {
        move |why| FileError { path: path.into(), why }
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|e| FileError::of(path)(format!("it cannot be read: {e}")))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let wrong = FileError::of(path);
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| wrong(format!("it is not in PEM: {e}")))?;
    for certificate in &all {
        parse_x509_certificate(certificate).map_err(|e| wrong(format!("a certificate in it makes no sense: {e}")))?;
    }
    if all.is_empty() {
        return Err(wrong("there is no certificate in it, which begins with -----BEGIN CERTIFICATE-----".into()));
    }
    Ok(all)
}

pub(crate) fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots.add(certificate).map_err(|e| FileError::of(path)(format!("a certificate in it is of no use: {e}")))?;
    }
    Ok(roots)
}

/// From when and until when a certificate is valid.
pub(crate) fn validity(certificate: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let time = |seconds: i64| UNIX_EPOCH.checked_add(Duration::from_secs(seconds.try_into().ok()?));
    Some((time(parsed.validity().not_before.timestamp())?, time(parsed.validity().not_after.timestamp())?))
}

/// A certificate with its key, which belong together and are valid now.
fn identity(
    provider: &CryptoProvider,
    (cert, cert_pem): (&Path, &[u8]),
    (key, key_pem): (&Path, &[u8]),
) -> Result<Arc<CertifiedKey>, FileError> {
    let chain = certificates(cert, cert_pem)?;
    let wrong = FileError::of(key);
    if key_pem.windows(9).any(|it| it == b"ENCRYPTED") {
        return Err(wrong("the key is encrypted; `openssl pkey` writes it without a password".into()));
    }
    let secret = PrivateKeyDer::from_pem_slice(key_pem);
    let secret = secret.map_err(|_| wrong("there is no private key in it, in PEM".into()))?;
    let secret = provider.key_provider.load_private_key(secret);
    let secret = secret.map_err(|e| wrong(format!("the key in it is of no use: {e}")))?;
    let pair = CertifiedKey::new(chain, secret);
    if let Err(rustls::Error::InconsistentKeys(_)) = pair.keys_match() {
        return Err(wrong(format!("it is not the key of the certificate in {}", cert.display())));
    }
    let now = SystemTime::now();
    match pair.cert.first().and_then(|certificate| validity(certificate)) {
        Some((_, until)) if until < now => {
            let when = humantime::format_rfc3339_seconds(until);
            Err(FileError::of(cert)(format!("the certificate expired at {when}; get a new one")))
        }
        Some((from, _)) if from > now => {
            let when = humantime::format_rfc3339_seconds(from);
            Err(FileError::of(cert)(format!(
                "the certificate is not valid before {when}; is the clock of this machine right?"
            )))
        }
        _ => Ok(Arc::new(pair)),
    }
}

impl Tls {
    /// As the three flags say it. An error says what is missing.
    pub fn of(ca: Option<PathBuf>, cert: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<Tls>, String> {
        match (ca, cert, key) {
            (None, None, None) => Ok(None),
            (Some(ca), None, None) => Ok(Some(Tls { ca, identity: None })),
            (Some(ca), Some(cert), Some(key)) => Ok(Some(Tls { ca, identity: Some((cert, key)) })),
            (None, _, _) => Err("who the server may be is not said: --tls-ca FILE, or --tls-ca system".into()),
            (Some(_), _, _) => Err("a certificate and its key go together: give both --tls-cert and --tls-key".into()),
        }
    }

    /// What connections are made with, if all files are good.
    pub(crate) fn config(&self) -> Result<ClientConfig, FileError> {
        let provider = provider();
        let roots = match self.ca.to_str() {
            Some(SYSTEM) => {
                let mut roots = RootCertStore::empty();
                // Some of what lies there is of no use to anyone.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(FileError::of(&self.ca)(
                        "this machine trusts no authority; is ca-certificates installed?".into(),
                    ));
                }
                roots
            }
            _ => roots(&self.ca, &read(&self.ca)?)?,
        };
        let shown = match &self.identity {
            Some((cert, key)) => Some(identity(&provider, (cert, &read(cert)?), (key, &read(key)?))?),
            None => None,
        };
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| FileError::of(&self.ca)(e.to_string()))?.with_root_certificates(roots);
        let mut config = match shown {
            Some(pair) => builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP_2.to_vec()];
        // The server resumes nothing, so that what it revoked stays so.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

#[cfg(feature = "door")]
pub(super) use self::server::Material;
#[cfg(feature = "door")]
pub use self::server::ServerTls;

#[cfg(feature = "door")]
mod server {
    use rustls::ServerConfig;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::server::danger::ClientCertVerifier;
    use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

    use super::super::greeting::Configs;
    use super::super::{HTTP_1, JOIN};
    use super::*;

    /// How a server, or a worker that is dialled, speaks TLS with those who connect.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ServerTls {
        /// Its certificate, and those between it and its authority, in PEM.
        pub cert: PathBuf,
        /// The key of it.
        pub key: PathBuf,
        /// The authorities that the certificates of those who connect must come from. `None`: they show none.
        pub client_ca: Option<PathBuf>,
    }

    /// What the files hold.
    #[derive(PartialEq, Eq)]
    pub(in super::super) struct Material {
        cert: Vec<u8>,
        key: Vec<u8>,
        client_ca: Option<Vec<u8>>,
    }

    impl ServerTls {
        /// As the three flags say it. An error says what is missing.
        pub fn of(
            cert: Option<PathBuf>,
            key: Option<PathBuf>,
            client_ca: Option<PathBuf>,
        ) -> Result<Option<ServerTls>, String> {
            match (cert, key) {
                (Some(cert), Some(key)) => Ok(Some(ServerTls { cert, key, client_ca })),
                (None, None) if client_ca.is_none() => Ok(None),
                _ => Err("TLS needs a certificate and its key: give both --tls-cert and --tls-key".into()),
            }
        }

        pub(in super::super) fn read(&self) -> Result<Material, FileError> {
            let client_ca = self.client_ca.as_deref().map(read).transpose()?;
            Ok(Material { cert: read(&self.cert)?, key: read(&self.key)?, client_ca })
        }

        /// What connections are accepted with, and until when the certificate is valid. `check`: what else a client's
        /// certificate must pass.
        pub(in super::super) fn config(
            &self,
            material: &Material,
            check: impl Fn(Arc<dyn ClientCertVerifier>) -> Arc<dyn ClientCertVerifier>,
        ) -> Result<(Configs, SystemTime), FileError> {
            let provider = provider();
            let pair = identity(&provider, (&self.cert, &material.cert), (&self.key, &material.key))?;
            let until = pair.cert.first().and_then(|certificate| validity(certificate));
            let until = until.map_or(SystemTime::UNIX_EPOCH, |(_, until)| until);
            let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(pair));
            let config = |speaks: &[u8]| {
                let versions =
                    ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
                let builder = versions.map_err(|e| FileError::of(&self.cert)(e.to_string()))?;
                let builder = match (&self.client_ca, &material.client_ca) {
                    (Some(path), Some(pem)) => {
                        let roots = Arc::new(roots(path, pem)?);
                        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
                        let must_show = speaks == HTTP_2;
                        let verifier = if must_show { verifier } else { verifier.allow_unauthenticated() }.build();
                        let verifier = verifier.map_err(|e| FileError::of(path)(e.to_string()))?;
                        builder.with_client_cert_verifier(check(verifier))
                    }
                    _ => builder.with_no_client_auth(),
                };
                let mut config = builder.with_cert_resolver(resolver.clone());
                config.alpn_protocols = vec![speaks.to_vec()];
                // Each connection shows its certificate anew: it may have been revoked, or expired.
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
                Ok(Arc::new(config))
            };
            let configs = Configs { calls: config(HTTP_2)?, joining: config(JOIN)?, pages: config(HTTP_1)? };
            Ok((configs, until))
        }

        /// Until when clients that know the authority alone believe the files to be those of a server with all these names. `None`: they
        /// do not, now.
        pub(crate) fn believed_until(&self, names: &[String]) -> Option<SystemTime> {
            let (material, ca) = (self.read().ok()?, self.client_ca.as_ref()?);
            let (_, until) = self.config(&material, |genuine| genuine).ok()?;
            let roots = Arc::new(roots(ca, material.client_ca.as_deref()?).ok()?);
            let client = WebPkiServerVerifier::builder_with_provider(roots, provider()).build().ok()?;
            let chain = certificates(&self.cert, &material.cert).ok()?;
            let (own, between) = chain.split_first()?;
            let believes = |name: &String| {
                let name = ServerName::try_from(name.as_str()).ok()?;
                client.verify_server_cert(own, between, &name, &[], UnixTime::now()).ok()
            };
            names.iter().all(|name| believes(name).is_some()).then_some(until)
        }
    }
}
