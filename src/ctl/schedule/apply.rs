//! A file of schedules: each table is read as the options of `schedule set` that it has.

use std::io::{self, Read as _};
use std::path::Path;

use clap::Parser;
use toml::{Table, Value};

use super::{Apply, SetSchedule, request, set};
use crate::ctl::Error;
use crate::ctl::link::Link;
use crate::ctl::out::Out;
use crate::ctl::words::quote;
use crate::terminal::escape;
use crate::wire::control as pb;

/// The longest file.
const LONGEST: u64 = 16 << 20;

/// Sets all schedules that a file names, if all of them make sense here.
pub(in crate::ctl) fn apply(
    link: impl FnOnce() -> Result<Link, Error>,
    apply: &Apply,
    mut out: Out,
) -> Result<(), Error> {
    let (name, text) = read(&apply.file)?;
    let requests = requests(&text).map_err(|why| Error::Usage(format!("{name}: {why}")))?;
    let link = link()?;
    for request in &requests {
        set(&link, request, &mut out).map_err(|error| match error {
            Error::Refused(why) => Error::Refused(format!("{name}: schedule {}: {why}", quote(&request.name))),
            other => other,
        })?;
    }
    if requests.is_empty() {
        out.remark(&format!("{name} names no schedule"));
    }
    Ok(())
}

fn read(path: &Path) -> Result<(String, String), Error> {
    let is_stdin = path == Path::new("-");
    let name = if is_stdin { "standard input".into() } else { escape(&path.to_string_lossy()).into_owned() };
    let mut text = String::new();
    let read = match is_stdin {
        true => io::stdin().take(LONGEST).read_to_string(&mut text),
        false => std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text)),
    };
    read.map_err(|source| Error::Input { name: name.clone(), source })?;
    Ok((name, text))
}

fn requests(text: &str) -> Result<Vec<pb::SetScheduleRequest>, String> {
    let file: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let mut requests = Vec::new();
    for (key, value) in file {
        let Value::Table(schedules) = value else { return Err(unknown(&key)) };
        if key != "schedule" {
            return Err(unknown(&key));
        }
        for (name, options) in schedules {
            let read = one(&name, options).and_then(|set| request(&set).map_err(|error| error.to_string()));
            requests.push(read.map_err(|why| format!("schedule {}: {why}", quote(&name)))?);
        }
    }
    Ok(requests)
}

fn unknown(key: &str) -> String {
    format!("{key} is nothing that it may have: it has tables such as [schedule.nightly]")
}

/// The arguments of `schedule set`, alone.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct One {
    #[command(flatten)]
    set: SetSchedule,
}

fn one(name: &str, options: Value) -> Result<SetSchedule, String> {
    let Value::Table(options) = options else { return Err(format!("it is a table: [schedule.{name}]")) };
    let (mut arguments, mut text) = (Vec::new(), None);
    for (key, value) in options {
        match (key.as_str(), value) {
            ("text", Value::String(value)) => text = Some(value),
            ("text", _) => return Err("text is a string".into()),
            (key, value) => given(key, value, &mut arguments)?,
        }
    }
    // What a text or a name begins with makes no option of it.
    arguments.extend(["--".to_owned(), name.to_owned()].into_iter().chain(text));
    One::try_parse_from(arguments).map(|one| one.set).map_err(|error| plain(&error))
}

/// An option as it stands on a command line.
fn given(key: &str, value: Value, arguments: &mut Vec<String>) -> Result<(), String> {
    match value {
        Value::Boolean(true) => arguments.push(format!("--{key}")),
        Value::Boolean(false) => {}
        Value::String(value) => arguments.push(format!("--{key}={value}")),
        Value::Integer(value) => arguments.push(format!("--{key}={value}")),
        Value::Array(values) => {
            for value in values {
                given(key, value, arguments)?;
            }
        }
        _ => return Err(format!("{key} is a string, a number, true, or a list of strings")),
    }
    Ok(())
}

/// What is wrong, without how to call the program.
fn plain(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let what = text.split("\n\nUsage").next().unwrap_or_default().trim_start_matches("error: ");
    what.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_file_says_what_the_options_say() {
        let text = r#"
            [schedule.nightly]
            text = "--reindex"
            cron = "0 3 * * *"
            zone = "Europe/Berlin"
            missed = "once"
            to = "workers"
            max-attempts = 3
            task-timeout = "10m"
            on-timeout = "failed"
            header = ["a=b", "c=d"]

            [schedule."-每小时"]
            text = "x"
            every = "1h"
            to = ["a", "b"]
            together = true
        "#;
        let [hourly, nightly] = requests(text).unwrap_or_else(|why| panic!("{why}")).try_into().unwrap_or_default();
        let task = &nightly.task;
        assert_eq!(
            (nightly.name.as_str(), nightly.cron.as_str(), nightly.zone.as_str()),
            ("nightly", "0 3 * * *", "Europe/Berlin")
        );
        assert_eq!(nightly.missed, pb::Missed::ONCE.into());
        assert_eq!((task.task.as_str(), task.to.as_str(), task.max_attempts), ("--reindex", "workers", 3));
        assert_eq!((task.timeout_ms, task.timeout_fails, task.headers.len()), (600_000, true, 2));
        assert_eq!((hourly.name.as_str(), hourly.every_ms, hourly.task.groups.len()), ("-每小时", 3_600_000, 2));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_name_of_the_schedule() {
        let refused = |text: &str| requests(text).map(|_| ()).unwrap_err();
        for (text, why) in [
            ("x = 1", "x is nothing that it may have"),
            ("[schedul.n]", "schedul is nothing that it may have"),
            ("[schedule.n]\nevery = '1h'", "schedule n: the following required arguments were not provided: <TEXT>"),
            ("[schedule.n]\ntext = 'x'\ncrno = '* * * * *'", "schedule n: unexpected argument '--crno'"),
            ("[schedule.n]\ntext = 'x'\nevery = '1h'\nkey = 'k'", "schedule n: unexpected argument '--key'"),
            ("[schedule.n]\ntext = 'x'\nevery = 1.5", "schedule n: every is a string"),
            ("[schedule.n]\ntext = 'x'\nevery = '1h'\nto = ['a', 'b']", "schedule n: a schedule makes one task"),
            ("schedule = 1", "schedule is nothing"),
            ("[schedule]\nn = 1", "schedule n: it is a table"),
            ("[schedule.n", "TOML parse error"),
        ] {
            let said = refused(text);
            assert!(said.starts_with(why), "{said}");
        }
    }
}
