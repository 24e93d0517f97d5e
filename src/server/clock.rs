//! The clock of the machine, and how far it is believed.
//!
//! Retention goes by the clock, and a clock may step: a machine that starts before its time is set, a wrong `date`. What is removed
//! because of that does not come back. So a step is held against the time since the machine was started, which does not step, and
//! counts only when it has held for an hour, or when an operator says that it is right.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use log::{info, warn};

use crate::now::since_boot;
use crate::task::Time;

/// Less is a correction: `ntpd` and `chrony` step by less than this once they are running.
const STEP: Duration = Duration::from_secs(60);
/// So long a step must hold. A machine that is started before its time is set has it sooner.
pub(super) const HOLDS: Duration = Duration::from_secs(60 * 60);
/// A server that was stopped for longer than this, or whose clock is wrong: at the start the two look alike.
const AWAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What the machine says at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// The time of day.
    pub(super) wall: Time,
    /// Since the machine was started, or any other moment.
    pub(super) elapsed: Duration,
}

impl Reading {
    fn now() -> Reading {
        Reading { wall: Time::now(), elapsed: since_boot() }
    }

    /// The time of day then, as it must be if it was right here.
    fn wall_at(&self, elapsed: Duration) -> Time {
        self.wall.after(elapsed.saturating_sub(self.elapsed))
    }
}

/// A step that does not count yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// By so many milliseconds the clock is ahead of where it should be; behind, if it is less than 0.
    pub(super) ahead: i64,
    /// After this time it counts.
    pub(super) left: Duration,
}

/// Looks at the clock of the machine.
pub(super) struct Clock {
    read: Box<dyn Fn() -> Reading + Send + Sync>,
    state: Mutex<State>,
}

struct State {
    /// Where it was right last.
    right: Reading,
    doubt: Option<Doubt>,
}

#[derive(Clone, Copy)]
struct Doubt {
    ahead: i64,
    /// As [`Reading::elapsed`].
    since: Duration,
}

impl Clock {
    /// The clock of this machine.
    pub(super) fn of_machine() -> Clock {
        Clock::new(Reading::now)
    }

    pub(super) fn new(read: impl Fn() -> Reading + Send + Sync + 'static) -> Clock {
        let state = Mutex::new(State { right: read(), doubt: None });
        Clock { read: Box::new(read), state }
    }

    /// For a store whose newest entry is of that time. If the clock is more than a day beyond, that is a step.
    pub(super) fn start_after(&self, newest: Time) {
        let now = (self.read)();
        if now.wall > newest.after(AWAY) {
            self.with(|state| state.right = Reading { wall: newest, ..now });
            self.look();
        }
    }

    /// Notices steps: to be called every few seconds.
    pub(super) fn look(&self) -> Option<Step> {
        let now = (self.read)();
        self.with(|state| state.look(now))
    }

    /// What is removed is to be older than it is to be by this time: the earliest that it may be.
    pub(super) fn for_removal(&self) -> Time {
        let now = (self.read)();
        self.with(|state| {
            state.look(now);
            state.right.wall_at(now.elapsed).min(now.wall)
        })
    }

    /// Somebody says that the clock is right. By how many milliseconds it had stepped; 0: it had not.
    pub(super) fn accept(&self) -> i64 {
        let now = (self.read)();
        self.with(|state| {
            let ahead = state.look(now).map_or(0, |step| step.ahead);
            if ahead != 0 {
                info!("the clock is right, an operator says: what is old by it is removed");
            }
            *state = State { right: now, doubt: None };
            ahead
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn look(&mut self, now: Reading) -> Option<Step> {
        let ahead = now.wall.0.saturating_sub(self.right.wall_at(now.elapsed).0);
        if is_small(ahead) {
            if self.doubt.take().is_some() {
                info!("the clock is back where it should be; nothing was removed because of its step");
            }
            self.right = now;
            return None;
        }
        let since = match self.doubt {
            Some(doubt) if is_small(ahead.saturating_sub(doubt.ahead)) => doubt.since,
            _ => {
                let by = Shown(ahead);
                warn!(
                    "the clock stepped: it is {by} where it should be. Nothing is removed because of that for an hour; if it is \
                     right: contactctl clock accept"
                );
                self.doubt = Some(Doubt { ahead, since: now.elapsed });
                now.elapsed
            }
        };
        let left = HOLDS.saturating_sub(now.elapsed.saturating_sub(since));
        if left.is_zero() {
            warn!(
                "the clock is {} where it should be for an hour now: it counts, and what is old by it is removed",
                Shown(ahead)
            );
            *self = State { right: now, doubt: None };
            return None;
        }
        Some(Step { ahead, left })
    }
}

fn is_small(millis: i64) -> bool {
    Duration::from_millis(millis.unsigned_abs()) <= STEP
}

/// `40 days ahead of`, in the largest unit that says enough.
struct Shown(i64);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.0.unsigned_abs() / 60_000;
        match minutes {
            0..120 => write!(f, "{minutes} min"),
            120..2880 => write!(f, "{} h", minutes / 60),
            _ => write!(f, "{} days", minutes / 1440),
        }?;
        f.write_str(if self.0 > 0 { " ahead of" } else { " behind" })
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;

    pub(in crate::server) const START: Time = Time(1_777_536_000_000);
    pub(in crate::server) const MINUTE: i64 = 60_000;
    pub(in crate::server) const DAY: i64 = 24 * 60 * MINUTE;

    /// A machine whose clock does as it is told.
    #[derive(Clone)]
    pub(in crate::server) struct Machine(Arc<Mutex<Reading>>);

    impl Machine {
        pub(in crate::server) fn at(wall: Time) -> Machine {
            Machine(Arc::new(Mutex::new(Reading { wall, elapsed: Duration::from_secs(5) })))
        }

        pub(in crate::server) fn clock(&self) -> Clock {
            let machine = self.0.clone();
            Clock::new(move || *machine.lock().unwrap())
        }

        pub(in crate::server) fn passes(&self, millis: i64) {
            let mut now = self.0.lock().unwrap();
            now.wall.0 += millis;
            now.elapsed += Duration::from_millis(millis.unsigned_abs());
        }

        pub(in crate::server) fn steps(&self, millis: i64) {
            self.0.lock().unwrap().wall.0 += millis;
        }
    }

    #[test]
    fn a_step_of_more_than_a_minute_counts_when_it_has_held_for_an_hour() {
        let machine = Machine::at(START);
        let clock = machine.clock();
        machine.passes(MINUTE);
        machine.steps(MINUTE);
        assert_eq!((clock.look(), clock.for_removal().0), (None, START.0 + 2 * MINUTE), "a correction");
        machine.steps(40 * DAY);
        let step = clock.look().unwrap();
        assert_eq!((step.ahead, step.left), (40 * DAY, HOLDS));
        machine.passes(59 * MINUTE);
        assert_eq!(clock.look().unwrap().left, Duration::from_secs(60));
        assert_eq!(clock.for_removal().0, START.0 + 61 * MINUTE, "as if it had not stepped");
        machine.passes(MINUTE);
        assert_eq!((clock.look(), clock.for_removal().0), (None, START.0 + 62 * MINUTE + 40 * DAY));
    }

    #[test]
    fn a_step_that_is_taken_back_never_counted() {
        let machine = Machine::at(START);
        let clock = machine.clock();
        machine.steps(40 * DAY);
        assert!(clock.look().is_some());
        machine.passes(MINUTE);
        machine.steps(-40 * DAY);
        assert_eq!((clock.look(), clock.for_removal().0), (None, START.0 + MINUTE));
        machine.passes(2 * 60 * MINUTE);
        machine.steps(DAY);
        assert_eq!(clock.look().unwrap().left, HOLDS, "another one begins anew");
        machine.passes(30 * MINUTE);
        machine.steps(DAY);
        assert_eq!(clock.look().unwrap().left, HOLDS, "and so does one on top of it");
    }

    #[test]
    fn behind_a_clock_that_went_back_nothing_becomes_older() {
        let machine = Machine::at(START);
        let clock = machine.clock();
        machine.steps(-60 * MINUTE);
        assert_eq!(clock.look().unwrap().ahead, -60 * MINUTE);
        machine.passes(MINUTE);
        assert_eq!(clock.for_removal().0, START.0 - 59 * MINUTE);
    }

    #[test]
    fn an_operator_may_say_that_it_is_right() {
        let machine = Machine::at(START);
        let clock = machine.clock();
        assert_eq!(clock.accept(), 0);
        machine.steps(40 * DAY);
        assert_eq!(clock.accept(), 40 * DAY);
        assert_eq!((clock.look(), clock.for_removal().0), (None, START.0 + 40 * DAY));
    }

    #[test]
    fn at_the_start_a_clock_more_than_a_day_beyond_the_newest_entry_has_stepped() {
        for (away, ahead) in [(DAY, None), (2 * DAY, Some(2 * DAY)), (-DAY, None)] {
            let machine = Machine::at(Time(START.0 + away));
            let clock = machine.clock();
            clock.start_after(START);
            assert_eq!(clock.look().map(|step| step.ahead), ahead);
            assert_eq!(clock.for_removal().0, START.0 + if away > DAY { 0 } else { away });
        }
    }

    #[test]
    fn a_step_is_said_in_a_unit_that_people_have_in_mind() {
        let said = [40 * DAY, -DAY, 90_000, -119 * MINUTE].map(|ahead| Shown(ahead).to_string());
        assert_eq!(said, ["40 days ahead of", "24 h behind", "1 min ahead of", "119 min behind"]);
    }
}
