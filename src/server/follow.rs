//! Wakes those who follow something when it may have changed.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use futures::Sink;

use crate::store::Tail;

/// The futures that wait for news: of the next commit, or whatever their owner [wakes](Followers::wake) them for.
#[derive(Clone, Default)]
pub(super) struct Followers(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    /// By ticket: each future has one, and takes it along when it goes.
    wakers: BTreeMap<u64, Waker>,
    next_ticket: u64,
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

    /// Has them all look again.
    pub(super) fn wake(&self) {
        let woken = std::mem::take(&mut self.waiting().wakers);
        woken.into_values().for_each(Waker::wake);
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.waiting().wakers.len()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `changed` says so, looking at each news, for as long as the stream of `sink` lives. What changed before the
    /// server stops is still seen.
    pub(super) async fn wait<T, S: Sink<T> + Unpin>(
        &self,
        sink: &mut S,
        changed: impl Fn() -> bool,
    ) -> Result<(), End> {
        let mut place = Place { followers: self, ticket: None };
        poll_fn(|cx| {
            // Also registers for the end of the call.
            if let Poll::Ready(Err(_)) = Pin::new(&mut *sink).poll_flush(cx) {
                return Poll::Ready(Err(End::Gone));
            }
            let mut waiting = self.waiting();
            if changed() {
                return Poll::Ready(Ok(()));
            }
            if waiting.stopping {
                return Poll::Ready(Err(End::Stopping));
            }
            // News that come now wait for the lock, and then wake us.
            let ticket = *place.ticket.get_or_insert_with(|| {
                waiting.next_ticket += 1;
                waiting.next_ticket
            });
            waiting.wakers.insert(ticket, cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// One future's place among those that wait. News may be years away: it does not stay behind when the future goes.
struct Place<'a> {
    followers: &'a Followers,
    ticket: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.followers.waiting().wakers.remove(&ticket);
        }
    }
}
