//! What a run asks of the groups that it is for.

use super::Core;
use crate::now::Now;
use crate::run::TargetState;
use crate::task::{GroupName, Task};

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

impl Standing {
    /// What a target of a run is by it. `None`: what came of its task says so.
    pub fn target(self) -> Option<TargetState> {
        match self {
            Standing::Away => Some(TargetState::Offline),
            Standing::Waits => Some(TargetState::Queued),
            Standing::Sent => Some(TargetState::Sent),
            Standing::Begun => Some(TargetState::Begun),
            Standing::Settled => None,
        }
    }
}

impl Core {
    /// Where the task stands with these groups, each of which it is for. Without a task: whether they are there.
    pub fn standings(&self, task: Option<&Task>, names: &[GroupName], now: Now) -> Vec<Standing> {
        names.iter().map(|name| self.standing(task, name, now)).collect()
    }

    fn standing(&self, task: Option<&Task>, name: &GroupName, now: Now) -> Standing {
        let Some(group) = self.names.get(name).and_then(|id| self.groups.get(id)) else { return Standing::Away };
        if let Some(task) = task {
            // What was with a client when the process ended is with it still, until that has had the time to come back.
            let leased = group.open.lease_of(task.id).map(|lease| lease.attempts);
            if let Some(attempts) = leased.or_else(|| group.open.held_back(task.id, now.steady)) {
                return if attempts.begun { Standing::Begun } else { Standing::Sent };
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
        let standings = self.standings(Some(task), names, now);
        let ids = names.iter().zip(standings).filter(|(_, standing)| *standing != Standing::Begun);
        let ids: Vec<_> = ids.filter_map(|(name, _)| self.names.get(name).copied()).collect();
        ids.into_iter().filter(|id| self.withdraw(*id, task, now).is_some()).count()
    }
}
