//! How messages become bytes and back, which calls are let in, and how the first message of one is waited for.

use std::any::Any;
use std::io::Read as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{self, Either};
use futures::{Stream, StreamExt as _};
use futures_timer::Delay;
use grpcio::{GrpcSlice, Marshaller, MessageReader, Method, MethodType, RequestStream, RpcContext, RpcStatus, pb_ser};
use protobuf::rt::WireType;
use protobuf::{CodedInputStream, Message};

/// A request as the server reads it. Bytes that are no such message reach the service, which refuses them with a clear status;
/// grpcio would answer INTERNAL.
pub type Decoded<T> = Result<T, Unreadable>;

/// Most results in one message. A server puts no more tasks into one, so whoever answers as it was given sends no more.
pub const MOST_RESULTS: usize = 4096;

/// Most tasks in one request: more than `contactctl` sends, which is 100,000 at most.
pub const MOST_TASKS: usize = 131_072;

/// Why a message was not read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is none of that kind.
    #[error(transparent)]
    Undecodable(#[from] protobuf::Error),
    /// It has more of something than is taken in one message.
    #[error("{count} {what} in one message, and at most {limit} are taken: send them in several messages")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// Most that are taken.
        limit: usize,
    },
}

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
    let Some(rows) = Rows::of(T::NAME).filter(|rows| reader.len() > rows.limit * Rows::SHORTEST) else {
        return Ok(T::parse_from(&mut CodedInputStream::from_buf_read(&mut reader)).map_err(Unreadable::from));
    };
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(protobuf::Error::from)?;
    Ok(rows.check(&bytes).and_then(|()| Ok(T::parse_from_bytes(&bytes)?)))
}

/// Messages within a message, of which there are bounded many. A row takes two bytes on the wire, and a hundred or two when it is
/// decoded. So rows are counted before that, in messages that are long enough to have too many.
///
/// What else a message may cost is bounded by its length: a text as much as on the wire, a field of no meaning twelve times
/// that.
struct Rows {
    what: &'static str,
    /// The tag of the field.
    tag: u32,
    /// The rows may hold such rows in turn, which count, too.
    nested: bool,
    limit: usize,
}

impl Rows {
    /// Bytes of a row that is empty: a tag and a length.
    const SHORTEST: usize = 2;

    /// Those of the message of that name.
    fn of(message: &str) -> Option<Rows> {
        let tag = |field: u32| (field << 3) | WireType::LengthDelimited as u32;
        match message {
            "Result" => Some(Rows { what: "results", tag: tag(5), nested: true, limit: MOST_RESULTS }),
            "SubmitRequest" => Some(Rows { what: "tasks", tag: tag(1), nested: false, limit: MOST_TASKS }),
            _ => None,
        }
    }

    fn check(&self, bytes: &[u8]) -> Result<(), Unreadable> {
        match self.count(bytes)? {
            count if count > self.limit => Err(Unreadable::TooMany { what: self.what, count, limit: self.limit }),
            _ => Ok(()),
        }
    }

    /// Goes over the fields. It goes into rows that are nested as if their fields stood outside: a row ends where a field does, or the
    /// message cannot be decoded.
    fn count(&self, bytes: &[u8]) -> protobuf::Result<usize> {
        let mut fields = CodedInputStream::from_bytes(bytes);
        let mut count = 0;
        while let Some(tag) = fields.read_raw_tag_or_eof()? {
            if tag == self.tag {
                count += 1;
                let length = fields.read_raw_varint32()?;
                if !self.nested {
                    fields.skip_raw_bytes(length)?;
                }
            } else {
                // The stream itself refuses a kind of field that there is not.
                let kind = WireType::new(tag & 7).ok_or_else(no_such_field)?;
                fields.skip_field(kind)?;
            }
        }
        Ok(count)
    }
}

fn no_such_field() -> protobuf::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, "a field of no known kind").into()
}

fn never_sent<T>(_: &Decoded<T>, _: &mut GrpcSlice) -> grpcio::Result<()> {
    Err(grpcio::Error::Codec("a server does not send requests".into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::wire::contact::Result as Told;
    use crate::wire::control::{NewTask, SubmitRequest};

    fn told(id: u64, batch: Vec<Told>) -> Told {
        Told { ret: "*\n".repeat(7), id, attempt: 3, batch, delay_ms: 9, ..Told::default() }
    }

    #[test]
    fn rows_are_counted_as_they_are_decoded_however_they_are_nested() {
        let rows = Rows::of(Told::NAME).unwrap();
        let nested =
            told(1, vec![told(2, vec![told(3, vec![]); 5]), Told::new(), told(u64::MAX, vec![Told::new(); 2])]);
        for (message, count) in [(Told::new(), 0), (told(7, vec![]), 0), (nested, 10)] {
            assert_eq!(rows.count(&message.write_to_bytes().unwrap()).unwrap(), count, "{message:?}");
        }
        let rows = Rows::of(SubmitRequest::NAME).unwrap();
        // The text of a task looks like a task.
        let task = NewTask { task: "\n\n\n\n".into(), to: "\n".into(), ..NewTask::default() };
        let request = SubmitRequest { tasks: vec![task; 5], ..SubmitRequest::default() };
        assert_eq!(rows.count(&request.write_to_bytes().unwrap()).unwrap(), 5);
    }

    #[test]
    fn no_bytes_have_more_rows_decoded_than_are_counted() {
        let rows = Rows::of(Told::NAME).unwrap();
        // Rows that say they are longer or shorter than they are, groups, fields of no kind.
        for noise in 0..20_000_u64 {
            let words = [noise.wrapping_mul(0x9e37_79b9_7f4a_7c15), noise.wrapping_mul(0xd134_2543_de82_ef95)];
            let bytes: Vec<u8> = words
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .map(|byte| b"\x2a\x2a\x2a\0\x01\x02\x08\x0b\x0c\x0a\x10\x2f\x2b\x2c\x05\xff"[usize::from(byte >> 4)])
                .collect();
            fn all(told: &Told) -> usize {
                told.batch.iter().map(|one| 1 + all(one)).sum()
            }
            if let Ok(decoded) = Told::parse_from_bytes(&bytes) {
                assert_eq!(rows.count(&bytes).unwrap(), all(&decoded), "{bytes:x?}");
            }
        }
    }

    #[test]
    fn the_limit_is_the_last_number_that_is_taken() {
        for (name, limit) in [(Told::NAME, MOST_RESULTS), (SubmitRequest::NAME, MOST_TASKS)] {
            let rows = Rows::of(name).unwrap();
            let row = [rows.tag as u8, 0];
            assert!(rows.check(&row.repeat(limit)).is_ok());
            let error = rows.check(&row.repeat(limit + 1)).unwrap_err().to_string();
            assert!(error.contains(&limit.to_string()) && error.contains("several messages"), "{error}");
        }
    }
}
