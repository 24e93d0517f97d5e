//! How a connection begins: by TLS or without, as its port takes it. Who begins otherwise is told so.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::{JOIN, SPEAKS_TLS, trouble};

/// The first byte of a connection with TLS: a record of the handshake.
const TLS_BEGINS: u8 = 0x16;
/// How long the end of a connection may take to be told.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);

/// What connections are accepted with from now on. Cheap to clone.
#[derive(Clone)]
pub(crate) struct CurrentTls(Arc<RwLock<Configs>>);

/// For each kind of connection one.
#[derive(Clone)]
pub(crate) struct Configs {
    /// gRPC.
    pub(super) calls: Arc<ServerConfig>,
    /// Those who join: they need show no certificate, and speak nothing else.
    pub(super) joining: Arc<ServerConfig>,
    /// HTTP/1.1: browsers have no certificate, others may show one.
    pub(super) pages: Arc<ServerConfig>,
}

impl CurrentTls {
    pub(crate) fn new(configs: Configs) -> CurrentTls {
        CurrentTls(Arc::new(RwLock::new(configs)))
    }

    /// Those that are there stay as they are.
    pub(crate) fn set(&self, configs: Configs) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = configs;
    }

    fn get(&self) -> Configs {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Grpc,
    Http,
    /// gRPC, with a server that dials.
    Dialled,
}

/// How a port takes connections. One of both is there. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Entrance {
    /// By TLS, with this.
    pub(crate) tls: Option<CurrentTls>,
    /// Also, or only, without.
    pub(crate) plain: bool,
    /// Also without, for those who come from this machine.
    pub(crate) plain_here: bool,
    pub(crate) speaks: Speaks,
}

/// How a connection has begun.
pub(crate) enum Begun {
    Plain(TcpStream),
    /// What the other side has shown is its own, and genuine.
    Tls(Box<TlsStream<TcpStream>>),
    /// By TLS, to join.
    Joins(Box<TlsStream<TcpStream>>),
    /// It went before it had said anything.
    Gone,
    /// In a wrong way, of which the other side is still to be told.
    Wrong(Wrong),
}

/// What is wrong with how a connection begins.
pub(crate) struct Wrong {
    /// For the log.
    pub(crate) why: String,
    socket: Option<TcpStream>,
    words: Option<String>,
}

impl Entrance {
    /// Reads until it is known how the connection begins. The caller says for how long.
    pub(crate) async fn greet(&self, socket: TcpStream) -> Begun {
        let mut first = [0];
        match socket.peek(&mut first).await {
            Err(_) | Ok(0) => return Begun::Gone,
            Ok(_) => {}
        }
        let wrong = |why: &str, socket, words| Begun::Wrong(Wrong { why: why.to_owned(), socket, words });
        let tls = match (first[0] == TLS_BEGINS, &self.tls) {
            (true, Some(tls)) => tls,
            (true, None) => {
                return wrong("it begins with TLS, which is not spoken here", Some(socket), Some(self.no_tls()));
            }
            (false, _) if self.plain || self.plain_here && is_from_here(&socket) => return Begun::Plain(socket),
            (false, _) => return wrong("it does not begin with TLS", Some(socket), Some(self.speak_tls())),
        };
        let greeting = match LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await {
            Ok(greeting) => greeting,
            Err(e) => return wrong(&trouble::of_arrival(&e), None, None),
        };
        let is_grpc = self.speaks == Speaks::Grpc;
        let joins = is_grpc && greeting.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == JOIN));
        let configs = tls.get();
        let config = match (self.speaks, joins) {
            (Speaks::Http, _) => configs.pages,
            (Speaks::Grpc, true) => configs.joining,
            (Speaks::Grpc | Speaks::Dialled, _) => configs.calls,
        };
        match greeting.into_stream(config).into_fallible().await {
            Ok(stream) if joins => Begun::Joins(Box::new(stream)),
            Ok(stream) => Begun::Tls(Box::new(stream)),
            // The alert that says it is on its way.
            Err((e, socket)) => wrong(&trouble::of_arrival(&e), Some(socket), None),
        }
    }

    fn speak_tls(&self) -> String {
        let how = match self.speaks {
            Speaks::Grpc => "give the client --tls-ca",
            Speaks::Dialled => "give the server --dial-tls-ca",
            Speaks::Http => "ask with https://",
        };
        format!("{SPEAKS_TLS}: {how}")
    }

    fn no_tls(&self) -> String {
        let how = match self.speaks {
            Speaks::Grpc => "leave out --tls-ca",
            Speaks::Dialled => "leave out --dial-tls-ca, or give the worker --tls-cert",
            Speaks::Http => "ask with http://",
        };
        format!("this port does not speak TLS: {how}")
    }
}

fn is_from_here(socket: &TcpStream) -> bool {
    socket.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback())
}

impl Wrong {
    /// Tells the other side. In HTTP/1: browsers show that, gRPC and `contact-client` as well, and programs that expect TLS look whether
    /// it comes instead. GOAWAY would have gRPC try again in silence.
    pub(crate) async fn tell(self) {
        let Some(socket) = self.socket else { return };
        if let Some(words) = self.words {
            let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n";
            // It fits into the buffer of a new socket.
            let _ = socket.try_write(format!("{head}{words}\n").as_bytes());
        }
        end(socket).await;
    }
}

/// Ends a connection whose other side may still be writing. If that was not read, the system would take back what was said last.
async fn end(mut socket: TcpStream) {
    let _ = socket.shutdown().await;
    let rest = async {
        let mut space = [0; 1024];
        while matches!(socket.read(&mut space).await, Ok(1..)) {}
    };
    let _ = tokio::time::timeout(LAST_WORDS, rest).await;
}
