//! What a program logs, to standard error. The filter can change while it runs.
//!
//! Whoever logs does not wait for the reader of standard error: see [`log_queue`]. What others wrote is spelled out where it could
//! steer a terminal.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _, Write};
use std::str::FromStr;
use std::sync::{PoisonError, RwLock};

use env_logger::{Target, WriteStyle};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::log_queue;
use crate::terminal::escape;

/// The arguments of a program with a log, to be flattened into its own.
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// What is logged to standard error: off, error, warn, info, debug or trace; or that part by part, such as debug,grpcio=debug.
    /// Without it RUST_LOG counts
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", default_value = "info")]
    pub log: Filter,
}

/// Which records are logged: a level, or `part=level`, or several of these with commas between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

/// A text is no [`Filter`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no level; there are off, error, warn, info, debug and trace")]
pub struct NoLevel(String);

impl FromStr for Filter {
    type Err = NoLevel;

    /// env_logger alone would take a misspelt level for the name of a part, and log nothing else.
    fn from_str(text: &str) -> Result<Filter, NoLevel> {
        for item in text.split(',').map(str::trim) {
            let level = item.split_once('=').map_or(item, |(_, level)| level);
            level.parse::<LevelFilter>().map_err(|_| NoLevel(format!("{level:?}")))?;
        }
        Ok(Filter(text.to_owned()))
    }
}

/// The logger in effect. The `log` crate takes one logger only, and for ever: this one, which passes records on.
struct Switch(RwLock<Option<env_logger::Logger>>);

static SWITCH: Switch = Switch(RwLock::new(None));

/// Logs what passes the filter, from now on. Of C-core's own messages only errors are logged, unless the filter names `grpcio`.
pub fn set(filter: &Filter) {
    let mut builder = env_logger::Builder::new();
    builder.filter_module("grpcio", LevelFilter::Error).parse_filters(&filter.0).format_target(false);
    builder.target(Target::Pipe(Box::new(Lines))).write_style(style());
    if is_journal() {
        builder.format(|to, record| writeln!(to, "<{}>{}", priority(record.level()), record.args()));
    }
    let logger = builder.build();
    log::set_max_level(logger.filter());
    *SWITCH.0.write().unwrap_or_else(PoisonError::into_inner) = Some(logger);
    // Refused the second time, when it is there already.
    if log::set_logger(&SWITCH).is_ok() {
        std::panic::set_hook(Box::new(panicked));
    }
}

/// The usual message, by way of the queue: a handler that panics waits for no reader, either.
fn panicked(info: &std::panic::PanicHookInfo<'_>) {
    let current = std::thread::current();
    let name = current.name().unwrap_or("unnamed");
    let trace = Backtrace::capture();
    let trace = if trace.status() == BacktraceStatus::Captured { format!("{trace}\n") } else { String::new() };
    log_queue::push(format!("thread '{name}' {info}\n{trace}").into_bytes(), note);
    if name == "main" {
        flush();
    }
}

/// Writes what is queued, for a second at most. For the end of a program, before it says its last word itself.
pub fn flush() {
    log_queue::flush();
}

/// A line on standard error that is no record of the log, and waits for a reader no longer than [`flush`].
pub fn last_word(line: &str) {
    log_queue::push(format!("{}\n", escape(line)).into_bytes(), note);
    log_queue::flush();
}

/// Colours, where a terminal shows them and its user has not declined (no-color.org).
fn style() -> WriteStyle {
    let declined = std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if io::stderr().is_terminal() && !declined && !dumb { WriteStyle::Always } else { WriteStyle::Never }
}

/// Where env_logger writes each record, whole.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        log_queue::push(line.to_vec(), note);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the log says where lines are missing.
fn note(dropped: u64) -> String {
    let priority = if is_journal() { format!("<{}>", priority(Level::Warn)) } else { String::new() };
    format!("{priority}[{dropped} lines of the log were dropped: nobody read standard error]\n")
}

/// Whether systemd's journal reads standard error: it has the time already, and takes the level from the line (systemd.exec(5),
/// `JOURNAL_STREAM`; sd-daemon(3)).
fn is_journal() -> bool {
    let Some(journal) = std::env::var_os("JOURNAL_STREAM") else { return false };
    // The variable may be inherited, while standard error goes elsewhere.
    rustix::fs::fstat(io::stderr()).is_ok_and(|file| journal == *format!("{}:{}", file.st_dev, file.st_ino))
}

/// As syslog(3) numbers them.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

impl Switch {
    fn with<T>(&self, work: impl FnOnce(&env_logger::Logger) -> T) -> Option<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(work)
    }
}

impl Log for Switch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.with(|logger| logger.enabled(metadata)).unwrap_or(false)
    }

    fn log(&self, record: &Record<'_>) {
        self.with(|logger| {
            if logger.matches(record) {
                let text = record.args().to_string();
                let mut shown = Record::builder();
                shown.metadata(record.metadata().clone()).module_path(record.module_path());
                shown.file(record.file()).line(record.line());
                logger.log(&shown.args(format_args!("{}", escape(&text))).build());
            }
        });
    }

    fn flush(&self) {
        flush();
    }
}
