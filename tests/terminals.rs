//! What the programs print of others' texts: nothing that could steer a terminal, hide in it, or turn it around.

use std::collections::HashMap;
use std::process::Command;

use contact::terminal::is_hidden;
use contact::wire::contact::{Outcome, Result as Told};
use contact::wire::control::NewTask;

use crate::common::server::Server;
use crate::http::client::exchange;
use crate::rig::{Client, Operator, ack, told};

/// Clears the screen, sets the title, a C1 that begins a sequence, goes back in its line, turns the text, has no width.
const HOSTILE: &str = "a\u{1b}[2Jb\u{1b}]0;owned\u{7}c\u{9b}31md\re\u{202e}f\u{200b}g";

#[test]
fn nor_can_a_command_line_that_is_wrong() {
    for (program, args) in [
        (env!("CARGO_BIN_EXE_contactctl"), &["submit", "x", "--to"][..]),
        (env!("CARGO_BIN_EXE_contactctl"), &["task"]),
        (env!("CARGO_BIN_EXE_contact-client"), &["--window"]),
        (env!("CARGO_BIN_EXE_contact-client"), &["--config"]),
        (env!("CARGO_BIN_EXE_contact-server"), &["--ack-timeout"]),
    ] {
        let ran = Command::new(program).args(args).arg(HOSTILE).output().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!((ran.status.code(), said.contains(r"\u{9b}31m")), (Some(2), true), "{said:?}");
        assert!(!said.replace('\n', "").contains(is_hidden), "{said:?}");
    }
}

#[test]
fn a_task_cannot_steer_the_terminal_of_a_client() {
    let server = Server::start(&[]);
    server.submit(&[HOSTILE]);
    let plain = server.client(&["--log", "debug"]);
    let line = plain.out.wait_for("the task", |line| line.starts_with("客户端已接收到服务端任务:"));
    let expected = r"a\u{1b}[2Jb\u{1b}]0;owned\u{7}c\u{9b}31md\re\u{202e}f\u{200b}g";
    assert_eq!(line, format!("客户端已接收到服务端任务:{expected}"));

    let json = server.client(&["--json"]);
    let line = json.out.wait_for("the task's event", |line| line.contains("owned"));
    assert!(!line.contains(is_hidden), "{line:?}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["task"], HOSTILE);

    // A name that a client gives itself is logged by the server, an error of a command by the client.
    let exec = server.client(&["--group", "g", "--exec", "cat >&2; exit 1"]);
    let line = exec.err.wait_for("the failure", |line| line.contains("owned"));
    assert!(!line.contains(is_hidden) && line.contains(r"\u{9b}31m"), "{line:?}");

    let tasks = server.ctl_running(&["tasks"]).out.wait_for("the task", |line| line.contains("owned"));
    assert!(!tasks.contains(is_hidden), "{tasks:?}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&tasks).unwrap()["task"], HOSTILE);
}

/// In each text that others send, and in all that shows any of it: the log, what contactctl prints for people and for programs, and
/// what the server says over HTTP that is no JSON.
#[test]
fn nothing_that_others_write_steers_the_terminal_of_an_operator() {
    let mut server = Server::start(&["--log", "debug", "--max-attempts", "1"]);
    let operator = Operator::of(&server.control);
    let member = |group: &str| Client::of(&server.listen, &[("contact-client", "w"), ("contact-group", group)]);
    // Keys may have what hides or turns, but no controls.
    let key: String = HOSTILE.chars().filter(|c| !c.is_control()).collect();
    // As do the values of headers.
    let headers: HashMap<String, String> = [("k".into(), key.clone())].into();
    let task = |to: &str| NewTask {
        to: to.into(),
        task: HOSTILE.into(),
        key: key.clone(),
        headers: headers.clone(),
        data: HOSTILE.into(),
        ..NewTask::default()
    };
    // Each outcome, and what is late; the texts of a task that is out and of one that waits.
    let groups =
        [("done", Outcome::DONE), ("failed", Outcome::FAILED), ("again", Outcome::RETRY), ("busy", Outcome::WORKING)];
    let streams: Vec<_> = groups
        .into_iter()
        .map(|(group, outcome)| {
            let (client, key) = (member(group), format!("{key}{group}"));
            let mut tasks = client.tasks();
            operator.submit_all(vec![NewTask { key, ..task(group) }]);
            let given = tasks.next();
            let said = Told { headers: headers.clone(), data: HOSTILE.into(), ..told(&given, outcome, HOSTILE) };
            client.tell([said.clone(), said]);
            (client, tasks)
        })
        .collect();
    operator.submit_all(vec![task("nobody")]);
    let anonymous = Client::of(&server.listen, &[]);
    anonymous.tell([ack(HOSTILE)]);
    let mut statuses = anonymous.statuses();
    assert!(statuses.say(HOSTILE));
    statuses.answer().unwrap();
    server.ctl(&["drain", "w", "--note", "owned"]);
    // What is refused repeats what is wrong.
    let other = NewTask { task: "another text".into(), ..task("nobody") };
    let refused = operator.try_submit(vec![other]).unwrap_err();
    assert!(refused.message().contains("owned"), "{refused:?}");

    let ctl = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
        let output = command.args(args).args(["--server", &server.control]).output().unwrap();
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat()
    };
    let (mut shown, header) = (Vec::new(), format!("{HOSTILE}={HOSTILE}"));
    for (args, shows_it) in [
        (&["tasks", "--all"][..], true),
        (&["results", "--all"], true),
        (&["statuses", "--all"], true),
        (&["task", "1"], true),
        (&["task", "4"], true),
        (&["dead"], true),
        (&["clients"], false),
        (&["groups"], false),
        (&["server"], false),
        (&["doctor"], false),
        (&["top", "--once"], false),
        (&["task", HOSTILE], false),
        (&["pause", HOSTILE], false),
        (&["drain", HOSTILE], false),
        (&["cancel", HOSTILE], false),
        (&["submit", "--key", &key, "--to", "nobody", "yet another"], true),
        (&["submit", "--to", HOSTILE, "a task"], false),
        (&["submit", "--header", &header, "a task"], false),
        (&["group", "retry", HOSTILE, HOSTILE], false),
        (&["group", "rm", HOSTILE], false),
        (&["token", "revoke", HOSTILE], false),
        (&["identity", "revoke", HOSTILE], false),
        (&["invite", "--group", HOSTILE], false),
    ] {
        for json in [false, true] {
            let args = [args, if json { &["--json"] } else { &[] }].concat();
            shown.push((format!("contactctl {args:?}"), shows_it, ctl(&args)));
        }
    }
    for path in ["/metrics", "/healthz", "/readyz", "/nothing%1b%C2%9B"] {
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        shown.push((path.to_owned(), false, exchange(&server.http, request.as_bytes()).body));
    }
    drop(streams);
    server.program().signal("TERM");
    assert!(server.program().ended().success());
    shown.push(("the log".into(), false, server.program().err.so_far().join("\n")));
    for (what, shows_it, said) in shown {
        assert!(!said.replace('\n', "").contains(is_hidden), "{what}: {said:?}");
        assert!(said.contains("owned") || !shows_it, "{what} does not show it: {said}");
    }
}
