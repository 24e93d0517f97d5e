//! Reading rows, on a connection of one's own that cannot write.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, Params, Row, Statement, params};

use super::chunks::{self, Chunk, Ordered, entries, merge};
use super::results::{self, ResultChunk, What};
use super::rows::{dead_results, name, optional_name, priority_number, result, status, status_columns};
use super::tasks::{self, TaskChunk};
use super::{explain, grants, int, removal, runs, schedules};
use crate::run::Run;
use crate::schedule::Schedule;
use crate::store::backend::{self, PAGE_BYTES, page};
use crate::store::{Backlog, BacklogPage, ChunkOfTasks, Granted, Reader, Removable, StoreError};
use crate::task::{GroupName, Name, Status, Task, TaskId, TaskResult, Time};

/// The next name after one. The index is asked once for each name: going over all tasks would take as long as there are tasks.
const ADDRESSED_GROUP: &str = "SELECT min(target) FROM task_chunks WHERE target > ?";
macro_rules! dead {
    ($rest:literal) => {
        concat!("SELECT ", dead_results!(), " FROM dead WHERE ", $rest)
    };
}
const DEAD: &str = dead!("seq > ? ORDER BY seq");
const DEAD_OF: &str = dead!("seq > ? AND \"group\" = ? ORDER BY seq");
const LATEST_DEAD: &str = dead!("seq < ? ORDER BY seq DESC");
const LATEST_DEAD_OF: &str = dead!("seq < ? AND \"group\" = ? ORDER BY seq DESC");
const IS_DEAD: &str = "SELECT 1 FROM dead WHERE task_id = ? AND \"group\" = ?";
const DEAD_COUNTS: &str = "SELECT \"group\", count FROM dead_counts ORDER BY \"group\"";
const STATUSES: &str = concat!("SELECT ", status_columns!(), " FROM statuses WHERE seq > ? ORDER BY seq");

pub(super) struct SqliteReader {
    conn: Connection,
    path: Arc<Path>,
}

impl SqliteReader {
    pub(super) fn open(path: &Arc<Path>) -> Result<SqliteReader, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags).map_err(explain(path))?;
        // Opens the log as well, which must be written to for that. So reading goes on while no write works.
        conn.query_row("SELECT value FROM meta LIMIT 1", [], |_| Ok(())).map_err(explain(path))?;
        Ok(SqliteReader { conn, path: path.clone() })
    }

    /// A page of a log, from chunks.
    fn after<C: Chunk>(&self, sql: &str, after: u64, limit: usize) -> Result<Vec<C::Entry>, StoreError>
    where
        C::Entry: backend::Row,
    {
        let select = || {
            let mut select = self.conn.prepare_cached(sql)?;
            page(Ordered::<C>::after(select.query([int(after)])?, after), limit, PAGE_BYTES)
        };
        select().map_err(explain(&self.path))
    }

    /// A page of what `sql` selects.
    fn page<T: backend::Row>(
        &self,
        sql: &str,
        params: impl Params,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
        limit: usize,
    ) -> Result<Vec<T>, StoreError> {
        let select = || {
            let mut select = self.conn.prepare_cached(sql)?;
            page(select.query_map(params, read)?, limit, PAGE_BYTES)
        };
        select().map_err(explain(&self.path))
    }
}

impl SqliteReader {
    /// What there is of one lane.
    fn of_lane(&self, backlog: &Backlog, lane: &str) -> rusqlite::Result<BacklogPage> {
        let mut of_group = self.conn.prepare_cached(tasks::OF_LANE)?;
        let mut of_everyone = self.conn.prepare_cached(tasks::OF_LANE)?;
        let for_everyone_after = backlog.after.max(backlog.broadcast_after);
        let bounds = |target, after| (target, priority_number(backlog.priority), int(after), int(backlog.upto), lane);
        // What is for everyone is noted as the group of no name.
        let group = backlog.group.as_ref().map(GroupName::as_str);
        let of_group = of_group.query_map(bounds(group, backlog.after), TaskChunk::read)?;
        let of_everyone = of_everyone.query_map(bounds(Some(""), for_everyone_after), TaskChunk::read)?;
        let is_in = |chunk: &TaskChunk, at| chunk.is_in(at, lane);
        let of_group = entries(of_group, backlog.after, backlog.upto, is_in);
        let of_everyone = entries(of_everyone, for_everyone_after, backlog.upto, is_in);
        BacklogPage::gather(merge(of_group, of_everyone, |task| task.id), backlog)
    }
}

impl Reader for SqliteReader {
    fn granted(&mut self) -> Result<Granted, StoreError> {
        grants::all(&self.conn).map_err(explain(&self.path))
    }

    fn tasks(&mut self, after: TaskId, limit: usize) -> Result<Vec<Task>, StoreError> {
        self.after::<TaskChunk>(tasks::AFTER, after, limit)
    }

    fn latest_tasks(&mut self, before: TaskId, limit: usize) -> Result<Vec<Task>, StoreError> {
        let select = || {
            let mut select = self.conn.prepare_cached(tasks::BEFORE)?;
            page(Ordered::<TaskChunk>::before(select.query([int(before)])?, before), limit, PAGE_BYTES)
        };
        select().map_err(explain(&self.path))
    }

    fn results(&mut self, after: u64, limit: usize) -> Result<Vec<TaskResult>, StoreError> {
        self.after::<ResultChunk>(results::AFTER, after, limit)
    }

    fn statuses(&mut self, after: u64, limit: usize) -> Result<Vec<Status>, StoreError> {
        self.page(STATUSES, [int(after)], status, limit)
    }

    fn results_of(&mut self, task: TaskId) -> Result<Vec<TaskResult>, StoreError> {
        results::of_task(&self.conn, task, What::All).map_err(explain(&self.path))
    }

    fn outcomes_of(&mut self, task: TaskId) -> Result<Vec<TaskResult>, StoreError> {
        results::of_task(&self.conn, task, What::WithoutTexts).map_err(explain(&self.path))
    }

    fn results_by_seq(&mut self, seqs: &[u64]) -> Result<Vec<TaskResult>, StoreError> {
        let select = || {
            let mut select = self.conn.prepare_cached(results::AROUND)?;
            by_position(seqs, |seq| chunks::find::<ResultChunk>(&mut select, seq))
        };
        select().map_err(explain(&self.path))
    }

    fn latest_results_of(&mut self, task: TaskId, limit: usize) -> Result<Vec<TaskResult>, StoreError> {
        results::of_task(&self.conn, task, What::Latest(limit)).map_err(explain(&self.path))
    }

    fn dead(&mut self, after: u64, group: Option<&GroupName>, limit: usize) -> Result<Vec<TaskResult>, StoreError> {
        match group {
            None => self.page(DEAD, [int(after)], result, limit),
            Some(group) => self.page(DEAD_OF, params![int(after), group.as_str()], result, limit),
        }
    }

    fn latest_dead(
        &mut self,
        before: u64,
        group: Option<&GroupName>,
        limit: usize,
    ) -> Result<Vec<TaskResult>, StoreError> {
        match group {
            None => self.page(LATEST_DEAD, [int(before)], result, limit),
            Some(group) => self.page(LATEST_DEAD_OF, params![int(before), group.as_str()], result, limit),
        }
    }

    fn is_dead(&mut self, task: TaskId, group: &GroupName) -> Result<bool, StoreError> {
        let mut select = self.conn.prepare_cached(IS_DEAD).map_err(explain(&self.path))?;
        select.exists(params![int(task), group.as_str()]).map_err(explain(&self.path))
    }

    fn dead_counts(&mut self) -> Result<HashMap<GroupName, u64>, StoreError> {
        let select = || {
            let mut select = self.conn.prepare_cached(DEAD_COUNTS)?;
            let row = |row: &Row<'_>| Ok((name(row.get_ref(0)?.as_str()?)?, row.get::<_, i64>(1)? as u64));
            select.query_map([], row)?.collect::<rusqlite::Result<_>>()
        };
        select().map_err(explain(&self.path))
    }

    fn tasks_by_id(&mut self, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
        let select = || {
            let mut select = self.conn.prepare_cached(tasks::AROUND)?;
            by_position(ids, |id| chunks::find::<TaskChunk>(&mut select, id))
        };
        select().map_err(explain(&self.path))
    }

    fn backlog(&mut self, backlog: &Backlog) -> Result<BacklogPage, StoreError> {
        let select = || {
            if let Some(lane) = &backlog.lane {
                return self.of_lane(backlog, lane.as_str());
            }
            let mut of_group = self.conn.prepare_cached(tasks::OF_GROUP)?;
            let mut of_everyone = self.conn.prepare_cached(tasks::OF_EVERYONE)?;
            let for_everyone_after = backlog.after.max(backlog.broadcast_after);
            let of_group = of_group.query_map(bounds(backlog, backlog.after), TaskChunk::read)?;
            let of_everyone = of_everyone.query_map(bounds(backlog, for_everyone_after), TaskChunk::read)?;
            let of_group = entries(of_group, backlog.after, backlog.upto, |_, _| true);
            let of_everyone = entries(of_everyone, for_everyone_after, backlog.upto, |_, _| true);
            BacklogPage::gather(merge(of_group, of_everyone, |task| task.id), backlog)
        };
        select().map_err(explain(&self.path))
    }

    fn count(&mut self, backlog: &Backlog) -> Result<u64, StoreError> {
        let Backlog { group, priority, after, upto, broadcast_after, .. } = backlog;
        let count = |target, after| tasks::count(&self.conn, target, *priority, after, *upto);
        let select = || {
            let of_group = group.as_ref().map_or(Ok(0), |group| count(Some(group), *after))?;
            Ok(of_group + count(None, *after.max(broadcast_after))?)
        };
        select().map_err(explain(&self.path))
    }

    fn expiries(&mut self, backlog: &Backlog) -> Result<Vec<(TaskId, Option<Time>)>, StoreError> {
        let select = || {
            let mut select = self.conn.prepare_cached(tasks::OF_GROUP)?;
            let mut found = Vec::new();
            let mut chunks = select.query_map(bounds(backlog, backlog.after), TaskChunk::read)?;
            while found.len() < backlog.limit
                && let Some(chunk) = chunks.next().transpose()?
            {
                found.extend(chunk.expiries().filter(|(id, _)| backlog.after < *id && *id <= backlog.upto));
            }
            found.truncate(backlog.limit);
            Ok(found)
        };
        select().map_err(explain(&self.path))
    }

    fn addressed_groups(&mut self, after: Option<&GroupName>, limit: usize) -> Result<Vec<GroupName>, StoreError> {
        let select = || {
            let mut select = self.conn.prepare_cached(ADDRESSED_GROUP)?;
            let mut names: Vec<GroupName> = Vec::new();
            while names.len() < limit
                && let Some(name) = addressed_after(&mut select, names.last().or(after))?
            {
                names.push(name);
            }
            Ok(names)
        };
        select().map_err(explain(&self.path))
    }

    fn removable(&mut self, removable: &Removable) -> Result<Vec<ChunkOfTasks>, StoreError> {
        let select = || {
            let mut names = self.conn.prepare_cached(ADDRESSED_GROUP)?;
            removal::removable(&self.conn, removable, |after| addressed_after(&mut names, after))
        };
        select().map_err(explain(&self.path))
    }

    fn run(&mut self, number: TaskId) -> Result<Option<Run>, StoreError> {
        runs::find(&self.conn, number).map_err(explain(&self.path))
    }

    fn open_runs(&mut self) -> Result<Vec<Run>, StoreError> {
        runs::open(&self.conn).map_err(explain(&self.path))
    }

    fn latest_runs(&mut self, before: TaskId, limit: usize) -> Result<Vec<Run>, StoreError> {
        runs::before(&self.conn, before, limit).map_err(explain(&self.path))
    }

    fn schedules(&mut self) -> Result<BTreeMap<Name, Schedule>, StoreError> {
        schedules::all(&self.conn).map_err(explain(&self.path))
    }

    fn first_task(&mut self) -> Result<Option<TaskId>, StoreError> {
        let first = self.conn.query_row("SELECT min(first) FROM task_chunks", [], |row| row.get::<_, Option<i64>>(0));
        Ok(first.map_err(explain(&self.path))?.map(|id| id as TaskId))
    }
}

/// Entries by their positions, in the order asked for. Those that are asked for together are often of one chunk.
fn by_position<C: Chunk>(
    positions: &[u64],
    mut find: impl FnMut(u64) -> rusqlite::Result<Option<(C, usize)>>,
) -> rusqlite::Result<Vec<C::Entry>> {
    let mut entries = Vec::with_capacity(positions.len());
    let mut last: Option<C> = None;
    for position in positions {
        let at = match last.as_ref().and_then(|chunk| chunk.find(*position)) {
            Some(at) => Some(at),
            None => find(*position)?.map(|(chunk, at)| {
                last = Some(chunk);
                at
            }),
        };
        if let (Some(chunk), Some(at)) = (&last, at) {
            entries.push(chunk.entry(at)?);
        }
    }
    Ok(entries)
}

/// The parameters of [`tasks::OF_GROUP`] and [`tasks::OF_EVERYONE`].
fn bounds(backlog: &Backlog, after: TaskId) -> impl Params {
    let group = backlog.group.as_ref().map(GroupName::as_str);
    (group, priority_number(backlog.priority), int(after), int(backlog.upto))
}

/// The next name of a group that tasks are addressed to.
fn addressed_after(select: &mut Statement<'_>, name: Option<&GroupName>) -> rusqlite::Result<Option<GroupName>> {
    // No name is empty.
    select.query_row([name.map_or("", GroupName::as_str)], optional_name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn everything_is_read_in_order_from_an_index_without_sorting() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&super::super::MIGRATIONS.concat()).unwrap();
        let plan = |sql: &str| -> String {
            let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let lines = explain.raw_query().mapped(|row| row.get::<_, String>(3));
            lines.map(|line| line.unwrap() + "\n").collect()
        };
        let class = "task_chunks_class (target=? AND priority=?";
        let key = "PRIMARY KEY (rowid>?";
        let expected = [
            (results::AROUND, vec!["PRIMARY KEY (rowid>? AND rowid<?)", "PRIMARY KEY (rowid<?)"]),
            (DEAD, vec!["PRIMARY KEY (rowid>?)"]),
            (DEAD_OF, vec!["dead_group (group=? AND rowid>?)"]),
            (IS_DEAD, vec!["dead_task (task_id=? AND group=?)"]),
            (DEAD_COUNTS, vec!["SCAN dead_counts"]),
            (LATEST_DEAD, vec!["PRIMARY KEY (rowid<?)"]),
            (LATEST_DEAD_OF, vec!["dead_group (group=? AND rowid<?)"]),
            (tasks::AFTER, vec!["SEARCH task_chunks USING INTEGER PRIMARY KEY (rowid>?)"]),
            (tasks::BEFORE, vec!["PRIMARY KEY (rowid<?)"]),
            (tasks::AROUND, vec!["PRIMARY KEY (rowid>? AND rowid<?)", "PRIMARY KEY (rowid<?)"]),
            (tasks::OF_BLOCK, vec!["PRIMARY KEY (rowid>? AND rowid<?)", "PRIMARY KEY (rowid<?)"]),
            (
                tasks::AT,
                vec!["PRIMARY KEY (rowid=?)", "SEARCH changes USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"],
            ),
            (tasks::OF_GROUP, vec![class, "AND first>? AND first<?)"]),
            (tasks::OF_EVERYONE, vec![class, "AND first>? AND first<?)"]),
            (
                tasks::OF_LANE,
                vec!["lanes USING PRIMARY KEY (lane=? AND target=? AND priority=? AND first>? AND first<?)"],
            ),
            (tasks::WITHIN, vec!["COVERING INDEX", class, "AND first>? AND first<?)"]),
            (tasks::ACROSS, vec!["PRIMARY KEY (rowid=?)", class]),
            (removal::CHUNKS, vec!["COVERING INDEX", class]),
            (results::AFTER, vec!["SEARCH result_chunks USING INTEGER", key]),
            (results::OF_TASK, vec!["result_chunks_block (block=?)"]),
            (results::OF_TASK_LATEST, vec!["result_chunks_block (block=?)"]),
            (removal::STRAYS, vec!["result_chunks_stray"]),
            (results::OF_BLOCK, vec!["result_chunks_block (block=? AND first>? AND first<?)"]),
            (STATUSES, vec!["PRIMARY KEY (rowid>?)"]),
            (runs::OPEN, vec!["runs_open"]),
            (runs::BEFORE, vec!["PRIMARY KEY (rowid<?)"]),
            (ADDRESSED_GROUP, vec!["SEARCH task_chunks USING COVERING INDEX task_chunks_class (target>?)"]),
        ];
        for (sql, parts) in expected {
            let plan = plan(sql);
            assert!(parts.iter().all(|part| plan.contains(part)), "{sql}\n{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
        }
    }
}
