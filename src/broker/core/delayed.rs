//! Tasks that are not to go out before a time.

use rustc_hash::FxHashMap;

use super::packed::Packed;
use crate::attempts::Attempts;
use crate::task::{TaskId, Time};

/// Tasks in the order in which they are due, each with what is counted of its deliveries. Without the text, which is loaded when they
/// are. Many may wait: one that never went out takes 32 bytes, or up to half as much again where the times are in any order.
#[derive(Debug, Default)]
pub(super) struct Delayed {
    due: Packed<(Time, TaskId), ()>,
    /// Outcomes come for single ones, and the oldest is asked for.
    tasks: Packed<TaskId, Time>,
    /// Of those that went out before.
    attempts: FxHashMap<TaskId, Attempts>,
}

impl Delayed {
    /// Adds a task, or changes when it is due.
    pub(super) fn insert(&mut self, task: TaskId, due: Time, attempts: Attempts) {
        self.remove(task);
        self.due.insert((due, task), ());
        self.tasks.insert(task, due);
        if attempts != Attempts::default() {
            self.attempts.insert(task, attempts);
        }
    }

    /// Takes a task out; says how often it went out.
    pub(super) fn remove(&mut self, task: TaskId) -> Option<Attempts> {
        let due = self.tasks.remove(task)?;
        self.due.remove((due, task));
        Some(self.attempts.remove(&task).unwrap_or_default())
    }

    /// Takes out the first of those that are due.
    pub(super) fn pop(&mut self, now: Time) -> Option<(TaskId, Attempts)> {
        let ((_, task), ()) = self.due.first().filter(|((due, _), ())| *due <= now)?;
        Some((task, self.remove(task)?))
    }

    /// When the first is due.
    pub(super) fn first(&self) -> Option<Time> {
        self.due.first().map(|((due, _), ())| due)
    }

    /// When this one is due, and how often it went out.
    pub(super) fn get(&self, task: TaskId) -> Option<(Time, Attempts)> {
        Some((self.tasks.get(task)?, self.attempts_of(task)))
    }

    fn attempts_of(&self, task: TaskId) -> Attempts {
        self.attempts.get(&task).copied().unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// The one that was accepted first.
    pub(super) fn oldest(&self) -> Option<TaskId> {
        self.tasks.first().map(|(task, _)| task)
    }

    /// Task, when it is due, and deliveries; in the order of ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskId, Time, Attempts)> {
        self.tasks.iter().map(|(task, due)| (task, due, self.attempts_of(task)))
    }
}
