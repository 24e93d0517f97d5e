//! A run: one thing to do on many machines, that has a state for each of them and an end.
//!
//! Its work is tasks for named groups, so leases, attempts and redelivery are those of tasks. What is here decides which part of the
//! targets comes next, and when it is over: without a clock, and without I/O.

#[cfg(feature = "server")]
mod going;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(feature = "server")]
pub use self::going::{Asked, COMES_BACK, Going, Target, Turn};
use crate::attachment::Attachment;
use crate::task::{GroupName, Outcome, Priority, Submitter, TaskId, Time};

/// Most targets of a run: as many as there may be groups, unless a server was told otherwise.
pub const MOST_TARGETS: usize = 20_000;
/// Most runs that go on at a time. Each is looked at, and is in memory with the names of its targets.
pub const MOST_GOING: usize = 100;
/// Most runs that are kept, the newest: beyond that the oldest that have ended are removed.
pub const MOST_KEPT: usize = 1_000;
/// The longest that a run may go on.
pub const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A run as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// By which it is known: the id of its first task. 0: it has not begun.
    pub number: TaskId,
    /// What is to be done.
    pub what: What,
    /// In which parts.
    pub rollout: Rollout,
    /// When it began.
    pub began_at: Time,
    /// When it is over, however far it has come: its tasks expire then.
    pub deadline: Time,
    /// Who began it, where callers have to say who they are.
    pub by: Option<Submitter>,
    /// How far it is.
    pub course: Course,
    /// Its tasks, each for the next so many of the targets.
    pub tasks: Vec<(TaskId, usize)>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// How many targets were in each state when it ended.
    pub tally: Tally,
    /// Whom it is for, in the order in which they are given their tasks. Left out of lists.
    #[serde(skip)]
    pub targets: Vec<GroupName>,
    /// The state of each of them when it ended.
    #[serde(skip)]
    pub ended: Vec<TargetState>,
}

/// What each target of a run is to do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct What {
    /// The text of its tasks.
    pub text: String,
    /// Headers and data of its tasks.
    #[serde(default, skip_serializing_if = "Attachment::is_nothing")]
    pub attachment: Attachment,
    /// The selector by which the targets were chosen; empty, if they were named.
    pub select: String,
    /// Groups that match later get it, too, until the deadline.
    pub include_new: bool,
    /// As [`NewTask`](crate::task::NewTask) has it.
    pub max_attempts: Option<u32>,
    /// The text of a policy; empty: as the server is set.
    pub retry: String,
    /// How long work on it may take, in milliseconds. 0: as long as it takes.
    pub timeout_ms: u32,
    /// What comes of it then is that it failed.
    pub timeout_fails: bool,
    /// Which tasks it goes before.
    pub priority: Priority,
    /// The run of which it does again what failed; 0: of none.
    pub again: TaskId,
}

impl What {
    /// What is to be done, in bytes: text, headers and data.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.attachment.bytes()
    }
}

/// How many of the targets: so many, or a part of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Share {
    /// So many.
    Count(u32),
    /// Hundredths of a per cent.
    Part(u32),
}

impl Share {
    /// How many that are of `all`, for a part that goes out: at least one.
    pub fn at_least_one(self, all: usize) -> usize {
        match self {
            Share::Count(count) => count as usize,
            Share::Part(part) => (all * part as usize).div_ceil(10_000),
        }
        .max(1)
    }

    /// How many that are of `all` at most.
    pub fn at_most(self, all: usize) -> usize {
        match self {
            Share::Count(count) => count as usize,
            Share::Part(part) => all * part as usize / 10_000,
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Count(count) => write!(f, "{count}"),
            Share::Part(part) => write!(f, "{}%", f64::from(*part) / 100.0),
        }
    }
}

impl From<Share> for String {
    fn from(share: Share) -> String {
        share.to_string()
    }
}

impl TryFrom<String> for Share {
    type Error = String;

    fn try_from(text: String) -> Result<Share, String> {
        text.parse()
    }
}

impl FromStr for Share {
    type Err = String;

    /// `10`, or `10%`.
    fn from_str(text: &str) -> Result<Share, String> {
        let wrong = || "it is a number of targets, as in 10, or a part of them, as in 10%".to_owned();
        match text.strip_suffix('%') {
            None => text.parse().map(Share::Count).map_err(|_| wrong()),
            Some(part) => {
                let part: f64 = part.trim_end().parse().map_err(|_| wrong())?;
                if !(0.0..=100.0).contains(&part) {
                    return Err("a part of the targets is between 0% and 100%".into());
                }
                Ok(Share::Part((part * 100.0).round() as u32))
            }
        }
    }
}

/// In which parts the targets are given their tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// How many are the first part. `None`: as many as any.
    pub canary: Option<Share>,
    /// How many are each part. `None`: all that are left.
    pub batch: Option<Share>,
    /// After a part is through, this long goes by before the next one, in milliseconds.
    pub soak_ms: u64,
    /// When more than this have failed, no part goes out until an operator says so. `None`: none may.
    pub max_failed: Option<Share>,
}

impl Rollout {
    /// Whether there is more than one part.
    pub fn is_in_parts(&self) -> bool {
        self.canary.is_some() || self.batch.is_some()
    }
}

/// How far a target of a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// To be given its task, or given it again.
    Queued,
    /// The same, and no client of the group is connected.
    Offline,
    /// With a client, which has not said that it began.
    Sent,
    /// With a client, which has begun.
    Begun,
    /// Its client said DONE.
    Done,
    /// It was given up: its client said FAILED, or the attempts were used up.
    Failed,
    /// The run was over before.
    Expired,
    /// It was taken back.
    Cancelled,
}

impl TargetState {
    /// All of them, in the order in which a target has them, and by which [`Tally`] has them.
    pub const ALL: [TargetState; 8] = [
        TargetState::Queued,
        TargetState::Offline,
        TargetState::Sent,
        TargetState::Begun,
        TargetState::Done,
        TargetState::Failed,
        TargetState::Expired,
        TargetState::Cancelled,
    ];

    /// Whether it stays so.
    pub fn is_final(self) -> bool {
        self as usize >= TargetState::Done as usize
    }

    /// What comes of a target by an outcome of its task; `None`: it goes on.
    pub fn of_outcome(outcome: Outcome) -> Option<TargetState> {
        match outcome {
            Outcome::Done => Some(TargetState::Done),
            Outcome::Failed | Outcome::Exhausted | Outcome::Dropped => Some(TargetState::Failed),
            Outcome::Expired => Some(TargetState::Expired),
            Outcome::Cancelled | Outcome::Replaced => Some(TargetState::Cancelled),
            _ => None,
        }
    }

    /// As it stands in the file: never change one.
    pub fn letter(self) -> char {
        ['q', 'o', 's', 'b', 'd', 'f', 'e', 'c'][self as usize]
    }

    /// What a letter stands for.
    pub fn of_letter(letter: char) -> Option<TargetState> {
        TargetState::ALL.into_iter().find(|state| state.letter() == letter)
    }

    /// As people and programs read it.
    pub fn as_str(self) -> &'static str {
        ["queued", "offline", "sent", "begun", "done", "failed", "expired", "cancelled"][self as usize]
    }
}

/// How many targets are in each state, in the order of [`TargetState::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally(pub [u32; 8]);

impl Tally {
    /// Of these.
    pub fn of(states: impl Iterator<Item = TargetState>) -> Tally {
        let mut tally = Tally::default();
        states.for_each(|state| tally.0[state as usize] += 1);
        tally
    }

    /// How many are in this state.
    pub fn get(&self, state: TargetState) -> u32 {
        self.0[state as usize]
    }

    /// How many there are.
    pub fn all(&self) -> u32 {
        self.0.iter().sum()
    }
}

impl fmt::Display for Tally {
    /// `3 done, 1 failed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = TargetState::ALL.into_iter().rev().filter(|state| self.get(*state) > 0);
        let words: Vec<_> = counts.map(|state| format!("{} {}", self.get(state), state.as_str())).collect();
        f.write_str(&words.join(", "))
    }
}

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Targets are given their tasks, or are at work.
    Going,
    /// No part goes out until an operator says so. What is out goes on.
    Paused,
    /// The same, because more failed than may.
    Stopped,
    /// No part goes out any more, and what has not begun is taken back. What has begun goes on to its end.
    Aborting,
    /// The same, and clients that are at work are told to end.
    Cancelling,
    /// It is over: all targets are done, or failed.
    Completed,
    /// It is over, after it was aborted.
    Aborted,
    /// It is over, after it was cancelled.
    Cancelled,
    /// It is over: its time was.
    Expired,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 9] = [
        Phase::Going,
        Phase::Paused,
        Phase::Stopped,
        Phase::Aborting,
        Phase::Cancelling,
        Phase::Completed,
        Phase::Aborted,
        Phase::Cancelled,
        Phase::Expired,
    ];

    /// Whether the run is over.
    pub fn has_ended(self) -> bool {
        self as usize >= Phase::Completed as usize
    }

    /// As people and programs read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Going => "going",
            Phase::Paused => "paused",
            Phase::Stopped => "stopped",
            Phase::Aborting => "aborting",
            Phase::Cancelling => "cancelling",
            Phase::Completed => "completed",
            Phase::Aborted => "aborted",
            Phase::Cancelled => "cancelled",
            Phase::Expired => "expired",
        }
    }
}

/// What an operator wants of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// No part is to go out until further notice.
    Pause,
    /// Go on, whatever has failed so far.
    Resume,
    /// Take back what has not begun.
    Abort,
    /// Take back everything.
    Cancel,
}

impl Wish {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Wish::Pause => "paused",
            Wish::Resume => "resumed",
            Wish::Abort => "aborted",
            Wish::Cancel => "cancelled",
        }
    }
}

/// How far a run is: the state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Course {
    /// What it is doing.
    pub phase: Phase,
    /// So many of the targets, the first ones, were given their tasks.
    pub out: usize,
    /// In so many parts.
    pub parts: u32,
    /// Since when the last part is through.
    pub through_at: Option<Time>,
    /// So many failures were there when an operator had it go on.
    pub accepted_failures: usize,
}

impl Default for Course {
    fn default() -> Course {
        Course { phase: Phase::Going, out: 0, parts: 0, through_at: None, accepted_failures: 0 }
    }
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Give these targets, by their places, their tasks: then they are the next ones in the order of the run.
    Send(Vec<usize>),
    /// Nothing, until something changes, or until then.
    Wait(Time),
    /// It is over.
    End(Phase),
}

impl Course {
    /// Does what an operator wants, if it makes sense now.
    pub fn wish(&mut self, wish: Wish, failed: usize) -> bool {
        let next = match (wish, self.phase) {
            (Wish::Pause, Phase::Going | Phase::Stopped) => Phase::Paused,
            (Wish::Resume, Phase::Paused | Phase::Stopped) => Phase::Going,
            (Wish::Abort, Phase::Going | Phase::Paused | Phase::Stopped) => Phase::Aborting,
            (Wish::Cancel, Phase::Going | Phase::Paused | Phase::Stopped | Phase::Aborting) => Phase::Cancelling,
            // Said twice is said once.
            (Wish::Pause, Phase::Paused)
            | (Wish::Resume, Phase::Going)
            | (Wish::Abort, Phase::Aborting)
            | (Wish::Cancel, Phase::Cancelling) => self.phase,
            _ => return false,
        };
        if wish == Wish::Resume {
            self.accepted_failures = failed;
        }
        self.phase = next;
        true
    }

    /// What comes next, where the targets are in these states, in their order. `open`: others may come until the deadline.
    pub fn step(&mut self, rollout: &Rollout, states: &[TargetState], deadline: Time, open: bool, now: Time) -> Step {
        if self.phase.has_ended() {
            return Step::End(self.phase);
        }
        let (out, rest) = states.split_at(self.out.min(states.len()));
        let is_settled = out.iter().all(|state| state.is_final());
        let end = match self.phase {
            Phase::Aborting if is_settled => Some(Phase::Aborted),
            Phase::Cancelling if is_settled => Some(Phase::Cancelled),
            Phase::Going | Phase::Paused | Phase::Stopped if is_settled && rest.is_empty() && !open => {
                // The broker may have noticed first that its time is over.
                let has_expired = out.contains(&TargetState::Expired);
                Some(if has_expired { Phase::Expired } else { Phase::Completed })
            }
            Phase::Aborting if now >= deadline => Some(Phase::Aborted),
            Phase::Cancelling if now >= deadline => Some(Phase::Cancelled),
            _ if now >= deadline => Some(Phase::Expired),
            _ => None,
        };
        if let Some(end) = end {
            self.phase = end;
            return Step::End(end);
        }
        if self.phase == Phase::Going
            && !rest.is_empty()
            && let Some(step) = self.next_part(rollout, states, now)
        {
            return step;
        }
        Step::Wait(deadline)
    }

    /// The next part, or when it may go out.
    fn next_part(&mut self, rollout: &Rollout, states: &[TargetState], now: Time) -> Option<Step> {
        if rollout.is_in_parts() && self.parts > 0 {
            let failed = states.iter().filter(|state| **state == TargetState::Failed).count();
            let may_fail = rollout.max_failed.map_or(0, |most| most.at_most(states.len()));
            if failed > may_fail.max(self.accepted_failures) {
                self.phase = Phase::Stopped;
                return None;
            }
            // Who is away counts as neither.
            let is_through = |state: &TargetState| state.is_final() || *state == TargetState::Offline;
            if self.through_at.is_none() && !states[..self.out].iter().all(is_through) {
                return None;
            }
            // A clock that is set back makes no soak longer than it was to be.
            let through_at = self.through_at.map_or(now, |at| at.min(now));
            self.through_at = Some(through_at);
            let due = through_at.after(Duration::from_millis(rollout.soak_ms));
            if now < due {
                return Some(Step::Wait(due));
            }
        }
        let first = rollout.canary.filter(|_| self.parts == 0);
        let size = first.or(rollout.batch).map_or(usize::MAX, |share| share.at_least_one(states.len()));
        let rest = self.out..states.len();
        // A part of machines that are away would say nothing of those that come after it: so these go last, together.
        let is_there = |place: &usize| states[*place] != TargetState::Offline;
        let mut part: Vec<usize> = match size {
            usize::MAX => rest.clone().collect(),
            size => rest.clone().filter(is_there).take(size).collect(),
        };
        if part.is_empty() {
            part = rest.collect();
        }
        self.out += part.len();
        self.parts += 1;
        self.through_at = None;
        Some(Step::Send(part))
    }
}

/// Brings the targets at these places, which are in order, to the front of what comes from `out` on.
pub fn bring_forward<T>(targets: &mut Vec<T>, out: usize, places: &[usize]) {
    let mut rest = targets.split_off(out.min(targets.len()));
    let mut places = places.iter().map(|place| place - out).peekable();
    let mut later = Vec::with_capacity(rest.len());
    for (at, target) in rest.drain(..).enumerate() {
        match places.next_if_eq(&at) {
            Some(_) => targets.push(target),
            None => later.push(target),
        }
    }
    targets.append(&mut later);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use TargetState::{Begun, Cancelled, Done, Expired, Failed, Offline, Queued, Sent};

    const DEADLINE: Time = Time(1_000);

    fn step(course: &mut Course, rollout: &Rollout, states: &[TargetState], now: i64) -> Step {
        course.step(rollout, states, DEADLINE, false, Time(now))
    }

    fn in_parts(canary: u32, batch: &str, soak_ms: u64, max_failed: &str) -> Rollout {
        let share = |text: &str| Some(text.parse().unwrap());
        Rollout { canary: Some(Share::Count(canary)), batch: share(batch), soak_ms, max_failed: share(max_failed) }
    }

    #[test]
    fn all_are_given_their_tasks_at_once_and_the_run_ends_when_all_are_through() {
        let mut course = Course::default();
        let all = Rollout::default();
        assert_eq!(step(&mut course, &all, &[Queued, Offline], 0), Step::Send(vec![0, 1]));
        assert_eq!(step(&mut course, &all, &[Begun, Offline], 1), Step::Wait(DEADLINE));
        assert_eq!(step(&mut course, &all, &[Failed, Offline], 1), Step::Wait(DEADLINE), "who is away may come back");
        assert_eq!(step(&mut course, &all, &[Failed, Done], 2), Step::End(Phase::Completed));
        let mut course = Course::default();
        step(&mut course, &all, &[Queued, Offline], 0);
        assert_eq!(step(&mut course, &all, &[Done, Offline], 1_000), Step::End(Phase::Expired));
        let mut course = Course::default();
        step(&mut course, &all, &[Queued, Offline], 0);
        assert_eq!(step(&mut course, &all, &[Done, Expired], 1_000), Step::End(Phase::Expired), "not all are done");
    }

    #[test]
    fn the_next_part_goes_out_when_the_last_is_through_and_has_soaked_and_who_is_away_goes_last() {
        let mut course = Course::default();
        let rollout = in_parts(1, "40%", 10, "0");
        let mut states = [Offline, Queued, Queued, Queued, Queued];
        assert_eq!(step(&mut course, &rollout, &states, 0), Step::Send(vec![1]), "one that is there");
        // The order is changed accordingly.
        states = [Sent, Offline, Queued, Queued, Queued];
        assert_eq!(step(&mut course, &rollout, &states, 1), Step::Wait(DEADLINE));
        states[0] = Done;
        assert_eq!(step(&mut course, &rollout, &states, 5), Step::Wait(Time(15)));
        assert_eq!(step(&mut course, &rollout, &states, 15), Step::Send(vec![2, 3]));
        states = [Done, Done, Offline, Offline, Queued];
        assert_eq!(step(&mut course, &rollout, &states, 16), Step::Wait(Time(26)), "away counts as neither");
        assert_eq!(step(&mut course, &rollout, &states, 26), Step::Send(vec![4]));
        states = [Done, Done, Offline, Done, Offline];
        assert_eq!(step(&mut course, &rollout, &states, 30), Step::Wait(Time(40)));
        assert_eq!(step(&mut course, &rollout, &states, 40), Step::Send(vec![4]), "nobody else is left");
        assert_eq!(step(&mut course, &rollout, &states, 41), Step::Wait(DEADLINE));
        assert_eq!(course.parts, 4);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_soak_longer() {
        let mut course = Course::default();
        let rollout = in_parts(1, "1", 10, "0");
        assert_eq!(step(&mut course, &rollout, &[Queued, Queued], 500), Step::Send(vec![0]));
        assert_eq!(step(&mut course, &rollout, &[Done, Queued], 500), Step::Wait(Time(510)));
        assert_eq!(step(&mut course, &rollout, &[Done, Queued], 5), Step::Wait(Time(15)));
        assert_eq!(step(&mut course, &rollout, &[Done, Queued], 15), Step::Send(vec![1]));
    }

    #[test]
    fn when_more_fail_than_may_no_part_goes_out_until_somebody_says_so() {
        let mut course = Course::default();
        let rollout = in_parts(2, "2", 0, "25%");
        let mut states = [Queued; 8];
        assert_eq!(step(&mut course, &rollout, &states, 0), Step::Send(vec![0, 1]));
        (states[0], states[1]) = (Failed, Failed);
        assert_eq!(step(&mut course, &rollout, &states, 1), Step::Send(vec![2, 3]), "two of eight may");
        states[2] = Failed;
        assert_eq!(step(&mut course, &rollout, &states, 2), Step::Wait(DEADLINE));
        assert_eq!(course.phase, Phase::Stopped, "what is out goes on");
        states[3] = Done;
        assert_eq!(step(&mut course, &rollout, &states, 3), Step::Wait(DEADLINE));
        assert!(course.wish(Wish::Resume, 3));
        assert_eq!(step(&mut course, &rollout, &states, 4), Step::Send(vec![4, 5]));
        states[4] = Failed;
        assert_eq!(step(&mut course, &rollout, &states, 5), Step::Wait(DEADLINE));
        assert_eq!(course.phase, Phase::Stopped);
        assert!(course.wish(Wish::Abort, 4) && !course.wish(Wish::Pause, 4) && !course.wish(Wish::Resume, 4));
        states[5] = Begun;
        assert_eq!(step(&mut course, &rollout, &states, 6), Step::Wait(DEADLINE), "what has begun goes on");
        states[5] = Done;
        assert_eq!(step(&mut course, &rollout, &states, 7), Step::End(Phase::Aborted));
        assert!(!course.wish(Wish::Cancel, 4));
    }

    #[test]
    fn shares_are_counts_or_parts() {
        let share = |text: &str| text.parse::<Share>().map_err(|_| ());
        assert_eq!(
            ["5", "10%", "0.5 %", "100%"].map(share),
            [Ok(Share::Count(5)), Ok(Share::Part(1_000)), Ok(Share::Part(50)), Ok(Share::Part(10_000))]
        );
        assert!(["", "%", "-1", "101%", "NaN%", "1e9", "five"].iter().all(|text| share(text).is_err()));
        assert_eq!((Share::Part(1_000).at_least_one(5), Share::Part(1_000).at_most(5)), (1, 0));
        assert_eq!(Share::Part(50).to_string(), "0.5%");
    }

    #[derive(Debug, Clone)]
    enum Op {
        /// A target that has its task is in another state now.
        Becomes(usize, TargetState),
        /// One that has none comes, or goes.
        Away(usize, bool),
        Wish(Wish),
        Passes(i64),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let states = prop::sample::select(&TargetState::ALL[..]);
        let wishes = prop::sample::select(&[Wish::Pause, Wish::Resume, Wish::Resume, Wish::Abort, Wish::Cancel][..]);
        let op = prop_oneof![
            8 => (any::<usize>(), states).prop_map(|(at, state)| Op::Becomes(at, state)),
            2 => (any::<usize>(), any::<bool>()).prop_map(|(at, away)| Op::Away(at, away)),
            1 => wishes.prop_map(Op::Wish),
            2 => (0..50_i64).prop_map(Op::Passes),
        ];
        prop::collection::vec(op, 0..120)
    }

    fn rollouts() -> impl Strategy<Value = Rollout> {
        let share =
            || prop::option::of(prop_oneof![(0..4_u32).prop_map(Share::Count), (0..10_000_u32).prop_map(Share::Part)]);
        (share(), share(), 0..30_u64, share()).prop_map(|(canary, batch, soak_ms, max_failed)| Rollout {
            canary,
            batch,
            soak_ms,
            max_failed,
        })
    }

    /// A life of a run, by what is promised of one.
    fn live(rollout: &Rollout, size: usize, ops: Vec<Op>) {
        let (mut course, mut now) = (Course::default(), 0);
        // Each target by its number, and its state.
        let mut targets: Vec<(usize, TargetState)> = (0..size).map(|number| (number, Queued)).collect();
        let (mut given, mut wished, mut last) = (HashSet::new(), HashSet::new(), Step::Wait(Time(0)));
        let end = Op::Passes(DEADLINE.0);
        for op in ops.into_iter().chain([end]) {
            match op {
                Op::Becomes(at, state) if course.out > 0 => {
                    let target = &mut targets[at % course.out].1;
                    if !target.is_final() && (state != Cancelled || wished.contains("cancelled")) {
                        *target = state;
                    }
                }
                Op::Becomes(..) => {}
                Op::Away(at, away) if course.out < size => {
                    targets[course.out + at % (size - course.out)].1 = if away { Offline } else { Queued };
                }
                Op::Away(..) => {}
                Op::Wish(wish) => {
                    let failed = targets.iter().filter(|(_, state)| *state == Failed).count();
                    let before = course.phase;
                    if course.wish(wish, failed) {
                        assert!(!before.has_ended());
                        wished.insert(wish.as_str());
                    }
                    if wish == Wish::Abort || wish == Wish::Cancel {
                        // What the server does then: what has not begun is settled at once; with a cancel, everything is.
                        for (_, state) in &mut targets[..course.out] {
                            if !state.is_final() && (wish == Wish::Cancel || *state != Begun) && !before.has_ended() {
                                *state = Cancelled;
                            }
                        }
                    }
                }
                Op::Passes(time) => now += time,
            }
            let states: Vec<_> = targets.iter().map(|(_, state)| *state).collect();
            let before = course;
            last = step(&mut course, rollout, &states, now);
            match &last {
                Step::Send(places) => {
                    assert_eq!(before.phase, Phase::Going, "only then a part goes out");
                    assert!(now < DEADLINE.0 && !places.is_empty() && places.iter().all(|at| *at >= before.out));
                    assert!(places.is_sorted() && places.iter().collect::<HashSet<_>>().len() == places.len());
                    let failed = states.iter().filter(|state| **state == Failed).count();
                    let may = rollout.max_failed.map_or(0, |most| most.at_most(size));
                    if rollout.is_in_parts() {
                        assert!(before.parts == 0 || failed <= may.max(before.accepted_failures));
                    }
                    bring_forward(&mut targets, before.out, places);
                    assert_eq!(course.out, before.out + places.len());
                    for (number, _) in &targets[before.out..course.out] {
                        assert!(given.insert(*number), "nobody is given it twice");
                    }
                }
                Step::Wait(until) => assert!(until.0 > now, "it is not asked again at once"),
                Step::End(phase) => {
                    assert!(phase.has_ended());
                    let (out, rest) = states.split_at(course.out);
                    match phase {
                        Phase::Completed => {
                            let is_through = |state: &TargetState| state.is_final() && *state != Expired;
                            assert!(rest.is_empty() && out.iter().all(is_through));
                        }
                        Phase::Expired => assert!(now >= DEADLINE.0 || out.contains(&Expired)),
                        Phase::Aborted => assert!(wished.contains("aborted")),
                        _ => assert!(wished.contains("cancelled")),
                    }
                }
            }
            assert_eq!(given.len(), course.out);
        }
        assert!(matches!(last, Step::End(_)), "a run always ends");
        let mut all: Vec<_> = targets.iter().map(|(number, _)| *number).collect();
        all.sort_unstable();
        assert_eq!(all, (0..size).collect::<Vec<_>>(), "no target is lost");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::fuzz::cases()))]

        #[test]
        fn any_life_of_a_run_loses_no_target_and_ends(rollout in rollouts(), size in 1..20_usize, ops in ops()) {
            live(&rollout, size, ops);
        }
    }

    #[test]
    fn letters_of_the_file_are_read_back() {
        for state in TargetState::ALL {
            assert_eq!(TargetState::of_letter(state.letter()), Some(state));
        }
        assert_eq!([Done, Expired].map(TargetState::is_final), [true, true]);
    }
}
