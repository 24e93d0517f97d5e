//! What a store promises whose truth is a log that several servers share: whatever happens to them and to what they send, nothing that was
//! answered is lost, nothing is there twice, and all views are the same.

mod rows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use contact::attachment::Attachment;
use contact::store::*;
use contact::task::*;
use futures::executor::block_on;
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use rows::rows;

/// How long a message is sent again and again by servers that are to give up soon, and by those that are not.
const LITTLE: Duration = Duration::from_millis(8);
const MUCH: Duration = Duration::from_secs(20);
/// The log is not cut.
const NEVER: u64 = u64::MAX / 2;

fn group() -> GroupName {
    Name::new(NameOf::Group, "g").unwrap()
}

fn task(text: impl Into<String>) -> NewTask {
    NewTask { text: text.into(), ..NewTask::default() }
}

fn done(task: TaskId, ret: impl Into<String>) -> NewResult {
    NewResult {
        task,
        group: Some(group()),
        client: "client".into(),
        attempt: 1,
        outcome: Outcome::Done,
        ret: ret.into(),
        attachment: Attachment::default(),
        at: Time(1_000),
        not_before: None,
        late: false,
    }
}

fn flush(handle: &Handle) -> Result<(), StoreError> {
    let (tell, told) = std::sync::mpsc::channel();
    handle.flush(Box::new(move |flushed| tell.send(flushed).unwrap()));
    told.recv_timeout(Duration::from_secs(20)).expect("within 20 s")
}

/// A time to come.
fn later() -> Time {
    Time::now().after(Duration::from_secs(3_600))
}

/// Removes the tasks up to this one.
fn remove(handle: &Handle, upto: TaskId) -> Removed {
    remove_if(handle, upto, Time(0), |_| true)
}

/// The same of the chunks that may go by their first task. What came before `old` keeps no log.
fn remove_if(handle: &Handle, upto: TaskId, old: Time, goes: impl Fn(TaskId) -> bool) -> Removed {
    let mut reader = handle.reader().unwrap();
    let (now, limit) = (later(), 10_000);
    let floors = Floors { everyone: upto, groups: HashMap::from([(group(), upto)]) };
    let removable = Removable { floors, before: now, unclaimed_before: Time(0), now, limit };
    let chunks = reader.removable(&removable).unwrap();
    let chunks = chunks.iter().map(|chunk| chunk.first).filter(|first| goes(*first)).collect();
    let remove = |chunks| block_on(handle.remove(Removal { chunks, before: old, now, limit })).unwrap();
    let removed = remove(chunks);
    // As a round ends: with one that finds nothing.
    while !remove(Vec::new()).is_nothing() {}
    removed
}

/// One of several, with a view of its own.
struct Server {
    dir: TempDir,
    log: MemoryLog,
    faults: Faults,
    patience: Duration,
    /// The log can be cut at each so many messages.
    cuts_every: u64,
    role: Role,
}

enum Role {
    Down,
    Following(Standby<MemoryLog>),
    /// Or taking itself for the one that does.
    Leading(Store),
}

impl Server {
    fn new(log: &MemoryLog) -> Server {
        let faults = Faults::default();
        let (dir, log) = (tempfile::tempdir().unwrap(), log.with(&faults));
        Server { dir, log, faults, patience: LITTLE, cuts_every: 100, role: Role::Down }
    }

    /// Follows to the end of the log.
    fn follow(&mut self) {
        if let Role::Down = self.role {
            let standby = Standby::open(self.log.clone(), self.dir.path()).unwrap();
            self.role = Role::Following(standby.with_patience(self.patience).with_cuts_every(self.cuts_every));
        }
        if let Role::Following(standby) = &mut self.role {
            while standby.follow(Duration::ZERO).unwrap().messages > 0 {}
        }
    }

    fn try_to_lead(&mut self, purge_every: u64) {
        self.follow();
        self.role = match std::mem::replace(&mut self.role, Role::Down) {
            Role::Following(standby) => match standby.lead("a server") {
                Ok(leading) => {
                    let leading = Box::new(leading.with_purge_every(purge_every));
                    Role::Leading(Store::with_backend(leading).unwrap().0)
                }
                Err(not) => Role::Following(not.standby),
            },
            role => role,
        };
    }

    #[track_caller]
    fn lead(&mut self) -> Handle {
        self.try_to_lead(NEVER);
        self.leading().expect("it leads")
    }

    fn leading(&self) -> Option<Handle> {
        match &self.role {
            Role::Leading(store) => Some(store.handle()),
            _ => None,
        }
    }

    /// Ends without a word to anybody.
    fn die(&mut self) {
        self.faults.push([Fault::Lost; 200]);
        self.role = Role::Down;
        self.faults.end();
    }

    /// Ends in good order.
    fn stop(&mut self) {
        self.role = Role::Down;
    }

    fn rows(&self) -> Vec<String> {
        rows(self.dir.path())
    }

    /// The rows that only one of two has. Where the log is to be cut next, each finds out by itself.
    fn unlike(&self, other: &Server) -> Vec<String> {
        let rows = |server: &Server| -> BTreeSet<String> {
            server.rows().into_iter().filter(|row| !row.starts_with("log_places")).collect()
        };
        rows(self).symmetric_difference(&rows(other)).cloned().collect()
    }
}

/// What is there by a view of its own that begins with the first message.
struct Truth {
    rows: Vec<String>,
    tasks: BTreeMap<TaskId, String>,
    results: BTreeMap<u64, (TaskId, String)>,
}

fn truth(log: &MemoryLog) -> Truth {
    let mut newcomer = Server::new(log);
    newcomer.follow();
    newcomer.stop();
    let rows = newcomer.rows();
    let (store, _) = Store::open(newcomer.dir.path()).unwrap();
    let mut reader = store.handle().reader().unwrap();
    let (mut tasks, mut results) = (BTreeMap::new(), BTreeMap::new());
    loop {
        let page = reader.tasks(tasks.last_key_value().map_or(0, |(id, _)| *id), 1_000).unwrap();
        if page.is_empty() {
            break;
        }
        tasks.extend(page.into_iter().map(|task| (task.id, task.spec.text)));
    }
    loop {
        let page = reader.results(results.last_key_value().map_or(0, |(seq, _)| *seq), 1_000).unwrap();
        if page.is_empty() {
            break;
        }
        results.extend(page.into_iter().map(|entry| (entry.seq, (entry.result.task, entry.result.ret))));
    }
    Truth { rows, tasks, results }
}

fn servers<const N: usize>() -> (MemoryLog, [Server; N]) {
    let log = MemoryLog::default();
    let servers = std::array::from_fn(|_| Server::new(&log));
    (log, servers)
}

fn submit(handle: &Handle, text: impl Into<String>) -> Result<TaskId, StoreError> {
    block_on(handle.submit(vec![task(text)])).map(|accepted| accepted.first_id)
}

#[test]
fn what_was_accepted_outlives_the_server_that_accepted_it() {
    let (_log, [mut one, mut other]) = servers();
    assert_eq!(submit(&one.lead(), "a").unwrap(), 1);
    other.follow();
    let handle = one.leading().unwrap();
    handle.record(vec![done(1, "b")]);
    flush(&handle).unwrap();
    one.die();
    let handle = other.lead();
    let mut reader = handle.reader().unwrap();
    assert_eq!(reader.tasks(0, 9).unwrap()[0].spec.text, "a");
    assert_eq!(reader.results(0, 9).unwrap()[0].result.ret, "b");
    assert_eq!(submit(&handle, "c").unwrap(), 2);
    one.follow();
    other.stop();
    one.follow();
    other.follow();
    assert_eq!(one.rows(), other.rows());
}

#[test]
fn a_server_that_led_answers_nothing_once_another_leads() {
    let (log, [mut old, mut new]) = servers();
    let old_handle = old.lead();
    submit(&old_handle, "a").unwrap();
    let new_handle = new.lead();
    submit(&new_handle, "b").unwrap();
    let refused = submit(&old_handle, "c").unwrap_err();
    assert!(matches!(refused, StoreError::Fenced { .. }), "{refused}");
    old_handle.record(vec![done(1, "late")]);
    let refused = flush(&old_handle).unwrap_err();
    assert!(refused.to_string().contains("another server leads"), "{refused}");
    assert!(!old_handle.leads());
    assert!(old_handle.failure().is_some());
    submit(&new_handle, "d").unwrap();
    old.stop();
    new.stop();
    let texts: Vec<_> = truth(&log).tasks.into_values().collect();
    assert_eq!(texts, ["a", "b", "d"]);
}

#[test]
fn a_server_whose_proof_is_old_answers_from_what_it_has_only_after_another_one() {
    let (_log, [mut old, mut new]) = servers();
    let keyed = || NewTask { key: Some("k".into()), ..task("a") };
    let old_handle = old.lead();
    block_on(old_handle.submit(vec![keyed()])).unwrap();
    assert!(old_handle.leads());
    let deadline = Instant::now() + Duration::from_secs(20);
    while old_handle.leads() {
        assert!(Instant::now() < deadline, "a proof ends");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(block_on(old_handle.submit(vec![keyed()])).unwrap().known, [0]);
    assert!(old_handle.leads(), "that proved it again");
    let new_handle = new.lead();
    block_on(new_handle.cancel(1, Time(5))).unwrap();
    while old_handle.leads() {
        assert!(Instant::now() < deadline, "a proof ends");
        std::thread::sleep(Duration::from_millis(10));
    }
    let refused = block_on(old_handle.submit(vec![keyed()])).unwrap_err();
    assert!(matches!(refused, StoreError::Fenced { .. }), "the task is cancelled, and its key is free: {refused}");
}

#[test]
fn whoever_is_behind_does_not_lead() {
    let (log, [mut one, mut other]) = servers();
    let dir = tempfile::tempdir().unwrap();
    let mut behind = Standby::open(log.clone(), dir.path()).unwrap();
    submit(&one.lead(), "a").unwrap();
    one.stop();
    behind = behind.lead("behind").map(|_| ()).unwrap_err().standby;
    assert!(behind.follow(Duration::ZERO).unwrap().resigned, "an orderly end is told");
    submit(&other.lead(), "b").unwrap();
}

#[test]
fn a_message_whose_acknowledgement_is_lost_is_there_once() {
    let (log, [mut one]) = servers();
    one.patience = MUCH;
    let handle = one.lead();
    one.faults.push([Fault::Unsaid, Fault::None]);
    assert_eq!(submit(&handle, "found where it was to stand").unwrap(), 1);
    one.faults.push([Fault::Lost, Fault::None, Fault::None]);
    assert_eq!(submit(&handle, "sent again").unwrap(), 2);
    one.faults.push([Fault::Unsaid, Fault::Lost, Fault::None, Fault::None]);
    assert_eq!(submit(&handle, "there, though it was said that nothing is").unwrap(), 3);
    one.faults.push([Fault::Late(1), Fault::None, Fault::None]);
    assert_eq!(submit(&handle, "late").unwrap(), 4);
    one.stop();
    assert_eq!(truth(&log).tasks.len(), 4);
}

#[test]
fn while_the_log_does_not_answer_nothing_is_taken_and_afterwards_all_goes_on() {
    let (log, [mut one]) = servers();
    let handle = one.lead();
    one.faults.push([Fault::Lost; 2_000]);
    let refused = submit(&handle, "refused").unwrap_err();
    assert!(matches!(refused, StoreError::NoLog { .. }), "{refused}");
    assert!(refused.to_string().contains("NATS"), "{refused}");
    handle.record(vec![done(7, "kept")]);
    assert!(flush(&handle).is_err());
    one.faults.end();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !handle.is_good() {
        assert!(Instant::now() < deadline, "it goes on by itself");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(submit(&handle, "accepted").unwrap(), 1);
    flush(&handle).unwrap();
    one.stop();
    let truth = truth(&log);
    assert_eq!(truth.tasks.into_values().collect::<Vec<_>>(), ["accepted"]);
    assert_eq!(truth.results.into_values().collect::<Vec<_>>(), [(7, "kept".to_owned())]);
}

#[test]
fn a_long_transaction_goes_in_parts_and_counts_whole_or_not_at_all() {
    let (log, [mut one, mut other]) = servers();
    let long = "x".repeat(3 * LONGEST_MESSAGE);
    let handle = one.lead();
    let before = log.ends().1;
    submit(&handle, long.clone()).unwrap();
    assert_eq!(log.ends().1, before + 4);
    other.follow();
    // Two parts of it come, and the rest never does.
    one.faults.push([Fault::None; 2]);
    one.faults.push([Fault::Lost; 200]);
    submit(&handle, long.clone()).unwrap_err();
    one.die();
    assert_eq!(log.ends().1, before + 6);
    // Whoever begins anew in the middle of it reads its beginning again.
    other.follow();
    other.stop();
    assert_eq!(submit(&other.lead(), "next").unwrap(), 2);
    other.stop();
    assert_eq!(truth(&log).tasks.into_values().collect::<Vec<_>>(), [long, "next".to_owned()]);
}

#[test]
fn a_standby_whose_view_is_locked_for_a_while_misses_nothing() {
    let (_log, [mut one, mut other]) = servers();
    let long = "x".repeat(2 * LONGEST_MESSAGE);
    let handle = one.lead();
    other.follow();
    submit(&handle, long.clone()).unwrap();
    let Role::Following(standby) = &mut other.role else { panic!("it follows") };
    let lock = rusqlite::Connection::open(other.dir.path().join("contact.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = standby.follow(Duration::ZERO).unwrap_err();
    assert!(refused.may_pass(), "{refused}");
    lock.execute_batch("ROLLBACK").unwrap();
    one.stop();
    let tasks = other.lead().reader().unwrap().tasks(0, 9).unwrap();
    assert_eq!(tasks.iter().map(|task| &task.spec.text).collect::<Vec<_>>(), [&long]);
}

#[test]
fn the_log_is_cut_before_what_is_kept_and_whoever_was_behind_makes_its_view_anew() {
    let (log, [mut one, mut behind, mut newcomer]) = servers();
    behind.follow();
    one.try_to_lead(200);
    let handle = one.leading().unwrap();
    let settle = |task| {
        handle.record(vec![done(task, "done")]);
        handle.checkpoint(Checkpoint { groups: vec![state(task)], ..Checkpoint::default() });
        flush(&handle).unwrap();
    };
    for n in 1..=400 {
        let id = submit(&handle, format!("{n}")).unwrap();
        settle(id);
        if n == 5 {
            behind.follow();
        }
    }
    assert_eq!(log.ends().0, Some(1));
    let removed = remove(&handle, 300);
    assert_eq!((removed.tasks.len(), removed.results), (300, 300));
    let (first, last) = log.ends();
    assert!(first.unwrap() > 300 && first.unwrap() < last, "{first:?} to {last}");
    submit(&handle, "behind that").unwrap();
    let kept = handle.reader().unwrap().tasks(0, usize::MAX).unwrap();
    one.stop();
    for server in [&mut behind, &mut newcomer] {
        let handle = server.lead();
        let mut reader = handle.reader().unwrap();
        assert_eq!(reader.tasks(0, usize::MAX).unwrap(), kept);
        let results: Vec<_> = kept.iter().map(|task| reader.results_of(task.id).unwrap().len()).collect();
        assert_eq!(results, [[1; 100].as_slice(), &[0]].concat());
        assert_eq!(handle.tail().positions(), Positions { task: 401, result: 400, status: 0 });
        server.stop();
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(server.dir.path().join("contact.db"), copy.path().join("contact.db")).unwrap();
        let (_, recovered) = Store::open(copy.path()).unwrap();
        assert_eq!(recovered.groups, [state(400)]);
    }
    assert_eq!(submit(&newcomer.lead(), "next").unwrap(), 402);
}

#[test]
fn what_came_of_removed_tasks_late_is_gone_also_where_the_log_was_read_from_its_cut_on() {
    let (log, [mut one, mut newcomer]) = servers();
    one.try_to_lead(1);
    let handle = one.leading().unwrap();
    let settle = |task, upto| {
        handle.record(vec![done(task, "done")]);
        handle.checkpoint(Checkpoint { groups: vec![state(upto)], ..Checkpoint::default() });
        flush(&handle).unwrap();
    };
    for _ in 1..=300 {
        let id = submit(&handle, "x").unwrap();
        settle(id, id);
    }
    settle(7, 300);
    remove(&handle, 250);
    assert!(log.ends().0.unwrap() > 250);
    one.stop();
    newcomer.follow();
    newcomer.stop();
    assert_eq!(newcomer.unlike(&one), Vec::<String>::new());
}

#[test]
fn an_old_task_that_is_open_does_not_keep_the_log_unless_it_is_much() {
    for (bytes, is_kept) in [(10, false), (17 << 20, true)] {
        let (log, [mut one, mut newcomer]) = servers();
        one.patience = MUCH;
        one.try_to_lead(1_000);
        let handle = one.leading().unwrap();
        let open = task("x".repeat(bytes));
        block_on(handle.submit(vec![NewTask { key: Some("open".into()), ..open }])).unwrap();
        for _ in 0..600 {
            let id = submit(&handle, "x").unwrap();
            handle.record(vec![done(id, "done")]);
            handle.checkpoint(Checkpoint { groups: vec![state(id)], ..Checkpoint::default() });
            flush(&handle).unwrap();
        }
        remove_if(&handle, 601, later(), |first| first > 1);
        let (first, last) = log.ends();
        let first = first.unwrap();
        assert_eq!(first == 1, is_kept, "{first} to {last}");
        one.stop();
        let handle = newcomer.lead();
        assert_eq!(handle.reader().unwrap().tasks(0, 9).unwrap().len(), 1);
        let again = block_on(handle.submit(vec![NewTask { key: Some("open".into()), ..task("again") }])).unwrap();
        assert_eq!(again.reused.len(), 1, "its key is known: {again:?}");
    }
}

#[test]
fn data_of_another_log_or_of_a_server_that_was_alone_is_no_view() {
    let (log, [mut one]) = servers();
    submit(&one.lead(), "a").unwrap();
    one.stop();
    let refused = |log: &MemoryLog, dir: &Path| {
        let error = Standby::open(log.clone(), dir).map(|_| ()).unwrap_err();
        assert!(matches!(error, FollowError::OtherLog { .. }), "{error}");
    };
    refused(&MemoryLog::default(), one.dir.path());
    one.follow();
    one.stop();
    drop(Store::open(one.dir.path()).unwrap());
    refused(&log, one.dir.path());
    let alone = tempfile::tempdir().unwrap();
    submit(&Store::open(alone.path()).unwrap().0.handle(), "a").unwrap();
    refused(&log, alone.path());
    // A client came to that server, and no task.
    let visited = tempfile::tempdir().unwrap();
    let store = Store::open(visited.path()).unwrap().0;
    store.handle().checkpoint(Checkpoint { groups: vec![state(0)], ..Checkpoint::default() });
    flush(&store.handle()).unwrap();
    drop(store);
    refused(&log, visited.path());
    let empty = tempfile::tempdir().unwrap();
    drop(Store::open(empty.path()).unwrap());
    assert!(Standby::open(log.clone(), empty.path()).is_ok());
}

fn state(settled: TaskId) -> GroupState {
    GroupState {
        name: group(),
        created_at: Time(1),
        broadcast_after: 0,
        paused: false,
        retry: Default::default(),
        limits: Default::default(),
        lanes: Vec::new(),
        labels: Default::default(),
        last_used: Time(2),
        cursors: [settled; 3],
        taken_up: Vec::new(),
        open: Vec::new(),
    }
}

/// What happens to three servers.
#[derive(Debug, Clone)]
enum Op {
    /// So many tasks are submitted to a server, if it takes itself for the one that leads.
    Submit(usize, u8),
    /// The same of one that is longer than a message.
    SubmitLong(usize),
    /// A result is told to it.
    Tell(usize),
    /// It removes some tasks.
    Remove(usize),
    Follow(usize),
    Lead(usize),
    Die(usize),
    Stop(usize),
    /// What happens to what it sends next.
    Faults(usize, Vec<Fault>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let fault = prop_oneof![
        3 => Just(Fault::None),
        2 => Just(Fault::Lost),
        2 => Just(Fault::Unsaid),
        2 => (0..12_u32).prop_map(Fault::Late),
    ];
    let who = 0..3_usize;
    let op = prop_oneof![
        10 => (who.clone(), 1..4_u8).prop_map(|(who, count)| Op::Submit(who, count)),
        1 => who.clone().prop_map(Op::SubmitLong),
        5 => who.clone().prop_map(Op::Tell),
        1 => who.clone().prop_map(Op::Remove),
        4 => who.clone().prop_map(Op::Follow),
        6 => who.clone().prop_map(Op::Lead),
        2 => who.clone().prop_map(Op::Die),
        1 => who.clone().prop_map(Op::Stop),
        6 => (who, vec(fault, 1..24)).prop_map(|(who, faults)| Op::Faults(who, faults)),
    ];
    vec(op, 1..60)
}

/// What was answered.
#[derive(Default)]
struct Answered {
    number: usize,
    tasks: BTreeMap<TaskId, String>,
    results: BTreeSet<String>,
    removed: BTreeSet<TaskId>,
}

impl Answered {
    fn text(&mut self) -> String {
        self.number += 1;
        format!("{}", self.number)
    }

    fn submit(&mut self, handle: &Handle, texts: Vec<String>) {
        let tasks = texts.iter().map(task).collect();
        if let Ok(accepted) = block_on(handle.submit(tasks)) {
            for (id, text) in (accepted.first_id..).zip(texts) {
                assert_eq!(self.tasks.insert(id, text), None, "the id {id} was given twice");
            }
        }
    }

    fn happens(&mut self, op: &Op, servers: &mut [Server; 3]) {
        match op {
            Op::Follow(who) => servers[*who].follow(),
            Op::Lead(who) => servers[*who].try_to_lead(NEVER),
            Op::Die(who) => servers[*who].die(),
            Op::Stop(who) => servers[*who].stop(),
            Op::Faults(who, faults) => servers[*who].faults.push(faults.iter().copied()),
            Op::Submit(who, _) | Op::SubmitLong(who) | Op::Tell(who) | Op::Remove(who) => {
                let Some(handle) = servers[*who].leading() else { return };
                match op {
                    Op::Submit(_, count) => {
                        let texts = (0..*count).map(|_| self.text()).collect();
                        self.submit(&handle, texts);
                    }
                    Op::SubmitLong(_) => {
                        let text = format!("{}{}", self.text(), "x".repeat(LONGEST_MESSAGE));
                        self.submit(&handle, vec![text]);
                    }
                    Op::Tell(_) => {
                        let ret = self.text();
                        handle.record(vec![done(1, &ret)]);
                        if flush(&handle).is_ok() {
                            self.results.insert(ret);
                        }
                    }
                    _ => self.remove(&handle),
                }
            }
        }
    }

    /// Of what it was not answered whether it is gone, it may be.
    fn remove(&mut self, handle: &Handle) {
        let first = handle.reader().unwrap().first_task().unwrap();
        let Some(first) = first else { return };
        let removal = Removal { chunks: vec![first], before: Time(0), now: Time(0), limit: 1 };
        let chunk = handle.reader().unwrap().tasks(first - 1, 4).unwrap();
        drop(block_on(handle.remove(removal)));
        self.removed.extend(chunk.iter().map(|task| task.id));
    }

    fn check(&self, truth: &Truth) {
        let mut texts = BTreeSet::new();
        for (id, text) in &truth.tasks {
            assert!(texts.insert(text), "it is there twice: {:.9}", text);
            assert!(self.tasks.get(id).is_none_or(|answered| answered == text), "{id} is {:.9}", text);
        }
        let lost: Vec<_> =
            self.tasks.keys().filter(|id| !truth.tasks.contains_key(id) && !self.removed.contains(id)).collect();
        assert!(lost.is_empty(), "answered and lost: {lost:?}");
        let mut told = BTreeSet::new();
        for (_, ret) in truth.results.values() {
            assert!(told.insert(ret.clone()), "told once, and there twice: {ret}");
        }
        // What came of a task that was removed goes with it.
        if self.removed.is_empty() {
            let lost: Vec<_> = self.results.difference(&told).collect();
            assert!(lost.is_empty(), "answered and lost: {lost:?}");
        }
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_answered_is_lost_and_nothing_is_there_twice_whatever_happens_to_servers_and_messages(ops in ops()) {
        let (log, mut servers) = servers::<3>();
        let mut answered = Answered::default();
        for op in &ops {
            answered.happens(op, &mut servers);
        }
        for server in &mut servers {
            server.faults.end();
            server.stop();
        }
        let truth = truth(&log);
        answered.check(&truth);
        for server in &mut servers {
            server.follow();
            server.stop();
            prop_assert_eq!(&server.rows(), &truth.rows);
        }
    }
}

/// What is written while the log is cut again and again.
#[derive(Debug, Clone)]
enum Written {
    /// So many tasks, each of a kind.
    Tasks(u8, u8),
    /// Something that came of a task so many before the last, or of none.
    Result(u16, Outcome),
    Status,
    /// A task so many before the last is cancelled.
    Cancel(u16),
    /// Some of the chunks are removed, with what came of them. Whether those that stay are old.
    Remove(u64, bool),
    /// A server begins to follow.
    Newcomer,
}

fn written() -> impl Strategy<Value = Vec<Written>> {
    let outcome = prop_oneof![3 => Just(Outcome::Done), 2 => Just(Outcome::Failed), 1 => Just(Outcome::Revived)];
    let written = prop_oneof![
        8 => (0..6_u8, prop_oneof![4 => 1..5_u8, 1 => 50..200_u8]).prop_map(|(kind, count)| Written::Tasks(kind, count)),
        8 => (prop_oneof![3 => 0..20_u16, 1 => 0..700_u16], outcome).prop_map(|(task, came)| Written::Result(task, came)),
        2 => Just(Written::Status),
        2 => (0..300_u16).prop_map(Written::Cancel),
        3 => (any::<u64>(), any::<bool>()).prop_map(|(which, old)| Written::Remove(which, old)),
        1 => Just(Written::Newcomer),
    ];
    vec(written, 1..120)
}

impl Written {
    fn happens(&self, handle: &Handle) {
        let last = handle.tail().positions().task;
        match self {
            Written::Tasks(kind, count) => {
                let one = |n: u8| {
                    let mut task = task(format!("{n}"));
                    match kind {
                        0 => task.key = Some(format!("{}", last % 50 + u64::from(n))),
                        1 => (task.to, task.lane) = (Some(group()), Some(Name::new(NameOf::Lane, "l").unwrap())),
                        2 => task.replace = Some(Box::new(Replace::new(&format!("{}", n % 3), None).unwrap())),
                        3 => task.priority = Priority::Low,
                        _ => {}
                    }
                    task
                };
                drop(block_on(handle.submit((0..*count).map(one).collect())).unwrap());
            }
            Written::Result(back, outcome) => {
                let task = last.saturating_sub((*back).into());
                handle.record(vec![NewResult { outcome: *outcome, ..done(task, "came") }]);
            }
            Written::Status => {
                let status = NewStatus { client: "c".into(), msg: "m".into(), at: Time(5) };
                block_on(handle.record_statuses(vec![status])).unwrap();
            }
            Written::Cancel(back) => {
                block_on(handle.cancel(last.saturating_sub((*back).into()), Time(7))).unwrap();
            }
            Written::Remove(which, old) => {
                handle.checkpoint(Checkpoint { groups: vec![state(last)], ..Checkpoint::default() });
                flush(handle).unwrap();
                let old = if *old { later() } else { Time(0) };
                remove_if(handle, last, old, |first| which >> (first % 64) & 1 > 0);
            }
            Written::Newcomer => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_reads_the_log_from_its_cut_on_has_what_whoever_read_all_of_it_has(all in written()) {
        let (log, [mut one]) = servers();
        (one.patience, one.cuts_every) = (MUCH, 3);
        one.try_to_lead(1);
        let handle = one.leading().unwrap();
        let mut others = vec![Server::new(&log)];
        others[0].follow();
        for written in &all {
            written.happens(&handle);
            others[0].follow();
            if let Written::Newcomer = written && others.len() < 5 {
                others.push(Server::new(&log));
                others.last_mut().unwrap().follow();
            }
        }
        flush(&handle).unwrap();
        drop(handle);
        one.stop();
        others.push(Server::new(&log));
        for other in &mut others {
            other.follow();
            other.stop();
            prop_assert_eq!(other.unlike(&one), Vec::<String>::new(), "the log is {:?}", log.ends());
        }
    }
}

#[test]
fn a_server_whose_own_view_cannot_be_written_leaves_the_lead_to_another_one_which_has_all_that_stands_in_the_log() {
    let log = MemoryLog::default();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let standby = |at: usize| Standby::open(log.clone(), dirs[at].path()).unwrap();
    let mut leads = standby(0).lead("one").unwrap();
    leads.recover().unwrap();
    let mut other = standby(1);
    let lock = rusqlite::Connection::open(dirs[0].path().join("contact.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let one = Task { id: 1, accepted_at: Time(0), spec: task("one") };
    let positions = Positions { task: 1, ..Positions::default() };
    let batch = Batch { tasks: vec![one.into()], positions, ..Batch::default() };
    assert!(matches!(leads.commit(&batch), Err(StoreError::InUse { .. })));
    let _ = Box::new(leads).close();
    assert!(other.follow(Duration::ZERO).unwrap().resigned);
    let mut leads = other.lead("other").unwrap();
    assert_eq!(leads.recover().unwrap().positions, positions);
    drop(lock);
    let mut back = standby(0);
    while back.follow(Duration::ZERO).unwrap().messages > 0 {}
    assert_eq!(rows(dirs[0].path()), rows(dirs[1].path()), "and so has the first one, when it can be written again");
}

/// A store that a server wrote alone: of everything something, and longer than two messages.
fn written_alone() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    let handle = store.handle();
    let keyed = NewTask { key: Some("k".into()), ..task("keyed") };
    let long = task("x".repeat(2 * LONGEST_MESSAGE));
    block_on(handle.submit(vec![task("one"), keyed, long])).unwrap();
    handle.record(vec![done(1, "settled")]);
    let state = GroupState {
        name: group(),
        created_at: Time(4),
        broadcast_after: 0,
        paused: true,
        retry: Default::default(),
        labels: Default::default(),
        last_used: Time(5),
        cursors: [1; 3],
        taken_up: vec![(3, 3)],
        open: Vec::new(),
        limits: Default::default(),
        lanes: Default::default(),
    };
    handle.checkpoint(Checkpoint { groups: vec![state], ..Checkpoint::default() });
    let client: ClientId = Name::new(NameOf::ClientOrGroup, "c").unwrap();
    let drain = Drain { client: client.clone(), since: Time(1), until: None, note: "disk".into() };
    handle.drain(client, Some(drain));
    let address = Name::new(NameOf::Metadata, "h:1").unwrap();
    let dialled = Dialled { address: address.clone(), group: None, client: None, since: Time(2) };
    block_on(handle.dial(address, Some(dialled))).unwrap();
    block_on(handle.record_statuses(vec![NewStatus { client: "c".into(), msg: "fine".into(), at: Time(3) }])).unwrap();
    flush(&handle).unwrap();
    store.close().unwrap();
    let held = format!("{:?}", Sqlite::open(dir.path()).unwrap().recover().unwrap());
    (dir, held)
}

fn imported(log: &MemoryLog, dir: &Path) -> Result<Imported, ImportError> {
    import(log.clone(), dir, Granted::new(), "importer", LITTLE, |_, _| {})
}

#[test]
fn whoever_follows_hears_what_is_granted_also_of_a_log_that_begins_with_a_store() {
    let (alone, _) = written_alone();
    let to = |name: &str| Grantee { shows: Shows::Token, name: Name::new(NameOf::ClientOrGroup, name).unwrap() };
    let log = MemoryLog::default();
    let granted = Granted::from([(to("web"), "beside it".to_owned())]);
    import(log.clone(), alone.path(), granted.clone(), "importer", LITTLE, |_, _| {}).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut standby = Standby::open(log.clone(), folder.path()).unwrap();
    // Behind all messages that are there.
    let mut hears = || {
        while standby.follow(Duration::ZERO).unwrap().messages > 0 {}
        standby.newly_granted().unwrap()
    };
    assert_eq!(hears(), Some(granted.clone()));

    let mut first = Server::new(&log);
    first.follow();
    let handle = first.lead();
    block_on(handle.submit(vec![task("one")])).unwrap();
    assert_eq!(hears(), None, "nothing was granted");
    block_on(handle.grant(BTreeMap::from([(to("ci"), Some("later".to_owned())), (to("web"), None)]))).unwrap();
    let now = Granted::from([(to("ci"), "later".to_owned())]);
    assert_eq!(hears(), Some(now.clone()));
    first.stop();

    // What a cluster had is in the database of each of its servers, and goes before files that lie beside that.
    first.role = Role::Down;
    let other = MemoryLog::default();
    let beside = Granted::from([(to("ci"), "older".to_owned()), (to("web"), "beside it".to_owned())]);
    import(other.clone(), first.dir.path(), beside, "importer", LITTLE, |_, _| {}).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    let mut standby = Standby::open(other, fresh.path()).unwrap();
    while standby.follow(Duration::ZERO).unwrap().messages > 0 {}
    assert_eq!(
        standby.newly_granted().unwrap().unwrap(),
        now.into_iter().chain([(to("web"), "beside it".to_owned())]).collect()
    );
}

#[test]
fn a_cluster_begins_with_all_that_a_server_had_alone_and_goes_on_from_there() {
    let (alone, held) = written_alone();
    let log = MemoryLog::default();
    let said = imported(&log, alone.path()).unwrap();
    assert_eq!((said.positions.task, said.positions.result), (3, 1));
    assert!(said.place > 3, "it takes several messages");
    let mut servers = [Server::new(&log), Server::new(&log)];
    let handle = servers[0].lead();
    servers[1].follow();
    let first_id =
        block_on(handle.submit(vec![NewTask { key: Some("k".into()), ..task("keyed") }, task("new")])).unwrap();
    assert_eq!(first_id.ids, [2, 4], "keys are known, and ids go on");
    servers[0].stop();
    servers[1].follow();
    servers[0].follow();
    assert_eq!(servers[0].rows(), servers[1].rows());
    // As it was before anything else was written.
    let fresh = Server::new(&log);
    let mut standby = Standby::open(log.clone(), fresh.dir.path()).unwrap();
    while standby.place() < said.place + 1 {
        standby.follow(Duration::ZERO).unwrap();
    }
    let mut lone = Sqlite::open(alone.path()).unwrap();
    assert_eq!(format!("{:?}", lone.recover().unwrap()), held, "the folder stays as it was");
    assert!(matches!(imported(&log, alone.path()), Err(ImportError::Store(StoreError::InUse { .. }))));
    drop(lone);
    assert!(matches!(imported(&log, alone.path()), Err(ImportError::AlreadyThere { .. })));
    // And back: a view is a store of a server that is alone.
    drop(standby);
    let back = servers[1].dir.path();
    servers[1].role = Role::Down;
    let mut back = Sqlite::open(back).unwrap();
    assert_eq!(back.recover().unwrap().positions.task, 4);
}

#[test]
fn an_import_that_is_interrupted_is_done_again_and_nobody_leads_before_its_end() {
    let (alone, held) = written_alone();
    // Sent are who imports, three parts or more, and that it is over.
    for sent in 0..4 {
        let log = MemoryLog::default();
        let faults = Faults::default();
        faults.push([Fault::None].repeat(sent).into_iter().chain([Fault::Lost; 500]));
        assert!(matches!(imported(&log.with(&faults), alone.path()), Err(ImportError::Interrupted { .. })), "{sent}");
        let mut server = Server::new(&log);
        server.try_to_lead(NEVER);
        match (sent, server.leading()) {
            // No part of it is there.
            (0 | 1, Some(_)) => {}
            (2.., None) => {}
            (_, leading) => panic!("{sent} messages of it are there, and one leads: {}", leading.is_some()),
        }
        let leads = server.leading().is_some();
        server.die();
        let again = imported(&log, alone.path());
        assert!(again.is_ok(), "{sent}, {leads}: {again:?}");
        server.follow();
        let mut lone = Server::new(&log);
        lone.lead();
        lone.stop();
        let held_now = format!("{:?}", Sqlite::open(lone.dir.path()).unwrap().recover().unwrap());
        assert_eq!(held_now, held, "{sent}");
    }
}

#[test]
fn a_log_that_has_something_takes_no_store() {
    let (alone, _) = written_alone();
    let log = MemoryLog::default();
    let mut server = Server::new(&log);
    block_on(server.lead().submit(vec![task("one")])).unwrap();
    server.stop();
    let before = log.ends();
    assert!(matches!(imported(&log, alone.path()), Err(ImportError::NotEmpty { place: 2 })));
    assert_eq!(log.ends(), before);
    assert!(matches!(imported(&log, server.dir.path().parent().unwrap()), Err(ImportError::NoStore { .. })));
}

#[test]
fn an_imported_store_stays_in_the_log_as_long_as_something_of_it_is_kept() {
    let (alone, _) = written_alone();
    let log = MemoryLog::default();
    imported(&log, alone.path()).unwrap();
    let mut server = Server::new(&log);
    server.try_to_lead(1);
    let handle = server.leading().unwrap();
    for n in 0..150 {
        block_on(handle.submit(vec![task(format!("{n}"))])).unwrap();
    }
    remove(&handle, 2);
    assert!(log.ends().0.unwrap() <= 2, "task 3 is in it: {:?}", log.ends());
    let mut newcomer = Server::new(&log);
    newcomer.follow();
    server.stop();
    server.follow();
    newcomer.follow();
    assert_eq!(server.rows(), newcomer.rows());
}
