//! The runs that go on: a thread looks how far each is, and does what its state machine says.
//!
//! What is known of a target follows from its task: where it stands with the group, as the broker has it, and, when it is settled, what
//! the log of outcomes says. So a restart goes on where it was.

use std::collections::BTreeMap;
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
use crate::broker::{self, Standing};
use crate::now::Now;
use crate::run::{Going, MOST_GOING, Phase, Run, Tally, Target, TargetState, Turn, Wish};
use crate::store::{self, Reader, StoreError};
use crate::task::TaskId;

/// Between two looks at least. What a person does not notice.
const REST: Duration = Duration::from_millis(50);
/// A look is at most a tenth of the time, so that a long one holds up nobody; but one comes after this time.
const SHARE: u32 = 10;
const LONGEST_REST: Duration = Duration::from_secs(5);
/// How often is looked when nothing was written down: whether clients came, went, or were given their task.
const LOOK: Duration = Duration::from_millis(500);
/// How long to wait with the next try after the store took nothing.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

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

/// The way to them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Runs(Arc<Shared>);

struct Shared {
    store: store::Handle,
    broker: broker::Handle,
    queries: Queries,
    /// `None`: they are to be read first. After a write that failed, only the disk knows what of it is there.
    going: AsyncMutex<Option<BTreeMap<TaskId, Going>>>,
    /// Those that go on, as they were seen last. `None` until they were read for the first time.
    views: Mutex<Option<BTreeMap<TaskId, Arc<View>>>>,
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
        let runs = Runs(Arc::new(Shared {
            store,
            broker,
            queries,
            going: AsyncMutex::default(),
            views: Mutex::default(),
            watchers: Watchers::default(),
            versions: AtomicU64::new(1),
            news: watch::Sender::new(false),
            is_busy: AtomicBool::new(true),
            ended: Default::default(),
        }));
        let to_wake = runs.clone();
        runs.0.store.tail().subscribe(Box::new(move |_| {
            if to_wake.0.is_busy.load(Relaxed) {
                to_wake.wake();
            }
        }));
        let work = runs.clone();
        let thread = std::thread::Builder::new().name("runs".into()).spawn(move || block_on(work.go_on()));
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
        self.views().as_ref().map_or(0, BTreeMap::len)
    }

    /// How many ended, since the start.
    pub(super) fn ended(&self) -> impl Iterator<Item = (Phase, usize)> {
        Phase::ALL
            .into_iter()
            .filter(|phase| phase.has_ended())
            .map(|phase| (phase, self.0.ended[phase as usize].load(Relaxed)))
    }

    fn views(&self) -> std::sync::MutexGuard<'_, Option<BTreeMap<TaskId, Arc<View>>>> {
        self.0.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen_last(&self, number: TaskId) -> Option<Arc<View>> {
        self.views().as_ref()?.get(&number).cloned()
    }

    /// The version of what is to be seen of one that goes on; `None`: it does not.
    pub(super) fn version(&self, number: TaskId) -> Option<u64> {
        self.seen_last(number).map(|view| view.version)
    }

    /// A run.
    pub(super) async fn view(&self, number: TaskId) -> Result<Arc<View>, Refusal> {
        let is_first = self.views().is_none();
        if is_first {
            self.read(&mut *self.0.going.lock().await).await?;
        }
        if let Some(view) = self.seen_last(number) {
            return Ok(view);
        }
        let read = move |reader: &mut dyn Reader| {
            let run = reader.run(number)?;
            run.map(|run| restored(run, u64::MAX, reader)).transpose()
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
        let seen = |run: Run| match views.as_ref().and_then(|views| views.get(&run.number)) {
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
        let mut going = Going::new(run, Now::read());
        self.look(&mut going).await?;
        Ok(Arc::new(self.seen(&going)))
    }

    /// Begins a run whose targets are there: gives the first part its tasks.
    pub(super) async fn begin(&self, run: Run) -> Result<Arc<View>, Refusal> {
        let mut all = self.0.going.lock().await;
        if self.read(&mut all).await?.len() >= MOST_GOING {
            return Err(Refusal::TooManyRuns(MOST_GOING));
        }
        let mut going = Going::new(run, Now::read());
        self.look(&mut going).await?;
        let now = Now::read();
        going.begins(now.wall);
        let written = self.turn(&mut going, now).await;
        self.0.is_busy.store(true, Relaxed);
        self.wake();
        if let Err(why) = written {
            *all = None;
            return Err(why);
        }
        let number = going.run.number;
        info!("run {number} begins: it is for {} groups", going.run.targets.len());
        let view = self.show(&going);
        all.get_or_insert_default().insert(number, going);
        Ok(view)
    }

    /// Does what an operator wants of a run, and says how it is then.
    pub(super) async fn wish(&self, number: TaskId, wish: Wish) -> Result<Arc<View>, Refusal> {
        let mut all = self.0.going.lock().await;
        let Some(going) = self.read(&mut all).await?.get_mut(&number) else {
            drop(all);
            let view = self.view(number).await?;
            return Err(Refusal::RunNotSo { number, phase: view.run.course.phase, wish });
        };
        let mut run = going.run.clone();
        if !run.course.wish(wish, going.tally().get(TargetState::Failed) as usize) {
            return Err(Refusal::RunNotSo { number, phase: run.course.phase, wish });
        }
        match self.0.store.write_run(run, Vec::new()).await {
            Ok(run) => going.run = run,
            Err(why) => {
                *all = None;
                return Err(why.into());
            }
        }
        let view = self.show(going);
        self.wake();
        Ok(view)
    }

    fn show(&self, going: &Going) -> Arc<View> {
        let view = Arc::new(self.seen(going));
        let number = going.run.number;
        let mut views = self.views();
        let views = views.get_or_insert_default();
        match going.run.ended_at {
            None => drop(views.insert(number, view.clone())),
            Some(_) => drop(views.remove(&number)),
        }
        self.0.watchers.wake();
        view
    }

    /// Those that go on; as they are stored, if they were not read since the last write that failed.
    async fn read<'a>(
        &self,
        all: &'a mut Option<BTreeMap<TaskId, Going>>,
    ) -> Result<&'a mut BTreeMap<TaskId, Going>, Refusal> {
        if all.is_none() {
            // Before the database is open again, it is not known what is there.
            self.0.store.accepts()?;
            let upto = self.0.store.tail().positions().result;
            let read = move |reader: &mut dyn Reader| {
                let open = reader.open_runs()?;
                open.into_iter().map(|run| restored(run, upto, reader)).collect::<Result<Vec<_>, _>>()
            };
            let going = self.0.queries.run(read).await?;
            *self.views() = Some(BTreeMap::new());
            for going in &going {
                info!("run {} goes on", going.run.number);
                self.show(going);
            }
            *all = Some(going.into_iter().map(|going| (going.run.number, going)).collect());
        }
        Ok(all.get_or_insert_default())
    }

    /// The work of the thread.
    async fn go_on(&self) {
        let mut news = self.0.news.subscribe();
        loop {
            if *news.borrow_and_update() {
                return;
            }
            let began = Instant::now();
            let (next, looked) = self.round().await;
            let rest = (began.elapsed() * SHARE).max(looked * BROKER_SHARE).clamp(REST, LONGEST_REST);
            self.0.is_busy.store(next.is_some(), Relaxed);
            let mut stop = self.0.news.subscribe();
            let stops = pin!(stop.wait_for(|stops| *stops));
            if let Either::Left(_) = future::select(stops, Delay::new(rest)).await {
                return;
            }
            // What came while it rested is news.
            let changed = pin!(news.changed());
            match next {
                Some(pause) => drop(future::select(changed, Delay::new(pause)).await),
                None => drop(changed.await),
            }
        }
    }

    /// Looks at each, and does what comes next; says when to look again at the latest, and how long the broker was looked at. `None`:
    /// none goes on.
    async fn round(&self) -> (Option<Duration>, Duration) {
        let (mut looked, mut pause, mut has_failed) = (Duration::ZERO, LOOK, false);
        let mut all = self.0.going.lock().await;
        let going = match self.read(&mut all).await {
            Ok(going) => going,
            // Its store says so itself.
            Err(_) => return (Some(AFTER_FAILURE), looked),
        };
        for going in going.values_mut() {
            let number = going.run.number;
            let before = (going.targets.clone(), going.run.course, going.run.targets.len());
            let done = match self.look(going).await {
                Ok(look) => {
                    looked += look;
                    self.turn(going, Now::read()).await
                }
                Err(why) => Err(why),
            };
            match done {
                Ok(due) => pause = pause.min(due),
                // The server is stopping, or its store says so itself.
                Err(Refusal::Store(_) | Refusal::Broker(_)) => has_failed = true,
                Err(why) => warn!("run {number}: {why}"),
            }
            if before != (going.targets.clone(), going.run.course, going.run.targets.len()) {
                self.show(going);
            }
            if going.run.ended_at.is_some() {
                let phase = going.run.course.phase;
                self.0.ended[phase as usize].fetch_add(1, Relaxed);
                info!("run {number} is {}: {}", phase.as_str(), going.tally());
            }
        }
        going.retain(|_, going| going.run.ended_at.is_none());
        if has_failed {
            *all = None;
            return (Some(AFTER_FAILURE), looked);
        }
        ((!going.is_empty()).then_some(pause), looked)
    }

    /// Finds out how far the targets are; says how long the broker was looked at.
    async fn look(&self, going: &mut Going) -> Result<Duration, Refusal> {
        if let Some(select) = going.looks_for_new(Now::read().steady) {
            let selector = select.parse().map_err(Refusal::Selector)?;
            going.add(self.0.broker.matching(selector).await?);
        }
        let asked = going.asked();
        let questions = asked.iter().map(|asked| (asked.task.clone(), asked.names.clone())).collect();
        let (standings, looked) = self.0.broker.standings(questions).await?;
        let now = Now::read();
        let mut settled = Vec::new();
        for (asked, standings) in asked.iter().zip(standings) {
            let states: Vec<_> = standings.into_iter().map(Standing::target).collect();
            if going.learns(asked, &states, now) {
                settled.extend(asked.task.as_ref().map(|task| task.id));
            }
        }
        if settled.is_empty() {
            return Ok(looked);
        }
        // What comes while it is read is left for the next look: else one could be shown before one that came earlier.
        let upto = self.0.store.tail().positions().result;
        let mut copy = going.clone();
        let read = move |reader: &mut dyn Reader| {
            settled.into_iter().try_for_each(|task| read_outcomes(&mut copy, task, upto, reader))?;
            Ok(copy)
        };
        *going = self.0.queries.run(read).await?;
        Ok(looked)
    }

    /// Does what comes next; says when to look again.
    async fn turn(&self, going: &mut Going, now: Now) -> Result<Duration, Refusal> {
        match going.turn(now) {
            Turn::Write(mut next, tasks) => {
                next.written(self.0.store.write_run(next.run.clone(), tasks).await?);
                *going = *next;
            }
            Turn::TakeBack(tasks) => {
                for (task, names) in tasks {
                    self.0.broker.take_back(task, names).await?;
                }
                going.taken_back();
            }
            Turn::Cancel(tasks) => {
                for task in tasks {
                    self.0.broker.cancel(task).await?;
                }
                going.cancelled();
            }
            Turn::Wait(until) => return Ok(until.since(now.wall).max(REST)),
        }
        Ok(REST)
    }
}

/// A run as it is stored, with what the log has of its targets up to a position.
fn restored(run: Run, upto: u64, reader: &mut dyn Reader) -> Result<Going, StoreError> {
    let ids: Vec<TaskId> = run.tasks.iter().map(|(id, _)| *id).collect();
    let mut going = Going::restored(run, reader.tasks_by_id(&ids)?, Now::read());
    ids.into_iter().try_for_each(|task| read_outcomes(&mut going, task, upto, reader))?;
    Ok(going)
}

/// What came of a task, as far as it is on disk, up to a position.
fn read_outcomes(going: &mut Going, task: TaskId, upto: u64, reader: &mut dyn Reader) -> Result<(), StoreError> {
    let outcomes = reader.outcomes_of(task)?;
    let settled = settlements(&outcomes);
    let decided = |name: &_| settled.get(name).map(|entry| (entry.seq, entry.result.outcome));
    going.came_of(task, |name| decided(name).filter(|(seq, _)| *seq <= upto));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::thread;

    use super::super::failing::FailsAfterWriting;
    use super::super::query::Pool;
    use super::*;
    use crate::broker::{Broker, Join, OutcomeReport, Receipt, Reporter};
    use crate::run::{Course, Rollout, Share, What};
    use crate::store::Store;
    use crate::task::{GroupName, Name, NameOf, Outcome, Time};

    fn name(name: &str) -> GroupName {
        Name::new(NameOf::Group, name).unwrap()
    }

    /// A run for two, one after the other.
    fn run() -> Run {
        Run {
            number: 0,
            what: What { text: "x".into(), ..What::default() },
            rollout: Rollout { batch: Some(Share::Count(1)), ..Rollout::default() },
            began_at: Time::now(),
            deadline: Time::now().after(Duration::from_secs(600)),
            by: None,
            course: Course::default(),
            tasks: Vec::new(),
            ended_at: None,
            tally: Tally::default(),
            targets: vec![name("a"), name("b")],
            ended: Vec::new(),
        }
    }

    #[track_caller]
    fn until(runs: &Runs, like: impl Fn(&View) -> bool) -> Run {
        let began = Instant::now();
        loop {
            if let Ok(view) = block_on(runs.view(1))
                && like(&view)
            {
                return view.run.clone();
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", block_on(runs.view(1)));
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_write_that_failed_and_is_on_disk_all_the_same_gives_no_part_twice() {
        let disk = FailsAfterWriting::default();
        let (store, recovered) = Store::with_backend(Box::new(disk.clone())).unwrap();
        let broker = Broker::start(broker::Config::default(), store.handle(), recovered).unwrap();
        let pool = Pool::start(&store.handle()).unwrap();
        let (thread, runs) = RunsThread::start(store.handle(), broker.handle(), pool.queries()).unwrap();
        let join = |id| Join { client: Some(name(id)), peer: id.into(), ..Join::default() };
        let _clients = ["a", "b"].map(|id| block_on(broker.handle().join(join(id))).unwrap());
        let done = |task, id: &str| {
            let reporter = Reporter { client: Some(name(id)), group: None, peer: id.into() };
            let reporting = block_on(broker.handle().reporting(reporter)).unwrap();
            let (outcome, ret, delay, receipt) = (Outcome::Done, String::new(), Duration::ZERO, Receipt::Missing);
            let report = OutcomeReport {
                task,
                attempt: 1,
                outcome,
                ret,
                attachment: Default::default(),
                progress: None,
                delay,
                receipt,
                printed: None,
            };
            block_on(reporting.report(vec![report])).unwrap();
            // It may be written with what fails, and is then kept until the store is open again.
            while block_on(reporting.flushed()).is_err() {
                thread::sleep(Duration::from_millis(5));
            }
        };
        disk.fails.store(true, Relaxed);
        assert!(block_on(runs.begin(run())).is_err());
        // It has begun all the same, and goes on.
        let is_at_work = |view: &View, at: usize| view.targets[at].state == TargetState::Begun;
        until(&runs, |view| view.run.tasks == [(1, 1)] && is_at_work(view, 0));
        disk.fails.store(true, Relaxed);
        done(1, "a");
        until(&runs, |view| view.run.tasks == [(1, 1), (2, 1)] && is_at_work(view, 1));
        disk.fails.store(true, Relaxed);
        done(2, "b");
        let ended = until(&runs, |view| view.run.ended_at.is_some());
        assert_eq!(
            (ended.course.phase, ended.tasks.len(), ended.tally.get(TargetState::Done)),
            (Phase::Completed, 2, 2)
        );
        assert_eq!(store.handle().reader().unwrap().tasks(0, 10).unwrap().len(), 2);
        thread.stop();
    }
}
