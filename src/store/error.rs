//! What can go wrong with the store, and what to do about it.

use std::error::Error;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Positions;

/// What caused an error. Shared, because one failed write is the answer to every caller that waits for it.
type Cause = Arc<dyn Error + Send + Sync>;

/// Why the store could not be opened, read or written. Each says which file, and what its reader can do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another server, or another program, holds the folder or the database.
    #[error("{} is in use by another process; stop that one first, or use another data folder", path.display())]
    InUse {
        /// The lock, or the database.
        path: PathBuf,
    },
    /// Something that is not an SQLite database, or one of another program.
    #[error(
        "{} is not a Contact database ({found}); move it out of the way, or use another data folder",
        path.display()
    )]
    NotContact {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: &'static str,
    },
    /// A later version of Contact wrote it.
    #[error(
        "{} has schema {found}, and this server knows schemas up to {known}; use the newer server that wrote it",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema that this program knows.
        known: i64,
    },
    /// Its disk is nearly full, and what is left is for what comes of the tasks that are out.
    #[error(
        "{free} bytes are left on the disk of {}, and {floor} are to stay free: make room on it, keep less (--retain, \
         --retain-bytes), or set --min-free; the server goes on by itself",
        path.display()
    )]
    Low {
        /// The database.
        path: PathBuf,
        /// Bytes that may still be written.
        free: u64,
        /// Bytes that are to stay free.
        floor: u64,
    },
    /// Its disk is full.
    #[error("no room is left for {}; make room on its disk, and a server that runs goes on by itself", path.display())]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// It cannot be made, opened or written.
    #[error(
        "{} cannot be created or written ({cause}); check the path and its permissions, or use another data folder",
        path.display()
    )]
    Unwritable {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: Cause,
    },
    /// What it holds cannot be understood.
    #[error(
        "{} is damaged ({cause}); keep a copy, and restore a backup or try the .recover command of sqlite3",
        path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        #[source]
        cause: Cause,
    },
    /// After a failed write it was opened again, and does not hold what was answered.
    #[error(
        "the database holds tasks up to {} and results up to {}, but up to {} and {} were answered: its disk lost what it had \
         said was written; keep a copy of the data folder, and restore a backup",
        found.task, found.result, answered.task, answered.result
    )]
    Lost {
        /// How far the logs go.
        found: Positions,
        /// How far they must go.
        answered: Positions,
    },
    /// The disk, or the system, refused something else.
    #[error("{} cannot be read or written ({cause}); check its disk; a server that runs tries again by itself", path.display())]
    Io {
        /// The database.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: Cause,
    },
    /// The log that several servers share cannot be written: too few of those that keep it can be reached.
    #[error(
        "the log of the cluster cannot be written ({why}); check the NATS servers and the way to them; the server goes on by itself"
    )]
    NoLog {
        /// What was said.
        why: Arc<str>,
    },
    /// Another server leads.
    #[error("{why}; this one takes nothing until it leads again")]
    Fenced {
        /// How that was seen.
        why: Arc<str>,
    },
    /// The system has no thread left.
    #[error("a thread cannot be started ({cause}); raise the limit on threads or processes")]
    NoThread {
        /// What the system said.
        #[source]
        cause: Cause,
    },
    /// A write failed, and none has worked since. The message of the failure names the file and what to do.
    #[error("the store takes nothing for now: {reason}")]
    Failed {
        /// How it failed.
        #[source]
        reason: Arc<StoreError>,
    },
    /// The store was closed: the server is stopping.
    #[error("the store is closed, because the server is stopping; try again when it is back")]
    Closed,
}

impl StoreError {
    /// Whether this may pass while the server runs: room is made, a disk comes back. What cannot be understood stays so.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            StoreError::Failed { reason } => reason.may_pass(),
            StoreError::Full { .. }
            | StoreError::Low { .. }
            | StoreError::Io { .. }
            | StoreError::Unwritable { .. }
            | StoreError::InUse { .. }
            | StoreError::NoLog { .. }
            | StoreError::NoThread { .. } => true,
            StoreError::NotContact { .. }
            | StoreError::Newer { .. }
            | StoreError::Damaged { .. }
            | StoreError::Lost { .. }
            | StoreError::Fenced { .. }
            | StoreError::Closed => false,
        }
    }

    /// Whether another server leads.
    pub(super) fn is_fenced(&self) -> bool {
        match self {
            StoreError::Failed { reason } => reason.is_fenced(),
            error => matches!(error, StoreError::Fenced { .. }),
        }
    }

    /// Whether it is of this server's own disk.
    pub(super) fn is_of_disk(&self) -> bool {
        match self {
            StoreError::Failed { reason } => reason.is_of_disk(),
            StoreError::NoLog { .. } | StoreError::Fenced { .. } | StoreError::Closed => false,
            _ => true,
        }
    }

    /// What later calls get after this error.
    pub(super) fn lasting(self) -> StoreError {
        match self {
            StoreError::Failed { .. } | StoreError::Closed => self,
            first => StoreError::Failed { reason: Arc::new(first) },
        }
    }

    pub(crate) fn no_thread(cause: std::io::Error) -> StoreError {
        StoreError::NoThread { cause: Arc::new(cause) }
    }

    pub(super) fn unwritable(path: &Path, cause: impl Error + Send + Sync + 'static) -> StoreError {
        StoreError::Unwritable { path: path.into(), cause: Arc::new(cause) }
    }

    pub(super) fn damaged(path: &Path, what: impl Display) -> StoreError {
        StoreError::Damaged {
            path: path.into(),
            cause: Arc::from(Box::<dyn Error + Send + Sync>::from(what.to_string())),
        }
    }
}
