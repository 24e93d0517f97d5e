//! Bearer tokens: who has one, and for what. The file has the hashes of them alone, so whoever reads it can use none.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use log::info;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::refusal::Refusal;
use super::roles::Role;
use crate::labels::{LabelError, Labels};
use crate::private_file;
use crate::secret::{PREFIX, Secret};
use crate::task::{Audience, GroupName, Name, NameOf, NewTask, Time};

/// In the data folder.
const FILE: &str = "tokens.json";
/// In the data folder: the credential of operators on this machine.
pub(super) const OPERATOR_FILE: &str = "operator.token";
/// What its owner is called.
const LOCAL: &str = "local";
/// Most tokens. Each costs about a kilobyte.
const MOST: usize = 10_000;
/// Most groups, or targets, of one.
const MOST_NAMES: usize = 100;

/// SHA-256.
type Hash = [u8; 32];

/// The hash by which a secret is known. A secret has 256 random bits, so nothing slower is needed, and no salt.
pub(super) fn hash(secret: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, secret).as_ref());
    hash
}

/// A new secret.
pub(super) fn new_secret() -> String {
    HEXLOWER.encode(&rand::random::<[u8; 32]>())
}

fn unhex(text: &str) -> Option<Hash> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// What a token is for, beside its role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    /// The groups that an agent may name. The first is its own if it names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<String>,
    /// The groups that tasks may be for. Empty: any, and everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) targets: Vec<String>,
    /// What an agent is, whatever it says.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub(super) labels: Labels,
    /// Most tasks a second, over a few seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rate: Option<u32>,
}

/// A token as the file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    name: String,
    role: Role,
    #[serde(flatten)]
    grant: Grant,
    sha256: String,
    created_at: i64,
    expires_at: Option<i64>,
}

/// A token, without the secret.
pub(super) struct Token {
    pub(super) identity: Identity,
    pub(super) grant: Grant,
    pub(super) created_at: Time,
    pub(super) expires_at: Option<Time>,
    hash: Hash,
    is_revoked: AtomicBool,
    allowance: Mutex<Allowance>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the token of {}", self.identity)
    }
}

/// How many tasks may be submitted now. Less than 0: so many came together, and are waited for.
struct Allowance {
    tasks: f64,
    at: Option<Instant>,
}

impl Token {
    fn new(identity: Identity, grant: Grant, hash: Hash, created_at: Time, expires_at: Option<Time>) -> Token {
        let allowance = Mutex::new(Allowance { tasks: 0.0, at: None });
        Token { identity, grant, created_at, expires_at, hash, is_revoked: AtomicBool::new(false), allowance }
    }

    /// Whether it still counts.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.is_revoked.load(Relaxed) {
            return Err(Refusal::WrongToken);
        }
        match self.expires_at {
            Some(at) if at <= Time::now() => Err(Refusal::TokenExpired { name: self.identity.to_string(), at }),
            _ => Ok(()),
        }
    }

    /// Whether a task may be for whom it is.
    pub(super) fn allows(&self, task: &NewTask) -> Result<(), Refusal> {
        let targets = &self.grant.targets;
        let may = |to: &Name| targets.iter().any(|target| target == to.as_str());
        let (to, is_allowed) = match (&task.to, task.audience.as_deref()) {
            (None, Some(Audience::Groups(names))) => {
                let foreign = names.iter().find(|name| !may(name));
                (foreign, foreign.is_none())
            }
            // Whoever matches a selector is not known yet: it is as good as everyone.
            (to, _) => (to.as_ref(), to.as_ref().is_some_and(may)),
        };
        match targets.is_empty() || is_allowed {
            true => Ok(()),
            false => {
                Err(Refusal::TargetNotAllowed { to: to.map(Name::to_string), identity: self.identity.to_string() })
            }
        }
    }

    /// Takes so many tasks off what it may submit now, or says how long to wait.
    pub(super) fn spend(&self, tasks: usize, now: Instant) -> Result<(), Refusal> {
        let Some(rate) = self.grant.rate else { return Ok(()) };
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        let per_second = f64::from(rate);
        let since = allowance.at.map_or(1.0, |at| now.saturating_duration_since(at).as_secs_f64());
        // What was not used is kept for a second.
        allowance.tasks = (allowance.tasks + since * per_second).min(per_second);
        allowance.at = Some(now);
        if allowance.tasks <= 0.0 {
            // Until there is room for one.
            let wait = Duration::from_secs_f64((1.0 - allowance.tasks) / per_second);
            return Err(Refusal::TooFast { identity: self.identity.to_string(), rate, wait });
        }
        allowance.tasks -= tasks as f64;
        Ok(())
    }

    fn entry(&self) -> Entry {
        Entry {
            name: self.identity.name.as_str().to_owned(),
            role: self.identity.role,
            grant: self.grant.clone(),
            sha256: HEXLOWER.encode(&self.hash),
            created_at: self.created_at.0,
            expires_at: self.expires_at.map(|at| at.0),
        }
    }
}

impl Entry {
    fn token(self) -> Result<Token, String> {
        let name = Name::new(NameOf::ClientOrGroup, &self.name).map_err(|e| e.to_string())?;
        let hash = unhex(&self.sha256).ok_or_else(|| format!("the hash of {name} is not 64 hexadecimal digits"))?;
        let expires_at = self.expires_at.map(Time);
        Ok(Token::new(Identity { role: self.role, name }, self.grant, hash, Time(self.created_at), expires_at))
    }
}

/// A token that is to be made, as somebody asks for it.
pub(super) struct NewToken {
    pub(super) name: String,
    pub(super) role: String,
    pub(super) groups: Vec<String>,
    pub(super) targets: Vec<String>,
    pub(super) labels: String,
    pub(super) rate: u32,
    pub(super) ttl: Option<Duration>,
}

impl NewToken {
    fn check(self, hash: Hash, now: Time) -> Result<Token, Refusal> {
        let wrong = |why: String| Err(Refusal::NoSuchKindOfToken(why));
        let name = Name::new(NameOf::ClientOrGroup, &self.name)?;
        let Some(role) = Role::named(&self.role) else {
            return wrong(format!("{:?} is no role; there are agent, submit, read and operator", self.role));
        };
        if !self.groups.is_empty() && role != Role::Agent {
            return wrong(format!("groups are for the role agent, and this one is {role}"));
        }
        if (!self.targets.is_empty() || self.rate > 0) && role != Role::Submit {
            return wrong(format!("targets and a rate are for the role submit, and this one is {role}"));
        }
        let labels: Labels = self.labels.parse().map_err(|e: LabelError| Refusal::NoSuchKindOfToken(e.to_string()))?;
        if !labels.is_empty() && role != Role::Agent {
            return wrong(format!("labels are for the role agent, and this one is {role}"));
        }
        for names in [&self.groups, &self.targets] {
            if names.len() > MOST_NAMES {
                return wrong(format!("{} groups, and a token has at most {MOST_NAMES}", names.len()));
            }
            for name in names {
                GroupName::new(NameOf::Group, name)?;
            }
        }
        if name.as_str() == LOCAL {
            return wrong(format!("{LOCAL:?} is the name of this machine's own operator"));
        }
        let rate = Some(self.rate).filter(|rate| *rate > 0);
        let grant = Grant { groups: self.groups, targets: self.targets, labels, rate };
        Ok(Token::new(Identity { role, name }, grant, hash, now, self.ttl.map(|ttl| now.after(ttl))))
    }
}

/// All of them. The file is written anew with each change.
pub(super) struct Tokens {
    file: PathBuf,
    all: Mutex<HashMap<Hash, Arc<Token>>>,
}

impl Tokens {
    /// None, and there will be none: where nobody has to say who they are.
    pub(super) fn none(data: &Path) -> Tokens {
        Tokens { file: data.join(FILE), all: Mutex::default() }
    }

    /// Reads the file, if it is there, and makes the credential of operators on this machine, if that is not. An error says which file
    /// and what is wrong.
    pub(super) fn open(data: &Path) -> Result<Tokens, String> {
        let tokens = Tokens::none(data);
        let wrong = |file: &Path, why: String| format!("{}: {why}", file.display());
        let entries: Vec<Entry> = match fs::read(&tokens.file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| wrong(&tokens.file, e.to_string()))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(wrong(&tokens.file, e.to_string())),
        };
        let mut all = tokens.lock();
        for entry in entries {
            let token = entry.token().map_err(|why| wrong(&tokens.file, why))?;
            all.insert(token.hash, Arc::new(token));
        }
        let file = data.join(OPERATOR_FILE);
        let secret = local(&file).map_err(|why| wrong(&file, why))?;
        let name = Name::new(NameOf::ClientOrGroup, LOCAL).map_err(|e| e.to_string())?;
        let hash = hash(secret.expose().as_bytes());
        let identity = Identity { role: Role::Operator, name };
        all.insert(hash, Arc::new(Token::new(identity, Grant::default(), hash, Time::now(), None)));
        drop(all);
        Ok(tokens)
    }

    /// The token of a secret, if it counts.
    pub(super) fn find(&self, secret: &str) -> Result<Arc<Token>, Refusal> {
        let found = self.lock().get(&hash(secret.as_bytes())).cloned().ok_or(Refusal::WrongToken)?;
        found.check()?;
        Ok(found)
    }

    /// Makes one; gives it, and its secret, which is kept nowhere. It waits for the disk.
    pub(super) fn create(&self, new: NewToken) -> Result<(Arc<Token>, String), Refusal> {
        let secret = format!("{PREFIX}{}", new_secret());
        let now = Time::now();
        let token = Arc::new(new.check(hash(secret.as_bytes()), now)?);
        let mut all = self.lock();
        let mut next = all.clone();
        // Those that are over have told so for a while.
        next.retain(|_, token| token.expires_at.is_none_or(|at| at.after(KEPT) > now));
        let has_its_name = |other: &Arc<Token>| other.identity.name == token.identity.name;
        if let Some((_, other)) = next.iter().find(|(_, other)| has_its_name(other)) {
            if other.check().is_ok() {
                return Err(Refusal::TokenExists(token.identity.to_string()));
            }
            next.retain(|_, other| !has_its_name(other));
        }
        if next.len() >= MOST {
            return Err(Refusal::TooManyTokens(MOST));
        }
        next.insert(token.hash, token.clone());
        self.write(&next)?;
        *all = next;
        Ok((token, secret))
    }

    /// Whether a token that counts says what is of this key.
    pub(super) fn binds(&self, key: &str) -> bool {
        self.lock().values().any(|token| token.grant.labels.get(key).is_some() && token.check().is_ok())
    }

    /// All that were made and not revoked, by name.
    pub(super) fn list(&self) -> Vec<Arc<Token>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_unstable_by(|a, b| a.identity.name.as_str().cmp(b.identity.name.as_str()));
        all
    }

    /// Has one count no more. It waits for the disk.
    pub(super) fn revoke(&self, name: &str) -> Result<(), Refusal> {
        if name == LOCAL {
            let why =
                format!("{LOCAL:?} ends when its file is removed ({OPERATOR_FILE}) and the server is started anew");
            return Err(Refusal::NoSuchKindOfToken(why));
        }
        let mut all = self.lock();
        let mut next = all.clone();
        let Some(token) = all.values().find(|token| token.identity.name.as_str() == name).cloned() else {
            return Err(Refusal::NoSuchToken(name.to_owned()));
        };
        next.remove(&token.hash);
        self.write(&next)?;
        *all = next;
        token.is_revoked.store(true, Relaxed);
        Ok(())
    }

    fn write(&self, all: &HashMap<Hash, Arc<Token>>) -> Result<(), Refusal> {
        let failed = |e: io::Error| Refusal::TokensNotWritten { file: self.file.clone(), why: e.to_string() };
        let mut entries: Vec<Entry> =
            all.values().filter(|token| token.identity.name.as_str() != LOCAL).map(|token| token.entry()).collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let text = serde_json::to_vec_pretty(&entries).map_err(|e| failed(e.into()))?;
        private_file::write(&self.file, text).map_err(failed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Hash, Arc<Token>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long one is listed after its end.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The credential of operators on this machine, which is made if it is not there.
fn local(file: &Path) -> Result<Secret, String> {
    if !file.try_exists().map_err(|e| e.to_string())? {
        private_file::write(file, format!("{PREFIX}{}\n", new_secret())).map_err(|e| e.to_string())?;
        info!("operators on this machine use {}", file.display());
    }
    crate::secret::read(file).map(|(secret, warning)| {
        warning.into_iter().for_each(|warning| log::warn!("{warning}"));
        secret
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn new(name: &str, role: &str) -> NewToken {
        NewToken {
            name: name.into(),
            role: role.into(),
            groups: vec![],
            targets: vec![],
            labels: String::new(),
            rate: 0,
            ttl: None,
        }
    }

    fn reason(result: Result<impl Sized, Refusal>) -> &'static str {
        result.map(drop).unwrap_err().cause()
    }

    #[test]
    fn a_token_counts_until_it_is_revoked_also_after_a_start_and_its_secret_is_on_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(folder.path()).unwrap();
        let (_, secret) = tokens.create(new("ci", "submit")).unwrap();
        let (_, other) = tokens.create(new("other", "read")).unwrap();
        assert_eq!(secret.len(), PREFIX.len() + 64);
        assert_ne!(secret, other);
        assert_eq!(reason(tokens.create(new("ci", "read"))), "TOKEN_EXISTS");
        for file in [FILE, OPERATOR_FILE] {
            let mode = fs::metadata(folder.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        assert!(!fs::read_to_string(folder.path().join(FILE)).unwrap().contains(&secret[PREFIX.len()..]));
        drop(tokens);

        let tokens = Tokens::open(folder.path()).unwrap();
        let held = tokens.find(&secret).unwrap();
        assert_eq!((held.identity.role, held.identity.name.as_str()), (Role::Submit, "ci"));
        tokens.revoke("ci").unwrap();
        assert_eq!(reason(held.check()), "TOKEN_UNKNOWN");
        assert_eq!(reason(tokens.find(&secret)), "TOKEN_UNKNOWN");
        assert_eq!(reason(tokens.revoke("ci")), "TOKEN_NOT_FOUND");
        assert_eq!(Tokens::open(folder.path()).unwrap().find(&other).unwrap().identity.name.as_str(), "other");
        let local = fs::read_to_string(folder.path().join(OPERATOR_FILE)).unwrap();
        assert_eq!(tokens.find(local.trim()).unwrap().identity.role, Role::Operator);
    }

    #[test]
    fn a_token_ends_and_its_name_is_free_again() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(folder.path()).unwrap();
        let ends = NewToken { ttl: Some(Duration::ZERO), ..new("ci", "submit") };
        let (_, secret) = tokens.create(ends).unwrap();
        assert_eq!(reason(tokens.find(&secret)), "TOKEN_EXPIRED");
        tokens.create(new("ci", "submit")).unwrap();
        assert_eq!(reason(tokens.find(&secret)), "TOKEN_UNKNOWN");
    }

    #[test]
    fn what_makes_no_sense_is_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(folder.path()).unwrap();
        for wrong in [
            new("ci", "root"),
            new("local", "read"),
            NewToken { groups: vec!["g".into()], ..new("ci", "submit") },
            NewToken { rate: 1, ..new("ci", "agent") },
            NewToken { targets: vec!["g".into()], ..new("ci", "operator") },
            NewToken { groups: vec!["g".into(); MOST_NAMES + 1], ..new("ci", "agent") },
        ] {
            assert_eq!(reason(tokens.create(wrong)), "TOKEN_INVALID");
        }
        assert_eq!(reason(tokens.create(new("a\nb", "read"))), "NAME_INVALID");
        assert_eq!(reason(tokens.revoke("local")), "TOKEN_INVALID");
        fs::write(folder.path().join(FILE), "[{").unwrap();
        assert!(Tokens::open(folder.path()).err().unwrap().contains(FILE));
    }

    #[test]
    fn a_rate_lets_a_second_of_tasks_through_at_once_and_then_so_many_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(folder.path()).unwrap();
        let (token, _) = tokens.create(NewToken { rate: 10, ..new("ci", "submit") }).unwrap();
        let begin = Instant::now();
        token.spend(4, begin).unwrap();
        // More than there is, as one request: it is let through, and those after it wait for it.
        token.spend(16, begin).unwrap();
        let Err(Refusal::TooFast { wait, .. }) = token.spend(1, begin) else { panic!("not refused") };
        assert_eq!(wait, Duration::from_millis(1_100));
        assert!(token.spend(1, begin + Duration::from_millis(900)).is_err());
        token.spend(1, begin + Duration::from_millis(1_100)).unwrap();
        token.spend(10, begin + Duration::from_secs(3_600)).unwrap();
        assert!(token.spend(1, begin + Duration::from_secs(3_600)).is_err(), "an hour of silence is no hour of tasks");
    }
}
