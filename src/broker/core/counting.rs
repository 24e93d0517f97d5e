//! How many tasks of the log each group has not read: kept as tasks are accepted and read. What was in the log before, at a start or
//! when a group comes, is counted in the store, a bounded part at a time.
//!
//! Of each priority the core counts the broadcasts that were accepted since its start, and each cursor what of them it has passed;
//! so a broadcast costs nothing for the groups that do not read it. What is for one group alone is counted with its cursor.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::cursor::Ticket;
use super::timers::Timer;
use super::{Action, Core, GroupId};
use crate::now::Now;
use crate::store::{Backlog, Skipped};
use crate::task::{GroupName, Priority, Task, TaskId, Time};

/// Ids that one step goes over, at most; there are at most as many tasks. Some 10 ms.
const STEP: u64 = 250_000;
/// Steps that are asked for together.
const STEPS: usize = 64;
/// When what could not be counted is asked for again.
const COUNT_AGAIN: Duration = Duration::from_secs(1);

/// What the store counted of a [`Backlog`] that [`Action::Count`] asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Tasks that are for the group alone; without a group, those for everyone.
    pub tasks: u64,
    /// The first task of all of it, and when it was accepted; nothing without a group.
    pub first: Option<(TaskId, Time)>,
}

/// What is counted, and what is still to be counted.
#[derive(Debug, Default)]
pub(super) struct Counting {
    /// Broadcasts of each priority, since the start.
    pub(super) accepted: [i64; 3],
    descents: [Descent; 3],
    /// What is to be counted for one group alone, the first under way.
    own: VecDeque<Own>,
    tickets: Ticket,
    /// Something was asked for and has not come, or could not be read and is to be asked for later.
    waits: bool,
    /// All groups are to be counted anew.
    pub(super) all_again: bool,
}

/// The tasks for one group alone.
#[derive(Debug)]
struct Own {
    group: GroupId,
    ticket: Ticket,
    /// Where it began.
    read: TaskId,
    /// What is left of it.
    rest: Backlog,
}

/// Counts broadcasts of a priority from the head down to where groups stand: once for all of them.
#[derive(Debug, Default)]
struct Descent {
    /// So many broadcasts were accepted up to this task: fewer than none, if it is from before the start.
    reached: Option<(TaskId, i64)>,
    /// Who waits for the count from where.
    waiting: BTreeMap<(TaskId, Ticket), Waiting>,
}

/// Its count is of what there was when `accepted` broadcasts were accepted.
#[derive(Debug)]
struct Waiting {
    group: GroupId,
    accepted: i64,
}

impl Counting {
    /// The next steps to ask the store for. Those of one priority follow one another.
    fn next_steps(&self) -> Vec<Backlog> {
        let mut steps: Vec<Backlog> = Vec::new();
        for own in self.own.iter().take(STEPS) {
            steps.push(Backlog { upto: own.rest.upto.min(own.rest.after + STEP), ..own.rest.clone() });
        }
        for (priority, descent) in Priority::ALL.into_iter().zip(&self.descents) {
            let Some((mut upto, _)) = descent.reached else { continue };
            let mut starts = descent.waiting.keys().rev().map(|(start, _)| *start).peekable();
            while let Some(start) = starts.peek().copied().filter(|_| steps.len() < 2 * STEPS) {
                let after = start.max(upto.saturating_sub(STEP));
                if after < upto {
                    steps.push(Backlog {
                        group: None,
                        priority,
                        after,
                        upto,
                        broadcast_after: 0,
                        lane: None,
                        limit: 1,
                        max_bytes: 1,
                    });
                }
                upto = after;
                if after == start {
                    starts.next();
                }
            }
        }
        steps
    }
}

impl Descent {
    /// Begins at the head, if what was counted is not of use.
    fn begin(&mut self, head: TaskId, accepted: i64) {
        let furthest = self.waiting.last_key_value().map(|((start, _), _)| *start);
        if furthest.is_some_and(|start| self.reached.is_none_or(|(reached, _)| start > reached)) {
            self.reached = Some((head, accepted));
        }
    }

    /// Those whose count is known: each with its ticket, and how many broadcasts it has to read.
    fn arrived(&mut self) -> Vec<(GroupId, Ticket, i64)> {
        let mut arrived = Vec::new();
        while let Some((reached, accepted)) = self.reached
            && let Some(last) = self.waiting.last_entry().filter(|last| last.key().0 == reached)
        {
            let ((_, ticket), waiting) = last.remove_entry();
            arrived.push((waiting.group, ticket, waiting.accepted - accepted));
        }
        arrived
    }
}

impl Core {
    /// Tasks up to [`Skipped::head`] were accepted and are not handed over: they are in the backlog of every group already.
    pub(super) fn count_skipped(&mut self, skipped: &Skipped) {
        for (accepted, broadcasts) in self.counting.accepted.iter_mut().zip(skipped.broadcasts) {
            *accepted += broadcasts as i64;
        }
        let Some(addressed) = &skipped.addressed else {
            self.counting.all_again = true;
            return;
        };
        for (name, own) in addressed {
            let Some(group) = self.names.get(name).and_then(|id| self.groups.get_mut(id)) else { continue };
            for (priority, own) in Priority::ALL.into_iter().zip(own) {
                group.cursor_mut(priority).add_unread(*own);
            }
        }
    }

    /// Tasks for one group alone were accepted, and go into its backlog if it has one.
    pub(super) fn count_committed(&mut self, tasks: &[Arc<Task>]) {
        let mut last: Option<(&GroupName, Option<GroupId>)> = None;
        for task in tasks {
            let Some(to) = &task.spec.to else { continue };
            // Most often many for one group follow one another.
            let id = match last {
                Some((name, id)) if name == to => id,
                _ => self.names.get(to).copied(),
            };
            last = Some((to, id));
            let cursor = id.and_then(|id| self.groups.get_mut(&id)).map(|group| group.cursor_mut(task.spec.priority));
            if let Some(cursor) = cursor.filter(|cursor| cursor.has_backlog()) {
                cursor.add_unread(1);
            }
        }
    }

    /// Has it counted what the group has not read of the log.
    pub(super) fn count_group(&mut self, id: GroupId) {
        let head = self.head();
        let Some(group) = self.groups.get_mut(&id) else { return };
        for priority in Priority::ALL {
            let Some((start, read)) = group.unread_after(priority) else { continue };
            let accepted = self.counting.accepted[priority as usize];
            self.counting.tickets += 1;
            let ticket = self.counting.tickets;
            let parts = u8::from(read < head) + u8::from(start < head);
            if read < head {
                let rest = group.backlog(priority, read, head);
                self.counting.own.push_back(Own { group: id, ticket, read, rest });
            }
            if start < head {
                let waiting = &mut self.counting.descents[priority as usize].waiting;
                waiting.insert((start, ticket), Waiting { group: id, accepted });
            }
            group.cursor_mut(priority).count_anew(ticket, parts, accepted);
        }
    }

    /// Has it counted for all groups, from the beginning.
    pub(super) fn count_all(&mut self) {
        self.counting.own.clear();
        self.counting.descents = Default::default();
        let groups: Vec<_> = self.groups.iter().filter(|(_, group)| group.leased).map(|(id, _)| *id).collect();
        groups.into_iter().for_each(|id| self.count_group(id));
    }

    /// Asks the store for what is to be counted, a part at a time.
    pub(super) fn ask_for_counts(&mut self) {
        if self.counting.waits {
            return;
        }
        if std::mem::take(&mut self.counting.all_again) {
            self.count_all();
        }
        let head = self.head();
        for priority in Priority::ALL {
            let accepted = self.counting.accepted[priority as usize];
            self.counting.descents[priority as usize].begin(head, accepted);
            self.descended(priority);
        }
        let steps = self.counting.next_steps();
        if !steps.is_empty() {
            self.counting.waits = true;
            self.actions.push(Action::Count(steps));
        }
    }

    /// Tells those whose broadcasts are counted.
    fn descended(&mut self, priority: Priority) {
        for (id, ticket, unread) in self.counting.descents[priority as usize].arrived() {
            if let Some(group) = self.groups.get_mut(&id) {
                group.cursor_mut(priority).counted(ticket, unread, true);
            }
        }
    }

    /// What the store counted of what [`Action::Count`] asked for: all of it, or the first of it. `None`: it could not be read, ask
    /// again later.
    pub fn counted(&mut self, asked: &[Backlog], counted: Option<Vec<Counted>>, now: Now) {
        let Some(counted) = counted else {
            return self.timers.set(now.steady.after(COUNT_AGAIN), Timer::Count);
        };
        self.counting.waits = false;
        for (step, counted) in asked.iter().zip(counted) {
            match &step.group {
                Some(_) => self.counted_own(step, &counted),
                None => self.counted_broadcasts(step, counted.tasks as i64),
            }
        }
    }

    fn counted_own(&mut self, step: &Backlog, counted: &Counted) {
        // Steps are answered in the order of the queue; only the first of a group that has several is under way.
        let Some(mut own) = self.counting.own.pop_front() else { return };
        own.rest.after = step.upto;
        let complete = own.rest.after == own.rest.upto;
        if let Some(group) = self.groups.get_mut(&own.group) {
            let cursor = group.cursor_mut(step.priority);
            cursor.counted(own.ticket, counted.tasks as i64, complete);
            if let Some(first) = counted.first {
                cursor.found_first(own.read, first);
            }
            if !complete {
                self.counting.own.push_back(own);
            }
        }
    }

    fn counted_broadcasts(&mut self, step: &Backlog, broadcasts: i64) {
        let descent = &mut self.counting.descents[step.priority as usize];
        // It may have begun again meanwhile.
        if let Some((reached, accepted)) = descent.reached.filter(|(reached, _)| *reached == step.upto) {
            debug_assert!(step.after < reached);
            descent.reached = Some((step.after, accepted - broadcasts));
            self.descended(step.priority);
        }
    }

    /// It is time to ask again for what could not be counted.
    pub(super) fn count_again(&mut self) {
        self.counting.waits = false;
    }

    /// Tasks were removed: what was counted of them is no longer so for a group that comes now.
    pub(super) fn uncount(&mut self) {
        self.counting.descents.iter_mut().for_each(|descent| descent.reached = None);
    }
}
