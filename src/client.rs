//! The client: takes tasks from a server over a connection of its own, has them handled, and tells what came of them.
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
//! - **pipe** owns the connection: it makes it, loses it, waits, makes the next. It carries tasks in and results out, and
//!   renews the leases of what is held here.
//! - **handler-N** wait for a task, handle it, hand over the result. A handler that panics fails its task.
//! - **status** lives as long as the worker, whatever becomes of connections; it is there only if there is something to
//!   report.
//! - **grpc-client** is gRPC's own: it completes what the others began, and wakes them.
//!
//! Channels join them, all bounded. No handler is free: tasks wait in the pipe's inbox; that is full: the getTask stream
//! is not read, and flow control holds the server up. Too many results are untold, because the connection is slow or
//! gone: handlers wait with theirs.
//!
//! # What is promised
//!
//! Results are told *at least once*. A tellResult stream is answered only when it ends, so each is ended after a second,
//! ten thousand results or 8 MiB of them; what it carried is forgotten when the answer comes, and told again, before new
//! tasks are asked for, if the connection is lost first. The server takes what it has already as late. So nothing that
//! was confirmed is told twice, nothing is forgotten unconfirmed, and no more than one stream of results is kept. A
//! result that the server refuses is dropped, and logged; those that were told along with it are told again. A server
//! that gives its tasks no ids, as the article's, could not tell a repeated result from a new one: it is told each once.
//!
//! While a task waits here or is worked on, its lease is renewed every [`Config::renew_every`]. A task that is delivered
//! again in the meantime is not handled twice.
//!
//! Statuses whose answer did not come are sent again over the next connection.
//!
//! A server that stops may say when it wants this client back (`google.rpc.RetryInfo`): it is left alone until then, within
//! [`Config::most_backoff`].

mod backoff;
mod bell;
mod connection;
mod event;
mod exec;
mod handler;
mod ledger;
mod outgoing;
mod pipe;
mod status;
mod stopper;
mod tell;

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use grpcio::EnvBuilder;

pub use self::backoff::Backoff;
pub use self::event::Event;
pub use self::exec::Exec;
pub use self::handler::{Outcome, Reply, Task};
pub use self::stopper::Stopper;

use self::handler::{Hand, HandlerFn};
use self::pipe::{Pipe, State};
use self::status::{Reporter, Source};

type Observer = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// Tasks, and results, that lie between the pipe and the handlers, so that neither waits for the other at each small task.
const AHEAD: usize = 256;

/// Where a group that is new to the server starts to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the first task that the server still has.
    First,
    /// At the next task that is submitted.
    New,
}

impl StartAt {
    fn as_str(self) -> &'static str {
        match self {
            StartAt::First => "first",
            StartAt::New => "new",
        }
    }
}

/// What a worker is to be. `None` leaves it to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The server's address: `host:port`.
    pub server: String,
    /// A stable name of this client, printable ASCII. Without it and without a group, the client is anonymous: it gets
    /// every task the server still has, each time it connects.
    pub id: Option<String>,
    /// The group whose tasks it shares, printable ASCII.
    pub group: Option<String>,
    /// The most tasks it wants to hold.
    pub window: Option<NonZeroU32>,
    /// The most tasks it wants in one message.
    pub batch: Option<NonZeroU32>,
    /// Where a new group starts.
    pub from: Option<StartAt>,
    /// How long the server may be silent, in whole seconds; when three times that passed, the connection is given up.
    /// For networks where gRPC's own pings are answered by something in between.
    pub heartbeat: Option<Duration>,
    /// How many handler threads there are.
    pub concurrency: usize,
    /// The longest wait before the first try to reconnect. It comes on top of what a server asked for that is stopping.
    pub first_backoff: Duration,
    /// The longest wait before any try.
    pub most_backoff: Duration,
    /// How often the leases of held tasks are renewed. Well below the server's `--ack-timeout`.
    pub renew_every: Duration,
    /// How long a result may be unconfirmed before a confirmation is asked for.
    pub confirm_every: Duration,
    /// How long a stop waits for the server to take the last results, once they are there.
    pub stop_grace: Duration,
}

impl Config {
    /// An anonymous client with one handler: what the article's client is.
    pub fn new(server: impl Into<String>) -> Config {
        Config {
            server: server.into(),
            id: None,
            group: None,
            window: None,
            batch: None,
            from: None,
            heartbeat: None,
            concurrency: 1,
            first_backoff: Duration::from_secs(1),
            most_backoff: Duration::from_secs(30),
            renew_every: Duration::from_secs(10),
            confirm_every: Duration::from_secs(1),
            stop_grace: Duration::from_secs(10),
        }
    }
}

/// Why a worker did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot work.
    #[error("{0}")]
    Config(String),
    /// Another client with the same id connected; the server talks to that one now. Give each an id of its own.
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
    /// The worker was stopped, but so many results could not be told. The server will deliver these tasks again.
    #[error("{0} results could not be told before the end; the server will deliver these tasks again")]
    Untold(usize),
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

    /// Reports what comes through the channel, until it disconnects. 256 of them may wait for their answers; then the
    /// channel is not read.
    pub fn statuses(mut self, statuses: Receiver<String>) -> Worker {
        self.statuses = Some(Source::Channel(statuses));
        self
    }

    /// Reports what `make` returns, at the start and then in intervals of `period`, on the status thread. It is asked
    /// while there is a connection and everything before was answered.
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
        let instance = format!("{:016x}", rand::random::<u64>());
        let options = connection::call_options(&config, &instance)?;
        let (stopper, stopped) = Stopper::new();
        let (tasks, unbegun) = bounded(config.concurrency.max(AHEAD));
        let (finished, results) = bounded(AHEAD);
        let (links, outdated) = bounded(1);

        // From here on, whatever fails drops `running`, and that stops and joins the threads there are.
        let mut running = Running { stopper: stopper.clone(), pipe: None, others: Vec::new() };
        for n in 0..config.concurrency {
            let hand = Hand {
                tasks: unbegun.clone(),
                finished: finished.clone(),
                stopped: stopped.clone(),
                handler: handler.clone(),
                observer: observer.clone(),
            };
            running.others.push(spawn(format!("handler-{n}"), move || hand.run())?);
        }
        drop(finished);
        if let Some(source) = statuses {
            let reporter = Reporter::new(source, outdated.clone(), stopped.clone(), observer.clone(), &config);
            running.others.push(spawn("status".into(), move || reporter.run())?);
        }
        let pipe = Pipe {
            env: Arc::new(EnvBuilder::new().cq_count(1).name_prefix("grpc-client").build()),
            state: State::new(&config),
            tasks: Some(tasks),
            config,
            options,
            observer,
            stopper,
            stopped,
            unbegun,
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

/// Longer times are cut to this: nobody waits for them, and adding them to the time now must not overflow.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Config {
    fn checked(mut self) -> Result<Config, Error> {
        if self.server.is_empty() || self.server.contains('\0') {
            return Err(Error::Config(format!("{:?} is no address; name the server as host:port", self.server)));
        }
        if self.concurrency == 0 {
            return Err(Error::Config("concurrency 0 would handle nothing; use 1 or more".into()));
        }
        if self.renew_every.is_zero() {
            return Err(Error::Config("leases cannot be renewed every 0 s; use 1s or more".into()));
        }
        self.heartbeat = self.heartbeat.map(|every| every.clamp(Duration::from_secs(1), LONGEST));
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
            crate::task::Name::new(crate::task::NameOf::ClientOrGroup, name)
                .map_err(|error| Error::Config(error.to_string()))?;
        }
        Ok(self)
    }
}

fn spawn<T: Send + 'static>(name: String, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, Error> {
    thread::Builder::new().name(name).spawn(work).map_err(Error::Thread)
}

/// A worker that runs. When dropped, it is stopped gracefully, and waited for.
#[derive(Debug)]
#[must_use = "dropping it stops the worker"]
pub struct Running {
    stopper: Stopper,
    pipe: Option<JoinHandle<Result<(), Error>>>,
    others: Vec<JoinHandle<()>>,
}

impl Running {
    /// What stops it, for somebody else to hold.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Stops gracefully, and waits for it: what runs is finished, the results are told, the threads are joined. Tasks
    /// that no handler has begun with go back to the server.
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
