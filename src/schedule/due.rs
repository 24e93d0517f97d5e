//! For which moments of a schedule a task is due. Time is an argument.

use std::time::Duration;

use super::{Missed, Moments, Schedule, What, When};
use crate::task::{Submitter, Time};

/// A moment is missed when it has no task after this time. So a server that is started anew meanwhile misses none.
pub const ON_TIME: Duration = Duration::from_secs(60);
/// Most missed moments that have tasks, with [`Missed::All`]: the last.
pub const MOST_MISSED: usize = 100;
/// A clock that is set back by no more than this goes over moments again that have their tasks. By more, and it was wrong before, or is now.
pub const STEPS_BACK: Duration = Duration::from_secs(24 * 60 * 60);
/// It was wrong before when it shows such a time for so long: one that is wrong when a machine starts has been set right by then.
pub const BELIEVED: Duration = Duration::from_secs(60 * 60);

/// What is to be done for a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// A task is due for each of these, in order. With each it is [through](Schedule::through) with what comes up to it.
    pub moments: Vec<Time>,
    /// What it is through with then.
    pub through: Time,
    /// How many were missed, and have no task: at least so many, if that is more than [`MOST_MISSED`].
    pub passed: usize,
    /// The next moment after that, if it is not paused.
    pub next: Option<Time>,
}

/// What came of setting a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// It was not there.
    pub is_new: bool,
    /// Its moments are others.
    pub when: bool,
    /// What becomes of missed ones is another.
    pub missed: bool,
    /// Its tasks have something else.
    pub what: bool,
}

impl Change {
    /// Whether nothing did.
    pub fn is_nothing(self) -> bool {
        self == Change::default()
    }
}

impl Schedule {
    /// A new one. Its first moment comes after now.
    pub fn new(when: When, missed: Missed, what: What, by: Option<Submitter>, now: Time) -> Schedule {
        let when = match when {
            When::Every { millis, .. } => When::Every { millis, since: now },
            cron => cron,
        };
        Schedule { when, missed, paused: false, what, by, set_at: now, through: now, last: None, demo: false }
    }

    /// How this one is when it is set as `wanted`, a new one. Setting what it is already changes nothing.
    pub fn set(&self, wanted: Schedule) -> (Schedule, Change) {
        let change = Change {
            is_new: false,
            when: !self.when.is_like(&wanted.when),
            missed: self.missed != wanted.missed,
            what: self.what != wanted.what,
        };
        if change.is_nothing() {
            return (self.clone(), change);
        }
        let (when, through) = match change.when {
            true => (wanted.when, self.through.max(wanted.through)),
            false => (self.when.clone(), self.through),
        };
        (Schedule { when, through, paused: self.paused, last: self.last, ..wanted }, change)
    }

    /// How it is when it makes no tasks, or makes them again. What came while it was paused was not missed.
    pub fn paused(&self, paused: bool, now: Time) -> Schedule {
        let through = if self.paused && !paused { self.through.max(now) } else { self.through };
        Schedule { paused, through, ..self.clone() }
    }

    /// Nothing of it was due when it was looked at last, now: it is through with what came until then, by whatever rules that was.
    pub fn looked(&mut self, now: Time) {
        if !self.paused {
            self.through = self.through.max(now);
        }
    }

    /// Whether the clock shows a time so long before what it is through with that one of the two is wrong.
    pub fn is_ahead(&self, now: Time) -> bool {
        !self.paused && self.through > now.after(STEPS_BACK)
    }

    /// It goes on from what the clock shows, which is [believed](BELIEVED).
    pub fn anew(&self, moments: &Moments, now: Time) -> Turn {
        Turn { moments: Vec::new(), through: now, passed: 0, next: moments.after(now) }
    }

    /// What is due now.
    pub fn turn(&self, moments: &Moments, now: Time) -> Turn {
        let nothing = |through| Turn { moments: Vec::new(), through, passed: 0, next: None };
        if self.paused {
            return nothing(self.through);
        }
        let next = moments.after(self.through.max(now));
        let (mut due, more) = moments.last(self.through, now, MOST_MISSED);
        let Some(through) = due.last().copied() else { return Turn { next, ..nothing(self.through) } };
        let all = due.len() + usize::from(more);
        let missed = due.partition_point(|moment| now.since(*moment) > ON_TIME);
        let passed = match self.missed {
            Missed::All => 0,
            Missed::Skip => missed,
            Missed::Once if missed == due.len() => missed - 1,
            Missed::Once => missed,
        };
        due.drain(..passed);
        Turn { passed: all - due.len(), moments: due, through, next }
    }
}
