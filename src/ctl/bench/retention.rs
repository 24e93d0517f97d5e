//! What the server's looking for old tasks does to those who submit.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::args::Kept;
use super::latency::{Schedule, histogram, micros};
use super::{Run, work};
use crate::ctl::Error;
use crate::ctl::link::Link;

/// How often the server looks for what is old, from its start on. It is no setting.
const EVERY: Duration = Duration::from_secs(60);
/// How long before its time a round may begin: the server counts from its own start, not from its first word.
const BEFORE: Duration = Duration::from_millis(500);
/// Seconds in which a round is noticed: it may also begin a little late. All other latencies are looked at in pieces as long.
const WINDOW: f64 = 2.0;

pub(super) fn run(run: &mut Run, args: &Kept) -> Result<(), Error> {
    let Some(started) = run.target.started() else {
        return Err(Error::Usage("bench retention must know when its server was started: use --spawn".into()));
    };
    let around = args.around.clamp(Duration::from_secs_f64(WINDOW * 1.5), EVERY / 2);
    let kept = work::once(run, run.kind("kept", args.workers.size), &args.workers, args.tasks, None)?;
    let round = next_round(started, Instant::now() + around);
    run.watch.pause("seconds until the round", (round - around).saturating_duration_since(Instant::now()))?;

    let link = run.link()?;
    let kind = run.kind(&run.group(), args.workers.size);
    let schedule = Schedule { start: Instant::now(), rate: args.rate as f64 };
    // By windows, counted from that of the round, which is window 0.
    let mut windows = BTreeMap::new();
    let total = ((round + around - schedule.start).as_secs_f64() * schedule.rate) as u64;
    let mut progress = run.watch.progress("submitting", total);
    for number in 0..total {
        let due = schedule.due(number);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let request = kind.request(number..number + 1);
        link.wait(link.client.submit(&request, Link::answer_soon()))?;
        let window = match (due + BEFORE).checked_duration_since(round) {
            Some(after) => (after.as_secs_f64() / WINDOW) as i64,
            None => -1 - ((round - due - BEFORE).as_secs_f64() / WINDOW) as i64,
        };
        // From when it was due: those count that had to wait for one before them.
        let latencies = match windows.entry(window) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(histogram()?),
        };
        latencies.saturating_record(micros(due.elapsed()));
        progress.count.fetch_add(1, SeqCst);
        progress.show()?;
    }
    drop(progress);
    let looked_at = windows.values().map(Histogram::len).sum();
    let millis = |micros: u64| micros as f64 / 1000.0;
    let (round, longest) = windows.remove(&0).map_or((0, 0), |window| (window.value_at_quantile(0.99), window.max()));
    // The one in the middle: a busy machine holds up some of them by itself.
    let mut others: Vec<u64> = windows.values().map(|window| window.value_at_quantile(0.99)).collect();
    others.sort_unstable();
    let other = others.get(others.len() / 2).copied().unwrap_or(0);
    run.report.number(
        "round_p99_ms",
        millis(round),
        "ms until accepted in the two seconds of the round, 99 % of the tasks",
    );
    run.report.number("others_p99_ms", millis(other), "ms, the same in other two seconds, the median of them");
    run.report.number("ratio", round as f64 / other.max(1) as f64, "times as long in the round");
    run.report.number("round_max_ms", millis(longest), "ms, the longest in the round");
    run.report.count("kept", kept.sum.settled, "settled tasks that are kept");
    run.report.count("tasks", looked_at, "submissions that were looked at");
    Ok(())
}

/// The first round that is not before that time.
fn next_round(started: Instant, earliest: Instant) -> Instant {
    let rounds = earliest.saturating_duration_since(started).as_secs_f64() / EVERY.as_secs_f64();
    started + EVERY * (rounds.ceil() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_round_is_a_whole_number_of_minutes_after_the_start() {
        let start = Instant::now();
        for (now, round) in [(0, 60), (59, 60), (61, 120), (119, 120), (200, 240)] {
            assert_eq!(
                next_round(start, start + Duration::from_secs(now)),
                start + Duration::from_secs(round),
                "{now}"
            );
        }
    }
}
