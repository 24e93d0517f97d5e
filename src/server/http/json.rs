//! What goes over HTTP. Names in snake_case, times in milliseconds since 1970 UTC, null where something is not set.

use serde::{Deserialize, Serialize};

use super::follow::Last;
use crate::broker::{ClientInfo, TaskState};
use crate::server::convert;
use crate::server::findings::{self, Code, Severity};
use crate::server::groups;
use crate::server::operate;
use crate::store::{Reader, StoreError};
use crate::task::{self, GroupName, Outcome, TaskId, TaskResult};
use crate::wire::control as pb;

/// Characters of a task's text in lists.
const CHARS: usize = 1000;

fn set(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn is_set(time: i64) -> Option<i64> {
    Some(time).filter(|time| *time != 0)
}

/// A task.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Task {
    id: u64,
    text: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
    to: Option<String>,
    accepted_at: i64,
    key: Option<String>,
    not_before: Option<i64>,
    expires_at: Option<i64>,
    max_attempts: Option<u32>,
    priority: &'static str,
}

impl Task {
    /// All of it.
    pub(super) fn whole(task: pb::Task) -> Task {
        Task {
            id: task.id,
            text: task.task,
            cut: false,
            to: set(task.to),
            accepted_at: task.accepted_at,
            key: set(task.key),
            not_before: is_set(task.not_before),
            expires_at: is_set(task.expires_at),
            max_attempts: Some(task.max_attempts).filter(|attempts| *attempts > 0),
            priority: match task.priority.enum_value_or_default() {
                pb::Priority::HIGH => "high",
                pb::Priority::NORMAL => "normal",
                pb::Priority::LOW => "low",
            },
        }
    }

    /// With the beginning of its text.
    fn brief(task: task::Task) -> Task {
        let mut task = Task::whole(convert::task(task));
        if let Some((end, _)) = task.text.char_indices().nth(CHARS) {
            task.text.truncate(end);
            task.cut = true;
        }
        task
    }
}

/// How far a task has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    Waiting,
    #[serde(rename = "in flight")]
    InFlight,
    Settled,
    Dead,
}

/// A task of a list, with where it stands and what came of it last.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Listed {
    #[serde(flatten)]
    task: Task,
    state: Stage,
    outcome: Option<String>,
    last_at: Option<i64>,
}

/// Results of one task that are looked at for a list: the newest. A task for thousands of groups has as many.
const RESULTS: usize = 64;

/// The newest results of a task, newest first; of one group, where that is asked for.
pub(super) fn latest_results(
    reader: &mut dyn Reader,
    task: TaskId,
    group: Option<&GroupName>,
) -> Result<Vec<TaskResult>, StoreError> {
    let mut newest = reader.latest_results_of(task, RESULTS)?;
    if group.is_none() {
        return Ok(newest);
    }
    // Other groups may have so many that its own are not among them.
    if newest.len() >= RESULTS {
        newest = reader.results_of(task)?;
        newest.reverse();
    }
    newest.retain(|entry| entry.result.group.as_ref() == group);
    Ok(newest)
}

impl Listed {
    /// `results` are the newest, newest first; `standing` that of the group which has most to do with it, or which was asked for.
    pub(super) fn of(task: task::Task, standing: Option<TaskState>, mut results: Vec<TaskResult>) -> Listed {
        results.reverse();
        let last = results.iter().rfind(|entry| !entry.result.late);
        let is_dead = || operate::settlements(&results).values().any(|entry| entry.result.outcome.is_dead());
        let state = match standing {
            Some(TaskState::InFlight(..)) => Stage::InFlight,
            Some(TaskState::Waiting(_)) => Stage::Waiting,
            Some(TaskState::Settled) if is_dead() => Stage::Dead,
            Some(TaskState::Settled) => Stage::Settled,
            // Only anonymous clients, or nobody yet.
            None if last.is_some() => Stage::Settled,
            None => Stage::Waiting,
        };
        let outcome = last.map(|entry| outcome(entry.result.outcome));
        Listed { state, outcome, last_at: last.map(|entry| entry.result.at.0), task: Task::brief(task) }
    }

    pub(super) fn id(&self) -> TaskId {
        self.task.id
    }

    pub(super) fn stage(&self) -> Stage {
        self.state
    }
}

fn outcome(outcome: Outcome) -> String {
    format!("{:?}", convert::outcome(outcome))
}

/// What came of a delivery.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    seq: u64,
    task: u64,
    group: Option<String>,
    client: String,
    attempt: u32,
    outcome: String,
    ret: String,
    at: i64,
    late: bool,
}

impl From<pb::TaskResult> for Told {
    fn from(result: pb::TaskResult) -> Told {
        Told {
            seq: result.seq,
            task: result.task_id,
            group: set(result.group),
            client: result.client,
            attempt: result.attempt,
            outcome: format!("{:?}", result.outcome.enum_value_or_default()),
            ret: result.ret,
            at: result.at,
            late: result.late,
        }
    }
}

/// A task that was given up, with its text.
#[derive(Debug, Serialize)]
pub(super) struct Dead {
    #[serde(flatten)]
    result: Told,
    text: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

impl Dead {
    pub(super) fn of(entry: TaskResult, task: Option<task::Task>) -> Dead {
        let (text, cut) = task.map(Task::brief).map_or_else(Default::default, |task| (task.text, task.cut));
        Dead { result: convert::result(entry).into(), text, cut }
    }
}

/// Where a task stands with a group.
#[derive(Debug, Serialize)]
pub(super) struct Stands {
    group: String,
    state: String,
    client: String,
    attempt: u32,
    reason: String,
}

/// One task, and all there is to know of it.
#[derive(Debug, Serialize)]
pub(super) struct Ledger {
    #[serde(flatten)]
    task: Task,
    groups: Vec<Stands>,
    results: Vec<Told>,
}

impl From<pb::TaskLedger> for Ledger {
    fn from(ledger: pb::TaskLedger) -> Ledger {
        let stands = |standing: pb::TaskStanding| Stands {
            group: standing.group,
            state: standing.state,
            client: standing.client,
            attempt: standing.attempt,
            reason: standing.reason,
        };
        Ledger {
            task: Task::whole(ledger.task.unwrap_or_default()),
            groups: ledger.groups.into_iter().map(stands).collect(),
            results: ledger.results.into_iter().map(Told::from).collect(),
        }
    }
}

/// A client, connected or gone.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Client {
    pub(super) client: Option<String>,
    pub(super) group: Option<String>,
    pub(super) peer: String,
    since: i64,
    window: Option<usize>,
    in_flight: usize,
    delivered: u64,
    connected: bool,
    gone_at: Option<i64>,
    last_status: Option<String>,
    last_status_at: Option<i64>,
    last_result: Option<String>,
    last_outcome: Option<String>,
    last_result_at: Option<i64>,
}

impl Client {
    /// `gone_at`: when it went, if it did.
    pub(super) fn of(client: &ClientInfo, gone_at: Option<i64>, last: Last) -> Client {
        let (last_status, last_status_at) = last.status.map(|(text, at)| (text, at.0)).unzip();
        let (last_result, told) = last.result.map(|(text, told, at)| (text, (outcome(told), at.0))).unzip();
        let (last_outcome, last_result_at) = told.unzip();
        Client {
            client: client.client.as_ref().map(ToString::to_string),
            group: client.group.as_ref().map(ToString::to_string),
            peer: client.peer.to_string(),
            since: client.since.0,
            window: client.window,
            in_flight: client.in_flight,
            delivered: client.delivered,
            connected: gone_at.is_none(),
            gone_at,
            last_status,
            last_status_at,
            last_result,
            last_outcome,
            last_result_at,
        }
    }
}

/// How far a group has come.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Group {
    group: String,
    clients: usize,
    lag: u64,
    in_flight: usize,
    waiting: usize,
    oldest: Option<u64>,
    oldest_at: Option<i64>,
    rate: f64,
    paused: bool,
    dead: u64,
    last_used: Option<i64>,
    never_came: bool,
}

impl From<&groups::Group> for Group {
    fn from(group: &groups::Group) -> Group {
        let (oldest, oldest_at) = group.oldest.map(|(id, at)| (id, at.0)).unzip();
        Group {
            group: group.info.name.to_string(),
            clients: group.info.clients,
            lag: group.lag,
            in_flight: group.info.in_flight,
            waiting: group.info.waiting,
            oldest,
            oldest_at,
            rate: group.info.rate,
            paused: group.info.paused,
            dead: group.dead,
            last_used: is_set(group.info.last_used.0),
            never_came: group.info.never_came,
        }
    }
}

/// What is not well.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    code: Code,
    severity: Severity,
    group: Option<String>,
    count: u64,
    limit: u64,
    task: Option<u64>,
    millis: u64,
    text: Option<String>,
    more: u64,
}

impl From<&findings::Finding> for Finding {
    fn from(found: &findings::Finding) -> Finding {
        Finding {
            code: found.code,
            severity: found.severity,
            group: found.group.as_ref().map(ToString::to_string),
            count: found.count,
            limit: found.limit,
            task: found.task,
            millis: found.millis,
            text: found.text.clone(),
            more: found.more,
        }
    }
}

/// The server.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Server {
    pub(super) version: &'static str,
    pub(super) started_at: i64,
    pub(super) listen: String,
    pub(super) control: String,
    pub(super) ready: bool,
    pub(super) why: Option<String>,
    pub(super) data: String,
    pub(super) store_bytes: u64,
    pub(super) disk_free_bytes: Option<u64>,
    pub(super) ack_timeout_ms: u64,
    pub(super) max_attempts: u32,
}

/// Everything together.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Totals {
    pub(super) tasks: u64,
    pub(super) results: u64,
    pub(super) statuses: u64,
    pub(super) clients: usize,
    pub(super) groups: usize,
    pub(super) in_flight: u64,
    pub(super) lag: u64,
    pub(super) dead: u64,
}

/// What the curves are made of: rates are of a second, over the time since the point before.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Point {
    pub(super) at: i64,
    pub(super) accepted: f64,
    pub(super) delivered: f64,
    pub(super) settled: f64,
    pub(super) failed: f64,
    pub(super) wait_p50_ms: Option<f64>,
    pub(super) wait_p99_ms: Option<f64>,
    pub(super) work_p50_ms: Option<f64>,
    pub(super) work_p99_ms: Option<f64>,
    pub(super) commit_p99_ms: Option<f64>,
    pub(super) in_flight: u64,
    pub(super) lag: u64,
}

/// The whole, once a second.
#[derive(Debug, Serialize)]
pub(super) struct State<'a> {
    pub(super) at: i64,
    pub(super) server: &'a Server,
    pub(super) totals: &'a Totals,
    pub(super) point: &'a Point,
    pub(super) step: Option<&'a Point>,
    pub(super) groups: Vec<Group>,
    pub(super) groups_left_out: usize,
    pub(super) clients: Vec<Client>,
    pub(super) clients_left_out: usize,
    pub(super) recent: &'a [Listed],
    pub(super) findings: Vec<Finding>,
}
