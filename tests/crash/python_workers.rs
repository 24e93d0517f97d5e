//! Workers of the Python package, each at one of the servers.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use contact::wire::contact as pb;
use serde_json::Value;

use super::QUEUE;
use super::witness::{Opened, Witness};
use super::workers::Worker;
use crate::python::Package;

/// So many lives of the server a worker lives that is killed.
const LIVES: u64 = 3;

/// One for a group that is its own, and one of the work queue, which is killed now and then. None where Python cannot be had.
pub fn start(witness: &Arc<Witness>) -> Vec<Worker> {
    let Some(package) = Package::ready() else { return Vec::new() };
    let servers: Vec<&str> = witness.listen.split(',').collect();
    let spawn = |name: &'static str, group: Option<&'static str>, server: &str| {
        let (witness, server) = (witness.clone(), server.to_owned());
        let work = move || works(&witness, package, &server, name, group);
        Worker::Thread(thread::Builder::new().name(name.into()).spawn(work).unwrap())
    };
    vec![spawn("python", None, servers[0]), spawn("worker-python", Some(QUEUE), servers[servers.len() - 1])]
}

fn works(witness: &Witness, package: &Package, server: &str, name: &str, group: Option<&str>) {
    while witness.is_working() {
        let life = witness.life();
        let is_over = || group.is_some() && witness.life() >= life + LIVES;
        let mut command = package.python();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/worker.py");
        command.arg(program).args([server, name]).args(group);
        // It ends with this process: then its input does.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        thread::scope(|scope| {
            scope.spawn(|| {
                out.lines().map_while(Result::ok).for_each(|line| note(witness, group.unwrap_or(name), &line, life))
            });
            while witness.is_working() && !is_over() {
                assert!(child.try_wait().unwrap().is_none(), "{name} ended by itself");
                thread::sleep(Duration::from_millis(50));
            }
            kill(&mut child);
        });
    }
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A line of one that was started in that life.
fn note(witness: &Witness, group: &str, line: &str, life: u64) {
    let said: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let number = |field: &str| said[field].as_u64().unwrap_or_else(|| panic!("no {field}: {line}"));
    let small = |field: &str| u32::try_from(number(field)).unwrap();
    let text = |field: &str| said[field].as_str().unwrap_or_else(|| panic!("no {field}: {line}")).to_owned();
    let attempt = small("attempt");
    if said.get("given").is_some() {
        let (id, task) = (number("given"), text("text"));
        let (spent, timeout_ms) = (small("spent"), small("timeout_ms"));
        witness.deliver(
            group,
            &pb::ServerMsg { id, attempt, spent, task, timeout_ms, ..Default::default() },
            Opened { life, at: 0 },
        );
        return;
    }
    let outcomes = ["DONE", "RETRY", "FAILED"];
    let outcome = outcomes.into_iter().find(|it| *it == text("outcome")).unwrap_or_else(|| panic!("{line}"));
    witness.confirm(group, number("confirmed"), attempt, outcome, text("ret"));
    witness.settle();
}
