//! `contactctl server`: how the server is set, and how it is.

use std::time::Duration;

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;

use super::Error;
use super::link::Link;
use super::moment::{Moment, span};
use super::out::Out;
use super::rows::enum_name;
use super::words::count;
use crate::wire::control as pb;
use crate::wire::grpc_health_v1::health::HealthCheckRequest;
use crate::wire::grpc_health_v1::health::health_check_response::ServingStatus;

/// As JSON, what the server says; `null` for what it does not know.
#[derive(Serialize)]
pub(super) struct Server {
    version: String,
    now: Moment,
    started_at: Moment,
    listen: String,
    tls: bool,
    cluster: bool,
    control: String,
    data: String,
    ack_timeout_ms: u64,
    max_attempts: u32,
    max_deliveries: u32,
    retry: String,
    max_task: u64,
    retain_ms: u64,
    retain_bytes: Option<u64>,
    group_ttl_ms: u64,
    store_bytes: u64,
    disk_free_bytes: Option<u64>,
    open_files: Option<u64>,
    open_files_soft: Option<u64>,
    open_files_hard: Option<u64>,
    clients: u32,
    groups: u32,
    tasks: u64,
    results: u64,
    statuses: u64,
    in_flight: u64,
    lag: Option<u64>,
    dead: Option<u64>,
    refuses: Option<String>,
}

impl From<pb::Server> for Server {
    fn from(server: pb::Server) -> Server {
        Server {
            version: server.version,
            now: Moment(server.now),
            started_at: Moment(server.started_at),
            listen: server.listen,
            tls: server.tls,
            cluster: server.cluster,
            control: server.control,
            data: server.data,
            ack_timeout_ms: server.ack_timeout_ms,
            max_attempts: server.max_attempts,
            max_deliveries: server.max_deliveries,
            retry: server.retry,
            max_task: server.max_task,
            retain_ms: server.retain_ms,
            retain_bytes: server.retain_bytes,
            group_ttl_ms: server.group_ttl_ms,
            store_bytes: server.store_bytes,
            disk_free_bytes: server.disk_free_bytes,
            open_files: server.open_files,
            open_files_soft: server.open_files_soft,
            open_files_hard: server.open_files_hard,
            clients: server.clients,
            groups: server.groups,
            tasks: server.tasks,
            results: server.results,
            statuses: server.statuses,
            in_flight: server.in_flight,
            lag: server.lag,
            dead: server.dead,
            refuses: (!server.refuses.is_empty()).then_some(server.refuses),
        }
    }
}

impl Server {
    fn properties(&self, out: &Out) -> Vec<(&'static str, String)> {
        let unknown = || "not known".to_owned();
        let limit = |files: Option<u64>| files.map_or("no limit".into(), |files| HumanCount(files).to_string());
        let retain_bytes = self.retain_bytes.map_or(String::new(), |most| format!(", at most {}", BinaryBytes(most)));
        vec![
            ("version", self.version.clone()),
            ("started", out.times.both(self.started_at)),
            ("its clock", self.now.exact()),
            ("clients at", format!("{}{}", self.listen, if self.tls { ", by TLS" } else { "" })),
            ("operators at", self.control.clone()),
            ("takes tasks", self.refuses.as_ref().map_or("yes".into(), |why| format!("no: {why}"))),
            ("clients", format!("{}, {}", HumanCount(self.clients.into()), count(self.groups.into(), "group"))),
            ("tasks", format!("{} accepted", HumanCount(self.tasks))),
            ("unsettled", self.lag.map_or_else(unknown, |lag| HumanCount(lag).to_string())),
            ("in flight", HumanCount(self.in_flight).to_string()),
            ("dead letters", self.dead.map_or_else(unknown, |dead| HumanCount(dead).to_string())),
            ("results", HumanCount(self.results).to_string()),
            ("statuses", HumanCount(self.statuses).to_string()),
            ("data", self.data.clone()),
            ("store", BinaryBytes(self.store_bytes).to_string()),
            ("disk free", self.disk_free_bytes.map_or_else(unknown, |free| BinaryBytes(free).to_string())),
            (
                "open files",
                format!(
                    "{} of {} (hard limit: {})",
                    self.open_files.map_or_else(unknown, |open| HumanCount(open).to_string()),
                    limit(self.open_files_soft),
                    limit(self.open_files_hard)
                ),
            ),
            ("ack timeout", span(Duration::from_millis(self.ack_timeout_ms))),
            ("max attempts", self.max_attempts.to_string()),
            ("max deliveries", self.max_deliveries.to_string()),
            ("retry", self.retry.clone()),
            ("longest task", BinaryBytes(self.max_task).to_string()),
            ("retains", format!("{}{retain_bytes}", span(Duration::from_millis(self.retain_ms)))),
            ("group ttl", span(Duration::from_millis(self.group_ttl_ms))),
        ]
    }
}

/// Prints it.
pub(super) fn run(link: &Link, mut out: Out) -> Result<(), Error> {
    let request = pb::GetServerRequest { counted: true, ..Default::default() };
    let server = Server::from(link.wait(link.client.get_server(&request, Link::answer_soon()))?);
    if out.json {
        return Ok(out.object(&server, "")?);
    }
    let properties = server.properties(&out);
    Ok(out.properties(&properties)?)
}

/// Whether the server serves.
#[derive(Serialize)]
struct Health {
    status: String,
}

/// Says whether the server takes tasks and gives them out; an error if it does not.
pub(super) fn health(link: &Link, mut out: Out) -> Result<(), Error> {
    let request = HealthCheckRequest::default();
    let status = link.wait(link.health.check(&request, Link::answer_soon()))?.status;
    let health = Health { status: enum_name(status) };
    if status != ServingStatus::SERVING.into() {
        return Err(Error::Unwell(format!("the server is {}; contactctl doctor says why", health.status)));
    }
    Ok(out.object(&health, "the server is SERVING")?)
}
