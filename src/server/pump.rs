//! Carries one session's tasks from its [`Inbox`] into its stream, as a future on the completion queue: no thread waits
//! for a client.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};

use futures::Sink;
use futures::task::AtomicWaker;
use grpcio::{DuplexSink, WriteFlags};

use super::access::Standing;
use super::calls::Ended;
use super::convert;
use super::health::Health;
use super::receipts::OfClient;
use super::refusal::Refusal;
use super::traffic::{Flow, Traffic};
use super::upstream::Upstream;
use crate::broker::{self, Closed, Delivery, Inbox, Push, RevokeReason, SessionId};
use crate::codec::First;
use crate::wire::contact::revoked::Reason;
use crate::wire::contact::{Empty, Revoked, ServerMsg, Watched};

/// Text in one batch, if the client takes that much in a message: the usual limit is 4 MiB, and one task may be 1 MiB by itself.
const BATCH_BYTES: u64 = 1024 * 1024;

/// One session's stream, whoever opened the connection.
pub(super) struct Pump<S> {
    /// Dropped before the end, it would cancel the call. `None`: the server called.
    pub(super) _request: Option<First<Empty>>,
    pub(super) upstream: Upstream,
    pub(super) health: Health,
    pub(super) traffic: Arc<Traffic>,
    pub(super) sink: S,
    pub(super) inbox: Inbox,
    pub(super) session: SessionId,
    /// What the log names the client by.
    pub(super) client: Arc<str>,
    /// Asked before something is sent, and watched.
    pub(super) standing: Standing,
    /// Most tasks in one message.
    pub(super) batch: usize,
    /// The longest message it takes, in bytes.
    pub(super) max_message: u64,
    /// Send an empty message at once, so that the client knows who answers. The initial metadata goes out with the first message, for
    /// the library has no other way.
    pub(super) greet: bool,
    /// What proves to us that it was given a task, if it wants to be able to prove that.
    pub(super) receipts: Option<OfClient>,
    /// How many of its results are on disk, if it hears that here.
    pub(super) confirmed: Option<Confirmed>,
}

/// How many of the messages that a worker sent are on disk: said by the one that takes them, heard by the one that sends. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Confirmed(Arc<Count>);

#[derive(Default)]
struct Count {
    all: AtomicU64,
    /// Of these, what the worker was told.
    told: AtomicU64,
    news: AtomicWaker,
}

impl Confirmed {
    pub(super) fn add(&self, messages: u64) {
        self.0.all.fetch_add(messages, SeqCst);
        self.0.news.wake();
    }

    /// All of them, if the worker was not told so.
    fn poll(&self, cx: &Context<'_>) -> Poll<u64> {
        self.0.news.register(cx.waker());
        match self.0.all.load(SeqCst) {
            all if all > self.0.told.swap(all, SeqCst) => Poll::Ready(all),
            _ => Poll::Pending,
        }
    }

    pub(super) fn all(&self) -> u64 {
        self.0.all.load(SeqCst)
    }
}

/// What is to be sent.
enum Next {
    Push(Push),
    /// So many messages are on disk.
    Confirmed(u64),
}

impl Pump<DuplexSink<ServerMsg>> {
    /// Runs until the client goes away or the broker ends the session.
    pub(super) async fn run(&mut self) -> Ended {
        // All but the last of what is sent at once may wait in C-core's buffer.
        self.sink.enhance_batch(true);
        self.carry().await
    }

    /// Closes the session, and tells the client why, if it is still there.
    pub(super) async fn end(mut self, ended: Ended) {
        self.leave(&ended).await;
        if let Ended::Refused(refusal) = ended
            && poll_fn(|cx| Pin::new(&mut self.sink).poll_flush(cx)).await.is_ok()
        {
            let _ = self.sink.fail(refusal.into()).await;
        }
    }
}

impl<S: Sink<(ServerMsg, WriteFlags), Error = grpcio::Error> + Unpin> Pump<S> {
    /// Runs until the client goes away or the broker ends the session. Then [`Pump::leave`] is next.
    pub(super) async fn carry(&mut self) -> Ended {
        let Err(ended) = self.send_all().await;
        ended
    }

    /// Closes the session: before anything is said of its end, since a client that does not read is not to keep what it has from the others.
    pub(super) async fn leave(&mut self, ended: &Ended) {
        let why = match ended {
            Ended::Disconnected(_) => "its stream ended",
            Ended::Refused(Refusal::TakenOver(_)) => "another stream with its id took over",
            Ended::Refused(Refusal::WrongToken | Refusal::TokenExpired { .. }) => "its token counts no more",
            Ended::Refused(Refusal::DialledNoMore(_)) => "it is dialled no more",
            Ended::Refused(refusal) if !matches!(refusal, Refusal::Stopping { .. }) => "what it told was refused",
            Ended::Refused(_) => "the server is stopping",
        };
        self.upstream.leave(self.session, why).await;
    }

    fn closed(&self, why: Closed) -> Ended {
        Ended::Refused(match why {
            Closed::Stopping => self.health.stopping(),
            Closed::TakenOver => Refusal::TakenOver(self.client.to_string()),
        })
    }

    async fn send_all(&mut self) -> Result<Infallible, Ended> {
        if self.greet {
            self.send(ServerMsg::new()).await?;
        }
        loop {
            let push = match self.next().await? {
                Next::Push(push) => push,
                Next::Confirmed(confirmed) => {
                    self.send(ServerMsg { confirmed, ..ServerMsg::default() }).await?;
                    continue;
                }
            };
            self.standing.check()?;
            match push {
                Push::Close(why) => return Err(self.closed(why)),
                Push::Heartbeat => self.send(ServerMsg::new()).await?,
                // No other server will lead.
                Push::Notes(_) => {}
                Push::Revoked(revoked) => {
                    let revoked = revoked.into_iter().map(revocation).collect();
                    self.send(ServerMsg { revoked, ..ServerMsg::default() }).await?;
                }
                Push::Watched(watched) => {
                    let watched = watched.into_iter().map(watch).collect();
                    self.send(ServerMsg { watched, ..ServerMsg::default() }).await?;
                }
                Push::Tasks(deliveries) => {
                    let bytes = deliveries.iter().map(|delivery| delivery.task.spec.bytes()).sum();
                    let (mut count, most) = (0, BATCH_BYTES.min(self.max_message));
                    for (message, cost) in messages(&deliveries, self.receipts.clone(), self.batch, most) {
                        count += 1;
                        self.send(message).await?;
                        if let Some(taken) = self.inbox.took(cost) {
                            self.upstream.stream_took(self.session, taken).await;
                        }
                    }
                    self.traffic.count(Flow::Tasks, count, bytes);
                }
            }
        }
    }

    /// Waits for the stream to be ready, and then for something to put on it. Polling the sink also registers for the end of
    /// the call: without it, an idle client's going away would go unnoticed.
    async fn next(&mut self) -> Result<Next, Ended> {
        poll_fn(|cx| {
            if let Poll::Ready(why) = self.standing.poll_end(cx) {
                return Poll::Ready(Err(why.into()));
            }
            if Pin::new(&mut self.sink).poll_ready(cx)?.is_pending() {
                return self.inbox.poll_closed(cx).map(|why| Ok(Next::Push(Push::Close(why))));
            }
            if let Some(Poll::Ready(all)) = self.confirmed.as_ref().map(|confirmed| confirmed.poll(cx)) {
                return Poll::Ready(Ok(Next::Confirmed(all)));
            }
            if let Poll::Ready(push) = self.inbox.poll_next(cx) {
                return Poll::Ready(Ok(Next::Push(push)));
            }
            // Nothing more for now: what is buffered goes out.
            let _ = Pin::new(&mut self.sink).poll_flush(cx)?;
            Poll::Pending
        })
        .await
    }

    /// Sends as soon as the stream is ready; not at all if it is to end before.
    async fn send(&mut self, message: ServerMsg) -> Result<(), Ended> {
        poll_fn(|cx| match Pin::new(&mut self.sink).poll_ready(cx)? {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => self.inbox.poll_closed(cx).map(|why| Err(self.closed(why))),
        })
        .await?;
        Ok(Pin::new(&mut self.sink).start_send((message, WriteFlags::default()))?)
    }
}

/// The deliveries as messages, each with what it counts for. One task a message, or batches of `most` bytes for a client that asked.
fn messages(
    deliveries: &[Delivery],
    receipts: Option<OfClient>,
    batch: usize,
    most: u64,
) -> impl Iterator<Item = (ServerMsg, u64)> {
    let mut rest = deliveries;
    std::iter::from_fn(move || {
        let mut cost = 0;
        let fits = |delivery: &&Delivery| {
            cost += delivery.cost();
            cost <= most
        };
        let count = rest.iter().take(batch).take_while(fits).count().max(1).min(rest.len());
        let (now, later) = rest.split_at(count);
        rest = later;
        let message = match now {
            [] => return None,
            [one] => message(one, receipts.as_ref()),
            many => {
                let batch = many.iter().map(|one| message(one, receipts.as_ref())).collect();
                ServerMsg { batch, ..ServerMsg::default() }
            }
        };
        Some((message, now.iter().map(Delivery::cost).sum()))
    })
}

fn revocation(revoked: broker::Revoked) -> Revoked {
    let reason = match revoked.reason {
        RevokeReason::Cancelled => Reason::CANCELLED,
        RevokeReason::Expired => Reason::EXPIRED,
        RevokeReason::GivenToAnother => Reason::GIVEN_TO_ANOTHER,
    };
    Revoked { id: revoked.task, attempt: revoked.attempt, reason: reason.into(), ..Revoked::default() }
}

fn watch(watched: broker::Watched) -> Watched {
    Watched { id: watched.task, attempt: watched.attempt, anew: watched.anew, ..Watched::default() }
}

fn message(delivery: &Delivery, receipts: Option<&OfClient>) -> ServerMsg {
    let receipt = |receipts: &OfClient| receipts.make(delivery.task.id, delivery.attempt).to_vec();
    let spec = &delivery.task.spec;
    let mut message = ServerMsg {
        task: spec.text.clone(),
        key: spec.key.clone().unwrap_or_default(),
        timeout_ms: spec.time_limit.map_or(0, |limit| limit.millis.get()),
        timeout_fails: spec.time_limit.is_some_and(|limit| limit.fails),
        id: delivery.task.id,
        attempt: delivery.attempt,
        spent: delivery.spent,
        max_attempts: delivery.max_attempts.unwrap_or(0),
        expires_at: spec.expires_at.map_or(0, |at| at.0),
        receipt: receipts.map(receipt).unwrap_or_default(),
        ..ServerMsg::default()
    };
    // Most have neither.
    if !spec.attachment.is_nothing() {
        message.headers = convert::headers(&spec.attachment);
        message.data = spec.attachment.data().to_vec();
    }
    message
}
