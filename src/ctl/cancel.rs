//! Takes tasks back: those that are named, or all that fit a description.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use futures::executor::block_on;
use futures::{FutureExt as _, StreamExt as _, select, stream};
use futures_timer::Delay;
use serde::Serialize;

use super::args::{Cancel, Open};
use super::interrupt::Interrupt;
use super::link::Link;
use super::list;
use super::manage::{AT_A_TIME, NotDone};
use super::moment::span;
use super::out::Out;
use super::words::count;
use super::{Error, manage};
use crate::task::Time;
use crate::wire::control as pb;

/// More tasks than this are not taken back before somebody at a terminal has said yes.
const ASKED_ABOVE: usize = 10;
/// Between two looks whether clients have ended.
const LOOK: Duration = Duration::from_millis(200);

/// What became of a task.
#[derive(Serialize)]
struct Cancelled {
    task_id: u64,
    /// From how many groups it was taken.
    groups: u32,
    /// In how many of these a client was at work on it, and was told.
    told: u32,
    /// In how many a client was at work on it that cannot be told.
    untold: u32,
}

/// A task that would be taken back.
#[derive(Serialize)]
struct Would {
    task_id: u64,
    would_cancel: bool,
}

/// A client that was at work on a task has ended it, or its stream has.
#[derive(Serialize)]
struct Ended {
    task_id: u64,
    ended: bool,
}

/// Takes tasks back.
pub(super) fn run(link: &Link, cancel: &Cancel, mut out: Out) -> Result<(), Error> {
    let described = cancel.ids.is_empty();
    let ids = if described { find(link, cancel)? } else { cancel.ids.clone() };
    if ids.is_empty() {
        out.remark("no such task is waiting or running");
        return Ok(());
    }
    if cancel.dry_run {
        for task_id in ids {
            out.object(&Would { task_id, would_cancel: true }, &format!("would cancel task {task_id}"))?;
        }
        return Ok(());
    }
    if described && ids.len() > ASKED_ABOVE && !cancel.yes && !agreed(ids.len())? {
        return Err(Error::Refused("nothing was cancelled".into()));
    }
    let done = all(link, &ids, &mut out)?;
    if described {
        let cancelled = count(ids.len() as u64 - done.failed, "task");
        out.remark(&format!("cancelled {cancelled}{}", clients(done.told, done.untold)));
    }
    if cancel.wait {
        block_on(wait(link, &done.at_work, cancel.timeout, &mut out))?;
    }
    match done {
        Done { failed: 0, .. } => Ok(()),
        Done { failed, .. } => Err(Error::SomeFailed(format!("{} could not be cancelled", count(failed, "task")))),
    }
}

/// The tasks that are described, oldest first.
fn find(link: &Link, cancel: &Cancel) -> Result<Vec<u64>, Error> {
    if cancel.to.is_none() && cancel.state.is_none() && cancel.older_than.is_none() && cancel.text.is_none() {
        let which = "which tasks? Name them by their ids, or describe them: --to, --state, --older-than, --text";
        return Err(Error::Usage(which.into()));
    }
    let states = match cancel.state {
        None => &[pb::TaskState::WAITING, pb::TaskState::IN_FLIGHT][..],
        Some(Open::Waiting) => &[pb::TaskState::WAITING],
        Some(Open::InFlight) => &[pb::TaskState::IN_FLIGHT],
    };
    let now = Time::now();
    let is_old = |task: &pb::Task| cancel.older_than.is_none_or(|age| now.since(Time(task.accepted_at)) >= age);
    let mut ids = Vec::new();
    for state in states {
        let request = pb::FindTasksRequest {
            to: cancel.to.clone().unwrap_or_default(),
            state: Some((*state).into()),
            text: cancel.text.clone().unwrap_or_default(),
            ..Default::default()
        };
        let tasks = list::look(link, request, usize::MAX)?.into_iter().filter_map(|found| found.task.into_option());
        ids.extend(tasks.filter(is_old).map(|task| task.id));
    }
    ids.sort_unstable();
    // It was given to a client between the two looks.
    ids.dedup();
    Ok(ids)
}

/// Asks who is at the terminal. Where nobody is, whoever wrote the command has said so by it.
fn agreed(tasks: usize) -> Result<bool, Error> {
    let (stdin, mut stderr) = (io::stdin(), io::stderr());
    if !stdin.is_terminal() || !stderr.is_terminal() {
        return Ok(true);
    }
    write!(stderr, "cancel {}? [y/N] ", count(tasks as u64, "task"))?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[derive(Default)]
struct Done {
    failed: u64,
    told: u32,
    untold: u32,
    /// On which of them clients may be at work.
    at_work: Vec<u64>,
}

/// Takes each of them back. One that is refused keeps no other from it.
fn all(link: &Link, ids: &[u64], out: &mut Out) -> Result<Done, Error> {
    let mut done = Done::default();
    block_on(async {
        let calls = stream::iter(ids).map(|&id| async move {
            let request = pb::CancelTaskRequest { id, ..Default::default() };
            (id, link.answer(link.client.cancel_task(&request, Link::answer_soon())).await)
        });
        let mut answers = calls.buffered(AT_A_TIME);
        while let Some((task_id, answer)) = answers.next().await {
            match answer {
                Ok(answer) => {
                    let pb::CancelTaskResponse { groups, told, untold, .. } = answer;
                    out.object(&Cancelled { task_id, groups, told, untold }, &in_words(task_id, &answer))?;
                    // One that was cancelled before may still be worked on.
                    done.at_work.extend((told + untold > 0 || answer.already).then_some(task_id));
                    done.told += told;
                    done.untold += untold;
                }
                Err(Error::Refused(reason)) if ids.len() > 1 => {
                    done.failed += 1;
                    out.failed(&NotDone { task_id, group: "", error: &reason }, &format!("task {task_id}: {reason}"))?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    })?;
    Ok(done)
}

fn in_words(id: u64, answer: &pb::CancelTaskResponse) -> String {
    match answer.groups {
        0 if answer.already => format!("task {id} was cancelled before"),
        0 => format!("task {id} is cancelled; no group was waiting for it"),
        groups => {
            let groups = count(groups.into(), "group");
            format!("task {id} is taken back from {groups}{}", clients(answer.told, answer.untold))
        }
    }
}

/// How many clients are at work on it.
fn clients(told: u32, untold: u32) -> String {
    let mut text = String::new();
    if told > 0 {
        text += &format!("; {} at work on it told to end", count(told.into(), "client"));
    }
    if untold > 0 {
        text += &format!("; {} at work on it cannot be told", count(untold.into(), "client"));
    }
    text
}

/// Waits until no client is at work on these tasks any more.
async fn wait(link: &Link, tasks: &[u64], timeout: Option<Duration>, out: &mut Out) -> Result<(), Error> {
    let mut left: BTreeMap<u64, u64> = tasks.iter().map(|id| (*id, 1)).collect();
    let mut interrupt = Interrupt::watch()?.fuse();
    let mut over = match timeout {
        Some(timeout) => Delay::new(timeout).boxed().fuse(),
        None => futures::future::pending().boxed().fuse(),
    };
    loop {
        for task_id in left.keys().copied().collect::<Vec<_>>() {
            let at_work = manage::ledger_of(link, task_id).await?.at_work;
            if at_work == 0 {
                left.remove(&task_id);
                out.object(&Ended { task_id, ended: true }, &format!("task {task_id}: no client is at work on it"))?;
            } else {
                left.insert(task_id, at_work);
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        select! {
            () = Delay::new(LOOK).fuse() => {}
            () = interrupt => return Err(Error::Interrupted),
            () = over => {
                let clients = count(left.values().sum(), "client");
                let tasks: Vec<_> = left.keys().take(ASKED_ABOVE).map(u64::to_string).collect();
                let after = span(timeout.unwrap_or_default());
                return Err(Error::TimedOut(format!("after {after}, {clients} had not ended: task {}", tasks.join(", "))));
            }
        }
    }
}
