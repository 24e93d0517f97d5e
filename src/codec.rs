//! How messages become bytes and back, which calls are let in, and how the first message of one is waited for.

mod known;

use std::any::Any;
use std::io::BufRead;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{self, Either};
use futures::{Stream, StreamExt as _};
use futures_timer::Delay;
use grpcio::{
    ClientStreamingSink, DuplexSink, GrpcSlice, Marshaller, MessageReader, Method, MethodType, RequestStream,
    RpcContext, RpcStatus, pb_ser,
};
use protobuf::rt::WireType;
use protobuf::{CodedInputStream, Message, MessageFull};

use self::known::Known;
use crate::attachment::MOST_HEADERS;

/// A request as the server reads it. Bytes that are no such message reach the service, which refuses them with a clear status;
/// grpcio would answer INTERNAL.
pub type Decoded<T> = Result<T, Unreadable>;

/// Most results in one message. A server puts no more tasks into one, so whoever answers as it was given sends no more.
pub const MOST_RESULTS: usize = 4096;

/// Most tasks in one request: more than `contactctl` sends, which is 100,000 at most.
pub const MOST_TASKS: usize = 131_072;

/// Most headers in one message with results: as many as [`MOST_RESULTS`] may have.
pub const MOST_HEADERS_OF_RESULTS: usize = MOST_RESULTS * MOST_HEADERS;

/// Most headers in one request: four for each of as many tasks as there may be. In memory, that is 60 MB.
pub const MOST_HEADERS_OF_TASKS: usize = 4 * MOST_TASKS;

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
    permit: Permit,
}

impl<T> Requests<T> {
    /// Of a call that was let in.
    pub fn of(stream: RequestStream<Decoded<T>>, permit: Permit) -> Requests<T> {
        Requests { stream, permit }
    }

    /// What the call was let in with, if it is one of these.
    pub fn permit<P: 'static>(&self) -> Option<&P> {
        self.permit.downcast_ref()
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

    /// See [`Requests::permit`].
    pub fn permit<P: 'static>(&self) -> Option<&P> {
        self.0.permit()
    }

    /// Waits for the message, for [`FIRST_MESSAGE`] at most.
    pub async fn read(&mut self) -> Result<Decoded<T>, NoMessage> {
        match future::select(self.0.next(), pin!(Delay::new(FIRST_MESSAGE))).await {
            Either::Left((Some(Ok(message)), _)) => Ok(message),
            Either::Left((Some(Err(_)) | None, _)) | Either::Right(_) => Err(NoMessage),
        }
    }
}

/// Where calls are passed on to that are not served here.
pub trait Elsewhere: Clone + Send + 'static {
    /// A call with one answer.
    fn pass_one<Q: Message, P: Message>(
        &self,
        method: &Method<Q, P>,
        ctx: RpcContext<'_>,
        requests: Requests<Q>,
        sink: ClientStreamingSink<P>,
    );

    /// A call with many.
    fn pass_many<Q: Message, P: Message>(
        &self,
        method: &Method<Q, P>,
        ctx: RpcContext<'_>,
        requests: Requests<Q>,
        sink: DuplexSink<P>,
    );
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
pub const fn server_method<Q: MessageFull, P: Message>(ty: MethodType, name: &'static str) -> Method<Decoded<Q>, P> {
    Method {
        ty,
        name,
        req_mar: Marshaller { ser: never_sent, de: decode },
        resp_mar: Marshaller { ser: pb_ser, de: grpcio::pb_de },
    }
}

/// A method that the server calls: what comes back is read as carefully as requests are.
pub const fn dialled_method<Q: Message, P: MessageFull>(ty: MethodType, name: &'static str) -> Method<Q, Decoded<P>> {
    Method {
        ty,
        name,
        req_mar: Marshaller { ser: pb_ser, de: grpcio::pb_de },
        resp_mar: Marshaller { ser: never_sent, de: decode },
    }
}

fn decode<T: MessageFull>(mut reader: MessageReader) -> grpcio::Result<Decoded<T>> {
    let length = reader.len();
    Ok(read(&mut reader, length))
}

/// A message longer than this is looked through before it is decoded. A shorter one takes a megabyte at most, whatever is in it, unless
/// there are lists of numbers in it.
const SHORT: usize = 8 * 1024;

/// Reads a message of so many bytes.
pub(crate) fn read<T: MessageFull>(reader: &mut impl BufRead, length: usize) -> Decoded<T> {
    if length <= SHORT && !Known::of::<T>().has_numbers() {
        let mut fields = CodedInputStream::from_buf_read(reader);
        // Otherwise a text that says it is as long gets up to 10 MB before any of it is there.
        fields.push_limit(length as u64)?;
        return Ok(T::parse_from(&mut fields)?);
    }
    let mut bytes = Vec::with_capacity(length);
    reader.read_to_end(&mut bytes).map_err(protobuf::Error::from)?;
    for rows in Rows::of(T::NAME) {
        rows.check(&bytes)?;
    }
    let known = Known::of::<T>().part(&bytes)?;
    Ok(T::parse_from_bytes(known.as_deref().unwrap_or(&bytes))?)
}

/// Messages within a message, of which there are bounded many: rows, and the entries of maps. One takes two bytes on the wire, and a hundred or two when it is
/// decoded. So rows are counted before that, in messages that are long enough to have too many.
///
/// What else a message may cost is bounded by its length: a text as much as on the wire. What is not known is left out.
struct Rows {
    what: &'static str,
    /// The tag of the field.
    tag: u32,
    within: Within,
    limit: usize,
}

/// Which messages hold the rows.
#[derive(Clone, Copy)]
enum Within {
    /// The one that is read.
    Itself,
    /// Those of its fields with this tag.
    Rows(u32),
    /// It, and those with this tag, which may hold such in turn.
    Nested(u32),
}

const fn tag(field: u32) -> u32 {
    (field << 3) | WireType::LengthDelimited as u32
}

impl Rows {
    /// Those of the message of that name.
    fn of(message: &str) -> &'static [Rows] {
        const RESULTS: &[Rows] = &[
            Rows { what: "results", tag: tag(5), within: Within::Nested(tag(5)), limit: MOST_RESULTS },
            Rows { what: "headers", tag: tag(10), within: Within::Nested(tag(5)), limit: MOST_HEADERS_OF_RESULTS },
        ];
        const TASKS: &[Rows] = &[
            Rows { what: "tasks", tag: tag(1), within: Within::Itself, limit: MOST_TASKS },
            Rows { what: "headers", tag: tag(17), within: Within::Rows(tag(1)), limit: MOST_HEADERS_OF_TASKS },
        ];
        const RUN: &[Rows] =
            &[Rows { what: "headers", tag: tag(13), within: Within::Itself, limit: MOST_HEADERS_OF_TASKS }];
        const SCHEDULE: &[Rows] =
            &[Rows { what: "headers", tag: tag(17), within: Within::Rows(tag(6)), limit: MOST_HEADERS_OF_TASKS }];
        match message {
            "Result" => RESULTS,
            "SubmitRequest" => TASKS,
            "BeginRunRequest" => RUN,
            "SetScheduleRequest" => SCHEDULE,
            _ => &[],
        }
    }

    fn check(&self, bytes: &[u8]) -> Result<(), Unreadable> {
        // Each takes two bytes at least: most messages are too short for too many.
        if bytes.len() / 2 <= self.limit {
            return Ok(());
        }
        match self.count(bytes)? {
            count if count > self.limit => Err(Unreadable::TooMany { what: self.what, count, limit: self.limit }),
            _ => Ok(()),
        }
    }

    /// Goes over the fields. It goes into rows that are nested as if their fields stood outside: a row ends where a field does, or the
    /// message cannot be decoded.
    fn count(&self, bytes: &[u8]) -> protobuf::Result<usize> {
        let (mut fields, mut count) = (CodedInputStream::from_bytes(bytes), 0);
        while let Some(tag) = fields.read_raw_tag_or_eof()? {
            count += usize::from(tag == self.tag && !matches!(self.within, Within::Rows(_)));
            match self.within {
                Within::Nested(row) if tag == row => drop(length(&mut fields)?),
                Within::Rows(row) if tag == row => {
                    let length = length(&mut fields)?;
                    let inner = fields.pos() as usize;
                    fields.skip_raw_bytes(length)?;
                    let flat = Rows { within: Within::Itself, ..*self };
                    count += flat.count(&bytes[inner..fields.pos() as usize])?;
                }
                // The stream itself refuses a kind of field that there is not.
                _ => fields.skip_field(WireType::new(tag & 7).ok_or_else(no_such_field)?)?,
            }
        }
        Ok(count)
    }
}

/// How long a message within another one is, as the library reads it: with up to ten bytes, most of which may say nothing.
fn length(fields: &mut CodedInputStream<'_>) -> protobuf::Result<u32> {
    let length = fields.read_raw_varint64()?;
    u32::try_from(length).map_err(|_| std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
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

    use std::collections::HashMap;
    use std::io::BufReader;

    use proptest::prelude::*;
    use protobuf::reflect::{MessageDescriptor, RuntimeFieldType, RuntimeType};

    use super::*;
    use crate::fuzz::{any_bytes, cases};
    use crate::wire::contact::Result as Told;
    use crate::wire::control::{BeginRunRequest, NewTask, SetScheduleRequest, SubmitRequest};

    fn told(id: u64, batch: Vec<Told>) -> Told {
        Told { ret: "*\n".repeat(7), id, attempt: 3, batch, delay_ms: 9, ..Told::default() }
    }

    #[test]
    fn rows_are_counted_as_they_are_decoded_however_they_are_nested() {
        let rows = &Rows::of(Told::NAME)[0];
        let nested =
            told(1, vec![told(2, vec![told(3, vec![]); 5]), Told::new(), told(u64::MAX, vec![Told::new(); 2])]);
        for (message, count) in [(Told::new(), 0), (told(7, vec![]), 0), (nested, 10)] {
            assert_eq!(rows.count(&message.write_to_bytes().unwrap()).unwrap(), count, "{message:?}");
        }
        let rows = &Rows::of(SubmitRequest::NAME)[0];
        // The text of a task looks like a task.
        let task = NewTask { task: "\n\n\n\n".into(), to: "\n".into(), ..NewTask::default() };
        let request = SubmitRequest { tasks: vec![task; 5], ..SubmitRequest::default() };
        assert_eq!(rows.count(&request.write_to_bytes().unwrap()).unwrap(), 5);
        let headers: HashMap<_, _> = (0..3).map(|n| (format!("k{n}"), "\n\n\n\n".into())).collect();
        // As do its data, and the keys of headers.
        let task = NewTask { headers: headers.clone(), data: vec![0x8a, 1, 0, 0x8a, 1, 0], ..request.tasks[0].clone() };
        let request = SubmitRequest { tasks: vec![task; 5], ..SubmitRequest::default() };
        assert_eq!(Rows::of(SubmitRequest::NAME)[1].count(&request.write_to_bytes().unwrap()).unwrap(), 15);
        let one = Told { headers: headers.clone(), data: vec![0x52, 0], ..told(2, vec![]) };
        let all = Told { headers, ..told(1, vec![one.clone(), one]) };
        assert_eq!(Rows::of(Told::NAME)[1].count(&all.write_to_bytes().unwrap()).unwrap(), 9);
    }

    #[test]
    fn no_bytes_have_more_rows_decoded_than_are_counted() {
        let [rows, headers] = Rows::of(Told::NAME) else { unreachable!() };
        // Rows that say they are longer or shorter than they are, groups, fields of no kind.
        for noise in 0..20_000_u64 {
            let words = [noise.wrapping_mul(0x9e37_79b9_7f4a_7c15), noise.wrapping_mul(0xd134_2543_de82_ef95)];
            let bytes: Vec<u8> = words
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .map(|byte| b"\x2a\x2a\x2a\0\x01\x02\x08\x0b\x0c\x0a\x10\x2f\x52\x2c\x05\xff"[usize::from(byte >> 4)])
                .collect();
            fn all(told: &Told) -> usize {
                told.batch.iter().map(|one| 1 + all(one)).sum()
            }
            fn all_headers(told: &Told) -> usize {
                told.headers.len() + told.batch.iter().map(all_headers).sum::<usize>()
            }
            if let Ok(decoded) = Told::parse_from_bytes(&bytes) {
                // The library reads an entry of a map that says it is longer than what is there. Not counted is refused.
                let (Ok(counted), Ok(headers)) = (rows.count(&bytes), headers.count(&bytes)) else { continue };
                assert_eq!(counted, all(&decoded), "{bytes:x?}");
                // Of those with one key, one is decoded.
                assert!(headers >= all_headers(&decoded), "{bytes:x?}");
            }
        }
    }

    #[test]
    fn the_limit_is_the_last_number_that_is_taken() {
        for (name, limit) in [(Told::NAME, MOST_RESULTS), (SubmitRequest::NAME, MOST_TASKS)] {
            let rows = &Rows::of(name)[0];
            let row = [rows.tag as u8, 0];
            assert!(rows.check(&row.repeat(limit)).is_ok());
            let error = rows.check(&row.repeat(limit + 1)).unwrap_err().to_string();
            assert!(error.contains(&limit.to_string()) && error.contains("several messages"), "{error}");
        }
        for (name, limit) in [
            (Told::NAME, MOST_HEADERS_OF_RESULTS),
            (SubmitRequest::NAME, MOST_HEADERS_OF_TASKS),
            (BeginRunRequest::NAME, MOST_HEADERS_OF_TASKS),
            (SetScheduleRequest::NAME, MOST_HEADERS_OF_TASKS),
        ] {
            let Some(headers) = Rows::of(name).last() else { unreachable!() };
            let mut many = Vec::new();
            let mut stream = protobuf::CodedOutputStream::vec(&mut many);
            (0..limit).for_each(|_| stream.write_bytes(headers.tag >> 3, b"").unwrap());
            stream.flush().unwrap();
            drop(stream);
            let wrapped = |inner: &[u8]| {
                let Within::Rows(tag) = headers.within else { return inner.to_vec() };
                let mut outer = Vec::new();
                protobuf::CodedOutputStream::vec(&mut outer).write_bytes(tag >> 3, inner).unwrap();
                outer
            };
            assert!(headers.check(&wrapped(&many)).is_ok());
            protobuf::CodedOutputStream::vec(&mut many).write_bytes(headers.tag >> 3, b"").unwrap();
            assert!(headers.check(&wrapped(&many)).is_err(), "{name}");
        }
    }

    #[test]
    fn as_many_headers_as_may_be_are_read_in_a_bounded_memory() {
        let header = |n: usize| (format!("{n:x}"), String::new());
        // Four short ones to a task, and no more bytes than a request may have.
        let task = |n: usize| NewTask { headers: (4 * n..4 * n + 4).map(header).collect(), ..NewTask::default() };
        let request = SubmitRequest { tasks: (0..MOST_TASKS).map(task).collect(), ..SubmitRequest::default() };
        let bytes = request.write_to_bytes().unwrap();
        drop(request);
        let mut read_all = 0;
        let taken = allocation_counter::measure(|| {
            let request = read::<SubmitRequest>(&mut &bytes[..], bytes.len()).unwrap();
            read_all = request.tasks.iter().map(|task| task.headers.len()).sum();
        });
        assert_eq!(read_all, MOST_HEADERS_OF_TASKS);
        assert!(taken.bytes_max < 200_000_000, "{} bytes for {}", taken.bytes_max, bytes.len());
    }

    #[test]
    fn what_is_not_known_of_a_long_message_is_left_out_before_it_is_decoded() {
        let mut unknown = Vec::new();
        let mut stream = protobuf::CodedOutputStream::vec(&mut unknown);
        for number in 1_000..150_000 {
            stream.write_uint32(number, 7).unwrap();
            stream.write_bytes(8, b"").unwrap();
            // It is known, but not of that kind.
            stream.write_fixed32(2, number).unwrap();
        }
        stream.flush().unwrap();
        drop(stream);
        let mut row = told(2, vec![]).write_to_bytes().unwrap();
        row.extend(&unknown);
        let mut bytes = unknown.clone();
        bytes.push(0x2a);
        protobuf::CodedOutputStream::vec(&mut bytes).write_raw_varint32(row.len() as u32).unwrap();
        bytes.extend(&row);
        bytes.extend(told(1, vec![told(3, vec![])]).write_to_bytes().unwrap());
        let mut decoded = None;
        let taken = allocation_counter::measure(|| decoded = Some(read::<Told>(&mut &bytes[..], bytes.len()).unwrap()));
        assert_eq!(decoded, Some(told(1, vec![told(2, vec![]), told(3, vec![])])));
        assert!(taken.bytes_max < 3 * bytes.len() as u64, "{} bytes for {}", taken.bytes_max, bytes.len());
    }

    /// A message of that kind, of whatever the numbers say.
    fn message(of: &MessageDescriptor, numbers: &mut impl Iterator<Item = u64>, depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut stream = protobuf::CodedOutputStream::vec(&mut bytes);
        for field in of.fields() {
            let (number, times) = (field.number() as u32, numbers.next().unwrap_or(0));
            let (kind, times) = match field.runtime_field_type() {
                RuntimeFieldType::Singular(kind) => (kind, times % 2),
                RuntimeFieldType::Repeated(kind) => (kind, times % 4),
                RuntimeFieldType::Map(_, of) => {
                    for _ in 0..times % 4 {
                        let value = numbers.next().unwrap_or(0);
                        let mut entry = Vec::new();
                        let mut row = protobuf::CodedOutputStream::vec(&mut entry);
                        row.write_string(1, ["", "g", "streams"][(value % 3) as usize]).unwrap();
                        match of {
                            RuntimeType::String => row.write_string(2, "text/plain").unwrap(),
                            _ => row.write_uint64(2, value).unwrap(),
                        }
                        row.flush().unwrap();
                        drop(row);
                        stream.write_bytes(number, &entry).unwrap();
                    }
                    continue;
                }
            };
            for _ in 0..times {
                let value = numbers.next().unwrap_or(0);
                match &kind {
                    RuntimeType::Message(of) if depth > 0 => {
                        stream.write_bytes(number, &message(of, numbers, depth - 1)).unwrap();
                    }
                    RuntimeType::String => {
                        let text = ["", "g", "工人", "first=1s,factor=2", "\n\n\n\n"][(value % 5) as usize];
                        stream.write_string(number, text).unwrap();
                    }
                    RuntimeType::VecU8 | RuntimeType::Message(_) => stream.write_bytes(number, &[]).unwrap(),
                    RuntimeType::F64 => stream.write_double(number, value as f64).unwrap(),
                    RuntimeType::F32 => stream.write_float(number, value as f32).unwrap(),
                    _ => stream.write_uint64(number, value >> (value % 64)).unwrap(),
                }
            }
        }
        stream.flush().unwrap();
        drop(stream);
        bytes
    }

    /// What the server reads is what there was, without what it does not know.
    fn same_without_the_unknown<T: MessageFull + PartialEq>(bytes: &[u8]) {
        let known = |bytes: &[u8]| {
            let part = Known::of::<T>().part(bytes).unwrap().unwrap_or(bytes.to_vec());
            assert!(Known::of::<T>().part(&part).unwrap().is_none(), "all that is left is known");
            T::parse_from_bytes(&part).unwrap()
        };
        let mut fields = CodedInputStream::from_bytes(bytes);
        // Without it, the last message may say that it is longer than what is there.
        fields.push_limit(bytes.len() as u64).unwrap();
        if let Ok(all) = T::parse_from(&mut fields) {
            let read = known(bytes);
            // A number with a point may be none, which equals nothing, itself included.
            if read == read.clone() {
                assert_eq!(read, known(&all.write_to_bytes().unwrap()));
            }
        }
    }

    /// A kind of message, and how the server reads it.
    type Kind = (MessageDescriptor, fn(&[u8]));

    /// Every message of the wire.
    fn kinds() -> Vec<Kind> {
        use protobuf::MessageFull;

        use crate::wire::{contact, control};
        fn one<T: MessageFull + PartialEq>() -> Kind {
            let read_in_parts = |bytes: &[u8]| {
                // In parts, as C-core gives it.
                drop(read::<T>(&mut BufReader::with_capacity(7, bytes), bytes.len()));
                allocation_counter::opt_out(|| same_without_the_unknown::<T>(bytes));
            };
            (T::descriptor(), read_in_parts)
        }
        macro_rules! all {
            ($($module:ident: $($message:ident)*;)*) => { vec![$($(one::<$module::$message>()),*),*] };
        }
        all! {
            contact: ClientMsg ServerMsg Revoked Watched Empty Result JoinRequest JoinResponse Refused;
            control: NewTask SubmitRequest SubmitResponse Refusal ListRequest Task TaskPage FindTasksRequest FoundTasks FoundTask TaskResult ResultPage Status StatusPage ListClientsRequest ListClientsResponse Client Working Draining DrainClientRequest DrainClientResponse UndrainClientRequest UndrainClientResponse DescribeTaskRequest GetDataRequest Data TaskLedger TaskInGroup ListGroupsRequest ListGroupsResponse Group ListDeadRequest DropDeadRequest DropDeadResponse CancelTaskRequest CancelTaskResponse RetryTaskRequest RetryTaskResponse PauseGroupRequest PauseGroupResponse SetGroupRetryRequest SetGroupRetryResponse SetGroupLimitsRequest SetGroupLimitsResponse GroupLimits AcceptClockRequest AcceptClockResponse BackupRequest BackupProgress BackedUp RemoveGroupRequest RemoveGroupResponse GetServerRequest Server Finding InviteRequest InviteResponse IssueCertificateRequest IssueCertificateResponse ListIdentitiesRequest ListIdentitiesResponse Identity RevokeIdentityRequest RevokeIdentityResponse CreateTokenRequest CreateTokenResponse Token ListTokensRequest ListTokensResponse RevokeTokenRequest RevokeTokenResponse CreateLoginRequest CreateLoginResponse DescribeIdentityRequest DescribeIdentityResponse ChangeIdentityRequest Known KnownClient WatchTaskRequest TaskNews WatchOutputRequest TaskOutput Rollout BeginRunRequest BegunRun Run GetRunRequest RunDetails RunTarget ListRunsRequest ListRunsResponse WatchRunRequest RunNews ChangeRunRequest CancelRunRequest RetryFailedRequest AddDialledRequest AddDialledResponse ListDialledRequest ListDialledResponse Dialled RemoveDialledRequest RemoveDialledResponse SetScheduleRequest SetScheduleResponse Schedule ListSchedulesRequest ListSchedulesResponse GetScheduleRequest ChangeScheduleRequest RunScheduleRequest RunScheduleResponse RemoveScheduleRequest RemoveScheduleResponse ListServersRequest ListServersResponse ClusterServer ClusterLog LogReplica;
        }
    }

    #[test]
    fn lengths_are_read_as_the_library_reads_them() {
        let padded = [0x2a, 0x80 | 4, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 0x2a, 0, 0x2a, 0];
        let told = Told::parse_from_bytes(&padded).unwrap();
        assert_eq!((told.batch.len(), told.batch[0].batch.len()), (1, 2));
        assert_eq!(Rows::of(Told::NAME)[0].count(&padded).unwrap(), 3);
        assert!(Known::of::<Told>().part(&padded).unwrap().is_none());
    }

    /// Most that a request may take: for texts as much as on the wire, and twice that while they grow; for rows, each of which has two
    /// bytes at least, what they are decoded. Answers are not read by servers.
    fn memory(message: &str, length: usize) -> usize {
        let is_request = message.ends_with("Request") || ["ClientMsg", "Empty", "Result"].contains(&message);
        if !is_request {
            return usize::MAX;
        }
        let most: usize = Rows::of(message).iter().map(|rows| rows.limit).sum();
        (1 << 20) + 3 * length + 1024 * most.min(length / 2)
    }

    #[test]
    fn any_bytes_are_read_or_refused_in_a_memory_that_goes_with_their_length() {
        let kinds = kinds();
        let mut names: Vec<_> = kinds.iter().map(|(of, _)| of.full_name().to_owned()).collect();
        let files = [crate::wire::contact::file_descriptor(), crate::wire::control::file_descriptor()];
        let mut all: Vec<_> =
            files.iter().flat_map(|file| file.messages()).map(|of| of.full_name().to_owned()).collect();
        names.sort();
        all.sort();
        assert_eq!(names, all, "every message of the wire is here");
        let count = kinds.len() as u32;
        for (of, read) in kinds {
            let name = of.name().to_owned();
            let valid = prop::collection::vec(any::<u64>(), 0..60)
                .prop_map(move |numbers| message(&of, &mut numbers.into_iter(), 3));
            any_bytes(cases() / count, valid, |length| memory(&name, length), read);
        }
    }
}
