//! The handler threads, what they take and what they return.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use serde::Serialize;

use super::ledger::CopyNumber;
use super::progress::{Progress, Said};
use super::revocation::{Revocation, Revoked};
use super::stopper::{Stopped, Stopper};
use super::{Event, Observer};
use crate::attachment::{Attachment, Headers};
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
    /// How many attempts at it were spent before this one: work was begun, here or elsewhere. Deliveries of which nothing was
    /// begun do not count. 0 as well if the server does not say.
    pub spent: u32,
    /// Its idempotency key; empty if it has none.
    pub key: String,
    /// How long work on it may take, as its submitter said.
    pub time_limit: Option<TimeLimit>,
    /// How many attempts the task has, as it or its group says; 0 if that is the server's setting, or it does not say.
    pub max_attempts: u32,
    /// The connection it came over. A result without an id means something on that connection only.
    pub(super) connection: u64,
    /// Of the worker it came to.
    pub(super) stopper: Stopper,
    /// What the ledger knows it by.
    pub(super) copy: CopyNumber,
    /// When its time is over, on the clock of this machine.
    pub(super) expires: Option<Instant>,
    /// When work on it has taken as long as it may. Set when it begins.
    pub(super) deadline: Option<Instant>,
    pub(super) attachment: Attachment,
    pub(super) revocation: Revocation,
    pub(super) progress: Progress,
}

/// How long work on a task may take, and what comes of it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimit {
    /// From when its handler begins.
    pub lasts: Duration,
    /// [`Outcome::Retry`], or [`Outcome::Failed`].
    pub then: Outcome,
}

impl Task {
    /// What its submitter says of it beside the text, as `content-type`.
    pub fn headers(&self) -> &Headers {
        self.attachment.headers()
    }

    /// The bytes that came with it. A task with such may have no text.
    pub fn data(&self) -> &[u8] {
        self.attachment.data()
    }

    /// When work on it has taken as long as it may, if there is a limit. A handler should have ended by then, with the outcome that the
    /// [limit](Task::time_limit) names. For one that has not ten seconds later, the worker says so to the server, and the task is
    /// [revoked](Revoked::TimedOut).
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the worker was asked to stop. What would take long may then end early, with [`Reply::retry`].
    pub fn is_stopping(&self) -> bool {
        self.stopper.is_stopping()
    }

    /// Whether the task was taken from this client meanwhile, and why. A handler may then end early; what it says is written down
    /// as late, and changes nothing. Cheap: to be asked often.
    pub fn revoked(&self) -> Option<Revoked> {
        self.revocation.why()
    }

    /// To wait for that beside other things: nothing is ever sent on it, and it disconnects when the task is revoked.
    pub fn revocation(&self) -> &Receiver<Infallible> {
        self.revocation.over()
    }

    /// Says how far it is, from 0 to 1, and perhaps what is being done now: operators see the newest of each, of the words up to 256
    /// bytes, for as long as the task is worked on. Cheap: it goes out with others, five times a second at most. A server that gives
    /// no ids is not told.
    pub fn progress(&self, part: f32, text: impl Into<String>) {
        if self.id != 0 {
            self.progress.say(self.id, self.copy, Said { part: Some(part), text: text.into() });
        }
    }

    /// Shows what work prints to operators who watch it (`contactctl task ID --follow`). The last 64 KiB are kept for those who come later;
    /// nothing goes out while nobody watches. A server that gives no ids is not told.
    pub fn print(&self, bytes: &[u8]) {
        if self.id != 0 {
            self.progress.print(self.id, self.copy, bytes);
        }
    }

    /// What it takes in memory while it waits, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + self.attachment.bytes()
    }

    fn is_expired(&self) -> bool {
        self.expires.is_some_and(|at| Instant::now() >= at)
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
    /// Headers and data beside the text. Text and data that are longer than the server takes: the data is left out, and the text says so.
    pub attachment: Attachment,
}

impl Reply {
    /// The task is finished.
    pub fn done(text: impl Into<String>) -> Reply {
        Reply::new(Outcome::Done, text.into())
    }

    /// The task is to be tried again, here or elsewhere, after `delay`.
    pub fn retry(text: impl Into<String>, delay: Duration) -> Reply {
        Reply { delay, ..Reply::new(Outcome::Retry, text.into()) }
    }

    /// The task will never work.
    pub fn failed(text: impl Into<String>) -> Reply {
        Reply::new(Outcome::Failed, text.into())
    }

    /// The same with these headers, and these bytes beside its text.
    pub fn with(self, headers: Headers, data: Vec<u8>) -> Reply {
        Reply { attachment: Attachment::new(headers, data), ..self }
    }

    fn new(outcome: Outcome, text: String) -> Reply {
        Reply { outcome, text, delay: Duration::ZERO, attachment: Attachment::default() }
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

/// What a handler thread says of a task.
pub(super) enum Finished {
    /// What came of it, and the connection it came over.
    Handled(pb::Result, CopyNumber, u64),
    /// It is begun, and should end by then, or else this comes of it.
    Limited(TaskId, CopyNumber, Instant, TimeLimit),
    /// It was not begun: the worker stops, or the task's time is over, or it was to be given back.
    NotStarted(TaskId, CopyNumber),
    /// It is about to be begun. The answer comes when the server was told; without one, the task is not to be begun.
    Begins(TaskId, CopyNumber, Sender<()>),
}

/// What a handler thread owns.
pub(super) struct HandlerThread {
    pub(super) tasks: Receiver<Task>,
    pub(super) finished: Sender<Finished>,
    /// Whether the server is told before a task is begun.
    pub(super) announces: bool,
    pub(super) stopped: Stopped,
    pub(super) handler: HandlerFn,
    pub(super) observer: Observer,
}

impl HandlerThread {
    /// Handles tasks until the channel ends. Waits while the pipe takes no results.
    pub(super) fn run(self) {
        for mut task in &self.tasks {
            let stopped = self.stopped.try_recv() == Err(TryRecvError::Disconnected);
            let given_up = stopped || task.is_expired() || task.revoked().is_some();
            let begun = !given_up && self.may_begin(&task);
            let goes_on = if begun {
                self.begin(&mut task) && self.handle(&task)
            } else {
                self.say(Finished::NotStarted(task.id, task.copy))
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Has the server told that the task is begun, and waits until that is on its way. A task without an id cannot be spoken of.
    fn may_begin(&self, task: &Task) -> bool {
        if !self.announces || task.id == 0 {
            return true;
        }
        let (go, begin) = bounded(1);
        self.say(Finished::Begins(task.id, task.copy, go)) && begin.recv().is_ok()
    }

    /// Its time begins. False: the pipe has ended.
    fn begin(&self, task: &mut Task) -> bool {
        let Some(limit) = task.time_limit else { return true };
        let deadline = Instant::now() + limit.lasts;
        task.deadline = Some(deadline);
        self.say(Finished::Limited(task.id, task.copy, deadline, limit))
    }

    /// False: the pipe has ended.
    fn say(&self, finished: Finished) -> bool {
        self.finished.send(finished).is_ok()
    }

    /// The result is on its way before it is shown: whoever watches may be slow.
    fn handle(&self, task: &Task) -> bool {
        let started = Instant::now();
        // A handler that panics fails its task, not the worker.
        let reply = catch_unwind(AssertUnwindSafe(|| (self.handler)(task))).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            Reply::failed(format!("the handler panicked: {}", said.unwrap_or("without a message")))
        });
        let ms = started.elapsed().as_millis() as u64;
        let (outcome, ret) = (reply.outcome, reply.text.clone());
        let printed = task.progress.printed().take(Instant::now()).unwrap_or_default();
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
            headers: reply.attachment.headers().iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            data: reply.attachment.data().to_vec(),
            delay_ms: u32::try_from(reply.delay.as_millis()).unwrap_or(u32::MAX),
            output: printed.bytes,
            output_from: printed.from,
            ..Default::default()
        };
        let goes_on = self.say(Finished::Handled(result, task.copy, task.connection));
        let (id, attempt) = (task.id, task.attempt);
        (self.observer)(&Event::Task { id, attempt, task: &task.text, outcome, ret: &ret, ms });
        goes_on
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;
    use crate::client::Stopper;

    #[test]
    fn a_handler_begins_when_it_is_told_to_and_not_with_what_has_expired_or_was_given_back() {
        let (tasks, waiting) = bounded(3);
        let (finished, said) = bounded(3);
        let (_stopper, stopped) = Stopper::new();
        let begun = Arc::new(AtomicBool::new(false));
        let handler: HandlerFn = Arc::new({
            let begun = begun.clone();
            move |_| {
                begun.store(true, Ordering::SeqCst);
                "done".into()
            }
        });
        let observer: Observer = Arc::new(|_| {});
        let thread = HandlerThread { tasks: waiting, finished, announces: true, stopped, handler, observer };
        let running = thread::spawn(move || thread.run());
        let task = |id, expires| Task {
            id,
            attempt: 1,
            text: String::new(),
            spent: 0,
            key: String::new(),
            time_limit: None,
            deadline: None,
            attachment: Attachment::default(),
            max_attempts: 0,
            connection: 1,
            stopper: Stopper::new().0,
            copy: id,
            expires,
            progress: Progress::new(futures::task::noop_waker()),
            revocation: Revocation::new(),
        };
        tasks.send(task(1, None)).unwrap();
        tasks.send(task(2, Some(Instant::now()))).unwrap();
        tasks.send(task(3, None)).unwrap();
        let Ok(Finished::Begins(1, 1, go)) = said.recv() else { panic!("it did not ask") };
        assert!(!begun.load(Ordering::SeqCst));
        go.send(()).unwrap();
        assert!(matches!(said.recv(), Ok(Finished::Handled(..))));
        assert!(begun.swap(false, Ordering::SeqCst));
        assert!(matches!(said.recv(), Ok(Finished::NotStarted(2, 2))));
        let Ok(Finished::Begins(3, 3, go)) = said.recv() else { panic!("it did not ask") };
        drop(go);
        assert!(matches!(said.recv(), Ok(Finished::NotStarted(3, 3))));
        drop(tasks);
        running.join().unwrap();
        assert!(!begun.load(Ordering::SeqCst));
    }
}
