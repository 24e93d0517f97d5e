//! The tasks that the article's server makes: ten at once, and ten more from time to time. Each is a schedule.

use std::time::Duration;

use crate::schedule::{Missed, Schedule, What, When};
use crate::task::{Name, NameError, NameOf, Time};

/// The schedules of `--demo`, whose first moment is now.
pub(super) fn schedules(every: Duration, now: Time) -> Result<Vec<(Name, Schedule)>, NameError> {
    let millis = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
    let one = |number: u32| {
        let name = Name::new(NameOf::Schedule, &format!("demo-{number}"))?;
        let what = What { text: format!("任务:{}", 100 + 10 * number), ..What::default() };
        let schedule = Schedule::new(When::Every { millis, since: now }, Missed::Skip, what, None, now);
        Ok((name, Schedule { through: Time(now.0 - 1), demo: true, ..schedule }))
    };
    (1..=10).map(one).collect()
}
