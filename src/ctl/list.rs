//! The logs, page by page: memory is a page, whatever the length of the log.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use futures::{FutureExt, StreamExt, select};
use grpcio::{CallOption, ClientSStreamReceiver};

use super::args::{Dead, Range, Results, State, Statuses, Tasks};
use super::interrupt::Interrupt;
use super::link::Link;
use super::moment::Times;
use super::out::Out;
use super::table::{Row, Table};
use super::{Error, manage, rows};
use crate::wire::control as pb;

/// Most tasks that the server gives for one look.
const FOUND_AT_ONCE: u32 = 200;

/// Prints tasks: the latest with where they stand, or a part of the log.
pub(super) fn tasks(link: &Link, tasks: &Tasks, mut out: Out) -> Result<(), Error> {
    let range = &tasks.range;
    if !range.follow && !range.begins() {
        match find(link, tasks) {
            // An older server. It knows no states, and is not asked for one.
            Err(Error::Unimplemented { .. }) if tasks.state.is_none() => {}
            found => {
                let found = found?;
                out.rows(&mut Table::default(), &found)?;
                if found.is_empty() {
                    out.remark("no tasks");
                }
                return Ok(());
            }
        }
    }
    let mut request = request(range);
    request.group = tasks.to.clone().unwrap_or_default();
    request.text = tasks.text.clone().unwrap_or_default();
    let call = link.client.list_tasks(&request, CallOption::default());
    let print = Print { link, range, out, what: "tasks" };
    print.pages(call, |page: pb::TaskPage| page.tasks.into_iter().map(rows::Task::from).collect(), |task| task.id)
}

/// Looks back through the log, part by part, until enough is found; oldest first.
fn find(link: &Link, tasks: &Tasks) -> Result<Vec<rows::FoundTask>, Error> {
    use pb::TaskState::{DEAD, IN_FLIGHT, SETTLED, WAITING};
    let (state, outcome) = match tasks.state {
        None => (None, None),
        Some(State::Waiting) => (Some(WAITING), None),
        Some(State::InFlight) => (Some(IN_FLIGHT), None),
        Some(State::Settled) => (Some(SETTLED), None),
        Some(State::Dead) => (Some(DEAD), None),
        Some(State::Done) => (Some(SETTLED), Some(pb::Outcome::DONE)),
        Some(State::Expired) => (Some(SETTLED), Some(pb::Outcome::EXPIRED)),
        Some(State::Cancelled) => (Some(SETTLED), Some(pb::Outcome::CANCELLED)),
        Some(State::Replaced) => (Some(SETTLED), Some(pb::Outcome::REPLACED)),
    };
    let request = pb::FindTasksRequest {
        to: tasks.to.clone().unwrap_or_default(),
        state: state.map(Into::into),
        outcome: outcome.map(Into::into),
        text: tasks.text.clone().unwrap_or_default(),
        ..Default::default()
    };
    Ok(look(link, request, wanted(&tasks.range) as usize)?.into_iter().map(rows::FoundTask::from).collect())
}

/// The latest tasks that are asked for, so many at most; oldest first.
pub(super) fn look(link: &Link, mut request: pb::FindTasksRequest, most: usize) -> Result<Vec<pb::FoundTask>, Error> {
    let mut found = Vec::new();
    loop {
        request.limit = u32::try_from(most - found.len()).unwrap_or(u32::MAX).min(FOUND_AT_ONCE);
        let part = link.wait(link.client.find_tasks(&request, Link::answer_soon()))?;
        found.extend(part.tasks);
        if found.len() >= most || !part.more || part.oldest == 0 {
            break;
        }
        request.before = part.oldest;
        thread::sleep(Duration::from_millis(part.pause_ms.into()));
    }
    found.reverse();
    Ok(found)
}

/// How many of the latest.
fn wanted(range: &Range) -> u32 {
    range.limit.map_or(range.latest, |limit| limit.min(range.latest))
}

/// Prints outcomes.
pub(super) fn results(link: &Link, results: &Results, out: Out) -> Result<(), Error> {
    let request = pb::ListRequest {
        task: results.task.unwrap_or(0),
        group: results.to.clone().unwrap_or_default(),
        client: results.client.clone().unwrap_or_default(),
        outcome: results.state.map(Into::into),
        text: results.text.clone().unwrap_or_default(),
        ..request(&results.range)
    };
    let call = link.client.list_results(&request, CallOption::default());
    Print { link, range: &results.range, out, what: "results" }.pages(call, result_rows, |result| result.seq)
}

/// Prints what clients reported.
pub(super) fn statuses(link: &Link, statuses: &Statuses, out: Out) -> Result<(), Error> {
    let request = pb::ListRequest {
        client: statuses.client.clone().unwrap_or_default(),
        text: statuses.text.clone().unwrap_or_default(),
        ..request(&statuses.range)
    };
    let call = link.client.list_statuses(&request, CallOption::default());
    let print = Print { link, range: &statuses.range, out, what: "statuses" };
    print.pages(
        call,
        |page: pb::StatusPage| page.statuses.into_iter().map(rows::Status::from).collect(),
        |status| status.seq,
    )
}

/// Prints dead letters, or gives all of them or the named ones again, or takes them off the list.
pub(super) fn dead(link: &Link, dead: &Dead, out: Out) -> Result<(), Error> {
    if !dead.ids.is_empty() {
        return many(link, dead, manage::letters(link, &dead.ids, dead.group.as_deref())?, out);
    }
    let everything = dead.retry || dead.drop;
    let mut list = request(&dead.range);
    if everything {
        list.latest = 0;
    }
    let request = pb::ListDeadRequest {
        group: dead.group.clone().unwrap_or_default(),
        list: Some(list).into(),
        ..Default::default()
    };
    let call = link.client.list_dead(&request, CallOption::default());
    if !everything {
        let print = Print { link, range: &dead.range, out, what: "dead letters" };
        return print.pages(call, result_rows, |result| result.seq);
    }
    many(link, dead, block_on(letters(link, call))?, out)
}

fn many(link: &Link, dead: &Dead, letters: BTreeSet<(u64, String)>, out: Out) -> Result<(), Error> {
    if dead.retry { manage::retry_all(link, letters, out) } else { manage::drop_all(link, letters, out) }
}

fn request(range: &Range) -> pb::ListRequest {
    let (latest, limit) = match (range.begins(), range.follow) {
        (true, _) => (0, range.limit),
        (false, true) => (range.latest, range.limit),
        // To its end, so the limit is another word for the latest ones.
        (false, false) => (wanted(range), None),
    };
    pb::ListRequest {
        after: range.after.unwrap_or(0),
        limit: limit.unwrap_or(0),
        latest,
        follow: range.follow,
        ..Default::default()
    }
}

fn result_rows(page: pb::ResultPage) -> Vec<rows::TaskResult> {
    page.results.into_iter().map(rows::TaskResult::from).collect()
}

/// Prints one log.
struct Print<'a> {
    link: &'a Link,
    range: &'a Range,
    out: Out,
    /// What is in the log.
    what: &'static str,
}

impl Print<'_> {
    fn pages<P, R: Row>(
        mut self,
        call: grpcio::Result<ClientSStreamReceiver<P>>,
        rows: impl Fn(P) -> Vec<R>,
        position: impl Fn(&R) -> u64,
    ) -> Result<(), Error> {
        let mut pages = call.map_err(|e| self.link.error(e))?.fuse();
        let mut interrupt = Interrupt::watch()?.fuse();
        if self.range.follow {
            // Lines stay on the screen while time goes on.
            self.out.times = Times::Exact;
        }
        let mut table = Table::default();
        let (mut printed, mut last) = (0, self.range.after.unwrap_or(0));
        block_on(async {
            loop {
                let page = select! {
                    page = pages.next() => page,
                    () = interrupt => return if self.range.follow { Ok(()) } else { Err(Error::Interrupted) },
                };
                let Some(page) = page else { break };
                let rows = rows(page.map_err(|e| self.stopped_at(last, self.link.error(e)))?);
                self.out.rows(&mut table, &rows)?;
                printed += rows.len() as u64;
                last = rows.last().map_or(last, &position);
            }
            if self.range.follow && self.range.limit.is_none_or(|limit| printed < limit.into()) {
                return Err(self.stopped_at(last, self.link.went_away("it ended the list")));
            }
            if printed == 0 {
                self.out.remark(&format!("no {}", self.what));
            }
            Ok(())
        })
    }

    /// Says how to go on after what was printed.
    fn stopped_at(&self, last: u64, error: Error) -> Error {
        match error {
            Error::WentAway { server, reason, .. } if last > 0 => {
                let hint = format!("; to go on where it stopped: --after {last}");
                Error::WentAway { server, reason, hint }
            }
            other => other,
        }
    }
}

/// Each dead letter once: its task and its group. All of them before the first is touched, so that one that dies
/// again is not met again.
async fn letters(
    link: &Link,
    call: grpcio::Result<ClientSStreamReceiver<pb::ResultPage>>,
) -> Result<BTreeSet<(u64, String)>, Error> {
    let mut letters = BTreeSet::new();
    let mut pages = call.map_err(|e| link.error(e))?;
    while let Some(page) = pages.next().await {
        let page = page.map_err(|e| link.error(e))?;
        letters.extend(page.results.into_iter().map(|letter| (letter.task_id, letter.group)));
    }
    Ok(letters)
}
