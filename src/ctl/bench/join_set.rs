//! Many futures on the threads of gRPC, and the one thread that waits for them.

use crossbeam_channel::{Receiver, Sender, bounded};

use super::progress::Progress;
use crate::ctl::Error;

/// Futures that each come to a result.
pub(super) struct JoinSet<T> {
    done: Sender<Result<T, Error>>,
    results: Receiver<Result<T, Error>>,
    running: usize,
}

impl<T: Send + 'static> JoinSet<T> {
    /// For at most `size` futures.
    pub(super) fn new(size: usize) -> JoinSet<T> {
        let (done, results) = bounded(size);
        JoinSet { done, results, running: 0 }
    }

    /// Runs a future on the threads of `client`.
    pub(super) fn spawn(
        &mut self,
        client: &grpcio::Client,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) {
        self.running += 1;
        let done = self.done.clone();
        client.spawn(async move {
            let result = work.await;
            // There is room for each of them; it fails only if the measurement was given up.
            let _ = done.try_send(result);
        });
    }

    /// Waits for all of them, or for the first that fails.
    pub(super) fn wait(self, progress: &mut Progress) -> Result<Vec<T>, Error> {
        (0..self.running).map(|_| progress.wait(&self.results)?).collect()
    }
}
