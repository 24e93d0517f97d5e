//! The tasks of one priority that are for everyone, counted once for all groups: by blocks of ids, from the block of the group
//! with the lowest position.
//!
//! Of the block in which a group stands only what comes after its position is counted: what is before it may be removed any time.

use std::collections::HashMap;
use std::time::Instant;

use crate::store::{Backlog, Reader, StoreError};
use crate::task::TaskId;

/// Ids in a block.
const BLOCK: u64 = 10_000;
/// Blocks, or positions, that no group needs any more and that are kept all the same.
const SPARE: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    /// The first block that was counted.
    first: u64,
    /// How many there are in the blocks before each one, from `first` on; and before the one that is next to be counted.
    before: Vec<u64>,
    /// How many there are after a position, to the end of its block.
    rest: HashMap<TaskId, u64>,
    /// The same in the block of the head, which grows: to there.
    newest: HashMap<TaskId, u64>,
}

/// Where the group stands among them.
fn start(backlog: &Backlog) -> TaskId {
    backlog.after.max(backlog.broadcast_after).min(backlog.upto)
}

fn count(reader: &mut dyn Reader, backlog: &Backlog, after: TaskId, upto: TaskId) -> Result<u64, StoreError> {
    if after >= upto {
        return Ok(0);
    }
    reader.count(&Backlog { group: None, after, upto, broadcast_after: 0, ..backlog.clone() })
}

impl Broadcasts {
    /// Counts the blocks that are complete, for the groups that have these before them. All of these have one priority and one
    /// end.
    pub(super) fn prepare<'a>(
        &mut self,
        reader: &mut dyn Reader,
        backlogs: impl Iterator<Item = &'a Backlog>,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        self.newest.clear();
        let backlogs: Vec<&Backlog> = backlogs.collect();
        let Some(furthest) = backlogs.iter().min_by_key(|backlog| start(backlog)) else { return Ok(()) };
        if self.rest.len() > 2 * backlogs.len() + SPARE {
            self.rest.clear();
        }
        let (first, head) = (start(furthest) / BLOCK, furthest.upto / BLOCK);
        let unused = first.saturating_sub(self.first) as usize;
        if self.before.is_empty() || first < self.first || unused >= self.before.len() {
            (self.first, self.before) = (first, vec![0]);
        } else if unused > SPARE {
            self.before.drain(..unused);
            self.first = first;
        }
        while let Some(last) = self.before.last().copied()
            && self.next() < head
            && Instant::now() < deadline
        {
            let block = self.next() * BLOCK;
            self.before.push(last + count(reader, furthest, block, block + BLOCK)?);
        }
        Ok(())
    }

    /// The block that is next to be counted.
    fn next(&self) -> u64 {
        self.first + self.before.len() as u64 - 1
    }

    /// How many the group has before it; `None`: that is not known yet.
    pub(super) fn count(&mut self, reader: &mut dyn Reader, backlog: &Backlog) -> Result<Option<u64>, StoreError> {
        let (start, head) = (start(backlog), backlog.upto);
        let (block, last) = (start / BLOCK, head / BLOCK);
        if block == last {
            return self.newest(reader, backlog, start).map(Some);
        }
        let before = |block: u64| block.checked_sub(self.first).and_then(|at| self.before.get(at as usize)).copied();
        let Some((from, to)) = before(block + 1).zip(before(last)) else { return Ok(None) };
        let rest = match self.rest.get(&start) {
            Some(rest) => *rest,
            None => {
                let rest = count(reader, backlog, start, (block + 1) * BLOCK)?;
                self.rest.insert(start, rest);
                rest
            }
        };
        Ok(Some(rest + (to - from) + self.newest(reader, backlog, last * BLOCK)?))
    }

    /// From a position in the block of the head to the head.
    fn newest(&mut self, reader: &mut dyn Reader, backlog: &Backlog, from: TaskId) -> Result<u64, StoreError> {
        if let Some(newest) = self.newest.get(&from) {
            return Ok(*newest);
        }
        let newest = count(reader, backlog, from, backlog.upto)?;
        self.newest.insert(from, newest);
        Ok(newest)
    }
}
