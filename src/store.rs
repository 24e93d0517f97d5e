//! The store: the log of tasks, the log of outcomes, what clients reported, and how far each group has come.
//!
//! The promise:
//! - What was answered is on disk: [`Handle::submit`] and [`Handle::record_statuses`] resolve, and [`Handle::flush`] calls back, after
//!   the transaction with it was synced. All that waits is written in one transaction, synced once.
//! - Nothing is announced that is not on disk: [`Tail`] and its subscribers see a task after its commit, in the order of ids.
//! - Ids and seqs follow one another from 1 without gaps, and none is given twice, whatever is removed and however often the
//!   store is opened again.
//! - What one thread sends is written in the order it sent it, and a transaction is written whole or not at all.
//! - A database that another program has locked is waited for.
//! - Before the disk is full, what can be done without is refused with [`StoreError::Low`]; what comes of tasks that are out never is.
//! - After a failed write the store is closed, and opened again until that works. Meanwhile nothing is accepted: each call gets
//!   that error at once. What was answered before is safe; what the broker recorded is kept and written afterwards. Whether
//!   the write that failed is on disk all the same is seen there, and nothing is written twice.
//!
//! One thread, `store-writer`, owns a [`Backend`] and is the only one that writes. Reading goes around it: the newest tasks
//! from memory ([`Tail`]), everything else through a [`Reader`] of one's own.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures::channel::oneshot;

use crate::latency::Latency;
use crate::mailbox::{self, Sender};
use crate::run::Run;
use crate::schedule::Scheduled;
use crate::task::{ClientId, GroupName, Name, NewResult, NewStatus, NewTask, TaskId, Time, weight};

mod backend;
mod backup;
mod chunk;
mod error;
mod memory;
mod patient;
mod replicated;
mod space;
mod sqlite;
mod tail;
mod writer;

pub use backend::{
    Backend, Backlog, BacklogPage, Batch, Checkpoint, ChunkOfTasks, Dialled, Drain, Floors, Granted, Grantee,
    GroupState, Keyed, KnownClient, LanePlace, Newest, OpenReader, OpenRows, OpenTask, PAGE_BYTES, Positions, Reader,
    Recovered, Removable, Removal, Removed, STATUSES, STATUSES_OF_A_CLIENT, Shows, Slot, WaitingLane,
};
pub use backup::{BackedUp, BackupError, BackupProgress, GoesOn, MakeBackup};
pub use error::StoreError;
pub use memory::Memory;
#[cfg(feature = "cluster")]
pub use replicated::{Beats, ClusterName, Heard, JetStream, JetStreamConfig, JetStreamError, NatsUrls};
pub use replicated::{
    ClusterView, Fault, Faults, FilePart, FollowError, ImportError, Imported, Kind, LONGEST_MESSAGE, Lease, Log,
    LogError, LogSeen, Look, MemoryLog, Messages, News, NotLeading, Part, Record, RecordError, ReplicaSeen, Replicated,
    Saying, ServerSeen, Standby, VERSION, import,
};
#[cfg(feature = "cluster")]
pub(crate) use replicated::{read_record_lane, read_record_priority, read_record_task, record_priority, record_task};
pub use space::{Room, Space, Unwritten};
pub(crate) use sqlite::try_writing;
pub use sqlite::{Appended, Cut, Rows, Sqlite};
pub use tail::{Skipped, Tail};

use patient::Patient;
use space::Floor;
use writer::{Command, Done, Unless, Writer};

/// Most commands that wait for the writer, and most that go into one transaction. When it is full, futures wait for room and
/// threads block: submitters are slowed down to what the disk takes.
const MAILBOX: usize = 1_024;
/// Bytes of tasks, results and statuses that wait for it, beside one command: several transactions' worth. Then who sends them waits,
/// as well.
const MAILBOX_BYTES: usize = 64 << 20;
/// When a lock of another program has been waited for as long as this, the store says that it takes nothing. Backups and
/// `sqlite3` hold it for less.
const LONG_WAIT: Duration = Duration::from_secs(10);

/// The store, as its owner holds it: the writer thread. Dropping it closes it, and only logs what went wrong.
pub struct Store {
    handle: Handle,
    writer: Option<JoinHandle<Result<(), StoreError>>>,
    /// Dropped when the store is about to be closed: the writer then waits for nothing long.
    stays_open: Option<crossbeam_channel::Sender<()>>,
}

impl Store {
    /// Opens the store in the folder `dir`, or makes it there: `dir/contact.db`, with `dir/lock` to keep other servers out.
    pub fn open(dir: &Path) -> Result<(Store, Recovered), StoreError> {
        Store::with_backend(Box::new(Sqlite::open(dir)?))
    }

    /// A store whose content ends when it is closed. Panics where the system has no thread left, as [`thread::spawn`] does.
    pub fn in_memory() -> (Store, Recovered) {
        Store::with_backend(Box::new(Memory::default())).expect("memory does not fail, and there is a thread to be had")
    }

    /// A store over `backend`, which must have no other writer.
    pub fn with_backend(mut backend: Box<dyn Backend>) -> Result<(Store, Recovered), StoreError> {
        let recovered = backend.recover()?;
        let (commands, mailbox) = mailbox::bounded_in_bytes(MAILBOX, MAILBOX_BYTES);
        let shared = Arc::new(Shared {
            tail: Tail::new(recovered.positions),
            condition: RwLock::default(),
            open: backend.reader(),
            back_up: backend.backup(),
            backups: Mutex::default(),
            closing: AtomicBool::new(false),
            commits: Mutex::default(),
            floor: Floor::default(),
            lease: backend.lease(),
            look: backend.look(),
        });
        let (stays_open, closes) = crossbeam_channel::bounded(0);
        let backend = Patient::new(backend, shared.clone(), closes);
        let writer = Writer::new(backend, mailbox, shared.clone(), &recovered);
        let writer =
            thread::Builder::new().name("store-writer".into()).spawn(|| writer.run()).map_err(StoreError::no_thread)?;
        let store = Store { handle: Handle { commands, shared }, writer: Some(writer), stays_open: Some(stays_open) };
        Ok((store, recovered))
    }

    /// What all others use.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// From now on the writer waits for nothing long: neither for a lock of another program nor for room on the disk. For a server
    /// that stops, whose other threads may be waiting for the writer.
    pub fn begin_close(&mut self) {
        self.handle.shared.closing.store(true, Relaxed);
        self.stays_open = None;
    }

    /// Writes what was sent before, syncs it, tidies up and ends the writer. Handles that live on get [`StoreError::Closed`].
    ///
    /// An error says that the store had failed, or could not be tidied up; what was answered is on disk all the same.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), StoreError> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        self.begin_close();
        // One that is being made removes what there is of it.
        drop(self.handle.shared.backups.lock());
        // Refused only when the writer has ended already; joining says why.
        let _ = self.handle.commands.send(Command::Close);
        writer.join().unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            log::warn!("closing the store: {error}");
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("positions", &self.handle.tail().positions()).finish_non_exhaustive()
    }
}

/// What was accepted. It is on disk before any caller sees this.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accepted {
    /// The id of the first task; 0 if there was none.
    pub first_id: TaskId,
    /// How many tasks have an id now, known ones included.
    pub count: u32,
    /// The id of each of them, in their order. Empty if they follow one another from `first_id`, as they do unless the key of
    /// one was known already.
    pub ids: Vec<TaskId>,
    /// The places, among the tasks handed in, of those that were accepted before with the same key, text and group.
    pub known: Vec<usize>,
    /// Those that were not accepted, by their places.
    pub reused: Vec<KeyReused>,
}

/// A task was not accepted, because its key is that of another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the key {key} was used for task {task}, with another text, other headers or data, or for another group; use another key, or cancel task {task}, which frees it"
)]
pub struct KeyReused {
    /// Its place among the tasks handed in.
    pub place: usize,
    /// The key.
    pub key: String,
    /// The task that has it.
    pub task: TaskId,
}

/// The way to the store from any thread. Cheap to clone.
///
/// The futures may run anywhere: they never wait on their thread. Those of a store that failed resolve at once. `record`, `checkpoint`, `forget_group`, `drain` and `flush` block
/// while the mailbox is full, and their order is the order of what is written: they are for the one thread that owns the groups.
#[derive(Clone)]
pub struct Handle {
    commands: Sender<Command>,
    shared: Arc<Shared>,
}

/// What the writer and the handles share.
struct Shared {
    tail: Tail,
    condition: RwLock<Condition>,
    open: OpenReader,
    /// `None`: the store is in memory.
    back_up: Option<MakeBackup>,
    /// Locked for as long as a backup is made.
    backups: Mutex<()>,
    /// A backup is not to go on.
    closing: AtomicBool,
    /// Locked once for each commit.
    commits: Mutex<Latency>,
    floor: Floor,
    /// `None`: nobody else ever writes.
    lease: Option<Lease>,
    /// `None`: nobody else has this store.
    look: Option<Look>,
}

/// Whether the store can be written.
#[derive(Debug, Clone, Default)]
enum Condition {
    #[default]
    Good,
    /// Another program has locked the database. What comes waits in the mailbox.
    Locked { since: Instant, path: PathBuf },
    /// A write failed, and none has worked since.
    Failed(StoreError),
}

impl Shared {
    fn condition(&self) -> Condition {
        self.condition.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_condition(&self, condition: Condition) {
        *self.condition.write().unwrap_or_else(PoisonError::into_inner) = condition;
    }

    /// What a call is refused with at once.
    fn refusal(&self) -> Option<StoreError> {
        match &*self.condition.read().unwrap_or_else(PoisonError::into_inner) {
            Condition::Failed(error) => Some(error.clone()),
            Condition::Good | Condition::Locked { .. } => None,
        }
    }

    fn accepts(&self) -> Result<(), StoreError> {
        self.refusal().map_or(Ok(()), Err)
    }

    /// The answer to a command that the writer cannot answer any more.
    fn ended(&self) -> StoreError {
        self.refusal().unwrap_or(StoreError::Closed)
    }
}

impl Handle {
    /// Accepts all of the tasks or none, and resolves when they are on disk. A task whose key is known, from before or from
    /// this very call, is not accepted again: its id is the first one's. If it is another task than that one, nothing is
    /// accepted: see [`Accepted::reused`].
    pub async fn submit(&self, tasks: Vec<NewTask>) -> Result<Accepted, StoreError> {
        self.send_tasks(tasks, Unless::Reused).await?.await
    }

    /// [`submit`](Handle::submit) in two steps: resolves when the tasks have their place in the order of what is written, to a
    /// future that resolves when they are on disk. So the next ones can be sent meanwhile, and share a sync. Tasks that cannot
    /// be accepted keep no other from it.
    pub async fn begin_submit(
        &self,
        tasks: Vec<NewTask>,
    ) -> Result<impl Future<Output = Result<Accepted, StoreError>> + Send + use<>, StoreError> {
        self.send_tasks(tasks, Unless::Never).await
    }

    async fn send_tasks(
        &self,
        tasks: Vec<NewTask>,
        unless: Unless,
    ) -> Result<impl Future<Output = Result<Accepted, StoreError>> + Send + use<>, StoreError> {
        let (answer, answered) = oneshot::channel();
        if tasks.is_empty() {
            let _ = answer.send(Ok(Accepted::default()));
        } else {
            self.shared.accepts()?;
            let bytes = tasks.iter().map(NewTask::weight).sum();
            let command = Command::Submit(tasks, unless, answer);
            self.commands.send_weighed_async(command, bytes).await.map_err(|_| self.shared.ended())?;
        }
        let shared = self.shared.clone();
        Ok(async move { answered.await.unwrap_or_else(|_| Err(shared.ended())) })
    }

    /// Writes down what clients reported, and resolves when it is on disk.
    pub async fn record_statuses(&self, statuses: Vec<NewStatus>) -> Result<(), StoreError> {
        if statuses.is_empty() {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        let bytes = statuses.iter().map(|status| weight(status.msg.len())).sum();
        self.ask_weighed(Command::RecordStatuses(statuses, answer), bytes, answered).await
    }

    /// Changes when a task expires, and resolves when that is on disk.
    pub async fn expire(&self, task: TaskId, expires_at: Option<Time>) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::Expire(task, expires_at, answer), answered).await
    }

    /// Marks a task as cancelled at `at`, frees its key, and resolves when that is on disk.
    pub async fn cancel(&self, task: TaskId, at: Time) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::Cancel(task, at, answer), answered).await
    }

    /// Whether anything is accepted now; an error says why not. After a write that failed nothing is until the database was opened again,
    /// and it is known what of that is on disk.
    pub fn accepts(&self) -> Result<(), StoreError> {
        self.shared.accepts()
    }

    /// Writes a run in the place of what was stored of it, with new tasks of it in the same transaction, each for the next so many of
    /// its targets. Resolves when that is on disk, to the run with its number and its tasks.
    pub async fn write_run(&self, run: Run, tasks: Vec<(NewTask, usize)>) -> Result<Run, StoreError> {
        let (answer, answered) = oneshot::channel();
        let names: usize = run.targets.iter().map(|name| name.as_str().len()).sum();
        let bytes = names + run.what.bytes() + tasks.iter().map(|(task, _)| task.weight()).sum::<usize>();
        self.ask_weighed(Command::Run(Box::new(run), tasks, answer), bytes, answered).await
    }

    /// Writes schedules in the place of what was stored of them, each with the tasks that it makes, in one transaction. Resolves when that is
    /// on disk, to the last task of each; 0 where there is none.
    pub async fn write_schedules(&self, all: Vec<Scheduled>) -> Result<Vec<TaskId>, StoreError> {
        let (answer, answered) = oneshot::channel();
        let bytes = all.iter().map(Scheduled::weight).sum();
        self.ask_weighed(Command::Schedules(all, answer), bytes, answered).await
    }

    /// Keeps, or with `None` forgets, that the server dials a worker, and resolves when that is on disk.
    pub async fn dial(&self, address: Name, dialled: Option<Dialled>) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::Dial(address, dialled, answer), answered).await
    }

    /// Keeps, or with `None` forgets, what is granted to these, and resolves when that is on disk.
    pub async fn grant(&self, changed: BTreeMap<Grantee, Option<String>>) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        let bytes = changed.values().flatten().map(String::len).sum();
        self.ask_weighed(Command::Grant(changed, answer), bytes, answered).await
    }

    /// Removes what is no longer wanted: what [`Reader::removable`] named, and other things as far as the limit goes.
    pub async fn remove(&self, removal: Removal) -> Result<Removed, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::Remove(removal, answer), answered).await
    }

    async fn ask<T>(
        &self,
        command: Command,
        answered: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.ask_weighed(command, 0, answered).await
    }

    async fn ask_weighed<T>(
        &self,
        command: Command,
        bytes: usize,
        answered: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.shared.accepts()?;
        self.commands.send_weighed_async(command, bytes).await.map_err(|_| self.shared.ended())?;
        answered.await.unwrap_or_else(|_| Err(self.shared.ended()))
    }

    /// Appends to the log of outcomes. [`flush`](Handle::flush) tells when it is on disk.
    pub fn record(&self, results: Vec<NewResult>) {
        if !results.is_empty() {
            let bytes = results.iter().map(|result| weight(result.bytes())).sum();
            self.send(Command::Record(results), bytes);
        }
    }

    /// The same for a result of which its sender does not know whether it is late: it is if the log has it that its group
    /// settled the task, or if the task was removed.
    pub fn record_unless_settled(&self, result: NewResult) {
        let bytes = weight(result.bytes());
        self.send(Command::RecordUnlessSettled(Box::new(result)), bytes);
    }

    /// Replaces the states of these groups and these rows, and marks that every result recorded before this call is contained in
    /// the states of the groups: the next start replays what comes after it. So it must hold everything that changed since
    /// the last checkpoint.
    pub fn checkpoint(&self, checkpoint: Checkpoint) {
        self.send(Command::Checkpoint(checkpoint), 0);
    }

    /// Removes the state of a group and its open tasks. Its results stay in the log, and those after the mark will still be replayed.
    pub fn forget_group(&self, name: GroupName) {
        self.send(Command::ForgetGroup(name), 0);
    }

    /// Keeps, or with `None` forgets, that a client is drained.
    pub fn drain(&self, client: ClientId, drain: Option<Drain>) {
        self.send(Command::Drain(client, drain), 0);
    }

    /// Calls `done` once everything that this thread sent before is on disk, or with the error that the store takes nothing now.
    /// It is always called: on the writer thread, where it must not wait, or right here if the store failed or is closed.
    pub fn flush(&self, done: Box<dyn FnOnce(Result<(), StoreError>) + Send>) {
        match self.shared.refusal() {
            Some(error) => done(Err(error)),
            None => self.send(Command::Flush(Done::new(done)), 0),
        }
    }

    /// Sends a command without an answer. If the store is closed, the command is dropped, and a callback in it is called.
    fn send(&self, command: Command, bytes: usize) {
        let _ = self.commands.send_weighed(command, bytes);
    }

    /// The newest tasks, and news of them.
    pub fn tail(&self) -> &Tail {
        &self.shared.tail
    }

    /// A reader for one thread. It sees what is on disk, and delays neither the writer nor other readers.
    pub fn reader(&self) -> Result<Box<dyn Reader>, StoreError> {
        (self.shared.open)()
    }

    /// Makes a copy of the database, as it is now, in the file `to`, which must not be there, and goes through it to see whether it
    /// is good. Takes as long as that takes, at a bounded pace, on the thread of the caller, who is asked all the time whether it
    /// is to go on. Writing goes on meanwhile. Until all is well the file is called `to` with `.partial` behind it.
    pub fn back_up(&self, to: &Path, goes_on: GoesOn) -> Result<BackedUp, BackupError> {
        let back_up = self.shared.back_up.clone().ok_or(BackupError::InMemory)?;
        let _alone = match self.shared.backups.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(BackupError::UnderWay),
            Err(TryLockError::Poisoned(lock)) => lock.into_inner(),
            Ok(lock) => lock,
        };
        let shared = self.shared.clone();
        back_up(to, Arc::new(move |progress| !shared.closing.load(Relaxed) && goes_on(progress)))
    }

    /// How many bytes are to stay free on the disk; `None`: see [`Space::floor`]. From the next transaction on.
    pub fn set_min_free(&self, min_free: Option<u64>) {
        self.shared.floor.set(min_free);
    }

    /// The same, as it is set.
    pub fn min_free(&self) -> Option<u64> {
        self.shared.floor.min_free()
    }

    /// Sets a part of the disk aside from now on, see [`Space::reserve`]. While that cannot be, no tasks are accepted.
    pub fn keep_reserve(&self) {
        self.shared.floor.keep_reserve(true);
    }

    /// How many of these were not written for want of room on the disk, since the store was opened.
    pub fn unwritten(&self, what: Unwritten) -> u64 {
        self.shared.floor.unwritten(what)
    }

    /// How long the commits took, each with its sync, since the store was opened.
    pub fn commits(&self) -> Latency {
        self.shared.commits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the store takes nothing now: a write failed and none has worked since, or another program has locked the database
    /// for ten seconds. It may pass by itself; [`Tail::subscribe`] has news of that, too.
    pub fn failure(&self) -> Option<String> {
        match self.shared.condition() {
            Condition::Failed(error) => Some(error.to_string()),
            Condition::Locked { since, .. } if since.elapsed() < LONG_WAIT => None,
            Condition::Locked { since, path } => {
                let (path, held) = (path.display(), since.elapsed().as_secs());
                Some(format!(
                    "another process has locked {path} for {held} s, and what comes waits; end its transaction"
                ))
            }
            Condition::Good => None,
        }
    }

    /// Whether it can be written now, as far as is known: it did not fail, and waits for no lock.
    pub fn is_good(&self) -> bool {
        matches!(self.shared.condition(), Condition::Good)
    }

    /// Resolves when everything that was sent before is on disk, or the store takes nothing, or waits for the lock of another
    /// program: in any case soon, if the writer moves.
    pub async fn flushed(&self) -> Result<(), StoreError> {
        if !self.is_good() {
            return self.shared.accepts();
        }
        let (tell, told) = oneshot::channel();
        let done = Done::new(Box::new(move |flushed| drop(tell.send(flushed))));
        self.commands.send_async(Command::Flush(done)).await.map_err(|_| self.shared.ended())?;
        told.await.unwrap_or_else(|_| Err(self.shared.ended()))
    }

    /// Whether it is known that no other server can have begun to write to the same log. Where there is only this one, it is. If it is not
    /// known any more, [`flush`](Handle::flush) finds out.
    pub fn leads(&self) -> bool {
        self.shared.lease.as_ref().is_none_or(Lease::is_valid)
    }

    /// The servers that share this store, and their log; `None`: it is that of one server.
    pub fn cluster(&self) -> Option<ClusterView> {
        self.shared.look.as_ref().map(|look| look())
    }

    /// Whether another server leads, so that this store takes nothing any more.
    pub fn is_fenced(&self) -> bool {
        self.shared.refusal().is_some_and(|error| error.is_fenced())
    }

    /// Why this server's own disk cannot be written, if it cannot: a write failed, or another program has locked the database for long.
    /// What several servers share can be written all the same.
    pub fn disk_failure(&self) -> Option<String> {
        let of_log = self.shared.refusal().is_some_and(|error| !error.is_of_disk());
        self.failure().filter(|_| !of_log)
    }

    /// For how long another program has held the lock of the database that the writer waits for now.
    pub fn locked_for(&self) -> Option<Duration> {
        match self.shared.condition() {
            Condition::Locked { since, .. } => Some(since.elapsed()),
            Condition::Good | Condition::Failed(_) => None,
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("positions", &self.tail().positions()).finish_non_exhaustive()
    }
}
