//! The ports that C-core serves: behind a front if there is TLS, or if others reach them; else by itself.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grpcio::{ChannelBuilder, Environment, ResourceQuota, ServerBuilder, ServerCredentials, Service, ShutdownFuture};
use log::warn;

use super::admission::CallLimits;
use super::config::ServerError;
use super::grants::Grants;
use super::identity::{Connections, Served};
use super::roles::Role;
use super::tls::Tls;
use super::{bind, host};
use crate::front::{Bounds, Counts, Entrance, Front, Speaks};

/// Most connections of one address, if there is room for so many. Where an address may have more calls than usual, for it is that of a
/// proxy, a third as many connections as calls: a client has up to three.
const FOR_ADDRESS: usize = 4096;
/// Most connections of operators.
const OPERATORS: usize = 256;
/// Most that have not said anything yet, and of one address. A fleet that comes back at once has so many in a moment.
const ARRIVING: usize = 1024;
const ARRIVING_FOR_ADDRESS: usize = 256;

/// A message holds one text and what describes it; a request of operators holds many.
pub(super) const BESIDE_TEXT: usize = 64 * 1024;
/// A new connection has so long to speak HTTP/2.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection without a call is closed after this. A client that comes back to it connects anew, by itself.
const WITHOUT_CALLS: Duration = Duration::from_secs(5 * 60);

/// What ports have in common.
pub(super) struct Ports<'a> {
    pub(super) env: &'a Arc<Environment>,
    pub(super) tls: Option<&'a Tls>,
    pub(super) insecure: bool,
    /// Also those who show no certificate.
    pub(super) callers_say_who_they_are: bool,
    pub(super) connections: Connections,
    pub(super) grants: Grants,
    pub(super) counts: Arc<Counts>,
    /// Most calls at once.
    pub(super) calls: CallLimits,
    /// Most memory of each, as C-core counts it, in bytes.
    pub(super) memory: usize,
}

/// One that is served. To be closed at the end.
pub(super) struct Port {
    server: Arc<Mutex<grpcio::Server>>,
    front: Option<Front>,
    address: String,
}

/// What one needs of what is served on it.
pub(super) struct Kind {
    /// The setting that says where.
    pub(super) flag: &'static str,
    /// Who comes here.
    pub(super) role: Role,
    /// Requests that may wait for each completion queue.
    pub(super) slots: usize,
    /// The longest message, in bytes.
    pub(super) message: usize,
}

impl Ports<'_> {
    /// Takes the port, and serves on it.
    pub(super) fn open(
        &self,
        services: impl IntoIterator<Item = Service>,
        address: &str,
        kind: Kind,
    ) -> Result<Port, ServerError> {
        let Kind { flag, role, .. } = kind;
        let start = |why: String| ServerError::Start(why);
        let (listener, bound) = bind(address, flag)?;
        let is_here = is_of_this_machine(&listener);
        // Operators of this machine need no TLS: who is on it can read the store. Where others reach the port, too, somebody may
        // pass on connections here, so operators need their token.
        let open_here = role == Role::Operator && (is_here || self.callers_say_who_they_are);
        let entrance = entrance(self.tls, self.insecure, (is_here, address, flag), open_here, Speaks::Grpc)?;
        // What is for this machine alone is as fast as C-core is.
        let has_front = !is_here || entrance.tls.is_some();
        let mut server = self.build(services, &kind, has_front).map_err(|e| start(e.to_string()))?;
        if !has_front {
            // C-core's own error says nothing, so the system was asked first. With port 0 it takes one of its own: that which was free
            // a moment ago may be another's by now.
            drop(listener);
            let refused = |why: String| ServerError::Listen { address: address.to_owned(), flag, why };
            let port = server.add_listening_port(address, ServerCredentials::insecure());
            let port = port.map_err(|e| refused(e.to_string()))?;
            server.start();
            let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
            return Ok(Port { server: Arc::new(Mutex::new(server)), front: None, address: format!("{host}:{port}") });
        }
        server.start();
        let server = Arc::new(Mutex::new(server));
        let asks = self.tls.is_some_and(Tls::asks_for_certificates);
        let inside = Served {
            server: server.clone(),
            connections: self.connections.clone(),
            asks,
            operators_only: asks && role == Role::Operator,
            open_here,
            authority: self.tls.and_then(Tls::authority).cloned(),
            grants: self.grants.clone(),
        };
        let front = Front::start(listener, entrance, inside, self.bounds(role), self.counts.clone());
        let front = Some(front.map_err(|e| start(e.to_string()))?);
        Ok(Port { server, front, address: bound })
    }

    /// A connection through a front has three files: two of the pair of sockets.
    fn bounds(&self, role: Role) -> Bounds {
        let connections = match role {
            Role::Agent => (host::clients() / 3).max(1),
            _ => OPERATORS,
        };
        let is_usual = self.calls.per_address <= CallLimits::default().per_address;
        let for_address = if is_usual { FOR_ADDRESS } else { self.calls.per_address / 3 };
        Bounds {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            connections,
            for_address: for_address.min(connections),
            arriving: ARRIVING,
            arriving_for_address: ARRIVING_FOR_ADDRESS,
        }
    }

    fn build(
        &self,
        services: impl IntoIterator<Item = Service>,
        kind: &Kind,
        has_front: bool,
    ) -> grpcio::Result<grpcio::Server> {
        let args = self.channel(kind, has_front).build_args();
        let builder = ServerBuilder::new(self.env.clone()).channel_args(args).requests_slot_per_cq(kind.slots);
        services.into_iter().fold(builder, ServerBuilder::register_service).build()
    }

    fn channel(&self, kind: &Kind, has_front: bool) -> ChannelBuilder {
        let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        bounded(ChannelBuilder::new(self.env.clone()), kind.message)
            .max_concurrent_stream(i32::try_from(self.calls.per_connection).unwrap_or(i32::MAX))
            .set_resource_quota(ResourceQuota::new(Some(kind.flag)).resize_memory(self.memory))
            // Where there is a front, it cuts down what C-core gives to streams.
            .http2_bdp_probe(has_front)
            .raw_cfg_int(c"grpc.server_handshake_timeout_ms".into(), millis(HANDSHAKE))
            .raw_cfg_int(c"grpc.max_connection_idle_ms".into(), millis(WITHOUT_CALLS))
            // What C-core keeps of each connection for its own diagnosis, which nobody can ask for, and for sending without a copy,
            // which is off: a kilobyte and a half.
            .raw_cfg_int(c"grpc.enable_channelz".into(), 0)
            .raw_cfg_int(c"grpc.experimental.tcp_tx_zerocopy_max_simultaneous_sends".into(), 1)
            // Two servers on one port would share its clients between them.
            .reuse_port(false)
            // A client that is gone without a word is noticed within 20 + 10 s.
            .keepalive_time(Duration::from_secs(20))
            .keepalive_timeout(Duration::from_secs(10))
            .keepalive_permit_without_calls(true)
            // Clients may ping every 5 s, and a bit sooner when they were held up, also without calls: idle is what they mostly are.
            .http2_min_recv_ping_interval_without_data(Duration::from_secs(2))
            .http2_max_pings_without_data(0)
    }
}

/// Bounds what one connection takes, whoever opened it; `message`: the longest one, in bytes.
pub(super) fn bounded(channel: ChannelBuilder, message: usize) -> ChannelBuilder {
    channel
        .max_receive_message_len(i32::try_from(message).unwrap_or(i32::MAX))
        // Otherwise C-core makes the windows of a busy connection larger and larger, up to 32 MiB for each stream, and takes as much
        // of a stream that nobody reads. So a connection, and a stream, has 64 KiB, and what a message needs that is being read.
        .http2_bdp_probe(false)
        // A compressed message may become a thousand times as large, past every limit. The first refuses calls that announce such
        // messages, and tells clients so; with the second, nothing is inflated.
        .raw_cfg_int(c"grpc.compression_enabled_algorithms_bitset".into(), 1)
        .raw_cfg_int(c"grpc.per_message_decompression".into(), 0)
}

impl Port {
    /// The address, with the port that was taken.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Takes no more connections and calls. Resolves when the last call has ended.
    pub(super) fn shutdown(&self) -> ShutdownFuture {
        if let Some(front) = &self.front {
            front.close();
        }
        self.lock().shutdown()
    }

    /// Cancels the calls that are left.
    pub(super) fn cancel(&self) {
        self.lock().cancel_all_calls();
    }

    /// Ends the connections that are left, with their threads.
    pub(super) fn close(self) {
        if let Some(front) = self.front {
            front.stop();
        }
    }

    fn lock(&self) -> MutexGuard<'_, grpcio::Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a port takes connections: by TLS, if there is TLS; without it, if only this machine gets there, or `insecure`. `open_here`: who
/// comes from this machine may do without.
pub(super) fn entrance(
    tls: Option<&Tls>,
    insecure: bool,
    (is_here, address, flag): (bool, &str, &'static str),
    open_here: bool,
    speaks: Speaks,
) -> Result<Entrance, ServerError> {
    check_exposed(tls, insecure, (is_here, address, flag))?;
    if tls.is_none() && !is_here {
        warn!("{address} can be used by everyone who reaches it (--insecure)");
    }
    Ok(Entrance { tls: tls.map(Tls::current), plain: tls.is_none(), plain_here: open_here, speaks })
}

/// Others reach it only by TLS, or where nobody else gets there.
fn check_exposed(
    tls: Option<&Tls>,
    insecure: bool,
    (is_here, address, flag): (bool, &str, &'static str),
) -> Result<(), ServerError> {
    if tls.is_none() && !is_here && !insecure {
        return Err(ServerError::Exposed { address: address.to_owned(), flag });
    }
    Ok(())
}

/// Whether all ports can be taken as they are set. Takes none: a server that has to wait for something else first says at once what is wrong
/// with them.
#[cfg(feature = "cluster")]
pub(super) fn check_all(config: &super::Config) -> Result<(), ServerError> {
    let tls = config.tls.clone().map(|files| Tls::read(files, None)).transpose()?;
    let http = config.http.as_ref().map(|http| (http, "--http"));
    for (address, flag) in [(&config.listen, "--listen"), (&config.control, "--control")].into_iter().chain(http) {
        let (listener, _) = bind(address, flag)?;
        check_exposed(tls.as_ref(), config.insecure, (is_of_this_machine(&listener), address, flag))?;
    }
    Ok(())
}

/// Whether only this machine gets there.
pub(super) fn is_of_this_machine(listener: &TcpListener) -> bool {
    listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback())
}
