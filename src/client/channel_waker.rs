//! How one `select!` waits for gRPC, channels and time.

use std::sync::Arc;
use std::task::{Wake, Waker};

use crossbeam_channel::{Receiver, Sender, bounded};

/// A waker that sends into a channel when a future that was polled with it can go on.
///
/// A thread polls its gRPC futures, then selects over this channel and its others. So it owns its data, needs no lock, and
/// nothing of it runs on a completion-queue thread. One slot is enough: a second message would say nothing new.
pub(super) struct ChannelWaker {
    /// Receives when something can go on.
    pub(super) woken: Receiver<()>,
    /// To poll futures with.
    pub(super) waker: Waker,
}

struct Slot(Sender<()>);

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        let _ = self.0.try_send(());
    }
}

impl ChannelWaker {
    pub(super) fn new() -> ChannelWaker {
        let (sender, woken) = bounded(1);
        ChannelWaker { woken, waker: Waker::from(Arc::new(Slot(sender))) }
    }
}
