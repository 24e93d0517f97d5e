//! Sends results: one tellResult stream after another, each confirmed by its answer.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt;
use grpcio::{ClientCStreamReceiver, RpcStatus};

use super::connection::{End, Link, refusal};
use super::ledger::Ledger;
use super::outgoing::Outgoing;
use crate::rpc_status::{self, Meaning};
use crate::task::TaskId;
use crate::wire::contact as pb;

/// Sends what the ledger has, and notes there what arrived.
///
/// A tellResult stream is answered when it ends, so an open one confirms nothing. A stream that carries results with ids is
/// ended when the ledger is full, or `confirm_every` after the first result. The next one is opened when the answer is there:
/// one at a time, so that results arrive in their order. Without ids there is nothing to confirm, and one stream serves as
/// long as the connection lasts, as in the article's client.
pub(super) struct ResultSender {
    link: Link,
    confirm_every: Duration,
    /// Whether the server knows batches.
    pub(super) batch: bool,
    /// Whether the server has answered a stream.
    pub(super) answered: bool,
    /// Tasks of which the server was told that they are begun.
    pub(super) begun: Vec<TaskId>,
    stream: Option<Stream>,
}

struct Stream {
    sink: Outgoing<pb::Result>,
    answer: ClientCStreamReceiver<pb::Empty>,
    /// When the first result was sent that is to be confirmed.
    since: Option<Instant>,
    ending: bool,
}

impl ResultSender {
    pub(super) fn new(link: Link, confirm_every: Duration) -> ResultSender {
        ResultSender { link, confirm_every, batch: false, answered: false, begun: Vec::new(), stream: None }
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
                self.stream = Some(Stream::open(&self.link)?);
            }
            let Some(stream) = &mut self.stream else { return Ok(()) };
            if !stream.ending {
                if stream.poll_send(cx, now, ledger, self.batch) {
                    self.begun.append(&mut ledger.written());
                }
                let due = stream.since.is_some_and(|since| now >= since + self.confirm_every);
                stream.ending = ledger.is_full() || due || flush && !ledger.has_next();
            }
            if stream.ending && stream.sink.poll_end(cx) {
                self.begun.append(&mut ledger.written());
            }
            let Poll::Ready(answer) = stream.answer.poll_unpin(cx) else { return Ok(()) };
            let early = !stream.ending;
            self.stream = None;
            match answer {
                // An answer to what was not finished does not say how much of it was read.
                Ok(_) if early => return Err(End::lost("the server ended tellResult")),
                Ok(_) => {
                    self.answered = true;
                    ledger.confirm();
                }
                Err(error) => refused(&rpc_status::status_of(error), ledger)?,
            }
        }
    }
}

impl Stream {
    fn open(link: &Link) -> Result<Stream, End> {
        let (sink, answer) =
            link.client.tell_result(link.options.clone()).map_err(|error| End::lost(error.to_string()))?;
        Ok(Stream { sink: Outgoing::new(sink), answer, since: None, ending: false })
    }

    /// Whether all that was sent is on its way.
    fn poll_send(&mut self, cx: &mut Context<'_>, now: Instant, ledger: &mut Ledger, batch: bool) -> bool {
        while !ledger.is_full() && ledger.has_next() && self.sink.poll_ready(cx) {
            let Some(message) = ledger.next(batch) else { break };
            self.sink.send(message);
        }
        if ledger.has_unconfirmed() {
            self.since.get_or_insert(now);
        }
        self.sink.poll_flush(cx)
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
