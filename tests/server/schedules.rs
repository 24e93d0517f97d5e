//! Schedules of the real server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use contact::wire::control as pb;
use futures::executor::block_on;
use grpcio::RpcStatusCode as Code;

use crate::common::DEADLINE;
use crate::common::server::Server;
use crate::rig::{Operator, Rig, patient, status_of};

fn every(name: &str, millis: u64, missed: pb::Missed) -> pb::SetScheduleRequest {
    let task = pb::NewTask { task: name.into(), to: "workers".into(), ..Default::default() };
    pb::SetScheduleRequest {
        name: name.into(),
        every_ms: millis,
        missed: missed.into(),
        task: Some(task).into(),
        ..Default::default()
    }
}

fn cron(name: &str, expression: &str, zone: &str) -> pb::SetScheduleRequest {
    pb::SetScheduleRequest {
        cron: expression.into(),
        zone: zone.into(),
        every_ms: 0,
        ..every(name, 0, pb::Missed::SKIP)
    }
}

fn try_set(
    operator: &Operator,
    request: &pb::SetScheduleRequest,
) -> Result<pb::SetScheduleResponse, grpcio::RpcStatus> {
    status_of(operator.control.set_schedule(request, patient()).and_then(block_on))
}

/// The moments of the tasks of each schedule, when it has so many.
#[track_caller]
fn moments(operator: &Operator, names: &[&str], count: usize) -> BTreeMap<String, Vec<i64>> {
    let until = Instant::now() + DEADLINE;
    loop {
        let mut all: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for task in operator.tasks_now() {
            all.entry(task.schedule).or_default().push(task.schedule_moment);
        }
        if names.iter().all(|name| all.get(*name).is_some_and(|moments| moments.len() >= count)) {
            return all;
        }
        assert!(Instant::now() < until, "{all:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn each_moment_has_one_task_however_often_the_server_is_killed() {
    let mut server = Server::start(&[]);
    let mut operator = Operator::of(&server.control);
    let names = ["skips", "catches-up"];
    for (name, missed) in names.into_iter().zip([pb::Missed::SKIP, pb::Missed::ALL]) {
        try_set(&operator, &every(name, 1_000, missed)).unwrap();
    }
    for kill in 1..=4 {
        moments(&operator, &names, 2 * kill);
        server.kill();
        // What a server that is away for less than a minute makes later, it makes all the same.
        server.restart();
        operator = Operator::of(&server.control);
    }
    let all = moments(&operator, &names, 10);
    for name in names {
        let moments = &all[name];
        assert!(moments.windows(2).all(|two| two[1] - two[0] == 1_000), "{name}: {moments:?}");
    }
    let tasks = operator.tasks_now();
    let keys: std::collections::BTreeSet<&str> = tasks.iter().map(|task| task.key.as_str()).collect();
    assert_eq!(keys.len(), tasks.len(), "and each a key of its own");
    assert!(tasks[0].key.starts_with("schedule/") && tasks[0].key.ends_with('Z'), "{}", tasks[0].key);
}

#[test]
fn what_a_schedule_is_to_do_goes_out_as_it_was_said() {
    let rig = Rig::start();
    let mut worker = rig.member("workers", "w").tasks();
    let mut request = every("says", 1_000, pb::Missed::ONCE);
    let task = request.task.as_mut().unwrap();
    task.headers.insert("a".into(), "b".into());
    (task.data, task.ttl_ms, task.max_attempts) = (vec![0, 255], Some(60_000), 2);
    task.priority = pb::Priority::HIGH.into();
    let set = try_set(&rig.operator, &request).unwrap();
    assert!(set.is_new && set.changed.is_empty(), "{set}");
    let came = worker.next();
    assert_eq!(
        (came.task.as_str(), came.data.as_slice(), &came.headers["a"]),
        ("says", &[0, 255][..], &"b".to_owned())
    );
    let kept = rig.operator.tasks_now().remove(0);
    assert_eq!((kept.schedule.as_str(), kept.schedule_moment), ("says", set.schedule.next[0]));
    assert_eq!((kept.max_attempts, kept.priority), (2, pb::Priority::HIGH.into()));
    assert!((60_000..61_000).contains(&(kept.expires_at - kept.schedule_moment)), "{kept}");
    let shown = pb::GetScheduleRequest { name: "says".into(), moments: 3, ..Default::default() };
    let shown = block_on(rig.operator.control.get_schedule(&shown, patient()).unwrap()).unwrap();
    assert!(shown.next.windows(2).all(|two| two[1] - two[0] == 1_000) && shown.next.len() == 3, "{shown}");
    assert_eq!((shown.data_size, shown.task.data.len()), (2, 0), "its data is not shown with it");
}

#[test]
fn a_schedule_that_makes_no_sense_is_refused_with_what_to_do() {
    let rig = Rig::start();
    let with = |set: fn(&mut pb::NewTask)| {
        let mut request = every("x", 1_000, pb::Missed::SKIP);
        set(request.task.as_mut().unwrap());
        request
    };
    for (request, reason) in [
        (every("x", 0, pb::Missed::SKIP), "SCHEDULE_INVALID"),
        (every("x", 999, pb::Missed::SKIP), "SCHEDULE_INVALID"),
        (every("x", u64::MAX, pb::Missed::SKIP), "SCHEDULE_INVALID"),
        (pb::SetScheduleRequest { every_ms: 1_000, ..cron("x", "0 3 * * *", "") }, "SCHEDULE_INVALID"),
        (pb::SetScheduleRequest { zone: "UTC".into(), ..every("x", 1_000, pb::Missed::SKIP) }, "SCHEDULE_INVALID"),
        (cron("x", "0 3 * *", ""), "SCHEDULE_INVALID"),
        (cron("x", "0 0 30 2 *", ""), "SCHEDULE_INVALID"),
        (cron("x", "0 3 * * *", "Europe/Berln"), "SCHEDULE_INVALID"),
        (every(&"x".repeat(201), 1_000, pb::Missed::SKIP), "SCHEDULE_INVALID"),
        (with(|task| task.key = "k".into()), "SCHEDULE_INVALID"),
        (with(|task| task.not_before = 1), "SCHEDULE_INVALID"),
        (with(|task| task.expires_at = i64::MAX), "SCHEDULE_INVALID"),
        (with(|task| (task.delay_ms, task.ttl_ms) = (Some(2), Some(1))), "WINDOW_EMPTY"),
        (with(|task| task.task.clear()), "TASK_EMPTY"),
        (with(|task| task.retry = "often".into()), "RETRY_INVALID"),
        (with(|task| task.groups = vec!["nobody".into()]), "GROUP_UNKNOWN"),
        (every("", 1_000, pb::Missed::SKIP), "NAME_INVALID"),
        (every(" x", 1_000, pb::Missed::SKIP), "NAME_INVALID"),
        (pb::SetScheduleRequest::new(), "NAME_INVALID"),
    ] {
        let status = try_set(&rig.operator, &request).unwrap_err();
        assert_eq!(crate::conventions::reason(&status), reason, "{request}: {status:?}");
    }
    let unknown = pb::RunScheduleRequest { name: "x".into(), ..Default::default() };
    let status = status_of(rig.operator.control.run_schedule(&unknown, patient()).and_then(block_on)).unwrap_err();
    assert_eq!((status.code(), crate::conventions::reason(&status).as_str()), (Code::NOT_FOUND, "SCHEDULE_UNKNOWN"));
    let none = block_on(rig.operator.control.list_schedules(&Default::default(), patient()).unwrap()).unwrap();
    assert_eq!(none.schedules, []);
}

#[test]
fn the_tasks_of_a_demo_are_schedules_which_go_with_it() {
    let mut rig = Rig::with(|config| config.demo = Some(Duration::from_secs(3600)));
    let list = |operator: &Operator| {
        let listed = block_on(operator.control.list_schedules(&Default::default(), patient()).unwrap()).unwrap();
        listed.schedules.into_iter().map(|one| one.name).collect::<Vec<_>>()
    };
    let names: Vec<String> = list(&rig.operator);
    assert!(names.len() == 10 && names.iter().all(|name| name.starts_with("demo-")), "{names:?}");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(moments(&rig.operator, &names, 1).len(), 10);
    try_set(&rig.operator, &every("mine", 3_600_000, pb::Missed::SKIP)).unwrap();
    rig.restart();
    assert_eq!(list(&rig.operator).len(), 11);
    assert_eq!(moments(&rig.operator, &names, 2).len(), 10, "a start makes them at once");
    rig.config.demo = None;
    rig.restart();
    assert_eq!(list(&rig.operator), ["mine"]);
}
