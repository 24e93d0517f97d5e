//! What is refused, and with which words.

use std::process::Command;

use super::api::rig;
use super::client::{Reply, exchange, get, post, post_with};
use crate::common::program::Program;
use crate::rig::Rig;

#[track_caller]
fn refused(reply: &Reply, status: u16, words: &[&str]) {
    assert_eq!(reply.status, status, "{reply:?}");
    assert_eq!(reply.header("content-type"), "application/json");
    for word in words {
        assert!(reply.error().contains(word), "{word:?} is not in {reply:?}");
    }
}

#[test]
fn what_changes_something_needs_our_header() {
    let rig = rig();
    let task = r#"{"text": "one"}"#;
    for headers in ["", "X-Contact: 0\r\n", "Content-Type: application/json\r\n", "Origin: http://localhost\r\n"] {
        for path in [
            "/api/tasks",
            "/api/tasks/1/cancel",
            "/api/tasks/1/retry",
            "/api/tasks/1/drop",
            "/api/groups/pause",
            "/api/groups/remove",
        ] {
            refused(&post_with(&rig, path, headers, task), 403, &["x-contact: 1"]);
        }
    }
    // What a browser would ask before it sends that for the page of somebody else.
    let preflight = "OPTIONS /api/tasks HTTP/1.0\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\
                     Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-contact\r\n\r\n";
    let reply = exchange(rig.http(), preflight.as_bytes());
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (403, ""));
    assert!(rig.operator.tasks_now().is_empty());
}

#[test]
fn only_names_that_the_server_knows_are_answered() {
    let rig = Rig::with(|config| {
        config.http = Some("127.0.0.1:0".into());
        config.http_hosts = vec!["contact.example".into()];
    });
    let ask = |host: &str, path: &str| exchange(rig.http(), format!("GET {path} HTTP/1.0\r\n{host}\r\n").as_bytes());
    for path in ["/", "/api/state", "/metrics", "/api/events", "/nothing"] {
        refused(&ask("Host: evil.example\r\n", path), 403, &["evil.example", "--http-host"]);
        refused(&ask("", path), 403, &["--http-host"]);
    }
    for host in ["127.0.0.1", "localhost:50080", "[::1]:1", "contact.example", "CONTACT.example:443"] {
        assert_eq!(ask(&format!("Host: {host}\r\n"), "/healthz").status, 200, "{host}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let rig = Rig::with(|config| {
        config.http = Some("127.0.0.1:0".into());
        config.max_task = 1000;
    });
    rig.operator.submit(&["one"]);
    let submit = |body: &str| post(&rig, "/api/tasks", body);
    refused(&submit("{"), 400, &["the JSON that was expected"]);
    refused(&submit(r#"{"text": "one", "too": "workers"}"#), 400, &["too", "expected"]);
    refused(&submit(r#"{"to": "workers"}"#), 400, &["text"]);
    refused(&submit(r#"{"text": "one", "priority": "urgent"}"#), 400, &["urgent", "high", "normal", "low"]);
    refused(&submit(r#"{"text": ""}"#), 400, &["the task is empty"]);
    refused(&submit(r#"{"text": "one", "to": "a\u0000b"}"#), 400, &["the group in `to`", "control characters"]);
    refused(&submit(r#"{"text": "one", "to": "workers "}"#), 400, &["the group in `to`", "with a blank"]);
    let long = format!(r#"{{"text": "{}"}}"#, "x".repeat(1001));
    let reply = submit(&long);
    refused(&reply, 400, &["1001 bytes", "the limit is 1000", "--max-task"]);
    assert!(!reply.error().contains("of the request"), "there is only one: {reply:?}");
    refused(&submit(&format!(r#"{{"text": "{}"}}"#, "x".repeat(100_000))), 413, &["67536 bytes", "--max-task"]);
    assert_eq!(rig.operator.tasks_now().len(), 1, "nothing of it was accepted");

    refused(&get(&rig, "/api/tasks/one"), 400, &["a number"]);
    refused(&get(&rig, "/api/tasks/99"), 404, &["no task 99", "the newest is 1"]);
    refused(&post(&rig, "/api/tasks/99/cancel", "{}"), 404, &["no task 99"]);
    refused(&post(&rig, "/api/tasks/99/retry", "{}"), 404, &["no task 99"]);
    refused(&post(&rig, "/api/tasks/1/cancel", r#"{"group": "a"}"#), 400, &["group"]);
    refused(&post(&rig, "/api/tasks/1/drop", r#"{"group": "workers"}"#), 404, &["no dead letter of group workers"]);
    refused(&post(&rig, "/api/groups/pause", r#"{"group": "nobody", "paused": false}"#), 404, &["no group nobody"]);
    refused(&post(&rig, "/api/groups/pause", r#"{"group": "nobody"}"#), 400, &["paused"]);
    refused(&post(&rig, "/api/groups/retry", r#"{"group": "nobody", "retry": null}"#), 404, &["no group nobody"]);
    refused(&post(&rig, "/api/groups/retry", r#"{"group": "nobody"}"#), 400, &["retry"]);
    refused(
        &post(&rig, "/api/groups/retry", r#"{"group": "a", "retry": "max=0"}"#),
        400,
        &["max=0", "max=5,first=10s"],
    );
    refused(&get(&rig, "/api/tasks?limit=many"), 400, &["limit"]);
    refused(&get(&rig, "/api/tasks?after=1"), 400, &["after"]);
    refused(&get(&rig, "/api/nothing"), 404, &["/api/nothing", "the page is at /"]);
    refused(&post(&rig, "/api/state", "{}"), 405, &["/api/state", "POST"]);

    assert_eq!(submit(r#"{"text": "a", "key": "k"}"#).json(), serde_json::json!({"id": 2, "known": false}));
    assert_eq!(submit(r#"{"text": "a", "key": "k"}"#).json(), serde_json::json!({"id": 2, "known": true}));
    refused(&submit(r#"{"text": "b", "key": "k"}"#), 409, &["the key k was used for task 2", "cancel task 2"]);
}

#[test]
fn every_answer_says_what_a_browser_may_do_with_it() {
    let rig = rig();
    for path in ["/", "/api/state", "/api/nothing", "/metrics"] {
        let reply = get(&rig, path);
        assert!(reply.header("content-security-policy").contains("frame-ancestors 'none'"), "{reply:?}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert_eq!(reply.header("access-control-allow-origin"), "");
    }
    assert_eq!(get(&rig, "/api/state").header("cache-control"), "no-store");
}

#[test]
fn off_means_that_nobody_listens() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_contact-server"));
    command.args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--http", "off", "--data"]).arg(folder.path());
    let server = Program::spawn("contact-server", &mut command).unwrap();
    let line = server.out.wait_for("its addresses", |line| line.starts_with("listening on"));
    assert!(!line.contains("http"), "{line}");
    let folder = format!("/proc/{}/task", server.id());
    let threads = std::fs::read_dir(folder).into_iter().flatten().map(|thread| thread.unwrap().path().join("comm"));
    let names: Vec<String> = threads.map(|comm| std::fs::read_to_string(comm).unwrap()).collect();
    assert!(!names.iter().any(|name| name == "ops\n"), "{names:?}");
}
