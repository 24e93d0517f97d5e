//! How much a client may send before it is read: enough for long links, and bounded.
//!
//! C-core 1.56 has two ways. Without probing (BDP) it gives a connection 64 KiB, and each stream as much: over a link of 100 ms that is 0.6 MB
//! a second, whatever is set. With probing it gives a connection what the link needs, and each stream 4 MiB and more, read or not. So it
//! probes, and here what it gives to streams is cut down: to [`NARROW`] for each at most, and [`WIDE`] for a few at a time that are being read.
//! C-core believes that all have what it gave, and makes room again when the call reads on, which is all that is needed of it.
//!
//! What it writes is changed where it stands, byte for byte. Nothing is added and nothing taken away.

use super::frames::Heads;
use super::frames::kind::{DATA, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE};

/// What a client may send of most streams before it is read, in bytes: what HTTP/2 gives without a word.
const NARROW: u32 = 65_535;
/// The same of streams that are being read and have much to say: 10 MB a second over a link of 100 ms.
const WIDE: u32 = 1024 * 1024;
/// Streams of a connection that have [`WIDE`] at the same time.
const WIDE_STREAMS: usize = 8;
/// A stream for which C-core makes so much room at once is read, and has much to say.
const BUSY: u32 = 32 * 1024;
/// The longest frame, as HTTP/2 has it without a word.
const LONGEST_FRAME: u32 = 16_384;

/// A kind of frame that there is not. Who does not know a frame leaves it alone (RFC 9113, section 4.1).
const NONE: u8 = 0xbd;
const END_STREAM: u8 = 0x1;
const INITIAL_WINDOW_SIZE: u16 = 0x4;
const MAX_FRAME_SIZE: u16 = 0x5;

/// What the client of one connection was given.
#[derive(Default)]
pub(super) struct Credit {
    heads: Heads,
    /// What came of a setting, or of a window's change.
    payload: [u8; 6],
    came: usize,
    /// Whether C-core has said how it is set.
    is_set: bool,
    /// What C-core gave to each stream.
    given: u32,
    /// Those that have [`WIDE`]. 0: a free place.
    wide: [u32; WIDE_STREAMS],
}

impl Credit {
    /// The stream is over, on either side.
    pub(super) fn over(&mut self, stream: u32) {
        self.wide.iter_mut().filter(|wide| **wide == stream).for_each(|wide| *wide = 0);
    }

    /// What C-core says to the client.
    pub(super) fn change(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            if self.heads.left > 0 {
                let length = self.heads.left.min(bytes.len());
                let (payload, rest) = bytes.split_at_mut(length);
                self.heads.left -= length;
                match self.heads.kind() {
                    SETTINGS if !self.is_set => payload.iter_mut().for_each(|byte| self.setting(byte)),
                    WINDOW_UPDATE => self.update(payload),
                    _ => {}
                }
                if self.heads.left == 0 && self.heads.kind() == SETTINGS {
                    self.is_set = true;
                }
                bytes = rest;
                continue;
            }
            let before = self.heads.read();
            let (length, complete) = self.heads.take(bytes);
            // Later C-core changes its windows by the memory that is left. It believes them changed when the client says that it knows,
            // and what a stream was given here cannot be taken back. What is acknowledged has no payload.
            let kind = 3_usize.checked_sub(before).filter(|at| *at < length);
            if let Some(at) = kind.filter(|at| self.is_set && bytes[*at] == SETTINGS && self.heads.has_payload()) {
                bytes[at] = NONE;
            }
            bytes = &mut bytes[length..];
            if complete {
                self.came = 0;
                let ends = matches!(self.heads.kind(), DATA | HEADERS) && self.heads.flags() & END_STREAM != 0;
                if ends || self.heads.kind() == RST_STREAM {
                    self.over(self.heads.stream());
                }
            }
        }
    }

    /// A byte of SETTINGS: two of what is set, four of its value. The smaller value counts, C-core's or ours: where memory is short it gives
    /// less, and more than it gave must not be said. Which one that is shows from the highest byte on.
    fn setting(&mut self, byte: &mut u8) {
        self.payload[self.came] = *byte;
        let [of @ .., a, b, c, d] = self.payload;
        let at = self.came.checked_sub(2);
        self.came = (self.came + 1) % self.payload.len();
        let (of, value) = (u16::from_be_bytes(of), [a, b, c, d]);
        let most = match of {
            INITIAL_WINDOW_SIZE => NARROW,
            MAX_FRAME_SIZE => LONGEST_FRAME,
            _ => return,
        };
        let (Some(at), most) = (at, most.to_be_bytes()) else { return };
        if value[..=at] > most[..=at] {
            *byte = most[at];
        }
        if at == 3 && of == INITIAL_WINDOW_SIZE {
            self.given = u32::from_be_bytes(value);
        }
    }

    fn update(&mut self, bytes: &mut [u8]) {
        // One that was cut in two is left as it is: there will be others.
        let Ok(whole) = <&mut [u8; 4]>::try_from(bytes) else { return };
        let (room, stream) = (u32::from_be_bytes(*whole), self.heads.stream());
        // C-core gives less when memory is short.
        let more = self.given.min(WIDE).saturating_sub(NARROW);
        if stream == 0 || room < BUSY || more == 0 || self.wide.contains(&stream) {
            return;
        }
        if let Some(free) = self.wide.iter_mut().find(|wide| **wide == 0) {
            *free = stream;
            *whole = (room + more).to_be_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::tests::frame_of as frame;
    use super::*;

    fn settings(all: &[(u16, u32)]) -> Vec<u8> {
        let one = |(of, value): &(u16, u32)| [&of.to_be_bytes()[..], &value.to_be_bytes()].concat();
        frame(SETTINGS, 0, 0, &all.iter().flat_map(one).collect::<Vec<u8>>())
    }

    fn update(stream: u32, room: u32) -> Vec<u8> {
        frame(WINDOW_UPDATE, 0, stream, &room.to_be_bytes())
    }

    fn changed(credit: &mut Credit, mut bytes: Vec<u8>) -> Vec<u8> {
        credit.change(&mut bytes);
        bytes
    }

    fn began() -> Credit {
        let mut credit = Credit::default();
        changed(&mut credit, settings(&[(4, 4 << 20)]));
        credit
    }

    #[test]
    fn what_is_given_to_streams_is_cut_down_once_and_stays_so_however_it_comes() {
        let first = settings(&[(3, 1_000), (4, 4 << 20), (5, 4 << 20), (6, 16_384)]);
        let wanted = settings(&[(3, 1_000), (4, NARROW), (5, LONGEST_FRAME), (6, 16_384)]);
        let ack = frame(SETTINGS, 1, 0, &[]);
        let later = settings(&[(4, 128), (5, 1 << 20)]);
        let mut ignored = later.clone();
        ignored[3] = NONE;
        let said = [first, ack.clone(), later.clone(), ack.clone()].concat();
        for cut in 1..said.len() {
            let mut credit = Credit::default();
            let got: Vec<u8> = said.chunks(cut).flat_map(|part| changed(&mut credit, part.to_vec())).collect();
            assert_eq!(got, [&wanted[..], &ack, &ignored, &ack].concat(), "in parts of {cut}");
        }
    }

    #[test]
    fn what_is_less_than_ours_stays_as_it_is() {
        let values =
            [0, 1, 128, 16_383, 16_384, 16_385, 65_534, 65_535, 65_536, 65_791, 1 << 24, u32::MAX >> 1, u32::MAX];
        for value in values {
            let said = settings(&[(4, value), (5, value)]);
            let wanted = settings(&[(4, value.min(NARROW)), (5, value.min(LONGEST_FRAME))]);
            assert_eq!(changed(&mut Credit::default(), said), wanted, "{value}");
        }
    }

    #[test]
    fn a_few_streams_that_are_read_have_more_until_they_are_over() {
        let mut credit = began();
        let wide = BUSY + WIDE - NARROW;
        assert_eq!(changed(&mut credit, update(0, BUSY)), update(0, BUSY), "the connection's own");
        assert_eq!(changed(&mut credit, update(1, 5)), update(1, 5), "it says little");
        for stream in (1..).step_by(2).take(WIDE_STREAMS) {
            assert_eq!(changed(&mut credit, update(stream, BUSY)), update(stream, wide));
            assert_eq!(changed(&mut credit, update(stream, BUSY)), update(stream, BUSY), "once");
        }
        assert_eq!(changed(&mut credit, update(99, BUSY)), update(99, BUSY), "they are all taken");
        // One after the other ends: as its call does, is reset here, or there.
        changed(&mut credit, frame(HEADERS, END_STREAM | 4, 1, b"trailers"));
        assert_eq!(changed(&mut credit, update(101, BUSY)), update(101, wide));
        changed(&mut credit, frame(RST_STREAM, 0, 3, &[0; 4]));
        assert_eq!(changed(&mut credit, update(103, BUSY)), update(103, wide));
        credit.over(5);
        assert_eq!(changed(&mut credit, update(105, BUSY)), update(105, wide));
        changed(&mut credit, frame(HEADERS, 4, 7, b"not its end"));
        assert_eq!(changed(&mut credit, update(107, BUSY)), update(107, BUSY));
    }

    #[test]
    fn no_stream_has_more_than_c_core_gave() {
        let mut credit = Credit::default();
        changed(&mut credit, settings(&[(4, 128 << 10)]));
        assert_eq!(changed(&mut credit, update(1, BUSY)), update(1, BUSY + (128 << 10) - NARROW));
        let mut credit = Credit::default();
        changed(&mut credit, settings(&[(4, NARROW)]));
        assert_eq!(changed(&mut credit, update(1, BUSY)), update(1, BUSY));
    }
}
