//! The lanes of a group: which of them are full, which tasks wait in them, and whose turn it is.
//!
//! A task of a lane takes a *place* there when its turn comes, and keeps it until it is settled: also while it waits to go out again.
//! What the cursor passes of a lane and has no place yet waits in a queue, one for each lane and priority. A queue is a cursor of its
//! own: it says after which task of the log the waiting ones begin and which is the last, and has the first of them in memory, if
//! there is room. The others are read from the store by their lane. So neither a long queue nor a full lane holds up what comes after it
//! in the log, and how much is in memory does not depend on how many wait.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use foldhash::HashMap;

use super::replacing::marked;
use crate::store::WaitingLane;
use crate::task::{Name, Priority, Replace, Task, TaskId, Time};

/// Most tasks of one lane and priority that are in memory because their turn is next.
const AHEAD: usize = 16;
/// Bytes of their texts; but one task.
const AHEAD_BYTES: usize = 16 * 1024;
/// Lanes of one priority that are read from the store at once.
const READS: usize = 16;

/// The lanes of a group.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// The tasks that have a place, by their lane, in order.
    places: HashMap<Name, Vec<TaskId>>,
    /// One for each priority.
    turns: [Turns; 3],
    /// Bytes of the texts in all queues.
    bytes: usize,
}

/// The queues of one priority.
#[derive(Debug, Default)]
struct Turns {
    queues: HashMap<Name, Queue>,
    /// The lanes that may have a place to give, each once; the first is the next.
    order: VecDeque<Name>,
    /// How many are being read.
    reading: usize,
    /// To be read.
    to_read: Vec<Name>,
    /// A task that is in no lane had its turn last.
    others_had_turn: bool,
}

/// Tasks of one lane and priority that wait for a place.
#[derive(Debug)]
struct Queue {
    /// All of the log come after this task.
    after: TaskId,
    /// Those up to here are in `ready`.
    read: TaskId,
    /// This is the last of them.
    upto: TaskId,
    /// The first of the log, and when it was accepted, if that is known.
    oldest: Option<(TaskId, Time)>,
    /// How many of the log there are. Those among them that were taken up before their turn count until it comes.
    count: u64,
    /// The first of them.
    ready: VecDeque<Arc<Task>>,
    /// Those that the group has taken up: their time came, or they were given out again.
    parked: BTreeSet<TaskId>,
    standing: Standing,
    /// While it is read: the newest task when that was asked for.
    asked_at: TaskId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It waits for a place.
    Blocked,
    /// It is in `order`.
    InTurn,
    /// Its next tasks are being read.
    Reading,
}

/// What is next of the lanes of a priority.
pub(super) enum Next {
    /// This task of the log, which is in no queue any more. It has a place in that lane.
    New(Name, Arc<Task>),
    /// This one, which was taken up. It has a place.
    Parked(Name, TaskId),
}

/// What is to be read of a lane: as in [`Backlog`](crate::store::Backlog).
pub(super) struct LaneRead {
    pub(super) lane: Name,
    pub(super) after: TaskId,
    pub(super) upto: TaskId,
    pub(super) limit: usize,
    pub(super) max_bytes: usize,
}

/// How many places a lane has, where those that somebody named have so many: that of a key has one.
pub(super) fn places(lane: &Name, most: usize) -> usize {
    if Replace::key_of(lane).is_some() { 1 } else { most }
}

/// Puts a task among others, in order, if it is not there.
fn put(tasks: &mut Vec<TaskId>, task: TaskId) {
    if let Err(at) = tasks.binary_search(&task) {
        tasks.insert(at, task);
    }
}

impl Queue {
    fn new(after: TaskId) -> Queue {
        Queue {
            after,
            read: after,
            upto: after,
            oldest: None,
            count: 0,
            ready: VecDeque::new(),
            parked: BTreeSet::new(),
            standing: Standing::Blocked,
            asked_at: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.count == 0 && self.parked.is_empty()
    }

    /// Whether a task of the log is among them.
    fn has(&self, task: TaskId) -> bool {
        self.count > 0 && self.after < task && task <= self.upto
    }

    /// Whether some of them are in the store alone.
    fn has_more(&self) -> bool {
        self.count > self.ready.len() as u64
    }

    /// The first, if it is known.
    fn first(&self) -> Option<TaskId> {
        let parked = self.parked.first().copied();
        match self.ready.front() {
            Some(ready) => Some(parked.map_or(ready.id, |parked| parked.min(ready.id))),
            None => parked.filter(|parked| self.count == 0 || *parked <= self.after),
        }
    }

    fn find_oldest(&mut self) {
        self.oldest = self.ready.front().map(|task| (task.id, task.accepted_at));
    }

    /// Keeps no texts.
    fn forget(&mut self) -> usize {
        self.read = self.after;
        self.ready.drain(..).map(|task| task.spec.bytes()).sum()
    }
}

impl Lanes {
    // ---- places

    /// The tasks that have a place in a lane.
    pub(super) fn places(&self, lane: &Name) -> &[TaskId] {
        self.places.get(lane).map_or(&[], Vec::as_slice)
    }

    /// Bytes of the texts in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many lanes have a task that has a place.
    pub(super) fn busy(&self) -> usize {
        self.places.len()
    }

    /// Gives a task a place, if it has none yet.
    pub(super) fn enter(&mut self, lane: &Name, task: TaskId) {
        put(self.places.entry(lane.clone()).or_default(), task);
    }

    /// Takes its place from a task, if it has one.
    pub(super) fn leave(&mut self, lane: &Name, task: TaskId) {
        let Some(places) = self.places.get_mut(lane) else { return };
        let Ok(at) = places.binary_search(&task) else { return };
        places.remove(at);
        if places.is_empty() {
            self.places.remove(lane);
        }
        self.wake(lane);
    }

    /// The lane may have a place to give.
    fn wake(&mut self, lane: &Name) {
        for turns in &mut self.turns {
            if let Some(queue) = turns.queues.get_mut(lane).filter(|queue| queue.standing == Standing::Blocked) {
                queue.standing = Standing::InTurn;
                turns.order.push_back(lane.clone());
            }
        }
    }

    /// Any lane may have a place to give: there are more in each.
    pub(super) fn wake_all(&mut self) {
        let lanes: BTreeSet<Name> = self.turns.iter().flat_map(|turns| turns.queues.keys().cloned()).collect();
        lanes.iter().for_each(|lane| self.wake(lane));
    }

    // ---- what waits

    /// Whether anything of this priority waits.
    pub(super) fn has_waiting(&self, priority: Priority) -> bool {
        !self.turns[priority as usize].queues.is_empty()
    }

    /// Whether anything of this priority and lane waits.
    pub(super) fn waits(&self, priority: Priority, lane: &Name) -> bool {
        self.turns[priority as usize].queues.contains_key(lane)
    }

    /// Whether any task of the log waits in that queue.
    pub(super) fn has_queued(&self, priority: Priority, lane: &Name) -> bool {
        self.turns[priority as usize].queues.get(lane).is_some_and(|queue| queue.count > 0)
    }

    /// Whether the task of the log is in a queue.
    pub(super) fn is_waiting(&self, task: TaskId, priority: Priority, lane: Option<&Name>) -> bool {
        let queue = lane.and_then(|lane| self.turns[priority as usize].queues.get(lane));
        queue.is_some_and(|queue| queue.has(task))
    }

    /// Whether a task of the log may be, of which no more than its position is known.
    pub(super) fn may_be_waiting(&self, task: TaskId) -> bool {
        let mut queues = self.turns.iter().flat_map(|turns| turns.queues.values());
        queues.any(|queue| queue.has(task))
    }

    /// How many tasks of the log are in queues.
    pub(super) fn waiting_len(&self) -> u64 {
        self.turns.iter().flat_map(|turns| turns.queues.values()).map(|queue| queue.count).sum()
    }

    /// None of the log that is in a queue comes before this.
    pub(super) fn floor(&self) -> TaskId {
        let queues = self.turns.iter().flat_map(|turns| turns.queues.values());
        queues.filter(|queue| queue.count > 0).map(|queue| queue.after).min().unwrap_or(TaskId::MAX)
    }

    /// The oldest task of the log that is in a queue, of those that are known.
    pub(super) fn oldest(&self) -> Option<(TaskId, Time)> {
        let queues = self.turns.iter().flat_map(|turns| turns.queues.values());
        queues.filter(|queue| queue.count > 0).filter_map(|queue| queue.oldest).min()
    }

    /// The lane and priority of which it is not known which is the oldest, and that begins before all others of these: after which
    /// task.
    pub(super) fn unseen(&self) -> Option<(TaskId, Priority, &Name)> {
        let queues = Priority::ALL.into_iter().zip(&self.turns).flat_map(|(priority, turns)| {
            let unknown = turns.queues.iter().filter(|(_, queue)| queue.count > 0 && queue.oldest.is_none());
            unknown.map(move |(lane, queue)| (queue.after, priority, lane))
        });
        queues.min()
    }

    /// The task behind which this one stands in its queue, if that is known.
    pub(super) fn before(&self, task: &Task) -> Option<TaskId> {
        let queue = self.turns[task.spec.priority as usize].queues.get(task.spec.waits_in()?)?;
        queue.first().filter(|first| *first < task.id)
    }

    /// Whether a task that the cursor comes to finds room: `most` lanes may wait, and `room` bytes of text are kept. While others go, one
    /// of another lane waits in the log rather than here without its text, which would be read by itself then.
    pub(super) fn has_room(&self, priority: Priority, lane: &Name, most: usize, room: usize) -> bool {
        let Turns { queues, order, .. } = &self.turns[priority as usize];
        queues.contains_key(lane) || (queues.len() < most && (self.bytes < room || order.is_empty()))
    }

    /// Puts a task into its queue to which the cursor came; `is_full`: its lane has no place. Up to `room` bytes of text are kept.
    pub(super) fn push(&mut self, lane: &Name, task: Arc<Task>, is_full: bool, room: usize) {
        let turns = &mut self.turns[task.spec.priority as usize];
        let queue = turns.queues.entry(lane.clone()).or_insert_with(|| Queue::new(task.id - 1));
        if queue.count == 0 {
            (queue.after, queue.read, queue.oldest) = (task.id - 1, task.id - 1, Some((task.id, task.accepted_at)));
        }
        let fits = self.bytes < if is_full { room / 2 } else { room };
        if !queue.has_more() && queue.standing != Standing::Reading && queue.ready.len() < AHEAD && fits {
            self.bytes += task.spec.bytes();
            queue.read = task.id;
            queue.ready.push_back(task.clone());
        }
        (queue.upto, queue.count) = (task.id, queue.count + 1);
        if !is_full {
            self.wake(lane);
        }
    }

    /// Puts a task into its queue that was taken up already.
    pub(super) fn park(&mut self, lane: &Name, priority: Priority, task: TaskId, is_full: bool) {
        let queue = self.turns[priority as usize].queues.entry(lane.clone()).or_insert_with(|| Queue::new(task));
        queue.parked.insert(task);
        if !is_full {
            self.wake(lane);
        }
    }

    /// A task that was taken up waits no more.
    pub(super) fn unpark(&mut self, lane: &Name, task: TaskId) {
        let mut queues = self.turns.iter_mut().filter_map(|turns| turns.queues.get_mut(lane));
        if queues.any(|queue| queue.parked.remove(&task)) {
            // An empty queue goes when its turn comes.
            self.wake(lane);
        }
    }

    /// Takes a task out of its queue, if it is the first there of those of the log, or the only one.
    pub(super) fn pass(&mut self, lane: &Name, task: TaskId) -> bool {
        for turns in &mut self.turns {
            let queue =
                turns.queues.get_mut(lane).filter(|queue| queue.standing != Standing::Reading && queue.count > 0);
            let Some(queue) = queue else { continue };
            let is_only = queue.count == 1 && queue.upto == task;
            if queue.ready.front().map_or(is_only, |first| first.id == task) {
                self.bytes -= queue.ready.pop_front().map_or(0, |first| first.spec.bytes());
                (queue.after, queue.read, queue.count) = (task, queue.read.max(task), queue.count - 1);
                queue.find_oldest();
                return true;
            }
        }
        false
    }

    /// Marks a task as one whose place was taken, if it is in memory.
    pub(super) fn replace(&mut self, task: TaskId, by: TaskId, at: Time) {
        for queue in self.turns.iter_mut().flat_map(|turns| turns.queues.values_mut()) {
            if let Ok(place) = queue.ready.binary_search_by_key(&task, |ready| ready.id) {
                self.bytes -= queue.ready[place].spec.bytes();
                queue.ready[place] = marked(&queue.ready[place], by, at);
                self.bytes += queue.ready[place].spec.bytes();
            }
        }
    }

    // ---- whose turn it is

    /// Whether the lanes go before what is in none: they take turns.
    pub(super) fn have_turn(&self, priority: Priority) -> bool {
        let turns = &self.turns[priority as usize];
        turns.others_had_turn && !turns.order.is_empty()
    }

    /// What is in no lane had its turn.
    pub(super) fn others_had_turn(&mut self, priority: Priority) {
        let turns = &mut self.turns[priority as usize];
        turns.others_had_turn = !turns.queues.is_empty();
    }

    /// The next of the lane whose turn it is; `most` is how many places a lane has, `room` how many bytes of text are kept.
    pub(super) fn next(&mut self, priority: Priority, most: usize, room: usize) -> Option<Next> {
        let turns = &mut self.turns[priority as usize];
        for _ in 0..turns.order.len() {
            let lane = turns.order.pop_front()?;
            let Some(queue) = turns.queues.get_mut(&lane) else { continue };
            if queue.is_empty() {
                turns.queues.remove(&lane);
                continue;
            }
            let most = places(&lane, most);
            let taken = self.places.entry(lane.clone());
            if matches!(&taken, Entry::Occupied(taken) if taken.get().len() >= most) {
                queue.standing = Standing::Blocked;
                continue;
            }
            let Some(first) = queue.first() else {
                if turns.reading == READS {
                    turns.order.push_front(lane);
                    return None;
                }
                turns.reading += 1;
                queue.standing = Standing::Reading;
                turns.to_read.push(lane);
                continue;
            };
            turns.others_had_turn = false;
            let next = if queue.parked.remove(&first) {
                Next::Parked(lane.clone(), first)
            } else {
                let task = queue.ready.pop_front()?;
                self.bytes -= task.spec.bytes();
                (queue.after, queue.count) = (first, queue.count - 1);
                queue.find_oldest();
                Next::New(lane.clone(), task)
            };
            let taken = taken.or_default();
            put(taken, first);
            // It had its turn: it is the last now, or waits for a place.
            if queue.is_empty() {
                turns.queues.remove(&lane);
            } else if taken.len() < most {
                turns.order.push_back(lane);
            } else {
                queue.standing = Standing::Blocked;
                // Else texts of lanes that are full would take the room of the others.
                if self.bytes >= room / 2 {
                    self.bytes -= queue.forget();
                }
            }
            return Some(next);
        }
        None
    }

    // ---- what is read from the store

    /// Whether tasks of this priority are being read whose turn it is.
    pub(super) fn is_reading(&self, priority: Priority) -> bool {
        self.turns[priority as usize].reading > 0
    }

    /// Whether something is to be read.
    pub(super) fn has_reads(&self, priority: Priority) -> bool {
        !self.turns[priority as usize].to_read.is_empty()
    }

    /// What is to be read since this was last asked; up to `room` bytes of text are kept.
    /// `head` is the newest task.
    pub(super) fn take_reads(&mut self, priority: Priority, room: usize, head: TaskId) -> Vec<LaneRead> {
        let Turns { queues, to_read, .. } = &mut self.turns[priority as usize];
        let (limit, max_bytes) = if self.bytes < room / 2 { (AHEAD, AHEAD_BYTES) } else { (1, 1) };
        let reads = to_read.drain(..).filter_map(|lane| {
            let queue = queues.get_mut(&lane)?;
            queue.asked_at = head;
            let Queue { read, upto, .. } = *queue;
            Some(LaneRead { lane, after: read, upto, limit, max_bytes })
        });
        reads.collect()
    }

    /// The newest task when what is read of a lane was asked for.
    pub(super) fn asked_at(&self, priority: Priority, lane: &Name) -> TaskId {
        self.turns[priority as usize].queues.get(lane).map_or(0, |queue| queue.asked_at)
    }

    /// What was read of a lane: everything up to `scanned`. `None`: it could not be read.
    pub(super) fn read(&mut self, priority: Priority, lane: &Name, page: Option<(Vec<Task>, TaskId)>) {
        let turns = &mut self.turns[priority as usize];
        turns.reading = turns.reading.saturating_sub(1);
        let Some(queue) = turns.queues.get_mut(lane) else { return };
        queue.standing = Standing::InTurn;
        turns.order.push_front(lane.clone());
        let Some((tasks, scanned)) = page else { return };
        for task in tasks.into_iter().filter(|task| task.id > queue.read) {
            self.bytes += task.spec.bytes();
            queue.ready.push_back(Arc::new(task));
        }
        queue.read = queue.read.max(scanned);
        queue.find_oldest();
        if scanned >= queue.upto {
            // Others were removed from the store.
            queue.count = queue.ready.len() as u64;
        }
    }

    /// Keeps no texts: nobody takes any.
    pub(super) fn forget_texts(&mut self) {
        self.turns.iter_mut().flat_map(|turns| turns.queues.values_mut()).for_each(|queue| _ = queue.forget());
        self.bytes = 0;
    }

    /// These tasks are no longer stored.
    pub(super) fn forget(&mut self, tasks: &[TaskId]) {
        for queue in self.turns.iter_mut().flat_map(|turns| turns.queues.values_mut()) {
            let before = queue.ready.len();
            queue.ready.retain(|task| {
                let goes = tasks.contains(&task.id);
                self.bytes -= if goes { task.spec.bytes() } else { 0 };
                !goes
            });
            queue.count -= (before - queue.ready.len()) as u64;
            queue.find_oldest();
        }
    }

    // ---- what is stored

    /// What a checkpoint keeps: the queues, those first whose tasks have waited for longest.
    pub(super) fn stored(&self) -> Vec<WaitingLane> {
        let mut stored = Vec::new();
        for (priority, turns) in Priority::ALL.into_iter().zip(&self.turns) {
            let mut queues: Vec<_> = turns.queues.iter().filter(|(_, queue)| queue.count > 0).collect();
            queues.sort_unstable_by_key(|(_, queue)| queue.after);
            stored.extend(queues.into_iter().map(|(lane, Queue { after, upto, count, .. })| WaitingLane {
                lane: lane.clone(),
                priority,
                after: *after,
                upto: *upto,
                count: *count,
            }));
        }
        stored
    }

    /// A queue as a checkpoint kept it.
    pub(super) fn restore(&mut self, waiting: WaitingLane) {
        let WaitingLane { lane, priority, after, upto, count } = waiting;
        let turns = &mut self.turns[priority as usize];
        turns.order.push_back(lane.clone());
        turns.queues.insert(lane, Queue { upto, count, standing: Standing::InTurn, ..Queue::new(after) });
    }

    /// Whether the fields agree; an error says what does not.
    pub(super) fn check(&self, most: usize) -> Result<(), String> {
        let mut bytes = 0;
        for turns in &self.turns {
            let reading = turns.queues.values().filter(|queue| queue.standing == Standing::Reading).count();
            if reading != turns.reading || !turns.to_read.is_empty() {
                return Err(format!("{reading} lanes are read, and {} are counted", turns.reading));
            }
            for (lane, queue) in &turns.queues {
                let ids: Vec<TaskId> = queue.ready.iter().map(|task| task.id).collect();
                bytes += queue.ready.iter().map(|task| task.spec.bytes()).sum::<usize>();
                let in_order = ids.is_sorted_by(|a, b| a < b)
                    && ids.first().is_none_or(|first| *first > queue.after)
                    && ids.last().is_none_or(|last| *last <= queue.read)
                    && ids.len() as u64 <= queue.count;
                let in_turn = turns.order.iter().filter(|in_turn| *in_turn == lane).count();
                let has_turn = in_turn == usize::from(queue.standing == Standing::InTurn);
                let is_blocked = queue.standing == Standing::Blocked;
                let is_passed_over = is_blocked && !queue.is_empty() && self.places(lane).len() < places(lane, most);
                if !in_order || !has_turn || is_passed_over {
                    return Err(format!("the lane {lane} is not consistent, or passed over: {queue:?}"));
                }
            }
        }
        if bytes == self.bytes {
            Ok(())
        } else {
            Err(format!("lanes have {bytes} bytes, and {} are counted", self.bytes))
        }
    }
}
