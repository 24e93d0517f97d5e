//! The groups that tasks wait for though the broker does not have them: no client of that name ever came, or the group was removed.

use std::collections::{BTreeMap, HashSet};
use std::mem::take;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::settlements;
use crate::broker::{GroupInfo, Undelivered};
use crate::store::{Backlog, Reader, StoreError};
use crate::task::{GroupName, Outcome, Priority, TaskId, Time};

/// Those that are listed, at most.
const LISTED: usize = 1000;
/// Names that are remembered from one pass to the next, at most: some 10 MB. What others begin with is looked at anew.
const REMEMBERED: usize = 50_000;
/// Names that are read at once, and tasks: a millisecond.
const NAMES: usize = 100;
const TASKS: usize = 100;
/// Ids that one count goes over, at most.
const STEP: u64 = 250_000;
/// How long one look takes, at most: a fiftieth of the time of one query thread, if there is one each second.
const LOOK: Duration = Duration::from_millis(20);

/// Those groups, as far as they were looked at. One look after another goes through all names that tasks are addressed to, again and
/// again; of each it only looks at what came after what it knows to be over.
#[derive(Debug, Default)]
pub(in crate::server) struct NeverCame(Mutex<Passes>);

#[derive(Debug, Default)]
struct Passes {
    /// What the last pass found.
    found: BTreeMap<GroupName, [Begin; 3]>,
    /// What this pass found so far.
    next: BTreeMap<GroupName, [Begin; 3]>,
    /// How many of them wait, and the last name that was looked at.
    waiting: usize,
    last: Option<GroupName>,
}

/// Where the tasks of one priority begin that wait, and how many there are. Those up to `after` do not: they expired, were cancelled,
/// or were settled by a group that was removed since.
#[derive(Debug, Default, Clone, Copy)]
struct Begin {
    after: TaskId,
    /// The first that waits, and when it was accepted.
    first: Option<(TaskId, Time)>,
    /// So many tasks there are from the first on, up to this one.
    counted: u64,
    upto: TaskId,
    /// Those before it that expired.
    expired: Undelivered,
}

impl NeverCame {
    /// Adds the groups that tasks up to `newest` wait for and that are not among `groups`, which are all that the broker has. Says
    /// whether there may be more of them.
    pub(in crate::server) fn add_to(
        &self,
        groups: &mut Vec<GroupInfo>,
        reader: &mut dyn Reader,
        newest: TaskId,
        now: Time,
    ) -> Result<bool, StoreError> {
        self.look(groups, reader, newest, now, Instant::now() + LOOK)
    }

    fn look(
        &self,
        groups: &mut Vec<GroupInfo>,
        reader: &mut dyn Reader,
        newest: TaskId,
        now: Time,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        let known: HashSet<GroupName> = groups.iter().map(|group| group.name.clone()).collect();
        let mut passes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_complete = passes.go_on(reader, &known, newest, now, deadline)?;
        let of_interest = passes
            .found
            .iter()
            .filter(|(name, begins)| begins.iter().any(|begin| begin.is_of_interest(now)) && !known.contains(name));
        let mut listed = of_interest.map(|(name, begins)| GroupInfo {
            lag: begins.iter().map(|begin| begin.counted).sum(),
            counting: begins.iter().any(|begin| begin.waits() && begin.upto < newest),
            oldest_new: begins.iter().filter_map(|begin| begin.first).min(),
            undelivered: undelivered(begins, now),
            never_came: true,
            ..GroupInfo::new(name.clone())
        });
        groups.extend(listed.by_ref().take(LISTED));
        Ok(!is_complete || listed.next().is_some())
    }
}

impl Passes {
    /// Goes on with the pass; says whether it came to its end before the time was over.
    fn go_on(
        &mut self,
        reader: &mut dyn Reader,
        known: &HashSet<GroupName>,
        upto: TaskId,
        now: Time,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        loop {
            let names = reader.addressed_groups(self.last.as_ref(), NAMES)?;
            if names.is_empty() || self.waiting > LISTED {
                *self = Passes { found: take(&mut self.next), ..Passes::default() };
                return Ok(true);
            }
            for name in names {
                if !known.contains(&name) {
                    let before = self.next.get(&name).or_else(|| self.found.get(&name));
                    let mut begins = before.copied().unwrap_or_default();
                    let mut is_done = true;
                    for (priority, begin) in Priority::ALL.into_iter().zip(&mut begins) {
                        let all = backlog(&name, priority, 0, upto);
                        is_done &=
                            begin.advance(reader, &all, now, deadline)? && begin.count(reader, &all, deadline)?;
                    }
                    let waits = begins.iter().any(|begin| begin.is_of_interest(now));
                    if waits || !is_done || self.next.len() < REMEMBERED {
                        self.next.insert(name.clone(), begins);
                    }
                    if !is_done {
                        return Ok(false);
                    }
                    self.waiting += usize::from(waits);
                }
                self.last = Some(name);
                if Instant::now() >= deadline {
                    return Ok(false);
                }
            }
        }
    }
}

impl Begin {
    /// Goes on to the first task that waits; says whether it came there, or to the end, before the time was over.
    fn advance(
        &mut self,
        reader: &mut dyn Reader,
        all: &Backlog,
        now: Time,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        // Most often nothing has changed, and the first still waits.
        let mut limit = 1;
        loop {
            let page = reader.expiries(&Backlog { after: self.after, limit, ..all.clone() })?;
            if page.is_empty() {
                (self.first, self.counted) = (None, 0);
                return Ok(true);
            }
            for (task, expires_at) in page {
                if expires_at.is_none_or(|at| at > now) && !is_settled(reader, task, all.group.as_ref())? {
                    self.begin_with(reader, task)?;
                    return Ok(true);
                }
                // What was cancelled is over since before 1970. A group that was removed may have settled it in time.
                let lately =
                    |at: &Time| at.0 >= 0 && *at <= now && Undelivered { count: 1, last: Some(*at) }.is_recent(now);
                if let Some(at) = expires_at.filter(lately)
                    && !is_settled(reader, task, all.group.as_ref())?
                {
                    self.expired.add(at);
                }
                self.after = task;
                self.counted = self.counted.saturating_sub(1);
            }
            if limit == TASKS && Instant::now() >= deadline {
                return Ok(false);
            }
            limit = TASKS;
        }
    }
}

impl Begin {
    fn waits(&self) -> bool {
        self.first.is_some()
    }

    /// Whether somebody should hear of the group because of these tasks.
    fn is_of_interest(&self, now: Time) -> bool {
        self.waits() || self.expired.is_recent(now)
    }

    /// This task is the first that waits. Most often it was before.
    fn begin_with(&mut self, reader: &mut dyn Reader, task: TaskId) -> Result<(), StoreError> {
        if self.first.is_none_or(|(first, _)| first != task) {
            // What was removed was not passed one by one, and so is still among what was counted.
            if self.first.is_none_or(|(first, _)| first > self.after) {
                (self.counted, self.upto) = (0, self.after);
            }
            let accepted_at = reader.tasks_by_id(&[task])?.first().map(|task| task.accepted_at);
            self.first = accepted_at.map(|at| (task, at));
        }
        Ok(())
    }

    /// Counts what is new, and the rest of what was there; says whether it came to the end before the time was over.
    fn count(&mut self, reader: &mut dyn Reader, all: &Backlog, deadline: Instant) -> Result<bool, StoreError> {
        while self.waits() && self.upto < all.upto {
            let (after, upto) = (self.upto.max(self.after), all.upto.min(self.upto.max(self.after) + STEP));
            self.counted += reader.count(&Backlog { after, upto, ..all.clone() })?;
            self.upto = upto;
            if self.upto < all.upto && Instant::now() >= deadline {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What expired lately, of all priorities.
fn undelivered(begins: &[Begin], now: Time) -> Undelivered {
    let expired = begins.iter().map(|begin| begin.expired).filter(|expired| expired.is_recent(now));
    expired.fold(Undelivered::default(), |all, of_priority| Undelivered {
        count: all.count + of_priority.count,
        last: all.last.max(of_priority.last),
    })
}

fn backlog(group: &GroupName, priority: Priority, after: TaskId, upto: TaskId) -> Backlog {
    let lane = None;
    Backlog { group: Some(group.clone()), priority, after, upto, broadcast_after: upto, lane, limit: 1, max_bytes: 1 }
}

fn is_settled(reader: &mut dyn Reader, task: TaskId, group: Option<&GroupName>) -> Result<bool, StoreError> {
    let results = reader.outcomes_of(task)?;
    let settlement = group.and_then(|group| settlements(&results).remove(&group));
    Ok(settlement.is_some_and(|by| by.result.outcome != Outcome::Revived))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;
    use crate::attachment::Attachment;
    use crate::server::operator::count_groups;
    use crate::store::{Backend as _, Batch, Memory, Positions};
    use crate::task::{Name, NameOf, NewResult, NewTask, Outcome, Task, TaskResult};

    /// Long after what is over.
    const NOW: Time = Time(1_000_000_000);

    fn name(name: &str) -> GroupName {
        Name::new(NameOf::Group, name).unwrap()
    }

    /// A log of tasks for these groups, from 1 on; a task whose group stands with a `!` is over.
    fn log(groups: &[&str]) -> Memory {
        let task = |(at, group): (usize, &&str)| {
            let expires_at = group.ends_with('!').then_some(Time(1));
            let to = Some(name(group.trim_end_matches('!')));
            Arc::new(Task {
                id: at as u64 + 1,
                accepted_at: Time(1),
                spec: NewTask { to, expires_at, ..NewTask::default() },
            })
        };
        let mut memory = Memory::default();
        let positions = Positions { task: groups.len() as u64, ..Positions::default() };
        let tasks = groups.iter().enumerate().map(task).collect();
        memory.commit(&Batch { tasks, positions, ..Batch::default() }).unwrap();
        memory
    }

    /// Each group that never came, with its lag and its oldest task; and whether there may be more. As far as there is time for it.
    fn look(never_came: &NeverCame, memory: &mut Memory, time: Duration) -> (Vec<(String, u64, TaskId)>, bool) {
        let (mut groups, newest) = (Vec::new(), memory.latest_tasks(TaskId::MAX, 1).unwrap()[0].id);
        let more = never_came.look(&mut groups, memory, newest, NOW, Instant::now() + time).unwrap();
        let groups = count_groups(memory, groups).unwrap();
        let seen = groups.into_iter().map(|group| (group.info.name.to_string(), group.lag, group.oldest.unwrap().0));
        (seen.collect(), more)
    }

    fn listed(never_came: &NeverCame, memory: &mut Memory) -> Vec<(String, u64, TaskId)> {
        let (groups, more) = look(never_came, memory, Duration::from_secs(3600));
        assert!(!more);
        groups
    }

    fn waits(name: &str, lag: u64, oldest: TaskId) -> (String, u64, TaskId) {
        (name.to_owned(), lag, oldest)
    }

    fn cancel(memory: &mut Memory, tasks: impl Iterator<Item = TaskId>) {
        let expiries = tasks.map(|task| (task, Some(Time(2)))).collect();
        memory.commit(&Batch { expiries, ..Batch::default() }).unwrap();
    }

    #[test]
    fn a_group_that_never_came_is_listed_from_the_first_task_that_is_not_over() {
        let mut memory = log(&["a", "b!", "a!", "b", "c!", "a", "d"]);
        let never_came = NeverCame::default();
        // Behind the first that waits, those that are over count until it is settled, as they do for a group that came.
        assert_eq!(listed(&never_came, &mut memory), [waits("a", 3, 1), waits("b", 1, 4), waits("d", 1, 7)]);
        cancel(&mut memory, [1, 4].into_iter());
        assert_eq!(listed(&never_came, &mut memory), [waits("a", 1, 6), waits("d", 1, 7)]);
        cancel(&mut memory, [6].into_iter());
        assert_eq!(listed(&never_came, &mut memory), [waits("d", 1, 7)]);
    }

    #[test]
    fn what_expired_lately_for_a_group_that_never_came_is_counted_once_and_until_it_is_long_ago() {
        let mut memory = log(&["a!", "a", "a", "a", "b"]);
        let at = |millis| Some(Time(NOW.0 - millis));
        let expiries = vec![(2, at(5000)), (3, at(2000)), (4, at(-60_000)), (5, Some(NewTask::cancelled(NOW)))];
        memory.commit(&Batch { expiries, ..Batch::default() }).unwrap();
        let never_came = NeverCame::default();
        let mut undelivered = |now: Time| {
            let mut groups = Vec::new();
            never_came.look(&mut groups, &mut memory, 5, now, Instant::now() + Duration::from_secs(3600)).unwrap();
            groups.into_iter().map(|group| (group.name.to_string(), group.undelivered)).collect::<Vec<_>>()
        };
        let a = |count, millis| vec![("a".to_owned(), Undelivered { count, last: at(millis) })];
        assert_eq!(undelivered(NOW), a(2, 2000));
        assert_eq!(undelivered(NOW), a(2, 2000), "also when it is looked at again");
        assert_eq!(undelivered(NOW.after(Duration::from_secs(61))), a(3, -60_000));
        assert_eq!(undelivered(NOW.after(Duration::from_secs(660))), []);
    }

    #[test]
    fn of_a_group_that_was_removed_what_it_had_not_settled_waits() {
        let mut memory = log(&["a", "a", "b", "b"]);
        let settled = |task, group| NewResult {
            task,
            group: Some(name(group)),
            client: "w".into(),
            attempt: 1,
            outcome: Outcome::Done,
            ret: String::new(),
            attachment: Attachment::default(),
            at: Time(1),
            not_before: None,
            late: false,
        };
        let results = [settled(1, "a"), settled(3, "b"), settled(4, "b")].into_iter();
        let results = results.zip(1..).map(|(result, seq)| TaskResult { seq, result }).collect();
        let positions = Positions { task: 4, result: 3, status: 0 };
        memory.commit(&Batch { results, positions, ..Batch::default() }).unwrap();
        assert_eq!(listed(&NeverCame::default(), &mut memory), [waits("a", 1, 2)]);
    }

    #[test]
    fn what_one_look_has_no_time_for_is_for_the_next() {
        let many = 3 * TASKS as u64;
        let mut memory = log(&[vec!["a"; many as usize], vec!["b", "a"]].concat());
        cancel(&mut memory, 1..=many);
        let never_came = NeverCame::default();
        let mut looks = 1;
        while look(&never_came, &mut memory, Duration::ZERO)
            != (vec![waits("a", 1, many + 2), waits("b", 1, many + 1)], false)
        {
            assert!(looks < 100);
            looks += 1;
        }
        assert!(looks > 3);
        let after = |never_came: &NeverCame| never_came.0.lock().unwrap().found[&name("a")].map(|begin| begin.after);
        assert_eq!(after(&never_came).into_iter().max(), Some(many), "which is not looked at again");
    }

    #[test]
    fn of_very_many_that_never_came_the_first_are_listed_and_it_is_said_that_there_are_more() {
        let names: Vec<String> = (0..=LISTED).map(|n| format!("group {n:04}")).collect();
        let mut memory = log(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let (groups, more) = look(&NeverCame::default(), &mut memory, Duration::from_secs(3600));
        assert_eq!((groups.len(), more), (LISTED, true));
    }
}
