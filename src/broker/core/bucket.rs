//! How many deliveries a second a group may begin.

use std::time::Duration;

use crate::group_limits::PerSecond;
use crate::now::Steady;

/// What one delivery takes, in millionths of a delivery.
const ONE: u64 = 1_000_000;

/// A token bucket on the clock that never steps. It holds what comes in a tenth of a second, but at least one: so much may begin at
/// once.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: PerSecond,
    /// Millionths of a delivery that there were at `since`.
    tokens: u64,
    since: Steady,
}

impl Bucket {
    /// One that is full, or with nothing in it: after a start it is not known what was given out right before.
    pub(super) fn new(rate: PerSecond, is_full: bool, now: Steady) -> Bucket {
        let bucket = Bucket { rate, tokens: 0, since: now };
        Bucket { tokens: if is_full { bucket.room() } else { 0 }, ..bucket }
    }

    /// Another rate, with what is there.
    pub(super) fn set_rate(&mut self, rate: PerSecond, now: Steady) {
        *self = Bucket { tokens: self.tokens(now), since: now, rate };
        self.tokens = self.tokens.min(self.room());
    }

    /// A thousandth of a delivery a second is a millionth in a millisecond.
    fn per_milli(&self) -> u64 {
        self.rate.thousandths().into()
    }

    fn room(&self) -> u64 {
        (self.per_milli() * 100).max(ONE)
    }

    fn tokens(&self, now: Steady) -> u64 {
        let came = self.per_milli().saturating_mul(now.0.saturating_sub(self.since.0));
        self.tokens.saturating_add(came).min(self.room())
    }

    /// Whether a delivery may begin.
    pub(super) fn has_one(&self, now: Steady) -> bool {
        self.tokens(now) >= ONE
    }

    /// One begins.
    pub(super) fn take(&mut self, now: Steady) {
        (self.tokens, self.since) = (self.tokens(now).saturating_sub(ONE), self.since.max(now));
    }

    /// When the next may begin.
    pub(super) fn next(&self, now: Steady) -> Steady {
        let missing = ONE.saturating_sub(self.tokens(now));
        now.after(Duration::from_millis(missing.div_ceil(self.per_milli())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// What begins in each of so many seconds, where there is always something to begin.
    fn begun(rate: f64, is_full: bool, seconds: u64) -> Vec<u64> {
        let mut bucket = Bucket::new(PerSecond::of(rate).unwrap(), is_full, Steady(0));
        let second = |from: u64| {
            let mut begun = 0;
            for now in (from..from + 1_000).map(Steady) {
                while bucket.has_one(now) {
                    bucket.take(now);
                    begun += 1;
                }
            }
            begun
        };
        (0..seconds).map(|second| 1_000 * second).map(second).collect()
    }

    #[test]
    fn a_second_has_as_many_as_may_be_and_a_burst_once() {
        assert_eq!(begun(10.0, true, 3), [10, 10, 10]);
        assert_eq!(begun(100.0, true, 3), [109, 100, 100], "a tenth of a second's worth at the start");
        assert_eq!(begun(100.0, false, 2), [99, 100]);
        assert_eq!(begun(0.5, true, 5), [1, 0, 1, 0, 1]);
        assert_eq!(begun(20_000.0, false, 2), [19_980, 20_000], "several in one millisecond");
    }

    #[test]
    fn it_says_when_the_next_may_begin() {
        let mut bucket = Bucket::new(PerSecond::of(3.0).unwrap(), true, Steady(5));
        bucket.take(Steady(5));
        let next = bucket.next(Steady(5));
        assert!(!bucket.has_one(Steady(next.0 - 1)) && bucket.has_one(next), "{next:?}");
        // A rest of any length is worth no more than the burst.
        bucket.take(Steady(u64::MAX / 2));
        assert!(!bucket.has_one(Steady(u64::MAX / 2)));
    }

    #[test]
    fn another_rate_gives_nothing_away() {
        let mut bucket = Bucket::new(PerSecond::of(1.0).unwrap(), true, Steady(0));
        bucket.take(Steady(0));
        bucket.set_rate(PerSecond::of(1_000.0).unwrap(), Steady(0));
        assert_eq!(bucket.next(Steady(0)), Steady(1));
    }
}
