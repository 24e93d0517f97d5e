//! The wire, without what a load generator need not look at: requests are bytes that were encoded once, and of a task
//! only its id, its attempt and the number it begins with are read.

use std::io::{self, Read as _};
use std::sync::Arc;

use grpcio::{GrpcSlice, Marshaller, MessageReader, Method, MethodType, pb_de};
use protobuf::rt::WireType;
use protobuf::{CodedInputStream, Message};

use crate::wire::control as pb;

/// A message as bytes.
#[derive(Clone)]
pub(super) struct Encoded(Arc<[u8]>);

impl Encoded {
    pub(super) fn new(message: &impl Message) -> Encoded {
        // A message without required fields can always be encoded.
        Encoded(message.write_to_bytes().unwrap_or_default().into())
    }
}

/// As much of a task as is looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) id: u64,
    pub(super) attempt: u64,
    /// The number that its text begins with, if it is one of [`text`].
    pub(super) number: u64,
}

/// The tasks of one message.
pub(super) type Tasks = Vec<Got>;

/// The results of one message.
pub(super) struct Results(Vec<u8>);

const DIGITS: usize = 16;

/// The text of a task: a number of 16 digits, filled up to `size` bytes.
pub(super) fn text(number: u64, size: u32) -> String {
    // The width of a format would fill it up character by character, and each task that is measured has a text.
    let mut text = format!("{number:0DIGITS$}");
    text.push_str(&".".repeat((size as usize).saturating_sub(DIGITS)));
    text
}

/// `getTask` of the service for clients.
pub(super) const GET_TASK: Method<Encoded, Tasks> = Method {
    ty: MethodType::ServerStreaming,
    name: "/Contact/getTask",
    req_mar: Marshaller { ser: write_encoded, de: never },
    resp_mar: Marshaller { ser: never_sent, de: read_tasks },
};

/// `tellResult`, with batches.
pub(super) const TELL_RESULTS: Method<Results, ()> = Method {
    ty: MethodType::ClientStreaming,
    name: "/Contact/tellResult",
    req_mar: Marshaller { ser: |results, to| write(&results.0, to), de: never },
    resp_mar: Marshaller { ser: never_sent, de: |_| Ok(()) },
};

/// `tellResult`, with the same message again and again.
pub(super) const ACKNOWLEDGE: Method<Encoded, ()> = Method {
    ty: MethodType::ClientStreaming,
    name: "/Contact/tellResult",
    req_mar: Marshaller { ser: write_encoded, de: never },
    resp_mar: Marshaller { ser: never_sent, de: |_| Ok(()) },
};

/// `SubmitStream` of the service for operators.
pub(super) const SUBMIT: Method<Encoded, pb::SubmitResponse> = Method {
    ty: MethodType::Duplex,
    name: "/contact.control.v1.Control/SubmitStream",
    req_mar: Marshaller { ser: write_encoded, de: never },
    resp_mar: Marshaller { ser: never_sent, de: pb_de },
};

/// `Submit` of the service for operators.
pub(super) const SUBMIT_ONE: Method<Encoded, pb::SubmitResponse> = Method {
    ty: MethodType::Unary,
    name: "/contact.control.v1.Control/Submit",
    req_mar: Marshaller { ser: write_encoded, de: never },
    resp_mar: Marshaller { ser: never_sent, de: pb_de },
};

/// A stream of no service: what gRPC can do by itself.
pub(super) const BARE: Method<Encoded, Encoded> = Method {
    ty: MethodType::ServerStreaming,
    name: "/Bare/stream",
    req_mar: Marshaller { ser: write_encoded, de: read_encoded },
    resp_mar: Marshaller { ser: write_encoded, de: read_encoded },
};

impl Results {
    /// Each task is done, with a short text.
    pub(super) fn done(tasks: &[Got]) -> Results {
        const RET: &[u8] = b"\x0a\x02ok";
        let mut out = Vec::with_capacity(tasks.len() * 20);
        for task in tasks {
            let mut one = [0; 32];
            let mut len = RET.len();
            one[..len].copy_from_slice(RET);
            for (tag, value) in [(0x10, task.id), (0x18, task.attempt)] {
                one[len] = tag;
                len = varint(value, &mut one, len + 1);
            }
            // Field 5, `batch`.
            out.extend([0x2a, len as u8]);
            out.extend_from_slice(&one[..len]);
        }
        Results(out)
    }
}

fn varint(mut value: u64, to: &mut [u8], mut at: usize) -> usize {
    while value >= 0x80 {
        to[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    to[at] = value as u8;
    at + 1
}

fn write(bytes: &[u8], to: &mut GrpcSlice) -> grpcio::Result<()> {
    *to = GrpcSlice::from(bytes);
    Ok(())
}

fn write_encoded(message: &Encoded, to: &mut GrpcSlice) -> grpcio::Result<()> {
    write(&message.0, to)
}

fn read_encoded(mut from: MessageReader) -> grpcio::Result<Encoded> {
    let mut bytes = Vec::with_capacity(from.len());
    from.read_to_end(&mut bytes).map_err(|e| grpcio::Error::Codec(e.into()))?;
    Ok(Encoded(bytes.into()))
}

fn never<T>(_: MessageReader) -> grpcio::Result<T> {
    Err(grpcio::Error::Codec("a client reads no requests".into()))
}

fn never_sent<T>(_: &T, _: &mut GrpcSlice) -> grpcio::Result<()> {
    Err(grpcio::Error::Codec("a client sends no answers".into()))
}

fn read_tasks(mut from: MessageReader) -> grpcio::Result<Tasks> {
    let mut tasks = Vec::new();
    read_message(&mut CodedInputStream::from_buf_read(&mut from), &mut tasks)?;
    Ok(tasks)
}

/// A ServerMsg: one task, or its batch. An empty one is a heartbeat, and no task.
fn read_message(from: &mut CodedInputStream<'_>, tasks: &mut Tasks) -> protobuf::Result<()> {
    let (mut task, mut is_task) = (Got::default(), false);
    while let Some(tag) = from.read_raw_tag_or_eof()? {
        is_task |= tag == 0x0a;
        match tag {
            0x0a => task.number = read_number(from)?,
            0x10 => task.id = from.read_uint64()?,
            0x18 => task.attempt = from.read_uint64()?,
            0x22 => {
                let len = from.read_raw_varint64()?;
                let outer = from.push_limit(len)?;
                read_message(from, tasks)?;
                from.pop_limit(outer);
            }
            other => {
                let kind = WireType::new(other & 7).ok_or_else(|| io::Error::other("no such wire type"))?;
                from.skip_field(kind)?;
            }
        }
    }
    if is_task {
        tasks.push(task);
    }
    Ok(())
}

/// Skips a text but for the number at its beginning.
fn read_number(from: &mut CodedInputStream<'_>) -> protobuf::Result<u64> {
    let len = from.read_raw_varint32()?;
    let mut digits = [0; DIGITS];
    let there = DIGITS.min(len as usize);
    // Not the method of CodedInputStream, which fills memory that was not written before.
    io::Read::read_exact(from, &mut digits[..there])?;
    from.skip_raw_bytes(len - there as u32)?;
    let digits = std::str::from_utf8(&digits).ok();
    Ok(digits.and_then(|digits| digits.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::wire::contact as wire;

    fn read(message: &wire::ServerMsg) -> Tasks {
        let mut tasks = Vec::new();
        let bytes = message.write_to_bytes().unwrap();
        read_message(&mut CodedInputStream::from_bytes(&bytes), &mut tasks).unwrap();
        tasks
    }

    fn task(id: u64, text: String) -> wire::ServerMsg {
        wire::ServerMsg { task: text, id, attempt: 300, ..Default::default() }
    }

    #[test]
    fn of_a_task_its_id_attempt_and_number_are_read() {
        let got = |id, number| Got { id, attempt: 300, number };
        assert_eq!(read(&task(7, text(42, 100))), [got(7, 42)]);
        assert_eq!(read(&task(7, "任务:1".into())), [got(7, 0)]);
        let batch = vec![task(1, text(5, 16)), task(u64::MAX, text(6, 1000))];
        assert_eq!(read(&wire::ServerMsg { batch, ..Default::default() }), [got(1, 5), got(u64::MAX, 6)]);
        assert_eq!(read(&wire::ServerMsg::new()), [], "a heartbeat");
    }

    #[test]
    fn results_are_what_they_say() {
        let tasks = [(1, 1), (u64::MAX, 200)].map(|(id, attempt)| Got { id, attempt, number: 0 });
        let message = wire::Result::parse_from_bytes(&Results::done(&tasks).0).unwrap();
        let told: Vec<_> = message.batch.iter().map(|one| (one.id, u64::from(one.attempt), one.ret.as_str())).collect();
        assert_eq!(told, [(1, 1, "ok"), (u64::MAX, 200, "ok")]);
    }

    #[test]
    fn a_text_is_as_long_as_it_is_to_be() {
        for size in [16, 17, 100] {
            assert_eq!(text(3, size).len(), size as usize);
        }
    }
}
