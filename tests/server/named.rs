//! Clients that say who they are: leases, outcomes, redelivery.

use std::collections::BTreeSet;
use std::time::Duration;

use contact::broker::LONGEST_SAID;
use contact::client;
use contact::wire::contact::Outcome::{DONE, FAILED, RELEASED, RETRY, WORKING};
use contact::wire::contact::revoked::Reason;
use contact::wire::contact::{Result as Told, ServerMsg};
use contact::wire::control::finding::Code;
use contact::wire::control::{
    CancelTaskRequest, Client, DrainClientRequest, GetServerRequest, ListClientsRequest, NewTask, Outcome as Kept,
    Priority, RemoveGroupRequest, SetGroupRetryRequest, TaskResult, UndrainClientRequest, WaitReason,
};
use futures::executor::block_on;
use grpcio::RpcStatusCode;

use crate::conventions::retry_delay;
use crate::rig::{Rig, SHORT, ack, done, now, patient, status_of, to, told};

fn impatient() -> Rig {
    Rig::with(|config| config.broker.ack_timeout = SHORT)
}

/// What the log says of results, but for the times and texts.
fn gist(results: &[TaskResult]) -> Vec<(u64, &str, u32, Kept, bool)> {
    let line = |r: &TaskResult| (r.task_id, r.client.clone(), r.attempt, r.outcome.unwrap(), r.late);
    results.iter().map(line).map(|(id, client, n, outcome, late)| (id, &*client.leak(), n, outcome, late)).collect()
}

fn attempt(message: &ServerMsg) -> (u64, u32) {
    (message.id, message.attempt)
}

#[test]
fn each_named_client_gets_every_broadcast() {
    let rig = Rig::start();
    let (a, b) = (rig.named("a"), rig.named("b"));
    let (mut at_a, mut at_b) = (a.tasks(), b.tasks());
    rig.operator.submit(&["one", "two"]);
    assert_eq!(at_a.texts(2), ["one", "two"]);
    let at_b = at_b.take(2);
    b.tell(at_b.iter().map(done));
    let results = rig.operator.results_now();
    assert_eq!(gist(&results), [(1, "b", 1, Kept::DONE, false), (2, "b", 1, Kept::DONE, false)]);
    assert_eq!(results[0].group, "b", "a client without a group is one by itself");
}

#[test]
fn what_was_settled_does_not_come_again_and_what_was_not_does() {
    let rig = Rig::start();
    rig.operator.submit(&["settled", "not"]);
    let a = rig.named("a");
    let mut tasks = a.tasks();
    let given = tasks.take(2);
    a.tell([done(&given[0])]);
    drop(tasks);
    rig.operator.connected(0);
    let again = a.tasks().next();
    assert_eq!((again.task.as_str(), attempt(&again)), ("not", (2, 2)));
    assert_eq!(gist(&rig.operator.results(2))[1], (2, "a", 1, Kept::LOST, false));
}

#[test]
fn a_group_shares_its_tasks() {
    let rig = Rig::start();
    let (a, b) = (rig.member("workers", "a"), rig.member("workers", "b"));
    let (mut at_a, mut at_b) = (a.tasks(), b.tasks());
    rig.operator.connected(2);
    rig.operator.submit(&(0..40).map(|n| n.to_string()).collect::<Vec<_>>());
    let all: BTreeSet<u64> = at_a.take(20).iter().chain(&at_b.take(20)).map(|m| m.id).collect();
    assert_eq!(all, (1..=40).collect());
}

#[test]
fn an_addressed_task_waits_for_its_group_and_goes_to_no_other() {
    let rig = Rig::start();
    let mut other = rig.named("other").tasks();
    rig.operator.submit_all(vec![to("later", "for later"), to("other", "for other")]);
    rig.operator.submit(&["for all"]);
    assert_eq!(other.texts(2), ["for other", "for all"]);
    let mut later = rig.member("later", "x").tasks();
    assert_eq!(later.texts(2), ["for later", "for all"]);
}

#[test]
fn what_was_removed_is_given_to_nobody_and_what_comes_of_it_is_late() {
    let mut rig = Rig::with(|config| {
        config.retention.retain = Duration::from_millis(1);
        config.retention.every = Duration::from_millis(20);
    });
    let mut tasks = rig.named("a").tasks();
    rig.operator.connected(1);
    rig.operator.submit_all(vec![to("nobody", "kept"), to("", "one"), to("", "two")]);
    let given = tasks.take(2);
    rig.named("a").tell(given.iter().map(done));
    rig.operator.tasks_until(&["kept"]);
    // These are read from the newest tasks in memory, in which there is a hole now.
    rig.operator.submit(&["three"]);
    assert_eq!(rig.named("new").tasks().next().task, "three");
    assert_eq!(rig.anonymous().tasks().next().task, "three");

    rig.config.retention.every = Duration::from_secs(3600);
    rig.restart();
    assert_eq!(rig.anonymous().tasks().next().task, "three");
    let newcomer = rig.named("newcomer");
    assert_eq!(newcomer.tasks().next().task, "three");
    rig.named("a").tell([told(&given[0], DONE, "again")]);
    newcomer.tell([told(&given[1], DONE, "never given to this one")]);
    let results = rig.operator.results_now();
    let told: Vec<_> = results.iter().filter(|result| [2, 3].contains(&result.task_id)).collect();
    assert_eq!(told.iter().map(|result| (result.task_id, result.late)).collect::<Vec<_>>(), [(2, true), (3, true)]);
}

#[test]
fn a_group_of_any_script_is_joined_by_its_name_percent_encoded() {
    let mut rig = Rig::start();
    rig.operator.submit_all(vec![to("工人", "for 工人"), to("a b,c", "for a b,c"), to("50%", "for 50%")]);
    for (sent, name) in [("%E5%B7%A5%E4%BA%BA", "工人"), ("a%20b,c", "a b,c"), ("50%", "50%")] {
        let client = rig.member(sent, sent);
        let mut tasks = client.tasks();
        let given = tasks.next();
        assert_eq!(given.task, format!("for {name}"));
        client.tell([done(&given)]);
        let connected = rig.operator.connected(1);
        assert_eq!((connected[0].client.as_str(), connected[0].group.as_str()), (name, name));
        drop(tasks);
        rig.operator.connected(0);
    }
    let groups: Vec<_> = rig.operator.results_now().into_iter().map(|result| result.group).collect();
    assert_eq!(groups, ["工人", "a b,c", "50%"]);
    rig.restart();
    assert!(rig.operator.try_submit(vec![to("工人", "again")]).is_ok());
    assert_eq!(rig.member("%E5%B7%A5%E4%BA%BA", "x").tasks().next().task, "again");
}

#[test]
fn nothing_is_accepted_for_a_group_that_no_client_could_join() {
    let rig = Rig::start();
    for name in ["workers ", " ", "\u{3000}工人", "a\u{200b}b", "a\u{202e}b", "a\u{85}b", "a\nb"] {
        let status = rig.operator.try_submit(vec![to(name, "x")]).unwrap_err();
        assert_eq!(status.code(), RpcStatusCode::INVALID_ARGUMENT, "{name:?}");
        assert!(status.message().contains("the group in `to` must"), "{}", status.message());
    }
    assert!(rig.operator.tasks_now().is_empty());
}

#[test]
fn a_new_group_may_begin_with_what_is_new_but_what_is_addressed_to_it_is_its_own() {
    let rig = Rig::start();
    rig.operator.submit(&["old"]);
    rig.operator.submit_all(vec![to("a", "old, for a")]);
    let mut tasks = rig.named("a").saying("contact-from", "new").tasks();
    assert_eq!(tasks.next().task, "old, for a");
    rig.operator.submit(&["new"]);
    assert_eq!(tasks.next().task, "new");
}

#[test]
fn a_group_that_is_removed_says_what_it_owed_and_begins_anew() {
    let rig = Rig::start();
    let mut tasks = rig.named("a").tasks();
    rig.operator.submit(&["settled", "held", "waiting"]);
    let first = tasks.next();
    rig.named("a").tell([done(&first)]);
    let remove = |group: &str| {
        let request = RemoveGroupRequest { group: group.into(), ..Default::default() };
        status_of(block_on(rig.operator.control.remove_group(&request, patient()).unwrap()))
    };
    assert_eq!(remove("a").unwrap_err().code(), RpcStatusCode::FAILED_PRECONDITION, "it is used");
    drop(tasks);
    rig.operator.connected(0);
    assert_eq!(remove("a").unwrap().owed, 2);
    assert_eq!(remove("a").unwrap_err().code(), RpcStatusCode::NOT_FOUND);
    assert_eq!(rig.named("a").tasks().texts(3), ["settled", "held", "waiting"]);
}

#[test]
fn a_client_never_holds_more_than_its_window() {
    let rig = Rig::start();
    rig.operator.submit(&(0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    let a = rig.named("a").saying("contact-window", "3");
    let mut tasks = a.tasks();
    let mut held: Vec<ServerMsg> = tasks.take(3);
    for n in 3..100 {
        let client = &rig.operator.connected(1)[0];
        assert_eq!((client.window, client.in_flight, client.delivered), (3, 3, n));
        a.tell([done(&held.remove(0))]);
        held.push(tasks.next());
    }
    assert_eq!(held.iter().map(|m| m.id).collect::<Vec<_>>(), [98, 99, 100]);
}

#[test]
fn one_that_asks_for_batches_gets_and_tells_them() {
    let rig = Rig::start();
    let texts: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    rig.operator.submit(&texts);
    let a = rig.named("a").saying("contact-batch", "64").saying("contact-window", "1000");
    let mut tasks = a.tasks();
    let (mut given, mut messages) = (Vec::new(), 0);
    while given.len() < 1000 {
        let mut message = tasks.next();
        messages += 1;
        let batch = std::mem::take(&mut message.batch);
        assert!(batch.len() <= 64);
        assert!(batch.is_empty() || (message.task.is_empty() && message.id == 0));
        given.extend(if batch.is_empty() { vec![message] } else { batch });
    }
    assert!(messages < 200, "{messages} messages");
    assert_eq!(given.iter().map(|m| m.task.clone()).collect::<Vec<_>>(), texts);
    a.tell(given.chunks(100).map(|of| Told { batch: of.iter().map(done).collect(), ..Told::default() }));
    let results = rig.operator.results_now();
    assert_eq!(results.iter().map(|r| r.task_id).collect::<Vec<_>>(), (1..=1000).collect::<Vec<_>>());
    assert!(results.iter().all(|r| r.outcome.unwrap() == Kept::DONE && !r.late));
}

#[test]
fn one_that_did_not_ask_for_batches_gets_none() {
    let rig = Rig::start();
    rig.operator.submit(&["one", "two", "three"]);
    assert!(rig.named("a").tasks().take(3).iter().all(|message| message.batch.is_empty() && message.id > 0));
}

#[test]
fn retry_puts_a_task_back_behind_its_delay() {
    let rig = Rig::start();
    let a = rig.named("a").saying("contact-window", "1");
    let mut tasks = a.tasks();
    rig.operator.submit(&["one", "two"]);
    let one = tasks.next();
    let before = now();
    a.tell([Told { delay_ms: 300, ..told(&one, RETRY, "not now") }]);
    let two = tasks.next();
    assert_eq!(two.task, "two", "it does not hold up the others");
    a.tell([done(&two)]);
    let again = tasks.next();
    assert!(now() - before >= 300);
    assert_eq!(attempt(&again), (1, 2));
    a.tell([told(&again, RETRY, "")]);
    assert_eq!(attempt(&tasks.next()), (1, 3), "without a delay it comes at once");
    assert_eq!(rig.operator.results_now()[0].ret, "not now");
}

#[test]
fn failed_is_for_good() {
    let rig = Rig::start();
    let a = rig.named("a");
    let mut tasks = a.tasks();
    rig.operator.submit(&["never"]);
    a.tell([told(&tasks.next(), FAILED, "no such file")]);
    rig.operator.submit(&["next"]);
    assert_eq!(tasks.next().task, "next");
    let results = rig.operator.results_now();
    assert_eq!(gist(&results), [(1, "a", 1, Kept::FAILED, false)]);
    assert_eq!(results[0].ret, "no such file");
}

#[test]
fn a_lease_ends_when_nothing_is_said_and_the_task_goes_to_another() {
    let rig = impatient();
    let (a, b) = (rig.member("g", "a"), rig.member("g", "b"));
    let mut at_a = a.tasks();
    rig.operator.connected(1);
    rig.operator.submit(&["slow"]);
    assert_eq!(attempt(&at_a.next()), (1, 1));
    let mut at_b = b.tasks();
    // Both have room: whoever waited longest is first.
    let second = at_b.next();
    assert_eq!(attempt(&second), (1, 2));
    b.tell([done(&second)]);
    let results = rig.operator.results_now();
    assert_eq!(gist(&results), [(1, "a", 1, Kept::TIMED_OUT, false), (1, "b", 2, Kept::DONE, false)]);
}

#[test]
fn working_renews_a_lease() {
    let rig = Rig::with(|config| config.broker.ack_timeout = Duration::from_secs(1));
    let a = rig.named("a");
    let mut tasks = a.tasks();
    rig.operator.submit(&["long"]);
    let long = tasks.next();
    let (mut telling, begin) = (a.telling(), now());
    while now() - begin < 2_500 {
        assert!(telling.say(told(&long, WORKING, "")));
        // A round trip, so as not to flood it.
        rig.operator.connected(1);
    }
    assert!(telling.say(done(&long)));
    telling.end().unwrap();
    assert_eq!(gist(&rig.operator.results_now()), [(1, "a", 1, Kept::DONE, false)]);
}

#[test]
fn working_without_an_id_renews_the_oldest_and_takes_nothing_off() {
    let rig = Rig::start();
    let a = rig.named("a");
    let mut tasks = a.tasks();
    rig.operator.submit(&["one", "two"]);
    tasks.take(2);
    let working = Told { outcome: WORKING.into(), ..ack("") };
    a.tell([working.clone(), working, ack("one"), ack("two")]);
    let results = rig.operator.results_now();
    assert_eq!(results.iter().map(|r| (r.task_id, r.ret.as_str())).collect::<Vec<_>>(), [(1, "one"), (2, "two")]);
}

#[test]
fn after_its_last_attempt_a_task_is_given_up() {
    let rig = Rig::with(|config| config.broker.max_attempts = 3);
    let a = rig.named("a");
    let mut tasks = a.tasks();
    let twice = NewTask { task: "twice".into(), max_attempts: 2, ..NewTask::default() };
    rig.operator.submit_all(vec![twice]);
    rig.operator.submit(&["thrice"]);
    let mut seen = Vec::new();
    for _ in 0..5 {
        let message = tasks.next();
        seen.push(attempt(&message));
        a.tell([told(&message, RETRY, "broken")]);
    }
    seen.sort_unstable();
    assert_eq!(seen, [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]);
    rig.operator.submit(&["next"]);
    assert_eq!(tasks.next().task, "next");
    let results = rig.operator.results_now();
    let exhausted: Vec<_> = results.iter().filter(|r| r.outcome.unwrap() == Kept::EXHAUSTED).collect();
    assert_eq!(exhausted.iter().map(|r| (r.task_id, r.attempt)).collect::<Vec<_>>(), [(1, 2), (2, 3)]);
    assert!(exhausted.iter().all(|r| r.ret == "broken"), "kept with the last error");
}

#[test]
fn a_worker_that_says_when_it_begins_loses_no_attempt_of_what_it_has_not_begun() {
    let rig = Rig::with(|config| config.broker.ack_timeout = SHORT);
    let tasks = ["kills", "waits", "is given back"].map(|text| NewTask { max_attempts: 2, ..to("g", text) });
    rig.operator.submit_all(tasks.into());
    let worker = || rig.member("g", "w").saying("contact-begins", "1");
    for spent in 0..2 {
        let w = worker();
        let mut stream = w.tasks();
        let given = stream.take(3);
        assert_eq!(given.iter().map(|m| (m.spent, m.max_attempts)).collect::<Vec<_>>()[0], (spent as u32, 2));
        assert!(given[1..].iter().all(|m| m.spent == 0));
        w.tell([told(&given[0], WORKING, ""), told(&given[2], RELEASED, "stopping")]);
        drop(stream);
        rig.operator.connected(0);
        // What it had begun stays with it for the grace.
        rig.operator.results(3 * spent + 3);
    }
    let w = worker();
    let rest = w.tasks().take(2);
    assert_eq!(
        rest.iter().map(|m| (m.task.as_str(), m.attempt)).collect::<Vec<_>>(),
        [("waits", 3), ("is given back", 3)]
    );
    let results = rig.operator.results_now();
    let of = |id| results.iter().filter(|r| r.task_id == id).map(|r| r.outcome.unwrap()).collect::<Vec<_>>();
    assert_eq!(of(1), [Kept::LOST, Kept::LOST, Kept::EXHAUSTED]);
    assert_eq!((of(2), of(3)), (vec![Kept::RELEASED; 2], vec![Kept::RELEASED; 2]));
}

#[test]
fn a_task_carries_its_retry_policy_and_one_that_makes_no_sense_is_refused() {
    let rig = Rig::start();
    let with = |retry: &str| NewTask { retry: retry.into(), ..to("a", "work") };
    let status = rig.operator.try_submit(vec![with("first=soon")]).unwrap_err();
    assert_eq!(status.code(), RpcStatusCode::INVALID_ARGUMENT);
    assert!(status.message().contains("soon"), "{}", status.message());
    rig.operator.submit_all(vec![with("max=2,first=0s")]);
    let kept = &rig.operator.tasks_now()[0];
    assert_eq!((kept.max_attempts, kept.retry.starts_with("first=0s,factor=2,")), (2, true), "{kept:?}");
    let a = rig.named("a");
    let mut tasks = a.tasks();
    for _ in 0..2 {
        let message = tasks.next();
        a.tell([told(&message, RETRY, "broken")]);
    }
    assert_eq!(rig.operator.results(3)[2].outcome.unwrap(), Kept::EXHAUSTED);
}

#[test]
fn a_client_that_asked_for_it_hears_that_its_task_was_cancelled() {
    let rig = Rig::start();
    let mut tasks = rig.named("a").saying("contact-revoke", "1").tasks();
    rig.operator.submit(&["work"]);
    let given = tasks.next();
    let cancel = CancelTaskRequest { id: 1, ..CancelTaskRequest::default() };
    status_of(block_on(rig.operator.control.cancel_task(&cancel, patient()).unwrap())).unwrap();
    let revoked = tasks.next().revoked;
    assert_eq!(
        revoked.iter().map(|it| (it.id, it.attempt, it.reason.unwrap())).collect::<Vec<_>>(),
        [(1, given.attempt, Reason::CANCELLED)]
    );
}

#[test]
fn who_is_at_work_on_what_is_cancelled_is_counted_until_it_says_what_came_of_it() {
    let rig = Rig::start();
    let away = rig.named("away").tasks();
    rig.operator.clients_until(|clients| clients.len() == 1);
    drop(away);
    rig.operator.clients_until(<[_]>::is_empty);
    let hears = rig.named("hears").saying("contact-revoke", "1");
    let deaf = rig.named("deaf");
    let unbegun = rig.named("unbegun").saying("contact-revoke", "1").saying("contact-begins", "1");
    let (mut of_hears, mut of_deaf, mut of_unbegun) = (hears.tasks(), deaf.tasks(), unbegun.tasks());
    rig.operator.clients_until(|clients| clients.len() == 3);
    rig.operator.submit(&["work"]);
    let given = of_hears.next();
    of_deaf.next();
    of_unbegun.next();

    let request = CancelTaskRequest { id: 1, ..CancelTaskRequest::default() };
    let answer = block_on(rig.operator.control.cancel_task(&request, patient()).unwrap()).unwrap();
    assert_eq!((answer.groups, answer.told, answer.untold), (4, 1, 1));
    let at_work = |wanted: &[&str]| {
        let ledger = rig.operator.ledger_until(1, |it| it.at_work == wanted.len() as u64);
        let of = ledger.groups.iter().filter(|it| it.at_work);
        assert_eq!(of.map(|it| it.client.as_str()).collect::<Vec<_>>(), wanted);
    };
    at_work(&["deaf", "hears"]);
    hears.tell([told(&given, WORKING, "almost")]);
    at_work(&["deaf", "hears"]);
    hears.tell([told(&given, RETRY, "ended")]);
    at_work(&["deaf"]);
    drop(of_deaf);
    at_work(&[]);
}

#[test]
fn what_a_client_may_not_begin_after_is_told_with_the_task() {
    let rig = Rig::start();
    let at = now() + 3_600_000;
    rig.operator.submit_all(vec![NewTask { expires_at: at, ..to("a", "soon") }]);
    let message = rig.named("a").tasks().next();
    assert_eq!((message.expires_at, message.max_attempts, message.spent), (at, 0, 0));
}

#[test]
fn how_often_a_task_may_be_tried_is_told_with_it_if_the_task_or_its_group_says_so() {
    let rig = Rig::start();
    let request = SetGroupRetryRequest { group: "a".into(), retry: "max=5".into(), ..Default::default() };
    status_of(block_on(rig.operator.control.set_group_retry(&request, patient()).unwrap())).unwrap();
    rig.operator.submit_all(vec![NewTask { max_attempts: 7, ..to("a", "own") }, to("a", "as the group")]);
    let mut tasks = rig.named("a").tasks();
    assert_eq!([tasks.next().max_attempts, tasks.next().max_attempts], [7, 5]);
}

#[test]
fn the_same_id_again_takes_over() {
    let rig = Rig::start();
    let (first, second) = (rig.named("a"), rig.named("a"));
    let mut old = first.tasks();
    rig.operator.connected(1);
    rig.operator.submit(&["one"]);
    assert_eq!(attempt(&old.next()), (1, 1));
    let mut new = second.tasks();
    assert_eq!(attempt(&new.next()), (1, 2), "what the old one held");
    let status = old.end();
    assert_eq!(status.code(), RpcStatusCode::ABORTED);
    assert!(status.message().contains("took over"), "{}", status.message());
    // The old one's cleanup must not touch the new one.
    drop((old, first));
    for n in 2..50 {
        rig.operator.submit(&[n.to_string()]);
        assert_eq!(new.next().id, n);
        assert_eq!(rig.operator.connected(1)[0].in_flight, n);
    }
}

#[test]
fn processes_that_fight_for_one_id_are_told_when_it_is_their_turn_and_that_is_a_finding() {
    let rig = Rig::start();
    let tasks = |process| rig.named("w").saying("contact-instance", process).tasks();
    let mut holder = tasks("a");
    rig.operator.connected(1);
    for process in ["b", "a", "b"] {
        let new = tasks(process);
        assert_eq!(holder.end().code(), RpcStatusCode::ABORTED);
        holder = new;
    }
    let status = tasks("a").end();
    assert_eq!(status.code(), RpcStatusCode::UNAVAILABLE);
    assert!(status.message().contains("Give each process an id of its own"), "{status:?}");
    assert!(retry_delay(&status).is_some_and(|wait| wait <= Duration::from_secs(5)), "{status:?}");
    rig.operator.submit(&["work"]);
    assert_eq!(holder.next().task, "work", "and the other has its turn");
    let request = GetServerRequest { counted: true, ..Default::default() };
    let found = status_of(block_on(rig.operator.control.get_server(&request, patient()).unwrap())).unwrap().findings;
    let [found] = &found[..] else { panic!("one: {found:?}") };
    assert_eq!((found.code, &*found.text, &*found.group, found.count), (Code::CONTESTED.into(), "w", "w", 3));
    // The same process is never turned away: it stops, and asks for one task at most.
    let _stopping = rig.named("w").saying("contact-instance", "b").saying("contact-window", "1").tasks();
    assert_eq!(holder.end().code(), RpcStatusCode::ABORTED);
    let window = |clients: &[Client]| matches!(clients, [client] if client.window == 1 && client.in_flight == 1);
    rig.operator.clients_until(window);
}

#[test]
fn the_same_process_again_keeps_what_it_holds() {
    let rig = Rig::start();
    let a = rig.named("a").saying("contact-instance", "i");
    let mut old = a.tasks();
    rig.operator.connected(1);
    rig.operator.submit(&["one"]);
    let one = old.next();
    let mut new = a.tasks();
    assert_eq!(old.end().code(), RpcStatusCode::ABORTED);
    a.tell([done(&one)]);
    rig.operator.submit(&["two"]);
    assert_eq!(new.next().task, "two", "not one again");
    assert_eq!(gist(&rig.operator.results_now()), [(1, "a", 1, Kept::DONE, false)]);
}

#[test]
fn a_lost_stream_gives_its_tasks_to_the_others_at_once() {
    let rig = Rig::start();
    let (a, b) = (rig.member("g", "a"), rig.member("g", "b"));
    let mut at_a = a.tasks();
    rig.operator.connected(1);
    rig.operator.submit(&["one", "two", "three"]);
    at_a.take(3);
    let mut at_b = b.tasks();
    rig.operator.connected(2);
    drop((at_a, a));
    let given: Vec<_> = at_b.take(3).iter().map(attempt).collect();
    assert_eq!(given, [(1, 2), (2, 2), (3, 2)]);
    assert!(rig.operator.results(3).iter().all(|r| r.outcome.unwrap() == Kept::LOST && r.client == "a"));
}

#[test]
fn one_that_knows_heartbeats_hears_at_once_who_answers() {
    let rig = Rig::start();
    let mut tasks = rig.named("a").saying("contact-heartbeat", "3600").tasks();
    assert_eq!(tasks.next(), ServerMsg::new());
    let limit = rig.config.max_task.to_string();
    assert_eq!(tasks.introduction(), introduction(&limit, Some("first")));
    // Another waits for its first task, as the article's clients do.
    let mut article = rig.anonymous().tasks();
    rig.operator.submit(&["first"]);
    assert_eq!(article.next().task, "first");
}

#[test]
fn silence_is_filled_with_heartbeats_for_one_that_asked() {
    let rig = Rig::start();
    let mut tasks = rig.named("a").saying("contact-heartbeat", "1").tasks();
    assert_eq!([tasks.next(), tasks.next()], [ServerMsg::new(), ServerMsg::new()]);
    rig.operator.submit(&["one"]);
    assert_eq!(tasks.next().task, "one");
    assert_eq!(tasks.next(), ServerMsg::new());
}

#[test]
fn a_task_that_is_too_long_for_a_client_goes_to_another_or_waits_and_holds_up_nothing() {
    let rig = Rig::with(|config| config.max_task = 8 << 20);
    let narrow = |name: &str| rig.member("g", name).saying("contact-max-message", "1000");
    let (mut first, mut second) = (narrow("first").tasks(), narrow("second").saying("contact-batch", "9").tasks());
    rig.operator.connected(2);
    let long = "x".repeat(2_000);
    rig.operator.submit_all(vec![to("g", &long), to("g", "one"), to("g", "two")]);
    let mut texts = [first.next().task, second.next().task];
    texts.sort();
    assert_eq!(texts, ["one", "two"], "the streams live, and what is behind it goes out");
    let waits = rig.operator.ledger_until(1, |_| true).groups[0].clone();
    assert_eq!((waits.wait, waits.attempt), (Some(WaitReason::TOO_LONG.into()), 0));

    let mut wide = rig.member("g", "wide").tasks();
    rig.operator.connected(3);
    rig.operator.submit_all(vec![to("g", &long), to("g", &long)]);
    assert_eq!(wide.texts(2), [&*long, &*long], "who says nothing takes 4 MiB");

    let middling = "x".repeat(600);
    rig.operator.submit_all(vec![to("h", &middling), to("h", &middling)]);
    let batches = rig.member("h", "h").saying("contact-batch", "9").saying("contact-max-message", "1000");
    let mut batches = batches.tasks();
    assert_eq!(batches.texts(2), [&*middling, &*middling], "a batch is no longer than a message may be");

    rig.operator.submit_all(vec![to("i", &"x".repeat(5 << 20)), to("", &"x".repeat(5 << 20)), to("", "small")]);
    assert_eq!(rig.named("i").tasks().next().task, "small");
    assert_eq!(rig.anonymous().tasks().next().task, "small");
}

#[test]
fn pings_every_few_seconds_are_answered() {
    let rig = Rig::start();
    let env = std::sync::Arc::new(grpcio::EnvBuilder::new().cq_count(1).build());
    let channel = grpcio::ChannelBuilder::new(env)
        .keepalive_time(Duration::from_millis(2_500))
        .keepalive_permit_without_calls(true)
        .http2_max_pings_without_data(0)
        .connect(rig.listen());
    let client = crate::rig::Client::over(channel, &[("contact-client", "a"), ("contact-heartbeat", "14")]);
    // Too many pings end the connection with the fourth of them.
    let mut tasks = client.tasks();
    assert_eq!([tasks.next(), tasks.next()], [ServerMsg::new(), ServerMsg::new()], "five pings are between them");
}

#[test]
fn a_client_that_knows_heartbeats_learns_the_servers_limits_at_once() {
    let rig = Rig::with(|config| config.max_task = 54_321);
    let mut tasks = rig.named("a").saying("contact-heartbeat", "3600").tasks();
    let introduced = introduction("54321", Some("first"));
    assert_eq!(tasks.introduction(), introduced, "though there is no task, and no heartbeat for an hour");
    assert_eq!(tasks.next(), ServerMsg::new());
    rig.operator.submit(&["one"]);
    assert_eq!(tasks.next().task, "one");
    let mut others = rig.named("b").tasks();
    assert_eq!(others.introduction(), introduced, "with the first task");
    assert_eq!(others.next().task, "one", "who asked for no heartbeats is sent no empty message");
}

#[test]
fn what_a_client_says_of_its_work_is_shown_while_it_has_the_task() {
    let rig = Rig::start();
    let member = rig.member("workers", "w1");
    let mut tasks = member.tasks();
    rig.operator.submit(&["work"]);
    let task = tasks.next();
    let said = |says: &dyn Fn(&str) -> bool| {
        let ledger = rig.operator.ledger_until(1, |ledger| ledger.groups.first().is_some_and(|it| says(&it.said)));
        ledger.groups[0].said.clone()
    };
    let working = |text: &str| member.tell([told(&task, WORKING, text)]);
    assert_eq!(said(&|_| true), "");
    working("40 %");
    said(&|said| said == "40 %");
    working("");
    working(&"完".repeat(200));
    let cut = said(&|said| said.starts_with('完'));
    assert!(cut.len() <= LONGEST_SAID && cut.ends_with("完…"), "{cut}");
    working("90 %");
    working("");
    assert_eq!(said(&|said| said.len() < 10), "90 %", "who says nothing takes nothing back");
    let is_at = |wanted: f32| {
        let is_at = |progress: Option<f32>| progress == Some(wanted);
        let ledger = rig.operator.ledger_until(1, |ledger| ledger.groups.first().is_some_and(|it| is_at(it.progress)));
        assert_eq!(ledger.groups[0].said, "90 %");
        let clients = rig.operator.clients_until(|clients| clients.iter().any(|it| is_at(it.working.progress)));
        assert_eq!((clients[0].working.task, clients[0].working.said.as_str()), (1, "90 %"));
    };
    for (part, shown) in [(0.4, 0.4), (7.0, 1.0), (-7.0, 0.0), (0.25, 0.25)] {
        member.tell([contact::wire::contact::Result { progress: Some(part), ..told(&task, WORKING, "") }]);
        is_at(shown);
    }
    member.tell([contact::wire::contact::Result { progress: Some(f32::NAN), ..told(&task, WORKING, "") }]);
    is_at(0.25);
    member.tell([told(&task, RETRY, "not now")]);
    let again = tasks.next();
    assert_eq!((again.attempt, said(&|_| true)), (2, String::new()), "another attempt has said nothing yet");
    member.tell([told(&again, WORKING, "50 %"), done(&again)]);
    assert_eq!(said(&|_| true), "", "what it is now stands in the result");
}

#[test]
fn a_client_is_drained_and_undrained_and_all_who_look_see_it() {
    let mut rig = Rig::start();
    let drain = |rig: &Rig, client: &str, note: &str| {
        let request = DrainClientRequest { client: client.into(), note: note.into(), ..Default::default() };
        status_of(block_on(rig.operator.control.drain_client(&request, patient()).unwrap()))
    };
    let undrain = |rig: &Rig, client: &str| {
        let request = UndrainClientRequest { client: client.into(), ..Default::default() };
        block_on(rig.operator.control.undrain_client(&request, patient()).unwrap()).unwrap()
    };
    let member = rig.member("workers", "w1");
    let mut tasks = member.tasks();
    rig.operator.connected(1);
    rig.operator.submit(&["before"]);
    let before = tasks.next();
    let held = drain(&rig, "w1", "disk is replaced").unwrap().clients;
    assert_eq!((held.len(), held[0].in_flight), (1, 1));
    rig.operator.submit(&["after"]);
    let waits = rig.operator.ledger_until(2, |ledger| !ledger.groups.is_empty());
    assert_eq!(waits.groups[0].wait, Some(WaitReason::DRAINING.into()));
    let seen = rig.operator.connected(1);
    assert_eq!((seen[0].draining.note.as_str(), seen[0].draining.stopping), ("disk is replaced", false));
    member.tell([done(&before)]);
    drop(tasks);

    rig.restart();
    let away = block_on(rig.operator.control.list_clients(&ListClientsRequest::new(), patient()).unwrap()).unwrap();
    assert_eq!((away.clients.len(), away.drained_away[0].client.as_str()), (0, "w1"));
    let mut tasks = rig.member("workers", "w1").tasks();
    rig.operator.connected(1);
    rig.operator.submit_all(vec![to("other", "nobody's")]);
    assert!(undrain(&rig, "w1").was_drained);
    assert_eq!(tasks.next().task, "after");
    assert!(!undrain(&rig, "w1").was_drained);
    assert!(!rig.operator.connected(1)[0].draining.is_some());

    let unknown = drain(&rig, "w2", "").unwrap_err();
    assert_eq!(unknown.code(), RpcStatusCode::NOT_FOUND);
    assert!(unknown.message().contains("there is no client w2"), "{}", unknown.message());
    assert_eq!(drain(&rig, "w1", &"x".repeat(257)).unwrap_err().code(), RpcStatusCode::INVALID_ARGUMENT);
    // A client that stops says so itself.
    let stopping = rig.member("workers", "w1").saying("contact-drain", "1").tasks();
    rig.operator.clients_until(|clients| clients.len() == 1 && clients[0].draining.stopping);
    drop(stopping);
}

/// What the server says of itself at the beginning of getTask.
fn introduction(max_task: &str, new_group: Option<&str>) -> Vec<(String, String)> {
    let new_group = new_group.map(|from| ("contact-new-group", from));
    let said = [("contact-max-task", max_task)].into_iter().chain(new_group);
    let said = said.chain([("contact-version", env!("CARGO_PKG_VERSION"))]);
    said.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn a_client_of_a_new_group_hears_so_and_gets_what_is_accepted_from_then_on() {
    let rig = Rig::start();
    rig.operator.submit(&["before"]);
    rig.operator.submit_all(vec![to("workers", "for them")]);
    let limit = rig.config.max_task.to_string();
    let member = |id| {
        let known = [("contact-group", "workers"), ("contact-client", id), ("contact-heartbeat", "3600")];
        rig.client(&known).tasks()
    };
    let mut one = member("one");
    assert_eq!(one.introduction(), introduction(&limit, Some("new")));
    rig.operator.submit(&["after"]);
    let texts: Vec<String> = one.texts(3);
    assert_eq!(texts, ["", "for them", "after"], "first the message that says who answers");
    assert_eq!(member("two").introduction(), introduction(&limit, None), "it is not new any more");
    let anonymous = rig.client(&[("contact-heartbeat", "3600")]).tasks().introduction();
    assert_eq!(anonymous, introduction(&limit, None), "an anonymous client has no group");
}

#[test]
fn a_worker_whose_group_is_new_says_so_once_and_gets_what_is_submitted_when_it_is_connected() {
    let rig = Rig::start();
    rig.operator.submit(&["before"]);
    let worker = |group: &str, from| {
        let (tell, told) = crossbeam_channel::unbounded();
        let config = client::Config { group: Some(group.into()), from, ..client::Config::new(rig.listen()) };
        let tell_task = tell.clone();
        let worker = client::Worker::new(config, move |task| {
            let _ = tell_task.send(task.text.clone());
            client::Reply::done("")
        });
        let worker = worker.observe(move |event| match event {
            client::Event::Connected { .. } => drop(tell.send("connected".into())),
            client::Event::NewGroup { group, from } => drop(tell.send(format!("{group} is new, from {from}"))),
            _ => {}
        });
        (worker.start().unwrap(), told)
    };
    let next = |told: &crossbeam_channel::Receiver<String>| told.recv_timeout(crate::common::DEADLINE).unwrap();
    let (one, told) = worker("workers", None);
    assert_eq!(next(&told), "connected");
    rig.operator.submit(&["after"]);
    assert_eq!([next(&told), next(&told)], ["workers is new, from new", "after"]);
    one.stop().unwrap();
    let (two, told) = worker("workers", Some(client::StartAt::First));
    assert_eq!(next(&told), "connected");
    rig.operator.submit(&["later"]);
    assert_eq!(next(&told), "later", "the group is known");
    two.stop().unwrap();
    let (three, told) = worker("others", Some(client::StartAt::First));
    assert_eq!([next(&told), next(&told), next(&told)], ["connected", "others is new, from first", "before"]);
    three.stop().unwrap();
}

#[test]
fn what_has_expired_is_not_delivered() {
    let rig = Rig::start();
    let task = |text: &str, expires_at| NewTask { task: text.into(), expires_at, ..NewTask::default() };
    rig.operator.submit_all(vec![NewTask { to: "g".into(), ..task("too late for g", now() + 300) }]);
    rig.operator.submit_all(vec![task("too late", now() + 300), task("in time", now() + 3_600_000)]);
    // Before it is over nothing is wrong; the ledger is asked until it is.
    let g = rig.operator.ledger_until(1, |ledger| ledger.groups[0].outcome.is_some());
    assert_eq!(
        (g.groups[0].group.as_str(), g.groups[0].outcome),
        ("g", Some(Kept::EXPIRED.into())),
        "though nobody came"
    );
    rig.operator.passed(now() + 300);
    assert_eq!(rig.named("a").tasks().next().task, "in time");
    assert_eq!(gist(&rig.operator.results(1)), [(2, "", 0, Kept::EXPIRED, false)]);
    assert_eq!(rig.anonymous().tasks().next().task, "in time");
}

#[test]
fn what_is_cancelled_is_cancelled_for_those_who_come_later_and_twice_is_as_good_as_once() {
    let mut rig = Rig::start();
    rig.operator.submit_all(vec![to("g", "for g"), to("", "for all"), to("", "left")]);
    let cancel = |rig: &Rig, id| {
        let request = CancelTaskRequest { id, ..Default::default() };
        let answer = block_on(rig.operator.control.cancel_task(&request, patient()).unwrap()).unwrap();
        (answer.groups, answer.already)
    };
    assert_eq!(cancel(&rig, 1), (1, false), "the group is waited for, though nobody came");
    assert_eq!(cancel(&rig, 1), (0, true));
    assert_eq!(cancel(&rig, 2), (0, false));
    let stands = |rig: &Rig| {
        let ledger = rig.operator.ledger_until(1, |_| true);
        assert!(ledger.task.cancelled);
        ledger.groups.iter().map(|it| (it.group.clone(), it.outcome)).collect::<Vec<_>>()
    };
    let settled = vec![("g".to_owned(), Some(Kept::CANCELLED.into()))];
    assert_eq!(stands(&rig), settled);
    rig.restart();
    assert_eq!(rig.named("g").tasks().next().task, "left");
    let results = rig.operator.results(2);
    assert_eq!(gist(&results[..2]), [(1, "", 0, Kept::CANCELLED, false), (2, "", 0, Kept::CANCELLED, false)]);
    assert_eq!(stands(&rig), settled);
    assert_eq!(cancel(&rig, 1), (0, true));
    assert_eq!(rig.anonymous().tasks().next().task, "left");
    assert_eq!(gist(&rig.operator.results_now()[..2]), gist(&results[..2]), "nothing is written down twice");
}

#[test]
fn a_window_that_cannot_be_is_refused_with_the_numbers() {
    let rig = Rig::start();
    let hour = 3_600_000;
    let task = |not_before, expires_at| NewTask { task: "x".into(), not_before, expires_at, ..NewTask::default() };
    let at = |millis: i64| contact::task::Time(millis).to_string();
    let then = now();
    for (wrong, numbers) in [
        (task(0, then - 1), vec![at(then - 1)]),
        (task(0, 1), vec![at(1)]),
        (task(0, -5), vec![]),
        (task(then + hour, then + hour), vec![at(then + hour)]),
        (task(then + 2 * hour, then + hour), vec![at(then + hour), at(then + 2 * hour)]),
        (NewTask { ttl_ms: Some(0), ..task(0, then + hour) }, vec![]),
        (NewTask { ttl_ms: Some(5_000), delay_ms: Some(5_000), ..task(0, 0) }, vec![]),
    ] {
        let status = rig.operator.try_submit(vec![wrong.clone()]).unwrap_err();
        assert_eq!(status.code(), RpcStatusCode::INVALID_ARGUMENT, "{wrong}");
        let named = numbers.iter().all(|number| status.message().contains(number));
        assert!(named && status.message().contains("would never be delivered"), "{}", status.message());
    }
    assert!(rig.operator.tasks_now().is_empty());
}

#[test]
fn a_duration_is_added_to_the_clock_of_the_server() {
    let rig = Rig::start();
    // As from a host whose clock is a day slow, and of another whose clock is a day fast.
    let day = 86_400_000;
    for off in [-day, day] {
        let times = NewTask { not_before: now() + off, expires_at: now() + off + 60_000, ..NewTask::default() };
        let task = NewTask { task: "x".into(), delay_ms: Some(1), ttl_ms: Some(60_000), ..times };
        rig.operator.submit_all(vec![task]);
    }
    for task in rig.operator.tasks_now() {
        assert!((1..60_000).contains(&(task.not_before - task.accepted_at + 30_000)), "{task}");
        assert_eq!(task.expires_at - task.not_before, 59_999, "{task}");
    }
    assert_eq!(rig.named("a").tasks().texts(2), ["x", "x"]);
}

#[test]
fn what_is_not_due_waits_until_it_is() {
    let rig = Rig::start();
    let due = now() + 300;
    rig.operator.submit_all(vec![NewTask { task: "later".into(), not_before: due, ..NewTask::default() }]);
    rig.operator.submit(&["now"]);
    let (mut named, mut anonymous) = (rig.named("a").tasks(), rig.anonymous().tasks());
    for tasks in [&mut named, &mut anonymous] {
        assert_eq!(tasks.texts(2), ["now", "later"]);
        assert!(now() >= due);
    }
}

#[test]
fn urgent_tasks_go_first_and_the_oldest_first_among_equals() {
    let rig = Rig::start();
    let task =
        |text: &str, class: Priority| NewTask { task: text.into(), priority: class.into(), ..NewTask::default() };
    rig.operator.submit_all(vec![
        task("low 1", Priority::LOW),
        task("normal 1", Priority::NORMAL),
        task("high 1", Priority::HIGH),
        task("normal 2", Priority::NORMAL),
        task("high 2", Priority::HIGH),
        task("low 2", Priority::LOW),
    ]);
    let sorted = ["high 1", "high 2", "normal 1", "normal 2", "low 1", "low 2"];
    assert_eq!(rig.named("a").tasks().texts(6), sorted);
    assert_eq!(rig.anonymous().tasks().texts(6), sorted);
}

#[test]
fn a_late_done_settles_what_is_not_settled_yet() {
    let rig = impatient();
    let (a, b) = (rig.member("g", "a"), rig.member("g", "b"));
    let mut at_a = a.tasks();
    rig.operator.connected(1);
    rig.operator.submit(&["one"]);
    let first = at_a.next();
    let mut at_b = b.tasks();
    let second = at_b.next();
    assert_eq!(second.attempt, 2);
    a.tell([done(&first)]);
    b.tell([done(&second)]);
    let results = rig.operator.results_now();
    let settled: Vec<_> = results.iter().filter(|r| r.outcome.unwrap() == Kept::DONE && !r.late).collect();
    assert_eq!(settled.len(), 1, "{results:?}");
    assert_eq!(results.iter().filter(|r| r.outcome.unwrap() == Kept::DONE).count(), 2, "both are kept");
    rig.operator.submit(&["two"]);
    assert_eq!(at_b.next().task, "two");
}

#[test]
fn a_key_is_accepted_once() {
    let rig = Rig::start();
    let task = |text: &str, key: &str| NewTask { task: text.into(), key: key.into(), ..NewTask::default() };
    let once = rig.operator.try_submit(vec![task("a", "k"), task("b", "")]).unwrap();
    assert_eq!((once.first_id, once.count, once.ids), (1, 2, vec![]));
    let again = rig.operator.try_submit(vec![task("c", ""), task("a", "k")]).unwrap();
    assert_eq!((again.first_id, again.ids, again.known), (3, vec![3, 1], vec![1]));
    assert_eq!(rig.named("a").tasks().texts(3), ["a", "b", "c"]);
}

#[test]
fn a_key_with_another_task_is_refused_until_the_first_is_cancelled() {
    let rig = Rig::start();
    let task = |text: &str, group: &str| NewTask { key: "k".into(), ..to(group, text) };
    rig.operator.try_submit(vec![task("a", "")]).unwrap();
    for other in [task("b", ""), task("a", "g")] {
        let status = rig.operator.try_submit(vec![to("", "x"), other.clone()]).unwrap_err();
        assert_eq!(status.code(), RpcStatusCode::ALREADY_EXISTS);
        assert!(status.message().contains("the key k was used for task 1"), "{}", status.message());
        let answer = rig.operator.submit_by_stream(vec![to("", ""), to("", "x"), other, task("a", "")]);
        let refused: Vec<_> = answer.refused.iter().map(|it| (it.index, it.cause.as_str())).collect();
        assert_eq!(refused, [(0, "TASK_EMPTY"), (2, "KEY_REUSED")]);
        assert_eq!((answer.count, answer.known.as_slice()), (2, &[3][..]), "the others are accepted");
    }
    rig.operator.cancel(1);
    let again = rig.operator.try_submit(vec![task("b", "")]).unwrap();
    assert_eq!((again.first_id, again.known), (4, vec![]));
    assert_eq!(rig.named("a").tasks().texts(3), ["x", "x", "b"]);
}

#[test]
fn a_restart_asks_again_for_what_was_not_told_and_only_for_that() {
    let mut rig = Rig::start();
    rig.operator.submit(&["one", "two", "three"]);
    let a = rig.named("a").saying("contact-window", "2");
    let mut tasks = a.tasks();
    let given = tasks.take(2);
    a.tell([told(&given[0], DONE, "")]);
    assert_eq!(tasks.next().task, "three");
    rig.restart();
    let again: Vec<_> = rig.named("a").tasks().take(2).iter().map(attempt).collect();
    assert_eq!(again, [(2, 2), (3, 2)]);
}
