//! What a worker lets its owner watch.

use serde::Serialize;

use super::handler::Outcome;

/// Something that happened to a worker. Serialized, it is an object with an `event` field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event<'a> {
    /// The server has answered; tasks may come. To be reached is not enough: a proxy may be there, and no server behind it.
    Connected {
        /// Its address.
        server: &'a str,
    },
    /// The server did not know the group of this client: it has just begun, for all that are in it.
    NewGroup {
        /// Its name: that of the group, or the client's own.
        group: &'a str,
        /// Where it starts: `new`, at the next task for everyone; `first`, at the first one that is kept.
        from: &'a str,
    },
    /// The connection was lost, or could not be made.
    Disconnected {
        /// Its address.
        server: &'a str,
        /// What gRPC said.
        reason: &'a str,
        /// When the next try is, in milliseconds.
        retry_ms: u64,
    },
    /// A handler has finished a task. Observed on the handler's thread, when the result is on its way to the server.
    Task {
        /// The task's id; 0 if the server gives none.
        id: u64,
        /// Which delivery it was; 0 if the server does not count them.
        attempt: u32,
        /// What was asked for.
        task: &'a str,
        /// What came of it.
        outcome: Outcome,
        /// What the handler said.
        ret: &'a str,
        /// How long the handler took, in milliseconds.
        ms: u64,
    },
    /// The server answered a status.
    Status {
        /// What was reported.
        status: &'a str,
        /// The answer.
        answer: &'a str,
    },
}
