//! `/api/servers`: the servers of a cluster, and their log.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde::Serialize;

use super::answer::Answer;
use super::api::ok;
use super::app::AppState;
use crate::server::operator::{self, Duty};
use crate::store::{LogSeen, ReplicaSeen, ServerSeen};

pub(super) fn router() -> Router<AppState> {
    Router::new().route("/api/servers", get(list))
}

async fn list(State(app): State<AppState>) -> Answer {
    ok(Servers::from(&app.operator.list_servers().await?))
}

/// All of them.
#[derive(Debug, Serialize)]
pub(super) struct Servers {
    cluster: Option<String>,
    servers: Vec<Server>,
    log: Option<Log>,
}

#[derive(Debug, Serialize)]
struct Server {
    name: String,
    role: &'static str,
    silent: bool,
    heard_at: i64,
    epoch: u64,
    lag: u64,
    clients: u32,
    version: String,
    started_at: i64,
    clock_ahead_ms: i64,
    answers: bool,
    trouble: String,
}

#[derive(Debug, Serialize)]
struct Log {
    stream: String,
    replicas: Vec<Replica>,
    messages: u64,
    bytes: u64,
    first: u64,
    last: u64,
    seen_at: i64,
    trouble: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Replica {
    name: String,
    leads: bool,
    current: bool,
    offline: bool,
    lag: u64,
}

impl From<&operator::Servers> for Servers {
    fn from(servers: &operator::Servers) -> Servers {
        let view = &servers.view;
        Servers {
            cluster: (!servers.alone).then(|| view.cluster.clone()),
            servers: view.servers.iter().map(|seen| Server::of(servers, seen)).collect(),
            log: view.log.as_ref().map(Log::from),
        }
    }
}

impl Server {
    fn of(servers: &operator::Servers, seen: &ServerSeen) -> Server {
        let says = &seen.says;
        Server {
            name: says.server.clone(),
            role: match servers.duty(seen) {
                Duty::Alone => "alone",
                Duty::Leading => "leading",
                Duty::Following => "following",
            },
            silent: !seen.is_here(servers.now),
            heard_at: seen.heard_at.0,
            epoch: says.epoch,
            lag: says.lag,
            clients: says.clients,
            version: says.version.clone(),
            started_at: says.started_at.0,
            clock_ahead_ms: seen.ahead,
            answers: seen.is_this,
            trouble: says.trouble.clone(),
        }
    }
}

impl From<&LogSeen> for Log {
    fn from(log: &LogSeen) -> Log {
        let LogSeen { stream, replicas, messages, bytes, first, last, seen_at, trouble } = log.clone();
        let replica = |one: ReplicaSeen| {
            let ReplicaSeen { name, leads, current, offline, lag } = one;
            Replica { name, leads, current, offline, lag }
        };
        let replicas = replicas.into_iter().map(replica).collect();
        Log { stream, replicas, messages, bytes, first, last, seen_at: seen_at.0, trouble }
    }
}
