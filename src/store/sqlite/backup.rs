//! A copy of the database while the server writes to it.
//!
//! The copy is of one moment: its reader holds a transaction of that moment open from the first page to the last. What is written
//! meanwhile stays in the log beside the database, and the copy never starts over.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{explain, positions};
use crate::store::{BackedUp, BackupError, BackupProgress, GoesOn};

/// Pages that are copied at once: 1 MiB.
const STEP: i32 = 256;
/// A step takes at least this, so at most 64 MiB a second are read and written beside what the server does.
const STEP_TAKES: Duration = Duration::from_micros(15_625);
/// Steps after which what was written goes to the disk. If all of it went there at the end, commits would wait behind it.
const SYNC: usize = 4;
/// The check works for so long, and rests as long.
const CHECK: Duration = Duration::from_millis(2);
/// Operations of SQLite's machine between two looks at the clock.
const OPERATIONS: i32 = 200;

/// Copies the database `from` to the file `to`, which must not be there, and checks the copy. Asks `goes_on` all the time.
pub(super) fn back_up(from: &Path, to: &Path, goes_on: &GoesOn) -> Result<BackedUp, BackupError> {
    let folder = check_path(from, to)?;
    let partial = Partial::create(to)?;
    let done = copy(from, &partial, goes_on)?;
    check(&partial, done.bytes, goes_on)?;
    partial.file.sync_all().map_err(|error| BackupError::unwritable(to, error))?;
    partial.finish(to)?;
    // The name goes to the disk, too.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| BackupError::unwritable(to, error))?;
    Ok(done)
}

/// The folder that the file is to be in.
fn check_path<'a>(from: &Path, to: &'a Path) -> Result<&'a Path, BackupError> {
    let (Some(folder), Some(name), true) = (to.parent(), to.file_name(), to.is_absolute()) else {
        return Err(BackupError::NotAbsolute { path: to.into() });
    };
    let real = folder.canonicalize().map_err(|error| BackupError::unwritable(to, error))?;
    let is_ours = |of: &Path| of.parent().and_then(|of| of.canonicalize().ok()) == Some(real.clone());
    let of_store = name.to_string_lossy().starts_with("contact.db") || name == "lock";
    if of_store && is_ours(from) {
        return Err(BackupError::InStore { path: to.into() });
    }
    match to.symlink_metadata() {
        Ok(_) => Err(BackupError::Exists { path: to.into() }),
        Err(_) => Ok(folder),
    }
}

/// A backup that is not finished. Removed when it is dropped.
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    /// Only its owner may read it: it has all tasks in it.
    fn create(to: &Path) -> Result<Partial, BackupError> {
        let path = PathBuf::from([to.as_os_str(), ".partial".as_ref()].into_iter().collect::<OsString>());
        match File::options().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => Ok(Partial { path, file }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(BackupError::Remains { path }),
            Err(error) => Err(BackupError::unwritable(to, error)),
        }
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
    }

    /// Gives the file its name, unless something came there meanwhile.
    fn finish(self, to: &Path) -> Result<(), BackupError> {
        fs::hard_link(&self.path, to).map_err(|error| BackupError::not_made(to, error))
    }

    fn failed(&self, error: rusqlite::Error) -> BackupError {
        BackupError::unwritable(&self.path, error)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("{} cannot be removed: {error}", self.path.display());
        }
    }
}

fn copy(from: &Path, partial: &Partial, goes_on: &GoesOn) -> Result<BackedUp, BackupError> {
    let unread = |error| BackupError::Store(explain(from)(error));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).map_err(unread)?;
    source.execute_batch("BEGIN").map_err(unread)?;
    // The transaction begins with the first read.
    let positions = positions(&source).map_err(unread)?;
    let page: u64 = source.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0)).map_err(unread)? as u64;

    let mut copy = partial.open().map_err(|error| partial.failed(error))?;
    // What is not finished is thrown away: it needs no journal, and no sync of SQLite's own.
    copy.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        .map_err(|error| partial.failed(error))?;
    let backup = Backup::new(&source, &mut copy).map_err(|error| partial.failed(error))?;
    let mut bytes = 0;
    for step in 1.. {
        let began = Instant::now();
        let more = backup.step(STEP).map_err(|error| partial.failed(error))? != StepResult::Done;
        if step % SYNC == 0 {
            partial.file.sync_data().map_err(|error| BackupError::unwritable(&partial.path, error))?;
        }
        let at = backup.progress();
        bytes = at.pagecount as u64 * page;
        if !goes_on(BackupProgress { copied: (at.pagecount - at.remaining) as u64 * page, of: bytes, checking: false })
        {
            return Err(BackupError::Stopped);
        }
        if !more {
            break;
        }
        thread::sleep(STEP_TAKES.saturating_sub(began.elapsed()).max(began.elapsed()));
    }
    drop(backup);
    // One file, that anything reads: without this it would be one with a log beside it.
    copy.execute_batch("PRAGMA journal_mode = DELETE").map_err(|error| partial.failed(error))?;
    Ok(BackedUp { bytes, positions })
}

/// Goes through all of the copy.
fn check(partial: &Partial, bytes: u64, goes_on: &GoesOn) -> Result<(), BackupError> {
    let mut copy = partial.open().map_err(|error| partial.failed(error))?;
    let at = BackupProgress { copied: bytes, of: bytes, checking: true };
    if !goes_on(at) {
        return Err(BackupError::Stopped);
    }
    let (goes_on, mut began) = (goes_on.clone(), Instant::now());
    let rest = move || {
        if began.elapsed() < CHECK {
            return false;
        }
        thread::sleep(began.elapsed());
        began = Instant::now();
        !goes_on(at)
    };
    copy.progress_handler(OPERATIONS, Some(rest)).map_err(|error| partial.failed(error))?;
    match copy.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)) {
        Ok(found) if found == "ok" => Ok(()),
        Ok(found) => Err(BackupError::Damaged { found }),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Err(BackupError::Stopped),
        Err(error) => Err(BackupError::Damaged { found: error.to_string() }),
    }
}
