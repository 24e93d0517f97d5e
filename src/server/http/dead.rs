//! The dead letters of each group: the log of them is gone through once, and then only what is new in it, until some were taken
//! off the list.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::broker::Tally;
use crate::server::operator::dead_after;
use crate::store::{Reader, StoreError};
use crate::task::{GroupName, Outcome};

/// Dead letters that one step looks at. Many: a step reads all results of their tasks, once.
const STEP: usize = 1000;
/// They are removed with age, too, of which nothing here is told.
const RENEW: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(super) struct Dead {
    shown: Walk,
    /// From the beginning again; takes the place of `shown` when it is at the end.
    again: Option<Walk>,
    /// How many were given out again or dropped, a round before the last walk began: those of the round itself may not have been
    /// on disk yet.
    walked: u64,
    /// How many there were in the last round.
    seen: u64,
    began: Option<Instant>,
}

#[derive(Default)]
struct Walk {
    after: u64,
    counts: HashMap<GroupName, u64>,
}

impl Dead {
    pub(super) fn of(&self, group: &GroupName) -> u64 {
        self.shown.counts.get(group).copied().unwrap_or(0)
    }

    /// Goes on, until the time is over.
    pub(super) fn walk(&mut self, reader: &mut dyn Reader, total: &Tally, deadline: Instant) -> Result<(), StoreError> {
        let undone = total.of(Outcome::Revived) + total.of(Outcome::Dropped);
        let is_old = self.began.is_none_or(|began| began.elapsed() > RENEW);
        if self.again.is_none() && (undone != self.walked || is_old) {
            self.again = Some(Walk::default());
            (self.walked, self.began) = (self.seen, Some(Instant::now()));
        }
        self.seen = undone;
        let walk = self.again.as_mut().unwrap_or(&mut self.shown);
        while let (Some(last), dead) = dead_after(reader, walk.after, None, STEP)? {
            walk.after = last;
            for group in dead.into_iter().filter_map(|entry| entry.result.group) {
                *walk.counts.entry(group).or_default() += 1;
            }
            if Instant::now() >= deadline {
                return Ok(());
            }
        }
        if let Some(again) = self.again.take() {
            self.shown = again;
        }
        Ok(())
    }
}
