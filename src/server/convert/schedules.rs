//! Schedules.

use protobuf::EnumOrUnknown;

use super::{headers, millis, priority_of, task_request};
use crate::schedule::{Missed, What, When};
use crate::server::operator::NewSchedule;
use crate::server::refusal::Refusal;
use crate::server::schedules::View;
use crate::wire::control as pb;

pub(in crate::server) fn new_schedule(request: pb::SetScheduleRequest) -> Result<NewSchedule, Refusal> {
    Ok(NewSchedule {
        name: request.name,
        cron: request.cron,
        zone: request.zone,
        every_ms: request.every_ms,
        missed: missed(request.missed)?,
        task: task_request(request.task.into_option().unwrap_or_default())?,
    })
}

fn missed(missed: EnumOrUnknown<pb::Missed>) -> Result<Missed, Refusal> {
    match missed.enum_value() {
        Ok(pb::Missed::SKIP) => Ok(Missed::Skip),
        Ok(pb::Missed::ONCE) => Ok(Missed::Once),
        Ok(pb::Missed::ALL) => Ok(Missed::All),
        Err(number) => Err(Refusal::UnknownNumber { field: "missed", number }),
    }
}

pub(in crate::server) fn schedule_set(
    (view, is_new, changed): (View, bool, Vec<&'static str>),
) -> pb::SetScheduleResponse {
    let changed = changed.into_iter().map(str::to_owned).collect();
    pb::SetScheduleResponse { schedule: Some(schedule(view)).into(), is_new, changed, ..Default::default() }
}

pub(in crate::server) fn schedule_list((views, more): (Vec<View>, bool)) -> pb::ListSchedulesResponse {
    let next = views.last().filter(|_| more).map(|last| last.name.to_string()).unwrap_or_default();
    let schedules = views.into_iter().map(schedule).collect();
    pb::ListSchedulesResponse { schedules, next, ..Default::default() }
}

pub(in crate::server) fn schedule(view: View) -> pb::Schedule {
    let View { name, schedule, next, trouble } = view;
    let (cron, zone, every_ms) = match schedule.when {
        When::Cron { expression, zone } => (expression, zone, 0),
        When::Every { millis, .. } => (String::new(), String::new(), millis),
    };
    pb::Schedule {
        name: name.to_string(),
        cron,
        zone,
        every_ms,
        missed: match schedule.missed {
            Missed::Skip => pb::Missed::SKIP,
            Missed::Once => pb::Missed::ONCE,
            Missed::All => pb::Missed::ALL,
        }
        .into(),
        data_size: schedule.what.attachment.data().len() as u64,
        task: Some(task(schedule.what)).into(),
        paused: schedule.paused,
        next: next.into_iter().map(|moment| moment.0).collect(),
        last_task: schedule.last.map_or(0, |last| last.task),
        last_moment: millis(schedule.last.and_then(|last| last.moment)),
        set_at: schedule.set_at.0,
        set_by: schedule.by.map(|by| by.name).unwrap_or_default(),
        trouble: trouble.unwrap_or_default(),
        ..Default::default()
    }
}

/// Without its data.
fn task(what: What) -> pb::NewTask {
    pb::NewTask {
        headers: headers(&what.attachment),
        task: what.text,
        to: what.to,
        groups: what.groups,
        select: what.select,
        delay_ms: what.delay_ms,
        ttl_ms: what.ttl_ms,
        max_attempts: what.max_attempts.unwrap_or(0),
        retry: what.retry,
        timeout_ms: what.timeout_ms,
        timeout_fails: what.timeout_fails,
        priority: priority_of(what.priority).into(),
        lane: what.lane,
        replace: what.replace,
        quiet_ms: what.quiet_ms,
        max_wait_ms: what.max_wait_ms,
        ..Default::default()
    }
}
