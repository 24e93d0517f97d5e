//! The store in an SQLite file: write-ahead log, an fsync for every commit, and rows that anyone can read with `sqlite3`.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, params};

use super::backend::{STATUSES_AT_ONCE, lanes_of};
use super::{
    Backend, Batch, Dialled, Drain, GroupState, Keyed, KnownClient, MakeBackup, Newest, OpenReader, OpenTask,
    Positions, Recovered, Removal, Removed, STATUSES, STATUSES_OF_A_CLIENT, Slot, Space, StoreError,
};
use crate::task::{GroupName, NewTask, Outcome, Task, TaskId};

mod appended;
mod backup;
mod chunks;
mod cut;
mod grants;
mod moving;
mod reader;
mod removal;
mod results;
mod rows;
mod runs;
mod schedules;
mod tasks;
mod view;

pub use appended::Appended;
pub(super) use appended::Beside;
use appended::append;
pub use cut::{Cut, Rows};
use reader::SqliteReader;
pub(super) use results::ResultRow;
use rows::{client_columns, dialled_columns, drain_columns, group_columns, open_columns, status_columns};
pub(super) use tasks::{SlotTaken, TaskRow};

/// Marks the file as Contact's: "Cont".
const APPLICATION_ID: i64 = 0x436f_6e74;

/// What makes an empty file the newest schema, step by step; the schema's version is how many were applied. Never change one
/// that was released: add another.
const MIGRATIONS: &[&str] = &[
    include_str!("sqlite/1.sql"),
    include_str!("sqlite/2.sql"),
    include_str!("sqlite/3.sql"),
    include_str!("sqlite/4.sql"),
    include_str!("sqlite/5.sql"),
    include_str!("sqlite/6.sql"),
    include_str!("sqlite/7.sql"),
    include_str!("sqlite/8.sql"),
    include_str!("sqlite/9.sql"),
    include_str!("sqlite/10.sql"),
    include_str!("sqlite/11.sql"),
    include_str!("sqlite/12.sql"),
    include_str!("sqlite/13.sql"),
    include_str!("sqlite/14.sql"),
    include_str!("sqlite/15.sql"),
    include_str!("sqlite/16.sql"),
    include_str!("sqlite/17.sql"),
];

/// Pages that are given back to the file system by each removal, beside those that it emptied; and the most in all.
const PAGES_BACK: i64 = 64;
const MOST_PAGES_BACK: i64 = 1_024;

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
    /// It can be made anew from a log, so that no commit waits for the disk.
    is_view: bool,
    /// See [`view::NOTED`].
    noted: u64,
    _lock: File,
}

impl Sqlite {
    /// Opens the database in the folder `dir`; makes both if they are missing.
    pub fn open(dir: &Path) -> Result<Sqlite, StoreError> {
        Sqlite::open_as(dir, false)
    }

    fn open_as(dir: &Path, is_view: bool) -> Result<Sqlite, StoreError> {
        fs::create_dir_all(dir).map_err(|error| StoreError::unwritable(dir, error))?;
        let lock = lock(&dir.join("lock"))?;
        let path: Arc<Path> = dir.join("contact.db").into();
        // SQLite would make it as open as the umask allows. If it cannot be made, SQLite says why.
        let _ = private().create_new(true).open(&path);
        let mut conn = connect(&path, OpenFlags::SQLITE_OPEN_CREATE, BUSY_AT_START)?;
        close_to_others(dir);
        moving::move_rows(&mut conn, &path)?;
        let sqlite = Sqlite { conn, path, is_view, noted: view::NOTED, _lock: lock };
        sqlite.prepare_view()?;
        Ok(sqlite)
    }

    pub(super) fn positions(&self) -> Result<Positions, StoreError> {
        positions(&self.conn).map_err(explain(&self.path))
    }

    /// What this batch appends, to be written with it.
    pub(super) fn appended(&self, batch: &Batch) -> Result<Appended, StoreError> {
        Appended::of(&batch.tasks, &batch.results).map_err(explain(&self.path))
    }

    /// What is set aside.
    fn reserve(&self) -> PathBuf {
        self.path.with_file_name("reserve")
    }

    /// See [`Backend::reopen`].
    fn open_again(&mut self) -> Result<Positions, StoreError> {
        self.disconnect()?;
        let dir = self.path.parent().unwrap_or(Path::new("."));
        // Not made if it is missing: on a disk that is not there, an empty one would stand in its place.
        self.conn = connect(&self.path, OpenFlags::empty(), BUSY)?;
        self.prepare_view()?;
        // All that was committed goes from the log into the database, and both to the disk. So no page of the log is relied on
        // whose sync may have been the one that failed. A reader that is in the middle of something puts that off.
        // The log may be what the disk is full of, and this gives its room back: so it comes before any other writing.
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(explain(&self.path))?;
        try_writing(dir).map_err(|error| refused(&self.path, error))?;
        self.positions()
    }

    /// A connection to nothing takes the place of the one that is closed, until there is another.
    fn disconnect(&mut self) -> Result<(), StoreError> {
        let nothing = Connection::open_in_memory().map_err(explain(&self.path))?;
        drop(std::mem::replace(&mut self.conn, nothing));
        Ok(())
    }

    /// Writes in one transaction.
    fn write(&mut self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>) -> Result<(), StoreError> {
        let write = || {
            let change = self.conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            work(&change)?;
            change.commit()
        };
        write().map_err(explain(&self.path))
    }

    /// See [`Backend::remove`]. `also` writes in the same transaction.
    fn remove_and(
        &mut self,
        removal: &Removal,
        also: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<Removed, StoreError> {
        let remove = || {
            let free = self.conn.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0))?;
            let change = self.conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let removed = removal::remove(&change, removal)?;
            runs::remove(&change, removal)?;
            also(&change)?;
            change.commit()?;
            let pages = |name| self.conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            // Gives pages back to the file system: those that were emptied, and some of earlier times. A thousand take 60 ms.
            let back = (pages("freelist_count")? - free + PAGES_BACK).clamp(PAGES_BACK, MOST_PAGES_BACK);
            // A row for each page: whoever does not read them all gives back one.
            let mut give_back = self.conn.prepare(&format!("PRAGMA incremental_vacuum({back})"))?;
            let mut pages_back = give_back.query([])?;
            while pages_back.next()?.is_some() {}
            let used = (pages("page_count")? - pages("freelist_count")?) * pages("page_size")?;
            Ok(Removed { used: used as u64, ..removed })
        };
        remove().map_err(explain(&self.path))
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

/// For a file that only its owner may read, whatever the umask: tasks and results are in it.
fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Takes from others what an earlier version, or a copy, let them do with the files of a store. What SQLite makes beside the database
/// from then on is as open as that is.
#[cfg(unix)]
fn close_to_others(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let files = ["lock", "contact.db", "contact.db-wal", "contact.db-shm", "receipt-key", "reserve"];
    for path in files.map(|name| dir.join(name)) {
        let Ok(mode) = fs::metadata(&path).map(|file| file.permissions().mode()) else { continue };
        if mode & 0o077 == 0 {
            continue;
        }
        match fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o700)) {
            Ok(()) => log::info!(
                "{} is for its owner alone now: others could open it (mode {:o})",
                path.display(),
                mode & 0o777
            ),
            Err(e) => log::warn!(
                "others can open {} (mode {:o}), and that cannot be changed: {e}",
                path.display(),
                mode & 0o777
            ),
        }
    }
}

#[cfg(not(unix))]
fn close_to_others(_: &Path) {}

/// Takes the folder for this server, for as long as the file is open.
fn lock(path: &Path) -> Result<File, StoreError> {
    let file = private().create(true).truncate(false).open(path);
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
    // A backup, and whoever else reads for long, makes the log grow. Afterwards it is given back to the file system.
    conn.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |_| Ok(()))?;
    conn.set_prepared_statement_cache_capacity(64);

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
        let mark = meta(&self.conn, "mark").map_err(explain(&self.path))?;
        let groups = groups(&self.conn).map_err(explain(&self.path))?;
        let replay = results::replay(&self.conn, mark).map_err(explain(&self.path))?;
        let open = open_tasks(&self.conn).map_err(explain(&self.path))?;
        let drains = drains(&self.conn).map_err(explain(&self.path))?;
        let dialled = dialled(&self.conn).map_err(explain(&self.path))?;
        let mut reader = self.reader()()?;
        let newest = Newest::read(&mut *reader, positions)?;
        let lanes = lanes_of(&mut *reader, &replay)?;
        let clients = clients(&self.conn).map_err(explain(&self.path))?;
        let grants = grants::all(&self.conn).map_err(explain(&self.path))?;
        Ok(Recovered { positions, groups, open, replay, lanes, newest, drains, clients, dialled, grants })
    }

    fn find_key(&mut self, key: &str) -> Result<Option<Keyed>, StoreError> {
        let task = tasks::keyed(&self.conn, key).map_err(explain(&self.path))?;
        let keyed = |task: Task| {
            let NewTask { to, audience, text, attachment, .. } = task.spec;
            Keyed { id: task.id, to, audience, text, attachment }
        };
        Ok(task.map(keyed))
    }

    fn newest_of(&mut self, slot: &Slot) -> Result<Option<Task>, StoreError> {
        tasks::newest_of(&self.conn, slot).map_err(explain(&self.path))
    }

    fn has_task(&mut self, task: TaskId) -> Result<bool, StoreError> {
        Ok(tasks::find(&self.conn, task).map_err(explain(&self.path))?.is_some())
    }

    fn last_outcome(&mut self, group: &GroupName, task: TaskId) -> Result<Option<Outcome>, StoreError> {
        results::last_outcome(&self.conn, group, task).map_err(explain(&self.path))
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let beside = Beside::of(&batch.tasks, &batch.results);
        self.write(|change| write_batch(change, batch, &beside, |change| append(change, &batch.tasks, &batch.results)))
    }

    fn reopen(&mut self) -> Result<Positions, StoreError> {
        match self.open_again() {
            Err(StoreError::Full { .. }) if fs::remove_file(self.reserve()).is_ok() => self.open_again(),
            opened => opened,
        }
    }

    fn set_aside(&mut self, bytes: u64) -> Result<(), StoreError> {
        let path = self.reserve();
        let take = || {
            // Not cut: what another start set aside stays so.
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes.max(1))?;
            // There may be more of it than is wanted.
            file.set_len(bytes)
        };
        take().map_err(|error| {
            let _ = fs::remove_file(&path);
            refused(&path, error)
        })
    }

    fn remove(&mut self, removal: &Removal) -> Result<Removed, StoreError> {
        self.remove_and(removal, |_| Ok(()))
    }

    fn space(&self) -> Option<(PathBuf, Space)> {
        Some((self.path.to_path_buf(), Space::of(self.path.parent()?)?))
    }

    fn reader(&self) -> OpenReader {
        let path = self.path.clone();
        Arc::new(move || Ok(Box::new(SqliteReader::open(&path)?)))
    }

    fn backup(&self) -> Option<MakeBackup> {
        let path = self.path.clone();
        Some(Arc::new(move |to, goes_on| backup::back_up(&path, to, &goes_on)))
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        let Sqlite { conn, path, is_view: _, noted: _, _lock } = *self;
        // A reader that is in the middle of something leaves the rest of it to the next start.
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(explain(&path))?;
        conn.close().map_err(|(_, error)| explain(&path)(error))
    }
}

/// Writes a batch. `append` writes its tasks and results, beside which there is more of some of them.
fn write_batch<'c>(
    change: &Transaction<'c>,
    batch: &Batch,
    beside: &Beside,
    append: impl FnOnce(&Transaction<'c>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    // First, so that tasks of the batch can have the keys.
    tasks::change(change, batch)?;
    append(change)?;
    beside.write_names(change)?;
    write_statuses(change, batch)?;
    write_groups(change, batch)?;
    write_drains(change, batch)?;
    runs::write(change, batch.runs.values())?;
    schedules::write(change, &batch.schedules)?;
    write_dialled(change, batch)?;
    write_clients(change, batch)?;
    grants::write(change, &batch.grants)?;
    beside.write_dead(change)?;
    write_meta(change, batch)
}

fn write_groups(change: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    for name in &batch.forgotten {
        let of_group = [
            "DELETE FROM groups WHERE name = ?",
            "DELETE FROM open_tasks WHERE \"group\" = ?",
            "DELETE FROM dead WHERE \"group\" = ?",
        ];
        for sql in of_group {
            change.prepare_cached(sql)?.execute([name.as_str()])?;
        }
    }
    let states: Vec<&GroupState> = batch.groups.values().collect();
    rows::insert(change, "REPLACE INTO groups", group_columns!(), &states, |to, state| rows::bind_group(to, state))?;
    let rows = batch.open.iter().flat_map(|(group, rows)| rows.iter().map(move |(id, task)| (group, *id, task)));
    let written: Vec<_> = rows.clone().filter_map(|(group, _, task)| Some((group, task.as_ref()?))).collect();
    rows::insert(change, "REPLACE INTO open_tasks", open_columns!(), &written, rows::bind_open)?;
    let mut remove = change.prepare_cached("DELETE FROM open_tasks WHERE \"group\" = ? AND task_id = ?")?;
    for (group, id, _) in rows.filter(|(_, _, task)| task.is_none()) {
        remove.execute(params![group.as_str(), int(id)])?;
    }
    Ok(())
}

/// Appends the statuses, and removes older ones of the same clients, and the oldest of all, as far as there are too many. Costs what is
/// appended and what is removed.
fn write_statuses(change: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    rows::insert(change, "INSERT INTO statuses", status_columns!(), &batch.statuses, rows::bind_status)?;
    let mut came: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in &batch.statuses {
        *came.entry(&entry.status.client).or_default() += 1;
    }
    let mut count = change.prepare_cached("SELECT count FROM status_counts WHERE client = ?")?;
    let mut remove = change.prepare_cached(
        "DELETE FROM statuses WHERE seq IN (SELECT seq FROM statuses WHERE client = ?1 ORDER BY seq LIMIT ?2)",
    )?;
    for (client, came) in came {
        let there = count.query_row([client], |row| row.get::<_, i64>(0))? as u64;
        let goes = there.saturating_sub(STATUSES_OF_A_CLIENT).min(came + STATUSES_AT_ONCE);
        if goes > 0 {
            remove.execute(params![client, int(goes)])?;
        }
    }
    if let Some(last) = batch.positions.status.checked_sub(STATUSES).filter(|_| !batch.statuses.is_empty()) {
        let goes = batch.statuses.len() as u64 + STATUSES_AT_ONCE;
        let mut remove = change.prepare_cached(
            "DELETE FROM statuses WHERE seq IN (SELECT seq FROM statuses WHERE seq <= ?1 ORDER BY seq LIMIT ?2)",
        )?;
        remove.execute(params![int(last), int(goes)])?;
    }
    Ok(())
}

fn write_drains(change: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    for (client, _) in batch.drains.iter().filter(|(_, drain)| drain.is_none()) {
        change.prepare_cached("DELETE FROM drains WHERE client = ?")?.execute([client.as_str()])?;
    }
    let drains: Vec<&Drain> = batch.drains.values().flatten().collect();
    rows::insert(change, "REPLACE INTO drains", drain_columns!(), &drains, |to, drain| rows::bind_drain(to, drain))
}

fn write_dialled(change: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    for (address, _) in batch.dialled.iter().filter(|(_, dialled)| dialled.is_none()) {
        change.prepare_cached("DELETE FROM dialled WHERE address = ?")?.execute([address.as_str()])?;
    }
    let dialled: Vec<&Dialled> = batch.dialled.values().flatten().collect();
    rows::insert(change, "REPLACE INTO dialled", dialled_columns!(), &dialled, |to, one| rows::bind_dialled(to, one))
}

fn write_clients(change: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    for (client, _) in batch.clients.iter().filter(|(_, known)| known.is_none()) {
        change.prepare_cached("DELETE FROM clients WHERE client = ?")?.execute([client.as_str()])?;
    }
    let clients: Vec<&KnownClient> = batch.clients.values().flatten().collect();
    rows::insert(change, "REPLACE INTO clients", client_columns!(), &clients, |to, known| rows::bind_client(to, known))
}

fn write_meta(change: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let Positions { task, result, status } = batch.positions;
    let values =
        [("last_task", Some(task)), ("last_result", Some(result)), ("last_status", Some(status)), ("mark", batch.mark)];
    let mut update = change.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?;
    for (name, value) in values {
        if let Some(value) = value {
            update.execute(params![name, int(value)])?;
        }
    }
    Ok(())
}

fn positions(conn: &Connection) -> rusqlite::Result<Positions> {
    let at = |name| meta(conn, name);
    Ok(Positions { task: at("last_task")?, result: at("last_result")?, status: at("last_status")? })
}

fn meta(conn: &Connection, name: &str) -> rusqlite::Result<u64> {
    conn.query_row("SELECT value FROM meta WHERE name = ?", [name], |row| row.get::<_, i64>(0))
        .map(|value| value as u64)
}

fn groups(conn: &Connection) -> rusqlite::Result<Vec<GroupState>> {
    let mut select = conn.prepare(concat!("SELECT ", group_columns!(), " FROM groups ORDER BY name"))?;
    select.query_map([], rows::group)?.collect()
}

fn dialled(conn: &Connection) -> rusqlite::Result<Vec<Dialled>> {
    let mut select = conn.prepare(concat!("SELECT ", dialled_columns!(), " FROM dialled ORDER BY address"))?;
    select.query_map([], rows::dialled)?.collect()
}

fn drains(conn: &Connection) -> rusqlite::Result<Vec<Drain>> {
    let mut select = conn.prepare(concat!("SELECT ", drain_columns!(), " FROM drains ORDER BY client"))?;
    select.query_map([], rows::drain)?.collect()
}

fn clients(conn: &Connection) -> rusqlite::Result<Vec<KnownClient>> {
    let mut select = conn.prepare(concat!("SELECT ", client_columns!(), " FROM clients ORDER BY client"))?;
    select.query_map([], rows::client)?.collect()
}

fn open_tasks(conn: &Connection) -> rusqlite::Result<BTreeMap<GroupName, Vec<OpenTask>>> {
    let mut select =
        conn.prepare(concat!("SELECT ", open_columns!(), " FROM open_tasks ORDER BY \"group\", task_id"))?;
    let mut rows = select.query([])?;
    let mut open: BTreeMap<GroupName, Vec<OpenTask>> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (group, task) = rows::open(row)?;
        match open.last_entry() {
            Some(mut last) if last.key().as_str() == group => last.get_mut().push(task),
            _ => drop(open.insert(rows::name(group)?, vec![task])),
        }
    }
    Ok(open)
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
