//! Tasks submitted, delivered and settled, a second.

use std::time::Instant;

use grpcio::{CallOption, Client};

use super::args::{Work, Workers};
use super::join_set::JoinSet;
use super::load::{Goal, Plan, Worked, connect, metadata, submit, work};
use super::progress::Progress;
use super::raw::Got;
use super::report::Report;
use super::{Run, rate};
use crate::ctl::Error;

pub(super) fn run(run: &mut Run, args: &Work) -> Result<(), Error> {
    let submitter = connect(&run.env, &run.target.control, 1, &run.watch)?.remove(0);
    let group = run.group();
    let kind = run.kind(&group, args.workers.size);
    let mut progress = run.watch.progress("submitted, delivered, settled", args.tasks);
    let goal = Goal::new(u64::MAX, progress.count.clone());
    let working = WorkingClients::start(run, &group, &args.workers, &goal, || |_: &[Got]| {})?;

    let began = Instant::now();
    let plan = Plan::new(args.tasks, args.duration);
    let mut running = JoinSet::new(1);
    let batch = args.workers.batch;
    running.spawn(&submitter, submit(submitter.clone(), kind, batch, plan, Default::default()));
    let submitted = running.wait(&mut progress)?.iter().map(|(tasks, _)| tasks).sum();
    goal.set(submitted);
    let sum = working.wait(&mut progress)?;
    let took = sum.ended - began;
    run.report.number("tasks_per_s", rate(sum.settled, took), "tasks submitted, delivered and settled a second");
    run.report.count("tasks", submitted, "tasks accepted");
    sum.report(&mut run.report, progress.count.load(std::sync::atomic::Ordering::SeqCst));
    run.report.number("seconds", took.as_secs_f64(), "seconds");
    run.remove(&group)
}

/// The workers of one group.
pub(super) struct WorkingClients {
    running: JoinSet<Worked>,
    /// They end with their connections.
    _clients: Vec<Client>,
}

impl WorkingClients {
    /// Starts them. `see` makes for each of them what is shown its tasks.
    pub(super) fn start<S: FnMut(&[Got]) + Send + 'static>(
        run: &Run,
        group: &str,
        args: &Workers,
        goal: &std::sync::Arc<Goal>,
        see: impl Fn() -> S,
    ) -> Result<WorkingClients, Error> {
        let clients = connect(&run.env, &run.target.contact, args.clients, &run.watch)?;
        let mut running = JoinSet::new(clients.len());
        for (number, client) in clients.iter().enumerate() {
            let options = options(group, number, args)?;
            running.spawn(client, work(client.clone(), options, goal.clone(), see()));
        }
        Ok(WorkingClients { running, _clients: clients })
    }

    /// Waits until all they did is on disk.
    pub(super) fn wait(self, progress: &mut Progress) -> Result<Sum, Error> {
        let worked = self.running.wait(progress)?;
        Ok(Sum {
            delivered: worked.iter().map(|one| one.delivered).sum(),
            settled: worked.iter().map(|one| one.settled).sum(),
            ended: worked.iter().map(|one| one.ended).max().unwrap_or_else(Instant::now),
        })
    }
}

fn options(group: &str, number: usize, args: &Workers) -> Result<CallOption, Error> {
    metadata(&[
        ("contact-client", &format!("{group}-{number}")),
        ("contact-group", group),
        // What a running server has for everyone is not measured.
        ("contact-from", "new"),
        ("contact-window", &args.window.to_string()),
        ("contact-batch", &args.batch.to_string()),
    ])
}

/// What came of all workers together.
pub(super) struct Sum {
    pub(super) delivered: u64,
    pub(super) settled: u64,
    pub(super) ended: Instant,
}

impl Sum {
    /// `once`: how many different tasks were delivered.
    pub(super) fn report(&self, report: &mut Report, once: u64) {
        report.count("delivered", self.delivered, "deliveries");
        report.count("delivered_twice", self.delivered - once, "of them again");
        report.count("settled", self.settled, "results settled");
    }
}
