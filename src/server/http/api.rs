//! The API: what the page, and scripts, ask for and change.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::guard::{Refused, json};
use super::json::{Client, Dead, Group, Ledger, Stage};
use super::live::not_ready;
use super::tasks::{self, Wanted};
use super::{Answer, Face};
use crate::server::control::optional_group;
use crate::server::operate;
use crate::server::refusal::Refusal;
use crate::task::{TaskId, Time};
use crate::wire::control as pb;

/// Most rows of a list.
const MOST: usize = 1000;
/// Bodies that are read at once: together they take no more memory than so many of the largest.
pub(super) const BODIES: usize = 8;

pub(super) fn router() -> Router<Face> {
    Router::new()
        .route("/api/state", get(state))
        .route("/api/tasks", get(tasks).post(submit))
        .route("/api/tasks/{id}", get(ledger))
        .route("/api/tasks/{id}/cancel", post(cancel))
        .route("/api/tasks/{id}/retry", post(retry))
        .route("/api/tasks/{id}/drop", post(drop_dead))
        .route("/api/dead", get(dead))
        .route("/api/clients", get(clients))
        .route("/api/groups", get(groups))
        .route("/api/groups/pause", post(pause))
        .route("/api/groups/remove", post(remove_group))
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
}

fn ok(body: impl serde::Serialize) -> Answer {
    Ok(json(StatusCode::OK, &body))
}

type Asked<T> = Result<Query<T>, QueryRejection>;

fn asked<T>(query: Asked<T>) -> Result<T, Refused> {
    query.map(|Query(query)| query).map_err(|e| Refused::bad(e.body_text()))
}

type Id = Result<Path<TaskId>, PathRejection>;

fn id(path: Id) -> Result<TaskId, Refused> {
    path.map(|Path(id)| id).map_err(|_| Refused::bad("a task's id is a number"))
}

/// The body of a request, which must not be larger than what it can carry: a text may need an escape for each of its bytes.
async fn body<T: DeserializeOwned>(face: &Face, body: Body) -> Result<T, Refused> {
    let limit = face.service.limit * 2 + 64 * 1024;
    // Never closed.
    let _place = face.bodies.acquire().await;
    let bytes = to_bytes(body, limit).await.map_err(|_| {
        let why =
            format!("the body is cut off, or larger than {limit} bytes (twice the server's --max-task, and some)");
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "HTTP_BODY", why)
    })?;
    serde_json::from_slice(&bytes).map_err(|e| Refused::bad(format!("the body is not the JSON that was expected: {e}")))
}

async fn state(State(face): State<Face>) -> Answer {
    let state = face.live.fresh().await?.json();
    Ok(([(header::CONTENT_TYPE, "application/json")], state).into_response())
}

async fn ready(State(face): State<Face>) -> Answer {
    Ok(match not_ready(&face.health) {
        None => "ready".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    before: Option<u64>,
    group: Option<String>,
    limit: Option<usize>,
}

impl Before {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(50).clamp(1, MOST)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tasks {
    before: Option<u64>,
    group: Option<String>,
    state: Option<Stage>,
    limit: Option<usize>,
}

async fn tasks(State(face): State<Face>, query: Asked<Tasks>) -> Answer {
    let query = asked(query)?;
    let wanted = Wanted {
        before: query.before.unwrap_or(TaskId::MAX),
        limit: query.limit.unwrap_or(50).clamp(1, tasks::MOST),
        group: optional_group(query.group.as_deref().unwrap_or_default())?,
        stage: query.state,
    };
    ok(&*face.live.tasks(wanted).await?)
}

async fn ledger(State(face): State<Face>, path: Id) -> Answer {
    let request = pb::DescribeTaskRequest { id: id(path)?, ..Default::default() };
    ok(Ledger::from(face.service.describe(request).await?))
}

async fn dead(State(face): State<Face>, query: Asked<Before>) -> Answer {
    let query = asked(query)?;
    let group = optional_group(query.group.as_deref().unwrap_or_default())?;
    let (before, limit) = (query.before.unwrap_or(u64::MAX), query.limit());
    let read = move |reader: &mut dyn crate::store::Reader| {
        let (entries, more) = operate::latest_dead(reader, before, group.as_ref(), limit)?;
        let mut dead = Vec::with_capacity(entries.len());
        for entry in entries {
            let task = reader.tasks_by_id(&[entry.result.task])?.into_iter().next();
            dead.push(Dead::of(entry, task));
        }
        Ok((dead, more))
    };
    let (dead, more) = face.service.queries.run(read).await?;
    ok(serde_json::json!({ "dead": dead, "more": more }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Like {
    q: Option<String>,
    limit: Option<usize>,
}

impl Like {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(200).clamp(1, MOST)
    }

    fn matches(&self, text: &str) -> bool {
        self.q.as_ref().is_none_or(|q| text.contains(q.as_str()))
    }
}

async fn clients(State(face): State<Face>, query: Asked<Like>) -> Answer {
    let like = asked(query)?;
    let all = face.live.clients().await?;
    let is_wanted = |client: &&Client| {
        let names = [client.client.as_deref(), client.group.as_deref(), Some(&*client.peer)];
        names.into_iter().flatten().any(|name| like.matches(name))
    };
    let found: Vec<&Client> = all.iter().filter(is_wanted).collect();
    let clients = &found[..found.len().min(like.limit())];
    ok(serde_json::json!({ "clients": clients, "total": found.len() }))
}

async fn groups(State(face): State<Face>, query: Asked<Like>) -> Answer {
    let like = asked(query)?;
    let newest = face.live.fresh().await?;
    let mut found = newest.by_attention();
    found.retain(|group| like.matches(group.info.name.as_str()));
    let groups: Vec<Group> = found.iter().take(like.limit()).map(|group| Group::from(*group)).collect();
    ok(serde_json::json!({ "groups": groups, "total": found.len() }))
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Priority {
    High,
    Normal,
    Low,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTask {
    text: String,
    to: Option<String>,
    key: Option<String>,
    #[serde(default)]
    delay_ms: u64,
    ttl_ms: Option<u64>,
    max_attempts: Option<u32>,
    priority: Option<Priority>,
}

async fn submit(State(face): State<Face>, request: Body) -> Answer {
    let task: NewTask = body(&face, request).await?;
    let after = |millis: u64| Time::now().after(std::time::Duration::from_millis(millis)).0;
    let priority = match task.priority {
        Some(Priority::High) => pb::Priority::HIGH,
        Some(Priority::Low) => pb::Priority::LOW,
        Some(Priority::Normal) | None => pb::Priority::NORMAL,
    };
    let task = pb::NewTask {
        task: task.text,
        to: task.to.unwrap_or_default(),
        key: task.key.unwrap_or_default(),
        not_before: if task.delay_ms == 0 { 0 } else { after(task.delay_ms) },
        expires_at: task.ttl_ms.map_or(0, after),
        max_attempts: task.max_attempts.unwrap_or(0),
        priority: priority.into(),
        ..Default::default()
    };
    let request = pb::SubmitRequest { tasks: vec![task], ..Default::default() };
    let accepted = face.service.accept_all(request).await.map_err(|refusal| match refusal {
        // There is only the one.
        Refusal::InRequest { why, .. } => *why,
        other => other,
    })?;
    ok(serde_json::json!({ "id": accepted.first_id }))
}

/// Nothing, or nothing that we know: a misspelt field is not to be passed over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn cancel(State(face): State<Face>, path: Id, request: Body) -> Answer {
    let Nothing {} = body(&face, request).await?;
    let request = pb::CancelTaskRequest { id: id(path)?, ..Default::default() };
    ok(serde_json::json!({ "groups": face.service.cancel(request).await?.groups }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InGroup {
    #[serde(default)]
    group: String,
}

async fn retry(State(face): State<Face>, path: Id, request: Body) -> Answer {
    let InGroup { group } = body(&face, request).await?;
    let request = pb::RetryTaskRequest { id: id(path)?, group, ..Default::default() };
    ok(serde_json::json!({ "groups": face.service.retry(request).await?.groups }))
}

async fn drop_dead(State(face): State<Face>, path: Id, request: Body) -> Answer {
    let InGroup { group } = body(&face, request).await?;
    let request = pb::DropDeadRequest { id: id(path)?, group, ..Default::default() };
    face.service.drop_dead_letter(request).await?;
    ok(serde_json::json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    group: String,
    paused: bool,
}

async fn pause(State(face): State<Face>, request: Body) -> Answer {
    let Pause { group, paused } = body(&face, request).await?;
    face.service.pause(pb::PauseGroupRequest { group, paused, ..Default::default() }).await?;
    ok(serde_json::json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Remove {
    group: String,
}

async fn remove_group(State(face): State<Face>, request: Body) -> Answer {
    let Remove { group } = body(&face, request).await?;
    let removed = face.service.forget(pb::RemoveGroupRequest { group, ..Default::default() }).await?;
    ok(serde_json::json!({ "owed": removed.owed }))
}
