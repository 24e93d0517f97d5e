//! Tasks are committed, read, and given to sessions.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::cursor::Page;
use super::delayed::Due;
use super::group::Taken;
use super::lanes::LaneRead;
use super::open::{Lease, Said};
use super::outcomes::outcome_of;
use super::session::{Delivery, Note, SessionId};
use super::tally::micros;
use super::{Action, Core, GroupId};
use crate::attempts::Attempts;
use crate::now::{Now, Steady};
use crate::store::{Backlog, BacklogPage, Skipped};
use crate::task::{Audience, GroupName, NewResult, Outcome, Priority, Task, TaskId, Time, weight};

/// When what could not be read is asked for again.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// When a task that is too long for every client of its group is looked at again: a client that takes more may have come.
const TOO_LONG: Duration = Duration::from_secs(60);

/// What there is of a priority.
enum Found {
    Task(Taken),
    Nothing,
    /// There may be something, and nothing else goes out before it: it is being read, or must be alone with its client.
    Wait,
}

impl Core {
    /// These tasks were accepted: consecutive ids, the first right after the newest one known.
    pub fn committed(&mut self, tasks: Vec<Arc<Task>>, now: Now) {
        let mut touched = BTreeSet::new();
        self.count_committed(&tasks);
        for priority in Priority::ALL {
            let caught_up = &mut self.caught_up[priority as usize];
            let of_priority = || tasks.iter().filter(move |task| task.spec.priority == priority);
            let readers: Vec<GroupId> = if of_priority().any(|task| named(task).is_none()) {
                caught_up.iter().copied().collect()
            } else {
                // Addressed ones touch only the groups they are for, however many there are.
                let mut to = of_priority().filter_map(|task| named(task)).flatten().collect::<Vec<_>>();
                // Tasks for the same group mostly come together.
                to.dedup();
                let to = to.into_iter().filter_map(|to| self.names.get(to)).copied();
                to.filter(|id| caught_up.contains(id)).collect::<BTreeSet<_>>().into_iter().collect()
            };
            for id in readers {
                let Some(group) = self.groups.get_mut(&id) else { continue };
                let mut accepted = self.counting.accepted[priority as usize];
                for task in of_priority() {
                    if group.wants(task) {
                        touched.insert(id);
                        if !group.append(task, accepted) {
                            caught_up.remove(&id);
                            let is_own = |later: &&Arc<Task>| later.spec.to.is_some() && group.wants(later);
                            let own = of_priority().filter(|later| later.id > task.id).filter(is_own).count();
                            group.cursor_mut(priority).add_unread(own as u64);
                            break;
                        }
                    }
                    accepted += i64::from(task.spec.to.is_none());
                }
            }
            let broadcasts = of_priority().filter(|task| task.spec.to.is_none()).count();
            self.counting.accepted[priority as usize] += broadcasts as i64;
        }
        let newer: Vec<_> = tasks.iter().filter(|task| task.spec.replaces().is_some()).cloned().collect();
        self.recent.extend(tasks);
        touched.extend(self.replace(&newer, now));
        for id in touched {
            self.dispatch(id, now);
        }
    }

    /// Tasks were accepted that are too many to be handed over: every group reads them from the store.
    pub fn advanced(&mut self, skipped: &Skipped, now: Now) {
        for priority in Priority::ALL {
            let accepted = self.counting.accepted[priority as usize];
            for id in std::mem::take(&mut self.caught_up[priority as usize]) {
                if let Some(group) = self.groups.get_mut(&id) {
                    group.cursor_mut(priority).leave_in_log(self.recent.head(), accepted, None);
                }
            }
        }
        self.recent.skip_to(skipped.head);
        self.count_skipped(skipped);
        self.replace_skipped(skipped, now);
        let active = self.groups.iter().filter(|(_, group)| !group.available.is_empty());
        for id in active.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.dispatch(id, now);
        }
    }

    /// A page of the backlog that [`Action::Fetch`] asked for; `None`: it could not be read, ask again later.
    pub fn fetched(&mut self, id: GroupId, query: &Backlog, page: Option<BacklogPage>, now: Now) {
        let was_read = page.is_some();
        let page = page.and_then(|page| self.as_of_now(id, query, page));
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(BacklogPage { tasks, scanned }) = page else {
            match &query.lane {
                Some(lane) => group.lanes.read(query.priority, lane, None),
                None => group.cursor_mut(query.priority).set_fetching(false),
            }
            if was_read {
                return self.dispatch(id, now);
            }
            return self.wake_group_at(id, now.steady.after(READ_AGAIN));
        };
        let read = tasks.len();
        let wanted = tasks.into_iter().filter(|task| group.wants(task));
        if let Some(lane) = &query.lane {
            let wanted = wanted.collect();
            group.lanes.read(query.priority, lane, Some((wanted, scanned)));
        } else {
            let page: Page = wanted.collect();
            let left_out = read - page.len();
            self.fill(id, query.priority, page, left_out, scanned);
            self.look_ahead(id, query.priority);
        }
        self.dispatch(id, now);
    }

    /// The tasks that [`Action::Load`] asked for. Those that are not among them are no longer stored.
    pub fn loaded(&mut self, id: GroupId, asked: &[TaskId], tasks: Option<Vec<Task>>, now: Now) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        match tasks {
            Some(tasks) => {
                group.open.loaded(asked, tasks, &mut self.texts);
                self.dispatch(id, now);
            }
            None => {
                group.open.load_failed(asked, now.steady.after(READ_AGAIN));
                self.wake_group(id);
            }
        }
    }

    /// The stream of this session has taken `taken` bytes of what it was given.
    pub fn stream_took(&mut self, id: SessionId, taken: u64, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let more = taken.saturating_sub(session.taken);
        session.taken += more;
        if !session.has_room() {
            // That was too early: nothing else would make us look again.
            self.actions.push(Action::WatchRoom(id, session.sent));
        }
        let group_id = session.group;
        if let Some(group) = self.groups.get_mut(&group_id) {
            group.taken += more;
        }
        self.update_rank(id);
        self.dispatch(group_id, now);
    }

    // ---- tasks go out

    /// Gives the group's tasks to its sessions as long as there are both.
    pub(super) fn dispatch(&mut self, id: GroupId, now: Now) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.settle_lanes();
        }
        if let Some(waiting) = &mut self.held {
            waiting.insert(id);
            // Leases end meanwhile.
            let deadline = self.groups.get(&id).and_then(|group| group.open.first_deadline());
            deadline.into_iter().for_each(|deadline| self.wake_group_at(id, deadline));
            return;
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        let due = group.begin_loading(now, &self.texts);
        if !due.is_empty() {
            self.actions.push(Action::Load(id, due));
        }
        while !self.stopping
            && let Some(session) = self.groups.get(&id).and_then(|group| group.next_session(now.steady))
            && let Some((task, attempts)) = self.next_task(id, now)
        {
            let alone = if attempts.silent > 0 { self.idle_session(id) } else { None };
            match self.session_for(id, alone.unwrap_or(session), &task) {
                Ok(session) => self.deliver(id, session, task, attempts, now),
                Err(again) => self.put_aside(id, &task, attempts, now.steady.after(again), now),
            }
        }
        if let Some(at) = self
            .groups
            .get(&id)
            .filter(|group| !group.available.is_empty())
            .and_then(|group| group.may_begin_at(now.steady))
        {
            self.wake_group_at(id, at);
        }
        self.wake_group(id);
    }

    /// The session that gets the next task which must be alone with its client: it has begun all that it holds.
    ///
    /// Looks at all sessions while none is so: tasks that must be alone are rare, and while one waits, nothing else goes out.
    fn idle_session(&self, id: GroupId) -> Option<SessionId> {
        let ranks = self.groups.get(&id)?.available.iter().rev();
        let mut sessions = ranks.map(|(_, _, id)| *id);
        sessions.find(|id| self.sessions.get(id).is_some_and(|session| session.unbegun == 0))
    }

    /// The session that gets the task: the next one, unless its client does not take so long a message. An error says when it is
    /// worth looking again, where no client takes it now.
    fn session_for(&self, id: GroupId, next: SessionId, task: &Task) -> Result<SessionId, Duration> {
        let takes = |id: &SessionId| self.sessions.get(id).is_some_and(|session| session.takes(task));
        if takes(&next) {
            return Ok(next);
        }
        let Some(group) = self.groups.get(&id) else { return Err(TOO_LONG) };
        let others = group.available.iter().rev().map(|(_, _, id)| *id);
        let busy = if group.sessions.iter().any(takes) { READ_AGAIN } else { TOO_LONG };
        others.into_iter().find(takes).ok_or(busy)
    }

    /// The task is too long for every client that is there. It waits without its text, and holds up no other; an anonymous
    /// client does not get it at all.
    fn put_aside(&mut self, id: GroupId, task: &Task, attempts: Attempts, until: Steady, now: Now) {
        if let Some(group) = self.groups.get_mut(&id).filter(|group| group.leased) {
            group.open.delay(task.id, Due::After(until), attempts);
            self.checkpoints.delayed(now.steady);
        }
    }

    /// Takes up the next task that is to go out, with its deliveries so far.
    fn next_task(&mut self, id: GroupId, now: Now) -> Option<(Arc<Task>, Attempts)> {
        'again: loop {
            for priority in Priority::ALL {
                loop {
                    let taken = match self.take_next(id, priority) {
                        Found::Task(taken) => taken,
                        Found::Nothing => break,
                        Found::Wait => return None,
                    };
                    if !self.stays(id, &taken, now)? {
                        return Some((taken.task, taken.attempts));
                    }
                    if taken.task.spec.waits_in().is_some() {
                        // It leaves its place in its lane to one of any priority.
                        continue 'again;
                    }
                }
            }
            return None;
        }
    }

    /// Takes up the next task of a priority, of what is read.
    fn take_next(&mut self, id: GroupId, priority: Priority) -> Found {
        loop {
            let Some(group) = self.groups.get(&id) else { return Found::Wait };
            if group.open.has_suspect(priority) && self.idle_session(id).is_none() {
                // If others went out meanwhile, no session would ever be idle.
                return Found::Wait;
            }
            if group.lanes.has_waiting(priority) {
                self.look_ahead(id, priority);
            }
            let Some(group) = self.groups.get_mut(&id) else { return Found::Wait };
            let taken = group.take_next(priority, &mut self.texts);
            let (has_reads, is_reading) = (group.lanes.has_reads(priority), group.lanes.is_reading(priority));
            // What is read and was not taken waits for room among the lanes.
            let reads_on = group.cursor(priority).has_backlog() && group.cursor(priority).next().is_none();
            if has_reads {
                self.read_lanes(id, priority);
            }
            match taken {
                Some(taken) => return Found::Task(taken),
                None if is_reading => return Found::Wait,
                None if !reads_on => return Found::Nothing,
                None => {}
            }
            // The tasks of its backlog go before those of the next priority: wait for them.
            if !self.read_ahead(id, priority) {
                return Found::Wait;
            }
        }
    }

    /// Whether a task that was taken up does not go out now: it is not for the group, its time has not come, or is over, or it is given up.
    fn stays(&mut self, id: GroupId, taken: &Taken, now: Now) -> Option<bool> {
        let Taken { task, attempts, is_new } = taken;
        // Once, when the group comes to it: what has been given to it stays its own, whatever its labels become.
        if *is_new
            && task.spec.audience.is_some()
            && let group = self.groups.get(&id)?
            && let Some(why) = group.why_not(task)
        {
            let name = group.name.clone();
            self.records.extend(name.map(|name| not_selected(task.id, name, why, now)));
        } else if let Some(moment) = still_to_come(task, *attempts, now) {
            let group = self.groups.get_mut(&id)?;
            group.gives_up_place(task);
            group.open.delay(task.id, Due::At(moment), *attempts);
            if !group.leased {
                let note = |session: &SessionId| Action::Note(*session, Note::Awaits(task.id, task.spec.priority));
                self.actions.extend(group.sessions.iter().map(note));
            }
            self.checkpoints.delayed(now.steady);
        } else if let Some(outcome) = task.spec.over(now.wall) {
            match task.spec.replaced_by() {
                Some(by) => self.record_replaced(id, task.id, attempts.deliveries, by, now),
                None => self.record_by_server(id, task.id, attempts.deliveries, outcome, now),
            }
        // Its last delivery was before a restart, or ended when its text was not in memory; or its policy is new.
        } else if let Some(why) = self.given_up(id, task, *attempts) {
            let group = self.groups.get_mut(&id)?;
            let result =
                outcome_of(task.id, group.name.clone(), "".into(), attempts.deliveries, Outcome::Exhausted, now.wall);
            group.dies(task.id);
            self.records.push(NewResult { ret: why.into_owned(), ..result });
        } else {
            return Some(false);
        }
        Some(true)
    }

    /// Reads on while there are lanes whose next tasks may stand further on in the log: what is read goes into their queues.
    fn look_ahead(&mut self, id: GroupId, priority: Priority) {
        loop {
            let Some(group) = self.groups.get_mut(&id) else { return };
            group.sort(priority);
            let cursor = group.cursor(priority);
            let goes_on = group.lanes.has_waiting(priority) && cursor.has_backlog() && cursor.next().is_none();
            if !goes_on || !self.read_ahead(id, priority) {
                return;
            }
        }
    }

    /// Asks for the next tasks of lanes whose turn it is.
    fn read_lanes(&mut self, id: GroupId, priority: Priority) {
        let head = self.recent.head();
        let Some(group) = self.groups.get_mut(&id) else { return };
        let room = group.page_room();
        for LaneRead { lane, after, upto, limit, max_bytes } in group.lanes.take_reads(priority, room, head) {
            let query =
                Backlog { lane: Some(lane), limit, max_bytes, ..group.backlog(priority, after, upto.min(head)) };
            self.actions.push(Action::Fetch(id, query));
        }
    }

    /// Reads on in the backlog: from the newest tasks in memory, or by asking for a page. Says whether it has read.
    fn read_ahead(&mut self, id: GroupId, priority: Priority) -> bool {
        let head = self.recent.head();
        let Some(group) = self.groups.get_mut(&id) else { return false };
        let Some(after) = group.cursor_mut(priority).next_page() else { return false };
        let Some(recent) = self.recent.after(after) else {
            group.cursor_mut(priority).set_fetching(true);
            self.actions.push(Action::Fetch(id, group.backlog(priority, after, head)));
            return false;
        };
        let mut read = head;
        let (mut page, mut left_out, room) = (Page::default(), 0, group.page_room());
        for task in recent {
            if task.spec.priority != priority {
                continue;
            }
            if !group.wants(task) {
                left_out += usize::from(group.comes_to(task));
            } else {
                page.push(task.clone());
                if page.is_full(room) {
                    read = task.id;
                    break;
                }
            }
        }
        self.fill(id, priority, page, left_out, read);
        true
    }

    /// Hands the group the next page of its backlog, with which everything up to `read` is read, and out of which so many broadcasts
    /// for others were left.
    fn fill(&mut self, id: GroupId, priority: Priority, page: Page, left_out: usize, read: TaskId) {
        let head = self.recent.head();
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.cursor_mut(priority).fill(page, left_out, read, head) {
            self.caught_up[priority as usize].insert(id);
        }
    }

    fn deliver(&mut self, group_id: GroupId, id: SessionId, task: Arc<Task>, before: Attempts, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(group) = self.groups.get_mut(&group_id) else { return };
        let attempts = before.delivered(!session.join.begins);
        group.begins(now.steady);
        self.next_turn += 1;
        session.turn = self.next_turn;
        self.meter.total.delivered += 1;
        match group.leased {
            true => group.tally.delivered += 1,
            false => self.meter.anonymous.delivered += 1,
        }
        if group.leased {
            if attempts.deliveries == 1 {
                let ready = task.accepted_at.max(group.created_at).max(task.spec.not_before.unwrap_or_default());
                self.meter.wait.record(micros(now.wall.since(ready)));
            }
            session.hold(task.id, attempts);
            let deadline = now.steady.after(self.config.ack_timeout);
            let (text, turn) = (Some(self.texts.sent(&task)), session.turn);
            let (session, said, confirmed_from, left_by) = (Some(id), Said::default(), None, None);
            let bytes = bytes_of(&task);
            let lease = Lease {
                task: text,
                session,
                bytes,
                attempts,
                turn,
                since: now.steady,
                deadline,
                said,
                confirmed_from,
                left_by,
            };
            group.open.lease(task.id, lease, &mut self.texts);
            self.checkpoints.delivered(now.steady);
        }
        let max_attempts = task.spec.max_attempts.or(group.retry.max_attempts);
        let delivery = Delivery { task, attempt: attempts.deliveries, spent: before.spent, max_attempts };
        let bytes = if group.leased { bytes_of(&delivery.task) } else { 0 };
        session.sent += delivery.cost();
        session.delivered += 1;
        session.last_sent = now.steady;
        if session.outgoing.is_empty() {
            self.outgoing.push(id);
        }
        session.outgoing.push(delivery);
        self.charge(id, bytes);
        self.update_rank(id);
    }

    /// Ranks the session among those of its group that can take a task, if it is one of them now.
    pub(super) fn update_rank(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(group) = self.groups.get_mut(&session.group) else { return };
        if let Some(rank) = session.rank.take() {
            group.available.remove(&rank);
        }
        if session.can_take() {
            let rank = (session.free(), Reverse(session.turn), id);
            group.available.insert(rank);
            session.rank = Some(rank);
        }
    }
}

/// The groups that a task names; `None`: it may be for any.
pub(super) fn named(task: &Task) -> Option<&[GroupName]> {
    match (&task.spec.to, task.spec.audience.as_deref()) {
        (Some(to), _) => Some(std::slice::from_ref(to)),
        (None, Some(Audience::Groups(names))) => Some(names),
        (None, _) => None,
    }
}

/// A group came to a task that is for others.
fn not_selected(task: TaskId, group: GroupName, why: String, now: Now) -> NewResult {
    NewResult { ret: why, ..outcome_of(task, Some(group), "".into(), 0, Outcome::NotSelected, now.wall) }
}

/// What a task counts for while it is under way.
pub(super) fn bytes_of(task: &Task) -> u32 {
    u32::try_from(weight(task.spec.bytes())).unwrap_or(u32::MAX)
}

/// The moment that its submitter named, if a task is to wait for it. Once it went out, the moment has come, whatever the clock
/// says now.
pub(super) fn still_to_come(task: &Task, attempts: Attempts, now: Now) -> Option<Time> {
    task.spec.not_before.filter(|moment| attempts.deliveries == 0 && *moment > now.wall)
}
