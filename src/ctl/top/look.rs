//! One look at a server.

use std::collections::HashMap;
use std::time::Duration;

use futures::future;
use grpcio::CallOption;
use serde::Serialize;

use crate::ctl::Error;
use crate::ctl::finding::{self, Finding};
use crate::ctl::link::Link;
use crate::ctl::moment::Times;
use crate::ctl::rows;
use crate::ctl::server::Server;
use crate::ctl::table::{Column, Row};
use crate::task::Time;
use crate::wire::control as pb;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Outcomes that are shown...
const OUTCOMES: u32 = 20;
/// ...or looked through for what came of the tasks that are shown.
const OUTCOMES_OF_TASKS: u32 = 500;
const TASKS: u32 = 200;

/// What the table shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Groups,
    Clients,
    Tasks,
    Dead,
}

/// What was seen.
pub(super) struct Look {
    /// On our clock.
    pub(super) at: Time,
    /// `None`: it is older than this question.
    pub(super) server: Option<pb::Server>,
    pub(super) groups: Vec<pb::Group>,
    /// The latest, oldest first.
    pub(super) results: Vec<pb::TaskResult>,
    /// Only where they are looked for.
    pub(super) clients: Vec<pb::Client>,
    /// Only where they are looked for.
    pub(super) tasks: Vec<pb::Task>,
    /// Dead letters, oldest first. Only where they are looked for.
    pub(super) dead: Vec<pb::TaskResult>,
    /// The task that is open, with all that came of it; or why there is none.
    pub(super) ledger: Option<Result<pb::TaskLedger, String>>,
    /// What is not well, the worst first.
    pub(super) findings: Vec<Finding>,
}

/// A look, as one object.
#[derive(Serialize)]
pub(super) struct Summary {
    server: Option<Server>,
    groups: Vec<rows::Group>,
    results: Vec<rows::TaskResult>,
    attention: Vec<Finding>,
}

/// How a call is made for a screen that wants to go on.
pub(super) fn soon() -> CallOption {
    CallOption::default().timeout(ANSWER)
}

/// Looks at what `view` shows, and at the task that is open.
pub(super) async fn look(link: &Link, view: View, open: Option<u64>) -> Result<Look, Error> {
    let server = async {
        match link.answer(link.client.get_server(&pb::GetServerRequest::new(), soon())).await {
            Err(Error::Unimplemented { .. }) => Ok(None),
            answer => answer.map(Some),
        }
    };
    let groups = link.answer(link.client.list_groups(&pb::ListGroupsRequest::new(), soon()));
    let latest = |latest| pb::ListRequest { latest, ..Default::default() };
    let outcomes = if view == View::Tasks { OUTCOMES_OF_TASKS } else { OUTCOMES };
    let results = link.pages(link.client.list_results(&latest(outcomes), soon()));
    let clients = async {
        match view {
            View::Clients => {
                let all = link.answer(link.client.list_clients(&pb::ListClientsRequest::new(), soon()));
                Ok(all.await?.clients)
            }
            _ => Ok(Vec::new()),
        }
    };
    let tasks = async {
        match view {
            View::Tasks => link.pages(link.client.list_tasks(&latest(TASKS), soon())).await,
            _ => Ok(Vec::new()),
        }
    };
    let dead = async {
        match view {
            View::Dead => {
                let list = Some(latest(TASKS)).into();
                let request = pb::ListDeadRequest { list, ..Default::default() };
                link.pages(link.client.list_dead(&request, soon())).await
            }
            _ => Ok(Vec::new()),
        }
    };
    let ledger = async {
        let Some(id) = open else { return Ok(None) };
        let request = pb::DescribeTaskRequest { id, limit: TASKS, ..Default::default() };
        match link.answer(link.client.describe_task(&request, soon())).await {
            Ok(ledger) => Ok(Some(Ok(ledger))),
            Err(Error::Refused(why)) => Ok(Some(Err(why))),
            Err(e) => Err(e),
        }
    };
    let of_view = future::try_join3(clients, tasks, dead);
    let (server, groups, results, (clients, tasks, dead), ledger) =
        future::try_join5(server, groups, results, of_view, ledger).await?;
    let at = Time::now();
    let findings = server.as_ref().map(|server| finding::attention(server, &groups.findings)).unwrap_or_default();
    let results = results.into_iter().flat_map(|page: pb::ResultPage| page.results).collect();
    let tasks = tasks.into_iter().flat_map(|page: pb::TaskPage| page.tasks).collect();
    let dead = dead.into_iter().flat_map(|page: pb::ResultPage| page.results).collect();
    Ok(Look { at, server, groups: groups.groups, results, clients, tasks, dead, ledger, findings })
}

impl Look {
    pub(super) fn summary(self) -> Summary {
        Summary {
            server: self.server.map(Server::from),
            groups: self.groups.into_iter().map(rows::Group::from).collect(),
            results: self.results.into_iter().map(rows::TaskResult::from).collect(),
            attention: self.findings,
        }
    }

    /// The tasks, each with what came of it last.
    pub(super) fn recent(&self) -> Vec<Recent> {
        let last: HashMap<u64, &pb::TaskResult> = self.results.iter().map(|result| (result.task_id, result)).collect();
        let recent = self.tasks.iter().map(|task| Recent {
            outcome: last.get(&task.id).map_or(String::new(), |&result| rows::enum_name(result.outcome)),
            task: rows::Task::from(task.clone()),
        });
        recent.collect()
    }
}

/// A task, and what came of it last.
#[derive(Serialize)]
pub(super) struct Recent {
    #[serde(flatten)]
    pub(super) task: rows::Task,
    outcome: String,
}

impl Row for Recent {
    const COLUMNS: &'static [Column] = &[
        Column::Number("ID"),
        Column::Word("ACCEPTED"),
        Column::Name("TO"),
        Column::Word("OUTCOME"),
        Column::Text("TASK"),
    ];
    fn cells(&self, times: Times) -> Vec<String> {
        let mut cells = self.task.cells(times);
        cells.insert(3, rows::or_dash(&self.outcome));
        cells
    }
}
