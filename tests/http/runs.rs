//! Runs, and workers that are dialled.

use std::time::{Duration, Instant};

use contact::wire::contact::Outcome;
use serde_json::{Value, json};

use super::api::rig;
use super::client::{done, get, get_json, post};
use crate::common::DEADLINE;
use crate::rig::{Rig, told};

/// What is at a path, as soon as it is like that.
#[track_caller]
fn until(rig: &Rig, path: &str, like: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = get_json(rig, path);
        if like(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{found}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_run_is_counted_begun_changed_and_done_again() {
    let rig = rig();
    let clients = ["a", "b", "c"].map(|name| rig.named(name).saying("contact-labels", "role=web"));
    let [mut first, mut second, third] = clients.each_ref().map(|client| client.tasks());
    rig.operator.connected(3);
    drop(third);
    rig.operator.connected(2);
    let wanted = json!({"text": "upgrade", "select": "role=web", "max_attempts": 1, "rollout": {"canary": "1"}});
    let mut dry = wanted.clone();
    dry["dry_run"] = json!(true);
    let would = done(&rig, "/api/runs", dry);
    assert_eq!((&would["targets"], &would["counts"]["offline"]), (&json!(3), &json!(1)), "{would}");
    assert_eq!(get_json(&rig, "/api/runs")["runs"], json!([]), "nothing has begun");

    let run = done(&rig, "/api/runs", wanted)["run"].as_u64().unwrap();
    let path = format!("/api/runs/{run}");
    let verb = |verb: &str| done(&rig, &format!("{path}/{verb}"), json!({}))["phase"].clone();
    let task = first.next();
    assert_eq!(task.task, "upgrade", "the first part is one");
    assert_eq!((verb("pause"), verb("resume")), (json!("paused"), json!("going")));
    clients[0].tell([told(&task, Outcome::FAILED, "no room")]);
    let stopped = until(&rig, &path, |found| found["run"]["phase"] == "stopped");
    assert_eq!(stopped["targets"][0], json!({"group": "a", "state": "failed", "client": "a", "ret": "no room"}));
    verb("resume");
    let task = second.next();
    assert_eq!(task.task, "upgrade", "then all that are left");
    verb("abort");
    clients[1].tell([told(&task, Outcome::DONE, "well")]);
    let ended = until(&rig, &path, |found| found["run"]["ended_at"].is_i64());
    assert_eq!(ended["run"]["counts"], json!({"done": 1, "failed": 1, "cancelled": 1}), "{ended}");

    let again = done(&rig, &format!("{path}/retry"), json!({}));
    assert_eq!((&again["again"], &again["targets"]), (&json!(run), &json!(1)));
    let again = again["run"].as_u64().unwrap();
    done(&rig, &format!("/api/runs/{again}/cancel"), json!({}));
    until(&rig, &format!("/api/runs/{again}"), |found| found["run"]["phase"] == "cancelled");
    assert_eq!(get_json(&rig, "/api/runs")["runs"].as_array().unwrap().len(), 2);
}

#[test]
fn a_run_that_makes_no_sense_is_refused_and_says_why() {
    let rig = rig();
    let _client = rig.named("a").tasks();
    rig.operator.connected(1);
    for (body, status, why) in [
        (json!({"text": "x"}), 400, "give one of the two"),
        (json!({"text": "x", "select": "os=", "to": ["a"]}), 400, "give one of the two"),
        (json!({"text": "", "to": ["a"]}), 400, "empty"),
        (json!({"text": "x", "to": ["nobody"]}), 404, "nobody"),
        (json!({"text": "x", "to": ["a"], "rollout": {"batch": "many"}}), 400, "batch: it is a number of targets"),
        (json!({"text": "x", "to": ["a"], "deadline": "1h"}), 400, "unknown field `deadline`"),
        (json!({"text": "x", "to": ["a"], "include_new": true}), 400, "those that match a selector"),
    ] {
        let reply = post(&rig, "/api/runs", &body.to_string());
        assert_eq!(reply.status, status, "{body}: {reply:?}");
        assert!(reply.error().contains(why), "{body}: {reply:?}");
    }
    assert_eq!(get(&rig, "/api/runs/4711").status, 404);
    assert_eq!(post(&rig, "/api/runs/4711/pause", "{}").status, 404);
}

#[test]
fn a_worker_is_dialled_until_it_is_removed_and_the_list_says_when_it_is_tried_again() {
    let rig = rig();
    let address = crate::dialled::free();
    let added = done(&rig, "/api/dialled/add", json!({"address": address, "group": "workers"}));
    assert_eq!(added, json!({"is_new": true}));
    let found = until(&rig, "/api/dialled", |found| found["dialled"][0]["again_at"].is_i64());
    let one = &found["dialled"][0];
    assert_eq!((&one["address"], &one["group"]), (&json!(address), &json!("workers")));
    assert!(one["trouble"].as_str().unwrap().contains("refused"), "{one}");
    // How long it waits is by chance, from nothing on.
    assert!(one["again_at"].as_i64() >= one["trouble_since"].as_i64(), "{one}");
    done(&rig, "/api/dialled/remove", json!({"address": address}));
    assert_eq!(get_json(&rig, "/api/dialled"), json!({"dialled": []}));
    assert_eq!(post(&rig, "/api/dialled/remove", &json!({"address": address}).to_string()).status, 404);
}
