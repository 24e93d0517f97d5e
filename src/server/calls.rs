//! The calls that a server waits for when it stops: those with which somebody tells, submits or asks something.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;

use futures::task::AtomicWaker;

/// Counts the calls that are open. Cheap to clone.
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
