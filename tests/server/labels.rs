//! Tasks for some of those that come: by their labels, and by name.

use contact::wire::control::{FindTasksRequest, ListClientsRequest, ListGroupsRequest, NewTask, Outcome, TaskState};
use futures::executor::block_on;
use grpcio::RpcStatusCode;

use crate::conventions::reason;
use crate::rig::{Client, Rig, done, patient};

fn labelled(rig: &Rig, name: &str, labels: &str) -> Client {
    rig.named(name).saying("contact-labels", labels)
}

fn select(selector: &str, text: &str) -> NewTask {
    NewTask { task: text.into(), select: selector.into(), ..NewTask::default() }
}

fn for_groups(groups: &[&str], text: &str) -> NewTask {
    let groups = groups.iter().map(ToString::to_string).collect();
    NewTask { task: text.into(), groups, ..NewTask::default() }
}

#[test]
fn a_task_with_a_selector_goes_to_those_who_match_and_its_ledger_says_why_not_to_others() {
    let mut rig = Rig::start();
    let web = labelled(&rig, "web", "os=linux,role=web,%E5%8C%BA=%E4%B8%80");
    let (mut at_web, at_db) = (web.tasks(), labelled(&rig, "db", "os=linux,role=db").tasks());
    rig.operator.connected(2);
    let id = rig.operator.submit_all(vec![select("os = linux, role in (web, api), 区=一", "uptime")]);
    let given = at_web.next();
    assert_eq!(given.task, "uptime");
    let ledger = rig.operator.ledger_until(id, |ledger| ledger.results.len() == 1 && ledger.in_flight == 1);
    let db = ledger.groups.iter().find(|it| it.group == "db").unwrap();
    assert_eq!(db.state, TaskState::SETTLED.into());
    assert_eq!(ledger.task.select, "os=linux,role in (web,api),区=一");
    let [result] = &ledger.results[..] else { panic!("{ledger:?}") };
    assert_eq!((result.group.as_str(), result.outcome), ("db", Outcome::NOT_SELECTED.into()));
    assert_eq!(result.ret, "role in (web,api): role is db");
    // What came of it where it was done is what came of it last, though others came to it later.
    web.tell([done(&given)]);
    let late = labelled(&rig, "late", "os=mac").saying("contact-from", "first").tasks();
    rig.operator.ledger_until(id, |ledger| ledger.results.len() == 3);
    let found = block_on(rig.operator.control.find_tasks(&FindTasksRequest::new(), patient()).unwrap()).unwrap();
    assert_eq!(found.tasks[0].outcome, Some(Outcome::DONE.into()));
    drop(late);
    // Nobody is given it again for whom it was not.
    let retried = block_on(rig.operator.control.retry_task(&retry(id), patient()).unwrap()).unwrap();
    assert_eq!(retried.groups, 0);
    // What is known of labels outlives clients and server.
    drop((at_web, at_db));
    rig.operator.connected(0);
    rig.restart();
    let groups = block_on(rig.operator.control.list_groups(&ListGroupsRequest::new(), patient()).unwrap()).unwrap();
    let labels: Vec<_> = groups.groups.iter().map(|group| (group.name.as_str(), group.labels.as_str())).collect();
    assert_eq!(labels, [("db", "os=linux,role=db"), ("late", "os=mac"), ("web", "os=linux,role=web,区=一")]);
    assert_eq!(rig.operator.tasks_now()[0].select, ledger.task.select, "it is as it was");
}

fn retry(id: u64) -> contact::wire::control::RetryTaskRequest {
    contact::wire::control::RetryTaskRequest { id, ..Default::default() }
}

#[test]
fn everybody_who_has_an_id_is_listed_with_what_it_said_and_when_it_was_seen() {
    let mut rig = Rig::start();
    let list = |rig: &Rig, offline_ms: Option<u64>| {
        let request = ListClientsRequest { known: true, offline_ms, ..Default::default() };
        block_on(rig.operator.control.list_clients(&request, patient()).unwrap()).unwrap().known
    };
    let here =
        labelled(&rig, "here", "os=linux").saying("contact-version", "1.2").saying("contact-system", "linux x86_64");
    let at_here = here.tasks();
    let away = rig.member("g", "away").tasks();
    rig.operator.connected(2);
    drop(away);
    rig.operator.connected(1);
    let known = list(&rig, None);
    let [away, here] = &known[..] else { panic!("{known:?}") };
    assert_eq!((&*away.client, &*away.group, away.connected), ("away", "g", false));
    assert_eq!((&*here.client, &*here.group, here.connected), ("here", "here", true));
    assert_eq!((&*here.labels, &*here.version, &*here.system), ("os=linux", "1.2", "linux x86_64"));
    assert_eq!(list(&rig, Some(0)), std::slice::from_ref(away));
    assert_eq!(list(&rig, Some(3_600_000)), []);
    drop(at_here);
    rig.operator.connected(0);
    rig.restart();
    let again = list(&rig, Some(0));
    assert_eq!(again.iter().map(|it| it.client.as_str()).collect::<Vec<_>>(), ["away", "here"]);
    assert_eq!((again[0].last_seen, again[1].first_seen), (away.last_seen, here.first_seen));
}

#[test]
fn a_task_for_several_groups_is_one_task_and_they_must_be_there() {
    let rig = Rig::start();
    let (a, b) = (rig.named("a"), rig.named("b"));
    let (mut at_a, mut at_b, at_c) = (a.tasks(), b.tasks(), rig.named("c").tasks());
    rig.operator.connected(3);
    let refused = |task: NewTask| {
        let status = rig.operator.try_submit(vec![NewTask { task: "x".into(), ..task }]).unwrap_err();
        (status.code(), reason(&status), status.message().to_owned())
    };
    let (code, reason, text) = refused(for_groups(&["a", "nobody"], ""));
    assert_eq!((code, &*reason), (RpcStatusCode::NOT_FOUND, "GROUP_UNKNOWN"));
    assert!(text.contains("nobody is not"), "{text}");
    let many: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(refused(for_groups(&many, "")).1, "TARGETS_TOO_MANY");
    let (code, reason, text) = refused(select("os=linux,role in web", ""));
    assert_eq!((code, &*reason), (RpcStatusCode::INVALID_ARGUMENT, "SELECTOR_INVALID"));
    assert!(text.contains("at character 18") && text.contains("\"web\""), "{text}");
    assert_eq!(refused(NewTask { to: "a".into(), ..select("os", "") }).1, "SELECTOR_INVALID");

    // In a stream the others of a request are accepted.
    let answer = rig.operator.submit_by_stream(vec![
        select("os in", "wrong"),
        for_groups(&["b", "a"], "for both"),
        for_groups(&["b", "nobody"], "for one that is not there"),
        for_groups(&["nobody"], "for one alone, which may come"),
    ]);
    let refused: Vec<_> = answer.refused.iter().map(|it| (it.index, it.cause.as_str())).collect();
    assert_eq!((answer.count, refused), (2, vec![(0, "SELECTOR_INVALID"), (2, "GROUP_UNKNOWN")]));
    let (at_a, at_b) = (at_a.take(1), at_b.take(1));
    assert_eq!((&*at_a[0].task, at_a[0].id), ("for both", at_b[0].id), "it is one task");
    a.tell([done(&at_a[0])]);
    b.tell([done(&at_b[0])]);
    let ledger = rig.operator.ledger_until(at_a[0].id, |ledger| ledger.settled == 2);
    assert_eq!((ledger.groups.len(), &ledger.task.groups[..]), (2, &["a".to_owned(), "b".into()][..]));
    drop(at_c);
}
