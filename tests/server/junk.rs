//! Input that makes no sense: a clear status for that call, and nothing else is disturbed.

use std::io::Write as _;
use std::net::TcpStream;

use contact::wire::contact::{Outcome, Result as Told};
use contact::wire::control::NewTask;
use grpcio::{RpcStatus, RpcStatusCode as Code};
use protobuf::{EnumOrUnknown, Message as _};

use super::raw::{self, Wire, field};
use crate::common::server::Server;
use crate::rig::{Client, Operator, Tasks, ack, done};

const LIMIT: usize = 1024 * 1024;

/// The real server, with a client that has nothing to do with it all.
struct Guarded {
    server: Server,
    operator: Operator,
    bystander: Tasks,
    submitted: u64,
}

impl Guarded {
    fn start() -> Guarded {
        let server = Server::start(&[]);
        let operator = Operator::of(&server.control);
        let bystander = Client::of(&server.listen, &[]).tasks();
        operator.connected(1);
        Guarded { server, operator, bystander, submitted: 0 }
    }

    fn client(&self) -> Client {
        Client::of(&self.server.listen, &[])
    }

    #[track_caller]
    fn submit(&mut self, text: &str) {
        self.submitted += 1;
        assert_eq!(self.operator.submit(&[text]), self.submitted, "nothing else was accepted");
        assert!(self.bystander.next().task == text);
    }

    /// The server serves, the bystander is served, nothing panicked.
    #[track_caller]
    fn unharmed(&mut self) {
        self.submit("still there?");
        self.operator.connected(1);
        let log = self.server.program().err.so_far();
        assert!(!log.iter().any(|line| line.contains("panic")), "{log:#?}");
        assert!(log.len() < 50, "a log line at most for each: {log:#?}");
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, RpcStatus>, code: Code, says: &[&str]) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    for word in says {
        assert!(status.message().contains(word), "{word:?} is not in {:?}", status.message());
    }
}

fn task(text: impl Into<String>) -> NewTask {
    NewTask { task: text.into(), ..NewTask::default() }
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let mut server = Guarded::start();
    let bad = field(1, b"\xff\xfe");
    let (listen, control) = (server.server.listen.clone(), server.server.control.clone());
    let says = &["cannot be read", "UTF-8"];
    let request = field(1, &bad);
    refused(raw::unary(&control, "/contact.control.v1.Control/Submit", &request), Code::INVALID_ARGUMENT, says);
    let (answers, end) = raw::duplex(&control, "/contact.control.v1.Control/SubmitStream", &[request]);
    assert!(answers.is_empty());
    refused(end, Code::INVALID_ARGUMENT, says);
    let good = field(1, b"good");
    let (_, end) = raw::duplex(&listen, "/Contact/sendStatus", &[good.clone(), bad.clone(), good.clone()]);
    refused(end, Code::INVALID_ARGUMENT, says);
    refused(
        raw::client_streaming(&listen, "/Contact/tellResult", &[good.clone(), bad, good]),
        Code::INVALID_ARGUMENT,
        says,
    );
    assert_eq!(server.operator.statuses_now().len(), 1, "what came before is recorded");
    assert_eq!(server.operator.results_now().len(), 1);
    server.unharmed();
}

#[test]
fn requests_that_cannot_be_decoded_are_refused() {
    let mut server = Guarded::start();
    let (listen, control) = (server.server.listen.clone(), server.server.control.clone());
    let unary = ["Submit", "ListClients", "DescribeTask", "ListGroups", "CancelTask", "RetryTask", "PauseGroup"];
    for name in unary.into_iter().chain(["RemoveGroup", "AcceptClock"]) {
        let path = format!("/contact.control.v1.Control/{name}").leak();
        refused(raw::unary(&control, path, b"\xff\xff\xff"), Code::INVALID_ARGUMENT, &["cannot be read"]);
    }
    for name in ["ListTasks", "ListResults", "ListStatuses", "ListDead", "Backup"] {
        let path = format!("/contact.control.v1.Control/{name}").leak();
        refused(raw::server_streaming(&control, path, b"\xff\xff\xff"), Code::INVALID_ARGUMENT, &["cannot be read"]);
    }
    refused(raw::server_streaming(&listen, "/Contact/getTask", b"\x0a"), Code::INVALID_ARGUMENT, &["cannot be read"]);
    refused(raw::unary(&listen, "/Contact/noSuchThing", b""), Code::UNIMPLEMENTED, &[]);
    server.unharmed();
}

#[test]
fn text_of_exactly_the_limit_goes_through() {
    let mut server = Guarded::start();
    let text = "任".repeat(LIMIT / 3) + "x";
    assert_eq!(text.len(), LIMIT);
    server.submit(&text);
    let client = server.client();
    client.tell([ack(&text)]);
    assert!(server.operator.results_now()[0].ret == text);
    let text = &text[..16 * 1024 / 3 * 3];
    let mut statuses = client.statuses();
    assert!(statuses.say(text));
    assert!(statuses.end().unwrap() == [format!("服务端接收到消息:{text}")]);
    server.unharmed();
}

#[test]
fn text_over_the_limit_is_refused_with_the_limit() {
    let mut server = Guarded::start();
    let text = "x".repeat(LIMIT + 1);
    let says = &["1048577", "1048576", "--max-task"];
    refused(server.operator.try_submit(vec![task("fine"), task(&text)]), Code::INVALID_ARGUMENT, says);
    let client = server.client();
    refused(client.try_tell([ack("fine"), ack(&text)]), Code::INVALID_ARGUMENT, says);
    let mut statuses = client.statuses();
    assert!(statuses.say("fine"));
    assert!(statuses.answer().unwrap().ends_with("fine"));
    statuses.say(&text[..16 * 1024 + 1]);
    refused(statuses.answer(), Code::INVALID_ARGUMENT, &["16385", "16384"]);
    assert_eq!(server.operator.results_now().len(), 1);
    server.unharmed();
}

#[test]
fn a_message_over_the_limit_of_the_transport_is_refused() {
    let mut server = Guarded::start();
    let text = "x".repeat(3 * LIMIT);
    let client = server.client();
    refused(client.try_tell([ack(&text)]), Code::RESOURCE_EXHAUSTED, &["larger than max"]);
    let mut statuses = client.statuses();
    statuses.say(&text);
    refused(statuses.answer(), Code::RESOURCE_EXHAUSTED, &["larger than max"]);
    let many = (0..20).map(|_| task("x".repeat(LIMIT))).collect();
    refused(server.operator.try_submit(many), Code::RESOURCE_EXHAUSTED, &["larger than max"]);
    server.unharmed();
}

#[test]
fn an_empty_task_is_refused_and_an_empty_status_or_result_is_not() {
    let mut server = Guarded::start();
    refused(server.operator.try_submit(vec![task("")]), Code::INVALID_ARGUMENT, &["task 0", "empty"]);
    assert_eq!(server.operator.try_submit(vec![]).unwrap().count, 0);
    let client = server.client();
    client.tell([ack("")]);
    client.tell([]);
    let mut statuses = client.statuses();
    assert!(statuses.say(""));
    assert_eq!(statuses.end().unwrap(), ["服务端接收到消息:"]);
    assert_eq!(client.statuses().end().unwrap(), [""; 0]);
    server.unharmed();
}

#[test]
fn junk_metadata_is_refused_and_named() {
    let mut server = Guarded::start();
    let long = "x".repeat(257);
    let junk = [
        ("contact-client", ""),
        ("contact-client", &long),
        ("contact-client", "%20a"),
        ("contact-client", "%E2%80%8B"),
        ("contact-instance", ""),
        ("contact-group", &long),
        ("contact-window", "0"),
        ("contact-window", "many"),
        ("contact-window", "99999999999999999999"),
        ("contact-batch", "-1"),
        ("contact-from", "yesterday"),
        ("contact-heartbeat", "1.5"),
    ];
    for (key, value) in junk {
        let client = Client::of(&server.server.listen, &[(key, value)]);
        refused(Err::<(), _>(client.tasks().end()), Code::INVALID_ARGUMENT, &[key]);
        refused(client.try_tell([ack("x")]), Code::INVALID_ARGUMENT, &[key]);
        refused(client.statuses().answer(), Code::INVALID_ARGUMENT, &[key]);
    }
    let not_text = [("contact-client", &b"\xff\xfe"[..]), ("contact-group", b"\x01")];
    for metadata in not_text {
        let mut wire = Wire::call(&server.server.listen, "/Contact/getTask", &[metadata]);
        wire.message(0, &[]);
        wire.end_stream();
        server.unharmed();
    }
    assert!(server.operator.results_now().is_empty());
    let mut unknown = server.client().saying("contact-shoe-size", "43").tasks();
    assert_eq!(unknown.next().task, "still there?", "what is not ours is not looked at");
}

#[test]
fn an_outcome_of_a_task_that_does_not_exist_is_refused() {
    let mut server = Guarded::start();
    server.submit("one");
    let none = Told { id: 77, ..ack("of 77") };
    let one = Told { id: 1, attempt: 1, ..ack("of 1") };
    let a = Client::of(&server.server.listen, &[("contact-client", "a"), ("contact-from", "first")]);
    let mut tasks = a.tasks();
    assert_eq!(tasks.next().id, 1);
    refused(a.try_tell([one.clone(), none, one]), Code::NOT_FOUND, &["no task 77", "newest is 1"]);
    let results = server.operator.results_now();
    assert_eq!(results.len(), 1, "what was told before is recorded: {results:?}");
    assert_eq!((results[0].task_id, results[0].ret.as_str(), results[0].late), (1, "of 1", false));
    drop(tasks);
    server.unharmed();
}

#[test]
fn an_outcome_nobody_knows_is_refused() {
    let mut server = Guarded::start();
    for number in [5, 77, -1] {
        let odd = Told { outcome: EnumOrUnknown::<Outcome>::from_i32(number), ..ack("") };
        refused(server.client().try_tell([odd]), Code::INVALID_ARGUMENT, &["unknown outcome", &number.to_string()]);
    }
    server.unharmed();
}

#[test]
fn a_batch_in_a_batch_is_refused_however_deep() {
    let mut server = Guarded::start();
    let batch = |batch| Told { batch, ..Told::default() };
    refused(
        server.client().try_tell([batch(vec![ack("fine"), batch(vec![ack("too deep")])])]),
        Code::INVALID_ARGUMENT,
        &["not batches"],
    );
    let told = |levels| {
        let deep = (0..levels).fold(ack("x").write_to_bytes().unwrap(), |deep, _| field(5, &deep));
        assert!(deep.len() < LIMIT);
        raw::client_streaming(&server.server.listen, "/Contact/tellResult", &[deep])
    };
    refused(told(4_000), Code::INVALID_ARGUMENT, &["cannot be read"]);
    refused(told(100_000), Code::RESOURCE_EXHAUSTED, &["100000 results in one message"]);
    server.unharmed();
}

#[test]
fn outcomes_of_tasks_one_was_not_given_change_nothing() {
    let mut server = Guarded::start();
    server.submit("one");
    let a = Client::of(&server.server.listen, &[("contact-client", "a"), ("contact-from", "first")]);
    let stranger = Client::of(&server.server.listen, &[("contact-client", "stranger"), ("contact-from", "first")]);
    let mut tasks = a.tasks();
    let one = tasks.next();
    stranger.tell([done(&one), Told { attempt: u32::MAX, ..done(&one) }]);
    server.client().tell([done(&one)]);
    a.tell([Told { attempt: 99, outcome: Outcome::RETRY.into(), ..done(&one) }]);
    a.tell([done(&one)]);
    let results = server.operator.results_now();
    let settled: Vec<_> = results.iter().filter(|r| r.client == "a" && !r.late).collect();
    assert_eq!((results.len(), settled.len()), (5, 1), "{results:?}");
    drop(tasks);
    server.unharmed();
}

#[test]
fn a_stream_that_is_cut_in_the_middle_of_a_message_ends_there() {
    let mut server = Guarded::start();
    let whole = field(1, b"whole");
    let paths = ["/Contact/tellResult", "/Contact/sendStatus"];
    for cut in 0..2 {
        for path in paths {
            let mut wire = Wire::call(&server.server.listen, path, &[]);
            wire.message(whole.len() as u32, &whole);
            wire.message(100, b"\x0a\x62only the beg");
            // Said to be over, or just gone.
            if cut == 0 {
                wire.end_stream();
            }
            // What was whole counts, and is there before the connection goes.
            if path == paths[0] {
                server.operator.results(cut + 1);
            }
        }
        server.unharmed();
    }
    let results = server.operator.results_now();
    assert_eq!(results.iter().map(|r| r.ret.as_str()).collect::<Vec<_>>(), ["whole"; 2]);
}

#[test]
fn what_is_no_grpc_at_all_is_turned_away() {
    let mut server = Guarded::start();
    let hello = ["GET / HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(), b"\x16\x03\x01\x02\x00", &[0; 1000], b"PRI * HTTP/2"];
    for hello in hello {
        for address in [server.server.listen.clone(), server.server.control.clone()] {
            let mut connection = TcpStream::connect(address).unwrap();
            connection.write_all(hello).unwrap();
            server.unharmed();
        }
    }
}

#[test]
fn a_name_of_the_article_may_be_anything_that_is_a_name() {
    let mut server = Guarded::start();
    let odd = ["a b", "../../etc/passwd", "'; DROP TABLE tasks; --", "%s%n", "{}"];
    for name in odd {
        let client = Client::of(&server.server.listen, &[("contact-client", name), ("contact-from", "first")]);
        let mut tasks = client.tasks();
        server.operator.clients_until(|clients| clients.iter().any(|client| client.client == name));
        server.operator.submit_all(vec![crate::rig::to(name, "yours")]);
        server.submitted += 1;
        while tasks.next().task != "yours" {}
        drop(tasks);
        server.unharmed();
    }
}
