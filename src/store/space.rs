//! How much room is left on the disk of the store, and what is refused while that is little.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

const GIB: u64 = 1 << 30;

/// The file system of the store, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What the server may still write.
    pub free: u64,
    /// How large it is.
    pub all: u64,
}

impl Space {
    /// That of a folder; `None`: the system does not say.
    pub fn of(folder: &Path) -> Option<Space> {
        let disk = rustix::fs::statvfs(folder).ok()?;
        Some(Space { free: disk.f_bavail * disk.f_frsize, all: disk.f_blocks * disk.f_frsize })
    }

    /// How much is to stay free, in bytes: as it is set, or else 1 GiB, or a twentieth of the file system if that is less. What comes of
    /// tasks that are out, and the removal of what is old, need room when nothing else is taken any more.
    pub fn floor(&self, min_free: Option<u64>) -> u64 {
        min_free.unwrap_or((self.all / 20).min(GIB))
    }

    /// How much is set aside in a file of its own, in bytes, for the time when all else is used up: with it the log of the database can
    /// be moved into the database, which grows by as much before the log gives its room back. The log has 4 MiB and the longest
    /// transaction, which is one request of 16 MiB, or 8 MiB of several. On small disks an eighth.
    pub fn reserve(&self) -> u64 {
        (self.all / 8).min(32 << 20)
    }

    /// What that is enough for.
    pub fn room(&self, min_free: Option<u64>) -> Room {
        let floor = self.floor(min_free);
        match self.free {
            free if free >= floor => Room::Enough,
            free if free >= floor / 2 => Room::Little,
            _ => Room::Least,
        }
    }
}

/// What there is room for. What comes of tasks that are out is always written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Room {
    /// Everything.
    #[default]
    Enough,
    /// Less than the floor: no statuses, and no results that change nothing.
    Little,
    /// Less than half of it: no tasks either.
    Least,
}

/// What is not written for want of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// Tasks that were submitted.
    Tasks,
    /// Statuses.
    Statuses,
    /// Results that are late, or match no delivery.
    LateResults,
}

impl Unwritten {
    /// All of them.
    pub const ALL: [Unwritten; 3] = [Unwritten::Tasks, Unwritten::Statuses, Unwritten::LateResults];

    /// What metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Unwritten::Tasks => "tasks",
            Unwritten::Statuses => "statuses",
            Unwritten::LateResults => "late_results",
        }
    }
}

/// How the floor is set, and what was not written because of it since the store was opened.
#[derive(Debug)]
pub(super) struct Floor {
    /// `u64::MAX`: it is not set.
    min_free: AtomicU64,
    keeps_reserve: AtomicBool,
    unwritten: [AtomicU64; Unwritten::ALL.len()],
}

impl Default for Floor {
    fn default() -> Floor {
        Floor {
            min_free: AtomicU64::new(u64::MAX),
            keeps_reserve: AtomicBool::new(false),
            unwritten: Default::default(),
        }
    }
}

impl Floor {
    pub(super) fn set(&self, min_free: Option<u64>) {
        self.min_free.store(min_free.unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn min_free(&self) -> Option<u64> {
        Some(self.min_free.load(Relaxed)).filter(|bytes| *bytes != u64::MAX)
    }

    pub(super) fn keep_reserve(&self, keeps: bool) {
        self.keeps_reserve.store(keeps, Relaxed);
    }

    pub(super) fn keeps_reserve(&self) -> bool {
        self.keeps_reserve.load(Relaxed)
    }

    pub(super) fn count(&self, what: Unwritten, how_many: usize) {
        self.unwritten[what as usize].fetch_add(how_many as u64, Relaxed);
    }

    pub(super) fn unwritten(&self, what: Unwritten) -> u64 {
        self.unwritten[what as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_a_twentieth_of_the_disk_and_a_gibibyte_at_most_unless_it_is_set() {
        for (all, set, floor) in [(10 * GIB, None, GIB / 2), (100 * GIB, None, GIB), (GIB, Some(7), 7), (0, None, 0)] {
            let with = |free| Space { free, all }.room(set);
            assert_eq!(Space { free: 0, all }.floor(set), floor);
            assert_eq!(with(floor), Room::Enough);
            if floor > 0 {
                assert_eq!([with(floor - 1), with(floor / 2)], [Room::Little; 2]);
                assert_eq!(with(floor / 2 - 1), Room::Least);
            }
        }
        assert_eq!(Space { free: 0, all: GIB }.room(Some(0)), Room::Enough, "it is switched off");
    }
}
