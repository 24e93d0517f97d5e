//! Schedules over HTTP.

use serde_json::json;

use super::api::rig;
use super::client::{done, get, get_json, post};

#[test]
fn a_schedule_is_set_listed_paused_run_and_removed() {
    let rig = rig();
    let body = json!({"name": "夜间", "cron": "0 3 * * *", "zone": "Asia/Shanghai", "missed": "once", "task": {"text": "x", "to": "g"}});
    let set = done(&rig, "/api/schedules", body.clone());
    assert_eq!((&set["is_new"], &set["changed"]), (&json!(true), &json!([])));
    assert_eq!(done(&rig, "/api/schedules", body)["is_new"], false);
    done(&rig, "/api/schedules", json!({"name": "b", "every_ms": 3_600_000, "task": {"text": "x"}}));
    let listed = get_json(&rig, "/api/schedules?moments=2");
    let names: Vec<&str> =
        listed["schedules"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!((names, &listed["next"]), (vec!["b", "夜间"], &json!(null)));
    let next = listed["schedules"][1]["next"].as_array().unwrap();
    assert!(next.len() == 2 && next.iter().all(|at| at.as_i64().unwrap() % 86_400_000 == 19 * 3_600_000), "{next:?}");
    assert_eq!(get_json(&rig, "/api/schedules?after=b")["schedules"].as_array().unwrap().len(), 1);
    assert_eq!(
        get_json(&rig, "/api/schedules?name=b&moments=100")["schedules"][0]["next"].as_array().unwrap().len(),
        100
    );
    assert_eq!(done(&rig, "/api/schedules/pause", json!({"name": "b", "paused": true}))["paused"], true);
    let id = done(&rig, "/api/schedules/run", json!({"name": "b"}))["id"].as_u64().unwrap();
    let task = get_json(&rig, &format!("/api/tasks/{id}"));
    assert_eq!((&task["schedule"], &task["schedule_moment"]), (&json!("b"), &json!(null)));
    done(&rig, "/api/schedules/remove", json!({"name": "b"}));
    let gone = post(&rig, "/api/schedules/run", &json!({"name": "b"}).to_string());
    assert_eq!(gone.status, 404);
    assert!(gone.error().starts_with("there is no schedule b"), "{}", gone.error());
    assert_eq!(get(&rig, "/api/schedules?name=b").status, 404);
    let wrong = post(
        &rig,
        "/api/schedules",
        &json!({"name": "w", "cron": "0 3 * * *", "zone": "Mars/Olympus", "task": {"text": "x"}}).to_string(),
    );
    assert_eq!(wrong.status, 400);
    assert!(wrong.error().contains("Mars/Olympus"), "{}", wrong.error());
    let metrics = get(&rig, "/metrics").body;
    assert!(
        metrics.contains("contact_schedules 1\n") && metrics.contains("contact_schedule_tasks_total 1\n"),
        "{metrics}"
    );
}
