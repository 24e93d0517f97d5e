//! What goes between a [`Proxy`](super::Proxy) and the broker of the server that leads.

use grpcio::RpcStatus;
use protobuf::Message as _;

use crate::broker::{Join, OutcomeReport, Push, Quota, Reporter, SessionId};
use crate::reason::Reason;
use crate::rpc_status;
use crate::server::refusal::Refusal;
use crate::task::{NewStatus, StartAt, TaskId};

/// Names a call of a client that tells results, for one proxy.
pub(super) type Teller = u64;
/// Names a question, for one proxy.
pub(super) type Ask = u64;

/// What clients do.
#[derive(Debug)]
pub(super) enum Up {
    Join(SessionId, Box<Join>),
    Leave(SessionId, String),
    /// The stream has taken so many bytes since it began.
    Took(SessionId, u64),
    Teller(Teller, Reporter),
    TellerGone(Teller),
    Told(Teller, Vec<OutcomeReport>),
    Flush(Ask),
    Statuses(Ask, Vec<NewStatus>),
    Quota(Quota),
    /// The state was heard.
    Here,
}

/// What they are given and answered.
#[derive(Debug)]
pub(super) enum Down {
    Joined(SessionId, Result<Welcome, Failed>),
    Push(SessionId, Push),
    Done(Ask, Result<(), Failed>),
    /// Whether the server that leads takes anything: `None` if so, else why not.
    State(Option<String>),
}

/// What a client that was let in is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Welcome {
    /// Where its group starts, if that is new.
    pub(super) new_group: Option<StartAt>,
    /// The window it has, if that is less than it wanted.
    pub(super) window: Option<u32>,
    /// Its stream begins behind this task, if it is in no group.
    pub(super) after: TaskId,
}

/// A refusal of the server that leads: its cause, its text, and its details as `google.rpc.Status`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(in crate::server) struct Failed {
    pub(super) reason: Reason,
    pub(super) message: String,
    pub(super) details: Vec<u8>,
}

impl Failed {
    pub(super) fn of(refusal: &Refusal) -> Failed {
        let details = refusal.status().write_to_bytes().unwrap_or_default();
        Failed { reason: refusal.reason(), message: refusal.to_string(), details }
    }

    /// Of a server that says something this one does not know.
    pub(super) fn read(reason: &str, message: String, details: Vec<u8>) -> Failed {
        Failed { reason: Reason::named(reason).unwrap_or(Reason::SERVER_STOPPING), message, details }
    }

    /// How a call ended at that server.
    pub(super) fn of_status(status: &RpcStatus) -> Failed {
        let reason = rpc_status::reason(status).unwrap_or(Reason::NO_LEADER);
        Failed { reason, message: status.message().to_owned(), details: status.details().to_vec() }
    }

    pub(in crate::server) fn reason(&self) -> Reason {
        self.reason
    }

    /// As a call is told.
    pub(in crate::server) fn status(self) -> RpcStatus {
        RpcStatus::with_details(self.reason.code(), self.message, self.details)
    }
}
