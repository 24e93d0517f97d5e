//! What the machine gives a server: open files, room on the disk, a clock. Looked at before the start, so that what is wrong is
//! said with its remedy, and before it does harm.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use log::{info, warn};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::config::ServerError;
use crate::store::{self, Space};

/// Open files that are no clients: the store, its readers, the listeners, C-core's own. 40 were counted, with one operator.
const OTHER_FILES: u64 = 64;
/// With room for fewer clients the log says how to get more. Most systems allow a service at least this.
const FEW_CLIENTS: u64 = 4096 - OTHER_FILES;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// Files that clients cannot take, where there are enough: for all connections of operators over HTTP, and some.
const KEPT: u64 = 320;

/// How many are kept, of so many.
fn kept(files: u64) -> u64 {
    KEPT.min(files / 4)
}

/// Takes all open files there may be, since each client is one and shells and service managers begin with 1,024. Some of them are kept
/// for operators: the limit is lower by these, and `from_what_is_kept` goes beyond it. For a program: the limit is the whole process's.
pub fn take_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map(|files| files - kept(files));
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current, ..limit }) {
        warn!("the limit of open files stays as it is: {e}");
    }
    let limit = getrlimit(Resource::Nofile);
    match limit.current {
        None => info!("room for any number of clients: open files are not limited"),
        Some(files) => {
            let clients = files.saturating_sub(OTHER_FILES);
            let all = limit.maximum.unwrap_or(files);
            info!("room for {clients} clients: {all} files may be open, {} of them for operators alone", all - files);
            if clients < FEW_CLIENTS {
                warn!(
                    "that is few: raise the limit, with LimitNOFILE=65536 in the unit of systemd, or `ulimit -n 65536` in the \
                     shell of root before the start"
                );
            }
        }
    }
}

/// Whether there was no file left for it.
pub(super) fn is_out_of_files(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error())
}

/// Opens one file, or takes one connection, of those that are kept, if there are no others left.
///
/// The limit is that of the process. So what another thread opens in these microseconds may be one of them, too.
pub(super) fn from_what_is_kept<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match open() {
        Err(error) if is_out_of_files(&error) => beyond_the_limit(open),
        opened => opened,
    }
}

/// Does what takes a moment with as many files as the hard limit has.
pub(super) fn beyond_the_limit<T>(open: impl FnOnce() -> T) -> T {
    /// Two at once would take the raised limit for the usual one.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock();
    let usual = getrlimit(Resource::Nofile);
    let is_raised = setrlimit(Resource::Nofile, Rlimit { current: usual.maximum, ..usual }).is_ok();
    let opened = open();
    if is_raised {
        let _ = setrlimit(Resource::Nofile, usual);
    }
    opened
}

/// Has all files that this process makes from now on be for its owner alone. For a program: the umask is the whole process's.
pub fn keep_files_private() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// How many clients open files leave room for, each being one.
pub(super) fn clients() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX)
}

/// Makes the data folder if it is missing, for its owner alone, and sees whether it can be written and has room.
pub fn check_data(data: &Path) -> Result<(), ServerError> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    if builder.recursive(true).create(data).is_err() {
        // The store finds the same, and names it.
        return Ok(());
    }
    // Opening a store that is there need not write: a full disk would be noticed with the first task.
    store::try_writing(data).map_err(|why| ServerError::Data { path: data.into(), why })?;
    warn_of_writers(data);
    warn_of_little_room(data);
    warn_of_the_clock(data, SystemTime::now());
    Ok(())
}

#[cfg(unix)]
fn warn_of_writers(data: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(data).map_or(0, |folder| folder.permissions().mode());
    if mode & 0o022 != 0 {
        let data = data.display();
        warn!(
            "others on this machine may put files into {data}, and take the store away; if they should not: chmod go-w {data}"
        );
    }
}

#[cfg(not(unix))]
fn warn_of_writers(_: &Path) {}

fn warn_of_little_room(data: &Path) {
    let Some(Space { free, all }) = Space::of(data) else { return };
    if free < little(all) {
        warn!(
            "{} has {} MiB left of {}; below --min-free nothing is accepted any more: make room, keep less (--retain, \
             --retain-bytes), or use another folder (--data)",
            data.display(),
            free / MIB,
            all / MIB,
        );
    }
}

/// A twentieth of the disk, but at least 1 GiB, and at most 16 GiB: more than that is not little on any disk.
fn little(all: u64) -> u64 {
    (all / 20).clamp(GIB, 16 * GIB)
}

/// Deadlines are times of the clock: if it is set back, delays and expiries are wrong by as much.
fn warn_of_the_clock(data: &Path, now: SystemTime) {
    let files = ["contact.db", "contact.db-wal"];
    let written = files.iter().filter_map(|file| fs::metadata(data.join(file)).ok()?.modified().ok()).max();
    if let Some(ahead) = written.and_then(|written| written.duration_since(now).ok())
        && ahead > Duration::from_secs(60)
    {
        let ahead = humantime::format_duration(Duration::from_secs(ahead.as_secs()));
        warn!(
            "the clock is {ahead} behind what was last written to {}; set it (`timedatectl set-ntp true`): delays, leases and \
             --retain go by it",
            data.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_a_part_of_the_disk_within_bounds() {
        assert_eq!([2 * GIB, 100 * GIB, 8192 * GIB].map(little), [GIB, 5 * GIB, 16 * GIB]);
    }
}
