//! From what is kept to what goes over the operators' wire, and back.

mod runs;
mod schedules;
mod servers;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use protobuf::{EnumOrUnknown, MessageFull};

pub(super) use self::runs::{begun_run, new_run, output, run, run_details, run_list, run_news, task_news, wish};
pub(super) use self::schedules::{new_schedule, schedule, schedule_list, schedule_set};
pub(super) use self::servers::servers;
use super::about::millis as duration;
use super::authority::Enrolled;
use super::dial;
use super::grants::{Change, Grant};
use super::limits::{Limit, Most, Own};
use super::operator::{
    BROKER_SHARE, Beside, Described, Filter, Finding, Fleet, Found, Group, Ledger, MOST, Part, Range, Replacing,
    ServerInfo, Standing, TaskInGroup, TaskRequest, Wanted, if_set, per_second,
};
use super::refusal::Refusal;
use super::roles::Role;
use super::tokens::{NewToken, Token};
use crate::attachment::Attachment;
use crate::broker::{ClientInfo, Drained, Draining, Said};
use crate::group_limits::{GroupLimits, LimitsChange, OnDead, PerSecond};
use crate::labels::LabelError;
use crate::store::{Accepted, BackedUp, BackupProgress, Dialled, Drain, KnownClient};
use crate::task::{
    Audience, Name, NameOf, NewTask, Outcome, Priority, Progress, Status, Task, TaskId, TaskResult, Time,
};
use crate::task_state::{StateReason, TaskState, WaitReason};
use crate::wire::control as pb;

/// The tasks of a request that can be accepted; and those that cannot, by their place. `limit`: the longest text, in bytes.
pub(super) fn new_tasks(
    request: pb::SubmitRequest,
    limit: usize,
    submits: impl Fn(NewTask) -> Result<NewTask, Refusal>,
) -> (Vec<NewTask>, Vec<(usize, Refusal)>) {
    let (mut tasks, mut refused) = (Vec::with_capacity(request.tasks.len()), Vec::new());
    for (index, task) in request.tasks.into_iter().enumerate() {
        let task = task_request(task).and_then(|task| task.check(limit, tasks.last()));
        match task.and_then(&submits) {
            Ok(task) => tasks.push(task),
            Err(why) => refused.push((index, why)),
        }
    }
    (tasks, refused)
}

/// A request in a line, for the record. Its texts are in quotes, with escapes for what would break the line.
pub(super) fn said<M: MessageFull>(request: &M) -> String {
    const MOST: usize = 300;
    let mut request = request.clone();
    // A key in many lines, which says nothing to people.
    if let Some(csr) = M::descriptor().field_by_name("csr") {
        csr.clear_field(&mut request);
    }
    let text = protobuf::text_format::print_to_string(&request);
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

pub(super) fn new_token(request: pb::CreateTokenRequest) -> Result<NewToken, Refusal> {
    let limits = own_limits(&request.limits)?;
    let pb::CreateTokenRequest { name, role, groups, targets, labels, rate, ttl_ms, .. } = request;
    Ok(NewToken { name, role, groups, targets, labels, rate, limits, ttl: ttl_ms.map(Duration::from_millis) })
}

fn own_limits(limits: &HashMap<String, u64>) -> Result<Own, Refusal> {
    limits.iter().map(|(name, most)| Ok((Limit::named(name)?, Most::of(*most)))).collect()
}

fn own(limits: &Own) -> HashMap<String, u64> {
    limits.iter().map(|(limit, most)| (limit.name().to_owned(), most.number())).collect()
}

/// What is granted to those who are invited.
pub(super) fn granted(request: &pb::InviteRequest) -> Result<Grant, Refusal> {
    let group = if_set(NameOf::Group, &request.group)?;
    let groups = group.iter().map(ToString::to_string).collect();
    let labels = request.labels.parse().map_err(|e: LabelError| Refusal::Authority(e.to_string()))?;
    Ok(Grant { groups, labels, limits: own_limits(&request.limits)?, ..Grant::default() })
}

/// What is to change for an identity.
pub(super) fn change(
    add: Vec<String>,
    remove: Vec<String>,
    limits: &HashMap<String, u64>,
    unset: &[String],
) -> Result<Change, Refusal> {
    let set = own_limits(limits)?.into_iter().map(|(limit, most)| Ok((limit, Some(most))));
    let unset = unset.iter().map(|name| Ok((Limit::named(name)?, None)));
    Ok(Change { add, remove, limits: set.chain(unset).collect::<Result<_, Refusal>>()? })
}

pub(super) fn known(name: &str, all: Vec<Described>) -> pb::DescribeIdentityResponse {
    let known = |one: Described| pb::Known {
        name: name.to_owned(),
        by_token: one.by_token,
        groups: one.groups,
        own: own(&one.own),
        limits: Limit::ALL.iter().map(|limit| (limit.name().to_owned(), one.limits.get(*limit).number())).collect(),
        connections: one.connections as u64,
        streams: one.streams as u64,
        ..pb::Known::default()
    };
    pb::DescribeIdentityResponse { known: all.into_iter().map(known).collect(), ..Default::default() }
}

pub(super) fn token(token: &Token) -> pb::Token {
    let limits = token.account.own();
    pb::Token {
        name: token.identity.name.as_str().to_owned(),
        role: token.identity.role.as_str().to_owned(),
        groups: token.groups.clone(),
        targets: token.targets.clone(),
        labels: token.labels.to_string(),
        rate: limits.get(&Limit::Submits).map_or(0, |most| u32::try_from(most.number()).unwrap_or(u32::MAX)),
        limits: own(&limits),
        created_at: token.created_at.0,
        expires_at: millis(token.expires_at),
        ..pb::Token::default()
    }
}

/// Bytes of the texts in a request.
pub(super) fn bytes(request: &pb::SubmitRequest) -> usize {
    request.tasks.iter().map(|task| task.task.len() + task.data.len()).sum()
}

fn task_request(task: pb::NewTask) -> Result<TaskRequest, Refusal> {
    Ok(TaskRequest {
        text: task.task,
        beside: Beside { headers: task.headers, data: task.data },
        to: task.to,
        groups: task.groups,
        select: task.select,
        key: task.key,
        not_before: time(task.not_before),
        expires_at: time(task.expires_at),
        delay: task.delay_ms.map(Duration::from_millis),
        ttl: task.ttl_ms.map(Duration::from_millis),
        max_attempts: Some(task.max_attempts),
        retry: task.retry,
        timeout_ms: task.timeout_ms,
        timeout_fails: task.timeout_fails,
        replace: Replacing {
            key: task.replace,
            quiet: task.quiet_ms.map(Duration::from_millis),
            max_wait: task.max_wait_ms.map(Duration::from_millis),
        },
        priority: priority(task.priority)?,
        lane: task.lane,
    })
}

fn priority(priority: EnumOrUnknown<pb::Priority>) -> Result<Priority, Refusal> {
    match priority.enum_value() {
        Ok(pb::Priority::NORMAL) => Ok(Priority::Normal),
        Ok(pb::Priority::HIGH) => Ok(Priority::High),
        Ok(pb::Priority::LOW) => Ok(Priority::Low),
        Err(number) => Err(Refusal::UnknownNumber { field: "priority", number }),
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

/// What makes places in a request of the places among those that are left of it when these were refused.
fn places(refused: &[(usize, Refusal)]) -> impl Fn(usize) -> usize + use<> {
    // So many were left before each that was refused.
    let before: Vec<usize> = refused.iter().enumerate().map(|(nth, (index, _))| index - nth).collect();
    move |nth| nth + before.partition_point(|left| *left <= nth)
}

/// Adds to what was refused of a request what is refused of the rest, by its places there.
pub(super) fn refuse_more(refused: &mut Vec<(usize, Refusal)>, more: Vec<(usize, Refusal)>) {
    if !more.is_empty() {
        let place = places(refused);
        refused.extend(more.into_iter().map(|(nth, why)| (place(nth), why)));
        refused.sort_by_key(|(index, _)| *index);
    }
}

/// What came of a request of which these were `refused` before the others were submitted.
pub(super) fn accepted(accepted: Accepted, mut refused: Vec<(usize, Refusal)>) -> pb::SubmitResponse {
    let place = places(&refused);
    let known = accepted.known.iter().map(|nth| place(*nth) as u32).collect();
    let reused: Vec<_> = accepted.reused.into_iter().map(|why| (place(why.place), why.into())).collect();
    refused.extend(reused);
    refused.sort_by_key(|(index, _)| *index);
    pb::SubmitResponse {
        first_id: accepted.first_id,
        count: accepted.count,
        ids: accepted.ids,
        refused: refused.into_iter().map(|(index, why)| refusal(index, &why)).collect(),
        known,
        ..pb::SubmitResponse::default()
    }
}

fn refusal(index: usize, why: &Refusal) -> pb::Refusal {
    pb::Refusal { index: index as u32, reason: why.to_string(), cause: why.cause().into(), ..pb::Refusal::default() }
}

pub(super) fn range(list: &pb::ListRequest) -> Result<Range, Refusal> {
    let if_set = |n: u32| (n > 0).then_some(n as usize);
    let filter = Filter {
        group: group(&list.group)?,
        task: (list.task > 0).then_some(list.task),
        client: list.client.clone(),
        text: list.text.clone(),
        outcome: list.outcome.map(outcome_asked).transpose()?,
    };
    Ok(Range { after: list.after, limit: if_set(list.limit), latest: if_set(list.latest), follow: list.follow, filter })
}

fn group(name: &str) -> Result<Option<Name>, Refusal> {
    if_set(NameOf::Group, name)
}

fn outcome_asked(outcome: EnumOrUnknown<pb::Outcome>) -> Result<Outcome, Refusal> {
    let number = outcome.value();
    Outcome::from_number(number.into()).ok_or(Refusal::UnknownNumber { field: "outcome", number })
}

pub(super) fn wanted(request: pb::FindTasksRequest) -> Result<Wanted, Refusal> {
    let state = |state: EnumOrUnknown<pb::TaskState>| match state.enum_value() {
        Ok(pb::TaskState::WAITING) => Ok(TaskState::Waiting),
        Ok(pb::TaskState::IN_FLIGHT) => Ok(TaskState::InFlight),
        Ok(pb::TaskState::SETTLED) => Ok(TaskState::Settled),
        Ok(pb::TaskState::DEAD) => Ok(TaskState::Dead),
        Err(number) => Err(Refusal::UnknownNumber { field: "state", number }),
    };
    let limit = if request.limit == 0 { MOST } else { request.limit as usize };
    Ok(Wanted {
        before: if request.before == 0 { TaskId::MAX } else { request.before },
        limit: limit.min(MOST),
        group: group(&request.to)?,
        addressed: true,
        state: request.state.map(state).transpose()?,
        outcome: request.outcome.map(outcome_asked).transpose()?,
        text: request.text,
    })
}

/// `looked`: for how long the broker was.
pub(super) fn found(found: Found, looked: Duration) -> pb::FoundTasks {
    let with_state = |it: Standing| pb::FoundTask {
        state: state(it.state).into(),
        outcome: it.outcome.map(outcome),
        last_at: millis(it.last_at),
        task: Some(task(it.task)).into(),
        ..pb::FoundTask::default()
    };
    pb::FoundTasks {
        tasks: found.tasks.into_iter().map(with_state).collect(),
        oldest: found.looked.map_or(0, |(_, oldest)| oldest),
        more: found.more,
        pause_ms: duration(looked * BROKER_SHARE) as u32,
        ..pb::FoundTasks::default()
    }
}

pub(super) fn task_page(tasks: Vec<Task>) -> pb::TaskPage {
    pb::TaskPage { tasks: tasks.into_iter().map(task).collect(), ..pb::TaskPage::default() }
}

fn task(task: Task) -> pb::Task {
    let Task { id, accepted_at, spec } = task;
    let (over_at, cancelled) = (spec.over_at(), spec.cancelled_at().is_some());
    let by = spec.by.as_ref();
    let (groups, select) = audience(spec.audience.as_deref());
    let (replaced_by, replaces) = (spec.replaced_by().unwrap_or(0), spec.replaces().unwrap_or(0));
    let replace = spec.replace.map(|replace| *replace);
    let quiet = replace.as_ref().and_then(|replace| replace.quiet);
    pb::Task {
        id,
        headers: headers(&spec.attachment),
        data_size: spec.attachment.data().len() as u64,
        task: spec.text,
        to: text(spec.to),
        groups,
        select,
        accepted_at: accepted_at.0,
        key: spec.key.unwrap_or_default(),
        not_before: millis(spec.not_before),
        expires_at: millis(over_at),
        cancelled,
        max_attempts: spec.max_attempts.unwrap_or(0),
        retry: spec.retry.map_or(String::new(), |retry| retry.to_string()),
        timeout_ms: spec.time_limit.map_or(0, |limit| limit.millis.get()),
        timeout_fails: spec.time_limit.is_some_and(|limit| limit.fails),
        replace: replace.map_or(String::new(), |replace| replace.key().to_owned()),
        replaced_by,
        replaces,
        quiet_ms: quiet.map_or(0, |quiet| quiet.millis),
        max_wait_ms: quiet.and_then(|quiet| quiet.most_millis).unwrap_or(0),
        lane: text(spec.lane),
        submitted_by: by.map(|by| by.name.clone()).unwrap_or_default(),
        submitted_role: by.map(|by| by.role.clone()).unwrap_or_default(),
        schedule: spec.made.as_ref().map(|made| made.schedule.to_string()).unwrap_or_default(),
        schedule_moment: millis(spec.made.and_then(|made| made.moment)),
        priority: priority_of(spec.priority).into(),
        ..pb::Task::default()
    }
}

fn priority_of(priority: Priority) -> pb::Priority {
    match priority {
        Priority::Normal => pb::Priority::NORMAL,
        Priority::High => pb::Priority::HIGH,
        Priority::Low => pb::Priority::LOW,
    }
}

/// The headers, as they go over the wire.
pub(super) fn headers(of: &Attachment) -> HashMap<String, String> {
    of.headers().to_map()
}

pub(super) fn data(of: &Attachment) -> pb::Data {
    pb::Data { data: of.data().to_vec(), headers: headers(of), ..pb::Data::default() }
}

/// The groups that are named, or the selector.
pub(super) fn audience(audience: Option<&Audience>) -> (Vec<String>, String) {
    match audience {
        Some(Audience::Groups(names)) => (names.iter().map(|name| name.as_str().to_owned()).collect(), String::new()),
        Some(Audience::Matching(selector)) => (Vec::new(), selector.to_string()),
        None => Default::default(),
    }
}

pub(super) fn result_page(results: Vec<TaskResult>) -> pb::ResultPage {
    pb::ResultPage { results: results.into_iter().map(result).collect(), ..pb::ResultPage::default() }
}

fn result(TaskResult { seq, result }: TaskResult) -> pb::TaskResult {
    pb::TaskResult {
        seq,
        task_id: result.task,
        group: text(result.group),
        client: result.client.to_string(),
        attempt: result.attempt,
        outcome: outcome(result.outcome),
        headers: headers(&result.attachment),
        data_size: result.attachment.data().len() as u64,
        ret: result.ret,
        at: result.at.0,
        late: result.late,
        ..pb::TaskResult::default()
    }
}

fn outcome(outcome: Outcome) -> EnumOrUnknown<pb::Outcome> {
    EnumOrUnknown::from_i32(outcome as i32)
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

pub(super) fn clients(connected: Vec<ClientInfo>, drained_away: Vec<Drain>) -> pb::ListClientsResponse {
    let away = |drain: Drain| pb::Client {
        draining: Some(draining(&Draining::from(&drain))).into(),
        client: drain.client.to_string(),
        ..pb::Client::default()
    };
    pb::ListClientsResponse {
        clients: connected.into_iter().map(client).collect(),
        drained_away: drained_away.into_iter().map(away).collect(),
        ..pb::ListClientsResponse::default()
    }
}

pub(super) fn dialled(all: Vec<(Dialled, dial::State)>) -> pb::ListDialledResponse {
    let one = |(dialled, state): (Dialled, dial::State)| {
        let (connected_since, connected_as) = state.connected.map(|(since, name)| (since.0, name)).unzip();
        let (trouble, trouble_since) = state.trouble.map(|(why, since)| (why, since.0)).unzip();
        pb::Dialled {
            address: dialled.address.to_string(),
            group: text(dialled.group),
            client: text(dialled.client),
            since: dialled.since.0,
            connected_since: connected_since.unwrap_or_default(),
            connected_as: connected_as.as_deref().unwrap_or_default().to_owned(),
            trouble: trouble.unwrap_or_default(),
            trouble_since: trouble_since.unwrap_or_default(),
            again_at: state.again.map_or(0, |at| at.0),
            ..pb::Dialled::default()
        }
    };
    pb::ListDialledResponse { dialled: all.into_iter().map(one).collect(), ..pb::ListDialledResponse::default() }
}

/// Everybody who is known.
pub(super) fn known_clients(known: Vec<KnownClient>) -> pb::ListClientsResponse {
    let one = |it: KnownClient| pb::KnownClient {
        client: it.client.as_str().to_owned(),
        group: it.group.as_str().to_owned(),
        labels: it.labels.to_string(),
        version: text(it.version),
        system: text(it.system),
        first_seen: it.first_seen.0,
        last_seen: it.last_seen.0,
        connected: it.here,
        ..pb::KnownClient::default()
    };
    pb::ListClientsResponse { known: known.into_iter().map(one).collect(), ..pb::ListClientsResponse::default() }
}

fn client(client: ClientInfo) -> pb::Client {
    pb::Client {
        client: text(client.client),
        group: text(client.group),
        peer: client.peer.to_string(),
        since: client.since.0,
        window: client.window.map_or(0, |window| window as u32),
        in_flight: client.in_flight as u64,
        delivered: client.delivered,
        labels: client.labels.to_string(),
        version: text(client.version),
        system: text(client.system),
        draining: client.draining.as_ref().map(draining).into(),
        working: client.working.map(working).into(),
        ..pb::Client::default()
    }
}

fn working((task, said): (TaskId, Said)) -> pb::Working {
    pb::Working {
        task,
        said: said.text.unwrap_or_default().to_string(),
        progress: said.progress.map(Progress::part),
        ..pb::Working::default()
    }
}

fn draining(draining: &Draining) -> pb::Draining {
    pb::Draining {
        since: draining.since.0,
        until: millis(draining.until),
        note: draining.note.to_string(),
        stopping: draining.stopping,
        ..pb::Draining::default()
    }
}

pub(super) fn drained(clients: Vec<ClientInfo>) -> pb::DrainClientResponse {
    pb::DrainClientResponse { clients: clients.into_iter().map(client).collect(), ..pb::DrainClientResponse::default() }
}

pub(super) fn undrained(drained: Drained) -> pb::UndrainClientResponse {
    pb::UndrainClientResponse {
        clients: drained.clients.into_iter().map(client).collect(),
        was_drained: drained.changed,
        ..pb::UndrainClientResponse::default()
    }
}

fn group_limits(limits: GroupLimits) -> pb::GroupLimits {
    let GroupLimits { max_in_flight, max_begun, lane_max, on_dead } = limits;
    let on_dead = match on_dead {
        OnDead::Release => pb::LaneOnDead::RELEASE,
        OnDead::Hold => pb::LaneOnDead::HOLD,
    };
    pb::GroupLimits {
        max_in_flight: max_in_flight.map_or(0, NonZeroU32::get),
        max_begun_per_second: max_begun.map_or(0.0, PerSecond::number),
        lane_max: lane_max.get(),
        lane_on_dead: on_dead.into(),
        ..pb::GroupLimits::default()
    }
}

pub(super) fn limits_set(limits: GroupLimits, is_new: bool) -> pb::SetGroupLimitsResponse {
    pb::SetGroupLimitsResponse { is_new, limits: Some(group_limits(limits)).into(), ..Default::default() }
}

pub(super) fn limits_change(request: &pb::SetGroupLimitsRequest) -> Result<LimitsChange, Refusal> {
    let on_dead = |on_dead: EnumOrUnknown<pb::LaneOnDead>| match on_dead.enum_value() {
        Ok(pb::LaneOnDead::RELEASE) => Ok(OnDead::Release),
        Ok(pb::LaneOnDead::HOLD) => Ok(OnDead::Hold),
        Err(number) => Err(Refusal::UnknownNumber { field: "lane_on_dead", number }),
    };
    Ok(LimitsChange {
        max_in_flight: request.max_in_flight.map(NonZeroU32::new),
        max_begun: request.max_begun_per_second.map(per_second).transpose()?,
        lane_max: request.lane_max.map(|max| NonZeroU32::new(max).unwrap_or(NonZeroU32::MIN)),
        on_dead: request.lane_on_dead.map(on_dead).transpose()?,
    })
}

pub(super) fn fleet(fleet: Fleet) -> pb::ListGroupsResponse {
    let group = |Group { info, lag, oldest, dead }| pb::Group {
        name: info.name.as_str().to_owned(),
        clients: info.clients as u32,
        lag,
        in_flight: info.in_flight as u64,
        oldest: oldest.map_or(0, |(id, _)| id),
        oldest_at: millis(oldest.map(|(_, at)| at)),
        rate: info.rate,
        paused: info.paused,
        dead,
        never_came: info.never_came,
        retry: info.retry.to_string(),
        labels: info.labels.to_string(),
        limits: Some(group_limits(info.limits)).into(),
        lanes: info.lanes as u64,
        held_lanes: info.held_lanes as u64,
        ..pb::Group::default()
    };
    pb::ListGroupsResponse {
        groups: fleet.groups.into_iter().map(group).collect(),
        never_came_left_out: fleet.never_came_left_out,
        findings: fleet.findings.into_iter().map(finding).collect(),
        ..pb::ListGroupsResponse::default()
    }
}

fn finding(finding: Finding) -> pb::Finding {
    pb::Finding {
        code: EnumOrUnknown::from_i32(finding.code as i32),
        severity: EnumOrUnknown::from_i32(finding.severity as i32),
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

pub(super) fn ledger(ledger: Ledger) -> pb::TaskLedger {
    pb::TaskLedger {
        task: Some(task(ledger.task)).into(),
        groups: ledger.groups.into_iter().map(task_in_group).collect(),
        results: ledger.results.into_iter().map(result).collect(),
        waiting: ledger.counts.waiting,
        in_flight: ledger.counts.in_flight,
        settled: ledger.counts.settled,
        dead: ledger.counts.dead,
        next: text(ledger.next),
        results_left_out: ledger.results_left_out as u64,
        at_work: ledger.counts.at_work,
        ..pb::TaskLedger::default()
    }
}

/// Which part of a ledger is asked for.
pub(super) fn part(request: &pb::DescribeTaskRequest) -> Result<Part, Refusal> {
    Ok(Part {
        after: if_set(NameOf::Group, &request.after)?,
        limit: if request.limit == 0 { usize::MAX } else { request.limit as usize },
        group: if_set(NameOf::Group, &request.group)?,
        without_results: request.without_results,
    })
}

fn task_in_group(task: TaskInGroup) -> pb::TaskInGroup {
    let behind = match task.reason {
        StateReason::Waits(WaitReason::InLane(before) | WaitReason::LaneHeld(before)) => before,
        _ => 0,
    };
    let (wait, until, by) = match task.reason {
        StateReason::Waits(reason @ (WaitReason::NotBefore(at) | WaitReason::Quiet(at))) => {
            (Some(wait_reason(reason)), Some(at), None)
        }
        StateReason::Waits(reason) => (Some(wait_reason(reason)), None, None),
        StateReason::Leased(until) => (None, Some(until), None),
        StateReason::Settled(by) => (None, None, by),
    };
    pb::TaskInGroup {
        group: task.group.as_str().to_owned(),
        state: state(task.reason.state()).into(),
        client: task.client.to_string(),
        attempt: task.attempt,
        wait: wait.map(EnumOrUnknown::new),
        until: millis(until),
        outcome: by.map(outcome),
        said: task.said.text.unwrap_or_default().to_string(),
        progress: task.said.progress.map(Progress::part),
        at_work: task.at_work,
        behind,
        ..pb::TaskInGroup::default()
    }
}

fn state(state: TaskState) -> pb::TaskState {
    match state {
        TaskState::Waiting => pb::TaskState::WAITING,
        TaskState::InFlight => pb::TaskState::IN_FLIGHT,
        TaskState::Settled => pb::TaskState::SETTLED,
        TaskState::Dead => pb::TaskState::DEAD,
    }
}

fn wait_reason(reason: WaitReason) -> pb::WaitReason {
    match reason {
        WaitReason::NotBefore(_) => pb::WaitReason::NOT_BEFORE,
        WaitReason::Quiet(_) => pb::WaitReason::QUIET,
        WaitReason::Paused => pb::WaitReason::PAUSED,
        WaitReason::NoClient => pb::WaitReason::NO_CLIENT,
        WaitReason::WindowsFull => pb::WaitReason::WINDOWS_FULL,
        WaitReason::NotReading => pb::WaitReason::NOT_READING,
        WaitReason::Queued => pb::WaitReason::QUEUED,
        WaitReason::NeverCame => pb::WaitReason::NEVER_CAME,
        WaitReason::OneAtATime => pb::WaitReason::ONE_AT_A_TIME,
        WaitReason::TooLong => pb::WaitReason::TOO_LONG,
        WaitReason::Draining => pb::WaitReason::DRAINING,
        WaitReason::InLane(_) => pb::WaitReason::IN_LANE,
        WaitReason::LaneHeld(_) => pb::WaitReason::LANE_HELD,
        WaitReason::GroupFull => pb::WaitReason::GROUP_FULL,
        WaitReason::RateReached => pb::WaitReason::RATE_REACHED,
    }
}

pub(super) fn server(server: ServerInfo) -> pb::Server {
    let fleet = server.fleet.as_ref();
    pb::Server {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now: server.now.0,
        started_at: server.about.started_at.0,
        listen: server.about.listen(),
        tls: server.about.certificate().is_some(),
        cluster: !server.servers.alone,
        control: server.about.control(),
        data: server.about.data(),
        ack_timeout_ms: duration(server.config.ack_timeout),
        max_attempts: server.config.max_attempts,
        max_deliveries: server.config.max_deliveries,
        retry: server.config.retry.to_string(),
        max_task: server.about.max_task as u64,
        retain_ms: duration(server.retention.retain),
        retain_bytes: server.retention.retain_bytes,
        group_ttl_ms: duration(server.retention.group_ttl),
        store_bytes: server.disk.store_bytes(),
        disk_free_bytes: server.disk.free,
        open_files: server.process.open_fds,
        open_files_soft: server.process.max_fds,
        open_files_hard: server.process.raisable_fds,
        clients: server.clients as u32,
        groups: server.groups as u32,
        tasks: server.positions.task,
        results: server.positions.result,
        statuses: server.positions.status,
        in_flight: server.in_flight,
        lag: fleet.map(|fleet| fleet.groups.iter().map(|group| group.lag).sum()),
        dead: fleet.map(|fleet| fleet.groups.iter().map(|group| group.dead).sum()),
        refuses: server.failure.unwrap_or_default(),
        findings: server.fleet.into_iter().flat_map(|fleet| fleet.findings).map(finding).collect(),
        ..pb::Server::default()
    }
}

/// Who was given certificates.
pub(super) fn identities(enrolled: Vec<Enrolled>) -> pb::ListIdentitiesResponse {
    let identity = |one: Enrolled| pb::Identity {
        name: one.name,
        operator: one.role == Role::Operator,
        group: one.grant.groups.first().cloned().unwrap_or_default(),
        groups: one.grant.groups,
        labels: one.grant.labels.to_string(),
        limits: own(&one.grant.limits),
        issued_at: one.issued_at,
        until: one.until,
        revoked: one.revoked,
        ..pb::Identity::default()
    };
    pb::ListIdentitiesResponse { identities: enrolled.into_iter().map(identity).collect(), ..Default::default() }
}

/// How a backup goes.
pub(super) fn backup_progress(at: BackupProgress) -> pb::BackupProgress {
    let BackupProgress { copied, of, checking } = at;
    pb::BackupProgress { copied_bytes: copied, total_bytes: of, checking, ..Default::default() }
}

/// What came of it.
pub(super) fn backed_up(done: BackedUp) -> pb::BackupProgress {
    let BackedUp { bytes, positions } = done;
    let done = pb::BackedUp { bytes, last_task: positions.task, last_result: positions.result, ..Default::default() };
    pb::BackupProgress { copied_bytes: bytes, total_bytes: bytes, done: Some(done).into(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::sample::select;
    use protobuf::{Message as _, MessageFull};

    use super::*;
    use crate::fuzz::{any_bytes, cases};
    use crate::server::operator::{Code, Severity};

    #[test]
    fn outcomes_have_the_names_and_numbers_of_the_wire() {
        for one in Outcome::ALL {
            assert_eq!(format!("{:?}", outcome(one).enum_value().unwrap()), one.to_string());
        }
    }

    #[test]
    fn findings_have_the_numbers_of_the_wire_and_its_names_in_json() {
        use protobuf::Enum as _;

        for one in &pb::finding::Code::VALUES[1..] {
            let code: Code = serde_json::from_value(format!("{one:?}").to_lowercase().into()).unwrap();
            assert_eq!(code as i32, one.value(), "{one:?}");
        }
        for one in &pb::finding::Severity::VALUES[1..] {
            let severity: Severity = serde_json::from_value(format!("{one:?}").to_lowercase().into()).unwrap();
            assert_eq!(severity as i32, one.value(), "{one:?}");
        }
    }

    #[test]
    fn what_was_known_of_a_request_is_named_by_its_place_in_it_however_much_was_refused() {
        // Of 131,072 tasks, every second is refused before the others are submitted: looked through for each, they took seconds.
        let refused = (0..65_536).map(|nth| (2 * nth, Refusal::EmptyTask)).collect();
        let all = Accepted { count: 65_536, known: (0..65_536).collect(), ..Accepted::default() };
        let answer = accepted(all, refused);
        assert_eq!(answer.known, (0..65_536).map(|nth| 2 * nth + 1).collect::<Vec<u32>>());
        let refused = [0, 1, 4].map(|index| (index, Refusal::EmptyTask)).into();
        let some = Accepted { count: 3, known: vec![0, 1, 2], ..Accepted::default() };
        assert_eq!(accepted(some, refused).known, [2, 3, 5]);
    }

    #[test]
    fn any_bytes_of_a_request_become_what_it_asks_for_or_a_refusal_of_a_sentence() {
        let request = pb::SubmitRequest {
            tasks: vec![
                pb::NewTask { task: "t".into(), to: "g".into(), retry: "first=1s".into(), ..pb::NewTask::default() },
                pb::NewTask { task: "v".into(), groups: vec!["a".into(), "b".into()], ..pb::NewTask::default() },
                pb::NewTask { task: "w".into(), select: "os=linux,role in (web,api)".into(), ..pb::NewTask::default() },
                pb::NewTask { task: "u".into(), key: "k".into(), ttl_ms: Some(1 << 63), ..pb::NewTask::default() },
            ],
            ..pb::SubmitRequest::default()
        };
        let list = pb::ListRequest { group: "g".into(), outcome: Some(pb::Outcome::DONE.into()), ..Default::default() };
        let valid = select(vec![request.write_to_bytes().unwrap(), list.write_to_bytes().unwrap()]);
        let sentence = |refusal: &Refusal| assert!(refusal.to_string().len() <= 1024, "{refusal}");
        fn read<T: MessageFull>(bytes: &[u8]) -> crate::codec::Decoded<T> {
            crate::codec::read(&mut &*bytes, bytes.len())
        }
        any_bytes(
            cases(),
            valid,
            |length| (1 << 20) + 600 * length,
            |bytes| {
                if let Ok(request) = read::<pb::SubmitRequest>(bytes) {
                    let (count, size) = (request.tasks.len(), self::bytes(&request));
                    assert!(size <= bytes.len());
                    let (tasks, refused) = new_tasks(request, 1024, Ok);
                    assert_eq!(tasks.len() + refused.len(), count);
                    refused.iter().for_each(|(_, why)| sentence(why));
                    assert!(tasks.iter().all(|task| (1..=1024).contains(&task.text.len())));
                }
                drop(read::<pb::ListRequest>(bytes).map(|list| range(&list).map_err(|why| sentence(&why))));
                drop(read::<pb::FindTasksRequest>(bytes).map(|find| wanted(find).map_err(|why| sentence(&why))));
                drop(read::<pb::DescribeTaskRequest>(bytes).map(|task| part(&task).map_err(|why| sentence(&why))));
            },
        );
    }
}
