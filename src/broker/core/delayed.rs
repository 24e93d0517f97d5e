//! Tasks that are not to go out before a time.

use rustc_hash::FxHashMap;

use super::packed::Packed;
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

/// Tasks in the order in which they are due, each with what is counted of its deliveries. Without the text, which is loaded when they
/// are. Many may wait: one that never went out takes 32 bytes, or up to half as much again where the times are in any order.
#[derive(Debug, Default)]
pub(super) struct Delayed {
    /// Of each clock its own, so that a step of one moves nothing of the other.
    moments: Queue<Time>,
    waits: Queue<Steady>,
    /// Of those that went out before.
    attempts: FxHashMap<TaskId, Attempts>,
}

/// Those that go by one clock.
#[derive(Debug)]
struct Queue<T> {
    due: Packed<(T, TaskId), ()>,
    /// Outcomes come for single ones, and the oldest is asked for.
    tasks: Packed<TaskId, T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue { due: Packed::default(), tasks: Packed::default() }
    }
}

impl<T: Ord + Copy> Queue<T> {
    fn insert(&mut self, task: TaskId, due: T) {
        self.due.insert((due, task), ());
        self.tasks.insert(task, due);
    }

    fn remove(&mut self, task: TaskId) -> bool {
        let due = self.tasks.remove(task);
        due.is_some_and(|due| self.due.remove((due, task)).is_some())
    }

    fn first(&self) -> Option<(T, TaskId)> {
        self.due.first().map(|(first, ())| first)
    }
}

impl Delayed {
    /// Adds a task, or changes when it is due.
    pub(super) fn insert(&mut self, task: TaskId, due: Due, attempts: Attempts) {
        self.remove(task);
        match due {
            Due::At(moment) => self.moments.insert(task, moment),
            Due::After(wait) => self.waits.insert(task, wait),
        }
        if attempts != Attempts::default() {
            self.attempts.insert(task, attempts);
        }
    }

    /// Takes a task out; says how often it went out.
    pub(super) fn remove(&mut self, task: TaskId) -> Option<Attempts> {
        let removed = self.moments.remove(task) || self.waits.remove(task);
        removed.then(|| self.attempts.remove(&task).unwrap_or_default())
    }

    /// Takes out one of those that are due.
    pub(super) fn pop(&mut self, now: Now) -> Option<(TaskId, Attempts)> {
        let wait = || self.waits.first().filter(|(due, _)| *due <= now.steady).map(|(_, task)| task);
        let moment = || self.moments.first().filter(|(due, _)| *due <= now.wall).map(|(_, task)| task);
        let task = wait().or_else(moment)?;
        Some((task, self.remove(task)?))
    }

    /// When the first is due of those that wait for a time of day.
    pub(super) fn first_moment(&self) -> Option<Time> {
        self.moments.first().map(|(due, _)| due)
    }

    /// When the first is due of the others.
    pub(super) fn first_wait(&self) -> Option<Steady> {
        self.waits.first().map(|(due, _)| due)
    }

    /// When this one is due, and how often it went out.
    pub(super) fn get(&self, task: TaskId) -> Option<(Due, Attempts)> {
        let moment = self.moments.tasks.get(task).map(Due::At);
        let due = moment.or_else(|| self.waits.tasks.get(task).map(Due::After))?;
        Some((due, self.attempts.get(&task).copied().unwrap_or_default()))
    }

    pub(super) fn len(&self) -> usize {
        self.moments.tasks.len() + self.waits.tasks.len()
    }

    /// The one that was accepted first.
    pub(super) fn oldest(&self) -> Option<TaskId> {
        let (moment, wait) = (self.moments.tasks.first(), self.waits.tasks.first());
        moment.map(|(task, _)| task).into_iter().chain(wait.map(|(task, _)| task)).min()
    }

    /// Those that do not wait for a time of day, in the order of ids.
    pub(super) fn waits(&self) -> impl Iterator<Item = TaskId> {
        self.waits.tasks.iter().map(|(task, _)| task)
    }

    /// All of them, in no order.
    pub(super) fn ids(&self) -> impl Iterator<Item = TaskId> {
        self.moments.tasks.iter().map(|(task, _)| task).chain(self.waits())
    }
}
