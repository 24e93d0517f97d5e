//! How much of a group's tasks may be under way at a time.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is said of how much of a group's tasks may be under way. What it leaves open has no limit.
///
/// As text, in the store and where it is shown: parts of `max-in-flight=10,max-begun-per-second=2.5,lane-max=2,lane-on-dead=hold`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    /// Tasks that may be with its clients, all together.
    pub max_in_flight: Option<NonZeroU32>,
    /// Deliveries to its clients, all together.
    pub max_begun: Option<PerSecond>,
    /// Tasks of one lane that may be under way.
    pub lane_max: NonZeroU32,
    /// What becomes of a lane when a task of it is given up.
    pub on_dead: OnDead,
}

/// No limits, and lanes of one that go on.
impl Default for GroupLimits {
    fn default() -> GroupLimits {
        let lane_max = NonZeroU32::MIN;
        GroupLimits { max_in_flight: None, max_begun: None, lane_max, on_dead: OnDead::Release }
    }
}

impl GroupLimits {
    /// Whether it limits nothing, and lanes are as they are unless somebody says otherwise.
    pub fn is_default(&self) -> bool {
        *self == GroupLimits::default()
    }
}

/// What becomes of a lane when a task of it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum OnDead {
    /// The next one goes out.
    #[default]
    Release,
    /// It waits until an operator has given the dead letter out again, or dropped it.
    Hold,
}

impl OnDead {
    const ALL: [OnDead; 2] = [OnDead::Release, OnDead::Hold];

    /// As it stands on command lines and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            OnDead::Release => "release",
            OnDead::Hold => "hold",
        }
    }

    /// What a word of [`OnDead::as_str`] stands for.
    pub fn of(word: &str) -> Option<OnDead> {
        OnDead::ALL.into_iter().find(|on_dead| on_dead.as_str() == word)
    }
}

/// How many in a second, in thousandths of one: from 0.001 to a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerSecond(NonZeroU32);

impl PerSecond {
    /// So many thousandths, up to 1,000,000,000.
    pub fn of_thousandths(thousandths: u32) -> Option<PerSecond> {
        NonZeroU32::new(thousandths).filter(|number| number.get() <= 1_000_000_000).map(PerSecond)
    }

    /// The nearest to this number. `None`: it is out of range, or no number.
    pub fn of(number: f64) -> Option<PerSecond> {
        let fits = (0.001..=1_000_000.0).contains(&number);
        fits.then(|| (number * 1_000.0).round() as u32).and_then(PerSecond::of_thousandths)
    }

    /// In thousandths.
    pub fn thousandths(self) -> u32 {
        self.0.get()
    }

    /// As a number.
    pub fn number(self) -> f64 {
        f64::from(self.0.get()) / 1_000.0
    }
}

impl fmt::Display for PerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// Which limits of a group are to be set anew. `None`: as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitsChange {
    /// `Some(None)`: there is no limit any more.
    pub max_in_flight: Option<Option<NonZeroU32>>,
    /// The same.
    pub max_begun: Option<Option<PerSecond>>,
    /// How many of a lane.
    pub lane_max: Option<NonZeroU32>,
    /// What becomes of a lane.
    pub on_dead: Option<OnDead>,
}

impl LimitsChange {
    /// The limits as they are with this.
    pub fn applied_to(self, limits: GroupLimits) -> GroupLimits {
        GroupLimits {
            max_in_flight: self.max_in_flight.unwrap_or(limits.max_in_flight),
            max_begun: self.max_begun.unwrap_or(limits.max_begun),
            lane_max: self.lane_max.unwrap_or(limits.lane_max),
            on_dead: self.on_dead.unwrap_or(limits.on_dead),
        }
    }
}

/// Empty, if it limits nothing.
impl fmt::Display for GroupLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GroupLimits { max_in_flight, max_begun, lane_max, on_dead } = self;
        let parts = [
            max_in_flight.map(|max| format!("max-in-flight={max}")),
            max_begun.map(|rate| format!("max-begun-per-second={rate}")),
            (lane_max.get() > 1).then(|| format!("lane-max={lane_max}")),
            (*on_dead != OnDead::Release).then(|| format!("lane-on-dead={}", on_dead.as_str())),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

impl FromStr for GroupLimits {
    type Err = String;

    fn from_str(text: &str) -> Result<GroupLimits, String> {
        let mut limits = GroupLimits::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let wrong = || format!("{part:?} is no limit of a group");
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            match key {
                "max-in-flight" => limits.max_in_flight = Some(value.parse().map_err(|_| wrong())?),
                "max-begun-per-second" => {
                    let rate = value.parse().ok().and_then(PerSecond::of);
                    limits.max_begun = Some(rate.ok_or_else(wrong)?);
                }
                "lane-max" => limits.lane_max = value.parse().map_err(|_| wrong())?,
                "lane-on-dead" => limits.on_dead = OnDead::of(value).ok_or_else(wrong)?,
                _ => return Err(wrong()),
            }
        }
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_they_are_shown() {
        let all = "max-in-flight=10,max-begun-per-second=2.5,lane-max=2,lane-on-dead=hold";
        for text in ["", "max-begun-per-second=0.001", "max-begun-per-second=1000000", "lane-max=7", all] {
            assert_eq!(text.parse::<GroupLimits>().map(|limits| limits.to_string()).as_deref(), Ok(text));
        }
        for wrong in
            ["max-in-flight=0", "max-begun-per-second=0", "max-begun-per-second=NaN", "lane-max=0", "x=1", "hold"]
        {
            assert!(wrong.parse::<GroupLimits>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_change_does_not_name_stays() {
        let before: GroupLimits = "max-in-flight=10,lane-max=2".parse().unwrap_or_default();
        let change = LimitsChange { max_in_flight: Some(None), on_dead: Some(OnDead::Hold), ..LimitsChange::default() };
        assert_eq!(change.applied_to(before).to_string(), "lane-max=2,lane-on-dead=hold");
    }
}
