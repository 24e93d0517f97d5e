//! Counts the frames of HTTP/2 that a client sends (RFC 9113, section 4.1), and says when they are too many. C-core 1.56 takes any
//! number: rapid resets alone took 3 GB of memory in twelve seconds.
//!
//! Only heads of frames are looked at. Whether they make sense is C-core's to say.

use std::time::{Duration, Instant};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const END_HEADERS: u8 = 0x4;

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
    head: [u8; HEAD],
    /// How much of the next head has come.
    read: usize,
    /// How much of the frame is still to come.
    left: usize,
    begun: bool,
    block: u64,
    continuations: u32,
    rates: [Rate; RATES.len()],
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
        Frames { preface: 0, head: [0; HEAD], read: 0, left: 0, begun: false, block: 0, continuations: 0, rates }
    }

    /// Whether the client has begun as HTTP/2 does: with the preface, and the head of a frame.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// Looks at what came next. How long nothing more is to be read then.
    pub(super) fn see(&mut self, bytes: &[u8], now: Instant) -> Result<Duration, Abuse> {
        self.count(bytes, now)?;
        let (_, a_second, _) = RATES[HEADERS];
        Ok(Duration::from_secs_f64((-f64::from(self.rates[HEADERS].tokens)).max(0.0) / a_second))
    }

    fn count(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Abuse> {
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
            if self.left > 0 {
                let length = self.left.min(bytes.len());
                self.left -= length;
                bytes = &bytes[length..];
                continue;
            }
            let length = (HEAD - self.read).min(bytes.len());
            let (part, rest) = bytes.split_at(length);
            self.head[self.read..self.read + length].copy_from_slice(part);
            self.read += length;
            bytes = rest;
            if self.read == HEAD {
                self.read = 0;
                self.begun = true;
                self.frame(now)?;
            }
        }
        Ok(())
    }

    /// A head is complete.
    fn frame(&mut self, now: Instant) -> Result<(), Abuse> {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
        let counted = match kind {
            0x0 if self.left > 0 => return Ok(()),
            0x1 => HEADERS,
            0x3 => RST_STREAM,
            0x4 => SETTINGS,
            0x6 => PING,
            0x9 => CONTINUATION,
            _ => SMALL,
        };
        if counted == HEADERS {
            (self.block, self.continuations) = (0, 0);
        }
        if matches!(counted, HEADERS | CONTINUATION) {
            self.block += self.left as u64;
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
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = (payload as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.resize(HEAD + payload, b'x');
        frame
    }

    fn begun_at(now: Instant) -> Frames {
        let mut frames = Frames::new(now);
        frames.see(PREFACE, now).unwrap();
        frames
    }

    fn begun(now: Instant) -> Frames {
        let mut frames = begun_at(now);
        assert!(!frames.begun());
        frames.see(&frame(4, 0, 6), now).unwrap();
        assert!(frames.begun());
        frames
    }

    #[test]
    fn a_client_that_does_not_begin_as_http_2_does_is_refused_at_the_first_byte_that_differs() {
        let now = Instant::now();
        assert_eq!(Frames::new(now).see(b"GET / HTTP/1.1", now), Err(Abuse::NotHttp2));
        let mut frames = Frames::new(now);
        assert_eq!(frames.see(b"PRI * HT", now), Ok(Duration::ZERO));
        assert_eq!(frames.see(b"X", now), Err(Abuse::NotHttp2));
    }

    #[test]
    fn resets_are_bounded_at_once_and_in_a_second() {
        let now = Instant::now();
        let mut frames = begun(now);
        let reset = [frame(1, END_HEADERS, 20), frame(3, 0, 4)].concat();
        for _ in 0..2_000 {
            frames.see(&reset, now).unwrap();
        }
        assert_eq!(frames.see(&reset, now), Err(Abuse::TooMany("RST_STREAM")));
        let mut frames = begun(now);
        for second in 0..100 {
            let now = now + Duration::from_secs(second);
            for _ in 0..500 {
                frames.see(&reset, now).unwrap();
            }
        }
    }

    #[test]
    fn each_kind_has_its_bound_and_data_has_none() {
        for (kind, name) in [(4, "SETTINGS"), (6, "PING"), (8, "small frames"), (0, "small frames")] {
            let now = Instant::now();
            let mut frames = begun(now);
            let many = frame(kind, END_HEADERS, 0).repeat(40_001);
            assert_eq!(frames.see(&many, now), Err(Abuse::TooMany(name)));
        }
        let now = Instant::now();
        assert_eq!(begun(now).see(&frame(0, 0, 10).repeat(100_000), now), Ok(Duration::ZERO));
    }

    #[test]
    fn who_makes_more_calls_is_read_no_faster_and_not_cut_off() {
        let began = Instant::now();
        let (mut frames, calls) = (begun(began), frame(1, END_HEADERS, 20).repeat(1_000));
        let (mut now, mut made) = (began, 0);
        while now < began + Duration::from_secs(10) {
            now += frames.see(&calls, now).unwrap();
            made += 1_000;
        }
        assert!((109_000..112_000).contains(&made), "{made} in ten seconds");
        assert_eq!(frames.see(&calls, now + Duration::from_secs(1)), Ok(Duration::ZERO));
    }

    #[test]
    fn headers_come_to_an_end() {
        let now = Instant::now();
        let start = frame(1, 0, 100);
        let good = [start.clone(), frame(9, 0, 100).repeat(7), frame(9, END_HEADERS, 100)].concat();
        let mut frames = begun(now);
        for _ in 0..10 {
            frames.see(&good, now).unwrap();
        }
        let endless = [start.clone(), frame(9, 0, 0).repeat(8)].concat();
        assert_eq!(begun(now).see(&endless, now), Err(Abuse::EndlessHeaders));
        let large = [start, frame(9, 0, 16_384).repeat(4)].concat();
        assert_eq!(begun(now).see(&large, now), Err(Abuse::EndlessHeaders));
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
            let whole = Frames::new(now).see(&bytes, now);
            let mut cut = Frames::new(now);
            let mut rest = bytes.as_slice();
            let mut verdict = Ok(Duration::ZERO);
            for length in cuts.iter().cycle() {
                if rest.is_empty() || verdict.is_err() {
                    break;
                }
                let (part, after) = rest.split_at((*length).min(rest.len()));
                verdict = cut.see(part, now);
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
                let behind_preface = whole.see(bytes, now).is_ok();
                assert_eq!(bytes.chunks(7).try_for_each(|part| cut.see(part, now).map(drop)).is_ok(), behind_preface);
                // Whatever comes behind a good beginning.
                let _ = begun_at(now).see(bytes, now);
            },
        );
    }
}
