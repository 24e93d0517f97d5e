//! A store that several servers keep: what is true is a [`Log`] that they share, and each has a database that is a view of it.
//!
//! ```text
//!            the server that leads                                  one that follows
//!  store-writer ──▶ Replicated::commit                          Standby::follow
//!                     │ 1. Term::append      ┌─────────────┐      │
//!                     ├─────────────────────▶│     Log     ├─────▶│ Record::read
//!                     │                      └─────────────┘      ▼
//!                     └ 2. apply ──▶ view (Sqlite)              apply ──▶ view (Sqlite)
//! ```
//!
//! - What one transaction writes is one record. It is applied to the view in one transaction, with its place in the log, and only after
//!   the log has it. So all views are the same at the same place, and none is ahead of the log.
//! - Leading is a [`Term`]: it begins with a record behind all that one has applied, and ends with a record of anybody else. Whoever is not
//!   the last to have begun a term cannot append anything, whatever its clock says.
//! - A message of which nobody says whether it landed is sent again, with the same expectation. What stands in its place decides.
//! - A record that is too long for one message goes in parts. It counts with the last one, and anything between them voids it.
//! - From time to time the one who leads writes all that is kept beside tasks, results and statuses again, with those tasks that are old and
//!   still kept, and cuts the log before the oldest of the others. Whoever had not read as far makes its view anew from what is left.

mod convert;
mod import;
mod incoming;
#[cfg(feature = "cluster")]
mod jetstream;
mod log;
mod memory_log;
#[cfg(feature = "cluster")]
mod nats;
#[cfg(feature = "cluster")]
mod peers;
mod record;
mod sight;
mod standby;
#[cfg(feature = "cluster")]
mod stream;
mod term;
#[cfg(feature = "cluster")]
mod urls;
#[cfg(feature = "cluster")]
mod watch;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

#[cfg(feature = "cluster")]
pub(crate) use self::convert::{
    lane_name as read_record_lane, priority_number as record_priority, read_priority as read_record_priority,
    read_task as read_record_task, task as record_task,
};
pub use self::import::{ImportError, Imported, import};
#[cfg(feature = "cluster")]
pub use self::jetstream::{ClusterName, JetStream, JetStreamConfig, JetStreamError};
pub use self::log::{Log, LogError, Messages};
pub use self::memory_log::{Fault, Faults, MemoryLog};
#[cfg(feature = "cluster")]
pub use self::nats::{Beats, Heard};
pub use self::record::{FilePart, Kind, LONGEST_MESSAGE, Part, Record, RecordError, VERSION};
pub use self::sight::{ClusterView, LogSeen, Look, ReplicaSeen, Saying, ServerSeen};
pub use self::standby::{FollowError, News, NotLeading, Standby};
pub use self::term::Lease;
use self::term::{Settled, Term, TermError};
#[cfg(feature = "cluster")]
pub use self::urls::NatsUrls;
use super::{
    Backend, Batch, Keyed, MakeBackup, OpenReader, Positions, Recovered, Removal, Removed, Slot, Space, Sqlite,
    StoreError,
};
use crate::task::{GroupName, Outcome, Task, TaskId};

/// So many messages can be cut off the log before that is done: the state that is written for it is a record of its own.
const PURGE_EVERY: u64 = 10_000;

/// How often this process began to lead.
static TAKEOVERS: AtomicU64 = AtomicU64::new(0);

#[cfg(feature = "cluster")]
fn takeovers() -> u64 {
    TAKEOVERS.load(SeqCst)
}

/// The store of the server that leads.
pub struct Replicated<L> {
    log: L,
    view: Sqlite,
    term: Term,
    epoch: u64,
    pending: Option<Pending>,
    purge_every: u64,
}

/// A record that was sent, and is not applied.
struct Pending {
    kind: Kind,
    /// Where it stands. `None`: nobody said whether it does.
    place: Option<u64>,
}

/// Applies a record to a view.
fn apply(view: &mut Sqlite, place: u64, kind: &Kind) -> Result<Option<Removed>, StoreError> {
    match kind {
        Kind::Batch(batch, appended) => view.commit_at(batch, appended, place)?,
        Kind::State(state, cut) => view.replace_state_at(state, cut.as_ref(), place)?,
        Kind::Removal(removal) => return view.remove_at(removal, place).map(Some),
        Kind::Lead(_) | Kind::Resign | Kind::Nothing | Kind::Part(_) | Kind::File(_) => view.pass(place)?,
    }
    Ok(None)
}

impl From<TermError> for StoreError {
    fn from(error: TermError) -> StoreError {
        let why = error.to_string().into();
        match error {
            TermError::Over(_) => StoreError::Fenced { why },
            TermError::Unknown(_) | TermError::Unwritable(_) => StoreError::NoLog { why },
        }
    }
}

impl<L: Log> Replicated<L> {
    /// Leads in a term whose first record is this one.
    fn new(log: L, view: Sqlite, term: Term, first: Kind) -> Replicated<L> {
        TAKEOVERS.fetch_add(1, SeqCst);
        let epoch = term.last();
        let pending = Some(Pending { kind: first, place: Some(epoch) });
        Replicated { log, view, term, epoch, pending, purge_every: PURGE_EVERY }
    }

    /// Cuts the log as soon as so many messages of it are not needed. At least 1.
    #[must_use]
    pub fn with_purge_every(self, messages: u64) -> Replicated<L> {
        Replicated { purge_every: messages, ..self }
    }

    /// The place of the record with which the term began.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The place in the log up to which it was applied.
    pub fn place(&self) -> Result<u64, StoreError> {
        self.view.log_place()
    }

    /// Appends a record and applies it. One that stands in the log already, because the view was locked when it came, is applied.
    fn write(&mut self, kind: Kind) -> Result<Option<Removed>, StoreError> {
        if let Some(pending) = &self.pending {
            let is_this = pending.kind == kind;
            let removed = self.apply_pending()?;
            if is_this {
                return Ok(removed);
            }
        }
        let (place, doubt) = match self.term.append(&mut self.log, &kind) {
            Ok(place) => (Some(place), None),
            Err(error @ TermError::Unknown(_)) => (None, Some(error)),
            Err(error) => return Err(error.into()),
        };
        self.pending = Some(Pending { kind, place });
        doubt.map_or_else(|| self.apply_pending(), |error| Err(error.into()))
    }

    fn apply_pending(&mut self) -> Result<Option<Removed>, StoreError> {
        let Some(Pending { kind, place }) = &self.pending else { return Ok(None) };
        let unknown = || StoreError::NoLog { why: "nobody said what became of a record".into() };
        let removed = apply(&mut self.view, place.ok_or_else(unknown)?, kind)?;
        self.pending = None;
        Ok(removed)
    }

    /// Cuts off what is not needed, if that is much. What is kept though it is old, as a removal sees it, is said again.
    fn purge(&mut self, removal: &Removal) -> Result<(), StoreError> {
        let Some(cut) = self.view.cut(removal.before, removal.now, self.purge_every)? else { return Ok(()) };
        let (state, place) = (self.view.state()?, cut.place);
        self.write(Kind::State(state, Some(cut)))?;
        if let Err(error) = self.log.purge(place) {
            ::log::warn!("the log of the cluster is not cut before message {place}: {error}");
        }
        Ok(())
    }
}

impl<L: Log> Backend for Replicated<L> {
    fn recover(&mut self) -> Result<Recovered, StoreError> {
        self.apply_pending()?;
        self.view.recover()
    }

    fn find_key(&mut self, key: &str) -> Result<Option<Keyed>, StoreError> {
        self.view.find_key(key)
    }

    fn newest_of(&mut self, slot: &Slot) -> Result<Option<Task>, StoreError> {
        self.view.newest_of(slot)
    }

    fn has_task(&mut self, task: TaskId) -> Result<bool, StoreError> {
        self.view.has_task(task)
    }

    fn last_outcome(&mut self, group: &GroupName, task: TaskId) -> Result<Option<Outcome>, StoreError> {
        self.view.last_outcome(group, task)
    }

    /// The view takes it up while it is on its way into the log, and has it when that has it.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let appended = self.view.appended(batch)?;
        let kind = |appended| {
            // What is appended of it is not written from here.
            let (tasks, results) = (Vec::new(), Vec::new());
            Kind::Batch(Batch { tasks, results, ..batch.clone() }, appended)
        };
        if self.pending.is_some() {
            return self.write(kind(appended)).map(drop);
        }
        let begun = self.term.begin_batch(&mut self.log, batch, &appended)?;
        let written = self.view.write_at(batch, &appended, begun.place());
        // A view that cannot be written keeps nothing out of the log.
        let (place, error) = match self.term.finish(&mut self.log, begun) {
            Ok(place) => match written.and_then(|written| written.commit()) {
                Ok(()) => return Ok(()),
                Err(error) => (Some(place), error),
            },
            Err(error @ TermError::Unknown(_)) => (None, error.into()),
            Err(error) => return Err(error.into()),
        };
        self.pending = Some(Pending { kind: kind(appended), place });
        Err(error)
    }

    fn reopen(&mut self) -> Result<Positions, StoreError> {
        self.view.reopen()?;
        self.pending = match (self.term.settle(&mut self.log)?, self.pending.take()) {
            (Settled::NoDoubt, pending) => pending,
            (Settled::Stands(place), pending) => pending.map(|pending| Pending { place: Some(place), ..pending }),
            (Settled::Instead(place), _) => Some(Pending { kind: Kind::Nothing, place: Some(place) }),
            (Settled::Void, _) => None,
        };
        self.apply_pending()?;
        self.view.positions()
    }

    fn remove(&mut self, removal: &Removal) -> Result<Removed, StoreError> {
        let removed = self.write(Kind::Removal(removal.clone()))?.unwrap_or_default();
        // So a round of removing ends: what else it finds to remove would be said again.
        if removed.is_nothing() {
            self.purge(removal)?;
        }
        Ok(removed)
    }

    fn lease(&self) -> Option<Lease> {
        Some(self.term.lease())
    }

    fn look(&self) -> Option<Look> {
        self.log.look()
    }

    fn prove(&mut self) -> Result<(), StoreError> {
        if self.term.lease().is_valid() { Ok(()) } else { self.write(Kind::Nothing).map(drop) }
    }

    fn space(&self) -> Option<(PathBuf, Space)> {
        self.view.space()
    }

    fn set_aside(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.view.set_aside(bytes)
    }

    fn reader(&self) -> OpenReader {
        self.view.reader()
    }

    fn backup(&self) -> Option<MakeBackup> {
        self.view.backup()
    }

    /// Others may lead at once, also when this view cannot be written: what stands in the log is theirs, too.
    fn close(mut self: Box<Self>) -> Result<(), StoreError> {
        if self.pending.as_ref().is_none_or(|pending| pending.place.is_some()) {
            self.term.hurry();
            let applied = self.apply_pending();
            match self.term.append(&mut self.log, &Kind::Resign) {
                Ok(place) => drop(applied.and_then(|_| self.view.pass(place))),
                Err(error) => ::log::info!("the term ends without a word: {error}"),
            }
        }
        Box::new(self.view).close()
    }
}
