//! The runs that go on: a thread looks how far each is, and does what its state machine says.
//!
//! What is known of a target follows from its task: where it stands with the group, as the broker has it, and, when it is settled, what
//! the log of outcomes says. So a restart goes on where it was.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::future::{self, Either};
use futures::lock::Mutex as AsyncMutex;
use futures_timer::Delay;
use log::{info, warn};
use tokio::sync::watch;

use super::operator::{BROKER_SHARE, settlements};
use super::query::Queries;
use super::refusal::Refusal;
use super::watchers::Watchers;
use crate::attachment::Attachment;
use crate::broker::{self, Standing};
use crate::run::{Course, MOST_GOING, Phase, Run, Step, Tally, TargetState, Wish, bring_forward};
use crate::store::{self, Reader, StoreError};
use crate::task::{Audience, GroupName, NewTask, Outcome, Task, TaskId, Time};

/// Between two looks at least. What a person does not notice.
const REST: Duration = Duration::from_millis(50);
/// A look is at most a tenth of the time, so that a long one holds up nobody; but one comes after this time.
const SHARE: u32 = 10;
const LONGEST_REST: Duration = Duration::from_secs(5);
/// How often is looked when nothing was written down: whether clients came, went, or were given their task.
const LOOK: Duration = Duration::from_millis(500);
/// How often is looked whether groups came that match.
const LOOK_FOR_NEW: Duration = Duration::from_secs(2);
/// Until one whose connection has ended counts as away. A server that starts again has its clients back by then, and a rollout does not
/// take all of them for away.
const COMES_BACK: Duration = Duration::from_secs(10);
/// How long to wait with the next try after the store took nothing.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A target, with the position of the result that decided; 0: none has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) state: TargetState,
    pub(super) seq: u64,
    /// Since when no client of it is connected, if one was before.
    left: Option<Instant>,
}

impl Target {
    const QUEUED: Target = Target { state: TargetState::Queued, seq: 0, left: None };

    /// It is so by now.
    fn is_now(&mut self, state: TargetState) {
        let leaves = state == TargetState::Offline && self.state != TargetState::Offline;
        match state {
            TargetState::Offline if leaves => self.left = Some(Instant::now()),
            TargetState::Offline => {}
            _ => self.left = None,
        }
        self.state = state;
    }

    /// What counts for the next step: one that has just gone is about to come back, as a rule, and is waited for.
    fn counts_as(&self) -> TargetState {
        match self.left {
            Some(left) if self.state == TargetState::Offline && left.elapsed() < COMES_BACK => TargetState::Queued,
            _ => self.state,
        }
    }
}

/// A run as somebody sees it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) run: Run,
    /// In the order of the run's targets. Empty in lists.
    pub(super) targets: Vec<Target>,
    pub(super) tally: Tally,
    /// Another one is newer.
    pub(super) version: u64,
}

/// A run that goes on.
#[derive(Debug, Clone)]
struct Going {
    run: Run,
    /// Its tasks, without their texts.
    tasks: Vec<Task>,
    targets: Vec<Target>,
    /// What has not begun was taken back already.
    taken_back: bool,
    looked_for_new: Instant,
}

/// The way to them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Runs(Arc<Shared>);

struct Shared {
    store: store::Handle,
    broker: broker::Handle,
    queries: Queries,
    going: AsyncMutex<BTreeMap<TaskId, Going>>,
    views: Mutex<BTreeMap<TaskId, Arc<View>>>,
    /// Those who watch one. They are woken when something is new of any.
    watchers: Watchers,
    versions: AtomicU64,
    /// Wakes the thread. True: it ends.
    news: watch::Sender<bool>,
    /// Whether there is something to look at.
    is_busy: AtomicBool,
    /// How many ended, by [`Phase`].
    ended: [AtomicUsize; Phase::ALL.len()],
}

/// The thread. Owns it until [`RunsThread::stop`].
pub(super) struct RunsThread {
    runs: Runs,
    thread: JoinHandle<()>,
}

impl RunsThread {
    /// Goes on with those that have not ended.
    pub(super) fn start(
        store: store::Handle,
        broker: broker::Handle,
        queries: Queries,
    ) -> Result<(RunsThread, Runs), StoreError> {
        let open = store.reader()?.open_runs()?;
        let runs = Runs(Arc::new(Shared {
            store,
            broker,
            queries,
            going: AsyncMutex::default(),
            views: Mutex::default(),
            watchers: Watchers::default(),
            versions: AtomicU64::new(1),
            news: watch::Sender::new(false),
            is_busy: AtomicBool::new(false),
            ended: Default::default(),
        }));
        let to_wake = runs.clone();
        runs.0.store.tail().subscribe(Box::new(move |_| {
            if to_wake.0.is_busy.load(Relaxed) {
                to_wake.wake();
            }
        }));
        let work = runs.clone();
        let thread = std::thread::Builder::new().name("runs".into()).spawn(move || block_on(work.go_on_with(open)));
        let thread = thread.map_err(StoreError::no_thread)?;
        Ok((RunsThread { runs: runs.clone(), thread }, runs))
    }

    pub(super) fn stop(self) {
        self.runs.0.news.send_replace(true);
        self.runs.0.watchers.stop();
        if self.thread.join().is_err() {
            warn!("the thread of the runs panicked");
        }
    }
}

impl Runs {
    fn wake(&self) {
        self.0.news.send_modify(|_| {});
    }

    pub(super) fn watchers(&self) -> &Watchers {
        &self.0.watchers
    }

    /// How many go on.
    pub(super) fn going(&self) -> usize {
        self.views().len()
    }

    /// How many ended, since the start.
    pub(super) fn ended(&self) -> impl Iterator<Item = (Phase, usize)> {
        Phase::ALL
            .into_iter()
            .filter(|phase| phase.has_ended())
            .map(|phase| (phase, self.0.ended[phase as usize].load(Relaxed)))
    }

    fn views(&self) -> std::sync::MutexGuard<'_, BTreeMap<TaskId, Arc<View>>> {
        self.0.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of what is to be seen of one that goes on; `None`: it does not.
    pub(super) fn version(&self, number: TaskId) -> Option<u64> {
        self.views().get(&number).map(|view| view.version)
    }

    /// A run.
    pub(super) async fn view(&self, number: TaskId) -> Result<Arc<View>, Refusal> {
        if let Some(view) = self.views().get(&number) {
            return Ok(view.clone());
        }
        let read = move |reader: &mut dyn Reader| {
            let Some(run) = reader.run(number)? else { return Ok(None) };
            let mut going = Going::of(run, reader)?;
            let ended = std::mem::take(&mut going.run.ended);
            for (target, state) in going.targets.iter_mut().zip(&ended) {
                target.state = *state;
            }
            for at in 0..going.tasks.len() {
                let outcomes = reader.outcomes_of(going.tasks[at].id)?;
                let settled = settlements(&outcomes);
                let (names, targets) = going.piece(at);
                for (name, target) in names.iter().zip(targets) {
                    target.seq = settled.get(name).filter(|_| target.state.is_final()).map_or(0, |entry| entry.seq);
                }
            }
            going.run.ended = ended;
            Ok(Some(going))
        };
        let going = self.0.queries.run(read).await?.ok_or(Refusal::NoSuchRun(number))?;
        Ok(Arc::new(self.seen(&going)))
    }

    /// Runs before `before`, newest first, without their targets; and whether there are more.
    pub(super) async fn list(&self, before: TaskId, limit: usize) -> Result<(Vec<View>, bool), Refusal> {
        let mut runs = self.0.queries.run(move |reader| reader.latest_runs(before, limit + 1)).await?;
        let more = runs.len() > limit;
        runs.truncate(limit);
        let views = self.views();
        let seen = |run: Run| match views.get(&run.number) {
            Some(view) => View {
                run: Run { targets: Vec::new(), ..view.run.clone() },
                targets: Vec::new(),
                tally: view.tally,
                version: view.version,
            },
            None => View { tally: run.tally, run, targets: Vec::new(), version: 0 },
        };
        Ok((runs.into_iter().map(seen).collect(), more))
    }

    fn seen(&self, going: &Going) -> View {
        View {
            run: going.run.clone(),
            targets: going.targets.clone(),
            tally: going.tally(),
            version: self.0.versions.fetch_add(1, Relaxed),
        }
    }

    /// How a run would be.
    pub(super) async fn would_be(&self, run: Run) -> Result<Arc<View>, Refusal> {
        let mut going = Going::new(run);
        self.look(&mut going).await?;
        Ok(Arc::new(self.seen(&going)))
    }

    /// Begins a run whose targets are there: gives the first part its tasks.
    pub(super) async fn begin(&self, run: Run) -> Result<Arc<View>, Refusal> {
        let mut all = self.0.going.lock().await;
        if all.len() >= MOST_GOING {
            return Err(Refusal::TooManyRuns(MOST_GOING));
        }
        let mut going = Going::new(run);
        self.look(&mut going).await?;
        // Who is away now did not go just now.
        going.targets.iter_mut().for_each(|target| target.left = None);
        self.turn(&mut going).await?;
        let number = going.run.number;
        info!("run {number} begins: it is for {} groups", going.run.targets.len());
        let view = self.show(&going);
        all.insert(number, going);
        self.0.is_busy.store(true, Relaxed);
        self.wake();
        Ok(view)
    }

    /// Does what an operator wants of a run, and says how it is then.
    pub(super) async fn wish(&self, number: TaskId, wish: Wish) -> Result<Arc<View>, Refusal> {
        let mut all = self.0.going.lock().await;
        let Some(going) = all.get_mut(&number) else {
            drop(all);
            let view = self.view(number).await?;
            return Err(Refusal::RunNotSo { number, phase: view.run.course.phase, wish });
        };
        let before = going.run.course;
        if !going.run.course.wish(wish, going.tally().get(TargetState::Failed) as usize) {
            return Err(Refusal::RunNotSo { number, phase: before.phase, wish });
        }
        if let Err(why) = self.keep(going, Vec::new()).await {
            going.run.course = before;
            return Err(why.into());
        }
        let view = self.show(going);
        self.wake();
        Ok(view)
    }

    fn show(&self, going: &Going) -> Arc<View> {
        let view = Arc::new(self.seen(going));
        match going.run.ended_at {
            None => drop(self.views().insert(going.run.number, view.clone())),
            Some(_) => drop(self.views().remove(&going.run.number)),
        }
        self.0.watchers.wake();
        view
    }

    /// The work of the thread.
    async fn go_on_with(&self, open: Vec<Run>) {
        let mut news = self.0.news.subscribe();
        let mut unread = open;
        loop {
            if *news.borrow_and_update() {
                return;
            }
            let began = Instant::now();
            if let Err(why) = self.take_up(&mut unread).await {
                warn!("runs that go on cannot be read: {why}");
            }
            let (next, looked) = self.round().await;
            let rest = (began.elapsed() * SHARE).max(looked * BROKER_SHARE).clamp(REST, LONGEST_REST);
            let is_busy = next.is_some() || !unread.is_empty();
            self.0.is_busy.store(is_busy, Relaxed);
            let mut stop = self.0.news.subscribe();
            let stops = pin!(stop.wait_for(|stops| *stops));
            if let Either::Left(_) = future::select(stops, Delay::new(rest)).await {
                return;
            }
            // What came while it rested is news.
            let pause = next.unwrap_or(AFTER_FAILURE);
            let changed = pin!(news.changed());
            match is_busy {
                true => drop(future::select(changed, Delay::new(pause)).await),
                false => drop(changed.await),
            }
        }
    }

    /// Takes up those that went on when the server was stopped.
    async fn take_up(&self, unread: &mut Vec<Run>) -> Result<(), StoreError> {
        while let Some(run) = unread.pop() {
            let number = run.number;
            let again = run.clone();
            match self.0.queries.run(move |reader| Going::of(run, reader)).await {
                Ok(going) => {
                    info!("run {number} goes on");
                    self.show(&going);
                    self.0.going.lock().await.insert(number, going);
                }
                Err(why) => {
                    unread.push(again);
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// Looks at each, and does what comes next; says when to look again at the latest, and how long the broker was looked at. `None`:
    /// none goes on.
    async fn round(&self) -> (Option<Duration>, Duration) {
        let mut looked = Duration::ZERO;
        let mut all = self.0.going.lock().await;
        let mut pause = LOOK;
        let numbers: Vec<_> = all.keys().copied().collect();
        for number in numbers {
            let Some(going) = all.get_mut(&number) else { continue };
            let before = (going.targets.clone(), going.run.course, going.run.targets.len());
            let done = match self.look(going).await {
                Ok(look) => {
                    looked += look;
                    self.turn(going).await
                }
                Err(why) => Err(why),
            };
            match done {
                Ok(due) => pause = pause.min(due),
                // The server is stopping, or its store says so itself.
                Err(Refusal::Store(_) | Refusal::Broker(_)) => pause = pause.max(AFTER_FAILURE),
                Err(why) => warn!("run {number}: {why}"),
            }
            if before != (going.targets.clone(), going.run.course, going.run.targets.len()) {
                self.show(going);
            }
            if going.run.ended_at.is_some() {
                let phase = going.run.course.phase;
                self.0.ended[phase as usize].fetch_add(1, Relaxed);
                info!("run {number} is {}: {}", phase.as_str(), in_words(&going.tally()));
                all.remove(&number);
            }
        }
        ((!all.is_empty()).then_some(pause), looked)
    }

    /// Finds out how far the targets are; says how long the broker was looked at.
    async fn look(&self, going: &mut Going) -> Result<Duration, Refusal> {
        self.look_for_new(going).await?;
        // Which of the targets are asked about, for each task, and without one.
        let mut places: Vec<Vec<usize>> = Vec::new();
        let mut asked = Vec::new();
        let mut first = 0;
        let pieces = going.run.tasks.iter().map(|(_, count)| *count);
        let unsent = going.targets.len() - pieces.clone().sum::<usize>().min(going.targets.len());
        for (at, count) in pieces.chain([unsent]).enumerate() {
            let open: Vec<usize> = (first..first + count).filter(|at| !going.targets[*at].state.is_final()).collect();
            first += count;
            if open.is_empty() {
                continue;
            }
            let names: Vec<GroupName> = open.iter().map(|at| going.run.targets[*at].clone()).collect();
            asked.push((going.tasks.get(at).cloned(), names));
            places.push(open);
        }
        let tasks: Vec<Option<TaskId>> = asked.iter().map(|(task, _)| task.as_ref().map(|task| task.id)).collect();
        let (standings, looked) = self.0.broker.standings(asked).await?;
        let mut settled: Vec<(TaskId, Vec<usize>)> = Vec::new();
        for ((task, places), standings) in tasks.into_iter().zip(places).zip(standings) {
            let mut of_task = Vec::new();
            for (place, standing) in places.into_iter().zip(standings) {
                let state = match standing {
                    Standing::Away => TargetState::Offline,
                    Standing::Waits => TargetState::Queued,
                    Standing::Sent => TargetState::Sent,
                    Standing::Begun => TargetState::Begun,
                    Standing::Settled => {
                        of_task.push(place);
                        continue;
                    }
                };
                going.targets[place].is_now(state);
            }
            if let Some(task) = task.filter(|_| !of_task.is_empty()) {
                settled.push((task, of_task));
            }
        }
        if !settled.is_empty() {
            self.read_outcomes(going, settled).await?;
        }
        Ok(looked)
    }

    /// What came of the targets that are settled, as far as that is on disk.
    async fn read_outcomes(&self, going: &mut Going, settled: Vec<(TaskId, Vec<usize>)>) -> Result<(), StoreError> {
        // What comes while it is read is left for the next look: else one could be shown before one that came earlier.
        let upto = self.0.store.tail().positions().result;
        let names: Vec<(TaskId, HashMap<GroupName, usize>)> = settled
            .into_iter()
            .map(|(task, places)| (task, places.into_iter().map(|at| (going.run.targets[at].clone(), at)).collect()))
            .collect();
        let read = move |reader: &mut dyn Reader| {
            let mut found = Vec::new();
            for (task, names) in names {
                let outcomes = reader.outcomes_of(task)?;
                for (name, entry) in settlements(&outcomes) {
                    if let Some(place) = names.get(name).filter(|_| entry.seq <= upto) {
                        found.push((*place, entry.seq, entry.result.outcome));
                    }
                }
            }
            Ok(found)
        };
        for (place, seq, outcome) in self.0.queries.run(read).await? {
            let state = match outcome {
                Outcome::Done => TargetState::Done,
                Outcome::Failed | Outcome::Exhausted | Outcome::Dropped => TargetState::Failed,
                Outcome::Expired => TargetState::Expired,
                Outcome::Cancelled => TargetState::Cancelled,
                _ => continue,
            };
            going.targets[place] = Target { state, seq, left: None };
        }
        Ok(())
    }

    /// Adds the groups that match by now, if they are to get it, too.
    async fn look_for_new(&self, going: &mut Going) -> Result<(), Refusal> {
        let what = &going.run.what;
        if !what.include_new || going.run.course.phase.has_ended() || going.looked_for_new.elapsed() < LOOK_FOR_NEW {
            return Ok(());
        }
        going.looked_for_new = Instant::now();
        let selector = what.select.parse().map_err(Refusal::Selector)?;
        let matching = self.0.broker.matching(selector).await?;
        let known: std::collections::HashSet<_> = going.run.targets.iter().cloned().collect();
        let room = crate::run::MOST_TARGETS.saturating_sub(going.run.targets.len());
        for name in matching.into_iter().filter(|name| !known.contains(name)).take(room) {
            going.run.targets.push(name);
            going.targets.push(Target::QUEUED);
        }
        Ok(())
    }

    /// Does what comes next; says when to look again.
    async fn turn(&self, going: &mut Going) -> Result<Duration, Refusal> {
        let now = Time::now();
        let before = going.run.course;
        let states: Vec<TargetState> = going.targets.iter().map(Target::counts_as).collect();
        let run = &mut going.run;
        match run.course.step(&run.rollout, &states, run.deadline, run.what.include_new, now) {
            Step::Send(places) => {
                let kept = going.clone();
                bring_forward(&mut going.run.targets, before.out, &places);
                bring_forward(&mut going.targets, before.out, &places);
                let tasks = going.next_tasks(before.out);
                if let Err(why) = self.keep(going, tasks).await {
                    *going = Going { run: Run { course: before, ..kept.run }, ..kept };
                    return Err(why.into());
                }
                Ok(REST)
            }
            Step::Wait(until) => {
                if going.run.course != before {
                    self.keep_or_undo(going, before).await?;
                }
                if matches!(going.run.course.phase, Phase::Aborting | Phase::Cancelling) {
                    self.take_back(going).await?;
                    return Ok(REST);
                }
                Ok(until.since(now).max(REST))
            }
            Step::End(phase) => {
                let left = if phase == Phase::Expired { TargetState::Expired } else { TargetState::Cancelled };
                for target in going.targets.iter_mut().filter(|target| !target.state.is_final()) {
                    target.state = left;
                }
                going.run.ended_at = Some(now);
                going.run.ended = going.targets.iter().map(|target| target.state).collect();
                going.run.tally = going.tally();
                if let Err(why) = self.keep(going, Vec::new()).await {
                    going.run.ended_at = None;
                    going.run.course = before;
                    return Err(why.into());
                }
                Ok(REST)
            }
        }
    }

    async fn keep_or_undo(&self, going: &mut Going, before: Course) -> Result<(), StoreError> {
        let kept = self.keep(going, Vec::new()).await;
        if kept.is_err() {
            going.run.course = before;
        }
        kept
    }

    /// Writes a run down, with tasks for its next targets.
    async fn keep(&self, going: &mut Going, tasks: Vec<(NewTask, usize)>) -> Result<(), StoreError> {
        let nothing = Attachment::default;
        let without_text = |task: &NewTask| NewTask { text: String::new(), attachment: nothing(), ..task.clone() };
        let specs: Vec<NewTask> = tasks.iter().map(|(task, _)| without_text(task)).collect();
        let had = going.run.tasks.len();
        going.run = self.0.store.write_run(going.run.clone(), tasks).await?;
        let added = going.run.tasks[had..].iter().zip(specs);
        going.tasks.extend(added.map(|((id, _), spec)| Task { id: *id, accepted_at: Time::now(), spec }));
        Ok(())
    }

    /// Takes back what has not begun; of a run that is cancelled, everything.
    async fn take_back(&self, going: &mut Going) -> Result<(), Refusal> {
        let all = going.run.course.phase == Phase::Cancelling;
        for at in 0..going.tasks.len() {
            let task = going.tasks[at].clone();
            let (names, targets) = going.piece(at);
            let open = names.iter().zip(&*targets).filter(|(_, target)| !target.state.is_final());
            let names: Vec<GroupName> = open.map(|(name, _)| name.clone()).collect();
            if names.is_empty() {
                continue;
            }
            if all {
                self.0.broker.cancel(task).await?;
            } else {
                self.0.broker.take_back(task, names).await?;
            }
        }
        // What the broker has taken back is settled by now. Else there is no such group any more.
        if std::mem::replace(&mut going.taken_back, true) {
            let out = going.run.course.out;
            for target in going.targets[..out].iter_mut().filter(|target| target.state == TargetState::Offline) {
                target.state = TargetState::Cancelled;
            }
        }
        Ok(())
    }
}

impl Going {
    /// Without its tasks.
    fn new(run: Run) -> Going {
        let targets = vec![Target::QUEUED; run.targets.len()];
        Going { run, tasks: Vec::new(), targets, taken_back: false, looked_for_new: Instant::now() }
    }

    /// As it is stored.
    fn of(run: Run, reader: &mut dyn Reader) -> Result<Going, StoreError> {
        let ids: Vec<TaskId> = run.tasks.iter().map(|(id, _)| *id).collect();
        let mut kept: HashMap<TaskId, Task> =
            reader.tasks_by_id(&ids)?.into_iter().map(|task| (task.id, task.without_text())).collect();
        // One that was removed was settled.
        let gone = |id| Task { id, accepted_at: run.began_at, spec: NewTask::default() };
        let tasks = ids.iter().map(|id| kept.remove(id).unwrap_or_else(|| gone(*id))).collect();
        Ok(Going { tasks, ..Going::new(run) })
    }

    fn tally(&self) -> Tally {
        Tally::of(self.targets.iter().map(|target| target.state))
    }

    /// The targets of one of its tasks.
    fn piece(&mut self, at: usize) -> (&[GroupName], &mut [Target]) {
        let counts = self.run.tasks.iter().map(|(_, count)| *count);
        let first: usize = counts.take(at).sum();
        let places = first..first + self.run.tasks[at].1;
        (&self.run.targets[places.clone()], &mut self.targets[places])
    }

    /// Tasks for the targets that are out, from `first` on.
    fn next_tasks(&self, first: usize) -> Vec<(NewTask, usize)> {
        let Run { what, by, deadline, course, .. } = &self.run;
        // It was looked at when the run began.
        let policy: crate::retry::RetryPolicy = what.retry.parse().unwrap_or_default();
        let limit = std::num::NonZeroU32::new(what.timeout_ms);
        let like = NewTask {
            text: what.text.clone(),
            attachment: what.attachment.clone(),
            expires_at: Some(*deadline),
            max_attempts: what.max_attempts.or(policy.max_attempts),
            retry: policy.backoff,
            priority: what.priority,
            by: by.clone().map(Arc::new),
            time_limit: limit.map(|millis| crate::task::TimeLimit { millis, fails: what.timeout_fails }),
            ..NewTask::default()
        };
        let pieces = self.run.targets[first..course.out].chunks(Audience::MOST_GROUPS);
        let task = |names: &[GroupName]| match names {
            [one] => NewTask { to: Some(one.clone()), ..like.clone() },
            several => NewTask { audience: Some(Arc::new(Audience::groups(several.to_vec()))), ..like.clone() },
        };
        pieces.map(|names| (task(names), names.len())).collect()
    }
}

/// `3 done, 1 failed`.
pub(super) fn in_words(tally: &Tally) -> String {
    let counts = TargetState::ALL.into_iter().rev().filter(|state| tally.get(*state) > 0);
    let words: Vec<_> = counts.map(|state| format!("{} {}", tally.get(state), state.as_str())).collect();
    words.join(", ")
}
