//! The settings of a program: from its command line, else from the environment, else from a file, else the default.
//!
//! A setting is defined once, as an argument of the program (clap's). A new argument is a setting without a line here:
//!
//! - its long name is its key in the file (`ack-timeout`) and makes its variable (`CONTACT_ACK_TIMEOUT`);
//! - its value parser reads it, from each of these places;
//! - its help is the comment in the file that [`Settings::to_toml`] makes.
//!
//! Besides:
//!
//! - `limit-streams` stands as `streams` in a table `[limits]`, as all that begin so.
//! - A switch also takes a value, so that it can be switched off: `--demo=false`.
//! - An argument that may be given several times is an array in the file, and has commas between its values in the variable.
//! - An empty variable counts as not set.
//! - clap's `env` names a second variable, which other programs use too (`RUST_LOG`). A wrong value there is ignored, with a
//!   warning.
//! - No setting may be required on the command line, since it may be set elsewhere.

mod error;
mod file;
mod print;

use std::collections::HashMap;
use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::BoolValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

pub use self::error::Error;
use self::file::{Entry, Place};
use crate::nearest::nearest;

/// The tables a file may have: one for each program, so that they can share it, and one for [limits](LIMITS).
const TABLES: [&str; 3] = ["server", "client", LIMITS.0];

/// A table for the settings that begin so, which stand there without that: `limit-streams` is `streams` in it.
const LIMITS: (&str, &str) = ("limits", "limit-");

/// The arguments of a program with settings that are no settings themselves.
#[derive(Debug, clap::Args)]
pub struct FileArgs {
    /// Read settings from this TOML file (or the one CONTACT_CONFIG names). Its keys are the names of these flags;
    /// --print-config makes one
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the settings that are in effect, as a file for --config, and where each comes from; exit with 2 if one is wrong
    #[arg(long)]
    pub print_config: bool,
}

/// The fields of [`FileArgs`].
const NO_SETTINGS: [&str; 2] = ["config", "print_config"];

/// The settings in effect.
#[derive(Debug)]
pub struct Settings<A> {
    /// As if all of them stood on the command line.
    pub args: A,
    /// What is probably a mistake, but does not keep the program from starting.
    pub warnings: Vec<String>,
    program: String,
    table: &'static str,
    values: Vec<Value>,
}

/// One setting.
#[derive(Debug, Clone)]
struct Value {
    key: String,
    /// None: not set. Several: of an argument that may be given several times.
    texts: Vec<String>,
    origin: Origin,
    list: bool,
    /// The kind of value, such as `TIME`.
    wanted: String,
    help: String,
}

impl Value {
    fn text(&self) -> String {
        if self.texts.is_empty() { "not set".into() } else { self.texts.join(",") }
    }
}

/// Where a setting comes from.
#[derive(Debug, Clone)]
enum Origin {
    CommandLine,
    Variable(String),
    File(Place),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::CommandLine => f.write_str("the command line"),
            Origin::Variable(name) => f.write_str(name),
            Origin::File(place) => place.fmt(f),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// A setting that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The setting.
    pub key: String,
    /// Its text, or "not set".
    pub from: String,
    /// Its text, or "not set".
    pub to: String,
    /// Whether it changes while the program runs.
    pub live: bool,
}

impl<A: CommandFactory + FromArgMatches> Settings<A> {
    /// Reads a program's settings: `line` is its command line with the program's name, `variables` its environment, `table` its
    /// table in the file.
    pub fn load(
        table: &'static str,
        line: impl IntoIterator<Item = OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Settings<A>, Error> {
        let shared = shared_variables(&A::command());
        let mut command = with_values(A::command());
        let line: Vec<OsString> = line.into_iter().collect();
        let variables: HashMap<OsString, OsString> =
            variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let said = command.clone().try_get_matches_from(&line)?;

        let mut found = Found::default();
        let path = said.get_one::<PathBuf>("config").cloned();
        if let Some(path) = path.or_else(|| variables.get(OsStr::new("CONTACT_CONFIG")).map(PathBuf::from)) {
            found.in_file(&command, &path, table);
            command = command.mut_arg("config", |arg| arg.default_value(path.into_os_string()));
        }
        found.in_variables(&command, &variables, &shared);
        if !found.problems.is_empty() {
            return Err(Error::Wrong(found.problems));
        }
        for (key, (texts, _)) in &found.values {
            command = command.mut_args(|arg| if name(&arg) == *key { arg.default_values(texts.clone()) } else { arg });
        }
        let matches = command.clone().try_get_matches_from(&line)?;
        let values =
            command.get_arguments().filter(|arg| is_setting(arg)).map(|arg| found.value(arg, &matches)).collect();
        let args = A::from_arg_matches(&matches).map_err(|e| e.format(&mut command))?;
        Ok(Settings { args, warnings: found.warnings, program: command.get_name().to_owned(), table, values })
    }
}

impl<A> Settings<A> {
    /// The settings that differ in `newer`. Those in `live` are taken over; the others are not in effect before a restart.
    pub fn adopt(&mut self, newer: Settings<A>, live: &[&str]) -> Vec<Change> {
        let mut changes = Vec::new();
        for (old, new) in self.values.iter_mut().zip(newer.values) {
            if old.texts != new.texts {
                let live = live.contains(&new.key.as_str());
                changes.push(Change { key: new.key.clone(), from: old.text(), to: new.text(), live });
                if live {
                    *old = new;
                }
            }
        }
        changes
    }
}

/// What stands in the environment and the file, by key.
#[derive(Default)]
struct Found {
    values: HashMap<String, (Vec<OsString>, Origin)>,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Found {
    fn in_file(&mut self, command: &Command, path: &Path, table: &str) {
        let settings: HashMap<String, &Arg> =
            command.get_arguments().filter(|arg| is_setting(arg)).map(|arg| (name(arg), arg)).collect();
        let keys: Vec<&str> = settings.keys().map(String::as_str).collect();
        let (entries, mut problems) = match file::read(path, table, &keys) {
            Ok(read) => read,
            Err(e) => return self.problems.push(format!("{} cannot be read: {e}; --config names it", path.display())),
        };
        for Entry { key, texts, place } in entries {
            let list = settings.get(&key).is_some_and(|arg| is_list(arg));
            let why =
                if list || texts.len() == 1 { refusal(command, &key, &texts) } else { Some("is one value".into()) };
            match why {
                Some(why) => problems.push((place, format!("{key} {why}"))),
                None => drop(self.values.insert(key, (texts, Origin::File(place)))),
            }
        }
        problems.sort();
        self.problems.extend(problems.into_iter().map(|(place, what)| format!("{place}: {what}")));
    }

    fn in_variables(
        &mut self,
        command: &Command,
        variables: &HashMap<OsString, OsString>,
        shared: &HashMap<String, String>,
    ) {
        let mut known = vec![variable("config")];
        for arg in command.get_arguments().filter(|arg| is_setting(arg)) {
            let key = name(arg);
            let own = variable(&key);
            for (variable, shared) in [(Some(&own), false), (shared.get(&key), true)] {
                let Some(variable) = variable else { continue };
                let Some(value) = variables.get(OsStr::new(variable)) else { continue };
                let texts = match (is_list(arg), value.to_str()) {
                    (true, Some(text)) => text.split(',').map(|text| text.trim().into()).collect(),
                    _ => vec![value.clone()],
                };
                match refusal(command, &key, &texts) {
                    Some(why) if shared => self.warnings.push(format!("{variable} is passed over: it {why}")),
                    Some(why) => self.problems.push(format!("{variable} {why}")),
                    None => drop(self.values.insert(key.clone(), (texts, Origin::Variable(variable.clone())))),
                }
                break;
            }
            known.push(own);
        }
        // Other Contact programs have variables that this one does not know, so only a probable misspelling gets a warning.
        let names = variables.keys().filter_map(|name| name.to_str()).filter(|name| name.starts_with("CONTACT_"));
        for unknown in names.filter(|name| !known.iter().any(|known| known == name)) {
            if let Some(meant) = nearest(unknown, known.iter().map(String::as_str)) {
                self.warnings.push(format!("{unknown} is no setting of this program; did you mean {meant}?"));
            }
        }
    }

    fn value(&self, arg: &Arg, matches: &ArgMatches) -> Value {
        let (id, key) = (arg.get_id().as_str(), name(arg));
        let texts = matches.get_raw(id).into_iter().flatten().map(|text| text.to_string_lossy().into_owned()).collect();
        let origin = match (matches.value_source(id), self.values.get(&key)) {
            (Some(ValueSource::CommandLine), _) => Origin::CommandLine,
            (_, Some((_, origin))) => origin.clone(),
            (_, None) => Origin::Default,
        };
        let possible: Vec<_> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let wanted = match (possible.is_empty(), arg.get_value_names()) {
            (false, _) => possible.join(" or "),
            (true, Some([wanted, ..])) => wanted.to_string(),
            (true, _) => "VALUE".into(),
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        Value { key, texts, origin, list: is_list(arg), wanted, help }
    }
}

/// A time as the default of a setting, such as `7d`.
pub fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace("days", "d")
}

/// The second variables, by key.
fn shared_variables(command: &Command) -> HashMap<String, String> {
    let named = command.get_arguments().filter_map(|arg| Some((name(arg), arg.get_env()?)));
    named.map(|(key, variable)| (key, variable.to_string_lossy().into_owned())).collect()
}

/// Makes each switch an argument with an optional value, since the environment and a file can only give values. And clap reads
/// the command line only: its message on a variable's value would not name the variable.
fn with_values(command: Command) -> Command {
    command.mut_args(|arg| arg.env(None)).mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue if is_setting(&arg) => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
            .value_name("true|false")
            .value_parser(BoolValueParser::new())
            .hide_possible_values(true),
        _ => arg,
    })
}

/// Why the argument does not take these texts, as what follows its name.
fn refusal(command: &Command, key: &str, texts: &[OsString]) -> Option<String> {
    let mut line = vec![OsString::from(command.get_name())];
    for text in texts {
        line.push(format!("--{key}=").into());
        line.last_mut()?.push(text);
    }
    let error = command.clone().try_get_matches_from(line).err()?;
    let said = texts.iter().map(|text| format!("\"{}\"", text.to_string_lossy())).collect::<Vec<_>>().join(", ");
    Some(match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(why), _) => format!("cannot be {said}: {why}"),
        (None, Some(ContextValue::Strings(valid))) if !valid.is_empty() => {
            format!("cannot be {said}: it must be {}", valid.join(" or "))
        }
        _ => format!("cannot be {said}"),
    })
}

fn is_setting(arg: &Arg) -> bool {
    arg.get_long().is_some() && !NO_SETTINGS.contains(&arg.get_id().as_str())
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

fn name(arg: &Arg) -> String {
    arg.get_long().unwrap_or_default().to_owned()
}

fn variable(key: &str) -> String {
    format!("CONTACT_{}", key.to_uppercase().replace('-', "_"))
}
