//! The newest tasks, in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::task::{Task, TaskId, Time};

/// Text and overhead of the newest tasks that are kept, for all groups together.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The newest tasks, so that groups that keep up need not read the store: by id without a gap, up to `head`.
pub(super) struct RecentTasks {
    head: TaskId,
    tasks: VecDeque<Arc<Task>>,
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
            self.tasks.push_back(task);
        }
        while self.bytes > MAX_BYTES
            && let Some(oldest) = self.tasks.pop_front()
        {
            self.bytes -= cost(&oldest);
        }
    }

    /// Tasks up to `head` were accepted that are not handed over. What is kept would have a gap, and is dropped.
    pub(super) fn skip_to(&mut self, head: TaskId) {
        *self = RecentTasks::new(head);
    }

    fn index(&self, id: TaskId) -> Option<usize> {
        usize::try_from(id.checked_sub(self.tasks.front()?.id)?).ok()
    }

    pub(super) fn get(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.get(self.index(id)?)
    }

    /// The tasks after `after`, in order. `None`: not all of them are kept.
    pub(super) fn after(&self, after: TaskId) -> Option<impl Iterator<Item = &Arc<Task>>> {
        let from = if after >= self.head { self.tasks.len() } else { self.index(after + 1)? };
        Some(self.tasks.range(from..))
    }

    /// Has a task expire now, so that groups that read it from here do not give it out.
    pub(super) fn expire(&mut self, id: TaskId, now: Time) {
        if let Some(task) = self.index(id).and_then(|at| self.tasks.get_mut(at)) {
            Arc::make_mut(task).spec.expires_at = Some(now);
        }
    }
}

/// What a task takes in memory: its text, and about 200 bytes beside it.
fn cost(task: &Task) -> u64 {
    task.spec.text.len() as u64 + 200
}
