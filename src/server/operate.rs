//! What operators ask of tasks and groups: the work behind the `Control` service's unary calls.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::about::millis;
use super::control::ControlService;
use super::convert;
use super::findings::{self, Facts};
use super::groups::{self, Group};
use super::machine::{Disk, Process};
use super::refusal::Refusal;
use crate::broker::{GroupInfo, TaskState, WaitReason};
use crate::store::{Reader, StoreError};
use crate::task::{GroupName, Name, Outcome, Task, TaskId, TaskResult, Time};
use crate::wire::control as pb;

impl ControlService {
    async fn task(&self, id: TaskId) -> Result<Task, Refusal> {
        let found = self.queries.run(move |reader| reader.tasks_by_id(&[id])).await?;
        let newest = self.store.tail().positions().task;
        found.into_iter().next().ok_or(Refusal::NoSuchTask(id, newest))
    }

    pub(super) async fn describe(&self, request: pb::DescribeTaskRequest) -> Result<pb::TaskLedger, Refusal> {
        let task = self.task(request.id).await?;
        let id = task.id;
        let results = self.queries.run(move |reader| reader.results_of(id)).await?;
        let task_states = self.broker.task_states(task.clone()).await?;
        let absent = task.spec.to.as_ref().filter(|to| !task_states.iter().any(|(group, _)| group == *to));
        let absent = absent.map(|group| pb::TaskStanding {
            group: group.as_str().to_owned(),
            state: "waiting".into(),
            reason: "no client of the group has come yet".into(),
            ..Default::default()
        });
        let (told, settled) = (attempts(&results), settlements(&results));
        let groups = task_states.into_iter().map(|(group, state)| {
            let told = told.get(&group).copied().unwrap_or(0);
            describe_standing(&group, state, told, settled.get(&group).copied())
        });
        let groups = groups.chain(absent).collect();
        Ok(pb::TaskLedger {
            groups,
            task: Some(convert::task(task)).into(),
            results: convert::result_page(results).results,
            ..pb::TaskLedger::default()
        })
    }

    pub(super) async fn clients(&self, _: pb::ListClientsRequest) -> Result<pb::ListClientsResponse, Refusal> {
        Ok(convert::clients(self.broker.clients().await?))
    }

    pub(super) async fn groups(&self, _: pb::ListGroupsRequest) -> Result<pb::ListGroupsResponse, Refusal> {
        let (groups, never_came_left_out) = self.counted_groups().await?;
        let groups = groups.into_iter().map(convert::group).collect();
        Ok(pb::ListGroupsResponse { groups, never_came_left_out, ..pb::ListGroupsResponse::default() })
    }

    pub(super) async fn about(&self, request: pb::GetServerRequest) -> Result<pb::Server, Refusal> {
        let (groups, config) = (self.broker.groups().await?, self.broker.config().await?);
        let clients = self.broker.connected().await?;
        let counted = if request.counted { Some(self.counted_groups().await?.0) } else { None };
        let (at, failure) = (self.store.tail().positions(), self.store.failure());
        let server = pb::Server {
            clients: clients as u32,
            groups: groups.len() as u32,
            in_flight: groups.iter().map(|group| group.in_flight as u64).sum(),
            tasks: at.task,
            results: at.result,
            statuses: at.status,
            lag: counted.as_ref().map(|groups| groups.iter().map(|group| group.lag).sum()),
            dead: counted.as_ref().map(|groups| groups.iter().map(|group| group.dead).sum()),
            refuses: failure.clone().unwrap_or_default(),
            ack_timeout_ms: millis(config.ack_timeout),
            max_attempts: config.max_attempts,
            now: Time::now().0,
            ..pb::Server::default()
        };
        let about = self.about.clone();
        let judge = move |_: &mut dyn Reader| {
            let (disk, process) = (Disk::of(&about.data), Process::now());
            let found = counted.map(|groups| {
                findings::judge(&Facts {
                    now: Time::now(),
                    not_ready: failure.as_deref(),
                    disk: disk.clone(),
                    process: process.clone(),
                    retention: about.retention(),
                    tasks: at.task,
                    results: at.result,
                    clients,
                    groups: &groups,
                })
            });
            let findings = found.unwrap_or_default().into_iter().map(convert::finding).collect();
            Ok(pb::Server { findings, ..about.describe(server, &disk, &process) })
        };
        Ok(self.queries.run(judge).await?)
    }

    /// All groups, those that never came last, and whether there are more of these.
    async fn counted_groups(&self) -> Result<(Vec<Group>, bool), Refusal> {
        let (mut groups, removed) = (self.broker.groups().await?, self.removed.clone());
        let newest = self.broker.newest_task();
        let count = move |reader: &mut dyn Reader| {
            let more = groups::add_never_came(&mut groups, reader, newest, &removed, Time::now())?;
            Ok((count_groups(reader, groups)?, more))
        };
        Ok(self.queries.run(count).await?)
    }

    pub(super) async fn cancel(&self, request: pb::CancelTaskRequest) -> Result<pb::CancelTaskResponse, Refusal> {
        let task = self.task(request.id).await?;
        let groups = self.broker.cancel(task).await?;
        Ok(pb::CancelTaskResponse { groups, ..pb::CancelTaskResponse::default() })
    }

    pub(super) async fn retry(&self, request: pb::RetryTaskRequest) -> Result<pb::RetryTaskResponse, Refusal> {
        let task = self.task(request.id).await?;
        let names = if request.group.is_empty() {
            let results = self.queries.run(move |reader| reader.results_of(request.id)).await?;
            let undone = settlements(&results).into_iter().filter(|(_, r)| r.result.outcome != Outcome::Done);
            let mut names: Vec<GroupName> = undone.map(|(group, _)| group.clone()).collect();
            names.sort_unstable();
            names
        } else {
            vec![Name::new("the group", &request.group)?]
        };
        let groups = self.broker.revive(task, names).await?;
        Ok(pb::RetryTaskResponse { groups: groups as u32, ..pb::RetryTaskResponse::default() })
    }

    pub(super) async fn drop_dead_letter(&self, request: pb::DropDeadRequest) -> Result<pb::DropDeadResponse, Refusal> {
        let (id, name) = (self.task(request.id).await?.id, Name::new("the group", &request.group)?);
        let results = self.queries.run(move |reader| reader.results_of(id)).await?;
        if !settlements(&results).get(&name).is_some_and(|r| r.result.outcome.is_dead()) {
            return Err(Refusal::NotDead(id, name));
        }
        self.broker.drop_dead(id, name).await?;
        Ok(pb::DropDeadResponse::new())
    }

    pub(super) async fn pause(&self, request: pb::PauseGroupRequest) -> Result<pb::PauseGroupResponse, Refusal> {
        let name = Name::new("the group", &request.group)?;
        self.broker.set_paused(name, request.paused).await?;
        Ok(pb::PauseGroupResponse::new())
    }

    pub(super) async fn forget(&self, request: pb::RemoveGroupRequest) -> Result<pb::RemoveGroupResponse, Refusal> {
        let name = Name::new("the group", &request.group)?;
        let infos = self.broker.groups().await?;
        let owed = match infos.into_iter().find(|info| info.name == name) {
            Some(info) => self.queries.run(move |reader| Ok(count_group(reader, info)?.lag)).await?,
            None => 0,
        };
        self.broker.remove_group(name.clone()).await?;
        self.removed.insert(name, self.broker.newest_task());
        Ok(pb::RemoveGroupResponse { owed, ..pb::RemoveGroupResponse::default() })
    }
}

/// How far a group has come, with what only the store can count; but not its dead letters.
pub(super) fn count_group(reader: &mut dyn Reader, info: GroupInfo) -> Result<Group, StoreError> {
    let mut lag = (info.in_flight + info.waiting + info.ready) as u64;
    let mut oldest = info.oldest;
    for backlog in &info.backlog {
        lag += reader.count(backlog)?;
        let first = reader.backlog(backlog)?.tasks.first().map(|task| task.id);
        oldest = [oldest, first].into_iter().flatten().min();
    }
    lag = lag.saturating_sub(info.settled_ahead as u64);
    if lag == 0 {
        oldest = None;
    }
    let oldest = match oldest {
        Some(id) => reader.tasks_by_id(&[id])?.first().map(|task| (id, task.accepted_at)),
        None => None,
    };
    Ok(Group { info, lag, oldest, dead: 0 })
}

/// How far each group has come, with its dead letters.
fn count_groups(reader: &mut dyn Reader, infos: Vec<GroupInfo>) -> Result<Vec<Group>, StoreError> {
    let mut dead = count_dead(reader)?;
    let mut count = |info: GroupInfo| {
        let dead = dead.remove(&info.name).unwrap_or(0);
        Ok(Group { dead, ..count_group(reader, info)? })
    };
    infos.into_iter().map(&mut count).collect()
}

/// How many dead letters each group has.
fn count_dead(reader: &mut dyn Reader) -> Result<HashMap<GroupName, u64>, StoreError> {
    let (mut after, mut counts) = (0, HashMap::new());
    while let (Some(last), dead) = dead(reader, after, None, usize::MAX)? {
        after = last;
        for group in dead.into_iter().filter_map(|entry| entry.result.group) {
            *counts.entry(group).or_default() += 1;
        }
    }
    Ok(counts)
}

/// The dead letters behind a position that were not given out again since, and the position of the last one looked at; `None`:
/// there is nothing behind it.
pub(super) fn dead(
    reader: &mut dyn Reader,
    after: u64,
    group: Option<&GroupName>,
    limit: usize,
) -> Result<(Option<u64>, Vec<TaskResult>), StoreError> {
    let page = reader.dead(after, group, limit)?;
    let last = page.last().map(|result| result.seq);
    Ok((last, still_dead(reader, page)?))
}

/// The same before a position, newest first; and whether there are more.
pub(super) fn latest_dead(
    reader: &mut dyn Reader,
    mut before: u64,
    group: Option<&GroupName>,
    limit: usize,
) -> Result<(Vec<TaskResult>, bool), StoreError> {
    let mut dead = Vec::new();
    loop {
        let page = reader.latest_dead(before, group, limit)?;
        let Some(last) = page.last() else { return Ok((dead, false)) };
        before = last.seq;
        dead.extend(still_dead(reader, page)?);
        if dead.len() > limit {
            dead.truncate(limit);
            return Ok((dead, true));
        }
    }
}

/// Those with whose tasks nothing was done since they were given up. The results of a task are read once for all its entries: a
/// task for everyone can have one for each of thousands of groups.
fn still_dead(reader: &mut dyn Reader, mut page: Vec<TaskResult>) -> Result<Vec<TaskResult>, StoreError> {
    let tasks: BTreeSet<TaskId> = page.iter().map(|entry| entry.result.task).collect();
    let mut undone = HashSet::new();
    for task in tasks {
        let results = reader.results_of(task)?;
        let mut last = HashMap::new();
        undone.extend(deciding(&results).filter_map(|(group, r)| last.insert(group, r.seq)));
    }
    page.retain(|entry| !undone.contains(&entry.seq));
    Ok(page)
}

/// The result by which each group settled the task, or what an operator did with it since.
pub(super) fn settlements(results: &[TaskResult]) -> HashMap<&GroupName, &TaskResult> {
    deciding(results).collect()
}

/// The last of a group is its settlement.
fn deciding(results: &[TaskResult]) -> impl Iterator<Item = (&GroupName, &TaskResult)> {
    let decides = |outcome: Outcome| outcome.settles() || matches!(outcome, Outcome::Revived | Outcome::Dropped);
    in_time(results).filter(move |(_, r)| decides(r.result.outcome))
}

/// The number of the last attempt that something came of, for each group.
fn attempts(results: &[TaskResult]) -> HashMap<&GroupName, u32> {
    let mut attempts = HashMap::new();
    for (group, entry) in in_time(results) {
        let last = attempts.entry(group).or_default();
        *last = entry.result.attempt.max(*last);
    }
    attempts
}

fn in_time(results: &[TaskResult]) -> impl Iterator<Item = (&GroupName, &TaskResult)> {
    results.iter().filter(|r| !r.result.late).filter_map(|r| Some((r.result.group.as_ref()?, r)))
}

/// `told`: the last attempt that something came of; `settled`: the group's settlement.
fn describe_standing(group: &GroupName, state: TaskState, told: u32, settled: Option<&TaskResult>) -> pb::TaskStanding {
    let mut described = pb::TaskStanding { group: group.as_str().to_owned(), attempt: told, ..Default::default() };
    match state {
        TaskState::InFlight(client, deadline, attempt) => {
            described.state = "in flight".into();
            described.client = client.to_string();
            described.attempt = attempt;
            described.reason = format!("its lease ends at {}", rfc3339(deadline));
        }
        TaskState::Waiting(why) => {
            described.state = "waiting".into();
            described.reason = match why {
                WaitReason::NotBefore(at) => format!("not before {}", rfc3339(at)),
                WaitReason::Paused => "the group is paused".into(),
                WaitReason::NoClient => "no client of the group is connected".into(),
                WaitReason::WindowsFull => "every client of the group holds as many tasks as it wants".into(),
                WaitReason::NotReading => "the clients of the group do not read what they were sent".into(),
                WaitReason::Queued => "next, after those before it".into(),
            };
        }
        TaskState::Settled => match settled {
            Some(TaskResult { result, .. }) => {
                described.state = if result.outcome.is_dead() { "dead" } else { "settled" }.into();
                described.client = result.client.to_string();
                described.attempt = result.attempt;
                described.reason = format!("{:?}", convert::outcome(result.outcome));
            }
            None => described.state = "settled".into(),
        },
    }
    described
}

fn rfc3339(time: Time) -> String {
    let since = std::time::Duration::from_millis(u64::try_from(time.0).unwrap_or(0));
    // The formatter's own bound: the year 9999.
    let since = since.min(std::time::Duration::from_secs(253_402_300_799));
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::{Backend, Backlog, BacklogPage, Batch, Memory};
    use crate::task::{NewResult, Status};

    /// Counts how often the results of a task are read.
    #[derive(Default)]
    struct Counting {
        store: Memory,
        reads: usize,
    }

    impl Reader for Counting {
        fn results_of(&mut self, task: TaskId) -> Result<Vec<TaskResult>, StoreError> {
            self.reads += 1;
            self.store.results_of(task)
        }

        fn dead(&mut self, after: u64, group: Option<&GroupName>, limit: usize) -> Result<Vec<TaskResult>, StoreError> {
            self.store.dead(after, group, limit)
        }

        fn latest_dead(
            &mut self,
            before: u64,
            group: Option<&GroupName>,
            limit: usize,
        ) -> Result<Vec<TaskResult>, StoreError> {
            self.store.latest_dead(before, group, limit)
        }

        fn tasks(&mut self, _: TaskId, _: usize) -> Result<Vec<Task>, StoreError> {
            unreachable!()
        }

        fn latest_tasks(&mut self, _: TaskId, _: usize) -> Result<Vec<Task>, StoreError> {
            unreachable!()
        }

        fn results(&mut self, _: u64, _: usize) -> Result<Vec<TaskResult>, StoreError> {
            unreachable!()
        }

        fn statuses(&mut self, _: u64, _: usize) -> Result<Vec<Status>, StoreError> {
            unreachable!()
        }

        fn latest_results_of(&mut self, _: TaskId, _: usize) -> Result<Vec<TaskResult>, StoreError> {
            unreachable!()
        }

        fn tasks_by_id(&mut self, _: &[TaskId]) -> Result<Vec<Task>, StoreError> {
            unreachable!()
        }

        fn backlog(&mut self, _: &Backlog) -> Result<BacklogPage, StoreError> {
            unreachable!()
        }

        fn count(&mut self, _: &Backlog) -> Result<u64, StoreError> {
            unreachable!()
        }

        fn addressed_groups(&mut self, _: Option<&GroupName>, _: usize) -> Result<Vec<GroupName>, StoreError> {
            unreachable!()
        }

        fn first_task(&mut self) -> Result<Option<TaskId>, StoreError> {
            unreachable!()
        }
    }

    fn entry(seq: u64, task: TaskId, group: &str, outcome: Outcome) -> TaskResult {
        let (group, client) = (Name::new("the group", group).ok(), "client".into());
        let (ret, at) = (String::new(), Time(0));
        let result = NewResult { task, group, client, attempt: 1, outcome, ret, at, not_before: None, late: false };
        TaskResult { seq, result }
    }

    #[test]
    fn a_page_of_dead_letters_reads_the_results_of_each_task_once() {
        use Outcome::{Dropped, Failed, Revived};
        let failed = (1..=300).map(|seq| entry(seq, seq % 3, &format!("g{}", seq.div_ceil(3)), Failed));
        let undone =
            [(301, 0, "g7", Dropped), (302, 1, "g7", Revived), (303, 2, "g7", Revived), (304, 2, "g7", Failed)];
        let undone = undone.map(|(seq, task, group, outcome)| entry(seq, task, group, outcome));
        let mut reader = Counting::default();
        reader.store.commit(&Batch { results: failed.chain(undone).collect(), ..Batch::default() }).unwrap();
        let expected: Vec<u64> = (1..=300).filter(|seq| ![19, 20, 21].contains(seq)).chain([304]).collect();
        let seqs = |dead: &[TaskResult]| dead.iter().map(|entry| entry.seq).collect::<Vec<_>>();

        let (last, entries) = dead(&mut reader, 0, None, 1000).unwrap();
        assert_eq!((last, seqs(&entries), reader.reads), (Some(304), expected.clone(), 3));
        reader.reads = 0;
        let (entries, more) = latest_dead(&mut reader, u64::MAX, None, 1000).unwrap();
        assert_eq!((seqs(&entries), more, reader.reads), (expected.into_iter().rev().collect(), false, 3));
        reader.reads = 0;
        let counts = count_dead(&mut reader).unwrap();
        assert_eq!((counts.len(), counts.values().sum::<u64>(), reader.reads), (100, 298, 3));
    }
}
