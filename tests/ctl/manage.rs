//! Commands that are one question and one answer.

use contact::wire::contact::Outcome;
use contact::wire::control as pb;

use super::fake::Fake;
use super::{Ran, contactctl, eventually, ok, run};
use crate::common::server::Server;
use crate::rig::{Client, told};

const AT: i64 = 1_777_536_000_123;

fn result(seq: u64, task_id: u64, group: &str) -> pb::TaskResult {
    pb::TaskResult {
        seq,
        task_id,
        group: group.into(),
        client: "w1".into(),
        attempt: 3,
        outcome: pb::Outcome::FAILED.into(),
        ret: "no such file".into(),
        at: AT,
        ..Default::default()
    }
}

#[test]
fn clients_are_listed() {
    let fake = Fake::new();
    assert_eq!(run(&fake, &["clients"]).err, "no client is connected\n");
    assert_eq!(ok(&fake, &["clients", "--json"]), "");
    fake.state().clients = vec![
        pb::Client {
            client: "张三".into(),
            group: "workers".into(),
            peer: "ipv4:10.0.0.1:5000".into(),
            since: AT,
            window: 16,
            in_flight: 2,
            delivered: 400,
            labels: "os=linux".into(),
            ..Default::default()
        },
        pb::Client {
            peer: "ipv4:10.0.0.2:6".into(),
            since: AT,
            delivered: 7,
            draining: Some(pb::Draining { since: AT, note: "disk\nis replaced".into(), ..Default::default() }).into(),
            ..Default::default()
        },
    ];
    assert_eq!(
        ok(&fake, &["clients"]),
        "\
CLIENT  GROUP    PEER                SINCE                     WINDOW  IN FLIGHT  DELIVERED  LABELS    STATE
张三    workers  ipv4:10.0.0.1:5000  2026-04-30T08:00:00.123Z      16          2        400  os=linux
-       -        ipv4:10.0.0.2:6     2026-04-30T08:00:00.123Z       -          0          7  -         drained: disk\\nis replaced
"
    );
    assert_eq!(
        ok(&fake, &["clients", "--json"]),
        r#"{"client":"张三","group":"workers","peer":"ipv4:10.0.0.1:5000","since":"2026-04-30T08:00:00.123Z","window":16,"in_flight":2,"delivered":400,"labels":"os=linux"}
{"client":"","group":"","peer":"ipv4:10.0.0.2:6","since":"2026-04-30T08:00:00.123Z","window":0,"in_flight":0,"delivered":7,"draining":{"since":"2026-04-30T08:00:00.123Z","until":null,"note":"disk\nis replaced","stopping":false}}
"#
    );
}

#[test]
fn groups_are_listed() {
    let fake = Fake::new();
    fake.state().groups = vec![
        pb::Group {
            name: "workers".into(),
            clients: 2,
            lag: 12,
            in_flight: 4,
            oldest: 88,
            oldest_at: AT,
            rate: 3.25,
            paused: true,
            dead: 1,
            retry: "max=5".into(),
            ..Default::default()
        },
        pb::Group { name: "idle".into(), ..Default::default() },
    ];
    assert_eq!(
        ok(&fake, &["groups"]),
        "\
GROUP    CLIENTS  LAG  IN FLIGHT  OLDEST  SINCE                     PER SECOND  DEAD  STATE    RETRY  LIMITS
workers        2   12          4      88  2026-04-30T08:00:00.123Z         3.2     1  paused   max=5  -
idle           0    0          0       -  -                                0.0     0  running  -      -
"
    );
    assert_eq!(
        ok(&fake, &["groups", "--json"]),
        r#"{"group":"workers","clients":2,"lag":12,"in_flight":4,"oldest":88,"oldest_at":"2026-04-30T08:00:00.123Z","rate":3.25,"paused":true,"dead":1,"retry":"max=5"}
{"group":"idle","clients":0,"lag":0,"in_flight":0,"oldest":null,"oldest_at":null,"rate":0.0,"paused":false,"dead":0}
"#
    );
}

#[test]
fn a_task_is_shown_with_its_ledger() {
    let fake = Fake::new();
    fake.state().ledger = pb::TaskLedger {
        task: Some(pb::Task {
            id: 17,
            task: "print\nit".into(),
            accepted_at: AT,
            max_attempts: 3,
            priority: pb::Priority::HIGH.into(),
            ..Default::default()
        })
        .into(),
        groups: vec![pb::TaskInGroup {
            group: "workers".into(),
            state: pb::TaskState::WAITING.into(),
            attempt: 1,
            wait: Some(pb::WaitReason::NO_CLIENT.into()),
            ..Default::default()
        }],
        results: vec![pb::TaskResult { late: true, ..result(5, 17, "workers") }],
        ..Default::default()
    };
    assert_eq!(
        ok(&fake, &["task", "17"]),
        "\
task          17
text          print\\nit
to            every group
accepted      2026-04-30T08:00:00.123Z
max attempts  3
priority      HIGH

groups
GROUP    STATE    CLIENT  ATTEMPT  WHY
workers  waiting  -             1  no client of the group is connected

results
SEQ  AT                        TASK  GROUP    CLIENT  ATTEMPT  OUTCOME        RESULT
  5  2026-04-30T08:00:00.123Z    17  workers  w1            3  FAILED (late)  no such file
"
    );
    assert_eq!(
        ok(&fake, &["task", "17", "--json"]),
        r#"{"id":17,"task":"print\nit","to":null,"accepted_at":"2026-04-30T08:00:00.123Z","max_attempts":3,"priority":"HIGH","groups":[{"group":"workers","state":"waiting","client":"","attempt":1,"reason":"no client of the group is connected"}],"results":[{"seq":5,"task_id":17,"group":"workers","client":"w1","attempt":3,"outcome":"FAILED","ret":"no such file","at":"2026-04-30T08:00:00.123Z","late":true}]}
"#
    );
}

#[test]
fn what_the_server_refuses_is_said_in_its_words() {
    let fake = Fake::new();
    for args in [&["task", "404"][..], &["cancel", "404"], &["retry", "404"]] {
        let ran = run(&fake, args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(4), ""));
        assert_eq!(ran.err, "contactctl: there is no task 404\n");
        let ran = run(&fake, &[args, &["--json"]].concat());
        assert_eq!((ran.code, ran.out.as_str()), (Some(4), ""));
        assert_eq!(ran.err, "{\"error\":\"there is no task 404\"}\n");
    }
}

#[test]
fn several_tasks_are_cancelled_or_retried_and_one_that_is_refused_keeps_no_other_from_it() {
    let fake = Fake::new();
    let out = ok(&fake, &["cancel", "5", "6"]);
    assert_eq!(out, "task 5 is taken back from 2 groups\ntask 6 is taken back from 2 groups\n");
    for (verb, done) in [("cancel", "cancelled"), ("retry", "retried")] {
        let ran = run(&fake, &[verb, "5", "404", "6", "--json"]);
        let lines: Vec<serde_json::Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let ids: Vec<_> = lines.iter().map(|it| (it["task_id"].as_u64().unwrap(), it.get("error").is_some())).collect();
        assert_eq!((ran.code, ids), (Some(1), vec![(5, false), (404, true), (6, false)]), "{}", ran.out);
        assert!(ran.err.contains(&format!("1 task could not be {done}")), "{}", ran.err);
    }
}

#[test]
fn tasks_are_cancelled_and_retried_and_groups_paused_resumed_and_removed() {
    let fake = Fake::new();
    for (args, text, json) in [
        (&["cancel", "5"][..], "task 5 is taken back from 2 groups", r#"{"task_id":5,"groups":2,"told":0,"untold":0}"#),
        (
            &["cancel", "7"],
            "task 7 is cancelled; no group was waiting for it",
            r#"{"task_id":7,"groups":0,"told":0,"untold":0}"#,
        ),
        (&["cancel", "8"], "task 8 was cancelled before", r#"{"task_id":8,"groups":0,"told":0,"untold":0}"#),
        (
            &["cancel", "9"],
            "task 9 is taken back from 4 groups; 1 client at work on it told to end; 2 clients at work on it cannot be told",
            r#"{"task_id":9,"groups":4,"told":1,"untold":2}"#,
        ),
        (&["retry", "5"], "task 5 goes to 1 group again", r#"{"task_id":5,"groups":1}"#),
        (&["retry", "5", "--group", "g"], "task 5 goes to 1 group again", r#"{"task_id":5,"groups":1}"#),
        (&["pause", "g"], "group g is paused", r#"{"group":"g","paused":true}"#),
        (&["resume", "g"], "group g is running", r#"{"group":"g","paused":false}"#),
        (
            &["group", "retry", "g", "max=5"],
            "tasks of group g are tried again by max=5",
            r#"{"group":"g","retry":"max=5"}"#,
        ),
        (
            &["group", "retry", "g", "--default"],
            "tasks of group g are tried again as the server is set",
            r#"{"group":"g","retry":null}"#,
        ),
        (&["clock", "accept"], "the clock is right, 1 min behind where it was", r#"{"ahead_ms":-90000}"#),
        (&["group", "rm", "g"], "group g is gone; it owed 5 tasks", r#"{"group":"g","owed":5}"#),
    ] {
        assert_eq!(ok(&fake, args), format!("{text}\n"));
        assert_eq!(ok(&fake, &[args, &["--json"]].concat()), format!("{json}\n"));
    }
    let mut asked = fake.state().asked.clone();
    asked.dedup();
    assert_eq!(
        asked,
        [
            "cancel 5",
            "cancel 7",
            "cancel 8",
            "cancel 9",
            "retry 5 for \"\"",
            "retry 5 for \"g\"",
            "pause g true",
            "pause g false",
            "retry of g \"max=5\"",
            "retry of g \"\"",
            "clock accept",
            "remove g"
        ]
    );
}

#[test]
fn tasks_are_cancelled_by_what_they_are_and_waited_for_until_their_clients_have_ended() {
    let server = Server::start(&[]);
    let worker = Client::of(
        &server.listen,
        &[("contact-group", "workers"), ("contact-client", "w1"), ("contact-revoke", "1"), ("contact-window", "1")],
    );
    let mut tasks = worker.tasks();
    server.ctl(&["submit", "--to", "workers", "one", "two", "two again"]);
    server.ctl(&["submit", "--to", "others", "two for others"]);
    let begun = tasks.next();
    let cancel = |args: &[&str]| -> Ran {
        contactctl(&server.control, &[&["cancel"], args, &["--json"]].concat()).output().unwrap().into()
    };
    let ids = |ran: &Ran| {
        let lines = ran.out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| line["task_id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    for (args, expected) in [
        (&["--to", "workers"][..], &[1, 2, 3][..]),
        (&["--to", "workers", "--state", "waiting"], &[2, 3]),
        (&["--state", "in-flight"], &[1]),
        (&["--text", "two"], &[2, 3, 4]),
        (&["--text", "two", "--to", "others"], &[4]),
        (&["--older-than", "1h"], &[]),
        (&["--older-than", "0s"], &[1, 2, 3, 4]),
    ] {
        assert_eq!(ids(&cancel(&[args, &["--dry-run"]].concat())), expected, "{args:?}");
    }
    let nothing = cancel(&[]);
    assert_eq!((nothing.code, nothing.err.contains("--older-than")), (Some(2), true), "{}", nothing.err);
    assert_eq!(cancel(&["1", "--to", "workers"]).code, Some(2));

    assert_eq!(ids(&cancel(&["--text", "two", "--to", "workers"])), [2, 3]);
    let waits = cancel(&["1", "--wait", "--timeout", "1ms"]);
    assert_eq!((waits.code, ids(&waits)), (Some(124), vec![1]), "{}", waits.err);
    assert!(waits.err.contains("1 client had not ended: task 1"), "{}", waits.err);
    let waiting = std::thread::scope(|scope| {
        // It was cancelled before, and is waited for all the same.
        let waiting = scope.spawn(|| cancel(&["1", "--wait"]));
        worker.tell([told(&begun, Outcome::RETRY, "ended")]);
        waiting.join().unwrap()
    });
    assert_eq!(waiting.code, Some(0), "{}", waiting.err);
    assert!(waiting.out.contains(r#"{"task_id":1,"ended":true}"#), "{}", waiting.out);
}

#[test]
fn a_task_that_no_group_is_given_again_is_said_so_and_a_group_that_is_not_there_is_refused() {
    let server = Server::start(&[]);
    let worker = Client::of(&server.listen, &[("contact-group", "workers"), ("contact-client", "w1")]);
    let mut tasks = worker.tasks();
    server.ctl(&["submit", "--to", "workers", "work"]);
    let work = tasks.next();
    let retry =
        |args: &[&str]| -> Ran { contactctl(&server.control, &[&["retry"], args].concat()).output().unwrap().into() };
    let held = retry(&["1", "--group", "workers"]);
    assert_eq!((held.code, held.out.contains("it has not settled it")), (Some(0), true), "{}", held.out);
    worker.tell([told(&work, Outcome::DONE, "done")]);
    let done = retry(&["1"]);
    assert_eq!((done.code, done.out.contains("--group names one that said DONE")), (Some(0), true), "{}", done.out);
    assert_eq!(retry(&["1", "--group", "workers"]).out, "task 1 goes to 1 group again\n");
    let nobody = retry(&["1", "--group", "wrokers"]);
    assert_eq!((nobody.code, nobody.out.as_str()), (Some(4), ""));
    assert!(nobody.err.contains("there is no group wrokers"), "{}", nobody.err);
}

#[test]
fn programs_read_of_a_wrong_command_line_as_of_any_other_error() {
    let ran: Ran = contactctl("127.0.0.1:1", &["task", "one", "--json"]).output().unwrap().into();
    let said: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    assert_eq!(said["error"], "invalid value 'one' for '<ID>': invalid digit found in string");
}

#[test]
fn dead_letters_are_listed() {
    let fake = Fake::new();
    fake.state().results = vec![result(1, 10, "a"), result(2, 11, "b")];
    assert_eq!(
        ok(&fake, &["dead", "--group", "a"]),
        "\
SEQ  AT                        TASK  GROUP  CLIENT  ATTEMPT  OUTCOME  RESULT
  1  2026-04-30T08:00:00.123Z    10  a      w1            3  FAILED   no such file
  2  2026-04-30T08:00:00.123Z    11  b      w1            3  FAILED   no such file
"
    );
    assert_eq!(ok(&fake, &["dead", "--json", "--all"]).lines().count(), 2);
    assert_eq!(
        fake.state().asked,
        ["dead of \"a\" after 0 limit 0 latest 20 follow false", "dead of \"\" after 0 limit 0 latest 0 follow false"]
    );
}

#[test]
fn all_dead_letters_are_retried_each_once_whatever_their_number() {
    let fake = Fake::new();
    fake.state().results = (1..=50).map(|n| result(n, n / 2, "g")).collect();
    let out = run(&fake, &["dead", "--retry", "--group", "g"]);
    assert_eq!((out.code, out.err.as_str()), (Some(0), "retried 26 tasks\n"));
    assert_eq!(out.out, (0..=25).map(|n| format!("retried task {n} of g\n")).collect::<String>());
    let mut asked = fake.state().asked.split_off(0);
    assert_eq!(asked.remove(0), "dead of \"g\" after 0 limit 0 latest 0 follow false");
    asked.sort();
    let mut expected: Vec<_> = (0..=25).map(|n| format!("retry {n} for \"g\"")).collect();
    expected.sort();
    assert_eq!(asked, expected);
}

#[test]
fn all_dead_letters_are_dropped_and_those_that_cannot_be_are_named() {
    let fake = Fake::new();
    fake.state().results = vec![result(1, 10, "a"), result(2, 404, "a"), result(3, 10, "b"), result(4, 12, "a")];
    let ran = run(&fake, &["dead", "--drop", "--json"]);
    assert_eq!(ran.code, Some(1));
    let failed = "{\"task_id\":404,\"group\":\"a\",\"error\":\"there is no task 404\"}\n";
    let dropped = [(10, "a"), (10, "b"), (12, "a")];
    let lines = dropped.map(|(id, group)| format!("{{\"task_id\":{id},\"group\":\"{group}\",\"done\":\"dropped\"}}\n"));
    assert_eq!(ran.out, lines.concat() + failed, "each for its group");
    assert_eq!(ran.err, "{\"error\":\"1 task could not be dropped\"}\n");
    let ran = run(&fake, &["dead", "--drop"]);
    assert_eq!(
        ran.err,
        "task 404 of a: there is no task 404\ndropped 3 tasks\ncontactctl: 1 task could not be dropped\n"
    );
}

#[test]
fn one_dead_letter_is_dropped_or_retried_alone() {
    let fake = Fake::new();
    let task = |group: &str, state: pb::TaskState| pb::TaskInGroup {
        group: group.into(),
        state: state.into(),
        ..Default::default()
    };
    let (dead, settled) = (pb::TaskState::DEAD, pb::TaskState::SETTLED);
    fake.state().ledger.groups = vec![task("a", dead), task("b", settled), task("c", dead)];
    let ran = run(&fake, &["dead", "7", "--drop"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "dropped task 7 of a\ndropped task 7 of c\n"));
    let ran = run(&fake, &["dead", "7", "--retry", "--group", "a"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "retried task 7 of a\n"));
    let mut asked = fake.state().asked.split_off(0);
    asked[1..3].sort();
    assert_eq!(asked, ["task 7", "drop 7 of \"a\"", "drop 7 of \"c\"", "task 7", "retry 7 for \"a\""]);

    let ran = run(&fake, &["dead", "7", "--retry", "--group", "b"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(4), ""), "it is settled there: nothing is given out again");
    assert_eq!(ran.err, "contactctl: group b did not give up task 7; contactctl task 7 says where it stands\n");
    fake.state().ledger.groups.clear();
    let ran = run(&fake, &["dead", "7", "--drop"]);
    assert_eq!(ran.err, "contactctl: no group gave up task 7; contactctl task 7 says where it stands\n");
}

#[test]
fn a_server_is_shown() {
    let fake = Fake::new();
    fake.state().server = pb::Server {
        version: "1.2.3".into(),
        now: AT + 5000,
        started_at: AT,
        listen: "0.0.0.0:50051".into(),
        retain_bytes: Some(3 << 20),
        retain_ms: 7 * 86_400_000,
        open_files: Some(1234),
        open_files_soft: Some(65536),
        lag: Some(7),
        refuses: "no room is left".into(),
        ..Default::default()
    };
    let shown = ok(&fake, &["server"]);
    for line in [
        "version       1.2.3",
        "started       2026-04-30T08:00:00.123Z",
        "clients at    0.0.0.0:50051",
        "takes tasks   no: no room is left",
        "unsettled     7",
        "dead letters  not known",
        "disk free     not known",
        "open files    1,234 of 65,536 (hard limit: no limit)",
        "retains       7 d, at most 3.00 MiB",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
    let object: serde_json::Value = serde_json::from_str(&ok(&fake, &["server", "--json"])).unwrap();
    assert_eq!(object["version"], "1.2.3");
    assert_eq!(object["started_at"], "2026-04-30T08:00:00.123Z");
    assert_eq!((&object["lag"], &object["dead"]), (&7.into(), &serde_json::Value::Null));
    assert_eq!(fake.state().asked, ["server counted true", "server counted true"]);
}

#[test]
fn a_group_that_is_new_is_said_to_be_when_it_is_paused() {
    let server = Server::start(&[]);
    let said = |args: &[&str]| {
        let ran: Ran = contactctl(&server.control, args).output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        ran.out
    };
    let new = "group to come is paused, before its first client; if it is misspelt: contactctl group rm 'to come'\n";
    assert_eq!(said(&["pause", "to come"]), new);
    assert_eq!(said(&["pause", "to come"]), "group to come is paused\n");
    assert_eq!(server.ctl(&["groups"])[0]["paused"], true);
    assert_eq!(said(&["group", "rm", "to come"]), "group to come is gone; it owed 0 tasks\n");
    assert_eq!(server.ctl(&["pause", "x"]), [serde_json::json!({"group": "x", "paused": true, "is_new": true})]);

    for (name, why) in [("workers ", "must not begin or end with a blank"), ("wor\u{200b}kers", "U+200B")] {
        let ran: Ran = contactctl(&server.control, &["pause", name]).output().unwrap().into();
        assert_eq!((ran.code, ran.out.as_str()), (Some(4), ""), "no client could ever join it");
        assert!(ran.err.contains(why), "{}", ran.err);
    }
    assert_eq!(server.ctl(&["groups"]).len(), 1);
}

#[test]
fn what_a_client_says_of_its_work_stands_with_the_task() {
    let fake = Fake::new();
    let group = pb::TaskInGroup {
        group: "workers".into(),
        state: pb::TaskState::IN_FLIGHT.into(),
        client: "w1".into(),
        attempt: 1,
        until: AT,
        said: "40 %\u{1b}".into(),
        ..Default::default()
    };
    fake.state().ledger.groups = vec![group];
    let shown = ok(&fake, &["task", "1"]);
    let line = "workers  in flight  w1            1  40 %\\u{1b}; its lease ends at 2026-04-30T08:00:00.123Z";
    assert!(shown.lines().any(|it| it == line), "{shown}");
    let json: serde_json::Value = serde_json::from_str(&ok(&fake, &["task", "1", "--json"])).unwrap();
    assert_eq!(json["groups"][0]["said"], "40 %\u{1b}");
}

#[test]
fn a_client_is_drained_and_given_tasks_again() {
    let fake = Fake::new();
    let client = |client: &str, in_flight| pb::Client { client: client.into(), in_flight, ..Default::default() };
    fake.state().clients = vec![client("busy", 3), client("idle", 0), client("two", 1), client("two", 0)];
    let said = |args: &[&str]| ok(&fake, args);
    let drain = ["drain", "busy", "--for", "1h", "--note", "disk is replaced"];
    assert_eq!(said(&drain), "client busy gets no more tasks for 1 h; it finishes 3 tasks\n");
    assert_eq!(said(&["drain", "idle"]), "client idle gets no more tasks; it has none\n");
    assert_eq!(said(&["drain", "two"]), "client two (2 streams) gets no more tasks; it finishes 1 task\n");
    let away = "client away gets no tasks when it comes back; it is not connected now\n";
    assert_eq!(said(&["drain", "away"]), away);
    assert_eq!(said(&["undrain", "busy"]), "client busy gets tasks again\n");
    assert_eq!(said(&["undrain", "never"]), "client never was not drained\n");
    let json = "{\"client\":\"busy\",\"drained\":true,\"streams\":1,\"in_flight\":3}\n";
    assert_eq!(said(&["drain", "busy", "--json"]), json);
    let asked = ["drain busy for 3600000 because \"disk is replaced\"", "drain idle for 0 because \"\""];
    assert_eq!(fake.state().asked[..2], asked);
    for wrong in [&["drain", "busy", "--for", "0s"][..], &["drain", ""], &["drain"]] {
        assert_eq!(run(&fake, wrong).code, Some(2), "{wrong:?}");
    }
}

#[test]
fn workers_are_dialled_listed_with_why_not_and_dialled_no_more() {
    let fake = Fake::new();
    let said = |args: &[&str]| ok(&fake, args);
    let add = ["dial", "add", "10.0.0.7:1", "--group", "g", "--client", "w"];
    assert!(said(&add).starts_with("10.0.0.7:1 is dialled from now on"));
    assert!(said(&["dial", "add", "10.0.0.7:1", "--group", "old"]).contains("was dialled already"));
    let listed = said(&["dial", "list"]);
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1][..3], ["10.0.0.7:1", "-", "w"]);
    assert_eq!(lines[1].last(), Some(&"connected"));
    assert!(listed.contains("refused\\u{1b}") && listed.contains("connecting"), "{listed}");
    let json = said(&["dial", "list", "--json"]);
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!((&first["connected"], &first["connected_as"]), (&true.into(), &"w".into()));
    assert_eq!(said(&["dial", "rm", "10.0.0.7:1"]), "10.0.0.7:1 is dialled no more\n");
    let asked = ["dial 10.0.0.7:1 for \"g\" as \"w\"", "dial 10.0.0.7:1 for \"old\" as \"\"", "dialled"];
    assert_eq!(fake.state().asked[..3], asked);
    for wrong in [&["dial", "add", "nowhere"][..], &["dial", "add"], &["dial", "rm"], &["dial"]] {
        assert_eq!(run(&fake, wrong).code, Some(2), "{wrong:?}");
    }
}

#[test]
fn the_servers_of_a_cluster_are_listed_with_who_leads_and_how_their_log_is_kept() {
    let fake = Fake::new();
    let said = ok(&fake, &["servers"]);
    let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1][..6], ["a:1", "leading", "7", "0", "3", "1.2.3"]);
    assert_eq!(lines[2][..6], ["b\\u{1b}:1", "silent,", "was", "following", "-", "9"]);
    assert!(said.contains("The log CONTACT_main: 8 messages (3 to 10), 2.00 KiB"), "{said}");
    assert!(said.contains("leads the stream") && said.contains("is not there"), "{said}");
    assert!(said.ends_with("not well: discard is Old\n"), "{said}");
    let json: serde_json::Value = serde_json::from_str(&ok(&fake, &["servers", "--json"])).unwrap();
    assert_eq!((&json["cluster"], &json["servers"][1]["clock_ahead_ms"]), (&"main".into(), &(-5).into()));
    assert_eq!((&json["log"]["replicas"][1]["lag"], &json["servers"][0]["role"]), (&4.into(), &"leading".into()));
}

#[test]
fn a_server_that_is_alone_is_listed_alone() {
    let server = Server::start(&[]);
    let ran: Ran = contactctl(&server.control, &["servers"]).output().unwrap().into();
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines.len() == 2 && lines[1].contains("alone"), "{ran:?}");
    assert!(ran.err.contains("this server is alone"), "{ran:?}");
}

#[test]
fn a_group_is_given_a_retry_policy_which_is_seen_and_taken_back() {
    let server = Server::start(&[]);
    let said = |args: &[&str]| -> Ran { contactctl(&server.control, args).output().unwrap().into() };
    let whole = "max=5,first=10s,factor=2,cap=10m,jitter=0.1";
    let new = format!(
        "tasks of group g are tried again by {whole}, before its first client; if it is misspelt: contactctl group rm g\n"
    );
    assert_eq!(said(&["group", "retry", "g", "max=5,first=10s"]).out, new);
    assert_eq!(server.ctl(&["groups"])[0]["retry"], whole);
    let wrong = said(&["group", "retry", "g", "often=1"]);
    assert_eq!((wrong.code, wrong.err.contains("max=5,first=10s")), (Some(2), true), "{}", wrong.err);
    assert_eq!(said(&["group", "retry", "g"]).code, Some(2), "a policy, or --default");
    assert_eq!(server.ctl(&["group", "retry", "g", "--default"]), [serde_json::json!({"group": "g", "retry": null})]);
    assert_eq!(server.ctl(&["groups"])[0].get("retry"), None);
    let unknown = said(&["group", "retry", "nobody", "--default"]);
    assert_eq!((unknown.code, unknown.err.contains("no group nobody")), (Some(4), true), "{}", unknown.err);
}

#[test]
fn who_submits_for_a_group_is_told_whom_the_tasks_wait_for() {
    let server = Server::start(&[]);
    let submit = |args: &[&str]| -> Ran {
        let ran: Ran = contactctl(&server.control, &[&["submit"], args].concat()).output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        ran
    };
    let start = format!("contact-client --server {} --group mail --exec COMMAND", server.listen);
    let never = format!("group mail has no client yet: they wait; start one with: {start}\n");
    let nobody = "no client has come yet: a group that is new gets them if its client starts with --from first\n";
    assert_eq!(submit(&["for everyone"]).err, nobody);
    assert_eq!(submit(&["--to", "mail", "a", "b"]).err, never);
    let member = Client::of(&server.listen, &[("contact-group", "mail"), ("contact-client", "m1")]);
    let mut tasks = member.tasks();
    tasks.take(2);
    assert_eq!(submit(&["--to", "mail", "c"]).err, "");
    server.ctl(&["pause", "mail"]);
    let paused = "group mail is paused: they wait; give it tasks again with: contactctl resume mail\n";
    assert_eq!(submit(&["--to", "mail", "--to", "mail", "d"]).err, paused, "once, though it is named twice");
    assert_eq!(submit(&["for everyone"]).err, "");
    server.ctl(&["resume", "mail"]);
    drop(tasks);
    eventually("the client is gone", || server.ctl(&["clients"]).is_empty());
    let gone = "no client of group mail is connected: they wait until one comes back\n";
    assert_eq!(submit(&["--to", "mail", "e"]).err, gone);
    assert_eq!(server.ctl(&["submit", "--to", "never", "f"]).len(), 2, "programs are told nothing more");
}
