//! What a server says of itself: how it is set, and what it takes of the machine.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::Config;
use crate::task::Time;
use crate::wire::control as pb;

/// Made once, when the server starts.
pub(super) struct About {
    settings: pb::Server,
    data: PathBuf,
    /// Where clients and operators connect, once that is known.
    addresses: OnceLock<(String, String)>,
}

impl About {
    pub(super) fn new(config: &Config) -> About {
        let data = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
        let settings = pb::Server {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Time::now().0,
            data: data.display().to_string(),
            ack_timeout_ms: millis(config.broker.ack_timeout),
            max_attempts: config.broker.max_attempts,
            max_task: config.max_task as u64,
            retain_ms: millis(config.retention.retain),
            retain_bytes: config.retention.retain_bytes,
            group_ttl_ms: millis(config.retention.group_ttl),
            ..pb::Server::default()
        };
        About { settings, data, addresses: OnceLock::new() }
    }

    /// Says where clients and operators connect.
    pub(super) fn listening(&self, clients: &str, operators: &str) {
        let _ = self.addresses.set((clients.to_owned(), operators.to_owned()));
    }

    /// What does not change while the server runs.
    pub(super) fn settings(&self) -> pb::Server {
        let (listen, control) = (String::new(), String::new());
        pb::Server { listen, control, ..self.settings.clone() }
    }

    /// Asks the system what the server takes of it. Touches the disk.
    pub(super) fn measure(&self, server: &mut pb::Server) {
        // With the log that is not in the database yet, and the index of that log.
        let files = ["contact.db", "contact.db-wal", "contact.db-shm"].map(|name| self.data.join(name));
        server.store_bytes = files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
        server.disk_free_bytes = rustix::fs::statvfs(&self.data).ok().map(|disk| disk.f_bavail * disk.f_frsize);
        // The listing is a file, too.
        let open = std::fs::read_dir("/proc/self/fd").or_else(|_| std::fs::read_dir("/dev/fd"));
        server.open_files = open.ok().map(|files| files.count().saturating_sub(1) as u64);
        let limit = getrlimit(Resource::Nofile);
        (server.open_files_soft, server.open_files_hard) = (limit.current, limit.maximum);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
