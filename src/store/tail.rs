//! The newest tasks, in memory.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::Positions;
use crate::task::{GroupName, Task, TaskId};

/// Bytes of tasks that are kept: a broker that lags by less need not read the disk.
const KEPT_BYTES: usize = 16 << 20;

/// Groups of which what was skipped is counted: 3 MB at most.
const COUNTED: usize = 10_000;

/// Of so many it is remembered who took their place: 16 MB.
const MOST_REPLACED: usize = 1_000_000;

type Subscriber = Box<dyn Fn(&Positions) + Send + Sync>;

/// The newest tasks that are on disk, kept in memory for readers that do not lag far; 16 MiB of them, the oldest dropped.
pub struct Tail {
    task: AtomicU64,
    result: AtomicU64,
    status: AtomicU64,
    /// The last task that was handed over.
    taken: AtomicU64,
    kept: RwLock<Kept>,
    subscribers: Mutex<Vec<Subscriber>>,
}

/// Every task after `after`, without a gap.
struct Kept {
    after: TaskId,
    tasks: VecDeque<Arc<Task>>,
    bytes: usize,
    /// What was dropped before it was handed over.
    skipped: Skipped,
}

/// Tasks that were not handed over, counted by priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The last of them.
    pub head: TaskId,
    /// Those for everyone.
    pub broadcasts: [u64; 3],
    /// Those for each group. `None`: for more than ten thousand groups, so that they are not counted.
    pub addressed: Option<HashMap<GroupName, [u64; 3]>>,
    /// Tasks that were handed over before, each with the one of these that took its place. Of more than a million some may be given
    /// out all the same, before that one.
    pub replaced: Vec<(TaskId, TaskId)>,
    /// The first of them.
    first: Option<TaskId>,
}

/// Nothing was skipped.
impl Default for Skipped {
    fn default() -> Skipped {
        let (head, broadcasts, addressed) = (0, [0; 3], Some(HashMap::new()));
        Skipped { head, broadcasts, addressed, replaced: Vec::new(), first: None }
    }
}

impl Skipped {
    /// Counts the next task.
    pub fn add(&mut self, task: &Task) {
        self.head = task.id;
        let first = *self.first.get_or_insert(task.id);
        if let Some(old) = task.spec.replaces().filter(|old| *old < first)
            && self.replaced.len() < MOST_REPLACED
        {
            self.replaced.push((old, task.id));
        }
        let priority = task.spec.priority as usize;
        let (Some(to), Some(addressed)) = (&task.spec.to, &mut self.addressed) else {
            self.broadcasts[priority] += u64::from(task.spec.to.is_none());
            return;
        };
        if let Some(counts) = addressed.get_mut(to) {
            counts[priority] += 1;
        } else if addressed.len() < COUNTED {
            addressed.entry(to.clone()).or_default()[priority] = 1;
        } else {
            self.addressed = None;
        }
    }
}

impl Tail {
    pub(super) fn new(positions: Positions) -> Tail {
        Tail {
            task: positions.task.into(),
            result: positions.result.into(),
            status: positions.status.into(),
            taken: positions.task.into(),
            kept: RwLock::new(Kept {
                after: positions.task,
                tasks: VecDeque::new(),
                bytes: 0,
                skipped: Skipped::default(),
            }),
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
    /// older than what is kept here, and a reader has them. For one that takes all tasks, in their order.
    pub fn since(&self, after: TaskId, max_bytes: usize) -> Option<Vec<Arc<Task>>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let skip = usize::try_from(after.checked_sub(kept.after)?).unwrap_or(usize::MAX).min(kept.tasks.len());
        let mut bytes = 0;
        let fits = kept.tasks.range(skip..).take_while(|task| {
            let first = bytes == 0;
            bytes += size(task);
            first || bytes <= max_bytes
        });
        let tasks: Vec<_> = fits.cloned().collect();
        if let Some(last) = tasks.last() {
            self.taken.store(last.id, Release);
        }
        Some(tasks)
    }

    /// Goes on behind the newest task, for the one that takes all; says what that leaves out, which is what comes after `after`.
    pub fn skip(&self, after: TaskId) -> Skipped {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let mut skipped = std::mem::take(&mut kept.skipped);
        kept.tasks.iter().filter(|task| task.id > after).for_each(|task| skipped.add(task));
        self.taken.store(skipped.head, Release);
        skipped
    }

    /// Has `news` called after every commit, also a failed one, with how far the logs go. It runs on the writer thread:
    /// it must not wait, nor subscribe. It is dropped when the store is closed.
    pub fn subscribe(&self, news: Box<dyn Fn(&Positions) + Send + Sync>) {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push(news);
    }

    /// Tasks first, positions second: a caller that sees a position finds its tasks.
    pub(super) fn extend(&self, tasks: Vec<Arc<Task>>, positions: &Positions) {
        if !tasks.is_empty() {
            self.kept.write().unwrap_or_else(PoisonError::into_inner).extend(tasks, self.taken.load(Acquire));
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
    fn extend(&mut self, tasks: Vec<Arc<Task>>, taken: TaskId) {
        self.bytes += tasks.iter().map(|task| size(task)).sum::<usize>();
        self.tasks.extend(tasks);
        while self.bytes > KEPT_BYTES
            && let Some(oldest) = self.tasks.pop_front()
        {
            self.bytes -= size(&oldest);
            self.after = oldest.id;
            if oldest.id > taken {
                self.skipped.add(&oldest);
            }
        }
    }
}

/// About what a task takes in memory, in bytes: its texts, and what is around them.
fn size(task: &Task) -> usize {
    size_of::<Task>()
        + 32
        + task.spec.bytes()
        + task.spec.key.as_ref().map_or(0, String::len)
        + task.spec.audience.as_ref().map_or(0, |audience| audience.size())
        + task.spec.replace.as_ref().map_or(0, |replace| replace.size())
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.positions().fmt(f)
    }
}
