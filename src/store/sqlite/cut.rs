//! Where a log can be cut of which this database is a view, and what of the part before must be said again.

use rusqlite::types::Value;
use rusqlite::{Connection, ToSql, Transaction, params, params_from_iter};

use super::chunks::Chunk as _;
use super::int;
use super::tasks::{self, TaskChunk};
use crate::store::Slot;
use crate::store::chunk::block_of;
use crate::task::{TaskId, Time};

/// Most bytes of tasks and results that are said again. More of what is old keeps the log before it.
const MOST: u64 = 16 << 20;
/// Of which a message has at least so many: what is said again is less than what is cut off.
const OF_A_MESSAGE: u64 = 256;
/// What a row counts beside its tasks or results.
const BESIDE_BYTES: u64 = 256;

/// A place before which a log can be cut, if this stands behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// The first message that stays.
    pub place: u64,
    /// All tasks up to this block of ids are in the rows, with what came of them; no other that is kept stands before the cut.
    pub block: i64,
    /// What is kept of these.
    pub rows: Vec<Rows>,
}

/// Some rows of a table, as they stand there.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// Its name.
    pub table: String,
    /// The names of its columns.
    pub columns: Vec<String>,
    /// The rows, each with a value for each column.
    pub rows: Vec<Vec<Value>>,
}

/// Tables of tasks up to a block (?1), and of what came of them.
const OF_BLOCKS: [(&str, &str); 4] = [
    ("task_chunks", "first < (?1 + 1) << 8"),
    ("changes", "task_id < (?1 + 1) << 8"),
    ("dead", "task_id BETWEEN 1 AND (?1 << 8) + 255"),
    ("result_chunks", "block BETWEEN 0 AND ?1"),
];
/// Those by which these tasks are found.
const BESIDE: [(&str, &str); 3] = [
    ("lanes", "lane = ? AND target = ? AND priority = ? AND first = ?"),
    ("keys", "key = ? AND task_id = ?"),
    ("slots", "key = ? AND address = ? AND task_id = ?"),
];

/// The newest place before which no task stands from one on (?2), no result of tasks behind a block (?1), and nothing else that is kept. Of
/// results that are still to be replayed, the groups do not know yet.
const PLACE: &str = "SELECT coalesce(max(place), 0) FROM log_places WHERE
    task   < ?2 AND
    result < coalesce((SELECT first FROM result_chunks WHERE NOT block BETWEEN 0 AND ?1 ORDER BY first LIMIT 1),
        1 + (SELECT value FROM meta WHERE name = 'last_result')) AND
    result <= (SELECT value FROM meta WHERE name = 'mark') AND
    status < coalesce((SELECT min(seq) FROM statuses), 1 + (SELECT value FROM meta WHERE name = 'last_status'))";

/// The tasks in their order: the first of each row, and when the newest came.
const TASKS: &str = "SELECT first, newest FROM task_chunks ORDER BY first LIMIT ?";
/// Bytes of tasks up to a block (?1), and of what came of them.
const BYTES: &str = "SELECT octet_length(head) + octet_length(texts) FROM task_chunks WHERE first < (?1 + 1) << 8
    UNION ALL SELECT octet_length(head) + octet_length(texts) FROM result_chunks WHERE block BETWEEN 0 AND ?1";

/// Finds a cut by which at least so many messages go. What did not come from `old` to `now` is said again, if it is not too much. Not much more is
/// looked at than may be said again: the store stands still meanwhile.
pub(super) fn find(conn: &Connection, old: Time, now: Time, enough: u64) -> rusqlite::Result<Option<Cut>> {
    let number = |sql: &str, params: &[&dyn ToSql]| {
        conn.prepare_cached(sql)?.query_row(params, |row| row.get::<_, Option<i64>>(0)).map(Option::unwrap_or_default)
    };
    let begin = number("SELECT min(place) FROM log_places", &[])? as u64;
    let pays = |place: i64, bytes: u64| (place as u64).saturating_sub(begin) >= enough.max(bytes / OF_A_MESSAGE).max(1);
    if !pays(number("SELECT max(place) FROM log_places", &[])?, 0) {
        return Ok(None);
    }
    let (mut oldest, mut young) = (None, None);
    let mut tasks = conn.prepare_cached(TASKS)?;
    let mut tasks = tasks.query([(MOST / BESIDE_BYTES) as i64])?;
    while young.is_none()
        && let Some(row) = tasks.next()?
    {
        let (first, newest) = (row.get::<_, i64>(0)?, row.get(1)?);
        oldest = oldest.or(Some(first));
        young = Some(first).filter(|_| (old.0..=now.0).contains(&newest));
    }
    let next = number("SELECT 1 + value FROM meta WHERE name = 'last_task'", &[])?;
    let (young, oldest) = (young.unwrap_or(next), oldest.unwrap_or(next));
    let [of_young, of_oldest] = [young, oldest].map(|first| block_of(first as TaskId));
    let first_of = |block: i64| block << 8;
    // The last one, of which nothing is said again but strays, is for blocks of which that is much: whoever reads the log from there on may keep
    // something of one that is removed, as long as others of its block are kept.
    let cuts = [(of_young, first_of(of_young + 1)), (of_young - 1, first_of(of_young)), (of_oldest - 1, oldest)];
    for (block, before) in cuts {
        if let Some(bytes) = bytes_upto(conn, block)? {
            let place = number(PLACE, &[&block, &before])?;
            let cut = || Ok(Cut { place: place as u64, block, rows: rows(conn, block)? });
            return pays(place, bytes).then(cut).transpose();
        }
    }
    Ok(None)
}

/// How much is said again with a cut up to a block. `None`: too much.
fn bytes_upto(conn: &Connection, block: i64) -> rusqlite::Result<Option<u64>> {
    let mut bytes = 0;
    let mut select = conn.prepare_cached(BYTES)?;
    for row in select.query_map([block], |row| row.get::<_, i64>(0))? {
        bytes += BESIDE_BYTES + row? as u64;
        if bytes > MOST {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

fn rows(conn: &Connection, block: i64) -> rusqlite::Result<Vec<Rows>> {
    let mut all = Vec::new();
    for (table, which) in OF_BLOCKS {
        let mut of_table = Rows::none_of(table);
        of_table.read(conn, which, &[&block])?;
        all.push(of_table);
    }
    let [mut lanes, mut keys, mut slots] = BESIDE.map(|(table, _)| Rows::none_of(table));
    let [of_lane, of_key, of_slot] = BESIDE.map(|(_, which)| which);
    let mut select = conn.prepare_cached(tasks::BEFORE)?;
    for chunk in select.query_map([(block + 1) << 8], TaskChunk::read)? {
        let chunk = chunk?;
        let (names, target, priority) = chunk.lanes();
        for lane in names {
            lanes.read(conn, of_lane, params![lane, target, priority, int(chunk.position(0))])?;
        }
        for (key, task) in chunk.keys() {
            keys.read(conn, of_key, params![key, int(task)])?;
        }
        for task in chunk.replacing() {
            let task = task?;
            if let Some(slot) = Slot::of(&task.spec) {
                slots.read(conn, of_slot, params![slot.key, slot.address, int(task.id)])?;
            }
        }
    }
    all.extend([lanes, keys, slots]);
    all.retain(|table| !table.rows.is_empty());
    Ok(all)
}

impl Rows {
    fn none_of(table: &str) -> Rows {
        Rows { table: table.to_owned(), columns: Vec::new(), rows: Vec::new() }
    }

    fn read(&mut self, conn: &Connection, which: &str, params: &[&dyn ToSql]) -> rusqlite::Result<()> {
        let mut select = conn.prepare_cached(&format!("SELECT * FROM {} WHERE {which}", self.table))?;
        self.columns = select.column_names().map(str::to_owned).collect();
        let columns = self.columns.len();
        let rows = select.query_map(params, |row| (0..columns).map(|at| row.get(at)).collect())?;
        for row in rows {
            self.rows.push(row?);
        }
        Ok(())
    }

    /// Whether they may be rows of a table that is cut.
    pub(in crate::store) fn check(&self) -> Result<(), String> {
        let Rows { table, columns, rows } = self;
        if !OF_BLOCKS.iter().chain(&BESIDE).any(|(name, _)| name == table) {
            return Err(format!("rows of a table {table:?}"));
        }
        let is_name =
            |name: &String| !name.is_empty() && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
        if columns.iter().all(is_name) && rows.iter().all(|row| row.len() == columns.len()) {
            return Ok(());
        }
        Err(format!("rows of {table} that make no sense"))
    }

    fn write(&self, change: &Transaction<'_>) -> rusqlite::Result<()> {
        let Rows { table, columns, rows } = self;
        let columns = columns.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>();
        let (columns, values) = (columns.join(", "), vec!["?"; columns.len()].join(", "));
        let mut put = change.prepare_cached(&format!("REPLACE INTO {table} ({columns}) VALUES ({values})"))?;
        rows.iter().try_for_each(|row| put.execute(params_from_iter(row)).map(drop))
    }
}

impl Cut {
    /// Puts the rows in the place of what there is. That is the same where all of the log was read. Where it was read from the cut on, what stood before
    /// is missing, and what came of tasks is there whose removal was not understood, since they were not.
    pub(super) fn write(&self, change: &Transaction<'_>) -> rusqlite::Result<()> {
        for (table, which) in OF_BLOCKS {
            change.execute(&format!("DELETE FROM {table} WHERE {which}"), [self.block])?;
        }
        self.rows.iter().try_for_each(|rows| rows.write(change))?;
        change.execute("DELETE FROM log_places WHERE place < ?", [int(self.place)]).map(drop)
    }
}
