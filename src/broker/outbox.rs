//! What is on its way from the broker to the stream of one session.
//!
//! The broker never waits for a stream: it counts what is on its way and stops at [`SEND_BUFFER`]. The stream never waits on
//! its thread: it is a future that is woken.
//!
//! What waits is bounded by that count, by [`REVOKED`], by [`MOST_HELD`], and by how many may watch. The end goes beside it, so that it can overtake tasks.

use std::mem::take;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

use super::core::{Closed, Delivery, Note, Revoked, SEND_BUFFER, Watched};
use super::holds::MOST_HELD;

/// Something for a stream.
#[derive(Debug)]
pub enum Push {
    /// Tasks, in order.
    Tasks(Vec<Delivery>),
    /// Tasks that its client should not go on with.
    Revoked(Vec<Revoked>),
    /// Tasks of which somebody watches what they print.
    Watched(Vec<Watched>),
    /// What is kept beside the stream, and is said before the tasks that come later.
    Notes(Vec<Note>),
    /// An empty message.
    Heartbeat,
    /// The end.
    Close(Closed),
}

/// Most tasks that wait to be revoked. Of one that finds no room the client hears when it next says that it is at work on it.
const REVOKED: usize = 1024;

/// What the stream has not taken yet. Locked for a moment only.
#[derive(Default)]
struct Waiting {
    tasks: Vec<Delivery>,
    /// At most [`REVOKED`].
    revoked: Vec<Revoked>,
    /// At most one for each task that is watched.
    watched: Vec<Watched>,
    /// At most [`MOST_HELD`] of tasks, and one of the stream.
    notes: Vec<Note>,
    heartbeat: bool,
}

#[derive(Default)]
struct Shared {
    waker: AtomicWaker,
    closed: OnceLock<Closed>,
    waiting: Mutex<Waiting>,
    /// Bytes of [`Delivery::cost`] that the stream has taken so far.
    taken: AtomicU64,
    /// The broker wants to hear when this many bytes were taken. 0: it does not.
    watched: AtomicU64,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something there, and wakes the stream.
    fn put(&self, what: impl FnOnce(&mut Waiting)) {
        what(&mut self.waiting());
        self.waker.wake();
    }

    /// Whether the broker is to be told now; once for each time it asks.
    fn is_wanted(&self, taken: u64) -> bool {
        let wanted = self.watched.load(Ordering::SeqCst);
        let reached = wanted != 0 && taken >= wanted;
        reached && self.watched.compare_exchange(wanted, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// The broker's end. Dropped, it ends the stream.
pub(crate) struct Outbox(Arc<Shared>);

/// The stream's end.
pub struct Inbox(Arc<Shared>);

/// Both ends, for one session.
pub(crate) fn outbox() -> (Outbox, Inbox) {
    let shared = Arc::new(Shared::default());
    (Outbox(shared.clone()), Inbox(shared))
}

impl Outbox {
    /// Hands over tasks. When the stream has ended, the session ends soon: they are then given to others.
    pub(crate) fn deliver(&self, mut deliveries: Vec<Delivery>) {
        self.0.put(|waiting| match waiting.tasks.is_empty() {
            true => waiting.tasks = deliveries,
            false => waiting.tasks.append(&mut deliveries),
        });
    }

    /// Says after the tasks that were handed over that the client should not go on with one.
    pub(crate) fn revoke(&self, revoked: Revoked) {
        self.0.put(|waiting| {
            if waiting.revoked.len() < REVOKED && !waiting.revoked.contains(&revoked) {
                waiting.revoked.push(revoked);
            }
        });
    }

    /// Says that somebody watches what a task prints.
    pub(crate) fn watch(&self, watched: Watched) {
        self.0.put(|waiting| {
            let same = waiting.watched.iter_mut().find(|it| (it.task, it.attempt) == (watched.task, watched.attempt));
            match same {
                Some(same) => same.anew |= watched.anew,
                None => waiting.watched.push(watched),
            }
        });
    }

    /// Says something that is kept beside the stream.
    pub(crate) fn note(&self, note: Note) {
        self.0.put(|waiting| match &note {
            Note::Draining(_) => {
                waiting.notes.retain(|note| !matches!(note, Note::Draining(_)));
                waiting.notes.push(note);
            }
            Note::Awaits(..) if waiting.notes.len() < MOST_HELD => waiting.notes.push(note),
            Note::Awaits(..) => {}
        });
    }

    /// An empty message, unless there are tasks, which say as much.
    pub(crate) fn beat(&self) {
        self.0.put(|waiting| waiting.heartbeat = waiting.tasks.is_empty());
    }

    /// Ends the stream; the first reason counts.
    pub(crate) fn close(&self, why: Closed) {
        let _ = self.0.closed.set(why);
        self.0.waker.wake();
    }

    /// Has [`Inbox::took`] report when the stream has taken most of `sent`, all the bytes it was given. `Some`: it already has.
    pub(crate) fn watch_room(&self, sent: u64) -> Option<u64> {
        // Store, then load; the stream adds, then looks: one of the two sees the other's.
        self.0.watched.store(sent.saturating_sub(SEND_BUFFER / 2).max(1), Ordering::SeqCst);
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
    /// What comes next for the stream: all tasks that wait, together. After [`Push::Close`] there is nothing more.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Push> {
        self.poll(cx, |inbox| {
            let closed = inbox.0.closed.get().copied();
            let mut waiting = inbox.0.waiting();
            // What waits for a stream that was taken over belongs to the newer one.
            if closed != Some(Closed::TakenOver) {
                // A task comes after it was said that it is waited for.
                if !waiting.notes.is_empty() {
                    return Some(Push::Notes(take(&mut waiting.notes)));
                }
                if !waiting.tasks.is_empty() {
                    return Some(Push::Tasks(take(&mut waiting.tasks)));
                }
                if !waiting.revoked.is_empty() {
                    return Some(Push::Revoked(take(&mut waiting.revoked)));
                }
                if !waiting.watched.is_empty() {
                    return Some(Push::Watched(take(&mut waiting.watched)));
                }
            }
            closed.map(Push::Close).or_else(|| take(&mut waiting.heartbeat).then_some(Push::Heartbeat))
        })
    }

    /// The end, whatever stands before it.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Closed> {
        self.poll(cx, |inbox| inbox.0.closed.get().copied())
    }

    fn poll<T>(&self, cx: &mut Context<'_>, look: impl Fn(&Inbox) -> Option<T>) -> Poll<T> {
        if let Some(found) = look(self) {
            return Poll::Ready(found);
        }
        self.0.waker.register(cx.waker());
        // Once more: what came before the waker was in place would not wake it.
        look(self).map_or(Poll::Pending, Poll::Ready)
    }

    /// Counts what the stream takes, wherever this is.
    #[cfg(feature = "cluster")]
    pub(crate) fn gauge(&self) -> Gauge {
        Gauge(self.0.clone())
    }

    /// The stream took `bytes` more. `Some`: the broker wants to hear how many it took in all.
    pub fn took(&self, bytes: u64) -> Option<u64> {
        let taken = self.0.taken.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.0.is_wanted(taken).then_some(taken)
    }
}

/// Counts what a stream takes, which another server has.
#[cfg(feature = "cluster")]
pub(crate) struct Gauge(Arc<Shared>);

#[cfg(feature = "cluster")]
impl Gauge {
    /// The stream has taken so many bytes in all. See [`Inbox::took`].
    pub(crate) fn took_in_all(&self, taken: u64) -> Option<u64> {
        self.0.taken.store(taken, Ordering::SeqCst);
        self.0.is_wanted(taken).then_some(taken)
    }
}
