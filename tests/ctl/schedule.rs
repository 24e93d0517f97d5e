//! Schedules, with the real program and the real server.

use std::fs;

use serde_json::Value;

use super::{Ran, contactctl};
use crate::common::server::Server;

fn said(server: &Server, args: &[&str]) -> Ran {
    contactctl(&server.control, args).output().unwrap().into()
}

#[track_caller]
fn ok(server: &Server, args: &[&str]) -> String {
    let ran = said(server, args);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{}", ran.out);
    ran.out
}

#[track_caller]
fn json(server: &Server, args: &[&str]) -> Value {
    serde_json::from_str(&ok(server, &[args, &["--json"]].concat())).unwrap()
}

const NIGHTLY: [&str; 9] =
    ["schedule", "set", "nightly", "--cron", "0 3 * * *", "--zone", "Europe/Berlin", "--to", "workers"];

#[test]
fn a_schedule_is_set_once_however_often_it_is_set_and_says_what_changed() {
    let server = Server::start(&[]);
    let set = |text: &str| ok(&server, &[&NIGHTLY[..], &[text]].concat());
    assert!(set("reindex").starts_with("schedule nightly is new; next 20"));
    assert!(set("reindex").starts_with("schedule nightly was so already; next 20"));
    assert!(set("reindex all").starts_with("schedule nightly is changed (task); next 20"));
    let listed = ok(&server, &["schedule", "list"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.contains("nightly") && listed.contains("0 3 * * * Europe/Berlin"), "{listed}");
    let shown = json(&server, &["schedule", "show", "nightly", "--moments", "3"]);
    let next: Vec<&str> = shown["next"].as_array().unwrap().iter().map(|at| at.as_str().unwrap()).collect();
    assert!(
        next.len() == 3 && next.iter().all(|at| at.ends_with("T01:00:00.000Z") || at.ends_with("T02:00:00.000Z")),
        "{next:?}"
    );
    assert_eq!(
        (&shown["cron"], &shown["missed"], &shown["to"]),
        (&"0 3 * * *".into(), &"skip".into(), &"workers".into())
    );

    assert_eq!(ok(&server, &["schedule", "pause", "nightly"]), "schedule nightly is paused\n");
    assert_eq!(json(&server, &["schedule", "list"])["paused"], true);
    let made = json(&server, &["schedule", "run", "nightly"]);
    assert_eq!(made["task_id"], 1, "also while it is paused");
    let ledger = ok(&server, &["task", "1"]);
    assert!(ledger.contains("schedule      nightly, run by hand"), "{ledger}");
    assert!(ok(&server, &["schedule", "resume", "nightly"]).starts_with("schedule nightly makes tasks; next 20"));
    assert!(ok(&server, &["schedule", "show", "nightly"]).contains("last          task 1, run by hand"));
    assert!(ok(&server, &["schedule", "rm", "nightly"]).starts_with("schedule nightly is removed"));
    let gone = said(&server, &["schedule", "run", "nightly"]);
    assert!(gone.code == Some(4) && gone.err.contains("there is no schedule nightly"), "{gone:?}");
    let none = said(&server, &["schedule", "list"]);
    assert_eq!((none.code, none.out.as_str()), (Some(0), ""));
    assert!(none.err.starts_with("no schedules"), "{none:?}");
}

#[test]
fn the_tasks_of_a_schedule_are_in_a_lane_or_take_the_place_of_others_as_it_shows() {
    let server = Server::start(&[]);
    let set = |options: &[&str]| said(&server, &[&NIGHTLY[..], options, &["reindex"]].concat());
    let shown = || (ok(&server, &["schedule", "show", "nightly"]), json(&server, &["schedule", "show", "nightly"]));
    let made = || {
        let id = json(&server, &["schedule", "run", "nightly"])["task_id"].to_string();
        json(&server, &["task", &id])
    };

    assert_eq!(set(&["--lane", "tenant 7"]).code, Some(0));
    let (text, object) = shown();
    assert!(text.contains("lane          tenant 7\n") && !text.contains("replace"), "{text}");
    assert_eq!((&object["lane"], object.get("replace")), (&"tenant 7".into(), None));
    assert_eq!(made()["lane"], "tenant 7");

    let replaces = set(&["--replace", "config", "--quiet", "10s", "--max-wait", "1m"]);
    assert!(replaces.out.starts_with("schedule nightly is changed (task)"), "{replaces:?}");
    let (text, object) = shown();
    for line in ["replace       config\n", "quiet         10s\n", "max wait      1m\n"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let said = |object: &Value| ["replace", "quiet_ms", "max_wait_ms", "lane"].map(|field| object[field].clone());
    let whole = ["config".into(), 10_000.into(), 60_000.into(), Value::Null];
    assert_eq!(said(&object), whole);
    let first = made();
    assert_eq!(said(&first), whole);
    assert_eq!(made()["replaces"], first["id"]);

    let both = set(&["--lane", "tenant 7", "--replace", "config"]);
    assert_eq!(both.code, Some(2), "{both:?}");
    let alone = set(&["--quiet", "10s"]);
    assert!(alone.code == Some(2) && alone.err.contains("--replace"), "{alone:?}");
    assert_eq!(said(&shown().1), whole, "what is refused changes nothing");
}

#[test]
fn a_file_of_schedules_is_applied_and_applied_again_without_a_second_one() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("schedules.toml");
    let apply = |text: &str| {
        fs::write(&file, text).unwrap();
        said(&server, &["apply", "-f", file.to_str().unwrap(), "--json"])
    };
    let both = "[schedule.nightly]\ntext = 'x'\ncron = '0 3 * * *'\n[schedule.often]\ntext = 'y'\nevery = '10m'\n";
    let answers = |ran: Ran| -> Vec<Value> {
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let first = answers(apply(both));
    assert!(first.len() == 2 && first.iter().all(|one| one["is_new"] == true), "{first:?}");
    let again = answers(apply(both));
    assert!(again.iter().all(|one| one["is_new"] == false && one["changed"] == serde_json::json!([])), "{again:?}");
    assert_eq!(again[1]["next"], first[1]["next"], "an interval goes on as it was");
    let changed = answers(apply(&both.replace("10m", "20m")));
    assert_eq!(
        (&changed[0]["changed"], &changed[1]["changed"]),
        (&serde_json::json!([]), &serde_json::json!(["when"]))
    );
    assert_eq!(ok(&server, &["schedule", "list"]).lines().count(), 3);

    // What makes no sense here sets nothing; what the server refuses is named.
    let wrong = apply("[schedule.new]\ntext = 'x'\nevery = '1h'\n[schedule.wrong]\ntext = 'x'\nevery = 'often'\n");
    assert!(wrong.code == Some(2) && wrong.err.contains("schedule wrong: invalid value 'often'"), "{wrong:?}");
    assert_eq!(ok(&server, &["schedule", "list"]).lines().count(), 3);
    let refused = apply("[schedule.nowhere]\ntext = 'x'\ncron = '0 3 * * *'\nzone = 'Europe/Berln'\n");
    assert!(refused.code == Some(4) && refused.err.contains("schedule nowhere: there is no time zone"), "{refused:?}");
    let none = apply("");
    assert_eq!(none.code, Some(0));
}
