//! Tasks that are not to go out before a time.

use std::collections::{BTreeMap, BTreeSet};

use crate::attempts::Attempts;
use crate::task::{TaskId, Time};

/// Tasks in the order in which they are due, each with what is counted of its deliveries. Without the text, which is loaded when they are.
#[derive(Debug, Default)]
pub(super) struct Delayed {
    due: BTreeSet<(Time, TaskId)>,
    /// Many may wait; outcomes come for single ones, and the oldest is asked for.
    tasks: BTreeMap<TaskId, (Time, Attempts)>,
}

impl Delayed {
    /// Adds a task, or changes when it is due.
    pub(super) fn insert(&mut self, task: TaskId, due: Time, attempts: Attempts) {
        self.remove(task);
        self.due.insert((due, task));
        self.tasks.insert(task, (due, attempts));
    }

    /// Takes a task out; says how often it went out.
    pub(super) fn remove(&mut self, task: TaskId) -> Option<Attempts> {
        let (due, attempts) = self.tasks.remove(&task)?;
        self.due.remove(&(due, task));
        Some(attempts)
    }

    /// Takes out the first of those that are due.
    pub(super) fn pop(&mut self, now: Time) -> Option<(TaskId, Attempts)> {
        let task = self.due.first().filter(|(due, _)| *due <= now)?.1;
        Some((task, self.remove(task)?))
    }

    /// When the first is due.
    pub(super) fn first(&self) -> Option<Time> {
        self.due.first().map(|(due, _)| *due)
    }

    /// When this one is due, and how often it went out.
    pub(super) fn get(&self, task: TaskId) -> Option<(Time, Attempts)> {
        self.tasks.get(&task).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// The one that was accepted first.
    pub(super) fn oldest(&self) -> Option<TaskId> {
        self.tasks.first_key_value().map(|(task, _)| *task)
    }

    /// Task, when it is due, and deliveries; in the order of ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskId, Time, Attempts)> {
        self.tasks.iter().map(|(task, (due, attempts))| (*task, *due, *attempts))
    }
}
