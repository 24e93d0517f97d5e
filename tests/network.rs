//! Networks that fail, and clients that do not read: through the real server.

#[cfg(target_os = "linux")]
pub mod machines;
#[cfg(target_os = "linux")]
mod nat;
pub mod proxy;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contact::client::{Config, Event, Running, StartAt, Worker};
use contact::store::{Backend, Sqlite};
use contact::wire::contact as pb;
use contact::wire::contact_grpc::ContactClient;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use futures::StreamExt;
use futures::executor::block_on;
use grpcio::{CallOption, ChannelBuilder, EnvBuilder, MetadataBuilder};
use serde_json::Value;

use crate::common::DEADLINE;
use crate::common::server::Server;
use proxy::Proxy;

/// Leases that do not end by themselves while a test runs.
const FOREVER: [&str; 2] = ["--ack-timeout", "1h"];
/// A ping after 20 s of silence, 10 s for its answer; and a moment, since the machine has other things to do.
const NOTICED: Duration = Duration::from_secs(33);
/// For how long the server keeps what a client has begun, so that it can come back for it.
const GRACE: Duration = Duration::from_secs(5);

/// A worker whose handler holds each task until it is let go.
struct Held {
    /// Dropped: all are let go. Before the worker is, which waits for its handlers.
    letting_go: Option<Sender<()>>,
    running: Running,
    begun: Receiver<(u64, u32)>,
    events: Receiver<&'static str>,
}

impl Held {
    fn start(id: &str, server: &str) -> Held {
        let (begin, begun) = unbounded();
        let (letting_go, go) = unbounded::<()>();
        let (tell, events) = unbounded();
        let worker = Worker::new(config(id, server), move |task| {
            let _ = begin.send((task.id, task.attempt));
            let _ = go.recv();
            "done"
        });
        let worker = worker.observe(move |event| {
            let _ = match event {
                Event::Connected { .. } => tell.send("connected"),
                Event::Disconnected { .. } => tell.send("disconnected"),
                _ => Ok(()),
            };
        });
        Held { running: worker.start().unwrap(), begun, letting_go: Some(letting_go), events }
    }

    #[track_caller]
    fn until(&self, event: &str) {
        assert_eq!(self.events.recv_timeout(DEADLINE), Ok(event));
    }

    /// The same, whatever happens before.
    #[track_caller]
    fn until_at_last(&self, event: &str) {
        while self.events.recv_timeout(DEADLINE).unwrap() != event {}
    }

    /// Waits until it works on so many tasks.
    #[track_caller]
    fn until_it_holds(&self, count: usize) -> BTreeSet<u64> {
        (0..count).map(|_| self.begun.recv_timeout(DEADLINE).unwrap().0).collect()
    }

    /// It begins with nothing for so long.
    #[track_caller]
    fn begins_with_nothing(&self, time: Duration) {
        assert_eq!(self.begun.recv_timeout(time), Err(RecvTimeoutError::Timeout));
    }

    fn let_go(&mut self) {
        self.letting_go = None;
    }

    /// Stops it, and returns what it began with that nobody asked for yet.
    fn stop(mut self) -> Vec<(u64, u32)> {
        self.let_go();
        self.running.stop().unwrap();
        self.begun.try_iter().collect()
    }
}

fn config(id: &str, server: &str) -> Config {
    Config {
        id: Some(id.into()),
        group: Some("work".into()),
        window: NonZeroU32::new(4),
        from: Some(StartAt::First),
        concurrency: 4,
        first_backoff: Duration::from_millis(100),
        confirm_every: Duration::from_millis(50),
        ..Config::new(server)
    }
}

fn tasks(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("task {n}")).collect()
}

/// A task, which delivery of it, what came of that, and whether late.
type Outcome = (u64, u64, String, bool);

/// What came of deliveries, by task.
fn outcomes(results: &[Value]) -> Vec<Outcome> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let outcome = |result: &Value| {
        let (task, attempt) = (result["task_id"].as_u64(), result["attempt"].as_u64());
        (task.unwrap(), attempt.unwrap(), text(&result["outcome"]), result["late"].as_bool().unwrap())
    };
    let mut outcomes: Vec<Outcome> = results.iter().map(outcome).collect();
    outcomes.sort();
    outcomes
}

fn each(tasks: RangeInclusive<u64>, attempt: u64, outcome: &str, late: bool) -> Vec<Outcome> {
    tasks.map(|task| (task, attempt, outcome.to_owned(), late)).collect()
}

#[test]
fn a_cut_without_a_word_is_noticed_by_both_sides_and_the_leases_go_to_another() {
    let server = Server::start(&FOREVER);
    let network = Proxy::to(&server.listen);
    let mut far = Held::start("far", &network.address);
    far.until("connected");
    server.submit(&tasks(4));
    let held = far.until_it_holds(4);
    let mut near = Held::start("near", &server.listen);
    near.until("connected");
    near.let_go();

    network.go_down();
    let cut = Instant::now();
    far.until("disconnected");
    assert!(cut.elapsed() < NOTICED, "the client noticed after {:?}", cut.elapsed());
    assert_eq!(near.until_it_holds(4), held);
    assert!(cut.elapsed() < NOTICED + GRACE, "the server gave the tasks to another after {:?}", cut.elapsed());
    network.mend();
    far.until_at_last("connected");

    let results = server.at_least(8, "results");
    assert_eq!(outcomes(&results[..4]), each(1..=4, 1, "LOST", false));
    assert_eq!(outcomes(&results[4..]), each(1..=4, 2, "DONE", false));

    // What it did all the same is told, and is late.
    far.let_go();
    let results = server.at_least(12, "results");
    assert_eq!(outcomes(&results[8..]), each(1..=4, 1, "DONE", true));
    assert_eq!(far.stop(), []);
}

#[test]
fn a_worker_that_comes_back_before_its_old_connection_ended_keeps_its_leases_and_gets_nothing_twice() {
    let server = Server::start(&FOREVER);
    let network = Proxy::to(&server.listen);
    let mut far = Held::start("far", &network.address);
    far.until("connected");
    server.submit(&tasks(3));
    far.until_it_holds(3);
    let mut near = Held::start("near", &server.listen);
    near.until("connected");
    near.let_go();

    network.cut_and_tell_the_client();
    far.until("disconnected");
    far.until("connected");
    // Leases that were not confirmed after the change of streams would end after five seconds.
    near.begins_with_nothing(Duration::from_secs(7));
    let clients = server.ctl(&["clients"]);
    let in_flight = |name: &str| clients.iter().find(|c| c["client"] == name).map(|c| c["in_flight"].clone());
    assert_eq!((clients.len(), in_flight("far"), in_flight("near")), (2, Some(3.into()), Some(0.into())));

    far.let_go();
    let results = server.at_least(3, "results");
    assert_eq!(outcomes(&results), each(1..=3, 1, "DONE", false));
    assert_eq!((far.stop(), near.stop()), (vec![], vec![]));
    assert_eq!(server.ctl(&["results", "--all"]).len(), 3);
}

#[test]
fn a_worker_whose_connection_is_reset_works_on_nothing_twice_and_what_it_does_counts() {
    let server = Server::start(&FOREVER);
    let network = Proxy::to(&server.listen);
    let mut far = Held::start("far", &network.address);
    far.until("connected");
    server.submit(&tasks(3));
    far.until_it_holds(3);

    network.reset();
    far.until("disconnected");
    far.until("connected");
    // Should anything be delivered again, it goes out before a fourth task.
    server.submit(&["one more"]);
    assert_eq!(far.until_it_holds(1), BTreeSet::from([4]));
    far.let_go();
    // That its stream was lost stands among them, or not: it may have come back first.
    let results = server.ctl_running(&["results", "--all", "--follow"]);
    let done = results.out.at_least(4, "done", |line| {
        serde_json::from_str::<Value>(line).ok().filter(|result| result["outcome"] == "DONE")
    });
    assert!(done.iter().all(|result| result["late"] == false), "{done:?}");
    assert_eq!(far.stop(), []);
}

#[test]
fn a_task_that_is_delivered_again_while_it_is_worked_on_is_not_worked_on_twice() {
    // Renewed every ten seconds, which is too late.
    let server = Server::start(&["--ack-timeout", "1s"]);
    let mut slow = Held::start("slow", &server.listen);
    slow.until("connected");
    server.submit(&tasks(2));
    slow.until_it_holds(2);
    let timed_out = server.at_least(2, "results");
    assert_eq!(outcomes(&timed_out[..2]), each(1..=2, 1, "TIMED_OUT", false));
    // The second delivery has come when a third task has, which goes out after them.
    server.submit(&["one more"]);
    assert_eq!(slow.until_it_holds(1), BTreeSet::from([3]));
    slow.let_go();
    assert_eq!(slow.stop(), []);
}

#[test]
fn workers_keep_what_they_work_on_when_the_server_is_restarted() {
    workers_keep_what_they_work_on(|server| {
        server.program().signal("TERM");
        assert!(server.program().ended().success());
    });
}

#[test]
fn workers_keep_what_they_work_on_when_the_server_is_killed() {
    workers_keep_what_they_work_on(|server| {
        until_it_would_remember(3, server);
        server.kill();
    });
}

/// Waits until a server that died now would know of so many tasks that they may be with clients.
fn until_it_would_remember(open: usize, server: &Server) {
    let began = Instant::now();
    loop {
        let copy = tempfile::tempdir().unwrap();
        // The server writes meanwhile: a copy may be torn, and the next one is better.
        for file in ["contact.db", "contact.db-wal"] {
            let _ = std::fs::copy(server.data().join(file), copy.path().join(file));
        }
        let remembered = Sqlite::open(copy.path()).and_then(|mut store| store.recover());
        let known = remembered.map(|state| {
            let listed: usize = state.groups.iter().map(|group| group.open.len()).sum();
            listed + state.open.values().map(Vec::len).sum::<usize>()
        });
        if known.is_ok_and(|known| known >= open) {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "no checkpoint");
    }
}

fn workers_keep_what_they_work_on(stop: impl FnOnce(&mut Server)) {
    let mut server = Server::start(&["--ack-timeout", "1h", "--restart-grace", "1m"]);
    let mut far = Held::start("far", &server.listen);
    far.until("connected");
    server.submit(&tasks(3));
    far.until_it_holds(3);

    stop(&mut server);
    server.restart();
    // One that holds nothing would be given everything.
    let mut near = Held::start("near", &server.listen);
    near.until("connected");
    near.let_go();
    let began = Instant::now();
    while !server.ctl(&["clients"]).iter().any(|client| client["in_flight"] == 3) {
        assert!(began.elapsed() < DEADLINE, "the worker does not come back for its tasks");
    }
    far.let_go();
    let results = server.at_least(3, "results");
    assert_eq!(outcomes(&results), each(1..=3, 1, "DONE", false));
    assert_eq!((far.stop(), near.stop()), (vec![], vec![]));
}

#[test]
fn a_worker_that_does_not_read_holds_up_no_other() {
    const TASKS: usize = 3_000;
    let server = Server::start(&FOREVER);
    // It wants many, and reads one.
    let env = Arc::new(EnvBuilder::new().cq_count(1).build());
    let client = ContactClient::new(ChannelBuilder::new(env).connect(&server.listen));
    let mut metadata = MetadataBuilder::new();
    for (key, value) in [("contact-client", "stuck"), ("contact-group", "work"), ("contact-window", "500")] {
        metadata.add_str(key, value).unwrap();
    }
    let options = CallOption::default().headers(metadata.build());
    let mut unread = client.get_task(&pb::Empty::new(), options).unwrap();
    server.submit(&["the first"]);
    assert_eq!(block_on(unread.next()).unwrap().unwrap().id, 1);

    let mut near = Held::start("near", &server.listen);
    near.until("connected");
    near.let_go();
    let texts: Vec<String> = (0..TASKS).map(|n| format!("{n} {}", "x".repeat(1000))).collect();
    let file = server.data().join("tasks.txt");
    std::fs::write(&file, texts.join("\n")).unwrap();
    server.ctl(&["submit", "--file", file.to_str().unwrap()]);

    // Everything that it has no lease on goes to the other, though its leases do not end.
    let held_by_stuck = || {
        let clients = server.ctl(&["clients"]);
        let stuck = clients.iter().find(|client| client["client"] == "stuck").unwrap();
        stuck["in_flight"].as_u64().unwrap() as usize
    };
    let mut done = BTreeSet::new();
    let deadline = Instant::now() + DEADLINE;
    while done.len() + held_by_stuck() < TASKS + 1 {
        assert!(Instant::now() < deadline, "{} done, {} held", done.len(), held_by_stuck());
        if let Ok((id, _)) = near.begun.recv_timeout(Duration::from_millis(100)) {
            done.insert(id);
            done.extend(near.begun.try_iter().map(|(id, _)| id));
        }
    }
    assert!(held_by_stuck() <= 500, "more than its window: {}", held_by_stuck());

    // When it is gone, the other gets the rest.
    drop(unread);
    while done.len() < TASKS + 1 {
        done.insert(near.begun.recv_timeout(DEADLINE).unwrap().0);
    }
    assert_eq!(done, (1..=TASKS as u64 + 1).collect());
    assert_eq!(near.stop(), []);
}

#[test]
fn workers_that_fight_for_one_id_say_so_and_take_turns_and_no_task_is_given_up() {
    let server = Server::start(&[]);
    let tasks: Vec<_> = (1..=64).map(|n| format!("task {n}")).collect();
    server.submit(&tasks);
    let start = || {
        let worker = server.client(&["--id", "w", "--exec", "cat"]);
        let says =
            worker.err.wait_for("an answer", |line| line.contains("connected to") || line.contains("turned away"));
        (worker, says)
    };
    let mut holder = start().0;
    // As two supervisors would: each starts its worker again when the other took the id.
    for _ in 0..3 {
        let (next, says) = start();
        assert!(says.contains("connected to"), "{says}");
        assert_eq!(holder.ended().code(), Some(1));
        let why = holder.err.so_far().join("\n");
        assert!(
            why.contains("give each process an id of its own (--id), or let them share one group (--group)"),
            "{why}"
        );
        holder = next;
    }
    let (waits, says) = start();
    assert!(says.contains("another process uses the client id w too"), "{says}");
    assert!(
        says.contains("Give each process an id of its own (--id), or let them share one group (--group)"),
        "{says}"
    );
    // It stays, and comes when it is its turn.
    assert_eq!(holder.ended().code(), Some(1));
    waits.err.wait_for("its turn", |line| line.contains("connected to"));
    let is_done = |results: &[Value]| results.iter().filter(|result| result["outcome"] == "DONE").count() >= 64;
    let deadline = Instant::now() + DEADLINE;
    let results = loop {
        let results = server.ctl(&["results", "--all"]);
        if is_done(&results) || Instant::now() > deadline {
            break results;
        }
    };
    let done: BTreeSet<_> =
        results.iter().filter(|result| result["outcome"] == "DONE").map(|it| it["task_id"].as_u64()).collect();
    assert_eq!(done.len(), 64);
    assert!(results.iter().all(|result| result["outcome"] != "EXHAUSTED"), "{results:?}");
    let doctor = server.ctl(&["doctor"]);
    let contested = doctor.iter().find(|finding| finding["check"] == "contested").unwrap();
    assert_eq!(contested["status"], "warning", "{contested}");
}
