//! Runs, as operators begin, see and change them; and what comes of tasks, as it comes.

use std::sync::Arc;
use std::time::Duration;

use super::{Beside, Operator, content, retry_policy};
use crate::run::{LONGEST, MOST_TARGETS, Rollout, Run, Tally, TargetState, What, Wish};
use crate::server::refusal::Refusal;
use crate::server::runs::View;
use crate::store::{PAGE_BYTES, Reader};
use crate::task::{GroupName, Name, NameOf, Submitter, TaskId, TaskResult, Time};

/// How long a run goes on, unless it is said.
const DEADLINE: Duration = Duration::from_secs(60 * 60);
/// Results that are read at once.
const RESULTS: usize = 16;

/// A run as somebody asks for it, not checked yet.
pub(in crate::server) struct NewRun {
    /// What is to be done; the text of the selector stands in it.
    pub(in crate::server) what: What,
    /// What its tasks have beside their text.
    pub(in crate::server) beside: Beside,
    /// The groups, instead of a selector.
    pub(in crate::server) to: Vec<String>,
    pub(in crate::server) rollout: Rollout,
    /// Zero: as long as any.
    pub(in crate::server) lasts: Duration,
    /// Nothing is begun.
    pub(in crate::server) dry: bool,
}

impl NewRun {
    fn check(&mut self, limit: usize) -> Result<(), Refusal> {
        let text = std::mem::take(&mut self.what.text);
        (self.what.text, self.what.attachment) = content(text, std::mem::take(&mut self.beside), limit)?;
        retry_policy(&self.what.retry)?;
        let wrong = |why: &str| Err(Refusal::RunMakesNoSense(why.into()));
        if self.what.select.is_empty() == self.to.is_empty() {
            return wrong(
                "a run is for the groups that a selector matches, or for those that are named: give one of the two",
            );
        }
        if self.what.include_new && self.what.select.is_empty() {
            return wrong("groups that come later are those that match a selector: give one");
        }
        if self.lasts > LONGEST {
            return wrong("a run goes on for 30 days at most: give it an earlier deadline");
        }
        if self.rollout.soak_ms > LONGEST.as_millis() as u64 {
            return wrong("a part soaks for 30 days at most");
        }
        Ok(())
    }
}

impl Operator {
    /// Begins a run; or says, of one that is dry, how it would be.
    pub(in crate::server) async fn begin_run(
        &self,
        mut new: NewRun,
        by: Option<Submitter>,
    ) -> Result<Arc<View>, Refusal> {
        new.check(self.limit)?;
        let targets = self.targets(&mut new).await?;
        if targets.is_empty() {
            return Err(Refusal::NoTargets("no group has labels that match; contactctl groups shows what they have"));
        }
        if targets.len() > MOST_TARGETS {
            return Err(Refusal::TooManyRunTargets(MOST_TARGETS));
        }
        let now = Time::now();
        let lasts = if new.lasts.is_zero() { DEADLINE } else { new.lasts };
        let run = Run {
            number: 0,
            what: new.what,
            rollout: new.rollout,
            began_at: now,
            deadline: now.after(lasts),
            by,
            course: Default::default(),
            tasks: Vec::new(),
            ended_at: None,
            tally: Tally::default(),
            targets,
            ended: Vec::new(),
        };
        match new.dry {
            true => self.runs.would_be(run).await,
            false => self.runs.begin(run).await,
        }
    }

    /// Whom it is for, by name. The selector is then as it is written most plainly.
    async fn targets(&self, new: &mut NewRun) -> Result<Vec<GroupName>, Refusal> {
        if !new.what.select.is_empty() {
            let selector: crate::labels::Selector = new.what.select.parse()?;
            new.what.select = selector.to_string();
            return Ok(self.broker.matching(selector).await?);
        }
        if new.to.len() > MOST_TARGETS {
            return Err(Refusal::TooManyRunTargets(MOST_TARGETS));
        }
        let names = new.to.iter().map(|name| Name::new(NameOf::To, name));
        let mut names = names.collect::<Result<Vec<_>, _>>()?;
        names.sort_unstable();
        names.dedup();
        let unknown = self.broker.unknown(names.clone()).await?;
        if unknown.is_empty() { Ok(names) } else { Err(Refusal::NoSuchGroups(unknown)) }
    }

    /// Does what is wanted of a run.
    pub(in crate::server) async fn change_run(&self, number: TaskId, wish: Wish) -> Result<Arc<View>, Refusal> {
        self.runs.wish(number, wish).await
    }

    /// Begins a run that does again what did not come to its end in another one.
    pub(in crate::server) async fn retry_run(
        &self,
        number: TaskId,
        lasts: Duration,
        by: Option<Submitter>,
    ) -> Result<Arc<View>, Refusal> {
        let view = self.runs.view(number).await?;
        let undone = view.run.targets.iter().zip(&view.targets);
        let undone = undone.filter(|(_, target)| matches!(target.state, TargetState::Failed | TargetState::Expired));
        let to: Vec<String> = undone.map(|(name, _)| name.as_str().to_owned()).collect();
        if to.is_empty() {
            return Err(Refusal::NoTargets("none of its targets failed, or ran out of time"));
        }
        let what = What { select: String::new(), include_new: false, again: number, ..view.run.what.clone() };
        let had = view.run.deadline.since(view.run.began_at);
        let lasts = if lasts.is_zero() { had } else { lasts };
        let beside = Beside::of(&what.attachment);
        self.begin_run(NewRun { what, beside, to, rollout: view.run.rollout, lasts, dry: false }, by).await
    }

    /// Of these results, as many as a message has room for, in order; and how many that are.
    pub(in crate::server) async fn results(&self, seqs: &[u64]) -> Result<(Vec<TaskResult>, usize), Refusal> {
        let (mut page, mut bytes, mut taken) = (Vec::new(), 0, 0);
        for some in seqs.chunks(RESULTS) {
            let asked = some.to_vec();
            let read = self.queries.run(move |reader| reader.results_by_seq(&asked)).await?;
            for entry in read {
                bytes += entry.result.bytes();
                taken = seqs.partition_point(|seq| *seq <= entry.seq);
                page.push(entry);
                if bytes >= PAGE_BYTES {
                    return Ok((page, taken));
                }
            }
            // What was removed meanwhile is passed over.
            taken = taken.max(seqs.partition_point(|seq| some.last().is_some_and(|last| seq <= last)));
        }
        Ok((page, taken))
    }

    /// The positions of what came of a task after a position, as far as it is on disk.
    pub(in crate::server) async fn news_of_task(&self, id: TaskId, after: u64) -> Result<Vec<u64>, Refusal> {
        let read = move |reader: &mut dyn Reader| reader.outcomes_of(id);
        let outcomes = self.queries.run(read).await?;
        Ok(outcomes.iter().map(|entry| entry.seq).filter(|seq| *seq > after).collect())
    }
}

/// Names of targets, of a length that a message has room for.
pub(in crate::server) fn page_of_targets(
    view: &View,
    skip: usize,
    limit: usize,
    states: &[TargetState],
) -> (Vec<(GroupName, TargetState, u64)>, usize) {
    let (mut page, mut bytes) = (Vec::new(), 0);
    let all = view.run.targets.iter().zip(&view.targets).enumerate().skip(skip);
    for (at, (name, target)) in all {
        if !states.is_empty() && !states.contains(&target.state) {
            continue;
        }
        if page.len() >= limit || bytes >= PAGE_BYTES {
            return (page, at);
        }
        bytes += name.as_str().len() + 16;
        page.push((name.clone(), target.state, target.seq));
    }
    (page, 0)
}

/// A share of the targets as somebody writes it. Empty: nothing is said.
pub(in crate::server) fn share(what: &str, text: &str) -> Result<Option<crate::run::Share>, Refusal> {
    let wrong = |why: String| Refusal::RunMakesNoSense(format!("{what}: {why}"));
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(wrong) }
}
