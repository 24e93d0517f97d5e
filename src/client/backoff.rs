//! How long to wait before the next try.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Exponential backoff with full jitter.
///
/// Before the n-th try in a row the wait is drawn evenly from zero to `first` × 2ⁿ⁻¹, at most `most`. Drawn from zero,
/// so that a fleet which lost its server at one moment does not come back at one moment.
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

    /// A try worked: the next wait is a first one again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}
