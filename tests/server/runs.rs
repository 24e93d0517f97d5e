//! Runs: one thing on many machines, with a state for each and an end.

use std::time::Instant;

use contact::wire::contact::Outcome;
use contact::wire::control as pb;
use contact::wire::control::{BeginRunRequest, GetRunRequest, Run, RunPhase, TargetState, WatchRunRequest};
use futures::StreamExt as _;
use futures::executor::block_on;
use grpcio::{RpcStatus, RpcStatusCode};
use protobuf::EnumOrUnknown;

use crate::common::DEADLINE;
use crate::conventions::reason;
use crate::rig::{Client, Rig, Tasks, done, patient, status_of, told};

fn request(text: &str, to: &[&str]) -> BeginRunRequest {
    BeginRunRequest { task: text.into(), to: to.iter().map(ToString::to_string).collect(), ..Default::default() }
}

fn try_begin(rig: &Rig, request: &BeginRunRequest) -> Result<Run, RpcStatus> {
    let begun = status_of(block_on(async { rig.operator.control.begin_run(request, patient())?.await }))?;
    Ok(begun.run.unwrap_or_default())
}

#[track_caller]
fn begin(rig: &Rig, request: &BeginRunRequest) -> Run {
    try_begin(rig, request).unwrap()
}

fn try_change(rig: &Rig, number: u64, change: pb::change_run_request::Change) -> Result<Run, RpcStatus> {
    let request = pb::ChangeRunRequest { number, change: change.into(), ..Default::default() };
    status_of(block_on(async { rig.operator.control.change_run(&request, patient())?.await }))
}

/// Each target with its state, as soon as it is so.
#[track_caller]
fn until(rig: &Rig, number: u64, expected: &[(&str, TargetState)]) -> Run {
    let begun = Instant::now();
    loop {
        let request = GetRunRequest { number, ..Default::default() };
        let details = block_on(rig.operator.control.get_run(&request, patient()).unwrap()).unwrap();
        let mut found: Vec<_> =
            details.targets.iter().map(|target| (target.group.as_str(), target.state.unwrap())).collect();
        found.sort_unstable_by_key(|(group, _)| *group);
        if found == expected {
            return details.run.unwrap_or_default();
        }
        assert!(begun.elapsed() < DEADLINE, "{found:?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[track_caller]
fn until_phase(rig: &Rig, number: u64, phase: RunPhase) -> Run {
    let begun = Instant::now();
    loop {
        let request = GetRunRequest { number, ..Default::default() };
        let run = block_on(rig.operator.control.get_run(&request, patient()).unwrap()).unwrap().run.unwrap_or_default();
        if run.phase == EnumOrUnknown::from(phase) {
            return run;
        }
        assert!(begun.elapsed() < DEADLINE, "{run:?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// All that is told of a run until it ends.
fn watch(rig: &Rig, number: u64, after: u64) -> Vec<pb::RunNews> {
    let request = WatchRunRequest { number, after, ..Default::default() };
    let mut news = rig.operator.control.watch_run(&request, patient()).unwrap();
    let mut all = Vec::new();
    block_on(async {
        while let Some(next) = news.next().await {
            all.push(next.unwrap());
        }
    });
    all
}

pub(super) fn fleet(rig: &Rig, names: &[&str]) -> (Vec<Client>, Vec<Tasks>) {
    let clients: Vec<_> = names
        .iter()
        .map(|name| rig.named(name).saying("contact-labels", "role=web").saying("contact-begins", "1"))
        .collect();
    let tasks = clients.iter().map(Client::tasks).collect();
    rig.operator.connected(names.len());
    (clients, tasks)
}

const BEGUN: Outcome = Outcome::WORKING;

#[test]
fn a_run_has_a_state_for_each_of_its_targets_and_ends_when_all_are_through() {
    let rig = Rig::start();
    let (clients, mut tasks) = fleet(&rig, &["a", "b", "c"]);
    // One that is not there any more.
    drop(tasks.pop());
    rig.operator.connected(2);
    let run = begin(&rig, &BeginRunRequest { select: "role = web".into(), ..request("uptime", &[]) });
    assert_eq!((run.select.as_str(), run.counts.iter().sum::<u32>(), run.tasks.len()), ("role=web", 3, 1));
    assert_eq!(run.number, run.tasks[0], "it is known by its first task");
    use TargetState::{TARGET_BEGUN, TARGET_DONE, TARGET_FAILED, TARGET_OFFLINE, TARGET_SENT};
    let (at_a, at_b) = (tasks[0].next(), tasks[1].next());
    until(&rig, run.number, &[("a", TARGET_SENT), ("b", TARGET_SENT), ("c", TARGET_OFFLINE)]);
    clients[0].tell([told(&at_a, BEGUN, "")]);
    clients[1].tell([told(&at_b, Outcome::FAILED, "no such file")]);
    until(&rig, run.number, &[("a", TARGET_BEGUN), ("b", TARGET_FAILED), ("c", TARGET_OFFLINE)]);
    clients[0].tell([told(&at_a, Outcome::DONE, "up 3 days")]);
    // It waits for the one that is away, which comes back.
    until(&rig, run.number, &[("a", TARGET_DONE), ("b", TARGET_FAILED), ("c", TARGET_OFFLINE)]);
    let mut at_c = clients[2].tasks();
    let task = at_c.next();
    clients[2].tell([done(&task)]);
    let news = watch(&rig, run.number, 0);
    let last = news.last().unwrap().run.clone().unwrap_or_default();
    assert_eq!(last.phase, RunPhase::RUN_COMPLETED.into());
    assert_eq!(&last.counts[..], [0, 0, 0, 0, 2, 1, 0, 0]);
    let results: Vec<_> = news.iter().flat_map(|news| &news.results).collect();
    let said: Vec<_> = results.iter().map(|result| (result.group.as_str(), result.ret.as_str())).collect();
    assert_eq!(said, [("b", "no such file"), ("a", "up 3 days"), ("c", "done")]);
    // From where somebody was cut off.
    let rest = watch(&rig, run.number, results[0].seq);
    assert_eq!(rest.iter().map(|news| news.results.len()).sum::<usize>(), 2);
    // What failed is done again by a run of its own.
    let again = pb::RetryFailedRequest { number: run.number, ..Default::default() };
    let again =
        block_on(rig.operator.control.retry_failed(&again, patient()).unwrap()).unwrap().run.unwrap_or_default();
    assert_eq!((again.again, again.task.as_str(), again.counts.iter().sum::<u32>()), (run.number, "uptime", 1));
    let task = tasks[1].next();
    clients[1].tell([done(&task)]);
    until_phase(&rig, again.number, RunPhase::RUN_COMPLETED);
    let list = block_on(rig.operator.control.list_runs(&pb::ListRunsRequest::new(), patient()).unwrap()).unwrap();
    let numbers: Vec<_> = list.runs.iter().map(|run| (run.number, run.counts[4])).collect();
    assert_eq!((numbers, list.more), (vec![(again.number, 1), (run.number, 2)], false));
}

#[test]
fn a_run_always_ends_at_its_deadline() {
    let rig = Rig::start();
    let (_clients, mut tasks) = fleet(&rig, &["a", "b"]);
    drop(tasks.pop());
    rig.operator.connected(1);
    let run = begin(&rig, &BeginRunRequest { deadline_ms: 300, ..request("x", &["a", "b"]) });
    let task = tasks[0].next();
    assert_eq!(task.task, "x");
    let ended = until_phase(&rig, run.number, RunPhase::RUN_EXPIRED);
    assert!(ended.ended_at >= ended.deadline);
    use TargetState::TARGET_EXPIRED;
    until(&rig, run.number, &[("a", TARGET_EXPIRED), ("b", TARGET_EXPIRED)]);
}

#[test]
fn a_rollout_goes_on_where_it_was_after_a_restart_and_stops_when_too_many_fail() {
    let mut rig = Rig::start();
    let names = ["a", "b", "c", "d"];
    let (clients, mut tasks) = fleet(&rig, &names);
    let rollout = pb::Rollout { canary: "1".into(), batch: "50%".into(), ..Default::default() };
    let run = begin(&rig, &BeginRunRequest { rollout: Some(rollout).into(), ..request("upgrade", &names) });
    use TargetState::{TARGET_DONE, TARGET_FAILED, TARGET_OFFLINE, TARGET_QUEUED, TARGET_SENT};
    let task = tasks[0].next();
    let rest = [("b", TARGET_QUEUED), ("c", TARGET_QUEUED), ("d", TARGET_QUEUED)];
    until(&rig, run.number, &[&[("a", TARGET_SENT)], &rest[..]].concat());
    clients[0].tell([done(&task)]);
    // The next part.
    let (at_b, at_c) = (tasks[1].next(), tasks[2].next());
    let now =
        until(&rig, run.number, &[("a", TARGET_DONE), ("b", TARGET_SENT), ("c", TARGET_SENT), ("d", TARGET_QUEUED)]);
    assert_eq!((now.parts, now.out, now.tasks.len()), (2, 3, 2));
    clients[1].tell([done(&at_b)]);
    drop(tasks);
    rig.restart();
    let waits = [("a", TARGET_DONE), ("b", TARGET_DONE), ("c", TARGET_OFFLINE), ("d", TARGET_OFFLINE)];
    until(&rig, run.number, &waits);
    // That all are away for a moment does not have the others be given it.
    let (c, d) = (rig.named("c").saying("contact-begins", "1"), rig.named("d"));
    let (_at_c, mut at_d) = (c.tasks(), d.tasks());
    until(&rig, run.number, &[("a", TARGET_DONE), ("b", TARGET_DONE), ("c", TARGET_QUEUED), ("d", TARGET_QUEUED)]);
    c.tell([told(&at_c, Outcome::FAILED, "disk full")]);
    let stopped = until_phase(&rig, run.number, RunPhase::RUN_STOPPED);
    assert_eq!((stopped.out, stopped.parts), (3, 2), "one may not fail");
    use pb::change_run_request::Change::{ABORT, PAUSE, RESUME};
    assert_eq!(try_change(&rig, run.number, RESUME).unwrap().phase, RunPhase::RUN_GOING.into());
    let task = at_d.next();
    d.tell([done(&task)]);
    until(&rig, run.number, &[("a", TARGET_DONE), ("b", TARGET_DONE), ("c", TARGET_FAILED), ("d", TARGET_DONE)]);
    until_phase(&rig, run.number, RunPhase::RUN_COMPLETED);
    for change in [ABORT, PAUSE] {
        let status = try_change(&rig, run.number, change).unwrap_err();
        assert_eq!((status.code(), &*reason(&status)), (RpcStatusCode::FAILED_PRECONDITION, "RUN_STATE"));
    }
}

#[test]
fn an_abort_takes_back_what_has_not_begun_and_a_cancel_everything() {
    let rig = Rig::start();
    use TargetState::{TARGET_BEGUN, TARGET_CANCELLED, TARGET_DONE, TARGET_SENT};
    use pb::change_run_request::Change::{ABORT, CANCEL};
    let names = ["a", "b", "c"];
    let (clients, mut tasks) = fleet(&rig, &names);
    drop(tasks.pop());
    rig.operator.connected(2);
    let run = begin(&rig, &request("x", &names));
    let (at_a, _) = (tasks[0].next(), tasks[1].next());
    clients[0].tell([told(&at_a, BEGUN, "")]);
    let away = TargetState::TARGET_OFFLINE;
    until(&rig, run.number, &[("a", TARGET_BEGUN), ("b", TARGET_SENT), ("c", away)]);
    try_change(&rig, run.number, ABORT).unwrap();
    until(&rig, run.number, &[("a", TARGET_BEGUN), ("b", TARGET_CANCELLED), ("c", TARGET_CANCELLED)]);
    clients[0].tell([done(&at_a)]);
    until_phase(&rig, run.number, RunPhase::RUN_ABORTED);
    until(&rig, run.number, &[("a", TARGET_DONE), ("b", TARGET_CANCELLED), ("c", TARGET_CANCELLED)]);
    // Who comes back is not given it any more.
    let mut at_c = clients[2].tasks();
    rig.operator.submit(&["after it"]);
    assert_eq!(at_c.texts(1), ["after it"]);

    let run = begin(&rig, &request("y", &["a", "b"]));
    let mut next = |at: usize| loop {
        let task = tasks[at].next();
        if task.task == "y" {
            return task;
        }
    };
    let at_a = next(0);
    clients[0].tell([told(&at_a, BEGUN, "")]);
    next(1);
    until(&rig, run.number, &[("a", TARGET_BEGUN), ("b", TARGET_SENT)]);
    assert_eq!(try_change(&rig, run.number, CANCEL).unwrap().phase, RunPhase::RUN_CANCELLING.into());
    until_phase(&rig, run.number, RunPhase::RUN_CANCELLED);
    until(&rig, run.number, &[("a", TARGET_CANCELLED), ("b", TARGET_CANCELLED)]);
}

#[test]
fn a_run_may_also_be_for_groups_that_match_later() {
    let rig = Rig::start();
    let (clients, mut tasks) = fleet(&rig, &["a"]);
    let run = BeginRunRequest { select: "role=web".into(), include_new: true, ..request("x", &[]) };
    let run = begin(&rig, &run);
    let task = tasks[0].next();
    clients[0].tell([done(&task)]);
    let b = rig.client(&[("contact-client", "b"), ("contact-labels", "role=web")]);
    let mut at_b = b.tasks();
    let task = at_b.next();
    assert_eq!(task.task, "x");
    b.tell([done(&task)]);
    use TargetState::TARGET_DONE;
    let now = until(&rig, run.number, &[("a", TARGET_DONE), ("b", TARGET_DONE)]);
    assert_eq!(now.phase, RunPhase::RUN_GOING.into(), "others may come, until its deadline");
}

#[test]
fn a_run_that_makes_no_sense_is_refused() {
    let rig = Rig::start();
    let _fleet = fleet(&rig, &["a"]);
    let refused = |request: BeginRunRequest| reason(&try_begin(&rig, &request).unwrap_err());
    assert_eq!(refused(request("", &["a"])), "TASK_EMPTY");
    assert_eq!(refused(request("x", &[])), "RUN_INVALID");
    assert_eq!(refused(BeginRunRequest { select: "role=web".into(), ..request("x", &["a"]) }), "RUN_INVALID");
    assert_eq!(refused(BeginRunRequest { include_new: true, ..request("x", &["a"]) }), "RUN_INVALID");
    assert_eq!(refused(BeginRunRequest { deadline_ms: u64::MAX, ..request("x", &["a"]) }), "RUN_INVALID");
    assert_eq!(refused(BeginRunRequest { select: "role=db".into(), ..request("x", &[]) }), "RUN_WITHOUT_TARGETS");
    assert_eq!(refused(request("x", &["a", "nobody"])), "GROUP_UNKNOWN");
    let many: Vec<String> = (0..20_001).map(|n| n.to_string()).collect();
    assert_eq!(refused(BeginRunRequest { to: many, ..request("x", &[]) }), "TARGETS_TOO_MANY");
    for (canary, batch, max_failed) in [("0.5", "", ""), ("", "101%", ""), ("", "", "some")] {
        let share = |text: &str| text.to_owned();
        let rollout = pb::Rollout {
            canary: share(canary),
            batch: share(batch),
            max_failed: share(max_failed),
            ..Default::default()
        };
        assert_eq!(refused(BeginRunRequest { rollout: Some(rollout).into(), ..request("x", &["a"]) }), "RUN_INVALID");
    }
    let dry = begin(&rig, &BeginRunRequest { dry_run: true, ..request("x", &["a"]) });
    assert_eq!((dry.number, dry.counts[0]), (0, 1));
    assert_eq!(rig.operator.tasks_now(), []);
    let unknown = GetRunRequest { number: 7, ..Default::default() };
    let status = status_of(block_on(async { rig.operator.control.get_run(&unknown, patient())?.await })).unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (RpcStatusCode::NOT_FOUND, "RUN_UNKNOWN"));
    // No more go on than may.
    for _ in 0..100 {
        begin(&rig, &request("x", &["a"]));
    }
    assert_eq!(refused(request("x", &["a"])), "RUNS_FULL");
}

#[test]
fn a_task_is_watched_until_all_groups_have_settled_it() {
    let rig = Rig::start();
    let (clients, mut tasks) = fleet(&rig, &["a", "b"]);
    let id = rig.operator.submit(&["x"]);
    let request = pb::WatchTaskRequest { id, ..Default::default() };
    let mut news = rig.operator.control.watch_task(&request, patient()).unwrap();
    let first = block_on(news.next()).unwrap().unwrap();
    assert_eq!(first.ledger.waiting + first.ledger.in_flight, 2);
    let mut said = Vec::new();
    for (client, tasks) in clients.iter().zip(&mut tasks) {
        let task = tasks.next();
        client.tell([told(&task, Outcome::DONE, "y")]);
    }
    block_on(async {
        while let Some(next) = news.next().await {
            said.extend(next.unwrap().results.into_iter().map(|result| result.group));
        }
    });
    said.sort_unstable();
    assert_eq!(said, ["a", "b"]);
}
