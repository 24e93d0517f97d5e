//! Runs, each a row.

use std::collections::BTreeSet;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::int;
use crate::run::{MOST_KEPT, Run, TargetState};
use crate::store::Removal;
use crate::task::{GroupName, Name, NameOf, TaskId};

pub(super) const OPEN: &str = "SELECT number, run, targets, ended FROM runs WHERE ended_at IS NULL ORDER BY number";
const OPEN_TASKS: &str = "SELECT number, run, '[]', NULL FROM runs WHERE ended_at IS NULL";
const ONE: &str = "SELECT number, run, targets, ended FROM runs WHERE number = ?";
pub(super) const BEFORE: &str =
    "SELECT number, run, '[]', NULL FROM runs WHERE number < ? ORDER BY number DESC LIMIT ?";

pub(super) fn write<'a>(change: &Transaction<'_>, runs: impl Iterator<Item = &'a Run>) -> rusqlite::Result<()> {
    for run in runs {
        let json = serde_json::to_string(run).map_err(strange)?;
        let targets: Vec<&str> = run.targets.iter().map(Name::as_str).collect();
        let ended: Option<String> = run.ended_at.map(|_| run.ended.iter().map(|state| state.letter()).collect());
        let values =
            params![int(run.number), run.ended_at.map(|at| at.0), json, serde_json::json!(targets).to_string(), ended];
        change
            .prepare_cached("REPLACE INTO runs (number, ended_at, run, targets, ended) VALUES (?, ?, ?, ?, ?)")?
            .execute(values)?;
        let oldest = "DELETE FROM runs WHERE ended_at IS NOT NULL AND number <
            (SELECT number FROM runs ORDER BY number DESC LIMIT 1 OFFSET ?)";
        change.prepare_cached(oldest)?.execute([MOST_KEPT as i64 - 1])?;
    }
    Ok(())
}

/// Removes those that ended before they would be kept; says how many.
pub(super) fn remove(change: &Transaction<'_>, removal: &Removal) -> rusqlite::Result<usize> {
    change.prepare_cached("DELETE FROM runs WHERE ended_at < ?")?.execute([removal.before.0])
}

pub(super) fn find(conn: &Connection, number: TaskId) -> rusqlite::Result<Option<Run>> {
    conn.prepare_cached(ONE)?.query_row([int(number)], read).optional()
}

/// All that are kept.
pub(super) fn all(conn: &Connection) -> rusqlite::Result<Vec<Run>> {
    conn.prepare("SELECT number, run, targets, ended FROM runs ORDER BY number")?.query_map([], read)?.collect()
}

pub(super) fn open(conn: &Connection) -> rusqlite::Result<Vec<Run>> {
    conn.prepare_cached(OPEN)?.query_map([], read)?.collect()
}

/// The tasks of those that have not ended.
pub(super) fn open_tasks(conn: &Connection) -> rusqlite::Result<BTreeSet<TaskId>> {
    let runs = conn.prepare_cached(OPEN_TASKS)?.query_map([], read)?.collect::<rusqlite::Result<Vec<Run>>>()?;
    Ok(runs.iter().flat_map(|run| run.tasks.iter().map(|(id, _)| *id)).collect())
}

pub(super) fn before(conn: &Connection, number: TaskId, limit: usize) -> rusqlite::Result<Vec<Run>> {
    conn.prepare_cached(BEFORE)?.query_map(params![int(number), int(limit as u64)], read)?.collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<Run> {
    let mut run: Run = serde_json::from_str(row.get_ref(1)?.as_str()?).map_err(strange)?;
    run.number = row.get::<_, i64>(0)? as u64;
    let targets: Vec<String> = serde_json::from_str(row.get_ref(2)?.as_str()?).map_err(strange)?;
    let name = |name: &String| Name::new(NameOf::Group, name);
    run.targets = targets.iter().map(name).collect::<Result<Vec<GroupName>, _>>().map_err(strange)?;
    let ended = row.get_ref(3)?.as_str_or_null()?.unwrap_or_default();
    let state = |letter| {
        TargetState::of_letter(letter).ok_or_else(|| strange(std::io::Error::other(format!("the state {letter:?}"))))
    };
    run.ended = ended.chars().map(state).collect::<Result<_, _>>()?;
    Ok(run)
}

fn strange(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error))
}
