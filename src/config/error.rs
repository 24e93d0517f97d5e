//! What is wrong with settings.

use std::process::ExitCode;

use crate::terminal::{escape, print_usage};

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line was wrong, or asked for help or the version.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// What is wrong in the file and in the environment: a line each, which begins with the place.
    #[error("{}", .0.join("\n"))]
    Wrong(Vec<String>),
}

impl Error {
    /// Prints it as `program`, and returns the exit code of the process: 0 after help, else 2.
    pub fn report(&self, program: &str) -> ExitCode {
        match self {
            Error::CommandLine(error) => {
                print_usage(error);
                ExitCode::from(error.exit_code() as u8)
            }
            Error::Wrong(problems) => {
                for problem in problems {
                    eprintln!("{program}: {}", escape(problem));
                }
                ExitCode::from(2)
            }
        }
    }
}
