//! `contactctl bench`: each measurement, very small. How fast anything is does not matter here.

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
    let figures: Value = serde_json::from_str(program.out.so_far().last().unwrap()).unwrap();
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
    let figures = bench_spawned("idle", &["--clients", "20"]);
    counts(&figures, &[("clients", 20)]);
    if cfg!(target_os = "linux") {
        assert!(figures["kb_per_client"].is_number(), "{figures}");
    }
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
