//! How far each group has come, with what only the store can count: the tasks before it, and its dead letters.
//!
//! Both are counted by going through an index, which takes about a second for ten million tasks. So it is done bit by bit, each
//! snapshot going on where the last one stopped, for at most a [twentieth](Counter::budget) of the time of one query thread, and
//! one step (some 10 ms). What was counted is kept, and only what moved is counted again; what is for everyone is counted once
//! for all groups. Until a group was counted, its numbers are too small, and with thousands of groups that lag they can be
//! some seconds old.

mod addressed;
mod broadcasts;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use self::addressed::Addressed;
use self::broadcasts::Broadcasts;
use crate::broker::GroupInfo;
use crate::server::operator::Group;
use crate::store::{Backlog, Reader, StoreError};
use crate::task::{GroupName, TaskId, Time};

/// What was counted so far.
#[derive(Default)]
pub(super) struct Counter {
    broadcasts: [Broadcasts; 3],
    groups: HashMap<GroupName, Counted>,
    /// The group whose turn it is: none is forgotten when the time is over.
    next: usize,
    dead: HashMap<GroupName, u64>,
    last: Option<Instant>,
}

/// A group, as far as it was counted.
#[derive(Default)]
struct Counted {
    /// By priority.
    parts: [Part; 3],
    oldest: Option<(TaskId, Time)>,
}

/// Its tasks of one priority that are not in memory.
#[derive(Default)]
struct Part {
    addressed: Addressed,
    broadcasts: u64,
    /// The first task of the backlog, and from where on it was looked for.
    first: Option<TaskId>,
    from: TaskId,
}

impl Counter {
    /// How long this round may count: a twentieth of what went by since the last one.
    fn budget(&mut self, now: Instant) -> Duration {
        let since = self.last.replace(now).map_or(Duration::ZERO, |last| now - last);
        (since / 20).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// The groups with their numbers, as far as there is time for it.
    pub(super) fn count(&mut self, reader: &mut dyn Reader, infos: Vec<GroupInfo>) -> Result<Vec<Group>, StoreError> {
        let now = Instant::now();
        let deadline = now + self.budget(now);
        let names: HashSet<&GroupName> = infos.iter().map(|info| &info.name).collect();
        self.groups.retain(|name, _| names.contains(name));

        self.dead = reader.dead_counts()?;
        for (priority, broadcasts) in self.broadcasts.iter_mut().enumerate() {
            let backlogs = infos.iter().flat_map(|info| &info.backlog).filter(|b| b.priority as usize == priority);
            broadcasts.prepare(reader, backlogs, deadline)?;
        }
        for n in 0..infos.len() {
            let at = (self.next + n) % infos.len();
            if Instant::now() >= deadline {
                self.next = at;
                break;
            }
            let counted = self.groups.entry(infos[at].name.clone()).or_default();
            counted.catch_up(reader, &infos[at], &mut self.broadcasts, deadline)?;
        }
        Ok(infos.into_iter().map(|info| self.group(info)).collect())
    }

    fn group(&self, info: GroupInfo) -> Group {
        let counted = self.groups.get(&info.name);
        let backlog: u64 = info.backlog.iter().filter_map(|b| Some(counted?.parts[b.priority as usize].count())).sum();
        let known = (info.in_flight + info.waiting + info.ready) as u64;
        let lag = (known + backlog).saturating_sub(info.taken_up as u64);
        let oldest = counted.and_then(|counted| counted.oldest).filter(|_| lag > 0);
        Group { lag, oldest, dead: self.dead.get(&info.name).copied().unwrap_or(0), info }
    }
}

impl Counted {
    /// Counts what is missing, until the time is over.
    fn catch_up(
        &mut self,
        reader: &mut dyn Reader,
        info: &GroupInfo,
        broadcasts: &mut [Broadcasts; 3],
        deadline: Instant,
    ) -> Result<(), StoreError> {
        for backlog in &info.backlog {
            let part = &mut self.parts[backlog.priority as usize];
            if let Some(count) = broadcasts[backlog.priority as usize].count(reader, backlog)? {
                part.broadcasts = count;
            }
            while !part.addressed.step(reader, backlog)? {
                if Instant::now() >= deadline {
                    return Ok(());
                }
            }
            part.find_first(reader, backlog)?;
        }
        let first = info.backlog.iter().filter_map(|backlog| self.parts[backlog.priority as usize].first);
        let oldest = first.chain(info.oldest).min();
        if oldest != self.oldest.map(|(id, _)| id) {
            let task = oldest.map(|id| reader.tasks_by_id(&[id])).transpose()?;
            let task = task.and_then(|tasks| tasks.into_iter().next());
            self.oldest = task.map(|task| (task.id, task.accepted_at));
        }
        Ok(())
    }
}

impl Part {
    fn count(&self) -> u64 {
        self.addressed.count() + self.broadcasts
    }

    fn find_first(&mut self, reader: &mut dyn Reader, backlog: &Backlog) -> Result<(), StoreError> {
        // A group that was removed and is there again begins anew.
        let is_after = |first| (self.from..first).contains(&backlog.after);
        if self.count() == 0 {
            self.first = None;
        } else if !self.first.is_some_and(is_after) {
            self.first = reader.backlog(backlog)?.tasks.first().map(|task| task.id);
            self.from = backlog.after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;
    use crate::store::{Backend as _, Batch, Memory, Positions};
    use crate::task::{Name, NameOf, NewTask, Priority, Task};

    fn name(name: &str) -> GroupName {
        Name::new(NameOf::Group, name).unwrap()
    }

    /// Tasks 1 to `count`: every third one for the group `workers`, every third one for another, and the others for everyone.
    fn log(count: TaskId) -> Memory {
        let mut memory = Memory::default();
        let to = |id| [Some(name("workers")), Some(name("others")), None][(id % 3) as usize].clone();
        let task = |id| Task { id, accepted_at: Time(1), spec: NewTask { to: to(id), ..NewTask::default() } };
        let tasks = (1..=count).map(|id| Arc::new(task(id))).collect();
        let positions = Positions { task: count, ..Positions::default() };
        memory.commit(&Batch { tasks, positions, ..Batch::default() }).unwrap();
        memory
    }

    fn info(name: GroupName, after: TaskId, upto: TaskId, broadcast_after: TaskId) -> GroupInfo {
        let (priority, group) = (Priority::Normal, Some(name.clone()));
        let backlog = Backlog { group, priority, after, upto, broadcast_after, limit: 1, max_bytes: 1 };
        GroupInfo { backlog: if after < upto { vec![backlog] } else { Vec::new() }, ..GroupInfo::new(name) }
    }

    #[test]
    fn what_is_counted_bit_by_bit_is_what_is_there() {
        let count = 60_000;
        let mut reader = log(count).reader()().unwrap();
        let wants =
            |id: TaskId, after, broadcast_after| id > after && [true, false, id > broadcast_after][(id % 3) as usize];
        // Forwards and backwards, across the blocks that are counted at once, and within one.
        let rounds = [
            (0, count),
            (30, count),
            (31, count),
            (25_001, count),
            (19_999, 20_000),
            (0, 10),
            (0, 100),
            (59_999, count),
            (count, count),
            (10, 50_000),
        ];
        let mut counter = Counter::default();
        for (broadcast_after, (after, upto)) in
            [0, 7, 49_000].into_iter().flat_map(|from| rounds.map(|round| (from, round)))
        {
            // Where broadcasts begin never changes for a group.
            if (after, upto) == rounds[0] {
                counter = Counter::default();
            }
            let mut counted;
            // In as many rounds as it takes on a busy machine.
            loop {
                let infos = vec![
                    info(name("nobody"), after / 2, upto, broadcast_after),
                    info(name("workers"), after, upto, broadcast_after),
                ];
                counted = counter.count(reader.as_mut(), infos).unwrap();
                if counter.next == 0 && Instant::now() < counter.last.unwrap() + Duration::from_millis(50) {
                    break;
                }
                counter.next = 0;
            }
            let before = (1..=upto).filter(|id| wants(*id, after, broadcast_after));
            let expected = (before.clone().count() as u64, before.clone().next());
            let oldest = counted[1].oldest.map(|(id, _)| id);
            assert_eq!((counted[1].lag, oldest), expected, "{after} to {upto}, everyone's from {broadcast_after}");
        }
    }
}
