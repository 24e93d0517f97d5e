//! The tasks that a group took up and has not settled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::delayed::{Delayed, Due};
use super::session::SessionId;
use super::suspects::Suspects;
use crate::attempts::Attempts;
use crate::now::{Now, Steady};
use crate::store::OpenTask;
use crate::task::{Priority, Task, TaskId, Time};

/// A task that is with a client.
#[derive(Debug)]
pub(super) struct Lease {
    /// `None`: the task waited to go out again, without its text, when its client said that it still has it.
    pub(super) task: Option<Arc<Task>>,
    /// `None`: its client has no stream, or none yet.
    pub(super) session: Option<SessionId>,
    /// Deliveries of the task to the group, this one included.
    pub(super) attempts: Attempts,
    /// When it was delivered, in the order of all deliveries: see [`Session::turn`](super::session::Session::turn).
    pub(super) turn: u64,
    /// When it was delivered.
    pub(super) since: Steady,
    /// When it ends, unless its client says something before.
    pub(super) deadline: Steady,
    /// The address that `WORKING` last came from.
    pub(super) confirmed_from: Option<Arc<str>>,
    /// The client whose stream ended, and that has some time to say that it is still at work: its id, or its address.
    pub(super) left_by: Option<Arc<str>>,
}

impl Lease {
    /// The address from which a stream is to come that takes this lease, if it waits for one.
    fn awaited_peer(&self) -> Option<Arc<str>> {
        if self.session.is_none() && self.left_by.is_none() { self.confirmed_from.clone() } else { None }
    }
}

/// Texts of tasks that wait to go out again, for each priority: more are not read into memory. And most that are read at once.
const LOADED: usize = 256;

/// The open tasks of a group. Each is in exactly one of `leases`, `returned`, `suspects`, `delayed`, `due`
/// and `loading`.
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
    /// For each priority, what is due and has no room in memory. So what is due of one priority never waits for another.
    due: [BTreeMap<TaskId, Attempts>; 3],
    /// Due, and their text is being read.
    loading: FxHashMap<TaskId, Attempts>,
    /// How many of each priority are in `returned` and `suspects`.
    texts: [usize; 3],
    /// Not as in the last checkpoint.
    changed: bool,
}

impl OpenTasks {
    pub(super) fn len(&self) -> usize {
        self.leases.len() + self.waiting_len()
    }

    /// How many are with a client.
    pub(super) fn leased_len(&self) -> usize {
        self.leases.len()
    }

    /// How many wait to go out again.
    pub(super) fn waiting_len(&self) -> usize {
        self.returned.len() + self.suspects.len() + self.delayed.len() + self.due_len() + self.loading.len()
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
        let due = self.due.iter().filter_map(|due| due.first_key_value()).map(|(id, _)| *id);
        let waiting = waiting.chain(due).chain(self.delayed.oldest());
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
    pub(super) fn lease(&mut self, task: TaskId, lease: Lease) {
        self.changed = true;
        self.deadlines.insert((lease.deadline, task));
        self.awaiting_stream.extend(lease.awaited_peer().map(|peer| (peer, task)));
        self.leases.insert(task, lease);
    }

    /// Takes a task from its client.
    pub(super) fn end_lease(&mut self, task: TaskId) -> Option<Lease> {
        let lease = self.leases.remove(&task)?;
        self.changed = true;
        self.deadlines.remove(&(lease.deadline, task));
        if let Some(peer) = lease.awaited_peer() {
            self.awaiting_stream.remove(&(peer, task));
        }
        Some(lease)
    }

    /// The stream of a task's client ended. If it has begun the task, it keeps it until `deadline` at most; says whether that is
    /// so.
    pub(super) fn leave_begun(&mut self, task: TaskId, client: &Arc<str>, deadline: Steady) -> bool {
        if self.leases.get(&task).is_none_or(|lease| !lease.attempts.begun) {
            return false;
        }
        let Some(lease) = self.end_lease(task) else { return false };
        let deadline = lease.deadline.min(deadline);
        self.lease(task, Lease { session: None, left_by: Some(client.clone()), deadline, ..lease });
        true
    }

    // ---- tasks that wait to go out again

    /// How often a task was delivered that waits to go out again, now or later.
    pub(super) fn waiting(&self, task: TaskId) -> Option<Attempts> {
        let returned = || Priority::ALL.into_iter().find_map(|priority| self.returned.get(&(priority, task)));
        let loading = self.loading.get(&task).copied();
        let in_memory = loading.or_else(|| Some(returned()?.1)).or_else(|| self.suspects.get(task));
        let due = || self.due.iter().find_map(|due| due.get(&task)).copied();
        in_memory.or_else(due).or_else(|| Some(self.delayed.get(task)?.1))
    }

    /// When a delayed task is due.
    pub(super) fn due(&self, task: TaskId) -> Option<Due> {
        self.delayed.get(task).map(|(due, _)| due)
    }

    /// Takes a task out of the place where it waits to go out again: its text, if that is in memory, and its deliveries.
    pub(super) fn take_waiting(&mut self, task: TaskId) -> Option<(Option<Arc<Task>>, Attempts)> {
        let returned = Priority::ALL.into_iter().find_map(|priority| self.returned.remove(&(priority, task)));
        let taken = match returned.or_else(|| self.suspects.remove(task)) {
            Some((text, attempts)) => {
                self.texts[text.spec.priority as usize] -= 1;
                (Some(text), attempts)
            }
            None => {
                let due = || self.due.iter_mut().find_map(|due| due.remove(&task));
                let not_loaded = self.loading.remove(&task).or_else(due);
                (None, not_loaded.or_else(|| self.delayed.remove(task))?)
            }
        };
        self.changed = true;
        Some(taken)
    }

    /// Has a task go out again as soon as it can.
    pub(super) fn give_back(&mut self, task: Arc<Task>, attempts: Attempts) {
        self.changed = true;
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
    pub(super) fn take_returned(&mut self, priority: Priority) -> Option<(Arc<Task>, Attempts)> {
        let taken = match self.suspects.first(priority) {
            Some(suspect) => self.suspects.remove(suspect),
            None => Some(self.returned.first_entry().filter(|first| first.key().0 == priority)?.remove()),
        };
        self.changed = true;
        self.texts[priority as usize] -= 1;
        taken
    }

    /// Has a task go out, again or for the first time, when it is due; or changes when a delayed one is due.
    pub(super) fn delay(&mut self, task: TaskId, due: Due, attempts: Attempts) {
        self.changed = true;
        self.delayed.insert(task, due, attempts);
    }

    // ---- the text of delayed tasks

    /// The first priority that has room in memory for a text which is due and had none before.
    fn next_due_class(&self) -> Option<usize> {
        (0..self.due.len())
            .find(|class| !self.due[*class].is_empty() && self.texts[*class] + self.loading.len() < LOADED)
    }

    /// Whether there is room in memory for the text of a delayed task, whatever its priority may be: that is not known before.
    fn may_load_delayed(&self) -> bool {
        self.loading.len() < LOADED && self.texts.iter().any(|texts| *texts < LOADED)
    }

    /// How many are due and have no room in memory.
    fn due_len(&self) -> usize {
        self.due.iter().map(BTreeMap::len).sum()
    }

    /// When the next text is to be read, but for those that wait for a time of day.
    pub(super) fn next_load(&self) -> Option<Steady> {
        match self.next_due_class() {
            Some(_) => Some(Steady::default()),
            None => self.delayed.first_wait().filter(|_| self.may_load_delayed()),
        }
    }

    /// The time of day at which the next text of these is to be read.
    pub(super) fn next_moment(&self) -> Option<Time> {
        self.delayed.first_moment().filter(|_| self.may_load_delayed())
    }

    /// Moves what is due to `loading`, as far as there is room for the texts.
    pub(super) fn begin_loading(&mut self, now: Now) -> Vec<TaskId> {
        let mut ids = Vec::new();
        while let Some(class) = self.next_due_class()
            && let Some((task, attempts)) = self.due[class].pop_first()
        {
            self.loading.insert(task, attempts);
            ids.push(task);
        }
        while self.may_load_delayed()
            && let Some((task, attempts)) = self.delayed.pop(now)
        {
            self.loading.insert(task, attempts);
            ids.push(task);
        }
        ids
    }

    /// The texts that were asked for: these tasks go out again. Where there are enough of a priority, the text is read again
    /// later. The others are no longer stored, and are forgotten.
    pub(super) fn loaded(&mut self, asked: &[TaskId], tasks: Vec<Task>) {
        for task in tasks {
            let class = task.spec.priority as usize;
            match self.loading.remove(&task.id) {
                Some(attempts) if self.texts[class] < LOADED => self.give_back(Arc::new(task), attempts),
                Some(attempts) => drop(self.due[class].insert(task.id, attempts)),
                None => {}
            }
        }
        for task in asked {
            self.loading.remove(task);
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
        self.changed |= self.delayed.first_wait().is_some();
    }

    /// Whether they changed since this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What a checkpoint keeps of them, by id. What is stored may be read by another start of the machine: so it has the time of day.
    pub(super) fn state(&self, now: Now) -> Vec<OpenTask> {
        // The outcome or the loss of a lease will follow this checkpoint in the log; if neither does, this delivery counts.
        let mut open: Vec<_> =
            self.iter().map(|(id, due, attempts)| (id, kept(due, attempts, now), attempts)).collect();
        open.sort_unstable_by_key(|task| task.0);
        open.into_iter().map(|(id, not_before, attempts)| OpenTask { id, attempts, not_before }).collect()
    }

    /// All of them, in no order; those that are delayed with when they are due.
    fn iter(&self) -> impl Iterator<Item = (TaskId, Option<Due>, Attempts)> {
        let leased = self.leases.iter().map(|(id, lease)| (*id, lease.attempts));
        let returned = self.returned.iter().map(|((_, id), returned)| (*id, returned.1));
        let due = self.due.iter().flatten().chain(&self.loading).map(|(id, attempts)| (*id, *attempts));
        let at_once = leased.chain(returned).chain(self.suspects.iter()).chain(due);
        let delayed = self.delayed.iter().map(|(id, due, attempts)| (id, Some(due), attempts));
        at_once.map(|(id, attempts)| (id, None, attempts)).chain(delayed)
    }

    /// Their ids, in no order.
    pub(super) fn ids(&self) -> impl Iterator<Item = TaskId> {
        self.iter().map(|(id, _, _)| id)
    }

    /// Whether each task is in one place, and the indexes agree with the leases; an error says what does not hold.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.ids().find(|id| !seen.insert(*id)) {
            return Err(format!("task {twice} is open in two places"));
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
