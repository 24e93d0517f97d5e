//! One connection to the server: a channel of its own, the getTask stream, and the sender of results.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use grpcio::{
    CallOption, Channel, ClientSStreamReceiver, ConnectivityState, Environment, Metadata, MetadataBuilder, RpcStatus,
    RpcStatusCode,
};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::listener::{Accepted, Refuse};
use super::result_sender::ResultSender;
use super::unreached::LISTEN;
use super::{Config, Error};
use crate::codec::Requests;
use crate::front::Dial;
use crate::rpc_status::{self, Meaning};
use crate::secret::Secret;
use crate::target;
use crate::task::StartAt;
use crate::wire::contact as pb;
use crate::wire::contact_grpc::ContactClient;

/// How long one look at the state of the channel waits for a change.
const WATCH: Duration = Duration::from_secs(5);

/// What a name is encoded for in metadata, beside what is not ASCII: the sign of the encoding itself.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// Why a connection, or the worker, ended.
pub(super) enum End {
    /// Try again, not before the server wants it.
    /// `refused`: a Contact server said why.
    Lost { reason: String, retry_after: Option<Duration>, refused: bool },
    /// Trying again would end the same way.
    Fatal(Error),
}

impl End {
    pub(super) fn lost(reason: impl Into<String>) -> End {
        End::Lost { reason: reason.into(), retry_after: None, refused: false }
    }

    /// A call ended with a status after which another try may work.
    pub(super) fn lost_with(status: &RpcStatus) -> End {
        let mut reason = rpc_status::text(status);
        // Who speaks gRPC but not this: another port of Contact, or another program. A proxy's 404 comes as the same code.
        if status.code() == RpcStatusCode::UNIMPLEMENTED && !status.message().contains("http2 header with status") {
            reason += &format!("; is it a --control address? That is for operators: {LISTEN}");
        }
        let refused = rpc_status::is_of_contact(status);
        End::Lost { reason, retry_after: rpc_status::retry_after(status), refused }
    }
}

/// What it takes to make calls over a connection.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) client: ContactClient,
    pub(super) options: CallOption,
}

pub(super) struct Connection {
    /// `None`: the server opened it, and takes no calls over it.
    pub(super) link: Option<Link>,
    pub(super) results: ResultSender,
    /// That which this side opened.
    channel: Option<Channel>,
    watch: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
    /// The stream that the server opened.
    shared: Option<Shared>,
    ready_since: Option<Instant>,
    /// A Contact server has said something: until then, it may be a proxy that answers.
    pub(super) answered: bool,
    /// It said so in the metadata of getTask.
    pub(super) greeted: bool,
    tasks: Option<ClientSStreamReceiver<pb::ServerMsg>>,
    /// The longest text of a result, in bytes, once the server has said so.
    pub(super) max_result: Option<usize>,
    headers_read: bool,
    /// Where the group of this client starts, if the server said that it is new there; to be logged.
    pub(super) new_group: Option<StartAt>,
    /// The stream before [`Connection::narrow`], until the server ends it.
    before: Option<ClientSStreamReceiver<pb::ServerMsg>>,
}

/// A stream that the server opened, without the sink, which results go to.
struct Shared {
    requests: Requests<pb::ServerMsg>,
    refuse: Refuse,
    /// The server was told that tasks may come.
    is_registered: bool,
}

impl Connection {
    /// Of a stream that the server opened.
    pub(super) fn accepted(accepted: Accepted, confirm_every: Duration) -> Connection {
        let Accepted { requests, sink, max_result, refuse, .. } = accepted;
        let shared = Shared { requests, refuse, is_registered: false };
        let results = ResultSender::sharing(sink, confirm_every);
        Connection { shared: Some(shared), max_result, ..Connection::of(None, results, None) }
    }

    /// Ends a stream that the server opened, since another one takes its place.
    pub(super) fn give_way(self) {
        if let (Some(shared), Some(sink)) = (self.shared, self.results.into_sink()) {
            let why = "another server, or another stream of this one, dialled the worker: it serves the last that came";
            let status = RpcStatus::with_message(RpcStatusCode::ABORTED, why.into());
            let _ = shared.refuse.send((sink, shared.requests, status));
        }
    }

    /// Begins to connect. Each try has a channel of its own, not shared with others, so that the waits between tries
    /// are the worker's and not those of C-core.
    pub(super) fn open(
        config: &Config,
        (server, dial): (&str, Option<&Dial>),
        env: &Arc<Environment>,
        options: CallOption,
        token: Option<Secret>,
        keepalive: Duration,
        connect_timeout: Duration,
    ) -> Connection {
        let channel = target::channel_builder(env.clone(), server, keepalive, connect_timeout)
            .max_send_message_len(-1)
            .keepalive_permit_without_calls(true)
            .http2_max_pings_without_data(0);
        let channel = target::connect(channel, server, dial);
        let link = Link { client: ContactClient::new(channel.clone()).signed(token), options };
        let results = ResultSender::new(link.clone(), config.confirm_every);
        channel.check_connectivity_state(true);
        Connection::of(Some(link), results, Some(channel))
    }

    fn of(link: Option<Link>, results: ResultSender, channel: Option<Channel>) -> Connection {
        Connection {
            link,
            results,
            channel,
            watch: None,
            shared: None,
            ready_since: None,
            answered: false,
            greeted: false,
            tasks: None,
            max_result: None,
            headers_read: false,
            new_group: None,
            before: None,
        }
    }

    /// Whether something at the server's address speaks HTTP/2; true once, when that is new.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        while self.ready_since.is_none() {
            let Some(channel) = &self.channel else {
                self.ready_since = Some(now);
                return true;
            };
            let state = channel.check_connectivity_state(false);
            if state == ConnectivityState::GRPC_CHANNEL_READY {
                self.ready_since = Some(now);
                self.watch = None;
                return true;
            }
            let watch = self.watch.get_or_insert_with(|| Box::pin(channel.wait_for_state_change(state, WATCH).fuse()));
            if watch.poll_unpin(cx).is_pending() {
                break;
            }
            self.watch = None;
        }
        false
    }

    /// Since when something at the server's address speaks HTTP/2.
    pub(super) fn ready_since(&self) -> Option<Instant> {
        self.ready_since
    }

    /// Asks for tasks, if that was not done yet.
    pub(super) fn register(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.is_registered() {
            return Ok(false);
        }
        if let Some(shared) = &mut self.shared {
            shared.is_registered = self.results.poll_say_ready(cx);
            return Ok(shared.is_registered);
        }
        self.tasks = self.get_task(None)?;
        Ok(true)
    }

    /// Calls getTask: as this client, or with other options.
    fn get_task(&self, options: Option<CallOption>) -> Result<Option<ClientSStreamReceiver<pb::ServerMsg>>, End> {
        let Some(link) = &self.link else { return Ok(None) };
        let options = options.unwrap_or_else(|| link.options.clone());
        link.client.get_task(&pb::Empty::new(), options).map(Some).map_err(|error| End::lost(error.to_string()))
    }

    /// Asks for tasks anew, as the same process, with other options: the server ends the stream there was, and what that held is
    /// held by the new one.
    pub(super) fn narrow(&mut self, options: CallOption) -> Result<(), End> {
        if let Some(tasks) = self.get_task(Some(options))? {
            // Not cancelled here: the server could see that before the new call, and give everything to others.
            self.before = self.tasks.replace(tasks);
        }
        Ok(())
    }

    /// Whether tasks were asked for.
    pub(super) fn is_registered(&self) -> bool {
        self.tasks.is_some() || self.shared.as_ref().is_some_and(|shared| shared.is_registered)
    }

    /// The next message of getTask.
    pub(super) fn poll_task(&mut self, cx: &mut Context<'_>) -> Poll<Result<pb::ServerMsg, End>> {
        if let Some(shared) = &mut self.shared {
            return shared.requests.poll_next_unpin(cx).map(|message| match message {
                Some(Ok(Ok(message))) => Ok(message),
                Some(Ok(Err(unreadable))) => Err(End::lost(unreadable.to_string())),
                // Of a call that the other side made there is no status: the connection is gone.
                Some(Err(_)) => Err(End::lost("the connection of the server ended")),
                None => Err(End::lost("the server ended the stream")),
            });
        }
        match self.before.as_mut().map(|before| before.poll_next_unpin(cx)) {
            Some(Poll::Ready(Some(Ok(message)))) => return Poll::Ready(Ok(message)),
            Some(Poll::Ready(_)) => self.before = None,
            Some(Poll::Pending) | None => {}
        }
        let Some(tasks) = &mut self.tasks else { return Poll::Pending };
        if !self.headers_read
            && let Poll::Ready(headers) = pin!(tasks.headers()).poll(cx)
        {
            self.headers_read = true;
            for (key, value) in headers.into_iter().flat_map(|headers| headers.iter()) {
                // A proxy says nothing with this prefix.
                self.greeted |= key.starts_with("contact-");
                let Ok(value) = std::str::from_utf8(value) else { continue };
                match key {
                    "contact-max-task" => self.max_result = value.parse().ok(),
                    "contact-new-group" => self.new_group = StartAt::of(value),
                    "contact-window" => {
                        log::info!("the server lets a client hold {value} tasks at most, fewer than it asked for");
                    }
                    _ => {}
                }
            }
        }
        tasks.poll_next_unpin(cx).map(|message| match message {
            Some(Ok(message)) => Ok(message),
            None => Err(End::lost("the server ended getTask")),
            Some(Err(error)) => {
                let status = rpc_status::status_of(error);
                Err(match Meaning::of(&status) {
                    Meaning::TakenOver => End::Fatal(Error::TakenOver(status.message().to_owned())),
                    Meaning::ClientRefused | Meaning::CallRefused => End::Fatal(refusal(&status)),
                    // A getTask call carries nothing that could be refused by itself.
                    Meaning::MessageRefused | Meaning::Unavailable | Meaning::Unclear => End::lost_with(&status),
                })
            }
        })
    }

    /// Ends getTask. Results can still be sent.
    pub(super) fn leave(&mut self) {
        for mut tasks in [self.tasks.take(), self.before.take()].into_iter().flatten() {
            tasks.cancel();
        }
    }
}

/// The metadata that says who this client is; none for an anonymous one, as the article's is. One that is `stopping` wants no more
/// tasks.
pub(super) fn metadata(config: &Config, instance: &str, stopping: bool) -> Result<Metadata, Error> {
    let mut metadata = MetadataBuilder::new();
    let mut add = |key: &str, value: &str| match metadata.add_str(key, value) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Config(format!("{key} {value:?} cannot be sent: {error}"))),
    };
    if let Some(id) = &config.id {
        add("contact-client", &utf8_percent_encode(id, ENCODED).to_string())?;
    }
    if let Some(group) = &config.group {
        add("contact-group", &utf8_percent_encode(group, ENCODED).to_string())?;
    }
    if config.id.is_some() || config.group.is_some() || config.serve.is_some() {
        add("contact-instance", instance)?;
        add("contact-version", concat!("contact ", env!("CARGO_PKG_VERSION")))?;
        add("contact-system", &format!("{} {}", std::env::consts::OS, std::env::consts::ARCH))?;
        add("contact-max-message", &crate::target::MAX_MESSAGE.to_string())?;
    }
    if !config.labels.is_empty() {
        add("contact-labels", &utf8_percent_encode(&config.labels.to_string(), ENCODED).to_string())?;
    }
    add("contact-revoke", "1")?;
    add("contact-receipts", "1")?;
    add("contact-output", "1")?;
    if stopping {
        add("contact-drain", "1")?;
    }
    // Servers that do not know the other key give no more than this. It holds something, so that is nothing.
    let window = if stopping { 1 } else { config.window() };
    add("contact-window", &window.to_string())?;
    if config.announce_begin {
        add("contact-begins", "1")?;
    }
    if let Some(batch) = config.batch {
        add("contact-batch", &batch.to_string())?;
    }
    if let Some(from) = config.from {
        add("contact-from", from.as_str())?;
    }
    if let Some(heartbeat) = config.heartbeat {
        add("contact-heartbeat", &heartbeat.as_secs().to_string())?;
    }
    Ok(metadata.build())
}

/// What the worker ends with, for a status that no other try would change.
pub(super) fn refusal(status: &RpcStatus) -> Error {
    Error::Refused { code: rpc_status::code_name(status), message: status.message().to_owned() }
}
