//! What the store needs from a database.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use super::{Lease, Look, MakeBackup, Space, StoreError};
use crate::attachment::Attachment;
use crate::attempts::Attempts;
use crate::group_limits::GroupLimits;
use crate::labels::Labels;
use crate::retry::RetryPolicy;
use crate::run::Run;
use crate::schedule::Schedule;
use crate::task::{
    Audience, ClientId, GroupName, Name, NewResult, NewTask, Outcome, Priority, Status, Task, TaskId, TaskResult, Time,
};

/// How far the three logs go: the last position of each, 0 where there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Positions {
    /// The last task.
    pub task: TaskId,
    /// The last result.
    pub result: u64,
    /// The last status.
    pub status: u64,
}

/// What is known after a store was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// How far the logs go.
    pub positions: Positions,
    /// The groups as of the last checkpoint, by name.
    pub groups: Vec<GroupState>,
    /// Their open tasks that have rows of their own, by id.
    pub open: BTreeMap<GroupName, Vec<OpenTask>>,
    /// The results of named groups after the mark of the last checkpoint, in order.
    pub replay: Vec<TaskResult>,
    /// The clients that are drained, by name.
    pub drains: Vec<Drain>,
    /// The workers that the server dials, by address.
    pub dialled: Vec<Dialled>,
    /// The clients that have an id and were here, by id.
    pub clients: Vec<KnownClient>,
    /// What is granted to whom, in a cluster. A server that is alone has files for that.
    pub grants: Granted,
    /// The lanes of the tasks in `replay` that are in one, and are not settled by what stands there last.
    pub lanes: BTreeMap<TaskId, Name>,
    /// What the clock showed last.
    pub newest: Newest,
}

/// When something was last written down, as far as it is kept; 1970, if nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Newest {
    /// When the newest task was accepted.
    pub task: Time,
    /// When the newest result came.
    pub result: Time,
    /// When the newest status came.
    pub status: Time,
}

impl Newest {
    pub(super) fn read(reader: &mut dyn Reader, at: Positions) -> Result<Newest, StoreError> {
        Ok(Newest {
            task: reader.latest_tasks(TaskId::MAX, 1)?.first().map_or(Time::default(), |task| task.accepted_at),
            result: reader
                .results(at.result.saturating_sub(1), 1)?
                .first()
                .map_or(Time::default(), |entry| entry.result.at),
            status: reader
                .statuses(at.status.saturating_sub(1), 1)?
                .first()
                .map_or(Time::default(), |entry| entry.status.at),
        })
    }
}

/// See [`Recovered::lanes`].
pub(super) fn lanes_of(reader: &mut dyn Reader, replay: &[TaskResult]) -> Result<BTreeMap<TaskId, Name>, StoreError> {
    let leaves_it = |outcome: Outcome| !outcome.settles() || outcome.is_dead();
    let results = replay.iter().map(|entry| &entry.result);
    let tasks: BTreeSet<TaskId> =
        results.filter(|result| !result.late && leaves_it(result.outcome)).map(|result| result.task).collect();
    let mut lanes = BTreeMap::new();
    for ids in tasks.into_iter().collect::<Vec<_>>().chunks(LANES_AT_ONCE) {
        let tasks = reader.tasks_by_id(ids)?;
        lanes.extend(tasks.into_iter().filter_map(|task| Some((task.id, task.spec.waits_in()?.clone()))));
    }
    Ok(lanes)
}

/// Tasks that are read at once for that: their texts come with them.
const LANES_AT_ONCE: usize = 16;

/// A client that is drained: it is given no more tasks, until somebody says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Its id.
    pub client: ClientId,
    /// Since when.
    pub since: Time,
    /// Until when at most.
    pub until: Option<Time>,
    /// What the operator said about it.
    pub note: String,
}

/// A worker that the server dials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialled {
    /// Where it listens, `host:port`.
    pub address: Name,
    /// The group whose tasks it shares. `None`: it is a group of its own.
    pub group: Option<GroupName>,
    /// Its id. `None`: what it says, or its address.
    pub client: Option<ClientId>,
    /// Since when.
    pub since: Time,
}

/// One to whom something is granted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grantee {
    /// By what it is known.
    pub shows: Shows,
    /// Its name.
    pub name: Name,
}

/// What one shows by which it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shows {
    /// A token.
    Token,
    /// A certificate.
    Certificate,
}

impl Shows {
    /// As it is stored.
    pub fn number(self) -> u32 {
        match self {
            Shows::Token => 0,
            Shows::Certificate => 1,
        }
    }

    /// The same back.
    pub fn numbered(number: u32) -> Option<Shows> {
        [Shows::Token, Shows::Certificate].into_iter().find(|shows| shows.number() == number)
    }
}

/// What is granted to each. The store does not look into the texts.
pub type Granted = BTreeMap<Grantee, String>;

/// How far a group has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupState {
    /// Its name.
    pub name: GroupName,
    /// When it first came.
    pub created_at: Time,
    /// Broadcasts up to here are not for it.
    pub broadcast_after: TaskId,
    /// Delivery to it is stopped.
    pub paused: bool,
    /// What is said of retries of its tasks.
    pub retry: RetryPolicy,
    /// How much may be under way.
    pub limits: GroupLimits,
    /// What it is: what the client said that came last.
    pub labels: Labels,
    /// When a client of it was last connected.
    pub last_used: Time,
    /// For each priority (high, normal, low): every task of it up to here is settled, or stands in `open`.
    pub cursors: [TaskId; 3],
    /// Tasks after the cursor of their priority that are settled, or stand in `open`: ranges, both ends included, in order.
    pub taken_up: Vec<(TaskId, TaskId)>,
    /// Tasks that were delivered, or whose time had not come, and are not settled; but for those that have rows of their own.
    pub open: Vec<OpenTask>,
    /// Tasks up to the cursors that are not settled, and not in `open`: they wait in lanes.
    pub lanes: Vec<WaitingLane>,
}

/// Tasks of one lane and priority that a group has passed, and that wait for those before them in the lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingLane {
    /// The lane.
    pub lane: Name,
    /// Their priority.
    pub priority: Priority,
    /// They come after this task.
    pub after: TaskId,
    /// This is the last of them.
    pub upto: TaskId,
    /// How many there are, with those that were taken up before their turn.
    pub count: u64,
}

/// A client that has an id, as it was last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownClient {
    /// Its id.
    pub client: ClientId,
    /// Its group: the one named like it, or the one that it names.
    pub group: GroupName,
    /// What it said that it is.
    pub labels: Labels,
    /// The version of its program, if it said so.
    pub version: Option<Name>,
    /// The system that it runs on, if it said so.
    pub system: Option<Name>,
    /// When it first came.
    pub first_seen: Time,
    /// When it was last connected. Of one that is connected, when that was written down.
    pub last_seen: Time,
    /// It is connected.
    pub here: bool,
}

/// What a checkpoint writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// The groups that changed, in the place of what was stored of them.
    pub groups: Vec<GroupState>,
    /// Of these, the rows of open tasks that changed.
    pub open: BTreeMap<GroupName, OpenRows>,
    /// The clients that came, went or are known no more (`None`).
    pub clients: BTreeMap<ClientId, Option<KnownClient>>,
}

/// Rows of open tasks: to write, in the place of what was stored of a task, or, with `None`, to remove.
pub type OpenRows = BTreeMap<TaskId, Option<OpenTask>>;

/// A task that was delivered to a group and is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTask {
    /// The task.
    pub id: TaskId,
    /// How often it was delivered, and what of that counts.
    pub attempts: Attempts,
    /// Not to be delivered again before.
    pub not_before: Option<Time>,
    /// The lane that it is in.
    pub lane: Option<Name>,
    /// Where it stands there.
    pub place: LanePlace,
}

/// Where an open task stands in its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LanePlace {
    /// It is in none, or waits for a place.
    #[default]
    None = 0,
    /// It has a place.
    Taken = 1,
    /// It is not open any more: it was given up, and holds its place.
    Dead = 2,
}

impl LanePlace {
    /// The one of that number.
    pub(super) fn from_number(number: i64) -> Option<LanePlace> {
        [LanePlace::None, LanePlace::Taken, LanePlace::Dead].into_iter().find(|place| *place as i64 == number)
    }
}

/// A task that was accepted with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    /// The task.
    pub id: TaskId,
    /// The group it is for.
    pub to: Option<GroupName>,
    /// Or which groups.
    pub audience: Option<Arc<Audience>>,
    /// What to do.
    pub text: String,
    /// Headers and data beside it.
    pub attachment: Attachment,
}

/// What tasks have in common that take each other's place: the newest is in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Their key.
    pub key: String,
    /// Whom they are for: empty for everyone, a list of names in JSON, or a selector.
    pub address: String,
}

impl Slot {
    /// Of a task that replaces others.
    pub fn of(task: &NewTask) -> Option<Slot> {
        let key = task.replace.as_ref()?.key().to_owned();
        let list = |names: &[GroupName]| {
            let names: Vec<&str> = names.iter().map(GroupName::as_str).collect();
            serde_json::Value::from(names).to_string()
        };
        let address = match (&task.to, task.audience.as_deref()) {
            (Some(to), _) => list(std::slice::from_ref(to)),
            (None, Some(Audience::Groups(names))) => list(names),
            (None, Some(Audience::Matching(selector))) => selector.to_string(),
            (None, None) => String::new(),
        };
        Some(Slot { key, address })
    }
}

/// What one transaction writes. Everything has its place already; the order among the kinds does not matter.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// To append, in the order of ids. Their keys are new. Of what one [replaces](NewTask::replaces), it is written that it does.
    pub tasks: Vec<Arc<Task>>,
    /// To append, in order.
    pub results: Vec<TaskResult>,
    /// To append, in order.
    pub statuses: Vec<Status>,
    /// Of these groups all that is stored is to be removed, before anything is written.
    pub forgotten: BTreeSet<GroupName>,
    /// To replace.
    pub groups: BTreeMap<GroupName, GroupState>,
    /// To replace, or to remove.
    pub open: BTreeMap<GroupName, OpenRows>,
    /// To replace, or, with `None`, to remove.
    pub drains: BTreeMap<ClientId, Option<Drain>>,
    /// To replace, by their numbers.
    pub runs: BTreeMap<TaskId, Run>,
    /// To replace, or, with `None`, to remove.
    pub schedules: BTreeMap<Name, Option<Schedule>>,
    /// To replace, or, with `None`, to remove.
    pub dialled: BTreeMap<Name, Option<Dialled>>,
    /// To replace, or, with `None`, to remove.
    pub clients: BTreeMap<ClientId, Option<KnownClient>>,
    /// To replace, or, with `None`, to remove.
    pub grants: BTreeMap<Grantee, Option<String>>,
    /// Tasks whose expiry changes. They stand in the log already.
    pub expiries: Vec<(TaskId, Option<Time>)>,
    /// Tasks that lose their keys, which tasks of this batch may have. They stand in the log already.
    pub freed: BTreeSet<TaskId>,
    /// Results up to here are contained in the states of the groups. `None`: as it was.
    pub mark: Option<u64>,
    /// How far the logs go with this batch.
    pub positions: Positions,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
            && self.results.is_empty()
            && self.statuses.is_empty()
            && self.forgotten.is_empty()
            && self.groups.is_empty()
            && self.open.is_empty()
            && self.drains.is_empty()
            && self.runs.is_empty()
            && self.schedules.is_empty()
            && self.dialled.is_empty()
            && self.clients.is_empty()
            && self.grants.is_empty()
            && self.expiries.is_empty()
            && self.freed.is_empty()
            && self.mark.is_none()
    }
}

/// Of each client so many statuses are kept, the newest: a quarter of an hour of one that sends one a second.
pub const STATUSES_OF_A_CLIENT: u64 = 1_000;
/// And so many of all together, so that names are no way around that: the positions of what is kept are at most so far apart.
pub const STATUSES: u64 = 1_000_000;
/// Most statuses beyond these that one transaction removes, beside as many as it appends: an older store may have many.
pub(super) const STATUSES_AT_ONCE: u64 = 1_000;

/// [`Backend::last_outcome`] among these.
pub(super) fn last_outcome(results: &[TaskResult], group: &GroupName, task: TaskId) -> Option<Outcome> {
    let mut of_task = results.iter().rev().map(|entry| &entry.result).filter(|result| result.task == task);
    // That an operator has seen a dead letter changes nothing.
    let counts = |result: &&NewResult| !result.late && result.outcome != Outcome::Dropped;
    of_task.find(|result| counts(result) && result.group.as_ref() == Some(group)).map(|result| result.outcome)
}

/// Up to where everything is settled. A task is kept for those it is for, and for nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Floors {
    /// What is for everyone, by every group there is.
    pub everyone: TaskId,
    /// What is for one group, by that group. All that there are.
    pub groups: HashMap<GroupName, TaskId>,
}

impl Floors {
    /// Up to where what is addressed so is settled; `None`: its group never came.
    pub fn of(&self, to: Option<&GroupName>) -> Option<TaskId> {
        to.map_or(Some(self.everyone), |to| self.groups.get(to).copied())
    }
}

/// What may be removed: tasks that those have settled for whom they are, when they are old, and no run of them goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removable {
    /// Up to where everything is settled.
    pub floors: Floors,
    /// Only what came before this.
    pub before: Time,
    /// Tasks for a group that has never come are kept longer: only those that came before this.
    pub unclaimed_before: Time,
    /// What came after this has a time to come: a clock was wrong. It holds up nothing that is older.
    pub now: Time,
    /// Most tasks to name at once; but one chunk, if there is one.
    pub limit: usize,
}

/// Whether a chunk may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Goes,
    Stays,
    /// It stays, and so do those of its class after it.
    HoldsTheRest,
}

impl Removable {
    /// How a chunk stands whose tasks are addressed so, by its last task and when the newest was accepted.
    pub(super) fn standing(&self, to: Option<&GroupName>, last: TaskId, newest: Time) -> Standing {
        let (floor, before) = match self.floors.of(to) {
            Some(floor) => (floor, self.before),
            None => (TaskId::MAX, self.before.min(self.unclaimed_before)),
        };
        match newest < before {
            true if last <= floor => Standing::Goes,
            false if newest > self.now => Standing::Stays,
            _ => Standing::HoldsTheRest,
        }
    }
}

/// Tasks that are removed together, because they are stored together: some of one group and priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkOfTasks {
    /// The first of them, by which it is known.
    pub first: TaskId,
    /// How many there are.
    pub count: usize,
}

/// The oldest of chunks, as many as hold a number of tasks, or one.
pub(super) struct Oldest {
    chunks: BinaryHeap<ChunkOfTasks>,
    tasks: usize,
    limit: usize,
    /// The oldest that found no room: nothing from there on is taken.
    end: TaskId,
}

impl Oldest {
    pub(super) fn new(limit: usize) -> Oldest {
        Oldest { chunks: BinaryHeap::new(), tasks: 0, limit, end: TaskId::MAX }
    }

    /// Takes a chunk if it is among the oldest; says whether it was.
    pub(super) fn add(&mut self, chunk: ChunkOfTasks) -> bool {
        if chunk.first >= self.end {
            return false;
        }
        self.chunks.push(chunk);
        self.tasks += chunk.count;
        while self.tasks > self.limit && self.chunks.len() > 1 {
            let Some(newest) = self.chunks.pop() else { break };
            self.tasks -= newest.count;
            self.end = newest.first;
        }
        chunk.first < self.end
    }

    pub(super) fn into_vec(self) -> Vec<ChunkOfTasks> {
        self.chunks.into_sorted_vec()
    }
}

/// What is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Chunks of tasks, by their first task: what [`Reader::removable`] named.
    pub chunks: Vec<TaskId>,
    /// Statuses, and results without a task, that came before this.
    pub before: Time,
    /// What came after this has a time to come, and holds up nothing.
    pub now: Time,
    /// Most statuses to remove at once, most results without a task, and most results to look through for those of tasks that
    /// are gone; but whole chunks.
    pub limit: usize,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// Tasks.
    pub tasks: Vec<TaskId>,
    /// What came of tasks that are gone.
    pub results: usize,
    /// There is more to look through for that.
    pub more: bool,
    /// Statuses, and results without a task, or of a task that was removed before they came.
    pub others: usize,
    /// Bytes that are still used.
    pub used: u64,
}

impl Removed {
    /// Whether there was nothing to remove.
    pub fn is_nothing(&self) -> bool {
        self.tasks.is_empty() && self.results + self.others == 0 && !self.more
    }
}

/// Opens a reader, from any thread.
pub type OpenReader = Arc<dyn Fn() -> Result<Box<dyn Reader>, StoreError> + Send + Sync>;

/// Stores the rows. It has one owner, the writer.
pub trait Backend: Send {
    /// What is stored. Called once, before anything else.
    fn recover(&mut self) -> Result<Recovered, StoreError>;

    /// The task that was accepted with this key, if it is still kept.
    fn find_key(&mut self, key: &str) -> Result<Option<Keyed>, StoreError>;

    /// The newest task of this slot, if it is still kept.
    fn newest_of(&mut self, slot: &Slot) -> Result<Option<Task>, StoreError>;

    /// Whether the task is still kept.
    fn has_task(&mut self, task: TaskId) -> Result<bool, StoreError>;

    /// Where a task stands with a group: the last outcome that was not late.
    fn last_outcome(&mut self, group: &GroupName, task: TaskId) -> Result<Option<Outcome>, StoreError>;

    /// Writes the whole batch, which survives any crash once this returns, or nothing of it. After [`StoreError::InUse`] nothing
    /// was written. After any other error that is not known, and [`reopen`](Backend::reopen) comes next.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Closes what is open and opens it anew; sees whether it can be written; says how far the logs go on
    /// disk. After an error only this is called again, or [`close`](Backend::close).
    fn reopen(&mut self) -> Result<Positions, StoreError>;

    /// Removes what is no longer wanted; costs what is removed. Its errors are those of [`commit`](Backend::commit).
    fn remove(&mut self, removal: &Removal) -> Result<Removed, StoreError>;

    /// Until when nobody else can have begun to write; `None`: nobody ever does.
    fn lease(&self) -> Option<Lease> {
        None
    }

    /// Sees to it that nobody else has begun to write. Its errors are those of [`commit`](Backend::commit).
    fn prove(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// How to see the other servers that share it, and their log; `None`: there are none.
    fn look(&self) -> Option<Look> {
        None
    }

    /// What is left of its disk; `None`: it has none, or the system does not say. Asked before each transaction, so it must be quick.
    fn space(&self) -> Option<(PathBuf, Space)> {
        None
    }

    /// Takes so many bytes of the disk, to be given back by [`reopen`](Backend::reopen) when there is no other room.
    fn set_aside(&mut self, _bytes: u64) -> Result<(), StoreError> {
        Ok(())
    }

    /// How to open readers. They see what was committed, whether before or after they were opened.
    fn reader(&self) -> OpenReader;

    /// How to make a copy while the store is written; `None`: there is nothing to copy from.
    fn backup(&self) -> Option<MakeBackup> {
        None
    }

    /// Leaves the files tidy at the end.
    fn close(self: Box<Self>) -> Result<(), StoreError>;
}

/// Reads what is stored. Pages hold at most `limit` rows and end early at about [1 MiB](PAGE_BYTES) of text, but hold at least
/// one row if there is one and `limit` is not 0; so an empty page is the end.
pub trait Reader: Send {
    /// What is granted to whom. See [`Recovered::grants`].
    fn granted(&mut self) -> Result<Granted, StoreError>;

    /// Tasks after `after`, in the order of ids.
    fn tasks(&mut self, after: TaskId, limit: usize) -> Result<Vec<Task>, StoreError>;

    /// Tasks before `before`, newest first.
    fn latest_tasks(&mut self, before: TaskId, limit: usize) -> Result<Vec<Task>, StoreError>;

    /// Results after `after`, in order.
    fn results(&mut self, after: u64, limit: usize) -> Result<Vec<TaskResult>, StoreError>;

    /// Statuses after `after`, in order.
    fn statuses(&mut self, after: u64, limit: usize) -> Result<Vec<Status>, StoreError>;

    /// All that came of a task, in order, in one page of any size.
    fn results_of(&mut self, task: TaskId) -> Result<Vec<TaskResult>, StoreError>;

    /// The same without what was said, so that it is of a bounded size for each group and attempt.
    fn outcomes_of(&mut self, task: TaskId) -> Result<Vec<TaskResult>, StoreError>;

    /// Those of the results that are kept, in the order asked for, in one page of any size.
    fn results_by_seq(&mut self, seqs: &[u64]) -> Result<Vec<TaskResult>, StoreError>;

    /// The last of all that came of a task, newest first.
    fn latest_results_of(&mut self, task: TaskId, limit: usize) -> Result<Vec<TaskResult>, StoreError>;

    /// The dead letters after `after`, of one group or of all, in order: results by which a task was given up, if no operator has
    /// dropped it or given it out again since.
    fn dead(&mut self, after: u64, group: Option<&GroupName>, limit: usize) -> Result<Vec<TaskResult>, StoreError>;

    /// The same before `before`, newest first.
    fn latest_dead(
        &mut self,
        before: u64,
        group: Option<&GroupName>,
        limit: usize,
    ) -> Result<Vec<TaskResult>, StoreError>;

    /// Whether the task is a dead letter of the group.
    fn is_dead(&mut self, task: TaskId, group: &GroupName) -> Result<bool, StoreError>;

    /// How many dead letters each group has; only those that have some. Costs by the number of groups.
    fn dead_counts(&mut self) -> Result<HashMap<GroupName, u64>, StoreError>;

    /// Those of the tasks that are kept, in the order asked for, in one page of any size.
    fn tasks_by_id(&mut self, ids: &[TaskId]) -> Result<Vec<Task>, StoreError>;

    /// A page of what a group has to read. Costs what the page holds, whatever else is in the log.
    fn backlog(&mut self, backlog: &Backlog) -> Result<BacklogPage, StoreError>;

    /// How many tasks the group has to read; `limit` and `max_bytes` are ignored.
    fn count(&mut self, backlog: &Backlog) -> Result<u64, StoreError>;

    /// The tasks of it that are addressed to the group, in the order of ids, each with when it expires; at most `limit`. No text is
    /// read, so `max_bytes` is ignored.
    fn expiries(&mut self, backlog: &Backlog) -> Result<Vec<(TaskId, Option<Time>)>, StoreError>;

    /// The names of groups that tasks are addressed to, after `after`, in order. Costs by the number of names, not of tasks.
    fn addressed_groups(&mut self, after: Option<&GroupName>, limit: usize) -> Result<Vec<GroupName>, StoreError>;

    /// The chunks of tasks that may be removed, oldest first. Costs what is named, and a look for each group that tasks are
    /// addressed to.
    fn removable(&mut self, removable: &Removable) -> Result<Vec<ChunkOfTasks>, StoreError>;

    /// A run, with its targets.
    fn run(&mut self, number: TaskId) -> Result<Option<Run>, StoreError>;

    /// The runs that have not ended, by their numbers, with their targets.
    fn open_runs(&mut self) -> Result<Vec<Run>, StoreError>;

    /// Runs before `before`, newest first, without their targets.
    fn latest_runs(&mut self, before: TaskId, limit: usize) -> Result<Vec<Run>, StoreError>;

    /// The schedules, by name.
    fn schedules(&mut self) -> Result<BTreeMap<Name, Schedule>, StoreError>;

    /// The oldest task that is kept.
    fn first_task(&mut self) -> Result<Option<TaskId>, StoreError>;
}

/// Which tasks a group asks for: those of one priority with `after < id <= upto` that are addressed to it, or to everyone and
/// `broadcast_after < id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// The group. `None`: an anonymous reader, which only gets what is for everyone.
    pub group: Option<GroupName>,
    /// The priority.
    pub priority: Priority,
    /// Only what comes after this.
    pub after: TaskId,
    /// Only what comes up to this, included.
    pub upto: TaskId,
    /// Broadcasts up to here are not wanted.
    pub broadcast_after: TaskId,
    /// Only what is in this lane. `None`: be it in a lane or not.
    pub lane: Option<Name>,
    /// Most tasks in the page.
    pub limit: usize,
    /// About the most bytes of text in the page; it holds at least one task if there is one.
    pub max_bytes: usize,
}

/// Part of a backlog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BacklogPage {
    /// In the order of ids.
    pub tasks: Vec<Task>,
    /// There is nothing up to here but these tasks: where to go on. The asked-for `upto` when that was the end.
    pub scanned: TaskId,
}

/// Bytes of text at which a page ends.
pub const PAGE_BYTES: usize = 1 << 20;

/// What a page counts.
pub(super) trait Row {
    /// Bytes of text, headers and data in it.
    fn bytes(&self) -> usize;
}

impl Row for Task {
    fn bytes(&self) -> usize {
        self.spec.bytes()
    }
}

impl Row for TaskResult {
    fn bytes(&self) -> usize {
        self.result.bytes()
    }
}

impl Row for Status {
    fn bytes(&self) -> usize {
        self.status.msg.len()
    }
}

/// Takes rows until they fill a page; the rows after that are not even fetched.
pub(super) fn page<T: Row, E>(
    mut rows: impl Iterator<Item = Result<T, E>>,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<T>, E> {
    let mut page = Vec::new();
    let mut bytes = 0;
    while !is_full(&page, bytes, limit, max_bytes)
        && let Some(row) = rows.next()
    {
        let row = row?;
        bytes += row.bytes();
        page.push(row);
    }
    Ok(page)
}

fn is_full<T>(page: &[T], bytes: usize, limit: usize, max_bytes: usize) -> bool {
    page.len() >= limit || (bytes >= max_bytes && !page.is_empty())
}

impl BacklogPage {
    /// A page out of all rows that the backlog has.
    pub(super) fn gather<E>(rows: impl Iterator<Item = Result<Task, E>>, backlog: &Backlog) -> Result<BacklogPage, E> {
        let tasks = page(rows, backlog.limit, backlog.max_bytes)?;
        let bytes = tasks.iter().map(Row::bytes).sum();
        let last = tasks.last().map_or(backlog.after, |task| task.id);
        let scanned = match is_full(&tasks, bytes, backlog.limit, backlog.max_bytes) {
            true => last,
            false => last.max(backlog.upto),
        };
        Ok(BacklogPage { tasks, scanned })
    }
}
