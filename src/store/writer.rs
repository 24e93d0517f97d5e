//! The one thread that writes: it takes all commands that wait, commits them at once, and answers each.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::oneshot;

use super::backend::last_outcome;
use super::{
    Accepted, Backend, Batch, GroupState, KeyReused, MAILBOX, Positions, Removal, Removed, Shared, StoreError,
};
use crate::mailbox::Receiver;
use crate::task::{GroupName, NewResult, NewStatus, NewTask, Status, Task, TaskId, TaskResult, Time};

/// Rows at which a transaction takes no more commands: the next ones should not wait much longer than a sync.
const ROUND_ROWS: usize = 10_000;
/// Bytes of text at which a transaction takes no more commands.
const ROUND_BYTES: usize = 8 << 20;
/// How long a transaction stays open when no caller waits for it: a task that comes meanwhile can share its sync. A few syncs,
/// and too short to notice.
const LINGER: Duration = Duration::from_millis(2);

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked for.
pub(super) enum Command {
    Submit(Vec<NewTask>, Unless, Answer<Accepted>),
    RecordStatuses(Vec<NewStatus>, Answer<()>),
    Record(Vec<NewResult>),
    RecordUnlessSettled(Box<NewResult>),
    Checkpoint(Vec<GroupState>),
    ForgetGroup(GroupName),
    Expire(TaskId, Option<Time>, Answer<()>),
    /// Like `Expire`, and the task's key is free again.
    Cancel(TaskId, Time, Answer<()>),
    Remove(Removal, Answer<Removed>),
    Flush(Done),
    Close,
}

/// What becomes of a submission that has a task with the key of another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unless {
    /// Nothing of it is accepted.
    Reused,
    /// The others are accepted.
    Never,
}

/// A callback that is always called: when it is dropped, with the error that the store is closed.
pub(super) struct Done(Option<Callback>);

type Callback = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

impl Done {
    pub(super) fn new(callback: Callback) -> Done {
        Done(Some(callback))
    }

    fn call(mut self, result: Result<(), StoreError>) {
        if let Some(callback) = self.0.take() {
            callback(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(Err(StoreError::Closed));
        }
    }
}

pub(super) struct Writer {
    backend: Box<dyn Backend>,
    mailbox: Receiver<Command>,
    shared: Arc<Shared>,
    /// How far the logs go on disk.
    positions: Positions,
}

/// One transaction, and the callers that wait for it.
struct Round {
    batch: Batch,
    /// The keys of the batch.
    keys: HashMap<String, TaskId>,
    answers: Vec<Done>,
    accepted_at: Time,
    commands: usize,
    rows: usize,
    bytes: usize,
    /// Why nothing of it can be written.
    failed: Option<StoreError>,
}

impl Writer {
    pub(super) fn new(
        backend: Box<dyn Backend>,
        mailbox: Receiver<Command>,
        shared: Arc<Shared>,
        positions: Positions,
    ) -> Writer {
        Writer { backend, mailbox, shared, positions }
    }

    /// Runs until [`Command::Close`], and then until the mailbox is empty.
    pub(super) fn run(mut self) -> Result<(), StoreError> {
        let mut closing = false;
        while let Some(first) = if closing { self.mailbox.try_recv() } else { self.mailbox.recv() } {
            let mut round = Round::new(self.positions, self.shared.failure.get().cloned());
            closing |= self.take(&mut round, first);
            let latest = Instant::now() + LINGER;
            while !round.is_full() {
                let linger = !closing && round.answers.is_empty();
                let next = if linger { self.mailbox.recv_deadline(latest).ok() } else { self.mailbox.try_recv() };
                let Some(next) = next else { break };
                closing |= self.take(&mut round, next);
            }
            self.settle(round);
        }
        self.shared.tail.close();
        let closed = self.backend.close();
        self.shared.failure.get().cloned().map_or(closed, Err)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let began = Instant::now();
        let written = self.backend.commit(batch);
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.shared.commits.lock().unwrap_or_else(PoisonError::into_inner).record(micros);
        written
    }

    /// Puts a command into the round. Says whether it was [`Command::Close`].
    fn take(&mut self, round: &mut Round, command: Command) -> bool {
        round.commands += 1;
        match command {
            Command::Close => return true,
            Command::Flush(done) => round.answers.push(done),
            Command::Submit(tasks, unless, answer) => {
                let accepted = round.accept(tasks, unless, &mut *self.backend);
                round.answer(move |written| drop(answer.send(written.and(accepted))));
            }
            Command::RecordStatuses(statuses, answer) => {
                round.record_statuses(statuses);
                round.answer(move |written| drop(answer.send(written)));
            }
            Command::Record(results) => round.record(results),
            Command::RecordUnlessSettled(result) => round.record_unless_settled(*result, &mut *self.backend),
            Command::Checkpoint(groups) => round.checkpoint(groups),
            Command::Expire(task, expires_at, answer) => {
                round.batch.expiries.push((task, expires_at));
                round.answer(move |written| drop(answer.send(written)));
            }
            Command::Cancel(task, at, answer) => {
                // It was accepted in an earlier round: who cancels a task has seen it in the log.
                round.batch.expiries.push((task, Some(at)));
                round.batch.freed.insert(task);
                round.answer(move |written| drop(answer.send(written)));
            }
            Command::Remove(removal, answer) => {
                // A transaction of its own, before this round's: what it removes was settled long ago.
                let removed = match &round.failed {
                    None => self.backend.remove(&removal).inspect_err(|error| round.failed = Some(error.clone())),
                    Some(error) => Err(error.clone()),
                };
                drop(answer.send(removed));
            }
            Command::ForgetGroup(name) => drop(round.batch.groups.insert(name, None)),
        }
        false
    }

    /// Writes the round, then answers its callers.
    fn settle(&mut self, round: Round) {
        let Round { batch, answers, failed, .. } = round;
        let written = match failed {
            Some(error) => Err(error),
            None if batch.is_empty() => Ok(()),
            None => self.commit(&batch),
        };
        match &written {
            Ok(()) => {
                self.positions = batch.positions;
                self.shared.tail.extend(batch.tasks, &batch.positions);
            }
            Err(error) => {
                if self.shared.failure.set(error.clone().lasting()).is_ok() {
                    log::error!("{error}");
                }
            }
        }
        for answer in answers {
            answer.call(written.clone());
        }
        self.shared.tail.announce();
    }
}

impl Round {
    fn new(positions: Positions, failed: Option<StoreError>) -> Round {
        Round {
            batch: Batch { positions, ..Batch::default() },
            keys: HashMap::new(),
            answers: Vec::new(),
            accepted_at: Time::now(),
            commands: 0,
            rows: 0,
            bytes: 0,
            failed,
        }
    }

    fn is_full(&self) -> bool {
        self.commands >= MAILBOX || self.rows >= ROUND_ROWS || self.bytes >= ROUND_BYTES
    }

    fn answer(&mut self, answer: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        self.answers.push(Done::new(Box::new(answer)));
    }

    /// Gives each task its id. If that cannot be done, the round has failed.
    fn accept(
        &mut self,
        tasks: Vec<NewTask>,
        unless: Unless,
        backend: &mut dyn Backend,
    ) -> Result<Accepted, StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let before = self.batch.tasks.len();
        let mut ids = Vec::with_capacity(tasks.len());
        let (mut known, mut reused) = (Vec::new(), Vec::new());
        for (place, spec) in tasks.into_iter().enumerate() {
            match self.find(&spec, backend)? {
                None => ids.push(self.append(spec)),
                Some((id, true)) => {
                    ids.push(id);
                    known.push(place);
                }
                Some((task, false)) => {
                    let key = spec.key.unwrap_or_default();
                    reused.push(KeyReused { place, key, task });
                }
            }
        }
        if unless == Unless::Reused && !reused.is_empty() {
            self.take_back(before);
            (ids, known) = (Vec::new(), Vec::new());
        }
        let first_id = ids.first().copied().unwrap_or(0);
        let count = ids.len() as u32;
        if ids.iter().copied().eq(first_id..first_id + TaskId::from(count)) {
            ids.clear();
        }
        Ok(Accepted { first_id, count, ids, known, reused })
    }

    /// The tasks of the batch from `len` on are not accepted after all.
    fn take_back(&mut self, len: usize) {
        for task in self.batch.tasks.drain(len..) {
            self.batch.positions.task -= 1;
            if let Some(key) = &task.spec.key {
                self.keys.remove(key);
            }
        }
    }

    /// The task that has the key of this one already; and whether it is the same.
    fn find(&mut self, spec: &NewTask, backend: &mut dyn Backend) -> Result<Option<(TaskId, bool)>, StoreError> {
        let Some(key) = &spec.key else { return Ok(None) };
        // When, how often and how urgently may have been worked out anew.
        let same = |text: &String, to: &Option<GroupName>| *text == spec.text && *to == spec.to;
        let in_batch = self.keys.get(key).and_then(|id| {
            let at = self.batch.tasks.binary_search_by_key(id, |task| task.id).ok()?;
            Some(&self.batch.tasks[at])
        });
        if let Some(task) = in_batch {
            return Ok(Some((task.id, same(&task.spec.text, &task.spec.to))));
        }
        let kept = backend.find_key(key).inspect_err(|error| self.failed = Some(error.clone()))?;
        let kept = kept.filter(|kept| !self.batch.freed.contains(&kept.id));
        Ok(kept.map(|kept| (kept.id, same(&kept.text, &kept.to))))
    }

    fn append(&mut self, spec: NewTask) -> TaskId {
        self.batch.positions.task += 1;
        let id = self.batch.positions.task;
        if let Some(key) = &spec.key {
            self.keys.insert(key.clone(), id);
        }
        self.count(spec.text.len());
        self.batch.tasks.push(Arc::new(Task { id, accepted_at: self.accepted_at, spec }));
        id
    }

    fn record_statuses(&mut self, statuses: Vec<NewStatus>) {
        for status in statuses {
            self.batch.positions.status += 1;
            self.count(status.msg.len());
            self.batch.statuses.push(Status { seq: self.batch.positions.status, status });
        }
    }

    /// If it cannot be found out whether the task was settled, the round has failed.
    fn record_unless_settled(&mut self, mut result: NewResult, backend: &mut dyn Backend) {
        if let Some(group) = result.group.as_ref().filter(|_| self.failed.is_none()) {
            let stands = match last_outcome(&self.batch.results, group, result.task) {
                Some(outcome) => Ok(Some(outcome)),
                None => backend.last_outcome(group, result.task),
            };
            // What was removed was settled, too, and its outcomes went with it.
            let late = match stands {
                Ok(Some(outcome)) => Ok(outcome.settles()),
                Ok(None) => backend.has_task(result.task).map(|kept| !kept),
                Err(error) => Err(error),
            };
            match late {
                Ok(late) => result.late = late,
                Err(error) => self.failed = Some(error),
            }
        }
        self.record(vec![result]);
    }

    fn record(&mut self, results: Vec<NewResult>) {
        for result in results {
            self.batch.positions.result += 1;
            self.count(result.ret.len());
            self.batch.results.push(TaskResult { seq: self.batch.positions.result, result });
        }
    }

    fn checkpoint(&mut self, groups: Vec<GroupState>) {
        self.batch.mark = Some(self.batch.positions.result);
        for group in groups {
            self.count(0);
            self.batch.groups.insert(group.name.clone(), Some(group));
        }
    }

    fn count(&mut self, bytes: usize) {
        self.rows += 1;
        self.bytes += bytes;
    }
}
