//! Runs, as the server's thread goes on with them; and what must hold of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use contact::broker::{RevokeReason, Revoked, Standing};
use contact::run::{Going, Phase, Rollout, Run, TargetState, Turn, What, Wish};
use contact::store::{Backend as _, Batch, Reader as _};
use contact::task::{Audience, GroupName, NewTask, Outcome, Task, TaskId, Time};

use super::model::Logged;
use super::ops::{GROUPS, RunSpec};
use super::world::{World, name};

/// Rounds in which a run ends at its deadline at the latest: it is seen to be over, and written down as such.
const LAST_ROUNDS: u32 = 3;
/// Most runs at a time.
const MOST_RUNS: usize = 4;

/// A run that goes on, and what was seen of it.
pub(crate) struct LiveRun {
    going: Going,
    /// Who was given its task, in this order, and in how many parts.
    given: Vec<GroupName>,
    parts: u32,
    /// Whether a further part may go out.
    may_send: bool,
    /// The states that targets came to their end with.
    finals: BTreeMap<GroupName, TargetState>,
    /// Rounds since its time was over.
    late: u32,
}

impl LiveRun {
    pub(crate) fn deadline(&self) -> Time {
        self.going.run.deadline
    }
}

impl World {
    /// An operator begins a run.
    pub(crate) fn begin_run(&mut self, spec: &RunSpec) {
        self.flush();
        self.announce();
        let select = spec.select.unwrap_or_default().to_owned();
        let targets = match spec.select {
            Some(select) => {
                let selector = select.parse().unwrap();
                let matching = self.core.matching(&selector);
                assert_eq!(matching, self.model.matching(&selector));
                matching
            }
            None => {
                let named: BTreeSet<_> = spec.to.iter().map(|at| name(GROUPS[*at])).collect();
                named.into_iter().filter(|name| self.model.groups.contains_key(name)).collect()
            }
        };
        if targets.is_empty() || self.runs.len() >= MOST_RUNS {
            return;
        }
        let what = What { text: "run".into(), select, include_new: spec.include_new, ..What::default() };
        let deadline = self.now.wall.after(Duration::from_millis(spec.lasts));
        let mut going = Going::new(begun(what, spec.rollout, self.now.wall, deadline, targets), self.now);
        self.look(&mut going);
        going.begins(self.now.wall);
        let Turn::Write(next, tasks) = going.turn(self.now) else { panic!("a run begins with its first part") };
        assert!(!tasks.is_empty() && next.run.ended_at.is_none());
        let run = LiveRun { going, given: Vec::new(), parts: 0, may_send: true, finals: BTreeMap::new(), late: 0 };
        self.write_run(run, *next, tasks);
    }

    /// What the thread does for a run, again and again; says whether there was something to do.
    pub(crate) fn round(&mut self, number: TaskId) -> bool {
        self.flush();
        self.announce();
        let mut run = self.runs.remove(&number).unwrap();
        run.late += u32::from(self.now.wall >= run.deadline());
        assert!(run.late <= LAST_ROUNDS, "run {number} does not end: {:?}", run.going.run);
        self.look(&mut run.going);
        self.check_finals(&mut run);
        match run.going.turn(self.now) {
            Turn::Write(next, tasks) => self.write_run(run, *next, tasks),
            Turn::TakeBack(tasks) => {
                assert_eq!(run.going.run.course.phase, Phase::Aborting);
                for (task, names) in tasks {
                    // As where some of the others began since they were looked at.
                    let all = run.going.run.targets.iter().filter(|name| self.is_for(&task, name)).cloned();
                    let all: Vec<_> = all.collect();
                    assert!(names.iter().all(|name| all.contains(name)));
                    self.take_back(&task, &all);
                }
                self.sync();
                run.going.taken_back();
                self.runs.insert(number, run);
            }
            Turn::Cancel(tasks) => {
                assert!(matches!(run.going.run.course.phase, Phase::Aborting | Phase::Cancelling));
                for task in tasks {
                    let at_work = self.model.leases().iter().any(|(_, of, _, _)| *of == task.id);
                    let aborts = run.going.run.course.phase == Phase::Aborting;
                    assert!(!(aborts && at_work), "an abort takes nothing from who is at work");
                    self.cancel(task.id);
                }
                self.sync();
                run.going.cancelled();
                self.runs.insert(number, run);
            }
            Turn::Wait(until) => {
                assert!(until > self.now.wall, "it is not asked again at once");
                self.runs.insert(number, run);
                return false;
            }
        }
        true
    }

    /// An operator wants something of a run.
    pub(crate) fn wish(&mut self, number: TaskId, wish: Wish) {
        self.flush();
        let run = self.runs.get_mut(&number).unwrap();
        let failed = run.going.tally().get(TargetState::Failed) as usize;
        if !run.going.run.course.wish(wish, failed) {
            return;
        }
        run.may_send = wish == Wish::Resume;
        let run = run.going.run.clone();
        self.sync();
        self.keep(Vec::new(), run);
    }

    /// Those that had not ended when the process did, and no others, go on.
    pub(crate) fn runs_go_on(&mut self) {
        let open = self.disk.open_runs().unwrap();
        let numbers: Vec<_> = open.iter().map(|run| run.number).collect();
        assert_eq!(numbers, self.runs.keys().copied().collect::<Vec<_>>(), "no run is lost, and none begins anew");
        for run in open {
            let (number, ids) = (run.number, run.tasks.iter().map(|(id, _)| *id).collect::<Vec<_>>());
            let mut going = Going::restored(run, self.disk.tasks_by_id(&ids).unwrap(), self.now);
            ids.into_iter().for_each(|task| self.read_outcomes(&mut going, task));
            let mut run = self.runs.remove(&number).unwrap();
            run.going = going;
            // What an operator gave out again has not come to its end.
            run.finals.retain(|name, _| !self.said_of(&run.going.run, name).contains(&Outcome::Revived));
            self.runs.insert(number, run);
        }
    }

    /// Asks how far the targets are.
    fn look(&mut self, going: &mut Going) {
        if let Some(select) = going.looks_for_new(self.now.steady) {
            let matching = self.core.matching(&select.parse().unwrap());
            going.add(matching);
        }
        for asked in going.asked() {
            let standings = self.core.standings(asked.task.as_ref(), &asked.names, self.now);
            for (name, standing) in asked.names.iter().zip(&standings) {
                let task = asked.task.as_ref().map(|task| &*self.tasks[task.id as usize - 1]);
                let expected = self.model.standing(name, task, self.is_there(name), self.now);
                assert_eq!(*standing, expected, "{name}, {task:?}");
            }
            let states: Vec<_> = standings.into_iter().map(Standing::target).collect();
            if going.learns(&asked, &states, self.now) {
                asked.task.iter().for_each(|task| self.read_outcomes(going, task.id));
            }
        }
    }

    fn is_for(&self, task: &Task, group: &GroupName) -> bool {
        match task.spec.audience.as_deref() {
            Some(audience) => audience.may_be(Some(group)),
            None => task.spec.to.as_ref() == Some(group),
        }
    }

    /// Whether the task of the run that a group was named for is for it.
    fn gets(&self, group: &GroupName, run: &Run) -> bool {
        let mut tasks = run.tasks.iter().map(|(id, _)| &self.tasks[*id as usize - 1]);
        tasks.any(|task| self.is_for(task, group) && self.model.wants(group, task))
    }

    fn is_there(&self, group: &GroupName) -> bool {
        self.streams.values().any(|stream| stream.group.as_ref() == Some(group))
    }

    /// What decided, as far as it is on disk.
    fn read_outcomes(&mut self, going: &mut Going, task: TaskId) {
        let outcomes = self.disk.outcomes_of(task).unwrap();
        let decides = |outcome: Outcome| outcome.settles() || matches!(outcome, Outcome::Revived | Outcome::Dropped);
        going.came_of(task, |name| {
            let mut of_group = outcomes.iter().filter(|entry| entry.result.group.as_ref() == Some(name));
            let last = of_group.rfind(|entry| !entry.result.late && decides(entry.result.outcome));
            last.map(|entry| (entry.seq, entry.result.outcome))
        });
    }

    /// Writes a run down, with the tasks of its next part.
    fn write_run(&mut self, mut run: LiveRun, mut next: Going, tasks: Vec<(NewTask, usize)>) {
        self.check_part(&mut run, &next, &tasks);
        self.check_soak(&run, &next);
        if next.run.ended_at.is_some() {
            self.check_ended(&run, &next.run);
        }
        run.may_send &= next.run.course.phase == Phase::Going;
        // Results that were recorded before are on disk before.
        self.sync();
        let kept = self.keep(tasks, next.run.clone());
        next.written(kept);
        run.going = next;
        self.announce();
        if run.going.run.ended_at.is_none() {
            self.runs.insert(run.going.run.number, run);
        }
    }

    /// In one transaction.
    fn keep(&mut self, tasks: Vec<(NewTask, usize)>, mut run: Run) -> Run {
        let new = tasks.into_iter().map(|(spec, targets)| {
            let id = self.tasks.len() as TaskId + 1;
            run.tasks.push((id, targets));
            self.tasks.push(Arc::new(Task { id, accepted_at: self.now.wall, spec }));
            self.tasks[id as usize - 1].clone()
        });
        let new: Vec<_> = new.collect();
        if run.number == 0 {
            run.number = run.tasks[0].0;
        }
        self.synced.task = self.tasks.len() as TaskId;
        let runs = BTreeMap::from([(run.number, run.clone())]);
        self.disk.commit(&Batch { tasks: new, runs, positions: self.synced, ..Batch::default() }).unwrap();
        run
    }

    /// Takes back what has not begun.
    fn take_back(&mut self, task: &Task, names: &[GroupName]) {
        self.flush();
        let stands = |world: &World, name: &GroupName| {
            let task = Some(&*world.tasks[task.id as usize - 1]);
            world.model.standing(name, task, world.is_there(name), world.now)
        };
        let before: Vec<_> = names.iter().map(|name| stands(self, name)).collect();
        let wants = |name: &GroupName| self.model.groups.contains_key(name) && self.model.wants(name, task);
        let goes = names
            .iter()
            .zip(&before)
            .filter(|(name, standing)| wants(name) && !matches!(standing, Standing::Begun | Standing::Settled));
        let goes: Vec<_> = goes.map(|(name, _)| name.clone()).collect();
        let leases = self.model.leases().into_iter().filter(|(group, of, _, _)| *of == task.id && goes.contains(group));
        let told: Vec<_> = leases.filter_map(|(_, _, session, attempt)| Some((session?, attempt))).collect();
        assert_eq!(self.core.take_back(task, names, self.now), goes.len(), "from {goes:?} and nobody else");
        let heard: Vec<_> = told.iter().map(|(id, _)| self.streams[id].revoked.len()).collect();
        self.model.taking_back = Some(task.id);
        self.act();
        self.model.taking_back = None;
        for ((session, attempt), heard) in told.into_iter().zip(heard) {
            let stream = &self.streams[&session];
            let revoked = [Revoked { task: task.id, attempt, reason: RevokeReason::Cancelled }];
            let expected = if stream.join.revoke { &revoked[..] } else { &[] };
            assert_eq!(stream.revoked[heard..], *expected, "who has it is told once");
        }
        for (name, before) in names.iter().zip(before) {
            let now = stands(self, name);
            let expected = if goes.contains(name) { Standing::Settled } else { before };
            assert_eq!(now, expected, "{name} and {task:?}");
        }
    }

    // ---- what must hold

    /// A part goes out to targets that were given nothing yet, when it may, and is no larger than it is to be.
    fn check_part(&self, run: &mut LiveRun, next: &Going, tasks: &[(NewTask, usize)]) {
        let counts: usize = tasks.iter().map(|(_, count)| count).sum();
        let (first, out) = (run.given.len(), next.run.course.out);
        assert_eq!(out, first + counts, "what is out was given its task");
        assert_eq!(next.run.targets[..first], run.given, "and stays where it was");
        let all: BTreeSet<_> = next.run.targets.iter().collect();
        assert_eq!(all.len(), next.run.targets.len(), "each target is there once");
        if tasks.is_empty() {
            return;
        }
        assert!(run.may_send && self.now.wall < next.run.deadline, "a part goes out that may not");
        let part = &next.run.targets[first..out];
        let mut names = part.iter();
        for (task, count) in tasks {
            let part: Vec<_> = names.by_ref().take(*count).cloned().collect();
            let is_for = match (&task.to, task.audience.as_deref()) {
                (Some(one), None) => vec![one.clone()],
                (None, Some(Audience::Groups(several))) => several.clone(),
                _ => panic!("{task:?}"),
            };
            assert_eq!(is_for.iter().collect::<BTreeSet<_>>(), part.iter().collect(), "a task is for its targets");
            assert_eq!(task.expires_at, Some(next.run.deadline));
        }
        let Rollout { canary, batch, max_failed, .. } = next.run.rollout;
        let share = canary.filter(|_| run.parts == 0).or(batch);
        let most = share.map_or(usize::MAX, |share| share.at_least_one(next.run.targets.len()));
        let all_away = out == next.run.targets.len() && part.iter().all(|name| !self.is_there(name));
        assert!(part.len() <= most || all_away, "{} in a part of {most}: {:?}", part.len(), next.run);
        if run.parts > 0 && next.run.rollout.is_in_parts() {
            let may_fail = max_failed.map_or(0, |most| most.at_most(next.run.targets.len()));
            let may_fail = may_fail.max(next.run.course.accepted_failures);
            let failed = run.finals.values().filter(|state| **state == TargetState::Failed).count();
            assert!(failed <= may_fail, "{failed} failed, and {may_fail} may");
        }
        run.given.extend(part.iter().cloned());
        run.parts += 1;
    }

    /// The part before is through when nobody of it who is there has its task, and then soaks.
    fn check_soak(&self, run: &LiveRun, next: &Going) {
        let (before, after) = (&run.going.run.course, &next.run.course);
        let goes_on = after.parts > before.parts && before.parts > 0 && next.run.rollout.is_in_parts();
        if before.through_at.is_none() && (goes_on || after.through_at.is_some()) {
            // One that was removed and came again may be there, and is not given the task.
            let is_away = |name: &GroupName| !self.is_there(name) || !self.gets(name, &run.going.run);
            let is_through = |name: &&GroupName| run.finals.contains_key(*name) || is_away(name);
            let at_work = run.going.run.targets[..before.out].iter().find(|name| !is_through(name));
            assert_eq!(at_work, None, "a part is not through: {:?}", next.run);
        }
        if goes_on {
            let soaked =
                before.through_at.unwrap_or(self.now.wall).after(Duration::from_millis(next.run.rollout.soak_ms));
            assert!(self.now.wall >= soaked, "it goes on at {:?}, and is to soak until {soaked:?}", self.now.wall);
        }
    }

    /// What a target came to its end with stays so, and the log says the same.
    fn check_finals(&self, run: &mut LiveRun) {
        for (name, target) in run.going.run.targets.iter().zip(&run.going.targets) {
            if target.seq == 0 {
                continue;
            }
            let before = *run.finals.entry(name.clone()).or_insert(target.state);
            // An operator may have given it out again before a restart.
            let changed = self.said_of(&run.going.run, name).contains(&Outcome::Revived);
            assert!(before == target.state || changed, "{name} was {before:?}, and is {:?}", target.state);
        }
    }

    /// Each target has one final state, which agrees with the log; and the numbers add up.
    fn check_ended(&self, run: &LiveRun, ended: &Run) {
        assert_eq!((ended.tally.all() as usize, ended.ended.len()), (ended.targets.len(), ended.targets.len()));
        assert!(ended.ended.iter().all(|state| state.is_final()));
        let left = if ended.course.phase == Phase::Expired { TargetState::Expired } else { TargetState::Cancelled };
        for (at, (name, state)) in ended.targets.iter().zip(&ended.ended).enumerate() {
            let said = self.said_of(ended, name);
            let came: Vec<_> = said.iter().filter_map(|outcome| TargetState::of_outcome(*outcome)).collect();
            let by_end = *state == left && (at >= ended.course.out || !run.finals.contains_key(name));
            assert!(came.contains(state) || by_end, "{name} is {state:?}, and the log has {said:?}: {ended:?}");
        }
        match ended.course.phase {
            Phase::Completed => {
                assert!(!ended.what.include_new && ended.course.out == ended.targets.len());
                assert!(!ended.ended.contains(&TargetState::Expired), "{ended:?}");
            }
            // The clock may have been set back since its tasks expired.
            Phase::Expired => {
                assert!(self.now.wall >= ended.deadline || ended.ended.contains(&TargetState::Expired));
            }
            _ => assert!(!run.may_send),
        }
    }

    /// What the log has of a target, late results left out.
    fn said_of(&self, run: &Run, group: &GroupName) -> Vec<Outcome> {
        let of_it = self.model.log.iter().filter_map(Logged::result).filter(|result| {
            !result.late && result.group.as_ref() == Some(group) && run.tasks.iter().any(|(id, _)| *id == result.task)
        });
        of_it.map(|result| result.outcome).collect()
    }
}

fn begun(what: What, rollout: Rollout, began_at: Time, deadline: Time, targets: Vec<GroupName>) -> Run {
    Run {
        number: 0,
        what,
        rollout,
        began_at,
        deadline,
        by: None,
        course: Default::default(),
        tasks: Vec::new(),
        ended_at: None,
        tally: Default::default(),
        targets,
        ended: Vec::new(),
    }
}
