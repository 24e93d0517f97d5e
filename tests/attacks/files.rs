//! What is on the machine: its files and their limit, its environment, and names that are to deceive who reads them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::DEADLINE;
use crate::common::program::Program;
use crate::common::server::{CLIENT, Server};
use crate::http::client::{Reply, exchange};

const SERVER: &str = env!("CARGO_BIN_EXE_contact-server");

#[test]
fn a_command_gets_no_secret_of_its_client() {
    let server = Server::start(&[]);
    server.submit(&["what do you have?"]);
    let mut client = Command::new(CLIENT);
    client.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    client.envs([("LANG", "C.UTF-8"), ("LC_TIME", "C"), ("TZ", "UTC"), ("HOME", "/"), ("AWS_REGION", "eu-central-1")]);
    client.envs([("LD_LIBRARY_PATH", "/nowhere"), ("AWS_SECRET_ACCESS_KEY", "secret-1"), ("PASSWORD", "secret-2")]);
    client.envs([("CONTACT_TOKEN", "secret-3"), ("CONTACT_WINDOW", "7"), ("http_proxy", "http://me:secret-4@nowhere")]);
    client.env("no_proxy", "127.0.0.1");
    let named = ["--exec-env", "AWS_REGION,LD_LIBRARY_PATH", "--exec-env", "NOT_SET"];
    let client = server.client_by(client, &[&["--id", "a", "--exec", "env"], &named[..]].concat());
    client.err.wait_for("what is not set", |line| line.contains("--exec-env names NOT_SET, which is not set here"));

    let results = server.done(1);
    let text = results[0]["ret"].as_str().unwrap();
    let names: BTreeSet<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    // What shells set themselves.
    let shells = ["PWD", "OLDPWD", "SHLVL", "_"];
    let names: Vec<&str> = names.into_iter().filter(|name| !shells.contains(name)).collect();
    let passed = [
        "AWS_REGION",
        "CONTACT_ATTEMPT",
        "CONTACT_TASK_ATTEMPT",
        "CONTACT_TASK_ID",
        "HOME",
        "LANG",
        "LC_TIME",
        "LD_LIBRARY_PATH",
        "PATH",
        "TZ",
    ];
    assert_eq!(names, passed, "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn a_variable_of_contact_cannot_be_named_for_a_command() {
    for (name, why) in [("CONTACT_TOKEN", "a command never gets CONTACT_TOKEN"), ("A=b", "no name of a variable")] {
        let mut client = Command::new(CLIENT);
        client.args(["--server", "127.0.0.1:1", "--exec", "env", "--exec-env", name]);
        let mut client = Program::spawn("contact-client", &mut client).unwrap();
        assert_eq!(client.ended().code(), Some(2));
        client.err.wait_for("why", |line| line.contains(why));
    }
}

/// The files in a folder, and what others may do with each.
fn modes(folder: &Path) -> Vec<(String, u32)> {
    let mut modes: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().permissions().mode() & 0o777))
        .collect();
    modes.sort();
    modes
}

const STORE: [&str; 6] = ["contact.db", "contact.db-shm", "contact.db-wal", "lock", "receipt-key", "reserve"];

#[test]
fn the_files_of_a_store_are_for_their_owner_alone_whatever_the_umask_and_whoever_made_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
    let private = STORE.map(|name| (name.to_owned(), 0o600)).to_vec();
    let umask_000 = || {
        let mut command = Command::new("sh");
        command.args(["-c", "umask 000; exec \"$0\" \"$@\"", SERVER]);
        command
    };

    let mut server = Server::start_by(umask_000(), &[], Some(&data));
    server.submit(&["a secret"]);
    assert_eq!(modes(&data), private);
    server.program().err.wait_for("the folder", |line| line.contains("others on this machine may put files into"));
    let copy = folder.path().join("copy.db");
    server.ctl(&["backup", copy.to_str().unwrap()]);
    assert_eq!(modes(folder.path()), [("copy.db".into(), 0o600), ("data".into(), 0o777)]);
    // So that the log stays beside the database.
    server.kill();

    for name in STORE {
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o666)).unwrap();
    }
    let mut server = Server::start_by(umask_000(), &[], Some(&data));
    assert_eq!(modes(&data), private);
    server.program().err.wait_for("what was open", |line| line.contains("contact.db is for its owner alone now"));
}

#[test]
fn a_name_cannot_pass_for_a_line_of_the_log() {
    let mut server = Server::start(&[]);
    let name = "a at 10.0.0.1 went: its stream ended; client \"root";
    let mut client = Command::new(CLIENT);
    client.args(["--server", &server.listen, "--id", name, "--group", "x came; 7 connected"]);
    let _client = Program::spawn("contact-client", &mut client).unwrap();
    let line = server.program().err.wait_for("who came", |line| line.contains(" came; 1 connected"));
    let shown = format!("client {name:?} of group \"x came; 7 connected\" at ipv4:127.0.0.1:");
    assert!(line.contains(&shown), "{line}");
}

#[test]
fn a_name_that_hides_or_turns_text_is_refused() {
    let mut server = Server::start(&[]);
    for hidden in ['\u{202e}', '\u{2066}', '\u{200b}', '\u{200d}', '\u{2028}', '\u{feff}', '\u{85}', '\u{1b}'] {
        let spelt = format!("U+{:04X}", u32::from(hidden));
        let name = format!("a{hidden}b");
        for flag in ["--id", "--group"] {
            let mut client = Command::new(CLIENT);
            client.args(["--server", &server.listen, flag, &name]);
            let mut client = Program::spawn("contact-client", &mut client).unwrap();
            assert_eq!(client.ended().code(), Some(2), "{spelt}");
            client.err.wait_for("why", |line| line.contains(&spelt));
        }
        let mut submit = server.ctl_running(&["submit", "--to", &name, "task"]);
        assert!(!submit.ended().success(), "{spelt}");
    }
    assert!(server.program().err.so_far().iter().all(|line| !line.contains(" came")));
}

fn get(server: &Server, path: &str) -> Reply {
    exchange(&server.http, format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())
}

/// A request that submits a task.
fn submission(text: &str) -> String {
    let body = serde_json::json!({ "text": text }).to_string();
    let length = body.len();
    format!("POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nX-Contact: 1\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[track_caller]
fn is_well(server: &Server) {
    for path in ["/healthz", "/readyz", "/api/state", "/"] {
        let reply = get(server, path);
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
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

/// The value of a metric, with its labels as they stand there.
#[track_caller]
fn metric(server: &Server, name: &str) -> u64 {
    let metrics = get(server, "/metrics").body;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

#[test]
fn connections_that_ask_nothing_keep_nobody_from_the_page_or_from_health() {
    let mut server = Server::start(&[]);
    let slow_body = submission("a task").replace("{", "");
    let answered = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut cut = 0;
    for sent in ["", "G", "GET / HTTP/1.1\r\nHost: local", slow_body.as_str(), answered] {
        let open: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(&server.http).unwrap()).collect();
        for mut stream in &open {
            // One that was cut already takes nothing.
            let _ = stream.write_all(sent.as_bytes());
        }
        is_well(&server);
        assert!(metric(&server, "contact_http_connections") <= 256);
        let cut_now = metric(&server, "contact_refusals_total{cause=\"HTTP_CONNECTIONS\"}");
        assert!(cut_now >= cut + 44, "{sent:?}: {cut}, {cut_now}");
        cut = cut_now;
        if sent == "G" {
            // The oldest was ended, and not by a timeout, which the newest would have had at the same time.
            let [oldest, .., newest] = &open[..] else { unreachable!() };
            oldest.set_read_timeout(Some(DEADLINE)).unwrap();
            let ended = (&mut &*oldest)
                .read(&mut [0])
                .or_else(|e| (e.kind() == ErrorKind::ConnectionReset).then_some(0).ok_or(e));
            assert_eq!(ended.ok(), Some(0));
            newest.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let is_there = (&mut &*newest).read(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
            assert!(is_there, "the newest is there");
        }
    }
    server.program().err.wait_for("what was cut", |line| line.contains("the page has 256 connections"));
    assert_eq!(server.ctl(&["tasks", "--all"]).len(), 0, "half a request does nothing");
}

#[test]
fn while_all_connections_are_at_work_it_is_still_said_whether_the_server_is_well() {
    let server = Server::start(&[]);
    let database = rusqlite::Connection::open(server.data().join("contact.db")).unwrap();
    // Submissions wait for the lock.
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (mut open, deadline) = (Vec::new(), Instant::now() + DEADLINE);
    let full = loop {
        let mut stream = TcpStream::connect(&server.http).unwrap();
        stream.write_all(submission("waits").as_bytes()).unwrap();
        open.push(stream);
        // One that was not at work yet may have been cut for another.
        if open.len() >= 256 {
            let reply = get(&server, "/api/state");
            if reply.status != 200 {
                break reply;
            }
        }
        assert!(open.len() < 10_000 && Instant::now() < deadline, "there is no end");
    };
    assert_eq!((full.status, full.error().contains("more than 256 connections")), (503, true), "{full:?}");
    for _ in 0..40 {
        let reply = get(&server, "/healthz");
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    // Half requests keep nobody from what is beside them.
    let _halves: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(&server.http).unwrap()).collect();
    assert_eq!(get(&server, "/readyz").header("connection"), "close");
    database.execute_batch("ROLLBACK").unwrap();
    server.at_least(256, "tasks");
    is_well(&server);
}

#[test]
fn slow_heads_and_slow_bodies_are_cut() {
    let server = Server::start(&[]);
    let submission = submission(&"x".repeat(1000));
    let mut drips: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(&server.http).unwrap()).collect();
    for stream in &drips {
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    }
    drips[1].write_all(&submission.as_bytes()[..submission.len() - 900]).unwrap();
    let mut answers = [Vec::new(), Vec::new()];
    let mut over = [false; 2];
    let deadline = Instant::now() + DEADLINE;
    while over != [true; 2] {
        assert!(Instant::now() < deadline, "{over:?}");
        for n in 0..2 {
            // A byte every 200 ms: neither is silent.
            over[n] = over[n] || drips[n].write_all(b"x").is_err();
            let mut buffer = [0; 1000];
            match drips[n].read(&mut buffer) {
                Ok(0) => over[n] = true,
                Ok(read) => answers[n].extend_from_slice(&buffer[..read]),
                Err(error) => over[n] |= error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }
    let answer = String::from_utf8_lossy(&answers[1]);
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("did not come within 10 s"), "{answer}");
    assert_eq!(server.ctl(&["tasks", "--all"]).len(), 0);
}

#[test]
fn large_bodies_that_do_not_come_hold_up_no_small_one() {
    let server = Server::start(&[]);
    let large = submission(&"x".repeat(200_000));
    let _open: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(&server.http).unwrap();
            stream.write_all(&large.as_bytes()[..100_000]).unwrap();
            stream
        })
        .collect();
    let request = submission("small").replace("HTTP/1.1", "HTTP/1.0");
    let reply = exchange(&server.http, request.as_bytes());
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[test]
fn when_clients_have_used_up_all_files_operators_still_get_in_over_http() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\"", SERVER]);
    let mut server = Server::start_by(command, &[], None);
    let pid = server.program().id();
    let files = move || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let silent: Vec<TcpStream> = (0..250).map(|_| TcpStream::connect(&server.listen).unwrap()).collect();
    until("all files are used up", || files() >= 192);
    let noticed = "contact_refusals_total{cause=\"OUT_OF_FILES\"}";
    for n in 1..=20 {
        is_well(&server);
        let request = submission("from the page").replace("HTTP/1.1", "HTTP/1.0");
        assert_eq!(exchange(&server.http, request.as_bytes()).json()["id"], n);
    }
    let pages: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(&server.http).unwrap()).collect();
    is_well(&server);
    assert!(metric(&server, "process_open_fds") >= 192);
    assert_eq!(metric(&server, "process_max_fds"), 192);
    assert!(metric(&server, noticed) >= 100);
    server.program().err.wait_for("what ran out", |line| line.contains("no more clients can connect"));
    assert!(files() < 256);
    drop((silent, pages));
    assert_eq!(server.at_least(20, "tasks").len(), 20);
}
