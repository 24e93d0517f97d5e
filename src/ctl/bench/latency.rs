//! From submitting a task to a worker's having it, at a rate that does not wait for the server.

use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use futures::executor::block_on;
use futures::{SinkExt as _, StreamExt as _};
use grpcio::{CallOption, WriteFlags};
use hdrhistogram::Histogram;

use super::args::Latency;
use super::join_set::JoinSet;
use super::load::{Goal, UNDER_WAY, failed};
use super::progress::LOOK;
use super::raw::{self, Encoded, Got};
use super::work::WorkingClients;
use super::{Run, rate};
use crate::ctl::Error;

pub(super) fn run(run: &mut Run, args: &Latency) -> Result<(), Error> {
    let total = (args.rate as f64 * args.duration.as_secs_f64()).max(1.0) as u64;
    let submitter = run.submitters(1)?.remove(0);
    let group = run.group();
    let kind = run.kind(&group, args.workers.size);
    let mut progress = run.watch.progress("submitted, delivered, settled", total);
    let goal = Goal::new(total, progress.count.clone());

    // A task is due at a time of its own, and its latency counts from then, however late it was submitted: so what the
    // server's slowness keeps us from submitting counts as well (coordinated omission).
    let schedule = Schedule { start: Instant::now() + Duration::from_millis(200), rate: args.rate as f64 };
    let latencies = Arc::new(Mutex::new(histogram()?));
    let see = || {
        let latencies = latencies.clone();
        move |tasks: &[Got]| {
            let now = Instant::now();
            let mut latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
            for task in tasks {
                latencies.saturating_record(micros(now.saturating_duration_since(schedule.due(task.number))));
            }
        }
    };
    let working = WorkingClients::start(run, &group, &args.workers, &goal, see)?;

    let call = submitter.duplex_streaming(&raw::SUBMIT, CallOption::default());
    let (mut sink, mut answers) = call.map_err(failed("submitting"))?;
    let (answer_came, answered) = bounded(UNDER_WAY);
    let mut answering = JoinSet::new(1);
    answering.spawn(&submitter, async move {
        let mut accepted = 0;
        while let Some(answer) = answers.next().await {
            accepted += u64::from(answer.map_err(failed("submitting"))?.count);
            // There is room for as many as are under way.
            let _ = answer_came.try_send(());
        }
        Ok(accepted)
    });
    let mut queue = Queue { schedule, total, most: args.workers.batch.into(), sent: 0, under_way: 0 };
    while queue.sent < total {
        queue.under_way -= answered.try_iter().count();
        if let Some(due) = queue.take(Instant::now()) {
            let request = Encoded::new(&kind.request(due));
            if block_on(sink.feed((request, WriteFlags::default()))).is_err() {
                break; // The answers say why.
            }
        } else {
            let latest = Instant::now() + LOOK;
            match answered.recv_deadline(queue.next_due().map_or(latest, |due| due.min(latest))) {
                Ok(()) => queue.under_way -= 1,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        progress.show()?;
    }
    let _ = block_on(sink.close());
    let accepted: u64 = answering.wait(&mut progress)?.iter().sum();
    let sum = working.wait(&mut progress)?;
    let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
    let millis = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    run.report.number("p50_ms", millis(0.5), "ms from submission to the worker, half of the tasks");
    run.report.number("p99_ms", millis(0.99), "ms, 99 % of the tasks");
    run.report.number("p999_ms", millis(0.999), "ms, 99.9 % of the tasks");
    run.report.number("max_ms", latencies.max() as f64 / 1000.0, "ms, all tasks");
    run.report.number("tasks_per_s", rate(sum.settled, sum.ended - schedule.start), "tasks settled a second");
    run.report.count("rate", args.rate, "tasks due a second");
    run.report.count("tasks", accepted, "tasks accepted");
    sum.report(&mut run.report, progress.count.load(SeqCst));
    run.remove(&group)
}

pub(super) fn histogram() -> Result<Histogram<u64>, Error> {
    // From 1 µs to an hour, three digits.
    Histogram::new_with_bounds(1, 3_600_000_000, 3).map_err(|e| Error::NotMeasured(e.to_string()))
}

pub(super) fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

/// When each task is to be submitted.
#[derive(Clone, Copy)]
pub(super) struct Schedule {
    pub(super) start: Instant,
    /// Tasks a second.
    pub(super) rate: f64,
}

impl Schedule {
    pub(super) fn due(self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// How many are due by then.
    fn due_by(self, now: Instant) -> u64 {
        let Some(passed) = now.checked_duration_since(self.start) else { return 0 };
        (passed.as_secs_f64() * self.rate) as u64 + 1
    }
}

/// What a producer that cares for its latency does with tasks that become due: a request goes out when none is under way, or
/// when it is full. So a task goes out at once where the server keeps up, and requests grow with the rate where it must.
struct Queue {
    schedule: Schedule,
    total: u64,
    /// Tasks in a full request.
    most: u64,
    sent: u64,
    /// Requests without an answer.
    under_way: usize,
}

impl Queue {
    /// The tasks of the request that is to go out now.
    fn take(&mut self, now: Instant) -> Option<Range<u64>> {
        let due = self.schedule.due_by(now).min(self.total);
        let tasks = self.sent..due.min(self.sent + self.most);
        let is_full = due >= self.sent + self.most;
        let goes = !tasks.is_empty() && (self.under_way == 0 || is_full && self.under_way < UNDER_WAY);
        goes.then(|| {
            self.sent = tasks.end;
            self.under_way += 1;
            tasks
        })
    }

    /// When a request goes out though no answer comes. `None`: it takes an answer.
    fn next_due(&self) -> Option<Instant> {
        match self.under_way {
            0 => Some(self.schedule.due(self.sent)),
            n if n < UNDER_WAY => Some(self.schedule.due(self.sent + self.most - 1)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task is due each millisecond, from `start` on; ten in all, four in a request.
    fn queue() -> (Queue, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let schedule = Schedule { start, rate: 1000.0 };
        let at = move |millis| start + Duration::from_micros(millis * 1000 + 1);
        (Queue { schedule, total: 10, most: 4, sent: 0, under_way: 0 }, at)
    }

    #[test]
    fn a_task_goes_out_when_it_is_due_if_no_request_is_under_way() {
        let (mut queue, at) = queue();
        assert_eq!(queue.take(at(0)), Some(0..1));
        queue.under_way = 0;
        assert_eq!(queue.take(at(0)), None);
        assert_eq!(queue.next_due(), Some(queue.schedule.due(1)));
        assert_eq!(queue.take(at(1)), Some(1..2));
    }

    #[test]
    fn what_becomes_due_meanwhile_goes_into_the_next_request() {
        let (mut queue, at) = queue();
        assert_eq!(queue.take(at(0)), Some(0..1));
        assert_eq!(queue.take(at(3)), None);
        queue.under_way = 0;
        assert_eq!(queue.take(at(3)), Some(1..4));
    }

    #[test]
    fn a_full_request_waits_for_no_answer_and_so_many_are_under_way() {
        let (mut queue, at) = queue();
        assert_eq!(queue.take(at(0)), Some(0..1));
        assert_eq!(queue.next_due(), Some(queue.schedule.due(4)));
        assert_eq!(queue.take(at(4)), Some(1..5));
        queue.under_way = UNDER_WAY;
        assert_eq!((queue.take(at(20)), queue.next_due()), (None, None));
        queue.under_way = UNDER_WAY - 1;
        assert_eq!(queue.take(at(20)), Some(5..9));
        queue.under_way = 0;
        assert_eq!(queue.take(at(20)), Some(9..10), "the last ones");
        assert_eq!(queue.take(at(20)), None);
    }
}
