//! The stream of server-sent events: the history once, then the state each second.
//!
//! All are sent the same bytes. A listener that does not read costs what is in its socket's buffers: it has a place for
//! one state, in which each new one takes the place of the last.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures::future::{self, Either};
use futures::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::answer::{Answer, Refused};
use super::app::AppState;
use super::live::{Newest, event};
use crate::server::access::Caller;

/// Listeners at once.
pub(super) const LISTENERS: usize = 100;
/// What no other answer is.
pub(super) const CONTENT_TYPE: &str = "text/event-stream";
/// After this time without a state a listener is told that the server is still there.
pub(super) const PING: Duration = Duration::from_secs(10);

pub(super) fn router() -> Router<AppState> {
    Router::new().route("/api/events", get(events))
}

async fn events(State(app): State<AppState>, Extension(caller): Extension<Caller>) -> Answer {
    let place = place(&app)?;
    let mut newest = app.live.subscribe();
    // What is fresh is sent at once: the history ends before it.
    let current = newest.borrow_and_update().clone().filter(|current| current.is_fresh());
    let history = app.live.history(current.as_ref().map(|current| current.at()));
    let mut first = vec![event("history", &history)];
    first.extend(current.map(|current| current.event()));
    let listener = Listener { newest, stopped: app.stopped.clone(), caller, _place: place };
    let events = stream::unfold((first.into_iter(), listener), async |(mut first, mut listener)| {
        let event = match first.next() {
            Some(event) => event,
            None => listener.next().await?,
        };
        Some((Ok::<Bytes, Infallible>(event), (first, listener)))
    });
    Ok(answer(events))
}

/// A stream of events as an answer.
pub(super) fn answer(events: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Response {
    // A proxy is to pass each event on as it comes. nginx gathers them otherwise: what is shown is then seconds old.
    let headers = [(header::CONTENT_TYPE, CONTENT_TYPE), (HeaderName::from_static("x-accel-buffering"), "no")];
    (headers, Body::from_stream(events)).into_response()
}

/// A place for one more listener.
pub(super) fn place(app: &AppState) -> Result<OwnedSemaphorePermit, Refused> {
    app.listeners.clone().try_acquire_owned().map_err(|_| {
        let why = format!("{LISTENERS} listeners are connected already; close some, and try again");
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "HTTP_LISTENERS", why)
    })
}

struct Listener {
    newest: watch::Receiver<Newest>,
    stopped: watch::Receiver<bool>,
    caller: Caller,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// The next state, or a word that there is none. `None`: the server stops.
    async fn next(&mut self) -> Option<Bytes> {
        let Listener { newest, stopped, caller, .. } = self;
        let changed = {
            let change = pin!(tokio::time::timeout(PING, newest.changed()));
            match future::select(change, pin!(stopped.changed())).await {
                Either::Left((changed, _)) => changed,
                Either::Right(_) => return None,
            }
        };
        // Its token may have been revoked meanwhile.
        caller.check().ok()?;
        match changed {
            Err(_) => Some(Bytes::from_static(b": ping\n\n")),
            Ok(Err(_)) => None,
            Ok(Ok(())) => newest.borrow_and_update().as_ref().map(|newest| newest.event()),
        }
    }
}
