//! `/metrics`, and what is written about it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use contact::wire::contact::Outcome;
use contact::wire::control::RemoveGroupRequest;
use futures::executor::block_on;

use super::api::{came_and_went, rig};
use super::client::{done, get, state_until};
use crate::rig::{Rig, ack, patient, told};

/// Every series and its value.
#[track_caller]
fn scrape(rig: &Rig) -> BTreeMap<String, f64> {
    let reply = get(rig, "/metrics");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), "text/plain; version=0.0.4");
    let lines = reply.body.lines().filter(|line| !line.starts_with('#'));
    let series = lines.map(|line| line.rsplit_once(' ').unwrap());
    let series: Vec<_> = series.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect();
    let count = series.len();
    let series: BTreeMap<_, _> = series.into_iter().collect();
    assert_eq!(series.len(), count, "no series stands twice");
    series
}

#[test]
fn what_happens_is_counted() {
    let rig = rig();
    came_and_went(&rig, "absent");
    rig.operator.submit(&["one", "two"]);
    let worker = rig.member("workers", "w");
    let mut tasks = worker.tasks();
    let given = tasks.take(2);
    worker.tell([told(&given[0], Outcome::DONE, "12345"), told(&given[1], Outcome::FAILED, "")]);
    worker.tell([told(&given[1], Outcome::DONE, "late")]);
    let anonymous = rig.anonymous();
    let mut all = anonymous.tasks();
    anonymous.tell(all.take(2).iter().map(|task| ack(&task.task)));
    assert!(worker.try_tell([told(&given[0], Outcome::DONE, &"x".repeat((1 << 20) + 1))]).is_err());
    state_until(&rig, |state| state["totals"]["lag"] == 2);
    let series = scrape(&rig);
    for (name, value) in [
        ("contact_tasks_accepted_total", 2.0),
        (r#"contact_deliveries_total{group="workers"}"#, 2.0),
        (r#"contact_deliveries_total{group="_anonymous"}"#, 2.0),
        (r#"contact_outcomes_total{group="workers",outcome="done"}"#, 1.0),
        (r#"contact_outcomes_total{group="workers",outcome="failed"}"#, 1.0),
        (r#"contact_outcomes_total{group="workers",outcome="timed_out"}"#, 0.0),
        (r#"contact_outcomes_total{group="_anonymous",outcome="done"}"#, 2.0),
        (r#"contact_late_outcomes_total{group="workers"}"#, 1.0),
        (r#"contact_group_dead_letters{group="workers"}"#, 1.0),
        (r#"contact_group_lag{group="workers"}"#, 0.0),
        (r#"contact_group_lag{group="absent"}"#, 2.0),
        (r#"contact_group_clients{group="workers"}"#, 1.0),
        (r#"contact_group_clients{group="absent"}"#, 0.0),
        (r#"contact_group_lag{group="_other"}"#, 0.0),
        (r#"contact_sessions{kind="anonymous"}"#, 1.0),
        (r#"contact_sessions{kind="member"}"#, 1.0),
        (r#"contact_messages_total{rpc="getTask",direction="out"}"#, 4.0),
        (r#"contact_text_bytes_total{rpc="getTask",direction="out"}"#, 12.0),
        (r#"contact_messages_total{rpc="Submit",direction="in"}"#, 1.0),
        (r#"contact_text_bytes_total{rpc="Submit",direction="in"}"#, 6.0),
        (r#"contact_work_seconds_count"#, 2.0),
        (r#"contact_work_seconds_bucket{le="+Inf"}"#, 2.0),
        (r#"contact_ready"#, 1.0),
        (r#"contact_store_failed"#, 0.0),
        (r#"contact_event_listeners"#, 0.0),
    ] {
        assert_eq!(series.get(name), Some(&value), "{name} in {series:#?}");
    }
    // Of the whole process, in which other tests refuse things as well.
    assert!(series[r#"contact_refusals_total{cause="RESULT_TOO_LONG"}"#] >= 1.0);
    assert!(series["contact_commit_seconds_count"] > 0.0 && series["contact_commit_seconds_sum"] > 0.0);
    assert!(series[r#"contact_store_bytes{file="db"}"#] + series[r#"contact_store_bytes{file="wal"}"#] > 0.0);
    assert!(series["contact_group_oldest_age_seconds{group=\"absent\"}"] >= 0.0);
}

#[test]
fn what_a_group_did_is_not_counted_again_when_it_is_removed() {
    let rig = rig();
    rig.operator.submit(&["one"]);
    let worker = rig.member("workers", "w");
    let mut tasks = worker.tasks();
    worker.tell([told(&tasks.next(), Outcome::FAILED, "")]);
    state_until(&rig, |state| state["totals"]["lag"] == 0);
    let failed = |series: &BTreeMap<String, f64>, group: &str| {
        series.get(&format!(r#"contact_outcomes_total{{group="{group}",outcome="failed"}}"#)).copied()
    };
    let before = scrape(&rig);
    assert_eq!((failed(&before, "workers"), failed(&before, "_other")), (Some(1.0), Some(0.0)));
    drop((tasks, worker));
    rig.operator.connected(0);
    let request = RemoveGroupRequest { group: "workers".into(), ..Default::default() };
    block_on(rig.operator.control.remove_group(&request, patient()).unwrap()).unwrap();
    state_until(&rig, |state| !state["groups"].to_string().contains("workers"));
    let after = scrape(&rig);
    assert_eq!((failed(&after, "workers"), failed(&after, "_other")), (None, Some(0.0)));
    assert_eq!(after[r#"contact_deliveries_total{group="_other"}"#], 0.0);
}

#[test]
fn names_are_many_and_strange_and_series_are_not() {
    let rig = rig();
    let strange = r#"a "strange" \ name"#;
    let names: Vec<String> = (0..1000).map(|n| format!("group {n:04}")).collect();
    let mut streams = vec![rig.member(strange, "w").tasks(), rig.member("_other", "w2").tasks()];
    rig.operator.connected(2);
    let first = scrape(&rig);
    assert!(first.contains_key(r#"contact_group_lag{group="a \"strange\" \\ name"}"#), "{first:#?}");
    assert!(!first.contains_key(r#"contact_group_clients{group="_anonymous"}"#));
    assert_eq!(first[r#"contact_group_clients{group="_other"}"#], 1.0, "a name of ours is none of theirs");

    let channel = crate::rig::channel(rig.listen());
    let member = |name: &String| crate::rig::Client::over(channel.clone(), &[("contact-group", name)]).tasks();
    streams.extend(names.iter().map(member));
    rig.operator.connected(1002);
    rig.operator.submit(&["one"]);
    for stream in &mut streams {
        stream.next();
    }
    state_until(&rig, |state| state["totals"]["lag"] == 1002);
    let series = scrape(&rig);
    let of = |metric: &str| series.keys().filter(|name| name.starts_with(metric)).count();
    assert_eq!((of("contact_group_lag{"), of("contact_deliveries_total{")), (201, 202));
    assert_eq!(of("contact_outcomes_total{"), 202 * 13);
    assert!(series.contains_key(r#"contact_group_lag{group="a \"strange\" \\ name"}"#), "the first keep their labels");
    let sum =
        |metric: &str| -> f64 { series.iter().filter(|(name, _)| name.starts_with(metric)).map(|(_, n)| n).sum() };
    assert_eq!((sum("contact_group_lag{"), sum("contact_deliveries_total{")), (1002.0, 1002.0), "nothing is left out");
}

/// The metrics that a text speaks of, without what the format adds to a histogram.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let metrics = words.filter(|word| ["contact_", "process_"].iter().any(|start| word.starts_with(start)));
    let histogram =
        |word: &str| ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end).map(str::to_owned));
    metrics.map(|word| histogram(word).unwrap_or_else(|| word.to_owned())).collect()
}

/// Only servers that are one of several have these: `cluster::` compares them.
fn is_of_cluster(metric: &str) -> bool {
    metric.starts_with("contact_cluster_")
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_exposed_is_what_the_documents_and_dashboards_speak_of() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let read = |file: &str| metrics_in(&fs::read_to_string(root.join(file)).unwrap());
    let rig = rig();
    // So that there is one.
    assert_eq!(get(&rig, "/nothing").status, 404);
    let families: BTreeSet<String> = get(&rig, "/metrics")
        .body
        .lines()
        .filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split_once(' ')?.0.to_owned()))
        .collect();
    assert!(families.len() > 25, "{families:#?}");
    let (of_clusters, explained): (BTreeSet<_>, BTreeSet<_>) =
        read("monitoring.md").into_iter().partition(|name| is_of_cluster(name));
    assert_eq!(explained, families, "each is explained, and nothing else");
    for file in ["grafana/contact.json", "prometheus/alerts.yml", "prometheus/alerts.test.yml"] {
        let named = read(file);
        let unknown: Vec<_> = named.difference(&families).filter(|name| !of_clusters.contains(*name)).collect();
        assert!(unknown.is_empty() && !named.is_empty(), "{file} speaks of {unknown:?}");
    }
}

#[test]
fn a_group_that_never_came_takes_no_label_and_is_counted_apart() {
    let rig = rig();
    done(&rig, "/api/tasks", serde_json::json!({"text": "lost", "to": "nobody"}));
    state_until(&rig, |state| state["totals"]["lag"] == 1);
    let series = scrape(&rig);
    assert_eq!(series.get(r#"contact_group_lag{group="nobody"}"#), None, "which would be one less for those that come");
    assert_eq!(series[r#"contact_group_lag{group="_other"}"#], 1.0);
    assert_eq!((series["contact_groups"], series["contact_groups_never_came"]), (0.0, 1.0));
}
