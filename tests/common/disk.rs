//! A disk that is soon full.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A disk of a few megabytes, in memory.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, and says so: only root can have one.
    pub fn mount(megabytes: u32) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(folder.path());
        if mount.output().is_ok_and(|done| done.status.success()) {
            return Some(SmallDisk(folder));
        }
        super::skipped("a disk is mounted for it, which takes root");
        None
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// How much is free, in bytes.
    pub fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.path()).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Takes room until so much is left. What takes it is removed by [`std::fs::remove_file`].
    pub fn fill(&self, left: u64) -> PathBuf {
        let filler = self.path().join("filler");
        let mut file = std::fs::File::options().create(true).append(true).open(&filler).unwrap();
        while self.free() >= left + 4096 && file.write_all(&[0; 4096]).is_ok() {}
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}
