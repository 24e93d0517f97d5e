//! Several real servers over real NATS servers, which are killed and stopped again and again under load; then what every party saw is held
//! against the ledger, and the views against each other.
//!
//! It needs the feature: `cargo test --features cluster --test system cluster::`. A few die; for a long run:
//! `CONTACT_DEATHS=100 cargo test --features cluster --test system cluster:: -- --nocapture`.

#[path = "nats/servers.rs"]
mod nats;
#[path = "replicated/rows.rs"]
mod rows;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, thread};

use contact::store::Standby;
use contact::wire::contact as pb;
use contact::wire::contact_grpc::ContactClient;
use contact::wire::control;
use contact::wire::control_grpc::ControlClient;
use contact::wire::link_grpc::LinkClient;
use futures::executor::block_on;
use futures::{SinkExt as _, StreamExt as _};
use grpcio::{CallOption, Channel, ChannelBuilder, EnvBuilder, MetadataBuilder, RpcStatusCode, WriteFlags};
use protobuf::EnumOrUnknown;
use tempfile::TempDir;

use crate::browser::driver::{Browser, Scene};
use crate::common::disk::SmallDisk;
use crate::common::program::Program;
use crate::common::server::Server;
use crate::common::{DEADLINE, free_port};
use crate::crash::ledger::Ledger;
use crate::crash::witness::Witness;
use crate::crash::{submitters, workers};
use crate::http::client::{Events, Reply, exchange};
use nats::Nats;
use rows::rows;

const PROGRAM: &str = env!("CARGO_BIN_EXE_contact-server");
const CONTACTCTL: &str = env!("CARGO_BIN_EXE_contactctl");

/// One of the servers.
struct Member {
    args: Vec<String>,
    listen: String,
    control: String,
    http: String,
    data: PathBuf,
    /// What it lies in.
    _folder: Option<TempDir>,
    program: Program,
}

fn spawn(args: &[String]) -> Program {
    Program::spawn("contact-server", Command::new(PROGRAM).args(args)).unwrap()
}

impl Member {
    fn start(nats: &str, cluster: &str) -> Member {
        Member::start_with(nats, cluster, &[])
    }

    fn start_with(nats: &str, cluster: &str, more: &[&str]) -> Member {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_owned();
        Member { _folder: Some(folder), ..Member::start_in(&data, nats, cluster, more) }
    }

    fn start_in(data: &Path, nats: &str, cluster: &str, more: &[&str]) -> Member {
        let [listen, control, http] = [(); 3].map(|()| free_port());
        let folder = data.to_str().unwrap();
        let args = [
            ["--listen", &listen],
            ["--control", &control],
            ["--data", folder],
            ["--http", &http],
            ["--nats", nats],
            ["--cluster", cluster],
            ["--advertise", &listen],
            // As the campaign of one server has it.
            ["--ack-timeout", "1s"],
            ["--max-attempts", "1000"],
            ["--max-deliveries", "4"],
        ];
        let args: Vec<String> = args.concat().into_iter().chain(more.iter().copied()).map(str::to_owned).collect();
        let program = spawn(&args);
        Member { args, listen, control, http, data: data.to_owned(), _folder: None, program }
    }

    /// Waits until /readyz says this.
    #[track_caller]
    fn until_ready_says(&self, what: &str) {
        self.until("/readyz", |answer| answer.contains(what));
    }

    /// Waits until it answers so to a request over HTTP.
    #[track_caller]
    fn until(&self, path: &str, is_so: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = self.asked(path);
            if is_so(&answer) {
                return;
            }
            assert!(Instant::now() < deadline, "it says {answer}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What contactctl prints, with and without an error.
    fn ctl(&self, args: &[&str]) -> String {
        let output = Command::new(CONTACTCTL).args(["--server", &self.control]).args(args).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }

    /// Waits until `contactctl doctor` says this.
    #[track_caller]
    fn until_doctor_says(&self, what: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let said = self.ctl(&["doctor"]);
            if said.contains(what) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: it says {said}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn leads(&self) -> bool {
        self.asked("/readyz").contains("200 OK")
    }

    /// What it answers over HTTP, as far as it does at once.
    fn asked(&self, path: &str) -> String {
        let mut answer = String::new();
        let patience = Duration::from_millis(200);
        if let Ok(mut stream) = TcpStream::connect_timeout(&self.http.parse().unwrap(), patience) {
            let _ = stream.set_read_timeout(Some(patience));
            let _ = write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            let _ = stream.read_to_string(&mut answer);
        }
        answer
    }
}

/// The place of the one that leads; `but` is not looked at.
#[track_caller]
fn leader(members: &[Member], but: Option<usize>) -> usize {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(at) = (0..members.len()).find(|at| Some(*at) != but && members[*at].leads()) {
            return at;
        }
        assert!(Instant::now() < deadline, "nobody leads");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What happens to whom.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// Of the server that leads: `kill -9`.
    Leader,
    /// It stops for longer than its term lasts, and goes on.
    Zombie,
    /// Of the other server: `kill -9`.
    Follower,
    /// Of a NATS server: `kill -9`, and started again.
    Nats,
    /// The server that leads is told to end.
    Stop,
}

const DEATHS: [Death; 5] = [Death::Leader, Death::Nats, Death::Zombie, Death::Follower, Death::Stop];

#[test]
fn nothing_accepted_is_missing_and_nothing_settled_comes_again_whoever_dies() {
    let Some(nats) = Nats::three() else { return };
    let deaths = env::var("CONTACT_DEATHS").map_or(5, |text| text.parse().expect("CONTACT_DEATHS is a number"));
    let config = nats.config();
    // The stream is there when the first one needs it.
    drop(nats::open(&config));
    let cluster = config.cluster.to_string();
    let mut members = [Member::start(&nats.urls(), &cluster), Member::start(&nats.urls(), &cluster)];
    let all = |of: fn(&Member) -> &str| members.each_ref().map(of).join(",");
    let witness = Arc::new(Witness::new(&all(|it| &it.listen), &all(|it| &it.control), deaths));
    let leads = leader(&members, None);
    members[leads].until_ready_says("200 OK");
    members[1 - leads].until_ready_says("following (lag 0)");
    let submitting = submitters::start(&witness);
    let working = workers::start(&witness);
    let mut failovers = Vec::new();
    for n in 0..deaths {
        let death = DEATHS[n as usize % DEATHS.len()];
        witness.until_settled(witness.settled() + 100);
        thread::sleep(Duration::from_millis(rand::random_range(0..500)));
        let leads = leader(&members, None);
        let began = Instant::now();
        match death {
            Death::Leader | Death::Follower => {
                let who = if matches!(death, Death::Leader) { leads } else { 1 - leads };
                members[who].program.kill();
                leader(&members, Some(who).filter(|_| matches!(death, Death::Leader)));
                members[who].program = spawn(&members[who].args);
            }
            Death::Zombie => {
                members[leads].program.signal("STOP");
                leader(&members, Some(leads));
                members[leads].program.signal("CONT");
            }
            Death::Nats => {
                nats.order("kill", n as usize % 3);
                witness.until_settled(witness.settled() + 20);
                nats.order("start", n as usize % 3);
            }
            Death::Stop => {
                members[leads].program.signal("TERM");
                leader(&members, Some(leads));
            }
        }
        if matches!(death, Death::Leader | Death::Zombie | Death::Stop) {
            witness.life_is_over();
        }
        witness.until_settled(witness.settled() + 1);
        let took = began.elapsed();
        println!("{death:?}: {:.2} s until a worker is through with a task", took.as_secs_f64());
        if let Death::Leader = death {
            failovers.push(took);
        }
        if let Death::Stop = death {
            members[leads].program.ended();
            members[leads].program = spawn(&members[leads].args);
        }
    }
    witness.until_settled(witness.settled() + 100);
    witness.stop_submitting();
    submitting.into_iter().for_each(|submitter| submitter.join().unwrap());

    let ledger = Ledger::drained(&witness);
    witness.stop_working();
    members.iter_mut().for_each(|member| member.program.kill());
    working.into_iter().for_each(workers::Worker::join);
    ledger.assert_consistent(&witness);
    failovers.sort_unstable();
    println!("{deaths} deaths, {ledger}; after kill -9 of the leader: {failovers:.2?}");

    let views = members.each_ref().map(|member| {
        let mut standby = Standby::open(nats::open(&config), &member.data).unwrap();
        // Nobody writes any more, and three servers say what there is within this.
        while standby.follow(Duration::from_secs(3)).unwrap().messages > 0 {}
        let place = standby.place();
        drop(standby);
        (place, rows(&member.data))
    });
    assert_eq!(views[0].0, views[1].0);
    assert!(views[0].1 == views[1].1, "the views are the same row for row");
}

#[test]
fn a_server_of_several_shows_the_others_and_the_log_and_says_what_is_not_well() {
    let Some(nats) = Nats::three() else { return };
    let config = nats.config();
    drop(nats::open(&config));
    let cluster = config.cluster.to_string();
    let monitors = ["--nats-monitor", nats.monitors()];
    let mut members = [(); 2].map(|()| Member::start_with(&nats.urls(), &cluster, &monitors));
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
    members[1 - leads].program = spawn(&members[1 - leads].args);
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
    let first = Member::start_in(disk.path(), &nats.urls(), &cluster, &[]);
    first.until_ready_says("200 OK");
    let other = Member::start(&nats.urls(), &cluster);
    other.until_ready_says("following (lag 0)");
    assert!(first.ctl(&["submit", "one"]).contains('1'));
    let filler = disk.fill(0);
    other.until_ready_says("200 OK");
    assert!(other.ctl(&["submit", "two"]).contains('2'), "what the first one accepted is there");
    other.until("/api/servers", |answer| answer.contains("bytes are left for"));
    other.until_doctor_says("no other server of the cluster could go on, since it cannot write its own disk");
    // With room again it follows, and leads when it has to.
    std::fs::remove_file(filler).unwrap();
    other.until_doctor_says("another server is ready to lead");
    drop(other);
    first.until_ready_says("200 OK");
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
        let of = ["--nats", &nats.urls(), "--cluster", &cluster, "--advertise", "importer:1", "--import", folder];
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
    let member = Member::start(&nats.urls(), &cluster);
    member.until_ready_says("200 OK");
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
    let config = nats.config();
    drop(nats::open(&config));
    let cluster = config.cluster.to_string();
    let mut members = [Member::start(&nats.urls(), &cluster), Member::start(&nats.urls(), &cluster)];
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

#[track_caller]
fn submit(member: &Member, text: &str, to: &str) -> u64 {
    let tasks = vec![control::NewTask { task: text.into(), to: to.into(), ..Default::default() }];
    let request = control::SubmitRequest { tasks, ..Default::default() };
    let client = ControlClient::new(channel(&member.control));
    block_on(client.submit(&request, options(&[])).unwrap()).unwrap().first_id
}

/// What came of a task: each time the attempt, the outcome, and whether it was late.
fn results(member: &Member, id: u64) -> Vec<(u32, EnumOrUnknown<control::Outcome>, bool)> {
    let client = ControlClient::new(channel(&member.control));
    let asked = control::DescribeTaskRequest { id, ..Default::default() };
    let ledger = block_on(client.describe_task(&asked, options(&[])).unwrap()).unwrap();
    ledger.results.iter().map(|result| (result.attempt, result.outcome, result.late)).collect()
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
    members[1].until_ready_says("200 OK");
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
    members[1].until_ready_says("200 OK");
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
    exchange(&member.http, format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())
}

fn post(member: &Member, headers: &str, body: &str) -> Reply {
    let length = body.len();
    let head = format!("POST /api/tasks HTTP/1.0\r\n{headers}Content-Length: {length}\r\n\r\n");
    exchange(&member.http, (head + body).as_bytes())
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
    members[0].program = spawn(&members[0].args);
    members[0].until_ready_says("following (lag 0)");
    let accepted = post(&members[0], "Host: localhost\r\nX-Contact: 1\r\n", r#"{"text": "after"}"#);
    assert_eq!(accepted.json()["id"], 2);
}
