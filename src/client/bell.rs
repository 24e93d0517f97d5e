//! Waiting for gRPC, channels and time in one `select!`.

use std::sync::Arc;
use std::task::{Wake, Waker};

use crossbeam_channel::{Receiver, Sender, bounded};

/// A channel that rings whenever a future that was polled with its waker can go on.
///
/// A thread polls its gRPC futures, then selects over this channel and its others; so it owns what it works on, needs
/// no lock, and nothing of it runs on a completion-queue thread. One slot: a second ring before the first is heard
/// says nothing new.
pub(super) struct Bell {
    /// Receives when something can go on.
    pub(super) rung: Receiver<()>,
    /// To poll futures with.
    pub(super) waker: Waker,
}

struct Clapper(Sender<()>);

impl Wake for Clapper {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let _ = self.0.try_send(());
    }
}

impl Bell {
    pub(super) fn new() -> Bell {
        let (ring, rung) = bounded(1);
        Bell { rung, waker: Waker::from(Arc::new(Clapper(ring))) }
    }
}
