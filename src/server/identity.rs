//! Who a connection is: the one place where a certificate becomes an identity.
//!
//! It has one URI, `contact://FLEET/ROLE/NAME`: that of an agent `contact://FLEET/agent/NAME`. What the fleet is called says nothing
//! here: which authority issued it does.

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::{debug, warn};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use protobuf::Message as _;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use tokio::sync::Notify;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::authority::Authority;
use super::grants::{Grants, Known};
use super::limits::Held;
use super::refusal::Refusal;
use super::roles::Role;
use crate::front::{self, Inside, Numbered};
use crate::log_limit::LogLimit;
use crate::task::{Name, NameOf};
use crate::wire::contact as pb;

/// What stands as it is in the URI of an identity. All else is percent-encoded there, in one way only.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// A certificate may end while its connection lasts. A clock that is set right is noticed within this time.
const LOOK: Duration = Duration::from_secs(60);

/// Whose certificate it is, or whose token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) role: Role,
    pub(super) name: Name,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl Identity {
    /// As a certificate of our own authority has it.
    pub(super) fn uri(&self) -> String {
        format!("contact://fleet/{}/{}", self.role.as_str(), utf8_percent_encode(self.name.as_str(), ENCODED))
    }

    /// The identity of a certificate, or what is wrong with it.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Identity, String> {
        let (_, parsed) = parse_x509_certificate(certificate).map_err(|e| format!("it makes no sense: {e}"))?;
        let names = parsed.subject_alternative_name().map_err(|e| format!("its names make no sense: {e}"))?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let uris: Vec<&str> = names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        match uris.as_slice() {
            [uri] => Identity::from_uri(uri)
                .ok_or_else(|| format!("its URI {uri:?} is none of an identity, such as contact://fleet/agent/NAME")),
            _ => Err(format!("it has {} URIs, and must have one", uris.len())),
        }
    }

    pub(super) fn from_uri(uri: &str) -> Option<Identity> {
        let (fleet, path) = uri.strip_prefix("contact://")?.split_once('/')?;
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']');
        if !fleet.chars().all(is_host) {
            return None;
        }
        let (role, encoded) = path.split_once('/')?;
        let name = percent_decode_str(encoded).decode_utf8().ok()?;
        // One way to write each name, so that nothing has to be compared twice.
        if utf8_percent_encode(&name, ENCODED).to_string() != encoded {
            return None;
        }
        let name = Name::new(NameOf::ClientOrGroup, &name).ok()?;
        Some(Identity { role: Role::named(role)?, name })
    }

    /// Whether it may call itself so: by its name, or by one below it, as `web-1/worker-3` is below `web-1`.
    pub(super) fn covers(&self, client: &str) -> bool {
        client.strip_prefix(self.name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Looks at a client's certificate once more when it is known to be genuine: a client is told of what is wrong while TLS begins.
#[derive(Debug)]
pub(super) struct Verifier {
    genuine: Arc<dyn ClientCertVerifier>,
    /// Who issued it, if that is this server: it knows what was revoked.
    authority: Option<Authority>,
}

impl Verifier {
    pub(super) fn over(
        genuine: Arc<dyn ClientCertVerifier>,
        authority: Option<Authority>,
    ) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Verifier { genuine, authority })
    }
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.genuine.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.genuine.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.genuine.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.genuine.verify_client_cert(certificate, intermediates, now)?;
        match (Identity::of(certificate), &self.authority) {
            (Err(why), _) => {
                static LIMIT: LogLimit = LogLimit::new();
                if let Some(left_out) = LIMIT.take(Instant::now()) {
                    warn!("a client's certificate is refused: {why}{left_out}");
                }
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            (Ok(identity), Some(authority)) if authority.lets_in(&identity).is_none() => {
                debug!("{identity} shows a certificate that was revoked");
                Err(CertificateError::Revoked.into())
            }
            (Ok(_), _) => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.genuine.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.genuine.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.genuine.supported_verify_schemes()
    }
}

/// A connection that came through the front.
pub(super) struct Connection {
    /// Where it comes from, as C-core names it of a connection that it took itself.
    pub(super) peer: Arc<str>,
    /// `None`: it showed no certificate, as none was asked for.
    pub(super) known: Option<Arc<Known>>,
    /// Until when its certificate is valid.
    until: Option<SystemTime>,
    /// It counts for its identity.
    _held: Option<Held>,
    end: Notify,
}

/// The connections that came through fronts, by the number of the file that C-core has of each; and those over HTTP that showed a
/// certificate, by the number of theirs. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Connections(Numbered<Connection>);

/// Where a call, or a request over HTTP, comes from.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) peer: Arc<str>,
    /// Who showed a certificate.
    pub(super) known: Option<Arc<Known>>,
}

impl Origin {
    /// There, and no certificate says more.
    pub(super) fn unnamed(peer: impl Into<Arc<str>>) -> Origin {
        Origin { peer: peer.into(), known: None }
    }
}

impl Connections {
    /// Where a call comes from. `peer`: as C-core names it, `fd:` and a number if the front gave it the connection.
    pub(super) fn origin(&self, peer: String) -> Result<Origin, Refusal> {
        let Some(number) = front::number_of(&peer) else {
            return Ok(Origin::unnamed(peer));
        };
        match self.0.get(number) {
            Some(connection) => Ok(Origin { peer: connection.peer.clone(), known: connection.known.clone() }),
            // It ended before its call was looked at: nobody reads the answer.
            None => Err(Refusal::stopping(1)),
        }
    }
}

impl Connections {
    /// Lets in one that shows this certificate, or none. `None`: it is no good, or not any more, or its identity has as many connections as
    /// it may.
    pub(super) fn admit(
        &self,
        peer: SocketAddr,
        certificate: Option<&CertificateDer<'_>>,
        grants: &Grants,
    ) -> Option<Guest> {
        let peer: Arc<str> = front::as_peer(peer).into();
        let (mut known, mut until, mut held) = (None, None, None);
        if let Some(certificate) = certificate {
            // It may have been revoked since TLS began.
            let of = grants.known(Identity::of(certificate).ok()?)?;
            debug!("{} connects from {peer}", of.identity);
            held = Some(of.account.connect(&peer)?);
            until = front::validity(certificate).map(|(_, until)| until);
            known = Some(Arc::new(of));
        }
        let connection = Arc::new(Connection { peer, known, until, _held: held, end: Notify::new() });
        Some(Guest { connection, number: None, connections: self.clone() })
    }

    /// Ends those of who has this name. Says how many there were.
    pub(super) fn end(&self, name: &str) -> usize {
        let connections = self.0.lock();
        let is_its = |known: &Arc<Known>| known.identity.name.as_str() == name;
        let of = connections.values().filter(|connection| connection.known.as_ref().is_some_and(is_its));
        of.map(|connection| connection.end.notify_one()).count()
    }
}

/// A port that is served by C-core, as the front sees it.
pub(super) struct Served {
    pub(super) server: Arc<Mutex<grpcio::Server>>,
    pub(super) connections: Connections,
    /// Whether all must show a certificate.
    pub(super) asks: bool,
    /// Whether that must be of one who has something to do there: not of an agent.
    pub(super) operators_only: bool,
    /// Whether those of this machine need none.
    pub(super) open_here: bool,
    pub(super) authority: Option<Authority>,
    pub(super) grants: Grants,
}

/// A connection, and where it stands.
pub(super) struct Guest {
    connection: Arc<Connection>,
    /// Known once it is served.
    number: Option<i32>,
    connections: Connections,
}

impl Inside for Served {
    type Guest = Guest;

    fn admit(&self, peer: SocketAddr, certificates: &[CertificateDer<'static>]) -> Option<Guest> {
        let is_free = self.open_here && peer.ip().to_canonical().is_loopback();
        let guest = self.connections.admit(peer, certificates.first(), &self.grants)?;
        match &guest.connection.known {
            Some(known) if self.operators_only && known.identity.role == Role::Agent && !is_free => {
                static LIMIT: LogLimit = LogLimit::new();
                if let Some(left_out) = LIMIT.take(Instant::now()) {
                    let shown = &known.identity;
                    warn!("{shown} at {peer} may not use this port: its certificate is not for that{left_out}");
                }
                None
            }
            None if self.asks && !is_free => None,
            _ => Some(guest),
        }
    }

    fn join(&self, peer: SocketAddr, certificates: &[CertificateDer<'static>], request: &[u8]) -> Option<Vec<u8>> {
        let authority = self.authority.as_ref()?;
        let issued = match (pb::JoinRequest::parse_from_bytes(request), certificates.first()) {
            (Err(e), _) => Err(Refusal::Authority(format!("the message makes no sense: {e}"))),
            (Ok(request), None) => authority.join(&request.secret, &request.name, &request.csr),
            (Ok(request), Some(certificate)) => match Identity::of(certificate) {
                Ok(identity) => authority.renew(&identity, &request.csr),
                Err(why) => Err(Refusal::Authority(why)),
            },
        };
        let answer = match issued {
            Ok(issued) => pb::JoinResponse {
                certificate: issued.certificate,
                ca: issued.ca,
                name: issued.name,
                group: issued.group.unwrap_or_default(),
                ..pb::JoinResponse::default()
            },
            Err(refusal) => {
                static LIMIT: LogLimit = LogLimit::new();
                if let Some(left_out) = LIMIT.take(Instant::now()) {
                    warn!("{peer} was given no certificate: {refusal}{left_out}");
                }
                pb::JoinResponse { refused: refusal.to_string(), ..pb::JoinResponse::default() }
            }
        };
        answer.write_to_bytes().ok()
    }

    fn serve(&self, guest: &mut Guest, socket: UnixStream) {
        guest.has_file(front::peer_of(&socket));
        front::hand_over(&mut self.server.lock().unwrap_or_else(PoisonError::into_inner), socket);
    }

    fn over(guest: &Guest) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(guest.over())
    }
}

impl Guest {
    /// Its connection has the file of this number, until the guest is dropped.
    pub(super) fn has_file(&mut self, number: i32) {
        self.number = Some(number);
        self.connections.0.set(number, self.connection.clone());
    }

    /// Whose it is, by its certificate.
    pub(super) fn origin(&self) -> Origin {
        let Connection { peer, known, .. } = &*self.connection;
        Origin { peer: peer.clone(), known: known.clone() }
    }

    /// Resolves when the connection is to be ended: the certificate is over, or was revoked.
    pub(super) async fn over(&self) {
        let ended = self.connection.end.notified();
        let Some(until) = self.connection.until else { return ended.await };
        let expiry = async {
            while let Ok(left) = until.duration_since(SystemTime::now()) {
                tokio::time::sleep(left.min(LOOK)).await;
            }
        };
        futures::future::select(std::pin::pin!(ended), std::pin::pin!(expiry)).await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.connections.0.forget(number, &self.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_identity_is_written_in_one_way() {
        let identity = |uri: &str| Identity::from_uri(uri).map(|it| (it.role, it.name.as_str().to_owned()));
        assert_eq!(identity("contact://fleet/agent/web-1"), Some((Role::Agent, "web-1".into())));
        assert_eq!(identity("contact:///operator/ann"), Some((Role::Operator, "ann".into())));
        assert_eq!(identity("contact://a.example:50051/agent/web/1"), Some((Role::Agent, "web/1".into())));
        assert_eq!(identity("contact://f/agent/%E5%B7%A5"), Some((Role::Agent, "工".into())));
        for wrong in [
            "",
            "contact://fleet/agent/",
            "contact://fleet/agent",
            "contact://fleet/root/web-1",
            "contact://fleet/Agent/web-1",
            "Contact://fleet/agent/web-1",
            "https://fleet/agent/web-1",
            "contact://fl\0eet/agent/web-1",
            "contact://fleet/agent/web\0",
            "contact://fleet/agent/web%00",
            "contact://fleet/agent/%77eb",
            "contact://fleet/agent/%e5%b7%a5",
            "contact://fleet/agent/%FF",
            "contact://fleet/agent/%",
            "contact://fleet/agent/%0A",
            "contact://fleet/agent/a?b",
            "contact://fleet/agent/%E2%80%8B",
        ] {
            assert_eq!(identity(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn an_identity_covers_its_name_and_those_below_it() {
        let identity = Identity::from_uri("contact://f/agent/web-1").unwrap();
        for (client, is_covered) in
            [("web-1", true), ("web-1/3", true), ("web-10", false), ("web", false), ("x/web-1", false)]
        {
            assert_eq!(identity.covers(client), is_covered, "{client}");
        }
    }

    #[test]
    fn any_bytes_are_the_uri_of_one_identity_or_of_none() {
        const URIS: &[&str] =
            &["contact://fleet/agent/web-1", "contact:///operator/%E5%B7%A5", "contact://[::1]:5/agent/a/b"];
        crate::fuzz::any_text(URIS, 4096, |uri| {
            if let Some(identity) = Identity::from_uri(uri) {
                let name = identity.name.as_str();
                assert!(identity.covers(name) && uri.is_ascii() && !uri.contains(char::is_control));
                assert_eq!(uri.rsplit_once(utf8_percent_encode(name, ENCODED).to_string().as_str()).unwrap().1, "");
            }
        });
    }
}
