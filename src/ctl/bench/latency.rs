//! From submitting a task to a worker's having it, at a rate that does not wait for the server.

use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::{SinkExt as _, StreamExt as _};
use grpcio::{CallOption, WriteFlags};
use hdrhistogram::Histogram;

use super::args::Latency;
use super::crew::Crew;
use super::lean::{self, Encoded, Got};
use super::load::{Goal, connect, failed};
use super::work::Team;
use super::{Run, rate};
use crate::ctl::Error;

pub(super) fn run(run: &mut Run, args: &Latency) -> Result<(), Error> {
    let total = (args.rate as f64 * args.duration.as_secs_f64()).max(1.0) as u64;
    let submitter = connect(&run.env, &run.target.control, 1, &run.watch)?.remove(0);
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
    let team = Team::start(run, &group, &args.workers, &goal, see)?;

    let call = submitter.duplex_streaming(&lean::SUBMIT, CallOption::default());
    let (mut sink, mut answers) = call.map_err(failed("submitting"))?;
    let mut answered = Crew::new(1);
    answered.spawn(&submitter, async move {
        let mut accepted = 0;
        while let Some(answer) = answers.next().await {
            accepted += u64::from(answer.map_err(failed("submitting"))?.count);
        }
        Ok((accepted, Instant::now()))
    });
    let mut sent = 0;
    while let Some(due) = schedule.wait(sent, total, args.workers.batch.into()) {
        sent = due.end;
        let request = Encoded::new(&kind.request(due));
        if block_on(sink.feed((request, WriteFlags::default()))).is_err() {
            break; // The answers say why.
        }
        progress.show()?;
    }
    let _ = block_on(sink.close());
    let accepted: u64 = answered.wait(&mut progress)?.iter().map(|(accepted, _)| accepted).sum();
    let sum = team.wait(&mut progress)?;
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
struct Schedule {
    start: Instant,
    rate: f64,
}

impl Schedule {
    fn due(self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// Waits until task `next` is due, and returns all that are then. `None`: there are no more.
    fn wait(self, next: u64, total: u64, most: u64) -> Option<Range<u64>> {
        if next >= total {
            return None;
        }
        thread::sleep(self.due(next).saturating_duration_since(Instant::now()));
        let passed = Instant::now().saturating_duration_since(self.start).as_secs_f64();
        let due = (passed * self.rate) as u64 + 1;
        Some(next..due.clamp(next + 1, next + most).min(total))
    }
}
