//! What the tests share that run the real programs.

pub mod authority;
pub mod disk;
pub mod http2;
pub mod node;
pub mod program;
pub mod server;

use std::io::{self, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, thread};

/// How long an event may take before a test gives up. Generous: two cores run all tests at once.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What a test needs beyond Rust, and where that cannot be had, `None`, said loudly. With `CI=true` that is a failure.
#[track_caller]
pub fn or_skipped<T>(had: &'static Result<T, String>) -> Option<&'static T> {
    match had {
        Ok(it) => Some(it),
        Err(why) if env::var("CI").is_ok_and(|ci| ci == "true") => panic!("under CI=true this has to run: {why}"),
        Err(why) => {
            skipped(why);
            None
        }
    }
}

/// Says loudly that a test did not run, and why: the last line is the gist.
pub fn skipped(why: &str) {
    let current = thread::current();
    let test = current.name().unwrap_or_default();
    // Not eprintln, which is kept back where tests pass.
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {}", why.lines().last().unwrap_or_default());
}

/// An address at which nobody listens. Its port is below those that the kernel gives to connections: else one of these may have it by then.
pub fn free_port() -> String {
    loop {
        let address = format!("127.0.0.1:{}", rand::random_range(10_000..32_000));
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// A named pipe in a folder, by which a test holds up a command.
#[track_caller]
pub fn named_pipe(folder: &Path) -> PathBuf {
    let pipe = folder.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    pipe
}
