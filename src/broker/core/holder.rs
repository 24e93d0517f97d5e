//! Who was given a task: what is told of it without a receipt counts only from there.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::open::Lease;
use super::session::Session;
use super::{Core, GroupId, OutcomeReport, Receipt, Reporter};
use crate::now::Now;
use crate::task::{ClientId, Outcome, TaskId};

/// Deliveries that came to nothing of which it is remembered whose they were: some 100 bytes each. Of one that is forgotten, a client
/// without receipts can tell only while the task waits.
const REMEMBERED: usize = 16_384;

/// A client that was given tasks over one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    client: Option<ClientId>,
    peer: Arc<str>,
    /// It said which group it is of.
    in_group: bool,
    /// It was given receipts, and shows them.
    receipts: bool,
}

impl Holder {
    pub(super) fn of(session: &Session) -> Holder {
        let join = &session.join;
        Holder {
            client: join.client.clone(),
            peer: join.peer.clone(),
            in_group: join.group.is_some(),
            receipts: join.receipts,
        }
    }

    /// Its id, or its address.
    pub(super) fn label(&self) -> Arc<str> {
        self.client.as_ref().map_or_else(|| self.peer.clone(), |client| client.shared())
    }

    fn is(&self, reporter: &Reporter) -> bool {
        !self.receipts && is_same(self.client.as_ref(), self.in_group, &self.peer, reporter)
    }
}

/// Whether a holder is who reports, as far as can be known without a receipt: by its id; of a group by being another without an id, since
/// its address is another when it has connected again; else by its address, if it says nothing of itself.
fn is_same(client: Option<&ClientId>, in_group: bool, peer: &Arc<str>, reporter: &Reporter) -> bool {
    let same = match client {
        Some(_) => reporter.client.as_ref() == client,
        None => reporter.client.is_none() && in_group,
    };
    let says_nothing = reporter.client.is_none() && reporter.group.is_none();
    same || says_nothing && reporter.peer == *peer
}

/// Whose the last deliveries were that came to nothing. In memory: after a start it begins anew.
#[derive(Debug, Default)]
pub(super) struct Former {
    holders: FxHashMap<(GroupId, TaskId, u32), Holder>,
    order: VecDeque<(GroupId, TaskId, u32)>,
}

impl Former {
    fn add(&mut self, delivery: (GroupId, TaskId, u32), holder: Holder) {
        if self.holders.insert(delivery, holder).is_none() {
            self.order.push_back(delivery);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.holders.remove(&oldest);
        }
    }
}

impl Core {
    /// A delivery came to nothing.
    pub(super) fn remember_holder(&mut self, group: GroupId, task: TaskId, lease: &Lease) {
        let session = lease.session.and_then(|id| self.sessions.get(&id));
        if let Some(holder) = session.map(Holder::of).or_else(|| lease.left_by.clone()) {
            self.former.add((group, task, lease.attempts.deliveries), holder);
        }
    }

    /// Whether a lease is that of the client which reports.
    fn is_of(&self, lease: &Lease, reporter: &Reporter) -> bool {
        match (lease.session.and_then(|id| self.sessions.get(&id)), &lease.left_by) {
            (Some(Session { join, .. }), _) => {
                !join.receipts && is_same(join.client.as_ref(), join.group.is_some(), &join.peer, reporter)
            }
            (None, Some(left_by)) => left_by.is(reporter),
            // It said that it is at work, and its stream is yet to come.
            (None, None) => lease.confirmed_from.as_ref() == Some(&reporter.peer),
        }
    }

    /// Whether it counts what is told of a task: with a receipt, or from whom was given it. This is the one place that decides so.
    ///
    /// Of a task that waits, it is not known after a start to whom it was given; then the number of its last attempt has to do. And a
    /// crash may have forgotten the last deliveries of what was accepted before: for two leases a DONE of these counts from anybody of
    /// the group, also if another was given the task meanwhile, under the same number.
    pub(super) fn believes(&self, id: GroupId, reporter: &Reporter, report: &OutcomeReport, now: Now) -> bool {
        let Some(group) = self.groups.get(&id) else { return false };
        match report.receipt {
            Receipt::Bad if group.leased => return false,
            Receipt::Missing if group.leased => {}
            _ => return true,
        }
        if self.may_have_forgotten(report.task, now) && report.outcome == Outcome::Done {
            return true;
        }
        let told_by = |attempt| self.former.holders.get(&(id, report.task, attempt)).map(|former| former.is(reporter));
        if let Some(lease) = group.open.lease_of(report.task) {
            if report.attempt != 0 && report.attempt != lease.attempts.deliveries {
                return told_by(report.attempt) == Some(true);
            }
            return self.is_of(lease, reporter);
        }
        match group.open.waiting(report.task).filter(|attempts| attempts.deliveries > 0) {
            Some(attempts) => {
                let attempt = if report.attempt == 0 { attempts.deliveries } else { report.attempt };
                told_by(attempt).unwrap_or(attempt == attempts.deliveries)
            }
            None => self.may_have_forgotten(report.task, now),
        }
    }

    /// Whether a task may have been given to clients before the start without a trace of it.
    fn may_have_forgotten(&self, task: TaskId, now: Now) -> bool {
        let (upto, until) = self.forgotten;
        task <= upto && now.steady <= until
    }
}
