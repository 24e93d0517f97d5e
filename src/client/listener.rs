//! Where a worker listens, if servers dial it. Of what they say, nothing is done here: the pipe thread gets each stream.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use futures::channel::oneshot;
use futures::executor::block_on;
use grpcio::{
    ChannelBuilder, DuplexSink, Environment, Metadata, RpcContext, RpcStatus, RpcStatusCode, ServerBuilder,
    ServerCredentials,
};
use log::{info, warn};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::{Config, Error};
use crate::codec::{Requests, all_calls};
use crate::front::{self, Bounds, Entrance, Front, Inside, Numbered, Speaks, TlsThread, WatchedTls};
use crate::log_limit::LogLimit;
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
/// Connections that others have, where they get there: a server needs one, and one more while it comes back.
const BOUNDS: Bounds = Bounds { threads: 1, connections: 64, for_address: 16, arriving: 32, arriving_for_address: 16 };

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
    server: Arc<Mutex<grpcio::Server>>,
    /// Where there is TLS, or others get there.
    front: Option<Front>,
    files: Option<TlsThread>,
}

/// One clone for each completion queue.
#[derive(Clone)]
struct Service {
    token_file: Option<PathBuf>,
    /// Who the worker is.
    headers: Metadata,
    connections: Numbered<Connection>,
    accepted: Sender<Accepted>,
}

impl Listener {
    /// Takes the address. `headers`: who the worker is.
    pub(super) fn start(
        address: &str,
        config: &Config,
        env: Arc<Environment>,
        headers: Metadata,
    ) -> Result<(Listener, Receiver<Accepted>), Error> {
        let refused = |why: String| Error::Config(format!("cannot listen on {address}: {why}"));
        let socket = match address.starts_with("unix:") {
            true if config.serve_tls.is_some() => {
                return Err(refused("TLS is spoken on a port, and not on a file".into()));
            }
            true => None,
            // C-core's own error says nothing, so the system is asked first.
            false => Some(TcpListener::bind(address).map_err(|e| refused(e.to_string()))?),
        };
        let bound = socket.as_ref().map(TcpListener::local_addr).transpose().map_err(|e| refused(e.to_string()))?;
        let is_for_others = bound.is_some_and(|bound| !bound.ip().to_canonical().is_loopback());
        if is_for_others {
            check_exposed(address, config).map_err(refused)?;
        }
        let tls = config.serve_tls.clone().map(|files| WatchedTls::read(files, |genuine| genuine)).transpose();
        let tls = tls.map_err(|e| Error::Config(format!("{e} (--tls-cert, --tls-key, --tls-client-ca)")))?;

        let (accepted, streams) = bounded(WAITING);
        let connections = Numbered::default();
        let token_file = config.token_file.clone();
        let service = Service { token_file, headers, connections: connections.clone(), accepted };
        let mut server = build(env, service).map_err(|e| refused(e.to_string()))?;
        let host = address.rsplit_once(':').map_or("", |(host, _)| host);
        let (port, listener) = match socket.filter(|_| tls.is_some() || is_for_others) {
            Some(socket) => {
                server.start();
                let listener = Listener::behind_front(socket, server, tls, connections).map_err(Error::Thread)?;
                (bound.map_or(0, |bound| bound.port()), listener)
            }
            None => {
                let port = server.add_listening_port(address, ServerCredentials::insecure());
                let port = port.map_err(|e| refused(e.to_string()))?;
                server.start();
                (port, Listener { server: Arc::new(Mutex::new(server)), front: None, files: None })
            }
        };
        match bound {
            Some(_) => info!("listening on {host}:{port} for the server to dial"),
            None => info!("listening on {address} for the server to dial"),
        }
        Ok((listener, streams))
    }

    fn behind_front(
        socket: TcpListener,
        server: grpcio::Server,
        tls: Option<WatchedTls>,
        connections: Numbered<Connection>,
    ) -> io::Result<Listener> {
        let (current, plain) = (tls.as_ref().map(WatchedTls::current), tls.is_none());
        let entrance = Entrance { tls: current, plain, plain_here: false, speaks: Speaks::Dialled };
        let files = tls.map(|tls| TlsThread::start(move || tls.look(false))).transpose()?;
        let server = Arc::new(Mutex::new(server));
        let served = Served { server: server.clone(), connections };
        let front = Front::start(socket, entrance, served, BOUNDS, Arc::default())?;
        Ok(Listener { server, front: Some(front), files })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // C-core first: the front waits for what it says last.
        let ended = {
            let mut server = lock(&self.server);
            let ended = server.shutdown();
            server.cancel_all_calls();
            ended
        };
        let _ = block_on(ended);
        self.front.take().into_iter().for_each(Front::stop);
        self.files.take().into_iter().for_each(TlsThread::stop);
    }
}

/// Whether it may be listened where others get.
fn check_exposed(address: &str, config: &Config) -> Result<(), String> {
    match &config.serve_tls {
        None if !config.insecure => {
            return Err("other machines reach it, and whoever is between can read and change what is said: give it a certificate with \
                        --tls-cert and --tls-key, and ask for that of the server with --tls-client-ca; or choose an address of this \
                        machine; or say --insecure if nobody else can get there"
                .into());
        }
        None => warn!("{address} can be used by everyone who reaches it (--insecure)"),
        Some(tls) if tls.client_ca.is_none() && config.token_file.is_none() => warn!(
            "everyone who reaches {address} can give this worker tasks: ask for the certificate of the server with --tls-client-ca, or \
             for its token with --token-file"
        ),
        Some(_) => {}
    }
    Ok(())
}

fn build(env: Arc<Environment>, service: Service) -> grpcio::Result<grpcio::Server> {
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
    let service = create_worker(service, &all_calls());
    ServerBuilder::new(env).channel_args(channel.build_args()).register_service(service).build()
}

fn lock(server: &Mutex<grpcio::Server>) -> MutexGuard<'_, grpcio::Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The worker, as the front sees it.
struct Served {
    server: Arc<Mutex<grpcio::Server>>,
    connections: Numbered<Connection>,
}

/// A connection that came through the front.
struct Connection {
    /// Where from, as C-core names it of a connection that it took itself.
    peer: String,
    /// The certificate that it showed is one of a client.
    is_of_agent: bool,
}

/// A connection, and where it stands.
struct Guest {
    connection: Arc<Connection>,
    /// Known once it is served.
    number: Option<i32>,
    connections: Numbered<Connection>,
}

impl Inside for Served {
    type Guest = Guest;

    fn admit(&self, peer: SocketAddr, certificates: &[CertificateDer<'static>]) -> Option<Guest> {
        let is_of_agent = certificates.first().is_some_and(is_of_agent);
        let connection = Arc::new(Connection { peer: front::as_peer(peer), is_of_agent });
        Some(Guest { connection, number: None, connections: self.connections.clone() })
    }

    fn join(&self, _: SocketAddr, _: &[CertificateDer<'static>], _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn serve(&self, guest: &mut Guest, socket: UnixStream) {
        let number = front::peer_of(&socket);
        guest.number = Some(number);
        self.connections.set(number, guest.connection.clone());
        front::hand_over(&mut lock(&self.server), socket);
    }

    fn refused(&self, peer: SocketAddr, why: &str) {
        static LIMIT: LogLimit = LogLimit::new();
        if let Some(left_out) = LIMIT.take(Instant::now()) {
            warn!("a server at {peer} is not let in: {why}{left_out}");
        }
    }

    fn over(_: &Guest) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(futures::future::pending())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.connections.forget(number, &self.connection);
        }
    }
}

/// Whether a certificate says that it is one of a client, `contact://FLEET/agent/NAME`: the authority that lets in clients may be that of
/// the server, too, and no client is to give another one tasks.
fn is_of_agent(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = parse_x509_certificate(certificate) else { return false };
    let names = parsed.subject_alternative_name().ok().flatten();
    let role = |uri: &str| Some(uri.strip_prefix("contact://")?.split('/').nth(1)? == "agent");
    names.into_iter().flat_map(|names| &names.value.general_names).any(|name| match name {
        GeneralName::URI(uri) => role(uri).unwrap_or(false),
        _ => false,
    })
}

impl Service {
    /// Whether the server shows what this worker wants. The file of the token is read for each stream, so that a new one counts from the
    /// next on.
    fn check(&self, ctx: &RpcContext<'_>, connection: Option<&Connection>) -> Result<(), String> {
        if connection.is_some_and(|connection| connection.is_of_agent) {
            return Err(
                "the certificate that it shows is one of a client (contact://…/agent/…), and no server's".into()
            );
        }
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
        let connection = front::number_of(&peer).and_then(|number| self.connections.get(number));
        let peer = connection.as_ref().map_or(peer, |connection| connection.peer.clone());
        let not_taken = match self.check(&ctx, connection.as_deref()) {
            Err(why) => {
                warn!("a server at {peer} is not let in: {why}");
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;
    use crate::front::ServerTls;

    #[test]
    fn where_others_get_there_is_tls_unless_somebody_takes_the_risk() {
        let check = |config: &Config| check_exposed("0.0.0.0:1", config);
        assert!(check(&Config::default()).unwrap_err().contains("--tls-cert"));
        check(&Config { insecure: true, ..Config::default() }).unwrap();
        let serve_tls = ServerTls { cert: "x.pem".into(), key: "x.key".into(), client_ca: None };
        check(&Config { serve_tls: Some(serve_tls), ..Config::default() }).unwrap();
    }

    #[test]
    fn the_certificate_of_a_client_is_none_of_a_server() {
        let is_of_agent = |uri: &str| {
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
            is_of_agent(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
        };
        for (uri, is) in [
            ("contact://fleet/agent/web-1", true),
            ("contact:///agent/a/b", true),
            ("contact://fleet/operator/agent", false),
            ("spiffe://cluster/ns/agent/sa/contact", false),
        ] {
            assert_eq!(is_of_agent(uri), is, "{uri}");
        }
    }
}
