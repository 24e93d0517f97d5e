//! A server in this process, clients of it on connections of their own, and the operator's view.
//!
//! Every call has a deadline, so whatever a test waits for comes or ends the test.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use contact::broker;
use contact::server::{Auth, CallLimits, Config, DialConfig, GRPC_MEMORY, Limits, Retention, Server};
use contact::wire::contact::{ClientMsg, Empty, Result as Told, ServerMsg};
use contact::wire::contact_grpc::ContactClient;
use contact::wire::control::{
    self as pb, Client as Connected, ListClientsRequest, ListRequest, NewTask, SubmitRequest, SubmitResponse,
    TaskResult,
};
use contact::wire::control_grpc::ControlClient;
use futures::executor::block_on;
use futures::{SinkExt as _, Stream, StreamExt as _};
use grpcio::{
    CallOption, Channel, ChannelBuilder, ClientCStreamReceiver, ClientCStreamSender, ClientDuplexReceiver,
    ClientDuplexSender, ClientSStreamReceiver, EnvBuilder, Environment, Error, MetadataBuilder, RpcStatus, WriteFlags,
};
use tempfile::TempDir;

use crate::common::DEADLINE;

/// All clients of this process.
static CLIENTS: LazyLock<Arc<Environment>> =
    LazyLock::new(|| Arc::new(EnvBuilder::new().cq_count(1).name_prefix("client-poll").build()));

/// A channel with a connection of its own.
pub fn channel(address: &str) -> Channel {
    ChannelBuilder::new(CLIENTS.clone()).use_local_subchannel_pool(true).connect(address)
}

/// A server, and its operator.
pub struct Rig {
    server: Option<Server>,
    pub config: Config,
    pub operator: Operator,
    _folder: TempDir,
}

impl Rig {
    pub fn start() -> Rig {
        Rig::with(|_| {})
    }

    /// With settings of its own.
    pub fn with(set: impl FnOnce(&mut Config)) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            listen: "127.0.0.1:0".into(),
            control: "127.0.0.1:0".into(),
            http: None,
            http_hosts: Vec::new(),
            tls: None,
            public: None,
            insecure: false,
            auth: Auth::Auto,
            data: folder.path().join("data"),
            max_task: 1024 * 1024,
            calls: CallLimits::default(),
            limits: Limits::default(),
            agent_groups: Vec::new(),
            grpc_memory: GRPC_MEMORY,
            dial: DialConfig::default(),
            demo: None,
            retention: Retention::default(),
            grace: Duration::from_secs(3),
            broker: broker::Config::default(),
        };
        set(&mut config);
        let server = Server::start(config.clone()).unwrap();
        let operator = Operator::of(server.control());
        Rig { server: Some(server), config, operator, _folder: folder }
    }

    pub fn listen(&self) -> &str {
        self.server.as_ref().unwrap().listen()
    }

    pub fn control(&self) -> &str {
        self.server.as_ref().unwrap().control()
    }

    /// Where the page is.
    pub fn http(&self) -> &str {
        self.server.as_ref().unwrap().http().unwrap()
    }

    /// A client that says this of itself, on a connection of its own.
    pub fn client(&self, metadata: &[(&str, &str)]) -> Client {
        Client::of(self.listen(), metadata)
    }

    pub fn anonymous(&self) -> Client {
        self.client(&[])
    }

    /// A client with an id. It wants what was submitted before it came, too.
    pub fn named(&self, name: &str) -> Client {
        self.client(&[("contact-client", name), ("contact-from", "first")])
    }

    /// A client of a group, likewise.
    pub fn member(&self, group: &str, name: &str) -> Client {
        self.named(name).saying("contact-group", group)
    }

    pub fn stop(&mut self) {
        self.server.take().unwrap().stop().unwrap();
    }

    /// Starts it again on the same folder, on other ports.
    pub fn restart(&mut self) {
        if self.server.is_some() {
            self.stop();
        }
        let server = Server::start(self.config.clone()).unwrap();
        self.operator = Operator::of(server.control());
        self.server = Some(server);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            let _ = server.stop();
        }
    }
}

/// What an operator does.
pub struct Operator {
    pub control: ControlClient,
}

impl Operator {
    pub fn of(address: &str) -> Operator {
        Operator { control: ControlClient::new(channel(address)) }
    }

    /// Submits tasks, and gives the id of the first.
    #[track_caller]
    pub fn submit<S: AsRef<str>>(&self, texts: &[S]) -> u64 {
        let task = |text: &S| NewTask { task: text.as_ref().into(), ..NewTask::default() };
        self.submit_all(texts.iter().map(task).collect())
    }

    #[track_caller]
    pub fn submit_all(&self, tasks: Vec<NewTask>) -> u64 {
        self.try_submit(tasks).unwrap().first_id
    }

    /// Submits in one request of a stream, which accepts what it can.
    #[track_caller]
    pub fn submit_by_stream(&self, tasks: Vec<NewTask>) -> SubmitResponse {
        let (mut requests, mut answers) = self.control.submit_stream(patient()).unwrap();
        let request = SubmitRequest { tasks, ..SubmitRequest::default() };
        block_on(async {
            requests.send((request, WriteFlags::default())).await.unwrap();
            answers.next().await.unwrap().unwrap()
        })
    }

    /// A task and where it stands, when that is as it should be.
    #[track_caller]
    pub fn ledger_until(&self, id: u64, like: impl Fn(&pb::TaskLedger) -> bool) -> pb::TaskLedger {
        let until = Instant::now() + DEADLINE;
        loop {
            let request = pb::DescribeTaskRequest { id, ..Default::default() };
            let ledger = block_on(self.control.describe_task(&request, patient()).unwrap()).unwrap();
            if like(&ledger) {
                return ledger;
            }
            assert!(Instant::now() < until, "{ledger}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until just these are kept.
    #[track_caller]
    pub fn tasks_until(&self, texts: &[&str]) {
        let until = Instant::now() + DEADLINE;
        loop {
            let kept: Vec<String> = self.tasks_now().into_iter().map(|task| task.task).collect();
            if kept == texts {
                return;
            }
            assert!(Instant::now() < until, "{kept:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the clock has passed a time.
    pub fn passed(&self, millis: i64) {
        while now() <= millis {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Takes a task back; says from how many groups.
    #[track_caller]
    pub fn cancel(&self, id: u64) -> u32 {
        let request = pb::CancelTaskRequest { id, ..Default::default() };
        block_on(self.control.cancel_task(&request, patient()).unwrap()).unwrap().groups
    }

    pub fn try_submit(&self, tasks: Vec<NewTask>) -> Result<SubmitResponse, RpcStatus> {
        let request = SubmitRequest { tasks, ..SubmitRequest::default() };
        status_of(self.control.submit_async_now(&request))
    }

    /// The connected clients, as soon as they are as `like` wants them.
    #[track_caller]
    pub fn clients_until(&self, like: impl Fn(&[Connected]) -> bool) -> Vec<Connected> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let request = ListClientsRequest::new();
            let clients = block_on(self.control.list_clients(&request, patient()).unwrap()).unwrap().clients;
            if like(&clients) {
                return clients;
            }
            assert!(Instant::now() < deadline, "the clients never were as wanted: {clients:?}");
        }
    }

    /// The same, when there are so many.
    #[track_caller]
    pub fn connected(&self, count: usize) -> Vec<Connected> {
        self.clients_until(|clients| clients.len() == count)
    }

    /// The first `count` results, as soon as they are there.
    #[track_caller]
    pub fn results(&self, count: usize) -> Vec<TaskResult> {
        let request = ListRequest { limit: count as u32, follow: true, ..ListRequest::default() };
        let pages = self.control.list_results(&request, patient()).unwrap();
        let pages: Vec<pb::ResultPage> = collect(pages).unwrap();
        pages.into_iter().flat_map(|page| page.results).collect()
    }

    /// All results there are now.
    #[track_caller]
    pub fn results_now(&self) -> Vec<TaskResult> {
        let pages: Vec<pb::ResultPage> =
            collect(self.control.list_results(&ListRequest::new(), patient()).unwrap()).unwrap();
        pages.into_iter().flat_map(|page| page.results).collect()
    }

    #[track_caller]
    pub fn statuses_now(&self) -> Vec<pb::Status> {
        let pages: Vec<pb::StatusPage> =
            collect(self.control.list_statuses(&ListRequest::new(), patient()).unwrap()).unwrap();
        pages.into_iter().flat_map(|page| page.statuses).collect()
    }

    #[track_caller]
    pub fn tasks_now(&self) -> Vec<pb::Task> {
        let pages: Vec<pb::TaskPage> =
            collect(self.control.list_tasks(&ListRequest::new(), patient()).unwrap()).unwrap();
        pages.into_iter().flat_map(|page| page.tasks).collect()
    }
}

/// `submit` waits for its answer.
trait SubmitNow {
    fn submit_async_now(&self, request: &SubmitRequest) -> grpcio::Result<SubmitResponse>;
}

impl SubmitNow for ControlClient {
    fn submit_async_now(&self, request: &SubmitRequest) -> grpcio::Result<SubmitResponse> {
        block_on(self.submit(request, patient())?)
    }
}

/// A client: a connection, and what it says of itself with each call.
pub struct Client {
    pub channel: Channel,
    contact: ContactClient,
    metadata: Vec<(String, String)>,
}

impl Client {
    pub fn of(address: &str, metadata: &[(&str, &str)]) -> Client {
        let channel = channel(address);
        Client::over(channel, metadata)
    }

    pub fn over(channel: Channel, metadata: &[(&str, &str)]) -> Client {
        let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Client { contact: ContactClient::new(channel.clone()), channel, metadata }
    }

    /// The same client, saying this as well.
    pub fn saying(mut self, key: &str, value: &str) -> Client {
        self.metadata.push((key.into(), value.into()));
        self
    }

    pub fn options(&self) -> CallOption {
        let mut metadata = MetadataBuilder::new();
        for (key, value) in &self.metadata {
            metadata.add_str(key, value).unwrap();
        }
        patient().headers(metadata.build())
    }

    /// Opens getTask.
    pub fn tasks(&self) -> Tasks {
        Tasks { stream: self.contact.get_task(&Empty::new(), self.options()).unwrap(), _channel: self.channel.clone() }
    }

    /// Opens tellResult.
    pub fn telling(&self) -> Telling {
        let (sender, answer) = self.contact.tell_result(self.options()).unwrap();
        Telling { sender, answer, _channel: self.channel.clone() }
    }

    /// Tells these, and waits until they are on disk.
    pub fn try_tell(&self, results: impl IntoIterator<Item = Told>) -> Result<(), RpcStatus> {
        let mut telling = self.telling();
        let all_said = results.into_iter().all(|result| telling.say(result));
        if all_said { telling.end() } else { telling.cut_short() }
    }

    #[track_caller]
    pub fn tell(&self, results: impl IntoIterator<Item = Told>) {
        self.try_tell(results).unwrap();
    }

    /// Opens sendStatus.
    pub fn statuses(&self) -> Statuses {
        let (sender, answers) = self.contact.send_status(self.options()).unwrap();
        Statuses { sender, answers, _channel: self.channel.clone() }
    }
}

/// A getTask stream. Dropped, it is cancelled.
pub struct Tasks {
    pub stream: ClientSStreamReceiver<ServerMsg>,
    /// A call does not keep its channel.
    _channel: Channel,
}

impl Tasks {
    /// What the server says of itself in its initial metadata.
    #[track_caller]
    pub fn introduction(&mut self) -> Vec<(String, String)> {
        let headers = block_on(self.stream.headers()).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let ours = headers.iter().filter(|(key, _)| key.starts_with("contact-"));
        let mut ours: Vec<_> = ours.map(|(key, value)| (key.to_owned(), text(value))).collect();
        ours.sort();
        ours
    }

    /// The next message.
    #[track_caller]
    pub fn next(&mut self) -> ServerMsg {
        self.read().unwrap_or_else(|status| panic!("the stream ended: {status:?}"))
    }

    #[track_caller]
    pub fn take(&mut self, count: usize) -> Vec<ServerMsg> {
        (0..count).map(|_| self.next()).collect()
    }

    #[track_caller]
    pub fn texts(&mut self, count: usize) -> Vec<String> {
        self.take(count).into_iter().map(|message| message.task).collect()
    }

    /// How it ended, with nothing before.
    #[track_caller]
    pub fn end(&mut self) -> RpcStatus {
        match self.read() {
            Err(status) => status,
            Ok(message) => panic!("not the end: {message:?}"),
        }
    }

    /// How it ended, whatever comes before.
    #[track_caller]
    pub fn last(&mut self) -> RpcStatus {
        loop {
            if let Err(status) = self.read() {
                return status;
            }
        }
    }

    #[track_caller]
    fn read(&mut self) -> Result<ServerMsg, RpcStatus> {
        status_of(block_on(self.stream.next()).expect("a stream of tasks does not just end"))
    }
}

/// A tellResult stream.
pub struct Telling {
    sender: ClientCStreamSender<Told>,
    answer: ClientCStreamReceiver<Empty>,
    _channel: Channel,
}

impl Telling {
    /// `false`: the stream has ended.
    pub fn say(&mut self, result: Told) -> bool {
        block_on(self.sender.send((result, WriteFlags::default()))).is_ok()
    }

    /// The server would not hear it all: the answer.
    pub fn cut_short(self) -> Result<(), RpcStatus> {
        status_of(block_on(self.answer)).map(drop)
    }

    /// Says that that was all, and waits for the answer.
    pub fn end(mut self) -> Result<(), RpcStatus> {
        let _ = block_on(self.sender.close());
        status_of(block_on(self.answer)).map(drop)
    }
}

/// A sendStatus stream.
pub struct Statuses {
    sender: ClientDuplexSender<ClientMsg>,
    answers: ClientDuplexReceiver<Told>,
    _channel: Channel,
}

impl Statuses {
    pub fn say(&mut self, msg: &str) -> bool {
        let msg = ClientMsg { msg: msg.into(), ..ClientMsg::default() };
        block_on(self.sender.send((msg, WriteFlags::default()))).is_ok()
    }

    pub fn answer(&mut self) -> Result<String, RpcStatus> {
        self.whole_answer().map(|answer| answer.ret)
    }

    pub fn whole_answer(&mut self) -> Result<Told, RpcStatus> {
        match block_on(self.answers.next()) {
            Some(answer) => status_of(answer),
            None => Err(RpcStatus::ok()),
        }
    }

    /// Says that that was all; the answers that were not taken yet.
    pub fn end(mut self) -> Result<Vec<String>, RpcStatus> {
        let _ = block_on(self.sender.close());
        Ok(collect(self.answers)?.into_iter().map(|answer| answer.ret).collect())
    }
}

/// An acknowledgement as the article's clients send it: of what they were given first.
pub fn ack(text: &str) -> Told {
    Told { ret: text.into(), ..Told::default() }
}

/// What came of a delivery.
pub fn told(of: &ServerMsg, outcome: contact::wire::contact::Outcome, ret: &str) -> Told {
    Told { id: of.id, attempt: of.attempt, outcome: outcome.into(), ret: ret.into(), ..Told::default() }
}

pub fn done(of: &ServerMsg) -> Told {
    told(of, contact::wire::contact::Outcome::DONE, "done")
}

pub fn to(group: &str, text: &str) -> NewTask {
    NewTask { to: group.into(), task: text.into(), ..NewTask::default() }
}

pub fn now() -> i64 {
    contact::task::Time::now().0
}

/// Options of a call that ends with the test's patience.
pub fn patient() -> CallOption {
    CallOption::default().timeout(DEADLINE)
}

pub fn collect<T>(stream: impl Stream<Item = grpcio::Result<T>>) -> Result<Vec<T>, RpcStatus> {
    let all: Vec<grpcio::Result<T>> = block_on(stream.collect());
    all.into_iter().map(status_of).collect()
}

#[track_caller]
pub fn status_of<T>(result: grpcio::Result<T>) -> Result<T, RpcStatus> {
    result.map_err(|error| match error {
        Error::RpcFailure(status) => status,
        other => panic!("not an answer of the server: {other:?}"),
    })
}

/// A short time that the test does not wait for, but the server does.
pub const SHORT: Duration = Duration::from_millis(200);
