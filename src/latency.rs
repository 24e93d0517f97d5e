//! How long things took: counts in buckets, cheap enough to be kept for every task.
//!
//! A plain array that one thread owns: no lock, no atomics, no allocation, nothing that can fail. Others read a copy.

/// Buckets for each doubling: a quantile is at most a sixteenth too high.
const EACH: u32 = 16;
/// Up to 2^40 µs, 12 days; what took longer counts as that.
const BUCKETS: usize = (EACH * 38) as usize;

/// Durations, in microseconds.
#[derive(Debug, Clone)]
pub struct Latency {
    counts: Box<[u64; BUCKETS]>,
    sum: u64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { counts: Box::new([0; BUCKETS]), sum: 0 }
    }
}

/// The bucket of a duration: one for each value below 16, then sixteen for each doubling.
fn bucket(micros: u64) -> usize {
    let shift = (u64::BITS - EACH.trailing_zeros() - 1).saturating_sub(micros.leading_zeros());
    let bucket = u64::from(shift * EACH) + (micros >> shift);
    (bucket as usize).min(BUCKETS - 1)
}

/// The largest duration of a bucket.
fn last(bucket: usize) -> u64 {
    let (shift, place) = match (bucket as u32 / EACH, bucket as u32 % EACH) {
        (0, place) => (0, place),
        (doubling, place) => (doubling - 1, EACH + place),
    };
    ((u64::from(place) + 1) << shift) - 1
}

impl Latency {
    /// Counts one.
    pub fn record(&mut self, micros: u64) {
        self.counts[bucket(micros)] += 1;
        self.sum = self.sum.saturating_add(micros);
    }

    /// What came since `earlier`, a copy of this very one.
    pub fn since(&self, earlier: &Latency) -> Latency {
        let mut since = self.clone();
        since.counts.iter_mut().zip(earlier.counts.iter()).for_each(|(now, before)| *now -= (*before).min(*now));
        since.sum -= earlier.sum.min(since.sum);
        since
    }

    /// The duration that `quantile` of them (0 to 1) did not exceed; `None` if there were none.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let wanted = (self.count() as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        bucket.map(last)
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long they took together.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many were no longer than that, give or take a sixteenth.
    pub fn upto(&self, micros: u64) -> u64 {
        self.counts[..=bucket(micros)].iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_has_a_bucket_that_is_at_most_a_sixteenth_wide() {
        let mut micros: u64 = 0;
        while micros < 1 << 41 {
            let (bucket, most) = (bucket(micros), last(bucket(micros)));
            if bucket < BUCKETS - 1 {
                assert!((micros..=micros + micros / 16).contains(&most), "{micros} in {bucket}, up to {most}");
                assert_eq!(super::bucket(most + 1), bucket + 1, "buckets follow one another: {micros}");
            }
            micros += 1 + micros / 50;
        }
    }

    #[test]
    fn quantiles_and_sums_are_of_what_came_in_between() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(0.5), None);
        (0..100).for_each(|_| latency.record(1_000_000));
        let before = latency.clone();
        (1..=100).for_each(|n| latency.record(n * 1000));
        let since = latency.since(&before);
        assert_eq!((since.count(), since.sum()), (100, 5_050_000));
        let near =
            |quantile: Option<u64>, micros: u64| (micros..=micros + micros / 16).contains(&quantile.unwrap_or(0));
        assert!(near(since.quantile(0.5), 50_000) && near(since.quantile(0.99), 99_000), "{since:?}");
        assert_eq!((since.upto(200_000), latency.upto(200_000), latency.upto(u64::MAX)), (100, 100, 200));
    }
}
