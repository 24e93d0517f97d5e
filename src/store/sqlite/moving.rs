//! Moves what a server before schema 4 left, a row for each task and result, into chunks.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::info;
use rusqlite::{Connection, Row, TransactionBehavior};

use super::appended::{Beside, append};
use super::rows::{result, result_columns, task, task_columns};
use super::{explain, int};
use crate::store::StoreError;
use crate::store::backend::{self, page};
use crate::store::chunk::ROWS;
use crate::task::{Task, TaskResult};

const TASKS: &str = concat!("SELECT ", task_columns!(), " FROM task_rows ORDER BY id");
const RESULTS: &str = concat!("SELECT ", result_columns!(), " FROM result_rows ORDER BY seq");
/// Rows that one transaction moves.
const AT_ONCE: usize = 20 * ROWS;
/// Bytes of text at which it moves no more.
const BYTES: usize = 8 << 20;
/// How often it is said how far it is.
const SAID: Duration = Duration::from_secs(5);

/// Moves everything, in transactions of a bounded size, so that it goes on where it was when it is interrupted: each takes the
/// oldest rows and puts chunks in their place. Tasks first, then what came of them.
pub(super) fn move_rows(conn: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let there = "SELECT 1 FROM sqlite_schema WHERE name = 'result_rows'";
    let is_there = conn.prepare(there).and_then(|mut find| find.exists([])).map_err(explain(path))?;
    if !is_there {
        return Ok(());
    }
    let mut moved = Progress { of: path, began: Instant::now(), said: Instant::now(), tasks: 0, results: 0 };
    let mut work = || {
        while moved.step_of_tasks(conn)? > 0 {
            moved.say();
        }
        while moved.step_of_results(conn)? > 0 {
            moved.say();
        }
        conn.execute_batch("BEGIN IMMEDIATE; DROP TABLE task_rows; DROP TABLE result_rows; COMMIT")
    };
    work().map_err(explain(path))?;
    moved.done();
    Ok(())
}

struct Progress<'a> {
    of: &'a Path,
    began: Instant,
    said: Instant,
    tasks: usize,
    results: usize,
}

impl Progress<'_> {
    fn step_of_tasks(&mut self, conn: &mut Connection) -> rusqlite::Result<usize> {
        let change = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let tasks: Vec<Task> = next(&change, TASKS, task)?;
        let tasks: Vec<Arc<Task>> = tasks.into_iter().map(Arc::new).collect();
        if let Some(last) = tasks.last() {
            append(&change, &tasks, &[])?;
            Beside::of(&tasks, &[]).write_names(&change)?;
            change.execute("DELETE FROM task_rows WHERE id <= ?", [int(last.id)])?;
        }
        change.commit()?;
        self.tasks += tasks.len();
        Ok(tasks.len())
    }

    fn step_of_results(&mut self, conn: &mut Connection) -> rusqlite::Result<usize> {
        let change = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let results: Vec<TaskResult> = next(&change, RESULTS, result)?;
        if let Some(last) = results.last() {
            append(&change, &[], &results)?;
            change.execute("DELETE FROM result_rows WHERE seq <= ?", [int(last.seq)])?;
        }
        change.commit()?;
        self.results += results.len();
        Ok(results.len())
    }

    fn say(&mut self) {
        if self.said.elapsed() >= SAID {
            self.said = Instant::now();
            self.tell("is brought up to date; it may be stopped, and goes on at the next start");
        }
    }

    fn done(&self) {
        if self.tasks + self.results > 0 {
            self.tell("is up to date");
        }
    }

    fn tell(&self, what: &str) {
        let Progress { of, began, tasks, results, .. } = self;
        let seconds = began.elapsed().as_secs_f64();
        info!("{} {what}: moved {tasks} tasks and {results} results in {seconds:.1} s", of.display());
    }
}

fn next<T: backend::Row>(
    conn: &Connection,
    sql: &str,
    read: fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut select = conn.prepare_cached(sql)?;
    page(select.query_map([], read)?, AT_ONCE, BYTES)
}
