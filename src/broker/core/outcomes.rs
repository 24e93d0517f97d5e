//! Outcomes come in.

use std::sync::Arc;

use super::{Action, Core, Peer, Teller, Told};
use crate::broker::group::{GroupId, Lease, Returned};
use crate::broker::tally::micros;
use crate::task::{GroupName, NewResult, Outcome, Task, TaskId, Time};

impl Core {
    /// A client says what came of tasks.
    pub fn settle(&mut self, teller: &Teller, mut told: Vec<Told>, now: Time) {
        let named = teller.group.as_ref().or(teller.client.as_ref());
        let group = match named {
            Some(name) => self.names.get(name).copied(),
            None => {
                let anonymous = self.config.anonymous_group.as_ref().and_then(|name| self.names.get(name));
                let alive = |id: &GroupId| self.groups.contains_key(id);
                let of_peer = self.peers.get(&teller.peer).and_then(|peer| peer.group).filter(alive);
                of_peer.or(anonymous.copied())
            }
        };
        if let Some(Peer { unmatched, .. }) = self.peers.get_mut(&teller.peer) {
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
                Some(group) if told.task != 0 => self.settle_one(group, teller, told, now),
                _ if told.outcome == Outcome::Working => {}
                _ => {
                    let late = named.is_some() || self.config.anonymous_group.is_some();
                    self.record(named.cloned(), teller, told, late, now);
                }
            }
        }
        if let Some(group) = group {
            self.dispatch(group, now);
        }
    }

    pub(super) fn settle_one(&mut self, id: GroupId, teller: &Teller, told: Told, now: Time) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let name = group.name.clone();
        if let Some(lease) = group.leases.get_mut(&told.task) {
            let current = told.attempt == 0 || told.attempt == lease.attempt;
            let told = Told { attempt: if told.attempt == 0 { lease.attempt } else { told.attempt }, ..told };
            match told.outcome {
                Outcome::Working if current => {
                    group.deadlines.remove(&(lease.deadline, told.task));
                    lease.deadline = now.after(self.config.ack_timeout);
                    group.deadlines.insert((lease.deadline, told.task));
                    lease.confirmed_from = Some(teller.peer.clone());
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
                    self.record(name, teller, told, false, now);
                }
                _ => self.record(name, teller, told, true, now),
            }
            return;
        }
        if told.outcome == Outcome::Working {
            return;
        }
        let settles = match told.outcome {
            // A late DONE settles what waits to go out again; after any other outcome it goes out all the same.
            _ if group.waits(told.task) => {
                group.dirty = true;
                told.outcome == Outcome::Done && group.take_waiting(told.task).is_some()
            }
            // It was delivered before a restart that forgot so: it must not go out again.
            outcome if outcome.settles() => match self.take_unread(id, told.task) {
                Some(unread) => unread,
                None => return self.record_unless_settled(name, teller, told, now),
            },
            _ => false,
        };
        self.record(name, teller, told, !settles, now);
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

    fn record_unless_settled(&mut self, group: Option<GroupName>, teller: &Teller, told: Told, now: Time) {
        self.flush_records();
        self.record(group, teller, told, false, now);
        self.count_records();
        self.recorded += 1;
        let results = self.records.drain(..).map(Box::new);
        self.actions.extend(results.map(Action::RecordUnlessSettled));
    }

    pub(super) fn record(&mut self, group: Option<GroupName>, teller: &Teller, told: Told, late: bool, now: Time) {
        let client = teller.client.as_ref().map_or_else(|| teller.peer.clone(), |client| client.as_str().into());
        self.records.push(NewResult {
            task: told.task,
            group,
            client,
            attempt: told.attempt.max(1),
            outcome: told.outcome,
            ret: told.ret,
            at: now,
            not_before: None,
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
        let group = self.groups.get_mut(&id)?;
        let lease = group.leases.remove(&task)?;
        group.deadlines.remove(&(lease.deadline, task));
        group.dirty = true;
        let mut label: Arc<str> = Arc::from("");
        if let Some(session) = self.sessions.get_mut(&lease.session) {
            session.held.remove(&task);
            label = session.label.clone();
        }
        self.list(lease.session);
        Some((lease, label))
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
        let most = self.most_attempts(&lease.task);
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
        if lease.attempt >= most {
            let last = NewResult { outcome: Outcome::Exhausted, not_before: None, ..result.clone() };
            self.records.extend([result, last]);
            return;
        }
        match not_before {
            Some(due) => group.delayed.insert(task, due, lease.attempt),
            None => {
                let key = (lease.task.spec.priority, task);
                group.returned.insert(key, Returned { task: lease.task, attempts: lease.attempt });
            }
        }
        self.records.push(result);
    }
}
