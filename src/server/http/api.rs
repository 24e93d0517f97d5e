//! The API: what the page, and scripts, ask for and change.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::answer::{Answer, Refused, json};
use super::app::AppState;
use super::json::{Client, Dead, Dialled, Group, Ledger, Limits, policy};
use super::live::not_ready;
use crate::attachment::{Attachment, from_base64};
use crate::broker::Cancelled;
use crate::group_limits::{LimitsChange, OnDead};
use crate::server::access::Caller;
use crate::server::operator::{self, Beside, Part, Replacing, TaskRequest, Wanted, if_set, per_second, retry_policy};
use crate::server::traffic::Flow;
use crate::task::{Name, NameOf, Priority, TaskId};
use crate::task_state::TaskState;

/// Most rows of a list.
const MOST: usize = 1000;
/// Large bodies that are read at once: together they take no more memory than this many of the largest.
pub(super) const BODIES: usize = 8;
/// Those up to this length are read at once. There are no more than connections.
const SMALL: u64 = 64 * 1024;
/// For a body to come.
const BODY: Duration = Duration::from_secs(10);

pub(super) fn router() -> Router<AppState> {
    Router::new()
        .route("/api/state", get(state))
        .route("/api/tasks", get(tasks).post(submit))
        .route("/api/tasks/{id}", get(ledger))
        .route("/api/tasks/{id}/data", get(data_of_task))
        .route("/api/results/{id}/data", get(data_of_result))
        .route("/api/tasks/{id}/cancel", post(cancel))
        .route("/api/tasks/{id}/retry", post(retry))
        .route("/api/tasks/{id}/drop", post(drop_dead))
        .route("/api/dead", get(dead))
        .route("/api/clients", get(clients))
        .route("/api/clients/drain", post(drain))
        .route("/api/clients/undrain", post(undrain))
        .route("/api/dialled", get(dialled))
        .route("/api/dialled/add", post(add_dialled))
        .route("/api/dialled/remove", post(remove_dialled))
        .route("/api/groups", get(groups))
        .route("/api/groups/pause", post(pause))
        .route("/api/groups/retry", post(set_retry))
        .route("/api/groups/limits", post(set_limits))
        .route("/api/groups/remove", post(remove_group))
}

/// Whether the server is well. It waits for nothing.
pub(super) fn health() -> Router<AppState> {
    Router::new().route("/healthz", get(alive)).route("/readyz", get(ready))
}

pub(super) fn ok(body: impl serde::Serialize) -> Answer {
    Ok(json(StatusCode::OK, &body))
}

pub(super) type Asked<T> = Result<Query<T>, QueryRejection>;

pub(super) fn asked<T>(query: Asked<T>) -> Result<T, Refused> {
    query.map(|Query(query)| query).map_err(|e| Refused::bad(e.body_text()))
}

pub(super) type Id = Result<Path<TaskId>, PathRejection>;

pub(super) fn id(path: Id) -> Result<TaskId, Refused> {
    path.map(|Path(id)| id).map_err(|_| Refused::bad("a task's id is a number"))
}

/// The body of a request, which must not be larger than what it can carry: a text may need an escape for each of its bytes.
pub(super) async fn body<T: DeserializeOwned>(app: &AppState, body: Body) -> Result<T, Refused> {
    let limit = app.operator.limit * 2 + 64 * 1024;
    let is_small = body.size_hint().upper().is_some_and(|most| most <= SMALL);
    let read = async {
        // Never closed.
        let _place = if is_small { None } else { app.bodies.acquire().await.ok() };
        to_bytes(body, limit).await
    };
    let read = tokio::time::timeout(BODY, read).await.map_err(|_| {
        let why = format!("the body did not come within {} s", BODY.as_secs());
        Refused::new(StatusCode::REQUEST_TIMEOUT, "HTTP_BODY_SLOW", why)
    })?;
    let bytes = read.map_err(|_| {
        let why =
            format!("the body is cut off, or larger than {limit} bytes (twice the server's --max-task, and some)");
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "HTTP_BODY", why)
    })?;
    read_json(&bytes)
}

fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(bytes).map_err(|e| Refused::bad(format!("the body is not the JSON that was expected: {e}")))
}

async fn state(State(app): State<AppState>) -> Answer {
    let state = app.live.fresh().await?.json();
    Ok(([(header::CONTENT_TYPE, "application/json")], state).into_response())
}

async fn alive(State(app): State<AppState>) -> Answer {
    Ok(match app.pulse.stands_still() {
        None => "ok".into_response(),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, what).into_response(),
    })
}

async fn ready(State(app): State<AppState>) -> Answer {
    Ok(match not_ready(&app.health) {
        None if app.operator.store.cluster().is_some() => "leading".into_response(),
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
    state: Option<TaskState>,
    limit: Option<usize>,
}

async fn tasks(State(app): State<AppState>, query: Asked<Tasks>) -> Answer {
    let query = asked(query)?;
    let wanted = Wanted {
        before: query.before.unwrap_or(TaskId::MAX),
        limit: query.limit.unwrap_or(50).clamp(1, operator::MOST),
        group: if_set(NameOf::Group, query.group.as_deref().unwrap_or_default())?,
        state: query.state,
        addressed: false,
        outcome: None,
        text: String::new(),
    };
    ok(&*app.live.tasks(wanted).await?)
}

/// Which groups of a task.
#[derive(Deserialize)]
struct InGroups {
    after: Option<String>,
    group: Option<String>,
    limit: Option<usize>,
    /// How long to wait until all groups have settled it.
    wait: Option<String>,
}

async fn ledger(State(app): State<AppState>, path: Id, query: Asked<InGroups>) -> Answer {
    let query = asked(query)?;
    let part = Part {
        after: if_set(NameOf::Group, query.after.as_deref().unwrap_or_default())?,
        limit: query.limit.unwrap_or(operator::MOST).clamp(1, operator::MOST),
        group: if_set(NameOf::Group, query.group.as_deref().unwrap_or_default())?,
        without_results: false,
    };
    let id = id(path)?;
    if let Some(wait) = &query.wait {
        super::runs::wait_for(&app, id, wait).await?;
    }
    ok(Ledger::from(app.operator.describe(id, part).await?))
}

async fn data_of_task(State(app): State<AppState>, path: Id) -> Answer {
    let id = id(path)?;
    Ok(download(&format!("task-{id}"), &app.operator.attachment_of_task(id).await?))
}

async fn data_of_result(State(app): State<AppState>, path: Id) -> Answer {
    let seq = path.map(|Path(seq)| seq).map_err(|_| Refused::bad("the position of a result is a number"))?;
    Ok(download(&format!("result-{seq}"), &app.operator.attachment_of_result(seq).await?))
}

/// Data as a file to be saved. Whatever its sender calls it, it is bytes: no browser is to render, on the page's own origin, what
/// somebody else wrote. That it is not guessed either is said with every answer.
fn download(name: &str, attachment: &Attachment) -> Response {
    let disposition = format!("attachment; filename=\"{name}.bin\"");
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, disposition.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, attachment.data().to_vec()).into_response()
}

async fn dead(State(app): State<AppState>, query: Asked<Before>) -> Answer {
    let query = asked(query)?;
    let group = if_set(NameOf::Group, query.group.as_deref().unwrap_or_default())?;
    let (before, limit) = (query.before.unwrap_or(u64::MAX), query.limit());
    let (letters, more) = app.operator.latest_dead(before, group, limit).await?;
    let dead: Vec<Dead> = letters.into_iter().map(|(entry, task)| Dead::of(entry, task)).collect();
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

async fn clients(State(app): State<AppState>, query: Asked<Like>) -> Answer {
    let like = asked(query)?;
    let all = app.live.clients().await?;
    let is_wanted = |client: &&Client| {
        let names = [client.client.as_deref(), client.group.as_deref(), Some(&*client.peer)];
        names.into_iter().flatten().any(|name| like.matches(name))
    };
    let found: Vec<&Client> = all.iter().filter(is_wanted).collect();
    let clients = &found[..found.len().min(like.limit())];
    ok(serde_json::json!({ "clients": clients, "total": found.len() }))
}

async fn dialled(State(app): State<AppState>) -> Answer {
    let dialled: Vec<Dialled> = app.operator.dialler.all().into_iter().map(Dialled::of).collect();
    ok(serde_json::json!({ "dialled": dialled }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddDialled {
    address: String,
    #[serde(default)]
    group: String,
    #[serde(default)]
    client: String,
}

async fn add_dialled(State(app): State<AppState>, request: Body) -> Answer {
    let AddDialled { address, group, client } = body(&app, request).await?;
    let group = if_set(NameOf::ClientOrGroup, &group)?;
    let client = if_set(NameOf::ClientOrGroup, &client)?;
    ok(serde_json::json!({ "is_new": app.operator.dialler.add(&address, group, client).await? }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveDialled {
    address: String,
}

async fn remove_dialled(State(app): State<AppState>, request: Body) -> Answer {
    let RemoveDialled { address } = body(&app, request).await?;
    app.operator.dialler.remove(&address).await?;
    ok(serde_json::json!({}))
}

async fn groups(State(app): State<AppState>, query: Asked<Like>) -> Answer {
    let like = asked(query)?;
    let newest = app.live.fresh().await?;
    let mut found = newest.by_attention();
    found.retain(|group| like.matches(group.info.name.as_str()));
    let groups: Vec<Group> = found.iter().take(like.limit()).map(|group| Group::from(*group)).collect();
    ok(serde_json::json!({ "groups": groups, "total": found.len() }))
}

/// One group, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum To {
    One(String),
    Several(Vec<String>),
}

/// A task as a body has it. Its data is in base64.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTask {
    #[serde(default)]
    text: String,
    #[serde(default)]
    headers: HashMap<String, String>,
    #[serde(default)]
    data: String,
    to: Option<To>,
    #[serde(default)]
    select: String,
    key: Option<String>,
    #[serde(default)]
    delay_ms: u64,
    ttl_ms: Option<u64>,
    max_attempts: Option<u32>,
    #[serde(default)]
    retry: String,
    #[serde(default)]
    timeout_ms: u32,
    #[serde(default)]
    timeout_fails: bool,
    #[serde(default)]
    replace: String,
    quiet_ms: Option<u64>,
    max_wait_ms: Option<u64>,
    priority: Option<Priority>,
    #[serde(default)]
    lane: String,
}

impl NewTask {
    pub(super) fn request(self) -> Result<TaskRequest, Refused> {
        let (to, groups) = match self.to {
            Some(To::One(to)) => (to, Vec::new()),
            Some(To::Several(groups)) => (String::new(), groups),
            None => Default::default(),
        };
        Ok(TaskRequest {
            text: self.text,
            beside: beside(self.headers, &self.data)?,
            to,
            groups,
            select: self.select,
            key: self.key.unwrap_or_default(),
            not_before: None,
            expires_at: None,
            delay: (self.delay_ms > 0).then(|| Duration::from_millis(self.delay_ms)),
            ttl: self.ttl_ms.map(Duration::from_millis),
            max_attempts: self.max_attempts,
            retry: self.retry,
            timeout_ms: self.timeout_ms,
            timeout_fails: self.timeout_fails,
            replace: Replacing {
                key: self.replace,
                quiet: self.quiet_ms.map(Duration::from_millis),
                max_wait: self.max_wait_ms.map(Duration::from_millis),
            },
            priority: self.priority.unwrap_or_default(),
            lane: self.lane,
        })
    }
}

async fn submit(State(app): State<AppState>, Extension(caller): Extension<Caller>, request: Body) -> Answer {
    let task = body::<NewTask>(&app, request).await?.request()?;
    app.operator.traffic.count(Flow::Submitted, 1, task.text.len() + task.beside.bytes());
    let task = caller.submits()(task.check(app.operator.limit, None)?)?;
    caller.spend(1)?;
    let (id, known) = app.operator.submit_one(task).await?;
    caller.submitted(id, 1);
    ok(serde_json::json!({ "id": id, "known": known }))
}

/// What a task is to have beside its text; `data` in base64.
pub(super) fn beside(headers: HashMap<String, String>, data: &str) -> Result<Beside, Refused> {
    let data = from_base64(data).ok_or_else(|| Refused::bad("`data` is not in base64, with padding, of RFC 4648"))?;
    Ok(Beside { headers, data })
}

/// Nothing, or nothing that we know: a misspelt field is not to be passed over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

async fn cancel(State(app): State<AppState>, path: Id, request: Body) -> Answer {
    let Nothing {} = body(&app, request).await?;
    let (cancelled, already) = app.operator.cancel(id(path)?).await?;
    let Cancelled { told, untold, .. } = cancelled;
    ok(serde_json::json!({ "groups": cancelled.groups(), "already": already, "told": told, "untold": untold }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InGroup {
    #[serde(default)]
    group: String,
}

async fn retry(State(app): State<AppState>, path: Id, request: Body) -> Answer {
    let InGroup { group } = body(&app, request).await?;
    let group = if_set(NameOf::Group, &group)?;
    ok(serde_json::json!({ "groups": app.operator.retry(id(path)?, group).await? }))
}

async fn drop_dead(State(app): State<AppState>, path: Id, request: Body) -> Answer {
    let InGroup { group } = body(&app, request).await?;
    app.operator.drop_dead(id(path)?, Name::new(NameOf::Group, &group)?).await?;
    ok(serde_json::json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    group: String,
    paused: bool,
}

async fn pause(State(app): State<AppState>, request: Body) -> Answer {
    let Pause { group, paused } = body(&app, request).await?;
    app.operator.pause(Name::new(NameOf::Group, &group)?, paused).await?;
    ok(serde_json::json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drain {
    client: String,
    for_ms: Option<u64>,
    #[serde(default)]
    note: String,
}

async fn drain(State(app): State<AppState>, request: Body) -> Answer {
    let Drain { client, for_ms, note } = body(&app, request).await?;
    let lasts = for_ms.filter(|lasts| *lasts > 0).map(Duration::from_millis);
    ok(serde_json::json!({ "clients": app.operator.drain(client, lasts, note).await?.len() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Undrain {
    client: String,
}

async fn undrain(State(app): State<AppState>, request: Body) -> Answer {
    let Undrain { client } = body(&app, request).await?;
    let drained = app.operator.undrain(client).await?;
    ok(serde_json::json!({ "clients": drained.clients.len(), "was_drained": drained.changed }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetRetry {
    group: String,
    /// `null` or empty: as the server is set. To be said: a request that misses it would reset the policy by accident.
    #[serde(deserialize_with = "Option::deserialize")]
    retry: Option<String>,
}

async fn set_retry(State(app): State<AppState>, request: Body) -> Answer {
    let SetRetry { group, retry } = body(&app, request).await?;
    let retry = retry_policy(&retry.unwrap_or_default())?;
    app.operator.set_retry(Name::new(NameOf::Group, &group)?, retry).await?;
    ok(serde_json::json!({ "retry": policy(retry) }))
}

/// What is not named stays as it was.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetLimits {
    group: String,
    /// `null`: there is no limit any more.
    #[serde(default, deserialize_with = "named")]
    max_in_flight: Option<Option<NonZeroU32>>,
    /// The same.
    #[serde(default, deserialize_with = "named")]
    max_begun_per_second: Option<Option<f64>>,
    lane_max: Option<NonZeroU32>,
    lane_on_dead: Option<OnDead>,
}

/// What is named, be it `null`.
fn named<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(value).map(Some)
}

async fn set_limits(State(app): State<AppState>, request: Body) -> Answer {
    let request: SetLimits = body(&app, request).await?;
    let change = LimitsChange {
        max_in_flight: request.max_in_flight,
        max_begun: request.max_begun_per_second.map(|rate| per_second(rate.unwrap_or(0.0))).transpose()?,
        lane_max: request.lane_max,
        on_dead: request.lane_on_dead,
    };
    let (limits, is_new) = app.operator.set_limits(Name::new(NameOf::Group, &request.group)?, change).await?;
    ok(serde_json::json!({ "limits": Limits::from(limits), "is_new": is_new }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Remove {
    group: String,
}

async fn remove_group(State(app): State<AppState>, request: Body) -> Answer {
    let Remove { group } = body(&app, request).await?;
    ok(serde_json::json!({ "owed": app.operator.remove_group(Name::new(NameOf::Group, &group)?).await? }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::http::Uri;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::fuzz::{any_bytes, cases};

    #[test]
    fn any_bytes_of_a_query_or_a_body_are_read_or_refused() {
        fn query<T: DeserializeOwned>(bytes: &[u8]) {
            // What hyper would not take for a query does not come here.
            if let Ok(uri) = Uri::try_from([b"/api/x?", bytes].concat()) {
                drop(asked::<T>(Query::try_from_uri(&uri)).map_err(|refused| assert!(refused.why().len() <= 1024)));
            }
        }
        fn json<T: DeserializeOwned>(bytes: &[u8]) {
            drop(read_json::<T>(bytes).map_err(|refused| assert!(refused.why().len() <= 1024)));
        }
        let valid = select(&[
            "before=7&group=%E5%B7%A5&limit=10&state=dead",
            "q=a+b%20c&limit=18446744073709551616",
            r#"{"text":"x","to":"g","key":"k","delay_ms":5,"ttl_ms":9,"max_attempts":2,"retry":"first=1s","priority":"low"}"#,
            r#"{"text":"x","to":["g","h"],"select":"os=linux,!canary","timeout_ms":9,"timeout_fails":true}"#,
            r#"{"headers":{"content-type":"text/plain"},"data":"AP8="}"#,
            r#"{"text":"x","to":["g"],"deadline_ms":9,"rollout":{"canary":"1","batch":"10%","soak_ms":1},"dry_run":true}"#,
            "skip=3&limit=2&state=offline",
            "name=a&moments=3&after=%E5%B7%A5",
            r#"{"name":"n","cron":"0 3 * * 1-5","zone":"Europe/Berlin","every_ms":9,"missed":"once","task":{"text":"x"}}"#,
            r#"{"client":"c","for_ms":1,"note":"n"}"#,
            r#"{"group":"g","retry":null}"#,
            r#"{"group":"\ud800\u0000","paused":true}"#,
        ]);
        let valid = valid.prop_map(|text| text.as_bytes().to_vec());
        any_bytes(
            cases(),
            valid,
            |length| 64 * 1024 + 40 * length,
            |bytes| {
                query::<Before>(bytes);
                query::<Tasks>(bytes);
                query::<InGroups>(bytes);
                query::<crate::server::http::runs::Runs>(bytes);
                query::<crate::server::http::runs::Targets>(bytes);
                json::<crate::server::http::runs::Begin>(bytes);
                query::<crate::server::http::schedules::Which>(bytes);
                json::<crate::server::http::schedules::Set>(bytes);
                query::<Like>(bytes);
                json::<NewTask>(bytes);
                json::<Nothing>(bytes);
                json::<InGroup>(bytes);
                json::<Pause>(bytes);
                json::<AddDialled>(bytes);
                json::<RemoveDialled>(bytes);
                json::<Drain>(bytes);
                json::<Undrain>(bytes);
                json::<SetRetry>(bytes);
                json::<SetLimits>(bytes);
                json::<Remove>(bytes);
            },
        );
    }
}
