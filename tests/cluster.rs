//! Several real servers over real NATS servers.
//!
//! They need the feature: `cargo test --features cluster --test system cluster::`.

mod campaign;
mod deaths;
mod granted;
mod guarded;
mod members;
#[path = "nats/servers.rs"]
mod nats;
#[cfg(target_os = "linux")]
mod partitions;
#[path = "replicated/rows.rs"]
mod rows;

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use contact::wire::contact as pb;
use contact::wire::contact_grpc::ContactClient;
use contact::wire::control;
use contact::wire::control_grpc::ControlClient;
use contact::wire::link_grpc::LinkClient;
use futures::executor::block_on;
use futures::{SinkExt as _, StreamExt as _};
use grpcio::{CallOption, Channel, ChannelBuilder, EnvBuilder, MetadataBuilder, RpcStatusCode, WriteFlags};
use protobuf::EnumOrUnknown;

use crate::browser::driver::{Browser, Scene};
use crate::common::DEADLINE;
use crate::common::disk::SmallDisk;
use crate::common::server::Server;
use crate::conventions::{reason, retry_delay};
use crate::http::client::{Events, Reply, get_from, post_to};
use members::{Member, PROGRAM, leader};
use nats::Nats;

#[test]
fn a_server_of_several_shows_the_others_and_the_log_and_says_what_is_not_well() {
    let Some(nats) = Nats::three() else { return };
    let config = nats.config();
    drop(nats::open(&config));
    let cluster = config.cluster.to_string();
    let monitors = ["--nats-monitor", nats.monitors()];
    let mut members = [(); 2].map(|()| Member::start_with(nats.urls(), &cluster, &monitors));
    let leads = leader(&members, None);
    let (first, other) = (&members[leads], &members[1 - leads]);
    first.until("/api/servers", |answer| {
        let says =
            |name: &str, role: &str| answer.contains(&format!(r#"{{"name":"{name}","role":"{role}","silent":false"#));
        says(&first.listen, "leading") && says(&other.listen, "following") && answer.contains(r#""log":{"#)
    });
    // They have found each other, and all of them have the log.
    first.until_doctor_says("three NATS servers have all of it");
    let doctor = first.ctl(&["doctor"]);
    for said in ["another server is ready to lead", "they are of one version, and their clocks agree"] {
        assert!(doctor.contains(said), "{said}: {doctor}");
    }
    let listed = first.ctl(&["servers"]);
    let line = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{listed}"));
    assert!(line(&first.listen).contains("leading") && line(&other.listen).contains("following"), "{listed}");
    assert_eq!(listed.matches("has all of it").count(), 2, "{listed}");
    let metric = |name: &str, value: &str| format!("\ncontact_cluster_{name}{{cluster=\"{cluster}\"{value}\n");
    let metrics = [
        metric("is_leader", "} 1"),
        metric("takeovers_total", "} 1"),
        metric("log_replicas", "} 3"),
        metric("log_troubles", "} 0"),
        metric("servers", ",role=\"following\"} 1"),
        metric("log_lag", &format!(",server=\"{}\"}} 0", other.listen)),
    ];
    first.until("/metrics", |answer| metrics.iter().all(|one| answer.contains(one)));
    let explained =
        include_str!("../docs/monitoring.md").split(['`', '{']).filter(|word| word.starts_with("contact_cluster_"));
    first.until("/metrics", |answer| {
        let exposed = answer.lines().filter_map(|line| line.strip_prefix("# TYPE contact_cluster_"));
        exposed.count() == explained.clone().collect::<BTreeSet<_>>().len()
            && explained.clone().all(|name| answer.contains(&format!("# TYPE {name} ")))
    });

    let scene = Browser::ready().map(|browser| browser.plays_at("servers", &first.http, &[]));
    scene.iter().for_each(|scene| scene.comes_to("both are shown"));
    members[1 - leads].program.kill();
    scene.into_iter().for_each(Scene::ends_well);
    members[leads].until_doctor_says("1 server of the cluster fell silent, and no other is there");
    assert!(members[leads].ctl(&["servers"]).contains("silent, was following"));
    members[1 - leads].restart();
    nats.order("kill", 2);
    members[leads].until_doctor_says("2 NATS servers of 3 that are to keep the log");
    members[leads].until_doctor_says("the monitoring port");
    nats.order("start", 2);
    members[leads].until_doctor_says("three NATS servers have all of it");
}

#[test]
fn a_server_that_leads_and_cannot_write_its_own_disk_leaves_that_to_another_one() {
    let Some(nats) = Nats::three() else { return };
    let Some(disk) = SmallDisk::mount(64) else { return };
    let config = nats.config();
    drop(nats::open(&config));
    let cluster = config.cluster.to_string();
    let first = Member::start_in(disk.path(), nats.urls(), &cluster, &[]);
    first.until_ready_says("leading");
    let other = Member::start(nats.urls(), &cluster);
    other.until_ready_says("following (lag 0)");
    assert!(first.ctl(&["submit", "one"]).contains('1'));
    let filler = disk.fill(0);
    other.until_ready_says("leading");
    assert!(other.ctl(&["submit", "two"]).contains('2'), "what the first one accepted is there");
    other.until("/api/servers", |answer| answer.contains("bytes are left for"));
    other.until_doctor_says("no other server of the cluster could go on, since it cannot write its own disk");
    // With room again it follows, and leads when it has to.
    std::fs::remove_file(filler).unwrap();
    other.until_doctor_says("another server is ready to lead");
    drop(other);
    first.until_ready_says("leading");
    assert!(first.ctl(&["submit", "three"]).contains('3'));
}

#[test]
fn a_cluster_goes_on_with_what_a_server_had_alone_and_a_server_alone_with_what_a_cluster_had() {
    let Some(nats) = Nats::three() else { return };
    let config = nats.config();
    let cluster = config.cluster.to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut alone = Server::start_in(&data, &[]);
    alone.submit(&["one", "two"]);
    let import = || {
        let folder = data.to_str().unwrap();
        let of = ["--nats", nats.urls(), "--cluster", &cluster, "--advertise", "importer:1", "--import", folder];
        let output = Command::new(PROGRAM).args(of).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (done, said) = import();
    assert!(!done && said.contains("in use by another process"), "{said}");
    alone.program().signal("TERM");
    assert!(alone.program().ended().success());
    let (done, said) = import();
    assert!(done && said.contains("tasks up to 2") && !said.contains("receipts"), "{said}");
    let (done, said) = import();
    assert!(!done && said.contains("imported whole"), "{said}");
    let member = Member::start(nats.urls(), &cluster);
    member.until_ready_says("leading");
    assert!(member.ctl(&["submit", "three"]).contains('3'));
    let listed = member.ctl(&["tasks", "--all"]);
    assert!(["one", "two", "three"].iter().all(|text| listed.contains(text)), "{listed}");
    assert_eq!(
        std::fs::read(data.join("receipt-key")).unwrap(),
        std::fs::read(member.data.join("receipt-key")).unwrap()
    );
    member.program.signal("TERM");
    let Member { mut program, data, _folder, .. } = member;
    assert!(program.ended().success());
    let back = Server::start_in(&data, &[]);
    assert_eq!(back.submit(&["four"]), 4);
}

/// Two servers, of which the second follows.
fn two(nats: &Nats) -> [Member; 2] {
    two_with(nats, &[])
}

fn two_with(nats: &Nats, more: &[&str]) -> [Member; 2] {
    let config = nats.config();
    drop(nats::open(&config));
    let cluster = config.cluster.to_string();
    let mut members = [(); 2].map(|()| Member::start_with(nats.urls(), &cluster, more));
    if leader(&members, None) == 1 {
        members.reverse();
    }
    members[1].until_ready_says("following (lag 0)");
    members
}

fn channel(address: &str) -> Channel {
    let env = Arc::new(EnvBuilder::new().cq_count(1).build());
    ChannelBuilder::new(env).use_local_subchannel_pool(true).connect(address)
}

fn options(metadata: &[(&str, &str)]) -> CallOption {
    let mut builder = MetadataBuilder::new();
    for (key, value) in metadata {
        builder.add_str(key, value).unwrap();
    }
    CallOption::default().headers(builder.build())
}

fn try_submit(member: &Member, text: &str, to: &str) -> grpcio::Result<u64> {
    let tasks = vec![control::NewTask { task: text.into(), to: to.into(), ..Default::default() }];
    let request = control::SubmitRequest { tasks, ..Default::default() };
    let client = ControlClient::new(channel(&member.control));
    Ok(block_on(client.submit(&request, options(&[]))?)?.first_id)
}

#[track_caller]
fn submit(member: &Member, text: &str, to: &str) -> u64 {
    try_submit(member, text, to).unwrap()
}

/// What came of a task: each time the attempt, the outcome, and whether it was late.
fn results(member: &Member, id: u64) -> Vec<(u32, EnumOrUnknown<control::Outcome>, bool)> {
    let client = ControlClient::new(channel(&member.control));
    let asked = control::DescribeTaskRequest { id, ..Default::default() };
    let ledger = block_on(client.describe_task(&asked, options(&[])).unwrap()).unwrap();
    ledger.results.iter().map(|result| (result.attempt, result.outcome, result.late)).collect()
}

#[test]
fn without_most_of_the_nats_servers_all_servers_say_so_and_refuse_tasks_until_those_are_back() {
    let Some(nats) = Nats::three_alone() else { return };
    let members = two(&nats);
    let before = submit(&members[1], "before", "");
    [0, 1].into_iter().for_each(|place| nats.order("kill", place));
    for member in &members {
        member.until("/readyz", |answer| answer.contains(" 503 "));
        let grpcio::Error::RpcFailure(status) = try_submit(member, "refused", "").unwrap_err() else { panic!() };
        assert_eq!(status.code(), RpcStatusCode::UNAVAILABLE);
        assert!(["STORE_FAILED", "NO_LEADER"].contains(&&*reason(&status)), "{status:?}");
        assert!(retry_delay(&status).is_some(), "it may pass by itself: {status:?}");
        assert!(member.ctl(&["health"]).contains("NOT_SERVING"));
    }
    // Nor is there anything to hear.
    nats.order("kill", 2);
    members[1].until_ready_says("alone (nothing heard of the others for ");

    (0..3).for_each(|place| nats.order("start", place));
    let leads = leader(&members, None);
    members[1 - leads].until_ready_says("following (lag 0)");
    assert_eq!(submit(&members[1 - leads], "after", ""), before + 1);
}

#[test]
fn streams_at_a_server_that_follows_stay_when_the_one_that_leads_dies() {
    let Some(nats) = Nats::three() else { return };
    let mut members = two(nats);
    let [worker, article] = [(); 2].map(|()| ContactClient::new(channel(&members[1].listen)));
    let id = options(&[("contact-client", "w"), ("contact-window", "4")]);
    let mut tasks = worker.get_task(&pb::Empty::new(), id.clone()).unwrap();
    // It says nothing of itself, and is given what is broadcast.
    let mut broadcasts = article.get_task(&pb::Empty::new(), options(&[])).unwrap();
    let before = submit(&members[1], "before", "");
    assert_eq!(block_on(broadcasts.next()).unwrap().unwrap().id, before);
    assert_eq!(block_on(tasks.next()).unwrap().unwrap().id, before);
    let held = submit(&members[0], "held", "w");
    let given = block_on(tasks.next()).unwrap().unwrap();
    assert_eq!((given.id, given.attempt), (held, 1));

    members[0].program.kill();
    members[1].until_ready_says("leading");
    let after = submit(&members[1], "after", "");
    assert_eq!(block_on(broadcasts.next()).unwrap().unwrap().id, after, "and nothing of what it was given before");
    let given = block_on(tasks.next()).unwrap().unwrap();
    assert_eq!((given.id, given.attempt), (after, 1), "and not again what it has");

    let (mut told, answer) = worker.tell_result(id).unwrap();
    block_on(async {
        for task in [before, held, after] {
            let result = pb::Result { id: task, attempt: 1, ret: "done".into(), ..Default::default() };
            told.send((result, WriteFlags::default())).await.unwrap();
        }
        told.close().await.unwrap();
        answer.await.unwrap();
    });
    assert_eq!(results(&members[1], held), [(1, control::Outcome::DONE.into(), false)]);
}

#[test]
fn a_client_without_an_id_stays_drained_and_is_given_what_waited_for_its_time_when_another_server_leads() {
    let Some(nats) = Nats::three() else { return };
    let mut members = two(nats);
    let article = ContactClient::new(channel(&members[1].listen));
    let mut broadcasts = article.get_task(&pb::Empty::new(), options(&[])).unwrap();
    // Longer than the next two steps take.
    let later = members[0].ctl(&["--json", "submit", "--delay", "8s", "later"]);
    assert!(later.contains(r#""accepted":1"#), "{later}");
    let before = submit(&members[1], "before", "");
    // The server that leads is behind the other one by then.
    assert_eq!(block_on(broadcasts.next()).unwrap().unwrap().id, before);
    let client: serde_json::Value = serde_json::from_str(&members[0].ctl(&["--json", "clients"])).unwrap();
    let address = client["peer"].as_str().unwrap();
    let said = members[0].ctl(&["--json", "drain", address, "--note", "new disk"]);
    assert!(said.contains(r#""drained":true"#), "{said}");
    // Its server knows that before it is given this for another one.
    let mut other = article.get_task(&pb::Empty::new(), options(&[("contact-client", "other")])).unwrap();
    let between = submit(&members[0], "between", "");
    while block_on(other.next()).unwrap().unwrap().id != between {}

    members[0].program.kill();
    members[1].until_ready_says("leading");
    let after = submit(&members[1], "after", "");
    members[1].until("/api/clients", |answer| answer.contains("new disk"));
    let said = members[1].ctl(&["--json", "undrain", address]);
    assert!(said.contains(r#""drained":false"#), "{said}");
    let mut given = [(); 3].map(|()| block_on(broadcasts.next()).unwrap().unwrap().id);
    given.sort_unstable();
    assert_eq!(given, [before - 1, between, after]);
}

#[test]
fn a_request_that_is_much_longer_than_a_task_is_passed_on_to_the_server_that_leads() {
    let Some(nats) = Nats::three() else { return };
    let members = two_with(nats, &["--max-task", "1000"]);
    let tasks = vec![control::NewTask { task: "x".repeat(1000), ..Default::default() }; 3000];
    let request = control::SubmitRequest { tasks, ..Default::default() };
    for member in &members {
        let client = ControlClient::new(channel(&member.control));
        let answer = block_on(client.submit(&request, options(&[])).unwrap()).unwrap();
        assert_eq!(answer.count, 3000);
    }
}

#[test]
fn a_task_that_a_server_which_stands_still_does_not_pass_on_is_not_given_up_for_that() {
    let Some(nats) = Nats::three() else { return };
    let members = two(nats);
    let worker = ContactClient::new(channel(&members[1].listen));
    // Only what a client has not begun may be given up for its silence.
    let mut tasks =
        worker.get_task(&pb::Empty::new(), options(&[("contact-client", "w"), ("contact-begins", "1")])).unwrap();
    members[0].until("/api/clients", |answer| answer.contains("\"w\""));
    members[1].program.signal("STOP");
    let task = submit(&members[0], "work", "w");
    // Its leases are of a second, `--max-deliveries` is 4, and the other server is lost after 5 s.
    let deadline = Instant::now() + DEADLINE;
    while results(&members[0], task).len() <= 4 {
        assert!(Instant::now() < deadline, "{:?}", results(&members[0], task));
        thread::sleep(Duration::from_millis(100));
    }
    let released = results(&members[0], task);
    assert!(released.iter().all(|(_, outcome, _)| *outcome == control::Outcome::RELEASED.into()), "{released:?}");
    members[1].program.signal("CONT");
    let given = block_on(tasks.next()).unwrap().unwrap();
    assert_eq!(given.id, task);
}

#[test]
fn what_clients_still_tell_a_server_that_led_and_stops_is_written_down_by_the_one_that_leads_next() {
    let Some(nats) = Nats::three() else { return };
    let members = two(nats);
    let worker = ContactClient::new(channel(&members[0].listen));
    let id = options(&[("contact-client", "w")]);
    let mut tasks = worker.get_task(&pb::Empty::new(), id.clone()).unwrap();
    let task = submit(&members[0], "work", "w");
    assert_eq!(block_on(tasks.next()).unwrap().unwrap().id, task);
    // A call that is open while the server stops, so that it waits for that.
    let (mut told, answer) = worker.tell_result(id).unwrap();
    let working = pb::Result { id: task, attempt: 1, outcome: pb::Outcome::WORKING.into(), ..Default::default() };
    block_on(told.send((working, WriteFlags::default()))).unwrap();

    members[0].program.signal("TERM");
    assert!(block_on(tasks.next()).unwrap().is_err(), "it gives nothing out any more");
    members[1].until_ready_says("leading");
    let done = pb::Result { id: task, attempt: 1, ret: "done".into(), ..Default::default() };
    block_on(async {
        told.send((done, WriteFlags::default())).await.unwrap();
        told.close().await.unwrap();
        answer.await.unwrap();
    });
    assert_eq!(results(&members[1], task), [(1, control::Outcome::DONE.into(), false)]);
}

#[test]
fn what_servers_say_to_one_another_is_taken_from_no_one_else() {
    let Some(nats) = Nats::three() else { return };
    let members = two(nats);
    for key in [None, Some(("contact-link", "00112233445566778899aabbccddeeff")), Some(("contact-link", ""))] {
        let options = options(key.as_slice());
        let link = LinkClient::new(channel(&members[0].listen));
        let (_up, mut down) = link.attach(options.clone()).unwrap();
        let refused = |error: grpcio::Error| match error {
            grpcio::Error::RpcFailure(status) => status.code(),
            other => panic!("{other}"),
        };
        assert_eq!(refused(block_on(down.next()).unwrap().unwrap_err()), RpcStatusCode::UNAUTHENTICATED);
        let operator = ControlClient::new(channel(&members[0].listen));
        let asked = operator.get_server(&control::GetServerRequest::new(), options).unwrap();
        assert_eq!(refused(block_on(asked).unwrap_err()), RpcStatusCode::UNAUTHENTICATED);
    }
}

fn get(member: &Member, path: &str) -> Reply {
    get_from(&member.http, path)
}

fn post(member: &Member, headers: &str, body: &str) -> Reply {
    post_to(&member.http, "/api/tasks", headers, body)
}

#[test]
fn the_page_of_a_server_that_follows_is_that_of_the_one_that_leads_whichever_does() {
    let Some(nats) = Nats::three() else { return };
    let mut members = two(nats);
    for path in ["/", "/assets/main.js", "/api/groups", "/api/tasks?limit=x", "/nothing"] {
        let [here, there] = [&members[0], &members[1]].map(|member| get(member, path));
        let said = |reply: &Reply| (reply.status, reply.header("content-type").to_owned(), reply.body.clone());
        assert_eq!(said(&there), said(&here), "{path}");
    }
    // In many messages, both ways.
    let text = "long ".repeat(100_000);
    let task = format!(r#"{{"text": "{text}", "to": "w"}}"#);
    let accepted = post(&members[1], "Host: localhost\r\nX-Contact: 1\r\n", &task);
    assert_eq!(accepted.status, 200, "{accepted:?}");
    assert_eq!(get(&members[1], "/api/tasks/1").json()["text"], text);
    // What a browser may ask is looked at by the server that it asks.
    for headers in ["Host: localhost\r\n", "Host: evil.example\r\nX-Contact: 1\r\n"] {
        assert_eq!(post(&members[1], headers, &task).status, 403, "{headers}");
    }
    let metrics = get(&members[1], "/metrics").body;
    let said = |name: &str, value: &str| metrics.lines().any(|line| line.starts_with(name) && line.ends_with(value));
    assert!(said("contact_cluster_is_leader{", " 0") && said("contact_cluster_log_lag{", " 0"), "{metrics}");
    let mut events = Events::from(&members[1].http, "/api/events");
    while events.next().unwrap().0 != "state" {}

    members[0].program.kill();
    while events.next().is_some() {}
    members[1].until("/api/tasks", |answer| answer.contains("200 OK") && answer.contains(r#""to":"w""#));
    members[0].restart();
    members[0].until_ready_says("following (lag 0)");
    let accepted = post(&members[0], "Host: localhost\r\nX-Contact: 1\r\n", r#"{"text": "after"}"#);
    assert_eq!(accepted.json()["id"], 2);
}
