//! How long to wait before the next try.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Exponential backoff with full jitter.
///
/// Before the n-th try in a row the wait is drawn evenly from zero to `first` × 2ⁿ⁻¹, at most `most`. It starts at zero, so
/// that clients which lost their server at one moment do not come back at one moment.
///
/// ```
/// # use std::time::Duration;
/// # use contact::client::Backoff;
/// let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// assert!(backoff.next(&mut rand::rng()) <= Duration::from_secs(1));
/// assert!(backoff.next(&mut rand::rng()) <= Duration::from_secs(2));
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    tries: u32,
}

impl Backoff {
    /// The first wait is at most `first`, every wait at most `most`.
    pub fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most, tries: 0 }
    }

    /// How long to wait before the next try.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(self.tries).unwrap_or(u32::MAX));
        self.tries = self.tries.saturating_add(1);
        doubled.min(self.most).mul_f64(rng.random_range(0.0..=1.0))
    }

    /// The same, after a server that asked for a wait: that wait, and the jitter on top, since it may have asked many clients for
    /// the same. The bound stays: a wait above it is drawn from its upper half instead.
    pub fn next_after(&mut self, asked: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let wait = self.next(rng).saturating_add(asked.unwrap_or_default());
        if wait <= self.most { wait } else { self.most.mul_f64(rng.random_range(0.5..=1.0)) }
    }

    /// A try worked: the next wait is a first one again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A thousand first waits, in milliseconds.
    fn waits(first: Duration, most: Duration, asked: Option<Duration>) -> BTreeSet<u128> {
        let mut rng = StdRng::seed_from_u64(3);
        (0..1_000).map(|_| Backoff::new(first, most).next_after(asked, &mut rng).as_millis()).collect()
    }

    #[test]
    fn a_server_that_wants_to_be_left_alone_is_for_so_long_and_by_each_for_a_bit_longer() {
        let waits = waits(SECOND, 30 * SECOND, Some(3 * SECOND));
        assert!(waits.iter().all(|wait| (3_000..=4_000).contains(wait)), "{waits:?}");
        assert!(waits.len() > 500, "they do not come together: {waits:?}");
    }

    #[test]
    fn however_long_it_wants_the_bound_stays_and_they_do_not_come_together() {
        for asked in [2 * SECOND, 3600 * SECOND, Duration::MAX] {
            let waits = waits(SECOND, 2 * SECOND, Some(asked));
            assert!(waits.iter().all(|wait| (1_000..=2_000).contains(wait)), "{waits:?}");
            assert!(waits.len() > 500, "{waits:?}");
        }
    }

    #[test]
    fn one_that_says_nothing_of_the_kind_is_tried_as_ever() {
        let waits = waits(SECOND, 30 * SECOND, None);
        assert!(waits.iter().all(|wait| *wait <= 1_000) && waits.iter().any(|wait| *wait < 100), "{waits:?}");
    }
}
