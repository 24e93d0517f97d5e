//! What operators ask of tasks and groups: the work behind the `Control` service's unary calls.

use super::about::millis;
use super::control::ControlService;
use super::convert;
use super::status::Refusal;
use crate::broker::{GroupInfo, Standing, Waits};
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
        let asked = task.clone();
        let standings = self.broker.with(move |core| core.standings(&asked, Time::now())).await?;
        let absent = task.spec.to.as_ref().filter(|to| !standings.iter().any(|(group, _)| group == *to));
        let absent = absent.map(|group| pb::TaskStanding {
            group: group.as_str().to_owned(),
            state: "waiting".into(),
            reason: "no client of the group has come yet".into(),
            ..Default::default()
        });
        let groups = standings.into_iter().map(|(group, standing)| describe_standing(&group, standing, &results));
        Ok(pb::TaskLedger {
            groups: groups.chain(absent).collect(),
            task: Some(convert::task(task)).into(),
            results: convert::result_page(results).results,
            ..pb::TaskLedger::default()
        })
    }

    pub(super) async fn clients(&self, _: pb::ListClientsRequest) -> Result<pb::ListClientsResponse, Refusal> {
        Ok(convert::clients(self.broker.with(|core| core.clients()).await?))
    }

    pub(super) async fn groups(&self, _: pb::ListGroupsRequest) -> Result<pb::ListGroupsResponse, Refusal> {
        let infos = self.broker.with(|core| core.groups(Time::now())).await?;
        let counted = move |reader: &mut dyn Reader| infos.into_iter().map(|info| count_group(reader, info)).collect();
        let groups: Vec<pb::Group> = self.queries.run(counted).await?;
        Ok(pb::ListGroupsResponse { groups, ..pb::ListGroupsResponse::default() })
    }

    pub(super) async fn about(&self, request: pb::GetServerRequest) -> Result<pb::Server, Refusal> {
        let look = |core: &mut crate::broker::Core| (core.connected(), core.groups(Time::now()), core.config().clone());
        let (clients, groups, config) = self.broker.with(look).await?;
        let about = self.about.clone();
        let (refuses, connected) = (self.store.failure().unwrap_or_default(), clients as u32);
        let count = move |reader: &mut dyn Reader| {
            let mut server = pb::Server {
                clients: connected,
                groups: groups.len() as u32,
                in_flight: groups.iter().map(|group| group.in_flight as u64).sum(),
                refuses,
                ack_timeout_ms: millis(config.ack_timeout),
                max_attempts: config.max_attempts,
                ..about.describe()
            };
            if request.counted {
                let counted = groups.into_iter().map(|group| count_group(reader, group));
                let counted = counted.collect::<Result<Vec<_>, _>>()?;
                server.lag = Some(counted.iter().map(|group| group.lag).sum());
                server.dead = Some(counted.iter().map(|group| group.dead).sum());
            }
            Ok(server)
        };
        let mut server = self.queries.run(count).await?;
        let at = self.store.tail().positions();
        (server.tasks, server.results, server.statuses) = (at.task, at.result, at.status);
        server.now = Time::now().0;
        Ok(server)
    }

    pub(super) async fn cancel(&self, request: pb::CancelTaskRequest) -> Result<pb::CancelTaskResponse, Refusal> {
        let task = self.task(request.id).await?;
        // First for those who have not read it yet, and for those who come later.
        self.store.expire(task.id, Some(Time::now())).await?;
        let groups = self.broker.with(move |core| core.cancel(&task, Time::now())).await?;
        self.broker.flushed().await?;
        Ok(pb::CancelTaskResponse { groups, ..pb::CancelTaskResponse::default() })
    }

    pub(super) async fn retry(&self, request: pb::RetryTaskRequest) -> Result<pb::RetryTaskResponse, Refusal> {
        let task = self.task(request.id).await?;
        let names = if request.group.is_empty() {
            let results = self.queries.run(move |reader| reader.results_of(request.id)).await?;
            let settled = results.iter().filter_map(|r| settlement(&results, r.result.group.as_ref()?));
            let mut names: Vec<GroupName> =
                settled.filter(|r| r.result.outcome != Outcome::Done).filter_map(|r| r.result.group.clone()).collect();
            names.sort_unstable();
            names.dedup();
            names
        } else {
            vec![Name::new("the group", &request.group)?]
        };
        if task.spec.expires_at.is_some_and(|at| at <= Time::now()) {
            self.store.expire(task.id, None).await?;
        }
        let revive = move |core: &mut crate::broker::Core| {
            names.iter().filter(|name| core.revive(name, &task, Time::now())).count()
        };
        let groups = self.broker.with(revive).await?;
        self.broker.flushed().await?;
        Ok(pb::RetryTaskResponse { groups: groups as u32, ..pb::RetryTaskResponse::default() })
    }

    pub(super) async fn drop_dead_letter(&self, request: pb::DropDeadRequest) -> Result<pb::DropDeadResponse, Refusal> {
        let (id, name) = (self.task(request.id).await?.id, Name::new("the group", &request.group)?);
        let results = self.queries.run(move |reader| reader.results_of(id)).await?;
        if !settlement(&results, &name).is_some_and(|r| r.result.outcome.is_dead()) {
            return Err(Refusal::NotDead(id, name));
        }
        self.broker.with(move |core| core.drop_dead(&name, id, Time::now())).await?;
        self.broker.flushed().await?;
        Ok(pb::DropDeadResponse::new())
    }

    pub(super) async fn pause(&self, request: pb::PauseGroupRequest) -> Result<pb::PauseGroupResponse, Refusal> {
        let name = Name::new("the group", &request.group)?;
        self.broker.with(move |core| core.pause(&name, request.paused, Time::now())).await??;
        self.broker.flushed().await?;
        Ok(pb::PauseGroupResponse::new())
    }

    pub(super) async fn forget(&self, request: pb::RemoveGroupRequest) -> Result<pb::RemoveGroupResponse, Refusal> {
        let name = Name::new("the group", &request.group)?;
        let owed = self
            .groups(pb::ListGroupsRequest::new())
            .await?
            .groups
            .iter()
            .find(|group| group.name == name.as_str())
            .map_or(0, |g| g.lag);
        self.broker.with(move |core| core.remove_group(&name)).await??;
        self.broker.flushed().await?;
        Ok(pb::RemoveGroupResponse { owed, ..pb::RemoveGroupResponse::default() })
    }
}

/// How far a group has come, with what only the store can count.
pub(super) fn count_group(reader: &mut dyn Reader, info: GroupInfo) -> Result<pb::Group, StoreError> {
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
    let oldest_at = match oldest {
        Some(id) => reader.tasks_by_id(&[id])?.first().map_or(0, |task| task.accepted_at.0),
        None => 0,
    };
    Ok(pb::Group {
        name: info.name.as_str().to_owned(),
        clients: info.clients as u32,
        lag,
        in_flight: info.in_flight as u64,
        oldest: oldest.unwrap_or(0),
        oldest_at,
        rate: info.rate,
        paused: info.paused,
        dead: dead(reader, 0, Some(&info.name), usize::MAX)?.1.len() as u64,
        ..pb::Group::default()
    })
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
    let mut dead = Vec::with_capacity(page.len());
    for entry in page {
        if is_still_dead(reader, &entry)? {
            dead.push(entry);
        }
    }
    Ok((last, dead))
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
        for entry in page {
            if is_still_dead(reader, &entry)? {
                if dead.len() == limit {
                    return Ok((dead, true));
                }
                dead.push(entry);
            }
        }
    }
}

/// Whether nothing was done with a task since it was given up.
fn is_still_dead(reader: &mut dyn Reader, entry: &TaskResult) -> Result<bool, StoreError> {
    let results = reader.results_of(entry.result.task)?;
    let group = entry.result.group.as_ref();
    Ok(group.and_then(|group| settlement(&results, group)).is_none_or(|r| r.seq == entry.seq))
}

/// The result by which the group settled the task, or what an operator did with it since.
pub(super) fn settlement<'a>(results: &'a [TaskResult], group: &GroupName) -> Option<&'a TaskResult> {
    let decides = |outcome: Outcome| outcome.settles() || matches!(outcome, Outcome::Revived | Outcome::Dropped);
    results.iter().rfind(|r| r.result.group.as_ref() == Some(group) && !r.result.late && decides(r.result.outcome))
}

fn describe_standing(group: &GroupName, standing: Standing, results: &[TaskResult]) -> pb::TaskStanding {
    let of_group = results.iter().filter(|r| r.result.group.as_ref() == Some(group) && !r.result.late);
    let told = of_group.map(|r| r.result.attempt).max().unwrap_or(0);
    let mut described = pb::TaskStanding { group: group.as_str().to_owned(), attempt: told, ..Default::default() };
    match standing {
        Standing::InFlight(client, deadline, attempt) => {
            described.state = "in flight".into();
            described.client = client.to_string();
            described.attempt = attempt;
            described.reason = format!("its lease ends at {}", rfc3339(deadline));
        }
        Standing::Waiting(why) => {
            described.state = "waiting".into();
            described.reason = match why {
                Waits::NotBefore(at) => format!("not before {}", rfc3339(at)),
                Waits::Paused => "the group is paused".into(),
                Waits::NoClient => "no client of the group is connected".into(),
                Waits::WindowsFull => "every client of the group holds as many tasks as it wants".into(),
                Waits::NotReading => "the clients of the group do not read what they were sent".into(),
                Waits::Queued => "next, after those before it".into(),
            };
        }
        Standing::Settled => match settlement(results, group) {
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
