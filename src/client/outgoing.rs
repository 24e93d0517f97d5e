//! The sending side of a call.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Sink;
use grpcio::{ClientCStreamSender, DuplexSink, Error, Result, WriteFlags};

/// A call's sink that may be polled at any time: grpcio's own panics when it is polled after an error or its end.
///
/// Errors are not returned: the receiving side of the call gives the reason.
pub(super) struct Outgoing<S> {
    sink: S,
    over: bool,
}

/// Where messages go, whoever opened the stream.
pub(super) trait Sends<T> {
    /// Whether a message can be sent now.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> bool;
    /// Sends a message, after [`Sends::poll_ready`] said yes.
    fn send(&mut self, message: T);
    /// Pushes out what was sent. Whether that is done.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> bool;
}

impl<T> Outgoing<ClientCStreamSender<T>> {
    /// Of a call that this side makes. The sink of client streams and of duplex streams is one type.
    pub(super) fn new(mut sink: ClientCStreamSender<T>) -> Self {
        sink.enhance_batch(true);
        Outgoing { sink, over: false }
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
}

impl<T> Outgoing<DuplexSink<T>> {
    /// Of a call that the other side made.
    pub(super) fn answering(mut sink: DuplexSink<T>) -> Self {
        sink.enhance_batch(true);
        Outgoing { sink, over: false }
    }

    /// The sink, to be ended in another way.
    pub(super) fn into_inner(self) -> DuplexSink<T> {
        self.sink
    }
}

impl<S: Unpin> Outgoing<S> {
    fn poll(&mut self, step: impl FnOnce(Pin<&mut S>) -> Poll<Result<()>>) -> bool {
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

impl<T, S: Sink<(T, WriteFlags), Error = Error> + Unpin> Sends<T> for Outgoing<S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll(|sink| sink.poll_ready(cx))
    }

    fn send(&mut self, message: T) {
        self.poll(|sink| Poll::Ready(sink.start_send((message, WriteFlags::default()))));
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll(|sink| sink.poll_flush(cx))
    }
}
