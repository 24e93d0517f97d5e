//! One task to many clients: how soon all of them have it.

use std::sync::atomic::Ordering::SeqCst;

use super::args::Fanout;
use super::clients::{Crowd, Names, Settle, gather};
use super::{Run, millis, rate};
use crate::ctl::Error;

pub(super) fn run(run: &mut Run, args: &Fanout) -> Result<(), Error> {
    let (names, settle) = match args.idle.anonymous {
        true => (Names::Anonymous, Settle::Never),
        false => (Names::Named, Settle::AtEnd),
    };
    let waiting = gather(run, args.idle.clients, names, &args.idle.reach)?;
    let link = run.link()?;
    let kind = run.kind("", args.size);
    let crowd = Crowd::start(waiting, args.rounds, settle);
    let size = crowd.size;
    let mut progress = run.watch.progress("delivering", args.rounds.into());
    let mut rounds = Vec::new();
    for number in 1..=u64::from(args.rounds) {
        crowd.submit(&link, &kind, number)?;
        rounds.push(crowd.all_have_it(&mut progress)?);
        progress.count.fetch_add(1, SeqCst);
    }
    let came = crowd.end(&mut progress)?;
    rounds.sort_by_key(|arrived| arrived.last().copied());
    // They came in this order.
    let middle = &rounds[rounds.len() / 2];
    let quantile = |q: f64| millis(middle[((size as f64 * q).ceil() as usize).clamp(1, size) - 1]);
    run.report.number("all_ms", quantile(1.0), "ms from submission until every client has the task");
    run.report.number("p50_ms", quantile(0.5), "ms until half of them have it");
    run.report.number("p99_ms", quantile(0.99), "ms until 99 % of them have it");
    let each = rate(size as u64, middle[size - 1]);
    run.report.number("tasks_per_s", each, "deliveries a second meanwhile");
    run.report.count("clients", size as u64, "clients");
    run.report.count("tasks", args.rounds.into(), "tasks, one after the other; times are of the one in the middle");
    run.report.count("delivered", came.delivered, "deliveries");
    run.report.count("settled", came.settled, "results settled, after that");
    Ok(())
}
