//! How one gets a certificate who was invited, and another one before that is over: a message each way, over TLS with a protocol of its own.
//!
//! The invitation carries the authority, so that nothing is believed before it is proven.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protobuf::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{Called, FileError, JOIN, LONGEST, Tls, host, provider, trouble};
use crate::private_file;
use crate::wire::contact as pb;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An invitation, as `contactctl invite` prints it.
#[derive(Clone)]
pub struct Invitation {
    /// Where the server is.
    pub server: String,
    ca: CertificateDer<'static>,
    secret: String,
}

/// Why one did not get a certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// It is not whole.
    #[error("this is no invitation: it is HOST:PORT.CA.SECRET, as contactctl invite prints it, on one line")]
    Invitation,
    /// A file is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no connection.
    #[error("{server}: {why}")]
    Connection {
        /// The server's address.
        server: String,
        /// What is wrong.
        why: String,
    },
    /// The server gives none.
    #[error("{0}")]
    Refused(String),
    /// No key could be made.
    #[error("no key can be made: {0}")]
    Key(String),
}

/// A certificate, with all that belongs to it, in PEM.
pub struct Joined {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The authority's own.
    pub ca: String,
    /// What it calls this client.
    pub name: String,
    /// The group it was invited to.
    pub group: Option<String>,
    /// By which invitation it came ([`Invitation::mark`]); `None` of a renewal.
    pub invitation: Option<String>,
}

impl Invitation {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Invitation, JoinError> {
        let mut parts = text.trim().rsplitn(3, '.');
        let (secret, ca, server) = (parts.next(), parts.next(), parts.next());
        let (Some(secret), Some(ca), Some(server)) = (secret, ca, server) else { return Err(JoinError::Invitation) };
        let ca = super::from_base64url(ca).filter(|der| super::validity(der).is_some()).ok_or(JoinError::Invitation)?;
        if crate::target::check(server).is_err() || secret.is_empty() {
            return Err(JoinError::Invitation);
        }
        Ok(Invitation { server: server.to_owned(), ca: ca.into(), secret: secret.to_owned() })
    }

    /// Makes a key, and gets a certificate for it. `name`: what this client would be called.
    pub fn join(&self, name: &str) -> Result<Joined, JoinError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).map_err(|_| JoinError::Invitation)?;
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| JoinError::Key(e.to_string()))?;
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        let joined = ask(config, &self.server, &self.secret, name)?;
        Ok(Joined { invitation: Some(self.mark()), ..joined })
    }

    /// What tells it apart from others, and does not give its secret away.
    pub fn mark(&self) -> String {
        super::base64url(ring::digest::digest(&ring::digest::SHA256, self.secret.as_bytes()).as_ref())
    }
}

/// Makes a new key, and gets a certificate for it by the one there is.
pub fn renew(server: &str, tls: &Tls) -> Result<Joined, JoinError> {
    ask(tls.config()?, server, "", "")
}

fn ask(mut config: ClientConfig, server: &str, secret: &str, name: &str) -> Result<Joined, JoinError> {
    config.alpn_protocols = vec![JOIN.to_vec()];
    let key = |e: rcgen::Error| JoinError::Key(e.to_string());
    let pair = rcgen::KeyPair::generate().map_err(key)?;
    let params = rcgen::CertificateParams::new(Vec::new()).map_err(key)?;
    let csr = params.serialize_request(&pair).and_then(|csr| csr.pem()).map_err(key)?;
    let request =
        pb::JoinRequest { secret: secret.to_owned(), name: name.to_owned(), csr, ..pb::JoinRequest::default() };
    let host = host(server);
    let failed = |why: String| JoinError::Connection { server: server.to_owned(), why };
    let exchange = || -> io::Result<pb::JoinResponse> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let mut socket = Err(io::ErrorKind::NotFound.into());
        for address in server.to_socket_addrs()? {
            socket = TcpStream::connect_timeout(&address, PATIENCE);
            if socket.is_ok() {
                break;
            }
        }
        let socket = socket?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let session = ClientConnection::new(Arc::new(config.clone()), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, socket);
        let bytes = request.write_to_bytes().map_err(io::Error::other)?;
        stream.write_all(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes())?;
        stream.write_all(&bytes)?;
        stream.flush()?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; (u32::from_be_bytes(length) as usize).min(LONGEST)];
        stream.read_exact(&mut answer)?;
        pb::JoinResponse::parse_from_bytes(&answer).map_err(io::Error::other)
    };
    let answer = exchange().map_err(|e| failed(trouble::in_words(&e, host, Called::CLIENT)))?;
    if !answer.refused.is_empty() {
        return Err(JoinError::Refused(answer.refused));
    }
    Ok(Joined {
        certificate: answer.certificate,
        key: pair.serialize_pem(),
        ca: answer.ca,
        name: answer.name,
        group: Some(answer.group).filter(|group| !group.is_empty()),
        invitation: None,
    })
}

/// What a client that has joined keeps in a folder of its own, for its user alone.
pub struct State<'a>(pub &'a Path);

impl State<'_> {
    /// Has the folder to itself for as long as the file is open: two clients with one certificate have one id, and each ends the streams of
    /// the other. Makes the folder if it is not there. `ResourceBusy`: another client has it.
    pub fn lock(&self) -> io::Result<File> {
        self.make()?;
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(self.0.join("lock"))?;
        file.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => io::ErrorKind::ResourceBusy.into(),
            TryLockError::Error(error) => error,
        })?;
        // An earlier version had the key in a file of its own.
        let (key, identity) = (self.0.join("client.key"), self.0.join("client.pem"));
        if let Ok(secret) = std::fs::read_to_string(&key) {
            let certificate = std::fs::read_to_string(&identity)?;
            if PrivateKeyDer::from_pem_slice(certificate.as_bytes()).is_err() {
                private_file::write(&identity, certificate + &secret)?;
            }
            std::fs::remove_file(&key)?;
        }
        Ok(file)
    }

    fn make(&self) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(self.0)
    }

    /// The files for TLS. Certificate and key are one file, so that a renewal changes both or none.
    pub fn tls(&self) -> Tls {
        let at = |name: &str| self.0.join(name);
        Tls { ca: at("ca.pem"), identity: Some((at("client.pem"), at("client.pem"))) }
    }

    /// Whether there is a certificate, and whom it names: name, group, server.
    pub fn read(&self) -> Option<(String, Option<String>, String)> {
        let text = std::fs::read_to_string(self.0.join("joined")).ok()?;
        let mut lines = text.lines();
        let (name, group, server) = (lines.next()?, lines.next()?, lines.next()?);
        Some((name.to_owned(), Some(group.to_owned()).filter(|group| !group.is_empty()), server.to_owned()))
    }

    /// Whether what is here came by this invitation. What was kept by an earlier version does not say, and is taken for it.
    pub fn is_by(&self, invitation: &Invitation) -> bool {
        self.invitation().is_none_or(|mark| mark == invitation.mark())
    }

    fn invitation(&self) -> Option<String> {
        std::fs::read_to_string(self.0.join("joined")).ok()?.lines().nth(3).map(str::to_owned)
    }

    /// Keeps what came of joining or renewing.
    pub fn keep(&self, joined: &Joined, server: &str) -> io::Result<()> {
        self.make()?;
        let group = joined.group.as_deref().unwrap_or_default();
        let mut joined_as = format!("{}\n{group}\n{server}\n", joined.name);
        if let Some(mark) = joined.invitation.clone().or_else(|| self.invitation()) {
            joined_as += &format!("{mark}\n");
        }
        let at = |name: &str| self.0.join(name);
        if joined.invitation.is_some() {
            // It may be another server's, with another authority: nothing is joined until all of it is there.
            match std::fs::remove_file(at("joined")) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        let identity = format!("{}{}", joined.certificate, joined.key);
        for (name, text) in [("ca.pem", &joined.ca), ("client.pem", &identity), ("joined", &joined_as)] {
            private_file::write(&at(name), text)?;
        }
        Ok(())
    }

    /// Whether two thirds of the certificate's time are over.
    pub fn is_due(&self) -> bool {
        let now = std::time::SystemTime::now();
        let pem = std::fs::read(self.0.join("client.pem")).unwrap_or_default();
        let Ok(der) = CertificateDer::from_pem_slice(&pem) else { return true };
        super::validity(&der).is_none_or(|(from, until)| {
            let whole = until.duration_since(from).unwrap_or_default();
            now + whole / 3 >= until
        })
    }
}
