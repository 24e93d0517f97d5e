//! The list of tasks, newest first, of one group or in one state where that is asked for.
//!
//! There is no index for that. A look goes backwards through the log, and ends when it has found enough, has looked at
//! [`LOOKED`] tasks, or has used up its time; it says how far it came, and from there the next one can go on.

use std::time::{Duration, Instant};

use super::Operator;
use super::ledger::settlements;
use crate::broker::{self, BrokerError, TasksWithState};
use crate::server::refusal::Refusal;
use crate::store::{Reader, StoreError};
use crate::task::{GroupName, Outcome, Task, TaskId, TaskResult, Time};
use crate::task_state::TaskState;

/// Most rows of a list, and most tasks that the broker is asked about at once: it looks at each of them, with every group.
pub(in crate::server) const MOST: usize = 200;
/// Most tasks that one look goes through.
const LOOKED: usize = 10_000;
/// No further step is begun after this time, or when the broker was looked at for that long.
const TIME: Duration = Duration::from_millis(250);
const BROKER_TIME: Duration = Duration::from_millis(20);
/// Results of one task that are looked at for a list: the newest. A task for thousands of groups has as many.
const RESULTS: usize = 64;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::server) struct Wanted {
    pub(in crate::server) before: TaskId,
    /// At most [`MOST`].
    pub(in crate::server) limit: usize,
    /// For this group: then the states are those with it.
    pub(in crate::server) group: Option<GroupName>,
    /// Only what is addressed to that group, and nothing that is for every group.
    pub(in crate::server) addressed: bool,
    pub(in crate::server) state: Option<TaskState>,
    /// With this outcome as the last one.
    pub(in crate::server) outcome: Option<Outcome>,
    /// With this in its text. Empty: any.
    pub(in crate::server) text: String,
}

/// What was found, newest first.
#[derive(Debug, Default)]
pub(in crate::server) struct Found {
    pub(in crate::server) tasks: Vec<Standing>,
    /// What was looked at, the newest and the oldest; `None`: there was nothing.
    pub(in crate::server) looked: Option<(TaskId, TaskId)>,
    /// There are older tasks, which were not looked at.
    pub(in crate::server) more: bool,
}

/// A task, where it stands, and what came of it last.
#[derive(Debug)]
pub(in crate::server) struct Standing {
    pub(in crate::server) task: Task,
    pub(in crate::server) state: TaskState,
    pub(in crate::server) outcome: Option<Outcome>,
    pub(in crate::server) last_at: Option<Time>,
}

/// The newest results of a task, newest first; of one group, where that is asked for.
pub(in crate::server) fn latest_results(
    reader: &mut dyn Reader,
    task: TaskId,
    group: Option<&GroupName>,
) -> Result<Vec<TaskResult>, StoreError> {
    let mut newest = reader.latest_results_of(task, RESULTS)?;
    if group.is_none() {
        return Ok(newest);
    }
    // Those of other groups may have filled the page.
    if newest.len() >= RESULTS {
        newest = reader.outcomes_of(task)?;
        newest.reverse();
    }
    newest.retain(|entry| entry.result.group.as_ref() == group);
    Ok(newest)
}

impl Standing {
    /// `results` are the newest, newest first; `state` that with the group which has most to do with it, or
    /// which was asked for.
    pub(in crate::server) fn of(
        task: Task,
        state: Option<broker::TaskState>,
        mut results: Vec<TaskResult>,
        now: Time,
    ) -> Standing {
        results.reverse();
        let counts = |entry: &&TaskResult| !entry.result.late && entry.result.outcome != Outcome::NotSelected;
        // That it was not for a group says something only where it was for none.
        let last = results.iter().rfind(counts).or_else(|| results.iter().rfind(|entry| !entry.result.late));
        let (mut outcome, last_at) = last.map(|entry| (entry.result.outcome, entry.result.at)).unzip();
        let is_dead = || settlements(&results).values().any(|entry| entry.result.outcome.is_dead());
        let mut state = match state {
            Some(broker::TaskState::InFlight(..)) => TaskState::InFlight,
            Some(broker::TaskState::Waiting(_)) => TaskState::Waiting,
            Some(broker::TaskState::Settled | broker::TaskState::Ending(..)) if is_dead() => TaskState::Dead,
            Some(broker::TaskState::Settled | broker::TaskState::Ending(..)) => TaskState::Settled,
            // Only anonymous clients, or none yet.
            None if last.is_some() => TaskState::Settled,
            None => TaskState::Waiting,
        };
        // Nobody may have been there to be told so.
        if state == TaskState::Waiting
            && let Some(over) = task.spec.over(now)
        {
            (state, outcome) = (TaskState::Settled, Some(over));
        }
        Standing { task, state, outcome, last_at }
    }
}

impl Wanted {
    /// Looks, and says how long the broker was looked at.
    pub(in crate::server) async fn find(self, operator: &Operator) -> Result<(Found, Duration), Refusal> {
        let deadline = Instant::now() + TIME;
        let any = self.group.is_none() && self.state.is_none() && self.outcome.is_none() && self.text.is_empty();
        let step = if any { self.limit } else { MOST };
        let (mut found, mut count, mut at_broker) = (Found::default(), 0, Duration::ZERO);
        while found.tasks.len() < self.limit && count < LOOKED && Instant::now() < deadline && at_broker < BROKER_TIME {
            let before = found.looked.map_or(self.before, |(_, oldest)| oldest);
            let page = operator.queries.run(move |reader| reader.latest_tasks(before, step)).await?;
            let (Some(first), Some(last)) = (page.first(), page.last()) else { break };
            let newest = found.looked.map_or(first.id, |(newest, _)| newest);
            let mut oldest = last.id;
            count += page.len();

            let (asked, looked) = self.ask(&operator.broker, page).await?;
            at_broker += looked;
            let wanted = self.clone();
            found.tasks.extend(operator.queries.run(move |reader| wanted.list(reader, asked)).await?);
            if found.tasks.len() > self.limit {
                found.tasks.truncate(self.limit);
                oldest = found.tasks.last().map_or(oldest, |last| last.task.id);
            }
            found.looked = Some((newest, oldest));
        }
        if let Some((_, oldest)) = found.looked {
            found.more = operator.queries.run(move |reader| Ok(!reader.latest_tasks(oldest, 1)?.is_empty())).await?;
        }
        Ok((found, at_broker))
    }

    /// The tasks that may be wanted, and where they stand; and how long the broker was looked at.
    async fn ask(
        &self,
        broker: &broker::Handle,
        mut tasks: Vec<Task>,
    ) -> Result<(TasksWithState, Duration), BrokerError> {
        tasks.retain(|task| task.spec.text.contains(&self.text));
        let Some(group) = &self.group else { return broker.overall_states(tasks).await };
        tasks.retain(|task| task.spec.names(group).unwrap_or(!self.addressed));
        let (mut asked, looked) = broker.states_in(group.clone(), tasks).await?;
        // What is for everyone is not for a group that came later, or never.
        asked.retain(|(task, state)| task.spec.to.is_some() || state.is_some());
        Ok((asked, looked))
    }

    /// Those that are wanted, with what came of them. The log is only asked where it matters.
    fn list(&self, reader: &mut dyn Reader, asked: TasksWithState) -> Result<Vec<Standing>, StoreError> {
        let (mut listed, now) = (Vec::new(), Time::now());
        for (task, state) in asked.into_iter().filter(|(task, state)| self.may_be(task, state.as_ref(), now)) {
            let results = latest_results(reader, task.id, self.group.as_ref())?;
            let task = Standing::of(task, state, results, now);
            let fits = self.state.is_none_or(|wanted| wanted == task.state)
                && self.outcome.is_none_or(|wanted| Some(wanted) == task.outcome);
            listed.extend(fits.then_some(task));
        }
        Ok(listed)
    }

    /// Whether a task in this state of the broker's can be in the state that is wanted. `None`: only the log knows.
    fn may_be(&self, task: &Task, state: Option<&broker::TaskState>, now: Time) -> bool {
        let Some((wanted, state)) = self.state.zip(state) else { return true };
        match state {
            broker::TaskState::InFlight(..) => wanted == TaskState::InFlight,
            broker::TaskState::Waiting(_) if task.spec.over(now).is_some() => wanted == TaskState::Settled,
            broker::TaskState::Waiting(_) => wanted == TaskState::Waiting,
            broker::TaskState::Settled | broker::TaskState::Ending(..) => {
                matches!(wanted, TaskState::Settled | TaskState::Dead)
            }
        }
    }
}
