//! A program that a measurement starts, and what the system says of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::progress::{LOOK, Progress};
use crate::ctl::Error;

/// Killed when dropped.
pub(super) struct Process {
    child: Child,
    /// Where it says what happens. `None`: on our standard error.
    log: Option<PathBuf>,
}

/// What the system says of a process.
pub(super) struct Vitals {
    /// In memory now.
    pub(super) rss_kb: u64,
    /// The most it ever had there.
    pub(super) peak_kb: u64,
    pub(super) threads: u64,
    /// The time that it was on a processor.
    pub(super) cpu: Duration,
}

impl Process {
    /// `log`: where it has been told to say what happens, if that is a file.
    pub(super) fn start(command: &mut Command, log: Option<PathBuf>) -> Result<Process, Error> {
        let child = command.spawn().map_err(|why| {
            Error::NotMeasured(format!("cannot start {}: {why}", Path::new(command.get_program()).display()))
        })?;
        Ok(Process { child, log })
    }

    /// Its standard output, if that is a pipe, the first time.
    pub(super) fn out(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Where the system tells.
    pub(super) fn vitals(&self) -> Option<Vitals> {
        vitals(&self.child.id().to_string())
    }

    /// An error: it has ended by itself.
    pub(super) fn runs(&mut self, what: &str) -> Result<(), Error> {
        let Ok(Some(status)) = self.child.try_wait() else { return Ok(()) };
        let said = self.log.as_ref().and_then(|log| fs::read_to_string(log).ok());
        let last = said.as_deref().and_then(|said| said.lines().rfind(|line| !line.trim().is_empty()));
        let why = last.unwrap_or("it says why above");
        Err(Error::NotMeasured(format!("{what} ended ({status}): {why}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `look` finds something, as long as the programs run that it is to come from: each is called `what`.
pub(super) fn until<'a, T>(
    progress: &mut Progress,
    what: &str,
    programs: impl IntoIterator<Item = &'a mut Process>,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T, Error> {
    let mut programs: Vec<_> = programs.into_iter().collect();
    loop {
        if let Some(found) = look() {
            progress.count.fetch_add(1, Relaxed);
            return Ok(found);
        }
        // Ctrl-C in a terminal ends them, too: that it was that is to be said.
        progress.show()?;
        programs.iter_mut().try_for_each(|program| program.runs(what))?;
        std::thread::sleep(LOOK);
    }
}

/// Of this process, where the system tells.
pub(super) fn own_vitals() -> Option<Vitals> {
    vitals("self")
}

fn vitals(process: &str) -> Option<Vitals> {
    let folder = Path::new("/proc").join(process);
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    // What comes before the last bracket has spaces where the program's name has some. Then user and system time are the
    // twelfth and thirteenth.
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let ticks = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>().ok()? as f64;
    let cpu = Duration::from_secs_f64(ticks / rustix::param::clock_ticks_per_second() as f64);
    Some(Vitals { rss_kb: number("VmRSS")?, peak_kb: number("VmHWM")?, threads: number("Threads")?, cpu })
}
