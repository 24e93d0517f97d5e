//! What a server sees of the others of its cluster, and of the log that they share.

use std::sync::Arc;
use std::time::Duration;

use crate::latency::Latency;
use crate::task::Time;

/// A server that was not heard of for so long is silent: several of its words are missing.
const SILENT: Duration = Duration::from_secs(5);

/// Looks. Never waits for anything: it says what is known already.
pub type Look = Arc<dyn Fn() -> ClusterView + Send + Sync>;

/// What is known of a cluster by one of its servers.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    /// Its name.
    pub cluster: String,
    /// The servers that were heard of, by name: those that are silent for long, too.
    pub servers: Vec<ServerSeen>,
    /// The stream that is the log; `None`: NATS did not say yet.
    pub log: Option<LogSeen>,
    /// How long it took until what this server appended was acknowledged, since it began to follow.
    pub appends: Latency,
    /// How often this process began to lead.
    pub takeovers: u64,
}

/// A server, as it described itself last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerSeen {
    /// What it says.
    pub says: Saying,
    /// It is the one that looks.
    pub is_this: bool,
    /// When it was heard.
    pub heard_at: Time,
    /// By how much its clock is ahead of that of the one that looks, in milliseconds; too low by as long as its word was on the way.
    pub ahead: i64,
}

impl ServerSeen {
    /// Whether it would lead in the place of the one that looks, and do so well.
    pub fn stands_by(&self, now: Time) -> bool {
        !self.is_this && self.is_here(now) && !self.says.leads && self.says.trouble.is_empty()
    }

    /// Whether it was heard of lately.
    pub fn is_here(&self, now: Time) -> bool {
        now.since(self.heard_at) < SILENT
    }
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Saying {
    /// By which others know it.
    pub server: String,
    /// It leads. Else it follows.
    pub leads: bool,
    /// Where the record stands with which the present term began; 0: it does not know.
    pub epoch: u64,
    /// How many messages of the log it has yet to apply.
    pub lag: u64,
    /// Clients that are connected to it.
    pub clients: u32,
    /// Its version.
    pub version: String,
    /// When it was started, by its clock.
    pub started_at: Time,
    /// Why it cannot write its own disk, so that nobody should leave the lead to it. Empty: it can.
    pub trouble: String,
}

/// The stream, as NATS described it last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSeen {
    /// Its name.
    pub stream: String,
    /// The NATS servers that keep it, the one that leads it first, if there is one.
    pub replicas: Vec<ReplicaSeen>,
    /// Messages that it has, and their bytes.
    pub messages: u64,
    /// See above.
    pub bytes: u64,
    /// The place of the first message that it has, and of the last that it ever had.
    pub first: u64,
    /// See above.
    pub last: u64,
    /// When that was.
    pub seen_at: Time,
    /// What may lose tasks or stop the servers, each in a few words: settings, and versions of NATS.
    pub trouble: Vec<String>,
}

impl LogSeen {
    /// How many NATS servers are there and have all of it.
    pub fn current(&self) -> u64 {
        self.replicas.iter().filter(|one| one.current).count() as u64
    }
}

/// A NATS server that keeps the stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicaSeen {
    /// Its name.
    pub name: String,
    /// It leads the stream.
    pub leads: bool,
    /// It has all that the leader has, or nearly.
    pub current: bool,
    /// It is not there.
    pub offline: bool,
    /// How many messages it is behind.
    pub lag: u64,
}
