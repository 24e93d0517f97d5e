//! What any good gRPC service does, and Contact does, too: health, reflection, statuses with details, and an orderly end. As
//! Python's own libraries see it, where there are some.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use contact::client::{Config, Event, StartAt, Worker};
use contact::codec::client_method;
use contact::wire::contact as pb;
use contact::wire::contact_grpc::ContactClient;
use contact::wire::google_rpc::error_details::{ErrorInfo, RetryInfo};
use contact::wire::google_rpc::status::Status;
use contact::wire::grpc_health_v1::health::health_check_response::ServingStatus;
use contact::wire::grpc_health_v1::health::{HealthCheckRequest, HealthListRequest};
use contact::wire::grpc_health_v1::health_grpc::HealthClient;
use contact::wire::grpc_reflection_v1::reflection::server_reflection_request::Message_request as Ask;
use contact::wire::grpc_reflection_v1::reflection::server_reflection_response::Message_response as Answer;
use contact::wire::grpc_reflection_v1::reflection::{
    ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse,
};
use crossbeam_channel::unbounded;
use futures::executor::block_on;
use futures::{SinkExt as _, StreamExt as _};
use grpcio::{
    CallOption, Channel, ChannelBuilder, Client, Environment, MethodType, RpcStatus, RpcStatusCode as Code, WriteFlags,
};
use protobuf::{Message as _, MessageFull};
use serde_json::{Value, json};

use crate::common::DEADLINE;
use crate::common::disk::SmallDisk;
use crate::common::server::Server;
use crate::interop::python::{Python, Spelling};

const CONTROL: &str = "contact.control.v1.Control";

/// All lines of `conventions.py`, when it has ended.
#[track_caller]
fn python(args: &[&str]) -> Option<Vec<Value>> {
    let mut program = Python::ready()?.conventions(args);
    assert!(program.ended().success(), "{:#?}", program.err.so_far());
    Some(program.out.so_far().iter().map(|line| json_of(line)).collect())
}

#[track_caller]
fn json_of(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

#[test]
fn each_port_says_that_each_service_is_serving_and_of_others_that_it_does_not_know_them() {
    let server = Server::start(&[]);
    for address in [&server.listen, &server.control] {
        let client = HealthClient::new(channel(address));
        let listed = client.list(&HealthListRequest::new(), patient()).unwrap();
        let listed: BTreeMap<String, _> =
            block_on(listed).unwrap().statuses.into_iter().map(|(name, answer)| (name, answer.status)).collect();
        assert_eq!(listed, ["", "Contact", CONTROL].map(|name| (name.into(), ServingStatus::SERVING.into())).into());

        let Some(said) = python(&["check", address, "", "Contact", CONTROL, "nobody"]) else { return };
        assert_eq!(said[..3], ["SERVING"; 3]);
        assert_eq!(said[3]["code"], "NOT_FOUND");
        assert_eq!(said[3]["ErrorInfo"]["reason"], "SERVICE_UNKNOWN");
        assert_eq!(said[3]["ResourceInfo"], json!({"resource_type": "service", "resource_name": "nobody"}));
    }
}

#[test]
fn a_store_that_fails_is_noticed_by_those_who_watch_and_those_who_ask_and_so_is_that_it_works_again() {
    let Some(python_ready) = Python::ready() else { return };
    let server = Server::start_on_a_disk_that_breaks(&[]);
    let before = server.submit(&["before"]);
    let watch = python_ready.conventions(&["watch", &server.listen, "Contact"]);
    let says = |nth: usize, what: &str| {
        watch.out.until(what, |lines| (lines.get(nth)? == what).then_some(()));
    };
    says(0, "\"SERVING\"");
    server.break_disk(true);
    let status = block_on(tell(&server, "x")).unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::UNAVAILABLE, "STORE_FAILED"));
    assert!(status.message().contains("contact.db"), "{status:?}");
    assert!(retry_delay(&status).is_some(), "it may pass by itself");
    says(1, "\"NOT_SERVING\"");
    assert_eq!(python(&["check", &server.control, "", "Contact", CONTROL]).unwrap(), ["NOT_SERVING"; 3]);
    let refuses = server.ctl(&["server"])[0]["refuses"].clone();
    assert!(refuses.as_str().unwrap().contains("contact.db"), "{refuses}");

    server.break_disk(false);
    says(2, "\"SERVING\"");
    assert_eq!(python(&["check", &server.control, "", "Contact", CONTROL]).unwrap(), ["SERVING"; 3]);
    assert_eq!(server.ctl(&["server"])[0]["refuses"], Value::Null);
    block_on(tell(&server, "x")).unwrap();
    assert_eq!(server.submit(&["after"]), before + 1);
}

#[test]
fn a_disk_that_is_full_for_a_while_is_named_to_submitters_and_passes_without_a_restart() {
    let Some(disk) = SmallDisk::mount(4) else { return };
    let (data, filler) = (disk.path().join("data"), disk.path().join("filler"));
    let server = Server::start_in(&data, &["--min-free", "0"]);
    std::fs::write(&filler, vec![0; 2 << 20]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tasks = folder.path().join("tasks");
    std::fs::write(&tasks, ("x".repeat(10_000) + "\n").repeat(500)).unwrap();
    // The first finds out while it submits, the second before it does.
    for _ in 0..2 {
        let mut submit = server.ctl_running(&["submit", "--file", tasks.to_str().unwrap()]);
        assert_eq!(submit.ended().code(), Some(3), "five megabytes do not fit");
        let said = submit.err.so_far().join("\n");
        let full = said.contains("no room is left for") || said.contains("bytes are left on the disk of");
        assert!(full && said.contains("contact.db"), "{said}");
        // All room is taken, lest a try to go on finds some.
        let more = std::fs::File::options().append(true).open(&filler);
        while more.as_ref().is_ok_and(|mut more| std::io::Write::write_all(&mut more, &[0; 4096]).is_ok()) {}
    }
    let accepted = server.ctl(&["server"])[0]["tasks"].as_u64().unwrap();
    std::fs::remove_file(&filler).unwrap();
    let client = HealthClient::new(channel(&server.control));
    let mut watch = client.watch(&HealthCheckRequest::new(), patient()).unwrap();
    while block_on(watch.next()).unwrap().unwrap().status != ServingStatus::SERVING.into() {}
    assert_eq!(server.submit(&["there is room again"]), accepted + 1);
    drop(server);
}

#[test]
fn a_server_that_stops_says_so_to_those_who_watch_before_it_ends_their_streams() {
    let Some(python) = Python::ready() else { return };
    let mut server = Server::start(&["--grace", "1h"]);
    let known = [(&server.listen, ""), (&server.control, "Contact")];
    let known = known.map(|(address, service)| python.conventions(&["watch", address, service]));
    let unknown = python.conventions(&["watch", &server.listen, "nobody"]);
    for watch in &known {
        watch.out.wait_for("that it serves", |line| line == "\"SERVING\"");
    }
    unknown.out.wait_for("that it does not know", |line| line == "\"SERVICE_UNKNOWN\"");

    server.program().signal("TERM");
    assert!(server.program().ended().success(), "nobody is waited for who only watches");
    for (mut watch, before) in known
        .into_iter()
        .map(|watch| (watch, vec!["SERVING", "NOT_SERVING"]))
        .chain([(unknown, vec!["SERVICE_UNKNOWN"])])
    {
        assert!(watch.ended().success());
        let said: Vec<Value> = watch.out.so_far().iter().map(|line| json_of(line)).collect();
        let (end, said) = said.split_last().unwrap();
        assert_eq!(said, before);
        assert_eq!((&end["code"], &end["ErrorInfo"]["reason"]), (&json!("UNAVAILABLE"), &json!("SERVER_STOPPING")));
        assert!(end["RetryInfo"]["retry_delay"].is_string(), "{end}");
    }
}

#[test]
fn reflection_lists_what_each_port_serves() {
    let server = Server::start(&[]);
    let common = [
        ("grpc.health.v1.Health", vec!["Check", "List", "Watch"]),
        ("grpc.reflection.v1.ServerReflection", vec!["ServerReflectionInfo"]),
        ("grpc.reflection.v1alpha.ServerReflection", vec!["ServerReflectionInfo"]),
    ];
    for (address, name, some) in [
        (&server.listen, "Contact", vec!["getTask", "sendStatus", "tellResult"]),
        (&server.control, CONTROL, vec!["ListTasks", "Submit", "SubmitStream"]),
    ] {
        let Some(said) = python(&["reflect", address]) else { return };
        let mut services: BTreeMap<String, BTreeSet<String>> =
            said.into_iter().flat_map(|line| serde_json::from_value::<BTreeMap<_, _>>(line).unwrap()).collect();
        let methods = services.remove(name).unwrap_or_else(|| panic!("{name} is missing: {services:?}"));
        assert!(some.iter().all(|method| methods.contains(*method)), "{methods:?}");
        let common =
            common.clone().map(|(name, methods)| (name.to_owned(), methods.into_iter().map(Into::into).collect()));
        assert_eq!(services, BTreeMap::from(common), "and nothing else on {address}");
    }
}

#[test]
fn a_tool_that_knows_nothing_but_reflection_submits_a_task_and_takes_it() {
    let server = Server::start(&[]);
    let Some(said) = python(&["work", &server.listen, &server.control, "任务 by reflection"]) else { return };
    assert_eq!(said[0]["given"], "任务 by reflection");
    assert_eq!(said[0]["ledger"]["results"][0]["ret"], "by reflection");
    assert_eq!(said[0]["ledger"]["groups"][0]["state"], "SETTLED");
}

#[test]
fn both_versions_of_reflection_answer_alike_and_say_what_is_not_there() {
    let server = Server::start(&[]);
    let extension =
        |of: &str| ExtensionRequest { containing_type: of.into(), extension_number: 7, ..Default::default() };
    let asked = [
        Some(Ask::ListServices(String::new())),
        Some(Ask::FileByFilename("contact.proto".into())),
        Some(Ask::FileByFilename("no.proto".into())),
        Some(Ask::FileContainingSymbol("ServerMsg.batch".into())),
        Some(Ask::FileContainingSymbol("NoMsg".into())),
        Some(Ask::AllExtensionNumbersOfType("ServerMsg".into())),
        Some(Ask::AllExtensionNumbersOfType("NoMsg".into())),
        Some(Ask::FileContainingExtension(extension("ServerMsg"))),
        Some(Ask::FileContainingExtension(extension("NoMsg"))),
        None,
    ];
    let (not_found, invalid) = ("5-NOT_FOUND", "3-INVALID_ARGUMENT");
    let expected = ["4 services", "1 files", not_found, "1 files", not_found, "0 of ServerMsg", not_found, not_found];
    for version in ["v1", "v1alpha"] {
        // The messages of both are the same on the wire.
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo").leak();
        let method = client_method::<ServerReflectionRequest, ServerReflectionResponse>(MethodType::Duplex, path);
        let client = Client::new(channel(&server.listen));
        let (mut ask, mut answers) = client.duplex_streaming(&method, patient()).unwrap();
        let answered = asked.clone().map(|message_request| {
            let request = ServerReflectionRequest { host: "here".into(), message_request, ..Default::default() };
            block_on(ask.send((request.clone(), WriteFlags::default()))).unwrap();
            let answer = block_on(answers.next()).unwrap().unwrap();
            assert_eq!((answer.valid_host.as_str(), answer.original_request.as_ref()), ("here", Some(&request)));
            match answer.message_response.unwrap() {
                Answer::ListServicesResponse(list) => format!("{} services", list.service.len()),
                Answer::FileDescriptorResponse(files) => format!("{} files", files.file_descriptor_proto.len()),
                Answer::AllExtensionNumbersResponse(numbers) => {
                    format!("{} of {}", numbers.extension_number.len(), numbers.base_type_name)
                }
                Answer::ErrorResponse(error) => format!("{:?}", Code::from(error.error_code)),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(answered[..8], expected, "{version}");
        assert_eq!(answered[8..], [not_found, invalid], "{version}");
        let _ = block_on(ask.close());
        assert!(block_on(answers.next()).is_none(), "it ends well");
    }
}

#[test]
fn errors_tell_a_program_what_was_wrong_and_where() {
    let server = Server::start(&[]);
    let Some(said) = python(&["errors", &server.listen, &server.control]) else { return };
    let mut said = said.into_iter();
    let mut next = |code: &str, reason: &str, metadata: Value| {
        let status = said.next().unwrap();
        assert_eq!(status["code"], code, "{status}");
        assert_eq!(status["ErrorInfo"]["domain"], "contact", "{status}");
        assert_eq!((&status["ErrorInfo"]["reason"], &status["ErrorInfo"]["metadata"]), (&json!(reason), &metadata));
        status
    };
    let field = |status: &Value| status["BadRequest"]["field_violations"][0]["field"].as_str().map(str::to_owned);

    let long = json!({"index": "1", "size_bytes": "1048577", "limit_bytes": "1048576"});
    assert_eq!(field(&next("INVALID_ARGUMENT", "TASK_TOO_LONG", long)).unwrap(), "tasks[1].task");
    let status = next("INVALID_ARGUMENT", "NAME_INVALID", json!({"index": "2"}));
    assert_eq!(field(&status).unwrap(), "tasks[2].key");
    assert_eq!(status["BadRequest"]["field_violations"][0]["description"], status["message"]);
    let status = next("INVALID_ARGUMENT", "ENUM_VALUE_UNKNOWN", json!({"index": "0", "number": "77"}));
    assert_eq!(field(&status).unwrap(), "tasks[0].priority");
    let status = next("NOT_FOUND", "TASK_UNKNOWN", json!({"task": "4711", "newest": "0"}));
    assert_eq!(status["ResourceInfo"], json!({"resource_type": "task", "resource_name": "4711"}));
    let status = next("NOT_FOUND", "GROUP_UNKNOWN", json!({"group": "nobody"}));
    assert_eq!(status["ResourceInfo"], json!({"resource_type": "group", "resource_name": "nobody"}));
    assert_eq!(field(&next("INVALID_ARGUMENT", "NAME_INVALID", Value::Null)).unwrap(), "group");
    next("INVALID_ARGUMENT", "METADATA_INVALID", json!({"key": "contact-window"}));
    next("INVALID_ARGUMENT", "METADATA_INVALID", json!({"key": "contact-client"}));
    next("NOT_FOUND", "TASK_UNKNOWN", json!({"task": "4711", "newest": "0"}));
    let long = json!({"size_bytes": "1048577", "limit_bytes": "1048576"});
    assert_eq!(field(&next("INVALID_ARGUMENT", "RESULT_TOO_LONG", long)).unwrap(), "ret");
    let long = json!({"size_bytes": "1048577", "limit_bytes": "16384"});
    assert_eq!(field(&next("INVALID_ARGUMENT", "STATUS_TOO_LONG", long)).unwrap(), "msg");
    assert_eq!(said.next(), None);
}

#[test]
fn clients_of_a_server_that_stops_are_told_to_come_back_at_different_times() {
    const CLIENTS: usize = 200;
    let mut server = Server::start(&[]);
    let channels = [(); 4].map(|()| ContactClient::new(channel(&server.listen)));
    let open = |n: usize| channels[n % 4].get_task(&pb::Empty::new(), patient()).unwrap();
    let mut streams: Vec<_> = (0..CLIENTS).map(open).collect();
    server.submit(&["one for each"]);
    for stream in &mut streams {
        block_on(stream.next()).unwrap().unwrap();
    }
    server.program().signal("TERM");
    let delays: Vec<Duration> = streams
        .iter_mut()
        .map(|stream| {
            let status = status_of(block_on(stream.next()).unwrap().unwrap_err());
            assert_eq!(status.message(), "the server is stopping; connect again");
            assert_eq!((status.code(), reason(&status).as_str()), (Code::UNAVAILABLE, "SERVER_STOPPING"));
            retry_delay(&status).expect("it is said when to come back")
        })
        .collect();
    assert!(server.program().ended().success());
    let (soonest, latest) = (Duration::from_millis(500), Duration::from_secs(5));
    assert!(delays.iter().all(|delay| (soonest..=latest).contains(delay)), "{delays:?}");
    let millis: BTreeSet<u128> = delays.iter().map(Duration::as_millis).collect();
    assert!(millis.len() > CLIENTS / 2, "hardly any two at one moment: {millis:?}");
    let middle = (millis.first().unwrap() + millis.last().unwrap()) / 2;
    let early = delays.iter().filter(|delay| delay.as_millis() <= middle).count();
    assert!((CLIENTS / 4..CLIENTS * 3 / 4).contains(&early), "{early} of {CLIENTS} in the first half");
}

#[test]
fn a_worker_that_is_told_to_come_back_later_does_and_loses_nothing() {
    let mut server = Server::start(&[]);
    let (tell, events) = unbounded();
    let (begin, begun) = unbounded();
    let (let_go, gate) = unbounded::<()>();
    // With hardly a wait of its own: what it waits is what it was told.
    let config = Config {
        id: Some("worker".into()),
        // It may come after the tasks.
        from: Some(StartAt::First),
        first_backoff: Duration::from_millis(1),
        confirm_every: Duration::from_millis(10),
        ..Config::new(&server.listen)
    };
    let worker = Worker::new(config, move |task| {
        let _ = begin.send(task.id);
        let _ = gate.recv();
        format!("done: {}", task.text)
    });
    let worker = worker.observe(move |event| {
        if let Event::Disconnected { reason, retry_ms, .. } = event {
            let _ = tell.send(((*reason).to_owned(), *retry_ms));
        }
    });
    let running = worker.start().unwrap();
    // Gone before the worker is, which waits for its handler.
    let let_go = let_go;
    server.submit(&["one", "two", "three"]);
    assert_eq!(begun.recv_timeout(DEADLINE), Ok(1));

    server.program().signal("TERM");
    let (reason, retry_ms) = events.recv_timeout(DEADLINE).unwrap();
    assert!(reason.contains("the server is stopping"), "{reason}");
    assert!((500..=1_001).contains(&retry_ms), "{retry_ms} ms, with one client");
    assert!(server.program().ended().success());
    server.restart();
    drop(let_go);
    let mut results = server.done(3);
    running.stop().unwrap();
    // What it had not begun when the connection ended went back, and came again.
    results.retain(|result| result["outcome"] != "RELEASED");
    let mut done: Vec<(u64, &str)> =
        results.iter().map(|r| (r["task_id"].as_u64().unwrap(), r["ret"].as_str().unwrap())).collect();
    done.sort_unstable();
    assert_eq!(done, [(1, "done: one"), (2, "done: two"), (3, "done: three")]);
    assert!(results.iter().all(|result| result["outcome"] == "DONE" && result["late"] != true), "{results:?}");
}

#[test]
fn the_articles_client_comes_back_after_an_orderly_stop_as_after_any_other() {
    let Some(python) = Python::ready() else { return };
    let mut server = Server::start(&[]);
    server.submit(&["one"]);
    let client = python.client(Spelling::Ret, &server.listen);
    let received = |line: &str| line.strip_prefix("客户端已接收到服务端任务:").map(str::to_owned);
    client.out.at_least(1, "tasks", received);
    server.program().signal("TERM");
    client.out.wait_for("its word that the server has gone", |line| line.starts_with("server connected out"));
    assert!(server.program().ended().success());
    server.restart();
    // Being anonymous, it gets everything again.
    assert_eq!(client.out.at_least(2, "tasks", received), ["one", "one"]);
}

#[test]
fn results_are_heard_for_the_grace_that_was_given() {
    let mut patient_one = Server::start(&["--grace", "1h"]);
    let mut hasty_one = Server::start(&["--grace", "0s"]);
    let [kept, cut] = [&mut patient_one, &mut hasty_one].map(|server| {
        server.submit(&["work"]);
        let client = ContactClient::new(channel(&server.listen));
        let mut tasks = client.get_task(&pb::Empty::new(), patient()).unwrap();
        block_on(tasks.next()).unwrap().unwrap();
        let (mut telling, answer) = client.tell_result(patient()).unwrap();
        block_on(telling.send(result("first"))).unwrap();
        server.at_least(1, "results");
        server.program().signal("TERM");
        assert!(block_on(tasks.next()).unwrap().is_err(), "it gives out no more tasks");
        // A call does not keep its channel.
        (client, telling, answer)
    });
    let (client, mut telling, answer) = kept;
    // Whoever comes now is answered: there are no tasks, and what is told is heard.
    let newcomer = channel(&patient_one.listen);
    let status = HealthClient::new(newcomer.clone()).check(&HealthCheckRequest::new(), patient()).unwrap();
    assert_eq!(block_on(status).unwrap().status, ServingStatus::NOT_SERVING.into());
    for client in [&client, &ContactClient::new(newcomer)] {
        let mut tasks = client.get_task(&pb::Empty::new(), patient()).unwrap();
        let status = status_of(block_on(tasks.next()).unwrap().unwrap_err());
        assert_eq!((status.code(), reason(&status).as_str()), (Code::UNAVAILABLE, "SERVER_STOPPING"));
        assert!(retry_delay(&status).is_some());
    }
    block_on(tell(&patient_one, "second")).unwrap();
    block_on(telling.send(result("last"))).unwrap();
    block_on(telling.close()).unwrap();
    block_on(answer).unwrap();
    assert!(patient_one.program().ended().success());
    assert!(hasty_one.program().ended().success());
    let (_client, _telling, answer) = cut;
    assert_eq!(status_of(block_on(answer).unwrap_err()).code(), Code::UNAVAILABLE);
    patient_one.restart();
    let rets: Vec<_> = patient_one.at_least(3, "results").iter().map(|result| result["ret"].clone()).collect();
    assert_eq!(rets, ["first", "second", "last"]);
}

async fn tell(server: &Server, ret: &str) -> Result<(), RpcStatus> {
    let client = ContactClient::new(channel(&server.listen));
    let (mut telling, answer) = client.tell_result(patient()).unwrap();
    let _ = telling.send(result(ret)).await;
    let _ = telling.close().await;
    answer.await.map(drop).map_err(status_of)
}

fn result(ret: &str) -> (pb::Result, WriteFlags) {
    (pb::Result { ret: ret.into(), ..Default::default() }, WriteFlags::default())
}

fn channel(address: &str) -> Channel {
    ChannelBuilder::new(Arc::new(Environment::new(1))).connect(address)
}

fn patient() -> CallOption {
    CallOption::default().timeout(DEADLINE)
}

#[track_caller]
fn status_of(error: grpcio::Error) -> RpcStatus {
    match error {
        grpcio::Error::RpcFailure(status) => status,
        other => panic!("not an answer of the server: {other:?}"),
    }
}

/// The detail of that type, if the status has one. Its code and message are those of the status itself.
#[track_caller]
fn detail<T: MessageFull>(status: &RpcStatus) -> Option<T> {
    let rich = Status::parse_from_bytes(status.details()).unwrap();
    assert_eq!((Code::from(rich.code), rich.message.as_str()), (status.code(), status.message()));
    rich.details.iter().find_map(|any| any.unpack().unwrap())
}

#[track_caller]
pub fn reason(status: &RpcStatus) -> String {
    detail::<ErrorInfo>(status).unwrap_or_else(|| panic!("no reason: {status:?}")).reason
}

pub fn retry_delay(status: &RpcStatus) -> Option<Duration> {
    detail::<RetryInfo>(status).map(|info| info.retry_delay.unwrap().into())
}
