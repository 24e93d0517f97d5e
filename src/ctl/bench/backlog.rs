//! A long queue: started again on it, and worked off.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::args::{Backlog, Workers};
use super::join_set::JoinSet;
use super::load::{Goal, Plan, submit};
use super::raw::Got;
use super::work::{Sum, WorkingClients};
use super::{Run, millis, rate};
use crate::ctl::Error;

/// Tasks of the short queue whose rate the long one's is compared with.
const SHORT: u64 = 100_000;
/// Tasks in a request. Submitting them is not measured.
const BATCH: u32 = 1000;

pub(super) fn run(run: &mut Run, args: &Backlog) -> Result<(), Error> {
    // The same work on a server with nothing else in its log.
    let short = args.tasks.min(SHORT);
    fill(run, "short", args.workers.size, short)?;
    let (empty, _, _) = drain(run, "short", &args.workers, short)?;

    let began = Instant::now();
    fill(run, "long", args.workers.size, args.tasks)?;
    let filled = began.elapsed();
    let ready = run.ready_after_kill()?;
    let drained = args.drain.min(args.tasks);
    let (full, sum, once) = drain(run, "long", &args.workers, drained)?;

    run.report.number("ready_ms", millis(ready), "ms from the start after a SIGKILL to the first answer");
    run.report.number("drain_ratio", full / empty, "of the rate at which a short queue is worked off");
    run.report.number("tasks_per_s", full, "tasks delivered and settled a second, of the long queue");
    run.report.number("empty_tasks_per_s", empty, "the same, of the short queue");
    run.report.number("submitted_per_s", rate(args.tasks, filled), "tasks accepted a second, as the queue grew");
    run.report.count("tasks", args.tasks, "tasks waited");
    sum.report(&mut run.report, once);
    Ok(())
}

/// Submits that many tasks for a group, or for everyone.
pub(super) fn fill(run: &Run, group: &str, size: u32, tasks: u64) -> Result<(), Error> {
    let submitter = run.submitters(1)?.remove(0);
    let mut progress = run.watch.progress("submitting", tasks);
    let mut running = JoinSet::new(1);
    let (kind, plan) = (run.kind(group, size), Plan::new(tasks, None));
    running.spawn(&submitter, submit(submitter.clone(), kind, BATCH, plan, progress.count.clone()));
    running.wait(&mut progress).map(drop)
}

/// Works off that many tasks. Returns the rate, what came of it, and how many different ones there were.
fn drain(run: &Run, group: &str, workers: &Workers, tasks: u64) -> Result<(f64, Sum, u64), Error> {
    let mut progress = run.watch.progress("delivered, settled", tasks);
    let goal = Goal::new(tasks, progress.count.clone());
    let began = Instant::now();
    let working = WorkingClients::start(run, group, workers, &goal, || |_: &[Got]| {})?;
    let sum = working.wait(&mut progress)?;
    Ok((rate(sum.settled, sum.ended - began), sum, progress.count.load(SeqCst)))
}
