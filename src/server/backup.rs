//! A backup as a call: it is made on a thread of its own, and tells how it goes for as long as somebody listens.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures::channel::{mpsc, oneshot};

use super::refusal::Refusal;
use crate::store::{self, BackedUp, BackupProgress, StoreError};

/// How often it tells.
const EVERY: Duration = Duration::from_millis(200);

/// A backup that is being made. When it is dropped, that stops.
pub(super) struct Backup {
    pub(super) progress: mpsc::Receiver<BackupProgress>,
    done: oneshot::Receiver<Result<BackedUp, Refusal>>,
}

impl Backup {
    pub(super) fn begin(store: store::Handle, to: PathBuf) -> Result<Backup, Refusal> {
        let (tell, progress) = mpsc::channel(1);
        let (end, done) = oneshot::channel();
        let tell = Mutex::new((tell, None::<Instant>));
        let goes_on = move |progress| {
            let (tell, told) = &mut *tell.lock().unwrap_or_else(PoisonError::into_inner);
            if told.is_none_or(|told| told.elapsed() >= EVERY) {
                *told = Some(Instant::now());
                // One that waits is as good.
                let _ = tell.try_send(progress);
            }
            !tell.is_closed()
        };
        let work = move || {
            log::info!("a backup is made: {}", to.display());
            let done = store.back_up(&to, Arc::new(goes_on));
            match &done {
                Ok(done) => log::info!("the backup {} is there, {} bytes, and is good", to.display(), done.bytes),
                Err(why) => log::warn!("there is no backup {}: {why}", to.display()),
            }
            let _ = end.send(done.map_err(Refusal::from));
        };
        thread::Builder::new().name("backup".into()).spawn(work).map_err(StoreError::no_thread)?;
        Ok(Backup { progress, done })
    }

    /// What came of it.
    pub(super) async fn end(self) -> Result<BackedUp, Refusal> {
        self.done.await.unwrap_or_else(|_| Err(Refusal::stopping(1)))
    }
}
