//! Wakes the broker's thread for what does not come through its mailbox: commits, and reporters that disconnected.

use crossbeam_channel::{Receiver, Sender, bounded};

/// The end that wakes, from any thread.
#[derive(Clone)]
pub(super) struct WakeUp(Sender<()>);

/// Both ends, for one thread that selects on the receiver.
pub(super) fn wake_up() -> (WakeUp, Receiver<()>) {
    let (sender, receiver) = bounded(1);
    (WakeUp(sender), receiver)
}

impl WakeUp {
    /// Never waits. One that finds another pending is dropped: when the thread wakes, it looks at everything that is new.
    pub(super) fn wake(&self) {
        let _ = self.0.try_send(());
    }
}
