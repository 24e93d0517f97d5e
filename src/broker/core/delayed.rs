//! Tasks that are not to go out before a time.

use std::collections::{BTreeMap, BTreeSet};

use crate::attempts::Attempts;
use crate::now::{Now, Steady};
use crate::task::{TaskId, Time};

/// When a task may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// When it is that time of day: its submitter named it.
    At(Time),
    /// When so much time has passed, whatever becomes of the time of day meanwhile.
    After(Steady),
}

/// Tasks in the order in which they are due, each with what is counted of its deliveries. Without the text, which is loaded when they are.
#[derive(Debug, Default)]
pub(super) struct Delayed {
    /// Of each clock its own, so that a step of one moves nothing of the other.
    moments: BTreeSet<(Time, TaskId)>,
    waits: BTreeSet<(Steady, TaskId)>,
    /// Many may wait; outcomes come for single ones, and the oldest is asked for.
    tasks: BTreeMap<TaskId, (Due, Attempts)>,
}

impl Delayed {
    /// Adds a task, or changes when it is due.
    pub(super) fn insert(&mut self, task: TaskId, due: Due, attempts: Attempts) {
        self.remove(task);
        match due {
            Due::At(moment) => self.moments.insert((moment, task)),
            Due::After(wait) => self.waits.insert((wait, task)),
        };
        self.tasks.insert(task, (due, attempts));
    }

    /// Takes a task out; says how often it went out.
    pub(super) fn remove(&mut self, task: TaskId) -> Option<Attempts> {
        let (due, attempts) = self.tasks.remove(&task)?;
        match due {
            Due::At(moment) => self.moments.remove(&(moment, task)),
            Due::After(wait) => self.waits.remove(&(wait, task)),
        };
        Some(attempts)
    }

    /// Takes out one of those that are due.
    pub(super) fn pop(&mut self, now: Now) -> Option<(TaskId, Attempts)> {
        let wait = || self.waits.first().filter(|(due, _)| *due <= now.steady).map(|(_, task)| *task);
        let moment = || self.moments.first().filter(|(due, _)| *due <= now.wall).map(|(_, task)| *task);
        let task = wait().or_else(moment)?;
        Some((task, self.remove(task)?))
    }

    /// When the first is due of those that wait for a time of day.
    pub(super) fn first_moment(&self) -> Option<Time> {
        self.moments.first().map(|(due, _)| *due)
    }

    /// When the first is due of the others.
    pub(super) fn first_wait(&self) -> Option<Steady> {
        self.waits.first().map(|(due, _)| *due)
    }

    /// When this one is due, and how often it went out.
    pub(super) fn get(&self, task: TaskId) -> Option<(Due, Attempts)> {
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
    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskId, Due, Attempts)> {
        self.tasks.iter().map(|(task, (due, attempts))| (*task, *due, *attempts))
    }
}
