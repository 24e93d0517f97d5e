//! The HTTP face: the page for operators, its API, metrics and health, on one thread, `ops`.
//!
//! It waits for nobody on that thread, and nobody waits for it: what it wants of the broker is a short look
//! ([`broker::Handle::with`]), what it wants of the store goes through the query pool, and what operators do here goes through
//! the very functions of the gRPC service for them.

mod api;
mod count;
mod events;
mod follow;
mod guard;
mod history;
mod json;
mod lists;
mod live;
mod metrics;
mod page;
mod tasks;

use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use futures::future::{self, Either};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use log::{debug, error, warn};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use self::live::Live;
use super::control::ControlService;
use super::health::Health;
use super::traffic::Traffic;

/// Connections at once. The next so many are told that there are too many; those after them wait to be accepted.
const CONNECTIONS: usize = 256;
const TURNED_AWAY: usize = 32;
/// For the head of a request to come, and between requests.
const HEAD: Duration = Duration::from_secs(30);
/// How long a stop waits for answers that are being sent.
const GRACE: Duration = Duration::from_secs(1);

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Face {
    service: ControlService,
    health: Health,
    traffic: Arc<Traffic>,
    live: Live,
    /// Becomes true, or is closed, when the server stops.
    stopped: watch::Receiver<bool>,
    listeners: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

/// The thread. Owns it until [`Ops::stop`].
pub(super) struct Ops {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Ops {
    /// Serves on a socket that is bound.
    pub(super) fn start(
        listener: TcpListener,
        service: ControlService,
        health: Health,
        traffic: Arc<Traffic>,
    ) -> std::io::Result<Ops> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = watch::channel(false);
        let live = Live::new(service.clone(), health.clone());
        let listeners = Arc::new(Semaphore::new(events::LISTENERS));
        let bodies = Arc::new(Semaphore::new(api::BODIES));
        let face = Face { service, health, traffic, live, stopped, listeners, bodies };
        let work = move || {
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => serve(listener, face).await,
                    Err(e) => error!("the page cannot be served: {e}"),
                }
            });
        };
        Ok(Ops { stop, thread: std::thread::Builder::new().name("ops".into()).spawn(work)? })
    }

    /// Answers what was asked, ends the streams, and joins the thread.
    pub(super) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            error!("the ops thread panicked");
        }
    }
}

/// Serves until the server stops.
async fn serve(listener: tokio::net::TcpListener, face: Face) {
    let mut stopped = face.stopped.clone();
    let producer = tokio::spawn(face.live.clone().produce());
    let full = guard::too_many_connections();
    let router = router(face);
    let (open, turned_away) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(TURNED_AWAY)));
    let connections = GracefulShutdown::new();
    loop {
        let accepted = {
            let next = pin!(accept(&listener, &open, &turned_away));
            let stop = pin!(stopped.changed());
            match future::select(next, stop).await {
                Either::Left((accepted, _)) => accepted,
                Either::Right(_) => break,
            }
        };
        let (stream, permit) = accepted;
        let router = if permit.is_welcome { router.clone() } else { full.clone() };
        let mut http = http1::Builder::new();
        let http = http.timer(TokioTimer::new()).header_read_timeout(HEAD);
        let service = TowerToHyperService::new(router);
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                debug!("a connection to the page ended early: {e}");
            }
            drop(permit);
        });
    }
    drop(listener);
    producer.abort();
    if tokio::time::timeout(GRACE, connections.shutdown()).await.is_err() {
        debug!("some connections to the page were cut");
    }
}

/// A connection's place.
struct Permit {
    is_welcome: bool,
    _place: tokio::sync::OwnedSemaphorePermit,
}

/// The next connection, as soon as there is a place for it.
async fn accept(
    listener: &tokio::net::TcpListener,
    open: &Arc<Semaphore>,
    turned_away: &Arc<Semaphore>,
) -> (TcpStream, Permit) {
    // Nobody closes the semaphores.
    let Ok(place) = turned_away.clone().acquire_owned().await else { return future::pending().await };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                prepare(&stream);
                let welcome = open.clone().try_acquire_owned().ok();
                let is_welcome = welcome.is_some();
                return (stream, Permit { is_welcome, _place: welcome.unwrap_or(place) });
            }
            Err(e) => {
                warn!("the page cannot take a connection, trying again: {e}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// A page is small messages, and a reader that has gone without a word must not keep its place.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, 30_000);
}

fn router(face: Face) -> Router {
    let api = api::router().merge(events::router()).merge(metrics::router()).with_state(face.clone());
    guard::around(api.merge(page::router()), face)
}

/// What everything here answers with.
type Answer = Result<Response, guard::Refused>;
