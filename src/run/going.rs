//! A run that goes on: what is known of its targets, and what is to be done next. Time is an argument, and there is no I/O.

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{Course, Phase, Run, Step, Tally, TargetState, bring_forward};
use crate::now::{Now, Steady};
use crate::retry::RetryPolicy;
use crate::task::{Audience, GroupName, NewTask, Outcome, Task, TaskId, Time, TimeLimit};

/// Until one whose connection has ended counts as away. A server that starts again has its clients back by then, and a rollout does not
/// take all of them for away.
pub const COMES_BACK: Duration = Duration::from_secs(10);
/// How often is looked whether groups came that match.
const LOOK_FOR_NEW: Duration = Duration::from_secs(2);

/// What is known of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// How far it is.
    pub state: TargetState,
    /// The position of the result that decided; 0: none has.
    pub seq: u64,
    /// Since when no client of it is connected, if one was before.
    left: Option<Steady>,
    /// Its task was taken back: its group has settled it by now, or is gone.
    taken_back: bool,
}

impl Target {
    const QUEUED: Target = Target { state: TargetState::Queued, seq: 0, left: None, taken_back: false };

    /// It is so by now.
    fn is_now(&mut self, state: TargetState, now: Steady) {
        let leaves = state == TargetState::Offline && self.state != TargetState::Offline;
        match state {
            TargetState::Offline if leaves => self.left = Some(now),
            TargetState::Offline => {}
            _ => self.left = None,
        }
        self.taken_back &= state == TargetState::Offline;
        self.state = if self.taken_back { TargetState::Cancelled } else { state };
    }

    /// What counts for the next step: one that has just gone is about to come back, as a rule, and is waited for.
    fn counts_as(&self, now: Steady) -> TargetState {
        match self.left {
            Some(left) if self.state == TargetState::Offline && now.since(left) < COMES_BACK => TargetState::Queued,
            _ => self.state,
        }
    }

    /// That came of it, by the result at this position. The first that settles it counts; after the end, what was so at the end.
    fn came(&mut self, seq: u64, outcome: Outcome, has_ended: bool) {
        if let Some(state) = TargetState::of_outcome(outcome).filter(|_| self.seq == 0) {
            *self = Target { state: if has_ended { self.state } else { state }, seq, ..Target::QUEUED };
        }
    }
}

/// Targets about which the broker is asked.
#[derive(Debug)]
pub struct Asked {
    /// Their task. `None`: they have none yet.
    pub task: Option<Task>,
    /// Their places.
    pub places: Vec<usize>,
    /// Their names.
    pub names: Vec<GroupName>,
}

/// What is to be done for a run.
#[derive(Debug)]
pub enum Turn {
    /// Write it down as it is here, with these tasks, each for the next so many targets; and say so by [`Going::written`].
    Write(Box<Going>, Vec<(NewTask, usize)>),
    /// Take these tasks from these groups as far as they have not begun, and say so by [`Going::taken_back`].
    TakeBack(Vec<(Task, Vec<GroupName>)>),
    /// Cancel these tasks, and say so by [`Going::cancelled`].
    Cancel(Vec<Task>),
    /// Nothing, until something changes, or until then.
    Wait(Time),
}

/// A run that goes on.
#[derive(Debug, Clone)]
pub struct Going {
    /// As it is stored.
    pub run: Run,
    /// What is known of each target, in the order of the run's.
    pub targets: Vec<Target>,
    /// Its tasks, without their texts.
    tasks: Vec<Task>,
    looked_for_new: Steady,
    /// Its tasks are cancelled, also for groups that come later.
    is_cancelled: bool,
}

impl Going {
    /// One that has no tasks yet.
    pub fn new(run: Run, now: Now) -> Going {
        let targets = vec![Target::QUEUED; run.targets.len()];
        Going { run, targets, tasks: Vec::new(), looked_for_new: now.steady, is_cancelled: false }
    }

    /// One as it is stored, with those of its tasks that are kept. What came of them is told by [`Going::came_of`].
    pub fn restored(run: Run, kept: Vec<Task>, now: Now) -> Going {
        let mut going = Going::new(run, now);
        for (target, state) in going.targets.iter_mut().zip(&going.run.ended) {
            target.state = *state;
        }
        // One that was removed was settled.
        let gone = |id| Task { id, accepted_at: going.run.began_at, spec: NewTask::default() };
        let find =
            |id| kept.iter().find(|task| task.id == id).cloned().map_or_else(|| gone(id), |task| task.without_text());
        going.tasks = going.run.tasks.iter().map(|(id, _)| find(*id)).collect();
        going
    }

    /// How many targets are in each state.
    pub fn tally(&self) -> Tally {
        Tally::of(self.targets.iter().map(|target| target.state))
    }

    // ---- what is found out

    /// What is to be asked of the broker: where the targets stand that are not settled.
    pub fn asked(&self) -> Vec<Asked> {
        let with_tasks = (0..self.tasks.len()).map(|at| (self.tasks.get(at).cloned(), self.places(at)));
        let unsent = self.run.course.out..self.targets.len();
        let asked = with_tasks.chain([(None, unsent)]).map(|(task, places)| {
            let places: Vec<usize> = places.filter(|at| !self.targets[*at].state.is_final()).collect();
            let names = places.iter().map(|at| self.run.targets[*at].clone()).collect();
            Asked { task, places, names }
        });
        asked.filter(|asked| !asked.places.is_empty()).collect()
    }

    /// The answer: where each stands; `None`: its task is settled. Says whether the log of outcomes is to be asked about that task.
    pub fn learns(&mut self, asked: &Asked, states: &[Option<TargetState>], now: Now) -> bool {
        for (place, state) in asked.places.iter().zip(states) {
            let target = &mut self.targets[*place];
            match state {
                Some(state) => target.is_now(*state, now.steady),
                // It came back; what came of it may not be on disk yet, and until then it is not through.
                None if target.state == TargetState::Offline => target.is_now(TargetState::Queued, now.steady),
                None => {}
            }
        }
        // A group that is gone may have settled it before.
        let is_closing = now.wall >= self.run.deadline || !self.may_send();
        states.iter().any(|state| state.is_none() || (is_closing && *state == Some(TargetState::Offline)))
    }

    /// What the log has of a task: for a group the position of what decided, and that. Targets of which it has nothing stay as they are.
    pub fn came_of(&mut self, task: TaskId, decided: impl Fn(&GroupName) -> Option<(u64, Outcome)>) {
        let Some(at) = self.tasks.iter().position(|known| known.id == task) else { return };
        for place in self.places(at) {
            if let Some((seq, outcome)) = decided(&self.run.targets[place]) {
                self.targets[place].came(seq, outcome, self.run.ended_at.is_some());
            }
        }
    }

    /// The selector of groups that are to get it, too, if it is time to look for such.
    pub fn looks_for_new(&mut self, now: Steady) -> Option<&str> {
        let is_due = self.run.what.include_new && self.may_send() && now.since(self.looked_for_new) >= LOOK_FOR_NEW;
        if is_due {
            self.looked_for_new = now;
        }
        is_due.then_some(&self.run.what.select)
    }

    /// These groups match: those that were no targets are, as far as there is room.
    pub fn add(&mut self, matching: Vec<GroupName>) {
        let known: std::collections::HashSet<_> = self.run.targets.iter().cloned().collect();
        let room = super::MOST_TARGETS.saturating_sub(self.run.targets.len());
        for name in matching.into_iter().filter(|name| !known.contains(name)).take(room) {
            self.run.targets.push(name);
            self.targets.push(Target::QUEUED);
        }
    }

    /// Whether further parts of it may go out, now or when an operator says so.
    fn may_send(&self) -> bool {
        matches!(self.run.course.phase, Phase::Going | Phase::Paused | Phase::Stopped)
    }

    // ---- what is done

    /// It begins now, for as long as it was to go on. Who is away did not go just now.
    pub fn begins(&mut self, now: Time) {
        let lasts = self.run.deadline.since(self.run.began_at);
        (self.run.began_at, self.run.deadline) = (now, now.after(lasts));
        self.targets.iter_mut().for_each(|target| target.left = None);
    }

    /// What comes next.
    pub fn turn(&self, now: Now) -> Turn {
        let mut course = self.run.course;
        let states: Vec<TargetState> = self.targets.iter().map(|target| target.counts_as(now.steady)).collect();
        let Run { rollout, deadline, what, .. } = &self.run;
        match course.step(rollout, &states, *deadline, what.include_new, now.wall) {
            Step::Send(places) => self.send(course, &places, now),
            Step::Wait(_) if course != self.run.course => Turn::Write(Box::new(self.on(course)), Vec::new()),
            Step::Wait(until) => match course.phase {
                Phase::Aborting if self.has_unbegun() => Turn::TakeBack(self.unbegun()),
                Phase::Cancelling => Turn::Cancel(self.tasks_with(|target| !target.state.is_final())),
                _ => Turn::Wait(until),
            },
            Step::End(phase) => {
                // Groups that were gone when it was taken back may come again before they would find it expired.
                let missed = self.tasks_with(|target| target.state == TargetState::Cancelled && target.seq == 0);
                match phase {
                    Phase::Aborted if now.wall < *deadline && !self.is_cancelled && !missed.is_empty() => {
                        Turn::Cancel(missed)
                    }
                    _ => Turn::Write(Box::new(self.ended(course, now.wall)), Vec::new()),
                }
            }
        }
    }

    /// It is written down, and this is how: its new tasks have ids.
    pub fn written(&mut self, run: Run) {
        for (task, (id, _)) in self.tasks.iter_mut().zip(&run.tasks) {
            task.id = *id;
        }
        self.run = run;
    }

    /// What had not begun was taken back. A target that the broker knows nothing of from now on is gone.
    pub fn taken_back(&mut self) {
        let out = self.run.course.out;
        let open = self.targets[..out].iter_mut().filter(|target| !target.state.is_final());
        open.filter(|target| target.state != TargetState::Begun).for_each(|target| target.taken_back = true);
    }

    /// Its tasks were cancelled, likewise.
    pub fn cancelled(&mut self) {
        let out = self.run.course.out;
        self.targets[..out].iter_mut().for_each(|target| target.taken_back = true);
        self.is_cancelled = true;
    }

    fn on(&self, course: Course) -> Going {
        let mut next = self.clone();
        next.run.course = course;
        next
    }

    fn send(&self, course: Course, places: &[usize], now: Now) -> Turn {
        let mut next = self.on(course);
        let first = self.run.course.out;
        bring_forward(&mut next.run.targets, first, places);
        bring_forward(&mut next.targets, first, places);
        let tasks = next.next_tasks(first);
        let without_id = |spec: NewTask| Task { id: 0, accepted_at: now.wall, spec }.without_text();
        next.tasks.extend(tasks.iter().map(|(spec, _)| without_id(spec.clone())));
        Turn::Write(Box::new(next), tasks)
    }

    fn ended(&self, course: Course, now: Time) -> Going {
        let mut next = self.on(course);
        let left = if course.phase == Phase::Expired { TargetState::Expired } else { TargetState::Cancelled };
        for target in next.targets.iter_mut().filter(|target| !target.state.is_final()) {
            target.state = left;
        }
        next.run.ended_at = Some(now);
        next.run.ended = next.targets.iter().map(|target| target.state).collect();
        next.run.tally = next.tally();
        next
    }

    /// The places of the targets of one of its tasks.
    fn places(&self, at: usize) -> Range<usize> {
        let counts = self.run.tasks.iter().map(|(_, count)| *count);
        let first: usize = counts.take(at).sum();
        first..first + self.run.tasks[at].1
    }

    fn has_unbegun(&self) -> bool {
        self.targets[..self.run.course.out].iter().any(is_unbegun)
    }

    fn unbegun(&self) -> Vec<(Task, Vec<GroupName>)> {
        let of_task = |(at, task): (usize, &Task)| {
            let places = self.places(at).filter(|place| is_unbegun(&self.targets[*place]));
            (task.clone(), places.map(|place| self.run.targets[place].clone()).collect::<Vec<_>>())
        };
        self.tasks.iter().enumerate().map(of_task).filter(|(_, names)| !names.is_empty()).collect()
    }

    /// The tasks that have such a target.
    fn tasks_with(&self, is: impl Fn(&Target) -> bool) -> Vec<Task> {
        let has = |at: usize| self.targets[self.places(at)].iter().any(&is);
        self.tasks.iter().enumerate().filter(|(at, _)| has(*at)).map(|(_, task)| task.clone()).collect()
    }

    /// Tasks for the targets that are out, from `first` on.
    fn next_tasks(&self, first: usize) -> Vec<(NewTask, usize)> {
        let Run { what, by, deadline, course, .. } = &self.run;
        // It was looked at when the run began.
        let policy: RetryPolicy = what.retry.parse().unwrap_or_default();
        let limit = NonZeroU32::new(what.timeout_ms);
        let like = NewTask {
            text: what.text.clone(),
            attachment: what.attachment.clone(),
            expires_at: Some(*deadline),
            max_attempts: what.max_attempts.or(policy.max_attempts),
            retry: policy.backoff.map(Box::new),
            priority: what.priority,
            by: by.clone().map(Arc::new),
            time_limit: limit.map(|millis| TimeLimit { millis, fails: what.timeout_fails }),
            ..NewTask::default()
        };
        let pieces = self.run.targets[first..course.out].chunks(Audience::MOST_GROUPS);
        let task = |names: &[GroupName]| match names {
            [one] => NewTask { to: Some(one.clone()), ..like.clone() },
            several => NewTask { audience: Some(Arc::new(Audience::groups(several.to_vec()))), ..like.clone() },
        };
        pieces.map(|names| (task(names), names.len())).collect()
    }
}

fn is_unbegun(target: &Target) -> bool {
    !target.state.is_final() && target.state != TargetState::Begun
}
