//! Schedules: which moments there are, and for which of them a task is due, by a clock that the tests set.

use std::time::Duration;

use contact::schedule::{MOST_MISSED, Missed, Moments, ON_TIME, STEPS_BACK, Schedule, Turn, What, When, WhenError};
use contact::task::Time;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::sample::select;

fn time(text: &str) -> Time {
    Time(text.parse::<Timestamp>().unwrap().as_millisecond())
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

/// The moments after one, as the clocks of the zone show them.
fn shown(moments: &Moments, zone: &TimeZone, from: &str, count: usize) -> Vec<String> {
    let all = std::iter::successors(moments.after(time(from)), |last| moments.after(*last));
    let show = |moment: Time| {
        let at = Timestamp::from_millisecond(moment.0).unwrap().to_zoned(zone.clone());
        at.strftime("%m-%d %H:%M %:z").to_string()
    };
    all.take(count).map(show).collect()
}

#[track_caller]
fn come(expression: &str, name: &str, from: &str, expected: &[&str]) {
    let zone = zone(name);
    let moments = Moments::of_cron(expression, zone.clone()).unwrap();
    assert_eq!(shown(&moments, &zone, from, expected.len()), expected, "{expression} {name}");
}

#[test]
fn a_moment_that_the_clocks_leave_out_is_when_they_go_on_and_once() {
    let (berlin, new_york) = ("2027-03-27T12:00:00Z", "2027-03-13T12:00:00Z");
    come("30 2 * * *", "Europe/Berlin", berlin, &["03-28 03:00 +02:00", "03-29 02:30 +02:00"]);
    come("30 2 * * *", "America/New_York", new_york, &["03-14 03:00 -04:00", "03-15 02:30 -04:00"]);
    come("0,15,30 2 * * *", "Europe/Berlin", berlin, &["03-28 03:00 +02:00", "03-29 02:00 +02:00"]);
    // The one that is there anyway is not there twice.
    come("0 2,3 * * *", "Europe/Berlin", berlin, &["03-28 03:00 +02:00", "03-29 02:00 +02:00", "03-29 03:00 +02:00"]);
    // Half an hour, in the south.
    come("15 2 * * *", "Australia/Lord_Howe", "2027-10-02T12:00:00Z", &["10-03 02:30 +11:00", "10-04 02:15 +11:00"]);
}

#[test]
fn a_moment_that_the_clocks_show_twice_is_the_first_of_the_two() {
    let (berlin, new_york) = ("2027-10-30T12:00:00Z", "2027-11-06T12:00:00Z");
    come("30 2 * * *", "Europe/Berlin", berlin, &["10-31 02:30 +02:00", "11-01 02:30 +01:00"]);
    come("30 1 * * *", "America/New_York", new_york, &["11-07 01:30 -04:00", "11-08 01:30 -05:00"]);
    come(
        "30 1-3 * * *",
        "Europe/Berlin",
        berlin,
        &["10-31 01:30 +02:00", "10-31 02:30 +02:00", "10-31 03:30 +01:00", "11-01 01:30 +01:00"],
    );
    // From between the two, and from the second on.
    for from in ["2027-10-31T00:45:00Z", "2027-10-31T01:15:00Z", "2027-10-31T01:30:00Z"] {
        come("30 2 * * *", "Europe/Berlin", from, &["11-01 02:30 +01:00"]);
    }
}

#[test]
fn what_comes_every_hour_comes_whenever_the_clocks_show_it() {
    let (spring, autumn) = ("2027-03-28T00:10:00Z", "2027-10-30T23:40:00Z");
    let skipped = ["03-28 01:30 +01:00", "03-28 03:00 +02:00", "03-28 03:30 +02:00"];
    come("*/30 * * * *", "Europe/Berlin", spring, &skipped);
    let twice =
        ["10-31 02:00 +02:00", "10-31 02:30 +02:00", "10-31 02:00 +01:00", "10-31 02:30 +01:00", "10-31 03:00 +01:00"];
    come("*/30 * * * *", "Europe/Berlin", autumn, &twice);
    come("5 0-23 * * *", "America/New_York", "2027-11-07T05:00:00Z", &["11-07 01:05 -04:00", "11-07 01:05 -05:00"]);
}

#[test]
fn a_leap_day_comes_when_there_is_one() {
    for (from, next) in [("2026-11-26", "2028-02-29"), ("2028-02-29", "2032-02-29"), ("2096-02-29", "2104-02-29")] {
        let moments = Moments::of_cron("0 0 29 2 *", TimeZone::UTC).unwrap();
        let from = time(&format!("{from}T00:00:00Z"));
        assert_eq!(moments.after(from), Some(time(&format!("{next}T00:00:00Z"))));
    }
    come(
        "0 0 L * *",
        "UTC",
        "2027-11-30T00:00:00Z",
        &["12-31 00:00 +00:00", "01-31 00:00 +00:00", "02-29 00:00 +00:00"],
    );
}

#[test]
fn a_zone_that_changed_its_rules_goes_by_those_that_held_at_each_time() {
    // Turkey stayed at summer time in 2016; North Korea went forward by half an hour in 2018; Samoa left a whole day out in 2011.
    come("0 3 * * *", "Europe/Istanbul", "2016-10-29T12:00:00Z", &["10-30 03:00 +03:00", "10-31 03:00 +03:00"]);
    come("45 23 * * *", "Asia/Pyongyang", "2018-05-04T00:00:00Z", &["05-05 00:00 +09:00", "05-05 23:45 +09:00"]);
    come("0 12 30 12 *", "Pacific/Apia", "2011-12-29T12:00:00Z", &["12-31 00:00 +14:00", "12-30 12:00 +14:00"]);
    come("0 */6 * * *", "Pacific/Apia", "2011-12-30T05:00:00Z", &["12-31 00:00 +14:00", "12-31 06:00 +14:00"]);
}

/// What is due of a schedule now; and what it is then.
fn goes_on(schedule: &mut Schedule, moments: &Moments, now: Time) -> Turn {
    let turn = schedule.turn(moments, now);
    schedule.through = turn.through;
    turn
}

#[test]
fn rules_that_change_while_a_schedule_is_there_count_from_then_on_and_repeat_nothing() {
    let with_summer_time = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let without = TimeZone::posix("CET-1").unwrap();
    let [old, new] = [with_summer_time, without].map(|zone| Moments::of_cron("0 3 * * *", zone).unwrap());
    let when = When::Cron { expression: "0 3 * * *".into(), zone: "Europe/Berlin".into() };
    let mut schedule = Schedule::new(when, Missed::All, What::default(), None, time("2027-06-01T00:00:00Z"));
    let first = goes_on(&mut schedule, &old, time("2027-06-01T01:00:00Z"));
    assert_eq!((first.moments, first.next), (vec![time("2027-06-01T01:00:00Z")], Some(time("2027-06-02T01:00:00Z"))));
    // The tz database is another one by the next day. By that there was one at two o'clock before: who has looked since knows that it was not.
    schedule.looked(time("2027-06-02T00:59:00Z"));
    let none_yet = goes_on(&mut schedule, &new, time("2027-06-02T01:00:00Z"));
    assert_eq!((none_yet.moments, none_yet.next), (vec![], Some(time("2027-06-02T02:00:00Z"))));
    assert_eq!(goes_on(&mut schedule, &new, time("2027-06-02T02:00:00Z")).moments, [time("2027-06-02T02:00:00Z")]);
    // And back: what comes by the old rules on that day was before.
    assert_eq!(goes_on(&mut schedule, &old, time("2027-06-02T12:00:00Z")).moments, []);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_is_wrong() {
    let refused = |expression: &str| Moments::of_cron(expression, TimeZone::UTC).err();
    for expression in [
        "",
        "0 3 * *",
        "0 0 3 * * *",
        "60 * * * *",
        "0 24 * * *",
        "a b c d e",
        "0 3 * * 8",
        "* * * * * 2030",
        "@reboot",
    ] {
        assert!(matches!(refused(expression), Some(WhenError::Expression(_))), "{expression}");
    }
    assert!(matches!(refused(&"1,".repeat(200)), Some(WhenError::Expression(why)) if why.contains("256 bytes")));
    for name in ["", "Europe/Berlinn", "../../etc/passwd", "/etc/localtime"] {
        let when = When::Cron { expression: "0 3 * * *".into(), zone: name.into() };
        assert_eq!(Moments::of(&when).err(), Some(WhenError::Zone(name.into())), "{name}");
    }
    for never in ["0 0 30 2 *", "* * 31 4,6 *"] {
        let moments = Moments::of_cron(never, zone("Europe/Berlin")).unwrap();
        assert_eq!(moments.after(time("2026-11-26T00:00:00Z")), None, "{never}");
    }
}

fn every(millis: u64, now: Time, missed: Missed) -> (Schedule, Moments) {
    let schedule = Schedule::new(When::Every { millis, since: Time(0) }, missed, What::default(), None, now);
    let moments = Moments::of(&schedule.when).unwrap();
    (schedule, moments)
}

#[test]
fn an_interval_counts_from_when_it_was_set() {
    let now = time("2026-11-26T12:34:56Z");
    let (mut schedule, moments) = every(600_000, now, Missed::Skip);
    assert_eq!(schedule.turn(&moments, now).next, Some(now.after(Duration::from_secs(600))));
    let late = now.after(Duration::from_secs(605));
    let turn = goes_on(&mut schedule, &moments, late);
    assert_eq!(
        (turn.moments, turn.next),
        (vec![now.after(Duration::from_secs(600))], Some(now.after(Duration::from_secs(1200))))
    );
    // Set again as it is, nothing changes; set otherwise, it begins anew, with what it has made known.
    let (same, change) = schedule.set(every(600_000, late, Missed::Skip).0);
    assert!(change.is_nothing() && same == schedule);
    let (other, change) = schedule.set(every(300_000, late, Missed::Skip).0);
    assert!(change.when && !change.what && !change.is_new);
    let turn = other.turn(&Moments::of(&other.when).unwrap(), late);
    assert_eq!((turn.moments, turn.next), (vec![], Some(late.after(Duration::from_secs(300)))));
    // What has its task keeps it, though the clock be set back when it is set.
    let back = Time(late.0 - 3_600_000);
    assert_eq!(schedule.set(every(300_000, back, Missed::Skip).0).0.through, schedule.through);
}

#[test]
fn what_was_missed_has_no_task_or_one_or_each_as_it_is_set() {
    let now = time("2026-11-26T00:00:00Z");
    let at = |minutes: u64| now.after(Duration::from_secs(60 * minutes));
    let turn = |missed, minutes, seconds| {
        let (schedule, moments) = every(10 * 60_000, now, missed);
        let turn = schedule.turn(&moments, at(minutes).after(Duration::from_secs(seconds)));
        (turn.moments, turn.passed)
    };
    // A minute late is in time.
    for missed in [Missed::Skip, Missed::Once, Missed::All] {
        assert_eq!(turn(missed, 10, 60), (vec![at(10)], 0));
    }
    assert_eq!(turn(Missed::Skip, 35, 0), (vec![], 3));
    assert_eq!(turn(Missed::Once, 35, 0), (vec![at(30)], 2));
    assert_eq!(turn(Missed::All, 35, 0), (vec![at(10), at(20), at(30)], 0));
    // The one that is in time stands for those that are not.
    assert_eq!(turn(Missed::Skip, 30, 5), (vec![at(30)], 2));
    assert_eq!(turn(Missed::Once, 30, 5), (vec![at(30)], 2));
    // The newest of very many, without a look at each.
    let (all, passed) = turn(Missed::All, 10 * 1_000_000_000, 0);
    assert_eq!((all.len(), all[0], passed), (MOST_MISSED, at(10 * (1_000_000_000 - 99)), 1));
}

#[test]
fn the_last_of_very_many_moments_are_found_at_once() {
    for expression in ["* * * * *", "*/7 1-3 * * 1", "0 3 1 * *", "0 0 29 2 *", "* * 29 2 *"] {
        let moments = Moments::of_cron(expression, zone("Europe/Berlin")).unwrap();
        let (after, upto) = (time("1996-01-01T00:00:00Z"), time("2026-11-26T00:00:00Z"));
        let (last, more) = moments.last(after, upto, 100);
        let of_all = std::iter::successors(moments.after(last[0]), |last| moments.after(*last));
        assert_eq!(last[1..], of_all.take_while(|moment| *moment <= upto).collect::<Vec<_>>(), "{expression}");
        assert_eq!((last.len() == 100, more), (expression != "0 0 29 2 *", expression != "0 0 29 2 *"), "{expression}");
    }
}

#[test]
fn a_clock_that_is_set_back_makes_no_second_task_and_by_more_than_a_day_was_wrong_before() {
    let now = time("2026-11-26T12:00:00Z");
    let (mut schedule, moments) = every(60_000, now, Missed::All);
    assert_eq!(goes_on(&mut schedule, &moments, now.after(Duration::from_secs(60))).moments.len(), 1);
    let back = Time(now.0 - STEPS_BACK.as_millis() as i64 + 60_000);
    let turn = goes_on(&mut schedule, &moments, back);
    assert_eq!((turn.moments, turn.next), (vec![], Some(now.after(Duration::from_secs(120)))));
    assert!(!schedule.is_ahead(back));
    // A machine may start with such a clock, which is then set right: nothing is lost, and nothing comes twice.
    let far_back = Time(now.0 - 366 * 86_400_000);
    assert!(schedule.is_ahead(far_back) && !schedule.paused(true, now).is_ahead(far_back));
    assert_eq!(goes_on(&mut schedule, &moments, far_back).moments, []);
    assert_eq!(goes_on(&mut schedule, &moments, now.after(Duration::from_secs(120))).moments.len(), 1);
    // If it stays so, the clock was wrong before.
    let turn = schedule.anew(&moments, far_back);
    assert_eq!(
        (turn.moments, turn.through, turn.next),
        (vec![], far_back, Some(far_back.after(Duration::from_secs(60))))
    );
}

#[test]
fn what_comes_while_it_is_paused_was_not_missed() {
    let now = time("2026-11-26T12:00:00Z");
    let (schedule, moments) = every(60_000, now, Missed::All);
    let later = now.after(Duration::from_secs(3600));
    let paused = schedule.paused(true, now);
    assert_eq!(paused.turn(&moments, later), Turn { moments: vec![], through: now, passed: 0, next: None });
    let resumed = paused.paused(false, later);
    let turn = resumed.turn(&moments, later.after(Duration::from_secs(60)));
    assert_eq!(turn.moments, [later.after(Duration::from_secs(60))]);
    assert_eq!(resumed.paused(false, now), resumed, "one that goes on goes on");
}

/// What becomes of a server, by a clock.
#[derive(Debug, Clone)]
enum Step {
    /// It works so long, looking so many milliseconds late.
    Works(u64, u64),
    /// It is down so long.
    Down(u64),
    /// Its clock is set, ahead or back.
    Clock(i64),
    /// It looks, and is killed when so many of the transactions are on disk, of one task each.
    Killed(usize),
    /// It is paused, or resumed.
    Pause(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let span = prop_oneof![0..120_000_u64, 0..3 * 86_400_000_u64];
    prop_oneof![
        4 => (span.clone(), prop_oneof![0..2_000_u64, 0..90_000_u64]).prop_map(|(span, late)| Step::Works(span, late)),
        2 => span.clone().prop_map(Step::Down),
        2 => (span, any::<bool>()).prop_map(|(span, back)| Step::Clock(if back { -(span as i64) } else { span as i64 })),
        2 => (0..5_usize).prop_map(Step::Killed),
        1 => any::<bool>().prop_map(Step::Pause),
    ]
}

/// Whether a time, in milliseconds, is a moment.
type IsOne = fn(i64) -> bool;

/// Moments that are worked out by hand.
struct Oracle {
    schedule: Schedule,
    is_one: IsOne,
    grain: i64,
}

const MINUTE: i64 = 60_000;

fn oracles() -> Vec<(When, IsOne, i64)> {
    let cron = |expression: &str| When::Cron { expression: expression.into(), zone: "UTC".into() };
    vec![
        (cron("*/7 * * * *"), |at| at / MINUTE % 60 % 7 == 0, MINUTE),
        (cron("30 3 * * *"), |at| at % 86_400_000 == 210 * MINUTE, MINUTE),
        (cron("0 */5 * * *"), |at| at % (60 * MINUTE) == 0 && at / (60 * MINUTE) % 24 % 5 == 0, MINUTE),
        // 2026-11-26 is day 20783 since 1970, a Thursday.
        (cron("15 12 * * 4"), |at| at % 86_400_000 == 735 * MINUTE && (at / 86_400_000) % 7 == 20_783 % 7, MINUTE),
        (When::Every { millis: 90_000, since: Time(0) }, |at| at % 90_000 == 0, 90_000),
    ]
}

impl Oracle {
    fn between(&self, after: i64, upto: i64) -> Vec<Time> {
        let first = after.div_euclid(self.grain) + 1;
        let all = (first..).map(|n| n * self.grain).take_while(|at| *at <= upto);
        all.filter(|at| (self.is_one)(*at)).map(Time).collect()
    }

    /// Which of the moments that came are to have a task, told plainly.
    fn due(&self, now: Time) -> Vec<Time> {
        let all = self.between(self.schedule.through.0, now.0);
        let all = &all[all.len().saturating_sub(MOST_MISSED)..];
        let (missed, in_time): (Vec<Time>, Vec<Time>) = all.iter().partition(|at| now.since(**at) > ON_TIME);
        match self.schedule.missed {
            Missed::Skip => in_time,
            Missed::Once if in_time.is_empty() => missed.last().copied().into_iter().collect(),
            Missed::Once => in_time,
            Missed::All => all.to_vec(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 400 } else { 4_000 }))]

    #[test]
    fn in_any_life_each_moment_has_one_task_or_was_missed_as_it_is_set(
        which in 0..oracles().len(),
        missed in select(vec![Missed::Skip, Missed::Once, Missed::All]),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let (when, is_one, grain) = oracles().swap_remove(which);
        // A multiple of each grain, so that the interval counts from there.
        let start = Time(20_783 * 86_400_000);
        let schedule = Schedule::new(when, missed, What::default(), None, start);
        let moments = Moments::of(&schedule.when).unwrap();
        let mut life = Oracle { schedule, is_one, grain };
        let (mut now, mut latest, mut made) = (start, start, Vec::<Time>::new());
        for step in steps {
            match step {
                Step::Down(span) => now = now.after(Duration::from_millis(span)),
                // Not by more than a day in all: then it was wrong before, and there is a test for that.
                Step::Clock(by) => now = Time((now.0 + by).max(latest.0 - STEPS_BACK.as_millis() as i64)),
                Step::Pause(paused) => life.schedule = life.schedule.paused(paused, now),
                Step::Killed(written) => {
                    let turn = life.schedule.turn(&moments, now);
                    for moment in turn.moments.into_iter().take(written) {
                        life.schedule.through = moment;
                        made.push(moment);
                    }
                }
                Step::Works(span, late) => {
                    let until = now.after(Duration::from_millis(span));
                    let mut rounds = 0;
                    while now <= until && rounds < 300 {
                        rounds += 1;
                        let expected = if life.schedule.paused { vec![] } else { life.due(now) };
                        let turn = life.schedule.turn(&moments, now);
                        prop_assert_eq!(&turn.moments, &expected);
                        life.schedule.through = turn.through;
                        made.extend(turn.moments);
                        let Some(next) = turn.next else { break };
                        prop_assert!(next > now.max(turn.through) || next > now);
                        now = next.after(Duration::from_millis(late));
                    }
                    now = now.max(until);
                }
            }
            latest = latest.max(now);
        }
        // In their order, so none has two; and none is made up.
        prop_assert!(made.windows(2).all(|two| two[0] < two[1]), "{:?}", made);
        prop_assert!(made.iter().all(|at| is_one(at.0)));
    }

    #[test]
    fn from_wherever_it_is_looked_the_next_moment_is_the_same(
        expression in select(vec!["30 2 * * *", "*/20 * * * *", "15,45 1-3 * * *", "0 */3 29 2,3 *", "@weekly", "5 0 L * *"]),
        name in select(vec!["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca"]),
        from in 1_262_304_000_000_i64..2_500_000_000_000,
        parts in prop::collection::vec(0.0..1.0_f64, 1..8),
    ) {
        let moments = Moments::of_cron(expression, zone(name)).unwrap();
        let next = moments.after(Time(from)).unwrap();
        prop_assert!(next.0 > from);
        for part in parts {
            let between = from + ((next.0 - 1 - from) as f64 * part) as i64;
            prop_assert_eq!(moments.after(Time(between)), Some(next));
        }
        prop_assert!(moments.after(next).unwrap() > next);
        prop_assert_eq!(moments.after(Time(next.0 - 1)), Some(next));
    }

    #[test]
    fn any_text_is_an_expression_or_is_refused_in_a_sentence(text in "[0-9*/,L#W@?a-z -]{0,40}") {
        match Moments::of_cron(&text, zone("Europe/Berlin")) {
            Ok(moments) => drop(moments.after(time("2026-11-26T00:00:00Z"))),
            Err(why) => prop_assert!(why.to_string().len() <= 1024, "{}", why),
        }
    }
}
