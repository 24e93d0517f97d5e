//! What must hold of everything that the core does, kept in the plainest way.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use contact::attempts::Attempts;
use contact::broker::{Config, Held, Join, NotYourTurn, OutcomeReport, Reporter, SessionId, Standing};
use contact::group_limits::{GroupLimits, OnDead, PerSecond};
use contact::labels::{Labels, Selector};
use contact::now::{Now, Steady};
use contact::retry::{Retry, RetryPolicy};
use contact::store::{Checkpoint, LanePlace, OpenTask, Recovered};
use contact::task::{
    Audience, ClientId, GroupName, Name, NewResult, Outcome, Priority, Progress, Replace, Task, TaskId, Time,
};

use super::world::Stream;

/// A group that has a name.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) broadcast_after: TaskId,
    pub(crate) paused: bool,
    pub(crate) retry: RetryPolicy,
    pub(crate) limits: GroupLimits,
    /// When it was given tasks, since there is a limit on that.
    begun: Vec<Steady>,
    /// What the client said that came last.
    pub(crate) labels: Labels,
    /// Which one it is, if there was one of its name before.
    generation: usize,
}

/// What is known of one task with one group.
#[derive(Debug, Default, Clone)]
struct Ledger {
    settled: bool,
    /// The last attempt that the log of outcomes knows of.
    logged: u32,
    /// The last attempt that was seen since the start, or that the checkpoint knew of from which it began.
    seen: u32,
    /// Attempts that are spent, and which delivery was the last that spent one.
    spent: u32,
    begun_at: u32,
    /// Since then: deliveries that came back though their client gave none back; and those of clients that never said anything.
    lost: u32,
    silent: u32,
    /// Until when it waits at least before it goes out again, whatever becomes of the time of day; and at most. The two differ
    /// where the process was started again and the clock had stepped.
    waits_until: Option<Steady>,
    latest: Option<Steady>,
    revived: bool,
    /// It was with a client when the process ended, and is held back for that until then.
    held_until: Option<Steady>,
    /// Where in the log its last outcome stands.
    at: usize,
}

impl Ledger {
    /// The last attempt that is known of.
    fn last(&self) -> u32 {
        self.logged.max(self.seen)
    }

    /// It has not gone out, and is not settled.
    fn is_untouched(&self) -> bool {
        !self.settled && !self.revived && self.last() == 0
    }

    /// Work on that delivery began.
    fn begin(&mut self, attempt: u32) {
        self.spent += u32::from(self.begun_at != attempt);
        self.held_until = None;
        (self.begun_at, self.lost, self.silent) = (attempt, 0, 0);
    }

    /// It did not.
    fn release(&mut self, attempt: u32) {
        if self.begun_at == attempt {
            self.spent -= 1;
            self.begun_at = 0;
        }
        self.held_until = None;
    }
}

#[derive(Debug)]
struct Lease {
    /// `None`: the stream of its client is yet to come.
    session: Option<SessionId>,
    attempt: u32,
    begun: bool,
    /// What its client said last of it: words, and how far it is.
    said: (Option<String>, Option<Progress>),
    deadline: Steady,
    /// The stream of its client ended, and nothing was heard of that since.
    left: bool,
    /// Where it was last renewed from.
    renewed_from: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Peer {
    sessions: usize,
    reporters: usize,
    /// The latest.
    session: Option<SessionId>,
    group: Option<(GroupName, usize)>,
    unmatched: VecDeque<(TaskId, u32)>,
}

pub(crate) enum Logged {
    Result(NewResult, Now),
    Forgot(GroupName),
}

impl Logged {
    pub(crate) fn result(&self) -> Option<&NewResult> {
        match self {
            Logged::Result(result, _) => Some(result),
            Logged::Forgot(_) => None,
        }
    }
}

/// What is known beforehand of the result that an outcome leaves.
#[derive(Debug)]
pub(crate) struct Expected {
    group: Option<GroupName>,
    /// Task and attempt.
    of: Option<(TaskId, u32)>,
    late: Option<bool>,
    not_before: Option<Time>,
    /// A `RETRY` that names no delay: how long it may wait at least, and at most.
    waits: Option<(Time, Time)>,
}

impl Expected {
    pub(crate) fn check(&self, result: &NewResult) {
        assert_eq!(result.group, self.group, "{result:?}");
        if let Some(of) = self.of {
            assert_eq!((result.task, result.attempt), of, "matched with the delivery it belongs to");
        }
        if let Some(late) = self.late {
            assert_eq!(result.late, late, "late or not: {result:?}");
        }
        match self.waits {
            Some((least, most)) => {
                assert!((least..=most).contains(&result.not_before.unwrap_or(result.at)), "{result:?}")
            }
            None => assert_eq!(result.not_before, self.not_before, "{result:?}"),
        }
    }
}

/// By so much the clock may be off, and what waits for a while is not stored anew.
const DRIFT: Duration = Duration::from_secs(1);

pub(crate) struct Model {
    pub(crate) groups: BTreeMap<GroupName, Known>,
    pub(crate) log: Vec<Logged>,
    pub(crate) cancelled: BTreeSet<TaskId>,
    /// What a run takes back now.
    pub(crate) taking_back: Option<TaskId>,
    /// Where the log stood when the clock stepped last.
    pub(crate) stepped: Option<usize>,
    /// Several events came at once: what was delivered by the first may have been lost by the second.
    pub(crate) batch: bool,
    /// Where the log stood before this event.
    pub(crate) before: usize,
    ledgers: HashMap<(GroupName, TaskId), Ledger>,
    leases: BTreeMap<(GroupName, TaskId), Lease>,
    /// The dead that hold their lanes.
    held: BTreeSet<(GroupName, TaskId)>,
    /// The newest task that each group, or passing stream, was given for the first time, by class; since the start.
    first: HashMap<(Result<GroupName, SessionId>, Priority), TaskId>,
    /// The lowest class that each group was given tasks of in this step.
    given: BTreeMap<GroupName, Priority>,
    /// First deliveries of this step.
    firsts: Vec<(Result<GroupName, SessionId>, Priority, SessionId, TaskId)>,
    /// Of these, those of a lane.
    firsts_of_lanes: Vec<((GroupName, Name, Priority), SessionId, TaskId)>,
    peers: HashMap<Arc<str>, Peer>,
    /// What a client said that it is at work on, though another delivery of that has taken its place: to be revoked.
    pub(crate) stale: Option<(SessionId, TaskId, u32)>,
    /// The streams whose client said something of a task, or that the server ended.
    heard: BTreeSet<SessionId>,
    /// Until when the server kept its clients waiting.
    pub(crate) kept_waiting: Option<Steady>,
    /// When another process took each id, while there is a stream.
    takeovers: BTreeMap<ClientId, Vec<Steady>>,
    ack_timeout: Duration,
    restart_grace: Duration,
    max_attempts: u32,
    max_deliveries: u32,
    retry: Retry,
    anonymous_group: Option<GroupName>,
    generations: usize,
}

impl Model {
    pub(crate) fn new(config: &Config) -> Model {
        Model {
            groups: BTreeMap::new(),
            log: Vec::new(),
            cancelled: BTreeSet::new(),
            taking_back: None,
            stepped: None,
            batch: false,
            before: 0,
            ledgers: HashMap::new(),
            leases: BTreeMap::new(),
            held: BTreeSet::new(),
            first: HashMap::new(),
            given: BTreeMap::new(),
            firsts: Vec::new(),
            firsts_of_lanes: Vec::new(),
            peers: HashMap::new(),
            heard: BTreeSet::new(),
            kept_waiting: None,
            takeovers: BTreeMap::new(),
            stale: None,
            ack_timeout: config.ack_timeout,
            restart_grace: config.restart_grace,
            max_attempts: config.max_attempts,
            max_deliveries: config.max_deliveries,
            retry: config.retry,
            anonymous_group: config.anonymous_group.clone(),
            generations: 0,
        }
    }

    pub(crate) fn wants(&self, group: &GroupName, task: &Task) -> bool {
        match &task.spec.to {
            Some(to) => to == group,
            None => {
                is_named(task, group) && self.groups.get(group).is_some_and(|known| task.id > known.broadcast_after)
            }
        }
    }

    /// Broadcasts that are for other groups, which this one may not have passed: until then they are counted.
    pub(crate) fn others<'a>(&self, group: &GroupName, tasks: impl Iterator<Item = &'a Arc<Task>>) -> usize {
        let after = self.groups[group].broadcast_after;
        tasks.filter(|task| task.spec.to.is_none() && task.id > after && !is_named(task, group)).count()
    }

    /// A client of the group came.
    pub(crate) fn says(&mut self, group: &GroupName, labels: &Labels) {
        self.groups.get_mut(group).unwrap().labels = labels.clone();
    }

    pub(crate) fn is_settled(&self, group: &GroupName, task: TaskId) -> bool {
        self.ledgers.get(&(group.clone(), task)).is_some_and(|ledger| ledger.settled)
    }

    /// Those of the tasks that the group is to get and has not settled, in their order.
    pub(crate) fn unsettled<'a>(&self, group: &GroupName, tasks: impl Iterator<Item = &'a Arc<Task>>) -> Vec<TaskId> {
        let mut key = (group.clone(), 0);
        let mut is_settled = |task| {
            key.1 = task;
            self.ledgers.get(&key).is_some_and(|ledger| ledger.settled)
        };
        tasks.filter(|task| self.wants(group, task) && !is_settled(task.id)).map(|task| task.id).collect()
    }

    pub(crate) fn unsettled_groups(&self, task: &Task) -> Vec<GroupName> {
        let open = |group: &&GroupName| self.wants(group, task) && !self.is_settled(group, task.id);
        self.groups.keys().filter(open).cloned().collect()
    }

    pub(crate) fn group_is_there(&mut self, group: &GroupName, broadcast_after: TaskId) {
        self.generations += 1;
        let generation = self.generations;
        let retry = RetryPolicy::default();
        self.groups.entry(group.clone()).or_insert(Known {
            broadcast_after,
            paused: false,
            retry,
            limits: GroupLimits::default(),
            begun: Vec::new(),
            labels: Labels::default(),
            generation,
        });
    }

    pub(crate) fn forgot(&mut self, group: &GroupName) {
        self.log.push(Logged::Forgot(group.clone()));
        self.forget(group);
    }

    fn forget(&mut self, group: &GroupName) {
        self.groups.remove(group);
        self.ledgers.retain(|(name, _), _| name != group);
        self.held.retain(|(name, _)| name != group);
        self.leases.retain(|(name, _), _| name != group);
        self.first.retain(|(owner, _), _| owner.as_ref() != Ok(group));
    }

    /// A stream asks for an id that another may have.
    pub(crate) fn asked_for(
        &mut self,
        join: &Join,
        holder: Option<&Join>,
        result: &Result<(), NotYourTurn>,
        now: Steady,
    ) {
        let Some(client) = &join.client else { return assert!(result.is_ok()) };
        let takeovers = self.takeovers.entry(client.clone()).or_default();
        let same = |holder: &Join| match (&join.instance, &holder.instance) {
            (None, None) => join.peer == holder.peer,
            (new, old) => new == old,
        };
        match holder {
            None => takeovers.clear(),
            Some(holder) if same(holder) => {}
            Some(_) if result.is_ok() => {
                takeovers.push(now);
                return;
            }
            Some(_) => {
                let first = takeovers.len().checked_sub(3).map(|at| takeovers[at]);
                let refused = result.as_ref().unwrap_err();
                assert!(
                    first.is_some() && refused.wait <= Duration::from_secs(9 * 20),
                    "{refused:?} after {takeovers:?}"
                );
                return;
            }
        }
        assert_eq!(result, &Ok(()), "it takes the id from nobody");
    }

    // ---- addresses

    pub(crate) fn peer_joined(&mut self, id: SessionId, name: &Arc<str>, group: Option<&GroupName>, now: Now) {
        let generation = |group: &GroupName| (group.clone(), self.groups[group].generation);
        let generation = group.map(generation);
        let peer = self.peers.entry(name.clone()).or_default();
        peer.sessions += 1;
        peer.session = Some(id);
        peer.group = generation;
        // What was renewed from there before there was a stream.
        for ((of, _), lease) in &mut self.leases {
            if Some(of) == group && lease.session.is_none() && !lease.left && lease.renewed_from.as_ref() == Some(name)
            {
                lease.session = Some(id);
                lease.deadline = now.steady.after(self.ack_timeout);
            }
        }
    }

    pub(crate) fn peer_left(&mut self, name: &Arc<str>) {
        self.peers.get_mut(name).unwrap().sessions -= 1;
        self.drop_idle(name);
    }

    pub(crate) fn reporter_connected(&mut self, peer: &Arc<str>) {
        self.peers.entry(peer.clone()).or_default().reporters += 1;
    }

    pub(crate) fn reporter_disconnected(&mut self, name: &Arc<str>) {
        if let Some(peer) = self.peers.get_mut(name) {
            peer.reporters = peer.reporters.saturating_sub(1);
            self.drop_idle(name);
        }
    }

    fn drop_idle(&mut self, name: &Arc<str>) {
        if self.peers.get(name).is_some_and(|peer| peer.sessions == 0 && peer.reporters == 0) {
            self.peers.remove(name);
        }
    }

    // ---- leases

    pub(crate) fn held_by(&self, session: SessionId) -> usize {
        self.leases.values().filter(|lease| lease.session == Some(session)).count()
    }

    pub(crate) fn tasks_held_by(&self, session: SessionId) -> Vec<TaskId> {
        self.leases.iter().filter(|(_, lease)| lease.session == Some(session)).map(|((_, task), _)| *task).collect()
    }

    /// Every lease: group, task, session, attempt.
    pub(crate) fn leases(&self) -> Vec<(GroupName, TaskId, Option<SessionId>, u32)> {
        let leases = self.leases.iter();
        leases.map(|((group, task), lease)| (group.clone(), *task, lease.session, lease.attempt)).collect()
    }

    /// What the client that has a task said last of it.
    pub(crate) fn said(&self, group: &GroupName, task: TaskId) -> Option<(Option<String>, Option<Progress>)> {
        self.leases.get(&(group.clone(), task)).map(|lease| lease.said.clone())
    }

    // ---- what a run asks

    /// The groups whose labels match, by name.
    pub(crate) fn matching(&self, selector: &Selector) -> Vec<GroupName> {
        let matching = self.groups.iter().filter(|(_, known)| selector.matches(&known.labels));
        matching.map(|(name, _)| name.clone()).collect()
    }

    /// Where a task stands with a group. `is_there`: a client of it is connected.
    pub(crate) fn standing(&self, group: &GroupName, task: Option<&Task>, is_there: bool, now: Now) -> Standing {
        let there = if is_there { Standing::Waits } else { Standing::Away };
        let (Some(_), Some(task)) = (self.groups.get(group), task) else { return there };
        let key = (group.clone(), task.id);
        let ledger = self.ledgers.get(&key);
        let begun = match self.leases.get(&key) {
            Some(lease) => Some(lease.begun),
            None => ledger
                .filter(|ledger| !ledger.settled && ledger.held_until.is_some_and(|until| until > now.steady))
                .map(|ledger| ledger.begun_at == ledger.last()),
        };
        match begun {
            Some(true) => Standing::Begun,
            Some(false) => Standing::Sent,
            None if !self.wants(group, task) => Standing::Away,
            None if ledger.is_some_and(|ledger| ledger.settled) => Standing::Settled,
            None => there,
        }
    }

    /// Every task that was delivered and waits to go out again: group, task, attempt.
    pub(crate) fn waiting(&self) -> Vec<(GroupName, TaskId, u32)> {
        let waits = |(key, ledger): &(&(GroupName, TaskId), &Ledger)| {
            !ledger.settled && ledger.last() > 0 && !self.leases.contains_key(*key)
        };
        let waiting = self.ledgers.iter().filter(waits);
        let mut waiting: Vec<_> =
            waiting.map(|((group, task), ledger)| (group.clone(), *task, ledger.last())).collect();
        waiting.sort_unstable();
        waiting
    }

    /// Until when tasks of this group wait that are to go out again, if that is known; and of these, what is to go out now.
    pub(crate) fn waiting_of(&self, group: &GroupName, now: Now) -> (Option<Steady>, Vec<TaskId>) {
        let waits = self.ledgers.iter().filter(|(key, ledger)| {
            key.0 == *group && !ledger.settled && ledger.last() > 0 && !self.leases.contains_key(*key)
        });
        let (later, due): (Vec<_>, Vec<_>) = waits.partition(|(_, ledger)| ledger.latest > Some(now.steady));
        let known = later.iter().filter(|(_, ledger)| ledger.waits_until == ledger.latest);
        let first = known.filter_map(|(_, ledger)| ledger.latest).min();
        (first, due.into_iter().map(|((_, task), _)| *task).collect())
    }

    /// When the first of the tasks of this group that wait to go out again does so at the latest, if it is later than now.
    pub(crate) fn over_at(&self, group: &GroupName, now: Now) -> Option<Steady> {
        let waits = self.ledgers.iter().filter(|(key, ledger)| key.0 == *group && !ledger.settled);
        waits.filter_map(|(_, ledger)| ledger.latest).filter(|latest| *latest > now.steady).min()
    }

    /// Whether that group was ever given this task.
    pub(crate) fn went_out(&self, group: &GroupName, task: TaskId) -> bool {
        self.ledgers.get(&(group.clone(), task)).is_some_and(|ledger| ledger.last() > 0)
    }

    pub(crate) fn first_deadline(&self) -> Option<Steady> {
        self.leases.values().map(|lease| lease.deadline).min()
    }

    /// The same process came back: it keeps what it holds, for a while unless it said so already, over the new connection.
    pub(crate) fn moved(&mut self, old: SessionId, new: SessionId, connection: Option<&Arc<str>>, now: Now) {
        let deadline = now.steady.after(self.ack_timeout.min(Duration::from_secs(5)));
        if self.heard.contains(&old) {
            self.heard.insert(new);
        }
        for lease in self.leases.values_mut().filter(|lease| lease.session == Some(old)) {
            lease.session = Some(new);
            if connection.is_none() || lease.renewed_from.as_ref() != connection {
                lease.deadline = lease.deadline.min(deadline);
            }
        }
    }

    /// A stream ended. What its client has begun stays with it for a moment, if it said that it had begun.
    pub(crate) fn left(&mut self, id: SessionId, now: Now) {
        let deadline = now.steady.after(self.ack_timeout.min(Duration::from_secs(5)));
        for lease in self.leases.values_mut().filter(|lease| lease.session == Some(id) && lease.begun) {
            (lease.session, lease.left, lease.deadline) = (None, true, lease.deadline.min(deadline));
        }
    }

    /// The server ended this stream for a newer one, or its client's server was lost: that the client said nothing means nothing.
    pub(crate) fn is_excused(&mut self, session: SessionId) {
        self.heard.insert(session);
    }

    /// A stream goes on after another server led, whose client has this task.
    pub(crate) fn goes_on(&mut self, id: SessionId, stream: &Stream, held: &Held, now: Now, tasks: &[Arc<Task>]) {
        let group = stream.group.clone().unwrap();
        let key = (group, held.task);
        let is_its = tasks.get(held.task as usize - 1).is_some_and(|task| self.wants(&key.0, task));
        if !is_its || self.leases.contains_key(&key) || self.is_settled(&key.0, held.task) {
            return;
        }
        let ledger = self.ledgers.entry(key.clone()).or_default();
        // Otherwise something came of it, or it was given to another since.
        let is_its = ledger.last() < held.attempt || ledger.last() == held.attempt && ledger.held_until.is_some();
        if !is_its {
            return;
        }
        ledger.begun_at = if ledger.last() == held.attempt { ledger.begun_at } else { 0 };
        (ledger.seen, ledger.lost, ledger.silent) = (held.attempt, 0, 0);
        (ledger.waits_until, ledger.latest, ledger.held_until) = (None, None, None);
        let begun = held.begun || ledger.begun_at == held.attempt;
        if held.begun {
            ledger.begin(held.attempt);
        }
        let deadline = now.steady.after(self.ack_timeout);
        let (session, attempt, renewed_from) = (Some(id), held.attempt, Some(stream.join.peer.clone()));
        let said = Default::default();
        self.leases.insert(key, Lease { session, attempt, begun, said, deadline, left: false, renewed_from });
    }

    // ---- limits and lanes

    pub(crate) fn limits_are(&mut self, group: &GroupName, limits: GroupLimits) {
        let known = self.groups.get_mut(group).unwrap();
        if known.limits.max_begun != limits.max_begun {
            known.begun.clear();
        }
        known.limits = limits;
        if limits.on_dead == OnDead::Release {
            self.held.retain(|(name, _)| name != group);
        }
    }

    pub(crate) fn held(&self) -> Vec<(GroupName, TaskId)> {
        self.held.iter().cloned().collect()
    }

    pub(crate) fn held_lanes(&self, group: &GroupName) -> usize {
        self.held.iter().filter(|(name, _)| name == group).count()
    }

    pub(crate) fn holds_no_more(&mut self, group: &GroupName, task: TaskId) {
        self.held.remove(&(group.clone(), task));
    }

    pub(crate) fn is_removed(&mut self, task: TaskId) {
        self.held.retain(|(_, held)| *held != task);
    }

    /// What a start finds of them: as the checkpoint has it, and what came after.
    fn held_after(&mut self, recovered: &Recovered, tasks: &[Arc<Task>]) {
        let dead = open_tasks(recovered).filter(|(_, open)| open.place == LanePlace::Dead);
        self.held = dead.map(|(group, open)| (group.clone(), open.id)).collect();
        for result in recovered.replay.iter().map(|entry| &entry.result).filter(|result| !result.late) {
            let Some(group) = &result.group else { continue };
            let key = (group.clone(), result.task);
            let holds = self.groups.get(group).is_some_and(|known| known.limits.on_dead == OnDead::Hold);
            let in_lane = || tasks[result.task as usize - 1].spec.lane.is_some();
            match result.outcome {
                Outcome::Revived | Outcome::Dropped => drop(self.held.remove(&key)),
                outcome if outcome.is_dead() && holds && in_lane() => drop(self.held.insert(key)),
                _ => {}
            }
        }
    }

    /// Whether a limit may be why tasks of the group do not go out.
    pub(crate) fn is_limited(&self, group: &GroupName) -> bool {
        let GroupLimits { max_in_flight, max_begun, .. } = self.groups[group].limits;
        let leased = self.leases.keys().filter(|(name, _)| name == group).count();
        let held_back = self.ledgers.iter().filter(|(key, ledger)| key.0 == *group && ledger.held_until.is_some());
        let in_flight = leased + held_back.count();
        max_begun.is_some() || max_in_flight.is_some_and(|max| in_flight >= max.get() as usize)
    }

    /// Of each lane of a group, what went out and is not settled, or is dead and holds it.
    fn places(&self, group: &GroupName, tasks: &[Arc<Task>]) -> HashMap<Name, Vec<TaskId>> {
        let is_out = |ledger: &Ledger| !ledger.settled && ledger.last() > 0;
        let out = self.ledgers.iter().filter(|(key, ledger)| key.0 == *group && is_out(ledger)).map(|(key, _)| key.1);
        let held = self.held.iter().filter(|(name, _)| name == group).map(|(_, task)| *task);
        let mut places: HashMap<Name, Vec<TaskId>> = HashMap::new();
        for task in out.chain(held) {
            if let Some(lane) = tasks[task as usize - 1].spec.waits_in() {
                places.entry(lane.clone()).or_default().push(task);
            }
        }
        places
    }

    /// The lanes of a group in which there is no place.
    pub(crate) fn full_lanes(&self, group: &GroupName, tasks: &[Arc<Task>]) -> BTreeSet<Name> {
        let most = self.groups[group].limits.lane_max.get() as usize;
        // That of a key has one place, however many others have.
        let room = |lane: &Name| if Replace::key_of(lane).is_some() { 1 } else { most };
        let full = self.places(group, tasks).into_iter().filter(|(lane, places)| places.len() >= room(lane));
        full.map(|(lane, _)| lane).collect()
    }

    /// A group is given a task, the first time or again.
    fn keeps_to_limits(&mut self, group: &GroupName, task: &Task, now: Steady, tasks: &[Arc<Task>]) {
        let key = (group.clone(), task.id);
        let has_place = self.held.contains(&key) || self.ledgers.get(&key).is_some_and(|ledger| ledger.last() > 0);
        if !has_place {
            let full = task.spec.waits_in().is_some_and(|lane| self.full_lanes(group, tasks).contains(lane));
            assert!(!full, "{task:?} of {group} goes beside others: {:?}", self.places(group, tasks));
        }
        let in_flight = self.leases.keys().filter(|(name, _)| name == group).count();
        let known = self.groups.get_mut(group).unwrap();
        if let Some(max) = known.limits.max_in_flight {
            assert!(in_flight < max.get() as usize, "{group} has {in_flight} in flight, and is given more");
        }
        if let Some(rate) = known.limits.max_begun.map(PerSecond::number) {
            known.begun.push(now);
            let burst = (rate / 10.0).max(1.0);
            for (since, count) in known.begun.iter().rev().zip(1..) {
                let most = burst + rate * now.since(*since).as_secs_f64() + 1e-6;
                assert!(f64::from(count) <= most, "{group} was given {count} since {since:?}; it is {now:?}");
            }
        }
    }

    // ---- what comes out of the core

    pub(crate) fn delivered(
        &mut self,
        id: SessionId,
        stream: &Stream,
        task: &Task,
        attempt: u32,
        now: Now,
        tasks: &[Arc<Task>],
    ) {
        self.peers.get_mut(&stream.join.peer).unwrap().unmatched.push_back((task.id, attempt));
        let Some(group) = &stream.group else {
            assert!(is_for_anonymous(task, &stream.join.labels), "an anonymous client gets what is for everyone");
            assert!(task.id > stream.start, "it gets what comes after its start");
            assert!(!stream.seen.contains(&task.id), "it gets everything once");
            assert_eq!(attempt, 1);
            if task.spec.not_before.is_none() {
                self.firsts.push((Err(id), task.spec.priority, id, task.id));
            }
            return;
        };
        assert!(self.wants(group, task), "task {} is not for {group}", task.id);
        let key = (group.clone(), task.id);
        let held = self.held_by(id);
        let unbegun_of = |lease: &&Lease| lease.session == Some(id) && !lease.begun;
        let unbegun = self.leases.values().filter(unbegun_of).count();
        let alone = self.leases.iter().find(|(of, lease)| unbegun_of(lease) && self.ledgers[*of].silent > 0);
        assert!(self.batch || alone.is_none(), "{alone:?} is to be alone with its client until that begins it");
        let most = self.max_attempts(group, task);
        let ledger = self.ledgers.entry(key.clone()).or_default();
        if self.batch && ledger.at > self.before && (attempt <= ledger.logged || ledger.settled) {
            // Given, and taken back or settled by another event of the burst.
            return;
        }
        if !self.batch {
            self.keeps_to_limits(group, task, now.steady, tasks);
        }
        let ledger = self.ledgers.entry(key.clone()).or_default();
        let is_first = ledger.is_untouched();
        assert!(!self.groups[group].paused, "{group} is paused");
        assert!(!ledger.settled, "task {} is settled for {group}", task.id);
        assert!(ledger.waits_until.is_none_or(|at| at <= now.steady), "task {} is delayed for {group}", task.id);
        assert_eq!(attempt, ledger.last() + 1, "attempts of task {} for {group} go up by one", task.id);
        assert!(ledger.spent < most, "task {} is begun {most} times at most", task.id);
        assert!(ledger.silent < self.max_deliveries, "no more than so many clients fall silent over task {}", task.id);
        assert!(self.batch || ledger.silent == 0 || unbegun == 0, "task {} is to be alone with its client", task.id);
        (ledger.seen, ledger.held_until) = (attempt, None);
        let begun = !stream.join.begins;
        if begun {
            ledger.begin(attempt);
        }
        let lowest = self.given.entry(group.clone()).or_insert(task.spec.priority);
        *lowest = task.spec.priority.max(*lowest);
        if attempt == 1 && task.spec.not_before.is_none() && !ledger.revived && task.spec.waits_in().is_none() {
            self.firsts.push((Ok(group.clone()), task.spec.priority, id, task.id));
        }
        if let Some(lane) = task.spec.waits_in().filter(|_| is_first && !self.batch && task.spec.not_before.is_none()) {
            self.firsts_of_lanes.push(((group.clone(), lane.clone(), task.spec.priority), id, task.id));
        }
        if attempt == 1
            && task.spec.not_before.is_none()
            && !ledger.revived
            && let Some(Audience::Matching(selector)) = task.spec.audience.as_deref()
        {
            let labels = &self.groups[group].labels;
            assert!(
                self.batch || selector.matches(labels),
                "task {} is for {selector}, and {group} is {labels}",
                task.id
            );
        }
        assert!(held < stream.window, "a client holds no more than its window");
        let deadline = now.steady.after(self.ack_timeout);
        let lease = Lease {
            session: Some(id),
            attempt,
            begun,
            said: Default::default(),
            deadline,
            left: false,
            renewed_from: None,
        };
        let before = self.leases.insert(key, lease);
        assert!(before.is_none(), "task {} of {group} is with a client already: {before:?}", task.id);
    }

    /// A checkpoint counts the deliveries that were made, all of them and no more.
    pub(crate) fn checkpointed(&mut self, checkpoint: &Checkpoint, now: Now) {
        let lists = checkpoint.groups.iter().flat_map(|group| group.open.iter().map(|open| (&group.name, open)));
        let rows =
            checkpoint.open.iter().flat_map(|(name, rows)| rows.values().flatten().map(move |open| (name, open)));
        for (group, open) in lists.chain(rows) {
            let Some(ledger) = self.ledgers.get(&(group.clone(), open.id)) else { continue };
            if open.place == LanePlace::Dead {
                assert!(self.batch || ledger.settled, "{open:?} of {group} holds its lane, and is not dead");
                continue;
            }
            let is_held = ledger.held_until.is_some_and(|until| until > now.steady);
            let is_known = !self.batch && !is_held && ledger.waits_until == ledger.latest;
            let waits =
                ledger.waits_until.filter(|until| is_known && *until > now.steady && open.attempts.deliveries > 0);
            if let Some(until) = waits.filter(|_| !self.leases.contains_key(&(group.clone(), open.id))) {
                assert_eq!(
                    open.not_before,
                    Some(now.wall_at(until)),
                    "what waits is stored with the time of day: {open:?}"
                );
            }
            let last = ledger.last();
            let Attempts { deliveries, spent, .. } = open.attempts;
            // It may be made before the deliveries of its step leave; in a burst, they may even be lost before that.
            let most = if self.batch { u32::MAX } else { last + 1 };
            assert!((last..=most).contains(&deliveries), "{open:?} of {group} went out {last} times");
            let most = ledger.spent + (deliveries - last);
            assert!(self.batch || (ledger.spent..=most).contains(&spent), "{open:?} of {group}: {ledger:?}");
        }
    }

    /// Checks the order of the deliveries of one step: nothing of a higher class is left that could have gone before them;
    /// first ones reach each client in order, and all of them come after those of earlier steps.
    pub(crate) fn step_ends(&mut self, tasks: &[Arc<Task>], now: Now) {
        let given = std::mem::take(&mut self.given);
        // In a burst it may have been accepted after they went out.
        for (group, lowest) in given.iter().filter(|_| !self.batch) {
            let could_go = |task: &&Arc<Task>| {
                let spec = &task.spec;
                let in_time = spec.not_before.is_none() && spec.expires_at.is_none_or(|at| at > now.wall);
                let in_lane = spec.waits_in().is_some();
                spec.priority < *lowest && in_time && !in_lane && self.is_untouched(group, task)
            };
            let passed = tasks.iter().find(could_go);
            assert!(passed.is_none(), "{group} was given {lowest:?} tasks before {passed:?}");
        }
        let mut newest: HashMap<_, TaskId> = HashMap::new();
        let mut newest_of: HashMap<(SessionId, Priority), TaskId> = HashMap::new();
        for (owner, class, session, task) in std::mem::take(&mut self.firsts) {
            let key = (owner, class);
            let before = self.first.get(&key).copied().unwrap_or(0);
            assert!(task > before, "{:?} tasks of {:?} come in order: {task} after {before}", key.1, key.0);
            let before = newest_of.insert((session, class), task).unwrap_or(0);
            assert!(task > before, "{class:?} tasks of one client come in order: {task} after {before}");
            let newest = newest.entry(key).or_default();
            *newest = task.max(*newest);
        }
        self.first.extend(newest);
        // Of a lane with several places, tasks may go to several clients in one step: those have no order among them.
        let mut newest: BTreeMap<_, TaskId> = BTreeMap::new();
        let mut newest_of: HashMap<_, TaskId> = HashMap::new();
        for (lane, session, task) in std::mem::take(&mut self.firsts_of_lanes) {
            let before = newest_of.insert((session, lane.clone()), task).unwrap_or(0);
            assert!(task > before, "tasks of {lane:?} for one client come in order: {task} after {before}");
            let newest = newest.entry(lane).or_default();
            *newest = task.max(*newest);
        }
        for ((group, lane, priority), newest) in newest {
            let passed = tasks.iter().take_while(|task| task.id < newest).find(|task| {
                let of_lane = (task.spec.waits_in(), task.spec.priority) == (Some(&lane), priority);
                let could_go = task.spec.not_before.is_none() && task.spec.expires_at.is_none();
                of_lane && could_go && self.is_untouched(&group, task)
            });
            assert_eq!(passed, None, "a lane is in order, and {group} is given task {newest}");
        }
    }

    /// Whether a task is for a group that has not been given it, and that has not settled it.
    fn is_untouched(&self, group: &GroupName, task: &Task) -> bool {
        self.wants(group, task) && self.ledgers.get(&(group.clone(), task.id)).is_none_or(Ledger::is_untouched)
    }

    pub(crate) fn recorded(
        &mut self,
        result: &NewResult,
        now: Now,
        streams: &BTreeMap<SessionId, Stream>,
        tasks: &[Arc<Task>],
    ) {
        self.log.push(Logged::Result(result.clone(), now));
        assert_eq!(result.at, now.wall, "what is written down has the time of day");
        let Some(group) = &result.group else { return };
        if result.late {
            return;
        }
        assert!((1..=tasks.len() as TaskId).contains(&result.task), "a result of no task changes nothing: {result:?}");
        let task = &tasks[result.task as usize - 1];
        let lease = self.leases.remove(&(group.clone(), result.task));
        match (&lease, result.outcome) {
            (Some(lease), Outcome::Lost) => {
                let gone = lease.session.is_some_and(|id| !streams.contains_key(&id));
                let gone = gone || (lease.left && lease.deadline <= now.steady);
                assert!(gone, "nothing is taken from a client that is there");
                assert!(lease.begun, "what was not begun is released: {result:?}");
                assert_eq!(result.attempt, lease.attempt);
            }
            (Some(lease), Outcome::TimedOut) => {
                assert!(lease.deadline <= now.steady, "a lease is not ended before its time");
                assert!(lease.begun && !lease.left, "that is released, or lost: {result:?}");
                assert_eq!(result.attempt, lease.attempt);
            }
            (Some(lease), Outcome::Released) => {
                assert_eq!(result.attempt, lease.attempt);
                // Whoever gives a task back says something about it.
                if result.ret.is_empty() {
                    let gone = lease.session.is_some_and(|id| !streams.contains_key(&id));
                    assert!(gone || lease.deadline <= now.steady, "nothing is taken from a client that is there");
                    assert!(!lease.begun, "what was begun is lost: {result:?}");
                    let ledger = self.ledgers.get_mut(&(group.clone(), result.task)).unwrap();
                    ledger.lost += 1;
                    let waited = self.kept_waiting.is_some_and(|until| now.steady < until.after(self.ack_timeout));
                    ledger.silent += u32::from(!waited && lease.session.is_some_and(|id| !self.heard.contains(&id)));
                }
            }
            (Some(lease), Outcome::Retry | Outcome::Failed) => assert_eq!(result.attempt, lease.attempt),
            (Some(lease), Outcome::Replaced) => assert!(!lease.begun, "what has begun goes on: {result:?}"),
            (Some(_), Outcome::Done | Outcome::Cancelled) => {}
            (Some(_), other) => panic!("{other:?} for a task that is with a client"),
            (None, Outcome::Lost | Outcome::TimedOut | Outcome::Released) => {
                assert!(self.batch, "a lease ended that nobody had: {result:?}");
                // Given and lost within the burst.
                self.ledgers.entry((group.clone(), result.task)).or_default().lost += 1;
            }
            (None, Outcome::Retry | Outcome::Failed) if !self.batch => {
                let last = self.ledgers.get(&(group.clone(), result.task)).map_or(0, Ledger::last);
                assert!(last == 0 || result.attempt == last, "{result:?}: that was attempt {last}");
            }
            (None, Outcome::Expired) => {
                assert!(task.spec.expires_at.is_some_and(|at| at <= now.wall), "{result:?}: its time is not over");
                assert!(task.spec.cancelled_at().is_none(), "{result:?}: it was cancelled");
                // The core may not have heard of the one that took its place.
                let heard_of = task.spec.replaced_by().is_some_and(|by| by <= tasks.len() as TaskId);
                assert!(!heard_of, "{result:?}: it was replaced");
            }
            (None, Outcome::NotSelected) => {
                let Some(Audience::Matching(selector)) = task.spec.audience.as_deref() else {
                    panic!("{result:?}: it has no selector")
                };
                assert!(self.batch || !selector.matches(&self.groups[group].labels), "{result:?}: {selector} matches");
                let ledger = self.ledgers.get(&(group.clone(), task.id));
                // A crash may have forgotten that it went out, and labels may have changed since.
                assert!(ledger.is_none_or(|ledger| !ledger.revived && ledger.last() == 0), "{result:?}: {ledger:?}");
                assert!(!result.ret.is_empty(), "the ledger says why");
            }
            (None, Outcome::Replaced) if !self.batch => {
                let ledger = self.ledgers.get(&(group.clone(), task.id));
                let held = ledger.is_some_and(|ledger| {
                    ledger.held_until.is_some_and(|until| until > now.steady) && ledger.begun_at == ledger.last()
                });
                assert!(!held, "{result:?}: its client may come back and be at work on it");
            }
            (None, Outcome::Cancelled) => {
                let is_taken_back = self.taking_back == Some(task.id);
                assert!(is_taken_back || task.spec.cancelled_at().is_some(), "{result:?}: nobody cancelled it")
            }
            (None, _) => {}
        }
        if result.outcome == Outcome::Replaced {
            // It may be cancelled since.
            let by = task.spec.replaced_by().map(|by| format!("replaced by task {by}"));
            assert!(by.is_none_or(|by| by == result.ret), "{result:?}");
            let cancelled = task.spec.cancelled_at().is_some();
            assert!(cancelled || task.spec.replaced_by().is_some(), "{result:?}: nothing took its place");
        }
        if result.outcome == Outcome::Exhausted {
            let most = self.max_attempts(group, task);
            let ledger = self.ledgers.get(&(group.clone(), result.task)).cloned().unwrap_or_default();
            let used_up = ledger.spent >= most || ledger.lost >= self.max_deliveries;
            assert!(self.batch || used_up, "{result:?}: it has attempts left, {ledger:?}");
        }
        let went_out = lease.is_some() || self.went_out(group, task.id);
        if result.outcome.is_dead()
            && went_out
            && task.spec.lane.is_some()
            && self.groups[group].limits.on_dead == OnDead::Hold
        {
            self.held.insert((group.clone(), task.id));
        }
        if result.outcome == Outcome::Revived {
            self.holds_no_more(group, task.id);
        }
        self.fold(result, task.id, now);
        if let Outcome::Lost | Outcome::TimedOut = result.outcome {
            let spent = self.ledgers[&(group.clone(), task.id)].spent;
            let (least, most) = self.waits(group, task, spent - 1, now);
            assert!(self.batch || (least..=most).contains(&result.not_before.unwrap_or(result.at)), "{result:?}");
        }
        self.ledgers.entry((group.clone(), task.id)).or_default().at = self.log.len();
    }

    /// What a result changes.
    fn fold(&mut self, result: &NewResult, task: TaskId, now: Now) {
        let Some(group) = &result.group else { return };
        // That an operator has seen a dead letter changes nothing.
        if result.late || result.outcome == Outcome::Dropped {
            return;
        }
        let ledger = self.ledgers.entry((group.clone(), task)).or_default();
        if result.outcome.settles() {
            assert!(!ledger.settled, "settled twice: {result:?}");
            ledger.settled = true;
            ledger.logged = ledger.logged.max(result.attempt);
        } else if result.outcome == Outcome::Revived {
            assert!(ledger.settled, "it was not settled: {result:?}");
            *ledger = Ledger { revived: true, ..Ledger::default() };
        } else {
            assert!(!ledger.settled, "it was settled: {result:?}");
            ledger.logged = ledger.logged.max(result.attempt);
            match result.outcome {
                Outcome::Released => ledger.release(result.attempt),
                _ => ledger.begin(result.attempt),
            }
            let wait = result.not_before.map(|until| until.since(result.at));
            ledger.waits_until = wait.map(|wait| now.steady.after(wait));
            ledger.latest = ledger.waits_until;
        }
    }

    /// The clock stepped since that outcome, and the process was started again: it may be that its task waits less long, but never
    /// longer than it would if the wait began now.
    fn wait_begins_again(&mut self, result: &NewResult, now: Now) {
        let counts = !result.late && result.outcome != Outcome::Dropped;
        let Some(group) = result.group.as_ref().filter(|_| counts) else { return };
        if let Some(ledger) =
            self.ledgers.get_mut(&(group.clone(), result.task)).filter(|ledger| ledger.latest.is_some())
        {
            let wait = result.not_before.map_or(Duration::ZERO, |until| until.since(result.at));
            (ledger.waits_until, ledger.latest) = (None, Some(now.steady.after(wait + DRIFT)));
        }
    }

    /// The process was started again: what is known is what the log says, up to there, and the checkpoint.
    pub(crate) fn restarted(&mut self, log: usize, recovered: &Recovered, tasks: &[Arc<Task>], now: Now) {
        let log: Vec<Logged> = self.log.drain(..).take(log).collect();
        self.ledgers.clear();
        self.leases.clear();
        self.first.clear();
        self.peers.clear();
        self.heard.clear();
        self.kept_waiting = None;
        self.takeovers.clear();
        self.groups.clear();
        // What stands in the log was checked when it was recorded.
        self.stepped = self.stepped.map(|at| at.min(log.len()));
        for (place, entry) in log.iter().enumerate() {
            match entry {
                Logged::Result(result, at) => {
                    self.fold(result, result.task, *at);
                    if self.stepped.is_some_and(|at| place < at) {
                        self.wait_begins_again(result, now);
                    }
                }
                Logged::Forgot(group) => self.forget(group),
            }
        }
        self.log = log;
        for state in &recovered.groups {
            self.group_is_there(&state.name, state.broadcast_after);
            let known = self.groups.get_mut(&state.name).unwrap();
            (known.paused, known.retry, known.labels) = (state.paused, state.retry, state.labels.clone());
            known.limits = state.limits;
        }
        self.held_after(recovered, tasks);
        let groups = &self.groups;
        self.ledgers.retain(|(group, _), _| groups.contains_key(group));
        // A crash forgets deliveries, and that they were begun: what is spent is what the checkpoint has, and what came after.
        for (key, ledger) in &mut self.ledgers {
            let open = open_tasks(recovered).find(|(group, open)| (*group, open.id) == (&key.0, key.1));
            let open = open.map(|(_, open)| open);
            let Attempts { deliveries, spent, begun, silent } = open.map_or(Attempts::default(), |open| open.attempts);
            (ledger.spent, ledger.begun_at) = (spent, if begun { deliveries } else { 0 });
            (ledger.lost, ledger.silent) = (silent, 0);
            for entry in &recovered.replay {
                let result = &entry.result;
                let of_it = result.group.as_ref() == Some(&key.0) && result.task == key.1 && !result.late;
                match result.outcome {
                    Outcome::Released if of_it => {
                        ledger.release(result.attempt);
                        ledger.lost += 1;
                    }
                    Outcome::Lost | Outcome::TimedOut | Outcome::Retry if of_it => ledger.begin(result.attempt),
                    Outcome::Revived if of_it => (ledger.spent, ledger.begun_at) = (0, 0),
                    _ => {}
                }
            }
        }
        // What was delivered then, and nothing was said of since, may be with its client.
        let held_until = now.steady.after(self.restart_grace.min(self.ack_timeout));
        for (group, open) in open_tasks(recovered) {
            let of_it = |result: &NewResult| result.group.as_ref() == Some(group) && result.task == open.id;
            let counts = |result: &NewResult| of_it(result) && !result.late && result.outcome != Outcome::Dropped;
            if open.attempts.deliveries > 0 && !recovered.replay.iter().any(|entry| counts(&entry.result)) {
                let Attempts { deliveries, spent, begun, silent } = open.attempts;
                let ledger = self.ledgers.entry((group.clone(), open.id)).or_default();
                ledger.seen = deliveries;
                (ledger.spent, ledger.begun_at, ledger.lost) = (spent, if begun { deliveries } else { 0 }, silent);
                if open.not_before.is_none() {
                    // It was with its client when that was written.
                    (ledger.waits_until, ledger.latest, ledger.held_until) = (None, None, Some(held_until));
                }
                ledger.waits_until = ledger.waits_until.max(Some(held_until));
                ledger.latest = ledger.latest.max(Some(held_until));
                if self.stepped.is_some() {
                    ledger.latest = ledger.latest.map(|latest| latest.after(DRIFT));
                }
            }
        }
    }

    /// Attempts that may be spent: as the task says, or else its group, or else the server.
    fn max_attempts(&self, group: &GroupName, task: &Task) -> u32 {
        let of_group = self.groups.get(group).and_then(|known| known.retry.max_attempts);
        task.spec.max_attempts.or(of_group).unwrap_or(self.max_attempts)
    }

    /// When a task goes out again after that attempt: at least, and at most. If its text was not in memory, the policy of its group
    /// counts, or that of the server.
    fn waits(&self, group: &GroupName, task: &Task, attempt: u32, now: Now) -> (Time, Time) {
        let other = self.groups.get(group).and_then(|known| known.retry.backoff).unwrap_or(self.retry);
        let policies = [task.spec.retry.as_deref().copied().unwrap_or(other), other];
        let waits = policies.map(|policy| now.wall.after(policy.wait(attempt, task.id)));
        (waits[0].min(waits[1]), waits[0].max(waits[1]))
    }

    // ---- outcomes go in

    /// What is to come of an outcome; `None`: no result.
    pub(crate) fn report(
        &mut self,
        reporter: &Reporter,
        report: &OutcomeReport,
        head: TaskId,
        now: Now,
        tasks: &[Arc<Task>],
        streams: &BTreeMap<SessionId, Stream>,
    ) -> Option<Expected> {
        let named = reporter.group.as_ref().or(reporter.client.as_ref());
        let alive = |(group, generation): &(GroupName, usize)| {
            self.groups.get(group).is_some_and(|known| known.generation == *generation).then(|| group.clone())
        };
        let of_peer = || self.peers.get(&reporter.peer).and_then(|peer| peer.group.as_ref().and_then(alive));
        let named_or_shared = match named {
            Some(name) => Some(name.clone()),
            None => of_peer().or_else(|| self.anonymous_group.clone()),
        };
        let group = named_or_shared.clone().filter(|group| self.groups.contains_key(group));

        let of_client = || streams.iter().find(|(_, stream)| stream.join.client == reporter.client).map(|(id, _)| *id);
        let session = match reporter.client {
            Some(_) => of_client(),
            None => self.peers.get(&reporter.peer).and_then(|peer| peer.session),
        };
        let session =
            session.filter(|id| streams.get(id).is_some_and(|stream| group.is_some() && stream.group == group));
        self.heard.extend(session);
        self.stale = None;

        let (mut task, mut attempt) = (report.task, report.attempt);
        if let Some(peer) = self.peers.get_mut(&reporter.peer) {
            let at = peer.unmatched.iter().position(|(id, _)| task == 0 || *id == task);
            if let Some(at) = at.filter(|_| task == 0) {
                (task, attempt) = peer.unmatched[at];
            }
            // WORKING acknowledges nothing: that is yet to come.
            if let Some(at) = at.filter(|_| report.outcome != Outcome::Working) {
                peer.unmatched.remove(at);
            }
        }
        let late = |late, group| {
            let of = Some((task, attempt.max(1)));
            (report.outcome != Outcome::Working).then_some(Expected { group, of, late, not_before: None, waits: None })
        };
        let Some(group) = group.filter(|_| task != 0) else {
            // A client without a group has nothing to be late for.
            let is_late = named.is_some() || self.anonymous_group.is_some();
            return late(Some(is_late), named.cloned());
        };
        let delay = Some(now.wall.after(report.delay)).filter(|_| !report.delay.is_zero());
        // A client without a stream has some time to come.
        let lasts = |session: Option<SessionId>| {
            now.steady.after(if session.is_some() {
                self.ack_timeout
            } else {
                self.ack_timeout.min(Duration::from_secs(5))
            })
        };
        let key = (group.clone(), task);
        let waits = self.ledgers.get(&key).filter(|_| report.delay.is_zero()).map(|ledger| {
            let mut ledger = ledger.clone();
            ledger.begin(ledger.last());
            self.waits(&group, &tasks[task as usize - 1], ledger.spent, now)
        });
        if let Some(lease) = self.leases.get_mut(&key) {
            let current = attempt == 0 || attempt == lease.attempt;
            let of = Some((task, if attempt == 0 { lease.attempt } else { attempt }));
            return match report.outcome {
                Outcome::Working => {
                    self.stale = session.filter(|_| !current).map(|session| (session, task, attempt));
                    if current {
                        (lease.begun, lease.left) = (true, false);
                        self.ledgers.get_mut(&key).unwrap().begin(lease.attempt);
                        lease.session = lease.session.or(session);
                        lease.deadline = lasts(lease.session);
                        lease.renewed_from = Some(reporter.peer.clone());
                        lease.said = (Some(report.ret.clone()), report.progress.or(lease.said.1));
                    }
                    None
                }
                Outcome::Retry if current => {
                    Some(Expected { group: Some(group), of, late: Some(false), not_before: delay, waits })
                }
                outcome => {
                    let late = Some(outcome != Outcome::Done && !current);
                    Some(Expected { group: Some(group), of, late, not_before: None, waits: None })
                }
            };
        }
        let known = task <= head && self.wants(&group, &tasks[task as usize - 1]);
        let open = known && !self.is_settled(&group, task);
        let last = self.ledgers.get(&key).map_or(0, Ledger::last);
        // Nobody else was given it since.
        let is_last = open && last > 0 && attempt == last;
        match report.outcome {
            Outcome::Working if is_last => {
                let renewed_from = Some(reporter.peer.clone());
                let ledger = self.ledgers.get_mut(&key).unwrap();
                ledger.begin(attempt);
                (ledger.waits_until, ledger.latest) = (None, None);
                let said = (Some(report.ret.clone()), report.progress);
                self.leases.insert(
                    key,
                    Lease { session, attempt, begun: true, said, deadline: lasts(session), left: false, renewed_from },
                );
                None
            }
            Outcome::Working => {
                self.stale =
                    session.filter(|_| open && last > 0 && attempt > 0).map(|session| (session, task, attempt));
                None
            }
            Outcome::Retry if is_last => {
                let of = Some((task, attempt));
                Some(Expected { group: Some(group), of, late: Some(false), not_before: delay, waits })
            }
            Outcome::Failed if is_last => late(Some(false), Some(group)),
            Outcome::Done if open => late(Some(false), Some(group)),
            // What a client that has no lease says besides may count, but never of a task that is no task.
            Outcome::Done | Outcome::Failed if task <= head => late(None, Some(group)),
            _ => late(Some(true), Some(group)),
        }
    }
}

/// Whether a task may be for the group, whatever its labels.
fn is_named(task: &Task, group: &GroupName) -> bool {
    match task.spec.audience.as_deref() {
        Some(Audience::Groups(names)) => names.contains(group),
        Some(Audience::Matching(_)) | None => true,
    }
}

/// Whether an anonymous client that says this of itself gets a task.
pub(crate) fn is_for_anonymous(task: &Task, labels: &Labels) -> bool {
    let may_have = match task.spec.audience.as_deref() {
        Some(Audience::Groups(_)) => false,
        Some(Audience::Matching(selector)) => selector.matches(labels),
        None => true,
    };
    task.spec.to.is_none() && may_have
}

/// The open tasks of all groups, in the lists of these and in rows.
fn open_tasks(recovered: &Recovered) -> impl Iterator<Item = (&GroupName, &OpenTask)> {
    let lists = recovered.groups.iter().flat_map(|group| group.open.iter().map(|open| (&group.name, open)));
    lists.chain(recovered.open.iter().flat_map(|(name, rows)| rows.iter().map(move |open| (name, open))))
}
