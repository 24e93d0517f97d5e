//! The server's certificate and key: read again when their files change. Files that are wrong change nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use log::{error, info};

use super::authority::Authority;
use super::identity::Verifier;
use crate::front::{CurrentTls, FileError, Material, ServerTls};

/// How often the files are looked at. A change counts when two looks agree: by then all of them are written.
const LOOK: Duration = Duration::from_secs(2);

/// What is used, and what is wrong with what is there. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tls(Arc<Shared>);

struct Shared {
    files: ServerTls,
    /// Who issues what is in the files, if that is this server.
    authority: Option<Authority>,
    current: CurrentTls,
    state: Mutex<State>,
}

struct State {
    used: Material,
    /// What lay there at the last look, if it was not what is used.
    seen: Option<Result<Material, String>>,
    /// Until when the certificate that is used is valid.
    until: SystemTime,
    /// Why what lies there is not used.
    trouble: Option<String>,
}

/// A certificate that is used.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    /// For how long it is valid.
    pub(super) left: Duration,
    /// Why the files that lie there now are not used.
    pub(super) trouble: Option<String>,
}

impl Tls {
    /// Reads the files.
    pub(super) fn read(files: ServerTls, authority: Option<Authority>) -> Result<Tls, FileError> {
        let used = files.read()?;
        let (config, until) = files.config(&used, |genuine| Verifier::over(genuine, authority.clone()))?;
        info!("TLS by {}, valid until {}", files.cert.display(), humantime::format_rfc3339_seconds(until));
        let state = State { used, seen: None, until, trouble: None };
        Ok(Tls(Arc::new(Shared { files, authority, current: CurrentTls::new(config), state: Mutex::new(state) })))
    }

    /// What connections are accepted with, whenever that is asked for.
    pub(super) fn current(&self) -> CurrentTls {
        self.0.current.clone()
    }

    /// Who issues certificates, if that is this server.
    pub(super) fn authority(&self) -> Option<&Authority> {
        self.0.authority.as_ref()
    }

    /// Whether clients must show certificates.
    pub(super) fn asks_for_certificates(&self) -> bool {
        self.0.files.client_ca.is_some()
    }

    /// The certificate that is used.
    pub(super) fn certificate(&self) -> Certificate {
        let state = self.lock();
        let left = state.until.duration_since(SystemTime::now()).unwrap_or_default();
        Certificate { left, trouble: state.trouble.clone() }
    }

    /// Reads the files anew, and uses them from the next connection on if they are good. `at_once`: also if they have just changed.
    pub(super) fn look(&self, at_once: bool) {
        if let Some(authority) = &self.0.authority {
            authority.look_after(self.certificate().left);
        }
        let found = self.0.files.read().map_err(|e| e.to_string());
        let mut state = self.lock();
        if found.as_ref().is_ok_and(|found| *found == state.used) {
            (state.seen, state.trouble) = (None, None);
            return;
        }
        let is_new = state.seen.as_ref() != Some(&found);
        if is_new && !at_once {
            // Perhaps they are just being written. What was wrong before may not be now.
            state.seen = Some(found);
            return;
        }
        let taken = match &found {
            Ok(material) => {
                let check = |genuine| Verifier::over(genuine, self.0.authority.clone());
                self.0.files.config(material, check).map_err(|e| e.to_string())
            }
            Err(trouble) => Err(trouble.clone()),
        };
        match (taken, found) {
            (Ok((config, until)), Ok(material)) => {
                self.0.current.set(config);
                info!("a new certificate is used, valid until {}", humantime::format_rfc3339_seconds(until));
                *state = State { used: material, seen: None, until, trouble: None };
            }
            (Err(trouble), found) => {
                if state.trouble.as_ref() != Some(&trouble) {
                    error!("new files of TLS are not used, and those of before go on: {trouble}");
                }
                (state.seen, state.trouble) = (Some(found), Some(trouble));
            }
            (Ok(_), Err(_)) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that looks at the files.
pub(super) struct TlsThread {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl TlsThread {
    pub(super) fn start(tls: Tls) -> std::io::Result<TlsThread> {
        let (stop, stopped) = bounded(0);
        let work = move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                tls.look(false);
            }
        };
        Ok(TlsThread { stop, thread: std::thread::Builder::new().name("tls-files".into()).spawn(work)? })
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            error!("the thread of TLS files panicked");
        }
    }
}
