//! The article's own Python programs, for real, against ours.

pub mod python;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use contact::client::Tls;

use crate::common::authority::Authority;
use crate::common::program::Program;
use crate::common::server::Server;
use python::{Python, Spelling};

#[test]
fn the_articles_client_gets_tasks_in_order_and_its_acknowledgements_and_statuses_are_recorded() {
    a_conversation_with_the_articles_client(Spelling::Ret);
}

#[test]
fn so_it_does_with_the_other_spelling_of_result() {
    a_conversation_with_the_articles_client(Spelling::Result);
}

fn a_conversation_with_the_articles_client(spelling: Spelling) {
    let Some(python) = Python::ready() else { return };
    let server = Server::start(&[]);
    let mut tasks = some_tasks("before", 12);
    server.submit(&tasks);
    let client = python.client(spelling, &server.listen);
    assert_eq!(client.out.at_least(12, "tasks", received), tasks);

    for task in some_tasks("after", 5) {
        server.submit(&[&task]);
        tasks.push(task);
        assert_eq!(client.out.at_least(tasks.len(), "tasks", received), tasks);
    }
    assert_eq!(text_of(&server.ctl(&["tasks", "--all"]), "task"), tasks);
    let results = server.at_least(tasks.len(), "results");
    assert_eq!(results.len(), tasks.len());
    assert_acknowledged_in_order(&results, &tasks);

    let answers = client.out.at_least(15, "answers to statuses", answered);
    let statuses = text_of(&server.at_least(15, "statuses"), "msg");
    assert_eq!(answers[..15], statuses[..15]);
    assert!(statuses.iter().all(|status| is_number(status, "数据:", 1..=20)), "{statuses:?}");
    assert_eq!(client.out.so_far().iter().find(|line| line.contains("err")), None);
}

/// Three lines of it are others: docs/security.md has them.
#[test]
fn the_articles_client_works_with_a_certificate() {
    let Some(python) = Python::ready() else { return };
    let authority = Authority::new();
    let args = authority.args();
    // With a certificate it has an id, and so a place of its own in the log.
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--groups-from", "first"]).collect();
    let server = Server::start(&args);
    let tasks = some_tasks("before", 12);
    server.submit(&tasks);
    let client = python.client_with(&authority.client("contact://fleet/agent/article"), &server.listen);
    assert_eq!(client.out.at_least(12, "tasks", received), tasks);
    assert_acknowledged_in_order(&server.at_least(tasks.len(), "results"), &tasks);
    client.out.at_least(15, "answers to statuses", answered);
    let stranger = Authority::new();
    let tls = Tls { ca: authority.ca(), ..stranger.client("contact://fleet/agent/article") };
    let client = python.client_with(&tls, &server.listen);
    client.out.wait_for("its word that it is not let in", |line| line.contains("err"));
    assert_eq!(client.out.so_far().iter().filter_map(|line| received(line)).count(), 0);
}

/// Its proto says `ret` where its code says `result`: its status thread ends with an error, and tasks flow on.
#[test]
fn the_articles_client_as_printed_takes_the_demos_tasks() {
    let Some(python) = Python::ready() else { return };
    let server = Server::start(&["--demo", "--demo-every", "1h"]);
    let client = python.client(Spelling::AsPrinted, &server.listen);
    let mut tasks = client.out.at_least(10, "tasks", received);
    assert!(tasks.iter().all(|task| is_number(task, "任务:", 100..=200)), "{tasks:?}");
    client.out.wait_for("the mistake", |line| line.starts_with("err in send_status:") && line.contains("result"));

    server.submit(&["one more"]);
    tasks.push("one more".into());
    assert_eq!(client.out.at_least(11, "tasks", received), tasks);
    assert_eq!(text_of(&server.ctl(&["tasks", "--all"]), "task"), tasks);
    assert_acknowledged_in_order(&server.at_least(11, "results"), &tasks);
}

#[test]
fn the_conversation_goes_on_after_the_server_was_killed_and_started_again() {
    let Some(python) = Python::ready() else { return };
    let mut server = Server::start(&[]);
    let mut tasks = some_tasks("before", 5);
    server.submit(&tasks);
    let client = python.client(Spelling::Ret, &server.listen);
    client.out.at_least(5, "tasks", received);
    server.at_least(5, "results");
    client.out.at_least(15, "answers to statuses", answered);
    let answers_before = client.out.so_far().iter().filter_map(|line| answered(line)).count();

    server.kill();
    client.out.wait_for("its word that the server has gone", |line| line.starts_with("server connected out"));
    server.restart();
    // It does not say who it is, so it gets everything again, and then what is new.
    client.out.at_least(10, "tasks", received);
    let more = some_tasks("after", 3);
    assert_eq!(server.submit(&more), 6, "ids go on where they were");
    tasks.extend(more);
    let all: Vec<&String> = tasks[..5].iter().chain(&tasks).collect();
    assert_eq!(client.out.at_least(13, "tasks", received), all.iter().map(ToString::to_string).collect::<Vec<_>>());
    client.out.at_least(answers_before + 15, "answers to statuses", answered);

    let results = server.at_least(13, "results");
    assert_eq!(task_ids(&results), (1..=5).chain(1..=8).collect::<Vec<u64>>());
    assert_eq!(text_of(&results, "ret"), all.iter().map(|task| acknowledgement(task)).collect::<Vec<_>>());
}

#[test]
fn two_clients_get_every_task() {
    let Some(python) = Python::ready() else { return };
    let server = Server::start(&[]);
    let mut tasks = some_tasks("before", 10);
    server.submit(&tasks);
    let clients = [Spelling::Ret, Spelling::Result].map(|spelling| python.client(spelling, &server.listen));
    for client in &clients {
        assert_eq!(client.out.at_least(10, "tasks", received), tasks);
    }
    tasks.extend(some_tasks("after", 10));
    server.submit(&tasks[10..]);
    for client in &clients {
        assert_eq!(client.out.at_least(20, "tasks", received), tasks);
    }
    assert_each_acknowledged(&server.at_least(40, "results"), &tasks, 2);
}

/// The article's pool of ten threads stops at ten streams.
#[test]
fn fifty_clients_get_every_task() {
    const CLIENTS: usize = 50;
    let Some(python) = Python::ready() else { return };
    let server = Server::start(&[]);
    let mut tasks = some_tasks("before", 10);
    server.submit(&tasks);
    let clients = python.clients(CLIENTS, Spelling::Ret, &server.listen);
    assert_each_received(&clients, &tasks, CLIENTS);
    assert_eq!(server.ctl(&["clients"]).len(), CLIENTS);

    tasks.extend(some_tasks("after", 10));
    server.submit(&tasks[10..]);
    assert_each_received(&clients, &tasks, CLIENTS);
    assert_each_acknowledged(&server.at_least(CLIENTS * 20, "results"), &tasks, CLIENTS);
    clients.out.at_least(CLIENTS * 15, "answers to statuses", |line| answered(line.split_once(' ')?.1));
    server.at_least(CLIENTS * 15, "statuses");
}

#[test]
fn contact_client_speaks_with_the_articles_server() {
    a_conversation_with_the_articles_server(Spelling::Ret);
}

#[test]
fn contact_client_speaks_with_the_articles_server_in_the_other_spelling_of_result() {
    a_conversation_with_the_articles_server(Spelling::Result);
}

fn a_conversation_with_the_articles_server(spelling: Spelling) {
    let Some(python) = Python::ready() else { return };
    let (server, address) = python.server(spelling, "127.0.0.1:0");
    let mut client = contact_client(&["--server", &address, "--demo", "--status-every", "1s", "--concurrency", "1"]);
    let sent = server.out.at_least(20, "tasks it sent", sent);
    assert_eq!(server.out.at_least(20, "acknowledgements", acknowledged)[..20], sent[..20]);
    assert_eq!(client.out.at_least(20, "tasks", received)[..20], sent[..20]);
    let answers = client.out.at_least(30, "answers to two rounds of statuses", answered);
    assert!(answers.iter().all(|answer| is_number(answer, "数据:", 1..=20)), "{answers:?}");

    client.signal("INT");
    assert_eq!(client.ended().code(), Some(0));
}

#[test]
fn contact_client_goes_on_when_the_articles_server_comes_back() {
    let Some(python) = Python::ready() else { return };
    let (mut server, address) = python.server(Spelling::Ret, "127.0.0.1:0");
    let client = contact_client(&["--server", &address, "--demo", "--status-every", "1s"]);
    server.out.at_least(10, "acknowledgements", acknowledged);
    client.out.at_least(15, "answers to statuses", answered);
    server.kill();
    let (server, _) = python.server(Spelling::Ret, &address);
    let mut told = server.out.at_least(10, "acknowledgements", acknowledged);
    let mut sent = server.out.at_least(10, "tasks it sent", sent);
    told.truncate(10);
    sent.truncate(10);
    told.sort();
    sent.sort();
    assert_eq!(told, sent);
    client.out.at_least(30, "answers to statuses", answered);
}

#[track_caller]
fn contact_client(args: &[&str]) -> Program {
    Program::spawn("contact-client", Command::new(env!("CARGO_BIN_EXE_contact-client")).args(args)).unwrap()
}

/// What the article's server prints for a task it has sent.
fn sent(line: &str) -> Option<String> {
    line.strip_prefix("服务端发送给了客户端任务:")?.strip_suffix("##########").map(str::to_owned)
}

/// What it prints for the acknowledgement of a task.
fn acknowledged(line: &str) -> Option<String> {
    line.strip_prefix("我已经知道客户端接收到我发过去的任务:客户端接收到任务:").map(str::to_owned)
}

/// Some tasks that are told apart by their texts.
fn some_tasks(name: &str, count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("{name} {n}: \"引号\" & 🚚 -- $HOME \\n")).collect()
}

/// What the article's client prints for a task.
fn received(line: &str) -> Option<String> {
    line.strip_prefix("客户端已接收到服务端任务:").map(str::to_owned)
}

/// What it prints for the answer to a status.
fn answered(line: &str) -> Option<String> {
    line.strip_prefix("服务端接收到消息:").map(str::to_owned)
}

/// What it says to the server for a task.
fn acknowledgement(task: &str) -> String {
    format!("客户端接收到任务:{task}")
}

fn is_number(text: &str, prefix: &str, range: std::ops::RangeInclusive<u32>) -> bool {
    text.strip_prefix(prefix).and_then(|number| number.parse().ok()).is_some_and(|number| range.contains(&number))
}

fn text_of(entries: &[Value], field: &str) -> Vec<String> {
    entries
        .iter()
        .map(|entry| entry[field].as_str().unwrap_or_else(|| panic!("{field} of {entry}")).to_owned())
        .collect()
}

fn task_ids(results: &[Value]) -> Vec<u64> {
    results.iter().map(|result| result["task_id"].as_u64().unwrap()).collect()
}

#[track_caller]
fn assert_each_received(clients: &Program, tasks: &[String], count: usize) {
    let lines = clients.out.at_least(tasks.len() * count, "tasks", |line| {
        let (client, said) = line.split_once(' ')?;
        Some((client.parse::<usize>().ok()?, received(said)?))
    });
    let mut each: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (client, task) in lines {
        each.entry(client).or_default().push(task);
    }
    assert_eq!(each.len(), count);
    for (client, got) in each {
        assert_eq!(got, tasks, "client {client}");
    }
}

#[track_caller]
fn assert_each_acknowledged(results: &[Value], tasks: &[String], clients: usize) {
    let mut each: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for result in results {
        each.entry(result["client"].as_str().unwrap()).or_default().push(result.clone());
    }
    assert_eq!(each.len(), clients);
    for results in each.values() {
        assert_acknowledged_in_order(results, tasks);
    }
}

/// One DONE for each task, by its id, with the client's words for that very task.
#[track_caller]
fn assert_acknowledged_in_order(results: &[Value], tasks: &[String]) {
    assert_eq!(task_ids(results), (1..=tasks.len() as u64).collect::<Vec<_>>());
    assert_eq!(text_of(results, "ret"), tasks.iter().map(|task| acknowledgement(task)).collect::<Vec<_>>());
    assert!(results.iter().all(|result| result["outcome"] == "DONE"), "{results:?}");
}
