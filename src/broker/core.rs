//! The state machine: who gets which task, and what an outcome changes. Events and the time go in, actions come out.
//!
//! No I/O, no clock, no threads, no gRPC. The same events at the same times give the same actions.

mod bucket;
mod checkpoint;
mod contest;
mod counting;
mod cursor;
mod delayed;
mod delivery;
mod drains;
mod group;
mod holder;
mod kept;
mod known;
mod lanes;
mod late;
mod membership;
mod open;
mod operators;
mod outcomes;
mod overview;
mod packed;
mod peer;
mod quotas;
mod recent;
mod replacing;
mod runs;
mod session;
mod suspects;
mod tally;
mod timers;
mod watch;

pub use self::contest::{ContestedId, NotYourTurn};
pub use self::counting::Counted;
pub use self::drains::{DrainError, Drained, Draining, LONGEST_NOTE, MOST_DRAINS};
pub use self::group::GroupInfo;
pub use self::known::{MISSING_AFTER, MOST_KNOWN};
pub use self::late::MOST_LATE;
pub use self::membership::JoinError;
pub use self::open::{LONGEST_SAID, Said};
pub use self::operators::{Cancelled, GroupError, TaskState, WaitReason};
pub use self::overview::{Disconnected, Overview, Sessions};
pub(super) use self::peer::Unmatched;
pub use self::quotas::Quota;
pub use self::runs::Standing;
pub(crate) use self::session::SEND_BUFFER;
pub use self::session::{
    ClientInfo, Delivery, Held, Join, MAX_MESSAGE, Note, Resume, RevokeReason, Revoked, SessionId,
};
pub use self::tally::{Meter, Tally, Undelivered};
pub use self::watch::{Holder, Holders, MOST_WATCHED, Piece, Printed, Watched};

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use self::checkpoint::CheckpointSchedule;
use self::counting::Counting;
use self::drains::Drains;
use self::group::Group;
use self::holder::Former;
use self::known::KnownClients;
use self::late::LateResults;
use self::open::Texts;
use self::peer::Peer;
use self::quotas::Quotas;
use self::recent::RecentTasks;
use self::session::Session;
use self::timers::{Timer, Timers};
use crate::attachment::Attachment;
use crate::now::{Now, Steady};
use crate::retry::{Retry, RetryPolicy};
use crate::store::{Backlog, Checkpoint, Drain, Recovered};
use crate::task::{
    ClientId, GroupName, Name, NewResult, Outcome, Priority, Progress, StartAt, Task, TaskId, Time, weight,
};

/// Names one group until the end of the process; a group that is removed and made anew has another.
pub(super) type GroupId = u64;

/// How the delivery of tasks is set.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a client may keep a task without a word before it is given to another.
    pub ack_timeout: Duration,
    /// Attempts that a group may spend on a task before it is given up, unless the task or its group says otherwise.
    pub max_attempts: u32,
    /// How long a task waits before it goes out again, unless it or its group says otherwise.
    pub retry: Retry,
    /// How often a client may fall silent after it was given a task that it had not begun, before the task is given up.
    pub max_deliveries: u32,
    /// How long what was with a client is held back after a start, so that the client can come back and say that it still
    /// has it. No longer than `ack_timeout`.
    pub restart_grace: Duration,
    /// The longest that a client can have a task wait with `RETRY`; what it asks for beyond that is cut.
    pub max_retry_delay: Duration,
    /// Most unacknowledged tasks of a client that does not say what it wants.
    pub window: u32,
    /// Most unacknowledged tasks of a client, whatever it wants.
    pub max_window: u32,
    /// Most groups that have a name: then no new one is made. Those that are there go on.
    pub max_groups: usize,
    /// Where a group that is new starts to read, unless its first client says so.
    pub groups_from: StartAt,
    /// Where anonymous clients start to read.
    pub anonymous_from: StartAt,
    /// Put all anonymous clients into this one group, instead of giving each of them everything.
    pub anonymous_group: Option<GroupName>,
}

impl Default for Config {
    /// 30 s, 20 attempts (what RabbitMQ's quorum queues allow since 4.0), 100 silent deliveries, 5 s after a start, a `RETRY` of a week at most, a window of 64 and of
    /// 1,024 at most, 20,000 groups (some kilobytes each, and a row of a checkpoint when it changes), groups that are new from the next broadcast on, anonymous clients from the first task.
    fn default() -> Config {
        Config {
            ack_timeout: Duration::from_secs(30),
            max_attempts: 20,
            retry: Retry::default(),
            max_deliveries: 100,
            restart_grace: GRACE,
            max_retry_delay: Duration::from_secs(7 * 24 * 60 * 60),
            window: 64,
            max_window: 1024,
            max_groups: 20_000,
            groups_from: StartAt::New,
            anonymous_from: StartAt::First,
            anonymous_group: None,
        }
    }
}

impl Config {
    /// How long a task waits after that attempt came to nothing. Where its text is not in memory, its own policy is not known.
    fn wait(&self, of_group: RetryPolicy, task: Option<&Task>, id: TaskId, attempt: u32) -> Duration {
        task.and_then(|task| task.spec.retry.as_deref().copied())
            .or(of_group.backoff)
            .unwrap_or(self.retry)
            .wait(attempt, id)
    }

    /// Attempts that may be spent on a task.
    fn max_attempts(&self, of_group: RetryPolicy, task: &Task) -> u32 {
        task.spec.max_attempts.or(of_group.max_attempts).unwrap_or(self.max_attempts)
    }
}

/// Who reports an outcome.
#[derive(Debug, Clone)]
pub struct Reporter {
    /// Its id, if it said so.
    pub client: Option<ClientId>,
    /// Its group, if it said so.
    pub group: Option<GroupName>,
    /// Its address.
    pub peer: Arc<str>,
}

impl Reporter {
    /// What the log calls it: its id, or its address.
    fn label(&self) -> Arc<str> {
        self.client.as_ref().map_or_else(|| self.peer.clone(), Name::shared)
    }
}

/// What a client says came of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeReport {
    /// The task; 0: the oldest delivery to this address that was not acknowledged.
    pub task: TaskId,
    /// Which delivery; 0: whichever is the current one.
    pub attempt: u32,
    /// One of the five a client can say.
    pub outcome: Outcome,
    /// What it said.
    pub ret: String,
    /// Headers and data beside it.
    pub attachment: Attachment,
    /// With [`Outcome::Working`]: how far it is.
    pub progress: Option<Progress>,
    /// With [`Outcome::Retry`]: how long to wait before the next delivery; zero: as the task or the server has it.
    pub delay: Duration,
    /// Whether it came with the receipt of this delivery.
    pub receipt: Receipt,
    /// What the task printed, if somebody watches.
    pub printed: Option<Piece>,
}

impl OutcomeReport {
    /// What it counts for while it waits, in bytes.
    pub fn weight(&self) -> usize {
        weight(self.bytes()) + self.printed.as_ref().map_or(0, |piece| piece.bytes.len())
    }

    /// What the client said, in bytes: text, headers and data.
    pub fn bytes(&self) -> usize {
        self.ret.len() + self.attachment.bytes()
    }

    fn said(self) -> (String, Attachment) {
        (self.ret, self.attachment)
    }
}

/// What a client shows to prove that it was given a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// Nothing: it counts only from who holds the task.
    Missing,
    /// The receipt of that delivery.
    Good,
    /// Something else: it does not count.
    Bad,
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
    /// Say on the stream that its client should not go on with this.
    Revoke(SessionId, Revoked),
    /// Say on the stream that somebody watches what this prints.
    Watch(SessionId, Watched),
    /// Show this to those who watch.
    Print(Printed),
    /// Keep this beside the stream.
    Note(SessionId, Note),
    /// Put an empty message on the stream.
    Heartbeat(SessionId),
    /// Say through [`Core::stream_took`] when the stream has taken most of this: all the bytes it was given so far.
    WatchRoom(SessionId, u64),
    /// End the stream.
    Close(SessionId, Closed),
    /// Write these down.
    Record(Vec<NewResult>),
    /// Write this down, as late if the log has it that its group settled the task.
    RecordUnlessSettled(Box<NewResult>),
    /// Keep this. It holds everything that was recorded before.
    Checkpoint(Checkpoint),
    /// Keep nothing of this group any more.
    Forget(GroupName),
    /// Keep, or forget, that this client is drained.
    Drain(ClientId, Option<Drain>),
    /// Read this page for the group and hand it to [`Core::fetched`].
    Fetch(GroupId, Backlog),
    /// Read these tasks for the group and hand them to [`Core::loaded`].
    Load(GroupId, Vec<TaskId>),
    /// Count these and hand them to [`Core::counted`]; not all of them at once, if that takes long.
    Count(Vec<Backlog>),
}

/// All groups and sessions.
pub struct Core {
    config: Config,
    /// Nothing goes out any more: the server is stopping.
    stopping: bool,
    /// Nothing goes out for now; the groups to which something would have.
    held: Option<BTreeSet<GroupId>>,
    /// Until when clients were kept waiting.
    kept_waiting: Option<Steady>,
    recent: RecentTasks,
    groups: FxHashMap<GroupId, Group>,
    /// The groups that have a name.
    names: HashMap<GroupName, GroupId>,
    next_group: GroupId,
    sessions: FxHashMap<SessionId, Session>,
    /// The latest session of each client that has an id.
    clients: HashMap<ClientId, SessionId>,
    /// At most [`MOST_DRAINS`].
    drains: Drains,
    quotas: Quotas,
    /// By address.
    peers: HashMap<Arc<str>, Peer>,
    /// For each priority the groups without a backlog: they get what is committed right away.
    caught_up: [BTreeSet<GroupId>; 3],
    timers: Timers<Steady>,
    /// For what waits for a time of day: a step of the clock moves all of it.
    moments: Timers<Time>,
    former: Former,
    /// Deliveries of tasks up to this one may have been forgotten by a crash, and until then a client may tell of them.
    forgotten: (TaskId, Steady),
    /// Counts deliveries: see [`Session::turn`].
    next_turn: u64,
    /// Sessions with something in `outgoing`.
    outgoing: Vec<SessionId>,
    /// Outcomes of the event that is being handled.
    records: Vec<NewResult>,
    checkpoints: CheckpointSchedule,
    /// See [`Core::reopened`].
    reopened: u64,
    counting: Counting,
    /// By how many milliseconds the time of day was ahead of the steady clock when that was looked at last.
    ahead: i64,
    meter: Meter,
    texts: Texts,
    late: LateResults,
    /// At most [`MOST_KNOWN`].
    known: KnownClients,
    /// The clients that disconnected last, the newest at the end.
    disconnected: VecDeque<(Steady, Disconnected)>,
    actions: Vec<Action>,
}

/// How long a client whose stream ended may keep the tasks it says it still has; or a client that is back may take to say so.
const GRACE: Duration = Duration::from_secs(5);

/// Heartbeats are looked after at multiples of so many milliseconds: the thread is not woken for each of ten thousand clients. What
/// they ask for, and half of that, is one, too.
const TURN: u64 = 50;
/// Clients that come in the same moment have so many turns.
const TURNS: u32 = 128;

impl Core {
    /// The state machine as the store knows it.
    pub fn new(config: Config, mut recovered: Recovered, now: Now) -> Core {
        let held_until = now.steady.after(config.restart_grace.min(config.ack_timeout));
        // A lease may have begun at the end, and its client may be a bit late.
        let forgotten = (recovered.positions.task, now.steady.after(2 * config.ack_timeout));
        let mut core = Core {
            config,
            stopping: false,
            held: None,
            kept_waiting: None,
            recent: RecentTasks::new(recovered.positions.task),
            groups: FxHashMap::default(),
            names: HashMap::new(),
            next_group: 1,
            sessions: FxHashMap::default(),
            clients: HashMap::new(),
            drains: Drains::new(),
            quotas: Quotas::default(),
            peers: HashMap::new(),
            caught_up: Default::default(),
            timers: Timers::new(),
            moments: Timers::new(),
            former: Former::default(),
            forgotten,
            next_turn: 0,
            outgoing: Vec::new(),
            records: Vec::new(),
            reopened: 0,
            checkpoints: CheckpointSchedule::new(recovered.replay.len()),
            counting: Counting::default(),
            ahead: now.ahead(),
            meter: Meter::default(),
            texts: Texts::default(),
            late: LateResults::default(),
            known: KnownClients::default(),
            disconnected: VecDeque::new(),
            actions: Vec::new(),
        };
        core.recover_drains(recovered.drains, recovered.newest, now);
        core.known.recover(recovered.clients, now);
        // What waits for a while is stored as the time of day at which that is over, by the clock of then. If that was set back
        // since, the newest moment that was written down is what it showed; else the wait would last as much longer.
        for state in recovered.groups {
            let stored = Now { wall: now.wall.max(recovered.newest.result).max(state.last_used), ..now };
            let rows = recovered.open.remove(&state.name).unwrap_or_default();
            let mut group = Group::restore(state, rows, stored, held_until, now.steady);
            if stored.wall > now.wall {
                // The next start may not know any more what that clock showed.
                group.open.waits_changed();
            }
            core.add_group(group);
        }
        for entry in recovered.replay {
            let id = entry.result.group.as_ref().and_then(|name| core.names.get(name));
            if let Some(group) = id.and_then(|id| core.groups.get_mut(id)) {
                let stored = Now { wall: now.wall.max(entry.result.at), ..now };
                group.replay(&entry.result, recovered.lanes.get(&entry.result.task), stored);
            }
        }
        let head = core.head();
        core.groups.values_mut().for_each(|group| {
            group.settle_lanes();
            group.forget_passed(head);
        });
        core.count_all();
        core
    }

    /// Gives nothing out until [`end_hold`](Core::end_hold). All else goes on.
    pub fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Gives out what was held.
    pub fn end_hold(&mut self, now: Now) {
        self.held.take().into_iter().flatten().for_each(|group| self.dispatch(group, now));
    }

    /// Whether something may have gone out since it is held.
    pub fn holds_something(&self) -> bool {
        self.held.as_ref().is_some_and(|waiting| !waiting.is_empty())
    }

    /// Clients wait for an answer of this server for longer than is usual, or were refused one, or another server that some are connected to
    /// hears nothing of this one. Who waits does not work, and who is refused may connect anew: that nothing is heard of them means nothing.
    pub fn keep_waiting(&mut self, now: Now) {
        self.kept_waiting = Some(now.steady);
    }

    /// Gives nothing out any more. Clients keep the tasks they have, and may report what came of them.
    pub fn begin_stop(&mut self) {
        self.stopping = true;
    }

    fn add_group(&mut self, group: Group) -> GroupId {
        self.reopened += u64::from(group.name.is_some());
        let id = self.next_group;
        self.next_group += 1;
        if let Some(name) = &group.name {
            self.names.insert(name.clone(), id);
        }
        self.groups.insert(id, group);
        id
    }

    /// What is to be done since this was last asked.
    pub fn take_actions(&mut self, now: Now) -> Vec<Action> {
        self.use_freed_quotas(now);
        self.flush_records();
        if self.checkpoints.is_full() {
            self.checkpoint(now);
        }
        self.ask_for_counts();
        for id in std::mem::take(&mut self.outgoing) {
            if let Some(session) = self.sessions.get_mut(&id) {
                let deliveries = std::mem::take(&mut session.outgoing);
                // Reports without an id are matched in the order in which deliveries leave here.
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
            self.checkpoints.recorded(self.records.len());
            self.actions.push(Action::Record(std::mem::take(&mut self.records)));
        }
    }

    /// Keeps the state of all groups, so that a restart need not read the outcomes up to now.
    pub fn checkpoint(&mut self, now: Now) {
        self.flush_records();
        let head = self.head();
        let mut checkpoint = Checkpoint { clients: self.known.take_changed(), ..Checkpoint::default() };
        for (state, rows) in self.groups.values_mut().filter_map(|group| group.take_changed(head, now)) {
            if !rows.is_empty() {
                checkpoint.open.insert(state.name.clone(), rows);
            }
            checkpoint.groups.push(state);
        }
        // A row is written once for each change, however many checkpoints there are.
        self.checkpoints.made(checkpoint.groups.iter().map(|state| 1 + state.open.len() + state.taken_up.len()).sum());
        self.actions.push(Action::Checkpoint(checkpoint));
    }

    /// Does what is due, and says when it is next wanted: earlier, if the clock steps forward until then.
    pub fn tick(&mut self, now: Now) -> Option<Steady> {
        while let Some((due, timer)) = self.timers.pop(now.steady) {
            match timer {
                Timer::Group(id) => self.group_is_due(id, due, now),
                Timer::Session(id) => self.session_is_due(id, due, now),
                Timer::Rest(id) => self.session_has_rested(id, now),
                Timer::Drains => self.drains_are_due(now),
                Timer::Count => self.count_again(),
            }
        }
        while let Some((due, timer)) = self.moments.pop(now.wall) {
            if let Timer::Group(id) = timer {
                self.moment_of_group_came(id, due, now);
            }
        }
        if self.clock_was_set_back(now) {
            // What waits is stored as a time of day: by this clock that would be later.
            self.groups.values_mut().for_each(|group| group.open.waits_changed());
            self.checkpoint(now);
        }
        if self.checkpoints.due().is_some_and(|due| due <= now.steady) {
            self.checkpoint(now);
        }
        let moment = self.moments.next_due().map(|moment| now.steady_at(moment));
        self.timers.next_due().into_iter().chain(self.checkpoints.due()).chain(moment).min()
    }

    /// Whether it was, since this was last asked. Less than a second is no matter.
    fn clock_was_set_back(&mut self, now: Now) -> bool {
        let by = self.ahead.saturating_sub(now.ahead());
        if by.unsigned_abs() >= 1_000 {
            self.ahead = now.ahead();
        }
        by >= 1_000
    }

    fn group_is_due(&mut self, id: GroupId, due: Steady, now: Now) {
        let Some(group) = self.groups.get_mut(&id).filter(|group| group.wake_at == Some(due)) else { return };
        group.wake_at = None;
        for task in group.open.overdue(now.steady) {
            self.give_back(id, task, Outcome::TimedOut, Default::default(), Duration::ZERO, now);
        }
        self.dispatch(id, now);
    }

    fn moment_of_group_came(&mut self, id: GroupId, moment: Time, now: Now) {
        let Some(group) = self.groups.get_mut(&id).filter(|group| group.wake_at_moment == Some(moment)) else { return };
        group.wake_at_moment = None;
        self.dispatch(id, now);
    }

    /// A heartbeat is due at the latest when a client has heard nothing for as long as it said. It comes up to half of that earlier,
    /// so that each client keeps its turn, whatever else it is sent: after a task for ten thousand of them, all their heartbeats
    /// would be due in one moment.
    fn session_is_due(&mut self, id: SessionId, due: Steady, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(heartbeat) = session.join.heartbeat else { return };
        // While the client does not read what it was sent, it gets no heartbeat either.
        let beats = now.steady.since(session.last_sent) >= heartbeat / 2 && session.has_room();
        if beats {
            session.last_sent = now.steady;
            self.actions.push(Action::Heartbeat(id));
        }
        let wait = if beats { heartbeat } else { heartbeat / 2 };
        let next = Some(due.after(wait)).filter(|next| *next > now.steady);
        self.look_at_session(id, next.unwrap_or(now.steady.after(wait)));
    }

    /// The first turn of a client that came now.
    fn first_turn(&mut self, id: SessionId, heartbeat: Duration, now: Now) {
        let turn = (id % u64::from(TURNS)) as u32;
        self.look_at_session(id, now.steady.after(heartbeat / 2 + heartbeat / 2 * turn / TURNS));
    }

    fn look_at_session(&mut self, id: SessionId, at: Steady) {
        self.timers.set(Steady(at.0 - at.0 % TURN), Timer::Session(id));
    }

    fn session_has_rested(&mut self, id: SessionId, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.rests = false;
        let group = session.group;
        self.update_rank(id);
        self.dispatch(group, now);
    }

    /// Wakes the group when it next has something to do by itself, if it is not woken earlier anyway.
    fn wake_group(&mut self, id: GroupId) {
        if let Some(due) = self.groups.get(&id).and_then(|group| group.next_due(&self.texts)) {
            self.wake_group_at(id, due);
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        if let Some(moment) =
            group.next_moment(&self.texts).filter(|next| group.wake_at_moment.is_none_or(|at| *next < at))
        {
            group.wake_at_moment = Some(moment);
            self.moments.set(moment, Timer::Group(id));
        }
    }

    fn wake_group_at(&mut self, id: GroupId, due: Steady) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.wake_at.is_none_or(|at| due < at) {
            group.wake_at = Some(due);
            self.timers.set(due, Timer::Group(id));
        }
    }

    /// Bytes of the texts of open tasks that are in memory, and what is counted beside them, for tests.
    pub fn texts_in_memory(&self) -> usize {
        self.texts.bytes()
    }

    /// Bytes of the texts that are in memory because their lanes wait, for tests.
    pub fn lane_texts(&self) -> usize {
        self.groups.values().map(|group| group.lanes.bytes()).sum()
    }

    /// Whether the rules hold that the fields state, for tests; an error says which does not.
    pub fn check(&self) -> Result<(), String> {
        self.texts.check(self.groups.values().map(|group| &group.open))?;
        for (id, group) in &self.groups {
            group.check(self.head())?;
            let agrees =
                |priority| group.cursor(priority).has_backlog() != self.caught_up[priority as usize].contains(id);
            if !Priority::ALL.into_iter().all(agrees) {
                return Err(format!("group {id} is among those without a backlog and has one, or is not and has none"));
            }
        }
        let mut sessions =
            self.sessions.iter().flat_map(|(id, session)| session.held.iter().map(move |task| (id, session, task)));
        for (id, session) in &self.sessions {
            if session.rank.is_some() != session.can_take() {
                return Err(format!("session {id} can take a task and is passed over, or cannot: {session:?}"));
            }
            let Some(group) = self.groups.get(&session.group) else { continue };
            let leases = session.held.iter().filter_map(|task| group.open.lease_of(*task));
            let unbegun: Vec<_> = leases.filter(|lease| !lease.attempts.begun).collect();
            let alone = unbegun.iter().any(|lease| lease.attempts.silent > 0);
            if (unbegun.len(), alone) != (session.unbegun, session.alone) || (alone && unbegun.len() > 1) {
                return Err(format!(
                    "session {id} holds {unbegun:?}, and one is not alone or not counted: {session:?}"
                ));
            }
        }
        for (of, ids, bytes) in self.quotas.all() {
            let sessions = || ids.iter().filter_map(|id| self.sessions.get(id));
            let of_leases = |session: &Session| {
                let group = self.groups.get(&session.group)?;
                let leases = session.held.iter().filter_map(|task| group.open.lease_of(*task));
                Some(leases.map(|lease| u64::from(lease.bytes)).sum::<u64>())
            };
            let agree = |session: &Session| {
                let is_over = session.over == self.quotas.is_full(*of);
                is_over && of_leases(session) == Some(session.bytes)
            };
            if sessions().count() != ids.len()
                || sessions().map(|session| session.bytes).sum::<u64>() != bytes
                || !sessions().all(agree)
            {
                return Err(format!("quota {of} counts {bytes} bytes, and its sessions have others: {ids:?}"));
            }
        }
        let lease = |session: &Session, task| self.groups.get(&session.group)?.open.lease_of(task)?.session;
        match { sessions }.find(|(id, session, task)| lease(session, **task) != Some(**id)) {
            Some((id, _, task)) => Err(format!("session {id} holds task {task}, which is not leased to it")),
            None => Ok(()),
        }
    }
}
