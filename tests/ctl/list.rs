//! The logs.

use contact::wire::contact::Outcome;
use contact::wire::control as pb;
use futures::channel::mpsc;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::fake::Fake;
use super::{Ran, Running, contactctl, ok, run};
use crate::common::server::Server;
use crate::rig::{Client, told};

const AT: i64 = 1_777_536_000_123;

fn task(id: u64, text: &str) -> pb::Task {
    pb::Task { id, task: text.into(), accepted_at: AT, ..Default::default() }
}

fn page(tasks: &[pb::Task]) -> pb::TaskPage {
    pb::TaskPage { tasks: tasks.to_vec(), ..Default::default() }
}

#[test]
fn tasks_are_listed() {
    let fake = Fake::new();
    assert_eq!(run(&fake, &["tasks"]), Ran { code: Some(0), out: "".into(), err: "no tasks\n".into() });
    fake.state().tasks = vec![
        task(1, "任务:101"),
        pb::Task {
            to: "工人".into(),
            key: "k".into(),
            not_before: AT + 1000,
            expires_at: AT + 2000,
            max_attempts: 5,
            priority: pb::Priority::LOW.into(),
            ..task(2, "clear\u{1b}[2J")
        },
        task(3, "c"),
        task(4, "d"),
    ];
    assert_eq!(
        ok(&fake, &["tasks"]),
        "\
ID  ACCEPTED                  TO    TASK
 1  2026-04-30T08:00:00.123Z  -     任务:101
 2  2026-04-30T08:00:00.123Z  工人  clear\\u{1b}[2J
 3  2026-04-30T08:00:00.123Z  -     c
 4  2026-04-30T08:00:00.123Z  -     d
"
    );
    assert_eq!(
        ok(&fake, &["tasks", "--json", "--all", "--limit", "2"]),
        r#"{"id":1,"task":"任务:101","to":null,"accepted_at":"2026-04-30T08:00:00.123Z"}
{"id":2,"task":"clear\u001b[2J","to":"工人","accepted_at":"2026-04-30T08:00:00.123Z","key":"k","not_before":"2026-04-30T08:00:01.123Z","expires_at":"2026-04-30T08:00:02.123Z","max_attempts":5,"priority":"LOW"}
"#
    );
}

#[test]
fn an_older_server_is_not_asked_for_a_state_it_does_not_know() {
    let fake = Fake::new();
    fake.state().tasks = vec![task(1, "a")];
    let ran = run(&fake, &["tasks", "--state", "waiting"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{}", ran.err);
}

/// The ids in a list, or the tasks' in one of outcomes.
#[track_caller]
fn ids(server: &Server, args: &[&str]) -> Vec<u64> {
    let id = |row: &Value| row.get("id").or_else(|| row.get("task_id")).unwrap().as_u64().unwrap();
    server.ctl(args).iter().map(id).collect()
}

#[test]
fn tasks_and_results_are_narrowed_and_each_task_says_where_it_stands() {
    let server = Server::start(&["--ack-timeout", "1h"]);
    let workers = [("contact-group", "workers"), ("contact-client", "w1"), ("contact-window", "1")];
    let worker = Client::of(&server.listen, &workers);
    let mut tasks = worker.tasks();
    server.ctl(&["submit", "--to", "workers", "1 done", "2 dead", "3 held", "4 waits"]);
    server.ctl(&["submit", "--to", "others", "5 nobody"]);
    server.ctl(&["submit", "--to", "others", "--ttl", "1ms", "6 late"]);
    worker.tell([told(&tasks.next(), Outcome::DONE, "well done")]);
    worker.tell([told(&tasks.next(), Outcome::FAILED, "disk full")]);
    assert_eq!(tasks.next().id, 3);

    for (state, expected) in [
        ("waiting", &[4, 5][..]),
        ("in-flight", &[3]),
        ("settled", &[1, 6]),
        ("done", &[1]),
        ("dead", &[2]),
        ("expired", &[6]),
        ("cancelled", &[]),
    ] {
        assert_eq!(ids(&server, &["tasks", "--state", state]), expected, "{state}");
    }
    assert_eq!(ids(&server, &["tasks"]), [1, 2, 3, 4, 5, 6]);
    assert_eq!(ids(&server, &["tasks", "--limit", "2"]), [5, 6]);
    assert_eq!(ids(&server, &["tasks", "--to", "others"]), [5, 6]);
    assert_eq!(ids(&server, &["tasks", "--to", "others", "--state", "waiting"]), [5]);
    assert_eq!(ids(&server, &["tasks", "--text", "e"]), [1, 2, 3, 6]);
    assert_eq!(ids(&server, &["tasks", "--all", "--to", "others"]), [5, 6]);
    assert_eq!(ids(&server, &["tasks", "--after", "1", "--text", "e", "--limit", "2"]), [2, 3]);
    assert_eq!(ids(&server, &["tasks", "--follow", "--latest", "1", "--limit", "1"]), [6]);
    let first = &server.ctl(&["tasks", "--latest", "6"])[0];
    assert_eq!((&first["state"], &first["outcome"]), (&"settled".into(), &"DONE".into()));
    server.ctl(&["submit", "--to", "others", "7 taken back, and nobody came"]);
    server.ctl(&["cancel", "4", "7"]);
    assert_eq!(ids(&server, &["tasks", "--state", "cancelled"]), [4, 7]);
    assert_eq!(ids(&server, &["tasks", "--state", "expired"]), [6]);

    for (args, expected) in [
        (&["--to", "workers"][..], &[1, 2, 4][..]),
        (&["--to", "others"], &[]),
        (&["--state", "failed"], &[2]),
        (&["--outcome", "DONE"], &[1]),
        (&["--client", "w1"], &[1, 2]),
        (&["--task", "2"], &[2]),
        (&["--text", "full"], &[2]),
        (&["--client", "w1", "--latest", "1"], &[2]),
        (&["--client", "w1", "--all", "--limit", "1"], &[1]),
        (&["--task", "1", "--follow", "--limit", "1"], &[1]),
    ] {
        assert_eq!(ids(&server, &[&["results"], args].concat()), expected, "{args:?}");
    }
    let mut statuses = worker.statuses();
    for status in ["hot", "cold"] {
        statuses.say(status);
        statuses.answer().unwrap();
    }
    assert_eq!(server.ctl(&["statuses", "--client", "w1", "--text", "hot"]).len(), 1);
    assert_eq!(server.ctl(&["statuses", "--client", "w2"]).len(), 0);
    let mut table = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    let table = table.args(["tasks", "--server", &server.control]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    let states = table.lines().map(|line| line.split_whitespace().nth(3).unwrap()).collect::<Vec<_>>();
    assert_eq!(states, ["STATE", "done", "dead", "in", "cancelled", "waiting", "expired", "cancelled"], "{table}");
}

#[test]
fn results_are_listed() {
    let fake = Fake::new();
    fake.state().results = vec![
        pb::TaskResult {
            seq: 1,
            task_id: 7,
            client: "ipv4:10.0.0.1:5000".into(),
            attempt: 1,
            ret: "客户端接收到任务:任务:101".into(),
            at: AT,
            ..Default::default()
        },
        pb::TaskResult {
            seq: 2,
            task_id: 8,
            group: "g".into(),
            client: "w1".into(),
            attempt: 2,
            outcome: pb::Outcome::TIMED_OUT.into(),
            at: AT,
            late: true,
            ..Default::default()
        },
    ];
    assert_eq!(
        ok(&fake, &["results"]),
        "\
SEQ  AT                        TASK  GROUP  CLIENT              ATTEMPT  OUTCOME           RESULT
  1  2026-04-30T08:00:00.123Z     7  -      ipv4:10.0.0.1:5000        1  DONE              客户端接收到任务:任务:101
  2  2026-04-30T08:00:00.123Z     8  g      w1                        2  TIMED_OUT (late)
"
    );
    assert_eq!(
        ok(&fake, &["results", "--json"]),
        r#"{"seq":1,"task_id":7,"group":"","client":"ipv4:10.0.0.1:5000","attempt":1,"outcome":"DONE","ret":"客户端接收到任务:任务:101","at":"2026-04-30T08:00:00.123Z","late":false}
{"seq":2,"task_id":8,"group":"g","client":"w1","attempt":2,"outcome":"TIMED_OUT","ret":"","at":"2026-04-30T08:00:00.123Z","late":true}
"#
    );
}

#[test]
fn statuses_are_listed() {
    let fake = Fake::new();
    fake.state().statuses =
        vec![pb::Status { seq: 1, client: "w1".into(), msg: "数据:7".into(), at: AT, ..Default::default() }];
    assert_eq!(
        ok(&fake, &["statuses"]),
        "SEQ  AT                        CLIENT  STATUS\n  1  2026-04-30T08:00:00.123Z  w1      数据:7\n"
    );
    assert_eq!(
        ok(&fake, &["statuses", "--json"]),
        "{\"seq\":1,\"client\":\"w1\",\"msg\":\"数据:7\",\"at\":\"2026-04-30T08:00:00.123Z\"}\n"
    );
}

#[test]
fn the_latest_twenty_are_shown_unless_told_otherwise() {
    let fake = Fake::new();
    fake.state().tasks = (1..=50).map(|id| task(id, "x")).collect();
    let ids = |args: &[&str]| {
        let out = ok(&fake, &[&["tasks", "--json"], args].concat());
        let ids: Vec<_> = out
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_u64().unwrap())
            .collect();
        assert!(ids.is_sorted());
        (ids.len(), ids[0])
    };
    assert_eq!(ids(&[]), (20, 31));
    assert_eq!(ids(&["--latest", "3"]), (3, 48));
    assert_eq!(ids(&["--all"]), (50, 1));
    assert_eq!(ids(&["--after", "10"]), (40, 11));
    assert_eq!(ids(&["--after", "10", "--limit", "5"]), (5, 11));
}

#[test]
fn a_followed_list_goes_on_until_it_is_interrupted_and_that_is_success() {
    let fake = Fake::new();
    let (more, receiver) = mpsc::unbounded();
    fake.state().more = Some(receiver);
    fake.state().tasks = vec![task(1, "a")];
    let running = Running::new(contactctl(&fake.address, &["tasks", "--follow"]));
    assert_eq!(running.line(), "ID  ACCEPTED                  TO  TASK");
    assert_eq!(running.line(), " 1  2026-04-30T08:00:00.123Z  -   a");
    more.unbounded_send(page(&[task(2, "b")])).unwrap();
    assert_eq!(running.line(), " 2  2026-04-30T08:00:00.123Z  -   b");
    running.signal("INT");
    assert_eq!(running.end(), Ran { code: Some(0), out: "".into(), err: "".into() });
}

#[test]
fn a_followed_list_whose_server_goes_away_says_how_to_go_on() {
    let mut fake = Fake::new();
    let (more, receiver) = mpsc::unbounded();
    fake.state().more = Some(receiver);
    let running = Running::new(contactctl(&fake.address, &["tasks", "--follow", "--json"]));
    more.unbounded_send(page(&[task(41, "a"), task(42, "b")])).unwrap();
    running.line();
    running.line();
    fake.stop();
    let ran = running.end();
    assert_eq!(ran.code, Some(3));
    let said: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert!(said["error"].as_str().unwrap().ends_with("; to go on where it stopped: --after 42"), "{}", ran.err);
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let fake = Fake::new();
    // More than any pipe holds.
    fake.state().tasks = (1..=3000).map(|id| task(id, &"x".repeat(1000))).collect();
    for json in [&["tasks", "--all"][..], &["tasks", "--all", "--json"]] {
        let mut child = contactctl(&fake.address, json).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(ran, Ran { code: Some(0), out: "".into(), err: "".into() });
    }
}
