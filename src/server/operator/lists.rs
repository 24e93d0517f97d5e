//! Logs that operators go through, page by page.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Operator;
use crate::store::{Positions, Reader, StoreError};
use crate::task::{GroupName, Outcome, Status, Task, TaskId, TaskResult};

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
    pub(in crate::server) filter: Filter,
}

/// Which rows of a log are wanted. What does not apply to a log is not looked at there.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::server) struct Filter {
    /// Tasks that are addressed to it; outcomes for it.
    pub(in crate::server) group: Option<GroupName>,
    /// Outcomes of this task.
    pub(in crate::server) task: Option<TaskId>,
    /// What this client said: its id or its address. Empty: any.
    pub(in crate::server) client: String,
    /// With this in the text. Empty: any.
    pub(in crate::server) text: String,
    pub(in crate::server) outcome: Option<Outcome>,
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
    fn is_wanted(row: &Self::Row, filter: &Filter) -> bool;

    /// All rows of a task, where they can be had without going through the log.
    fn of_task(_: &mut dyn Reader, _: TaskId) -> Result<Option<Vec<Self::Row>>, StoreError> {
        Ok(None)
    }
}

macro_rules! logs {
    ($($(#[$doc:meta])* $log:ident: $row:ident = $read:ident, $newest:ident, $position:ident, $is_wanted:ident
        $(, $of_task:ident)?;)*) => {$(
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

            fn is_wanted(row: &$row, filter: &Filter) -> bool {
                filter.$is_wanted(row)
            }
            $(
                fn of_task(reader: &mut dyn Reader, task: TaskId) -> Result<Option<Vec<$row>>, StoreError> {
                    reader.$of_task(task).map(Some)
                }
            )?
        }
    )*};
}

logs! {
    /// The tasks, in the order of their ids.
    Tasks: Task = tasks, task, id, wants_task;
    /// The outcomes, in the order they came in.
    Results: TaskResult = results, result, seq, wants_result, results_of;
    /// What clients reported, in the order it came in.
    Statuses: Status = statuses, status, seq, wants_status;
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
        let page = reader.dead(after, self.0.as_ref(), limit)?;
        Ok((page.last().map(|entry| entry.seq), page))
    }

    fn is_wanted(row: &TaskResult, filter: &Filter) -> bool {
        filter.wants_result(row)
    }
}

impl Filter {
    fn wants_task(&self, task: &Task) -> bool {
        let is_named = |group: &GroupName| task.spec.names(group) == Some(true);
        self.group.as_ref().is_none_or(is_named) && task.spec.text.contains(&self.text)
    }

    fn wants_result(&self, TaskResult { result, .. }: &TaskResult) -> bool {
        (self.group.is_none() || self.group == result.group)
            && self.task.is_none_or(|task| task == result.task)
            && (self.client.is_empty() || *self.client == *result.client)
            && self.outcome.is_none_or(|outcome| outcome == result.outcome)
            && result.ret.contains(&self.text)
    }

    fn wants_status(&self, Status { status, .. }: &Status) -> bool {
        (self.client.is_empty() || *self.client == *status.client) && status.msg.contains(&self.text)
    }
}

/// A list that is being read.
pub(in crate::server) struct List<L> {
    operator: Operator,
    log: L,
    filter: Arc<Filter>,
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
        let (operator, after, follow, filter) = (self.clone(), range.after, range.follow, Arc::new(range.filter));
        let mut list = List { operator, log, filter, after, end, left, follow, at_end: false };
        if let Some(latest) = range.latest {
            let before = if L::SPARSE || *list.filter != Filter::default() {
                list.before_latest(latest).await?
            } else {
                end.saturating_sub(latest as u64)
            };
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

    /// The wanted ones of the next rows, at most that many.
    async fn read(&self, after: u64, limit: usize) -> Result<Page<L::Row>, StoreError> {
        let (log, filter) = (self.log.clone(), self.filter.clone());
        let read = move |reader: &mut dyn Reader| {
            let of_task = filter.task.map(|task| L::of_task(reader, task)).transpose()?.flatten();
            let (mut last, mut rows) = match of_task {
                Some(mut rows) => {
                    rows.retain(|row| L::position(row) > after);
                    (rows.last().map(L::position), rows)
                }
                None => log.read(reader, after, if *filter == Filter::default() { limit } else { PAGE })?,
            };
            rows.retain(|row| L::is_wanted(row, &filter));
            if rows.len() > limit {
                rows.truncate(limit);
                last = rows.last().map(L::position);
            }
            Ok((last, rows))
        };
        self.operator.queries.run(read).await
    }

    /// The position before the latest rows of a list that does not have every position. Nobody knows how far back they are: the log
    /// is gone through backwards in parts, each twice as long as the one after it.
    async fn before_latest(&self, latest: usize) -> Result<u64, StoreError> {
        let (mut end, mut part, mut positions) = (self.end, PAGE as u64, VecDeque::new());
        while end > 0 && positions.len() < latest {
            let begin = end.saturating_sub(part);
            let (mut after, mut found) = (begin, VecDeque::new());
            while after < end {
                let (Some(last), rows) = self.read(after, PAGE).await? else { break };
                after = last;
                found.extend(rows.iter().map(L::position).filter(|position| *position <= end));
                found.drain(..found.len().saturating_sub(latest - positions.len()));
            }
            found.append(&mut positions);
            (positions, end, part) = (found, begin, part.saturating_mul(2));
        }
        Ok(positions.front().map_or(self.end, |first| first - 1))
    }
}
