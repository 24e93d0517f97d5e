//! What each identity may have: how many connections and streams, how much under way, how much a second. One that is not known has no
//! account, and costs nothing here.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::warn;
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::rate::Rate;
use super::refusal::Refusal;
use crate::broker::Quota;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Connections that are open.
    Connections,
    /// Streams of tasks that are open (getTask).
    Streams,
    /// Unacknowledged tasks of each stream.
    Window,
    /// Bytes of tasks that it was given and has not settled, over all streams.
    Bytes,
    /// Results a second.
    Results,
    /// Statuses a second.
    Statuses,
    /// Tasks submitted a second.
    Submits,
}

impl Limit {
    /// All of them.
    pub const ALL: [Limit; 7] = [
        Limit::Connections,
        Limit::Streams,
        Limit::Window,
        Limit::Bytes,
        Limit::Results,
        Limit::Statuses,
        Limit::Submits,
    ];

    /// As it is written, in settings, grants and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::Streams => "streams",
            Limit::Window => "window",
            Limit::Bytes => "bytes",
            Limit::Results => "results",
            Limit::Statuses => "statuses",
            Limit::Submits => "submits",
        }
    }

    /// The one of that name. An error names all.
    pub(super) fn named(name: &str) -> Result<Limit, Refusal> {
        let named = Limit::ALL.into_iter().find(|limit| limit.name() == name);
        named.ok_or_else(|| {
            let all = Limit::ALL.map(Limit::name).join(", ");
            Refusal::NoSuchLimit(format!("{:?} is no limit of an identity; there are {all}", short(name)))
        })
    }
}

/// A name as a refusal shows it.
fn short(name: &str) -> String {
    name.chars().take(40).collect()
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much one may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most(Option<u64>);

impl Most {
    /// No limit.
    pub const NONE: Most = Most(None);

    /// As the wire and files have it: 0 is none.
    pub fn of(number: u64) -> Most {
        Most(Some(number).filter(|number| *number > 0))
    }

    /// The same back.
    pub fn number(self) -> u64 {
        self.0.unwrap_or(0)
    }

    fn or_all(self) -> u64 {
        self.0.unwrap_or(u64::MAX)
    }
}

impl FromStr for Most {
    type Err = String;

    fn from_str(text: &str) -> Result<Most, String> {
        match (text, text.parse()) {
            ("none", _) => Ok(Most::NONE),
            (_, Ok(number)) if number > 0 => Ok(Most(Some(number))),
            _ => Err("must be a whole number from 1, or none".into()),
        }
    }
}

impl fmt::Display for Most {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl Serialize for Most {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.number().serialize(to)
    }
}

impl<'de> Deserialize<'de> for Most {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Most, D::Error> {
        u64::deserialize(from).map(Most::of)
    }
}

/// What an identity may have of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits([Most; Limit::ALL.len()]);

impl Default for Limits {
    /// As many connections as an address may have, and as many streams. A token may be shared by a fleet, so there is no bound on what goes
    /// over these beside those of each client, of each address and of the server.
    fn default() -> Limits {
        let mut limits = Limits([Most::NONE; Limit::ALL.len()]);
        limits.set(Limit::Connections, Most::of(4_096));
        limits.set(Limit::Streams, Most::of(4_096));
        limits
    }
}

impl Limits {
    /// What it may have of that.
    pub fn get(&self, limit: Limit) -> Most {
        self.0[limit as usize]
    }

    /// Changes one.
    pub fn set(&mut self, limit: Limit, most: Most) {
        self.0[limit as usize] = most;
    }

    /// With what one has of its own.
    pub(super) fn with(mut self, own: &Own) -> Limits {
        own.iter().for_each(|(limit, most)| self.set(*limit, *most));
        self
    }
}

/// What the grant of an identity says; of the rest it has as much as the server is set to.
pub(super) type Own = BTreeMap<Limit, Most>;

/// What changes in a grant. `None`: as the server is set.
pub(super) type Changes = BTreeMap<Limit, Option<Most>>;

/// A grant with these changes.
pub(super) fn changed(own: &Own, changes: &Changes) -> Own {
    let mut own = own.clone();
    for (limit, most) in changes {
        match most {
            Some(most) => drop(own.insert(*limit, *most)),
            None => drop(own.remove(limit)),
        }
    }
    own
}

/// Whose account it is. A certificate and a token of the same name have one each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    Certificate(Identity),
    Token(Identity),
}

impl Holder {
    fn identity(&self) -> &Identity {
        match self {
            Holder::Certificate(identity) | Holder::Token(identity) => identity,
        }
    }
}

/// The accounts of those who are known. Cheap to clone.
#[derive(Clone)]
pub(super) struct Accounts(Arc<Shared>);

struct Shared {
    all: Mutex<All>,
    common: Arc<Common>,
}

/// What accounts have in common.
struct Common {
    /// How the server is set.
    limits: Mutex<Limits>,
    reached: [AtomicU64; Limit::ALL.len()],
}

impl Common {
    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct All {
    of: HashMap<Holder, Arc<Account>>,
    next: u64,
    /// With so many it is looked whether some are of nobody any more.
    looked_at: usize,
}

/// Fewer accounts are not looked through for those of nobody.
const FEW: usize = 1_000;

impl Accounts {
    pub(super) fn new(limits: Limits) -> Accounts {
        let all = All { of: HashMap::new(), next: 1, looked_at: FEW };
        let common = Common { limits: Mutex::new(limits), reached: Default::default() };
        Accounts(Arc::new(Shared { all: Mutex::new(all), common: Arc::new(common) }))
    }

    /// The account of one whose grant says this.
    pub(super) fn of(&self, holder: Holder, own: Own) -> Arc<Account> {
        let mut all = self.lock();
        if let Some(account) = all.of.get(&holder) {
            // Of a certificate that is in use it is known: what was read a moment ago may be older.
            if matches!(holder, Holder::Token(_)) || Arc::strong_count(account) == 1 {
                account.set(Some(own));
            }
            return account.clone();
        }
        if all.of.len() >= all.looked_at {
            // Of those that nobody uses, what was used a moment ago still counts.
            let now = Instant::now();
            all.of.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_idle(now));
            all.looked_at = FEW.max(2 * all.of.len());
        }
        let state = State { limits: self.limits().with(&own), own, ..State::default() };
        let (number, identity) = (all.next, holder.identity().clone());
        let account = Arc::new(Account { number, identity, state: Mutex::new(state), common: self.0.common.clone() });
        all.next += 1;
        all.of.insert(holder, account.clone());
        account
    }

    /// Those of a name, of who shows a certificate: there may be one for each role.
    pub(super) fn certified(&self, name: &str) -> Vec<Arc<Account>> {
        let is_its = |holder: &Holder| matches!(holder, Holder::Certificate(of) if of.name.as_str() == name);
        self.lock().of.iter().filter(|(holder, _)| is_its(holder)).map(|(_, account)| account.clone()).collect()
    }

    /// How the server is set.
    pub(super) fn limits(&self) -> Limits {
        *self.0.common.limits()
    }

    /// Other limits where grants say nothing; says what changes with that for the broker.
    pub(super) fn set_limits(&self, limits: Limits) -> Vec<Quota> {
        *self.0.common.limits() = limits;
        let set = |account: &Arc<Account>| {
            let before = account.quota();
            account.set(None);
            Some(account.quota()).filter(|now| *now != before)
        };
        self.lock().of.values().filter_map(set).collect()
    }

    /// How often each was reached, so far. That of [`Limit::Bytes`] the broker knows.
    pub(super) fn reached(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::ALL.into_iter().map(|limit| (limit, self.0.common.reached[limit as usize].load(Relaxed)))
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one identity has, and may have.
pub(super) struct Account {
    /// Names it to the broker.
    number: u64,
    identity: Identity,
    state: Mutex<State>,
    common: Arc<Common>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the account of {}", self.identity)
    }
}

#[derive(Default)]
struct State {
    own: Own,
    limits: Limits,
    /// Its connections, by their addresses, and how often each is used: by itself, if it came with a certificate, and by its calls.
    connections: HashMap<Arc<str>, usize>,
    streams: usize,
    results: Rate,
    statuses: Rate,
    submits: Rate,
    /// Connections that are one too many, and are to be told so.
    beyond: usize,
    said: Option<Instant>,
}

/// Connections beyond the limit that are kept, so that their calls can be told why they are refused.
const TOLD_WHY: usize = 8;
/// Between two lines of the log about one account.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// What was not used is kept for so long.
const AT_ONCE: Duration = Duration::from_secs(1);

impl Account {
    /// What counts for it.
    pub(super) fn limits(&self) -> Limits {
        self.lock().limits
    }

    /// What its grant says.
    pub(super) fn own(&self) -> Own {
        self.lock().own.clone()
    }

    /// How many connections and streams it has.
    pub(super) fn open(&self) -> (usize, usize) {
        let state = self.lock();
        (state.connections.len(), state.streams)
    }

    /// Has its grant, and the settings, count.
    fn set(&self, own: Option<Own>) {
        let mut state = self.lock();
        let limits = *self.common.limits();
        state.own = own.unwrap_or_else(|| std::mem::take(&mut state.own));
        state.limits = limits.with(&state.own);
    }

    /// Its grant says something else from now on; says what that makes for the broker.
    pub(super) fn change(&self, own: Own) -> Quota {
        self.set(Some(own));
        self.quota()
    }

    /// As the broker needs it.
    pub(super) fn quota(&self) -> Quota {
        let limits = self.lock().limits;
        let window = u32::try_from(limits.get(Limit::Window).or_all()).unwrap_or(u32::MAX);
        Quota { of: self.number, window, bytes: limits.get(Limit::Bytes).or_all() }
    }

    /// It has a connection from there, for as long as what this gives is kept. `None`: it has so many too many that this one is not even to
    /// be told so.
    pub(super) fn connect(self: &Arc<Self>, peer: &Arc<str>) -> Option<Held> {
        if let Ok(held) = self.hold(peer, false) {
            return Some(held);
        }
        let mut state = self.lock();
        if state.beyond >= TOLD_WHY {
            return None;
        }
        state.beyond += 1;
        Some(Held { account: self.clone(), what: What::Beyond })
    }

    /// A call of it comes from there, which takes tasks or not, for as long as what this gives is kept.
    pub(super) fn hold(self: &Arc<Self>, peer: &Arc<str>, takes_tasks: bool) -> Result<Held, Refusal> {
        let mut state = self.lock();
        let is_new = !state.connections.contains_key(peer);
        let wanted =
            [(Limit::Connections, is_new, state.connections.len()), (Limit::Streams, takes_tasks, state.streams)];
        for (of, is_wanted, has) in wanted {
            let limit = state.limits.get(of).or_all();
            if is_wanted && has as u64 >= limit {
                self.count(&mut state, of, limit);
                return Err(Refusal::LimitReached { identity: self.identity.to_string(), of, limit });
            }
        }
        *state.connections.entry(peer.clone()).or_default() += 1;
        state.streams += usize::from(takes_tasks);
        Ok(Held { account: self.clone(), what: What::Call { peer: peer.clone(), takes_tasks } })
    }

    /// Uses so much of what it may have a second, if there is room for one; else says when there is.
    pub(super) fn spend(&self, of: Limit, count: usize, now: Instant) -> Result<(), Wait> {
        let mut state = self.lock();
        let Most(Some(limit)) = state.limits.get(of) else { return Ok(()) };
        let lasts = |count: f64| Duration::try_from_secs_f64(count / limit as f64).unwrap_or(Duration::MAX);
        let rate = match of {
            Limit::Results => &mut state.results,
            Limit::Statuses => &mut state.statuses,
            _ => &mut state.submits,
        };
        rate.spend(lasts(1.0), lasts(count as f64), AT_ONCE, now).map_err(|wait| Wait { limit, wait })
    }

    /// Somebody was refused, held up or given less because of this limit.
    pub(super) fn reached(&self, of: Limit) {
        let mut state = self.lock();
        let limit = state.limits.get(of).or_all();
        self.count(&mut state, of, limit);
    }

    fn count(&self, state: &mut State, of: Limit, limit: u64) {
        self.common.reached[of as usize].fetch_add(1, Relaxed);
        let now = Instant::now();
        if state.said.is_none_or(|said| now.duration_since(said) >= SAID_EVERY) {
            state.said = Some(now);
            warn!(
                "{:?} has reached a limit: {of} {limit}; contactctl identity limits shows what it may have, and changes it",
                self.identity.name.as_str()
            );
        }
    }

    fn is_idle(&self, now: Instant) -> bool {
        let state = self.lock();
        [&state.results, &state.statuses, &state.submits].into_iter().all(|rate| rate.is_idle(now))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A rate is used up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// So much a second.
    pub(super) limit: u64,
    /// After this there is room for one.
    pub(super) wait: Duration,
}

/// What an identity has open. Dropped, it has that no more.
pub(super) struct Held {
    account: Arc<Account>,
    what: What,
}

enum What {
    Call {
        peer: Arc<str>,
        takes_tasks: bool,
    },
    /// A connection that is one too many.
    Beyond,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.account.lock();
        match &self.what {
            What::Beyond => state.beyond -= 1,
            What::Call { peer, takes_tasks } => {
                state.streams -= usize::from(*takes_tasks);
                if let Some(uses) = state.connections.get_mut(peer) {
                    *uses -= 1;
                    if *uses == 0 {
                        state.connections.remove(peer);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::roles::Role;
    use super::*;
    use crate::task::{Name, NameOf};

    fn holder(name: &str) -> Holder {
        Holder::Certificate(Identity { role: Role::Agent, name: Name::new(NameOf::ClientOrGroup, name).unwrap() })
    }

    fn own(limits: &[(Limit, u64)]) -> Own {
        limits.iter().map(|(limit, number)| (*limit, Most::of(*number))).collect()
    }

    #[test]
    fn connections_and_streams_are_counted_together_for_one_identity_and_those_that_ended_no_more() {
        let accounts = Accounts::new(Limits::default());
        let account = accounts.of(holder("web"), own(&[(Limit::Connections, 2), (Limit::Streams, 3)]));
        let refused = |peer: &str, takes_tasks| match account.hold(&peer.into(), takes_tasks) {
            Err(Refusal::LimitReached { of, .. }) => of.name(),
            Err(other) => panic!("{other}"),
            Ok(_) => "nothing",
        };
        let connection = account.connect(&"a".into()).unwrap();
        let first = account.hold(&"a".into(), true).unwrap();
        let second = account.hold(&"b".into(), true).unwrap();
        assert_eq!(account.open(), (2, 2));
        assert_eq!((refused("c", true), refused("c", false)), ("connections", "connections"));
        let third = account.hold(&"a".into(), true).unwrap();
        assert_eq!((refused("a", true), refused("a", false)), ("streams", "nothing"));
        drop(second);
        assert_eq!(refused("c", true), "nothing");
        drop((first, third));
        assert_eq!(account.open(), (1, 0), "the connection is still there");
        drop(connection);
        assert_eq!(account.open(), (0, 0));
        // Another of that name: with a token.
        let Holder::Certificate(identity) = holder("web") else { panic!() };
        assert_eq!(accounts.of(Holder::Token(identity), Own::new()).limits(), Limits::default());
        let reached: Vec<u64> = accounts.reached().map(|(_, count)| count).collect();
        assert_eq!(reached, [2, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_few_connections_too_many_are_kept_to_be_told_so() {
        let account = Accounts::new(Limits::default()).of(holder("web"), own(&[(Limit::Connections, 1)]));
        let all: Vec<_> = (0..20).map_while(|n| account.connect(&format!("{n}").into())).collect();
        assert_eq!((all.len(), account.open()), (1 + TOLD_WHY, (1, 0)));
        drop(all);
        assert_eq!(account.lock().beyond, 0);
    }

    #[test]
    fn what_a_grant_says_goes_before_the_settings_and_both_count_at_once() {
        let accounts = Accounts::new(Limits::default());
        let account = accounts.of(holder("web"), own(&[(Limit::Streams, 5)]));
        let count = |limit| account.limits().get(limit).number();
        assert_eq!((count(Limit::Streams), count(Limit::Connections)), (5, 4_096));
        let mut limits = Limits::default();
        limits.set(Limit::Streams, Most::of(9));
        limits.set(Limit::Window, Most::of(7));
        accounts.set_limits(limits);
        assert_eq!((count(Limit::Streams), count(Limit::Window)), (5, 7));
        let changes = Changes::from([(Limit::Streams, None), (Limit::Window, Some(Most::NONE))]);
        let quota = account.change(changed(&account.own(), &changes));
        assert_eq!((count(Limit::Streams), count(Limit::Window)), (9, 0));
        assert_eq!((quota.window, quota.bytes), (u32::MAX, u64::MAX));
        // The same one again: its grant is what was said last, as long as it is there.
        let before = (account.own(), quota.of);
        assert_eq!(accounts.of(holder("web"), Own::new()).own(), before.0);
        drop(account);
        let account = accounts.of(holder("web"), Own::new());
        assert_eq!((account.own(), account.quota().of), (Own::new(), before.1));
    }

    #[test]
    fn what_is_known_of_identities_is_bounded_by_those_that_are_there() {
        let accounts = Accounts::new(Limits::default());
        let kept = accounts.of(holder("kept"), Own::new());
        (0..3 * FEW).for_each(|n| drop(accounts.of(holder(&n.to_string()), Own::new())));
        assert!(accounts.lock().of.len() <= FEW + 1);
        assert!(Arc::ptr_eq(&kept, &accounts.of(holder("kept"), Own::new())));
    }

    #[test]
    fn a_limit_is_a_number_or_none() {
        assert_eq!(["5", "none"].map(|text| text.parse()), [Ok(Most::of(5)), Ok(Most::NONE)]);
        assert_eq!(["0", "-1", "", "many"].map(|text| text.parse::<Most>().is_err()), [true; 4]);
        for limit in Limit::ALL {
            assert_eq!(Limit::named(limit.name()).unwrap(), limit);
        }
        assert!(Limit::named("stream").unwrap_err().to_string().contains("streams"));
    }

    #[test]
    fn a_grant_is_read_as_it_is_written() {
        let own = own(&[(Limit::Streams, 5), (Limit::Bytes, 0)]);
        let text = serde_json::to_string(&own).unwrap();
        assert_eq!(text, r#"{"streams":5,"bytes":0}"#);
        assert_eq!(serde_json::from_str::<Own>(&text).unwrap(), own);
    }
}
