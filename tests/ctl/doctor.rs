//! `contactctl doctor`.

use std::time::Duration;

use contact::wire::control as pb;
use contact::wire::control::finding::{Code, Severity};
use serde_json::Value;

use super::fake::{Fake, found};
use super::{Ran, Running, contactctl, eventually, ok, run};
use crate::common::server::Server;
use crate::network::proxy::Proxy;

/// The findings of a run with --json, by their check: status and remedy.
fn findings(out: &str) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = |line| serde_json::from_str::<Value>(line).unwrap();
    out.lines().map(object).map(|f| (text(&f["check"]), text(&f["status"]), text(&f["remedy"]))).collect()
}

#[track_caller]
fn finding(out: &str, check: &str) -> (String, String) {
    let found = findings(out).into_iter().find(|(name, ..)| name == check);
    let (_, status, remedy) = found.unwrap_or_else(|| panic!("no {check} in:\n{out}"));
    (status, remedy)
}

fn on(server: &Server, args: &[&str]) -> Ran {
    contactctl(&server.control, &[&["doctor"], args].concat()).output().unwrap().into()
}

#[test]
fn a_server_that_is_well_passes_every_check_and_is_left_as_it_was() {
    // Where every client that gets tasks leaves a group, and what it does not settle.
    let server = Server::start(&["--anonymous-group", "all"]);
    server.submit(&["a", "b"]);
    let ran = on(&server, &["--json", "--strict", "--keepalive", "1s"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{}", ran.out);
    let all = findings(&ran.out);
    assert!(all.iter().all(|(_, status, remedy)| status == "ok" && remedy.is_empty()), "{all:?}");
    let checks: Vec<_> = all.iter().map(|(check, ..)| check.as_str()).collect();
    let expected = [
        "control",
        "version",
        "clock",
        "clients",
        "keepalive",
        "store",
        "disk",
        "open files",
        "steps",
        "certificate",
        "connected",
        "never came",
        "unserved",
        "paused",
        "drained",
        "hanging",
        "stuck",
        "lagging",
        "expired",
        "dead letters",
        "unmatched",
        "contested",
        "missing",
        "schedules",
        "groups",
        "retention",
        "leases",
    ];
    assert_eq!(checks, expected);
    for log in ["clients", "groups", "results", "statuses"] {
        assert_eq!(server.ctl(&[log]), Vec::<Value>::new(), "it left something in {log}");
    }
}

#[test]
fn for_people_each_check_is_one_line_that_says_what_helps() {
    let server = Server::start(&[]);
    server.submit(&["a"]);
    let ran = on(&server, &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.lines().all(|line| line.starts_with("ok       ")), "{}", ran.out);
    let says = format!("ok       clients       getTask answers at {}", server.listen);
    assert!(ran.out.lines().any(|line| line == says), "{}", ran.out);
    let ran = on(&server, &["--listen", "127.0.0.1:1"]);
    let says = "failed   clients       no connection to 127.0.0.1:1; open that port on the way, or say where clients \
                connect with --listen";
    assert!(ran.out.lines().any(|line| line == says), "{}", ran.out);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "contactctl: 1 check failed\n"));
}

#[test]
fn what_is_wrong_is_found_and_warnings_fail_only_if_told_to() {
    let fake = Fake::new();
    let server = Server::start(&[]);
    let args = |more: &[&'static str]| [&["doctor", "--json", "--listen", &server.listen], more].concat().join(" ");
    let doctor = |more: &[&'static str]| run(&fake, &args(more).split(' ').collect::<Vec<_>>());
    fake.state().server.version = env!("CARGO_PKG_VERSION").into();
    fake.state().server.now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let dead = pb::Finding { count: 3, ..found(Code::DEAD_LETTERS, "mail") };
    fake.state().findings = vec![found(Code::PAUSED, "mail"), dead];
    let ran = doctor(&[]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{}", ran.out);
    assert_eq!(finding(&ran.out, "paused"), ("warning".into(), "contactctl resume mail".into()));
    assert_eq!(finding(&ran.out, "dead letters").0, "warning");
    let ran = doctor(&["--strict"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "{\"error\":\"2 warnings, and --strict\"}\n"));

    let timed_out = |seq| pb::TaskResult { seq, outcome: pb::Outcome::TIMED_OUT.into(), ..Default::default() };
    fake.state().results = (1..=3).map(timed_out).collect();
    fake.state().server.ack_timeout_ms = 30_000;
    let refuses = pb::Finding { severity: Severity::FAILURE.into(), ..found(Code::NOT_READY, "") };
    fake.state().findings = vec![refuses];
    fake.state().server.version = "0.0.1".into();
    fake.state().server.now = 1;
    let ran = doctor(&[]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "{\"error\":\"2 checks failed\"}\n"));
    for (check, status) in [("version", "warning"), ("clock", "failed"), ("store", "failed"), ("leases", "warning")] {
        assert_eq!(finding(&ran.out, check).0, status, "{}", ran.out);
    }
    assert!(finding(&ran.out, "leases").1.starts_with("a higher --ack-timeout of the server (now 30s), or "));
}

#[test]
fn an_address_where_nobody_or_somebody_else_listens_is_told_apart() {
    let fake = Fake::new();
    let ran = run(&fake, &["doctor", "--json", "--listen", &fake.address]);
    assert_eq!(finding(&ran.out, "clients").0, "failed");
    assert!(finding(&ran.out, "clients").1.contains("not its --control address"), "{}", ran.out);
    let ran = run(&Fake::stranger(), &["doctor", "--json"]);
    assert_eq!((ran.code, findings(&ran.out).len()), (Some(1), 1));
    assert_eq!(finding(&ran.out, "control").1, "name the server's --control address with --server");
    let ran = Ran::from(contactctl("127.0.0.1:1", &["doctor", "--json"]).output().unwrap());
    assert_eq!((ran.code, findings(&ran.out).len()), (Some(1), 1));
    assert!(finding(&ran.out, "control").1.starts_with("start contact-server"), "{}", ran.out);
}

#[test]
fn a_server_that_clients_elsewhere_cannot_reach_is_told_how_to_listen() {
    let fake = Fake::new();
    fake.state().server.listen = "127.0.0.1:50051".into();
    // Of no machine, by RFC 5737; whether it is refused or goes unanswered is the network's affair.
    let ran = run(&fake, &["doctor", "--json", "--listen", "192.0.2.1:50051"]);
    let helps = "the server listens on 127.0.0.1 alone: start it with --listen 0.0.0.0:50051";
    assert_eq!(finding(&ran.out, "clients"), ("failed".into(), helps.into()));
}

#[test]
fn a_path_that_cuts_idle_connections_is_found() {
    let server = Server::start(&[]);
    let proxy = Proxy::to(&server.listen);
    let args = ["doctor", "--json", "--listen", &proxy.address, "--keepalive", "1h"];
    let running = Running::new(contactctl(&server.control, &args));
    while !running.line().contains("\"check\":\"clients\"") {}
    // The call that is held begins behind that line: a reset may come too early for it.
    let mut held = String::new();
    eventually("the end of what is held", || {
        proxy.reset();
        running.lines.recv_timeout(Duration::from_millis(20)).is_ok_and(|line| {
            held = line;
            true
        })
    });
    let (status, remedy) = finding(&held, "keepalive");
    assert!(status == "failed" && remedy.contains("--heartbeat"), "{held}");
    let ran = running.end();
    assert_eq!(ran.code, Some(1));
    assert_eq!(finding(&ran.out, "leases").0, "ok", "and the others are checked all the same");
}

#[test]
fn nothing_is_asked_of_a_server_that_is_only_looked_at() {
    let fake = Fake::new();
    ok(&fake, &["top", "--once"]);
    let mut asked = fake.state().asked.clone();
    asked.sort();
    assert_eq!(asked, ["groups", "results after 0 limit 0 latest 20 follow false", "server counted false"]);
}
