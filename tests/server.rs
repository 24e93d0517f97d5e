//! The real server over real gRPC: who gets which task, what becomes of what clients say, and what it withstands.

#[cfg(target_os = "linux")]
pub mod memory;
pub mod raw;

mod anonymous;
mod beside;
#[cfg(target_os = "linux")]
mod idle;
mod junk;
mod labels;
mod lists;
mod named;
mod output;
mod process;
mod replacing;
mod runs;
mod schedules;
#[cfg(target_os = "linux")]
mod slow;
mod tls;
