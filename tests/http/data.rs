//! Headers and data over HTTP: sent in JSON, shown as text, and given as bytes that no browser renders.

use contact::wire::contact::Outcome;
use contact::wire::contact::Result as Told;
use serde_json::{Value, json};

use super::api::rig;
use super::client::{get, get_json, post};
use crate::rig::{to, told};

const PAGE: &str = "<!doctype html><script>alert(1)</script>";

/// What must stand on every answer with data.
#[track_caller]
fn assert_is_a_download(reply: &super::client::Reply, name: &str) {
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    assert_eq!(reply.header("content-disposition"), format!("attachment; filename=\"{name}\""));
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert!(reply.header("content-security-policy").contains("default-src"), "{reply:?}");
}

#[test]
fn data_is_sent_in_base64_and_given_as_a_download_whatever_its_sender_calls_it() {
    let rig = rig();
    let task = json!({"data": "PCFkb2N0eXBlIGh0bWw+PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==", "headers": {"content-type": "text/html", "a": "<b>"}});
    let accepted = post(&rig, "/api/tasks", &task.to_string());
    assert_eq!(accepted.json(), json!({"id": 1, "known": false}));
    let reply = get(&rig, "/api/tasks/1/data");
    assert_eq!(reply.body, PAGE);
    assert_is_a_download(&reply, "task-1.bin");

    let w = rig.member("g", "w").saying("contact-from", "first");
    let mut stream = w.tasks();
    let given = stream.next();
    assert_eq!((&given.data[..], given.headers["content-type"].as_str()), (PAGE.as_bytes(), "text/html"));
    w.tell([Told { data: PAGE.into(), headers: given.headers.clone(), ..told(&given, Outcome::FAILED, "") }]);
    let ledger = get_json(&rig, "/api/tasks/1");
    assert_eq!((&ledger["text"], &ledger["data_size"], &ledger["headers"]), (&json!(""), &json!(40), &task["headers"]));
    let result = &ledger["results"][0];
    assert_eq!((&result["data_size"], &result["headers"]), (&json!(40), &task["headers"]));
    assert_eq!(result["data"], Value::Null, "the bytes are no part of it");
    let reply = get(&rig, &format!("/api/results/{}/data", result["seq"]));
    assert_eq!(reply.body, PAGE);
    assert_is_a_download(&reply, &format!("result-{}.bin", result["seq"]));
    let row = &get_json(&rig, "/api/tasks")["tasks"][0];
    assert_eq!(
        (&row["content_type"], &row["data_size"], &row["headers"]),
        (&json!("text/html"), &json!(40), &Value::Null)
    );
    assert_eq!(get_json(&rig, "/api/dead")["dead"][0]["data_size"], 40);
}

#[test]
fn what_is_not_there_or_cannot_be_read_is_refused_with_what_to_do() {
    let rig = rig();
    rig.operator.submit_all(vec![to("g", "plain")]);
    let none = get(&rig, "/api/tasks/1/data");
    assert_eq!((none.status, none.body.as_str()), (200, ""));
    for (path, status) in [("/api/tasks/9/data", 404), ("/api/results/9/data", 404), ("/api/results/x/data", 400)] {
        assert_eq!(get(&rig, path).status, status, "{path}");
    }
    for (body, says) in [
        (r#"{"data":"*"}"#, "base64"),
        (r#"{"data":"QQ"}"#, "base64"),
        (r#"{"text":"x","headers":{"K":"v"}}"#, "a-z"),
        (r#"{"text":"x","headers":{"k":"a\nb"}}"#, "U+000A"),
        (r#"{"headers":{"k":"v"}}"#, "empty"),
        (r#"{"text":"x","headers":{"k":1}}"#, "JSON"),
    ] {
        let refused = post(&rig, "/api/tasks", body);
        assert_eq!(refused.status, 400, "{body}");
        assert!(refused.error().contains(says), "{body}: {}", refused.error());
    }
}
