//! Broadcasts to many named clients, each until all of it is settled and on disk.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures::StreamExt as _;
use grpcio::CallOption;

use super::args::Broadcast;
use super::clients::{Crowd, Names, Settle, gather};
use super::load::failed;
use super::progress::Progress;
use super::raw;
use super::{Run, crowd, millis, rate};
use crate::ctl::Error;
use crate::ctl::link::Link;
use crate::wire::control as pb;

pub(super) fn run(run: &mut Run, args: &Broadcast) -> Result<(), Error> {
    let (others, each) = (args.processes - 1, args.clients / args.processes);
    let waiting = gather(run, args.clients - others * each, Names::Named, &args.reach)?;
    crowd::start(run, &vec![each; others as usize], &args.reach)?;
    let link = run.link()?;
    let kind = run.kind("", args.size);
    let clients = u64::from(args.clients);
    let several = run.target.cluster().filter(|_| run.target.contacts.len() > 1);
    let at_each = several.map(|cluster| cluster.clients(clients, &run.watch)).transpose()?.unwrap_or_default();
    // The first round is not measured: in it, each client opens the stream on which it reports.
    let rounds = args.rounds + 2;
    let crowd = Crowd::start(waiting, rounds + u32::from(args.run), Settle::AtOnce);
    let mut progress = run.watch.progress("settled", clients * u64::from(rounds));
    let mut took = Vec::new();
    for number in 1..=u64::from(rounds) {
        let (task, began) = crowd.submit(&link, &kind, number)?;
        // What the log of outcomes shows is on disk. It is followed, and not asked for again and again.
        let request = pb::ListRequest { task, follow: true, ..pb::ListRequest::default() };
        let results = link.client.list_results(&request, CallOption::default());
        let (mut results, count) = (results.map_err(failed("following the results"))?, progress.count.clone());
        let on_disk = crowd.beside(async move {
            let mut settled = 0;
            while settled < clients {
                let Some(page) = results.next().await else {
                    return Err(Error::NotMeasured("the server ended the stream of results".into()));
                };
                let came = page.map_err(failed("following the results"))?.results.len() as u64;
                settled += came;
                count.fetch_add(came, SeqCst);
            }
            Ok(settled)
        });
        on_disk.wait(&mut progress)?;
        took.push(began.elapsed());
        // For the next round, nothing is left of this one.
        crowd.all_have_it(&mut progress)?;
    }
    let as_a_run =
        args.run.then(|| one_run(run, args, &crowd, &link, u64::from(rounds) + 1, &mut progress)).transpose()?;
    let came = crowd.end(&mut progress)?;
    let (first, row) = (took[1], &took[2..]);
    let in_a_row: Duration = row.iter().sum();
    let settled = clients * row.len() as u64;
    run.report.number("settled_ms", millis(first), "ms from submission until all of one is settled, on disk");
    run.report.number("in_a_row_ms", millis(in_a_row) / row.len() as f64, "ms for each of those that follow");
    let ratio = rate(settled, in_a_row) / rate(clients, first);
    run.report.number("in_a_row_ratio", ratio, "of the rate of that one, in those that follow");
    run.report.number("tasks_per_s", rate(settled, in_a_row), "results settled a second, in those");
    if let Some(took) = as_a_run {
        run.report.number("run_ms", millis(took), "ms from beginning a run until all its results were told");
    }
    run.report.count("clients", clients, "clients, each with a name of its own");
    if let (Some(least), Some(most)) = (at_each.iter().min(), at_each.iter().max()) {
        run.report.count("least_clients", *least, "of them at the server with the fewest");
        run.report.count("most_clients", *most, "of them at the server with the most");
    }
    run.report.count("tasks", rounds.into(), "tasks, one after the other; the first one is not measured");
    run.report.count("processes", args.processes.into(), "processes of the load generator");
    run.report.count("delivered", came.delivered, "deliveries, to the clients of this one");
    run.report.count("settled", came.settled, "results settled, of those");
    Ok(())
}

/// Does the same as a run, and reads all that comes of it.
fn one_run(
    run: &Run,
    args: &Broadcast,
    crowd: &Crowd,
    link: &Link,
    number: u64,
    progress: &mut Progress,
) -> Result<Duration, Error> {
    let group = run.group();
    let request = pb::BeginRunRequest {
        task: raw::text(number, args.size),
        to: (0..args.clients).map(|client| Names::of(&group, client)).collect(),
        ..pb::BeginRunRequest::default()
    };
    let (number, began) = crowd.begin(link, &request, number)?;
    let request = pb::WatchRunRequest { number, ..pb::WatchRunRequest::default() };
    let news = link.client.watch_run(&request, CallOption::default());
    let (mut news, clients) = (news.map_err(failed("watching the run"))?, args.clients as usize);
    let told = crowd.beside(async move {
        let mut told = 0;
        while let Some(next) = news.next().await {
            told += next.map_err(failed("watching the run"))?.results.len();
        }
        if told == clients {
            return Ok(told);
        }
        Err(Error::NotMeasured(format!("the run ended with {told} results of {clients}")))
    });
    told.wait(progress)?;
    let took = began.elapsed();
    crowd.all_have_it(progress)?;
    Ok(took)
}
