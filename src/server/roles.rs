//! Which role a call, or a request over HTTP, needs: one table for both.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// What somebody is let in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    /// Takes tasks, and says what came of them.
    Agent,
    /// Submits tasks.
    Submit,
    /// Sees everything, and changes nothing.
    Read,
    /// Does and sees everything.
    Operator,
}

impl Role {
    pub(super) const ALL: [Role; 4] = [Role::Agent, Role::Submit, Role::Read, Role::Operator];

    pub(super) fn named(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == name)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Role::Agent => "agent",
            Role::Submit => "submit",
            Role::Read => "read",
            Role::Operator => "operator",
        }
    }

    /// Whether it may do what needs the other one.
    pub(super) fn includes(self, needed: Role) -> bool {
        self == needed || self == Role::Operator
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One line of the table.
#[derive(Debug)]
pub(super) struct Row {
    /// The path of a method of gRPC, or the method of HTTP and the path of a route.
    pub(super) name: &'static str,
    /// The role that it needs. `None`: it is for everyone, also for those who do not say who they are.
    pub(super) needs: Option<Role>,
    /// Whether the log says who did it. Submitting is not here: it says so itself, with the tasks.
    pub(super) recorded: bool,
}

const fn open(name: &'static str) -> Row {
    Row { name, needs: None, recorded: false }
}

const fn needs(name: &'static str, role: Role) -> Row {
    Row { name, needs: Some(role), recorded: false }
}

const fn changes(name: &'static str) -> Row {
    Row { name, needs: Some(Role::Operator), recorded: true }
}

use Role::{Agent, Read, Submit};

static ROWS: &[Row] = &[
    needs("/Contact/sendStatus", Agent),
    needs("/Contact/getTask", Agent),
    needs("/Contact/tellResult", Agent),
    needs("/contact.control.v1.Control/Submit", Submit),
    needs("/contact.control.v1.Control/SubmitStream", Submit),
    needs("/contact.control.v1.Control/ListTasks", Read),
    needs("/contact.control.v1.Control/FindTasks", Read),
    needs("/contact.control.v1.Control/ListResults", Read),
    needs("/contact.control.v1.Control/ListStatuses", Read),
    needs("/contact.control.v1.Control/ListClients", Read),
    needs("/contact.control.v1.Control/DescribeTask", Read),
    needs("/contact.control.v1.Control/GetData", Read),
    needs("/contact.control.v1.Control/ListGroups", Read),
    needs("/contact.control.v1.Control/ListDead", Read),
    needs("/contact.control.v1.Control/GetServer", Read),
    needs("/contact.control.v1.Control/ListServers", Read),
    needs("/contact.control.v1.Control/CreateLogin", Read),
    needs("/contact.control.v1.Control/WatchTask", Read),
    needs("/contact.control.v1.Control/WatchOutput", Read),
    needs("/contact.control.v1.Control/GetRun", Read),
    needs("/contact.control.v1.Control/ListRuns", Read),
    needs("/contact.control.v1.Control/WatchRun", Read),
    // It says so itself, without the text.
    needs("/contact.control.v1.Control/BeginRun", Role::Operator),
    changes("/contact.control.v1.Control/ChangeRun"),
    changes("/contact.control.v1.Control/CancelRun"),
    changes("/contact.control.v1.Control/RetryFailed"),
    needs("/contact.control.v1.Control/ListSchedules", Read),
    needs("/contact.control.v1.Control/GetSchedule", Read),
    // It says so itself, without the text.
    needs("/contact.control.v1.Control/SetSchedule", Role::Operator),
    changes("/contact.control.v1.Control/ChangeSchedule"),
    changes("/contact.control.v1.Control/RunSchedule"),
    changes("/contact.control.v1.Control/RemoveSchedule"),
    changes("/contact.control.v1.Control/DropDead"),
    changes("/contact.control.v1.Control/CancelTask"),
    changes("/contact.control.v1.Control/RetryTask"),
    changes("/contact.control.v1.Control/PauseGroup"),
    changes("/contact.control.v1.Control/DrainClient"),
    changes("/contact.control.v1.Control/UndrainClient"),
    changes("/contact.control.v1.Control/SetGroupRetry"),
    changes("/contact.control.v1.Control/SetGroupLimits"),
    changes("/contact.control.v1.Control/RemoveGroup"),
    changes("/contact.control.v1.Control/AcceptClock"),
    changes("/contact.control.v1.Control/Backup"),
    changes("/contact.control.v1.Control/AddDialled"),
    needs("/contact.control.v1.Control/ListDialled", Read),
    changes("/contact.control.v1.Control/RemoveDialled"),
    needs("/contact.control.v1.Control/ListIdentities", Read),
    needs("/contact.control.v1.Control/DescribeIdentity", Read),
    changes("/contact.control.v1.Control/ChangeIdentity"),
    changes("/contact.control.v1.Control/Invite"),
    changes("/contact.control.v1.Control/IssueCertificate"),
    changes("/contact.control.v1.Control/RevokeIdentity"),
    changes("/contact.control.v1.Control/CreateToken"),
    changes("/contact.control.v1.Control/RevokeToken"),
    needs("/contact.control.v1.Control/ListTokens", Role::Operator),
    // What load balancers and tools ask before they know anybody. It says nothing of tasks and clients.
    open("/grpc.health.v1.Health/Check"),
    open("/grpc.health.v1.Health/List"),
    open("/grpc.health.v1.Health/Watch"),
    open("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
    open("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
    open("GET /healthz"),
    open("GET /readyz"),
    // The files of the page are in every binary. What they show is asked for below.
    open("GET /assets/{*name}"),
    open("GET /login"),
    needs("GET /", Read),
    needs("GET /metrics", Read),
    needs("GET /api/events", Read),
    needs("GET /api/state", Read),
    needs("GET /api/tasks", Read),
    needs("GET /api/tasks/{id}", Read),
    needs("GET /api/tasks/{id}/output", Read),
    needs("GET /api/tasks/{id}/data", Read),
    needs("GET /api/results/{id}/data", Read),
    needs("GET /api/dead", Read),
    needs("GET /api/clients", Read),
    needs("GET /api/dialled", Read),
    needs("GET /api/servers", Read),
    needs("GET /api/groups", Read),
    needs("GET /api/runs", Read),
    needs("GET /api/runs/{id}", Read),
    needs("GET /api/schedules", Read),
    needs("POST /api/tasks", Submit),
    needs("POST /api/runs", Role::Operator),
    changes("POST /api/runs/{id}/pause"),
    changes("POST /api/runs/{id}/resume"),
    changes("POST /api/runs/{id}/abort"),
    changes("POST /api/runs/{id}/cancel"),
    changes("POST /api/runs/{id}/retry"),
    changes("POST /api/schedules"),
    changes("POST /api/schedules/pause"),
    changes("POST /api/schedules/run"),
    changes("POST /api/schedules/remove"),
    changes("POST /api/tasks/{id}/cancel"),
    changes("POST /api/tasks/{id}/retry"),
    changes("POST /api/tasks/{id}/drop"),
    changes("POST /api/clients/drain"),
    changes("POST /api/clients/undrain"),
    changes("POST /api/dialled/add"),
    changes("POST /api/dialled/remove"),
    changes("POST /api/groups/pause"),
    changes("POST /api/groups/retry"),
    changes("POST /api/groups/limits"),
    changes("POST /api/groups/remove"),
];

/// What has no row, which a test says: only operators do it.
static MISSING: Row = Row { name: "something else", needs: Some(Role::Operator), recorded: true };

/// The row of a method, or of a route.
pub(super) fn row(name: &str) -> &'static Row {
    static BY_NAME: LazyLock<HashMap<&str, &Row>> = LazyLock::new(|| ROWS.iter().map(|row| (row.name, row)).collect());
    BY_NAME.get(name).copied().unwrap_or(&MISSING)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;
    use crate::server::reflection::OF_WORKERS;
    use crate::wire;

    fn methods() -> BTreeSet<String> {
        let files = [
            wire::contact::file_descriptor(),
            wire::control::file_descriptor(),
            wire::grpc_health_v1::health::file_descriptor(),
            wire::grpc_reflection_v1::reflection::file_descriptor(),
            wire::grpc_reflection_v1alpha::reflection::file_descriptor(),
        ];
        let mut all = BTreeSet::new();
        for file in files {
            let served = file.proto().service.iter().filter(|service| service.name() != OF_WORKERS);
            for service in served {
                let full = format!("{}.{}", file.package(), service.name());
                let service_name = full.trim_start_matches('.');
                all.extend(service.method.iter().map(|method| format!("/{service_name}/{}", method.name())));
            }
        }
        all
    }

    /// As the sources name them: `.route("/path", get(one).post(other))`.
    fn routes() -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/http")).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for route in text.split(".route(\"").skip(1) {
                let (path, handlers) = route.split_once('"').unwrap();
                let handlers = handlers.lines().next().unwrap();
                for (word, method) in [("get(", "GET"), ("post(", "POST"), ("put(", "PUT"), ("delete(", "DELETE")] {
                    if handlers.contains(word) {
                        all.insert(format!("{method} {path}"));
                    }
                }
            }
        }
        all
    }

    #[test]
    fn every_method_and_every_route_has_a_row_and_every_row_something_to_stand_for() {
        let there: BTreeSet<String> = methods().into_iter().chain(routes()).collect();
        let rows: BTreeSet<String> = ROWS.iter().map(|row| row.name.to_owned()).collect();
        assert_eq!(rows, there);
        assert_eq!(rows.len(), ROWS.len(), "no name twice");
        assert!(methods().len() > 30 && routes().len() > 15);
    }

    #[test]
    fn what_has_no_row_is_for_operators() {
        assert_eq!(row("/contact.control.v1.Control/Unknown").needs, Some(Role::Operator));
        let may = |role: Role, name| row(name).needs.is_none_or(|needed| role.includes(needed));
        assert!(may(Role::Operator, "/Contact/getTask") && may(Role::Read, "GET /api/tasks"));
        assert!(!may(Role::Read, "POST /api/tasks") && !may(Role::Agent, "GET /api/tasks"));
        assert!(!may(Role::Submit, "/contact.control.v1.Control/CancelTask"));
    }
}
