//! Times, as programs and as people want them.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::task::Time;

/// A time as the server tells it: milliseconds since 1970 UTC. As JSON it is RFC 3339.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Moment(pub(super) i64);

impl Moment {
    /// 0 is how the wire says that it is not set.
    pub(super) fn if_set(millis: i64) -> Option<Moment> {
        (millis != 0).then_some(Moment(millis))
    }

    /// In RFC 3339, UTC, with milliseconds.
    pub(super) fn exact(self) -> String {
        Time(self.0).to_string()
    }

    /// `3 min ago`, seen from `now`.
    pub(super) fn ago(self, now: Time) -> String {
        let passed = now.0.saturating_sub(self.0);
        match (passed / 1000, span(Duration::from_millis(passed.unsigned_abs()))) {
            (0, _) => "now".into(),
            (..0, span) => format!("in {span}"),
            (1.., span) => format!("{span} ago"),
        }
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.exact())
    }
}

/// How tables show times.
#[derive(Clone, Copy)]
pub(super) enum Times {
    /// For programs, and where lines stay while time goes on.
    Exact,
    /// For people who look now.
    Ago(Time),
}

impl Times {
    pub(super) fn show(self, at: Moment) -> String {
        match self {
            Times::Exact => at.exact(),
            Times::Ago(now) => at.ago(now),
        }
    }

    /// For where there is room.
    pub(super) fn both(self, at: Moment) -> String {
        match self {
            Times::Exact => at.exact(),
            Times::Ago(now) => format!("{} ({})", at.exact(), at.ago(now)),
        }
    }
}

/// A duration in its largest unit: `12 s`, `3 min`, `5 h`, `9 d`.
pub(super) fn span(duration: Duration) -> String {
    match duration.as_secs() {
        s @ ..60 => format!("{s} s"),
        s @ ..3_600 => format!("{} min", s / 60),
        s @ ..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_and_nonsense_is_clamped() {
        assert_eq!(Moment(1_777_536_000_123).exact(), "2026-04-30T08:00:00.123Z");
        assert_eq!(Moment(i64::MIN).exact(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Moment(i64::MAX).exact(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn how_long_ago_is_said_in_the_largest_unit() {
        let now = Time(1_777_536_000_000);
        for (passed, says) in [
            (999, "now"),
            (-999, "now"),
            (1_000, "1 s ago"),
            (59_999, "59 s ago"),
            (60_000, "1 min ago"),
            (3_600_000, "1 h ago"),
            (47 * 3_600_000, "47 h ago"),
            (48 * 3_600_000, "2 d ago"),
            (-90_000, "in 1 min"),
        ] {
            assert_eq!(Moment(now.0 - passed).ago(now), says);
        }
        assert!(Moment(i64::MIN).ago(Time(i64::MAX)).ends_with(" d ago"), "and nonsense is survived");
    }
}
