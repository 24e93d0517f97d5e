//! Tasks submitted, delivered and settled, a second.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use grpcio::{CallOption, Client};

use super::args::{Work, Workers};
use super::join_set::JoinSet;
use super::load::{Goal, Kind, Plan, Worked, metadata, submit, work};
use super::progress::Progress;
use super::raw::Got;
use super::report::Report;
use super::{Run, rate};
use crate::ctl::Error;

pub(super) fn run(run: &mut Run, args: &Work) -> Result<(), Error> {
    let group = run.group();
    let kind = Kind { lanes: args.lanes, ..run.kind(&group, args.workers.size) };
    let done = once(run, kind, &args.workers, args.tasks, args.duration)?;
    run.report.number("tasks_per_s", done.rate(), "tasks submitted, delivered and settled a second");
    run.report.count("tasks", done.submitted, "tasks accepted");
    done.sum.report(&mut run.report, done.once);
    run.report.number("seconds", done.took.as_secs_f64(), "seconds");
    run.remove(&group)
}

/// What came of one submitter and the workers of one group.
pub(super) struct Done {
    pub(super) submitted: u64,
    pub(super) sum: Sum,
    /// How many different tasks were delivered.
    pub(super) once: u64,
    took: Duration,
}

impl Done {
    /// Tasks settled a second.
    pub(super) fn rate(&self) -> f64 {
        rate(self.sum.settled, self.took)
    }
}

/// Has so many tasks of a kind submitted, delivered and settled, or as many as there are in that time.
pub(super) fn once(
    run: &Run,
    kind: Kind,
    workers: &Workers,
    tasks: u64,
    duration: Option<Duration>,
) -> Result<Done, Error> {
    let submitter = run.submitters(1)?.remove(0);
    let mut progress = run.watch.progress("submitted, delivered, settled", tasks);
    let goal = Goal::new(u64::MAX, progress.count.clone());
    let working = WorkingClients::start(run, &kind.to, workers, &goal, || |_: &[Got]| {})?;

    let began = Instant::now();
    let plan = Plan::new(tasks, duration);
    let mut running = JoinSet::new(1);
    running.spawn(&submitter, submit(submitter.clone(), kind, workers.batch, plan, Default::default()));
    let submitted = running.wait(&mut progress)?.iter().map(|(tasks, _)| tasks).sum();
    goal.set(submitted);
    let sum = working.wait(&mut progress)?;
    let took = sum.ended - began;
    Ok(Done { submitted, sum, once: progress.count.load(SeqCst), took })
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
        let clients = run.clients(args.clients)?;
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
