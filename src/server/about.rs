//! What a server says of itself, and what does not change while it runs.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use super::machine::{Disk, Process};
use super::{Config, Retention};
use crate::task::Time;
use crate::wire::control as pb;

/// Made once, when the server starts.
#[derive(Debug)]
pub(super) struct About {
    pub(super) started_at: Time,
    pub(super) data: PathBuf,
    pub(super) ack_timeout: Duration,
    pub(super) max_attempts: u32,
    pub(super) max_task: usize,
    pub(super) retention: Retention,
    /// Names besides `localhost` by which browsers may call the server.
    pub(super) hosts: Vec<String>,
    /// Where clients and where operators connect. Set when the ports are taken; empty to who asks in that very moment.
    pub(super) listen: OnceLock<String>,
    pub(super) control: OnceLock<String>,
}

impl About {
    pub(super) fn new(config: &Config) -> About {
        About {
            started_at: Time::now(),
            data: std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone()),
            ack_timeout: config.broker.ack_timeout,
            max_attempts: config.broker.max_attempts,
            max_task: config.max_task,
            retention: config.retention.clone(),
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

    pub(super) fn ack_timeout_ms(&self) -> u64 {
        millis(self.ack_timeout)
    }

    /// The part of the answer to operators that is known here. Asks the system, so it runs on a query thread.
    pub(super) fn describe(&self) -> pb::Server {
        let (disk, process) = (Disk::of(&self.data), Process::now());
        pb::Server {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at.0,
            listen: self.listen(),
            control: self.control(),
            data: self.data(),
            ack_timeout_ms: self.ack_timeout_ms(),
            max_attempts: self.max_attempts,
            max_task: self.max_task as u64,
            retain_ms: millis(self.retention.retain),
            retain_bytes: self.retention.retain_bytes,
            group_ttl_ms: millis(self.retention.group_ttl),
            store_bytes: disk.store_bytes(),
            disk_free_bytes: disk.free,
            open_files: process.open_fds,
            open_files_soft: process.max_fds,
            open_files_hard: process.raisable_fds,
            ..pb::Server::default()
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
