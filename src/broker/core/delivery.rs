//! Tasks come in and go out.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Action, Core, RECENT_BYTES};
use crate::broker::group::{CLASSES, GroupId, Lease, Page, Returned};
use crate::broker::session::{Delivery, SessionId};
use crate::broker::tally::micros;
use crate::store::{Backlog, BacklogPage};
use crate::task::{Outcome, Task, TaskId, Time};

/// What could not be read is asked for again after so long.
const READ_AGAIN: Duration = Duration::from_secs(1);

impl Core {
    /// These tasks were accepted: consecutive ids, right behind the newest one before them.
    pub fn committed(&mut self, tasks: Vec<Arc<Task>>, now: Time) {
        let mut touched = BTreeSet::new();
        for (class, priority) in CLASSES.into_iter().enumerate() {
            let of_class = || tasks.iter().filter(move |task| task.spec.priority == priority);
            let listening: Vec<GroupId> = if of_class().any(|task| task.spec.to.is_none()) {
                self.listening[class].iter().copied().collect()
            } else {
                // Addressed ones touch only the groups they are for, however many there are.
                let to = of_class().filter_map(|task| self.names.get(task.spec.to.as_ref()?)).copied();
                to.filter(|id| self.listening[class].contains(id)).collect::<BTreeSet<_>>().into_iter().collect()
            };
            for id in listening {
                let Some(group) = self.groups.get_mut(&id) else { continue };
                for task in of_class() {
                    if !group.wants(task) {
                        continue;
                    }
                    touched.insert(id);
                    let reading = !group.sessions.is_empty();
                    let state = &mut group.classes[class];
                    if state.ready.is_empty() {
                        // The position was the head: now it is what stands before this task.
                        state.cursor = task.id - 1;
                    }
                    // Nothing is kept in memory for a group that is not there.
                    if !reading || state.ready.is_full() {
                        state.behind = true;
                        state.read = task.id - 1;
                        self.listening[class].remove(&id);
                        break;
                    }
                    state.ready.push(task.clone());
                }
            }
        }
        for task in tasks {
            self.head = task.id;
            self.recent_bytes += cost(&task);
            self.recent.push_back(task);
        }
        while self.recent_bytes > RECENT_BYTES {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.recent_bytes -= cost(&oldest);
        }
        for id in touched {
            self.dispatch(id, now);
        }
    }

    /// Tasks up to here were accepted, too many to be handed over: every group reads them from the store.
    pub fn advanced(&mut self, head: TaskId, now: Time) {
        for (class, listening) in self.listening.iter_mut().enumerate() {
            for id in std::mem::take(listening) {
                if let Some(group) = self.groups.get_mut(&id) {
                    let class = &mut group.classes[class];
                    class.behind = true;
                    class.read = self.head;
                    if class.ready.is_empty() {
                        class.cursor = self.head;
                    }
                }
            }
        }
        self.recent.clear();
        self.recent_bytes = 0;
        self.head = head;
        let active: Vec<GroupId> =
            self.groups.iter().filter(|(_, g)| !g.open_sessions.is_empty()).map(|(id, _)| *id).collect();
        for id in active {
            self.dispatch(id, now);
        }
    }

    /// A page of the backlog that [`Action::Fetch`] asked for; `None`: it could not be read, ask again later.
    pub fn fetched(&mut self, id: GroupId, query: &Backlog, page: Option<BacklogPage>, now: Time) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let at = query.class as usize;
        let class = &mut group.classes[at];
        class.fetching = false;
        let Some(page) = page else {
            return self.wake_group_at(id, now.after(READ_AGAIN));
        };
        class.read = page.scanned;
        page.tasks.into_iter().for_each(|task| class.ready.push(Arc::new(task)));
        if class.read >= self.head {
            class.behind = false;
            self.listening[at].insert(id);
        }
        self.dispatch(id, now);
    }

    /// The tasks that [`Action::Load`] asked for. Those that are not among them are no more.
    pub fn loaded(&mut self, id: GroupId, asked: &[TaskId], tasks: Option<Vec<Task>>, now: Time) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(tasks) = tasks else {
            // Could not be read: due again later.
            let retry = now.after(READ_AGAIN);
            for task in asked {
                if let Some(attempts) = group.loading.remove(task) {
                    group.delayed.insert(*task, retry, attempts);
                }
            }
            return self.wake_group(id);
        };
        for task in tasks {
            if let Some(attempts) = group.loading.remove(&task.id) {
                group.returned.insert((task.spec.priority, task.id), Returned { task: Arc::new(task), attempts });
            }
        }
        for task in asked {
            group.loading.remove(task);
        }
        self.dispatch(id, now);
    }

    /// The stream of this session has taken so many bytes in all.
    pub fn room(&mut self, id: SessionId, taken: u64, now: Time) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.taken = session.taken.max(taken);
        if !session.has_room() {
            // That was too early: nothing else would make us look again.
            self.actions.push(Action::WatchRoom(id, session.sent));
        }
        let group = session.group;
        self.list(id);
        self.dispatch(group, now);
    }

    // ---- tasks go out

    /// Gives the group's tasks to its sessions for as long as there are both.
    pub(super) fn dispatch(&mut self, id: GroupId, now: Time) {
        self.load_due(id, now);
        loop {
            let Some(group) = self.groups.get(&id) else { return };
            if group.paused || self.draining {
                break;
            }
            let Some(&(_, _, session)) = group.open_sessions.last() else { break };
            let Some((task, attempts)) = self.next_task(id, now) else { break };
            self.deliver(id, session, task, attempts + 1, now);
        }
        self.wake_group(id);
    }

    /// The next task that is to go out, and how often it went out before.
    pub(super) fn next_task(&mut self, id: GroupId, now: Time) -> Option<(Arc<Task>, u32)> {
        for (at, priority) in CLASSES.into_iter().enumerate() {
            loop {
                let group = self.groups.get_mut(&id)?;
                let (task, attempts) = match group.returned.first_key_value() {
                    Some((&key, _)) if key.0 == priority => {
                        let returned = group.returned.remove(&key)?;
                        (returned.task, returned.attempts)
                    }
                    _ => {
                        if group.classes[at].ready.is_empty() {
                            self.read_ahead(id, at);
                        }
                        let group = self.groups.get_mut(&id)?;
                        let class = &mut group.classes[at];
                        let Some(task) = class.ready.pop() else {
                            if class.behind {
                                // Its tasks go before those of the next class: wait for them.
                                return None;
                            }
                            break;
                        };
                        class.cursor = task.id;
                        group.dirty = true;
                        if group.ahead.remove(&task.id) {
                            continue;
                        }
                        (task, 0)
                    }
                };
                if let Some(due) = task.spec.not_before.filter(|due| *due > now) {
                    self.groups.get_mut(&id)?.delayed.insert(task.id, due, attempts);
                    continue;
                }
                if task.spec.expires_at.is_some_and(|at| at <= now) {
                    self.settled_by_server(id, task.id, attempts, Outcome::Expired, now);
                    continue;
                }
                // Its last delivery was before a restart, or ended when its text was not in memory.
                if attempts > 0 && attempts >= self.most_attempts(&task) {
                    self.settled_by_server(id, task.id, attempts, Outcome::Exhausted, now);
                    continue;
                }
                return Some((task, attempts));
            }
        }
        None
    }

    /// Fills `ready` from the newest tasks in memory, or asks for a page of the backlog.
    pub(super) fn read_ahead(&mut self, id: GroupId, at: usize) {
        let head = self.head;
        let Some(group) = self.groups.get_mut(&id) else { return };
        if !group.classes[at].behind || group.classes[at].fetching {
            return;
        }
        let read = group.classes[at].read;
        let from = self.recent.partition_point(|task| task.id <= read);
        let in_memory = read >= head || self.recent.front().is_some_and(|first| first.id <= read + 1);
        if !in_memory {
            group.classes[at].fetching = true;
            let query = Backlog {
                group: group.name.clone(),
                class: CLASSES[at],
                after: read,
                upto: head,
                broadcast_after: group.broadcast_after,
                limit: Page::TASKS,
                max_bytes: Page::BYTES,
            };
            self.actions.push(Action::Fetch(id, query));
            return;
        }
        let mut read_to = head;
        let mut page = Page::default();
        for task in self.recent.range(from..) {
            if task.spec.priority == CLASSES[at] && group.wants(task) {
                page.push(task.clone());
                if page.is_full() {
                    read_to = task.id;
                    break;
                }
            }
        }
        let class = &mut group.classes[at];
        class.ready = page;
        class.read = read_to;
        if read_to == head {
            class.behind = false;
            self.listening[at].insert(id);
        }
    }

    pub(super) fn deliver(&mut self, group_id: GroupId, id: SessionId, task: Arc<Task>, attempt: u32, now: Time) {
        self.unlist(id);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(group) = self.groups.get_mut(&group_id) else { return };
        self.meter.total.delivered += 1;
        match group.leased {
            true => group.tally.delivered += 1,
            false => self.meter.anonymous.delivered += 1,
        }
        if group.leased {
            if attempt == 1 {
                let ready = task.accepted_at.max(group.created_at).max(task.spec.not_before.unwrap_or_default());
                self.meter.wait.record(micros(ready, now));
            }
            session.held.insert(task.id);
            let deadline = now.after(self.config.ack_timeout);
            let (text, session) = (Some(task.clone()), Some(id));
            let lease = Lease { task: text, session, attempt, since: now, deadline, confirmed_from: None };
            group.lease(task.id, lease);
            self.save_at.get_or_insert(now.after(self.save_after));
        }
        let delivery = Delivery { task, attempt };
        session.sent += delivery.cost();
        session.delivered += 1;
        session.last_sent = now;
        self.next_turn += 1;
        session.turn = self.next_turn;
        if session.outgoing.is_empty() {
            self.outgoing.push(id);
        }
        session.outgoing.push(delivery);
        self.list(id);
    }

    /// Moves what is due out of `delayed`, if there is somebody to give it to.
    pub(super) fn load_due(&mut self, id: GroupId, now: Time) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let mut ids = Vec::new();
        while group.may_load()
            && let Some((task, attempts)) = group.delayed.pop(now)
        {
            group.loading.insert(task, attempts);
            ids.push(task);
        }
        if !ids.is_empty() {
            self.actions.push(Action::Load(id, ids));
        }
    }

    /// Puts the session into its group's list if it can take a task.
    pub(super) fn list(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(group) = self.groups.get_mut(&session.group) else { return };
        if let Some(key) = session.listed.take() {
            group.open_sessions.remove(&key);
        }
        if session.free() > 0 && session.has_room() {
            let key = (session.free(), Reverse(session.turn), id);
            group.open_sessions.insert(key);
            session.listed = Some(key);
        }
    }

    pub(super) fn unlist(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if let (Some(key), Some(group)) = (session.listed.take(), self.groups.get_mut(&session.group)) {
            group.open_sessions.remove(&key);
        }
    }
}

fn cost(task: &Task) -> u64 {
    task.spec.text.len() as u64 + 200
}
