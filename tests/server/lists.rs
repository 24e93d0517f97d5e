//! What operators see of the logs.

use contact::wire::contact::Outcome::FAILED;
use contact::wire::control::{FindTasksRequest, ListDeadRequest, ListRequest, ResultPage, Task, TaskPage};
use futures::StreamExt as _;
use futures::executor::block_on;
use grpcio::{ClientSStreamReceiver, RpcStatusCode};
use protobuf::EnumOrUnknown;

use crate::rig::{Operator, Rig, collect, done, patient, status_of, told};

fn texts(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn list(operator: &Operator, request: ListRequest) -> ClientSStreamReceiver<TaskPage> {
    operator.control.list_tasks(&request, patient()).unwrap()
}

fn ids(operator: &Operator, request: ListRequest) -> Vec<u64> {
    let pages: Vec<TaskPage> = collect(list(operator, request)).unwrap();
    pages.into_iter().flat_map(|page| page.tasks).map(|task: Task| task.id).collect()
}

#[test]
fn a_log_is_shown_from_anywhere_and_as_far_as_wanted() {
    let rig = Rig::start();
    assert_eq!(ids(&rig.operator, ListRequest::new()), [0; 0]);
    rig.operator.submit(&texts(0..1234));
    let all = ListRequest::new();
    let ask = |change: fn(&mut ListRequest)| {
        let mut request = all.clone();
        change(&mut request);
        ids(&rig.operator, request)
    };
    assert_eq!(ask(|_| {}), (1..=1234).collect::<Vec<_>>());
    assert_eq!(ask(|r| r.after = 1230), [1231, 1232, 1233, 1234]);
    assert_eq!(ask(|r| r.after = u64::MAX), [0; 0]);
    assert_eq!(ask(|r| r.latest = 2), [1233, 1234]);
    assert_eq!(ask(|r| r.latest = u32::MAX).len(), 1234);
    assert_eq!(ask(|r| r.limit = 3), [1, 2, 3]);
    assert_eq!(ask(|r| (r.latest, r.limit) = (10, 2)), [1225, 1226]);
    assert_eq!(ask(|r| r.limit = 1001).len(), 1001);
}

#[test]
fn a_follower_sees_what_comes_and_stops_at_its_limit() {
    let rig = Rig::start();
    rig.operator.submit(&["old"]);
    let mut pages = list(&rig.operator, ListRequest { follow: true, limit: 4, ..ListRequest::default() });
    let mut seen = Vec::new();
    for text in ["one", "two", "three"] {
        let page = block_on(pages.next()).unwrap().unwrap();
        seen.extend(page.tasks.into_iter().map(|task| task.task));
        rig.operator.submit(&[text]);
    }
    let rest: Vec<TaskPage> = collect(pages).unwrap();
    seen.extend(rest.into_iter().flat_map(|page| page.tasks).map(|task| task.task));
    assert_eq!(seen, ["old", "one", "two", "three"]);
}

#[test]
fn followers_see_every_row_once_while_tasks_come_in() {
    let rig = Rig::start();
    let followers: Vec<_> = (0..4)
        .map(|_| {
            let pages = list(&rig.operator, ListRequest { follow: true, limit: 2000, ..ListRequest::default() });
            std::thread::spawn(move || -> Vec<TaskPage> { collect(pages).unwrap() })
        })
        .collect();
    for chunk in texts(0..2000).chunks(37) {
        rig.operator.submit(chunk);
    }
    for follower in followers {
        let seen = follower.join().unwrap().into_iter().flat_map(|page| page.tasks).map(|task| task.id);
        assert_eq!(seen.collect::<Vec<_>>(), (1..=2000).collect::<Vec<_>>());
    }
}

#[test]
fn one_who_follows_dead_letters_waits_for_them_among_the_living() {
    let rig = Rig::start();
    let list = ListRequest { follow: true, limit: 1, ..ListRequest::default() };
    let request = ListDeadRequest { list: Some(list).into(), ..ListDeadRequest::default() };
    let pages = rig.operator.control.list_dead(&request, patient()).unwrap();
    let a = rig.named("a");
    let mut tasks = a.tasks();
    rig.operator.submit(&texts(0..3));
    let given = tasks.take(3);
    a.tell([done(&given[0])]);
    a.tell([done(&given[1])]);
    a.tell([told(&given[2], FAILED, "no")]);
    let dead: Vec<ResultPage> = collect(pages).unwrap();
    assert_eq!(dead[0].results[0].task_id, 3);
}

#[test]
fn the_latest_dead_letters_are_found_behind_many_that_live() {
    let rig = Rig::start();
    let a = rig.named("a");
    let mut tasks = a.tasks();
    rig.operator.submit(&texts(0..60));
    let given = tasks.take(60);
    a.tell([told(&given[0], FAILED, "first"), told(&given[1], FAILED, "second"), told(&given[2], FAILED, "third")]);
    a.tell(given[3..].iter().map(done));
    let latest = |count| {
        let list = ListRequest { latest: count, ..ListRequest::default() };
        let request = ListDeadRequest { list: Some(list).into(), ..ListDeadRequest::default() };
        let dead: Vec<ResultPage> = collect(rig.operator.control.list_dead(&request, patient()).unwrap()).unwrap();
        dead.into_iter().flat_map(|page| page.results).map(|result| result.ret).collect::<Vec<_>>()
    };
    assert_eq!(latest(2), ["second", "third"]);
    assert_eq!(latest(20), ["first", "second", "third"]);
}

#[test]
fn the_latest_of_a_kind_are_found_behind_many_of_others() {
    let rig = Rig::start();
    let mut tasks = texts(0..3000);
    for at in [1, 2, 2400] {
        tasks[at] = "needle".into();
    }
    rig.operator.submit(&tasks);
    let needles = |latest, limit| {
        ids(&rig.operator, ListRequest { text: "needle".into(), latest, limit, ..ListRequest::default() })
    };
    assert_eq!(needles(0, 0), [2, 3, 2401]);
    assert_eq!(needles(0, 1), [2]);
    assert_eq!(needles(1, 0), [2401]);
    assert_eq!(needles(2, 0), [3, 2401]);
    assert_eq!(needles(20, 0), [2, 3, 2401]);
    assert_eq!(ids(&rig.operator, ListRequest { text: "hay".into(), latest: 20, ..ListRequest::default() }), [0; 0]);
}

#[test]
fn a_look_for_tasks_says_how_far_it_came_and_goes_on_from_there() {
    let rig = Rig::start();
    rig.operator.submit(&texts(0..300));
    let mut request = FindTasksRequest::default();
    let first = rig.operator.control.find_tasks(&request, patient()).unwrap();
    let first = block_on(first).unwrap();
    assert_eq!((first.tasks.len(), first.oldest, first.more), (200, 101, true));
    request.before = first.oldest;
    let second = block_on(rig.operator.control.find_tasks(&request, patient()).unwrap()).unwrap();
    assert_eq!((second.tasks.len(), second.oldest, second.more), (100, 1, false));
    request.state = Some(EnumOrUnknown::from_i32(77));
    let refused = status_of(block_on(rig.operator.control.find_tasks(&request, patient()).unwrap()));
    assert_eq!(refused.unwrap_err().code(), RpcStatusCode::INVALID_ARGUMENT);
}
