//! `contactctl run` against the real server, with real clients.

use std::process::{Command, Output};

use crate::common::program::Program;
use crate::common::server::Server;

fn client(server: &Server, id: &str, role: &str, exec: &str) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contact-client"));
    command.args(["--server", &server.listen, "--id", id, "--label", &format!("role={role}")]);
    command.args(["--exec", exec]);
    Program::spawn(id, &mut command).unwrap()
}

fn ctl(server: &Server, args: &[&str]) -> (Option<i32>, Vec<String>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    command.args(args).args(["--server", &server.control]).env("CONTACT_DATA", server.data());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let mut lines: Vec<_> = String::from_utf8(stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort_unstable();
    (status.code(), lines, String::from_utf8(stderr).unwrap())
}

fn clients(server: &Server, count: usize) {
    let begun = std::time::Instant::now();
    while server.ctl(&["clients"]).len() != count {
        assert!(begun.elapsed() < crate::common::DEADLINE);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn each_of_ten_machines_is_a_line_and_those_that_fail_are_stopped_or_away_are_said_to_be() {
    let server = Server::start(&["--ack-timeout", "60s"]);
    let exec = r#"read -r task; echo "up: $task"; echo second"#;
    let mut web: Vec<Program> = (0..10).map(|n| client(&server, &format!("web-{n}"), "web", exec)).collect();
    let _db = client(&server, "db-0", "db", exec);
    clients(&server, 11);
    let (code, lines, err) = ctl(&server, &["run", "--select", "role=web", "uptime"]);
    let all: Vec<_> = (0..10).map(|n| format!("web-{n}: up: uptime")).collect();
    assert_eq!((code, lines), (Some(0), all), "{err}");
    assert!(err.contains("on 10 groups\n") && err.contains("completed: 10 done"), "{err}");

    // Equal outputs, folded; all lines of one.
    let (_, lines, _) = ctl(&server, &["run", "--select", "role=web", "--fold", "x"]);
    let names: Vec<_> = (0..10).map(|n| format!("web-{n}")).collect();
    assert_eq!(lines, [format!("{} (10): up: x", names.join(", "))]);
    let (_, lines, _) = ctl(&server, &["run", "--to", "web-1", "--full", "x"]);
    assert_eq!(lines, ["web-1: second", "web-1: up: x"]);

    // One is stopped, one fails, one is away.
    web[0].signal("STOP");
    web.pop();
    clients(&server, 10);
    drop(web.remove(1));
    clients(&server, 9);
    let failing = client(&server, "web-1", "web", "echo 'no such file' >&2; exit 1");
    clients(&server, 10);
    let (code, lines, err) = ctl(&server, &["run", "--select", "role=web", "--timeout", "3s", "uptime"]);
    assert_eq!((code, lines.len()), (Some(124), 10), "{lines:?} {err}");
    assert_eq!(lines[0], "web-0: no answer (sent)");
    assert!(lines[1].starts_with("web-1: failed: "), "{lines:?}");
    assert_eq!((lines[2].as_str(), lines[9].as_str()), ("web-2: up: uptime", "web-9: no answer (offline)"));
    assert!(err.contains("7 done") && err.contains("1 failed") && err.contains("contactctl run watch"), "{err}");
    // The same, where the run itself ends: one failed.
    let (code, _, err) = ctl(&server, &["run", "--select", "role=web", "--deadline", "3s", "uptime"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("expired: 2 expired, 1 failed, 7 done") && err.contains("retry-failed"), "{err}");
    let runs = server.ctl(&["run", "list"]);
    assert_eq!((runs[0]["phase"].as_str(), runs[1]["phase"].as_str()), (Some("expired"), Some("going")));
    // Those that did not come to it are done again.
    web[0].signal("CONT");
    drop(failing);
    let _back = [client(&server, "web-1", "web", exec), client(&server, "web-9", "web", exec)];
    let first = runs[1]["run"].to_string();
    let (code, lines, err) = ctl(&server, &["run", "watch", &first, "--timeout", "30s"]);
    assert_eq!((code, lines.len()), (Some(1), 10), "{lines:?} {err}");
    let (code, lines, err) = ctl(&server, &["run", "retry-failed", &first]);
    assert_eq!((code, lines), (Some(0), vec!["web-1: up: uptime".to_owned()]), "{err}");
    let shown = server.ctl(&["run", "show", &first]);
    assert_eq!(
        (shown[1]["group"].as_str(), shown[1]["state"].as_str(), shown.len()),
        (Some("web-1"), Some("failed"), 2)
    );
}

#[test]
fn a_run_that_is_left_goes_on_and_is_found_again_and_cancelled() {
    let server = Server::start(&[]);
    let _slow = client(&server, "slow", "web", "read -r task; exec sleep 600");
    clients(&server, 1);
    let mut watching = server.ctl_running(&["run", "--to", "slow", "x"]);
    let begun = std::time::Instant::now();
    let number = loop {
        if let Some(run) = server.ctl(&["run", "list"]).first().filter(|run| run["counts"]["begun"] == 1) {
            break run["run"].to_string();
        }
        assert!(begun.elapsed() < crate::common::DEADLINE);
    };
    watching.signal("INT");
    assert_eq!(watching.ended().code(), Some(130));
    assert_eq!(server.ctl(&["run", "list"])[0]["phase"], "going");
    let (code, lines, err) = ctl(&server, &["run", "cancel", &number]);
    assert_eq!(code, Some(0), "{lines:?} {err}");
    let (code, _, err) = ctl(&server, &["run", "watch", &number]);
    assert_eq!(code, Some(1));
    assert!(err.contains("is cancelled: 1 cancelled"), "{err}");
    let (code, _, err) = ctl(&server, &["run", "pause", &number]);
    assert_eq!(code, Some(4));
    assert!(err.contains("is cancelled: it cannot be paused"), "{err}");
    let (code, _, err) = ctl(&server, &["run", "x"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("--select") && err.contains("--to"), "{err}");
}

#[test]
fn a_single_task_is_submitted_and_waited_for() {
    let server = Server::start(&[]);
    let _echo = client(&server, "echo", "web", "read -r task; echo $task; test $task = good");
    clients(&server, 1);
    let (code, lines, err) = ctl(&server, &["submit", "--to", "echo", "--wait", "good"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(lines.contains(&"echo: good".to_owned()), "{lines:?}");
    let (code, lines, err) = ctl(&server, &["submit", "--to", "echo", "--max-attempts", "1", "--wait", "bad"]);
    assert_eq!(code, Some(1), "{lines:?} {err}");
    assert!(lines.iter().any(|line| line.starts_with("echo: failed: ")), "{lines:?}");
    let (code, _, err) = ctl(&server, &["submit", "--to", "nobody", "--wait", "--timeout", "200ms", "x"]);
    assert_eq!(code, Some(124), "{err}");
    assert!(err.contains("had not settled"), "{err}");
}
