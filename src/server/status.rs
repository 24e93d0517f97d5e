//! The one place that turns errors into gRPC statuses.

use grpcio::{RpcStatus, RpcStatusCode};

use super::refusals;
use crate::broker::{BrokerError, GroupError};
use crate::store::StoreError;
use crate::task::{Name, NameError, TaskId};

/// Why a call is refused or ended. The text is for the person at the other end: it says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Refusal {
    #[error("the message cannot be read: {0} (text must be UTF-8)")]
    Undecodable(protobuf::Error),
    #[error("{what} is {size} bytes, the limit is {limit} (the server's --max-task)")]
    TooLong { what: &'static str, size: usize, limit: usize },
    #[error("the task is empty: an empty message is what a heartbeat looks like")]
    EmptyTask,
    #[error("a batch of results holds results, not batches")]
    NestedBatch,
    #[error("unknown {what}: {number}")]
    UnknownNumber { what: &'static str, number: i32 },
    #[error("metadata {key}: {problem}")]
    Metadata { key: &'static str, problem: String },
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("task {index} of the request: {why}")]
    InRequest { index: usize, why: Box<Refusal> },
    #[error("there is no task {0}: the newest is {1}, and old ones are removed once they are settled")]
    NoSuchTask(TaskId, TaskId),
    #[error("another stream with the client id {0} took over; give each client an id of its own")]
    TakenOver(String),
    #[error("the server is stopping; connect again")]
    Stopping,
    #[error("task {0} is no dead letter of group {1}")]
    NotDead(TaskId, Name),
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Refusal {
    pub(super) fn code(&self) -> RpcStatusCode {
        match self {
            Refusal::NoSuchTask(..) | Refusal::NotDead(..) => RpcStatusCode::NOT_FOUND,
            Refusal::TakenOver(_) => RpcStatusCode::ABORTED,
            Refusal::Group(GroupError::Unknown(_)) => RpcStatusCode::NOT_FOUND,
            Refusal::Group(GroupError::InUse(..)) => RpcStatusCode::FAILED_PRECONDITION,
            Refusal::Stopping | Refusal::Broker(_) | Refusal::Store(_) => RpcStatusCode::UNAVAILABLE,
            _ => RpcStatusCode::INVALID_ARGUMENT,
        }
    }
}

impl From<Refusal> for RpcStatus {
    fn from(refusal: Refusal) -> RpcStatus {
        refusals::count(refusal.cause());
        RpcStatus::with_message(refusal.code(), refusal.to_string())
    }
}
