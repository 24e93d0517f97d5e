//! What is not well with a server and its groups. The page, `contactctl top` and `contactctl doctor` show these findings in their
//! own words, so that all of them say the same.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::groups::Group;
use super::servers::{Servers, judge_servers};
use crate::broker::ContestedId;
use crate::front::Certificate;
use crate::nearest::nearest;
use crate::server::about::millis;
use crate::server::clock::Step;
use crate::server::config::Retention;
use crate::server::machine::{Disk, Process};
use crate::task::{ClientId, GroupName, Name, TaskId, Time};

/// With less room than this on the disk, a minute of usual work may fill it: a thousand tasks of 1 kB a second, with outcomes.
const DISK_FULL: u64 = 100 << 20;
/// With less than this it is time to make room: ten times as long.
const DISK_LOW: u64 = 1 << 30;
/// A group whose last client went within this was not left alone: clients that are started again, or whose connection broke, are
/// back by then.
const AWAY: Duration = Duration::from_secs(5);
/// A task that is due goes to an idle client within milliseconds, or within a second if its page must be read from a busy disk.
const HANGING: Duration = Duration::from_secs(60);
/// Work that takes a group longer than this at its pace of the last ten seconds is worth a word: less is over before it is read.
const LAGGING: Duration = Duration::from_secs(60);
/// Clients that settle nothing for so long, with tasks waiting behind those they have, may have hung up on them. The lease of
/// one that still says `WORKING` goes on, so only this shows it.
const STUCK: Duration = Duration::from_secs(300);
/// How long an acknowledgement that matched nothing is a finding: it means that tasks are done and come again, until somebody acts.
const UNMATCHED: Duration = Duration::from_secs(600);
/// A certificate that is over sooner should have been replaced: those of public authorities are after two thirds of 90 days or less.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);
const EXPIRES_NOW: Duration = Duration::from_secs(24 * 3600);
/// Findings of one code that are told one by one; the others are counted.
const EACH: usize = 3;

/// What a finding is about, in the order in which findings of one severity are told. The fields that mean something are named. The numbers
/// are those of the wire, where 0 is not set; so a new one comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
#[serde(rename_all = "snake_case")]
pub(in crate::server) enum Code {
    /// The server takes no tasks. `text`: why.
    NotReady = 1,
    /// The disk is nearly full. `count`: bytes that are left, `limit`: those that are to stay free. With less statuses are not stored,
    /// and with less than half of that no tasks are accepted.
    Disk,
    /// Nearly as many files are open as may be; each client is one. `count` of `limit`.
    OpenFiles,
    /// Tasks wait for a group that is not there: no client of that name has ever come, or it was removed. `count`: tasks, `task`: the
    /// oldest, `millis`: its age, `text`: the name of a group that is there which is most like it, if there is one.
    NeverCame,
    /// No client of the group is connected. `count`: tasks that it has not settled, `task`: the oldest, `millis`: its age.
    Unserved,
    /// The group is paused. `count`: tasks that it has not settled.
    Paused,
    /// Tasks that are due wait though clients are idle. `count`: tasks, `task`: the oldest of the group, `millis`: for how long.
    Hanging,
    /// Its clients settle nothing, and tasks wait. `count`: tasks, `millis`: for how long.
    Stuck,
    /// Its clients will need long. `count`: tasks that wait, `millis`: how long at their pace.
    Lagging,
    /// The group gave tasks up. `count`: dead letters.
    DeadLetters,
    /// Nothing is removed from the log after the oldest task of the group. `task`: that one, `millis`: its age. `limit`: not 0 if no
    /// client of it is connected, and it ends when that age is so many milliseconds.
    Retention,
    /// The store takes more than it is to. `count`: bytes, `limit`. `group`: who keeps the oldest task from being removed, if there is
    /// one, `task`: that task, `millis`: its age.
    StoreSize,
    /// Acknowledgements without an id match no delivery to their address. `count`: so far, `millis`: since the last.
    Unmatched,
    /// Nothing waits, and no client is connected.
    Quiet,
    /// Nothing has happened yet.
    First,
    /// The clock of the server stepped, and nothing is removed because of that yet. `millis`: by how much, `limit`: milliseconds until
    /// it counts, `text`: `ahead` or `behind`.
    Clock,
    /// Several processes fight for a client id. `text`: the id, `group`: that of the one that has it, `count`: how often it was taken
    /// over, `millis`: since when.
    Contested,
    /// All clients of the group are drained, or about to stop, and tasks wait. `count`: tasks, `millis`: for how long they are.
    Drained,
    /// Tasks of the group expired before a client was given them. `count`: how many lately, `millis`: since the last.
    Expired,
    /// There are nearly as many groups as may be, or as many: then no new one comes. `count` of `limit`.
    Groups,
    /// The certificate by which the server speaks TLS is over soon, or its files are wrong. `text`: why those that lie there are not
    /// used; none if they are. `millis`: how long the one that is used is valid.
    Certificate,
    /// A client that is a group of its own has been away for more than three days, and nothing waits for it. `millis`: how long.
    Missing,
    /// The server is one of several, and no other one would lead in its place. `count`: servers that are silent, `text`: those that are
    /// there and cannot write their own disk, and why.
    Standby,
    /// The log of the cluster has fewer than three replicas that are there and have all of it. `count`: so many, `limit`: those that it is
    /// to have, `text`: the names of those that are not.
    Replicas,
    /// The log of the cluster is kept so that it may lose tasks, or stop the servers. `text`: what is wrong.
    Log,
    /// The servers of the cluster are of different versions. `text`: which is of which.
    Versions,
    /// The clock of another server of the cluster differs from this one's. `text`: its name, `millis`: by how much, `limit`: not 0 if it is
    /// ahead.
    Clocks,
    /// Another server of the cluster is far behind. `text`: its name, `count`: messages of the log.
    Behind,
    /// A schedule makes no tasks though it is not paused. `text`: its name.
    Schedule,
}

/// How grave a finding is. The gravest is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
#[serde(rename_all = "snake_case")]
pub(in crate::server) enum Severity {
    /// Good to know.
    Note = 1,
    /// Needs attention.
    Warning,
    /// The server does not work, or is about not to.
    Failure,
}

/// What was found. What the fields mean depends on the [`Code`]; those that mean nothing are 0, or not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) struct Finding {
    pub(in crate::server) code: Code,
    pub(in crate::server) severity: Severity,
    pub(in crate::server) group: Option<GroupName>,
    pub(in crate::server) count: u64,
    pub(in crate::server) limit: u64,
    pub(in crate::server) task: Option<TaskId>,
    pub(in crate::server) millis: u64,
    pub(in crate::server) text: Option<String>,
    /// How many others of this code are left out. Said of the last one.
    pub(in crate::server) more: u64,
}

/// What the judgement is made of.
pub(in crate::server) struct Facts<'a> {
    pub(in crate::server) now: Time,
    /// Why the server takes no tasks, if it does not.
    pub(in crate::server) not_ready: Option<&'a str>,
    pub(in crate::server) disk: Disk,
    pub(in crate::server) process: Process,
    pub(in crate::server) retention: Retention,
    /// A step of the clock that does not count yet.
    pub(in crate::server) step: Option<Step>,
    /// The certificate that is used, if there is TLS.
    pub(in crate::server) certificate: Option<Certificate>,
    /// Tasks that were accepted, and outcomes that were written down, ever.
    pub(in crate::server) tasks: u64,
    pub(in crate::server) results: u64,
    /// Clients that are connected.
    pub(in crate::server) clients: usize,
    pub(in crate::server) groups: &'a [Group],
    /// Most groups that may be.
    pub(in crate::server) max_groups: usize,
    /// Acknowledgements that matched nothing, so far, and when the last came.
    pub(in crate::server) unmatched: (u64, Option<Time>),
    /// The client ids that several processes fight for.
    pub(in crate::server) contested: Vec<ContestedId>,
    /// The clients that are missing, each with how long it has been away.
    pub(in crate::server) missing: Vec<(ClientId, Duration)>,
    /// The schedules that make no tasks though they are not paused.
    pub(in crate::server) in_trouble: Vec<Name>,
    pub(in crate::server) servers: &'a Servers,
    pub(in crate::server) idle_since: &'a IdleSince,
}

/// Since when each look at these groups has found idle clients beside tasks that are due. For a moment that is also so when a delayed
/// task becomes due, a group is resumed, or the first client comes; so how old the tasks are says nothing.
#[derive(Debug, Default)]
pub(in crate::server) struct IdleSince(Mutex<HashMap<GroupName, Time>>);

impl IdleSince {
    fn look(&self, groups: &[Group], now: Time) -> HashMap<GroupName, Time> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = groups.iter().filter(|group| group.is_idle()).map(|group| &group.info.name);
        *known = idle.map(|name| (name.clone(), known.get(name).copied().unwrap_or(now))).collect();
        known.clone()
    }
}

/// What there is to say, the gravest first.
pub(in crate::server) fn judge(facts: &Facts<'_>) -> Vec<Finding> {
    let mut found: Vec<Finding> = facts.of_server().into_iter().flatten().collect();
    found.extend(judge_servers(facts.servers));
    found.extend(facts.contested.iter().map(|contested| Finding {
        group: contested.group.clone(),
        count: contested.changes.into(),
        millis: millis(contested.lasts),
        text: Some(contested.client.to_string()),
        ..Finding::new(Code::Contested)
    }));
    found.extend(
        facts.in_trouble.iter().map(|name| Finding { text: Some(name.to_string()), ..Finding::new(Code::Schedule) }),
    );
    let idle_since = facts.idle_since.look(facts.groups, facts.now);
    found.extend(facts.groups.iter().flat_map(|group| {
        let idle_since = idle_since.get(&group.info.name).copied();
        facts.of_group(group, idle_since).into_iter().flatten()
    }));
    // Those for whom something waits are unserved groups.
    let unserved = found.iter().filter(|found| found.code == Code::Unserved);
    let unserved: HashSet<_> = unserved.map(|found| found.group.clone()).collect();
    let missing = facts.missing.iter().map(|(client, away)| Finding {
        severity: Severity::Note,
        group: Some(client.clone()),
        millis: millis(*away),
        ..Finding::new(Code::Missing)
    });
    let mut missing: Vec<_> = missing.filter(|found| !unserved.contains(&found.group)).collect();
    // The last ones first, since they are news.
    missing.sort_by(|a, b| (a.millis, &a.group).cmp(&(b.millis, &b.group)));
    found.extend(missing);
    if found.is_empty() {
        let is_fresh = facts.tasks == 0 || (facts.results == 0 && facts.clients == 0);
        if is_fresh {
            found.push(Finding { severity: Severity::Note, ..Finding::new(Code::First) });
        } else if facts.clients == 0 && facts.groups.iter().all(|group| group.lag == 0) {
            found.push(Finding::new(Code::Quiet));
        }
    }
    found.sort_by_key(|finding| (Reverse(finding.severity), finding.code, Reverse(finding.count)));
    let mut told: Vec<Finding> = Vec::new();
    for finding in found {
        match told.len().checked_sub(EACH).map(|at| told[at].code) {
            Some(code) if code == finding.code => told.last_mut().into_iter().for_each(|last| last.more += 1),
            _ => told.push(finding),
        }
    }
    for finding in told.iter_mut().filter(|finding| finding.code == Code::NeverCame) {
        finding.text = facts.nearest(finding.group.as_ref());
    }
    told
}

impl Finding {
    pub(super) fn new(code: Code) -> Finding {
        let severity = Severity::Warning;
        Finding { code, severity, group: None, count: 0, limit: 0, task: None, millis: 0, text: None, more: 0 }
    }

    fn of(code: Code, group: &Group, count: u64) -> Finding {
        Finding { group: Some(group.info.name.clone()), count, ..Finding::new(code) }
    }
}

impl Facts<'_> {
    fn of_server(&self) -> [Option<Finding>; 8] {
        let grave = |is_grave| if is_grave { Severity::Failure } else { Severity::Warning };
        let not_ready = self.not_ready.map(|why| {
            let text = Some(why.to_owned());
            Finding { severity: Severity::Failure, text, ..Finding::new(Code::NotReady) }
        });
        let floor = self.disk.floor;
        let free = self.disk.free.filter(|free| *free < DISK_LOW.max(floor));
        let disk = free.map(|free| {
            let severity = grave(free < DISK_FULL.max(floor / 2));
            Finding { severity, count: free, limit: floor, ..Finding::new(Code::Disk) }
        });
        // Four fifths are for clients before somebody is told.
        let files = self.process.open_fds.zip(self.process.max_fds);
        let files = files.filter(|(open, limit)| limit.saturating_sub(*open) < limit / 5).map(|(count, limit)| {
            let severity = grave(limit.saturating_sub(count) < limit / 50);
            Finding { severity, count, limit, ..Finding::new(Code::OpenFiles) }
        });
        // What is removed is not all at once, so there is a tenth of room.
        let limit = self.retention.retain_bytes;
        let limit = limit.filter(|limit| self.disk.store_bytes() > limit.saturating_add(limit / 10));
        let size = limit.map(|limit| {
            let size = Finding { count: self.disk.store_bytes(), limit, ..Finding::new(Code::StoreSize) };
            let came = self.groups.iter().filter(|group| !group.info.never_came);
            match came.filter_map(|group| Some((group.oldest?, group))).min_by_key(|((task, _), _)| *task) {
                None => size,
                Some(((task, at), group)) => {
                    let (group, task) = (Some(group.info.name.clone()), Some(task));
                    Finding { group, task, millis: millis(self.since(at)), ..size }
                }
            }
        });
        let clock = self.step.map(|step| Finding {
            millis: step.ahead.unsigned_abs(),
            limit: millis(step.left),
            text: Some(if step.ahead > 0 { "ahead" } else { "behind" }.into()),
            ..Finding::new(Code::Clock)
        });
        let (count, last) = self.unmatched;
        let ago = last.map(|last| self.since(last)).filter(|ago| *ago < UNMATCHED);
        let unmatched = ago.map(|ago| Finding { count, millis: millis(ago), ..Finding::new(Code::Unmatched) });
        let (count, limit) = (self.groups.iter().filter(|group| !group.info.never_came).count(), self.max_groups);
        let groups = (count >= limit - limit / 5).then(|| Finding {
            severity: grave(count >= limit),
            count: count as u64,
            limit: limit as u64,
            ..Finding::new(Code::Groups)
        });
        let certificate = self.certificate.as_ref().and_then(|certificate| {
            let left = certificate.left;
            let is_wrong = certificate.trouble.is_some() || left < EXPIRES_SOON;
            let severity = grave(left < EXPIRES_NOW);
            let text = certificate.trouble.clone();
            is_wrong.then(|| Finding { severity, millis: millis(left), text, ..Finding::new(Code::Certificate) })
        });
        [not_ready, disk, files, size, clock, unmatched, groups, certificate]
    }

    fn of_group(&self, group: &Group, idle_since: Option<Time>) -> [Option<Finding>; 4] {
        let age = group.oldest.map_or(Duration::ZERO, |(_, accepted_at)| self.since(accepted_at));
        let oldest = |code| Finding {
            task: group.oldest.map(|(task, _)| task),
            millis: millis(age),
            ..Finding::of(code, group, group.lag)
        };
        let dead = (group.dead > 0).then(|| Finding::of(Code::DeadLetters, group, group.dead));
        let ends = self.retention.max_lag.filter(|_| group.info.clients == 0);
        let keeps = !group.info.never_came
            && age > ends.map_or(self.retention.retain, |most| self.retention.retain.min(most / 2));
        let undelivered = group.info.undelivered;
        let last = undelivered.last.filter(|_| undelivered.is_recent(self.now));
        let expired = last.map(|last| Finding {
            millis: millis(self.since(last)),
            ..Finding::of(Code::Expired, group, undelivered.count)
        });
        [
            self.of_delivery(group, idle_since, &oldest),
            dead,
            keeps.then(|| Finding { limit: ends.map_or(0, millis), ..oldest(Code::Retention) }),
            expired,
        ]
    }

    /// Whether its tasks go out and are settled.
    fn of_delivery(
        &self,
        group: &Group,
        idle_since: Option<Time>,
        oldest: &dyn Fn(Code) -> Finding,
    ) -> Option<Finding> {
        let (info, due) = (&group.info, group.due());
        if info.never_came {
            return (group.lag > 0).then(|| oldest(Code::NeverCame));
        }
        if info.paused {
            return Some(Finding::of(Code::Paused, group, group.lag));
        }
        if info.clients == 0 {
            return (group.lag > 0 && self.since(info.last_used) > AWAY).then(|| oldest(Code::Unserved));
        }
        if due == 0 {
            return None;
        }
        if let Some(since) = info.draining_since {
            let drained = || Finding { millis: millis(self.since(since)), ..Finding::of(Code::Drained, group, due) };
            return (self.since(since) > AWAY).then(drained);
        }
        if info.rate > 0.0 {
            let needed = Duration::try_from_secs_f64(due as f64 / info.rate).unwrap_or(Duration::MAX);
            let lagging = Finding { millis: millis(needed), ..Finding::of(Code::Lagging, group, due) };
            return (needed > LAGGING).then_some(lagging);
        }
        let Some(held_since) = info.held_since else {
            let idle = idle_since.map_or(Duration::ZERO, |since| self.since(since));
            let hanging = || Finding { count: due, millis: millis(idle), ..oldest(Code::Hanging) };
            return (idle > HANGING).then(hanging);
        };
        let still = self.since(info.last_settled.map_or(held_since, |settled| settled.max(held_since)));
        (still > STUCK).then(|| Finding { millis: millis(still), ..Finding::of(Code::Stuck, group, due) })
    }

    fn since(&self, time: Time) -> Duration {
        Duration::from_millis(self.now.0.saturating_sub(time.0).max(0).unsigned_abs())
    }

    /// The group that is there whose name is most like this one.
    fn nearest(&self, name: Option<&GroupName>) -> Option<String> {
        let came = self.groups.iter().filter(|group| !group.info.never_came).map(|group| group.info.name.as_str());
        nearest(name?.as_str(), came).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::broker::{GroupInfo, Undelivered};
    use crate::store::ClusterView;
    use crate::task::{Name, NameOf};

    const NOW: Time = Time(1_777_536_000_000);
    const MINUTE: i64 = 60_000;

    fn ago(millis: i64) -> Time {
        Time(NOW.0 - millis)
    }

    fn name(name: &str) -> Name {
        Name::new(NameOf::Group, name).unwrap()
    }

    /// A group with one idle client and nothing to do, but for what is changed.
    fn group(of: &str, change: impl FnOnce(&mut Group)) -> Group {
        let info = GroupInfo { clients: 1, last_used: NOW, ..GroupInfo::new(name(of)) };
        let mut group = Group { info, lag: 0, oldest: None, dead: 0 };
        change(&mut group);
        group
    }

    fn waits(group: &mut Group, lag: u64, age: i64) {
        (group.lag, group.oldest) = (lag, Some((17, ago(age))));
    }

    fn judged(groups: &[Group], change: impl FnOnce(&mut Facts<'_>)) -> Vec<Finding> {
        judged_again(&IdleSince::default(), groups, change)
    }

    fn judged_again(idle_since: &IdleSince, groups: &[Group], change: impl FnOnce(&mut Facts<'_>)) -> Vec<Finding> {
        let servers = Servers { now: NOW, alone: true, view: ClusterView::default() };
        let mut facts = Facts {
            now: NOW,
            not_ready: None,
            disk: Disk::default(),
            process: Process::default(),
            retention: Retention::default(),
            step: None,
            certificate: None,
            tasks: 9,
            results: 9,
            clients: groups.iter().map(|group| group.info.clients).sum(),
            groups,
            max_groups: 100,
            idle_since,
            unmatched: (0, None),
            contested: Vec::new(),
            missing: Vec::new(),
            in_trouble: Vec::new(),
            servers: &servers,
        };
        change(&mut facts);
        judge(&facts)
    }

    fn codes(found: &[Finding]) -> Vec<Code> {
        found.iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn a_certificate_is_worth_a_word_a_week_before_its_end_and_when_new_files_are_wrong() {
        let judged = |left, trouble: Option<&str>| {
            let trouble = trouble.map(str::to_owned);
            let found = judged(&[], |facts| facts.certificate = Some(Certificate { left, trouble }));
            found.into_iter().find(|finding| finding.code == Code::Certificate)
        };
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(judged(8 * day, None), None);
        assert_eq!(judged(6 * day, None).unwrap().severity, Severity::Warning);
        assert_eq!(judged(Duration::ZERO, None).unwrap().severity, Severity::Failure);
        let wrong = judged(80 * day, Some("garbage")).unwrap();
        assert_eq!((wrong.severity, wrong.text.as_deref()), (Severity::Warning, Some("garbage")));
    }

    #[test]
    fn each_state_of_a_group_has_its_finding() {
        type Case = (&'static str, fn(&mut Group), &'static [Code]);
        let cases: &[Case] = &[
            ("idle", |_| {}, &[]),
            ("at work", |g| (g.lag, g.info.in_flight, g.info.held_since) = (9, 9, Some(ago(60 * MINUTE))), &[]),
            (
                "left alone, with nothing to do",
                |g| (g.info.clients, g.info.last_used) = (0, ago(MINUTE)),
                &[Code::Quiet],
            ),
            ("left alone", |g| (g.lag, g.info.clients, g.info.last_used) = (3, 0, ago(6_000)), &[Code::Unserved]),
            ("left alone just now", |g| (g.lag, g.info.clients, g.info.last_used) = (3, 0, ago(4_000)), &[]),
            ("paused", |g| g.info.paused = true, &[Code::Paused]),
            ("paused and left alone", |g| (g.lag, g.info.clients, g.info.paused) = (3, 0, true), &[Code::Paused]),
            (
                "all clients drained",
                |g| (g.lag, g.info.draining_since, g.info.rate) = (3, Some(ago(6_000)), 10.0),
                &[Code::Drained],
            ),
            ("all clients drained just now", |g| (g.lag, g.info.draining_since) = (3, Some(ago(4_000))), &[]),
            ("all clients drained, with nothing to do", |g| g.info.draining_since = Some(ago(MINUTE)), &[]),
            (
                "expired undelivered",
                |g| g.info.undelivered = Undelivered { count: 3, last: Some(ago(9 * MINUTE)) },
                &[Code::Expired],
            ),
            (
                "expired undelivered, long ago",
                |g| g.info.undelivered = Undelivered { count: 3, last: Some(ago(10 * MINUTE)) },
                &[],
            ),
            ("dead letters", |g| g.dead = 2, &[Code::DeadLetters]),
            ("delayed, and due just now beside idle clients", |g| waits(g, 3, 2 * MINUTE), &[]),
            (
                "delayed",
                |g| {
                    waits(g, 3, 2 * MINUTE);
                    g.info.delayed = 3;
                },
                &[],
            ),
            (
                "settles nothing for long",
                |g| {
                    waits(g, 9, 60 * MINUTE);
                    (g.info.in_flight, g.info.held_since, g.info.last_settled) =
                        (1, Some(ago(6 * MINUTE)), Some(ago(60 * MINUTE)));
                },
                &[Code::Stuck],
            ),
            (
                "settled something not long ago",
                |g| {
                    waits(g, 9, 60 * MINUTE);
                    (g.info.in_flight, g.info.held_since, g.info.last_settled) =
                        (1, Some(ago(60 * MINUTE)), Some(ago(4 * MINUTE)));
                },
                &[],
            ),
            ("a minute of work", |g| (g.lag, g.info.rate) = (600, 10.0), &[]),
            ("more than a minute of work", |g| (g.lag, g.info.rate) = (601, 10.0), &[Code::Lagging]),
            (
                "older than what is kept",
                |g| {
                    waits(g, 1, 8 * 24 * 60 * MINUTE);
                    (g.info.in_flight, g.info.held_since) = (1, Some(NOW));
                },
                &[Code::Retention],
            ),
            (
                "never came",
                |g| {
                    waits(g, 2, 8 * 24 * 60 * MINUTE);
                    (g.info.clients, g.info.never_came) = (0, true);
                },
                &[Code::NeverCame],
            ),
        ];
        for (what, change, expected) in cases {
            let found = judged(&[group("g", *change)], |_| {});
            assert_eq!(codes(&found), *expected, "{what}");
        }
    }

    #[test]
    fn findings_have_the_numbers_that_their_texts_need() {
        let lags = group("g", |g| (g.lag, g.info.in_flight, g.info.rate) = (1210, 10, 10.0));
        let [found] = &judged(&[lags], |_| {})[..] else { panic!("one") };
        assert_eq!((found.count, found.millis), (1200, 120_000));
        let never = |name| group(name, |g| (g.lag, g.info.clients, g.info.never_came) = (1, 0, true));
        let found = judged(&[group("emails", |_| {}), never("emials"), never("thumbnails")], |_| {});
        let nearest: Vec<_> = found.iter().map(|finding| finding.text.as_deref()).collect();
        assert_eq!(nearest, [Some("emails"), None]);
    }

    #[test]
    fn what_hangs_was_due_beside_idle_clients_whenever_it_was_looked_at_for_a_minute() {
        let idle_since = IdleSince::default();
        let look = |at, in_flight| {
            let hangs = group("g", |g| {
                waits(g, 3, 60 * MINUTE);
                (g.info.in_flight, g.info.held_since) = (in_flight, (in_flight > 0).then_some(NOW));
            });
            judged_again(&idle_since, &[hangs], |facts| facts.now = Time(NOW.0 + at))
        };
        for (at, in_flight) in [(0, 0), (MINUTE, 0), (MINUTE + 1, 1), (MINUTE + 2, 0), (2 * MINUTE, 0)] {
            assert_eq!(look(at, in_flight), [], "{at}");
        }
        let [found] = &look(3 * MINUTE, 0)[..] else { panic!("one") };
        let seen = (found.code, found.count, found.task, found.millis);
        assert_eq!(seen, (Code::Hanging, 3, Some(17), 119_998));
    }

    #[test]
    fn a_disk_and_a_limit_of_files_warn_before_they_fail() {
        let at = |free, open| {
            let disk = Disk { free: Some(free), ..Disk::default() };
            let process = Process { open_fds: Some(open), max_fds: Some(1000), ..Process::default() };
            let found = judged(&[group("g", |_| {})], |facts| (facts.disk, facts.process) = (disk, process));
            found.into_iter().map(|finding| (finding.code, finding.severity)).collect::<Vec<_>>()
        };
        let both = |severity| [(Code::Disk, severity), (Code::OpenFiles, severity)];
        assert_eq!(at(2 << 30, 700), []);
        assert_eq!(at(1 << 29, 900), both(Severity::Warning));
        assert_eq!(at(1 << 20, 990), both(Severity::Failure));
        for (free, severity) in [(6 << 30, Severity::Warning), (4 << 30, Severity::Failure)] {
            let disk = Disk { free: Some(free), floor: 10 << 30, ..Disk::default() };
            let found = &judged(&[group("g", |_| {})], |facts| facts.disk = disk)[0];
            assert_eq!(
                (found.severity, found.count, found.limit),
                (severity, free, 10 << 30),
                "below what is to stay free"
            );
        }
        let process = Process { open_fds: Some(1 << 20), ..Process::default() };
        assert_eq!(judged(&[group("g", |_| {})], |facts| facts.process = process), [], "without a limit");
        let step = Step { ahead: -90_000, left: Duration::from_secs(60) };
        let found = judged(&[group("g", |_| {})], |facts| facts.step = Some(step));
        assert_eq!((found[0].code, found[0].millis, found[0].limit), (Code::Clock, 90_000, 60_000));
        assert_eq!(found[0].text.as_deref(), Some("behind"));
        let contested =
            ContestedId { client: name("w"), group: Some(name("g")), changes: 4, lasts: Duration::from_secs(5) };
        let found = judged(&[group("g", |_| {})], |facts| facts.contested = vec![contested.clone()]);
        assert_eq!((found[0].code, found[0].count, found[0].millis), (Code::Contested, 4, 5_000));
        assert_eq!((found[0].text.as_deref(), &found[0].group), (Some("w"), &contested.group));
        let in_trouble = ["a", "b", "c", "d", "e"].map(name).to_vec();
        let found = judged(&[group("g", |_| {})], |facts| facts.in_trouble = in_trouble);
        let of: Vec<_> =
            found.iter().map(|found| (found.code, found.severity, found.text.as_deref(), found.more)).collect();
        let of_schedule = |name, more| (Code::Schedule, Severity::Warning, Some(name), more);
        assert_eq!(of, [of_schedule("a", 0), of_schedule("b", 0), of_schedule("c", 2)]);
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        let missing = vec![(name("a"), days(9)), (name("b"), days(4)), (name("c"), days(5))];
        let alone = |g: &mut Group| (g.lag, g.info.clients, g.info.last_used) = (3, 0, ago(6_000));
        let found = judged(&[group("g", |_| {}), group("c", alone)], |facts| facts.missing = missing);
        let of: Vec<_> = found.iter().map(|found| (found.code, found.group.clone().unwrap().to_string())).collect();
        let expected = [(Code::Unserved, "c"), (Code::Missing, "b"), (Code::Missing, "a")];
        assert_eq!(of, expected.map(|(code, name)| (code, name.to_owned())), "who is waited for is named once");
        assert_eq!((found[1].severity, found[1].millis), (Severity::Note, 4 * 24 * 3_600_000));
        let disk = Disk { db: 111, ..Disk::default() };
        let retention = Retention { retain_bytes: Some(100), ..Retention::default() };
        let found = judged(&[group("g", |_| {})], |facts| (facts.disk, facts.retention) = (disk, retention));
        assert_eq!((found[0].code, found[0].count, found[0].limit), (Code::StoreSize, 111, 100));
        let (disk, retention) =
            (Disk { db: 111, ..Disk::default() }, Retention { retain_bytes: Some(100), ..Retention::default() });
        let late = group("late", |g| waits(g, 1, 2 * MINUTE));
        let later = group("later", |g| g.oldest = Some((9, ago(3 * MINUTE))));
        let found = judged(&[late, later], |facts| (facts.disk, facts.retention) = (disk, retention));
        let size = found.iter().find(|finding| finding.code == Code::StoreSize).unwrap();
        let keeps = size.group.as_ref().map(GroupName::as_str);
        assert_eq!((keeps, size.task, size.millis), (Some("later"), Some(9), 180_000), "who keeps the oldest");
    }

    #[test]
    fn a_group_that_is_to_end_and_a_server_that_has_nearly_as_many_groups_as_may_be_say_so_before() {
        let day = 24 * 60 * MINUTE;
        let found = |change: fn(&mut Group)| {
            let retention = Retention { max_lag: Some(Duration::from_secs(4 * 86_400)), ..Retention::default() };
            let found = judged(&[group("g", change)], |facts| facts.retention = retention);
            found.into_iter().find(|finding| finding.code == Code::Retention).map(|finding| finding.limit)
        };
        let ends = Some(4 * day as u64);
        assert_eq!(found(|g| (g.info.clients, g.lag, g.oldest) = (0, 3, Some((17, ago(3 * 24 * 60 * MINUTE))))), ends);
        assert_eq!(found(|g| (g.info.clients, g.lag, g.oldest) = (0, 3, Some((17, ago(24 * 60 * MINUTE))))), None);
        assert_eq!(found(|g| waits(g, 3, 3 * 24 * 60 * MINUTE)), None, "its clients are there");
        assert_eq!(found(|g| waits(g, 3, 8 * 24 * 60 * MINUTE)), Some(0));
        let many = |count: usize| {
            let groups: Vec<_> = (0..count).map(|n| group(&format!("g{n}"), |_| {})).collect();
            let found = judged(&groups, |_| {});
            found.first().map(|first| (first.code, first.severity, first.count, first.limit))
        };
        assert_eq!(many(79), None);
        assert_eq!(many(80), Some((Code::Groups, Severity::Warning, 80, 100)));
        assert_eq!(many(100), Some((Code::Groups, Severity::Failure, 100, 100)));
    }

    #[test]
    fn the_gravest_is_first_and_of_many_the_largest_are_told_and_the_others_counted() {
        let mut groups: Vec<_> =
            (1..=9).map(|n| group(&format!("g{n}"), |g| (g.lag, g.info.paused) = (n, true))).collect();
        groups.push(group("dead", |g| g.dead = 1));
        let found = judged(&groups, |facts| facts.not_ready = Some("no room is left"));
        assert_eq!(found[0].severity, Severity::Failure);
        let told: Vec<_> = found.iter().map(|it| (it.code, it.count, it.more)).collect();
        let paused = |count, more| (Code::Paused, count, more);
        let expected = [(Code::NotReady, 0, 0), paused(9, 0), paused(8, 0), paused(7, 6), (Code::DeadLetters, 1, 0)];
        assert_eq!(told, expected);
    }

    #[test]
    fn before_anything_has_happened_that_is_all_there_is_to_say() {
        let first = |tasks, results, clients| {
            let found = judged(&[], |facts| (facts.tasks, facts.results, facts.clients) = (tasks, results, clients));
            codes(&found)
        };
        assert_eq!(first(0, 0, 0), [Code::First]);
        assert_eq!(first(0, 0, 1), [Code::First]);
        assert_eq!(first(2, 0, 0), [Code::First]);
        assert_eq!(first(2, 2, 0), [Code::Quiet]);
        assert_eq!(first(2, 0, 1), []);
    }
}
