//! What operators see and change: one verb for each, in the types of this program. Their gRPC service and the HTTP API only
//! translate.

mod dead;
mod find;
mod findings;
mod groups;
mod ledger;
mod lists;
mod never_came;
mod output;
mod runs;
mod schedules;
mod servers;

use std::cell::LazyCell;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use log::warn;

pub(super) use self::dead::latest_dead;
pub(super) use self::find::{Found, MOST, Standing, Wanted, latest_results};
pub(super) use self::findings::{Code, Facts, Finding, IdleSince, Severity, judge};
pub(super) use self::groups::{Group, count_groups};
pub(super) use self::ledger::{Counts, Ledger, Part, TaskInGroup, settlements};
pub(super) use self::lists::{DeadLetters, Filter, Log, Range, Results, Statuses, Tasks};
pub(super) use self::never_came::NeverCame;
pub(super) use self::output::{Following, Output};
pub(super) use self::runs::{NewRun, page_of_targets, share};
pub(super) use self::schedules::{MOST_MOMENTS, MOST_MOMENTS_IN_LIST, NewSchedule, schedule_name, task_of_schedule};
pub(super) use self::servers::{Duty, Servers};
use super::about::About;
use super::access::Access;
use super::admission::Admission;
use super::authority::{Authority, Enrolled, Issued};
use super::backup::Backup;
use super::config::Retention;
use super::dial::Dialler;
use super::grants::{Change, Grant};
use super::identity::Connections;
use super::limits::{Limits, Own};
use super::machine::{Disk, Process};
use super::query::Queries;
use super::refusal::{Refusal, Text};
use super::roles::Role;
use super::runs::Runs;
use super::schedules::Schedules;
use super::status_rate::StatusRate;
use super::tokens::{NewToken, Token};
use super::traffic::Traffic;
use super::upstream::Upstream;
use crate::attachment::Attachment;
use crate::broker::{self, BrokerError, Cancelled, ClientInfo, ContestedId, Drained, GroupError, MOST_DRAINS};
use crate::group_limits::{GroupLimits, LimitsChange, PerSecond};
use crate::retry::RetryPolicy;
use crate::store::{self, Accepted, Drain, KnownClient, Positions, Reader};
use crate::task::{
    Audience, ClientId, GroupName, Name, NameError, NameOf, NewTask, Outcome, Priority, Quiet, Replace, Task, TaskId,
    TaskResult, Time, TimeLimit,
};

/// The broker is looked at for at most a fiftieth of the time: when a look takes longer than 20 ms, with many clients and groups,
/// snapshots and lists come less often.
pub(super) const BROKER_SHARE: u32 = 50;

/// A policy as somebody writes it. Empty: nothing is said.
/// How many in a second; 0: there is no limit.
pub(super) fn per_second(number: f64) -> Result<Option<PerSecond>, Refusal> {
    if number == 0.0 { Ok(None) } else { PerSecond::of(number).map(Some).ok_or(Refusal::Rate(number)) }
}

pub(super) fn retry_policy(text: &str) -> Result<RetryPolicy, Refusal> {
    if text.is_empty() { Ok(RetryPolicy::default()) } else { text.parse().map_err(Refusal::Retry) }
}

/// Does what operators ask for. Cheap to clone.
#[derive(Clone)]
pub(super) struct Operator {
    pub(super) dialler: Dialler,
    pub(super) broker: broker::Handle,
    /// What the streams of clients here go to.
    pub(super) upstream: Upstream,
    pub(super) store: store::Handle,
    pub(super) queries: Queries,
    /// For what waits until something is written.
    pub(super) changes: Queries,
    pub(super) runs: Runs,
    pub(super) schedules: Schedules,
    pub(super) about: Arc<About>,
    pub(super) access: Access,
    pub(super) traffic: Arc<Traffic>,
    pub(super) status_rate: Arc<StatusRate>,
    /// Of clients, and of operators.
    pub(super) admissions: [Arc<Admission>; 2],
    /// The longest text of a task, in bytes.
    pub(super) limit: usize,
    /// Who may come in.
    pub(super) identities: Identities,
    pub(super) never_came: Arc<NeverCame>,
    pub(super) idle_since: Arc<IdleSince>,
}

/// Those with certificates, and their connections.
#[derive(Clone)]
pub(super) struct Identities {
    /// Who issues the certificates, if that is this server.
    pub(super) authority: Option<Authority>,
    pub(super) connections: Connections,
}

/// One that is known, by a certificate or by a token.
pub(super) struct Described {
    pub(super) by_token: bool,
    /// The groups that it may name.
    pub(super) groups: Vec<String>,
    /// What it may have of its own.
    pub(super) own: Own,
    /// What counts for it.
    pub(super) limits: Limits,
    /// How many it has now.
    pub(super) connections: usize,
    pub(super) streams: usize,
}

/// Changes the grant of a name: that of its certificate, that of its token, or both. Says whether there is one.
fn change_one(access: &Access, name: &str, change: &Change) -> Result<bool, Refusal> {
    let by_certificate = access.grants().change(name, change)?.is_some();
    let token = access.tokens().named(name).is_some();
    if token && !by_certificate && change.is_of_groups() {
        let why =
            format!("{name} has a token, whose groups stay what they are: make another with contactctl token create");
        return Err(Refusal::NoSuchGrant(why));
    }
    if token && !change.limits.is_empty() {
        access.tokens().limit(name, &change.limits)?;
    }
    Ok(by_certificate || token)
}

/// What somebody wants a task to have beside its text, not checked yet.
#[derive(Default)]
pub(super) struct Beside {
    pub(super) headers: HashMap<String, String>,
    pub(super) data: Vec<u8>,
}

impl Beside {
    /// What another one has.
    fn of(attachment: &Attachment) -> Beside {
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        Beside { headers: attachment.headers().iter().map(owned).collect(), data: attachment.data().to_vec() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.headers.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() + self.data.len()
    }
}

/// What is to be done, if it is something and not too long. `limit`: most bytes of text and data.
fn content(text: String, beside: Beside, limit: usize) -> Result<(String, Attachment), Refusal> {
    if text.is_empty() && beside.data.is_empty() {
        return Err(Refusal::EmptyTask);
    }
    let attachment = Text::Task.attachment(&text, beside.headers, beside.data, limit)?;
    Ok((text, attachment))
}

/// A task as somebody asks for it, not checked yet. Empty texts: not set.
pub(super) struct TaskRequest {
    pub(super) text: String,
    pub(super) beside: Beside,
    pub(super) to: String,
    /// Several groups, instead of `to`.
    pub(super) groups: Vec<String>,
    /// The text of a selector, instead of `to`.
    pub(super) select: String,
    pub(super) key: String,
    pub(super) not_before: Option<Time>,
    pub(super) expires_at: Option<Time>,
    /// From now, instead of `not_before`.
    pub(super) delay: Option<Duration>,
    /// From now, instead of `expires_at`.
    pub(super) ttl: Option<Duration>,
    pub(super) max_attempts: Option<u32>,
    /// The text of a policy; empty: there is none.
    pub(super) retry: String,
    /// 0: as long as it takes.
    pub(super) timeout_ms: u32,
    pub(super) timeout_fails: bool,
    pub(super) replace: Replacing,
    pub(super) priority: Priority,
    pub(super) lane: String,
}

/// Whose place a task is to take, not checked yet.
#[derive(Default)]
pub(super) struct Replacing {
    /// Empty: of none.
    pub(super) key: String,
    /// It waits until nothing newer came for so long.
    pub(super) quiet: Option<Duration>,
    /// But so long after the first.
    pub(super) max_wait: Option<Duration>,
}

impl Replacing {
    fn check(self) -> Result<Option<Box<Replace>>, Refusal> {
        let Replacing { key, quiet, max_wait } = self;
        if key.is_empty() {
            return match (quiet, max_wait) {
                (None, None) => Ok(None),
                _ => Err(Refusal::ReplaceMakesNoSense("a task waits for quiet only if it has a key to be replaced by")),
            };
        }
        let quiet = match (quiet.map(|quiet| quiet.as_millis()), max_wait.map(|most| most.as_millis())) {
            (None, None) => None,
            (None, Some(_)) => {
                return Err(Refusal::ReplaceMakesNoSense(
                    "it waits for nothing at most: say how long it is to be quiet",
                ));
            }
            (Some(0), _) => return Err(Refusal::ReplaceMakesNoSense("it is to be quiet for at least a millisecond")),
            (Some(quiet), Some(most)) if most < quiet => {
                return Err(Refusal::ReplaceMakesNoSense(
                    "what it waits at most is less than how long it is to be quiet: it would never be quiet for so long",
                ));
            }
            (Some(quiet), most) => {
                let millis = |time| u64::try_from(time).unwrap_or(u64::MAX);
                Some(Quiet { millis: millis(quiet), most_millis: most.map(millis), since: Time::default() })
            }
        };
        Ok(Some(Box::new(Replace::new(&key, quiet)?)))
    }
}

/// A server: how it is set, and how it is.
pub(super) struct ServerInfo {
    pub(super) about: Arc<About>,
    pub(super) retention: Retention,
    pub(super) config: broker::Config,
    pub(super) disk: Disk,
    pub(super) process: Process,
    pub(super) now: Time,
    pub(super) positions: Positions,
    pub(super) clients: usize,
    pub(super) groups: usize,
    pub(super) in_flight: u64,
    /// Acknowledgements that matched nothing, so far, and when the last came.
    pub(super) unmatched: (u64, Option<Time>),
    /// The client ids that several processes fight for.
    pub(super) contested: Vec<ContestedId>,
    /// The clients that are missing.
    pub(super) missing: Vec<(ClientId, Duration)>,
    /// The schedules that make no tasks though they are not paused.
    pub(super) in_trouble: Vec<Name>,
    pub(super) servers: Servers,
    /// If it was to be counted.
    pub(super) fleet: Option<Fleet>,
    /// Why the store takes no more, if it does not.
    pub(super) failure: Option<String>,
}

/// Groups, and what is not well.
#[derive(Default)]
pub(super) struct Fleet {
    /// By name; then, by name, those that tasks wait for though they are not there.
    pub(super) groups: Vec<Group>,
    /// There may be more of these.
    pub(super) never_came_left_out: bool,
    /// The gravest first.
    pub(super) findings: Vec<Finding>,
}

impl TaskRequest {
    /// The task, if it can be accepted. `limit`: most bytes of text and data; `before`: the task before it, with which it shares the
    /// name of their group.
    #[allow(clippy::needless_update, reason = "a column that operators do not set is not named here")]
    pub(super) fn check(self, limit: usize, before: Option<&NewTask>) -> Result<NewTask, Refusal> {
        let (text, attachment) = content(self.text, self.beside, limit)?;
        // Most tasks name no time: then the clock is not read for each.
        let now = LazyCell::new(Time::now);
        let after = |duration: Duration| now.after(duration);
        let not_before = self.delay.map(after).or(self.not_before);
        let expires_at = self.ttl.map(after).or(self.expires_at);
        let replace = self.replace.check()?;
        if replace.is_some() && !self.lane.is_empty() {
            return Err(Refusal::ReplaceMakesNoSense(
                "a key to be replaced by is a lane of one already: leave out the lane, or the key",
            ));
        }
        if let Some(expires_at) = expires_at {
            let quiet = replace.as_ref().and_then(|replace| replace.quiet);
            match not_before.max(quiet.map(|quiet| after(Duration::from_millis(quiet.millis)))) {
                Some(not_before) if expires_at <= not_before => {
                    return Err(Refusal::NoWindow { expires_at, not_before });
                }
                _ if expires_at <= *now => return Err(Refusal::Expired { expires_at, now: *now }),
                _ => {}
            }
        }
        let policy = retry_policy(&self.retry)?;
        let (named, audience) = audience(&self.to, self.groups, &self.select)?;
        Ok(NewTask {
            to: match before.and_then(|before| before.to.as_ref()).filter(|to| to.as_str() == self.to) {
                Some(to) => Some(to.clone()),
                None => named.map_or_else(|| if_set(NameOf::To, &self.to), |named| Ok(Some(named)))?,
            },
            audience: audience.map(Arc::new),
            // Held to the same rule as names, so that an index on keys stays small.
            key: if_set(NameOf::Key, &self.key)?.map(|key| key.as_str().to_owned()),
            not_before,
            expires_at,
            max_attempts: self.max_attempts.filter(|n| *n > 0).or(policy.max_attempts),
            retry: policy.backoff.map(Box::new),
            time_limit: NonZeroU32::new(self.timeout_ms).map(|millis| TimeLimit { millis, fails: self.timeout_fails }),
            replace,
            priority: self.priority,
            lane: if_set(NameOf::Lane, &self.lane)?,
            text,
            attachment,
            ..NewTask::default()
        })
    }
}

/// For whom a broadcast is, if not for all; or the one group that is named among several.
fn audience(to: &str, groups: Vec<String>, select: &str) -> Result<(Option<Name>, Option<Audience>), Refusal> {
    if !select.is_empty() {
        return match to.is_empty() && groups.is_empty() {
            true => Ok((None, Some(Audience::Matching(select.parse()?)))),
            false => Err(Refusal::SelectorAndGroup),
        };
    }
    if groups.is_empty() {
        return Ok((None, None));
    }
    let to = Some(to).filter(|to| !to.is_empty());
    if groups.len() + to.iter().len() > Audience::MOST_GROUPS {
        return Err(Refusal::TooManyTargets);
    }
    let names = to.into_iter().chain(groups.iter().map(String::as_str)).map(|name| Name::new(NameOf::To, name));
    match Audience::groups(names.collect::<Result<_, _>>()?) {
        Audience::Groups(mut names) if names.len() == 1 => Ok((names.pop(), None)),
        several => Ok((None, Some(several))),
    }
}

/// A name; none if it is empty.
pub(super) fn if_set(of: NameOf, name: &str) -> Result<Option<Name>, Refusal> {
    Ok(if name.is_empty() { None } else { Some(Name::new(of, name)?) })
}

impl ServerInfo {
    fn facts<'a>(&'a self, groups: &'a [Group], idle_since: &'a IdleSince) -> Facts<'a> {
        Facts {
            now: self.now,
            not_ready: self.failure.as_deref(),
            disk: self.disk.clone(),
            process: self.process.clone(),
            retention: self.retention.clone(),
            step: self.about.clock.look(),
            certificate: self.about.certificate(),
            tasks: self.positions.task,
            results: self.positions.result,
            clients: self.clients,
            groups,
            max_groups: self.config.max_groups,
            idle_since,
            unmatched: self.unmatched,
            contested: self.contested.clone(),
            missing: self.missing.clone(),
            in_trouble: self.in_trouble.clone(),
            servers: &self.servers,
        }
    }
}

impl Operator {
    async fn task(&self, id: TaskId) -> Result<Task, Refusal> {
        let found = self.queries.run(move |reader| reader.tasks_by_id(&[id])).await?;
        let newest = self.store.tail().positions().task;
        found.into_iter().next().ok_or(Refusal::NoSuchTask(id, newest))
    }

    /// What a task has beside its text.
    pub(super) async fn attachment_of_task(&self, id: TaskId) -> Result<Attachment, Refusal> {
        Ok(self.task(id).await?.spec.attachment)
    }

    /// What a result has beside its text.
    pub(super) async fn attachment_of_result(&self, seq: u64) -> Result<Attachment, Refusal> {
        let found = self.queries.run(move |reader| reader.results_by_seq(&[seq])).await?;
        found.into_iter().next().map(|entry| entry.result.attachment).ok_or(Refusal::NoSuchResult(seq))
    }

    async fn outcomes_of(&self, id: TaskId) -> Result<Vec<TaskResult>, Refusal> {
        Ok(self.queries.run(move |reader| reader.outcomes_of(id)).await?)
    }

    /// Takes those out of the tasks that name several groups of which some are not there: each with its place.
    pub(super) async fn take_unknown(&self, tasks: &mut Vec<NewTask>) -> Result<Vec<(usize, Refusal)>, Refusal> {
        let names = |task: &NewTask| match task.audience.as_deref() {
            Some(Audience::Groups(names)) => names.clone(),
            _ => Vec::new(),
        };
        let mut asked: Vec<GroupName> = tasks.iter().flat_map(names).collect();
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        asked.sort_unstable();
        asked.dedup();
        let unknown = self.broker.unknown(asked).await?;
        let (mut refused, mut place) = (Vec::new(), 0);
        tasks.retain(|task| {
            let missing: Vec<_> = names(task).into_iter().filter(|name| unknown.binary_search(name).is_ok()).collect();
            let stays = missing.is_empty();
            if !stays {
                refused.push((place, Refusal::NoSuchGroups(missing)));
            }
            place += 1;
            stays
        });
        Ok(refused)
    }

    /// Accepts all of the tasks, or none.
    pub(super) async fn submit(&self, mut tasks: Vec<NewTask>) -> Result<Accepted, Refusal> {
        if let Some((index, why)) = self.take_unknown(&mut tasks).await?.into_iter().next() {
            return Err(Refusal::InRequest { index, why: Box::new(why) });
        }
        let mut accepted = self.broker.submit(tasks).await?;
        match accepted.reused.is_empty() {
            true => Ok(accepted),
            false => {
                let why = accepted.reused.swap_remove(0);
                Err(Refusal::InRequest { index: why.place, why: Box::new(why.into()) })
            }
        }
    }

    /// Accepts the task; says its id, and whether that was known by its key.
    pub(super) async fn submit_one(&self, task: NewTask) -> Result<(TaskId, bool), Refusal> {
        let mut tasks = vec![task];
        if let Some((_, why)) = self.take_unknown(&mut tasks).await?.pop() {
            return Err(why);
        }
        let accepted = self.broker.submit(tasks).await?;
        match accepted.reused.into_iter().next() {
            Some(why) => Err(why.into()),
            None => Ok((accepted.first_id, !accepted.known.is_empty())),
        }
    }

    /// Accepts those of the tasks that can be, in two steps: see [`store::Handle::begin_submit`].
    pub(super) async fn begin_submit(
        &self,
        tasks: Vec<NewTask>,
    ) -> Result<impl Future<Output = Result<Accepted, store::StoreError>> + Send + use<>, Refusal> {
        Ok(self.broker.begin_submit(tasks).await?)
    }

    /// A task, where it stands with each group, and what came of it: this part of it.
    pub(super) async fn describe(&self, id: TaskId, part: Part) -> Result<Ledger, Refusal> {
        let task = self.task(id).await?;
        let states = self.broker.task_states(task.clone()).await?;
        Ok(self.queries.run(move |reader| Ledger::new(task, states, &part, reader, Time::now())).await?)
    }

    /// The connected clients, oldest stream first; and those that are drained and not connected, by name.
    pub(super) async fn clients(&self) -> Result<(Vec<ClientInfo>, Vec<Drain>), Refusal> {
        Ok(self.broker.clients().await?)
    }

    /// Everybody who has an id and is known, by id: those that are not connected for so long.
    pub(super) async fn known_clients(&self, offline: Option<Duration>) -> Result<Vec<KnownClient>, Refusal> {
        let (mut known, now) = (self.broker.known().await?, Time::now());
        known.retain(|it| offline.is_none_or(|least| !it.here && now.since(it.last_seen) >= least));
        Ok(known)
    }

    // What changes who is let in writes a file, and so is done on the threads that may wait for a disk.
    fn authority(&self) -> Result<Authority, Refusal> {
        self.identities.authority.clone().ok_or(Refusal::NotPublic)
    }

    /// What one needs to join this fleet, for that long, for so many, each of whom is granted this.
    pub(super) async fn invite(&self, grant: Grant, lasts: Duration, uses: u32) -> Result<String, Refusal> {
        let authority = self.authority()?;
        self.queries.run(move |_| Ok(authority.invite(grant, lasts, uses))).await?
    }

    /// A certificate for the key of a request, and that of the authority. `more`: what is granted beside what it has.
    pub(super) async fn issue(
        &self,
        role: Role,
        name: Name,
        csr: String,
        lasts: Duration,
        more: Change,
    ) -> Result<Issued, Refusal> {
        let authority = self.authority()?;
        let called = name.clone();
        let issued = self.queries.run(move |_| Ok(authority.issue_for(role, called, &csr, lasts, &more))).await??;
        // It may be there already, with another certificate.
        self.put_in_force(name.as_str()).await?;
        Ok(issued)
    }

    /// What one that is known may do and have: as who shows a certificate, as who shows a token.
    pub(super) fn known(&self, name: &str) -> Result<Vec<Described>, Refusal> {
        let accounts = self.access.accounts();
        let token = self.access.tokens().named(name);
        let certified = self.access.grants().of(name).map(|grant| {
            let has = accounts.certified(name).into_iter().map(|account| account.open());
            let (connections, streams) = has.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
            let limits = accounts.limits().with(&grant.limits);
            Described { by_token: false, groups: grant.groups, own: grant.limits, limits, connections, streams }
        });
        let with_token = token.map(|token| {
            let (account, (connections, streams)) = (&token.account, token.account.open());
            let (own, limits) = (account.own(), account.limits());
            Described { by_token: true, groups: token.groups.clone(), own, limits, connections, streams }
        });
        let all: Vec<_> = certified.into_iter().chain(with_token).collect();
        if all.is_empty() { Err(Refusal::NoSuchIdentity(name.to_owned())) } else { Ok(all) }
    }

    /// Grants more or less to one that is known, from now on.
    pub(super) async fn change_identity(&self, name: String, change: Change) -> Result<Vec<Described>, Refusal> {
        let called = Name::new(NameOf::ClientOrGroup, &name)?.to_string();
        let (access, of_groups) = (self.access.clone(), change.is_of_groups());
        let changed = self.changes.run(move |_| Ok(change_one(&access, &called, &change))).await??;
        if !changed {
            return Err(Refusal::NoSuchIdentity(name));
        }
        self.put_in_force(&name).await?;
        if of_groups {
            // It comes again at once, and is looked at anew.
            self.identities.connections.end(&name);
        }
        self.known(&name)
    }

    /// Has what is granted to a name count for the streams it has.
    async fn put_in_force(&self, name: &str) -> Result<(), Refusal> {
        let certified = self.access.grants().of(name);
        let accounts = self.access.accounts().certified(name);
        let changed = certified.iter().flat_map(|grant| accounts.iter().map(|one| one.change(grant.limits.clone())));
        let with_token = self.access.tokens().named(name).map(|token| token.account.quota());
        Ok(self.upstream.set_quotas(changed.chain(with_token).collect()).await?)
    }

    /// Who was given certificates; or, where another authority does so, to whom something is granted.
    pub(super) fn enrolled(&self) -> Result<Vec<Enrolled>, Refusal> {
        match (&self.identities.authority, self.access.grants().granted()) {
            (Some(authority), _) => Ok(authority.identities()),
            (None, Some(all)) => {
                let one =
                    |(name, grant)| Enrolled { name, role: Role::Agent, grant, issued_at: 0, until: 0, revoked: false };
                Ok(all.into_iter().map(one).collect())
            }
            (None, None) => Err(Refusal::NotPublic),
        }
    }

    /// Lets one in no more, and ends the connections it has. Says how many these were.
    pub(super) async fn revoke(&self, name: String) -> Result<usize, Refusal> {
        let authority = self.authority()?;
        let identity = self.queries.run(move |_| Ok(authority.revoke(&name))).await??;
        Ok(self.identities.connections.end(identity.name.as_str()))
    }

    /// Gives a client no more tasks, for that long, or until it is undrained. Says which streams it has.
    pub(super) async fn drain(
        &self,
        client: String,
        lasts: Option<Duration>,
        note: String,
    ) -> Result<Vec<ClientInfo>, Refusal> {
        let drained = self.broker.drain_client(client, lasts, note).await?;
        if let Some(forgotten) = drained.forgotten {
            warn!(
                "client {forgotten:?} is not drained any more: it is not connected, and {MOST_DRAINS} clients are drained"
            );
        }
        Ok(drained.clients)
    }

    /// Makes a token; gives its secret, too, which nobody is told again.
    pub(super) async fn create_token(&self, new: NewToken) -> Result<(Arc<Token>, String), Refusal> {
        let access = self.access.clone();
        self.changes.run(move |_| Ok(access.tokens().create(new))).await?
    }

    /// Has a token count no more.
    pub(super) async fn revoke_token(&self, name: String) -> Result<(), Refusal> {
        let access = self.access.clone();
        self.changes.run(move |_| Ok(access.tokens().revoke(&name))).await?
    }

    /// Gives tasks to a client again that was drained.
    pub(super) async fn undrain(&self, client: String) -> Result<Drained, Refusal> {
        Ok(self.broker.undrain_client(client).await?)
    }

    /// The groups, how far each has come, and what is not well.
    pub(super) async fn fleet(&self) -> Result<Fleet, Refusal> {
        Ok(self.server(true).await?.fleet.unwrap_or_default())
    }

    /// The server itself. `counted`: with what has to be counted for it.
    pub(super) async fn server(&self, counted: bool) -> Result<ServerInfo, Refusal> {
        let (groups, config) = (self.broker.groups().await?, self.broker.config().await?);
        let clients = self.broker.connected().await?;
        let (unmatched, contested) = (self.broker.unmatched().await?, self.broker.contested().await?);
        let (missing, in_trouble) = (self.broker.missing().await?, self.schedules.in_trouble());
        let servers = self.servers(clients);
        let (about, store) = (self.about.clone(), self.store.clone());
        let (never_came, idle_since) = (self.never_came.clone(), self.idle_since.clone());
        let look = move |reader: &mut dyn Reader| {
            let mut server = ServerInfo {
                retention: about.retention(),
                disk: Disk::of(&about.data, about.retention().min_free),
                process: Process::now(),
                about,
                config,
                now: Time::now(),
                positions: store.tail().positions(),
                clients,
                groups: groups.len(),
                in_flight: groups.iter().map(|group| group.in_flight as u64).sum(),
                unmatched,
                contested,
                missing,
                in_trouble,
                servers,
                fleet: None,
                failure: store.failure(),
            };
            if counted {
                let mut groups = groups;
                let (newest, now) = (server.positions.task, server.now);
                let never_came_left_out = never_came.add_to(&mut groups, reader, newest, now)?;
                let groups = count_groups(reader, groups)?;
                let findings = judge(&server.facts(&groups, &idle_since));
                server.fleet = Some(Fleet { groups, never_came_left_out, findings });
            }
            Ok(server)
        };
        Ok(self.queries.run(look).await?)
    }

    /// Takes a task back; says from whom that had not settled it, and whether it had been taken back before.
    pub(super) async fn cancel(&self, id: TaskId) -> Result<(Cancelled, bool), Refusal> {
        let task = self.task(id).await?;
        let (already, waited) = (task.spec.cancelled_at().is_some(), task.spec.over(Time::now()).is_none());
        let never_came = match task.spec.to.clone().filter(|_| waited) {
            Some(to) => !self.broker.task_states(task.clone()).await?.iter().any(|(group, _)| *group == to),
            None => false,
        };
        let mut cancelled = self.broker.cancel(task).await?;
        cancelled.waiting += u32::from(never_came);
        Ok((cancelled, already))
    }

    /// Gives a task again: to this group, or to each that it was for and that settled it without [`Outcome::Done`]. Says to how many.
    pub(super) async fn retry(&self, id: TaskId, group: Option<GroupName>) -> Result<usize, Refusal> {
        let task = self.task(id).await?;
        if let Some(by) = task.spec.replaced_by() {
            return Err(Refusal::Replaced(id, by));
        }
        let names = match group {
            Some(group) if self.broker.groups().await?.iter().any(|info| info.name == group) => vec![group],
            Some(group) => return Err(BrokerError::from(GroupError::Unknown(group)).into()),
            None => {
                let results = self.outcomes_of(id).await?;
                let undone = settlements(&results).into_iter().filter(|(_, r)| {
                    !matches!(r.result.outcome, Outcome::Done | Outcome::NotSelected | Outcome::Replaced)
                });
                let mut names: Vec<GroupName> = undone.map(|(group, _)| group.clone()).collect();
                names.sort_unstable();
                names
            }
        };
        Ok(self.broker.revive(task, names).await?)
    }

    /// Takes a dead letter off the list.
    pub(super) async fn drop_dead(&self, id: TaskId, group: GroupName) -> Result<(), Refusal> {
        self.task(id).await?;
        let of = group.clone();
        if !self.queries.run(move |reader| reader.is_dead(id, &of)).await? {
            return Err(Refusal::NotDead(id, group));
        }
        Ok(self.broker.drop_dead(id, group).await?)
    }

    /// The dead letters before a position, newest first, each with its task if that is still there; and whether there are more.
    pub(super) async fn latest_dead(
        &self,
        before: u64,
        group: Option<GroupName>,
        limit: usize,
    ) -> Result<(Vec<(TaskResult, Option<Task>)>, bool), Refusal> {
        let read = move |reader: &mut dyn Reader| {
            let (entries, more) = latest_dead(reader, before, group.as_ref(), limit)?;
            let with_task = entries.into_iter().map(|entry| {
                let task = reader.tasks_by_id(&[entry.result.task])?.into_iter().next();
                Ok((entry, task))
            });
            Ok((with_task.collect::<Result<_, store::StoreError>>()?, more))
        };
        Ok(self.queries.run(read).await?)
    }

    /// Begins to copy the store into a file on this machine.
    pub(super) fn back_up(&self, to: String) -> Result<Backup, Refusal> {
        Backup::begin(self.store.clone(), to.into())
    }

    /// Stops or resumes the delivery of tasks to a group; says whether it was made for that.
    pub(super) async fn pause(&self, group: GroupName, paused: bool) -> Result<bool, Refusal> {
        if paused {
            self.check_joinable(&group).await?;
        }
        Ok(self.broker.set_paused(group, paused).await?)
    }

    /// Whether the group is there, or may be made: none is made that no client could join.
    async fn check_joinable(&self, group: &GroupName) -> Result<(), Refusal> {
        match Name::new(NameOf::ClientOrGroup, group.as_str()) {
            Err(NameError { rule, .. }) if !self.broker.groups().await?.iter().any(|info| info.name == *group) => {
                Err(NameError { of: NameOf::Group, rule }.into())
            }
            _ => Ok(()),
        }
    }

    /// Says how the tasks of a group are tried again; says whether the group was made for that.
    pub(super) async fn set_retry(&self, group: GroupName, retry: RetryPolicy) -> Result<bool, Refusal> {
        if !retry.is_open() {
            self.check_joinable(&group).await?;
        }
        Ok(self.broker.set_retry(group, retry).await?)
    }

    /// Sets limits of a group anew; says how they are, and whether the group was made for that.
    pub(super) async fn set_limits(
        &self,
        group: GroupName,
        change: LimitsChange,
    ) -> Result<(GroupLimits, bool), Refusal> {
        if change == LimitsChange::default() {
            return Err(Refusal::NoLimits);
        }
        if !change.applied_to(GroupLimits::default()).is_default() {
            self.check_joinable(&group).await?;
        }
        Ok(self.broker.set_limits(group, change).await?)
    }

    /// Says that the clock is right; gives the milliseconds by which it had stepped, 0 if it had not.
    pub(super) fn accept_clock(&self) -> i64 {
        self.about.clock.accept()
    }

    /// Forgets a group; says how many tasks it still owed.
    pub(super) async fn remove_group(&self, group: GroupName) -> Result<u64, Refusal> {
        let infos = self.broker.groups().await?;
        let owed = infos.iter().find(|info| info.name == group).map_or(0, |info| info.lag);
        self.broker.remove_group(group).await?;
        Ok(owed)
    }
}
