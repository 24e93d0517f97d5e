//! Schedules, each a row.

use std::collections::BTreeMap;

use rusqlite::types::Type;
use rusqlite::{Connection, Row, Transaction, params};

use super::rows::name;
use crate::schedule::Schedule;
use crate::task::Name;

pub(super) const ALL: &str = "SELECT name, schedule FROM schedules";

pub(super) fn write(change: &Transaction<'_>, all: &BTreeMap<Name, Option<Schedule>>) -> rusqlite::Result<()> {
    for (name, schedule) in all {
        match schedule {
            Some(schedule) => {
                let json = serde_json::to_string(schedule).map_err(strange)?;
                let put = "REPLACE INTO schedules (name, schedule) VALUES (?, ?)";
                change.prepare_cached(put)?.execute(params![name.as_str(), json])?;
            }
            None => {
                change.prepare_cached("DELETE FROM schedules WHERE name = ?")?.execute([name.as_str()])?;
            }
        }
    }
    Ok(())
}

pub(super) fn all(conn: &Connection) -> rusqlite::Result<BTreeMap<Name, Schedule>> {
    conn.prepare_cached(ALL)?.query_map([], read)?.collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<(Name, Schedule)> {
    let schedule = serde_json::from_str(row.get_ref(1)?.as_str()?).map_err(strange)?;
    Ok((name(row.get_ref(0)?.as_str()?)?, schedule))
}

fn strange(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(1, Type::Text, Box::new(error))
}
