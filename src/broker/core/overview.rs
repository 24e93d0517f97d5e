//! Everything at one moment, for operators.

use std::time::Duration;

use super::Core;
use super::contest::ContestedId;
use super::group::{Group, GroupInfo};
use super::operators::TaskState;
use super::session::{ClientInfo, SessionId};
use super::tally::Meter;
use crate::now::{Now, Steady};
use crate::task::{ClientId, GroupName, Outcome, Task, Time};

/// A client whose stream ended.
#[derive(Debug, Clone)]
pub struct Disconnected {
    /// As it was at its end; what it held went to others.
    pub client: ClientInfo,
    /// When it ended.
    pub at: Time,
}

/// How many clients are connected, by what they said of themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Those that said nothing.
    pub anonymous: usize,
    /// Those with an id, which are a group of their own.
    pub named: usize,
    /// Those that named a group.
    pub members: usize,
}

impl Sessions {
    /// All of them.
    pub fn total(&self) -> usize {
        self.anonymous + self.named + self.members
    }
}

/// Everything at one moment.
#[derive(Debug, Clone)]
pub struct Overview {
    /// [`Config::ack_timeout`](super::Config::ack_timeout), as it counts from now on.
    pub ack_timeout: Duration,
    /// `--max-attempts`, as it counts from now on.
    pub max_attempts: u32,
    /// The groups that have a name, in no order: sorting them is not the work of the broker's thread.
    pub groups: Vec<GroupInfo>,
    /// How many clients are connected.
    pub sessions: Sessions,
    /// The newest connected clients, newest first.
    pub clients: Vec<ClientInfo>,
    /// Clients that disconnected, newest first. One that is back is not among them.
    pub disconnected: Vec<Disconnected>,
    /// For each task that was asked for, its state in one group: in flight if it is so in any group, else waiting, else settled.
    /// `None`: there is no group that it is for.
    pub task_states: Vec<Option<TaskState>>,
    /// The ids that several processes fight for, in no order.
    pub contested: Vec<ContestedId>,
    /// The clients that are missing, each with how long it has been away, in no order.
    pub missing: Vec<(ClientId, Duration)>,
    /// What was counted since the start.
    pub meter: Meter,
}

/// Most disconnected clients that are remembered.
const REMEMBERED: usize = 200;
/// How long they are remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(10 * 60);

impl Core {
    /// Everything at this moment, with at most `clients` clients. Costs time for each group and client: 8 to 12 ms for
    /// ten thousand of each, on two busy cores.
    pub(in crate::broker) fn overview(&self, tasks: &[Task], clients: usize, now: Now) -> Overview {
        let mut ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        let newest = clients.min(ids.len());
        if newest > 0 {
            ids.select_nth_unstable_by(newest - 1, |a, b| b.cmp(a));
        }
        ids.truncate(newest);
        ids.sort_unstable_by(|a, b| b.cmp(a));
        Overview {
            ack_timeout: self.config.ack_timeout,
            max_attempts: self.config.max_attempts,
            groups: self.unsorted_groups(now),
            sessions: self.count_sessions(),
            clients: ids.into_iter().filter_map(|id| self.client(id)).collect(),
            disconnected: self.disconnected(now),
            task_states: self.overall_states(tasks, now),
            contested: self.contested(now),
            missing: self.missing(now),
            meter: self.meter.clone(),
        }
    }

    /// What was counted since the start.
    pub(in crate::broker) fn meter(&self) -> &Meter {
        &self.meter
    }

    fn count_sessions(&self) -> Sessions {
        let mut sessions = Sessions::default();
        for session in self.sessions.values() {
            match (&session.join.group, &session.join.client) {
                (Some(_), _) => sessions.members += 1,
                (None, Some(_)) => sessions.named += 1,
                (None, None) => sessions.anonymous += 1,
            }
        }
        sessions
    }

    /// The clients that disconnected not long ago and are not back, newest first.
    pub(in crate::broker) fn disconnected(&self, now: Now) -> Vec<Disconnected> {
        let is_back = |left: &Disconnected| left.client.client.as_ref().is_some_and(|client| self.is_connected(client));
        let newest = self.disconnected.iter().rev().take_while(|(at, _)| now.steady.since(*at) < REMEMBERED_FOR);
        newest.map(|(_, left)| left).filter(|left| !is_back(left)).cloned().collect()
    }

    /// Whether a client of that id disconnected not long ago.
    pub(super) fn was_here(&self, client: &ClientId, now: Now) -> bool {
        let mut newest = self.disconnected.iter().rev();
        let is_it = |(_, left): &&(Steady, Disconnected)| left.client.client.as_ref() == Some(client);
        newest.find(is_it).is_some_and(|(at, _)| now.steady.since(*at) < REMEMBERED_FOR)
    }

    /// Remembers the client of a session that ends.
    pub(super) fn remember_disconnected(&mut self, id: SessionId, now: Now) {
        let Some(client) = self.client(id) else { return };
        // Once for each client that has a name, however often it comes and goes.
        if client.client.is_some() {
            self.disconnected.retain(|(_, left)| left.client.client != client.client);
        }
        self.disconnected.push_back((now.steady, Disconnected { client, at: now.wall }));
        if self.disconnected.len() > REMEMBERED {
            self.disconnected.pop_front();
        }
    }

    /// See [`Overview::task_states`].
    pub(in crate::broker) fn overall_states(&self, tasks: &[Task], now: Now) -> Vec<Option<TaskState>> {
        let addressed = |task: &Task| {
            let group = self.names.get(task.spec.to.as_ref()?).and_then(|id| self.groups.get(id))?;
            Some(self.task_state(group, task, now))
        };
        let mut states: Vec<_> = tasks.iter().map(addressed).collect();
        let for_everyone = |task: &Task| task.spec.to.is_none();
        let Some(newest) = tasks.iter().filter(|task| for_everyone(task)).map(|task| task.id).max() else {
            return states;
        };
        let head = self.head();
        let is_through = |group: &Group| group.open.len() == 0 && group.settled_floor(head) >= newest;
        for group in self.groups.values().filter(|group| group.leased) {
            let is_through = is_through(group);
            for (task, overall) in tasks.iter().zip(&mut states).filter(|(task, _)| for_everyone(task)) {
                // Asking one group costs time, and thousands may have a backlog: mostly the answer is known by then.
                let is_known = match overall {
                    Some(TaskState::InFlight(..)) => true,
                    Some(TaskState::Waiting(_)) => group.open.lease_of(task.id).is_none(),
                    Some(TaskState::Settled | TaskState::Ending(..)) => is_through,
                    None => false,
                };
                if is_known || !group.wants(task) {
                    continue;
                }
                let state = if is_through { TaskState::Settled } else { self.task_state(group, task, now) };
                if overall.as_ref().is_none_or(|before| rank(&state) < rank(before)) {
                    *overall = Some(state);
                }
            }
        }
        states
    }

    /// Where each task stands with this group. `None`: it is not for it, or there is no such group.
    pub(in crate::broker) fn states_in(&self, group: &GroupName, tasks: &[Task], now: Now) -> Vec<Option<TaskState>> {
        let group = self.names.get(group).and_then(|id| self.groups.get(id));
        let state = |task| group.filter(|group| group.wants(task)).map(|group| self.task_state(group, task, now));
        tasks.iter().map(state).collect()
    }

    /// Counts what is about to be recorded. The outcomes of one group mostly follow one another.
    pub(super) fn count_records(&mut self) {
        let mut counted: Option<(&Option<GroupName>, Option<&mut Group>)> = None;
        for result in &self.records {
            self.meter.total.count(result);
            if counted.as_ref().is_none_or(|(name, _)| *name != &result.group) {
                let id = result.group.as_ref().and_then(|name| self.names.get(name));
                counted = Some((&result.group, id.and_then(|id| self.groups.get_mut(id))));
            }
            match &mut counted {
                Some((_, Some(group))) => {
                    group.tally.count(result);
                    if result.outcome == Outcome::Expired && result.attempt == 0 {
                        group.undelivered.add(result.at);
                    }
                }
                Some((None, None)) => self.meter.anonymous.count(result),
                _ => {}
            }
        }
    }
}

fn rank(state: &TaskState) -> u8 {
    match state {
        TaskState::InFlight(..) => 0,
        TaskState::Waiting(_) => 1,
        TaskState::Settled | TaskState::Ending(..) => 2,
    }
}
