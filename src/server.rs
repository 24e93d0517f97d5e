//! The server: both services on their ports, over the broker and the store.
//!
//! gRPC's own threads ("grpc-poll") decode, encode and run the futures of the calls. Nothing ever waits on them.

mod about;
mod access;
mod admission;
mod authority;
mod backup;
mod calls;
mod clock;
mod config;
mod contact;
mod control;
mod convert;
mod demo;
mod dial;
mod doors;
mod engine;
#[cfg(test)]
mod failing;
mod first_steps;
mod grants;
mod health;
pub mod host;
mod http;
mod identity;
#[cfg(feature = "cluster")]
mod import;
mod kept;
mod limits;
mod logins;
mod machine;
#[cfg(feature = "cluster")]
mod member;
mod metadata;
mod operator;
mod port;
#[cfg(feature = "cluster")]
mod proxy;
mod pump;
mod query;
mod rate;
mod receipts;
mod reflection;
mod refusal;
mod refusal_counts;
mod retention;
mod roles;
mod runs;
mod schedules;
mod status_rate;
mod tls;
mod tokens;
mod traffic;
mod upstream;
mod watchdog;
mod watchers;

use std::net::TcpListener;
use std::time::Duration;

use futures::executor::block_on;
use futures::future::{self, Either};
use log::warn;

pub use self::access::Auth;
pub use self::admission::CallLimits;
pub use self::config::{Config, GRPC_MEMORY, LARGEST_MAX_TASK, Retention, ServerError};
pub use self::dial::DialConfig;
use self::doors::{Doors, OpenDoors};
use self::engine::{Engine, Page};
use self::first_steps::At;
use self::health::Health;
use self::http::HttpThread;
#[cfg(feature = "cluster")]
pub use self::import::{Imported, import};
use self::kept::Kept;
pub use self::limits::{Limit, Limits, Most};
#[cfg(feature = "cluster")]
pub use self::member::{ClusterConfig, Member, SHORTEST_TAKEOVER};
use self::roles::Role;
use self::upstream::Upstream;
pub use self::watchdog::Pulse;
use crate::broker::{self, BrokerError};
pub use crate::front::{FileError, ServerTls, Tls as DialTls};
use crate::store::{Backend, Newest, Recovered, Sqlite, Store, StoreError};
use crate::task::Time;
use crate::wire::control_grpc::create_control;

/// A running server. Owns all its threads until [`Server::stop`].
pub struct Server {
    doors: Doors,
    open: OpenDoors,
    health: Health,
    http: Option<HttpThread>,
    engine: Engine,
    grace: Duration,
}

impl Server {
    /// Opens the store and begins to listen. Returns when clients can connect.
    pub fn start(config: Config) -> Result<Server, ServerError> {
        let (doors, (page, opened)) = Doors::new(&config, Kept::in_files(&config.data), |tls, about| {
            let page = Page::bind(&config, tls, about)?;
            let store = Sqlite::open(&config.data).map(|store| Box::new(store) as Box<dyn Backend>);
            let opened = store.and_then(Store::with_backend).map_err(ServerError::Open)?;
            kept::leave_cluster(&config.data, &opened)?;
            Ok((page, opened))
        })?;
        let health = Health::of(opened.0.handle());
        let engine =
            Engine::start(&config, opened, &doors, |broker| doors.contact(Upstream::Broker(broker), health.clone()))?;
        let control = create_control(engine.control(&doors), &doors.let_in(Role::Operator));
        let open = doors.open(&config, &health, engine.contact.clone(), Vec::new(), control)?;
        let http = page.map(|page| page.open(&doors)).transpose()?;
        let engine = engine.begin(&config, &doors, http.as_ref(), &health)?;
        Ok(Server { doors, open, health, http, engine, grace: config.grace })
    }

    /// Where clients connect.
    pub fn listen(&self) -> &str {
        self.open.listen()
    }

    /// Where operators connect.
    pub fn control(&self) -> &str {
        self.open.control()
    }

    /// Where the page is, if it is anywhere.
    pub fn http(&self) -> Option<&str> {
        self.http.as_ref().map(HttpThread::address)
    }

    /// What to do with it first, as commands for this machine: a line for a worker, for a task, and for the page.
    pub fn first_steps(&self) -> String {
        self.doors.first_steps.text(&At { listen: self.listen(), control: self.control(), http: self.http() })
    }

    /// Whether it moves.
    pub fn pulse(&self) -> Pulse {
        self.engine.pulse()
    }

    /// Takes other settings while it runs, for what comes from now on. The group of anonymous clients stays what it is; what is
    /// kept for how long counts with the next round of removing, within [`Retention::every`].
    pub fn reconfigure(&self, broker: broker::Config, retention: Retention, limits: Limits) -> Result<(), BrokerError> {
        self.engine.reconfigure(&self.doors, broker, retention)?;
        block_on(self.engine.contact.upstream.set_quotas(self.doors.accounts.set_limits(limits)))
    }

    /// Reads the files of TLS again, if there are any. Those that are wrong change nothing, and the log says what is wrong.
    pub fn reload_tls(&self) {
        self.open.reload_tls();
    }

    /// Ends the streams with a clear status, writes down what clients still report, stops accepting, and joins all threads.
    ///
    /// Health goes first, so that load balancers send no client here any more. Then the streams of tasks are ended, each with the
    /// time to come back. While a client reports, submits or asks something, new calls are answered too, for [`Config::grace`] at
    /// most: results are taken, health is not serving, and there are no tasks.
    pub fn stop(self) -> Result<(), StoreError> {
        let Server { doors, open, health, http, engine, grace } = self;
        health.begin_drain();
        let drained = engine.drain(|clients| health.sends_away(clients));
        open.wait(&doors.calls, &health, grace);
        // Until here the page could be looked at, which says that the server is stopping.
        http.into_iter().for_each(HttpThread::stop);
        // What is still reported finds the broker's mailbox closed, and is reported again after the reconnect.
        let closing = drained.end();
        open.close();
        closing.close()
    }
}

/// When something was last written down, as far as it is kept.
fn newest_entry(recovered: &Recovered) -> Option<Time> {
    let Newest { task, result, status } = recovered.newest;
    let group = recovered.groups.iter().map(|group| group.last_used).max();
    [task, result, status].into_iter().chain(group).max().filter(|newest| *newest > Time::default())
}

/// Waits for a future on this thread, for `limit` at most; says whether it came to its end.
fn within(limit: Duration, work: impl Future + Unpin) -> bool {
    let (stop, stopped) = futures::channel::oneshot::channel::<()>();
    let (finished, wait) = crossbeam_channel::bounded::<()>(0);
    let timer = std::thread::Builder::new().name("grace".into()).spawn(move || {
        let _ = wait.recv_timeout(limit);
        drop(stop);
    });
    let ended = matches!(block_on(future::select(work, stopped)), Either::Left(_));
    drop(finished);
    if timer.map(|timer| timer.join()).is_err() {
        warn!("no thread for the time limit");
    }
    ended
}

/// Takes a port; gives the address with the port that was taken.
fn bind(address: &str, flag: &'static str) -> Result<(TcpListener, String), ServerError> {
    let refused = |why: String| ServerError::Listen { address: address.to_owned(), flag, why };
    let (host, _) = address.rsplit_once(':').ok_or_else(|| refused("it must be HOST:PORT".into()))?;
    let listener = TcpListener::bind(address).map_err(|e| refused(e.to_string()))?;
    let port = listener.local_addr().map_err(|e| refused(e.to_string()))?.port();
    Ok((listener, format!("{host}:{port}")))
}
