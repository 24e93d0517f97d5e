//! A simulated server around [`Core`]: clients, a store that may lose what it did not sync, and a clock.
//!
//! It does what the thread in `src/broker.rs` does, but nothing happens by itself: a test says when a page is read, when a
//! client reads, when the process dies. Everything that comes out of the core goes through the [`Model`].

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use contact::broker::{
    Action, AllHolds, Cancelled, Closed, Config, Core, Delivery, DrainError, Drained, GroupInfo, Holders, Join,
    JoinError, NotYourTurn, Note, OutcomeReport, Printed, Receipt, Reporter, RevokeReason, Revoked, SessionId, StartAt,
    TaskState, Watched,
};
use contact::group_limits::LimitsChange;
use contact::now::{Now, Steady};
use contact::retry::RetryPolicy;
use contact::store::{
    Backend, Backlog, BacklogPage, Batch, Checkpoint, Drain, Memory, Positions, Reader, Recovered, Removable, Removal,
    Skipped, Slot,
};
use contact::task::{
    ClientId, GroupName, Name, NameOf, NewResult, NewTask, Outcome, Task, TaskId, TaskResult, Time, weight,
};

use super::model::{Logged, Model, is_for_anonymous};
use super::runs::LiveRun;

/// What the core allows to be on its way to a client: the promise that a client who does not read costs little.
pub(crate) const SEND_BUFFER: u64 = 64 * 1024;

/// When each world begins: the machine had been up for a while, and the two clocks have nothing in common.
pub(crate) const START: Now = Now { wall: Time(1_777_536_000_000), steady: Steady(77_000) };

/// Every so many checks, what waits for each group is counted plainly.
const LAG_EVERY: usize = 16;

pub(crate) fn name(name: &str) -> Name {
    Name::new(NameOf::Group, name).unwrap()
}

/// A getTask stream, from the client's side.
pub(crate) struct Stream {
    pub(crate) join: Join,
    /// `None`: a passing one.
    pub(crate) group: Option<GroupName>,
    /// For a passing one: broadcasts up to here are not for it.
    pub(crate) start: TaskId,
    pub(crate) window: usize,
    pub(crate) sent: u64,
    /// What the core knows to have been read.
    pub(crate) taken: u64,
    /// The core wants to hear when so much was sent and there is room again.
    pub(crate) watch: Option<u64>,
    /// Reads only when it is told to.
    pub(crate) slow: bool,
    pub(crate) got: Vec<(TaskId, u32)>,
    pub(crate) seen: HashSet<TaskId>,
    pub(crate) heartbeats: usize,
    pub(crate) revoked: Vec<Revoked>,
    pub(crate) watched: Vec<Watched>,
    /// It gave a task back, and may get none until then.
    rests_until: Option<Steady>,
    /// Drained as long as it lasts, until then: its client has no id.
    pub(crate) drained: Option<Option<Steady>>,
}

/// What the core wants read.
#[derive(Debug, Clone)]
pub(crate) enum Read {
    Fetch(u64, Backlog),
    Load(u64, Vec<TaskId>),
    Count(Vec<Backlog>),
}

/// What was sent to the store.
enum Write {
    Results(Vec<NewResult>),
    Checkpoint(Checkpoint),
    Forget(GroupName),
    Drain(ClientId, Option<Drain>),
}

pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) config: Config,
    pub(crate) now: Now,
    /// The latest time of day so far.
    latest: Time,
    /// When the core wants to be woken.
    pub(crate) due: Option<Steady>,
    /// The log of tasks; a task's place is its id - 1.
    pub(crate) tasks: Vec<Arc<Task>>,
    /// How many of them the core was told of.
    pub(crate) announced: usize,
    pub(crate) streams: BTreeMap<SessionId, Stream>,
    pub(crate) model: Model,
    pub(crate) reads: Vec<Read>,
    /// Reads are answered at once.
    pub(crate) eager: bool,
    /// The clients with an id that are drained, each until when.
    pub(crate) drains: BTreeMap<ClientId, Option<Steady>>,
    /// Why streams ended.
    pub(crate) closed: BTreeMap<SessionId, Closed>,
    /// What those who watch were shown.
    pub(crate) printed: Vec<Printed>,
    pub(super) disk: Memory,
    pub(super) synced: Positions,
    /// What the store has not synced, each with how long the model's log is with it.
    unsynced: Vec<(Write, usize)>,
    next_session: SessionId,
    /// Events left before what came of them is done.
    holding: usize,
    reports: usize,
    /// What retention removed.
    removed: HashSet<TaskId>,
    /// Pages of one lane that were asked for.
    pub(crate) lane_reads: usize,
    checks: usize,
    draining: bool,
    /// When a page or a text could not be read: it is read again a second later.
    read_failed: Option<Steady>,
    /// Pages that were read, and have not come to the core yet: what happens meanwhile is not in them.
    early: Vec<(u64, Backlog, BacklogPage)>,
    /// The runs that go on, by number.
    pub(crate) runs: BTreeMap<TaskId, LiveRun>,
    /// What the servers of the clients know of what these have.
    holds: AllHolds,
    /// What they passed on, and the store may not have synced.
    told: Vec<(Reporter, OutcomeReport)>,
    /// The clients are connected to other servers than the one that leads.
    proxied: bool,
    /// Whether this server leads is not known: nothing goes out.
    held: bool,
}

impl World {
    pub(crate) fn new(config: Config) -> World {
        World {
            core: Core::new(config.clone(), Recovered::default(), START),
            model: Model::new(&config),
            config,
            now: START,
            latest: START.wall,
            due: None,
            tasks: Vec::new(),
            announced: 0,
            streams: BTreeMap::new(),
            reads: Vec::new(),
            eager: true,
            drains: BTreeMap::new(),
            closed: BTreeMap::new(),
            printed: Vec::new(),
            disk: Memory::default(),
            synced: Positions::default(),
            unsynced: Vec::new(),
            next_session: 1,
            holding: 0,
            reports: 0,
            removed: HashSet::new(),
            lane_reads: 0,
            checks: 0,
            draining: false,
            read_failed: None,
            early: Vec::new(),
            runs: BTreeMap::new(),
            holds: AllHolds::default(),
            told: Vec::new(),
            proxied: false,
            held: false,
        }
    }

    // ---- tasks

    /// Accepts tasks. The core does not know of them before [`World::announce`]. Returns the first id.
    pub(crate) fn accept(&mut self, specs: Vec<NewTask>) -> TaskId {
        let first = self.tasks.len() as TaskId + 1;
        let mut new = Vec::new();
        for (id, mut spec) in (first..).zip(specs) {
            self.replace(&mut spec, id);
            let task = Arc::new(Task { id, accepted_at: self.now.wall, spec });
            self.tasks.push(task.clone());
            new.push(task);
        }
        self.synced.task = self.tasks.len() as TaskId;
        self.disk.commit(&Batch { tasks: new, positions: self.synced, ..Batch::default() }).unwrap();
        first
    }

    /// What the store does with a task that replaces others: it takes the place of the newest with its key and address, if that is not
    /// over.
    fn replace(&mut self, spec: &mut NewTask, id: TaskId) {
        let Some(slot) = Slot::of(spec) else { return };
        let now = self.now.wall;
        let Some(at) = self.tasks.iter().rposition(|task| Slot::of(&task.spec).as_ref() == Some(&slot)) else { return };
        let old = &mut self.tasks[at];
        let settled = |to: &GroupName| self.model.is_settled(to, old.id);
        if old.spec.expires_at.is_some_and(|at| at <= now) || old.spec.to.as_ref().is_some_and(settled) {
            return;
        }
        Arc::make_mut(old).spec.set_replaced(id, now);
        spec.replace.as_mut().unwrap().replaces = Some(old.id);
    }

    pub(crate) fn announce(&mut self) {
        let new = self.tasks[self.announced..].to_vec();
        if !new.is_empty() {
            self.announced = self.tasks.len();
            self.core.committed(new, self.now);
            self.act();
        }
    }

    /// Tells the core of tasks without handing them over.
    pub(crate) fn jump(&mut self) {
        if self.announced < self.tasks.len() {
            let mut skipped = Skipped::default();
            self.tasks[self.announced..].iter().for_each(|task| skipped.add(task));
            self.announced = self.tasks.len();
            // As where they are for too many groups.
            skipped.addressed = skipped.addressed.filter(|_| !self.announced.is_multiple_of(3));
            self.core.advanced(&skipped, self.now);
            self.act();
        }
    }

    pub(crate) fn submit(&mut self, spec: NewTask) -> TaskId {
        let id = self.accept(vec![spec]);
        self.announce();
        id
    }

    pub(crate) fn broadcast(&mut self, text: &str) -> TaskId {
        self.submit(NewTask { text: text.into(), ..NewTask::default() })
    }

    pub(crate) fn address(&mut self, to: &str, text: &str) -> TaskId {
        self.submit(NewTask { text: text.into(), to: Some(name(to)), ..NewTask::default() })
    }

    // ---- clients

    pub(crate) fn join(&mut self, join: Join) -> SessionId {
        self.try_join(join).unwrap()
    }

    pub(crate) fn try_join(&mut self, join: Join) -> Result<SessionId, NotYourTurn> {
        let id = self.next_session;
        self.next_session += 1;
        let anonymous = join.client.is_none() && join.group.is_none();
        let group = if anonymous {
            self.config.anonymous_group.clone()
        } else {
            join.group.clone().or_else(|| join.client.clone())
        };
        let from = join.from.unwrap_or(if anonymous { self.config.anonymous_from } else { self.config.groups_from });
        let start = self.start(from);
        let before = join.client.as_ref().and_then(|client| {
            self.streams.iter().find(|(_, stream)| stream.join.client.as_ref() == Some(client)).map(|(id, _)| *id)
        });
        if before.is_some() {
            self.flush();
        }
        let is_new = group.as_ref().is_some_and(|group| !self.model.groups.contains_key(group));
        let result = self.core.join(join.clone(), id, self.now).map_err(|error| match error {
            JoinError::NotYourTurn(error) => error,
            other => panic!("{other}"),
        });
        self.model.asked_for(
            &join,
            before.map(|id| &self.streams[&id].join),
            &result.clone().map(drop),
            self.now.steady,
        );
        assert!(result.is_err() || result == Ok(is_new.then_some(from)), "{result:?}");
        if let Err(refused) = result {
            self.act();
            return Err(refused);
        }
        if let Some(group) = &group {
            self.model.group_is_there(group, start);
            self.model.says(group, &join.labels);
        }
        let stream = Stream {
            window: match group {
                Some(_) => {
                    let most = self.config.max_window.min(join.quota.map_or(u32::MAX, |quota| quota.window));
                    join.window.unwrap_or(self.config.window).min(most) as usize
                }
                None => usize::MAX,
            },
            group,
            start,
            join: join.clone(),
            sent: 0,
            taken: 0,
            watch: None,
            slow: false,
            got: Vec::new(),
            seen: HashSet::new(),
            heartbeats: 0,
            revoked: Vec::new(),
            watched: Vec::new(),
            rests_until: None,
            drained: None,
        };
        if let Some(before) = before {
            let old = &self.streams[&before];
            if join.instance.is_some() && old.join.instance == join.instance && old.group == stream.group {
                let connection = Some(&join.peer).filter(|peer| **peer != old.join.peer);
                self.model.moved(before, id, connection, self.now);
            }
            self.model.is_excused(before);
            self.gone(before);
        }
        self.model.peer_joined(id, &join.peer, stream.group.as_ref(), self.now);
        self.holds.came(id, &join, stream.group.is_none());
        if let Some(holds) = self.holds.of(id) {
            holds.begins_after(start);
        }
        self.streams.insert(id, stream);
        self.act();
        if let Some(before) = before {
            assert_eq!(self.closed.get(&before), Some(&Closed::TakenOver), "the old stream of the client is ended");
        }
        Ok(id)
    }

    pub(crate) fn leave(&mut self, id: SessionId) {
        if self.streams[&id].join.begins {
            self.model.left(id, self.now);
        }
        self.gone(id);
        self.core.leave(id, self.now);
        self.act();
    }

    /// The server is lost that its client is connected to.
    pub(crate) fn lose(&mut self, id: SessionId) {
        self.model.is_excused(id);
        self.core.excuse(id);
        self.leave(id);
    }

    /// The server keeps its clients waiting for an answer, until now.
    pub(crate) fn keep_waiting(&mut self) {
        self.model.kept_waiting = Some(self.now.steady);
        self.core.keep_waiting(self.now);
    }

    fn gone(&mut self, id: SessionId) {
        let stream = self.streams.remove(&id).unwrap();
        self.model.peer_left(&stream.join.peer);
        self.holds.went(id, &stream.join);
    }

    /// The client reads so many percent of what is on its way.
    pub(crate) fn read(&mut self, id: SessionId, percent: u64) {
        let stream = self.streams.get_mut(&id).unwrap();
        let taken = stream.taken + (stream.sent - stream.taken) * percent / 100;
        if stream.watch.take().is_some() {
            stream.taken = taken;
            self.core.stream_took(id, taken, self.now);
            self.act();
        }
    }

    // ---- outcomes

    pub(crate) fn reporter(&self, id: SessionId) -> Reporter {
        let join = &self.streams[&id].join;
        Reporter { client: join.client.clone(), group: join.group.clone(), peer: join.peer.clone() }
    }

    pub(crate) fn reporter_connected(&mut self, peer: &Arc<str>) {
        self.model.reporter_connected(peer);
        self.holds.teller_came(peer);
        self.core.reporter_connected(peer);
        self.act();
    }

    pub(crate) fn reporter_disconnected(&mut self, peer: &Arc<str>) {
        self.model.reporter_disconnected(peer);
        self.holds.teller_went(peer);
        self.core.reporter_disconnected(peer);
        self.act();
    }

    /// Who gives a task back gets none for a second; if it does so again, it may be a minute.
    fn rest(&mut self, task: TaskId) {
        let leases = self.model.leases();
        let has = |id: &SessionId| leases.iter().any(|(_, of, session, _)| *of == task && *session == Some(*id));
        let unknown = task == 0 || self.holding > 0;
        for (_, stream) in self.streams.iter_mut().filter(|(id, _)| unknown || has(id)) {
            let rest = Duration::from_secs(if stream.rests_until.is_some() { 60 } else { 1 });
            stream.rests_until = Some(self.now.steady.after(rest));
        }
    }

    /// Reports one outcome. Returns the result that was recorded for it.
    pub(crate) fn report(&mut self, reporter: &Reporter, mut report: OutcomeReport) -> Option<NewResult> {
        if report.outcome == Outcome::Working {
            // Whether it brings back a lease depends on what the events before it did.
            self.flush();
        }
        self.reports += 1;
        if report.outcome == Outcome::Released {
            self.rest(report.task);
        }
        report.ret = format!("report {}", self.reports);
        let mut passed_on = report.clone();
        self.holds.told(reporter, &mut passed_on);
        if self.proxied {
            report = passed_on.clone();
        }
        self.told.push((reporter.clone(), passed_on));
        let held = self.holding > 0;
        let head = self.announced as TaskId;
        let expected = self.model.report(reporter, &report, head, self.now, &self.tasks, &self.streams);
        let before = self.model.log.len();
        let stale = self.model.stale.filter(|(session, _, _)| !held && self.streams[session].join.revoke);
        let revoked = stale.map(|(session, _, _)| self.streams[&session].revoked.len());
        self.core.report(reporter, vec![report.clone()], self.now);
        self.act();
        if let Some((session, task, attempt)) = stale {
            let [said] = self.streams[&session].revoked[revoked.unwrap_or(0)..] else {
                panic!("{report:?} is of an earlier delivery, and its client is told so once")
            };
            let over = self.tasks[task as usize - 1].spec.expires_at.is_some_and(|at| at <= self.now.wall);
            let reason = if over { RevokeReason::Expired } else { RevokeReason::GivenToAnother };
            assert_eq!((said.task, said.attempt), (task, attempt));
            // Of a task that is no longer in memory it is not known.
            assert!(said.reason == reason || over, "{said:?} because of {reason:?}");
        }
        let new = self.model.log[before..].iter().filter_map(Logged::result);
        let mut new: Vec<NewResult> =
            new.filter(|r| r.ret == report.ret && r.outcome == report.outcome).cloned().collect();
        // In a burst, earlier events may have changed what is to be expected.
        if !held {
            match &expected {
                None => assert_eq!(new, [], "{report:?} leaves no result"),
                Some(expected) => {
                    assert_eq!(new.len(), 1, "{report:?} leaves one result");
                    expected.check(&new[0]);
                }
            }
        }
        new.pop()
    }

    pub(crate) fn done(&mut self, session: SessionId, task: TaskId) -> NewResult {
        self.settle(session, task, Outcome::Done).unwrap()
    }

    pub(crate) fn settle(&mut self, session: SessionId, task: TaskId, outcome: Outcome) -> Option<NewResult> {
        self.report(&self.reporter(session), outcome_report(task, 0, outcome))
    }

    // ---- time, and the store

    pub(crate) fn wait(&mut self, time: Duration) {
        self.flush();
        self.passes(time);
        self.act();
    }

    /// WaitReason for as long as the core says that nothing happens by itself.
    pub(crate) fn wait_for_due(&mut self) {
        self.flush();
        // No later than a wait is to be over: that the core is late would not be seen.
        let waits = self.model.groups.keys().filter_map(|group| self.model.over_at(group, self.now)).min();
        if let Some(due) = self.due {
            self.passes(waits.map_or(due, |over| over.min(due)).since(self.now.steady));
        }
        self.act();
    }

    /// The time of day is another from now on.
    pub(crate) fn step(&mut self, millis: i64) {
        self.flush();
        self.now.wall.0 += millis;
        self.model.stepped = Some(self.model.log.len());
        self.act();
    }

    fn passes(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    pub(crate) fn answer(&mut self, at: usize, ok: bool) {
        let now = self.now;
        self.read_failed = if ok { self.read_failed } else { Some(now.steady) };
        match self.reads.remove(at) {
            Read::Fetch(group, query) => {
                let page = self.page(group, &query);
                let page = ok.then_some(page);
                self.core.fetched(group, &query, page, now);
            }
            Read::Load(group, ids) => {
                let tasks = ok.then(|| self.disk.tasks_by_id(&ids).unwrap());
                self.core.loaded(group, &ids, tasks, now);
            }
            Read::Count(asked) => {
                let counted = ok.then(|| contact::broker::count(&mut self.disk, &asked).unwrap());
                self.core.counted(&asked, counted, now);
            }
        }
        self.act();
    }

    /// The page is read now, and comes to the core later.
    pub(crate) fn read_early(&mut self, at: usize) {
        if let Read::Fetch(group, query) = self.reads[at].clone() {
            let page = self.page(group, &query);
            self.early.push((group, query, page));
        }
    }

    fn page(&mut self, group: u64, query: &Backlog) -> BacklogPage {
        let is_it = |(of, early, _): &(u64, Backlog, BacklogPage)| {
            *of == group && (early.priority, &early.lane) == (query.priority, &query.lane)
        };
        match self.early.iter().position(is_it) {
            Some(at) => self.early.remove(at).2,
            None => self.disk.backlog(query).unwrap(),
        }
    }

    pub(crate) fn checkpoint(&mut self) {
        self.core.checkpoint(self.now);
        self.act();
    }

    /// Everything that was sent to the store is on disk.
    pub(crate) fn sync(&mut self) {
        self.flush();
        self.commit(self.unsynced.len());
        self.told.clear();
    }

    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    fn commit(&mut self, count: usize) {
        for (write, _) in self.unsynced.drain(..count) {
            let mut batch = Batch::default();
            match write {
                Write::Results(results) => {
                    for result in results {
                        self.synced.result += 1;
                        batch.results.push(TaskResult { seq: self.synced.result, result });
                    }
                }
                Write::Checkpoint(checkpoint) => {
                    batch.mark = Some(self.synced.result);
                    batch.groups = checkpoint.groups.into_iter().map(|group| (group.name.clone(), group)).collect();
                    batch.open = checkpoint.open;
                    batch.clients = checkpoint.clients;
                }
                Write::Forget(group) => drop(batch.forgotten.insert(group)),
                Write::Drain(client, drain) => drop(batch.drains.insert(client, drain)),
            }
            batch.positions = self.synced;
            self.disk.commit(&batch).unwrap();
        }
    }

    /// The process dies and is started again. Of what the store had not synced, so many writes survive.
    pub(crate) fn crash(&mut self, survive: usize) {
        self.begin_anew(survive);
        (self.holds, self.proxied) = (AllHolds::default(), false);
        self.told.clear();
        self.runs_go_on();
    }

    /// Another server leads, with so many of the writes that the store had not synced. The streams for which `stays` says so are open at
    /// servers that stay.
    pub(crate) fn change_leader(&mut self, survive: usize, stays: impl Fn(SessionId) -> bool) {
        let streams = std::mem::take(&mut self.streams);
        self.begin_anew(survive);
        self.proxied = true;
        // The store has written a new group before a task that came after it. Here it need not have.
        let is_there =
            |stream: &Stream| stream.group.as_ref().is_none_or(|group| self.model.groups.contains_key(group));
        let (stay, go): (BTreeMap<_, _>, _) =
            streams.into_iter().partition(|(id, stream)| stays(*id) && is_there(stream));
        go.iter().for_each(|(id, stream)| self.holds.went(*id, &stream.join));
        stay.into_iter().for_each(|(id, stream)| self.goes_on(id, stream));
        for (reporter, report) in std::mem::take(&mut self.told) {
            self.report(&reporter, report);
        }
        self.runs_go_on();
    }

    fn goes_on(&mut self, id: SessionId, stream: Stream) {
        let resume = self.holds.of(id).unwrap().resume();
        let join = Join { resume: Some(Box::new(resume.clone())), ..stream.join.clone() };
        self.model.asked_for(&join, None, &Ok(()), self.now.steady);
        assert_eq!(self.core.join(join, id, self.now), Ok(None));
        if let Some(group) = &stream.group {
            self.model.says(group, &stream.join.labels);
        }
        self.model.peer_joined(id, &stream.join.peer, stream.group.as_ref(), self.now);
        for held in resume.holds.iter().filter(|_| stream.group.is_some()) {
            self.model.goes_on(id, &stream, held, self.now, &self.tasks[..self.announced]);
        }
        let ends = |until: Option<Time>| until.map(|until| self.now.steady_at(until));
        let drained = resume.draining.map(|draining| ends(draining.until));
        assert_eq!(drained.is_some(), stream.drained.is_some(), "it is drained until its stream ends");
        self.streams.insert(id, Stream { sent: 0, taken: 0, watch: None, rests_until: None, drained, ..stream });
        self.act();
    }

    /// Whether this server leads is not known for now, or known again.
    pub(crate) fn hold_back(&mut self, held: bool) {
        self.flush();
        self.held = held;
        match held {
            true => self.core.hold(),
            false => self.core.end_hold(self.now),
        }
        self.act();
    }

    fn begin_anew(&mut self, survive: usize) {
        (self.holding, self.held) = (0, false);
        self.draining = false;
        let lost_from = match survive {
            0 => self.model.log.len() - self.unsynced_entries(),
            n => self.unsynced[n - 1].1,
        };
        self.commit(survive);
        self.unsynced.clear();
        self.streams.clear();
        self.reads.clear();
        self.early.clear();
        self.announced = self.tasks.len();
        let recovered = self.disk.recover().unwrap();
        self.model.restarted(lost_from, &recovered, &self.tasks, self.now);
        let shown = self.now.wall.max(recovered.newest.task).max(recovered.newest.result);
        let stored = Now { wall: shown, ..self.now };
        let ends = |until: Option<Time>| until.map(|until| stored.steady_at(until));
        self.drains = recovered.drains.iter().map(|drain| (drain.client.clone(), ends(drain.until))).collect();
        self.core = Core::new(self.config.clone(), recovered, self.now);
        self.act();
    }

    fn unsynced_entries(&self) -> usize {
        let count = |write: &Write| match write {
            Write::Results(results) => results.len(),
            Write::Checkpoint(_) | Write::Drain(..) => 0,
            Write::Forget(_) => 1,
        };
        self.unsynced.iter().map(|(write, _)| count(write)).sum()
    }

    /// Everything is written, and the process is started again.
    pub(crate) fn restart(&mut self) {
        self.sync();
        let for_good = |world: &World| -> Vec<ClientId> {
            world.drains.iter().filter(|(_, until)| until.is_none()).map(|(client, _)| client.clone()).collect()
        };
        let drained = for_good(self);
        self.crash(0);
        assert_eq!(for_good(self), drained, "who is drained stays so");
    }

    /// The server is about to stop.
    pub(crate) fn begin_stop(&mut self) {
        self.flush();
        self.draining = true;
        self.core.begin_stop();
    }

    /// An operator gives a client no more tasks. It is known, or nothing happens.
    pub(crate) fn drain(&mut self, client: &str, lasts: Option<Duration>) -> Result<Drained, DrainError> {
        self.flush();
        let until = lasts.map(|lasts| self.now.steady.after(lasts));
        let drained = self.core.drain(client, lasts, "a note", self.now);
        let sessions = self.streams_of(client);
        assert!(drained.is_ok() || sessions.is_empty(), "who is connected can be drained");
        if let Ok(drained) = &drained {
            assert_eq!(drained.clients.len(), sessions.len());
            if sessions.iter().all(|id| self.streams[id].join.client.is_some()) {
                self.drains.insert(name(client), until);
            }
            for id in sessions {
                let stream = self.streams.get_mut(&id).unwrap();
                stream.drained = stream.join.client.is_none().then_some(until).or(stream.drained);
            }
        }
        self.act();
        drained
    }

    /// Gives it tasks again; says whether it was drained.
    pub(crate) fn undrain(&mut self, client: &str) -> bool {
        self.flush();
        let mut expected = self.drains.remove(&name(client)).is_some();
        for id in self.streams_of(client) {
            expected |= self.streams.get_mut(&id).unwrap().drained.take().is_some();
        }
        let undrained = self.core.undrain(client, self.now).is_ok_and(|undrained| undrained.changed);
        assert_eq!(undrained, expected);
        self.act();
        undrained
    }

    /// The streams of a client: by its id, or else by its address.
    fn streams_of(&self, client: &str) -> Vec<SessionId> {
        let by_id = |stream: &Stream| stream.join.client.as_ref().is_some_and(|id| id.as_str() == client);
        let by_address = |stream: &Stream| &*stream.join.peer == client;
        let find = |is: &dyn Fn(&Stream) -> bool| -> Vec<SessionId> {
            self.streams.iter().filter(|(_, stream)| is(stream)).map(|(id, _)| *id).collect()
        };
        // Of an id, the last stream that came.
        match find(&by_id).pop() {
            Some(last) => vec![last],
            None => find(&by_address),
        }
    }

    fn is_drained(&self, stream: &Stream) -> bool {
        let by_operator = stream.join.client.as_ref().and_then(|client| self.drains.get(client));
        stream.join.stopping || by_operator.is_some() || stream.drained.is_some()
    }

    // ---- operators

    pub(crate) fn pause(&mut self, group: &str, paused: bool) {
        self.flush();
        if let Ok(is_new) = self.core.pause(&name(group), paused, self.now) {
            assert_eq!(is_new, !self.model.groups.contains_key(&name(group)));
            if is_new {
                let start = self.start(self.config.groups_from);
                self.model.group_is_there(&name(group), start);
            }
            self.model.groups.get_mut(&name(group)).unwrap().paused = paused;
        }
        self.act();
    }

    /// The broadcasts after this are for a group that starts there now.
    fn start(&self, from: StartAt) -> TaskId {
        if from == StartAt::New { self.announced as TaskId } else { 0 }
    }

    pub(crate) fn set_retry(&mut self, group: &str, retry: RetryPolicy) {
        self.flush();
        let known = self.model.groups.contains_key(&name(group));
        match self.core.set_retry(&name(group), retry, self.now) {
            Ok(is_new) => {
                assert_eq!(is_new, !known);
                if is_new {
                    let start = self.start(self.config.groups_from);
                    self.model.group_is_there(&name(group), start);
                }
                self.model.groups.get_mut(&name(group)).unwrap().retry = retry;
            }
            Err(_) => assert!(!known && retry.is_open(), "only where there is nothing to be reset"),
        }
        self.act();
    }

    pub(crate) fn set_limits(&mut self, group: &str, change: LimitsChange) {
        self.flush();
        let known = self.model.groups.get(&name(group)).map(|known| known.limits);
        let limits = change.applied_to(known.unwrap_or_default());
        match self.core.set_limits(&name(group), change, self.now) {
            Ok(set) => {
                assert_eq!(set, (limits, known.is_none()));
                if known.is_none() {
                    let start = self.start(self.config.groups_from);
                    self.model.group_is_there(&name(group), start);
                }
                self.model.limits_are(&name(group), limits);
            }
            Err(_) => assert!(known.is_none() && limits.is_default(), "only where there is nothing to be reset"),
        }
        self.act();
    }

    pub(crate) fn remove_group(&mut self, group: &str) -> bool {
        self.flush();
        let used = self.streams.values().any(|stream| stream.group == Some(name(group)));
        let removed = self.core.remove_group(&name(group), self.now).is_ok();
        assert_eq!(removed, self.model.groups.contains_key(&name(group)) && !used, "only unused groups are removed");
        self.act();
        removed
    }

    /// Somebody watches what a task prints, and has seen what these attempts printed so far.
    pub(crate) fn watch(&mut self, task: TaskId, group: Option<&str>, seen: &[(&str, u32)]) -> Result<Holders, usize> {
        let task = self.tasks[task as usize - 1].clone();
        let seen = seen.iter().map(|(group, attempt)| (name(group), *attempt)).collect();
        let holders = self.core.watch(&task, group.map(name).as_ref(), &seen, self.now);
        self.act();
        holders
    }

    pub(crate) fn cancel(&mut self, task: TaskId) -> Cancelled {
        self.flush();
        let at = task as usize - 1;
        let before = Task::clone(&self.tasks[at]);
        let mut cancelled = before.clone();
        let over = Some(NewTask::cancelled(self.now.wall));
        cancelled.spec.expires_at = over;
        if let Some(replace) = &mut cancelled.spec.replace {
            replace.by = None;
        }
        self.tasks[at] = Arc::new(cancelled);
        let batch = Batch { expiries: vec![(task, over)], positions: self.synced, ..Batch::default() };
        self.disk.commit(&batch).unwrap();
        self.model.cancelled.insert(task);
        let expected = self.model.unsettled_groups(&before);
        let holders = self.model.leases().into_iter().filter(|(_, of, _, _)| *of == task);
        let told: Vec<_> = holders.filter_map(|(_, _, session, attempt)| Some((session?, attempt))).collect();
        let holders = self.model.leases().iter().filter(|(_, of, _, _)| *of == task).count();
        let cancelled = self.core.cancel(&before, self.now);
        self.act();
        let groups = cancelled.groups() as usize;
        assert_eq!(groups, expected.len(), "every group that had not settled it is rid of it: {expected:?}");
        let can_be_told = told.iter().filter(|(session, _)| self.streams[session].join.revoke).count();
        assert!(cancelled.told as usize <= can_be_told, "{cancelled:?}, and {can_be_told} can be told");
        assert!((cancelled.told + cancelled.untold) as usize <= holders, "{cancelled:?}, and {holders} have it");
        for (session, attempt) in told.into_iter().filter(|(session, _)| self.streams[session].join.revoke) {
            let last = self.streams[&session].revoked.last();
            let told = Some(&Revoked { task, attempt, reason: RevokeReason::Cancelled });
            assert_eq!(last, told, "who has a task that is cancelled hears so");
        }
        for group in expected {
            assert!(self.model.is_settled(&group, task), "{group} is rid of task {task}");
        }
        cancelled
    }

    pub(crate) fn revive(&mut self, group: &str, task: TaskId) -> bool {
        self.flush();
        let group = name(group);
        let expected = self.model.groups.contains_key(&group) && self.model.is_settled(&group, task);
        let wanted = self.model.wants(&group, &self.tasks[task as usize - 1]);
        let revived = self.core.revive(&group, &self.tasks[task as usize - 1].clone(), self.now);
        self.act();
        assert_eq!(revived, expected && wanted, "what is settled, and only that, comes to life again");
        revived
    }

    /// An operator has seen a dead letter.
    pub(crate) fn drop_dead(&mut self, group: &str, task: TaskId) {
        self.flush();
        if self.model.is_settled(&name(group), task) {
            self.model.holds_no_more(&name(group), task);
            self.core.drop_dead(&name(group), task, self.now);
            self.act();
        }
    }

    /// Retention may remove what those have settled for whom it is, and nothing else.
    pub(crate) fn floor(&mut self) {
        self.flush();
        let floors = self.core.settled_floors();
        let is_settled = |task: &&Arc<Task>| floors.of(task.spec.to.as_ref()).is_some_and(|floor| task.id <= floor);
        for task in self.tasks.iter().filter(is_settled) {
            let open = self.model.unsettled_groups(task);
            assert!(open.is_empty(), "task {} is not settled by {open:?}, and would be removed", task.id);
        }
    }

    /// Retention removes what it may.
    pub(crate) fn remove_settled(&mut self) -> usize {
        let (floors, now) = (self.core.settled_floors(), Time(i64::MAX));
        let unclaimed_before = Time(i64::MIN);
        let removable = Removable { floors, before: now, unclaimed_before, now, limit: usize::MAX };
        let chunks = self.disk.removable(&removable).unwrap().iter().map(|chunk| chunk.first).collect();
        let removal = Removal { chunks, before: now, now, limit: usize::MAX };
        let removed = self.disk.remove(&removal).unwrap().tasks;
        self.removed.extend(&removed);
        removed.iter().for_each(|task| self.model.is_removed(*task));
        self.core.removed(&removed, self.now);
        self.act();
        removed.len()
    }

    // ---- what the core says is done

    /// The next events happen before anything is done about them, as when many come at once.
    pub(crate) fn hold(&mut self, events: usize) {
        self.flush();
        self.holding = events;
    }

    pub(crate) fn flush(&mut self) {
        if self.holding > 0 {
            self.holding = 1;
            self.act();
        }
    }

    /// Does what the thread of the broker does after an event. `false`: more events come first.
    pub(super) fn act(&mut self) -> bool {
        let held = self.holding > 0;
        if held {
            self.holding -= 1;
            if self.holding > 0 {
                return false;
            }
        }
        let over = |until: &Option<Steady>| until.is_some_and(|until| until <= self.now.steady);
        self.drains.retain(|_, until| !over(until));
        self.streams.values_mut().for_each(|stream| stream.drained = stream.drained.filter(|until| !over(until)));
        self.latest = self.latest.max(self.now.wall);
        self.model.batch = held;
        self.model.before = self.model.log.len();
        for _ in 0..10_000 {
            self.due = self.core.tick(self.now);
            let actions = self.core.take_actions(self.now);
            let idle = actions.is_empty();
            for action in actions {
                self.act_one(action);
            }
            self.model.step_ends(&self.tasks[..self.announced], self.now);
            let reading = self.readers_read();
            let answered = self.eager && !self.reads.is_empty();
            if answered {
                self.answer_one();
            }
            if idle && !reading && !answered {
                self.check();
                self.model.batch = false;
                return true;
            }
        }
        panic!("the core does not come to rest");
    }

    fn answer_one(&mut self) {
        // Without `act`: this is part of one.
        match self.reads.remove(0) {
            Read::Fetch(group, query) => {
                let page = self.page(group, &query);
                self.core.fetched(group, &query, Some(page), self.now);
            }
            Read::Load(group, ids) => {
                let tasks = self.disk.tasks_by_id(&ids).unwrap();
                self.core.loaded(group, &ids, Some(tasks), self.now);
            }
            Read::Count(asked) => {
                let mut counted = contact::broker::count(&mut self.disk, &asked).unwrap();
                // As where it takes long.
                counted.truncate(2);
                self.core.counted(&asked, Some(counted), self.now);
            }
        }
    }

    fn readers_read(&mut self) -> bool {
        let mut any = false;
        for (id, stream) in &mut self.streams {
            if !stream.slow && stream.watch.take().is_some() {
                stream.taken = stream.sent;
                self.core.stream_took(*id, stream.taken, self.now);
                any = true;
            }
        }
        any
    }

    fn act_one(&mut self, action: Action) {
        match action {
            Action::Deliver(session, deliveries) => self.deliver(session, deliveries),
            Action::Note(session, note) => {
                // In a burst its stream may have ended since.
                let Some(stream) = self.streams.get(&session) else { return assert!(self.model.batch) };
                assert!(stream.group.is_none() || matches!(note, Note::Draining(_)), "a group is known to the store");
                self.holds.of(session).unwrap().note(note);
            }
            Action::Heartbeat(session) => {
                let stream = self.streams.get_mut(&session).expect("a heartbeat goes to a stream that is there");
                assert!(stream.join.heartbeat.is_some(), "a heartbeat goes to a client that asked for it");
                stream.heartbeats += 1;
            }
            Action::Revoke(session, revoked) => {
                // In a burst its stream may have ended since.
                let Some(stream) = self.streams.get_mut(&session) else { return assert!(self.model.batch) };
                assert!(stream.join.revoke, "who did not ask for it hears nothing");
                let group = stream.group.clone().expect("an anonymous client holds nothing");
                let has = |lease: &(GroupName, TaskId, Option<SessionId>, u32)| {
                    lease.0 == group
                        && lease.1 == revoked.task
                        && lease.2 == Some(session)
                        && lease.3 == revoked.attempt
                };
                assert!(
                    self.model.batch
                        || revoked.reason == RevokeReason::Cancelled
                        || !self.model.leases().iter().any(has)
                );
                stream.revoked.push(revoked);
                self.holds.of(session).unwrap().revoked(revoked.task);
            }
            Action::Watch(session, watched) => {
                let stream = self.streams.get_mut(&session).expect("a stream that has the task is told");
                assert!(stream.join.output, "who cannot say what it prints is not asked to");
                stream.watched.push(watched);
            }
            Action::Print(printed) => self.printed.push(printed),
            Action::Close(session, why) => {
                assert!(!self.streams.contains_key(&session), "no stream is ended without a reason");
                self.closed.insert(session, why);
            }
            Action::WatchRoom(session, sent) => {
                // A stream that was ended by an event of the same burst is gone already.
                if let Some(stream) = self.streams.get_mut(&session) {
                    stream.watch = Some(sent);
                }
            }
            Action::RecordUnlessSettled(mut result) => {
                result.late = result.group.as_ref().is_some_and(|group| self.model.is_settled(group, result.task));
                self.act_one(Action::Record(vec![*result]));
            }
            Action::Record(results) => {
                for result in &results {
                    self.model.recorded(result, self.now, &self.streams, &self.tasks[..self.announced]);
                }
                self.unsynced.push((Write::Results(results), self.model.log.len()));
            }
            Action::Checkpoint(checkpoint) => {
                let names: HashSet<_> = checkpoint.groups.iter().map(|group| &group.name).collect();
                assert_eq!(names.len(), checkpoint.groups.len(), "a checkpoint names a group once");
                assert!(checkpoint.open.keys().all(|name| names.contains(name)), "rows belong to a group that changed");
                self.model.checkpointed(&checkpoint, self.now);
                self.unsynced.push((Write::Checkpoint(checkpoint), self.model.log.len()));
            }
            Action::Forget(group) => {
                self.model.forgot(&group);
                self.unsynced.push((Write::Forget(group), self.model.log.len()));
            }
            Action::Drain(client, drain) => {
                self.unsynced.push((Write::Drain(client, drain), self.model.log.len()));
            }
            Action::Fetch(group, query) => {
                let same = |read: &Read| matches!(read, Read::Fetch(g, q) if *g == group && q.priority == query.priority && q.lane == query.lane);
                assert!(!self.reads.iter().any(same), "one page of a priority and lane is asked for at a time");
                self.reads_for(query.group.as_ref());
                self.lane_reads += usize::from(query.lane.is_some());
                self.reads.push(Read::Fetch(group, query));
            }
            Action::Load(group, ids) => self.reads.push(Read::Load(group, ids)),
            Action::Count(asked) => {
                let counts = self.reads.iter().any(|read| matches!(read, Read::Count(_)));
                assert!(!asked.is_empty() && !counts, "one part is counted at a time");
                self.reads.push(Read::Count(asked));
            }
        }
    }

    /// Nothing is read for groups that are gone.
    fn reads_for(&self, group: Option<&GroupName>) {
        match group {
            Some(group) => assert!(self.model.groups.contains_key(group), "group {group} is gone"),
            // In a burst its stream may have come and gone.
            None => assert!(
                self.model.batch || self.streams.values().any(|stream| stream.group.is_none()),
                "passing groups end with their streams"
            ),
        }
    }

    fn deliver(&mut self, session: SessionId, deliveries: Vec<Delivery>) {
        assert!(!deliveries.is_empty(), "no empty message");
        assert!(!self.held, "nothing goes out while another server may lead");
        let drained = self.streams.get(&session).is_some_and(|stream| self.is_drained(stream));
        assert!(!drained, "session {session} is drained, and is given {deliveries:?}");
        let stream = self.streams.get_mut(&session).expect("tasks go to a stream that is there");
        for delivery in &deliveries {
            let (task, attempt) = (&delivery.task, delivery.attempt);
            assert!(task.id as usize <= self.announced, "only tasks that were accepted");
            let accepted = &self.tasks[task.id as usize - 1].spec;
            let what = |spec: &NewTask| {
                (spec.text.clone(), spec.time_limit, spec.priority, spec.max_attempts, spec.retry.clone())
            };
            assert_eq!(what(&task.spec), what(accepted));
            assert!(!self.model.cancelled.contains(&task.id), "task {} was cancelled", task.id);
            let by = accepted.replaced_by().filter(|by| *by as usize <= self.announced && !self.model.batch);
            assert_eq!(by, None, "task {} was replaced, and goes out", task.id);
            assert!(stream.sent - stream.taken < SEND_BUFFER, "a client that does not read is not sent more");
            let came = attempt > 1 || task.spec.not_before.is_none_or(|at| at <= self.now.wall);
            assert!(came, "task {} is not due", task.id);
            assert!(task.spec.expires_at.is_none_or(|at| at > self.now.wall), "task {} is over", task.id);
            stream.sent += delivery.cost();
            self.model.delivered(session, stream, task, attempt, self.now, &self.tasks[..self.announced]);
            stream.got.push((task.id, attempt));
            stream.seen.insert(task.id);
        }
        self.holds.given(session, &stream.join.peer, &deliveries);
    }

    /// What holds whenever nothing is left to be done.
    fn check(&mut self) {
        self.checks += 1;
        assert_eq!(self.core.check(), Ok(()));
        let clients = self.core.clients();
        assert_eq!(clients.len(), self.streams.len());
        let mut in_flight: BTreeMap<&GroupName, usize> = BTreeMap::new();
        for ((id, stream), info) in self.streams.iter().zip(&clients) {
            assert_eq!((&info.client, &info.group), (&stream.join.client, &stream.group));
            assert_eq!(info.draining.is_some(), self.is_drained(stream), "{info:?}");
            assert_eq!(info.in_flight, self.model.held_by(*id), "client {info:?} holds what it was given and not more");
            if let Some(group) = &stream.group {
                *in_flight.entry(group).or_default() += info.in_flight;
            }
            assert!(
                stream.sent - stream.taken < SEND_BUFFER || stream.watch.is_some(),
                "who waits for a client to read asks to be told"
            );
        }
        for group in self.core.groups(self.now) {
            let early =
                self.model.leases().iter().filter(|(of, _, session, _)| *of == group.name && session.is_none()).count();
            let held = in_flight.get(&group.name).copied().unwrap_or(0);
            assert_eq!(group.in_flight, held + early, "leases of {}", group.name);
            let known = &self.model.groups[&group.name];
            assert_eq!((group.paused, group.retry, &group.labels), (known.paused, known.retry, &known.labels));
            let held = self.model.held_lanes(&group.name);
            assert_eq!((group.limits, group.held_lanes), (known.limits, held), "limits of {}", group.name);
            // Counted plainly, that takes as long as all else.
            if self.checks.is_multiple_of(LAG_EVERY) {
                self.check_lag(&group);
            }
        }
        if self.checks.is_multiple_of(LAG_EVERY) {
            self.check_what_was_said();
        }
        if let Some(deadline) = self.model.first_deadline() {
            assert!(deadline > self.now.steady, "a lease is over when its time is");
            assert!(self.due.is_some_and(|due| due <= deadline), "the core is awake when a lease ends");
        }
        assert!(self.due.is_none_or(|due| due > self.now.steady), "tick does what is due");
        self.check_that_nobody_is_left_without_work();
    }

    /// A client that has nothing to do, of a group that is owed something which is due, by either clock.
    fn check_that_nobody_is_left_without_work(&self) {
        let a_second_ago = |at: Option<Steady>| at.is_none_or(|at| at.after(Duration::from_secs(1)) <= self.now.steady);
        if !self.reads.is_empty() || self.draining || self.held || !a_second_ago(self.read_failed) {
            return;
        }
        for info in self.core.groups(self.now).iter().filter(|info| !info.paused && !self.model.is_limited(&info.name))
        {
            let (waits_until, due) = self.model.waiting_of(&info.name, self.now);
            // Of each priority so many texts are read ahead.
            if let Some(until) = waits_until.filter(|_| info.clients > 0 && info.waiting - info.delayed < 256) {
                let (due, now) = (self.due, self.now.steady);
                let awake = due.is_some_and(|due| due <= until);
                assert!(awake, "awake when a wait of {} is over: {due:?}, {until:?}; it is {now:?}", info.name);
            }
            let is_free = |(id, stream): (&SessionId, &Stream)| {
                stream.group.as_ref() == Some(&info.name)
                    && !self.is_drained(stream)
                    && stream.rests_until.is_none_or(|until| until <= self.now.steady)
                    && self.model.held_by(*id) == 0
                    && self.quota_has_room(stream)
                    && stream.sent - stream.taken < SEND_BUFFER
            };
            if !self.streams.iter().any(is_free) {
                continue;
            }
            assert_eq!(due, Vec::<TaskId>::new(), "tasks of {} are due, and a client has nothing to do", info.name);
            let full = self.model.full_lanes(&info.name, &self.tasks);
            let never_went_out = |task: &&Arc<Task>| {
                let moment = task.spec.not_before.is_none_or(|at| at <= self.now.wall);
                let open = self.model.wants(&info.name, task) && !self.model.is_settled(&info.name, task.id);
                moment
                    && open
                    && !self.model.went_out(&info.name, task.id)
                    && task.spec.waits_in().is_none_or(|lane| !full.contains(lane))
            };
            let new = self.tasks[..self.announced].iter().find(never_went_out);
            assert_eq!(new, None, "{} was never given that, and a client has nothing to do", info.name);
        }
    }

    /// Whether what the streams with its quota hold is less than that by an eighth.
    fn quota_has_room(&self, stream: &Stream) -> bool {
        let Some(quota) = stream.join.quota else { return true };
        let shares = |id: &SessionId| self.streams.get(id).is_some_and(|other| other.join.quota == Some(quota));
        let leases = self.model.leases();
        let of_it = leases.iter().filter(|(_, _, session, _)| session.is_some_and(|id| shares(&id)));
        let bytes: usize = of_it.map(|(_, task, _, _)| weight(self.tasks[*task as usize - 1].spec.bytes())).sum();
        (bytes as u64) < quota.bytes - quota.bytes / 8
    }

    /// Who asks how far a task is hears what its client said last.
    fn check_what_was_said(&self) {
        for (of, id, _, attempt) in self.model.leases() {
            let task = &self.tasks[id as usize - 1];
            let states = self.core.task_states(task, self.now);
            let state = states.into_iter().find(|(group, _)| *group == of);
            let Some((_, TaskState::InFlight(_, _, which, said))) = state else {
                panic!("task {id} of {of}: {state:?}")
            };
            let said = (said.text.map(|text| text.to_string()), said.progress);
            assert_eq!((which, Some(said)), (attempt, self.model.said(&of, id)), "task {id} of {of}");
        }
    }

    /// What waits for a group is what was counted as it changed.
    fn check_lag(&self, group: &GroupInfo) {
        if group.counting {
            return;
        }
        let tasks = self.tasks[..self.announced].iter().filter(|task| !self.removed.contains(&task.id));
        let waits = self.model.unsettled(&group.name, tasks.clone());
        let lag = waits.len() as u64;
        // What is for others is counted until it is passed.
        let others = self.model.others(&group.name, tasks) as u64;
        // A client may have told an outcome of a task that cannot be placed: see `GroupInfo::lag`.
        let least = lag.saturating_sub(group.taken_up as u64);
        assert!((least..=lag + others).contains(&group.lag), "{lag} tasks wait for {group:?}");
        let known = group.oldest_new.map(|(id, _)| id).into_iter().chain(group.oldest_open).min();
        if group.unseen.is_empty() && group.taken_up == 0 && others == 0 {
            assert_eq!(known, waits.first().copied(), "the oldest task of {group:?}");
        }
    }

    // ---- the end

    /// Everybody behaves, and all time passes: then everything is settled.
    pub(crate) fn finish(&mut self) {
        self.hold_back(false);
        self.announce();
        for group in self.model.groups.keys().cloned().collect::<Vec<_>>() {
            self.pause(group.as_str(), false);
        }
        for stream in self.streams.values_mut() {
            stream.slow = false;
        }
        for client in self.drains.keys().cloned().collect::<Vec<_>>() {
            self.undrain(client.as_str());
        }
        for (group, task) in self.model.held() {
            self.drop_dead(group.as_str(), task);
        }
        // Who is about to stop does, or would hold up what waits.
        let stops = |stream: &Stream| stream.join.stopping || stream.drained.is_some();
        let stopping: Vec<_> = self.streams.iter().filter(|(_, stream)| stops(stream)).map(|(id, _)| *id).collect();
        stopping.into_iter().for_each(|id| self.leave(id));
        // Where the clock was set back, what was named may be far off.
        if let Some(far) = self.tasks.iter().filter_map(|task| task.spec.not_before).max() {
            self.until(far);
        }
        for _ in 0..20_000 {
            let mut idle = true;
            while !self.reads.is_empty() {
                self.answer(0, true);
                idle = false;
            }
            for id in self.streams.keys().copied().collect::<Vec<_>>() {
                let held = self.model.tasks_held_by(id);
                idle &= held.is_empty();
                for task in held {
                    self.done(id, task);
                }
            }
            for (group, task) in self.model.held() {
                self.drop_dead(group.as_str(), task);
                idle = false;
            }
            self.act();
            idle &= self.reads.is_empty();
            for number in self.runs.keys().copied().collect::<Vec<_>>() {
                idle &= !self.round(number);
            }
            if idle && self.unfinished().is_none() {
                let Some(deadline) = self.runs.values().map(LiveRun::deadline).min() else { return self.check_end() };
                self.until(deadline);
            } else if idle {
                self.wait_for_due();
            }
        }
        panic!("stuck: {}", self.unfinished().unwrap());
    }

    /// It is that time of day at least, or soon will be.
    fn until(&mut self, moment: Time) {
        if moment > self.now.wall.after(Duration::from_secs(60)) {
            self.step(moment.0 - self.now.wall.0);
        } else {
            self.wait(Duration::from_secs(1));
        }
    }

    fn unfinished(&self) -> Option<String> {
        if let Some(early) = self.model.leases().iter().find(|(_, _, session, _)| session.is_none()) {
            return Some(format!("{early:?} still waits for a stream"));
        }
        if let Some(group) = self.core.groups(self.now).into_iter().find(|group| group.counting) {
            return Some(format!("what waits for {} is still being counted", group.name));
        }
        for (id, stream) in &self.streams {
            for task in &self.tasks {
                let open = match &stream.group {
                    Some(group) => self.model.wants(group, task) && !self.model.is_settled(group, task.id),
                    None => {
                        // What a client was not given because it was over stays so when the clock is set back.
                        let over = task.spec.expires_at.is_some_and(|at| at <= self.latest);
                        let is_for_it = is_for_anonymous(task, &stream.join.labels);
                        is_for_it && task.id > stream.start && !over && !stream.seen.contains(&task.id)
                    }
                };
                if open {
                    return Some(format!("stream {id} of {:?} still waits for {task:?}", stream.group));
                }
            }
        }
        None
    }

    fn check_end(&mut self) {
        assert!(self.reads.is_empty());
        for group in self.core.groups(self.now) {
            assert!(!group.counting, "everything is counted at the end");
            self.check_lag(&group);
            assert_eq!(group.in_flight, 0, "nothing is in flight at the end");
            if self.streams.values().any(|stream| stream.group.as_ref() == Some(&group.name)) {
                assert_eq!(group.waiting, 0, "nothing waits at the end");
            }
        }
    }
}

pub(crate) fn outcome_report(task: TaskId, attempt: u32, outcome: Outcome) -> OutcomeReport {
    let (ret, attachment, progress, printed) = Default::default();
    OutcomeReport {
        task,
        attempt,
        outcome,
        ret,
        attachment,
        progress,
        printed,
        delay: Duration::ZERO,
        receipt: Receipt::Missing,
    }
}
