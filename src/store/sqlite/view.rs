//! The database as a view of a log: it knows up to where it has applied that, and from where on the log must be kept.

use std::fs::{self, File};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior};

use super::{
    Appended, BUSY_AT_START, Beside, Cut, Sqlite, connect, cut, explain, grants, int, meta, moving, private, runs,
    schedules, write_batch,
};
use crate::store::{Backend as _, Batch, Granted, Positions, Recovered, Removal, Removed, StoreError};
use crate::task::Time;

/// Every so many messages of the log, where they begin is noted, and up to which tasks, results and statuses those before them go.
pub(super) const NOTED: u64 = 100;

/// What was written, and is there only once it is committed.
pub(in crate::store) struct Written<'a> {
    change: Transaction<'a>,
    path: &'a Path,
}

impl Written<'_> {
    pub(in crate::store) fn commit(self) -> Result<(), StoreError> {
        self.change.commit().map_err(explain(self.path))
    }
}

/// The tables of what is kept beside tasks, results and statuses: see [`Sqlite::state`].
const STATE: [&str; 8] = ["groups", "open_tasks", "drains", "dialled", "clients", "runs", "schedules", "grants"];

/// Only views have this, so it is none of the migrations.
const PLACES: &str = "CREATE TABLE IF NOT EXISTS log_places (
    place  INTEGER PRIMARY KEY,  -- of a message in the log
    task   INTEGER NOT NULL,     -- the last one that stands before it
    result INTEGER NOT NULL,
    status INTEGER NOT NULL
) STRICT";

impl Sqlite {
    /// Opens the database in the folder `dir` as a view. A crash of the machine may take what was written last, with the place up to
    /// which the log was applied; it leaves the database whole.
    pub(in crate::store) fn open_view(dir: &std::path::Path) -> Result<Sqlite, StoreError> {
        Sqlite::open_as(dir, true)
    }

    /// A view that is written by a server of its own is one no more.
    pub(super) fn prepare_view(&self) -> Result<(), StoreError> {
        let prepare = || {
            if !self.is_view {
                let is_of_log = "SELECT count(*) FROM meta WHERE name = 'log_id'";
                if self.conn.query_row(is_of_log, [], |row| row.get::<_, i64>(0))? > 0 {
                    self.conn.execute("DELETE FROM meta WHERE name = 'log_id'", [])?;
                }
                return Ok(());
            }
            // Only when its own log is moved into the database the disk is waited for.
            self.conn.pragma_update(None, "synchronous", "NORMAL")?;
            self.conn.execute_batch(PLACES)
        };
        prepare().map_err(explain(&self.path))
    }

    /// Removes files of the database, by what stands behind its name.
    fn remove_files(&self, suffixes: &[&str]) -> Result<(), StoreError> {
        for suffix in suffixes {
            let path = self.path.with_file_name(format!("contact.db{suffix}"));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::unwritable(&path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes all that is there.
    pub(in crate::store) fn clear(&mut self) -> Result<(), StoreError> {
        self.disconnect()?;
        self.remove_files(&["", "-wal", "-shm"])?;
        let _ = private().create_new(true).open(&self.path);
        self.conn = connect(&self.path, OpenFlags::SQLITE_OPEN_CREATE, BUSY_AT_START)?;
        self.prepare_view()
    }

    /// The file in which a database is gathered that is to take the place of this one.
    pub(in crate::store) fn incoming(&self) -> PathBuf {
        self.path.with_file_name("contact.db.incoming")
    }

    /// Puts the database in that file in the place of this one. It stands at these places of the log of that number.
    pub(in crate::store) fn become_file(
        &mut self,
        file: &Path,
        id: u64,
        at: RangeInclusive<u64>,
    ) -> Result<(), StoreError> {
        let path: Arc<Path> = file.into();
        let mut conn = connect(&path, OpenFlags::empty(), BUSY_AT_START)?;
        moving::move_rows(&mut conn, &path)?;
        let mut mark = || {
            conn.execute_batch(PLACES)?;
            let change = conn.transaction()?;
            change.execute("DELETE FROM log_places", [])?;
            // Before it nothing is needed, and it is needed as long as something of it is kept.
            change.execute("INSERT INTO log_places VALUES (?, 0, 0, 0)", [int(*at.start())])?;
            change.execute("REPLACE INTO meta (name, value) VALUES ('log_id', ?)", [id as i64])?;
            write_place(&change, *at.end())?;
            change.commit()?;
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        };
        mark().map_err(explain(&path))?;
        // Nothing lies beside the file then, and all of it is on the disk before it has its name.
        drop(conn);
        let synced = File::open(file).and_then(|file| file.sync_all());
        synced.map_err(|error| StoreError::unwritable(file, error))?;
        self.disconnect()?;
        self.remove_files(&["-wal", "-shm"])?;
        fs::rename(file, &self.path).map_err(|error| StoreError::unwritable(&self.path, error))?;
        self.conn = connect(&self.path, OpenFlags::empty(), BUSY_AT_START)?;
        self.prepare_view()
    }

    /// Notes where messages begin more often, or less.
    pub(in crate::store) fn note_every(&mut self, messages: u64) {
        self.noted = messages;
    }

    /// Up to where the log was applied.
    pub(in crate::store) fn log_place(&self) -> Result<u64, StoreError> {
        log_place(&self.conn).map_err(explain(&self.path))
    }

    /// Whether this is a view of the log of that number. One that is empty becomes that.
    pub(in crate::store) fn is_of_log(&mut self, id: u64) -> Result<bool, StoreError> {
        // The sign of a number means nothing here.
        let id = id as i64;
        let known = "SELECT value FROM meta WHERE name = 'log_id'";
        let known = self.conn.query_row(known, [], |row| row.get::<_, i64>(0)).optional();
        if let Some(known) = known.map_err(explain(&self.path))? {
            return Ok(known == id);
        }
        // A server that was alone keeps more than tasks: a group that came, a schedule.
        let has_rows = STATE.map(|table| format!("EXISTS (SELECT 1 FROM {table})")).join(" OR ");
        let keeps_state = self.conn.query_row(&format!("SELECT {has_rows}"), [], |row| row.get::<_, bool>(0));
        if keeps_state.map_err(explain(&self.path))? || self.positions()? != Positions::default() {
            return Ok(false);
        }
        self.write(|change| change.execute("INSERT INTO meta (name, value) VALUES ('log_id', ?)", [id]).map(drop))?;
        Ok(true)
    }

    /// Notes that a message of the log was applied that changes nothing.
    pub(in crate::store) fn pass(&mut self, place: u64) -> Result<(), StoreError> {
        self.write(|change| write_place(change, place))
    }

    /// [`commit`](crate::store::Backend::commit), of what stands at this place of the log.
    pub(in crate::store) fn commit_at(
        &mut self,
        batch: &Batch,
        appended: &Appended,
        place: u64,
    ) -> Result<(), StoreError> {
        self.write_at(batch, appended, place)?.commit()
    }

    /// The same up to the commit, of what is to stand there.
    pub(in crate::store) fn write_at(
        &mut self,
        batch: &Batch,
        appended: &Appended,
        place: u64,
    ) -> Result<Written<'_>, StoreError> {
        let write = |change: &Transaction<'_>| {
            note_place(change, self.noted)?;
            write_batch(change, batch, &appended.beside, |change| appended.write(change))?;
            write_place(change, place)
        };
        let explain = explain(&self.path);
        let change = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&explain)?;
        write(&change).map_err(explain)?;
        Ok(Written { change, path: &self.path })
    }

    /// [`remove`](crate::store::Backend::remove), of what stands at this place of the log.
    pub(in crate::store) fn remove_at(&mut self, removal: &Removal, place: u64) -> Result<Removed, StoreError> {
        self.remove_and(removal, |change| write_place(change, place))
    }

    /// Adds to the database in that file what is granted to others than it says. Nothing lies beside the file then.
    pub(in crate::store) fn add_grants(file: &Path, granted: Granted) -> Result<(), StoreError> {
        let path: Arc<Path> = file.into();
        let mut conn = connect(&path, OpenFlags::empty(), BUSY_AT_START)?;
        let add = move || {
            let there = grants::all(&conn)?;
            let others = granted.into_iter().filter(|(to, _)| !there.contains_key(to));
            let change = conn.transaction()?;
            grants::write(&change, &others.map(|(to, text)| (to, Some(text))).collect())?;
            change.commit()?;
            conn.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))
        };
        add().map_err(explain(&path))
    }

    /// What is granted, and to whom.
    pub(in crate::store) fn granted(&self) -> Result<Granted, StoreError> {
        grants::all(&self.conn).map_err(explain(&self.path))
    }

    /// All that is kept beside tasks, results and statuses, and how far these go.
    pub(in crate::store) fn state(&mut self) -> Result<Batch, StoreError> {
        let Recovered { positions, groups, open, drains, dialled, clients, grants, replay: _, lanes: _, newest: _ } =
            self.recover()?;
        let runs = runs::all(&self.conn).map_err(explain(&self.path))?;
        let schedules = schedules::all(&self.conn).map_err(explain(&self.path))?;
        let mark = meta(&self.conn, "mark").map_err(explain(&self.path))?;
        let rows = |tasks: Vec<crate::store::OpenTask>| tasks.into_iter().map(|task| (task.id, Some(task))).collect();
        Ok(Batch {
            positions,
            mark: Some(mark),
            groups: groups.into_iter().map(|group| (group.name.clone(), group)).collect(),
            open: open.into_iter().map(|(group, tasks)| (group, rows(tasks))).collect(),
            drains: drains.into_iter().map(|drain| (drain.client.clone(), Some(drain))).collect(),
            dialled: dialled.into_iter().map(|one| (one.address.clone(), Some(one))).collect(),
            clients: clients.into_iter().map(|known| (known.client.clone(), Some(known))).collect(),
            runs: runs.into_iter().map(|run| (run.number, run)).collect(),
            schedules: schedules.into_iter().map(|(name, schedule)| (name, Some(schedule))).collect(),
            grants: grants.into_iter().map(|(to, text)| (to, Some(text))).collect(),
            ..Batch::default()
        })
    }

    /// Puts what [`state`](Sqlite::state) said in the place of what there is, and what was said of the log before a cut.
    pub(in crate::store) fn replace_state_at(
        &mut self,
        state: &Batch,
        cut: Option<&Cut>,
        place: u64,
    ) -> Result<(), StoreError> {
        self.write(|change| {
            for table in STATE {
                change.execute(&format!("DELETE FROM {table}"), [])?;
            }
            write_batch(change, state, &Beside::default(), |_| Ok(()))?;
            cut.map_or(Ok(()), |cut| cut.write(change))?;
            write_place(change, place)
        })
    }

    /// Where the log can be cut, if so many messages of it go then. What did not come from `old` to `now` does not keep it, unless it is
    /// much.
    pub(in crate::store) fn cut(&self, old: Time, now: Time, messages: u64) -> Result<Option<Cut>, StoreError> {
        cut::find(&self.conn, old, now, messages).map_err(explain(&self.path))
    }
}

fn log_place(conn: &Connection) -> rusqlite::Result<u64> {
    let place = conn.prepare_cached("SELECT value FROM meta WHERE name = 'log'")?.query_row([], |row| row.get(0));
    Ok(place.optional()?.unwrap_or(0_i64) as u64)
}

fn write_place(change: &Transaction<'_>, place: u64) -> rusqlite::Result<()> {
    change.prepare_cached("REPLACE INTO meta (name, value) VALUES ('log', ?)")?.execute([int(place)]).map(drop)
}

/// Notes where the record begins that is applied now, if it is time for that.
fn note_place(change: &Transaction<'_>, noted: u64) -> rusqlite::Result<()> {
    let next = log_place(change)? + 1;
    let last = change
        .prepare_cached("SELECT coalesce(max(place), 0) FROM log_places")?
        .query_row([], |row| row.get::<_, i64>(0))?;
    if next < last as u64 + noted && last > 0 {
        return Ok(());
    }
    let mut note = change.prepare_cached(
        "REPLACE INTO log_places (place, task, result, status) SELECT ?,
            (SELECT value FROM meta WHERE name = 'last_task'),
            (SELECT value FROM meta WHERE name = 'last_result'),
            (SELECT value FROM meta WHERE name = 'last_status')",
    )?;
    note.execute([int(next)]).map(drop)
}
