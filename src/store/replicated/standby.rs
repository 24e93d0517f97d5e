//! A server that follows the log, and is ready to lead.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::incoming::Incoming;
use super::log::{Log, LogError, Messages};
use super::record::{FilePart, Gathering, Kind, Record, RecordError};
use super::term::{PATIENCE, Term};
use super::{Replicated, apply};
use crate::store::{Granted, Sqlite, StoreError};

/// Applies the log to a view of its own.
pub struct Standby<L> {
    log: L,
    view: Sqlite,
    gathering: Gathering,
    /// A database that the log begins with.
    import: Import,
    /// The last message that was read.
    read: u64,
    /// Where the term began that is followed; 0: that was not read since this was opened.
    epoch: u64,
    patience: Duration,
    /// See [`Standby::newly_granted`].
    grants: bool,
}

/// How far a database is that the log begins with. Nobody leads before all of it is there.
enum Import {
    /// There is none, or all of it is there.
    None,
    /// So many of its parts came.
    Comes(Box<Incoming>),
    /// It began, and is to begin again.
    Void,
}

impl Import {
    fn has_begun(&self) -> bool {
        !matches!(self, Import::None)
    }
}

/// What was in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct News {
    /// How many messages were read. 0: none came.
    pub messages: usize,
    /// The last of them says that its writer leads no more: somebody else may, at once.
    pub resigned: bool,
    /// The view was made anew from what is left of a log that was cut: what it knew is not in it before all of that is read.
    pub anew: bool,
}

/// Why the log is not followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// It does not answer. It may be tried again.
    #[error("the log cannot be read: {0}")]
    Log(#[from] LogError),
    /// What stands in it is not understood.
    #[error("message {place} of the log: {why}")]
    Record {
        /// Its place.
        place: u64,
        /// What is wrong with it.
        #[source]
        why: RecordError,
    },
    /// The view is one of another log.
    #[error(
        "the data in {} is of another log: the stream was made anew, or --nats, --cluster or --data is wrong, or it is \
         of a server that was alone (--import begins a cluster with it); what is there may be all that is left, so move it away before \
         anything else",
        path.display()
    )]
    OtherLog {
        /// The folder of the view.
        path: PathBuf,
    },
    /// The view cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FollowError {
    /// Whether it may pass by itself.
    pub fn may_pass(&self) -> bool {
        match self {
            FollowError::Log(_) => true,
            FollowError::Store(error) => error.may_pass(),
            FollowError::Record { .. } | FollowError::OtherLog { .. } => false,
        }
    }
}

/// Why a standby does not lead now.
pub struct NotLeading<L> {
    /// It goes on following.
    pub standby: Standby<L>,
    /// What was said, for people.
    pub why: String,
}

impl<L> fmt::Debug for NotLeading<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl<L: Log> Standby<L> {
    /// Follows `log`. The view is in the folder `dir`, and goes on where it was.
    pub fn open(mut log: L, dir: &Path) -> Result<Standby<L>, FollowError> {
        let id = log.id()?;
        let mut view = Sqlite::open_view(dir)?;
        if !view.is_of_log(id)? {
            return Err(FollowError::OtherLog { path: dir.into() });
        }
        let read = view.log_place()?;
        Ok(Standby {
            log,
            view,
            gathering: Gathering::default(),
            import: Import::None,
            read,
            epoch: 0,
            patience: PATIENCE,
            grants: true,
        })
    }

    /// The last message that was read. When it leads, its first record stands behind that.
    pub fn place(&self) -> u64 {
        self.read
    }

    /// Where the term began that it follows; 0: it has not read that since it was opened.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How long a record is sent again and again while it leads, until the store says that it takes nothing.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Standby<L> {
        Standby { patience, ..self }
    }

    /// The log can be cut at each so many messages of those that are applied from now on. At least 1.
    #[must_use]
    pub fn with_cuts_every(mut self, messages: u64) -> Standby<L> {
        self.view.note_every(messages);
        self
    }

    /// What is granted to whom, as far as the log was read, if that may be something else than what this said last.
    pub fn newly_granted(&mut self) -> Result<Option<Granted>, StoreError> {
        if !self.grants {
            return Ok(None);
        }
        let granted = self.view.granted()?;
        self.grants = false;
        Ok(Some(granted))
    }

    /// Reads what came, waiting up to `wait` for it, and applies it.
    pub fn follow(&mut self, wait: Duration) -> Result<News, FollowError> {
        let messages = self.log.read(self.read, wait)?;
        let applied = self.apply(messages);
        if applied.is_err() {
            // What was gathered of a record in parts is gone: it is read again from its first.
            (self.gathering, self.import) = (Gathering::default(), Import::None);
            self.read = self.view.log_place()?;
        }
        applied
    }

    fn apply(&mut self, messages: Messages) -> Result<News, FollowError> {
        let mut news = News::default();
        for (place, message) in messages {
            if place <= self.read {
                continue;
            }
            if place > self.read + 1 {
                self.begin_anew(place)?;
                (news.anew, self.grants) = (true, true);
            }
            let why = |why| FollowError::Record { place, why };
            let record = Record::read(&message).map_err(why)?;
            news.resigned = record.kind == Kind::Resign;
            if let Kind::Lead(_) = record.kind {
                self.epoch = place;
            }
            // Nothing is passed over of a record that has begun: whoever opens the view again must read its first part.
            let term = record.term;
            match self.gathering.take(record).map_err(why)? {
                Some(Kind::File(part)) => {
                    self.take_part(term, place, &part)?;
                    self.grants |= part.is_last();
                }
                // What came of the import is void. That it began is not.
                Some(Kind::Lead(_) | Kind::Resign | Kind::Nothing) if self.import.has_begun() => {
                    self.import = Import::Void
                }
                Some(kind) => {
                    apply(&mut self.view, place, &kind)?;
                    self.grants |= kind.changes_grants();
                }
                None if self.gathering.has_begun() => {}
                None => self.view.pass(place)?,
            }
            self.read = place;
            news.messages += 1;
        }
        Ok(news)
    }

    /// The log was cut behind what was read: all that is kept stands in what is left of it.
    fn begin_anew(&mut self, first: u64) -> Result<(), FollowError> {
        if self.read > 0 {
            log::warn!(
                "the log begins at message {first}, and this server had read up to {}: it makes its view anew",
                self.read
            );
            self.view.clear()?;
            self.view.is_of_log(self.log.id()?)?;
        }
        (self.gathering, self.import) = (Gathering::default(), Import::None);
        Ok(())
    }

    /// Takes a part of a database. The view stays where it was until all parts are there, so that whoever opens it again begins with the
    /// first of them.
    fn take_part(&mut self, term: u64, place: u64, part: &FilePart) -> Result<(), FollowError> {
        let incoming = match std::mem::replace(&mut self.import, Import::Void) {
            _ if part.offset == 0 => Incoming::begin(term, place, self.view.incoming())?,
            Import::Comes(incoming) => *incoming,
            Import::Void | Import::None => return Ok(()),
        };
        match incoming.take(term, part)? {
            Some(all) if part.is_last() => {
                self.view.become_file(all.path(), self.log.id()?, all.first()..=place)?;
                self.import = Import::None;
            }
            Some(some) => self.import = Import::Comes(some.into()),
            None => {}
        }
        Ok(())
    }

    /// Leads, if nobody wrote behind what was read. `server` says to people who it is.
    pub fn lead(mut self, server: &str) -> Result<Replicated<L>, Box<NotLeading<L>>> {
        if self.import.has_begun() {
            let why = "a store is being imported into this cluster, and not all of it is there: if that was interrupted, run \
                       contact-server --import again";
            return Err(Box::new(NotLeading { standby: self, why: why.into() }));
        }
        let mut term = Term::behind(self.read, self.patience);
        let first = Kind::Lead(server.into());
        match term.append(&mut self.log, &first) {
            Ok(_) => Ok(Replicated::new(self.log, self.view, term, first)),
            Err(why) => Err(Box::new(NotLeading { standby: self, why: why.to_string() })),
        }
    }
}
