//! A store for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::store::{
    Backend, Batch, Keyed, Memory, OpenReader, Positions, Recovered, Removal, Removed, Slot, StoreError,
};
use crate::task::{GroupName, Outcome, Task, TaskId};

/// A store in memory whose next write of a run, or of a schedule, fails, on demand, though it is there.
#[derive(Clone, Default)]
pub(super) struct FailsAfterWriting {
    rows: Memory,
    pub(super) fails: Arc<AtomicBool>,
}

impl Backend for FailsAfterWriting {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        self.rows.recover()
    }

    fn find_key(&mut self, key: &str) -> Result<Option<Keyed>, StoreError> {
        self.rows.find_key(key)
    }

    fn newest_of(&mut self, slot: &Slot) -> Result<Option<Task>, StoreError> {
        self.rows.newest_of(slot)
    }

    fn has_task(&mut self, task: TaskId) -> Result<bool, StoreError> {
        self.rows.has_task(task)
    }

    fn last_outcome(&mut self, group: &GroupName, task: TaskId) -> Result<Option<Outcome>, StoreError> {
        self.rows.last_outcome(group, task)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.rows.commit(batch)?;
        let is_of_these = !batch.runs.is_empty() || !batch.schedules.is_empty();
        match is_of_these && self.fails.swap(false, Relaxed) {
            true => Err(StoreError::Full { path: "/the/disk".into() }),
            false => Ok(()),
        }
    }

    fn reopen(&mut self) -> Result<Positions, StoreError> {
        self.rows.reopen()
    }

    fn remove(&mut self, removal: &Removal) -> Result<Removed, StoreError> {
        self.rows.remove(removal)
    }

    fn reader(&self) -> OpenReader {
        self.rows.reader()
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}
