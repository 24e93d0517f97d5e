//! Bearer tokens: who has one, and for what. The file has the hashes of them alone, so whoever reads it can use none.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
#[cfg(feature = "cluster")]
use std::time::Instant;

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
use super::kept::{self, Kept};
use super::limits::{Account, Accounts, Changes, Holder, Limit, Most, Own, changed};
use super::refusal::Refusal;
use super::roles::Role;
#[cfg(feature = "cluster")]
use crate::broker::Quota;
use crate::labels::{LabelError, Labels};
use crate::private_file;
use crate::secret::{PREFIX, Secret};
use crate::store::{Granted, Shows};
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

    /// Whether it is that of operators on this machine.
    pub(super) fn is_local(&self) -> bool {
        self.identity.name.as_str() == LOCAL
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

type All = HashMap<Hash, Arc<Token>>;

/// All of them.
pub(super) struct Tokens {
    kept: Kept,
    accounts: Accounts,
    all: Mutex<All>,
    #[cfg(feature = "cluster")]
    knowledge: Mutex<Knowledge>,
}

/// How well a server of a cluster knows whom that lets in.
#[cfg(feature = "cluster")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Knows {
    /// It is about to read the log, or reads it no more.
    #[default]
    Little,
    /// It reads what comes, some moments later.
    Most,
    /// It leads.
    All,
}

#[cfg(feature = "cluster")]
#[derive(Default)]
struct Knowledge {
    knows: Knows,
    /// When secrets came first that are not known.
    unknown: HashMap<Hash, Instant>,
}

/// A token that was made at another server is known here within this time.
#[cfg(feature = "cluster")]
const LATER: Duration = Duration::from_secs(1);
/// So many unknown secrets are remembered for that: when more come, all are new again.
#[cfg(feature = "cluster")]
const UNKNOWN: usize = 1_000;

impl Tokens {
    /// None, and there will be none: where nobody has to say who they are.
    pub(super) fn none(kept: Kept, accounts: Accounts) -> Tokens {
        Tokens {
            kept,
            accounts,
            all: Mutex::default(),
            #[cfg(feature = "cluster")]
            knowledge: Mutex::default(),
        }
    }

    /// Reads what is kept, and makes the credential of operators on this machine, if that is not there. An error says which file and what is
    /// wrong.
    pub(super) fn open(data: &Path, kept: Kept, accounts: Accounts) -> Result<Tokens, String> {
        let tokens = Tokens::none(kept, accounts);
        let mut all = tokens.lock();
        for entry in entries(data, tokens.kept.read(data, FILE)?)? {
            let token = entry.token(&tokens.accounts).map_err(|why| wrong(&data.join(FILE), why))?;
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
        let hash = hash(secret.as_bytes());
        let found = self.lock().get(&hash).cloned();
        #[cfg(feature = "cluster")]
        self.look(&hash, found.as_deref())?;
        let found = found.ok_or(Refusal::WrongToken)?;
        found.check()?;
        Ok(found)
    }

    /// Refuses for now what this server may not know yet: a token that it has and that was revoked, one that it has not and that was made.
    #[cfg(feature = "cluster")]
    fn look(&self, hash: &Hash, found: Option<&Token>) -> Result<(), Refusal> {
        if !self.kept.is_in_log() {
            return Ok(());
        }
        let mut knowledge = self.knowledge();
        let knows_it = match (knowledge.knows, found) {
            (Knows::All, _) | (Knows::Most, Some(_)) => true,
            (Knows::Little, found) => found.is_some_and(Token::is_local),
            (Knows::Most, None) => {
                if knowledge.unknown.len() >= UNKNOWN {
                    knowledge.unknown.clear();
                }
                knowledge.unknown.entry(*hash).or_insert_with(Instant::now).elapsed() >= LATER
            }
        };
        if knows_it { Ok(()) } else { Err(Refusal::ServerBehind) }
    }

    #[cfg(feature = "cluster")]
    fn knowledge(&self) -> MutexGuard<'_, Knowledge> {
        self.knowledge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How well it knows whom the cluster lets in, from now on.
    #[cfg(feature = "cluster")]
    pub(super) fn set_knows(&self, knows: Knows) {
        self.knowledge().knows = knows;
    }

    /// Whether it may not know of somebody, or that he is to come in no more.
    #[cfg(feature = "cluster")]
    pub(super) fn knows_little(&self) -> bool {
        self.kept.is_in_log() && self.knowledge().knows == Knows::Little
    }

    /// Makes one; gives it, and its secret, which is kept nowhere. It waits for the disk.
    pub(super) fn create(&self, new: NewToken) -> Result<(Arc<Token>, String), Refusal> {
        let secret = format!("{PREFIX}{}", new_secret());
        let now = Time::now();
        let (identity, grant, ttl) = new.check()?;
        let _changing = self.kept.changing();
        let before = self.lock().clone();
        let mut next = before.clone();
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
        let gone = before.values().filter(|other| !next.contains_key(&other.hash)).map(|other| (&**other, false));
        self.write(&next, gone.chain([(&*token, true)]))?;
        *self.lock() = next;
        Ok((token, secret))
    }

    /// The token of that name.
    pub(super) fn named(&self, name: &str) -> Option<Arc<Token>> {
        self.lock().values().find(|token| token.identity.name.as_str() == name).cloned()
    }

    /// Gives one other limits from now on. It waits for the disk. `None`: there is no token of that name.
    pub(super) fn limit(&self, name: &str, changes: &Changes) -> Result<Option<Arc<Token>>, Refusal> {
        let _changing = self.kept.changing();
        let Some(token) = self.named(name) else { return Ok(None) };
        if name == LOCAL && !changes.is_empty() {
            return Err(Refusal::NoSuchKindOfToken(format!("{LOCAL:?} has no limits of its own: it is in no file")));
        }
        let before = token.account.own();
        token.account.change(changed(&before, changes));
        if let Err(e) = self.write(&self.lock().clone(), [(&*token, true)]) {
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
        let _changing = self.kept.changing();
        let token = self.named(name).ok_or_else(|| Refusal::NoSuchToken(name.to_owned()))?;
        let mut next = self.lock().clone();
        next.remove(&token.hash);
        self.write(&next, [(&*token, false)])?;
        *self.lock() = next;
        token.revoke();
        Ok(())
    }

    /// Has those count that stand in the log of a cluster, and no others, but for that of operators on this machine. Says what that makes for
    /// the broker. [`Kept::changing`] is held since before the log was read.
    #[cfg(feature = "cluster")]
    pub(super) fn take(&self, granted: &Granted) -> Vec<Quota> {
        let before = self.lock().clone();
        let mut next: All =
            before.iter().filter(|(_, token)| token.is_local()).map(|(hash, it)| (*hash, it.clone())).collect();
        let mut quotas = Vec::new();
        for (name, text) in kept::of(granted, Shows::Token) {
            let read = serde_json::from_str(text).map_err(|e| e.to_string());
            let token = read.and_then(|entry: Entry| {
                let Some(known) = unhex(&entry.sha256).and_then(|hash| before.get(&hash)) else {
                    return entry.token(&self.accounts).map(Arc::new);
                };
                if known.account.own() != entry.grant.limits {
                    quotas.push(known.account.change(entry.grant.limits));
                }
                Ok(known.clone())
            });
            match token {
                Ok(token) => drop(next.insert(token.hash, token)),
                Err(why) => log::warn!("the token {name} in the log of the cluster lets nobody in: {why}"),
            }
        }
        let gone = before.values().filter(|token| !next.contains_key(&token.hash)).cloned().collect::<Vec<_>>();
        *self.lock() = next;
        gone.iter().for_each(|token| token.revoke());
        quotas
    }

    /// `changed`: those that are others now, and whether they still are there.
    fn write<'a>(&self, all: &All, changed: impl IntoIterator<Item = (&'a Token, bool)>) -> Result<(), Refusal> {
        let whole = || text_of(all.values().filter(|token| !token.is_local()).map(|token| token.entry()).collect());
        let row = |(token, is_there): (&Token, bool)| {
            let text = is_there.then(|| serde_json::to_string(&token.entry())).transpose()?;
            Ok((token.identity.name.clone(), text))
        };
        self.kept.write((Shows::Token, FILE), whole, || changed.into_iter().map(row).collect())
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wrong(file: &Path, why: String) -> String {
    format!("{}: {why}", file.display())
}

/// What that text of the file says.
fn entries(data: &Path, text: Option<Vec<u8>>) -> Result<Vec<Entry>, String> {
    let read = text.map_or(Ok(Vec::new()), |text| serde_json::from_slice(&text));
    read.map_err(|e| wrong(&data.join(FILE), e.to_string()))
}

fn text_of(mut entries: Vec<Entry>) -> serde_json::Result<String> {
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    serde_json::to_string_pretty(&entries)
}

/// The tokens in the file of a server that is alone, as they stand in a log.
#[cfg(feature = "cluster")]
pub(super) fn in_file(data: &Path) -> Result<Vec<(Name, String)>, String> {
    let accounts = Accounts::new(Default::default());
    let row = |entry: Entry| {
        let text = serde_json::to_string(&entry).map_err(|e| e.to_string())?;
        Ok((entry.token(&accounts)?.identity.name, text))
    };
    let all =
        entries(data, Kept::in_files(data).read(data, FILE)?)?.into_iter().map(row).collect::<Result<_, String>>();
    all.map_err(|why| wrong(&data.join(FILE), why))
}

/// Has the file have those that stood in a log, too.
pub(super) fn put_in_file(data: &Path, granted: &Granted) -> Result<(), String> {
    let file = data.join(FILE);
    let failed = |e: serde_json::Error| wrong(&file, e.to_string());
    let put = kept::of(granted, Shows::Token).map(|(_, text)| serde_json::from_str(text));
    let mut all = put.collect::<serde_json::Result<Vec<Entry>>>().map_err(failed)?;
    let names: HashSet<String> = all.iter().map(|entry| entry.name.clone()).collect();
    let before = entries(data, Kept::in_files(data).read(data, FILE)?)?;
    all.extend(before.into_iter().filter(|entry| !names.contains(&entry.name)));
    if all.is_empty() {
        return Ok(());
    }
    private_file::write(&file, text_of(all).map_err(failed)?).map_err(|e| wrong(&file, e.to_string()))
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

    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::grants::MOST_NAMES;
    use super::super::limits::Limits;
    use super::*;
    #[cfg(feature = "cluster")]
    use crate::store::Grantee;

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
        Tokens::open(folder.path(), Kept::in_files(folder.path()), Accounts::new(Limits::default()))
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

    #[cfg(feature = "cluster")]
    #[test]
    fn those_in_the_log_of_a_cluster_count_and_no_others_but_that_of_this_machine() {
        let (alone, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tokens = open(&alone).unwrap();
        let limits = Own::from([(Limit::Streams, Most::of(5))]);
        let (_, web) = tokens.create(NewToken { limits, ..new("web", "agent") }).unwrap();
        let (_, ci) = tokens.create(new("ci", "submit")).unwrap();
        let in_log = |data: &tempfile::TempDir| -> Granted {
            let row = |(name, text)| (Grantee { shows: Shows::Token, name }, text);
            in_file(data.path()).unwrap().into_iter().map(row).collect()
        };
        let accounts = Accounts::new(Limits::default());
        let of_cluster = Tokens::open(folder.path(), Kept::in_log(Default::default()), accounts).unwrap();
        let local = fs::read_to_string(folder.path().join(OPERATOR_FILE)).unwrap();
        assert!(of_cluster.take(&in_log(&alone)).is_empty(), "nobody is here whose limits are others");
        of_cluster.set_knows(Knows::Most);
        let held = of_cluster.find(&web).unwrap();
        assert_eq!(held.account.limits().get(Limit::Streams), Most::of(5));
        of_cluster.find(&ci).unwrap();
        assert_eq!(reason(of_cluster.create(new("other", "read"))), "NO_LEADER");
        of_cluster.set_knows(Knows::Little);
        for unsure in [&*ci, "ct1_unknown"] {
            assert_eq!(reason(of_cluster.find(unsure)), "SERVER_BEHIND");
        }
        of_cluster.find(local.trim()).unwrap();
        of_cluster.set_knows(Knows::Most);
        of_cluster.find(&ci).unwrap();
        assert_eq!(reason(of_cluster.find("ct1_unknown")), "SERVER_BEHIND", "it may have been made a moment ago");
        of_cluster.set_knows(Knows::All);
        assert_eq!(reason(of_cluster.find("ct1_unknown")), "TOKEN_UNKNOWN");

        tokens.limit("web", &Changes::from([(Limit::Window, Some(Most::of(3)))])).unwrap();
        tokens.revoke("ci").unwrap();
        let ended = of_cluster.find(&ci).unwrap();
        let quotas = of_cluster.take(&in_log(&alone));
        assert_eq!(quotas.iter().map(|quota| quota.window).collect::<Vec<_>>(), [3]);
        assert_eq!(reason(ended.check()), "TOKEN_UNKNOWN");
        assert_eq!(reason(of_cluster.find(&ci)), "TOKEN_UNKNOWN");
        held.check().unwrap();
        assert!(Arc::ptr_eq(&held, &of_cluster.find(&web).unwrap()), "streams that it has go on");
        assert!(of_cluster.find(local.trim()).unwrap().is_local());

        // Back to a server that is alone: what the log said goes before what the file said.
        let (web_of_log, (_, more)) = (in_log(&alone), tokens.create(new("more", "read")).unwrap());
        tokens.revoke("web").unwrap();
        put_in_file(alone.path(), &web_of_log).unwrap();
        let tokens = open(&alone).unwrap();
        for secret in [&web, &more] {
            tokens.find(secret).unwrap();
        }
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
