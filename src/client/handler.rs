//! The handler threads, what they take and what they return.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use serde::Serialize;

use super::stopper::{Stopped, Stopper};
use super::{Event, Observer};
use crate::task::TaskId;
use crate::wire::contact as pb;

/// A task, as a handler gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its position in the server's log, from 1; 0 if the server gives no ids.
    pub id: TaskId,
    /// Which delivery of it this is, from 1; 0 if the server does not count them.
    pub attempt: u32,
    /// What to do.
    pub text: String,
    /// The connection it came over. A result without an id means something on that connection only.
    pub(super) connection: u64,
    /// Of the worker it came to.
    pub(super) stopper: Stopper,
}

impl Task {
    /// Whether the worker was asked to stop. What would take long may then end early, with [`Reply::retry`].
    pub fn is_stopping(&self) -> bool {
        self.stopper.is_stopping()
    }
}

/// What came of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    /// Finished.
    Done,
    /// Not now: the task is to be tried again.
    Retry,
    /// Will never work: the task goes to the dead letters.
    Failed,
}

/// What a handler says about a task. A `String` or `&str` becomes [`Reply::done`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What came of it.
    pub outcome: Outcome,
    /// What is sent to the server with the outcome: the output, or the error.
    pub text: String,
    /// With [`Outcome::Retry`]: how long the server is to wait before the next attempt, in whole milliseconds.
    pub delay: Duration,
}

impl Reply {
    /// The task is finished.
    pub fn done(text: impl Into<String>) -> Reply {
        Reply { outcome: Outcome::Done, text: text.into(), delay: Duration::ZERO }
    }

    /// The task is to be tried again, here or elsewhere, after `delay`.
    pub fn retry(text: impl Into<String>, delay: Duration) -> Reply {
        Reply { outcome: Outcome::Retry, text: text.into(), delay }
    }

    /// The task will never work.
    pub fn failed(text: impl Into<String>) -> Reply {
        Reply { outcome: Outcome::Failed, text: text.into(), delay: Duration::ZERO }
    }
}

impl From<String> for Reply {
    fn from(text: String) -> Reply {
        Reply::done(text)
    }
}

impl From<&str> for Reply {
    fn from(text: &str) -> Reply {
        Reply::done(text)
    }
}

pub(super) type HandlerFn = Arc<dyn Fn(&Task) -> Reply + Send + Sync>;

/// A task that has left its handler thread.
pub(super) enum Finished {
    /// What came of it, and the connection it came over.
    Handled(pb::Result, u64),
    /// It was not started, because the worker stops.
    NotStarted(TaskId),
}

/// What a handler thread owns.
pub(super) struct HandlerThread {
    pub(super) tasks: Receiver<Task>,
    pub(super) finished: Sender<Finished>,
    pub(super) stopped: Stopped,
    pub(super) handler: HandlerFn,
    pub(super) observer: Observer,
}

impl HandlerThread {
    /// Handles tasks until the channel ends. Waits while the pipe takes no results.
    pub(super) fn run(self) {
        for task in &self.tasks {
            let stopped = self.stopped.try_recv() == Err(TryRecvError::Disconnected);
            let finished = if stopped { Finished::NotStarted(task.id) } else { self.handle(task) };
            if self.finished.send(finished).is_err() {
                return;
            }
        }
    }

    fn handle(&self, task: Task) -> Finished {
        let started = Instant::now();
        // A handler that panics fails its task, not the worker.
        let reply = catch_unwind(AssertUnwindSafe(|| (self.handler)(&task))).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            Reply::failed(format!("the handler panicked: {}", said.unwrap_or("without a message")))
        });
        (self.observer)(&Event::Task {
            id: task.id,
            attempt: task.attempt,
            task: &task.text,
            outcome: reply.outcome,
            ret: &reply.text,
            ms: started.elapsed().as_millis() as u64,
        });
        let result = pb::Result {
            id: task.id,
            attempt: task.attempt,
            outcome: match reply.outcome {
                Outcome::Done => pb::Outcome::DONE,
                Outcome::Retry => pb::Outcome::RETRY,
                Outcome::Failed => pb::Outcome::FAILED,
            }
            .into(),
            ret: reply.text,
            delay_ms: u32::try_from(reply.delay.as_millis()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        Finished::Handled(result, task.connection)
    }
}
