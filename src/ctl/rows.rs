//! What is printed: the records of the control service, as objects and as lines of a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use protobuf::EnumOrUnknown;
use serde::Serialize;

use super::data::{in_brackets, size_and_type};
use super::moment::{Moment, Times};
use super::table::{Column, Row};
use super::words::count;
use crate::task::{Progress, Time};
use crate::task_state::{StateReason, TaskState, WaitReason};
use crate::wire::control as pb;

pub(super) fn text_if_set(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// What a table has where there is nothing.
pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

/// A text, and what stands beside it.
pub(super) fn beside(text: &str, headers: &BTreeMap<String, String>, data_size: u64) -> String {
    let brackets = in_brackets(headers, data_size);
    let space = if text.is_empty() || brackets.is_empty() || text.ends_with('\n') { "" } else { " " };
    format!("{text}{space}{brackets}")
}

/// A value that is newer than we are has its number.
pub(super) fn enum_name<E: protobuf::EnumFull>(value: EnumOrUnknown<E>) -> String {
    match value.enum_value() {
        Ok(known) => known.descriptor().name().to_owned(),
        Err(number) => format!("UNKNOWN_{number}"),
    }
}

#[derive(Serialize)]
pub(super) struct Task {
    pub(super) id: u64,
    task: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) data_size: u64,
    /// In base64. Only of a task that is shown alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<String>,
    to: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    select: Option<String>,
    accepted_at: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled_at: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replace: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    quiet_ms: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max_wait_ms: u64,
    #[serde(skip_serializing_if = "is_zero")]
    replaces: u64,
    #[serde(skip_serializing_if = "is_zero")]
    replaced_by: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_at: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    timeout_fails: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    submitted_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    submitted_role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule_moment: Option<Moment>,
}

impl From<pb::Task> for Task {
    fn from(task: pb::Task) -> Task {
        Task {
            id: task.id,
            task: task.task,
            headers: task.headers.into_iter().collect(),
            data_size: task.data_size,
            data: None,
            to: text_if_set(task.to),
            groups: task.groups,
            select: text_if_set(task.select),
            accepted_at: Moment(task.accepted_at),
            key: text_if_set(task.key),
            not_before: Moment::if_set(task.not_before),
            expires_at: Moment::if_set(task.expires_at).filter(|_| !task.cancelled && task.replaced_by == 0),
            cancelled_at: Moment::if_set(task.expires_at).filter(|_| task.cancelled),
            replace: text_if_set(task.replace),
            quiet_ms: task.quiet_ms,
            max_wait_ms: task.max_wait_ms,
            replaces: task.replaces,
            replaced_by: task.replaced_by,
            replaced_at: Moment::if_set(task.expires_at).filter(|_| task.replaced_by != 0),
            max_attempts: (task.max_attempts != 0).then_some(task.max_attempts),
            retry: text_if_set(task.retry),
            timeout_ms: (task.timeout_ms != 0).then_some(task.timeout_ms),
            timeout_fails: task.timeout_fails,
            lane: text_if_set(task.lane),
            priority: (task.priority.value() != 0).then(|| enum_name(task.priority)),
            submitted_by: text_if_set(task.submitted_by),
            submitted_role: text_if_set(task.submitted_role),
            schedule: text_if_set(task.schedule),
            schedule_moment: Moment::if_set(task.schedule_moment),
        }
    }
}

impl Task {
    /// For whom it is. `None`: for every group.
    fn audience(&self) -> Option<String> {
        let several = || (!self.groups.is_empty()).then(|| self.groups.join(", "));
        self.to.clone().or_else(several).or_else(|| self.select.as_ref().map(|select| format!("those with {select}")))
    }

    /// What is set, each with its name.
    pub(super) fn properties(&self, times: Times) -> Vec<(&'static str, String)> {
        let show = |at| times.both(at);
        let limit = |millis: u32| {
            let lasts = humantime::format_duration(Duration::from_millis(millis.into()));
            format!("{lasts}, then {}", if self.timeout_fails { "failed" } else { "retry" })
        };
        let span = |millis| humantime::format_duration(Duration::from_millis(millis));
        let quiet = || match self.max_wait_ms {
            0 => format!("for {} nothing newer", span(self.quiet_ms)),
            most => format!("for {} nothing newer, {} at most", span(self.quiet_ms), span(most)),
        };
        let replaced = |at| format!("by task {}, {}, where it had not begun", self.replaced_by, show(at));
        let by = |name: &String| format!("{name} ({})", self.submitted_role.as_deref().unwrap_or_default());
        let made = |schedule: &String| match self.schedule_moment {
            Some(moment) => format!("{schedule}, for {}", show(moment)),
            None => format!("{schedule}, run by hand"),
        };
        let mut all = vec![
            ("task", self.id.to_string()),
            ("text", self.task.clone()),
            ("to", self.audience().unwrap_or_else(|| "every group".into())),
            ("accepted", show(self.accepted_at)),
        ];
        let mut headers: Vec<_> =
            self.headers.iter().map(|(key, value)| ("header", format!("{key}: {value}"))).collect();
        headers.sort_unstable();
        all.splice(2..2, headers);
        let data = || format!("{}; --data-out FILE writes it", size_and_type(&self.headers, self.data_size));
        let optional = [
            ("data", (self.data_size > 0).then(data)),
            ("key", self.key.clone()),
            ("lane", self.lane.clone()),
            ("not before", self.not_before.map(show)),
            ("expires", self.expires_at.map(show)),
            ("cancelled", self.cancelled_at.map(show)),
            ("replace", self.replace.clone()),
            ("quiet", (self.quiet_ms > 0).then(quiet)),
            ("took the place of", (self.replaces > 0).then(|| format!("task {}", self.replaces))),
            ("replaced", self.replaced_at.map(replaced)),
            ("max attempts", self.max_attempts.map(|n| n.to_string())),
            ("retry", self.retry.clone()),
            ("time limit", self.timeout_ms.map(limit)),
            ("priority", self.priority.clone()),
            ("submitted by", self.submitted_by.as_ref().map(by)),
            ("schedule", self.schedule.as_ref().map(made)),
        ];
        all.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        all
    }
}

impl Row for Task {
    const COLUMNS: &'static [Column] =
        &[Column::Number("ID"), Column::Word("ACCEPTED"), Column::Name("TO"), Column::Text("TASK")];
    fn cells(&self, times: Times) -> Vec<String> {
        let to = or_dash(&self.audience().unwrap_or_default());
        let text = beside(&self.task, &self.headers, self.data_size);
        vec![self.id.to_string(), times.show(self.accepted_at), to, text]
    }
}

/// The outcome of a task whose place another took.
const REPLACED: &str = "REPLACED";

/// A task, where it stands, and what came of it last.
#[derive(Serialize)]
pub(super) struct FoundTask {
    #[serde(flatten)]
    task: Task,
    state: String,
    outcome: Option<String>,
}

impl From<pb::FoundTask> for FoundTask {
    fn from(found: pb::FoundTask) -> FoundTask {
        FoundTask {
            task: found.task.into_option().unwrap_or_default().into(),
            state: state(found.state),
            outcome: found.outcome.map(enum_name),
        }
    }
}

impl Row for FoundTask {
    const COLUMNS: &'static [Column] = &[
        Column::Number("ID"),
        Column::Word("ACCEPTED"),
        Column::Name("TO"),
        Column::Word("STATE"),
        Column::Text("TASK"),
    ];
    fn cells(&self, times: Times) -> Vec<String> {
        let [id, accepted, to, text] = self.task.cells(times).try_into().unwrap_or_default();
        // How it was settled says more than that it was.
        let state = match &self.outcome {
            Some(outcome) if outcome == REPLACED && self.task.replaced_by > 0 => {
                format!("replaced by task {}", self.task.replaced_by)
            }
            Some(outcome) if self.state == TaskState::Settled.to_string() => {
                outcome.to_ascii_lowercase().replace('_', " ")
            }
            _ => self.state.clone(),
        };
        vec![id, accepted, to, state, text]
    }
}

#[derive(Serialize)]
pub(super) struct TaskResult {
    pub(super) seq: u64,
    task_id: u64,
    group: String,
    client: String,
    attempt: u32,
    outcome: String,
    ret: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_zero")]
    data_size: u64,
    at: Moment,
    late: bool,
}

impl From<pb::TaskResult> for TaskResult {
    fn from(result: pb::TaskResult) -> TaskResult {
        TaskResult {
            seq: result.seq,
            task_id: result.task_id,
            group: result.group,
            client: result.client,
            attempt: result.attempt,
            outcome: enum_name(result.outcome),
            ret: result.ret,
            headers: result.headers.into_iter().collect(),
            data_size: result.data_size,
            at: Moment(result.at),
            late: result.late,
        }
    }
}

impl Row for TaskResult {
    const COLUMNS: &'static [Column] = &[
        Column::Number("SEQ"),
        Column::Word("AT"),
        Column::Number("TASK"),
        Column::Name("GROUP"),
        Column::Name("CLIENT"),
        Column::Number("ATTEMPT"),
        Column::Word("OUTCOME"),
        Column::Text("RESULT"),
    ];
    fn cells(&self, times: Times) -> Vec<String> {
        let late = if self.late { " (late)" } else { "" };
        vec![
            self.seq.to_string(),
            times.show(self.at),
            self.task_id.to_string(),
            or_dash(&self.group),
            or_dash(&self.client),
            self.attempt.to_string(),
            format!("{}{late}", self.outcome),
            beside(&self.ret, &self.headers, self.data_size),
        ]
    }
}

#[derive(Serialize)]
pub(super) struct Status {
    pub(super) seq: u64,
    client: String,
    msg: String,
    at: Moment,
}

impl From<pb::Status> for Status {
    fn from(status: pb::Status) -> Status {
        Status { seq: status.seq, client: status.client, msg: status.msg, at: Moment(status.at) }
    }
}

impl Row for Status {
    const COLUMNS: &'static [Column] =
        &[Column::Number("SEQ"), Column::Word("AT"), Column::Name("CLIENT"), Column::Text("STATUS")];
    fn cells(&self, times: Times) -> Vec<String> {
        vec![self.seq.to_string(), times.show(self.at), or_dash(&self.client), self.msg.clone()]
    }
}

#[derive(Serialize)]
pub(super) struct Client {
    client: String,
    group: String,
    peer: String,
    /// `None`: it is not connected.
    since: Option<Moment>,
    window: u32,
    in_flight: u64,
    delivered: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    draining: Option<Draining>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working: Option<Working>,
}

/// How far a client is with the oldest of its tasks of which it said so.
#[derive(Serialize)]
struct Working {
    task: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    said: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<f32>,
}

impl From<pb::Working> for Working {
    fn from(working: pb::Working) -> Working {
        Working { task: working.task, said: working.said, progress: working.progress }
    }
}

/// How far a task is, in per cent and words.
fn how_far(progress: Option<f32>, said: &str) -> String {
    match progress.and_then(Progress::of) {
        Some(progress) => format!("{progress} {said}").trim_end().to_owned(),
        None => said.to_owned(),
    }
}

/// Why a client is given no more tasks.
#[derive(Serialize)]
struct Draining {
    since: Moment,
    until: Option<Moment>,
    note: String,
    stopping: bool,
}

impl From<pb::Draining> for Draining {
    fn from(draining: pb::Draining) -> Draining {
        let until = (draining.until != 0).then_some(Moment(draining.until));
        Draining { since: Moment(draining.since), until, note: draining.note, stopping: draining.stopping }
    }
}

impl Draining {
    /// In a cell of a table.
    fn text(&self, times: Times) -> String {
        let what = if self.stopping { "stopping" } else { "drained" };
        let until = self.until.map(|until| format!(" until {}", times.show(until))).unwrap_or_default();
        let note = if self.note.is_empty() { String::new() } else { format!(": {}", self.note) };
        format!("{what}{until}{note}")
    }
}

impl From<pb::Client> for Client {
    fn from(client: pb::Client) -> Client {
        Client {
            draining: client.draining.into_option().map(Draining::from),
            labels: text_if_set(client.labels),
            working: client.working.into_option().map(Working::from),
            client: client.client,
            group: client.group,
            peer: client.peer,
            since: (client.since != 0).then_some(Moment(client.since)),
            window: client.window,
            in_flight: client.in_flight,
            delivered: client.delivered,
        }
    }
}

impl Row for Client {
    const COLUMNS: &'static [Column] = &[
        Column::Name("CLIENT"),
        Column::Name("GROUP"),
        Column::Name("PEER"),
        Column::Word("SINCE"),
        Column::Number("WINDOW"),
        Column::Number("IN FLIGHT"),
        Column::Number("DELIVERED"),
        Column::Name("LABELS"),
        Column::Text("STATE"),
    ];
    fn cells(&self, times: Times) -> Vec<String> {
        let window = if self.window == 0 { "-".into() } else { self.window.to_string() };
        let gone = self.since.is_none().then(|| "not connected".to_owned());
        let draining = self.draining.as_ref().map(|draining| draining.text(times));
        let working = self.working.as_ref();
        let working = working.map(|it| format!("task {}: {}", it.task, how_far(it.progress, &it.said)));
        let state = [gone, draining, working].into_iter().flatten().collect::<Vec<_>>().join(", ");
        vec![
            or_dash(&self.client),
            or_dash(&self.group),
            or_dash(&self.peer),
            self.since.map_or_else(|| "-".into(), |since| times.show(since)),
            window,
            self.in_flight.to_string(),
            self.delivered.to_string(),
            or_dash(self.labels.as_deref().unwrap_or_default()),
            state,
        ]
    }
}

/// A client that has an id, connected or not.
#[derive(Serialize)]
pub(super) struct KnownClient {
    client: String,
    group: String,
    connected: bool,
    last_seen: Moment,
    first_seen: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<String>,
}

impl From<pb::KnownClient> for KnownClient {
    fn from(known: pb::KnownClient) -> KnownClient {
        KnownClient {
            client: known.client,
            group: known.group,
            connected: known.connected,
            last_seen: Moment(known.last_seen),
            first_seen: Moment(known.first_seen),
            version: text_if_set(known.version),
            system: text_if_set(known.system),
            labels: text_if_set(known.labels),
        }
    }
}

impl Row for KnownClient {
    const COLUMNS: &'static [Column] = &[
        Column::Name("CLIENT"),
        Column::Name("GROUP"),
        Column::Word("LAST SEEN"),
        Column::Word("KNOWN SINCE"),
        Column::Name("VERSION"),
        Column::Name("SYSTEM"),
        Column::Text("LABELS"),
    ];
    fn cells(&self, times: Times) -> Vec<String> {
        let shown = |text: &Option<String>| or_dash(text.as_deref().unwrap_or_default());
        vec![
            self.client.clone(),
            self.group.clone(),
            if self.connected { "connected".into() } else { times.show(self.last_seen) },
            times.show(self.first_seen),
            shown(&self.version),
            shown(&self.system),
            shown(&self.labels),
        ]
    }
}

/// How much of a group's tasks may be under way.
#[derive(Serialize)]
pub(super) struct Limits {
    max_in_flight: Option<u32>,
    max_begun_per_second: Option<f64>,
    lane_max: u32,
    lane_on_dead: String,
}

impl From<pb::GroupLimits> for Limits {
    fn from(limits: pb::GroupLimits) -> Limits {
        Limits {
            max_in_flight: Some(limits.max_in_flight).filter(|max| *max > 0),
            max_begun_per_second: Some(limits.max_begun_per_second).filter(|rate| *rate > 0.0),
            lane_max: limits.lane_max.max(1),
            lane_on_dead: enum_name(limits.lane_on_dead).to_lowercase(),
        }
    }
}

impl Limits {
    /// Those that are no limits are left out.
    fn parts(&self) -> Vec<String> {
        let in_flight = self.max_in_flight.map(|max| format!("{max} in flight"));
        let begun = self.max_begun_per_second.map(|rate| format!("{rate} a second"));
        let lanes = (self.lane_max > 1).then(|| format!("{} of a lane", self.lane_max));
        let on_dead = (self.lane_on_dead == "hold").then(|| "dead letters hold their lane".to_owned());
        [in_flight, begun, lanes, on_dead].into_iter().flatten().collect()
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            parts if parts.is_empty() => f.write_str("no limits"),
            parts => write!(f, "at most {}", parts.join(", ")),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Group {
    group: String,
    clients: u32,
    lag: u64,
    in_flight: u64,
    oldest: Option<u64>,
    oldest_at: Option<Moment>,
    rate: f64,
    paused: bool,
    dead: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    never_came: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
    #[serde(skip_serializing_if = "is_zero")]
    lanes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    held_lanes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<String>,
}

impl From<pb::Group> for Group {
    fn from(group: pb::Group) -> Group {
        Group {
            group: group.name,
            clients: group.clients,
            lag: group.lag,
            in_flight: group.in_flight,
            oldest: (group.oldest != 0).then_some(group.oldest),
            oldest_at: Moment::if_set(group.oldest_at),
            rate: group.rate,
            paused: group.paused,
            dead: group.dead,
            never_came: group.never_came,
            retry: Some(group.retry).filter(|retry| !retry.is_empty()),
            limits: group.limits.0.map(|limits| Limits::from(*limits)).filter(|limits| !limits.parts().is_empty()),
            lanes: group.lanes,
            held_lanes: group.held_lanes,
            labels: text_if_set(group.labels),
        }
    }
}

impl Group {
    fn limits_and_lanes(&self) -> String {
        let mut parts = self.limits.as_ref().map_or_else(Vec::new, Limits::parts);
        if self.held_lanes > 0 {
            parts.push(format!("{} held", count(self.held_lanes, "lane")));
        }
        if parts.is_empty() { "-".into() } else { parts.join(", ") }
    }
}

impl Row for Group {
    const COLUMNS: &'static [Column] = &[
        Column::Name("GROUP"),
        Column::Number("CLIENTS"),
        Column::Number("LAG"),
        Column::Number("IN FLIGHT"),
        Column::Number("OLDEST"),
        Column::Word("SINCE"),
        Column::Number("PER SECOND"),
        Column::Number("DEAD"),
        Column::Word("STATE"),
        Column::Text("RETRY"),
        Column::Text("LIMITS"),
    ];
    fn cells(&self, times: Times) -> Vec<String> {
        vec![
            self.group.clone(),
            self.clients.to_string(),
            self.lag.to_string(),
            self.in_flight.to_string(),
            self.oldest.map_or("-".into(), |id| id.to_string()),
            self.oldest_at.map_or("-".into(), |at| times.show(at)),
            format!("{:.1}", self.rate),
            self.dead.to_string(),
            match (self.never_came, self.paused) {
                (true, _) => "no such group",
                (_, true) => "paused",
                _ => "running",
            }
            .into(),
            self.retry.clone().unwrap_or("-".into()),
            self.limits_and_lanes(),
        ]
    }
}

#[derive(Serialize)]
pub(super) struct TaskInGroup {
    group: String,
    state: String,
    client: String,
    attempt: u32,
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    said: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<f32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    at_work: bool,
}

impl From<pb::TaskInGroup> for TaskInGroup {
    fn from(task: pb::TaskInGroup) -> TaskInGroup {
        let state = state(task.state);
        let reason = match task.wait {
            Some(wait) => wait_reason(wait, task.until, task.behind),
            None if task.until != 0 => StateReason::Leased(Time(task.until)).to_string(),
            None => task.outcome.map_or_else(String::new, enum_name),
        };
        let pb::TaskInGroup { group, client, attempt, said, progress, at_work, .. } = task;
        TaskInGroup { group, state, client, attempt, reason, said, progress, at_work }
    }
}

fn state(state: EnumOrUnknown<pb::TaskState>) -> String {
    let known = state.enum_value().map(|state| match state {
        pb::TaskState::WAITING => TaskState::Waiting,
        pb::TaskState::IN_FLIGHT => TaskState::InFlight,
        pb::TaskState::SETTLED => TaskState::Settled,
        pb::TaskState::DEAD => TaskState::Dead,
    });
    known.map_or_else(|_| enum_name(state), |known| known.to_string())
}

fn wait_reason(wait: EnumOrUnknown<pb::WaitReason>, until: i64, behind: u64) -> String {
    let known = match wait.enum_value() {
        Ok(pb::WaitReason::QUEUED) => WaitReason::Queued,
        Ok(pb::WaitReason::NOT_BEFORE) => WaitReason::NotBefore(Time(until)),
        Ok(pb::WaitReason::QUIET) => WaitReason::Quiet(Time(until)),
        Ok(pb::WaitReason::PAUSED) => WaitReason::Paused,
        Ok(pb::WaitReason::NO_CLIENT) => WaitReason::NoClient,
        Ok(pb::WaitReason::WINDOWS_FULL) => WaitReason::WindowsFull,
        Ok(pb::WaitReason::NOT_READING) => WaitReason::NotReading,
        Ok(pb::WaitReason::NEVER_CAME) => WaitReason::NeverCame,
        Ok(pb::WaitReason::ONE_AT_A_TIME) => WaitReason::OneAtATime,
        Ok(pb::WaitReason::TOO_LONG) => WaitReason::TooLong,
        Ok(pb::WaitReason::DRAINING) => WaitReason::Draining,
        Ok(pb::WaitReason::IN_LANE) => WaitReason::InLane(behind),
        Ok(pb::WaitReason::LANE_HELD) => WaitReason::LaneHeld(behind),
        Ok(pb::WaitReason::GROUP_FULL) => WaitReason::GroupFull,
        Ok(pb::WaitReason::RATE_REACHED) => WaitReason::RateReached,
        Err(_) => return enum_name(wait),
    };
    known.to_string()
}

impl Row for TaskInGroup {
    const COLUMNS: &'static [Column] = &[
        Column::Name("GROUP"),
        Column::Word("STATE"),
        Column::Name("CLIENT"),
        Column::Number("ATTEMPT"),
        Column::Text("WHY"),
    ];
    fn cells(&self, _: Times) -> Vec<String> {
        vec![
            or_dash(&self.group),
            self.state.clone(),
            or_dash(&self.client),
            self.attempt.to_string(),
            match (self.at_work, how_far(self.progress, &self.said).as_str()) {
                (true, _) => format!("{}; its client is still at work on it", self.reason),
                (false, "") => self.reason.clone(),
                (false, said) => format!("{said}; {}", self.reason),
            },
        ]
    }
}

/// A task, where it stands with each group, and all that came of it.
#[derive(Serialize)]
pub(super) struct Ledger {
    #[serde(flatten)]
    pub(super) task: Task,
    /// Of all groups; not from a server that is older than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) counts: Option<StateCounts>,
    pub(super) groups: Vec<TaskInGroup>,
    /// There are more groups after this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
    pub(super) results: Vec<TaskResult>,
    /// Older results of these groups that there was no room for.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) results_left_out: u64,
}

pub(super) fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// With how many groups a task is in each state.
#[derive(Serialize)]
pub(super) struct StateCounts {
    waiting: u64,
    in_flight: u64,
    settled: u64,
    dead: u64,
}

/// Those there are, most telling first.
impl std::fmt::Display for StateCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all =
            [("waiting", self.waiting), ("in flight", self.in_flight), ("settled", self.settled), ("dead", self.dead)];
        let there = all.into_iter().filter(|(_, count)| *count > 0);
        let words: Vec<_> = there.map(|(word, count)| format!("{} {word}", indicatif::HumanCount(count))).collect();
        f.write_str(&words.join(", "))
    }
}

impl From<pb::TaskLedger> for Ledger {
    fn from(ledger: pb::TaskLedger) -> Ledger {
        let pb::TaskLedger { waiting, in_flight, settled, dead, .. } = ledger;
        let is_counted = waiting + in_flight + settled + dead > 0;
        let by = ledger.task.replaced_by;
        let in_group = |group: pb::TaskInGroup| match TaskInGroup::from(group) {
            group if group.reason == REPLACED && by > 0 => {
                TaskInGroup { reason: format!("replaced by task {by}"), ..group }
            }
            group => group,
        };
        Ledger {
            counts: is_counted.then_some(StateCounts { waiting, in_flight, settled, dead }),
            next: None,
            task: ledger.task.into_option().unwrap_or_default().into(),
            groups: ledger.groups.into_iter().map(in_group).collect(),
            results: ledger.results.into_iter().map(TaskResult::from).collect(),
            results_left_out: ledger.results_left_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_that_is_newer_than_we_are_has_its_number() {
        assert_eq!(enum_name(EnumOrUnknown::from(pb::Outcome::TIMED_OUT)), "TIMED_OUT");
        assert_eq!(enum_name(EnumOrUnknown::<pb::Outcome>::from_i32(77)), "UNKNOWN_77");
    }
}
