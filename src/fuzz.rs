//! For the tests of what reads that which others send: bytes that mean nothing, what is valid with some bytes of it changed, and a
//! piece of it a great many times.
//!
//! A test reads some thousand inputs. A long run is `PROPTEST_CASES=1000000 cargo test --lib any_bytes`.

#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use rustix::time::{ClockId, clock_gettime};

/// Inputs of each test, unless PROPTEST_CASES says otherwise.
const CASES: u32 = 2_000;
/// Of so many inputs, one is a piece many times.
const GIANTS: u32 = 2_000;
/// The length of that.
const GIANT: usize = 256 * 1024;
/// Time of a processor that a giant may take. What took the square of its length would need hours.
const LONGEST: Duration = Duration::from_secs(20);

/// Pieces at which readers of bytes and of text stumble.
const PIECES: [&[u8]; 24] = [
    b"\0",
    b"\r\n",
    b"%",
    b"%0",
    b"%00",
    b"%e2%80",
    b"\x1b[2J",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    "\u{202e}".as_bytes(),
    "\u{10ffff}".as_bytes(),
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
    b"\x0b",
    b"\x0c",
    b"\x2a",
    b"18446744073709551616",
    b"-1",
    b"1e308",
    b"NaN",
    b"=,",
    b"::[",
];

/// A change of some bytes.
#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    End(Index),
    Repeat(Index, usize, usize),
    Copy(Index, Index, usize),
}

impl Edit {
    fn make(self, bytes: &mut Vec<u8>) {
        let at = |index: Index, bytes: &[u8]| index.index(bytes.len() + 1);
        match self {
            Edit::Set(index, byte) => {
                let at = at(index, bytes);
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            Edit::Insert(index, piece) => {
                let at = at(index, bytes);
                bytes.splice(at..at, piece);
            }
            Edit::Remove(index, length) => {
                let at = at(index, bytes);
                bytes.drain(at..(at + length).min(bytes.len()));
            }
            Edit::End(index) => bytes.truncate(at(index, bytes)),
            Edit::Repeat(index, length, times) => {
                let at = at(index, bytes);
                let end = (at + length).min(bytes.len());
                let piece = bytes[at..end].repeat(times);
                bytes.splice(end..end, piece);
            }
            Edit::Copy(from, to, length) => {
                let (from, to) = (at(from, bytes), at(to, bytes));
                let piece = bytes[from..(from + length).min(bytes.len())].to_vec();
                bytes.splice(to..to, piece);
            }
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let piece = prop_oneof![select(&PIECES[..]).prop_map(<[u8]>::to_vec), prop::collection::vec(any::<u8>(), 1..8)];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (any::<Index>(), piece).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        (any::<Index>(), 1..16_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        any::<Index>().prop_map(Edit::End),
        (any::<Index>(), 1..16_usize, 1..64_usize).prop_map(|(at, length, times)| Edit::Repeat(at, length, times)),
        (any::<Index>(), any::<Index>(), 1..64_usize).prop_map(|(from, to, length)| Edit::Copy(from, to, length)),
    ]
}

/// Of three inputs, two are valid ones with up to eight changes.
fn input(valid: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changed = (valid, prop::collection::vec(edit(), 0..8)).prop_map(|(mut bytes, edits)| {
        edits.into_iter().for_each(|edit| edit.make(&mut bytes));
        bytes
    });
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..200), 2 => changed]
}

/// How many inputs a test reads.
pub(crate) fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES)
}

/// Reads so many times any bytes. What `read` is given it takes or refuses; if it panics, takes more memory than `memory` says for the length, or
/// a time beyond all reason, the input is made smaller and shown.
pub(crate) fn any_bytes<V>(cases: u32, valid: V, memory: impl Fn(usize) -> usize, read: impl Fn(&[u8]))
where
    V: Strategy<Value = Vec<u8>>,
{
    let config = |cases| Config { cases, failure_persistence: None, ..Config::default() };
    // What is made once, as what is known of a kind of message, is not what an input takes.
    read(&[]);
    let all = input(valid);
    let check = |bytes: &[u8]| {
        let begun = cpu();
        // A panic goes on behind the measurement, which would not end otherwise.
        let mut ended = Ok(());
        let taken = allocation_counter::measure(|| ended = catch_unwind(AssertUnwindSafe(|| read(bytes))));
        ended.unwrap_or_else(|panic| resume_unwind(panic));
        let taken = taken.bytes_max as usize;
        let (most, length) = (memory(bytes.len()), bytes.len());
        prop_assert!(taken <= most, "{taken} bytes of memory for {length} bytes, which is more than {most}");
        prop_assert!(cpu() - begun < LONGEST, "{:?} for {length} bytes", cpu() - begun);
        Ok(())
    };
    TestRunner::new(config(cases)).run(&all, |bytes| check(&bytes)).unwrap_or_else(|error| panic!("{error}"));
    let giants = (all, 0..64_usize, 0..64_usize, any::<bool>());
    TestRunner::new(Config { max_shrink_iters: 50, ..config((cases / GIANTS).max(1)) })
        .run(&giants, |(bytes, from, length, numbered)| {
            let piece: Vec<u8> = bytes.iter().copied().skip(from).take(length).collect();
            check(&giant(&piece, numbered))
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

/// The same of text, which any bytes are made to be. `memory`: beside 40 times the bytes: as text they are three times as long, percent-encoded nine times, and what grows doubles.
pub(crate) fn any_text(valid: &'static [&'static str], memory: usize, read: impl Fn(&str)) {
    let valid = select(valid).prop_map(|text| text.as_bytes().to_vec());
    any_bytes(cases(), valid, |length| memory + 40 * length, |bytes| read(&String::from_utf8_lossy(bytes)));
}

/// The piece as often as there is room. `numbered`: each behind its number, in the form of a field of protobuf, so that no two are the same.
fn giant(piece: &[u8], numbered: bool) -> Vec<u8> {
    let mut giant = Vec::with_capacity(GIANT + 128);
    for number in 1_u32.. {
        if numbered || piece.is_empty() {
            let tag = number << 3;
            giant.extend([tag as u8 | 0x80, (tag >> 7) as u8 | 0x80, (tag >> 14) as u8 & 0x7f, 0]);
        }
        giant.extend(piece);
        if giant.len() >= GIANT {
            break;
        }
    }
    giant
}

/// Time that this thread was at work.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
