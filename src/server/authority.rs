//! The server's own authority: it issues the server's certificate and those of clients, remembers whose they are, and takes them back.
//!
//! In `DATA/tls/`, for the server's user alone: `ca.pem` and `ca.key`, made once; `server.pem` and `server.key`, made anew at each start
//! and before they are over; `identities.json`, who has a certificate and which invitations are open.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use log::{info, warn};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use serde::{Deserialize, Serialize};

use super::grants::{Change, Grant};
use super::identity::Identity;
use super::refusal::Refusal;
use super::roles::Role;
use crate::front::{self, Secret, ServerTls, base64url};
use crate::private_file;
use crate::task::{Name, NameOf, Time};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// What those are given who join, and renew by themselves.
const JOINED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Clocks of machines differ by less.
const BEFORE: Duration = Duration::from_secs(3600);
/// The server's own is valid so long, and replaced when less than a third is left.
const SERVER: Duration = Duration::from_secs(90 * 24 * 3600);
const AUTHORITY: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Most identities, and most invitations that are open: each is some hundred bytes of the file that is written with each change.
const MOST: usize = 10_000;
const MOST_INVITES: usize = 100;
/// The longest that a certificate or an invitation may last.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// One that was given a certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Enrolled {
    pub(super) name: String,
    pub(super) role: Role,
    #[serde(flatten)]
    pub(super) grant: Grant,
    /// When it was given the last one, and until when that is valid; milliseconds since 1970.
    pub(super) issued_at: i64,
    pub(super) until: i64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) revoked: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Invite {
    /// SHA-256 of the secret, in base64.
    secret: String,
    /// What is granted to who joins.
    #[serde(flatten)]
    grant: Grant,
    until: i64,
    uses: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Book {
    identities: Vec<Enrolled>,
    invites: Vec<Invite>,
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Authority(Arc<Shared>);

struct Shared {
    folder: PathBuf,
    /// Where clients reach the server, `host:port`.
    public: String,
    ca: String,
    issuer: Issuer<'static, KeyPair>,
    book: Mutex<Book>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("public", &self.0.public).finish_non_exhaustive()
    }
}

/// A certificate, for who asked for it.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) ca: String,
    pub(super) name: String,
    pub(super) group: Option<String>,
}

fn other(error: impl ToString) -> io::Error {
    io::Error::other(error.to_string())
}

impl Authority {
    /// Makes it on first use. `public`: where clients reach the server.
    pub(super) fn open(data: &Path, public: &str) -> io::Result<Authority> {
        let folder = data.join("tls");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let (cert, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        if !cert.exists() {
            let mut params = CertificateParams::new(Vec::new()).map_err(other)?;
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.distinguished_name.push(DnType::CommonName, format!("Contact at {public}"));
            lasting(&mut params, AUTHORITY);
            let pair = KeyPair::generate().map_err(other)?;
            let made = params.self_signed(&pair).map_err(other)?;
            private_file::write(&key, pair.serialize_pem())?;
            private_file::write(&cert, made.pem())?;
            info!("an authority was made: {}", cert.display());
        }
        let ca = fs::read_to_string(&cert)?;
        let pair = KeyPair::from_pem(&fs::read_to_string(&key)?).map_err(other)?;
        let issuer = Issuer::from_ca_cert_pem(&ca, pair).map_err(other)?;
        let book = match fs::read(folder.join("identities.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(other)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Book::default(),
            Err(e) => return Err(e),
        };
        let authority = Shared { folder, public: public.to_owned(), ca, issuer, book: Mutex::new(book) };
        let authority = Authority(Arc::new(authority));
        authority.keep_server()?;
        Ok(authority)
    }

    /// The files by which the server speaks TLS.
    pub(super) fn files(&self) -> ServerTls {
        let at = |name: &str| self.0.folder.join(name);
        ServerTls { cert: at("server.pem"), key: at("server.key"), client_ca: Some(at("ca.pem")) }
    }

    /// Has the server a new certificate, unless the one that lies there is good for its names, and not over soon.
    fn keep_server(&self) -> io::Result<()> {
        let until = self.files().believed_until(&self.names());
        let left = until.and_then(|until| until.duration_since(SystemTime::now()).ok()).unwrap_or_default();
        if left < SERVER / 3 { self.renew_server(SERVER) } else { Ok(()) }
    }

    /// Has the server a new certificate if the one it has is over soon.
    pub(super) fn look_after(&self, left: Duration) {
        if left < SERVER / 3
            && let Err(e) = self.renew_server(SERVER)
        {
            warn!("the server's certificate is over soon, and there is no new one: {e}");
        }
    }

    /// By which clients call the server.
    fn names(&self) -> Vec<String> {
        let host = front::host(&self.0.public).to_owned();
        // By the last two those on this machine get there.
        let mut names = vec![host, "localhost".to_owned(), "127.0.0.1".to_owned()];
        names.dedup();
        names
    }

    fn renew_server(&self, lasts: Duration) -> io::Result<()> {
        let mut params = CertificateParams::new(self.names()).map_err(other)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        lasting(&mut params, lasts);
        let pair = KeyPair::generate().map_err(other)?;
        let made = params.signed_by(&pair, &self.0.issuer).map_err(other)?;
        private_file::write(&self.0.folder.join("server.key"), pair.serialize_pem())?;
        private_file::write(&self.0.folder.join("server.pem"), made.pem())
    }

    /// What one needs to join: `HOST:PORT.CA.SECRET`. Good for so many, for that long.
    pub(super) fn invite(&self, grant: Grant, lasts: Duration, uses: u32) -> Result<String, Refusal> {
        let secret = Secret::new();
        let now = Time::now();
        let mut book = self.lock();
        book.invites.retain(|invite| invite.until > now.0 && invite.uses > 0);
        if book.invites.len() >= MOST_INVITES {
            return Err(Refusal::Authority(format!(
                "{MOST_INVITES} invitations are open; more wait until some are used or over"
            )));
        }
        book.invites.push(Invite { secret: secret.hash(), grant, until: now.after(lasts.min(LONGEST)).0, uses });
        self.store(&book)?;
        let ca = pem::der_of(&self.0.ca).ok_or_else(|| Refusal::Authority("its certificate cannot be read".into()))?;
        Ok(format!("{}.{}.{}", self.0.public, base64url(&ca), secret.text()))
    }

    /// A certificate for one that was invited. `name`: as it would be called; another one gets another name, if that is taken.
    pub(super) fn join(&self, secret: &str, name: &str, csr: &str) -> Result<Issued, Refusal> {
        let wrong = || Refusal::Authority("this invitation is not known here, is over, or was used up".into());
        let hash = Secret::of(secret).hash();
        let key = public_key(csr)?;
        let now = Time::now();
        let mut book = self.lock();
        let at = book.invites.iter().position(|it| it.secret == hash && it.until > now.0 && it.uses > 0);
        let at = at.ok_or_else(wrong)?;
        let wished = Name::new(NameOf::ClientOrGroup, name)?.to_string();
        let mut name = wished.clone();
        while book.identities.iter().any(|it| it.name == name) {
            name = format!("{wished}-{:04x}", rand::random::<u16>());
        }
        let name = Name::new(NameOf::ClientOrGroup, &name)?;
        let grant = book.invites[at].grant.clone();
        let issued = self.issue(&mut book, Identity { role: Role::Agent, name }, grant, &key, JOINED)?;
        book.invites[at].uses -= 1;
        self.store(&book)?;
        info!("{} has joined", issued.name);
        Ok(issued)
    }

    /// Another certificate for one that shows a good one.
    pub(super) fn renew(&self, identity: &Identity, csr: &str) -> Result<Issued, Refusal> {
        let key = public_key(csr)?;
        let mut book = self.lock();
        let known = book.identities.iter().find(|it| it.is(identity) && !it.revoked);
        let grant = known.ok_or_else(|| Refusal::NoSuchIdentity(identity.to_string()))?.grant.clone();
        let issued = self.issue(&mut book, identity.clone(), grant, &key, JOINED)?;
        self.store(&book)?;
        Ok(issued)
    }

    /// A certificate that an operator asks for. `more`: what it is granted beside what it has.
    pub(super) fn issue_for(
        &self,
        role: Role,
        name: Name,
        csr: &str,
        lasts: Duration,
        more: &Change,
    ) -> Result<Issued, Refusal> {
        let key = public_key(csr)?;
        let mut book = self.lock();
        let identity = Identity { role, name };
        if book.identities.iter().any(|it| it.name == identity.name.as_str() && (it.revoked || it.role != role)) {
            return Err(Refusal::Authority(format!(
                "{identity} was revoked, or is of another kind: choose another name"
            )));
        }
        let before = book.identities.iter().find(|it| it.is(&identity)).map(|it| it.grant.clone());
        let grant = before.unwrap_or_default().with(more)?;
        let issued = self.issue(&mut book, identity, grant, &key, lasts.clamp(Duration::from_secs(60), LONGEST))?;
        self.store(&book)?;
        Ok(issued)
    }

    fn issue(
        &self,
        book: &mut Book,
        identity: Identity,
        grant: Grant,
        key: &impl PublicKeyData,
        lasts: Duration,
    ) -> Result<Issued, Refusal> {
        let failed = |e: rcgen::Error| Refusal::Authority(format!("no certificate can be made: {e}"));
        let now = Time::now();
        // What is over for a day counts no more; what was revoked does until then.
        book.identities.retain(|it| it.until + DAY.as_millis() as i64 > now.0);
        if book.identities.len() >= MOST && !book.identities.iter().any(|it| it.is(&identity)) {
            return Err(Refusal::Authority(format!("there are {MOST} identities: revoke some")));
        }
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.subject_alt_names = vec![SanType::URI(identity.uri().try_into().map_err(failed)?)];
        params.distinguished_name.push(DnType::CommonName, identity.to_string());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        lasting(&mut params, lasts);
        let made = params.signed_by(key, &self.0.issuer).map_err(failed)?;
        let (name, group) = (identity.to_string(), grant.groups.first().cloned());
        // An earlier certificate of the same name may last longer. It is known for as long, so that it stays revoked if it is.
        let before = book.identities.iter().find(|it| it.is(&identity)).map_or(0, |it| it.until);
        book.identities.retain(|it| !it.is(&identity));
        book.identities.push(Enrolled {
            name: name.clone(),
            role: identity.role,
            grant,
            issued_at: now.0,
            until: now.after(lasts).0.max(before),
            revoked: false,
        });
        Ok(Issued { certificate: made.pem(), ca: self.0.ca.clone(), name, group })
    }

    /// All, by name.
    pub(super) fn identities(&self) -> Vec<Enrolled> {
        let mut all = self.lock().identities.clone();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Lets it in no more. Whose connections there are is for the caller to end.
    pub(super) fn revoke(&self, name: &str) -> Result<Identity, Refusal> {
        let mut book = self.lock();
        let unknown = || Refusal::NoSuchIdentity(name.to_owned());
        let one = book.identities.iter_mut().find(|it| it.name == name).ok_or_else(unknown)?;
        one.revoked = true;
        let identity = Identity { role: one.role, name: Name::new(NameOf::ClientOrGroup, name)? };
        self.store(&book)?;
        info!("{identity} is revoked");
        Ok(identity)
    }

    /// Whether it is one of ours, and not revoked; and what is granted to it.
    pub(super) fn lets_in(&self, identity: &Identity) -> Option<Grant> {
        let book = self.lock();
        book.identities.iter().find(|it| it.is(identity) && !it.revoked).map(|it| it.grant.clone())
    }

    /// What is granted to who has that name.
    pub(super) fn grant(&self, name: &str) -> Option<Grant> {
        self.lock().identities.iter().find(|it| it.name == name).map(|it| it.grant.clone())
    }

    /// Grants something else from now on. `None`: there is nobody of that name.
    pub(super) fn change(&self, name: &str, change: &Change) -> Result<Option<Grant>, Refusal> {
        let mut book = self.lock();
        let Some(at) = book.identities.iter().position(|it| it.name == name) else { return Ok(None) };
        let grant = book.identities[at].grant.with(change)?;
        let before = std::mem::replace(&mut book.identities[at].grant, grant.clone());
        if let Err(e) = self.store(&book) {
            book.identities[at].grant = before;
            return Err(e);
        }
        Ok(Some(grant))
    }

    /// Whether an identity, or an invitation that is open, says what is of this key.
    pub(super) fn binds(&self, key: &str) -> bool {
        let (book, now) = (self.lock(), Time::now());
        let by_identity = |it: &Enrolled| !it.revoked && it.grant.labels.get(key).is_some();
        let by_invite = |it: &Invite| it.until > now.0 && it.uses > 0 && it.grant.labels.get(key).is_some();
        book.identities.iter().any(by_identity) || book.invites.iter().any(by_invite)
    }

    fn store(&self, book: &Book) -> Result<(), Refusal> {
        let text = serde_json::to_string_pretty(book).map_err(other);
        let stored = text.and_then(|text| private_file::write(&self.0.folder.join("identities.json"), text));
        stored.map_err(|e| Refusal::Authority(format!("identities.json cannot be written: {e}")))
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Enrolled {
    fn is(&self, identity: &Identity) -> bool {
        self.name == identity.name.as_str() && self.role == identity.role
    }
}

fn lasting(params: &mut CertificateParams, time: Duration) {
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - BEFORE).into(), (now + time).into());
}

/// The key that is to be certified, and nothing else: what names it asks for does not matter.
fn public_key(csr: &str) -> Result<rcgen::PublicKey, Refusal> {
    let request = CertificateSigningRequestParams::from_pem(csr);
    Ok(request
        .map_err(|e| Refusal::Authority(format!("the request for a certificate makes no sense: {e}")))?
        .public_key)
}

mod pem {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    pub(super) fn der_of(text: &str) -> Option<Vec<u8>> {
        CertificateDer::from_pem_slice(text.as_bytes()).ok().map(|der| der.to_vec())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_name_is_known_for_as_long_as_any_certificate_of_it_lasts() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path(), "agents.example:50051").unwrap();
        let csr = || {
            let pair = KeyPair::generate().unwrap();
            CertificateParams::new(Vec::new()).unwrap().serialize_request(&pair).unwrap().pem().unwrap()
        };
        let name = || Name::new(NameOf::ClientOrGroup, "python-1").unwrap();
        authority.issue_for(Role::Agent, name(), &csr(), 90 * DAY, &Change::default()).unwrap();
        let until = authority.identities()[0].until;
        // Otherwise the name would be given to another one day, and the first certificate would count as that one's.
        authority.issue_for(Role::Agent, name(), &csr(), DAY, &Change::default()).unwrap();
        assert_eq!(authority.identities()[0].until, until);
    }

    #[test]
    fn the_certificate_of_the_server_is_kept_for_two_thirds_of_its_time_and_as_long_as_it_is_good_for_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let open = |public: &str| {
            let authority = Authority::open(folder.path(), public).unwrap();
            (fs::read(authority.files().cert).unwrap(), authority)
        };
        let (first, authority) = open("agents.example:50051");
        assert_eq!(open("agents.example:50051").0, first);
        assert_eq!(open("agents.example:1").0, first, "the port stands in no certificate");
        let (other, _) = open("other.example:50051");
        assert_ne!(other, first, "it has another name");
        assert_eq!(open("other.example:50051").0, other);
        authority.renew_server(SERVER / 3 - DAY).unwrap();
        let late = fs::read(authority.files().cert).unwrap();
        assert_ne!(open("agents.example:50051").0, late, "less than a third is left");
        authority.renew_server(SERVER / 3 + DAY).unwrap();
        let (kept, _) = open("agents.example:50051");
        assert_eq!(kept, fs::read(authority.files().cert).unwrap());
        // What does not belong together, and an authority that was made anew.
        for file in ["server.key", "server.pem"] {
            fs::write(folder.path().join("tls").join(file), "garbage").unwrap();
            let (made, authority) = open("agents.example:50051");
            assert!(authority.files().believed_until(&authority.names()).is_some() && made != kept);
        }
        let before = fs::read(authority.files().cert).unwrap();
        fs::remove_file(folder.path().join("tls/ca.pem")).unwrap();
        assert_ne!(open("agents.example:50051").0, before);
    }
}
