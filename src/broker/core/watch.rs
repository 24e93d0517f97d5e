//! What clients print while they are at work, for those who watch it: passed on, and never kept.

use std::collections::HashMap;
use std::sync::Arc;

use super::group::Group;
use super::session::SessionId;
use super::{Action, Core, GroupId};
use crate::now::Now;
use crate::task::{GroupName, Task, TaskId};

/// Most groups in which a task is watched at once.
pub const MOST_WATCHED: usize = 16;

/// A part of what a task printed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Piece {
    /// How many bytes it had printed before.
    pub from: u64,
    /// What it printed then.
    pub bytes: Vec<u8>,
}

/// That, and who printed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    /// The task.
    pub task: TaskId,
    /// The group that it is for there.
    pub group: GroupName,
    /// The client's id or address.
    pub client: Arc<str>,
    /// Which delivery.
    pub attempt: u32,
    /// What.
    pub piece: Piece,
}

/// A task of which a client should say what it prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// The task.
    pub task: TaskId,
    /// Which delivery.
    pub attempt: u32,
    /// One who watches has seen nothing of it.
    pub anew: bool,
}

/// Who has a task, and may print something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The client's id or address.
    pub client: Arc<str>,
    /// Which delivery.
    pub attempt: u32,
    /// It says what it prints.
    pub says: bool,
}

/// The groups that have not settled a task, each with the client that has it, if one has.
pub type Holders = Vec<(GroupName, Option<Holder>)>;

impl Core {
    /// Has the clients that have a task say what it prints, for some time. In one group, or in all that have not settled it, if these are not
    /// more than [`MOST_WATCHED`]: else nobody is told, and the error says how many there are. `seen`: the attempts of which the caller
    /// has seen what was printed so far.
    pub fn watch(
        &mut self,
        task: &Task,
        group: Option<&GroupName>,
        seen: &HashMap<GroupName, u32>,
        now: Now,
    ) -> Result<Holders, usize> {
        let over = task.spec.over(now.wall).is_some();
        let is_open = |id: &GroupId, group: &Group| {
            let leased = group.open.lease_of(task.id).is_some();
            (leased || !over && group.wants(task) && !group.has_settled(task, self.head()))
                .then(|| Some((group.name.clone()?, *id)))?
        };
        let mut open: Vec<(GroupName, GroupId)> = match group {
            Some(name) => {
                let id = self.names.get(name).filter(|id| self.groups.contains_key(id));
                id.and_then(|id| is_open(id, &self.groups[id])).into_iter().collect()
            }
            None => self.groups.iter().filter_map(|(id, group)| is_open(id, group)).collect(),
        };
        if open.len() > MOST_WATCHED {
            return Err(open.len());
        }
        // It waits for a group that has never come.
        let absent = task.spec.to.as_ref().filter(|to| !over && !self.names.contains_key(*to));
        if let Some(to) = absent.filter(|to| group.is_none_or(|group| group == *to)) {
            return Ok(vec![(to.clone(), None)]);
        }
        open.sort_unstable();
        let mut tell = Vec::new();
        let holder = |(name, id): (GroupName, GroupId)| {
            let Some(lease) = self.groups.get(&id).and_then(|group| group.open.lease_of(task.id)) else {
                return (name, None);
            };
            let attempt = lease.attempts.deliveries;
            let session: Option<SessionId> = lease.session;
            let says = session.and_then(|id| self.sessions.get(&id)).is_some_and(|session| session.join.output);
            if let Some(session) = session.filter(|_| says) {
                let anew = seen.get(&name) != Some(&attempt);
                tell.push(Action::Watch(session, Watched { task: task.id, attempt, anew }));
            }
            // Without a stream it cannot be told; it may come back.
            let holder = Holder { client: self.holder(lease), attempt, says: says || session.is_none() };
            (name, Some(holder))
        };
        let holders = open.into_iter().map(holder).collect();
        self.actions.extend(tell);
        Ok(holders)
    }
}
