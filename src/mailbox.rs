//! A bounded channel between threads, into which futures may send without waiting on their thread.
//!
//! The promise: a message is either taken by the receiver or handed back. Senders wait while the channel is full: threads block,
//! futures are woken. No sender waits for room that is there.
//!
//! Futures are woken in the order in which they came. One that is woken and finds its room taken keeps its place. That is why the
//! list is ours: with `event-listener` such a future would have to listen anew, behind all others, and under load some client
//! would wait without bound.

use std::collections::BTreeMap;
use std::fmt;
use std::future;
use std::sync::atomic::{self, AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

pub use crossbeam_channel::{RecvTimeoutError, TrySendError};

/// A channel that holds at most `capacity` messages, and at least one.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let capacity = capacity.max(1);
    let (tx, rx) = crossbeam_channel::bounded(capacity);
    let room = Arc::new(Room::default());
    (Sender { tx, room: room.clone() }, Receiver { rx, capacity, closing: WakeAll(room) })
}

/// The receiver was dropped. This is the message, unsent.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the receiver of the mailbox is gone")]
pub struct Closed<T>(pub T);

impl<T> fmt::Debug for Closed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closed(..)")
    }
}

/// The end that messages go into.
pub struct Sender<T> {
    tx: crossbeam_channel::Sender<T>,
    room: Arc<Room>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { tx: self.tx.clone(), room: self.room.clone() }
    }
}

impl<T> Sender<T> {
    /// Sends, and blocks while the channel is full: for threads that may wait, never in a future.
    pub fn send(&self, message: T) -> Result<(), Closed<T>> {
        self.tx.send(message).map_err(|unsent| Closed(unsent.0))
    }

    /// Sends if there is room now.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.tx.try_send(message)
    }

    /// Sends as soon as there is room. Dropping the future before it is ready drops the message unsent.
    pub async fn send_async(&self, message: T) -> Result<(), Closed<T>> {
        let mut place = Place { room: &self.room, ticket: None };
        let mut message = Some(message);
        future::poll_fn(|cx| {
            // The second try sees whatever room was made before the waker was in place.
            for full_before in [false, true] {
                if full_before {
                    place.wait(cx.waker());
                }
                match message.take().map(|message| self.tx.try_send(message)) {
                    None | Some(Ok(())) => return Poll::Ready(Ok(())),
                    Some(Err(TrySendError::Disconnected(unsent))) => return Poll::Ready(Err(Closed(unsent))),
                    Some(Err(TrySendError::Full(unsent))) => message = Some(unsent),
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The end that messages come out of. When it is dropped, so are the messages in it, and senders that wait get [`Closed`].
pub struct Receiver<T> {
    // Dropped before `closing`, so that a sender that is woken finds the channel disconnected.
    rx: crossbeam_channel::Receiver<T>,
    capacity: usize,
    closing: WakeAll,
}

impl<T> Receiver<T> {
    /// Waits for the next message. `None`: all senders are gone, and there will be none.
    pub fn recv(&self) -> Option<T> {
        let message = self.rx.recv().ok()?;
        self.taken();
        Some(message)
    }

    /// The next message, if it is there.
    pub fn try_recv(&self) -> Option<T> {
        let message = self.rx.try_recv().ok()?;
        self.taken();
        Some(message)
    }

    /// Waits for the next message until `deadline`.
    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        let message = self.rx.recv_deadline(deadline)?;
        self.taken();
        Ok(message)
    }

    /// How many messages are waiting.
    pub fn len(&self) -> usize {
        self.rx.len()
    }

    /// Whether no message is waiting.
    pub fn is_empty(&self) -> bool {
        self.rx.is_empty()
    }

    /// The channel itself, for `select!`. Each message taken from it is to be followed by [`taken`](Receiver::taken).
    pub fn raw(&self) -> &crossbeam_channel::Receiver<T> {
        &self.rx
    }

    /// Says that a message was taken, so that a future that waits for room is woken.
    ///
    /// Each take wakes the future that has waited longest. That one may be dropped without using its room, or a thread may be
    /// quicker. So all are woken once the channel is half empty. A receiver that goes on taking gets there before it is empty.
    pub fn taken(&self) {
        // Pairs with the fence in `Place::wait`: either the flag is seen here, or the room is seen there.
        atomic::fence(SeqCst);
        let room = &self.closing.0;
        if room.any_waiting.load(SeqCst) {
            match self.rx.len() <= self.capacity / 2 {
                true => room.wake_all(),
                false => room.wake_first(),
            }
        }
    }
}

/// The futures that wait for room.
#[derive(Default)]
struct Room {
    /// Whether `waiting` has a waker: all that a take looks at when no future waits.
    any_waiting: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next_ticket: u64,
    /// By ticket: the first to come is first.
    wakers: BTreeMap<u64, Waker>,
}

impl Room {
    /// Wakers run outside the lock: they run code that is not ours.
    fn wake_first(&self) {
        let first = self.change(|waiting| waiting.wakers.pop_first());
        if let Some((_, waker)) = first {
            waker.wake();
        }
    }

    fn wake_all(&self) {
        let all = self.change(|waiting| std::mem::take(&mut waiting.wakers));
        all.into_values().for_each(Waker::wake);
    }

    fn change<R>(&self, change: impl FnOnce(&mut Waiting) -> R) -> R {
        let mut waiting: MutexGuard<'_, Waiting> = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut waiting);
        self.any_waiting.store(!waiting.wakers.is_empty(), SeqCst);
        result
    }
}

/// Wakes all when the receiver is dropped.
struct WakeAll(Arc<Room>);

impl Drop for WakeAll {
    fn drop(&mut self) {
        self.0.wake_all();
    }
}

/// One future's place among those that wait. It keeps the place until it has sent or is dropped.
struct Place<'a> {
    room: &'a Room,
    ticket: Option<u64>,
}

impl Place<'_> {
    fn wait(&mut self, waker: &Waker) {
        let ticket = &mut self.ticket;
        self.room.change(|waiting| {
            let ticket = *ticket.get_or_insert_with(|| {
                waiting.next_ticket += 1;
                waiting.next_ticket
            });
            waiting.wakers.insert(ticket, waker.clone());
        });
        atomic::fence(SeqCst);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.room.change(|waiting| waiting.wakers.remove(&ticket));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Wake};
    use std::thread;
    use std::time::Duration;

    use futures::executor::block_on;
    use futures::future::join_all;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    impl Count {
        fn get(&self) -> usize {
            self.0.load(SeqCst)
        }
    }

    /// Polls `future` once with a waker that counts.
    #[track_caller]
    fn poll<F: Future>(future: std::pin::Pin<&mut F>, woken: &Arc<Count>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(&woken.clone().into()))
    }

    #[test]
    fn a_future_waits_while_the_channel_is_full_and_is_woken_by_a_take() {
        let (tx, rx) = bounded(1);
        tx.send(1).unwrap();
        let woken = Arc::new(Count::default());
        let mut second = pin!(tx.send_async(2));
        assert!(poll(second.as_mut(), &woken).is_pending());
        assert_eq!(woken.get(), 0);
        assert_eq!(rx.recv(), Some(1));
        assert_eq!(woken.get(), 1);
        assert!(matches!(poll(second, &woken), Poll::Ready(Ok(()))));
        assert_eq!(rx.try_recv(), Some(2));
    }

    #[test]
    fn the_one_that_waited_longest_is_woken_first() {
        let (tx, rx) = bounded(4);
        (0..4).for_each(|n| tx.send(n).unwrap());
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (mut a, mut b) = (pin!(tx.send_async(4)), pin!(tx.send_async(5)));
        assert!(poll(a.as_mut(), &first).is_pending());
        assert!(poll(b.as_mut(), &second).is_pending());
        rx.recv();
        assert_eq!((first.get(), second.get()), (1, 0));
    }

    #[test]
    fn a_woken_future_whose_room_was_taken_keeps_its_place() {
        let (tx, rx) = bounded(4);
        (0..4).for_each(|n| tx.send(n).unwrap());
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (mut a, mut b) = (pin!(tx.send_async(5)), pin!(tx.send_async(6)));
        assert!(poll(a.as_mut(), &first).is_pending());
        assert!(poll(b.as_mut(), &second).is_pending());
        rx.recv();
        tx.send(4).unwrap();
        assert!(poll(a.as_mut(), &first).is_pending(), "a thread was quicker");
        rx.recv();
        assert_eq!((first.get(), second.get()), (2, 0));
    }

    #[test]
    fn a_woken_future_that_is_dropped_leaves_its_room_to_the_others() {
        let (tx, rx) = bounded(2);
        tx.send(0).unwrap();
        tx.send(1).unwrap();
        let woken = Arc::new(Count::default());
        let mut stays = pin!(tx.send_async(3));
        {
            let mut goes = pin!(tx.send_async(2));
            assert!(poll(goes.as_mut(), &Arc::default()).is_pending());
            assert!(poll(stays.as_mut(), &woken).is_pending());
            rx.recv();
        }
        rx.recv();
        assert_eq!(woken.get(), 1);
        assert!(poll(stays, &woken).is_ready());
    }

    #[test]
    fn a_future_that_is_dropped_waits_no_more() {
        let (tx, _rx) = bounded(1);
        tx.send(0).unwrap();
        {
            let mut goes = pin!(tx.send_async(1));
            assert!(poll(goes.as_mut(), &Arc::default()).is_pending());
            assert!(poll(goes.as_mut(), &Arc::default()).is_pending());
            assert_eq!(tx.room.waiting.lock().unwrap().wakers.len(), 1);
        }
        assert!(!tx.room.any_waiting.load(SeqCst));
    }

    #[test]
    fn the_message_comes_back_when_the_receiver_goes() {
        let (tx, rx) = bounded(1);
        tx.send("kept").unwrap();
        let woken = Arc::new(Count::default());
        let mut waits = pin!(tx.send_async("waits"));
        assert!(poll(waits.as_mut(), &woken).is_pending());
        drop(rx);
        assert_eq!(woken.get(), 1);
        assert!(matches!(poll(waits, &woken), Poll::Ready(Err(Closed("waits")))));
        assert_eq!(tx.send("late").unwrap_err().0, "late");
        assert_eq!(block_on(tx.send_async("late")).unwrap_err().0, "late");
    }

    #[test]
    fn the_receiver_learns_that_all_senders_are_gone() {
        let (tx, rx) = bounded(1);
        tx.send(1).unwrap();
        drop(tx);
        assert_eq!((rx.recv(), rx.recv()), (Some(1), None));
        assert_eq!(rx.recv_deadline(Instant::now()), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn no_wake_up_is_lost_among_many_futures_and_threads() {
        const FUTURES: usize = 200;
        const BLOCKING: usize = 2;
        const EACH: usize = 200;
        for capacity in [1, 3, 64] {
            let (tx, rx) = bounded(capacity);
            for thread in 0..4 {
                let tx = tx.clone();
                thread::spawn(move || {
                    let sources = (thread..FUTURES).step_by(4).map(async |source| {
                        for n in 0..EACH {
                            tx.send_async((source, n)).await.unwrap();
                        }
                    });
                    block_on(join_all(sources))
                });
            }
            for source in FUTURES..FUTURES + BLOCKING {
                let tx = tx.clone();
                thread::spawn(move || (0..EACH).for_each(|n| tx.send((source, n)).unwrap()));
            }
            drop(tx);
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut next = [0; FUTURES + BLOCKING];
            for _ in 0..next.len() * EACH {
                let (source, n) = rx.recv_deadline(deadline).expect("every message, in time");
                assert_eq!(n, next[source], "each sender's messages come in its order");
                next[source] += 1;
            }
            assert_eq!(rx.recv(), None);
        }
    }
}
