//! Tasks accepted a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use grpcio::{CallOption, Client};
use hdrhistogram::Histogram;

use super::args::Submit;
use super::join_set::JoinSet;
use super::latency::{histogram, micros};
use super::load::{Kind, Plan, failed, submit};
use super::raw::{self, Encoded};
use super::{Run, rate};
use crate::ctl::Error;

pub(super) fn run(run: &mut Run, args: &Submit) -> Result<(), Error> {
    let clients = run.submitters(args.clients)?;
    let kind = run.kind(&run.group(), args.size);
    let mut progress = run.watch.progress("submitting", args.tasks);
    let began = Instant::now();
    let plan = Plan::new(args.tasks, args.duration);
    let mut running = JoinSet::new(clients.len());
    for client in &clients {
        let (client, kind, batch) = (client.clone(), kind.clone(), args.batch);
        let (plan, count, unary) = (plan.clone(), progress.count.clone(), args.unary);
        running.spawn(&client.clone(), async move {
            if unary {
                return call(client, kind, batch, plan, count).await;
            }
            let (tasks, at) = submit(client, kind, batch, plan, count).await?;
            Ok((tasks, at, None))
        });
    }
    let accepted = running.wait(&mut progress)?;
    let tasks = accepted.iter().map(|(tasks, ..)| tasks).sum();
    let took = accepted.iter().map(|(_, at, _)| *at).max().map_or_else(|| began.elapsed(), |at| at - began);
    run.report.number("tasks_per_s", rate(tasks, took), "tasks accepted a second");
    let mut latencies = histogram()?;
    for calls in accepted.iter().filter_map(|(.., calls)| calls.as_ref()) {
        latencies.add(calls).map_err(|e| Error::NotMeasured(e.to_string()))?;
    }
    if args.unary {
        let millis = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        run.report.number("p50_ms", millis(0.5), "ms for a call, half of them");
        run.report.number("p99_ms", millis(0.99), "ms, 99 % of the calls");
        run.report.count("calls", latencies.len(), "calls that were answered");
    }
    run.report.count("clients", args.clients.into(), "submitters");
    run.report.count("tasks", tasks, "tasks accepted");
    run.report.number("seconds", took.as_secs_f64(), "seconds");
    Ok(())
}

/// Tasks accepted, when the last was, and how long each call took.
type Called = (u64, Instant, Option<Histogram<u64>>);

/// One call after another until the plan is used up, each after the answer of the one before.
async fn call(client: Client, kind: Kind, batch: u32, plan: Arc<Plan>, count: Arc<AtomicU64>) -> Result<Called, Error> {
    let full = Encoded::new(&kind.request(0..batch.into()));
    let (mut accepted, mut latencies) = (0, histogram()?);
    loop {
        let tasks = plan.take(batch.into());
        if tasks == 0 {
            return Ok((accepted, Instant::now(), Some(latencies)));
        }
        let request = if tasks == u64::from(batch) { full.clone() } else { Encoded::new(&kind.request(0..tasks)) };
        let began = Instant::now();
        let answer = client.unary_call_async(&raw::SUBMIT_ONE, &request, CallOption::default());
        let answer = answer.map_err(failed("submitting"))?.await.map_err(failed("submitting"))?;
        latencies.saturating_record(micros(began.elapsed()));
        accepted += u64::from(answer.count);
        count.fetch_add(answer.count.into(), SeqCst);
    }
}
