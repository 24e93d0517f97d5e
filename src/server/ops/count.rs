//! How far each group has come, with what only the store can count: the tasks before it, and its dead letters.
//!
//! Both are counted by going through an index, which takes 0.4 s for ten million tasks. So it is done bit by bit, each snapshot
//! going on where the last one stopped, for at most a [twentieth](Counter::budget) of the time of one query thread, plus one step
//! (a hundred thousand rows of an index, about 5 ms). What was counted is kept, and only what moved is counted again. Until a
//! group was counted, its numbers are too small, and with thousands of groups that are far behind they can be some seconds old.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::broker::{GroupInfo, Tally};
use crate::server::operate;
use crate::store::{Backlog, Reader, StoreError};
use crate::task::{GroupName, Outcome, TaskId, Time};

/// A group, counted.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) info: GroupInfo,
    /// Tasks it has not settled.
    pub(super) lag: u64,
    /// The oldest of them, and when it was accepted.
    pub(super) oldest: Option<(TaskId, Time)>,
    /// Its dead letters.
    pub(super) dead: u64,
}

/// Ids that one step goes over.
const STEP: u64 = 100_000;
/// Dead letters that one step looks at.
const DEAD_STEP: usize = 100;
/// Dead letters are removed with age, too, which nobody tells us.
const RENEW: Duration = Duration::from_secs(600);

/// What was counted so far.
#[derive(Default)]
pub(super) struct Counter {
    groups: HashMap<GroupName, Counted>,
    /// The group whose turn it is: nobody is forgotten when the time is over.
    next: usize,
    dead: Dead,
    last: Option<Instant>,
}

#[derive(Default)]
struct Counted {
    /// By class: what of the backlog is counted.
    classes: [Counts; 3],
    oldest: Option<(TaskId, Time)>,
}

/// The tasks of a backlog behind `from` and up to `to`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    from: TaskId,
    to: TaskId,
    count: u64,
    /// The first task behind `from`, if one was found up to `to`.
    first: Option<TaskId>,
}

impl Counter {
    /// How long this round may count: a twentieth of what went by since the last one.
    fn budget(&mut self, now: Instant) -> Duration {
        let since = self.last.replace(now).map_or(Duration::ZERO, |last| now - last);
        (since / 20).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// The groups with their numbers, as far as there is time for it.
    pub(super) fn count(
        &mut self,
        reader: &mut dyn Reader,
        infos: Vec<GroupInfo>,
        total: &Tally,
    ) -> Result<Vec<Group>, StoreError> {
        let now = Instant::now();
        let deadline = now + self.budget(now);
        let names: HashSet<&GroupName> = infos.iter().map(|info| &info.name).collect();
        self.groups.retain(|name, _| names.contains(name));

        // A quarter of the time is for dead letters, of which there are few, whatever the backlogs take.
        self.dead.walk(reader, total, now + (deadline - now) / 4)?;
        for n in 0..infos.len() {
            let at = (self.next + n) % infos.len();
            let counted = self.groups.entry(infos[at].name.clone()).or_default();
            if !counted.catch_up(reader, &infos[at], deadline)? {
                self.next = at;
                break;
            }
        }
        Ok(infos.into_iter().map(|info| self.group(info)).collect())
    }

    fn group(&self, info: GroupInfo) -> Group {
        let counted = self.groups.get(&info.name);
        let behind: u64 = info.backlog.iter().filter_map(|b| Some(counted?.classes[b.class as usize].count)).sum();
        let known = (info.in_flight + info.waiting + info.ready) as u64;
        let lag = (known + behind).saturating_sub(info.settled_ahead as u64);
        let oldest = counted.and_then(|counted| counted.oldest).filter(|_| lag > 0);
        Group { lag, oldest, dead: self.dead.of(&info.name), info }
    }
}

impl Counted {
    /// Counts what is missing; says whether it came to the end.
    fn catch_up(&mut self, reader: &mut dyn Reader, info: &GroupInfo, deadline: Instant) -> Result<bool, StoreError> {
        for backlog in &info.backlog {
            let counts = &mut self.classes[backlog.class as usize];
            while !counts.step(reader, backlog)? {
                if Instant::now() >= deadline {
                    return Ok(false);
                }
            }
        }
        let first = info.backlog.iter().filter_map(|backlog| self.classes[backlog.class as usize].first);
        let oldest = first.chain(info.oldest).min();
        if oldest != self.oldest.map(|(id, _)| id) {
            let task =
                oldest.map(|id| reader.tasks_by_id(&[id])).transpose()?.and_then(|tasks| tasks.into_iter().next());
            self.oldest = task.map(|task| (task.id, task.accepted_at));
        }
        Ok(Instant::now() < deadline)
    }
}

impl Counts {
    /// Comes closer to what the group has before it; says whether it is there.
    fn step(&mut self, reader: &mut dyn Reader, backlog: &Backlog) -> Result<bool, StoreError> {
        let (after, upto) = (backlog.after, backlog.upto);
        // It came far, or is another group of the same name: to begin anew is less.
        if !(self.from..=self.to).contains(&after) || after - self.from > upto - after {
            *self = Counts { from: after, to: after, ..Counts::default() };
        }
        let mut count = |after, upto| reader.count(&Backlog { after, upto, ..backlog.clone() });
        if self.from < after {
            let cut = after.min(self.from + STEP);
            self.count = self.count.saturating_sub(count(self.from, cut)?);
            self.from = cut;
        } else if self.to < upto {
            let end = upto.min(self.to + STEP);
            self.count += count(self.to, end)?;
            self.to = end;
        }
        if self.from < after || self.to < upto {
            return Ok(false);
        }
        if self.count == 0 {
            self.first = None;
        } else if self.first.is_none_or(|first| first <= after) {
            self.first = reader.backlog(backlog)?.tasks.first().map(|task| task.id);
        }
        Ok(true)
    }
}

/// The dead letters of each group: the log of them is gone through once, and then only what is new in it, until some were taken
/// off the list.
#[derive(Default)]
struct Dead {
    shown: Walk,
    /// From the beginning again; takes the place of `shown` when it is at the end.
    again: Option<Walk>,
    /// How many were given out again or dropped when the last walk began.
    undone: u64,
    began: Option<Instant>,
}

#[derive(Default)]
struct Walk {
    after: u64,
    counts: HashMap<GroupName, u64>,
}

impl Dead {
    fn of(&self, group: &GroupName) -> u64 {
        self.shown.counts.get(group).copied().unwrap_or(0)
    }

    fn walk(&mut self, reader: &mut dyn Reader, total: &Tally, deadline: Instant) -> Result<(), StoreError> {
        let undone = total.of(Outcome::Revived) + total.of(Outcome::Dropped);
        let is_old = self.began.is_none_or(|began| began.elapsed() > RENEW);
        if self.again.is_none() && (undone != self.undone || is_old) {
            self.again = Some(Walk::default());
            (self.undone, self.began) = (undone, Some(Instant::now()));
        }
        let walk = self.again.as_mut().unwrap_or(&mut self.shown);
        while let (Some(last), dead) = operate::dead(reader, walk.after, None, DEAD_STEP)? {
            walk.after = last;
            for group in dead.into_iter().filter_map(|entry| entry.result.group) {
                *walk.counts.entry(group).or_default() += 1;
            }
            if Instant::now() >= deadline {
                return Ok(());
            }
        }
        if let Some(again) = self.again.take() {
            self.shown = again;
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
    use crate::task::{Name, NewTask, Priority, Task};

    fn group() -> GroupName {
        Name::new("the group", "workers").unwrap()
    }

    /// Tasks 1 to `count`, every third of them for the group and the others for another one.
    fn log(count: TaskId) -> Memory {
        let mut memory = Memory::default();
        let to = |id| if id % 3 == 0 { group() } else { Name::new("the group", "others").unwrap() };
        let task = |id| Task { id, accepted_at: Time(1), spec: NewTask { to: Some(to(id)), ..NewTask::default() } };
        let tasks = (1..=count).map(|id| Arc::new(task(id))).collect();
        let positions = Positions { task: count, ..Positions::default() };
        memory.commit(&Batch { tasks, positions, ..Batch::default() }).unwrap();
        memory
    }

    fn backlog(after: TaskId, upto: TaskId) -> Backlog {
        let (class, broadcast_after) = (Priority::Normal, 0);
        Backlog { group: Some(group()), class, after, upto, broadcast_after, limit: 1, max_bytes: 1 }
    }

    #[test]
    fn what_is_counted_bit_by_bit_is_what_is_there() {
        let mut reader = log(300_000).reader()().unwrap();
        let mut counts = Counts::default();
        let steps = (1..).find(|_| counts.step(reader.as_mut(), &backlog(0, 300_000)).unwrap()).unwrap();
        assert_eq!((steps, counts.count, counts.first), (3, 100_000, Some(3)), "in bounded steps");
        // Forwards, at both ends, and back to the beginning.
        for (after, upto) in [(30, 300_000), (31, 300_000), (200_000, 300_000), (0, 10), (0, 100), (100, 100)] {
            while !counts.step(reader.as_mut(), &backlog(after, upto)).unwrap() {}
            let first = (after + 1..=upto).find(|id| id % 3 == 0);
            assert_eq!((counts.count, counts.first), (upto / 3 - after / 3, first), "{after} to {upto}");
        }
    }
}
