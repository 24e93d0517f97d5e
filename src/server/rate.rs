//! How often somebody may do something: so much at once, and then so much a second.

use std::time::{Duration, Instant};

/// One such rate. What is used is told as the time for which it counts.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// Until when what was used counts. A moment that has passed says nothing.
    busy_until: Option<Instant>,
}

impl Rate {
    /// Uses `all`, if there is room for `one`; else says when there is. Of what may be used, `at_once` is there when nothing was for
    /// long. What is more than that is waited for by those who come next: so a large request need not be cut.
    pub(super) fn spend(
        &mut self,
        one: Duration,
        all: Duration,
        at_once: Duration,
        now: Instant,
    ) -> Result<(), Duration> {
        let busy_until = self.busy_until.unwrap_or(now).max(now);
        let over = (busy_until + one).duration_since(now).saturating_sub(at_once);
        if !over.is_zero() {
            return Err(over);
        }
        // One that reaches further than there is time counts for as long as there is.
        self.busy_until = Some(busy_until.checked_add(all).unwrap_or(busy_until));
        Ok(())
    }

    /// Whether nothing counts any more.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.busy_until.is_none_or(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_second_of_it_is_let_through_at_once_and_then_so_much_a_second() {
        let mut rate = Rate::default();
        let (one, second) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut spend = |count: u32, at| rate.spend(one, one * count, second, at);
        let begin = Instant::now();
        spend(4, begin).unwrap();
        // More than there is, as one request: it is let through, and those after it wait for it.
        spend(16, begin).unwrap();
        assert_eq!(spend(1, begin), Err(Duration::from_millis(1_100)));
        assert!(spend(1, begin + Duration::from_millis(900)).is_err());
        spend(1, begin + Duration::from_millis(1_100)).unwrap();
        spend(10, begin + Duration::from_secs(3_600)).unwrap();
        assert!(spend(1, begin + Duration::from_secs(3_600)).is_err(), "an hour of silence is no hour of it");
    }
}
