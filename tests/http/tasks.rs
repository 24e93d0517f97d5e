//! The list of tasks, and how it is narrowed.

use std::collections::BTreeSet;
use std::thread;

use contact::wire::contact::{Outcome, Result};
use contact::wire::control::NewTask;
use serde_json::{Value, json};

use super::api::{came_and_went, rig};
use super::client::{Events, exchange, get, get_json, state_until};
use crate::rig::{Rig, told};

/// The ids in a list, and what was looked at for it.
#[track_caller]
fn list(rig: &Rig, query: &str) -> (Vec<u64>, (u64, u64), bool) {
    let list = get_json(rig, &format!("/api/tasks?{query}"));
    let ids = list["tasks"].as_array().unwrap().iter().map(|task| task["id"].as_u64().unwrap()).collect();
    let looked = |end: &str| list["looked"][end].as_u64().unwrap();
    (ids, (looked("newest"), looked("oldest")), list["more"].as_bool().unwrap())
}

fn ids(rig: &Rig, query: &str) -> Vec<u64> {
    list(rig, query).0
}

fn for_group(to: &str) -> NewTask {
    NewTask { task: "work".into(), to: to.into(), ..NewTask::default() }
}

#[test]
fn tasks_are_narrowed_to_a_state() {
    let rig = rig();
    rig.operator.submit(&["1 done", "2 dead", "3 held", "4 waits"]);
    let workers = rig.client(&[
        ("contact-group", "workers"),
        ("contact-client", "w"),
        ("contact-window", "1"),
        ("contact-from", "first"),
    ]);
    let mut tasks = workers.tasks();
    workers.tell([told(&tasks.next(), Outcome::DONE, "")]);
    workers.tell([told(&tasks.next(), Outcome::FAILED, "")]);
    assert_eq!(tasks.next().id, 3);
    state_until(&rig, |state| state["totals"]["in_flight"] == 1 && state["totals"]["dead"] == 1);
    for (state, id) in [("settled", 1), ("dead", 2), ("in%20flight", 3), ("waiting", 4)] {
        for group in ["", "&group=workers"] {
            assert_eq!(list(&rig, &format!("state={state}{group}")), (vec![id], (4, 1), false), "{state}{group}");
        }
    }
    let refused = get(&rig, "/api/tasks?state=lost");
    assert_eq!(refused.status, 400);
    assert!(refused.error().contains("`in flight`"), "{refused:?}");
}

#[test]
fn tasks_are_narrowed_to_a_group_whose_state_they_then_show() {
    let rig = rig();
    rig.operator.submit_all(vec![for_group("b"), for_group("a"), NewTask { task: "all".into(), ..NewTask::default() }]);
    let a = rig.member("a", "a1");
    let mut tasks = a.tasks();
    a.tell(tasks.take(2).iter().map(|task| told(task, Outcome::DONE, "")));
    drop(tasks);
    rig.operator.connected(0);
    came_and_went(&rig, "other");
    state_until(&rig, |state| state["totals"]["lag"] == 2 && state["totals"]["groups"] == 2);
    assert_eq!(ids(&rig, "group=a"), [3, 2]);
    assert_eq!(ids(&rig, "group=other"), [3]);
    assert_eq!(ids(&rig, "group=b"), [1], "nobody of it came, and what was for everyone is not for it");
    assert_eq!(ids(&rig, "group=a&state=settled"), [3, 2]);
    assert_eq!(ids(&rig, "group=other&state=waiting"), [3], "one group is through with it, the other not");
    assert_eq!(ids(&rig, "group=other&state=settled"), [0; 0]);
    assert_eq!(ids(&rig, "group=b&state=waiting"), [1]);
    assert_eq!(get(&rig, "/api/tasks?group=%00").status, 400);
}

#[test]
fn a_task_of_many_groups_is_dead_for_the_one_that_gave_it_up_first() {
    let rig = rig();
    rig.operator.submit(&["for everyone"]);
    let first = rig.named("first");
    let mut tasks = first.tasks();
    first.tell([told(&tasks.next(), Outcome::FAILED, "")]);
    // More results of other groups than are looked at for a list.
    for n in 0..70 {
        let client = rig.named(&format!("later-{n}"));
        let mut tasks = client.tasks();
        client.tell([told(&tasks.next(), Outcome::DONE, "")]);
    }
    state_until(&rig, |state| state["totals"]["results"] == 71);
    assert_eq!(ids(&rig, "group=first&state=dead"), [1]);
    assert_eq!(ids(&rig, "group=later-0&state=settled"), [1]);
}

#[test]
fn a_look_goes_through_a_part_of_the_log_says_which_and_goes_on_from_there() {
    let rig = rig();
    came_and_went(&rig, "absent");
    rig.operator.submit_all(vec![for_group("wanted")]);
    for _ in 0..11 {
        rig.operator.submit(&vec!["other"; 1000]);
    }
    let (mut before, mut looks) = (11_002, 0);
    loop {
        let (found, (newest, oldest), more) = list(&rig, &format!("group=wanted&before={before}"));
        assert_eq!(newest, before - 1);
        assert!(newest - oldest < 10_000, "{newest} to {oldest} in one look");
        looks += 1;
        if !more {
            assert_eq!((found, oldest), (vec![1], 1));
            break;
        }
        assert_eq!(found, [0; 0]);
        before = oldest;
    }
    assert!(looks >= 2, "{looks} looks");
}

#[test]
fn a_list_that_is_full_goes_on_behind_its_last_task() {
    let rig = rig();
    let tasks = (1..=30).map(|n| for_group(if n % 3 == 0 { "wanted" } else { "other" })).collect();
    rig.operator.submit_all(tasks);
    assert_eq!(list(&rig, "group=wanted&limit=4"), (vec![30, 27, 24, 21], (30, 21), true));
    assert_eq!(list(&rig, "group=wanted&limit=6&before=21"), (vec![18, 15, 12, 9, 6, 3], (20, 1), false));
    let empty = get_json(&rig, "/api/tasks?group=wanted&before=1");
    assert_eq!((&empty["tasks"], &empty["looked"], &empty["more"]), (&json!([]), &Value::Null, &json!(false)));
}

#[test]
fn lists_are_looked_up_once_for_each_snapshot_however_many_ask() {
    let rig = rig();
    let mut worker = rig.anonymous().tasks();
    rig.operator.submit(&["one"]);
    worker.next();
    let mut events = Events::of(&rig);
    events.expect("history");
    events.expect("state");
    let address = rig.http();
    let ask = move || {
        let request = |path: &str| format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let ask = |path| exchange(address, request(path).as_bytes()).body;
        (0..5).map(|_| ["/api/tasks?limit=1", "/api/clients"].map(ask)).collect::<Vec<_>>()
    };
    let answers: Vec<[String; 2]> = thread::scope(|scope| {
        let askers: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
        // All the time there is something new to see.
        while !askers.iter().all(|asker| asker.is_finished()) {
            rig.operator.submit(&["more"]);
            worker.next();
        }
        askers.into_iter().flat_map(|asker| asker.join().unwrap()).collect()
    });
    let last = get_json(&rig, "/api/state")["at"].as_i64().unwrap();
    let snapshots = std::iter::from_fn(|| events.next()).map(|(_, state)| {
        let state: Value = serde_json::from_str(&state).unwrap();
        state["at"].as_i64().unwrap()
    });
    let snapshots = snapshots.take_while(|at| *at <= last).count();
    for kind in 0..2 {
        let different: BTreeSet<&String> = answers.iter().map(|answers| &answers[kind]).collect();
        // The one that was the newest when it began, too.
        assert!(different.len() <= snapshots + 1, "{} looks in {snapshots} snapshots", different.len());
    }
}

#[test]
fn what_a_task_prints_is_streamed_until_it_is_settled() {
    let rig = rig();
    let a = rig.named("a").saying("contact-output", "1");
    let mut tasks = a.tasks();
    let id = rig.operator.submit(&["x"]);
    let task = tasks.next();
    let mut events = Events::at(&rig, &format!("/api/tasks/{id}/output?group=a"));
    let first = events.expect("output");
    assert_eq!((&first["group"], &first["client"], &first["base64"]), (&"a".into(), &"a".into(), &"".into()));
    let output = b"\x1b[31mred\xff".to_vec();
    a.tell([Result { output, outcome: Outcome::DONE.into(), ..told(&task, Outcome::DONE, "") }]);
    assert_eq!(events.expect("output")["base64"], "G1szMW1yZWT/");
    events.expect("end");
    assert!(events.next().is_none());
    assert_eq!(get(&rig, "/api/tasks/99/output").status, 404);
}
