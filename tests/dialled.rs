//! Workers that the server dials: a raw one, `contact-client --serve`, and the one of `docs/protocol.md` in Python.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use contact::client::{Config, Reply, Worker};
use contact::codec::{Requests, all_calls};
use contact::wire::contact::{Outcome, Result as Told, ServerMsg};
use contact::wire::contact_grpc::{Worker as Serves, create_worker};
use contact::wire::control::{
    AddDialledRequest, Dialled, ListDialledRequest, NewTask, RemoveDialledRequest, TaskState,
};
use crossbeam_channel::{Receiver, Sender, unbounded};
use futures::executor::block_on;
use futures::{SinkExt as _, StreamExt as _};
use grpcio::{
    ChannelBuilder, DuplexSink, EnvBuilder, MetadataBuilder, RpcContext, ServerBuilder, ServerCredentials, WriteFlags,
};
use rcgen::SanType;
use serde_json::{Value, json};

use crate::common::DEADLINE;
use crate::common::authority::{Authority, Valid};
use crate::common::program::Program;
use crate::common::server::{CLIENT, Server};
use crate::conventions;
use crate::interop::python::Python;
use crate::rig::{Operator, Rig, patient};

/// An address that nobody listens at.
pub fn free() -> String {
    // None that the system gives to those who ask for any: it could be another's when the worker is started again.
    let address = || format!("127.0.0.1:{}", rand::random_range(21_000..32_000));
    std::iter::repeat_with(address).find(|address| TcpListener::bind(address).is_ok()).unwrap()
}

/// A worker that does what a test says, message by message.
struct Raw {
    _server: grpcio::Server,
    streams: Receiver<Stream>,
    address: String,
}

/// What the server says over one stream, and what is said to it.
struct Stream {
    messages: Mutex<Receiver<ServerMsg>>,
    /// `None`: the stream ends well.
    says: futures::channel::mpsc::UnboundedSender<Told>,
    headers: Vec<(String, String)>,
}

#[derive(Clone)]
struct Service {
    streams: Sender<Stream>,
    metadata: Vec<(String, String)>,
}

impl Serves for Service {
    fn work(&mut self, ctx: RpcContext<'_>, mut requests: Requests<ServerMsg>, mut sink: DuplexSink<Told>) {
        let mut metadata = MetadataBuilder::new();
        for (key, value) in &self.metadata {
            metadata.add_str(key, value).unwrap();
        }
        sink.set_headers(metadata.build());
        let ((hears, messages), (says, mut said)) = (unbounded(), futures::channel::mpsc::unbounded());
        let headers = ctx.request_headers().iter();
        let headers =
            headers.map(|(key, value)| (key.to_owned(), String::from_utf8_lossy(value).into_owned())).collect();
        let _ = self.streams.send(Stream { messages: Mutex::new(messages), says, headers });
        ctx.spawn(async move {
            while let Some(Ok(message)) = requests.next().await {
                let _ = hears.send(message.unwrap());
            }
        });
        ctx.spawn(async move {
            while let Some(told) = said.next().await {
                if sink.send((told, WriteFlags::default())).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        });
    }
}

impl Raw {
    fn listen(address: &str, metadata: &[(&str, &str)]) -> Raw {
        let env = std::sync::Arc::new(EnvBuilder::new().cq_count(1).name_prefix("worker-poll").build());
        let (streams, opened) = unbounded();
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let service = create_worker(Service { streams, metadata }, &all_calls());
        let args = ChannelBuilder::new(env.clone()).reuse_port(false).build_args();
        let server = ServerBuilder::new(env).channel_args(args).register_service(service).build();
        let mut server = server.unwrap();
        let port = server.add_listening_port(address, ServerCredentials::insecure()).unwrap();
        server.start();
        Raw { _server: server, streams: opened, address: format!("127.0.0.1:{port}") }
    }

    #[track_caller]
    fn stream(&self) -> Stream {
        self.streams.recv_timeout(DEADLINE).unwrap()
    }
}

impl Stream {
    fn say(&self, told: Told) {
        self.says.unbounded_send(told).unwrap();
    }

    /// It takes tasks.
    fn is_ready(&self) {
        self.say(Told::new());
    }

    /// The next message that is like that.
    #[track_caller]
    fn next(&self, like: impl Fn(&ServerMsg) -> bool) -> ServerMsg {
        let messages = self.messages.lock().unwrap();
        loop {
            let message = messages.recv_timeout(DEADLINE).unwrap();
            if like(&message) {
                return message;
            }
        }
    }

    #[track_caller]
    fn task(&self) -> ServerMsg {
        self.next(|message| message.id > 0)
    }

    fn tell(&self, task: &ServerMsg, outcome: Outcome, ret: &str) {
        self.say(result(task, outcome, ret));
    }
}

fn result(task: &ServerMsg, outcome: Outcome, ret: &str) -> Told {
    let (id, attempt, receipt) = (task.id, task.attempt, task.receipt.clone());
    Told { id, attempt, receipt, outcome: outcome.into(), ret: ret.into(), ..Told::default() }
}

fn dial(operator: &Operator, address: &str, group: &str) -> Result<bool, grpcio::Error> {
    let request = AddDialledRequest { address: address.into(), group: group.into(), ..Default::default() };
    block_on(operator.control.add_dialled(&request, patient()).unwrap()).map(|answer| answer.is_new)
}

fn dialled(operator: &Operator) -> Vec<Dialled> {
    block_on(operator.control.list_dialled(&ListDialledRequest::new(), patient()).unwrap()).unwrap().dialled
}

/// Waits until it is like that with the one worker there is.
#[track_caller]
fn until(operator: &Operator, like: impl Fn(&Dialled) -> bool) -> Dialled {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let [one] = &dialled(operator)[..] else { panic!("one is dialled") };
        if like(one) {
            return one.clone();
        }
        assert!(Instant::now() < deadline, "{one:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn to(group: &str, text: &str) -> NewTask {
    NewTask { task: text.into(), to: group.into(), ..NewTask::default() }
}

#[test]
fn a_dialled_worker_is_given_tasks_when_it_says_so_and_hears_which_results_are_on_disk() {
    let rig = Rig::start();
    let id = rig.operator.submit_all(vec![to("workers", "one"), to("workers", "two")]);
    let worker = Raw::listen("127.0.0.1:0", &[("contact-receipts", "1"), ("contact-labels", "os=linux")]);
    assert!(dial(&rig.operator, &worker.address, "workers").unwrap());
    assert!(!dial(&rig.operator, &worker.address, "workers").unwrap(), "it is dialled already");
    let stream = worker.streams.iter().find(|stream| !stream.says.is_closed()).unwrap();
    let said = |key: &str| stream.headers.iter().any(|(name, value)| name == key && !value.is_empty());
    assert!(said("contact-version") && said("contact-max-task"), "{:?}", stream.headers);
    // What it tells first counts, though it takes no tasks yet; and it hears that.
    let nothing = Told { id, attempt: 1, outcome: Outcome::WORKING.into(), ..Told::default() };
    let stream = settled_stream(&worker, stream, nothing);
    let (one, two) = (stream.task(), stream.task());
    assert_eq!((one.task.as_str(), two.task.as_str(), one.receipt.len()), ("one", "two", 16));
    stream.tell(&one, Outcome::DONE, "1");
    stream.next(|message| message.confirmed == 3);
    assert_eq!(
        rig.operator
            .results_now()
            .iter()
            .filter(|it| it.outcome == contact::wire::control::Outcome::DONE.into())
            .count(),
        1
    );
    let [client] = &rig.operator.clients_until(|all| all.len() == 1)[..] else { unreachable!() };
    assert_eq!((client.group.as_str(), client.peer.as_str()), ("workers", worker.address.as_str()));
    assert_eq!((client.client.as_str(), client.labels.as_str()), (worker.address.as_str(), "os=linux"));
    // Who has not got the task settles it not, dialled or not.
    stream.say(Told { receipt: vec![0; 16], ..result(&two, Outcome::DONE, "forged") });
    stream.next(|message| message.confirmed == 4);
    assert!(rig.operator.ledger_until(two.id, |_| true).in_flight == 1);
    // The worker ends the stream: what it has comes again, by the next one.
    drop(stream);
    let again = worker.stream();
    again.is_ready();
    let two = again.task();
    assert_eq!((two.task.as_str(), two.attempt), ("two", 2));
    again.tell(&two, Outcome::DONE, "2");
    rig.operator.ledger_until(two.id, |ledger| ledger.settled == 1);
}

/// The stream on which this was said and heard, and then that tasks may come.
fn settled_stream(worker: &Raw, first: Stream, told: Told) -> Stream {
    let mut stream = first;
    // The address was added twice, so the first stream may have been the one that ended.
    loop {
        if stream.says.unbounded_send(told.clone()).is_ok() {
            let heard = stream.messages.lock().unwrap().recv_timeout(DEADLINE);
            if heard.is_ok_and(|message| message.confirmed == 1 && message.refused.is_none()) {
                assert!(stream.messages.lock().unwrap().try_recv().is_err(), "no task comes before the word");
                stream.is_ready();
                return stream;
            }
        }
        stream = worker.stream();
    }
}

#[test]
fn a_result_that_makes_no_sense_ends_the_stream_with_a_reason_and_what_came_before_counts() {
    let rig = Rig::start();
    rig.operator.submit_all(vec![to("workers", "one"), to("workers", "two")]);
    let worker = Raw::listen("127.0.0.1:0", &[]);
    dial(&rig.operator, &worker.address, "workers").unwrap();
    let stream = worker.stream();
    stream.is_ready();
    let (one, two) = (stream.task(), stream.task());
    stream.tell(&one, Outcome::DONE, "1");
    stream.say(Told { id: 99, ..result(&two, Outcome::DONE, "of another server") });
    let last = stream.next(|message| message.refused.is_some());
    assert_eq!((last.refused.reason.as_str(), last.confirmed), ("TASK_UNKNOWN", 2), "{last:?}");
    rig.operator.ledger_until(one.id, |ledger| ledger.settled == 1);
    assert!(until(&rig.operator, |one| !one.trouble.is_empty()).trouble.contains("there is no task 99"));
    let again = worker.stream();
    again.is_ready();
    assert_eq!(again.task().attempt, 2, "it is dialled again, and the other task comes again");
}

#[test]
fn what_is_at_an_address_is_said_where_the_dialled_are_listed() {
    let mut rig = Rig::start();
    let address = free();
    dial(&rig.operator, &address, "workers").unwrap();
    let nobody = until(&rig.operator, |one| !one.trouble.is_empty());
    assert!(nobody.trouble.contains("Connection refused") && nobody.connected_since == 0, "{nobody:?}");
    // Another program that speaks gRPC.
    let listen = rig.listen().to_owned();
    let remove = |operator: &Operator, address: &str| {
        let request = RemoveDialledRequest { address: address.into(), ..Default::default() };
        block_on(operator.control.remove_dialled(&request, patient()).unwrap())
    };
    remove(&rig.operator, &address).unwrap();
    assert_eq!(reason(&remove(&rig.operator, &address).unwrap_err()), "WORKER_UNKNOWN");
    dial(&rig.operator, &listen, "workers").unwrap();
    until(&rig.operator, |one| one.trouble.contains("is no worker"));
    remove(&rig.operator, &listen).unwrap();
    // A worker that is of another group, or has another name.
    let other = Raw::listen("127.0.0.1:0", &[("contact-group", "others"), ("contact-client", "w")]);
    dial(&rig.operator, &other.address, "workers").unwrap();
    other.stream().is_ready();
    until(&rig.operator, |one| one.trouble.contains("the worker says \"others\", and is dialled for \"workers\""));
    dial(&rig.operator, &other.address, "others").unwrap();
    let keeper = std::thread::spawn(move || {
        while let Ok(stream) = other.streams.recv_timeout(Duration::from_secs(2)) {
            stream.is_ready();
            std::mem::forget(stream);
        }
    });
    let connected = until(&rig.operator, |one| one.connected_since > 0);
    assert_eq!((connected.connected_as.as_str(), connected.trouble.as_str()), ("w", ""));
    // It is kept.
    rig.restart();
    assert_eq!(dialled(&rig.operator)[0].group, "others");
    keeper.join().unwrap();
}

#[test]
fn addresses_that_cannot_be_dialled_are_refused_and_their_number_is_bounded() {
    let rig = Rig::start();
    for bad in ["", "localhost", "http://a:1", "10.0.0.1:50061", "a\u{7}b:1"] {
        assert_eq!(reason(&dial(&rig.operator, bad, "g").unwrap_err()), "ADDRESS_INVALID", "{bad:?}");
    }
    assert_eq!(reason(&dial(&rig.operator, "127.0.0.1:1", "a\u{200b}b").unwrap_err()), "NAME_INVALID");
    let ask = |n: usize| {
        let address = format!("127.0.{}.{}:1", n / 250, n % 250 + 1);
        let request = AddDialledRequest { address, ..Default::default() };
        rig.operator.control.add_dialled(&request, patient()).unwrap()
    };
    // A connection has a thousand calls at once.
    let mut answers = block_on(futures::future::join_all((0..500).map(ask)));
    answers.extend(block_on(futures::future::join_all((500..1_010).map(ask))));
    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 10);
    assert!(refused.iter().all(|error| reason(error) == "WORKERS_FULL"));
    assert_eq!(dialled(&rig.operator).len(), 1_000);
    // Those there are can be changed.
    assert!(!dial(&rig.operator, "127.0.0.1:1", "other").unwrap());
}

/// `contact-client` that listens.
fn serving(address: &str, args: &[&str]) -> Program {
    let mut command = Command::new(CLIENT);
    let client = Program::spawn("contact-client", command.args(["--serve", address]).args(args)).unwrap();
    client.err.wait_for("its word that it listens", |line| line.contains("for the server to dial"));
    client
}

fn connected(server: &Server) {
    let deadline = Instant::now() + DEADLINE;
    while server.ctl(&["dial", "list"])[0]["connected"] != true {
        assert!(Instant::now() < deadline, "{:?}", server.ctl(&["dial", "list"]));
    }
}

/// All tasks are done, each of them once. What is told again is late, and no outcome.
#[track_caller]
fn all_done(server: &Server, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let results = server.ctl(&["results", "--all"]);
        let done = results.iter().filter(|it| it["outcome"] == "DONE" && it["late"] != true);
        let mut done: Vec<u64> = done.map(id).collect();
        done.sort_unstable();
        assert!(done.windows(2).all(|two| two[0] < two[1]), "none is settled twice: {done:?}");
        if done.len() == count {
            return results;
        }
        assert!(Instant::now() < deadline, "{done:?}");
    }
}

fn id(result: &Value) -> u64 {
    result["task_id"].as_u64().unwrap()
}

#[test]
fn no_task_is_lost_when_a_dialled_client_or_its_server_is_killed() {
    let mut server = Server::start(&[]);
    let address = free();
    server.ctl(&["dial", "add", &address, "--group", "workers"]);
    let args = ["--concurrency", "4", "--exec", "sleep 0.02; cat"];
    let mut client = serving(&address, &args);
    connected(&server);
    const TASKS: usize = 120;
    server.ctl(&[&["submit", "--to", "workers", "--"][..], &[&*"x".repeat(10); TASKS][..]].concat());
    server.done(10);
    client.kill();
    client = serving(&address, &args);
    server.done(50);
    server.kill();
    server.restart();
    let results = all_done(&server, TASKS);
    assert!(results.iter().all(|it| it["client"] == *address || it["client"].is_null()), "{results:?}");
    // What the client had when the server was killed, it went on with: it was begun once.
    drop(client);
}

#[test]
fn a_dialled_client_is_told_to_end_a_task_and_says_how_far_it_is() {
    let rig = Rig::start();
    let address = free();
    let config = Config { serve: Some(address.clone()), ..Config::default() };
    let (begun, begins) = unbounded();
    let worker = Worker::new(config, move |task| {
        task.progress(0.5, "half");
        begun.send(task.key.clone()).unwrap();
        task.revocation().recv_timeout(DEADLINE).unwrap_err();
        Reply::failed("it was taken back")
    });
    let running = worker.start().unwrap();
    dial(&rig.operator, &address, "workers").unwrap();
    until(&rig.operator, |one| one.connected_since > 0);
    let id = rig.operator.submit_all(vec![NewTask { key: "k".into(), ..to("workers", "long") }]);
    assert_eq!(begins.recv_timeout(DEADLINE).unwrap(), "k");
    let half = |said: &contact::wire::control::Working| said.task == id && said.progress == Some(0.5);
    rig.operator.clients_until(|all| all.iter().any(|client| client.working.as_ref().is_some_and(half)));
    rig.operator.cancel(id);
    let ledger = rig.operator.ledger_until(id, |ledger| ledger.results.len() == 2);
    assert_eq!(ledger.groups[0].state, TaskState::SETTLED.into());
    running.stop().unwrap();
}

#[test]
fn a_worker_serves_a_server_that_shows_its_token_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, digit: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("ct1_{}", digit.repeat(64))).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (file("right", "a"), file("wrong", "b"));
    let address = free();
    let _client = serving(&address, &["--group", "workers", "--token-file", &right]);
    for (args, why) in [(vec![], "shows no token"), (vec!["--dial-token-file", &*wrong], "is not that of this worker")]
    {
        let server = Server::start(&args);
        server.ctl(&["dial", "add", &address]);
        let operator = Operator::of(&server.control);
        let refused = until(&operator, |one| one.trouble.contains(why));
        assert!(refused.trouble.starts_with("UNAUTHENTICATED") && refused.connected_since == 0, "{refused:?}");
    }
    let server = Server::start(&["--dial-token-file", &right]);
    server.ctl(&["dial", "add", &address]);
    connected(&server);
    server.ctl(&["submit", "--to", "workers", "hello"]);
    server.done(1);
}

#[test]
fn a_worker_serves_the_server_that_dialled_it_last_and_the_other_says_so() {
    let (one, other) = (Server::start(&[]), Server::start(&[]));
    let address = free();
    let _client = serving(&address, &[]);
    one.ctl(&["dial", "add", &address]);
    connected(&one);
    other.ctl(&["dial", "add", &address]);
    connected(&other);
    until(&Operator::of(&one.control), |it| it.trouble.contains("dialled the worker"));
}

/// A certificate and its key.
type Pair = (PathBuf, PathBuf);

/// How a worker that listens speaks TLS: with this certificate, with those whom this authority vouches for.
fn serves((cert, key): &Pair, client_ca: Option<&Authority>) -> Vec<String> {
    let mut args = vec![("--tls-cert", cert.clone()), ("--tls-key", key.clone())];
    args.extend(client_ca.map(|authority| ("--tls-client-ca", authority.ca())));
    named(args)
}

/// How a server dials: whom this authority vouches for, showing this certificate.
fn dials(ca: &Authority, shown: Option<&Pair>) -> Vec<String> {
    let mut args = vec![("--dial-tls-ca", ca.ca())];
    args.extend(
        shown.into_iter().flat_map(|(cert, key)| [("--dial-tls-cert", cert.clone()), ("--dial-tls-key", key.clone())]),
    );
    named(args)
}

fn named(args: Vec<(&str, PathBuf)>) -> Vec<String> {
    args.into_iter().flat_map(|(flag, file)| [flag.to_owned(), file.display().to_string()]).collect()
}

fn texts(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn a_dialled_client_and_the_server_speak_tls_and_each_shows_its_certificate() {
    let authority = Authority::new();
    let shown = authority.client("contact://fleet/operator/server-1").identity.unwrap();
    let address = free();
    let client = serving(&address, &texts(&serves(&authority.server("worker"), Some(&authority))));
    let server = Server::start(&texts(&dials(&authority, Some(&shown))));
    server.ctl(&["dial", "add", &address, "--group", "workers"]);
    connected(&server);
    server.ctl(&["submit", "--to", "workers", "--", &"x".repeat(100_000), "hello"]);
    server.done(2);
    client.err.wait_for("who it serves", |line| line.contains("127.0.0.1:"));
    // What others see of it is the address by which it is dialled.
    assert_eq!(server.ctl(&["clients"])[0]["peer"], json!(address));
}

#[test]
fn with_tls_both_sides_say_why_a_dialled_client_is_not_given_tasks() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let right = authority.server("worker");
    let name = SanType::DnsName("elsewhere".try_into().unwrap());
    let elsewhere = authority.issue("elsewhere", vec![name], true, Valid::Now);
    let shown = |of: &Authority, uri: &str| of.client(uri).identity.unwrap();
    let strange = shown(&stranger, "contact://fleet/operator/server-1");
    let agent = shown(&authority, "contact://fleet/agent/web-1");
    let mutual = serves(&right, Some(&authority));
    let cases = [
        (
            serves(&right, None),
            dials(&stranger, None),
            "the worker's certificate comes from an authority that is not in --dial-tls-ca",
            "it does not know the authority that --tls-cert comes from",
        ),
        (
            serves(&elsewhere, None),
            dials(&authority, None),
            "the worker's certificate is not for the name 127.0.0.1, but for",
            "perhaps that is not for the name by which it connects",
        ),
        (
            mutual.clone(),
            dials(&authority, None),
            "the worker wants a certificate of this server, which shows none (--dial-tls-cert, --dial-tls-key)",
            "it shows no certificate, and --tls-client-ca asks for one",
        ),
        (
            mutual.clone(),
            dials(&authority, Some(&strange)),
            "the worker refuses this server's certificate: it comes from an authority that the worker does not know",
            "its certificate comes from an authority that is not in --tls-client-ca",
        ),
        (
            mutual,
            dials(&authority, Some(&agent)),
            "the certificate that it shows is one of a client",
            "the certificate that it shows is one of a client",
        ),
        (
            serves(&right, None),
            Vec::new(),
            "one that speaks TLS is dialled with --dial-tls-ca",
            "it does not begin with TLS",
        ),
        (Vec::new(), dials(&authority, None), "the worker does not speak TLS on this port", ""),
    ];
    for (serves, dials, server_says, client_says) in cases {
        let address = free();
        let client = serving(&address, &texts(&serves));
        let server = Server::start(&texts(&dials));
        server.ctl(&["dial", "add", &address, "--group", "workers"]);
        let refused = until(&Operator::of(&server.control), |one| one.trouble.contains(server_says));
        assert_eq!(refused.connected_since, 0, "{refused:?}");
        client.err.wait_for(client_says, |line| line.contains(client_says));
    }
}

#[test]
fn a_dialled_client_takes_a_new_certificate_when_its_files_change() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (before, after) = (stranger.server("worker"), authority.server("worker"));
    let address = free();
    let client = serving(&address, &texts(&serves(&before, None)));
    let server = Server::start(&texts(&dials(&authority, None)));
    server.ctl(&["dial", "add", &address]);
    until(&Operator::of(&server.control), |one| one.trouble.contains("--dial-tls-ca"));
    std::fs::copy(&after.0, &before.0).unwrap();
    std::fs::copy(&after.1, &before.1).unwrap();
    client.err.wait_for("that it has seen it", |line| line.contains("a new certificate is used"));
    // At once, and not after a while.
    server.ctl(&["dial", "add", &address]);
    connected(&server);
}

#[test]
fn a_worker_that_others_reach_without_tls_is_not_begun() {
    for (args, why) in [
        (&["--serve", "0.0.0.0:0"][..], "other machines reach it"),
        (&["--serve", "nowhere"], "cannot listen on nowhere"),
        (&["--serve", "127.0.0.1:0", "--tls-ca", "x.pem"], "--tls-ca is for a client that connects"),
        (&["--serve", "127.0.0.1:0", "--demo"], "--demo is for a client that connects"),
        (&["--insecure"], "--serve"),
        (&["--serve", "127.0.0.1:0", "--tls-cert", "x.pem"], "give both --tls-cert and --tls-key"),
        (&["--serve", "127.0.0.1:0", "--tls-cert", "x.pem", "--tls-key", "x.key"], "x.pem: it cannot be read"),
        (&["--serve", "unix:/tmp/x", "--tls-cert", "x.pem", "--tls-key", "x.key"], "and not on a file"),
        (&["--tls-client-ca", "x.pem"], "--serve"),
    ] {
        let mut client = Program::spawn("contact-client", Command::new(CLIENT).args(args)).unwrap();
        assert_eq!(client.ended().code(), Some(2), "{args:?}");
        client.err.wait_for("why", |line| line.contains(why));
    }
    let mut server = Command::new(env!("CARGO_BIN_EXE_contact-server"));
    let folder = tempfile::tempdir().unwrap();
    server.args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--http", "off", "--data"]).arg(folder.path());
    let mut server = Program::spawn("contact-server", server.args(["--dial-tls-cert", "a.pem"])).unwrap();
    assert_eq!(server.ended().code(), Some(1));
    server.err.wait_for("which settings", |line| line.contains("--dial-tls-ca"));
}

/// The worker of `docs/protocol.md`, in a folder of its own.
struct Page(tempfile::TempDir);

impl Page {
    fn worker() -> Page {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md")).unwrap();
        let source = page.split("```python\n").nth(2).unwrap().split_once("```").unwrap().0;
        let (handler, slow) = ("    return text.upper()\n", "    time.sleep(0.02)\n    return text.upper()\n");
        assert_eq!(source.matches(handler).count(), 1, "the page has this once: {handler}");
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("worker.py"), source.replace(handler, slow)).unwrap();
        Page(folder)
    }

    /// The same, which shows this certificate to those who come.
    fn with_tls(authority: &Authority) -> Page {
        let page = Page::worker();
        let file = page.0.path().join("worker.py");
        let source = std::fs::read_to_string(&file).unwrap();
        let plain = "server.add_insecure_port(sys.argv[1])\n";
        assert_eq!(source.matches(plain).count(), 1);
        let args = authority.args();
        let path = |flag: &str| args[args.iter().position(|arg| arg == flag).unwrap() + 1].clone();
        let pair = format!("open({:?}, 'rb').read(), open({:?}, 'rb').read()", path("--tls-key"), path("--tls-cert"));
        let tls = format!("server.add_secure_port(sys.argv[1], grpc.ssl_server_credentials([({pair})]))\n");
        std::fs::write(file, source.replace(plain, &tls)).unwrap();
        page
    }

    fn run(&self, python: &Python, address: &str) -> Program {
        python.program("worker.py", &self.0.path().join("worker.py"), &[address])
    }
}

#[test]
fn no_task_is_lost_when_the_worker_on_the_page_or_its_server_is_killed() {
    let Some(python) = Python::ready() else { return };
    let mut server = Server::start(&[]);
    let (page, address) = (Page::worker(), free());
    server.ctl(&["dial", "add", &address, "--group", "pages", "--client", "p1"]);
    let mut worker = page.run(python, &address);
    connected(&server);
    const TASKS: usize = 120;
    server.ctl(&[&["submit", "--to", "pages", "--"][..], &["x"; TASKS][..]].concat());
    server.done(10);
    worker.kill();
    worker = page.run(python, &address);
    server.done(50);
    server.kill();
    server.restart();
    let results = all_done(&server, TASKS);
    assert!(results.iter().any(|it| it["ret"] == "X" && it["client"] == "p1"), "{results:?}");
    drop(worker);
}

#[test]
fn a_worker_with_tls_is_dialled_if_its_certificate_is_of_the_right_authority() {
    let Some(python) = Python::ready() else { return };
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (page, address) = (Page::with_tls(&authority), free());
    let _worker = page.run(python, &address);
    for (ca, is_right) in [(stranger.ca(), false), (authority.ca(), true)] {
        let server = Server::start(&["--dial-tls-ca", ca.to_str().unwrap()]);
        server.ctl(&["dial", "add", &address, "--group", "pages"]);
        if is_right {
            connected(&server);
            server.ctl(&["submit", "--to", "pages", "hello"]);
            server.done(1);
        } else {
            let refused = until(&Operator::of(&server.control), |one| one.trouble.contains("certificate"));
            assert_eq!(refused.connected_since, 0);
        }
    }
}

fn reason(error: &grpcio::Error) -> String {
    let grpcio::Error::RpcFailure(status) = error else { panic!("{error}") };
    conventions::reason(status)
}
