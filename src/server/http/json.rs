//! What goes over HTTP. Names in snake_case, times in milliseconds since 1970 UTC, null where something is not set.

use std::num::NonZeroU32;

use serde::Serialize;

use super::last_reports::LastReport;
use super::servers::Servers;
use crate::attachment::{Attachment, Headers};
use crate::broker::{self, ClientInfo};
use crate::group_limits::{GroupLimits, OnDead, PerSecond};
use crate::retry::RetryPolicy;
use crate::server::convert::audience;
use crate::server::dial;
use crate::server::operator::{self, Code, Found, Severity, Standing};
use crate::store;
use crate::task::{self, Outcome, Priority, Progress, TaskId};
use crate::task_state::TaskState;

/// Characters of a task's text in lists.
const CHARS: usize = 1000;

/// A task.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Task {
    id: u64,
    text: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
    #[serde(flatten)]
    beside: Beside,
    to: Option<String>,
    /// Those it is for, if these are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    select: String,
    accepted_at: i64,
    key: Option<String>,
    not_before: Option<i64>,
    expires_at: Option<i64>,
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    timeout_fails: bool,
    /// The key by which others take its place, and it theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    replace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<u64>,
    /// At `expires_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_by: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quiet_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_wait_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<String>,
    priority: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    submitted_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    submitted_role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule_moment: Option<i64>,
}

/// What a task or a result has beside its text. The bytes themselves have routes of their own.
#[derive(Debug, Clone, Serialize)]
struct Beside {
    #[serde(skip_serializing_if = "Headers::is_empty")]
    headers: Headers,
    /// In lists, instead of all headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    data_size: usize,
}

fn is_zero(size: &usize) -> bool {
    *size == 0
}

impl Beside {
    fn of(attachment: &Attachment) -> Beside {
        Beside { headers: attachment.headers().clone(), content_type: None, data_size: attachment.data().len() }
    }

    fn brief(self) -> Beside {
        let content_type = self.headers.content_type().map(str::to_owned);
        Beside { content_type, headers: Headers::default(), ..self }
    }
}

impl Task {
    /// All of it but its data.
    fn whole(task: task::Task) -> Task {
        let task::Task { id, accepted_at, spec } = task;
        let (replaces, replaced_by) = (spec.replaces(), spec.replaced_by());
        let (over_at, by) = (spec.over_at(), spec.by);
        let (groups, select) = audience(spec.audience.as_deref());
        let quiet = spec.replace.as_ref().and_then(|replace| replace.quiet);
        Task {
            id,
            text: spec.text,
            beside: Beside::of(&spec.attachment),
            cut: false,
            to: spec.to.map(|to| to.to_string()),
            groups,
            select,
            accepted_at: accepted_at.0,
            key: spec.key,
            not_before: spec.not_before.map(|at| at.0),
            expires_at: over_at.map(|at| at.0),
            max_attempts: spec.max_attempts,
            retry: spec.retry.map(|retry| retry.to_string()),
            timeout_ms: spec.time_limit.map(|limit| limit.millis),
            timeout_fails: spec.time_limit.is_some_and(|limit| limit.fails),
            replace: spec.replace.map(|replace| replace.key().to_owned()),
            replaces,
            replaced_by,
            quiet_ms: quiet.map(|quiet| quiet.millis),
            max_wait_ms: quiet.and_then(|quiet| quiet.most_millis),
            lane: spec.lane.map(|lane| lane.to_string()),
            priority: match spec.priority {
                Priority::High => "high",
                Priority::Normal => "normal",
                Priority::Low => "low",
            },
            submitted_by: by.as_ref().map(|by| by.name.clone()),
            submitted_role: by.as_ref().map(|by| by.role.clone()),
            schedule: spec.made.as_ref().map(|made| made.schedule.to_string()),
            schedule_moment: spec.made.and_then(|made| made.moment).map(|at| at.0),
        }
    }

    /// With the beginning of its text, and of the headers only what its data is.
    fn brief(task: task::Task) -> Task {
        let mut task = Task::whole(task);
        task.beside = task.beside.brief();
        if let Some((end, _)) = task.text.char_indices().nth(CHARS) {
            task.text.truncate(end);
            task.cut = true;
        }
        task
    }
}

/// A task of a list, with where it stands and what came of it last.
#[derive(Debug, Clone, Serialize)]
pub(super) struct TaskRow {
    #[serde(flatten)]
    task: Task,
    state: TaskState,
    outcome: Option<Outcome>,
    last_at: Option<i64>,
}

impl From<&Standing> for TaskRow {
    fn from(it: &Standing) -> TaskRow {
        let last_at = it.last_at.map(|at| at.0);
        TaskRow { state: it.state, outcome: it.outcome, last_at, task: Task::brief(it.task.clone()) }
    }
}

/// Tasks that were found, newest first.
#[derive(Debug, Serialize)]
pub(super) struct FoundTasks {
    tasks: Vec<TaskRow>,
    /// What was looked at; `None`: there was nothing.
    looked: Option<Looked>,
    /// There are older tasks, which were not looked at.
    more: bool,
}

/// From one task to another, both included.
#[derive(Debug, Serialize)]
struct Looked {
    newest: TaskId,
    oldest: TaskId,
}

impl From<Found> for FoundTasks {
    fn from(found: Found) -> FoundTasks {
        FoundTasks {
            tasks: found.tasks.iter().map(TaskRow::from).collect(),
            looked: found.looked.map(|(newest, oldest)| Looked { newest, oldest }),
            more: found.more,
        }
    }
}

/// What came of a delivery.
#[derive(Debug, Serialize)]
struct TaskResult {
    seq: u64,
    task: u64,
    group: Option<String>,
    client: String,
    attempt: u32,
    outcome: Outcome,
    ret: String,
    #[serde(flatten)]
    beside: Beside,
    at: i64,
    late: bool,
}

impl From<task::TaskResult> for TaskResult {
    fn from(task::TaskResult { seq, result }: task::TaskResult) -> TaskResult {
        TaskResult {
            seq,
            task: result.task,
            group: result.group.map(|group| group.to_string()),
            client: result.client.to_string(),
            attempt: result.attempt,
            outcome: result.outcome,
            ret: result.ret,
            beside: Beside::of(&result.attachment),
            at: result.at.0,
            late: result.late,
        }
    }
}

/// A task that was given up, with its text.
#[derive(Debug, Serialize)]
pub(super) struct Dead {
    #[serde(flatten)]
    result: TaskResult,
    text: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

impl Dead {
    pub(super) fn of(entry: task::TaskResult, task: Option<task::Task>) -> Dead {
        let (text, cut) = task.map(Task::brief).map_or_else(Default::default, |task| (task.text, task.cut));
        Dead { result: entry.into(), text, cut }
    }
}

/// Where a task stands with a group.
#[derive(Debug, Serialize)]
struct TaskInGroup {
    group: String,
    state: TaskState,
    client: String,
    attempt: u32,
    reason: String,
    said: Option<String>,
    /// From 0 to 1.
    progress: Option<f32>,
    /// It was cancelled, and its client is still at work on it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    at_work: bool,
}

/// One task, and all there is to know of it.
#[derive(Debug, Serialize)]
pub(super) struct Ledger {
    #[serde(flatten)]
    task: Task,
    /// Of all groups.
    counts: operator::Counts,
    groups: Vec<TaskInGroup>,
    /// There are more groups after this one.
    next: Option<String>,
    results: Vec<TaskResult>,
    results_left_out: usize,
}

impl From<operator::Ledger> for Ledger {
    fn from(ledger: operator::Ledger) -> Ledger {
        let in_group = |task: operator::TaskInGroup| TaskInGroup {
            group: task.group.to_string(),
            state: task.reason.state(),
            client: task.client.to_string(),
            attempt: task.attempt,
            reason: task.reason.to_string(),
            said: task.said.text.map(|said| said.to_string()),
            progress: task.said.progress.map(Progress::part),
            at_work: task.at_work,
        };
        Ledger {
            task: Task::whole(ledger.task),
            counts: ledger.counts,
            groups: ledger.groups.into_iter().map(in_group).collect(),
            next: ledger.next.map(|group| group.to_string()),
            results_left_out: ledger.results_left_out,
            results: ledger.results.into_iter().map(TaskResult::from).collect(),
        }
    }
}

/// How far a client is with the oldest of its tasks of which it said so.
#[derive(Debug, Clone, Serialize)]
struct Working {
    task: TaskId,
    said: Option<String>,
    /// From 0 to 1.
    progress: Option<f32>,
}

impl Working {
    fn of((task, said): &(TaskId, broker::Said)) -> Working {
        let (text, progress) = (said.text.as_ref().map(ToString::to_string), said.progress.map(Progress::part));
        Working { task: *task, said: text, progress }
    }
}

/// Why a client is given no more tasks.
#[derive(Debug, Clone, Serialize)]
struct Draining {
    since: i64,
    until: Option<i64>,
    note: String,
    stopping: bool,
}

impl From<&broker::Draining> for Draining {
    fn from(draining: &broker::Draining) -> Draining {
        let broker::Draining { since, until, note, stopping, .. } = draining;
        Draining { since: since.0, until: until.map(|at| at.0), note: note.to_string(), stopping: *stopping }
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
    draining: Option<Draining>,
    labels: String,
    version: Option<String>,
    system: Option<String>,
    working: Option<Working>,
    connected: bool,
    gone_at: Option<i64>,
    last_status: Option<String>,
    last_status_at: Option<i64>,
    last_result: Option<String>,
    last_outcome: Option<Outcome>,
    last_result_at: Option<i64>,
}

impl Client {
    /// `gone_at`: when it went, if it did.
    pub(super) fn of(client: &ClientInfo, gone_at: Option<i64>, last: LastReport) -> Client {
        let (last_status, last_status_at) = last.status.map(|(text, at)| (text, at.0)).unzip();
        let (last_result, outcome) = last.result.map(|(text, outcome, at)| (text, (outcome, at.0))).unzip();
        let (last_outcome, last_result_at) = outcome.unzip();
        Client {
            client: client.client.as_ref().map(ToString::to_string),
            group: client.group.as_ref().map(ToString::to_string),
            peer: client.peer.to_string(),
            since: client.since.0,
            window: client.window,
            in_flight: client.in_flight,
            delivered: client.delivered,
            draining: client.draining.as_ref().map(Draining::from),
            labels: client.labels.to_string(),
            version: client.version.as_ref().map(ToString::to_string),
            system: client.system.as_ref().map(ToString::to_string),
            working: client.working.as_ref().map(Working::of),
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

/// A worker that the server dials.
#[derive(Debug, Serialize)]
pub(super) struct Dialled {
    address: String,
    group: Option<String>,
    client: Option<String>,
    since: i64,
    connected_since: Option<i64>,
    connected_as: Option<String>,
    trouble: Option<String>,
    trouble_since: Option<i64>,
    again_at: Option<i64>,
}

impl Dialled {
    pub(super) fn of((dialled, state): (store::Dialled, dial::State)) -> Dialled {
        let (connected_since, connected_as) = state.connected.map(|(since, name)| (since.0, name.to_string())).unzip();
        let (trouble, trouble_since) = state.trouble.map(|(why, since)| (why, since.0)).unzip();
        Dialled {
            address: dialled.address.to_string(),
            group: dialled.group.as_ref().map(ToString::to_string),
            client: dialled.client.as_ref().map(ToString::to_string),
            since: dialled.since.0,
            connected_since,
            connected_as,
            trouble,
            trouble_since,
            again_at: state.again.map(|at| at.0),
        }
    }
}

/// `None`: nothing is said.
pub(super) fn policy(policy: RetryPolicy) -> Option<String> {
    (!policy.is_open()).then(|| policy.to_string())
}

/// How much of a group's tasks may be under way.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Limits {
    max_in_flight: Option<NonZeroU32>,
    max_begun_per_second: Option<f64>,
    lane_max: NonZeroU32,
    lane_on_dead: OnDead,
}

impl From<GroupLimits> for Limits {
    fn from(limits: GroupLimits) -> Limits {
        Limits {
            max_in_flight: limits.max_in_flight,
            max_begun_per_second: limits.max_begun.map(PerSecond::number),
            lane_max: limits.lane_max,
            lane_on_dead: limits.on_dead,
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
    retry: Option<String>,
    /// Only if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
    #[serde(skip_serializing_if = "is_zero")]
    lanes: usize,
    #[serde(skip_serializing_if = "is_zero")]
    held_lanes: usize,
    dead: u64,
    last_used: Option<i64>,
    never_came: bool,
}

impl From<&operator::Group> for Group {
    fn from(group: &operator::Group) -> Group {
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
            retry: policy(group.info.retry),
            limits: Some(group.info.limits).filter(|limits| !limits.is_default()).map(Limits::from),
            lanes: group.info.lanes,
            held_lanes: group.info.held_lanes,
            dead: group.dead,
            last_used: (!group.info.never_came).then_some(group.info.last_used.0),
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

impl From<&operator::Finding> for Finding {
    fn from(found: &operator::Finding) -> Finding {
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
    pub(super) recent: &'a [TaskRow],
    pub(super) findings: Vec<Finding>,
    /// If there are several servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<Servers>,
}
