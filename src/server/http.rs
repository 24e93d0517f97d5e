//! What is served over HTTP: the page for operators, its API, metrics and health, on one thread, `http`.
//!
//! That thread waits for no other, and no other waits for it: it asks the [`Operator`], as the gRPC service does, whose futures
//! look at the broker for a short time and read the store on the query threads.

mod answer;
mod api;
mod app;
mod desk;
mod events;
#[cfg(feature = "cluster")]
mod follow;
mod guard;
mod history;
mod json;
mod last_reports;
mod lists;
mod live;
mod login;
mod metrics;
mod output;
mod page;
#[cfg(feature = "cluster")]
mod passed;
mod received;
mod runs;
mod schedules;
mod servers;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header;
use axum::response::Response;
use futures::FutureExt as _;
use futures::future::{self, BoxFuture, Either};
use hyper::Request;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use log::{debug, error, warn};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use self::app::AppState;
use self::desk::{Desk, Desks};
#[cfg(feature = "cluster")]
pub(super) use self::follow::Following;
use self::live::Live;
#[cfg(feature = "cluster")]
pub(super) use self::passed::Inside;
use self::received::Received;
use super::grants::Grants;
use super::health::Health;
use super::host;
use super::identity::{Connections, Origin};
use super::operator::Operator;
use super::refusal_counts;
use super::watchdog::Pulse;
use crate::front::{Begun, Counts, Entrance, Place, Places, Refused, Stage};

/// Connections at once, in all and from one address.
const CONNECTIONS: usize = 256;
const FOR_ADDRESS: usize = 128;
/// Connections beyond those: they are told how the server is, and else that there are too many.
const BESIDE: usize = 32;
/// For TLS to begin, for the head of a request to come, and between requests.
const HEAD: Duration = Duration::from_secs(10);
/// How often the log says that connections were cut or files ran out.
const SAY: Duration = Duration::from_secs(60);
/// How long a stop waits for answers that are being sent.
const GRACE: Duration = Duration::from_secs(1);

/// What is known of connections before they ask anything.
pub(super) struct Reception {
    /// How they begin.
    pub(super) entrance: Entrance,
    pub(super) connections: Connections,
    pub(super) grants: Grants,
    pub(super) counts: Arc<Counts>,
}

/// The thread. Owns it until [`HttpThread::stop`].
pub(super) struct HttpThread {
    address: String,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
    runtime: Handle,
    desk: Desk,
    places: Places,
    /// Of the server, while it leads.
    term: Mutex<Option<Term>>,
}

/// For how long the same [`Operator`] is asked. Its streams of events end with it.
struct Term {
    _goes_on: watch::Sender<bool>,
    snapshots: AbortHandle,
}

impl Drop for Term {
    fn drop(&mut self) {
        self.snapshots.abort();
    }
}

impl HttpThread {
    /// Serves on a socket that is bound.
    pub(super) fn start(listener: TcpListener, address: String, reception: Reception) -> std::io::Result<HttpThread> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = watch::channel(false);
        let (desk, places) = (Desk::default(), Places::behind_proxies(CONNECTIONS, FOR_ADDRESS));
        let handle = runtime.handle().clone();
        let serving = (desk.clone(), places.clone());
        let work = move || {
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => serve(listener, reception, serving, stopped).await,
                    Err(e) => error!("the page cannot be served: {e}"),
                }
            });
        };
        let thread = std::thread::Builder::new().name("http".into()).spawn(work)?;
        Ok(HttpThread { address, stop, thread, runtime: handle, desk, places, term: Mutex::default() })
    }

    /// Where it is.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Shows this server from now on.
    pub(super) fn leads(&self, operator: Operator, health: Health, pulse: Pulse) {
        let (goes_on, stopped) = watch::channel(false);
        let live = Live::new(operator.clone(), health.clone());
        let snapshots = self.runtime.spawn(live.clone().produce()).abort_handle();
        let listeners = Arc::new(Semaphore::new(events::LISTENERS));
        let bodies = Arc::new(Semaphore::new(api::BODIES));
        let app = AppState { operator, health, pulse, live, stopped, listeners, bodies, places: self.places.clone() };
        self.desk.set(desks(app));
        self.begin_term(Some(Term { _goes_on: goes_on, snapshots }));
    }

    fn begin_term(&self, term: Option<Term>) {
        *self.term.lock().unwrap_or_else(PoisonError::into_inner) = term;
    }

    /// Answers what was asked, ends the streams, and joins the thread.
    pub(super) fn stop(self) {
        self.begin_term(None);
        drop(self.stop);
        if self.thread.join().is_err() {
            error!("the http thread panicked");
        }
    }
}

/// Serves until the server stops.
async fn serve(
    listener: tokio::net::TcpListener,
    reception: Reception,
    (desk, places): (Desk, Places),
    mut stopped: watch::Receiver<bool>,
) {
    let beside = Places::behind_proxies(BESIDE, BESIDE);
    let reception = Arc::new(reception);
    let mut door = Door { listener: &listener, places: &places, cut: Seldom::default(), files: Seldom::default() };
    let connections = GracefulShutdown::new();
    loop {
        let (stream, from) = {
            let next = pin!(door.accept());
            let stop = pin!(stopped.changed());
            match future::select(next, stop).await {
                Either::Left((accepted, _)) => accepted,
                Either::Right(_) => break,
            }
        };
        let (is_beside, place) = match places.take(from.ip(), Stage::Asking) {
            Some(place) => (false, place),
            None => match beside.take(from.ip(), Stage::Asking) {
                Some(place) => (true, place),
                None => continue,
            },
        };
        if place.was_taken {
            door.has_cut(from.ip());
        }
        let place = Arc::new(place);
        let conversation =
            Conversation { desk: desk.clone(), is_beside, place: place.clone(), watcher: connections.watcher() };
        let task = tokio::spawn(reception.clone().receive(stream, from, conversation));
        place.is_of(task.abort_handle());
    }
    drop(listener);
    if tokio::time::timeout(GRACE, connections.shutdown()).await.is_err() {
        debug!("some connections to the page were cut");
    }
}

impl Reception {
    /// Sees how a connection begins, and whose it is; then answers what is asked over it.
    async fn receive(self: Arc<Self>, socket: TcpStream, from: SocketAddr, conversation: Conversation) {
        let file = socket.as_raw_fd();
        let Ok(begun) = tokio::time::timeout(HEAD, self.entrance.greet(socket)).await else {
            self.counts.refuse(Refused::Slow);
            return;
        };
        let origin = Origin::unnamed(from.ip().to_string());
        match begun {
            Begun::Plain(socket) => conversation.go_on(socket, guard::Way { origin, is_tls: false }).await,
            Begun::Tls(stream) => {
                let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
                let Some(certificate) = certificate else {
                    return conversation.go_on(stream, guard::Way { origin, is_tls: true }).await;
                };
                let Some(mut guest) = self.connections.admit(from, Some(&certificate), &self.grants) else {
                    return self.counts.refuse(Refused::Tls);
                };
                guest.has_file(file);
                let origin = Origin { peer: origin.peer, ..guest.origin() };
                let going_on = pin!(conversation.go_on(stream, guard::Way { origin, is_tls: true }));
                future::select(going_on, pin!(guest.over())).await;
            }
            Begun::Wrong(wrong) => {
                self.counts.refuse(Refused::Tls);
                debug!("no connection to the page with {from}: {}", wrong.why);
                wrong.tell().await;
            }
            Begun::Gone | Begun::Joins(_) => {}
        }
    }
}

/// A connection that is to be served.
struct Conversation {
    desk: Desk,
    /// There is no place for it.
    is_beside: bool,
    place: Arc<Place>,
    watcher: Watcher,
}

impl Conversation {
    async fn go_on(self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static, way: guard::Way) {
        let mut http = http1::Builder::new();
        let http = http.timer(TokioTimer::new()).header_read_timeout(HEAD);
        let service = service_fn(answer(self.desk, self.is_beside, self.place, way));
        if let Err(e) = self.watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await {
            debug!("a connection to the page ended early: {e}");
        }
    }
}

/// Answers the requests of a connection, and keeps its place informed.
fn answer(
    desk: Desk,
    is_beside: bool,
    place: Arc<Place>,
    way: guard::Way,
) -> impl Fn(Request<Incoming>) -> BoxFuture<'static, Result<Response, Infallible>> {
    move |request| {
        let (router, place) = (TowerToHyperService::new(desk.router(is_beside)), place.clone());
        place.is_at(if request.body().is_end_stream() { Stage::AtWork } else { Stage::Asking });
        let mut request = request.map(|body| Received { body, place: place.clone() });
        request.extensions_mut().insert(way.clone());
        Box::pin(async move {
            let response = router.call(request).await?;
            let is_endless = response.headers().get(header::CONTENT_TYPE).is_some_and(|it| it == events::CONTENT_TYPE);
            place.is_at(if is_endless { Stage::AtWork } else { Stage::Answered });
            Ok(response)
        })
    }
}

/// Where connections come in.
struct Door<'a> {
    listener: &'a tokio::net::TcpListener,
    places: &'a Places,
    cut: Seldom,
    files: Seldom,
}

impl Door<'_> {
    /// The next connection. When files have run out, it has one of those that are kept for it, or that of one who waits.
    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let error = match self.listener.accept().await {
                Ok(accepted) => return prepared(accepted),
                Err(error) => error,
            };
            if !host::is_out_of_files(&error) {
                warn!("the page cannot take a connection, trying again: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            // This does not wait. If nobody is there, files have run out all the same: the system looks for one first.
            let Some(accepted) = host::beyond_the_limit(|| self.listener.accept().now_or_never()) else { continue };
            refusal_counts::count("OUT_OF_FILES");
            if let Some(times) = self.files.say() {
                error!(
                    "all files that clients may open are open, so that no more clients can connect ({times} times noticed): raise the \
                     limit, or see who connects; the page goes on with files that are kept for it"
                );
            }
            match accepted {
                Ok(accepted) => return prepared(accepted),
                Err(_) if self.places.cut_one() => tokio::task::yield_now().await,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// A connection was cut for one from there.
    fn has_cut(&mut self, address: IpAddr) {
        refusal_counts::count("HTTP_CONNECTIONS");
        if let Some(times) = self.cut.say() {
            warn!(
                "the page has {CONNECTIONS} connections, or {FOR_ADDRESS} from one address: for new ones, the last from {address}, those \
                 that asked nothing or were answered are cut; {times} so far"
            );
        }
    }
}

/// What happens often, and is said seldom.
#[derive(Default)]
struct Seldom {
    times: u64,
    said: Option<Instant>,
}

impl Seldom {
    /// Counts. How often it was so far, if it is to be said now.
    fn say(&mut self) -> Option<u64> {
        self.times += 1;
        let is_due = self.said.is_none_or(|said| said.elapsed() >= SAY);
        is_due.then(|| {
            self.said = Some(Instant::now());
            self.times
        })
    }
}

fn prepared((stream, from): (TcpStream, SocketAddr)) -> (TcpStream, SocketAddr) {
    prepare(&stream);
    (stream, from)
}

/// A page is small messages, and a reader that has gone without a word must not keep its place.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, 30_000);
}

fn desks(app: AppState) -> Desks {
    let (about, health) = (app.operator.about.clone(), api::health().with_state(app.clone()));
    let router = router(app);
    Desks {
        all: guard::admitting(router.clone(), about),
        beside: guard::too_many_connections(health, CONNECTIONS, FOR_ADDRESS),
        #[cfg(feature = "cluster")]
        passed_on: Some(router),
    }
}

/// For those who were let in to ask.
fn router(app: AppState) -> Router {
    let timed = api::router()
        .merge(api::health())
        .merge(metrics::router())
        .merge(login::router())
        .merge(runs::router())
        .merge(schedules::router())
        .merge(servers::router())
        .with_state(app.clone())
        .merge(page::router());
    guard::around(timed, events::router().merge(output::router()).with_state(app.clone()), app.operator.access)
}
