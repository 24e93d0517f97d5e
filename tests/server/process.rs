//! The server as a process: killed, stopped, or not even started.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use contact::wire::control::{ListRequest, TaskPage};
use futures::StreamExt as _;
use futures::executor::block_on;
use grpcio::RpcStatusCode as Code;
use tempfile::TempDir;

use crate::common::program::Program;
use crate::common::server::Server;
use crate::rig::{Client, Operator, Rig, ack, collect, done, patient};

#[test]
fn what_was_reported_as_accepted_outlives_a_kill() {
    let mut server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tasks.txt");
    let line = |n: usize| format!("task of line {n}");
    fs::write(&file, (0..100_000).map(|n| line(n) + "\n").collect::<String>()).unwrap();

    let mut submit = server.ctl_running(&["submit", "--batch", "100", "--file", file.to_str().unwrap()]);
    submit.out.at_least(200, "batches", |line| line.contains("first_id").then_some(()));
    server.kill();
    assert_eq!(submit.ended().code(), Some(3));
    let reported: Vec<serde_json::Value> =
        submit.out.so_far().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        !reported.iter().any(|line| line["done"] == true),
        "a run that was cut off can be told from one that was done"
    );

    server.restart();
    let operator = Operator::of(&server.control);
    let tasks = operator.tasks_now();
    let mut accepted = 0;
    for batch in reported.iter().filter(|line| !line["first_id"].is_null()) {
        let (first, count) = (batch["first_id"].as_u64().unwrap() as usize, batch["count"].as_u64().unwrap() as usize);
        for n in 0..count {
            let task = &tasks[first - 1 + n];
            assert_eq!((task.id, &task.task), ((first + n) as u64, &line(accepted + n)));
        }
        accepted += count;
    }
    assert!((20_000..100_000).contains(&accepted), "{accepted}");
    println!("killed after {accepted} lines were reported; {} are there", tasks.len());
    assert_eq!(operator.submit(&["one more"]), tasks.len() as u64 + 1);
    let mut stream = Client::of(&server.listen, &[]).tasks();
    assert!(tasks.iter().all(|task| stream.next().id == task.id));
    assert_eq!(stream.next().task, "one more");
}

#[test]
fn what_was_told_survives_a_kill_also_when_a_group_came_in_between() {
    let mut server = Server::start(&[]);
    let operator = Operator::of(&server.control);
    operator.submit(&["one", "two"]);
    let a = Client::of(&server.listen, &[("contact-client", "a"), ("contact-from", "first")]);
    let mut tasks = a.tasks();
    a.tell([done(&tasks.next())]);
    let mut newcomer = Client::of(&server.listen, &[("contact-client", "newcomer"), ("contact-from", "first")]).tasks();
    assert_eq!(newcomer.next().id, 1);
    let mut statuses = a.statuses();
    assert!(statuses.say("alive"));
    statuses.answer().unwrap();
    server.kill();
    server.restart();
    let operator = Operator::of(&server.control);
    let results = operator.results_now();
    assert_eq!((results[0].task_id, results[0].ret.as_str()), (1, "done"));
    assert_eq!(operator.statuses_now()[0].msg, "alive");
    assert_eq!(
        Client::of(&server.listen, &[("contact-client", "a"), ("contact-from", "first")]).tasks().next().id,
        2,
        "not one again"
    );
}

#[test]
fn a_stopping_server_says_so_and_hears_what_is_still_told() {
    let mut server = Server::start(&[]);
    let operator = Operator::of(&server.control);
    operator.submit(&["one", "two"]);
    let a = Client::of(&server.listen, &[("contact-client", "a"), ("contact-from", "first")]);
    let (mut tasks, mut telling) = (a.tasks(), a.telling());
    let given = tasks.take(2);
    let mut idle = Client::of(&server.listen, &[]).tasks();
    idle.take(2);
    let mut follower =
        operator.control.list_tasks(&ListRequest { follow: true, ..ListRequest::default() }, patient()).unwrap();
    let page: TaskPage = block_on(follower.next()).unwrap().unwrap();
    assert_eq!(page.tasks.len(), 2);

    server.program().signal("TERM");
    for status in [tasks.end(), idle.end(), collect(follower).unwrap_err()] {
        assert_eq!(status.code(), Code::UNAVAILABLE, "{status:?}");
        assert!(status.message().contains("the server is stopping"), "{status:?}");
    }
    assert!(telling.say(done(&given[0])));
    telling.end().unwrap();
    assert!(server.program().ended().success());
    let log = server.program().err.so_far();
    assert!(!log.iter().any(|line| line.contains("cancelled") || line.contains("panic")), "{log:#?}");

    server.restart();
    let again = Client::of(&server.listen, &[("contact-client", "a"), ("contact-from", "first")]).tasks().next();
    assert_eq!((again.id, again.attempt), (2, 2));
}

#[test]
fn a_stopping_server_waits_for_no_one_for_long() {
    let mut server = Server::start(&[]);
    let operator = Operator::of(&server.control);
    let client = Client::of(&server.listen, &[]);
    let (mut telling, mut statuses) = (client.telling(), client.statuses());
    // Streams that nobody reads.
    let large = " ".repeat(1000);
    operator.submit(&vec![&large; 10_000]);
    let _tasks = client.tasks();
    let _list = operator.control.list_tasks(&ListRequest::new(), patient()).unwrap();
    assert!(telling.say(ack("told in time")));
    operator.results(1);
    assert!(statuses.say("x"));
    statuses.answer().unwrap();
    server.program().signal("INT");
    assert_eq!(statuses.answer().unwrap_err().code(), Code::UNAVAILABLE);
    assert_eq!(telling.cut_short().unwrap_err().code(), Code::UNAVAILABLE);
    assert!(server.program().ended().success());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start(&[]);
    let client = Client::of(&server.listen, &[]);
    let mut telling = client.telling();
    assert!(telling.say(ack("and there is more to come")));
    Operator::of(&server.control).results(1);
    server.program().signal("TERM");
    server.program().err.wait_for("that it stops", |line| line.contains("stopping: "));
    server.program().signal("TERM");
    assert_eq!(server.program().ended().code(), Some(130));
}

/// Starts a server that cannot be, and gives what it says.
#[track_caller]
fn refused(data: &Path, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contact-server"));
    command
        .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--http", "off", "--data"])
        .arg(data)
        .args(args);
    let mut server = Program::spawn("contact-server", &mut command).unwrap();
    assert_eq!(server.ended().code(), Some(1));
    assert_eq!(server.out.so_far(), [""; 0], "it does not say that it listens");
    server.err.so_far().join("\n")
}

#[track_caller]
fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[cfg(unix)]
#[test]
fn it_takes_more_clients_than_the_shell_lets_it_open_files() {
    let folder = folder();
    let mut command = Command::new("sh");
    let script = "ulimit -Sn 64 && exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_contact-server")]);
    command.args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--http", "off", "--data"]).arg(folder.path());
    let server = Program::spawn("contact-server", &mut command).unwrap();
    let line = server.out.wait_for("its addresses", |line| line.starts_with("listening"));
    let (listen, control) = line.trim_start_matches("listening on ").split_once(", control on ").unwrap();
    let _streams: Vec<_> = (0..100).map(|_| Client::of(listen, &[]).tasks()).collect();
    Operator::of(control).connected(100);
}

#[test]
fn a_data_folder_has_one_server() {
    let server = Server::start(&[]);
    let data = server.data();
    says(&refused(&data, &[]), &[data.to_str().unwrap(), "in use", "another data folder"]);
    Operator::of(&server.control).submit(&["it does not mind"]);
}

#[test]
fn a_file_that_is_no_database_of_ours_is_left_alone() {
    let folder = folder();
    let path = folder.path().join("contact.db");
    let other = "my diary, page 1".repeat(1000);
    fs::write(&path, &other).unwrap();
    says(&refused(folder.path(), &[]), &[path.to_str().unwrap(), "not a Contact database", "out of the way"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), other);
}

#[test]
fn a_newer_schema_is_refused() {
    let mut server = Server::start(&[]);
    server.program().signal("TERM");
    assert!(server.program().ended().success());
    let path = server.data().join("contact.db");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    says(&refused(&server.data(), &[]), &[path.to_str().unwrap(), "schema 99", "newer server"]);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = folder();
    fs::write(folder.path().join("file"), "").unwrap();
    let data = folder.path().join("file/data");
    says(&refused(&data, &[]), &[data.to_str().unwrap(), "cannot be created", "another data folder"]);
}

#[test]
fn a_start_that_failed_leaves_nothing_behind() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig::start();
    rig.operator.submit(&["one"]);
    rig.stop();
    let mut config = rig.config.clone();
    config.control = taken.local_addr().unwrap().to_string();
    for _ in 0..3 {
        let error = contact::server::Server::start(config.clone()).err().unwrap();
        says(&error.to_string(), &["cannot listen", "--control"]);
    }
    rig.restart();
    assert_eq!(rig.anonymous().tasks().next().task, "one");
}

#[test]
fn an_address_that_cannot_be_had_is_named_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    // Where an argument stands twice, the last one counts.
    for flag in ["--listen", "--control", "--http"] {
        let folder = folder();
        for address in [&taken, "192.0.2.1:50051", "nonsense", "no.such.host.invalid:1"] {
            says(&refused_at(folder.path(), flag, address), &[address, flag, "cannot listen"]);
        }
        // The folder is free again.
        says(&refused_at(folder.path(), flag, &taken), &["cannot listen"]);
    }
}

#[track_caller]
fn refused_at(data: &Path, flag: &str, address: &str) -> String {
    let at = |its: &str| if its == flag { address } else { "127.0.0.1:0" };
    let mut command = Command::new(env!("CARGO_BIN_EXE_contact-server"));
    for flag in ["--listen", "--control", "--http"] {
        command.args([flag, at(flag)]);
    }
    command.arg("--data").arg(data);
    let mut server = Program::spawn("contact-server", &mut command).unwrap();
    assert_eq!(server.ended().code(), Some(1));
    server.err.so_far().join("\n")
}

/// As systemd does for a unit with `WatchdogSec=2`.
#[cfg(unix)]
#[test]
fn systemd_is_told_that_the_server_moves() {
    let folder = folder();
    let socket = folder.path().join("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(crate::common::DEADLINE)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_contact-server"));
    for flag in ["--listen", "--control", "--http"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    command.arg("--data").arg(folder.path().join("data"));
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "2000000");
    let mut server = Program::spawn("contact-server", &mut command).unwrap();
    let mut said = [0; 4096];
    let mut hears = |what: &str| {
        loop {
            let length = systemd.recv(&mut said).unwrap();
            if said[..length].starts_with(what.as_bytes()) {
                break;
            }
        }
    };
    hears("READY=1");
    hears("WATCHDOG=1");
    hears("WATCHDOG=1");
    server.signal("TERM");
    hears("STOPPING=1");
    assert!(server.ended().success());
}
