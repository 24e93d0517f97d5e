//! What is served over HTTP: the page for operators, its API, metrics and health, on one thread, `http`.
//!
//! That thread waits for no other, and no other waits for it: it asks the [`Operator`], as the gRPC service does, whose futures
//! look at the broker for a short time and read the store on the query threads.

mod answer;
mod api;
mod app;
mod events;
mod guard;
mod history;
mod json;
mod last_reports;
mod lists;
mod live;
mod metrics;
mod page;

use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use futures::future::{self, Either};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use log::{debug, error, warn};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use self::app::AppState;
use self::live::Live;
use super::health::Health;
use super::operator::Operator;
use super::watchdog::Pulse;

/// Connections at once. A few more are told that there are too many; those after them wait to be accepted.
const CONNECTIONS: usize = 256;
const TURNED_AWAY: usize = 32;
/// For the head of a request to come, and between requests.
const HEAD: Duration = Duration::from_secs(30);
/// How long a stop waits for answers that are being sent.
const GRACE: Duration = Duration::from_secs(1);

/// The thread. Owns it until [`HttpThread::stop`].
pub(super) struct HttpThread {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl HttpThread {
    /// Serves on a socket that is bound.
    pub(super) fn start(
        listener: TcpListener,
        operator: Operator,
        health: Health,
        pulse: Pulse,
    ) -> std::io::Result<HttpThread> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = watch::channel(false);
        let live = Live::new(operator.clone(), health.clone());
        let listeners = Arc::new(Semaphore::new(events::LISTENERS));
        let bodies = Arc::new(Semaphore::new(api::BODIES));
        let app = AppState { operator, health, pulse, live, stopped, listeners, bodies };
        let work = move || {
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => serve(listener, app).await,
                    Err(e) => error!("the page cannot be served: {e}"),
                }
            });
        };
        Ok(HttpThread { stop, thread: std::thread::Builder::new().name("http".into()).spawn(work)? })
    }

    /// Answers what was asked, ends the streams, and joins the thread.
    pub(super) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            error!("the http thread panicked");
        }
    }
}

/// Serves until the server stops.
async fn serve(listener: tokio::net::TcpListener, app: AppState) {
    let mut stopped = app.stopped.clone();
    let producer = tokio::spawn(app.live.clone().produce());
    let full = guard::too_many_connections(CONNECTIONS);
    let router = router(app);
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
    // The semaphores are never closed.
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

fn router(app: AppState) -> Router {
    let about = app.operator.about.clone();
    let timed = api::router().merge(metrics::router()).with_state(app.clone()).merge(page::router());
    guard::around(timed, events::router().with_state(app), about)
}
