//! Requests that are two for one reader and one for another, and those that name several hosts.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use crate::common::DEADLINE;
use crate::http::client::exchange;
use crate::rig::Rig;

fn rig() -> Rig {
    Rig::with(|config| config.http = Some("127.0.0.1:0".into()))
}

/// A request that submits a task.
fn submission(text: &str) -> String {
    let body = format!(r#"{{"text":"{text}"}}"#);
    let length = body.len();
    format!("POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nX-Contact: 1\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Sends these bytes on a connection that would go on; reads to its end, which is that of the first answer if the server does not
/// end it.
fn sent(rig: &Rig, bytes: &str) -> String {
    let mut stream = TcpStream::connect(rig.http()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // It may be refused before it was all read.
    let _ = stream.write_all(bytes.as_bytes());
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).unwrap_or(0);
    answer.truncate(length);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn tasks(rig: &Rig) -> Vec<String> {
    rig.operator.tasks_now().into_iter().map(|task| task.task).collect()
}

#[test]
fn a_request_in_the_body_of_another_is_never_done() {
    let rig = rig();
    let hidden = submission("hidden");
    // By their first length, all of them have the hidden request in their body.
    let (long, chunks) = (5 + hidden.len(), "0\r\n\r\n");
    for (headers, begin) in [
        (format!("Content-Length: {long}\r\nTransfer-Encoding: chunked"), chunks),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: {long}"), chunks),
        (format!("Content-Length: {long}\r\nTransfer-Encoding: Chunked"), chunks),
        (format!("Content-Length: {long}\r\nTransfer-Encoding: identity, chunked"), chunks),
        (format!("Content-Length: {long}\r\nTransfer-Encoding: chunked, identity"), chunks),
        (format!("Content-Length: {long}\r\nTransfer-Encoding: xchunked"), chunks),
        (format!("Content-Length: {long}\r\nTransfer-Encoding:\tchunked"), chunks),
        (format!("Content-Length: {long}\r\nTransfer-Encoding : chunked"), chunks),
        (format!("Content-Length: {long}\r\nTransfer-Encoding:\r\n chunked"), chunks),
        (format!("Content-Length: {long}\r\nContent-Length: 5"), "xxxxx"),
        (format!("Content-Length: {long}, 5"), "xxxxx"),
        (format!("Content-Length: {long}\r\nContent-Length : 5"), "xxxxx"),
        ("Content-Length: +5".into(), "xxxxx"),
        ("Content-Length: -5".into(), "xxxxx"),
        ("Content-Length: 0x5".into(), "xxxxx"),
        ("Content-Length: 18446744073709551621".into(), "xxxxx"),
        ("Transfer-Encoding: chunked".into(), "0;\n\r\n\r\n"),
        ("Transfer-Encoding: chunked".into(), "0\n\n"),
        ("Transfer-Encoding: chunked".into(), "10000000000000000\r\n\r\n"),
        ("Transfer-Encoding: chunked".into(), "-0\r\n\r\n"),
    ] {
        for first in ["GET /healthz", "POST /api/tasks"] {
            let request =
                format!("{first} HTTP/1.1\r\nHost: localhost\r\nX-Contact: 1\r\n{headers}\r\n\r\n{begin}{hidden}");
            let answer = sent(&rig, &request);
            assert_eq!(answer.matches("HTTP/1.").count(), 1, "{request:?} is answered once: {answer:?}");
            assert_eq!(tasks(&rig), [""; 0], "{request:?} hides none");
        }
    }
    // Two that stand one behind the other are both done, and a body of chunks is read.
    let two = submission("one") + &submission("two").replace("HTTP/1.1", "HTTP/1.0");
    exchange(rig.http(), two.as_bytes());
    let chunked = "POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nX-Contact: 1\r\nTransfer-Encoding: chunked\r\n\r\n\
                   10\r\n{\"text\":\"three\"}\r\n0\r\n\r\n";
    let answer = sent(&rig, chunked);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(tasks(&rig), ["one", "two", "three"]);
}

#[test]
fn a_request_that_names_several_hosts_is_refused() {
    let rig = rig();
    for hosts in [["localhost", "evil.example"], ["evil.example", "localhost"], ["localhost", "localhost"]] {
        let [one, two] = hosts;
        let request = format!("GET /api/state HTTP/1.0\r\nHost: {one}\r\nHost: {two}\r\n\r\n");
        let reply = exchange(rig.http(), request.as_bytes());
        assert!([400, 403].contains(&reply.status), "{hosts:?}: {reply:?}");
    }
    // Whatever the line of the request says, the host that is named counts.
    for (line, status) in [("http://evil.example/healthz", 403), ("http://localhost/healthz", 200)] {
        let host = line.split('/').nth(2).unwrap();
        let reply = exchange(rig.http(), format!("GET {line} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes());
        assert_eq!(reply.status, status, "{line}");
    }
}
