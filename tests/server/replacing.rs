//! Tasks that take the place of others, through the programs and across kills.

use contact::wire::contact::Outcome::{DONE, WORKING};
use contact::wire::control::{NewTask, Outcome as Kept};

use crate::common::server::Server;
use crate::rig::{Client, Operator, Rig, now, to, told};

fn config(text: &str) -> NewTask {
    NewTask { replace: "config".into(), ..to("g", text) }
}

#[test]
fn what_was_replaced_stays_so_whenever_the_server_is_killed_and_one_follows_what_runs() {
    let mut server = Server::start(&["--restart-grace", "30s"]);
    let submit = |server: &Server, texts: &[&str]| {
        let operator = Operator::of(&server.control);
        operator.submit_all(texts.iter().map(|text| config(text)).collect())
    };
    submit(&server, &["1", "2"]);
    server.kill();
    server.restart();
    submit(&server, &["3"]);
    server.kill();
    server.restart();
    let worker = |server: &Server| {
        Client::of(&server.listen, &[("contact-group", "g"), ("contact-client", "w"), ("contact-begins", "1")])
    };
    let (client, operator) = (worker(&server), Operator::of(&server.control));
    let mut tasks = client.tasks();
    let third = tasks.next();
    assert_eq!(third.task, "3", "and neither of the older ones");
    client.tell([told(&third, WORKING, "")]);
    // While it runs, three come; and the server is killed when that it runs was written down.
    submit(&server, &["4", "5"]);
    operator.passed(now() + 2_000);
    server.kill();
    server.restart();
    submit(&server, &["6"]);
    let (client, operator) = (worker(&server), Operator::of(&server.control));
    let mut tasks = client.tasks();
    client.tell([told(&third, WORKING, "")]);
    let waits = operator.ledger_until(6, |it| it.groups.iter().any(|it| it.behind == 3));
    assert_eq!((waits.task.replaces, waits.waiting), (5, 1));
    client.tell([told(&third, DONE, "")]);
    assert_eq!(tasks.next().task, "6");
    let of = |id| {
        let ledger = operator.ledger_until(id, |it| it.settled == 1);
        (ledger.groups[0].outcome.and_then(|it| it.enum_value().ok()), ledger.task.replaced_by)
    };
    assert_eq!([1, 2, 4, 5].map(of), [2, 3, 5, 6].map(|by| (Some(Kept::REPLACED), by)));
    assert_eq!(of(3).0, Some(Kept::DONE), "what has begun goes on");
}

#[test]
fn who_waits_for_a_task_hears_that_another_took_its_place_though_its_group_is_away() {
    let server = Server::start(&[]);
    let mut waits = server.ctl_running(&["submit", "--to", "g", "--replace", "config", "--wait", "1"]);
    let operator = Operator::of(&server.control);
    operator.tasks_until(&["1"]);
    operator.submit_all(vec![config("2")]);
    assert_eq!(waits.ended().code(), Some(5));
}

#[test]
fn what_makes_no_sense_of_replacing_is_refused_with_the_reason() {
    let rig = Rig::start();
    let quiet = |quiet_ms, max_wait_ms| NewTask { quiet_ms, max_wait_ms, ..config("x") };
    let tasks = vec![
        NewTask { quiet_ms: Some(5), ..to("g", "x") },
        quiet(None, Some(5)),
        quiet(Some(0), None),
        quiet(Some(5), Some(4)),
        NewTask { lane: "l".into(), ..config("x") },
        NewTask { ttl_ms: Some(4), ..quiet(Some(5), None) },
        NewTask { replace: "x".repeat(257), ..to("g", "x") },
        NewTask { replace: "x".repeat(256), ..to("g", "longest") },
    ];
    let answer = rig.operator.submit_by_stream(tasks);
    let causes: Vec<_> = answer.refused.iter().map(|it| it.cause.as_str()).collect();
    let invalid = ["REPLACE_INVALID"; 5];
    assert_eq!(causes, [&invalid[..], &["WINDOW_EMPTY", "NAME_INVALID"]].concat());
    assert_eq!(answer.count, 1);
    rig.operator.submit_all(vec![config("1"), config("2")]);
    let retried = rig
        .operator
        .control
        .retry_task(&contact::wire::control::RetryTaskRequest { id: 2, ..Default::default() }, crate::rig::patient());
    let error = crate::rig::status_of(futures::executor::block_on(retried.unwrap())).unwrap_err();
    assert!(error.message().contains("the place of task 2 was taken by task 3"), "{error:?}");
}
