//! Wakes those who follow a log when it has grown.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use futures::Sink;

use crate::store::Tail;

/// The futures that wait for the next commit.
#[derive(Clone, Default)]
pub(super) struct Followers {
    waiting: Arc<Mutex<Vec<Waker>>>,
}

impl Followers {
    /// Wakes them at each commit of the store.
    pub(super) fn subscribe(tail: &Tail) -> Followers {
        let followers = Followers::default();
        let waiting = followers.waiting.clone();
        tail.subscribe(Box::new(move |_| {
            let woken = std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
            woken.into_iter().for_each(Waker::wake);
        }));
        followers
    }

    /// Waits until `grown` says so, looking after each commit; an error when the stream of `sink` ended meanwhile.
    pub(super) async fn wait<T, S: Sink<T> + Unpin>(
        &self,
        sink: &mut S,
        grown: impl Fn() -> bool,
    ) -> Result<(), S::Error> {
        poll_fn(|cx| {
            // Also registers for the end of the call.
            let _ = Pin::new(&mut *sink).poll_flush(cx)?;
            if grown() {
                return Poll::Ready(Ok(()));
            }
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(cx.waker().clone());
            // Once more: a commit in between would not wake us.
            if grown() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}
