//! The operator's commands: submit tasks, list what became of them, take care of groups.
//!
//! `args` says what can be asked for, `link` asks the server for it, `out` prints it. Between them each kind of command
//! has its file: `submit` (`lines` become a `batch`, and `tally` counts what came of it), `list` and `manage`; and `bench`,
//! which measures a server.

mod args;
mod batch;
mod bench;
mod interrupt;
mod lines;
mod link;
mod list;
mod manage;
mod out;
mod rows;
mod submit;
mod tally;

pub use args::Args;

use args::{Command, Group};
use link::Link;
use out::Out;

/// Why a command failed: one line, which says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Options that do not go together.
    #[error("{0}")]
    Usage(String),
    /// Nobody listens at the address, or nobody who speaks gRPC.
    #[error("no server answers at {0}; is contact-server running? its --control address goes to --server")]
    NoServer(String),
    /// The connection broke, or the server stopped.
    #[error("the server at {server} went away ({reason}){hint}")]
    WentAway {
        /// Its address.
        server: String,
        /// What gRPC says.
        reason: String,
        /// How to go on, where there is something to go on with.
        hint: String,
    },
    /// The server does not offer this.
    #[error(
        "the server at {server} cannot do this ({reason}); is it older than this contactctl, or not a --control address?"
    )]
    Unimplemented {
        /// Its address.
        server: String,
        /// What it says.
        reason: String,
    },
    /// The server said no, and why.
    #[error("{0}")]
    Refused(String),
    /// The server answered what no server of this version answers.
    #[error("the server's answer makes no sense: {0}; is it of another version than this contactctl?")]
    Nonsense(String),
    /// The lines to submit cannot be read.
    #[error("cannot read {name}: {source}")]
    Input {
        /// The file's path, or "standard input".
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// Ctrl-C, before the end.
    #[error("interrupted")]
    Interrupted,
    /// Some lines were not accepted; each was named when it failed.
    #[error("{0}")]
    LinesFailed(String),
    /// The submission ended before its input did; says how far it came.
    #[error("{0}")]
    CutOff(String),
    /// Some calls of many failed; each was named when it failed.
    #[error("{0}")]
    SomeFailed(String),
    /// A measurement could not be made, or its figures would not be true.
    #[error("{0}")]
    NotMeasured(String),
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

impl Error {
    /// What the process ends with: 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> u8 {
        if let Error::Usage(_) = self { 2 } else { 1 }
    }
}

/// Runs one command to its end.
pub fn run(args: Args) -> Result<(), Error> {
    let out = Out::stdout(args.json);
    let link = || Link::connect(&args.server);
    match args.command {
        Command::Submit(submit) => submit::run(submit, &args.server, out),
        Command::Bench(bench) => bench::run(bench, &args.server, out),
        Command::Tasks(range) => list::tasks(&link()?, &range, out),
        Command::Results(range) => list::results(&link()?, &range, out),
        Command::Statuses(range) => list::statuses(&link()?, &range, out),
        Command::Dead(dead) => list::dead(&link()?, &dead, out),
        Command::Clients => manage::clients(&link()?, out),
        Command::Groups => manage::groups(&link()?, out),
        Command::Task { id } => manage::describe(&link()?, id, out),
        Command::Cancel { id } => manage::cancel(&link()?, id, out),
        Command::Retry { id, group } => manage::retry(&link()?, id, group.unwrap_or_default(), out),
        Command::Pause { group } => manage::pause(&link()?, group, true, out),
        Command::Resume { group } => manage::pause(&link()?, group, false, out),
        Command::Group(Group::Rm { group }) => manage::remove(&link()?, group, out),
    }
}
