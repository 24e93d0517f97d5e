//! Bytes that no stub would send.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use futures::executor::block_on;
use futures::{Sink, SinkExt as _, StreamExt as _};
use grpcio::{Client, GrpcSlice, Marshaller, MessageReader, Method, MethodType, RpcStatus, WriteFlags};

use crate::common::http2;
use crate::rig::{channel, patient, status_of};

type Bytes = Vec<u8>;

fn method(ty: MethodType, name: &'static str) -> Method<Bytes, Bytes> {
    fn ser(bytes: &Bytes, slice: &mut GrpcSlice) -> grpcio::Result<()> {
        *slice = bytes.clone().into();
        Ok(())
    }
    fn de(mut reader: MessageReader) -> grpcio::Result<Bytes> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }
    Method { ty, name, req_mar: Marshaller { ser, de }, resp_mar: Marshaller { ser, de } }
}

/// Calls a method that takes one message.
pub fn unary(address: &str, name: &'static str, request: &[u8]) -> Result<Bytes, RpcStatus> {
    let client = Client::new(channel(address));
    let method = method(MethodType::Unary, name);
    let answer = client.unary_call_async(&method, &request.to_vec(), patient()).unwrap();
    status_of(block_on(answer))
}

/// Calls a method that takes one message and answers with many; only the end of it.
pub fn server_streaming(address: &str, name: &'static str, request: &[u8]) -> Result<(), RpcStatus> {
    let client = Client::new(channel(address));
    let method = method(MethodType::ServerStreaming, name);
    let answers = client.server_streaming(&method, &request.to_vec(), patient()).unwrap();
    crate::rig::collect(answers).map(drop)
}

/// Calls a method that takes many messages and answers with one.
pub fn client_streaming(address: &str, name: &'static str, messages: &[Bytes]) -> Result<Bytes, RpcStatus> {
    let client = Client::new(channel(address));
    let method = method(MethodType::ClientStreaming, name);
    let (mut sender, answer) = client.client_streaming(&method, patient()).unwrap();
    send_all(&mut sender, messages);
    status_of(block_on(answer))
}

/// Calls a method that takes and answers with many; all answers, and how it ended.
pub fn duplex(address: &str, name: &'static str, messages: &[Bytes]) -> (Vec<Bytes>, Result<(), RpcStatus>) {
    let client = Client::new(channel(address));
    let method = method(MethodType::Duplex, name);
    let (mut sender, mut answers) = client.duplex_streaming(&method, patient()).unwrap();
    send_all(&mut sender, messages);
    let mut all = Vec::new();
    loop {
        match block_on(answers.next()) {
            Some(Ok(answer)) => all.push(answer),
            Some(Err(error)) => return (all, status_of::<()>(Err(error))),
            None => return (all, Ok(())),
        }
    }
}

/// Begins a call and sends nothing, nor that there is nothing; how the server ends it.
pub fn silent(address: &str, name: &'static str) -> RpcStatus {
    let client = Client::new(channel(address));
    let (_sender, mut answers) = client.duplex_streaming(&method(MethodType::Duplex, name), patient()).unwrap();
    status_of(block_on(answers.next()).unwrap()).unwrap_err()
}

/// Sends them, and that this was all, unless the other end has heard enough before.
fn send_all(sender: &mut (impl Sink<(Bytes, WriteFlags), Error = grpcio::Error> + Unpin), messages: &[Bytes]) {
    let sent = block_on(async {
        for message in messages {
            sender.send((message.clone(), WriteFlags::default())).await?;
        }
        sender.close().await
    });
    drop(sent);
}

/// A message with one field of bytes: `text` for field 1, and so on.
pub fn field(number: u8, bytes: &[u8]) -> Bytes {
    let mut message = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        message.push(length as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend(bytes);
    message
}

/// A connection whose HTTP/2 frames are written by hand.
pub struct Wire(TcpStream);

impl Wire {
    /// Connects and begins one call.
    pub fn call(address: &str, path: &str, metadata: &[(&str, &[u8])]) -> Wire {
        let mut wire = Wire(TcpStream::connect(address).unwrap());
        wire.0.write_all(http2::PREFACE).unwrap();
        wire.frame(http2::SETTINGS, 0, 0, &[]);
        wire.frame(http2::HEADERS, http2::END_HEADERS, 1, &http2::headers(path, metadata));
        wire
    }

    /// The beginning of a message that says it is `length` bytes long.
    pub fn message(&mut self, length: u32, bytes: &[u8]) {
        let mut data = vec![0];
        data.extend(length.to_be_bytes());
        data.extend(bytes);
        self.frame(http2::DATA, 0, 1, &data);
    }

    /// Says that this was all of the stream.
    pub fn end_stream(&mut self) {
        self.frame(http2::DATA, http2::END_STREAM, 1, &[]);
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.0.write_all(&http2::frame(kind, flags, stream, payload)).unwrap();
    }
}
