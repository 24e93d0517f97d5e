//! Carries one session's tasks from its [`Inbox`] into its stream, as a future on the completion queue: no thread waits
//! for a client.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures::Sink as _;
use grpcio::{RpcStatus, ServerStreamingSink, WriteFlags};

use super::status::Refusal;
use crate::broker::{Closed, Delivery, Handle, Inbox, Push, SessionId};
use crate::wire::contact::ServerMsg;

type TaskSink = ServerStreamingSink<ServerMsg>;

/// Text in one batch: an article client's limit for a message is 4 MiB, and one task may be 1 MiB by itself.
const BATCH_BYTES: u64 = 1024 * 1024;

/// Runs until the client goes away or the broker ends the session; says which, for the log.
pub(super) async fn pump(
    mut sink: TaskSink,
    mut inbox: Inbox,
    broker: &Handle,
    session: SessionId,
    client: &str,
    batch: usize,
) -> &'static str {
    // All but the last of what is sent at once may wait in C-core's buffer.
    sink.enhance_batch(true);
    loop {
        match next(&mut sink, &mut inbox).await {
            Err(_) => return "its stream ended",
            Ok(None) => return fail(sink, Refusal::Stopping).await,
            Ok(Some(Push::Close(Closed::Stopping))) => return fail(sink, Refusal::Stopping).await,
            Ok(Some(Push::Close(Closed::TakenOver))) => {
                return fail(sink, Refusal::TakenOver(client.to_owned())).await;
            }
            Ok(Some(Push::Heartbeat)) => {
                if send(&mut sink, ServerMsg::new()).await.is_err() {
                    return "its stream ended";
                }
            }
            Ok(Some(Push::Tasks(deliveries))) => {
                for (message, cost) in messages(&deliveries, batch) {
                    if send(&mut sink, message).await.is_err() {
                        return "its stream ended";
                    }
                    if let Some(taken) = inbox.took(cost) {
                        broker.room(session, taken).await;
                    }
                }
            }
        }
    }
}

/// Waits for the stream to be ready, and then for something to put on it. Polling the sink also registers for the end of
/// the call: without it, an idle client's going away would go unnoticed.
async fn next(sink: &mut TaskSink, inbox: &mut Inbox) -> grpcio::Result<Option<Push>> {
    poll_fn(|cx| {
        if Pin::new(&mut *sink).poll_ready(cx)?.is_pending() {
            return Poll::Pending;
        }
        match inbox.poll_next(cx) {
            Poll::Ready(push) => Poll::Ready(Ok(push)),
            // Nothing more for now: what is buffered goes out.
            Poll::Pending => match Pin::new(&mut *sink).poll_flush(cx)? {
                Poll::Ready(()) | Poll::Pending => Poll::Pending,
            },
        }
    })
    .await
}

async fn send(sink: &mut TaskSink, message: ServerMsg) -> grpcio::Result<()> {
    poll_fn(|cx| Pin::new(&mut *sink).poll_ready(cx)).await?;
    Pin::new(sink).start_send((message, WriteFlags::default()))
}

async fn fail(mut sink: TaskSink, refusal: Refusal) -> &'static str {
    let why = match refusal {
        Refusal::TakenOver(_) => "another stream with its id took over",
        _ => "the server is stopping",
    };
    if poll_fn(|cx| Pin::new(&mut sink).poll_flush(cx)).await.is_ok() {
        let _ = sink.fail(RpcStatus::from(refusal)).await;
    }
    why
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
