//! How a handler learns that its task was taken from this client.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use crossbeam_channel::Receiver;

use super::stopper::{Stopped, Stopper};

/// Why a task was taken from the client that works on it: what comes of it here changes nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Revoked {
    /// An operator cancelled it.
    Cancelled,
    /// Its time is over.
    Expired,
    /// Its lease ended, and another client was given it.
    GivenToAnother,
    /// Work on it took longer than it may, and the server was told so.
    TimedOut,
}

/// One for each task. Clones are of the same task.
#[derive(Debug, Clone)]
pub(super) struct Revocation {
    why: Arc<OnceLock<Revoked>>,
    stopper: Stopper,
    over: Stopped,
}

impl Revocation {
    pub(super) fn new() -> Revocation {
        let (stopper, over) = Stopper::new();
        Revocation { why: Arc::default(), stopper, over }
    }

    pub(super) fn revoke(&self, why: Revoked) {
        let _ = self.why.set(why);
        self.stopper.stop();
    }

    pub(super) fn why(&self) -> Option<Revoked> {
        self.why.get().copied()
    }

    pub(super) fn over(&self) -> &Receiver<Infallible> {
        &self.over
    }
}

/// It is no part of what a task is.
impl PartialEq for Revocation {
    fn eq(&self, _: &Revocation) -> bool {
        true
    }
}

impl Eq for Revocation {}
