//! Schedules: what is asked of them, and what they are to do.

use std::time::Duration;

use super::{Beside, Operator, Replacing, TaskRequest};
use crate::schedule::{LONGEST, LONGEST_NAME, Missed, Moments, SHORTEST, Schedule, What, When, WhenError};
use crate::server::refusal::Refusal;
use crate::server::schedules::View;
use crate::task::{Name, NameOf, NewTask, Submitter, Time};

/// Most moments that are shown of one schedule, and of each in a list.
pub(in crate::server) const MOST_MOMENTS: usize = 100;
pub(in crate::server) const MOST_MOMENTS_IN_LIST: usize = 10;

/// A schedule as somebody asks for it, not checked yet. Empty texts, and zeros: not set.
pub(in crate::server) struct NewSchedule {
    pub(in crate::server) name: String,
    pub(in crate::server) cron: String,
    pub(in crate::server) zone: String,
    pub(in crate::server) every_ms: u64,
    pub(in crate::server) missed: Missed,
    pub(in crate::server) task: TaskRequest,
}

/// The name of a schedule.
pub(in crate::server) fn schedule_name(name: &str) -> Result<Name, Refusal> {
    match Name::new(NameOf::Schedule, name)? {
        name if name.as_str().len() > LONGEST_NAME => Err(Refusal::ScheduleMakesNoSense(
            "the name of a schedule has 200 bytes at most: the keys of its tasks have it, too",
        )),
        name => Ok(name),
    }
}

/// A task as the schedule makes it. `limit`: most bytes of text and data.
pub(in crate::server) fn task_of_schedule(what: &What, limit: usize) -> Result<NewTask, Refusal> {
    let request = TaskRequest {
        text: what.text.clone(),
        beside: Beside::of(&what.attachment),
        to: what.to.clone(),
        groups: what.groups.clone(),
        select: what.select.clone(),
        key: String::new(),
        not_before: None,
        expires_at: None,
        delay: what.delay_ms.map(Duration::from_millis),
        ttl: what.ttl_ms.map(Duration::from_millis),
        max_attempts: what.max_attempts,
        retry: what.retry.clone(),
        timeout_ms: what.timeout_ms,
        timeout_fails: what.timeout_fails,
        replace: Replacing {
            key: what.replace.clone(),
            quiet: what.quiet_ms.map(Duration::from_millis),
            max_wait: what.max_wait_ms.map(Duration::from_millis),
        },
        priority: what.priority,
        lane: what.lane.clone(),
    };
    request.check(limit, None)
}

/// What each task is to have.
fn what(task: TaskRequest, limit: usize) -> Result<What, Refusal> {
    let wrong = |why| Err(Refusal::ScheduleMakesNoSense(why));
    if !task.key.is_empty() {
        return wrong("a schedule gives each of its tasks a key of its own: leave the key out");
    }
    if task.not_before.is_some() || task.expires_at.is_some() {
        return wrong(
            "a schedule makes tasks again and again: give a duration, which counts from when each is made, and no time",
        );
    }
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (text, attachment) = super::content(task.text, task.beside, limit)?;
    let what = What {
        text,
        attachment,
        to: task.to,
        groups: task.groups,
        select: task.select,
        delay_ms: task.delay.map(millis),
        ttl_ms: task.ttl.map(millis),
        max_attempts: task.max_attempts.filter(|most| *most > 0),
        retry: task.retry,
        timeout_ms: task.timeout_ms,
        timeout_fails: task.timeout_fails,
        priority: task.priority,
        lane: task.lane,
        replace: task.replace.key,
        quiet_ms: task.replace.quiet.map(millis),
        max_wait_ms: task.replace.max_wait.map(millis),
    };
    task_of_schedule(&what, limit)?;
    Ok(what)
}

/// When its moments are, if there are some.
fn when(cron: String, zone: String, every_ms: u64, now: Time) -> Result<When, Refusal> {
    let when = match (cron.is_empty(), every_ms) {
        (false, 0) => {
            let expression = cron.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
            When::Cron { expression, zone: if zone.is_empty() { "UTC".into() } else { zone } }
        }
        (true, 1..) if !(SHORTEST..=LONGEST).contains(&Duration::from_millis(every_ms)) => {
            return Err(WhenError::Interval.into());
        }
        (true, 1..) if zone.is_empty() => When::Every { millis: every_ms, since: now },
        (true, 1..) => {
            return Err(Refusal::ScheduleMakesNoSense("a zone is for a cron expression: an interval has none"));
        }
        _ => {
            return Err(Refusal::ScheduleMakesNoSense(
                "a schedule has either a cron expression, or an interval: give one of the two",
            ));
        }
    };
    let moments = Moments::of(&when)?;
    match (&when, moments.after(now)) {
        (When::Cron { expression, .. }, None) => Err(WhenError::Never(expression.clone()).into()),
        _ => Ok(when),
    }
}

impl Operator {
    /// Sets a schedule; says how it is then, whether it is new, and what changed.
    pub(in crate::server) async fn set_schedule(
        &self,
        new: NewSchedule,
        by: Option<Submitter>,
    ) -> Result<(View, bool, Vec<&'static str>), Refusal> {
        let (name, now) = (schedule_name(&new.name)?, Time::now());
        let when = when(new.cron, new.zone, new.every_ms, now)?;
        let what = what(new.task, self.limit)?;
        let mut one = vec![task_of_schedule(&what, self.limit)?];
        if let Some((_, why)) = self.take_unknown(&mut one).await?.pop() {
            return Err(why);
        }
        let (view, change) = self.schedules.set(name, Schedule::new(when, new.missed, what, by, now)).await?;
        let parts = [("when", change.when), ("missed", change.missed), ("task", change.what)];
        Ok((view, change.is_new, parts.into_iter().filter(|(_, is)| *is).map(|(part, _)| part).collect()))
    }
}
