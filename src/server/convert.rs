//! From what is kept to what goes over the operators' wire, and back.

use protobuf::EnumOrUnknown;

use super::findings::{Code, Finding, Severity};
use super::groups::Group;
use super::refusal::Refusal;
use crate::broker::ClientInfo;
use crate::store::Accepted;
use crate::task::{Name, NewTask, Outcome, Priority, Status, Task, TaskResult, Time};
use crate::wire::control as pb;

/// The tasks of a request that can be accepted; and those that cannot, by their place.
pub(super) fn new_tasks(request: pb::SubmitRequest, limit: usize) -> (Vec<NewTask>, Vec<(usize, Refusal)>) {
    let (mut tasks, mut refused) = (Vec::with_capacity(request.tasks.len()), Vec::new());
    for (index, task) in request.tasks.into_iter().enumerate() {
        match new_task(task, limit) {
            Ok(task) => tasks.push(task),
            Err(why) => refused.push((index, why)),
        }
    }
    (tasks, refused)
}

/// Bytes of the texts in a request.
pub(super) fn bytes(request: &pb::SubmitRequest) -> usize {
    request.tasks.iter().map(|task| task.task.len()).sum()
}

fn new_task(task: pb::NewTask, limit: usize) -> Result<NewTask, Refusal> {
    if task.task.is_empty() {
        return Err(Refusal::EmptyTask);
    }
    if task.task.len() > limit {
        return Err(Refusal::TooLong { what: "the task", size: task.task.len(), limit });
    }
    let name = |what, text: &str| if text.is_empty() { Ok(None) } else { Name::new(what, text).map(Some) };
    Ok(NewTask {
        to: name("the group in `to`", &task.to)?,
        // Held to the same rule as names, so that an index on keys stays small.
        key: name("the key", &task.key)?.map(|key| key.as_str().to_owned()),
        not_before: time(task.not_before),
        expires_at: time(task.expires_at),
        max_attempts: Some(task.max_attempts).filter(|n| *n > 0),
        priority: priority(task.priority)?,
        text: task.task,
    })
}

fn priority(priority: EnumOrUnknown<pb::Priority>) -> Result<Priority, Refusal> {
    match priority.enum_value() {
        Ok(pb::Priority::NORMAL) => Ok(Priority::Normal),
        Ok(pb::Priority::HIGH) => Ok(Priority::High),
        Ok(pb::Priority::LOW) => Ok(Priority::Low),
        Err(number) => Err(Refusal::UnknownNumber { what: "priority", number }),
    }
}

fn time(millis: i64) -> Option<Time> {
    (millis != 0).then_some(Time(millis))
}

fn millis(time: Option<Time>) -> i64 {
    time.map_or(0, |time| time.0)
}

fn text(name: Option<Name>) -> String {
    name.map_or(String::new(), |name| name.as_str().to_owned())
}

pub(super) fn accepted(accepted: Accepted) -> pb::SubmitResponse {
    pb::SubmitResponse {
        first_id: accepted.first_id,
        count: accepted.count,
        ids: accepted.ids,
        ..pb::SubmitResponse::default()
    }
}

pub(super) fn refusal(index: usize, why: &Refusal) -> pb::Refusal {
    pb::Refusal { index: index as u32, reason: why.to_string(), ..pb::Refusal::default() }
}

pub(super) fn task_page(tasks: Vec<Task>) -> pb::TaskPage {
    pb::TaskPage { tasks: tasks.into_iter().map(task).collect(), ..pb::TaskPage::default() }
}

pub(super) fn task(task: Task) -> pb::Task {
    let Task { id, accepted_at, spec } = task;
    pb::Task {
        id,
        task: spec.text,
        to: text(spec.to),
        accepted_at: accepted_at.0,
        key: spec.key.unwrap_or_default(),
        not_before: millis(spec.not_before),
        expires_at: millis(spec.expires_at),
        max_attempts: spec.max_attempts.unwrap_or(0),
        priority: match spec.priority {
            Priority::Normal => pb::Priority::NORMAL,
            Priority::High => pb::Priority::HIGH,
            Priority::Low => pb::Priority::LOW,
        }
        .into(),
        ..pb::Task::default()
    }
}

pub(super) fn result_page(results: Vec<TaskResult>) -> pb::ResultPage {
    pb::ResultPage { results: results.into_iter().map(result).collect(), ..pb::ResultPage::default() }
}

pub(super) fn result(TaskResult { seq, result }: TaskResult) -> pb::TaskResult {
    pb::TaskResult {
        seq,
        task_id: result.task,
        group: text(result.group),
        client: result.client.to_string(),
        attempt: result.attempt,
        outcome: outcome(result.outcome).into(),
        ret: result.ret,
        at: result.at.0,
        late: result.late,
        ..pb::TaskResult::default()
    }
}

pub(super) fn outcome(outcome: Outcome) -> pb::Outcome {
    match outcome {
        Outcome::Done => pb::Outcome::DONE,
        Outcome::Retry => pb::Outcome::RETRY,
        Outcome::Failed => pb::Outcome::FAILED,
        Outcome::Working => pb::Outcome::WORKING,
        Outcome::Lost => pb::Outcome::LOST,
        Outcome::TimedOut => pb::Outcome::TIMED_OUT,
        Outcome::Exhausted => pb::Outcome::EXHAUSTED,
        Outcome::Expired => pb::Outcome::EXPIRED,
        Outcome::Cancelled => pb::Outcome::CANCELLED,
        Outcome::Revived => pb::Outcome::REVIVED,
        Outcome::Dropped => pb::Outcome::DROPPED,
    }
}

pub(super) fn status_page(statuses: Vec<Status>) -> pb::StatusPage {
    let status = |Status { seq, status }| pb::Status {
        seq,
        client: status.client.to_string(),
        msg: status.msg,
        at: status.at.0,
        ..pb::Status::default()
    };
    pb::StatusPage { statuses: statuses.into_iter().map(status).collect(), ..pb::StatusPage::default() }
}

pub(super) fn group(Group { info, lag, oldest, dead }: Group) -> pb::Group {
    let (oldest, oldest_at) = oldest.map_or((0, 0), |(task, at)| (task, at.0));
    pb::Group {
        name: info.name.as_str().to_owned(),
        clients: info.clients as u32,
        lag,
        in_flight: info.in_flight as u64,
        oldest,
        oldest_at,
        rate: info.rate,
        paused: info.paused,
        dead,
        never_came: info.never_came,
        ..pb::Group::default()
    }
}

pub(super) fn finding(finding: Finding) -> pb::Finding {
    let code = match finding.code {
        Code::NotReady => pb::finding::Code::NOT_READY,
        Code::Disk => pb::finding::Code::DISK,
        Code::OpenFiles => pb::finding::Code::OPEN_FILES,
        Code::NeverCame => pb::finding::Code::NEVER_CAME,
        Code::Unserved => pb::finding::Code::UNSERVED,
        Code::Paused => pb::finding::Code::PAUSED,
        Code::Hanging => pb::finding::Code::HANGING,
        Code::Stuck => pb::finding::Code::STUCK,
        Code::Lagging => pb::finding::Code::LAGGING,
        Code::DeadLetters => pb::finding::Code::DEAD_LETTERS,
        Code::Retention => pb::finding::Code::RETENTION,
        Code::StoreSize => pb::finding::Code::STORE_SIZE,
        Code::Quiet => pb::finding::Code::QUIET,
        Code::First => pb::finding::Code::FIRST,
    };
    let severity = match finding.severity {
        Severity::Note => pb::finding::Severity::NOTE,
        Severity::Warning => pb::finding::Severity::WARNING,
        Severity::Failure => pb::finding::Severity::FAILURE,
    };
    pb::Finding {
        code: code.into(),
        severity: severity.into(),
        group: text(finding.group),
        count: finding.count,
        limit: finding.limit,
        task: finding.task.unwrap_or(0),
        millis: finding.millis,
        text: finding.text.unwrap_or_default(),
        more: finding.more,
        ..pb::Finding::default()
    }
}

pub(super) fn clients(clients: Vec<ClientInfo>) -> pb::ListClientsResponse {
    let client = |client: ClientInfo| pb::Client {
        client: text(client.client),
        group: text(client.group),
        peer: client.peer.to_string(),
        since: client.since.0,
        window: client.window.map_or(0, |window| window as u32),
        in_flight: client.in_flight as u64,
        delivered: client.delivered,
        ..pb::Client::default()
    };
    pb::ListClientsResponse { clients: clients.into_iter().map(client).collect(), ..pb::ListClientsResponse::default() }
}
