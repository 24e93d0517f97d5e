//! Why a command failed, and the exit code of the process.

use std::io;

use crate::terminal::{escape, escape_json};

/// Why a command failed: one line, which says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Options that do not go together.
    #[error("{0}")]
    Usage(String),
    /// No program listens at the address, or it does not speak gRPC.
    #[error("no server answers at {0}; is contact-server running? its --control address goes to --server")]
    NoServer(String),
    /// The name in the address is not known on this machine.
    #[error(
        "no server answers at {server}: its name is not known here ({reason}): it may be misspelt, or there is no network"
    )]
    NoName {
        /// Its address.
        server: String,
        /// What the system says.
        reason: String,
    },
    /// Something answers there: it wants TLS, or speaks none, or is no control address.
    #[error("no connection to {server}: {reason}")]
    NoConnection {
        /// Its address.
        server: String,
        /// What is wrong.
        reason: String,
    },
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
        "the server at {server} cannot do this ({reason}); is that its --listen address, for clients? contactctl connects to --control; else it \
         is older than this contactctl"
    )]
    Unimplemented {
        /// Its address.
        server: String,
        /// What it says.
        reason: String,
    },
    /// The server refused, and said why.
    #[error("{0}")]
    Refused(String),
    /// No server of this version gives such an answer.
    #[error("the server's answer makes no sense: {0}; is it of another version than this contactctl?")]
    Nonsense(String),
    /// The lines to submit cannot be read.
    #[error("cannot read {name}: {source}")]
    Input {
        /// The file's path, or "standard input".
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {name}: {source}")]
    File {
        /// Its path.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Ctrl-C, before the end.
    #[error("interrupted")]
    Interrupted,
    /// Some lines were not accepted; each was named when it failed.
    #[error("{0}")]
    LinesFailed(String),
    /// The submission ended before its input did.
    #[error("{cause}: {how_far}")]
    CutOff {
        /// Why.
        cause: Box<Error>,
        /// How far it came, and how to go on.
        how_far: String,
    },
    /// Some calls of many failed; each was named when it failed.
    #[error("{0}")]
    SomeFailed(String),
    /// Another task took the place of the one that was waited for.
    #[error("{0}")]
    Replaced(String),
    /// What was waited for did not come in the time it had.
    #[error("{0}")]
    TimedOut(String),
    /// Something is wrong with the server. Each check said what.
    #[error("{0}")]
    Unwell(String),
    /// A measurement could not be made, or its figures would be wrong.
    #[error("{0}")]
    NotMeasured(String),
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// The exit codes, for --help and for docs/cli.md.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed, in whole or in part: standard error says what
  2    wrong usage
  3    no server answers, it went away, or its store takes nothing: the same may work later
  4    the server refused: there is no such task or group, or it cannot be done as things stand
  5    another task took the place of the one that was waited for (submit --replace --wait)
  124  what was waited for did not come in time (--timeout)
  130  interrupted by Ctrl-C";

impl Error {
    /// What is wrong with a command line, in a sentence.
    pub fn usage(error: &clap::Error) -> Error {
        let said = error.render().to_string();
        let first = said.split("\n\n").next().unwrap_or_default();
        Error::Usage(first.strip_prefix("error: ").unwrap_or(first).to_owned())
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::NoServer(_) | Error::NoName { .. } | Error::WentAway { .. } => 3,
            Error::Refused(_) => 4,
            Error::Replaced(_) => 5,
            Error::TimedOut(_) => 124,
            Error::Interrupted => 130,
            Error::CutOff { cause, .. } => cause.exit_code(),
            _ => 1,
        }
    }

    /// The line for standard error.
    pub fn line(&self, json: bool) -> String {
        if json {
            escape_json(&serde_json::json!({ "error": self.to_string() }).to_string()).into_owned()
        } else {
            escape(&format!("contactctl: {self}")).into_owned()
        }
    }
}
