//! The whole system: servers and clients over real gRPC and HTTP, in this process and as programs of their own.
//!
//! What counts memory, threads or open files counts those of a child process, so all of it can run in one.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod attacks;
mod behind;
mod bench;
mod browser;
mod client;
#[cfg(feature = "cluster")]
mod cluster;
#[cfg(target_os = "linux")]
mod commands;
mod common;
mod config;
mod conventions;
mod crash;
mod ctl;
mod dialled;
mod examples;
#[cfg(target_os = "linux")]
mod first_minute;
mod http;
mod interop;
mod network;
#[cfg(target_os = "linux")]
mod packages;
mod protocol;
mod python;
mod rig;
mod server;
#[cfg(target_os = "linux")]
mod stalled;
mod terminals;
