//! The groups that tasks wait for though no client of them ever came.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use crate::broker::GroupInfo;
use crate::store::{Backlog, PAGE_BYTES, Reader, StoreError};
use crate::task::{GroupName, Priority, Task, TaskId, Time};

/// Groups that never came and are listed, at most. Each costs three short reads, so a look at all takes some 20 ms.
const LISTED: usize = 1000;
/// Names that are read at once.
const NAMES: usize = 1000;
/// Tasks of a group that never came that are looked at, in each priority, to leave out those that are over.
const LOOKED_AT: usize = 1000;

/// The groups that operators removed since the start, each with the newest task of that time. What is addressed to them up to
/// there is forgotten with them.
#[derive(Debug, Default)]
pub(in crate::server) struct Removed(Mutex<HashMap<GroupName, TaskId>>);

impl Removed {
    pub(super) fn insert(&self, group: GroupName, newest: TaskId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(group, newest);
    }

    fn newest(&self, group: &GroupName) -> TaskId {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(group).copied().unwrap_or(0)
    }
}

/// Adds the groups that tasks up to `newest` wait for and that are not among `groups`, which are all that the broker has. Says
/// whether there are more of them than [are listed](LISTED).
pub(in crate::server) fn add_never_came(
    groups: &mut Vec<GroupInfo>,
    reader: &mut dyn Reader,
    newest: TaskId,
    removed: &Removed,
    now: Time,
) -> Result<bool, StoreError> {
    // All backlogs have one end, so that tasks for everyone are counted once for all groups.
    let upto = groups.iter().flat_map(|group| &group.backlog).map(|backlog| backlog.upto).max().unwrap_or(newest);
    let known: HashSet<GroupName> = groups.iter().map(|group| group.name.clone()).collect();
    let (mut last, mut listed) = (None, 0);
    loop {
        let names = reader.addressed_groups(last.as_ref(), NAMES)?;
        let Some(end) = names.last() else { return Ok(false) };
        last = Some(end.clone());
        for name in names.into_iter().filter(|name| !known.contains(name)) {
            let after = removed.newest(&name);
            if let Some(group) = never_came(reader, name, after, upto, now)? {
                if listed == LISTED {
                    return Ok(true);
                }
                listed += 1;
                groups.push(group);
            }
        }
    }
}

/// The group, if tasks wait for it. What expired or was cancelled does not: nobody comes who would write that down. Not listed is
/// one that settled its oldest task: it came, and was removed.
fn never_came(
    reader: &mut dyn Reader,
    name: GroupName,
    after: TaskId,
    upto: TaskId,
    now: Time,
) -> Result<Option<GroupInfo>, StoreError> {
    let is_over = |task: &&Task| task.spec.expires_at.is_some_and(|at| at <= now);
    let (mut backlogs, mut over) = (Vec::new(), 0);
    for priority in Priority::ALL {
        let group = Some(name.clone());
        let all =
            Backlog { group, priority, after, upto, broadcast_after: upto, limit: LOOKED_AT, max_bytes: PAGE_BYTES };
        let page = reader.backlog(&all)?;
        let begun = page.tasks.iter().take_while(is_over).count();
        over += page.tasks[begun..].iter().filter(is_over).count();
        let after = page.tasks.get(begun).map_or(page.scanned, |first| first.id - 1);
        if after < upto {
            backlogs.push(Backlog { after, limit: 1, max_bytes: 1, ..all });
        }
    }
    let Some(oldest) = backlogs.iter().map(|backlog| backlog.after + 1).min() else { return Ok(None) };
    if reader.results_of(oldest)?.iter().any(|entry| entry.result.group.as_ref() == Some(&name)) {
        return Ok(None);
    }
    Ok(Some(GroupInfo { backlog: backlogs, taken_up: over, never_came: true, ..GroupInfo::new(name) }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;
    use crate::store::{Backend as _, Batch, Memory, Positions};
    use crate::task::{Name, NameOf, NewResult, NewTask, Outcome, TaskResult};

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

    /// Each group that never came, with its lag and its oldest task.
    fn listed(memory: &mut Memory, newest: TaskId, removed: &Removed) -> Vec<(String, u64, TaskId)> {
        let mut groups = Vec::new();
        assert!(!add_never_came(&mut groups, memory, newest, removed, Time(2)).unwrap());
        let mut count = |group: GroupInfo| {
            let counts = group.backlog.iter().map(|backlog| memory.count(backlog).unwrap());
            let lag = counts.sum::<u64>() - group.taken_up as u64;
            (group.name.to_string(), lag, group.backlog.iter().map(|backlog| backlog.after + 1).min().unwrap())
        };
        groups.into_iter().map(&mut count).collect()
    }

    #[test]
    fn a_group_that_never_came_is_listed_with_the_tasks_that_are_not_over() {
        let mut memory = log(&["a", "b!", "a!", "b", "c!", "a", "b!", "d"]);
        let removed = Removed::default();
        let all = [("a".to_owned(), 2, 1), ("b".to_owned(), 1, 4), ("d".to_owned(), 1, 8)];
        assert_eq!(listed(&mut memory, 8, &removed), all);
        removed.insert(name("a"), 1);
        removed.insert(name("d"), 8);
        assert_eq!(listed(&mut memory, 8, &removed), [("a".to_owned(), 1, 6), ("b".to_owned(), 1, 4)]);
    }

    #[test]
    fn a_group_that_has_settled_its_oldest_task_came_once() {
        let mut memory = log(&["a", "a", "b"]);
        let settled = NewResult {
            task: 1,
            group: Some(name("a")),
            client: "w".into(),
            attempt: 1,
            outcome: Outcome::Done,
            ret: String::new(),
            at: Time(1),
            not_before: None,
            late: false,
        };
        let results = vec![TaskResult { seq: 1, result: settled }];
        let positions = Positions { task: 3, result: 1, status: 0 };
        memory.commit(&Batch { results, positions, ..Batch::default() }).unwrap();
        assert_eq!(listed(&mut memory, 3, &Removed::default()), [("b".to_owned(), 1, 3)]);
    }

    #[test]
    fn of_very_many_that_never_came_the_first_are_listed_and_it_is_said_that_there_are_more() {
        let names: Vec<String> = (0..=LISTED).map(|n| format!("group {n:04}")).collect();
        let mut memory = log(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut groups = Vec::new();
        let newest = names.len() as u64;
        assert!(add_never_came(&mut groups, &mut memory, newest, &Removed::default(), Time(2)).unwrap());
        assert_eq!(groups.len(), LISTED);
    }
}
