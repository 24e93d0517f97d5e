//! Moves what was committed from the write-ahead log into the database, beside the writer.

use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender};
use rusqlite::Connection;

use super::explain;
use crate::store::{Batch, StoreError};

/// About how many bytes of log are worth the two syncs of a checkpoint.
const WORTH_IT: usize = 4 << 20;

/// Pages of log at which the writer finishes a checkpoint by itself.
///
/// A log starts from its beginning only after a checkpoint has caught up with it, which one beside a busy writer never does. The
/// writer has no one to catch up with, and little to do, since the thread has done most of it: so the log stays at about 64 MiB.
const AT_MOST: u32 = 16 * 1024;

pub(super) fn leave_to_thread(writer: &Connection) -> rusqlite::Result<()> {
    writer.pragma_update_and_check(None, "wal_autocheckpoint", AT_MOST, |_| Ok(()))
}

/// The thread `store-checkpoint`, and when to wake it.
pub(super) struct Checkpointer {
    /// Holds one ring: while that waits to be heard, there is no need for another. `None` when stopping.
    doorbell: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Bytes written since the last ring, roughly.
    written: usize,
}

impl Checkpointer {
    pub(super) fn start(path: &Arc<Path>) -> Result<Checkpointer, StoreError> {
        let conn = Connection::open(path).map_err(explain(path))?;
        let (doorbell, rings) = crossbeam_channel::bounded(1);
        let thread = thread::Builder::new().name("store-checkpoint".into()).spawn(move || run(&conn, &rings));
        let thread = thread.map_err(StoreError::thread)?;
        Ok(Checkpointer { doorbell: Some(doorbell), thread: Some(thread), written: 0 })
    }

    /// Takes note of a commit.
    pub(super) fn written(&mut self, batch: &Batch) {
        // Whole pages are written: a few for each commit, and rows with all their columns and index entries beside the text.
        let texts =
            batch.tasks.iter().map(|task| task.spec.text.len()).chain(batch.results.iter().map(|r| r.result.ret.len()));
        let texts = texts.chain(batch.statuses.iter().map(|s| s.status.msg.len()));
        self.written += 16 * 1024 + texts.map(|text| text + 64).sum::<usize>();
        if self.written >= WORTH_IT
            && let Some(doorbell) = &self.doorbell
        {
            self.written = 0;
            let _ = doorbell.try_send(());
        }
    }

    pub(super) fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.doorbell = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.join();
    }
}

fn run(conn: &Connection, rings: &Receiver<()>) {
    for () in rings {
        // A failure here loses nothing: what is committed stays in the log, and the writer will meet the same trouble.
        if let Err(error) = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            log::warn!("moving the write-ahead log into the database: {error}");
        }
    }
}
