//! The real server over real gRPC: who gets which task, what becomes of what clients say, and what it withstands.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod rig;

mod anonymous;
mod named;
