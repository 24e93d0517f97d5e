//! Schedules: set, shown and changed.

mod apply;
mod args;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

pub(super) use self::apply::apply;
use self::args::Missed;
pub(super) use self::args::{Apply, Schedule, SetSchedule};
use super::Error;
use super::data::size_and_type;
use super::link::Link;
use super::moment::{Moment, Times};
use super::out::Out;
use super::rows::{beside, enum_name, is_zero, or_dash, text_if_set};
use super::table::{Column, Row, Table};
use crate::wire::control as pb;

/// Does what is asked for.
pub(super) fn run(link: impl FnOnce() -> Result<Link, Error>, verb: Schedule, out: Out) -> Result<(), Error> {
    match verb {
        Schedule::Set(new) => {
            let (request, mut out) = (request(&new)?, out);
            set(&link()?, &request, &mut out)
        }
        Schedule::List => list(&link()?, out),
        Schedule::Show { name, moments } => show(&link()?, name, moments, out),
        Schedule::Pause { name } => pause(&link()?, name, true, out),
        Schedule::Resume { name } => pause(&link()?, name, false, out),
        Schedule::Run { name } => run_now(&link()?, name, out),
        Schedule::Rm { name } => remove(&link()?, name, out),
    }
}

/// What to ask the server for.
fn request(new: &SetSchedule) -> Result<pb::SetScheduleRequest, Error> {
    let task = &new.task;
    if task.to.len() > 1 && !task.together {
        return Err(Error::Usage(
            "a schedule makes one task for each moment: give one --to, --together with several, or a schedule to each group".into(),
        ));
    }
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let to = task.to.first().filter(|_| !task.together);
    let what = pb::NewTask {
        task: new.text.clone().unwrap_or_default(),
        to: to.cloned().unwrap_or_default(),
        delay_ms: task.delay.map(millis),
        ttl_ms: task.ttl.map(millis),
        ..task.like()?
    };
    Ok(pb::SetScheduleRequest {
        name: new.name.clone(),
        cron: new.cron.clone().unwrap_or_default(),
        zone: new.zone.clone().unwrap_or_default(),
        every_ms: new.every.map_or(0, millis),
        missed: match new.missed {
            Missed::Skip => pb::Missed::SKIP,
            Missed::Once => pb::Missed::ONCE,
            Missed::All => pb::Missed::ALL,
        }
        .into(),
        task: Some(what).into(),
        ..Default::default()
    })
}

#[derive(Serialize)]
struct Set {
    schedule: String,
    is_new: bool,
    changed: Vec<String>,
    next: Option<Moment>,
}

/// Sets one, and says what changed.
fn set(link: &Link, request: &pb::SetScheduleRequest, out: &mut Out) -> Result<(), Error> {
    let answer = link.wait(link.client.set_schedule(request, Link::answer_soon()))?;
    let (is_new, changed) = (answer.is_new, answer.changed);
    let schedule = Scheduled::from(answer.schedule.into_option().unwrap_or_default());
    let name = &schedule.schedule;
    let what = match (is_new, changed.is_empty()) {
        (true, _) => format!("schedule {name} is new"),
        (false, false) => format!("schedule {name} is changed ({})", changed.join(", ")),
        (false, true) => format!("schedule {name} was so already"),
    };
    let next = schedule.next.first().copied();
    let text = format!("{what}; {}", schedule.comes(|at| out.times.both(at)));
    Ok(out.object(&Set { schedule: name.clone(), is_new, changed, next }, &text)?)
}

/// A schedule, as it is printed.
#[derive(Serialize)]
struct Scheduled {
    schedule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    every_ms: u64,
    missed: String,
    paused: bool,
    next: Vec<Moment>,
    last_task: Option<u64>,
    last_moment: Option<Moment>,
    set_at: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    task: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_zero")]
    data_size: u64,
    to: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    select: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    timeout_fails: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quiet_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_wait_ms: Option<u64>,
}

impl From<pb::Schedule> for Scheduled {
    fn from(schedule: pb::Schedule) -> Scheduled {
        let task = schedule.task.into_option().unwrap_or_default();
        Scheduled {
            schedule: schedule.name,
            cron: text_if_set(schedule.cron),
            zone: text_if_set(schedule.zone),
            every_ms: schedule.every_ms,
            missed: enum_name(schedule.missed).to_lowercase(),
            paused: schedule.paused,
            next: schedule.next.into_iter().map(Moment).collect(),
            last_task: (schedule.last_task != 0).then_some(schedule.last_task),
            last_moment: Moment::if_set(schedule.last_moment),
            set_at: Moment(schedule.set_at),
            set_by: text_if_set(schedule.set_by),
            trouble: text_if_set(schedule.trouble),
            task: task.task,
            headers: task.headers.into_iter().collect(),
            data_size: schedule.data_size,
            to: text_if_set(task.to),
            groups: task.groups,
            select: text_if_set(task.select),
            delay_ms: task.delay_ms,
            ttl_ms: task.ttl_ms,
            max_attempts: (task.max_attempts != 0).then_some(task.max_attempts),
            retry: text_if_set(task.retry),
            timeout_ms: (task.timeout_ms != 0).then_some(task.timeout_ms),
            timeout_fails: task.timeout_fails,
            priority: (task.priority.value() != 0).then(|| enum_name(task.priority)),
            lane: text_if_set(task.lane),
            replace: text_if_set(task.replace),
            quiet_ms: task.quiet_ms,
            max_wait_ms: task.max_wait_ms,
        }
    }
}

fn lasts(millis: u64) -> String {
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

impl Scheduled {
    fn when(&self) -> String {
        match &self.cron {
            Some(cron) => format!("{cron} {}", self.zone.as_deref().unwrap_or_default()),
            None => format!("every {}", lasts(self.every_ms)),
        }
    }

    /// What comes next, or why nothing does.
    fn comes(&self, show: impl Fn(Moment) -> String) -> String {
        match (&self.trouble, self.paused, self.next.first()) {
            (Some(trouble), _, _) => format!("it makes no tasks: {trouble}"),
            (None, true, _) => "it is paused".into(),
            (None, false, Some(next)) => format!("next {}", show(*next)),
            (None, false, None) => "no moment of it is to come".into(),
        }
    }

    fn audience(&self) -> Option<String> {
        let several = || (!self.groups.is_empty()).then(|| self.groups.join(", "));
        self.to.clone().or_else(several).or_else(|| self.select.as_ref().map(|select| format!("those with {select}")))
    }

    /// What is set, each with its name.
    fn properties(&self, times: Times) -> Vec<(&'static str, String)> {
        let show = |at: Moment| times.both(at);
        let last = |id: u64| match self.last_moment {
            Some(moment) => format!("task {id}, for {}", show(moment)),
            None => format!("task {id}, run by hand"),
        };
        let limit = |millis: u32| {
            format!("{}, then {}", lasts(millis.into()), if self.timeout_fails { "failed" } else { "retry" })
        };
        let mut all = vec![
            ("schedule", self.schedule.clone()),
            ("when", self.when()),
            ("missed", self.missed.clone()),
            ("text", self.task.clone()),
        ];
        all.extend(self.headers.iter().map(|(key, value)| ("header", format!("{key}: {value}"))));
        let optional = [
            ("data", (self.data_size > 0).then(|| size_and_type(&self.headers, self.data_size))),
            ("to", Some(self.audience().unwrap_or_else(|| "every group".into()))),
            ("delay", self.delay_ms.map(lasts)),
            ("ttl", self.ttl_ms.map(lasts)),
            ("max attempts", self.max_attempts.map(|n| n.to_string())),
            ("retry", self.retry.clone()),
            ("time limit", self.timeout_ms.map(limit)),
            ("priority", self.priority.clone()),
            ("lane", self.lane.clone()),
            ("replace", self.replace.clone()),
            ("quiet", self.quiet_ms.map(lasts)),
            ("max wait", self.max_wait_ms.map(lasts)),
            ("set", Some(show(self.set_at))),
            ("set by", self.set_by.clone()),
            ("last", self.last_task.map(last)),
            ("trouble", self.trouble.clone()),
            ("paused", self.paused.then(|| "until it is resumed".into())),
        ];
        all.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        all.extend(self.next.iter().map(|next| ("next", show(*next))));
        all
    }
}

impl Row for Scheduled {
    const COLUMNS: &'static [Column] = &[
        Column::Name("SCHEDULE"),
        Column::Name("WHEN"),
        Column::Word("NEXT"),
        Column::Number("LAST"),
        Column::Name("TO"),
        Column::Text("TASK"),
    ];

    fn cells(&self, times: Times) -> Vec<String> {
        let next = match (&self.trouble, self.paused, self.next.first()) {
            (Some(_), _, _) => "trouble".into(),
            (None, true, _) => "paused".into(),
            (None, false, next) => next.map_or("-".into(), |next| times.show(*next)),
        };
        vec![
            self.schedule.clone(),
            self.when(),
            next,
            self.last_task.map_or("-".into(), |id| id.to_string()),
            or_dash(&self.audience().unwrap_or_default()),
            beside(&self.task, &self.headers, self.data_size),
        ]
    }
}

fn list(link: &Link, mut out: Out) -> Result<(), Error> {
    let (mut table, mut request, mut count) = (Table::default(), pb::ListSchedulesRequest::new(), 0);
    loop {
        let answer = link.wait(link.client.list_schedules(&request, Link::answer_soon()))?;
        let rows: Vec<Scheduled> = answer.schedules.into_iter().map(Scheduled::from).collect();
        count += rows.len();
        out.rows(&mut table, &rows)?;
        // A server that says the same again would be asked for ever.
        if answer.next <= request.after {
            break;
        }
        request.after = answer.next;
    }
    if count == 0 {
        out.remark("no schedules; contactctl schedule set makes one");
    }
    Ok(())
}

fn show(link: &Link, name: String, moments: u32, mut out: Out) -> Result<(), Error> {
    let request = pb::GetScheduleRequest { name, moments, ..Default::default() };
    let schedule = Scheduled::from(link.wait(link.client.get_schedule(&request, Link::answer_soon()))?);
    match out.json {
        true => out.object(&schedule, "")?,
        false => out.properties(&schedule.properties(out.times))?,
    }
    Ok(())
}

#[derive(Serialize)]
struct Paused {
    schedule: String,
    paused: bool,
    next: Option<Moment>,
}

fn pause(link: &Link, name: String, paused: bool, mut out: Out) -> Result<(), Error> {
    let request = pb::ChangeScheduleRequest { name, paused, ..Default::default() };
    let is = Scheduled::from(link.wait(link.client.change_schedule(&request, Link::answer_soon()))?);
    let text = match is.paused {
        true => format!("schedule {} is paused", is.schedule),
        false => format!("schedule {} makes tasks; {}", is.schedule, is.comes(|at| out.times.both(at))),
    };
    let next = is.next.first().copied();
    Ok(out.object(&Paused { schedule: is.schedule, paused: is.paused, next }, &text)?)
}

#[derive(Serialize)]
struct Made {
    schedule: String,
    task_id: u64,
}

fn run_now(link: &Link, name: String, mut out: Out) -> Result<(), Error> {
    let request = pb::RunScheduleRequest { name: name.clone(), ..Default::default() };
    let id = link.wait(link.client.run_schedule(&request, Link::answer_soon()))?.id;
    let text = format!("schedule {name} made task {id}; contactctl task {id} says where it stands");
    Ok(out.object(&Made { schedule: name, task_id: id }, &text)?)
}

#[derive(Serialize)]
struct Removed {
    schedule: String,
    removed: bool,
}

fn remove(link: &Link, name: String, mut out: Out) -> Result<(), Error> {
    let request = pb::RemoveScheduleRequest { name: name.clone(), ..Default::default() };
    link.wait(link.client.remove_schedule(&request, Link::answer_soon()))?;
    let text = format!("schedule {name} is removed; the tasks that it made stay");
    Ok(out.object(&Removed { schedule: name, removed: true }, &text)?)
}
