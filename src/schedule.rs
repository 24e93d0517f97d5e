//! A schedule: a task that is made again and again, at moments of a calendar or at an interval.
//!
//! What is here decides which moments there are, and for which of them a task is due: without a clock, and without I/O. A schedule
//! keeps the last moment that it is through with, which is written in one transaction with the task for it. So no moment has a second task,
//! and none is forgotten, wherever a crash or a step of the clock comes between.

mod due;
mod moments;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::due::{BELIEVED, Change, MOST_MISSED, ON_TIME, STEPS_BACK, Turn};
pub use self::moments::{LONGEST_EXPRESSION, Moments, WhenError};
use crate::attachment::Attachment;
use crate::task::{Name, NewTask, Priority, Submitter, TaskId, Time};

/// Most schedules. Each is in memory, and is looked at each second.
pub const MOST: usize = 1_000;
/// Most bytes of what all of them are to do: texts, headers, data and names of groups.
pub const MOST_BYTES: usize = 64 << 20;
/// The longest name, in bytes: the key of a task has it, and its moment.
pub const LONGEST_NAME: usize = 200;
/// The shortest interval.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// The longest interval: ten years of 365 days.
pub const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A schedule, without its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// When its moments are.
    pub when: When,
    /// What becomes of moments that were missed.
    pub missed: Missed,
    /// No moment of it has a task until it is resumed.
    pub paused: bool,
    /// What each of its tasks has.
    pub what: What,
    /// Who set it last, where callers have to say who they are.
    pub by: Option<Submitter>,
    /// When it was set as it is.
    pub set_at: Time,
    /// It is through with the moments up to here: each has its task, or was passed over.
    pub through: Time,
    /// The last task that it made.
    pub last: Option<Last>,
    /// The server's `--demo` set it: without that it is removed.
    pub demo: bool,
}

/// A task that a schedule made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// The task.
    pub task: TaskId,
    /// For which moment. `None`: somebody had it made between the moments.
    pub moment: Option<Time>,
}

/// When the moments of a schedule are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum When {
    /// At times of the calendar.
    Cron {
        /// The expression: minute, hour, day of the month, month, day of the week.
        expression: String,
        /// The time zone by which they count, as the tz database names it.
        zone: String,
    },
    /// Each so many milliseconds.
    Every {
        /// How many.
        millis: u64,
        /// One of them.
        since: Time,
    },
}

impl When {
    /// Whether it says the same, whenever it was said.
    fn is_like(&self, other: &When) -> bool {
        match (self, other) {
            (When::Every { millis, .. }, When::Every { millis: others, .. }) => millis == others,
            _ => self == other,
        }
    }
}

/// As it stands on a command line.
impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::Cron { expression, zone } => write!(f, "{expression} {zone}"),
            When::Every { millis, .. } => {
                write!(f, "every {}", humantime::format_duration(Duration::from_millis(*millis)))
            }
        }
    }
}

/// What becomes of moments that came more than [`ON_TIME`] ago and have no task: the server was down, its store took nothing, or its clock
/// stepped over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// They have no task.
    #[default]
    Skip,
    /// One task stands for all of them: that of the last; or those that are in time, if there are some.
    Once,
    /// Each has its task, as far as there are not more than [`MOST_MISSED`]: then the last of them.
    All,
}

impl Missed {
    /// As people and programs write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Missed::Skip => "skip",
            Missed::Once => "once",
            Missed::All => "all",
        }
    }
}

/// What each task of a schedule has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct What {
    /// Its text.
    pub text: String,
    /// Headers and data beside it.
    #[serde(skip_serializing_if = "Attachment::is_nothing")]
    pub attachment: Attachment,
    /// The group it is for; empty: none alone.
    pub to: String,
    /// Several groups.
    pub groups: Vec<String>,
    /// The selector of those it is for; empty: none.
    pub select: String,
    /// How long after it was made it is not delivered, in milliseconds.
    pub delay_ms: Option<u64>,
    /// How long after it was made it expires, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// As [`NewTask`] has it.
    pub max_attempts: Option<u32>,
    /// The text of a policy; empty: as the server is set.
    pub retry: String,
    /// How long work on it may take, in milliseconds. 0: as long as it takes.
    pub timeout_ms: u32,
    /// What comes of it then is that it failed.
    pub timeout_fails: bool,
    /// Which tasks it goes before.
    pub priority: Priority,
    /// The lane it is in; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lane: String,
    /// The key by which it takes the place of another; empty: of none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub replace: String,
    /// For how long nothing newer with that key is to come before it is given out, and for how long at most, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_ms: Option<u64>,
    /// See `quiet_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_wait_ms: Option<u64>,
}

impl What {
    /// What it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let names: usize = self.groups.iter().map(String::len).sum();
        self.text.len()
            + self.attachment.bytes()
            + names
            + self.to.len()
            + self.select.len()
            + self.retry.len()
            + self.lane.len()
            + self.replace.len()
    }
}

/// The idempotency key of the task for a moment.
pub fn key(name: &Name, moment: Time) -> String {
    format!("schedule/{name}/{moment}")
}

/// What is to be written of a schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Scheduled {
    /// Its name.
    pub name: Name,
    /// As it is from now on; `None`: it is removed.
    pub schedule: Option<Schedule>,
    /// The tasks that it makes.
    pub tasks: Vec<NewTask>,
}

impl Scheduled {
    /// What it counts for while it waits in memory, in bytes.
    pub(crate) fn weight(&self) -> usize {
        let schedule = self.schedule.as_ref().map_or(0, |schedule| schedule.what.bytes());
        schedule + self.tasks.iter().map(NewTask::weight).sum::<usize>()
    }
}
