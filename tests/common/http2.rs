//! Frames of HTTP/2, written and read by hand (RFC 9113, section 4.1).

use std::io::{self, Read};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The setting by which the windows of streams begin.
pub const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];

/// A frame.
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Reads the next one.
pub fn read_frame(from: &mut impl Read) -> io::Result<Frame> {
    let mut head = [0; 9];
    from.read_exact(&mut head)?;
    let [high, middle, low, kind, flags, a, b, c, d] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
    from.read_exact(&mut payload)?;
    Ok(Frame { kind, flags, stream: u32::from_be_bytes([a & 0x7f, b, c, d]), payload })
}

/// The number of the payload of WINDOW_UPDATE, or of a setting.
pub fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

/// The header block of a call: literals without Huffman coding or an index, all shorter than 127 bytes.
pub fn headers(path: &str, metadata: &[(&str, &[u8])]) -> Vec<u8> {
    let fixed: [(&str, &[u8]); 6] = [
        (":method", b"POST"),
        (":scheme", b"http"),
        (":path", path.as_bytes()),
        (":authority", b"test"),
        ("content-type", b"application/grpc"),
        ("te", b"trailers"),
    ];
    let mut block = Vec::new();
    for (key, value) in fixed.iter().chain(metadata) {
        block.push(0);
        for text in [key.as_bytes(), value] {
            block.push(text.len() as u8);
            block.extend(text);
        }
    }
    block
}
