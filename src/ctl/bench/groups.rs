//! Many groups that are away: how long it takes to list them, and what they owe.

use std::time::Instant;

use grpcio::CallOption;

use super::args::Groups;
use super::backlog::fill;
use super::clients::{Names, disperse, gather};
use super::{LONG, Run, millis};
use crate::ctl::Error;
use crate::wire::control as pb;

pub(super) fn run(run: &mut Run, args: &Groups) -> Result<(), Error> {
    let waiting = gather(run, args.groups, Names::Named, &args.reach)?;
    disperse(run, waiting)?;
    fill(run, "", args.size, args.tasks)?;
    let link = run.link()?;
    let soon = || CallOption::default().timeout(LONG);
    let listed = middle(args.rounds, || {
        let groups = link.wait(link.client.list_groups(&pb::ListGroupsRequest::new(), soon()))?.groups;
        let owed = groups.iter().map(|group| group.lag).sum::<u64>();
        if groups.len() as u64 != u64::from(args.groups) || owed != u64::from(args.groups) * args.tasks {
            let why = format!("{} groups were listed, with {owed} tasks in all", groups.len());
            return Err(Error::NotMeasured(why));
        }
        Ok(())
    })?;
    let server =
        middle(args.rounds, || link.wait(link.client.get_server(&pb::GetServerRequest::new(), soon())).map(drop))?;
    drop(link);
    let ready = run.ready_after_kill()?;
    run.report.number("list_ms", listed, "ms until the groups are listed, each with what it owes");
    run.report.number("server_ms", server, "ms until the server says how it is");
    run.report.number("ready_ms", millis(ready), "ms from the start after a SIGKILL to the first answer");
    run.report.count("groups", args.groups.into(), "groups, all of them away");
    run.report.count("tasks", args.tasks, "tasks that each of them owes");
    Ok(())
}

/// How many ms it takes, done so often one after the other: the one in the middle.
fn middle(rounds: u32, mut ask: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    let mut took = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        ask()?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    Ok(millis(took[took.len() / 2]))
}
