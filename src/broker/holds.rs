//! What clients have, as the broker of the server that leads next has to be told: their own server keeps it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::core::{Delivery, Draining, Held, Join, Note, OutcomeReport, Reporter, Resume, SessionId, Unmatched};
use crate::task::{ClientId, Outcome, Priority, TaskId};

/// Most tasks of a client that are remembered: twice the largest window that is usual. One that never tells the end of any has its
/// oldest forgotten. Of those that one without a group is to be given later, no more, either.
pub(super) const MOST_HELD: usize = 2048;

/// What one session has.
#[derive(Debug)]
pub struct Holds {
    held: BTreeMap<TaskId, Held>,
    /// It says when it begins a task.
    begins: bool,
    /// It is in no group: what is sent to it is settled.
    passing: bool,
    /// See [`Resume`].
    read: [TaskId; 3],
    awaits: BTreeMap<TaskId, Priority>,
    draining: Option<Draining>,
}

impl Holds {
    fn new(join: &Join, passing: bool) -> Holds {
        let (held, awaits) = Default::default();
        Holds { held, begins: join.begins, passing, read: [0; 3], awaits, draining: None }
    }

    /// Its stream begins behind this task.
    pub fn begins_after(&mut self, task: TaskId) {
        self.read = [task; 3];
    }

    /// What its stream goes on with under another broker.
    pub fn resume(&self) -> Resume {
        let awaits = self.awaits.iter().map(|(task, priority)| (*task, *priority)).collect();
        let (read, draining) = (self.read, self.draining.clone());
        Resume { holds: self.held.values().cloned().collect(), read, awaits, draining }
    }

    /// What its broker has others keep.
    pub fn note(&mut self, note: Note) {
        match note {
            Note::Awaits(task, priority) => {
                self.awaits.insert(task, priority);
                if self.awaits.len() > MOST_HELD {
                    self.awaits.pop_first();
                }
            }
            Note::Draining(draining) => self.draining = draining,
        }
    }

    fn given(&mut self, delivery: &Delivery) {
        let Delivery { task, attempt, .. } = delivery;
        if self.passing {
            let read = &mut self.read[task.spec.priority as usize];
            *read = task.id.max(*read);
            self.awaits.remove(&task.id);
            return;
        }
        let (priority, lane, begun) = (task.spec.priority, task.spec.waits_in().cloned(), !self.begins);
        self.held.insert(task.id, Held { task: task.id, priority, lane, attempt: *attempt, begun });
        if self.held.len() > MOST_HELD {
            self.held.pop_first();
        }
    }

    fn told(&mut self, report: &OutcomeReport) {
        let is_this = |attempt: u32| report.attempt == 0 || report.attempt == attempt;
        let Some(held) = self.held.get_mut(&report.task).filter(|held| is_this(held.attempt)) else { return };
        match report.outcome {
            Outcome::Working => held.begun = true,
            _ => drop(self.held.remove(&report.task)),
        }
    }

    /// It is not to go on with a task.
    pub fn revoked(&mut self, task: TaskId) {
        self.held.remove(&task);
    }
}

/// One address.
#[derive(Debug, Default)]
struct Peer {
    /// Streams and tellers.
    open: usize,
    /// Its latest stream.
    session: Option<SessionId>,
    unmatched: Unmatched,
}

/// Of all sessions of a server.
#[derive(Debug, Default)]
pub struct AllHolds {
    of: HashMap<SessionId, Holds>,
    clients: HashMap<ClientId, SessionId>,
    peers: HashMap<Arc<str>, Peer>,
}

impl AllHolds {
    /// A session came. `passing`: it is in no group.
    pub fn came(&mut self, session: SessionId, join: &Join, passing: bool) {
        self.of.insert(session, Holds::new(join, passing));
        self.clients.extend(join.client.clone().map(|client| (client, session)));
        let peer = self.peers.entry(join.peer.clone()).or_default();
        if peer.open == 0 {
            peer.unmatched.clear();
        }
        peer.open += 1;
        peer.session = Some(session);
    }

    /// It went.
    pub fn went(&mut self, session: SessionId, join: &Join) {
        self.of.remove(&session);
        if let Some(client) = join.client.as_ref().filter(|client| self.clients.get(client) == Some(&session)) {
            self.clients.remove(client);
        }
        self.teller_went(&join.peer);
    }

    /// A client tells of tasks from this address.
    pub fn teller_came(&mut self, peer: &Arc<str>) {
        self.peers.entry(peer.clone()).or_default().open += 1;
    }

    /// It does no more.
    pub fn teller_went(&mut self, peer: &Arc<str>) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.open = state.open.saturating_sub(1);
            if state.open == 0 {
                self.peers.remove(peer);
            }
        }
    }

    /// That of a session.
    pub fn of(&mut self, session: SessionId) -> Option<&mut Holds> {
        self.of.get_mut(&session)
    }

    /// A session is given tasks.
    pub fn given(&mut self, session: SessionId, peer: &Arc<str>, deliveries: &[Delivery]) {
        let Some(holds) = self.of.get_mut(&session) else { return };
        deliveries.iter().for_each(|delivery| holds.given(delivery));
        if let Some(peer) = self.peers.get_mut(peer) {
            deliveries.iter().for_each(|delivery| peer.unmatched.push(delivery.task.id, delivery.attempt));
        }
    }

    /// A client tells of a task. Where it does not say which, it is found here: the server that leads next would not know.
    pub fn told(&mut self, reporter: &Reporter, report: &mut OutcomeReport) {
        let peer = self.peers.get_mut(&reporter.peer);
        let by_peer = peer.as_ref().and_then(|peer| peer.session);
        if let Some(Peer { unmatched, .. }) = peer {
            unmatched.resolve(report);
        }
        let session = reporter.client.as_ref().map_or(by_peer, |client| self.clients.get(client).copied());
        if let Some(holds) = session.and_then(|session| self.of.get_mut(&session)) {
            holds.told(report);
        }
    }
}
