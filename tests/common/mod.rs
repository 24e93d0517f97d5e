//! What the tests share that run the real programs.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod program;
pub mod proxy;
pub mod python;
pub mod server;

use std::time::Duration;

/// How long an event may take before a test gives up. Generous: two cores run all tests at once.
pub const DEADLINE: Duration = Duration::from_secs(60);
