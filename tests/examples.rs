//! What `examples/` shows, run as its users would, against the real server.

mod workers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::program::Program;
use crate::common::server::Server;
use crate::http::client::exchange;
use crate::python::Package;

/// Prints each request, and answers with the status that a file says.
const RECEIVER: &str = r#"
import http.server, sys
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        print(self.path, self.headers["idempotency-key"], self.headers["content-type"], body, flush=True)
        self.send_response(int(open(sys.argv[1]).read()))
        self.end_headers()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
"#;

/// Runs what follows it in a terminal.
const TERMINAL: &str = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]))";

/// Becomes what follows it, which heeds Ctrl-C: what is started in the background of a script does not.
const INTERRUPTIBLE: &str =
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])";

fn here(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file)
}

/// An example of Python with these arguments, and with this server.
fn command(python: &Package, server: &Server, name: &str, args: &[&str]) -> Command {
    let mut command = python.python();
    command.arg(here(name)).args(args).env("CONTACT_SERVER", &server.listen).env("CONTACT_CONTROL", &server.control);
    command
}

/// The same by a program of Python that runs it.
fn command_by(by: &str, python: &Package, server: &Server, name: &str, args: &[&str]) -> Command {
    let example = command(python, server, name, args);
    let mut command = python.python();
    command.args(["-c", by]).arg(example.get_program()).args(example.get_args());
    command.envs(example.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command
}

#[track_caller]
fn start(python: &Package, server: &Server, name: &str, args: &[&str]) -> Program {
    Program::spawn(name, &mut command(python, server, name, args)).unwrap()
}

/// What an example that ends well has printed.
#[track_caller]
fn printed(python: &Package, server: &Server, name: &str, args: &[&str]) -> Vec<String> {
    let mut program = start(python, server, name, args);
    let status = program.ended();
    assert!(status.success(), "{name} {args:?}: {status}");
    program.out.so_far()
}

/// Waits for an outcome in the log of results.
#[track_caller]
fn outcome(server: &Server, outcome: &str) -> Value {
    let results = server.ctl_running(&["results", "--all", "--follow"]);
    let line = results.out.wait_for(outcome, |line| line.contains(&format!("\"{outcome}\"")));
    serde_json::from_str(&line).unwrap()
}

#[test]
fn thumbnails_are_made_by_any_of_the_workers_and_what_is_no_picture_is_told() {
    let Some(python) = Package::ready() else { return };
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    for number in 0..4 {
        let pixels = [b"P6 400 200 255 ".as_slice(), &[number; 400 * 200 * 3]].concat();
        fs::write(folder.join(format!("{number}.ppm")), pixels).unwrap();
    }
    fs::write(folder.join("text.ppm"), "no picture").unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let paths = ["0.ppm", "1.ppm", "text.ppm", "2.ppm", "3.ppm"].map(path);
    let args: Vec<&str> = ["make"].into_iter().chain(paths.iter().map(String::as_str)).collect();

    // Nobody is there yet: the tasks wait.
    let mut make = start(python, &server, "thumbnails.py", &args);
    let _workers = [(); 2].map(|()| start(python, &server, "thumbnails.py", &["work"]));
    assert_eq!(make.ended().code(), Some(1));
    let said = make.out.so_far();
    let (why, made): (Vec<_>, Vec<_>) = said.into_iter().partition(|line| line.contains("text.ppm"));
    assert!(why.len() == 1 && why[0].starts_with("cannot identify image file"), "{why:?}");
    assert_eq!(made, ["0.thumb.png", "1.thumb.png", "2.thumb.png", "3.thumb.png"].map(path));
    for thumbnail in made {
        let header = fs::read(&thumbnail).unwrap();
        assert_eq!(header[..4], *b"\x89PNG");
        assert_eq!(header[16..24], [0, 0, 0, 128, 0, 0, 0, 64], "{thumbnail} is 128 by 64");
    }
}

#[test]
fn a_command_is_for_those_whose_labels_match_and_their_answers_are_shown_as_they_come() {
    let Some(python) = Package::ready() else { return };
    let server = Server::start(&[]);
    let gate = tempfile::tempdir().unwrap();
    let agents = [("web-1", "role=web"), ("web-2", "role=web,canary"), ("db-1", "role=db")].map(|(name, labels)| {
        let mut agent = command(python, &server, "fleet.py", &["agent", name, labels]);
        Program::spawn(name, agent.env("NAME", name).current_dir(&gate)).unwrap()
    });
    server.at_least_clients(agents.len());

    let slow = "test $NAME = web-1 || until test -e open; do sleep 0.05; done; echo up";
    for how in ["run", "broadcast"] {
        let mut going = start(python, &server, "fleet.py", &[how, "role=web", slow]);
        going.out.wait_for("the first answer", |line| line == "web-1: DONE: up");
        assert!(!going.out.so_far().iter().any(|line| line.starts_with("web-2")));
        fs::write(gate.path().join("open"), "").unwrap();
        assert!(going.ended().success());
        let end = if how == "run" { vec!["COMPLETED {'DONE': 2}"] } else { vec![] };
        assert_eq!(going.out.so_far(), [vec!["web-1: DONE: up", "web-2: DONE: up"], end].concat());
        fs::remove_file(gate.path().join("open")).unwrap();
    }
    let failed = printed(python, &server, "fleet.py", &["run", "canary", "echo broken; exit 3"]);
    assert_eq!(failed, ["web-2: FAILED: exit code 3: broken", "COMPLETED {'FAILED': 1}"]);
}

#[test]
fn a_webhook_is_sent_again_until_it_is_given_up_and_once_more_when_its_receiver_is_mended() {
    let Some(python) = Package::ready() else { return };
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let answer = folder.path().join("answer");
    let receiver = Program::spawn("receiver", python.python().args(["-c", RECEIVER]).arg(&answer)).unwrap();
    let port = receiver.out.wait_for("its port", |line| line.parse::<u16>().is_ok());
    let url = |path: &str| format!("http://127.0.0.1:{port}/{path}");
    let webhooks = |args: &[&str]| printed(python, &server, "webhooks.py", args);
    let requests = |path: &str| {
        let lines = receiver.out.so_far();
        lines.into_iter().filter(|line| line.starts_with(path)).collect::<Vec<_>>()
    };
    let _worker = start(python, &server, "webhooks.py", &["work"]);

    fs::write(&answer, "503").unwrap();
    assert_eq!(webhooks(&["send", &url("down"), r#"{"order": 17}"#]), ["1"]);
    assert_eq!(outcome(&server, "EXHAUSTED")["attempt"], 4);
    assert_eq!(requests("/down"), [r#"/down 1 application/json {"order": 17}"#; 4]);
    fs::write(&answer, "410").unwrap();
    assert_eq!(webhooks(&["send", &url("gone"), "{}"]), ["2"]);
    outcome(&server, "FAILED");
    assert_eq!(requests("/gone").len(), 1);

    let mut dead = webhooks(&["dead"]);
    dead.sort();
    let errors = ["HTTP Error 503: Service Unavailable", "HTTP Error 410: Gone"];
    assert_eq!(dead, [format!("1 {} {}", url("down"), errors[0]), format!("2 {} {}", url("gone"), errors[1])]);
    fs::write(&answer, "204").unwrap();
    let mut again = webhooks(&["again"]);
    again.sort();
    assert_eq!(again, ["1", "2"]);
    let done = server.done(2);
    assert!(done.iter().filter(|it| it["outcome"] == "DONE").all(|it| it["ret"] == "204 No Content"), "{done:?}");
    assert_eq!(webhooks(&["dead"]), Vec::<String>::new());
}

#[test]
fn a_bar_shows_how_far_a_task_is_and_ctrl_c_takes_the_task_back() {
    let Some(python) = Package::ready() else { return };
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().to_str().unwrap();
    fs::write(folder.path().join("a"), "a").unwrap();
    fs::write(folder.path().join("c"), "c").unwrap();
    // Whoever reads it waits for one who writes.
    let pipe = folder.path().join("b");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let write = || {
        let mut writer =
            Program::spawn("writer", Command::new("sh").args(["-c", "printf b > \"$0\""]).arg(&pipe)).unwrap();
        assert!(writer.ended().success());
    };
    let _worker = start(python, &server, "progress.py", &["work"]);

    let mut hash = start(python, &server, "progress.py", &["hash", files]);
    hash.out.wait_for("a third", |line| line.trim_end() == format!("[{:30}]  33% b", "#".repeat(10)));
    write();
    assert!(hash.ended().success());
    let said = hash.out.so_far();
    assert!(said.iter().any(|line| line.trim_end() == format!("[{}] 100% DONE", "#".repeat(30))), "{said:?}");
    // Of "abc".
    assert_eq!(said.last().unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");

    let mut hash = command_by(INTERRUPTIBLE, python, &server, "progress.py", &["hash", files]);
    let hash = Program::spawn("progress.py", &mut hash).unwrap();
    hash.out.wait_for("a third", |line| line.contains(" 33% b"));
    hash.signal("INT");
    hash.err.wait_for("its end", |line| line == "cancelled");
    outcome(&server, "CANCELLED");
    write();
    // The worker noticed: it did not go on to the third file.
    let late = outcome(&server, "RETRY");
    assert_eq!((&late["ret"], &late["late"]), (&Value::from("CANCELLED"), &Value::from(true)), "{late}");

    fs::remove_file(&pipe).unwrap();
    let mut terminal = command_by(TERMINAL, python, &server, "progress.py", &["hash", files]);
    let mut terminal = Program::spawn("terminal", &mut terminal).unwrap();
    assert!(terminal.ended().success());
    let said = terminal.out.so_far();
    let bars: Vec<&str> = said[0].split('\r').filter(|bar| !bar.is_empty()).collect();
    assert!(said[0].starts_with('\r') && bars.last().unwrap().trim_end().ends_with("] 100% DONE"), "{said:?}");
}

#[test]
fn a_request_over_http_is_answered_with_what_a_worker_made_of_it() {
    let Some(python) = Package::ready() else { return };
    let server = Server::start(&[]);
    let web = Program::spawn("web.py", command(python, &server, "web.py", &["serve"]).env("PORT", "0")).unwrap();
    let line = web.err.wait_for("its address", |line| line.contains("Uvicorn running on http://"));
    let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap();
    let ask = |method: &str, path: &str, body: &str| {
        let head = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        exchange(address, (head + body).as_bytes())
    };

    // There is no worker yet.
    let waits = ask("POST", "/upper?wait=0.1", "first");
    assert_eq!((waits.status, waits.header("location")), (202, "/tasks/1"));
    let _worker = start(python, &server, "web.py", &["work"]);
    let found = ask("GET", "/tasks/1?wait=60", "");
    assert_eq!((found.status, found.body.as_str()), (200, "FIRST"));
    let answered = ask("POST", "/upper?wait=60", "héllo");
    assert_eq!((answered.status, answered.body.as_str()), (200, "HÉLLO"));
    assert_eq!(ask("POST", "/upper", "").status, 400);
    assert_eq!(ask("GET", "/tasks/99", "").status, 404);
    drop(server);
    assert_eq!(ask("POST", "/upper", "x").status, 503);
}

#[test]
fn every_example_of_python_is_short_and_says_what_it_is() {
    for file in fs::read_dir(here("")).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "py") {
            let source = fs::read_to_string(&file).unwrap();
            assert!(source.lines().count() < 60, "{}", file.display());
            let said = source.strip_prefix("\"\"\"").and_then(|rest| rest.split_once("\"\"\"")).unwrap().0;
            assert_eq!(said.lines().count(), 3, "{}", file.display());
        }
    }
}
