//! What tasks and results have beside their texts: headers, and bytes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use contact::client;
use contact::codec::MOST_HEADERS_OF_TASKS;
use contact::wire::contact::Outcome::{DONE, FAILED, RETRY};
use contact::wire::contact::{Result as Told, ServerMsg};
use contact::wire::control::{
    BeginRunRequest, Data, GetDataRequest, GetRunRequest, ListDeadRequest, NewTask, Outcome as Kept, ResultPage,
    RetryFailedRequest, RetryTaskRequest, RunPhase,
};
use futures::executor::block_on;
use grpcio::RpcStatus;
use protobuf::Message as _;

use crate::common::DEADLINE;
use crate::conventions::reason;
use crate::rig::{Rig, collect, done, patient, status_of, to, told};

const BYTES: &[u8] = b"\0\xff\x89PNG\r\n";

fn headers(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn picture() -> HashMap<String, String> {
    headers(&[("content-type", "image/png"), ("x.trace_id-1", "任务 7")])
}

fn with_picture(group: &str, text: &str) -> NewTask {
    NewTask { headers: picture(), data: BYTES.to_vec(), ..to(group, text) }
}

fn data(rig: &Rig, task: u64, result: u64) -> Result<Data, RpcStatus> {
    let request = GetDataRequest { task, result, ..Default::default() };
    status_of(block_on(async { rig.operator.control.get_data(&request, patient())?.await }))
}

fn dead(rig: &Rig) -> Vec<contact::wire::control::TaskResult> {
    let pages = collect(rig.operator.control.list_dead(&ListDeadRequest::new(), patient()).unwrap());
    pages.unwrap().into_iter().flat_map(|page: ResultPage| page.results).collect()
}

fn beside(message: &ServerMsg) -> (&str, &HashMap<String, String>, &[u8]) {
    (&message.task, &message.headers, &message.data)
}

#[test]
fn headers_and_data_come_as_they_were_sent_there_and_back_and_again_after_a_restart() {
    let mut rig = Rig::start();
    rig.operator.submit_all(vec![with_picture("g", "smaller"), with_picture("g", ""), to("g", "plain")]);
    let w = rig.member("g", "w");
    let mut stream = w.tasks();
    let tasks = stream.take(3);
    assert_eq!(beside(&tasks[0]), ("smaller", &picture(), BYTES));
    assert_eq!(beside(&tasks[1]), ("", &picture(), BYTES), "data alone is a task");
    assert_eq!(beside(&tasks[2]), ("plain", &HashMap::new(), &[][..]));
    let said = Told { headers: headers(&[("k", "v")]), data: vec![9; 1000], ..told(&tasks[0], RETRY, "not now") };
    w.tell([said]);
    drop(stream);
    for _ in 0..2 {
        let again = rig.member("g", "w").tasks().take(3);
        assert!(again.iter().any(|task| task.id == 1 && beside(task) == ("smaller", &picture(), BYTES)), "{again:?}");
        let listed = rig.operator.tasks_now();
        let sizes: Vec<_> = listed.iter().map(|task| (task.headers.len(), task.data_size)).collect();
        assert_eq!(sizes, [(2, 8), (2, 8), (0, 0)], "lists say how much it is");
        let retried = rig.operator.results_now().into_iter().find(|it| it.outcome.unwrap() == Kept::RETRY).unwrap();
        assert_eq!((&retried.headers, retried.data_size), (&headers(&[("k", "v")]), 1000));
        let (of_task, of_result) = (data(&rig, 2, 0).unwrap(), data(&rig, 0, retried.seq).unwrap());
        assert_eq!((&of_task.data[..], of_task.headers), (BYTES, picture()));
        assert_eq!((of_result.data, of_result.headers), (vec![9; 1000], retried.headers));
        rig.restart();
    }
    assert_eq!(data(&rig, 3, 0).unwrap(), Data::new(), "it has none");
    assert_eq!(reason(&data(&rig, 99, 0).unwrap_err()), "TASK_UNKNOWN");
    assert_eq!(reason(&data(&rig, 0, 99).unwrap_err()), "RESULT_UNKNOWN");
}

#[test]
fn what_has_neither_is_on_the_wire_as_before() {
    let rig = Rig::start();
    rig.operator.submit(&["plain"]);
    let message = rig.anonymous().tasks().next();
    let known = ServerMsg { task: "plain".into(), id: 1, attempt: 1, ..ServerMsg::default() };
    assert_eq!(message.write_to_bytes().unwrap(), known.write_to_bytes().unwrap());
}

#[test]
fn a_task_beyond_a_bound_is_refused_with_the_reason_and_the_others_are_accepted() {
    let rig = Rig::with(|config| config.max_task = 100);
    let many = |count: usize| (0..count).map(|n| (format!("k{n}"), String::new())).collect();
    let header = |key: &str, value: &str| NewTask { headers: headers(&[(key, value)]), ..to("", "x") };
    let sized = |text: usize, data: usize| NewTask { data: vec![1; data], ..to("", &"x".repeat(text)) };
    let answer = rig.operator.submit_by_stream(vec![
        NewTask { headers: many(32), ..to("", "x") },
        NewTask { headers: many(33), ..to("", "x") },
        header("Content-Type", "x"),
        header("k", "a\nb"),
        header(&"k".repeat(65), ""),
        header("k", &"v".repeat(1025)),
        sized(60, 40),
        sized(60, 41),
        sized(0, 100),
        header("k", "v"),
        NewTask { headers: many(1), ..to("", "") },
    ]);
    let refused: Vec<_> = answer.refused.iter().map(|it| (it.index, it.cause.as_str())).collect();
    let invalid = |index| (index, "HEADERS_INVALID");
    let expected =
        [invalid(1), invalid(2), invalid(3), invalid(4), invalid(5), (7, "TASK_TOO_LONG"), (10, "TASK_EMPTY")];
    assert_eq!((refused, answer.count), (expected.to_vec(), 4));
    let said: Vec<_> = answer.refused.iter().map(|it| it.reason.as_str()).collect();
    assert!(said[0].contains("33") && said[0].contains("32"), "{said:?}");
    assert!(said[1].contains("a-z") && said[2].contains("U+000A") && said[5].contains("101 bytes"), "{said:?}");
    let status = rig.operator.try_submit(vec![to("", "x"), header("K", "")]).unwrap_err();
    assert_eq!(reason(&status), "HEADERS_INVALID");
}

#[test]
fn a_request_with_more_headers_than_may_be_in_one_is_refused_unread() {
    let rig = Rig::start();
    let task = |count: usize| NewTask {
        headers: (0..count).map(|n| (format!("{n:x}"), String::new())).collect(),
        ..to("", "x")
    };
    let status = rig.operator.try_submit(vec![task(MOST_HEADERS_OF_TASKS), task(1)]).unwrap_err();
    assert_eq!(reason(&status), "BATCH_TOO_LARGE");
    assert_eq!(rig.operator.tasks_now(), []);
}

#[test]
fn the_same_key_with_other_data_or_headers_is_another_task() {
    let rig = Rig::start();
    let task = |headers, data: &[u8]| NewTask { key: "k".into(), headers, data: data.to_vec(), ..to("", "x") };
    let first = rig.operator.try_submit(vec![task(picture(), BYTES)]).unwrap();
    let again = rig.operator.try_submit(vec![task(picture(), BYTES)]).unwrap();
    assert_eq!((first.first_id, again.first_id, again.known), (1, 1, vec![0]));
    for other in [task(picture(), b"other"), task(HashMap::new(), BYTES), task(HashMap::new(), &[])] {
        let status = rig.operator.try_submit(vec![other]).unwrap_err();
        assert_eq!(reason(&status), "KEY_REUSED");
        assert!(status.message().contains("other headers or data"), "{}", status.message());
    }
}

#[test]
fn a_dead_letter_has_what_its_client_sent_and_goes_out_again_with_what_the_task_has() {
    let mut rig = Rig::start();
    rig.operator.submit_all(vec![with_picture("g", "")]);
    let w = rig.member("g", "w");
    let mut stream = w.tasks();
    let task = stream.next();
    w.tell([Told { headers: headers(&[("kind", "core")]), data: BYTES.to_vec(), ..told(&task, FAILED, "broken") }]);
    for _ in 0..2 {
        let [letter] = dead(&rig).try_into().unwrap();
        assert_eq!(
            (letter.ret.as_str(), &letter.headers, letter.data_size),
            ("broken", &headers(&[("kind", "core")]), 8)
        );
        assert_eq!(data(&rig, 0, letter.seq).unwrap().data, BYTES);
        rig.restart();
    }
    let retry = RetryTaskRequest { id: 1, ..Default::default() };
    block_on(rig.operator.control.retry_task(&retry, patient()).unwrap()).unwrap();
    assert_eq!(beside(&rig.member("g", "w").tasks().next()), ("", &picture(), BYTES));
}

#[test]
fn a_late_result_is_kept_without_its_headers_and_data() {
    let rig = Rig::start();
    rig.operator.submit_all(vec![to("g", "x")]);
    let w = rig.member("g", "w");
    let mut stream = w.tasks();
    let task = stream.next();
    let late = Told { headers: picture(), data: vec![1; 10_000], ..told(&task, DONE, "late") };
    w.tell([done(&task), late]);
    let [first, late] = rig.operator.results(2).try_into().unwrap();
    assert!(!first.late && late.late);
    assert_eq!((late.ret.as_str(), late.headers.len(), late.data_size), ("late", 0, 0));
}

#[test]
fn a_result_that_is_too_long_with_its_data_or_has_bad_headers_is_refused_and_those_before_it_count() {
    let rig = Rig::with(|config| config.max_task = 100);
    rig.operator.submit_all(vec![to("g", "a"), to("g", "b"), to("g", "c")]);
    let w = rig.member("g", "w");
    let mut stream = w.tasks();
    let tasks = stream.take(3);
    let long = Told { data: vec![1; 100], ..told(&tasks[1], DONE, "x") };
    let status = w.try_tell([done(&tasks[0]), long]).unwrap_err();
    assert_eq!(reason(&status), "RESULT_TOO_LONG");
    let bad = Told { headers: headers(&[("k", "a\u{7f}")]), ..told(&tasks[1], DONE, "x") };
    assert_eq!(reason(&w.try_tell([bad]).unwrap_err()), "HEADERS_INVALID");
    assert_eq!(rig.operator.results(1)[0].task_id, 1);
    w.tell([Told { data: vec![1; 99], ..told(&tasks[1], DONE, "x") }]);
    assert_eq!(rig.operator.results(2)[1].data_size, 99);
}

#[test]
fn a_worker_of_the_library_gets_them_and_answers_with_them_and_what_is_too_long_is_left_out() {
    let rig = Rig::with(|config| config.max_task = 1000);
    let sized = |data: usize| NewTask { headers: picture(), data: vec![7; data], ..to("g", "") };
    rig.operator.submit_all(vec![sized(10), sized(1000)]);
    let config = client::Config { id: Some("w".into()), group: Some("g".into()), ..client::Config::new(rig.listen()) };
    let worker = client::Worker::new(config, |task| {
        assert_eq!(task.headers().content_type(), Some("image/png"));
        client::Reply::done("seen").with(task.headers().clone(), task.data().to_vec())
    });
    let running = worker.start().unwrap();
    let mut results = rig.operator.results(2);
    running.stop().unwrap();
    results.sort_by_key(|it| it.task_id);
    let said: Vec<_> = results.iter().map(|it| (it.outcome.unwrap(), it.ret.as_str(), it.data_size)).collect();
    assert_eq!(said, [(Kept::DONE, "seen", 10), (Kept::DONE, "seen\n[left out: 1000 bytes of data]\n", 0)]);
    assert!(results.iter().all(|it| it.headers == picture()));
}

#[test]
fn a_run_carries_them_to_each_target_and_so_does_the_run_that_does_it_again() {
    let mut rig = Rig::start();
    let both = [rig.named("a"), rig.named("b")];
    let mut streams = both.each_ref().map(|one| one.tasks());
    rig.operator.connected(2);
    let groups = ["a", "b"].map(ToString::to_string).to_vec();
    let request = BeginRunRequest { headers: picture(), data: BYTES.to_vec(), to: groups, ..Default::default() };
    let begun = block_on(rig.operator.control.begin_run(&request, patient()).unwrap()).unwrap().run.unwrap();
    assert_eq!((&begun.headers, begun.data_size), (&picture(), 8));
    for (at, outcome) in [(0, DONE), (1, FAILED)] {
        let task = streams[at].next();
        assert_eq!(beside(&task), ("", &picture(), BYTES));
        both[at].tell([told(&task, outcome, "")]);
    }
    let ended = |rig: &Rig| {
        let waited = Instant::now();
        loop {
            let request = GetRunRequest { number: begun.number, ..Default::default() };
            let run = block_on(rig.operator.control.get_run(&request, patient()).unwrap()).unwrap().run.unwrap();
            if run.phase == RunPhase::RUN_COMPLETED.into() {
                break run;
            }
            assert!(waited.elapsed() < DEADLINE, "{run:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    ended(&rig);
    rig.restart();
    assert_eq!((ended(&rig).headers, ended(&rig).data_size), (picture(), 8), "they are stored with the run");
    let again = RetryFailedRequest { number: begun.number, ..Default::default() };
    block_on(rig.operator.control.retry_failed(&again, patient()).unwrap()).unwrap();
    assert_eq!(beside(&rig.named("b").tasks().next()), ("", &picture(), BYTES));
}
