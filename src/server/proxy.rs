//! Between the clients of this server and the broker of the one that leads, which may be this one.
//!
//! ```text
//!  contact.rs, pump.rs ──▶ Proxy ──mailbox──▶ thread "proxy" ──Up──▶ link ──▶ serve.rs ──▶ broker of the server that leads
//!          ▲                                   │    ▲                                        │
//!          └────────────── Inbox ◀── Outbox ◀──┘    └───────────────── Down ◀────────────────┘
//! ```
//!
//! What a client is given, and what it told and is not on disk, is remembered here. When another server leads, each stream joins there and
//! says what its client has, and what is not confirmed is told again: the streams stay, and no client notices. The link may lose
//! anything at its end, and never anything in the middle.

mod convert;
mod frame;
mod handle;
mod link;
mod pass;
mod serve;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use log::{debug, info, warn};

pub(super) use self::frame::Failed;
use self::frame::{Ask, Down, Teller, Up, Welcome};
pub(super) use self::handle::{Proxy, Telling, Trouble};
use self::link::Link;
pub(super) use self::link::{LinkService, Way, is_server};
pub(super) use self::pass::{Call, PassOn};
pub(super) use self::serve::Leads;
use super::refusal::Refusal;
use crate::broker::{
    AllHolds, Closed, Inbox, Join, Joined, Outbox, OutcomeReport, Push, Quota, Reporter, SEND_BUFFER, SessionId, outbox,
};
use crate::mailbox::{self, RecvTimeoutError};
use crate::task::NewStatus;

/// Most commands that wait for the thread.
const MAILBOX: usize = 4096;
/// The same for bytes of results.
const MAILBOX_BYTES: usize = 32 << 20;
/// So many bytes of results may be told and not confirmed before tellers wait.
const UNCONFIRMED: usize = 32 << 20;
/// After so many, confirmation is asked for.
const UNASKED: usize = 1 << 20;
/// How long nobody may lead before that is trouble.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries to reach the server that leads.
const AGAIN: Duration = Duration::from_millis(250);
/// A link on which nothing came for so long is cut, at either end: the server that leads says something twice a second, and is answered.
const SILENT: Duration = Duration::from_secs(5);

/// Who leads, as far as is known here.
#[derive(Clone, Default)]
pub(super) enum Leader {
    /// Nobody knows.
    #[default]
    Nobody,
    /// This server.
    Here(Leads),
    /// The server that others reach there.
    There(Arc<str>),
}

impl Leader {
    fn is(&self, other: &Leader) -> bool {
        match (self, other) {
            (Leader::Nobody, Leader::Nobody) => true,
            (Leader::There(one), Leader::There(other)) => one == other,
            // Each time that this server leads is another one.
            _ => false,
        }
    }
}

const NOBODY: &str = "no server of the cluster leads now";

/// The thread. Owns it until [`ProxyThread::stop`].
pub(super) struct ProxyThread {
    proxy: Proxy,
    thread: JoinHandle<()>,
}

enum Command {
    Join(Box<Join>, oneshot::Sender<Result<Joined, Refusal>>),
    Leave(SessionId, String),
    Took(SessionId, u64),
    Teller(Teller, Reporter),
    Told(Teller, Vec<OutcomeReport>, oneshot::Sender<()>),
    Flush(oneshot::Sender<Result<(), Refusal>>),
    Statuses(Vec<NewStatus>, oneshot::Sender<Result<(), Refusal>>),
    Quotas(Vec<Quota>),
    Leader(Leader),
    /// Of the link of that number.
    Downs(u64, Vec<Down>),
    LinkOver(u64, String),
    Drain,
    Stop,
}

impl ProxyThread {
    /// `anonymous_group`: clients without a name are in one. `way`: how other servers are reached.
    pub(super) fn start(way: Arc<Way>, trouble: Trouble, anonymous_group: bool) -> std::io::Result<ProxyThread> {
        let (mailbox, commands) = mailbox::bounded_in_bytes(MAILBOX, MAILBOX_BYTES);
        let proxy = Proxy::of(mailbox);
        let run = Run {
            way,
            proxy: proxy.clone(),
            trouble,
            anonymous_group,
            leader: Leader::Nobody,
            led_until: Instant::now(),
            link: None,
            links: 0,
            try_at: Instant::now(),
            warned: false,
            sessions: BTreeMap::new(),
            next_session: 1,
            tellers: HashMap::new(),
            holds: AllHolds::default(),
            asks: BTreeMap::new(),
            requota: HashMap::new(),
            next_ask: 1,
            told: VecDeque::new(),
            next_told: 1,
            unconfirmed: 0,
            unasked: 0,
            waiting: VecDeque::new(),
            ups: Vec::new(),
            draining: false,
        };
        let work = move || run.run(&commands);
        Ok(ProxyThread { thread: thread::Builder::new().name("proxy".into()).spawn(work)?, proxy })
    }

    pub(super) fn handle(&self) -> Proxy {
        self.proxy.clone()
    }

    /// Ends what is still open, and joins the thread.
    pub(super) fn stop(self) {
        let _ = self.proxy.mailbox.send(Command::Stop);
        let _ = self.thread.join();
    }
}

struct Run {
    way: Arc<Way>,
    proxy: Proxy,
    trouble: Trouble,
    anonymous_group: bool,
    leader: Leader,
    /// When a link was there last.
    led_until: Instant,
    link: Option<Attached>,
    links: u64,
    /// When a link is tried next.
    try_at: Instant,
    /// The log says that the server that leads is not reached.
    warned: bool,
    /// In the order in which they came.
    sessions: BTreeMap<SessionId, Session>,
    next_session: SessionId,
    tellers: HashMap<Teller, Arc<Reporter>>,
    holds: AllHolds,
    asks: BTreeMap<Ask, Asked>,
    /// Bounds that changed before all streams had joined again, by whose they are.
    requota: HashMap<u64, Quota>,
    next_ask: Ask,
    /// What was told and is not confirmed, in order.
    told: VecDeque<Told>,
    next_told: u64,
    /// Bytes of these.
    unconfirmed: usize,
    /// Of these, what came since confirmation was last asked for.
    unasked: usize,
    /// Those that may tell more when it is less.
    waiting: VecDeque<oneshot::Sender<()>>,
    /// Goes up next.
    ups: Vec<Up>,
    draining: bool,
}

/// The link, as far as it is.
struct Attached {
    link: Link,
    number: u64,
    /// Something came over it, and when.
    works: bool,
    heard: Instant,
    /// The streams that go on, and are not there yet. What is told waits for them: the broker finds the task by its stream.
    /// `None`: all are.
    resuming: Option<HashSet<SessionId>>,
}

struct Session {
    join: Join,
    outbox: Outbox,
    /// Who waits for it, and what they get. `None`: the stream is open.
    coming: Option<(oneshot::Sender<Result<Joined, Refusal>>, Inbox)>,
    asked_at: Instant,
    /// Bytes of deliveries that were put on the stream in all, and before this link.
    given: u64,
    before: u64,
    /// Of all, those of which the server that leads knows that they were taken.
    said: u64,
}

enum Asked {
    /// All that was told before this is on disk then.
    Flush(u64, Option<oneshot::Sender<Result<(), Refusal>>>),
    Statuses(Vec<NewStatus>, oneshot::Sender<Result<(), Refusal>>),
}

struct Told {
    number: u64,
    teller: Teller,
    reporter: Arc<Reporter>,
    report: OutcomeReport,
}

impl Run {
    fn run(mut self, commands: &mailbox::Receiver<Command>) {
        loop {
            self.let_tellers_go();
            self.keep_link();
            self.keep_patience();
            self.send();
            self.proxy.set_clients(self.sessions.len());
            let next = commands.recv_deadline(Instant::now() + AGAIN);
            let mut next = match next {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut burst = 0;
            while let Some(command) = next {
                if matches!(command, Command::Stop) {
                    return;
                }
                self.handle(command);
                burst += 1;
                next = if burst < 256 { commands.try_recv() } else { None };
            }
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Join(join, reply) => self.join(*join, reply),
            Command::Leave(session, why) => self.leave(session, why),
            Command::Took(session, taken) => self.took(session, taken),
            Command::Teller(number, reporter) => {
                self.holds.teller_came(&reporter.peer);
                self.up_if_ready(|| Up::Teller(number, reporter.clone()));
                self.tellers.insert(number, Arc::new(reporter));
            }
            Command::Told(teller, reports, reply) => self.told(teller, reports, reply),
            Command::Flush(reply) => self.flush(Some(reply)),
            Command::Statuses(statuses, reply) => {
                let ask = self.next_ask();
                self.up_if_ready(|| Up::Statuses(ask, statuses.clone()));
                self.asks.insert(ask, Asked::Statuses(statuses, reply));
            }
            Command::Quotas(quotas) => self.set_quotas(quotas),
            Command::Leader(leader) => self.set_leader(leader),
            Command::Downs(link, downs) => {
                let Some(attached) = self.link.as_mut().filter(|attached| attached.number == link) else { return };
                (attached.works, attached.heard) = (true, Instant::now());
                self.warned = false;
                downs.into_iter().for_each(|down| self.down(down));
            }
            Command::LinkOver(link, why) => {
                if self.link.as_ref().is_some_and(|attached| attached.number == link) {
                    self.lose_link(&why);
                }
            }
            Command::Drain => self.drain(),
            Command::Stop => {}
        }
    }

    fn set_quotas(&mut self, quotas: Vec<Quota>) {
        let by: HashMap<u64, Quota> = quotas.iter().map(|quota| (quota.of, *quota)).collect();
        // What they join with where another server leads.
        for its in self.sessions.values_mut().filter_map(|session| session.join.quota.as_mut()) {
            *its = by.get(&its.of).copied().unwrap_or(*its);
        }
        match self.is_ready() {
            true => self.ups.extend(quotas.into_iter().map(Up::Quota)),
            // Some may have joined again with another one.
            false => self.requota.extend(by),
        }
    }

    fn let_tellers_go(&mut self) {
        for number in self.proxy.take_gone() {
            if let Some(reporter) = self.tellers.remove(&number) {
                self.holds.teller_went(&reporter.peer);
                self.up_if_ready(|| Up::TellerGone(number));
            }
        }
    }

    /// Sends all clients away. If it is this server that leads, its broker ends their streams, too, and they keep what they have, as
    /// when a server that is alone stops.
    fn drain(&mut self) {
        self.draining = true;
        let is_left = !matches!(self.leader, Leader::Here(_));
        for id in self.sessions.keys().copied().collect::<Vec<_>>() {
            match is_left {
                true => self.leave(id, "its server is stopping".into()),
                // Whoever waits for it hears that none is opened any more.
                false => drop(self.forget(id)),
            }
        }
    }

    // ---- the link

    fn set_leader(&mut self, leader: Leader) {
        if self.leader.is(&leader) {
            return;
        }
        self.lose_link("another server leads");
        (self.leader, self.warned) = (leader, false);
        self.try_at = Instant::now();
    }

    fn keep_link(&mut self) {
        let now = Instant::now();
        let silent = |attached: &Attached| attached.heard + SILENT < now;
        if self.link.as_ref().is_some_and(silent) {
            self.lose_link("it says nothing");
        }
        if self.link.is_some() || now < self.try_at || matches!(self.leader, Leader::Nobody) {
            return;
        }
        self.links += 1;
        let number = self.links;
        let link = match self.way.open(&self.leader, number, self.proxy.mailbox.clone()) {
            Ok(link) => link,
            Err(why) => {
                self.try_at = now + AGAIN;
                return self.warn_of_link(&why);
            }
        };
        // What was being done at the old one is done again.
        self.ups.clear();
        let going_on: HashSet<SessionId> =
            self.sessions.iter().filter(|(_, session)| session.coming.is_none()).map(|(id, _)| *id).collect();
        let resuming = Some(going_on).filter(|going_on| !going_on.is_empty());
        let is_ready = resuming.is_none();
        self.link = Some(Attached { link, number, works: false, heard: now, resuming });
        for (id, session) in &mut self.sessions {
            (session.before, session.said) = (session.given, session.given);
            let goes_on = session.coming.is_none();
            let resume = self.holds.of(*id).filter(|_| goes_on).map(|holds| Box::new(holds.resume()));
            self.ups.push(Up::Join(*id, Box::new(Join { resume, ..session.join.clone() })));
        }
        if is_ready {
            self.tell_again();
        }
    }

    fn lose_link(&mut self, why: &str) {
        if let Some(attached) = self.link.take() {
            if !attached.works {
                self.warn_of_link(why);
            }
            debug!("the link to the server that leads is over: {why}");
            self.led_until = Instant::now();
            self.try_at = self.led_until + AGAIN;
        }
    }

    /// Said once, and not with each try.
    fn warn_of_link(&mut self, why: &str) {
        if let Leader::There(address) = &self.leader
            && !std::mem::replace(&mut self.warned, true)
        {
            warn!(
                "the server that leads is not reached at {address}, which is its --advertise: {why}; it is tried again"
            );
        }
    }

    /// All streams that go on are there: what the server that led before may not have written down is told again.
    fn tell_again(&mut self) {
        if let Some(attached) = &mut self.link {
            attached.resuming = None;
        }
        self.ups.extend(std::mem::take(&mut self.requota).into_values().map(Up::Quota));
        let gone = self.told.iter().filter(|told| !self.tellers.contains_key(&told.teller));
        let gone: BTreeMap<Teller, Arc<Reporter>> = gone.map(|told| (told.teller, told.reporter.clone())).collect();
        for (number, reporter) in self.tellers.iter().chain(&gone) {
            self.ups.push(Up::Teller(*number, (**reporter).clone()));
        }
        let again = self.told.iter().map(|told| Up::Told(told.teller, vec![told.report.clone()]));
        self.ups.extend(again);
        self.ups.extend(gone.into_keys().map(Up::TellerGone));
        for (ask, asked) in &self.asks {
            self.ups.push(match asked {
                Asked::Flush(..) => Up::Flush(*ask),
                Asked::Statuses(statuses, _) => Up::Statuses(*ask, statuses.clone()),
            });
        }
    }

    fn is_ready(&self) -> bool {
        self.link.as_ref().is_some_and(|attached| attached.resuming.is_none())
    }

    fn up_if_ready(&mut self, up: impl FnOnce() -> Up) {
        if self.is_ready() {
            self.ups.push(up());
        }
    }

    fn send(&mut self) {
        if let Some(attached) = &self.link {
            attached.link.send(std::mem::take(&mut self.ups));
        }
    }

    /// Whoever waits for too long is told why.
    fn keep_patience(&mut self) {
        let now = Instant::now();
        if self.link.is_none() && self.led_until + PATIENCE < now {
            self.trouble.set(Some(NOBODY.into()));
        }
        let is_late = |session: &Session| session.coming.is_some() && session.asked_at + PATIENCE < now;
        if self.is_ready() || !self.sessions.values().any(is_late) {
            return;
        }
        let late: Vec<SessionId> =
            self.sessions.iter().filter(|(_, session)| is_late(session)).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(session) = self.forget(id) {
                session.refuse(Refusal::NoLeader);
            }
        }
    }

    // ---- what clients do

    fn join(&mut self, join: Join, reply: oneshot::Sender<Result<Joined, Refusal>>) {
        if self.draining || reply.is_canceled() {
            return;
        }
        let id = self.next_session;
        self.next_session += 1;
        let passing = join.client.is_none() && join.group.is_none() && !self.anonymous_group;
        self.holds.came(id, &join, passing);
        if self.link.is_some() {
            self.ups.push(Up::Join(id, Box::new(join.clone())));
        }
        let (outbox, inbox) = outbox();
        let (coming, asked_at) = (Some((reply, inbox)), Instant::now());
        self.sessions.insert(id, Session { join, outbox, coming, asked_at, given: 0, before: 0, said: 0 });
    }

    fn forget(&mut self, id: SessionId) -> Option<Session> {
        let session = self.sessions.remove(&id)?;
        self.holds.went(id, &session.join);
        if let Some(resuming) = self.link.as_mut().and_then(|attached| attached.resuming.as_mut()) {
            resuming.remove(&id);
        }
        self.look_whether_all_are_there();
        Some(session)
    }

    fn leave(&mut self, id: SessionId, why: String) {
        if self.forget(id).is_some() && self.link.is_some() {
            self.ups.push(Up::Leave(id, why));
        }
    }

    fn took(&mut self, id: SessionId, taken: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.said = session.said.max(taken);
        let of_this_link = taken.saturating_sub(session.before);
        if self.link.is_some() && of_this_link > 0 {
            self.ups.push(Up::Took(id, of_this_link));
        }
    }

    fn told(&mut self, teller: Teller, reports: Vec<OutcomeReport>, reply: oneshot::Sender<()>) {
        let Some(reporter) = self.tellers.get(&teller).cloned() else { return };
        let (is_ready, mut up) = (self.is_ready(), Vec::with_capacity(reports.len()));
        for mut report in reports {
            self.holds.told(&reporter, &mut report);
            if is_ready {
                up.push(report.clone());
            }
            // Those who watch have seen it, or miss it.
            report.printed = None;
            let bytes = report.weight();
            self.unconfirmed += bytes;
            self.unasked += bytes;
            let number = self.next_told;
            self.next_told += 1;
            self.told.push_back(Told { number, teller, reporter: reporter.clone(), report });
        }
        if !up.is_empty() {
            self.ups.push(Up::Told(teller, up));
        }
        if self.unasked > UNASKED {
            self.flush(None);
        }
        match self.unconfirmed > UNCONFIRMED {
            true => self.waiting.push_back(reply),
            false => drop(reply.send(())),
        }
    }

    fn next_ask(&mut self) -> Ask {
        self.next_ask += 1;
        self.next_ask
    }

    fn flush(&mut self, reply: Option<oneshot::Sender<Result<(), Refusal>>>) {
        let ask = self.next_ask();
        self.unasked = 0;
        self.asks.insert(ask, Asked::Flush(self.next_told, reply));
        self.up_if_ready(|| Up::Flush(ask));
    }

    // ---- what they are given

    fn down(&mut self, down: Down) {
        match down {
            Down::Joined(id, Ok(welcome)) => self.joined(id, welcome),
            Down::Joined(id, Err(why)) => {
                if let Some(session) = self.forget(id) {
                    session.refuse(Refusal::FromLeader(why));
                }
            }
            Down::Push(id, push) => self.push(id, push),
            Down::Done(ask, done) => self.done(ask, done),
            Down::State(trouble) => {
                self.trouble.set(trouble);
                self.ups.push(Up::Here);
            }
        }
    }

    fn joined(&mut self, id: SessionId, Welcome { new_group, window, after }: Welcome) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if let Some((reply, inbox)) = session.coming.take() {
            if let Some(holds) = self.holds.of(id) {
                holds.begins_after(after);
            }
            if reply.send(Ok(Joined { session: id, inbox, new_group, window })).is_err() {
                return self.leave(id, "its call ended".into());
            }
        }
        if let Some(resuming) = self.link.as_mut().and_then(|attached| attached.resuming.as_mut()) {
            resuming.remove(&id);
        }
        self.look_whether_all_are_there();
    }

    fn look_whether_all_are_there(&mut self) {
        let resuming = self.link.as_ref().and_then(|attached| attached.resuming.as_ref());
        if resuming.is_some_and(HashSet::is_empty) {
            info!("{} clients go on with the server that leads now", self.sessions.len());
            self.tell_again();
        }
    }

    fn push(&mut self, id: SessionId, push: Push) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match push {
            Push::Tasks(deliveries) => {
                self.holds.given(id, &session.join.peer, &deliveries);
                session.given += deliveries.iter().map(|delivery| delivery.cost()).sum::<u64>();
                session.outbox.deliver(deliveries);
                // It asks when it has as much under way: see the broker.
                if session.given - session.said >= SEND_BUFFER / 2
                    && let Some(taken) = session.outbox.watch_room(session.given)
                {
                    self.took(id, taken);
                }
            }
            Push::Revoked(revoked) => {
                for revoked in revoked {
                    self.holds.of(id).into_iter().for_each(|holds| holds.revoked(revoked.task));
                    session.outbox.revoke(revoked);
                }
            }
            Push::Watched(watched) => watched.into_iter().for_each(|watched| session.outbox.watch(watched)),
            Push::Notes(notes) => {
                if let Some(holds) = self.holds.of(id) {
                    notes.into_iter().for_each(|note| holds.note(note));
                }
            }
            Push::Heartbeat => session.outbox.beat(),
            Push::Close(Closed::TakenOver) => {
                session.outbox.close(Closed::TakenOver);
                drop(self.forget(id));
            }
            // The server that leads is stopping, and this one is not.
            Push::Close(Closed::Stopping) => {}
        }
    }

    fn done(&mut self, ask: Ask, done: Result<(), Failed>) {
        let Some(asked) = self.asks.remove(&ask) else { return };
        if let Asked::Flush(before, _) = &asked
            && done.is_ok()
        {
            let confirmed = self.told.partition_point(|told| told.number < *before);
            self.unconfirmed -= self.told.drain(..confirmed).map(|told| told.report.weight()).sum::<usize>();
            while self.unconfirmed <= UNCONFIRMED
                && let Some(waits) = self.waiting.pop_front()
            {
                let _ = waits.send(());
            }
        }
        let (Asked::Flush(_, Some(reply)) | Asked::Statuses(_, reply)) = asked else { return };
        let _ = reply.send(done.map_err(Refusal::FromLeader));
    }
}

impl Session {
    fn refuse(self, why: Refusal) {
        match self.coming {
            Some((reply, _)) => drop(reply.send(Err(why))),
            None => self.outbox.close(Closed::Stopping),
        }
    }
}
