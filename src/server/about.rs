//! What a server knows of itself: how it was started.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::clock::Clock;
use super::config::{Config, Retention};
use super::tls::Tls;
use crate::front::{self, Certificate, Counts};
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
    /// The name by which others reach the server, if it has one.
    public: Option<String>,
    /// Where clients and where operators connect. Set when the ports are taken; empty to a call that asks in that very moment.
    pub(super) listen: OnceLock<String>,
    pub(super) control: OnceLock<String>,
    /// Where the page is; empty: nowhere.
    pub(super) http: OnceLock<String>,
    /// Whether it is for others, by TLS.
    pub(super) http_by_tls: OnceLock<bool>,
    /// What comes through fronts.
    pub(super) front: Arc<Counts>,
    /// Set when the files of TLS were read; empty without TLS.
    tls: OnceLock<Tls>,
}

impl About {
    pub(super) fn new(config: &Config) -> About {
        let public = config.public.as_deref().map(|public| front::host(public).to_owned());
        About {
            clock: Clock::of_machine(),
            started_at: Time::now(),
            data: std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone()),
            max_task: config.max_task,
            retention: Mutex::new(config.retention.clone()),
            hosts: config.http_hosts.iter().chain(public.as_ref()).cloned().collect(),
            public,
            listen: OnceLock::new(),
            control: OnceLock::new(),
            http: OnceLock::new(),
            http_by_tls: OnceLock::new(),
            front: Arc::default(),
            tls: OnceLock::new(),
        }
    }

    pub(super) fn set_tls(&self, tls: Option<Tls>) {
        if let Some(tls) = tls {
            let _ = self.tls.set(tls);
        }
    }

    /// The certificate that is used, if there is TLS.
    pub(super) fn certificate(&self) -> Option<Certificate> {
        self.tls.get().map(Tls::certificate)
    }

    pub(super) fn listen(&self) -> String {
        self.listen.get().cloned().unwrap_or_default()
    }

    pub(super) fn control(&self) -> String {
        self.control.get().cloned().unwrap_or_default()
    }

    pub(super) fn http(&self) -> String {
        self.http.get().cloned().unwrap_or_default()
    }

    /// Whether the page is for others, by TLS; and then by which name they reach it, if there is one.
    pub(super) fn page(&self) -> (bool, Option<&str>) {
        let by_tls = self.http_by_tls.get().is_some_and(|by_tls| *by_tls);
        (by_tls, self.public.as_deref().filter(|_| by_tls))
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
