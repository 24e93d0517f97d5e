//! What a peer tells: how much of it is stored, and for what it counts.

use std::time::{Duration, Instant};

use contact::wire::contact::{Outcome, Result as Told, ServerMsg};
use contact::wire::control::Outcome as Logged;
use grpcio::RpcStatusCode as Code;

use crate::common::DEADLINE;
use crate::common::disk::SmallDisk;
use crate::rig::{Client, Rig, done, to, told};

const MIB: u64 = 1 << 20;

fn stored(answer: &str) -> bool {
    answer.starts_with("服务端接收到消息:")
}

#[test]
fn of_a_flood_of_statuses_few_are_stored_and_the_stream_goes_on_and_others_are_heard() {
    let rig = Rig::start();
    let loud = rig.named("loud");
    let mut statuses = loud.statuses();
    let began = Instant::now();
    let mut kept = 0;
    for n in 0..3_000 {
        assert!(statuses.say(&format!("{n}")));
        let answer = statuses.whole_answer().unwrap();
        if stored(&answer.ret) {
            kept += 1;
        } else {
            assert!(answer.ret.contains("STATUS_RATE"), "{}", answer.ret);
            assert_eq!(answer.outcome, Outcome::RETRY.into());
            assert!((1..=100).contains(&answer.delay_ms), "{}", answer.delay_ms);
        }
    }
    let most = 100 + 10 * (began.elapsed().as_secs() + 1);
    assert!((100..=most).contains(&kept), "{kept} of 3000 were stored, at most {most} may be");
    // What is known of it goes by its id, not by its connection.
    let mut again = rig.named("loud").statuses();
    for _ in 0..20 {
        assert!(again.say("again"));
        kept += u64::from(stored(&again.answer().unwrap()));
    }
    assert!(kept <= 100 + 10 * (began.elapsed().as_secs() + 1));
    let mut other = rig.named("other").statuses();
    assert!(other.say("I am well"));
    assert!(stored(&other.answer().unwrap()));
    assert_eq!(rig.operator.statuses_now().len() as u64, kept + 1);
}

#[test]
fn a_disk_at_its_floor_takes_what_comes_of_tasks_and_nothing_else_until_there_is_room() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let rig = Rig::with(|config| {
        config.data = disk.path().join("data");
        config.retention.min_free = Some(16 * MIB);
    });
    let worker = rig.member("g", "w");
    let mut tasks = worker.tasks();
    rig.operator.submit_all((0..4).map(|n| to("g", &n.to_string())).collect());
    let given = tasks.take(4);
    let mut statuses = worker.statuses();
    let mut try_status = || {
        assert!(statuses.say("well"));
        statuses.whole_answer().unwrap()
    };

    disk.fill(12 * MIB);
    let answer = try_status();
    assert!(answer.ret.contains("DISK_LOW") && !stored(&answer.ret), "{}", answer.ret);
    assert_eq!(answer.outcome, Outcome::RETRY.into());
    rig.operator.submit_all(vec![to("g", "4")]);
    let fifth = tasks.next();
    worker.tell([done(&given[0])]);

    let filler = disk.fill(6 * MIB);
    let refused = rig.operator.try_submit(vec![to("g", "5")]).unwrap_err();
    assert_eq!(refused.code(), Code::UNAVAILABLE);
    assert!(refused.message().contains("are left on the disk of"), "{}", refused.message());
    worker.tell([&given[1], &given[2], &given[3], &fifth].map(done));
    // The second time it is late, and changes nothing.
    worker.tell([done(&given[1])]);
    let results = rig.operator.results_now();
    assert_eq!(results.iter().map(|result| result.task_id).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);

    std::fs::remove_file(filler).unwrap();
    assert!(stored(&try_status().ret), "without a restart");
    rig.operator.submit_all(vec![to("g", "6")]);
    assert_eq!(tasks.next().task, "6");
}

#[test]
fn a_server_that_filled_its_disk_removes_what_may_go_and_takes_tasks_again_by_itself() {
    for min_free in [None, Some(0)] {
        let Some(disk) = SmallDisk::mount(48) else { return };
        let rig = Rig::with(|config| {
            config.data = disk.path().join("data");
            config.retention.min_free = min_free;
            config.retention.retain_bytes = Some(4 * MIB);
            config.retention.every = Duration::from_secs(3);
        });
        // Anonymous clients are owed nothing, so all of it may go.
        let text = "x".repeat(100_000);
        let submit = || rig.operator.try_submit(vec![to("", &text); 20]);
        let refused = (0..).find_map(|n| {
            assert!(n < 1_000, "two gigabytes do not fit");
            submit().err()
        });
        assert_eq!(refused.unwrap().code(), Code::UNAVAILABLE);
        let deadline = Instant::now() + DEADLINE;
        while let Err(status) = submit() {
            assert!(Instant::now() < deadline, "{status:?}, {} bytes are free", disk.free());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A client of group `g` that is given receipts.
fn member(rig: &Rig, name: &str) -> Client {
    rig.member("g", name).saying("contact-receipts", "1")
}

/// What a client tells that has the receipt.
fn with_receipt(of: &ServerMsg, outcome: Outcome) -> Told {
    Told { receipt: of.receipt.clone(), ..told(of, outcome, "") }
}

/// What is written down of a task in `g`, and whether it is late.
fn log(rig: &Rig, task: u64) -> Vec<(Logged, bool)> {
    let of_task = rig.operator.results_now().into_iter().filter(|result| result.task_id == task && result.group == "g");
    of_task.map(|result| (result.outcome.unwrap(), result.late)).collect()
}

#[test]
fn nobody_settles_postpones_or_renews_a_task_by_its_number_and_a_name() {
    let mut rig = Rig::with(|config| config.broker.ack_timeout = Duration::from_secs(3));
    let owner = member(&rig, "owner");
    let mut tasks = owner.tasks();
    let id = rig.operator.submit_all((0..3).map(|n| to("g", &n.to_string())).collect());
    let given = tasks.take(3);
    assert!(given.iter().all(|task| task.receipt.len() == 16));
    let strangers = [
        rig.client(&[]),
        // In its name, from elsewhere.
        rig.member("g", "owner"),
        rig.member("g", "evil"),
        rig.client(&[("contact-group", "g")]),
        // An id that is the group's name.
        rig.named("g"),
    ];
    let forgeries = [vec![], vec![0; 16], given[1].receipt.clone(), given[0].receipt[1..].to_vec(), vec![7; 100_000]];
    for stranger in &strangers {
        for receipt in &forgeries {
            for outcome in [Outcome::DONE, Outcome::FAILED, Outcome::RETRY, Outcome::WORKING, Outcome::RELEASED] {
                let delay_ms = if outcome == Outcome::RETRY { u32::MAX } else { 0 };
                let forged =
                    |attempt| Told { attempt, delay_ms, receipt: receipt.clone(), ..told(&given[0], outcome, "") };
                stranger.tell([forged(1), forged(0)]);
            }
        }
    }
    // On a busy machine the lease of the owner may be over meanwhile: the server says that, and no stranger.
    let counts = |(outcome, late): &(Logged, bool)| !late && *outcome != Logged::TIMED_OUT;
    assert!(!log(&rig, id).iter().any(counts), "{:?}", log(&rig, id));
    // A receipt is good for its delivery alone, and after a restart, too.
    rig.restart();
    let again = member(&rig, "owner");
    again.tell([with_receipt(&given[0], Outcome::DONE)]);
    assert_eq!(log(&rig, id).last(), Some(&(Logged::DONE, false)));
    again.tell([Told { id: given[1].id, ..with_receipt(&given[0], Outcome::FAILED) }]);
    assert_eq!(log(&rig, id + 1), [(Logged::FAILED, true)]);
    // Nobody renewed them: they come again.
    let mut tasks = again.tasks();
    let next = tasks.take(2);
    assert_eq!(next.iter().map(|task| (task.id, task.attempt)).collect::<Vec<_>>(), [(id + 1, 2), (id + 2, 2)]);
    assert_ne!(next[0].receipt, given[1].receipt);
    // And a receipt that is replayed is that of a delivery which is over.
    let before = log(&rig, id + 1).len();
    again.tell([with_receipt(&given[1], Outcome::FAILED), with_receipt(&given[1], Outcome::RETRY)]);
    assert_eq!(log(&rig, id + 1)[before..], [(Logged::FAILED, true), (Logged::RETRY, true)]);
    again.tell([with_receipt(&next[0], Outcome::DONE)]);
    assert_eq!(log(&rig, id + 1).last(), Some(&(Logged::DONE, false)));
}

#[test]
fn a_backlog_cannot_be_settled_by_counting() {
    let rig = Rig::with(|config| config.broker.restart_grace = Duration::ZERO);
    let worker = rig.member("g", "w").saying("contact-window", "1");
    let mut tasks = worker.tasks();
    let id = rig.operator.submit_all((0..20).map(|n| to("g", &n.to_string())).collect());
    let mut first = tasks.next();
    let evil = rig.member("g", "evil");
    evil.tell((id..id + 20).map(|id| Told { id, attempt: 1, outcome: Outcome::FAILED.into(), ..Told::default() }));
    for n in 0..20 {
        assert_eq!(first.id, id + n, "all of them still go out");
        worker.tell([done(&first)]);
        if n < 19 {
            first = tasks.next();
        }
    }
}

#[test]
fn who_lost_its_id_to_another_still_tells_what_it_did() {
    let rig = Rig::start();
    let owner = member(&rig, "w").saying("contact-instance", "honest");
    let mut tasks = owner.tasks();
    let id = rig.operator.submit_all(vec![to("g", "work")]);
    let given = tasks.next();
    let thief = member(&rig, "w").saying("contact-instance", "thief");
    let mut stolen = thief.tasks();
    assert_eq!(tasks.end().code(), Code::ABORTED);
    let second = stolen.next();
    assert_eq!((second.id, second.attempt), (id, 2));
    // The thief has no receipt of the first delivery.
    thief.tell([Told { attempt: 1, ..with_receipt(&second, Outcome::DONE) }]);
    assert!(log(&rig, id).iter().all(|(outcome, late)| *outcome != Logged::DONE || *late), "{:?}", log(&rig, id));
    owner.tell([with_receipt(&given, Outcome::DONE)]);
    assert_eq!(log(&rig, id).last(), Some(&(Logged::DONE, false)));
}
