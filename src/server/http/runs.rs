//! Runs over HTTP.

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::{Deserialize, Serialize};

use super::answer::{Answer, Refused};
use super::api::{Asked, Id, Nothing, asked, beside, body, id, ok};
use super::app::AppState;
use crate::attachment::{Attachment, Headers};
use crate::run::{Rollout, TargetState, What, Wish};
use crate::server::access::Caller;
use crate::server::operator::{MOST, NewRun, page_of_targets, share};
use crate::server::runs::View;
use crate::server::traffic::Flow;
use crate::task::{Priority, TaskId, Time};

pub(super) fn router() -> Router<AppState> {
    Router::new()
        .route("/api/runs", get(list).post(begin))
        .route("/api/runs/{id}", get(one))
        .route("/api/runs/{id}/pause", post(pause))
        .route("/api/runs/{id}/resume", post(resume))
        .route("/api/runs/{id}/abort", post(abort))
        .route("/api/runs/{id}/cancel", post(cancel))
        .route("/api/runs/{id}/retry", post(retry))
}

/// A run, as the page and scripts get it.
#[derive(Serialize)]
struct Run<'a> {
    run: TaskId,
    text: &'a str,
    #[serde(skip_serializing_if = "Headers::is_empty")]
    headers: &'a Headers,
    data_size: usize,
    #[serde(skip_serializing_if = "str::is_empty")]
    select: &'a str,
    include_new: bool,
    phase: &'static str,
    began_at: Time,
    deadline: Time,
    ended_at: Option<Time>,
    targets: u32,
    /// How many targets were given their tasks, in how many parts.
    out: usize,
    parts: u32,
    in_parts: bool,
    counts: std::collections::BTreeMap<&'static str, u32>,
    tasks: Vec<TaskId>,
    by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    again: Option<TaskId>,
}

impl Run<'_> {
    fn of(view: &View) -> Run<'_> {
        let run = &view.run;
        let counts = TargetState::ALL.into_iter().map(|state| (state.as_str(), view.tally.get(state)));
        Run {
            run: run.number,
            text: &run.what.text,
            headers: run.what.attachment.headers(),
            data_size: run.what.attachment.data().len(),
            select: &run.what.select,
            include_new: run.what.include_new,
            phase: run.course.phase.as_str(),
            began_at: run.began_at,
            deadline: run.deadline,
            ended_at: run.ended_at,
            targets: view.tally.all(),
            out: run.course.out,
            parts: run.course.parts,
            in_parts: run.rollout.is_in_parts(),
            counts: counts.filter(|(_, count)| *count > 0).collect(),
            tasks: run.tasks.iter().map(|(id, _)| *id).collect(),
            by: run.by.as_ref().map(|by| by.name.as_str()),
            again: Some(run.what.again).filter(|run| *run > 0),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Runs {
    before: Option<TaskId>,
    limit: Option<usize>,
}

async fn list(State(app): State<AppState>, query: Asked<Runs>) -> Answer {
    let query = asked(query)?;
    let limit = query.limit.unwrap_or(50).clamp(1, MOST);
    let (views, more) = app.operator.runs.list(query.before.unwrap_or(TaskId::MAX), limit).await?;
    ok(serde_json::json!({ "runs": views.iter().map(Run::of).collect::<Vec<_>>(), "more": more }))
}

/// Which of its targets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Targets {
    skip: Option<usize>,
    limit: Option<usize>,
    state: Option<TargetState>,
}

async fn one(State(app): State<AppState>, path: Id, query: Asked<Targets>) -> Answer {
    let query = asked(query)?;
    let view = app.operator.runs.view(id(path)?).await?;
    let states: Vec<TargetState> = query.state.into_iter().collect();
    let limit = query.limit.unwrap_or(MOST).clamp(1, MOST);
    let (page, next) = page_of_targets(&view, query.skip.unwrap_or(0), limit, &states);
    let mut seqs: Vec<u64> = page.iter().map(|(_, _, seq)| *seq).filter(|seq| *seq > 0).collect();
    seqs.sort_unstable();
    // As many texts as a message has room for; the ledger of the task has the others.
    let (results, _) = app.operator.results(&seqs).await?;
    let said = |seq: u64| {
        let at = results.binary_search_by_key(&seq, |entry| entry.seq).ok()?;
        Some((&*results[at].result.client, results[at].result.ret.as_str()))
    };
    let targets: Vec<_> = page
        .iter()
        .map(|(group, state, seq)| {
            let (client, ret) = said(*seq).unzip();
            serde_json::json!({ "group": group.as_str(), "state": state, "client": client, "ret": ret })
        })
        .collect();
    let next = (next > 0).then_some(next);
    ok(serde_json::json!({ "run": Run::of(&view), "targets": targets, "next": next }))
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NewRollout {
    canary: String,
    batch: String,
    soak_ms: u64,
    max_failed: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Begin {
    #[serde(default)]
    text: String,
    #[serde(default)]
    headers: HashMap<String, String>,
    #[serde(default)]
    data: String,
    #[serde(default)]
    select: String,
    #[serde(default)]
    to: Vec<String>,
    #[serde(default)]
    include_new: bool,
    #[serde(default)]
    deadline_ms: u64,
    #[serde(default)]
    rollout: NewRollout,
    max_attempts: Option<u32>,
    #[serde(default)]
    retry: String,
    #[serde(default)]
    timeout_ms: u32,
    #[serde(default)]
    timeout_fails: bool,
    #[serde(default)]
    priority: Priority,
    #[serde(default)]
    dry_run: bool,
}

async fn begin(State(app): State<AppState>, Extension(caller): Extension<Caller>, request: Body) -> Answer {
    let new: Begin = body(&app, request).await?;
    let beside = beside(new.headers, &new.data)?;
    app.operator.traffic.count(Flow::Submitted, 1, new.text.len() + beside.bytes());
    let dry = new.dry_run;
    let new = NewRun {
        what: What {
            text: new.text,
            attachment: Attachment::default(),
            select: new.select,
            include_new: new.include_new,
            max_attempts: new.max_attempts.filter(|most| *most > 0),
            retry: new.retry,
            timeout_ms: new.timeout_ms,
            timeout_fails: new.timeout_fails,
            priority: new.priority,
            again: 0,
        },
        beside,
        to: new.to,
        rollout: Rollout {
            canary: share("canary", &new.rollout.canary)?,
            batch: share("batch", &new.rollout.batch)?,
            soak_ms: new.rollout.soak_ms,
            max_failed: share("max_failed", &new.rollout.max_failed)?,
        },
        lasts: Duration::from_millis(new.deadline_ms),
        dry,
    };
    let view = app.operator.begin_run(new, caller.submitter()).await?;
    if !dry {
        caller.began(view.run.number, view.targets.len());
    }
    ok(Run::of(&view))
}

async fn change(app: AppState, path: Id, request: Body, wish: Wish) -> Answer {
    let Nothing {} = body(&app, request).await?;
    ok(Run::of(&*app.operator.change_run(id(path)?, wish).await?))
}

async fn pause(State(app): State<AppState>, path: Id, request: Body) -> Answer {
    change(app, path, request, Wish::Pause).await
}

async fn resume(State(app): State<AppState>, path: Id, request: Body) -> Answer {
    change(app, path, request, Wish::Resume).await
}

async fn abort(State(app): State<AppState>, path: Id, request: Body) -> Answer {
    change(app, path, request, Wish::Abort).await
}

async fn cancel(State(app): State<AppState>, path: Id, request: Body) -> Answer {
    change(app, path, request, Wish::Cancel).await
}

async fn retry(State(app): State<AppState>, Extension(caller): Extension<Caller>, path: Id, request: Body) -> Answer {
    let Nothing {} = body(&app, request).await?;
    let view = app.operator.retry_run(id(path)?, Duration::ZERO, caller.submitter()).await?;
    ok(Run::of(&view))
}

/// How long a request may wait for a task to be settled.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Waits until all groups have settled a task, for as long as a request says.
pub(super) async fn wait_for(app: &AppState, task: TaskId, text: &str) -> Result<(), Refused> {
    let wait = humantime::parse_duration(text).map_err(|_| Refused::bad("wait is a duration, as in 30s"))?;
    let until = tokio::time::Instant::now() + wait.min(LONGEST_WAIT);
    let mut stopped = app.stopped.clone();
    let mut seen = None;
    loop {
        // One that takes its place leaves no result with a group that is away.
        let newest = app.operator.store.tail().positions();
        let newest = (newest.task, newest.result);
        if seen != Some(newest) {
            seen = Some(newest);
            let part = crate::server::operator::Part { limit: 1, without_results: true, ..Default::default() };
            let began = tokio::time::Instant::now();
            let counts = app.operator.describe(task, part).await?.counts;
            if counts.waiting + counts.in_flight == 0 {
                app.operator.broker.flushed().await?;
                return Ok(());
            }
            // A long look is followed by a long rest.
            tokio::time::sleep_until(until.min(tokio::time::Instant::now() + began.elapsed() * 10)).await;
        }
        let now = tokio::time::Instant::now();
        if now >= until {
            return Ok(());
        }
        if tokio::time::timeout_at(until.min(now + LOOK), stopped.changed()).await.is_ok() {
            return Ok(());
        }
    }
}
