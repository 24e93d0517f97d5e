//! The tasks that a group took up and has not settled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::delayed::{Delayed, Due};
use super::holder::Holder;
use super::kept::Kept;
use super::packed::Packed;
use super::replacing::marked;
use super::session::SessionId;
use super::suspects::Suspects;
use crate::attempts::Attempts;
use crate::now::{Now, Steady};
use crate::store::{LanePlace, OpenRows, OpenTask};
use crate::task::{Name, Priority, Progress, Task, TaskId, Time, cut, weight};

/// A task that is with a client.
#[derive(Debug)]
pub(super) struct Lease {
    /// `None`: the task waited to go out again, without its text, when its client said that it still has it. With no text: there
    /// was no room for that when it went out.
    pub(super) task: Option<Arc<Task>>,
    /// `None`: its client has no stream, or none yet.
    pub(super) session: Option<SessionId>,
    /// What it counts for as long as it is under way, for the quota of its session.
    pub(super) bytes: u32,
    /// Deliveries of the task to the group, this one included.
    pub(super) attempts: Attempts,
    /// When it was delivered, in the order of all deliveries: see [`Session::turn`](super::session::Session::turn).
    pub(super) turn: u64,
    /// When it was delivered.
    pub(super) since: Steady,
    /// When it ends, unless its client says something before.
    pub(super) deadline: Steady,
    pub(super) said: Said,
    /// The address that `WORKING` last came from.
    pub(super) confirmed_from: Option<Arc<str>>,
    /// The client whose stream ended, and that has some time to say that it is still at work.
    pub(super) left_by: Option<Holder>,
}

/// How much is kept of what a client says with `WORKING`, in bytes: a line of a terminal, or two. With a full window of 64 that is
/// 16 kB a client.
pub const LONGEST_SAID: usize = 256;

/// What a client said last, with `WORKING`, of a task that it has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// Its words, cut to [`LONGEST_SAID`]. `None`: none.
    pub text: Option<Arc<str>>,
    /// How far it is. `None`: it did not say.
    pub progress: Option<Progress>,
}

impl Said {
    /// What is kept of it.
    pub(super) fn of(text: &str, progress: Option<Progress>) -> Said {
        let text = match text.len() {
            0 => None,
            1..=LONGEST_SAID => Some(text.into()),
            _ => {
                let mut text = text.to_owned();
                cut(&mut text, LONGEST_SAID);
                Some(text.into())
            }
        };
        Said { text, progress }
    }

    /// This, and what was said before of what this says nothing of.
    pub(super) fn or(self, before: Said) -> Said {
        Said { text: self.text.or(before.text), progress: self.progress.or(before.progress) }
    }

    pub(super) fn is_nothing(&self) -> bool {
        *self == Said::default()
    }
}

impl Lease {
    /// The address from which a stream is to come that takes this lease, if it waits for one.
    fn awaited_peer(&self) -> Option<Arc<str>> {
        if self.session.is_none() && self.left_by.is_none() { self.confirmed_from.clone() } else { None }
    }
}

/// Bytes of the texts of open tasks, of all groups together, above which the text of a task is not kept when it goes out. What comes
/// back is then read again, as if it had been delayed.
const SENT_TEXTS: usize = 32 << 20;

/// The same for texts that are read to go out again: above this a group has one at a time.
const LOADED_TEXTS: usize = 64 << 20;

/// What the open tasks of all groups have in memory, in bytes of [`weight`]: of those that were sent at most [`SENT_TEXTS`] and one; with what
/// was read to go out again, [`LOADED_TEXTS`], and one for each group.
#[derive(Debug, Default)]
pub(super) struct Texts(usize);

impl Texts {
    fn came(&mut self, task: &Task) {
        self.0 += weight(task.spec.bytes());
    }

    fn left(&mut self, task: &Task) {
        self.0 -= weight(task.spec.bytes());
    }

    pub(super) fn bytes(&self) -> usize {
        self.0
    }

    /// How many of a group and priority may be in memory.
    fn loaded(&self) -> usize {
        if self.0 < LOADED_TEXTS { LOADED } else { 1 }
    }

    /// They are kept no more.
    pub(super) fn forget(&mut self, open: &OpenTasks) {
        self.0 -= open.texts_bytes();
    }

    /// What is kept of a task that goes out.
    pub(super) fn sent(&self, task: &Arc<Task>) -> Arc<Task> {
        if self.0 < SENT_TEXTS { task.clone() } else { Arc::new(task.without_text()) }
    }

    /// Whether it is what these have; an error says what does not hold.
    pub(super) fn check<'a>(&self, open: impl Iterator<Item = &'a OpenTasks>) -> Result<(), String> {
        match open.map(OpenTasks::texts_bytes).sum::<usize>() {
            bytes if bytes == self.0 => Ok(()),
            bytes => Err(format!("open tasks have {bytes} bytes of texts, and {} are counted", self.0)),
        }
    }
}

/// Texts of tasks that wait to go out again, for each priority: more are not read into memory. And most that are read at once.
const LOADED: usize = 256;

/// By so many milliseconds the time of day is off, against the clock that never steps, before what was written by it is written
/// anew.
const STEP: u64 = 1_000;

/// The open tasks of a group. Each is in exactly one of `leases`, `returned`, `suspects`, `delayed`, `due`,
/// `loading` and `parked`.
///
/// A task that is taken out must be put into another place at once, or it is settled.
#[derive(Debug, Default)]
pub(super) struct OpenTasks {
    /// With a client.
    leases: FxHashMap<TaskId, Lease>,
    /// Of each lease, so that those that are over are found.
    deadlines: BTreeSet<(Steady, TaskId)>,
    /// Of each lease without a session, with the address from which its client said that it has the task.
    awaiting_stream: BTreeSet<(Arc<str>, TaskId)>,
    /// Go out before any new task of their priority.
    returned: BTreeMap<(Priority, TaskId), (Arc<Task>, Attempts)>,
    /// Go out before these, one at a time.
    suspects: Suspects,
    /// Not to go out before a time. Their text is not in memory.
    delayed: Delayed,
    /// Of these, what was with a client when the process ended before this one, and until when it is held back for that.
    held: (FxHashSet<TaskId>, Steady),
    /// For each priority, what is due and has no room in memory. So what is due of one priority never waits for another.
    due: [Packed<TaskId, Attempts>; 3],
    /// Due, and their text is being read.
    loading: FxHashMap<TaskId, Attempts>,
    /// Wait for a place in their lane. Their text is not in memory.
    parked: BTreeMap<TaskId, Attempts>,
    /// The lane of each that is in one, and where it stands there. Also of those that are dead and hold their lane: they are in no
    /// other place.
    lanes: FxHashMap<TaskId, (Name, LanePlace)>,
    /// Of these, what was taken out of its place since this was last asked.
    left: Vec<TaskId>,
    /// How many of each priority are in `returned` and `suspects`.
    texts: [usize; 3],
    kept: Kept,
    /// When rows were last written, on both clocks.
    written_by: Option<Now>,
    /// Not as in the last checkpoint.
    changed: bool,
}

impl OpenTasks {
    /// None yet; rows of them were written by a clock that showed `stored` now. These were with a client when that was written, and wait
    /// for it until then.
    pub(super) fn restored(stored: Now, held: impl Iterator<Item = TaskId>, until: Steady) -> OpenTasks {
        OpenTasks { written_by: Some(stored), held: (held.collect(), until), ..OpenTasks::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.leases.len() + self.waiting_len()
    }

    /// How many are with a client.
    pub(super) fn leased_len(&self) -> usize {
        self.leases.len()
    }

    /// How many wait to go out again.
    pub(super) fn waiting_len(&self) -> usize {
        let in_memory = self.returned.len() + self.suspects.len() + self.loading.len();
        in_memory + self.delayed.len() + self.due_len() + self.parked.len()
    }

    /// How many of these may not go out yet.
    pub(super) fn delayed_len(&self) -> usize {
        self.delayed.len()
    }

    /// When the task was delivered that has been with a client for longest.
    pub(super) fn held_since(&self) -> Option<Steady> {
        self.leases.values().map(|lease| lease.since).min()
    }

    pub(super) fn oldest(&self) -> Option<TaskId> {
        let open = self.leases.keys().chain(self.loading.keys()).copied();
        let waiting = self.returned.keys().map(|(_, id)| *id).chain(self.suspects.iter().map(|(id, _)| id));
        let due = self.due.iter().filter_map(Packed::first).map(|(id, _)| id);
        let parked = self.parked.first_key_value().map(|(id, _)| *id);
        let waiting = waiting.chain(due).chain(self.delayed.oldest()).chain(parked);
        open.chain(waiting).min()
    }

    // ---- leases

    pub(super) fn lease_of(&self, task: TaskId) -> Option<&Lease> {
        self.leases.get(&task)
    }

    /// The leases that wait for a stream from this address.
    pub(super) fn awaiting_stream(&self, peer: &Arc<str>) -> Vec<TaskId> {
        let of_peer = self.awaiting_stream.range((peer.clone(), 0)..=(peer.clone(), TaskId::MAX));
        of_peer.map(|(_, task)| *task).collect()
    }

    /// The leases that are over.
    pub(super) fn overdue(&self, now: Steady) -> Vec<TaskId> {
        self.deadlines.range(..=(now, TaskId::MAX)).map(|(_, task)| *task).collect()
    }

    /// When the first lease is over.
    pub(super) fn first_deadline(&self) -> Option<Steady> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Gives a task to a client.
    pub(super) fn lease(&mut self, task: TaskId, lease: Lease, texts: &mut Texts) {
        self.changed = true;
        lease.task.iter().for_each(|task| texts.came(task));
        self.kept.came(task);
        self.deadlines.insert((lease.deadline, task));
        self.awaiting_stream.extend(lease.awaited_peer().map(|peer| (peer, task)));
        self.leases.insert(task, lease);
    }

    /// Takes a task from its client.
    pub(super) fn end_lease(&mut self, task: TaskId, texts: &mut Texts) -> Option<Lease> {
        let lease = self.leases.remove(&task)?;
        lease.task.iter().for_each(|task| texts.left(task));
        self.left(task);
        self.deadlines.remove(&(lease.deadline, task));
        if let Some(peer) = lease.awaited_peer() {
            self.awaiting_stream.remove(&(peer, task));
        }
        Some(lease)
    }

    /// Marks a task that is with a client as one whose place was taken.
    pub(super) fn replace_leased(&mut self, task: TaskId, by: TaskId, at: Time, texts: &mut Texts) {
        let lease = self.leases.get_mut(&task);
        // Of one that came back with its client only the store knows what it is: it is read if it comes back again.
        let Some(text) = lease.and_then(|lease| lease.task.as_mut()) else { return };
        texts.left(text);
        *text = marked(text, by, at);
        texts.came(text);
    }

    /// A task was taken out of its place.
    fn left(&mut self, task: TaskId) {
        self.changed = true;
        self.kept.left(task);
        if !self.lanes.is_empty() && self.lanes.contains_key(&task) {
            self.left.push(task);
        }
    }

    /// The stream of a task's client ended. If it has begun the task, it keeps it until `deadline` at most; says whether that is
    /// so.
    pub(super) fn leave_begun(&mut self, task: TaskId, client: &Holder, deadline: Steady, texts: &mut Texts) -> bool {
        if self.leases.get(&task).is_none_or(|lease| !lease.attempts.begun) {
            return false;
        }
        let Some(lease) = self.end_lease(task, texts) else { return false };
        let deadline = lease.deadline.min(deadline);
        self.lease(task, Lease { session: None, left_by: Some(client.clone()), deadline, ..lease }, texts);
        true
    }

    // ---- tasks that wait to go out again

    /// How often a task was delivered that waits to go out again, now or later.
    pub(super) fn waiting(&self, task: TaskId) -> Option<Attempts> {
        let returned = || Priority::ALL.into_iter().find_map(|priority| self.returned.get(&(priority, task)));
        let loading = self.loading.get(&task).copied();
        let in_memory = loading.or_else(|| Some(returned()?.1)).or_else(|| self.suspects.get(task));
        let due = || self.due.iter().find_map(|due| due.get(task));
        let parked = || self.parked.get(&task).copied();
        in_memory.or_else(due).or_else(parked).or_else(|| Some(self.delayed.get(task)?.1))
    }

    /// When a delayed task is due.
    pub(super) fn due(&self, task: TaskId) -> Option<Due> {
        self.delayed.get(task).map(|(due, _)| due)
    }

    /// How often a task was delivered that is held back for the client that had it before a start.
    pub(super) fn held_back(&self, task: TaskId, now: Steady) -> Option<Attempts> {
        let (held, until) = &self.held;
        if now < *until && held.contains(&task) { self.waiting(task) } else { None }
    }

    /// Whether a task was with a client before a start, and nothing was heard of it since.
    pub(super) fn was_with_client(&self, task: TaskId) -> bool {
        self.held.0.contains(&task)
    }

    /// How many are held back, or were until their clients said that they have them.
    pub(super) fn held_back_len(&self, now: Steady) -> usize {
        let (held, until) = &self.held;
        if now < *until { held.len() } else { 0 }
    }

    /// Takes a task out of the place where it waits to go out again: its text, if that is in memory, and its deliveries.
    pub(super) fn take_waiting(&mut self, task: TaskId, texts: &mut Texts) -> Option<(Option<Arc<Task>>, Attempts)> {
        let returned = Priority::ALL.into_iter().find_map(|priority| self.returned.remove(&(priority, task)));
        let taken = match returned.or_else(|| self.suspects.remove(task)) {
            Some((text, attempts)) => {
                self.texts[text.spec.priority as usize] -= 1;
                texts.left(&text);
                (Some(text), attempts)
            }
            None => {
                let due = || self.due.iter_mut().find_map(|due| due.remove(task));
                let not_loaded = self.loading.remove(&task).or_else(due).or_else(|| self.parked.remove(&task));
                (None, not_loaded.or_else(|| self.delayed.remove(task))?)
            }
        };
        self.left(task);
        // If its client gives it back, it is not held any more.
        self.held.0.remove(&task);
        Some(taken)
    }

    /// Has a task go out again as soon as it can.
    pub(super) fn give_back(&mut self, task: Arc<Task>, attempts: Attempts, texts: &mut Texts) {
        self.changed = true;
        self.kept.came(task.id);
        self.put_back(task, attempts, texts);
    }

    fn put_back(&mut self, task: Arc<Task>, attempts: Attempts, texts: &mut Texts) {
        texts.came(&task);
        self.texts[task.spec.priority as usize] += 1;
        match attempts.silent {
            0 => drop(self.returned.insert((task.spec.priority, task.id), (task, attempts))),
            _ => self.suspects.insert(task, attempts),
        }
    }

    /// Whether the next task of this priority, if it is the highest with suspects, is one that goes out alone.
    pub(super) fn has_suspect(&self, priority: Priority) -> bool {
        self.suspects.first(priority).is_some()
    }

    /// Takes the first task that goes out again, if the highest priority among these is this one.
    pub(super) fn take_returned(&mut self, priority: Priority, texts: &mut Texts) -> Option<(Arc<Task>, Attempts)> {
        let taken = match self.suspects.first(priority) {
            Some(suspect) => self.suspects.remove(suspect),
            None => Some(self.returned.first_entry().filter(|first| first.key().0 == priority)?.remove()),
        }?;
        self.left(taken.0.id);
        self.texts[priority as usize] -= 1;
        texts.left(&taken.0);
        Some(taken)
    }

    /// Has a task go out, again or for the first time, when it is due; or changes when a delayed one is due.
    pub(super) fn delay(&mut self, task: TaskId, due: Due, attempts: Attempts) {
        self.changed = true;
        self.kept.came_to_wait(task);
        self.delayed.insert(task, due, attempts);
    }

    /// Puts a task where it waits, as its row in the store has it.
    pub(super) fn restore(&mut self, task: TaskId, due: Due, attempts: Attempts) {
        self.delayed.insert(task, due, attempts);
    }

    // ---- lanes

    /// The lane of an open task, or of a dead one that holds its lane, and where it stands there.
    pub(super) fn lane_of(&self, task: TaskId) -> Option<&(Name, LanePlace)> {
        self.lanes.get(&task)
    }

    /// A task that is in a lane is put into a place after this, or is settled.
    pub(super) fn enter_lane(&mut self, task: TaskId, lane: Name, place: LanePlace) {
        if self.is_dead(task) {
            self.kept.left(task);
        }
        self.lanes.insert(task, (lane, place));
        self.left.push(task);
    }

    /// A task that was given up holds its lane. It has a row, and nothing else.
    pub(super) fn hold_lane(&mut self, task: TaskId) {
        if let Some((_, place)) = self.lanes.get_mut(&task) {
            *place = LanePlace::Dead;
            self.changed = true;
            self.kept.came_to_wait(task);
        }
    }

    /// A task is in no lane any more; says in which it was.
    pub(super) fn leave_lane(&mut self, task: TaskId) -> Option<Name> {
        let (lane, place) = self.lanes.remove(&task)?;
        if place == LanePlace::Dead {
            self.changed = true;
            self.kept.left(task);
        }
        Some(lane)
    }

    /// The tasks of lanes that were taken out of their places since this was last asked, and are settled.
    pub(super) fn take_settled(&mut self) -> Vec<TaskId> {
        if self.left.is_empty() {
            return Vec::new();
        }
        let mut left = std::mem::take(&mut self.left);
        left.retain(|task| self.lane_of(*task).is_some_and(|lane| lane.1 != LanePlace::Dead) && !self.is_open(*task));
        left
    }

    /// The dead that hold their lanes.
    pub(super) fn dead(&self) -> impl Iterator<Item = TaskId> {
        self.lanes.iter().filter(|(_, (_, place))| *place == LanePlace::Dead).map(|(task, _)| *task)
    }

    fn is_dead(&self, task: TaskId) -> bool {
        self.lane_of(task).is_some_and(|lane| lane.1 == LanePlace::Dead)
    }

    pub(super) fn is_open(&self, task: TaskId) -> bool {
        self.leases.contains_key(&task) || self.waiting(task).is_some()
    }

    /// Has a task wait for a place in its lane.
    pub(super) fn park(&mut self, task: TaskId, attempts: Attempts) {
        self.changed = true;
        self.kept.came_to_wait(task);
        self.parked.insert(task, attempts);
    }

    /// A parked task has its place now, and goes out when its text is read. `false`: it is settled.
    pub(super) fn unpark(&mut self, task: TaskId, priority: Priority) -> bool {
        let Some(attempts) = self.parked.remove(&task) else { return false };
        self.due[priority as usize].insert(task, attempts);
        true
    }

    // ---- the text of delayed tasks

    /// The first priority that has room in memory for a text which is due and had none before.
    fn next_due_class(&self, texts: &Texts) -> Option<usize> {
        let most = texts.loaded();
        (0..self.due.len()).find(|class| !self.due[*class].is_empty() && self.texts[*class] + self.loading.len() < most)
    }

    /// Whether there is room in memory for the text of a delayed task, whatever its priority may be: that is not known before.
    fn may_load_delayed(&self, texts: &Texts) -> bool {
        let most = texts.loaded();
        self.loading.len() < most && self.texts.iter().any(|texts| *texts < most)
    }

    /// How many are due and have no room in memory.
    fn due_len(&self) -> usize {
        self.due.iter().map(Packed::len).sum()
    }

    /// When the next text is to be read, but for those that wait for a time of day.
    pub(super) fn next_load(&self, texts: &Texts) -> Option<Steady> {
        match self.next_due_class(texts) {
            Some(_) => Some(Steady::default()),
            None => self.delayed.first_wait().filter(|_| self.may_load_delayed(texts)),
        }
    }

    /// The time of day at which the next text of these is to be read.
    pub(super) fn next_moment(&self, texts: &Texts) -> Option<Time> {
        self.delayed.first_moment().filter(|_| self.may_load_delayed(texts))
    }

    /// Moves what is due to `loading`, as far as there is room for the texts. What the store has of these tasks stays right.
    pub(super) fn begin_loading(&mut self, now: Now, texts: &Texts) -> Vec<TaskId> {
        let mut ids = Vec::new();
        while let Some(class) = self.next_due_class(texts)
            && let Some((task, attempts)) = self.due[class].pop_first()
        {
            self.loading.insert(task, attempts);
            ids.push(task);
        }
        while self.may_load_delayed(texts)
            && let Some((task, attempts)) = self.delayed.pop(now)
        {
            self.loading.insert(task, attempts);
            ids.push(task);
        }
        ids
    }

    /// The texts that were asked for: these tasks go out again. Where there are enough of a priority, the text is read again
    /// later. The others are no longer stored, and are forgotten.
    pub(super) fn loaded(&mut self, asked: &[TaskId], tasks: Vec<Task>, texts: &mut Texts) {
        for task in tasks {
            let class = task.spec.priority as usize;
            match self.loading.remove(&task.id) {
                Some(attempts) if self.texts[class] < texts.loaded() => self.put_back(Arc::new(task), attempts, texts),
                Some(attempts) => self.due[class].insert(task.id, attempts),
                None => {}
            }
        }
        for task in asked {
            if self.loading.remove(task).is_some() {
                self.left(*task);
            }
        }
    }

    /// The texts could not be read: the tasks are due again later.
    pub(super) fn load_failed(&mut self, asked: &[TaskId], due: Steady) {
        for task in asked {
            if let Some(attempts) = self.loading.remove(task) {
                self.delayed.insert(*task, Due::After(due), attempts);
            }
        }
    }

    // ---- all of them

    /// What waits for a while is to be written down anew.
    pub(super) fn waits_changed(&mut self) {
        self.changed |= self.delayed.first_wait().is_some() || !self.loading.is_empty() || self.due_len() > 0;
    }

    /// Whether they changed since this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What a checkpoint keeps of a task. What is stored may be read by another start of the machine: so it has the time of day.
    fn find(&self, id: TaskId, now: Now) -> Option<OpenTask> {
        // The outcome or the loss of a lease will follow the checkpoint in the log; if neither does, this delivery counts.
        let leased = self.lease_of(id).map(|lease| lease.attempts);
        let dead = || self.is_dead(id).then(Attempts::default);
        let attempts = leased.or_else(|| self.waiting(id)).or_else(dead)?;
        let (lane, place) =
            self.lane_of(id).cloned().map_or_else(Default::default, |(lane, place)| (Some(lane), place));
        // The next start is to hold it back, too.
        let due = self.due(id).filter(|_| self.held_back(id, now.steady).is_none());
        Some(OpenTask { id, attempts, not_before: kept(due, attempts, now), lane, place })
    }

    /// What a checkpoint writes: the list of the group, and the rows that changed.
    pub(super) fn take_changes(&mut self, now: Now) -> (Vec<OpenTask>, OpenRows) {
        // What waits for a while is stored with the time of day. If that stepped, all of these rows are wrong: also those of tasks that
        // are due since, and whose text is still to be read.
        let before = self.written_by.replace(now);
        if before.is_some_and(|before| before.wall_at(now.steady).0.abs_diff(now.wall.0) >= STEP) {
            let due = self.due.iter().flat_map(Packed::iter).map(|(task, _)| task);
            let due = due.chain(self.loading.keys().copied());
            self.delayed.waits().chain(due).for_each(|task| self.kept.came_to_wait(task));
        }
        let mut kept = std::mem::take(&mut self.kept);
        let changes = kept.take_changes(|task| self.find(task, now));
        self.kept = kept;
        changes
    }

    /// The group is a passing one: there is nothing to write.
    pub(super) fn keep_nothing(&mut self) {
        self.kept = Kept::default();
    }

    fn texts_bytes(&self) -> usize {
        let leased = self.leases.values().filter_map(|lease| lease.task.as_ref());
        let waiting = self.returned.values().map(|(text, _)| text).chain(self.suspects.texts());
        leased.chain(waiting).map(|task| weight(task.spec.bytes())).sum()
    }

    /// All of them, by id.
    pub(super) fn ids(&self) -> Vec<TaskId> {
        let mut ids: Vec<TaskId> = self.leases.keys().chain(self.loading.keys()).copied().collect();
        ids.extend(self.returned.keys().map(|(_, id)| *id));
        ids.extend(self.suspects.iter().map(|(id, _)| id));
        ids.extend(self.due.iter().flat_map(Packed::iter).map(|(id, _)| id));
        ids.extend(self.delayed.ids());
        ids.extend(self.parked.keys());
        ids.sort_unstable();
        ids
    }

    /// Whether each task is in one place, and the indexes agree with the leases; an error says what does not hold.
    pub(super) fn check(&self) -> Result<(), String> {
        let ids = self.ids();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("task {} is open in two places", twice[0]));
        }
        self.kept.check(|task| ids.binary_search(&task).is_ok() || self.is_dead(task))?;
        let is_wrong =
            |task: &&TaskId| self.is_dead(**task) == ids.binary_search(*task).is_ok() && !self.left.contains(*task);
        if let Some(task) = self.lanes.keys().find(is_wrong) {
            return Err(format!("task {task} is in a lane and settled, or dead and open"));
        }
        let deadlines = self.leases.iter().map(|(task, lease)| (lease.deadline, *task)).collect::<BTreeSet<_>>();
        let awaited = self.leases.iter().filter_map(|(task, lease)| Some((lease.awaited_peer()?, *task)));
        let texts = self.returned.values().map(|(text, _)| text).chain(self.suspects.texts());
        let mut counted = [0; 3];
        texts.for_each(|text| counted[text.spec.priority as usize] += 1);
        if counted != self.texts {
            return Err(format!("{counted:?} texts are in memory, and {:?} are counted", self.texts));
        }
        let agree = deadlines == self.deadlines && awaited.collect::<BTreeSet<_>>() == self.awaiting_stream;
        if agree { Ok(()) } else { Err("the leases and what is kept to find them do not agree".into()) }
    }
}

/// What is kept of when a task is due: see [`OpenTask::not_before`].
fn kept(due: Option<Due>, attempts: Attempts, now: Now) -> Option<Time> {
    match due? {
        Due::At(moment) => Some(moment),
        // What never went out waits for a client that takes it: that is looked at again after a start.
        Due::After(wait) => (attempts.deliveries > 0 && wait > now.steady).then(|| now.wall_at(wait)),
    }
}
