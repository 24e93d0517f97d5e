//! Removing what is old: whole chunks.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::chunks::{Chunk as _, strange};
use super::int;
use super::rows::priority_number;
use super::tasks::{self, TaskChunk};
use crate::store::backend::{Oldest, Standing};
use crate::store::chunk::block_of;
use crate::store::{ChunkOfTasks, Removable, Removal, Removed};
use crate::task::{GroupName, Priority, TaskId, Time};

/// The chunks of a group and priority in their order, without reading them.
pub(super) const CHUNKS: &str = "SELECT first, last, count, newest FROM task_chunks INDEXED BY task_chunks_class
    WHERE target IS ?1 AND priority = ?2 ORDER BY first";

pub(super) const STRAYS: &str = "SELECT first, newest, count FROM result_chunks WHERE stray = 1 ORDER BY first";
/// What came of a block up to a seq.
pub(super) const EMPTIED: &str =
    "SELECT first, count FROM result_chunks WHERE block = ?1 AND first <= ?2 ORDER BY first LIMIT 1";

/// The chunks that may be removed, the oldest first, as many as hold `limit` tasks, or one. Asks the index for each class of tasks, and
/// then for what may go and no more.
pub(super) fn removable(
    conn: &Connection,
    removable: &Removable,
    mut next_group: impl FnMut(Option<&GroupName>) -> rusqlite::Result<Option<GroupName>>,
) -> rusqlite::Result<Vec<ChunkOfTasks>> {
    let mut select = conn.prepare_cached(CHUNKS)?;
    let mut oldest = Oldest::new(removable.limit);
    let mut group: Option<GroupName> = None;
    loop {
        for priority in Priority::ALL {
            let name = group.as_ref().map(GroupName::as_str);
            let mut chunks = select.query(params![name, priority_number(priority)])?;
            while let Some(row) = chunks.next()? {
                let id = |column| row.get::<_, i64>(column).map(|id| id as TaskId);
                let chunk = ChunkOfTasks { first: id(0)?, count: row.get::<_, u32>(2)? as usize };
                match removable.standing(group.as_ref(), id(1)?, Time(row.get(3)?)) {
                    Standing::Goes if oldest.add(chunk) => {}
                    Standing::Goes | Standing::HoldsTheRest => break,
                    Standing::Stays => {}
                }
            }
        }
        group = next_group(group.as_ref())?;
        if group.is_none() {
            return Ok(oldest.into_vec());
        }
    }
}

/// Whether a task may be there of a block. No chunk is read for that.
pub(super) fn has_tasks(conn: &Connection, block: i64) -> rusqlite::Result<bool> {
    if block < 0 {
        return Ok(false);
    }
    let mut within = conn.prepare_cached(
        "SELECT 1 FROM task_chunks WHERE first BETWEEN ?1 AND ?2 UNION ALL
         SELECT 1 FROM task_chunks WHERE first < ?1 AND last >= ?1
            AND first >= (SELECT segment FROM task_chunks WHERE first < ?1 ORDER BY first DESC LIMIT 1) LIMIT 1",
    )?;
    let first = block.saturating_mul(256);
    within.exists([first, first.saturating_add(255)])
}

/// Removes chunks of tasks, and as much of the rest that is old as the limit says.
pub(super) fn remove(change: &Transaction<'_>, removal: &Removal) -> rusqlite::Result<Removed> {
    let mut removed = Removed::default();
    let last_result =
        change.query_row("SELECT value FROM meta WHERE name = 'last_result'", [], |row| row.get::<_, i64>(0))?;
    for first in &removal.chunks {
        let mut select = change.prepare_cached(tasks::AT)?;
        let Some(chunk) = select.query_row([int(*first)], TaskChunk::read).optional()? else { continue };
        let ids = || (0..chunk.len()).map(|at| chunk.position(at));
        change.prepare_cached("DELETE FROM task_chunks WHERE first = ?")?.execute([int(*first)])?;
        for (key, task) in chunk.keys() {
            let mut free = change.prepare_cached("DELETE FROM keys WHERE key = ? AND task_id = ?")?;
            free.execute(params![key, int(task)])?;
        }
        let mut dead = change.prepare_cached("SELECT DISTINCT task_id FROM dead WHERE task_id BETWEEN ? AND ?")?;
        let last = ids().next_back().unwrap_or(*first);
        let dead: Vec<i64> =
            dead.query_map([int(*first), int(last)], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        for task in dead.iter().filter(|task| chunk.find(**task as TaskId).is_some()) {
            change.prepare_cached("DELETE FROM dead WHERE task_id = ?")?.execute([task])?;
        }
        for task in chunk.changed() {
            change.prepare_cached("DELETE FROM changes WHERE task_id = ?")?.execute([int(task)])?;
        }
        for block in block_of(*first)..=block_of(last) {
            if !has_tasks(change, block)? {
                change
                    .prepare_cached("REPLACE INTO emptied (block, upto) VALUES (?, ?)")?
                    .execute([block, last_result])?;
            }
        }
        removed.tasks.extend(ids());
    }
    removed.tasks.sort_unstable();
    removed.results = remove_emptied(change, removal.limit)?;
    for (first, count) in old(change, STRAYS, removal)? {
        remove_results(change, first)?;
        removed.others += count;
    }
    for (seq, count) in old(change, "SELECT seq, at, 1 FROM statuses ORDER BY seq", removal)? {
        change.prepare_cached("DELETE FROM statuses WHERE seq = ?")?.execute([seq])?;
        removed.others += count;
    }
    Ok(removed)
}

/// What came of tasks that are gone.
fn remove_emptied(change: &Transaction<'_>, limit: usize) -> rusqlite::Result<usize> {
    let mut removed = 0;
    let block = "SELECT block, upto FROM emptied ORDER BY block LIMIT 1";
    let two = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    while let Some((block, upto)) = change.prepare_cached(block)?.query_row([], two).optional()? {
        while let Some((first, count)) = change.prepare_cached(EMPTIED)?.query_row([block, upto], two).optional()? {
            if removed >= limit {
                return Ok(removed);
            }
            remove_results(change, first)?;
            removed += usize::try_from(count).map_err(|error| strange(1, error))?;
        }
        change.prepare_cached("DELETE FROM emptied WHERE block = ?")?.execute([block])?;
    }
    Ok(removed)
}

/// Removes a chunk of results, and the dead letters among them.
fn remove_results(change: &Transaction<'_>, first: i64) -> rusqlite::Result<()> {
    // The tasks in its range of seqs that are of its block.
    let dead = "DELETE FROM dead WHERE seq BETWEEN ?1 AND (SELECT last FROM result_chunks WHERE first = ?1)
        AND task_id BETWEEN (SELECT first_task FROM result_chunks WHERE first = ?1)
            AND (SELECT last_task FROM result_chunks WHERE first = ?1)";
    change.prepare_cached(dead)?.execute([first])?;
    change.prepare_cached("DELETE FROM result_chunks WHERE first = ?")?.execute([first])?;
    Ok(())
}

/// Rows that are old, from the oldest on, up to the first that is not: position and count, out of position, time and count. What has a
/// time to come is passed over: a clock that was wrong for a while wrote it, and it would hold the rest.
fn old(change: &Transaction<'_>, sql: &str, removal: &Removal) -> rusqlite::Result<Vec<(i64, usize)>> {
    let mut select = change.prepare_cached(sql)?;
    let mut rows = select.query([])?;
    let (mut found, mut total) = (Vec::new(), 0);
    while total < removal.limit
        && let Some(row) = rows.next()?
    {
        let time = row.get::<_, i64>(1)?;
        if time < removal.before.0 {
            let count = row.get::<_, u32>(2)? as usize;
            found.push((row.get(0)?, count));
            total += count;
        } else if time <= removal.now.0 {
            break;
        }
    }
    Ok(found)
}
