//! What a program logs, to standard error. The filter can change while it runs.

use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::{PoisonError, RwLock};

use log::{Level, LevelFilter, Log, Metadata, Record};

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
    if is_journal() {
        builder.format(|to, record| writeln!(to, "<{}>{}", priority(record.level()), record.args()));
    }
    let logger = builder.build();
    log::set_max_level(logger.filter());
    *SWITCH.0.write().unwrap_or_else(PoisonError::into_inner) = Some(logger);
    // Refused the second time, when it is there already.
    let _ = log::set_logger(&SWITCH);
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
        self.with(|logger| logger.log(record));
    }

    fn flush(&self) {
        self.with(Log::flush);
    }
}
