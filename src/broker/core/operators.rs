//! What operators see and change.

use std::collections::HashMap;
use std::sync::Arc;

use super::counting::Counting;
use super::delayed::Due;
use super::delivery::still_to_come;
use super::group::{Group, GroupInfo};
use super::open::Said;
use super::outcomes::outcome_of;
use super::session::{ClientInfo, RevokeReason, Session, SessionId};
use super::{Action, Config, Core, GroupId};
use crate::group_limits::{GroupLimits, LimitsChange};
use crate::labels::Selector;
use crate::now::Now;
use crate::retry::RetryPolicy;
use crate::store::Floors;
use crate::task::{ClientId, GroupName, Outcome, Priority, Task, TaskId, Time};
pub use crate::task_state::WaitReason;

/// Where a task stands with a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskState {
    /// With a client: its id or address, when the lease ends, which delivery that is, and what the client said last of it.
    InFlight(Arc<str>, Time, u32, Said),
    /// Waiting to go out.
    Waiting(WaitReason),
    /// The group is done with it: the log of outcomes says how.
    Settled,
    /// It was cancelled, and this client, which had begun that delivery of it, has not said that it ended it. Only
    /// who asks for one task is told this; others [`TaskState::Settled`].
    Ending(Arc<str>, u32),
}

/// With how many groups, of those that had not settled it, a task was when it was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cancelled {
    /// It waited, or its client had not begun it.
    pub waiting: u32,
    /// A client was at work on it, and was told to end it.
    pub told: u32,
    /// A client was at work on it that cannot be told: it did not ask to hear of it, or its stream has ended. One that asked is told
    /// when it comes back.
    pub untold: u32,
}

impl Cancelled {
    /// How many groups.
    pub fn groups(self) -> u32 {
        self.waiting + self.told + self.untold
    }
}

/// Whether it is that long because something newer may take its place.
fn waits_for_quiet(task: &Task, due: Time) -> bool {
    let quiet = task.spec.replace.as_ref().and_then(|replace| replace.quiet);
    quiet.is_some_and(|quiet| quiet.until(task.accepted_at) == due)
}

/// How far a task was that was taken from a group.
pub(super) struct Withdrawn {
    /// A client was at work on it.
    begun: bool,
    /// The client that had it was told.
    told: bool,
}

/// Why an operator's wish for a group was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// There is none of that name.
    #[error("there is no group {0}")]
    Unknown(GroupName),
    /// It is being used.
    #[error("group {0} has {1} clients connected; stop them first, or they would make it anew")]
    InUse(GroupName, usize),
    /// There are as many as may be, and it would be new.
    #[error(
        "this group would be new, and there are {0} already, as many as this server may have (--max-groups): use the name of one that \
         is there (contactctl groups), or have an operator remove those that nobody needs (contactctl group rm)"
    )]
    TooMany(usize),
}

impl Core {
    /// Takes other settings, for deliveries, renewals and clients from now on. The group of anonymous clients stays as it was:
    /// those that are connected are in it.
    pub(in crate::broker) fn reconfigure(&mut self, config: Config) {
        self.config = Config { anonymous_group: self.config.anonymous_group.take(), ..config };
    }

    /// The connected clients, oldest stream first.
    pub fn clients(&self) -> Vec<ClientInfo> {
        let mut sessions: Vec<_> = self.sessions.iter().collect();
        sessions.sort_unstable_by_key(|(id, _)| **id);
        sessions.into_iter().map(|(_, session)| self.info(session)).collect()
    }

    /// How it is set now.
    pub(in crate::broker) fn config(&self) -> &Config {
        &self.config
    }

    /// Acknowledgements that matched nothing, so far.
    pub(in crate::broker) fn unmatched(&self) -> u64 {
        self.meter.unmatched
    }

    /// Outcomes that did not count, since who told them did not hold the task, so far.
    pub fn foreign(&self) -> u64 {
        self.meter.foreign
    }

    /// When the last acknowledgement came that matched nothing.
    pub(in crate::broker) fn last_unmatched(&self) -> Option<Time> {
        self.meter.last_unmatched
    }

    /// How often processes began to fight for a client id, so far.
    pub(in crate::broker) fn fights(&self) -> u64 {
        self.meter.fights
    }

    /// How many streams there are.
    pub(in crate::broker) fn connected(&self) -> usize {
        self.sessions.len()
    }

    /// Whether a client of that id has a stream.
    pub(in crate::broker) fn is_connected(&self, client: &ClientId) -> bool {
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
            labels: session.join.labels.clone(),
            version: session.join.version.clone(),
            system: session.join.system.clone(),
            peer: session.join.peer.clone(),
            since: session.since,
            window: Some(session.window).filter(|window| *window != usize::MAX),
            in_flight: session.held.len(),
            delivered: session.delivered,
            draining: session.draining.clone(),
            working: self.working(session),
        }
    }

    /// The oldest of a client's tasks of which it said how far it is.
    fn working(&self, session: &Session) -> Option<(TaskId, Said)> {
        let open = &self.groups.get(&session.group)?.open;
        let mut said = session.held.iter().filter_map(|task| Some((*task, &open.lease_of(*task)?.said)));
        said.find(|(_, said)| !said.is_nothing()).map(|(task, said)| (task, said.clone()))
    }

    /// The groups that have a name, by name.
    pub fn groups(&self, now: Now) -> Vec<GroupInfo> {
        let mut groups = self.unsorted_groups(now);
        groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        groups
    }

    pub(super) fn unsorted_groups(&self, now: Now) -> Vec<GroupInfo> {
        let Counting { accepted, all_again, .. } = &self.counting;
        let info = |group: &Group| {
            let info = group.info(self.head(), accepted, now)?;
            Some(GroupInfo {
                counting: info.counting || *all_again,
                draining_since: self.all_draining_since(group),
                ..info
            })
        };
        self.groups.values().filter_map(info).collect()
    }

    /// The groups whose labels match now, by name: those that they had when a client of theirs last came.
    pub fn matching(&self, selector: &Selector) -> Vec<GroupName> {
        let matching = self.groups.values().filter(|group| selector.matches(&group.labels));
        let mut names: Vec<_> = matching.filter_map(|group| group.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Those of the names that are none of a group.
    pub(in crate::broker) fn unknown(&self, names: Vec<GroupName>) -> Vec<GroupName> {
        names.into_iter().filter(|name| !self.names.contains_key(name)).collect()
    }

    /// Where a task stands with each group that it is for; by name.
    pub fn task_states(&self, task: &Task, now: Now) -> Vec<(GroupName, TaskState)> {
        let groups = self.groups.values().filter(|group| group.wants(task));
        let state = |group: &Group| match self.task_state(group, task, now) {
            TaskState::Settled if task.spec.cancelled_at().is_some() => self.ending(group, task.id),
            state => state,
        };
        let mut task_states: Vec<_> = groups.filter_map(|group| Some((group.name.clone()?, state(group)))).collect();
        task_states.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        task_states
    }

    fn ending(&self, group: &Group, task: TaskId) -> TaskState {
        let mut sessions = group.sessions.iter().filter_map(|id| self.sessions.get(id));
        let ending = sessions.find_map(|session| Some((session, session.ending.get(&task)?)));
        ending.map_or(TaskState::Settled, |(session, attempt)| TaskState::Ending(session.label.clone(), *attempt))
    }

    pub(super) fn task_state(&self, group: &Group, task: &Task, now: Now) -> TaskState {
        if let Some(lease) = group.open.lease_of(task.id) {
            let (attempt, said) = (lease.attempts.deliveries, lease.said.clone());
            return TaskState::InFlight(self.holder(lease), now.wall_at(lease.deadline), attempt, said);
        }
        if group.has_settled(task, self.head()) {
            return TaskState::Settled;
        }
        let waits_until = match group.open.due(task.id) {
            Some(Due::After(wait)) => Some(now.wall_at(wait)),
            Some(Due::At(moment)) => Some(moment),
            None => None,
        };
        let moment = still_to_come(task, group.open.waiting(task.id).unwrap_or_default(), now);
        let due = waits_until.max(moment).filter(|due| *due > now.wall);
        let takes = |id| self.sessions.get(id).is_some_and(|session| session.takes(task));
        let too_long = !group.sessions.is_empty() && !group.sessions.iter().any(takes);
        if too_long && moment.is_none() {
            return TaskState::Waiting(WaitReason::TooLong);
        }
        TaskState::Waiting(match due {
            Some(due) if waits_for_quiet(task, due) => WaitReason::Quiet(due),
            Some(due) => WaitReason::NotBefore(due),
            None => self.wait_reason(group, task, now),
        })
    }

    /// Why a task of this priority that is due does not go out: what [`Core::dispatch`] goes by.
    fn wait_reason(&self, group: &Group, task: &Task, now: Now) -> WaitReason {
        let priority = task.spec.priority;
        let sessions = || {
            let sessions = group.sessions.iter().filter_map(|id| self.sessions.get(id));
            sessions.filter(|session| session.draining.is_none() && session.free() > 0)
        };
        let suspect = || Priority::ALL.into_iter().find(|class| group.open.has_suspect(*class));
        match group.next_session(now.steady) {
            _ if group.paused => WaitReason::Paused,
            _ if group.sessions.is_empty() => WaitReason::NoClient,
            _ if let Some((before, is_dead)) = group.waits_behind(task) => match is_dead {
                true => WaitReason::LaneHeld(before),
                false => WaitReason::InLane(before),
            },
            _ if group.is_full(now.steady) => WaitReason::GroupFull,
            _ if group.may_begin_at(now.steady).is_some() => WaitReason::RateReached,
            Some(_) if suspect().is_some_and(|class| class <= priority) => WaitReason::OneAtATime,
            Some(_) => WaitReason::Queued,
            None if self.all_draining_since(group).is_some() => WaitReason::Draining,
            None if sessions().any(|session| !session.has_room()) => WaitReason::NotReading,
            None if sessions().any(|session| session.alone) => WaitReason::OneAtATime,
            None => WaitReason::WindowsFull,
        }
    }

    /// Takes a task from every group that has not settled it; says with how many it was how far. Groups that come later, and anonymous
    /// clients, are kept from it by the mark in the store.
    pub fn cancel(&mut self, task: &Task, now: Now) -> Cancelled {
        self.recent.cancel(task.id, now.wall);
        // A page that was read before may have it still.
        let head = self.head();
        for passing in self.groups.values_mut().filter(|group| !group.leased && group.wants(task)) {
            passing.take_up(task, head);
        }
        let ids: Vec<_> = self.groups.iter().filter(|(_, g)| g.leased && g.wants(task)).map(|(id, _)| *id).collect();
        let mut cancelled = Cancelled::default();
        for id in ids {
            *match self.withdraw(id, task, now) {
                None => continue,
                Some(Withdrawn { begun: false, .. }) => &mut cancelled.waiting,
                Some(Withdrawn { told: true, .. }) => &mut cancelled.told,
                Some(_) => &mut cancelled.untold,
            } += 1;
        }
        cancelled
    }

    /// Takes a task from a group, as a cancelled one, and tells the client that has it. `None`: it is not for the group, or settled.
    pub(super) fn withdraw(&mut self, id: GroupId, task: &Task, now: Now) -> Option<Withdrawn> {
        let head = self.head();
        self.groups.get(&id).filter(|group| group.leased && group.wants(task))?;
        let mut withdrawn = Withdrawn { begun: false, told: false };
        let attempt = match self.end_lease(id, task.id) {
            Some((lease, _)) => {
                let attempt = lease.attempts.deliveries;
                let told = lease.session.is_some_and(|id| self.revoke(id, task.id, attempt, RevokeReason::Cancelled));
                withdrawn = Withdrawn { begun: lease.attempts.begun, told };
                if withdrawn.begun {
                    self.is_to_end(lease.session, task.id, attempt);
                }
                attempt
            }
            None => {
                let group = self.groups.get_mut(&id)?;
                match group.open.take_waiting(task.id, &mut self.texts) {
                    Some((_, attempts)) => attempts.deliveries,
                    None => group.take_up(task, head).then_some(0)?,
                }
            }
        };
        self.record_by_server(id, task.id, attempt, Outcome::Cancelled, now);
        self.dispatch(id, now);
        Some(withdrawn)
    }

    /// A client is at work on what was cancelled.
    pub(super) fn is_to_end(&mut self, session: Option<SessionId>, task: TaskId, attempt: u32) {
        if let Some(session) = session.and_then(|id| self.sessions.get_mut(&id)) {
            session.is_to_end(task, attempt);
        }
    }

    /// These tasks are no longer stored: what of them is in memory is forgotten, too.
    pub fn removed(&mut self, tasks: &[TaskId], now: Now) {
        self.recent.remove(tasks);
        self.uncount();
        // Every named group has settled them, but for one that came meanwhile; anonymous clients may be about to get them.
        for group in self.groups.values_mut() {
            for priority in Priority::ALL {
                group.cursor_mut(priority).forget(tasks);
            }
            group.lanes.forget(tasks);
        }
        let holds = |group: &Group| group.open.dead().next().is_some();
        let held: Vec<_> = self.groups.iter().filter(|(_, group)| holds(group)).map(|(id, _)| *id).collect();
        held.into_iter().for_each(|id| self.free_lanes(id, tasks, now));
    }

    /// Gives a task that the group has settled to it again, with fresh attempts; says whether it was so.
    pub fn revive(&mut self, name: &GroupName, task: &Task, now: Now) -> bool {
        let Some(id) = self.names.get(name).copied() else { return false };
        let head = self.head();
        let Some(group) = self.groups.get_mut(&id).filter(|group| group.wants(task)) else { return false };
        if !group.revive(task, head, now) {
            return false;
        }
        self.reopened += 1;
        self.record_by_operator(name, task.id, Outcome::Revived, now);
        self.dispatch(id, now);
        true
    }

    /// Takes a dead letter off the list.
    pub fn drop_dead(&mut self, name: &GroupName, task: TaskId, now: Now) {
        self.record_by_operator(name, task, Outcome::Dropped, now);
        if let Some(id) = self.names.get(name).copied() {
            self.free_lanes(id, &[task], now);
        }
    }

    /// Dead letters that are no more hold no lane.
    fn free_lanes(&mut self, id: GroupId, tasks: &[TaskId], now: Now) {
        if let Some(group) = self.groups.get_mut(&id) {
            tasks.iter().for_each(|task| group.end_hold(*task));
            self.dispatch(id, now);
        }
    }

    /// Writes down what an operator did with a settled task.
    fn record_by_operator(&mut self, name: &GroupName, task: TaskId, outcome: Outcome, now: Now) {
        self.records.push(outcome_of(task, Some(name.clone()), "".into(), 0, outcome, now.wall));
    }

    /// Stops or resumes the delivery of tasks to a group. One that no client came to yet is made when it is stopped, as a
    /// client that says nothing would make it; says whether it was.
    pub fn pause(&mut self, name: &GroupName, paused: bool, now: Now) -> Result<bool, GroupError> {
        let (id, is_new) = self.group_to_set(name, paused, now)?;
        if let Some(group) = self.groups.get_mut(&id) {
            group.set_paused(paused);
        }
        self.checkpoint(now);
        self.dispatch(id, now);
        Ok(is_new)
    }

    /// Says how the tasks of a group are tried again, from the next decision on; tasks that wait are not woken. One that no client
    /// came to yet is made, unless nothing is said; says whether it was.
    pub fn set_retry(&mut self, name: &GroupName, retry: RetryPolicy, now: Now) -> Result<bool, GroupError> {
        let (id, is_new) = self.group_to_set(name, !retry.is_open(), now)?;
        if let Some(group) = self.groups.get_mut(&id) {
            group.set_retry(retry);
        }
        self.checkpoint(now);
        Ok(is_new)
    }

    /// Sets limits of a group anew, from now on: what is with clients stays there. One that no client came to yet is made, unless
    /// nothing is limited; says how they are, and whether it was made.
    pub fn set_limits(
        &mut self,
        name: &GroupName,
        change: LimitsChange,
        now: Now,
    ) -> Result<(GroupLimits, bool), GroupError> {
        let make = !change.applied_to(GroupLimits::default()).is_default();
        let (id, is_new) = self.group_to_set(name, make, now)?;
        let Some(group) = self.groups.get_mut(&id) else { return Err(GroupError::Unknown(name.clone())) };
        let limits = change.applied_to(group.limits());
        group.set_limits(limits, now.steady);
        self.checkpoint(now);
        self.dispatch(id, now);
        Ok((limits, is_new))
    }

    /// The group of that name, and whether it was made now, if it is to be made.
    fn group_to_set(&mut self, name: &GroupName, make: bool, now: Now) -> Result<(GroupId, bool), GroupError> {
        match self.names.get(name) {
            Some(id) => Ok((*id, false)),
            None if make => {
                self.room_for_a_group()?;
                Ok((self.group_for(Some(name.clone()), self.config.groups_from, now), true))
            }
            None => Err(GroupError::Unknown(name.clone())),
        }
    }

    /// Forgets a group that no client uses.
    pub fn remove_group(&mut self, name: &GroupName, now: Now) -> Result<(), GroupError> {
        let id = *self.names.get(name).ok_or_else(|| GroupError::Unknown(name.clone()))?;
        match self.groups.get(&id).map_or(0, |group| group.sessions.len()) {
            0 => {}
            clients => return Err(GroupError::InUse(name.clone(), clients)),
        }
        self.flush_records();
        self.names.remove(name);
        self.drop_group(id);
        self.actions.push(Action::Forget(name.clone()));
        self.forget_clients_of(name, now);
        Ok(())
    }

    /// How often something came that is owed tasks below what [`settled_floors`](Core::settled_floors) said: a group, or a task that was
    /// revived. Else these only rise.
    pub fn reopened(&self) -> u64 {
        self.reopened
    }

    /// Up to where everything is settled, by those for whom it is.
    pub fn settled_floors(&self) -> Floors {
        let named = self.groups.values().filter(|group| group.leased);
        let floor = |group: &Group| Some((group.name.clone()?, group.settled_floor(self.head())));
        let groups: HashMap<GroupName, TaskId> = named.filter_map(floor).collect();
        Floors { everyone: groups.values().copied().min().unwrap_or(self.head()), groups }
    }

    /// The newest task that the groups know of.
    pub(in crate::broker) fn head(&self) -> TaskId {
        self.recent.head()
    }
}
