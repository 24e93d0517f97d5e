//! The real server over real gRPC: who gets which task, what becomes of what clients say, and what it withstands.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
mod memory;
mod raw;
mod rig;

mod anonymous;
#[cfg(target_os = "linux")]
mod idle;
mod junk;
mod lists;
mod named;
mod process;
#[cfg(target_os = "linux")]
mod slow;
