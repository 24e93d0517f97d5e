//! Reading rows, on a connection of one's own that cannot write.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, Params, Row, params};

use super::rows::{
    dead, dead_columns, name, optional_name, priority_number, result, result_columns, status, status_columns, task,
    task_columns,
};
use super::{explain, int};
use crate::store::backend::{self, PAGE_BYTES, page};
use crate::store::{Backlog, BacklogPage, Reader, StoreError};
use crate::task::{GroupName, Status, Task, TaskId, TaskResult, Time};

const TASKS: &str = concat!("SELECT ", task_columns!(), " FROM tasks WHERE id > ? ORDER BY id");
const LATEST_TASKS: &str = concat!("SELECT ", task_columns!(), " FROM tasks WHERE id < ? ORDER BY id DESC");
const TASK: &str = concat!("SELECT ", task_columns!(), " FROM tasks WHERE id = ?");
/// Tasks of one priority, for one group and for everyone, merged by id as they are read.
const BACKLOG: &str = concat!(
    "SELECT ",
    task_columns!(),
    " FROM tasks WHERE target = ?1 AND priority = ?2 AND id > ?3 AND id <= ?4 UNION ALL SELECT ",
    task_columns!(),
    " FROM tasks WHERE target IS NULL AND priority = ?2 AND id > max(?3, ?5) AND id <= ?4 ORDER BY id"
);
/// How many that would be.
const COUNT: &str = "
    SELECT (SELECT count(*) FROM tasks WHERE target = ?1 AND priority = ?2 AND id > ?3 AND id <= ?4)
         + (SELECT count(*) FROM tasks WHERE target IS NULL AND priority = ?2 AND id > max(?3, ?5) AND id <= ?4)";
const EXPIRIES: &str = "SELECT id, expires_at FROM tasks
    WHERE target = ?1 AND priority = ?2 AND id > ?3 AND id <= ?4 ORDER BY id LIMIT ?5";

/// The next name after one. The index is asked once for each name: going over all tasks would take as long as there are tasks.
const ADDRESSED_GROUP: &str = "SELECT min(target) FROM tasks WHERE target > ?";

macro_rules! results {
    ($rest:literal) => {
        concat!("SELECT ", result_columns!(), " FROM results WHERE ", $rest)
    };
}
const RESULTS: &str = results!("seq > ? ORDER BY seq");
const REPLAY: &str = results!("seq > ? AND \"group\" IS NOT NULL ORDER BY seq");
const RESULTS_OF: &str = results!("task_id = ? ORDER BY seq");
const OUTCOMES_OF: &str =
    "SELECT seq, task_id, \"group\", client, attempt, outcome, at, not_before, late, '' FROM results
    WHERE task_id = ? ORDER BY seq";
const RESULT: &str = results!("seq = ?");
const LATEST_RESULTS_OF: &str = results!("task_id = ? ORDER BY seq DESC");
macro_rules! dead {
    ($rest:literal) => {
        concat!("SELECT ", dead_columns!(), " FROM dead WHERE ", $rest)
    };
}
const DEAD: &str = dead!("seq > ? ORDER BY seq");
const DEAD_OF: &str = dead!("seq > ? AND \"group\" = ? ORDER BY seq");
const LATEST_DEAD: &str = dead!("seq < ? ORDER BY seq DESC");
const LATEST_DEAD_OF: &str = dead!("seq < ? AND \"group\" = ? ORDER BY seq DESC");
const IS_DEAD: &str = "SELECT 1 FROM dead WHERE task_id = ? AND \"group\" = ?";
const DEAD_COUNTS: &str = "SELECT \"group\", count FROM dead_counts ORDER BY \"group\"";
pub(super) const LAST_OUTCOME: &str = "SELECT outcome FROM results
    WHERE task_id = ?1 AND \"group\" = ?2 AND late = 0 AND outcome != ?3 ORDER BY seq DESC LIMIT 1";
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

impl Reader for SqliteReader {
    fn tasks(&mut self, after: TaskId, limit: usize) -> Result<Vec<Task>, StoreError> {
        self.page(TASKS, [int(after)], task, limit)
    }

    fn latest_tasks(&mut self, before: TaskId, limit: usize) -> Result<Vec<Task>, StoreError> {
        self.page(LATEST_TASKS, [int(before)], task, limit)
    }

    fn results(&mut self, after: u64, limit: usize) -> Result<Vec<TaskResult>, StoreError> {
        self.page(RESULTS, [int(after)], result, limit)
    }

    fn statuses(&mut self, after: u64, limit: usize) -> Result<Vec<Status>, StoreError> {
        self.page(STATUSES, [int(after)], status, limit)
    }

    fn results_of(&mut self, task: TaskId) -> Result<Vec<TaskResult>, StoreError> {
        let select = || {
            let mut select = self.conn.prepare_cached(RESULTS_OF)?;
            select.query_map([int(task)], result)?.collect::<rusqlite::Result<_>>()
        };
        select().map_err(explain(&self.path))
    }

    fn outcomes_of(&mut self, task: TaskId) -> Result<Vec<TaskResult>, StoreError> {
        let select = || {
            let mut select = self.conn.prepare_cached(OUTCOMES_OF)?;
            select.query_map([int(task)], result)?.collect::<rusqlite::Result<_>>()
        };
        select().map_err(explain(&self.path))
    }

    fn results_by_seq(&mut self, seqs: &[u64]) -> Result<Vec<TaskResult>, StoreError> {
        let select = || {
            let mut select = self.conn.prepare_cached(RESULT)?;
            let mut results = Vec::with_capacity(seqs.len());
            for seq in seqs {
                results.extend(select.query_map([int(*seq)], result)?.next().transpose()?);
            }
            Ok(results)
        };
        select().map_err(explain(&self.path))
    }

    fn latest_results_of(&mut self, task: TaskId, limit: usize) -> Result<Vec<TaskResult>, StoreError> {
        self.page(LATEST_RESULTS_OF, [int(task)], result, limit)
    }

    fn dead(&mut self, after: u64, group: Option<&GroupName>, limit: usize) -> Result<Vec<TaskResult>, StoreError> {
        match group {
            None => self.page(DEAD, [int(after)], dead, limit),
            Some(group) => self.page(DEAD_OF, params![int(after), group.as_str()], dead, limit),
        }
    }

    fn latest_dead(
        &mut self,
        before: u64,
        group: Option<&GroupName>,
        limit: usize,
    ) -> Result<Vec<TaskResult>, StoreError> {
        match group {
            None => self.page(LATEST_DEAD, [int(before)], dead, limit),
            Some(group) => self.page(LATEST_DEAD_OF, params![int(before), group.as_str()], dead, limit),
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
            let mut select = self.conn.prepare_cached(TASK)?;
            let mut tasks = Vec::with_capacity(ids.len());
            for id in ids {
                tasks.extend(select.query_map([int(*id)], task)?.next().transpose()?);
            }
            Ok(tasks)
        };
        select().map_err(explain(&self.path))
    }

    fn backlog(&mut self, backlog: &Backlog) -> Result<BacklogPage, StoreError> {
        let select = || {
            let mut select = self.conn.prepare_cached(BACKLOG)?;
            let rows = select.query_map(bounds(backlog), task)?;
            BacklogPage::gather(rows, backlog)
        };
        select().map_err(explain(&self.path))
    }

    fn count(&mut self, backlog: &Backlog) -> Result<u64, StoreError> {
        let select = || {
            let mut select = self.conn.prepare_cached(COUNT)?;
            let count = select.query_row(bounds(backlog), |row| row.get::<_, i64>(0))?;
            Ok(count as u64)
        };
        select().map_err(explain(&self.path))
    }

    fn expiries(&mut self, backlog: &Backlog) -> Result<Vec<(TaskId, Option<Time>)>, StoreError> {
        let group = backlog.group.as_ref().map(GroupName::as_str);
        let (priority, after, upto) = (priority_number(backlog.priority), int(backlog.after), int(backlog.upto));
        let select = || {
            let mut select = self.conn.prepare_cached(EXPIRIES)?;
            let row = |row: &Row<'_>| Ok((row.get::<_, i64>(0)? as TaskId, row.get::<_, Option<i64>>(1)?.map(Time)));
            select
                .query_map(params![group, priority, after, upto, int(backlog.limit as u64)], row)?
                .collect::<rusqlite::Result<_>>()
        };
        select().map_err(explain(&self.path))
    }

    fn addressed_groups(&mut self, after: Option<&GroupName>, limit: usize) -> Result<Vec<GroupName>, StoreError> {
        let select = || {
            let mut select = self.conn.prepare_cached(ADDRESSED_GROUP)?;
            let mut names: Vec<GroupName> = Vec::new();
            while names.len() < limit {
                // No name is empty.
                let after = names.last().or(after).map_or("", GroupName::as_str);
                match select.query_row([after], optional_name)? {
                    Some(name) => names.push(name),
                    None => break,
                }
            }
            Ok(names)
        };
        select().map_err(explain(&self.path))
    }

    fn first_task(&mut self) -> Result<Option<TaskId>, StoreError> {
        let first = self.conn.query_row("SELECT min(id) FROM tasks", [], |row| row.get::<_, Option<i64>>(0));
        Ok(first.map_err(explain(&self.path))?.map(|id| id as TaskId))
    }
}

/// The parameters of [`BACKLOG`] and [`COUNT`].
fn bounds(backlog: &Backlog) -> impl Params {
    (
        backlog.group.as_ref().map(GroupName::as_str),
        priority_number(backlog.priority),
        int(backlog.after),
        int(backlog.upto),
        int(backlog.broadcast_after),
    )
}

/// The results of named groups after `mark`.
pub(super) fn replay(conn: &Connection, mark: u64) -> rusqlite::Result<Vec<TaskResult>> {
    let mut select = conn.prepare(REPLAY)?;
    select.query_map([int(mark)], result)?.collect()
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
        let expected = [
            (TASKS, vec!["PRIMARY KEY (rowid>?)"]),
            (RESULTS, vec!["PRIMARY KEY (rowid>?)"]),
            (STATUSES, vec!["PRIMARY KEY (rowid>?)"]),
            (RESULTS_OF, vec!["results_task (task_id=?)"]),
            (OUTCOMES_OF, vec!["results_task (task_id=?)"]),
            (RESULT, vec!["PRIMARY KEY (rowid=?)"]),
            (LATEST_RESULTS_OF, vec!["results_task (task_id=?)"]),
            (LAST_OUTCOME, vec!["results_task (task_id=?)"]),
            (ADDRESSED_GROUP, vec!["SEARCH tasks USING COVERING INDEX tasks_addressed (target>?)"]),
            (DEAD, vec!["PRIMARY KEY (rowid>?)"]),
            (DEAD_OF, vec!["dead_group (group=? AND rowid>?)"]),
            (IS_DEAD, vec!["dead_task (task_id=? AND group=?)"]),
            (DEAD_COUNTS, vec!["SCAN dead_counts"]),
            (LATEST_TASKS, vec!["PRIMARY KEY (rowid<?)"]),
            (LATEST_DEAD, vec!["PRIMARY KEY (rowid<?)"]),
            (LATEST_DEAD_OF, vec!["dead_group (group=? AND rowid<?)"]),
            (EXPIRIES, vec!["tasks_addressed (target=? AND priority=? AND rowid>? AND rowid<?)"]),
            (
                BACKLOG,
                vec![
                    "MERGE (UNION ALL)",
                    "tasks_addressed (target=? AND priority=? AND rowid>? AND rowid<?)",
                    "tasks_broadcast (priority=? AND rowid>? AND rowid<?)",
                ],
            ),
        ];
        for (sql, parts) in expected {
            let plan = plan(sql);
            assert!(parts.iter().all(|part| plan.contains(part)), "{sql}\n{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
        }
    }
}
