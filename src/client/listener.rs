//! Where a worker listens, if servers dial it. Of what they say, nothing is done here: the pipe thread gets each stream.

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use futures::channel::oneshot;
use grpcio::{
    ChannelBuilder, DuplexSink, Environment, Metadata, RpcContext, RpcStatus, RpcStatusCode, ServerBuilder,
    ServerCredentials,
};

use super::Error;
use crate::codec::{Requests, all_calls};
use crate::secret;
use crate::target;
use crate::wire::contact as pb;
use crate::wire::contact_grpc::{Worker, create_worker};

/// Streams that may wait for the pipe thread, which takes the newest.
const WAITING: usize = 4;
/// Streams that one connection may have: a server needs one.
const STREAMS: i32 = 8;
/// A new connection has so long to speak HTTP/2.
const HANDSHAKE_MS: i32 = 10_000;

/// A stream that a server opened.
pub(super) struct Accepted {
    pub(super) requests: Requests<pb::ServerMsg>,
    pub(super) sink: DuplexSink<pb::Result>,
    /// Where the server is, as gRPC writes it.
    pub(super) peer: String,
    /// The longest text of a result that it takes, in bytes, if it said so.
    pub(super) max_result: Option<usize>,
    /// Ends the stream with a status: the sink and the requests have to be kept until that is out.
    pub(super) refuse: Refuse,
}

pub(super) type Refuse = oneshot::Sender<(DuplexSink<pb::Result>, Requests<pb::ServerMsg>, RpcStatus)>;

/// Serves until it is dropped.
pub(super) struct Listener {
    _server: grpcio::Server,
}

/// One clone for each completion queue.
#[derive(Clone)]
struct Service {
    token_file: Option<PathBuf>,
    /// Who the worker is.
    headers: Metadata,
    accepted: Sender<Accepted>,
}

impl Listener {
    /// Takes the address. `insecure`: also one that other machines reach, though there is no TLS.
    pub(super) fn start(
        address: &str,
        insecure: bool,
        env: Arc<Environment>,
        token_file: Option<PathBuf>,
        headers: Metadata,
    ) -> Result<(Listener, Receiver<Accepted>), Error> {
        let refused = |why: String| Error::Config(format!("cannot listen on {address}: {why}"));
        if address.strip_prefix("unix:").is_none() {
            // C-core's own error says nothing, so the system is asked first.
            let probe = TcpListener::bind(address).and_then(|listener| listener.local_addr());
            let bound = probe.map_err(|e: io::Error| refused(e.to_string()))?;
            if !bound.ip().to_canonical().is_loopback() && !insecure {
                return Err(refused(
                    "other machines reach it, and whoever is between can read and change what is said: choose an address of this \
                     machine, behind a proxy that speaks TLS, or say --insecure if nobody else can get there"
                        .into(),
                ));
            }
        }
        let channel = ChannelBuilder::new(env.clone())
            .max_receive_message_len(target::MAX_MESSAGE)
            .max_send_message_len(-1)
            .max_concurrent_stream(STREAMS)
            .raw_cfg_int(c"grpc.server_handshake_timeout_ms".into(), HANDSHAKE_MS)
            // Two workers on one port would share the streams of the server.
            .reuse_port(false)
            // A server that is gone without a word is noticed within 20 + 10 s.
            .keepalive_time(Duration::from_secs(20))
            .keepalive_timeout(Duration::from_secs(10))
            .keepalive_permit_without_calls(true)
            .http2_min_recv_ping_interval_without_data(Duration::from_secs(2))
            .http2_max_pings_without_data(0);
        let (accepted, streams) = bounded(WAITING);
        let service = create_worker(Service { token_file, headers, accepted }, &all_calls());
        let server = ServerBuilder::new(env).channel_args(channel.build_args()).register_service(service).build();
        let mut server = server.map_err(|e| refused(e.to_string()))?;
        let port = server.add_listening_port(address, ServerCredentials::insecure());
        let port = port.map_err(|e| refused(e.to_string()))?;
        server.start();
        match address.rsplit_once(':') {
            Some((host, _)) if host != "unix" => log::info!("listening on {host}:{port} for the server to dial"),
            _ => log::info!("listening on {address} for the server to dial"),
        }
        Ok((Listener { _server: server }, streams))
    }
}

impl Service {
    /// Whether the server has the token of this worker. The file is read for each stream, so that a new one counts from the next on.
    fn check(&self, ctx: &RpcContext<'_>) -> Result<(), String> {
        let Some(file) = &self.token_file else { return Ok(()) };
        let (token, _) = secret::read(file)?;
        let mut said = ctx.request_headers().iter().filter(|(key, _)| *key == "authorization");
        let bearer = said.next().and_then(|(_, value)| value.strip_prefix(b"Bearer "));
        match bearer {
            Some(bearer) if token.is(bearer) => Ok(()),
            Some(_) => Err("the token of the server is not that of this worker".into()),
            None => Err("this worker serves no server that shows no token (--dial-token-file)".into()),
        }
    }
}

impl Worker for Service {
    fn work(&mut self, ctx: RpcContext<'_>, requests: Requests<pb::ServerMsg>, mut sink: DuplexSink<pb::Result>) {
        let (refuse, refused) = oneshot::channel();
        let max_result = ctx.request_headers().iter().find(|(key, _)| *key == "contact-max-task");
        let max_result = max_result.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
        let peer = ctx.peer();
        let not_taken = match self.check(&ctx) {
            Err(why) => {
                log::warn!("a server at {peer} is not let in: {why}");
                Some((RpcStatus::with_message(RpcStatusCode::UNAUTHENTICATED, why), sink, requests))
            }
            Ok(()) => {
                sink.set_headers(self.headers.clone());
                let not_taken = self.accepted.try_send(Accepted { requests, sink, peer, max_result, refuse }).err();
                not_taken.map(|not_taken| {
                    let Accepted { requests, sink, .. } = not_taken.into_inner();
                    let status = RpcStatus::with_message(RpcStatusCode::UNAVAILABLE, "the worker is stopping".into());
                    (status, sink, requests)
                })
            }
        };
        ctx.spawn(async move {
            let last = match not_taken {
                Some((status, sink, requests)) => Some((sink, requests, status)),
                None => refused.await.ok(),
            };
            if let Some((sink, requests, status)) = last {
                // What is dropped before the status is out cancels the call.
                let _ = sink.fail(status).await;
                drop(requests);
            }
        });
    }
}
