//! The same store in memory: its rows end with the process.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::backend::{Oldest, PAGE_BYTES, STATUSES_AT_ONCE, Standing, lanes_of, last_outcome, page};
use super::chunk::{block_of, chunks, segments};
use super::{
    Backend, Backlog, BacklogPage, Batch, ChunkOfTasks, Dialled, Drain, Granted, GroupState, Keyed, KnownClient,
    Newest, OpenReader, OpenTask, Positions, Reader, Recovered, Removable, Removal, Removed, STATUSES,
    STATUSES_OF_A_CLIENT, Slot, StoreError,
};
use crate::run::{MOST_KEPT, Run};
use crate::schedule::Schedule;
use crate::task::{ClientId, GroupName, Name, NewResult, NewTask, Outcome, Status, Task, TaskId, TaskResult, Time};

/// Keeps the rows in memory. Clones share them, so that a second store can be opened on what a first one left behind.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<RwLock<Rows>>);

/// Each log in its order; ids need not follow one another.
#[derive(Debug, Default)]
struct Rows {
    tasks: Vec<Arc<Task>>,
    results: Vec<TaskResult>,
    statuses: Vec<Status>,
    /// The tasks that are removed together, by the first of them.
    chunks: BTreeMap<TaskId, Vec<TaskId>>,
    /// Results that came when no task of their block was there.
    strays: HashSet<u64>,
    /// By the position of the result.
    dead: BTreeMap<u64, TaskResult>,
    keys: HashMap<String, TaskId>,
    /// The newest task of each slot.
    slots: HashMap<Slot, TaskId>,
    groups: BTreeMap<GroupName, GroupState>,
    open: BTreeMap<GroupName, BTreeMap<TaskId, OpenTask>>,
    drains: BTreeMap<ClientId, Drain>,
    runs: BTreeMap<TaskId, Run>,
    schedules: BTreeMap<Name, Schedule>,
    dialled: BTreeMap<Name, Dialled>,
    clients: BTreeMap<ClientId, KnownClient>,
    grants: Granted,
    mark: u64,
    positions: Positions,
}

impl Memory {
    fn rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn results_of_groups(&self, after: u64) -> Vec<TaskResult> {
        let rows = self.rows();
        rows_after(&rows.results, after, |r| r.seq).iter().filter(|r| r.result.group.is_some()).cloned().collect()
    }
}

impl Rows {
    fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.binary_search_by_key(&id, |task| task.id).ok().map(|at| &self.tasks[at])
    }

    /// See the same of SQLite.
    fn append_statuses(&mut self, batch: &Batch) {
        self.statuses.extend_from_slice(&batch.statuses);
        let mut came: BTreeMap<&str, u64> = BTreeMap::new();
        for entry in &batch.statuses {
            *came.entry(&entry.status.client).or_default() += 1;
        }
        for (client, came) in came {
            let there = self.statuses.iter().filter(|entry| *entry.status.client == *client).count() as u64;
            let mut goes = there.saturating_sub(STATUSES_OF_A_CLIENT).min(came + STATUSES_AT_ONCE);
            self.statuses.retain(|entry| {
                let stays = goes == 0 || *entry.status.client != *client;
                goes -= u64::from(!stays);
                stays
            });
        }
        let last = batch.positions.status.saturating_sub(STATUSES);
        let mut goes = batch.statuses.len() as u64 + STATUSES_AT_ONCE;
        self.statuses.retain(|entry| {
            let stays = goes == 0 || batch.statuses.is_empty() || entry.seq > last;
            goes -= u64::from(!stays);
            stays
        });
    }

    /// Whether a task may be there of a block: a chunk of tasks reaches into it.
    fn has_tasks(&self, block: i64) -> bool {
        let reaches = |ids: &Vec<TaskId>| Some(block_of(*ids.first()?) <= block && block <= block_of(*ids.last()?));
        block >= 0 && self.chunks.values().any(|ids| reaches(ids) == Some(true))
    }
}

/// Removes those that are old and not held by a task, the oldest first, up to the limit.
fn remove_old<T>(rows: &mut Vec<T>, removal: &Removal, what: impl Fn(&T) -> (bool, Time)) {
    let (mut left, mut holds) = (removal.limit, false);
    rows.retain(|row| {
        let (is_loose, at) = what(row);
        let is_old = is_loose && at < removal.before;
        holds |= is_loose && !is_old && at <= removal.now;
        let goes = is_old && !holds && left > 0;
        left -= usize::from(goes);
        !goes
    });
}

impl Backend for Memory {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        let positions = self.rows().positions;
        let newest = Newest::read(self, positions)?;
        let mark = self.rows().mark;
        let replay = self.results_of_groups(mark);
        let lanes = lanes_of(self, &replay)?;
        let rows = self.rows();
        Ok(Recovered {
            positions,
            groups: rows.groups.values().cloned().collect(),
            open: rows.open.iter().map(|(name, open)| (name.clone(), open.values().cloned().collect())).collect(),
            replay,
            lanes,
            drains: rows.drains.values().cloned().collect(),
            dialled: rows.dialled.values().cloned().collect(),
            clients: rows.clients.values().cloned().collect(),
            grants: rows.grants.clone(),
            newest,
        })
    }

    fn find_key(&mut self, key: &str) -> Result<Option<Keyed>, StoreError> {
        let rows = self.rows();
        let task = rows.keys.get(key).and_then(|id| rows.tasks.binary_search_by_key(id, |task| task.id).ok());
        let keyed = |task: &Task| {
            let NewTask { to, audience, text, attachment, .. } = task.spec.clone();
            Keyed { id: task.id, to, audience, text, attachment }
        };
        Ok(task.map(|at| keyed(&rows.tasks[at])))
    }

    fn newest_of(&mut self, slot: &Slot) -> Result<Option<Task>, StoreError> {
        let rows = self.rows();
        Ok(rows.slots.get(slot).and_then(|id| rows.task(*id)).map(|task| Task::clone(task)))
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
        for (id, expires_at) in &batch.expiries {
            if let Ok(at) = rows.tasks.binary_search_by_key(id, |t| t.id) {
                let spec = &mut Arc::make_mut(&mut rows.tasks[at]).spec;
                spec.expires_at = *expires_at;
                if let Some(replace) = &mut spec.replace {
                    replace.by = None;
                }
            }
        }
        for task in &batch.tasks {
            if let Some(key) = &task.spec.key {
                rows.keys.insert(key.clone(), task.id);
            }
            if let Some(slot) = Slot::of(&task.spec) {
                rows.slots.insert(slot, task.id);
            }
            rows.tasks.push(task.clone());
            if let Some(old) = task.spec.replaces()
                && let Ok(at) = rows.tasks.binary_search_by_key(&old, |task| task.id)
            {
                Arc::make_mut(&mut rows.tasks[at]).spec.set_replaced(task.id, task.accepted_at);
            }
        }
        for chunk in segments(&batch.tasks).flat_map(chunks) {
            rows.chunks.insert(chunk[0].id, chunk.iter().map(|task| task.id).collect());
        }
        for entry in &batch.results {
            if !rows.has_tasks(block_of(entry.result.task)) {
                rows.strays.insert(entry.seq);
            }
        }
        rows.results.extend_from_slice(&batch.results);
        rows.append_statuses(batch);
        for name in &batch.forgotten {
            rows.groups.remove(name);
            rows.open.remove(name);
            rows.dead.retain(|_, entry| entry.result.group.as_ref() != Some(name));
        }
        for entry in batch.results.iter().filter(|entry| entry.result.moves_dead_letter()) {
            let NewResult { task, group, outcome, .. } = &entry.result;
            rows.dead.retain(|_, dead| dead.result.task != *task || group.is_none() || dead.result.group != *group);
            if outcome.is_dead() {
                rows.dead.insert(entry.seq, entry.clone());
            }
        }
        rows.groups.extend(batch.groups.clone());
        for (name, changed) in &batch.open {
            let open = rows.open.entry(name.clone()).or_default();
            for (id, task) in changed {
                match task {
                    Some(task) => drop(open.insert(*id, task.clone())),
                    None => drop(open.remove(id)),
                }
            }
        }
        rows.open.retain(|_, open| !open.is_empty());
        for (client, known) in &batch.clients {
            match known {
                Some(known) => drop(rows.clients.insert(client.clone(), known.clone())),
                None => drop(rows.clients.remove(client)),
            }
        }
        for (client, drain) in &batch.drains {
            match drain {
                Some(drain) => drop(rows.drains.insert(client.clone(), drain.clone())),
                None => drop(rows.drains.remove(client)),
            }
        }
        for (number, run) in &batch.runs {
            rows.runs.insert(*number, run.clone());
            if let Some(oldest) = rows.runs.keys().rev().nth(MOST_KEPT - 1).copied() {
                rows.runs.retain(|number, run| *number >= oldest || run.ended_at.is_none());
            }
        }
        for (name, schedule) in &batch.schedules {
            match schedule {
                Some(schedule) => drop(rows.schedules.insert(name.clone(), schedule.clone())),
                None => drop(rows.schedules.remove(name)),
            }
        }
        for (address, dialled) in &batch.dialled {
            match dialled {
                Some(dialled) => drop(rows.dialled.insert(address.clone(), dialled.clone())),
                None => drop(rows.dialled.remove(address)),
            }
        }
        for (to, text) in &batch.grants {
            match text {
                Some(text) => drop(rows.grants.insert(to.clone(), text.clone())),
                None => drop(rows.grants.remove(to)),
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
        let mut removed = Removed::default();
        let mut blocks = BTreeSet::new();
        for ids in removal.chunks.iter().filter_map(|first| rows.chunks.remove(first)) {
            blocks.extend(ids.iter().map(|id| block_of(*id)));
            removed.tasks.extend(ids);
        }
        removed.tasks.sort_unstable();
        let gone: HashSet<TaskId> = removed.tasks.iter().copied().collect();
        rows.tasks.retain(|task| !gone.contains(&task.id));
        rows.keys.retain(|_, id| !gone.contains(id));
        rows.slots.retain(|_, id| !gone.contains(id));
        let before = rows.results.len();
        let (tasks, strays) = (&rows.tasks, &rows.strays);
        let is_kept = |id: TaskId| tasks.binary_search_by_key(&id, |task| task.id).is_ok();
        rows.results.retain(|entry| {
            let task = entry.result.task;
            is_kept(task) || strays.contains(&entry.seq) || !blocks.contains(&block_of(task))
        });
        removed.results = before - rows.results.len();
        let before = rows.results.len() + rows.statuses.len();
        remove_old(&mut rows.results, removal, |entry| (strays.contains(&entry.seq), entry.result.at));
        remove_old(&mut rows.statuses, removal, |entry| (true, entry.status.at));
        removed.others = before - rows.results.len() - rows.statuses.len();
        removed.used = rows.tasks.iter().map(|task| task.spec.bytes() as u64).sum();
        rows.runs.retain(|_, run| run.ended_at.is_none_or(|at| at >= removal.before));
        let kept: HashSet<u64> = rows.results.iter().map(|entry| entry.seq).collect();
        rows.dead.retain(|seq, entry| kept.contains(seq) && !gone.contains(&entry.result.task));
        Ok(removed)
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
    fn granted(&mut self) -> Result<Granted, StoreError> {
        Ok(self.rows().grants.clone())
    }

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

    fn outcomes_of(&mut self, task: TaskId) -> Result<Vec<TaskResult>, StoreError> {
        let mut results = self.results_of(task)?;
        results.iter_mut().for_each(|entry| entry.result.say_nothing());
        Ok(results)
    }

    fn results_by_seq(&mut self, seqs: &[u64]) -> Result<Vec<TaskResult>, StoreError> {
        let rows = self.rows();
        let found = seqs.iter().filter_map(|seq| rows.results.binary_search_by_key(seq, |r| r.seq).ok());
        Ok(found.map(|at| rows.results[at].clone()).collect())
    }

    fn latest_results_of(&mut self, task: TaskId, limit: usize) -> Result<Vec<TaskResult>, StoreError> {
        Ok(self.results_of(task)?.into_iter().rev().take(limit).collect())
    }

    fn dead(&mut self, after: u64, group: Option<&GroupName>, limit: usize) -> Result<Vec<TaskResult>, StoreError> {
        let rows = self.rows();
        let dead = rows.dead.range((Bound::Excluded(after), Bound::Unbounded)).map(|(_, entry)| entry);
        page(dead.filter(|entry| is_of(entry, group)).cloned().map(Ok), limit, PAGE_BYTES)
    }

    fn latest_dead(
        &mut self,
        before: u64,
        group: Option<&GroupName>,
        limit: usize,
    ) -> Result<Vec<TaskResult>, StoreError> {
        let rows = self.rows();
        let dead = rows.dead.range(..before).rev().map(|(_, entry)| entry);
        page(dead.filter(|entry| is_of(entry, group)).cloned().map(Ok), limit, PAGE_BYTES)
    }

    fn is_dead(&mut self, task: TaskId, group: &GroupName) -> Result<bool, StoreError> {
        Ok(self.rows().dead.values().any(|entry| entry.result.task == task && is_of(entry, Some(group))))
    }

    fn dead_counts(&mut self) -> Result<HashMap<GroupName, u64>, StoreError> {
        let mut counts = HashMap::new();
        for group in self.rows().dead.values().filter_map(|entry| entry.result.group.clone()) {
            *counts.entry(group).or_default() += 1;
        }
        Ok(counts)
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
            .filter(|t| backlog.lane.is_none() || t.spec.waits_in() == backlog.lane.as_ref())
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

    fn removable(&mut self, removable: &Removable) -> Result<Vec<ChunkOfTasks>, StoreError> {
        let rows = self.rows();
        let mut oldest = Oldest::new(removable.limit);
        let mut held = HashSet::new();
        let open = rows.runs.values().filter(|run| run.ended_at.is_none());
        let of_runs: HashSet<TaskId> = open.flat_map(|run| run.tasks.iter().map(|(id, _)| *id)).collect();
        for (first, ids) in &rows.chunks {
            let tasks: Vec<_> = ids.iter().filter_map(|id| rows.task(*id)).collect();
            let [.., last] = &tasks[..] else { continue };
            let newest = tasks.iter().map(|task| task.accepted_at).max().unwrap_or_default();
            let class = (last.spec.to.clone(), last.spec.priority);
            match removable.standing(class.0.as_ref(), last.id, newest) {
                _ if held.contains(&class) => {}
                Standing::Goes if ids.iter().any(|id| of_runs.contains(id)) => {}
                Standing::Goes => _ = oldest.add(ChunkOfTasks { first: *first, count: tasks.len() }),
                Standing::Stays => {}
                Standing::HoldsTheRest => _ = held.insert(class),
            }
        }
        Ok(oldest.into_vec())
    }

    fn run(&mut self, number: TaskId) -> Result<Option<Run>, StoreError> {
        Ok(self.rows().runs.get(&number).cloned())
    }

    fn open_runs(&mut self) -> Result<Vec<Run>, StoreError> {
        Ok(self.rows().runs.values().filter(|run| run.ended_at.is_none()).cloned().collect())
    }

    fn latest_runs(&mut self, before: TaskId, limit: usize) -> Result<Vec<Run>, StoreError> {
        let without_targets = |run: &Run| Run { targets: Vec::new(), ended: Vec::new(), ..run.clone() };
        let rows = self.rows();
        Ok(rows.runs.range(..before).rev().take(limit).map(|(_, run)| without_targets(run)).collect())
    }

    fn schedules(&mut self) -> Result<BTreeMap<Name, Schedule>, StoreError> {
        Ok(self.rows().schedules.clone())
    }

    fn first_task(&mut self) -> Result<Option<TaskId>, StoreError> {
        Ok(self.rows().tasks.first().map(|t| t.id))
    }
}

/// Whether a dead letter is of this group, or of any.
fn is_of(entry: &TaskResult, group: Option<&GroupName>) -> bool {
    group.is_none() || entry.result.group.as_ref() == group
}

/// The rows of a log after a position.
fn rows_after<T>(log: &[T], after: u64, position: impl Fn(&T) -> u64) -> &[T] {
    &log[log.partition_point(|row| position(row) <= after)..]
}
