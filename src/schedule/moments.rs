//! Which moments a schedule has: the calendar of its cron expression, in its time zone.

use std::time::Duration;

use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::When;
use crate::task::Time;

/// The longest cron expression, in bytes.
pub const LONGEST_EXPRESSION: usize = 256;
/// How far back moments are looked for, one after the other: so that the last of very many are found without counting all.
const BACK: [Duration; 4] = [hours(1), hours(24), hours(40 * 24), hours(400 * 24)];

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

/// Why something is no time of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhenError {
    /// The expression cannot be read.
    #[error(
        "the cron expression makes no sense: {0}; it has a minute, an hour, a day of the month, a month and a day of the week, as in '0 3 * * *'"
    )]
    Expression(String),
    /// There is no time of the calendar that it fits.
    #[error("the cron expression {0} never comes: no day of the calendar fits it")]
    Never(String),
    /// The zone is not known.
    #[error(
        "there is no time zone {0:?}: zones are named as in the tz database, such as Europe/Berlin, and are looked up in that of the server's system"
    )]
    Zone(String),
    /// The interval is too short or too long.
    #[error("an interval is from 1s to 10 years")]
    Interval,
}

/// The moments of a schedule.
#[derive(Debug, Clone)]
pub struct Moments(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Cron(Box<Calendar>),
    Every { millis: i64, since: i64 },
}

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
struct Calendar {
    cron: Cron,
    zone: TimeZone,
    /// It has every hour of the day.
    is_hourly: bool,
}

impl Moments {
    /// Those of a schedule, by the tz database of the system as it is now.
    pub fn of(when: &When) -> Result<Moments, WhenError> {
        match when {
            When::Cron { expression, zone } => {
                Moments::of_cron(expression, TimeZone::get(zone).map_err(|_| WhenError::Zone(zone.clone()))?)
            }
            When::Every { millis, since } => {
                let millis = i64::try_from(*millis).ok().filter(|millis| *millis > 0).ok_or(WhenError::Interval)?;
                Ok(Moments(Kind::Every { millis, since: since.0 }))
            }
        }
    }

    /// Those of a cron expression in a zone.
    pub fn of_cron(expression: &str, zone: TimeZone) -> Result<Moments, WhenError> {
        if expression.len() > LONGEST_EXPRESSION {
            return Err(WhenError::Expression(format!("it has more than {LONGEST_EXPRESSION} bytes")));
        }
        let fields = expression.split_ascii_whitespace().count();
        if fields != 5 && !expression.starts_with('@') {
            return Err(WhenError::Expression(format!("it has {fields} fields")));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(expression).map_err(|error| WhenError::Expression(plain(&error)))?;
        let hours = cron.pattern.hours.values();
        let calendar = Calendar { is_hourly: hours.len() == 24, cron, zone };
        Ok(Moments(Kind::Cron(Box::new(calendar))))
    }

    /// The first after a time. `None`: there is none.
    pub fn after(&self, time: Time) -> Option<Time> {
        match &self.0 {
            Kind::Cron(calendar) => calendar.after(time),
            Kind::Every { millis, since } => {
                let next = time.0.checked_sub(*since)?.div_euclid(*millis) + 1;
                Some(Time(next.checked_mul(*millis)?.checked_add(*since)?))
            }
        }
    }

    /// The last ones after a time and up to another, `most` of them, in order; and whether there are more.
    pub fn last(&self, after: Time, upto: Time, most: usize) -> (Vec<Time>, bool) {
        let starts = match &self.0 {
            Kind::Cron(_) => BACK.map(|back| Time(upto.0.saturating_sub(back.as_millis() as i64))).to_vec(),
            Kind::Every { millis, .. } => {
                vec![Time(upto.0.saturating_sub(millis.saturating_mul(most as i64 + 1)))]
            }
        };
        let starts = starts.into_iter().filter(|start| *start > after);
        for start in starts.chain([after]) {
            let mut found = self.between(start, upto);
            if found.len() > most || start == after {
                let more = found.len() > most;
                return (found.split_off(found.len().saturating_sub(most)), more);
            }
        }
        Default::default()
    }

    fn between(&self, after: Time, upto: Time) -> Vec<Time> {
        std::iter::successors(self.after(after), |last| self.after(*last))
            .take_while(|moment| *moment <= upto)
            .collect()
    }
}

/// What is wrong, without the word for the kind of error, and the full stop.
fn plain(error: &CronError) -> String {
    match error {
        CronError::InvalidPattern(why) | CronError::IllegalCharacters(why) | CronError::ComponentError(why) => {
            why.trim_end_matches('.').to_owned()
        }
        other => other.to_string(),
    }
}

impl Calendar {
    fn after(&self, time: Time) -> Option<Time> {
        let time = Timestamp::from_millisecond(time.0).ok()?;
        let found = if self.is_hourly { self.as_time_passes(time) } else { self.by_the_clock(time) };
        Some(Time(found?.as_millisecond()))
    }

    /// Each time that the expression names, once: one that the clocks leave out is when they go on, one that they show twice is the first.
    fn by_the_clock(&self, time: Timestamp) -> Option<Timestamp> {
        let mut clock = self.zone.to_datetime(time);
        loop {
            clock = self.next(clock, false)?;
            let moment = self.moment(clock)?;
            // In an hour that is shown the second time, what comes in it was before.
            if moment > time {
                return Some(moment);
            }
        }
    }

    fn moment(&self, clock: DateTime) -> Option<Timestamp> {
        let times = self.zone.to_ambiguous_timestamp(clock);
        match times.offset() {
            AmbiguousOffset::Gap { after, .. } => {
                // By what the clocks are set to, it is before they are.
                let before = after.to_timestamp(clock).ok()?;
                Some(self.zone.following(before).next()?.timestamp())
            }
            _ => times.earlier().ok(),
        }
    }

    /// Whenever the clocks show a time that fits, as often as they do.
    fn as_time_passes(&self, time: Timestamp) -> Option<Timestamp> {
        let (mut from, mut is_start) = (time, false);
        loop {
            // Until the clocks are set the next time, they just go on.
            let offset = self.zone.to_offset(from);
            let set = self.zone.following(from).next().map(|set| set.timestamp());
            let moment = offset.to_timestamp(self.next(offset.to_datetime(from), is_start)?).ok()?;
            match set {
                Some(set) if set <= moment => (from, is_start) = (set, true),
                _ => return Some(moment),
            }
        }
    }

    fn next(&self, clock: DateTime, inclusive: bool) -> Option<DateTime> {
        self.cron.find_next_occurrence(&clock, inclusive).ok()
    }
}
