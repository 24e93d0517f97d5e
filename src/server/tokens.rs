//! Bearer tokens: who has one, and for what. The file has the hashes of them alone, so whoever reads it can use none.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::{self, BoxFuture, Shared};
use futures_timer::Delay;
use log::info;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::grants::{Grant, check_names};
use super::identity::Identity;
use super::limits::{Account, Accounts, Changes, Holder, Limit, Most, Own, changed};
use super::refusal::Refusal;
use super::roles::Role;
use crate::labels::{LabelError, Labels};
use crate::private_file;
use crate::secret::{PREFIX, Secret};
use crate::task::{Audience, Name, NameOf, NewTask, Time};

/// In the data folder.
const FILE: &str = "tokens.json";
/// In the data folder: the credential of operators on this machine.
pub(super) const OPERATOR_FILE: &str = "operator.token";
/// What its owner is called.
const LOCAL: &str = "local";
/// Most tokens. Each costs about a kilobyte.
const MOST: usize = 10_000;

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
    /// The groups that it may name.
    pub(super) groups: Vec<String>,
    /// The groups that its tasks may be for.
    pub(super) targets: Vec<String>,
    /// What its agent is, whatever that says.
    pub(super) labels: Labels,
    pub(super) account: Arc<Account>,
    pub(super) created_at: Time,
    pub(super) expires_at: Option<Time>,
    hash: Hash,
    is_revoked: AtomicBool,
    /// Dropped when it is revoked.
    counts: Mutex<Option<oneshot::Sender<()>>>,
    end: End,
}

/// Resolves when a token counts no more. All streams of a token share one, with one timer.
pub(super) type End = Shared<BoxFuture<'static, ()>>;

/// A clock that is set is noticed within this time.
const LOOK: Duration = Duration::from_secs(60);

fn end(revoked: oneshot::Receiver<()>, expires_at: Option<Time>) -> End {
    let over = async move {
        let Some(at) = expires_at else { return future::pending().await };
        while let left = at.since(Time::now())
            && !left.is_zero()
        {
            Delay::new(left.min(LOOK)).await;
        }
    };
    async move { drop(future::select(revoked, pin!(over)).await) }.boxed().shared()
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the token of {}", self.identity)
    }
}

impl Token {
    fn new(
        identity: Identity,
        grant: Grant,
        hash: Hash,
        [created_at, expires_at]: [Option<Time>; 2],
        accounts: &Accounts,
    ) -> Token {
        let Grant { groups, targets, labels, limits } = grant;
        let account = accounts.of(Holder::Token(identity.clone()), limits);
        let created_at = created_at.unwrap_or_default();
        let (counts, revoked) = oneshot::channel();
        let (counts, end) = (Mutex::new(Some(counts)), end(revoked, expires_at));
        let is_revoked = AtomicBool::new(false);
        Token { identity, groups, targets, labels, account, created_at, expires_at, hash, is_revoked, counts, end }
    }

    /// Resolves when it counts no more.
    pub(super) fn end(&self) -> End {
        self.end.clone()
    }

    fn revoke(&self) {
        self.is_revoked.store(true, Relaxed);
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).take();
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
        let targets = &self.targets;
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

    fn entry(&self) -> Entry {
        Entry {
            name: self.identity.name.as_str().to_owned(),
            role: self.identity.role,
            grant: Grant {
                groups: self.groups.clone(),
                targets: self.targets.clone(),
                labels: self.labels.clone(),
                limits: self.account.own(),
            },
            sha256: HEXLOWER.encode(&self.hash),
            created_at: self.created_at.0,
            expires_at: self.expires_at.map(|at| at.0),
        }
    }
}

impl Entry {
    fn token(self, accounts: &Accounts) -> Result<Token, String> {
        let name = Name::new(NameOf::ClientOrGroup, &self.name).map_err(|e| e.to_string())?;
        let hash = unhex(&self.sha256).ok_or_else(|| format!("the hash of {name} is not 64 hexadecimal digits"))?;
        let times = [Some(Time(self.created_at)), self.expires_at.map(Time)];
        Ok(Token::new(Identity { role: self.role, name }, self.grant, hash, times, accounts))
    }
}

/// A token that is to be made, as somebody asks for it.
pub(super) struct NewToken {
    pub(super) name: String,
    pub(super) role: String,
    pub(super) groups: Vec<String>,
    pub(super) targets: Vec<String>,
    pub(super) labels: String,
    /// Most tasks submitted a second; 0: it is not said here.
    pub(super) rate: u32,
    pub(super) limits: Own,
    pub(super) ttl: Option<Duration>,
}

impl NewToken {
    fn check(self) -> Result<(Identity, Grant, Option<Duration>), Refusal> {
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
            check_names(names)?;
        }
        if name.as_str() == LOCAL {
            return wrong(format!("{LOCAL:?} is the name of this machine's own operator"));
        }
        let mut limits = self.limits;
        if self.rate > 0 {
            limits.entry(Limit::Submits).or_insert(Most::of(self.rate.into()));
        }
        let grant = Grant { groups: self.groups, targets: self.targets, labels, limits };
        Ok((Identity { role, name }, grant, self.ttl))
    }
}

/// All of them. The file is written anew with each change.
pub(super) struct Tokens {
    file: PathBuf,
    accounts: Accounts,
    all: Mutex<HashMap<Hash, Arc<Token>>>,
}

impl Tokens {
    /// None, and there will be none: where nobody has to say who they are.
    pub(super) fn none(data: &Path, accounts: Accounts) -> Tokens {
        Tokens { file: data.join(FILE), accounts, all: Mutex::default() }
    }

    /// Reads the file, if it is there, and makes the credential of operators on this machine, if that is not. An error says which file
    /// and what is wrong.
    pub(super) fn open(data: &Path, accounts: Accounts) -> Result<Tokens, String> {
        let tokens = Tokens::none(data, accounts);
        let wrong = |file: &Path, why: String| format!("{}: {why}", file.display());
        let entries: Vec<Entry> = match fs::read(&tokens.file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| wrong(&tokens.file, e.to_string()))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(wrong(&tokens.file, e.to_string())),
        };
        let mut all = tokens.lock();
        for entry in entries {
            let token = entry.token(&tokens.accounts).map_err(|why| wrong(&tokens.file, why))?;
            all.insert(token.hash, Arc::new(token));
        }
        let file = data.join(OPERATOR_FILE);
        let secret = local(&file).map_err(|why| wrong(&file, why))?;
        let name = Name::new(NameOf::ClientOrGroup, LOCAL).map_err(|e| e.to_string())?;
        let hash = hash(secret.expose().as_bytes());
        let identity = Identity { role: Role::Operator, name };
        let times = [Some(Time::now()), None];
        all.insert(hash, Arc::new(Token::new(identity, Grant::default(), hash, times, &tokens.accounts)));
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
        let (identity, grant, ttl) = new.check()?;
        let mut all = self.lock();
        let mut next = all.clone();
        // Those that are over have told so for a while.
        next.retain(|_, token| token.expires_at.is_none_or(|at| at.after(KEPT) > now));
        let has_its_name = |other: &Arc<Token>| other.identity.name == identity.name;
        if let Some((_, other)) = next.iter().find(|(_, other)| has_its_name(other)) {
            if other.check().is_ok() {
                return Err(Refusal::TokenExists(identity.to_string()));
            }
            next.retain(|_, other| !has_its_name(other));
        }
        if next.len() >= MOST {
            return Err(Refusal::TooManyTokens(MOST));
        }
        let times = [Some(now), ttl.map(|ttl| now.after(ttl))];
        // Not before it is sure that there is one: its limits count from now on.
        let token = Arc::new(Token::new(identity, grant, hash(secret.as_bytes()), times, &self.accounts));
        next.insert(token.hash, token.clone());
        self.write(&next)?;
        *all = next;
        Ok((token, secret))
    }

    /// The token of that name.
    pub(super) fn named(&self, name: &str) -> Option<Arc<Token>> {
        self.lock().values().find(|token| token.identity.name.as_str() == name).cloned()
    }

    /// Gives one other limits from now on. It waits for the disk. `None`: there is no token of that name.
    pub(super) fn limit(&self, name: &str, changes: &Changes) -> Result<Option<Arc<Token>>, Refusal> {
        let all = self.lock();
        let Some(token) = all.values().find(|token| token.identity.name.as_str() == name).cloned() else {
            return Ok(None);
        };
        if name == LOCAL && !changes.is_empty() {
            return Err(Refusal::NoSuchKindOfToken(format!("{LOCAL:?} has no limits of its own: it is in no file")));
        }
        let before = token.account.own();
        token.account.change(changed(&before, changes));
        if let Err(e) = self.write(&all) {
            token.account.change(before);
            return Err(e);
        }
        Ok(Some(token))
    }

    /// Whether a token that counts says what is of this key.
    pub(super) fn binds(&self, key: &str) -> bool {
        self.lock().values().any(|token| token.labels.get(key).is_some() && token.check().is_ok())
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
        token.revoke();
        Ok(())
    }

    fn write(&self, all: &HashMap<Hash, Arc<Token>>) -> Result<(), Refusal> {
        let failed = |e: io::Error| Refusal::NotWritten { file: self.file.clone(), why: e.to_string() };
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

    use super::super::grants::MOST_NAMES;
    use super::super::limits::Limits;
    use super::*;

    fn new(name: &str, role: &str) -> NewToken {
        NewToken {
            name: name.into(),
            role: role.into(),
            groups: vec![],
            targets: vec![],
            labels: String::new(),
            rate: 0,
            limits: Own::new(),
            ttl: None,
        }
    }

    fn open(folder: &tempfile::TempDir) -> Result<Tokens, String> {
        Tokens::open(folder.path(), Accounts::new(Limits::default()))
    }

    fn reason(result: Result<impl Sized, Refusal>) -> &'static str {
        result.map(drop).unwrap_err().cause()
    }

    #[test]
    fn a_token_counts_until_it_is_revoked_also_after_a_start_and_its_secret_is_on_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = open(&folder).unwrap();
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

        let tokens = open(&folder).unwrap();
        let held = tokens.find(&secret).unwrap();
        assert_eq!((held.identity.role, held.identity.name.as_str()), (Role::Submit, "ci"));
        tokens.revoke("ci").unwrap();
        assert_eq!(reason(held.check()), "TOKEN_UNKNOWN");
        assert_eq!(reason(tokens.find(&secret)), "TOKEN_UNKNOWN");
        assert_eq!(reason(tokens.revoke("ci")), "TOKEN_NOT_FOUND");
        assert_eq!(open(&folder).unwrap().find(&other).unwrap().identity.name.as_str(), "other");
        let local = fs::read_to_string(folder.path().join(OPERATOR_FILE)).unwrap();
        assert_eq!(tokens.find(local.trim()).unwrap().identity.role, Role::Operator);
    }

    #[test]
    fn a_token_ends_and_its_name_is_free_again() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = open(&folder).unwrap();
        let ends = NewToken { ttl: Some(Duration::ZERO), ..new("ci", "submit") };
        let (_, secret) = tokens.create(ends).unwrap();
        assert_eq!(reason(tokens.find(&secret)), "TOKEN_EXPIRED");
        tokens.create(new("ci", "submit")).unwrap();
        assert_eq!(reason(tokens.find(&secret)), "TOKEN_UNKNOWN");
    }

    #[test]
    fn what_makes_no_sense_is_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = open(&folder).unwrap();
        for wrong in [
            new("ci", "root"),
            new("local", "read"),
            NewToken { groups: vec!["g".into()], ..new("ci", "submit") },
            NewToken { rate: 1, ..new("ci", "agent") },
            NewToken { targets: vec!["g".into()], ..new("ci", "operator") },
        ] {
            assert_eq!(reason(tokens.create(wrong)), "TOKEN_INVALID");
        }
        let groups = vec!["g".into(); MOST_NAMES + 1];
        assert_eq!(reason(tokens.create(NewToken { groups, ..new("ci", "agent") })), "GRANT_INVALID");
        assert_eq!(reason(tokens.create(new("a\nb", "read"))), "NAME_INVALID");
        assert_eq!(reason(tokens.revoke("local")), "TOKEN_INVALID");
        fs::write(folder.path().join(FILE), "[{").unwrap();
        assert!(open(&folder).err().unwrap().contains(FILE));
    }

    #[test]
    fn what_a_token_may_have_is_changed_while_it_counts_and_is_so_after_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = open(&folder).unwrap();
        let limits = Own::from([(Limit::Streams, Most::of(5))]);
        let (token, secret) = tokens.create(NewToken { rate: 9, limits, ..new("ci", "submit") }).unwrap();
        let has =
            |token: &Token| [Limit::Streams, Limit::Submits].map(|limit| token.account.limits().get(limit).number());
        assert_eq!(has(&token), [5, 9]);
        let changes = Changes::from([(Limit::Streams, None), (Limit::Submits, Some(Most::NONE))]);
        tokens.limit("ci", &changes).unwrap().unwrap();
        assert_eq!(has(&token), [4_096, 0]);
        let again = open(&folder).unwrap().find(&secret).unwrap();
        assert_eq!(again.account.own(), token.account.own());
        assert!(tokens.limit("nobody", &changes).unwrap().is_none());
        assert_eq!(reason(tokens.limit("local", &changes)), "TOKEN_INVALID");
    }
}
