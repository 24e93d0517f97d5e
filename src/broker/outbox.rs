//! What is on its way from the broker to the stream of one session.
//!
//! The broker never waits for a stream: it counts what is on its way and stops at [`SEND_BUFFER`]. The stream never waits on
//! its thread: it is a future that is woken.
//!
//! Tasks go through a crossbeam channel that is bounded by that count, not by its slots: one with as many slots as the buffer
//! allows takes 20 kB before the first task, for each idle client. The end goes beside it, so that it can overtake tasks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use crossbeam_channel::{Receiver, Sender, unbounded};
use futures::task::AtomicWaker;

use super::core::{Closed, Delivery, Revoked, SEND_BUFFER};

/// Something for a stream.
#[derive(Debug)]
pub enum Push {
    /// Tasks, in order.
    Tasks(Vec<Delivery>),
    /// Tasks that its client should not go on with.
    Revoked(Vec<Revoked>),
    /// An empty message.
    Heartbeat,
    /// The end.
    Close(Closed),
}

/// Most tasks that wait to be revoked. Of one that finds no room the client hears when it next says that it is at work on it.
const REVOKED: usize = 1024;

#[derive(Default)]
struct Shared {
    waker: AtomicWaker,
    heartbeat: AtomicBool,
    closed: OnceLock<Closed>,
    /// At most [`REVOKED`].
    revoked: Mutex<Vec<Revoked>>,
    /// Bytes of [`Delivery::cost`] that the stream has taken so far.
    taken: AtomicU64,
    /// The broker wants to hear when this many bytes were taken. 0: it does not.
    watched: AtomicU64,
}

impl Shared {
    /// Whether the broker is to be told now; once for each time it asks.
    fn is_wanted(&self, taken: u64) -> bool {
        let wanted = self.watched.load(Ordering::SeqCst);
        let reached = wanted != 0 && taken >= wanted;
        reached && self.watched.compare_exchange(wanted, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// The broker's end. Dropped, it ends the stream.
pub(super) struct Outbox {
    tasks: Sender<Vec<Delivery>>,
    shared: Arc<Shared>,
}

/// The stream's end.
pub struct Inbox {
    tasks: Receiver<Vec<Delivery>>,
    shared: Arc<Shared>,
}

/// Both ends, for one session.
pub(super) fn outbox() -> (Outbox, Inbox) {
    let (sender, receiver) = unbounded();
    let shared = Arc::new(Shared::default());
    (Outbox { tasks: sender, shared: shared.clone() }, Inbox { tasks: receiver, shared })
}

impl Outbox {
    /// Hands over tasks. When the stream has ended, the session ends soon: they are then given to others.
    pub(super) fn deliver(&self, deliveries: Vec<Delivery>) {
        let _ = self.tasks.send(deliveries);
        self.shared.waker.wake();
    }

    /// Says after the tasks that were handed over that the client should not go on with one.
    pub(super) fn revoke(&self, revoked: Revoked) {
        let mut waiting = self.shared.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < REVOKED && !waiting.contains(&revoked) {
            waiting.push(revoked);
        }
        drop(waiting);
        self.shared.waker.wake();
    }

    /// An empty message, unless there are tasks, which say as much.
    pub(super) fn beat(&self) {
        self.shared.heartbeat.store(self.tasks.is_empty(), Ordering::SeqCst);
        self.shared.waker.wake();
    }

    /// Ends the stream; the first reason counts.
    pub(super) fn close(&self, why: Closed) {
        let _ = self.shared.closed.set(why);
        self.shared.waker.wake();
    }

    /// Has [`Inbox::took`] report when the stream has taken most of `sent`, all the bytes it was given. `Some`: it already has.
    pub(super) fn watch_room(&self, sent: u64) -> Option<u64> {
        // Store, then load; the stream adds, then looks: one of the two sees the other's.
        self.shared.watched.store(sent.saturating_sub(SEND_BUFFER / 2).max(1), Ordering::SeqCst);
        let taken = self.shared.taken.load(Ordering::SeqCst);
        self.shared.is_wanted(taken).then_some(taken)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.close(Closed::Stopping);
    }
}

impl Inbox {
    /// What comes next for the stream: all tasks that wait, together. After [`Push::Close`] there is nothing more.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Push> {
        self.poll(cx, |inbox| {
            let closed = inbox.shared.closed.get().copied();
            // What waits for a stream that was taken over belongs to the newer one.
            if closed != Some(Closed::TakenOver)
                && let Ok(mut tasks) = inbox.tasks.try_recv()
            {
                inbox.tasks.try_iter().for_each(|mut more| tasks.append(&mut more));
                return Some(Push::Tasks(tasks));
            }
            if closed != Some(Closed::TakenOver) {
                let mut waiting = inbox.shared.revoked.lock().unwrap_or_else(PoisonError::into_inner);
                if !waiting.is_empty() {
                    return Some(Push::Revoked(std::mem::take(&mut *waiting)));
                }
            }
            let heartbeat = || inbox.shared.heartbeat.swap(false, Ordering::SeqCst).then_some(Push::Heartbeat);
            closed.map(Push::Close).or_else(heartbeat)
        })
    }

    /// The end, whatever stands before it.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        self.poll(cx, |inbox| inbox.shared.closed.get().copied())
    }

    fn poll<T>(&self, cx: &mut Context<'_>, look: impl Fn(&Inbox) -> Option<T>) -> Poll<T> {
        if let Some(found) = look(self) {
            return Poll::Ready(found);
        }
        self.shared.waker.register(cx.waker());
        // Once more: what came before the waker was in place would not wake it.
        look(self).map_or(Poll::Pending, Poll::Ready)
    }

    /// The stream took `bytes` more. `Some`: the broker wants to hear how many it took in all.
    pub fn took(&self, bytes: u64) -> Option<u64> {
        let taken = self.shared.taken.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.shared.is_wanted(taken).then_some(taken)
    }
}
