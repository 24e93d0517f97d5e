//! Operators' reads, on a few threads with read-only connections, so that neither the broker nor a completion queue waits
//! for the disk.

use std::thread::JoinHandle;

use futures::channel::oneshot;

use crate::mailbox;
use crate::store::{self, Reader, StoreError};

/// Reads waiting for a thread. When it is full, those who ask wait.
const WAITING: usize = 64;
const THREADS: usize = 2;

/// `None`: the thread ends. It does not wait for all who could ask to be gone: a call that hangs may never be.
type Job = Option<Box<dyn FnOnce(&mut dyn Reader) + Send>>;

/// The threads. Owns them until [`Pool::stop`].
pub(super) struct Pool {
    queries: Queries,
    changes: Queries,
    threads: Vec<JoinHandle<()>>,
}

/// Asks the pool. Cheap to clone.
#[derive(Clone)]
pub(super) struct Queries {
    jobs: mailbox::Sender<Job>,
}

impl Pool {
    pub(super) fn start(store: &store::Handle) -> Result<Pool, StoreError> {
        let mut threads = Vec::new();
        let mut start = |name: &str, count: usize| {
            let (jobs, waiting) = mailbox::bounded::<Job>(WAITING);
            let waiting = std::sync::Arc::new(waiting);
            for n in 0..count {
                let mut reader = store.reader()?;
                let waiting = waiting.clone();
                let work = move || {
                    while let Some(Some(job)) = waiting.recv() {
                        job(reader.as_mut());
                    }
                };
                let thread = std::thread::Builder::new().name(format!("{name}-{n}")).spawn(work);
                threads.push(thread.map_err(StoreError::no_thread)?);
            }
            Ok::<_, StoreError>(Queries { jobs })
        };
        let (queries, changes) = (start("query", THREADS)?, start("change", 1)?);
        Ok(Pool { queries, changes, threads })
    }

    pub(super) fn queries(&self) -> Queries {
        self.queries.clone()
    }

    /// By a thread of its own: for what waits until something is written, which may be long, and no read is to wait for that.
    pub(super) fn changes(&self) -> Queries {
        self.changes.clone()
    }

    /// Does what was asked before, and joins the threads. Dropping it does the same.
    pub(super) fn stop(self) {}
}

impl Drop for Pool {
    fn drop(&mut self) {
        for _ in 0..THREADS {
            let _ = self.queries.jobs.send(None);
        }
        let _ = self.changes.jobs.send(None);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a query thread panicked");
            }
        }
    }
}

impl Queries {
    /// Runs a read on one of the threads.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut dyn Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Some(Box::new(move |reader| drop(reply.send(read(reader)))));
        self.jobs.send_async(job).await.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}
