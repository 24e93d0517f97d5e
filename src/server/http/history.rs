//! The past that a page begins with: the last minutes second by second, and the last hour in steps of ten seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::json::{Point, Totals};
use crate::broker::Meter;
use crate::latency::Latency;
use crate::store::Positions;
use crate::task::Time;

/// The length of a step of the hour. While no client watches, a snapshot is made for each step, and no other.
pub(super) const STEP: Duration = Duration::from_secs(10);
/// Looks take longer or shorter, so that ten seconds from one to another may be a little less.
const EARLY: Duration = Duration::from_millis(500);
const MINUTES: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);

/// What was counted at a moment, to be compared with the next.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) made: Instant,
    pub(super) positions: Positions,
    pub(super) meter: Meter,
    pub(super) commits: Latency,
}

#[derive(Default)]
pub(super) struct History {
    minutes: VecDeque<Point>,
    hour: VecDeque<Point>,
    /// Where the step began that is not over.
    begun: Option<Sample>,
}

impl History {
    /// Remembers a moment, and the point that was made of it.
    pub(super) fn remember(&mut self, now: &Sample, point: Point, totals: &Totals) {
        let at = point.at;
        push(&mut self.minutes, point, MINUTES);
        let begun = self.begun.get_or_insert_with(|| now.clone());
        if now.made.duration_since(begun.made) + EARLY >= STEP {
            push(&mut self.hour, Point { at, ..Point::between(begun, now, totals) }, HOUR);
            *begun = now.clone();
        }
    }

    /// The newest step of the hour.
    pub(super) fn step(&self) -> Option<Point> {
        self.hour.back().cloned()
    }

    /// All of it, oldest first; of one that is watching already, only what came before `before`.
    pub(super) fn json(&self, before: Option<i64>) -> serde_json::Value {
        let until = |points: &VecDeque<Point>| -> Vec<Point> {
            points.iter().filter(|point| before.is_none_or(|before| point.at < before)).cloned().collect()
        };
        serde_json::json!({ "points": until(&self.minutes), "hour": until(&self.hour) })
    }
}

fn push(points: &mut VecDeque<Point>, point: Point, span: Duration) {
    let newest = point.at;
    points.push_back(point);
    // The clock may have been set back.
    points.retain(|point| point.at >= newest - span.as_millis() as i64 && point.at <= newest);
}

impl Point {
    /// What went on from one moment to another.
    pub(super) fn between(before: &Sample, now: &Sample, totals: &Totals) -> Point {
        let seconds = (now.made - before.made).as_secs_f64().max(0.001);
        // One decimal is more than the curves show.
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds * 10.0).round() / 10.0;
        let millis = |latency: &Latency, quantile| latency.quantile(quantile).map(|micros| micros as f64 / 1000.0);
        let (meter, earlier) = (&now.meter, &before.meter);
        let (wait, work) = (meter.wait.since(&earlier.wait), meter.work.since(&earlier.work));
        Point {
            at: Time::now().0,
            accepted: rate(now.positions.task, before.positions.task),
            delivered: rate(meter.total.delivered, earlier.total.delivered),
            settled: rate(meter.total.settled(), earlier.total.settled()),
            failed: rate(meter.total.failed(), earlier.total.failed()),
            wait_p50_ms: millis(&wait, 0.5),
            wait_p99_ms: millis(&wait, 0.99),
            work_p50_ms: millis(&work, 0.5),
            work_p99_ms: millis(&work, 0.99),
            commit_p99_ms: millis(&now.commits.since(&before.commits), 0.99),
            in_flight: totals.in_flight,
            lag: totals.lag,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_hour_is_kept_in_steps_whose_rates_are_of_the_whole_step() {
        let began = Instant::now();
        let mut history = History::default();
        // Two hours, a look each second; ten tasks come in each tenth second and none in the others.
        for second in 0..7200u64 {
            let positions = Positions { task: second.div_ceil(10) * 10, ..Positions::default() };
            let made = began + Duration::from_millis(second * 1000 + second % 3 * 100);
            let now = Sample { made, positions, meter: Meter::default(), commits: Latency::default() };
            let point = Point { at: second as i64 * 1000, ..Point::default() };
            history.remember(&now, point, &Totals { lag: second, ..Totals::default() });
        }
        let times = |points: &VecDeque<Point>| points.iter().map(|point| point.at / 1000).collect::<Vec<_>>();
        assert_eq!(times(&history.minutes), (6899..7200).collect::<Vec<_>>());
        assert_eq!(times(&history.hour), (3590..7200).step_by(10).collect::<Vec<_>>());
        assert!(history.hour.iter().all(|point| point.accepted == 1.0), "{:?}", history.hour);
        assert_eq!(history.step().unwrap().lag, 7190);
        let shown = history.json(Some(7_190_000));
        assert_eq!(shown["points"].as_array().unwrap().last().unwrap()["at"], 7_189_000);
        assert_eq!(shown["hour"].as_array().unwrap().last().unwrap()["at"], 7_180_000);
    }

    #[test]
    fn a_clock_that_is_set_back_leaves_no_points_of_the_future() {
        let now = Sample {
            made: Instant::now(),
            positions: Positions::default(),
            meter: Meter::default(),
            commits: Latency::default(),
        };
        let mut history = History::default();
        for at in [1_000_000, 1_001_000, 900_000] {
            history.remember(&now, Point { at, ..Point::default() }, &Totals::default());
        }
        assert_eq!(history.minutes.iter().map(|point| point.at).collect::<Vec<_>>(), [900_000]);
    }
}
