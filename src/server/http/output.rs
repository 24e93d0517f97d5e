//! What a task prints while clients are at work on it, as server-sent events: `output` for each part, and `end` when it is settled.

use std::convert::Infallible;
use std::pin::pin;

use axum::body::Bytes;
use axum::extract::State;
use axum::{Extension, Router, routing};
use futures::future::{self, Either};
use futures::stream;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::answer::Answer;
use super::api::{Asked, Id, asked, id};
use super::app::AppState;
use super::events::{PING, answer, place};
use super::live::event;
use crate::attachment::to_base64;
use crate::server::access::Caller;
use crate::server::operator::{Following, Output, if_set};
use crate::task::NameOf;

pub(super) fn router() -> Router<AppState> {
    Router::new().route("/api/tasks/{id}/output", routing::get(output))
}

/// Of which group; of all, where these are few.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Of {
    #[serde(default)]
    group: String,
}

async fn output(
    State(app): State<AppState>,
    Extension(caller): Extension<Caller>,
    path: Id,
    query: Asked<Of>,
) -> Answer {
    let group = if_set(NameOf::Group, &asked(query)?.group)?;
    let place = place(&app)?;
    let following = app.operator.follow(id(path)?, group).await?;
    let viewer = Viewer { following, stopped: app.stopped.clone(), caller, over: false, _place: place };
    let events =
        stream::unfold(viewer, async |mut viewer| Some((Ok::<Bytes, Infallible>(viewer.next().await?), viewer)));
    Ok(answer(events))
}

struct Viewer {
    following: Following,
    stopped: watch::Receiver<bool>,
    caller: Caller,
    over: bool,
    _place: OwnedSemaphorePermit,
}

impl Viewer {
    /// `None`: it was the last, or the server stops.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let next = {
            let next = pin!(tokio::time::timeout(PING, self.following.next()));
            match future::select(next, pin!(self.stopped.changed())).await {
                Either::Left((next, _)) => next,
                Either::Right(_) => return None,
            }
        };
        self.caller.check().ok()?;
        match next {
            Err(_) => Some(Bytes::from_static(b": ping\n\n")),
            Ok(Ok(Some(output))) => Some(event("output", &json(&output))),
            Ok(Ok(None)) => {
                self.over = true;
                Some(event("end", &serde_json::json!({})))
            }
            Ok(Err(_)) => None,
        }
    }
}

/// The bytes as they are, which JSON has no room for.
fn json(output: &Output) -> serde_json::Value {
    let Output { group, client, attempt, piece, silent } = output;
    let base64 = to_base64(&piece.bytes);
    serde_json::json!({
        "group": group.as_str(), "client": &**client, "attempt": attempt, "from": piece.from, "base64": base64, "silent": silent,
    })
}
