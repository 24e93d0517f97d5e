//! The state machine: who gets which task, and what an outcome changes. Events and the time go in, actions come out.
//!
//! No I/O, no clock, no threads, no gRPC. The same events at the same times give the same actions.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::group::{Ahead, CLASSES, Group, GroupId, Lease, Returned};
use super::peer::Unmatched;
use super::session::{ClientInfo, Delivery, From, Join, Session, SessionId};
use crate::store::{Backlog, BacklogPage, GroupState, Recovered};
use crate::task::{ClientId, GroupName, NewResult, Outcome, Task, TaskId, TaskResult, Time};

/// How the delivery of tasks is set.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a client may keep a task without a word before it is given to another.
    pub ack_timeout: Duration,
    /// Deliveries of a task to a group before it is given up, unless the task says otherwise.
    pub max_attempts: u32,
    /// Most unacknowledged tasks of a client that does not say what it wants.
    pub window: u32,
    /// Where anonymous clients start to read.
    pub anonymous_from: From,
    /// Put all anonymous clients into this one group, instead of giving each of them everything.
    pub anonymous_group: Option<GroupName>,
}

impl Default for Config {
    /// 30 s, 20 attempts (what RabbitMQ's quorum queues allow since 4.0), a window of 64, anonymous clients from the first task.
    fn default() -> Config {
        Config {
            ack_timeout: Duration::from_secs(30),
            max_attempts: 20,
            window: 64,
            anonymous_from: From::First,
            anonymous_group: None,
        }
    }
}

/// Who tells an outcome.
#[derive(Debug, Clone)]
pub struct Teller {
    /// Its id, if it said so.
    pub client: Option<ClientId>,
    /// Its group, if it said so.
    pub group: Option<GroupName>,
    /// Its address.
    pub peer: Arc<str>,
}

/// What a client says came of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
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
    /// Keep these states. They hold everything that was recorded before.
    Checkpoint(Vec<GroupState>),
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
    tellers: usize,
    /// The group its streams are in: `None` for passing ones.
    group: Option<GroupId>,
    unmatched: Unmatched,
}

/// All groups and sessions. See the [module](self).
pub struct Core {
    config: Config,
    /// The newest task that was accepted.
    head: TaskId,
    /// The newest tasks, by id without a gap up to `head`, so that groups that keep up need not read the store.
    recent: VecDeque<Arc<Task>>,
    recent_bytes: u64,
    groups: HashMap<GroupId, Group>,
    names: HashMap<GroupName, GroupId>,
    next_group: GroupId,
    sessions: HashMap<SessionId, Session>,
    clients: HashMap<ClientId, SessionId>,
    peers: HashMap<Arc<str>, Peer>,
    /// For each class the groups that get what is committed right away.
    listening: [BTreeSet<GroupId>; 3],
    timers: BinaryHeap<Reverse<(Time, Timer)>>,
    next_turn: u64,
    /// Sessions with something in `outgoing`.
    outgoing: Vec<SessionId>,
    records: Vec<NewResult>,
    recorded: usize,
    actions: Vec<Action>,
}

/// Tasks read ahead for a group: at most this many, and about so many bytes of text.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 256 * 1024;
/// Text and overhead of the newest tasks that are kept in memory for all groups together.
const RECENT_BYTES: u64 = 16 * 1024 * 1024;
/// A restart reads the outcomes behind the last checkpoint: at most about so many.
const CHECKPOINT_EVERY: usize = 10_000;

impl Core {
    /// The state machine as the store knows it.
    pub fn new(config: Config, recovered: Recovered) -> Core {
        let mut core = Core {
            config,
            head: recovered.positions.task,
            recent: VecDeque::new(),
            recent_bytes: 0,
            groups: HashMap::new(),
            names: HashMap::new(),
            next_group: 1,
            sessions: HashMap::new(),
            clients: HashMap::new(),
            peers: HashMap::new(),
            listening: Default::default(),
            timers: BinaryHeap::new(),
            next_turn: 0,
            outgoing: Vec::new(),
            records: Vec::new(),
            recorded: recovered.replay.len(),
            actions: Vec::new(),
        };
        for state in recovered.groups {
            core.add_group(Group::restore(state));
        }
        for entry in recovered.replay {
            core.replay(entry);
        }
        core
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
        if result.late {
            return;
        }
        group.dirty = true;
        let was_open = group.take_waiting(result.task).is_some();
        if result.outcome.settles() {
            if !was_open {
                group.ahead.insert(result.task, Ahead::Settled);
            }
        } else {
            let (attempts, not_before) = match result.outcome {
                Outcome::Revived => (0, None),
                _ => (result.attempt, result.not_before),
            };
            if was_open {
                group.delayed.insert((not_before.unwrap_or_default(), result.task), attempts);
            } else {
                group.ahead.insert(result.task, Ahead::Open { attempts, not_before });
            }
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
                self.actions.push(Action::Deliver(id, std::mem::take(&mut session.outgoing)));
            }
        }
        std::mem::take(&mut self.actions)
    }

    fn flush_records(&mut self) {
        if !self.records.is_empty() {
            self.recorded += self.records.len();
            self.actions.push(Action::Record(std::mem::take(&mut self.records)));
        }
    }

    /// Keeps the state of all groups, so that a restart need not read the outcomes up to now.
    pub fn checkpoint(&mut self) {
        self.flush_records();
        let head = self.head;
        let changed = |group: &mut Group| std::mem::take(&mut group.dirty).then(|| group.state(head)).flatten();
        self.actions.push(Action::Checkpoint(self.groups.values_mut().filter_map(changed).collect()));
        self.recorded = 0;
    }

    // ---- clients come and go

    /// A client opened its stream. Its session gets tasks until [`Core::leave`].
    pub fn join(&mut self, join: Join, id: SessionId, now: Time) {
        let anonymous = join.client.is_none() && join.group.is_none();
        let name = join.group.clone().or_else(|| join.client.clone());
        let name = if anonymous { self.config.anonymous_group.clone() } else { name };
        let from = join.from.unwrap_or(if anonymous { self.config.anonymous_from } else { From::First });
        let group_id = self.group_for(name, from, now);

        let taken_over = join.client.as_ref().and_then(|client| self.clients.insert(client.clone(), id));
        let label = join.client.as_ref().map_or_else(|| join.peer.clone(), |client| client.as_str().into());
        let leased = self.groups[&group_id].leased;
        let window = join.window.unwrap_or(self.config.window).max(1) as usize;
        let mut session = Session {
            group: group_id,
            label,
            since: now,
            window: if leased { window } else { usize::MAX },
            held: BTreeSet::new(),
            sent: 0,
            taken: 0,
            delivered: 0,
            last_sent: now,
            outgoing: Vec::new(),
            turn: 0,
            listed: None,
            join,
        };
        if let Some(old) = taken_over {
            self.take_over(old, id, &mut session, now);
        }

        let peer = self.peers.entry(session.join.peer.clone()).or_default();
        if peer.sessions == 0 && peer.tellers == 0 {
            peer.unmatched.clear();
        }
        peer.sessions += 1;
        peer.group = leased.then_some(group_id);

        if let Some(heartbeat) = session.join.heartbeat {
            self.timers.push(Reverse((now.after(heartbeat), Timer::Session(id))));
        }
        self.sessions.insert(id, session);
        if let Some(group) = self.groups.get_mut(&group_id) {
            group.sessions.insert(id);
        }
        self.list(id);
        self.dispatch(group_id, now);
    }

    /// The group of that name, or a passing one.
    fn group_for(&mut self, name: Option<GroupName>, from: From, now: Time) -> GroupId {
        if let Some(id) = name.as_ref().and_then(|name| self.names.get(name)) {
            return *id;
        }
        let leased = name.is_some();
        let mut group = Group::new(name, leased, now);
        if from == From::New {
            group.broadcast_after = self.head;
        }
        if leased {
            // A group that exists is owed its tasks: it must be there after a restart.
            self.flush_records();
            self.actions.extend(group.state(self.head).map(|state| Action::Checkpoint(vec![state])));
        }
        self.add_group(group)
    }

    /// The same client is here on a new stream. The old one ends; if it is the same process, what it holds stays with it
    /// until it had time to say so (`WORKING`), since some of it may have been lost on the way.
    fn take_over(&mut self, old: SessionId, new: SessionId, session: &mut Session, now: Time) {
        self.actions.push(Action::Close(old, Closed::TakenOver));
        let Some(before) = self.sessions.get_mut(&old) else { return };
        let same_process = before.join.instance.is_some() && before.join.instance == session.join.instance;
        if !same_process || before.group != session.group {
            return self.leave(old, now);
        }
        session.held = std::mem::take(&mut before.held);
        let Some(group) = self.groups.get_mut(&session.group) else { return };
        let deadline = now.after(self.config.ack_timeout.min(Duration::from_secs(5)));
        for id in &session.held {
            if let Some(lease) = group.leases.get_mut(id) {
                group.deadlines.remove(&(lease.deadline, *id));
                lease.session = new;
                lease.deadline = lease.deadline.min(deadline);
                group.deadlines.insert((lease.deadline, *id));
            }
        }
        self.leave(old, now);
    }

    /// A stream ended: what was on its way or held by its client goes to others. Unknown sessions are none of our business.
    pub fn leave(&mut self, id: SessionId, now: Time) {
        self.unlist(id);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        // It takes nothing any more.
        session.window = 0;
        let (group_id, held) = (session.group, std::mem::take(&mut session.held));
        for task in held {
            self.give_back(group_id, task, Outcome::Lost, String::new(), None, now);
        }
        let Some(session) = self.sessions.remove(&id) else { return };
        if let Some(client) = &session.join.client {
            // Only if no newer stream took over.
            if self.clients.get(client) == Some(&id) {
                self.clients.remove(client);
            }
        }
        if let Some(peer) = self.peers.get_mut(&session.join.peer) {
            peer.sessions -= 1;
            self.drop_idle_peer(&session.join.peer);
        }
        let Some(group) = self.groups.get_mut(&group_id) else { return };
        group.sessions.remove(&id);
        if group.leased {
            self.dispatch(group_id, now);
        } else {
            self.groups.remove(&group_id);
            for class in &mut self.listening {
                class.remove(&group_id);
            }
        }
    }

    /// A client began to tell results from this address.
    pub fn teller_came(&mut self, peer: &Arc<str>) {
        self.peers.entry(peer.clone()).or_default().tellers += 1;
    }

    /// It ended.
    pub fn teller_went(&mut self, peer: &Arc<str>) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.tellers = state.tellers.saturating_sub(1);
            self.drop_idle_peer(peer);
        }
    }

    fn drop_idle_peer(&mut self, peer: &Arc<str>) {
        if self.peers.get(peer).is_some_and(|p| p.sessions == 0 && p.tellers == 0) {
            self.peers.remove(peer);
        }
    }

    // ---- tasks come in

    /// These tasks were accepted: consecutive ids, right behind the newest one before them.
    pub fn committed(&mut self, tasks: Vec<Arc<Task>>, now: Time) {
        let mut touched = BTreeSet::new();
        for (class, priority) in CLASSES.into_iter().enumerate() {
            let of_class = || tasks.iter().filter(move |task| task.spec.priority == priority);
            let listening: Vec<GroupId> = if of_class().any(|task| task.spec.to.is_none()) {
                self.listening[class].iter().copied().collect()
            } else {
                // Addressed ones touch only the groups they are for, however many there are.
                let to = of_class().filter_map(|task| self.names.get(task.spec.to.as_ref()?)).copied();
                to.filter(|id| self.listening[class].contains(id)).collect::<BTreeSet<_>>().into_iter().collect()
            };
            for id in listening {
                let Some(group) = self.groups.get_mut(&id) else { continue };
                for task in of_class() {
                    if !group.wants(task) {
                        continue;
                    }
                    touched.insert(id);
                    if group.classes[class].ready.len() >= PAGE {
                        group.classes[class].behind = true;
                        group.classes[class].read = task.id - 1;
                        self.listening[class].remove(&id);
                        break;
                    }
                    if group.classes[class].ready.is_empty() {
                        // The position was the head: now it is what stands before this task.
                        group.classes[class].cursor = task.id - 1;
                    }
                    group.classes[class].ready.push_back(task.clone());
                }
            }
        }
        for task in tasks {
            self.head = task.id;
            self.recent_bytes += cost(&task);
            self.recent.push_back(task);
        }
        while self.recent_bytes > RECENT_BYTES {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.recent_bytes -= cost(&oldest);
        }
        for id in touched {
            self.dispatch(id, now);
        }
    }

    /// Tasks up to here were accepted, too many to be handed over: every group reads them from the store.
    pub fn advanced(&mut self, head: TaskId, now: Time) {
        for (class, listening) in self.listening.iter_mut().enumerate() {
            for id in std::mem::take(listening) {
                if let Some(group) = self.groups.get_mut(&id) {
                    let class = &mut group.classes[class];
                    class.behind = true;
                    class.read = self.head;
                    if class.ready.is_empty() {
                        class.cursor = self.head;
                    }
                }
            }
        }
        self.recent.clear();
        self.recent_bytes = 0;
        self.head = head;
        let active: Vec<GroupId> =
            self.groups.iter().filter(|(_, g)| !g.open_sessions.is_empty()).map(|(id, _)| *id).collect();
        for id in active {
            self.dispatch(id, now);
        }
    }

    /// A page of the backlog that [`Action::Fetch`] asked for; `None`: it could not be read, ask again later.
    pub fn fetched(&mut self, id: GroupId, query: &Backlog, page: Option<BacklogPage>, now: Time) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let at = query.class as usize;
        let class = &mut group.classes[at];
        class.fetching = false;
        let Some(page) = page else {
            let retry = now.after(Duration::from_secs(1));
            self.timers.push(Reverse((retry, Timer::Group(id))));
            group.wake_at = Some(retry);
            return;
        };
        class.read = page.scanned;
        class.ready.extend(page.tasks.into_iter().map(Arc::new));
        if class.read >= self.head {
            class.behind = false;
            self.listening[at].insert(id);
        }
        self.dispatch(id, now);
    }

    /// The tasks that [`Action::Load`] asked for. Those that are not among them are no more.
    pub fn loaded(&mut self, id: GroupId, asked: &[TaskId], tasks: Option<Vec<Task>>, now: Time) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(tasks) = tasks else {
            // Could not be read: due again in a second.
            let retry = now.after(Duration::from_secs(1));
            for task in asked {
                if let Some(attempts) = group.loading.remove(task) {
                    group.delayed.insert((retry, *task), attempts);
                }
            }
            return self.wake_group(id);
        };
        for task in tasks {
            if let Some(attempts) = group.loading.remove(&task.id) {
                group.returned.insert((task.spec.priority, task.id), Returned { task: Arc::new(task), attempts });
            }
        }
        for task in asked {
            group.loading.remove(task);
        }
        self.dispatch(id, now);
    }

    /// The stream of this session has taken so many bytes in all.
    pub fn room(&mut self, id: SessionId, taken: u64, now: Time) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.taken = session.taken.max(taken);
        let group = session.group;
        self.list(id);
        self.dispatch(group, now);
    }

    // ---- tasks go out

    /// Gives the group's tasks to its sessions for as long as there are both.
    fn dispatch(&mut self, id: GroupId, now: Time) {
        self.load_due(id, now);
        loop {
            let Some(group) = self.groups.get(&id) else { return };
            if group.paused {
                break;
            }
            let Some(&(_, _, session)) = group.open_sessions.last() else { break };
            let Some((task, attempts)) = self.next_task(id, now) else { break };
            self.deliver(id, session, task, attempts + 1, now);
        }
        self.wake_group(id);
    }

    /// The next task that is to go out, and how often it went out before.
    fn next_task(&mut self, id: GroupId, now: Time) -> Option<(Arc<Task>, u32)> {
        for (at, priority) in CLASSES.into_iter().enumerate() {
            loop {
                let group = self.groups.get_mut(&id)?;
                let (task, attempts) = match group.returned.first_key_value() {
                    Some((&key, _)) if key.0 == priority => {
                        let returned = group.returned.remove(&key)?;
                        (returned.task, returned.attempts)
                    }
                    _ => {
                        if group.classes[at].ready.is_empty() {
                            self.read_ahead(id, at);
                        }
                        let group = self.groups.get_mut(&id)?;
                        let class = &mut group.classes[at];
                        let Some(task) = class.ready.pop_front() else {
                            if class.behind {
                                // Its tasks go before those of the next class: wait for them.
                                return None;
                            }
                            break;
                        };
                        class.cursor = task.id;
                        group.dirty = true;
                        let (attempts, not_before) = match group.ahead.remove(&task.id) {
                            Some(Ahead::Settled) => continue,
                            Some(Ahead::Open { attempts, not_before }) => (attempts, not_before),
                            None => (0, None),
                        };
                        if let Some(due) = not_before.max(task.spec.not_before).filter(|due| *due > now) {
                            group.delayed.insert((due, task.id), attempts);
                            continue;
                        }
                        (task, attempts)
                    }
                };
                if task.spec.expires_at.is_some_and(|at| at <= now) {
                    self.settled_by_server(id, task.id, attempts, Outcome::Expired, now);
                    continue;
                }
                return Some((task, attempts));
            }
        }
        None
    }

    /// Fills `ready` from the newest tasks in memory, or asks for a page of the backlog.
    fn read_ahead(&mut self, id: GroupId, at: usize) {
        let head = self.head;
        let Some(group) = self.groups.get_mut(&id) else { return };
        if !group.classes[at].behind || group.classes[at].fetching {
            return;
        }
        let read = group.classes[at].read;
        let from = self.recent.partition_point(|task| task.id <= read);
        let in_memory = read >= head || self.recent.front().is_some_and(|first| first.id <= read + 1);
        if !in_memory {
            group.classes[at].fetching = true;
            let query = Backlog {
                group: group.name.clone(),
                class: CLASSES[at],
                after: read,
                upto: head,
                broadcast_after: group.broadcast_after,
                limit: PAGE,
                max_bytes: PAGE_BYTES,
            };
            self.actions.push(Action::Fetch(id, query));
            return;
        }
        let mut read_to = head;
        let mut bytes = 0;
        let mut page = VecDeque::new();
        for task in self.recent.range(from..) {
            if task.spec.priority == CLASSES[at] && group.wants(task) {
                bytes += task.spec.text.len();
                page.push_back(task.clone());
                if page.len() >= PAGE || bytes >= PAGE_BYTES {
                    read_to = task.id;
                    break;
                }
            }
        }
        let class = &mut group.classes[at];
        class.ready = page;
        class.read = read_to;
        if read_to == head {
            class.behind = false;
            self.listening[at].insert(id);
        }
    }

    fn deliver(&mut self, group_id: GroupId, id: SessionId, task: Arc<Task>, attempt: u32, now: Time) {
        self.unlist(id);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(group) = self.groups.get_mut(&group_id) else { return };
        if group.leased {
            session.held.insert(task.id);
            let deadline = now.after(self.config.ack_timeout);
            group.deadlines.insert((deadline, task.id));
            group.leases.insert(task.id, Lease { task: task.clone(), session: id, attempt, deadline });
            group.dirty = true;
        }
        // Anonymous clients, and those of other languages that know no ids.
        if let Some(peer) = self.peers.get_mut(&session.join.peer) {
            peer.unmatched.push(task.id, attempt);
        }
        let delivery = Delivery { task, attempt };
        session.sent += delivery.cost();
        session.delivered += 1;
        session.last_sent = now;
        self.next_turn += 1;
        session.turn = self.next_turn;
        if session.outgoing.is_empty() {
            self.outgoing.push(id);
        }
        session.outgoing.push(delivery);
        if !session.has_room() {
            self.actions.push(Action::WatchRoom(id, session.sent));
        }
        self.list(id);
    }

    /// Moves what is due out of `delayed`, if there is somebody to give it to.
    fn load_due(&mut self, id: GroupId, now: Time) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let mut ids = Vec::new();
        while group.may_load()
            && let Some(entry) = group.delayed.first_entry()
            && entry.key().0 <= now
        {
            let ((_, task), attempts) = entry.remove_entry();
            group.loading.insert(task, attempts);
            ids.push(task);
        }
        if !ids.is_empty() {
            self.actions.push(Action::Load(id, ids));
        }
    }

    /// Puts the session into its group's list if it can take a task.
    fn list(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(group) = self.groups.get_mut(&session.group) else { return };
        if let Some(key) = session.listed.take() {
            group.open_sessions.remove(&key);
        }
        if session.free() > 0 && session.has_room() {
            let key = (session.free(), Reverse(session.turn), id);
            group.open_sessions.insert(key);
            session.listed = Some(key);
        }
    }

    fn unlist(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if let (Some(key), Some(group)) = (session.listed.take(), self.groups.get_mut(&session.group)) {
            group.open_sessions.remove(&key);
        }
    }

    // ---- outcomes come in

    /// A client says what came of tasks.
    pub fn settle(&mut self, teller: &Teller, told: Vec<Told>, now: Time) {
        let named = teller.group.as_ref().or(teller.client.as_ref());
        let group = match named {
            Some(name) => self.names.get(name).copied(),
            None => {
                let anonymous = self.config.anonymous_group.as_ref().and_then(|name| self.names.get(name));
                self.peers.get(&teller.peer).and_then(|peer| peer.group).or(anonymous.copied())
            }
        };
        for mut told in told {
            if told.task == 0 {
                let matched = self.peers.get_mut(&teller.peer).and_then(|peer| peer.unmatched.pop());
                // What matches nothing is kept all the same, with a task of 0: nothing that a client says is lost.
                (told.task, told.attempt) = matched.unwrap_or((0, told.attempt));
            } else if let Some(peer) = self.peers.get_mut(&teller.peer) {
                peer.unmatched.remove(told.task);
            }
            match group {
                Some(group) if told.task != 0 => self.settle_one(group, teller, told, now),
                _ if told.outcome == Outcome::Working => {}
                _ => {
                    let late = named.is_some() || self.config.anonymous_group.is_some();
                    self.record(named.cloned(), teller, told, late, now);
                }
            }
        }
        if let Some(group) = group {
            self.dispatch(group, now);
        }
    }

    fn settle_one(&mut self, id: GroupId, teller: &Teller, told: Told, now: Time) {
        let head = self.head;
        let Some(group) = self.groups.get_mut(&id) else { return };
        let name = group.name.clone();
        if let Some(lease) = group.leases.get_mut(&told.task) {
            let current = told.attempt == 0 || told.attempt == lease.attempt;
            let told = Told { attempt: if told.attempt == 0 { lease.attempt } else { told.attempt }, ..told };
            match told.outcome {
                Outcome::Working if current => {
                    group.deadlines.remove(&(lease.deadline, told.task));
                    lease.deadline = now.after(self.config.ack_timeout);
                    group.deadlines.insert((lease.deadline, told.task));
                }
                Outcome::Working => {}
                Outcome::Retry if current => {
                    let not_before = (!told.delay.is_zero()).then(|| now.after(told.delay));
                    self.give_back(id, told.task, Outcome::Retry, told.ret, not_before, now);
                }
                // A late DONE settles what is not settled yet, whoever has it now.
                Outcome::Done | Outcome::Failed if current || told.outcome == Outcome::Done => {
                    self.end_lease(id, told.task);
                    self.record(name, teller, told, false, now);
                }
                _ => self.record(name, teller, told, true, now),
            }
            return;
        }
        if told.outcome == Outcome::Working {
            return;
        }
        let done = told.outcome == Outcome::Done;
        let open = group.leased && group.take_waiting_if(done, told.task);
        let mut late = !open;
        if !open && told.outcome.settles() && told.task > group.taken_up(head) {
            // It was delivered before a restart that forgot so, or its class is behind another: it must not go out again.
            let known = group.ahead.insert(told.task, Ahead::Settled) == Some(Ahead::Settled);
            late = known || told.task <= group.position(NORMAL, head);
        }
        group.dirty = true;
        self.record(name, teller, told, late, now);
    }

    fn record(&mut self, group: Option<GroupName>, teller: &Teller, told: Told, late: bool, now: Time) {
        let client = teller.client.as_ref().map_or_else(|| teller.peer.clone(), |client| client.as_str().into());
        self.records.push(NewResult {
            task: told.task,
            group,
            client,
            attempt: told.attempt.max(1),
            outcome: told.outcome,
            ret: told.ret,
            at: now,
            not_before: None,
            late,
        });
    }

    /// An outcome that no client told.
    fn settled_by_server(&mut self, id: GroupId, task: TaskId, attempt: u32, outcome: Outcome, now: Time) {
        let Some(group) = self.groups.get(&id) else { return };
        if group.leased {
            let (group, client) = (group.name.clone(), Arc::from(""));
            let ret = String::new();
            self.records.push(NewResult {
                task,
                group,
                client,
                attempt,
                outcome,
                ret,
                at: now,
                not_before: None,
                late: false,
            });
        }
    }

    /// Takes a task from its client.
    fn end_lease(&mut self, id: GroupId, task: TaskId) -> Option<(Lease, Arc<str>)> {
        let group = self.groups.get_mut(&id)?;
        let lease = group.leases.remove(&task)?;
        group.deadlines.remove(&(lease.deadline, task));
        group.dirty = true;
        let mut label: Arc<str> = Arc::from("");
        if let Some(session) = self.sessions.get_mut(&lease.session) {
            session.held.remove(&task);
            label = session.label.clone();
        }
        self.list(lease.session);
        Some((lease, label))
    }

    /// Takes a task from its client, to go out again; or to the dead letters, if its attempts are used up.
    fn give_back(
        &mut self,
        id: GroupId,
        task: TaskId,
        outcome: Outcome,
        ret: String,
        not_before: Option<Time>,
        now: Time,
    ) {
        let Some((lease, client)) = self.end_lease(id, task) else { return };
        let Some(group) = self.groups.get_mut(&id) else { return };
        let result = NewResult {
            task,
            group: group.name.clone(),
            client,
            attempt: lease.attempt,
            outcome,
            ret,
            at: now,
            not_before,
            late: false,
        };
        if lease.attempt >= lease.task.spec.max_attempts.unwrap_or(self.config.max_attempts) {
            let last = NewResult { outcome: Outcome::Exhausted, not_before: None, ..result.clone() };
            self.records.extend([result, last]);
            return;
        }
        match not_before {
            Some(due) => drop(group.delayed.insert((due, task), lease.attempt)),
            None => {
                let key = (lease.task.spec.priority, task);
                group.returned.insert(key, Returned { task: lease.task, attempts: lease.attempt });
            }
        }
        self.records.push(result);
    }

    // ---- time passes

    /// Does what is due, and says when it is next wanted.
    pub fn tick(&mut self, now: Time) -> Option<Time> {
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

    /// Sets the group's timer if it is to be woken earlier than it is.
    fn wake_group(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(due) = group.next_due() else { return };
        if group.wake_at.is_none_or(|at| due < at) {
            group.wake_at = Some(due);
            self.timers.push(Reverse((due, Timer::Group(id))));
        }
    }

    // ---- what there is

    /// The connected clients, oldest stream first.
    pub fn clients(&self) -> Vec<ClientInfo> {
        let mut sessions: Vec<_> = self.sessions.iter().collect();
        sessions.sort_unstable_by_key(|(id, _)| **id);
        sessions.into_iter().map(|(_, session)| self.info(session)).collect()
    }

    /// The client of this session.
    pub fn client(&self, id: SessionId) -> Option<ClientInfo> {
        self.sessions.get(&id).map(|session| self.info(session))
    }

    fn info(&self, session: &Session) -> ClientInfo {
        ClientInfo {
            client: session.join.client.clone(),
            group: self.groups.get(&session.group).and_then(|group| group.name.clone()),
            peer: session.join.peer.clone(),
            since: session.since,
            window: Some(session.window).filter(|window| *window != usize::MAX),
            in_flight: session.held.len(),
            delivered: session.delivered,
        }
    }

    /// The newest task that the groups know of.
    pub fn head(&self) -> TaskId {
        self.head
    }
}

/// Where normal tasks stand in [`CLASSES`].
const NORMAL: usize = 1;

fn cost(task: &Task) -> u64 {
    task.spec.text.len() as u64 + 200
}
