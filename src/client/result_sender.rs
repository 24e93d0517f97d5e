//! Sends results: one tellResult stream after another, each confirmed by its answer.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt;
use grpcio::{ClientCStreamReceiver, ClientCStreamSender, DuplexSink, RpcStatus};

use super::connection::{End, Link, refusal};
use super::ledger::Ledger;
use super::outgoing::{Outgoing, Sends};
use crate::rpc_status::{self, Meaning};
use crate::task::TaskId;
use crate::wire::contact as pb;

/// Sends what the ledger has, and notes there what arrived.
///
/// A tellResult stream is answered when it ends, so an open one confirms nothing. A stream that carries results with ids is
/// ended when the ledger is full, or `confirm_every` after the first result. The next one is opened when the answer is there:
/// one at a time, so that results arrive in their order. Without ids there is nothing to confirm, and one stream serves as
/// long as the connection lasts, as in the article's client.
///
/// Over a stream that the server opened it is the same: instead of a stream's answer, the server says how many messages are on disk.
pub(super) struct ResultSender {
    to: To,
    confirm_every: Duration,
    /// Whether the server knows batches.
    pub(super) batch: bool,
    /// Whether the server has answered a stream.
    pub(super) answered: bool,
    /// Tasks of which the server was told that they are begun.
    pub(super) begun: Vec<TaskId>,
    stream: Option<Stream>,
}

/// How results get to the server.
enum To {
    /// By calls of their own.
    Calls(Link),
    /// Over the stream that the server opened.
    Shared(Shared),
}

/// The worker's side of a stream that the server opened.
struct Shared {
    sink: Outgoing<DuplexSink<pb::Result>>,
    /// Messages sent, and how many of them are on disk.
    sent: u64,
    confirmed: u64,
}

/// Results that are confirmed together.
struct Stream {
    by: By,
    /// When the first result was sent that is to be confirmed.
    since: Option<Instant>,
    ending: bool,
}

enum By {
    Call(Box<Call>),
    Shared,
}

/// A tellResult call.
struct Call {
    sink: Outgoing<ClientCStreamSender<pb::Result>>,
    answer: ClientCStreamReceiver<pb::Empty>,
}

impl ResultSender {
    pub(super) fn new(link: Link, confirm_every: Duration) -> ResultSender {
        ResultSender::to(To::Calls(link), confirm_every)
    }

    /// Over a stream that the server opened.
    pub(super) fn sharing(sink: DuplexSink<pb::Result>, confirm_every: Duration) -> ResultSender {
        let shared = Shared { sink: Outgoing::answering(sink), sent: 0, confirmed: 0 };
        ResultSender::to(To::Shared(shared), confirm_every)
    }

    fn to(to: To, confirm_every: Duration) -> ResultSender {
        ResultSender { to, confirm_every, batch: false, answered: false, begun: Vec::new(), stream: None }
    }

    /// The sink of a stream that the server opened.
    pub(super) fn into_sink(self) -> Option<DuplexSink<pb::Result>> {
        match self.to {
            To::Calls(_) => None,
            To::Shared(shared) => Some(shared.sink.into_inner()),
        }
    }

    /// Says that tasks may come. Whether it was said.
    pub(super) fn poll_say_ready(&mut self, cx: &mut Context<'_>) -> bool {
        let To::Shared(shared) = &mut self.to else { return true };
        if !shared.sink.poll_ready(cx) {
            return false;
        }
        shared.sink.send(pb::Result::new());
        shared.sent += 1;
        shared.sink.poll_flush(cx);
        true
    }

    /// The server says how many messages are on disk.
    pub(super) fn confirmed(&mut self, messages: u64) {
        if let To::Shared(shared) = &mut self.to {
            shared.confirmed = shared.confirmed.max(messages);
            self.answered = true;
        }
    }

    /// Whether no stream is open: all that was sent was answered.
    pub(super) fn is_idle(&self) -> bool {
        self.stream.is_none()
    }

    /// When the stream is to be ended.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let since = self.stream.as_ref().filter(|stream| !stream.ending)?.since?;
        Some(since + self.confirm_every)
    }

    /// Sends what can be sent, and takes the answer if it is there. With `flush`, the stream is ended as soon as the ledger has
    /// nothing more to send, so that everything is confirmed.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        ledger: &mut Ledger,
        flush: bool,
    ) -> Result<(), End> {
        loop {
            if self.stream.is_none() && ledger.has_next() {
                self.stream = Some(Stream::open(&self.to)?);
            }
            let Some(stream) = &mut self.stream else {
                if let To::Shared(shared) = &mut self.to {
                    // It may have been said that tasks may come.
                    shared.sink.poll_flush(cx);
                }
                return Ok(());
            };
            if !stream.ending {
                if stream.poll_send(cx, now, ledger, self.batch, &mut self.to) {
                    self.begun.append(&mut ledger.written());
                }
                let due = stream.since.is_some_and(|since| now >= since + self.confirm_every);
                stream.ending = ledger.is_full() || due || flush && !ledger.has_next();
            }
            if stream.ending && stream.poll_end(cx, &mut self.to) {
                self.begun.append(&mut ledger.written());
            }
            let Poll::Ready(answer) = stream.poll_answer(cx, &self.to) else { return Ok(()) };
            let early = !stream.ending;
            self.stream = None;
            match answer {
                // An answer to what was not finished does not say how much of it was read.
                Ok(()) if early => return Err(End::lost("the server ended tellResult")),
                Ok(()) => {
                    self.answered = true;
                    ledger.confirm();
                }
                Err(error) => refused(&rpc_status::status_of(error), ledger)?,
            }
        }
    }
}

impl Stream {
    fn open(to: &To) -> Result<Stream, End> {
        let by = match to {
            To::Calls(link) => {
                let call = link.client.tell_result(link.options.clone());
                let (sink, answer) = call.map_err(|error| End::lost(error.to_string()))?;
                By::Call(Box::new(Call { sink: Outgoing::new(sink), answer }))
            }
            To::Shared(_) => By::Shared,
        };
        Ok(Stream { by, since: None, ending: false })
    }

    /// Whether all that was sent is on its way.
    fn poll_send(&mut self, cx: &mut Context<'_>, now: Instant, ledger: &mut Ledger, batch: bool, to: &mut To) -> bool {
        let mut nobody_counts = 0;
        let (sink, sent): (&mut dyn Sends<pb::Result>, _) = match (&mut self.by, to) {
            (By::Call(call), _) => (&mut call.sink, &mut nobody_counts),
            (By::Shared, To::Shared(shared)) => (&mut shared.sink, &mut shared.sent),
            (By::Shared, To::Calls(_)) => return false,
        };
        while !ledger.is_full() && ledger.has_next() && sink.poll_ready(cx) {
            let Some(message) = ledger.next(batch) else { break };
            sink.send(message);
            *sent += 1;
        }
        if ledger.has_unconfirmed() {
            self.since.get_or_insert(now);
        }
        sink.poll_flush(cx)
    }

    /// Asks for the confirmation. Whether all that was sent is on its way.
    fn poll_end(&mut self, cx: &mut Context<'_>, to: &mut To) -> bool {
        match (&mut self.by, to) {
            (By::Call(call), _) => call.sink.poll_end(cx),
            // The server confirms by itself.
            (By::Shared, To::Shared(shared)) => shared.sink.poll_flush(cx),
            (By::Shared, To::Calls(_)) => false,
        }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>, to: &To) -> Poll<grpcio::Result<()>> {
        match (&mut self.by, to) {
            (By::Call(call), _) => call.answer.poll_unpin(cx).map_ok(|_| ()),
            (By::Shared, To::Shared(Shared { sent, confirmed, .. })) if self.ending && confirmed >= sent => {
                Poll::Ready(Ok(()))
            }
            // Its end is seen where tasks are read.
            (By::Shared, _) => Poll::Pending,
        }
    }
}

/// What a server that opened the stream says of results that it refuses: they are told again one by one, over its next stream.
pub(super) fn refused_over_shared(status: &RpcStatus, ledger: &mut Ledger) {
    if Meaning::of(status) == Meaning::MessageRefused && ledger.has_unconfirmed() {
        // As of a stream of their own.
        let _ = refused(status, ledger);
    }
}

fn refused(status: &RpcStatus, ledger: &mut Ledger) -> Result<(), End> {
    let said = rpc_status::text(status);
    match Meaning::of(status) {
        Meaning::ClientRefused => Err(End::Fatal(refusal(status))),
        // The same report would be refused again.
        Meaning::CallRefused | Meaning::MessageRefused => {
            let released = ledger.can_release();
            match ledger.refuse(rpc_status::is_too_long(status), &said) {
                Some(result) => log::warn!("the server refused the result of task {}: {said}", result.id),
                None if released && !ledger.can_release() => {
                    log::debug!("the server takes no tasks back ({said})");
                }
                None => {
                    log::warn!("the server refused results: {said}; those with an id are reported again one by one")
                }
            }
            Ok(())
        }
        Meaning::TakenOver | Meaning::Unavailable | Meaning::Unclear => Err(End::lost_with(status)),
    }
}
