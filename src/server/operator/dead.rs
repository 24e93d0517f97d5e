//! Dead letters: outcomes by which a task was given up, and that an operator has neither dropped nor given out again since.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::ledger::deciding;
use crate::store::{Reader, StoreError};
use crate::task::{GroupName, TaskId, TaskResult};

/// How many dead letters each group has.
pub(super) fn count_dead(reader: &mut dyn Reader) -> Result<HashMap<GroupName, u64>, StoreError> {
    let (mut after, mut counts) = (0, HashMap::new());
    while let (Some(last), dead) = dead_after(reader, after, None, usize::MAX)? {
        after = last;
        for group in dead.into_iter().filter_map(|entry| entry.result.group) {
            *counts.entry(group).or_default() += 1;
        }
    }
    Ok(counts)
}

/// The dead letters after a position that were not given out again since, and the position of the last one looked at; `None`:
/// there is nothing after it.
pub(in crate::server) fn dead_after(
    reader: &mut dyn Reader,
    after: u64,
    group: Option<&GroupName>,
    limit: usize,
) -> Result<(Option<u64>, Vec<TaskResult>), StoreError> {
    let page = reader.dead(after, group, limit)?;
    let last = page.last().map(|result| result.seq);
    Ok((last, still_dead(reader, page)?))
}

/// The same before a position, newest first; and whether there are more.
pub(in crate::server) fn latest_dead(
    reader: &mut dyn Reader,
    mut before: u64,
    group: Option<&GroupName>,
    limit: usize,
) -> Result<(Vec<TaskResult>, bool), StoreError> {
    let mut dead = Vec::new();
    loop {
        let page = reader.latest_dead(before, group, limit)?;
        let Some(last) = page.last() else { return Ok((dead, false)) };
        before = last.seq;
        dead.extend(still_dead(reader, page)?);
        if dead.len() > limit {
            dead.truncate(limit);
            return Ok((dead, true));
        }
    }
}

/// Those with whose tasks nothing was done since they were given up. The results of a task are read once for all its entries: a
/// task for everyone can have one for each of thousands of groups.
fn still_dead(reader: &mut dyn Reader, mut page: Vec<TaskResult>) -> Result<Vec<TaskResult>, StoreError> {
    let tasks: BTreeSet<TaskId> = page.iter().map(|entry| entry.result.task).collect();
    let mut undone = HashSet::new();
    for task in tasks {
        let results = reader.results_of(task)?;
        let mut last = HashMap::new();
        undone.extend(deciding(&results).filter_map(|(group, r)| last.insert(group, r.seq)));
    }
    page.retain(|entry| !undone.contains(&entry.seq));
    Ok(page)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::{Backend, Backlog, BacklogPage, Batch, ChunkOfTasks, Memory, Removable};
    use crate::task::{Name, NameOf, NewResult, Outcome, Status, Task, Time};

    /// Counts how often the results of a task are read.
    #[derive(Default)]
    struct Counting {
        store: Memory,
        reads: usize,
    }

    impl Reader for Counting {
        fn results_of(&mut self, task: TaskId) -> Result<Vec<TaskResult>, StoreError> {
            self.reads += 1;
            self.store.results_of(task)
        }

        fn dead(&mut self, after: u64, group: Option<&GroupName>, limit: usize) -> Result<Vec<TaskResult>, StoreError> {
            self.store.dead(after, group, limit)
        }

        fn latest_dead(
            &mut self,
            before: u64,
            group: Option<&GroupName>,
            limit: usize,
        ) -> Result<Vec<TaskResult>, StoreError> {
            self.store.latest_dead(before, group, limit)
        }

        fn tasks(&mut self, _: TaskId, _: usize) -> Result<Vec<Task>, StoreError> {
            unreachable!()
        }

        fn latest_tasks(&mut self, _: TaskId, _: usize) -> Result<Vec<Task>, StoreError> {
            unreachable!()
        }

        fn results(&mut self, _: u64, _: usize) -> Result<Vec<TaskResult>, StoreError> {
            unreachable!()
        }

        fn statuses(&mut self, _: u64, _: usize) -> Result<Vec<Status>, StoreError> {
            unreachable!()
        }

        fn latest_results_of(&mut self, _: TaskId, _: usize) -> Result<Vec<TaskResult>, StoreError> {
            unreachable!()
        }

        fn tasks_by_id(&mut self, _: &[TaskId]) -> Result<Vec<Task>, StoreError> {
            unreachable!()
        }

        fn backlog(&mut self, _: &Backlog) -> Result<BacklogPage, StoreError> {
            unreachable!()
        }

        fn count(&mut self, _: &Backlog) -> Result<u64, StoreError> {
            unreachable!()
        }

        fn expiries(&mut self, _: &Backlog) -> Result<Vec<(TaskId, Option<Time>)>, StoreError> {
            unreachable!()
        }

        fn addressed_groups(&mut self, _: Option<&GroupName>, _: usize) -> Result<Vec<GroupName>, StoreError> {
            unreachable!()
        }

        fn removable(&mut self, _: &Removable) -> Result<Vec<ChunkOfTasks>, StoreError> {
            unreachable!()
        }

        fn first_task(&mut self) -> Result<Option<TaskId>, StoreError> {
            unreachable!()
        }
    }

    fn entry(seq: u64, task: TaskId, group: &str, outcome: Outcome) -> TaskResult {
        let (group, client) = (Name::new(NameOf::Group, group).ok(), "client".into());
        let (ret, at) = (String::new(), Time(0));
        let result = NewResult { task, group, client, attempt: 1, outcome, ret, at, not_before: None, late: false };
        TaskResult { seq, result }
    }

    #[test]
    fn a_page_of_dead_letters_reads_the_results_of_each_task_once() {
        use Outcome::{Dropped, Failed, Revived};
        let failed = (1..=300).map(|seq| entry(seq, seq % 3, &format!("g{}", seq.div_ceil(3)), Failed));
        let undone =
            [(301, 0, "g7", Dropped), (302, 1, "g7", Revived), (303, 2, "g7", Revived), (304, 2, "g7", Failed)];
        let undone = undone.map(|(seq, task, group, outcome)| entry(seq, task, group, outcome));
        let mut reader = Counting::default();
        reader.store.commit(&Batch { results: failed.chain(undone).collect(), ..Batch::default() }).unwrap();
        let expected: Vec<u64> = (1..=300).filter(|seq| ![19, 20, 21].contains(seq)).chain([304]).collect();
        let seqs = |dead: &[TaskResult]| dead.iter().map(|entry| entry.seq).collect::<Vec<_>>();

        let (last, entries) = dead_after(&mut reader, 0, None, 1000).unwrap();
        assert_eq!((last, seqs(&entries), reader.reads), (Some(304), expected.clone(), 3));
        reader.reads = 0;
        let (entries, more) = latest_dead(&mut reader, u64::MAX, None, 1000).unwrap();
        assert_eq!((seqs(&entries), more, reader.reads), (expected.into_iter().rev().collect(), false, 3));
        reader.reads = 0;
        let counts = count_dead(&mut reader).unwrap();
        assert_eq!((counts.len(), counts.values().sum::<u64>(), reader.reads), (100, 298, 3));
    }
}
