//! A standard error that nobody reads, under the real programs.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::thread;

use crate::common::program::Program;
use crate::common::server::{CLIENT, Server};
use crate::http::client::exchange;
use crate::rig::{Client, Operator, done, to};
use tempfile::TempDir;

/// More than wait in the queue of the log.
const JOINS: usize = contact::log_queue::LINES + 200;

/// A pipe that is full.
struct Stalled {
    pipe: File,
    path: PathBuf,
    _folder: TempDir,
}

impl Stalled {
    fn new() -> Stalled {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        // For reading as well, so that it opens at once, and never breaks.
        let mut pipe = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        pipe.write_all(&vec![b'.'; 64 << 10]).unwrap();
        Stalled { pipe, path, _folder: folder }
    }

    /// A command whose standard error it is.
    fn under(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec "$0" "$@" 2>"$STALLED""#, program]).env("STALLED", &self.path);
        command
    }

    /// Reads it, to the text.
    #[track_caller]
    fn read_to(self, text: &str) -> String {
        let (send, all) = crossbeam_channel::bounded(1);
        let text = text.to_owned();
        let mut pipe = self.pipe;
        thread::spawn(move || {
            let (mut all, mut part) = (String::new(), [0; 4096]);
            while !all.contains(&text) {
                let count = pipe.read(&mut part).unwrap();
                all.push_str(&String::from_utf8_lossy(&part[..count]));
            }
            send.send(all)
        });
        all.recv_timeout(crate::common::DEADLINE).expect("the text did not come")
    }
}

fn end(program: &mut Program) -> ExitStatus {
    program.signal("TERM");
    program.ended()
}

#[test]
fn a_server_whose_log_nobody_reads_works_and_says_later_what_is_missing() {
    let stalled = Stalled::new();
    let server = Server::start_by(stalled.under(env!("CARGO_BIN_EXE_contact-server")), &[], None);
    let operator = Operator::of(&server.control);
    let nobody = Client::of(&server.listen, &[]);
    operator.submit(&["for each"]);
    for _ in 0..JOINS {
        assert_eq!(nobody.tasks().next().task, "for each");
    }
    operator.submit_all(vec![to("g", "for one")]);
    let worker = Client::of(&server.listen, &[("contact-group", "g"), ("contact-from", "new")]);
    let task = worker.tasks().next();
    worker.tell([done(&task)]);

    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(exchange(&server.http, request("/healthz").as_bytes()).status, 200);
    let metrics = exchange(&server.http, request("/metrics").as_bytes()).body;
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("contact_log_lines_dropped_total "));
    let dropped: f64 = dropped.expect("no such metric").parse().unwrap();
    assert!(dropped >= 100.0, "{dropped}");

    let log = stalled.read_to("lines of the log were dropped");
    let lines = log.lines().count();
    assert!(lines >= contact::log_queue::LINES, "what waited is there: {lines}");
}

#[test]
fn programs_whose_log_nobody_reads_end_when_they_are_told_to() {
    let stalled = Stalled::new();
    let mut server = Server::start_by(stalled.under(env!("CARGO_BIN_EXE_contact-server")), &[], None);
    let operator = Operator::of(&server.control);
    let ids = operator.submit_all((0..50).map(|n| to("g", &n.to_string())).collect());
    assert_eq!(ids, 1);
    let work = ["--group", "g", "--exec", "exit $(( $(cat) % 2 ))", "--retry-delay", "0s", "--exec-attempts", "2"];
    let mut client = server.client_by(stalled.under(CLIENT), &[&work[..], &["--log", "trace"]].concat());
    // 25 of them are tried twice.
    server.at_least(75, "results");
    assert!(end(&mut client).success());
    assert!(end(server.program()).success());
}
