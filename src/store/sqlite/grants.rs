//! What is granted, each a row.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, Transaction, params};

use super::rows::name;
use crate::store::{Granted, Grantee, Shows};

pub(super) fn write(change: &Transaction<'_>, all: &BTreeMap<Grantee, Option<String>>) -> rusqlite::Result<()> {
    for (Grantee { shows, name }, text) in all {
        match text {
            Some(text) => {
                let put = "REPLACE INTO grants (shows, name, text) VALUES (?, ?, ?)";
                change.prepare_cached(put)?.execute(params![shows.number(), name.as_str(), text])?;
            }
            None => {
                let remove = "DELETE FROM grants WHERE shows = ? AND name = ?";
                change.prepare_cached(remove)?.execute(params![shows.number(), name.as_str()])?;
            }
        }
    }
    Ok(())
}

pub(super) fn all(conn: &Connection) -> rusqlite::Result<Granted> {
    conn.prepare_cached("SELECT shows, name, text FROM grants")?.query_map([], read)?.collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<(Grantee, String)> {
    let number: i64 = row.get(0)?;
    let shows = u32::try_from(number).ok().and_then(Shows::numbered);
    let shows = shows.ok_or(rusqlite::Error::IntegralValueOutOfRange(0, number))?;
    Ok((Grantee { shows, name: name(row.get_ref(1)?.as_str()?)? }, row.get(2)?))
}
