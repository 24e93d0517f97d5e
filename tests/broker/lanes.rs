//! Limits of a group, and lanes.

use std::collections::{BTreeMap, BTreeSet};

use contact::broker::{TaskState, WaitReason};
use contact::group_limits::{LimitsChange, OnDead, PerSecond};

use super::*;

const MILLI: Duration = Duration::from_millis(1);

/// Of a lane, for group `g`.
fn of(lane: &str) -> NewTask {
    NewTask { lane: Some(name(lane)), to: Some(name("g")), ..task("work") }
}

fn one_at_a_time(id: &str) -> Join {
    Join { window: Some(1), ..worker(id) }
}

fn wide(id: &str) -> Join {
    Join { window: Some(100), ..worker(id) }
}

fn world() -> World {
    World::new(Config {
        ack_timeout: ACK_TIMEOUT,
        max_attempts: 2,
        max_window: 1000,
        retry: Retry::AT_ONCE,
        ..Config::default()
    })
}

fn set(world: &mut World, text: &str) {
    let limits: GroupLimits = text.parse().unwrap();
    let change = LimitsChange {
        max_in_flight: Some(limits.max_in_flight),
        max_begun: Some(limits.max_begun),
        lane_max: Some(limits.lane_max),
        on_dead: Some(limits.on_dead),
    };
    world.set_limits("g", change);
}

/// Whoever has it is done with a task.
fn done(world: &mut World, task: TaskId) {
    let holder = world.model.leases().into_iter().find(|lease| lease.1 == task).and_then(|lease| lease.2);
    world.done(holder.unwrap(), task);
}

/// Everything that was delivered is known after a restart.
fn restart(world: &mut World) {
    world.checkpoint();
    world.restart();
}

/// Why a task does not go out.
fn waits(world: &World, id: TaskId) -> WaitReason {
    let states = world.core.task_states(&world.tasks[id as usize - 1], world.now);
    match states.into_iter().find(|(group, _)| *group == name("g")) {
        Some((_, TaskState::Waiting(reason))) => reason,
        other => panic!("task {id}: {other:?}"),
    }
}

// ---- limits of a group

#[test]
fn a_group_has_no_more_in_flight_than_may_be_over_all_its_clients() {
    let mut world = world();
    set(&mut world, "max-in-flight=3");
    let (one, two) = (world.join(wide("one")), world.join(wide("two")));
    let tasks: Vec<_> = (0..9).map(|_| world.broadcast("work")).collect();
    assert_eq!(got(&world, one).len() + got(&world, two).len(), 3);
    assert_eq!(waits(&world, tasks[3]), WaitReason::GroupFull);
    done(&mut world, tasks[0]);
    assert_eq!(got(&world, one).len() + got(&world, two).len(), 4);
    // Lowered below that: nothing goes out until it fell below.
    set(&mut world, "max-in-flight=1");
    done(&mut world, tasks[1]);
    done(&mut world, tasks[2]);
    assert_eq!(got(&world, one).len() + got(&world, two).len(), 4);
    world.finish();
    set(&mut world, "");
    (0..9).for_each(|_| _ = world.broadcast("work"));
    assert_eq!(world.core.groups(world.now)[0].in_flight, 9, "it is taken away");
}

#[test]
fn what_was_with_clients_before_a_restart_counts_until_it_is_known_whether_it_still_is() {
    let mut world = world();
    set(&mut world, "max-in-flight=1");
    let one = world.join(wide("one"));
    let (first, second) = (world.broadcast("work"), world.broadcast("work"));
    assert_eq!(got(&world, one), [first]);
    restart(&mut world);
    let one = world.join(wide("one"));
    assert!(got(&world, one).is_empty());
    world.wait(5 * SECOND);
    assert_eq!(got(&world, one), [first]);
    world.done(one, first);
    assert_eq!(got(&world, one), [first, second]);
}

#[test]
fn a_group_begins_no_more_in_a_second_than_may_be_and_what_goes_out_again_counts() {
    let mut world = world();
    set(&mut world, "max-begun-per-second=2");
    let one = world.join(wide("one"));
    let tasks: Vec<_> = (0..9).map(|_| world.broadcast("work")).collect();
    assert_eq!(got(&world, one), tasks[..1]);
    assert_eq!(waits(&world, tasks[1]), WaitReason::RateReached);
    world.settle(one, tasks[0], Outcome::Retry);
    assert_eq!(got(&world, one).len(), 1, "no other goes out for that");
    for count in 2..6 {
        world.wait(499 * MILLI);
        assert_eq!(got(&world, one).len(), count - 1);
        world.wait(MILLI);
        assert_eq!(got(&world, one).len(), count);
    }
    assert_eq!(got(&world, one)[1], tasks[0]);
    set(&mut world, "");
    assert_eq!(got(&world, one).len(), 10, "at once when there is no limit any more");
    world.finish();
}

#[test]
fn a_rate_keeps_to_the_clock_that_never_steps_and_begins_with_nothing_after_a_restart() {
    let mut world = world();
    set(&mut world, "max-begun-per-second=1");
    let one = world.join(wide("one"));
    (0..5).for_each(|_| _ = world.broadcast("work"));
    world.step(3_600_000);
    assert_eq!(got(&world, one).len(), 1);
    world.step(-7_200_000);
    world.wait(SECOND);
    assert_eq!(got(&world, one).len(), 2);
    restart(&mut world);
    let one = world.join(wide("one"));
    world.wait(999 * MILLI);
    assert_eq!(got(&world, one).len(), 0);
    world.wait(MILLI);
    assert_eq!(got(&world, one).len(), 1);
}

// ---- lanes

#[test]
fn of_one_lane_one_is_under_way_and_they_go_in_the_order_in_which_they_were_accepted() {
    let mut world = world();
    let (one, two) = (world.join(wide("one")), world.join(wide("two")));
    let tasks: Vec<_> = (0..5).map(|_| world.submit(of("x"))).collect();
    let other = world.submit(of("y"));
    let none = world.submit(NewTask { lane: None, ..of("x") });
    let mut all = [got(&world, one), got(&world, two)].concat();
    all.sort_unstable();
    assert_eq!(all, [tasks[0], other, none]);
    assert_eq!(waits(&world, tasks[1]), WaitReason::InLane(tasks[0]));
    for task in tasks {
        done(&mut world, task);
    }
    world.finish();
}

#[test]
fn each_group_has_its_own_lanes_and_an_anonymous_client_none() {
    let mut world = world();
    let (a, b, anonymous) = (world.join(client("a")), world.join(client("b")), world.join(anonymous("n")));
    let of = || NewTask { to: None, ..of("x") };
    let (first, second) = (world.submit(of()), world.submit(of()));
    assert_eq!((got(&world, a), got(&world, b)), (vec![first], vec![first]));
    assert_eq!(got(&world, anonymous), [first, second]);
    world.done(b, first);
    assert_eq!((got(&world, a), got(&world, b)), (vec![first], vec![first, second]));
}

#[test]
fn a_lane_has_as_many_places_as_its_group_says_at_once_also_when_that_changes() {
    let mut world = world();
    let one = world.join(wide("one"));
    let tasks: Vec<_> = (0..6).map(|_| world.submit(of("x"))).collect();
    assert_eq!(got(&world, one), tasks[..1]);
    set(&mut world, "lane-max=3");
    assert_eq!(got(&world, one), tasks[..3]);
    set(&mut world, "");
    world.done(one, tasks[0]);
    world.done(one, tasks[1]);
    assert_eq!(got(&world, one), tasks[..3], "not before there are fewer than one");
    world.done(one, tasks[2]);
    assert_eq!(got(&world, one), tasks[..4]);
}

#[test]
fn a_lane_waits_for_a_task_of_it_that_is_to_be_tried_again() {
    let mut world = world();
    let one = world.join(wide("one"));
    let (first, second) = (world.submit(of("x")), world.submit(of("x")));
    let retry = OutcomeReport { delay: 10 * SECOND, ..outcome_report(first, 1, Outcome::Retry) };
    world.report(&world.reporter(one), retry);
    assert_eq!(got(&world, one), [first]);
    assert_eq!(waits(&world, second), WaitReason::InLane(first));
    restart(&mut world);
    let one = world.join(wide("one"));
    assert!(got(&world, one).is_empty());
    world.wait(10 * SECOND);
    assert_eq!(attempts(&world, one), [(first, 2)]);
    world.done(one, first);
    assert_eq!(got(&world, one), [first, second]);
}

#[test]
fn a_wait_that_no_checkpoint_knows_of_holds_the_lane_after_a_crash() {
    let mut world = world();
    let one = world.join(wide("one"));
    world.sync();
    let (first, second) = (world.submit(of("x")), world.submit(of("x")));
    let retry = OutcomeReport { delay: 10 * SECOND, ..outcome_report(first, 1, Outcome::Retry) };
    world.report(&world.reporter(one), retry);
    world.crash(world.unsynced());
    let one = world.join(wide("one"));
    assert!(got(&world, one).is_empty());
    world.wait(10 * SECOND);
    assert_eq!(attempts(&world, one), [(first, 2)]);
    assert_eq!(waits(&world, second), WaitReason::InLane(first));
}

#[test]
fn what_is_cancelled_or_expires_frees_its_lane() {
    let mut world = world();
    let one = world.join(wide("one"));
    let first = world.submit(of("x"));
    let expires_at = Some(world.now.wall.after(SECOND));
    let over = world.submit(NewTask { expires_at, ..of("x") });
    let (third, last) = (world.submit(of("x")), world.submit(of("x")));
    world.wait(SECOND);
    world.cancel(third);
    assert_eq!(got(&world, one), [first]);
    world.cancel(first);
    assert_eq!(got(&world, one), [first, last]);
    assert_eq!(outcomes(&world, over), [Outcome::Expired]);
}

#[test]
fn when_a_task_dies_its_lane_goes_on_unless_the_group_wants_it_held() {
    for restarts in [false, true] {
        let mut world = world();
        set(&mut world, "lane-on-dead=hold");
        let mut one = world.join(wide("one"));
        let (first, second) = (world.submit(of("x")), world.submit(of("x")));
        let third = world.submit(of("x"));
        world.settle(one, first, Outcome::Failed);
        let held = |world: &mut World, one: &mut SessionId, dead, behind| {
            if restarts {
                restart(world);
                *one = world.join(wide("one"));
                world.wait(5 * SECOND);
            }
            assert_eq!(waits(world, behind), WaitReason::LaneHeld(dead));
            assert_eq!(world.core.groups(world.now)[0].held_lanes, 1, "{restarts} {dead} {behind}");
        };
        held(&mut world, &mut one, first, second);
        // Given out again, it goes first, and gives way when it is done.
        world.revive("g", first);
        world.done(one, first);
        assert!(got(&world, one).ends_with(&[first, second]));
        world.settle(one, second, Outcome::Failed);
        held(&mut world, &mut one, second, third);
        world.drop_dead("g", second);
        assert!(got(&world, one).ends_with(&[third]));
        world.settle(one, third, Outcome::Failed);
        let fourth = world.submit(of("x"));
        held(&mut world, &mut one, third, fourth);
        set(&mut world, "");
        assert!(got(&world, one).ends_with(&[fourth]), "what was held is free at once");
        world.settle(one, fourth, Outcome::Failed);
        let last = world.submit(of("x"));
        assert!(got(&world, one).ends_with(&[last]));
        world.finish();
    }
}

#[test]
fn a_lane_is_held_by_a_dead_letter_no_longer_than_that_is_kept() {
    let mut world = world();
    set(&mut world, "lane-on-dead=hold");
    let one = world.join(wide("one"));
    let first = world.submit(of("x"));
    world.settle(one, first, Outcome::Failed);
    let second = world.submit(of("x"));
    assert_eq!(got(&world, one), [first]);
    assert_eq!(world.remove_settled(), 1);
    assert_eq!(got(&world, one), [first, second]);
}

#[test]
fn lanes_take_turns_so_that_thousands_of_one_do_not_stand_before_one_of_another() {
    for restarts in [false, true] {
        let mut world = world();
        world.accept((0..700).map(|_| of("x")).collect());
        world.announce();
        let other = world.submit(of("y"));
        let plain = world.submit(NewTask { lane: None, ..of("x") });
        if restarts {
            restart(&mut world);
        }
        let one = world.join(one_at_a_time("one"));
        for _ in 0..20 {
            let task = *got(&world, one).last().unwrap();
            world.done(one, task);
        }
        let got = got(&world, one);
        assert!(got.contains(&other) && got.contains(&plain), "{got:?}");
        let of_x: Vec<_> = got.iter().copied().filter(|id| *id <= 700).collect();
        assert_eq!(of_x, (1..=of_x.len() as TaskId).collect::<Vec<_>>());
        if !restarts {
            let info = &world.core.groups(world.now)[0];
            assert_eq!((info.lag, info.counting), (702 - 20, false));
        }
    }
}

#[test]
fn a_lane_with_two_places_leaves_others_their_turn() {
    let mut world = world();
    set(&mut world, "lane-max=2,max-in-flight=3");
    let one = world.join(wide("one"));
    let x: Vec<_> = (0..100).map(|_| world.submit(of("x"))).collect();
    let y: Vec<_> = (0..3).map(|_| world.submit(of("y"))).collect();
    assert_eq!(got(&world, one), [x[0], x[1], y[0]]);
    for task in [x[0], x[1], y[0]] {
        world.done(one, task);
    }
    let mut next = got(&world, one).split_off(3);
    next.sort_unstable();
    assert_eq!(next, [x[2], x[3], y[1]]);
}

#[test]
fn a_lane_that_has_places_left_is_last_after_its_turn() {
    let mut world = world();
    set(&mut world, "lane-max=10");
    let x = world.accept((0..9).map(|_| of("x")).collect());
    let y = world.accept((0..3).map(|_| of("y")).collect());
    world.announce();
    let one = world.join(Join { window: Some(4), ..worker("one") });
    assert_eq!(got(&world, one), [x, y, x + 1, y + 1]);
}

#[test]
fn more_lanes_than_may_wait_at_once_all_have_their_turn_in_a_bounded_memory() {
    // Each with a second task, which waits until everything before it was passed.
    const LANES: usize = 400;
    let mut world = world();
    let text = "x".repeat(1_000);
    let lanes = || (0..LANES).map(|n| NewTask { text: text.clone(), ..of(&format!("lane {n}")) });
    world.accept(lanes().chain(lanes()).collect());
    world.announce();
    let mut one = world.join(wide("one"));
    let mut order = Vec::new();
    let mut held = 0;
    while order.len() < 2 * LANES {
        let tasks = world.model.tasks_held_by(one);
        assert!(!tasks.is_empty(), "stuck after {} tasks", order.len());
        for task in tasks {
            world.done(one, task);
            order.push(task);
            held = held.max(world.core.lane_texts());
        }
        if order.len() == LANES {
            restart(&mut world);
            one = world.join(wide("one"));
            world.wait(5 * SECOND);
        }
    }
    let all: BTreeSet<_> = order.iter().copied().collect();
    assert_eq!(all.len(), 2 * LANES);
    assert!(held <= 600 * 1024, "{held} bytes of texts were in memory because of lanes");
}

#[test]
fn a_lane_that_can_go_is_not_read_by_itself_however_many_there_are() {
    const LANES: usize = 2_000;
    let mut world = world();
    let text = "x".repeat(1_000);
    world.accept((0..LANES).map(|n| NewTask { text: text.clone(), ..of(&format!("lane {n}")) }).collect());
    world.announce();
    let one = world.join(wide("one"));
    let mut done = 0;
    while done < LANES {
        let tasks = world.model.tasks_held_by(one);
        assert!(!tasks.is_empty(), "stuck after {done} tasks");
        done += tasks.len();
        tasks.into_iter().for_each(|task| _ = world.done(one, task));
    }
    assert_eq!(world.lane_reads, 0);
}

#[test]
fn a_lane_that_is_stuck_holds_up_no_other_and_costs_no_memory_however_much_waits_in_it() {
    let mut world = world();
    let stuck = world.join(one_at_a_time("stuck"));
    let first = world.submit(of("x"));
    assert_eq!(got(&world, stuck), [first]);
    let one = world.join(one_at_a_time("one"));
    let text = "x".repeat(1_000);
    for round in 0..4 {
        world.accept((0..400).map(|_| NewTask { text: text.clone(), ..of("x") }).collect());
        let other = world.accept(vec![of(&format!("lane {round}"))]);
        world.announce();
        assert_eq!(got(&world, one).last(), Some(&other));
        world.done(one, other);
        assert!(world.core.lane_texts() <= 40 * 1024, "{}", world.core.lane_texts());
    }
    world.done(stuck, first);
    world.finish();
}

#[test]
fn a_task_that_is_delayed_takes_its_place_when_its_time_comes_and_not_before() {
    let mut world = world();
    let one = world.join(wide("one"));
    let not_before = Some(world.now.wall.after(10 * SECOND));
    let delayed = world.submit(NewTask { not_before, ..of("x") });
    let (second, third) = (world.submit(of("x")), world.submit(of("x")));
    assert_eq!(got(&world, one), [second]);
    world.wait(10 * SECOND);
    assert_eq!(waits(&world, delayed), WaitReason::InLane(second));
    restart(&mut world);
    let one = world.join(wide("one"));
    world.wait(5 * SECOND);
    world.done(one, second);
    assert_eq!(got(&world, one), [delayed], "it was accepted before the other");
    world.done(one, delayed);
    assert_eq!(got(&world, one), [delayed, third]);
}

#[test]
fn one_that_was_cancelled_and_given_out_again_before_its_turn_takes_no_place_before_its_time() {
    let mut world = world();
    let a = world.join(one_at_a_time("a"));
    let first = world.submit(NewTask { to: Some(name("g")), ..task("work") });
    let not_before = Some(world.now.wall.after(10 * SECOND));
    let delayed = world.submit(NewTask { not_before, ..of("x") });
    world.cancel(delayed);
    assert!(world.revive("g", delayed), "it is found to be cancelled when its time comes");
    let next = world.submit(of("x"));
    world.done(a, first);
    assert_eq!(got(&world, a), [first, next]);
}

#[test]
fn priorities_come_before_turns() {
    let mut world = world();
    let one = world.join(one_at_a_time("one"));
    let first = world.submit(of("x"));
    let low = world.submit(NewTask { priority: Priority::Low, ..of("z") });
    let normal: Vec<_> = (0..3).map(|_| world.submit(of("x"))).collect();
    let high = world.submit(NewTask { priority: Priority::High, ..of("x") });
    let mut order = Vec::new();
    while let Some(task) = world.model.tasks_held_by(one).pop() {
        order.push(task);
        world.done(one, task);
    }
    assert_eq!(order, [&[first, high], &normal[..], &[low]].concat());
}

#[test]
fn limits_are_kept_and_what_is_not_named_stays() {
    let mut world = world();
    set(&mut world, "max-in-flight=7,max-begun-per-second=2.5,lane-max=3,lane-on-dead=hold");
    let max_begun = Some(PerSecond::of(4.0));
    world.set_limits("g", LimitsChange { max_begun, on_dead: Some(OnDead::Release), ..LimitsChange::default() });
    restart(&mut world);
    let limits = world.core.groups(world.now)[0].limits;
    assert_eq!(limits.to_string(), "max-in-flight=7,max-begun-per-second=4,lane-max=3");
}

/// What each lane waits for, by the state of the tasks.
#[test]
fn which_task_of_its_lane_a_task_waits_for_is_said_of_any_number() {
    let mut world = world();
    let one = world.join(one_at_a_time("one"));
    let tasks: Vec<_> = (0..50).map(|_| world.submit(of("x"))).collect();
    let whys: BTreeMap<_, _> = tasks[1..].iter().map(|id| (*id, waits(&world, *id))).collect();
    assert!(whys.values().all(|why| *why == WaitReason::InLane(tasks[0])), "{whys:?}");
    assert_eq!(got(&world, one), [tasks[0]]);
}
