//! What is well with a server and what is not, as far as it tells; `doctor` prints all of it, `top` what needs attention.

use std::time::Duration;

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;

use super::manage::count;
use super::moment::{Moment, span};
use crate::task::Time;
use crate::wire::control as pb;

/// Less room than this on the disk, and the server will soon take nothing.
const DISK_FAILED: u64 = 100 << 20;
/// Less than this needs attention.
const DISK_WARNING: u64 = 1 << 30;
/// A task that is with no client though there are clients is said to hang after this.
const HANGS: Duration = Duration::from_secs(60);
/// Groups that are named before the others are counted.
const NAMED: usize = 3;

/// How it stands. The worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    Warning,
    Failed,
}

/// What one check came to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) status: Status,
    pub(super) says: String,
    /// The flag or command that helps.
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, says: impl Into<String>) -> Finding {
        Finding { check, status: Status::Ok, says: says.into(), remedy: None }
    }

    pub(super) fn bad(
        check: &'static str,
        status: Status,
        says: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { check, status, says: says.into(), remedy: Some(remedy.into()) }
    }
}

/// What a server says of itself.
pub(super) fn of_server(server: &pb::Server) -> Vec<Finding> {
    let mut all = vec![store(server)];
    all.extend(disk(server));
    all.extend(files(server));
    all
}

/// What a server says of its groups.
pub(super) fn of_groups(groups: &[pb::Group], server: Option<&pb::Server>, now: Time) -> Vec<Finding> {
    let mut all = vec![unserved(groups), paused(groups), hanging(groups, now), dead(groups)];
    all.extend(server.map(|server| retention(server, groups, now)));
    all
}

fn store(server: &pb::Server) -> Finding {
    match server.refuses.as_str() {
        "" => Finding::ok("store", format!("takes tasks; {} in {}", BinaryBytes(server.store_bytes), server.data)),
        why => Finding::bad("store", Status::Failed, why, "put that right, then start contact-server again"),
    }
}

fn disk(server: &pb::Server) -> Option<Finding> {
    let free = server.disk_free_bytes?;
    let says = format!("{} free on the disk of {}", BinaryBytes(free), server.data);
    let status = match free {
        ..DISK_FAILED => Status::Failed,
        DISK_FAILED..DISK_WARNING => Status::Warning,
        _ => return Some(Finding::ok("disk", says)),
    };
    Some(Finding::bad(
        "disk",
        status,
        says,
        "make room there, or start the server with --retain-bytes, or a shorter --retain",
    ))
}

/// Clients, each of which is a file, have four fifths of what is allowed before somebody is told.
fn files(server: &pb::Server) -> Option<Finding> {
    let open = server.open_files?;
    let Some(limit) = server.open_files_soft else {
        return Some(Finding::ok("open files", format!("{}, without limit", HumanCount(open))));
    };
    let says = format!("{} of {}; each client takes one", HumanCount(open), HumanCount(limit));
    let status = match limit.saturating_sub(open) {
        left if left < limit / 50 => Status::Failed,
        left if left < limit / 5 => Status::Warning,
        _ => return Some(Finding::ok("open files", says)),
    };
    let more = limit.saturating_mul(4);
    let remedy =
        format!("start the server with a higher limit: LimitNOFILE={more} in its systemd unit, or ulimit -n {more}");
    Some(Finding::bad("open files", status, says, remedy))
}

/// A group's name on a command line.
fn quoted(name: &str) -> String {
    super::submit::quote(name)
}

/// The first few, and how many more there are.
fn named<'a>(groups: impl ExactSizeIterator<Item = &'a pb::Group>, each: impl Fn(&pb::Group) -> String) -> String {
    let more = groups.len().saturating_sub(NAMED);
    let names: Vec<_> = groups.take(NAMED).map(each).collect();
    format!("{}{}", names.join(", "), if more > 0 { format!(" and {more} more") } else { String::new() })
}

/// One finding for all groups of which something is true; the first of them is the example in the remedy.
fn about_groups(
    check: &'static str,
    groups: &[pb::Group],
    concerned: impl Fn(&pb::Group) -> bool,
    fine: &str,
    each: impl Fn(&pb::Group) -> String,
    says: impl Fn(&str, usize) -> String,
    remedy: impl Fn(&pb::Group) -> String,
) -> Finding {
    let mut concerned: Vec<_> = groups.iter().filter(|group| concerned(group)).collect();
    concerned.sort_by_key(|group| std::cmp::Reverse(group.lag));
    match concerned.first() {
        None => Finding::ok(check, fine),
        Some(first) => {
            let names = named(concerned.iter().copied(), each);
            Finding::bad(check, Status::Warning, says(&names, concerned.len()), remedy(first))
        }
    }
}

fn unserved(groups: &[pb::Group]) -> Finding {
    about_groups(
        "unserved",
        groups,
        |group| group.clients == 0 && group.lag > 0,
        "every group with tasks has clients",
        |group| format!("{} ({})", group.name, count(group.lag, "task")),
        |names, many| format!("{names} {} no client connected", if many == 1 { "has" } else { "have" }),
        |group| {
            let name = quoted(&group.name);
            format!("contact-client --group {name}, or contactctl group rm {name}")
        },
    )
}

fn paused(groups: &[pb::Group]) -> Finding {
    about_groups(
        "paused",
        groups,
        |group| group.paused,
        "no group is paused",
        |group| group.name.clone(),
        |names, many| format!("{names} {} paused", if many == 1 { "is" } else { "are" }),
        |group| format!("contactctl resume {}", quoted(&group.name)),
    )
}

fn hanging(groups: &[pb::Group], now: Time) -> Finding {
    let since = |group: &pb::Group| Duration::from_millis(now.0.saturating_sub(group.oldest_at).max(0).unsigned_abs());
    about_groups(
        "hanging",
        groups,
        |group| {
            let idle = group.clients > 0 && !group.paused && group.in_flight == 0 && group.lag > 0;
            idle && group.oldest_at != 0 && since(group) > HANGS
        },
        "no task waits while clients are idle",
        |group| format!("{} (task {} for {})", group.name, group.oldest, span(since(group))),
        |names, _| format!("tasks wait though clients are connected: {names}"),
        |group| format!("contactctl task {} says why", group.oldest),
    )
}

fn dead(groups: &[pb::Group]) -> Finding {
    about_groups(
        "dead letters",
        groups,
        |group| group.dead > 0,
        "none",
        |group| format!("{} ({})", group.name, HumanCount(group.dead)),
        |names, _| format!("given up in {names}"),
        |group| format!("contactctl dead --group {}, then with --retry or --drop", quoted(&group.name)),
    )
}

fn retention(server: &pb::Server, groups: &[pb::Group], now: Time) -> Finding {
    let kept = Duration::from_millis(server.retain_ms);
    let old = now.0.saturating_sub(i64::try_from(server.retain_ms).unwrap_or(i64::MAX));
    if let Some(most) = server.retain_bytes
        && server.store_bytes > most.saturating_add(most / 10)
    {
        let says = format!("the store takes {}, more than --retain-bytes", BinaryBytes(server.store_bytes));
        let remedy = "what is not settled is not removed: contactctl groups shows who owes it";
        return Finding::bad("retention", Status::Warning, says, remedy);
    }
    let fine = format!("settled tasks are kept {}, and nothing holds that up", span(kept));
    about_groups(
        "retention",
        groups,
        |group| group.oldest_at != 0 && group.oldest_at < old,
        &fine,
        |group| format!("{} (task {}, {})", group.name, group.oldest, Moment(group.oldest_at).ago(now)),
        |names, _| format!("nothing is removed behind the oldest task that is not settled: {names}"),
        |group| {
            let name = quoted(&group.name);
            format!("contactctl cancel {}, or contactctl group rm {name} if it will not come back", group.oldest)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_777_536_000_000);

    fn group(name: &str) -> pb::Group {
        pb::Group { name: name.into(), clients: 1, ..Default::default() }
    }

    #[track_caller]
    fn bad(all: Vec<Finding>, check: &str) -> (Status, String, String) {
        let found = all.into_iter().find(|finding| finding.check == check);
        found.map(|f| (f.status, f.says, f.remedy.unwrap_or_default())).unwrap_or((Status::Ok, "".into(), "".into()))
    }

    #[test]
    fn groups_that_are_well_are_all_ok() {
        let fine =
            [group("a"), pb::Group { clients: 0, ..group("b") }, pb::Group { lag: 9, in_flight: 9, ..group("c") }];
        for finding in of_groups(&fine, Some(&pb::Server::default()), NOW) {
            assert_eq!((finding.status, &finding.remedy), (Status::Ok, &None), "{finding:?}");
        }
    }

    #[test]
    fn each_trouble_of_a_group_names_the_command_that_helps() {
        let waits = pb::Group { clients: 0, lag: 3, ..group("mail; rm") };
        let (_, says, remedy) = bad(of_groups(&[waits], None, NOW), "unserved");
        assert_eq!(says, "mail; rm (3 tasks) has no client connected");
        let starts = "contact-client --group 'mail; rm', or contactctl group rm 'mail; rm'";
        assert_eq!(remedy, starts);
        let hangs = pb::Group { lag: 3, oldest: 17, oldest_at: NOW.0 - 120_000, ..group("a") };
        let (_, says, remedy) = bad(of_groups(std::slice::from_ref(&hangs), None, NOW), "hanging");
        assert!(says.ends_with("a (task 17 for 2 min)") && remedy == "contactctl task 17 says why", "{says}; {remedy}");
        let kept = pb::Server { retain_ms: 60_000, ..Default::default() };
        let (_, says, remedy) = bad(of_groups(&[hangs], Some(&kept), NOW), "retention");
        assert!(
            says.ends_with("a (task 17, 2 min ago)") && remedy.starts_with("contactctl cancel 17"),
            "{says}; {remedy}"
        );
    }

    #[test]
    fn of_many_groups_the_worst_are_named_and_the_others_counted() {
        let groups: Vec<_> = (1..=9).map(|n| pb::Group { paused: true, lag: n, ..group(&format!("g{n}")) }).collect();
        let (_, says, remedy) = bad(of_groups(&groups, None, NOW), "paused");
        assert_eq!((says.as_str(), remedy.as_str()), ("g9, g8, g7 and 6 more are paused", "contactctl resume g9"));
    }

    #[test]
    fn a_disk_and_a_limit_of_files_warn_before_they_fail() {
        let at = |free, open| {
            let server = pb::Server { disk_free_bytes: Some(free), open_files: Some(open), ..Default::default() };
            let all = of_server(&pb::Server { open_files_soft: Some(1000), ..server });
            (bad(all.clone(), "disk").0, bad(all, "open files").0)
        };
        assert_eq!(at(2 << 30, 700), (Status::Ok, Status::Ok));
        assert_eq!(at(1 << 29, 900), (Status::Warning, Status::Warning));
        assert_eq!(at(1 << 20, 990), (Status::Failed, Status::Failed));
        let refuses = pb::Server { refuses: "no room is left".into(), ..Default::default() };
        assert_eq!(bad(of_server(&refuses), "store").0, Status::Failed);
    }
}
