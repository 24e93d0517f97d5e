//! Carries one session's tasks from its [`Inbox`] into its stream, as a future on the completion queue: no thread waits
//! for a client.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures::Sink as _;
use grpcio::{RpcStatus, ServerStreamingSink, WriteFlags};

use super::contact::ContactService;
use super::refusal::Refusal;
use super::traffic::Flow;
use crate::broker::{Closed, Delivery, Inbox, Push, SessionId};
use crate::wire::contact::ServerMsg;

type TaskSink = ServerStreamingSink<ServerMsg>;

/// Text in one batch: an article client's limit for a message is 4 MiB, and one task may be 1 MiB by itself.
const BATCH_BYTES: u64 = 1024 * 1024;

/// Why a stream carries no more.
enum End {
    /// The client went away.
    Gone,
    /// The broker says so.
    Closed(Closed),
}

impl From<grpcio::Error> for End {
    fn from(_: grpcio::Error) -> End {
        End::Gone
    }
}

/// Runs until the client goes away or the broker ends the session; says which, for the log.
pub(super) async fn pump(
    service: &ContactService,
    mut sink: TaskSink,
    mut inbox: Inbox,
    session: SessionId,
    client: &str,
    batch: usize,
) -> &'static str {
    // All but the last of what is sent at once may wait in C-core's buffer.
    sink.enhance_batch(true);
    let Err(end) = carry(service, &mut sink, &mut inbox, session, batch).await;
    let (refusal, why) = match end {
        End::Gone => return "its stream ended",
        End::Closed(Closed::Stopping) => (service.health.stopping(), "the server is stopping"),
        End::Closed(Closed::TakenOver) => {
            (Refusal::TakenOver(client.to_owned()), "another stream with its id took over")
        }
    };
    if poll_fn(|cx| Pin::new(&mut sink).poll_flush(cx)).await.is_ok() {
        let _ = sink.fail(RpcStatus::from(refusal)).await;
    }
    why
}

async fn carry(
    service: &ContactService,
    sink: &mut TaskSink,
    inbox: &mut Inbox,
    session: SessionId,
    batch: usize,
) -> Result<Infallible, End> {
    loop {
        match next(sink, inbox).await? {
            Push::Close(why) => return Err(End::Closed(why)),
            Push::Heartbeat => send(sink, inbox, ServerMsg::new()).await?,
            Push::Tasks(deliveries) => {
                let bytes = deliveries.iter().map(|delivery| delivery.task.spec.text.len()).sum();
                let mut count = 0;
                for (message, cost) in messages(&deliveries, batch) {
                    count += 1;
                    send(sink, inbox, message).await?;
                    if let Some(taken) = inbox.took(cost) {
                        service.broker.stream_took(session, taken).await;
                    }
                }
                service.traffic.count(Flow::Tasks, count, bytes);
            }
        }
    }
}

/// Waits for the stream to be ready, and then for something to put on it. Polling the sink also registers for the end of
/// the call: without it, an idle client's going away would go unnoticed.
async fn next(sink: &mut TaskSink, inbox: &mut Inbox) -> Result<Push, End> {
    poll_fn(|cx| {
        if Pin::new(&mut *sink).poll_ready(cx)?.is_pending() {
            return inbox.poll_closed(cx).map(|why| Ok(Push::Close(why)));
        }
        if let Poll::Ready(push) = inbox.poll_next(cx) {
            return Poll::Ready(Ok(push));
        }
        // Nothing more for now: what is buffered goes out.
        let _ = Pin::new(&mut *sink).poll_flush(cx)?;
        Poll::Pending
    })
    .await
}

/// Sends as soon as the stream is ready; not at all if it is to end before.
async fn send(sink: &mut TaskSink, inbox: &mut Inbox, message: ServerMsg) -> Result<(), End> {
    poll_fn(|cx| match Pin::new(&mut *sink).poll_ready(cx)? {
        Poll::Ready(()) => Poll::Ready(Ok(())),
        Poll::Pending => inbox.poll_closed(cx).map(|why| Err(End::Closed(why))),
    })
    .await?;
    Ok(Pin::new(sink).start_send((message, WriteFlags::default()))?)
}

/// The deliveries as messages, each with what it counts for. One task a message, or batches for a client that asked.
fn messages(deliveries: &[Delivery], batch: usize) -> impl Iterator<Item = (ServerMsg, u64)> {
    let mut rest = deliveries;
    std::iter::from_fn(move || {
        let mut cost = 0;
        let fits = |delivery: &&Delivery| {
            cost += delivery.cost();
            cost <= BATCH_BYTES
        };
        let count = rest.iter().take(batch).take_while(fits).count().max(1).min(rest.len());
        let (now, later) = rest.split_at(count);
        rest = later;
        let message = match now {
            [] => return None,
            [one] => message(one),
            many => ServerMsg { batch: many.iter().map(message).collect(), ..ServerMsg::default() },
        };
        Some((message, now.iter().map(Delivery::cost).sum()))
    })
}

fn message(delivery: &Delivery) -> ServerMsg {
    ServerMsg {
        task: delivery.task.spec.text.clone(),
        id: delivery.task.id,
        attempt: delivery.attempt,
        ..ServerMsg::default()
    }
}
