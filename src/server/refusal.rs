//! The one place that turns errors into gRPC statuses: a code and a text for people, and details for programs, as
//! `google.rpc.Status` in the trailing metadata `grpc-status-details-bin`. `docs/errors.md` lists the reasons.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use grpcio::{RpcStatus, RpcStatusCode};
use protobuf::well_known_types::any::Any;
use protobuf::{Message as _, MessageFull};
use rand::{Rng, RngExt as _};

use super::limits::Limit;
#[cfg(feature = "cluster")]
use super::proxy::Failed;
use super::refusal_counts;
use super::roles::Role;
use crate::attachment::{Attachment, HeaderError, Headers};
use crate::broker::{BrokerError, DrainError, GroupError, LONGEST_NOTE};
use crate::codec::{NoMessage, Unreadable};
use crate::labels::SelectorError;
use crate::reason::{DOMAIN, Reason};
use crate::run::{Phase, Wish};
use crate::schedule::{MOST, MOST_BYTES, WhenError};
use crate::store::{BackupError, KeyReused, StoreError};
use crate::task::{Audience, Name, NameError, NameOf, TaskId, Time};
use crate::wire::contact::Refused;
use crate::wire::google_rpc::error_details::bad_request::FieldViolation;
use crate::wire::google_rpc::error_details::{BadRequest, ErrorInfo, ResourceInfo, RetryInfo};
use crate::wire::google_rpc::status::Status;

/// A client that is sent away comes back after this at the earliest, and at the latest: time for a server to start again, and no
/// longer than people wait.
const SOONEST: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(5);
/// In between there is this time for each client, up to the latest: a thousand come a second.
const APIECE: Duration = Duration::from_millis(1);

/// Why a call is refused or ended. The text is for the person at the other end: it says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Refusal {
    #[error("{}", unreadable(.0))]
    Undecodable(Unreadable),
    #[error("{0}: send it with the headers")]
    NoMessage(#[from] NoMessage),
    #[error("{limit} calls of this {of} are open, which is all that one may have (the server's --max-calls-per-{of})")]
    TooManyCalls { of: &'static str, limit: usize },
    #[error("{text} is {size} bytes, the limit is {limit}{}", text.setting())]
    TooLong { text: Text, size: usize, limit: usize },
    #[error("the task is empty: an empty message is what a heartbeat looks like; give it a text, or data")]
    EmptyTask,
    #[error(transparent)]
    Headers(#[from] HeaderError),
    #[error("there is no result {0} any more, or not yet: contactctl results lists those that are kept")]
    NoSuchResult(u64),
    #[error(
        "the task would expire at {expires_at}, and here it is {now}: it would never be delivered; let it expire later, or give it \
         a duration, which is added to the clock of the server"
    )]
    Expired { expires_at: Time, now: Time },
    #[error(
        "the task would expire at {expires_at}, and is not to be delivered before {not_before}: it would never be delivered; \
         let it expire later"
    )]
    NoWindow { expires_at: Time, not_before: Time },
    #[error("a batch of results holds results, not batches")]
    NestedBatch,
    #[error("unknown {field}: {number}")]
    UnknownNumber { field: &'static str, number: i32 },
    #[error("metadata {key}: {problem}")]
    Metadata { key: &'static str, problem: String },
    #[error("{0}")]
    Name(#[from] NameError),
    #[error(transparent)]
    KeyReused(#[from] KeyReused),
    #[error("{0}")]
    Retry(String),
    #[error("{0}")]
    ReplaceMakesNoSense(&'static str),
    #[error(
        "the place of task {0} was taken by task {1}, which is newer: give that one out again, or submit what is to be done anew"
    )]
    Replaced(TaskId, TaskId),
    #[error("max_begun_per_second is {0}, and may be from 0.001 to 1000000, or 0 for no limit")]
    Rate(f64),
    #[error("no limit is named: name max_in_flight, max_begun_per_second, lane_max or lane_on_dead")]
    NoLimits,
    #[error("the selector makes no sense {0}; it is written as in os=linux,role in (web,api),!canary")]
    Selector(#[from] SelectorError),
    #[error("a selector is for what every group comes to: leave it out, or the groups")]
    SelectorAndGroup,
    #[error("a task names {max} groups at most: submit it once more for the others", max = Audience::MOST_GROUPS)]
    TooManyTargets,
    #[error(
        "a task for several groups is for those that are there, and {} {}; contactctl groups",
        listed(.0),
        if .0.len() == 1 { "is not" } else { "are not" }
    )]
    NoSuchGroups(Vec<Name>),
    #[error("task {index} of the request: {why}")]
    InRequest { index: usize, why: Box<Refusal> },
    #[error("there is no task {0}: the newest is {1}, and old ones are removed once they are settled")]
    NoSuchTask(TaskId, TaskId),
    #[error("there is no service {0:?} here; reflection lists those there are")]
    NoSuchService(String),
    #[error(
        "another stream with the client id {0} took over; give each process an id of its own (--id), or let them share one group \
         (--group)"
    )]
    TakenOver(String),
    #[error("the server is stopping; connect again")]
    Stopping {
        /// After this time.
        come_back: Duration,
    },
    #[error("task {0} is no dead letter of group {1}")]
    NotDead(TaskId, Name),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Backup(BackupError),
    #[error(
        "a client with the certificate of {identity} is not {client}: its id is {identity}, or begins with {identity}/"
    )]
    NotItsId { client: String, identity: String },
    #[error(
        "this server lets nobody in who does not say who they are: give a token with --token-file{}, or a certificate; contactctl token create \
         makes a token",
        .file.as_ref().map(|file| format!(" (operators on this machine: {})", file.display())).unwrap_or_default()
    )]
    NoCredential { file: Option<PathBuf> },
    #[error(
        "the token is not known here: it was revoked, or is of another server; make a new one with contactctl token create"
    )]
    WrongToken,
    #[error("the token of {name} was over at {at}: make a new one with contactctl token create")]
    TokenExpired { name: String, at: Time },
    #[error("{identity} may not do that: it is in the role {role}, and {what} needs {needed}")]
    RoleNotAllowed { identity: String, role: Role, needed: Role, what: &'static str },
    #[error(
        "{identity} takes no part in the group {group}, which is not granted to it: {}",
        .by_token.then_some("its token does not name it; make another with contactctl token create --group").unwrap_or(
            "contactctl identity grant NAME --group GROUP"
        )
    )]
    GroupNotAllowed { group: String, identity: String, by_token: bool },
    #[error("{identity} may not submit tasks for {}", .to.as_deref().unwrap_or("everyone"))]
    TargetNotAllowed { to: Option<String>, identity: String },
    #[error(
        "{identity} may submit {rate} tasks a second, and has: try again later, or submit by a stream, which waits"
    )]
    TooFast { identity: String, rate: u64, wait: Duration },
    #[error("{identity} has {limit} {of} open, which is all that it may have (contactctl identity limits)")]
    LimitReached { identity: String, of: Limit, limit: u64 },
    #[error("{0}")]
    NoSuchLimit(String),
    #[error("{0}")]
    NoSuchGrant(String),
    #[error("{0}")]
    NoSuchKindOfToken(String),
    #[error("there is a token {0}: revoke it first, or choose another name")]
    TokenExists(String),
    #[error("there is no token {0:?}; contactctl token list names those there are")]
    NoSuchToken(String),
    #[error("there are {0} tokens, which is all there may be: revoke those that nobody needs")]
    TooManyTokens(usize),
    #[error("{} cannot be written: {why}", .file.display())]
    NotWritten { file: PathBuf, why: String },
    #[error("{0}")]
    Authority(String),
    #[error(
        "nobody is called {0} who was given a certificate or a token here; contactctl identity list, contactctl token list"
    )]
    NoSuchIdentity(String),
    #[error("{0} cannot be dialled: {1}")]
    NoSuchAddress(String, String),
    #[error("this server does not dial {0}; contactctl dial list names those that it dials")]
    NotDialled(String),
    #[error("this server dials {0} no more")]
    DialledNoMore(String),
    #[error("{0} workers are dialled, which is all there may be: others connect to this server themselves")]
    TooManyDialled(usize),
    #[error("this server issues no certificates: it was not started with --public")]
    NotPublic,
    #[error("task {0} is with {1} groups, and can be watched with {2} at once: name one of them")]
    TooManyToWatch(TaskId, usize, usize),
    #[error("{0} watch what tasks print, which is all there may be: end one of these, and try again")]
    TooManyWatches(usize),
    #[error("there is no run {0}: contactctl run list shows those that are kept")]
    NoSuchRun(TaskId),
    #[error("nobody to run it on: {0}")]
    NoTargets(&'static str),
    #[error("a run is for {0} groups at most: choose fewer")]
    TooManyRunTargets(usize),
    #[error("{0} runs go on, which is all there may be: wait for some to end, or cancel them (contactctl run list)")]
    TooManyRuns(usize),
    #[error("run {number} is {}: it cannot be {}", .phase.as_str(), .wish.as_str())]
    RunNotSo { number: TaskId, phase: Phase, wish: Wish },
    #[error("{0}")]
    RunMakesNoSense(String),
    #[error(
        "there is no schedule {name}{}; contactctl schedule list shows those there are",
        .near.as_ref().map(|near| format!(": perhaps {near} is meant")).unwrap_or_default()
    )]
    NoSuchSchedule { name: Name, near: Option<String> },
    #[error(transparent)]
    When(#[from] WhenError),
    #[error("{0}")]
    ScheduleMakesNoSense(&'static str),
    #[error("there are {MOST} schedules, which is all there may be: remove those that nobody needs")]
    TooManySchedules,
    #[error(
        "what the schedules are to do takes {size} bytes in all, and may take {MOST_BYTES}: put the data elsewhere"
    )]
    SchedulesTooLarge { size: usize },
    #[cfg(feature = "cluster")]
    #[error(transparent)]
    FromLeader(Failed),
    #[cfg(feature = "cluster")]
    #[error("no server of the cluster leads now: try again")]
    NoLeader,
    #[cfg(feature = "cluster")]
    #[error(
        "this server does not know yet whom the cluster lets in, since it has not read all of its log: try again, or another server"
    )]
    ServerBehind,
    #[cfg(feature = "cluster")]
    #[error("this is for the servers of the cluster alone")]
    NotOfTheCluster,
}

/// The first few of some names.
fn listed(names: &[Name]) -> String {
    const MOST: usize = 3;
    let shown: Vec<_> =
        names.iter().take(MOST).map(|name| name.as_str().chars().take(64).collect::<String>()).collect();
    let more = if names.len() > MOST { format!(" and {} more", names.len() - MOST) } else { String::new() };
    shown.join(", ") + &more
}

impl From<BackupError> for Refusal {
    fn from(error: BackupError) -> Refusal {
        match error {
            BackupError::Store(error) => Refusal::Store(error),
            other => Refusal::Backup(other),
        }
    }
}

/// The texts that have a [limit](super::Config::max_task).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Task,
    Result,
    Status,
}

impl Text {
    /// The text, if it is not longer than `limit` bytes.
    pub(super) fn check(self, text: String, limit: usize) -> Result<String, Refusal> {
        self.check_size(text.len(), limit)?;
        Ok(text)
    }

    /// What stands beside a text, if the headers are good, and text and data not longer than `limit` bytes together.
    pub(super) fn attachment(
        self,
        text: &str,
        headers: HashMap<String, String>,
        data: Vec<u8>,
        limit: usize,
    ) -> Result<Attachment, Refusal> {
        self.check_size(text.len() + data.len(), limit)?;
        // Most have neither.
        if headers.is_empty() && data.is_empty() {
            return Ok(Attachment::default());
        }
        Ok(Attachment::new(Headers::new(headers)?, data))
    }

    fn check_size(self, size: usize, limit: usize) -> Result<(), Refusal> {
        if size > limit { Err(Refusal::TooLong { text: self, size, limit }) } else { Ok(()) }
    }

    /// What sets the limit; the one of statuses is fixed.
    fn setting(self) -> &'static str {
        match self {
            Text::Task | Text::Result => " (the server's --max-task)",
            Text::Status => "",
        }
    }

    /// The field that carries it.
    fn field(self) -> &'static str {
        match self {
            Text::Task => "task",
            Text::Result => "ret",
            Text::Status => "msg",
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Text::Task => "the task",
            Text::Result => "the result",
            Text::Status => "the status",
        })
    }
}

impl Refusal {
    /// For one of `clients` that are sent away because the server is stopping.
    pub(super) fn stopping(clients: usize) -> Refusal {
        Refusal::Stopping { come_back: come_back(clients, &mut rand::rng()) }
    }

    /// What programs and metrics call it.
    pub(super) fn cause(&self) -> &'static str {
        self.reason().name()
    }

    /// The disk has too little room.
    pub(super) fn is_low(&self) -> bool {
        self.reason() == Reason::DISK_LOW
    }

    pub(super) fn code(&self) -> RpcStatusCode {
        self.reason().code()
    }

    pub(super) fn reason(&self) -> Reason {
        match self {
            #[cfg(feature = "cluster")]
            Refusal::FromLeader(why) => why.reason(),
            #[cfg(feature = "cluster")]
            Refusal::NoLeader => Reason::NO_LEADER,
            #[cfg(feature = "cluster")]
            Refusal::ServerBehind => Reason::SERVER_BEHIND,
            #[cfg(feature = "cluster")]
            Refusal::NotOfTheCluster => Reason::CREDENTIAL_MISSING,
            Refusal::Undecodable(Unreadable::Undecodable(_)) => Reason::MESSAGE_UNDECODABLE,
            Refusal::Undecodable(Unreadable::TooMany { .. }) => Reason::BATCH_TOO_LARGE,
            Refusal::NoMessage(_) => Reason::MESSAGE_MISSING,
            Refusal::TooManyCalls { .. } => Reason::CALLS_FULL,
            Refusal::TooLong { text: Text::Task, .. } => Reason::TASK_TOO_LONG,
            Refusal::TooLong { text: Text::Result, .. } => Reason::RESULT_TOO_LONG,
            Refusal::TooLong { text: Text::Status, .. } => Reason::STATUS_TOO_LONG,
            Refusal::EmptyTask => Reason::TASK_EMPTY,
            Refusal::Headers(_) => Reason::HEADERS_INVALID,
            Refusal::Expired { .. } | Refusal::NoWindow { .. } => Reason::WINDOW_EMPTY,
            Refusal::NestedBatch => Reason::BATCH_NESTED,
            Refusal::UnknownNumber { .. } => Reason::ENUM_VALUE_UNKNOWN,
            Refusal::Metadata { .. } => Reason::METADATA_INVALID,
            Refusal::Name(_) => Reason::NAME_INVALID,
            Refusal::KeyReused(_) => Reason::KEY_REUSED,
            Refusal::Retry(_) => Reason::RETRY_INVALID,
            Refusal::ReplaceMakesNoSense(_) => Reason::REPLACE_INVALID,
            Refusal::Replaced(..) => Reason::TASK_REPLACED,
            Refusal::Rate(_) | Refusal::NoLimits => Reason::LIMITS_INVALID,
            Refusal::Selector(_) | Refusal::SelectorAndGroup => Reason::SELECTOR_INVALID,
            Refusal::TooManyTargets => Reason::TARGETS_TOO_MANY,
            Refusal::NoSuchGroups(_) => Reason::GROUP_UNKNOWN,
            Refusal::InRequest { why, .. } => why.reason(),
            Refusal::NoSuchTask(..) => Reason::TASK_UNKNOWN,
            Refusal::NoSuchResult(_) => Reason::RESULT_UNKNOWN,
            Refusal::NoSuchService(_) => Reason::SERVICE_UNKNOWN,
            Refusal::TakenOver(_) => Reason::CLIENT_TAKEN_OVER,
            Refusal::NotDead(..) => Reason::DEAD_LETTER_UNKNOWN,
            Refusal::Backup(_) => Reason::BACKUP_REFUSED,
            Refusal::NotItsId { .. } => Reason::CLIENT_NOT_ALLOWED,
            Refusal::NoCredential { .. } => Reason::CREDENTIAL_MISSING,
            Refusal::WrongToken => Reason::TOKEN_UNKNOWN,
            Refusal::TokenExpired { .. } => Reason::TOKEN_EXPIRED,
            Refusal::RoleNotAllowed { .. } => Reason::ROLE_NOT_ALLOWED,
            Refusal::GroupNotAllowed { .. } => Reason::GROUP_NOT_ALLOWED,
            Refusal::TargetNotAllowed { .. } => Reason::TARGET_NOT_ALLOWED,
            Refusal::TooFast { .. } => Reason::RATE_EXCEEDED,
            Refusal::LimitReached { .. } => Reason::LIMIT_REACHED,
            Refusal::NoSuchLimit(_) => Reason::LIMIT_INVALID,
            Refusal::NoSuchGrant(_) => Reason::GRANT_INVALID,
            Refusal::NoSuchKindOfToken(_) => Reason::TOKEN_INVALID,
            Refusal::TokenExists(_) => Reason::TOKEN_EXISTS,
            Refusal::NoSuchToken(_) => Reason::TOKEN_NOT_FOUND,
            Refusal::TooManyTokens(_) => Reason::TOKENS_FULL,
            Refusal::NotWritten { .. } => Reason::STORE_FAILED,
            Refusal::Authority(_) => Reason::CERTIFICATE_REFUSED,
            Refusal::NoSuchIdentity(_) => Reason::IDENTITY_UNKNOWN,
            Refusal::NotPublic => Reason::NOT_PUBLIC,
            Refusal::TooManyToWatch(..) => Reason::GROUPS_TOO_MANY,
            Refusal::TooManyWatches(_) => Reason::WATCHES_FULL,
            Refusal::NoSuchRun(_) => Reason::RUN_UNKNOWN,
            Refusal::NoTargets(_) => Reason::RUN_WITHOUT_TARGETS,
            Refusal::TooManyRunTargets(_) => Reason::TARGETS_TOO_MANY,
            Refusal::TooManyRuns(_) => Reason::RUNS_FULL,
            Refusal::RunNotSo { .. } => Reason::RUN_STATE,
            Refusal::RunMakesNoSense(_) => Reason::RUN_INVALID,
            Refusal::NoSuchSchedule { .. } => Reason::SCHEDULE_UNKNOWN,
            Refusal::When(_) | Refusal::ScheduleMakesNoSense(_) => Reason::SCHEDULE_INVALID,
            Refusal::TooManySchedules | Refusal::SchedulesTooLarge { .. } => Reason::SCHEDULES_FULL,
            Refusal::NoSuchAddress(..) => Reason::ADDRESS_INVALID,
            Refusal::NotDialled(_) => Reason::WORKER_UNKNOWN,
            Refusal::DialledNoMore(_) => Reason::WORKER_REMOVED,
            Refusal::TooManyDialled(_) => Reason::WORKERS_FULL,
            Refusal::Broker(BrokerError::Group(GroupError::Unknown(_))) => Reason::GROUP_UNKNOWN,
            Refusal::Broker(BrokerError::Group(GroupError::InUse(..))) => Reason::GROUP_IN_USE,
            Refusal::Broker(BrokerError::Group(GroupError::TooMany(_))) => Reason::GROUPS_FULL,
            Refusal::Broker(BrokerError::Drain(DrainError::Unknown(_))) => Reason::CLIENT_UNKNOWN,
            Refusal::Broker(BrokerError::Drain(DrainError::Note(_))) => Reason::NOTE_TOO_LONG,
            Refusal::Broker(BrokerError::Drain(DrainError::TooMany)) => Reason::DRAINS_FULL,
            Refusal::Broker(BrokerError::NotYourTurn(_)) => Reason::CLIENT_ID_CONTESTED,
            Refusal::Stopping { .. } | Refusal::Broker(BrokerError::Stopped) => Reason::SERVER_STOPPING,
            Refusal::Store(e) | Refusal::Broker(BrokerError::Store(e)) => match e {
                StoreError::Closed => Reason::SERVER_STOPPING,
                StoreError::Low { .. } => Reason::DISK_LOW,
                _ => Reason::STORE_FAILED,
            },
        }
    }

    /// The particulars, for a program.
    fn metadata(&self) -> HashMap<String, String> {
        let pairs: &[(&str, &dyn ToString)] = match self {
            Refusal::Undecodable(Unreadable::TooMany { count, limit, .. }) => &[("count", count), ("limit", limit)],
            Refusal::TooLong { size, limit, .. } => &[("size_bytes", size), ("limit_bytes", limit)],
            Refusal::TooManyCalls { of, limit } => &[("of", of), ("limit", limit)],
            Refusal::UnknownNumber { number, .. } => &[("number", number)],
            Refusal::Metadata { key, .. } => &[("key", key)],
            Refusal::Expired { expires_at, now } => &[("expires_at_ms", &expires_at.0), ("now_ms", &now.0)],
            Refusal::NoWindow { expires_at, not_before } => {
                &[("expires_at_ms", &expires_at.0), ("not_before_ms", &not_before.0)]
            }
            Refusal::KeyReused(reused) => &[("key", &reused.key), ("task", &reused.task)],
            Refusal::InRequest { index, why } => {
                let mut metadata = why.metadata();
                metadata.insert("index".into(), index.to_string());
                return metadata;
            }
            Refusal::Replaced(id, by) => &[("task", id), ("by", by)],
            Refusal::Selector(error) => &[("at", &error.at)],
            Refusal::TooManyTargets => &[("limit", &Audience::MOST_GROUPS)],
            Refusal::NoSuchGroups(names) => &[("group", &names[0])],
            Refusal::NoSuchTask(id, newest) => &[("task", id), ("newest", newest)],
            Refusal::NoSuchResult(seq) => &[("result", seq)],
            Refusal::NoSuchRun(number) => &[("run", number)],
            Refusal::TooManyToWatch(id, count, limit) => &[("task", id), ("count", count), ("limit", limit)],
            Refusal::TooManyRuns(limit) | Refusal::TooManyRunTargets(limit) | Refusal::TooManyWatches(limit) => {
                &[("limit", limit)]
            }
            Refusal::RunNotSo { number, phase, .. } => &[("run", number), ("phase", &phase.as_str())],
            Refusal::NoSuchSchedule { name, .. } => &[("schedule", name)],
            Refusal::TooManySchedules => &[("limit", &MOST)],
            Refusal::SchedulesTooLarge { size } => &[("size_bytes", size), ("limit_bytes", &MOST_BYTES)],
            Refusal::NoSuchService(service) => &[("service", service)],
            Refusal::TakenOver(client) => &[("client", client)],
            Refusal::NoSuchIdentity(identity) => &[("identity", identity)],
            Refusal::NotItsId { client, identity } => &[("client", client), ("identity", identity)],
            Refusal::TokenExpired { name, at } => &[("token", name), ("expired_at_ms", &at.0)],
            Refusal::RoleNotAllowed { identity, role, needed, .. } => {
                &[("identity", identity), ("role", role), ("needed", needed)]
            }
            Refusal::GroupNotAllowed { group, identity, .. } => &[("group", group), ("identity", identity)],
            Refusal::TargetNotAllowed { identity, .. } => &[("identity", identity)],
            Refusal::TooFast { identity, rate, .. } => &[("identity", identity), ("limit", rate)],
            Refusal::LimitReached { identity, of, limit } => &[("identity", identity), ("of", of), ("limit", limit)],
            Refusal::TokenExists(name) | Refusal::NoSuchToken(name) => &[("token", name)],
            Refusal::TooManyTokens(limit) => &[("limit", limit)],
            Refusal::Broker(BrokerError::NotYourTurn(refused)) => &[("client", &refused.client)],
            Refusal::Store(StoreError::Low { free, floor, .. })
            | Refusal::Broker(BrokerError::Store(StoreError::Low { free, floor, .. })) => {
                &[("free_bytes", free), ("min_free_bytes", floor)]
            }
            Refusal::NotDead(id, group) => &[("task", id), ("group", group)],
            Refusal::Broker(BrokerError::Group(GroupError::Unknown(group))) => &[("group", group)],
            Refusal::Broker(BrokerError::Group(GroupError::InUse(group, clients))) => {
                &[("group", group), ("clients", clients)]
            }
            Refusal::Broker(BrokerError::Group(GroupError::TooMany(limit))) => &[("limit", limit)],
            Refusal::Broker(BrokerError::Drain(DrainError::Unknown(client))) => &[("client", client)],
            Refusal::Broker(BrokerError::Drain(DrainError::Note(size))) => {
                &[("size_bytes", size), ("limit_bytes", &LONGEST_NOTE)]
            }
            _ => &[],
        };
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.to_string())).collect()
    }

    /// The path to the field that was wrong.
    fn field(&self) -> Option<String> {
        let field = match self {
            Refusal::TooLong { text, .. } => text.field(),
            Refusal::UnknownNumber { field, .. } => field,
            Refusal::Name(e) => match e.of {
                NameOf::Group => "group",
                NameOf::To => "to",
                NameOf::Key => "key",
                NameOf::Replace => "replace",
                NameOf::Lane | NameOf::KeptLane => "lane",
                NameOf::Schedule => "name",
                NameOf::ClientOrGroup | NameOf::Metadata => return None,
            },
            Refusal::KeyReused(_) => "key",
            Refusal::Broker(BrokerError::Drain(DrainError::Note(_))) => "note",
            Refusal::Expired { .. } | Refusal::NoWindow { .. } => "expires_at",
            Refusal::EmptyTask => "task",
            Refusal::Headers(_) => "headers",
            Refusal::Retry(_) => "retry",
            Refusal::ReplaceMakesNoSense(_) => "replace",
            Refusal::Rate(_) => "max_begun_per_second",
            Refusal::Selector(_) | Refusal::SelectorAndGroup => "select",
            Refusal::TooManyTargets | Refusal::NoSuchGroups(_) => "groups",
            Refusal::TargetNotAllowed { .. } => "to",
            Refusal::When(WhenError::Zone(_)) => "zone",
            Refusal::When(WhenError::Interval) => "every_ms",
            Refusal::When(_) => "cron",
            Refusal::NestedBatch => "batch",
            Refusal::NoSuchAddress(..) => "address",
            Refusal::InRequest { index, why } => return Some(format!("tasks[{index}].{}", why.field()?)),
            _ => return None,
        };
        Some(field.to_owned())
    }

    /// What was not found: its kind and its name.
    fn resource(&self) -> Option<(&'static str, String)> {
        match self {
            Refusal::NoSuchTask(id, _) => Some(("task", id.to_string())),
            Refusal::NoSuchResult(seq) => Some(("result", seq.to_string())),
            Refusal::NotDead(id, group) => Some(("dead letter", format!("{id} of {group}"))),
            Refusal::Broker(BrokerError::Group(GroupError::Unknown(group))) => Some(("group", group.to_string())),
            Refusal::Broker(BrokerError::Drain(DrainError::Unknown(client))) => Some(("client", client.clone())),
            Refusal::NoSuchRun(number) => Some(("run", number.to_string())),
            Refusal::NoSuchSchedule { name, .. } => Some(("schedule", name.to_string())),
            Refusal::NoSuchService(service) => Some(("service", service.clone())),
            Refusal::NotDialled(address) => Some(("worker", address.clone())),
            Refusal::NoSuchToken(name) => Some(("token", name.clone())),
            _ => None,
        }
    }

    /// After how long the same may work.
    fn retry_delay(&self) -> Option<Duration> {
        match self {
            Refusal::Stopping { come_back } => Some(*come_back),
            Refusal::TooFast { wait, .. } => Some(*wait),
            Refusal::TooManyCalls { .. } | Refusal::LimitReached { .. } => {
                Some(come_back(usize::MAX, &mut rand::rng()))
            }
            Refusal::Broker(BrokerError::NotYourTurn(refused)) => Some(refused.wait),
            // Whoever is there may be refused, and it is not known how many that are.
            Refusal::Store(e) | Refusal::Broker(BrokerError::Store(e)) if e.may_pass() => {
                Some(come_back(usize::MAX, &mut rand::rng()))
            }
            _ if matches!(self.reason(), Reason::SERVER_STOPPING | Reason::NO_LEADER | Reason::SERVER_BEHIND) => {
                Some(come_back(1, &mut rand::rng()))
            }
            _ => None,
        }
    }

    /// Its code, its text and its details.
    pub(super) fn status(&self) -> Status {
        Status { code: self.code().into(), message: self.to_string(), details: self.details(), ..Status::default() }
    }

    fn details(&self) -> Vec<Any> {
        let info = ErrorInfo {
            reason: self.reason().name().into(),
            domain: DOMAIN.into(),
            metadata: self.metadata(),
            ..ErrorInfo::default()
        };
        let violation = self.field().map(|field| BadRequest {
            field_violations: vec![FieldViolation {
                field,
                description: self.to_string(),
                ..FieldViolation::default()
            }],
            ..BadRequest::default()
        });
        let resource = self.resource().map(|(kind, name)| ResourceInfo {
            resource_type: kind.into(),
            resource_name: name,
            ..ResourceInfo::default()
        });
        let retry = self
            .retry_delay()
            .map(|delay| RetryInfo { retry_delay: Some(delay.into()).into(), ..RetryInfo::default() });
        let details = [Some(packed(&info)), violation.as_ref().map(packed), resource.as_ref().map(packed)];
        details.into_iter().chain([retry.as_ref().map(packed)]).flatten().flatten().collect()
    }
}

fn unreadable(why: &Unreadable) -> String {
    match why {
        Unreadable::Undecodable(why) => format!("the message cannot be read: {why} (text must be UTF-8)"),
        Unreadable::TooMany { .. } => why.to_string(),
    }
}

/// Packing only fails for messages that lack required fields, and these have none.
fn packed(message: &impl MessageFull) -> Option<Any> {
    Any::pack(message).ok()
}

/// When one of `clients` is to come back. Drawn evenly, so that they do not all come at one moment.
fn come_back(clients: usize, rng: &mut impl Rng) -> Duration {
    let span = APIECE.saturating_mul(u32::try_from(clients).unwrap_or(u32::MAX)).clamp(SOONEST, LATEST - SOONEST);
    SOONEST + span.mul_f64(rng.random_range(0.0..=1.0))
}

/// What a status is to one that was called.
impl From<&Refusal> for Refused {
    fn from(refusal: &Refusal) -> Refused {
        refusal_counts::count(refusal.cause());
        Refused { reason: refusal.cause().to_owned(), message: refusal.to_string(), ..Refused::default() }
    }
}

impl From<Refusal> for RpcStatus {
    fn from(refusal: Refusal) -> RpcStatus {
        refusal_counts::count(refusal.cause());
        #[cfg(feature = "cluster")]
        if let Refusal::FromLeader(why) = refusal {
            return why.status();
        }
        let status = refusal.status();
        let details = status.write_to_bytes().unwrap_or_default();
        RpcStatus::with_details(refusal.code(), status.message, details)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    /// The rows of the table in `docs/errors.md`: code and reason.
    fn documented() -> BTreeSet<(String, String)> {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md")).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.map(|row| {
            let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            assert!(cells.len() >= 4 && cells[2..4].iter().all(|cell| !cell.is_empty()), "{row:?} says what to do");
            (cells[0].into(), cells[1].into())
        })
        .collect()
    }

    #[test]
    fn every_reason_is_documented_with_its_code() {
        let code = |reason: &Reason| format!("{:?}", reason.code()).split_once('-').unwrap().1.to_owned();
        let all = Reason::ALL.iter().map(|reason| (code(reason), reason.name().to_owned())).collect();
        assert_eq!(documented(), all);
    }

    #[test]
    fn what_was_wrong_inside_a_request_is_named_by_its_path() {
        let why = Refusal::from(Name::new(NameOf::Key, "").unwrap_err());
        let refusal = Refusal::InRequest { index: 3, why: Box::new(why) };
        assert_eq!(refusal.reason(), Reason::NAME_INVALID);
        assert_eq!(refusal.field().as_deref(), Some("tasks[3].key"));
        assert_eq!(refusal.metadata(), HashMap::from([("index".into(), "3".into())]));
    }

    #[test]
    fn clients_that_are_sent_away_come_back_spread_over_time_the_more_the_longer() {
        let mut rng = StdRng::seed_from_u64(7);
        for (clients, last) in [(1, 1_000), (2_000, 2_500), (10_000, 5_000), (usize::MAX, 5_000)] {
            let mut quarters = [0; 4];
            for _ in 0..4_000 {
                let delay = come_back(clients, &mut rng).as_millis();
                assert!((500..=last).contains(&delay), "{delay} ms with {clients} clients");
                quarters[((delay - 500) * 4 / (last - 499)) as usize] += 1;
            }
            assert!(quarters.iter().all(|count| (900..1_100).contains(count)), "{clients} clients: {quarters:?}");
        }
    }

    #[test]
    fn only_what_passes_by_itself_is_to_be_tried_again() {
        assert!(Refusal::from(BrokerError::Stopped).retry_delay().is_some());
        assert!(Refusal::from(StoreError::Closed).retry_delay().is_some());
        let full = StoreError::Full { path: "/the/disk".into() };
        assert_eq!(Refusal::from(full.clone()).reason(), Reason::STORE_FAILED);
        assert!(Refusal::from(BrokerError::Store(full)).retry_delay().is_some());
        let newer = StoreError::Newer { path: "/the/disk".into(), found: 9, known: 1 };
        assert_eq!(Refusal::from(newer).retry_delay(), None);
    }
}
