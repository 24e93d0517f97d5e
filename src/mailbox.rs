//! A bounded channel between threads, into which futures may send without waiting on their thread.
//!
//! The promise: a message is either taken by the receiver or handed back. Senders wait while the channel is full: threads block,
//! futures are woken. No sender waits for room that is there.
//!
//! Futures are woken in the order in which they came. One that is woken and finds its room taken keeps its place. That is why the
//! list is ours: with `event-listener` such a future would have to listen anew, behind all others, and under load some client
//! would wait without bound.
//!
//! A channel is bounded in messages and, if they are [weighed](Sender::send_weighed), in bytes: while what waits has as many bytes as
//! that, no more is taken. So it never holds more than that and one message, and a message of any size goes through.

use std::collections::BTreeMap;
use std::fmt;
use std::future;
use std::sync::atomic::{self, AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use futures::executor::block_on;

pub use crossbeam_channel::{RecvTimeoutError, TrySendError};

/// A channel that holds at most `capacity` messages, and at least one.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    bounded_in_bytes(capacity, usize::MAX)
}

/// The same, and it takes no more while what waits weighs `most` bytes.
pub fn bounded_in_bytes<T>(capacity: usize, most: usize) -> (Sender<T>, Receiver<T>) {
    let capacity = capacity.max(1);
    let (tx, rx) = crossbeam_channel::bounded(capacity);
    let room = Arc::new(Room { most, ..Room::default() });
    (Sender { tx, room: room.clone() }, Receiver { rx, capacity, closing: WakeAll(room) })
}

/// A message that waits, and the bytes that it counts for.
pub struct Weighed<T> {
    message: T,
    bytes: usize,
}

impl<T> Weighed<T> {
    /// What it counts for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
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
    tx: crossbeam_channel::Sender<Weighed<T>>,
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
        // Nothing is weighed: the channel itself is waited for.
        self.tx.send(Weighed { message, bytes: 0 }).map_err(|unsent| Closed(unsent.0.message))
    }

    /// The same for a message that counts for so many bytes.
    pub fn send_weighed(&self, message: T, bytes: usize) -> Result<(), Closed<T>> {
        match self.try_weighed(message, bytes) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(unsent)) => Err(Closed(unsent)),
            Err(TrySendError::Full(unsent)) => block_on(self.send_weighed_async(unsent, bytes)),
        }
    }

    /// Sends if there is room now.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.try_weighed(message, 0)
    }

    fn try_weighed(&self, message: T, bytes: usize) -> Result<(), TrySendError<T>> {
        if bytes > 0 && !self.room.takes(bytes) {
            return Err(TrySendError::Full(message));
        }
        self.tx.try_send(Weighed { message, bytes }).map_err(|unsent| {
            self.room.bytes.fetch_sub(bytes, SeqCst);
            match unsent {
                TrySendError::Full(unsent) => TrySendError::Full(unsent.message),
                TrySendError::Disconnected(unsent) => TrySendError::Disconnected(unsent.message),
            }
        })
    }

    /// Sends as soon as there is room. Dropping the future before it is ready drops the message unsent.
    pub async fn send_async(&self, message: T) -> Result<(), Closed<T>> {
        self.send_weighed_async(message, 0).await
    }

    /// The same for a message that counts for so many bytes.
    pub async fn send_weighed_async(&self, message: T, bytes: usize) -> Result<(), Closed<T>> {
        let mut place = Place { room: &self.room, ticket: None };
        let mut message = Some(message);
        future::poll_fn(|cx| {
            // The second try sees whatever room was made before the waker was in place.
            for full_before in [false, true] {
                if full_before {
                    place.wait(cx.waker());
                }
                match message.take().map(|message| self.try_weighed(message, bytes)) {
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
    rx: crossbeam_channel::Receiver<Weighed<T>>,
    capacity: usize,
    closing: WakeAll,
}

impl<T> Receiver<T> {
    /// Waits for the next message. `None`: all senders are gone, and there will be none.
    pub fn recv(&self) -> Option<T> {
        Some(self.taken(self.rx.recv().ok()?))
    }

    /// The next message, if it is there.
    pub fn try_recv(&self) -> Option<T> {
        Some(self.taken(self.rx.try_recv().ok()?))
    }

    /// Waits for the next message until `deadline`.
    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        Ok(self.taken(self.rx.recv_deadline(deadline)?))
    }

    /// How many messages are waiting.
    pub fn len(&self) -> usize {
        self.rx.len()
    }

    /// Whether no message is waiting.
    pub fn is_empty(&self) -> bool {
        self.rx.is_empty()
    }

    /// The bytes that wait.
    pub fn bytes(&self) -> usize {
        self.closing.0.bytes.load(SeqCst)
    }

    /// The channel itself, for `select!`. Each message from it is to go through [`taken`](Receiver::taken).
    pub fn raw(&self) -> &crossbeam_channel::Receiver<Weighed<T>> {
        &self.rx
    }

    /// The message, now that it was taken: a future that waits for room is woken.
    ///
    /// Each take wakes the future that has waited longest. That one may be dropped without using its room, or a thread may be
    /// quicker. So all are woken once the channel is half empty. A receiver that goes on taking gets there before it is empty.
    pub fn taken(&self, Weighed { message, bytes }: Weighed<T>) -> T {
        let room = &self.closing.0;
        let before = if bytes > 0 { room.bytes.fetch_sub(bytes, SeqCst) } else { 0 };
        // Pairs with the fence in `Place::wait`: either the flag is seen here, or the room is seen there.
        atomic::fence(SeqCst);
        if room.any_waiting.load(SeqCst) {
            match self.rx.len() <= self.capacity / 2 && before - bytes <= room.most / 2 {
                true => room.wake_all(),
                false => room.wake_first(),
            }
        }
        message
    }
}

/// The futures that wait for room.
#[derive(Default)]
struct Room {
    /// Whether `waiting` has a waker: all that a take looks at when no future waits.
    any_waiting: AtomicBool,
    waiting: Mutex<Waiting>,
    /// Bytes of the messages in the channel.
    bytes: AtomicUsize,
    /// While there are as many, no more are taken.
    most: usize,
    /// The receiver is gone.
    closed: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    next_ticket: u64,
    /// By ticket: the first to come is first.
    wakers: BTreeMap<u64, Waker>,
}

impl Room {
    /// Counts bytes of a message, if there is room for it. Once the receiver is gone nothing is counted, and the channel says so.
    fn takes(&self, bytes: usize) -> bool {
        let counted =
            self.bytes.fetch_update(SeqCst, SeqCst, |waiting| (waiting < self.most).then_some(waiting + bytes));
        counted.is_ok() || self.closed.load(SeqCst)
    }

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
        self.0.closed.store(true, SeqCst);
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
    fn what_waits_is_bounded_in_bytes_and_a_message_of_any_size_goes_through() {
        let (tx, rx) = bounded_in_bytes(100, 10);
        block_on(tx.send_weighed_async(1, 9)).unwrap();
        block_on(tx.send_weighed_async(2, 1_000)).unwrap();
        let (third, fourth) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (mut a, mut b) = (pin!(tx.send_weighed_async(3, 5)), pin!(tx.send_weighed_async(4, 5)));
        assert!(poll(a.as_mut(), &third).is_pending());
        assert!(poll(b.as_mut(), &fourth).is_pending());
        // What is not weighed finds its place.
        block_on(tx.send_async(5)).unwrap();
        assert_eq!(rx.recv(), Some(1));
        assert_eq!((third.get(), fourth.get()), (1, 0), "one looks whether there is room");
        assert!(poll(a.as_mut(), &third).is_pending(), "1,000 bytes still wait");
        assert_eq!((rx.recv(), rx.bytes()), (Some(2), 0));
        assert!(third.get() > 1 && fourth.get() > 0, "there is room for all");
        assert!(poll(a, &third).is_ready() && poll(b, &fourth).is_ready());
        assert_eq!((rx.recv(), rx.recv(), rx.recv(), rx.bytes()), (Some(5), Some(3), Some(4), 0));
    }

    #[test]
    fn a_thread_waits_for_room_in_bytes_and_hears_that_there_will_be_none() {
        let (tx, rx) = bounded_in_bytes(100, 10);
        tx.send_weighed(1, 10).unwrap();
        let sender = tx.clone();
        let sent =
            thread::spawn(move || (sender.send_weighed(2, 10).is_ok(), sender.send_weighed(3, 10).unwrap_err().0));
        while tx.room.waiting.lock().unwrap().wakers.is_empty() {
            thread::yield_now();
        }
        assert_eq!(rx.recv(), Some(1));
        while rx.bytes() < 10 || tx.room.waiting.lock().unwrap().wakers.is_empty() {
            thread::yield_now();
        }
        drop(rx);
        assert_eq!(sent.join().unwrap(), (true, 3));
    }

    #[test]
    fn a_full_channel_counts_no_bytes_of_what_it_did_not_take() {
        let (tx, rx) = bounded_in_bytes(1, 100);
        tx.send_weighed(1, 7).unwrap();
        assert!(tx.try_weighed(2, 7).is_err());
        assert_eq!(rx.bytes(), 7);
        drop(rx);
        assert!(tx.try_weighed(2, 7).is_err());
        assert_eq!(tx.room.bytes.load(SeqCst), 7);
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
        for (capacity, most) in [(1, usize::MAX), (3, usize::MAX), (64, usize::MAX), (1_000, 1), (64, 90), (3, 20)] {
            let (tx, rx) = bounded_in_bytes(capacity, most);
            for thread in 0..4 {
                let tx = tx.clone();
                thread::spawn(move || {
                    let sources = (thread..FUTURES).step_by(4).map(async |source| {
                        for n in 0..EACH {
                            tx.send_weighed_async((source, n), n % 7).await.unwrap();
                        }
                    });
                    block_on(join_all(sources))
                });
            }
            for source in FUTURES..FUTURES + BLOCKING {
                let tx = tx.clone();
                thread::spawn(move || (0..EACH).for_each(|n| tx.send_weighed((source, n), n % 7).unwrap()));
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
