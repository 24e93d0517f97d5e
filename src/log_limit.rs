//! Lines of the log that strangers can cause, by connections that are refused: one a second of a kind, or they would fill a disk.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(1);

/// One kind of line.
pub(crate) struct LogLimit(Mutex<State>);

struct State {
    last: Option<Instant>,
    left_out: u64,
}

/// How many lines of the kind were left out since the last: what the next one ends with.
pub(crate) struct LeftOut(u64);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            more => write!(f, " (and {more} more like it before)"),
        }
    }
}

impl LogLimit {
    pub(crate) const fn new() -> LogLimit {
        LogLimit(Mutex::new(State { last: None, left_out: 0 }))
    }

    /// `None`: the line is left out.
    pub(crate) fn take(&self, now: Instant) -> Option<LeftOut> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            state.left_out += 1;
            return None;
        }
        state.last = Some(now);
        Some(LeftOut(std::mem::take(&mut state.left_out)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_lines_one_a_second_is_written_and_says_how_many_were_not() {
        let (limit, begin) = (LogLimit::new(), Instant::now());
        let at = |millis| limit.take(begin + Duration::from_millis(millis)).map(|left_out| left_out.to_string());
        assert_eq!(at(0), Some(String::new()));
        assert_eq!((at(0), at(999)), (None, None));
        assert_eq!(at(1000), Some(" (and 2 more like it before)".into()));
        assert_eq!(at(1500), None);
        assert_eq!(at(5000), Some(" (and 1 more like it before)".into()));
        assert_eq!(at(9000), Some(String::new()));
    }
}
