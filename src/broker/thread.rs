//! The broker's thread: feeds the core (commands, commits, the time) and does what it says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, select};
use log::{info, warn};
use rustc_hash::FxHashMap;

use super::core::{Action, ClientInfo, Closed, Core, Join, JoinError, Reporter, SessionId};
use super::handle::{Command, DisconnectedReporters, Joined, Reply};
use super::outbox::{self, Outbox};
use super::reader::{ReadAnswer, ReadJob};
use super::wakeup::WakeUp;
use super::watches::Watches;
use crate::mailbox;
use crate::now::{Now, Steady};
use crate::store;

/// Commands handled before the actions that follow from them are done.
const BURST: usize = 256;
/// Bytes of results likewise: they wait here until they are handed to the store.
const BURST_BYTES: usize = 8 << 20;
/// Most text taken from the tail at once, in bytes.
const TAIL_BYTES: usize = 1024 * 1024;

/// How late it is noticed at most that the clock stepped, or that the machine slept: nothing wakes a thread because of that.
const LOOK: Duration = Duration::from_secs(1);

/// An answer is late that takes longer: even a slow disk has written by then.
const LATE: Duration = Duration::from_millis(500);

/// The loop of the broker's thread: feeds the core and does what it says.
pub(super) struct BrokerThread {
    core: Core,
    store: store::Handle,
    disconnected: Arc<DisconnectedReporters>,
    watches: Watches,
    outboxes: FxHashMap<SessionId, Outbox>,
    next_session: SessionId,
    /// Where the reader thread takes its jobs. Holds one: the next is handed over when the reader has taken that.
    reader: Sender<ReadJob>,
    /// Jobs that the reader has no time for yet. At most a few for each group: it asks for one page of a priority at a time.
    waiting: VecDeque<ReadJob>,
    /// Tasks put on streams since the start.
    delivered: u64,
    draining: bool,
    wake_up: WakeUp,
    /// The store finds out whether another server leads.
    proving: Arc<AtomicBool>,
    owed: Owed,
}

/// The answers that clients wait for until all is stored that they told.
#[derive(Default)]
struct Owed {
    /// When they were asked for, the oldest first, by their number.
    asked: VecDeque<(u64, Steady)>,
    next: u64,
    shared: Arc<OwedShared>,
}

#[derive(Default)]
struct OwedShared {
    /// The number of the last one that was given.
    given: AtomicU64,
    /// One was given late, or refused.
    was_late: AtomicBool,
}

impl Owed {
    /// One more. What is returned is to be called with it.
    fn ask(&mut self) -> impl FnOnce(bool) + Send + use<> {
        let (began, shared) = (Now::read().steady, self.shared.clone());
        self.next += 1;
        let number = self.next;
        self.asked.push_back((number, began));
        move |is_good| {
            if !is_good || Now::read().steady.since(began) >= LATE {
                shared.was_late.store(true, SeqCst);
            }
            shared.given.fetch_max(number, SeqCst);
        }
    }

    /// Whether one is late now, or was since this was last asked.
    fn is_late(&mut self, now: Now) -> bool {
        let given = self.shared.given.load(SeqCst);
        let waiting = self.asked.partition_point(|(number, _)| *number <= given);
        self.asked.drain(..waiting);
        let waits = self.asked.front().is_some_and(|(_, began)| now.steady.since(*began) >= LATE);
        self.shared.was_late.swap(false, SeqCst) || waits
    }
}

impl BrokerThread {
    pub(super) fn new(
        core: Core,
        store: store::Handle,
        disconnected: Arc<DisconnectedReporters>,
        watches: Watches,
        reader: Sender<ReadJob>,
        wake_up: WakeUp,
    ) -> BrokerThread {
        let (outboxes, waiting, proving) = (FxHashMap::default(), VecDeque::new(), Arc::default());
        let (next_session, delivered, draining) = (1, 0, false);
        BrokerThread {
            core,
            store,
            disconnected,
            watches,
            outboxes,
            next_session,
            reader,
            waiting,
            delivered,
            draining,
            wake_up,
            proving,
            owed: Owed::default(),
        }
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self, commands: &mailbox::Receiver<Command>, wake_ups: &Receiver<()>) {
        loop {
            self.gate();
            self.excuse();
            let due = self.core.tick(Now::read());
            self.act();
            let wait = due.map_or(LOOK, |at| at.since(Now::read().steady).min(LOOK));
            let mut stop = false;
            select! {
                recv(commands.raw()) -> command => {
                    self.gate();
                    let Ok(command) = command else { return };
                    let (mut next, mut count, mut bytes) = (Some(command), 0, 0);
                    while let Some(command) = next {
                        (count, bytes) = (count + 1, bytes + command.bytes());
                        stop |= self.handle(commands.taken(command));
                        let goes_on = count < BURST && bytes < BURST_BYTES;
                        next = if goes_on { commands.raw().try_recv().ok() } else { None };
                    }
                }
                recv(wake_ups) -> _ => self.gate(),
                default(wait) => {}
            }
            self.catch_up();
            self.act();
            if stop {
                return self.stop();
            }
        }
    }

    /// Before leases end: that a client says nothing may be because it waits.
    fn excuse(&mut self) {
        let now = Now::read();
        if self.owed.is_late(now) {
            self.core.keep_waiting(now);
        }
    }

    /// Gives nothing out unless it is known that no other server leads: that one may know of outcomes that this one does not.
    fn gate(&mut self) {
        if self.store.leads() {
            return self.core.end_hold(Now::read());
        }
        self.core.hold();
        if self.core.holds_something() && !self.proving.swap(true, SeqCst) {
            let (proving, wake_up) = (self.proving.clone(), self.wake_up.clone());
            self.store.flush(Box::new(move |proved| {
                proving.store(false, SeqCst);
                // Of a store that takes nothing it is asked again later.
                if proved.is_ok() {
                    wake_up.wake();
                }
            }));
        }
    }

    /// Returns whether to stop.
    fn handle(&mut self, command: Command) -> bool {
        // A client that joins, or a question that is asked, after a task was accepted finds the task there: for a client that
        // starts at new tasks, it is an old one.
        if matches!(command, Command::Join(..) | Command::With(_)) {
            self.catch_up();
        }
        let now = Now::read();
        match command {
            Command::Join(join, reply) => self.join(*join, reply, now),
            Command::Leave(session, why) => {
                self.excuse();
                self.leave(session, &why, now);
            }
            #[cfg(feature = "cluster")]
            Command::Lose(session) => {
                self.core.excuse(session);
                self.leave(session, "the server that it was connected to was lost", now);
            }
            #[cfg(feature = "cluster")]
            Command::KeepWaiting => self.core.keep_waiting(now),
            Command::StreamTook(session, taken) => self.core.stream_took(session, taken, now),
            Command::ReporterConnected(peer) => self.core.reporter_connected(&peer),
            Command::Report(reporter, reports) => {
                let before = (self.core.unmatched(), self.core.foreign());
                self.core.report(&reporter, reports, now);
                warn_of_unmatched(before.0, self.core.unmatched(), &reporter.peer);
                warn_of_foreign(before.1, self.core.foreign(), &reporter);
            }
            Command::Flush(reply) => {
                // What was recorded before goes to the store first.
                self.act();
                let given = self.owed.ask();
                self.store.flush(Box::new(move |result| {
                    given(result.is_ok());
                    drop(reply.send(result));
                }));
            }
            Command::With(work) => work(&mut self.core, now),
            Command::Read(ReadAnswer::Fetched(group, query, page)) => self.core.fetched(group, &query, page, now),
            Command::Read(ReadAnswer::Loaded(group, ids, tasks)) => self.core.loaded(group, &ids, tasks, now),
            Command::Read(ReadAnswer::Counted(asked, counted)) => self.core.counted(&asked, counted, now),
            Command::Drain => {
                self.draining = true;
                self.core.begin_stop();
                for outbox in self.outboxes.values() {
                    outbox.close(Closed::Stopping);
                }
            }
            Command::Stop => return true,
        }
        false
    }

    fn join(&mut self, join: Join, reply: Reply<Result<Joined, JoinError>>, now: Now) {
        let session = self.next_session;
        if self.draining || reply.is_canceled() {
            return;
        }
        let takes_over = join.client.as_ref().is_some_and(|client| self.core.is_connected(client));
        let fights = self.core.fights();
        let wanted = join.window;
        let new_group = match self.core.join(join, session, now) {
            Ok(new_group) => new_group,
            // Not logged: it may come again and again. The fight was, and that there are many groups is a finding.
            Err(refused) => return drop(reply.send(Err(refused))),
        };
        self.next_session += 1;
        let (outbox, inbox) = outbox::outbox();
        self.outboxes.insert(session, outbox);
        // The older stream of the same client ends without a line of its own. A new group is on its way to the store before anybody
        // hears of it, and so before what is submitted afterwards.
        self.act();
        let less = wanted.zip(self.core.window(session)).filter(|(wanted, window)| wanted > window);
        let window = less.map(|(_, window)| window);
        if reply.send(Ok(Joined { session, inbox, new_group, window })).is_err() {
            return self.leave(session, "its call ended", now);
        }
        if let Some(client) = self.core.client(session) {
            let instead = if takes_over { ", and its older stream ends" } else { "" };
            let new_group = if new_group.is_some() { "; its group is new" } else { "" };
            let less = less.map_or(String::new(), |(wanted, window)| {
                format!("; it wants a window of {wanted} and has one of {window} (--max-window, or the limit of its identity)")
            });
            info!("{} came{instead}; {} connected{new_group}{less}", describe(&client), self.outboxes.len());
            if self.core.fights() > fights {
                warn!(
                    "several processes use the id of {}, and take it from each other: from now on they take turns, of 5 s and then \
                     longer ones; give each an id of its own, or let them share one group",
                    describe(&client)
                );
            }
        }
    }

    fn leave(&mut self, id: SessionId, why: &str, now: Now) {
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

    /// Tells the core which reporters disconnected, and hands it what the store committed.
    fn catch_up(&mut self) {
        for peer in self.disconnected.take() {
            self.core.reporter_disconnected(&peer);
        }
        let newest = self.store.tail().positions().task;
        while self.core.head() < newest {
            match self.store.tail().since(self.core.head(), TAIL_BYTES) {
                Some(tasks) if tasks.is_empty() => return,
                Some(tasks) => self.core.committed(tasks, Now::read()),
                None => self.core.advanced(&self.store.tail().skip(self.core.head()), Now::read()),
            }
            self.act();
        }
    }

    /// Does what the core says, until it says nothing more.
    fn act(&mut self) {
        loop {
            let actions = self.core.take_actions(Now::read());
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.act_one(action);
            }
        }
        while let Some(job) = self.waiting.pop_front() {
            if let Err(full) = self.reader.try_send(job) {
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
            Action::Revoke(session, revoked) => self.to_stream(session, |outbox| outbox.revoke(revoked)),
            Action::Watch(session, watched) => self.to_stream(session, |outbox| outbox.watch(watched)),
            Action::Print(printed) => self.watches.show(&printed),
            Action::Note(session, note) => self.to_stream(session, |outbox| outbox.note(note)),
            Action::Heartbeat(session) => self.to_stream(session, Outbox::beat),
            Action::Close(session, why) => {
                self.to_stream(session, |outbox| outbox.close(why));
                self.outboxes.remove(&session);
            }
            Action::WatchRoom(session, sent) => {
                if let Some(taken) = self.outboxes.get(&session).and_then(|outbox| outbox.watch_room(sent)) {
                    self.core.stream_took(session, taken, Now::read());
                }
            }
            Action::Record(results) => self.store.record(results),
            Action::RecordUnlessSettled(result) => self.store.record_unless_settled(*result),
            Action::Checkpoint(checkpoint) => self.store.checkpoint(checkpoint),
            Action::Forget(group) => self.store.forget_group(group),
            Action::Drain(client, drain) => self.store.drain(client, drain),
            Action::Fetch(group, query) => self.waiting.push_back(ReadJob::Fetch(group, query)),
            Action::Load(group, ids) => self.waiting.push_back(ReadJob::Load(group, ids)),
            Action::Count(asked) => self.waiting.push_back(ReadJob::Count(asked)),
        }
    }

    /// If the stream has ended, its own `leave` is on the way: its tasks are then given to others.
    fn to_stream(&self, session: SessionId, put: impl FnOnce(&Outbox)) {
        if let Some(outbox) = self.outboxes.get(&session) {
            put(outbox);
        }
    }

    fn stop(mut self) {
        self.core.checkpoint(Now::read());
        self.act();
        info!("stopped delivering; {} tasks went out since the start", self.delivered);
    }
}

/// Says so the first time, the tenth, the hundredth: where it happens, it happens with each acknowledgement.
fn warn_of_unmatched(before: u64, now: u64, peer: &str) {
    if now.checked_ilog10() > before.checked_ilog10() {
        warn!(
            "{now} acknowledgements so far name no task, and no delivery to their address waits for one, the last from {peer}: behind \
             a proxy both calls of a client must share one connection of its own, or say who they are (contact-client)"
        );
    }
}

/// The same.
fn warn_of_foreign(before: u64, now: u64, reporter: &Reporter) {
    if now.checked_ilog10() > before.checked_ilog10() {
        let name = reporter.client.as_ref().or(reporter.group.as_ref()).map_or("", |name| name.as_str());
        warn!(
            "{now} outcomes so far did not count, since who told them did not hold the task, or showed no receipt; the last from {} \
             as {name:?}",
            reporter.peer
        );
    }
}

/// Names stand in quotes: one could else go on as the line does.
fn describe(client: &ClientInfo) -> String {
    let who = match (&client.client, &client.group) {
        (Some(id), Some(group)) if id != group => format!("client {id:?} of group {group:?}"),
        (Some(id), _) => format!("client {id:?}"),
        (None, Some(group)) => format!("a client of group {group:?}"),
        (None, None) => "an anonymous client".to_owned(),
    };
    format!("{who} at {}", client.peer)
}
