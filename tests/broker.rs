//! The broker's state machine, as clients and operators see it.
//!
//! First what is promised, one sentence a test. At the end random lives: a model checks every step of them, and that in the
//! end, when everybody behaves, every task is settled. `cargo test` lives a few hundred; for a night's run:
//!
//! ```text
//! PROPTEST_CASES=200000 cargo test --test pure any_life
//! ```

mod model;
mod ops;
mod world;

use std::sync::Arc;
use std::time::Duration;

use contact::attempts::Attempts;
use contact::broker::{Action, Closed, Config, Core, Join, OutcomeReport, Reporter, RevokeReason, SessionId, StartAt};
use contact::now::Now;
use contact::retry::Retry;
use contact::store::{GroupState, OpenTask, Positions, Recovered};
use contact::task::{NewTask, Outcome, Priority, Task, TaskId, Time};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use model::Logged;
use world::{START, World, name, outcome_report};

const ACK_TIMEOUT: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
/// What [`Config::default`] has it.
const RESTART_GRACE: Duration = Duration::from_secs(5);
/// How long a client whose stream broke may take to say that it is still at work.
const GRACE: Duration = Duration::from_secs(5);

fn world() -> World {
    World::new(Config {
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
    Join { client: Some(name(id)), ..anonymous(id) }
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
    world.drain();
    world.done(before, first);
    world.broadcast("later still");
    assert_eq!(got(&world, before), [first]);
    world.restart();
    let after = world.join(worker("one"));
    assert_eq!(attempts(&world, after), [(second, 1)], "no attempt is used up by what went to nobody");
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
fn who_comes_first_with_from_new_gets_what_comes_after() {
    let mut world = world();
    world.broadcast("before");
    let a = world.join(Join { from: Some(StartAt::New), ..client("a") });
    let after = world.broadcast("after");
    assert_eq!(got(&world, a), [after]);
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
        assert_eq!(world.reads.len(), 1, "one class after the other");
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
fn a_client_that_reads_bit_by_bit_gets_everything() {
    let mut world = world();
    let stream = world.join(anonymous("slow"));
    world.streams.get_mut(&stream).unwrap().slow = true;
    world.accept(vec![task(&"x".repeat(60_000)), task(&"x".repeat(1 << 20)), task("last")]);
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
        world.step(step);
        assert_eq!(got(&world, a), [held, waits], "nothing goes out because of a step");
        world.wait(SECOND);
        assert_eq!(got(&world, a), [held, waits, waits], "what waits does so for as long as it was to");
        world.done(a, waits);
        assert_eq!(world.streams[&a].heartbeats, 0);
        world.wait(7 * SECOND);
        assert_eq!(world.streams[&a].heartbeats, 1);
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
    let mut world = world();
    let tasks: Vec<_> = (0..3).map(|_| world.broadcast("work")).collect();
    for round in 0..150 {
        let a = world.join(of_process(begins(client("a")), ["one", "two"][round % 2]));
        assert_eq!(got(&world, a), tasks);
    }
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
    let policy = "first=10s,factor=2,cap=15s,jitter=0".parse().unwrap();
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
    let own = "first=3s,factor=1,jitter=0".parse().unwrap();
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

#[test]
fn checkpoints_are_made_less_often_where_they_are_large() {
    const OPEN: TaskId = 50_000;
    let now = START.wall;
    let far = Some(now.after(1000 * SECOND));
    let group = GroupState {
        name: name("a"),
        created_at: now,
        broadcast_after: 0,
        paused: false,
        last_used: now,
        cursors: [OPEN; 3],
        taken_up: vec![],
        open: (1..=OPEN).map(|id| OpenTask { id, attempts: Attempts::default(), not_before: far }).collect(),
    };
    let positions = Positions { task: OPEN, ..Positions::default() };
    let recovered = Recovered { positions, groups: vec![group], ..Recovered::default() };
    let mut core = Core::new(Config::default(), recovered, START);
    core.join(client("a"), 1, START);

    let mut give = |id, now: Now| {
        core.committed(vec![Arc::new(Task { id, accepted_at: now.wall, spec: task("work") })], now);
        let due = now.after(core.tick(now).unwrap().since(now.steady));
        core.tick(due);
        let saved = core.take_actions(due).iter().any(|action| matches!(action, Action::Checkpoint(_)));
        assert!(saved, "at {due:?}");
        due
    };
    let first = give(OPEN + 1, START);
    assert_eq!(first, START.after(SECOND));
    assert_eq!(give(OPEN + 2, first), first.after(5 * SECOND));
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
fn a_cancelled_task_stays_cancelled_after_a_restart() {
    let mut world = world();
    let a = world.join(client("a"));
    let task = world.broadcast("work");
    world.leave(a);
    world.checkpoint();
    assert_eq!(world.cancel(task), 1);
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
    world.settle(a, id, Outcome::Done);
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
}
