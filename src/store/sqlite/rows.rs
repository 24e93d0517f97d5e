//! The columns of each table, in one order: that in which values are bound, and read.

use rusqlite::types::{FromSql, ToSql, Type};
use rusqlite::{Row, Statement, Transaction};
use serde::{Deserialize, Serialize};

use super::int;
use crate::attachment::{Attachment, Headers};
use crate::attempts::Attempts;
use crate::group_limits::GroupLimits;
use crate::labels::Labels;
use crate::retry::RetryPolicy;
use crate::store::{Dialled, Drain, GroupState, KnownClient, LanePlace, OpenTask, WaitingLane};
use crate::task::{
    GroupName, Name, NameError, NameOf, NewResult, NewStatus, NewTask, Outcome, Priority, Status, Task, TaskId,
    TaskResult, Time,
};

// Macros, because only a literal can be part of a constant statement.
macro_rules! task_columns {
    () => {
        "id, accepted_at, priority, target, key, not_before, expires_at, max_attempts, retry, text"
    };
}
macro_rules! result_columns {
    () => {
        r#"seq, task_id, "group", client, attempt, outcome, at, not_before, late, ret, NULL, NULL"#
    };
}
macro_rules! status_columns {
    () => {
        "seq, client, at, msg"
    };
}
macro_rules! group_columns {
    () => {
        "name, created_at, broadcast_after, paused, retry, limits, labels, last_used, cursors, settled, open, lanes"
    };
}
macro_rules! drain_columns {
    () => {
        "client, since, until, note"
    };
}
macro_rules! dialled_columns {
    () => {
        r#"address, "group", client, since"#
    };
}
macro_rules! client_columns {
    () => {
        r#"client, "group", labels, version, system, first_seen, last_seen, here"#
    };
}
macro_rules! dead_columns {
    () => {
        r#"seq, task_id, "group", client, attempt, outcome, at, ret, headers, data"#
    };
}
/// The columns of a dead letter, as those of a result: it is not late, and does not wait.
macro_rules! dead_results {
    () => {
        r#"seq, task_id, "group", client, attempt, outcome, at, NULL, 0, ret, headers, data"#
    };
}
macro_rules! open_columns {
    () => {
        r#""group", task_id, deliveries, spent, begun, silent, not_before, lane, place"#
    };
}
pub(super) use {
    client_columns, dead_columns, dead_results, dialled_columns, drain_columns, group_columns, open_columns,
    result_columns, status_columns, task_columns,
};

/// Rows in one statement, where there are many. Opening the table and its indexes and finding their ends costs as much as a
/// row does, and is done once for a statement.
const ROWS: usize = 16;

/// Writes rows; `into` says how and where, `columns` what. `bind` puts the values of one row, in the order of the columns.
pub(super) fn insert<T>(
    change: &Transaction<'_>,
    into: &str,
    columns: &str,
    rows: &[T],
    bind: impl Fn(&mut Parameters<'_, '_>, &T) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let row = format!("({})", vec!["?"; columns.split(',').count()].join(", "));
    let sql = |rows| format!("{into} ({columns}) VALUES {}", vec![row.as_str(); rows].join(", "));
    let insert = |rows: &[T], each: usize| -> rusqlite::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut statement = change.prepare_cached(&sql(each))?;
        for chunk in rows.chunks(each) {
            let mut parameters = Parameters { statement: &mut statement, bound: 0 };
            chunk.iter().try_for_each(|row| bind(&mut parameters, row))?;
            statement.raw_execute()?;
        }
        Ok(())
    };
    let (many, rest) = rows.as_chunks::<ROWS>();
    insert(many.as_flattened(), ROWS)?;
    insert(rest, 1)
}

/// The parameters of a statement, one after another.
pub(super) struct Parameters<'a, 'c> {
    statement: &'a mut Statement<'c>,
    bound: usize,
}

impl Parameters<'_, '_> {
    fn put(&mut self, value: impl ToSql) -> rusqlite::Result<()> {
        self.bound += 1;
        self.statement.raw_bind_parameter(self.bound, value)
    }
}

/// The one name in a row, or nothing.
pub(super) fn optional_name(row: &Row<'_>) -> rusqlite::Result<Option<Name>> {
    Values::of(row).optional_name()
}

/// The values of a row, one after another.
struct Values<'a, 'r> {
    row: &'a Row<'r>,
    column: usize,
}

impl Values<'_, '_> {
    fn of<'a, 'r>(row: &'a Row<'r>) -> Values<'a, 'r> {
        Values { row, column: 0 }
    }

    fn next<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        self.column += 1;
        self.row.get(self.column - 1)
    }

    fn position(&mut self) -> rusqlite::Result<u64> {
        self.next::<i64>().map(|position| position as u64)
    }

    fn time(&mut self) -> rusqlite::Result<Time> {
        self.next().map(Time)
    }

    fn optional_time(&mut self) -> rusqlite::Result<Option<Time>> {
        Ok(self.next::<Option<i64>>()?.map(Time))
    }

    fn name(&mut self) -> rusqlite::Result<Name> {
        let name = self.optional_name()?;
        name.ok_or_else(|| rusqlite::Error::InvalidColumnType(self.column - 1, "name".into(), Type::Null))
    }

    fn outcome(&mut self) -> rusqlite::Result<Outcome> {
        let number = self.next()?;
        Outcome::from_number(number).ok_or_else(|| self.unknown(number))
    }

    fn optional_name(&mut self) -> rusqlite::Result<Option<Name>> {
        self.column += 1;
        let name = self.row.get_ref(self.column - 1)?.as_str_or_null()?;
        name.map(|name| Name::new(NameOf::Group, name)).transpose().map_err(|error| self.strange(error))
    }

    fn retry(&mut self) -> rusqlite::Result<RetryPolicy> {
        let text = self.next::<Option<String>>()?;
        let policy = text.map_or(Ok(RetryPolicy::default()), |text| text.parse());
        policy.map_err(|error| self.strange(std::io::Error::other(error)))
    }

    fn limits(&mut self) -> rusqlite::Result<GroupLimits> {
        let text = self.next::<Option<String>>()?;
        let limits = text.map_or(Ok(GroupLimits::default()), |text| text.parse());
        limits.map_err(|error| self.strange(std::io::Error::other(error)))
    }

    fn lane(&mut self) -> rusqlite::Result<Option<Name>> {
        let lane = self.next::<Option<String>>()?;
        lane.map(|lane| Name::new(NameOf::KeptLane, &lane)).transpose().map_err(|error| self.strange(error))
    }

    /// Lanes, as JSON.
    fn lanes(&mut self) -> rusqlite::Result<Vec<WaitingLane>> {
        let text = self.next::<Option<String>>()?;
        let rows = text.map_or(Ok(Vec::new()), |text| serde_json::from_str::<Vec<LaneRow>>(&text));
        let rows = rows.map_err(|error| self.strange(error))?;
        rows.into_iter()
            .map(|LaneRow(lane, number, after, upto, count)| {
                let lane = Name::new(NameOf::KeptLane, &lane).map_err(|error| self.strange(error))?;
                let priority = priority(number).ok_or_else(|| self.unknown(number))?;
                Ok(WaitingLane { lane, priority, after, upto, count })
            })
            .collect()
    }

    fn labels(&mut self) -> rusqlite::Result<Labels> {
        let text = self.next::<Option<String>>()?;
        text.map_or(Ok(Labels::default()), |text| text.parse()).map_err(|error| self.strange(error))
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self) -> rusqlite::Result<T> {
        self.column += 1;
        serde_json::from_str(self.row.get_ref(self.column - 1)?.as_str()?).map_err(|error| self.strange(error))
    }

    /// The headers, as JSON, and the data; either may be missing.
    fn attachment(&mut self) -> rusqlite::Result<Attachment> {
        let headers = self.next::<Option<String>>()?;
        let headers = headers.map_or(Ok(Headers::default()), |text| serde_json::from_str(&text));
        let headers = headers.map_err(|error| self.strange(error))?;
        Ok(Attachment::new(headers, self.next::<Option<Vec<u8>>>()?.unwrap_or_default()))
    }

    /// The value that was read last is not what it should be.
    fn strange(&self, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
        rusqlite::Error::FromSqlConversionFailure(self.column - 1, Type::Text, Box::new(error))
    }

    fn unknown(&self, number: i64) -> rusqlite::Error {
        rusqlite::Error::IntegralValueOutOfRange(self.column - 1, number)
    }
}

pub(super) fn task(row: &Row<'_>) -> rusqlite::Result<Task> {
    let mut row = Values::of(row);
    Ok(Task {
        id: row.position()?,
        accepted_at: row.time()?,
        spec: NewTask {
            priority: {
                let number = row.next()?;
                priority(number).ok_or_else(|| row.unknown(number))?
            },
            to: row.optional_name()?,
            key: row.next()?,
            not_before: row.optional_time()?,
            expires_at: row.optional_time()?,
            max_attempts: row.next()?,
            retry: row.retry()?.backoff.map(Box::new),
            text: row.next()?,
            attachment: Attachment::default(),
            by: None,
            audience: None,
            time_limit: None,
            replace: None,
            lane: None,
            made: None,
        },
    })
}

/// The numbers of the file: never change one.
pub(super) fn priority_number(priority: Priority) -> i64 {
    match priority {
        Priority::Normal => 0,
        Priority::High => 1,
        Priority::Low => 2,
    }
}

/// The priority with that number.
pub(super) fn priority(number: i64) -> Option<Priority> {
    Priority::ALL.into_iter().find(|priority| priority_number(*priority) == number)
}

pub(super) fn result(row: &Row<'_>) -> rusqlite::Result<TaskResult> {
    let mut row = Values::of(row);
    Ok(TaskResult {
        seq: row.position()?,
        result: NewResult {
            task: row.position()?,
            group: row.optional_name()?,
            client: row.next()?,
            attempt: row.next()?,
            outcome: row.outcome()?,
            at: row.time()?,
            not_before: row.optional_time()?,
            late: row.next()?,
            ret: row.next()?,
            attachment: row.attachment()?,
        },
    })
}

/// A dead letter: the result by which a task was given up.
pub(super) fn bind_dead(to: &mut Parameters<'_, '_>, entry: &TaskResult) -> rusqlite::Result<()> {
    let result = &entry.result;
    to.put(int(entry.seq))?;
    to.put(int(result.task))?;
    to.put(result.group.as_ref().map(Name::as_str))?;
    to.put(&*result.client)?;
    to.put(result.attempt)?;
    to.put(result.outcome as u8)?;
    to.put(result.at.0)?;
    to.put(result.ret.as_str())?;
    let (headers, data) = (result.attachment.headers(), result.attachment.data());
    to.put((!headers.is_empty()).then(|| serde_json::json!(headers).to_string()))?;
    to.put((!data.is_empty()).then_some(data))
}

pub(super) fn bind_status(to: &mut Parameters<'_, '_>, entry: &Status) -> rusqlite::Result<()> {
    to.put(int(entry.seq))?;
    to.put(&*entry.status.client)?;
    to.put(entry.status.at.0)?;
    to.put(entry.status.msg.as_str())
}

pub(super) fn status(row: &Row<'_>) -> rusqlite::Result<Status> {
    let mut row = Values::of(row);
    Ok(Status { seq: row.position()?, status: NewStatus { client: row.next()?, at: row.time()?, msg: row.next()? } })
}

pub(super) fn bind_group(to: &mut Parameters<'_, '_>, state: &GroupState) -> rusqlite::Result<()> {
    let open: Vec<_> = state.open.iter().map(OpenRow::of).collect();
    to.put(state.name.as_str())?;
    to.put(state.created_at.0)?;
    to.put(int(state.broadcast_after))?;
    to.put(state.paused)?;
    to.put((!state.retry.is_open()).then(|| state.retry.to_string()))?;
    to.put((!state.limits.is_default()).then(|| state.limits.to_string()))?;
    to.put((!state.labels.is_empty()).then(|| state.labels.to_string()))?;
    to.put(state.last_used.0)?;
    to.put(serde_json::json!(state.cursors).to_string())?;
    to.put(serde_json::json!(state.taken_up).to_string())?;
    to.put(serde_json::json!(open).to_string())?;
    let lanes: Vec<_> = state.lanes.iter().map(LaneRow::of).collect();
    to.put((!lanes.is_empty()).then(|| serde_json::json!(lanes).to_string()))
}

pub(super) fn group(row: &Row<'_>) -> rusqlite::Result<GroupState> {
    let mut row = Values::of(row);
    Ok(GroupState {
        name: row.name()?,
        created_at: row.time()?,
        broadcast_after: row.position()?,
        paused: row.next()?,
        retry: row.retry()?,
        limits: row.limits()?,
        labels: row.labels()?,
        last_used: row.time()?,
        cursors: row.json()?,
        taken_up: row.json()?,
        open: {
            let rows = row.json::<Vec<OpenRow>>()?;
            rows.into_iter().map(OpenRow::task).collect::<Result<_, _>>().map_err(|error| row.strange(error))?
        },
        lanes: row.lanes()?,
    })
}

pub(super) fn bind_drain(to: &mut Parameters<'_, '_>, drain: &Drain) -> rusqlite::Result<()> {
    to.put(drain.client.as_str())?;
    to.put(drain.since.0)?;
    to.put(drain.until.map(|time| time.0))?;
    to.put(drain.note.as_str())
}

pub(super) fn bind_client(to: &mut Parameters<'_, '_>, known: &KnownClient) -> rusqlite::Result<()> {
    to.put(known.client.as_str())?;
    to.put(known.group.as_str())?;
    to.put((!known.labels.is_empty()).then(|| known.labels.to_string()))?;
    to.put(known.version.as_ref().map(Name::as_str))?;
    to.put(known.system.as_ref().map(Name::as_str))?;
    to.put(known.first_seen.0)?;
    to.put(known.last_seen.0)?;
    to.put(known.here)
}

pub(super) fn client(row: &Row<'_>) -> rusqlite::Result<KnownClient> {
    let mut row = Values::of(row);
    Ok(KnownClient {
        client: row.name()?,
        group: row.name()?,
        labels: row.labels()?,
        version: row.optional_name()?,
        system: row.optional_name()?,
        first_seen: row.time()?,
        last_seen: row.time()?,
        here: row.next()?,
    })
}

pub(super) fn drain(row: &Row<'_>) -> rusqlite::Result<Drain> {
    let mut row = Values::of(row);
    Ok(Drain { client: row.name()?, since: row.time()?, until: row.optional_time()?, note: row.next()? })
}

pub(super) fn bind_dialled(to: &mut Parameters<'_, '_>, dialled: &Dialled) -> rusqlite::Result<()> {
    to.put(dialled.address.as_str())?;
    to.put(dialled.group.as_ref().map(GroupName::as_str))?;
    to.put(dialled.client.as_ref().map(GroupName::as_str))?;
    to.put(dialled.since.0)
}

pub(super) fn dialled(row: &Row<'_>) -> rusqlite::Result<Dialled> {
    let mut row = Values::of(row);
    Ok(Dialled { address: row.name()?, group: row.optional_name()?, client: row.optional_name()?, since: row.time()? })
}

pub(super) fn bind_open(to: &mut Parameters<'_, '_>, (group, task): &(&GroupName, &OpenTask)) -> rusqlite::Result<()> {
    to.put(group.as_str())?;
    to.put(int(task.id))?;
    to.put(task.attempts.deliveries)?;
    to.put(task.attempts.spent)?;
    to.put(task.attempts.begun)?;
    to.put(task.attempts.silent)?;
    to.put(task.not_before.map(|time| time.0))?;
    to.put(task.lane.as_ref().map(Name::as_str))?;
    to.put(task.place as u8)
}

/// The name of the group, as it stands there: there are many rows of each, and a name is made once.
pub(super) fn open<'a>(row: &'a Row<'_>) -> rusqlite::Result<(&'a str, OpenTask)> {
    let group = row.get_ref(0)?.as_str()?;
    let mut row = Values { row, column: 1 };
    let task = OpenTask {
        id: row.position()?,
        attempts: Attempts { deliveries: row.next()?, spent: row.next()?, begun: row.next()?, silent: row.next()? },
        not_before: row.optional_time()?,
        lane: row.lane()?,
        place: {
            let number = row.next()?;
            LanePlace::from_number(number).ok_or_else(|| row.unknown(number))?
        },
    };
    Ok((group, task))
}

/// A name that stands in the first column.
pub(super) fn name(name: &str) -> rusqlite::Result<GroupName> {
    Name::new(NameOf::Group, name).map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(e)))
}

/// An open task in the list of its group: id, deliveries, not before; and, unless every delivery is spent, what is: attempts, whether the last delivery
/// is among them, and how many were silent. Stores before that knew only three. With a lane, there are five.
#[derive(Serialize, Deserialize)]
struct OpenRow(
    TaskId,
    u32,
    Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")] Option<(u32, bool, u32)>,
    #[serde(default, skip_serializing_if = "Option::is_none")] Option<(String, bool)>,
);

/// A lane in the list of its group: its name, the priority, after which task, up to which, how many.
#[derive(Serialize, Deserialize)]
struct LaneRow(String, i64, TaskId, TaskId, u64);

impl LaneRow {
    fn of(waiting: &WaitingLane) -> LaneRow {
        let WaitingLane { lane, priority, after, upto, count } = waiting;
        LaneRow(lane.as_str().to_owned(), priority_number(*priority), *after, *upto, *count)
    }
}

impl OpenRow {
    fn of(task: &OpenTask) -> OpenRow {
        let OpenTask { id, attempts, not_before, lane, place } = task;
        let Attempts { deliveries, spent, begun, silent } = *attempts;
        // What is left out must be at the end.
        let is_told = lane.is_some() || *attempts != Attempts::all_spent(deliveries);
        let counted = is_told.then_some((spent, begun, silent));
        // What is dead always has a row.
        let lane = lane.as_ref().map(|lane| (lane.as_str().to_owned(), *place == LanePlace::Taken));
        OpenRow(*id, deliveries, not_before.map(|time| time.0), counted, lane)
    }

    fn task(self) -> Result<OpenTask, NameError> {
        let OpenRow(id, deliveries, not_before, counted, lane) = self;
        let place = if lane.as_ref().is_some_and(|lane| lane.1) { LanePlace::Taken } else { LanePlace::None };
        let lane = lane.map(|lane| Name::new(NameOf::KeptLane, &lane.0)).transpose()?;
        let all_spent = Attempts::all_spent(deliveries);
        let attempts =
            counted.map_or(all_spent, |(spent, begun, silent)| Attempts { deliveries, spent, begun, silent });
        Ok(OpenTask { id, attempts, not_before: not_before.map(Time), lane, place })
    }
}
