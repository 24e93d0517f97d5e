//! What the store has of the open tasks of a group, and what the next checkpoint is to write of them.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::store::{OpenRows, OpenTask};
use crate::task::TaskId;

/// So many checkpoints have a task in the list of its group before it gets a row. A row is written and removed once, and costs about
/// as much as so many entries of a list.
const LISTED: u8 = 8;

/// Where an open task is kept. Each is either in the list of its group, which every checkpoint of the group writes anew, or has a row.
///
/// A task that was just given to a client is settled soon, as a rule, and a row would cost as much as its outcome does: it is in the
/// list. One that waits for a time has a row, and costs nothing as long as nothing happens to it.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// In the list, each with how many checkpoints had it there.
    listed: FxHashMap<TaskId, u8>,
    /// Their rows are to be written.
    unwritten: FxHashSet<TaskId>,
    /// They had a row when they were taken out of their place.
    outdated: FxHashSet<TaskId>,
}

impl Kept {
    /// A task came that may soon be settled.
    pub(super) fn came(&mut self, task: TaskId) {
        // One that had a row is not such a task.
        if self.outdated.contains(&task) {
            self.unwritten.insert(task);
        } else {
            self.listed.insert(task, 0);
        }
    }

    /// A task came that waits, or its time was changed.
    pub(super) fn came_to_wait(&mut self, task: TaskId) {
        self.listed.remove(&task);
        self.unwritten.insert(task);
    }

    /// A task was taken out of its place.
    pub(super) fn left(&mut self, task: TaskId) {
        if self.listed.remove(&task).is_none() && !self.unwritten.remove(&task) {
            self.outdated.insert(task);
        }
    }

    /// The list, by id, and the rows that changed, for a checkpoint; `find` has the open tasks.
    pub(super) fn take_changes(&mut self, find: impl Fn(TaskId) -> Option<OpenTask>) -> (Vec<OpenTask>, OpenRows) {
        let Kept { listed, unwritten, outdated } = self;
        listed.retain(|task, times| {
            *times += 1;
            *times <= LISTED || !unwritten.insert(*task)
        });
        let mut list: Vec<_> = listed.keys().filter_map(|task| find(*task)).collect();
        list.sort_unstable_by_key(|task| task.id);
        let mut rows: OpenRows = outdated.drain().map(|task| (task, None)).collect();
        rows.extend(unwritten.drain().map(|task| (task, find(task))));
        (list, rows)
    }

    /// Whether only open tasks are kept, each in one way; an error says which is not.
    pub(super) fn check(&self, is_open: impl Fn(TaskId) -> bool) -> Result<(), String> {
        let twice = |task: &&TaskId| self.unwritten.contains(*task) && self.listed.contains_key(*task);
        let mut kept = self.listed.keys().chain(&self.unwritten);
        match kept.find(|task| !is_open(**task) || twice(task)) {
            Some(task) => Err(format!("task {task} is not open, or is to be kept twice")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::*;
    use crate::attempts::Attempts;
    use crate::store::LanePlace;

    fn open(id: TaskId) -> Option<OpenTask> {
        Some(OpenTask { id, attempts: Attempts::default(), not_before: None, lane: None, place: LanePlace::None })
    }

    #[test]
    fn a_row_is_written_when_its_task_changes_and_a_list_has_what_is_new() {
        let mut kept = Kept::default();
        let rows = |rows: &[(TaskId, Option<OpenTask>)]| BTreeMap::from_iter(rows.iter().cloned());
        kept.came(1);
        kept.came_to_wait(2);
        assert_eq!(kept.take_changes(open), (vec![open(1).unwrap()], rows(&[(2, open(2))])));
        assert_eq!(kept.take_changes(open), (vec![open(1).unwrap()], rows(&[])), "nothing changed");
        // Settled between two checkpoints, or changed.
        kept.came(3);
        kept.left(3);
        kept.left(2);
        assert_eq!(kept.take_changes(open).1, rows(&[(2, None)]));
        kept.came_to_wait(4);
        kept.take_changes(open);
        kept.left(4);
        kept.came(4);
        assert_eq!(kept.take_changes(open), (vec![open(1).unwrap()], rows(&[(4, open(4))])));
    }

    #[test]
    fn what_stays_in_the_list_for_long_gets_a_row() {
        let mut kept = Kept::default();
        kept.came(1);
        for _ in 0..LISTED {
            assert_eq!(kept.take_changes(open), (vec![open(1).unwrap()], BTreeMap::new()));
        }
        assert_eq!(kept.take_changes(open), (vec![], BTreeMap::from([(1, open(1))])));
        assert_eq!(kept.take_changes(open), (vec![], BTreeMap::new()));
        kept.left(1);
        assert_eq!(kept.take_changes(open), (vec![], BTreeMap::from([(1, None)])));
    }
}
