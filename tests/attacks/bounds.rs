//! Many results in a message, large windows, many groups, many results after the outcome.

use std::thread;
use std::time::Duration;

use contact::codec::{MOST_RESULTS, MOST_TASKS};
use contact::wire::contact::{Outcome, Result as Told};
use contact::wire::control::ListGroupsRequest;
use contact::wire::control::finding::Code as Found;
use futures::executor::block_on;
use grpcio::{RpcStatus, RpcStatusCode as Code};

use super::bystander::{Bystander, GROUP};
use crate::common::server::Server;
use crate::rig::{Operator, Rig, done, patient, to};
use crate::server::memory::Memory;
use crate::server::raw;

const MB: usize = 1 << 20;

/// A message with so many rows that have nothing in them.
fn empty_rows(field: u8, count: usize) -> Vec<u8> {
    raw::field(field, &[]).repeat(count)
}

#[track_caller]
fn too_many<T: std::fmt::Debug>(told: Result<T, RpcStatus>, limit: usize) {
    let status = told.unwrap_err();
    assert_eq!(status.code(), Code::RESOURCE_EXHAUSTED, "{status:?}");
    assert!(status.message().contains(&limit.to_string()), "{status:?}");
    assert!(status.message().contains("several messages"), "it says what to do: {status:?}");
}

/// Does it on connections of its own, all at the same time, and says what the server took for it in memory. Others go on meanwhile.
fn grown<T: Send + 'static>(
    of: &str,
    server: &mut Server,
    connections: usize,
    attack: impl Fn(&str, &str) -> T + Clone + Send + 'static,
) -> (usize, Vec<T>) {
    let others = Bystander::of(server);
    let before = Memory::of(server.program()).now;
    let (listen, control) = (server.listen.clone(), server.control.clone());
    let attackers = (0..connections).map(|_| {
        let (attack, listen, control) = (attack.clone(), listen.clone(), control.clone());
        thread::spawn(move || attack(&listen, &control))
    });
    let told = attackers.collect::<Vec<_>>().into_iter().map(|attacker| attacker.join().unwrap()).collect();
    // All of it goes through one queue, with what others say behind it, and is slow to decode in a build for tests.
    others.waited(of, Duration::from_secs(5));
    let most = Memory::of(server.program()).most;
    println!("{of}, {connections} connections: {before} bytes grew to {most}");
    (most.saturating_sub(before), told)
}

#[test]
fn messages_of_very_many_results_are_refused_before_they_are_decoded() {
    let mut server = Server::start(&[]);
    // 150,000 results, and as many within one another as there are bytes for.
    for message in [empty_rows(5, 150_000), raw::field(5, &empty_rows(5, 300_000))] {
        let attack = move |listen: &str, _: &str| {
            let end = raw::client_streaming(listen, "/Contact/tellResult", &vec![message.clone(); 8]);
            too_many(end, MOST_RESULTS);
        };
        let (grown, _) = grown("messages of many results", &mut server, 16, attack);
        assert!(grown < 96 * MB, "{grown} bytes");
    }
    let operator = Operator::of(&server.control);
    let taken = || operator.results_now().iter().filter(|result| result.group != GROUP).count();
    assert_eq!(taken(), 0, "nothing of them was taken");
    let end = raw::client_streaming(&server.listen, "/Contact/tellResult", &[empty_rows(5, MOST_RESULTS)]);
    assert_eq!(end.unwrap(), b"", "as many as are taken");
    assert_eq!(taken(), MOST_RESULTS);
}

#[test]
fn results_without_a_text_wait_in_a_bounded_memory_whoever_sends_them() {
    let mut server = Server::start(&[]);
    let attack = |listen: &str, _: &str| {
        let messages = vec![empty_rows(5, MOST_RESULTS); 64];
        raw::client_streaming(listen, "/Contact/tellResult", &messages).unwrap();
    };
    let (grown, _) = grown("results without a text", &mut server, 8, attack);
    assert!(grown < 160 * MB, "{grown} bytes for two million results");
}

#[test]
fn requests_of_very_many_tasks_are_refused_before_they_are_decoded() {
    let mut server = Server::start(&[]);
    let attack = |_: &str, control: &str| {
        // Four million tasks.
        let request = empty_rows(1, 4 << 20);
        too_many(raw::unary(control, "/contact.control.v1.Control/Submit", &request), MOST_TASKS);
        let (answers, end) = raw::duplex(control, "/contact.control.v1.Control/SubmitStream", &[request]);
        assert!(answers.is_empty());
        too_many(end, MOST_TASKS);
    };
    let (grown, _) = grown("requests of many tasks", &mut server, 4, attack);
    assert!(grown < 200 * MB, "{grown} bytes");
    assert!(Operator::of(&server.control).tasks_now().iter().all(|task| task.to == GROUP));
}

#[test]
fn fields_that_nobody_knows_take_no_memory() {
    let mut server = Server::start(&[]);
    // As many fields as there is room for, each with a number of its own.
    let mut message = Vec::new();
    let mut fields = protobuf::CodedOutputStream::vec(&mut message);
    (1_000..260_000).for_each(|number| fields.write_uint32(number, 0).unwrap());
    fields.flush().unwrap();
    drop(fields);
    let attack = move |listen: &str, control: &str| {
        raw::client_streaming(listen, "/Contact/tellResult", &vec![message.clone(); 4]).unwrap();
        raw::unary(control, "/contact.control.v1.Control/ListGroups", &message).unwrap();
    };
    let (grown, _) = grown("fields that nobody knows", &mut server, 8, attack);
    assert!(grown < 96 * MB, "{grown} bytes");
}

#[test]
fn a_giant_window_is_cut_and_leaves_tasks_to_the_others() {
    let rig = Rig::start();
    let mut greedy = rig.member("g", "greedy").saying("contact-window", &u32::MAX.to_string()).tasks();
    rig.operator.connected(1);
    rig.operator.submit(&["work"; 1500]);
    let told = greedy.introduction();
    assert!(told.contains(&("contact-window".to_owned(), "1024".to_owned())), "{told:?}");
    rig.operator.clients_until(|clients| clients[0].in_flight == 1024);
    let mut modest = rig.member("g", "modest").saying("contact-window", "1000").tasks();
    assert_eq!(modest.take(476).len(), 476, "the rest is for others");
    let told = modest.introduction();
    assert!(!told.iter().any(|(key, _)| key == "contact-window"), "it has what it asked for: {told:?}");
    let clients = rig.operator.connected(2);
    assert_eq!((clients[0].window, clients[0].in_flight), (1024, 1024));
}

#[test]
fn late_results_do_not_swell_the_ledger_of_a_task() {
    let rig = Rig::start();
    let client = rig.member("g", "w");
    let mut tasks = client.tasks();
    rig.operator.submit(&["work"]);
    client.tell([done(&tasks.next())]);
    let text = "x".repeat(MB - 1);
    let late = |_| Told { id: 1, attempt: 7, ret: text.clone(), outcome: Outcome::FAILED.into(), ..Told::default() };
    client.tell((0..255).map(late));
    let ledger = rig.operator.ledger_until(1, |ledger| ledger.settled == 1);
    assert_eq!((ledger.results.len(), ledger.results_left_out), (65, 0), "the operator sees all of it");
    assert!(ledger.results[1..].iter().all(|result| result.late && result.ret.len() <= 4096));
}

#[test]
fn new_names_make_no_more_groups_than_may_be() {
    let rig = Rig::with(|config| config.broker.max_groups = 50);
    let known = rig.member("known", "w");
    let mut tasks = known.tasks();
    rig.operator.connected(1);
    let streams: Vec<_> = (0..49).map(|n| rig.named(&format!("g{n}")).tasks()).collect();
    rig.operator.connected(50);
    for n in 0..100 {
        let end = rig.member(&format!("new-{n}"), &format!("new-{n}")).tasks().end();
        assert_eq!(end.code(), Code::RESOURCE_EXHAUSTED, "{end:?}");
        assert!(end.message().contains("--max-groups"), "it says what to do: {end:?}");
    }
    let listed = rig.operator.control.list_groups(&ListGroupsRequest::new(), patient()).unwrap();
    let listed = block_on(listed).unwrap();
    assert_eq!(listed.groups.len(), 50);
    assert!(listed.findings.iter().any(|finding| finding.code == Found::GROUPS.into()), "{listed}");
    rig.operator.submit_all(vec![to("known", "work")]);
    assert_eq!(tasks.next().task, "work", "those that are there go on");
    drop(streams);
}
