//! Calls: how they end, and which of them a server waits for when it stops.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;

use futures::task::AtomicWaker;
use grpcio::{ClientStreamingSink, RpcStatus};
use log::debug;

use super::refusal::Refusal;
use crate::codec::{Decoded, First};

/// Why a call does not come to its good end.
pub(super) enum Ended {
    /// The other side is told why.
    Refused(Refusal),
    /// There is no other side any more.
    Disconnected(grpcio::Error),
}

impl Ended {
    /// Lets `fail` tell the other side, if it is still there. `call` names the call in the log.
    pub(super) async fn tell<F: Future>(self, call: &str, fail: impl FnOnce(RpcStatus) -> F) {
        match self {
            Ended::Refused(refusal) => drop(fail(refusal.into()).await),
            Ended::Disconnected(e) => debug!("{call} ended early: {e}"),
        }
    }
}

impl From<grpcio::Error> for Ended {
    fn from(e: grpcio::Error) -> Ended {
        Ended::Disconnected(e)
    }
}

impl<E: Into<Refusal>> From<E> for Ended {
    fn from(e: E) -> Ended {
        Ended::Refused(e.into())
    }
}

/// One message of a stream, or why the stream ends here.
pub(super) fn message<T>(item: grpcio::Result<Decoded<T>>) -> Result<T, Ended> {
    Ok(item?.map_err(Refusal::Undecodable)?)
}

/// The one message of a call.
pub(super) async fn first<T>(request: &mut First<T>) -> Result<T, Refusal> {
    request.read().await?.map_err(Refusal::Undecodable)
}

/// Ends a call that has one answer.
pub(super) async fn answer<T>(sink: ClientStreamingSink<T>, answer: Result<T, Refusal>) {
    // A caller that is gone need not be told.
    let _ = match answer {
        Ok(message) => sink.success(message).await,
        Err(refusal) => sink.fail(refusal.into()).await,
    };
}

/// Counts the calls that are open, of those with which somebody reports, submits or asks something. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Calls(Arc<Shared>);

#[derive(Default)]
struct Shared {
    open: AtomicUsize,
    /// The one that waits for the last of them.
    waiting: AtomicWaker,
}

/// One call, for as long as this is kept.
pub(super) struct Call(Arc<Shared>);

impl Calls {
    pub(super) fn begin(&self) -> Call {
        self.0.open.fetch_add(1, SeqCst);
        Call(self.0.clone())
    }

    /// Resolves when none is open. For one to wait at a time.
    pub(super) async fn none_open(&self) {
        poll_fn(|cx| {
            // First this, then the look: a call that ends in between wakes.
            self.0.waiting.register(cx.waker());
            if self.0.open.load(SeqCst) == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, SeqCst) == 1 {
            self.0.waiting.wake();
        }
    }
}
