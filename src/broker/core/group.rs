//! One reader of the log: how far it has come, which of its tasks are open, and which clients take them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::bucket::Bucket;
use super::cursor::{LogCursor, Page};
use super::delayed::Due;
use super::lanes::{Lanes, Next, places};
use super::open::{OpenTasks, Texts};
use super::session::{Rank, Resume, SessionId};
use super::tally::{Rate, Tally, Undelivered};
use crate::attempts::Attempts;
use crate::group_limits::{GroupLimits, OnDead};
use crate::labels::Labels;
use crate::now::{Now, Steady};
use crate::retry::RetryPolicy;
use crate::store::{Backlog, GroupState, LanePlace, OpenRows, OpenTask};
use crate::task::{Audience, GroupName, Name, NewResult, Outcome, Priority, Replace, Task, TaskId, Time};

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
    /// How much of its tasks may be under way.
    pub limits: GroupLimits,
    /// How many lanes have tasks that went out and are not settled, or are held.
    pub lanes: usize,
    /// How many of them are held by a dead letter.
    pub held_lanes: usize,
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
            limits: GroupLimits::default(),
            lanes: 0,
            held_lanes: 0,
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
/// nowhere. It is taken up when the cursor of its priority passes it, or stands in `taken_up` before that. Of what is in a lane, the
/// cursor passes it into the queue of the lane, and it is taken up when it leaves that.
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
    limits: GroupLimits,
    /// With a limit on what begins in a second.
    bucket: Option<Bucket>,
    /// What waits in lanes.
    pub(super) lanes: Lanes,
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
            limits: GroupLimits::default(),
            bucket: None,
            lanes: Lanes::default(),
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
    pub(super) fn restore(
        state: GroupState,
        rows: Vec<OpenTask>,
        stored: Now,
        held_until: Steady,
        now: Steady,
    ) -> Group {
        let was_held = |task: &&OpenTask| task.attempts.deliveries > 0 && task.not_before.is_none();
        let held = state.open.iter().chain(&rows).filter(was_held).map(|task| task.id);
        let mut open = OpenTasks::restored(stored, held, held_until);
        let due = |task: &OpenTask| match task.not_before {
            Some(moment) if task.attempts.deliveries == 0 => Due::At(moment),
            None if task.attempts.deliveries == 0 => Due::After(stored.steady),
            wait => Due::After(wait.map_or(held_until, |until| stored.steady_at(until).max(held_until))),
        };
        let mut lanes = Lanes::default();
        for task in rows.iter().chain(&state.open) {
            let Some(lane) = &task.lane else { continue };
            open.enter_lane(task.id, lane.clone(), task.place);
            if task.place != LanePlace::None {
                lanes.enter(lane, task.id);
            }
        }
        state.lanes.into_iter().for_each(|waiting| lanes.restore(waiting));
        let is_open = |task: &&OpenTask| task.place != LanePlace::Dead;
        rows.iter().filter(is_open).for_each(|task| open.restore(task.id, due(task), task.attempts));
        state.open.iter().for_each(|task| open.delay(task.id, due(task), task.attempts));
        // So far it is as the checkpoint has it.
        open.take_changed();
        Group {
            paused: state.paused,
            retry: state.retry,
            limits: state.limits,
            bucket: state.limits.max_begun.map(|rate| Bucket::new(rate, false, now)),
            lanes,
            labels: state.labels,
            cursors: state.cursors.map(LogCursor::new),
            open,
            taken_up: state.taken_up.into_iter().flat_map(|(first, last)| first..=last).collect(),
            changed: false,
            last_used: state.last_used,
            ..Group::new(Some(state.name), state.broadcast_after, state.created_at)
        }
    }

    /// Repeats an outcome that stands in the log after the checkpoint, written by a clock that showed `stored` now. The task is in that
    /// lane.
    pub(super) fn replay(&mut self, result: &NewResult, lane: Option<&Name>, stored: Now) {
        if result.late {
            return;
        }
        if result.outcome == Outcome::Dropped {
            return self.end_hold(result.task);
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
        let lane = lane.cloned().or_else(|| self.lane_of(result.task).map(|(lane, _)| lane.clone()));
        if let Some(lane) = &lane {
            let takes_place = result.outcome != Outcome::Revived || self.is_held_by(result.task);
            let place = if takes_place { LanePlace::Taken } else { LanePlace::None };
            self.enter_lane(result.task, lane, place);
        }
        let due = Due::After(result.not_before.map_or(stored.steady, |until| stored.steady_at(until)));
        match result.outcome {
            Outcome::Revived => self.open.delay(result.task, due, Attempts::default()),
            outcome if outcome.is_dead() => self.dies(result.task),
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
            limits: self.limits,
            labels: self.labels.clone(),
            // No later than now, by a clock that is set back: what is in memory holds when it is right again.
            last_used: self.last_used.min(now.wall),
            cursors: Priority::ALL.map(|priority| self.cursor(priority).position(head)),
            taken_up,
            open,
            lanes: self.lanes.stored(),
        };
        Some((state, rows))
    }

    /// Forgets what was taken up before its turn where all cursors have passed it.
    pub(super) fn forget_passed(&mut self, head: TaskId) {
        let floor = self.position(head).min(self.lanes.floor());
        self.taken_up.retain(|id| *id > floor);
    }

    // ---- sessions

    pub(super) fn remove_session(&mut self, id: SessionId, now: Now) {
        self.sessions.remove(&id);
        if self.sessions.is_empty() {
            self.taken = 0;
            self.lanes.forget_texts();
        }
        self.last_used = now.wall;
        self.changed = true;
    }

    /// The session that gets the next task, if one can take it, and the group is not paused and keeps to its limits.
    pub(super) fn next_session(&self, now: Steady) -> Option<SessionId> {
        let may_begin = !self.paused && !self.is_full(now) && self.may_begin_at(now).is_none();
        self.available.last().filter(|_| may_begin).map(|(_, _, id)| *id)
    }

    /// Whether as many are with clients as may be. What was with one when the process before this one ended counts until it is known
    /// whether it still is.
    pub(super) fn is_full(&self, now: Steady) -> bool {
        let in_flight = || self.open.leased_len() + self.open.held_back_len(now);
        self.limits.max_in_flight.is_some_and(|max| in_flight() >= max.get() as usize)
    }

    /// When the next may begin, if that is not now.
    pub(super) fn may_begin_at(&self, now: Steady) -> Option<Steady> {
        self.bucket.as_ref().filter(|bucket| !bucket.has_one(now)).map(|bucket| bucket.next(now))
    }

    /// A delivery begins.
    pub(super) fn begins(&mut self, now: Steady) {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(now);
        }
    }

    pub(super) fn limits(&self) -> GroupLimits {
        self.limits
    }

    pub(super) fn set_limits(&mut self, limits: GroupLimits, now: Steady) {
        match (&mut self.bucket, limits.max_begun) {
            (Some(bucket), Some(rate)) => bucket.set_rate(rate, now),
            (bucket, rate) => *bucket = rate.map(|rate| Bucket::new(rate, true, now)),
        }
        self.limits = limits;
        self.changed = true;
        self.lanes.wake_all();
        if limits.on_dead == OnDead::Release {
            let dead: Vec<TaskId> = self.open.dead().collect();
            dead.into_iter().for_each(|task| self.end_hold(task));
        }
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
            lane: None,
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
        let is_waiting = self.lanes.is_waiting(task.id, task.spec.priority, task.spec.waits_in());
        let is_passed = task.id <= self.cursor(task.spec.priority).position(head) && !is_waiting;
        is_passed || self.taken_up.contains(&task.id)
    }

    // ---- lanes

    fn is_lane_full(&self, lane: &Name) -> bool {
        self.lanes.places(lane).len() >= places(lane, self.limits.lane_max.get() as usize)
    }

    /// A task that is to be put into a place is in that lane.
    fn enter_lane(&mut self, task: TaskId, lane: &Name, place: LanePlace) {
        self.open.enter_lane(task, lane.clone(), place);
        if place != LanePlace::None {
            self.lanes.enter(lane, task);
        }
    }

    /// The lane of a task, which is open or holds it, and whether it has a place there.
    pub(super) fn lane_of(&self, task: TaskId) -> Option<(&Name, LanePlace)> {
        self.open.lane_of(task).map(|(lane, place)| (lane, *place))
    }

    fn is_held_by(&self, task: TaskId) -> bool {
        self.lane_of(task).is_some_and(|(_, place)| place == LanePlace::Dead)
    }

    /// The task of its lane for which a task waits that has no place there, and whether that is a dead letter which holds it.
    pub(super) fn waits_behind(&self, task: &Task) -> Option<(TaskId, bool)> {
        let lane = task.spec.waits_in().filter(|_| self.leased)?;
        let places = self.lanes.places(lane);
        if places.contains(&task.id) {
            return None;
        }
        let first = places.first().filter(|_| self.is_lane_full(lane)).copied();
        first.or_else(|| self.lanes.before(task)).map(|first| (first, self.is_held_by(first)))
    }

    /// What is settled holds no lane any more.
    pub(super) fn settle_lanes(&mut self) {
        for task in self.open.take_settled() {
            self.leave_lane(task);
        }
    }

    fn leave_lane(&mut self, task: TaskId) {
        if let Some(lane) = self.open.leave_lane(task) {
            self.lanes.unpark(&lane, task);
            self.lanes.leave(&lane, task);
        }
    }

    /// A task that was taken up is given up: if the group wants that, it holds its lane.
    pub(super) fn dies(&mut self, task: TaskId) {
        // What is given up of a key is taken the place of by what comes next.
        let is_named = |(lane, _): (&Name, LanePlace)| Replace::key_of(lane).is_none();
        if self.limits.on_dead == OnDead::Hold && self.lane_of(task).is_some_and(is_named) {
            self.open.hold_lane(task);
        }
    }

    /// A dead letter holds its lane no more.
    pub(super) fn end_hold(&mut self, task: TaskId) {
        if self.is_held_by(task) {
            self.changed = true;
            self.leave_lane(task);
        }
    }

    /// A task that had a place of its lane waits for a time that its submitter named.
    pub(super) fn gives_up_place(&mut self, task: &Task) {
        if let Some(lane) = task.spec.waits_in().filter(|_| self.leased) {
            self.lanes.leave(lane, task.id);
            self.open.enter_lane(task.id, lane.clone(), LanePlace::None);
        }
    }

    /// Whether a task that goes out again may: it has a place of its lane, or takes one. Else it waits for that.
    fn may_go(&mut self, task: &Task, attempts: Attempts) -> bool {
        let Some(lane) = task.spec.waits_in().filter(|_| self.leased) else { return true };
        let has_place = self.lanes.places(lane).binary_search(&task.id).is_ok();
        let priority = task.spec.priority;
        if !has_place && (self.is_lane_full(lane) || self.lanes.waits(priority, lane)) {
            self.open.enter_lane(task.id, lane.clone(), LanePlace::None);
            self.open.park(task.id, attempts);
            self.lanes.park(lane, priority, task.id, self.is_lane_full(lane));
            return false;
        }
        self.enter_lane(task.id, lane, LanePlace::Taken);
        true
    }

    /// The lane in whose queue a task is to wait to which the cursor comes. One whose place was taken waits only behind others.
    fn queue_of<'a>(&self, task: &'a Task) -> Option<&'a Name> {
        let lane = task.spec.waits_in()?;
        let waits = task.spec.replaced_by().is_none() || self.lanes.has_queued(task.spec.priority, lane);
        waits.then_some(lane)
    }

    /// Puts into their queues what the cursor comes to and is in lanes, up to what is in none. Says whether there was any.
    pub(super) fn sort(&mut self, priority: Priority) -> bool {
        let (room, mut sorts) = (self.page_room(), false);
        while self.leased
            && let Some(lane) = self.cursor(priority).next().and_then(|task| self.queue_of(task)).cloned()
            && self.lanes.has_room(priority, &lane, Page::tasks(room), room)
            && let Some(task) = self.cursor_mut(priority).pop()
        {
            (self.changed, sorts) = (true, true);
            // What was taken up already goes into its queue, too: it is read again from there.
            let is_full = self.is_lane_full(&lane);
            self.lanes.push(&lane, task, is_full, room);
        }
        sorts
    }

    /// The next task of the lanes.
    fn take_from_lanes(&mut self, priority: Priority) -> Option<Taken> {
        let (most, room) = (self.limits.lane_max.get() as usize, self.page_room());
        while let Some(next) = self.lanes.next(priority, most, room) {
            self.changed = true;
            match next {
                Next::New(lane, task) if self.taken_up.remove(&task.id) => {
                    // It keeps the place only if it had it before: it may be settled, or wait for its time.
                    if self.lane_of(task.id).is_none_or(|(_, place)| place == LanePlace::None) {
                        self.lanes.leave(&lane, task.id);
                    }
                }
                Next::New(lane, task) => {
                    self.open.enter_lane(task.id, lane, LanePlace::Taken);
                    return Some(Taken { task, attempts: Attempts::default(), is_new: true });
                }
                Next::Parked(lane, task) if self.open.unpark(task, priority) => {
                    self.open.enter_lane(task, lane, LanePlace::Taken);
                }
                Next::Parked(lane, task) => self.lanes.leave(&lane, task),
            }
        }
        None
    }

    /// What is in no lane, or in one that finds no room.
    fn is_next_in_lane(&self, priority: Priority) -> bool {
        self.leased && self.cursor(priority).next().is_some_and(|task| self.queue_of(task).is_some())
    }

    // ---- tasks are taken up

    /// The next task of this priority: first what goes out again, then what is new. It is in no place now: lease it, delay it, or it
    /// is settled.
    pub(super) fn take_next(&mut self, priority: Priority, texts: &mut Texts) -> Option<Taken> {
        self.settle_lanes();
        while let Some((task, attempts)) = self.open.take_returned(priority, texts) {
            if self.may_go(&task, attempts) {
                return Some(Taken { task, attempts, is_new: false });
            }
        }
        // Most priorities have nothing, most of the time.
        if self.cursor(priority).next().is_none() && !self.lanes.has_waiting(priority) {
            return None;
        }
        self.sort(priority);
        if self.lanes.have_turn(priority)
            && let Some(taken) = self.take_from_lanes(priority)
        {
            return Some(taken);
        }
        while !self.is_next_in_lane(priority)
            && let Some(task) = self.cursor_mut(priority).pop()
        {
            self.changed = true;
            if !self.taken_up.remove(&task.id) {
                self.lanes.others_had_turn(priority);
                return Some(Taken { task, attempts: Attempts::default(), is_new: true });
            }
            self.sort(priority);
        }
        loop {
            let taken = self.take_from_lanes(priority);
            // None that was in turn could go: there may be room for others now.
            if taken.is_some() || !self.sort(priority) {
                return taken;
            }
        }
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
        let is_unread = |recent: &Task| self.is_unread(task, recent.spec.priority, recent.spec.waits_in());
        let unread = match recent {
            Some(recent) => Some(self.wants(recent) && is_unread(recent)),
            None if unread.clone().all(|unread| unread) => Some(true),
            None if unread.any(|unread| unread) || self.lanes.may_be_waiting(task) => None,
            None => Some(false),
        };
        if unread == Some(false) || self.taken_up.contains(&task) {
            return Some(false);
        }
        self.changed = true;
        self.taken_up.insert(task);
        unread
    }

    /// Neither the cursor nor a lane came to a task of the log.
    fn is_unread(&self, task: TaskId, priority: Priority, lane: Option<&Name>) -> bool {
        self.cursor(priority).is_unread(task) || self.lanes.is_waiting(task, priority, lane)
    }

    /// Takes up a task of the log that is for the group, of which this is known; `false`: it was taken up already. It is to be put into
    /// another place.
    pub(super) fn take_up_unread(&mut self, task: TaskId, priority: Priority, lane: Option<&Name>) -> bool {
        let takes_up = self.is_unread(task, priority, lane) && self.taken_up.insert(task);
        self.changed |= takes_up;
        takes_up
    }

    /// A task that a client has is in this lane.
    pub(super) fn has_place(&mut self, task: TaskId, lane: &Name) {
        self.enter_lane(task, lane, LanePlace::Taken);
    }

    /// A task took the place of one that was not taken up, and is in this lane: it is settled if it is the next in its queue. `false`:
    /// it is found to be over when its turn comes.
    pub(super) fn replace_ready(&mut self, task: TaskId, lane: Option<&Name>, by: TaskId, at: Time) -> bool {
        let waits = !self.taken_up.contains(&task);
        if waits && lane.is_some_and(|lane| self.lanes.pass(lane, task)) {
            self.changed = true;
            return true;
        }
        self.cursors.iter_mut().for_each(|cursor| cursor.replace(task, by, at));
        self.lanes.replace(task, by, at);
        false
    }

    /// Has it go on as if it had read what its stream has.
    pub(super) fn go_on_after(&mut self, Resume { read, awaits, .. }: &Resume, now: Now) {
        self.cursors = read.map(LogCursor::new);
        self.broadcast_after = read.iter().copied().min().unwrap_or(0);
        // The others it comes to.
        let awaits = awaits.iter().filter(|(task, priority)| *task <= read[*priority as usize]);
        // When each is due is found when it is read.
        awaits.for_each(|(task, _)| self.open.delay(*task, Due::After(now.steady), Attempts::default()));
    }

    /// Gives a settled task to the group again; `false`: it is not settled. If its cursor has not come to it yet, that skips it.
    pub(super) fn revive(&mut self, task: &Task, head: TaskId, now: Now) -> bool {
        let settled = self.has_settled(task, head);
        if settled {
            if let Some(lane) = task.spec.waits_in() {
                let place = if self.is_held_by(task.id) { LanePlace::Taken } else { LanePlace::None };
                self.enter_lane(task.id, lane, place);
            }
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
        !self.open.is_open(task.id) && self.is_taken_up(task, head)
    }

    /// Every task up to here that is for this group is settled.
    pub(super) fn settled_floor(&self, head: TaskId) -> TaskId {
        let position = self.position(head).min(self.lanes.floor());
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
        let of_lane = self.lanes.unseen().map(|(after, priority, lane)| Backlog {
            lane: Some(lane.clone()),
            limit: 1,
            max_bytes: 1,
            ..self.backlog(priority, after, head)
        });
        let not_taken_up: u64 = Priority::ALL.into_iter().map(unread).sum::<u64>()
            + self.cursors.iter().map(LogCursor::ready_len).sum::<usize>() as u64
            + self.lanes.waiting_len();
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
            oldest_new: self.cursors.iter().filter_map(LogCursor::first).chain(self.lanes.oldest()).min(),
            unseen: unseen.chain(of_lane).collect(),
            rate: self.rate.per_second(now.steady),
            last_settled: self.rate.last().map(|second| now.wall_at(second)),
            held_since: self.open.held_since().map(|since| now.wall_at(since)),
            paused: self.paused,
            draining_since: None,
            retry: self.retry,
            limits: self.limits,
            lanes: self.lanes.busy(),
            held_lanes: self.open.dead().count(),
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
        self.lanes.check(self.limits.lane_max.get() as usize)?;
        self.cursors.iter().try_for_each(|cursor| cursor.check(head))?;
        let is_unread = |task: TaskId| self.cursors.iter().any(|cursor| cursor.is_ready(task));
        let twice = self.open.ids().into_iter().find(|id| is_unread(*id) && !self.taken_up.contains(id));
        twice.map_or(Ok(()), |id| Err(format!("task {id} is open, and will be read again")))
    }
}
