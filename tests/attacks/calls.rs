//! Calls and messages by the thousand, their HTTP/2 frames written by hand.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use contact::wire::control::{GetServerRequest, Server as Description};
use grpcio::{ChannelBuilder, CompressionAlgorithms, EnvBuilder, RpcStatusCode as Code};
use protobuf::Message as _;

use super::bystander::{Bystander, GROUP};
use crate::common::DEADLINE;
use crate::common::http2::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, INITIAL_WINDOW_SIZE, PING, PREFACE, SETTINGS, WINDOW_UPDATE,
    frame, headers, number, read_frame,
};
use crate::common::server::Server;
use crate::conventions::{reason, retry_delay};
use crate::http::client::exchange;
use crate::rig::{Client, Operator, ack};
use crate::server::memory::Memory;
use crate::server::raw;

const GET_TASK: &str = "/Contact/getTask";
const LIST_CLIENTS: &str = "/contact.control.v1.Control/ListClients";

/// A connection that keeps to no rule of HTTP/2 but the form of its frames, and to the windows for what it sends if it is to.
struct Attacker {
    connection: TcpStream,
    reader: Option<JoinHandle<()>>,
    /// The next stream.
    next: u32,
    windows: Arc<Windows>,
}

/// How much the server takes.
#[derive(Default)]
struct Windows {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Default)]
struct Now {
    initial: i64,
    connection: i64,
    /// What a stream may have beyond the initial window, less what was sent.
    streams: HashMap<u32, i64>,
    /// The server has said how it is set.
    set: bool,
    ended: bool,
}

impl Windows {
    fn change(&self, change: impl FnOnce(&mut Now)) {
        change(&mut self.now.lock().unwrap());
        self.changed.notify_all();
    }

    /// Reads what the server says of them until the connection ends. All else is passed over; its pings are not answered.
    fn follow(&self, mut connection: TcpStream) {
        while let Ok(Frame { kind, flags, stream, payload }) = read_frame(&mut connection) {
            match (kind, stream) {
                (SETTINGS, _) if flags & ACK == 0 => self.change(|now| {
                    let initial = payload.chunks(6).find(|setting| setting[..2] == INITIAL_WINDOW_SIZE);
                    now.initial = initial.map_or(now.initial, |setting| number(&setting[2..]).into());
                    now.set = true;
                }),
                (WINDOW_UPDATE, 0) => self.change(|now| now.connection += i64::from(number(&payload))),
                (WINDOW_UPDATE, _) => {
                    self.change(|now| *now.streams.entry(stream).or_default() += i64::from(number(&payload)));
                }
                _ => {}
            }
        }
        self.change(|now| now.ended = true);
    }
}

impl Attacker {
    fn of(address: &str) -> Attacker {
        Attacker::with(address, &[])
    }

    /// One that begins with these settings.
    fn with(address: &str, settings: &[u8]) -> Attacker {
        let connection = TcpStream::connect(address).unwrap();
        let now = Now { initial: 65_535, connection: 65_535, ..Now::default() };
        let windows = Arc::new(Windows { now: Mutex::new(now), ..Windows::default() });
        let (reading, followed) = (connection.try_clone().unwrap(), windows.clone());
        let reader = thread::spawn(move || followed.follow(reading));
        let mut attacker = Attacker { connection, reader: Some(reader), next: 1, windows };
        assert!(attacker.send(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()));
        attacker
    }

    /// Begins so many calls; each goes on with the frames that `and` gives for its stream.
    fn calls(&mut self, count: usize, path: &str, and: impl Fn(u32) -> Vec<u8>) {
        let headers = headers(path, &[]);
        for _ in 0..count {
            let stream = self.next;
            self.next += 2;
            if !self.send(&[frame(HEADERS, END_HEADERS, stream, &headers), and(stream)].concat()) {
                return;
            }
            // As much as the beginning of a message takes of the windows.
            self.windows.change(|now| {
                now.connection -= 5;
                *now.streams.entry(stream).or_default() -= 5;
            });
        }
    }

    /// Sends over each of its streams what the server takes, up to `most` bytes, until it takes no more. Gives the bytes of all.
    #[track_caller]
    fn fill(&mut self, most: i64) -> i64 {
        let windows = self.windows.clone();
        let (now, _) =
            windows.changed.wait_timeout_while(windows.now.lock().unwrap(), DEADLINE, |now| !now.set).unwrap();
        assert!(now.set, "a server says how it is set");
        drop(now);
        // Otherwise the windows are those that every connection begins with.
        assert!(self.send(&frame(SETTINGS, ACK, 0, &[])));
        let mut sent: HashMap<u32, i64> = (1..self.next).step_by(2).map(|stream| (stream, 0)).collect();
        let mut now = windows.now.lock().unwrap();
        loop {
            let room = |now: &Now, stream: u32, sent: i64| {
                let window = now.initial + now.streams.get(&stream).unwrap_or(&0) - sent;
                window.min(now.connection).min(most - sent).min(16_384)
            };
            let next = sent.iter_mut().find(|(stream, sent)| room(&now, **stream, **sent) > 0);
            if let Some((stream, sent)) = next {
                let length = room(&now, *stream, *sent);
                (*sent, now.connection) = (*sent + length, now.connection - length);
                drop(now);
                let data = frame(DATA, 0, *stream, &vec![0; length as usize]);
                assert!(self.send(&data), "the server has ended the connection");
                now = windows.now.lock().unwrap();
                continue;
            }
            assert!(!now.ended, "the server has ended the connection");
            if sent.values().all(|sent| *sent == most) {
                return most * sent.len() as i64;
            }
            // A server that takes no more says nothing.
            let waited = windows.changed.wait_timeout(now, Duration::from_secs(2)).unwrap();
            now = waited.0;
            if waited.1.timed_out() {
                return sent.values().sum();
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

/// The setting that no stream may be sent anything, to begin with.
const NO_ROOM: [u8; 6] = [0, 4, 0, 0, 0, 0];

/// Goes on with a message of no bytes, and that this was all.
fn empty_message(stream: u32) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, &[0; 5])
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
    let mut server = Server::start(&[]);
    let others = Bystander::of(&server);
    let before = Memory::of(server.program()).now;
    let attackers: Vec<Attacker> = [(&server.listen, GET_TASK), (&server.control, LIST_CLIENTS)]
        .into_iter()
        .flat_map(|(address, path)| {
            // Some calls on each of many connections, and many on one.
            [50; 40].into_iter().chain([2_000]).map(move |calls| {
                let mut attacker = Attacker::of(address);
                attacker.calls(calls, path, |_| Vec::new());
                attacker
            })
        })
        .collect();
    others_are_served(&server);
    // All their time is over.
    let ended = raw::silent(&server.listen, GET_TASK);
    assert_eq!(reason(&ended), "MESSAGE_MISSING");
    others.felt_little("calls without their message");
    let grown = Memory::of(server.program()).most - before;
    println!("8,000 calls took {grown} bytes");
    assert!(grown < 8_000 * 24 * 1024, "{grown} bytes");
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

#[test]
fn one_connection_has_so_many_calls_and_one_address_too() {
    let server = Server::start(&["--max-calls-per-connection", "100", "--max-calls-per-address", "130"]);
    let operator = Operator::of(&server.control);
    // This one does not heed what the server says of it.
    let mut attacker = Attacker::of(&server.listen);
    attacker.calls(150, GET_TASK, empty_message);
    operator.connected(100);
    let clients: Vec<Client> = (0..31).map(|_| Client::of(&server.listen, &[])).collect();
    let mut tasks: Vec<_> = clients[..30].iter().map(Client::tasks).collect();
    operator.connected(130);
    let refused = clients[30].tasks().end();
    assert_eq!((refused.code(), reason(&refused)), (Code::RESOURCE_EXHAUSTED, "CALLS_FULL".into()));
    assert!(refused.message().contains("130") && refused.message().contains("--max-calls-per-address"), "{refused:?}");
    assert!(retry_delay(&refused).is_some());
    assert_eq!(raw::silent(&server.listen, "/grpc.health.v1.Health/Watch").code(), Code::RESOURCE_EXHAUSTED);
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let metrics = exchange(&server.http, request).body;
    assert!(metrics.contains("contact_calls_open{port=\"listen\"} 130"), "{metrics}");
    assert!(metrics.contains("contact_refusals_total{cause=\"CALLS_FULL\"} 52"), "{metrics}");
    // What ends makes room.
    drop(attacker);
    operator.connected(30);
    tasks.push(clients[30].tasks());
    operator.submit(&["for all"]);
    tasks.iter_mut().for_each(|tasks| assert_eq!(tasks.next().task, "for all"));
}

#[test]
fn streams_that_take_nothing_keep_next_to_nothing_of_a_backlog_in_memory() {
    const STREAMS: usize = 500;
    let mut server = Server::start(&[]);
    let operator = Operator::of(&server.control);
    // More than the newest tasks that are in memory anyway.
    for first in (0..8_000).step_by(1_000) {
        let texts: Vec<String> = (first..first + 1_000).map(|n| format!("{n}{}", " ".repeat(4_000))).collect();
        operator.submit(&texts);
    }
    let others = Bystander::of(&server);
    let before = Memory::of(server.program()).now;
    let mut attackers: Vec<Attacker> = (0..STREAMS / 100).map(|_| Attacker::with(&server.listen, &NO_ROOM)).collect();
    attackers.iter_mut().for_each(|attacker| attacker.calls(100, GET_TASK, empty_message));
    operator.clients_until(|clients| {
        let streams = || clients.iter().filter(|client| client.group != GROUP);
        streams().count() == STREAMS && streams().all(|client| client.delivered > 0)
    });
    others.felt_little("streams that take nothing");
    let each = (Memory::of(server.program()).most - before) / STREAMS;
    println!("{each} bytes for each stream that takes nothing");
    // 64 KiB on their way, of which C-core may have a copy, and what a client costs. A page of the backlog would be 512 KiB more.
    assert!(each < 256 * 1024, "{each} bytes for each of {STREAMS}");
    others_are_served(&server);
}

#[test]
fn compressed_messages_are_refused_and_never_inflated() {
    let mut server = Server::start(&[]);
    let others = Bystander::of(&server);
    let before = Memory::of(server.program()).now;
    let channel = ChannelBuilder::new(Arc::new(EnvBuilder::new().cq_count(1).build()))
        .default_compression_algorithm(CompressionAlgorithms::GRPC_COMPRESS_GZIP)
        .connect(&server.listen);
    // On its way it is a thousandth of this: less than the longest message that is taken.
    let told = Client::over(channel, &[]).try_tell([ack(&"0".repeat(128 * 1024 * 1024))]).unwrap_err();
    assert_eq!(told.code(), Code::UNIMPLEMENTED, "{told:?}");
    assert!(told.message().contains("gzip"), "{told:?}");
    others.felt_little("a message that inflates");
    let most = Memory::of(server.program()).most;
    assert!(most - before < 32 * 1024 * 1024, "{before} grew to {most}");
    others_are_served(&server);
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let server = Server::start(&[]);
    let silent = [&server.listen, &server.control].map(|address| TcpStream::connect(address).unwrap());
    for mut connection in silent {
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut said = Vec::new();
        connection.read_to_end(&mut said).unwrap();
        // After 20 s it would be asked whether it is there.
        let (mut rest, mut kinds) = (said.as_slice(), Vec::new());
        while let [high, middle, low, kind, ..] = *rest {
            kinds.push(kind);
            rest = &rest[9 + u32::from_be_bytes([0, high, middle, low]) as usize..];
        }
        assert!(kinds.contains(&SETTINGS) && !kinds.contains(&PING), "{kinds:?}");
    }
}

#[test]
fn what_nobody_reads_is_taken_up_to_a_bound_for_each_call() {
    let mut server = Server::start(&[]);
    let others = Bystander::of(&server);
    let before = Memory::of(server.program()).now;
    let mut attacker = Attacker::of(&server.listen);
    // A message to begin with, and then what getTask never reads.
    attacker.calls(100, GET_TASK, |stream| frame(DATA, 0, stream, &[0; 5]));
    Operator::of(&server.control).connected(101);
    let sent = attacker.fill(8 * 1024 * 1024);
    others.felt_little("what nobody reads");
    let grown = Memory::of(server.program()).most - before;
    println!("{sent} bytes were taken, and took {grown}");
    assert!(sent <= 100 * 192 * 1024 && grown < 100 * 512 * 1024, "{sent} bytes were taken, and took {grown}");
    others_are_served(&server);
}

#[test]
fn messages_that_never_end_are_as_many_as_a_connection_may_have_calls() {
    let mut server = Server::start(&["--max-task", "262144", "--max-calls-per-connection", "100"]);
    let others = Bystander::of(&server);
    let before = Memory::of(server.program()).now;
    let mut attacker = Attacker::of(&server.listen);
    // The message is to be as long as one may be.
    let length = 262_144_u32.to_be_bytes();
    let begin = [0, length[0], length[1], length[2], length[3]];
    attacker.calls(200, "/Contact/tellResult", |stream| frame(DATA, 0, stream, &begin));
    let sent = attacker.fill(262_000);
    others.felt_little("messages that never end");
    let grown = Memory::of(server.program()).most - before;
    println!("{sent} bytes were taken, and took {grown}");
    assert!(sent > 100 * 256_000 && grown < 100 * 400 * 1024, "{sent} bytes were taken, and took {grown}");
    others_are_served(&server);
}
