//! The broker's state machine, as clients and operators see it.
//!
//! First what is promised, one sentence a test. At the end random lives: a model checks every step of them, and that in the
//! end, when everybody behaves, every task is settled. `cargo test` lives a few hundred; for a night's run:
//!
//! ```text
//! PROPTEST_CASES=200000 cargo test --test pure any_life
//! ```

mod lanes;
mod model;
mod ops;
mod replacing;
mod runs;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use contact::attachment::{Attachment, Headers};
use contact::attempts::Attempts;
use contact::broker::{
    Action, Closed, Config, Core, Delivery, DrainError, GroupError, Held, Holder, Join, JoinError, LONGEST_NOTE,
    MOST_DRAINS, MOST_KNOWN, MOST_LATE, MOST_WATCHED, OutcomeReport, Piece, Quota, Receipt, Reporter, Resume,
    RevokeReason, SessionId, Standing, StartAt, Undelivered,
};
use contact::group_limits::GroupLimits;
use contact::labels::Labels;
use contact::now::{Now, Steady};
use contact::retry::{Retry, RetryPolicy};
use contact::store::{Checkpoint, GroupState, LanePlace, OpenTask, Positions, Recovered};
use contact::task::{Audience, Name, NameOf, NewTask, Outcome, Priority, Task, TaskId, Time};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use model::Logged;
use world::{Read, START, World, name, outcome_report};

const ACK_TIMEOUT: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
/// What [`Config::default`] has it.
const RESTART_GRACE: Duration = Duration::from_secs(5);
/// How long a client whose stream broke may take to say that it is still at work.
const GRACE: Duration = Duration::from_secs(5);

fn world() -> World {
    world_of(Config::default().groups_from)
}

/// One where groups that are new start there.
fn world_of(groups_from: StartAt) -> World {
    World::new(Config {
        groups_from,
        ack_timeout: ACK_TIMEOUT,
        max_attempts: 4,
        window: 3,
        retry: Retry::AT_ONCE,
        ..Config::default()
    })
}

fn anonymous(peer: &str) -> Join {
    Join { peer: peer.into(), ..Join::default() }
}

/// A client that is a group of its own.
fn client(id: &str) -> Join {
    Join { client: Some(name(id)), from: Some(StartAt::First), ..anonymous(id) }
}

/// One of the workers of group `g`.
fn worker(id: &str) -> Join {
    Join { group: Some(name("g")), ..client(id) }
}

fn of_process(join: Join, instance: &str) -> Join {
    Join { instance: Some(name(instance)), ..join }
}

fn task(text: &str) -> NewTask {
    NewTask { text: text.into(), ..NewTask::default() }
}

/// The tasks that this stream got, in order.
fn got(world: &World, stream: SessionId) -> Vec<TaskId> {
    world.streams[&stream].got.iter().map(|(task, _)| *task).collect()
}

/// With attempts.
fn attempts(world: &World, stream: SessionId) -> &[(TaskId, u32)] {
    &world.streams[&stream].got
}

fn outcomes(world: &World, task: TaskId) -> Vec<Outcome> {
    let results = world.model.log.iter().filter_map(Logged::result);
    results.filter(|result| result.task == task && !result.late).map(|result| result.outcome).collect()
}

// ---- who gets what

#[test]
fn every_named_client_gets_every_broadcast() {
    let mut world = world();
    let (a, b) = (world.join(client("a")), world.join(client("b")));
    let task = world.broadcast("for all");
    assert_eq!((got(&world, a), got(&world, b)), (vec![task], vec![task]));
}

#[test]
fn workers_of_one_group_share_its_tasks() {
    let mut world = world();
    let (one, two) = (world.join(worker("one")), world.join(worker("two")));
    let tasks: Vec<_> = (0..6).map(|_| world.broadcast("work")).collect();
    let mut all = [got(&world, one), got(&world, two)].concat();
    all.sort_unstable();
    assert_eq!(all, tasks);
    assert_eq!(got(&world, one).len(), 3, "evenly");
}

#[test]
fn before_a_stop_nothing_goes_out_any_more_and_results_are_heard() {
    let mut world = World::new(Config { max_attempts: 1, window: 1, retry: Retry::AT_ONCE, ..Config::default() });
    let before = world.join(worker("one"));
    let (first, second) = (world.broadcast("now"), world.broadcast("later"));
    world.begin_stop();
    world.done(before, first);
    world.broadcast("later still");
    assert_eq!(got(&world, before), [first]);
    world.restart();
    let after = world.join(worker("one"));
    assert_eq!(attempts(&world, after), [(second, 1)], "no attempt is used up by what went to nobody");
}

#[test]
fn while_it_is_held_nothing_goes_out_and_all_else_goes_on() {
    let mut core = Core::new(Config { window: 1, ..Config::default() }, Recovered::default(), START);
    let delivered = |core: &mut Core| -> Vec<TaskId> {
        let actions = core.take_actions(START).into_iter().filter_map(|action| match action {
            Action::Deliver(_, deliveries) => Some(deliveries),
            _ => None,
        });
        actions.flatten().map(|delivery| delivery.task.id).collect()
    };
    let accepted = |id| vec![Arc::new(Task { id, accepted_at: START.wall, spec: task("work") })];
    core.hold();
    assert!(!core.holds_something());
    core.join(Join { from: Some(StartAt::New), ..worker("one") }, 1, START).unwrap();
    core.committed([accepted(1), accepted(2)].concat(), START);
    assert!(delivered(&mut core).is_empty());
    assert!(core.holds_something());
    core.end_hold(START);
    assert_eq!(delivered(&mut core), [1]);
}

#[test]
fn an_addressed_task_waits_for_a_group_that_has_not_come_yet() {
    let mut world = world();
    let other = world.join(client("other"));
    let task = world.address("late", "for you");
    let late = world.join(Join { from: Some(StartAt::New), ..client("late") });
    assert_eq!(got(&world, late), [task]);
    assert!(got(&world, other).is_empty());
}

#[test]
fn a_group_that_is_new_starts_at_the_next_broadcast_unless_its_first_client_asks_for_what_is_kept() {
    let new = |id| Join { from: None, ..client(id) };
    let mut world = world();
    let (before, addressed) = (world.broadcast("before"), world.address("a", "for you"));
    let a = world.join(new("a"));
    let after = world.broadcast("after");
    assert_eq!(got(&world, a), [addressed, after], "what is addressed waits in any case");
    let b = world.join(Join { from: Some(StartAt::First), ..new("b") });
    assert_eq!(got(&world, b), [before, after]);
    // Where it starts is said once, for good.
    world.leave(a);
    world.restart();
    let a = world.join(Join { from: Some(StartAt::First), ..new("a") });
    assert_eq!(got(&world, a), [addressed, after]);
}

/// A client that says what it is.
fn labelled(id: &str, labels: &str) -> Join {
    Join { labels: labels.parse().unwrap(), ..client(id) }
}

fn selecting(selector: &str) -> NewTask {
    NewTask { audience: Some(Arc::new(Audience::Matching(selector.parse().unwrap()))), ..task(selector) }
}

fn for_groups(names: &[&str]) -> NewTask {
    let audience = Audience::groups(names.iter().map(|group| name(group)).collect());
    NewTask { audience: Some(Arc::new(audience)), ..task("for some") }
}

/// Why a task was not for groups, by the name of each.
fn not_for(world: &World, task: TaskId) -> Vec<(String, String)> {
    let results = world.model.log.iter().filter_map(Logged::result);
    let of_it = results.filter(|result| result.task == task && result.outcome == Outcome::NotSelected);
    let mut whys: Vec<_> =
        of_it.map(|result| (result.group.clone().unwrap().to_string(), result.ret.clone())).collect();
    whys.sort_unstable();
    whys
}

fn why(group: &str, text: &str) -> (String, String) {
    (group.into(), text.into())
}

#[test]
fn a_broadcast_with_a_selector_is_for_the_groups_whose_labels_match_when_they_come_to_it() {
    let mut world = world();
    let web = world.join(labelled("web", "os=linux,role=web"));
    let db = world.join(labelled("db", "os=linux,role=db"));
    let none = world.join(client("none"));
    let task = world.submit(selecting("os=linux,role in (web,api)"));
    assert_eq!((got(&world, web), got(&world, db), got(&world, none)), (vec![task], vec![], vec![]));
    let whys = [why("db", "role in (web,api): role is db"), why("none", "os=linux: there is no os")];
    assert_eq!(not_for(&world, task), whys);
    // What was given stays so, whatever the labels become; what was not, too.
    world.leave(web);
    world.leave(db);
    let (web, db) = (world.join(labelled("web", "")), world.join(labelled("db", "os=linux,role=web")));
    world.wait(GRACE);
    assert_eq!(attempts(&world, web), [(task, 2)]);
    assert_eq!(got(&world, db), Vec::<TaskId>::new());
    world.done(web, task);
    assert_eq!(not_for(&world, task), whys, "each group decides once");
    // One whose client has no room decides when it has.
    let busy = world.join(Join { window: Some(1), ..labelled("busy", "os=mac") });
    let first = world.broadcast("first");
    let later = world.submit(selecting("os=linux"));
    assert_eq!((got(&world, busy).last(), not_for(&world, later).len()), (Some(&first), 2));
    world.done(busy, first);
    assert!(not_for(&world, later).contains(&why("busy", "os=linux: os is mac")));
    world.finish();
}

#[test]
fn labels_are_kept_with_the_group_while_its_clients_are_away_and_across_a_restart() {
    let mut world = world();
    let matching = |world: &World, selector: &str| -> Vec<String> {
        world.core.matching(&selector.parse().unwrap()).iter().map(ToString::to_string).collect()
    };
    for (id, labels) in [("a", "os=linux"), ("b", "os=mac"), ("c", "os=linux,canary")] {
        let session = world.join(labelled(id, labels));
        world.leave(session);
    }
    assert_eq!(matching(&world, "os=linux"), ["a", "c"]);
    assert_eq!(matching(&world, "!canary"), ["a", "b"]);
    let task = world.submit(selecting("os=linux"));
    assert_eq!(not_for(&world, task), [], "nobody is there to come to it");
    // Nothing was delivered: labels alone are worth a checkpoint, a second later.
    world.wait(SECOND);
    world.sync();
    world.crash(0);
    assert_eq!(matching(&world, "os"), ["a", "b", "c"]);
    // Whoever is back says anew what it is.
    let (a, b) = (world.join(labelled("a", "")), world.join(labelled("b", "os=linux")));
    assert_eq!((got(&world, a), got(&world, b)), (vec![], vec![task]));
    assert_eq!(not_for(&world, task), [why("a", "os=linux: there is no os")]);
    assert_eq!(matching(&world, "os=linux"), ["b", "c"]);
    world.finish();
}

/// Who is known: its id, whether it is here, and how many seconds ago it was seen.
fn known(world: &World) -> Vec<(String, bool, u64)> {
    let known = world.core.known(world.now).into_iter();
    known.map(|it| (it.client.to_string(), it.here, world.now.wall.since(it.last_seen).as_secs())).collect()
}

#[test]
fn who_was_here_is_known_across_a_restart_and_missing_after_three_days() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let one = |id: &str, here, ago| (id.to_owned(), here, ago);
    let missing = |world: &World| -> Vec<_> {
        let mut missing = world.core.missing(world.now);
        missing.sort();
        missing.into_iter().map(|(client, _)| client.to_string()).collect()
    };
    let mut world = world();
    let about = Join { version: Some(name("1.0")), system: Some(name("linux")), ..labelled("a", "os=linux") };
    let (a, w, b) = (world.join(about), world.join(worker("w")), world.join(client("b")));
    world.join(anonymous("1.2.3.4:5"));
    let drained = world.join(client("d"));
    for session in [a, w, drained] {
        world.leave(session);
    }
    world.drain("d", None).unwrap();
    world.wait(5 * SECOND);
    let expected = [one("a", false, 5), one("b", true, 0), one("d", false, 5), one("w", false, 5)];
    assert_eq!(known(&world), expected);
    world.sync();
    world.crash(0);
    world.wait(3 * DAY);
    let three_days = [("a", 5), ("b", 0), ("d", 5), ("w", 5)].map(|(id, more)| one(id, false, 3 * 86_400 + more));
    assert_eq!(known(&world), three_days, "who was here when it was killed was seen until then");
    let first = &world.core.known(world.now)[0];
    assert_eq!((first.labels.to_string(), first.version.clone()), ("os=linux".into(), Some(name("1.0"))));
    assert_eq!(missing(&world), ["a"], "not who shares a group, who is drained, or was here three days ago");
    world.wait(SECOND);
    assert_eq!(missing(&world), ["a", "b"]);
    world.join(client("b"));
    assert_eq!(missing(&world), ["a"]);
    let _ = b;
    // Forgotten with its group, or when it was not seen for long.
    assert!(world.remove_group("a"));
    assert_eq!(world.core.forget_clients(world.now.wall, world.now), 2);
    world.wait(SECOND);
    world.restart();
    assert_eq!(known(&world).iter().map(|(client, ..)| client.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn as_many_clients_are_known_as_may_be_and_who_was_seen_longest_ago_makes_room() {
    let mut core = Core::new(Config { max_groups: usize::MAX, ..Config::default() }, Recovered::default(), START);
    let at = |n: usize| START.after(Duration::from_millis(n as u64));
    let come = |core: &mut Core, n: usize| {
        core.join(worker(&format!("w{n:06}")), n as SessionId + 1, at(n)).unwrap();
    };
    for n in 0..=MOST_KNOWN {
        come(&mut core, n);
        if n != 0 && n != MOST_KNOWN {
            core.leave(n as SessionId + 1, at(n));
        }
    }
    let known = core.known(at(MOST_KNOWN));
    assert_eq!(known.len(), MOST_KNOWN);
    // The first is here still; of the others the oldest went.
    assert_eq!((known[0].client.as_str(), known[1].client.as_str()), ("w000000", "w000002"));
}

#[test]
fn an_anonymous_client_gets_what_its_labels_match() {
    let mut world = world();
    let linux = world.join(Join { labels: "os=linux".parse().unwrap(), ..anonymous("1.2.3.4:5") });
    let other = world.join(anonymous("1.2.3.4:6"));
    let (selected, _) = (world.submit(selecting("os=linux")), world.submit(for_groups(&["a", "b"])));
    let all = world.broadcast("for all");
    assert_eq!((got(&world, linux), got(&world, other)), (vec![selected, all], vec![all]));
    assert_eq!(not_for(&world, selected), [], "it is in no ledger");
    world.finish();
}

#[test]
fn a_task_for_several_groups_goes_to_these_and_costs_the_others_nothing() {
    let mut world = world();
    let (a, b, c) = (world.join(client("a")), world.join(client("b")), world.join(client("c")));
    let task = world.submit(for_groups(&["c", "a", "c"]));
    assert_eq!((got(&world, a), got(&world, b), got(&world, c)), (vec![task], vec![], vec![task]));
    world.done(a, task);
    world.done(c, task);
    assert_eq!(world.core.groups(world.now)[1].lag, 0);
    // Groups that have a backlog pass it when they come to it.
    world.leave(a);
    world.leave(b);
    let (first, some, last) = (world.broadcast("1"), world.submit(for_groups(&["a", "d"])), world.broadcast("2"));
    let lags = |world: &World| world.core.groups(world.now).iter().map(|group| group.lag).collect::<Vec<_>>();
    assert_eq!(lags(&world), [3, 3, 2], "until then it is counted");
    let (a, b) = (world.join(client("a")), world.join(client("b")));
    assert_eq!((got(&world, a), got(&world, b)), (vec![first, some, last], vec![first, last]));
    assert_eq!(lags(&world), [3, 2, 2]);
    assert_eq!(world.cancel(some).groups(), 1, "nobody else had it");
    world.finish();
}

#[test]
fn where_groups_start_can_be_set() {
    let mut world = world_of(StartAt::First);
    let before = world.broadcast("before");
    let a = world.join(Join { from: None, ..client("a") });
    assert_eq!(got(&world, a), [before]);
}

#[test]
fn an_anonymous_client_gets_everything_each_time_it_connects_and_owes_no_answer() {
    let mut world = world();
    let tasks: Vec<_> = (0..10).map(|_| world.broadcast("news")).collect();
    world.address("somebody", "private");
    for _ in 0..2 {
        let stream = world.join(anonymous("1.2.3.4:5"));
        assert_eq!(got(&world, stream), tasks);
        world.leave(stream);
    }
    assert!(world.model.log.is_empty(), "nothing is in the log of outcomes");
}

#[test]
fn anonymous_clients_can_be_put_into_one_work_queue() {
    let mut world = World::new(Config { anonymous_group: Some(name("all")), ..world().config });
    let (one, two) = (world.join(anonymous("one")), world.join(anonymous("two")));
    world.broadcast("a");
    world.broadcast("b");
    let (of_one, of_two) = (got(&world, one), got(&world, two));
    assert_eq!((of_one.len(), of_two.len()), (1, 1));
    assert_ne!(of_one, of_two);
    let result = world.report(&world.reporter(two), outcome_report(0, 0, Outcome::Done)).unwrap();
    assert_eq!((result.task, result.late), (of_two[0], false));
}

// ---- in what order

#[test]
fn high_goes_before_normal_and_normal_before_low() {
    let mut world = world();
    let of = |priority| NewTask { priority, ..task("a") };
    world.accept(vec![of(Priority::Low), of(Priority::Normal), of(Priority::High), of(Priority::Normal)]);
    world.announce();
    let a = world.join(Join { window: Some(9), ..client("a") });
    assert_eq!(got(&world, a), [3, 2, 4, 1]);
}

#[test]
fn a_class_waits_for_the_page_of_a_higher_one_that_is_being_read() {
    let mut world = world();
    world.accept(vec![NewTask { priority: Priority::Low, ..task("low") }, task("normal")]);
    world.restart();
    world.eager = false;
    let a = world.join(client("a"));
    while !world.reads.is_empty() {
        let pages = world.reads.iter().filter(|read| matches!(read, Read::Fetch(..))).count();
        assert!(pages <= 1, "one class after the other");
        world.answer(0, true);
    }
    assert_eq!(got(&world, a), [2, 1]);
}

#[test]
fn what_was_given_back_lets_higher_classes_go_first() {
    let mut world = world();
    let a = world.join(Join { window: Some(1), ..client("a") });
    let normal = world.broadcast("normal");
    let high = world.submit(NewTask { priority: Priority::High, ..task("high") });
    world.settle(a, normal, Outcome::Retry);
    assert_eq!(attempts(&world, a), [(normal, 1), (high, 1)]);
}

#[test]
fn what_was_given_back_goes_out_before_what_is_new() {
    let mut world = world();
    let a = world.join(Join { window: Some(1), ..client("a") });
    let (one, two) = (world.broadcast("one"), world.broadcast("two"));
    world.settle(a, one, Outcome::Retry);
    world.done(a, one);
    assert_eq!(attempts(&world, a), [(one, 1), (one, 2), (two, 1)]);
}

#[test]
fn a_backlog_of_many_pages_comes_in_order() {
    let mut world = world();
    world.accept(vec![task("backlog"); 1_000]);
    world.restart();
    let stream = world.join(anonymous("reader"));
    assert_eq!(got(&world, stream), (1..=1_000).collect::<Vec<_>>());
}

#[test]
fn one_page_is_read_at_a_time_and_a_failed_one_is_read_again_after_a_second() {
    let mut world = world();
    world.accept(vec![task("backlog"); 10]);
    world.restart();
    world.eager = false;
    let stream = world.join(anonymous("reader"));
    assert_eq!(world.reads.len(), 1);
    world.answer(0, false);
    assert_eq!(world.reads.len(), 0, "not at once");
    world.wait_for_due();
    world.eager = true;
    world.wait(Duration::ZERO);
    assert_eq!(got(&world, stream).len(), 10);
}

#[test]
fn a_failing_store_does_not_keep_a_lease_from_ending() {
    let mut world = world();
    world.join(Join { window: Some(9), ..client("a") });
    let one = world.broadcast("one");
    world.wait(ACK_TIMEOUT - SECOND / 2);
    world.eager = false;
    world.accept(vec![task("unread")]);
    world.jump();
    world.answer(0, false);
    world.wait_for_due();
    assert_eq!(outcomes(&world, one), [Outcome::TimedOut]);
}

// ---- windows, and clients that do not read

#[test]
fn a_client_holds_no_more_than_its_window() {
    let mut world = world();
    let a = world.join(Join { window: Some(2), ..client("a") });
    for _ in 0..5 {
        world.broadcast("work");
    }
    assert_eq!(got(&world, a), [1, 2]);
    world.done(a, 2);
    assert_eq!(got(&world, a), [1, 2, 3]);
}

#[test]
fn a_newcomer_gets_its_share_at_once() {
    let mut world = world();
    let busy = world.join(worker("busy"));
    for _ in 0..8 {
        world.broadcast("work");
    }
    let new = world.join(worker("new"));
    assert_eq!((got(&world, busy).len(), got(&world, new).len()), (3, 3));
}

#[test]
fn one_that_does_not_read_is_sent_a_bounded_part_and_holds_up_nobody() {
    let mut world = world();
    let large = || task(&"x".repeat(20_000));
    let stuck = world.join(anonymous("stuck"));
    world.streams.get_mut(&stuck).unwrap().slow = true;
    let other = world.join(anonymous("other"));
    world.accept(vec![large(); 50]);
    world.announce();
    assert_eq!((got(&world, stuck).len(), got(&world, other).len()), (4, 50));
    world.read(stuck, 100);
    assert_eq!(got(&world, stuck).len(), 8);
}

#[test]
fn what_was_removed_does_not_go_to_one_that_has_yet_to_read_what_is_before_it() {
    let mut world = world();
    let slow = world.join(anonymous("slow"));
    world.streams.get_mut(&slow).unwrap().slow = true;
    world.accept(vec![task(&"x".repeat(40_000)); 4]);
    world.announce();
    assert_eq!(got(&world, slow), [1, 2]);
    world.core.removed(&[3], world.now);
    world.read(slow, 100);
    assert_eq!(got(&world, slow), [1, 2, 4]);
}

#[test]
fn a_client_that_reads_bit_by_bit_gets_everything() {
    let mut world = world();
    let stream = world.join(anonymous("slow"));
    world.streams.get_mut(&stream).unwrap().slow = true;
    let large = NewTask { attachment: Attachment::new(Headers::default(), vec![7; 1 << 20]), ..task("") };
    world.accept(vec![task(&"x".repeat(60_000)), large, task("last")]);
    world.announce();
    assert_eq!(got(&world, stream), [1, 2], "the large one goes out while there is any room");
    // It read the first: there is no room yet, and there is nobody else to say so later.
    world.read(stream, 5);
    world.read(stream, 100);
    assert_eq!(got(&world, stream), [1, 2, 3]);
}

// ---- what becomes of a task

#[test]
fn done_settles_a_task_for_its_group_alone() {
    let mut world = world();
    let (a, b) = (world.join(client("a")), world.join(client("b")));
    let task = world.broadcast("work");
    assert!(!world.done(a, task).late);
    world.leave(a);
    let again = world.join(client("a"));
    assert!(got(&world, again).is_empty());
    assert!(!world.done(b, task).late);
}

#[test]
fn a_retry_waits_as_long_as_it_was_asked_to() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    let retry = OutcomeReport { delay: 5 * SECOND, ..outcome_report(task, 1, Outcome::Retry) };
    world.report(&world.reporter(a), retry);
    world.wait(4 * SECOND);
    assert_eq!(attempts(&world, a), [(task, 1)]);
    world.wait_for_due();
    assert_eq!(attempts(&world, a), [(task, 1), (task, 2)]);
}

#[test]
fn failed_is_final() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    world.settle(a, task, Outcome::Failed);
    world.restart();
    let a = world.join(client("a"));
    assert_eq!((got(&world, a), outcomes(&world, task)), (vec![], vec![Outcome::Failed]));
}

#[test]
fn a_task_whose_attempts_are_used_up_is_a_dead_letter() {
    let mut world = world();
    let a = world.join(client("a"));
    let id = world.submit(NewTask { max_attempts: Some(2), ..task("work") });
    world.settle(a, id, Outcome::Retry);
    world.wait(ACK_TIMEOUT);
    assert_eq!(attempts(&world, a), [(id, 1), (id, 2)]);
    assert_eq!(outcomes(&world, id), [Outcome::Retry, Outcome::TimedOut, Outcome::Exhausted]);
}

#[test]
fn a_task_that_nobody_took_in_time_expires() {
    let mut world = world();
    let id = world.submit(NewTask { expires_at: Some(world.now.wall.after(SECOND)), ..task("soon") });
    world.wait(SECOND);
    let a = world.join(client("a"));
    assert_eq!((got(&world, a), outcomes(&world, id)), (vec![], vec![Outcome::Expired]));
}

#[test]
fn a_task_is_not_delivered_before_its_time() {
    let mut world = world();
    let a = world.join(client("a"));
    let later = world.submit(NewTask { not_before: Some(world.now.wall.after(SECOND)), ..task("later") });
    let now = world.broadcast("now");
    assert_eq!(got(&world, a), [now]);
    world.wait_for_due();
    assert_eq!(got(&world, a), [now, later]);
}

// ---- leases

#[test]
fn a_lost_stream_gives_its_tasks_to_the_others_at_once() {
    let mut world = world();
    let one = world.join(worker("one"));
    let task = world.broadcast("work");
    let two = world.join(worker("two"));
    world.leave(one);
    assert_eq!(attempts(&world, two), [(task, 2)]);
}

#[test]
fn a_lease_ends_after_the_ack_timeout_and_working_renews_it() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    world.wait(ACK_TIMEOUT - SECOND);
    world.settle(a, task, Outcome::Working);
    world.wait(ACK_TIMEOUT - SECOND);
    assert_eq!(attempts(&world, a), [(task, 1)]);
    world.wait(SECOND);
    assert_eq!(attempts(&world, a), [(task, 1), (task, 2)]);
}

#[test]
fn a_late_done_settles_what_is_not_settled_yet_and_a_later_one_changes_nothing() {
    let mut world = world();
    let one = world.join(worker("one"));
    let task = world.broadcast("work");
    let two = world.join(worker("two"));
    world.wait(ACK_TIMEOUT);
    assert_eq!(attempts(&world, two), [(task, 2)]);
    assert!(!world.report(&world.reporter(one), outcome_report(task, 1, Outcome::Done)).unwrap().late);
    assert!(world.report(&world.reporter(two), outcome_report(task, 2, Outcome::Done)).unwrap().late);
}

#[test]
fn a_late_done_settles_a_task_whose_later_attempt_was_lost() {
    let mut world = world();
    let slow = world.join(worker("slow"));
    let task = world.broadcast("work");
    let two = world.join(worker("two"));
    world.wait(ACK_TIMEOUT);
    assert_eq!(attempts(&world, two), [(task, 2)]);
    world.pause("g", true);
    world.leave(two);
    let done = world.report(&world.reporter(slow), outcome_report(task, 1, Outcome::Done)).unwrap();
    assert_eq!((done.attempt, done.late), (1, false));
    assert_eq!(outcomes(&world, task), [Outcome::TimedOut, Outcome::Lost, Outcome::Done]);
}

#[test]
fn a_late_failed_changes_nothing() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    world.wait(ACK_TIMEOUT);
    assert!(world.report(&world.reporter(a), outcome_report(task, 1, Outcome::Failed)).unwrap().late);
    assert!(!world.report(&world.reporter(a), outcome_report(task, 2, Outcome::Failed)).unwrap().late);
}

#[test]
fn what_is_told_of_the_last_attempt_counts_while_the_task_waits() {
    for outcome in [Outcome::Done, Outcome::Failed, Outcome::Retry] {
        let mut world = world();
        let a = world.join(client("a"));
        let task = world.broadcast("work");
        let reporter = world.reporter(a);
        world.leave(a);
        let result =
            world.report(&reporter, OutcomeReport { delay: SECOND, ..outcome_report(task, 1, outcome) }).unwrap();
        let delayed = (outcome == Outcome::Retry).then_some(world.now.wall.after(SECOND));
        assert_eq!((result.late, result.not_before), (false, delayed));
        let a = world.join(client("a"));
        world.wait(SECOND);
        let again = if outcome == Outcome::Retry { vec![(task, 2)] } else { vec![] };
        assert_eq!(attempts(&world, a), again, "{outcome:?}");
    }
}

#[test]
fn what_is_told_of_an_earlier_attempt_or_of_none_changes_nothing_while_the_task_waits() {
    let mut world = world();
    let a = world.join(client("a"));
    // A normal task that nobody takes keeps the group from being through with everything up to the high one.
    world.accept(vec![task("normal"), NewTask { priority: Priority::High, ..task("high") }]);
    world.announce();
    let reporter = world.reporter(a);
    world.settle(a, 2, Outcome::Retry);
    world.leave(a);
    for attempt in [0, 1, 3] {
        assert!(world.report(&reporter, outcome_report(2, attempt, Outcome::Failed)).unwrap().late);
        world.report(&reporter, outcome_report(2, attempt, Outcome::Working));
    }
    let a = world.join(client("a"));
    assert_eq!(attempts(&world, a), [(2, 3), (1, 2)]);
    world.finish();
}

// ---- the same client again

#[test]
fn the_same_id_takes_over_and_the_old_streams_end_touches_nothing() {
    let mut world = world();
    let old = world.join(client("a"));
    let task = world.broadcast("work");
    let new = world.join(client("a"));
    assert_eq!(world.closed[&old], Closed::TakenOver);
    assert_eq!(attempts(&world, new), [(task, 2)]);
    world.core.leave(old, world.now);
    world.wait(Duration::ZERO);
    let next = world.broadcast("more");
    assert_eq!(attempts(&world, new), [(task, 2), (next, 1)]);
}

#[test]
fn the_same_process_keeps_what_it_holds_if_it_says_so_in_time() {
    let mut world = world();
    world.join(of_process(client("a"), "x"));
    let (kept, lost) = (world.broadcast("kept"), world.broadcast("lost on the way"));
    let new = world.join(of_process(client("a"), "x"));
    assert!(got(&world, new).is_empty());
    world.settle(new, kept, Outcome::Working);
    world.wait(6 * SECOND);
    assert_eq!(attempts(&world, new), [(lost, 2)]);
    world.done(new, kept);
}

#[test]
fn what_it_says_over_the_new_connection_counts_even_if_it_is_heard_before_the_new_stream() {
    let mut world = world();
    let old = world.join(of_process(client("a"), "x"));
    let (kept, lost) = (world.broadcast("kept"), world.broadcast("lost on the way"));
    let reporter = Reporter { peer: "elsewhere".into(), ..world.reporter(old) };
    world.report(&reporter, outcome_report(kept, 1, Outcome::Working));
    let new = world.join(Join { peer: "elsewhere".into(), ..of_process(client("a"), "x") });
    world.wait(6 * SECOND);
    assert_eq!(attempts(&world, new), [(lost, 2)]);
    world.done(new, kept);
}

#[test]
fn another_process_with_the_same_id_gets_the_tasks_again() {
    let mut world = world();
    world.join(of_process(client("a"), "x"));
    let task = world.broadcast("work");
    let new = world.join(of_process(client("a"), "y"));
    assert_eq!(attempts(&world, new), [(task, 2)]);
}

#[test]
fn a_client_whose_stream_broke_keeps_what_it_is_working_on_if_nobody_else_was_given_it() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    let reporter = world.reporter(a);
    world.leave(a);
    // Heard before its new stream: it has some time to come.
    world.report(&reporter, outcome_report(task, 1, Outcome::Working));
    world.wait(4 * SECOND);
    let a = world.join(client("a"));
    assert_eq!(world.core.client(a).unwrap().in_flight, 1, "it counts for its window");
    world.wait(ACK_TIMEOUT - SECOND);
    assert!(got(&world, a).is_empty());
    assert!(!world.report(&reporter, outcome_report(task, 1, Outcome::Failed)).unwrap().late);
}

#[test]
fn who_says_working_and_does_not_come_back_keeps_nobody_waiting() {
    let mut world = world();
    let one = world.join(worker("one"));
    let task = world.broadcast("work");
    let reporter = world.reporter(one);
    world.leave(one);
    world.report(&reporter, outcome_report(task, 1, Outcome::Working));
    let two = world.join(worker("two"));
    world.wait(5 * SECOND);
    assert_eq!(attempts(&world, two), [(task, 2)]);
    assert_eq!(outcomes(&world, task), [Outcome::Lost, Outcome::TimedOut]);
}

#[test]
fn a_client_that_comes_back_for_its_task_when_another_was_given_it_gets_none() {
    let mut world = world();
    let one = world.join(worker("one"));
    let task = world.broadcast("work");
    let reporter = world.reporter(one);
    world.leave(one);
    let two = world.join(worker("two"));
    world.report(&reporter, outcome_report(task, 1, Outcome::Working));
    world.join(worker("one"));
    assert_eq!(attempts(&world, two), [(task, 2)]);
    assert!(!world.done(two, task).late);
}

// ---- acknowledgements without an id

#[test]
fn acknowledgements_without_an_id_are_matched_in_the_order_of_delivery() {
    let mut world = world();
    let stream = world.join(anonymous("article"));
    let tasks: Vec<_> = (0..3).map(|_| world.broadcast("news")).collect();
    let reporter = world.reporter(stream);
    world.reporter_connected(&reporter.peer);
    world.leave(stream);
    for task in tasks {
        let result = world.report(&reporter, outcome_report(0, 0, Outcome::Done)).unwrap();
        assert_eq!((result.task, result.attempt, result.group), (task, 1, None));
    }
    assert_eq!(
        world.report(&reporter, outcome_report(0, 0, Outcome::Done)).unwrap().task,
        0,
        "one too many is kept, too"
    );
}

#[test]
fn of_two_streams_of_one_address_the_deliveries_are_matched_as_they_left() {
    let mut world = World::new(Config { anonymous_group: Some(name("all")), ..world().config });
    let (one, two) = (world.join(anonymous("shared")), world.join(anonymous("shared")));
    world.accept(vec![task("work"); 3]);
    world.announce();
    let left = [got(&world, two), got(&world, one)].concat();
    assert_eq!(left, [1, 3, 2], "all that goes to one stream goes together");
    let reporter = world.reporter(one);
    for task in left {
        assert_eq!(world.report(&reporter, outcome_report(0, 0, Outcome::Done)).unwrap().task, task);
    }
}

#[test]
fn what_never_left_for_a_stream_is_matched_with_nothing() {
    let mut world = World::new(Config { anonymous_group: Some(name("all")), ..world().config });
    let (other, next) = (world.join(anonymous("shared")), world.join(anonymous("shared")));
    // In one burst: it is given to the one whose turn it is, and that one goes.
    world.hold(2);
    world.broadcast("work");
    world.leave(next);
    assert_eq!(attempts(&world, other), [(1, 2)]);
    let result = world.report(&world.reporter(other), outcome_report(0, 0, Outcome::Done)).unwrap();
    assert_eq!((result.task, result.attempt, result.late), (1, 2, false));
}

#[test]
fn an_outcome_of_a_task_that_is_not_there_yet_says_nothing_about_the_one_that_comes() {
    let mut world = world();
    let a = world.join(client("a"));
    assert!(world.settle(a, 1, Outcome::Done).unwrap().late);
    let task = world.broadcast("the first");
    assert_eq!(got(&world, a), [task]);
}

#[test]
fn what_is_told_from_an_address_whose_group_was_removed_is_written_down_all_the_same() {
    let mut world = world();
    let a = world.join(client("a"));
    world.broadcast("work");
    world.reporter_connected(&"a".into());
    world.leave(a);
    world.remove_group("a");
    let nameless = Reporter { client: None, group: None, peer: "a".into() };
    assert_eq!(world.report(&nameless, outcome_report(0, 0, Outcome::Done)).unwrap().task, 1);
}

#[test]
fn what_is_urgent_does_not_wait_for_the_delayed_tasks_of_other_priorities() {
    let mut world = world();
    let at = |priority, seconds: u32| NewTask {
        priority,
        not_before: Some(START.wall.after(seconds * SECOND)),
        ..task("x")
    };
    let a = world.join(Join { window: Some(1), ..client("a") });
    world.accept(vec![at(Priority::Low, 5); 700]);
    world.announce();
    let first = world.broadcast("first");
    world.accept(vec![task("normal"); 300]);
    world.announce();
    let high = world.submit(at(Priority::High, 8));
    world.wait(8 * SECOND);
    world.done(a, first);
    assert_eq!(got(&world, a), [first, high]);
    // Nor does any of the others wait for ever.
    world.finish();
    assert_eq!(got(&world, a).len(), 1002);
}

// ---- what is told counts only from who holds the task

const TOLD: [Outcome; 5] = [Outcome::Done, Outcome::Failed, Outcome::Retry, Outcome::Working, Outcome::Released];

/// One that tells of tasks: its id, its group, its address.
fn teller(client: Option<&str>, group: Option<&str>, peer: &str) -> Reporter {
    Reporter { client: client.map(name), group: group.map(name), peer: peer.into() }
}

/// Tells something past the model, which knows no strangers, and sees that it changes nothing: what is written down is late.
#[track_caller]
fn changes_nothing(world: &mut World, by: &Reporter, report: OutcomeReport) {
    let said = format!("{by:?}: {report:?}");
    let foreign = world.core.foreign();
    world.core.report(by, vec![report], world.now);
    for action in world.core.take_actions(world.now) {
        match action {
            Action::Record(results) => assert!(results.iter().all(|result| result.late), "{said}: {results:?}"),
            Action::Revoke(..) => {}
            other => panic!("{said}: {other:?}"),
        }
    }
    assert_eq!(world.core.foreign(), foreign + 1, "{said}");
}

fn proven(report: OutcomeReport) -> OutcomeReport {
    OutcomeReport { receipt: Receipt::Good, ..report }
}

#[test]
fn what_is_told_of_a_task_by_one_that_does_not_hold_it_changes_nothing() {
    let mut world = world();
    let one = world.join(Join { window: Some(1), ..worker("one") });
    let held = world.broadcast("held");
    let waits = world.broadcast("waits");
    let two = world.join(Join { window: Some(1), ..worker("two") });
    assert_eq!((got(&world, one), got(&world, two)), (vec![held], vec![waits]));
    let backlog = world.broadcast("nobody has it yet");
    let strangers = [
        world.reporter(two),
        teller(None, Some("g"), "elsewhere"),
        teller(Some("evil"), Some("g"), "one"),
        // An id that is the name of the group.
        teller(Some("g"), None, "elsewhere"),
    ];
    for stranger in &strangers {
        for (outcome, attempt) in TOLD.into_iter().flat_map(|outcome| [(outcome, 0), (outcome, 1), (outcome, 7)]) {
            changes_nothing(&mut world, stranger, outcome_report(held, attempt, outcome));
            if outcome.settles() {
                changes_nothing(&mut world, stranger, outcome_report(backlog, attempt, outcome));
            }
        }
    }
    world.wait(ACK_TIMEOUT - SECOND);
    world.settle(two, waits, Outcome::Working);
    world.wait(SECOND);
    assert_eq!(attempts(&world, one), [(held, 1), (held, 2)], "the lease was not renewed by strangers");
    assert!(!world.done(one, held).late);
    assert_eq!(got(&world, one).last(), Some(&backlog));
}

#[test]
fn who_was_given_receipts_is_believed_with_them_and_nobody_without() {
    let mut world = world();
    let one = world.join(Join { receipts: true, ..worker("one") });
    let task = world.broadcast("work");
    let by = world.reporter(one);
    for outcome in TOLD {
        changes_nothing(&mut world, &by, outcome_report(task, 1, outcome));
    }
    // Nor with a wrong one, which is worse than none.
    let forged = OutcomeReport { receipt: Receipt::Bad, ..outcome_report(task, 1, Outcome::Done) };
    changes_nothing(&mut world, &by, forged.clone());
    world.leave(one);
    changes_nothing(&mut world, &by, forged);
    let two = world.join(Join { receipts: true, ..worker("two") });
    assert_eq!(attempts(&world, two), [(task, 2)]);
    changes_nothing(&mut world, &by, outcome_report(task, 1, Outcome::Done));
    // A receipt that is shown again is of an earlier delivery.
    for outcome in [Outcome::Retry, Outcome::Failed] {
        assert!(world.report(&by, proven(outcome_report(task, 1, outcome))).unwrap().late);
    }
    let of_two = world.reporter(two);
    world.leave(two);
    changes_nothing(&mut world, &of_two, outcome_report(task, 2, Outcome::Failed));
    // From any address, whoever has it now.
    let three = world.join(Join { receipts: true, ..worker("three") });
    assert_eq!(attempts(&world, three), [(task, 3)]);
    let elsewhere = Reporter { peer: "elsewhere".into(), ..by };
    assert!(!world.report(&elsewhere, proven(outcome_report(task, 1, Outcome::Done))).unwrap().late);
    assert_eq!(outcomes(&world, task).last(), Some(&Outcome::Done));
}

#[test]
fn without_receipts_it_counts_what_is_told_by_who_was_given_the_task() {
    let mut world = world();
    let one = world.join(worker("one"));
    let task = world.broadcast("work");
    let by = Reporter { peer: "a new connection".into(), ..world.reporter(one) };
    world.leave(one);
    let two = world.join(worker("two"));
    assert_eq!(attempts(&world, two), [(task, 2)]);
    // Another has it, and it was this one's.
    changes_nothing(&mut world, &teller(Some("three"), Some("g"), "x"), outcome_report(task, 1, Outcome::Done));
    assert!(!world.report(&by, outcome_report(task, 1, Outcome::Done)).unwrap().late);

    // Of a group and without an id: by the number of the attempt, since the address is another after a reconnect.
    let nameless = |peer: &str| Join { client: None, peer: peer.into(), window: Some(1), ..worker("x") };
    world.leave(two);
    let first = world.join(nameless("first"));
    let task = world.broadcast("more");
    world.leave(first);
    changes_nothing(&mut world, &teller(Some("evil"), Some("g"), "x"), outcome_report(task, 1, Outcome::Done));
    let report = outcome_report(task, 1, Outcome::Done);
    assert!(!world.report(&teller(None, Some("g"), "second"), report).unwrap().late);

    // After a start nobody knows whose it was.
    let one = world.join(worker("one"));
    let (task, more) = (world.broadcast("held at the restart"), world.broadcast("and this"));
    let by = world.reporter(one);
    world.checkpoint();
    world.restart();
    assert!(!world.report(&by, outcome_report(task, 1, Outcome::Failed)).unwrap().late);
    changes_nothing(&mut world, &by, outcome_report(more, 2, Outcome::Failed));
}

#[test]
fn a_done_counts_that_is_told_after_a_crash_forgot_the_delivery_though_another_has_the_task() {
    let mut world = World::new(Config { restart_grace: Duration::ZERO, ..world().config });
    world.join(Join { window: Some(1), ..worker("two") });
    world.checkpoint();
    let one = world.join(Join { window: Some(2), ..worker("one") });
    let tasks = [world.broadcast("held by two"), world.broadcast("work"), world.broadcast("more")];
    world.sync();
    let by = world.reporter(one);
    world.crash(0);
    let two = world.join(worker("two"));
    assert!(attempts(&world, two).contains(&(tasks[1], 1)), "the delivery is forgotten");
    assert!(!world.report(&by, outcome_report(tasks[1], 1, Outcome::Done)).unwrap().late);
    // But not for ever, nor of what was accepted since.
    let new = world.broadcast("new");
    changes_nothing(&mut world, &by, outcome_report(new, 1, Outcome::Done));
    world.wait(2 * ACK_TIMEOUT + SECOND);
    changes_nothing(&mut world, &by, outcome_report(tasks[2], 1, Outcome::Done));
}

fn held(task: TaskId, priority: Priority) -> Held {
    Held { task, priority, lane: None, attempt: 1, begun: true }
}

#[test]
fn a_stream_that_goes_on_after_another_server_led_keeps_what_its_client_has() {
    for remembered in [true, false] {
        let mut world = world();
        let begins = |join| Join { begins: true, ..join };
        let before = world.join(begins(worker("one")));
        let tasks = [(); 3].map(|()| world.broadcast("work"));
        assert_eq!(got(&world, before), tasks);
        if remembered {
            world.checkpoint();
        }
        world.sync();
        world.crash(0);

        let World { core, now, .. } = &mut world;
        let given = |core: &mut Core, now| -> Vec<(SessionId, TaskId, u32)> {
            let actions = core.take_actions(now).into_iter().filter_map(|action| match action {
                Action::Deliver(id, deliveries) => {
                    Some(deliveries.into_iter().map(move |one| (id, one.task.id, one.attempt)))
                }
                _ => None,
            });
            actions.flatten().collect()
        };
        let holds = tasks.map(|task| Held { begun: task == tasks[0], ..held(task, Priority::Normal) }).to_vec();
        let resume = Some(Box::new(Resume { holds, ..Resume::default() }));
        let (one, two) = (1001, 1002);
        core.join(Join { resume, ..begins(worker("one")) }, one, *now).unwrap();
        core.join(worker("two"), two, *now).unwrap();
        let later = Now { steady: now.steady.after(RESTART_GRACE + SECOND), ..*now };
        core.tick(later);
        assert_eq!(given(core, later), [], "each is with its client");
        let held: Vec<_> = core.clients().iter().map(|client| client.in_flight).collect();
        assert_eq!(held, [3, 0]);
        let done = OutcomeReport { receipt: Receipt::Missing, ..outcome_report(tasks[1], 1, Outcome::Done) };
        core.report(
            &Reporter { client: Some(name("one")), group: Some(name("g")), peer: "one".into() },
            vec![done],
            later,
        );
        assert_eq!(core.clients()[0].in_flight, 2);
        // What it had begun it may still be at work on.
        core.leave(one, later);
        core.tick(later);
        let asked: Vec<TaskId> = core
            .take_actions(later)
            .into_iter()
            .flat_map(|action| match action {
                Action::Load(_, tasks) => tasks,
                Action::Deliver(_, deliveries) => deliveries.iter().map(|one| one.task.id).collect(),
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(asked, [tasks[2]]);
    }
}

#[test]
fn a_stream_that_goes_on_keeps_what_it_has_though_the_log_is_read_of_some_priorities_alone() {
    for lane in [None, Some("web")] {
        let mut world = world();
        let one = world.join(worker("one"));
        world.checkpoint();
        let lane = lane.map(|lane| Name::new(NameOf::Lane, lane).unwrap());
        let first = world.broadcast("first");
        let task = world.submit(NewTask { lane: lane.clone(), ..task("work") });
        assert_eq!(got(&world, one), [first, task]);
        world.sync();
        world.crash(0);
        let two = world.join(Join { window: Some(1), ..worker("two") });
        assert_eq!(got(&world, two), [first], "the deliveries are forgotten");

        let World { core, now, .. } = &mut world;
        let holds = vec![Held { lane, ..held(task, Priority::Normal) }];
        let resume = Some(Box::new(Resume { holds, ..Resume::default() }));
        core.join(Join { resume, ..worker("one") }, 1001, *now).unwrap();
        assert_eq!(core.clients().iter().map(|client| client.in_flight).collect::<Vec<_>>(), [1, 1]);
        core.check().unwrap();
        let _ = core.take_actions(*now);
        core.leave(1001, *now);
        assert_eq!(core.groups(*now)[0].oldest_open, Some(first));
    }
}

#[test]
fn a_client_without_a_group_goes_on_behind_what_it_was_given() {
    let mut world = world();
    let tasks: Vec<_> = (0..3).map(|n| world.broadcast(&format!("news {n}"))).collect();
    world.restart();
    let read = [tasks[1]; 3];
    // It waited for both of these, and comes to one of them anyway.
    let awaits = [tasks[0], tasks[2]].map(|task| (task, Priority::Normal)).to_vec();
    let resume = Some(Box::new(Resume { read, awaits, ..Resume::default() }));
    let stream = world.join(Join { resume, ..anonymous("1.2.3.4:5") });
    let mut given = got(&world, stream);
    given.sort_unstable();
    assert_eq!(given, [tasks[0], tasks[2]]);
}

#[test]
fn a_client_without_a_group_is_given_what_waited_for_its_time_when_another_server_led() {
    let mut world = world();
    let stream = world.join(anonymous("1.2.3.4:5"));
    let at = |seconds| Some(world.now.wall.after(seconds * SECOND));
    let (soon, late) = (at(5), at(50));
    let soon = world.submit(NewTask { not_before: soon, ..task("soon") });
    let late = world.submit(NewTask { not_before: late, ..task("late") });
    let now = world.broadcast("now");
    world.wait(10 * SECOND);
    assert_eq!(got(&world, stream), [now, soon]);
    for _ in 0..2 {
        world.change_leader(0, |_| true);
    }
    world.wait(60 * SECOND);
    assert_eq!(got(&world, stream), [now, soon, late], "each once");
}

#[test]
fn a_client_without_an_id_is_drained_as_long_as_its_stream_lasts_whoever_leads() {
    let mut world = world();
    let stream = world.join(anonymous("1.2.3.4:5"));
    let goes_on = |world: &mut World| world.change_leader(0, |_| true);
    world.drain("1.2.3.4:5", None).unwrap();
    (0..2).for_each(|_| goes_on(&mut world));
    let first = world.broadcast("first");
    assert!(got(&world, stream).is_empty());
    assert_eq!(&*world.core.clients()[0].draining.as_ref().unwrap().note, "a note");

    assert!(world.undrain("1.2.3.4:5"));
    goes_on(&mut world);
    let second = world.broadcast("second");
    assert_eq!(got(&world, stream), [first, second]);

    world.drain("1.2.3.4:5", Some(30 * SECOND)).unwrap();
    goes_on(&mut world);
    let third = world.broadcast("third");
    assert_eq!(got(&world, stream), [first, second]);
    world.wait(31 * SECOND);
    assert_eq!(got(&world, stream), [first, second, third]);
}

#[test]
fn a_retry_waits_no_longer_than_the_server_is_set() {
    let mut world = World::new(Config { max_retry_delay: 100 * SECOND, ..world().config });
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    let year = OutcomeReport { delay: 365 * 24 * 3600 * SECOND, ..outcome_report(task, 1, Outcome::Retry) };
    world.core.report(&world.reporter(a), vec![year], world.now);
    let actions = world.core.take_actions(world.now);
    let until = actions.iter().find_map(|action| match action {
        Action::Record(results) => results[0].not_before,
        _ => None,
    });
    assert_eq!(until, Some(world.now.wall.after(100 * SECOND)));
    assert_eq!(Config::default().max_retry_delay, 7 * 24 * 3600 * SECOND);
}

// ---- the clock steps

/// An hour: a wrong time zone. And what a machine is off by that knows no time when it starts.
const STEPS: [i64; 4] = [HOUR, -HOUR, 40 * 24 * HOUR, -40 * 24 * HOUR];
const HOUR: i64 = 3_600_000;

#[test]
fn a_clock_that_steps_ends_no_lease_and_no_wait_and_makes_none_longer() {
    for step in STEPS {
        let mut world = world();
        let a = world.join(Join { window: Some(2), heartbeat: Some(7 * SECOND), ..client("a") });
        let far = world.now.wall.after(100 * 24 * 3600 * SECOND);
        let held = world.submit(NewTask { expires_at: Some(far), ..task("held") });
        let waits = world.broadcast("waits");
        world.report(
            &world.reporter(a),
            OutcomeReport { delay: 6 * SECOND, ..outcome_report(waits, 1, Outcome::Retry) },
        );
        world.wait(5 * SECOND);
        world.settle(a, held, Outcome::Working);
        let heartbeats = world.streams[&a].heartbeats;
        world.step(step);
        assert_eq!(got(&world, a), [held, waits], "nothing goes out because of a step");
        world.wait(SECOND);
        assert_eq!(got(&world, a), [held, waits, waits], "what waits does so for as long as it was to");
        world.done(a, waits);
        assert_eq!(world.streams[&a].heartbeats, heartbeats);
        world.wait(7 * SECOND);
        assert_eq!(world.streams[&a].heartbeats, heartbeats + 1);
        assert_eq!(outcomes(&world, held), []);
        world.wait(2 * SECOND);
        assert_eq!(outcomes(&world, held), [Outcome::TimedOut], "and a lease ends after the ack timeout");
    }
}

#[test]
fn a_clock_that_steps_leaves_the_graces_as_long_as_they_are() {
    for step in STEPS {
        let mut world = world();
        let before = world.join(worker("one"));
        let id = world.broadcast("work");
        world.sync();
        world.wait(SECOND);
        world.sync();
        world.crash(0);
        world.step(step);
        let other = world.join(worker("two"));
        world.wait(RESTART_GRACE - SECOND);
        assert!(got(&world, other).is_empty(), "after a start it is held back for who had it: {before}");
        world.wait(SECOND);
        assert_eq!(got(&world, other), [id]);
    }
}

#[test]
fn what_waits_for_a_time_of_day_goes_out_when_the_clock_says_so() {
    let mut world = world();
    let a = world.join(client("a"));
    let at = |world: &World, hours: i64| Some(Time(world.now.wall.0 + hours * HOUR));
    let soon = world.submit(NewTask { not_before: at(&world, 1), ..task("soon") });
    let later = world.submit(NewTask { not_before: at(&world, 2), ..task("later") });
    world.step(HOUR);
    assert_eq!(got(&world, a), [soon], "the clock says that it is time");
    world.step(-HOUR);
    // Its time has come once, and it went out: that does not change.
    world.settle(a, soon, Outcome::Retry);
    assert_eq!(attempts(&world, a), [(soon, 1), (soon, 2)]);
    world.done(a, soon);
    world.wait(Duration::from_secs(2 * 3600) - SECOND);
    assert_eq!(got(&world, a), [soon, soon]);
    world.wait(SECOND);
    assert_eq!(got(&world, a), [soon, soon, later], "behind a clock that was set back it waits as much longer");
}

#[test]
fn what_is_with_a_client_does_not_expire_and_what_waits_does_when_the_clock_says_so() {
    let mut world = world();
    let a = world.join(Join { window: Some(1), ..client("a") });
    let expires_at = Some(world.now.wall.after(60 * SECOND));
    let [held, waits] = ["held", "waits"].map(|text| world.submit(NewTask { expires_at, ..task(text) }));
    world.step(HOUR);
    assert_eq!((outcomes(&world, held), outcomes(&world, waits)), (vec![], vec![]));
    assert!(!world.done(a, held).late, "what came of it counts");
    assert_eq!(outcomes(&world, waits), [Outcome::Expired]);
}

#[test]
fn a_wait_that_outlives_the_process_is_never_longer_than_it_was_to_be() {
    for (step, waits) in [(0, 9), (HOUR, 0), (-HOUR, 10), (40 * 24 * HOUR, 0), (-40 * 24 * HOUR, 10)] {
        for checkpoint in [true, false] {
            let mut world = World::new(Config { restart_grace: Duration::ZERO, ..Config::default() });
            let a = world.join(client("a"));
            let id = world.broadcast("work");
            world.sync();
            world.report(
                &world.reporter(a),
                OutcomeReport { delay: 10 * SECOND, ..outcome_report(id, 1, Outcome::Retry) },
            );
            if checkpoint {
                world.checkpoint();
            }
            world.sync();
            world.wait(SECOND);
            // While it is away.
            world.now.wall.0 += step;
            world.model.stepped = Some(world.model.log.len());
            world.crash(0);
            let a = world.join(client("a"));
            if waits > 0 {
                world.wait(waits * SECOND - Duration::from_millis(1));
                assert!(got(&world, a).is_empty(), "{step}");
                world.wait(Duration::from_millis(1));
            }
            assert_eq!(got(&world, a), [id], "{step}");
        }
    }
}

#[test]
fn a_wait_that_was_stored_while_the_clock_was_ahead_is_no_longer_when_that_was_set_right_before_a_start() {
    let mut world = World::new(Config { restart_grace: Duration::ZERO, ..Config::default() });
    let a = world.join(client("a"));
    let id = world.broadcast("work");
    let reporter = world.reporter(a);
    world.report(&reporter, OutcomeReport { delay: 10 * SECOND, ..outcome_report(id, 1, Outcome::Retry) });
    world.step(40 * 24 * HOUR);
    // No result says what the clock showed then.
    world.broadcast("another");
    world.wait(SECOND);
    world.sync();
    world.now.wall.0 -= 40 * 24 * HOUR;
    world.model.stepped = Some(world.model.log.len());
    world.crash(0);
    // A later start no longer knows what the clock showed: what was written since is of the clock that is right.
    let b = world.join(client("b"));
    let other = world.address("b", "other");
    world.done(b, other);
    world.checkpoint();
    world.crash(0);
    let a = world.join(client("a"));
    world.wait(10 * SECOND);
    assert!(got(&world, a).contains(&id));
}

#[test]
fn what_is_due_and_not_read_yet_when_the_clock_is_set_back_goes_out_after_a_start() {
    let mut world = World::new(Config { restart_grace: Duration::ZERO, ..Config::default() });
    let a = world.join(client("a"));
    let id = world.broadcast("work");
    let reporter = world.reporter(a);
    world.report(&reporter, OutcomeReport { delay: SECOND, ..outcome_report(id, 1, Outcome::Retry) });
    world.checkpoint();
    world.eager = false;
    world.wait(SECOND);
    assert_eq!(world.reads.len(), 1, "its text is being read");
    world.step(-40 * 24 * HOUR);
    let b = world.join(client("b"));
    world.answer(1, true);
    world.done(b, id);
    world.restart();
    world.eager = true;
    let a = world.join(client("a"));
    assert_eq!(attempts(&world, a), [(id, 2)]);
}

#[test]
fn a_server_whose_clock_is_set_back_stores_what_waits_by_the_new_one() {
    let mut world = World::new(Config { restart_grace: Duration::ZERO, ..Config::default() });
    let a = world.join(client("a"));
    let reporter = world.reporter(a);
    let (id, other) = (world.broadcast("work"), world.address("b", "other"));
    world.leave(a);
    // A wait that begins while the clock is ahead, of a group that nobody uses.
    world.step(40 * 24 * HOUR);
    world.report(&reporter, OutcomeReport { delay: 10 * SECOND, ..outcome_report(id, 1, Outcome::Retry) });
    world.checkpoint();
    world.step(-40 * 24 * HOUR);
    let b = world.join(client("b"));
    world.done(b, other);
    world.restart();
    let a = world.join(client("a"));
    world.wait(10 * SECOND);
    assert_eq!(attempts(&world, a), [(id, 2)]);
}

// ---- when work begins

/// A client that says when it begins.
fn begins(join: Join) -> Join {
    Join { begins: true, ..join }
}

#[test]
fn an_attempt_is_spent_when_work_begins() {
    let mut world = world();
    let a = world.join(begins(client("a")));
    let id = world.submit(NewTask { max_attempts: Some(1), ..task("once") });
    for delivery in 1..=2 {
        world.settle(a, id, Outcome::Released);
        world.wait(SECOND);
        assert_eq!(attempts(&world, a).last(), Some(&(id, delivery + 1)));
    }
    world.settle(a, id, Outcome::Working);
    world.leave(a);
    world.wait(GRACE);
    let a = world.join(begins(client("a")));
    assert!(got(&world, a).is_empty());
    use Outcome::{Exhausted, Lost, Released};
    assert_eq!(outcomes(&world, id), [Released, Released, Lost, Exhausted]);
}

#[test]
fn an_outcome_without_a_word_before_it_spends_an_attempt_too() {
    let mut world = world();
    let a = world.join(begins(client("a")));
    let id = world.submit(NewTask { max_attempts: Some(1), ..task("once") });
    world.settle(a, id, Outcome::Retry);
    assert_eq!(outcomes(&world, id), [Outcome::Retry, Outcome::Exhausted]);
}

#[test]
fn a_client_that_does_not_say_when_it_begins_begins_with_the_delivery() {
    let mut world = world();
    let a = world.join(client("a"));
    let id = world.submit(NewTask { max_attempts: Some(1), ..task("once") });
    world.leave(a);
    assert_eq!(outcomes(&world, id), [Outcome::Lost, Outcome::Exhausted]);
}

#[test]
fn a_worker_that_a_task_kills_takes_no_attempt_from_those_that_waited_in_its_hands() {
    let mut world = world();
    let tasks: Vec<_> = (0..8).map(|_| world.broadcast("work")).collect();
    let poison = tasks[0];
    for _ in 0..4 {
        let a = world.join(begins(Join { window: Some(8), ..client("a") }));
        world.settle(a, poison, Outcome::Working);
        world.leave(a);
        world.wait(GRACE);
    }
    assert_eq!(outcomes(&world, poison).last(), Some(&Outcome::Exhausted));
    let a = world.join(begins(Join { window: Some(8), ..client("a") }));
    for id in &tasks[1..] {
        assert!(got(&world, a).contains(id));
        assert_eq!(outcomes(&world, *id), [Outcome::Released; 4]);
    }
}

#[test]
fn two_that_fight_for_one_id_spend_no_attempt_and_make_no_task_suspect() {
    let mut world = World::new(Config { ack_timeout: 600 * SECOND, ..world().config });
    let tasks: Vec<_> = (0..3).map(|_| world.broadcast("work")).collect();
    for round in 0..150 {
        let a = of_process(begins(client("a")), ["one", "two"][round % 2]);
        let a = world.try_join(a.clone()).unwrap_or_else(|refused| {
            world.wait(refused.wait);
            world.join(a)
        });
        assert_eq!(got(&world, a), tasks);
    }
    assert!(tasks.iter().all(|task| outcomes(&world, *task).iter().all(|outcome| *outcome == Outcome::Released)));
}

/// A machine with a process that works, a second for each task, and that is started again when another took its id.
struct Machine {
    name: &'static str,
    starts: usize,
    stream: Option<SessionId>,
    comes: Steady,
    longest: Duration,
}

impl Machine {
    fn goes_on(&mut self, world: &mut World) {
        let stream = self.stream.filter(|id| world.streams.contains_key(id));
        if let Some(stream) = stream {
            if let Some(task) = world.model.tasks_held_by(stream).first().copied() {
                world.settle(stream, task, Outcome::Working);
                world.done(stream, task);
            }
            return;
        }
        self.starts += usize::from(self.stream.take().is_some());
        if self.comes <= world.now.steady {
            let process = format!("{} {}", self.name, self.starts);
            match world.try_join(of_process(begins(client("a")), &process)) {
                Ok(stream) => self.stream = Some(stream),
                Err(refused) => {
                    self.comes = world.now.steady.after(refused.wait);
                    self.longest = self.longest.max(refused.wait);
                }
            }
        }
    }
}

#[test]
fn processes_that_fight_for_one_id_take_turns_and_the_work_is_done() {
    let mut world = World::new(Config { window: 64, ..world().config });
    let tasks: Vec<_> = (0..64).map(|_| world.broadcast("work")).collect();
    let now = world.now.steady;
    let machine = |name| Machine { name, starts: 0, stream: None, comes: now, longest: Duration::ZERO };
    let mut machines = ["one", "two"].map(machine);
    for _ in 0..80 {
        machines.iter_mut().for_each(|machine| machine.goes_on(&mut world));
        world.wait(SECOND);
    }
    for machine in &machines {
        assert!(machine.starts > 1 && machine.longest > 9 * SECOND && machine.longest <= 20 * SECOND);
    }
    let all: Vec<_> = tasks.iter().map(|task| outcomes(&world, *task)).collect();
    assert!(all.iter().all(|outcomes| outcomes.last() == Some(&Outcome::Done)), "{all:?}");
    assert!(all.iter().all(|outcomes| !outcomes.contains(&Outcome::Exhausted)), "{all:?}");
    let [contested] = &world.core.contested(world.now)[..] else { panic!("one id is fought for") };
    assert_eq!((contested.client.as_str(), contested.changes > 3), ("a", true), "{contested:?}");
    // One of them gets an id of its own. A minute after the turn that it would have had, all of it is forgotten.
    world.wait(150 * SECOND);
    assert_eq!(world.core.contested(world.now), []);
}

#[test]
fn a_process_that_comes_back_or_is_started_again_fights_with_nobody() {
    let mut world = world();
    for round in 0..20 {
        // Its connection broke, and the server has not noticed: it is the same process. It stops, and asks for one task at most.
        let join = of_process(begins(client("same")), "one");
        world.join(Join { peer: format!("peer {round}").into(), ..join.clone() });
        world.join(Join { window: Some(1), ..join });
        // A crash loop: the stream is gone before the next process comes.
        let crashed = world.join(of_process(client("crashes"), &format!("instance {round}")));
        world.leave(crashed);
        // One connection asks again and again.
        world.join(client("asks again"));
        // Now and then one is replaced by another machine.
        world.join(of_process(client("replaced"), &format!("instance {round}")));
        world.wait(31 * SECOND);
    }
    assert_eq!(world.core.contested(world.now), []);
}

#[test]
fn connections_that_say_no_instance_fight_when_each_takes_the_id_from_the_other() {
    let mut world = world();
    let from = |peer: &str| Join { peer: peer.into(), ..client("a") };
    for peer in ["one", "two", "one", "two"] {
        world.join(from(peer));
    }
    let refused = world.try_join(from("one")).unwrap_err();
    assert_eq!((refused.client.as_str(), refused.wait), ("a", 5 * SECOND));
    assert!(refused.to_string().contains("in 5 s. Give each process an id of its own (--id)"), "{refused}");
    world.join(from("two"));
    world.wait(5 * SECOND);
    world.join(from("one"));
    assert_eq!(world.try_join(from("two")).unwrap_err().wait, 10 * SECOND);
    // A stream that ends takes all of it along.
    let one = world.join(from("one"));
    world.leave(one);
    world.join(from("two"));
    assert_eq!(world.core.contested(world.now), []);
}

#[test]
fn a_lease_that_ends_before_work_began_costs_no_attempt() {
    let mut world = world();
    let a = world.join(begins(client("a")));
    let (begun, waits) = (world.broadcast("begun"), world.broadcast("waits"));
    world.settle(a, begun, Outcome::Working);
    world.wait(ACK_TIMEOUT);
    assert_eq!(outcomes(&world, begun), [Outcome::TimedOut]);
    assert_eq!(outcomes(&world, waits), [Outcome::Released]);
}

#[test]
fn after_a_stream_that_broke_without_a_word_its_tasks_go_out_one_at_a_time() {
    let mut world = world();
    let tasks: Vec<_> = (0..3).map(|_| world.broadcast("work")).collect();
    let poison = tasks[0];
    let a = world.join(begins(client("a")));
    assert_eq!(got(&world, a), tasks);
    world.leave(a);
    // Alone, it kills once more; and then the others are first.
    let a = world.join(begins(client("a")));
    assert_eq!(got(&world, a), [poison]);
    world.leave(a);
    let a = world.join(begins(client("a")));
    assert_eq!(got(&world, a), [tasks[1]]);
    world.settle(a, tasks[1], Outcome::Working);
    assert_eq!(got(&world, a), tasks[1..], "the next, when the one before is begun");
    world.done(a, tasks[2]);
    assert_eq!(got(&world, a), [tasks[1], tasks[2], poison]);
    let new = world.broadcast("new");
    assert!(!got(&world, a).contains(&new), "nothing else beside it");
    world.settle(a, poison, Outcome::Working);
    assert_eq!(got(&world, a).last(), Some(&new));
}

#[test]
fn a_task_that_must_be_alone_waits_for_a_client_that_has_begun_what_it_holds() {
    let mut world = world();
    let first = world.broadcast("first");
    let a = world.join(begins(worker("a")));
    let b = world.join(begins(worker("b")));
    let others = [world.broadcast("x"), world.broadcast("y")];
    assert_eq!(got(&world, a), [first, others[1]]);
    world.settle(b, others[0], Outcome::Working);
    world.leave(a);
    assert_eq!(got(&world, b), [others[0], first]);
    world.settle(b, first, Outcome::Done);
    assert_eq!(got(&world, b), [others[0], first, others[1]]);
}

#[test]
fn a_task_that_makes_its_clients_fall_silent_is_given_up_in_the_end_with_the_reason() {
    let config = Config { max_deliveries: 3, ..world().config };
    let mut world = World::new(config);
    let (poison, other) = (world.broadcast("poison"), world.broadcast("other"));
    for _ in 0..2 {
        let a = world.join(begins(client("a")));
        world.leave(a);
    }
    // What is restarted meanwhile goes on counting.
    world.checkpoint();
    world.restart();
    world.wait(RESTART_GRACE);
    let a = world.join(begins(client("a")));
    assert_eq!(got(&world, a), [other]);
    world.done(a, other);
    assert_eq!(got(&world, a), [other, poison]);
    world.leave(a);
    let mut results = world.model.log.iter().filter_map(Logged::result);
    let last = results.rfind(|result| result.task == poison).unwrap();
    assert_eq!(last.outcome, Outcome::Exhausted);
    assert!(last.ret.starts_with("3 clients, one after another, were not heard of again"), "{last:?}");
}

#[test]
fn who_is_kept_waiting_for_an_answer_does_not_fall_silent() {
    let config = Config { max_deliveries: 2, ..world().config };
    let lease = config.ack_timeout;
    let mut world = World::new(config);
    let task = world.broadcast("task");
    let a = world.join(begins(client("a")));
    for _ in 0..3 {
        assert_eq!(got(&world, a).last(), Some(&task));
        world.wait(lease / 2);
        world.keep_waiting();
        world.wait(lease / 2);
    }
    world.leave(a);
    let b = world.join(begins(client("a")));
    assert_eq!(got(&world, b), [task], "it was given up by nobody");
    // It may work again since then.
    world.wait(lease);
    world.wait(lease);
    let mut results = world.model.log.iter().filter_map(Logged::result);
    assert_eq!(results.rfind(|result| result.task == task).unwrap().outcome, Outcome::Exhausted);
}

#[test]
fn who_gives_tasks_back_gets_no_others_for_a_second_and_others_get_them_at_once() {
    let mut world = world();
    let a = world.join(begins(worker("a")));
    let task = world.broadcast("work");
    world.settle(a, task, Outcome::Released);
    assert_eq!(got(&world, a), [task]);
    let b = world.join(begins(worker("b")));
    assert_eq!(attempts(&world, b), [(task, 2)]);
    let next = world.broadcast("next");
    let after = world.broadcast("after");
    assert_eq!(got(&world, b), [task, next, after]);
    world.broadcast("for a");
    world.wait(SECOND);
    assert_eq!(got(&world, a).len(), 2);
}

#[test]
fn who_gives_tasks_back_again_and_again_gets_others_less_and_less_often_until_it_has_finished_one() {
    let mut world = world();
    let a = world.join(Join { window: Some(2), ..begins(worker("a")) });
    let long = world.broadcast("long");
    let next = world.broadcast("next");
    world.settle(a, long, Outcome::Working);
    for rest in [1, 2, 4, 8, 16, 32, 60, 60] {
        world.settle(a, next, Outcome::Released);
        let had = got(&world, a).len();
        for _ in 0..rest {
            assert_eq!(got(&world, a).len(), had, "within {rest} s");
            world.wait(SECOND);
            world.settle(a, long, Outcome::Working);
        }
        assert_eq!(got(&world, a).len(), had + 1, "after {rest} s");
    }
    world.settle(a, next, Outcome::Released);
    world.done(a, long);
    assert_eq!(got(&world, a).last(), Some(&next), "at once when it is free");
    world.settle(a, next, Outcome::Released);
    world.wait(SECOND);
    assert_eq!(attempts(&world, a).last(), Some(&(next, 11)), "and what was before is forgotten");
}

#[test]
fn what_is_spent_is_the_same_after_a_restart() {
    let mut world = world();
    let id = world.submit(NewTask { max_attempts: Some(2), ..task("twice") });
    let a = world.join(begins(client("a")));
    world.settle(a, id, Outcome::Released);
    world.wait(SECOND);
    world.settle(a, id, Outcome::Working);
    // A second later a checkpoint knows that it was begun.
    world.wait(SECOND);
    world.restart();
    let a = world.join(begins(client("a")));
    world.wait(RESTART_GRACE);
    assert_eq!(attempts(&world, a), [(id, 3)]);
    world.settle(a, id, Outcome::Working);
    world.leave(a);
    world.wait(GRACE);
    assert_eq!(outcomes(&world, id), [Outcome::Released, Outcome::Lost, Outcome::Exhausted]);
}

#[test]
fn a_broken_stream_gives_what_was_begun_to_another_only_after_a_grace_and_the_rest_at_once() {
    let mut world = world();
    let one = world.join(begins(worker("one")));
    let (begun, waits) = (world.broadcast("begun"), world.broadcast("waits"));
    world.settle(one, begun, Outcome::Working);
    let two = world.join(begins(worker("two")));
    world.leave(one);
    assert_eq!(attempts(&world, two), [(waits, 2)]);
    world.wait(GRACE - SECOND);
    assert_eq!(got(&world, two), [waits]);
    world.wait(SECOND);
    assert_eq!(attempts(&world, two), [(waits, 2), (begun, 2)]);
    let lost = world.model.log.iter().filter_map(Logged::result).find(|result| result.outcome == Outcome::Lost);
    assert_eq!(lost.map(|lost| &*lost.client), Some("one"), "the log says whose it was");
}

#[test]
fn a_worker_that_says_working_over_another_connection_keeps_what_it_has_begun() {
    let mut world = world();
    let one = world.join(begins(worker("one")));
    let begun = world.broadcast("begun");
    world.settle(one, begun, Outcome::Working);
    let two = world.join(begins(worker("two")));
    world.leave(one);
    world.wait(GRACE - SECOND);
    let elsewhere = Reporter { client: Some(name("one")), group: Some(name("g")), peer: "new".into() };
    world.report(&elsewhere, outcome_report(begun, 1, Outcome::Working));
    world.wait(GRACE - SECOND);
    let one = world.join(Join { peer: "new".into(), ..begins(worker("one")) });
    world.wait(ACK_TIMEOUT - SECOND);
    assert_eq!((got(&world, one), got(&world, two)), (vec![], vec![]));
    assert_eq!(world.done(one, begun).attempt, 1);
}

#[test]
fn what_was_begun_over_a_shared_address_is_not_taken_by_who_comes_from_there_next() {
    let mut world = world();
    let proxied = |id| Join { peer: "proxy".into(), ..begins(worker(id)) };
    let one = world.join(proxied("one"));
    let begun = world.broadcast("begun");
    world.settle(one, begun, Outcome::Working);
    world.leave(one);
    let two = world.join(proxied("two"));
    assert_eq!(world.core.client(two).unwrap().in_flight, 0);
    world.wait(GRACE);
    assert_eq!(attempts(&world, two), [(begun, 2)]);
}

#[test]
fn a_first_loss_costs_no_time_and_further_ones_wait_longer_and_longer() {
    let mut world = world();
    let policy = Box::new("first=10s,factor=2,cap=15s,jitter=0".parse().unwrap());
    let id = world.submit(NewTask { retry: Some(policy), max_attempts: Some(9), ..task("work") });
    let mut a = world.join(client("a"));
    for (delivery, wait) in (2..).zip([0, 10, 15, 15]) {
        world.leave(a);
        a = world.join(client("a"));
        if wait > 0 {
            world.wait(wait * SECOND - Duration::from_millis(1));
            assert!(got(&world, a).is_empty());
            world.wait(Duration::from_millis(1));
        }
        assert_eq!(attempts(&world, a), [(id, delivery)]);
    }
}

#[test]
fn a_retry_that_names_no_delay_waits_as_the_policy_says() {
    let config = Config { retry: "first=10s,factor=2,jitter=0".parse().unwrap(), ..world().config };
    let mut world = World::new(config);
    let own = Box::new("first=3s,factor=1,jitter=0".parse().unwrap());
    let tasks = [world.broadcast("as the server"), world.submit(NewTask { retry: Some(own), ..task("as it says") })];
    let a = world.join(client("a"));
    for id in tasks {
        world.settle(a, id, Outcome::Retry);
    }
    world.wait(3 * SECOND);
    assert_eq!(attempts(&world, a)[2..], [(tasks[1], 2)]);
    world.wait(7 * SECOND);
    assert_eq!(attempts(&world, a).last(), Some(&(tasks[0], 2)));
}

/// How long the task waits that comes back now, in seconds.
fn waits(world: &mut World, stream: SessionId, task: TaskId) -> i64 {
    let result = world.settle(stream, task, Outcome::Retry).unwrap();
    let waits = result.not_before.unwrap().0 - result.at.0;
    world.wait(Duration::from_millis(waits as u64));
    waits / 1_000
}

#[test]
fn a_groups_retry_policy_goes_before_the_servers_and_after_that_of_a_task() {
    let policy = |text: &str| text.parse::<RetryPolicy>().unwrap();
    let config = Config { retry: "first=20s,factor=1,jitter=0".parse().unwrap(), max_attempts: 3, ..world().config };
    let mut world = World::new(config);
    // Before its first client comes.
    world.set_retry("a", policy("max=2,first=5s,factor=1,jitter=0"));
    world.restart();
    let own = NewTask {
        max_attempts: Some(4),
        retry: policy("first=3s,factor=1,jitter=0").backoff.map(Box::new),
        ..task("own")
    };
    let tasks = [world.broadcast("as the group"), world.submit(own)];
    let (a, b) = (world.join(client("a")), world.join(client("b")));
    assert_eq!(tasks.map(|task| waits(&mut world, a, task)), [5, 3]);
    assert_eq!(waits(&mut world, b, tasks[0]), 20, "another group goes by the server");
    world.settle(a, tasks[0], Outcome::Retry);
    assert_eq!(outcomes(&world, tasks[0]).last(), Some(&Outcome::Exhausted));
    // From the next decision on.
    world.set_retry("a", policy("first=7s,factor=1,jitter=0"));
    let third = world.broadcast("as the group from now on");
    assert_eq!([third, third, tasks[1]].map(|task| waits(&mut world, a, task)), [7, 7, 3]);
    world.settle(a, third, Outcome::Retry);
    assert_eq!(
        outcomes(&world, third).last(),
        Some(&Outcome::Exhausted),
        "what it leaves open is as the server is set"
    );
    // A policy goes with its group.
    world.set_retry("a", policy("first=1h"));
    world.leave(a);
    assert!(world.remove_group("a"));
    let a = world.join(client("a"));
    assert_eq!(waits(&mut world, a, tasks[0]), 20);
}

#[test]
fn what_has_more_attempts_behind_it_than_a_new_policy_of_its_group_allows_is_given_up() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    world.settle(a, task, Outcome::Retry);
    world.settle(a, task, Outcome::Retry);
    world.leave(a);
    world.set_retry("a", "max=2".parse().unwrap());
    world.join(client("a"));
    assert_eq!(outcomes(&world, task).last(), Some(&Outcome::Exhausted));
    assert!(world.core.set_retry(&name("nobody"), RetryPolicy::default(), world.now).is_err(), "nothing to be reset");
}

// ---- what is taken from a client

fn revoked(world: &World, stream: SessionId) -> Vec<(TaskId, u32, RevokeReason)> {
    world.streams[&stream].revoked.iter().map(|it| (it.task, it.attempt, it.reason)).collect()
}

#[test]
fn a_client_that_wants_to_hears_that_a_task_it_has_was_cancelled() {
    let mut world = world();
    let (asks, not) = (world.join(Join { revoke: true, ..client("asks") }), world.join(client("not")));
    let task = world.broadcast("work");
    world.cancel(task);
    assert_eq!(revoked(&world, asks), [(task, 1, RevokeReason::Cancelled)]);
    assert_eq!(revoked(&world, not), []);
    world.report(&world.reporter(asks), outcome_report(task, 1, Outcome::Working));
    assert_eq!(revoked(&world, asks), [(task, 1, RevokeReason::Cancelled); 2], "and again when it goes on");
}

/// Like [`outcome_report`], with what was printed.
fn printing(task: TaskId, attempt: u32, outcome: Outcome, text: &str) -> OutcomeReport {
    let piece = Piece { from: 0, bytes: text.into() };
    OutcomeReport { printed: Some(piece), ..outcome_report(task, attempt, outcome) }
}

#[test]
fn clients_that_have_a_watched_task_are_told_so_and_what_they_print_is_shown_until_it_is_settled() {
    let mut world = world();
    let says = world.join(Join { output: true, ..client("says") });
    let silent = world.join(client("silent"));
    let task = world.broadcast("work");
    let holder = |client: &str, says| Some(Holder { client: client.into(), attempt: 1, says });
    let both = vec![(name("says"), holder("says", true)), (name("silent"), holder("silent", false))];
    assert_eq!(world.watch(task, None, &[]), Ok(both.clone()));
    assert_eq!(world.watch(task, None, &[("says", 1)]), Ok(both), "again and again");
    let told: Vec<_> = world.streams[&says].watched.iter().map(|it| (it.task, it.attempt, it.anew)).collect();
    assert_eq!(told, [(task, 1, true), (task, 1, false)]);
    assert_eq!(world.streams[&silent].watched, []);
    assert_eq!(world.watch(task, Some("silent"), &[]), Ok(vec![(name("silent"), holder("silent", false))]));

    world.report(&world.reporter(says), printing(task, 1, Outcome::Working, "a"));
    world.report(&world.reporter(says), printing(task, 1, Outcome::Done, "b"));
    world.report(&world.reporter(says), printing(task, 1, Outcome::Working, "late"));
    let shown: Vec<_> = world.printed.iter().map(|it| (it.group.as_str(), it.attempt, &it.piece.bytes[..])).collect();
    assert_eq!(shown, [("says", 1, &b"a"[..]), ("says", 1, b"b")]);
    assert_eq!(world.watch(task, Some("says"), &[]), Ok(vec![]), "it is settled there");
    world.done(silent, task);
    assert_eq!(world.watch(task, None, &[]), Ok(vec![]));
}

#[test]
fn what_is_printed_by_one_that_does_not_have_the_task_is_shown_to_nobody() {
    let mut world = world();
    let one = world.join(Join { output: true, ..begins(worker("one")) });
    let task = world.broadcast("work");
    world.settle(one, task, Outcome::Working);
    let two = world.join(begins(worker("two")));
    world.report(&world.reporter(two), printing(task, 2, Outcome::Working, "not mine"));
    world.wait(ACK_TIMEOUT);
    assert_eq!(attempts(&world, two), [(task, 2)]);
    world.report(&world.reporter(one), printing(task, 1, Outcome::Working, "not mine any more"));
    assert_eq!(world.printed, []);
    world.report(&world.reporter(two), printing(task, 2, Outcome::Working, "mine"));
    assert_eq!(world.printed.iter().map(|it| &*it.client).collect::<Vec<_>>(), ["two"]);
}

#[test]
fn what_waits_is_watched_until_it_goes_out_and_what_many_groups_have_only_in_one_of_them() {
    let mut world = world();
    let names: Vec<String> = (0..=MOST_WATCHED).map(|at| format!("g{at:02}")).collect();
    let streams: Vec<_> = names.iter().map(|id| world.join(Join { output: true, ..client(id) })).collect();
    let broadcast = world.broadcast("work");
    assert_eq!(world.watch(broadcast, None, &[]), Err(MOST_WATCHED + 1));
    assert!(streams.iter().all(|stream| world.streams[stream].watched.is_empty()));
    assert_eq!(world.watch(broadcast, Some("g00"), &[]).map(|it| it.len()), Ok(1));
    assert_eq!(world.watch(broadcast, Some("nobody"), &[]), Ok(vec![]));

    let mut world = self::world();
    world.join(Join { output: true, ..client("a") });
    let delayed = world.submit(NewTask { not_before: Some(world.now.wall.after(5 * SECOND)), ..task("later") });
    assert_eq!(world.watch(delayed, None, &[]), Ok(vec![(name("a"), None)]));
    world.cancel(delayed);
    assert_eq!(world.watch(delayed, None, &[]), Ok(vec![]));
    // Its group has never come.
    let early = world.submit(NewTask { to: Some(name("late")), ..task("work") });
    assert_eq!(world.watch(early, None, &[]), Ok(vec![(name("late"), None)]));
    assert_eq!(world.watch(early, Some("a"), &[]), Ok(vec![]));
    world.cancel(early);
    assert_eq!(world.watch(early, None, &[]), Ok(vec![]));
}

#[test]
fn a_client_that_goes_on_with_what_it_lost_hears_that_another_has_it() {
    let mut world = world();
    let one = world.join(Join { revoke: true, ..begins(worker("one")) });
    let task = world.broadcast("work");
    world.settle(one, task, Outcome::Working);
    let two = world.join(begins(worker("two")));
    let working = outcome_report(task, 1, Outcome::Working);
    // It was frozen: its lease ended, and the other was given the task.
    world.wait(ACK_TIMEOUT);
    assert_eq!(attempts(&world, two), [(task, 2)]);
    world.report(&world.reporter(one), working.clone());
    assert_eq!(revoked(&world, one), [(task, 1, RevokeReason::GivenToAnother)]);
    world.done(two, task);
    world.report(&world.reporter(one), working);
    assert_eq!(revoked(&world, one).len(), 2, "also when the other is done with it");
}

#[test]
fn a_client_that_goes_on_with_what_has_expired_hears_so() {
    let mut world = world();
    let a = world.join(Join { revoke: true, ..begins(client("a")) });
    let task = world.submit(NewTask { expires_at: Some(world.now.wall.after(5 * SECOND)), ..task("soon") });
    world.settle(a, task, Outcome::Working);
    world.wait(ACK_TIMEOUT);
    assert_eq!(outcomes(&world, task), [Outcome::TimedOut, Outcome::Expired]);
    world.report(&world.reporter(a), outcome_report(task, 1, Outcome::Working));
    assert_eq!(revoked(&world, a), [(task, 1, RevokeReason::Expired)]);
}

// ---- restarts

#[test]
fn a_new_group_does_not_make_the_log_of_the_others_forgotten() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    world.done(a, task);
    world.join(client("b"));
    world.restart();
    let a = world.join(client("a"));
    assert!(got(&world, a).is_empty(), "it was done before b came");
}

#[test]
fn attempts_are_not_forgotten() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    world.settle(a, task, Outcome::Retry);
    world.restart();
    let a = world.join(client("a"));
    assert_eq!(attempts(&world, a), [(task, 2)], "the second was never heard of");
    world.checkpoint();
    world.restart();
    let a = world.join(client("a"));
    world.wait(RESTART_GRACE);
    assert_eq!(attempts(&world, a), [(task, 3)], "the checkpoint had seen it");
}

#[test]
fn a_delivery_that_the_end_of_its_stream_took_back_at_once_counts_if_a_checkpoint_came_between() {
    let mut world = world();
    let a = world.join(Join { window: Some(1), ..client("a") });
    let (one, two) = (world.broadcast("one"), world.broadcast("two"));
    world.sync();
    // All in one burst: the second task is given, kept, and lost before it left.
    world.hold(3);
    world.settle(a, one, Outcome::Done);
    world.checkpoint();
    world.leave(a);
    // That it was lost is not on disk.
    world.crash(2);
    let a = world.join(client("a"));
    world.wait(RESTART_GRACE);
    assert_eq!(attempts(&world, a), [(two, 2)]);
}

#[test]
fn a_task_that_is_open_when_the_server_starts_goes_to_one_client_only_however_often_it_starts() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    world.settle(a, task, Outcome::Retry);
    world.restart();
    world.checkpoint();
    world.restart();
    world.wait(RESTART_GRACE);
    let (a, b) = (world.join(client("a")), world.join(Join { group: Some(name("a")), ..anonymous("b") }));
    assert_eq!((attempts(&world, a), attempts(&world, b)), (&[(task, 2)][..], &[][..]));
    world.done(a, task);
    world.restart();
    let a = world.join(client("a"));
    assert!(got(&world, a).is_empty());
}

#[test]
fn what_was_with_a_client_is_held_back_for_it_after_a_restart() {
    let mut world = world();
    let one = world.join(worker("one"));
    let (kept, other) = (world.broadcast("kept"), world.broadcast("other"));
    let reporter = world.reporter(one);
    world.checkpoint();
    world.restart();
    let two = world.join(worker("two"));
    let one = world.join(worker("one"));
    world.report(&reporter, outcome_report(kept, 1, Outcome::Working));
    world.wait(RESTART_GRACE - SECOND);
    assert!(got(&world, one).is_empty() && got(&world, two).is_empty());
    world.wait(SECOND);
    assert_eq!([attempts(&world, one), attempts(&world, two)].concat(), [(other, 2)]);
    let result = world.done(one, kept);
    assert_eq!((result.attempt, result.late), (1, false));
}

#[test]
fn what_was_begun_before_a_restart_is_not_taken_back_while_its_client_may_come_back() {
    let mut world = world();
    let one = world.join(begins(worker("one")));
    let task = world.address("g", "work");
    world.settle(one, task, Outcome::Working);
    world.checkpoint();
    for _ in 0..2 {
        world.restart();
        assert_eq!(stands(&world, task), Standing::Begun);
        assert_eq!(world.core.take_back(&world.tasks[task as usize - 1].clone(), &[name("g")], world.now), 0);
        // What is written down meanwhile does not make the next start forget it.
        world.checkpoint();
    }
    world.wait(RESTART_GRACE);
    assert_eq!(stands(&world, task), Standing::Away);
    assert_eq!(world.core.take_back(&world.tasks[task as usize - 1].clone(), &[name("g")], world.now), 1);
}

/// Where a task stands with the group of the workers.
fn stands(world: &World, task: TaskId) -> Standing {
    world.core.standings(Some(&world.tasks[task as usize - 1]), &[name("g")], world.now)[0]
}

#[test]
fn a_page_that_was_read_before_a_task_in_it_was_cancelled_gives_nobody_that() {
    let mut world = world();
    world.eager = false;
    let high = |text| NewTask { priority: Priority::High, ..self::task(text) };
    let task = world.accept(vec![high("cancelled"), high("not")]);
    world.jump();
    let (passing, named) = (world.join(anonymous("peer")), world.join(client("a")));
    (0..world.reads.len()).for_each(|at| world.read_early(at));
    world.cancel(task);
    world.eager = true;
    while !world.reads.is_empty() {
        world.answer(0, true);
    }
    assert_eq!((got(&world, passing), got(&world, named)), (vec![task + 1], vec![task + 1]));
}

#[test]
fn what_it_says_after_a_restart_counts_before_its_stream_is_there() {
    let mut world = world();
    let a = world.join(client("a"));
    let tasks = [world.broadcast("kept"), world.broadcast("failed"), world.broadcast("retried")];
    let reporter = world.reporter(a);
    world.checkpoint();
    world.restart();
    for (task, outcome) in tasks.into_iter().zip([Outcome::Working, Outcome::Failed, Outcome::Retry]) {
        assert!(
            world.report(&reporter, outcome_report(task, 1, outcome)).is_none_or(|result| !result.late),
            "{outcome:?}"
        );
    }
    let a = world.join(client("a"));
    world.wait(ACK_TIMEOUT - SECOND);
    assert_eq!(attempts(&world, a), [(tasks[2], 2)]);
}

#[test]
fn a_delivery_that_no_checkpoint_knows_of_is_not_held_back() {
    let mut world = world();
    world.join(client("a"));
    let task = world.broadcast("work");
    world.restart();
    let a = world.join(client("a"));
    assert_eq!(attempts(&world, a), [(task, 1)]);
}

#[test]
fn what_went_out_is_in_a_checkpoint_a_second_later() {
    let mut world = world();
    world.join(client("a"));
    let task = world.broadcast("work");
    assert_eq!(world.due, Some(world.now.steady.after(SECOND)));
    world.wait_for_due();
    world.restart();
    let a = world.join(client("a"));
    assert!(got(&world, a).is_empty(), "it is held back for its client");
    world.wait(RESTART_GRACE);
    assert_eq!(attempts(&world, a), [(task, 2)]);
}

/// Commits tasks, has the one client read all it is sent, and waits for the next checkpoint: when that was, and what it has.
fn next_checkpoint(core: &mut Core, ids: impl Iterator<Item = TaskId>, spec: &NewTask, now: Now) -> (Now, Checkpoint) {
    let accepted_at = now.wall;
    core.committed(ids.map(|id| Arc::new(Task { id, accepted_at, spec: spec.clone() })).collect(), now);
    let mut at = now;
    loop {
        let actions = core.take_actions(at);
        for action in &actions {
            match action {
                Action::WatchRoom(id, sent) => core.stream_took(*id, *sent, at),
                Action::Checkpoint(checkpoint) if !checkpoint.groups.is_empty() => return (at, checkpoint.clone()),
                _ => {}
            }
        }
        if actions.is_empty() {
            at = at.after(core.tick(at).unwrap().since(at.steady));
            core.tick(at);
        }
    }
}

#[test]
fn checkpoints_are_made_less_often_where_they_are_large() {
    const OPEN: TaskId = 50_000;
    let config = Config { max_window: 1_000_000, ..Config::default() };
    let mut core = Core::new(config, Recovered::default(), START);
    core.join(Join { window: Some(1_000_000), ..client("a") }, 1, START).unwrap();
    core.take_actions(START);
    let mut now = START;
    for (ids, seconds) in [(1..=OPEN, 1), (OPEN + 1..=OPEN + 1, 5)] {
        let (at, checkpoint) = next_checkpoint(&mut core, ids.clone(), &task("work"), now);
        assert_eq!((at, checkpoint.groups[0].open.len()), (now.after(seconds * SECOND), *ids.end() as usize));
        now = at;
    }
}

/// Has every client read all it is sent; what went out, and which texts were asked for.
fn settle_down(core: &mut Core, now: Now) -> (Vec<Delivery>, Vec<(u64, Vec<TaskId>)>) {
    let (mut delivered, mut asked) = (Vec::new(), Vec::new());
    loop {
        core.tick(now);
        let actions = core.take_actions(now);
        if actions.is_empty() {
            return (delivered, asked);
        }
        for action in actions {
            match action {
                Action::WatchRoom(id, sent) => core.stream_took(id, sent, now),
                Action::Deliver(_, deliveries) => delivered.extend(deliveries),
                Action::Load(group, ids) => asked.push((group, ids)),
                _ => {}
            }
        }
    }
}

#[test]
fn no_client_holds_more_than_the_largest_window_whatever_it_wants() {
    let mut world = World::new(Config { max_window: 5, window: 9, ..world().config });
    let greedy = world.join(Join { window: Some(u32::MAX), ..client("greedy") });
    let silent = world.join(client("silent"));
    for _ in 0..20 {
        world.broadcast("work");
    }
    for session in [greedy, silent] {
        let info = world.core.client(session).unwrap();
        assert_eq!((info.window, info.in_flight), (Some(5), 5));
    }
}

/// With a quota that others share.
fn sharing(bytes: u64, join: Join) -> Join {
    Join { quota: Some(Quota { of: 7, window: 64, bytes }), ..join }
}

#[test]
fn what_an_identity_has_under_way_is_bounded_in_bytes_over_all_its_streams() {
    let mut world = world();
    // Each of these tasks counts for 228 bytes: four are more than 800.
    let text = "x".repeat(100);
    let a = world.join(sharing(800, client("a")));
    let w = world.join(sharing(800, worker("w")));
    let other = world.join(worker("other"));
    world.leave(other);
    for _ in 0..6 {
        world.broadcast(&text);
    }
    let held = |world: &World| [a, w].map(|id| world.core.client(id).unwrap().in_flight);
    assert_eq!(held(&world).iter().sum::<usize>(), 4, "{:?}", held(&world));
    // Another of the group goes on meanwhile, and nobody is given what it settles.
    let free = world.join(Join { window: Some(9), ..worker("free") });
    assert_eq!(world.core.client(free).unwrap().in_flight + held(&world)[1], 6);
    // One that is settled makes room for another: in whichever group.
    let first = got(&world, a)[0];
    world.done(a, first);
    assert_eq!(held(&world).iter().sum::<usize>(), 4);
    // What goes back with a stream counts no more.
    world.leave(a);
    let b = world.join(sharing(800, client("b")));
    for _ in 0..6 {
        world.address("b", &text);
    }
    assert_eq!(world.core.client(b).unwrap().in_flight + world.core.client(w).unwrap().in_flight, 4);
}

#[test]
fn a_task_that_is_larger_than_the_bound_goes_out_alone() {
    let mut world = world();
    let a = world.join(sharing(1, client("a")));
    let (one, two) = (world.broadcast("one"), world.broadcast("two"));
    assert_eq!(got(&world, a), [one]);
    world.done(a, one);
    assert_eq!(got(&world, a), [one, two]);
}

#[test]
fn other_bounds_of_an_identity_count_for_the_streams_it_has() {
    let mut world = world();
    let a = world.join(Join { window: Some(9), ..sharing(u64::MAX, client("a")) });
    let held = |world: &World| world.core.client(a).unwrap().in_flight;
    let set = |world: &mut World, window, bytes| {
        world.core.set_quotas(&[Quota { of: 7, window, bytes }], world.now);
        world.step(1);
    };
    set(&mut world, 2, u64::MAX);
    for _ in 0..20 {
        world.broadcast("work");
    }
    assert_eq!(held(&world), 2);
    set(&mut world, 4, u64::MAX);
    assert_eq!(held(&world), 4);
    set(&mut world, 100, 1);
    let first = got(&world, a)[0];
    world.done(a, first);
    assert_eq!(held(&world), 3, "it has more than it may, and gets no more");
    set(&mut world, 100, u64::MAX);
    assert_eq!(held(&world), 9, "its client wants no more");
}

#[test]
fn the_texts_and_data_of_what_was_sent_are_dropped_beyond_a_bound_and_read_again_when_it_comes_back() {
    const MB: usize = 1 << 20;
    const TASKS: TaskId = 150;
    let mut core = Core::new(Config::default(), Recovered::default(), START);
    core.join(Join { window: Some(1_000), ..client("a") }, 1, START).unwrap();
    let data = |id: TaskId| Attachment::new(Headers::default(), vec![id as u8; MB]);
    let spec = |id: TaskId| match id % 2 {
        0 => NewTask { max_attempts: Some(7), ..task(&format!("{id}{}", " ".repeat(MB))) },
        _ => NewTask { max_attempts: Some(7), attachment: data(id), ..task("") },
    };
    let mut texts = Vec::new();
    for id in 1..=TASKS {
        let task = Arc::new(Task { id, accepted_at: START.wall, spec: spec(id) });
        texts.push(Arc::downgrade(&task));
        core.committed(vec![task], START);
        assert_eq!(settle_down(&mut core, START).0.len(), 1);
    }
    assert_eq!(core.client(1).unwrap().in_flight as TaskId, TASKS);
    let kept = || texts.iter().filter(|text| text.strong_count() > 0).count();
    // The newest, for all groups together, are 16 MiB.
    assert!((32..=33 + 16).contains(&kept()), "{} MiB are in memory", kept());
    core.check().unwrap();
    // What it held goes to another, with all of its text.
    core.leave(1, START);
    core.join(Join { window: Some(1_000), ..client("a") }, 2, START).unwrap();
    let (mut again, mut asked) = settle_down(&mut core, START);
    assert!(kept() <= 33 + 16, "{} MiB are in memory", kept());
    assert!(!asked.is_empty(), "no text is read again");
    while let Some((group, ids)) = asked.pop() {
        let read = ids.iter().map(|id| Task { id: *id, accepted_at: START.wall, spec: spec(*id) }).collect();
        core.loaded(group, &ids, Some(read), START);
        let (more, further) = settle_down(&mut core, START);
        again.extend(more);
        asked.extend(further);
    }
    again.sort_by_key(|delivery| delivery.task.id);
    assert_eq!(again.len() as TaskId, TASKS);
    for (id, delivery) in (1..).zip(&again) {
        assert_eq!((delivery.task.id, delivery.attempt, delivery.max_attempts), (id, 2, Some(7)));
        assert!(delivery.task.spec == spec(id), "task {id} is as it was");
    }
    core.check().unwrap();
}

#[test]
fn no_more_groups_come_than_may_be_and_those_that_are_there_go_on() {
    let config = Config { max_groups: 2, anonymous_group: Some(name("all")), ..Config::default() };
    let mut core = Core::new(config, Recovered::default(), START);
    core.join(client("a"), 1, START).unwrap();
    core.pause(&name("b"), true, START).unwrap();
    let full = GroupError::TooMany(2);
    assert_eq!(core.join(client("c"), 2, START), Err(JoinError::Group(full.clone())));
    assert_eq!(core.pause(&name("c"), true, START), Err(full.clone()));
    assert_eq!(core.set_retry(&name("c"), "max=5".parse().unwrap(), START), Err(full));
    assert_eq!(core.groups(START).len(), 2, "nothing was changed");
    // Those that are there, and the one that the operator named.
    core.join(client("b"), 3, START).unwrap();
    core.join(client("a"), 4, START).unwrap();
    core.join(Join { peer: "somewhere".into(), ..Join::default() }, 5, START).unwrap();
    core.leave(3, START);
    core.remove_group(&name("b"), START).unwrap();
    core.remove_group(&name("b"), START).unwrap_err();
    core.leave(5, START);
    core.remove_group(&name("all"), START).unwrap();
    core.join(client("c"), 6, START).unwrap();
}

#[test]
fn late_results_of_a_task_and_group_are_bounded_in_number_and_length() {
    let mut core = Core::new(Config::default(), Recovered::default(), START);
    core.join(client("a"), 1, START).unwrap();
    let tasks = (1..=2).map(|id| Arc::new(Task { id, accepted_at: START.wall, spec: task("work") })).collect();
    core.committed(tasks, START);
    settle_down(&mut core, START);
    let from = |group: &str| Reporter { client: None, group: Some(name(group)), peer: "somewhere".into() };
    let mut told = |group: &str, task| {
        let report = OutcomeReport { ret: "长".repeat(100_000), ..outcome_report(task, 9, Outcome::Failed) };
        core.report(&from(group), vec![report; 3 * MOST_LATE as usize], START);
        let recorded = core.take_actions(START).into_iter().filter_map(|action| match action {
            Action::Record(results) => Some(results),
            _ => None,
        });
        recorded.flatten().collect::<Vec<_>>()
    };
    // With its client, of an attempt that there was not; and the same of a task that does not exist any more.
    for task in [1, 2] {
        let results = told("a", task);
        assert_eq!(results.len(), MOST_LATE as usize);
        assert!(results.iter().all(|result| result.late && (4090..=4096).contains(&result.ret.len())));
        assert_eq!(told("a", task).len(), 0, "and no more");
    }
    let of_no_group: usize = (0..100).map(|n| told(&format!("none-{n}"), 1).len()).sum();
    assert_eq!(of_no_group, MOST_LATE as usize, "all groups that there are not count as one");
    assert_eq!(told("none", 0).len(), 3 * MOST_LATE as usize, "what names no task stands in no ledger");
    let holder = Reporter { client: Some(name("a")), ..from("a") };
    core.report(&holder, vec![outcome_report(1, 1, Outcome::Done)], START);
    let counts = |action: &Action| matches!(action, Action::Record(results) if results.len() == 1 && !results[0].late);
    assert!(core.take_actions(START).iter().any(counts), "what counts is written down");
}

#[test]
fn texts_that_are_read_to_go_out_again_are_bounded_for_all_groups_together_and_each_goes_on() {
    const MB: usize = 1 << 20;
    const EACH: TaskId = 40;
    const GROUPS: usize = 5;
    let spec = |group: usize| NewTask { to: Some(name(&format!("g{group}"))), ..task(&" ".repeat(MB)) };
    let stored = |id: TaskId| Task { id, accepted_at: START.wall, spec: spec(id as usize % GROUPS) };
    let open = |id| OpenTask {
        id,
        attempts: Attempts::default().delivered(true),
        not_before: None,
        lane: None,
        place: LanePlace::None,
    };
    let head = EACH * GROUPS as TaskId;
    let group = |n: usize| GroupState {
        name: name(&format!("g{n}")),
        created_at: START.wall,
        broadcast_after: 0,
        paused: false,
        retry: RetryPolicy::default(),
        limits: GroupLimits::default(),
        lanes: vec![],
        labels: Labels::default(),
        last_used: START.wall,
        cursors: [head; 3],
        taken_up: vec![],
        open: (1..=head).filter(|id| *id as usize % GROUPS == n).map(open).collect(),
    };
    let positions = Positions { task: head, ..Positions::default() };
    let groups = (0..GROUPS).map(group).collect();
    let mut core = Core::new(Config::default(), Recovered { positions, groups, ..Recovered::default() }, START);
    // Each has a client that takes one task at a time, and so leaves the others in memory.
    for n in 0..GROUPS {
        core.join(Join { window: Some(1), ..client(&format!("g{n}")) }, n as u64 + 1, START).unwrap();
    }
    let (mut now, mut texts, mut settled) = (START.after(60 * SECOND), Vec::new(), 0);
    while settled < head {
        let (delivered, asked) = settle_down(&mut core, now);
        for (group, ids) in asked {
            // As the thread does that reads them.
            for ids in ids.chunks(8) {
                let tasks: Vec<Task> = ids.iter().map(|id| stored(*id)).collect();
                core.loaded(group, ids, Some(tasks), now);
            }
        }
        texts.extend(delivered.iter().map(|delivery| Arc::downgrade(&delivery.task)));
        core.check().unwrap();
        let kept = core.texts_in_memory() / MB;
        assert!(kept <= 64 + 8 + GROUPS, "{kept} MiB are in memory");
        for delivery in delivered {
            assert_eq!(delivery.task.spec.text.len(), MB);
            let of = delivery.task.id as usize % GROUPS;
            let reporter = Reporter { client: Some(name(&format!("g{of}"))), group: None, peer: "here".into() };
            core.report(&reporter, vec![outcome_report(delivery.task.id, 0, Outcome::Done)], now);
            settled += 1;
        }
        now = now.after(SECOND);
    }
}

#[test]
fn that_a_client_is_there_is_written_down_once_a_day() {
    let mut core = Core::new(Config::default(), Recovered::default(), START);
    core.join(client("idle"), 1, START).unwrap();
    core.checkpoint(START);
    core.take_actions(START);
    let mut last_used = |now: Now| {
        core.checkpoint(now);
        let actions = core.take_actions(now);
        let groups = actions.into_iter().find_map(|action| match action {
            Action::Checkpoint(checkpoint) => Some(checkpoint.groups),
            _ => None,
        });
        groups.unwrap().first().map(|group| group.last_used)
    };
    let hours = |hours: u32| START.after(3600 * hours * SECOND);
    assert_eq!(last_used(hours(23)), None, "nothing has changed");
    assert_eq!(last_used(hours(24)), Some(hours(24).wall));
    assert_eq!(last_used(hours(25)), None);
}

#[test]
fn while_the_clock_is_set_back_a_group_does_not_come_to_look_unused() {
    let mut core = Core::new(Config::default(), Recovered::default(), START);
    core.join(client("gone"), 1, START).unwrap();
    let left = START.after(48 * 3600 * SECOND);
    core.leave(1, left);
    // For a moment the clock shows an earlier time, and just then something of the group is stored.
    let back = Now { wall: START.wall, ..left };
    core.pause(&name("gone"), true, back).unwrap();
    core.checkpoint(back);
    let stored = core.take_actions(back).into_iter().find_map(|action| match action {
        Action::Checkpoint(checkpoint) => Some(checkpoint.groups[0].last_used),
        _ => None,
    });
    assert_eq!(stored, Some(back.wall), "no later than now");
    assert_eq!(core.groups(left)[0].last_used, left.wall);
}

#[test]
fn what_is_owed_again_is_noticed_by_who_removes() {
    let mut world = world();
    let a = world.join(client("a"));
    world.broadcast("work");
    world.core.report(
        &Reporter { client: Some(name("a")), group: None, peer: "a".into() },
        vec![outcome_report(1, 1, Outcome::Failed)],
        world.now,
    );
    let (floors, before) = (world.core.settled_floors(), world.core.reopened());
    let failed = Task { id: 1, accepted_at: world.now.wall, spec: task("work") };
    assert!(world.core.revive(&name("a"), &failed, world.now), "{a}");
    assert_ne!(world.core.reopened(), before);
    assert_ne!(world.core.settled_floors(), floors);
}

#[test]
fn a_checkpoint_has_of_the_delayed_tasks_those_that_changed() {
    const OPEN: TaskId = 50_000;
    let now = START.wall;
    let open = |id| OpenTask {
        id,
        attempts: Attempts::default(),
        not_before: Some(now.after(1000 * SECOND)),
        lane: None,
        place: LanePlace::None,
    };
    let group = GroupState {
        name: name("a"),
        created_at: now,
        broadcast_after: 0,
        paused: false,
        retry: RetryPolicy::default(),
        limits: GroupLimits::default(),
        lanes: vec![],
        labels: Labels::default(),
        last_used: now,
        cursors: [OPEN; 3],
        taken_up: vec![],
        // As a store of before schema 3 has it.
        open: (1..=3).map(open).collect(),
    };
    let positions = Positions { task: OPEN, ..Positions::default() };
    let rows = BTreeMap::from([(name("a"), (4..=OPEN).map(open).collect())]);
    let recovered = Recovered { positions, groups: vec![group], open: rows, ..Recovered::default() };
    let mut core = Core::new(Config::default(), recovered, START);
    core.join(client("a"), 1, START).unwrap();

    let changed = |(_, checkpoint): (Now, Checkpoint)| {
        let list: Vec<_> = checkpoint.groups[0].open.iter().map(|open| open.id).collect();
        let rows = checkpoint.open.get(&name("a")).cloned().unwrap_or_default();
        (list, rows.into_iter().map(|(id, row)| (id, row.is_some())).collect::<Vec<_>>())
    };
    let first = changed(next_checkpoint(&mut core, OPEN + 1..=OPEN + 1, &task("work"), START));
    assert_eq!(first, (vec![OPEN + 1], vec![(1, true), (2, true), (3, true)]));
    let far = NewTask { not_before: open(1).not_before, ..task("later") };
    let second = changed(next_checkpoint(&mut core, OPEN + 2..=OPEN + 2, &far, START));
    assert_eq!(second, (vec![OPEN + 1], vec![(OPEN + 2, true)]));
    // An outcome of one that waits.
    let reporter = Reporter { client: Some(name("a")), group: None, peer: "a".into() };
    core.report(&reporter, vec![outcome_report(7, 0, Outcome::Done)], START);
    let third = changed(next_checkpoint(&mut core, OPEN + 3..=OPEN + 3, &task("work"), START));
    assert_eq!(third, (vec![OPEN + 1, OPEN + 3], vec![(7, false)]));
    // A wait is stored with the time of day: when that has stepped, its row is wrong, and only then it is written anew.
    let retry = OutcomeReport { delay: 100 * SECOND, ..outcome_report(OPEN + 1, 0, Outcome::Retry) };
    core.report(&reporter, vec![retry], START);
    let stepped = Now { wall: START.wall.after(500 * SECOND), ..START };
    for (id, now, written) in [(OPEN + 4, START, true), (OPEN + 5, START, false), (OPEN + 6, stepped, true)] {
        let (at, checkpoint) = next_checkpoint(&mut core, id..=id, &task("work"), now);
        let rows: Vec<_> = checkpoint.open.values().flat_map(|rows| rows.values().flatten()).collect();
        assert_eq!(rows.iter().map(|open| open.id).collect::<Vec<_>>(), [OPEN + 1][..usize::from(written)]);
        let until = at.wall_at(START.after(100 * SECOND).steady);
        assert!(rows.iter().all(|open| open.not_before == Some(until)), "{rows:?}");
    }
}

/// What waits for a group, and the oldest of it.
fn lag(world: &World, group: &str) -> (u64, Option<TaskId>) {
    let groups = world.core.groups(world.now);
    let group = groups.iter().find(|info| info.name == name(group)).unwrap();
    assert!(!group.counting, "{group:?}");
    let oldest = group.oldest_new.map(|(id, _)| id).into_iter().chain(group.oldest_open).min();
    (group.lag, oldest)
}

#[test]
fn what_waits_for_a_group_is_counted_as_it_changes() {
    let mut world = world_of(StartAt::First);
    world.broadcast("before all");
    world.pause("idle", true);
    assert_eq!(lag(&world, "idle"), (1, Some(1)), "what was there when it came");
    // Tasks 2 to 5: of two priorities, for everyone, for it and for another, in one commit.
    let to = |group: &str| NewTask { to: Some(name(group)), ..task("own") };
    let specs = vec![task("all"), to("idle"), to("other"), NewTask { priority: Priority::High, ..to("idle") }];
    world.accept(specs.clone());
    world.announce();
    assert_eq!(lag(&world, "idle"), (4, Some(1)));
    let a = world.join(client("a"));
    assert_eq!(got(&world, a), [1, 2]);
    assert_eq!(lag(&world, "a"), (2, Some(1)), "with a client they wait, too");
    world.done(a, 1);
    assert_eq!(lag(&world, "a"), (1, Some(2)));
    world.done(a, 2);
    assert_eq!((lag(&world, "a"), lag(&world, "idle")), ((0, None), (4, Some(1))));
    // Too many to be handed over.
    world.accept([specs.clone(), specs].concat());
    world.jump();
    assert_eq!(lag(&world, "idle"), (10, Some(1)));
    world.cancel(3);
    assert_eq!(lag(&world, "idle"), (9, Some(1)));
    world.restart();
    assert_eq!(lag(&world, "idle"), (9, Some(1)));
    // A new group: all there is, or only what is its own.
    world.pause("other", true);
    assert_eq!(lag(&world, "other"), (7, Some(1)));
    let late = world.join(Join { from: Some(StartAt::New), ..client("late") });
    assert_eq!((got(&world, late), lag(&world, "late")), (vec![], (0, None)));
    world.broadcast("for all");
    assert_eq!((lag(&world, "late"), lag(&world, "other")), ((1, Some(14)), (8, Some(1))));
}

#[test]
fn what_was_removed_does_not_wait_for_a_group_that_comes_later() {
    let mut world = world_of(StartAt::First);
    let a = world.join(client("a"));
    for task in 1..=3 {
        world.broadcast("work");
        world.done(a, task);
    }
    world.pause("b", true);
    assert_eq!((lag(&world, "b"), world.remove_settled()), ((3, Some(1)), 0), "b holds them");
    assert!(world.remove_group("b"));
    assert_eq!(world.remove_settled(), 3);
    world.broadcast("work");
    world.pause("b", true);
    assert_eq!(lag(&world, "b"), (1, Some(4)));
    world.pause("c", true);
    assert_eq!(lag(&world, "c"), (1, Some(4)));
}

#[test]
fn a_task_that_was_given_back_before_a_restart_waits_for_nobody() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    world.checkpoint();
    world.leave(a);
    world.restart();
    let a = world.join(client("a"));
    assert_eq!(attempts(&world, a), [(task, 2)]);
}

#[test]
fn a_task_that_was_taken_back_after_a_restart_is_a_dead_letter_when_its_attempts_are_used_up() {
    let mut world = world();
    let a = world.join(client("a"));
    let id = world.submit(NewTask { max_attempts: Some(1), ..task("once") });
    let reporter = world.reporter(a);
    world.checkpoint();
    world.restart();
    let a = world.join(client("a"));
    world.report(&reporter, outcome_report(id, 1, Outcome::Working));
    world.settle(a, id, Outcome::Retry);
    assert_eq!((got(&world, a), outcomes(&world, id)), (vec![], vec![Outcome::Retry, Outcome::Exhausted]));
}

#[test]
fn a_delay_outlives_a_restart() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    let retry = OutcomeReport { delay: 5 * SECOND, ..outcome_report(task, 1, Outcome::Retry) };
    world.report(&world.reporter(a), retry);
    world.restart();
    let a = world.join(client("a"));
    assert!(got(&world, a).is_empty());
    world.wait(5 * SECOND);
    assert_eq!(attempts(&world, a), [(task, 2)]);
}

#[test]
fn a_restart_gives_no_attempt_more_than_there_are() {
    let mut world = world();
    world.join(client("a"));
    let id = world.submit(NewTask { max_attempts: Some(1), ..task("once") });
    world.checkpoint();
    world.restart();
    let a = world.join(client("a"));
    world.wait(RESTART_GRACE);
    assert_eq!((got(&world, a), outcomes(&world, id)), (vec![], vec![Outcome::Exhausted]));
}

#[test]
fn what_expired_once_does_not_expire_again_after_a_restart() {
    let mut world = world();
    let a = world.join(client("a"));
    let id = world.submit(NewTask { expires_at: Some(world.now.wall.after(SECOND)), ..task("soon") });
    world.leave(a);
    world.checkpoint();
    world.wait(SECOND);
    world.join(client("a"));
    world.checkpoint();
    world.restart();
    world.join(client("a"));
    assert_eq!(outcomes(&world, id), [Outcome::Lost, Outcome::Expired]);
}

#[test]
fn a_done_of_a_low_task_that_a_restart_forgot_counts() {
    let mut world = world();
    let (low, normal) = (1, 2);
    world.accept(vec![NewTask { priority: Priority::Low, ..task("low") }, task("normal")]);
    world.announce();
    let a = world.join(Join { window: Some(1), ..client("a") });
    world.checkpoint();
    world.done(a, normal);
    assert_eq!(got(&world, a), [normal, low]);
    world.restart();
    let reporter = Reporter { client: Some(name("a")), group: None, peer: "a".into() };
    assert!(!world.report(&reporter, outcome_report(low, 1, Outcome::Done)).unwrap().late);
    world.restart();
    let a = world.join(client("a"));
    assert!(got(&world, a).is_empty());
}

#[test]
fn what_the_store_had_not_synced_when_the_server_died_is_asked_for_again() {
    let mut world = world();
    let a = world.join(client("a"));
    world.sync();
    let task = world.broadcast("work");
    world.done(a, task);
    world.crash(0);
    let a = world.join(client("a"));
    assert_eq!(attempts(&world, a), [(task, 1)]);
}

// ---- operators

#[test]
fn a_paused_group_gets_nothing_until_it_is_resumed() {
    let mut world = world();
    world.join(client("a"));
    world.broadcast("before");
    world.pause("a", true);
    let task = world.broadcast("work");
    world.restart();
    let a = world.join(client("a"));
    assert!(got(&world, a).is_empty());
    world.pause("a", false);
    assert_eq!(got(&world, a), [task]);
}

#[test]
fn a_group_may_be_paused_before_its_first_client_comes() {
    let mut world = world();
    world.pause("a", true);
    let task = world.broadcast("work");
    world.restart();
    let a = world.join(client("a"));
    assert!(got(&world, a).is_empty());
    world.pause("b", false);
    assert!(!world.core.groups(world.now).iter().any(|group| group.name.as_str() == "b"), "there is nothing to resume");
    world.pause("a", false);
    assert_eq!(got(&world, a), [task]);
}

#[test]
fn what_expires_before_a_client_was_given_it_is_counted_until_none_was_added_for_a_while() {
    let mut world = world();
    let a = world.join(Join { window: Some(1), ..client("a") });
    let held = world.broadcast("held");
    let expiring = |world: &World| {
        let expires_at = Some(world.now.wall.after(SECOND));
        NewTask { expires_at, ..task("in a hurry") }
    };
    let undelivered = |world: &World| world.core.groups(world.now)[0].undelivered.count;
    for _ in 0..2 {
        world.submit(expiring(&world));
    }
    world.wait(2 * SECOND);
    world.settle(a, held, Outcome::Working);
    assert!(!world.done(a, held).late);
    assert_eq!(undelivered(&world), 2);
    // One that a client has is not among them.
    let delivered = world.submit(expiring(&world));
    assert_eq!(got(&world, a), [held, delivered]);
    world.wait(2 * SECOND);
    world.leave(a);
    let a = world.join(Join { window: Some(1), ..client("a") });
    assert_eq!(outcomes(&world, delivered).last(), Some(&Outcome::Expired));
    assert_eq!(undelivered(&world), 2);
    // After a while they are counted anew.
    world.wait(Undelivered::RECENT);
    let held = world.broadcast("held");
    world.submit(expiring(&world));
    world.wait(2 * SECOND);
    world.done(a, held);
    assert_eq!(undelivered(&world), 1);
}

#[test]
fn a_drained_client_gets_no_more_tasks_and_finishes_what_it_has() {
    let mut world = world();
    let one = world.join(Join { window: Some(2), ..worker("one") });
    let held = world.broadcast("held");
    let two = world.join(Join { window: Some(2), ..worker("two") });
    let drained = world.drain("one", None).unwrap();
    assert_eq!(drained.clients[0].in_flight, 1, "what it has");
    let others: Vec<_> = (0..3).map(|_| world.broadcast("work")).collect();
    assert_eq!((got(&world, one), got(&world, two)), (vec![held], others[..2].to_vec()));
    assert!(!world.done(one, held).late);
    assert_eq!(got(&world, one), [held], "though it has nothing now, and a task waits");
    assert!(world.undrain("one"));
    assert_eq!(got(&world, one), [held, others[2]]);
    assert!(!world.undrain("one"), "it is not drained any more");
}

#[test]
fn who_is_drained_stays_so_when_it_comes_back_and_after_a_restart() {
    let mut world = world();
    let one = world.join(client("one"));
    world.drain("one", None).unwrap();
    world.leave(one);
    let one = world.join(client("one"));
    let task = world.broadcast("work");
    assert!(got(&world, one).is_empty());
    world.restart();
    let one = world.join(client("one"));
    assert!(got(&world, one).is_empty());
    world.leave(one);
    assert!(world.undrain("one"), "also while it is away");
    world.restart();
    let one = world.join(client("one"));
    assert_eq!(got(&world, one), [task]);
}

#[test]
fn who_is_drained_for_a_time_gets_tasks_again_when_it_is_over() {
    let mut world = world();
    let one = world.join(client("one"));
    let unnamed = world.join(anonymous("somewhere"));
    world.drain("one", Some(60 * SECOND)).unwrap();
    world.drain("somewhere", Some(60 * SECOND)).unwrap();
    let task = world.broadcast("work");
    world.wait(59 * SECOND);
    assert_eq!((got(&world, one), got(&world, unnamed)), (vec![], vec![]));
    world.wait(SECOND);
    assert_eq!((got(&world, one), got(&world, unnamed)), (vec![task], vec![task]));
    // Also when the server was started again in between.
    world.done(one, task);
    world.drain("one", Some(60 * SECOND)).unwrap();
    world.restart();
    let one = world.join(client("one"));
    let task = world.broadcast("work");
    assert!(got(&world, one).is_empty());
    // And whatever becomes of the time of day.
    world.step(3_600_000);
    world.wait(59 * SECOND);
    assert!(got(&world, one).is_empty());
    world.step(-7_200_000);
    world.wait(SECOND);
    assert_eq!(got(&world, one), [task]);
}

#[test]
fn an_address_stands_for_its_streams_for_as_long_as_they_last() {
    let mut world = world();
    let streams = [world.join(anonymous("ipv4:10.0.0.7:5000")), world.join(anonymous("ipv4:10.0.0.7:5000"))];
    let other = world.join(anonymous("ipv4:10.0.0.8:5000"));
    assert_eq!(world.core.drain("10.0.0.7:5000", None, "", world.now).unwrap().clients.len(), 2);
    world.core.undrain("10.0.0.7:5000", world.now).unwrap();
    assert_eq!(world.drain("ipv4:10.0.0.7:5000", None).unwrap().clients.len(), 2);
    let task = world.broadcast("news");
    assert_eq!(got(&world, other), [task]);
    assert!(streams.iter().all(|stream| got(&world, *stream).is_empty()));
    world.leave(streams[0]);
    let again = world.join(anonymous("ipv4:10.0.0.7:5000"));
    assert_eq!(got(&world, again), [task], "it is another client now");
    assert!(got(&world, streams[1]).is_empty());
    // The address of a client with an id means the client.
    world.join(Join { peer: "ipv4:10.0.0.9:1".into(), ..client("one") });
    assert!(world.core.drain("ipv4:10.0.0.9:1", None, "", world.now).is_ok());
    assert!(world.core.undrain("one", world.now).unwrap().changed);
}

#[test]
fn a_client_that_is_about_to_stop_is_drained_and_keeps_what_it_has() {
    let mut world = world();
    let member = || begins(of_process(worker("one"), "x"));
    let one = world.join(member());
    let task = world.broadcast("work");
    world.report(&world.reporter(one), outcome_report(task, 1, Outcome::Working));
    let stopping = world.join(Join { stopping: true, ..member() });
    let next = world.broadcast("more work");
    world.report(&world.reporter(stopping), outcome_report(task, 1, Outcome::Working));
    world.wait(GRACE);
    assert!(got(&world, stopping).is_empty(), "nothing more, and what it has is still with it");
    let two = world.join(worker("two"));
    assert_eq!(got(&world, two), [next]);
    assert!(!world.undrain("one"), "nobody but itself wants it so");
    assert!(!world.done(stopping, task).late);
}

#[test]
fn who_is_not_there_is_not_drained_and_a_thousand_clients_at_most_are() {
    let at = |millis| Now { wall: Time(millis), steady: Steady(1) };
    let mut core = Core::new(Config::default(), Recovered::default(), at(0));
    let drain = |core: &mut Core, who: &str, when| core.drain(who, None, "", at(when));
    assert_eq!(drain(&mut core, "nobody", 0).unwrap_err(), DrainError::Unknown("nobody".into()));
    assert!(matches!(core.undrain("nobody", at(0)), Err(DrainError::Unknown(_))));
    for n in 0..=MOST_DRAINS + 2 {
        core.join(client(&format!("c{n}")), n as SessionId, at(0)).unwrap();
    }
    let note = "x".repeat(LONGEST_NOTE + 1);
    assert_eq!(core.drain("c0", None, &note, at(0)).unwrap_err(), DrainError::Note(LONGEST_NOTE + 1));
    assert!(core.drain("c0", None, &note[1..], at(0)).is_ok());
    for n in 1..MOST_DRAINS {
        drain(&mut core, &format!("c{n}"), n as i64).unwrap();
    }
    // Of those that are not there, the one goes that was drained first.
    core.leave(7, at(0));
    core.leave(5, at(0));
    for (more, forgotten) in [(MOST_DRAINS, "c5"), (MOST_DRAINS + 1, "c7")] {
        let drained = drain(&mut core, &format!("c{more}"), 0).unwrap();
        assert_eq!(drained.forgotten, Some(name(forgotten)));
    }
    let last = format!("c{}", MOST_DRAINS + 2);
    assert_eq!(drain(&mut core, &last, 0).unwrap_err(), DrainError::TooMany);
    assert!(drain(&mut core, "c1", 0).is_ok(), "who is drained already may be again");
}

#[test]
fn a_cancelled_task_stays_cancelled_after_a_restart() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    world.leave(a);
    world.checkpoint();
    assert_eq!(world.cancel(task).groups(), 1);
    world.checkpoint();
    world.restart();
    let a = world.join(client("a"));
    assert_eq!((got(&world, a), outcomes(&world, task)), (vec![], vec![Outcome::Lost, Outcome::Cancelled]));
}

#[test]
fn a_revived_task_goes_out_again_with_fresh_attempts() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    world.settle(a, task, Outcome::Failed);
    assert!(world.revive("a", task));
    assert!(!world.revive("a", task), "it is open");
    assert_eq!(attempts(&world, a), [(task, 1), (task, 1)]);
    world.restart();
    let a = world.join(client("a"));
    assert_eq!(attempts(&world, a), [(task, 1)]);
}

#[test]
fn a_revival_that_the_store_had_not_synced_when_the_server_died_leaves_the_attempts_as_they_were() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    world.settle(a, task, Outcome::Retry);
    world.checkpoint();
    world.sync();
    world.settle(a, task, Outcome::Failed);
    assert!(world.revive("a", task));
    world.crash(0);
    let a = world.join(client("a"));
    world.wait(RESTART_GRACE);
    assert_eq!(attempts(&world, a), [(task, 3)], "the checkpoint had seen the second");
}

#[test]
fn a_revived_task_waits_for_its_time_too() {
    let mut world = world();
    let a = world.join(client("a"));
    let id = world.submit(NewTask { not_before: Some(world.now.wall.after(SECOND)), ..task("later") });
    let by = world.reporter(a);
    world.report(&by, proven(outcome_report(id, 1, Outcome::Done)));
    assert!(world.revive("a", id));
    assert!(got(&world, a).is_empty());
    world.wait_for_due();
    assert_eq!(attempts(&world, a), [(id, 1)]);
}

#[test]
fn a_group_that_was_removed_and_comes_again_starts_anew() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    world.done(a, task);
    assert!(!world.remove_group("a"), "somebody uses it");
    world.leave(a);
    assert!(world.remove_group("a"));
    world.restart();
    let a = world.join(client("a"));
    assert_eq!(attempts(&world, a), [(task, 1)]);
}

#[test]
fn a_client_that_wants_heartbeats_gets_one_after_so_much_silence() {
    let mut world = world();
    let a = world.join(Join { heartbeat: Some(SECOND), ..anonymous("a") });
    (0..3).for_each(|_| world.wait_for_due());
    assert_eq!(world.streams[&a].heartbeats, 3);
}

/// What the state machine does for a broadcast and ten thousand groups that are there, until it is settled by all.
#[test]
#[ignore = "a measurement"]
fn what_a_selective_broadcast_costs() {
    const GROUPS: u64 = 10_000;
    let config = Config { max_groups: usize::MAX, window: 1024, ..Config::default() };
    let mut core = Core::new(config, Recovered::default(), START);
    for n in 0..GROUPS {
        let labels = format!("host=h{n},os={},role=r{}", ["linux", "mac"][n as usize % 2], n % 100);
        core.join(labelled(&format!("h{n}"), &labels), n + 1, START).unwrap();
    }
    core.take_actions(START);
    let tasks = [
        ("for everyone", task("for everyone")),
        ("for half of them", selecting("os=linux")),
        ("for one in a hundred", selecting("role in (r7),os")),
        ("for one", selecting("host=h77")),
        ("for two by name", for_groups(&["h1", "h2"])),
    ];
    let mut id = 0;
    for (what, spec) in tasks {
        let mut times: Vec<Duration> = (0..5)
            .map(|_| {
                id += 1;
                let task = Arc::new(Task { id, accepted_at: START.wall, spec: spec.clone() });
                let began = std::time::Instant::now();
                core.committed(vec![task], START);
                let given = core.take_actions(START).into_iter().filter_map(|action| match action {
                    Action::Deliver(session, _) => Some(session),
                    _ => None,
                });
                for session in given.collect::<Vec<_>>() {
                    let client = Some(name(&format!("h{}", session - 1)));
                    let by = Reporter { client, group: None, peer: format!("h{}", session - 1).as_str().into() };
                    core.report(&by, vec![outcome_report(id, 1, Outcome::Done)], START);
                }
                core.take_actions(START);
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("{what}: {:?}", times[times.len() / 2]);
    }
}

#[test]
fn heartbeats_of_many_come_one_after_the_other_though_all_heard_something_at_once() {
    const CLIENTS: usize = 256;
    let mut world = world();
    let join = |n: usize| Join { heartbeat: Some(10 * SECOND), ..anonymous(&format!("a{n}")) };
    let clients: Vec<_> = (0..CLIENTS).map(|n| world.join(join(n))).collect();
    for task in ["one", "two"] {
        world.broadcast(task);
        let heard = |world: &World| -> Vec<usize> { clients.iter().map(|id| world.streams[id].heartbeats).collect() };
        let before = heard(&world);
        let mut sum: usize = before.iter().sum();
        for _ in 0..10 {
            world.wait(SECOND);
            let now = heard(&world).iter().sum::<usize>();
            assert!(now - sum <= CLIENTS / 4, "{} of {CLIENTS} in a second", now - sum);
            sum = now;
        }
        let heard = heard(&world);
        assert!(
            before.iter().zip(&heard).all(|(before, now)| (1..=2).contains(&(now - before))),
            "{before:?} {heard:?}"
        );
        world.wait(13 * SECOND);
    }
}

// ---- everything at once

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/broker/failures.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_life_ends_with_every_task_settled_once((config, eager, ops) in ops::life(80)) {
        ops::live(config, eager, &ops);
    }

    #[test]
    fn any_life_of_replacement_gives_the_newest_out_and_nothing_beside_it((config, eager, ops) in ops::life_of_replacement(80)) {
        ops::live(config, eager, &ops);
    }

    #[test]
    fn any_life_of_runs_ends_with_each_target_through_once((config, eager, ops) in ops::life_of_runs(80)) {
        ops::live(config, eager, &ops);
    }
}
