//! `contactctl`, the real program, against a control service that is in the test.

mod backup;
mod data;
mod doctor;
mod fake;
mod limits;
mod list;
mod manage;
mod manual;
mod run;
mod schedule;
mod server;
mod submit;
#[cfg(target_os = "linux")]
pub mod top;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fake::Fake;

/// What no step of a test takes, on however slow a machine.
const DEADLINE: Duration = Duration::from_secs(30);

fn contactctl(address: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    command.args(args).env("CONTACT_CONTROL", address).env_remove("RUST_LOG").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a run came to: exit code, standard output, standard error.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn run(fake: &Fake, args: &[&str]) -> Ran {
    contactctl(&fake.address, args).output().unwrap().into()
}

/// Standard output of a run that must succeed without a word on standard error.
#[track_caller]
fn ok(fake: &Fake, args: &[&str]) -> String {
    let ran = run(fake, args);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{}", ran.out);
    ran.out
}

/// Runs with `input` as standard input.
fn run_with(fake: &Fake, args: &[&str], input: &[u8]) -> Ran {
    let mut child = contactctl(&fake.address, args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // A program that gives up early closes its input: no concern of this.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap().into()
    })
}

/// A run that is watched while it goes on, and does not outlive its test.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn new(mut command: Command) -> Running {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Running { child, lines }
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("a line of output")
    }

    fn signal(&self, signal: &str) {
        crate::common::program::send(signal, &self.child);
    }

    /// Waits for the end: the exit code, and what is left of the output.
    fn end(mut self) -> Ran {
        let mut err = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let code = self.child.wait().unwrap().code();
        Ran { code, out: self.lines.iter().map(|line| line + "\n").collect(), err }
    }
}

/// Waits until `done` says so.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn where_no_server_is_the_command_fails_at_once_and_says_what_to_do() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let began = Instant::now();
    let says =
        format!("no server answers at {address}; is contact-server running? its --control address goes to --server");
    for (args, err) in [
        (&["tasks"][..], format!("contactctl: {says}\n")),
        (&["submit", "x"], format!("contactctl: {says}\n")),
        (&["top", "--once"], format!("contactctl: {says}\n")),
        (&["clients", "--json"], format!("{{\"error\":\"{says}\"}}\n")),
    ] {
        let ran = Ran::from(contactctl(&address, args).output().unwrap());
        assert_eq!(ran, Ran { code: Some(3), out: String::new(), err });
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn where_something_listens_that_never_answers_the_command_gives_up_in_seconds() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    let ran = Ran::from(contactctl(&mute.local_addr().unwrap().to_string(), &["tasks"]).output().unwrap());
    assert_eq!(ran.code, Some(3));
    assert!(ran.err.contains("no server answers at"), "{}", ran.err);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn a_server_that_cannot_do_it_is_told_from_one_that_is_not_there() {
    let fake = Fake::stranger();
    for args in [
        &["tasks"][..],
        &["results", "--follow"],
        &["statuses"],
        &["dead", "--retry"],
        &["submit", "x"],
        &["clients"],
        &["groups"],
        &["server"],
        &["top", "--once"],
        &["task", "1"],
        &["cancel", "1"],
        &["retry", "1"],
        &["pause", "g"],
        &["group", "rm", "g"],
    ] {
        let ran = run(&fake, args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{args:?}");
        let says = format!("contactctl: the server at {} cannot do this (", fake.address);
        assert!(ran.err.starts_with(&says) && ran.err.lines().count() == 1, "{args:?}: {}", ran.err);
    }
}

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    let fake = Fake::new();
    for args in [
        &["frobnicate"][..],
        &["submit"],
        &["tasks", "--all", "--state", "waiting"],
        &["submit", "--key", "k", "a", "b"],
    ] {
        let ran = run(&fake, args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{args:?}");
    }
    assert!(ok(&fake, &["--help"]).contains("  3    no server answers"));
    let without = Ran::from(contactctl(&fake.address, &[]).output().unwrap());
    assert_eq!((without.code, without.out), (Some(2), ok(&fake, &["-h"])), "without a command it is the same help");
}

#[test]
fn a_typo_is_answered_with_what_was_meant() {
    let fake = Fake::new();
    for (typed, meant) in
        [(&["gruops"][..], "groups"), (&["tasks", "--folow"], "--follow"), (&["submit", "--tll"], "--ttl")]
    {
        let ran = run(&fake, typed);
        assert!(ran.code == Some(2) && ran.err.contains(&format!("'{meant}'")), "{typed:?}: {}", ran.err);
    }
}

#[test]
fn the_server_option_goes_before_the_environment() {
    let fake = Fake::new();
    let out = contactctl("127.0.0.1:1", &["pause", "g", "--server", &fake.address]).output().unwrap();
    assert_eq!(Ran::from(out).out, "group g is paused\n");
}
