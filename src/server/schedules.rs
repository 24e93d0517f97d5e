//! The schedules: a thread that makes the tasks that are due.
//!
//! A task and the word that its moment has one are written in one transaction, so a restart goes on where it was.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::future;
use futures::lock::Mutex as AsyncMutex;
use futures_timer::Delay;
use log::{debug, info, warn};
use tokio::sync::watch;

use super::operator::task_of_schedule;
use super::query::Queries;
use super::refusal::Refusal;
use crate::nearest::nearest;
use crate::now::{Now, Steady};
use crate::schedule::{BELIEVED, Change, Last, MOST, MOST_BYTES, Moments, Schedule, Scheduled, Turn, key};
use crate::store::{self, StoreError};
use crate::task::{Made, Name, NewTask, TaskId, Time};

/// How often is looked what the clock shows, so that a step of it is seen.
const LOOK: Duration = Duration::from_secs(1);
/// How often the moments are worked out anew: the rules of a zone may have changed in the tz database.
const RULES: Duration = Duration::from_secs(5 * 60);
/// How long to wait with the next try after the store took nothing.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Most tasks in one transaction, and about the most bytes of them.
const TASKS: usize = 1_000;
const BYTES: usize = 4 << 20;

/// A schedule as somebody sees it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) name: Name,
    pub(super) schedule: Schedule,
    /// Its next moments, as many as were asked for.
    pub(super) next: Vec<Time>,
    /// Why it makes no tasks.
    pub(super) trouble: Option<String>,
}

/// The way to them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Schedules(Arc<Shared>);

struct Shared {
    store: store::Handle,
    queries: Queries,
    /// The longest text of a task, in bytes.
    limit: usize,
    /// `None`: they are to be read first. After a write that failed, only the disk knows what of it is there.
    all: AsyncMutex<Option<BTreeMap<Name, Going>>>,
    /// Wakes the thread. True: it ends.
    news: watch::Sender<bool>,
    /// How many there are.
    count: AtomicUsize,
    /// How many tasks they made since the start, and how many moments they passed over.
    made: AtomicU64,
    passed: AtomicU64,
    /// Those that make no tasks though they are not paused, as the thread saw it last.
    in_trouble: Mutex<Vec<Name>>,
}

/// The thread. Owns it until [`SchedulesThread::stop`].
pub(super) struct SchedulesThread {
    schedules: Schedules,
    thread: JoinHandle<()>,
}

impl SchedulesThread {
    /// Goes on with those that are stored.
    pub(super) fn start(
        store: store::Handle,
        queries: Queries,
        limit: usize,
    ) -> Result<(SchedulesThread, Schedules), StoreError> {
        let schedules = Schedules(Arc::new(Shared {
            store,
            queries,
            limit,
            all: AsyncMutex::default(),
            news: watch::Sender::new(false),
            count: AtomicUsize::default(),
            made: AtomicU64::default(),
            passed: AtomicU64::default(),
            in_trouble: Mutex::default(),
        }));
        let work = schedules.clone();
        let thread = std::thread::Builder::new().name("schedules".into()).spawn(move || block_on(work.go_on()));
        let thread = thread.map_err(StoreError::no_thread)?;
        Ok((SchedulesThread { schedules: schedules.clone(), thread }, schedules))
    }

    pub(super) fn stop(self) {
        self.schedules.0.news.send_replace(true);
        if self.thread.join().is_err() {
            warn!("the thread of the schedules panicked");
        }
    }
}

/// One of them, with what follows from it.
struct Going {
    schedule: Schedule,
    moments: Result<Moments, String>,
    /// When it is to be looked at. `None`: not before it changes.
    next: Option<Time>,
    /// Why its task cannot be made.
    task_trouble: Option<String>,
    /// Since when the clock shows a time long before what it is through with.
    ahead_since: Option<Steady>,
}

impl Going {
    fn of(schedule: Schedule) -> Going {
        let moments = Moments::of(&schedule.when).map_err(|why| why.to_string());
        let mut going = Going { schedule, moments, next: None, task_trouble: None, ahead_since: None };
        going.looks_again();
        going
    }

    /// Its moments are those of the tz database as it is now.
    fn renew(&mut self, now: Time) {
        if self.next.is_some_and(|next| next <= now) {
            // By the rules of before, there is something to be made first.
            return;
        }
        if self.moments.is_ok() {
            self.schedule.looked(now);
        }
        *self = Going { ahead_since: self.ahead_since, ..Going::of(self.schedule.clone()) };
    }

    /// It is looked at as soon as may be: what is due is found out then.
    fn looks_again(&mut self) {
        self.next = (!self.schedule.paused && self.moments.is_ok()).then_some(Time(i64::MIN));
    }

    /// What is due, if it is time to look.
    fn turn(&mut self, now: Now) -> Option<Turn> {
        let moments = self.moments.as_ref().ok()?;
        let is_ahead = self.schedule.is_ahead(now.wall);
        self.next.filter(|next| *next <= now.wall || is_ahead)?;
        let turn = if is_ahead {
            let since = *self.ahead_since.get_or_insert(now.steady);
            self.next = Some(now.wall.after(LOOK));
            (now.steady.since(since) >= BELIEVED).then(|| self.schedule.anew(moments, now.wall))?
        } else {
            self.schedule.turn(moments, now.wall)
        };
        (self.ahead_since, self.next) = (None, turn.next);
        (turn.through != self.schedule.through).then_some(turn)
    }

    fn view(&self, name: &Name, moments: usize, now: Time) -> View {
        let first = self.schedule.through.max(now);
        let next = match &self.moments {
            Ok(of) if !self.schedule.paused => {
                std::iter::successors(of.after(first), |last| of.after(*last)).take(moments).collect()
            }
            _ => Vec::new(),
        };
        View { name: name.clone(), schedule: self.schedule.clone(), next, trouble: self.trouble(now) }
    }

    /// Why it makes no tasks, or would make none if it were not paused.
    fn trouble(&self, now: Time) -> Option<String> {
        let ahead = self.schedule.is_ahead(now).then(|| {
            let through = self.schedule.through;
            format!("it came as far as {through}, and the clock shows {now}: if it still does in an hour, it was wrong before, and this goes on from it")
        });
        self.moments.as_ref().err().cloned().or(ahead).or_else(|| self.task_trouble.clone())
    }
}

impl Schedules {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.count.load(Relaxed)
    }

    /// How many tasks they made since the start, and how many moments were passed over.
    pub(super) fn made(&self) -> (u64, u64) {
        (self.0.made.load(Relaxed), self.0.passed.load(Relaxed))
    }

    /// Those that make no tasks though they are not paused.
    pub(super) fn in_trouble(&self) -> Vec<Name> {
        self.0.in_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets a schedule, a new one; says how it is then, and what changed.
    pub(super) async fn set(&self, name: Name, wanted: Schedule) -> Result<(View, Change), Refusal> {
        let mut all = self.0.all.lock().await;
        let going = self.read(&mut all).await?;
        let now = wanted.set_at;
        let (schedule, change) = match going.get(&name) {
            Some(known) => known.schedule.set(wanted),
            None if going.len() >= MOST => return Err(Refusal::TooManySchedules),
            None => (wanted, Change { is_new: true, ..Change::default() }),
        };
        let others = going.iter().filter(|(other, _)| **other != name).map(|(_, going)| going.schedule.what.bytes());
        let size = others.sum::<usize>() + schedule.what.bytes();
        if size > MOST_BYTES {
            return Err(Refusal::SchedulesTooLarge { size });
        }
        if !change.is_nothing() {
            self.write(&mut all, vec![Scheduled { name: name.clone(), schedule: Some(schedule), tasks: vec![] }])
                .await?;
        }
        let view = self.known(&mut all, &name).await?.view(&name, 1, now);
        Ok((view, change))
    }

    /// Has one make no tasks, or make them again.
    pub(super) async fn pause(&self, name: Name, paused: bool) -> Result<View, Refusal> {
        let (mut all, now) = (self.0.all.lock().await, Time::now());
        let schedule = &self.known(&mut all, &name).await?.schedule;
        if schedule.paused != paused {
            let schedule = Some(schedule.paused(paused, now));
            self.write(&mut all, vec![Scheduled { name: name.clone(), schedule, tasks: vec![] }]).await?;
        }
        Ok(self.known(&mut all, &name).await?.view(&name, 1, now))
    }

    /// Makes a task of one now.
    pub(super) async fn run(&self, name: Name) -> Result<TaskId, Refusal> {
        let mut all = self.0.all.lock().await;
        let schedule = self.known(&mut all, &name).await?.schedule.clone();
        let tasks = vec![self.task(&name, &schedule, None)?];
        let last = self.write(&mut all, vec![Scheduled { name, schedule: Some(schedule), tasks }]).await?;
        Ok(last.into_iter().next().unwrap_or_default())
    }

    /// Removes one.
    pub(super) async fn remove(&self, name: Name) -> Result<(), Refusal> {
        let mut all = self.0.all.lock().await;
        self.known(&mut all, &name).await?;
        self.write(&mut all, vec![Scheduled { name, schedule: None, tasks: vec![] }]).await.map(drop)
    }

    /// Has the schedules of `--demo` be these, which begin now.
    pub(super) async fn demo(&self, wanted: Vec<(Name, Schedule)>) -> Result<(), Refusal> {
        let mut all = self.0.all.lock().await;
        let going = self.read(&mut all).await?;
        let of_demo = going.iter().filter(|(_, one)| one.schedule.demo).map(|(name, _)| (name.clone(), None));
        let mut changed: BTreeMap<Name, Option<Schedule>> = of_demo.collect();
        // One of that name that somebody else set stays.
        let is_free = |name: &Name| going.get(name).is_none_or(|one| one.schedule.demo);
        let wanted = wanted.into_iter().filter(|(name, _)| is_free(name)).map(|(name, one)| (name, Some(one)));
        changed.extend(wanted);
        if changed.is_empty() {
            return Ok(());
        }
        let changed = changed.into_iter().map(|(name, schedule)| Scheduled { name, schedule, tasks: vec![] });
        self.write(&mut all, changed.collect()).await.map(drop)
    }

    /// One of them, with so many of its next moments.
    pub(super) async fn view(&self, name: Name, moments: usize) -> Result<View, Refusal> {
        let mut all = self.0.all.lock().await;
        Ok(self.known(&mut all, &name).await?.view(&name, moments, Time::now()))
    }

    /// Those after a name, as far as there is room for `bytes` of what they do; and whether there are more.
    pub(super) async fn list(
        &self,
        after: Option<&Name>,
        moments: usize,
        bytes: usize,
    ) -> Result<(Vec<View>, bool), Refusal> {
        let mut all = self.0.all.lock().await;
        let going = self.read(&mut all).await?;
        let (now, mut taken) = (Time::now(), 0);
        let mut left = going.iter().filter(|(name, _)| after.is_none_or(|after| *name > after)).peekable();
        let mut views = Vec::new();
        while let Some((name, going)) = left.next_if(|_| taken < bytes) {
            taken += going.schedule.what.bytes() + name.as_str().len() + 128;
            views.push(going.view(name, moments, now));
        }
        Ok((views, left.peek().is_some()))
    }

    async fn known<'a>(&self, all: &'a mut Option<BTreeMap<Name, Going>>, name: &Name) -> Result<&'a Going, Refusal> {
        let all = self.read(all).await?;
        let near = || nearest(name.as_str(), all.keys().map(Name::as_str)).map(str::to_owned);
        all.get(name).ok_or_else(|| Refusal::NoSuchSchedule { name: name.clone(), near: near() })
    }

    /// As they are stored, if they were not read since the last write that failed.
    async fn read<'a>(
        &self,
        all: &'a mut Option<BTreeMap<Name, Going>>,
    ) -> Result<&'a mut BTreeMap<Name, Going>, Refusal> {
        if all.is_none() {
            // Before the database is open again, it is not known what is there.
            self.0.store.accepts()?;
            let stored = self.0.queries.run(|reader| reader.schedules()).await?;
            let going: BTreeMap<_, _> = stored.into_iter().map(|(name, one)| (name, Going::of(one))).collect();
            for (name, going) in &going {
                if let Err(why) = &going.moments {
                    warn!("the schedule {name} makes no tasks: {why}");
                }
            }
            self.0.count.store(going.len(), Relaxed);
            *all = Some(going);
        }
        Ok(all.get_or_insert_default())
    }

    /// Writes these, and has them be so; says which task each made last.
    async fn write(
        &self,
        all: &mut Option<BTreeMap<Name, Going>>,
        written: Vec<Scheduled>,
    ) -> Result<Vec<TaskId>, Refusal> {
        let last = match self.0.store.write_schedules(written.clone()).await {
            Ok(last) => last,
            Err(why) => {
                match (&why, &mut *all) {
                    // Nothing was written: what is due is still due.
                    (StoreError::Low { .. }, Some(going)) => going.values_mut().for_each(Going::looks_again),
                    _ => *all = None,
                }
                return Err(why.into());
            }
        };
        let going = all.get_or_insert_default();
        for (Scheduled { name, schedule, tasks }, task) in written.into_iter().zip(&last) {
            self.0.made.fetch_add(tasks.len() as u64, Relaxed);
            let Some(mut schedule) = schedule else {
                going.remove(&name);
                continue;
            };
            if let Some(made) = tasks.last().and_then(|task| task.made.as_ref()) {
                debug!("the schedule {name} made task {task}");
                schedule.last = Some(Last { task: *task, moment: made.moment });
            }
            match going.get_mut(&name) {
                Some(known) if known.schedule.when == schedule.when => {
                    if known.schedule.what != schedule.what {
                        known.task_trouble = None;
                    }
                    known.schedule = schedule;
                    known.looks_again();
                }
                _ => drop(going.insert(name, Going::of(schedule))),
            }
        }
        self.0.count.store(going.len(), Relaxed);
        self.0.news.send_modify(|_| {});
        Ok(last)
    }

    fn task(&self, name: &Name, schedule: &Schedule, moment: Option<Time>) -> Result<NewTask, Refusal> {
        let task = task_of_schedule(&schedule.what, self.0.limit)?;
        let key = moment.map(|moment| key(name, moment));
        let made = Some(Arc::new(Made { schedule: name.clone(), moment }));
        Ok(NewTask { key, made, by: schedule.by.clone().map(Arc::new), ..task })
    }

    /// The work of the thread.
    async fn go_on(&self) {
        let mut news = self.0.news.subscribe();
        let mut by_rules_of = Instant::now();
        loop {
            if *news.borrow_and_update() {
                return;
            }
            let is_old = by_rules_of.elapsed() >= RULES;
            let pause = self.round(is_old).await;
            if is_old {
                by_rules_of = Instant::now();
            }
            let changed = pin!(news.changed());
            match pause {
                Some(pause) => drop(future::select(changed, Delay::new(pause)).await),
                None => drop(changed.await),
            }
        }
    }

    /// Makes what is due; says how long to wait. `None`: until something changes.
    async fn round(&self, is_old: bool) -> Option<Duration> {
        let mut all = self.0.all.lock().await;
        // Its store says so itself.
        let Ok(going) = self.read(&mut all).await else { return Some(AFTER_FAILURE) };
        let now = Now::read();
        if is_old {
            going.values_mut().for_each(|one| one.renew(now.wall));
        }
        let turns: Vec<_> = going.iter_mut().filter_map(|(name, one)| Some((name.clone(), one.turn(now)?))).collect();
        let next = going.values().filter_map(|one| one.next).min();
        let made = self.make(&mut all, turns, now.wall).await;
        if let Some(going) = &*all {
            let troubled = going.iter().filter(|(_, one)| !one.schedule.paused && one.trouble(now.wall).is_some());
            *self.0.in_trouble.lock().unwrap_or_else(PoisonError::into_inner) =
                troubled.map(|(name, _)| name.clone()).collect();
        }
        if made.is_err() {
            return Some(AFTER_FAILURE);
        }
        Some(next?.since(Time::now()).min(LOOK))
    }

    /// Writes what is due, with as much in a transaction as there is room for.
    async fn make(
        &self,
        all: &mut Option<BTreeMap<Name, Going>>,
        turns: Vec<(Name, Turn)>,
        now: Time,
    ) -> Result<(), Refusal> {
        let mut portion = Portion::default();
        for (name, turn) in turns {
            let Some(going) = all.get_or_insert_default().get_mut(&name) else { continue };
            self.say(&name, &going.schedule, &turn, now);
            let schedule = going.schedule.clone();
            let like = self.task(&name, &schedule, None).map_err(|why| why.to_string());
            if let (Err(why), None) = (&like, &going.task_trouble) {
                warn!("the schedule {name} makes no tasks: {why}");
            }
            going.task_trouble = like.as_ref().err().cloned();
            // When it can be made again, these moments were missed.
            let Ok(like) = like else { continue };
            for piece in pieces(&name, &schedule, &like, &turn) {
                if !portion.takes(&piece) {
                    self.write(all, std::mem::take(&mut portion).all).await?;
                }
                portion.add(piece);
            }
        }
        if portion.all.is_empty() { Ok(()) } else { self.write(all, portion.all).await.map(drop) }
    }

    fn say(&self, name: &Name, schedule: &Schedule, turn: &Turn, now: Time) {
        if turn.passed > 0 {
            let (passed, made) = (turn.passed, turn.moments.len());
            warn!("the schedule {name} missed {passed} moments or more, which have no task; it makes {made} now");
            self.0.passed.fetch_add(passed as u64, Relaxed);
        }
        if turn.through < schedule.through {
            info!("the clock was set back from {} to {now}: the schedule {name} goes on from there", schedule.through);
        }
    }
}

/// What is to be written of a schedule, each for a transaction.
fn pieces<'a>(
    name: &'a Name,
    schedule: &'a Schedule,
    like: &'a NewTask,
    turn: &'a Turn,
) -> impl Iterator<Item = Scheduled> + 'a {
    let task = |moment: &Time| NewTask {
        key: Some(key(name, *moment)),
        made: Some(Arc::new(Made { schedule: name.clone(), moment: Some(*moment) })),
        ..like.clone()
    };
    let upto = |through| Some(Schedule { through, ..schedule.clone() });
    let with_tasks = turn.moments.chunks((BYTES / like.weight().max(1)).clamp(1, TASKS)).map(move |moments| {
        let last = moments.last().copied().unwrap_or(turn.through);
        Scheduled { name: name.clone(), schedule: upto(last), tasks: moments.iter().map(task).collect() }
    });
    let without = Scheduled { name: name.clone(), schedule: upto(turn.through), tasks: Vec::new() };
    with_tasks.chain(turn.moments.is_empty().then_some(without))
}

/// What goes into one transaction.
#[derive(Default)]
struct Portion {
    all: Vec<Scheduled>,
    tasks: usize,
    bytes: usize,
}

impl Portion {
    fn takes(&self, one: &Scheduled) -> bool {
        self.all.is_empty() || (self.tasks + one.tasks.len() <= TASKS && self.bytes + one.weight() <= BYTES)
    }

    fn add(&mut self, one: Scheduled) {
        self.tasks += one.tasks.len();
        self.bytes += one.weight();
        self.all.push(one);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::thread;

    use super::super::failing::FailsAfterWriting;
    use super::super::query::Pool;
    use super::*;
    use crate::schedule::{Missed, What, When};
    use crate::store::Store;
    use crate::task::NameOf;

    fn name(name: &str) -> Name {
        Name::new(NameOf::Schedule, name).unwrap()
    }

    fn every(millis: u64, text: &str) -> Schedule {
        let what = What { text: text.into(), ..What::default() };
        Schedule::new(When::Every { millis, since: Time(0) }, Missed::All, what, None, Time::now())
    }

    #[test]
    fn a_write_that_failed_and_is_on_disk_all_the_same_makes_no_second_task() {
        let disk = FailsAfterWriting::default();
        let (store, _) = Store::with_backend(Box::new(disk.clone())).unwrap();
        let pool = Pool::start(&store.handle()).unwrap();
        let (thread, schedules) = SchedulesThread::start(store.handle(), pool.queries(), 1024).unwrap();
        block_on(schedules.set(name("often"), every(20, "x"))).unwrap();
        let tasks = || store.handle().reader().unwrap().tasks(0, usize::MAX).unwrap();
        for round in 1..=3 {
            disk.fails.store(true, Relaxed);
            let until = Instant::now() + Duration::from_secs(60);
            while disk.fails.load(Relaxed) || tasks().len() < 20 * round {
                assert!(Instant::now() < until, "{} tasks", tasks().len());
                thread::sleep(Duration::from_millis(5));
            }
        }
        thread.stop();
        let moments: Vec<Time> = tasks().iter().map(|task| task.spec.made.as_ref().unwrap().moment.unwrap()).collect();
        assert!(moments.windows(2).all(|two| two[1].0 - two[0].0 == 20), "{moments:?}");
    }

    #[test]
    fn there_are_as_many_schedules_as_may_be_and_they_take_as_much_room_as_they_may() {
        let (store, _) = Store::in_memory();
        let pool = Pool::start(&store.handle()).unwrap();
        let (thread, schedules) = SchedulesThread::start(store.handle(), pool.queries(), 1 << 20).unwrap();
        let set =
            |number: usize, text: &str| block_on(schedules.set(name(&number.to_string()), every(3_600_000, text)));
        let large = "x".repeat(1 << 20);
        for number in 0..64 {
            set(number, &large).unwrap();
        }
        assert!(matches!(set(64, "x"), Err(Refusal::SchedulesTooLarge { size }) if size == MOST_BYTES + 1));
        for number in 0..MOST {
            set(number, "").unwrap();
        }
        assert!(matches!(set(MOST, ""), Err(Refusal::TooManySchedules)));
        set(0, "x").unwrap();
        block_on(schedules.remove(name("7"))).unwrap();
        set(MOST, "").unwrap();
        assert_eq!(schedules.count(), MOST);
        thread.stop();
    }

    #[test]
    fn one_that_makes_no_tasks_is_in_trouble_until_it_is_set_anew_or_paused() {
        let (store, _) = Store::in_memory();
        let pool = Pool::start(&store.handle()).unwrap();
        let when = When::Cron { expression: "0 3 * * *".into(), zone: "Mars/Olympus".into() };
        let lost = Schedule::new(when, Missed::Skip, What::default(), None, Time::now());
        let stored = Scheduled { name: name("lost"), schedule: Some(lost), tasks: vec![] };
        block_on(store.handle().write_schedules(vec![stored])).unwrap();
        let (thread, schedules) = SchedulesThread::start(store.handle(), pool.queries(), 3).unwrap();
        let wait_until_in_trouble = |names: &[&str]| {
            let until = Instant::now() + Duration::from_secs(60);
            while schedules.in_trouble() != names.iter().map(|it| name(it)).collect::<Vec<_>>() {
                assert!(Instant::now() < until, "{:?} and not {names:?}", schedules.in_trouble());
                thread::sleep(Duration::from_millis(5));
            }
        };
        wait_until_in_trouble(&["lost"]);
        block_on(schedules.set(name("wordy"), every(20, "too long"))).unwrap();
        wait_until_in_trouble(&["lost", "wordy"]);
        block_on(schedules.pause(name("lost"), true)).unwrap();
        wait_until_in_trouble(&["wordy"]);
        block_on(schedules.set(name("wordy"), every(20, "ok"))).unwrap();
        wait_until_in_trouble(&[]);
        thread.stop();
    }

    #[test]
    fn a_clock_that_shows_a_time_long_ago_is_believed_after_an_hour() {
        let long_ago = |minutes: u64| Now { wall: Time(0), steady: Steady(1) }.after(Duration::from_secs(60 * minutes));
        let mut going = Going::of(every(60_000, "x"));
        let through = going.schedule.through;
        for minutes in [0, 1, 59] {
            assert_eq!(going.turn(long_ago(minutes)), None, "after {minutes} minutes");
            let trouble = going.view(&name("n"), 1, long_ago(minutes).wall).trouble.unwrap();
            assert!(trouble.starts_with(&format!("it came as far as {through}")), "{trouble}");
        }
        // It was set right before that, and then is wrong again: the hour begins anew.
        let right = Now { wall: through, steady: long_ago(59).steady };
        assert_eq!(going.turn(right), None);
        going.looks_again();
        assert_eq!(going.turn(long_ago(60)), None);
        let turn = going.turn(long_ago(120)).unwrap();
        assert_eq!((turn.moments, turn.through), (vec![], long_ago(120).wall));
    }

    #[test]
    fn what_is_due_together_is_written_in_portions() {
        let nightly = name("nightly");
        let schedule = every(1_000, "x");
        let like = NewTask { text: "x".repeat(1 << 20), ..NewTask::default() };
        let moments: Vec<Time> = (1..=100).map(Time).collect();
        let turn = Turn { through: Time(100), moments: moments.clone(), passed: 0, next: None };
        let all: Vec<Scheduled> = pieces(&nightly, &schedule, &like, &turn).collect();
        assert!(all.iter().all(|one| one.tasks.len() == 3 || one.tasks.len() == 1), "of 4 MiB");
        let made = all.iter().flat_map(|one| &one.tasks).map(|task| task.made.as_ref().unwrap().moment.unwrap());
        assert_eq!(made.collect::<Vec<_>>(), moments);
        for one in &all {
            let last = one.tasks.last().unwrap().made.as_ref().unwrap().moment;
            assert_eq!(
                Some(one.schedule.as_ref().unwrap().through),
                last,
                "with each it is through with what it makes"
            );
        }
        let mut portion = Portion::default();
        portion.add(all[0].clone());
        assert!(!portion.takes(&all[1]));
    }
}
