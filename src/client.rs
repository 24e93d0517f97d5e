//! The client: takes tasks from a server over a connection of its own, has them handled, and reports their results.
//!
//! ```no_run
//! use contact::client::{Config, Worker};
//!
//! Worker::new(Config::new("127.0.0.1:50051"), |task| format!("done: {}", task.text)).run()?;
//! # Ok::<(), contact::client::Error>(())
//! ```
//!
//! # Threads
//!
//! ```text
//!            ┌──────────────── pipe ────────────────┐
//! server ──getTask──► inbox ──tasks──► handler-0… ──results──► ledger ──tellResult──► server
//!
//! server ◄──sendStatus── status ◄── a source of statuses
//! ```
//!
//! - **pipe** owns the connection: it makes it, loses it, waits, makes the next. It passes tasks in and results out, and
//!   renews the leases of the tasks held here.
//! - **handler-N** wait for a task, handle it, pass the result on. A handler that panics fails its task.
//! - **status** lives as long as the worker, whatever happens to connections. It is there only if there are statuses.
//! - **grpc-client** is gRPC's own: it completes what the others began, and wakes them.
//!
//! Channels join them, all bounded. No handler is free: tasks wait in the pipe's inbox. When that is full, the getTask stream is
//! not read, and flow control slows the server down. When too many results wait, because the connection is slow or lost,
//! handlers wait with theirs.
//!
//! # What is promised
//!
//! Results are reported *at least once*. A tellResult stream is answered only when it ends, so each is ended after a second, ten
//! thousand results or 8 MiB of them. When the answer comes, its results are forgotten. When the connection is lost first, they
//! are sent again, before new tasks are asked for; the server takes those it has already as late. So no confirmed result is
//! sent twice, and none is forgotten unconfirmed.
//!
//! A result that the server refuses is dropped, and logged; those that were sent with it are sent again. A server that gives its
//! tasks no ids, as the article's, could not distinguish a repeated result from a new one: it gets each once.
//!
//! The server is told before a task is begun ([`Config::announce_begin`]). While a task is worked on, its lease is renewed every
//! [`Config::renew_every`]; one that waits here for twice that goes back, so that another client can have it. So do, at once, those
//! that wait when the worker is stopped, when their time is over, and when the connection is lost. A task that is delivered again
//! while it is worked on is not handled twice.
//!
//! Statuses whose answer did not come are sent again over the next connection.
//!
//! A server that stops may say when it wants this client back (`google.rpc.RetryInfo`). The client does not connect before that
//! time, within [`Config::most_backoff`].

mod channel_waker;
mod connection;
mod event;
mod exec;
mod handler;
mod ledger;
mod listener;
mod outgoing;
mod pipe;
mod printed;
mod progress;
mod result_sender;
mod revocation;
mod status_sender;
mod stopper;
mod unreached;

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, never};
use grpcio::{CallOption, EnvBuilder};

pub use self::event::Event;
pub use self::exec::{Exec, NotForCommands, Variable};
pub use self::handler::{Outcome, Reply, Task, TimeLimit};
pub use self::revocation::Revoked;
pub use self::stopper::Stopper;
pub use crate::attachment::{Attachment, HeaderError, Headers};
pub use crate::backoff::Backoff;
use crate::front::{Dial, DialError};
pub use crate::front::{FileError, Invitation, JoinError, Joined, ServerTls, State as JoinState, Tls, renew};
pub use crate::labels::Labels;
pub use crate::task::StartAt;
use crate::task::{Name, NameOf};
use crate::{secret, target};

use self::handler::{HandlerFn, HandlerThread};
use self::listener::Listener;
use self::pipe::{Pipe, State};
use self::status_sender::{Source, StatusSender};

type Observer = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// Tasks, and results, that may be between the pipe and the handlers, so that neither waits for the other at each small task.
const QUEUE: usize = 256;

/// How long one address of a server with TLS may take.
const CONNECT_EACH: Duration = Duration::from_secs(5);

/// How a worker is set. `None` leaves it to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The server's address: `host:port`. Several with commas between them, of servers of a cluster, any of which serves: the client begins at a
    /// random one, so that many clients are spread over all, and goes on to the next when one does not serve it.
    pub server: String,
    /// Listen here, `host:port`, and have the server dial this worker: [`Config::server`] does not matter then.
    pub serve: Option<String>,
    /// How TLS is spoken at [`Config::serve`]. The files are read again when they change. `None`: not at all.
    pub serve_tls: Option<ServerTls>,
    /// Whether [`Config::serve`] may be an address that other machines reach, though there is no TLS.
    pub insecure: bool,
    /// How TLS is spoken with [`Config::server`]. `None`: not at all.
    pub tls: Option<Tls>,
    /// A file with the token that says who the client is, `ct1_` and 64 digits. It is read for each connection. `None`: it does not say.
    /// With [`Config::serve`]: the token that a server has to show.
    pub token_file: Option<PathBuf>,
    /// A stable name of this client: 1 to 256 bytes of characters that can be seen, without blanks at the ends. Without it and without a group, the client is anonymous: it gets
    /// every task the server still has, each time it connects.
    pub id: Option<String>,
    /// The group whose tasks it shares, named by the same rule.
    pub group: Option<String>,
    /// What it is, as in os=linux,role=web: tasks may be for those whose labels match. Its group has them, from the time it connects.
    pub labels: Labels,
    /// The most tasks it wants to hold. `None`: one more than it handles at the same time, so that the next is there when one is
    /// finished, and others get the rest; or a whole batch. Where tasks take less time than a message, more is faster.
    pub window: Option<NonZeroU32>,
    /// The most tasks it wants in one message.
    pub batch: Option<NonZeroU32>,
    /// Where the group, or a client with an id, starts if the server does not know it yet. `None`: as the server is set, at the next
    /// task for everyone. Tasks that are addressed to it wait for it in any case.
    pub from: Option<StartAt>,
    /// How long the server may be silent, in whole seconds; `None` or 0: for ever. It then sends an empty message, so that proxies
    /// on the way, which count gRPC's own pings for nothing, do not cut the stream. After three times that, the connection is
    /// given up, if the server is one that knows heartbeats.
    pub heartbeat: Option<Duration>,
    /// Whether the server is told, and the message is on its way, before a task is begun. A task that was delivered and not
    /// begun then spends no attempt, whatever happens to this client. It costs a message and two changes of thread for each
    /// task: 0.3 ms (two busy cores, dev profile, this machine; one handler, window 64: 2,300 tasks a second, without 10,000).
    /// Without it, what was delivered counts as begun.
    pub announce_begin: bool,
    /// How many handler threads there are, at most [`Config::MOST_HANDLERS`].
    pub concurrency: usize,
    /// The longest wait before the first try to reconnect. It is added to the wait that a stopping server asks for.
    pub first_backoff: Duration,
    /// The longest wait before any try.
    pub most_backoff: Duration,
    /// How often the leases of held tasks are renewed. Well below the server's `--ack-timeout`.
    pub renew_every: Duration,
    /// How long a result may be unconfirmed before a confirmation is asked for.
    pub confirm_every: Duration,
    /// How long a stop waits for the server to confirm the last results.
    pub stop_grace: Duration,
}

impl Default for Config {
    /// An anonymous client with one handler, which is what the article's client is, of a server on this machine.
    fn default() -> Config {
        Config {
            server: "127.0.0.1:50051".into(),
            serve: None,
            serve_tls: None,
            insecure: false,
            tls: None,
            token_file: None,
            id: None,
            group: None,
            labels: Labels::default(),
            window: None,
            batch: None,
            from: None,
            heartbeat: Some(Duration::from_secs(15)),
            announce_begin: true,
            concurrency: 1,
            first_backoff: Duration::from_secs(1),
            most_backoff: Duration::from_secs(30),
            renew_every: Duration::from_secs(10),
            confirm_every: Duration::from_secs(1),
            stop_grace: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// The addresses of [`Config::server`].
    fn servers(&self) -> impl Iterator<Item = &str> {
        self.server.split(',').map(str::trim)
    }

    /// The default, of that server.
    pub fn new(server: impl Into<String>) -> Config {
        Config { server: server.into(), ..Config::default() }
    }
}

/// Why a worker did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot work.
    #[error("{0}")]
    Config(String),
    /// Another client with the same id connected; the server talks to that one now. Give each an id of its own. If they go on taking
    /// it from each other, the server has them take turns: a client then waits for its own.
    #[error("another client took over: {0}")]
    TakenOver(String),
    /// The server does not want this client, and would not the next time either.
    #[error("the server refused this client: {code}: {message}")]
    Refused {
        /// The gRPC status code, as `INVALID_ARGUMENT`.
        code: String,
        /// What the server said.
        message: String,
    },
    /// The worker was stopped before the server confirmed this number of results. It will deliver their tasks again.
    #[error("{0} results could not be reported before the end; the server will deliver these tasks again")]
    Unreported(usize),
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// A thread panicked: a bug.
    #[error("the {0} thread panicked; this is a bug, please report it")]
    Panicked(String),
}

/// A client, ready to start. See the [module's documentation](self).
pub struct Worker {
    config: Config,
    handler: HandlerFn,
    statuses: Option<Source>,
    observer: Observer,
}

impl Worker {
    /// A worker that has its tasks handled by `handler`, on [`Config::concurrency`] threads.
    pub fn new<R: Into<Reply>>(config: Config, handler: impl Fn(&Task) -> R + Send + Sync + 'static) -> Worker {
        let handler: HandlerFn = Arc::new(move |task| handler(task).into());
        Worker { config, handler, statuses: None, observer: Arc::new(|_| {}) }
    }

    /// Sends what comes through the channel as statuses, until it disconnects. While 256 of them wait for their answers, the
    /// channel is not read.
    pub fn statuses(mut self, statuses: Receiver<String>) -> Worker {
        self.statuses = Some(Source::Channel(statuses));
        self
    }

    /// Sends what `make` returns as statuses, at the start and then in intervals of `period`. It is called on the status thread,
    /// while there is a connection and all earlier statuses were answered.
    pub fn statuses_every(mut self, period: Duration, make: impl FnMut() -> Vec<String> + Send + 'static) -> Worker {
        self.statuses = Some(Source::Every(period.min(LONGEST), Box::new(make)));
        self
    }

    /// Calls `observer` for each event, on the thread where it happens: it must not wait long.
    pub fn observe(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Worker {
        self.observer = Arc::new(observer);
        self
    }

    /// Works until the server refuses this client: [`Worker::start`], then [`Running::join`].
    pub fn run(self) -> Result<(), Error> {
        self.start()?.join()
    }

    /// Starts the threads, and returns at once: the server need not be there yet.
    pub fn start(self) -> Result<Running, Error> {
        let Worker { config, handler, statuses, observer } = self;
        let config = Arc::new(config.checked()?);
        if config.serve.is_some() && statuses.is_some() {
            return Err(Error::Config("a worker that is dialled has nowhere to send statuses to".into()));
        }
        let token = config.token_file.as_deref().map(secret::read).transpose().map_err(Error::Config)?;
        let token = token.map(|(token, warning)| {
            warning.into_iter().for_each(|warning| log::warn!("{warning}"));
            token
        });
        let instance = format!("{:016x}", rand::random::<u64>());
        let said = connection::metadata(&config, &instance, false)?;
        let options = CallOption::default().headers(said.clone());
        let stopping_options = CallOption::default().headers(connection::metadata(&config, &instance, true)?);
        let env = Arc::new(EnvBuilder::new().cq_count(1).name_prefix("grpc-client").build());
        let (listener, accepted) = match &config.serve {
            Some(address) => {
                let (listener, accepted) = Listener::start(address, &config, env.clone(), said)?;
                (Some(listener), accepted)
            }
            None => (None, never()),
        };
        let by_tls = |tls| config.servers().map(|server| Dial::start(server, tls, CONNECT_EACH)).collect();
        let dials: Result<Vec<Dial>, _> = config.tls.as_ref().map_or(Ok(Vec::new()), by_tls);
        let dials = dials.map_err(|error| match error {
            DialError::Io(error) => Error::Thread(error),
            error => Error::Config(error.to_string()),
        })?;
        let (stopper, stopped) = Stopper::new();
        let (tasks, not_started) = bounded(config.concurrency.max(QUEUE));
        let (finished, results) = bounded(QUEUE);
        let (links, outdated) = bounded(1);

        // From here on, each failure drops `running`, and that stops and joins the threads there are.
        let mut running = Running { stopper: stopper.clone(), pipe: None, others: Vec::new() };
        for n in 0..config.concurrency {
            let handler = HandlerThread {
                tasks: not_started.clone(),
                finished: finished.clone(),
                announces: config.announce_begin,
                stopped: stopped.clone(),
                handler: handler.clone(),
                observer: observer.clone(),
            };
            running.others.push(spawn(format!("handler-{n}"), move || handler.run())?);
        }
        drop(finished);
        if let Some(source) = statuses {
            let sender = StatusSender::new(source, outdated.clone(), stopped.clone(), observer.clone(), &config);
            running.others.push(spawn("status".into(), move || sender.run())?);
        }
        let pipe = Pipe {
            env,
            accepted,
            listener,
            dials,
            state: State::new(&config, token, &mut rand::rng()),
            tasks: Some(tasks),
            config,
            options,
            stopping_options,
            observer,
            stopper,
            stopped,
            not_started,
            results,
            links,
            outdated,
        };
        running.pipe = Some(spawn("pipe".into(), move || pipe.run())?);
        Ok(running)
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("config", &self.config).field("statuses", &self.statuses).finish_non_exhaustive()
    }
}

/// Longer times are cut to this: adding them to the time now must not overflow.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Whether a client or a group can be called so. A name is made of characters each of which could be one.
pub fn is_name(name: &str) -> bool {
    Name::new(NameOf::ClientOrGroup, name).is_ok()
}

impl Config {
    /// The most handler threads: each takes four of the 65,530 mappings that Linux gives a process unless told otherwise, and beyond
    /// those a thread dies as it begins.
    pub const MOST_HANDLERS: usize = 4096;

    fn window(&self) -> u32 {
        let batch = self.batch.map_or(1, NonZeroU32::get);
        let handlers = u32::try_from(self.concurrency).unwrap_or(u32::MAX).saturating_add(1);
        self.window.map_or(handlers.max(batch), NonZeroU32::get)
    }

    fn checked(mut self) -> Result<Config, Error> {
        match &self.serve {
            None if self.serve_tls.is_some() => {
                return Err(Error::Config(
                    "a worker that does not listen shows a certificate by `tls`, and not by `serve_tls`".into(),
                ));
            }
            None => {
                for server in self.servers() {
                    target::check(server).map_err(|why| Error::Config(format!("the server {server:?}: {why}")))?;
                }
            }
            Some(_) if self.tls.is_some() => {
                let why = "a worker that listens connects to no server: how it speaks TLS is said by `serve_tls`, and not by `tls`";
                return Err(Error::Config(why.into()));
            }
            Some(_) => {}
        }
        if self.concurrency == 0 {
            return Err(Error::Config("concurrency 0 would handle nothing; use 1 or more".into()));
        }
        if self.concurrency > Config::MOST_HANDLERS {
            let (asked, most) = (self.concurrency, Config::MOST_HANDLERS);
            return Err(Error::Config(format!(
                "concurrency {asked} is more than one process can have; use {most} at most"
            )));
        }
        if self.renew_every.is_zero() {
            return Err(Error::Config("leases cannot be renewed every 0 s; use 1s or more".into()));
        }
        self.heartbeat =
            self.heartbeat.filter(|every| !every.is_zero()).map(|every| every.clamp(Duration::from_secs(1), LONGEST));
        for time in [
            &mut self.first_backoff,
            &mut self.most_backoff,
            &mut self.renew_every,
            &mut self.confirm_every,
            &mut self.stop_grace,
        ] {
            *time = LONGEST.min(*time);
        }
        for name in [&self.id, &self.group].into_iter().flatten() {
            Name::new(NameOf::ClientOrGroup, name).map_err(|error| Error::Config(error.to_string()))?;
        }
        Ok(self)
    }
}

fn spawn<T: Send + 'static>(name: String, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, Error> {
    thread::Builder::new().name(name).spawn(work).map_err(Error::Thread)
}

/// A worker that runs. Dropping it stops it gracefully, and waits for the end.
#[derive(Debug)]
#[must_use = "dropping it stops the worker"]
pub struct Running {
    stopper: Stopper,
    pipe: Option<JoinHandle<Result<(), Error>>>,
    others: Vec<JoinHandle<()>>,
}

impl Running {
    /// What stops it, from another thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Stops gracefully, and waits for it: running tasks are finished, their results are sent, the threads are joined. Tasks
    /// that no handler has begun go back to the server at once, and a worker with an id is given no more.
    pub fn stop(self) -> Result<(), Error> {
        self.stopper.stop();
        self.join()
    }

    /// Waits until it was stopped, or the server refused this client.
    pub fn join(mut self) -> Result<(), Error> {
        self.wait()
    }

    fn wait(&mut self) -> Result<(), Error> {
        let mut verdict = match self.pipe.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(Error::Panicked("pipe".into())),
            Some(Ok(verdict)) => verdict,
            None => Ok(()),
        };
        self.stopper.stop();
        for other in self.others.drain(..) {
            let name = other.thread().name().unwrap_or("unnamed").to_owned();
            if other.join().is_err() && verdict.is_ok() {
                verdict = Err(Error::Panicked(name));
            }
        }
        verdict
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Err(error) = self.wait() {
            log::error!("{error}");
        }
    }
}
