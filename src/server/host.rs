//! What the machine gives a server: open files, room on the disk, a clock. Looked at before the start, so that what is wrong is
//! said with its remedy, and before it does harm.

use std::fs;
use std::path::Path;
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

/// Takes all open files there may be, since each client is one and shells and service managers begin with 1,024. For a program:
/// the limit is the whole process's.
pub fn take_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!("the limit of open files stays as it is: {e}");
    }
    match getrlimit(Resource::Nofile).current {
        None => info!("room for any number of clients: open files are not limited"),
        Some(files) => {
            let clients = files.saturating_sub(OTHER_FILES);
            info!("room for {clients} clients: {files} files may be open");
            if clients < FEW_CLIENTS {
                warn!(
                    "that is few: raise the limit, with LimitNOFILE=65536 in the unit of systemd, or `ulimit -n 65536` in the \
                     shell of root before the start"
                );
            }
        }
    }
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
    warn_of_readers(data);
    warn_of_little_room(data);
    warn_of_the_clock(data, SystemTime::now());
    Ok(())
}

#[cfg(unix)]
fn warn_of_readers(data: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if fs::metadata(data).is_ok_and(|folder| folder.permissions().mode() & 0o007 != 0) {
        let data = data.display();
        warn!("everyone on this machine may look into {data} and read the tasks; if they should not: chmod o= {data}");
    }
}

#[cfg(not(unix))]
fn warn_of_readers(_: &Path) {}

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
