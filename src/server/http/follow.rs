//! What a server of a cluster answers while another one leads: how it is itself. All else is asked of the one that leads.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::get;

use super::desk::Desks;
use super::live::not_ready;
use super::{CONNECTIONS, FOR_ADDRESS, HttpThread, guard, metrics, passed};
use crate::server::about::About;
use crate::server::access::Access;
use crate::server::health::Health;
use crate::server::operator::Servers;
use crate::server::proxy::PassOn;

/// What is known of a server that follows. Cheap to clone.
#[derive(Clone)]
pub(in crate::server) struct Following {
    pub(in crate::server) about: Arc<About>,
    pub(in crate::server) access: Access,
    /// Whether it carries calls.
    pub(in crate::server) health: Health,
    /// What it does, in words.
    pub(in crate::server) role: Arc<dyn Fn() -> String + Send + Sync>,
    pub(in crate::server) servers: Arc<dyn Fn() -> Servers + Send + Sync>,
    /// To the one that leads.
    pub(in crate::server) elsewhere: PassOn,
}

impl HttpThread {
    /// Shows the server that leads from now on.
    pub(in crate::server) fn follows(&self, following: &Following) {
        self.desk.set(Desks {
            all: guard::admitting(router(following), following.about.clone()),
            beside: guard::too_many_connections(health(following), CONNECTIONS, FOR_ADDRESS),
            passed_on: None,
        });
        self.begin_term(None);
    }
}

fn health(following: &Following) -> Router {
    let (role, health) = (following.role.clone(), following.health.clone());
    // One that follows carries calls to the one that leads.
    let ready = async move || match not_ready(&health) {
        None => (StatusCode::OK, role()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}: {why}", role())),
    };
    Router::new().route("/healthz", get(async || "ok")).route("/readyz", get(ready))
}

fn router(following: &Following) -> Router {
    let Following { about, access, health: carries, servers, elsewhere, .. } = following.clone();
    let metrics = async move || metrics::of_follower(&about, not_ready(&carries).is_none(), &servers());
    let own = health(following).route("/metrics", get(metrics));
    let knows = access.clone();
    let ask = async move |request: Request| passed::ask(&elsewhere, &knows, request).await;
    guard::around_some(own, access, ask)
}
