//! Clients that say nothing of themselves, as the article's do.

use std::collections::BTreeMap;

use contact::broker::StartAt;
use contact::task::{Name, NameOf};

use crate::rig::{Client, Rig, ack};

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("任务:{n}")).collect()
}

#[test]
fn a_task_reaches_a_connected_client_when_it_is_accepted() {
    let rig = Rig::start();
    let mut tasks = rig.anonymous().tasks();
    rig.operator.connected(1);
    for text in ["one", "two", "three"] {
        let id = rig.operator.submit(&[text]);
        let message = tasks.next();
        assert_eq!((message.task.as_str(), message.id, message.attempt), (text, id, 1));
    }
}

#[test]
fn each_gets_everything_from_the_first_task_on_in_order_each_time_it_connects() {
    let rig = Rig::start();
    let texts = numbered(0..1000);
    rig.operator.submit(&texts);
    let client = rig.anonymous();
    let mut first = client.tasks();
    assert_eq!(first.texts(1000), texts);
    drop(first);
    let (mut again, mut other) = (client.tasks(), rig.anonymous().tasks());
    assert_eq!(again.texts(1000), texts);
    assert_eq!(other.texts(1000), texts);
    rig.operator.submit(&["and one more"]);
    assert_eq!((again.texts(1), other.texts(1)), (vec!["and one more".into()], vec!["and one more".into()]));
}

#[test]
fn they_can_be_set_to_begin_with_what_is_new() {
    let rig = Rig::with(|config| config.broker.anonymous_from = StartAt::New);
    // Often, as what is accepted at the very moment that a client comes is old, too.
    for round in 1..=100 {
        rig.operator.submit(&[format!("old {round}")]);
        let mut tasks = rig.anonymous().tasks();
        rig.operator.connected(1);
        rig.operator.submit(&[format!("new {round}")]);
        assert_eq!(tasks.next().task, format!("new {round}"));
        drop(tasks);
        rig.operator.connected(0);
    }
    let mut asks_for_all = rig.client(&[("contact-from", "first")]).tasks();
    assert_eq!(asks_for_all.texts(2), ["old 1", "new 1"], "unless the client says otherwise");
}

#[test]
fn a_demo_makes_ten_tasks_at_once_and_ten_more_from_time_to_time() {
    let rig = Rig::with(|config| config.demo = Some(crate::rig::SHORT));
    let mut tasks = rig.anonymous().tasks();
    for text in tasks.texts(30) {
        let number: u32 = text.strip_prefix("任务:").unwrap().parse().unwrap();
        assert!((100..=200).contains(&number));
    }
    let times: Vec<i64> = rig.operator.tasks_now().iter().map(|task| task.accepted_at).collect();
    assert_eq!(times[0], times[9]);
    assert!(times[10] - times[9] >= 150 && times[20] - times[19] >= 150, "{times:?}");
}

#[test]
fn a_task_for_a_group_is_not_for_them() {
    let rig = Rig::start();
    let mut tasks = rig.anonymous().tasks();
    rig.operator.submit_all(vec![crate::rig::to("workers", "theirs")]);
    rig.operator.submit(&["everyone's"]);
    assert_eq!(tasks.next().task, "everyone's");
}

#[test]
fn their_acknowledgements_are_matched_in_order() {
    let rig = Rig::start();
    let texts = numbered(0..200);
    rig.operator.submit(&texts);
    let client = rig.anonymous();
    let (mut tasks, mut telling) = (client.tasks(), client.telling());
    for _ in 0..200 {
        assert!(telling.say(ack(&format!("客户端接收到任务:{}", tasks.next().task))));
    }
    telling.end().unwrap();
    let results = rig.operator.results_now();
    assert_eq!(results.len(), 200);
    for (result, (id, text)) in results.iter().zip((1..).zip(&texts)) {
        assert_eq!((result.task_id, &result.ret), (id, &format!("客户端接收到任务:{text}")));
        assert_eq!((result.attempt, result.late, result.group.as_str()), (1, false, ""));
        assert_eq!(result.client, rig.operator.connected(1)[0].peer);
    }
}

#[test]
fn an_acknowledgement_that_nothing_was_given_for_is_kept_all_the_same() {
    let rig = Rig::start();
    rig.anonymous().tell([ack("of what?")]);
    let results = rig.operator.results_now();
    assert_eq!((results[0].task_id, results[0].ret.as_str()), (0, "of what?"));
}

#[test]
fn two_streams_of_one_connection_get_everything_each() {
    let rig = Rig::start();
    rig.operator.submit(&numbered(0..50));
    let client = rig.anonymous();
    let (mut one, mut two) = (client.tasks(), client.tasks());
    assert_eq!(one.texts(50), numbered(0..50));
    assert_eq!(two.texts(50), numbered(0..50));
    client.tell((0..100).map(|_| ack("got it")));
    let mut acknowledged = BTreeMap::new();
    for result in rig.operator.results_now() {
        *acknowledged.entry(result.task_id).or_insert(0) += 1;
    }
    assert_eq!(acknowledged, (1..=50).map(|id| (id, 2)).collect());
}

#[test]
fn acknowledgements_that_match_nothing_are_counted_and_found() {
    let rig = Rig::with(|config| config.broker.anonymous_group = Some(Name::new(NameOf::Group, "all").unwrap()));
    let mut tasks = rig.anonymous().tasks();
    rig.operator.submit(&["one"]);
    tasks.next();
    // Another connection, as through a proxy.
    rig.anonymous().tell([ack("done"), ack("done")]);
    let request = contact::wire::control::GetServerRequest { counted: true, ..Default::default() };
    let server = futures::executor::block_on(rig.operator.control.get_server(&request, crate::rig::patient()).unwrap());
    let found = server.unwrap().findings;
    let unmatched = contact::wire::control::finding::Code::UNMATCHED;
    assert!(found.iter().any(|finding| finding.code == unmatched.into() && finding.count == 2), "{found:?}");
}

#[test]
fn as_one_group_they_share_the_tasks_and_acknowledge_without_ids() {
    let rig = Rig::with(|config| config.broker.anonymous_group = Some(Name::new(NameOf::Group, "all").unwrap()));
    let clients: Vec<Client> = (0..3).map(|_| rig.anonymous()).collect();
    let mut streams: Vec<_> = clients.iter().map(|client| (client.tasks(), client.telling())).collect();
    rig.operator.connected(3);
    let texts = numbered(0..60);
    rig.operator.submit(&texts);
    let mut given = Vec::new();
    for (tasks, telling) in &mut streams {
        // Shared equally: they have the same room.
        for _ in 0..20 {
            let message = tasks.next();
            assert!(telling.say(ack(&message.task)));
            given.push(message.id);
        }
    }
    for (_, telling) in streams {
        telling.end().unwrap();
    }
    given.sort_unstable();
    assert_eq!(given, (1..=60).collect::<Vec<u64>>(), "each task to one of them");
    let results = rig.operator.results_now();
    assert_eq!(results.iter().filter(|r| r.outcome.value() == 0).count(), 60);
    for result in results.iter().filter(|r| r.outcome.value() == 0) {
        assert_eq!(result.ret, texts[result.task_id as usize - 1]);
        assert_eq!((result.group.as_str(), result.late), ("all", false));
    }
}

#[test]
fn a_status_is_answered_when_it_is_stored() {
    let rig = Rig::start();
    let mut statuses = rig.anonymous().statuses();
    for n in 0..15 {
        assert!(statuses.say(&format!("数据:{n}")));
        assert_eq!(statuses.answer().unwrap(), format!("服务端接收到消息:数据:{n}"));
        assert_eq!(rig.operator.statuses_now().len(), n + 1);
    }
    assert_eq!(statuses.end().unwrap(), [""; 0]);
}

#[test]
fn statuses_are_answered_in_order() {
    let rig = Rig::start();
    let mut statuses = rig.named("a").statuses();
    // As many as a client may send at once.
    let said = numbered(0..100);
    for msg in &said {
        assert!(statuses.say(msg));
    }
    let expected: Vec<String> = said.iter().map(|msg| format!("服务端接收到消息:{msg}")).collect();
    assert_eq!(statuses.end().unwrap(), expected);
    let kept = rig.operator.statuses_now();
    assert!(kept.iter().all(|status| status.client == "a"));
    assert_eq!(kept.into_iter().map(|status| status.msg).collect::<Vec<_>>(), said);
}
