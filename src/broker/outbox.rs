//! What is on its way from the broker to the stream of one session.
//!
//! The broker never waits for a stream: it keeps count of what is on its way and stops at [`ROOM`](super::session::ROOM).
//! The stream never waits on its thread: it is a future that is woken.
//!
//! Not a channel: one that holds as many messages as ROOM allows takes 20 kB before the first one, for each idle client.
//! Here, what the stream has not taken yet grows together, so that it goes out in fewer and larger messages, and the end
//! is seen in front of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

use super::core::Closed;
use super::session::{Delivery, ROOM};

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
    waiting: Mutex<Waiting>,
    /// Bytes of [`Delivery::cost`] that the stream has taken so far.
    taken: AtomicU64,
    /// The broker wants to hear when so much was taken. 0: it does not.
    watched: AtomicU64,
}

/// What the stream has not taken yet.
#[derive(Default)]
struct Waiting {
    /// Bounded by ROOM.
    tasks: Vec<Delivery>,
    heartbeat: bool,
    closed: Option<Closed>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the broker is to be told now: once for each time it asks.
    fn is_wanted(&self, taken: u64) -> bool {
        let wanted = self.watched.load(Ordering::SeqCst);
        let reached = wanted != 0 && taken >= wanted;
        reached && self.watched.compare_exchange(wanted, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// The broker's end. Dropped, it ends the stream.
pub(super) struct Outbox(Arc<Shared>);

/// The stream's end.
pub struct Inbox(Arc<Shared>);

/// Both ends, for one session.
pub(super) fn outbox() -> (Outbox, Inbox) {
    let shared = Arc::new(Shared::default());
    (Outbox(shared.clone()), Inbox(shared))
}

impl Outbox {
    pub(super) fn deliver(&self, mut deliveries: Vec<Delivery>) {
        self.change(|waiting| match waiting.tasks.is_empty() {
            true => waiting.tasks = deliveries,
            false => waiting.tasks.append(&mut deliveries),
        });
    }

    /// An empty message, unless there are tasks, which say as much.
    pub(super) fn beat(&self) {
        self.change(|waiting| waiting.heartbeat = waiting.tasks.is_empty());
    }

    /// Ends the stream. Whoever is taken over gets nothing more: it is for the other one now.
    pub(super) fn close(&self, why: Closed) {
        self.change(|waiting| {
            waiting.closed.get_or_insert(why);
            if why == Closed::TakenOver {
                waiting.tasks.clear();
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.0.waiting());
        self.0.waker.wake();
    }

    /// Asks to be told when the stream has taken most of `sent`, all the bytes it was given so far; `Some`: it has already.
    pub(super) fn watch_room(&self, sent: u64) -> Option<u64> {
        // Store, then load; the stream adds, then looks: one of the two sees the other's.
        self.0.watched.store(sent.saturating_sub(ROOM / 2).max(1), Ordering::SeqCst);
        let taken = self.0.taken.load(Ordering::SeqCst);
        self.0.is_wanted(taken).then_some(taken)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.close(Closed::Stopping);
    }
}

impl Inbox {
    /// The next thing for the stream. After [`Push::Close`] there is nothing more.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Push> {
        self.poll(cx, |waiting| {
            if !waiting.tasks.is_empty() {
                return Some(Push::Tasks(std::mem::take(&mut waiting.tasks)));
            }
            if let Some(why) = waiting.closed {
                return Some(Push::Close(why));
            }
            std::mem::take(&mut waiting.heartbeat).then_some(Push::Heartbeat)
        })
    }

    /// The end, whatever stands before it.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        self.poll(cx, |waiting| waiting.closed)
    }

    fn poll<T>(&mut self, cx: &mut Context<'_>, look: impl Fn(&mut Waiting) -> Option<T>) -> Poll<T> {
        if let Some(found) = look(&mut self.0.waiting()) {
            return Poll::Ready(found);
        }
        self.0.waker.register(cx.waker());
        // Once more: what came in between would not wake us.
        look(&mut self.0.waiting()).map_or(Poll::Pending, Poll::Ready)
    }

    /// The stream took so much more. `Some`: the broker wants to hear that so much was taken in all.
    pub fn took(&self, bytes: u64) -> Option<u64> {
        let taken = self.0.taken.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.0.is_wanted(taken).then_some(taken)
    }
}
