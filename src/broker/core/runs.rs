//! What a run asks of the groups that it is for.

use super::Core;
use super::session::RevokeReason;
use crate::now::Now;
use crate::task::{GroupName, Outcome, Task};

/// Where a task stands with a group, as briefly as can be: it is asked for many groups at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is no such group, or no client of it is connected.
    Away,
    /// It is to be given to a client, or there is no task yet.
    Waits,
    /// With a client.
    Sent,
    /// With a client that said that it began it.
    Begun,
    /// The log of outcomes has it, or is about to.
    Settled,
}

impl Core {
    /// Where the task stands with these groups, each of which it is for. Without a task: whether they are there.
    pub fn standings(&self, task: Option<&Task>, names: &[GroupName]) -> Vec<Standing> {
        names.iter().map(|name| self.standing(task, name)).collect()
    }

    fn standing(&self, task: Option<&Task>, name: &GroupName) -> Standing {
        let Some(group) = self.names.get(name).and_then(|id| self.groups.get(id)) else { return Standing::Away };
        if let Some(task) = task {
            if let Some(lease) = group.open.lease_of(task.id) {
                return if lease.attempts.begun { Standing::Begun } else { Standing::Sent };
            }
            // A group that was removed and came again may not be for it any more.
            if !group.wants(task) {
                return Standing::Away;
            }
            if group.has_settled(task, self.head()) {
                return Standing::Settled;
            }
        }
        if group.sessions.is_empty() { Standing::Away } else { Standing::Waits }
    }

    /// Takes the task from those of the groups whose client has not begun it, as a cancelled one; says from how many. For the others it
    /// stays what it is.
    pub fn take_back(&mut self, task: &Task, names: &[GroupName], now: Now) -> usize {
        let head = self.head();
        let ids: Vec<_> = names.iter().filter_map(|name| self.names.get(name).copied()).collect();
        let mut taken = 0;
        for id in ids {
            let Some(group) = self.groups.get_mut(&id).filter(|group| group.leased && group.wants(task)) else {
                continue;
            };
            let lease = group.open.lease_of(task.id).map(|lease| (lease.attempts, lease.session));
            let attempt = match lease {
                Some((attempts, _)) if attempts.begun => continue,
                Some((attempts, session)) => {
                    self.end_lease(id, task.id);
                    if let Some(session) = session {
                        self.revoke(session, task.id, attempts.deliveries, RevokeReason::Cancelled);
                    }
                    Some(attempts.deliveries)
                }
                None => match group.open.take_waiting(task.id, &mut self.texts) {
                    Some((_, attempts)) => Some(attempts.deliveries),
                    None => group.take_up(task, head).then_some(0),
                },
            };
            if let Some(attempt) = attempt {
                self.record_by_server(id, task.id, attempt, Outcome::Cancelled, now);
                taken += 1;
            }
            self.dispatch(id, now);
        }
        taken
    }
}
