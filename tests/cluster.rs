//! Several real servers over real NATS servers, which are killed and stopped again and again under load; then what every party saw is held
//! against the ledger, and the views against each other.
//!
//! It needs the feature: `cargo test --features cluster --test system cluster::`. A few die; for a long run:
//! `CONTACT_DEATHS=100 cargo test --features cluster --test system cluster:: -- --nocapture`.

#[path = "nats/servers.rs"]
mod nats;
#[path = "replicated/rows.rs"]
mod rows;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
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
use tempfile::TempDir;

use crate::common::DEADLINE;
use crate::common::program::Program;
use crate::crash::ledger::Ledger;
use crate::crash::witness::Witness;
use crate::crash::{submitters, workers};
use nats::Nats;
use rows::rows;

const PROGRAM: &str = env!("CARGO_BIN_EXE_contact-server");

/// One of the servers.
struct Member {
    args: Vec<String>,
    listen: String,
    control: String,
    http: String,
    data: TempDir,
    program: Program,
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn spawn(args: &[String]) -> Program {
    Program::spawn("contact-server", Command::new(PROGRAM).args(args)).unwrap()
}

impl Member {
    fn start(nats: &str, cluster: &str) -> Member {
        let data = tempfile::tempdir().unwrap();
        let [listen, control, http] = [(); 3].map(|()| free_address());
        let folder = data.path().to_str().unwrap();
        let args = [
            ["--listen", &listen],
            ["--control", &control],
            ["--data", folder],
            ["--http", &http],
            ["--nats", nats],
            ["--cluster", cluster],
            ["--advertise", &listen],
            // As the campaign of one server has it; but a server dies more often here while it has tasks on their way to a client.
            ["--ack-timeout", "1s"],
            ["--max-attempts", "1000"],
            ["--max-deliveries", "12"],
        ];
        let args: Vec<String> = args.concat().into_iter().map(str::to_owned).collect();
        let program = spawn(&args);
        Member { args, listen, control, http, data, program }
    }

    /// Waits until /readyz says this.
    #[track_caller]
    fn until_ready_says(&self, what: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = self.asked("/readyz");
            if answer.contains(what) {
                return;
            }
            assert!(Instant::now() < deadline, "it says {answer}");
            thread::sleep(Duration::from_millis(20));
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
        let mut standby = Standby::open(nats::open(&config), member.data.path()).unwrap();
        // Nobody writes any more, and three servers say what there is within this.
        while standby.follow(Duration::from_secs(3)).unwrap().messages > 0 {}
        let place = standby.place();
        drop(standby);
        (place, rows(member.data.path()))
    });
    assert_eq!(views[0].0, views[1].0);
    assert!(views[0].1 == views[1].1, "the views are the same row for row");
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
    let client = ControlClient::new(channel(&members[1].control));
    let asked = control::DescribeTaskRequest { id: held, ..Default::default() };
    let ledger = block_on(client.describe_task(&asked, options(&[])).unwrap()).unwrap();
    let results: Vec<_> = ledger.results.iter().map(|result| (result.attempt, result.outcome, result.late)).collect();
    assert_eq!(results, [(1, control::Outcome::DONE.into(), false)]);
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
