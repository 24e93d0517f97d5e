//! A store that a server wrote alone goes into a log: its database, part after part, is all that the log begins with.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::log::{Log, LogError};
use super::record::{FILE_PART, FilePart, Kind, Record, RecordError};
use super::term::{Term, TermError};
use crate::store::{Backend as _, BackupError, Granted, Positions, Sqlite, StoreError};

/// How long more messages of the log are waited for before it is taken for read. If there are some all the same, what is sent is refused.
const LOOK: Duration = Duration::from_secs(1);

/// What is in the log now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// How far the logs of the store go.
    pub positions: Positions,
    /// The size of its database.
    pub bytes: u64,
    /// The message of the log with which all of it is there.
    pub place: u64,
}

/// Why a store is not in the log. It lies where it lay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// There is no store.
    #[error("{} has no contact.db: name the --data of a server that was alone", path.display())]
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be copied. The copy lies beside it until it is sent.
    #[error("the store cannot be copied before it is sent: {0}")]
    Copy(#[from] BackupError),
    /// The copy cannot be read, or removed.
    #[error("{}: {why}", path.display())]
    File {
        /// The copy.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// The log holds something else.
    #[error(
        "the log of this cluster is not empty: servers have written to it (message {place}); only a new cluster takes a store over, so \
         use another --cluster"
    )]
    NotEmpty {
        /// The first message that says something.
        place: u64,
    },
    /// It was done before.
    #[error(
        "the log of this cluster has a store already, which was imported whole (message {place}): start the servers, without --import"
    )]
    AlreadyThere {
        /// The last message of it.
        place: u64,
    },
    /// What stands there is not understood.
    #[error("message {place} of the log: {why}")]
    Record {
        /// Its place.
        place: u64,
        /// What is wrong with it.
        why: RecordError,
    },
    /// It did not come to its end.
    #[error("not all of it is in the log yet ({why}): no server leads before it is; run the same command again")]
    Interrupted {
        /// What was said.
        why: String,
    },
}

impl From<LogError> for ImportError {
    fn from(error: LogError) -> ImportError {
        ImportError::Interrupted { why: error.to_string() }
    }
}

impl From<TermError> for ImportError {
    fn from(error: TermError) -> ImportError {
        ImportError::Interrupted { why: error.to_string() }
    }
}

/// A copy that is removed when it is not needed any more.
struct Copy(PathBuf);

impl Copy {
    fn failed(&self, why: io::Error) -> ImportError {
        ImportError::File { path: self.0.clone(), why }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Sends the store in the folder `dir`, which no server uses, into a log that is empty but for what is left of an earlier try; with `granted`,
/// which a server that is alone has beside it. Each message is sent again and again for as long as `patience`. `server` says to people who does that, `tell` is told how many bytes of how many
/// are there.
pub fn import(
    mut log: impl Log,
    dir: &Path,
    granted: Granted,
    server: &str,
    patience: Duration,
    mut tell: impl FnMut(u64, u64),
) -> Result<Imported, ImportError> {
    if !dir.join("contact.db").is_file() {
        return Err(ImportError::NoStore { path: dir.into() });
    }
    // It is locked for as long as this is open.
    let mut store = Sqlite::open(dir)?;
    let positions = store.recover()?.positions;
    let last = last_of_empty(&mut log)?;
    let copy = copy(&store, dir)?;
    Sqlite::add_grants(&copy.0, granted)?;
    let mut file = File::open(&copy.0).map_err(|why| copy.failed(why))?;
    let size = file.metadata().map_err(|why| copy.failed(why))?.len();

    let mut term = Term::behind(last, patience);
    term.append(&mut log, &Kind::Lead(server.into()))?;
    let (mut offset, mut place) = (0, 0);
    while offset < size {
        let mut bytes = Vec::with_capacity(FILE_PART);
        (&mut file).take(FILE_PART as u64).read_to_end(&mut bytes).map_err(|why| copy.failed(why))?;
        let part = FilePart { offset, size, bytes };
        offset += part.bytes.len() as u64;
        place = term.append(&mut log, &Kind::File(part))?;
        tell(offset, size);
    }
    // If nobody hears that, they wait until they have heard nothing for a while.
    let _ = term.append(&mut log, &Kind::Resign);
    Ok(Imported { positions, bytes: size, place })
}

/// The last message of a log in which nothing is said but that an import began.
fn last_of_empty(log: &mut impl Log) -> Result<u64, ImportError> {
    let mut last = 0;
    loop {
        let messages = log.read(last, LOOK)?;
        if messages.is_empty() {
            return Ok(last);
        }
        for (place, message) in messages {
            let record = Record::read(&message).map_err(|why| ImportError::Record { place, why })?;
            match record.kind {
                _ if place != last + 1 => return Err(ImportError::NotEmpty { place: last + 1 }),
                Kind::File(part) if part.is_last() => return Err(ImportError::AlreadyThere { place }),
                Kind::File(_) | Kind::Lead(_) | Kind::Resign | Kind::Nothing => last = place,
                _ => return Err(ImportError::NotEmpty { place }),
            }
        }
    }
}

/// One file with all that is in the store, which was gone through.
fn copy(store: &Sqlite, dir: &Path) -> Result<Copy, ImportError> {
    let dir = dir.canonicalize().map_err(|why| ImportError::File { path: dir.into(), why })?;
    let copy = Copy(dir.join("import.db"));
    // Of a try that was killed. The folder is locked, so nobody writes to it.
    for path in ["", ".partial", "-wal", "-shm"].map(|suffix| dir.join(format!("import.db{suffix}"))) {
        match fs::remove_file(&path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(ImportError::File { path, why }),
            _ => {}
        }
    }
    let back_up = store.backup().ok_or(BackupError::InMemory)?;
    back_up(&copy.0, Arc::new(|_| true))?;
    Ok(copy)
}
