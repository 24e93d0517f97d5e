//! Counts the frames of HTTP/2 that a client sends (RFC 9113, section 4.1), and says when they are too many. C-core 1.56 takes any
//! number: rapid resets alone took 3 GB of memory in twelve seconds.
//!
//! Only heads of frames are looked at. Whether they make sense is C-core's to say.

use std::time::{Duration, Instant};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const END_HEADERS: u8 = 0x4;

/// The kinds of frames, as far as they are told apart here.
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0x0;
    pub(in super::super) const HEADERS: u8 = 0x1;
    pub(in super::super) const RST_STREAM: u8 = 0x3;
    pub(in super::super) const SETTINGS: u8 = 0x4;
    pub(in super::super) const PING: u8 = 0x6;
    pub(in super::super) const WINDOW_UPDATE: u8 = 0x8;
    pub(in super::super) const CONTINUATION: u8 = 0x9;
}

/// Bytes of the headers of one call. C-core takes 16 KiB unless told otherwise.
const BLOCK: u64 = 64 * 1024;
/// Frames after the first that one block of headers may be cut into.
const CONTINUATIONS: u32 = 8;

/// What is counted, each with the most in a second and at once. All but HEADERS are several times what the fastest client was seen
/// to send. HEADERS are calls, of which an honest client may make as many as it can: one with more is read no faster than this, and
/// not cut off. A call that is made and ended costs the server some 50 µs.
const RATES: [(&str, f64, f64); 6] = [
    ("HEADERS", 10_000.0, 10_000.0),
    ("RST_STREAM", 500.0, 2_000.0),
    ("CONTINUATION", 500.0, 1_000.0),
    ("PING", 100.0, 400.0),
    ("SETTINGS", 50.0, 200.0),
    // WINDOW_UPDATE, PRIORITY, DATA without data, and kinds that are not known.
    ("small frames", 20_000.0, 40_000.0),
];
const HEADERS: usize = 0;
const RST_STREAM: usize = 1;
const CONTINUATION: usize = 2;
const PING: usize = 3;
const SETTINGS: usize = 4;
const SMALL: usize = 5;

/// What a client did that no client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abuse {
    /// Too many of these in a second.
    TooMany(&'static str),
    /// It does not begin as HTTP/2 does.
    NotHttp2,
    /// A block of headers that does not come to its end.
    EndlessHeaders,
}

/// The frames of one connection.
pub(super) struct Frames {
    /// How much of the preface has come.
    preface: usize,
    heads: Heads,
    begun: bool,
    block: u64,
    continuations: u32,
    rates: [Rate; RATES.len()],
}

/// Where in a frame the bytes of one way are.
#[derive(Default)]
pub(super) struct Heads {
    head: [u8; HEAD],
    /// How much of the next head has come.
    read: usize,
    /// How much of the frame is still to come.
    pub(super) left: usize,
}

impl Heads {
    /// Takes what there is of a head. How much that was, and whether the head is complete.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        let length = (HEAD - self.read).min(bytes.len());
        self.head[self.read..self.read + length].copy_from_slice(&bytes[..length]);
        self.read += length;
        if self.read < HEAD {
            return (length, false);
        }
        let [high, middle, low, ..] = self.head;
        (self.read, self.left) = (0, u32::from_be_bytes([0, high, middle, low]) as usize);
        (length, true)
    }

    /// How much of a head has come.
    pub(super) fn read(&self) -> usize {
        self.read
    }

    /// Whether more than a head belongs to the frame, as far as its head has come.
    pub(super) fn has_payload(&self) -> bool {
        self.head[..3] != [0; 3]
    }

    pub(super) fn kind(&self) -> u8 {
        self.head[3]
    }

    pub(super) fn flags(&self) -> u8 {
        self.head[4]
    }

    pub(super) fn stream(&self) -> u32 {
        let [.., a, b, c, d] = self.head;
        u32::from_be_bytes([a & 0x7f, b, c, d])
    }
}

/// A bucket of tokens.
#[derive(Clone, Copy)]
struct Rate {
    tokens: f32,
    at: Instant,
}

impl Frames {
    pub(super) fn new(now: Instant) -> Frames {
        let rates = RATES.map(|(_, _, at_once)| Rate { tokens: at_once as f32, at: now });
        Frames { preface: 0, heads: Heads::default(), begun: false, block: 0, continuations: 0, rates }
    }

    /// Whether the client has begun as HTTP/2 does: with the preface, and the head of a frame.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// Looks at what came next. How long nothing more is to be read then. `reset`: is told of streams that the client resets.
    pub(super) fn see(&mut self, bytes: &[u8], now: Instant, reset: impl FnMut(u32)) -> Result<Duration, Abuse> {
        self.count(bytes, now, reset)?;
        let (_, a_second, _) = RATES[HEADERS];
        Ok(Duration::from_secs_f64((-f64::from(self.rates[HEADERS].tokens)).max(0.0) / a_second))
    }

    fn count(&mut self, mut bytes: &[u8], now: Instant, mut reset: impl FnMut(u32)) -> Result<(), Abuse> {
        if let Some(expected) = PREFACE.get(self.preface..).filter(|rest| !rest.is_empty()) {
            let length = expected.len().min(bytes.len());
            let (preface, rest) = bytes.split_at(length);
            if !expected.starts_with(preface) {
                return Err(Abuse::NotHttp2);
            }
            self.preface += length;
            bytes = rest;
        }
        while !bytes.is_empty() {
            let heads = &mut self.heads;
            if heads.left > 0 {
                let length = heads.left.min(bytes.len());
                heads.left -= length;
                bytes = &bytes[length..];
                continue;
            }
            let (length, complete) = heads.take(bytes);
            bytes = &bytes[length..];
            if complete {
                self.begun = true;
                if self.heads.kind() == kind::RST_STREAM {
                    reset(self.heads.stream());
                }
                self.frame(now)?;
            }
        }
        Ok(())
    }

    /// A head is complete.
    fn frame(&mut self, now: Instant) -> Result<(), Abuse> {
        let (left, flags) = (self.heads.left, self.heads.flags());
        let counted = match self.heads.kind() {
            kind::DATA if left > 0 => return Ok(()),
            kind::HEADERS => HEADERS,
            kind::RST_STREAM => RST_STREAM,
            kind::SETTINGS => SETTINGS,
            kind::PING => PING,
            kind::CONTINUATION => CONTINUATION,
            _ => SMALL,
        };
        if counted == HEADERS {
            (self.block, self.continuations) = (0, 0);
        }
        if matches!(counted, HEADERS | CONTINUATION) {
            self.block += left as u64;
            self.continuations += u32::from(counted == CONTINUATION);
            let ends = flags & END_HEADERS != 0;
            if self.block > BLOCK
                || self.continuations > CONTINUATIONS
                || (self.continuations == CONTINUATIONS && !ends)
            {
                return Err(Abuse::EndlessHeaders);
            }
        }
        let (name, a_second, at_once) = RATES[counted];
        let rate = &mut self.rates[counted];
        let passed = now.saturating_duration_since(rate.at).as_secs_f64();
        rate.at = now;
        rate.tokens = (f64::from(rate.tokens) + passed * a_second).min(at_once) as f32;
        if rate.tokens < 1.0 && counted != HEADERS {
            return Err(Abuse::TooMany(name));
        }
        rate.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    impl Frames {
        fn look(&mut self, bytes: &[u8], now: Instant) -> Result<Duration, Abuse> {
            self.see(bytes, now, |_| {})
        }
    }

    pub(in super::super) fn frame_of(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        frame_of(kind, flags, 1, &vec![b'x'; payload])
    }

    fn begun_at(now: Instant) -> Frames {
        let mut frames = Frames::new(now);
        frames.look(PREFACE, now).unwrap();
        frames
    }

    fn begun(now: Instant) -> Frames {
        let mut frames = begun_at(now);
        assert!(!frames.begun());
        frames.look(&frame(4, 0, 6), now).unwrap();
        assert!(frames.begun());
        frames
    }

    #[test]
    fn a_client_that_does_not_begin_as_http_2_does_is_refused_at_the_first_byte_that_differs() {
        let now = Instant::now();
        assert_eq!(Frames::new(now).look(b"GET / HTTP/1.1", now), Err(Abuse::NotHttp2));
        let mut frames = Frames::new(now);
        assert_eq!(frames.look(b"PRI * HT", now), Ok(Duration::ZERO));
        assert_eq!(frames.look(b"X", now), Err(Abuse::NotHttp2));
    }

    #[test]
    fn resets_are_bounded_at_once_and_in_a_second() {
        let now = Instant::now();
        let mut frames = begun(now);
        let reset = [frame(1, END_HEADERS, 20), frame(3, 0, 4)].concat();
        for _ in 0..2_000 {
            frames.look(&reset, now).unwrap();
        }
        assert_eq!(frames.look(&reset, now), Err(Abuse::TooMany("RST_STREAM")));
        let mut frames = begun(now);
        for second in 0..100 {
            let now = now + Duration::from_secs(second);
            for _ in 0..500 {
                frames.look(&reset, now).unwrap();
            }
        }
    }

    #[test]
    fn each_kind_has_its_bound_and_data_has_none() {
        for (kind, name) in [(4, "SETTINGS"), (6, "PING"), (8, "small frames"), (0, "small frames")] {
            let now = Instant::now();
            let mut frames = begun(now);
            let many = frame(kind, END_HEADERS, 0).repeat(40_001);
            assert_eq!(frames.look(&many, now), Err(Abuse::TooMany(name)));
        }
        let now = Instant::now();
        assert_eq!(begun(now).look(&frame(0, 0, 10).repeat(100_000), now), Ok(Duration::ZERO));
    }

    #[test]
    fn who_makes_more_calls_is_read_no_faster_and_not_cut_off() {
        let began = Instant::now();
        let (mut frames, calls) = (begun(began), frame(1, END_HEADERS, 20).repeat(1_000));
        let (mut now, mut made) = (began, 0);
        while now < began + Duration::from_secs(10) {
            now += frames.look(&calls, now).unwrap();
            made += 1_000;
        }
        assert!((109_000..112_000).contains(&made), "{made} in ten seconds");
        assert_eq!(frames.look(&calls, now + Duration::from_secs(1)), Ok(Duration::ZERO));
    }

    #[test]
    fn headers_come_to_an_end() {
        let now = Instant::now();
        let start = frame(1, 0, 100);
        let good = [start.clone(), frame(9, 0, 100).repeat(7), frame(9, END_HEADERS, 100)].concat();
        let mut frames = begun(now);
        for _ in 0..10 {
            frames.look(&good, now).unwrap();
        }
        let endless = [start.clone(), frame(9, 0, 0).repeat(8)].concat();
        assert_eq!(begun(now).look(&endless, now), Err(Abuse::EndlessHeaders));
        let large = [start, frame(9, 0, 16_384).repeat(4)].concat();
        assert_eq!(begun(now).look(&large, now), Err(Abuse::EndlessHeaders));
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_verdict_is_the_same(
            frames in prop::collection::vec((0..12u8, any::<u8>(), 0..300usize), 0..60),
            junk in prop::collection::vec(any::<u8>(), 0..40),
            cuts in prop::collection::vec(1..50usize, 1..40),
        ) {
            let now = Instant::now();
            let mut bytes: Vec<u8> = PREFACE.to_vec();
            for (kind, flags, length) in frames {
                bytes.extend(frame(kind, flags, length));
            }
            bytes.extend(junk);
            let whole = Frames::new(now).look(&bytes, now);
            let mut cut = Frames::new(now);
            let mut rest = bytes.as_slice();
            let mut verdict = Ok(Duration::ZERO);
            for length in cuts.iter().cycle() {
                if rest.is_empty() || verdict.is_err() {
                    break;
                }
                let (part, after) = rest.split_at((*length).min(rest.len()));
                verdict = cut.look(part, now);
                rest = after;
            }
            prop_assert_eq!(whole, verdict);
        }
    }

    #[test]
    fn any_bytes_of_a_connection_are_counted_in_no_memory() {
        let valid = prop::collection::vec((0..12u8, any::<u8>(), 0..40usize), 0..12).prop_map(|frames| {
            let frames = frames.into_iter().flat_map(|(kind, flags, length)| frame(kind, flags, length));
            PREFACE.iter().copied().chain(frames).collect::<Vec<u8>>()
        });
        crate::fuzz::any_bytes(
            crate::fuzz::cases(),
            valid,
            |_| 0,
            |bytes| {
                let now = Instant::now();
                let (mut whole, mut cut) = (Frames::new(now), Frames::new(now));
                let behind_preface = whole.look(bytes, now).is_ok();
                assert_eq!(bytes.chunks(7).try_for_each(|part| cut.look(part, now).map(drop)).is_ok(), behind_preface);
                // Whatever comes behind a good beginning.
                let _ = begun_at(now).look(bytes, now);
            },
        );
    }
}
