//! What a batch appends, as rows.

use std::slice;
use std::sync::Arc;

use rusqlite::{Transaction, params};

use super::int;
use super::results::{self, ResultRow};
use super::rows::{self, dead_columns};
use super::tasks::{self, SlotTaken, TaskRow};
use crate::task::{GroupName, NewResult, Task, TaskId, TaskResult};

/// The tasks and results of a batch, worked out before anything is written.
///
/// Where several servers share a log, this is what stands there. So it is worked out once, and those who follow do not take it apart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Appended {
    pub(in crate::store) tasks: Vec<TaskRow>,
    pub(in crate::store) results: Vec<ResultRow>,
    pub(in crate::store) beside: Beside,
}

/// What stands of some of them outside the chunks.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::store) struct Beside {
    /// The keys of tasks.
    pub(in crate::store) keys: Vec<(String, TaskId)>,
    /// Slots that tasks take.
    pub(in crate::store) slots: Vec<SlotTaken>,
    /// Those of the results by which a task is given up, or is not given up any more.
    pub(in crate::store) dead: Vec<TaskResult>,
}

impl Appended {
    pub(in crate::store) fn of(tasks: &[Arc<Task>], results: &[TaskResult]) -> rusqlite::Result<Appended> {
        let beside = Beside::of(tasks, results);
        let (tasks, results) = (tasks::rows(tasks).collect::<Result<_, _>>()?, results::rows(results));
        Ok(Appended { tasks, results: results.collect::<Result<_, _>>()?, beside })
    }

    /// Writes the chunks.
    pub(super) fn write(&self, change: &Transaction<'_>) -> rusqlite::Result<()> {
        self.tasks.iter().try_for_each(|chunk| chunk.write(change))?;
        self.results.iter().try_for_each(|chunk| chunk.append(change))
    }
}

/// Writes the chunks, one after another: each is still in the processor's cache then.
pub(super) fn append(change: &Transaction<'_>, tasks: &[Arc<Task>], results: &[TaskResult]) -> rusqlite::Result<()> {
    tasks::rows(tasks).try_for_each(|chunk| chunk?.write(change))?;
    results::rows(results).try_for_each(|chunk| chunk?.append(change))
}

impl Beside {
    pub(super) fn of(tasks: &[Arc<Task>], results: &[TaskResult]) -> Beside {
        let key = |task: &Arc<Task>| Some((task.spec.key.clone()?, task.id));
        Beside {
            keys: tasks.iter().filter_map(key).collect(),
            slots: tasks.iter().filter_map(|task| SlotTaken::by(task)).collect(),
            dead: results.iter().filter(|entry| entry.result.moves_dead_letter()).cloned().collect(),
        }
    }

    /// Writes by what tasks are found, which are written already.
    pub(super) fn write_names(&self, change: &Transaction<'_>) -> rusqlite::Result<()> {
        self.keys.iter().try_for_each(|(key, task)| tasks::keep_key(change, key, *task))?;
        self.slots.iter().try_for_each(|slot| slot.write(change))
    }

    /// Writes the dead letters. Those of groups that are removed are gone already.
    pub(super) fn write_dead(&self, change: &Transaction<'_>) -> rusqlite::Result<()> {
        for entry in &self.dead {
            let NewResult { task, group, outcome, .. } = &entry.result;
            // Of a group that was removed and is there again there may be an older one.
            let mut gone = change.prepare_cached("DELETE FROM dead WHERE task_id = ? AND \"group\" = ?")?;
            gone.execute(params![int(*task), group.as_ref().map(GroupName::as_str)])?;
            if outcome.is_dead() {
                let entry = slice::from_ref(entry);
                rows::insert(change, "INSERT INTO dead", dead_columns!(), entry, rows::bind_dead)?;
            }
        }
        Ok(())
    }
}
