//! Who gets which task: the one thread that owns every group and session.
//!
//! The state machine ([`Core`]) decides; this thread feeds it (commands from its mailbox, what the store committed, the time)
//! and does what it says. Nobody else touches that state, so there are no locks.
//!
//! What can block whom: streams and operators wait, as futures, for room in the broker's mailbox; the broker waits for room
//! in the store's. The store waits for nobody: it rings the broker's doorbell, and the broker fetches from the
//! [tail](crate::store::Tail) what is new.

mod core;
mod delayed;
mod group;
mod handle;
mod outbox;
mod peer;
mod session;
mod tally;

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use log::{error, info, warn};
use rustc_hash::FxHashMap;

pub use self::core::{
    Action, Closed, Config, Core, Disconnected, GroupError, GroupInfo, OutcomeReport, Overview, Reporter, Sessions,
    TaskState, WaitReason,
};
use self::handle::{Command, Departed, Reply};
pub use self::handle::{Handle, Reporting, TasksWithState};
pub use self::outbox::{Inbox, Push};
pub use self::session::{ClientInfo, Delivery, Join, SessionId};
pub use self::tally::{Meter, Tally};
use crate::mailbox;
use crate::store::{self, Backlog, BacklogPage, Reader, Recovered, StoreError};
pub use crate::task::StartAt;
use crate::task::{Task, TaskId, Time};

/// Why the broker did not do something.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// It is stopping: come back when the server is up again.
    #[error("the server is stopping")]
    Stopped,
    /// What was to be written down could not be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The group is not there, or is being used.
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// Commands waiting for the broker. When it is full, those who send one wait, and so does the client behind them.
const MAILBOX: usize = 4096;
/// Commands handled before what came of them is done.
const BURST: usize = 256;
/// Text taken from the tail at once.
const TAIL_BYTES: usize = 1024 * 1024;

/// What the broker wants read, and what came of it. `None`: it could not be read.
enum Job {
    Fetch(u64, Backlog),
    Load(u64, Vec<TaskId>),
}
enum Answer {
    Fetched(u64, Backlog, Option<BacklogPage>),
    Loaded(u64, Vec<TaskId>, Option<Vec<Task>>),
}

/// The broker's threads. Owns them until [`Broker::stop`].
pub struct Broker {
    handle: Handle,
    threads: Vec<JoinHandle<()>>,
}

impl Broker {
    /// Starts on what the store recovered.
    pub fn start(config: Config, store: store::Handle, recovered: Recovered) -> Result<Broker, StoreError> {
        let (mailbox, commands) = mailbox::bounded(MAILBOX);
        let (doorbell, rings) = bounded(1);
        // A ring that finds one waiting may be dropped: the broker looks at everything that is new.
        let handle = Handle { mailbox, store: store.clone(), departed: Arc::default(), doorbell: doorbell.clone() };
        store.tail().subscribe(Box::new(move |_| {
            let _ = doorbell.try_send(());
        }));
        let (jobs, todo) = bounded(1);
        let reader = store.reader()?;
        let answers = handle.mailbox.clone();
        let departed = handle.departed.clone();
        let run = Run {
            core: Core::new(config, recovered, Time::now()),
            store,
            departed,
            outboxes: FxHashMap::default(),
            next_session: 1,
            jobs,
            waiting: VecDeque::new(),
            delivered: 0,
            draining: false,
        };
        let spawn =
            |name: &str, work: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name.into()).spawn(work);
        let threads = [
            spawn("broker", Box::new(move || run.run(&commands, &rings))),
            spawn("broker-reader", Box::new(move || read_for_broker(reader, &todo, &answers))),
        ];
        let threads = threads.into_iter().collect::<Result<_, _>>().map_err(StoreError::no_thread)?;
        Ok(Broker { handle, threads })
    }

    /// Talks to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends every stream with a clear status and opens no new one. What clients tell is still heard, and what they hold stays
    /// with them: they can tell it after the restart, too.
    pub fn drain(&self) {
        let _ = self.handle.mailbox.send(Command::Drain);
    }

    /// Keeps the state of all groups, and joins the threads. Dropping it does the same.
    pub fn stop(self) {}
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.handle.mailbox.send(Command::Stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                error!("a thread of the broker panicked");
            }
        }
    }
}

/// Reads what the broker is waiting for, so that the broker never waits for the disk.
fn read_for_broker(mut reader: Box<dyn Reader>, jobs: &Receiver<Job>, answers: &mailbox::Sender<Command>) {
    fn or_log<T>(result: Result<T, StoreError>) -> Option<T> {
        result.inspect_err(|e| warn!("reading tasks for delivery failed, trying again in a second: {e}")).ok()
    }
    for job in jobs {
        let answer = match job {
            Job::Fetch(group, query) => {
                let page = or_log(reader.backlog(&query));
                Answer::Fetched(group, query, page)
            }
            Job::Load(group, ids) => {
                let tasks = or_log(reader.tasks_by_id(&ids));
                Answer::Loaded(group, ids, tasks)
            }
        };
        if answers.send(Command::Read(answer)).is_err() {
            return;
        }
    }
}

struct Run {
    core: Core,
    store: store::Handle,
    departed: Arc<Departed>,
    outboxes: FxHashMap<SessionId, outbox::Outbox>,
    next_session: SessionId,
    jobs: Sender<Job>,
    /// Jobs the reader has no time for yet. At most a few for each group: a group asks for one page of a class at a time.
    waiting: VecDeque<Job>,
    /// Tasks put on streams since the start.
    delivered: u64,
    draining: bool,
}

impl Run {
    fn run(mut self, commands: &mailbox::Receiver<Command>, rings: &Receiver<()>) {
        loop {
            let due = self.core.tick(Time::now());
            self.act();
            let wait = due.map_or(Duration::from_secs(3600), |at| {
                Duration::from_millis((at.0 - Time::now().0).clamp(0, 3_600_000) as u64)
            });
            let mut stop = false;
            select! {
                recv(commands.raw()) -> command => {
                    commands.taken();
                    let Ok(command) = command else { return };
                    stop |= self.handle(command);
                    for _ in 1..BURST {
                        let Some(command) = commands.try_recv() else { break };
                        stop |= self.handle(command);
                    }
                }
                recv(rings) -> _ => {}
                default(wait) => {}
            }
            self.catch_up();
            self.act();
            if stop {
                return self.stop();
            }
        }
    }

    /// Returns whether to stop.
    fn handle(&mut self, command: Command) -> bool {
        // Whoever comes or asks after a task was accepted finds it there: for one that wants what is new, it is old.
        if matches!(command, Command::Join(..) | Command::With(_)) {
            self.catch_up();
        }
        let now = Time::now();
        match command {
            Command::Join(join, reply) => self.join(*join, reply, now),
            Command::Leave(session, why) => self.leave(session, why, now),
            Command::Room(session, taken) => self.core.room(session, taken, now),
            Command::ReporterCame(peer) => self.core.reporter_came(&peer),
            Command::Report(reporter, reports) => self.core.settle(&reporter, reports, now),
            Command::Flush(reply) => {
                // What was recorded before goes to the store first.
                self.act();
                self.store.flush(Box::new(move |result| drop(reply.send(result))));
            }
            Command::With(work) => work(&mut self.core),
            Command::Read(Answer::Fetched(group, query, page)) => self.core.fetched(group, &query, page, now),
            Command::Read(Answer::Loaded(group, ids, tasks)) => self.core.loaded(group, &ids, tasks, now),
            Command::Drain => {
                self.draining = true;
                self.core.drain();
                for outbox in self.outboxes.values() {
                    outbox.close(Closed::Stopping);
                }
            }
            Command::Stop => return true,
        }
        false
    }

    fn join(&mut self, join: Join, reply: Reply<(SessionId, Inbox)>, now: Time) {
        let id = self.next_session;
        let (outbox, inbox) = outbox::outbox();
        if self.draining || reply.send((id, inbox)).is_err() {
            return;
        }
        self.next_session += 1;
        let takes_over = join.client.as_ref().is_some_and(|client| self.core.is_connected(client));
        self.outboxes.insert(id, outbox);
        self.core.join(join, id, now);
        // The older stream of the same client goes without a line of its own.
        self.act();
        if let Some(client) = self.core.client(id) {
            let instead = if takes_over { ", and its older stream ends" } else { "" };
            info!("{} came{instead}; {} connected", describe(&client), self.outboxes.len());
        }
    }

    fn leave(&mut self, id: SessionId, why: &str, now: Time) {
        self.outboxes.remove(&id);
        if let Some(client) = self.core.client(id) {
            info!(
                "{} went: {why}; it was given {} tasks, all clients together {}; {} connected",
                describe(&client),
                client.delivered,
                self.delivered,
                self.outboxes.len()
            );
        }
        if !self.draining {
            self.core.leave(id, now);
        }
    }

    /// Tells the core which reporters have gone, and hands it what the store committed.
    fn catch_up(&mut self) {
        for peer in self.departed.take() {
            self.core.reporter_went(&peer);
        }
        let newest = self.store.tail().positions().task;
        while self.core.head() < newest {
            match self.store.tail().since(self.core.head(), TAIL_BYTES) {
                Some(tasks) if tasks.is_empty() => return,
                Some(tasks) => self.core.committed(tasks, Time::now()),
                None => self.core.advanced(newest, Time::now()),
            }
            self.act();
        }
    }

    /// Does what the core says, until it has nothing more to say.
    fn act(&mut self) {
        loop {
            let actions = self.core.take_actions();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.act_one(action);
            }
        }
        while let Some(job) = self.waiting.pop_front() {
            if let Err(full) = self.jobs.try_send(job) {
                self.waiting.push_front(full.into_inner());
                break;
            }
        }
    }

    fn act_one(&mut self, action: Action) {
        match action {
            Action::Deliver(session, deliveries) => {
                self.delivered += deliveries.len() as u64;
                self.to_stream(session, |outbox| outbox.deliver(deliveries));
            }
            Action::Heartbeat(session) => self.to_stream(session, outbox::Outbox::beat),
            Action::Close(session, why) => {
                self.to_stream(session, |outbox| outbox.close(why));
                self.outboxes.remove(&session);
            }
            Action::WatchRoom(session, sent) => {
                if let Some(taken) = self.outboxes.get(&session).and_then(|outbox| outbox.watch_room(sent)) {
                    self.core.room(session, taken, Time::now());
                }
            }
            Action::Record(results) => self.store.record(results),
            Action::RecordUnlessSettled(result) => self.store.record_unless_settled(*result),
            Action::Checkpoint(groups) => self.store.checkpoint(groups),
            Action::Forget(group) => self.store.forget_group(group),
            Action::Fetch(group, query) => self.waiting.push_back(Job::Fetch(group, query)),
            Action::Load(group, ids) => self.waiting.push_back(Job::Load(group, ids)),
        }
    }

    /// A stream that is gone says so by itself: its tasks are then given to others.
    fn to_stream(&self, session: SessionId, put: impl FnOnce(&outbox::Outbox)) {
        if let Some(outbox) = self.outboxes.get(&session) {
            put(outbox);
        }
    }

    fn stop(mut self) {
        self.core.checkpoint();
        self.act();
        info!("stopped delivering; {} tasks went out since the start", self.delivered);
    }
}

fn describe(client: &ClientInfo) -> String {
    let who = match (&client.client, &client.group) {
        (Some(id), Some(group)) if id != group => format!("client {id} of group {group}"),
        (Some(id), _) => format!("client {id}"),
        (None, Some(group)) => format!("a client of group {group}"),
        (None, None) => "an anonymous client".to_owned(),
    };
    format!("{who} at {}", client.peer)
}
