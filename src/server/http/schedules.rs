//! Schedules over HTTP.

use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::{Deserialize, Serialize};

use super::answer::Answer;
use super::api::{Asked, NewTask, asked, body, ok};
use super::app::AppState;
use crate::attachment::Headers;
use crate::schedule::{Missed, When};
use crate::server::access::Caller;
use crate::server::operator::{MOST_MOMENTS, MOST_MOMENTS_IN_LIST, NewSchedule, if_set, schedule_name};
use crate::server::schedules::View;
use crate::store::PAGE_BYTES;
use crate::task::{NameOf, Priority, TaskId, Time};

pub(super) fn router() -> Router<AppState> {
    Router::new()
        .route("/api/schedules", get(list).post(set))
        .route("/api/schedules/pause", post(pause))
        .route("/api/schedules/run", post(run))
        .route("/api/schedules/remove", post(remove))
}

/// A schedule, as the page and scripts get it.
#[derive(Serialize)]
struct Schedule<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    every_ms: Option<u64>,
    missed: Missed,
    paused: bool,
    task: Task<'a>,
    next: &'a [Time],
    last_task: Option<TaskId>,
    last_moment: Option<Time>,
    set_at: Time,
    set_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<&'a str>,
}

/// What each of its tasks has.
#[derive(Serialize)]
struct Task<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "Headers::is_empty")]
    headers: &'a Headers,
    data_size: usize,
    to: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    select: &'a str,
    delay_ms: Option<u64>,
    ttl_ms: Option<u64>,
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "str::is_empty")]
    retry: &'a str,
    timeout_ms: u32,
    timeout_fails: bool,
    priority: Priority,
    #[serde(skip_serializing_if = "str::is_empty")]
    lane: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    replace: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    quiet_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_wait_ms: Option<u64>,
}

impl Schedule<'_> {
    fn of(view: &View) -> Schedule<'_> {
        let schedule = &view.schedule;
        let what = &schedule.what;
        let (cron, zone, every_ms) = match &schedule.when {
            When::Cron { expression, zone } => (Some(expression.as_str()), Some(zone.as_str()), None),
            When::Every { millis, .. } => (None, None, Some(*millis)),
        };
        Schedule {
            name: view.name.as_str(),
            cron,
            zone,
            every_ms,
            missed: schedule.missed,
            paused: schedule.paused,
            task: Task {
                text: &what.text,
                headers: what.attachment.headers(),
                data_size: what.attachment.data().len(),
                to: Some(what.to.as_str()).filter(|to| !to.is_empty()),
                groups: &what.groups,
                select: &what.select,
                delay_ms: what.delay_ms,
                ttl_ms: what.ttl_ms,
                max_attempts: what.max_attempts,
                retry: &what.retry,
                timeout_ms: what.timeout_ms,
                timeout_fails: what.timeout_fails,
                priority: what.priority,
                lane: &what.lane,
                replace: &what.replace,
                quiet_ms: what.quiet_ms,
                max_wait_ms: what.max_wait_ms,
            },
            next: &view.next,
            last_task: schedule.last.map(|last| last.task),
            last_moment: schedule.last.and_then(|last| last.moment),
            set_at: schedule.set_at,
            set_by: schedule.by.as_ref().map(|by| by.name.as_str()),
            trouble: view.trouble.as_deref(),
        }
    }
}

/// One, or all after a name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    name: Option<String>,
    after: Option<String>,
    moments: Option<usize>,
}

async fn list(State(app): State<AppState>, query: Asked<Which>) -> Answer {
    let query = asked(query)?;
    let (schedules, moments) = (&app.operator.schedules, query.moments.unwrap_or(1));
    let (views, more) = match &query.name {
        Some(name) => {
            let view = schedules.view(schedule_name(name)?, moments.clamp(1, MOST_MOMENTS)).await?;
            (vec![view], false)
        }
        None => {
            let after = if_set(NameOf::Schedule, query.after.as_deref().unwrap_or_default())?;
            schedules.list(after.as_ref(), moments.clamp(1, MOST_MOMENTS_IN_LIST), PAGE_BYTES).await?
        }
    };
    let next = views.last().filter(|_| more).map(|last| last.name.to_string());
    ok(serde_json::json!({ "schedules": views.iter().map(Schedule::of).collect::<Vec<_>>(), "next": next }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Set {
    name: String,
    #[serde(default)]
    cron: String,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    every_ms: u64,
    #[serde(default)]
    missed: Missed,
    task: NewTask,
}

async fn set(State(app): State<AppState>, Extension(caller): Extension<Caller>, request: Body) -> Answer {
    let Set { name, cron, zone, every_ms, missed, task } = body(&app, request).await?;
    let new = NewSchedule { name, cron, zone, every_ms, missed, task: task.request()? };
    let (view, is_new, changed) = app.operator.set_schedule(new, caller.submitter()).await?;
    ok(serde_json::json!({ "schedule": Schedule::of(&view), "is_new": is_new, "changed": changed }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    name: String,
    paused: bool,
}

async fn pause(State(app): State<AppState>, request: Body) -> Answer {
    let Pause { name, paused } = body(&app, request).await?;
    ok(Schedule::of(&app.operator.schedules.pause(schedule_name(&name)?, paused).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

async fn run(State(app): State<AppState>, request: Body) -> Answer {
    let Named { name } = body(&app, request).await?;
    ok(serde_json::json!({ "id": app.operator.schedules.run(schedule_name(&name)?).await? }))
}

async fn remove(State(app): State<AppState>, request: Body) -> Answer {
    let Named { name } = body(&app, request).await?;
    app.operator.schedules.remove(schedule_name(&name)?).await?;
    ok(serde_json::json!({}))
}
