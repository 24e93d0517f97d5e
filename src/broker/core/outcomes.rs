//! Outcomes come in.

use std::sync::Arc;

use super::{Action, Core, GRACE, OutcomeReport, Peer, Reporter};
use crate::broker::group::{GroupId, Lease, Returned};
use crate::broker::session::SessionId;
use crate::broker::tally::micros;
use crate::task::{GroupName, NewResult, Outcome, Task, TaskId, Time};

impl Core {
    /// A client says what came of tasks.
    pub fn settle(&mut self, reporter: &Reporter, mut told: Vec<OutcomeReport>, now: Time) {
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
            for told in &mut told {
                match (told.task, told.outcome) {
                    // What matches nothing is kept all the same, with a task of 0: nothing that a client says is lost.
                    (0, outcome) => {
                        let matched = match outcome {
                            // The acknowledgement is yet to come.
                            Outcome::Working => unmatched.oldest(),
                            _ => unmatched.pop(),
                        };
                        (told.task, told.attempt) = matched.unwrap_or((0, told.attempt));
                    }
                    (_, Outcome::Working) => {}
                    (task, _) => unmatched.remove(task),
                }
            }
        }
        for told in told {
            match group {
                Some(group) if told.task != 0 => self.settle_one(group, reporter, told, now),
                _ if told.outcome == Outcome::Working => {}
                _ => {
                    let late = named.is_some() || self.config.anonymous_group.is_some();
                    self.record(named.cloned(), reporter, told, late, now);
                }
            }
        }
        if let Some(group) = group {
            self.dispatch(group, now);
        }
    }

    pub(super) fn settle_one(&mut self, id: GroupId, reporter: &Reporter, told: OutcomeReport, now: Time) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let name = group.name.clone();
        if let Some(lease) = group.leases.get(&told.task) {
            let current = told.attempt == 0 || told.attempt == lease.attempt;
            let told = OutcomeReport { attempt: if told.attempt == 0 { lease.attempt } else { told.attempt }, ..told };
            match told.outcome {
                Outcome::Working if current => {
                    let session = lease.session.or_else(|| self.session_of(reporter, id));
                    self.renew(id, told.task, session, &reporter.peer, now);
                }
                Outcome::Working => {}
                Outcome::Retry if current => {
                    let not_before = (!told.delay.is_zero()).then(|| now.after(told.delay));
                    self.give_back(id, told.task, Outcome::Retry, told.ret, not_before, now);
                }
                // A late DONE settles what is not settled yet, whoever has it now.
                Outcome::Done | Outcome::Failed if current || told.outcome == Outcome::Done => {
                    group.rate.count(now);
                    self.meter.work.record(micros(lease.since, now));
                    self.end_lease(id, told.task);
                    self.record(name, reporter, told, false, now);
                }
                _ => self.record(name, reporter, told, true, now),
            }
            return;
        }
        if let Some(attempts) = group.waiting(told.task) {
            return self.settle_waiting(id, attempts, reporter, told, now);
        }
        let settles = match told.outcome {
            Outcome::Working => return,
            // It was delivered before a restart that forgot so: it must not go out again.
            outcome if outcome.settles() => match self.take_unread(id, told.task) {
                Some(unread) => unread,
                None => return self.record_unless_settled(name, reporter, told, now),
            },
            _ => false,
        };
        self.record(name, reporter, told, !settles, now);
    }

    /// What is told of a task that waits to go out again, after so many attempts. Nobody else was given it since: what is said
    /// of the last of them counts as if the client had it still.
    fn settle_waiting(&mut self, id: GroupId, attempts: u32, reporter: &Reporter, told: OutcomeReport, now: Time) {
        let last = attempts > 0 && told.attempt == attempts;
        if told.outcome == Outcome::Working {
            if last {
                self.renew(id, told.task, self.session_of(reporter, id), &reporter.peer, now);
            }
            return;
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        let counts = last || told.outcome == Outcome::Done;
        let name = group.name.clone();
        if counts {
            group.dirty = true;
            group.take_waiting(told.task);
            match told.outcome {
                Outcome::Retry => group.delayed.insert(told.task, now.after(told.delay), attempts),
                _ => group.rate.count(now),
            }
        }
        self.record(name, reporter, told, !counts, now);
    }

    /// The stream of whoever tells this, if it is of that group.
    fn session_of(&self, reporter: &Reporter, group: GroupId) -> Option<SessionId> {
        let session = match &reporter.client {
            Some(client) => self.clients.get(client).copied(),
            None => self.peers.get(&reporter.peer)?.session,
        };
        session.filter(|id| self.sessions.get(id).is_some_and(|session| session.group == group))
    }

    /// The client at that address is at work on a task: it has it from now on, if it had not, and nobody else has. Without a
    /// session, its stream has some time to come.
    pub(super) fn renew(&mut self, id: GroupId, task: TaskId, session: Option<SessionId>, peer: &Arc<str>, now: Time) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let lasts = match session {
            Some(_) => self.config.ack_timeout,
            None => self.config.ack_timeout.min(GRACE),
        };
        let had = group.unlease(task).map(|lease| (lease.task, lease.attempt, lease.since));
        let waited = || group.take_waiting(task).map(|(text, attempt)| (text, attempt, now));
        let Some((text, attempt, since)) = had.or_else(waited) else { return };
        let (deadline, confirmed_from) = (now.after(lasts), Some(peer.clone()));
        group.lease(task, Lease { task: text, session, attempt, since, deadline, confirmed_from });
        if let Some(id) = session {
            self.sessions.get_mut(&id).map(|session| session.held.insert(task));
            self.list(id);
        }
    }

    /// Marks a task as taken up if the group may not have come to it yet; says whether it was so.
    ///
    /// Where a class is behind and its tasks are not in memory, any task further on may be of that class. Then `None`: only
    /// the log of outcomes can say whether it was settled; it does not go out in either case.
    fn take_unread(&mut self, id: GroupId, task: TaskId) -> Option<bool> {
        let recent = self.recent(task).cloned();
        let Some(group) = self.groups.get_mut(&id).filter(|_| task <= self.head) else { return Some(false) };
        let mut classes = group.classes.iter().map(|class| class.is_unread(task));
        let unread = match recent {
            Some(recent) => Some(group.wants(&recent) && group.classes[recent.spec.priority as usize].is_unread(task)),
            None if classes.clone().all(|unread| unread) => Some(true),
            None if classes.any(|unread| unread) => None,
            None => Some(false),
        };
        if unread == Some(false) || group.ahead.contains(&task) {
            return Some(false);
        }
        group.dirty = true;
        group.ahead.insert(task);
        unread
    }

    fn record_unless_settled(&mut self, group: Option<GroupName>, reporter: &Reporter, told: OutcomeReport, now: Time) {
        self.flush_records();
        self.record(group, reporter, told, false, now);
        self.count_records();
        self.recorded += 1;
        let results = self.records.drain(..).map(Box::new);
        self.actions.extend(results.map(Action::RecordUnlessSettled));
    }

    pub(super) fn record(
        &mut self,
        group: Option<GroupName>,
        reporter: &Reporter,
        told: OutcomeReport,
        late: bool,
        now: Time,
    ) {
        // Without a group there is nothing to wait for.
        let delayed = told.outcome == Outcome::Retry && !late && group.is_some() && !told.delay.is_zero();
        let client = reporter.client.as_ref().map_or_else(|| reporter.peer.clone(), |client| client.as_str().into());
        self.records.push(NewResult {
            task: told.task,
            group,
            client,
            attempt: told.attempt.max(1),
            outcome: told.outcome,
            ret: told.ret,
            at: now,
            not_before: delayed.then(|| now.after(told.delay)),
            late,
        });
    }

    /// An outcome that no client told.
    pub(super) fn settled_by_server(&mut self, id: GroupId, task: TaskId, attempt: u32, outcome: Outcome, now: Time) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.dirty = true;
        if group.leased {
            let (group, client) = (group.name.clone(), Arc::from(""));
            let ret = String::new();
            self.records.push(NewResult {
                task,
                group,
                client,
                attempt,
                outcome,
                ret,
                at: now,
                not_before: None,
                late: false,
            });
        }
    }

    pub(super) fn most_attempts(&self, task: &Task) -> u32 {
        task.spec.max_attempts.unwrap_or(self.config.max_attempts)
    }

    /// Takes a task from its client.
    pub(super) fn end_lease(&mut self, id: GroupId, task: TaskId) -> Option<(Lease, Arc<str>)> {
        let lease = self.groups.get_mut(&id)?.unlease(task)?;
        let client = self.holder(&lease);
        if let Some(id) = lease.session {
            self.sessions.get_mut(&id).map(|session| session.held.remove(&task));
            self.list(id);
        }
        Some((lease, client))
    }

    /// Who has it: the client's id, or its address.
    pub(super) fn holder(&self, lease: &Lease) -> Arc<str> {
        let session = lease.session.and_then(|id| self.sessions.get(&id));
        let client = session.map(|session| &session.label).or(lease.confirmed_from.as_ref());
        client.map_or_else(|| "".into(), Arc::clone)
    }

    /// Takes a task from its client, to go out again; or to the dead letters, if its attempts are used up.
    pub(super) fn give_back(
        &mut self,
        id: GroupId,
        task: TaskId,
        outcome: Outcome,
        ret: String,
        not_before: Option<Time>,
        now: Time,
    ) {
        let Some((lease, client)) = self.end_lease(id, task) else { return };
        let used_up = lease.task.as_ref().is_some_and(|task| lease.attempt >= self.most_attempts(task));
        let Some(group) = self.groups.get_mut(&id) else { return };
        let result = NewResult {
            task,
            group: group.name.clone(),
            client,
            attempt: lease.attempt,
            outcome,
            ret,
            at: now,
            not_before,
            late: false,
        };
        if used_up {
            let last = NewResult { outcome: Outcome::Exhausted, not_before: None, ..result.clone() };
            self.records.extend([result, last]);
            return;
        }
        match (not_before, lease.task) {
            (None, Some(text)) => {
                group.returned.insert((text.spec.priority, task), Returned { task: text, attempts: lease.attempt });
            }
            // Without its text it is loaded again; if its attempts are used up, that is seen then.
            (due, _) => group.delayed.insert(task, due.unwrap_or(now), lease.attempt),
        }
        self.records.push(result);
    }
}
