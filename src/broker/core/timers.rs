//! What the core does by itself at a time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::GroupId;
use super::session::SessionId;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Group(GroupId),
    Session(SessionId),
    /// A session has rested.
    Rest(SessionId),
}

/// Timers of one clock, the first to be due on top. One that is no longer needed is not removed: when it is taken, its owner checks
/// it.
pub(super) struct Timers<Moment>(BinaryHeap<Reverse<(Moment, Timer)>>);

impl<Moment: Ord + Copy> Timers<Moment> {
    pub(super) fn new() -> Timers<Moment> {
        Timers(BinaryHeap::new())
    }

    pub(super) fn set(&mut self, due: Moment, timer: Timer) {
        self.0.push(Reverse((due, timer)));
    }

    /// Takes the first one that is due, with the time for which it was set.
    pub(super) fn pop(&mut self, now: Moment) -> Option<(Moment, Timer)> {
        self.next_due().filter(|due| *due <= now)?;
        self.0.pop().map(|Reverse(timer)| timer)
    }

    pub(super) fn next_due(&self) -> Option<Moment> {
        self.0.peek().map(|Reverse((due, _))| *due)
    }
}
