//! `contactctl servers`: the servers of a cluster, and the log that they share.

use indicatif::BinaryBytes;
use serde::Serialize;

use super::Error;
use super::link::Link;
use super::moment::{Moment, Times};
use super::out::Out;
use super::rows::enum_name;
use super::table::{Column, Row, Table};
use super::words::count;
use crate::terminal::escape;
use crate::wire::control as pb;

#[derive(Serialize)]
struct Server {
    name: String,
    role: String,
    silent: bool,
    heard_at: Moment,
    epoch: u64,
    lag: u64,
    clients: u32,
    version: String,
    started_at: Moment,
    clock_ahead_ms: i64,
    answers: bool,
    trouble: String,
}

impl From<pb::ClusterServer> for Server {
    fn from(server: pb::ClusterServer) -> Server {
        let role = enum_name(server.role).to_lowercase();
        Server {
            role,
            name: server.name,
            silent: server.silent,
            heard_at: Moment(server.heard_at),
            epoch: server.epoch,
            lag: server.lag,
            clients: server.clients,
            version: server.version,
            started_at: Moment(server.started_at),
            clock_ahead_ms: server.clock_ahead_ms,
            answers: server.answers,
            trouble: server.trouble,
        }
    }
}

impl Row for Server {
    const COLUMNS: &'static [Column] = &[
        Column::Name("SERVER"),
        Column::Word("ROLE"),
        Column::Number("EPOCH"),
        Column::Number("LAG"),
        Column::Number("CLIENTS"),
        Column::Word("VERSION"),
        Column::Word("UP SINCE"),
        Column::Word("HEARD"),
    ];

    fn cells(&self, times: Times) -> Vec<String> {
        let role = if self.silent { format!("silent, was {}", self.role) } else { self.role.clone() };
        vec![
            self.name.clone(),
            role,
            if self.epoch == 0 { "-".into() } else { self.epoch.to_string() },
            self.lag.to_string(),
            self.clients.to_string(),
            self.version.clone(),
            times.show(self.started_at),
            times.show(self.heard_at),
        ]
    }
}

#[derive(Serialize)]
struct Log {
    stream: String,
    replicas: Vec<Replica>,
    messages: u64,
    bytes: u64,
    first: u64,
    last: u64,
    seen_at: Moment,
    trouble: Vec<String>,
}

#[derive(Serialize)]
struct Replica {
    name: String,
    leads: bool,
    current: bool,
    offline: bool,
    lag: u64,
}

/// As JSON, all of it is one object.
#[derive(Serialize)]
struct All<'a> {
    cluster: Option<String>,
    servers: &'a [Server],
    log: Option<Log>,
}

impl From<pb::ClusterLog> for Log {
    fn from(log: pb::ClusterLog) -> Log {
        let replica = |one: pb::LogReplica| Replica {
            name: one.name,
            leads: one.leads,
            current: one.current,
            offline: one.offline,
            lag: one.lag,
        };
        Log {
            stream: log.stream,
            replicas: log.replicas.into_iter().map(replica).collect(),
            messages: log.messages,
            bytes: log.bytes,
            first: log.first,
            last: log.last,
            seen_at: Moment(log.seen_at),
            trouble: log.trouble,
        }
    }
}

impl Row for Replica {
    const COLUMNS: &'static [Column] = &[Column::Name("NATS SERVER"), Column::Number("LAG"), Column::Text("STATE")];

    fn cells(&self, _: Times) -> Vec<String> {
        let state = match self {
            Replica { leads: true, .. } => "leads the stream",
            Replica { offline: true, .. } => "is not there",
            Replica { current: true, .. } => "has all of it",
            Replica { .. } => "does not have all of it",
        };
        vec![self.name.clone(), self.lag.to_string(), state.into()]
    }
}

impl Log {
    /// For people.
    fn title(&self) -> String {
        let (messages, bytes) = (count(self.messages, "message"), BinaryBytes(self.bytes));
        format!("The log {}: {messages} ({} to {}), {bytes}", escape(&self.stream), self.first, self.last)
    }
}

/// Lists them.
pub(super) fn list(link: &Link, mut out: Out) -> Result<(), Error> {
    let answer = link.wait(link.client.list_servers(&pb::ListServersRequest::new(), Link::answer_soon()))?;
    let servers: Vec<Server> = answer.servers.into_iter().map(Server::from).collect();
    let log = answer.log.into_option().map(Log::from);
    let cluster = (!answer.cluster.is_empty()).then_some(answer.cluster);
    if out.json {
        return Ok(out.object(&All { cluster, servers: &servers, log }, "")?);
    }
    out.rows(&mut Table::default(), &servers)?;
    if cluster.is_none() {
        out.remark("this server is alone: docs/cluster.md says how several stand by");
    }
    for server in servers.iter().filter(|server| !server.trouble.is_empty()) {
        out.text(&format!("not well: {} cannot write its own disk: {}", server.name, server.trouble))?;
    }
    out.flush()?;
    let Some(log) = log else { return Ok(()) };
    out.section(&log.title(), &log.replicas)?;
    log.trouble.iter().try_for_each(|trouble| out.text(&format!("not well: {trouble}")))?;
    Ok(out.flush()?)
}
