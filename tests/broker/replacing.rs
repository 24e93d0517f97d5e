//! Tasks that take the place of others.

use contact::broker::{Revoked, TaskState, WaitReason};
use contact::task::{Quiet, Replace};

use super::*;

/// A configuration for group `g`: the newest counts.
fn config() -> NewTask {
    NewTask { to: Some(name("g")), ..of_all() }
}

/// The same for everyone.
fn of_all() -> NewTask {
    NewTask { replace: Some(Box::new(Replace::new("config", None).unwrap())), ..task("config") }
}

fn wide(id: &str) -> Join {
    Join { window: Some(10), ..worker(id) }
}

fn state(world: &World, task: TaskId) -> TaskState {
    let states = world.core.task_states(&world.tasks[task as usize - 1], world.now);
    states.into_iter().find(|(group, _)| *group == name("g")).unwrap().1
}

/// What came of it, in words.
fn said(world: &World, task: TaskId) -> Vec<String> {
    let results = world.model.log.iter().filter_map(Logged::result);
    results.filter(|result| result.task == task).map(|result| format!("{} {}", result.outcome, result.ret)).collect()
}

#[test]
fn a_machine_that_was_away_gets_the_newest_and_not_seven() {
    for spec in [config(), of_all()] {
        let mut world = world();
        let before = world.join(wide("one"));
        world.leave(before);
        let tasks: Vec<_> = (0..7).map(|_| world.submit(spec.clone())).collect();
        world.restart();
        let one = world.join(wide("one"));
        assert_eq!(got(&world, one), tasks[6..]);
        for pair in tasks.windows(2) {
            assert_eq!(said(&world, pair[0]), [format!("REPLACED replaced by task {}", pair[1])]);
        }
        world.finish();
    }
}

#[test]
fn while_one_runs_exactly_one_follows_and_not_beside_it() {
    for spec in [config(), of_all()] {
        let mut world = world();
        let (one, two) = (world.join(wide("one")), world.join(wide("two")));
        let first = world.submit(spec.clone());
        let later: Vec<_> = (0..3).map(|_| world.submit(spec.clone())).collect();
        assert_eq!([got(&world, one), got(&world, two)].concat(), [first], "a group that has room for twenty");
        assert_eq!(state(&world, later[2]), TaskState::Waiting(WaitReason::InLane(first)));
        assert_eq!(outcomes(&world, later[0]), [Outcome::Replaced]);
        let holder = if got(&world, one).is_empty() { two } else { one };
        world.done(holder, first);
        let mut all = [got(&world, one), got(&world, two)].concat();
        all.sort_unstable();
        assert_eq!(all, [first, later[2]]);
        assert_eq!(outcomes(&world, first), [Outcome::Done], "what has begun goes on");
        world.finish();
    }
}

#[test]
fn another_key_or_another_address_is_another_matter() {
    let mut world = world();
    let one = world.join(wide("one"));
    world.leave(one);
    let rate = NewTask { replace: Some(Box::new(Replace::new("rate", None).unwrap())), ..config() };
    let all =
        [config(), of_all(), rate, NewTask { to: Some(name("other")), ..config() }].map(|spec| world.submit(spec));
    let newest = world.submit(config());
    let one = world.join(wide("one"));
    // The others of the key wait for each other, whoever they are for.
    let mut given = vec![];
    while let Some(task) = got(&world, one).into_iter().find(|task| !given.contains(task)) {
        given.push(task);
        world.done(one, task);
    }
    given.sort_unstable();
    assert_eq!(given, [all[1], all[2], newest]);
    assert_eq!(outcomes(&world, all[3]), []);
}

#[test]
fn one_whose_place_was_taken_in_its_lane_is_not_the_oldest_that_waits() {
    let mut world = world();
    let one = world.join(wide("one"));
    let first = world.submit(config());
    world.submit(config());
    // For others, and in the lane of the same key.
    let behind = world.submit(of_all());
    let newest = world.submit(config());
    let group = world.core.groups(world.now).remove(0);
    assert_eq!((group.oldest_open, group.oldest_new.map(|(id, _)| id)), (Some(first), Some(behind)));
    for task in [first, behind, newest] {
        world.done(one, task);
    }
    world.finish();
}

#[test]
fn what_a_client_has_and_has_not_begun_is_taken_from_it() {
    let mut world = world();
    let one = world.join(begins(Join { revoke: true, ..wide("one") }));
    let first = world.submit(config());
    let second = world.submit(config());
    assert_eq!(got(&world, one), [first, second]);
    assert_eq!(world.streams[&one].revoked, [Revoked { task: first, attempt: 1, reason: RevokeReason::Cancelled }]);
    assert_eq!(outcomes(&world, first), [Outcome::Replaced]);
    world.settle(one, second, Outcome::Working);
    let third = world.submit(config());
    assert_eq!(got(&world, one), [first, second], "it has begun that one");
    world.done(one, second);
    assert_eq!(got(&world, one), [first, second, third]);
}

#[test]
fn what_was_begun_and_comes_back_is_not_tried_again_when_there_is_something_newer() {
    for after_a_restart in [false, true] {
        let mut world = world();
        let one = world.join(begins(wide("one")));
        let first = world.submit(config());
        world.settle(one, first, Outcome::Working);
        let (mut second, mut one) = (None, one);
        if after_a_restart {
            world.wait(2 * SECOND);
            second = Some(world.submit(config()));
            world.restart();
            one = world.join(begins(wide("one")));
            world.report(&world.reporter(one), outcome_report(first, 1, Outcome::Working));
        }
        let second = second.unwrap_or_else(|| world.submit(config()));
        assert!(!got(&world, one).contains(&second));
        let retry = OutcomeReport { delay: 600 * SECOND, ..outcome_report(first, 1, Outcome::Retry) };
        world.report(&world.reporter(one), retry);
        if after_a_restart {
            // What it is has to be read again, when its time comes.
            world.wait(600 * SECOND);
        }
        assert_eq!(got(&world, one).last(), Some(&second));
        assert_eq!(outcomes(&world, first), [Outcome::Retry, Outcome::Replaced]);
        world.finish();
    }
}

#[test]
fn what_waits_for_another_try_is_replaced() {
    let mut world = world();
    let one = world.join(wide("one"));
    let first = world.submit(config());
    let retry = OutcomeReport { delay: 600 * SECOND, ..outcome_report(first, 1, Outcome::Retry) };
    world.report(&world.reporter(one), retry);
    let second = world.submit(config());
    assert_eq!(got(&world, one), [first, second]);
    assert_eq!(outcomes(&world, first), [Outcome::Retry, Outcome::Replaced]);
}

#[test]
fn a_page_that_was_read_before_a_task_in_it_was_replaced_gives_nobody_that() {
    for spec in [config(), of_all()] {
        let mut world = world();
        let first = world.accept(vec![spec.clone()]);
        world.jump();
        world.eager = false;
        let one = world.join(wide("one"));
        world.read_early(0);
        let second = world.submit(spec);
        while !world.reads.is_empty() {
            world.answer(0, true);
        }
        assert_eq!(got(&world, one), [second]);
        assert_eq!(outcomes(&world, first), [Outcome::Replaced]);
    }
}

#[test]
fn what_takes_the_place_of_others_is_known_though_it_was_not_handed_over() {
    let mut world = world();
    let one = world.join(Join { window: Some(1), ..worker("one") });
    let (work, first) = (world.address("g", "work"), world.submit(config()));
    let second = world.accept(vec![config()]);
    world.jump();
    world.done(one, work);
    assert_eq!(got(&world, one), [work, second]);
    assert_eq!(outcomes(&world, first), [Outcome::Replaced]);
}

#[test]
fn one_that_is_cancelled_or_over_leaves_its_place_to_nobody() {
    let mut world = world();
    let first = world.submit(config());
    world.cancel(first);
    let second = world.submit(config());
    assert_eq!(world.tasks[second as usize - 1].spec.replaces(), None);
    let third = world.submit(config());
    assert_eq!(world.tasks[third as usize - 1].spec.replaces(), Some(second));
    let one = world.join(wide("one"));
    assert_eq!(got(&world, one), [third]);
}

#[test]
fn what_waits_for_quiet_says_so_and_goes_out_when_it_was_quiet() {
    let mut world = world();
    let one = world.join(wide("one"));
    let quiet = |world: &World, since| {
        let quiet = Quiet { millis: 10_000, most_millis: Some(25_000), since };
        let replace = Some(Box::new(Replace::new("config", Some(quiet)).unwrap()));
        // As the store has it when it accepts one.
        NewTask { replace, not_before: Some(quiet.until(world.now.wall)), ..config() }
    };
    let since = world.now.wall;
    let mut last = 0;
    for _ in 0..3 {
        last = world.submit(quiet(&world, since));
        world.wait(8 * SECOND);
    }
    let due = since.after(25 * SECOND);
    assert_eq!(state(&world, last), TaskState::Waiting(WaitReason::Quiet(due)), "25 s after the first");
    assert!(got(&world, one).is_empty());
    world.wait(SECOND);
    assert_eq!(got(&world, one), [last]);
}

#[test]
fn a_hundred_thousand_that_are_replaced_while_one_runs_take_no_memory_and_no_time() {
    const MANY: usize = 100_000;
    let mut world = world();
    let one = world.join(wide("one"));
    let first = world.submit(config());
    let of = |id: TaskId| {
        let replace = Replace::new("config", None).unwrap().taken(Some(id - 1), None);
        Arc::new(Task {
            id,
            accepted_at: world.now.wall,
            spec: NewTask { replace: Some(Box::new(replace)), ..config() },
        })
    };
    let last = first + MANY as TaskId;
    for from in (first + 1..=last).step_by(100) {
        world.core.committed((from..from + 100).map(of).collect(), world.now);
        let results = world.core.take_actions(world.now).into_iter().map(|action| match action {
            Action::Record(results) => results.len(),
            _ => 0,
        });
        assert_eq!(results.sum::<usize>(), if from == first + 1 { 99 } else { 100 });
        let group = world.core.groups(world.now).remove(0);
        assert_eq!((group.lag, group.taken_up), (2, 0), "one runs, and one follows");
    }
    let report = outcome_report(first, 1, Outcome::Done);
    world.core.report(&world.reporter(one), vec![report], world.now);
    let given = world.core.take_actions(world.now).into_iter().find_map(|action| match action {
        Action::Deliver(_, deliveries) => Some(deliveries.iter().map(|it| it.task.id).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(given, Some(vec![last]));
}
