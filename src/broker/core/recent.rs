//! The newest tasks, in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use super::replacing::marked;
use crate::task::{NewTask, Task, TaskId, Time};

/// Text and overhead of the newest tasks that are kept, for all groups together.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// What one takes that was removed behind one that is kept: its place.
const REMOVED: u64 = size_of::<Option<Arc<Task>>>() as u64;

/// The newest tasks, so that groups that keep up need not read the store: by id without a gap, up to `head`.
pub(super) struct RecentTasks {
    head: TaskId,
    /// `None`: it was removed from the store.
    tasks: VecDeque<Option<Arc<Task>>>,
    bytes: u64,
}

impl RecentTasks {
    pub(super) fn new(head: TaskId) -> RecentTasks {
        RecentTasks { head, tasks: VecDeque::new(), bytes: 0 }
    }

    /// The newest task that was accepted, whether it is kept here or not.
    pub(super) fn head(&self) -> TaskId {
        self.head
    }

    /// Adds tasks: consecutive ids, the first right after `head`.
    pub(super) fn extend(&mut self, tasks: Vec<Arc<Task>>) {
        for task in tasks {
            self.head = task.id;
            self.bytes += cost(&task);
            self.tasks.push_back(Some(task));
        }
        self.shrink();
    }

    /// The tasks were removed from the store: they are not to be had from here, either.
    pub(super) fn remove(&mut self, ids: &[TaskId]) {
        for id in ids {
            if let Some(task) = self.index(*id).and_then(|at| self.tasks.get_mut(at)?.take()) {
                self.bytes = self.bytes - cost(&task) + REMOVED;
            }
        }
        self.shrink();
    }

    /// Drops the oldest: what is too much, and what was removed.
    fn shrink(&mut self) {
        while let Some(oldest) = self.tasks.front()
            && (self.bytes > MAX_BYTES || oldest.is_none())
        {
            self.bytes -= oldest.as_deref().map_or(REMOVED, cost);
            self.tasks.pop_front();
        }
    }

    /// Tasks up to `head` were accepted that are not handed over. What is kept would have a gap, and is dropped.
    pub(super) fn skip_to(&mut self, head: TaskId) {
        *self = RecentTasks::new(head);
    }

    fn index(&self, id: TaskId) -> Option<usize> {
        let first = self.head + 1 - self.tasks.len() as TaskId;
        usize::try_from(id.checked_sub(first)?).ok()
    }

    pub(super) fn get(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.get(self.index(id)?)?.as_ref()
    }

    /// The tasks after `after`, in order. `None`: not all of them are kept.
    pub(super) fn after(&self, after: TaskId) -> Option<impl Iterator<Item = &Arc<Task>>> {
        let from = if after >= self.head { self.tasks.len() } else { self.index(after + 1)? };
        Some(self.tasks.range(from..).flatten())
    }

    /// Marks a task as one whose place was taken, likewise.
    pub(super) fn replace(&mut self, id: TaskId, by: TaskId, at: Time) {
        if let Some(Some(task)) = self.index(id).and_then(|place| self.tasks.get_mut(place)) {
            self.bytes -= cost(task);
            *task = marked(task, by, at);
            self.bytes += cost(task);
        }
    }

    /// Marks a task as cancelled, so that groups that read it from here do not give it out.
    pub(super) fn cancel(&mut self, id: TaskId, now: Time) {
        if let Some(Some(task)) = self.index(id).and_then(|at| self.tasks.get_mut(at)) {
            Arc::make_mut(task).spec.expires_at = Some(NewTask::cancelled(now));
        }
    }
}

/// What a task takes in memory: what is to be done, and about 200 bytes beside it.
fn cost(task: &Task) -> u64 {
    task.spec.bytes() as u64 + 200
}
