//! Runs.

use std::time::Duration;

use protobuf::EnumOrUnknown;

use super::{headers, millis, priority, result};
use crate::attachment::Attachment;
use crate::run::{Phase, Rollout, TargetState, What, Wish};
use crate::server::operator::{Beside, NewRun, Output, page_of_targets, share};
use crate::server::refusal::Refusal;
use crate::server::runs::View;
use crate::task::TaskResult;
use crate::wire::control as pb;

pub(in crate::server) fn new_run(request: pb::BeginRunRequest) -> Result<NewRun, Refusal> {
    let rollout = request.rollout.into_option().unwrap_or_default();
    Ok(NewRun {
        what: What {
            text: request.task,
            attachment: Attachment::default(),
            select: request.select,
            include_new: request.include_new,
            max_attempts: Some(request.max_attempts).filter(|most| *most > 0),
            retry: request.retry,
            timeout_ms: request.timeout_ms,
            timeout_fails: request.timeout_fails,
            priority: priority(request.priority)?,
            again: 0,
        },
        beside: Beside { headers: request.headers, data: request.data },
        to: request.to,
        rollout: Rollout {
            canary: share("canary", &rollout.canary)?,
            batch: share("batch", &rollout.batch)?,
            soak_ms: rollout.soak_ms,
            max_failed: share("max_failed", &rollout.max_failed)?,
        },
        lasts: Duration::from_millis(request.deadline_ms),
        dry: request.dry_run,
    })
}

pub(in crate::server) fn wish(change: EnumOrUnknown<pb::change_run_request::Change>) -> Result<Wish, Refusal> {
    use pb::change_run_request::Change;
    match change.enum_value() {
        Ok(Change::PAUSE) => Ok(Wish::Pause),
        Ok(Change::RESUME) => Ok(Wish::Resume),
        Ok(Change::ABORT) => Ok(Wish::Abort),
        Ok(Change::CANCEL) => Ok(Wish::Cancel),
        Ok(Change::CHANGE_UNSPECIFIED) => Err(Refusal::UnknownNumber { field: "change", number: 0 }),
        Err(number) => Err(Refusal::UnknownNumber { field: "change", number }),
    }
}

pub(in crate::server) fn begun_run(view: &View) -> pb::BegunRun {
    pb::BegunRun { run: Some(run(view)).into(), ..Default::default() }
}

pub(in crate::server) fn run(view: &View) -> pb::Run {
    let run = &view.run;
    let text = |share: Option<crate::run::Share>| share.map(|share| share.to_string()).unwrap_or_default();
    let rollout = (run.rollout != Rollout::default()).then(|| pb::Rollout {
        canary: text(run.rollout.canary),
        batch: text(run.rollout.batch),
        soak_ms: run.rollout.soak_ms,
        max_failed: text(run.rollout.max_failed),
        ..Default::default()
    });
    pb::Run {
        number: run.number,
        task: run.what.text.clone(),
        headers: headers(&run.what.attachment),
        data_size: run.what.attachment.data().len() as u64,
        select: run.what.select.clone(),
        include_new: run.what.include_new,
        began_at: run.began_at.0,
        deadline: run.deadline.0,
        ended_at: millis(run.ended_at),
        phase: phase(run.course.phase).into(),
        rollout: rollout.into(),
        parts: run.course.parts,
        out: run.course.out as u32,
        counts: view.tally.0.to_vec(),
        tasks: run.tasks.iter().map(|(id, _)| *id).collect(),
        submitted_by: run.by.as_ref().map(|by| by.name.clone()).unwrap_or_default(),
        again: run.what.again,
        timeout_ms: run.what.timeout_ms,
        ..Default::default()
    }
}

fn phase(phase: Phase) -> pb::RunPhase {
    match phase {
        Phase::Going => pb::RunPhase::RUN_GOING,
        Phase::Paused => pb::RunPhase::RUN_PAUSED,
        Phase::Stopped => pb::RunPhase::RUN_STOPPED,
        Phase::Aborting => pb::RunPhase::RUN_ABORTING,
        Phase::Cancelling => pb::RunPhase::RUN_CANCELLING,
        Phase::Completed => pb::RunPhase::RUN_COMPLETED,
        Phase::Aborted => pb::RunPhase::RUN_ABORTED,
        Phase::Cancelled => pb::RunPhase::RUN_CANCELLED,
        Phase::Expired => pb::RunPhase::RUN_EXPIRED,
    }
}

pub(in crate::server) fn run_details(view: &View, request: &pb::GetRunRequest) -> Result<pb::RunDetails, Refusal> {
    let asked = |state: &EnumOrUnknown<pb::TargetState>| {
        let number = state.value();
        let known = usize::try_from(number).ok().and_then(|at| TargetState::ALL.get(at).copied());
        known.ok_or(Refusal::UnknownNumber { field: "states", number })
    };
    let states: Vec<TargetState> = request.states.iter().map(asked).collect::<Result<_, _>>()?;
    let limit = if request.limit == 0 { usize::MAX } else { request.limit as usize };
    let (page, next) = page_of_targets(view, request.skip as usize, limit, &states);
    let target = |(group, state, seq): (crate::task::GroupName, TargetState, u64)| pb::RunTarget {
        group: group.as_str().to_owned(),
        state: EnumOrUnknown::from_i32(state as i32),
        seq,
        ..Default::default()
    };
    Ok(pb::RunDetails {
        run: Some(run(view)).into(),
        targets: page.into_iter().map(target).collect(),
        next: next as u32,
        ..Default::default()
    })
}

pub(in crate::server) fn run_list((views, more): (Vec<View>, bool)) -> pb::ListRunsResponse {
    pb::ListRunsResponse { runs: views.iter().map(run).collect(), more, ..Default::default() }
}

pub(in crate::server) fn run_news(view: &View, results: Vec<TaskResult>) -> pb::RunNews {
    let results = results.into_iter().map(result).collect();
    pb::RunNews { run: Some(run(view)).into(), results, ..Default::default() }
}

pub(in crate::server) fn output(output: Output) -> pb::TaskOutput {
    let Output { group, client, attempt, piece, silent } = output;
    let (group, client) = (group.to_string(), client.to_string());
    pb::TaskOutput { group, client, attempt, from: piece.from, bytes: piece.bytes, silent, ..Default::default() }
}

pub(in crate::server) fn task_news(ledger: pb::TaskLedger, results: Vec<TaskResult>) -> pb::TaskNews {
    let results = results.into_iter().map(result).collect();
    pb::TaskNews { ledger: Some(ledger).into(), results, ..Default::default() }
}
