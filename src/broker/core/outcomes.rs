//! Outcomes are reported, and change where tasks are.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::delayed::Due;
use super::delivery::bytes_of;
use super::group::Group;
use super::holder::Holder;
use super::open::{Lease, Said};
use super::peer::Peer;
use super::replacing::replaced;
use super::session::{RevokeReason, Revoked, SessionId};
use super::tally::micros;
use super::timers::Timer;
use super::{Action, Core, GRACE, GroupId, OutcomeReport, Printed, Receipt, Reporter};
use crate::attachment::Attachment;
use crate::attempts::Attempts;
use crate::now::Now;
use crate::retry::RetryPolicy;
use crate::task::{GroupName, NewResult, Outcome, Task, TaskId, Time};

/// For how long a client that gives tasks back unbegun gets no others. If it is at work on others, and does so again without having
/// finished one, it is twice as long each time: else what waits behind a long task would go back and forth.
const REST: Duration = Duration::from_secs(1);
/// The longest that this becomes.
const LONGEST_REST: Duration = Duration::from_secs(60);

impl Core {
    /// A client says what came of tasks.
    pub fn report(&mut self, reporter: &Reporter, mut reports: Vec<OutcomeReport>, now: Now) {
        let named = reporter.group.as_ref().or(reporter.client.as_ref());
        let group = match named {
            Some(name) => self.names.get(name).copied(),
            None => {
                let anonymous = self.config.anonymous_group.as_ref().and_then(|name| self.names.get(name));
                let alive = |id: &GroupId| self.groups.contains_key(id);
                let of_peer = self.peers.get(&reporter.peer).and_then(|peer| peer.group).filter(alive);
                of_peer.or(anonymous.copied())
            }
        };
        if let Some(Peer { unmatched, .. }) = self.peers.get_mut(&reporter.peer) {
            reports.iter_mut().for_each(|report| unmatched.resolve(report));
        }
        let session = group.and_then(|group| self.session_of(reporter, group));
        let proven = reports.iter().any(|report| report.receipt == Receipt::Good);
        let session = session.and_then(|id| self.sessions.get_mut(&id));
        if let Some(session) = session.filter(|session| proven || !session.join.receipts) {
            session.heard = self.next_turn;
            if !session.ending.is_empty() {
                let ended = reports.iter().filter(|report| report.outcome != Outcome::Working);
                ended.for_each(|report| session.ended(report.task, report.attempt));
            }
        }
        let unmatched = reports.iter().filter(|report| report.task == 0 && report.outcome != Outcome::Working).count();
        if unmatched > 0 {
            self.meter.unmatched += unmatched as u64;
            self.meter.last_unmatched = Some(now.wall);
        }
        for mut report in reports {
            report.delay = report.delay.min(self.config.max_retry_delay);
            match group {
                Some(group) if report.task != 0 => self.report_one(group, reporter, report, now),
                _ if report.outcome == Outcome::Working => {}
                _ => {
                    let late = named.is_some() || self.config.anonymous_group.is_some();
                    self.record(named.cloned(), reporter, report, late, now);
                }
            }
        }
        if let Some(group) = group {
            self.dispatch(group, now);
        }
    }

    fn report_one(&mut self, id: GroupId, reporter: &Reporter, mut report: OutcomeReport, now: Now) {
        if !self.believes(id, reporter, &report, now) {
            return self.report_foreign(id, reporter, report, now);
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        let name = group.name.clone();
        let printed = report.printed.take();
        if let Some(lease) = group.open.lease_of(report.task) {
            let delivery = lease.attempts.deliveries;
            let current = report.attempt == 0 || report.attempt == delivery;
            let report =
                OutcomeReport { attempt: if report.attempt == 0 { delivery } else { report.attempt }, ..report };
            let holder = lease.session;
            if let (Some(piece), Some(group)) = (printed.filter(|_| current), name.clone()) {
                let client = reporter.label();
                self.actions.push(Action::Print(Printed {
                    task: report.task,
                    group,
                    client,
                    attempt: delivery,
                    piece,
                }));
            }
            match report.outcome {
                Outcome::Working if current => {
                    let session = lease.session.or_else(|| self.session_of(reporter, id));
                    let said = Said::of(&report.ret, report.progress);
                    self.renew(id, report.task, session, &reporter.peer, said, now);
                }
                Outcome::Working => self.revoke_stale(id, reporter, &report, now),
                Outcome::Retry if current => {
                    let spent = lease.attempts.begin().spent;
                    let delay = match report.delay {
                        Duration::ZERO => self.config.wait(group.retry, lease.task.as_deref(), report.task, spent),
                        asked => asked,
                    };
                    self.finished(holder);
                    self.give_back(id, report.task, Outcome::Retry, report.said(), delay, now);
                }
                Outcome::Released if current => {
                    // It gives back what it was given: it is stopping, or has no use for it. Then it gets no other at once, or
                    // they would go back and forth.
                    let over = lease.task.as_ref().is_some_and(|task| task.spec.over(now.wall).is_some());
                    if let Some(session) = lease.session.filter(|_| !over) {
                        self.rest(session, now);
                    }
                    self.give_back(id, report.task, Outcome::Released, report.said(), Duration::ZERO, now);
                }
                // A late DONE settles what is not settled yet, whichever client has it now.
                Outcome::Done | Outcome::Failed if current || report.outcome == Outcome::Done => {
                    self.meter.work.record(micros(now.steady.since(lease.since)));
                    group.rate.count(now.steady);
                    self.finished(holder);
                    self.end_lease(id, report.task);
                    self.dies_if_failed(id, &report);
                    self.record(name, reporter, report, false, now);
                }
                _ => self.record(name, reporter, report, true, now),
            }
            return;
        }
        if let Some(attempts) = group.open.waiting(report.task) {
            return self.report_waiting(id, attempts, reporter, report, now);
        }
        let settles = match report.outcome {
            Outcome::Working => {
                // One that is not taken up may have been delivered before a crash that forgot it: it may be at work on it.
                let settled =
                    self.recent.get(report.task).is_some_and(|task| group.has_settled(task, self.recent.head()));
                if settled {
                    self.revoke_stale(id, reporter, &report, now);
                }
                return;
            }
            // It may have been delivered before a restart that forgot the delivery: it must not go out again.
            outcome if outcome.settles() && report.task <= self.head() => match self.take_up_id(id, report.task) {
                Some(false) => false,
                Some(true) if self.recent.get(report.task).is_some() => true,
                // Only the log can say whether it was settled, or removed.
                _ => return self.record_unless_settled(name, reporter, report, now),
            },
            _ => false,
        };
        self.record(name, reporter, report, !settles, now);
    }

    /// A report about a task from one that was not given it, or that does not show its receipt: it changes nothing.
    fn report_foreign(&mut self, id: GroupId, reporter: &Reporter, report: OutcomeReport, now: Now) {
        let Some(group) = self.groups.get(&id) else { return };
        let settled = || self.recent.get(report.task).is_some_and(|task| group.has_settled(task, self.recent.head()));
        let is_open = group.open.lease_of(report.task).is_some() || group.open.waiting(report.task).is_some();
        let name = group.name.clone();
        // What is settled is late, whoever tells it.
        if is_open || !settled() {
            self.meter.foreign += 1;
        }
        match report.outcome {
            Outcome::Working => self.revoke_stale(id, reporter, &report, now),
            _ => self.record(name, reporter, report, true, now),
        }
    }

    /// A report about a task that waits to go out again. No other client was given it since its last attempt: a report about
    /// that attempt counts as if its client still had the task.
    fn report_waiting(
        &mut self,
        id: GroupId,
        attempts: Attempts,
        reporter: &Reporter,
        mut report: OutcomeReport,
        now: Now,
    ) {
        if report.outcome == Outcome::Retry && report.delay.is_zero() {
            let task = self.recent.get(report.task).map(|task| &**task);
            report.delay = self.config.wait(self.retry_of(id), task, report.task, attempts.begin().spent);
        }
        let last = attempts.deliveries > 0 && report.attempt == attempts.deliveries;
        if report.outcome == Outcome::Working {
            if !last {
                self.revoke_stale(id, reporter, &report, now);
            } else {
                let session = self.session_of(reporter, id);
                let said = Said::of(&report.ret, report.progress);
                self.renew(id, report.task, session, &reporter.peer, said, now);
            }
            return;
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        // What is released is here already.
        let counts = (last && report.outcome != Outcome::Released) || report.outcome == Outcome::Done;
        let name = group.name.clone();
        if counts {
            group.open.take_waiting(report.task, &mut self.texts);
            match report.outcome {
                Outcome::Retry => {
                    let due = Due::After(now.steady.after(report.delay));
                    group.open.delay(report.task, due, attempts.begin());
                }
                _ => {
                    group.rate.count(now.steady);
                    self.dies_if_failed(id, &report);
                }
            }
        }
        self.record(name, reporter, report, !counts, now);
    }

    /// A client is at work on a delivery that is over: it has not heard that yet, or not what became of it. Its own lease may have
    /// ended while it was cut off, so this is said whenever it says `WORKING`.
    fn revoke_stale(&mut self, group: GroupId, reporter: &Reporter, report: &OutcomeReport, now: Now) {
        let Some(session) = self.session_of(reporter, group).filter(|_| report.attempt != 0) else { return };
        let reason = match self.recent.get(report.task).and_then(|task| task.spec.over(now.wall)) {
            Some(Outcome::Cancelled | Outcome::Replaced) => RevokeReason::Cancelled,
            Some(_) => RevokeReason::Expired,
            None => RevokeReason::GivenToAnother,
        };
        self.revoke(session, report.task, report.attempt, reason);
        if reason == RevokeReason::Cancelled {
            self.is_to_end(Some(session), report.task, report.attempt);
        }
    }

    /// Tells a client that it should not go on with a task, if it wants to hear so; says whether it does.
    pub(super) fn revoke(&mut self, id: SessionId, task: TaskId, attempt: u32, reason: RevokeReason) -> bool {
        let wants_to_hear = self.sessions.get(&id).is_some_and(|session| session.join.revoke);
        if wants_to_hear {
            self.actions.push(Action::Revoke(id, Revoked { task, attempt, reason }));
        }
        wants_to_hear
    }

    /// The stream of this reporter, if it is of that group.
    fn session_of(&self, reporter: &Reporter, group: GroupId) -> Option<SessionId> {
        let session = match &reporter.client {
            Some(client) => self.clients.get(client).copied(),
            None => self.peers.get(&reporter.peer)?.session,
        };
        session.filter(|id| self.sessions.get(id).is_some_and(|session| session.group == group))
    }

    /// The client at that address is at work on a task: see [`lease_again`](Core::lease_again).
    pub(super) fn renew(
        &mut self,
        id: GroupId,
        task: TaskId,
        session: Option<SessionId>,
        peer: &Arc<str>,
        says: Said,
        now: Now,
    ) {
        self.lease_again(id, task, session, peer, says, true, now);
    }

    /// The client at that address has a task, and may have `begun` it: the task is leased to it from now on. Without a session, its stream
    /// has some time to come. What it said of it before stays until it says something else.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn lease_again(
        &mut self,
        id: GroupId,
        task: TaskId,
        session: Option<SessionId>,
        peer: &Arc<str>,
        says: Said,
        begun: bool,
        now: Now,
    ) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let lasts = match session {
            Some(_) => self.config.ack_timeout,
            None => self.config.ack_timeout.min(GRACE),
        };
        let had = group.open.end_lease(task, &mut self.texts);
        let holder = had.as_ref().and_then(|lease| lease.session);
        let turn = self.next_turn;
        let had = had.map(|lease| (lease.task, lease.bytes, lease.attempts, lease.turn, lease.since, lease.said));
        let waited = || {
            group.open.take_waiting(task, &mut self.texts).map(|(text, attempts)| {
                let bytes = text.as_deref().map_or(0, bytes_of);
                (text, bytes, attempts, turn, now.steady, Said::default())
            })
        };
        let Some((text, bytes, before, turn, since, said_before)) = had.or_else(waited) else { return };
        let (deadline, confirmed_from) = (now.steady.after(lasts), Some(peer.clone()));
        let attempts = if begun { before.begin() } else { before };
        if before != attempts {
            // A checkpoint is to know of it, as of a delivery.
            self.checkpoints.delivered(now.steady);
        }
        let (said, left_by) = (says.or(said_before), None);
        let lease =
            Lease { task: text, session, bytes, attempts, turn, since, deadline, said, confirmed_from, left_by };
        group.open.lease(task, lease, &mut self.texts);
        if let Some(id) = session {
            if let Some(session) = self.sessions.get_mut(&id) {
                if holder.is_some() {
                    session.begin(before);
                }
                session.hold(task, attempts);
            }
            if holder.is_none() {
                self.charge(id, bytes);
            }
            self.update_rank(id);
        }
    }

    /// See [`Group::take_up_id`](super::group::Group::take_up_id).
    pub(super) fn take_up_id(&mut self, id: GroupId, task: TaskId) -> Option<bool> {
        let recent = self.recent.get(task).map(|recent| &**recent);
        self.groups.get_mut(&id).map_or(Some(false), |group| group.take_up_id(task, recent))
    }

    fn record_unless_settled(
        &mut self,
        group: Option<GroupName>,
        reporter: &Reporter,
        report: OutcomeReport,
        now: Now,
    ) {
        self.flush_records();
        self.record(group, reporter, report, false, now);
        self.count_records();
        self.checkpoints.recorded(1);
        let results = self.records.drain(..).map(Box::new);
        self.actions.extend(results.map(Action::RecordUnlessSettled));
    }

    fn record(&mut self, group: Option<GroupName>, reporter: &Reporter, report: OutcomeReport, late: bool, now: Now) {
        // What names no task stands in no ledger, and is removed when it is old.
        let in_ledger = report.task != 0;
        if late && in_ledger {
            let id = group.as_ref().and_then(|name| self.names.get(name)).copied();
            if !self.late.take(report.task, id) {
                self.meter.late_dropped += 1;
                return;
            }
        }
        // Without a group, nothing goes out again.
        let delayed = report.outcome == Outcome::Retry && !late && group.is_some() && !report.delay.is_zero();
        let client = reporter.label();
        let mut result = NewResult {
            ret: report.ret,
            attachment: report.attachment,
            not_before: delayed.then(|| now.wall.after(report.delay)),
            late,
            ..outcome_of(report.task, group, client, report.attempt.max(1), report.outcome, now.wall)
        };
        if late && in_ledger {
            result.mark_late();
        }
        self.records.push(result);
    }

    /// What its client gave up may hold its lane.
    fn dies_if_failed(&mut self, id: GroupId, report: &OutcomeReport) {
        if let Some(group) = self.groups.get_mut(&id).filter(|_| report.outcome == Outcome::Failed) {
            group.dies(report.task);
        }
    }

    /// Records an outcome that no client reported, unless the group is a passing one.
    pub(super) fn record_by_server(&mut self, id: GroupId, task: TaskId, attempt: u32, outcome: Outcome, now: Now) {
        if let Some(Group { name: Some(name), .. }) = self.groups.get(&id) {
            self.records.push(outcome_of(task, Some(name.clone()), "".into(), attempt, outcome, now.wall));
        }
    }

    /// Whether a task that was delivered so often does not go out again; what `EXHAUSTED` says of it beside the last error.
    pub(super) fn given_up(&self, group: GroupId, task: &Task, attempts: Attempts) -> Option<Cow<'static, str>> {
        let Attempts { spent, silent, .. } = attempts;
        if spent > 0 && spent >= self.config.max_attempts(self.retry_of(group), task) {
            return Some("".into());
        }
        let gone =
            || format!("{silent} clients, one after another, were not heard of again when they had been given it");
        (silent > 0 && silent >= self.config.max_deliveries).then(|| gone().into())
    }

    /// What is said of retries of a group's tasks.
    fn retry_of(&self, group: GroupId) -> RetryPolicy {
        self.groups.get(&group).map(|group| group.retry).unwrap_or_default()
    }

    /// Gives a session nothing for a while.
    fn rest(&mut self, id: SessionId, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if !std::mem::replace(&mut session.rests, true) {
            let rest = REST.saturating_mul(1 << session.gave_back.min(6)).min(LONGEST_REST);
            session.gave_back += u32::from(session.held.len() > session.unbegun);
            self.timers.set(now.steady.after(rest), Timer::Rest(id));
        }
    }

    /// The client that had a task has finished it, and can begin another.
    fn finished(&mut self, holder: Option<SessionId>) {
        let Some(session) = holder.and_then(|id| self.sessions.get_mut(&id)) else { return };
        if session.gave_back > 0 {
            (session.gave_back, session.rests) = (0, false);
        }
    }

    /// Takes a task from its client. Says what it was leased for, and to whom.
    pub(super) fn end_lease(&mut self, id: GroupId, task: TaskId) -> Option<(Lease, Arc<str>)> {
        let lease = self.groups.get_mut(&id)?.open.end_lease(task, &mut self.texts)?;
        let client = self.holder(&lease);
        if let Some(id) = lease.session {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.held.remove(&task);
                session.begin(lease.attempts);
            }
            self.release(id, lease.bytes);
            self.update_rank(id);
        }
        Some((lease, client))
    }

    /// The client that has the task: its id, or its address.
    pub(super) fn holder(&self, lease: &Lease) -> Arc<str> {
        let session = lease.session.and_then(|id| self.sessions.get(&id));
        let with_stream = session.map(|session| session.label.clone());
        let left = || lease.left_by.as_ref().map(Holder::label);
        with_stream.or_else(left).or_else(|| lease.confirmed_from.clone()).unwrap_or_else(|| "".into())
    }

    /// Whether its clients may have been kept waiting while a lease went on that ends now.
    fn keeps_waiting(&self, now: Now) -> bool {
        self.kept_waiting.is_some_and(|until| now.steady < until.after(self.config.ack_timeout))
    }

    /// Takes a task from its client, to go out again; or to the dead letters, if its attempts are used up.
    ///
    /// What was lost or timed out before it was begun is recorded as released: it costs no attempt. `wait` is for how long a
    /// `RETRY` has it wait.
    pub(super) fn give_back(
        &mut self,
        id: GroupId,
        task: TaskId,
        outcome: Outcome,
        (ret, attachment): (String, Attachment),
        wait: Duration,
        now: Now,
    ) {
        let Some((lease, client)) = self.end_lease(id, task) else { return };
        self.remember_holder(id, task, &lease);
        let holder = lease.session.and_then(|id| self.sessions.get(&id));
        let (outcome, attempts) = match outcome {
            Outcome::Retry => (outcome, lease.attempts.begin()),
            Outcome::Released => (outcome, lease.attempts.release()),
            // It had some time to say that it is still at work.
            Outcome::TimedOut if lease.left_by.is_some() => (Outcome::Lost, lease.attempts),
            _ if lease.attempts.begun => (outcome, lease.attempts),
            _ if holder.is_some_and(|session| lease.turn > session.heard) && !self.keeps_waiting(now) => {
                (Outcome::Released, lease.attempts.fall_silent())
            }
            _ => (Outcome::Released, lease.attempts),
        };
        // The first loss may be an accident of its client, and costs no time.
        let wait = match outcome {
            Outcome::Lost | Outcome::TimedOut => {
                let further = attempts.spent.saturating_sub(1);
                self.config.wait(self.retry_of(id), lease.task.as_deref(), task, further)
            }
            _ => wait,
        };
        let not_before = (!wait.is_zero()).then(|| now.wall.after(wait));
        let by = lease.task.as_ref().and_then(|task| task.spec.replaced_by());
        let given_up = lease.task.as_ref().and_then(|task| self.given_up(id, task, attempts));
        let Some(group) = self.groups.get_mut(&id) else { return };
        let result = outcome_of(task, group.name.clone(), client, attempts.deliveries, outcome, now.wall);
        let result = NewResult { ret, attachment, not_before, ..result };
        if let Some(by) = by {
            let last = group.name.clone().map(|name| replaced(task, name, attempts.deliveries, by, now));
            self.records.extend([result].into_iter().chain(last));
            return;
        }
        if let Some(why) = given_up {
            let ret = if why.is_empty() { result.ret.clone() } else { why.into_owned() };
            let last = NewResult { outcome: Outcome::Exhausted, not_before: None, ret, ..result.clone() };
            self.records.extend([result, last]);
            group.dies(task);
            return;
        }
        match lease.task.filter(|task| wait.is_zero() && task.spec.has_content()) {
            Some(text) => group.open.give_back(text, attempts, &mut self.texts),
            // Without its text it is loaded again; if its attempts are used up, that is seen then.
            None => group.open.delay(task, Due::After(now.steady.after(wait)), attempts),
        }
        self.records.push(result);
    }
}

/// An outcome that is not late, with nothing said about it.
pub(super) fn outcome_of(
    task: TaskId,
    group: Option<GroupName>,
    client: Arc<str>,
    attempt: u32,
    outcome: Outcome,
    at: Time,
) -> NewResult {
    let (ret, attachment) = Default::default();
    NewResult { task, group, client, attempt, outcome, ret, attachment, at, not_before: None, late: false }
}
