//! What must be true of the runs, and of what was cancelled.

use std::collections::{HashMap, HashSet};

use contact::wire::control as pb;
use contact::wire::control_grpc::ControlClient;
use futures::executor::block_on;
use grpcio::CallOption;

use super::ledger::{Ledger, settles};
use super::operators::RUN;
use super::witness::Witness;
use pb::TargetState::{TARGET_CANCELLED, TARGET_DONE, TARGET_EXPIRED, TARGET_FAILED};

/// All runs, with their targets.
pub fn read(witness: &Witness) -> Vec<pb::RunDetails> {
    let client = ControlClient::new(witness.connect(&witness.control));
    let options = || CallOption::default().wait_for_ready(true).timeout(witness.patience);
    let list = client.list_runs(&pb::ListRunsRequest { limit: 1_000, ..Default::default() }, options()).unwrap();
    let list = block_on(list).unwrap();
    assert!(!list.more, "all of them fit into a list");
    let details = |run: &pb::Run| {
        let request = pb::GetRunRequest { number: run.number, ..Default::default() };
        block_on(client.get_run(&request, options()).unwrap()).unwrap()
    };
    list.runs.iter().map(details).collect()
}

impl Ledger {
    /// Each has ended, its numbers add up, and it says of its targets what the ledgers of its tasks say.
    pub fn assert_runs(&self, witness: &Witness) {
        let settled = self.settlements();
        let (tried, mut texts) = (witness.runs_tried.lock().unwrap(), HashSet::new());
        let mut of_runs = HashSet::new();
        let mut seen: HashMap<pb::TargetState, usize> = HashMap::new();
        for details in &self.runs {
            let run = details.run.get_or_default();
            assert!(tried.contains(&run.task) && texts.insert(&run.task), "nobody began it, or once: {run:?}");
            assert!(run.ended_at > 0 && run.number == run.tasks[0], "{run:?}");
            let mut states = [0; 8];
            details.targets.iter().for_each(|target| states[target.state.value() as usize] += 1);
            assert_eq!(run.counts, states, "the numbers add up: {run:?}");
            assert_eq!((run.parts as usize, run.tasks.len()), (run.tasks.len(), run.parts as usize), "{run:?}");
            // Its tasks, one after another, are for its targets.
            let mut given = Vec::new();
            for id in &run.tasks {
                assert!(of_runs.insert(*id), "task {id} is of two runs");
                let task = &self.tasks[id];
                assert_eq!((&task.task, task.timeout_ms), (&run.task, run.timeout_ms));
                let names = if task.to.is_empty() { task.groups.clone() } else { vec![task.to.clone()] };
                given.extend(names.into_iter().map(|name| (name, *id)));
            }
            let of_target: HashMap<_, _> = given.iter().cloned().collect();
            assert_eq!((of_target.len(), given.len()), (run.out as usize, run.out as usize), "given twice: {run:?}");
            for (at, target) in details.targets.iter().enumerate() {
                let state = target.state.unwrap();
                *seen.entry(state).or_default() += 1;
                let task = of_target.get(&target.group);
                assert_eq!(task.is_some(), at < run.out as usize, "the first ones are out: {run:?}");
                let result = task.and_then(|id| settled.get(&(target.group.as_str(), *id)));
                let expected = match result.map(|result| (result.outcome.unwrap(), result)) {
                    Some((pb::Outcome::DONE, _)) => TARGET_DONE,
                    Some((pb::Outcome::FAILED | pb::Outcome::EXHAUSTED, _)) => TARGET_FAILED,
                    Some((pb::Outcome::CANCELLED, _)) => TARGET_CANCELLED,
                    _ => TARGET_EXPIRED,
                };
                // What is told when it is over comes too late for it.
                let too_late = result.is_none_or(|result| result.at >= run.ended_at - 1_000);
                let by_end = match run.phase.unwrap() {
                    pb::RunPhase::RUN_EXPIRED => TARGET_EXPIRED,
                    _ => TARGET_CANCELLED,
                };
                let story = || task.map(|id| self.story(&target.group, *id)).unwrap_or_default();
                assert!(
                    state == expected || (state == by_end && too_late),
                    "{} is {state:?}, and not {expected:?}, in {run:?}{}",
                    target.group,
                    story()
                );
            }
        }
        for (number, text) in witness.runs.lock().unwrap().iter() {
            let run = self.runs.iter().find(|details| details.run.number == *number);
            assert_eq!(run.map(|details| &details.run.task), Some(text), "run {number} began, and is not there");
        }
        let orphan = self.tasks.values().find(|task| task.task.starts_with(RUN) && !of_runs.contains(&task.id));
        assert_eq!(orphan, None, "a task of no run");
        assert!(seen.contains_key(&TARGET_DONE) && seen.len() > 1, "they came to some end: {seen:?}");
    }

    /// What was cancelled is not delivered in a later life of the server, and no group has it open.
    pub fn assert_cancelled_stays_so(&self, witness: &Witness) {
        let cancelled = witness.cancelled.lock().unwrap();
        let lives: HashMap<u64, u64> = cancelled.iter().map(|said| (said.id, said.life)).collect();
        assert!(!lives.is_empty(), "nothing was cancelled");
        for one in witness.delivered.lock().unwrap().iter() {
            let life = lives.get(&one.id).copied().unwrap_or(u64::MAX);
            assert!(one.life <= life, "cancelled before crash {}, and delivered: {one:?}", life + 1);
        }
    }

    fn settlements(&self) -> HashMap<(&str, u64), &pb::TaskResult> {
        let settling = self.results.iter().filter(|result| settles(result));
        settling.map(|result| ((result.group.as_str(), result.task_id), result)).collect()
    }

    /// Whether a task came to its end with a group without a client having to see it.
    pub fn needs_no_client(&self, group: &str, id: u64) -> bool {
        let by_server = [pb::Outcome::CANCELLED, pb::Outcome::EXPIRED].map(Into::into);
        let of_it =
            self.results.iter().filter(|result| result.group == group && result.task_id == id && settles(result));
        of_it.map(|result| result.outcome).any(|outcome| by_server.contains(&outcome))
    }
}
