//! What the store promises: of SQLite, of its twin in memory, and of a store whose truth is a log that several servers share.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use contact::attachment::{Attachment, Headers};
use contact::attempts::Attempts;
use contact::labels::Labels;
use contact::retry::RetryPolicy;
use contact::run;
use contact::schedule::{self, Schedule, Scheduled};
use contact::store::*;
use contact::task::*;
use futures::executor::block_on;
use tempfile::TempDir;

/// Somewhere that a store can be opened again and again.
enum Place {
    Sqlite(TempDir),
    Memory(Memory),
    Replicated(TempDir, MemoryLog),
    #[cfg(feature = "cluster")]
    JetStream(TempDir, JetStreamConfig),
}

impl Place {
    fn sqlite() -> Place {
        Place::Sqlite(tempfile::tempdir().unwrap())
    }

    fn memory() -> Place {
        Place::Memory(Memory::default())
    }

    fn replicated() -> Place {
        Place::Replicated(tempfile::tempdir().unwrap(), MemoryLog::default())
    }

    fn backend(&self) -> Box<dyn Backend> {
        match self {
            Place::Sqlite(dir) => Box::new(Sqlite::open(dir.path()).unwrap()),
            Place::Memory(memory) => Box::new(memory.clone()),
            Place::Replicated(dir, log) => {
                let mut standby = Standby::open(log.clone(), dir.path()).unwrap();
                while standby.follow(Duration::ZERO).unwrap().messages > 0 {}
                Box::new(standby.lead("this one").unwrap())
            }
            #[cfg(feature = "cluster")]
            Place::JetStream(dir, config) => {
                let mut standby = Standby::open(crate::nats::servers::open(config), dir.path()).unwrap();
                loop {
                    // Whoever has not read all of it does not lead.
                    standby.follow(Duration::from_millis(50)).unwrap();
                    match standby.lead("this one") {
                        Ok(leading) => return Box::new(leading),
                        Err(not) => standby = not.standby,
                    }
                }
            }
        }
    }

    #[track_caller]
    fn open(&self) -> (Store, Recovered) {
        match self {
            Place::Sqlite(dir) => Store::open(dir.path()).unwrap(),
            _ => Store::with_backend(self.backend()).unwrap(),
        }
    }

    #[track_caller]
    fn start(&self) -> (Store, Handle) {
        let (store, _) = self.open();
        let handle = store.handle();
        (store, handle)
    }
}

/// Makes a test of each function for each kind of store.
macro_rules! for_each {
    ($(fn $name:ident($place:ident) $body:block)*) => {
        mod each {
            use super::*;
            $(pub(crate) fn $name($place: Place) $body)*
        }
        mod sqlite {
            $(#[test] fn $name() { super::each::$name(super::Place::sqlite()) })*
        }
        mod memory {
            $(#[test] fn $name() { super::each::$name(super::Place::memory()) })*
        }
        mod replicated {
            $(#[test] fn $name() { super::each::$name(super::Place::replicated()) })*
        }
        // On one server: each test makes a stream, which takes three of them longer.
        #[cfg(feature = "cluster")]
        mod jetstream {
            $(#[test] fn $name() {
                let Some(nats) = crate::nats::servers::Nats::one() else { return };
                super::each::$name(super::Place::JetStream(tempfile::tempdir().unwrap(), nats.config()))
            })*
        }
    };
}

fn name(name: &str) -> GroupName {
    Name::new(NameOf::Group, name).unwrap()
}

fn task(text: &str) -> NewTask {
    NewTask { text: text.into(), ..NewTask::default() }
}

fn keyed(key: &str) -> NewTask {
    NewTask { key: Some(key.into()), ..task(key) }
}

fn addressed(to: &str) -> NewTask {
    NewTask { to: Some(name(to)), ..task(to) }
}

fn attachment(value: &str, data: &[u8]) -> Attachment {
    Attachment::new(Headers::new([("content-type", "x/y"), ("k.1", value)]).unwrap(), data.to_vec())
}

/// A task of so many bytes: of text, and of data.
fn sized(bytes: usize) -> [NewTask; 2] {
    let data = Attachment::new(Headers::default(), vec![7; bytes]);
    [task(&"x".repeat(bytes)), NewTask { attachment: data, ..task("") }]
}

fn of_class(priority: Priority, to: Option<&str>) -> NewTask {
    NewTask { priority, to: to.map(name), ..task("classed") }
}

fn result(task: TaskId, group: Option<&str>, outcome: Outcome) -> NewResult {
    NewResult {
        task,
        group: group.map(name),
        client: "client".into(),
        attempt: 1,
        outcome,
        ret: format!("结果 {task}"),
        attachment: Attachment::default(),
        at: Time(1_000),
        not_before: None,
        late: false,
    }
}

fn status(msg: &str) -> NewStatus {
    NewStatus { client: "client".into(), msg: msg.into(), at: Time(5) }
}

fn group(group: &str) -> GroupState {
    GroupState {
        name: name(group),
        created_at: Time(77),
        broadcast_after: 3,
        paused: true,
        retry: "max=5,first=10s".parse().unwrap(),
        limits: "max-in-flight=3,max-begun-per-second=0.5,lane-on-dead=hold".parse().unwrap(),
        labels: "os=linux".parse().unwrap(),
        last_used: Time(7),
        cursors: [9, 5, 6],
        taken_up: vec![(7, 9), (11, 11)],
        open: vec![
            OpenTask {
                id: 6,
                attempts: Attempts::all_spent(2),
                not_before: Some(Time(99)),
                lane: Some(name("x")),
                place: LanePlace::Taken,
            },
            OpenTask {
                id: 10,
                attempts: Attempts { deliveries: 3, spent: 1, begun: false, silent: 2 },
                not_before: None,
                lane: None,
                place: LanePlace::None,
            },
        ],
        lanes: [Priority::Low, Priority::Normal]
            .map(|priority| WaitingLane { lane: name("租户 7"), priority, after: 3, upto: 9, count: 4 })
            .to_vec(),
    }
}

fn states(groups: Vec<GroupState>) -> Checkpoint {
    Checkpoint { groups, ..Checkpoint::default() }
}

/// A checkpoint of one group, with rows of open tasks: to write, with so many deliveries each, and to remove.
fn with_rows(group: GroupState, written: &[(TaskId, u32)], removed: &[TaskId]) -> Checkpoint {
    let written = written.iter().map(|(id, deliveries)| (*id, Some(open_task(*id, *deliveries))));
    let rows = written.chain(removed.iter().map(|id| (*id, None))).collect();
    Checkpoint { open: BTreeMap::from([(group.name.clone(), rows)]), groups: vec![group], ..Checkpoint::default() }
}

fn open_task(id: TaskId, deliveries: u32) -> OpenTask {
    let attempts = Attempts { deliveries, spent: 1, begun: deliveries > 2, silent: 4 };
    let (lane, place) = match id % 3 {
        0 => (Some(name("x")), LanePlace::Dead),
        1 => (Some(name("y")), LanePlace::None),
        _ => (None, LanePlace::None),
    };
    OpenTask { id, attempts, not_before: (id > 100).then_some(Time(99)), lane, place }
}

/// Until the clock shows more than that.
fn wait_until(at: Time) {
    while Time::now() <= at {
        thread::yield_now();
    }
}

fn replacing(key: &str) -> Replace {
    Replace::new(key, None).unwrap()
}

fn backlog(group: Option<&str>, priority: Priority) -> Backlog {
    Backlog {
        group: group.map(name),
        priority,
        after: 0,
        upto: u64::MAX,
        broadcast_after: 0,
        lane: None,
        limit: 1_000,
        max_bytes: usize::MAX,
    }
}

#[track_caller]
fn submit(handle: &Handle, tasks: Vec<NewTask>) -> Accepted {
    block_on(handle.submit(tasks)).unwrap()
}

/// Everything that is settled up to these floors, and is not from another time.
fn removable(everyone: TaskId, groups: &[(&str, TaskId)]) -> Removable {
    let now = Time::now().after(Duration::from_secs(3600));
    let groups = groups.iter().map(|(group, floor)| (name(group), *floor)).collect();
    Removable { floors: Floors { everyone, groups }, before: now, unclaimed_before: Time(0), now, limit: 100 }
}

/// Removes a part of what may be removed.
#[track_caller]
fn remove(handle: &Handle, removable: &Removable) -> Removed {
    let chunks = handle.reader().unwrap().removable(removable).unwrap();
    let Removable { before, now, limit, .. } = *removable;
    block_on(handle.remove(Removal { chunks: chunks.iter().map(|chunk| chunk.first).collect(), before, now, limit }))
        .unwrap()
}

#[track_caller]
fn flush(handle: &Handle) -> Result<(), StoreError> {
    let (tell, told) = mpsc::channel();
    handle.flush(Box::new(move |flushed| tell.send(flushed).unwrap()));
    soon(&told)
}

#[track_caller]
fn soon<T>(told: &Receiver<T>) -> T {
    told.recv_timeout(Duration::from_secs(20)).expect("within 20 s")
}

fn ids(tasks: &[Task]) -> Vec<TaskId> {
    tasks.iter().map(|task| task.id).collect()
}

fn seqs(results: &[TaskResult]) -> Vec<u64> {
    results.iter().map(|result| result.seq).collect()
}

fn run(number: TaskId, targets: &[&str]) -> run::Run {
    let what = run::What { text: "uptime".into(), ..run::What::default() };
    run::Run {
        number,
        what,
        rollout: run::Rollout {
            canary: Some(run::Share::Count(1)),
            batch: Some(run::Share::Part(50)),
            ..Default::default()
        },
        began_at: Time(1),
        deadline: Time(2),
        by: Some(Submitter { name: "ann".into(), role: "operator".into() }),
        course: run::Course::default(),
        tasks: Vec::new(),
        ended_at: None,
        tally: run::Tally::default(),
        targets: targets.iter().map(|target| name(target)).collect(),
        ended: Vec::new(),
    }
}

/// A schedule that is through with what comes up to then.
fn at(through: Time) -> Schedule {
    let when = schedule::When::Every { millis: 60_000, since: Time(0) };
    let what = schedule::What { text: "x".into(), attachment: attachment("x", b"\0\xff"), ..Default::default() };
    Schedule { through, paused: true, ..Schedule::new(when, schedule::Missed::Once, what, None, Time(0)) }
}

for_each! {
    fn a_run_is_kept_with_its_tasks_until_it_has_ended_and_is_old(place) {
        let (store, handle) = place.start();
        block_on(handle.submit(vec![task("before")])).unwrap();
        let tasks = vec![(task("uptime"), 2), (task("uptime"), 1)];
        let begun = block_on(handle.write_run(run(0, &["b", "a", "c"]), tasks)).unwrap();
        assert_eq!((begun.number, &begun.tasks[..]), (2, &[(2, 2), (3, 1)][..]), "it is known by its first task");
        let mut later = begun.clone();
        later.course.out = 3;
        let later = block_on(handle.write_run(later, vec![(task("uptime"), 4)])).unwrap();
        assert_eq!((later.number, later.tasks.last()), (2, Some(&(4, 4))));
        store.close().unwrap();

        let (store, handle) = place.start();
        let mut reader = handle.reader().unwrap();
        assert_eq!(reader.open_runs().unwrap(), std::slice::from_ref(&later));
        let ended = run::Run {
            ended_at: Some(Time(50)),
            ended: vec![run::TargetState::Done, run::TargetState::Failed, run::TargetState::Expired],
            ..later
        };
        block_on(handle.write_run(ended.clone(), Vec::new())).unwrap();
        assert_eq!(reader.open_runs().unwrap(), []);
        assert_eq!(reader.run(2).unwrap(), Some(ended.clone()));
        let listed = reader.latest_runs(TaskId::MAX, 10).unwrap();
        assert_eq!(listed, [run::Run { targets: Vec::new(), ended: Vec::new(), ..ended }]);
        assert_eq!(reader.latest_runs(2, 10).unwrap(), []);
        let remove = |before| {
            let removal = Removal { chunks: Vec::new(), before: Time(before), now: Time(i64::MAX), limit: 1 };
            block_on(handle.remove(removal)).unwrap()
        };
        remove(50);
        assert!(reader.run(2).unwrap().is_some());
        remove(51);
        assert_eq!(reader.run(2).unwrap(), None);
        // Of those that have ended only the newest are kept.
        for number in 1..=run::MOST_KEPT as u64 + 20 {
            let ended_at = (number != 5).then_some(Time(60));
            block_on(handle.write_run(run::Run { ended_at, ..run(number, &[]) }, Vec::new())).unwrap();
        }
        let kept = reader.latest_runs(TaskId::MAX, usize::MAX).unwrap();
        assert_eq!((kept.len(), kept.last().unwrap().number), (run::MOST_KEPT + 1, 5), "one that goes on stays");
        store.close().unwrap();
    }

    fn a_schedule_is_kept_with_the_tasks_that_it_makes_and_gives_none_a_second_id(place) {
        let (store, handle) = place.start();
        let (nightly, moment) = (name("nightly"), Time(1_000));
        let of_moment = |moment: Time, text: &str| NewTask {
            key: Some(schedule::key(&nightly, moment)),
            made: Some(Arc::new(Made { schedule: nightly.clone(), moment: Some(moment) })),
            ..task(text)
        };
        let write = |through: Time, tasks: Vec<NewTask>| {
            let scheduled = Scheduled { name: nightly.clone(), schedule: Some(at(through)), tasks };
            block_on(handle.write_schedules(vec![scheduled])).unwrap()
        };
        let mut reader = handle.reader().unwrap();
        assert_eq!(reader.schedules().unwrap(), BTreeMap::new());
        assert_eq!(write(Time(0), vec![]), [0]);
        assert_eq!(write(moment, vec![of_moment(Time(500), "x"), of_moment(moment, "x")]), [2]);
        let last = Some(schedule::Last { task: 2, moment: Some(moment) });
        let kept = Schedule { last, ..at(moment) };
        assert_eq!(reader.schedules().unwrap(), BTreeMap::from([(nightly.clone(), kept.clone())]));
        assert_eq!(reader.tasks(1, 10).unwrap()[0].spec, of_moment(moment, "x"));
        // Its moment has a task: one that is forgotten otherwise is known by the key. One that is another goes without it.
        assert_eq!(write(moment, vec![of_moment(moment, "x")]), [2]);
        assert_eq!(write(moment, vec![of_moment(moment, "y")]), [3]);
        assert_eq!(reader.tasks(2, 10).unwrap()[0].spec, NewTask { key: None, ..of_moment(moment, "y") });
        let other = Scheduled { name: name("other"), schedule: Some(at(moment)), tasks: vec![] };
        block_on(handle.write_schedules(vec![other])).unwrap();
        store.close().unwrap();

        let (_store, handle) = place.start();
        let names: Vec<_> = handle.reader().unwrap().schedules().unwrap().into_keys().collect();
        assert_eq!(names, [nightly.clone(), name("other")]);
        let gone = Scheduled { name: nightly, schedule: None, tasks: vec![] };
        block_on(handle.write_schedules(vec![gone])).unwrap();
        assert_eq!(handle.reader().unwrap().schedules().unwrap(), BTreeMap::from([(name("other"), at(moment))]));
    }

    fn what_a_schedule_makes_takes_the_place_of_the_newest_with_its_key_and_waits_for_quiet(place) {
        let (_store, handle) = place.start();
        let quiet = Quiet { millis: 60_000, most_millis: None, since: Time::default() };
        let of_moment = |moment| NewTask {
            key: Some(schedule::key(&name("often"), moment)),
            replace: Some(Box::new(Replace::new("k", Some(quiet)).unwrap())),
            ..task("x")
        };
        let write = |through: Time, tasks: Vec<NewTask>| {
            let scheduled = Scheduled { name: name("often"), schedule: Some(at(through)), tasks };
            block_on(handle.write_schedules(vec![scheduled])).unwrap()
        };
        submit(&handle, vec![NewTask { key: None, ..of_moment(Time(0)) }]);
        assert_eq!(write(Time(2), vec![of_moment(Time(1)), of_moment(Time(2))]), [3]);
        assert_eq!(write(Time(2), vec![of_moment(Time(2))]), [3], "it has its task, which replaces nothing twice");
        let tasks = handle.reader().unwrap().tasks(0, 10).unwrap();
        let stand = tasks.iter().map(|task| (task.spec.replaces(), task.spec.replaced_by()));
        assert_eq!(stand.collect::<Vec<_>>(), [(None, Some(2)), (Some(1), Some(3)), (Some(2), None)]);
        assert_eq!(tasks[2].spec.not_before, Some(tasks[2].accepted_at.after(Duration::from_secs(60))));
    }

    fn what_a_run_has_done_is_kept_until_it_ends(place) {
        let (store, handle) = place.start();
        block_on(handle.submit(vec![task("before")])).unwrap();
        let begun = block_on(handle.write_run(run(0, &["a"]), vec![(task("uptime"), 1)])).unwrap();
        block_on(handle.submit(vec![task("after")])).unwrap();
        handle.record((1..=3).map(|id| result(id, Some("g"), Outcome::Done)).collect());
        assert_eq!(remove(&handle, &removable(3, &[])).tasks, [1, 3]);
        store.close().unwrap();

        let (_store, handle) = place.start();
        assert!(remove(&handle, &removable(3, &[])).is_nothing());
        assert_eq!(handle.reader().unwrap().results_of(2).unwrap().len(), 1);
        let ended = run::Run { ended_at: Some(Time(50)), ended: vec![run::TargetState::Done], ..begun };
        block_on(handle.write_run(ended, Vec::new())).unwrap();
        assert_eq!(remove(&handle, &removable(3, &[])).tasks, [2]);
    }

    fn ids_follow_one_another(place) {
        let (_store, handle) = place.start();
        assert_eq!(submit(&handle, vec![task("a"), task("b")]), Accepted { first_id: 1, count: 2, ..Accepted::default() });
        assert_eq!(submit(&handle, vec![task("c")]).first_id, 3);
        assert_eq!(submit(&handle, vec![]).count, 0);
        assert_eq!(submit(&handle, vec![task("d")]).first_id, 4);
    }

    fn many_threads_submit_at_once_and_each_gets_its_ids(place) {
        let (_store, handle) = place.start();
        thread::scope(|scope| {
            for source in 0..8 {
                let handle = handle.clone();
                scope.spawn(move || for n in 0..50 {
                    let texts = [format!("{source}/{n}/0"), format!("{source}/{n}/1")];
                    let accepted = submit(&handle, texts.iter().map(|text| task(text)).collect());
                    let found = handle.reader().unwrap().tasks(accepted.first_id - 1, 2).unwrap();
                    assert_eq!([&found[0].spec.text, &found[1].spec.text], [&texts[0], &texts[1]]);
                });
            }
        });
        let all = handle.reader().unwrap().tasks(0, usize::MAX).unwrap();
        assert_eq!(ids(&all), (1..=800).collect::<Vec<_>>());
    }

    fn what_was_accepted_is_there_for_readers_and_in_the_tail(place) {
        let (_store, handle) = place.start();
        let mut reader = handle.reader().unwrap();
        let full = NewTask {
            text: "任务:\0\u{1F980}".into(),
            attachment: attachment("任务", b"\0\xff{}"),
            to: Some(name("组")),
            key: Some("k".into()),
            not_before: Some(Time(-1)),
            expires_at: Some(Time(i64::MAX)),
            max_attempts: Some(u32::MAX),
            retry: Some(Box::new("first=10s,factor=1.5,cap=1h,jitter=0.25".parse().unwrap())),
            priority: Priority::Low,
            by: Some(Arc::new(Submitter { name: "ann".into(), role: "operator".into() })),
            audience: Some(Arc::new(Audience::groups(vec![name("b"), name("a")]))),
            time_limit: Some(TimeLimit { millis: NonZeroU32::MAX, fails: true }),
            lane: Some(name("租户 7")),
            replace: Some(Box::new(replacing("k"))),
            made: Some(Arc::new(Made { schedule: name("夜"), moment: Some(Time(-1)) })),
        };
        submit(&handle, vec![full.clone(), task("")]);
        let read = reader.tasks(0, 10).unwrap();
        assert_eq!(read[0].spec, full);
        assert_eq!(read[1].spec, task(""));
        let kept: Vec<Task> = handle.tail().since(0, usize::MAX).unwrap().iter().map(|t| Task::clone(t)).collect();
        assert_eq!(kept, read);
        assert_eq!(reader.tasks_by_id(&[2, 9, 1]).unwrap(), [read[1].clone(), read[0].clone()]);
        assert_eq!(reader.first_task().unwrap(), Some(1));
    }

    fn an_empty_store_has_nothing(place) {
        let (store, recovered) = place.open();
        assert_eq!(recovered, Recovered::default());
        let mut reader = store.handle().reader().unwrap();
        assert_eq!(reader.first_task().unwrap(), None);
        assert_eq!(reader.tasks(0, 10).unwrap(), []);
        assert_eq!(reader.results(u64::MAX, 10).unwrap(), []);
        let none = BacklogPage { tasks: vec![], scanned: u64::MAX };
        assert_eq!(reader.backlog(&backlog(Some("g"), Priority::Normal)).unwrap(), none);
        assert_eq!(store.handle().tail().since(0, 1).unwrap(), []);
        store.close().unwrap();
    }

    fn a_known_key_is_answered_with_the_first_id(place) {
        let (store, handle) = place.start();
        assert_eq!(submit(&handle, vec![keyed("a"), task("x"), keyed("a"), keyed("b")]).ids, [1, 2, 1, 3]);
        assert_eq!(submit(&handle, vec![keyed("b")]), Accepted { first_id: 3, count: 1, known: vec![0], ..Accepted::default() });
        assert_eq!(submit(&handle, vec![keyed("c"), keyed("a")]).ids, [4, 1]);
        store.close().unwrap();
        let (_store, handle) = place.start();
        assert_eq!(submit(&handle, vec![keyed("a"), keyed("d")]).ids, [1, 5]);
        assert_eq!(handle.reader().unwrap().tasks(0, 10).unwrap().len(), 5);
    }

    fn a_task_takes_the_place_of_the_newest_with_its_key_and_address(place) {
        let (store, handle) = place.start();
        let of = |key: &str, to: Option<&str>| NewTask { to: to.map(name), replace: Some(Box::new(replacing(key))), ..task("x") };
        let keyed_of = |to| NewTask { key: Some("once".into()), ..of("k", to) };
        submit(&handle, vec![of("k", Some("g")), of("k", None), of("other", Some("g")), task("x"), of("k", Some("g"))]);
        submit(&handle, vec![keyed_of(Some("g"))]);
        let stands = |handle: &Handle, id: TaskId| {
            let task = handle.reader().unwrap().tasks_by_id(&[id]).unwrap().remove(0);
            let at = task.spec.over_at().is_some_and(|at| at >= task.accepted_at);
            (task.spec.replaces(), task.spec.replaced_by(), at)
        };
        assert_eq!([1, 5, 6].map(|id| stands(&handle, id)), [(None, Some(5), true), (Some(1), Some(6), true), (Some(5), None, false)]);
        assert_eq!([2, 3, 4].map(|id| stands(&handle, id)), [(None, None, false); 3], "nothing else changes");
        store.close().unwrap();
        let (_store, handle) = place.start();
        submit(&handle, vec![of("k", Some("g"))]);
        assert_eq!((stands(&handle, 6), stands(&handle, 7)), ((Some(5), Some(7), true), (Some(6), None, false)));
        assert_eq!(submit(&handle, vec![keyed_of(Some("g"))]).known, [0], "the same task again is that task");
        assert_eq!(stands(&handle, 7).1, None, "and replaces nothing twice");
    }

    fn what_is_over_or_settled_is_not_replaced_and_what_is_not_accepted_replaces_nothing(place) {
        let (_store, handle) = place.start();
        let of = |to: &str| NewTask { to: Some(name(to)), replace: Some(Box::new(replacing("k"))), ..task("x") };
        let replaces = |id: TaskId| handle.reader().unwrap().tasks_by_id(&[id]).unwrap()[0].spec.replaces();
        submit(&handle, vec![of("a"), of("b"), NewTask { expires_at: Some(Time::now()), ..of("c") }, of("d"), keyed("taken")]);
        block_on(handle.cancel(1, Time::now())).unwrap();
        handle.record(vec![result(2, Some("b"), Outcome::Done)]);
        submit(&handle, vec![of("a"), of("b"), of("c")]);
        assert_eq!([6, 7, 8].map(replaces), [None; 3]);
        let refused = vec![of("d"), of("d"), NewTask { text: "other".into(), ..keyed("taken") }];
        assert_eq!(submit(&handle, refused).reused.len(), 1);
        assert_eq!(handle.reader().unwrap().tasks_by_id(&[4]).unwrap()[0].spec.replaced_by(), None);
        submit(&handle, vec![of("d")]);
        assert_eq!(replaces(9), Some(4));
        // Also where the one before, the one that is refused, and the next come in one transaction.
        for _ in 0..20 {
            let refused = vec![of("d"), NewTask { text: "other".into(), ..keyed("taken") }];
            let all = [vec![task("x")], vec![of("d")], refused, vec![of("d")]].map(|tasks| handle.submit(tasks));
            let accepted = block_on(futures::future::join_all(all));
            let ids: Vec<_> = accepted.into_iter().map(|accepted| accepted.unwrap().first_id).collect();
            assert_eq!((ids[2], replaces(ids[3])), (0, Some(ids[1])));
            let (before, cancelled) = (handle.submit(vec![task("x")]), handle.cancel(ids[3], Time::now()));
            let (_, _, next) = block_on(futures::future::join3(before, cancelled, handle.submit(vec![of("d")])));
            assert_eq!(replaces(next.unwrap().first_id), None);
        }
    }

    fn what_waits_for_quiet_waits_on_for_each_newer_one_and_at_most_so_long_after_the_first(place) {
        let (_store, handle) = place.start();
        let of = |millis, most_millis| {
            let quiet = Quiet { millis, most_millis, since: Time::default() };
            NewTask { replace: Some(Box::new(Replace::new("k", Some(quiet)).unwrap())), ..task("x") }
        };
        let read = |id: TaskId| handle.reader().unwrap().tasks_by_id(&[id]).unwrap().remove(0);
        let wait = |task: &Task| task.spec.not_before.unwrap().since(task.accepted_at);
        let since = |task: &Task| task.spec.replace.as_ref().unwrap().quiet.unwrap().since;
        submit(&handle, vec![of(60_000, None)]);
        submit(&handle, vec![of(60_000, Some(60_000))]);
        let (first, second) = (read(1), read(2));
        assert_eq!((wait(&first), since(&first)), (Duration::from_secs(60), first.accepted_at));
        assert_eq!((second.spec.replaces(), since(&second)), (Some(1), first.accepted_at), "of one burst");
        assert_eq!(second.spec.not_before, Some(first.accepted_at.after(Duration::from_secs(60))));
        // What was quiet for long enough begins anew.
        submit(&handle, vec![of(1, None)]);
        wait_until(read(3).spec.not_before.unwrap());
        submit(&handle, vec![of(60_000, Some(90_000))]);
        let last = read(4);
        assert_eq!((last.spec.replaces(), since(&last)), (Some(3), last.accepted_at));
        // What is said beside it counts, if it is later.
        for minutes in [120, 0] {
            let said = Time::now().after(Duration::from_secs(60 * minutes));
            let id = submit(&handle, vec![NewTask { not_before: Some(said), ..of(60_000, None) }]).first_id;
            let Task { accepted_at, spec, .. } = read(id);
            assert_eq!(spec.not_before, Some(said.max(accepted_at.after(Duration::from_secs(60)))));
        }
    }

    fn a_known_key_in_another_trace_is_known(place) {
        let (store, handle) = place.start();
        let traced = |trace: &str| {
            let headers = [("traceparent", trace), ("tracestate", "a=b"), ("baggage", trace), ("tenant", "t")];
            NewTask { attachment: Attachment::new(Headers::new(headers).unwrap(), b"data".to_vec()), ..keyed("a") }
        };
        submit(&handle, vec![traced("00-1-1-01")]);
        assert_eq!(submit(&handle, vec![traced("00-2-2-01")]).known, [0]);
        store.close().unwrap();
        let (_store, handle) = place.start();
        assert_eq!(submit(&handle, vec![traced("00-3-3-01")]).known, [0]);
        let other = NewTask { attachment: Attachment::new(Headers::new([("tenant", "u")]).unwrap(), b"data".to_vec()), ..keyed("a") };
        assert_eq!(submit(&handle, vec![other]).reused.len(), 1);
    }

    fn a_key_that_another_task_has_is_refused_and_spoils_nothing_else(place) {
        let (store, handle) = place.start();
        let elsewhere = NewTask { to: Some(name("g")), ..keyed("a") };
        let other = NewTask { text: "other".into(), ..keyed("a") };
        let with_data = NewTask { attachment: attachment("", b"data"), ..keyed("a") };
        submit(&handle, vec![keyed("a")]);
        for (place, spec) in [elsewhere, with_data, other.clone()].into_iter().enumerate() {
            let tasks = vec![keyed("b"), spec, task("x"), keyed("c")];
            let refused = KeyReused { place: 1, key: "a".into(), task: 1 };
            let nothing = Accepted { reused: vec![refused.clone()], ..Accepted::default() };
            assert_eq!(submit(&handle, tasks.clone()), nothing, "all or none");
            let others = block_on(async { handle.begin_submit(tasks).await.unwrap().await }).unwrap();
            assert_eq!((others.count, others.reused), (3, vec![refused]));
            let known = if place == 0 { vec![] } else { vec![0, 3] };
            assert_eq!(others.known, known, "what was taken back left no key behind");
        }
        // Both are sent before either is answered: they may share a transaction.
        let both = block_on(async {
            let refused = handle.submit(vec![keyed("e"), other.clone()]);
            futures::join!(refused, async { handle.begin_submit(vec![task("y"), keyed("e")]).await.unwrap().await })
        });
        let (refused, accepted) = (both.0.unwrap(), both.1.unwrap());
        assert_eq!((refused.count, accepted), (0, Accepted { first_id: 7, count: 2, ..Accepted::default() }));
        let twice = submit(&handle, vec![keyed("d"), NewTask { text: "not d".into(), ..keyed("d") }]);
        assert_eq!((twice.count, twice.reused[0].place), (0, 1), "in one submission, too");
        store.close().unwrap();
        let (_store, handle) = place.start();
        assert_eq!(submit(&handle, vec![other]).reused[0].task, 1);
        let kept: Vec<_> = handle.reader().unwrap().tasks(0, 10).unwrap().into_iter().map(|t| t.spec.text).collect();
        assert_eq!(kept, ["a", "b", "x", "c", "x", "x", "y", "e"]);
        assert_eq!(submit(&handle, vec![keyed("d")]).first_id, 9, "no id was left out");
    }

    fn the_key_of_a_cancelled_task_is_free(place) {
        let (store, handle) = place.start();
        submit(&handle, vec![keyed("a"), keyed("b")]);
        let other = NewTask { text: "other".into(), ..keyed("a") };
        // Both are sent before either is answered: they may share a transaction.
        let accepted = block_on(async {
            let (cancelled, accepted) =
                futures::join!(handle.cancel(1, Time(5)), async { handle.begin_submit(vec![other]).await.unwrap().await });
            cancelled.unwrap();
            accepted.unwrap()
        });
        assert_eq!(accepted, Accepted { first_id: 3, count: 1, ..Accepted::default() });
        block_on(handle.cancel(1, Time(6))).unwrap();
        assert_eq!(submit(&handle, vec![keyed("a")]).reused[0].task, 3, "it has the key now, and keeps it");
        let cancelled = handle.reader().unwrap().tasks_by_id(&[1]).unwrap().remove(0).spec;
        assert_eq!((cancelled.cancelled_at(), cancelled.key), (Some(Time(6)), None));
        store.close().unwrap();
        let (_store, handle) = place.start();
        assert_eq!(submit(&handle, vec![keyed("b")]).known, [0]);
        assert_eq!(submit(&handle, vec![keyed("a")]).reused[0].task, 3);
    }

    fn pages_hold_what_was_asked_for_and_go_on_where_they_ended(place) {
        let (_store, handle) = place.start();
        submit(&handle, (0..10).map(|n| task(&n.to_string())).collect());
        let mut reader = handle.reader().unwrap();
        assert_eq!(ids(&reader.tasks(0, 4).unwrap()), [1, 2, 3, 4]);
        assert_eq!(ids(&reader.tasks(8, 4).unwrap()), [9, 10]);
        assert!(reader.tasks(u64::MAX, 4).unwrap().is_empty());
        assert!(reader.tasks(0, 0).unwrap().is_empty());
    }

    fn pages_end_early_where_texts_or_data_are_long(place) {
        let (_store, handle) = place.start();
        let mut reader = handle.reader().unwrap();
        let long = PAGE_BYTES * 2 / 5;
        for (kind, before) in [(0, 0), (1, 7)] {
            submit(&handle, vec![sized(long)[kind].clone(); 5]);
            submit(&handle, vec![sized(3 * PAGE_BYTES)[kind].clone(); 2]);
            assert_eq!(ids(&reader.tasks(before, 100).unwrap()), [before + 1, before + 2, before + 3]);
            assert_eq!(ids(&reader.tasks(before + 5, 100).unwrap()), [before + 6]);
            let from = Backlog { after: before, max_bytes: long, ..backlog(None, Priority::Normal) };
            let page = reader.backlog(&from).unwrap();
            assert_eq!((ids(&page.tasks), page.scanned), (vec![before + 1], before + 1));
        }
        let attachment = Attachment::new(Headers::default(), vec![7; long]);
        handle.record((1..=5).map(|id| NewResult { attachment: attachment.clone(), ..result(id, None, Outcome::Failed) }).collect());
        flush(&handle).unwrap();
        assert_eq!(seqs(&reader.results(0, 100).unwrap()), [1, 2, 3]);
        assert_eq!(seqs(&reader.dead(0, None, 100).unwrap()), [1, 2, 3]);
    }

    fn a_backlog_is_what_is_for_the_group_and_for_everyone(place) {
        let (_store, handle) = place.start();
        submit(&handle, vec![task("1"), addressed("mine"), addressed("other"), task("4"), addressed("mine")]);
        let mut reader = handle.reader().unwrap();
        let mut ask = |backlog: Backlog| {
            let page = reader.backlog(&backlog).unwrap();
            (ids(&page.tasks), page.scanned)
        };
        let mine = Backlog { upto: 5, ..backlog(Some("mine"), Priority::Normal) };
        assert_eq!(ask(mine.clone()), (vec![1, 2, 4, 5], 5));
        assert_eq!(ask(Backlog { group: None, ..mine.clone() }), (vec![1, 4], 5));
        assert_eq!(ask(Backlog { group: Some(name("new")), ..mine.clone() }), (vec![1, 4], 5));
        assert_eq!(ask(Backlog { broadcast_after: 1, ..mine.clone() }), (vec![2, 4, 5], 5));
        assert_eq!(ask(Backlog { broadcast_after: 9, ..mine.clone() }), (vec![2, 5], 5));
        assert_eq!(ask(Backlog { after: 2, upto: 4, ..mine.clone() }), (vec![4], 4));
        assert_eq!(ask(Backlog { after: 5, ..mine.clone() }), (vec![], 5));
        assert_eq!(ask(Backlog { limit: 2, ..mine.clone() }), (vec![1, 2], 2));
        assert_eq!(ask(Backlog { priority: Priority::High, ..mine }), (vec![], 5));
    }

    fn each_class_has_a_backlog_of_its_own(place) {
        let (_store, handle) = place.start();
        let priorities = [Priority::High, Priority::Normal, Priority::Low];
        for _ in 0..2 {
            submit(&handle, priorities.iter().flat_map(|c| [of_class(*c, None), of_class(*c, Some("g"))]).collect());
        }
        let mut reader = handle.reader().unwrap();
        for (priority, expected) in priorities.iter().zip([[1, 2, 7, 8], [3, 4, 9, 10], [5, 6, 11, 12]]) {
            assert_eq!(ids(&reader.backlog(&backlog(Some("g"), *priority)).unwrap().tasks), expected);
            let newer = Backlog { broadcast_after: 6, ..backlog(None, *priority) };
            assert_eq!(ids(&reader.backlog(&newer).unwrap().tasks), [expected[2]]);
        }
    }

    fn a_backlog_is_found_behind_many_tasks_of_others(place) {
        let (_store, handle) = place.start();
        submit(&handle, vec![task("first")]);
        submit(&handle, vec![addressed("other"); 20_000]);
        submit(&handle, vec![of_class(Priority::High, Some("other")); 20_000]);
        submit(&handle, vec![task("last"), addressed("mine"), of_class(Priority::High, None)]);
        let mut reader = handle.reader().unwrap();
        let page = reader.backlog(&Backlog { upto: 40_004, ..backlog(Some("mine"), Priority::Normal) }).unwrap();
        assert_eq!((ids(&page.tasks), page.scanned), (vec![1, 40_002, 40_003], 40_004));
        assert_eq!(ids(&reader.backlog(&backlog(None, Priority::High)).unwrap().tasks), [40_004]);
    }

    fn following_a_backlog_by_what_was_scanned_meets_each_task_once(place) {
        let (_store, handle) = place.start();
        let tasks = (0..500).map(|n| if n % 3 == 0 { task("all") } else { addressed(["mine", "other"][n % 2]) });
        submit(&handle, tasks.collect());
        let mut reader = handle.reader().unwrap();
        let (mut after, mut met) = (0, vec![]);
        while after < 500 {
            let asked = Backlog { after, upto: 500, limit: 7, ..backlog(Some("mine"), Priority::Normal) };
            let page = reader.backlog(&asked).unwrap();
            assert!(page.scanned > after);
            after = page.scanned;
            met.extend(ids(&page.tasks));
        }
        let all = reader.backlog(&backlog(Some("mine"), Priority::Normal)).unwrap();
        assert_eq!(met, ids(&all.tasks));
    }

    fn results_stand_in_the_order_they_were_recorded(place) {
        let (_store, handle) = place.start();
        handle.record(vec![result(2, Some("g"), Outcome::Retry), result(1, None, Outcome::Done)]);
        let late = NewResult { late: true, attempt: 9, not_before: Some(Time(8)), ..result(2, Some("h"), Outcome::Lost) };
        handle.record(vec![late.clone()]);
        flush(&handle).unwrap();
        let mut reader = handle.reader().unwrap();
        let all = reader.results(0, 10).unwrap();
        assert_eq!(seqs(&all), [1, 2, 3]);
        assert_eq!(all[1].result, result(1, None, Outcome::Done));
        assert_eq!(all[2].result, late);
        assert_eq!(seqs(&reader.results(1, 1).unwrap()), [2]);
        assert_eq!(seqs(&reader.results_of(2).unwrap()), [1, 3]);
        assert!(reader.results_of(3).unwrap().is_empty());
        let outcomes = reader.outcomes_of(2).unwrap();
        assert_eq!(seqs(&outcomes), [1, 3]);
        assert!(outcomes.iter().all(|entry| entry.result.ret.is_empty()));
        let results = reader.results_of(2).unwrap();
        assert_eq!(reader.results_by_seq(&[3, 77, 1]).unwrap(), [results[1].clone(), results[0].clone()]);
    }

    fn dead_letters_are_found_by_group_until_they_are_dropped_or_given_out_again(place) {
        let (_store, handle) = place.start();
        use Outcome::*;
        submit(&handle, vec![task("stored by itself")]);
        submit(&handle, (1..4).map(|n| task(&n.to_string())).collect());
        let of = |task, group: &str, outcome| result(task, Some(group), outcome);
        handle.record(vec![of(1, "a", Done), of(2, "a", Failed), of(2, "b", Exhausted), of(3, "b", Retry)]);
        let given_up = NewResult { attachment: attachment("why", b"\0core"), ..of(3, "a", Exhausted) };
        handle.record(vec![given_up.clone(), of(4, "a", Expired), result(1, None, Failed)]);
        handle.record(vec![NewResult { late: true, ..of(1, "a", Failed) }]);
        flush(&handle).unwrap();
        let mut reader = handle.reader().unwrap();
        let all = reader.dead(0, None, 10).unwrap();
        assert_eq!((seqs(&all), &all[2].result), (vec![2, 3, 5, 7], &given_up));
        assert_eq!(seqs(&reader.dead(2, None, 2).unwrap()), [3, 5]);
        assert_eq!(seqs(&reader.dead(0, Some(&name("a")), 10).unwrap()), [2, 5]);
        assert_eq!(seqs(&reader.dead(2, Some(&name("a")), 10).unwrap()), [5]);
        assert!(reader.dead(0, Some(&name("c")), 10).unwrap().is_empty());
        assert_eq!(reader.dead_counts().unwrap(), [(name("a"), 2), (name("b"), 1)].into());

        handle.record(vec![of(2, "a", Dropped), of(3, "a", Revived), of(2, "c", Dropped)]);
        flush(&handle).unwrap();
        assert_eq!(seqs(&reader.dead(0, None, 10).unwrap()), [3, 7]);
        assert_eq!(reader.dead_counts().unwrap(), [(name("b"), 1)].into());
        // Given up again, and, in the same transaction, given out again and given up.
        handle.record(vec![of(3, "a", Failed), of(3, "a", Revived), of(3, "a", Failed)]);
        flush(&handle).unwrap();
        assert_eq!(seqs(&reader.latest_dead(u64::MAX, None, 2).unwrap()), [14, 7]);
        assert_eq!(seqs(&reader.latest_dead(14, Some(&name("b")), 2).unwrap()), [3]);
        let is_dead = [(3, "a"), (2, "b"), (2, "a"), (3, "b")].map(|(id, of)| reader.is_dead(id, &name(of)).unwrap());
        assert_eq!(is_dead, [true, true, false, false]);
        assert_eq!(reader.dead_counts().unwrap(), [(name("a"), 1), (name("b"), 1)].into());

        // They go with their group, which nobody could give them to again, and with their tasks.
        handle.forget_group(name("b"));
        flush(&handle).unwrap();
        assert_eq!(seqs(&reader.dead(0, None, 10).unwrap()), [7, 14]);
        remove(&handle, &removable(1, &[]));
        assert_eq!(seqs(&reader.dead(0, None, 10).unwrap()), [14]);
        assert_eq!(reader.dead_counts().unwrap(), [(name("a"), 1)].into());
    }

    fn what_is_settled_and_old_is_removed_in_bounded_parts(place) {
        let (_store, handle) = place.start();
        // What one commit accepts is stored together. Nothing else is under way.
        for n in 0..5 {
            submit(&handle, vec![task(&format!("{n}/0")), task(&format!("{n}/1"))]);
        }
        handle.record((1..=10).map(|id| result(id, Some("g"), Outcome::Done)).chain([result(0, None, Outcome::Done)]).collect());
        block_on(handle.record_statuses(vec![status("old")])).unwrap();
        let removable = |everyone, limit| Removable { limit, ..removable(everyone, &[]) };

        let first = remove(&handle, &removable(7, 4));
        assert_eq!((first.tasks, first.others), (vec![1, 2, 3, 4], 2), "four tasks, the result without a task, the status");
        assert_eq!(remove(&handle, &removable(7, 4)).tasks, [5, 6]);
        assert!(remove(&handle, &removable(7, 4)).is_nothing(), "task 7 is stored with one that is not settled");
        let young = Removable { before: Time(1), ..removable(10, 4) };
        assert!(remove(&handle, &young).is_nothing(), "the others are not old");
        let mut reader = handle.reader().unwrap();
        assert_eq!(ids(&reader.tasks(0, 100).unwrap()), [7, 8, 9, 10]);
        assert_eq!(reader.first_task().unwrap(), Some(7));
        assert!(reader.statuses(0, 10).unwrap().is_empty());
        assert!(reader.results_of(6).unwrap().is_empty(), "what came of a task goes with it");
        assert_eq!(seqs(&reader.results(0, 100).unwrap()), [7, 8, 9, 10]);
        assert_eq!(reader.results_of(7).unwrap().len(), 1);
        assert_eq!(remove(&handle, &removable(10, 1)).tasks, [7, 8], "one chunk, though it is of two");
        assert_eq!(submit(&handle, vec![task("next")]).first_id, 11);
        assert_eq!(remove(&handle, &removable(10, 100)).tasks, [9, 10]);
        assert_eq!(reader.results(0, 100).unwrap(), []);
    }

    fn what_came_of_a_removed_task_goes_bit_by_bit_and_what_came_of_others_stays(place) {
        let (_store, handle) = place.start();
        submit(&handle, vec![task("goes")]);
        submit(&handle, vec![task("stays")]);
        let outcome = |n| if n % 5 == 0 { Outcome::Failed } else { Outcome::Done };
        let results = (0..4_000).map(|n| result(1 + n % 2, Some(&format!("group {}", n / 2)), outcome(n)));
        handle.record(results.collect());
        flush(&handle).unwrap();
        let mut reader = handle.reader().unwrap();
        let (of_other, dead) = (reader.results_of(2).unwrap(), reader.dead(0, None, 9_000).unwrap());
        let settled = Removable { limit: 600, ..removable(1, &[]) };
        assert_eq!(remove(&handle, &settled).tasks, [1]);
        while !remove(&handle, &settled).is_nothing() {}
        assert_eq!(reader.results_of(1).unwrap(), []);
        assert_eq!(reader.results_of(2).unwrap(), of_other);
        assert_eq!(reader.results(0, 9_000).unwrap(), of_other);
        let of_other: Vec<_> = dead.into_iter().filter(|entry| entry.result.task == 2).collect();
        assert_eq!((of_other.len(), reader.dead(0, None, 9_000).unwrap()), (400, of_other));
    }

    fn a_task_is_kept_for_those_it_is_for_and_for_nobody_else(place) {
        let (_store, handle) = place.start();
        submit(&handle, vec![addressed("slow")]);
        submit(&handle, vec![addressed("quick"), task("for everyone"), of_class(Priority::High, Some("quick")), addressed("absent")]);
        submit(&handle, vec![addressed("quick")]);
        let settled = removable(0, &[("slow", 0), ("quick", 5)]);
        assert_eq!(remove(&handle, &settled).tasks, [2, 4]);
        assert_eq!(remove(&handle, &removable(3, &[("slow", 3), ("quick", 5)])).tasks, [1, 3]);
        assert_eq!(ids(&handle.reader().unwrap().tasks(0, 10).unwrap()), [5, 6]);
    }

    fn what_has_a_time_to_come_holds_up_nothing_that_is_older(place) {
        let (store, handle) = place.start();
        let future = Time::now().after(Duration::from_secs(365 * 86_400));
        handle.record(vec![NewResult { at: future, ..result(0, None, Outcome::Done) }]);
        block_on(handle.record_statuses(vec![NewStatus { at: future, ..status("from a clock that was wrong") }, status("old")])).unwrap();
        handle.record(vec![result(0, None, Outcome::Done)]);
        flush(&handle).unwrap();
        assert_eq!(remove(&handle, &removable(0, &[])).others, 2);
        let mut reader = handle.reader().unwrap();
        assert_eq!((seqs(&reader.results(0, 10).unwrap()), reader.statuses(0, 10).unwrap()[0].seq), (vec![1], 1));
        store.close().unwrap();
    }

    fn what_comes_of_a_task_that_was_removed_is_late_and_is_removed_in_its_turn(place) {
        let (_store, handle) = place.start();
        for n in 0..3 {
            submit(&handle, vec![task(&n.to_string())]);
        }
        assert_eq!(remove(&handle, &removable(1, &[])).tasks, [1]);
        handle.record_unless_settled(result(1, Some("g"), Outcome::Done));
        handle.record_unless_settled(result(2, Some("g"), Outcome::Done));
        flush(&handle).unwrap();
        let kept = || handle.reader().unwrap().results(0, 10).unwrap();
        let late: Vec<_> = kept().iter().map(|r| (r.result.task, r.result.late)).collect();
        assert_eq!(late, [(1, true), (2, false)]);
        let removed = remove(&handle, &removable(3, &[]));
        assert_eq!((removed.tasks, seqs(&kept())), (vec![2, 3], vec![]));
        handle.record_unless_settled(result(3, Some("g"), Outcome::Done));
        flush(&handle).unwrap();
        assert_eq!((remove(&handle, &removable(3, &[])).others, seqs(&kept())), (1, vec![]), "where no task is left, too");
    }

    fn a_task_for_a_group_that_never_came_is_kept_longer(place) {
        let (_store, handle) = place.start();
        submit(&handle, vec![addressed("here"), addressed("absent"), task("for everyone")]);
        let settled = removable(3, &[("here", 3)]);
        assert_eq!(remove(&handle, &settled).tasks, [1, 3]);
        assert_eq!(ids(&handle.reader().unwrap().tasks(0, 100).unwrap()), [2]);
        assert_eq!(remove(&handle, &Removable { unclaimed_before: settled.before, ..settled }).tasks, [2]);
    }

    fn an_expiry_can_be_changed(place) {
        let (_store, handle) = place.start();
        submit(&handle, vec![task("a"), task("b")]);
        block_on(handle.expire(2, Some(Time(5)))).unwrap();
        let expiries = || {
            let tasks = handle.reader().unwrap().tasks(0, 100).unwrap();
            tasks.iter().map(|task| task.spec.expires_at).collect::<Vec<_>>()
        };
        assert_eq!(expiries(), [None, Some(Time(5))]);
        block_on(handle.expire(2, None)).unwrap();
        assert_eq!(expiries(), [None, None]);
    }

    fn the_groups_that_tasks_are_addressed_to_are_listed_by_name_in_parts(place) {
        let (_store, handle) = place.start();
        let high = NewTask { priority: Priority::High, ..addressed("b") };
        let expires = NewTask { expires_at: Some(Time(7)), ..addressed("c") };
        submit(&handle, vec![addressed("c"), task("for everyone"), addressed("a"), expires, high, addressed("b")]);
        let mut reader = handle.reader().unwrap();
        let mut listed = |after: Option<&str>, limit| reader.addressed_groups(after.map(name).as_ref(), limit).unwrap();
        assert_eq!(listed(None, 10), ["a", "b", "c"].map(name));
        assert_eq!(listed(None, 2), ["a", "b"].map(name));
        assert_eq!(listed(Some("b"), 10), [name("c")]);
        assert_eq!((listed(Some("c"), 10), listed(None, 0)), (vec![], vec![]));
        let mut expiries = |after, limit| {
            let backlog = Backlog { after, limit, ..backlog(Some("c"), Priority::Normal) };
            reader.expiries(&backlog).unwrap()
        };
        assert_eq!(expiries(0, 10), [(1, None), (4, Some(Time(7)))]);
        assert_eq!((expiries(0, 1), expiries(1, 10)), (vec![(1, None)], vec![(4, Some(Time(7)))]));
    }

    fn a_backlog_can_be_counted(place) {
        let (_store, handle) = place.start();
        submit(&handle, vec![task("a"), addressed("g"), addressed("h"), task("b"), of_class(Priority::High, None)]);
        let mut reader = handle.reader().unwrap();
        let mut count = |backlog: Backlog| reader.count(&backlog).unwrap();
        assert_eq!(count(backlog(Some("g"), Priority::Normal)), 3);
        assert_eq!(count(backlog(None, Priority::Normal)), 2);
        assert_eq!(count(backlog(Some("g"), Priority::High)), 1);
        assert_eq!(count(Backlog { after: 1, ..backlog(Some("g"), Priority::Normal) }), 2);
        assert_eq!(count(Backlog { upto: 3, limit: 1, ..backlog(Some("g"), Priority::Normal) }), 2);
        assert_eq!(count(Backlog { broadcast_after: 4, ..backlog(Some("g"), Priority::Normal) }), 1);
    }

    fn reports_are_kept_in_order(place) {
        let (store, handle) = place.start();
        block_on(handle.record_statuses(vec![status("数据:1"), status("")])).unwrap();
        block_on(handle.record_statuses(vec![])).unwrap();
        block_on(handle.record_statuses(vec![status("3")])).unwrap();
        let all = handle.reader().unwrap().statuses(0, 10).unwrap();
        assert_eq!(all.iter().map(|s| (s.seq, s.status.msg.as_str())).collect::<Vec<_>>(), [(1, "数据:1"), (2, ""), (3, "3")]);
        assert_eq!(all[0].status, status("数据:1"));
        assert_eq!(handle.reader().unwrap().statuses(1, 1).unwrap(), all[1..2]);
        store.close().unwrap();
        assert_eq!(place.open().1.positions, Positions { status: 3, ..Positions::default() });
    }

    fn of_each_client_the_latest_thousand_statuses_are_kept(place) {
        let (store, handle) = place.start();
        let of = |client: &str, n: u64| NewStatus { client: client.into(), ..status(&n.to_string()) };
        block_on(handle.record_statuses((0..10).map(|n| of("quiet", n)).collect())).unwrap();
        for first in (0..2_400).step_by(400) {
            block_on(handle.record_statuses((first..first + 400).map(|n| of("loud", n)).collect())).unwrap();
        }
        let mut reader = handle.reader().unwrap();
        let kept = reader.statuses(0, 10_000).unwrap();
        let of = |client: &str| {
            let of_client = kept.iter().filter(|entry| *entry.status.client == *client);
            of_client.map(|entry| entry.status.msg.parse().unwrap()).collect::<Vec<u64>>()
        };
        assert_eq!(of("quiet"), Vec::from_iter(0..10));
        assert_eq!(of("loud"), Vec::from_iter(1_400..2_400));
        assert_eq!(STATUSES_OF_A_CLIENT, 1_000);
        drop(store);
    }

    fn groups_come_back_as_they_were(place) {
        let (store, handle) = place.start();
        let fresh = GroupState {
            paused: false,
            retry: RetryPolicy::default(),
            labels: Labels::default(),
            taken_up: vec![],
            open: vec![],
            ..group("fresh")
        };
        handle.checkpoint(states(vec![group("worn"), group("fresh"), group("gone")]));
        handle.checkpoint(states(vec![fresh.clone()]));
        handle.forget_group(name("gone"));
        handle.forget_group(name("never there"));
        store.close().unwrap();
        assert_eq!(place.open().1.groups, [fresh, group("worn")]);
    }

    fn a_forgotten_group_can_come_again(place) {
        let (store, handle) = place.start();
        handle.checkpoint(with_rows(group("g"), &[(7, 1)], &[]));
        handle.checkpoint(with_rows(group("other"), &[(7, 1)], &[]));
        flush(&handle).unwrap();
        handle.checkpoint(with_rows(group("g"), &[(8, 1)], &[]));
        handle.forget_group(name("g"));
        handle.checkpoint(with_rows(GroupState { cursors: [40, 41, 42], ..group("g") }, &[(9, 1)], &[]));
        store.close().unwrap();
        let recovered = place.open().1;
        assert_eq!(recovered.groups[0].cursors, [40, 41, 42]);
        let open = [(name("g"), vec![open_task(9, 1)]), (name("other"), vec![open_task(7, 1)])];
        assert_eq!(recovered.open, BTreeMap::from(open));
    }

    fn rows_of_open_tasks_are_replaced_and_removed_and_all_others_stay(place) {
        let (store, handle) = place.start();
        let many: Vec<_> = (1..=100).map(|id| (id, 1)).collect();
        handle.checkpoint(with_rows(group("a"), &many, &[]));
        handle.checkpoint(with_rows(group("b"), &[(101, 0)], &[]));
        flush(&handle).unwrap();
        handle.checkpoint(with_rows(group("a"), &[(5, 3), (102, 2)], &[1, 2, 999]));
        // In one transaction with the one before, which it changes.
        handle.checkpoint(with_rows(group("a"), &[(103, 2)], &[5, 102]));
        store.close().unwrap();
        let mut of_a: Vec<_> = [3, 4].into_iter().chain(6..=100).map(|id| open_task(id, 1)).collect();
        of_a.push(open_task(103, 2));
        let recovered = place.open().1;
        assert_eq!(recovered.open, BTreeMap::from([(name("a"), of_a), (name("b"), vec![open_task(101, 0)])]));
        assert_eq!(recovered.groups, [group("a"), group("b")]);
    }

    fn results_behind_the_last_checkpoint_are_replayed(place) {
        let (store, handle) = place.start();
        handle.record(vec![result(1, Some("g"), Outcome::Done)]);
        handle.checkpoint(states(vec![group("g")]));
        handle.record(vec![result(2, Some("g"), Outcome::Retry), result(2, None, Outcome::Done)]);
        handle.record(vec![result(2, Some("unknown"), Outcome::Done)]);
        store.close().unwrap();

        let (store, recovered) = place.open();
        assert_eq!(seqs(&recovered.replay), [2, 4]);
        assert_eq!(recovered.replay[0].result, result(2, Some("g"), Outcome::Retry));
        assert_eq!(recovered.positions.result, 4);
        store.handle().checkpoint(states(vec![]));
        store.close().unwrap();
        assert_eq!(place.open().1.replay, []);
    }

    fn a_result_that_may_be_late_is_so_if_its_group_settled_the_task(place) {
        let (store, handle) = place.start();
        let of = |group: &str, outcome| result(1, Some(group), outcome);
        submit(&handle, vec![task("one")]);
        handle.record(vec![of("g", Outcome::Failed), of("g", Outcome::Dropped), of("other", Outcome::Retry)]);
        store.close().unwrap();

        let (store, _) = place.open();
        let handle = store.handle();
        for group in ["g", "other", "other", "new"] {
            handle.record_unless_settled(of(group, Outcome::Done));
        }
        handle.record(vec![of("g", Outcome::Revived)]);
        handle.record_unless_settled(of("g", Outcome::Done));
        store.close().unwrap();
        let (store, _) = place.open();
        let results = store.handle().reader().unwrap().results(3, 100).unwrap();
        let late: Vec<bool> = results.iter().map(|entry| entry.result.late).collect();
        assert_eq!(late, [true, false, true, false, false, false]);
    }

    fn a_store_that_is_opened_again_goes_on(place) {
        let (store, handle) = place.start();
        submit(&handle, vec![task("a"), task("b")]);
        handle.record(vec![result(1, None, Outcome::Done)]);
        store.close().unwrap();

        let (store, recovered) = place.open();
        let handle = store.handle();
        assert_eq!(recovered.positions, Positions { task: 2, result: 1, status: 0 });
        assert_eq!(handle.tail().positions(), recovered.positions);
        assert_eq!(handle.tail().since(0, usize::MAX), None);
        assert_eq!(handle.tail().since(2, usize::MAX), Some(vec![]));
        assert_eq!(submit(&handle, vec![task("c")]).first_id, 3);
        assert_eq!(handle.tail().since(2, usize::MAX).unwrap()[0].id, 3);
        assert_eq!(ids(&handle.reader().unwrap().tasks(0, 10).unwrap()), [1, 2, 3]);
    }

    fn who_is_drained_is_known_when_it_is_opened_again(place) {
        let (store, handle) = place.start();
        let drain = |client: &str, until: Option<i64>| Drain {
            client: name(client),
            since: Time(5),
            until: until.map(Time),
            note: format!("{client} is repaired"),
        };
        for drain in [drain("c", None), drain("a", None), drain("b", None)] {
            handle.drain(drain.client.clone(), Some(drain));
        }
        handle.drain(name("a"), Some(drain("a", Some(70))));
        block_on(handle.flushed()).unwrap();
        handle.drain(name("b"), None);
        handle.drain(name("never"), None);
        store.close().unwrap();
        let (_store, recovered) = place.open();
        assert_eq!(recovered.drains, [drain("a", Some(70)), drain("c", None)]);
    }

    fn what_is_granted_is_known_when_it_is_opened_again(place) {
        let (store, handle) = place.start();
        let token = |of: &str| Grantee { shows: Shows::Token, name: name(of) };
        let certificate = Grantee { shows: Shows::Certificate, name: name("a") };
        let first = [(token("a"), "1"), (token("b"), "2"), (certificate.clone(), "3")];
        let changed = |all: Vec<(Grantee, Option<&str>)>| {
            let changed = all.into_iter().map(|(to, text)| (to, text.map(str::to_owned))).collect();
            block_on(handle.grant(changed)).unwrap();
        };
        changed(first.map(|(to, text)| (to, Some(text))).into());
        changed(vec![(token("a"), Some("4")), (token("b"), None), (token("never"), None)]);
        store.close().unwrap();
        let (_store, recovered) = place.open();
        assert_eq!(recovered.grants, BTreeMap::from([(token("a"), "4".into()), (certificate, "3".into())]));
    }

    fn nothing_is_accepted_before_what_was_accepted_before_it_though_the_clock_was_set_back(place) {
        // The clock was an hour ahead when the server was stopped.
        let ahead = Time::now().after(Duration::from_secs(3600));
        let mut backend = place.backend();
        let tasks = vec![Arc::new(Task { id: 1, accepted_at: ahead, spec: task("ahead") })];
        let positions = Positions { task: 1, ..Positions::default() };
        backend.commit(&Batch { tasks, positions, ..Batch::default() }).unwrap();
        backend.close().unwrap();

        let (store, recovered) = place.open();
        assert_eq!(recovered.newest.task, ahead);
        let handle = store.handle();
        submit(&handle, vec![task("a")]);
        submit(&handle, vec![task("b")]);
        let tasks = handle.reader().unwrap().tasks(0, 10).unwrap();
        assert_eq!(tasks.iter().map(|task| task.accepted_at).collect::<Vec<_>>(), [ahead; 3]);
    }

    fn a_task_that_was_accepted_under_a_clock_far_ahead_holds_back_no_other(place) {
        let ahead = Time::now().after(Duration::from_secs(40 * 24 * 3600));
        let mut backend = place.backend();
        let tasks = vec![Arc::new(Task { id: 1, accepted_at: ahead, spec: task("ahead") })];
        let positions = Positions { task: 1, ..Positions::default() };
        backend.commit(&Batch { tasks, positions, ..Batch::default() }).unwrap();
        backend.close().unwrap();

        let (store, _) = place.open();
        let handle = store.handle();
        let before = Time::now();
        submit(&handle, vec![task("a")]);
        let tasks = handle.reader().unwrap().tasks(1, 10).unwrap();
        assert!((before..=Time::now()).contains(&tasks[0].accepted_at), "{:?}", tasks[0]);
    }

    fn news_come_after_the_commit_and_before_the_next(place) {
        let (_store, handle) = place.start();
        let (tell, told) = mpsc::channel();
        let reading = handle.clone();
        handle.tail().subscribe(Box::new(move |positions| {
            let read = reading.reader().unwrap().tasks(positions.task - 1, 10).unwrap();
            let _ = tell.send((*positions, ids(&read)));
        }));
        for id in 1..=3 {
            submit(&handle, vec![task("t")]);
            assert_eq!(soon(&told), (Positions { task: id, ..Positions::default() }, vec![id]));
        }
    }

    fn closing_writes_what_was_sent_and_refuses_the_rest(place) {
        let (store, handle) = place.start();
        handle.record((1..=500).map(|id| result(id, Some("g"), Outcome::Done)).collect());
        let (tell, told) = mpsc::channel();
        let also = tell.clone();
        handle.flush(Box::new(move |flushed| tell.send(flushed).unwrap()));
        store.close().unwrap();
        assert!(soon(&told).is_ok());

        assert!(matches!(block_on(handle.submit(vec![task("late")])), Err(StoreError::Closed)));
        assert!(matches!(block_on(handle.record_statuses(vec![status("late")])), Err(StoreError::Closed)));
        handle.record(vec![result(1, None, Outcome::Done)]);
        handle.flush(Box::new(move |flushed| also.send(flushed).unwrap()));
        assert!(matches!(soon(&told), Err(StoreError::Closed)));
        assert_eq!(place.open().1.replay.len(), 500);
    }

    fn subscribers_are_let_go_when_the_store_is_closed(place) {
        let (store, handle) = place.start();
        let held = Arc::new(());
        let holds = held.clone();
        handle.tail().subscribe(Box::new(move |_| { let _ = &holds; }));
        store.close().unwrap();
        assert_eq!(Arc::strong_count(&held), 1);
    }
}

#[test]
fn the_tail_keeps_the_newest_tasks_only() {
    sized(1 << 20).into_iter().for_each(the_tail_keeps_the_newest_of);
}

#[track_caller]
fn the_tail_keeps_the_newest_of(long: NewTask) {
    let (store, _) = Store::in_memory();
    let handle = store.handle();
    for _ in 0..20 {
        submit(&handle, vec![long.clone()]);
    }
    let tail = handle.tail();
    assert_eq!(tail.since(0, usize::MAX), None);
    let kept = (0..20).find_map(|after| tail.since(after, usize::MAX)).unwrap();
    assert_eq!(kept.len(), 15, "16 MiB, less what the tasks take beside their texts");
    assert_eq!(kept.last().unwrap().id, 20);
    assert_eq!(tail.since(17, 2 << 20).unwrap().len(), 1);
    assert_eq!(tail.since(17, 0).unwrap()[0].id, 18);
    assert_eq!(tail.since(u64::MAX, 1), Some(vec![]));
}

#[test]
fn what_the_tail_drops_before_it_was_taken_is_counted_for_a_bounded_number_of_groups() {
    let (store, _) = Store::in_memory();
    let (handle, long) = (store.handle(), "x".repeat(1 << 20));
    let to = |group: &str, text: &str| NewTask { to: Some(name(group)), ..task(text) };
    submit(&handle, vec![task("taken"), to("g", "taken")]);
    assert_eq!(handle.tail().since(0, usize::MAX).unwrap().len(), 2);
    for n in 0..20 {
        let priority = Priority::ALL[n % 2];
        submit(
            &handle,
            vec![NewTask { priority, ..task(&long) }, NewTask { priority, ..to("g", "short") }, to("h", "short")],
        );
    }
    let tail = handle.tail();
    assert_eq!(tail.since(2, usize::MAX), None);
    let skipped = tail.skip(2);
    assert_eq!((skipped.head, skipped.broadcasts), (62, [10, 10, 0]));
    let addressed = skipped.addressed.unwrap();
    assert_eq!(addressed.len(), 2);
    assert_eq!((addressed[&name("g")], addressed[&name("h")]), ([10, 10, 0], [0, 20, 0]));
    // From there on.
    assert_eq!(tail.since(62, usize::MAX), Some(vec![]));
    submit(&handle, (0..=10_000).map(|n| to(&n.to_string(), "short")).chain([task("all")]).collect());
    let skipped = tail.skip(62);
    assert_eq!((skipped.head, skipped.broadcasts, skipped.addressed), (10_064, [0, 1, 0], None));
    assert_eq!(tail.skip(10_064).broadcasts, [0; 3]);
}

/// What a backend does instead of writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// No write works, and it cannot be opened.
    Full,
    /// It cannot be opened, and is not what it was.
    Damaged,
    /// The next write is on disk, and fails all the same.
    FailsAfterWriting,
    /// The next write fails, and one that was answered is lost.
    Forgets,
    /// Another program holds the lock.
    Locked,
}

/// A backend in memory whose writes fail on demand.
#[derive(Clone)]
struct Failing {
    rows: Memory,
    fault: Arc<Mutex<Fault>>,
    reopened: Arc<AtomicU32>,
    space: Arc<Mutex<Option<Space>>>,
}

impl Failing {
    fn start() -> (Failing, Store, Handle) {
        let failing = Failing {
            rows: Memory::default(),
            fault: Arc::new(Mutex::new(Fault::None)),
            reopened: Arc::default(),
            space: Arc::default(),
        };
        let (store, _) = Store::with_backend(Box::new(failing.clone())).unwrap();
        let handle = store.handle();
        (failing, store, handle)
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    fn error(&self) -> Result<(), StoreError> {
        let path = "/the/disk".into();
        match *self.fault.lock().unwrap() {
            Fault::None | Fault::FailsAfterWriting => Ok(()),
            Fault::Full | Fault::Forgets => Err(StoreError::Full { path }),
            Fault::Damaged => Err(StoreError::NotContact { path, found: "an apple" }),
            Fault::Locked => Err(StoreError::InUse { path }),
        }
    }
}

impl Backend for Failing {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        self.rows.recover()
    }

    fn find_key(&mut self, key: &str) -> Result<Option<Keyed>, StoreError> {
        self.rows.find_key(key)
    }

    fn newest_of(&mut self, slot: &Slot) -> Result<Option<Task>, StoreError> {
        self.rows.newest_of(slot)
    }

    fn has_task(&mut self, task: TaskId) -> Result<bool, StoreError> {
        self.rows.has_task(task)
    }

    fn last_outcome(&mut self, group: &GroupName, task: TaskId) -> Result<Option<Outcome>, StoreError> {
        self.error()?;
        self.rows.last_outcome(group, task)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.error()?;
        self.rows.commit(batch)?;
        let mut fault = self.fault.lock().unwrap();
        if *fault == Fault::FailsAfterWriting {
            *fault = Fault::None;
            return Err(StoreError::Full { path: "/the/disk".into() });
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<Positions, StoreError> {
        self.reopened.fetch_add(1, SeqCst);
        let there = self.rows.reopen()?;
        if *self.fault.lock().unwrap() == Fault::Forgets {
            return Ok(Positions { task: there.task - 1, ..there });
        }
        self.error().map(|()| there)
    }

    fn remove(&mut self, removal: &Removal) -> Result<Removed, StoreError> {
        self.error()?;
        self.rows.remove(removal)
    }

    fn space(&self) -> Option<(PathBuf, Space)> {
        Some(("/the/disk".into(), (*self.space.lock().unwrap())?))
    }

    fn reader(&self) -> OpenReader {
        self.rows.reader()
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Waits for news after which it is as `like` wants it.
#[track_caller]
fn until(handle: &Handle, like: impl Fn(&Handle) -> bool) {
    let (tell, told) = mpsc::channel();
    handle.tail().subscribe(Box::new(move |_| _ = tell.send(())));
    while !like(handle) {
        soon(&told);
    }
}

#[track_caller]
fn until_it_is_open_again(handle: &Handle) {
    until(handle, |handle| handle.failure().is_none());
}

#[test]
fn while_no_write_works_nothing_is_taken_or_announced_and_each_call_is_told_why_at_once() {
    let (failing, store, handle) = Failing::start();
    submit(&handle, vec![task("safe")]);
    let (tell, told) = mpsc::channel();
    let watched = handle.clone();
    handle.tail().subscribe(Box::new(move |positions| drop(tell.send((*positions, watched.failure())))));
    failing.set(Fault::Full);
    assert!(matches!(block_on(handle.submit(vec![task("lost")])), Err(StoreError::Full { .. })));
    // The news of the first commit may come as late as here.
    let news = std::iter::repeat_with(|| soon(&told)).find(|(_, failure)| failure.is_some());
    let (positions, failure) = news.unwrap();
    assert_eq!(positions.task, 1);
    assert!(failure.unwrap().contains("/the/disk"));

    let refused = block_on(handle.submit(vec![keyed("later")])).unwrap_err();
    assert!(matches!(refused, StoreError::Failed { .. }));
    assert!(refused.to_string().contains("no room is left for /the/disk"), "{refused}");
    assert!(matches!(block_on(handle.record_statuses(vec![status("later")])), Err(StoreError::Failed { .. })));
    assert!(matches!(block_on(handle.expire(1, None)), Err(StoreError::Failed { .. })));
    let removal = Removal { chunks: vec![1], before: Time::now(), now: Time::now(), limit: 1 };
    assert!(matches!(block_on(handle.remove(removal)), Err(StoreError::Failed { .. })));
    assert!(matches!(flush(&handle), Err(StoreError::Failed { .. })));
    assert_eq!(ids(&handle.reader().unwrap().tasks(0, 10).unwrap()), [1]);
    assert_eq!(handle.tail().since(1, usize::MAX), Some(vec![]));
    assert!(matches!(store.close(), Err(StoreError::Failed { .. })));
    assert!(matches!(block_on(handle.submit(vec![task("later")])), Err(StoreError::Failed { .. })));

    let (store, recovered) = Store::with_backend(Box::new(failing.rows)).unwrap();
    assert_eq!(recovered.positions, Positions { task: 1, ..Positions::default() });
    assert_eq!(submit(&store.handle(), vec![task("again")]).first_id, 2);
}

#[test]
fn with_little_room_on_the_disk_what_comes_of_tasks_is_written_and_the_rest_waits_for_room() {
    let (failing, store, handle) = Failing::start();
    let left = |free| *failing.space.lock().unwrap() = Some(Space { free, all: 2_000 });
    let (late, nobodys) =
        (NewResult { late: true, ..result(1, Some("g"), Outcome::Done) }, result(0, None, Outcome::Done));
    let record = |result: &NewResult| {
        handle.record(vec![result.clone()]);
        flush(&handle).unwrap();
        handle.tail().positions().result
    };
    let try_status = || block_on(handle.record_statuses(vec![status("x")]));
    let try_submit = || block_on(handle.submit(vec![task("x")]));
    left(100);
    submit(&handle, vec![task("a")]);
    try_status().unwrap();
    assert_eq!((record(&late), record(&nobodys)), (1, 2));

    // A twentieth is to stay free.
    left(99);
    let refused = try_status().unwrap_err();
    assert!(matches!(refused, StoreError::Low { free: 99, floor: 100, .. }));
    assert!(refused.to_string().contains("99 bytes are left on the disk of /the/disk"), "{refused}");
    assert_eq!((record(&late), record(&nobodys)), (2, 2));
    submit(&handle, vec![task("b")]);
    assert_eq!(record(&result(1, Some("g"), Outcome::Done)), 3);

    left(49);
    assert!(matches!(try_submit(), Err(StoreError::Low { floor: 100, .. })));
    assert!(matches!(try_status(), Err(StoreError::Low { .. })));
    assert_eq!(record(&result(2, Some("g"), Outcome::Done)), 4);
    handle.checkpoint(states(vec![group("g")]));
    block_on(handle.expire(1, None)).unwrap();
    flush(&handle).unwrap();
    let unwritten = Unwritten::ALL.map(|what| handle.unwritten(what));
    assert_eq!(unwritten, [1, 2, 2]);
    assert_eq!(handle.failure(), None, "it has not failed");

    // It can be set while it runs, and passes by itself.
    handle.set_min_free(Some(49));
    try_status().unwrap();
    handle.set_min_free(None);
    assert!(try_status().is_err());
    left(1_000);
    assert_eq!(submit(&handle, vec![task("c")]).first_id, 3);
    drop(store);
}

#[test]
fn when_writes_work_again_the_store_goes_on_with_what_the_broker_recorded_meanwhile() {
    let (failing, store, handle) = Failing::start();
    submit(&handle, vec![task("a"), task("b")]);
    failing.set(Fault::Full);
    // These three are in the write that fails, or in the outage: it makes no difference.
    handle.record(vec![result(1, Some("g"), Outcome::Lost)]);
    handle.checkpoint(states(vec![group("g")]));
    assert!(flush(&handle).is_err());
    handle.record_unless_settled(result(2, Some("g"), Outcome::Done));
    handle.record_unless_settled(result(2, Some("g"), Outcome::Done));
    handle.record(vec![NewResult { late: true, ..result(1, Some("g"), Outcome::Done) }]);
    let newer = GroupState { broadcast_after: 9, ..group("g") };
    handle.checkpoint(with_rows(newer.clone(), &[(5, 1), (6, 1)], &[]));
    handle.checkpoint(with_rows(group("h"), &[(5, 1)], &[]));
    handle.checkpoint(with_rows(newer.clone(), &[], &[6]));
    handle.forget_group(name("h"));
    assert!(flush(&handle).is_err());

    failing.set(Fault::None);
    until_it_is_open_again(&handle);
    assert_eq!(submit(&handle, vec![task("c")]).first_id, 3);
    flush(&handle).unwrap();
    store.close().unwrap();
    let (store, recovered) = Store::with_backend(Box::new(failing.rows)).unwrap();
    assert_eq!(recovered.groups, [newer]);
    assert_eq!(recovered.open, BTreeMap::from([(name("g"), vec![open_task(5, 1)])]));
    assert_eq!(recovered.positions, Positions { task: 3, result: 3, status: 0 });
    let results = store.handle().reader().unwrap().results(0, 10).unwrap();
    let found: Vec<_> = results.iter().map(|entry| (entry.seq, entry.result.outcome, entry.result.late)).collect();
    let expected = [(1, Outcome::Lost, false), (2, Outcome::Done, false), (3, Outcome::Done, true)];
    assert_eq!(found, expected, "what changes nothing is not kept, the rest in its order");
    assert_eq!(recovered.replay, [], "the checkpoint came after them");
}

#[test]
fn what_was_granted_or_dialled_in_a_write_that_failed_is_not_written_later() {
    let (failing, store, handle) = Failing::start();
    failing.set(Fault::Full);
    let to = Grantee { shows: Shows::Token, name: name("web") };
    assert!(block_on(handle.grant(BTreeMap::from([(to, Some("{}".into()))]))).is_err());
    failing.set(Fault::None);
    until_it_is_open_again(&handle);
    failing.set(Fault::Full);
    let one = Dialled { address: name("h:1"), group: None, client: None, since: Time(4) };
    assert!(block_on(handle.dial(one.address.clone(), Some(one))).is_err());
    failing.set(Fault::None);
    until_it_is_open_again(&handle);
    submit(&handle, vec![task("a")]);
    store.close().unwrap();
    let (_store, recovered) = Store::with_backend(Box::new(failing.rows)).unwrap();
    assert_eq!((recovered.grants, recovered.dialled), (BTreeMap::new(), vec![]));
}

#[test]
fn a_write_that_failed_and_is_on_disk_all_the_same_is_announced_and_not_written_twice() {
    let (failing, store, handle) = Failing::start();
    submit(&handle, vec![task("a")]);
    failing.set(Fault::FailsAfterWriting);
    handle.record(vec![result(1, Some("g"), Outcome::Done)]);
    assert!(block_on(handle.submit(vec![keyed("b")])).is_err());
    until_it_is_open_again(&handle);
    flush(&handle).unwrap();
    // The record may have been written before, by itself; then the submission is what failed.
    assert_eq!(seqs(&handle.reader().unwrap().results(0, 10).unwrap()), [1]);
    let here: Vec<TaskId> = handle.tail().since(0, usize::MAX).unwrap().iter().map(|task| task.id).collect();
    if here.len() == 1 {
        assert_eq!(submit(&handle, vec![keyed("b")]).first_id, 2, "it was the record that failed");
    } else {
        assert_eq!(here, [1, 2]);
        assert_eq!(submit(&handle, vec![keyed("b")]).first_id, 2, "as it was known before");
    }
    assert_eq!(submit(&handle, vec![task("c")]).first_id, 3);
    store.close().unwrap();
    let (store, recovered) = Store::with_backend(Box::new(failing.rows)).unwrap();
    assert_eq!(recovered.positions, Positions { task: 3, result: 1, status: 0 });
    assert_eq!(ids(&store.handle().reader().unwrap().tasks(0, 10).unwrap()), [1, 2, 3]);
}

#[test]
fn a_disk_that_lost_what_was_answered_is_not_written_any_more() {
    let (failing, store, handle) = Failing::start();
    submit(&handle, vec![task("a"), task("b")]);
    failing.set(Fault::Forgets);
    assert!(block_on(handle.submit(vec![task("c")])).is_err());
    until(&handle, |handle| handle.failure().unwrap().contains("lost"));
    failing.set(Fault::None);
    assert!(matches!(block_on(handle.submit(vec![task("c")])), Err(StoreError::Failed { .. })));
    assert!(matches!(store.close(), Err(StoreError::Failed { .. })));
}

#[test]
fn what_does_not_pass_by_itself_is_not_tried_again() {
    let (failing, store, handle) = Failing::start();
    failing.set(Fault::Damaged);
    assert!(block_on(handle.submit(vec![task("a")])).is_err());
    failing.set(Fault::None);
    handle.record(vec![result(1, Some("g"), Outcome::Done)]);
    assert!(matches!(flush(&handle), Err(StoreError::Failed { .. })));
    // Long enough for several tries, if there were any.
    thread::sleep(Duration::from_secs(1));
    assert!(matches!(flush(&handle), Err(StoreError::Failed { .. })));
    assert!(matches!(store.close(), Err(StoreError::Failed { .. })));
    assert_eq!(failing.reopened.load(SeqCst), 0);
    assert_eq!(failing.rows.clone().recover().unwrap(), Recovered::default());
}

#[test]
fn what_is_recorded_while_no_write_works_is_kept_up_to_a_bound_and_then_waits() {
    const RECORDS: u64 = 20_000;
    let (failing, store, handle) = Failing::start();
    submit(&handle, vec![task("a")]);
    failing.set(Fault::Full);
    assert!(block_on(handle.submit(vec![task("b")])).is_err());
    let (tell, told) = mpsc::channel();
    let recorder = {
        let handle = handle.clone();
        thread::spawn(move || {
            for n in 1..=RECORDS {
                handle.record(vec![result(n, Some("g"), Outcome::Done)]);
                let _ = tell.send(n);
            }
        })
    };
    // A round of 10,000 and a mailbox of 1,024. It is said where the recorder stands still, when nothing more comes for a second.
    let recorded = || told.recv_timeout(Duration::from_secs(1)).ok();
    let stands_at = std::iter::from_fn(recorded).last().unwrap();
    assert!((10_000..=11_100).contains(&stands_at), "{stands_at}");
    assert!(block_on(handle.submit(vec![task("b")])).is_err(), "others are told at once all the same");
    failing.set(Fault::None);
    recorder.join().unwrap();
    flush(&handle).unwrap();
    assert_eq!(handle.tail().positions().result, RECORDS);
    store.close().unwrap();
}

#[test]
fn a_store_that_is_closed_while_no_write_works_tries_once_more() {
    for fault in [Fault::None, Fault::Full] {
        let (failing, store, handle) = Failing::start();
        submit(&handle, vec![task("a")]);
        failing.set(Fault::Full);
        assert!(block_on(handle.submit(vec![task("b")])).is_err());
        handle.record(vec![result(1, Some("g"), Outcome::Done)]);
        failing.set(fault);
        assert_eq!(store.close().is_ok(), fault == Fault::None);
        let there = failing.rows.clone().recover().unwrap().positions;
        assert_eq!(there, Positions { task: 1, result: u64::from(fault == Fault::None), status: 0 });
    }
}

#[test]
fn a_lock_of_another_program_is_waited_for_and_not_for_ever_when_the_store_is_closed() {
    let (failing, mut store, handle) = Failing::start();
    failing.set(Fault::Locked);
    let waits = handle.clone();
    let submitter = thread::spawn(move || block_on(waits.submit(vec![task("waits")])));
    let deadline = Instant::now() + Duration::from_secs(20);
    while handle.locked_for().is_none() {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
    assert_eq!(handle.failure(), None, "not yet");
    failing.set(Fault::None);
    assert_eq!(submitter.join().unwrap().unwrap().first_id, 1);
    assert_eq!(handle.locked_for(), None);

    failing.set(Fault::Locked);
    handle.record(vec![result(1, Some("g"), Outcome::Done)]);
    store.begin_close();
    assert!(matches!(flush(&handle), Err(StoreError::InUse { .. } | StoreError::Failed { .. })));
    assert!(store.close().is_err());
}

#[test]
fn an_answer_that_nobody_waits_for_disturbs_nobody() {
    let (store, _) = Store::in_memory();
    let handle = store.handle();
    for _ in 0..100 {
        let asked = block_on(async { futures::poll!(Box::pin(handle.submit(vec![task("asked for")]))) });
        assert!(asked.is_pending() || asked.is_ready());
    }
    flush(&handle).unwrap();
    assert_eq!(handle.tail().positions().task, 100);
}

/// What the database file does.
mod file {
    use rusqlite::Connection;

    use super::*;

    fn folder() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    /// Why the folder cannot be opened: the error, after checking that its message names `path`.
    #[track_caller]
    fn refusal(dir: &Path, path: &Path) -> StoreError {
        let refused = Store::open(dir).map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
        refused
    }

    /// A database that a server has used and closed.
    fn used() -> TempDir {
        let dir = folder();
        let (store, _) = Store::open(dir.path()).unwrap();
        submit(&store.handle(), vec![task("a"), task("b"), task("c")]);
        store.close().unwrap();
        dir
    }

    #[test]
    fn every_commit_is_synced() {
        let dir = folder();
        let sqlite = Sqlite::open(&dir.path().join("new/folder")).unwrap();
        assert_eq!(sqlite.pragma("journal_mode").unwrap(), "wal");
        assert_eq!(sqlite.pragma("synchronous").unwrap(), "2");
    }

    #[test]
    fn what_was_answered_survives_a_kill() {
        let dir = folder();
        let (_store, _) = Store::open(dir.path()).unwrap();
        let handle = _store.handle();
        for _ in 0..50 {
            submit(&handle, vec![task("t"); 20]);
            block_on(handle.record_statuses(vec![status("s")])).unwrap();
        }
        handle.record((1..=100).map(|id| result(id, Some("g"), Outcome::Done)).collect());
        flush(&handle).unwrap();

        // What a kill leaves: the files as they are.
        let left = folder();
        for file in ["contact.db", "contact.db-wal"] {
            fs::copy(dir.path().join(file), left.path().join(file)).unwrap();
        }
        let (copy, recovered) = Store::open(left.path()).unwrap();
        assert_eq!(recovered.positions, Positions { task: 1_000, result: 100, status: 50 });
        assert_eq!(recovered.replay.len(), 100);
        assert_eq!(copy.handle().reader().unwrap().tasks(0, 2_000).unwrap().len(), 1_000);
        assert_eq!(submit(&copy.handle(), vec![task("next")]).first_id, 1_001);
    }

    #[test]
    fn ids_go_on_though_rows_were_removed() {
        let dir = used();
        Connection::open(dir.path().join("contact.db")).unwrap().execute("DELETE FROM task_chunks", []).unwrap();
        let (store, recovered) = Store::open(dir.path()).unwrap();
        assert_eq!(recovered.positions.task, 3);
        assert_eq!(submit(&store.handle(), vec![task("d")]).first_id, 4);
        assert_eq!(ids(&store.handle().reader().unwrap().tasks(0, 9).unwrap()), [4]);
    }

    #[test]
    fn a_closed_database_is_one_file_that_anyone_can_read() {
        let dir = used();
        assert!(!dir.path().join("contact.db-wal").exists());
        let conn = Connection::open(dir.path().join("contact.db")).unwrap();
        let text: String = conn.query_row("SELECT text FROM tasks WHERE id = 2", [], |row| row.get(0)).unwrap();
        assert_eq!(text, "b");
    }

    #[test]
    fn a_folder_has_one_server() {
        let dir = folder();
        let (store, _) = Store::open(dir.path()).unwrap();
        assert!(matches!(refusal(dir.path(), &dir.path().join("lock")), StoreError::InUse { .. }));
        store.close().unwrap();
        Store::open(dir.path()).unwrap();
    }

    #[test]
    fn a_file_that_is_no_database_is_refused_and_left_alone() {
        let dir = folder();
        let path = dir.path().join("contact.db");
        let text = "These are my notes about a contact.\n".repeat(100);
        fs::write(&path, &text).unwrap();
        assert!(matches!(refusal(dir.path(), &path), StoreError::NotContact { .. }));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_database_of_another_program_is_refused_and_left_alone() {
        let dir = folder();
        let path = dir.path().join("contact.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (a); PRAGMA user_version = 1").unwrap();
        let before = fs::read(&path).unwrap();
        assert!(matches!(refusal(dir.path(), &path), StoreError::NotContact { .. }));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn for_whom_a_task_is_and_what_a_group_is_are_kept() {
        let dir = folder();
        let (store, _) = Store::open(dir.path()).unwrap();
        let named = Audience::groups(vec![name("b"), name("组"), name("b")]);
        let selected = Audience::Matching("os = linux,role in (web,api),!canary".parse().unwrap());
        let tasks = [None, Some(named), Some(selected)]
            .map(|audience| NewTask { audience: audience.map(Arc::new), ..task("x") });
        block_on(store.handle().submit(tasks.to_vec())).unwrap();
        let state = GroupState { labels: "os=linux,区=一".parse().unwrap(), ..group("g") };
        let known = |id: &str, labels: &str| KnownClient {
            client: name(id),
            group: name("g"),
            labels: labels.parse().unwrap(),
            version: Some(name("contact 1.0")).filter(|_| !labels.is_empty()),
            system: None,
            first_seen: Time(1),
            last_seen: Time(2),
            here: labels.is_empty(),
        };
        let clients = [known("a", "os=linux"), known("b", ""), known("c", "")];
        let came = clients.iter().map(|it| (it.client.clone(), Some(it.clone()))).collect();
        let groups = vec![state.clone(), group("without")];
        store.handle().checkpoint(Checkpoint { groups, clients: came, ..Checkpoint::default() });
        let went = BTreeMap::from([(name("c"), None)]);
        store.handle().checkpoint(Checkpoint { clients: went, ..Checkpoint::default() });
        store.close().unwrap();
        let (store, recovered) = Store::open(dir.path()).unwrap();
        assert_eq!(recovered.groups, [state, group("without")]);
        assert_eq!(recovered.clients, clients[..2]);
        let kept = store.handle().reader().unwrap().tasks(0, 10).unwrap();
        assert_eq!(kept.iter().map(|task| task.spec.clone()).collect::<Vec<_>>(), tasks);
        let conn = Connection::open(dir.path().join("contact.db")).unwrap();
        let mut select = conn.prepare("SELECT groups, selector FROM tasks ORDER BY id").unwrap();
        let shown = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let shown: Vec<(Option<String>, Option<String>)> = shown.map(Result::unwrap).collect();
        let text = |text: &str| Some(text.to_owned());
        let expected =
            [(None, None), (text(r#"["b","组"]"#), None), (None, text("os=linux,role in (web,api),!canary"))];
        assert_eq!(shown, expected);
    }

    #[test]
    fn who_submitted_is_kept_once_for_the_tasks_in_a_row_and_nothing_where_nobody_is_known() {
        let dir = folder();
        let (store, _) = Store::open(dir.path()).unwrap();
        let by = |name: &str| Some(Arc::new(Submitter { name: name.into(), role: "submit".into() }));
        let signed = |by: &Option<Arc<Submitter>>| NewTask { by: by.clone(), ..task("signed") };
        let (ann, bob) = (by("ann"), by("bob"));
        let submitters = [&ann, &ann, &None, &bob, &bob, &ann];
        block_on(store.handle().submit(vec![task("plain"); 3])).unwrap();
        block_on(store.handle().submit(submitters.map(signed).to_vec())).unwrap();
        let kept = store.handle().reader().unwrap().tasks(3, 10).unwrap();
        assert_eq!(kept.iter().map(|task| &task.spec.by).collect::<Vec<_>>(), submitters);
        let last = store.handle().reader().unwrap().tasks_by_id(&[9]).unwrap();
        assert_eq!(last[0].spec.by, ann);
        let conn = Connection::open(dir.path().join("contact.db")).unwrap();
        let head = |first: i64| -> String {
            conn.query_row("SELECT head FROM task_chunks WHERE first = ?", [first], |row| row.get(0)).unwrap()
        };
        assert_eq!(head(1), "[[0,0,5],[1,5,5],[2,10,5]]");
        assert_eq!(head(4).matches("\"by\"").count(), 4, "{}", head(4));
        let mut select = conn.prepare("SELECT submitted_by FROM tasks ORDER BY id").unwrap();
        let shown: Vec<Option<String>> = select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let shown: Vec<_> = shown.iter().map(Option::as_deref).collect();
        assert_eq!(shown[..3], [None; 3]);
        assert_eq!(shown[3..], [Some("ann"), Some("ann"), None, Some("bob"), Some("bob"), Some("ann")]);
    }

    /// A folder with the file of a server before schema 2, which was killed with two tasks in flight.
    fn schema_1() -> TempDir {
        let dir = folder();
        fs::copy("tests/fixtures/schema-1.db", dir.path().join("contact.db")).unwrap();
        dir
    }

    #[test]
    fn what_schema_1_has_of_deliveries_is_read_as_attempts_that_were_spent() {
        let dir = schema_1();
        let (store, recovered) = Store::open(dir.path()).unwrap();
        let open = |id, deliveries, not_before: Option<i64>| OpenTask {
            id,
            attempts: Attempts::all_spent(deliveries),
            not_before: not_before.map(Time),
            lane: None,
            place: LanePlace::None,
        };
        let [workers] = &recovered.groups[..] else { panic!("{recovered:?}") };
        assert!(workers.retry.is_open());
        assert_eq!(workers.open, [open(2, 2, None), open(4, 1, None), open(5, 0, Some(1_882_024_904_496))]);
        let tasks = store.handle().reader().unwrap().tasks(0, 10).unwrap();
        assert_eq!(tasks.iter().map(|task| task.spec.max_attempts).collect::<Vec<_>>()[4..], [None, Some(7)]);
    }

    /// The tasks in the file of a server up to schema 2, as they stand there.
    fn tasks_in_rows(file: &str) -> Vec<Task> {
        let conn = Connection::open(file).unwrap();
        let mut select = conn.prepare("SELECT * FROM tasks ORDER BY id").unwrap();
        let retry = select.column_index("retry").is_ok();
        let tasks = select.query_map([], |row| {
            let time = |column| row.get::<_, Option<i64>>(column).map(|time| time.map(Time));
            let parsed = |policy: String| Box::new(policy.parse().unwrap());
            let spec = NewTask {
                text: row.get("text")?,
                attachment: Attachment::default(),
                to: row.get::<_, Option<String>>("target")?.map(|to| name(&to)),
                key: row.get("key")?,
                not_before: time("not_before")?,
                expires_at: time("expires_at")?,
                max_attempts: row.get("max_attempts")?,
                retry: if retry { row.get::<_, Option<String>>("retry")?.map(parsed) } else { None },
                priority: [Priority::Normal, Priority::High, Priority::Low][usize::from(row.get::<_, u8>("priority")?)],
                by: None,
                audience: None,
                time_limit: None,
                lane: None,
                replace: None,
                made: None,
            };
            Ok(Task { id: row.get::<_, i64>("id")? as u64, accepted_at: Time(row.get("accepted_at")?), spec })
        });
        tasks.unwrap().map(Result::unwrap).collect()
    }

    /// The results in the file of a server up to schema 2, as they stand there.
    fn results_in_rows(file: &str) -> Vec<TaskResult> {
        let conn = Connection::open(file).unwrap();
        let mut select = conn.prepare("SELECT * FROM results ORDER BY seq").unwrap();
        let results = select.query_map([], |row| {
            let result = NewResult {
                task: row.get::<_, i64>("task_id")? as u64,
                group: row.get::<_, Option<String>>("group")?.map(|group| name(&group)),
                client: row.get::<_, String>("client")?.into(),
                attempt: row.get("attempt")?,
                outcome: Outcome::from_number(row.get("outcome")?).unwrap(),
                ret: row.get("ret")?,
                attachment: Attachment::default(),
                at: Time(row.get("at")?),
                not_before: row.get::<_, Option<i64>>("not_before")?.map(Time),
                late: row.get("late")?,
            };
            Ok(TaskResult { seq: row.get::<_, i64>("seq")? as u64, result })
        });
        results.unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_store_of_before_headers_and_data_is_read_and_goes_on_with_them() {
        let dir = folder();
        fs::copy("tests/fixtures/schema-12.db", dir.path().join("contact.db")).unwrap();
        let with_data = NewTask { attachment: attachment("v", b"\0data"), ..task("new") };
        let failed =
            NewResult { attachment: attachment("v", b"\0core"), ..result(5, Some("workers"), Outcome::Failed) };
        for start in 0..2 {
            let (store, _) = Store::open(dir.path()).unwrap();
            let handle = store.handle();
            if start == 0 {
                assert_eq!(submit(&handle, vec![with_data.clone()]).first_id, 5);
                handle.record(vec![failed.clone()]);
                flush(&handle).unwrap();
            }
            let mut reader = handle.reader().unwrap();
            let tasks = reader.tasks(0, 10).unwrap();
            let texts: Vec<_> = tasks.iter().map(|task| task.spec.text.as_str()).collect();
            assert_eq!(texts, ["with a key", "limited", "everyone", "waits", "new"]);
            assert!(tasks[..4].iter().all(|task| task.spec.attachment.is_nothing()));
            assert_eq!((tasks[0].spec.key.as_deref(), &tasks[4].spec), (Some("k"), &with_data));
            assert_eq!(seqs(&reader.results(0, 10).unwrap()), [1, 2, 3, 4]);
            let dead = reader.dead(0, None, 10).unwrap();
            assert!(dead[0].result.ret.starts_with("exit code 1") && dead[0].result.attachment.is_nothing());
            assert_eq!(dead[1].result, failed);
            store.close().unwrap();
        }
        // People read them, too.
        let conn = Connection::open(dir.path().join("contact.db")).unwrap();
        for view in ["tasks", "results"] {
            let read =
                |row: &rusqlite::Row<'_>| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<Vec<u8>>>(1)?));
            let mut select = conn.prepare(&format!("SELECT headers, data FROM {view} ORDER BY first")).unwrap();
            let all: Vec<_> = select.query_map([], read).unwrap().map(Result::unwrap).collect();
            let (last, before) = all.split_last().unwrap();
            assert!(before.iter().all(|it| *it == (None, None)), "{view}");
            assert_eq!(last.0.as_deref(), Some(r#"{"content-type":"x/y","k.1":"v"}"#));
            assert!(last.1.as_deref().unwrap().starts_with(b"\0"), "{view}");
        }
    }

    #[test]
    fn all_that_earlier_schemas_kept_is_read() {
        for (file, counts) in [("tests/fixtures/schema-1.db", (6, 3, 0)), ("tests/fixtures/schema-2.db", (30, 44, 15))]
        {
            let dir = folder();
            fs::copy(file, dir.path().join("contact.db")).unwrap();
            let (tasks, results) = (tasks_in_rows(file), results_in_rows(file));
            for _ in 0..2 {
                let (store, recovered) = Store::open(dir.path()).unwrap();
                let mut reader = store.handle().reader().unwrap();
                let statuses = reader.statuses(0, 100).unwrap();
                assert_eq!((tasks.len(), results.len(), statuses.len()), counts);
                assert_eq!(reader.tasks(0, 100).unwrap(), tasks);
                assert_eq!(reader.results(0, 100).unwrap(), results);
                for task in &tasks {
                    assert_eq!(reader.tasks_by_id(&[task.id]).unwrap(), std::slice::from_ref(task));
                    let of_it: Vec<_> = results.iter().filter(|r| r.result.task == task.id).cloned().collect();
                    assert_eq!(reader.results_of(task.id).unwrap(), of_it);
                }
                // Those that no operator gave out again or dropped.
                let undoes = |dead: &TaskResult, later: &TaskResult| {
                    let of = |entry: &TaskResult| (entry.result.task, entry.result.group.clone());
                    let undone = matches!(later.result.outcome, Outcome::Revived | Outcome::Dropped);
                    undone && of(dead) == of(later) && later.seq > dead.seq
                };
                let dead = results.iter().filter(|r| r.result.outcome.is_dead() && !r.result.late);
                let dead = dead.filter(|dead| !results.iter().any(|later| undoes(dead, later))).cloned();
                let dead: Vec<_> = dead.collect();
                assert_eq!(reader.dead(0, None, 100).unwrap(), dead);
                assert_eq!(reader.dead_counts().unwrap().values().sum::<u64>(), dead.len() as u64);
                assert_eq!(recovered.positions.task, tasks.last().unwrap().id);
                store.close().unwrap();
            }
        }
    }

    /// A server before schema 3 was killed with tasks of all kinds: one is in flight, some wait for their time.
    #[test]
    fn what_schema_2_has_of_groups_and_keys_goes_on() {
        let dir = folder();
        fs::copy("tests/fixtures/schema-2.db", dir.path().join("contact.db")).unwrap();
        let (store, recovered) = Store::open(dir.path()).unwrap();
        assert_eq!(recovered.positions, Positions { task: 30, result: 44, status: 15 });
        let groups: Vec<_> = recovered.groups.iter().map(|group| (group.name.as_str(), group.paused)).collect();
        assert_eq!(groups, [("late", false), ("named", false), ("paused", true), ("workers", false)]);
        let workers = &recovered.groups[3];
        assert_eq!(workers.cursors, [30, 27, 30]);
        assert_eq!(workers.open.iter().map(|open| open.id).collect::<Vec<_>>(), [10, 11, 19, 26, 27]);
        assert_eq!(workers.open[0].not_before, Some(Time(2_110_991_532_466)));
        assert_eq!(workers.open[2].attempts, Attempts::all_spent(2));
        let unbegun = Attempts { deliveries: 1, spent: 0, begun: false, silent: 0 };
        assert_eq!(workers.open[4].attempts, unbegun);

        let handle = store.handle();
        let again = |key: &str, text: &str, to: Option<&str>| NewTask {
            to: to.map(name),
            ..NewTask { key: Some(key.into()), ..task(text) }
        };
        let known = submit(
            &handle,
            vec![again("key-1", "keyed for workers", Some("workers")), again("key-2", "keyed broadcast", None)],
        );
        assert_eq!((known.first_id, known.known), (8, vec![0, 1]));
        let free = submit(&handle, vec![again("key-3", "the first was cancelled", None)]);
        assert_eq!(free.first_id, 31);
    }

    /// A store of so many MiB.
    fn large(mib: usize) -> (TempDir, Store, Handle) {
        let dir = folder();
        let (store, _) = Store::open(dir.path()).unwrap();
        let handle = store.handle();
        for _ in 0..mib {
            submit(&handle, vec![task(&"x".repeat(1 << 20))]);
        }
        (dir, store, handle)
    }

    fn always() -> GoesOn {
        Arc::new(|_| true)
    }

    fn files(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_backup_has_what_was_answered_before_it_began_and_writing_goes_on_meanwhile() {
        let (_dir, store, handle) = large(20);
        let (to, other) = (folder(), folder());
        let path = to.path().join("copy.db");
        let before = handle.tail().positions().task;
        // One is answered at each of its steps.
        let writer = handle.clone();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let progress = seen.clone();
        let done = handle.back_up(
            &path,
            Arc::new(move |at| {
                submit(&writer, vec![task("meanwhile")]);
                progress.lock().unwrap().push(at);
                true
            }),
        );
        let done = done.unwrap();
        let seen = seen.lock().unwrap();
        assert!(seen.len() >= 20 && seen.is_sorted_by_key(|at| (at.copied, at.checking)), "{seen:?}");
        assert!(seen.iter().all(|at| at.of == done.bytes) && seen.last().unwrap().copied == done.bytes);
        assert_eq!(done.positions.task, before, "it is of the time when it began");
        assert_eq!(fs::metadata(&path).unwrap().len(), done.bytes);
        assert_eq!(files(to.path()), ["copy.db"]);
        assert_eq!(handle.tail().positions().task, before + seen.len() as u64);
        store.close().unwrap();

        fs::copy(&path, other.path().join("contact.db")).unwrap();
        let (store, recovered) = Store::open(other.path()).unwrap();
        assert_eq!(recovered.positions, done.positions);
        assert_eq!(store.handle().reader().unwrap().tasks_by_id(&[1, before]).unwrap().len(), 2);
        assert_eq!(submit(&store.handle(), vec![task("next")]).first_id, before + 1);
    }

    #[test]
    fn a_backup_overwrites_nothing_and_goes_only_where_it_can() {
        let (dir, _store, handle) = large(1);
        let to = folder();
        let why = |path: &Path| handle.back_up(path, always()).unwrap_err();
        let there = to.path().join("there.db");
        fs::write(&there, "mine").unwrap();
        assert!(matches!(why(&there), BackupError::Exists { .. }));
        assert_eq!(fs::read(&there).unwrap(), b"mine");
        fs::write(to.path().join("left.db.partial"), "").unwrap();
        assert!(matches!(why(&to.path().join("left.db")), BackupError::Remains { .. }));
        assert!(matches!(why(Path::new("relative.db")), BackupError::NotAbsolute { .. }));
        assert!(matches!(why(Path::new("/")), BackupError::NotAbsolute { .. }));
        assert!(matches!(why(&to.path().join("no/such/folder.db")), BackupError::Unwritable { .. }));
        assert!(matches!(why(&dir.path().join("contact.db-journal")), BackupError::InStore { .. }));
        assert!(matches!(why(&dir.path().join("contact.db")), BackupError::InStore { .. }));
        assert_eq!(files(to.path()), ["left.db.partial", "there.db"]);
        handle.back_up(&dir.path().join("beside.db"), always()).unwrap();
    }

    #[test]
    fn a_backup_that_is_stopped_leaves_nothing_and_there_is_one_at_a_time() {
        let (_dir, mut store, handle) = large(3);
        let to = folder();
        let path = to.path().join("copy.db");
        for checking in [false, true] {
            let (again, other) = (handle.clone(), to.path().join("other.db"));
            let stop: GoesOn = Arc::new(move |at| {
                let refused = again.back_up(&other, Arc::new(|_| true)).unwrap_err();
                assert!(matches!(refused, BackupError::UnderWay), "{refused}");
                checking && !at.checking
            });
            assert!(matches!(handle.back_up(&path, stop), Err(BackupError::Stopped)));
            assert!(files(to.path()).is_empty());
        }
        store.begin_close();
        assert!(matches!(handle.back_up(&path, always()), Err(BackupError::Stopped)));
        assert!(files(to.path()).is_empty());
        let (_store, recovered) = Store::in_memory();
        assert_eq!(recovered.positions.task, 0);
        assert!(matches!(_store.handle().back_up(&path, always()), Err(BackupError::InMemory)));
    }

    #[test]
    fn a_copy_that_is_damaged_is_no_backup() {
        let dir = folder();
        let (store, _) = Store::open(dir.path()).unwrap();
        for n in 0..200 {
            submit(&store.handle(), vec![task(&n.to_string().repeat(1_000))]);
        }
        store.close().unwrap();
        // The first bytes of a page say what kind of page it is.
        let file = dir.path().join("contact.db");
        let mut bytes = fs::read(&file).unwrap();
        let page = bytes.len() / 4096 / 2 * 4096;
        bytes[page..page + 100].fill(0xa5);
        fs::write(&file, bytes).unwrap();
        let (store, _) = Store::open(dir.path()).unwrap();
        let to = folder();
        let refused = store.handle().back_up(&to.path().join("copy.db"), always()).unwrap_err();
        assert!(matches!(refused, BackupError::Damaged { .. }), "{refused}");
        assert!(files(to.path()).is_empty());
    }

    /// A server was killed while it moved the rows of an older one into chunks: some are moved, the others still stand in rows.
    #[test]
    fn a_move_of_rows_into_chunks_that_was_interrupted_goes_on() {
        let dir = folder();
        let (store, _) = Store::open(dir.path()).unwrap();
        submit(&store.handle(), (1..=30_000).map(|n| task(&format!("task {n}"))).collect());
        store.handle().record((1..=30_000).map(|n| result(n, Some("g"), Outcome::Done)).collect());
        let read = |store: &Store| {
            let mut reader = store.handle().reader().unwrap();
            let tasks: Vec<_> =
                [0, 10_000, 20_000].iter().flat_map(|after| reader.tasks(*after, 10_000).unwrap()).collect();
            let results: Vec<_> =
                [0, 10_000, 20_000].iter().flat_map(|after| reader.results(*after, 10_000).unwrap()).collect();
            (tasks, results)
        };
        flush(&store.handle()).unwrap();
        let before = read(&store);
        assert_eq!((before.0.len(), before.1.len()), (30_000, 30_000));
        store.close().unwrap();
        let conn = Connection::open(dir.path().join("contact.db")).unwrap();
        let rows = "BEGIN;
            CREATE TABLE task_rows AS SELECT id, accepted_at, priority, target, key, not_before, expires_at, max_attempts, retry, text
                FROM tasks WHERE first > 1000;
            CREATE TABLE result_rows AS SELECT seq, task_id, \"group\", client, attempt, outcome, at, not_before, late, ret FROM results;
            DELETE FROM task_chunks WHERE first > 1000;
            DELETE FROM result_chunks;
            COMMIT";
        conn.execute_batch(rows).unwrap();
        let left: i64 = conn.query_row("SELECT count(*) FROM task_rows", [], |row| row.get(0)).unwrap();
        assert!((20_000..30_000).contains(&left), "{left}");
        drop(conn);
        for _ in 0..2 {
            let (store, _) = Store::open(dir.path()).unwrap();
            assert!(read(&store) == before);
            store.close().unwrap();
        }
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let dir = used();
        let path = dir.path().join("contact.db");
        Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 1000").unwrap();
        assert!(matches!(refusal(dir.path(), &path), StoreError::Newer { found: 1_000, .. }));
    }

    #[test]
    fn a_folder_that_cannot_be_made_or_written_is_refused() {
        let dir = folder();
        let file = dir.path().join("file");
        fs::write(&file, "in the way").unwrap();
        assert!(matches!(refusal(&file, &file), StoreError::Unwritable { .. }));
        assert!(matches!(refusal(&file.join("below"), &file), StoreError::Unwritable { .. }));

        let path = dir.path().join("contact.db");
        fs::create_dir(&path).unwrap();
        assert!(matches!(refusal(dir.path(), &path), StoreError::Unwritable { .. }));
    }

    #[test]
    fn a_damaged_chunk_is_named_as_such_whatever_is_in_it() {
        let damage = [
            "UPDATE task_chunks SET priority = 9",
            "UPDATE task_chunks SET head = 'no JSON'",
            "UPDATE task_chunks SET head = '[]'",
            "UPDATE task_chunks SET head = '[[0,0,1],[5,1,1]]'",
            "UPDATE task_chunks SET head = '[[0,0,1],[0,1,1],[2,2,1]]'",
            "UPDATE task_chunks SET head = '[[0,0,1],[1,1,1],[2,4294967295,4294967295]]'",
            "UPDATE task_chunks SET head = '[[0,0,1],[1,1,1],[2,2,1,{\"unknown\":1}]]'",
            "UPDATE task_chunks SET head = '[[0,0,1],[1,1,1],[2,2,1,{\"retry\":\"never\"}]]'",
            "UPDATE task_chunks SET texts = x'616263ff', head = '[[0,0,1],[1,1,1],[2,2,2]]'",
            "UPDATE task_chunks SET texts = x'61'",
            "UPDATE task_chunks SET last = 2",
            "UPDATE task_chunks SET target = char(10)",
            "UPDATE result_chunks SET head = '[[0,0,0,0,null,7,0,0],[1,0,0,1,null,0,0,0]]'",
            "UPDATE result_chunks SET head = '[[0,0,0,0,7,0,0,0],[1,0,0,1,null,0,0,0]]'",
            "UPDATE result_chunks SET head = '[[0,0,0,0,null,0,99,0],[1,0,0,1,null,0,0,0]]'",
            "UPDATE result_chunks SET names = '[1]'",
            "UPDATE result_chunks SET first_task = -1",
        ];
        for damage in damage {
            let dir = folder();
            let (store, _) = Store::open(dir.path()).unwrap();
            submit(&store.handle(), vec![task("a"), task("b"), task("c")]);
            store.handle().record(vec![result(1, None, Outcome::Done), result(2, None, Outcome::Done)]);
            flush(&store.handle()).unwrap();
            let path = dir.path().join("contact.db");
            Connection::open(&path).unwrap().execute_batch(damage).unwrap();
            let mut reader = store.handle().reader().unwrap();
            let read = reader.tasks(0, 10).map(drop).and(reader.results(0, 10).map(drop));
            let Err(damaged) = read else { panic!("{damage}: {:?}", reader.tasks(0, 10)) };
            assert!(matches!(damaged, StoreError::Damaged { .. }), "{damage}: {damaged}");
            assert!(damaged.to_string().contains(path.to_str().unwrap()), "{damaged}");
        }
    }

    #[test]
    fn a_database_with_overwritten_pages_is_damaged() {
        let dir = used();
        let path = dir.path().join("contact.db");
        let mut bytes = fs::read(&path).unwrap();
        bytes[4096..].fill(0xA5);
        fs::write(&path, bytes).unwrap();
        assert!(matches!(refusal(dir.path(), &path), StoreError::Damaged { .. }));
    }

    #[test]
    fn a_full_disk_fails_the_store_until_there_is_room_and_loses_nothing_that_was_answered() {
        let dir = folder();
        let sqlite = Sqlite::open(dir.path()).unwrap();
        sqlite.limit(1 << 20).unwrap();
        let (store, _) = Store::with_backend(Box::new(sqlite)).unwrap();
        let handle = store.handle();
        let mut answered = 0;
        let refused = loop {
            match block_on(handle.submit(vec![task(&"x".repeat(10_000)); 3])) {
                Ok(accepted) => answered += u64::from(accepted.count),
                Err(error) => break error,
            }
            assert!(answered < 200, "2 MB do not fit");
        };
        assert!(matches!(refused, StoreError::Full { .. }));
        assert!(refused.to_string().contains("contact.db"), "{refused}");
        // The limit was that of the connection: the next one has room.
        until_it_is_open_again(&handle);
        assert_eq!(submit(&handle, vec![task("there is room again")]).first_id, answered + 1);
        handle.record(vec![result(1, Some("g"), Outcome::Done)]);
        store.close().unwrap();

        let (store, recovered) = Store::open(dir.path()).unwrap();
        assert_eq!(recovered.positions, Positions { task: answered + 1, result: 1, status: 0 });
        assert_eq!(submit(&store.handle(), vec![task("and after a start")]).first_id, answered + 2);
    }

    #[test]
    fn a_lock_that_another_program_holds_for_longer_than_a_backup_is_waited_for() {
        let dir = folder();
        let (store, _) = Store::open(dir.path()).unwrap();
        let handle = store.handle();
        submit(&handle, vec![task("before")]);
        let other = Connection::open(dir.path().join("contact.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let waits = handle.clone();
        let submitter = thread::spawn(move || block_on(waits.submit(vec![task("waits")])));
        until(&handle, |handle| handle.failure().is_some());
        let why = handle.failure().unwrap();
        assert!(why.contains("contact.db") && why.contains("10 s"), "{why}");
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(submitter.join().unwrap().unwrap().first_id, 2);
        until_it_is_open_again(&handle);
        assert_eq!(submit(&handle, vec![task("after")]).first_id, 3);
    }

    #[test]
    fn a_folder_that_is_away_is_not_taken_for_an_empty_one() {
        let dir = folder();
        let (here, away) = (dir.path().join("here"), dir.path().join("away"));
        let sqlite = Sqlite::open(&here).unwrap();
        sqlite.limit(1 << 19).unwrap();
        let (store, _) = Store::with_backend(Box::new(sqlite)).unwrap();
        let handle = store.handle();
        submit(&handle, vec![task("answered")]);
        fs::rename(&here, &away).unwrap();
        assert!(block_on(handle.submit(vec![task(&"x".repeat(1 << 20))])).is_err());
        fs::create_dir(&here).unwrap();
        until(&handle, |handle| handle.failure().unwrap().contains("cannot be created or written"));
        assert!(!here.join("contact.db").exists());
        fs::remove_dir(&here).unwrap();
        fs::rename(&away, &here).unwrap();
        until_it_is_open_again(&handle);
        assert_eq!(submit(&handle, vec![task("next")]).first_id, 2);
    }
}

/// Random lives of a database, held against memory.
mod lives {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What is done to both.
    #[derive(Debug, Clone)]
    enum Op {
        /// Tasks: group, priority, length of the text, and whether it has a key, a time and an expiry; then results: which of the tasks
        /// there are, of which group, with which outcome.
        Commit(Vec<(u8, u8, u16, u8)>, Vec<(u16, u8, u8)>),
        /// Cancels a task, or changes when it expires.
        Change(u16, bool),
        /// Removes what is settled up to there, for everyone and for each group.
        Remove(u16, u16, u16, u8),
        Reopen,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let tasks = prop_oneof![4 => vec((0..4u8, 0..3u8, 0..60u16, 0..32u8), 0..12), 1 => vec((0..4u8, 0..3u8, 0..2_000u16, 0..32u8), 400..700)];
        let results = prop_oneof![4 => vec((any::<u16>(), 0..4u8, 0..12u8), 0..12), 1 => vec((any::<u16>(), 0..4u8, 0..12u8), 400..700)];
        let op = prop_oneof![
            6 => (tasks, results).prop_map(|(tasks, results)| Op::Commit(tasks, results)),
            2 => (any::<u16>(), any::<bool>()).prop_map(|(task, cancel)| Op::Change(task, cancel)),
            2 => (any::<u16>(), any::<u16>(), any::<u16>(), 1..200u8).prop_map(|(all, a, b, limit)| Op::Remove(all, a, b, limit)),
            1 => Just(Op::Reopen),
        ];
        vec(op, 1..25)
    }

    struct Life {
        dir: TempDir,
        sqlite: Option<Sqlite>,
        memory: Memory,
        positions: Positions,
        /// The newest task of each, be it kept or not.
        slots: HashMap<Slot, TaskId>,
    }

    fn group_of(number: u8) -> Option<GroupName> {
        [None, Some("a"), Some("b"), Some("absent")][usize::from(number)].map(name)
    }

    impl Life {
        fn commit(&mut self, batch: &Batch) {
            self.sqlite.as_mut().unwrap().commit(batch).unwrap();
            self.memory.commit(batch).unwrap();
        }

        fn apply(&mut self, op: &Op) {
            let upto = |number: u16, last: u64| if last == 0 { 0 } else { u64::from(number) % (last + 1) };
            match op {
                Op::Commit(tasks, results) => {
                    let tasks = tasks.iter().map(|(to, priority, length, rare)| {
                        self.positions.task += 1;
                        let id = self.positions.task;
                        let spec = NewTask {
                            text: "任".repeat(usize::from(*length)),
                            attachment: match rare & 9 {
                                9 => attachment("任", &vec![0xff; usize::from(*length)]),
                                1 => Attachment::new(Headers::default(), vec![id as u8; 3]),
                                _ => Attachment::default(),
                            },
                            to: group_of(*to),
                            priority: Priority::ALL[usize::from(*priority)],
                            key: (rare & 1 != 0).then(|| format!("key {id}")),
                            not_before: (rare & 2 != 0).then_some(Time(id as i64)),
                            expires_at: (rare & 4 != 0).then_some(Time(-7)),
                            max_attempts: (rare & 8 != 0).then_some(3),
                            retry: (rare & 8 != 0).then(|| Box::new("first=10s".parse().unwrap())),
                            by: (rare & 16 != 0)
                                .then(|| Arc::new(Submitter { name: "ann".into(), role: "submit".into() })),
                            audience: None,
                            time_limit: (rare & 2 != 0)
                                .then_some(TimeLimit { millis: NonZeroU32::MIN, fails: rare & 4 != 0 }),
                            lane: (rare & 4 != 0).then(|| name(&format!("lane {}", id % 3))),
                            replace: (rare & 6 == 2).then(|| Box::new(replacing(&format!("key {}", id % 2)))),
                            made: (rare & 8 != 0).then(|| {
                                let moment = (rare & 1 != 0).then_some(Time(id as i64));
                                Arc::new(Made { schedule: name("nightly"), moment })
                            }),
                        };
                        let mut spec = spec;
                        if let Some(slot) = Slot::of(&spec) {
                            spec.replace.as_mut().unwrap().replaces = self.slots.insert(slot, id);
                        }
                        Arc::new(Task { id, accepted_at: Time(1_000 + (id % 3) as i64), spec })
                    });
                    let tasks: Vec<_> = tasks.collect();
                    let results = results.iter().map(|(task, group, outcome)| {
                        self.positions.result += 1;
                        let seq = self.positions.result;
                        let outcome = Outcome::ALL[usize::from(*outcome)];
                        let not_before = (outcome == Outcome::Retry).then_some(Time(9));
                        let result = NewResult {
                            client: format!("client {}", seq % 3).into(),
                            attempt: (seq % 2) as u32 + 1,
                            late: seq.is_multiple_of(7),
                            attachment: match seq % 5 {
                                0 => attachment("任", &[seq as u8; 200]),
                                1 => attachment("", &[]),
                                _ => Attachment::default(),
                            },
                            at: Time(900 + (seq % 4) as i64),
                            not_before,
                            ..result(
                                upto(*task, self.positions.task),
                                group_of(*group).as_ref().map(Name::as_str),
                                outcome,
                            )
                        };
                        TaskResult { seq, result }
                    });
                    let results = results.collect();
                    let batch = Batch { tasks, results, positions: self.positions, ..Batch::default() };
                    self.commit(&batch);
                }
                Op::Change(task, cancel) => {
                    let task = upto(*task, self.positions.task);
                    let mut batch = Batch { positions: self.positions, ..Batch::default() };
                    batch.expiries.push((task, cancel.then_some(Time(-5))));
                    if *cancel {
                        batch.freed.insert(task);
                    }
                    self.commit(&batch);
                }
                Op::Remove(everyone, a, b, limit) => {
                    let last = self.positions.task;
                    let floors = removable(upto(*everyone, last), &[("a", upto(*a, last)), ("b", upto(*b, last))]);
                    let floors = Removable { limit: usize::from(*limit), ..floors };
                    loop {
                        let of_memory = self.memory.removable(&floors).unwrap();
                        assert_eq!(self.reader().removable(&floors).unwrap(), of_memory);
                        let chunks = of_memory.iter().map(|chunk| chunk.first).collect();
                        let removal = Removal { chunks, before: floors.before, now: floors.now, limit: 10_000 };
                        let removed = self.sqlite.as_mut().unwrap().remove(&removal).unwrap();
                        let of_memory = self.memory.remove(&removal).unwrap();
                        assert_eq!((&removed.tasks, removed.others), (&of_memory.tasks, of_memory.others));
                        if removed.is_nothing() {
                            break;
                        }
                    }
                }
                Op::Reopen => {
                    let sqlite: Box<dyn Backend> = Box::new(self.sqlite.take().unwrap());
                    sqlite.close().unwrap();
                    let mut sqlite = Sqlite::open(self.dir.path()).unwrap();
                    assert_eq!(sqlite.recover().unwrap(), self.memory.recover().unwrap());
                    self.sqlite = Some(sqlite);
                }
            }
        }

        fn reader(&self) -> Box<dyn Reader> {
            self.sqlite.as_ref().unwrap().reader()().unwrap()
        }

        /// Both give the same answers to everything.
        fn compare(&mut self) {
            for slot in self.slots.keys() {
                let newest = self.memory.newest_of(slot).unwrap();
                assert_eq!(self.sqlite.as_mut().unwrap().newest_of(slot).unwrap(), newest, "{slot:?}");
            }
            let (mut sqlite, memory) = (self.reader(), &mut self.memory);
            macro_rules! same {
                ($($call:tt)+) => {
                    assert_eq!(sqlite.$($call)+.unwrap(), memory.$($call)+.unwrap(), stringify!($($call)+))
                };
            }
            let (task, seq) = (self.positions.task, self.positions.result);
            same!(first_task());
            same!(dead(0, None, usize::MAX));
            same!(dead_counts());
            same!(addressed_groups(None, 10));
            for limit in [1, 7, usize::MAX] {
                for after in [0, task / 3, task / 2, task, u64::MAX] {
                    same!(tasks(after, limit));
                    same!(latest_tasks(after, limit));
                }
                for after in [0, seq / 3, seq / 2, seq, u64::MAX] {
                    same!(results(after, limit));
                }
                for group in [None, Some("a"), Some("b"), Some("absent"), Some("unknown")] {
                    for priority in Priority::ALL {
                        for (after, upto, broadcast_after) in
                            [(0, task, 0), (task / 3, 2 * task / 3, task / 2), (task / 2, u64::MAX, 0)]
                        {
                            let asked = Backlog { after, upto, broadcast_after, limit, ..backlog(group, priority) };
                            same!(backlog(&asked));
                            let mut of_lane = asked.clone();
                            of_lane.lane = Some(name("lane 1"));
                            same!(backlog(&of_lane));
                            same!(count(&asked));
                            if group.is_some() {
                                same!(expiries(&asked));
                            }
                        }
                    }
                }
            }
            let some = |last: u64| (0..=last + 1).step_by(1 + last as usize / 23);
            let ids: Vec<TaskId> = some(task).collect();
            same!(results_by_seq(&some(seq).collect::<Vec<_>>()));
            same!(tasks_by_id(&ids));
            for id in ids {
                same!(results_of(id));
                same!(outcomes_of(id));
                same!(latest_results_of(id, 3));
                let key = format!("key {id}");
                let sqlite = self.sqlite.as_mut().unwrap();
                assert_eq!(sqlite.find_key(&key).unwrap(), memory.find_key(&key).unwrap());
                assert_eq!(sqlite.has_task(id).unwrap(), memory.has_task(id).unwrap());
                for group in ["a", "b"].map(name) {
                    assert_eq!(sqlite.last_outcome(&group, id).unwrap(), memory.last_outcome(&group, id).unwrap());
                }
            }
        }
    }

    /// Few, since each compares everything; more with PROPTEST_CASES.
    fn cases() -> u32 {
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(6)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_database_and_memory_hold_the_same_whatever_is_done(ops in ops()) {
            let dir = tempfile::tempdir().unwrap();
            let mut sqlite = Sqlite::open(dir.path()).unwrap();
            sqlite.recover().unwrap();
            let (memory, positions, slots) = Default::default();
            let mut life = Life { dir, sqlite: Some(sqlite), memory, positions, slots };
            for op in &ops {
                life.apply(op);
                if matches!(op, Op::Remove(..) | Op::Reopen) {
                    life.compare();
                }
            }
            life.compare();
        }
    }
}

/// What a task costs, in an empty store and as it fills: `perf stat -e instructions:u` of the program says how much work it is. See
/// docs/performance-log.md.
#[test]
#[ignore = "a measurement"]
fn what_a_task_costs() {
    let commits = std::env::var("CONTACT_TEST_COMMITS").map_or(1_000, |commits| commits.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut sqlite = Sqlite::open(dir.path()).unwrap();
    sqlite.recover().unwrap();
    let text: String = "x".repeat(100);
    let began = Instant::now();
    let (mut commit_time, mut commit_cpu) = (Duration::ZERO, 0);
    // Nanoseconds that this thread was on a processor.
    let cpu = || -> u64 {
        let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        schedstat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
    };
    for commit in 0..commits {
        let positions = Positions { task: 1_000 * (commit + 1), result: 1_000 * (commit + 1), status: 0 };
        let ids = 1_000 * commit + 1..=1_000 * (commit + 1);
        let spec = NewTask { text: text.clone(), ..NewTask::default() };
        let tasks = ids.clone().map(|id| Arc::new(Task { id, accepted_at: Time(commit as i64), spec: spec.clone() }));
        let client: Arc<str> = "worker-1".into();
        // Eight workers finish in about the order in which they began.
        let results = ids.map(|id| {
            let result = NewResult {
                client: client.clone(),
                ret: String::new(),
                at: Time((commit + id % 8) as i64),
                ..result(((id - 1) ^ 7) + 1, Some("workers"), Outcome::Done)
            };
            TaskResult { seq: id, result }
        });
        let batch = Batch {
            tasks: tasks.collect(),
            results: results.collect(),
            positions,
            mark: Some(positions.result),
            ..Batch::default()
        };
        let (from, cpu_before) = (Instant::now(), cpu());
        sqlite.commit(&batch).unwrap();
        commit_cpu += cpu() - cpu_before;
        commit_time += from.elapsed();
    }
    let bytes = fs::metadata(dir.path().join("contact.db")).unwrap().len();
    let count = 1_000 * commits;
    println!(
        "{count} tasks and outcomes: {:.2} us of CPU each in commits, which took {:.2} us, {:.2} in all; {} bytes each",
        commit_cpu as f64 / 1e3 / count as f64,
        commit_time.as_secs_f64() * 1e6 / count as f64,
        began.elapsed().as_secs_f64() * 1e6 / count as f64,
        bytes / count
    );
}
