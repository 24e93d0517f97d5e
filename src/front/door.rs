//! The server's side: takes connections, within bounds, and gives those that may come in to C-core.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::{self, Either};
use log::{debug, warn};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_rustls::LazyConfigAcceptor;

use super::frames::{Abuse, Frames};
use super::places::Places;
use super::relay::{self, End, relay};
use super::{JOIN, LONGEST};

/// From when a connection is accepted until TLS has begun and the first frame has come.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The first byte of a connection with TLS: a record of the handshake.
const TLS_BEGINS: u8 = 0x16;
/// How long the end of a connection may take to be told.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often it is looked whether all connections have ended.
const LOOK: Duration = Duration::from_millis(10);
/// How long nothing is accepted when the system has no more files.
const NO_FILES: Duration = Duration::from_millis(200);

/// What a front asks, and to whom it gives connections.
pub(crate) trait Inside: Send + Sync + 'static {
    /// A connection that was let in. Dropped when it has ended.
    type Guest: Send + 'static;

    /// Whether a connection is let in. `certificates`: those that the peer has shown, and proven to be its own.
    fn admit(&self, peer: SocketAddr, certificates: &[CertificateDer<'static>]) -> Option<Self::Guest>;

    /// Answers one who wants to join. `None`: nobody can.
    fn join(&self, peer: SocketAddr, certificates: &[CertificateDer<'static>], request: &[u8]) -> Option<Vec<u8>>;

    /// Serves HTTP/2 on this socket.
    fn serve(&self, guest: &mut Self::Guest, socket: StdUnixStream);

    /// Resolves when the connection is to be ended.
    fn over(guest: &Self::Guest) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// How much is taken at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Connections, in all and from one address (of IPv6: from one network of 64 bits).
    pub(crate) connections: usize,
    pub(crate) for_address: usize,
    /// Connections that have not said anything yet, in all and from one address. In all: of more, the oldest are closed.
    pub(crate) arriving: usize,
    pub(crate) arriving_for_address: usize,
}

/// Why a connection was not let in, or was cut.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refused {
    /// There were too many, in all or of its address.
    TooMany,
    /// It did not say what it is to say within ten seconds, or many others came after it.
    Slow,
    /// TLS failed: no TLS, no certificate, or a wrong one.
    Tls,
    /// It sent more frames than any client.
    Flood,
}

impl Refused {
    const ALL: [(Refused, &str); 4] =
        [(Refused::TooMany, "too_many"), (Refused::Slow, "slow"), (Refused::Tls, "tls"), (Refused::Flood, "flood")];
}

/// What is counted of all fronts of a server.
#[derive(Default)]
pub(crate) struct Counts {
    open: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
}

impl Counts {
    /// Connections that are open.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// How many were refused so far, by reason.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Refused::ALL.into_iter().map(|(why, name)| (name, self.refused[why as usize].load(Relaxed)))
    }

    fn refuse(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Relaxed);
    }
}

/// What connections are accepted with from now on. Cheap to clone.
#[derive(Clone)]
pub(crate) struct CurrentTls(Arc<RwLock<Configs>>);

/// For those who call, and for those who join.
type Configs = [Arc<ServerConfig>; 2];

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

struct Shared<I> {
    inside: I,
    tls: CurrentTls,
    /// Whether what does not begin with TLS is let in as it is.
    plain: bool,
    bounds: Bounds,
    places: Arc<Places>,
    arriving_places: Places,
    arriving: Mutex<Arriving>,
    counts: Arc<Counts>,
}

/// Connections that have not said anything yet, oldest first.
#[derive(Default)]
struct Arriving {
    last: u64,
    tasks: VecDeque<(u64, Option<AbortHandle>)>,
}

/// A port with its connections. Owns its threads until [`Front::stop`].
pub(crate) struct Front {
    runtime: Runtime,
    places: Arc<Places>,
    is_open: watch::Sender<bool>,
}

impl Front {
    /// Takes connections with TLS on a socket that is bound; `plain`: also such without.
    pub(crate) fn start<I: Inside>(
        listener: std::net::TcpListener,
        tls: CurrentTls,
        plain: bool,
        inside: I,
        bounds: Bounds,
        counts: Arc<Counts>,
    ) -> io::Result<Front> {
        listener.set_nonblocking(true)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().thread_name("front").enable_io().enable_time().build()?;
        let places = Arc::new(Places::new(bounds.connections, bounds.for_address));
        let (is_open, opened) = watch::channel(true);
        let shared = Arc::new(Shared {
            inside,
            tls,
            plain,
            bounds,
            places: places.clone(),
            arriving_places: Places::new(usize::MAX, bounds.arriving_for_address),
            arriving: Mutex::default(),
            counts,
        });
        let listener = {
            let _runtime = runtime.enter();
            TcpListener::from_std(listener)?
        };
        runtime.spawn(accept(listener, shared, opened));
        Ok(Front { runtime, places, is_open })
    }

    /// Takes no more connections. Those that are there go on.
    pub(crate) fn close(&self) {
        self.is_open.send_replace(false);
    }

    /// Cuts the connections that are left, and joins the threads.
    pub(crate) fn stop(self) {
        self.close();
        // C-core has closed its ends: what it said last may still be on its way.
        self.runtime.block_on(async {
            let all_gone = async {
                while !self.places.are_free() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            let _ = tokio::time::timeout(LAST_WORDS, all_gone).await;
        });
        self.runtime.shutdown_timeout(LAST_WORDS);
    }
}

/// Accepts until the front is closed.
async fn accept<I: Inside>(listener: TcpListener, shared: Arc<Shared<I>>, mut is_open: watch::Receiver<bool>) {
    loop {
        let accepted = {
            let closed = pin!(is_open.wait_for(|open| !open));
            match future::select(pin!(listener.accept()), closed).await {
                Either::Left((accepted, _)) => accepted,
                Either::Right(_) => return,
            }
        };
        match accepted {
            Ok((socket, peer)) => shared.arrive(socket, peer),
            // It was gone before it was accepted.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                warn!("no connection can be taken: {e}");
                tokio::time::sleep(NO_FILES).await;
            }
        }
    }
}

impl<I: Inside> Shared<I> {
    /// A connection came.
    fn arrive(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        let places = (self.places.take(peer.ip()), self.arriving_places.take(peer.ip()));
        let (Ok(place), Ok(arriving_place)) = places else {
            debug!("a connection from {peer} is one too many");
            return self.counts.refuse(Refused::TooMany);
        };
        // Without this each message waits for the answer to the one before.
        let _ = socket.set_nodelay(true);
        let number = self.began();
        let shared = self.clone();
        let task = tokio::spawn(async move {
            // Counted also when the task is aborted.
            let arrival = Arrival { shared: &shared, number, is_in: false };
            shared.clone().converse(socket, peer, arrival, arriving_place).await;
            drop(place);
        });
        self.may_be_aborted(number, task.abort_handle());
    }

    fn began(&self) -> u64 {
        let mut arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        arriving.last += 1;
        let number = arriving.last;
        arriving.tasks.push_back((number, None));
        number
    }

    /// Who stays silent makes room for those who come after: legitimate ones need a second at most.
    fn may_be_aborted(&self, number: u64, task: AbortHandle) {
        let mut arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, handle)) = arriving.tasks.iter_mut().rfind(|(it, _)| *it == number) {
            *handle = Some(task);
        }
        if arriving.tasks.len() > self.bounds.arriving {
            let oldest = arriving.tasks.pop_front();
            drop(arriving);
            if let Some((_, Some(oldest))) = oldest {
                oldest.abort();
            }
        }
    }

    async fn converse(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        arrival: Arrival<'_, I>,
        arriving_place: impl Send,
    ) {
        let began = Instant::now();
        let mut first = [0];
        let looked = tokio::time::timeout(HANDSHAKE, socket.peek(&mut first)).await;
        match looked {
            Err(_) => return debug!("{peer} says nothing"),
            Ok(Err(_) | Ok(0)) => return arrival.ended(),
            Ok(Ok(_)) if first[0] == TLS_BEGINS => {}
            Ok(Ok(_)) if self.plain => {
                return self.inner(socket, peer, &[], began, arrival, arriving_place).await;
            }
            Ok(Ok(_)) => {
                self.counts.refuse(Refused::Tls);
                debug!("{peer} does not begin with TLS");
                speak_tls(socket).await;
                return arrival.ended();
            }
        }
        let left = HANDSHAKE.saturating_sub(began.elapsed());
        let mut joins = false;
        let accepting = async {
            let greeting = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await;
            let greeting = greeting.map_err(|e| (e, None))?;
            joins = greeting.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == JOIN));
            let [calls, joining] = self.tls.get();
            let accepted = greeting.into_stream(if joins { joining } else { calls }).into_fallible().await;
            accepted.map_err(|(e, socket)| (e, Some(socket)))
        };
        match tokio::time::timeout(left, accepting).await {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
                if joins {
                    let left = HANDSHAKE.saturating_sub(began.elapsed());
                    match tokio::time::timeout(left, self.join(stream, peer, &certificates)).await {
                        Ok(()) => arrival.ended(),
                        Err(_) => debug!("{peer} was too slow to join"),
                    }
                } else {
                    self.inner(stream, peer, &certificates, began, arrival, arriving_place).await;
                }
            }
            Ok(Err((e, socket))) => {
                self.counts.refuse(Refused::Tls);
                debug!("no TLS with {peer}: {e}");
                // The other side is told what is wrong.
                if let Some(socket) = socket {
                    end(socket).await;
                }
                arrival.ended();
            }
            Err(_) => debug!("{peer} was too slow"),
        }
    }

    /// One message, its answer, and the end.
    async fn join<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        peer: SocketAddr,
        certificates: &[CertificateDer<'static>],
    ) {
        let mut length = [0; 4];
        if read_whole(&mut stream, &mut length).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes(length) as usize;
        let mut request = vec![0; length.min(LONGEST)];
        if length > LONGEST || read_whole(&mut stream, &mut request).await.is_err() {
            return;
        }
        // It writes a file.
        if let Some(answer) = tokio::task::block_in_place(|| self.inside.join(peer, certificates, &request)) {
            let length = u32::try_from(answer.len()).unwrap_or(u32::MAX).to_be_bytes();
            let answer = [&length[..], &answer].concat();
            let mut rest = answer.as_slice();
            while !rest.is_empty() {
                match future::poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, rest)).await {
                    Ok(written @ 1..) => rest = &rest[written..],
                    _ => return,
                }
            }
        }
        let _ = relay::shut(&mut stream).await;
    }

    /// What is inside of TLS.
    async fn inner<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut outer: S,
        peer: SocketAddr,
        certificates: &[CertificateDer<'static>],
        began: Instant,
        arrival: Arrival<'_, I>,
        arriving_place: impl Send,
    ) {
        let mut frames = Box::new(Frames::new(began));
        let left = HANDSHAKE.saturating_sub(began.elapsed());
        let first = match tokio::time::timeout(left, first_words(&mut outer, &mut frames)).await {
            Ok(Ok(first)) => first,
            Ok(Err(why)) => {
                debug!("{peer} does not speak HTTP/2: {why}");
                return arrival.ended();
            }
            Err(_) => return debug!("{peer} was too slow"),
        };
        let Some(mut guest) = self.inside.admit(peer, certificates) else {
            self.counts.refuse(Refused::Tls);
            return arrival.ended();
        };
        let pair = StdUnixStream::pair().and_then(|(ours, theirs)| {
            ours.set_nonblocking(true)?;
            theirs.set_nonblocking(true)?;
            Ok((UnixStream::from_std(ours)?, theirs))
        });
        let (mut inner, theirs) = match pair {
            Ok(pair) => pair,
            Err(e) => {
                warn!("a connection cannot be served: {e}");
                return arrival.ended();
            }
        };
        self.inside.serve(&mut guest, theirs);
        arrival.ended();
        drop(arriving_place);
        let _open = Open::count(&self.counts);
        let look = |bytes: &[u8]| frames.see(bytes, Instant::now());
        let end = {
            let passing = pin!(relay(&mut outer, &mut inner, first, look));
            match future::select(passing, I::over(&guest)).await {
                Either::Left((end, _)) => end,
                Either::Right(_) => End::Inner,
            }
        };
        match end {
            End::Refused(abuse) => {
                self.counts.refuse(Refused::Flood);
                warn!("{peer} was cut off: {}", in_words(abuse));
            }
            End::Inner => drop(tokio::time::timeout(LAST_WORDS, relay::shut(&mut outer)).await),
            End::Outer(ended) => debug!("{peer} has gone: {ended:?}"),
        }
    }
}

/// Tells one that does not. In HTTP/1, which gRPC, browsers and `contact-client` show; GOAWAY would have gRPC try again in silence.
async fn speak_tls(socket: TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
        this port speaks TLS: give the client --tls-ca\n";
    // It fits into the buffer of a new socket.
    let _ = socket.try_write(ANSWER);
    end(socket).await;
}

/// Ends a connection whose other side may still be writing. If that was not read, the system would take back what was said last.
async fn end(mut socket: TcpStream) {
    let _ = relay::shut(&mut socket).await;
    let _ = tokio::time::timeout(LAST_WORDS, async {
        let mut space = [0; 1024];
        loop {
            let mut read = ReadBuf::new(&mut space);
            let came = future::poll_fn(|cx| Pin::new(&mut socket).poll_read(cx, &mut read)).await;
            if came.is_err() || read.filled().is_empty() {
                return;
            }
        }
    })
    .await;
}

fn in_words(abuse: Abuse) -> String {
    match abuse {
        Abuse::TooMany(what) => format!("too many {what} a second"),
        Abuse::NotHttp2 => "it does not speak HTTP/2".into(),
        Abuse::EndlessHeaders => "headers without an end".into(),
    }
}

async fn read_whole(from: &mut (impl AsyncRead + Unpin), whole: &mut [u8]) -> io::Result<()> {
    let mut read = ReadBuf::new(whole);
    while read.remaining() > 0 {
        let before = read.filled().len();
        future::poll_fn(|cx| Pin::new(&mut *from).poll_read(cx, &mut read)).await?;
        if read.filled().len() == before {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Reads until a client has begun to speak.
async fn first_words(outer: &mut (impl AsyncRead + Unpin), frames: &mut Frames) -> Result<Vec<u8>, String> {
    let mut words = Vec::new();
    while !frames.begun() {
        let mut space = [0; 256];
        let mut read = ReadBuf::new(&mut space);
        let came = future::poll_fn(|cx: &mut Context<'_>| -> Poll<io::Result<()>> {
            Pin::new(&mut *outer).poll_read(cx, &mut read)
        });
        came.await.map_err(|e| e.to_string())?;
        if read.filled().is_empty() {
            return Err("it said nothing".into());
        }
        let _ = frames.see(read.filled(), Instant::now()).map_err(in_words)?;
        words.extend_from_slice(read.filled());
    }
    Ok(words)
}

/// A connection that has not said anything yet. One that is dropped before it has is counted as slow.
struct Arrival<'a, I> {
    shared: &'a Shared<I>,
    number: u64,
    is_in: bool,
}

impl<I> Arrival<'_, I> {
    fn ended(mut self) {
        self.is_in = true;
    }
}

impl<I> Drop for Arrival<'_, I> {
    fn drop(&mut self) {
        let mut arriving = self.shared.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        arriving.tasks.retain(|(number, _)| *number != self.number);
        if !self.is_in {
            self.shared.counts.refuse(Refused::Slow);
        }
    }
}

struct Open<'a>(&'a Counts);

impl<'a> Open<'a> {
    fn count(counts: &'a Counts) -> Open<'a> {
        counts.open.fetch_add(1, Relaxed);
        Open(counts)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
