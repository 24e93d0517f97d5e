//! What a real server says of itself.

use serde_json::Value;

use super::fake::Fake;
use super::run;
use crate::common::server::Server;

#[test]
fn a_health_check_asks_the_health_service() {
    let server = Server::start(&[]);
    assert_eq!(server.ctl(&["health"]), [serde_json::json!({ "status": "SERVING" })]);
    // Nothing but that, so that it costs nothing with a full store; a server of operators without the service is not well.
    let fake = Fake::new();
    let ran = run(&fake, &["health"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_eq!(fake.state().asked, Vec::<String>::new());
}

#[test]
fn a_task_of_many_groups_is_shown_a_part_at_a_time() {
    let server = Server::start(&[]);
    let groups: Vec<String> = (0..7).map(|n| format!("g{n}")).collect();
    groups.iter().for_each(|group| drop(server.ctl(&["pause", group])));
    server.submit(&["for all of them"]);
    let names = |ledger: &Value| -> Vec<String> {
        let groups = ledger["groups"].as_array().unwrap();
        groups.iter().map(|it| it["group"].as_str().unwrap().to_owned()).collect()
    };
    let first = server.ctl(&["task", "1", "--limit", "3"]).remove(0);
    assert_eq!((names(&first), &first["next"]), (groups[..3].to_vec(), &"g2".into()));
    let counts = serde_json::json!({ "waiting": 7, "in_flight": 0, "settled": 0, "dead": 0 });
    assert_eq!(first["counts"], counts, "of all groups");
    let all = server.ctl(&["task", "1", "--all"]);
    assert_eq!((all.len(), names(&all[0]), &all[0]["next"]), (1, groups, &Value::Null));
    let one = server.ctl(&["task", "1", "--to", "g5"]).remove(0);
    assert_eq!((names(&one), &one["counts"]), (vec!["g5".to_owned()], &counts));
}

#[test]
fn a_server_says_how_it_is_set_and_what_it_holds() {
    let server =
        Server::start(&["--retain", "3d", "--ack-timeout", "9s", "--max-attempts", "5", "--retain-bytes", "12345678"]);
    server.submit(&["a", "b", "c"]);
    // A group that nobody serves owes its tasks.
    let client = server.client(&["--group", "g", "--exec", "exit 1", "--exec-attempts", "1"]);
    server.at_least(3, "results");
    drop(client);
    server.submit(&["d", "e"]);
    let settings = |object: &Value| {
        let set = ["listen", "control", "ack_timeout_ms", "max_attempts", "retain_ms", "retain_bytes", "version"];
        set.map(|key| object[key].clone())
    };
    let object = server.ctl(&["server"]).remove(0);
    assert_eq!(
        settings(&object),
        [
            server.listen.as_str().into(),
            server.control.as_str().into(),
            9_000.into(),
            5.into(),
            (3 * 86_400_000_u64).into(),
            12_345_678.into(),
            Value::from(env!("CARGO_PKG_VERSION"))
        ]
    );
    let counted = ["tasks", "results", "statuses", "groups", "dead", "lag", "in_flight", "refuses"];
    let expected = [5.into(), 3.into(), 0.into(), 1.into(), 3.into(), 2.into(), 0.into(), Value::Null];
    assert_eq!(counted.map(|key| object[key].clone()), expected, "{object}");
    let data = std::fs::canonicalize(server.data()).unwrap();
    assert_eq!(std::fs::canonicalize(object["data"].as_str().unwrap()).unwrap(), data);
    let at_least = |key: &str, least: u64| assert!(object[key].as_u64().unwrap() >= least, "{key}: {object}");
    at_least("store_bytes", 4096);
    at_least("disk_free_bytes", 1);
    at_least("open_files", 5);
    at_least("open_files_soft", 256);
    // What looks each second does not have it counted.
    let top = server.ctl(&["top", "--once"]).remove(0);
    assert_eq!((&top["server"]["lag"], &top["server"]["dead"]), (&Value::Null, &Value::Null));
    assert_eq!((&top["groups"][0]["lag"], &top["groups"][0]["dead"]), (&2.into(), &3.into()));
}
