//! One address, and which delivery a report from there without an id is about.

use std::collections::VecDeque;

use super::session::SessionId;
use super::{GroupId, OutcomeReport};
use crate::task::{Outcome, TaskId};

/// Who is connected from one address, so that reports from there without an id find their task.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// How many streams and how many reporters there are.
    pub(super) sessions: usize,
    pub(super) reporters: usize,
    /// The latest stream.
    pub(super) session: Option<SessionId>,
    /// The group of that stream; `None` for a passing one.
    pub(super) group: Option<GroupId>,
    pub(super) unmatched: Unmatched,
}

impl Peer {
    /// Whether nothing from that address is connected.
    pub(super) fn is_idle(&self) -> bool {
        self.sessions == 0 && self.reporters == 0
    }
}

/// The deliveries to one address that no acknowledgement was matched with yet, oldest first.
///
/// An article client says neither who it is nor which task it means. Its getTask and its tellResult share a connection,
/// so they have the same address, and it acknowledges in the order in which it was given: that is what is matched.
///
/// Kept as runs of consecutive ids, because a client that never acknowledges must cost no memory for each task.
#[derive(Debug, Default)]
pub(crate) struct Unmatched {
    runs: VecDeque<Run>,
}

/// A client that is given the same tasks again and again and never acknowledges one has its oldest deliveries forgotten.
const MAX_RUNS: usize = 4096;

#[derive(Debug)]
struct Run {
    first: TaskId,
    last: TaskId,
    attempt: u32,
}

impl Unmatched {
    pub(crate) fn push(&mut self, task: TaskId, attempt: u32) {
        match self.runs.back_mut() {
            Some(run) if run.last + 1 == task && run.attempt == attempt => run.last = task,
            _ => self.runs.push_back(Run { first: task, last: task, attempt }),
        }
        if self.runs.len() > MAX_RUNS {
            self.runs.pop_front();
        }
    }

    /// Finds out which delivery a report without an id is about. What matches nothing is kept all the same, with a task of 0: nothing that
    /// a client says is lost.
    pub(crate) fn resolve(&mut self, report: &mut OutcomeReport) {
        match (report.task, report.outcome) {
            (0, outcome) => {
                let matched = match outcome {
                    // The acknowledgement is yet to come.
                    Outcome::Working => self.oldest(),
                    _ => self.pop(),
                };
                (report.task, report.attempt) = matched.unwrap_or((0, report.attempt));
            }
            (_, Outcome::Working) => {}
            (task, _) => self.remove(task),
        }
    }

    /// The oldest delivery.
    pub(super) fn oldest(&self) -> Option<(TaskId, u32)> {
        self.runs.front().map(|run| (run.first, run.attempt))
    }

    /// The oldest delivery, which is thereby matched.
    pub(super) fn pop(&mut self) -> Option<(TaskId, u32)> {
        let oldest = self.oldest()?;
        let run = self.runs.front_mut()?;
        if run.first == run.last {
            self.runs.pop_front();
        } else {
            run.first += 1;
        }
        Some(oldest)
    }

    /// Takes out one delivery that was acknowledged by its id.
    pub(super) fn remove(&mut self, task: TaskId) {
        let Some(at) = self.runs.iter().position(|run| (run.first..=run.last).contains(&task)) else { return };
        let run = &mut self.runs[at];
        let (first, last, attempt) = (run.first, run.last, run.attempt);
        match (task == first, task == last) {
            (true, true) => drop(self.runs.remove(at)),
            (true, false) => run.first += 1,
            (false, true) => run.last -= 1,
            (false, false) => {
                run.last = task - 1;
                self.runs.insert(at + 1, Run { first: task + 1, last, attempt });
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mut unmatched: Unmatched) -> Vec<(TaskId, u32)> {
        std::iter::from_fn(|| unmatched.pop()).collect()
    }

    #[test]
    fn deliveries_come_out_in_the_order_they_went_in() {
        let mut unmatched = Unmatched::default();
        for (task, attempt) in [(1, 1), (2, 1), (3, 1), (7, 1), (8, 2), (9, 2)] {
            unmatched.push(task, attempt);
        }
        assert_eq!(unmatched.runs.len(), 3, "consecutive deliveries share a run");
        assert_eq!(drain(unmatched), [(1, 1), (2, 1), (3, 1), (7, 1), (8, 2), (9, 2)]);
    }

    #[test]
    fn one_that_was_named_by_its_id_is_not_matched_again() {
        for task in 1..=4 {
            let mut unmatched = Unmatched::default();
            (1..=4).for_each(|id| unmatched.push(id, 1));
            unmatched.remove(task);
            unmatched.remove(99);
            let left: Vec<TaskId> = drain(unmatched).into_iter().map(|(id, _)| id).collect();
            assert_eq!(left, (1..=4).filter(|id| *id != task).collect::<Vec<_>>());
        }
    }
}
