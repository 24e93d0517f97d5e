//! What tasks print while clients are at work on them, as those who watch see it.

use std::time::Instant;

use contact::wire::contact as pb;
use contact::wire::contact::{Outcome, ServerMsg};
use contact::wire::control::{TaskOutput, WatchOutputRequest};
use futures::StreamExt as _;
use futures::executor::block_on;
use grpcio::{ClientSStreamReceiver, Error};

use super::runs::fleet;
use crate::common::DEADLINE;
use crate::conventions::reason;
use crate::rig::{Rig, patient, told};

/// What a client prints while it is at work.
fn prints(task: &ServerMsg, from: u64, bytes: &[u8]) -> pb::Result {
    pb::Result { output: bytes.to_vec(), output_from: from, ..told(task, Outcome::WORKING, "") }
}

fn watch_output(rig: &Rig, id: u64, group: &str) -> ClientSStreamReceiver<TaskOutput> {
    let request = WatchOutputRequest { id, group: group.into(), ..Default::default() };
    rig.operator.control.watch_output(&request, patient()).unwrap()
}

fn next(output: &mut ClientSStreamReceiver<TaskOutput>) -> Result<TaskOutput, String> {
    block_on(output.next()).unwrap().map_err(|error| match error {
        Error::RpcFailure(status) => reason(&status),
        other => other.to_string(),
    })
}

#[test]
fn what_a_task_prints_is_passed_on_to_those_who_watch_and_kept_nowhere() {
    let rig = Rig::start();
    let a = rig.named("a").saying("contact-output", "1");
    let mut tasks = a.tasks();
    let id = rig.operator.submit(&["x"]);
    let task = tasks.next();
    a.tell([prints(&task, 0, b"nobody watches")]);
    let mut output = watch_output(&rig, id, "");
    let first = next(&mut output).unwrap();
    assert_eq!((&*first.group, &*first.client, first.attempt, first.silent), ("a", "a", 1, false));
    assert_eq!(first.bytes, b"", "nothing is kept");
    let watched = &tasks.next().watched[0];
    assert_eq!((watched.id, watched.attempt, watched.anew), (id, 1, true));
    // Longer than a client should send: its end is shown.
    let long = [vec![b'x'; 10], vec![b'y'; 64 << 10]].concat();
    a.tell([prints(&task, 14, &long)]);
    let part = next(&mut output).unwrap();
    assert_eq!((part.from, &part.bytes), (24, &long[10..].to_vec()));
    // What was shown is not shown again.
    a.tell([prints(&task, 24 + (64 << 10) - 1, b"yz")]);
    let part = next(&mut output).unwrap();
    assert_eq!((part.from, &part.bytes[..]), (24 + (64 << 10), &b"z"[..]));
    // The last words come with the outcome.
    a.tell([pb::Result { outcome: Outcome::DONE.into(), ..prints(&task, 70_000, b"end") }]);
    assert_eq!(next(&mut output).unwrap().bytes, b"end");
    assert!(block_on(output.next()).is_none(), "it ends with the task");
    assert!(block_on(watch_output(&rig, id, "").next()).is_none(), "it has ended");
    assert_eq!(next(&mut watch_output(&rig, id + 1, "")), Err("TASK_UNKNOWN".into()));
}

#[test]
fn one_watches_a_task_of_few_groups_or_one_of_many_and_only_so_many_watch() {
    let rig = Rig::start();
    let names: Vec<String> = (0..17).map(|at| format!("g{at:02}")).collect();
    let (_clients, mut tasks) = fleet(&rig, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let id = rig.operator.submit(&["x"]);
    tasks.iter_mut().for_each(|tasks| drop(tasks.next()));
    assert_eq!(next(&mut watch_output(&rig, id, "")), Err("GROUPS_TOO_MANY".into()));
    let mut one = watch_output(&rig, id, "g07");
    let first = next(&mut one).unwrap();
    assert_eq!((&*first.group, first.silent), ("g07", true), "it does not say what it prints");
    let mut others: Vec<_> = (1..32).map(|_| watch_output(&rig, id, "g08")).collect();
    others.iter_mut().for_each(|other| drop(next(other).unwrap()));
    assert_eq!(next(&mut watch_output(&rig, id, "g09")), Err("WATCHES_FULL".into()));
    // Who goes makes room.
    others.pop();
    let deadline = Instant::now() + DEADLINE;
    while next(&mut watch_output(&rig, id, "g09")).is_err() {
        assert!(Instant::now() < deadline, "no room came");
    }
}
