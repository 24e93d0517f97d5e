//! Whether the server takes work, for those who ask from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::store;

/// How the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It takes work.
    Serving,
    /// It is stopping.
    Draining,
    /// A write failed, in this way: nothing is accepted until the server is started again.
    StoreFailed(String),
}

/// Knows how the server is. Cheap to clone.
#[derive(Clone)]
pub(super) struct Health {
    store: store::Handle,
    draining: Arc<AtomicBool>,
}

impl Health {
    pub(super) fn of(store: store::Handle) -> Health {
        Health { store, draining: Arc::default() }
    }

    /// The server is stopping from now on.
    pub(super) fn begin_drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    pub(super) fn state(&self) -> State {
        match self.store.failure() {
            Some(why) => State::StoreFailed(why),
            None if self.draining.load(Ordering::SeqCst) => State::Draining,
            None => State::Serving,
        }
    }
}
