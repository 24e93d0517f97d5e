//! The connection to the server, and what its failures mean to an operator.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use futures::executor::block_on;
use grpcio::{CallOption, Channel, ConnectivityState, EnvBuilder, RpcStatus, RpcStatusCode};

use super::Error;
use super::token::LOOKED;
use crate::front::{Dial, SPEAKS_TLS, Tls};
use crate::probe::{self, Found};
use crate::rpc_status::Meaning;
use crate::secret::Secret;
use crate::target;
use crate::terminal::escape;
use crate::wire::control_grpc::ControlClient;
use crate::wire::grpc_health_v1::health_grpc::HealthClient;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How much of that one of the server's addresses may take.
const CONNECT_EACH: Duration = Duration::from_secs(1);
/// How long one answer may take. Streams have no such bound: keepalive finds out whether their server is there.
const ANSWER: Duration = Duration::from_secs(30);
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A server as the command line names it.
#[derive(Clone, Copy)]
pub(super) struct To<'a> {
    pub(super) address: &'a str,
    pub(super) tls: Option<&'a Tls>,
    /// What to say who we are with.
    pub(super) token: Option<&'a Secret>,
}

/// A channel, with the way to the server if that is one with TLS.
pub(super) struct Wire {
    pub(super) channel: Channel,
    dial: Option<Dial>,
}

/// A server that answered.
pub(super) struct Link {
    server: String,
    wire: Wire,
    pub(super) client: ControlClient,
    /// Whether the server serves.
    pub(super) health: HealthClient,
}

/// The way to a server with TLS, if it is one.
pub(super) fn dial(to: To<'_>) -> Result<Option<Dial>, Error> {
    let dial = to.tls.map(|tls| Dial::start(to.address, tls, CONNECT_EACH)).transpose();
    dial.map_err(|error| Error::Usage(error.to_string()))
}

impl Wire {
    /// Does not connect yet.
    pub(super) fn new(to: To<'_>, keepalive: Duration) -> Result<Wire, Error> {
        let env = Arc::new(EnvBuilder::new().cq_count(1).name_prefix("grpc-poll").build());
        let builder = target::channel_builder(env, to.address, keepalive, CONNECT_EACH);
        let dial = dial(to)?;
        let channel = target::connect(builder.max_send_message_len(target::MAX_MESSAGE), to.address, dial.as_ref());
        Ok(Wire { channel, dial })
    }

    /// What is wrong with TLS, if something is.
    pub(super) fn trouble(&self) -> Option<String> {
        self.dial.as_ref().and_then(Dial::trouble)
    }
}

/// Connects, and returns whether that worked: at once when it is refused, after five seconds when nothing comes back.
pub(super) async fn connected(channel: &Channel) -> bool {
    let deadline = Instant::now() + CONNECT;
    let mut state = channel.check_connectivity_state(true);
    while !matches!(state, ConnectivityState::GRPC_CHANNEL_READY | ConnectivityState::GRPC_CHANNEL_TRANSIENT_FAILURE) {
        let left = deadline.saturating_duration_since(Instant::now());
        if !channel.wait_for_state_change(state, left).await {
            break;
        }
        state = channel.check_connectivity_state(true);
    }
    state == ConnectivityState::GRPC_CHANNEL_READY
}

/// Why there is no connection: what is wrong with TLS, or else what is found at the address.
fn no_connection(to: To<'_>, trouble: Option<String>) -> Error {
    const CONTROL: &str = "contactctl connects to the server's --control address, port 50052 unless that was set";
    let server = target::shown(to.address).into_owned();
    let looks = trouble.is_none() && to.tls.is_none() && target::proxy(to.address).is_none();
    let reason = match looks.then(|| probe::look(to.address, false)).flatten() {
        Some(Found::NoName(reason)) => return Error::NoName { server, reason },
        Some(Found::Tls) => {
            format!("{SPEAKS_TLS}: give --tls-ca, and --tls-cert and --tls-key if the server asks for certificates")
        }
        Some(Found::Page) => format!("that is the page of a Contact server (--http); {CONTROL}"),
        Some(Found::Other(answer)) => format!("what answers there is no Contact server: {answer}; {CONTROL}"),
        None => match trouble {
            Some(trouble) => trouble,
            None => return Error::NoServer(server),
        },
    };
    Error::NoConnection { server, reason: escape(&reason).into_owned() }
}

impl Link {
    /// Connects, or fails: at once when it is refused, after five seconds when nothing comes back.
    pub(super) fn connect(to: To<'_>) -> Result<Link, Error> {
        block_on(Link::open(to))
    }

    /// The same, as a future.
    pub(super) async fn open(to: To<'_>) -> Result<Link, Error> {
        let wire = Wire::new(to, KEEPALIVE)?;
        if !connected(&wire.channel).await {
            return Err(no_connection(to, wire.trouble()));
        }
        let health = HealthClient::new(wire.channel.clone());
        let client = ControlClient::new(wire.channel.clone()).signed(to.token.cloned());
        Ok(Link { server: to.address.to_owned(), wire, client, health })
    }

    /// How a call that has one answer is made.
    pub(super) fn answer_soon() -> CallOption {
        CallOption::default().timeout(ANSWER)
    }

    /// Waits for the answer of a call.
    pub(super) fn wait<T: Unpin>(&self, call: grpcio::Result<grpcio::ClientUnaryReceiver<T>>) -> Result<T, Error> {
        block_on(self.answer(call))
    }

    /// The same, as a future.
    pub(super) async fn answer<T: Unpin>(
        &self,
        call: grpcio::Result<grpcio::ClientUnaryReceiver<T>>,
    ) -> Result<T, Error> {
        async { call?.await }.await.map_err(|e| self.error(e))
    }

    /// All pages of a list that comes to an end.
    pub(super) async fn pages<P>(
        &self,
        call: grpcio::Result<grpcio::ClientSStreamReceiver<P>>,
    ) -> Result<Vec<P>, Error> {
        async { call?.try_collect().await }.await.map_err(|e| self.error(e))
    }

    /// What a failed call means.
    pub(super) fn error(&self, error: grpcio::Error) -> Error {
        match error {
            grpcio::Error::RpcFailure(status) | grpcio::Error::RpcFinished(Some(status)) => self.refusal(&status),
            grpcio::Error::Codec(e) => Error::Nonsense(e.to_string()),
            other => self.went_away(&other.to_string()),
        }
    }

    /// The server ended a stream too early.
    pub(super) fn went_away(&self, reason: &str) -> Error {
        let trouble = self.wire.trouble();
        let reason = escape(trouble.as_deref().unwrap_or(reason)).into_owned();
        Error::WentAway { server: self.server.clone(), reason, hint: String::new() }
    }

    fn refusal(&self, status: &RpcStatus) -> Error {
        let reason = match status.message() {
            "" => status.code().to_string(),
            message => escape(message).into_owned(),
        };
        match (status.code(), Meaning::of(status)) {
            (RpcStatusCode::UNIMPLEMENTED, _) => Error::Unimplemented { server: self.server.clone(), reason },
            (RpcStatusCode::DEADLINE_EXCEEDED, _) => {
                self.went_away(&format!("no answer within {}", humantime::format_duration(ANSWER)))
            }
            (RpcStatusCode::UNAUTHENTICATED, _) => Error::Refused(format!("{reason}; {LOOKED}")),
            (_, Meaning::Unavailable) => self.went_away(&reason),
            _ => Error::Refused(reason),
        }
    }
}
