//! Commands that are one question and one answer.

use std::collections::BTreeSet;

use futures::executor::block_on;
use futures::{StreamExt, stream};
use serde_json::json;

use super::args::{Command, Group};
use super::link::Link;
use super::out::{Out, Row, Table};
use super::{Error, rows};
use crate::wire::control as pb;

/// How many tasks of many are retried or dropped at a time.
const AT_A_TIME: usize = 16;

/// Runs `command`, which is none of those that have a file of their own.
pub(super) fn run(command: Command, link: &Link, out: Out) -> Result<(), Error> {
    match command {
        Command::Clients => clients(link, out),
        Command::Task { id } => task(link, id, out),
        Command::Groups => groups(link, out),
        Command::Cancel { id } => cancel(link, id, out),
        Command::Retry { id, group } => retry(link, id, group.unwrap_or_default(), out),
        Command::Pause { group } => pause(link, group, true, out),
        Command::Resume { group } => pause(link, group, false, out),
        Command::Group(Group::Rm { group }) => remove(link, group, out),
        Command::Submit(_)
        | Command::Tasks(_)
        | Command::Results(_)
        | Command::Statuses(_)
        | Command::Dead(_)
        | Command::Bench(_) => unreachable!("has a file of its own"),
    }
}

fn clients(link: &Link, out: Out) -> Result<(), Error> {
    let call = link.client.list_clients(&pb::ListClientsRequest::new(), Link::answer_soon());
    let clients: Vec<_> = link.wait(call)?.clients.into_iter().map(rows::Client::from).collect();
    all(&clients, "no client is connected", out)
}

fn groups(link: &Link, out: Out) -> Result<(), Error> {
    let call = link.client.list_groups(&pb::ListGroupsRequest::new(), Link::answer_soon());
    let groups: Vec<_> = link.wait(call)?.groups.into_iter().map(rows::Group::from).collect();
    all(&groups, "no groups", out)
}

fn all<R: Row>(rows: &[R], none: &str, mut out: Out) -> Result<(), Error> {
    out.rows(&mut Table::default(), rows)?;
    if rows.is_empty() {
        out.remark(none);
    }
    Ok(())
}

fn task(link: &Link, id: u64, mut out: Out) -> Result<(), Error> {
    let request = pb::DescribeTaskRequest { id, ..Default::default() };
    let ledger = rows::Ledger::from(link.wait(link.client.describe_task(&request, Link::answer_soon()))?);
    if out.json {
        return Ok(out.object(&ledger, "")?);
    }
    for (name, value) in ledger.task.properties() {
        out.text(&format!("{name:<13} {value}"))?;
    }
    out.section("groups", &ledger.groups)?;
    out.section("results", &ledger.results)?;
    Ok(out.flush()?)
}

fn cancel(link: &Link, id: u64, mut out: Out) -> Result<(), Error> {
    let request = pb::CancelTaskRequest { id, ..Default::default() };
    let groups = link.wait(link.client.cancel_task(&request, Link::answer_soon()))?.groups;
    let text = format!("task {id} is taken back from {}", count(groups.into(), "group"));
    Ok(out.object(&json!({"task_id": id, "groups": groups}), &text)?)
}

fn retry(link: &Link, id: u64, group: String, mut out: Out) -> Result<(), Error> {
    let request = pb::RetryTaskRequest { id, group, ..Default::default() };
    let groups = link.wait(link.client.retry_task(&request, Link::answer_soon()))?.groups;
    let text = format!("task {id} goes to {} again", count(groups.into(), "group"));
    Ok(out.object(&json!({"task_id": id, "groups": groups}), &text)?)
}

fn pause(link: &Link, group: String, paused: bool, mut out: Out) -> Result<(), Error> {
    let request = pb::PauseGroupRequest { group: group.clone(), paused, ..Default::default() };
    link.wait(link.client.pause_group(&request, Link::answer_soon()))?;
    let text = format!("group {group} is {}", if paused { "paused" } else { "running" });
    Ok(out.object(&json!({"group": group, "paused": paused}), &text)?)
}

fn remove(link: &Link, group: String, mut out: Out) -> Result<(), Error> {
    let request = pb::RemoveGroupRequest { group: group.clone(), ..Default::default() };
    let owed = link.wait(link.client.remove_group(&request, Link::answer_soon()))?.owed;
    let text = format!("group {group} is gone; it owed {}", count(owed, "task"));
    Ok(out.object(&json!({"group": group, "owed": owed}), &text)?)
}

/// Gives each of the dead letters (task, group) to its group again.
pub(super) fn retry_all(link: &Link, letters: BTreeSet<(u64, String)>, out: Out) -> Result<(), Error> {
    let many = Many { link, out, verb: "retried" };
    many.run(letters, |(id, group)| {
        let request = pb::RetryTaskRequest { id: *id, group: group.clone(), ..Default::default() };
        let call = link.client.retry_task(&request, Link::answer_soon());
        async move { call?.await.map(drop) }
    })
}

/// Takes the task of each of the dead letters back.
pub(super) fn drop_all(link: &Link, letters: BTreeSet<(u64, String)>, out: Out) -> Result<(), Error> {
    // A task that is dead for several groups is taken back once.
    let tasks: BTreeSet<_> = letters.into_iter().map(|(id, _)| (id, String::new())).collect();
    Many { link, out, verb: "dropped" }.run(tasks, |(id, _)| {
        let request = pb::CancelTaskRequest { id: *id, ..Default::default() };
        let call = link.client.cancel_task(&request, Link::answer_soon());
        async move { call?.await.map(drop) }
    })
}

/// Does the same to many tasks.
struct Many<'a> {
    link: &'a Link,
    out: Out,
    verb: &'static str,
}

impl Many<'_> {
    fn run<F>(mut self, tasks: BTreeSet<(u64, String)>, call: impl Fn(&(u64, String)) -> F) -> Result<(), Error>
    where
        F: Future<Output = grpcio::Result<()>>,
    {
        let (mut done, mut failed) = (0, 0);
        block_on(async {
            let calls = stream::iter(&tasks).map(|task| {
                let call = call(task);
                async move { (task, call.await) }
            });
            let mut answers = calls.buffered(AT_A_TIME);
            while let Some(((id, group), answer)) = answers.next().await {
                let of = if group.is_empty() { String::new() } else { format!(" of {group}") };
                match answer.map_err(|e| self.link.error(e)) {
                    Ok(()) => {
                        done += 1;
                        self.out.object(
                            &json!({"task_id": id, "group": group, self.verb: true}),
                            &format!("{} task {id}{of}", self.verb),
                        )?;
                    }
                    Err(Error::Refused(reason)) => {
                        failed += 1;
                        self.out.complaint(&format!("task {id}{of}: {reason}"));
                    }
                    Err(e) => return Err(e),
                }
            }
            Ok(())
        })?;
        self.out.remark(&format!("{} {}", self.verb, count(done, "task")));
        match failed {
            0 => Ok(()),
            failed => Err(Error::SomeFailed(format!("{} could not be {}", count(failed, "task"), self.verb))),
        }
    }
}

/// "1 task", "2 tasks".
pub(super) fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
