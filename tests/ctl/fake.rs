//! A control service that remembers what it was asked, and answers from what the test put into it.

use std::sync::{Arc, Mutex, MutexGuard};

use contact::codec::{First, Requests, all_calls};
use contact::wire::control as pb;
use contact::wire::control_grpc::{Control, create_control};
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use grpcio::{
    ClientStreamingSink, DuplexSink, EnvBuilder, RpcContext, RpcStatus, RpcStatusCode, Server, ServerBuilder,
    ServerCredentials, WriteFlags,
};

/// How many rows the fake puts on a page.
const PAGE: usize = 3;

#[derive(Default)]
pub struct State {
    /// The log: what is listed, and what submissions are added to. A text with "refuse" in it is refused.
    pub tasks: Vec<pb::Task>,
    pub results: Vec<pb::TaskResult>,
    pub statuses: Vec<pb::Status>,
    pub clients: Vec<pb::Client>,
    pub groups: Vec<pb::Group>,
    pub server: pb::Server,
    pub findings: Vec<pb::Finding>,
    pub ledger: pb::TaskLedger,
    /// Everything that was asked, but submissions.
    pub asked: Vec<String>,
    pub submitted: Vec<pb::SubmitRequest>,
    /// Answer so many requests of a submission, and leave so many without answer before breaking it off.
    pub break_off: Option<(usize, usize)>,
    /// Answer a request of a submission when this says so.
    pub answers: Option<mpsc::UnboundedReceiver<()>>,
    /// What a followed list of tasks goes on with, once.
    pub more: Option<mpsc::UnboundedReceiver<pb::TaskPage>>,
    /// Keep nothing of what is submitted, only count.
    pub forgetful: bool,
    pub counted: u64,
    /// Fill `ids`, and give every second one.
    pub scattered: bool,
}

/// What a server finds of a group.
pub fn found(code: pb::finding::Code, group: &str) -> pb::Finding {
    let severity = pb::finding::Severity::WARNING.into();
    pb::Finding { code: code.into(), severity, group: group.into(), ..Default::default() }
}

#[derive(Clone, Default)]
struct Service(Arc<Mutex<State>>);

pub struct Fake {
    service: Service,
    server: Option<Server>,
    pub address: String,
}

impl Fake {
    pub fn new() -> Fake {
        let service = Service::default();
        // Where no client ever came, that is remarked upon.
        service.state().server.clients = 1;
        Fake::serve(service.clone(), |builder| builder.register_service(create_control(service.clone(), &all_calls())))
    }

    /// A gRPC server that has never heard of the control service.
    pub fn stranger() -> Fake {
        Fake::serve(Service::default(), |builder| builder)
    }

    fn serve(service: Service, register: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Fake {
        let env = Arc::new(EnvBuilder::new().cq_count(1).build());
        let mut server = register(ServerBuilder::new(env)).build().unwrap();
        let port = server.add_listening_port("127.0.0.1:0", ServerCredentials::insecure()).unwrap();
        server.start();
        Fake { service, server: Some(server), address: format!("127.0.0.1:{port}") }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.service.state()
    }

    /// Gone at once, calls and all.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let stopped = server.shutdown();
            server.cancel_all_calls();
            futures::executor::block_on(stopped).unwrap();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Ends a call with what `answer` makes of its request.
    fn unary<Q: Send + 'static, T: Send + 'static>(
        &self,
        ctx: &RpcContext<'_>,
        mut request: First<Q>,
        sink: ClientStreamingSink<T>,
        answer: impl FnOnce(&mut State, Q) -> Result<T, RpcStatus> + Send + 'static,
    ) {
        let service = self.clone();
        ctx.spawn(async move {
            let Ok(Ok(request)) = request.read().await else { return };
            let answer = answer(&mut service.state(), request);
            let _ = match answer {
                Ok(answer) => sink.success(answer).await,
                Err(status) => sink.fail(status).await,
            };
        });
    }

    /// Streams the pages that `pages` makes of a call's request.
    fn pages<Q: Send + 'static, T: Send + 'static>(
        &self,
        ctx: &RpcContext<'_>,
        mut request: First<Q>,
        mut sink: DuplexSink<T>,
        pages: impl FnOnce(&mut State, Q) -> Vec<T> + Send + 'static,
    ) {
        let service = self.clone();
        ctx.spawn(async move {
            let Ok(Ok(asked)) = request.read().await else { return };
            let pages = pages(&mut service.state(), asked);
            for page in pages {
                if sink.send((page, WriteFlags::default())).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        });
    }
}

impl State {
    fn accept(&mut self, request: pb::SubmitRequest) -> pb::SubmitResponse {
        if self.forgetful {
            let count = request.tasks.len() as u32;
            let first_id = self.counted + 1;
            self.counted += u64::from(count);
            return pb::SubmitResponse { first_id, count, ..Default::default() };
        }
        let mut answer = pb::SubmitResponse::new();
        for (index, task) in request.tasks.iter().enumerate() {
            if task.task.contains("refuse") {
                let reason = format!("no, not \"{}\"", task.task);
                let cause = if task.key.is_empty() { "" } else { "KEY_REUSED" }.into();
                answer.refused.push(pb::Refusal { index: index as u32, reason, cause, ..Default::default() });
                continue;
            }
            if let Some(known) = self.tasks.iter().find(|known| !task.key.is_empty() && known.key == task.key) {
                answer.ids.push(known.id);
                answer.first_id = answer.ids[0];
                answer.known.push(index as u32);
                continue;
            }
            let id = self.tasks.len() as u64 + 1;
            let (text, to, key) = (task.task.clone(), task.to.clone(), task.key.clone());
            self.tasks.push(pb::Task { id, task: text, to, key, ..Default::default() });
            if answer.count == 0 {
                answer.first_id = id;
            }
            answer.count += 1;
            if self.scattered {
                answer.ids.push(2 * id);
                answer.first_id = answer.ids[0];
            }
        }
        self.submitted.push(request);
        answer
    }

    /// Notes what was asked.
    fn answer<T>(&mut self, asked: impl Into<String>, answer: T) -> Result<T, RpcStatus> {
        self.asked.push(asked.into());
        Ok(answer)
    }

    /// The same, about a task, if it is one that the fake knows.
    fn about_task<T>(&mut self, asked: String, id: u64, answer: T) -> Result<T, RpcStatus> {
        self.asked.push(asked);
        match id {
            404 => Err(RpcStatus::with_message(RpcStatusCode::NOT_FOUND, "there is no task 404".into())),
            _ => Ok(answer),
        }
    }
}

/// The rows of a log that a request asks for.
fn select<T: Clone>(rows: &[T], list: &pb::ListRequest) -> Vec<T> {
    let from = match list.latest {
        0 => list.after as usize,
        latest => rows.len().saturating_sub(latest as usize),
    };
    let limit = if list.limit == 0 { usize::MAX } else { list.limit as usize };
    rows.iter().skip(from).take(limit).cloned().collect()
}

fn describe(what: &str, list: &pb::ListRequest) -> String {
    format!("{what} after {} limit {} latest {} follow {}", list.after, list.limit, list.latest, list.follow)
}

fn result_pages(results: &[pb::TaskResult]) -> Vec<pb::ResultPage> {
    results.chunks(PAGE).map(|page| pb::ResultPage { results: page.to_vec(), ..Default::default() }).collect()
}

impl Control for Service {
    fn submit(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::SubmitRequest>,
        sink: ClientStreamingSink<pb::SubmitResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| Ok(state.accept(request)));
    }

    fn submit_stream(
        &mut self,
        ctx: RpcContext<'_>,
        mut requests: Requests<pb::SubmitRequest>,
        mut sink: DuplexSink<pb::SubmitResponse>,
    ) {
        let service = self.clone();
        let break_off = self.state().break_off;
        let mut answers = self.state().answers.take();
        ctx.spawn(async move {
            let mut seen = 0;
            while let Some(Ok(request)) = requests.next().await {
                seen += 1;
                match break_off {
                    Some((answered, unanswered)) if seen > answered => {
                        service.state().submitted.push(request.unwrap());
                        if seen == answered + unanswered {
                            let status = RpcStatus::with_message(RpcStatusCode::UNAVAILABLE, "stopping".into());
                            let _ = sink.fail(status).await;
                            return;
                        }
                    }
                    _ => {
                        let answer = service.state().accept(request.unwrap());
                        if let Some(answers) = &mut answers {
                            answers.next().await;
                        }
                        if sink.send((answer, WriteFlags::default())).await.is_err() {
                            return;
                        }
                    }
                }
            }
            let _ = sink.close().await;
        });
    }

    // Data and runs are tried against the real server.

    fn get_data(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::GetDataRequest>,
        sink: ClientStreamingSink<pb::Data>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn begin_run(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::BeginRunRequest>,
        sink: ClientStreamingSink<pb::BegunRun>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn get_run(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::GetRunRequest>,
        sink: ClientStreamingSink<pb::RunDetails>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn list_runs(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::ListRunsRequest>,
        sink: ClientStreamingSink<pb::ListRunsResponse>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn change_run(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::ChangeRunRequest>,
        sink: ClientStreamingSink<pb::Run>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn cancel_run(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::CancelRunRequest>,
        sink: ClientStreamingSink<pb::Run>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn retry_failed(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::RetryFailedRequest>,
        sink: ClientStreamingSink<pb::BegunRun>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn watch_task(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::WatchTaskRequest>,
        sink: DuplexSink<pb::TaskNews>,
    ) {
        self.pages(&ctx, request, sink, |_, _| Vec::new());
    }

    fn watch_run(&mut self, ctx: RpcContext<'_>, request: First<pb::WatchRunRequest>, sink: DuplexSink<pb::RunNews>) {
        self.pages(&ctx, request, sink, |_, _| Vec::new());
    }

    fn watch_output(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::WatchOutputRequest>,
        sink: DuplexSink<pb::TaskOutput>,
    ) {
        self.pages(&ctx, request, sink, |_, _| Vec::new());
    }

    /// As a server answers that is older than this call.
    fn find_tasks(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::FindTasksRequest>,
        sink: ClientStreamingSink<pb::FoundTasks>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn list_tasks(
        &mut self,
        ctx: RpcContext<'_>,
        mut request: First<pb::ListRequest>,
        mut sink: DuplexSink<pb::TaskPage>,
    ) {
        let service = self.clone();
        ctx.spawn(async move {
            let Ok(Ok(asked)) = request.read().await else { return };
            let (tasks, mut more) = {
                let mut state = service.state();
                state.asked.push(describe("tasks", &asked));
                (select(&state.tasks, &asked), state.more.take().filter(|_| asked.follow))
            };
            let pages = tasks.chunks(PAGE).map(|page| pb::TaskPage { tasks: page.to_vec(), ..Default::default() });
            for page in pages.collect::<Vec<_>>() {
                if sink.send((page, WriteFlags::default())).await.is_err() {
                    return;
                }
            }
            while let Some(more) = more.as_mut()
                && let Some(page) = more.next().await
            {
                if sink.send((page, WriteFlags::default())).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        });
    }

    fn list_results(&mut self, ctx: RpcContext<'_>, request: First<pb::ListRequest>, sink: DuplexSink<pb::ResultPage>) {
        self.pages(&ctx, request, sink, |state, request| {
            state.asked.push(describe("results", &request));
            result_pages(&select(&state.results, &request))
        });
    }

    fn list_statuses(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::ListRequest>,
        sink: DuplexSink<pb::StatusPage>,
    ) {
        self.pages(&ctx, request, sink, |state, request| {
            state.asked.push(describe("statuses", &request));
            let statuses = select(&state.statuses, &request);
            let page = |page: &[pb::Status]| pb::StatusPage { statuses: page.to_vec(), ..Default::default() };
            statuses.chunks(PAGE).map(page).collect()
        });
    }

    fn list_dead(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::ListDeadRequest>,
        sink: DuplexSink<pb::ResultPage>,
    ) {
        self.pages(&ctx, request, sink, |state, request| {
            state.asked.push(describe(&format!("dead of {:?}", request.group), &request.list));
            result_pages(&select(&state.results, &request.list))
        });
    }

    fn list_clients(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::ListClientsRequest>,
        sink: ClientStreamingSink<pb::ListClientsResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, _| {
            let clients = state.clients.clone();
            state.answer("clients", pb::ListClientsResponse { clients, ..Default::default() })
        });
    }

    fn describe_task(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::DescribeTaskRequest>,
        sink: ClientStreamingSink<pb::TaskLedger>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            let answer = state.ledger.clone();
            state.about_task(format!("task {}", request.id), request.id, answer)
        });
    }

    fn list_groups(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::ListGroupsRequest>,
        sink: ClientStreamingSink<pb::ListGroupsResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, _| {
            let (groups, findings) = (state.groups.clone(), state.findings.clone());
            state.answer("groups", pb::ListGroupsResponse { groups, findings, ..Default::default() })
        });
    }

    fn cancel_task(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::CancelTaskRequest>,
        sink: ClientStreamingSink<pb::CancelTaskResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            let id = request.id;
            // One that is not waited for, one that was cancelled before, one that clients are at work on, and all others.
            let (groups, already, told, untold) = match id {
                7 => (0, false, 0, 0),
                8 => (0, true, 0, 0),
                9 => (4, false, 1, 2),
                _ => (2, false, 0, 0),
            };
            let answer = pb::CancelTaskResponse { groups, already, told, untold, ..Default::default() };
            state.about_task(format!("cancel {id}"), id, answer)
        });
    }

    fn drop_dead(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::DropDeadRequest>,
        sink: ClientStreamingSink<pb::DropDeadResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            let asked = format!("drop {} of {:?}", request.id, request.group);
            state.about_task(asked, request.id, pb::DropDeadResponse::new())
        });
    }

    fn retry_task(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::RetryTaskRequest>,
        sink: ClientStreamingSink<pb::RetryTaskResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            let answer = pb::RetryTaskResponse { groups: 1, ..Default::default() };
            state.about_task(format!("retry {} for {:?}", request.id, request.group), request.id, answer)
        });
    }

    fn pause_group(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::PauseGroupRequest>,
        sink: ClientStreamingSink<pb::PauseGroupResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            state.answer(format!("pause {} {}", request.group, request.paused), pb::PauseGroupResponse::new())
        });
    }

    fn drain_client(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::DrainClientRequest>,
        sink: ClientStreamingSink<pb::DrainClientResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            let asked = format!("drain {} for {} because {:?}", request.client, request.for_ms, request.note);
            let clients = state.clients.iter().filter(|client| client.client == request.client).cloned().collect();
            state.answer(asked, pb::DrainClientResponse { clients, ..Default::default() })
        });
    }

    fn undrain_client(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::UndrainClientRequest>,
        sink: ClientStreamingSink<pb::UndrainClientResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            let clients = state.clients.iter().filter(|client| client.client == request.client).cloned().collect();
            let was_drained = request.client != "never";
            let answer = pb::UndrainClientResponse { clients, was_drained, ..Default::default() };
            state.answer(format!("undrain {}", request.client), answer)
        });
    }

    fn set_group_retry(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::SetGroupRetryRequest>,
        sink: ClientStreamingSink<pb::SetGroupRetryResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            let asked = format!("retry of {} {:?}", request.group, request.retry);
            state.answer(asked, pb::SetGroupRetryResponse { retry: request.retry, ..Default::default() })
        });
    }

    fn set_group_limits(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::SetGroupLimitsRequest>,
        sink: ClientStreamingSink<pb::SetGroupLimitsResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            let pb::SetGroupLimitsRequest {
                group,
                max_in_flight,
                max_begun_per_second: rate,
                lane_max,
                lane_on_dead,
                ..
            } = request;
            let asked = format!("limits of {group} {max_in_flight:?} {rate:?} {lane_max:?} {lane_on_dead:?}");
            let limits = pb::GroupLimits {
                max_in_flight: max_in_flight.unwrap_or(7),
                max_begun_per_second: rate.unwrap_or(0.0),
                lane_max: lane_max.unwrap_or(1),
                lane_on_dead: lane_on_dead.unwrap_or_default(),
                ..Default::default()
            };
            state.answer(asked, pb::SetGroupLimitsResponse { limits: Some(limits).into(), ..Default::default() })
        });
    }

    fn create_token(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::CreateTokenRequest>,
        sink: ClientStreamingSink<pb::CreateTokenResponse>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn list_tokens(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::ListTokensRequest>,
        sink: ClientStreamingSink<pb::ListTokensResponse>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn revoke_token(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::RevokeTokenRequest>,
        sink: ClientStreamingSink<pb::RevokeTokenResponse>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn add_dialled(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::AddDialledRequest>,
        sink: ClientStreamingSink<pb::AddDialledResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            let asked = format!("dial {} for {:?} as {:?}", request.address, request.group, request.client);
            state.answer(asked, pb::AddDialledResponse { is_new: request.group != "old", ..Default::default() })
        });
    }

    fn list_dialled(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::ListDialledRequest>,
        sink: ClientStreamingSink<pb::ListDialledResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, _| {
            let one = |address: &str| pb::Dialled { address: address.into(), since: 1, ..Default::default() };
            let up = pb::Dialled { connected_since: 2, connected_as: "w".into(), ..one("10.0.0.7:1") };
            let down = pb::Dialled { trouble: "refused\u{1b}".into(), trouble_since: 3, ..one("10.0.0.8:1") };
            let dialled = vec![up, down, one("10.0.0.9:1")];
            state.answer("dialled", pb::ListDialledResponse { dialled, ..Default::default() })
        });
    }

    fn list_servers(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::ListServersRequest>,
        sink: ClientStreamingSink<pb::ListServersResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, _| {
            use pb::cluster_server::Role;

            let one = |name: &str, role: Role| pb::ClusterServer {
                name: name.into(),
                role: role.into(),
                version: "1.2.3".into(),
                heard_at: 1,
                ..Default::default()
            };
            let leads = pb::ClusterServer { epoch: 7, clients: 3, answers: true, ..one("a:1", Role::LEADING) };
            let away =
                pb::ClusterServer { silent: true, lag: 9, clock_ahead_ms: -5, ..one("b\u{1b}:1", Role::FOLLOWING) };
            let replica = |name: &str| pb::LogReplica { name: name.into(), current: true, ..Default::default() };
            let log = pb::ClusterLog {
                stream: "CONTACT_main".into(),
                replicas: vec![
                    pb::LogReplica { leads: true, ..replica("n0") },
                    pb::LogReplica { current: false, offline: true, lag: 4, ..replica("n1") },
                ],
                messages: 8,
                bytes: 2048,
                first: 3,
                last: 10,
                trouble: vec!["discard is Old".into()],
                ..Default::default()
            };
            let (servers, log) = (vec![leads, away], Some(log).into());
            let answer = pb::ListServersResponse { cluster: "main".into(), servers, log, ..Default::default() };
            state.answer("servers", answer)
        });
    }

    fn remove_dialled(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::RemoveDialledRequest>,
        sink: ClientStreamingSink<pb::RemoveDialledResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            state.answer(format!("undial {}", request.address), pb::RemoveDialledResponse::new())
        });
    }

    fn set_schedule(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::SetScheduleRequest>,
        sink: ClientStreamingSink<pb::SetScheduleResponse>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn list_schedules(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::ListSchedulesRequest>,
        sink: ClientStreamingSink<pb::ListSchedulesResponse>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn get_schedule(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::GetScheduleRequest>,
        sink: ClientStreamingSink<pb::Schedule>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn change_schedule(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::ChangeScheduleRequest>,
        sink: ClientStreamingSink<pb::Schedule>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn run_schedule(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::RunScheduleRequest>,
        sink: ClientStreamingSink<pb::RunScheduleResponse>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn remove_schedule(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::RemoveScheduleRequest>,
        sink: ClientStreamingSink<pb::RemoveScheduleResponse>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn create_login(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::CreateLoginRequest>,
        sink: ClientStreamingSink<pb::CreateLoginResponse>,
    ) {
        self.unary(&ctx, request, sink, |_, _| Err(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)));
    }

    fn invite(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::InviteRequest>,
        sink: ClientStreamingSink<pb::InviteResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            state.answer(format!("invite {} {}", request.group, request.uses), pb::InviteResponse::new())
        });
    }

    fn issue_certificate(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::IssueCertificateRequest>,
        sink: ClientStreamingSink<pb::IssueCertificateResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            state.answer(format!("issue {}", request.name), pb::IssueCertificateResponse::new())
        });
    }

    fn list_identities(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::ListIdentitiesRequest>,
        sink: ClientStreamingSink<pb::ListIdentitiesResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            let _ = request;
            state.answer("identities", pb::ListIdentitiesResponse::new())
        });
    }

    fn revoke_identity(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::RevokeIdentityRequest>,
        sink: ClientStreamingSink<pb::RevokeIdentityResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            state.answer(format!("revoke {}", request.name), pb::RevokeIdentityResponse::new())
        });
    }

    fn describe_identity(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::DescribeIdentityRequest>,
        sink: ClientStreamingSink<pb::DescribeIdentityResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            state.answer(format!("describe {}", request.name), pb::DescribeIdentityResponse::new())
        });
    }

    fn change_identity(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::ChangeIdentityRequest>,
        sink: ClientStreamingSink<pb::DescribeIdentityResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            state.answer(format!("change {}", request.name), pb::DescribeIdentityResponse::new())
        });
    }

    fn accept_clock(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::AcceptClockRequest>,
        sink: ClientStreamingSink<pb::AcceptClockResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, _| {
            state.answer("clock accept", pb::AcceptClockResponse { ahead_ms: -90_000, ..Default::default() })
        });
    }

    fn backup(&mut self, ctx: RpcContext<'_>, request: First<pb::BackupRequest>, sink: DuplexSink<pb::BackupProgress>) {
        self.pages(&ctx, request, sink, |state, request| {
            let done = pb::BackedUp { bytes: 4096, last_task: 7, last_result: 5, ..Default::default() };
            let half = pb::BackupProgress { copied_bytes: 2048, total_bytes: 4096, ..Default::default() };
            let all = pb::BackupProgress { copied_bytes: 4096, done: Some(done).into(), ..half.clone() };
            state.asked.push(format!("backup {}", request.path));
            // One that is stopped half way ends without a word of its being there.
            if request.path.ends_with("half.db") { vec![half] } else { vec![half, all] }
        });
    }

    fn remove_group(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::RemoveGroupRequest>,
        sink: ClientStreamingSink<pb::RemoveGroupResponse>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            let answer = pb::RemoveGroupResponse { owed: 5, ..Default::default() };
            state.answer(format!("remove {}", request.group), answer)
        });
    }

    fn get_server(
        &mut self,
        ctx: RpcContext<'_>,
        request: First<pb::GetServerRequest>,
        sink: ClientStreamingSink<pb::Server>,
    ) {
        self.unary(&ctx, request, sink, |state, request| {
            let answer = pb::Server { findings: state.findings.clone(), ..state.server.clone() };
            state.answer(format!("server counted {}", request.counted), answer)
        });
    }
}
