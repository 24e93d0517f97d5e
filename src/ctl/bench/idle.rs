//! What clients cost that wait for a task, and what those notice that work beside them.

use std::time::{Duration, Instant};

use super::args::{Idle, Latency, Workers};
use super::clients::{Names, gather};
use super::{Run, latency, rate};
use crate::ctl::Error;

pub(super) fn run(run: &mut Run, args: &Idle) -> Result<(), Error> {
    let before = run.target.vitals();
    let began = Instant::now();
    let names = if args.idle.anonymous { Names::Anonymous } else { Names::Named };
    let waiting = gather(run, args.idle.clients, names, &args.idle.reach)?;
    let took = began.elapsed();
    let clients = waiting.len() as u64;
    run.report.count("clients", clients, "clients connected, each waiting for a task");
    run.report.number("connected_s", took.as_secs_f64(), "seconds until all of them were");
    run.report.number("connects_per_s", rate(clients, took), "of them came a second");
    if let (Some(before), Some(after)) = (before, run.target.vitals()) {
        let each = after.rss_kb.saturating_sub(before.rss_kb) as f64 / clients as f64;
        run.report.number("kb_per_client", each, "kB of the server's memory each");
    }
    let (before, began) = (run.target.vitals(), Instant::now());
    run.watch.pause("seconds of rest", args.rest)?;
    if let (Some(before), Some(after)) = (before, run.target.vitals())
        && args.rest > Duration::ZERO
    {
        let busy = (after.cpu - before.cpu).as_secs_f64() / began.elapsed().as_secs_f64();
        run.report.number("cpu_percent", busy * 100.0, "% of a core the server took while nothing happened");
    }
    if args.rate > 0 {
        let beside = Latency { rate: args.rate, duration: args.duration, workers: Workers::default() };
        latency::run(run, &beside)?;
    }
    drop(waiting);
    Ok(())
}
