//! What the broker counts as it goes: plain numbers of the one thread that owns them. Others read a copy.

use std::collections::VecDeque;
use std::time::Duration;

use crate::latency::Latency;
use crate::now::Steady;
use crate::task::{NewResult, Outcome, Time};

/// What became of tasks, since the start of the server.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Put on streams.
    pub delivered: u64,
    /// Outcomes by their number, without those that came late.
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Outcomes that came late, and changed nothing.
    pub late: u64,
}

impl Tally {
    /// How often that was the outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Outcomes that settled a task for a group.
    pub fn settled(&self) -> u64 {
        Outcome::ALL.into_iter().filter(|outcome| outcome.settles()).map(|outcome| self.of(outcome)).sum()
    }

    /// Deliveries that came to nothing. Not [`Outcome::Exhausted`]: it stands beside the outcome that used up the last attempt.
    pub fn failed(&self) -> u64 {
        let failures = [Outcome::Failed, Outcome::Retry, Outcome::Lost, Outcome::TimedOut];
        failures.into_iter().map(|outcome| self.of(outcome)).sum()
    }

    pub(super) fn count(&mut self, result: &NewResult) {
        match result.late {
            true => self.late += 1,
            false => self.outcomes[result.outcome as usize] += 1,
        }
    }
}

/// Tasks whose time was over before a client was given them: the last ones, until none was added for [`Undelivered::RECENT`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undelivered {
    /// How many.
    pub count: u64,
    /// When the last was added.
    pub last: Option<Time>,
}

impl Undelivered {
    /// How long they are of interest: whoever looks after a fleet looks more often.
    pub const RECENT: Duration = Duration::from_secs(600);

    /// Whether the last was added not long ago.
    pub fn is_recent(self, now: Time) -> bool {
        self.last.is_some_and(|last| last.after(Self::RECENT) > now)
    }

    /// One more.
    pub fn add(&mut self, at: Time) {
        self.count = if self.is_recent(at) { self.count + 1 } else { 1 };
        self.last = self.last.max(Some(at));
    }
}

/// What the broker counts of all groups together.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    /// Of all.
    pub total: Tally,
    /// Of anonymous clients, whose groups end with their streams.
    pub anonymous: Tally,
    /// From when a task could first go out to a group to its first delivery there; not of anonymous clients, who may begin
    /// with tasks that are days old.
    pub wait: Latency,
    /// From a delivery to the report that settled the task.
    pub work: Latency,
    /// Acknowledgements without an id that no delivery to their address was waiting for.
    pub unmatched: u64,
    /// When the last of them came.
    pub last_unmatched: Option<Time>,
    /// Outcomes of tasks that who told them did not hold.
    pub foreign: u64,
    /// Late results that were not written down, since there were [`MOST_LATE`](super::MOST_LATE) of their task and group.
    pub late_dropped: u64,
    /// How often an identity had as much under way as it may.
    pub quotas_filled: u64,
    /// How often processes began to fight for a client id.
    pub fights: u64,
}

/// How many tasks were settled in each of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rate {
    seconds: VecDeque<(u64, u64)>,
}

impl Rate {
    const SECONDS: u64 = 10;

    pub(super) fn count(&mut self, now: Steady) {
        let second = now.0 / 1000;
        match self.seconds.back_mut() {
            Some((last, count)) if *last == second => *count += 1,
            _ => self.seconds.push_back((second, 1)),
        }
        if self.seconds.len() > Self::SECONDS as usize + 1 {
            self.seconds.pop_front();
        }
    }

    /// When the last second began in which one was settled.
    pub(super) fn last(&self) -> Option<Steady> {
        self.seconds.back().map(|(second, _)| Steady(second * 1000))
    }

    /// Over the last ten whole seconds.
    pub(super) fn per_second(&self, now: Steady) -> f64 {
        let second = now.0 / 1000;
        let recent = self.seconds.iter().filter(|(at, _)| (second.saturating_sub(Self::SECONDS)..second).contains(at));
        recent.map(|(_, count)| *count).sum::<u64>() as f64 / Self::SECONDS as f64
    }
}

/// What is recorded in a [`Latency`].
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
