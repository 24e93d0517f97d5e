//! One reader of the log: how far it has come, what is in flight, what waits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::delayed::Delayed;
use super::session::SessionId;
use super::tally::Tally;
use crate::store::{GroupState, OpenTask};
use crate::task::{GroupName, Priority, Task, TaskId, Time};

pub(super) type GroupId = u64;

pub(super) const CLASSES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// A task that is with a client.
#[derive(Debug)]
pub(super) struct Lease {
    /// `None`: its client said that it still has it when it waited to go out again, without its text.
    pub(super) task: Option<Arc<Task>>,
    /// `None`: its client says that it still has it, and has no stream yet.
    pub(super) session: Option<SessionId>,
    pub(super) attempt: u32,
    /// When it went out.
    pub(super) since: Time,
    pub(super) deadline: Time,
    /// The address that `WORKING` last came from.
    pub(super) confirmed_from: Option<Arc<str>>,
}

impl Lease {
    /// Where the stream is to come from that it waits for.
    fn awaits_session(&self) -> Option<Arc<str>> {
        if self.session.is_none() { self.confirmed_from.clone() } else { None }
    }
}

/// A task that was delivered before and goes out again.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) task: Arc<Task>,
    /// Deliveries so far.
    pub(super) attempts: u32,
}

/// How far the group has come in one class of tasks.
#[derive(Debug, Default)]
pub(super) struct Class {
    /// Every task of the class up to here was taken up: it is settled, or open (in flight, returned, delayed).
    pub(super) cursor: TaskId,
    /// Every task of the class up to here was taken up or stands in `ready`. Means nothing unless `behind`.
    pub(super) read: TaskId,
    /// Read ahead, oldest first.
    pub(super) ready: Page,
    /// There may be more in the log than in `ready`. A class that is not behind gets what is committed straight into `ready`.
    pub(super) behind: bool,
    /// A page of the backlog was asked for.
    pub(super) fetching: bool,
}

/// Tasks that wait to go out again and whose text is in memory, at most, whatever their size.
const LOADED: usize = 256;

/// Tasks that are read ahead for one group, by ascending id: no more than it will soon take, whatever their size.
#[derive(Debug, Default)]
pub(super) struct Page {
    tasks: VecDeque<Arc<Task>>,
    bytes: usize,
}

impl Page {
    /// Tasks and bytes of text at which a page takes no more. Pages of 256 drained a backlog at 0.7 of the rate of these.
    pub(super) const TASKS: usize = 2048;
    pub(super) const BYTES: usize = 512 * 1024;

    pub(super) fn is_full(&self) -> bool {
        self.tasks.len() >= Page::TASKS || self.bytes >= Page::BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn first(&self) -> Option<TaskId> {
        self.tasks.front().map(|task| task.id)
    }

    pub(super) fn push(&mut self, task: Arc<Task>) {
        self.bytes += task.spec.text.len();
        self.tasks.push_back(task);
    }

    pub(super) fn pop(&mut self) -> Option<Arc<Task>> {
        let task = self.tasks.pop_front()?;
        self.bytes -= task.spec.text.len();
        Some(task)
    }

    pub(super) fn contains(&self, task: TaskId) -> bool {
        self.tasks.binary_search_by_key(&task, |ready| ready.id).is_ok()
    }

    pub(super) fn remove(&mut self, task: TaskId) {
        if let Ok(at) = self.tasks.binary_search_by_key(&task, |ready| ready.id) {
            self.bytes -= self.tasks.remove(at).map_or(0, |task| task.spec.text.len());
        }
    }
}

impl Class {
    /// Whether a task, if it is of this class, was not taken up yet.
    pub(super) fn is_unread(&self, task: TaskId) -> bool {
        (self.behind && task > self.read) || self.ready.contains(task)
    }
}

/// A reader of the log. A task of the log that is for this group is in exactly one place: not taken up yet (behind the
/// cursor of its class), `leases`, `returned`, `delayed`, `loading`; or it is settled, and nowhere.
#[derive(Debug)]
pub(super) struct Group {
    /// `None`: the passing group of one anonymous client, gone with its stream.
    pub(super) name: Option<GroupName>,
    /// Tasks are leased and wait for an outcome; without, a task is settled by being sent.
    pub(super) leased: bool,
    pub(super) created_at: Time,
    /// Broadcasts up to here are not for this group.
    pub(super) broadcast_after: TaskId,
    pub(super) paused: bool,
    pub(super) classes: [Class; 3],
    pub(super) leases: FxHashMap<TaskId, Lease>,
    pub(super) deadlines: BTreeSet<(Time, TaskId)>,
    /// Leases without a session, with the address from which their client said that it has them.
    early: BTreeSet<(Arc<str>, TaskId)>,
    /// Go out before anything else of their class.
    pub(super) returned: BTreeMap<(Priority, TaskId), Returned>,
    /// Not to go out before a time.
    pub(super) delayed: Delayed,
    /// Due, and their text is being loaded.
    pub(super) loading: FxHashMap<TaskId, u32>,
    /// Taken up before their class came to them, which is to skip them: they were told after a restart that had forgotten
    /// them, or stand in the log of outcomes behind the last checkpoint. Those that are not settled stand in `delayed` too.
    pub(super) ahead: BTreeSet<TaskId>,
    pub(super) sessions: BTreeSet<SessionId>,
    /// The sessions that can take a task now; the last has the most free window and waited longest.
    pub(super) open_sessions: BTreeSet<(usize, Reverse<u64>, SessionId)>,
    /// When `tick` is to look at this group.
    pub(super) wake_at: Option<Time>,
    /// Changed since the last checkpoint.
    pub(super) dirty: bool,
    /// When a client was last connected.
    pub(super) last_used: Time,
    pub(super) rate: Rate,
    pub(super) tally: Tally,
}

/// How many tasks were settled in each of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rate {
    seconds: VecDeque<(i64, u64)>,
}

impl Rate {
    const SECONDS: i64 = 10;

    pub(super) fn count(&mut self, now: Time) {
        let second = now.0 / 1000;
        match self.seconds.back_mut() {
            Some((last, count)) if *last == second => *count += 1,
            _ => self.seconds.push_back((second, 1)),
        }
        if self.seconds.len() > Self::SECONDS as usize + 1 {
            self.seconds.pop_front();
        }
    }

    /// When the last second began in which one was.
    pub(super) fn last(&self) -> Option<Time> {
        self.seconds.back().map(|(second, _)| Time(second * 1000))
    }

    /// Over the last ten whole seconds.
    pub(super) fn per_second(&self, now: Time) -> f64 {
        let second = now.0 / 1000;
        let recent = self.seconds.iter().filter(|(at, _)| (second - Self::SECONDS..second).contains(at));
        recent.map(|(_, count)| *count).sum::<u64>() as f64 / Self::SECONDS as f64
    }
}

impl Group {
    pub(super) fn new(name: Option<GroupName>, leased: bool, now: Time) -> Group {
        let behind = || Class { behind: true, ..Class::default() };
        Group {
            name,
            leased,
            created_at: now,
            broadcast_after: 0,
            paused: false,
            classes: [behind(), behind(), behind()],
            leases: FxHashMap::default(),
            deadlines: BTreeSet::new(),
            early: BTreeSet::new(),
            returned: BTreeMap::new(),
            delayed: Delayed::default(),
            loading: FxHashMap::default(),
            ahead: BTreeSet::new(),
            sessions: BTreeSet::new(),
            open_sessions: BTreeSet::new(),
            wake_at: None,
            dirty: false,
            last_used: now,
            rate: Rate::default(),
            tally: Tally::default(),
        }
    }

    /// The group as a checkpoint left it. What was delivered before, and so may be with a client, waits until `held_until`.
    pub(super) fn restore(state: GroupState, held_until: Time) -> Group {
        let mut group = Group::new(Some(state.name), true, state.created_at);
        group.broadcast_after = state.broadcast_after;
        group.paused = state.paused;
        group.last_used = state.last_used;
        for (class, cursor) in group.classes.iter_mut().zip(state.cursors) {
            class.cursor = cursor;
            class.read = cursor;
        }
        for open in state.open {
            let held_until = if open.attempts > 0 { held_until } else { Time::default() };
            group.delayed.insert(open.id, open.not_before.unwrap_or_default().max(held_until), open.attempts);
        }
        for (first, last) in state.settled {
            group.ahead.extend(first..=last);
        }
        group
    }

    /// What a checkpoint keeps: together with the outcomes that come after it, all there is to know.
    pub(super) fn state(&mut self, head: TaskId) -> Option<GroupState> {
        let name = self.name.clone()?;
        let cursors = [0, 1, 2].map(|class| self.position(class, head));
        let floor = cursors.into_iter().min().unwrap_or(0);
        self.ahead.retain(|id| *id > floor);

        let mut open = Vec::new();
        for (id, lease) in &self.leases {
            // Its outcome, or its loss, will be in the log behind this checkpoint; if neither comes, this delivery counts.
            open.push(OpenTask { id: *id, attempts: lease.attempt, not_before: None });
        }
        open.extend(self.returned.iter().map(|((_, id), r)| OpenTask {
            id: *id,
            attempts: r.attempts,
            not_before: None,
        }));
        open.extend(self.loading.iter().map(|(id, n)| OpenTask { id: *id, attempts: *n, not_before: None }));
        open.extend(self.delayed.iter().map(|(id, due, attempts)| OpenTask { id, attempts, not_before: Some(due) }));

        let mut settled: Vec<(TaskId, TaskId)> = Vec::new();
        for &id in &self.ahead {
            match settled.last_mut() {
                Some((_, last)) if *last + 1 == id => *last = id,
                _ => settled.push((id, id)),
            }
        }
        open.sort_unstable_by_key(|task| task.id);
        Some(GroupState {
            name,
            created_at: self.created_at,
            broadcast_after: self.broadcast_after,
            paused: self.paused,
            last_used: self.last_used,
            cursors,
            settled,
            open,
        })
    }

    /// Every task of the class up to here was taken up.
    pub(super) fn position(&self, class: usize, head: TaskId) -> TaskId {
        let class = &self.classes[class];
        if class.behind || !class.ready.is_empty() { class.cursor } else { head }
    }

    /// Every task up to here, of whatever class, was taken up.
    pub(super) fn taken_up(&self, head: TaskId) -> TaskId {
        (0..CLASSES.len()).map(|class| self.position(class, head)).min().unwrap_or(0)
    }

    /// Puts a task into the hands of a client.
    pub(super) fn lease(&mut self, task: TaskId, lease: Lease) {
        self.deadlines.insert((lease.deadline, task));
        self.early.extend(lease.awaits_session().map(|peer| (peer, task)));
        self.leases.insert(task, lease);
        self.dirty = true;
    }

    /// Takes it out of them.
    pub(super) fn unlease(&mut self, task: TaskId) -> Option<Lease> {
        let lease = self.leases.remove(&task)?;
        self.deadlines.remove(&(lease.deadline, task));
        if let Some(peer) = lease.awaits_session() {
            self.early.remove(&(peer, task));
        }
        self.dirty = true;
        Some(lease)
    }

    /// The leases that wait for a stream from this address.
    pub(super) fn early(&self, peer: &Arc<str>) -> Vec<TaskId> {
        let of_peer = self.early.range((peer.clone(), 0)..=(peer.clone(), TaskId::MAX));
        of_peer.map(|(_, task)| *task).collect()
    }

    /// Takes a task out of the places where it waits to go out again; with its text, if that is in memory, and how often it
    /// went out.
    pub(super) fn take_waiting(&mut self, task: TaskId) -> Option<(Option<Arc<Task>>, u32)> {
        if let Some(returned) = CLASSES.into_iter().find_map(|class| self.returned.remove(&(class, task))) {
            return Some((Some(returned.task), returned.attempts));
        }
        self.loading.remove(&task).or_else(|| self.delayed.remove(task)).map(|attempts| (None, attempts))
    }

    /// How often a task went out that waits to go out again, now or later.
    pub(super) fn waiting(&self, task: TaskId) -> Option<u32> {
        let returned = || CLASSES.into_iter().find_map(|class| self.returned.get(&(class, task)));
        let loading = self.loading.get(&task).copied();
        loading.or_else(|| Some(returned()?.attempts)).or_else(|| Some(self.delayed.get(task)?.1))
    }

    /// The oldest task that was delivered and is not settled.
    pub(super) fn oldest_open(&self) -> Option<TaskId> {
        let open = self.leases.keys().chain(self.loading.keys()).copied();
        let waiting = self.returned.keys().map(|(_, id)| *id).chain(self.delayed.oldest());
        open.chain(waiting).min()
    }

    /// Whether a task of the log is for this group at all.
    pub(super) fn wants(&self, task: &Task) -> bool {
        match &task.spec.to {
            Some(to) => self.name.as_ref() == Some(to),
            None => task.id > self.broadcast_after,
        }
    }

    /// Whether the text of a task that is due may be brought into memory: only for somebody, and not without bound.
    pub(super) fn may_load(&self) -> bool {
        !self.sessions.is_empty() && self.returned.len() + self.loading.len() < LOADED
    }

    /// When this group next has something to do by itself.
    pub(super) fn next_due(&self) -> Option<Time> {
        let lease = self.deadlines.first().map(|(deadline, _)| *deadline);
        let delayed = self.delayed.first().filter(|_| self.may_load());
        lease.into_iter().chain(delayed).min()
    }
}
