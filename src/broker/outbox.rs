//! The bounded channel between the broker and the stream of one session.
//!
//! The broker never waits for a stream: it keeps count of what is on its way and stops at [`ROOM`](super::session::ROOM).
//! The stream never waits on its thread: it is a future that is woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use futures::task::AtomicWaker;

use super::core::Closed;
use super::session::{Delivery, MAX_MESSAGES, ROOM};

/// Something for a stream.
#[derive(Debug)]
pub enum Push {
    /// Tasks, in order.
    Tasks(Vec<Delivery>),
    /// An empty message.
    Heartbeat,
    /// The end.
    Close(Closed),
}

#[derive(Default)]
struct Shared {
    waker: AtomicWaker,
    /// Bytes of [`Delivery::cost`] that the stream has taken so far.
    taken: AtomicU64,
    /// The broker wants to hear when so much was taken. 0: it does not.
    watched: AtomicU64,
}

impl Shared {
    /// Whether the broker is to be told now: once for each time it asks.
    fn is_wanted(&self, taken: u64) -> bool {
        let wanted = self.watched.load(Ordering::SeqCst);
        let reached = wanted != 0 && taken >= wanted;
        reached && self.watched.compare_exchange(wanted, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// The broker's end.
pub(super) struct Outbox {
    sender: Sender<Push>,
    shared: Arc<Shared>,
}

/// The stream's end.
pub struct Inbox {
    receiver: Receiver<Push>,
    shared: Arc<Shared>,
}

/// A channel for one session.
pub(super) fn outbox() -> (Outbox, Inbox) {
    let (sender, receiver) = bounded(MAX_MESSAGES);
    let shared = Arc::new(Shared::default());
    (Outbox { sender, shared: shared.clone() }, Inbox { receiver, shared })
}

impl Outbox {
    /// Hands something to the stream. `false`: it is gone, or more is on its way than can be.
    pub(super) fn push(&self, push: Push) -> bool {
        let sent = self.sender.try_send(push).is_ok();
        self.shared.waker.wake();
        sent
    }

    /// Nothing is on its way that the stream has not begun to take.
    pub(super) fn is_empty(&self) -> bool {
        self.sender.is_empty()
    }

    /// Asks to be told when the stream has taken most of `sent`, all the bytes it was given so far; `Some`: it has already.
    pub(super) fn watch_room(&self, sent: u64) -> Option<u64> {
        // Store, then load; the stream adds, then looks: one of the two sees the other's.
        self.shared.watched.store(sent.saturating_sub(ROOM / 2).max(1), Ordering::SeqCst);
        let taken = self.shared.taken.load(Ordering::SeqCst);
        self.shared.is_wanted(taken).then_some(taken)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shared.waker.wake();
    }
}

impl Inbox {
    /// The next thing for the stream; `None`: the broker is gone.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Push>> {
        for registered in [false, true] {
            match self.receiver.try_recv() {
                Ok(push) => return Poll::Ready(Some(push)),
                Err(TryRecvError::Disconnected) => return Poll::Ready(None),
                // Register, then look once more: what came in between would not wake us.
                Err(TryRecvError::Empty) if !registered => self.shared.waker.register(cx.waker()),
                Err(TryRecvError::Empty) => {}
            }
        }
        Poll::Pending
    }

    /// The stream took so much more. `Some`: the broker wants to hear that so much was taken in all.
    pub fn took(&self, bytes: u64) -> Option<u64> {
        let taken = self.shared.taken.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.shared.is_wanted(taken).then_some(taken)
    }
}
