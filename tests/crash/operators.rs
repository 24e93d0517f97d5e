//! Those who begin runs, pause, resume, abort and cancel them; and who cancel tasks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use contact::wire::control as pb;
use contact::wire::control_grpc::ControlClient;
use futures::executor::block_on;
use grpcio::{CallOption, RpcStatusCode};
use pb::change_run_request::Change;

use super::witness::{Cancelled, Witness};
use super::{BROADCAST, CAREFUL, QUEUE};

/// How the text of every run begins.
pub const RUN: &str = "run ";
/// Runs that somebody changes, of those that go on.
const CHANGES: [Change; 7] =
    [Change::PAUSE, Change::RESUME, Change::RESUME, Change::RESUME, Change::ABORT, Change::RESUME, Change::CANCEL];

pub fn start(witness: &Arc<Witness>) -> Vec<JoinHandle<()>> {
    let spawn = |name: &str, work: fn(&Witness)| {
        let witness = witness.clone();
        thread::Builder::new().name(name.into()).spawn(move || work(&witness)).unwrap()
    };
    vec![spawn("operator-runs", runs), spawn("operator-cancels", cancels)]
}

/// Begins runs and changes them, as long as others submit; then waits until all have ended.
fn runs(witness: &Witness) {
    let client = ControlClient::new(witness.connect(&witness.control));
    let mut began = Vec::new();
    for n in 0_u64.. {
        if !witness.is_submitting() {
            break;
        }
        let request = run(n);
        witness.runs_tried.lock().unwrap().insert(request.task.clone());
        // At the start, a group that is named may be yet to come; and an answer that does not come leaves it open whether it began.
        let answer = client.begin_run(&request, patient()).ok().and_then(|answer| block_on(answer).ok());
        if let Some(run) = answer.and_then(|answer| answer.run.into_option()) {
            witness.runs.lock().unwrap().insert(run.number, request.task);
            began.push(run.number);
        }
        if let Some(number) = began.get(rand::random_range(0..=began.len())) {
            let change = CHANGES[n as usize % CHANGES.len()];
            let request = pb::ChangeRunRequest { number: *number, change: change.into(), ..Default::default() };
            // Most have ended by then.
            let changed = client.change_run(&request, patient()).map(block_on);
            assert!(!is_refused_though_it_goes_on(&changed.and_then(|changed| changed)), "run {number}: {change:?}");
        }
        thread::sleep(witness.pause * 20);
    }
    let began = Instant::now();
    loop {
        let request = pb::ListRunsRequest { limit: 1_000, ..Default::default() };
        let list = client.list_runs(&request, patient()).map(block_on).unwrap().unwrap();
        let open: Vec<_> = list.runs.iter().filter(|run| run.ended_at == 0).collect();
        if open.is_empty() {
            return;
        }
        assert!(began.elapsed() < witness.patience, "these do not end: {open:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A run that ends soon. One of four is in parts, and one of three ends by its deadline, as a rule.
fn run(n: u64) -> pb::BeginRunRequest {
    let named = || BROADCAST.into_iter().chain([QUEUE, CAREFUL]).map(str::to_owned).collect();
    let rollout = pb::Rollout {
        canary: "1".into(),
        batch: ["1", "50%"][n as usize % 2].into(),
        soak_ms: n % 3 * 50,
        max_failed: ["", "50%"][n as usize % 2].into(),
        ..Default::default()
    };
    pb::BeginRunRequest {
        task: format!("{RUN}{n}"),
        select: if n.is_multiple_of(2) { "name".into() } else { String::new() },
        to: if n.is_multiple_of(2) { Vec::new() } else { named() },
        include_new: n.is_multiple_of(6),
        deadline_ms: [1, 700, 3_000, 3_000][n as usize % 4],
        rollout: Some(rollout).filter(|_| n % 4 != 1).into(),
        timeout_ms: if n.is_multiple_of(5) { 60_000 } else { 0 },
        ..Default::default()
    }
}

/// A run is refused a change only when that makes no sense: one that is paused, say, can be aborted also right after a start.
fn is_refused_though_it_goes_on(changed: &grpcio::Result<pb::Run>) -> bool {
    let Err(grpcio::Error::RpcFailure(status)) = changed else { return false };
    let goes_on = ["is going", "is paused", "is stopped"].iter().any(|phase| status.message().contains(phase));
    status.code() == RpcStatusCode::FAILED_PRECONDITION && goes_on
}

/// Submits tasks and cancels some of them, at once or a moment later.
fn cancels(witness: &Witness) {
    let client = ControlClient::new(witness.connect(&witness.control));
    let mut open: BTreeMap<u64, u64> = BTreeMap::new();
    for n in 0_u64.. {
        if !witness.is_submitting() {
            return;
        }
        let task = pb::NewTask { task: format!("perhaps cancelled {n}"), ..Default::default() };
        let task = match n % 3 {
            0 => pb::NewTask { to: QUEUE.into(), priority: pb::Priority::LOW.into(), ..task },
            1 => pb::NewTask { groups: BROADCAST.map(str::to_owned).to_vec(), ..task },
            _ => pb::NewTask { select: format!("name in ({}, {CAREFUL})", BROADCAST[0]), ..task },
        };
        witness.tried.lock().unwrap().insert(task.task.clone(), super::ledger::aim(&task));
        let request = pb::SubmitRequest { tasks: vec![task], ..Default::default() };
        let answer = client.submit(&request, patient()).ok().and_then(|answer| block_on(answer).ok());
        open.extend(answer.filter(|answer| answer.refused.is_empty()).map(|answer| (answer.first_id, n)));
        while let Some(first) = open.first_entry().filter(|first| n - first.get() >= first.get() % 4) {
            let (id, _) = first.remove_entry();
            let request = pb::CancelTaskRequest { id, ..Default::default() };
            let answer = client.cancel_task(&request, patient()).ok().and_then(|answer| block_on(answer).ok());
            if answer.is_some() {
                witness.cancelled.lock().unwrap().push(Cancelled { id, life: witness.life() });
            }
        }
        thread::sleep(witness.pause * 4);
    }
}

/// For when the server is away for a moment; and no longer, or a call that is lost would never be answered.
fn patient() -> CallOption {
    CallOption::default().wait_for_ready(true).timeout(Duration::from_secs(20))
}
