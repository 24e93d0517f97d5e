//! The backend as the writer uses it: a lock that another program holds is waited for.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use log::{info, warn};

use super::{
    Backend, Batch, Condition, Keyed, LONG_WAIT, Positions, Removal, Removed, Shared, Slot, Space, StoreError,
};
use crate::task::{GroupName, Outcome, Task, TaskId};

/// How long a lock is still waited for when the store is about to be closed.
const CLOSING: Duration = Duration::from_secs(5);
/// Between two tries. SQLite waits for most locks by itself, but not for all.
const BETWEEN: Duration = Duration::from_millis(20);

pub(super) struct Patient {
    backend: Box<dyn Backend>,
    shared: Arc<Shared>,
    /// Disconnected when the store is about to be closed.
    closes: Receiver<()>,
}

impl Patient {
    pub(super) fn new(backend: Box<dyn Backend>, shared: Arc<Shared>, closes: Receiver<()>) -> Patient {
        Patient { backend, shared, closes }
    }

    pub(super) fn find_key(&mut self, key: &str) -> Result<Option<Keyed>, StoreError> {
        self.wait_for(|backend| backend.find_key(key))
    }

    pub(super) fn newest_of(&mut self, slot: &Slot) -> Result<Option<Task>, StoreError> {
        self.wait_for(|backend| backend.newest_of(slot))
    }

    pub(super) fn has_task(&mut self, task: TaskId) -> Result<bool, StoreError> {
        self.wait_for(|backend| backend.has_task(task))
    }

    pub(super) fn last_outcome(&mut self, group: &GroupName, task: TaskId) -> Result<Option<Outcome>, StoreError> {
        self.wait_for(|backend| backend.last_outcome(group, task))
    }

    pub(super) fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.wait_for(|backend| backend.commit(batch))
    }

    pub(super) fn remove(&mut self, removal: &Removal) -> Result<Removed, StoreError> {
        self.wait_for(|backend| backend.remove(removal))
    }

    pub(super) fn prove(&mut self) -> Result<(), StoreError> {
        self.wait_for(|backend| backend.prove())
    }

    pub(super) fn space(&self) -> Option<(PathBuf, Space)> {
        self.backend.space()
    }

    pub(super) fn set_aside(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.backend.set_aside(bytes)
    }

    /// Tried again by the writer, which does something else meanwhile.
    pub(super) fn reopen(&mut self) -> Result<Positions, StoreError> {
        self.backend.reopen()
    }

    pub(super) fn close(self) -> Result<(), StoreError> {
        self.backend.close()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closes.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Returns early when the store is about to be closed.
    pub(super) fn pause(&self, until: Instant) {
        let _ = self.closes.recv_deadline(until);
    }

    /// Tries as long as another program holds the lock, however long that is.
    fn wait_for<T>(
        &mut self,
        mut work: impl FnMut(&mut dyn Backend) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut wait: Option<Wait> = None;
        let mut closing: Option<Instant> = None;
        loop {
            let path = match work(&mut *self.backend) {
                Err(StoreError::InUse { path }) => path,
                Ok(done) => {
                    if let Some(wait) = wait {
                        self.shared.set_condition(Condition::Good);
                        info!("the store goes on: the lock was free after {:.1} s", wait.since.elapsed().as_secs_f64());
                        self.shared.tail.announce();
                    }
                    return Ok(done);
                }
                // The writer says so.
                failed => return failed,
            };
            if self.is_closing() && closing.get_or_insert_with(Instant::now).elapsed() > CLOSING {
                return Err(StoreError::InUse { path });
            }
            wait.get_or_insert_with(|| Wait::begin(&self.shared, path)).go_on(&self.shared);
            thread::sleep(BETWEEN);
        }
    }
}

/// A lock that is waited for.
struct Wait {
    since: Instant,
    said: bool,
}

impl Wait {
    fn begin(shared: &Shared, path: PathBuf) -> Wait {
        warn!("another process has locked {}: what comes waits until it ends its transaction", path.display());
        let since = Instant::now();
        shared.set_condition(Condition::Locked { since, path });
        Wait { since, said: false }
    }

    /// When it has become long, those who watch learn of it.
    fn go_on(&mut self, shared: &Shared) {
        if !self.said && self.since.elapsed() >= LONG_WAIT {
            self.said = true;
            shared.tail.announce();
        }
    }
}
