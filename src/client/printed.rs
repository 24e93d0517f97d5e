//! What work prints, for those who watch it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much is kept of what one task printed, in bytes: one who begins to watch sees that.
const KEPT: usize = 64 << 10;
/// How long it counts that the server said that somebody watches.
const WATCHED: Duration = Duration::from_secs(10);

/// What one task printed: the newest of it, whether somebody watches or not. Clones are of the same task.
#[derive(Debug, Clone, Default)]
pub(super) struct Printed(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// At most [`KEPT`].
    newest: VecDeque<u8>,
    /// How many bytes were printed.
    total: u64,
    /// How many of them were taken.
    taken: u64,
    watched_until: Option<Instant>,
}

/// A part of what was printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// How many bytes were printed before it.
    pub(super) from: u64,
    pub(super) bytes: Vec<u8>,
}

impl Printed {
    /// Adds to it. True: somebody watches.
    pub(super) fn push(&self, bytes: &[u8], now: Instant) -> bool {
        let mut kept = self.kept();
        kept.total += bytes.len() as u64;
        let rest = &bytes[bytes.len().saturating_sub(KEPT)..];
        let too_many = (kept.newest.len() + rest.len()).saturating_sub(KEPT);
        kept.newest.drain(..too_many);
        kept.newest.extend(rest);
        kept.is_watched(now)
    }

    /// Somebody watches for some time; `anew`: one who has seen nothing of it.
    pub(super) fn watch(&self, anew: bool, now: Instant) {
        let mut kept = self.kept();
        if anew || !kept.is_watched(now) {
            kept.taken = 0;
        }
        kept.watched_until = Some(now + WATCHED);
    }

    /// Nobody can hear of it now.
    pub(super) fn unwatch(&self) {
        self.kept().watched_until = None;
    }

    /// What is kept of it and was not taken. `None`: there is none, or nobody watches.
    pub(super) fn take(&self, now: Instant) -> Option<Piece> {
        let mut kept = self.kept();
        if kept.taken == kept.total || !kept.is_watched(now) {
            return None;
        }
        let kept_from = kept.total - kept.newest.len() as u64;
        let from = kept.taken.max(kept_from);
        kept.taken = kept.total;
        Some(Piece { from, bytes: kept.newest.iter().skip((from - kept_from) as usize).copied().collect() })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn is_watched(&self, now: Instant) -> bool {
        self.watched_until.is_some_and(|until| now < until)
    }
}

impl Piece {
    /// This, and what was printed after it. Where some is missing between them, the older part is left out.
    pub(super) fn and(&mut self, newer: Piece) {
        if self.from + self.bytes.len() as u64 == newer.from {
            self.bytes.extend(newer.bytes);
            let too_many = self.bytes.len().saturating_sub(KEPT);
            self.bytes.drain(..too_many);
            self.from += too_many as u64;
        } else {
            *self = newer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(from: u64, bytes: &[u8]) -> Option<Piece> {
        Some(Piece { from, bytes: bytes.to_vec() })
    }

    #[test]
    fn one_who_watches_gets_what_is_kept_and_then_what_is_new_and_nobody_else_gets_anything() {
        let (printed, now) = (Printed::default(), Instant::now());
        assert!(!printed.push(b"ab", now));
        assert_eq!(printed.take(now), None);
        printed.watch(false, now);
        assert_eq!(printed.take(now), piece(0, b"ab"));
        assert_eq!(printed.take(now), None);
        assert!(printed.push(b"cd", now));
        // The server says so again and again, as long as somebody watches.
        printed.watch(false, now);
        assert_eq!(printed.take(now), piece(2, b"cd"));
        // Another one watches.
        printed.watch(true, now);
        assert_eq!(printed.take(now), piece(0, b"abcd"));
        // Nobody says so any more.
        assert!(!printed.push(b"e", now + WATCHED));
        assert_eq!(printed.take(now + WATCHED), None);
        printed.watch(false, now + WATCHED);
        assert_eq!(printed.take(now + WATCHED), piece(0, b"abcde"));
    }

    #[test]
    fn the_newest_is_kept_however_much_is_printed() {
        let (printed, now) = (Printed::default(), Instant::now());
        for size in [1, KEPT - 1, KEPT + 5, 3] {
            printed.push(&vec![b'x'; size], now);
        }
        printed.watch(false, now);
        let last = printed.take(now).unwrap_or_default();
        assert_eq!((last.from, last.bytes.len()), ((KEPT + 8) as u64, KEPT));
    }

    #[test]
    fn pieces_that_follow_one_another_become_one_and_others_give_way() {
        let mut all = Piece { from: 3, bytes: b"abc".to_vec() };
        all.and(Piece { from: 6, bytes: b"de".to_vec() });
        assert_eq!(all, Piece { from: 3, bytes: b"abcde".to_vec() });
        all.and(Piece { from: 9, bytes: b"f".to_vec() });
        assert_eq!(all, Piece { from: 9, bytes: b"f".to_vec() });
        all.and(Piece { from: 10, bytes: vec![b'g'; KEPT] });
        assert_eq!((all.from, all.bytes.len()), (10, KEPT));
    }
}
