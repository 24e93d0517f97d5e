//! When the state of the groups is written down.

use std::time::Duration;

use crate::now::Steady;

/// A restart reads the outcomes after the last checkpoint, and takes up anew what was delayed since: about this many at most.
const MAX_CHANGES: usize = 10_000;
/// From the first delivery that is in no checkpoint to the next checkpoint. A crash forgets later deliveries.
const INTERVAL: Duration = Duration::from_secs(1);
/// The interval is at least this for each group, range and task of a list in the last checkpoint: some hundred times their cost.
const INTERVAL_FOR_EACH: Duration = Duration::from_micros(100);

/// Decides when a checkpoint is due.
pub(super) struct CheckpointSchedule {
    /// Outcomes, and tasks that were delayed, since the last checkpoint.
    changes: usize,
    /// When the first delivery since the last checkpoint is to be in one. `None`: there was none.
    due: Option<Steady>,
    /// How long after that delivery.
    interval: Duration,
}

impl CheckpointSchedule {
    /// After a start that read `outcomes` results after the last checkpoint.
    pub(super) fn new(outcomes: usize) -> CheckpointSchedule {
        CheckpointSchedule { changes: outcomes, due: None, interval: INTERVAL }
    }

    /// Outcomes were written down.
    pub(super) fn recorded(&mut self, outcomes: usize) {
        self.changes += outcomes;
    }

    /// A task went out.
    pub(super) fn delivered(&mut self, now: Steady) {
        self.due.get_or_insert(now.after(self.interval));
    }

    /// A group is another that nothing may be delivered to for long.
    pub(super) fn changed(&mut self, now: Steady) {
        self.delivered(now);
    }

    /// A task was taken up whose time has not come.
    pub(super) fn delayed(&mut self, now: Steady) {
        self.changes += 1;
        self.delivered(now);
    }

    /// Whether a restart would have to do much again.
    pub(super) fn is_full(&self) -> bool {
        self.changes >= MAX_CHANGES
    }

    /// When the next one is due because of time.
    pub(super) fn due(&self) -> Option<Steady> {
        self.due
    }

    /// A checkpoint was made, with `rows` groups, ranges and tasks of lists in it.
    pub(super) fn made(&mut self, rows: usize) {
        let interval = INTERVAL.max(INTERVAL_FOR_EACH * u32::try_from(rows).unwrap_or(u32::MAX));
        *self = CheckpointSchedule { changes: 0, due: None, interval };
    }
}
