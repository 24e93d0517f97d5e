//! Tasks that are not due: what they cost, and how soon a server is there again that has them.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::args::Delayed;
use super::clients::{Crowd, Names, Settle, gather};
use super::load::Kind;
use super::{Run, millis, work};
use crate::ctl::Error;
use crate::ctl::link::Link;
use crate::wire::control as pb;

/// When they are due: long after the measurement.
const DELAY: Duration = Duration::from_secs(3600);
/// Most tasks in a request.
const BATCH: u64 = 1000;

pub(super) fn run(run: &mut Run, args: &Delayed) -> Result<(), Error> {
    let before = work::once(run, run.kind("before", args.workers.size), &args.workers, args.beside, None)?;
    let waiting = gather(run, args.groups, Names::Named, &args.reach)?;
    let link = run.link()?;
    let crowd = Crowd::start(waiting, 1, Settle::AtOnce);
    let empty = run.target.vitals();

    let mut progress = run.watch.progress("submitting", args.tasks);
    let groups = u64::from(args.groups);
    for group in 0..groups {
        let to = Names::of(&run.group(), group as u32);
        let kind = Kind { delay: Some(DELAY.as_millis() as u64), ..run.kind(&to, args.workers.size) };
        // As many for each, and what is left over for the first ones.
        let mut left = args.tasks / groups + u64::from(group < args.tasks % groups);
        while left > 0 {
            let batch = left.min(BATCH);
            link.wait(link.client.submit(&kind.request(0..batch), Link::answer_soon()))?;
            left -= batch;
            progress.count.fetch_add(batch, SeqCst);
            progress.show()?;
        }
    }
    drop(progress);
    // Tasks are taken up in their order: who has this one has taken up all that came before it.
    let mut progress = run.watch.progress("taken up", args.groups.into());
    crowd.submit(&link, &run.kind("", args.workers.size), 1)?;
    crowd.all_have_it(&mut progress)?;
    let full = run.target.vitals();
    let beside = work::once(run, run.kind("beside", args.workers.size), &args.workers, args.beside, None)?;
    let crowd = crowd.end(&mut progress)?;
    let clients = link.wait(link.client.list_clients(&pb::ListClientsRequest::new(), Link::answer_soon()))?.clients;
    let held = clients.iter().map(|client| client.in_flight).sum::<u64>();
    if held > 0 {
        return Err(Error::NotMeasured(format!("clients hold {held} tasks, though none was due")));
    }
    drop((link, crowd));

    let ready = run.ready_after_kill()?;
    run.report.number("ready_ms", millis(ready), "ms from the start after a SIGKILL to the first answer");
    if let (Some(empty), Some(full)) = (empty, full) {
        let more = full.rss_kb.saturating_sub(empty.rss_kb) as f64 / 1024.0;
        run.report.number("delayed_mb", more, "MB of memory the delayed tasks took");
    }
    run.report.number("tasks_per_s", beside.rate(), "tasks submitted, delivered and settled a second beside them");
    run.report.number("beside_ratio", beside.rate() / before.rate(), "of the rate before there were any");
    run.report.count("groups", groups, "groups that they are for");
    run.report.count("tasks", args.tasks, "tasks that are due in an hour");
    beside.sum.report(&mut run.report, beside.once);
    Ok(())
}
