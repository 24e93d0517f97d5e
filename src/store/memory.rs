//! The same store in memory: its rows end with the process.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::backend::{PAGE_BYTES, last_outcome, page};
use super::{
    Backend, Backlog, BacklogPage, Batch, GroupState, Keyed, Newest, OpenReader, Positions, Reader, Recovered, Removal,
    Removed, StoreError,
};
use crate::task::{GroupName, Outcome, Status, Task, TaskId, TaskResult, Time};

/// Keeps the rows in memory. Clones share them, so that a second store can be opened on what a first one left behind.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<RwLock<Rows>>);

/// Each log in its order; ids need not follow one another.
#[derive(Debug, Default)]
struct Rows {
    tasks: Vec<Arc<Task>>,
    results: Vec<TaskResult>,
    statuses: Vec<Status>,
    keys: HashMap<String, TaskId>,
    groups: BTreeMap<GroupName, GroupState>,
    mark: u64,
    positions: Positions,
}

impl Memory {
    fn rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Memory {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        let positions = self.rows().positions;
        let newest = Newest::read(self, positions)?;
        let rows = self.rows();
        let replay = rows_after(&rows.results, rows.mark, |r| r.seq).iter().filter(|r| r.result.group.is_some());
        Ok(Recovered {
            positions,
            groups: rows.groups.values().cloned().collect(),
            replay: replay.cloned().collect(),
            newest,
        })
    }

    fn find_key(&mut self, key: &str) -> Result<Option<Keyed>, StoreError> {
        let rows = self.rows();
        let task = rows.keys.get(key).and_then(|id| rows.tasks.binary_search_by_key(id, |task| task.id).ok());
        let keyed = |task: &Task| Keyed { id: task.id, to: task.spec.to.clone(), text: task.spec.text.clone() };
        Ok(task.map(|at| keyed(&rows.tasks[at])))
    }

    fn has_task(&mut self, task: TaskId) -> Result<bool, StoreError> {
        Ok(self.rows().tasks.binary_search_by_key(&task, |kept| kept.id).is_ok())
    }

    fn last_outcome(&mut self, group: &GroupName, task: TaskId) -> Result<Option<Outcome>, StoreError> {
        Ok(last_outcome(&self.rows().results, group, task))
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for id in &batch.freed {
            if let Ok(at) = rows.tasks.binary_search_by_key(id, |task| task.id)
                && let Some(key) = Arc::make_mut(&mut rows.tasks[at]).spec.key.take()
            {
                rows.keys.remove(&key);
            }
        }
        for task in &batch.tasks {
            if let Some(key) = &task.spec.key {
                rows.keys.insert(key.clone(), task.id);
            }
            rows.tasks.push(task.clone());
        }
        rows.results.extend_from_slice(&batch.results);
        rows.statuses.extend_from_slice(&batch.statuses);
        for (name, state) in &batch.groups {
            match state {
                Some(state) => drop(rows.groups.insert(name.clone(), state.clone())),
                None => drop(rows.groups.remove(name)),
            }
        }
        for (id, expires_at) in &batch.expiries {
            if let Ok(at) = rows.tasks.binary_search_by_key(id, |t| t.id) {
                Arc::make_mut(&mut rows.tasks[at]).spec.expires_at = *expires_at;
            }
        }
        rows.mark = batch.mark.unwrap_or(rows.mark);
        rows.positions = batch.positions;
        Ok(())
    }

    fn reopen(&mut self) -> Result<Positions, StoreError> {
        Ok(self.rows().positions)
    }

    fn remove(&mut self, removal: &Removal) -> Result<Removed, StoreError> {
        let rows = &mut *self.0.write().unwrap_or_else(PoisonError::into_inner);
        let groups = &rows.groups;
        let unclaimed = |task: &Task| task.spec.to.as_ref().is_some_and(|to| !groups.contains_key(to));
        let is_old = |task: &Task| {
            let before = if unclaimed(task) { removal.unclaimed_before } else { removal.before };
            task.id <= removal.upto && task.accepted_at < before.min(removal.before)
        };
        let removed: HashSet<TaskId> =
            rows.tasks.iter().filter(|task| is_old(task)).take(removal.limit).map(|task| task.id).collect();
        rows.tasks.retain(|task| !removed.contains(&task.id));
        rows.keys.retain(|_, id| !removed.contains(id));
        let before = rows.results.len() + rows.statuses.len();
        let first = rows.tasks.first().map_or(TaskId::MAX, |task| task.id);
        let dead = |r: &TaskResult| r.result.task < first && r.result.at < removal.before;
        rows.results.retain(|r| !removed.contains(&r.result.task));
        let results = before - rows.statuses.len() - rows.results.len();
        rows.results.retain(|r| !dead(r));
        rows.statuses.retain(|s| s.status.at >= removal.before);
        let others = before - results - rows.results.len() - rows.statuses.len();
        let used = rows.tasks.iter().map(|task| task.spec.text.len() as u64).sum();
        let mut tasks: Vec<TaskId> = removed.into_iter().collect();
        tasks.sort_unstable();
        Ok(Removed { tasks, others, used })
    }

    fn reader(&self) -> OpenReader {
        let memory = self.clone();
        Arc::new(move || Ok(Box::new(memory.clone())))
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Reader for Memory {
    fn tasks(&mut self, after: TaskId, limit: usize) -> Result<Vec<Task>, StoreError> {
        let rows = self.rows();
        page(rows_after(&rows.tasks, after, |t| t.id).iter().map(|t| Ok(Task::clone(t))), limit, PAGE_BYTES)
    }

    fn latest_tasks(&mut self, before: TaskId, limit: usize) -> Result<Vec<Task>, StoreError> {
        let rows = self.rows();
        let before = rows.tasks.iter().rev().skip_while(|t| t.id >= before);
        page(before.map(|t| Ok(Task::clone(t))), limit, PAGE_BYTES)
    }

    fn results(&mut self, after: u64, limit: usize) -> Result<Vec<TaskResult>, StoreError> {
        let rows = self.rows();
        page(rows_after(&rows.results, after, |r| r.seq).iter().cloned().map(Ok), limit, PAGE_BYTES)
    }

    fn statuses(&mut self, after: u64, limit: usize) -> Result<Vec<Status>, StoreError> {
        let rows = self.rows();
        page(rows_after(&rows.statuses, after, |s| s.seq).iter().cloned().map(Ok), limit, PAGE_BYTES)
    }

    fn results_of(&mut self, task: TaskId) -> Result<Vec<TaskResult>, StoreError> {
        Ok(self.rows().results.iter().filter(|r| r.result.task == task).cloned().collect())
    }

    fn latest_results_of(&mut self, task: TaskId, limit: usize) -> Result<Vec<TaskResult>, StoreError> {
        Ok(self.results_of(task)?.into_iter().rev().take(limit).collect())
    }

    fn dead(&mut self, after: u64, group: Option<&GroupName>, limit: usize) -> Result<Vec<TaskResult>, StoreError> {
        let rows = self.rows();
        let dead = rows_after(&rows.results, after, |r| r.seq).iter().filter(|r| is_dead(r, group));
        page(dead.cloned().map(Ok), limit, PAGE_BYTES)
    }

    fn latest_dead(
        &mut self,
        before: u64,
        group: Option<&GroupName>,
        limit: usize,
    ) -> Result<Vec<TaskResult>, StoreError> {
        let rows = self.rows();
        let dead = rows.results.iter().rev().skip_while(|r| r.seq >= before).filter(|r| is_dead(r, group));
        page(dead.cloned().map(Ok), limit, PAGE_BYTES)
    }

    fn tasks_by_id(&mut self, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
        let rows = self.rows();
        let found = ids.iter().filter_map(|id| rows.tasks.binary_search_by_key(id, |t| t.id).ok());
        Ok(found.map(|at| Task::clone(&rows.tasks[at])).collect())
    }

    fn backlog(&mut self, backlog: &Backlog) -> Result<BacklogPage, StoreError> {
        let rows = self.rows();
        let wanted = rows_after(&rows.tasks, backlog.after, |t| t.id)
            .iter()
            .take_while(|t| t.id <= backlog.upto)
            .filter(|t| t.spec.priority == backlog.priority)
            .filter(|t| match &t.spec.to {
                None => t.id > backlog.broadcast_after,
                to => *to == backlog.group,
            });
        BacklogPage::gather(wanted.map(|t| Ok(Task::clone(t))), backlog)
    }

    fn count(&mut self, backlog: &Backlog) -> Result<u64, StoreError> {
        let all = Backlog { limit: usize::MAX, max_bytes: usize::MAX, ..backlog.clone() };
        Ok(self.backlog(&all)?.tasks.len() as u64)
    }

    fn expiries(&mut self, backlog: &Backlog) -> Result<Vec<(TaskId, Option<Time>)>, StoreError> {
        let addressed = Backlog { broadcast_after: TaskId::MAX, max_bytes: usize::MAX, ..backlog.clone() };
        Ok(self.backlog(&addressed)?.tasks.iter().map(|task| (task.id, task.spec.expires_at)).collect())
    }

    fn addressed_groups(&mut self, after: Option<&GroupName>, limit: usize) -> Result<Vec<GroupName>, StoreError> {
        let rows = self.rows();
        let names: BTreeSet<_> = rows.tasks.iter().filter_map(|task| task.spec.to.as_ref()).collect();
        Ok(names.into_iter().filter(|name| Some(*name) > after).take(limit).cloned().collect())
    }

    fn first_task(&mut self) -> Result<Option<TaskId>, StoreError> {
        Ok(self.rows().tasks.first().map(|t| t.id))
    }
}

/// Whether a group gave the task up by this result: this group, or any.
fn is_dead(result: &TaskResult, group: Option<&GroupName>) -> bool {
    let TaskResult { result, .. } = result;
    result.outcome.is_dead() && !result.late && (group.is_none() || result.group.as_ref() == group)
}

/// The rows of a log after a position.
fn rows_after<T>(log: &[T], after: u64, position: impl Fn(&T) -> u64) -> &[T] {
    &log[log.partition_point(|row| position(row) <= after)..]
}
