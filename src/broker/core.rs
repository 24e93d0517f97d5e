//! The state machine: who gets which task, and what an outcome changes. Events and the time go in, actions come out.
//!
//! No I/O, no clock, no threads, no gRPC. The same events at the same times give the same actions.

mod delivery;
mod membership;
mod operators;
mod outcomes;
mod overview;

pub use self::operators::{GroupError, GroupInfo, TaskState, WaitReason};
pub use self::overview::{Disconnected, Overview, Sessions};

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::group::{Group, GroupId};
use super::peer::Unmatched;
use super::session::{Delivery, Session, SessionId};
use super::tally::Meter;
use crate::store::{Backlog, GroupState, Recovered};
use crate::task::{ClientId, GroupName, NewResult, Outcome, StartAt, Task, TaskId, TaskResult, Time};

/// How the delivery of tasks is set.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a client may keep a task without a word before it is given to another.
    pub ack_timeout: Duration,
    /// Deliveries of a task to a group before it is given up, unless the task says otherwise.
    pub max_attempts: u32,
    /// How long what was with a client is held back after a start, so that the client can come back and say that it still
    /// has it. No longer than `ack_timeout`.
    pub restart_grace: Duration,
    /// Most unacknowledged tasks of a client that does not say what it wants.
    pub window: u32,
    /// Where anonymous clients start to read.
    pub anonymous_from: StartAt,
    /// Put all anonymous clients into this one group, instead of giving each of them everything.
    pub anonymous_group: Option<GroupName>,
}

impl Default for Config {
    /// 30 s, 20 attempts (what RabbitMQ's quorum queues allow since 4.0), 5 s after a start, a window of 64, anonymous clients
    /// from the first task.
    fn default() -> Config {
        Config {
            ack_timeout: Duration::from_secs(30),
            max_attempts: 20,
            restart_grace: GRACE,
            window: 64,
            anonymous_from: StartAt::First,
            anonymous_group: None,
        }
    }
}

/// Who tells an outcome.
#[derive(Debug, Clone)]
pub struct Reporter {
    /// Its id, if it said so.
    pub client: Option<ClientId>,
    /// Its group, if it said so.
    pub group: Option<GroupName>,
    /// Its address.
    pub peer: Arc<str>,
}

/// What a client says came of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeReport {
    /// The task; 0: the oldest delivery to this address that was not acknowledged.
    pub task: TaskId,
    /// Which delivery; 0: whichever is the current one.
    pub attempt: u32,
    /// One of the four a client can say.
    pub outcome: Outcome,
    /// What it said.
    pub ret: String,
    /// With [`Outcome::Retry`]: how long to wait before the next delivery.
    pub delay: Duration,
}

/// Why the server ends a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// A newer stream of the same client took its place.
    TakenOver,
    /// The server is stopping.
    Stopping,
}

/// What is to be done. The order counts.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Put these on the stream.
    Deliver(SessionId, Vec<Delivery>),
    /// Put an empty message on the stream.
    Heartbeat(SessionId),
    /// Say through [`Core::room`] when the stream has taken most of this: all the bytes it was given so far.
    WatchRoom(SessionId, u64),
    /// End the stream.
    Close(SessionId, Closed),
    /// Write these down.
    Record(Vec<NewResult>),
    /// Write this down, as late if the log has it that its group settled the task.
    RecordUnlessSettled(Box<NewResult>),
    /// Keep these states. They hold everything that was recorded before.
    Checkpoint(Vec<GroupState>),
    /// Keep nothing of this group any more.
    Forget(GroupName),
    /// Read this page for the group and hand it to [`Core::fetched`].
    Fetch(GroupId, Backlog),
    /// Read these tasks for the group and hand them to [`Core::loaded`].
    Load(GroupId, Vec<TaskId>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Group(GroupId),
    Session(SessionId),
}

/// What stands between the streams of one address and the acknowledgements from there that carry no id.
#[derive(Debug, Default)]
struct Peer {
    sessions: usize,
    reporters: usize,
    /// Its latest stream, and the group that is in: `None` for a passing one.
    session: Option<SessionId>,
    group: Option<GroupId>,
    unmatched: Unmatched,
}

/// All groups and sessions.
pub struct Core {
    config: Config,
    /// Nothing goes out any more.
    draining: bool,
    /// The newest task that was accepted.
    head: TaskId,
    /// The newest tasks, by id without a gap up to `head`, so that groups that keep up need not read the store.
    recent: VecDeque<Arc<Task>>,
    recent_bytes: u64,
    groups: FxHashMap<GroupId, Group>,
    names: HashMap<GroupName, GroupId>,
    next_group: GroupId,
    sessions: FxHashMap<SessionId, Session>,
    clients: HashMap<ClientId, SessionId>,
    peers: HashMap<Arc<str>, Peer>,
    /// For each class the groups that get what is committed right away.
    listening: [BTreeSet<GroupId>; 3],
    timers: BinaryHeap<Reverse<(Time, Timer)>>,
    next_turn: u64,
    /// Sessions with something in `outgoing`.
    outgoing: Vec<SessionId>,
    records: Vec<NewResult>,
    /// Since the last checkpoint.
    recorded: usize,
    /// When what was leased since the last checkpoint is to be in one. `None`: nothing was.
    save_at: Option<Time>,
    /// How long after the first of it.
    save_after: Duration,
    meter: Meter,
    /// The clients that went last, the newest at the end.
    disconnected: VecDeque<Disconnected>,
    actions: Vec<Action>,
}

/// How long a client whose stream ended has to come back for what it says it still has; or to say so, once it is back.
const GRACE: Duration = Duration::from_secs(5);
/// Text and overhead of the newest tasks that are kept in memory for all groups together.
const RECENT_BYTES: u64 = 16 * 1024 * 1024;
/// A restart reads the outcomes behind the last checkpoint: at most about so many.
const CHECKPOINT_EVERY: usize = 10_000;
/// What went out is in a checkpoint after so long: what goes out in the last second before a crash is forgotten.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// Or later, where there is much to write: so long for each group, open task and range, some hundred times what they cost.
const SAVE_AFTER_EACH: Duration = Duration::from_micros(100);

impl Core {
    /// The state machine as the store knows it.
    pub fn new(config: Config, recovered: Recovered, now: Time) -> Core {
        let held_until = now.after(config.restart_grace.min(config.ack_timeout));
        let mut core = Core {
            config,
            draining: false,
            head: recovered.positions.task,
            recent: VecDeque::new(),
            recent_bytes: 0,
            groups: FxHashMap::default(),
            names: HashMap::new(),
            next_group: 1,
            sessions: FxHashMap::default(),
            clients: HashMap::new(),
            peers: HashMap::new(),
            listening: Default::default(),
            timers: BinaryHeap::new(),
            next_turn: 0,
            outgoing: Vec::new(),
            records: Vec::new(),
            recorded: recovered.replay.len(),
            save_at: None,
            save_after: SAVE_AFTER,
            meter: Meter::default(),
            disconnected: VecDeque::new(),
            actions: Vec::new(),
        };
        for state in recovered.groups {
            core.add_group(Group::restore(state, held_until));
        }
        for entry in recovered.replay {
            core.replay(entry);
        }
        core
    }

    /// Gives nothing out any more. Who has something keeps it, and may say what came of it.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    fn add_group(&mut self, group: Group) -> GroupId {
        let id = self.next_group;
        self.next_group += 1;
        if let Some(name) = &group.name {
            self.names.insert(name.clone(), id);
        }
        self.groups.insert(id, group);
        id
    }

    fn replay(&mut self, TaskResult { result, .. }: TaskResult) {
        let group = result.group.as_ref().and_then(|name| self.names.get(name));
        let Some(group) = group.and_then(|id| self.groups.get_mut(id)) else { return };
        if result.late || result.outcome == Outcome::Dropped {
            return;
        }
        group.dirty = true;
        let was_open = group.take_waiting(result.task).is_some();
        let again = match result.outcome {
            Outcome::Revived => Some((None, 0)),
            outcome => (!outcome.settles()).then_some((result.not_before, result.attempt)),
        };
        // Whether the task stands before or behind the cursor of its class is not known. If behind, it is skipped there.
        if !was_open {
            group.ahead.insert(result.task);
        }
        if let Some((not_before, attempts)) = again {
            group.delayed.insert(result.task, not_before.unwrap_or_default(), attempts);
        }
    }

    /// What is to be done since this was last asked.
    pub fn take_actions(&mut self) -> Vec<Action> {
        self.flush_records();
        if self.recorded >= CHECKPOINT_EVERY {
            self.checkpoint();
        }
        for id in std::mem::take(&mut self.outgoing) {
            if let Some(session) = self.sessions.get_mut(&id) {
                let deliveries = std::mem::take(&mut session.outgoing);
                // Anonymous clients, and those of other languages that know no ids: in the order in which this leaves here.
                if let Some(peer) = self.peers.get_mut(&session.join.peer) {
                    deliveries.iter().for_each(|delivery| peer.unmatched.push(delivery.task.id, delivery.attempt));
                }
                self.actions.push(Action::Deliver(id, deliveries));
                if !session.has_room() {
                    self.actions.push(Action::WatchRoom(id, session.sent));
                }
            }
        }
        std::mem::take(&mut self.actions)
    }

    fn flush_records(&mut self) {
        if !self.records.is_empty() {
            self.count_records();
            self.recorded += self.records.len();
            self.actions.push(Action::Record(std::mem::take(&mut self.records)));
        }
    }

    /// Keeps the state of all groups, so that a restart need not read the outcomes up to now.
    pub fn checkpoint(&mut self) {
        self.flush_records();
        let head = self.head;
        let changed = |group: &mut Group| std::mem::take(&mut group.dirty).then(|| group.state(head)).flatten();
        let states: Vec<GroupState> = self.groups.values_mut().filter_map(changed).collect();
        let rows = states.iter().map(|state| 1 + state.open.len() + state.settled.len()).sum::<usize>();
        self.save_after = SAVE_AFTER.max(SAVE_AFTER_EACH * u32::try_from(rows).unwrap_or(u32::MAX));
        self.actions.push(Action::Checkpoint(states));
        self.recorded = 0;
        self.save_at = None;
    }

    /// Makes a checkpoint when it is time, and says when it will be.
    fn save(&mut self, now: Time) -> Option<Time> {
        let due = self.save_at?;
        if due > now {
            return Some(due);
        }
        self.checkpoint();
        None
    }

    /// A task, if it is among the newest.
    fn recent(&self, id: TaskId) -> Option<&Arc<Task>> {
        let first = self.recent.front()?.id;
        self.recent.get(usize::try_from(id.checked_sub(first)?).ok()?)
    }

    /// Does what is due, and says when it is next wanted.
    pub fn tick(&mut self, now: Time) -> Option<Time> {
        let next = self.run_timers(now);
        next.into_iter().chain(self.save(now)).min()
    }

    fn run_timers(&mut self, now: Time) -> Option<Time> {
        while let Some(Reverse((due, timer))) = self.timers.peek().copied() {
            if due > now {
                return Some(due);
            }
            self.timers.pop();
            match timer {
                Timer::Group(id) => self.group_is_due(id, due, now),
                Timer::Session(id) => self.session_is_due(id, now),
            }
        }
        None
    }

    fn group_is_due(&mut self, id: GroupId, due: Time, now: Time) {
        let Some(group) = self.groups.get_mut(&id).filter(|group| group.wake_at == Some(due)) else { return };
        group.wake_at = None;
        let ended = group.deadlines.range(..=(now, TaskId::MAX)).map(|(_, task)| *task).collect::<Vec<_>>();
        for task in ended {
            self.give_back(id, task, Outcome::TimedOut, String::new(), None, now);
        }
        self.dispatch(id, now);
    }

    fn session_is_due(&mut self, id: SessionId, now: Time) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(heartbeat) = session.join.heartbeat else { return };
        // One that waits for the client to read says nothing more.
        if session.last_sent.after(heartbeat) <= now && session.has_room() {
            session.last_sent = now;
            self.actions.push(Action::Heartbeat(id));
        }
        let next = session.last_sent.after(heartbeat);
        self.timers.push(Reverse((if next > now { next } else { now.after(heartbeat) }, Timer::Session(id))));
    }

    /// Wakes the group when it next has something to do by itself, if it is not woken earlier anyway.
    fn wake_group(&mut self, id: GroupId) {
        if let Some(due) = self.groups.get(&id).and_then(Group::next_due) {
            self.wake_group_at(id, due);
        }
    }

    fn wake_group_at(&mut self, id: GroupId, due: Time) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.wake_at.is_none_or(|at| due < at) {
            group.wake_at = Some(due);
            self.timers.push(Reverse((due, Timer::Group(id))));
        }
    }
}
