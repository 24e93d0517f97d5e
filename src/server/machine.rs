//! What the server takes of the machine. Everything here asks the system, so it runs on a query thread.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::host::from_what_is_kept;
use crate::store::Space;

/// The store's files and their disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    /// The database, and the log that is not in it yet, in bytes.
    pub(super) db: u64,
    pub(super) wal: u64,
    /// What may still be written. `None`: the system does not say.
    pub(super) free: Option<u64>,
    /// What is to stay free; 0 if that is not known.
    pub(super) floor: u64,
}

impl Disk {
    /// What the store takes.
    pub(super) fn store_bytes(&self) -> u64 {
        self.db + self.wal
    }

    pub(super) fn of(data: &Path, min_free: Option<u64>) -> Disk {
        let size = |name: &str| fs::metadata(data.join(name)).map_or(0, |file| file.len());
        let space = Space::of(data);
        let (free, floor) = (space.map(|space| space.free), space.map_or(0, |space| space.floor(min_free)));
        Disk { db: size("contact.db"), wal: size("contact.db-wal"), free, floor }
    }
}

/// The process, where the system tells: on Linux.
#[derive(Debug, Clone, Default)]
pub(super) struct Process {
    pub(super) open_fds: Option<u64>,
    /// How many it may have open, and how far that can be raised without being root. `None`: no limit.
    pub(super) max_fds: Option<u64>,
    pub(super) raisable_fds: Option<u64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) cpu_seconds: Option<f64>,
    pub(super) threads: Option<u64>,
}

impl Process {
    pub(super) fn now() -> Process {
        // By hand: the procfs crate brings more than these seven fields are, and the collector of metrics has other names.
        // After the name of the program, which may hold any character, from the third field on.
        let mut stat = String::new();
        if let Ok(mut file) = from_what_is_kept(|| fs::File::open("/proc/self/stat")) {
            let _ = file.read_to_string(&mut stat);
        }
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |n: usize| fields.get(n - 3).and_then(|field| field.parse::<u64>().ok());
        let ticks = field(14).zip(field(15)).map(|(user, system)| user + system);
        let limit = getrlimit(Resource::Nofile);
        Process {
            open_fds: open_files(),
            max_fds: limit.current,
            raisable_fds: limit.maximum,
            resident_bytes: field(24).map(|pages| pages * rustix::param::page_size() as u64),
            cpu_seconds: ticks.map(|ticks| ticks as f64 / rustix::param::clock_ticks_per_second() as f64),
            threads: field(20),
        }
    }
}

/// The size of the folder is their number, since Linux 6.2; it is 0 before that. Going through them costs time for each client.
fn open_files() -> Option<u64> {
    let counted = fs::metadata("/proc/self/fd").ok().map(|folder| folder.len()).filter(|files| *files > 0);
    // The listing is a file, too.
    let listed = || Some(from_what_is_kept(|| fs::read_dir("/proc/self/fd")).ok()?.count().saturating_sub(1) as u64);
    counted.or_else(listed)
}
