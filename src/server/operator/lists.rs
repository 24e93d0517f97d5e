//! Logs that operators go through, page by page.

use std::collections::VecDeque;

use super::Operator;
use super::dead::dead_after;
use crate::store::{Positions, Reader, StoreError};
use crate::task::{GroupName, Status, Task, TaskResult};

/// Rows read at once.
const PAGE: usize = 500;

/// Which part of a log is wanted.
pub(in crate::server) struct Range {
    /// Only what comes after this position.
    pub(in crate::server) after: u64,
    /// Most rows; `None`: all.
    pub(in crate::server) limit: Option<usize>,
    /// Begin this many rows before the end, if that is later than `after`.
    pub(in crate::server) latest: Option<usize>,
    /// Wait at the end for more.
    pub(in crate::server) follow: bool,
}

/// Rows after a position, and the last position that was looked at. `None`: there is nothing after it.
type Page<R> = (Option<u64>, Vec<R>);

/// A log, or a choice of its rows.
pub(in crate::server) trait Log: Clone + Send + Sync + 'static {
    type Row: Send + 'static;
    /// Whether there are positions without a row. Then the latest rows are found by going through all of them.
    const SPARSE: bool = false;

    fn newest(at: &Positions) -> u64;
    fn position(row: &Self::Row) -> u64;
    fn read(&self, reader: &mut dyn Reader, after: u64, limit: usize) -> Result<Page<Self::Row>, StoreError>;
}

macro_rules! logs {
    ($($(#[$doc:meta])* $log:ident: $row:ident = $read:ident, $newest:ident, $position:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone)]
        pub(in crate::server) struct $log;

        impl Log for $log {
            type Row = $row;

            fn newest(at: &Positions) -> u64 {
                at.$newest
            }

            fn position(row: &$row) -> u64 {
                row.$position
            }

            fn read(&self, reader: &mut dyn Reader, after: u64, limit: usize) -> Result<Page<$row>, StoreError> {
                let rows = reader.$read(after, limit)?;
                Ok((rows.last().map(Self::position), rows))
            }
        }
    )*};
}

logs! {
    /// The tasks, in the order of their ids.
    Tasks: Task = tasks, task, id;
    /// The outcomes, in the order they came in.
    Results: TaskResult = results, result, seq;
    /// What clients reported, in the order it came in.
    Statuses: Status = statuses, status, seq;
}

/// The outcomes by which tasks were given up, of one group or of all.
#[derive(Clone)]
pub(in crate::server) struct DeadLetters(pub(in crate::server) Option<GroupName>);

impl Log for DeadLetters {
    type Row = TaskResult;
    const SPARSE: bool = true;

    fn newest(at: &Positions) -> u64 {
        at.result
    }

    fn position(row: &TaskResult) -> u64 {
        row.seq
    }

    fn read(&self, reader: &mut dyn Reader, after: u64, limit: usize) -> Result<Page<TaskResult>, StoreError> {
        dead_after(reader, after, self.0.as_ref(), limit)
    }
}

/// A list that is being read.
pub(in crate::server) struct List<L> {
    operator: Operator,
    log: L,
    after: u64,
    /// Where the log ended when the list began. Without `follow`, what comes later is not waited for.
    end: u64,
    left: usize,
    follow: bool,
    at_end: bool,
}

impl Operator {
    /// Begins to read a list.
    pub(in crate::server) async fn list<L: Log>(&self, log: L, range: Range) -> Result<List<L>, StoreError> {
        let end = L::newest(&self.store.tail().positions());
        let left = range.limit.unwrap_or(usize::MAX);
        let (operator, after, follow) = (self.clone(), range.after, range.follow);
        let mut list = List { operator, log, after, end, left, follow, at_end: false };
        if let Some(latest) = range.latest {
            let before = if L::SPARSE { list.before_latest(latest).await? } else { end.saturating_sub(latest as u64) };
            list.after = after.max(before);
        }
        Ok(list)
    }
}

impl<L: Log> List<L> {
    /// The next rows, which may be none. `None`: the list is at its end.
    pub(in crate::server) async fn next(&mut self) -> Result<Option<Vec<L::Row>>, StoreError> {
        if self.at_end || self.left == 0 {
            return Ok(None);
        }
        // Up to here, what the list does not show by now was removed, or is not of its kind: it counts as read.
        let upto = self.newest();
        let (last, rows) = self.read(self.after, self.left.min(PAGE)).await?;
        self.after = last.unwrap_or(self.after.max(upto));
        self.left = self.left.saturating_sub(rows.len());
        self.at_end = !self.follow && self.after >= self.end;
        Ok(Some(rows))
    }

    /// Whether it goes on when there is something new.
    pub(in crate::server) fn waits(&self) -> bool {
        self.follow && self.left > 0
    }

    pub(in crate::server) fn has_news(&self) -> bool {
        self.newest() > self.after
    }

    fn newest(&self) -> u64 {
        L::newest(&self.operator.store.tail().positions())
    }

    async fn read(&self, after: u64, limit: usize) -> Result<Page<L::Row>, StoreError> {
        let log = self.log.clone();
        self.operator.queries.run(move |reader| log.read(reader, after, limit)).await
    }

    /// The position before the latest rows of a sparse list, which is gone through for it.
    async fn before_latest(&self, latest: usize) -> Result<u64, StoreError> {
        let (mut after, mut positions) = (0, VecDeque::new());
        while let (Some(last), rows) = self.read(after, PAGE).await? {
            after = last;
            positions.extend(rows.iter().map(L::position));
            positions.drain(..positions.len().saturating_sub(latest));
        }
        Ok(positions.front().map_or(0, |first| first - 1))
    }
}
