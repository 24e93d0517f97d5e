//! The database that a log begins with, on its way into a view.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::record::FilePart;
use crate::store::StoreError;

/// The parts that came of it, in a file.
pub(super) struct Incoming {
    term: u64,
    /// The message with which it begins.
    first: u64,
    path: PathBuf,
    file: File,
    /// Bytes that came.
    came: u64,
}

impl Incoming {
    /// One of which the first part stands at `first`.
    pub(super) fn begin(term: u64, first: u64, path: PathBuf) -> Result<Incoming, StoreError> {
        let file = create(&path).map_err(|error| StoreError::unwritable(&path, error))?;
        Ok(Incoming { term, first, path, file, came: 0 })
    }

    /// Takes the next part. `None`: it is not the next one, and all of it is void.
    pub(super) fn take(mut self, term: u64, part: &FilePart) -> Result<Option<Incoming>, StoreError> {
        if term != self.term || part.offset != self.came {
            return Ok(None);
        }
        self.file.write_all(&part.bytes).map_err(|error| StoreError::unwritable(&self.path, error))?;
        self.came += part.bytes.len() as u64;
        Ok(Some(self))
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// It is for its owner alone, as the database is.
fn create(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => File::options().write(true).create_new(true).mode(0o600).open(path),
    }
}
