//! What a server knows of itself: how it was started.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::clock::Clock;
use super::config::{Config, Retention};
use crate::task::Time;

/// Made once, when the server starts.
pub(super) struct About {
    /// The machine's.
    pub(super) clock: Clock,
    pub(super) started_at: Time,
    pub(super) data: PathBuf,
    /// The longest text of a task, in bytes.
    pub(super) max_task: usize,
    /// As it was set last.
    retention: Mutex<Retention>,
    /// Names besides `localhost` by which browsers may call the server.
    pub(super) hosts: Vec<String>,
    /// Where clients and where operators connect. Set when the ports are taken; empty to a call that asks in that very moment.
    pub(super) listen: OnceLock<String>,
    pub(super) control: OnceLock<String>,
}

impl About {
    pub(super) fn new(config: &Config) -> About {
        About {
            clock: Clock::of_machine(),
            started_at: Time::now(),
            data: std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone()),
            max_task: config.max_task,
            retention: Mutex::new(config.retention.clone()),
            hosts: config.http_hosts.clone(),
            listen: OnceLock::new(),
            control: OnceLock::new(),
        }
    }

    pub(super) fn listen(&self) -> String {
        self.listen.get().cloned().unwrap_or_default()
    }

    pub(super) fn control(&self) -> String {
        self.control.get().cloned().unwrap_or_default()
    }

    pub(super) fn data(&self) -> String {
        self.data.display().to_string()
    }

    /// Remembers another setting.
    pub(super) fn set_retention(&self, retention: Retention) {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner) = retention;
    }

    /// What is kept for how long, as it was set last.
    pub(super) fn retention(&self) -> Retention {
        self.retention.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A duration in milliseconds, as it goes over the wire.
pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
