//! Telling results: one tellResult stream after another, each confirmed by its answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::{FutureExt, Sink, SinkExt};
use grpcio::{ClientCStreamReceiver, ClientCStreamSender, RpcStatus, RpcStatusCode, WriteFlags};

use super::connection::{End, Link, refusal, say, status_of};
use super::ledger::Ledger;
use crate::wire::contact as pb;

/// Results on one stream before it is ended, so that they are confirmed. Bounds what is kept: two streams of these.
const STREAM_RESULTS: usize = 1000;

/// Sends what the ledger has, and tells the ledger what arrived.
///
/// A tellResult stream is answered when it ends, so an open one confirms nothing. A stream that carries results with
/// ids is therefore ended after [`STREAM_RESULTS`] of them, or `confirm_every` after the first one, and the next one
/// is opened while the answer is awaited: at most two streams at a time. Without ids there is nothing to confirm, and
/// one stream serves for as long as the connection lives, as the article's client has it.
pub(super) struct Teller {
    link: Link,
    confirm_every: Duration,
    /// The server knows batches.
    pub(super) batch: bool,
    streams: u64,
    open: Option<Stream>,
    closing: Option<Stream>,
}

struct Stream {
    number: u64,
    sink: ClientCStreamSender<pb::Result>,
    answer: ClientCStreamReceiver<pb::Empty>,
    tracked: usize,
    first_tracked: Option<Instant>,
    /// It carries the one result it is to carry.
    complete: bool,
}

impl Teller {
    pub(super) fn new(link: Link, confirm_every: Duration) -> Teller {
        Teller { link, confirm_every, batch: false, streams: 0, open: None, closing: None }
    }

    /// Whether no stream is open: all that was sent was answered.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_none() && self.closing.is_none()
    }

    /// When the open stream is to be ended.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let first = self.open.as_ref().filter(|_| self.closing.is_none())?.first_tracked?;
        Some(first + self.confirm_every)
    }

    /// Sends what can be sent and takes the answers that are there. With `flush`, the stream is ended as soon as the
    /// ledger has nothing more to say, so that everything is confirmed.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        ledger: &mut Ledger,
        flush: bool,
    ) -> Result<(), End> {
        self.poll_closing(cx, ledger)?;
        if self.open.is_none() && ledger.has_next() {
            self.streams += 1;
            self.open = Some(Stream::open(&self.link, self.streams)?);
        }
        let Some(stream) = &mut self.open else { return Ok(()) };
        stream.poll_send(cx, now, ledger, self.batch);
        if let Poll::Ready(answer) = stream.poll_answer(cx) {
            let number = stream.number;
            self.open = None;
            // An answer to what was not finished does not say how much of it was read.
            answer.as_ref().map_or(Ok(()), |()| Err(End::Lost("the server ended tellResult".into())))?;
            return settle(answer, number, ledger);
        }
        let full = stream.complete || stream.tracked >= STREAM_RESULTS;
        let due = stream.first_tracked.is_some_and(|first| now >= first + self.confirm_every);
        if self.closing.is_none() && (full || due || flush && !ledger.has_next()) {
            self.closing = self.open.take();
            self.poll_closing(cx, ledger)?;
        }
        Ok(())
    }

    fn poll_closing(&mut self, cx: &mut Context<'_>, ledger: &mut Ledger) -> Result<(), End> {
        let Some(stream) = &mut self.closing else { return Ok(()) };
        // Closing alone would leave behind what the sink still buffers.
        if let Poll::Ready(Ok(())) = stream.sink.poll_flush_unpin(cx) {
            let _ = stream.sink.poll_close_unpin(cx);
        }
        let Poll::Ready(answer) = stream.poll_answer(cx) else { return Ok(()) };
        let number = stream.number;
        self.closing = None;
        settle(answer, number, ledger)
    }
}

impl Stream {
    fn open(link: &Link, number: u64) -> Result<Stream, End> {
        let (mut sink, answer) =
            link.client.tell_result(link.options.clone()).map_err(|error| End::Lost(error.to_string()))?;
        sink.enhance_batch(true);
        Ok(Stream { number, sink, answer, tracked: 0, first_tracked: None, complete: false })
    }

    /// Errors of the sink are passed over: the answer says what the matter is.
    fn poll_send(&mut self, cx: &mut Context<'_>, now: Instant, ledger: &mut Ledger, batch: bool) {
        let mut sink = Pin::new(&mut self.sink);
        while !self.complete && self.tracked < STREAM_RESULTS && ledger.has_next() {
            let Poll::Ready(Ok(())) = sink.as_mut().poll_ready(cx) else { return };
            self.complete = ledger.next_is_suspect();
            if self.complete && self.tracked > 0 {
                break;
            }
            let Some((message, tracked)) = ledger.next(self.number, batch) else { break };
            self.tracked += tracked;
            if tracked > 0 {
                self.first_tracked.get_or_insert(now);
            }
            if sink.as_mut().start_send((message, WriteFlags::default())).is_err() {
                return;
            }
        }
        let _ = sink.poll_flush(cx);
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RpcStatus>> {
        self.answer.poll_unpin(cx).map(|answer| answer.map(drop).map_err(status_of))
    }
}

fn settle(answer: Result<(), RpcStatus>, stream: u64, ledger: &mut Ledger) -> Result<(), End> {
    let Err(status) = answer else {
        ledger.confirm(stream);
        return Ok(());
    };
    match status.code() {
        RpcStatusCode::UNAUTHENTICATED | RpcStatusCode::PERMISSION_DENIED => Err(End::Fatal(refusal(&status))),
        // To tell the same again would be refused again.
        RpcStatusCode::NOT_FOUND
        | RpcStatusCode::INVALID_ARGUMENT
        | RpcStatusCode::FAILED_PRECONDITION
        | RpcStatusCode::OUT_OF_RANGE
        | RpcStatusCode::RESOURCE_EXHAUSTED
        | RpcStatusCode::UNIMPLEMENTED => {
            let status = say(&status);
            match ledger.refuse(stream) {
                Some(result) => {
                    log::warn!("the server refused the result of task {}: {status}; it is dropped", result.id)
                }
                None => log::warn!("the server refused results: {status}; those with an id are told again one by one"),
            }
            Ok(())
        }
        _ => Err(End::Lost(say(&status))),
    }
}
