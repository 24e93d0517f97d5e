//! Tasks whose last client was not heard of again.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::attempts::Attempts;
use crate::task::{Priority, Task, TaskId};

/// Tasks that were with a client that fell silent before it began them. One of them may be the reason, so each goes out alone.
/// Those after which fewest clients fell silent are first: so the innocent ones go before the one that is to blame.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    order: BTreeSet<(Priority, u32, TaskId)>,
    tasks: FxHashMap<TaskId, (Arc<Task>, Attempts)>,
}

impl Suspects {
    /// Adds a task that is not among them.
    pub(super) fn insert(&mut self, task: Arc<Task>, attempts: Attempts) {
        self.order.insert((task.spec.priority, attempts.silent, task.id));
        self.tasks.insert(task.id, (task, attempts));
    }

    /// Takes a task out.
    pub(super) fn remove(&mut self, task: TaskId) -> Option<(Arc<Task>, Attempts)> {
        let (text, attempts) = self.tasks.remove(&task)?;
        self.order.remove(&(text.spec.priority, attempts.silent, task));
        Some((text, attempts))
    }

    /// The first, if its priority is this one: there is none of a higher.
    pub(super) fn first(&self, priority: Priority) -> Option<TaskId> {
        self.order.first().filter(|first| first.0 == priority).map(|(_, _, task)| *task)
    }

    pub(super) fn get(&self, task: TaskId) -> Option<Attempts> {
        self.tasks.get(&task).map(|(_, attempts)| *attempts)
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Each with what is counted of its deliveries, in any order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskId, Attempts)> {
        self.tasks.iter().map(|(task, (_, attempts))| (*task, *attempts))
    }
}
