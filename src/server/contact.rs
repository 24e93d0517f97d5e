//! The `Contact` service: what agents and workers call.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::{SinkExt as _, Stream, StreamExt as _};
use grpcio::{ClientStreamingSink, DuplexSink, MetadataBuilder, RpcContext, WriteFlags};
use protobuf::EnumOrUnknown;

use super::access::{Access, Standing};
use super::admission::LetIn;
use super::calls::{Calls, Ended, first, message};
use super::health::Health;
use super::limits::Limit;
use super::metadata::Metadata;
use super::pump::{Confirmed, Pump};
use super::receipts::{OfClient, Receipts};
use super::refusal::{Refusal, Text};
use super::status_rate::{self, StatusRate};
use super::traffic::{Flow, Traffic};
use super::upstream::{Telling, Upstream};
use crate::broker::{Inbox, Joined, MAX_MESSAGE, OutcomeReport, Piece, Receipt, SessionId};
use crate::codec::{Decoded, First, Requests};
use crate::task::{Name, NewStatus, Outcome, Progress, StartAt, Time, weight};
use crate::wire::contact as pb;
use crate::wire::contact_grpc::Contact;

/// Most messages of a stream that are handled together.
const CHUNK: usize = 256;

/// What one stream may have reported and is not on disk yet, in bytes of [`weight`], beside one message. A client that reports more
/// than the disk takes waits.
const UNDER_WAY: usize = 1024 * 1024;

/// The longest part of what a task printed that is passed on, in bytes: as much as clients keep of it.
const LONGEST_PIECE: usize = 64 * 1024;

/// When a status may be stored again that the disk has no room for: somebody must make some.
const LOW_DISK_WAIT: Duration = Duration::from_secs(60);

/// One clone for each completion queue.
#[derive(Clone)]
pub(super) struct ContactService {
    pub(super) upstream: Upstream,
    pub(super) access: Access,
    pub(super) health: Health,
    pub(super) calls: Calls,
    /// The longest text, in bytes.
    pub(super) limit: usize,
    pub(super) traffic: Arc<Traffic>,
    pub(super) status_rate: Arc<StatusRate>,
    pub(super) receipts: Receipts,
    /// The group of all anonymous clients, if there is one.
    pub(super) anonymous_group: Option<Name>,
}

impl Contact for ContactService {
    fn send_status(
        &mut self,
        ctx: RpcContext<'_>,
        mut requests: Requests<pb::ClientMsg>,
        mut sink: DuplexSink<pb::Result>,
    ) {
        let (service, call) = (self.clone(), self.calls.begin());
        let metadata = LetIn::of_many(&requests).and_then(|caller| Metadata::read(&ctx, caller, &self.access));
        ctx.spawn(async move {
            let _call = call;
            // Lent, not given: a stream of requests that is dropped before its end cancels the call, refusal and all.
            match service.statuses(metadata, &mut requests, &mut sink).await {
                Ok(()) => drop(sink.close().await),
                Err(ended) => ended.tell("a status stream", |status| sink.fail(status)).await,
            }
        });
    }

    fn get_task(&mut self, ctx: RpcContext<'_>, request: First<pb::Empty>, sink: DuplexSink<pb::ServerMsg>) {
        let metadata = LetIn::of(&request).and_then(|(caller, _)| Metadata::read(&ctx, caller, &self.access));
        // Boxed, so that an idle client does not keep the memory that only its coming and going take: two kilobytes.
        let coming = Box::pin(self.clone().join(request, metadata, sink));
        ctx.spawn(async move {
            if let Some(mut pump) = coming.await {
                let ended = pump.run().await;
                Box::pin(pump.end(ended)).await;
            }
        });
    }

    fn tell_result(
        &mut self,
        ctx: RpcContext<'_>,
        mut requests: Requests<pb::Result>,
        sink: ClientStreamingSink<pb::Empty>,
    ) {
        let (service, call) = (self.clone(), self.calls.begin());
        let metadata = LetIn::of_many(&requests).and_then(|caller| Metadata::read(&ctx, caller, &self.access));
        ctx.spawn(async move {
            let _call = call;
            match service.results(metadata, &mut requests).await {
                Ok(()) => drop(sink.success(pb::Empty::new()).await),
                Err(ended) => ended.tell("a result stream", |status| sink.fail(status)).await,
            }
        });
    }
}

impl ContactService {
    /// Opens the session of a client that is to be given tasks. `None`: it was refused, and told so.
    async fn join(
        self,
        mut request: First<pb::Empty>,
        metadata: Result<Metadata, Refusal>,
        mut sink: DuplexSink<pb::ServerMsg>,
    ) -> Option<Pump<DuplexSink<pb::ServerMsg>>> {
        let metadata = match first(&mut request).await.and(metadata) {
            Ok(metadata) => metadata,
            Err(refusal) => {
                let _ = sink.fail(refusal.into()).await;
                return None;
            }
        };
        let refusal = match self.enter(metadata).await {
            Ok(entered) => {
                sink.set_headers(self.introduction(entered.new_group, entered.window));
                return Some(entered.pump(self, sink, Some(request), None));
            }
            Err(refusal) => refusal,
        };
        let _ = sink.fail(refusal.into()).await;
        None
    }

    /// Opens the session of a client.
    pub(super) async fn enter(&self, metadata: Metadata) -> Result<Entered, Refusal> {
        let standing = metadata.standing();
        let (client, greet, batch) = (metadata.label(), metadata.knows_heartbeats(), metadata.batch);
        let max_message = metadata.join.max_message.unwrap_or(MAX_MESSAGE);
        let receipts = self.receipts_of(&metadata).filter(|_| metadata.join.receipts);
        let quota = metadata.join.quota;
        match self.upstream.join(metadata.join).await {
            Some(Ok(Joined { session, inbox, new_group, window })) => {
                if let Some(caller) = standing.caller() {
                    window.into_iter().for_each(|window| caller.has_window(window));
                    // Its limits may have been changed while it came.
                    if let Some(now) = caller.quota().filter(|now| quota != Some(*now)) {
                        let _ = self.upstream.set_quotas(vec![now]).await;
                    }
                }
                Ok(Entered { session, inbox, new_group, window, client, standing, batch, max_message, greet, receipts })
            }
            Some(Err(refusal)) => Err(refusal),
            None => Err(self.health.stopping()),
        }
    }

    /// What a client learns of the server from the initial metadata of getTask.
    pub(super) fn introduction(&self, new_group: Option<StartAt>, window: Option<u32>) -> grpcio::Metadata {
        let mut metadata = MetadataBuilder::with_capacity(4);
        let limit = self.limit.to_string();
        let always = [("contact-version", env!("CARGO_PKG_VERSION")), ("contact-max-task", &limit)];
        let new_group = new_group.map(|from| ("contact-new-group", from.as_str()));
        let window = window.map(|window| window.to_string());
        let window = window.as_ref().map(|window| ("contact-window", window.as_str()));
        for (key, value) in always.into_iter().chain(new_group).chain(window) {
            // Only what is not ASCII is refused.
            let _ = metadata.add_str(key, value);
        }
        metadata.build()
    }

    /// The receipts of a client; `None`: it belongs to no group, and nothing that it tells changes anything.
    fn receipts_of(&self, metadata: &Metadata) -> Option<OfClient> {
        let group = metadata.group(self.anonymous_group.as_ref())?;
        Some(self.receipts.of(group, metadata.identity()))
    }

    async fn statuses(
        &self,
        metadata: Result<Metadata, Refusal>,
        requests: &mut Requests<pb::ClientMsg>,
        sink: &mut DuplexSink<pb::Result>,
    ) -> Result<(), Ended> {
        let metadata = metadata?;
        let (client, mut standing) = (metadata.label(), metadata.standing());
        let peer = metadata.join.peer;
        let limit = self.limit.min(status_rate::LONGEST);
        sink.enhance_batch(true);
        while let Some(chunk) = chunk(requests, |message| weight(message.msg.len()), &mut standing).await? {
            standing.in_turn(Limit::Statuses, chunk.len()).await?;
            let mut statuses = Vec::with_capacity(chunk.len());
            // All answers in their order, and the places of those to what is stored.
            let (mut answers, mut stored) = (Vec::with_capacity(chunk.len()), Vec::with_capacity(chunk.len()));
            let mut ended = None;
            for item in chunk {
                match message(item).and_then(|m| Ok(Text::Status.check(m.msg, limit)?)) {
                    Ok(msg) => match self.status_rate.take(&client, &peer, msg.len(), Instant::now()) {
                        Ok(()) => {
                            stored.push(answers.len());
                            answers
                                .push(pb::Result {
                                    ret: format!("服务端接收到消息:{msg}"), ..pb::Result::default()
                                });
                            statuses.push(NewStatus { client: client.clone(), msg, at: Time::now() });
                        }
                        Err(wait) => answers.push(not_stored("STATUS_RATE", "a client may send 10 a second", wait)),
                    },
                    Err(e) => {
                        ended = Some(e);
                        break;
                    }
                }
            }
            // What came before a bad message counts.
            if !answers.is_empty() {
                let bytes = statuses.iter().map(|status| status.msg.len()).sum();
                self.traffic.count(Flow::Statuses, answers.len(), bytes);
                match self.upstream.record_statuses(statuses).await {
                    Err(low) if low.is_low() => {
                        // A client that only reports how it is goes on: its statuses can be done without, its stream cannot.
                        let (refusal, wait) = (low.to_string(), LOW_DISK_WAIT);
                        stored.iter().for_each(|at| answers[*at] = not_stored("DISK_LOW", &refusal, wait));
                    }
                    written => written?,
                }
                self.traffic.count(Flow::StatusAnswers, answers.len(), answers.iter().map(|a| a.ret.len()).sum());
                let answers = answers.into_iter().map(|answer| Ok((answer, WriteFlags::default())));
                sink.send_all(&mut futures::stream::iter(answers)).await?;
            }
            if let Some(ended) = ended {
                return Err(ended);
            }
        }
        Ok(())
    }

    async fn results(
        &self,
        metadata: Result<Metadata, Refusal>,
        requests: &mut Requests<pb::Result>,
    ) -> Result<(), Ended> {
        let mut intake = self.intake(metadata?).await?;
        let ended = loop {
            if let (_, Some(ended)) = intake.take(requests).await {
                break ended;
            }
        };
        // Answered when all of it is on disk, the end of the stream being good or bad.
        let written = intake.flushed().await;
        ended.and(Ok(written?))
    }

    /// What takes the results of a client.
    pub(super) async fn intake(&self, metadata: Metadata) -> Result<Intake, Refusal> {
        let (standing, receipts) = (metadata.standing(), self.receipts_of(&metadata));
        let telling = self.upstream.reporting(metadata.reporter()).await?;
        let service = self.clone();
        Ok(Intake { service, telling, receipts, standing, under_way: 0, awaits_ready: false })
    }

    fn report(&self, message: pb::Result, receipts: Option<&OfClient>) -> Result<OutcomeReport, Refusal> {
        if let Some(newest) = self.upstream.newest_task().filter(|newest| message.id > *newest) {
            return Err(Refusal::NoSuchTask(message.id, newest));
        }
        let is_good = |receipts: &OfClient| receipts.is_good(&message.receipt, message.id, message.attempt);
        let receipt = match &message.receipt[..] {
            [] => Receipt::Missing,
            _ if receipts.is_some_and(is_good) => Receipt::Good,
            _ => Receipt::Bad,
        };
        let is_shown = !message.output.is_empty() && self.upstream.is_watched(message.id);
        Ok(OutcomeReport {
            printed: is_shown.then(|| piece(message.output, message.output_from)),
            task: message.id,
            attempt: message.attempt,
            outcome: outcome(message.outcome)?,
            attachment: Text::Result.attachment(&message.ret, message.headers, message.data, self.limit)?,
            ret: message.ret,
            progress: message.progress.and_then(Progress::of),
            delay: Duration::from_millis(message.delay_ms.into()),
            receipt,
        })
    }
}

/// A session that was opened, and is to have its stream.
pub(super) struct Entered {
    session: SessionId,
    inbox: Inbox,
    pub(super) new_group: Option<StartAt>,
    window: Option<u32>,
    pub(super) client: Arc<str>,
    standing: Standing,
    batch: usize,
    max_message: u64,
    greet: bool,
    receipts: Option<OfClient>,
}

impl Entered {
    /// What carries its tasks.
    pub(super) fn pump<S>(
        self,
        service: ContactService,
        sink: S,
        request: Option<First<pb::Empty>>,
        confirmed: Option<Confirmed>,
    ) -> Pump<S> {
        let Entered { session, inbox, client, standing, batch, max_message, greet, receipts, .. } = self;
        let ContactService { upstream, health, traffic, .. } = service;
        Pump {
            _request: request,
            upstream,
            health,
            traffic,
            sink,
            inbox,
            session,
            client,
            standing,
            batch,
            max_message,
            greet,
            receipts,
            confirmed,
        }
    }
}

/// Takes what one client tells of its tasks, whoever opened the connection.
pub(super) struct Intake {
    service: ContactService,
    telling: Telling,
    receipts: Option<OfClient>,
    standing: Standing,
    /// What was reported since the last flush, in bytes.
    under_way: usize,
    /// An empty result is still to come: it is not one, but says that the client takes tasks.
    pub(super) awaits_ready: bool,
}

impl Intake {
    /// Takes the messages that are there, at least one. Says how many of them count, and how the stream ended, if it has. What came before
    /// a bad message counts.
    pub(super) async fn take(
        &mut self,
        requests: &mut (impl Stream<Item = grpcio::Result<Decoded<pb::Result>>> + Unpin),
    ) -> (u64, Option<Result<(), Ended>>) {
        let chunk = match chunk(requests, weight_of, &mut self.standing).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return (0, Some(Ok(()))),
            Err(why) => return (0, Some(Err(why.into()))),
        };
        let (mut messages, mut reports) = (0, Vec::with_capacity(chunk.len()));
        let mut ended = None;
        for item in chunk {
            match message(item).and_then(|message| Ok(self.flatten(message, &mut reports)?)) {
                Ok(()) => messages += 1,
                Err(e) => {
                    ended = Some(e);
                    break;
                }
            }
        }
        let (rows, bytes) = (reports.len(), reports.iter().map(OutcomeReport::bytes).sum::<usize>());
        self.service.traffic.count(Flow::Results, messages as usize, bytes);
        self.under_way += reports.iter().map(OutcomeReport::weight).sum::<usize>();
        // Whoever is held up here loses nothing: it has been read, and counts when its turn comes.
        if let Err(why) = self.standing.in_turn(Limit::Results, rows).await {
            return (0, Some(Err(why.into())));
        }
        let mut taken = self.telling.report(reports).await;
        if taken.is_ok() && self.under_way > UNDER_WAY {
            taken = self.flushed().await;
        }
        match taken {
            Ok(()) => (messages, ended.map(Err)),
            Err(e) => (0, Some(Err(e.into()))),
        }
    }

    /// Resolves when all that was taken is on disk.
    pub(super) async fn flushed(&mut self) -> Result<(), Refusal> {
        self.under_way = 0;
        self.telling.flushed().await
    }

    /// The results of one message, checked.
    fn flatten(&mut self, message: pb::Result, reports: &mut Vec<OutcomeReport>) -> Result<(), Refusal> {
        if self.awaits_ready && message == pb::Result::default() {
            self.awaits_ready = false;
            return Ok(());
        }
        let receipts = self.receipts.as_ref();
        if message.batch.is_empty() {
            reports.push(self.service.report(message, receipts)?);
            return Ok(());
        }
        for one in message.batch {
            if !one.batch.is_empty() {
                return Err(Refusal::NestedBatch);
            }
            reports.push(self.service.report(one, receipts)?);
        }
        Ok(())
    }
}

/// The answer to a status that is not stored. A client that knows only the text goes on as well.
fn not_stored(reason: &str, why: &str, wait: Duration) -> pb::Result {
    pb::Result {
        ret: format!("服务端未保存消息 ({reason}: {why})"),
        outcome: pb::Outcome::RETRY.into(),
        delay_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1),
        ..pb::Result::default()
    }
}

/// The messages that are there, at least one: as many as are handled together. `None`: there will be no more. An error: whoever sends
/// them may do so no more.
async fn chunk<T>(
    requests: &mut (impl Stream<Item = grpcio::Result<Decoded<T>>> + Unpin),
    weight: impl Fn(&T) -> usize,
    standing: &mut Standing,
) -> Result<Option<Vec<grpcio::Result<Decoded<T>>>>, Refusal> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    let chunk = poll_fn(|cx| {
        if let Poll::Ready(why) = standing.poll_end(cx) {
            return Poll::Ready(Err(why));
        }
        while chunk.len() < CHUNK && bytes < UNDER_WAY {
            match requests.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(item))) => {
                    bytes += item.as_ref().map_or(0, &weight);
                    chunk.push(Ok(item));
                }
                // The call is over, and is not to be asked again.
                Poll::Ready(Some(Err(error))) => {
                    chunk.push(Err(error));
                    break;
                }
                Poll::Ready(None) if chunk.is_empty() => return Poll::Ready(Ok(None)),
                Poll::Pending if chunk.is_empty() => return Poll::Pending,
                // A stream of requests says again that it is over.
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(Some(std::mem::take(&mut chunk))))
    })
    .await?;
    // It may have ended in this moment.
    standing.check()?;
    Ok(chunk)
}

/// What a message with results counts for while it waits.
fn weight_of(message: &pb::Result) -> usize {
    let headers =
        |one: &pb::Result| one.headers.iter().map(|(key, value)| weight(key.len() + value.len())).sum::<usize>();
    let one = |one: &pb::Result| weight(one.ret.len() + one.data.len() + headers(one)) + one.output.len();
    message.batch.iter().map(one).sum::<usize>() + one(message)
}

/// What was printed: the end of it, if it is longer than a client should send.
fn piece(mut bytes: Vec<u8>, from: u64) -> Piece {
    let cut = bytes.len().saturating_sub(LONGEST_PIECE);
    bytes.drain(..cut);
    Piece { from: from.saturating_add(cut as u64), bytes }
}

fn outcome(outcome: EnumOrUnknown<pb::Outcome>) -> Result<Outcome, Refusal> {
    match outcome.enum_value() {
        Ok(pb::Outcome::DONE) => Ok(Outcome::Done),
        Ok(pb::Outcome::RETRY) => Ok(Outcome::Retry),
        Ok(pb::Outcome::FAILED) => Ok(Outcome::Failed),
        Ok(pb::Outcome::WORKING) => Ok(Outcome::Working),
        Ok(pb::Outcome::RELEASED) => Ok(Outcome::Released),
        Err(number) => Err(Refusal::UnknownNumber { field: "outcome", number }),
    }
}
