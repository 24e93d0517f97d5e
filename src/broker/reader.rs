//! The thread that reads tasks from the store for the broker, so that the broker never waits for the disk.

use crossbeam_channel::Receiver;
use log::warn;

use std::time::{Duration, Instant};

use super::core::{Counted, GroupId};
use crate::store::{Backlog, BacklogPage, Reader, StoreError};
use crate::task::{Task, TaskId};

/// How long deliveries wait for what is counted. One step may take longer.
const COUNTING: Duration = Duration::from_millis(5);

/// What a group wants read.
pub(super) enum ReadJob {
    /// A page of its backlog.
    Fetch(GroupId, Backlog),
    /// The text of tasks that are to go out again.
    Load(GroupId, Vec<TaskId>),
    /// How many tasks there are in each.
    Count(Vec<Backlog>),
}

/// What came of it. `None`: it could not be read.
pub(super) enum ReadAnswer {
    Fetched(GroupId, Backlog, Option<BacklogPage>),
    Loaded(GroupId, Vec<TaskId>, Option<Vec<Task>>),
    Counted(Vec<Backlog>, Option<Vec<Counted>>),
}

/// Counts these, or the first of them, if that takes long: at least one.
pub fn count(reader: &mut dyn Reader, asked: &[Backlog]) -> Result<Vec<Counted>, StoreError> {
    let began = Instant::now();
    let mut counted = Vec::new();
    for step in asked {
        let own = step.group.is_some();
        // What is for everyone is counted apart.
        let broadcast_after = if own { step.upto } else { 0 };
        let tasks = reader.count(&Backlog { broadcast_after, ..step.clone() })?;
        let first = match own {
            true => reader.backlog(&Backlog { limit: 1, max_bytes: 1, ..step.clone() })?.tasks.into_iter().next(),
            false => None,
        };
        counted.push(Counted { tasks, first: first.map(|task| (task.id, task.accepted_at)) });
        if began.elapsed() > COUNTING {
            break;
        }
    }
    Ok(counted)
}

/// Does one job after another, until there are none to come or `answer` says that nothing listens any more.
pub(super) fn run(mut reader: Box<dyn Reader>, jobs: &Receiver<ReadJob>, answer: impl Fn(ReadAnswer) -> bool) {
    fn or_log<T>(result: Result<T, StoreError>) -> Option<T> {
        result.inspect_err(|e| warn!("reading tasks for delivery failed, trying again in a second: {e}")).ok()
    }
    for job in jobs {
        let listening = answer(match job {
            ReadJob::Fetch(group, query) => {
                let page = or_log(reader.backlog(&query));
                ReadAnswer::Fetched(group, query, page)
            }
            ReadJob::Load(group, ids) => {
                let tasks = or_log(reader.tasks_by_id(&ids));
                ReadAnswer::Loaded(group, ids, tasks)
            }
            ReadJob::Count(asked) => {
                let counted = or_log(count(reader.as_mut(), &asked));
                ReadAnswer::Counted(asked, counted)
            }
        });
        if !listening {
            return;
        }
    }
}
