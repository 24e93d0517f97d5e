//! What one that is known may have, and what it is told when it wants more.

use std::collections::HashMap;
use std::process::Command;
use std::time::{Duration, Instant};

use contact::client::{Config, StartAt, Worker};
use contact::server::{Auth, ServerTls};
use contact::task::{Name, NameOf};
use contact::wire::control::{self as pb, NewTask};
use contact::wire::google_rpc::error_details::{ErrorInfo, RetryInfo};
use futures::executor::block_on;

use super::door::{Watched, ended, server_tls};
use super::roles::{agent, bearer, create, detail, new, operator, reason, refused, submit};
use crate::common::DEADLINE;
use crate::common::authority::Authority;
use crate::common::program::Program;
use crate::common::server::Server;
use crate::http::client::exchange;
use crate::rig::{Rig, done};

fn rig() -> Rig {
    Rig::with(|config| {
        config.auth = Auth::Required;
        config.http = Some("127.0.0.1:0".into());
    })
}

fn limits(all: &[(&str, u64)]) -> HashMap<String, u64> {
    all.iter().map(|(name, most)| ((*name).to_owned(), *most)).collect()
}

/// The token of an agent of the group `workers` that may have this.
fn worker(rig: &Rig, name: &str, all: &[(&str, u64)]) -> String {
    let groups = vec!["workers".into()];
    create(rig, pb::CreateTokenRequest { groups, limits: limits(all), ..new(name, "agent") })
}

fn change(rig: &Rig, request: pb::ChangeIdentityRequest) -> grpcio::Result<pb::DescribeIdentityResponse> {
    block_on(rig.operator.control.change_identity(&request, bearer(&operator(rig))).unwrap())
}

fn limit(rig: &Rig, name: &str, all: &[(&str, u64)]) {
    change(rig, pb::ChangeIdentityRequest { name: name.into(), limits: limits(all), ..Default::default() }).unwrap();
}

fn describe(rig: &Rig, name: &str) -> pb::Known {
    let request = pb::DescribeIdentityRequest { name: name.into(), ..Default::default() };
    let answer = rig.operator.control.describe_identity(&request, bearer(&operator(rig))).unwrap();
    block_on(answer).unwrap().known.remove(0)
}

/// Waits until the metrics say that a limit was reached.
#[track_caller]
fn reached(rig: &Rig, limit: &str) {
    let request = format!(
        "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
        operator(rig)
    );
    let name = format!("contact_identity_limits_total{{limit=\"{limit}\"}} ");
    let until = Instant::now() + DEADLINE;
    loop {
        let text = exchange(rig.http(), request.as_bytes()).body;
        let count = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("{text}"));
        if count.parse::<u64>().unwrap() > 0 {
            return;
        }
        assert!(Instant::now() < until, "{limit} was not reached");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_identity_has_as_many_connections_and_streams_as_it_may_and_is_told_so() {
    let rig = rig();
    let token = worker(&rig, "web", &[("connections", 2), ("streams", 3)]);
    let (one, other) = (agent(&rig, &token, &[]), agent(&rig, &token, &[]));
    let heard = [("contact-heartbeat", "3600")];
    let [one, other] = [one, other].map(|client| client.saying(heard[0].0, heard[0].1));
    let mut all = [one.tasks(), one.tasks(), other.tasks()];
    all.iter_mut().for_each(|tasks| assert_eq!(tasks.next().task, ""));
    let known = describe(&rig, "web");
    assert_eq!((known.connections, known.streams, known.by_token), (2, 3, true));
    for (client, of, most) in [(&agent(&rig, &token, &[]), "connections", "2"), (&one, "streams", "3")] {
        let status = client.tasks().end();
        let info = detail::<ErrorInfo>(&status).unwrap();
        assert_eq!((&*info.reason, &*info.metadata["of"], &*info.metadata["limit"]), ("LIMIT_REACHED", of, most));
        assert!(detail::<RetryInfo>(&status).is_some(), "{status:?}");
        reached(&rig, of);
    }
    // Results and statuses need no stream of tasks, and another identity has its own.
    one.tell([]);
    assert_eq!(agent(&rig, &worker(&rig, "other", &[]), &heard).tasks().next().task, "");
    // More counts at once; so does what has ended.
    limit(&rig, "web", &[("streams", 4)]);
    assert_eq!(one.tasks().next().task, "");
    drop((all, other));
    let until = Instant::now() + DEADLINE;
    while describe(&rig, "web").streams > 0 {
        assert!(Instant::now() < until);
    }
    assert_eq!(agent(&rig, &token, &heard).tasks().next().task, "");
}

#[test]
fn a_window_is_cut_to_what_an_identity_may_have_also_while_its_stream_is_open() {
    let rig = rig();
    let token = worker(&rig, "web", &[("window", 2)]);
    let mut tasks = agent(&rig, &token, &[("contact-window", "50"), ("contact-heartbeat", "3600")]).tasks();
    assert!(tasks.introduction().contains(&("contact-window".into(), "2".into())));
    assert_eq!(tasks.next().task, "");
    reached(&rig, "window");
    (0..5).for_each(|n| submit(&rig, &format!("{n}"), "workers"));
    assert_eq!(tasks.texts(2), ["0", "1"]);
    limit(&rig, "web", &[("window", 4)]);
    assert_eq!(tasks.texts(2), ["2", "3"]);
}

#[test]
fn who_has_as_many_bytes_under_way_as_it_may_gets_no_more_over_any_stream_until_it_settles_some() {
    let rig = rig();
    // Room for one: whatever is under way is more.
    let token = worker(&rig, "web", &[("bytes", 1)]);
    let client =
        |id| agent(&rig, &token, &[("contact-client", id), ("contact-group", id), ("contact-heartbeat", "3600")]);
    let (one, other) = (client("web/1"), client("web/2"));
    let (mut of_one, mut of_other) = (one.tasks(), other.tasks());
    assert_eq!((of_one.next().task, of_other.next().task), (String::new(), String::new()));
    submit(&rig, "first", "web/1");
    let first = of_one.next();
    submit(&rig, "second", "web/2");
    submit(&rig, "third", "web/1");
    let in_flight = |rig: &Rig| {
        let request = pb::GetServerRequest::new();
        block_on(rig.operator.control.get_server(&request, bearer(&operator(rig))).unwrap()).unwrap().in_flight
    };
    assert_eq!(in_flight(&rig), 1);
    reached(&rig, "bytes");
    one.tell([done(&first)]);
    // Whoever of both has it now: the other one has nothing before that is settled, too.
    assert_eq!(in_flight(&rig), 1);
    limit(&rig, "web", &[("bytes", 0)]);
    assert_eq!((of_other.next().task, of_one.next().task), ("second".into(), "third".into()));
}

#[test]
fn results_and_statuses_beyond_the_rate_are_held_up_and_none_is_lost() {
    const MANY: usize = 60;
    let rig = rig();
    let token = worker(&rig, "web", &[("results", 10), ("statuses", 10)]);
    let client = agent(&rig, &token, &[("contact-client", "web"), ("contact-window", "100")]);
    (0..=MANY).for_each(|n| submit(&rig, &format!("{n}"), "workers"));
    let mut tasks = client.tasks();
    let given = tasks.take(MANY + 1);
    // What comes together is let through, and waited for by what comes next.
    client.tell(given[..MANY].iter().map(done));
    let mut statuses = client.statuses();
    (0..MANY).for_each(|n| assert!(statuses.say(&format!("{n}")) && statuses.answer().is_ok()));
    client.tell([done(&given[MANY])]);
    assert!(statuses.say("last") && statuses.answer().unwrap().contains("last"));
    reached(&rig, "results");
    reached(&rig, "statuses");
    let request = pb::DescribeTaskRequest { id: given[MANY].id, ..Default::default() };
    let ledger = block_on(rig.operator.control.describe_task(&request, bearer(&operator(&rig))).unwrap()).unwrap();
    assert_eq!(ledger.results.last().map(|result| result.late), Some(false), "{ledger}");
}

#[test]
fn what_an_identity_may_have_is_kept_over_a_restart_and_what_makes_no_sense_is_refused() {
    let mut rig = rig();
    create(&rig, pb::CreateTokenRequest { rate: 9, limits: limits(&[("streams", 5)]), ..new("ci", "submit") });
    limit(&rig, "ci", &[("bytes", 1_000), ("connections", 0)]);
    let unset = vec!["streams".into()];
    change(&rig, pb::ChangeIdentityRequest { name: "ci".into(), unset, ..Default::default() }).unwrap();
    for _ in 0..2 {
        let known = describe(&rig, "ci");
        assert_eq!(known.own, limits(&[("submits", 9), ("bytes", 1_000), ("connections", 0)]));
        assert_eq!((known.limits["streams"], known.limits["connections"], known.limits["submits"]), (4_096, 0, 9));
        rig.restart();
    }
    let wrong = |request: pb::ChangeIdentityRequest| reason(&refused(change(&rig, request)));
    let name = || "ci".to_owned();
    for (request, expected) in [
        (
            pb::ChangeIdentityRequest { name: name(), limits: limits(&[("stream", 1)]), ..Default::default() },
            "LIMIT_INVALID",
        ),
        (pb::ChangeIdentityRequest { name: name(), unset: vec!["x".into()], ..Default::default() }, "LIMIT_INVALID"),
        (
            pb::ChangeIdentityRequest { name: name(), add_groups: vec!["g".into()], ..Default::default() },
            "GRANT_INVALID",
        ),
        (pb::ChangeIdentityRequest { name: "nobody".into(), ..Default::default() }, "IDENTITY_UNKNOWN"),
        (pb::ChangeIdentityRequest { name: "a\nb".into(), ..Default::default() }, "NAME_INVALID"),
    ] {
        assert_eq!(wrong(request), expected);
    }
    let token = pb::CreateTokenRequest { limits: limits(&[("all", 1)]), ..new("other", "submit") };
    let answer = rig.operator.control.create_token(&token, bearer(&operator(&rig))).unwrap();
    assert_eq!(reason(&refused(block_on(answer))), "LIMIT_INVALID");
}

/// A server whose clients have certificates of an authority elsewhere.
fn with_an_authority_elsewhere(authority: &Authority, set: impl FnOnce(&mut contact::server::Config)) -> Rig {
    let tls: ServerTls = server_tls(authority);
    Rig::with(|config| {
        config.tls = Some(tls);
        set(config);
    })
}

/// A client with the certificate of an identity, in a group.
fn member(rig: &Rig, authority: &Authority, name: &str, group: &str) -> Config {
    Config {
        group: Some(group.into()),
        from: Some(StartAt::First),
        tls: Some(authority.client(&format!("contact://fleet/agent/{name}"))),
        ..Config::new(rig.listen())
    }
}

#[test]
fn an_agent_with_a_certificate_is_in_no_group_that_nobody_granted_it() {
    let authority = Authority::new();
    let mut rig = with_an_authority_elsewhere(&authority, |config| {
        config.agent_groups = vec![Name::new(NameOf::Group, "everyones").unwrap()];
    });
    let control = |rig: &Rig| rig.operator.control.clone();
    let grant = |rig: &Rig, add: &[&str], remove: &[&str]| {
        let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let (add_groups, remove_groups) = (texts(add), texts(remove));
        let request =
            pb::ChangeIdentityRequest { name: "web-1".into(), add_groups, remove_groups, ..Default::default() };
        block_on(control(rig).change_identity(&request, crate::rig::patient()).unwrap()).unwrap()
    };
    let turned_away = |rig: &Rig| {
        let worker = Worker::new(member(rig, &authority, "web-1", "workers"), |_| "");
        ended(worker.start().unwrap()).unwrap_err().to_string()
    };
    let works = |rig: &Rig, group: &str| {
        let task = NewTask { task: "a task".into(), to: group.into(), ..Default::default() };
        rig.operator.submit_all(vec![task]);
        let watched = Watched::with(member(rig, &authority, "web-1", group));
        assert_eq!(watched.task(), "a task");
        watched
    };
    let said = turned_away(&rig);
    assert!(said.contains("contactctl identity grant") && said.contains("workers"), "{said}");
    let (_own, _everyones) = (works(&rig, "web-1/queue"), works(&rig, "everyones"));
    assert_eq!(grant(&rig, &["workers"], &[]).known[0].groups, ["workers"]);
    drop(works(&rig, "workers"));
    rig.restart();
    let worker = works(&rig, "workers");
    // In force at once: its connection ends, and the next is refused.
    grant(&rig, &[], &["workers"]);
    let why = worker.join().unwrap_err().to_string();
    assert!(why.contains("takes no part in the group workers"), "{why}");
    assert!(turned_away(&rig).contains("takes no part"));
}

#[test]
fn connections_with_certificates_are_counted_before_their_first_call() {
    let authority = Authority::new();
    let rig = with_an_authority_elsewhere(&authority, |_| {});
    let request =
        pb::ChangeIdentityRequest { name: "web-1".into(), limits: limits(&[("connections", 1)]), ..Default::default() };
    block_on(rig.operator.control.change_identity(&request, crate::rig::patient()).unwrap()).unwrap();
    let tls = authority.client("contact://fleet/agent/web-1");
    let _one = Watched::start(rig.listen(), Some("web-1/1"), Some(tls.clone()));
    rig.operator.clients_until(|all| all.len() == 1);
    let other = Watched::start(rig.listen(), Some("web-1/2"), Some(tls));
    let trouble = other.trouble();
    assert!(trouble.contains("web-1 has 1 connections open"), "{trouble}");
    let elsewhere = authority.client("contact://fleet/agent/web-2");
    let _free = Watched::start(rig.listen(), Some("web-2"), Some(elsewhere));
    rig.operator.clients_until(|all| all.len() == 2);
}

/// As docs/security.md has it.
#[test]
fn a_client_with_a_token_and_a_group_needs_no_id() {
    let server = Server::start(&["--auth", "required"]);
    let made = server.ctl(&["token", "create", "web-1", "--role", "agent", "--group", "workers"]).remove(0);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), made["secret"].as_str().unwrap()).unwrap();
    let mut client = Command::new(env!("CARGO_BIN_EXE_contact-client"));
    client
        .args(["--server", &server.listen, "--group", "workers", "--exec", "cat"])
        .arg("--token-file")
        .arg(file.path());
    let _client = Program::spawn("contact-client", &mut client).unwrap();
    server.ctl(&["submit", "hello", "--to", "workers"]);
    assert_eq!(server.done(1)[0]["group"], "workers");
}

/// As a user would.
#[test]
fn limits_and_groups_are_given_with_a_token_and_changed_by_its_name() {
    let mut server = Server::start(&["--auth", "required", "--limit-streams", "7"]);
    let made =
        server.ctl(&["token", "create", "web", "--role", "agent", "--limit", "window=5", "--limit", "bytes=none"]);
    assert_eq!(made[0]["limits"], serde_json::json!({ "window": 5, "bytes": 0 }));
    let shown = server.ctl(&["identity", "limits", "web"]).remove(0);
    assert_eq!(
        (&shown["by"], &shown["limits"]["streams"], &shown["limits"]["window"]),
        (&"token".into(), &7.into(), &5.into())
    );
    let shown = server.ctl(&["identity", "limits", "web", "streams=none", "window=default"]).remove(0);
    assert_eq!(shown["own"], serde_json::json!({ "bytes": 0, "streams": 0 }));
    server.program().err.wait_for("who did that", |line| {
        line.contains("record: \"local\" (operator)") && line.contains("ChangeIdentity")
    });
}
