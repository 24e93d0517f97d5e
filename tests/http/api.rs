//! What is shown, and what is done.

use std::process::Command;

use contact::wire::contact::Outcome;
use contact::wire::control::NewTask;
use serde_json::{Value, json};

use super::client::{done, get, get_json, post, state_until};
use crate::rig::{Rig, to, told};

pub fn rig() -> Rig {
    Rig::with(|config| config.http = Some("127.0.0.1:0".into()))
}

/// A client of that name, the only one, comes and goes.
pub fn came_and_went(rig: &Rig, name: &str) {
    let tasks = rig.named(name).tasks();
    rig.operator.connected(1);
    drop(tasks);
    rig.operator.connected(0);
}

#[test]
fn the_state_moves_when_tasks_move() {
    let rig = rig();
    let id = done(&rig, "/api/tasks", json!({"text": "work", "to": "workers"}))["id"].as_u64().unwrap();
    let state = state_until(&rig, |state| state["totals"]["tasks"] == 1);
    assert_eq!((&state["recent"][0]["id"], &state["recent"][0]["state"]), (&json!(id), &json!("waiting")));
    let never_came = &state["groups"][0];
    assert_eq!((&never_came["group"], &never_came["never_came"]), (&json!("workers"), &json!(true)), "nobody came yet");
    assert_eq!((&state["totals"]["groups"], &state["totals"]["lag"]), (&json!(0), &json!(1)));

    let worker = rig.member("workers", "w1");
    let mut tasks = worker.tasks();
    let task = tasks.next();
    let state = state_until(&rig, |state| state["totals"]["in_flight"] == 1);
    assert_eq!(state["recent"][0]["state"], "in flight");
    let group = &state["groups"][0];
    assert_eq!((&group["group"], &group["clients"], &group["lag"]), (&json!("workers"), &json!(1), &json!(1)));
    assert_eq!((&group["oldest"], &group["oldest_at"]), (&json!(id), &state["recent"][0]["accepted_at"]));
    let client = &state["clients"][0];
    assert_eq!((&client["client"], &client["group"]), (&json!("w1"), &json!("workers")));
    assert_eq!(
        (&client["in_flight"], &client["delivered"], &client["connected"]),
        (&json!(1), &json!(1), &json!(true))
    );

    let mut statuses = worker.statuses();
    assert!(statuses.say("busy"));
    statuses.answer().unwrap();
    worker.tell([told(&task, Outcome::DONE, "all well")]);
    let state = state_until(&rig, |state| {
        let client = &state["clients"][0];
        client["last_outcome"] == "DONE" && client["last_status"] == "busy"
    });
    let recent = &state["recent"][0];
    assert_eq!((&recent["state"], &recent["outcome"]), (&json!("settled"), &json!("DONE")));
    assert_eq!(state["clients"][0]["last_result"], "all well");
    assert_eq!((&state["totals"]["lag"], &state["totals"]["results"]), (&json!(0), &json!(1)));
    assert_eq!((&state["groups"][0]["oldest"], &state["groups"][0]["lag"]), (&Value::Null, &json!(0)));
    assert_eq!(state["server"]["ready"], true);
    assert_eq!(state["server"]["listen"], rig.listen());
    assert!(state["server"]["store_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn a_client_that_went_is_shown_until_it_is_back() {
    let rig = rig();
    rig.operator.submit(&["one"]);
    let a = rig.named("a");
    let mut tasks = a.tasks();
    a.tell([told(&tasks.next(), Outcome::DONE, "said before")]);
    let mut anonymous = rig.anonymous().tasks();
    anonymous.next();
    rig.operator.connected(2);
    drop((tasks, anonymous));
    let state = state_until(&rig, |state| state["totals"]["clients"] == 0);
    let gone = state["clients"].as_array().unwrap();
    assert_eq!(gone.len(), 2, "{gone:?}");
    for client in gone {
        assert_eq!((&client["connected"], &client["delivered"]), (&json!(false), &json!(1)));
        assert!(client["gone_at"].as_i64() >= client["since"].as_i64(), "{client}");
    }
    let listed = get_json(&rig, "/api/clients?q=a");
    assert_eq!(listed["clients"][0]["last_result"], "said before", "{listed}");

    let _back = rig.named("a").tasks();
    rig.operator.connected(1);
    let state = state_until(&rig, |state| state["totals"]["clients"] == 1);
    let known: Vec<_> = state["clients"].as_array().unwrap().iter().map(|c| (&c["client"], &c["connected"])).collect();
    assert_eq!(known, [(&json!("a"), &json!(true)), (&Value::Null, &json!(false))]);
}

#[test]
fn tasks_are_listed_newest_first_in_pages() {
    let rig = rig();
    let texts: Vec<String> = (1..=7).map(|n| format!("task {n}")).collect();
    rig.operator.submit(&texts);
    let page = |path: &str| {
        let page = get_json(&rig, path);
        let ids: Vec<u64> = page["tasks"].as_array().unwrap().iter().map(|task| task["id"].as_u64().unwrap()).collect();
        (ids, page["more"].as_bool().unwrap())
    };
    assert_eq!(page("/api/tasks?limit=3"), (vec![7, 6, 5], true));
    assert_eq!(page("/api/tasks?limit=3&before=5"), (vec![4, 3, 2], true));
    assert_eq!(page("/api/tasks?limit=3&before=2"), (vec![1], false));
    assert_eq!(page("/api/tasks?before=1"), (vec![], false));
    assert_eq!(page("/api/tasks").0.len(), 7);
}

#[test]
fn a_list_shows_the_beginning_of_a_long_text_and_the_ledger_all_of_it() {
    let rig = rig();
    let text = "长".repeat(1001);
    let options = json!({"text": &text, "key": "k", "delay_ms": 60_000, "ttl_ms": 120_000, "max_attempts": 3, "priority": "high"});
    let id = done(&rig, "/api/tasks", options.clone())["id"].clone();
    assert_eq!(done(&rig, "/api/tasks", options)["id"], id, "its key is known");
    let listed = &get_json(&rig, "/api/tasks")["tasks"][0];
    assert_eq!((&listed["text"], &listed["cut"]), (&json!("长".repeat(1000)), &json!(true)));
    let whole = get_json(&rig, &format!("/api/tasks/{id}"));
    assert_eq!((&whole["text"], &whole["cut"]), (&json!(text), &Value::Null));
    assert_eq!((&whole["key"], &whole["max_attempts"]), (&json!("k"), &json!(3)));
    assert_eq!((&whole["priority"], &whole["to"]), (&json!("high"), &Value::Null));
    let time = |name: &str| whole[name].as_i64().unwrap();
    assert!((55_000..=65_000).contains(&(time("not_before") - time("accepted_at"))), "{whole}");
    assert!((115_000..=125_000).contains(&(time("expires_at") - time("accepted_at"))), "{whole}");
}

#[test]
fn a_dead_letter_is_listed_given_again_and_dropped() {
    let rig = rig();
    rig.operator.submit(&["one", "two", "three"]);
    let workers = rig.member("workers", "w");
    let mut tasks = workers.tasks();
    let given = tasks.take(3);
    workers.tell(given.iter().map(|task| told(task, Outcome::FAILED, "no good")));
    let state = state_until(&rig, |state| state["totals"]["dead"] == 3);
    assert_eq!((&state["groups"][0]["dead"], &state["recent"][0]["state"]), (&json!(3), &json!("dead")));
    let page = get_json(&rig, "/api/dead?limit=2");
    let seen: Vec<_> =
        page["dead"].as_array().unwrap().iter().map(|d| (&d["text"], &d["ret"], &d["outcome"])).collect();
    let [no_good, failed] = [json!("no good"), json!("FAILED")];
    assert_eq!(seen, [(&json!("three"), &no_good, &failed), (&json!("two"), &no_good, &failed)]);
    assert_eq!(page["more"], true);
    let before = page["dead"][1]["seq"].as_u64().unwrap();
    let rest = get_json(&rig, &format!("/api/dead?before={before}&group=workers"));
    assert_eq!((&rest["dead"][0]["text"], &rest["more"]), (&json!("one"), &json!(false)));
    assert_eq!(get_json(&rig, "/api/dead?group=others")["dead"], json!([]));

    assert_eq!(done(&rig, "/api/tasks/1/retry", json!({}))["groups"], 1);
    assert_eq!(tasks.next().id, 1);
    assert_eq!(done(&rig, "/api/tasks/2/drop", json!({"group": "workers"})), json!({}));
    state_until(&rig, |state| state["totals"]["dead"] == 1);
    let left = get_json(&rig, "/api/dead");
    assert_eq!((left["dead"].as_array().unwrap().len(), &left["dead"][0]["task"]), (1, &json!(3)));
    let ledger = get_json(&rig, "/api/tasks/2");
    assert_eq!(ledger["results"].as_array().unwrap().last().unwrap()["outcome"], "DROPPED");

    let again = post(&rig, "/api/tasks/2/drop", r#"{"group": "workers"}"#);
    assert_eq!((again.status, again.error()), (404, "task 2 is no dead letter of group workers".into()));
}

#[test]
fn a_task_is_cancelled_and_a_group_paused() {
    let rig = rig();
    let _late = rig.member("workers", "w").tasks();
    rig.operator.connected(1);
    assert_eq!(done(&rig, "/api/groups/pause", json!({"group": "workers", "paused": true})), json!({}));
    rig.operator.submit_all(vec![NewTask { task: "one".into(), ..NewTask::default() }]);
    let ledger = get_json(&rig, "/api/tasks/1");
    assert_eq!(
        (&ledger["groups"][0]["state"], &ledger["groups"][0]["reason"]),
        (&json!("waiting"), &json!("the group is paused"))
    );
    let state = state_until(&rig, |state| state["groups"][0]["paused"] == true);
    assert_eq!(state["groups"][0]["lag"], 1);
    assert_eq!(done(&rig, "/api/tasks/1/cancel", json!({}))["groups"], 1);
    assert_eq!(done(&rig, "/api/groups/pause", json!({"group": "workers", "paused": false})), json!({}));
    let state = state_until(&rig, |state| state["totals"]["lag"] == 0);
    assert_eq!(
        (&state["recent"][0]["state"], &state["recent"][0]["outcome"]),
        (&json!("settled"), &json!("CANCELLED"))
    );
}

#[test]
fn tasks_that_expired_undelivered_are_a_finding() {
    let rig = rig();
    let tasks =
        |to: &str| NewTask { task: "in a hurry".into(), to: to.into(), ttl_ms: Some(200), ..NewTask::default() };
    let w = rig.member("workers", "w").saying("contact-window", "1");
    let mut held = w.tasks();
    rig.operator.submit_all(vec![to("workers", "held")]);
    let task = held.next();
    rig.operator.submit_all(vec![tasks("workers"), tasks("workers"), tasks("nobody")]);
    rig.operator.passed(rig.operator.tasks_now()[3].expires_at);
    w.tell([told(&task, Outcome::DONE, "")]);
    let expired = |state: &Value| -> Vec<(String, u64)> {
        let found = state["findings"].as_array().unwrap().iter().filter(|finding| finding["code"] == "expired");
        let mut found: Vec<_> =
            found.map(|it| (it["group"].as_str().unwrap().to_owned(), it["count"].as_u64().unwrap())).collect();
        found.sort();
        found
    };
    state_until(&rig, |state| expired(state) == [("nobody".to_owned(), 1), ("workers".to_owned(), 2)]);
}

#[test]
fn what_a_client_says_of_its_work_stands_with_the_task() {
    let rig = rig();
    let w = rig.member("workers", "w");
    let mut tasks = w.tasks();
    rig.operator.submit(&["work"]);
    let task = tasks.next();
    assert_eq!(get_json(&rig, "/api/tasks/1")["groups"][0]["said"], Value::Null);
    w.tell([told(&task, Outcome::WORKING, "40 %")]);
    assert_eq!(get_json(&rig, "/api/tasks/1")["groups"][0]["said"], "40 %");
}

#[test]
fn a_client_is_drained_and_given_tasks_again() {
    let rig = rig();
    let _w = rig.member("workers", "w").tasks();
    rig.operator.connected(1);
    let said = json!({"client": "w", "for_ms": 3_600_000, "note": "disk is replaced"});
    assert_eq!(done(&rig, "/api/clients/drain", said), json!({"clients": 1}));
    let draining = |state: &Value| state["clients"][0]["draining"].clone();
    let state = state_until(&rig, |state| draining(state)["note"] == "disk is replaced");
    let (since, until) = (draining(&state)["since"].as_i64().unwrap(), draining(&state)["until"].as_i64().unwrap());
    assert_eq!((until - since, &draining(&state)["stopping"]), (3_600_000, &json!(false)));
    assert_eq!(get_json(&rig, "/api/clients")["clients"][0]["draining"]["since"], since);
    let undrained = json!({"clients": 1, "was_drained": true});
    assert_eq!(done(&rig, "/api/clients/undrain", json!({"client": "w"})), undrained);
    state_until(&rig, |state| draining(state).is_null());
    let unknown = post(&rig, "/api/clients/drain", r#"{"client": "nobody"}"#);
    assert_eq!(unknown.status, 404, "{}", unknown.error());
}

#[test]
fn a_group_is_given_a_retry_policy() {
    let rig = rig();
    came_and_went(&rig, "workers");
    let set = |retry| done(&rig, "/api/groups/retry", json!({"group": "workers", "retry": retry}))["retry"].clone();
    let whole = json!("max=5,first=10s,factor=2,cap=10m,jitter=0.1");
    assert_eq!(set(json!("max=5,first=10s")), whole);
    assert_eq!(state_until(&rig, |state| !state["groups"][0]["retry"].is_null())["groups"][0]["retry"], whole);
    assert_eq!(get_json(&rig, "/api/groups")["groups"][0]["retry"], whole);
    assert_eq!(set(json!(null)), json!(null));
    state_until(&rig, |state| state["groups"][0]["retry"].is_null());
}

#[test]
fn a_group_that_nobody_uses_is_removed_and_one_that_is_used_is_not() {
    let rig = rig();
    came_and_went(&rig, "absent");
    rig.operator.submit(&["one", "two"]);
    assert_eq!(done(&rig, "/api/groups/remove", json!({"group": "absent"})), json!({"owed": 2}));
    state_until(&rig, |state| state["totals"]["groups"] == 0);
    let _tasks = rig.member("workers", "w").tasks();
    rig.operator.connected(1);
    let refused = post(&rig, "/api/groups/remove", r#"{"group": "workers"}"#);
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(post(&rig, "/api/groups/remove", r#"{"group": "absent"}"#).status, 404);
}

#[test]
fn lists_find_clients_and_groups_by_part_of_a_name() {
    let rig = rig();
    let _streams =
        ["red", "green", "blue"].map(|colour| rig.member(&format!("{colour} team"), &format!("{colour}-1")).tasks());
    rig.operator.connected(3);
    let clients = get_json(&rig, "/api/clients?q=een");
    assert_eq!((&clients["total"], &clients["clients"][0]["client"]), (&json!(1), &json!("green-1")));
    assert_eq!(
        get_json(&rig, "/api/clients?q=127.0.0.1&limit=2")["clients"].as_array().unwrap().len(),
        2,
        "by address"
    );
    state_until(&rig, |state| state["totals"]["groups"] == 3);
    let groups = get_json(&rig, "/api/groups?q=%20team&limit=2");
    let names: Vec<_> = groups["groups"].as_array().unwrap().iter().map(|group| &group["group"]).collect();
    assert_eq!((names, &groups["total"]), (vec![&json!("blue team"), &json!("green team")], &json!(3)));
}

#[test]
fn what_needs_attention_comes_first() {
    let rig = rig();
    let names = ["busy", "idle", "paused", "absent"];
    let mut streams: Vec<_> =
        names.iter().map(|name| rig.client(&[("contact-group", name), ("contact-window", "1")]).tasks()).collect();
    rig.operator.connected(4);
    drop(streams.pop());
    rig.operator.connected(3);
    done(&rig, "/api/groups/pause", json!({"group": "paused", "paused": true}));
    for to in ["busy", "busy", "absent"] {
        done(&rig, "/api/tasks", json!({"text": "work", "to": to}));
    }
    let state = state_until(&rig, |state| state["totals"]["lag"] == 3);
    let order: Vec<_> =
        state["groups"].as_array().unwrap().iter().map(|group| group["group"].as_str().unwrap()).collect();
    assert_eq!(order, ["paused", "absent", "busy", "idle"]);
}

#[test]
fn a_backlog_is_counted_for_a_group_that_is_behind() {
    let rig = rig();
    came_and_went(&rig, "absent");
    for _ in 0..5 {
        rig.operator.submit(&vec!["work"; 1000]);
    }
    let state = state_until(&rig, |state| state["groups"][0]["lag"] == 5000);
    assert_eq!(state["groups"][0]["oldest"], 1);
    let workers = rig.client(&[("contact-client", "absent"), ("contact-window", "10")]);
    let mut tasks = workers.tasks();
    for _ in 0..200 {
        workers.tell(tasks.take(10).iter().map(|task| told(task, Outcome::DONE, "")));
    }
    let state = state_until(&rig, |state| state["groups"][0]["lag"] == 3000);
    assert_eq!(state["groups"][0]["oldest"], 2001);
}

#[test]
fn it_is_alive_and_ready_and_has_a_page() {
    let rig = rig();
    assert_eq!((get(&rig, "/healthz").status, get(&rig, "/healthz").body.as_str()), (200, "ok"));
    assert_eq!((get(&rig, "/readyz").status, get(&rig, "/readyz").body.as_str()), (200, "ready"));
    let page = get(&rig, "/");
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
}

/// What `contactctl --json` prints; doctor has an exit code of its own.
fn contactctl(state: &Value, args: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    let ran = command.args(args).args(["--json", "--server", state["server"]["control"].as_str().unwrap()]).output();
    let out = String::from_utf8(ran.unwrap().stdout).unwrap();
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What is not well by `doctor`, by `top`, and in the state that the page shows: in its order, by the names of doctor.
fn found_by_all(state: &Value) -> [Vec<String>; 3] {
    let checks = |findings: &[Value]| -> Vec<String> {
        let bad = findings.iter().filter(|finding| finding["status"] != "ok");
        bad.map(|finding| finding["check"].as_str().unwrap().to_owned()).collect()
    };
    let doctor = checks(&contactctl(state, &["doctor"]));
    let top = checks(contactctl(state, &["top", "--once"])[0]["attention"].as_array().unwrap());
    let codes = state["findings"].as_array().unwrap().iter();
    let page = codes.map(|finding| finding["code"].as_str().unwrap().replace('_', " "));
    [doctor, top, page.collect()]
}

#[test]
fn a_fleet_is_judged_the_same_by_doctor_by_top_and_on_the_page() {
    let rig = rig();
    let state = state_until(&rig, |state| state["findings"][0]["code"] == "first");
    assert_eq!(found_by_all(&state), [vec![], vec![], vec!["first".to_owned()]], "good to know, and nothing to do");
    let workers = rig.member("workers", "w");
    let mut tasks = workers.tasks();
    rig.operator.connected(1);
    // An idle client beside a task whose time has not come: both are as they are to be.
    done(&rig, "/api/tasks", json!({"text": "later", "to": "workers", "delay_ms": 3_600_000}));
    let state = state_until(&rig, |state| state["groups"][0]["lag"] == 1);
    assert_eq!(found_by_all(&state), [Vec::<String>::new(), vec![], vec![]]);

    done(&rig, "/api/tasks", json!({"text": "bad", "to": "workers"}));
    workers.tell([told(&tasks.next(), Outcome::FAILED, "no good")]);
    let _sender = rig.member("mail", "m").tasks();
    rig.operator.connected(2);
    done(&rig, "/api/groups/pause", json!({"group": "mail", "paused": true}));
    done(&rig, "/api/tasks", json!({"text": "lost", "to": "worker"}));
    let state = state_until(&rig, |state| state["findings"].as_array().unwrap().len() == 3);
    let expected = ["never came", "paused", "dead letters"].map(str::to_owned).to_vec();
    assert_eq!(found_by_all(&state), [expected.clone(), expected.clone(), expected]);
}

#[test]
fn a_misspelt_group_is_seen_wherever_groups_are() {
    let rig = rig();
    let _workers = rig.member("emails", "w").tasks();
    rig.operator.connected(1);
    let ids = ["a", "b"].map(|text| done(&rig, "/api/tasks", json!({"text": text, "to": "emials"}))["id"].clone());
    let state = state_until(&rig, |state| state["findings"][0]["code"] == "never_came");
    let finding = &state["findings"][0];
    assert_eq!((&finding["group"], &finding["count"], &finding["task"]), (&json!("emials"), &json!(2), &ids[0]));
    assert_eq!((&finding["text"], &state["totals"]["lag"]), (&json!("emails"), &json!(2)), "and what was meant");
    let listed = &state["groups"][1];
    assert_eq!((&listed["group"], &listed["lag"], &listed["oldest"]), (&json!("emials"), &json!(2), &ids[0]));
    assert_eq!((&listed["never_came"], &listed["last_used"]), (&json!(true), &Value::Null));

    let groups = contactctl(&state, &["groups"]);
    let seen: Vec<_> = groups.iter().map(|group| (&group["group"], &group["lag"], &group["never_came"])).collect();
    assert_eq!(seen, [(&json!("emails"), &json!(0), &Value::Null), (&json!("emials"), &json!(2), &json!(true))]);
    assert_eq!(groups[1]["oldest"], ids[0]);
    let says = "there is no group emials (2 tasks; there is emails): no client of that name has ever come, or it was removed; is the name right?";
    let doctor = contactctl(&state, &["doctor"]);
    assert!(doctor.iter().any(|finding| finding["says"] == says), "{doctor:?}");
    assert_eq!(contactctl(&state, &["top", "--once"])[0]["attention"][0]["says"], says);

    assert_eq!(post(&rig, "/api/groups/remove", r#"{"group": "emials"}"#).status, 404, "it is not there");
    ids.iter().for_each(|id| drop(done(&rig, &format!("/api/tasks/{id}/cancel"), json!({}))));
    let state = state_until(&rig, |state| state["groups"].as_array().unwrap().len() == 1);
    assert_eq!(
        (&state["findings"], &state["totals"]["lag"]),
        (&json!([]), &json!(0)),
        "what is cancelled waits no more"
    );
}
