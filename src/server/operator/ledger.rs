//! A task's ledger: where it stands with each group, from what the broker knows now and what the log of outcomes says.

use std::collections::HashMap;
use std::sync::Arc;

use crate::broker;
use crate::task::{GroupName, Outcome, Task, TaskResult, Time};
use crate::task_state::{StateReason, WaitReason};

/// A task, and all there is to know of it.
pub(in crate::server) struct Ledger {
    pub(in crate::server) task: Task,
    pub(in crate::server) groups: Vec<TaskInGroup>,
    /// All that came of it, oldest first.
    pub(in crate::server) results: Vec<TaskResult>,
}

/// Where a task stands with a group.
pub(in crate::server) struct TaskInGroup {
    pub(in crate::server) group: GroupName,
    pub(in crate::server) reason: StateReason,
    /// With or by which client. Empty: none.
    pub(in crate::server) client: Arc<str>,
    /// Deliveries so far.
    pub(in crate::server) attempt: u32,
}

impl Ledger {
    pub(super) fn new(
        task: Task,
        states: Vec<(GroupName, broker::TaskState)>,
        results: Vec<TaskResult>,
        now: Time,
    ) -> Ledger {
        // It does not go out any more, though nobody has come yet who would write that down.
        let over = task.spec.over(now).map(|outcome| StateReason::Settled(Some(outcome)));
        let waits = |reason| over.unwrap_or(StateReason::Waits(reason));
        let never_came = task.spec.to.clone().filter(|to| !states.iter().any(|(group, _)| group == to));
        let (attempts, settlements) = (attempts(&results), settlements(&results));
        let known = states.into_iter().map(|(group, state)| {
            let attempt = attempts.get(&group).copied().unwrap_or(0);
            let settlement = settlements.get(&group).map(|entry| &entry.result);
            let (reason, client, attempt) = match (state, settlement) {
                (broker::TaskState::InFlight(client, until, attempt), _) => {
                    (StateReason::Leased(until), client, attempt)
                }
                (broker::TaskState::Waiting(reason), _) => (waits(reason), "".into(), attempt),
                (broker::TaskState::Settled, Some(by)) => {
                    (StateReason::Settled(Some(by.outcome)), by.client.clone(), by.attempt)
                }
                (broker::TaskState::Settled, None) => (StateReason::Settled(None), "".into(), attempt),
            };
            TaskInGroup { group, reason, client, attempt }
        });
        let never_came = never_came.map(|group| TaskInGroup {
            group,
            reason: waits(WaitReason::NeverCame),
            client: "".into(),
            attempt: 0,
        });
        let groups = known.chain(never_came).collect();
        Ledger { task, groups, results }
    }
}

/// The result by which each group settled the task, or what an operator did with it since.
pub(in crate::server) fn settlements(results: &[TaskResult]) -> HashMap<&GroupName, &TaskResult> {
    deciding(results).collect()
}

/// The last of a group is its settlement.
fn deciding(results: &[TaskResult]) -> impl Iterator<Item = (&GroupName, &TaskResult)> {
    let decides = |outcome: Outcome| outcome.settles() || matches!(outcome, Outcome::Revived | Outcome::Dropped);
    in_time(results).filter(move |(_, r)| decides(r.result.outcome))
}

/// The number of the last attempt that something came of, for each group.
fn attempts(results: &[TaskResult]) -> HashMap<&GroupName, u32> {
    let mut attempts = HashMap::new();
    for (group, entry) in in_time(results) {
        let last = attempts.entry(group).or_default();
        *last = entry.result.attempt.max(*last);
    }
    attempts
}

fn in_time(results: &[TaskResult]) -> impl Iterator<Item = (&GroupName, &TaskResult)> {
    results.iter().filter(|r| !r.result.late).filter_map(|r| Some((r.result.group.as_ref()?, r)))
}
