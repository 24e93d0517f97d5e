//! Tasks accepted a second.

use std::time::Instant;

use super::args::Submit;
use super::join_set::JoinSet;
use super::load::{Plan, connect, submit};
use super::{Run, rate};
use crate::ctl::Error;

pub(super) fn run(run: &mut Run, args: &Submit) -> Result<(), Error> {
    let clients = connect(&run.env, &run.target.control, args.clients, &run.watch)?;
    let kind = run.kind(&run.group(), args.size);
    let mut progress = run.watch.progress("submitting", args.tasks);
    let began = Instant::now();
    let plan = Plan::new(args.tasks, args.duration);
    let mut running = JoinSet::new(clients.len());
    for client in &clients {
        let count = progress.count.clone();
        running.spawn(client, submit(client.clone(), kind.clone(), args.batch, plan.clone(), count));
    }
    let accepted = running.wait(&mut progress)?;
    let tasks = accepted.iter().map(|(tasks, _)| tasks).sum();
    let took = accepted.iter().map(|(_, at)| *at).max().map_or_else(|| began.elapsed(), |at| at - began);
    run.report.number("tasks_per_s", rate(tasks, took), "tasks accepted a second");
    run.report.count("tasks", tasks, "tasks accepted");
    run.report.number("seconds", took.as_secs_f64(), "seconds");
    Ok(())
}
