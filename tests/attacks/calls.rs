//! Calls and messages by the thousand, their HTTP/2 frames written by hand.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::thread::{self, JoinHandle};

use contact::wire::control::{GetServerRequest, Server as Description};
use grpcio::RpcStatusCode as Code;
use protobuf::Message as _;

use crate::common::server::Server;
use crate::conventions::reason;
use crate::rig::{Client, Operator};
use crate::server::raw;

const GET_TASK: &str = "/Contact/getTask";
const LIST_CLIENTS: &str = "/contact.control.v1.Control/ListClients";

/// A connection that keeps to no rule of HTTP/2 but the form of its frames. What the server says is read, and not looked at.
struct Attacker {
    connection: TcpStream,
    reader: Option<JoinHandle<()>>,
    /// The next stream.
    next: u32,
}

impl Attacker {
    fn of(address: &str) -> Attacker {
        let connection = TcpStream::connect(address).unwrap();
        let mut reading = connection.try_clone().unwrap();
        let reader = thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while reading.read(&mut buffer).is_ok_and(|read| read > 0) {}
        });
        let mut attacker = Attacker { connection, reader: Some(reader), next: 1 };
        let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut begin, SETTINGS, 0, 0, &[]);
        attacker.send(&begin);
        attacker
    }

    /// Begins so many calls; each goes on with the frames that `and` adds for its stream.
    fn calls(&mut self, count: usize, path: &str, and: impl Fn(&mut Vec<u8>, u32)) {
        let headers = headers(path, &[]);
        for _ in 0..count {
            let (mut frames, stream) = (Vec::new(), self.next);
            self.next += 2;
            frame(&mut frames, HEADERS, END_HEADERS, stream, &headers);
            and(&mut frames, stream);
            if !self.send(&frames) {
                return;
            }
        }
    }

    /// `false`: the server has ended the connection.
    fn send(&mut self, bytes: &[u8]) -> bool {
        match self.connection.write_all(bytes) {
            Ok(()) => true,
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => false,
            Err(e) => panic!("{e}"),
        }
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.connection.shutdown(std::net::Shutdown::Both);
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_HEADERS: u8 = 4;

fn frame(to: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    to.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    to.extend([kind, flags]);
    to.extend(stream.to_be_bytes());
    to.extend(payload);
}

/// The header block of a call: literals without Huffman coding or an index, all shorter than 127 bytes.
fn headers(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fixed = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (key, value) in fixed.iter().chain(more) {
        block.push(0);
        for text in [key, value] {
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The server takes new calls on both ports, and a task goes through it.
#[track_caller]
fn others_are_served(server: &Server) {
    let operator = Operator::of(&server.control);
    let name = format!("other {}", operator.tasks_now().len());
    let mut tasks = Client::of(&server.listen, &[("contact-client", &name)]).tasks();
    operator.clients_until(|clients| clients.iter().any(|client| client.client == name));
    operator.submit(&[&name]);
    assert_eq!(tasks.next().task, name);
}

#[test]
fn calls_without_their_message_keep_nobody_out() {
    let server = Server::start(&[]);
    let attackers: Vec<Attacker> = [(&server.listen, GET_TASK), (&server.control, LIST_CLIENTS)]
        .into_iter()
        .flat_map(|(address, path)| {
            // Some calls on each of many connections, and many on one.
            [50; 40].into_iter().chain([2_000]).map(move |calls| {
                let mut attacker = Attacker::of(address);
                attacker.calls(calls, path, |_, _| ());
                attacker
            })
        })
        .collect();
    others_are_served(&server);
    drop(attackers);
    others_are_served(&server);
}

#[test]
fn a_call_without_its_message_is_refused_when_none_can_come_and_after_ten_seconds() {
    let server = Server::start(&[]);
    let path = "/contact.control.v1.Control/GetServer";
    let refused = raw::client_streaming(&server.control, path, &[]).unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::DEADLINE_EXCEEDED, "MESSAGE_MISSING".into()));
    let request = GetServerRequest::new().write_to_bytes().unwrap();
    let answer = raw::client_streaming(&server.control, path, &[request]).unwrap();
    assert!(!Description::parse_from_bytes(&answer).unwrap().version.is_empty(), "a message of no bytes is one");
    let refused = raw::silent(&server.listen, GET_TASK);
    assert_eq!((refused.code(), reason(&refused)), (Code::DEADLINE_EXCEEDED, "MESSAGE_MISSING".into()));
}
