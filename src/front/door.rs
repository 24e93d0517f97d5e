//! The server's side: takes connections, within bounds, and gives those that may come in to C-core.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures::future::{self, Either};
use log::{debug, warn};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

use super::LONGEST;
use super::credit::Credit;
use super::frames::{Abuse, Frames};
use super::greeting::{Begun, Entrance, LAST_WORDS};
use super::places::{Place, Places, Stage};
use super::relay::{End, Watch, relay};
use crate::log_limit::LogLimit;

/// From when a connection is accepted until TLS, if it is spoken, has begun and the first frame has come.
const HANDSHAKE: Duration = Duration::from_secs(10);
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

    /// Hears why a connection did not begin as it is to.
    fn refused(&self, peer: SocketAddr, why: &str) {
        debug!("no connection with {peer}: {why}");
    }

    /// Resolves when the connection is to be ended.
    fn over(guest: &Self::Guest) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// How much is taken at once, and by how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Threads that pass it on.
    pub(crate) threads: usize,
    /// Connections, in all and from one address (of IPv6: from one network of 64 bits).
    pub(crate) connections: usize,
    pub(crate) for_address: usize,
    /// Connections that have not said anything yet, in all and from one address: of more, the oldest are closed.
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
    /// It did not begin as it is to: no TLS, or TLS where there is none; no certificate, or a wrong one.
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

    /// Counts one.
    pub(crate) fn refuse(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Relaxed);
    }
}

struct Shared<I> {
    inside: I,
    entrance: Entrance,
    places: Places,
    /// For those that have not said anything yet. Who stays silent makes room for those who come after: legitimate ones need a second
    /// at most.
    arriving: Places,
    counts: Arc<Counts>,
}

/// A port with its connections. Owns its threads until [`Front::stop`].
pub(crate) struct Front {
    runtime: Runtime,
    places: Places,
    is_open: watch::Sender<bool>,
}

impl Front {
    /// Takes connections on a socket that is bound.
    pub(crate) fn start<I: Inside>(
        listener: std::net::TcpListener,
        entrance: Entrance,
        inside: I,
        bounds: Bounds,
        counts: Arc<Counts>,
    ) -> io::Result<Front> {
        listener.set_nonblocking(true)?;
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(bounds.threads).thread_name("front").enable_io().enable_time().build()?;
        let places = Places::new(bounds.connections, bounds.for_address);
        let (is_open, opened) = watch::channel(true);
        let shared = Arc::new(Shared {
            inside,
            entrance,
            places: places.clone(),
            arriving: Places::new(bounds.arriving, bounds.arriving_for_address),
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
                while self.places.taken() > 0 {
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
        let place = self.places.take(peer.ip(), Stage::AtWork);
        let arriving = place.as_ref().and_then(|_| self.arriving.take(peer.ip(), Stage::Asking));
        let (Some(place), Some(arriving)) = (place, arriving) else {
            debug!("a connection from {peer} is one too many");
            return self.counts.refuse(Refused::TooMany);
        };
        // Without this each message waits for the answer to the one before.
        let _ = socket.set_nodelay(true);
        let arriving = Arc::new(arriving);
        let shared = self.clone();
        let arrival = Arrival { counts: self.counts.clone(), _place: arriving.clone(), is_in: false };
        let task = tokio::spawn(async move {
            shared.converse(socket, peer, arrival).await;
            drop(place);
        });
        arriving.is_of(task.abort_handle());
    }

    async fn converse(&self, socket: TcpStream, peer: SocketAddr, arrival: Arrival) {
        let began = Instant::now();
        let Ok(begun) = tokio::time::timeout(HANDSHAKE, self.entrance.greet(socket)).await else {
            return debug!("{peer} was too slow");
        };
        match begun {
            Begun::Gone => arrival.ended(),
            Begun::Plain(socket) => self.inner(socket, peer, &[], began, arrival).await,
            Begun::Tls(stream) => {
                let certificates = certificates(&stream);
                self.inner(stream, peer, &certificates, began, arrival).await;
            }
            Begun::Joins(stream) => {
                let certificates = certificates(&stream);
                let left = HANDSHAKE.saturating_sub(began.elapsed());
                match tokio::time::timeout(left, self.join(stream, peer, &certificates)).await {
                    Ok(()) => arrival.ended(),
                    Err(_) => debug!("{peer} was too slow to join"),
                }
            }
            Begun::Wrong(wrong) => {
                self.counts.refuse(Refused::Tls);
                self.inside.refused(peer, &wrong.why);
                wrong.tell().await;
                arrival.ended();
            }
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
        if stream.read_exact(&mut length).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes(length) as usize;
        let mut request = vec![0; length.min(LONGEST)];
        if length > LONGEST || stream.read_exact(&mut request).await.is_err() {
            return;
        }
        // It writes a file.
        if let Some(answer) = tokio::task::block_in_place(|| self.inside.join(peer, certificates, &request)) {
            let length = u32::try_from(answer.len()).unwrap_or(u32::MAX).to_be_bytes();
            if stream.write_all(&[&length[..], &answer].concat()).await.is_err() {
                return;
            }
        }
        let _ = stream.shutdown().await;
    }

    /// What is inside of TLS, or is spoken without.
    async fn inner<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut outer: S,
        peer: SocketAddr,
        certificates: &[CertificateDer<'static>],
        began: Instant,
        arrival: Arrival,
    ) {
        let mut watched = Box::new(Watched { frames: Frames::new(began), credit: Credit::default() });
        let left = HANDSHAKE.saturating_sub(began.elapsed());
        let first = match tokio::time::timeout(left, first_words(&mut outer, &mut watched)).await {
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
        let _open = Open::count(&self.counts);
        let end = {
            let passing = pin!(relay(&mut outer, &mut inner, first, watched.as_mut()));
            match future::select(passing, I::over(&guest)).await {
                Either::Left((end, _)) => end,
                Either::Right(_) => End::Inner,
            }
        };
        match end {
            End::Refused(abuse) => {
                self.counts.refuse(Refused::Flood);
                static LIMIT: LogLimit = LogLimit::new();
                if let Some(left_out) = LIMIT.take(Instant::now()) {
                    warn!("{peer} was cut off: {}{left_out}", in_words(abuse));
                }
            }
            End::Inner => drop(tokio::time::timeout(LAST_WORDS, outer.shutdown()).await),
            End::Outer(ended) => debug!("{peer} has gone: {ended:?}"),
        }
    }
}

/// What passes through a front.
struct Watched {
    frames: Frames,
    credit: Credit,
}

impl Watch for Watched {
    type Refusal = Abuse;

    fn inward(&mut self, bytes: &[u8]) -> Result<Duration, Abuse> {
        self.frames.see(bytes, Instant::now(), |stream| self.credit.over(stream))
    }

    fn outward(&mut self, bytes: &mut [u8]) {
        self.credit.change(bytes);
    }
}

fn in_words(abuse: Abuse) -> String {
    match abuse {
        Abuse::TooMany(what) => format!("too many {what} a second"),
        Abuse::NotHttp2 => "it does not speak HTTP/2".into(),
        Abuse::EndlessHeaders => "headers without an end".into(),
    }
}

fn certificates(stream: &TlsStream<TcpStream>) -> Vec<CertificateDer<'static>> {
    stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec()
}

/// Reads until a client has begun to speak.
async fn first_words(outer: &mut (impl AsyncRead + Unpin), watched: &mut Watched) -> Result<Vec<u8>, String> {
    let mut words = Vec::new();
    while !watched.frames.begun() {
        let mut space = [0; 256];
        let came = match outer.read(&mut space).await.map_err(|e| e.to_string())? {
            0 => return Err("it said nothing".into()),
            length => &space[..length],
        };
        let _ = watched.inward(came).map_err(in_words)?;
        words.extend_from_slice(came);
    }
    Ok(words)
}

/// A connection that has not said anything yet. One that is dropped before it has is counted as slow.
struct Arrival {
    counts: Arc<Counts>,
    _place: Arc<Place>,
    is_in: bool,
}

impl Arrival {
    fn ended(mut self) {
        self.is_in = true;
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if !self.is_in {
            self.counts.refuse(Refused::Slow);
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
