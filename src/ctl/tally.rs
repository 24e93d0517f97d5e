//! How far a submission came.

use std::fmt;
use std::time::Duration;

use super::words::count;

/// How many of the failed lines the summary names. All of them were named when they failed.
const NAMED: usize = 20;

/// Counts what became of lines. Numbers of lines are from 1.
pub(super) struct Tally {
    /// What a line is called: "line", or "task" where it was an argument.
    pub(super) noun: &'static str,
    pub(super) accepted: u64,
    /// How many of the accepted ones had been accepted before.
    pub(super) known: u64,
    pub(super) failed: Failed,
    pub(super) empty: u64,
    ids: Option<Ids>,
    /// The last line of the last request that was sent.
    pub(super) sent: u64,
    /// The last line of the last request that was answered.
    pub(super) answered: u64,
    /// There is nothing left to send.
    pub(super) all_sent: bool,
}

/// The lines that failed.
#[derive(Default)]
pub(super) struct Failed {
    pub(super) count: u64,
    first: Vec<u64>,
}

/// The ids that were given.
#[derive(Clone, Copy)]
struct Ids {
    least: u64,
    greatest: u64,
    last: u64,
    /// Each followed the one before it.
    consecutive: bool,
}

impl Tally {
    pub(super) fn new(noun: &'static str) -> Tally {
        Tally {
            noun,
            accepted: 0,
            known: 0,
            failed: Failed::default(),
            empty: 0,
            ids: None,
            sent: 0,
            answered: 0,
            all_sent: false,
        }
    }

    /// Counts accepted tasks with consecutive ids, `first` and what follows it.
    /// The first task of all.
    pub(super) fn first(&self) -> Option<u64> {
        self.ids.as_ref().map(|ids| ids.least)
    }

    pub(super) fn accept(&mut self, first: u64, count: u64) {
        if count == 0 {
            return;
        }
        self.accepted += count;
        let last = first.saturating_add(count - 1);
        let ids = self.ids.get_or_insert(Ids { least: first, greatest: last, last, consecutive: true });
        if last != ids.last {
            ids.consecutive &= ids.last.checked_add(1) == Some(first);
        }
        ids.least = ids.least.min(first);
        ids.greatest = ids.greatest.max(last);
        ids.last = last;
    }

    /// How many of those had been accepted before.
    pub(super) fn recognize(&mut self, count: u64) {
        self.known += count;
    }

    pub(super) fn fail(&mut self, line: u64) {
        self.failed.count += 1;
        if self.failed.first.len() < NAMED {
            self.failed.first.push(line);
        }
    }

    /// The line at the end of a submission that came to its end.
    pub(super) fn summary(&self, took: Duration) -> String {
        let ids = self.ids.map(|ids| format!(", {ids}")).unwrap_or_default();
        let empty = match self.empty {
            0 => String::new(),
            n => format!("; skipped {}", count(n, "empty line")),
        };
        format!("accepted {}{ids}, in {:.2} s{empty}", count(self.accepted, "task"), took.as_secs_f64())
    }

    /// Names the lines that failed, if any did.
    pub(super) fn failures(&self) -> Option<String> {
        let first: Vec<_> = self.failed.first.iter().map(u64::to_string).collect();
        let more = self.failed.count - first.len() as u64;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (self.failed.count > 0)
            .then(|| format!("{} failed: {}{more}", count(self.failed.count, self.noun), first.join(", ")))
    }

    /// What is known about the lines of a submission that was cut off.
    pub(super) fn how_far(&self) -> String {
        let mut known = Vec::new();
        if self.answered > 0 {
            let ids = self.ids.map(|ids| ids.to_string()).unwrap_or("none".into());
            known.push(if self.accepted == self.answered {
                format!("{} accepted ({ids})", self.span(1, self.answered, " is", " are"))
            } else {
                format!(
                    "{} done ({} accepted, {ids}; {} failed, {} empty)",
                    self.span(1, self.answered, " is", " are"),
                    self.accepted,
                    self.failed.count,
                    self.empty,
                )
            });
        }
        if self.sent > self.answered {
            let accepted = if known.is_empty() { " accepted" } else { "" };
            known.push(format!("{} may or may not be{accepted}", self.span(self.answered + 1, self.sent, "", "")));
        }
        if !self.all_sent {
            known.push(if known.is_empty() { "nothing was sent" } else { "the rest was not sent" }.into());
        }
        known.join(", ")
    }

    fn span(&self, from: u64, to: u64, one: &str, many: &str) -> String {
        if from == to { format!("{} {from}{one}", self.noun) } else { format!("{}s {from} to {to}{many}", self.noun) }
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.least == self.greatest {
            write!(f, "id {}", self.least)
        } else if self.consecutive {
            write!(f, "ids {} to {}", self.least, self.greatest)
        } else {
            write!(f, "ids between {} and {}", self.least, self.greatest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(accepted: &[(u64, u64)]) -> Tally {
        let mut tally = Tally::new("line");
        accepted.iter().for_each(|&(first, count)| tally.accept(first, count));
        tally
    }

    fn summary(tally: &Tally) -> String {
        tally.summary(Duration::from_millis(312))
    }

    #[test]
    fn the_summary_names_the_ids_as_a_range_only_where_they_are_one() {
        assert_eq!(summary(&tally(&[])), "accepted 0 tasks, in 0.31 s");
        assert_eq!(summary(&tally(&[(7, 1)])), "accepted 1 task, id 7, in 0.31 s");
        assert_eq!(summary(&tally(&[(1, 1000), (1001, 1)])), "accepted 1001 tasks, ids 1 to 1001, in 0.31 s");
        assert_eq!(summary(&tally(&[(1, 10), (21, 1)])), "accepted 11 tasks, ids between 1 and 21, in 0.31 s");
        assert_eq!(summary(&tally(&[(9, 1), (3, 1)])), "accepted 2 tasks, ids between 3 and 9, in 0.31 s");
    }

    #[test]
    fn the_summary_names_the_first_lines_that_failed_and_counts_the_others() {
        let mut tally = tally(&[]);
        assert_eq!(tally.failures(), None);
        tally.fail(17);
        assert_eq!(tally.failures().as_deref(), Some("1 line failed: 17"));
        (18..=38).for_each(|line| tally.fail(line));
        let failures = tally.failures().unwrap_or_default();
        assert!(
            failures.starts_with("22 lines failed: 17, 18, ") && failures.ends_with(", 36 and 2 more"),
            "{failures}"
        );
    }

    #[test]
    fn a_cut_off_submission_says_what_is_known_of_each_line() {
        let mut tally = tally(&[]);
        assert_eq!(tally.how_far(), "nothing was sent");
        tally.sent = 1;
        assert_eq!(tally.how_far(), "line 1 may or may not be accepted, the rest was not sent");
        tally.accept(1, 41000);
        (tally.answered, tally.sent) = (41000, 49000);
        let known = "lines 1 to 41000 are accepted (ids 1 to 41000), lines 41001 to 49000 may or may not be";
        assert_eq!(tally.how_far(), format!("{known}, the rest was not sent"));
        tally.all_sent = true;
        assert_eq!(tally.how_far(), known);
        (tally.answered, tally.sent, tally.empty) = (41002, 41002, 1);
        tally.fail(3);
        assert_eq!(tally.how_far(), "lines 1 to 41002 are done (41000 accepted, ids 1 to 41000; 1 failed, 1 empty)");
    }
}
