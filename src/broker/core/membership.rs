//! Clients connect and disconnect.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::contest::NotYourTurn;
use super::delayed::Due;
use super::group::Group;
use super::holder::Holder;
use super::open::{Lease, Said};
use super::operators::GroupError;
use super::peer::Peer;
use super::quotas::Quota;
use super::session::{Held, Join, Session, SessionId};
use super::{Action, Closed, Core, GRACE, GroupId};
use crate::now::Now;
use crate::task::{GroupName, Name, Outcome, StartAt};

/// Why a client is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Several processes fight for its id, and it is the turn of another.
    #[error(transparent)]
    NotYourTurn(#[from] NotYourTurn),
    /// Its group cannot be made.
    #[error(transparent)]
    Group(#[from] GroupError),
}

impl Core {
    /// A client opened its stream. Its session gets tasks until [`Core::leave`]. Says where its group starts, if it has a name
    /// and is new. After an error nothing is changed.
    pub fn join(&mut self, join: Join, id: SessionId, now: Now) -> Result<Option<StartAt>, JoinError> {
        let anonymous = join.client.is_none() && join.group.is_none();
        let name = join.group.clone().or_else(|| join.client.clone());
        let name = if anonymous { self.config.anonymous_group.clone() } else { name };
        let from = join.from.unwrap_or(if anonymous { self.config.anonymous_from } else { self.config.groups_from });
        let is_new = name.as_ref().is_some_and(|name| !self.names.contains_key(name));
        // That of all anonymous clients was named by the operator.
        if is_new && !anonymous {
            self.room_for_a_group()?;
        }
        let contest = self.contest(&join, now)?;
        let mut join = join;
        let mut resume = join.resume.take().map(|resume| *resume);
        let drained = resume.as_mut().and_then(|resume| resume.draining.take());
        let group_id = self.group_for(name, from, now);
        if self.groups.get_mut(&group_id).is_some_and(|group| group.set_labels(&join.labels)) {
            self.checkpoints.changed(now.steady);
        }

        let taken_over = join.client.as_ref().and_then(|client| self.clients.insert(client.clone(), id));
        let label = join.client.as_ref().map_or_else(|| join.peer.clone(), Name::shared);
        let leased = self.groups[&group_id].leased;
        if let (Some(resume), false) = (&resume, leased) {
            self.groups.get_mut(&group_id).iter_mut().for_each(|group| group.go_on_after(resume, now));
        }
        // A passing group settles what was sent.
        let quota = join.quota.filter(|_| leased).map(|quota| self.quotas.enter(quota, id));
        let join = Join { quota, ..join };
        let window = self.window_of(&join) as usize;
        let of_group = self.groups[&group_id].name.clone();
        self.client_came(&join, of_group.as_ref(), now);
        let mut session = Session {
            group: group_id,
            label,
            since: now.wall,
            window: if leased { window } else { usize::MAX },
            held: BTreeSet::new(),
            bytes: 0,
            over: quota.is_some_and(|quota| self.quotas.is_full(quota.of)),
            ending: BTreeMap::new(),
            unbegun: 0,
            alone: false,
            draining: self.draining_of(&join, drained, now),
            rests: false,
            gave_back: 0,
            heard: 0,
            sent: 0,
            taken: 0,
            delivered: 0,
            last_sent: now.steady,
            outgoing: Vec::new(),
            contest,
            turn: 0,
            rank: None,
            join,
        };
        if let Some(old) = taken_over {
            self.take_over(old, id, &mut session, now);
        }

        let peer = self.peers.entry(session.join.peer.clone()).or_default();
        if peer.is_idle() {
            peer.unmatched.clear();
        }
        peer.sessions += 1;
        peer.session = Some(id);
        peer.group = leased.then_some(group_id);
        let address = session.join.peer.clone();

        if let Some(heartbeat) = session.join.heartbeat {
            self.first_turn(id, heartbeat, now);
        }
        let bytes = session.bytes;
        self.sessions.insert(id, session);
        if let Some(quota) = quota {
            self.fill_quota(quota.of, bytes);
        }
        let mut awaiting = Vec::new();
        if let Some(group) = self.groups.get_mut(&group_id) {
            group.sessions.insert(id);
            awaiting = group.open.awaiting_stream(&address);
        }
        for task in awaiting {
            self.renew(group_id, task, Some(id), &address, Said::default(), now);
        }
        let holds = resume.map(|resume| resume.holds).unwrap_or_default();
        holds.into_iter().for_each(|held| self.resume(group_id, held, id, &address, now));
        self.update_rank(id);
        self.dispatch(group_id, now);
        Ok(is_new.then_some(from))
    }

    /// A client has a task that it was given before another server led: it keeps it, if nothing is known to have come of that delivery, and
    /// none of a later one. That it was made may have been forgotten, as by a crash.
    fn resume(&mut self, id: GroupId, held: Held, session: SessionId, peer: &Arc<str>, now: Now) {
        let Held { task, priority, lane, attempt, begun } = held;
        let head = self.head();
        let Some(group) = self.groups.get_mut(&id) else { return };
        let known = group.open.waiting(task);
        let is_its = match known {
            Some(known) if known.deliveries == attempt => group.open.was_with_client(task),
            Some(known) => known.deliveries < attempt,
            None => {
                let is_open = group.open.lease_of(task).is_some();
                !is_open && task <= head && group.take_up_unread(task, priority, lane.as_ref())
            }
        };
        if is_its {
            lane.iter().for_each(|lane| group.has_place(task, lane));
            group.open.take_waiting(task, &mut self.texts);
            group.open.delay(task, Due::After(now.steady), known.unwrap_or_default().go_on(attempt));
            // As with a delivery: its client has said nothing since.
            self.next_turn += 1;
            self.lease_again(id, task, Some(session), peer, Said::default(), begun, now);
        }
    }

    /// The window of a client that says this of itself.
    fn window_of(&self, join: &Join) -> u32 {
        let most = self.config.max_window.min(join.quota.map_or(u32::MAX, |quota| quota.window));
        join.window.unwrap_or(self.config.window).clamp(1, most.max(1))
    }

    /// The window of a session, if it has one.
    pub(in crate::broker) fn window(&self, id: SessionId) -> Option<u32> {
        u32::try_from(self.sessions.get(&id)?.window).ok()
    }

    /// Other bounds for identities, also for the streams that they have.
    pub fn set_quotas(&mut self, quotas: &[Quota], now: Now) {
        let mut groups = BTreeSet::new();
        for quota in quotas {
            for id in self.quotas.set(*quota) {
                let Some(session) = self.sessions.get_mut(&id) else { continue };
                session.join.quota = Some(*quota);
                let join = session.join.clone();
                let window = self.window_of(&join) as usize;
                let Some(session) = self.sessions.get_mut(&id) else { continue };
                session.window = window;
                groups.insert(session.group);
                self.update_rank(id);
            }
            self.fill_quota(quota.of, 0);
            self.quotas.release(quota.of, 0);
        }
        for group in groups {
            self.dispatch(group, now);
        }
    }

    /// A session has so many bytes more under way.
    pub(super) fn charge(&mut self, id: SessionId, bytes: u32) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.bytes += u64::from(bytes);
        if let Some(quota) = session.join.quota {
            self.fill_quota(quota.of, bytes.into());
        }
    }

    fn fill_quota(&mut self, of: u64, bytes: u64) {
        let full = self.quotas.charge(of, bytes);
        self.meter.quotas_filled += u64::from(!full.is_empty());
        for id in full {
            self.quota_is_full(id, true);
        }
    }

    /// It has so many less.
    pub(super) fn release(&mut self, id: SessionId, bytes: u32) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.bytes -= u64::from(bytes);
        if let Some(quota) = session.join.quota {
            self.quotas.release(quota.of, bytes.into());
        }
    }

    /// Gives tasks again to those whose quotas have room again.
    pub(super) fn use_freed_quotas(&mut self, now: Now) {
        while let Some(sessions) = self.quotas.next_freed() {
            let groups: BTreeSet<GroupId> = sessions.iter().filter_map(|id| self.quota_is_full(*id, false)).collect();
            for group in groups {
                self.dispatch(group, now);
            }
        }
    }

    fn quota_is_full(&mut self, id: SessionId, full: bool) -> Option<GroupId> {
        let session = self.sessions.get_mut(&id)?;
        session.over = full;
        let group = session.group;
        self.update_rank(id);
        Some(group)
    }

    /// Whether a group may be made.
    pub(super) fn room_for_a_group(&self) -> Result<(), GroupError> {
        let limit = self.config.max_groups;
        if self.names.len() < limit { Ok(()) } else { Err(GroupError::TooMany(limit)) }
    }

    /// The group of that name, or a passing one.
    pub(super) fn group_for(&mut self, name: Option<GroupName>, from: StartAt, now: Now) -> GroupId {
        if let Some(id) = name.as_ref().and_then(|name| self.names.get(name)) {
            return *id;
        }
        let leased = name.is_some();
        let broadcast_after = if from == StartAt::New { self.head() } else { 0 };
        let group = Group::new(name, broadcast_after, now.wall);
        let id = self.add_group(group);
        if leased {
            self.count_group(id);
            // A group that exists is owed its tasks: it must be stored before its first outcome, to be there after a restart.
            self.checkpoint(now);
        }
        id
    }

    /// The same client opened a new stream. The old one ends. If it is the same process, its tasks stay with it for long enough
    /// to confirm them (`WORKING`): some of them may have been lost on the way.
    fn take_over(&mut self, old: SessionId, new: SessionId, session: &mut Session, now: Now) {
        self.actions.push(Action::Close(old, Closed::TakenOver));
        let Some(before) = self.sessions.get_mut(&old) else { return };
        let same_process = before.join.instance.is_some() && before.join.instance == session.join.instance;
        if !same_process || before.group != session.group {
            // The server ends it: that it says nothing more means nothing.
            before.heard = u64::MAX;
            return self.end(old, now);
        }
        session.held = std::mem::take(&mut before.held);
        session.unbegun = std::mem::take(&mut before.unbegun);
        session.bytes = std::mem::take(&mut before.bytes);
        if let Some(quota) = before.join.quota {
            self.quotas.release(quota.of, session.bytes);
        }
        session.ending = std::mem::take(&mut before.ending);
        (session.alone, session.heard) = (before.alone, before.heard);
        // Reports over a new connection may come before its stream does.
        let same_connection = before.join.peer == session.join.peer;
        let confirmed = |lease: &Lease| !same_connection && lease.confirmed_from.as_ref() == Some(&session.join.peer);
        let Some(group) = self.groups.get_mut(&session.group) else { return };
        let deadline = now.steady.after(self.config.ack_timeout.min(GRACE));
        for id in &session.held {
            if let Some(mut lease) = group.open.end_lease(*id, &mut self.texts) {
                lease.session = Some(new);
                if !confirmed(&lease) {
                    lease.deadline = lease.deadline.min(deadline);
                }
                group.open.lease(*id, lease, &mut self.texts);
            }
        }
        self.end(old, now);
    }

    /// A stream ended: what was on its way or held by its client goes to others. What a client has begun that says when it
    /// begins stays with it for a moment: it may still be at work. An unknown session changes nothing.
    pub fn leave(&mut self, id: SessionId, now: Now) {
        if let Some(session) = self.sessions.get_mut(&id).filter(|session| session.join.begins) {
            let deadline = now.steady.after(self.config.ack_timeout.min(GRACE));
            let holder = Holder::of(session);
            if let Some(group) = self.groups.get_mut(&session.group) {
                let texts = &mut self.texts;
                session.held.retain(|task| !group.open.leave_begun(*task, &holder, deadline, texts));
            }
        }
        self.end(id, now);
    }

    /// That a client says nothing more means nothing: the server that it is connected to was lost. Before [`leave`](Core::leave).
    pub fn excuse(&mut self, id: SessionId) {
        self.sessions.get_mut(&id).iter_mut().for_each(|session| session.heard = u64::MAX);
    }

    /// A stream is over, and so are the leases of what its client holds.
    fn end(&mut self, id: SessionId, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        // It takes nothing any more, also while its tasks are given back.
        session.window = 0;
        let (group_id, held) = (session.group, std::mem::take(&mut session.held));
        self.update_rank(id);
        for task in held {
            self.give_back(group_id, task, Outcome::Lost, Default::default(), Duration::ZERO, now);
        }
        self.remember_disconnected(id, now);
        let Some(session) = self.sessions.remove(&id) else { return };
        if let Some(quota) = session.join.quota {
            // What its client goes on with is left.
            self.quotas.release(quota.of, session.bytes);
            self.quotas.leave(quota.of, id);
        }
        if let Some(client) = &session.join.client {
            // Only if no newer stream took over.
            if self.clients.get(client) == Some(&id) {
                self.clients.remove(client);
                self.known.went(client, now);
                self.checkpoints.changed(now.steady);
            }
        }
        if let Some(peer) = self.peers.get_mut(&session.join.peer) {
            peer.sessions -= 1;
            self.drop_idle_peer(&session.join.peer);
        }
        let Some(group) = self.groups.get_mut(&group_id) else { return };
        group.remove_session(id, now);
        if group.leased {
            self.dispatch(group_id, now);
        } else {
            self.drop_group(group_id);
        }
    }

    pub(super) fn drop_group(&mut self, id: GroupId) {
        self.groups.remove(&id).iter().for_each(|group| self.texts.forget(&group.open));
        for caught_up in &mut self.caught_up {
            caught_up.remove(&id);
        }
    }

    /// A client began to report outcomes from this address.
    pub fn reporter_connected(&mut self, peer: &Arc<str>) {
        self.peers.entry(peer.clone()).or_default().reporters += 1;
    }

    /// It reports no more.
    pub fn reporter_disconnected(&mut self, peer: &Arc<str>) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.reporters = state.reporters.saturating_sub(1);
            self.drop_idle_peer(peer);
        }
    }

    fn drop_idle_peer(&mut self, peer: &Arc<str>) {
        if self.peers.get(peer).is_some_and(Peer::is_idle) {
            self.peers.remove(peer);
        }
    }
}
