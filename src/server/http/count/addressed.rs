//! The tasks before a group that are for it alone.

use crate::store::{Backlog, Reader, StoreError};
use crate::task::TaskId;

/// Ids that one step goes over; there are at most as many tasks.
const STEP: u64 = 250_000;

/// Those after `from` and up to `to`.
#[derive(Debug, Default)]
pub(super) struct Addressed {
    from: TaskId,
    to: TaskId,
    count: u64,
}

impl Addressed {
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Comes closer to what the group has before it; says whether it is there.
    pub(super) fn step(&mut self, reader: &mut dyn Reader, backlog: &Backlog) -> Result<bool, StoreError> {
        let (after, upto) = (backlog.after, backlog.upto);
        // It came far, or is another group of the same name: to begin anew is less.
        let is_near = (self.from..=self.to).contains(&after) && after - self.from <= upto - after && self.to <= upto;
        if !is_near {
            *self = Addressed { from: after, to: after, count: 0 };
        }
        let mut count = |after, upto| reader.count(&Backlog { after, upto, broadcast_after: upto, ..backlog.clone() });
        if self.from < after {
            let cut = after.min(self.from + STEP);
            self.count = self.count.saturating_sub(count(self.from, cut)?);
            self.from = cut;
        } else if self.to < upto {
            let end = upto.min(self.to + STEP);
            self.count += count(self.to, end)?;
            self.to = end;
        }
        Ok(self.from == after && self.to == upto)
    }
}
