//! Wakes those who follow a log when it has grown.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use futures::Sink;

use crate::store::Tail;

/// The futures that wait for the next commit.
#[derive(Clone, Default)]
pub(super) struct Followers(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    wakers: Vec<Waker>,
    stopping: bool,
}

/// Why there is nothing more to wait for.
pub(super) enum End {
    /// The follower went away.
    Gone,
    /// The server is stopping.
    Stopping,
}

impl Followers {
    /// Wakes them at each commit of the store.
    pub(super) fn subscribe(tail: &Tail) -> Followers {
        let followers = Followers::default();
        let to_wake = followers.clone();
        tail.subscribe(Box::new(move |_| to_wake.wake()));
        followers
    }

    /// Sends them all away.
    pub(super) fn stop(&self) {
        self.waiting().stopping = true;
        self.wake();
    }

    fn wake(&self) {
        let woken = std::mem::take(&mut self.waiting().wakers);
        woken.into_iter().for_each(Waker::wake);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `grown` says so, looking after each commit, for as long as the stream of `sink` lives.
    pub(super) async fn wait<T, S: Sink<T> + Unpin>(&self, sink: &mut S, grown: impl Fn() -> bool) -> Result<(), End> {
        poll_fn(|cx| {
            // Also registers for the end of the call.
            if let Poll::Ready(Err(_)) = Pin::new(&mut *sink).poll_flush(cx) {
                return Poll::Ready(Err(End::Gone));
            }
            let mut waiting = self.waiting();
            if grown() {
                return Poll::Ready(Ok(()));
            }
            if waiting.stopping {
                return Poll::Ready(Err(End::Stopping));
            }
            // A commit that comes now waits for the lock, and then wakes us.
            waiting.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}
