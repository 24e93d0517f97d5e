//! The thread that reads tasks from the store for the broker, so that the broker never waits for the disk.

use crossbeam_channel::Receiver;
use log::warn;

use super::core::GroupId;
use crate::store::{Backlog, BacklogPage, Reader, StoreError};
use crate::task::{Task, TaskId};

/// What a group wants read.
pub(super) enum ReadJob {
    /// A page of its backlog.
    Fetch(GroupId, Backlog),
    /// The text of tasks that are to go out again.
    Load(GroupId, Vec<TaskId>),
}

/// What came of it. `None`: it could not be read.
pub(super) enum ReadAnswer {
    Fetched(GroupId, Backlog, Option<BacklogPage>),
    Loaded(GroupId, Vec<TaskId>, Option<Vec<Task>>),
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
        });
        if !listening {
            return;
        }
    }
}
