//! Removing what is old: whole chunks.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::chunks::Chunk as _;
use super::results::{self, ResultChunk, ResultRow};
use super::rows::priority_number;
use super::tasks::{self, TaskChunk};
use super::{int, runs};
use crate::store::backend::{Oldest, Standing};
use crate::store::chunk::block_of;
use crate::store::{ChunkOfTasks, Removable, Removal, Removed, Slot};
use crate::task::{GroupName, Priority, TaskId, Time};

/// The chunks of a group and priority in their order, without reading them.
pub(super) const CHUNKS: &str = "SELECT first, last, count, newest FROM task_chunks INDEXED BY task_chunks_class
    WHERE target IS ?1 AND priority = ?2 ORDER BY first";

pub(super) const STRAYS: &str = "SELECT first, newest, count FROM result_chunks WHERE stray = 1 ORDER BY first";

/// The chunks that may be removed, the oldest first, as many as hold `limit` tasks, or one. Asks the index for each class of tasks, and
/// then for what may go and no more.
pub(super) fn removable(
    conn: &Connection,
    removable: &Removable,
    mut next_group: impl FnMut(Option<&GroupName>) -> rusqlite::Result<Option<GroupName>>,
) -> rusqlite::Result<Vec<ChunkOfTasks>> {
    let mut select = conn.prepare_cached(CHUNKS)?;
    let of_runs = runs::open_tasks(conn)?;
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
                    // Other chunks may stand between its tasks: then it is kept without need, until the run ends.
                    Standing::Goes if of_runs.range(chunk.first..=id(1)?).next().is_some() => {}
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
        for task in chunk.replacing() {
            let task = task?;
            let Some(slot) = Slot::of(&task.spec) else { continue };
            let mut leave = change.prepare_cached("DELETE FROM slots WHERE key = ? AND address = ? AND task_id = ?")?;
            leave.execute(params![slot.key, slot.address, int(task.id)])?;
        }
        let (lanes, target, priority) = chunk.lanes();
        for lane in lanes {
            let forget = "DELETE FROM lanes WHERE lane = ? AND target = ? AND priority = ? AND first = ?";
            change.prepare_cached(forget)?.execute(params![lane, target, priority, int(*first)])?;
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
        // Not of all between the first and the last: ids that were moved from rows may be far apart.
        let blocks: BTreeSet<i64> = ids().map(block_of).collect();
        for block in blocks {
            let mut thin = change.prepare_cached("REPLACE INTO thinned (block, after, upto) VALUES (?, 0, ?)")?;
            thin.execute([block, last_result])?;
        }
        removed.tasks.extend(ids());
    }
    removed.tasks.sort_unstable();
    (removed.results, removed.more) = remove_thinned(change, removal.limit)?;
    for (first, count) in old(change, STRAYS, removal)? {
        let chunk = change.prepare_cached(results::AT)?.query_row([first], ResultChunk::read)?;
        remove_results(change, &chunk)?;
        removed.others += count;
    }
    for (seq, count) in old(change, "SELECT seq, at, 1 FROM statuses ORDER BY seq", removal)? {
        change.prepare_cached("DELETE FROM statuses WHERE seq = ?")?.execute([seq])?;
        removed.others += count;
    }
    Ok(removed)
}

/// Removes what came of tasks that are gone, by looking through as many results as the limit says; says how many went, and whether
/// there is more to look through. Chunks of which a part goes are written anew.
fn remove_thinned(change: &Transaction<'_>, limit: usize) -> rusqlite::Result<(usize, bool)> {
    let (mut removed, mut looked_at) = (0, 0);
    let block = "SELECT block, after, upto FROM thinned ORDER BY block LIMIT 1";
    let three = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    while let Some((block, mut after, upto)) = change.prepare_cached(block)?.query_row([], three).optional()? {
        if looked_at >= limit {
            return Ok((removed, true));
        }
        looked_at += 1;
        let kept = tasks::ids_of_block(change, block)?;
        let mut select = change.prepare_cached(results::OF_BLOCK)?;
        while let Some(chunk) = select.query_row([block, after, upto], ResultChunk::read).optional()? {
            if looked_at >= limit {
                change.prepare_cached("UPDATE thinned SET after = ? WHERE block = ?")?.execute([after, block])?;
                return Ok((removed, true));
            }
            looked_at += chunk.len();
            after = int(chunk.position(0));
            let (stays, goes): (Vec<usize>, Vec<usize>) =
                (0..chunk.len()).partition(|at| kept.contains(&chunk.task(*at)));
            removed += goes.len();
            if goes.is_empty() {
                continue;
            }
            forget_dead(change, &chunk, goes.into_iter())?;
            change.prepare_cached("DELETE FROM result_chunks WHERE first = ?")?.execute([after])?;
            let stays = stays.into_iter().map(|at| chunk.entry(at)).collect::<rusqlite::Result<Vec<_>>>()?;
            if let Some(first) = stays.first() {
                after = int(first.seq);
                let row = ResultRow::of(&stays.iter().collect::<Vec<_>>(), chunk.segment() as u64)?;
                row.write(change, false)?;
            }
        }
        change.prepare_cached("DELETE FROM thinned WHERE block = ?")?.execute([block])?;
    }
    Ok((removed, false))
}

/// Removes a chunk of results, and the dead letters among them.
fn remove_results(change: &Transaction<'_>, chunk: &ResultChunk) -> rusqlite::Result<()> {
    forget_dead(change, chunk, 0..chunk.len())?;
    change.prepare_cached("DELETE FROM result_chunks WHERE first = ?")?.execute([int(chunk.position(0))])?;
    Ok(())
}

/// Removes those of the results of a chunk from the dead letters.
fn forget_dead(
    change: &Transaction<'_>,
    chunk: &ResultChunk,
    places: impl Iterator<Item = usize>,
) -> rusqlite::Result<()> {
    let mut forget = change.prepare_cached("DELETE FROM dead WHERE seq = ?")?;
    for at in places.filter(|at| chunk.is_dead(*at)) {
        forget.execute([int(chunk.position(at))])?;
    }
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
