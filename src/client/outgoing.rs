//! The sending side of a call.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Sink;
use grpcio::{ClientCStreamSender, Result, WriteFlags};

/// A call's sink that may be polled at any time: grpcio's own panics when it is polled after an error or its end.
///
/// Errors are not returned: the receiving side of the call gives the reason.
pub(super) struct Outgoing<T> {
    /// The sink of client streams and of duplex streams is one type.
    sink: ClientCStreamSender<T>,
    over: bool,
}

impl<T> Outgoing<T> {
    pub(super) fn new(mut sink: ClientCStreamSender<T>) -> Outgoing<T> {
        sink.enhance_batch(true);
        Outgoing { sink, over: false }
    }

    /// Whether a message can be sent now.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll(|sink| sink.poll_ready(cx))
    }

    /// Sends a message, after [`Outgoing::poll_ready`] said yes.
    pub(super) fn send(&mut self, message: T) {
        self.poll(|sink| Poll::Ready(sink.start_send((message, WriteFlags::default()))));
    }

    /// Pushes out what was sent. Whether that is done.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll(|sink| sink.poll_flush(cx))
    }

    /// Pushes out what was sent and then ends this side of the call. Whether all is pushed out.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> bool {
        // Closing alone would leave behind what is still buffered.
        let flushed = self.poll_flush(cx);
        if flushed {
            self.over |= self.poll(|sink| sink.poll_close(cx));
        }
        flushed
    }

    fn poll(&mut self, step: impl FnOnce(Pin<&mut ClientCStreamSender<T>>) -> Poll<Result<()>>) -> bool {
        if self.over {
            return false;
        }
        match step(Pin::new(&mut self.sink)) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.over = true;
                false
            }
        }
    }
}
