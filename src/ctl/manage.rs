//! Commands that are one question and one answer.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::executor::block_on;
use futures::{StreamExt, stream};
use serde::Serialize;

use super::args::Clients;
use super::link::Link;
use super::moment::span;
use super::out::Out;
use super::rows::Limits;
use super::table::{Row, Table};
use super::words::{count, quote};
use super::{Error, args, data, rows};
use crate::attachment::to_base64;
use crate::group_limits::OnDead;
use crate::terminal::escape;
use crate::wire::control as pb;

/// How many tasks of many are cancelled, retried or dropped at a time.
pub(super) const AT_A_TIME: usize = 16;

/// How many groups a task was given to.
#[derive(Serialize)]
struct TaskGroups {
    task_id: u64,
    groups: u32,
}

#[derive(Serialize)]
struct GroupPaused {
    group: String,
    paused: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_new: bool,
}

#[derive(Serialize)]
struct ClientDrained {
    client: String,
    drained: bool,
    streams: usize,
    in_flight: u64,
}

#[derive(Serialize)]
struct GroupRetry {
    group: String,
    retry: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_new: bool,
}

#[derive(Serialize)]
struct GroupSet {
    group: String,
    limits: Limits,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_new: bool,
}

#[derive(Serialize)]
struct GroupRemoved {
    group: String,
    owed: u64,
}

#[derive(Serialize)]
struct ClockAccepted {
    ahead_ms: i64,
}

/// One of many tasks with which the same was done.
#[derive(Serialize)]
struct Done<'a> {
    task_id: u64,
    group: &'a str,
    done: &'a str,
}

/// One of them with which it could not be done.
#[derive(Serialize)]
pub(super) struct NotDone<'a> {
    pub(super) task_id: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) group: &'a str,
    pub(super) error: &'a str,
}

/// Prints the clients that are connected, or that are known.
pub(super) fn clients(link: &Link, clients: &Clients, out: Out) -> Result<(), Error> {
    if clients.known || clients.offline.is_some() {
        let offline_ms = clients.offline.map(|least| u64::try_from(least.as_millis()).unwrap_or(u64::MAX));
        let request = pb::ListClientsRequest { known: true, offline_ms, ..Default::default() };
        let listed = link.wait(link.client.list_clients(&request, Link::answer_soon()))?;
        // A server that knows nothing of this lists those that are connected.
        if !listed.clients.is_empty() {
            return Err(Error::Usage(
                "the server is older, and knows only who is connected: leave out --known and --offline".into(),
            ));
        }
        let known: Vec<_> = listed.known.into_iter().map(rows::KnownClient::from).collect();
        return all(&known, "no client is away that long", out);
    }
    let call = link.client.list_clients(&pb::ListClientsRequest::new(), Link::answer_soon());
    let listed = link.wait(call)?;
    let clients: Vec<_> = listed.clients.into_iter().chain(listed.drained_away).map(rows::Client::from).collect();
    all(&clients, "no client is connected", out)
}

/// Prints the groups, and how far each has come.
pub(super) fn groups(link: &Link, out: Out) -> Result<(), Error> {
    let call = link.client.list_groups(&pb::ListGroupsRequest::new(), Link::answer_soon());
    let answer = link.wait(call)?;
    let groups: Vec<_> = answer.groups.into_iter().map(rows::Group::from).collect();
    if answer.never_came_left_out {
        out.remark("there may be more groups that have tasks though they are not there");
    }
    all(&groups, "no groups", out)
}

fn all<R: Row>(rows: &[R], none: &str, mut out: Out) -> Result<(), Error> {
    out.rows(&mut Table::default(), rows)?;
    if rows.is_empty() {
        out.remark(none);
    }
    Ok(())
}

/// Groups of a task's ledger that are asked for at once.
const GROUPS: u32 = 1000;

/// Prints a task and where it stands, a part of the groups after another.
pub(super) fn describe(link: &Link, task: &args::Task, mut out: Out) -> Result<(), Error> {
    if let Some(file) = &task.data_out {
        return data::write(link, task, file);
    }
    let mut request =
        pb::DescribeTaskRequest { id: task.id, group: task.to.clone().unwrap_or_default(), ..Default::default() };
    let mut shown = 0;
    loop {
        request.limit = if task.all { GROUPS } else { GROUPS.min(task.limit - shown) };
        let mut answer = link.wait(link.client.describe_task(&request, Link::answer_soon()))?;
        shown += answer.groups.len() as u32;
        // A server that says the same again would be asked for ever.
        let is_last = answer.next <= request.after || answer.groups.is_empty();
        request.after = std::mem::take(&mut answer.next);
        let all = answer.waiting + answer.in_flight + answer.settled + answer.dead;
        let left_out = answer.results_left_out;
        let is_first = shown == answer.groups.len() as u32;
        let mut ledger = rows::Ledger { next: (!is_last).then(|| request.after.clone()), ..answer.into() };
        if out.json {
            if ledger.task.data_size > 0 {
                ledger.task.data = Some(to_base64(&data::get(link, task.id, 0)?));
            }
            out.object(&ledger, "")?;
        } else {
            if is_first {
                let counts = ledger.counts.as_ref().filter(|_| all > 1).map(|counts| ("stands", counts.to_string()));
                out.properties(&[ledger.task.properties(out.times), counts.into_iter().collect()].concat())?;
            }
            out.section("groups", &ledger.groups)?;
            out.section("results", &ledger.results)?;
        }
        if left_out > 0 {
            out.remark(&format!(
                "{} more, which are older: contactctl results --task {}",
                count(left_out, "result"),
                task.id
            ));
        }
        if is_last || (!task.all && shown >= task.limit) {
            if !is_last {
                out.remark(&format!(
                    "{} more: --all shows them, --to GROUP one",
                    count(all - u64::from(shown), "group")
                ));
            }
            return Ok(());
        }
    }
}

/// Where a task stands, in a word or two: with each group, if they differ.
pub(super) fn stands(link: &Link, id: u64) -> Result<String, Error> {
    let groups = ledger(link, id)?.groups;
    let word = |it: &pb::TaskInGroup| match it.outcome {
        Some(outcome) => rows::enum_name(outcome),
        None => rows::enum_name(it.state),
    };
    let words: Vec<_> = groups.iter().map(|it| word(it).to_lowercase().replace('_', " ")).collect();
    Ok(match words.first() {
        None => "waiting".into(),
        Some(first) if words.iter().all(|word| word == first) => first.clone(),
        Some(_) => {
            let each = groups.iter().zip(words).map(|(it, word)| format!("{word} with {}", escape(&it.group)));
            each.collect::<Vec<_>>().join(", ")
        }
    })
}

/// A task, and where it stands with all groups, without what came of it.
pub(super) fn ledger(link: &Link, id: u64) -> Result<pb::TaskLedger, Error> {
    block_on(ledger_of(link, id))
}

/// The same, to wait for beside other things.
pub(super) async fn ledger_of(link: &Link, id: u64) -> Result<pb::TaskLedger, Error> {
    let request = pb::DescribeTaskRequest { id, without_results: true, ..Default::default() };
    link.answer(link.client.describe_task(&request, Link::answer_soon())).await
}

/// Gives tasks again: to `group`, or, if that is empty, to each that settled it without DONE.
pub(super) fn retry(link: &Link, ids: &[u64], group: &str, out: Out) -> Result<(), Error> {
    each(ids, "retried", out, |id| {
        let request = pb::RetryTaskRequest { id, group: group.to_owned(), ..Default::default() };
        let groups = link.wait(link.client.retry_task(&request, Link::answer_soon()))?.groups;
        let text = match groups {
            0 if group.is_empty() => {
                format!(
                    "task {id} goes to no group again: none that settled it failed; --group names one that said DONE"
                )
            }
            0 => format!("task {id} does not go to group {group} again: it has not settled it"),
            groups => format!("task {id} goes to {} again", count(groups.into(), "group")),
        };
        Ok((groups, text))
    })
}

/// Does the same with each of the tasks, and tells how many groups it was for. One that is refused keeps no other from it.
fn each(
    ids: &[u64],
    verb: &str,
    mut out: Out,
    call: impl Fn(u64) -> Result<(u32, String), Error>,
) -> Result<(), Error> {
    let mut failed = 0;
    for &id in ids {
        match call(id) {
            Ok((groups, text)) => out.object(&TaskGroups { task_id: id, groups }, &text)?,
            Err(Error::Refused(reason)) if ids.len() > 1 => {
                failed += 1;
                out.failed(&NotDone { task_id: id, group: "", error: &reason }, &format!("task {id}: {reason}"))?;
            }
            Err(e) => return Err(e),
        }
    }
    match failed {
        0 => Ok(()),
        failed => Err(Error::SomeFailed(format!("{} could not be {verb}", count(failed, "task")))),
    }
}

/// Stops or resumes the delivery to a group.
pub(super) fn pause(link: &Link, group: String, paused: bool, mut out: Out) -> Result<(), Error> {
    let request = pb::PauseGroupRequest { group: group.clone(), paused, ..Default::default() };
    let is_new = link.wait(link.client.pause_group(&request, Link::answer_soon()))?.is_new;
    let mut text = format!("group {group} is {}", if paused { "paused" } else { "running" });
    if is_new {
        text += &before_its_first_client(&group);
    }
    Ok(out.object(&GroupPaused { group, paused, is_new }, &text)?)
}

/// Gives a client no more tasks.
pub(super) fn drain(
    link: &Link,
    client: String,
    lasts: Option<Duration>,
    note: Option<String>,
    mut out: Out,
) -> Result<(), Error> {
    let request = pb::DrainClientRequest {
        client: client.clone(),
        for_ms: lasts.map_or(0, |lasts| u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX)),
        note: note.unwrap_or_default(),
        ..Default::default()
    };
    let clients = link.wait(link.client.drain_client(&request, Link::answer_soon()))?.clients;
    let in_flight = clients.iter().map(|client| client.in_flight).sum();
    let lasts = lasts.map(|lasts| format!(" for {}", span(lasts))).unwrap_or_default();
    let streams =
        if clients.len() > 1 { format!(" ({})", count(clients.len() as u64, "stream")) } else { String::new() };
    let text = match (clients.is_empty(), in_flight) {
        (true, _) => format!("client {client} gets no tasks{lasts} when it comes back; it is not connected now"),
        (false, 0) => format!("client {client}{streams} gets no more tasks{lasts}; it has none"),
        (false, held) => {
            format!("client {client}{streams} gets no more tasks{lasts}; it finishes {}", count(held, "task"))
        }
    };
    Ok(out.object(&ClientDrained { client, drained: true, streams: clients.len(), in_flight }, &text)?)
}

/// Gives tasks to a client again that was drained.
pub(super) fn undrain(link: &Link, client: String, mut out: Out) -> Result<(), Error> {
    let request = pb::UndrainClientRequest { client: client.clone(), ..Default::default() };
    let answer = link.wait(link.client.undrain_client(&request, Link::answer_soon()))?;
    let in_flight = answer.clients.iter().map(|client| client.in_flight).sum();
    let stopping = answer.clients.iter().any(|client| client.draining.stopping);
    let text = match (answer.was_drained, stopping) {
        (_, true) => format!("client {client} is about to stop, and gets no tasks all the same"),
        (true, false) => format!("client {client} gets tasks again"),
        (false, false) => format!("client {client} was not drained"),
    };
    Ok(out.object(&ClientDrained { client, drained: false, streams: answer.clients.len(), in_flight }, &text)?)
}

fn before_its_first_client(group: &str) -> String {
    format!(", before its first client; if it is misspelt: contactctl group rm {}", quote(group))
}

/// Says how the tasks of a group are tried again; empty: as the server is set.
pub(super) fn set_retry(link: &Link, group: String, retry: String, mut out: Out) -> Result<(), Error> {
    let request = pb::SetGroupRetryRequest { group: group.clone(), retry, ..Default::default() };
    let answer = link.wait(link.client.set_group_retry(&request, Link::answer_soon()))?;
    let retry = Some(answer.retry).filter(|retry| !retry.is_empty());
    let how = retry.as_ref().map_or("as the server is set".to_owned(), |retry| format!("by {retry}"));
    let mut text = format!("tasks of group {group} are tried again {how}");
    if answer.is_new {
        text += &before_its_first_client(&group);
    }
    Ok(out.object(&GroupRetry { group, retry, is_new: answer.is_new }, &text)?)
}

/// Limits how many tasks of a group are under way.
pub(super) fn set_limits(link: &Link, group: String, limits: &args::GroupLimits, mut out: Out) -> Result<(), Error> {
    let args::GroupLimits { max_in_flight, max_begun_per_second, lane_max, lane_on_dead } = *limits;
    let on_dead = |on_dead| match on_dead {
        OnDead::Release => pb::LaneOnDead::RELEASE,
        OnDead::Hold => pb::LaneOnDead::HOLD,
    };
    let request = pb::SetGroupLimitsRequest {
        group: group.clone(),
        max_in_flight,
        max_begun_per_second,
        lane_max,
        lane_on_dead: lane_on_dead.map(on_dead).map(Into::into),
        ..Default::default()
    };
    let answer = link.wait(link.client.set_group_limits(&request, Link::answer_soon()))?;
    let limits = Limits::from(answer.limits.unwrap_or_default());
    let mut text = format!("group {group} has {limits}");
    if answer.is_new {
        text += &before_its_first_client(&group);
    }
    Ok(out.object(&GroupSet { group, limits, is_new: answer.is_new }, &text)?)
}

/// Forgets a group.
pub(super) fn remove(link: &Link, group: String, mut out: Out) -> Result<(), Error> {
    let request = pb::RemoveGroupRequest { group: group.clone(), ..Default::default() };
    let owed = link.wait(link.client.remove_group(&request, Link::answer_soon()))?.owed;
    let text = format!("group {group} is gone; it owed {}", count(owed, "task"));
    Ok(out.object(&GroupRemoved { group, owed }, &text)?)
}

/// Says that the server's clock is right.
pub(super) fn accept_clock(link: &Link, mut out: Out) -> Result<(), Error> {
    let call = link.client.accept_clock(&pb::AcceptClockRequest::new(), Link::answer_soon());
    let ahead_ms = link.wait(call)?.ahead_ms;
    let by = span(Duration::from_millis(ahead_ms.unsigned_abs()));
    let text = match ahead_ms {
        0 => "the clock had not stepped".to_owned(),
        1.. => format!("the clock is right, {by} ahead of where it was: what is old by it is removed"),
        _ => format!("the clock is right, {by} behind where it was"),
    };
    Ok(out.object(&ClockAccepted { ahead_ms }, &text)?)
}

/// The dead letters (task, group) of these tasks: of that group, or of every group that gave the task up.
pub(super) fn letters(link: &Link, ids: &[u64], group: Option<&str>) -> Result<BTreeSet<(u64, String)>, Error> {
    let mut letters = BTreeSet::new();
    for id in ids {
        let mut dead = ledger(link, *id)?.groups;
        let is_dead = |task: &pb::TaskInGroup| task.state == pb::TaskState::DEAD.into();
        dead.retain(|task| is_dead(task) && group.is_none_or(|group| task.group == group));
        if dead.is_empty() {
            let who = group.map_or("no group gave up".to_owned(), |group| format!("group {group} did not give up"));
            return Err(Error::Refused(format!("{who} task {id}; contactctl task {id} says where it stands")));
        }
        letters.extend(dead.into_iter().map(|task| (*id, task.group)));
    }
    Ok(letters)
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

/// Takes each of the dead letters off the list.
pub(super) fn drop_all(link: &Link, letters: BTreeSet<(u64, String)>, out: Out) -> Result<(), Error> {
    Many { link, out, verb: "dropped" }.run(letters, |(id, group)| {
        let request = pb::DropDeadRequest { id: *id, group: group.clone(), ..Default::default() };
        let call = link.client.drop_dead(&request, Link::answer_soon());
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
                match answer.map_err(|e| self.link.error(e)) {
                    Ok(()) => {
                        done += 1;
                        self.out.object(
                            &Done { task_id: *id, group, done: self.verb },
                            &format!("{} task {id} of {group}", self.verb),
                        )?;
                    }
                    Err(Error::Refused(reason)) => {
                        failed += 1;
                        self.out.failed(
                            &NotDone { task_id: *id, group, error: &reason },
                            &format!("task {id} of {group}: {reason}"),
                        )?;
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
