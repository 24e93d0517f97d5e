//! What can be asked for of schedules.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use crate::ctl::args::{TaskOptions, lasting};

#[derive(Debug, Subcommand)]
pub(in crate::ctl) enum Schedule {
    Set(Box<SetSchedule>),
    /// Show the schedules, with what comes next.
    #[command(after_help = "\
Examples:
  contactctl schedule list
  contactctl schedule list --json | jq -r 'select(.trouble).name'")]
    List,
    /// Show one schedule, and its next moments.
    #[command(after_help = "\
Example:
  contactctl schedule show nightly --moments 20")]
    Show {
        /// Its name.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// How many of its next moments.
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        moments: u32,
    },
    /// Have a schedule make no tasks until it is resumed. Moments that come meanwhile have none.
    #[command(after_help = "\
Example:
  contactctl schedule pause nightly")]
    Pause {
        /// Its name.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Have a paused schedule make tasks again, from its next moment on.
    #[command(after_help = "\
Example:
  contactctl schedule resume nightly")]
    Resume {
        /// Its name.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Make a task of a schedule now, also of one that is paused. Its moments stay what they are.
    #[command(after_help = "\
Example:
  contactctl schedule run nightly")]
    Run {
        /// Its name.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Remove a schedule. The tasks that it made stay.
    #[command(after_help = "\
Example:
  contactctl schedule rm nightly")]
    Rm {
        /// Its name.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
}

/// Have a task made at each of certain moments.
///
/// The schedule of that name is made, or changed if it is there; set again as it is, nothing changes. It makes exactly one task for each moment,
/// with a key of its name and the moment, also across restarts of the server, and when its clock is set back by up to a day.
///
/// In a cron expression, a moment that the clocks of the zone leave out is when they go on, and one that they show twice is the first. One
/// that comes every hour comes whenever the clocks show it.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  contactctl schedule set nightly --cron '0 3 * * *' --zone Europe/Berlin --to workers 'reindex the catalogue'
  contactctl schedule set ping --every 10m --ttl 5m ping
  contactctl schedule set invoices --cron '0 6 1 * *' --missed once --to office 'print the invoices'")]
pub(in crate::ctl) struct SetSchedule {
    /// By which it is known: up to 200 bytes.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(super) name: String,
    /// The text of its tasks.
    #[arg(value_name = "TEXT", required_unless_present = "data_file")]
    pub(super) text: Option<String>,
    /// At these times: minute, hour, day of the month, month, day of the week, as in '30 3 * * 1-5'. Also L (the last day), 2#1 (the first
    /// Tuesday), 15W (the working day next to the 15th), and @hourly, @daily, @weekly, @monthly, @yearly.
    #[arg(long, value_name = "EXPRESSION", required_unless_present = "every", value_parser = NonEmptyStringValueParser::new())]
    pub(super) cron: Option<String>,
    /// The time zone of these times, as in Europe/Berlin. Without it: UTC.
    #[arg(long, value_name = "ZONE", conflicts_with = "every")]
    pub(super) zone: Option<String>,
    /// Or each so long, such as 10m, from when it is set on.
    #[arg(long, value_name = "DURATION", value_parser = lasting, conflicts_with = "cron")]
    pub(super) every: Option<Duration>,
    /// What becomes of moments that came more than a minute ago and have no task, since the server was down, or its clock stepped over them:
    /// none, one task for all of them, or one for each, of which there are 100 at most, the last.
    #[arg(long, value_enum, default_value_t = Missed::Skip)]
    pub(super) missed: Missed,
    #[command(flatten)]
    pub(super) task: TaskOptions,
}

/// What becomes of moments that were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Missed {
    Skip,
    Once,
    All,
}

/// Set all schedules that a file names.
///
/// It is TOML: a table [schedule.NAME] for each, with `text`, and the options of `contactctl schedule set` by their names. Each is made, or
/// changed if it is not so already, and it is said which; one that the file does not name stays as it is. So a deployment may be run again and
/// again. If one of them makes no sense, nothing is set.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  contactctl apply -f schedules.toml
  contactctl apply --json -f schedules.toml | jq -r 'select(.is_new).schedule'
A file:
  [schedule.nightly]
  text = \"reindex the catalogue\"
  cron = \"0 3 * * *\"
  zone = \"Europe/Berlin\"
  to = \"workers\"
  header = [\"content-type=text/plain\"]")]
pub(in crate::ctl) struct Apply {
    /// The file; with -, standard input.
    #[arg(long, short, value_name = "FILE")]
    pub(super) file: PathBuf,
}
