//! The servers of a cluster, and their log.

use crate::server::operator::{Duty, Servers};
use crate::store::{LogSeen, ReplicaSeen, ServerSeen};
use crate::wire::control as pb;

pub(in crate::server) fn servers(servers: Servers) -> pb::ListServersResponse {
    pb::ListServersResponse {
        servers: servers.view.servers.iter().map(|seen| one(&servers, seen)).collect(),
        log: servers.view.log.map(log).into(),
        cluster: servers.view.cluster,
        ..pb::ListServersResponse::default()
    }
}

fn one(servers: &Servers, seen: &ServerSeen) -> pb::ClusterServer {
    let role = match servers.duty(seen) {
        Duty::Alone => pb::cluster_server::Role::ALONE,
        Duty::Leading => pb::cluster_server::Role::LEADING,
        Duty::Following => pb::cluster_server::Role::FOLLOWING,
    };
    let says = &seen.says;
    pb::ClusterServer {
        name: says.server.clone(),
        role: role.into(),
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
        ..pb::ClusterServer::default()
    }
}

fn log(log: LogSeen) -> pb::ClusterLog {
    let LogSeen { stream, replicas, messages, bytes, first, last, seen_at, trouble } = log;
    let replica = |one: ReplicaSeen| {
        let ReplicaSeen { name, leads, current, offline, lag } = one;
        pb::LogReplica { name, leads, current, offline, lag, ..pb::LogReplica::default() }
    };
    let replicas = replicas.into_iter().map(replica).collect();
    let seen_at = seen_at.0;
    pb::ClusterLog { stream, replicas, messages, bytes, first, last, seen_at, trouble, ..pb::ClusterLog::default() }
}
