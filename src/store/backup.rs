//! Backups: what can be said of one while it is made, when it is there, and why there is none.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Positions, StoreError};

/// How far a backup has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupProgress {
    /// Bytes that were copied.
    pub copied: u64,
    /// Bytes that there are to copy.
    pub of: u64,
    /// All of it is copied, and is now gone through.
    pub checking: bool,
}

/// A backup that is on disk under its name, and was found to be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackedUp {
    /// Its size.
    pub bytes: u64,
    /// How far the logs go in it. All that was answered before it began is in it.
    pub positions: Positions,
}

/// Why there is no backup. What was begun of it is removed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The folder of the server's process means nothing to who asks.
    #[error("{} is not an absolute path: a backup is a file on the server's machine, such as /var/backups/contact.db", path.display())]
    NotAbsolute {
        /// What was asked for.
        path: PathBuf,
    },
    /// Nothing is overwritten.
    #[error("{} is there already, and is not overwritten; give the backup another name", path.display())]
    Exists {
        /// What was asked for.
        path: PathBuf,
    },
    /// The remains of a backup that was being made when its server was killed.
    #[error("{} is there: a server that was killed left it; remove it, or give the backup another name", path.display())]
    Remains {
        /// The unfinished file.
        path: PathBuf,
    },
    /// SQLite would take it for a part of the store.
    #[error("{} is in the folder of the store, among its own files; put the backup into another folder", path.display())]
    InStore {
        /// What was asked for.
        path: PathBuf,
    },
    /// One at a time.
    #[error("another backup is being made; wait for its end, or stop it with Ctrl-C")]
    UnderWay,
    /// The store is in memory.
    #[error("this server keeps its store in memory: there is nothing to back up")]
    InMemory,
    /// Who asked for it is gone, or the server stops.
    #[error("the backup was stopped before its end")]
    Stopped,
    /// The file cannot be made or written there.
    #[error("the server cannot write {} ({cause}); the folder must be there, be writable for the server's user, and have room", path.display())]
    Unwritable {
        /// What was asked for.
        path: PathBuf,
        /// What the system or SQLite said.
        #[source]
        cause: Arc<dyn Error + Send + Sync>,
    },
    /// The copy, and so perhaps the database, is damaged.
    #[error(
        "the copy was checked and is damaged ({found}), so it was removed; check the database itself: sqlite3 FILE 'PRAGMA integrity_check'"
    )]
    Damaged {
        /// The first thing that was found.
        found: String,
    },
    /// The database could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BackupError {
    pub(super) fn unwritable(path: &Path, cause: impl Error + Send + Sync + 'static) -> BackupError {
        BackupError::Unwritable { path: path.into(), cause: Arc::new(cause) }
    }

    /// A file of the backup could not be made.
    pub(super) fn not_made(path: &Path, error: io::Error) -> BackupError {
        match error.kind() {
            io::ErrorKind::AlreadyExists => BackupError::Exists { path: path.into() },
            _ => BackupError::unwritable(path, error),
        }
    }
}

/// Is told how a backup goes, again and again, and says whether it is to go on.
pub type GoesOn = Arc<dyn Fn(BackupProgress) -> bool + Send + Sync>;

/// Makes a backup at a path, from any thread.
pub type MakeBackup = Arc<dyn Fn(&Path, GoesOn) -> Result<BackedUp, BackupError> + Send + Sync>;
