//! How all threads learn that it is time to stop.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

/// Asks a running worker to stop. Cheap to clone; for a signal handler's thread, for example.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Mutex<Option<Sender<Infallible>>>>);

/// Nothing is ever sent on it. It disconnects when it is time to stop, for all who hold a clone.
pub(super) type Stopped = Receiver<Infallible>;

impl Stopper {
    pub(super) fn new() -> (Stopper, Stopped) {
        let (sender, stopped) = bounded(0);
        (Stopper(Arc::new(Mutex::new(Some(sender)))), stopped)
    }

    /// Asks for a graceful stop: running tasks are finished, their results are sent. Returns at once; asking twice is fine.
    pub fn stop(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether it was asked to.
    pub(super) fn is_stopping(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

/// Stoppers of the same worker are equal.
impl PartialEq for Stopper {
    fn eq(&self, other: &Stopper) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Stopper {}
