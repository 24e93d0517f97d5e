//! Results that came too late: they are written down and change nothing. Of one task and group only so many are, or a client that
//! says the same again and again would swell the ledger of the task.

use rustc_hash::FxHashMap;

use super::GroupId;
use crate::task::TaskId;

/// Most late results of a task and a group that are written down, since the start of the server.
pub const MOST_LATE: u32 = 64;

/// Tasks and groups of which late results are counted: 3 MB. When there are more, all are counted anew.
const COUNTED: usize = 65_536;

/// How many late results there are of each task and group. All groups that do not exist count as one: whoever reports can name any.
#[derive(Debug, Default)]
pub(super) struct LateResults(FxHashMap<(TaskId, Option<GroupId>), u32>);

impl LateResults {
    /// Counts one; says whether it is to be written down.
    pub(super) fn take(&mut self, task: TaskId, group: Option<GroupId>) -> bool {
        if self.0.len() >= COUNTED && !self.0.contains_key(&(task, group)) {
            self.0.clear();
        }
        let count = self.0.entry((task, group)).or_default();
        *count = count.saturating_add(1);
        *count <= MOST_LATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_results_of_any_number_of_tasks_are_counted_in_a_bounded_memory() {
        let mut late = LateResults::default();
        for task in 0..3 * COUNTED as TaskId {
            assert!(late.take(task, Some(1)), "the first of a task");
            assert!(late.0.len() <= COUNTED);
        }
    }
}
