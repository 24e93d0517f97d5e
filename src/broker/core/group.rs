//! One reader of the log: how far it has come, which of its tasks are open, and which clients take them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::cursor::{LogCursor, Page};
use super::delayed::Due;
use super::open::{OpenTasks, Texts};
use super::session::{Rank, SessionId};
use super::tally::{Rate, Tally, Undelivered};
use crate::attempts::Attempts;
use crate::labels::Labels;
use crate::now::{Now, Steady};
use crate::retry::RetryPolicy;
use crate::store::{Backlog, GroupState, OpenRows, OpenTask};
use crate::task::{Audience, GroupName, NewResult, Outcome, Priority, Task, TaskId, Time};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// How many tasks it has not settled. What expired counts until it passes it.
    ///
    /// Too small while it is `counting`: for seconds after a start, or when it has just come. By up to `taken_up`, where a client
    /// told an outcome of a task whose priority only the store knows, until the group has passed that task.
    pub lag: u64,
    /// A part of `lag` is still being counted.
    pub counting: bool,
    /// How many it took up before their turn: they are settled, or among `waiting`.
    pub taken_up: usize,
    /// The oldest open task.
    pub oldest_open: Option<TaskId>,
    /// The oldest task it has not taken up, of those that are known, and when it was accepted.
    pub oldest_new: Option<(TaskId, Time)>,
    /// Backlogs of which the first task is not known, so that the oldest task may be there.
    pub unseen: Vec<Backlog>,
    /// Settled a second, over the last ten seconds.
    pub rate: f64,
    /// The last second in which one was settled, since the start of the server.
    pub last_settled: Option<Time>,
    /// Since when a client has the task that has been with one for longest.
    pub held_since: Option<Time>,
    /// Delivery is stopped.
    pub paused: bool,
    /// Since when all its clients are drained, or about to stop.
    pub draining_since: Option<Time>,
    /// What is said of retries of its tasks.
    pub retry: RetryPolicy,
    /// What it is: what the client said that came last.
    pub labels: Labels,
    /// When a client of it was last connected; now, if one is.
    pub last_used: Time,
    /// What became of its tasks since the start of the server.
    pub tally: Tally,
    /// Tasks that expired before a client was given them, since the start of the server.
    pub undelivered: Undelivered,
    /// There are tasks for it in the log, and the broker has no such group: no client of that name ever came, or it was removed.
    pub never_came: bool,
}

impl GroupInfo {
    /// A group that has no clients, and no tasks.
    pub fn new(name: GroupName) -> GroupInfo {
        GroupInfo {
            name,
            clients: 0,
            in_flight: 0,
            waiting: 0,
            delayed: 0,
            lag: 0,
            counting: false,
            taken_up: 0,
            oldest_open: None,
            oldest_new: None,
            unseen: Vec::new(),
            rate: 0.0,
            last_settled: None,
            held_since: None,
            paused: false,
            draining_since: None,
            retry: RetryPolicy::default(),
            labels: Labels::default(),
            last_used: Time::default(),
            tally: Tally::default(),
            undelivered: Undelivered::default(),
            never_came: false,
        }
    }
}

/// A task that was taken up, or is taken up again.
pub(super) struct Taken {
    pub(super) task: Arc<Task>,
    /// Its deliveries so far.
    pub(super) attempts: Attempts,
    /// The group came to it only now.
    pub(super) is_new: bool,
}

/// A reader of the log. A task of the log that is for this group is in exactly one place: not taken up, open, or settled and
/// nowhere. It is taken up when the cursor of its priority passes it, or stands in `taken_up` before that.
#[derive(Debug)]
pub(super) struct Group {
    /// `None`: the passing group of one anonymous client, removed with its stream.
    pub(super) name: Option<GroupName>,
    /// Its tasks are leased and wait for an outcome. Without, a task is settled by being sent.
    pub(super) leased: bool,
    pub(super) created_at: Time,
    pub(super) rate: Rate,
    pub(super) tally: Tally,
    pub(super) undelivered: Undelivered,
    /// When the timer of this group is set for.
    pub(super) wake_at: Option<Steady>,
    /// And its timer for a time of day.
    pub(super) wake_at_moment: Option<Time>,
    pub(super) paused: bool,
    /// What is said of retries of its tasks.
    pub(super) retry: RetryPolicy,
    /// What it is: what the client said that came last.
    pub(super) labels: Labels,
    /// The tasks that were taken up and are not settled.
    pub(super) open: OpenTasks,
    pub(super) sessions: BTreeSet<SessionId>,
    /// Bytes that their streams have taken, since there was none.
    pub(super) taken: u64,
    /// The sessions that can take a task now, by [`Session::rank`](super::session::Session::rank); the last is the next to
    /// get one.
    pub(super) available: BTreeSet<Rank>,
    /// Broadcasts up to here are not for this group.
    broadcast_after: TaskId,
    /// One for each priority.
    cursors: [LogCursor; 3],
    /// Tasks that were taken up before the cursor of their priority came to them, which is to skip them. An outcome of theirs
    /// came after a restart that had forgotten them, or stands in the log after the last checkpoint.
    taken_up: BTreeSet<TaskId>,
    /// Anything but `open` is not as in the last checkpoint.
    changed: bool,
    /// When a client was last connected.
    last_used: Time,
}

impl Group {
    /// A new group, which gets every task that is addressed to it, and the broadcasts after `broadcast_after`.
    pub(super) fn new(name: Option<GroupName>, broadcast_after: TaskId, now: Time) -> Group {
        Group {
            leased: name.is_some(),
            changed: name.is_some(),
            name,
            created_at: now,
            rate: Rate::default(),
            tally: Tally::default(),
            undelivered: Undelivered::default(),
            wake_at: None,
            wake_at_moment: None,
            broadcast_after,
            paused: false,
            retry: RetryPolicy::default(),
            labels: Labels::default(),
            cursors: [0; 3].map(LogCursor::new),
            open: OpenTasks::default(),
            taken_up: BTreeSet::new(),
            sessions: BTreeSet::new(),
            taken: 0,
            available: BTreeSet::new(),
            last_used: now,
        }
    }

    // ---- checkpoints and recovery

    /// The group as a checkpoint left it, and its open tasks that have rows, by a clock that showed `stored` now. What was delivered
    /// before, and so may be with a client, waits until `held_until`. Until then the clock counts that its submitter named a
    /// moment of.
    pub(super) fn restore(state: GroupState, rows: Vec<OpenTask>, stored: Now, held_until: Steady) -> Group {
        let was_held = |task: &&OpenTask| task.attempts.deliveries > 0 && task.not_before.is_none();
        let held = state.open.iter().chain(&rows).filter(was_held).map(|task| task.id);
        let mut open = OpenTasks::restored(stored, held, held_until);
        let due = |task: &OpenTask| match task.not_before {
            Some(moment) if task.attempts.deliveries == 0 => Due::At(moment),
            None if task.attempts.deliveries == 0 => Due::After(stored.steady),
            wait => Due::After(wait.map_or(held_until, |until| stored.steady_at(until).max(held_until))),
        };
        rows.iter().for_each(|task| open.restore(task.id, due(task), task.attempts));
        state.open.iter().for_each(|task| open.delay(task.id, due(task), task.attempts));
        // So far it is as the checkpoint has it.
        open.take_changed();
        Group {
            paused: state.paused,
            retry: state.retry,
            labels: state.labels,
            cursors: state.cursors.map(LogCursor::new),
            open,
            taken_up: state.taken_up.into_iter().flat_map(|(first, last)| first..=last).collect(),
            changed: false,
            last_used: state.last_used,
            ..Group::new(Some(state.name), state.broadcast_after, state.created_at)
        }
    }

    /// Repeats an outcome that stands in the log after the checkpoint, written by a clock that showed `stored` now.
    pub(super) fn replay(&mut self, result: &NewResult, stored: Now) {
        if result.late || result.outcome == Outcome::Dropped {
            return;
        }
        self.changed = true;
        // Whether the cursor has passed the task is not known. If it has, the entry changes nothing.
        // Nothing of it is in memory yet.
        let attempts = match self.open.take_waiting(result.task, &mut Texts::default()) {
            Some((_, attempts)) => attempts,
            None => {
                self.taken_up.insert(result.task);
                Attempts::default()
            }
        };
        let due = Due::After(result.not_before.map_or(stored.steady, |until| stored.steady_at(until)));
        match result.outcome {
            Outcome::Revived => self.open.delay(result.task, due, Attempts::default()),
            outcome if outcome.settles() => {}
            outcome => self.open.delay(result.task, due, attempts.replay(result.attempt, outcome)),
        }
    }

    /// What a checkpoint keeps, if it changed since the last one. Together with the outcomes that follow it in the log, that is
    /// all there is to know.
    pub(super) fn take_changed(&mut self, head: TaskId, now: Now) -> Option<(GroupState, OpenRows)> {
        // That a client is there is written down once a day, though nothing else happens: else the group would look unused.
        let is_used = !self.sessions.is_empty();
        let daily = is_used && now.wall.since(self.last_used) >= DAY;
        if !(self.open.take_changed() | std::mem::take(&mut self.changed) | daily) {
            return None;
        }
        if is_used {
            self.last_used = now.wall;
        }
        let Some(name) = self.name.clone() else {
            self.open.keep_nothing();
            return None;
        };
        debug_assert_eq!(self.check(head), Ok(()));
        self.forget_passed(head);
        let mut taken_up: Vec<(TaskId, TaskId)> = Vec::new();
        for &id in &self.taken_up {
            match taken_up.last_mut() {
                Some((_, last)) if *last + 1 == id => *last = id,
                _ => taken_up.push((id, id)),
            }
        }
        let (open, rows) = self.open.take_changes(now);
        let state = GroupState {
            name,
            created_at: self.created_at,
            broadcast_after: self.broadcast_after,
            paused: self.paused,
            retry: self.retry,
            labels: self.labels.clone(),
            // No later than now, by a clock that is set back: what is in memory holds when it is right again.
            last_used: self.last_used.min(now.wall),
            cursors: Priority::ALL.map(|priority| self.cursor(priority).position(head)),
            taken_up,
            open,
        };
        Some((state, rows))
    }

    /// Forgets what was taken up before its turn where all cursors have passed it.
    pub(super) fn forget_passed(&mut self, head: TaskId) {
        let floor = self.position(head);
        self.taken_up.retain(|id| *id > floor);
    }

    // ---- sessions

    pub(super) fn remove_session(&mut self, id: SessionId, now: Now) {
        self.sessions.remove(&id);
        if self.sessions.is_empty() {
            self.taken = 0;
        }
        self.last_used = now.wall;
        self.changed = true;
    }

    /// The session that gets the next task, if one can take it and the group is not paused.
    pub(super) fn next_session(&self) -> Option<SessionId> {
        self.available.last().filter(|_| !self.paused).map(|(_, _, id)| *id)
    }

    pub(super) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        self.changed = true;
    }

    pub(super) fn set_retry(&mut self, retry: RetryPolicy) {
        self.retry = retry;
        self.changed = true;
    }

    /// A client came that says this of itself. Says whether that is new.
    pub(super) fn set_labels(&mut self, labels: &Labels) -> bool {
        let is_new = self.labels != *labels;
        if is_new {
            self.labels = labels.clone();
            self.changed = true;
        }
        is_new
    }

    // ---- tasks that are not taken up

    /// Whether a task of the log is for this group at all.
    pub(super) fn wants(&self, task: &Task) -> bool {
        match &task.spec.to {
            Some(to) => self.name.as_ref() == Some(to),
            None => self.comes_to(task) && self.may_be_meant(task),
        }
    }

    /// Whether it is a broadcast that the group comes to on its way through the log, be it for it or not.
    pub(super) fn comes_to(&self, task: &Task) -> bool {
        task.spec.to.is_none() && task.id > self.broadcast_after
    }

    fn may_be_meant(&self, task: &Task) -> bool {
        task.spec.audience.as_ref().is_none_or(|audience| audience.may_be(self.name.as_ref()))
    }

    /// Why a broadcast is not for this group, by the labels that it has now.
    pub(super) fn why_not(&self, task: &Task) -> Option<String> {
        match task.spec.audience.as_deref()? {
            Audience::Matching(selector) => selector.why_not(&self.labels),
            Audience::Groups(_) => None,
        }
    }

    pub(super) fn cursor(&self, priority: Priority) -> &LogCursor {
        &self.cursors[priority as usize]
    }

    /// To read on; tasks are taken up by the verbs of the group.
    pub(super) fn cursor_mut(&mut self, priority: Priority) -> &mut LogCursor {
        &mut self.cursors[priority as usize]
    }

    /// Adds a task that was just committed; there is no backlog of its priority, of which `accepted` broadcasts came before. `false`:
    /// now there is, and it begins with this task. Nothing is kept in memory for a group without clients.
    pub(super) fn append(&mut self, task: &Arc<Task>, accepted: i64) -> bool {
        let (has_clients, room) = (!self.sessions.is_empty(), self.page_room());
        let cursor = self.cursor_mut(task.spec.priority);
        if has_clients && cursor.append(task, room) {
            return true;
        }
        cursor.leave_in_log(task.id - 1, accepted, Some((task.id, task.accepted_at)));
        cursor.add_unread(u64::from(task.spec.to.is_some()));
        false
    }

    /// From where on broadcasts of a priority are not read, and where the log is not read at all: `Some` while there is a backlog.
    pub(super) fn unread_after(&self, priority: Priority) -> Option<(TaskId, TaskId)> {
        let read = self.cursor(priority).unread_after()?;
        Some((read.max(self.broadcast_after), read))
    }

    /// What the group has to read of this priority: the tasks after `after`, up to `upto`.
    pub(super) fn backlog(&self, priority: Priority, after: TaskId, upto: TaskId) -> Backlog {
        Backlog {
            group: self.name.clone(),
            priority,
            after,
            upto,
            broadcast_after: self.broadcast_after,
            limit: Page::tasks(self.page_room()),
            max_bytes: self.page_room(),
        }
    }

    /// How much of each priority it may read ahead, in bytes of text.
    pub(super) fn page_room(&self) -> usize {
        Page::room(self.taken)
    }

    /// Every task up to here, of whatever priority, was taken up.
    fn position(&self, head: TaskId) -> TaskId {
        self.cursors.iter().map(|cursor| cursor.position(head)).min().unwrap_or(0)
    }

    fn is_taken_up(&self, task: &Task, head: TaskId) -> bool {
        task.id <= self.cursor(task.spec.priority).position(head) || self.taken_up.contains(&task.id)
    }

    // ---- tasks are taken up

    /// The next task of this priority: first what goes out again, then what is new. It is in no place now: lease it, delay it, or it
    /// is settled.
    pub(super) fn take_next(&mut self, priority: Priority, texts: &mut Texts) -> Option<Taken> {
        if let Some((task, attempts)) = self.open.take_returned(priority, texts) {
            return Some(Taken { task, attempts, is_new: false });
        }
        while let Some(task) = self.cursor_mut(priority).pop() {
            self.changed = true;
            if !self.taken_up.remove(&task.id) {
                return Some(Taken { task, attempts: Attempts::default(), is_new: true });
            }
        }
        None
    }

    /// Takes up a task before its turn; `false`: it was taken up already. It is settled unless it is put into another place.
    pub(super) fn take_up(&mut self, task: &Task, head: TaskId) -> bool {
        let taken_up = !self.is_taken_up(task, head);
        if taken_up {
            self.changed = true;
            self.taken_up.insert(task.id);
        }
        taken_up
    }

    /// The same for an id of the log, with the task if that is among the newest.
    ///
    /// Where a priority has a backlog, any task in it may have that priority. Then `None`: only the log of outcomes can say
    /// whether the task was settled. It does not go out in either case.
    pub(super) fn take_up_id(&mut self, task: TaskId, recent: Option<&Task>) -> Option<bool> {
        let mut unread = self.cursors.iter().map(|cursor| cursor.is_unread(task));
        let unread = match recent {
            Some(recent) => Some(self.wants(recent) && self.cursor(recent.spec.priority).is_unread(task)),
            None if unread.clone().all(|unread| unread) => Some(true),
            None if unread.any(|unread| unread) => None,
            None => Some(false),
        };
        if unread == Some(false) || self.taken_up.contains(&task) {
            return Some(false);
        }
        self.changed = true;
        self.taken_up.insert(task);
        unread
    }

    /// Has it go on behind these tasks, of each priority, as if it had read up to there.
    pub(super) fn go_on_after(&mut self, read: [TaskId; 3]) {
        self.cursors = read.map(LogCursor::new);
        self.broadcast_after = read.into_iter().min().unwrap_or(0);
    }

    /// Gives a settled task to the group again; `false`: it is not settled. If its cursor has not come to it yet, that skips it.
    pub(super) fn revive(&mut self, task: &Task, head: TaskId, now: Now) -> bool {
        let settled = self.has_settled(task, head);
        if settled {
            self.open.delay(task.id, Due::After(now.steady), Attempts::default());
        }
        settled
    }

    /// Says which delayed tasks are due; their texts are to be loaded. None without a client to take them.
    pub(super) fn begin_loading(&mut self, now: Now, texts: &Texts) -> Vec<TaskId> {
        if self.sessions.is_empty() { Vec::new() } else { self.open.begin_loading(now, texts) }
    }

    // ---- what there is to see

    pub(super) fn has_settled(&self, task: &Task, head: TaskId) -> bool {
        let is_open = self.open.lease_of(task.id).is_some() || self.open.waiting(task.id).is_some();
        !is_open && self.is_taken_up(task, head)
    }

    /// Every task up to here that is for this group is settled.
    pub(super) fn settled_floor(&self, head: TaskId) -> TaskId {
        let position = self.position(head);
        self.open.oldest().map_or(position, |open| position.min(open - 1))
    }

    /// When this group next has something to do by itself, but for what waits for a time of day.
    pub(super) fn next_due(&self, texts: &Texts) -> Option<Steady> {
        let load = if self.sessions.is_empty() { None } else { self.open.next_load(texts) };
        self.open.first_deadline().into_iter().chain(load).min()
    }

    /// At which time of day it next has something to do by itself.
    pub(super) fn next_moment(&self, texts: &Texts) -> Option<Time> {
        if self.sessions.is_empty() { None } else { self.open.next_moment(texts) }
    }

    /// How far it has come, where so many broadcasts of each priority were accepted; `None`: it has no name.
    pub(super) fn info(&self, head: TaskId, accepted: &[i64; 3], now: Now) -> Option<GroupInfo> {
        let unread = |priority: Priority| self.cursor(priority).unread(accepted[priority as usize]);
        let unseen = Priority::ALL.into_iter().filter_map(|priority| {
            let cursor = self.cursor(priority);
            let after = cursor.unread_after().filter(|_| unread(priority) > 0 && cursor.first().is_none())?;
            Some(Backlog { limit: 1, max_bytes: 1, ..self.backlog(priority, after, head) })
        });
        let not_taken_up: u64 = Priority::ALL.into_iter().map(unread).sum::<u64>()
            + self.cursors.iter().map(LogCursor::ready_len).sum::<usize>() as u64;
        Some(GroupInfo {
            name: self.name.clone()?,
            clients: self.sessions.len(),
            in_flight: self.open.leased_len(),
            waiting: self.open.waiting_len(),
            delayed: self.open.delayed_len(),
            lag: self.open.len() as u64 + not_taken_up.saturating_sub(self.taken_up.len() as u64),
            counting: self.cursors.iter().any(LogCursor::is_counting),
            taken_up: self.taken_up.len(),
            oldest_open: self.open.oldest(),
            oldest_new: self.cursors.iter().filter_map(LogCursor::first).min(),
            unseen: unseen.collect(),
            rate: self.rate.per_second(now.steady),
            last_settled: self.rate.last().map(|second| now.wall_at(second)),
            held_since: self.open.held_since().map(|since| now.wall_at(since)),
            paused: self.paused,
            draining_since: None,
            retry: self.retry,
            labels: self.labels.clone(),
            last_used: if self.sessions.is_empty() { self.last_used } else { now.wall },
            tally: self.tally.clone(),
            undelivered: self.undelivered,
            never_came: false,
        })
    }

    /// Whether the rules hold that the fields state; an error says which does not.
    pub(super) fn check(&self, head: TaskId) -> Result<(), String> {
        self.open.check()?;
        self.cursors.iter().try_for_each(|cursor| cursor.check(head))?;
        let is_unread = |task: TaskId| self.cursors.iter().any(|cursor| cursor.is_ready(task));
        let twice = self.open.ids().into_iter().find(|id| is_unread(*id) && !self.taken_up.contains(id));
        twice.map_or(Ok(()), |id| Err(format!("task {id} is open, and will be read again")))
    }
}
