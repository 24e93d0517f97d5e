//! What a server says of itself without being asked twice: how it was started, and what it takes of the machine.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::machine::{Disk, Process};
use super::{Config, Retention};
use crate::task::Time;
use crate::wire::control as pb;

/// Made once, when the server starts.
#[derive(Debug)]
pub(super) struct About {
    pub(super) started_at: Time,
    pub(super) data: PathBuf,
    max_task: usize,
    /// As it was set last.
    retention: Mutex<Retention>,
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

    pub(super) fn retains(&self, retention: Retention) {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner) = retention;
    }

    pub(super) fn retention(&self) -> Retention {
        self.retention.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds to the answer to operators what is known here.
    pub(super) fn describe(&self, server: pb::Server, disk: &Disk, process: &Process) -> pb::Server {
        let retention = self.retention();
        pb::Server {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at.0,
            listen: self.listen(),
            control: self.control(),
            data: self.data(),
            max_task: self.max_task as u64,
            retain_ms: millis(retention.retain),
            retain_bytes: retention.retain_bytes,
            group_ttl_ms: millis(retention.group_ttl),
            store_bytes: disk.store_bytes(),
            disk_free_bytes: disk.free,
            open_files: process.open_fds,
            open_files_soft: process.max_fds,
            open_files_hard: process.raisable_fds,
            ..server
        }
    }
}

/// Of a duration, for the wire.
pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
