//! Clients that are drained: they are given no more tasks, and finish what they have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::group::Group;
use super::session::{ClientInfo, Join, Note, SessionId};
use super::timers::Timer;
use super::{Action, Core};
use crate::now::{Now, Steady};
use crate::store::{Drain, Newest};
use crate::task::{ClientId, Name, NameOf, Time};

/// Most clients with an id that are drained at the same time. With their notes they take less than a megabyte.
pub const MOST_DRAINS: usize = 1000;
/// The longest note, in bytes: a line of a terminal, or two.
pub const LONGEST_NOTE: usize = 256;

/// Why a client is given no more tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draining {
    /// Since when.
    pub since: Time,
    /// Until when at most.
    pub until: Option<Time>,
    /// What the operator said about it.
    pub note: Arc<str>,
    /// The client wants it so itself: it is about to stop.
    pub stopping: bool,
    /// `until`, on the clock that does not step.
    ends: Option<Steady>,
}

/// Who was meant by a name, and is drained now, or is not any more.
#[derive(Debug, Clone)]
pub struct Drained {
    /// Its streams. None: it is not connected now.
    pub clients: Vec<ClientInfo>,
    /// Whether anything changed.
    pub changed: bool,
    /// A client that had been drained and was not connected: it is drained no more, for there were [`MOST_DRAINS`].
    pub forgotten: Option<ClientId>,
}

/// Why a client was not drained, or is still.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// Nobody of that name is there.
    #[error("there is no client {0}: none of that id or address is connected, or was in the last ten minutes")]
    Unknown(String),
    /// The note is longer than [`LONGEST_NOTE`].
    #[error("the note is {0} bytes; at most {LONGEST_NOTE} are kept: make it shorter")]
    Note(usize),
    /// There are too many.
    #[error(
        "{MOST_DRAINS} clients that are connected are drained already, which is as many as may be: undrain others first"
    )]
    TooMany,
}

/// Whom a name means.
enum Meant {
    /// The client with this id, whether it is connected or not.
    Client(ClientId),
    /// These streams, of clients without an id.
    Streams(Vec<SessionId>),
}

impl Core {
    /// Gives a client no more tasks, for that long, or until [`Core::undrain`]; what it has it finishes. Drained again, it has the new
    /// end and the new note.
    ///
    /// `who` is its id, whether or not it is connected now: it is drained when it comes back, also after a restart. Or it is an
    /// address: all streams from there are drained, of clients without an id for as long as these streams last.
    pub fn drain(&mut self, who: &str, lasts: Option<Duration>, note: &str, now: Now) -> Result<Drained, DrainError> {
        if note.len() > LONGEST_NOTE {
            return Err(DrainError::Note(note.len()));
        }
        let meant = self.meant(who, now)?;
        let (since, until) = (now.wall, lasts.map(|lasts| now.wall.after(lasts)));
        let ends = lasts.map(|lasts| now.steady.after(lasts));
        let draining = Draining { ends, ..Draining::new(since, until, note.into()) };
        if let Some(ends) = ends {
            self.timers.set(ends, Timer::Drains);
        }
        let (sessions, forgotten) = match meant {
            Meant::Client(client) => {
                let forgotten = self.make_room(&client)?;
                let drain = Drain { client: client.clone(), since, until, note: note.to_owned() };
                self.drains.insert(client.clone(), (drain.clone(), ends));
                self.actions.push(Action::Drain(client.clone(), Some(drain)));
                (Vec::from_iter(self.clients.get(&client).copied()), forgotten)
            }
            Meant::Streams(sessions) => (sessions, None),
        };
        sessions.iter().for_each(|id| self.set_draining(*id, Some(draining.clone())));
        Ok(Drained { clients: self.infos(&sessions), changed: true, forgotten })
    }

    /// Gives tasks again to a client that was drained. One that is about to stop gets none all the same.
    pub fn undrain(&mut self, who: &str, now: Now) -> Result<Drained, DrainError> {
        let (sessions, changed) = match self.meant(who, now)? {
            Meant::Client(client) => {
                let sessions = Vec::from_iter(self.clients.get(&client).copied());
                (sessions, self.end_drain(&client, now))
            }
            Meant::Streams(sessions) => {
                let drained = |id: &&SessionId| self.sessions.get(id).is_some_and(|session| session.is_drained());
                let drained: Vec<SessionId> = sessions.iter().filter(drained).copied().collect();
                drained.iter().for_each(|id| self.take_up_again(*id, now));
                (sessions, !drained.is_empty())
            }
        };
        Ok(Drained { clients: self.infos(&sessions), changed, forgotten: None })
    }

    /// The clients with an id that are drained and not connected, by name.
    pub fn drained_away(&self) -> impl Iterator<Item = &Drain> {
        self.drains.values().map(|(drain, _)| drain).filter(|drain| !self.is_connected(&drain.client))
    }

    /// Whether an operator has drained a client.
    pub(super) fn has_drained(&self, client: &ClientId) -> bool {
        self.drains.contains_key(client)
    }

    /// Takes over what a store knows of drained clients. The end is stored as a time of day, by the clock of then: if that was set
    /// back since, the newest moment that was written down is what it showed.
    pub(super) fn recover_drains(&mut self, drains: Vec<Drain>, newest: Newest, now: Now) {
        let stored = Now { wall: now.wall.max(newest.task).max(newest.result), ..now };
        for drain in drains {
            let ends = drain.until.map(|until| stored.steady_at(until));
            if let Some(ends) = ends {
                self.timers.set(ends, Timer::Drains);
            }
            self.drains.insert(drain.client.clone(), (drain, ends));
        }
    }

    /// Why a client that comes is given no tasks, if it is so. `stream`: its stream was drained under another server.
    pub(super) fn draining_of(&mut self, join: &Join, stream: Option<Draining>, now: Now) -> Option<Draining> {
        let ends = stream.as_ref().and_then(|draining| draining.until).map(|until| now.steady_at(until));
        if let Some(ends) = ends {
            self.timers.set(ends, Timer::Drains);
        }
        let drain = join.client.as_ref().and_then(|client| self.drains.get(client));
        let draining = drain.map(|(drain, ends)| Draining { ends: *ends, ..Draining::from(drain) });
        let draining = draining.or_else(|| Some(Draining { ends, ..stream? }));
        draining.or_else(|| join.stopping.then(|| Draining::stopping(now.wall)))
    }

    /// Those whose time is over get tasks again.
    pub(super) fn drains_are_due(&mut self, now: Now) {
        let over = |ends: Option<Steady>| ends.is_some_and(|ends| ends <= now.steady);
        let clients = self.drains.iter().filter(|(_, (_, ends))| over(*ends)).map(|(client, _)| client.clone());
        for client in clients.collect::<Vec<_>>() {
            self.end_drain(&client, now);
        }
        let of_stream = |id: &SessionId| self.sessions[id].draining.as_ref().is_some_and(|it| over(it.ends));
        for id in self.sessions.keys().copied().filter(of_stream).collect::<BTreeSet<_>>() {
            self.take_up_again(id, now);
        }
    }

    /// Since when all clients of a group are drained. `None`: there is one that is not, or none at all.
    pub(super) fn all_draining_since(&self, group: &Group) -> Option<Time> {
        // Mostly there is one that can take a task, and nobody else need be asked.
        if !group.available.is_empty() {
            return None;
        }
        let mut since = None;
        for id in &group.sessions {
            since = since.max(Some(self.sessions.get(id)?.draining.as_ref()?.since));
        }
        since
    }

    fn meant(&self, who: &str, now: Now) -> Result<Meant, DrainError> {
        let client = Name::new(NameOf::Group, who).ok().filter(|client| {
            self.clients.contains_key(client) || self.drains.contains_key(client) || self.was_here(client, now)
        });
        if let Some(client) = client {
            return Ok(Meant::Client(client));
        }
        // Also without the kind of address that gRPC puts before it.
        let is_at = |peer: &str| peer == who || peer.split_once(':').is_some_and(|(_, address)| address == who);
        let mut at_address: Vec<_> = self.sessions.iter().filter(|(_, session)| is_at(&session.join.peer)).collect();
        at_address.sort_unstable_by_key(|(id, _)| **id);
        match &at_address[..] {
            [] => Err(DrainError::Unknown(who.to_owned())),
            // The address of one client with an id means that client, for good.
            [(_, session)] if session.join.client.is_some() => {
                session.join.client.clone().map(Meant::Client).ok_or_else(|| DrainError::Unknown(who.to_owned()))
            }
            streams => Ok(Meant::Streams(streams.iter().map(|(id, _)| **id).collect())),
        }
    }

    /// Makes room for one client more. Says who was forgotten for that: of those that are not connected, the one that was drained
    /// longest ago. Names that are made up anew with each start would fill the list otherwise.
    fn make_room(&mut self, client: &ClientId) -> Result<Option<ClientId>, DrainError> {
        if self.drains.len() < MOST_DRAINS || self.drains.contains_key(client) {
            return Ok(None);
        }
        let oldest = self.drained_away().min_by_key(|drain| drain.since).map(|drain| drain.client.clone());
        let oldest = oldest.ok_or(DrainError::TooMany)?;
        self.drains.remove(&oldest);
        self.actions.push(Action::Drain(oldest.clone(), None));
        Ok(Some(oldest))
    }

    /// Says whether the client was drained.
    fn end_drain(&mut self, client: &ClientId, now: Now) -> bool {
        if self.drains.remove(client).is_none() {
            return false;
        }
        self.actions.push(Action::Drain(client.clone(), None));
        if let Some(id) = self.clients.get(client).copied() {
            self.take_up_again(id, now);
        }
        true
    }

    fn take_up_again(&mut self, id: SessionId, now: Now) {
        let Some(session) = self.sessions.get(&id) else { return };
        let (stopping, group) = (session.join.stopping, session.group);
        self.set_draining(id, stopping.then(|| Draining::stopping(now.wall)));
        self.dispatch(group, now);
    }

    fn set_draining(&mut self, id: SessionId, draining: Option<Draining>) {
        if let Some(session) = self.sessions.get_mut(&id) {
            // Of one that is drained by its id the store knows.
            if session.join.client.as_ref().is_none_or(|client| !self.drains.contains_key(client)) {
                let note = Note::Draining(draining.clone().filter(|draining| !draining.stopping));
                self.actions.push(Action::Note(id, note));
            }
            session.draining = draining;
        }
        self.update_rank(id);
    }

    fn infos(&self, sessions: &[SessionId]) -> Vec<ClientInfo> {
        sessions.iter().filter_map(|id| self.client(*id)).collect()
    }
}

impl Draining {
    /// By an operator.
    pub(crate) fn new(since: Time, until: Option<Time>, note: Arc<str>) -> Draining {
        Draining { since, until, note, stopping: false, ends: None }
    }

    fn stopping(since: Time) -> Draining {
        Draining { since, until: None, note: "".into(), stopping: true, ends: None }
    }
}

impl From<&Drain> for Draining {
    fn from(drain: &Drain) -> Draining {
        let Drain { since, until, note, .. } = drain;
        Draining::new(*since, *until, note.as_str().into())
    }
}

/// By id, each with when it ends.
pub(super) type Drains = BTreeMap<ClientId, (Drain, Option<Steady>)>;
