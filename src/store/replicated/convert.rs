//! Batches and removals as messages of `proto/log.proto`, and back.
//!
//! Here every field is named, so that one that is added to what is stored is not forgotten in the log.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::io;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use protobuf::MessageField;
use rusqlite::types::Value;

use super::record::some;
use crate::attachment::{Attachment, Headers};
use crate::attempts::Attempts;
use crate::labels::Labels;
use crate::retry::RetryPolicy;
use crate::run::{Run, TargetState};
use crate::schedule::Schedule;
use crate::store::chunk::block_of;
use crate::store::sqlite::{Beside, ResultRow, SlotTaken, TaskRow};
use crate::store::{
    Appended, Batch, Cut, Dialled, Drain, Grantee, GroupState, KnownClient, LanePlace, OpenRows, OpenTask, Positions,
    Removal, Rows, Shows, Slot, WaitingLane,
};
use crate::task::{
    Audience, GroupName, Made, Name, NameOf, NewResult, NewStatus, NewTask, Outcome, Priority, Quiet, Replace, Status,
    Submitter, Task, TaskId, TaskResult, Time, TimeLimit,
};
use crate::wire::log as pb;
use crate::wire::log::value::Kind as PbValue;

/// What cannot be read, in a few words.
type Read<T> = Result<T, String>;

fn strange(error: impl Display) -> String {
    error.to_string()
}

fn name(text: &str) -> Read<Name> {
    Name::new(NameOf::Group, text).map_err(strange)
}

/// Of what waits, be it named by somebody or that of a key.
pub(crate) fn lane_name(text: &str) -> Read<Name> {
    Name::new(NameOf::KeptLane, text).map_err(strange)
}

fn optional_name(text: Option<String>) -> Read<Option<Name>> {
    text.map(|text| name(&text)).transpose()
}

fn text(name: Option<&Name>) -> Option<String> {
    name.map(ToString::to_string)
}

/// What is open, or has its default, is the empty text.
fn read_text<T: FromStr + Default>(text: &str) -> Read<T>
where
    T::Err: Display,
{
    if text.is_empty() { Ok(T::default()) } else { text.parse().map_err(strange) }
}

pub(super) fn removal(removal: &Removal) -> pb::Removal {
    let Removal { chunks, before, now, limit } = removal;
    pb::Removal { chunks: chunks.clone(), before: before.0, now: now.0, limit: *limit as u64, ..pb::Removal::new() }
}

pub(super) fn read_removal(removal: pb::Removal) -> Removal {
    Removal {
        chunks: removal.chunks,
        before: Time(removal.before),
        now: Time(removal.now),
        limit: usize::try_from(removal.limit).unwrap_or(usize::MAX),
    }
}

/// A batch, whose tasks and results are `appended`.
pub(super) fn batch(batch: &Batch, appended: &Appended) -> io::Result<pb::Batch> {
    let Batch {
        tasks: _,
        results: _,
        statuses,
        forgotten,
        groups,
        open,
        drains,
        runs,
        schedules,
        dialled,
        clients,
        grants,
        expiries,
        freed,
        mark,
        positions,
    } = batch;
    let Appended { tasks, results, beside: Beside { keys, slots, dead } } = appended;
    let expiry =
        |(task, at): &(TaskId, Option<Time>)| pb::Expiry { task: *task, at: at.map(|at| at.0), ..pb::Expiry::new() };
    Ok(pb::Batch {
        positions: MessageField::some(pb::Positions {
            task: positions.task,
            result: positions.result,
            status: positions.status,
            ..pb::Positions::new()
        }),
        mark: *mark,
        task_chunks: tasks.iter().map(task_chunk).collect(),
        result_chunks: results.iter().map(result_chunk).collect(),
        keys: keys.iter().map(|(key, task)| pb::Key { key: key.clone(), task: *task, ..pb::Key::new() }).collect(),
        slots: slots.iter().map(slot).collect(),
        dead: dead.iter().map(result).collect(),
        statuses: statuses.iter().map(status).collect(),
        forgotten: forgotten.iter().map(ToString::to_string).collect(),
        groups: groups.values().map(group).collect(),
        open: open.iter().map(|(group, rows)| open_rows(group, rows)).collect(),
        drains: drains.iter().map(|(client, one)| drain(client, one.as_ref())).collect(),
        runs: runs.values().map(run).collect::<io::Result<_>>()?,
        schedules: schedules.iter().map(|(name, one)| schedule(name, one.as_ref())).collect::<io::Result<_>>()?,
        dialled: dialled.iter().map(|(address, one)| dialled_one(address, one.as_ref())).collect(),
        clients: clients.iter().map(|(client, known)| known_client(client, known.as_ref())).collect(),
        grants: grants.iter().map(|(to, text)| grant(to, text.as_ref())).collect(),
        expiries: expiries.iter().map(expiry).collect(),
        freed: freed.iter().copied().collect(),
        ..pb::Batch::new()
    })
}

/// The same back; the batch without its tasks and results.
pub(super) fn read_batch(batch: pb::Batch) -> Read<(Batch, Appended)> {
    let positions = some(batch.positions, "positions")?;
    let names = |names: Vec<String>| names.iter().map(|one| name(one)).collect::<Read<_>>();
    let results = |results: Vec<pb::Result>| results.into_iter().map(read_result).collect::<Read<Vec<_>>>();
    let one_by_one = !batch.tasks.is_empty() || !batch.results.is_empty();
    let appended = if one_by_one && (!batch.task_chunks.is_empty() || !batch.result_chunks.is_empty()) {
        return Err("tasks or results one by one, and in chunks".into());
    } else if one_by_one {
        // As servers wrote it that knew version 2.
        let tasks = batch.tasks.into_iter().map(|task| read_task(task).map(Arc::new)).collect::<Read<Vec<_>>>()?;
        Appended::of(&tasks, &results(batch.results)?).map_err(strange)?
    } else {
        Appended {
            tasks: batch.task_chunks.into_iter().map(read_task_chunk).collect::<Read<_>>()?,
            results: batch.result_chunks.into_iter().map(read_result_chunk).collect::<Read<_>>()?,
            beside: Beside {
                keys: batch.keys.into_iter().map(|key| (key.key, key.task)).collect(),
                slots: batch.slots.into_iter().map(read_slot).collect(),
                dead: results(batch.dead)?,
            },
        }
    };
    let read = Batch {
        tasks: Vec::new(),
        results: Vec::new(),
        statuses: batch.statuses.into_iter().map(read_status).collect(),
        forgotten: names(batch.forgotten)?,
        groups: by(batch.groups, read_group, |group| &group.name)?,
        open: batch.open.into_iter().map(read_open_rows).collect::<Read<_>>()?,
        drains: batch.drains.into_iter().map(read_drain).collect::<Read<_>>()?,
        runs: by(batch.runs, read_run, |run| &run.number)?,
        schedules: batch.schedules.into_iter().map(read_schedule).collect::<Read<_>>()?,
        dialled: batch.dialled.into_iter().map(read_dialled).collect::<Read<_>>()?,
        clients: batch.clients.into_iter().map(read_client).collect::<Read<_>>()?,
        grants: batch.grants.into_iter().map(read_grant).collect::<Read<_>>()?,
        expiries: batch.expiries.into_iter().map(|expiry| (expiry.task, expiry.at.map(Time))).collect(),
        freed: batch.freed.into_iter().collect(),
        mark: batch.mark,
        positions: Positions { task: positions.task, result: positions.result, status: positions.status },
    };
    Ok((read, appended))
}

pub(super) fn cut(cut: &Cut) -> io::Result<pb::Cut> {
    let Cut { place, block, rows } = cut;
    let rows = rows.iter().map(of_table).collect::<io::Result<_>>()?;
    Ok(pb::Cut { place: *place, block: *block, rows, ..pb::Cut::new() })
}

pub(super) fn read_cut(cut: pb::Cut) -> Read<Cut> {
    let pb::Cut { place, block, rows, .. } = cut;
    Ok(Cut { place, block, rows: rows.into_iter().map(read_of_table).collect::<Read<_>>()? })
}

fn of_table(of_table: &Rows) -> io::Result<pb::Rows> {
    let Rows { table, columns, rows } = of_table;
    let value = |value: &Value| {
        let kind = match value {
            Value::Null => None,
            Value::Integer(number) => Some(PbValue::Integer(*number)),
            Value::Text(text) => Some(PbValue::Text(text.clone())),
            Value::Blob(bytes) => Some(PbValue::Bytes(bytes.clone())),
            Value::Real(_) => return Err(io::Error::other(format!("a number that is not whole in {table}"))),
        };
        Ok(pb::Value { kind, ..pb::Value::new() })
    };
    let row =
        |row: &Vec<Value>| Ok(pb::Row { values: row.iter().map(value).collect::<io::Result<_>>()?, ..pb::Row::new() });
    let rows = rows.iter().map(row).collect::<io::Result<_>>()?;
    Ok(pb::Rows { table: table.clone(), columns: columns.clone(), rows, ..pb::Rows::new() })
}

fn read_of_table(rows: pb::Rows) -> Read<Rows> {
    let value = |value: pb::Value| match value.kind {
        None => Value::Null,
        Some(PbValue::Integer(number)) => Value::Integer(number),
        Some(PbValue::Text(text)) => Value::Text(text),
        Some(PbValue::Bytes(bytes)) => Value::Blob(bytes),
    };
    let pb::Rows { table, columns, rows, .. } = rows;
    let rows = rows.into_iter().map(|row| row.values.into_iter().map(value).collect()).collect();
    let read = Rows { table, columns, rows };
    read.check().map(|()| read)
}

/// Whether these are of a chunk that the store could have.
fn check_chunk(segment: u64, positions: RangeInclusive<u64>, count: u32) -> Read<()> {
    let (first, last) = positions.into_inner();
    let is_one = segment <= first && first <= last && last <= i64::MAX as u64;
    if is_one && count > 0 && u64::from(count) <= last - first + 1 {
        return Ok(());
    }
    Err(format!("a chunk of {count} from {first} to {last}, in a segment from {segment} on"))
}

fn slot(taken: &SlotTaken) -> pb::Slot {
    let SlotTaken { slot: Slot { key, address }, task, at, replaces } = taken;
    let (key, address, replaces) = (key.clone(), address.clone(), *replaces);
    pb::Slot { key, address, task: *task, at: at.0, replaces, ..pb::Slot::new() }
}

fn read_slot(taken: pb::Slot) -> SlotTaken {
    let pb::Slot { key, address, task, at, replaces, .. } = taken;
    SlotTaken { slot: Slot { key, address }, task, at: Time(at), replaces }
}

fn task_chunk(chunk: &TaskRow) -> pb::TaskChunk {
    let TaskRow { first, last, segment, count, target, priority, newest, head, texts, lanes } = chunk;
    pb::TaskChunk {
        first: *first,
        last: *last,
        segment: *segment,
        count: *count,
        target: text(target.as_ref()),
        priority: priority_number(*priority),
        newest: newest.0,
        head: head.clone(),
        texts: texts.clone(),
        lanes: lanes.clone(),
        ..pb::TaskChunk::new()
    }
}

/// What is in the heads is not looked at.
fn read_task_chunk(chunk: pb::TaskChunk) -> Read<TaskRow> {
    check_chunk(chunk.segment, chunk.first..=chunk.last, chunk.count)?;
    let pb::TaskChunk { first, last, segment, count, target, priority, newest, head, texts, lanes, .. } = chunk;
    let (target, priority) = (optional_name(target)?, read_priority(priority)?);
    Ok(TaskRow { first, last, segment, count, target, priority, newest: Time(newest), head, texts, lanes })
}

fn result_chunk(chunk: &ResultRow) -> pb::ResultChunk {
    let ResultRow { first, last, segment, count, first_task, last_task, newest, names, head, texts } = chunk;
    pb::ResultChunk {
        first: *first,
        last: *last,
        segment: *segment,
        count: *count,
        first_task: *first_task,
        last_task: *last_task,
        newest: newest.0,
        names: names.clone(),
        head: head.clone(),
        texts: texts.clone(),
        ..pb::ResultChunk::new()
    }
}

/// Likewise.
fn read_result_chunk(chunk: pb::ResultChunk) -> Read<ResultRow> {
    check_chunk(chunk.segment, chunk.first..=chunk.last, chunk.count)?;
    if chunk.first_task > chunk.last_task || block_of(chunk.first_task) != block_of(chunk.last_task) {
        return Err(format!("results of tasks {} to {} in one chunk", chunk.first_task, chunk.last_task));
    }
    let pb::ResultChunk { first, last, segment, count, first_task, last_task, newest, names, head, texts, .. } = chunk;
    let newest = Time(newest);
    Ok(ResultRow { first, last, segment, count, first_task, last_task, newest, names, head, texts })
}

fn by<P, T, K: Ord + Clone>(all: Vec<P>, read: impl Fn(P) -> Read<T>, key: impl Fn(&T) -> &K) -> Read<BTreeMap<K, T>> {
    all.into_iter().map(|one| read(one).map(|one| (key(&one).clone(), one))).collect()
}

/// The numbers of the log: never change one.
pub(crate) fn priority_number(priority: Priority) -> u32 {
    match priority {
        Priority::Normal => 0,
        Priority::High => 1,
        Priority::Low => 2,
    }
}

pub(crate) fn read_priority(number: u32) -> Read<Priority> {
    let priority = Priority::ALL.into_iter().find(|priority| priority_number(*priority) == number);
    priority.ok_or_else(|| format!("the priority {number}"))
}

/// A task as a message.
#[cfg(feature = "cluster")]
pub(crate) fn task(task: &Task) -> pb::Task {
    let Task { id, accepted_at, spec } = task;
    let NewTask {
        text: what,
        attachment,
        to,
        audience,
        key,
        not_before,
        expires_at,
        max_attempts,
        retry,
        priority,
        by,
        time_limit,
        replace,
        lane,
        made,
    } = spec;
    let (groups, select) = match audience.as_deref() {
        None => (Vec::new(), None),
        Some(Audience::Groups(names)) => (names.iter().map(ToString::to_string).collect(), None),
        Some(Audience::Matching(selector)) => (Vec::new(), Some(selector.to_string())),
    };
    let policy = |retry| RetryPolicy { max_attempts: None, backoff: Some(retry) };
    let submitter = |by: &Arc<Submitter>| {
        let Submitter { name, role } = &**by;
        pb::Submitter { name: name.clone(), role: role.clone(), ..pb::Submitter::new() }
    };
    let of_schedule = |made: &Arc<Made>| {
        let Made { schedule, moment } = &**made;
        pb::Made { schedule: schedule.to_string(), moment: moment.map(|at| at.0), ..pb::Made::new() }
    };
    pb::Task {
        id: *id,
        accepted_at: accepted_at.0,
        text: what.clone(),
        headers: attachment.headers().to_map(),
        data: attachment.data().to_vec(),
        to: text(to.as_ref()),
        key: key.clone(),
        not_before: not_before.map(|at| at.0),
        expires_at: expires_at.map(|at| at.0),
        max_attempts: *max_attempts,
        retry: retry.as_deref().map(|retry| policy(*retry).to_string()),
        priority: priority_number(*priority),
        by: by.as_ref().map(submitter).into(),
        groups,
        select,
        timeout_ms: time_limit.map_or(0, |limit| limit.millis.get()),
        timeout_fails: time_limit.is_some_and(|limit| limit.fails),
        replace: replace.as_deref().map(replacing).into(),
        lane: text(lane.as_ref()),
        made: made.as_ref().map(of_schedule).into(),
        ..pb::Task::new()
    }
}

/// Whose place a task took is told here. Who took its own is told by that one, which comes after it.
#[cfg(feature = "cluster")]
fn replacing(replace: &Replace) -> pb::Replace {
    let quiet = replace.quiet.map(|Quiet { millis, most_millis, since }| pb::Quiet {
        millis,
        most_millis,
        since: since.0,
        ..pb::Quiet::new()
    });
    let (key, replaces) = (replace.key().to_owned(), replace.replaces);
    pb::Replace { key, quiet: quiet.into(), replaces, ..pb::Replace::new() }
}

fn read_replacing(replace: pb::Replace) -> Read<Box<Replace>> {
    let quiet = replace.quiet.0.map(|quiet| {
        let pb::Quiet { millis, most_millis, since, .. } = *quiet;
        Quiet { millis, most_millis, since: Time(since) }
    });
    let read = Replace::new(&replace.key, quiet).map_err(strange)?;
    Ok(Box::new(read.taken(replace.replaces, None)))
}

/// The same back.
pub(crate) fn read_task(task: pb::Task) -> Read<Task> {
    let audience = match (task.groups, task.select) {
        (groups, None) if groups.is_empty() => None,
        (groups, None) => Some(Audience::Groups(groups.iter().map(|one| name(one)).collect::<Read<_>>()?)),
        (_, Some(selector)) => Some(Audience::Matching(selector.parse().map_err(strange)?)),
    };
    let retry = task.retry.map(|retry| retry.parse::<RetryPolicy>()).transpose()?;
    let limit = |millis| TimeLimit { millis, fails: task.timeout_fails };
    let spec = NewTask {
        text: task.text,
        attachment: read_attachment(task.headers, task.data)?,
        to: optional_name(task.to)?,
        audience: audience.map(Arc::new),
        key: task.key,
        not_before: task.not_before.map(Time),
        expires_at: task.expires_at.map(Time),
        max_attempts: task.max_attempts,
        retry: retry.and_then(|retry| retry.backoff).map(Box::new),
        priority: read_priority(task.priority)?,
        by: task.by.0.map(|by| Arc::new(Submitter { name: by.name, role: by.role })),
        time_limit: NonZeroU32::new(task.timeout_ms).map(limit),
        replace: task.replace.0.map(|replace| read_replacing(*replace)).transpose()?,
        lane: optional_name(task.lane)?,
        made: task.made.0.map(|made| read_made(*made).map(Arc::new)).transpose()?,
    };
    Ok(Task { id: task.id, accepted_at: Time(task.accepted_at), spec })
}

fn read_made(made: pb::Made) -> Read<Made> {
    let schedule = Name::new(NameOf::Schedule, &made.schedule).map_err(strange)?;
    Ok(Made { schedule, moment: made.moment.map(Time) })
}

fn result(entry: &TaskResult) -> pb::Result {
    let TaskResult { seq, result } = entry;
    let NewResult { task, group, client, attempt, outcome, ret, attachment, at, not_before, late } = result;
    pb::Result {
        seq: *seq,
        task: *task,
        group: text(group.as_ref()),
        client: client.to_string(),
        attempt: *attempt,
        outcome: *outcome as u32,
        ret: ret.clone(),
        headers: attachment.headers().to_map(),
        data: attachment.data().to_vec(),
        at: at.0,
        not_before: not_before.map(|at| at.0),
        late: *late,
        ..pb::Result::new()
    }
}

fn read_result(result: pb::Result) -> Read<TaskResult> {
    let outcome = Outcome::from_number(result.outcome.into());
    let read = NewResult {
        task: result.task,
        group: optional_name(result.group)?,
        client: result.client.into(),
        attempt: result.attempt,
        outcome: outcome.ok_or_else(|| format!("the outcome {}", result.outcome))?,
        ret: result.ret,
        attachment: read_attachment(result.headers, result.data)?,
        at: Time(result.at),
        not_before: result.not_before.map(Time),
        late: result.late,
    };
    Ok(TaskResult { seq: result.seq, result: read })
}

fn read_attachment(headers: HashMap<String, String>, data: Vec<u8>) -> Read<Attachment> {
    Ok(Attachment::new(Headers::new(headers).map_err(strange)?, data))
}

fn status(entry: &Status) -> pb::Status {
    let Status { seq, status: NewStatus { client, msg, at } } = entry;
    pb::Status { seq: *seq, client: client.to_string(), msg: msg.clone(), at: at.0, ..pb::Status::new() }
}

fn read_status(status: pb::Status) -> Status {
    let read = NewStatus { client: status.client.into(), msg: status.msg, at: Time(status.at) };
    Status { seq: status.seq, status: read }
}

fn policy(retry: &RetryPolicy) -> String {
    if retry.is_open() { String::new() } else { retry.to_string() }
}

fn group(group: &GroupState) -> pb::Group {
    let GroupState {
        name,
        created_at,
        broadcast_after,
        paused,
        retry,
        limits,
        labels,
        last_used,
        cursors,
        taken_up,
        open,
        lanes,
    } = group;
    pb::Group {
        name: name.to_string(),
        created_at: created_at.0,
        broadcast_after: *broadcast_after,
        paused: *paused,
        retry: policy(retry),
        limits: limits.to_string(),
        labels: labels.to_string(),
        last_used: last_used.0,
        cursors: cursors.to_vec(),
        taken_up: taken_up.iter().flat_map(|(first, last)| [*first, *last]).collect(),
        open: open.iter().map(open_task).collect(),
        lanes: lanes.iter().map(waiting_lane).collect(),
        ..pb::Group::new()
    }
}

fn read_group(group: pb::Group) -> Read<GroupState> {
    let cursors: [TaskId; 3] = group.cursors.try_into().map_err(|_| "a group without its cursors".to_owned())?;
    let (ranges, rest) = group.taken_up.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("half a range".into());
    }
    Ok(GroupState {
        name: name(&group.name)?,
        created_at: Time(group.created_at),
        broadcast_after: group.broadcast_after,
        paused: group.paused,
        retry: read_text(&group.retry)?,
        limits: read_text(&group.limits)?,
        labels: read_text::<Labels>(&group.labels)?,
        last_used: Time(group.last_used),
        cursors,
        taken_up: ranges.iter().map(|[first, last]| (*first, *last)).collect(),
        open: group.open.into_iter().map(read_open_task).collect::<Read<_>>()?,
        lanes: group.lanes.into_iter().map(read_waiting_lane).collect::<Read<_>>()?,
    })
}

fn waiting_lane(waiting: &WaitingLane) -> pb::WaitingLane {
    let WaitingLane { lane, priority, after, upto, count } = waiting;
    pb::WaitingLane {
        lane: lane.to_string(),
        priority: priority_number(*priority),
        after: *after,
        upto: *upto,
        count: *count,
        ..pb::WaitingLane::new()
    }
}

fn read_waiting_lane(waiting: pb::WaitingLane) -> Read<WaitingLane> {
    let pb::WaitingLane { lane, after, upto, count, .. } = waiting;
    Ok(WaitingLane { lane: lane_name(&lane)?, priority: read_priority(waiting.priority)?, after, upto, count })
}

fn open_task(task: &OpenTask) -> pb::OpenTask {
    let OpenTask { id, attempts: Attempts { deliveries, spent, begun, silent }, not_before, lane, place } = task;
    pb::OpenTask {
        id: *id,
        deliveries: *deliveries,
        spent: *spent,
        begun: *begun,
        silent: *silent,
        not_before: not_before.map(|at| at.0),
        lane: text(lane.as_ref()),
        place: *place as u32,
        ..pb::OpenTask::new()
    }
}

fn read_open_task(task: pb::OpenTask) -> Read<OpenTask> {
    let attempts = Attempts { deliveries: task.deliveries, spent: task.spent, begun: task.begun, silent: task.silent };
    let lane = task.lane.map(|lane| lane_name(&lane)).transpose()?;
    let not_before = task.not_before.map(Time);
    let place = LanePlace::from_number(task.place.into()).ok_or_else(|| format!("the place {}", task.place))?;
    Ok(OpenTask { id: task.id, attempts, not_before, lane, place })
}

fn open_rows(group: &GroupName, rows: &OpenRows) -> pb::OpenRows {
    pb::OpenRows {
        group: group.to_string(),
        written: rows.values().flatten().map(open_task).collect(),
        removed: rows.iter().filter(|(_, task)| task.is_none()).map(|(id, _)| *id).collect(),
        ..pb::OpenRows::new()
    }
}

fn read_open_rows(rows: pb::OpenRows) -> Read<(GroupName, OpenRows)> {
    let written = rows.written.into_iter().map(|task| Ok((task.id, Some(read_open_task(task)?))));
    let removed = rows.removed.into_iter().map(|id| Ok((id, None)));
    Ok((name(&rows.group)?, written.chain(removed).collect::<Read<_>>()?))
}

fn drain(client: &Name, drain: Option<&Drain>) -> pb::Drain {
    let Some(Drain { client: _, since, until, note }) = drain else {
        return pb::Drain { client: client.to_string(), removed: true, ..pb::Drain::new() };
    };
    pb::Drain {
        client: client.to_string(),
        removed: false,
        since: since.0,
        until: until.map(|at| at.0),
        note: note.clone(),
        ..pb::Drain::new()
    }
}

fn read_drain(drain: pb::Drain) -> Read<(Name, Option<Drain>)> {
    let client = name(&drain.client)?;
    let read = |client| Drain { client, since: Time(drain.since), until: drain.until.map(Time), note: drain.note };
    Ok((client.clone(), (!drain.removed).then(|| read(client))))
}

fn run(run: &Run) -> io::Result<pb::Run> {
    Ok(pb::Run {
        number: run.number,
        json: serde_json::to_string(run)?,
        targets: run.targets.iter().map(ToString::to_string).collect(),
        ended: run.ended.iter().map(|state| state.letter()).collect(),
        ..pb::Run::new()
    })
}

fn read_run(run: pb::Run) -> Read<Run> {
    let read: Run = serde_json::from_str(&run.json).map_err(strange)?;
    let state = |letter| TargetState::of_letter(letter).ok_or_else(|| format!("the state {letter:?}"));
    Ok(Run {
        number: run.number,
        targets: run.targets.iter().map(|target| name(target)).collect::<Read<_>>()?,
        ended: run.ended.chars().map(state).collect::<Read<_>>()?,
        ..read
    })
}

fn schedule(name: &Name, schedule: Option<&Schedule>) -> io::Result<pb::Schedule> {
    let json = schedule.map(serde_json::to_string).transpose()?;
    Ok(pb::Schedule { name: name.to_string(), json, ..pb::Schedule::new() })
}

fn read_schedule(schedule: pb::Schedule) -> Read<(Name, Option<Schedule>)> {
    let read = |json: String| serde_json::from_str(&json).map_err(strange);
    Ok((name(&schedule.name)?, schedule.json.map(read).transpose()?))
}

fn dialled_one(address: &Name, dialled: Option<&Dialled>) -> pb::Dialled {
    let Some(Dialled { address: _, group, client, since }) = dialled else {
        return pb::Dialled { address: address.to_string(), removed: true, ..pb::Dialled::new() };
    };
    pb::Dialled {
        address: address.to_string(),
        removed: false,
        group: text(group.as_ref()),
        client: text(client.as_ref()),
        since: since.0,
        ..pb::Dialled::new()
    }
}

fn grant(to: &Grantee, text: Option<&String>) -> pb::Grant {
    let Grantee { shows, name } = to;
    pb::Grant { shows: shows.number(), name: name.to_string(), text: text.cloned(), ..pb::Grant::new() }
}

fn read_grant(grant: pb::Grant) -> Read<(Grantee, Option<String>)> {
    let shows =
        Shows::numbered(grant.shows).ok_or_else(|| format!("what {} shows is unknown: {}", grant.name, grant.shows))?;
    Ok((Grantee { shows, name: name(&grant.name)? }, grant.text))
}

fn read_dialled(dialled: pb::Dialled) -> Read<(Name, Option<Dialled>)> {
    let address = name(&dialled.address)?;
    if dialled.removed {
        return Ok((address, None));
    }
    let read = Dialled {
        address: address.clone(),
        group: optional_name(dialled.group)?,
        client: optional_name(dialled.client)?,
        since: Time(dialled.since),
    };
    Ok((address, Some(read)))
}

fn known_client(client: &Name, known: Option<&KnownClient>) -> pb::Client {
    let Some(KnownClient { client: _, group, labels, version, system, first_seen, last_seen, here }) = known else {
        return pb::Client { client: client.to_string(), removed: true, ..pb::Client::new() };
    };
    pb::Client {
        client: client.to_string(),
        removed: false,
        group: group.to_string(),
        labels: labels.to_string(),
        version: text(version.as_ref()),
        system: text(system.as_ref()),
        first_seen: first_seen.0,
        last_seen: last_seen.0,
        here: *here,
        ..pb::Client::new()
    }
}

fn read_client(known: pb::Client) -> Read<(Name, Option<KnownClient>)> {
    let client = name(&known.client)?;
    if known.removed {
        return Ok((client, None));
    }
    let read = KnownClient {
        client: client.clone(),
        group: name(&known.group)?,
        labels: read_text(&known.labels)?,
        version: optional_name(known.version)?,
        system: optional_name(known.system)?,
        first_seen: Time(known.first_seen),
        last_seen: Time(known.last_seen),
        here: known.here,
    };
    Ok((client, Some(read)))
}
