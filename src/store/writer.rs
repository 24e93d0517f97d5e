//! The one thread that writes: it takes all commands that wait, commits them at once, and answers each.
//!
//! When a write fails, it opens the database again until that works, and refuses meanwhile what waits for an answer. What the broker
//! recorded is kept, and written then.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::oneshot;

use super::backend::last_outcome;
use super::{
    Accepted, Batch, Checkpoint, Condition, Dialled, Drain, Grantee, KeyReused, MAILBOX, Patient, Positions, Recovered,
    Removal, Removed, Room, Shared, Slot, StoreError, Unwritten,
};
use crate::attachment::Attachment;
use crate::mailbox::{Receiver, RecvTimeoutError};
use crate::run::Run;
use crate::schedule::{Last, Scheduled};
use crate::task::{
    Audience, ClientId, GroupName, Name, NewResult, NewStatus, NewTask, Outcome, Status, Task, TaskId, TaskResult, Time,
};

/// Rows at which a transaction takes no more commands: the next ones should not wait much longer than a sync.
const ROUND_ROWS: usize = 10_000;
/// Bytes of text at which a transaction takes no more commands.
const ROUND_BYTES: usize = 8 << 20;
/// How long a transaction stays open when no caller waits for it: a task that comes meanwhile can share its sync. A few syncs,
/// and too short to notice.
const LINGER: Duration = Duration::from_millis(2);
/// Until a database that failed is opened again, at first and at most; doubled each time that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The same until a log that could not be written is tried again: it is not the disk that would be worn.
const LONGEST_PAUSE_OF_LOG: Duration = Duration::from_secs(1);

/// A clock that is set back by more than this was wrong before: else one task that was accepted under it would hold back the time of all
/// later ones, and with it their removal.
const HELD_BACK: Duration = Duration::from_secs(24 * 60 * 60);

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked for.
pub(super) enum Command {
    Submit(Vec<NewTask>, Unless, Answer<Accepted>),
    RecordStatuses(Vec<NewStatus>, Answer<()>),
    Record(Vec<NewResult>),
    RecordUnlessSettled(Box<NewResult>),
    Checkpoint(Checkpoint),
    ForgetGroup(GroupName),
    Drain(ClientId, Option<Drain>),
    Dial(Name, Option<Dialled>, Answer<()>),
    Grant(BTreeMap<Grantee, Option<String>>, Answer<()>),
    Expire(TaskId, Option<Time>, Answer<()>),
    /// Like `Expire`, and the task's key is free again.
    Cancel(TaskId, Time, Answer<()>),
    /// Writes the run, with tasks of it, each for the next so many of its targets; the first of all gives the run its number.
    Run(Box<Run>, Vec<(NewTask, usize)>, Answer<Run>),
    /// Writes schedules, each with tasks that it makes. Answers with the last task of each, 0 if it makes none.
    Schedules(Vec<Scheduled>, Answer<Vec<TaskId>>),
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
    backend: Patient,
    mailbox: Receiver<Command>,
    shared: Arc<Shared>,
    /// How far the logs go on disk.
    positions: Positions,
    /// When the newest task was accepted: none is accepted before the one before it, though the clock be set back.
    accepted_at: Time,
    /// What there is room for on the disk, and why there is none for the rest.
    room: Room,
    low: Option<StoreError>,
    /// A part of the disk is set aside.
    reserve: bool,
    /// Since a write failed.
    outage: Option<Outage>,
    /// [`Command::Close`] came.
    closing: bool,
}

/// A write failed, and the database is closed.
struct Outage {
    /// The first failure, or the newest of reopening.
    why: StoreError,
    since: Instant,
    /// The batch that failed, and what the broker recorded since, bounded as any round.
    kept: Round,
    /// How far the logs go if that batch is on disk all the same.
    written: Positions,
    pause: Duration,
    /// It is not tried again before the store is closed.
    given_up: bool,
}

/// One transaction, and the callers that wait for it.
struct Round {
    batch: Batch,
    /// The keys of the batch.
    keys: HashMap<String, TaskId>,
    /// The newest task of the batch in each slot.
    slots: HashMap<Slot, TaskId>,
    answers: Vec<Done>,
    /// Results, by their position, of which it is not known yet whether they are late.
    unchecked: VecDeque<u64>,
    accepted_at: Time,
    commands: usize,
    rows: usize,
    bytes: usize,
    /// Why nothing of it can be written.
    failed: Option<StoreError>,
}

impl Writer {
    pub(super) fn new(
        backend: Patient,
        mailbox: Receiver<Command>,
        shared: Arc<Shared>,
        recovered: &Recovered,
    ) -> Writer {
        Writer {
            backend,
            mailbox,
            shared,
            positions: recovered.positions,
            accepted_at: recovered.newest.task,
            room: Room::Enough,
            low: None,
            reserve: false,
            outage: None,
            closing: false,
        }
    }

    /// Runs until [`Command::Close`], and then until the mailbox is empty.
    pub(super) fn run(mut self) -> Result<(), StoreError> {
        loop {
            if let Some(outage) = self.outage.take_if(|outage| !outage.given_up) {
                self.outage = self.sit_out(outage);
            }
            let first = if self.closing { self.mailbox.try_recv() } else { self.mailbox.recv() };
            let Some(first) = first else { break };
            match &mut self.outage {
                Some(outage) => self.closing |= outage.refuse(first),
                None => self.write_with(first),
            }
        }
        let ended = self.outage.take().map_or(Ok(()), |mut outage| self.last_try(&mut outage));
        self.shared.tail.close();
        // Also after a failure: where several servers share a log, the others are told.
        let closed = self.backend.close();
        ended.and(closed)
    }

    /// What the broker recorded may still find its place.
    fn last_try(&mut self, outage: &mut Outage) -> Result<(), StoreError> {
        if outage.why.may_pass() && self.reopen(outage).is_ok() {
            return Ok(());
        }
        Err(outage.why.clone().lasting())
    }

    /// When what is accepted now counts as accepted: not before what was accepted last, unless that was under a clock that was wrong.
    fn acceptance(&self, now: Time) -> Time {
        if self.accepted_at <= now.after(HELD_BACK) { now.max(self.accepted_at) } else { now }
    }

    /// Takes this command and those that wait, and writes them.
    fn write_with(&mut self, first: Command) {
        self.look_for_room();
        let mut round = Round::new(self.positions, self.acceptance(Time::now()));
        self.take(&mut round, first);
        let latest = Instant::now() + LINGER;
        while !round.is_full() && round.failed.is_none() {
            let linger = !self.closing && round.answers.is_empty();
            let next = if linger { self.mailbox.recv_deadline(latest).ok() } else { self.mailbox.try_recv() };
            let Some(next) = next else { break };
            self.take(&mut round, next);
        }
        self.settle(round);
    }

    /// Sees what the disk has room for now.
    fn look_for_room(&mut self) {
        let Some((path, mut space)) = self.backend.space() else { return };
        let min_free = self.shared.floor.min_free();
        let mut missing = 0;
        if self.shared.floor.keeps_reserve() && !self.reserve {
            missing = space.reserve();
            if space.free >= missing {
                self.set_aside(missing);
                (space, missing) = (self.backend.space().map_or(space, |(_, space)| space), 0);
            }
        }
        let room = if missing > 0 { Room::Least } else { space.room(min_free) };
        let floor = space.floor(min_free).max(missing);
        self.low = (room > Room::Enough).then_some(StoreError::Low { path, free: space.free, floor });
        if room == self.room {
            return;
        }
        match (&self.low, room) {
            (Some(low), Room::Least) => log::error!("no tasks are accepted, and no statuses: {low}"),
            (Some(low), _) => log::warn!("statuses and late results are not stored: {low}"),
            (None, _) => log::info!("there is room on the disk again, and everything is taken"),
        }
        self.room = room;
    }

    fn set_aside(&mut self, bytes: u64) {
        match self.backend.set_aside(bytes) {
            Ok(()) => self.reserve = true,
            Err(error) => {
                // It is a precaution, and some file systems do not know it.
                self.shared.floor.keep_reserve(false);
                log::warn!("nothing can be set aside for the time when the disk is full: {error}");
            }
        }
    }

    /// Why this is not written now, and how many of it are then counted as unwritten.
    fn no_room_for(&mut self, what: Unwritten, how_many: usize) -> Option<StoreError> {
        let needs = if what == Unwritten::Tasks { Room::Little } else { Room::Enough };
        if self.room > needs {
            // Somebody may have made room since this transaction began.
            self.look_for_room();
        }
        let low = self.low.clone().filter(|_| self.room > needs)?;
        self.shared.floor.count(what, how_many);
        Some(low)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let began = Instant::now();
        let written = self.backend.commit(batch);
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.shared.commits.lock().unwrap_or_else(PoisonError::into_inner).record(micros);
        written
    }

    /// Puts a command into the round.
    fn take(&mut self, round: &mut Round, command: Command) {
        round.commands += 1;
        match command {
            Command::Close => self.closing = true,
            Command::Flush(done) => round.answers.push(done),
            Command::Submit(tasks, unless, answer) => {
                if let Some(low) = self.no_room_for(Unwritten::Tasks, tasks.len()) {
                    return drop(answer.send(Err(low)));
                }
                let accepted = round.accept(tasks, unless, &mut self.backend);
                round.answer(move |written| drop(answer.send(written.and(accepted))));
            }
            Command::RecordStatuses(statuses, answer) => {
                if let Some(low) = self.no_room_for(Unwritten::Statuses, statuses.len()) {
                    return drop(answer.send(Err(low)));
                }
                round.record_statuses(statuses);
                round.answer(move |written| drop(answer.send(written)));
            }
            Command::Record(mut results) => {
                if self.room > Room::Enough {
                    let all = results.len();
                    // What changes nothing, or belongs to nothing.
                    results.retain(|result| !result.late && result.task != 0);
                    self.shared.floor.count(Unwritten::LateResults, all - results.len());
                }
                round.record(results);
            }
            Command::RecordUnlessSettled(result) => {
                round.record_unchecked(*result);
                round.check(&mut self.backend);
            }
            Command::Checkpoint(checkpoint) => round.checkpoint(checkpoint),
            Command::Expire(task, expires_at, answer) => {
                round.batch.expiries.push((task, expires_at));
                round.answer(move |written| drop(answer.send(written)));
            }
            Command::Cancel(task, at, answer) => {
                // It was accepted in an earlier round: who cancels a task has seen it in the log.
                round.batch.expiries.push((task, Some(NewTask::cancelled(at))));
                round.batch.freed.insert(task);
                round.answer(move |written| drop(answer.send(written)));
            }
            Command::Run(run, tasks, answer) => {
                if let Some(low) = self.no_room_for(Unwritten::Tasks, tasks.len()).filter(|_| !tasks.is_empty()) {
                    return drop(answer.send(Err(low)));
                }
                let run = round.run(*run, tasks);
                round.answer(move |written| drop(answer.send(written.map(|()| run))));
            }
            Command::Schedules(all, answer) => {
                let tasks = all.iter().map(|one| one.tasks.len()).sum();
                if let Some(low) = self.no_room_for(Unwritten::Tasks, tasks).filter(|_| tasks > 0) {
                    return drop(answer.send(Err(low)));
                }
                let last: Result<Vec<_>, _> =
                    all.into_iter().map(|one| round.schedule(one, &mut self.backend)).collect();
                round.answer(move |written| drop(answer.send(written.and(last))));
            }
            Command::Remove(removal, answer) => {
                // A transaction of its own, before this round's: what it removes was settled long ago.
                let removed = self.backend.remove(&removal).inspect_err(|error| round.failed = Some(error.clone()));
                drop(answer.send(removed));
            }
            Command::ForgetGroup(name) => round.forget_group(name),
            Command::Drain(client, drain) => round.put_drain(client, drain),
            Command::Dial(address, dialled, answer) => {
                if round.batch.dialled.insert(address, dialled).is_none() {
                    round.count(0);
                }
                round.answer(move |written| drop(answer.send(written)));
            }
            Command::Grant(changed, answer) => {
                changed.values().for_each(|text| round.count(text.as_ref().map_or(0, String::len)));
                round.batch.grants.extend(changed);
                round.answer(move |written| drop(answer.send(written)));
            }
        }
    }

    /// Writes the round, then answers its callers.
    fn settle(&mut self, mut round: Round) {
        if !round.batch.tasks.is_empty() {
            self.accepted_at = round.accepted_at;
        }
        let written = match round.failed.take() {
            Some(error) => Err(error),
            // What is answered from what is there holds only if nobody else writes.
            None if round.batch.is_empty() => self.backend.prove(),
            None => self.commit(&round.batch),
        };
        let answers = std::mem::take(&mut round.answers);
        match &written {
            Ok(()) => self.written(round.batch),
            Err(error) => {
                log::error!("nothing is accepted: {error}");
                self.shared.set_condition(Condition::Failed(error.clone().lasting()));
                let written = round.batch.positions;
                let (why, since) = (error.clone(), Instant::now());
                // The bounds are for what comes from now on.
                let kept = Round { commands: 0, rows: 0, bytes: 0, ..round };
                self.outage = Some(Outage { why, since, kept, written, pause: FIRST_PAUSE, given_up: false });
            }
        }
        for answer in answers {
            answer.call(written.clone());
        }
        self.shared.tail.announce();
    }

    /// The batch is on disk.
    fn written(&mut self, batch: Batch) {
        self.positions = batch.positions;
        self.shared.tail.extend(batch.tasks, &batch.positions);
    }

    /// Opens the database again, as often as it takes. `Some`: it cannot be, or the store is to be closed before.
    fn sit_out(&mut self, mut outage: Outage) -> Option<Outage> {
        while outage.why.may_pass() {
            self.refuse_for_a_while(&mut outage);
            if self.closing || self.backend.is_closing() {
                return Some(Outage { given_up: true, ..outage });
            }
            let Err(error) = self.reopen(&mut outage) else {
                let lasted = outage.since.elapsed().as_secs_f64();
                log::info!("the store is open again and accepts tasks; it accepted nothing for {lasted:.1} s");
                self.shared.set_condition(Condition::Good);
                self.shared.tail.announce();
                return None;
            };
            log::debug!("the store cannot be opened again yet: {error}");
            self.shared.set_condition(Condition::Failed(error.clone().lasting()));
            self.shared.tail.announce();
            let longest = if matches!(error, StoreError::NoLog { .. }) { LONGEST_PAUSE_OF_LOG } else { LONGEST_PAUSE };
            outage.why = error;
            outage.pause = (outage.pause * 2).min(longest);
        }
        log::error!("the store stays closed until the server is started again: {}", outage.why);
        Some(Outage { given_up: true, ..outage })
    }

    /// Refuses until it is time for another try, and keeps what the broker records. When that is as much as is kept, the rest waits
    /// in the mailbox, and with it the broker.
    fn refuse_for_a_while(&mut self, outage: &mut Outage) {
        let next_try = Instant::now() + outage.pause;
        while !self.closing && !self.backend.is_closing() {
            if outage.kept.is_full() {
                return self.backend.pause(next_try);
            }
            match self.mailbox.recv_deadline(next_try) {
                Ok(command) => self.closing |= outage.refuse(command),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => self.closing = true,
            }
        }
    }

    /// Opens the database, finds out what became of the write that failed, and writes what was kept.
    fn reopen(&mut self, outage: &mut Outage) -> Result<(), StoreError> {
        let on_disk = self.backend.reopen()?;
        // It may have been needed for that.
        self.reserve = false;
        let (answered, kept) = (self.positions, &mut outage.kept);
        if on_disk != answered && on_disk != outage.written {
            return Err(StoreError::Lost { found: on_disk, answered });
        }
        // One transaction: all of it is there, or nothing.
        if on_disk != answered {
            self.positions = on_disk;
            self.shared.tail.extend(std::mem::take(&mut kept.batch.tasks), &on_disk);
        }
        kept.begin_again(on_disk);
        kept.check(&mut self.backend);
        if let Some(error) = kept.failed.take() {
            return Err(error);
        }
        outage.written = kept.batch.positions;
        if !kept.batch.is_empty() {
            self.commit(&outage.kept.batch)?;
        }
        self.written(std::mem::take(&mut outage.kept.batch));
        Ok(())
    }
}

impl Outage {
    /// Answers a command with why it cannot be done; keeps what has no answer. Says whether it was [`Command::Close`].
    fn refuse(&mut self, command: Command) -> bool {
        let why = || self.why.clone().lasting();
        match command {
            Command::Close => return true,
            Command::Flush(done) => done.call(Err(why())),
            Command::Submit(_, _, answer) => drop(answer.send(Err(why()))),
            Command::RecordStatuses(_, answer)
            | Command::Expire(_, _, answer)
            | Command::Cancel(_, _, answer)
            | Command::Dial(_, _, answer)
            | Command::Grant(_, answer) => {
                drop(answer.send(Err(why())));
            }
            Command::Run(_, _, answer) => drop(answer.send(Err(why()))),
            Command::Schedules(_, answer) => drop(answer.send(Err(why()))),
            Command::Remove(_, answer) => drop(answer.send(Err(why()))),
            // A client that is refused tells its results again. What changes nothing is not kept for that.
            Command::Record(results) => self.kept.record(results.into_iter().filter(|result| !result.late).collect()),
            Command::RecordUnlessSettled(result) => self.kept.record_unchecked(*result),
            Command::Checkpoint(checkpoint) => self.kept.checkpoint(checkpoint),
            Command::ForgetGroup(name) => self.kept.forget_group(name),
            Command::Drain(client, drain) => self.kept.put_drain(client, drain),
        }
        false
    }
}

impl Round {
    fn new(positions: Positions, accepted_at: Time) -> Round {
        Round {
            batch: Batch { positions, ..Batch::default() },
            keys: HashMap::new(),
            slots: HashMap::new(),
            answers: Vec::new(),
            unchecked: VecDeque::new(),
            accepted_at,
            commands: 0,
            rows: 0,
            bytes: 0,
            failed: None,
        }
    }

    /// Leaves what the broker recorded and is not on disk: all others were told that their part failed.
    fn begin_again(&mut self, on_disk: Positions) {
        let batch = &mut self.batch;
        batch.tasks.clear();
        batch.statuses.clear();
        batch.expiries.clear();
        batch.freed.clear();
        batch.runs.clear();
        batch.schedules.clear();
        batch.dialled.clear();
        batch.grants.clear();
        batch.results.retain(|result| result.seq > on_disk.result);
        batch.positions = Positions { result: batch.positions.result, ..on_disk };
        self.keys.clear();
        self.slots.clear();
    }

    fn is_full(&self) -> bool {
        self.commands >= MAILBOX || self.rows >= ROUND_ROWS || self.bytes >= ROUND_BYTES
    }

    fn answer(&mut self, answer: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        self.answers.push(Done::new(Box::new(answer)));
    }

    /// Gives each task its id. If that cannot be done, the round has failed.
    fn accept(&mut self, tasks: Vec<NewTask>, unless: Unless, backend: &mut Patient) -> Result<Accepted, StoreError> {
        let before = self.batch.tasks.len();
        let mut ids = Vec::with_capacity(tasks.len());
        let (mut known, mut reused) = (Vec::new(), Vec::new());
        for (place, mut spec) in tasks.into_iter().enumerate() {
            match self.find(&spec, backend)? {
                None => {
                    self.replace(&mut spec, backend)?;
                    ids.push(self.append(spec));
                }
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
        let first = self.batch.tasks.first().map_or(0, |task| task.id);
        for task in self.batch.tasks.drain(len..).rev() {
            self.batch.positions.task -= 1;
            if let Some(key) = &task.spec.key {
                self.keys.remove(key);
            }
            if let Some(slot) = Slot::of(&task.spec) {
                // One that came in this batch cannot be over yet: so it was replaced.
                match task.spec.replaces().filter(|before| *before >= first) {
                    Some(before) => drop(self.slots.insert(slot, before)),
                    None => drop(self.slots.remove(&slot)),
                }
            }
        }
    }

    /// Whose place the next task takes: that of the newest in its slot, if that is not over. So it is decided with the acceptance, and
    /// written with it. If it cannot be found out, the round has failed.
    fn replace(&mut self, spec: &mut NewTask, backend: &mut Patient) -> Result<(), StoreError> {
        let Some(slot) = Slot::of(spec) else { return Ok(()) };
        let before = self.newest_of(&slot, backend).inspect_err(|error| self.failed = Some(error.clone()))?;
        let now = self.accepted_at;
        if let Some(replace) = &mut spec.replace {
            replace.replaces = before.as_ref().map(|task| task.id);
            if let Some(quiet) = &mut replace.quiet {
                let goes_on = before.and_then(|task| Some((task.accepted_at, task.spec.replace.as_ref()?.quiet?)));
                let goes_on = goes_on.filter(|(accepted_at, quiet)| quiet.until(*accepted_at) > now);
                quiet.since = goes_on.map_or(now, |(_, quiet)| quiet.since);
                spec.not_before = spec.not_before.max(Some(quiet.until(now)));
            }
        }
        self.slots.insert(slot, self.batch.positions.task + 1);
        Ok(())
    }

    /// The newest task of a slot, if it is not over: expired, cancelled, or settled by the one group that it is for.
    fn newest_of(&self, slot: &Slot, backend: &mut Patient) -> Result<Option<Arc<Task>>, StoreError> {
        if let Some(id) = self.slots.get(slot) {
            let at = self.batch.tasks.binary_search_by_key(id, |task| task.id);
            return Ok(at.ok().map(|at| self.batch.tasks[at].clone()));
        }
        let Some(task) = backend.newest_of(slot)? else { return Ok(None) };
        let ended = self.batch.expiries.iter().rev().find(|(id, _)| *id == task.id);
        let expires_at = ended.map_or(task.spec.expires_at, |(_, at)| *at);
        if expires_at.is_some_and(|at| at <= self.accepted_at) {
            return Ok(None);
        }
        if let Some(group) = &task.spec.to {
            let outcome = match last_outcome(&self.batch.results, group, task.id) {
                None => backend.last_outcome(group, task.id)?,
                outcome => outcome,
            };
            if outcome.is_some_and(Outcome::settles) {
                return Ok(None);
            }
        }
        Ok(Some(Arc::new(task)))
    }

    /// The task that has the key of this one already; and whether it is the same.
    fn find(&mut self, spec: &NewTask, backend: &mut Patient) -> Result<Option<(TaskId, bool)>, StoreError> {
        let Some(key) = &spec.key else { return Ok(None) };
        // When, how often and how urgently may have been worked out anew.
        let same =
            |text: &String, attachment: &Attachment, to: &Option<GroupName>, audience: &Option<Arc<Audience>>| {
                *text == spec.text
                    && attachment.asks_for_the_same(&spec.attachment)
                    && *to == spec.to
                    && *audience == spec.audience
            };
        let in_batch = self.keys.get(key).and_then(|id| {
            let at = self.batch.tasks.binary_search_by_key(id, |task| task.id).ok()?;
            Some(&self.batch.tasks[at])
        });
        if let Some(task) = in_batch {
            let NewTask { text, attachment, to, audience, .. } = &task.spec;
            return Ok(Some((task.id, same(text, attachment, to, audience))));
        }
        let kept = backend.find_key(key).inspect_err(|error| self.failed = Some(error.clone()))?;
        let kept = kept.filter(|kept| !self.batch.freed.contains(&kept.id));
        Ok(kept.map(|kept| (kept.id, same(&kept.text, &kept.attachment, &kept.to, &kept.audience))))
    }

    fn append(&mut self, spec: NewTask) -> TaskId {
        self.batch.positions.task += 1;
        let id = self.batch.positions.task;
        if let Some(key) = &spec.key {
            self.keys.insert(key.clone(), id);
        }
        self.count(spec.bytes());
        self.batch.tasks.push(Arc::new(Task { id, accepted_at: self.accepted_at, spec }));
        id
    }

    /// Gives the tasks their ids, and the run those, and its number if it has none.
    fn run(&mut self, mut run: Run, tasks: Vec<(NewTask, usize)>) -> Run {
        for (task, targets) in tasks {
            let id = self.append(task);
            run.tasks.push((id, targets));
        }
        if let (0, Some((first, _))) = (run.number, run.tasks.first()) {
            run.number = *first;
        }
        self.count(run.targets.iter().map(|name| name.as_str().len()).sum());
        self.batch.runs.insert(run.number, run.clone());
        run
    }

    /// Gives the tasks their ids, and the schedule that of the last. A task whose moment had one before, by its key, is that one; if somebody
    /// used the key for something else, the task goes without it: the schedule itself says which moments have theirs.
    fn schedule(&mut self, one: Scheduled, backend: &mut Patient) -> Result<TaskId, StoreError> {
        let Scheduled { name, mut schedule, tasks } = one;
        let mut last = 0;
        for mut task in tasks {
            let moment = task.made.as_ref().and_then(|made| made.moment);
            let known = self.find(&task, backend)?;
            last = if let Some((id, true)) = known {
                id
            } else {
                if known.is_some() {
                    task.key = None;
                }
                self.replace(&mut task, backend)?;
                self.append(task)
            };
            if let Some(schedule) = &mut schedule {
                schedule.last = Some(Last { task: last, moment });
            }
        }
        self.count(schedule.as_ref().map_or(0, |schedule| schedule.what.bytes()));
        self.batch.schedules.insert(name, schedule);
        Ok(last)
    }

    fn record_statuses(&mut self, statuses: Vec<NewStatus>) {
        for status in statuses {
            self.batch.positions.status += 1;
            self.count(status.msg.len());
            self.batch.statuses.push(Status { seq: self.batch.positions.status, status });
        }
    }

    fn record_unchecked(&mut self, result: NewResult) {
        self.record(vec![result]);
        self.unchecked.push_back(self.batch.positions.result);
    }

    /// Marks those of the unchecked results as late whose group had settled the task. If that cannot be found out, the round has
    /// failed.
    fn check(&mut self, backend: &mut Patient) {
        let results = &mut self.batch.results;
        while let Some(seq) = self.unchecked.front() {
            // On disk already, if it is not here.
            if let Ok(at) = results.binary_search_by_key(seq, |entry| entry.seq) {
                let TaskResult { result: NewResult { task, group, .. }, .. } = &results[at];
                let stands = match group {
                    None => Ok(None),
                    Some(group) => match last_outcome(&results[..at], group, *task) {
                        Some(outcome) => Ok(Some(outcome)),
                        None => backend.last_outcome(group, *task),
                    },
                };
                // What was removed was settled, too, and its outcomes went with it.
                let late = match stands {
                    Ok(None) if group.is_some() => backend.has_task(*task).map(|kept| !kept),
                    stands => stands.map(|outcome| outcome.is_some_and(Outcome::settles)),
                };
                match late {
                    Ok(true) => {
                        results[at].result.mark_late();
                    }
                    Ok(false) => {}
                    Err(error) => {
                        self.failed = Some(error);
                        return;
                    }
                }
            }
            self.unchecked.pop_front();
        }
    }

    fn record(&mut self, results: Vec<NewResult>) {
        for result in results {
            self.batch.positions.result += 1;
            self.count(result.bytes());
            self.batch.results.push(TaskResult { seq: self.batch.positions.result, result });
        }
    }

    /// One row for each group and open task, however often it is replaced.
    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.batch.mark = Some(self.batch.positions.result);
        for group in checkpoint.groups {
            if self.batch.groups.insert(group.name.clone(), group).is_none() {
                self.count(0);
            }
        }
        for (group, rows) in checkpoint.open {
            let kept = self.batch.open.entry(group).or_default();
            let before = kept.len();
            kept.extend(rows);
            self.rows += kept.len() - before;
        }
        for (client, known) in checkpoint.clients {
            if self.batch.clients.insert(client, known).is_none() {
                self.count(0);
            }
        }
    }

    fn forget_group(&mut self, name: GroupName) {
        self.batch.groups.remove(&name);
        self.batch.open.remove(&name);
        self.batch.forgotten.insert(name);
        self.count(0);
    }

    /// One row for each client, however often that changes.
    fn put_drain(&mut self, client: ClientId, drain: Option<Drain>) {
        let bytes = drain.as_ref().map_or(0, |drain| drain.note.len());
        if self.batch.drains.insert(client, drain).is_none() {
            self.count(bytes);
        }
    }

    fn count(&mut self, bytes: usize) {
        self.rows += 1;
        self.bytes += bytes;
    }
}
