//! The list of tasks, newest first, of one group or in one state where that is asked for.
//!
//! There is no index for that. A look goes backwards through the log, and ends when it has found enough, has looked at
//! [`LOOKED`] tasks, or has used up its time; it says how far it came, and from there the next one can go on.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::json::{self, TaskRow};
use crate::broker::{self, BrokerError, TasksWithState};
use crate::server::operator::Operator;
use crate::server::refusal::Refusal;
use crate::store::{Reader, StoreError};
use crate::task::{GroupName, Task, TaskId};
use crate::task_state::TaskState;

/// Most rows of a list, and most tasks that the broker is asked about at once: it looks at each of them, with every group.
pub(super) const MOST: usize = 200;
/// Most tasks that one look goes through.
const LOOKED: usize = 10_000;
/// No further step is begun after this time, or when the broker was looked at for that long.
const TIME: Duration = Duration::from_millis(250);
const BROKER_TIME: Duration = Duration::from_millis(20);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub(super) before: TaskId,
    /// At most [`MOST`].
    pub(super) limit: usize,
    /// For this group: then the states are those with it.
    pub(super) group: Option<GroupName>,
    pub(super) state: Option<TaskState>,
}

/// What was found, newest first.
#[derive(Debug, Default, Serialize)]
pub(super) struct Found {
    tasks: Vec<TaskRow>,
    /// What was looked at; `None`: there was nothing.
    looked: Option<Looked>,
    /// There are older tasks, which were not looked at.
    more: bool,
}

/// From one task to another, both included.
#[derive(Debug, Clone, Copy, Serialize)]
struct Looked {
    newest: TaskId,
    oldest: TaskId,
}

impl Wanted {
    /// Looks, and says how long the broker was looked at.
    pub(super) async fn find(self, operator: &Operator) -> Result<(Found, Duration), Refusal> {
        let deadline = Instant::now() + TIME;
        let narrowed = self.group.is_some() || self.state.is_some();
        let step = if narrowed { MOST } else { self.limit };
        let (mut found, mut count, mut at_broker) = (Found::default(), 0, Duration::ZERO);
        while found.tasks.len() < self.limit && count < LOOKED && Instant::now() < deadline && at_broker < BROKER_TIME {
            let before = found.looked.map_or(self.before, |looked| looked.oldest);
            let page = operator.queries.run(move |reader| reader.latest_tasks(before, step)).await?;
            let (Some(first), Some(last)) = (page.first(), page.last()) else { break };
            let newest = found.looked.map_or(first.id, |looked| looked.newest);
            let mut oldest = last.id;
            count += page.len();

            let (asked, looked) = self.ask(&operator.broker, page).await?;
            at_broker += looked;
            let wanted = self.clone();
            found.tasks.extend(operator.queries.run(move |reader| wanted.list(reader, asked)).await?);
            if found.tasks.len() > self.limit {
                found.tasks.truncate(self.limit);
                oldest = found.tasks.last().map_or(oldest, TaskRow::id);
            }
            found.looked = Some(Looked { newest, oldest });
        }
        if let Some(Looked { oldest, .. }) = found.looked {
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
        let Some(group) = &self.group else { return broker.foremost(tasks).await };
        tasks.retain(|task| task.spec.to.as_ref().is_none_or(|to| to == group));
        let (mut asked, looked) = broker.states_in(group.clone(), tasks).await?;
        // What is for everyone is not for a group that came later, or never.
        asked.retain(|(task, state)| task.spec.to.is_some() || state.is_some());
        Ok((asked, looked))
    }

    /// Those that are wanted, with what came of them. The log is only asked where it matters.
    fn list(&self, reader: &mut dyn Reader, asked: TasksWithState) -> Result<Vec<TaskRow>, StoreError> {
        let mut listed = Vec::new();
        for (task, state) in asked.into_iter().filter(|(_, state)| self.may_be(state.as_ref())) {
            let results = json::latest_results(reader, task.id, self.group.as_ref())?;
            let task = TaskRow::of(task, state, results);
            listed.extend(Some(task).filter(|task| self.state.is_none_or(|wanted| wanted == task.state())));
        }
        Ok(listed)
    }

    /// Whether a task in this state of the broker's can be in the state that is wanted. `None`: only the log knows.
    fn may_be(&self, state: Option<&broker::TaskState>) -> bool {
        let Some((wanted, state)) = self.state.zip(state) else { return true };
        match state {
            broker::TaskState::InFlight(..) => wanted == TaskState::InFlight,
            broker::TaskState::Waiting(_) => wanted == TaskState::Waiting,
            broker::TaskState::Settled => matches!(wanted, TaskState::Settled | TaskState::Dead),
        }
    }
}
