//! A task takes the place of an older one, where that has not begun.
//!
//! Which one takes whose place is decided with its acceptance, in the store, and stands in both there: whatever is read from then on
//! is found to be over. Here it is only what was read before that is found and changed.

use std::sync::Arc;

use super::delivery::named;
use super::outcomes::outcome_of;
use super::session::RevokeReason;
use super::{Core, GroupId};
use crate::now::Now;
use crate::store::{Backlog, BacklogPage, Skipped};
use crate::task::{GroupName, Name, NewResult, Outcome, Task, TaskId, Time};

impl Core {
    /// These tasks were accepted. Those whose place they took are given to nobody any more; says with which groups one waited.
    pub(super) fn replace(&mut self, newer: &[Arc<Task>], now: Now) -> Vec<GroupId> {
        let mut touched = Vec::new();
        for task in newer {
            let Some(old) = task.spec.replaces() else { continue };
            let ids: Vec<GroupId> = match named(task) {
                Some(names) => names.iter().filter_map(|name| self.names.get(name)).copied().collect(),
                None => self.groups.keys().copied().collect(),
            };
            self.recent.replace(old, task.id, task.accepted_at);
            let lane = task.spec.waits_in();
            touched.extend(ids.into_iter().filter(|id| self.replace_in(*id, old, lane, task.id, now)));
        }
        touched
    }

    /// The same of tasks that were not handed over.
    pub(super) fn replace_skipped(&mut self, skipped: &Skipped, now: Now) {
        let ids: Vec<GroupId> =
            if skipped.replaced.is_empty() { Vec::new() } else { self.groups.keys().copied().collect() };
        for (old, by) in &skipped.replaced {
            for id in &ids {
                self.replace_in(*id, *old, None, *by, now);
            }
        }
    }

    /// Takes a task from a group that has not begun it; says whether it was with it. What is under way goes on: whatever comes of that,
    /// it does not go out again.
    fn replace_in(&mut self, id: GroupId, old: TaskId, lane: Option<&Name>, by: TaskId, now: Now) -> bool {
        let Some(group) = self.groups.get_mut(&id) else { return false };
        let attempt = if let Some(lease) = group.open.lease_of(old) {
            let (attempt, session) = (lease.attempts.deliveries, lease.session);
            if lease.attempts.begun {
                group.open.replace_leased(old, by, now.wall, &mut self.texts);
                return false;
            }
            self.end_lease(id, old);
            if let Some(session) = session {
                self.revoke(session, old, attempt, RevokeReason::Cancelled);
            }
            attempt
        } else if group.open.held_back(old, now.steady).is_some_and(|attempts| attempts.begun) {
            // Its client may come back, and be at work on it.
            return false;
        } else if let Some((_, attempts)) = group.open.take_waiting(old, &mut self.texts) {
            attempts.deliveries
        } else if group.replace_ready(old, lane, by, now.wall) {
            0
        } else {
            return false;
        };
        if let Some(group) = self.groups.get_mut(&id) {
            group.settle_lanes();
        }
        self.record_replaced(id, old, attempt, by, now);
        true
    }

    /// Writes down that another one took the place of a task, unless the group is a passing one.
    pub(super) fn record_replaced(&mut self, id: GroupId, task: TaskId, attempt: u32, by: TaskId, now: Now) {
        if let Some(name) = self.groups.get(&id).and_then(|group| group.name.clone()) {
            self.records.push(replaced(task, name, attempt, by, now));
        }
    }

    /// Marks those tasks of a page whose place was taken since it was asked for. `None`: that is not known any more, and it is to be read
    /// again.
    pub(super) fn as_of_now(&self, id: GroupId, query: &Backlog, mut page: BacklogPage) -> Option<BacklogPage> {
        if page.tasks.iter().any(|task| task.spec.replace.is_some()) {
            let of_lane = |lane| Some(self.groups.get(&id)?.lanes.asked_at(query.priority, lane));
            let asked_at = query.lane.as_ref().map_or(Some(query.upto), of_lane)?;
            for by in self.recent.after(asked_at)? {
                if let Some(old) = by.spec.replaces()
                    && let Ok(at) = page.tasks.binary_search_by_key(&old, |task| task.id)
                {
                    page.tasks[at].spec.set_replaced(by.id, by.accepted_at);
                }
            }
        }
        Some(page)
    }
}

/// What came of a task whose place was taken.
pub(super) fn replaced(task: TaskId, group: GroupName, attempt: u32, by: TaskId, now: Now) -> NewResult {
    let ret = format!("replaced by task {by}");
    NewResult { ret, ..outcome_of(task, Some(group), "".into(), attempt, Outcome::Replaced, now.wall) }
}

/// What is kept of a task whose place was taken: nobody is given it.
pub(super) fn marked(task: &Task, by: TaskId, at: Time) -> Arc<Task> {
    let mut task = task.without_text();
    task.spec.set_replaced(by, at);
    Arc::new(task)
}
