//! The commands of the real contact-client, when the client comes to its end, and as the first process of a container.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use data_encoding::BASE64;
use tempfile::TempDir;

use crate::common::program::Program;
use crate::common::server::{CLIENT, Server};
use crate::common::{DEADLINE, named_pipe, skipped};

/// A client whose command has begun: it says who it is, and goes on for ever with another process, deaf to what can be ignored.
struct Begun {
    _server: Server,
    client: Program,
    pids: [u32; 2],
    _folder: TempDir,
}

impl Begun {
    #[track_caller]
    fn new() -> Begun {
        let folder = tempfile::tempdir().unwrap();
        let pipe = named_pipe(folder.path());
        let server = Server::start(&[]);
        server.submit(&["for ever"]);
        let mut client = Command::new(CLIENT);
        client.env("PIPE", &pipe);
        let work = r#"trap '' HUP INT TERM; sleep 1000 & echo "$$ $!" >"$PIPE"; wait"#;
        let client = server.client_by(client, &["--id", "a", "--exec-env", "PIPE", "--exec", work]);
        // Waits for the one who writes.
        let said = fs::read_to_string(&pipe).unwrap();
        let pids: Vec<u32> = said.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        Begun { _server: server, client, pids: pids.try_into().unwrap(), _folder: folder }
    }

    #[track_caller]
    fn is_over(&self) {
        for pid in self.pids {
            until("a process of the command is gone", || {
                !Path::new(&format!("/proc/{pid}")).exists() || is_zombie(pid)
            });
        }
    }
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "took too long until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// State and parent of a process: proc_pid_stat(5).
fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn is_zombie(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state == "Z")
}

fn children(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.filter(|pid| stat(*pid).is_some_and(|(_, its)| its == parent)).collect()
}

#[test]
fn when_a_client_is_killed_its_commands_are_too() {
    let mut begun = Begun::new();
    begun.client.kill();
    begun.is_over();
}

#[test]
fn a_second_signal_kills_what_runs() {
    let mut begun = Begun::new();
    begun.client.signal("TERM");
    begun.client.err.wait_for("its word that it stops", |line| line.contains("stopping"));
    begun.client.signal("TERM");
    assert_eq!(begun.client.ended().code(), Some(130));
    begun.is_over();
}

#[test]
fn as_the_first_process_of_a_container_a_client_leaves_no_zombies() {
    const CONTAINER: [&str; 5] = ["--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if !Command::new("unshare").args(CONTAINER).arg("true").output().is_ok_and(|it| it.status.success()) {
        return skipped("there can be no PID namespace here");
    }
    let server = Server::start(&[]);
    server.submit(&(0..40).map(|n| n.to_string()).collect::<Vec<_>>());
    let mut client = Command::new("unshare");
    client.args(CONTAINER).args([CLIENT, "--server", &server.listen, "--id", "a", "--concurrency", "4"]);
    client.args(["--from", "first"]);
    client.args(["--exec", "(true &); (sleep 0.1 &); cat"]);
    let client = Program::spawn("contact-client", &mut client).unwrap();
    let results = server.at_least(40, "results");
    assert!(results.iter().all(|result| result["outcome"] == "DONE"), "{results:?}");
    let first = children(client.id())[0];
    until("there is no zombie", || !children(first).into_iter().any(is_zombie));
    assert_eq!(children(first).len(), 1, "the guard is there");
}

/// The text that parts of an output are, one after another.
fn printed(lines: &[String]) -> String {
    let part = |line: &String| {
        let part: serde_json::Value = serde_json::from_str(line).unwrap();
        String::from_utf8(BASE64.decode(part["base64"].as_str().unwrap().as_bytes()).unwrap()).unwrap()
    };
    lines.iter().map(part).collect()
}

#[test]
fn what_a_command_prints_is_seen_while_it_runs_and_from_its_beginning_by_one_who_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let gate = named_pipe(folder.path());
    let server = Server::start(&[]);
    server.submit(&["work"]);
    let mut client = Command::new(CLIENT);
    client.env("GATE", &gate);
    let work = r#"echo one; echo two >&2; echo "::progress 0.5" >&2; cat "$GATE"; printf four"#;
    let _client = server.client_by(client, &["--id", "a", "--exec-env", "GATE", "--exec", work]);
    server.at_least_clients(1);
    let follow = || server.ctl_running(&["task", "1", "--follow"]);
    let shows = |of: &Program, text: &str| of.out.until(text, |lines| printed(lines).contains(text).then_some(()));
    let mut first = follow();
    shows(&first, "two\n");
    let mut second = follow();
    shows(&second, "two\n");
    fs::write(&gate, "three\n").unwrap();
    for follower in [&mut first, &mut second] {
        assert!(follower.ended().success(), "it ends with the task");
        let all = printed(&follower.out.so_far());
        let (mut lines, expected): (Vec<_>, _) = (all.lines().collect(), ["four", "one", "three", "two"]);
        lines.sort_unstable();
        assert_eq!(lines, expected, "each line once, and no others");
    }
    assert_eq!(server.done(1)[0]["ret"], "one\nthree\nfour", "the result is what it was");
}
