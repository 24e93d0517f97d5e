//! A task's ledger: where it stands with each group, from what the broker knows now and what the log of outcomes says. It is shown a
//! part at a time, since there may be ten thousand groups, and as many results of 64 KiB.

use std::collections::HashMap;
use std::sync::Arc;

use crate::broker::{self, Said};
use crate::store::{PAGE_BYTES, Reader, StoreError};
use crate::task::{GroupName, Outcome, Task, TaskResult, Time};
use crate::task_state::{StateReason, TaskState, WaitReason};

/// Results that are read at once.
const RESULTS: usize = 16;

/// A part of a task's ledger.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct Part {
    /// Groups whose names come after this.
    pub(in crate::server) after: Option<GroupName>,
    /// Most groups.
    pub(in crate::server) limit: usize,
    /// Only this group.
    pub(in crate::server) group: Option<GroupName>,
    pub(in crate::server) without_results: bool,
}

/// A task, and what there is to know of it with some groups.
pub(in crate::server) struct Ledger {
    pub(in crate::server) task: Task,
    /// By name.
    pub(in crate::server) groups: Vec<TaskInGroup>,
    /// What came of it with these groups, and, in the first part, with anonymous clients; oldest first.
    pub(in crate::server) results: Vec<TaskResult>,
    /// How many older ones of these groups there was no room for.
    pub(in crate::server) results_left_out: usize,
    pub(in crate::server) counts: Counts,
    /// There are more groups after this one.
    pub(in crate::server) next: Option<GroupName>,
}

/// With how many groups, of all there are, a task is in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(in crate::server) struct Counts {
    pub(in crate::server) waiting: u64,
    pub(in crate::server) in_flight: u64,
    pub(in crate::server) settled: u64,
    pub(in crate::server) dead: u64,
    /// With how many it was cancelled, and its client has not said that it ended it. They are among the settled ones.
    pub(in crate::server) at_work: u64,
}

/// Where a task stands with a group.
pub(in crate::server) struct TaskInGroup {
    pub(in crate::server) group: GroupName,
    pub(in crate::server) reason: StateReason,
    /// With or by which client. Empty: none.
    pub(in crate::server) client: Arc<str>,
    /// Deliveries so far.
    pub(in crate::server) attempt: u32,
    /// What the client that has it said last of it.
    pub(in crate::server) said: Said,
    /// It was cancelled, and its client has not said that it ended it.
    pub(in crate::server) at_work: bool,
}

impl Ledger {
    pub(super) fn new(
        task: Task,
        states: Vec<(GroupName, broker::TaskState)>,
        part: &Part,
        reader: &mut dyn Reader,
        now: Time,
    ) -> Result<Ledger, StoreError> {
        let results = reader.outcomes_of(task.id)?;
        // It does not go out any more, though nobody has come yet who would write that down.
        let over = task.spec.over(now).map(|outcome| StateReason::Settled(Some(outcome)));
        let waits = |reason| over.unwrap_or(StateReason::Waits(reason));
        let never_came = task.spec.to.clone().filter(|to| !states.iter().any(|(group, _)| group == to));
        let (attempts, settlements) = (attempts(&results), settlements(&results));
        let known = states.into_iter().map(|(group, state)| {
            let attempt = attempts.get(&group).copied().unwrap_or(0);
            let settlement = settlements.get(&group).map(|entry| &entry.result);
            let (mut said, mut at_work) = (Said::default(), false);
            let (reason, client, attempt) = match (state, settlement) {
                (broker::TaskState::InFlight(client, until, attempt, says), _) => {
                    said = says;
                    (StateReason::Leased(until), client, attempt)
                }
                (broker::TaskState::Waiting(reason), _) => (waits(reason), "".into(), attempt),
                (broker::TaskState::Ending(client, attempt), by) => {
                    at_work = true;
                    (StateReason::Settled(by.map(|by| by.outcome)), client, attempt)
                }
                (broker::TaskState::Settled, Some(by)) => {
                    (StateReason::Settled(Some(by.outcome)), by.client.clone(), by.attempt)
                }
                (broker::TaskState::Settled, None) => (StateReason::Settled(None), "".into(), attempt),
            };
            TaskInGroup { group, reason, client, attempt, said, at_work }
        });
        let never_came = never_came.map(|group| TaskInGroup {
            group,
            reason: waits(WaitReason::NeverCame),
            client: "".into(),
            attempt: 0,
            said: Said::default(),
            at_work: false,
        });
        let all: Vec<TaskInGroup> = known.chain(never_came).collect();
        let mut counts = Counts::default();
        for group in &all {
            *match group.reason.state() {
                TaskState::Waiting => &mut counts.waiting,
                TaskState::InFlight => &mut counts.in_flight,
                TaskState::Settled => &mut counts.settled,
                TaskState::Dead => &mut counts.dead,
            } += 1;
            counts.at_work += u64::from(group.at_work);
        }
        let is_asked = |it: &TaskInGroup| {
            part.group.as_ref().is_none_or(|group| it.group == *group)
                && part.after.as_ref().is_none_or(|after| it.group > *after)
        };
        let mut asked = all.into_iter().filter(is_asked);
        let groups: Vec<TaskInGroup> = asked.by_ref().take(part.limit.max(1)).collect();
        let next = asked.next().and_then(|_| Some(groups.last()?.group.clone()));
        let mut ledger = Ledger { task, groups, results: Vec::new(), results_left_out: 0, counts, next };
        if !part.without_results {
            ledger.read_results(&results, part, reader)?;
        }
        Ok(ledger)
    }

    /// Reads what came of the task with its groups; leaves out the last groups if that is too much for one message, and the oldest
    /// results where one group has too many.
    fn read_results(&mut self, all: &[TaskResult], part: &Part, reader: &mut dyn Reader) -> Result<(), StoreError> {
        let mut of_group: HashMap<Option<&GroupName>, Vec<u64>> = HashMap::new();
        all.iter().for_each(|entry| of_group.entry(entry.result.group.as_ref()).or_default().push(entry.seq));
        let is_first = part.after.is_none() && part.group.is_none();
        let (mut bytes, mut kept) = (0, 0);
        let names = self.groups.iter().map(|it| Some(&it.group));
        for (at, name) in std::iter::once(None).filter(|_| is_first).chain(names).enumerate() {
            if bytes >= PAGE_BYTES && kept > usize::from(is_first) {
                break;
            }
            kept = at + 1;
            // The newest first, as far as there is room.
            let mut seqs = of_group.remove(&name).unwrap_or_default();
            while bytes < PAGE_BYTES && !seqs.is_empty() {
                let read = reader.results_by_seq(&seqs.split_off(seqs.len().saturating_sub(RESULTS)))?;
                bytes += read.iter().map(|entry| entry.result.bytes()).sum::<usize>();
                self.results.extend(read);
            }
            self.results_left_out += seqs.len();
        }
        let kept = kept.saturating_sub(usize::from(is_first));
        if kept < self.groups.len() && kept > 0 {
            self.groups.truncate(kept);
            self.next = self.groups.last().map(|it| it.group.clone());
        }
        self.results.sort_unstable_by_key(|entry| entry.seq);
        Ok(())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::attachment::Attachment;
    use crate::store::{Backend as _, Batch, Memory};
    use crate::task::{Name, NameOf, NewResult, NewTask};

    fn name(name: &str) -> GroupName {
        Name::new(NameOf::Group, name).unwrap()
    }

    fn done(seq: u64, group: Option<&str>, length: usize) -> TaskResult {
        let (client, ret) = ("client".into(), "x".repeat(length));
        let (attempt, outcome, at) = (1, Outcome::Done, Time(1));
        let (group, attachment) = (group.map(name), Attachment::default());
        TaskResult {
            seq,
            result: NewResult {
                task: 1,
                group,
                client,
                attempt,
                outcome,
                ret,
                attachment,
                at,
                not_before: None,
                late: false,
            },
        }
    }

    /// All parts of the ledger of a task, one after another.
    fn parts(memory: &mut Memory, groups: &[&str], part: &Part) -> Vec<Ledger> {
        let states: Vec<_> = groups.iter().map(|group| (name(group), broker::TaskState::Settled)).collect();
        let (mut parts, mut part) = (Vec::new(), part.clone());
        loop {
            let task = Task { id: 1, accepted_at: Time(1), spec: NewTask::default() };
            let ledger = Ledger::new(task, states.clone(), &part, memory, Time(2)).unwrap();
            part.after = ledger.next.clone();
            parts.push(ledger);
            if part.after.is_none() {
                return parts;
            }
        }
    }

    #[test]
    fn a_ledger_comes_in_parts_that_fit_into_a_message_and_leave_nothing_out() {
        let groups = ["a", "b", "c", "d", "e"];
        let mut memory = Memory::default();
        let of_groups = groups.iter().zip(2..).map(|(group, seq)| done(seq, Some(group), PAGE_BYTES / 2));
        let results = std::iter::once(done(1, None, 10)).chain(of_groups).collect();
        memory.commit(&Batch { results, ..Batch::default() }).unwrap();
        let everything = Part { limit: usize::MAX, ..Part::default() };
        let of_part = |part: &Ledger| -> (Vec<String>, Vec<u64>) {
            assert_eq!(part.counts, Counts { settled: 5, ..Counts::default() });
            let groups = part.groups.iter().map(|it| it.group.to_string()).collect();
            (groups, part.results.iter().map(|entry| entry.seq).collect())
        };
        let all: Vec<_> = parts(&mut memory, &groups, &everything).iter().map(of_part).collect();
        let part = |groups: &[&str], seqs: &[u64]| (groups.iter().map(|it| (*it).to_owned()).collect(), seqs.to_vec());
        assert_eq!(all, [part(&["a", "b"], &[1, 2, 3]), part(&["c", "d"], &[4, 5]), part(&["e"], &[6])]);
        let brief = Part { limit: 3, without_results: true, ..Part::default() };
        let all: Vec<_> = parts(&mut memory, &groups, &brief).iter().map(of_part).collect();
        assert_eq!(all, [part(&["a", "b", "c"], &[]), part(&["d", "e"], &[])]);
        let one = Part { limit: 3, group: Some(name("d")), ..Part::default() };
        assert_eq!(parts(&mut memory, &groups, &one).iter().map(of_part).collect::<Vec<_>>(), [part(&["d"], &[5])]);
    }

    #[test]
    fn what_anonymous_clients_said_hides_no_result_of_a_group() {
        let mut memory = Memory::default();
        let said = (1..=2).map(|seq| done(seq, None, PAGE_BYTES));
        let results = said.chain([done(3, Some("a"), 10), done(4, Some("b"), 10)]).collect();
        memory.commit(&Batch { results, ..Batch::default() }).unwrap();
        let all = parts(&mut memory, &["a", "b"], &Part { limit: 10, ..Part::default() });
        let told: usize = all.iter().map(|part| part.results.len() + part.results_left_out).sum();
        assert_eq!((told, all[0].groups.len()), (4, 1), "each result is told, or counted as left out");
    }

    #[test]
    fn of_a_group_with_too_many_results_the_newest_are_told_and_the_others_counted() {
        let mut memory = Memory::default();
        let results = (1..=100).map(|seq| done(seq, Some("a"), PAGE_BYTES / 20)).collect();
        memory.commit(&Batch { results, ..Batch::default() }).unwrap();
        let all = parts(&mut memory, &["a", "b"], &Part { limit: 10, ..Part::default() });
        let told: Vec<u64> = all[0].results.iter().map(|entry| entry.seq).collect();
        assert_eq!((told, all[0].results_left_out), ((69..=100).collect(), 68));
        assert_eq!(all.iter().map(|part| part.groups.len()).collect::<Vec<_>>(), [1, 1]);
    }
}
