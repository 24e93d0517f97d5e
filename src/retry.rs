//! How long a task waits before it goes out again.

use std::time::Duration;

/// A backoff: each attempt that came to nothing makes the next wait longer.
///
/// As text, the same on command lines, on the wire and in the store: `first=10s,factor=2,cap=10m,jitter=0.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Retry {
    /// The first wait. Zero: there is none, and no later one either.
    first: Duration,
    /// Each further wait is so many thousandths of the one before.
    factor: u32,
    /// No wait is longer than this, but for the jitter.
    cap: Duration,
    /// A wait is up to so many thousandths longer or shorter, so that tasks which failed together do not come again together.
    jitter: u32,
}

/// 1 s, 2 s, 4 s and so on up to 10 min, each up to a tenth longer or shorter.
impl Default for Retry {
    fn default() -> Retry {
        Retry { first: Duration::from_secs(1), factor: 2_000, cap: Duration::from_secs(600), jitter: 100 }
    }
}

impl Retry {
    /// No wait at all.
    pub const AT_ONCE: Retry = Retry { first: Duration::ZERO, factor: 1_000, cap: Duration::ZERO, jitter: 0 };

    /// The wait after the attempt of that number came to nothing, from 1; zero for 0. `salt` is what the jitter is made of: the
    /// same gives the same, so that a life can be lived again.
    pub fn wait(&self, attempt: u32, salt: u64) -> Duration {
        let Some(further) = attempt.checked_sub(1) else { return Duration::ZERO };
        let mut wait = self.first.min(self.cap);
        for _ in 0..further {
            // It ends where the cap does, or never grows.
            if wait >= self.cap || wait.is_zero() || self.factor == 1_000 {
                break;
            }
            wait = wait.saturating_mul(self.factor).checked_div(1_000).unwrap_or(self.cap).min(self.cap);
        }
        // The finaliser of splitmix64: every bit of the salt changes every bit of it.
        let mut bits = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(attempt.into());
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let thousandths = (bits ^ (bits >> 31)) % (2 * u64::from(self.jitter) + 1);
        wait * (1_000 - self.jitter + thousandths as u32) / 1_000
    }
}

/// What is said of retries, of a task or of all tasks of a group. What it leaves open the next one says: the task's own policy
/// goes before its group's, and that before the server's.
///
/// As text it is that of a [`Retry`], with the most attempts as `max`: `max=5,first=10s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryPolicy {
    /// Attempts that may be spent on a task; not 0.
    pub max_attempts: Option<u32>,
    /// How long a task waits before it goes out again.
    pub backoff: Option<Retry>,
}

impl RetryPolicy {
    /// Whether it leaves everything open.
    pub fn is_open(&self) -> bool {
        *self == RetryPolicy::default()
    }
}

#[cfg(any(feature = "server", feature = "cli"))]
mod text {
    use std::fmt;
    use std::str::FromStr;
    use std::time::Duration;

    use super::{Retry, RetryPolicy};

    /// The longest text of a policy, in bytes: several times what all of its parts need.
    const LONGEST_TEXT: usize = 256;
    /// The longest wait that may be asked for.
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    /// Where the text names any part of a wait, the parts that it does not name are as in [`Retry::default`].
    impl FromStr for RetryPolicy {
        type Err = String;

        fn from_str(text: &str) -> Result<RetryPolicy, String> {
            if text.len() > LONGEST_TEXT {
                return Err(format!("a retry policy is at most {LONGEST_TEXT} bytes, and this is {}", text.len()));
            }
            let (mut max, mut retry, mut waits, mut capped) = (None, Retry::default(), false, false);
            let mut named = Vec::new();
            for part in text.split(',') {
                let (key, value) = part.split_once('=').ok_or_else(|| wrong(part))?;
                let (key, value) = (key.trim(), value.trim());
                if named.contains(&key) {
                    return Err(format!("{key} is named twice"));
                }
                named.push(key);
                waits |= key != "max";
                match key {
                    "max" => max = Some(value.parse().ok().filter(|max| *max > 0).ok_or_else(|| wrong(part))?),
                    "first" => retry.first = time(value)?,
                    "cap" => (retry.cap, capped) = (time(value)?, true),
                    "factor" => retry.factor = thousandths(value, 1.0..=1_000.0).ok_or_else(|| wrong(part))?,
                    "jitter" => retry.jitter = thousandths(value, 0.0..=1.0).ok_or_else(|| wrong(part))?,
                    _ => return Err(wrong(part)),
                }
            }
            if retry.first > retry.cap && capped {
                return Err("first must not be longer than cap".into());
            }
            retry.cap = retry.cap.max(retry.first);
            Ok(RetryPolicy { max_attempts: max, backoff: waits.then_some(retry) })
        }
    }

    fn wrong(part: &str) -> String {
        let part: String = part.chars().take(40).collect();
        format!(
            "{part:?} is no part of a retry policy: max=N, first=TIME, factor=1 to 1000, cap=TIME and jitter=0 to 1 are, as in \
             max=5,first=10s,factor=2,cap=10m,jitter=0.1"
        )
    }

    fn time(text: &str) -> Result<Duration, String> {
        let time = humantime::parse_duration(text).map_err(|e| format!("{text:?} is no time: {e}"))?;
        // What is kept is whole milliseconds.
        let millis = time.as_millis().min(LONGEST.as_millis());
        Ok(Duration::from_millis(millis as u64))
    }

    fn thousandths(text: &str, allowed: std::ops::RangeInclusive<f64>) -> Option<u32> {
        let number = text.parse().ok().filter(|number| allowed.contains(number))?;
        Some((number * 1_000.0).round() as u32)
    }

    impl FromStr for Retry {
        type Err = String;

        fn from_str(text: &str) -> Result<Retry, String> {
            match text.parse::<RetryPolicy>()? {
                RetryPolicy { max_attempts: None, backoff } => Ok(backoff.unwrap_or_default()),
                RetryPolicy { max_attempts: Some(_), .. } => Err("max is set by max-attempts here".into()),
            }
        }
    }

    impl fmt::Display for Retry {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let time = |time| humantime::format_duration(time).to_string().replace(' ', "");
            let (factor, jitter) = (f64::from(self.factor) / 1_000.0, f64::from(self.jitter) / 1_000.0);
            write!(f, "first={},factor={factor},cap={},jitter={jitter}", time(self.first), time(self.cap))
        }
    }

    /// Empty, if it leaves everything open: that is no policy to be read.
    impl fmt::Display for RetryPolicy {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match (self.max_attempts, self.backoff) {
                (Some(max), Some(backoff)) => write!(f, "max={max},{backoff}"),
                (Some(max), None) => write!(f, "max={max}"),
                (None, Some(backoff)) => backoff.fmt(f),
                (None, None) => Ok(()),
            }
        }
    }
}

#[cfg(all(test, any(feature = "server", feature = "cli")))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    #[cfg(feature = "server")]
    use crate::fuzz::any_text;

    fn waits(text: &str, attempts: std::ops::RangeInclusive<u32>) -> Vec<u64> {
        let retry: Retry = text.parse().unwrap();
        attempts.map(|attempt| retry.wait(attempt, 7).as_secs()).collect()
    }

    #[test]
    fn each_wait_is_longer_up_to_the_cap() {
        assert_eq!(waits("first=10s,factor=2,cap=1m,jitter=0", 0..=6), [0, 10, 20, 40, 60, 60, 60]);
        assert_eq!(waits("first=10s,factor=1,jitter=0", 1..=3), [10, 10, 10]);
        assert_eq!(waits("first=0s", 1..=3), [0, 0, 0]);
        // At once: not after as many steps as there were attempts.
        assert_eq!(waits("first=0s", u32::MAX..=u32::MAX), [0]);
        assert_eq!(waits("first=1s,factor=1000,cap=1000d,jitter=0", u32::MAX..=u32::MAX), [365 * 24 * 60 * 60]);
    }

    #[test]
    fn jitter_spreads_the_waits_and_stays_within_its_bounds() {
        let retry: Retry = "first=100s,factor=1,jitter=0.1".parse().unwrap();
        let waits: Vec<_> = (0..1_000).map(|salt| retry.wait(1, salt).as_secs()).collect();
        assert!(waits.iter().all(|wait| (90..=110).contains(wait)));
        assert!(waits.contains(&90) && waits.contains(&109));
        assert_eq!(retry.wait(1, 3), retry.wait(1, 3));
    }

    #[test]
    fn its_text_is_read_again_as_it_was_and_what_makes_no_sense_is_refused_with_the_reason() {
        for text in ["first=10s,factor=2,cap=10m,jitter=0.1", "first=1m30s,factor=1.5,cap=1h,jitter=0"] {
            let retry: Retry = text.parse().unwrap();
            assert_eq!(retry.to_string().parse(), Ok(retry));
        }
        for text in ["max=5,first=2s,factor=2,cap=10m,jitter=0.1", "first=2s,factor=2,cap=10m,jitter=0.1", "max=5"] {
            assert_eq!(text.parse::<RetryPolicy>().unwrap().to_string(), text);
        }
        let policy = RetryPolicy { max_attempts: Some(5), backoff: "first=2s".parse().ok() };
        assert_eq!("max=5,first=2s".parse(), Ok(policy));
        assert_eq!("first=20m,jitter=0".parse::<Retry>().unwrap().wait(9, 0).as_secs() / 100, 12);
        for text in [
            "",
            "max=5",
            "max=0",
            "first=soon",
            "factor=0.5",
            "jitter=2",
            "cap=1s,first=2s",
            "often=1",
            "factor=NaN",
            "first=1s, first=2s",
        ] {
            let Err(why) = text.parse::<Retry>() else { panic!("{text:?} makes no sense") };
            assert!(!why.is_empty());
        }
        for part in ["first=s", "max=5", "\u{1b}", "factor=2,"] {
            let why = part.repeat(100_000).parse::<RetryPolicy>().unwrap_err();
            assert!(why.len() < 200, "{} bytes", why.len());
        }
    }

    #[cfg(feature = "server")]
    #[test]
    fn any_bytes_are_a_policy_or_are_refused_in_a_sentence() {
        const POLICIES: &[&str] =
            &["max=5,first=10s,factor=2,cap=10m,jitter=0.1", "first=1h 2m,cap=1000d", "max=4294967295", ""];
        any_text(POLICIES, 16 * 1024, |text| match text.parse::<RetryPolicy>() {
            Err(why) => assert!(why.len() <= 1024, "{} bytes", why.len()),
            Ok(policy) => {
                let retry = policy.backoff.unwrap_or_default();
                for attempt in [0, 1, 2, u32::MAX] {
                    assert!(retry.wait(attempt, u64::MAX - 3) <= Duration::from_secs(2 * 366 * 24 * 60 * 60));
                }
                assert!(policy.is_open() || policy.to_string().parse() == Ok(policy), "{policy}");
            }
        });
    }
}
