//! The newest tasks, in memory.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::Positions;
use crate::task::{Task, TaskId};

/// Bytes of tasks that are kept: a broker that lags by less need not read the disk.
const KEPT_BYTES: usize = 16 << 20;

type Subscriber = Box<dyn Fn(&Positions) + Send + Sync>;

/// The newest tasks that are on disk, kept in memory for readers that do not lag far; 16 MiB of them, the oldest dropped.
pub struct Tail {
    task: AtomicU64,
    result: AtomicU64,
    status: AtomicU64,
    kept: RwLock<Kept>,
    subscribers: Mutex<Vec<Subscriber>>,
}

/// Every task after `after`, without a gap.
struct Kept {
    after: TaskId,
    tasks: VecDeque<Arc<Task>>,
    bytes: usize,
}

impl Tail {
    pub(super) fn new(positions: Positions) -> Tail {
        Tail {
            task: positions.task.into(),
            result: positions.result.into(),
            status: positions.status.into(),
            kept: RwLock::new(Kept { after: positions.task, tasks: VecDeque::new(), bytes: 0 }),
            subscribers: Mutex::default(),
        }
    }

    /// How far the logs go on disk. Tasks up to `task` can be had from [`since`](Tail::since) or a reader.
    pub fn positions(&self) -> Positions {
        Positions {
            task: self.task.load(Acquire),
            result: self.result.load(Acquire),
            status: self.status.load(Acquire),
        }
    }

    /// The tasks after `after`, in order: at most `max_bytes` of them, but at least one if there is one. `None`: they are
    /// older than what is kept here, and a reader has them.
    pub fn since(&self, after: TaskId, max_bytes: usize) -> Option<Vec<Arc<Task>>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let skip = usize::try_from(after.checked_sub(kept.after)?).unwrap_or(usize::MAX).min(kept.tasks.len());
        let mut bytes = 0;
        let fits = kept.tasks.range(skip..).take_while(|task| {
            let first = bytes == 0;
            bytes += size(task);
            first || bytes <= max_bytes
        });
        Some(fits.cloned().collect())
    }

    /// Has `news` called after every commit, also a failed one, with how far the logs go. It runs on the writer thread:
    /// it must not wait, nor subscribe. It is dropped when the store is closed.
    pub fn subscribe(&self, news: Box<dyn Fn(&Positions) + Send + Sync>) {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push(news);
    }

    /// Tasks first, positions second: a caller that sees a position finds its tasks.
    pub(super) fn extend(&self, tasks: Vec<Arc<Task>>, positions: &Positions) {
        if !tasks.is_empty() {
            self.kept.write().unwrap_or_else(PoisonError::into_inner).extend(tasks);
        }
        self.task.store(positions.task, Release);
        self.result.store(positions.result, Release);
        self.status.store(positions.status, Release);
    }

    pub(super) fn announce(&self) {
        let positions = self.positions();
        for news in self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            news(&positions);
        }
    }

    /// Drops the subscribers, and with them what they hold.
    pub(super) fn close(&self) {
        let subscribers = std::mem::take(&mut *self.subscribers.lock().unwrap_or_else(PoisonError::into_inner));
        drop(subscribers);
    }
}

impl Kept {
    fn extend(&mut self, tasks: Vec<Arc<Task>>) {
        self.bytes += tasks.iter().map(|task| size(task)).sum::<usize>();
        self.tasks.extend(tasks);
        while self.bytes > KEPT_BYTES
            && let Some(oldest) = self.tasks.pop_front()
        {
            self.bytes -= size(&oldest);
            self.after = oldest.id;
        }
    }
}

/// About what a task takes in memory, in bytes: its texts, and what is around them.
fn size(task: &Task) -> usize {
    size_of::<Task>() + 32 + task.spec.text.len() + task.spec.key.as_ref().map_or(0, String::len)
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.positions().fmt(f)
    }
}
