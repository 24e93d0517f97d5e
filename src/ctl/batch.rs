//! Requests, made of lines.

use std::io;

use super::Error;
use super::args::{OnTimeout, Priority, Submit, TaskOptions};
use super::lines::Line;
use crate::task::Time;
use crate::wire::control as pb;

/// Bytes at which a request takes no further line.
const LARGE: usize = 1 << 20;
/// Most bytes that one line makes, as often as it is submitted: a server takes requests of 16 MiB.
const LINE: usize = 15 << 20;
/// What a task is counted as beside its text, its group and its key.
const OVERHEAD: usize = 32;

/// What all tasks of a submission have in common.
pub(super) struct Spec {
    /// The times are relative to the moment a task is read: a submission from a pipe may go on for days.
    not_before: When,
    expires_at: When,
    /// Each line is a task for each of them; for every group, if there is none.
    to: Vec<String>,
    like: pb::NewTask,
}

/// A point in time.
enum When {
    At(Time),
    After(std::time::Duration),
    Unset,
}

impl When {
    fn new(at: Option<Time>, after: Option<std::time::Duration>) -> When {
        at.map(When::At).or(after.map(When::After)).unwrap_or(When::Unset)
    }

    /// As it is on the wire: a time, and for a duration that as well, which goes before the time. The time is by this machine's
    /// clock, for servers that know no durations.
    fn on_the_wire(&self, now: Time) -> (i64, Option<u64>) {
        match *self {
            When::At(time) => (time.0, None),
            When::After(duration) => (now.after(duration).0, Some(millis(duration))),
            When::Unset => (0, None),
        }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl TaskOptions {
    /// A task without its text, and without the group and the times that may differ from one to the next.
    pub(super) fn like(&self) -> Result<pb::NewTask, Error> {
        let priority = match self.priority {
            Priority::High => pb::Priority::HIGH,
            Priority::Normal => pb::Priority::NORMAL,
            Priority::Low => pb::Priority::LOW,
        };
        Ok(pb::NewTask {
            groups: if self.together { self.to.clone() } else { Vec::new() },
            select: self.select.clone().unwrap_or_default(),
            max_attempts: self.max_attempts.unwrap_or(0),
            retry: self.retry.clone().unwrap_or_default(),
            timeout_ms: self.task_timeout.unwrap_or(0),
            timeout_fails: self.on_timeout == OnTimeout::Failed,
            priority: priority.into(),
            lane: self.lane.clone().unwrap_or_default(),
            replace: self.replace.clone().unwrap_or_default(),
            quiet_ms: self.quiet.map(millis),
            max_wait_ms: self.max_wait.map(millis),
            headers: self.beside.headers()?,
            data: self.beside.data()?,
            ..Default::default()
        })
    }
}

impl Spec {
    pub(super) fn new(submit: &Submit) -> Result<Spec, Error> {
        let TaskOptions { to, together, delay, ttl, .. } = &submit.task;
        Ok(Spec {
            not_before: When::new(submit.not_before, *delay),
            expires_at: When::new(submit.expires_at, *ttl),
            to: if to.is_empty() || *together { vec![String::new()] } else { to.clone() },
            like: pb::NewTask { key: submit.key.clone().unwrap_or_default(), ..submit.task.like()? },
        })
    }

    /// What each task takes in a request beside its text, in bytes.
    fn beside(&self) -> usize {
        let headers = self.like.headers.iter().map(|(key, value)| key.len() + value.len() + OVERHEAD);
        self.like.data.len() + headers.sum::<usize>()
    }

    fn tasks(&self, text: &str) -> impl Iterator<Item = pb::NewTask> {
        let now = Time::now();
        let ((not_before, delay_ms), (expires_at, ttl_ms)) =
            (self.not_before.on_the_wire(now), self.expires_at.on_the_wire(now));
        self.to.iter().map(move |to| pb::NewTask {
            task: text.to_owned(),
            to: to.clone(),
            not_before,
            delay_ms,
            expires_at,
            ttl_ms,
            ..self.like.clone()
        })
    }
}

/// A request, and the lines it was made of.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) request: pb::SubmitRequest,
    /// The number of each task's line.
    pub(super) lines: Vec<u64>,
    /// Lines that cannot be tasks, and why.
    pub(super) bad: Vec<(u64, String)>,
    pub(super) empty: u64,
    /// The number of the last line.
    pub(super) last: u64,
    /// How much of the input it took up.
    pub(super) bytes: u64,
    /// How large its request is, about, in bytes.
    size: usize,
    /// There is nothing after it. May be unset on the last one, if it is full.
    pub(super) end: bool,
}

impl Batch {
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.lines.len() + self.bad.len() >= most || self.size >= LARGE
    }

    /// Whether the next one, all of it, fits into this one, which takes at most `most` tasks.
    pub(super) fn takes(&self, next: &Batch, most: usize) -> bool {
        self.lines.len() + self.bad.len() + next.lines.len() + next.bad.len() <= most && self.size + next.size <= LARGE
    }

    /// Goes on with the next one.
    pub(super) fn append(&mut self, mut next: Batch) {
        self.request.tasks.append(&mut next.request.tasks);
        self.lines.append(&mut next.lines);
        self.bad.append(&mut next.bad);
        self.empty += next.empty;
        self.last = next.last;
        self.bytes += next.bytes;
        self.size += next.size;
        self.end = next.end;
    }
}

/// Makes batches of lines, one when it is full or when there is a lull.
pub(super) struct Batches<L> {
    lines: L,
    spec: Spec,
    most: usize,
    line: u64,
}

impl<L: Iterator<Item = io::Result<(Line, u64)>>> Batches<L> {
    /// At most `most` tasks in one.
    pub(super) fn new(lines: L, spec: Spec, most: usize) -> Self {
        Batches { lines, spec, most, line: 0 }
    }
}

impl<L: Iterator<Item = io::Result<(Line, u64)>>> Iterator for Batches<L> {
    type Item = io::Result<Batch>;

    /// After an error comes nothing more worth having.
    fn next(&mut self) -> Option<Self::Item> {
        let (mut batch, beside) = (Batch::default(), self.spec.beside());
        while !batch.is_full(self.most) {
            let (line, bytes) = match self.lines.next() {
                Some(Ok((Line::Lull, _))) if batch.last == 0 => continue,
                Some(Ok((Line::Lull, _))) => break,
                Some(Ok(line)) => line,
                Some(Err(e)) => return Some(Err(e)),
                None => {
                    batch.end = true;
                    break;
                }
            };
            self.line += 1;
            batch.last = self.line;
            batch.bytes += bytes;
            match line {
                Line::Task(text) if text.len() + beside > LINE / self.spec.to.len() => {
                    let reason = match self.spec.to.len() {
                        1 => format!("text and data are longer than {} MiB", LINE >> 20),
                        groups => format!("it is too long for {groups} groups at once: name fewer"),
                    };
                    batch.bad.push((self.line, reason));
                }
                // All of a line goes together, so that how far a submission came can be told in lines.
                Line::Task(text) => {
                    for task in self.spec.tasks(&text) {
                        let named: usize = task.groups.iter().map(|group| group.len() + 4).sum();
                        batch.size += task.task.len() + task.to.len() + task.key.len() + OVERHEAD;
                        batch.size += named + task.select.len() + beside;
                        batch.request.tasks.push(task);
                        batch.lines.push(self.line);
                    }
                }
                Line::Empty => batch.empty += 1,
                Line::Bad(reason) => batch.bad.push((self.line, reason)),
                Line::Lull => {}
            }
        }
        (batch.last != 0).then_some(Ok(batch))
    }
}
