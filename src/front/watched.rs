//! The certificate and key of who takes connections: read again when their files change. Files that are wrong change nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use log::{error, info};
use rustls::server::danger::ClientCertVerifier;

use super::files::{FileError, Material, ServerTls};
use super::greeting::CurrentTls;

/// How often the files are looked at. A change counts when two looks agree: by then all of them are written.
const LOOK: Duration = Duration::from_secs(2);

/// What else a certificate that is shown must pass, over what makes it genuine.
type Check = dyn Fn(Arc<dyn ClientCertVerifier>) -> Arc<dyn ClientCertVerifier> + Send + Sync;

/// What is used, and what is wrong with what is there. Cheap to clone.
#[derive(Clone)]
pub(crate) struct WatchedTls(Arc<Shared>);

struct Shared {
    files: ServerTls,
    check: Box<Check>,
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
pub(crate) struct Certificate {
    /// For how long it is valid.
    pub(crate) left: Duration,
    /// Why the files that lie there now are not used.
    pub(crate) trouble: Option<String>,
}

impl WatchedTls {
    /// Reads the files.
    pub(crate) fn read(
        files: ServerTls,
        check: impl Fn(Arc<dyn ClientCertVerifier>) -> Arc<dyn ClientCertVerifier> + Send + Sync + 'static,
    ) -> Result<WatchedTls, FileError> {
        let used = files.read()?;
        let (config, until) = files.config(&used, &check)?;
        info!("TLS by {}, valid until {}", files.cert.display(), humantime::format_rfc3339_seconds(until));
        let state = State { used, seen: None, until, trouble: None };
        let (check, current) = (Box::new(check), CurrentTls::new(config));
        Ok(WatchedTls(Arc::new(Shared { files, check, current, state: Mutex::new(state) })))
    }

    /// What connections are accepted with, whenever that is asked for.
    pub(crate) fn current(&self) -> CurrentTls {
        self.0.current.clone()
    }

    /// Whether those who connect must show certificates.
    pub(crate) fn asks_for_certificates(&self) -> bool {
        self.0.files.client_ca.is_some()
    }

    /// The certificate that is used.
    pub(crate) fn certificate(&self) -> Certificate {
        let state = self.lock();
        let left = state.until.duration_since(SystemTime::now()).unwrap_or_default();
        Certificate { left, trouble: state.trouble.clone() }
    }

    /// Reads the files anew, and uses them from the next connection on if they are good. `at_once`: also if they have just changed.
    pub(crate) fn look(&self, at_once: bool) {
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
            Ok(material) => self.0.files.config(material, &self.0.check).map_err(|e| e.to_string()),
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
pub(crate) struct TlsThread {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl TlsThread {
    /// `look`: what it does every two seconds.
    pub(crate) fn start(look: impl Fn() + Send + 'static) -> std::io::Result<TlsThread> {
        let (stop, stopped) = bounded(0);
        let work = move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                look();
            }
        };
        Ok(TlsThread { stop, thread: std::thread::Builder::new().name("tls-files".into()).spawn(work)? })
    }

    pub(crate) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            error!("the thread of TLS files panicked");
        }
    }
}
