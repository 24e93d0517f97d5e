//! Clients come and go.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Action, Closed, Core, GRACE, Timer};
use crate::broker::group::{Group, GroupId, Lease};
use crate::broker::session::{Join, Session, SessionId};
use crate::task::{GroupName, Outcome, StartAt, Time};

impl Core {
    /// A client opened its stream. Its session gets tasks until [`Core::leave`].
    pub fn join(&mut self, join: Join, id: SessionId, now: Time) {
        let anonymous = join.client.is_none() && join.group.is_none();
        let name = join.group.clone().or_else(|| join.client.clone());
        let name = if anonymous { self.config.anonymous_group.clone() } else { name };
        let from = join.from.unwrap_or(if anonymous { self.config.anonymous_from } else { StartAt::First });
        let group_id = self.group_for(name, from, now);

        let taken_over = join.client.as_ref().and_then(|client| self.clients.insert(client.clone(), id));
        let label = join.client.as_ref().map_or_else(|| join.peer.clone(), |client| client.as_str().into());
        let leased = self.groups[&group_id].leased;
        let window = join.window.unwrap_or(self.config.window).max(1) as usize;
        let mut session = Session {
            group: group_id,
            label,
            since: now,
            window: if leased { window } else { usize::MAX },
            held: BTreeSet::new(),
            sent: 0,
            taken: 0,
            delivered: 0,
            last_sent: now,
            outgoing: Vec::new(),
            turn: 0,
            listed: None,
            join,
        };
        if let Some(old) = taken_over {
            self.take_over(old, id, &mut session, now);
        }

        let peer = self.peers.entry(session.join.peer.clone()).or_default();
        if peer.sessions == 0 && peer.reporters == 0 {
            peer.unmatched.clear();
        }
        peer.sessions += 1;
        peer.session = Some(id);
        peer.group = leased.then_some(group_id);
        let address = session.join.peer.clone();

        if let Some(heartbeat) = session.join.heartbeat {
            self.timers.push(Reverse((now.after(heartbeat), Timer::Session(id))));
        }
        self.sessions.insert(id, session);
        let mut early = Vec::new();
        if let Some(group) = self.groups.get_mut(&group_id) {
            group.sessions.insert(id);
            early = group.early(&address);
        }
        for task in early {
            self.renew(group_id, task, Some(id), &address, now);
        }
        self.list(id);
        self.dispatch(group_id, now);
    }

    /// The group of that name, or a passing one.
    fn group_for(&mut self, name: Option<GroupName>, from: StartAt, now: Time) -> GroupId {
        if let Some(id) = name.as_ref().and_then(|name| self.names.get(name)) {
            return *id;
        }
        let leased = name.is_some();
        let mut group = Group::new(name, leased, now);
        if from == StartAt::New {
            group.broadcast_after = self.head;
        }
        group.dirty = leased;
        let id = self.add_group(group);
        if leased {
            // A group that exists is owed its tasks: it must be there after a restart, and before its first result.
            self.checkpoint();
        }
        id
    }

    /// The same client is here on a new stream. The old one ends; if it is the same process, what it holds stays with it
    /// until it had time to say so (`WORKING`), since some of it may have been lost on the way.
    fn take_over(&mut self, old: SessionId, new: SessionId, session: &mut Session, now: Time) {
        self.actions.push(Action::Close(old, Closed::TakenOver));
        let Some(before) = self.sessions.get_mut(&old) else { return };
        let same_process = before.join.instance.is_some() && before.join.instance == session.join.instance;
        if !same_process || before.group != session.group {
            return self.leave(old, now);
        }
        session.held = std::mem::take(&mut before.held);
        // What is told over a new connection may be here before its stream is.
        let same_connection = before.join.peer == session.join.peer;
        let confirmed = |lease: &Lease| !same_connection && lease.confirmed_from.as_ref() == Some(&session.join.peer);
        let Some(group) = self.groups.get_mut(&session.group) else { return };
        let deadline = now.after(self.config.ack_timeout.min(GRACE));
        for id in &session.held {
            if let Some(mut lease) = group.unlease(*id) {
                lease.session = Some(new);
                if !confirmed(&lease) {
                    lease.deadline = lease.deadline.min(deadline);
                }
                group.lease(*id, lease);
            }
        }
        self.leave(old, now);
    }

    /// A stream ended: what was on its way or held by its client goes to others. Unknown sessions are none of our business.
    pub fn leave(&mut self, id: SessionId, now: Time) {
        self.unlist(id);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        // It takes nothing any more.
        session.window = 0;
        let (group_id, held) = (session.group, std::mem::take(&mut session.held));
        for task in held {
            self.give_back(group_id, task, Outcome::Lost, String::new(), None, now);
        }
        self.remember_disconnected(id, now);
        let Some(session) = self.sessions.remove(&id) else { return };
        if let Some(client) = &session.join.client {
            // Only if no newer stream took over.
            if self.clients.get(client) == Some(&id) {
                self.clients.remove(client);
            }
        }
        if let Some(peer) = self.peers.get_mut(&session.join.peer) {
            peer.sessions -= 1;
            self.drop_idle_peer(&session.join.peer);
        }
        let Some(group) = self.groups.get_mut(&group_id) else { return };
        group.sessions.remove(&id);
        group.last_used = now;
        group.dirty = true;
        if group.leased {
            self.dispatch(group_id, now);
        } else {
            self.groups.remove(&group_id);
            for class in &mut self.listening {
                class.remove(&group_id);
            }
        }
    }

    /// A client began to tell results from this address.
    pub fn reporter_came(&mut self, peer: &Arc<str>) {
        self.peers.entry(peer.clone()).or_default().reporters += 1;
    }

    /// It ended.
    pub fn reporter_went(&mut self, peer: &Arc<str>) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.reporters = state.reporters.saturating_sub(1);
            self.drop_idle_peer(peer);
        }
    }

    fn drop_idle_peer(&mut self, peer: &Arc<str>) {
        if self.peers.get(peer).is_some_and(|p| p.sessions == 0 && p.reporters == 0) {
            self.peers.remove(peer);
        }
    }
}
