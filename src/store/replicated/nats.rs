//! The connection to NATS, and what servers say to one another over it beside the log.
//!
//! The server that leads says so four times a second, with the last message of the log. Nothing depends on these beats but how soon another
//! one tries to lead. Once a second each says what it is, for people: nothing depends on that at all.

use std::error::Error as _;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, ReconnectToServer, Server, ServerAddr, ServerInfo,
};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future;
use log::warn;
use tokio::runtime::Runtime;
use tokio::time::{interval, timeout};

use super::jetstream::{JetStreamConfig, JetStreamError, SETUP};
use super::peers::Peers;
use super::sight::{ClusterView, LogSeen, Saying};
use super::takeovers;
use crate::front::{FileError, authorities, read_file};
use crate::latency::Latency;
use crate::task::Time;

/// How often the server that leads says so.
const BEAT: Duration = Duration::from_millis(250);
/// How often each server says what it is.
const SAY: Duration = Duration::from_secs(1);
/// The oldest NATS with which this was tried, by its major and minor version.
pub(super) const OLDEST: (u32, u32) = (2, 14);

pub(super) async fn connect(config: &JetStreamConfig) -> Result<Client, JetStreamError> {
    let last = Mutex::default();
    let mut options = ConnectOptions::new()
        .name("contact-server")
        .connection_timeout(Duration::from_secs(1))
        .ping_interval(Duration::from_secs(1))
        .max_reconnects(None)
        .reconnect_to_server_callback(move |pool, _| future::ready(next(&pool, &mut locked(&last))))
        .reconnect_delay_callback(|tries| Duration::from_millis((20 * tries as u64).min(200)));
    // Also at servers of which these say where they are.
    options = options.require_tls(config.urls.need_tls());
    if let Some(path) = &config.credentials {
        let text = read_file(path)?;
        let wrong =
            |why: std::io::Error| FileError::of(path)(format!("it has no credentials of a user of NATS: {why}"));
        options = options.credentials(&String::from_utf8_lossy(&text)).map_err(wrong)?;
    }
    if let Some(path) = &config.ca {
        // For each connection it is read again, and what is wrong with it is not said so well.
        authorities(path, &read_file(path)?)?;
        options = options.add_root_certificates(path.clone());
    }
    let connected = timeout(SETUP, options.connect(config.urls.addresses())).await;
    let cannot = |why: String| JetStreamError::Unreachable { urls: config.urls.to_string(), why };
    connected.map_err(|_| cannot("no connection".into()))?.map_err(|error| cannot(why(&error)))
}

/// Why there is no connection, with what to look at.
fn why(error: &ConnectError) -> String {
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            "this server is not let in: look at --nats-credentials, or at the user and password in --nats".into()
        }
        _ => match of_tls(error) {
            Some(error) => format!("{error}: look at --nats-ca"),
            None => error.to_string(),
        },
    }
}

/// What TLS has to say against a connection.
fn of_tls<'a>(error: &'a ConnectError) -> Option<&'a rustls::Error> {
    let mut source: Option<&'a (dyn std::error::Error + 'static)> = error.source();
    while let Some(error) = source {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(error) = inner.and_then(|inner| inner.downcast_ref()) {
            return Some(error);
        }
        source = error.source();
    }
    None
}

/// Where a connection goes on that was lost, or left: at the server behind that one. Left to itself the client may choose the one again that was
/// left, each time. `last`: which this said last. `None`: there never was a connection, or that one is none of them; each is tried then.
fn next(pool: &[Server], last: &mut Option<ServerAddr>) -> Option<ReconnectToServer> {
    let is_last = |server: &Server| last.as_ref().map_or(server.did_connect, |last| server.addr == *last);
    let next = pool.iter().position(is_last).map(|at| pool[(at + 1) % pool.len()].addr.clone());
    last.clone_from(&next);
    next.map(|addr| ReconnectToServer { addr, delay: None })
}

/// Refuses one that is too old.
pub(super) fn check_version(info: &ServerInfo) -> Result<(), JetStreamError> {
    let mut numbers = info.version.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= OLDEST {
        return Ok(());
    }
    Err(JetStreamError::TooOld { server: info.server_name.clone(), found: info.version.clone() })
}

/// What is said and heard. The tasks that do so end with the runtime that they are spawned on.
pub(super) struct Nats {
    pub(super) client: Client,
    cluster: String,
    /// The last message of the log that is known of here.
    pub(super) last: AtomicU64,
    /// This server says that it leads, and is reached there.
    beats: Mutex<Option<Arc<str>>>,
    heard: Mutex<Option<Heard>>,
    /// What this server says of itself.
    says: Mutex<Saying>,
    peers: Mutex<Peers>,
    pub(super) log: Mutex<Option<LogSeen>>,
    pub(super) appends: Mutex<Latency>,
}

/// What the server that leads said last.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The last message of the log.
    pub place: u64,
    /// Where it is reached; empty: nowhere yet.
    pub server: Arc<str>,
    /// When it was heard here.
    pub at: Instant,
}

pub(super) fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nats {
    pub(super) fn new(client: Client, config: &JetStreamConfig) -> Nats {
        Nats {
            client,
            cluster: config.cluster.to_string(),
            last: AtomicU64::new(0),
            beats: Mutex::default(),
            heard: Mutex::default(),
            says: Mutex::default(),
            peers: Mutex::default(),
            log: Mutex::default(),
            appends: Mutex::default(),
        }
    }

    /// Listens to others, and speaks to them.
    pub(super) async fn start(self: Arc<Nats>) -> Result<(), async_nats::SubscribeError> {
        let (beats, says) = (format!("contact.{}.beat", self.cluster), format!("contact.{}.servers", self.cluster));
        let mut others_beat = self.client.subscribe(beats.clone()).await?;
        let mut others_say = self.client.subscribe(says.clone()).await?;
        let nats = self.clone();
        tokio::spawn(async move {
            while let Some(beat) = others_beat.next().await {
                if let Some((place, server)) = beat.payload.split_first_chunk() {
                    let (place, at) = (u64::from_be_bytes(*place), Instant::now());
                    let server = String::from_utf8_lossy(server).into();
                    *locked(&nats.heard) = Some(Heard { place, server, at });
                }
            }
        });
        let nats = self.clone();
        tokio::spawn(async move {
            let mut warned = false;
            while let Some(word) = others_say.next().await {
                let this = locked(&nats.says).clone();
                let is_twice = locked(&nats.peers).hear(&word.payload, &this, Time::now());
                if is_twice && !std::mem::replace(&mut warned, true) {
                    warn!(
                        "another server of the cluster says that it is {}, too: give each its own --advertise, or what is to be passed on \
                         to one may come to the other",
                        this.server
                    );
                }
            }
        });
        let nats = self.clone();
        tokio::spawn(async move {
            let mut every = interval(BEAT);
            loop {
                every.tick().await;
                let server = locked(&nats.beats).clone();
                if let Some(server) = server {
                    let beat = [&nats.last.load(SeqCst).to_be_bytes()[..], server.as_bytes()].concat();
                    let _ = nats.client.publish(beats.clone(), Bytes::from(beat)).await;
                }
            }
        });
        tokio::spawn(async move {
            let mut every = interval(SAY);
            loop {
                every.tick().await;
                let word = locked(&self.says).clone();
                if !word.server.is_empty() {
                    let _ = self.client.publish(says.clone(), word.to_bytes(Time::now()).into()).await;
                }
            }
        });
        Ok(())
    }

    pub(super) fn heard(&self) -> Option<Heard> {
        locked(&self.heard).clone()
    }

    pub(super) fn view(&self) -> ClusterView {
        ClusterView {
            cluster: self.cluster.clone(),
            servers: locked(&self.peers).all(locked(&self.says).clone(), Time::now()),
            log: locked(&self.log).clone(),
            appends: locked(&self.appends).clone(),
            takeovers: takeovers(),
        }
    }
}

/// What servers say beside the log. The connection lasts as long as one of these, or the log. Not to be dropped in a task of tokio.
#[derive(Clone)]
pub struct Beats {
    pub(super) nats: Arc<Nats>,
    pub(super) _runtime: Arc<Runtime>,
}

impl Beats {
    /// Says that this server leads, and where others reach it, or nowhere yet; or no more.
    pub fn give(&self, server: Option<&str>) {
        *locked(&self.nats.beats) = server.map(Arc::from);
    }

    /// Has this server say so of itself from now on. An epoch of 0 becomes what the server that leads says.
    pub fn say(&self, saying: Saying) {
        let epoch = if saying.epoch > 0 { saying.epoch } else { locked(&self.nats.peers).epoch() };
        *locked(&self.nats.says) = Saying { epoch, ..saying };
    }

    /// Whether somebody says that they lead who knows a message that this server does not.
    pub fn others_lead(&self) -> bool {
        self.heard().is_some_and(|heard| heard.place > self.nats.last.load(SeqCst))
    }

    /// What was heard last of the one who leads, this server included.
    pub fn heard(&self) -> Option<Heard> {
        self.nats.heard()
    }

    /// What this server sees of the cluster.
    pub fn view(&self) -> ClusterView {
        self.nats.view()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_connection_goes_on_at_the_next_server_and_not_where_it_was() {
        let address = |n| format!("nats://h{n}:4222").parse::<ServerAddr>().unwrap();
        let server = |n, did_connect| Server {
            addr: address(n),
            failed_attempts: 0,
            did_connect,
            is_discovered: false,
            last_error: None,
        };
        let mut last = None;
        let mut next_of = |connected: &[i32], all: &[i32]| {
            let pool: Vec<_> = all.iter().map(|n| server(*n, connected.contains(n))).collect();
            next(&pool, &mut last).map(|next| next.addr)
        };
        assert_eq!(next_of(&[], &[0, 1, 2]), None, "any of them");
        assert_eq!(next_of(&[1], &[0, 1, 2]), Some(address(2)));
        assert_eq!(next_of(&[1, 2], &[0, 1, 2]), Some(address(0)));
        assert_eq!(next_of(&[1, 2], &[0, 1, 2]), Some(address(1)), "the one before did not answer");
        assert_eq!(next_of(&[1, 2], &[3, 4]), None, "they are others");
        assert_eq!(next_of(&[4], &[3, 4]), Some(address(3)));
    }
}
