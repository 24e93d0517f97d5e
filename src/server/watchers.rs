//! Wakes the calls that watch something when it may have changed.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures::Sink;
use futures::future::{self, Either};
use tokio::sync::watch;

use super::access::Standing;
use super::calls::Ended;
use crate::store::Tail;

/// The calls that wait for news: of the next commit, or of what their owner [wakes](Watchers::wake) them for. Cheap to clone.
///
/// The value says whether the server is stopping. A call that goes drops its receiver, and leaves nothing behind.
#[derive(Clone, Default)]
pub(super) struct Watchers(Arc<watch::Sender<bool>>);

impl Watchers {
    /// Wakes them at each commit of the store.
    pub(super) fn subscribe(tail: &Tail) -> Watchers {
        let watchers = Watchers::default();
        let to_wake = watchers.clone();
        tail.subscribe(Box::new(move |_| to_wake.wake()));
        watchers
    }

    /// Sends them all away.
    pub(super) fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Has them all look again.
    pub(super) fn wake(&self) {
        self.0.send_modify(|_| {});
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.receiver_count()
    }

    /// Waits until `changed` says so, looking at each news, for as long as the stream of `sink` lives and who watches may do so. False:
    /// the server is stopping. What changed before that is still seen.
    pub(super) async fn wait<T, S: Sink<T, Error = grpcio::Error> + Unpin>(
        &self,
        sink: &mut S,
        changed: impl Fn() -> bool,
        standing: &mut Standing,
    ) -> Result<bool, Ended> {
        // News from here on wake it.
        let mut news = self.0.subscribe();
        loop {
            let stopping = *news.borrow_and_update();
            if changed() {
                return Ok(true);
            }
            if stopping {
                return Ok(false);
            }
            match future::select(end(sink, standing), pin!(news.changed())).await {
                Either::Left((ended, _)) => return Err(ended),
                Either::Right(_) => {}
            }
        }
    }

    /// Waits for something else, likewise. `None`: the server is stopping.
    pub(super) async fn unless_over<R, T, S: Sink<T, Error = grpcio::Error> + Unpin>(
        &self,
        next: impl Future<Output = R>,
        sink: &mut S,
        standing: &mut Standing,
    ) -> Result<Option<R>, Ended> {
        let mut news = self.0.subscribe();
        let stopping = pin!(news.wait_for(|stopping| *stopping));
        let over = future::select(end(sink, standing), stopping);
        match future::select(pin!(next), over).await {
            Either::Left((next, _)) => Ok(Some(next)),
            Either::Right((Either::Left((ended, _)), _)) => Err(ended),
            Either::Right((Either::Right(_), _)) => Ok(None),
        }
    }
}

/// The end of the stream of `sink`, or of what its caller may do.
fn end<T, S: Sink<T, Error = grpcio::Error> + Unpin>(
    sink: &mut S,
    standing: &mut Standing,
) -> impl Future<Output = Ended> + Unpin {
    // Polling the sink also registers for the end of the call.
    poll_fn(|cx| match Pin::new(&mut *sink).poll_flush(cx) {
        Poll::Ready(Err(e)) => Poll::Ready(Ended::Disconnected(e)),
        _ => standing.poll_end(cx).map(Ended::Refused),
    })
}
