//! What is at an address where no Contact server answers as it should. gRPC hides it: a proxy's page is "Stream removed" to it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::front::{HTTP_MARK, SPEAKS_TLS, host};

/// How long each step of a look may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of an answer is read, in bytes, and shown, in characters.
const READ: usize = 4096;
const SHOWN: usize = 120;

const HTTP_1_REQUEST: &[u8] =
    b"POST /Contact/getTask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/grpc\r\n\
    Content-Length: 0\r\nConnection: close\r\n\r\n";
/// The preface, empty SETTINGS, and HEADERS: POST, http, `/Contact/getTask`, `contact`, `application/grpc`.
const HTTP_2_REQUEST: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
    \0\0\x30\x01\x05\0\0\0\x01\x83\x86\x04\x10/Contact/getTask\x01\x07contact\x0f\x10\x10application/grpc";
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing, since the name is not known here; what the system said.
    NoName(String),
    /// A port with TLS.
    Tls,
    /// The page of a Contact server.
    Page,
    /// Another program that speaks HTTP: the status, and the first words of its page.
    Other(String),
}

/// Looks, for some seconds at most, beside what it takes to look the name up. `http2`: what is there speaks HTTP/2, else HTTP/1. `None`:
/// nobody answers, or not so that it tells anything.
pub(crate) fn look(server: &str, http2: bool) -> Option<Found> {
    // Of the forms that only gRPC knows, such as unix:PATH, there is nothing to be found out here.
    let is_name = !host(server).contains(':') && !server.starts_with("unix:");
    let answer = match server.to_socket_addrs() {
        Ok(mut addresses) => ask(addresses.next()?, http2)?,
        Err(error) => return is_name.then(|| Found::NoName(error.to_string())),
    };
    let is_page = answer.contains(HTTP_MARK) || answer.contains("https://") && answer.contains(SPEAKS_TLS);
    Some(match answer {
        _ if is_page => Found::Page,
        answer if answer.contains(SPEAKS_TLS) => Found::Tls,
        answer => Found::Other(answer),
    })
}

fn ask(address: SocketAddr, http2: bool) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let request = if http2 { HTTP_2_REQUEST } else { HTTP_1_REQUEST };
    stream.write_all(request).ok()?;
    let mut answer = [0; READ];
    let mut length = 0;
    // What came before an error, the end or the end of patience is an answer as well.
    while let Ok(more @ 1..) = stream.read(answer.get_mut(length..).unwrap_or_default()) {
        length += more;
        if http2 && of_http_2(answer.get(..length)?).is_some_and(|(_, words)| !words.is_empty()) {
            break;
        }
    }
    let answer = answer.get(..length)?;
    let (status, page) = if http2 { of_http_2(answer)? } else { of_http_1(answer)? };
    Some(summary(&status, &String::from_utf8_lossy(page)))
}

/// The status line and the page of an answer in HTTP/1.
fn of_http_1(answer: &[u8]) -> Option<(String, &[u8])> {
    let end = answer.iter().position(|byte| *byte == b'\r')?;
    let line = std::str::from_utf8(answer.get(..end)?).ok()?.strip_prefix("HTTP/1.")?;
    let body = answer.windows(4).position(|it| it == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    Some((line.split_once(' ')?.1.to_owned(), answer.get(body..)?))
}

/// The same in HTTP/2, of what came of it so far (RFC 9113, section 4.1): the status stands first in the first frame with
/// headers, and then, in a frame with data, comes the page.
fn of_http_2(mut answer: &[u8]) -> Option<(String, &[u8])> {
    let mut status = None;
    while let Some((&[high, middle, low, kind, _, _, _, _, _], rest)) = answer.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let (payload, rest) = rest.split_at(length.min(rest.len()));
        match (kind, &status) {
            (DATA, Some(status)) => return Some((String::clone(status), payload)),
            (HEADERS, None) => status = Some(status_of(payload)?),
            _ => {}
        }
        answer = rest;
    }
    status.map(|status| (status, &[][..]))
}

/// `:status`, from the start of a block of headers (RFC 7541, appendix A: entries 8 to 14 of the static table). Proxies write
/// the number as it is, so the Huffman code is not read.
fn status_of(block: &[u8]) -> Option<String> {
    const KNOWN: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];
    // A change of the size of the table may come before.
    let start = block.iter().position(|byte| byte >> 5 != 0b001)?;
    match block.get(start..)? {
        [indexed @ 0x88..=0x8e, ..] => KNOWN.get(usize::from(indexed - 0x88)).map(ToString::to_string),
        [0x08 | 0x18 | 0x48, 3, a, b, c, ..] => String::from_utf8(vec![*a, *b, *c]).ok(),
        _ => Some("of another status than those known".into()),
    }
}

fn summary(status: &str, page: &str) -> String {
    let words: Vec<&str> =
        page.split(|c: char| c.is_whitespace() || c.is_control()).filter(|it| !it.is_empty()).collect();
    let said = format!("HTTP {status}: {}", words.join(" "));
    let shown: String = said.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    shown.trim_end_matches([':', ' ']).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn shown((status, page): (String, &[u8])) -> String {
        summary(&status, &String::from_utf8_lossy(page))
    }

    #[test]
    fn a_page_in_http_1_is_its_status_and_its_first_words() {
        let page = b"HTTP/1.1 404 Not Found\r\nServer: x\r\n\r\n<html>\r\n<title>no \x1b[2Jsuch\t page</title>";
        assert_eq!(shown(of_http_1(page).unwrap()), "HTTP 404 Not Found: <html> <title>no [2Jsuch page</title>");
        assert_eq!(shown(of_http_1(b"HTTP/1.0 403 Forbidden\r\n\r\n").unwrap()), "HTTP 403 Forbidden");
        assert_eq!(summary("200 OK", &"x".repeat(5000)).len(), SHOWN);
        assert_eq!(of_http_1(b"\0\0\x12\x04"), None);
        assert_eq!(of_http_1(b""), None);
    }

    #[test]
    fn a_page_in_http_2_is_as_well_however_it_writes_the_status() {
        let frame = |kind: u8, payload: &[u8]| [&[0, 0, payload.len() as u8, kind, 4, 0, 0, 0, 1], payload].concat();
        let answer = |headers: &[u8]| [frame(4, b""), frame(HEADERS, headers), frame(DATA, b"no such\npage")].concat();
        for (headers, status) in [(&[0x8d, 0x61][..], "404"), (&[0x20, 0x8d], "404"), (b"\x48\x03401", "401")] {
            assert_eq!(shown(of_http_2(&answer(headers)).unwrap()), format!("HTTP {status}: no such page"));
        }
        let all = answer(&[0x8d]);
        for length in 0..all.len() {
            let _ = of_http_2(&all[..length]);
        }
        assert_eq!(of_http_2(b"HTTP/1.1 404 Not Found\r\n\r\n"), None);
    }
}
