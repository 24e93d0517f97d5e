//! The client's side: C-core connects to a socket of its own process, and what it says there goes to the server by TLS.
//!
//! Not a pair of sockets, as on a server: a channel over such a pair never connects again, and does not say whether it is
//! connected. The socket is abstract, so no file is left when the process is killed, and takes connections of this process only.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
#[cfg(feature = "ctl")]
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
#[cfg(feature = "ctl")]
use std::net::ToSocketAddrs as _;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use super::files::{FileError, Tls};
use super::relay::{End, Watch, relay};
use super::trouble::{self, Called};
use crate::target;

/// How long TLS may take to begin.
const HANDSHAKE: Duration = Duration::from_secs(10);
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The longest answer of a web proxy, in bytes.
const PROXY_ANSWER: usize = 8 * 1024;

/// A way to one server by TLS. Makes no more connections when it is dropped.
pub(crate) struct Dial {
    target: String,
    trouble: Trouble,
    accepting: AbortHandle,
    _thread: Arc<DialThread>,
}

/// The thread on which TLS is spoken, for any number of servers. Ends with all connections when the last that has it is dropped.
pub(crate) struct DialThread {
    runtime: Handle,
    /// Dropped first: that ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DialThread {
    pub(crate) fn start() -> io::Result<Arc<DialThread>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let handle = runtime.handle().clone();
        let work = move || {
            let _ = runtime.block_on(stopped);
            // Names may still be looked up: nobody waits for them.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("tls".into()).spawn(work)?;
        Ok(Arc::new(DialThread { runtime: handle, stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for DialThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Why the last connection did not come about, or broke.
#[derive(Clone, Default)]
struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    fn set(&self, trouble: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// Why there is no way to a server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("TLS cannot be begun: {0}")]
    Io(#[from] io::Error),
    #[error("{0:?} is no name that a certificate can have")]
    Name(String),
}

impl Dial {
    /// Connects to nothing yet. `each`: how long one address of the server may take.
    pub(crate) fn start(server: &str, tls: &Tls, each: Duration) -> Result<Dial, DialError> {
        // Before a thread is started: what is wrong with files is said at once, not with the first connection.
        tls.config()?;
        Dial::on(&DialThread::start()?, server, tls, each, Called::CLIENT)
    }

    /// The same on a thread that is there. `called`: what words call the two sides.
    pub(crate) fn on(
        thread: &Arc<DialThread>,
        server: &str,
        tls: &Tls,
        each: Duration,
        called: Called,
    ) -> Result<Dial, DialError> {
        let host = super::host(server).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| DialError::Name(host.clone()))?;
        let (listener, target) = listen()?;
        let trouble = Trouble::default();
        let (server, tls) = (server.to_owned(), tls.clone());
        let way = Arc::new(Way { server, host, name, tls, each, called, trouble: trouble.clone() });
        let accepting = thread.runtime.spawn(async move {
            if let Ok(listener) = UnixListener::from_std(listener) {
                way.accept(listener).await;
            }
        });
        Ok(Dial { target, trouble, accepting: accepting.abort_handle(), _thread: thread.clone() })
    }

    /// What C-core connects to.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// Why there is no connection, if the last one failed.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Whether a server with which there is no connection without TLS says that it speaks TLS. Waits for two seconds at most.
#[cfg(feature = "ctl")]
pub(crate) fn speaks_tls(server: &str) -> bool {
    const PATIENCE: Duration = Duration::from_secs(1);
    let ask = || -> io::Result<bool> {
        let address = server.to_socket_addrs()?.next().ok_or(ErrorKind::NotFound)?;
        let mut stream = std::net::TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"PRI * HTTP/2.0\r\n")?;
        let mut answer = String::new();
        stream.take(512).read_to_string(&mut answer)?;
        Ok(answer.contains(super::SPEAKS_TLS))
    };
    ask().unwrap_or(false)
}

/// A socket with a name that nobody can guess, as nobody can find it taken. Who connects is asked for anyhow.
#[cfg(target_os = "linux")]
fn listen() -> io::Result<(std::os::unix::net::UnixListener, String)> {
    use std::os::linux::net::SocketAddrExt as _;
    let name = format!("contact-{:032x}", rand::random::<u128>());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name)?;
    let listener = std::os::unix::net::UnixListener::bind_addr(&address)?;
    listener.set_nonblocking(true)?;
    Ok((listener, format!("unix-abstract:{name}")))
}

/// Other systems have no abstract sockets.
#[cfg(not(target_os = "linux"))]
fn listen() -> io::Result<(std::os::unix::net::UnixListener, String)> {
    Err(io::Error::new(ErrorKind::Unsupported, "TLS of a client needs Linux"))
}

struct Way {
    server: String,
    host: String,
    name: ServerName<'static>,
    tls: Tls,
    each: Duration,
    called: Called,
    trouble: Trouble,
}

impl Way {
    async fn accept(self: Arc<Self>, listener: UnixListener) {
        loop {
            let Ok((inner, _)) = listener.accept().await else {
                // No more files, most likely.
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            };
            let is_ours = inner.peer_cred().is_ok_and(|peer| peer.pid() == i32::try_from(process::id()).ok());
            if is_ours {
                let way = self.clone();
                tokio::spawn(async move {
                    if let Err(trouble) = way.pass(inner).await {
                        way.trouble.set(Some(trouble));
                    }
                });
            }
        }
    }

    /// Makes a connection, and passes on what is said until it ends.
    async fn pass(&self, mut inner: UnixStream) -> Result<(), String> {
        // Told before C-core learns of it, which then says no more than that its socket was closed.
        let told = |trouble: String| {
            self.trouble.set(Some(trouble.clone()));
            trouble
        };
        let config = self.tls.config().map_err(|e| told(e.to_string()))?;
        let socket = self.connect().await.map_err(told)?;
        let _ = socket.set_nodelay(true);
        let connecting = TlsConnector::from(Arc::new(config)).connect(self.name.clone(), socket);
        let connected = tokio::time::timeout(HANDSHAKE, connecting).await;
        let connected = connected.map_err(|_| told("what is there does not begin TLS: it says nothing".into()))?;
        let mut outer = connected.map_err(|e| told(trouble::in_words(&e, &self.host, self.called)))?;
        // The server looks at a certificate after the client has begun: only what it says shows that it took it.
        let mut heard = Heard { trouble: &self.trouble, heard: false };
        let end = relay(&mut outer, &mut inner, Vec::new(), &mut heard).await;
        match end {
            End::Outer(Err(e)) => {
                told(trouble::in_words(&e, &self.host, self.called));
            }
            End::Outer(Ok(())) if !heard.heard => {
                told(format!("the {} ended the connection at once: perhaps it has too many", self.called.other));
            }
            End::Outer(Ok(())) => {}
            End::Inner => drop(tokio::time::timeout(LAST_WORDS, outer.shutdown()).await),
        }
        Ok(())
    }

    /// A connection to the first address that answers, or through the web proxy.
    async fn connect(&self) -> Result<TcpStream, String> {
        if let Some((variable, proxy)) = target::proxy(&self.server) {
            return self.through(&proxy).await.map_err(|e| format!("the proxy of {variable}: {e}"));
        }
        self.reach(&self.server).await
    }

    async fn reach(&self, server: &str) -> Result<TcpStream, String> {
        let addresses: Vec<SocketAddr> = match tokio::net::lookup_host(server).await {
            Ok(addresses) => addresses.collect(),
            Err(e) => return Err(format!("{server} is not known: {e}")),
        };
        let mut trouble = format!("{server} has no address");
        for address in addresses {
            match tokio::time::timeout(self.each, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => return Ok(socket),
                Ok(Err(e)) => trouble = format!("{address}: {e}"),
                Err(_) => trouble = format!("{address} does not answer"),
            }
        }
        Err(trouble)
    }

    /// As gRPC does it: `CONNECT`, with user and password if the variable has them.
    async fn through(&self, proxy: &str) -> Result<TcpStream, String> {
        let proxy = proxy.strip_prefix("http://").unwrap_or(proxy).trim_end_matches('/');
        let (user, address) = proxy.rsplit_once('@').map_or((None, proxy), |(user, address)| (Some(user), address));
        let mut socket = self.reach(address).await?;
        let server = &self.server;
        let mut request = format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n");
        if let Some(user) = user {
            let secret = data_encoding::BASE64.encode(&percent_decode_str(user).collect::<Vec<u8>>());
            request += &format!("Proxy-Authorization: Basic {secret}\r\n");
        }
        request += "\r\n";
        let asked = tokio::time::timeout(HANDSHAKE, async {
            socket.write_all(request.as_bytes()).await?;
            // Byte by byte: what comes after the answer is the server's.
            let (mut answer, mut byte) = (Vec::new(), [0]);
            while !answer.ends_with(b"\r\n\r\n") && answer.len() < PROXY_ANSWER && socket.read(&mut byte).await? > 0 {
                answer.extend(byte);
            }
            io::Result::Ok(answer)
        });
        let answer = asked.await.map_err(|_| "it says nothing".to_owned())?.map_err(|e| e.to_string())?;
        let line = String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
        match line.split(' ').nth(1) {
            Some("200") => Ok(socket),
            _ => Err(format!("it said {:?}", line.chars().take(120).collect::<String>())),
        }
    }
}

/// Notes when the server has said something: then there is no trouble any more.
struct Heard<'a> {
    trouble: &'a Trouble,
    heard: bool,
}

impl Watch for Heard<'_> {
    type Refusal = Infallible;

    fn inward(&mut self, _: &[u8]) -> Result<Duration, Infallible> {
        if !self.heard {
            self.heard = true;
            self.trouble.set(None);
        }
        Ok(Duration::ZERO)
    }

    fn outward(&mut self, _: &mut [u8]) {}
}
