//! The two clocks that what waits goes by.
//!
//! The time of day may step: a machine that starts before its time is set, a wrong `date`. So it counts only where somebody named
//! a moment of it, and where a moment is written down. What lasts for a while is measured on a clock that never steps.

use std::time::Duration;

use crate::task::Time;

/// A point in time on a clock that never steps: milliseconds since the machine was started. It goes on while the machine sleeps.
///
/// It means nothing to another start of the machine, so it is never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Steady(pub u64);

impl Steady {
    /// This time and `duration` more.
    #[must_use]
    pub fn after(self, duration: Duration) -> Steady {
        Steady(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero, if it is before.
    pub fn since(self, earlier: Steady) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// One moment, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The time of day.
    pub wall: Time,
    /// The clock that never steps.
    pub steady: Steady,
}

impl Now {
    /// As the machine has it.
    pub fn read() -> Now {
        Now { wall: Time::now(), steady: Steady(u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX)) }
    }

    /// When so much time has passed, and the clock did not step.
    #[must_use]
    pub fn after(self, duration: Duration) -> Now {
        Now { wall: self.wall.after(duration), steady: self.steady.after(duration) }
    }

    /// By how many milliseconds the time of day is ahead of the steady clock. It changes when the clock steps.
    pub fn ahead(self) -> i64 {
        self.wall.0.saturating_sub_unsigned(self.steady.0)
    }

    /// The time of day at another moment, if the clock does not step until then and did not since.
    pub fn wall_at(self, moment: Steady) -> Time {
        let millis = |later: Steady, earlier: Steady| i64::try_from(later.0 - earlier.0).unwrap_or(i64::MAX);
        if moment >= self.steady {
            Time(self.wall.0.saturating_add(millis(moment, self.steady)))
        } else {
            Time(self.wall.0.saturating_sub(millis(self.steady, moment)))
        }
    }

    /// When it will be that time of day, if the clock does not step until then; now, if it is later.
    pub fn steady_at(self, moment: Time) -> Steady {
        Steady(self.steady.0.saturating_add(u64::try_from(moment.0.saturating_sub(self.wall.0)).unwrap_or(0)))
    }
}

/// Since the machine was started. It goes on while the machine sleeps, as the time of day does.
#[cfg(target_os = "linux")]
pub fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Since this was first asked, or any other moment: this system does not say more.
#[cfg(not(target_os = "linux"))]
pub fn since_boot() -> Duration {
    static BEGAN: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    BEGAN.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_one_clock_is_one_of_the_other() {
        let now = Now { wall: Time(1_000_000), steady: Steady(5_000) };
        assert_eq!((now.wall_at(Steady(7_000)), now.wall_at(Steady(4_000))), (Time(1_002_000), Time(999_000)));
        assert_eq!((now.steady_at(Time(1_002_000)), now.steady_at(Time(999_000))), (Steady(7_000), Steady(5_000)));
        assert_eq!((now.wall_at(Steady(u64::MAX)), now.steady_at(Time(i64::MIN))), (Time(i64::MAX), Steady(5_000)));
    }

    #[test]
    fn the_steady_clock_goes_on() {
        let before = Now::read();
        let after = Now::read();
        assert!(after.steady >= before.steady && before.steady.0 > 0);
    }
}
