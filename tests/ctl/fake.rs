//! A control service that remembers what it was asked, and answers from what the test put into it.

use std::sync::{Arc, Mutex, MutexGuard};

use contact::codec::Decoded;
use contact::wire::control as pb;
use contact::wire::control_grpc::{Control, create_control};
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use grpcio::{
    DuplexSink, EnvBuilder, RequestStream, RpcContext, RpcStatus, RpcStatusCode, Server, ServerBuilder,
    ServerCredentials, ServerStreamingSink, UnarySink, WriteFlags,
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
        Fake::serve(service.clone(), |builder| builder.register_service(create_control(service.clone())))
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

    fn accept(&self, request: pb::SubmitRequest) -> pb::SubmitResponse {
        let mut state = self.state();
        if state.forgetful {
            let count = request.tasks.len() as u32;
            let first_id = state.counted + 1;
            state.counted += u64::from(count);
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
            if let Some(known) = state.tasks.iter().find(|known| !task.key.is_empty() && known.key == task.key) {
                answer.ids.push(known.id);
                answer.first_id = answer.ids[0];
                answer.known.push(index as u32);
                continue;
            }
            let id = state.tasks.len() as u64 + 1;
            let (text, to, key) = (task.task.clone(), task.to.clone(), task.key.clone());
            state.tasks.push(pb::Task { id, task: text, to, key, ..Default::default() });
            if answer.count == 0 {
                answer.first_id = id;
            }
            answer.count += 1;
            if state.scattered {
                answer.ids.push(2 * id);
                answer.first_id = answer.ids[0];
            }
        }
        state.submitted.push(request);
        answer
    }

    fn unary<T: Send + 'static>(&self, ctx: &RpcContext<'_>, asked: String, sink: UnarySink<T>, answer: T) {
        self.state().asked.push(asked);
        ctx.spawn(async move { sink.success(answer).await.unwrap_or(()) });
    }

    /// Whether the task is one that the fake knows.
    fn about_task<T: Send + 'static>(
        &self,
        ctx: &RpcContext<'_>,
        asked: String,
        id: u64,
        sink: UnarySink<T>,
        answer: T,
    ) {
        if id == 404 {
            self.state().asked.push(asked);
            let status = RpcStatus::with_message(RpcStatusCode::NOT_FOUND, "there is no task 404".into());
            ctx.spawn(async move { sink.fail(status).await.unwrap_or(()) });
        } else {
            self.unary(ctx, asked, sink, answer);
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

fn send_pages<T: Send + 'static>(ctx: &RpcContext<'_>, pages: Vec<T>, mut sink: ServerStreamingSink<T>) {
    ctx.spawn(async move {
        for page in pages {
            if sink.send((page, WriteFlags::default())).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    });
}

fn result_pages(results: &[pb::TaskResult]) -> Vec<pb::ResultPage> {
    results.chunks(PAGE).map(|page| pb::ResultPage { results: page.to_vec(), ..Default::default() }).collect()
}

impl Control for Service {
    fn submit(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::SubmitRequest>,
        sink: UnarySink<pb::SubmitResponse>,
    ) {
        let answer = self.accept(request.unwrap());
        ctx.spawn(async move { sink.success(answer).await.unwrap_or(()) });
    }

    fn submit_stream(
        &mut self,
        ctx: RpcContext<'_>,
        mut requests: RequestStream<Decoded<pb::SubmitRequest>>,
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
                        let answer = service.accept(request.unwrap());
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

    /// As a server answers that is older than this call.
    fn find_tasks(&mut self, ctx: RpcContext<'_>, _: Decoded<pb::FindTasksRequest>, sink: UnarySink<pb::FoundTasks>) {
        let status = RpcStatus::new(RpcStatusCode::UNIMPLEMENTED);
        ctx.spawn(async move { sink.fail(status).await.unwrap_or(()) });
    }

    fn list_tasks(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::ListRequest>,
        mut sink: ServerStreamingSink<pb::TaskPage>,
    ) {
        let request = request.unwrap();
        let mut state = self.state();
        state.asked.push(describe("tasks", &request));
        let tasks = select(&state.tasks, &request);
        let mut more = state.more.take().filter(|_| request.follow);
        ctx.spawn(async move {
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

    fn list_results(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::ListRequest>,
        sink: ServerStreamingSink<pb::ResultPage>,
    ) {
        let request = request.unwrap();
        self.state().asked.push(describe("results", &request));
        let results = select(&self.state().results, &request);
        send_pages(&ctx, result_pages(&results), sink);
    }

    fn list_statuses(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::ListRequest>,
        sink: ServerStreamingSink<pb::StatusPage>,
    ) {
        let request = request.unwrap();
        self.state().asked.push(describe("statuses", &request));
        let statuses = select(&self.state().statuses, &request);
        let pages = statuses.chunks(PAGE).map(|page| pb::StatusPage { statuses: page.to_vec(), ..Default::default() });
        send_pages(&ctx, pages.collect(), sink);
    }

    fn list_dead(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::ListDeadRequest>,
        sink: ServerStreamingSink<pb::ResultPage>,
    ) {
        let request = request.unwrap();
        self.state().asked.push(describe(&format!("dead of {:?}", request.group), &request.list));
        let results = select(&self.state().results, &request.list);
        send_pages(&ctx, result_pages(&results), sink);
    }

    fn list_clients(
        &mut self,
        ctx: RpcContext<'_>,
        _: Decoded<pb::ListClientsRequest>,
        sink: UnarySink<pb::ListClientsResponse>,
    ) {
        let clients = self.state().clients.clone();
        let answer = pb::ListClientsResponse { clients, ..Default::default() };
        self.unary(&ctx, "clients".into(), sink, answer);
    }

    fn describe_task(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::DescribeTaskRequest>,
        sink: UnarySink<pb::TaskLedger>,
    ) {
        let id = request.unwrap().id;
        let answer = self.state().ledger.clone();
        self.about_task(&ctx, format!("task {id}"), id, sink, answer);
    }

    fn list_groups(
        &mut self,
        ctx: RpcContext<'_>,
        _: Decoded<pb::ListGroupsRequest>,
        sink: UnarySink<pb::ListGroupsResponse>,
    ) {
        let groups = self.state().groups.clone();
        let findings = self.state().findings.clone();
        self.unary(&ctx, "groups".into(), sink, pb::ListGroupsResponse { groups, findings, ..Default::default() });
    }

    fn cancel_task(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::CancelTaskRequest>,
        sink: UnarySink<pb::CancelTaskResponse>,
    ) {
        let id = request.unwrap().id;
        // One that is not waited for, one that was cancelled before, and all others.
        let (groups, already) = match id {
            7 => (0, false),
            8 => (0, true),
            _ => (2, false),
        };
        let answer = pb::CancelTaskResponse { groups, already, ..Default::default() };
        self.about_task(&ctx, format!("cancel {id}"), id, sink, answer);
    }

    fn drop_dead(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::DropDeadRequest>,
        sink: UnarySink<pb::DropDeadResponse>,
    ) {
        let request = request.unwrap();
        let what = format!("drop {} of {:?}", request.id, request.group);
        self.about_task(&ctx, what, request.id, sink, pb::DropDeadResponse::new());
    }

    fn retry_task(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::RetryTaskRequest>,
        sink: UnarySink<pb::RetryTaskResponse>,
    ) {
        let request = request.unwrap();
        let answer = pb::RetryTaskResponse { groups: 1, ..Default::default() };
        self.about_task(&ctx, format!("retry {} for {:?}", request.id, request.group), request.id, sink, answer);
    }

    fn pause_group(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::PauseGroupRequest>,
        sink: UnarySink<pb::PauseGroupResponse>,
    ) {
        let request = request.unwrap();
        let asked = format!("pause {} {}", request.group, request.paused);
        self.unary(&ctx, asked, sink, pb::PauseGroupResponse::new());
    }

    fn drain_client(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::DrainClientRequest>,
        sink: UnarySink<pb::DrainClientResponse>,
    ) {
        let request = request.unwrap();
        let asked = format!("drain {} for {} because {:?}", request.client, request.for_ms, request.note);
        let clients = self.state().clients.clone().into_iter().filter(|client| client.client == request.client);
        let answer = pb::DrainClientResponse { clients: clients.collect(), ..Default::default() };
        self.unary(&ctx, asked, sink, answer);
    }

    fn undrain_client(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::UndrainClientRequest>,
        sink: UnarySink<pb::UndrainClientResponse>,
    ) {
        let request = request.unwrap();
        let clients = self.state().clients.clone().into_iter().filter(|client| client.client == request.client);
        let was_drained = request.client != "never";
        let answer = pb::UndrainClientResponse { clients: clients.collect(), was_drained, ..Default::default() };
        self.unary(&ctx, format!("undrain {}", request.client), sink, answer);
    }

    fn set_group_retry(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::SetGroupRetryRequest>,
        sink: UnarySink<pb::SetGroupRetryResponse>,
    ) {
        let request = request.unwrap();
        let asked = format!("retry of {} {:?}", request.group, request.retry);
        let answer = pb::SetGroupRetryResponse { retry: request.retry, ..Default::default() };
        self.unary(&ctx, asked, sink, answer);
    }

    fn accept_clock(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::AcceptClockRequest>,
        sink: UnarySink<pb::AcceptClockResponse>,
    ) {
        request.unwrap();
        let answer = pb::AcceptClockResponse { ahead_ms: -90_000, ..Default::default() };
        self.unary(&ctx, "clock accept".into(), sink, answer);
    }

    fn backup(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::BackupRequest>,
        sink: ServerStreamingSink<pb::BackupProgress>,
    ) {
        let path = request.unwrap().path;
        let done = pb::BackedUp { bytes: 4096, last_task: 7, last_result: 5, ..Default::default() };
        let half = pb::BackupProgress { copied_bytes: 2048, total_bytes: 4096, ..Default::default() };
        let all = pb::BackupProgress { copied_bytes: 4096, done: Some(done).into(), ..half.clone() };
        // One that is stopped half way ends without a word of its being there.
        let messages = if path.ends_with("half.db") { vec![half] } else { vec![half, all] };
        self.state().asked.push(format!("backup {path}"));
        send_pages(&ctx, messages, sink);
    }

    fn remove_group(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::RemoveGroupRequest>,
        sink: UnarySink<pb::RemoveGroupResponse>,
    ) {
        let answer = pb::RemoveGroupResponse { owed: 5, ..Default::default() };
        self.unary(&ctx, format!("remove {}", request.unwrap().group), sink, answer);
    }

    fn get_server(&mut self, ctx: RpcContext<'_>, request: Decoded<pb::GetServerRequest>, sink: UnarySink<pb::Server>) {
        let findings = self.state().findings.clone();
        let answer = pb::Server { findings, ..self.state().server.clone() };
        self.unary(&ctx, format!("server counted {}", request.unwrap().counted), sink, answer);
    }
}
