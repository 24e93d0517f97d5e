//! How messages become bytes and back, which calls are let in, and how the first message of one is waited for.

use std::any::Any;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{self, Either};
use futures::{Stream, StreamExt as _};
use futures_timer::Delay;
use grpcio::{GrpcSlice, Marshaller, MessageReader, Method, MethodType, RequestStream, RpcContext, RpcStatus, pb_ser};
use protobuf::{CodedInputStream, Message};

/// A request as the server reads it. Bytes that are no such message reach the service, which refuses them with a clear status;
/// grpcio would answer INTERNAL.
pub type Decoded<T> = Result<T, protobuf::Error>;

/// Decides whether a call is let in, before anything of it is read. What it gives is kept until the call ends; an error ends it.
pub type Admit = Arc<dyn Fn(&RpcContext<'_>) -> Result<Permit, RpcStatus> + Send + Sync>;

/// What a call was let in with.
pub type Permit = Box<dyn Any + Send>;

/// Lets every call in.
pub fn all_calls() -> Admit {
    Arc::new(|_| Ok(Box::new(())))
}

/// The messages of a call.
///
/// To be kept until the call has ended: one that is dropped before cancels it.
pub struct Requests<T> {
    stream: RequestStream<Decoded<T>>,
    _permit: Permit,
}

impl<T> Requests<T> {
    /// Of a call that was let in.
    pub fn of(stream: RequestStream<Decoded<T>>, permit: Permit) -> Requests<T> {
        Requests { stream, _permit: permit }
    }
}

impl<T> Stream for Requests<T> {
    type Item = grpcio::Result<Decoded<T>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx)
    }
}

/// The one message of a call, which may be yet to come.
///
/// grpcio keeps a request slot of its completion queue for a call with one message until that is there: headers without a message,
/// a thousand times, would keep everybody else out. So the server takes each call as a stream of messages, which is the same on the
/// wire, and waits here. To be kept until the call has ended, as [`Requests`] are.
pub struct First<T>(Requests<T>);

/// No message came with a call that is to have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the call carried no message, or not within {} s", FIRST_MESSAGE.as_secs())]
pub struct NoMessage;

/// How long the message of a call may take after its headers: a slow link needs seconds, and a client that waits for an operator sends
/// it at once.
pub const FIRST_MESSAGE: Duration = Duration::from_secs(10);

impl<T> First<T> {
    /// Of a call with these messages.
    pub fn of(requests: Requests<T>) -> First<T> {
        First(requests)
    }

    /// Waits for the message, for [`FIRST_MESSAGE`] at most.
    pub async fn read(&mut self) -> Result<Decoded<T>, NoMessage> {
        match future::select(self.0.next(), pin!(Delay::new(FIRST_MESSAGE))).await {
            Either::Left((Some(Ok(message)), _)) => Ok(message),
            Either::Left((Some(Err(_)) | None, _)) | Either::Right(_) => Err(NoMessage),
        }
    }
}

/// A method as a client calls it.
pub const fn client_method<Q: Message, P: Message>(ty: MethodType, name: &'static str) -> Method<Q, P> {
    Method {
        ty,
        name,
        req_mar: Marshaller { ser: pb_ser, de: grpcio::pb_de },
        resp_mar: Marshaller { ser: pb_ser, de: grpcio::pb_de },
    }
}

/// A method as the server offers it.
pub const fn server_method<Q: Message, P: Message>(ty: MethodType, name: &'static str) -> Method<Decoded<Q>, P> {
    Method {
        ty,
        name,
        req_mar: Marshaller { ser: never_sent, de: decode },
        resp_mar: Marshaller { ser: pb_ser, de: grpcio::pb_de },
    }
}

fn decode<T: Message>(mut reader: MessageReader) -> grpcio::Result<Decoded<T>> {
    Ok(T::parse_from(&mut CodedInputStream::from_buf_read(&mut reader)))
}

fn never_sent<T>(_: &Decoded<T>, _: &mut GrpcSlice) -> grpcio::Result<()> {
    Err(grpcio::Error::Codec("a server does not send requests".into()))
}
