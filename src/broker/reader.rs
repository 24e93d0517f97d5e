//! The thread that reads tasks from the store for the broker, so that the broker never waits for the disk.

use crossbeam_channel::Receiver;
use log::warn;

use std::time::{Duration, Instant};

use super::core::{Counted, GroupId};
use crate::store::{Backlog, BacklogPage, PAGE_BYTES, Reader, StoreError};
use crate::task::{Task, TaskId};

/// How long deliveries wait for what is counted. One step may take longer.
const COUNTING: Duration = Duration::from_millis(5);

/// Texts that are read and handed over at once, at first; four times as many while these are short. The next ones are read when the
/// broker has room for them.
const AT_FIRST: usize = 16;

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
/// `answer` takes the bytes of the texts as well.
pub(super) fn run(mut reader: Box<dyn Reader>, jobs: &Receiver<ReadJob>, answer: impl Fn(ReadAnswer, usize) -> bool) {
    fn or_log<T>(result: Result<T, StoreError>) -> Option<T> {
        result.inspect_err(|e| warn!("reading tasks for delivery failed, trying again in a second: {e}")).ok()
    }
    for job in jobs {
        let weigh = |tasks: &[Task]| tasks.iter().map(|task| task.spec.weight()).sum::<usize>();
        let listening = match job {
            ReadJob::Fetch(group, query) => {
                let page = or_log(reader.backlog(&query));
                let bytes = page.as_ref().map_or(0, |page| weigh(&page.tasks));
                answer(ReadAnswer::Fetched(group, query, page), bytes)
            }
            ReadJob::Load(group, ids) => {
                let (mut left, mut count, mut listening) = (&ids[..], AT_FIRST, true);
                while listening && !left.is_empty() {
                    let (now, later) = left.split_at(count.min(left.len()));
                    let tasks = or_log(reader.tasks_by_id(now));
                    let bytes = tasks.as_ref().map_or(0, |tasks| weigh(tasks));
                    listening = answer(ReadAnswer::Loaded(group, now.to_vec(), tasks), bytes);
                    (left, count) = (later, if bytes < PAGE_BYTES { count * 4 } else { AT_FIRST });
                }
                listening
            }
            ReadJob::Count(asked) => {
                let counted = or_log(count(reader.as_mut(), &asked));
                answer(ReadAnswer::Counted(asked, counted), 0)
            }
        };
        if !listening {
            return;
        }
    }
}
