//! The server that is measured.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use tempfile::TempDir;

use super::args::Common;
use crate::ctl::Error;

/// A server that runs already, or one of our own.
pub(super) struct Target {
    /// Where operators connect.
    pub(super) control: String,
    /// Where clients connect.
    pub(super) contact: String,
    spawned: Option<Spawned>,
    /// Where files are made. On the disk of a server of our own.
    pub(super) dir: PathBuf,
}

struct Spawned {
    // Dropped before its folder.
    process: Process,
    folder: TempDir,
}

/// Killed when dropped.
struct Process(Child);

/// What the system says of a server's process.
pub(super) struct Vitals {
    /// In memory now.
    pub(super) rss_kb: u64,
    /// The most it ever had there.
    pub(super) peak_kb: u64,
    pub(super) threads: u64,
}

impl Target {
    pub(super) fn find(common: &Common, control: &str) -> Result<Target, Error> {
        let dir = common.dir.clone().unwrap_or_else(env::temp_dir);
        let mut target = Target { control: control.into(), contact: common.contact.clone(), spawned: None, dir };
        if common.spawn {
            let folder = tempfile::Builder::new().prefix("contact-bench-").tempdir_in(&target.dir);
            let folder =
                folder.map_err(|e| failed(&format!("cannot make a folder in {}", target.dir.display()), &e))?;
            target.dir = folder.path().to_owned();
            target.start(folder)?;
        }
        Ok(target)
    }

    /// Starts our own server and waits until it listens.
    fn start(&mut self, folder: TempDir) -> Result<(), Error> {
        let program = beside_us()?;
        let mut command = Command::new(&program);
        command
            .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"])
            .arg(folder.path().join("data"));
        if env::var_os("RUST_LOG").is_none() {
            // It is not ten thousand clients' coming and going that is of interest.
            command.env("RUST_LOG", "warn,grpcio=error");
        }
        // What is measured is a server as it comes, not as somebody's environment has it.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONTACT_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| failed(&format!("cannot start {}", program.display()), &e))?;
        let mut line = String::new();
        let said = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        self.spawned = Some(Spawned { process: Process(child), folder });
        let addresses = line.trim_end().strip_prefix("listening on ").and_then(|line| line.split_once(", control on "));
        let addresses =
            addresses.map(|(contact, rest)| (contact, rest.split_once(", ").map_or(rest, |(control, _)| control)));
        let (Some(Ok(_)), Some((contact, control))) = (said, addresses) else {
            return Err(Error::NotMeasured(format!("{} did not start; it says why above", program.display())));
        };
        (self.contact, self.control) = (contact.into(), control.into());
        Ok(())
    }

    /// Whether it is ours, to be killed and looked into.
    pub(super) fn is_spawned(&self) -> bool {
        self.spawned.is_some()
    }

    /// Kills our own server (SIGKILL) and starts it again on the same folder. Returns how long that start took.
    pub(super) fn restart(&mut self) -> Result<Duration, Error> {
        let Some(Spawned { process, folder }) = self.spawned.take() else {
            return Err(Error::Usage("only a server of our own can be killed: use --spawn".into()));
        };
        drop(process);
        let began = Instant::now();
        self.start(folder)?;
        Ok(began.elapsed())
    }

    /// Of our own server, where the system tells.
    pub(super) fn vitals(&self) -> Option<Vitals> {
        let pid = self.spawned.as_ref()?.process.0.id();
        let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Vitals { rss_kb: number("VmRSS")?, peak_kb: number("VmHWM")?, threads: number("Threads")? })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn beside_us() -> Result<PathBuf, Error> {
    let us = env::current_exe().map_err(|e| failed("cannot find out where this program is", &e))?;
    let program = us.with_file_name(format!("contact-server{}", env::consts::EXE_SUFFIX));
    if program.is_file() {
        return Ok(program);
    }
    let missing = format!("--spawn needs contact-server beside contactctl, and there is no {}", program.display());
    Err(Error::NotMeasured(missing))
}

fn failed(what: &str, why: &std::io::Error) -> Error {
    Error::NotMeasured(format!("{what}: {why}"))
}
