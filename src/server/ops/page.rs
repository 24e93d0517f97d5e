//! The page itself.

use axum::Router;
use axum::response::Html;
use axum::routing::get;

pub(super) fn router() -> Router {
    Router::new().route("/", get(async || Html("<!doctype html><title>Contact</title>")))
}
