//! The store in an SQLite file: write-ahead log, an fsync for every commit, and rows that anyone can read with `sqlite3`.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, params};

use super::{
    Backend, Batch, GroupState, Keyed, Newest, OpenReader, Positions, Recovered, Removal, Removed, StoreError,
};
use crate::task::{GroupName, Outcome, TaskId};

mod reader;
mod rows;

use reader::SqliteReader;
use rows::{group_columns, result_columns, status_columns, task_columns};

/// Marks the file as Contact's: "Cont".
const APPLICATION_ID: i64 = 0x436f_6e74;

/// What makes an empty file the newest schema, step by step; the schema's version is how many were applied. Never change one
/// that was released: add another.
const MIGRATIONS: &[&str] = &[include_str!("sqlite/1.sql"), include_str!("sqlite/2.sql"), include_str!("sqlite/3.sql")];

/// How long one try waits for a lock that another program holds, before it is [`StoreError::InUse`]. The writer tries again; it
/// looks in between whether the server stops.
const BUSY: Duration = Duration::from_millis(500);
/// The same at the start, which is not tried again.
const BUSY_AT_START: Duration = Duration::from_secs(5);

/// Writes the database `contact.db` in a folder that no other server uses.
pub struct Sqlite {
    // Dropped before the lock.
    conn: Connection,
    path: Arc<Path>,
    _lock: File,
}

impl Sqlite {
    /// Opens the database in the folder `dir`; makes both if they are missing.
    pub fn open(dir: &Path) -> Result<Sqlite, StoreError> {
        fs::create_dir_all(dir).map_err(|error| StoreError::unwritable(dir, error))?;
        let lock = lock(&dir.join("lock"))?;
        let path: Arc<Path> = dir.join("contact.db").into();
        let conn = connect(&path, OpenFlags::SQLITE_OPEN_CREATE, BUSY_AT_START)?;
        Ok(Sqlite { conn, path, _lock: lock })
    }

    fn positions(&self) -> Result<Positions, StoreError> {
        let at = |name| self.meta(name);
        Ok(Positions { task: at("last_task")?, result: at("last_result")?, status: at("last_status")? })
    }

    fn meta(&self, name: &str) -> Result<u64, StoreError> {
        let value = self.conn.query_row("SELECT value FROM meta WHERE name = ?", [name], |row| row.get::<_, i64>(0));
        value.map(|value| value as u64).map_err(explain(&self.path))
    }

    /// Keeps the database from growing beyond `bytes`, until it is opened again: what does not fit fails as on a full disk.
    pub fn limit(&self, bytes: u64) -> Result<(), StoreError> {
        let page: u64 = self.pragma("page_size")?.parse().unwrap_or(4096);
        self.conn.pragma_update(None, "max_page_count", int(bytes / page)).map_err(explain(&self.path))
    }

    /// The value of a setting of the connection that writes.
    pub fn pragma(&self, name: &str) -> Result<String, StoreError> {
        let value: rusqlite::types::Value =
            self.conn.pragma_query_value(None, name, |row| row.get(0)).map_err(explain(&self.path))?;
        Ok(match value {
            rusqlite::types::Value::Integer(number) => number.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        })
    }
}

/// Writes 64 KiB to a file of no name in the folder, to its disk, and removes it: whether anything can be written there.
pub(crate) fn try_writing(dir: &Path) -> io::Result<()> {
    let mut probe = tempfile::tempfile_in(dir)?;
    probe.write_all(&[0; 64 * 1024])?;
    probe.sync_all()
}

/// Takes the folder for this server, for as long as the file is open.
fn lock(path: &Path) -> Result<File, StoreError> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| StoreError::unwritable(path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.into() }),
        Err(TryLockError::Error(error)) => Err(StoreError::unwritable(path, error)),
    }
}

/// Opens the database; `create` says whether it is made if it is missing. Waits for a lock as long as `busy`.
fn connect(path: &Arc<Path>, create: OpenFlags, busy: Duration) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | create;
    let mut conn = Connection::open_with_flags(path, flags).map_err(explain(path))?;
    conn.busy_timeout(busy).map_err(explain(path))?;
    check(&conn, path)?;
    prepare(&mut conn).map_err(explain(path))?;
    conn.busy_timeout(BUSY).map_err(explain(path))?;
    Ok(conn)
}

/// Whether the file is empty or ours, before anything is written to it.
fn check(conn: &Connection, path: &Arc<Path>) -> Result<(), StoreError> {
    let number = |sql| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(explain(path));
    let owner = number("PRAGMA application_id")?;
    let found = number("PRAGMA user_version")?;
    let things = number("SELECT count(*) FROM sqlite_schema")?;
    let known = MIGRATIONS.len() as i64;
    if owner != APPLICATION_ID && (owner, found, things) != (0, 0, 0) {
        return Err(StoreError::NotContact { path: path.to_path_buf(), found: "a database of another program" });
    }
    if found > known {
        return Err(StoreError::Newer { path: path.to_path_buf(), found, known });
    }
    Ok(())
}

fn prepare(conn: &mut Connection) -> rusqlite::Result<()> {
    // Takes effect in a file that is empty: what is removed can then be given back to the file system bit by bit.
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    // Where fsync does not reach the disk by itself (macOS), ask for more. Nothing elsewhere.
    conn.pragma_update(None, "fullfsync", true)?;
    conn.pragma_update(None, "cache_size", -16 * 1024)?;
    // Every 4 MB of log a commit moves it into the database (5 ms here). A thread for that was measured: no more rows a second,
    // and a log that is started over too seldom, so that small commits became slower (4,800 a second instead of 8,000).
    conn.pragma_update_and_check(None, "wal_autocheckpoint", 1_000, |_| Ok(()))?;
    conn.set_prepared_statement_cache_capacity(32);

    let change = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let applied: i64 = change.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for migration in MIGRATIONS.iter().skip(applied as usize) {
        change.execute_batch(migration)?;
    }
    if applied < MIGRATIONS.len() as i64 {
        change.pragma_update(None, "application_id", APPLICATION_ID)?;
        change.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    }
    change.commit()
}

impl Backend for Sqlite {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        let positions = self.positions()?;
        let mark = self.meta("mark")?;
        let groups = groups(&self.conn).map_err(explain(&self.path))?;
        let replay = reader::replay(&self.conn, mark).map_err(explain(&self.path))?;
        let newest = Newest::read(&mut *self.reader()()?, positions)?;
        Ok(Recovered { positions, groups, replay, newest })
    }

    fn find_key(&mut self, key: &str) -> Result<Option<Keyed>, StoreError> {
        let mut find = self.conn.prepare_cached(rows::KEYED).map_err(explain(&self.path))?;
        find.query_row([key], rows::keyed).optional().map_err(explain(&self.path))
    }

    fn has_task(&mut self, task: TaskId) -> Result<bool, StoreError> {
        let mut find = self.conn.prepare_cached("SELECT 1 FROM tasks WHERE id = ?").map_err(explain(&self.path))?;
        find.exists([int(task)]).map_err(explain(&self.path))
    }

    fn last_outcome(&mut self, group: &GroupName, task: TaskId) -> Result<Option<Outcome>, StoreError> {
        let mut find = self.conn.prepare_cached(reader::LAST_OUTCOME).map_err(explain(&self.path))?;
        let parameters = params![int(task), group.as_str(), Outcome::Dropped as u8];
        let number = find.query_row(parameters, |row| row.get(0)).optional().map_err(explain(&self.path))?;
        Ok(number.and_then(Outcome::from_number))
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut write = || {
            let change = self.conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            // First, so that tasks of the batch can have the keys.
            free_keys(&change, batch)?;
            rows::insert(&change, "INSERT INTO tasks", task_columns!(), &batch.tasks, |to, task| {
                rows::bind_task(to, task)
            })?;
            rows::insert(&change, "INSERT INTO results", result_columns!(), &batch.results, rows::bind_result)?;
            rows::insert(&change, "INSERT INTO statuses", status_columns!(), &batch.statuses, rows::bind_status)?;
            write_groups(&change, batch)?;
            write_expiries(&change, batch)?;
            write_meta(&change, batch)?;
            change.commit()
        };
        write().map_err(explain(&self.path))
    }

    fn reopen(&mut self) -> Result<Positions, StoreError> {
        // A connection to nothing takes the place of the one that is closed, until there is another.
        let nothing = Connection::open_in_memory().map_err(explain(&self.path))?;
        drop(std::mem::replace(&mut self.conn, nothing));
        let dir = self.path.parent().unwrap_or(Path::new("."));
        try_writing(dir).map_err(|error| refused(&self.path, error))?;
        // Not made if it is missing: on a disk that is not there, an empty one would stand in its place.
        self.conn = connect(&self.path, OpenFlags::empty(), BUSY)?;
        // All that was committed goes from the log into the database, and both to the disk. So no page of the log is relied on
        // whose sync may have been the one that failed. A reader that is in the middle of something puts that off.
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(explain(&self.path))?;
        self.positions()
    }

    fn remove(&mut self, removal: &Removal) -> Result<Removed, StoreError> {
        let mut remove = || {
            let change = self.conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let removed = remove_rows(&change, removal)?;
            change.commit()?;
            // Gives pages back to the file system, about as many as were emptied.
            self.conn.execute_batch("PRAGMA incremental_vacuum(1024)")?;
            let pages = |name| self.conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            let used = (pages("page_count")? - pages("freelist_count")?) * pages("page_size")?;
            Ok(Removed { used: used as u64, ..removed })
        };
        remove().map_err(explain(&self.path))
    }

    fn reader(&self) -> OpenReader {
        let path = self.path.clone();
        Arc::new(move || Ok(Box::new(SqliteReader::open(&path)?)))
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        let Sqlite { conn, path, _lock } = *self;
        // A reader that is in the middle of something leaves the rest of it to the next start.
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(explain(&path))?;
        conn.close().map_err(|(_, error)| explain(&path)(error))
    }
}

fn write_groups(change: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let mut forget = change.prepare_cached("DELETE FROM groups WHERE name = ?")?;
    for (name, _) in batch.groups.iter().filter(|(_, state)| state.is_none()) {
        forget.execute([name.as_str()])?;
    }
    let states: Vec<&GroupState> = batch.groups.values().flatten().collect();
    rows::insert(change, "REPLACE INTO groups", group_columns!(), &states, |to, state| rows::bind_group(to, state))
}

fn free_keys(change: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    for task in &batch.freed {
        change.prepare_cached("UPDATE tasks SET key = NULL WHERE id = ?")?.execute([int(*task)])?;
    }
    Ok(())
}

fn write_expiries(change: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    for (task, expires_at) in &batch.expiries {
        let mut update = change.prepare_cached("UPDATE tasks SET expires_at = ?2 WHERE id = ?1")?;
        update.execute(params![int(*task), expires_at.map(|time| time.0)])?;
    }
    Ok(())
}

fn remove_rows(change: &Transaction<'_>, removal: &Removal) -> rusqlite::Result<Removed> {
    let limit = int(removal.limit as u64);
    let mut tasks = change.prepare_cached(
        "DELETE FROM tasks WHERE id IN (
             SELECT id FROM tasks WHERE id <= ?1 AND accepted_at < ?2
                AND (target IS NULL OR target IN (SELECT name FROM groups) OR accepted_at < ?3)
             ORDER BY id LIMIT ?4)
         RETURNING id",
    )?;
    let params = params![int(removal.upto), removal.before.0, removal.unclaimed_before.0, limit];
    let ids: Vec<i64> = tasks.query_map(params, |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut results = change.prepare_cached("DELETE FROM results WHERE task_id = ?")?;
    for id in &ids {
        results.execute([id])?;
    }
    // Without a task, or of one that is gone: such a result came after its task was removed.
    let old = "(SELECT rowid FROM results WHERE task_id < COALESCE((SELECT min(id) FROM tasks), 9223372036854775807)
        AND at < ?1 LIMIT ?2)";
    let unmatched = change
        .prepare_cached(&format!("DELETE FROM results WHERE rowid IN {old}"))?
        .execute(params![removal.before.0, limit])?;
    let old = "(SELECT seq FROM statuses WHERE at < ?1 ORDER BY seq LIMIT ?2)";
    let statuses = change
        .prepare_cached(&format!("DELETE FROM statuses WHERE seq IN {old}"))?
        .execute(params![removal.before.0, limit])?;
    let tasks = ids.into_iter().map(|id| id as TaskId).collect();
    Ok(Removed { tasks, others: unmatched + statuses, used: 0 })
}

fn write_meta(change: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    // A position moves exactly when there are rows for it.
    let moved = [
        ("last_task", (!batch.tasks.is_empty()).then_some(batch.positions.task)),
        ("last_result", (!batch.results.is_empty()).then_some(batch.positions.result)),
        ("last_status", (!batch.statuses.is_empty()).then_some(batch.positions.status)),
        ("mark", batch.mark),
    ];
    let mut update = change.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?;
    for (name, value) in moved {
        if let Some(value) = value {
            update.execute(params![name, int(value)])?;
        }
    }
    Ok(())
}

fn groups(conn: &Connection) -> rusqlite::Result<Vec<GroupState>> {
    let mut select = conn.prepare(concat!("SELECT ", group_columns!(), " FROM groups ORDER BY name"))?;
    select.query_map([], rows::group)?.collect()
}

/// SQLite's integers have a sign. No log grows to where that matters, but a caller may ask for what comes after `u64::MAX`.
fn int(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// Says what an error of the system means for the one who runs the server.
fn refused(path: &Path, error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path: path.into() },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotFound => {
            StoreError::unwritable(path, error)
        }
        _ => StoreError::Io { path: path.into(), cause: Arc::new(error) },
    }
}

/// Says what an error of SQLite means for the one who runs the server.
fn explain(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
    let path: PathBuf = path.into();
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            StoreError::NotContact { path: path.clone(), found: "not an SQLite database at all" }
        }
        Some(ErrorCode::DiskFull) => StoreError::Full { path: path.clone() },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::InUse { path: path.clone() },
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            StoreError::unwritable(&path, error)
        }
        // No code: a row that does not read as what it should be.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::TypeMismatch) | None => StoreError::damaged(&path, error),
        Some(_) => StoreError::Io { path: path.clone(), cause: Arc::new(error) },
    }
}
