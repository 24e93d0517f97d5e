//! What operators see and change.

use std::sync::Arc;

use super::{Config, Core};
use crate::broker::group::{CLASSES, Group};
use crate::broker::session::{ClientInfo, Session, SessionId};
use crate::broker::tally::Tally;
use crate::store::Backlog;
use crate::task::{ClientId, GroupName, NewResult, Outcome, Task, TaskId, Time};
pub use crate::task_state::WaitReason;

/// How far a group has come.
#[derive(Debug, Clone)]
pub struct GroupInfo {
    /// Its name.
    pub name: GroupName,
    /// How many clients of it are connected.
    pub clients: usize,
    /// How many tasks are with a client now.
    pub in_flight: usize,
    /// How many were delivered, are not settled, and wait to go out again.
    pub waiting: usize,
    /// Of these, how many whose time has not come.
    pub delayed: usize,
    /// How many it has not come to yet and are in memory, about to go out.
    pub ready: usize,
    /// The oldest of these three.
    pub oldest: Option<TaskId>,
    /// What else it has not come to yet: only the store can count that.
    pub backlog: Vec<Backlog>,
    /// Of `ready` and `backlog` so many are settled, or waiting, all the same.
    pub settled_ahead: usize,
    /// Settled a second, over the last ten seconds.
    pub rate: f64,
    /// The last second in which one was settled, since the start of the server.
    pub last_settled: Option<Time>,
    /// Since when a client has the task that was with one for longest.
    pub held_since: Option<Time>,
    /// Delivery is stopped.
    pub paused: bool,
    /// When a client of it was last connected; now, if one is.
    pub last_used: Time,
    /// What became of its tasks since the start of the server.
    pub tally: Tally,
    /// There are tasks for it in the log, and the broker knows no such group.
    pub never_came: bool,
}

/// Where a task stands with a group that has not settled it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskState {
    /// With a client, which has so long to say something; and which delivery that is.
    InFlight(Arc<str>, Time, u32),
    /// Waiting to go out.
    Waiting(WaitReason),
    /// Through with it: the log of outcomes says how.
    Settled,
}

/// Why a group was not removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// There is none of that name.
    #[error("there is no group {0}")]
    Unknown(GroupName),
    /// It is being used.
    #[error("group {0} has {1} clients connected; stop them first, or they would make it anew")]
    InUse(GroupName, usize),
}

impl Core {
    /// Takes other settings, for what is delivered and renewed from now on, and for who comes. Which group anonymous clients are
    /// in stays: those that are there were told otherwise.
    pub fn reconfigure(&mut self, config: Config) {
        self.config = Config { anonymous_group: self.config.anonymous_group.take(), ..config };
    }

    /// The connected clients, oldest stream first.
    pub fn clients(&self) -> Vec<ClientInfo> {
        let mut sessions: Vec<_> = self.sessions.iter().collect();
        sessions.sort_unstable_by_key(|(id, _)| **id);
        sessions.into_iter().map(|(_, session)| self.info(session)).collect()
    }

    /// How it is set now.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many streams there are.
    pub fn connected(&self) -> usize {
        self.sessions.len()
    }

    /// Whether a client of that id has a stream.
    pub fn is_connected(&self, client: &ClientId) -> bool {
        self.clients.contains_key(client)
    }

    /// The client of this session.
    pub fn client(&self, id: SessionId) -> Option<ClientInfo> {
        self.sessions.get(&id).map(|session| self.info(session))
    }

    pub(super) fn info(&self, session: &Session) -> ClientInfo {
        ClientInfo {
            client: session.join.client.clone(),
            group: self.groups.get(&session.group).and_then(|group| group.name.clone()),
            peer: session.join.peer.clone(),
            since: session.since,
            window: Some(session.window).filter(|window| *window != usize::MAX),
            in_flight: session.held.len(),
            delivered: session.delivered,
        }
    }

    /// The groups that have a name, by name.
    pub fn groups(&self, now: Time) -> Vec<GroupInfo> {
        let mut groups = self.unsorted_groups(now);
        groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        groups
    }

    pub(super) fn unsorted_groups(&self, now: Time) -> Vec<GroupInfo> {
        let named = self.groups.values().filter_map(|group| Some((group.name.clone()?, group)));
        named.map(|(name, group)| self.group_info(name, group, now)).collect()
    }

    fn group_info(&self, name: GroupName, group: &Group, now: Time) -> GroupInfo {
        let behind = CLASSES.into_iter().enumerate().filter(|(at, _)| group.classes[*at].behind);
        let backlog = behind.map(|(at, class)| Backlog {
            group: Some(name.clone()),
            class,
            after: group.classes[at].read,
            upto: self.head,
            broadcast_after: group.broadcast_after,
            limit: 1,
            max_bytes: 1,
        });
        GroupInfo {
            clients: group.sessions.len(),
            in_flight: group.leases.len(),
            waiting: group.returned.len() + group.delayed.len() + group.loading.len(),
            delayed: group.delayed.len(),
            ready: group.classes.iter().map(|class| class.ready.len()).sum(),
            oldest: group.classes.iter().filter_map(|class| class.ready.first()).chain(group.oldest_open()).min(),
            backlog: backlog.filter(|backlog| backlog.after < backlog.upto).collect(),
            settled_ahead: group.ahead.len(),
            rate: group.rate.per_second(now),
            last_settled: group.rate.last(),
            held_since: group.leases.values().map(|lease| lease.since).min(),
            paused: group.paused,
            last_used: if group.sessions.is_empty() { group.last_used } else { now },
            tally: group.tally.clone(),
            never_came: false,
            name,
        }
    }

    /// Where a task stands with each group that it is for; by name.
    pub fn task_states(&self, task: &Task, now: Time) -> Vec<(GroupName, TaskState)> {
        let groups = self.groups.values().filter(|group| group.wants(task));
        let mut task_states: Vec<_> =
            groups.filter_map(|group| Some((group.name.clone()?, self.task_state(group, task, now)))).collect();
        task_states.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        task_states
    }

    pub(super) fn task_state(&self, group: &Group, task: &Task, now: Time) -> TaskState {
        if let Some(lease) = group.leases.get(&task.id) {
            return TaskState::InFlight(self.holder(lease), lease.deadline, lease.attempt);
        }
        let class = task.spec.priority as usize;
        let untouched = task.id > group.position(class, self.head) && !group.ahead.contains(&task.id);
        if !untouched && group.waiting(task.id).is_none() {
            return TaskState::Settled;
        }
        let delayed = group.delayed.get(task.id).map(|(due, _)| due);
        let due = delayed.max(task.spec.not_before).filter(|due| *due > now);
        let blocked = || group.sessions.iter().filter_map(|id| self.sessions.get(id)).any(|session| session.free() > 0);
        TaskState::Waiting(match due {
            Some(due) => WaitReason::NotBefore(due),
            None if group.paused => WaitReason::Paused,
            None if group.sessions.is_empty() => WaitReason::NoClient,
            None if !group.open_sessions.is_empty() => WaitReason::Queued,
            None if blocked() => WaitReason::NotReading,
            None => WaitReason::WindowsFull,
        })
    }

    /// Takes a task from every group that has not settled it; says how many there were. Groups that come later, and anonymous
    /// clients, are kept from it by its expiry in the store.
    pub fn cancel(&mut self, task: &Task, now: Time) -> u32 {
        // Whoever reads it from memory is to find it expired, too.
        let at = self.recent.partition_point(|recent| recent.id < task.id);
        if let Some(recent) = self.recent.get_mut(at).filter(|recent| recent.id == task.id) {
            let mut cancelled = Task::clone(recent);
            cancelled.spec.expires_at = Some(now);
            *recent = Arc::new(cancelled);
        }
        for passing in self.groups.values_mut().filter(|group| !group.leased) {
            passing.classes[task.spec.priority as usize].ready.remove(task.id);
        }
        let ids: Vec<_> = self.groups.iter().filter(|(_, g)| g.leased && g.wants(task)).map(|(id, _)| *id).collect();
        let mut count = 0;
        for id in ids {
            let attempt = match self.end_lease(id, task.id) {
                Some((lease, _)) => Some(lease.attempt),
                None => self.groups.get_mut(&id).and_then(|group| match group.take_waiting(task.id) {
                    Some((_, attempts)) => Some(attempts),
                    None if task.id > group.position(task.spec.priority as usize, self.head) => {
                        group.ahead.insert(task.id).then_some(0)
                    }
                    None => None,
                }),
            };
            if let Some(attempt) = attempt {
                self.settled_by_server(id, task.id, attempt, Outcome::Cancelled, now);
                count += 1;
            }
            self.dispatch(id, now);
        }
        count
    }

    /// Gives a task that the group has settled to it again, with fresh attempts; says whether it was so.
    pub fn revive(&mut self, name: &GroupName, task: &Task, now: Time) -> bool {
        let Some(id) = self.names.get(name).copied() else { return false };
        let settled = |group: &&mut Group| group.wants(task);
        let Some(group) = self.groups.get_mut(&id).filter(settled) else { return false };
        let open = group.leases.contains_key(&task.id) || group.waiting(task.id).is_some();
        let taken_up = task.id <= group.position(task.spec.priority as usize, self.head);
        if open || !(taken_up || group.ahead.contains(&task.id)) {
            return false;
        }
        // If it was not read yet, it is skipped when it is: it goes out from here.
        group.delayed.insert(task.id, now, 0);
        group.dirty = true;
        self.note(name, task.id, Outcome::Revived, now);
        self.dispatch(id, now);
        true
    }

    /// Takes a dead letter off the list.
    pub fn drop_dead(&mut self, name: &GroupName, task: TaskId, now: Time) {
        self.note(name, task, Outcome::Dropped, now);
    }

    /// Writes down what an operator did with a settled task.
    fn note(&mut self, name: &GroupName, task: TaskId, outcome: Outcome, now: Time) {
        self.records.push(NewResult {
            task,
            group: Some(name.clone()),
            client: "".into(),
            attempt: 0,
            outcome,
            ret: String::new(),
            at: now,
            not_before: None,
            late: false,
        });
    }

    /// Stops or resumes the delivery of tasks to a group.
    pub fn pause(&mut self, name: &GroupName, paused: bool, now: Time) -> Result<(), GroupError> {
        let id = *self.names.get(name).ok_or_else(|| GroupError::Unknown(name.clone()))?;
        if let Some(group) = self.groups.get_mut(&id) {
            group.paused = paused;
            group.dirty = true;
        }
        self.checkpoint();
        self.dispatch(id, now);
        Ok(())
    }

    /// Forgets a group that no client uses.
    pub fn remove_group(&mut self, name: &GroupName) -> Result<(), GroupError> {
        let id = *self.names.get(name).ok_or_else(|| GroupError::Unknown(name.clone()))?;
        match self.groups.get(&id).map_or(0, |group| group.sessions.len()) {
            0 => {}
            clients => return Err(GroupError::InUse(name.clone(), clients)),
        }
        self.flush_records();
        self.names.remove(name);
        self.groups.remove(&id);
        self.listening.iter_mut().for_each(|class| {
            class.remove(&id);
        });
        self.actions.push(super::Action::Forget(name.clone()));
        Ok(())
    }

    /// Every task up to here is settled by every group there is.
    pub fn settled_floor(&self) -> TaskId {
        let floor = |group: &Group| {
            let taken_up = group.taken_up(self.head);
            group.oldest_open().map_or(taken_up, |open| taken_up.min(open - 1))
        };
        self.groups.values().filter(|group| group.leased).map(floor).min().unwrap_or(self.head)
    }

    /// The newest task that the groups know of.
    pub fn head(&self) -> TaskId {
        self.head
    }
}
