//! What is well with a server and what is not, in words: `doctor` prints all of it, `top` what needs attention. The server judges;
//! here stand the texts, and the command that helps.

use std::time::Duration;

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;

use super::moment::span;
use super::words::count;
use super::words::quote;
use crate::wire::control as pb;
use crate::wire::control::finding::{Code, Severity};

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

/// The checks that the server does itself, in the order of `doctor`, each with what it may find.
const CHECKS: &[(&str, &[Code])] = &[
    ("store", &[Code::NOT_READY]),
    ("disk", &[Code::DISK]),
    ("open files", &[Code::OPEN_FILES]),
    ("steps", &[Code::CLOCK]),
    ("certificate", &[Code::CERTIFICATE]),
    ("connected", &[Code::QUIET, Code::FIRST]),
    ("never came", &[Code::NEVER_CAME]),
    ("unserved", &[Code::UNSERVED]),
    ("paused", &[Code::PAUSED]),
    ("drained", &[Code::DRAINED]),
    ("hanging", &[Code::HANGING]),
    ("stuck", &[Code::STUCK]),
    ("lagging", &[Code::LAGGING]),
    ("expired", &[Code::EXPIRED]),
    ("dead letters", &[Code::DEAD_LETTERS]),
    ("unmatched", &[Code::UNMATCHED]),
    ("contested", &[Code::CONTESTED]),
    ("missing", &[Code::MISSING]),
    ("schedules", &[Code::SCHEDULE]),
    ("groups", &[Code::GROUPS]),
    ("retention", &[Code::STORE_SIZE, Code::RETENTION]),
    ("standby", &[Code::STANDBY, Code::BEHIND]),
    ("log", &[Code::LOG, Code::REPLICAS]),
    ("servers", &[Code::VERSIONS, Code::CLOCKS]),
];

/// What each check came to, also those that found nothing.
pub(super) fn checks(server: &pb::Server) -> Vec<Finding> {
    let check = |(check, codes): &(&'static str, &[Code])| {
        let found: Vec<_> = codes.iter().filter_map(|code| found(check, *code, server, &server.findings)).collect();
        if found.is_empty() { fine(check, server).into_iter().collect() } else { found }
    };
    CHECKS.iter().flat_map(check).collect()
}

/// What needs attention of what the server found, the gravest first. A code that is newer than we are is not among it.
pub(super) fn attention(server: &pb::Server, findings: &[pb::Finding]) -> Vec<Finding> {
    let mut codes: Vec<Code> = findings.iter().filter_map(|found| found.code.enum_value().ok()).collect();
    // Those of one code stand together.
    codes.dedup();
    let check = |code: &Code| CHECKS.iter().find(|(_, codes)| codes.contains(code)).map(|(check, _)| *check);
    let all = codes.iter().filter_map(|code| found(check(code)?, *code, server, findings));
    all.filter(|finding| finding.status > Status::Ok).collect()
}

/// What a check says that found nothing. `None`: the server does not know.
fn fine(check: &'static str, server: &pb::Server) -> Option<Finding> {
    let says = match check {
        "store" => format!("takes tasks; {} in {}", BinaryBytes(server.store_bytes), server.data),
        "disk" => format!("{} free on the disk of {}", BinaryBytes(server.disk_free_bytes?), server.data),
        "open files" => match (server.open_files?, server.open_files_soft) {
            (open, None) => format!("{}, without limit", HumanCount(open)),
            (open, Some(limit)) => format!("{} of {}; each client takes one", HumanCount(open), HumanCount(limit)),
        },
        "steps" => "the server's clock did not step".into(),
        // Also where there is none.
        "certificate" => "no file of TLS is wrong, and no certificate is over soon".into(),
        "connected" => count(server.clients.into(), "client"),
        "never came" => "every group with tasks is there".into(),
        "unserved" => "every group with tasks has clients".into(),
        "paused" => "no group is paused".into(),
        "drained" => "every group with tasks has a client that is not drained".into(),
        "hanging" => "no task waits while clients are idle".into(),
        "stuck" => "where tasks wait, others are settled".into(),
        "lagging" => "no group needs longer than a minute".into(),
        "expired" => "no task expired lately before a client was given it".into(),
        "dead letters" => "none".into(),
        "unmatched" => "every acknowledgement has a task".into(),
        "groups" => format!("{} of them", HumanCount(server.groups.into())),
        "contested" => "no client id is used by two processes".into(),
        "missing" => "no client has been away for more than three days".into(),
        "schedules" => "each makes its tasks, or is paused".into(),
        "standby" if server.cluster => "another server is ready to lead".into(),
        "log" if server.cluster => "three NATS servers have all of it".into(),
        "servers" if server.cluster => "they are of one version, and their clocks agree".into(),
        // It is alone.
        "standby" | "log" | "servers" => return None,
        _ => {
            let kept = span(Duration::from_millis(server.retain_ms));
            format!("settled tasks are kept {kept}, and nothing holds that up")
        }
    };
    Some(Finding::ok(check, says))
}

/// One line for all findings of one code; the first of them is the example in the remedy.
fn found(check: &'static str, code: Code, server: &pb::Server, findings: &[pb::Finding]) -> Option<Finding> {
    let all: Vec<_> = findings.iter().filter(|found| found.code == code.into()).collect();
    let (first, last) = (*all.first()?, *all.last()?);
    let named = |each: &dyn Fn(&pb::Finding) -> String| {
        let more = if last.more > 0 { format!(" and {} more", last.more) } else { String::new() };
        format!("{}{more}", all.iter().map(|found| each(found)).collect::<Vec<_>>().join(", "))
    };
    let is_one = all.len() == 1 && last.more == 0;
    let (has, is) = if is_one { ("has", "is") } else { ("have", "are") };
    let (group, task) = (quote(&first.group), first.task);
    let tasks = |found: &pb::Finding| count(found.count, "task");
    let long = |found: &pb::Finding| span(Duration::from_millis(found.millis));
    let (says, remedy) = match code {
        Code::NOT_READY => (first.text.clone(), "put that right: the server then goes on by itself".into()),
        Code::CLOCK => {
            let side = if first.text == "behind" { "behind" } else { "ahead of" };
            let left = span(Duration::from_millis(first.limit));
            (
                format!(
                    "the server's clock stepped: it is {} {side} where it should be; nothing is removed because of that for {left}",
                    long(first)
                ),
                "contactctl clock accept if it is right, else timedatectl set-ntp true on the server".into(),
            )
        }
        Code::CERTIFICATE if first.text.is_empty() => (
            format!("the server's certificate is valid for {} only", long(first)),
            "put a new one into the file of --tls-cert: the server sees it by itself".into(),
        ),
        Code::CERTIFICATE => (
            format!("the files of TLS are not used, and those of before go on for {}: {}", long(first), first.text),
            "put that right: the server sees it by itself".into(),
        ),
        Code::DISK => (
            format!("{} free on the disk of {}{}", BinaryBytes(first.count), server.data, not_taken(first)),
            "make room there, or start the server with --retain-bytes, or a shorter --retain".into(),
        ),
        Code::OPEN_FILES => {
            let (limit, more) = (HumanCount(first.limit), first.limit.saturating_mul(4));
            let unit = format!("LimitNOFILE={more} in its systemd unit, or ulimit -n {more}");
            (
                format!("{} of {limit}; each client takes one", HumanCount(first.count)),
                format!("start the server with a higher limit: {unit}"),
            )
        }
        Code::UNMATCHED => (
            format!("{} that name no task match nothing, the last {} ago", count(first.count, "acknowledgement"), long(first)),
            "their tasks come again: let clients behind a proxy say who they are (metadata contact-client, and ids in results), \
             or give each a connection of its own"
                .into(),
        ),
        Code::CONTESTED => {
            let ids = named(&|found| format!("{} (taken over {} in {})", found.text, count(found.count, "time"), long(found)));
            (
                format!("several processes use one client id, and take turns: {ids}"),
                "give each process an --id of its own, or let them share one --group".into(),
            )
        }
        Code::MISSING => (
            format!("{} {has} been away for more than three days", named(&|found| format!("{} ({})", found.group, long(found)))),
            format!("contactctl clients --offline 3d; what is gone for good: contactctl group rm {group}"),
        ),
        Code::NEVER_CAME => {
            let names = named(&|found| match found.text.as_str() {
                "" => format!("{} ({})", found.group, tasks(found)),
                like => format!("{} ({}; there is {like})", found.group, tasks(found)),
            });
            (
                format!(
                    "there is no group {names}: no client of that name has ever come, or it was removed; is the name right?"
                ),
                format!("contact-client --group {group}, or contactctl cancel {task}"),
            )
        }
        Code::UNSERVED => (
            format!("{} {has} no client connected", named(&|found| format!("{} ({})", found.group, tasks(found)))),
            format!("contact-client --group {group}, or contactctl group rm {group}"),
        ),
        Code::PAUSED => {
            (format!("{} {is} paused", named(&|found| found.group.clone())), format!("contactctl resume {group}"))
        }
        Code::DRAINED => (
            format!(
                "all clients of {} are drained, or about to stop",
                named(&|found| format!("{} ({} for {})", found.group, tasks(found), long(found)))
            ),
            format!("contactctl clients says why; contactctl undrain CLIENT, or contact-client --group {group}"),
        ),
        Code::HANGING => {
            let names = named(&|found| format!("{} (task {} for {})", found.group, found.task, long(found)));
            (format!("tasks wait though clients are connected: {names}"), format!("contactctl task {task} says why"))
        }
        Code::STUCK => {
            let names = named(&|found| format!("{} ({} for {})", found.group, tasks(found), long(found)));
            (
                format!("tasks wait for clients that settle nothing: {names}"),
                "contactctl clients shows who holds tasks".into(),
            )
        }
        Code::LAGGING => {
            let names = named(&|found| format!("{} ({}, {} of work)", found.group, tasks(found), long(found)));
            (format!("{names} {is} lagging"), format!("contact-client --group {group}: more clients share the work"))
        }
        Code::EXPIRED => (
            format!(
                "tasks expired before a client was given them: {}",
                named(&|found| format!("{} ({}, the last {} ago)", found.group, tasks(found), long(found)))
            ),
            "contactctl tasks --state expired shows them; let such tasks live longer, or start more clients".into(),
        ),
        Code::DEAD_LETTERS => (
            format!("given up in {}", named(&|found| format!("{} ({})", found.group, HumanCount(found.count)))),
            format!("contactctl dead --group {group}, then with --retry or --drop"),
        ),
        Code::RETENTION => {
            let names = named(&|found| {
                let ends = match found.limit {
                    0 => String::new(),
                    limit => format!("; it ends when that is {} old, --max-lag", span(Duration::from_millis(limit))),
                };
                format!("{} (task {}, {} ago{ends})", found.group, found.task, long(found))
            });
            (
                format!("nothing is removed after the oldest task that is not settled: {names}"),
                format!("contactctl cancel {task}, or contactctl group rm {group} if it will not come back"),
            )
        }
        Code::STORE_SIZE if !first.group.is_empty() => (
            format!(
                "the store takes {}, more than --retain-bytes; {} keeps the oldest task, {}, which it has not settled for {}",
                BinaryBytes(first.count),
                first.group,
                first.task,
                long(first)
            ),
            format!("contactctl cancel {task}, or contactctl group rm {group} if it will not come back"),
        ),
        Code::STORE_SIZE => (
            format!("the store takes {}, more than --retain-bytes", BinaryBytes(first.count)),
            "what is settled goes a part at a time: look again in a minute; the rest stays: contactctl groups says whose it is".into(),
        ),
        Code::GROUPS => (
            format!("there are {} groups, and may be {}: then no new one comes", HumanCount(first.count), HumanCount(first.limit)),
            "contactctl groups, then contactctl group rm those that nobody needs; or start the server with a larger --max-groups".into(),
        ),
        Code::STANDBY if !first.text.is_empty() => (
            format!("no other server of the cluster could go on, since it cannot write its own disk: {}", first.text),
            "see to that disk, or start another server".into(),
        ),
        Code::STANDBY if first.count == 0 => (
            "no other server of the cluster is there: if this one is lost, none goes on".into(),
            "start another one with the same --nats and --cluster: docs/cluster.md".into(),
        ),
        Code::STANDBY => (
            format!("{} of the cluster fell silent, and no other is there", count(first.count, "server")),
            "contactctl servers says which; see to it, or start another one".into(),
        ),
        Code::REPLICAS => {
            let absent = if first.text.is_empty() { String::new() } else { format!("; not {}", first.text) };
            let (have, of) = (count(first.count, "NATS server"), first.limit);
            let (how, stream) = ("see to the others, or give it more: nats stream edit --replicas 3", "CONTACT_ and the name");
            (
                format!("{have} of {of} that are to keep the log of the cluster are there and have all of it{absent}"),
                format!("{how} (the stream is {stream} of the cluster)"),
            )
        }
        Code::LOG => (
            first.text.clone(),
            "put that right in the settings of NATS, or of the stream: docs/cluster.md says what they must be".into(),
        ),
        Code::SCHEDULE => {
            let (makes, names) = (if is_one { "makes" } else { "make" }, named(&|found| found.text.clone()));
            let example = quote(&first.text);
            (
                format!("{names} {makes} no tasks"),
                format!("contactctl schedule show {example} says why; then set it anew, or contactctl schedule pause {example}"),
            )
        }
        Code::VERSIONS => (
            format!("the servers of the cluster are of different versions: {}", first.text),
            "end the upgrade: start them one after another with the same version, the one that leads last".into(),
        ),
        Code::CLOCKS => {
            let clocks = named(&|found| {
                let side = if found.limit > 0 { "ahead of" } else { "behind" };
                format!("{}'s is {}.{:03} s {side} this one", found.text, found.millis / 1000, found.millis % 1000)
            });
            (
                format!("clocks of the cluster differ: {clocks}"),
                "keep all right: timedatectl set-ntp true; delays and expiries go by that of the server that leads".into(),
            )
        }
        Code::BEHIND => {
            let who = named(&|found| format!("{} by {}", found.text, count(found.count, "message")));
            (
                format!("a server is far behind the log of the cluster: {who}; until it has read that it cannot lead"),
                "contactctl servers shows whether it catches up; look at its disk, its processors and its way to NATS".into(),
            )
        }
        Code::CODE_UNSPECIFIED => return None,
        Code::QUIET => ("nothing waits, but no client is connected".into(), "contact-client --group workers".into()),
        Code::FIRST => ("nothing has happened yet".into(), String::new()),
    };
    let status = match first.severity.enum_value_or_default() {
        Severity::NOTE => return Some(Finding::ok(check, says)),
        Severity::SEVERITY_UNSPECIFIED | Severity::WARNING => Status::Warning,
        Severity::FAILURE => Status::Failed,
    };
    Some(Finding::bad(check, status, says, remedy))
}

/// What a server does not take with so little room on its disk.
fn not_taken(disk: &pb::Finding) -> &'static str {
    match disk.count {
        free if free < disk.limit / 2 => ": no tasks are accepted, and no statuses are stored",
        free if free < disk.limit => ": statuses are not stored",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use protobuf::Enum as _;

    use super::*;

    fn about(code: Code, group: &str) -> pb::Finding {
        let severity = Severity::WARNING.into();
        pb::Finding { code: code.into(), severity, group: group.into(), ..Default::default() }
    }

    fn server(findings: Vec<pb::Finding>) -> pb::Server {
        pb::Server { findings, ..Default::default() }
    }

    #[track_caller]
    fn bad(findings: Vec<pb::Finding>) -> (Status, String, String) {
        let [found] = &attention(&pb::Server::new(), &findings)[..] else { panic!("one") };
        (found.status, found.says.clone(), found.remedy.clone().unwrap_or_default())
    }

    #[test]
    fn where_nothing_was_found_every_check_is_ok() {
        for finding in checks(&server(vec![])) {
            assert_eq!((finding.status, &finding.remedy), (Status::Ok, &None), "{finding:?}");
        }
    }

    #[test]
    fn whatever_the_server_finds_has_its_check_and_its_words() {
        for code in &Code::VALUES[1..] {
            let server = server(vec![about(*code, "g")]);
            let found = checks(&server).into_iter().filter(|finding| finding.status == Status::Warning);
            let [found] = &found.collect::<Vec<_>>()[..] else { panic!("one for {code:?}") };
            assert_eq!(attention(&server, &server.findings)[0].check, found.check);
        }
        let note = pb::Finding { severity: Severity::NOTE.into(), ..about(Code::FIRST, "") };
        assert!(attention(&pb::Server::new(), &[note]).is_empty());
        let unset = pb::Finding { severity: Severity::WARNING.into(), ..pb::Finding::default() };
        assert!(attention(&pb::Server::new(), &[unset]).is_empty(), "it is not that the server takes no tasks");
    }

    #[test]
    fn each_trouble_of_a_group_names_the_command_that_helps() {
        let (_, says, remedy) = bad(vec![pb::Finding { count: 3, ..about(Code::UNSERVED, "mail; rm") }]);
        assert_eq!(says, "mail; rm (3 tasks) has no client connected");
        let starts = "contact-client --group 'mail; rm', or contactctl group rm 'mail; rm'";
        assert_eq!(remedy, starts);
        let old = |code| pb::Finding { count: 3, task: 17, millis: 120_000, ..about(code, "a") };
        let (_, says, remedy) = bad(vec![old(Code::HANGING)]);
        assert!(says.ends_with("a (task 17 for 2 min)") && remedy == "contactctl task 17 says why", "{says}; {remedy}");
        let (_, says, remedy) = bad(vec![old(Code::RETENTION)]);
        assert!(
            says.ends_with("a (task 17, 2 min ago)") && remedy.starts_with("contactctl cancel 17"),
            "{says}; {remedy}"
        );
        let (_, says, remedy) = bad(vec![pb::Finding { text: "emails".into(), ..old(Code::NEVER_CAME) }]);
        assert_eq!(
            says,
            "there is no group a (3 tasks; there is emails): no client of that name has ever come, or it was removed; is the name right?"
        );
        assert_eq!(remedy, "contact-client --group a, or contactctl cancel 17");
    }

    #[test]
    fn of_many_groups_the_worst_are_named_and_the_others_counted() {
        let mut paused: Vec<_> = [9, 8, 7].iter().map(|n| about(Code::PAUSED, &format!("g{n}"))).collect();
        paused[2].more = 6;
        let (_, says, remedy) = bad(paused);
        assert_eq!((says.as_str(), remedy.as_str()), ("g9, g8, g7 and 6 more are paused", "contactctl resume g9"));
    }

    #[test]
    fn what_fails_is_told_apart_from_what_needs_attention() {
        let disk = pb::Finding { severity: Severity::FAILURE.into(), count: 1 << 20, ..about(Code::DISK, "") };
        let (status, says, _) = bad(vec![disk]);
        assert_eq!((status, says.as_str()), (Status::Failed, "1.00 MiB free on the disk of "));
        for (limit, more) in
            [(3 << 19, ": statuses are not stored"), (3 << 20, ": no tasks are accepted, and no statuses are stored")]
        {
            let disk =
                pb::Finding { limit, severity: Severity::FAILURE.into(), count: 1 << 20, ..about(Code::DISK, "") };
            assert_eq!(bad(vec![disk]).1, format!("1.00 MiB free on the disk of {more}"));
        }
    }
}
