//! The HTTP face of the real server: what it shows, what it does, and what it refuses.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;
mod http;
#[allow(dead_code)]
#[path = "../server/rig.rs"]
mod rig;

mod api;
mod events;
mod metrics;
mod refusals;
mod tasks;
