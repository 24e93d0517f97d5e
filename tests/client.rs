//! The client's behaviour, against a server in the same process that does what each test says.

use std::collections::HashSet;
use std::mem;
use std::net::TcpListener;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use contact::client::{Backoff, Config, Error, Event, Exec, Outcome, Reply, Running, Task, Worker};
use contact::codec::{First, Requests, all_calls};
use contact::wire::contact as pb;
use contact::wire::contact_grpc::{Contact, create_contact};
use contact::wire::google_rpc::error_details::{ErrorInfo, RetryInfo};
use contact::wire::google_rpc::status::Status;
use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use futures::channel::mpsc;
use futures::executor::block_on;
use futures::{SinkExt, StreamExt};
use grpcio::{
    ClientStreamingSink, DuplexSink, Environment, MetadataBuilder, RpcContext, RpcStatus, RpcStatusCode, ServerBuilder,
    ServerCredentials, WriteFlags,
};
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;
use rand::SeedableRng;

const DEADLINE: Duration = Duration::from_secs(20);

/// How tellResult ends once the client ended it.
#[derive(Clone, Copy)]
enum Tell {
    /// Answered: confirmed.
    Confirm,
    /// Never answered.
    Ignore,
    /// Refused if the task of that id is among the results, with that reason.
    Refuse(u64, RpcStatusCode, &'static str),
    /// Ended with a code alone, as by a proxy that has no server behind it.
    Fail(RpcStatusCode),
    /// Refused if it has a RELEASED, as by a server that does not know that.
    RefuseReleased,
}

#[derive(Clone)]
struct Service {
    /// What getTask says first of all, in its metadata.
    max_task: Option<usize>,
    tell: Arc<Mutex<Tell>>,
    sessions: Sender<Session>,
    results: Sender<pb::Result>,
    statuses: Sender<String>,
    unanswered: Arc<Mutex<Vec<ClientStreamingSink<pb::Empty>>>>,
}

/// A getTask stream. Dropping it ends the stream.
struct Session {
    metadata: Vec<(String, String)>,
    peer: String,
    messages: mpsc::UnboundedSender<Result<pb::ServerMsg, RpcStatus>>,
}

impl Session {
    fn send(&self, message: pb::ServerMsg) {
        self.messages.unbounded_send(Ok(message)).unwrap();
    }

    /// Ends it with a code alone, as a proxy does.
    fn fail(&self, code: RpcStatusCode, text: &str) {
        self.messages.unbounded_send(Err(RpcStatus::with_message(code, text.to_owned()))).unwrap();
    }

    /// Ends it with a reason, as a Contact server does.
    fn refuse(&self, code: RpcStatusCode, reason: &str, text: &str) {
        self.messages.unbounded_send(Err(refusal(code, reason, text))).unwrap();
    }

    fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

impl Contact for Service {
    fn send_status(
        &mut self,
        ctx: RpcContext<'_>,
        mut requests: Requests<pb::ClientMsg>,
        mut sink: DuplexSink<pb::Result>,
    ) {
        let statuses = self.statuses.clone();
        ctx.spawn(async move {
            while let Some(Ok(Ok(request))) = requests.next().await {
                if request.msg == "bad" {
                    let status = refusal(RpcStatusCode::INVALID_ARGUMENT, "STATUS_TOO_LONG", "no");
                    return drop(sink.fail(status).await);
                }
                let ret = format!("服务端接收到消息:{}", request.msg);
                let _ = statuses.send(request.msg);
                if sink.send((pb::Result { ret, ..Default::default() }, WriteFlags::default())).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        });
    }

    fn get_task(&mut self, ctx: RpcContext<'_>, mut request: First<pb::Empty>, mut sink: DuplexSink<pb::ServerMsg>) {
        if let Some(most) = self.max_task {
            let mut metadata = MetadataBuilder::new();
            metadata.add_str("contact-max-task", &most.to_string()).unwrap();
            sink.set_headers(metadata.build());
        }
        let metadata = ctx.request_headers().iter();
        let metadata = metadata.map(|(k, v)| (k.to_owned(), String::from_utf8_lossy(v).into_owned())).collect();
        let (messages, mut coming) = mpsc::unbounded();
        let (sessions, session) = (self.sessions.clone(), Session { metadata, peer: ctx.peer(), messages });
        ctx.spawn(async move {
            let Ok(Ok(_)) = request.read().await else { return };
            let _ = sessions.send(session);
            while let Some(message) = coming.next().await {
                let sent = match message {
                    Ok(message) => sink.send((message, WriteFlags::default())).await,
                    Err(status) => return drop(sink.fail(status).await),
                };
                if sent.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        });
    }

    fn tell_result(
        &mut self,
        ctx: RpcContext<'_>,
        mut requests: Requests<pb::Result>,
        sink: ClientStreamingSink<pb::Empty>,
    ) {
        let (tell, results, unanswered) = (self.tell.clone(), self.results.clone(), self.unanswered.clone());
        ctx.spawn(async move {
            let mut ids = HashSet::new();
            let mut released = false;
            while let Some(Ok(Ok(result))) = requests.next().await {
                let is_released = |result: &pb::Result| result.outcome == pb::Outcome::RELEASED.into();
                released |= is_released(&result) || result.batch.iter().any(is_released);
                ids.extend(result.batch.iter().map(|result| result.id).chain([result.id]));
                let _ = results.send(result);
            }
            let tell = *tell.lock().unwrap();
            let _ = match tell {
                Tell::Refuse(id, code, reason) if ids.contains(&id) => {
                    sink.fail(refusal(code, reason, &format!("no {id}"))).await
                }
                Tell::Fail(code) => sink.fail(RpcStatus::with_message(code, "no such page".into())).await,
                // Kept, for one that is dropped cancels its call; and a future that nobody wakes is dropped.
                Tell::Ignore => return unanswered.lock().unwrap().push(sink),
                Tell::RefuseReleased if released => {
                    let text = "unknown outcome: 4";
                    sink.fail(refusal(RpcStatusCode::INVALID_ARGUMENT, "ENUM_VALUE_UNKNOWN", text)).await
                }
                Tell::Confirm | Tell::Refuse(..) | Tell::RefuseReleased => sink.success(pb::Empty::new()).await,
            };
        });
    }
}

/// What a Contact server refuses with.
fn refusal(code: RpcStatusCode, reason: &str, text: &str) -> RpcStatus {
    let info = ErrorInfo { domain: "contact".into(), reason: reason.into(), ..Default::default() };
    with_detail(code, text, &Any::pack(&info).unwrap())
}

fn with_detail(code: RpcStatusCode, text: &str, detail: &Any) -> RpcStatus {
    let rich = Status { details: vec![Any::default(), detail.clone()], ..Default::default() };
    RpcStatus::with_details(code, text.into(), rich.write_to_bytes().unwrap())
}

struct Server {
    server: grpcio::Server,
    port: u16,
    tell: Arc<Mutex<Tell>>,
    sessions: Receiver<Session>,
    results: Receiver<pb::Result>,
    statuses: Receiver<String>,
    /// Renewals come for ever: whoever waits for another result gives up then.
    until: Instant,
}

impl Server {
    fn start() -> Server {
        Server::start_on(0)
    }

    fn start_on(port: u16) -> Server {
        Server::with(port, None)
    }

    fn with(port: u16, max_task: Option<usize>) -> Server {
        let (sessions, sessions_seen) = unbounded();
        let (results, results_seen) = unbounded();
        let (statuses, statuses_seen) = unbounded();
        let tell = Arc::new(Mutex::new(Tell::Confirm));
        let service = Service { max_task, tell: tell.clone(), sessions, results, statuses, unanswered: Arc::default() };
        let env = Arc::new(Environment::new(1));
        let mut server =
            ServerBuilder::new(env).register_service(create_contact(service, &all_calls())).build().unwrap();
        let port = server.add_listening_port(format!("127.0.0.1:{port}"), ServerCredentials::insecure()).unwrap();
        server.start();
        let until = Instant::now() + 3 * DEADLINE;
        Server { server, port, tell, sessions: sessions_seen, results: results_seen, statuses: statuses_seen, until }
    }

    fn answers(self, tell: Tell) -> Server {
        *self.tell.lock().unwrap() = tell;
        self
    }

    /// Ends all calls and frees the port, which is returned.
    fn stop(mut self) -> u16 {
        let stopped = self.server.shutdown();
        self.server.cancel_all_calls();
        let _ = block_on(stopped);
        self.port
    }

    fn config(&self) -> Config {
        Config {
            first_backoff: Duration::from_millis(20),
            most_backoff: Duration::from_millis(100),
            confirm_every: Duration::from_millis(10),
            // Else each result follows a WORKING, and those of slow handlers more of them. Tests of renewals set their own time.
            announce_begin: false,
            renew_every: Duration::from_secs(3600),
            ..Config::new(format!("127.0.0.1:{}", self.port))
        }
    }

    #[track_caller]
    fn session(&self) -> Session {
        self.sessions.recv_timeout(DEADLINE).expect("no client asked for tasks")
    }

    #[track_caller]
    fn result(&self) -> pb::Result {
        assert!(Instant::now() < self.until, "none of the results is the one that is waited for");
        self.results.recv_timeout(DEADLINE).expect("no result came")
    }

    #[track_caller]
    fn status(&self) -> String {
        self.statuses.recv_timeout(DEADLINE).expect("no status came")
    }
}

fn task(id: u64, attempt: u32, text: &str) -> pb::ServerMsg {
    pb::ServerMsg { id, attempt, task: text.into(), ..Default::default() }
}

fn batch(of: Vec<pb::ServerMsg>) -> pb::ServerMsg {
    pb::ServerMsg { batch: of, ..Default::default() }
}

fn echo(task: &Task) -> String {
    format!("did {}", task.text)
}

/// The events' kinds and what they carry first, on a channel.
fn watched(worker: Worker) -> (Worker, Receiver<serde_json::Value>) {
    let (events, seen) = unbounded();
    let worker = worker.observe(move |event: &Event<'_>| drop(events.send(serde_json::to_value(event).unwrap())));
    (worker, seen)
}

#[track_caller]
fn next_event(events: &Receiver<serde_json::Value>, kind: &str) -> serde_json::Value {
    loop {
        let event = events.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no {kind} event"));
        if event["event"] == kind {
            return event;
        }
    }
}

#[test]
fn tasks_reach_the_handler_and_their_results_come_back_with_id_and_attempt() {
    let server = Server::start();
    let running = Worker::new(server.config(), echo).start().unwrap();
    let session = server.session();
    session.send(pb::ServerMsg::new());
    session.send(task(7, 3, "a"));
    session.send(task(0, 0, "from the article's server"));
    let (first, second) = (server.result(), server.result());
    assert_eq!((first.id, first.attempt, first.ret.as_str()), (7, 3, "did a"));
    assert_eq!(first.outcome, pb::Outcome::DONE.into());
    assert_eq!((second.id, second.attempt, second.ret.as_str()), (0, 0, "did from the article's server"));
    running.stop().unwrap();
    assert!(server.results.is_empty(), "the heartbeat was no task");
}

#[test]
fn what_a_handler_says_becomes_the_outcome() {
    let server = Server::start();
    let handler = |task: &Task| match task.text.as_str() {
        "later" => Reply::retry("busy", Duration::from_millis(1500)),
        "never" => Reply::failed("no such file"),
        // Without a backtrace: where memory is short, to read the symbols of this program for one takes longer than the test waits.
        "panic" => panic::resume_unwind(Box::new("at the disco")),
        _ => Reply::done("ok"),
    };
    let running = Worker::new(server.config(), handler).start().unwrap();
    let session = server.session();
    ["later", "never", "panic", "fine"].iter().zip(1..).for_each(|(text, id)| session.send(task(id, 1, text)));
    let told: Vec<_> = (0..4)
        .map(|_| server.result())
        .map(|result| (result.outcome.enum_value().unwrap(), result.ret, result.delay_ms))
        .collect();
    assert_eq!(told[0], (pb::Outcome::RETRY, "busy".into(), 1500));
    assert_eq!(told[1], (pb::Outcome::FAILED, "no such file".into(), 0));
    assert_eq!(told[2], (pb::Outcome::FAILED, "the handler panicked: at the disco".into(), 0));
    assert_eq!(told[3], (pb::Outcome::DONE, "ok".into(), 0));
    running.stop().unwrap();
}

#[test]
fn who_the_client_is_rides_in_the_metadata_and_an_anonymous_client_says_not_who_it_is() {
    let server = Server::start();
    let config = Config {
        id: Some("rig-7".into()),
        group: Some("rigs".into()),
        window: 5.try_into().ok(),
        batch: 9.try_into().ok(),
        from: Some(contact::client::StartAt::New),
        heartbeat: Some(Duration::from_secs(7)),
        ..server.config()
    };
    let running = Worker::new(config, echo).start().unwrap();
    let session = server.session();
    let expected = [
        ("contact-client", "rig-7"),
        ("contact-group", "rigs"),
        ("contact-window", "5"),
        ("contact-batch", "9"),
        ("contact-from", "new"),
        ("contact-heartbeat", "7"),
        ("contact-max-message", "67108864"),
    ];
    for (key, value) in expected {
        assert_eq!(session.metadata(key), Some(value), "{key}");
    }
    assert!(session.metadata("contact-instance").is_some_and(|instance| instance.len() == 16));
    running.stop().unwrap();

    let config = Config { id: Some("机器 7: 50%".into()), group: Some("工人".into()), ..server.config() };
    let running = Worker::new(config, echo).start().unwrap();
    let session = server.session();
    assert_eq!(session.metadata("contact-client"), Some("%E6%9C%BA%E5%99%A8 7: 50%25"), "metadata is ASCII");
    assert_eq!(session.metadata("contact-group"), Some("%E5%B7%A5%E4%BA%BA"));
    running.stop().unwrap();

    let running = Worker::new(server.config(), echo).start().unwrap();
    let session = server.session();
    let mut said = session.metadata.clone();
    said.retain(|(key, _)| key.starts_with("contact-"));
    said.sort();
    let expected = [
        ("contact-heartbeat", "15"),
        ("contact-output", "1"),
        ("contact-receipts", "1"),
        ("contact-revoke", "1"),
        ("contact-window", "2"),
    ];
    assert_eq!(said, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    running.stop().unwrap();
}

#[test]
fn as_many_tasks_run_at_once_as_there_are_handlers() {
    let server = Server::start();
    let barrier = Barrier::new(4);
    let handler = move |task: &Task| {
        // Passes only when four are here.
        barrier.wait();
        echo(task)
    };
    let running = Worker::new(Config { concurrency: 4, ..server.config() }, handler).start().unwrap();
    let session = server.session();
    (1..=8).for_each(|id| session.send(task(id, 1, "together")));
    (0..8).for_each(|_| drop(server.result()));
    running.stop().unwrap();
}

#[test]
fn batches_are_unpacked_and_answered_in_batches() {
    let server = Server::start();
    let (open, gate) = bounded::<()>(0);
    let handler = move |task: &Task| {
        let _ = gate.recv();
        echo(task)
    };
    let running = Worker::new(Config { concurrency: 8, ..server.config() }, handler).start().unwrap();
    let session = server.session();
    session.send(batch((1..=8).map(|id| task(id, 1, "x")).collect()));
    drop(open);
    let mut ids = HashSet::new();
    while ids.len() < 8 {
        let result = server.result();
        let results = if result.batch.is_empty() { vec![result] } else { result.batch };
        ids.extend(results.iter().map(|result| result.id));
    }
    assert_eq!(ids, (1..=8).collect());
    running.stop().unwrap();
}

#[test]
fn a_server_that_goes_away_is_found_again_and_there_is_one_status_thread_for_good() {
    let server = Server::start();
    let (threads, seen) = unbounded();
    let make = move || {
        threads.send(thread::current().id()).unwrap();
        vec!["数据:1".to_owned(), "数据:2".to_owned()]
    };
    let config = Config { stop_grace: Duration::from_millis(100), ..server.config() };
    let worker = Worker::new(config.clone(), echo).statuses_every(Duration::from_millis(5), make);
    let (worker, events) = watched(worker);
    let running = worker.start().unwrap();
    assert_eq!([server.status(), server.status()], ["数据:1", "数据:2"]);
    let answered = next_event(&events, "status");
    assert_eq!(
        (answered["status"].as_str(), answered["answer"].as_str()),
        (Some("数据:1"), Some("服务端接收到消息:数据:1"))
    );
    let mut port = server.stop();
    for _ in 0..3 {
        assert_eq!(next_event(&events, "disconnected")["server"].as_str(), Some(config.server.as_str()));
        let server = Server::start_on(port);
        let session = server.session();
        session.send(task(1, 1, "again"));
        assert_eq!(server.result().ret, "did again");
        server.status();
        port = server.stop();
    }
    let _ = running.stop();
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 1);
}

#[test]
fn of_several_addresses_the_next_is_tried_at_once_when_one_does_not_serve() {
    let (mut server, mut next) = (Server::start(), Server::start());
    let addresses = [1, server.port, next.port].map(|port| format!("127.0.0.1:{port}"));
    let config = Config {
        server: format!("{}, {},{}", addresses[0], addresses[1], addresses[2]),
        // Nobody waits for that: all addresses are tried before.
        first_backoff: Duration::from_secs(3_600),
        most_backoff: Duration::from_secs(3_600),
        ..server.config()
    };
    let (worker, events) = watched(Worker::new(config, echo));
    let running = worker.start().unwrap();
    let (first, begins_at_next) = select! {
        recv(server.sessions) -> session => (session.unwrap(), false),
        recv(next.sessions) -> session => (session.unwrap(), true),
        default(DEADLINE) => panic!("no client asked for tasks"),
    };
    if begins_at_next {
        mem::swap(&mut server, &mut next);
    }
    first.send(task(1, 1, "first"));
    assert_eq!(server.result().ret, "did first");
    first.fail(RpcStatusCode::UNAVAILABLE, "");
    let second = next.session();
    second.send(task(2, 1, "second"));
    // The one before it may not have confirmed the first: then it is told again.
    while next.result().ret != "did second" {}
    next.stop();
    let third = server.session();
    third.send(task(3, 1, "third"));
    while server.result().ret != "did third" {}
    let _ = running.stop();
    // Wherever it began, by now it came by the address where nobody is.
    let (mut lost, mut connected) = (Vec::new(), Vec::new());
    for event in events.try_iter() {
        let place = || addresses.iter().position(|address| event["server"] == **address).unwrap();
        match event["event"].as_str() {
            Some("disconnected") => lost.push(place()),
            Some("connected") => connected.push(place()),
            _ => {}
        }
    }
    assert!(lost.contains(&0) && lost.windows(2).all(|two| two[1] == (two[0] + 1) % 3), "{lost:?}");
    assert!(matches!(connected[..], [1, 2, 1] | [2, 1, 2]), "{connected:?}");
}

#[test]
fn an_address_among_several_that_is_none_is_refused() {
    let config = Config::new("127.0.0.1:50051,nowhere");
    let refused = Worker::new(config, echo).start().unwrap_err().to_string();
    assert!(refused.contains("\"nowhere\"") && refused.contains("the port is missing"), "{refused}");
}

#[test]
fn both_streams_use_one_connection_and_each_try_a_new_one() {
    let server = Server::start();
    let running = Worker::new(server.config(), echo).start().unwrap();
    let first = server.session();
    first.fail(RpcStatusCode::UNAVAILABLE, "stopping");
    let second = server.session();
    assert_ne!(first.peer, second.peer);
    running.stop().unwrap();
}

#[test]
fn results_that_nobody_confirmed_are_told_again_before_new_tasks_are_asked_for() {
    let server = Server::start().answers(Tell::Ignore);
    let running = Worker::new(server.config(), echo).start().unwrap();
    let session = server.session();
    session.send(batch(vec![task(1, 1, "a"), task(2, 1, "b")]));
    let mut told = flattened(&server, 2);
    told.sort_by_key(|result| result.id);
    let port = server.stop();

    let server = Server::start_on(port);
    let again = flattened(&server, 2);
    assert_eq!(again, told);
    let session = server.session();
    session.send(task(3, 1, "c"));
    assert_eq!(server.result().id, 3);
    running.stop().unwrap();
}

#[test]
fn results_that_were_confirmed_are_not_told_again_nor_are_those_without_an_id() {
    let server = Server::start();
    let running = Worker::new(server.config(), echo).start().unwrap();
    let session = server.session();
    session.send(task(1, 1, "a"));
    assert_eq!(server.result().id, 1);
    session.send(task(0, 0, "article"));
    assert_eq!(server.result().id, 0);
    // The stream that carried the first is answered in time; a session after a stop shows what was kept.
    session.send(task(2, 1, "b"));
    assert_eq!(server.result().id, 2);
    running.stop().unwrap();
    assert!(server.results.is_empty());

    let config = server.config();
    let (worker, events) = watched(Worker::new(config, echo));
    let running = worker.start().unwrap();
    let session = server.session();
    session.send(task(0, 0, "article"));
    assert_eq!(server.result().id, 0);
    let port = server.stop();
    next_event(&events, "disconnected");
    let server = Server::start_on(port);
    let session = server.session();
    session.send(task(9, 1, "new"));
    assert_eq!(server.result().id, 9, "nothing else was told first");
    running.stop().unwrap();
}

#[test]
fn a_result_that_the_server_refuses_is_dropped_and_takes_no_other_along() {
    let server = Server::start().answers(Tell::Refuse(2, RpcStatusCode::NOT_FOUND, "TASK_UNKNOWN"));
    let config = Config { confirm_every: DEADLINE, ..server.config() };
    let running = Worker::new(config, echo).start().unwrap();
    let session = server.session();
    session.send(batch((1..=3).map(|id| task(id, 1, "x")).collect()));
    let ids = |results: Vec<pb::Result>| results.iter().map(|result| result.id).collect::<Vec<_>>();
    assert_eq!(ids(flattened(&server, 3)), [1, 2, 3]);
    // A stop asks for the confirmation at once.
    running.stop().unwrap();
    assert_eq!(ids(server.results.try_iter().collect()), [1, 2, 3], "each by itself");
}

#[test]
fn a_client_that_was_taken_over_stops_with_an_error_after_telling_what_it_did() {
    let server = Server::start();
    let (running, begun, open) = gated(server.config());
    let session = server.session();
    session.send(task(1, 1, "a"));
    begun.recv_timeout(DEADLINE).unwrap();
    session.refuse(RpcStatusCode::ABORTED, "CLIENT_TAKEN_OVER", "another stream came");
    // The end of the stream is seen before the task is finished, or after: either way its result is told.
    drop(open);
    assert_eq!(server.result().id, 1);
    let error = running.join().unwrap_err();
    assert!(matches!(&error, Error::TakenOver(text) if text == "another stream came"), "{error}");
    assert!(server.sessions.is_empty(), "it did not come back");
}

#[test]
fn a_client_that_is_refused_stops_with_an_error_that_says_why() {
    for (code, reason) in [
        (RpcStatusCode::UNAUTHENTICATED, "OF_A_LATER_VERSION"),
        (RpcStatusCode::PERMISSION_DENIED, "OF_A_LATER_VERSION"),
        (RpcStatusCode::INVALID_ARGUMENT, "METADATA_INVALID"),
    ] {
        let server = Server::start();
        let running = Worker::new(server.config(), echo).start().unwrap();
        let session = server.session();
        session.refuse(code, reason, "not you");
        let error = running.join().unwrap_err().to_string();
        assert!(error.contains("not you") && code.to_string().ends_with(error.split(": ").nth(1).unwrap()), "{error}");
    }
}

#[test]
fn an_answer_that_is_none_of_a_contact_server_ends_no_client_and_costs_no_result() {
    let server = Server::start();
    let (worker, events) = watched(Worker::new(server.config(), echo));
    let running = worker.start().unwrap();
    for code in [
        RpcStatusCode::UNAUTHENTICATED,
        RpcStatusCode::PERMISSION_DENIED,
        RpcStatusCode::UNIMPLEMENTED,
        RpcStatusCode::INVALID_ARGUMENT,
        RpcStatusCode::ABORTED,
        RpcStatusCode::UNKNOWN,
    ] {
        server.session().fail(code, "Received http2 header with status: 404");
        let event = events.recv_timeout(DEADLINE).unwrap();
        assert_eq!(event["event"], "disconnected", "it is not connected: {event}");
        assert!(event["reason"].as_str().unwrap().contains("404"), "{event}");
    }
    // The result goes to the same proxy, again and again, until the server is there.
    let mut session = server.session();
    *server.tell.lock().unwrap() = Tell::Fail(RpcStatusCode::NOT_FOUND);
    session.send(task(1, 1, "kept"));
    for _ in 0..3 {
        assert_eq!(server.result().id, 1);
        next_event(&events, "disconnected");
    }
    *server.tell.lock().unwrap() = Tell::Confirm;
    session = server.session();
    session.send(task(2, 1, "goes on"));
    while server.result().id != 2 {}
    running.stop().unwrap();
}

#[test]
fn an_address_that_does_not_answer_delays_the_next_one_by_little() {
    // The kernel takes connections for it, and nobody says a word on them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start();
    let addresses = format!("ipv4:{},127.0.0.1:{}", silent.local_addr().unwrap(), server.port);
    let running = Worker::new(Config { server: addresses, ..server.config() }, echo).start().unwrap();
    // C-core would give it 20 s.
    let session = server.sessions.recv_timeout(DEADLINE / 2).expect("the second address was not tried");
    // It may have begun there: now it comes by the first.
    session.send(pb::ServerMsg::new());
    session.fail(RpcStatusCode::UNAVAILABLE, "");
    server.sessions.recv_timeout(DEADLINE / 2).expect("the second address was not tried again");
    running.stop().unwrap();
}

#[test]
fn a_port_that_has_no_such_calls_is_told_apart_from_a_proxy() {
    let server = Server::start();
    let (worker, events) = watched(Worker::new(server.config(), echo));
    let running = worker.start().unwrap();
    for (text, hint) in [("", true), ("Method not found!", true), ("Received http2 header with status: 404", false)] {
        server.session().fail(RpcStatusCode::UNIMPLEMENTED, text);
        let event = next_event(&events, "disconnected");
        assert_eq!(event["reason"].as_str().unwrap().contains("--control"), hint, "{event}");
    }
    running.stop().unwrap();
}

#[test]
fn a_graceful_stop_finishes_the_running_task_and_leaves_the_waiting_ones() {
    let server = Server::start();
    let (running, begun, open) = gated(server.config());
    let session = server.session();
    (1..=5).for_each(|id| session.send(task(id, 1, "a")));
    begun.recv_timeout(DEADLINE).unwrap();
    running.stopper().stop();
    drop(open);
    running.join().unwrap();
    let done = pb::Outcome::DONE.into();
    let told: Vec<_> = server.results.try_iter().filter(|result| result.outcome == done).map(|it| it.id).collect();
    assert_eq!(told, [1]);
}

/// The next result that is no WORKING: its task, and what came of it.
#[track_caller]
fn next_outcome(server: &Server) -> (u64, pb::Outcome) {
    loop {
        let result = server.result();
        if result.outcome != pb::Outcome::WORKING.into() {
            return (result.id, result.outcome.enum_value().unwrap());
        }
    }
}

#[test]
fn at_a_stop_what_is_not_begun_goes_back_at_once_and_no_more_is_taken() {
    let server = Server::start();
    let config = Config { id: Some("a".into()), announce_begin: true, ..server.config() };
    let (running, begun, open) = gated(config);
    let session = server.session();
    assert_eq!(session.metadata("contact-begins"), Some("1"));
    (1..=3).for_each(|id| session.send(task(id, 1, "a")));
    begun.recv_timeout(DEADLINE).unwrap();
    running.stopper().stop();
    // While the first still runs.
    let mut back = [next_outcome(&server), next_outcome(&server)];
    back.sort_by_key(|(id, _)| *id);
    assert_eq!(back, [(2, pb::Outcome::RELEASED), (3, pb::Outcome::RELEASED)]);
    // The same process, which has no room beside the one that runs.
    let narrow = server.session();
    assert_eq!((session.metadata("contact-drain"), narrow.metadata("contact-drain")), (None, Some("1")));
    assert_eq!(narrow.metadata("contact-window"), Some("1"), "an older server goes by this");
    assert_eq!(narrow.metadata("contact-instance"), session.metadata("contact-instance"));
    assert_eq!(narrow.peer, session.peer);
    // What was on its way goes back as well.
    session.send(task(4, 1, "late"));
    assert_eq!(next_outcome(&server), (4, pb::Outcome::RELEASED));
    session.refuse(RpcStatusCode::ABORTED, "CLIENT_TAKEN_OVER", "a newer stream");
    narrow.send(task(5, 1, "later"));
    assert_eq!(next_outcome(&server), (5, pb::Outcome::RELEASED));
    drop(open);
    assert_eq!(next_outcome(&server), (1, pb::Outcome::DONE));
    running.join().unwrap();
    assert!(begun.is_empty());
}

#[test]
fn a_stop_loses_nothing_with_a_server_that_does_not_take_tasks_back() {
    let server = Server::start().answers(Tell::RefuseReleased);
    let (running, begun, open) = gated(Config { announce_begin: true, confirm_every: DEADLINE, ..server.config() });
    let session = server.session();
    (1..=3).for_each(|id| session.send(task(id, 1, "a")));
    begun.recv_timeout(DEADLINE).unwrap();
    running.stopper().stop();
    while next_outcome(&server).1 != pb::Outcome::RELEASED {}
    drop(open);
    running.join().unwrap();
    let done = server.results.try_iter().filter(|result| result.outcome == pb::Outcome::DONE.into());
    assert!(done.map(|result| result.id).all(|id| id == 1));
}

#[test]
fn each_task_is_announced_before_it_is_begun_unless_that_is_not_wanted() {
    let server = Server::start();
    for (announce_begin, said) in
        [(true, &[pb::Outcome::WORKING, pb::Outcome::DONE][..]), (false, &[pb::Outcome::DONE])]
    {
        let config = Config { announce_begin, ..server.config() };
        let running = Worker::new(config, echo).start().unwrap();
        let session = server.session();
        for id in 1..=3 {
            session.send(task(id, 1, "short"));
            for outcome in said {
                let result = server.result();
                assert_eq!((result.id, result.outcome), (id, (*outcome).into()));
            }
        }
        running.stop().unwrap();
    }
}

#[test]
fn what_waits_behind_a_long_task_goes_back_so_that_others_get_it() {
    let server = Server::start();
    let renew_every = Duration::from_millis(20);
    let (running, begun, open) = gated(Config { announce_begin: true, renew_every, ..server.config() });
    let session = server.session();
    session.send(task(1, 1, "long"));
    begun.recv_timeout(DEADLINE).unwrap();
    for attempt in 1..=3 {
        session.send(task(2, attempt, "waits"));
        assert_eq!(next_outcome(&server), (2, pb::Outcome::RELEASED));
    }
    drop(open);
    assert_eq!(next_outcome(&server), (1, pb::Outcome::DONE));
    session.send(task(2, 4, "comes again"));
    assert_eq!(next_outcome(&server), (2, pb::Outcome::DONE));
    running.stop().unwrap();
}

#[test]
fn what_is_not_begun_when_the_connection_is_lost_goes_back_before_more_is_asked_for() {
    let server = Server::start();
    let config = Config { announce_begin: true, ..server.config() };
    let (running, begun, open) = gated(config);
    let session = server.session();
    session.send(batch(vec![task(1, 1, "long"), task(2, 1, "waits")]));
    begun.recv_timeout(DEADLINE).unwrap();
    let server = Server::start_on(server.stop());
    let mut told = flattened(&server, 2);
    told.sort_by_key(|result| result.id);
    let told: Vec<_> = told.iter().map(|result| (result.id, result.outcome.enum_value().unwrap())).collect();
    assert_eq!(told, [(1, pb::Outcome::WORKING), (2, pb::Outcome::RELEASED)]);
    let _session = server.session();
    drop(open);
    assert_eq!(next_outcome(&server), (1, pb::Outcome::DONE));
    running.stop().unwrap();
}

#[test]
fn a_task_that_is_taken_back_is_not_begun_or_its_handler_hears_of_it() {
    let server = Server::start();
    let (begin, begun) = unbounded();
    let handler = move |task: &Task| {
        begin.send(task.id).unwrap();
        // Disconnects when it is revoked.
        assert!(task.revocation().recv_timeout(DEADLINE).is_err());
        format!("{:?}", task.revoked())
    };
    let running = Worker::new(server.config(), handler).start().unwrap();
    let session = server.session();
    assert_eq!(session.metadata("contact-revoke"), Some("1"));
    (1..=3).for_each(|id| session.send(task(id, 1, "a")));
    let revoke = |revoked: &[(u64, pb::revoked::Reason)]| {
        let revoked = revoked.iter().map(|&(id, reason)| pb::Revoked {
            id,
            attempt: 1,
            reason: reason.into(),
            ..Default::default()
        });
        session.send(pb::ServerMsg { revoked: revoked.collect(), ..Default::default() });
    };
    assert_eq!(begun.recv_timeout(DEADLINE), Ok(1));
    revoke(&[(2, pb::revoked::Reason::EXPIRED), (1, pb::revoked::Reason::CANCELLED)]);
    let result = server.result();
    assert_eq!((result.id, result.ret.as_str()), (1, "Some(Cancelled)"));
    assert_eq!(begun.recv_timeout(DEADLINE), Ok(3), "the second was not begun");
    revoke(&[(3, pb::revoked::Reason::GIVEN_TO_ANOTHER)]);
    while server.result().ret != "Some(GivenToAnother)" {}
    running.stop().unwrap();
}

#[test]
fn a_result_is_cut_to_what_the_server_says_it_takes() {
    let server = Server::with(0, Some(100));
    let running = Worker::new(server.config(), |_: &Task| "x".repeat(1000)).start().unwrap();
    let session = server.session();
    session.send(task(1, 1, "long"));
    let result = server.result();
    assert!(result.ret.len() <= 100 && result.ret.contains("[cut: 1000 bytes in all]"), "{}", result.ret);
    running.stop().unwrap();
}

#[test]
fn a_result_that_the_server_finds_too_long_is_told_as_failed() {
    let server = Server::start().answers(Tell::Refuse(1, RpcStatusCode::INVALID_ARGUMENT, "RESULT_TOO_LONG"));
    let running = Worker::new(server.config(), |_: &Task| "x".repeat(1000)).start().unwrap();
    let session = server.session();
    session.send(task(1, 1, "long"));
    assert_eq!(server.result().ret.len(), 1000);
    let told = server.result();
    assert_eq!(told.outcome, pb::Outcome::FAILED.into());
    assert!(told.ret.contains("DONE, 1000 bytes") && told.ret.contains("no 1"), "{}", told.ret);
    running.stop().unwrap();
}

#[test]
fn results_are_told_though_nobody_takes_the_events() {
    let server = Server::start();
    let (open, gate) = bounded::<()>(0);
    let worker = Worker::new(Config { concurrency: 4, ..server.config() }, echo).observe(move |event: &Event<'_>| {
        if matches!(event, Event::Task { .. }) {
            let _ = gate.recv();
        }
    });
    let running = worker.start().unwrap();
    let session = server.session();
    (1..=4).for_each(|id| session.send(task(id, 1, "a")));
    let told: HashSet<_> = (0..4).map(|_| server.result().id).collect();
    assert_eq!(told, (1..=4).collect());
    drop(open);
    running.stop().unwrap();
}

#[test]
fn what_expires_while_it_waits_is_not_begun_whatever_the_clock_of_the_server_says() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let server = Server::start();
    let expires_at = now() + 200;
    let handler = move |task: &Task| {
        while now() <= expires_at {
            thread::yield_now();
        }
        echo(task)
    };
    let running = Worker::new(server.config(), handler).start().unwrap();
    let session = server.session();
    session.send(task(1, 1, "until then"));
    session.send(pb::ServerMsg { expires_at, ..task(2, 1, "too late") });
    // Over when it came: the clocks differ, so it says nothing.
    session.send(pb::ServerMsg { expires_at: 1, ..task(3, 1, "by another clock") });
    let mut came: Vec<_> = (0..3).map(|_| next_outcome(&server)).collect();
    came.sort_by_key(|(id, _)| *id);
    assert_eq!(came, [(1, pb::Outcome::DONE), (2, pb::Outcome::RELEASED), (3, pb::Outcome::DONE)]);
    running.stop().unwrap();
}

#[test]
fn a_stop_while_the_server_is_away_says_what_could_not_be_told() {
    let server = Server::start();
    let (worker, events) =
        watched(Worker::new(Config { stop_grace: Duration::from_millis(50), ..server.config() }, |task: &Task| {
            echo(task)
        }));
    *server.tell.lock().unwrap() = Tell::Ignore;
    let running = worker.start().unwrap();
    let session = server.session();
    session.send(task(1, 1, "a"));
    server.result();
    server.stop();
    next_event(&events, "disconnected");
    let error = running.stop().unwrap_err();
    assert!(matches!(error, Error::Unreported(1)), "{error}");
}

#[test]
fn a_stop_while_the_server_is_away_does_not_wait_for_room_for_the_last_results() {
    let server = Server::start();
    let config = Config { concurrency: 4, stop_grace: Duration::from_millis(50), ..server.config() };
    let (handled, seen) = unbounded();
    let running = Worker::new(config, move |task: &Task| handled.send(task.id).map_or("", |()| "")).start().unwrap();
    *server.tell.lock().unwrap() = Tell::Ignore;
    let session = server.session();
    session.send(task(1, 1, "a"));
    // Its stream is ended and never answered: from here on, results wait.
    server.result();
    (2..=1000).for_each(|id| session.send(task(id, 1, "x")));
    for _ in 0..250 {
        seen.recv_timeout(DEADLINE).unwrap();
    }
    server.stop();
    let error = running.stop().unwrap_err();
    assert!(matches!(error, Error::Unreported(250..=1000)), "{error}");
}

#[test]
fn a_status_that_the_server_refuses_takes_no_other_along() {
    let server = Server::start();
    let (statuses, source) = bounded(10);
    let (worker, events) = watched(Worker::new(server.config(), echo).statuses(source));
    ["a", "bad", "b"].iter().for_each(|status| statuses.send((*status).to_owned()).unwrap());
    let running = worker.start().unwrap();
    std::iter::repeat_with(|| next_event(&events, "status")).find(|event| event["status"] == "b").unwrap();
    running.stop().unwrap();
    assert!(server.statuses.try_iter().any(|status| status == "a"));
}

#[test]
fn leases_are_renewed_while_a_handler_works_and_not_twice_run_when_the_task_comes_again() {
    let server = Server::start();
    let (running, begun, open) = gated(Config { renew_every: Duration::from_millis(10), ..server.config() });
    let session = server.session();
    session.send(task(5, 1, "long"));
    begun.recv_timeout(DEADLINE).unwrap();
    for _ in 0..3 {
        let renewal = server.result();
        assert_eq!((renewal.id, renewal.attempt, renewal.outcome), (5, 1, pb::Outcome::WORKING.into()));
    }
    session.send(task(5, 2, "long"));
    while server.result().attempt == 1 {}
    drop(open);
    let done = std::iter::repeat_with(|| server.result()).find(|r| r.outcome != pb::Outcome::WORKING.into()).unwrap();
    assert_eq!((done.id, done.attempt, done.outcome), (5, 2, pb::Outcome::DONE.into()));
    assert!(begun.is_empty(), "it ran once");
    running.stop().unwrap();
}

#[test]
fn a_task_that_is_held_over_a_reconnect_is_renewed_at_once_and_told_on_the_new_connection() {
    let server = Server::start();
    let (running, begun, open) = gated(server.config());
    let session = server.session();
    session.send(task(5, 1, "long"));
    begun.recv_timeout(DEADLINE).unwrap();
    let server = Server::start_on(server.stop());
    // Before it asks for new tasks, and after.
    let renewals = [server.result(), server.result()];
    let _session = server.session();
    for renewal in renewals {
        assert_eq!((renewal.id, renewal.attempt, renewal.outcome), (5, 1, pb::Outcome::WORKING.into()));
    }
    drop(open);
    let done = server.result();
    assert_eq!((done.id, done.outcome), (5, pb::Outcome::DONE.into()));
    running.stop().unwrap();
}

#[test]
fn a_server_whose_heartbeats_stop_is_given_up() {
    let server = Server::start();
    let config = Config { heartbeat: Some(Duration::from_secs(1)), ..server.config() };
    let running = Worker::new(config, echo).start().unwrap();
    let session = server.session();
    session.send(pb::ServerMsg::new());
    let again = server.session();
    assert_ne!(session.peer, again.peer);
    running.stop().unwrap();
}

#[test]
fn a_server_that_says_when_to_come_back_is_left_alone_until_then() {
    let server = Server::start();
    let config = Config { most_backoff: Duration::from_secs(3600), ..server.config() };
    let (worker, events) = watched(Worker::new(config, echo));
    let running = worker.start().unwrap();
    // What makes no sense counts as nothing said.
    for (seconds, waits) in [(-5, 0..=20), (100, 100_000..=100_040)] {
        let retry_delay = Some(protobuf::well_known_types::duration::Duration { seconds, ..Default::default() }).into();
        let retry = Any::pack(&RetryInfo { retry_delay, ..Default::default() }).unwrap();
        let session = server.session();
        let status = with_detail(RpcStatusCode::UNAVAILABLE, "later", &retry);
        session.messages.unbounded_send(Err(status)).unwrap();
        let retry_ms = next_event(&events, "disconnected")["retry_ms"].as_u64().unwrap();
        assert!(waits.contains(&retry_ms), "{retry_ms} ms");
    }
    running.stop().unwrap();
}

#[test]
fn statuses_that_were_sent_into_the_channel_are_answered_even_if_a_stop_follows() {
    let server = Server::start();
    let (statuses, source) = bounded(100);
    let (worker, events) = watched(Worker::new(server.config(), echo).statuses(source));
    let running = worker.start().unwrap();
    let session = server.session();
    session.send(pb::ServerMsg::new());
    next_event(&events, "connected");
    (0..50).for_each(|n| statuses.send(format!("s{n}")).unwrap());
    assert_eq!(server.status(), "s0");
    running.stop().unwrap();
    let answered = events.iter().filter(|event| event["event"] == "status").count();
    assert_eq!(answered, 50);
}

#[test]
fn a_handler_that_is_slow_holds_up_the_server_and_loses_nothing() {
    let server = Server::start();
    let (running, begun, open) = gated(server.config());
    let session = server.session();
    (1..=5000).for_each(|id| session.send(task(id, 1, "x")));
    begun.recv_timeout(DEADLINE).unwrap();
    drop(open);
    let ids = flattened(&server, 5000).into_iter().map(|result| result.id);
    assert!(ids.eq(1..=5000), "each once, in order");
    running.stop().unwrap();
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_a_reason() {
    let good = Config::new("127.0.0.1:1");
    let bad = [
        (Config { id: Some("a\u{200b}".into()), ..good.clone() }, "U+200B"),
        (Config { id: Some("a ".into()), ..good.clone() }, "not begin or end with a blank"),
        (Config { group: Some(String::new()), ..good.clone() }, "1 to 256 bytes"),
        (Config { concurrency: 0, ..good.clone() }, "use 1 or more"),
        (Config { concurrency: 4097, ..good.clone() }, "use 4096 at most"),
        (Config { renew_every: Duration::ZERO, ..good.clone() }, "every 0 s"),
        (Config { server: String::new(), ..good.clone() }, "host:port"),
        (Config { server: "http://127.0.0.1:1".into(), ..good.clone() }, "leave out http://"),
        (Config { server: "localhost".into(), ..good.clone() }, "the port is missing"),
    ];
    for (config, reason) in bad {
        let error = Worker::new(config, echo).start().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn waits_between_tries_are_jittered_and_bounded() {
    let mut rng = rand::rngs::StdRng::seed_from_u64(7);
    let mut highest = Duration::ZERO;
    for _ in 0..1000 {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for n in 0..70 {
            let wait = backoff.next(&mut rng);
            assert!(wait <= Duration::from_secs(1 << n.min(5)).min(Duration::from_secs(30)), "{n}: {wait:?}");
            highest = highest.max(wait);
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= Duration::from_secs(1));
    }
    assert!(highest > Duration::from_secs(29));
}

#[test]
fn the_exit_of_a_command_is_the_outcome_and_what_it_printed_the_result() {
    let run = |command: &str| {
        let reply = exec_task(Exec::new(command).attempts(2), "hello");
        (reply.outcome, reply.text)
    };
    assert_eq!(run("cat; echo unheard >&2"), (Outcome::Done, "hello\n".into()));
    let both = |code| format!("exit code {code}\n--- standard error:\nerr\n--- standard output:\nout");
    assert_eq!(run("echo out; echo err >&2; exit 75"), (Outcome::Retry, both(75)));
    assert_eq!(run("printf out; printf err >&2; exit 1"), (Outcome::Failed, both(1)));
    assert_eq!(run("echo err >&2; exit 1"), (Outcome::Failed, "exit code 1\n--- standard error:\nerr".into()));
    assert_eq!(run("exit 3"), (Outcome::Failed, "exit code 3".into()));
    assert_eq!(run("kill -9 $$"), (Outcome::Failed, "killed by signal 9".into()));
    let half = "killed by signal 15\n--- standard output:\nhalf";
    assert_eq!(run("printf half; kill -15 $$"), (Outcome::Failed, half.into()));
    assert_eq!(run("printf '%s %s' $CONTACT_TASK_ID $CONTACT_ATTEMPT"), (Outcome::Done, "3 3".into()));
    assert_eq!(run("no-such-command-here 2>/dev/null"), (Outcome::Failed, "exit code 127".into()));
    assert_eq!(run("if"), run("if"), "what the shell says of a syntax error");
    assert_eq!(run("if").0, Outcome::Failed);
}

#[test]
fn a_command_that_fails_is_tried_again_until_its_attempts_are_used_up() {
    let reply = |exec: Exec| exec_task(exec, "the second try");
    let third_is_left = reply(Exec::new("exit 1").retry_delay(Duration::from_secs(3)));
    assert_eq!((third_is_left.outcome, third_is_left.delay), (Outcome::Retry, Duration::from_secs(6)));
    for attempts in [1, 2] {
        assert_eq!(reply(Exec::new("exit 1").attempts(attempts)).outcome, Outcome::Failed);
    }
    assert_eq!(reply(Exec::new("exit 75").attempts(1)).outcome, Outcome::Retry, "it asked for another");
    // As the task or its group says, unless the client says otherwise.
    let of = |max_attempts, exec: Exec| {
        exec_message(exec, pb::ServerMsg { spent: 3, max_attempts, ..task(3, 4, "the fourth try") }).outcome
    };
    assert_eq!(of(0, Exec::new("exit 1")), Outcome::Failed);
    assert_eq!((of(5, Exec::new("exit 1")), of(4, Exec::new("exit 1"))), (Outcome::Retry, Outcome::Failed));
    assert_eq!(of(5, Exec::new("exit 1").attempts(2)), Outcome::Failed);
}

#[test]
fn the_wait_before_another_try_doubles_up_to_ten_minutes() {
    let delay = |first| exec_task(Exec::new("exit 75").retry_delay(first), "the second try").delay;
    assert_eq!(delay(Duration::from_secs(3)), Duration::from_secs(6));
    assert_eq!(delay(Duration::from_secs(400)), Duration::from_secs(600));
    assert_eq!(exec_task(Exec::new("exit 75"), "work").delay, Duration::ZERO, "the policy of the server counts");
}

#[test]
fn a_task_ends_with_a_newline_on_standard_input_unless_it_is_to_be_raw() {
    assert_eq!(exec_task(Exec::new("while read line; do echo \"<$line>\"; done"), "a\nb"), Reply::done("<a>\n<b>\n"));
    assert_eq!(exec_task(Exec::new("cat"), "a\n").text, "a\n");
    assert_eq!(exec_task(Exec::new("cat").raw_input(true), "a").text, "a");
}

#[test]
fn of_long_outputs_the_beginning_and_the_end_are_kept() {
    let exec = |command: &str| Exec::new(command).max_output(100);
    let reply = exec_task(exec("seq 100000; echo all"), "");
    let (head, tail) = reply.text.split_once("\n[cut: 588899 bytes in all]\n").expect("no note");
    assert!(head.starts_with("1\n2\n") && tail.ends_with("100000\nall\n"), "{reply:?}");
    assert_eq!((head.len(), tail.len()), (50, 50));

    let reply = exec_task(exec("seq 100000; seq 100000 >&2; echo the reason >&2; exit 1"), "");
    let (errors, output) = reply.text.split_once("\n--- standard output:\n").expect("no output");
    assert!(errors.starts_with("exit code 1\n--- standard error:\n1\n2\n"), "{errors}");
    assert!(errors.ends_with("the reason") && output.ends_with("100000"), "{reply:?}");
    assert!(reply.text.len() < 300, "{}", reply.text.len());

    // One that is short leaves its part to the other.
    let reply = exec_task(exec("seq 100000; echo the reason >&2; exit 1"), "");
    let output = reply.text.split_once("--- standard output:\n").expect("no output").1;
    assert_eq!(output.split_once("\n[cut").expect("no note").0.len(), (100 - "the reason\n".len()) / 2);
}

#[test]
fn output_that_is_no_utf8_is_replaced() {
    let reply = exec_task(Exec::new(r"printf 'a\377b'"), "");
    assert_eq!((reply.outcome, reply.text.as_str()), (Outcome::Done, "a\u{fffd}b"));
}

#[test]
fn a_long_task_reaches_a_command_that_answers_while_it_reads_and_one_that_does_not_read() {
    let long = "x".repeat(1 << 20);
    let reply = exec_task(Exec::new("cat").max_output(2 << 20).raw_input(true), &long);
    assert_eq!(reply.text.len(), long.len());
    assert_eq!(exec_task(Exec::new("printf ok"), &long), Reply::done("ok"));
}

#[test]
fn a_command_is_done_when_it_has_exited_whatever_it_left_behind() {
    let note = "[cut: a process that the command left behind held its outputs open]";
    let reply = exec_task(Exec::new("sleep 1000 & echo $!"), "");
    let (left, rest) = reply.text.split_once('\n').unwrap();
    assert_eq!((reply.outcome, rest), (Outcome::Done, note));
    assert!(is_there(left), "what it left behind goes on");
    signal("KILL", left);
    // One that closes its outputs is waited for by nobody.
    let reply = exec_task(Exec::new("sleep 1000 >/dev/null 2>&1 & echo $!"), "");
    signal("KILL", reply.text.strip_suffix('\n').expect("a note, though nothing was cut"));
    // Neither is one that goes on talking.
    let reply = exec_task(Exec::new("yes >&2 & echo $! >&2; exit 1").attempts(1), "");
    assert!(reply.outcome == Outcome::Failed && reply.text.ends_with(note), "{reply:?}");
    gone(reply.text.lines().nth(2).unwrap());
}

#[test]
fn a_command_that_takes_too_long_is_ended_with_all_that_it_started() {
    let exec = |command: &str| Exec::new(command).timeout(SHORT).attempts(2);
    let reply = exec_task(exec("sleep 1000 & echo $!; wait"), "");
    let text = "timed out after 0.2 s (killed by signal 15)\n--- standard output:\n";
    assert_eq!((reply.outcome, reply.text.lines().count()), (Outcome::Failed, 3), "{reply:?}");
    gone(reply.text.strip_prefix(text).unwrap_or_else(|| panic!("{reply:?}")));
    // Whatever it says then.
    let reply = exec_task(exec("trap 'exit 0' TERM; sleep 1000 & wait"), "");
    assert_eq!((reply.outcome, reply.text.as_str()), (Outcome::Failed, "timed out after 0.2 s (exit code 0)"));
    // One that does not hear is killed.
    let reply = exec_task(exec("trap '' TERM; echo $$; while :; do sleep 1000; done"), "");
    assert!(reply.text.starts_with("timed out after 0.2 s (killed by signal 9)"), "{reply:?}");
    gone(reply.text.lines().last().unwrap());
}

#[test]
fn a_command_that_outlasts_the_stop_of_its_worker_is_ended_and_its_task_goes_back() {
    let server = Server::start();
    let (begins, begun) = bounded(1);
    let exec = Exec::new("echo $$ >&2; sleep 1000; echo").stop_timeout(SHORT).attempts(1);
    let handler = move |task: &Task| {
        begins.send(()).unwrap();
        exec.run(task)
    };
    let running = Worker::new(server.config(), handler).start().unwrap();
    server.session().send(task(1, 1, "long"));
    begun.recv_timeout(DEADLINE).expect("no handler began");
    running.stop().unwrap();
    let told = std::iter::repeat_with(|| server.result()).find(|it| it.outcome != pb::Outcome::WORKING.into()).unwrap();
    assert_eq!((told.id, told.outcome), (1, pb::Outcome::RETRY.into()));
    assert!(told.delay_ms > 0, "it would come to the one that stops");
    let first = "ended because its client stops (killed by signal 15)\n";
    assert!(told.ret.starts_with(first), "{told:?}");
    // None, if it was ended before it began.
    told.ret.lines().nth(2).into_iter().for_each(gone);
}

#[test]
fn a_command_whose_task_was_taken_back_is_ended() {
    let server = Server::start();
    let (begins, begun) = bounded(1);
    let (replies, seen) = bounded(1);
    let exec = Exec::new("sleep 1000; echo");
    let handler = move |task: &Task| {
        begins.send(()).unwrap();
        replies.send(exec.run(task)).unwrap();
        "late"
    };
    let running = Worker::new(server.config(), handler).start().unwrap();
    let session = server.session();
    session.send(task(1, 1, "long"));
    begun.recv_timeout(DEADLINE).expect("no handler began");
    let cancelled = pb::Revoked { id: 1, attempt: 1, ..Default::default() };
    session.send(pb::ServerMsg { revoked: vec![cancelled], ..Default::default() });
    let reply = seen.recv_timeout(DEADLINE).expect("the command goes on");
    assert_eq!(reply.text, "ended because the task was cancelled (killed by signal 15)");
    running.stop().unwrap();
}

#[test]
fn a_command_that_takes_longer_than_its_task_may_is_ended_and_what_comes_of_it_is_as_its_submitter_said() {
    let limited = |fails| pb::ServerMsg { timeout_ms: 100, timeout_fails: fails, ..task(3, 3, "long") };
    for (fails, outcome) in [(true, Outcome::Failed), (false, Outcome::Retry)] {
        let reply = exec_message(Exec::new("sleep 1000; echo"), limited(fails));
        assert_eq!(reply.outcome, outcome);
        assert!(reply.text.starts_with("timed out after 0.1 s, as its task says (killed by signal 15)"), "{reply:?}");
    }
    let last = pb::ServerMsg { spent: 2, max_attempts: 3, ..limited(false) };
    assert_eq!(exec_message(Exec::new("sleep 1000; echo"), last).outcome, Outcome::Failed, "it was its last attempt");
}

#[test]
fn a_command_knows_its_task() {
    let message = pb::ServerMsg { key: "k 1".into(), timeout_ms: 60_000, ..task(3, 2, "x") };
    let command = "echo $CONTACT_TASK_ID $CONTACT_ATTEMPT $CONTACT_TASK_ATTEMPT \"$CONTACT_TASK_KEY\"; \
                   [ $((CONTACT_TASK_DEADLINE - $(date +%s))) -gt 30 ] && echo in time";
    assert_eq!(exec_message(Exec::new(command), message).text, "3 2 2 k 1\nin time\n");
    let plain = exec_message(Exec::new("echo ${CONTACT_TASK_KEY-none} ${CONTACT_TASK_DEADLINE-none}"), task(3, 2, "x"));
    assert_eq!(plain.text, "none none\n");
}

#[test]
fn a_command_says_how_far_it_is_on_standard_error() {
    let server = Server::start();
    let (replies, seen) = bounded(1);
    let exec = Exec::new("echo other >&2; echo '::progress 0.4 resizing' >&2; sleep 1000");
    let handler = move |task: &Task| {
        let reply = exec.run(task);
        replies.send(reply.clone()).unwrap();
        reply
    };
    let running = Worker::new(server.config(), handler).start().unwrap();
    let session = server.session();
    session.send(task(1, 1, "long"));
    let told = std::iter::repeat_with(|| server.result()).find(|it| it.progress.is_some()).unwrap();
    let working = pb::Outcome::WORKING.into();
    assert_eq!((told.id, told.outcome, told.progress, told.ret.as_str()), (1, working, Some(0.4), "resizing"));
    let cancelled = pb::Revoked { id: 1, attempt: 1, ..Default::default() };
    session.send(pb::ServerMsg { revoked: vec![cancelled], ..Default::default() });
    let reply = seen.recv_timeout(DEADLINE).expect("the command goes on");
    assert!(reply.text.ends_with("--- standard error:\nother"), "{}", reply.text);
    running.stop().unwrap();
}

#[test]
fn a_handler_says_how_far_it_is_and_the_newest_goes_out_and_again_over_another_connection() {
    let server = Server::start();
    let (gate, opened) = bounded::<()>(0);
    let handler = move |task: &Task| {
        (0..=10_000).for_each(|step| task.progress(step as f32 / 10_000.0, if step == 0 { "all of it" } else { "" }));
        let _ = opened.recv();
        "done"
    };
    let running = Worker::new(server.config(), handler).start().unwrap();
    server.session().send(task(1, 1, "long"));
    let is_all = |it: &pb::Result| it.progress == Some(1.0) && it.ret == "all of it";
    let messages = std::iter::repeat_with(|| server.result()).position(|it| is_all(&it)).unwrap();
    assert!(messages < 1_000, "{messages} messages before the newest");
    let server = Server::start_on(server.stop());
    std::iter::repeat_with(|| server.result()).find(is_all).unwrap();
    drop(gate);
    running.stop().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_command_has_a_session_of_its_own_and_so_no_terminal() {
    // proc_pid_stat(5): pid, name, state, parent, group, session, terminal.
    let reply = exec_task(
        Exec::new("read -r _ _ _ _ group session terminal _ </proc/$$/stat; echo $$ $group $session $terminal"),
        "",
    );
    let numbers: Vec<&str> = reply.text.split_whitespace().collect();
    assert_eq!(numbers, [numbers[0], numbers[0], numbers[0], "0"]);
}

/// What a command may take that is to be ended.
const SHORT: Duration = Duration::from_millis(200);

fn is_there(pid: &str) -> bool {
    signal("0", pid)
}

fn signal(signal: &str, pid: &str) -> bool {
    assert!(pid.parse().is_ok_and(|pid: u32| pid > 1), "{pid:?}");
    let kill = format!("kill -s {signal} {pid} 2>/dev/null");
    std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success()
}

/// Waits until a process has ended.
#[track_caller]
fn gone(pid: &str) {
    let deadline = Instant::now() + DEADLINE;
    while is_there(pid) {
        assert!(Instant::now() < deadline, "{pid} is still there");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A command's reply to a task that comes for the third time and of which one attempt was spent. It comes by way of a worker: that is
/// how a task is made.
#[track_caller]
fn exec_task(exec: Exec, text: &str) -> Reply {
    let text = if text.is_empty() { " " } else { text };
    exec_message(exec, pb::ServerMsg { spent: 1, ..task(3, 3, text) })
}

#[track_caller]
fn exec_message(exec: Exec, message: pb::ServerMsg) -> Reply {
    let server = Server::start();
    let (replies, seen) = bounded(1);
    let handler = move |task: &Task| {
        let reply = exec.run(task);
        replies.send(reply.clone()).unwrap();
        reply
    };
    let running = Worker::new(server.config(), handler).start().unwrap();
    let session = server.session();
    session.send(message);
    let reply = seen.recv_timeout(DEADLINE).expect("the command did not end");
    running.stop().unwrap();
    reply
}

/// A worker whose handler says when it begins and goes on when the gate is dropped. Where a test fails, that is dropped before the
/// worker, which waits for its handler.
fn gated(config: Config) -> (Running, Receiver<u64>, Sender<()>) {
    let (begins, begun) = unbounded();
    let (open, gate) = bounded::<()>(0);
    let first = AtomicUsize::new(0);
    let handler = move |task: &Task| {
        if first.fetch_add(1, Ordering::SeqCst) == 0 {
            begins.send(task.id).unwrap();
        }
        let _ = gate.recv();
        echo(task)
    };
    (Worker::new(config, handler).start().unwrap(), begun, open)
}

/// So many results, one by one, whether they came in batches or not.
#[track_caller]
fn flattened(server: &Server, count: usize) -> Vec<pb::Result> {
    let mut results = Vec::new();
    while results.len() < count {
        let result = server.result();
        if result.batch.is_empty() { results.push(result) } else { results.extend(result.batch) }
    }
    results
}
