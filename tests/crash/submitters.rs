//! Those who submit, and submit again what was not confirmed.

use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::{fs, process};

use contact::task::Time;
use contact::wire::control as pb;
use contact::wire::control_grpc::ControlClient;
use futures::executor::block_on;
use futures::{SinkExt, StreamExt};
use grpcio::{CallOption, WriteFlags};
use serde_json::Value;

use super::ledger::aim;
use super::witness::{Accepted, Witness};
use super::{BROADCAST, CAREFUL, QUEUE};
use crate::common::program::Program;

pub fn start(witness: &Arc<Witness>) -> Vec<JoinHandle<()>> {
    let spawn = |name: &str, work: fn(&Witness)| {
        let witness = witness.clone();
        thread::Builder::new().name(name.into()).spawn(move || work(&witness)).unwrap()
    };
    vec![spawn("submit-keyed", keyed), spawn("submit-unary", unary), spawn("submit-ctl", contactctl)]
}

/// The same for some: of those that match, and of several groups.
fn for_some(n: u64, task: pb::NewTask) -> pb::NewTask {
    let task = pb::NewTask { timeout_ms: if n % 7 == 2 { 60_000 } else { 0 }, ..task };
    let groups = || [BROADCAST[n as usize % 3], QUEUE, CAREFUL].map(str::to_owned).to_vec();
    match n % 6 {
        1 => pb::NewTask { select: format!("name in ({}, {QUEUE})", BROADCAST[n as usize % 3]), ..task },
        3 => pb::NewTask { groups: groups(), ..task },
        5 => pb::NewTask { select: format!("name != {}", BROADCAST[n as usize % 3]), ..task },
        _ => task,
    }
}

/// Broadcasts with idempotency keys over one stream after another. What was not answered is submitted again under its
/// key, and so is, now and then, what was.
fn keyed(witness: &Witness) {
    let (mut unconfirmed, mut next): (Vec<pb::NewTask>, u64) = (Vec::new(), 0);
    while witness.is_submitting() || !unconfirmed.is_empty() {
        let client = ControlClient::new(witness.connect(&witness.control));
        let (mut sink, mut answers) = client.submit_stream(patient()).unwrap();
        loop {
            if unconfirmed.is_empty() && witness.is_submitting() {
                for n in next..next + 3 {
                    let task = task(witness, format!("broadcast {n}"), "", format!("key {n}"));
                    let task = for_some(n, task);
                    witness.tried.lock().unwrap().insert(task.task.clone(), aim(&task));
                    unconfirmed.push(task);
                }
                // The last one once more: the answer is to be the first id.
                unconfirmed.extend(unconfirmed.last().cloned());
                next += 3;
            }
            if unconfirmed.is_empty() {
                break;
            }
            let request = pb::SubmitRequest { tasks: unconfirmed.clone(), ..Default::default() };
            let answer = block_on(async {
                sink.send((request, WriteFlags::default())).await.ok()?;
                answers.next().await?.ok()
            });
            // At the start, a group that is named may be yet to come.
            let Some(answer) = answer.filter(|answer| answer.refused.is_empty()) else { break };
            accepted(witness, std::mem::take(&mut unconfirmed), &answer);
            // Three, for one to five groups.
            witness.pace(12);
        }
    }
}

/// Tasks for the queue, of all classes, some of them delayed, without keys: an answer that does not come leaves it open
/// whether they were accepted.
fn unary(witness: &Witness) {
    let client = ControlClient::new(witness.connect(&witness.control));
    let mut next = 0;
    while witness.is_submitting() {
        let tasks: Vec<_> = (next..next + 4)
            .map(|n| pb::NewTask {
                priority: [pb::Priority::NORMAL, pb::Priority::HIGH, pb::Priority::LOW][n % 3].into(),
                not_before: if n % 10 == 0 { Time::now().0 + 300 } else { 0 },
                max_attempts: if n % 50 == 7 { 2 } else { 0 },
                ..task(witness, format!("queued {n}"), QUEUE, String::new())
            })
            .collect();
        next += 4;
        let request = pb::SubmitRequest { tasks: tasks.clone(), ..Default::default() };
        let answer = client.submit(&request, patient()).ok().and_then(|answer| block_on(answer).ok());
        if let Some(answer) = answer {
            accepted(witness, tasks, &answer);
        }
        witness.pace(4);
    }
}

/// contactctl, a file at a time.
fn contactctl(witness: &Witness) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tasks.txt");
    for round in 0.. {
        if !witness.is_submitting() {
            return;
        }
        let to = if round % 4 == 0 { "" } else { QUEUE };
        let tasks: Vec<_> =
            (0..40).map(|n| task(witness, format!("from contactctl {round}.{n}"), to, String::new())).collect();
        fs::write(&file, tasks.iter().map(|task| format!("{}\n", task.task)).collect::<String>()).unwrap();
        let mut command = process::Command::new(env!("CARGO_BIN_EXE_contactctl"));
        // It takes one address: of a cluster it may be that of a server that follows.
        let control = witness.control.split(',').nth(round % 2).unwrap_or(&witness.control);
        command.args(["submit", "--json", "--batch", "4", "--server", control, "--file"]).arg(&file);
        if !to.is_empty() {
            command.args(["--to", to]);
        }
        submitted_by(&mut command, witness, tasks);
        // Forty, for one group or, of each fourth file, all five.
        witness.pace(80);
    }
}

/// Each line says which of the tasks are accepted, in their order, until it is cut off.
fn submitted_by(command: &mut Command, witness: &Witness, mut tasks: Vec<pb::NewTask>) {
    let mut program = Program::spawn("contactctl submit", command).unwrap();
    program.ended();
    for line in program.out.so_far() {
        let said: Value = serde_json::from_str(&line).unwrap();
        if let (Some(first_id), Some(count)) = (said["first_id"].as_u64(), said["count"].as_u64()) {
            let rest = tasks.split_off(count as usize);
            accepted(witness, tasks, &pb::SubmitResponse { first_id, count: count as u32, ..Default::default() });
            tasks = rest;
        }
    }
}

/// For when the server is away for a moment.
fn patient() -> CallOption {
    CallOption::default().wait_for_ready(true)
}

fn task(witness: &Witness, text: String, to: &str, key: String) -> pb::NewTask {
    witness.tried.lock().unwrap().insert(text.clone(), to.into());
    pb::NewTask { task: text, to: to.into(), key, ..Default::default() }
}

fn accepted(witness: &Witness, tasks: Vec<pb::NewTask>, answer: &pb::SubmitResponse) {
    assert!(answer.refused.is_empty(), "{answer:?}");
    assert_eq!(answer.count as usize, tasks.len());
    let id = |n: usize| answer.ids.get(n).copied().unwrap_or(answer.first_id + n as u64);
    let accepted = tasks.into_iter().enumerate();
    let accepted = accepted.map(|(n, task)| Accepted { id: id(n), to: aim(&task), text: task.task, key: task.key });
    witness.accepted.lock().unwrap().extend(accepted);
}
