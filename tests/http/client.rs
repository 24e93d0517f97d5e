//! As little of an HTTP client as it takes: a connection for each request, to its end.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::Value;

use crate::common::DEADLINE;
use crate::rig::Rig;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The value of a header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        header(&self.head, name)
    }

    /// What it was refused with.
    #[track_caller]
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned()
    }
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(header, _)| header.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
}

/// Sends these bytes and reads all that comes back.
#[track_caller]
pub fn exchange(address: &str, request: &[u8]) -> Reply {
    exchange_over(connect(address), request).unwrap()
}

/// The same on a connection that is there.
#[track_caller]
pub fn exchange_over(mut stream: impl Read + Write, request: &[u8]) -> std::io::Result<Reply> {
    // One that is refused early may not read it all.
    let _ = stream.write_all(request);
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    Ok(parse(&String::from_utf8(reply).unwrap()))
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

#[track_caller]
fn parse(reply: &str) -> Reply {
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {reply:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

pub fn get(rig: &Rig, path: &str) -> Reply {
    get_from(rig.http(), path)
}

/// HTTP/1.0: the answer ends with the connection.
pub fn get_from(address: &str, path: &str) -> Reply {
    get_with(address, path, "")
}

/// With these lines in its head.
pub fn get_with(address: &str, path: &str, headers: &str) -> Reply {
    exchange(address, format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n").as_bytes())
}

/// What answers with 200.
#[track_caller]
pub fn get_json(rig: &Rig, path: &str) -> Value {
    let reply = get(rig, path);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

/// As the page does it.
pub fn post(rig: &Rig, path: &str, body: &str) -> Reply {
    post_with(rig, path, "X-Contact: 1\r\n", body)
}

pub fn post_with(rig: &Rig, path: &str, headers: &str, body: &str) -> Reply {
    post_to(rig.http(), path, &format!("Host: localhost\r\n{headers}"), body)
}

pub fn post_to(address: &str, path: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.0\r\n{headers}Content-Length: {length}\r\n\r\n");
    exchange(address, (head + body).as_bytes())
}

/// What is done, and answered with 200.
#[track_caller]
pub fn done(rig: &Rig, path: &str, body: Value) -> Value {
    let reply = post(rig, path, &body.to_string());
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

/// The state, as soon as it is as `like` wants it.
#[track_caller]
pub fn state_until(rig: &Rig, like: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let state = get_json(rig, "/api/state");
        if like(&state) {
            return state;
        }
        assert!(Instant::now() < deadline, "the state never was as wanted: {state:#}");
    }
}

/// A listener to the events.
pub struct Events {
    head: String,
    lines: BufReader<TcpStream>,
}

impl Events {
    #[track_caller]
    pub fn of(rig: &Rig) -> Events {
        Events::at(rig, "/api/events")
    }

    #[track_caller]
    pub fn at(rig: &Rig, path: &str) -> Events {
        Events::from(rig.http(), path)
    }

    /// Of the server with this address.
    #[track_caller]
    pub fn from(address: &str, path: &str) -> Events {
        let mut events = Events::asked(address, path);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(events.lines.read_line(&mut head).unwrap(), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.0 200") && head.contains("text/event-stream"), "{head}");
        Events { head, ..events }
    }

    /// One that asked, and reads nothing.
    pub fn unread(rig: &Rig) -> Events {
        Events::asked(rig.http(), "/api/events")
    }

    fn asked(address: &str, path: &str) -> Events {
        let mut stream = connect(address);
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        Events { head: String::new(), lines: BufReader::new(stream) }
    }

    /// The value of a header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        header(&self.head, name)
    }

    /// The next event as it was sent; `None`: the stream ended.
    pub fn next(&mut self) -> Option<(String, String)> {
        let mut line = || {
            let mut line = String::new();
            self.lines.read_line(&mut line).unwrap();
            (!line.is_empty()).then_some(line)
        };
        let (name, data) = (line()?, line()?);
        assert_eq!(line()?, "\n");
        Some((name.strip_prefix("event: ")?.trim_end().to_owned(), data.strip_prefix("data: ")?.trim_end().to_owned()))
    }

    /// The next event of that name, which comes next.
    #[track_caller]
    pub fn expect(&mut self, name: &str) -> Value {
        let (found, data) = self.next().expect("the stream goes on");
        assert_eq!(found, name, "{data}");
        serde_json::from_str(&data).unwrap()
    }
}
