//! The pipe thread: passes tasks from getTask to the handlers, and their results to tellResult, over one connection after another.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, TrySendError, never, select};
use grpcio::{CallOption, Environment};
use rand::{Rng, RngExt as _};

use super::channel_waker::ChannelWaker;
use super::connection::{Connection, End, Link};
use super::handler::{Finished, Outcome, Task, TimeLimit};
use super::ledger::{Begin, Entry, Ledger};
use super::listener::{Accepted, Listener};
use super::progress::Progress;
use super::result_sender::refused_over_shared;
use super::revocation::Revoked;
use super::stopper::{Stopped, Stopper};
use super::unreached::{self, LISTEN};
use super::{Backoff, Config, Error, Event, LONGEST, Observer};
use crate::attachment::{Attachment, Headers};
use crate::front::Dial;
use crate::rpc_status;
use crate::secret::{self, Secret};
use crate::target;
use crate::task::{StartAt, TaskId};
use crate::wire::contact as pb;

/// Tasks, and bytes of them, that may wait here for a handler. With more, the stream is not read, and gRPC's flow
/// control holds the server up.
const INBOX_TASKS: usize = 1024;
const INBOX_BYTES: usize = 8 << 20;
/// How long a try to connect may take with each of the server's addresses, if it is the first try; twice as long with each try
/// that follows. So an address that does not answer delays the next one by a second, and a slow network gets its time.
const FIRST_CONNECT: Duration = Duration::from_secs(1);
const MOST_CONNECT: Duration = Duration::from_secs(20);
/// How often the server is told at most how far handlers are.
const PROGRESS: Duration = Duration::from_millis(200);
/// When the server has said nothing for this time, the log says that it is awaited.
const SILENT: Duration = Duration::from_secs(5);
/// How often leases are renewed at most while the worker stops. Its streams change then, and the server keeps a lease without a
/// stream for five seconds.
const RENEW_STOPPING: Duration = Duration::from_secs(2);
/// After a connection that lasted this long, or on which something came, the backoff starts from its first wait.
const WORKED: Duration = Duration::from_secs(10);
/// A server that is known to send heartbeats is given up after this many are missing.
const MISSED_HEARTBEATS: u32 = 3;

/// What the pipe thread owns. All of the connection is in here, so nothing needs a lock.
pub(super) struct Pipe {
    pub(super) config: Arc<Config>,
    pub(super) env: Arc<Environment>,
    /// Streams that the server opens, if this listens, and what does. Else it connects itself.
    pub(super) accepted: Receiver<Accepted>,
    pub(super) listener: Option<Listener>,
    /// For each address of the server the way there by TLS; none without TLS.
    pub(super) dials: Vec<Dial>,
    pub(super) options: CallOption,
    /// The same for a worker that stops, and holds something: it is drained.
    pub(super) stopping_options: CallOption,
    pub(super) observer: Observer,
    pub(super) stopper: Stopper,
    pub(super) stopped: Stopped,
    /// To the handlers, with room for at least one task for each. None: they end after the task they have. Full: tasks wait
    /// in the inbox.
    pub(super) tasks: Option<Sender<Task>>,
    /// The other end, to take back tasks that no handler has started.
    pub(super) not_started: Receiver<Task>,
    /// From the handlers. Not read while the ledger has no room: then handlers wait with their results. It disconnects when
    /// the last handler has ended.
    pub(super) results: Receiver<Finished>,
    /// To the status thread: the connection to use, one slot, the newest counts.
    pub(super) links: Sender<Option<Link>>,
    /// The other end, to take an outdated one back.
    pub(super) outdated: Receiver<Option<Link>>,
    pub(super) state: State,
}

/// What changes while the pipe thread runs.
pub(super) struct State {
    waker: ChannelWaker,
    ledger: Ledger,
    /// What handlers say of how far they are.
    progress: Progress,
    /// When the server is told of that next.
    progress_at: Instant,
    /// Handlers that wait until the server was told that they begin.
    beginning: HashMap<TaskId, Sender<()>>,
    inbox: VecDeque<Task>,
    inbox_bytes: usize,
    connection: Option<Connection>,
    /// A stream that the server opened, and that is to be the connection.
    coming: Option<Accepted>,
    /// The addresses of the server, and the place of that which is tried: at first a random one, so that many clients that are set alike
    /// do not all go to one server. They are tried one after another: trying all at once would spare seconds where some do not
    /// answer ([`FIRST_CONNECT`]), and cost each server a connection that nobody uses.
    servers: Vec<String>,
    at: usize,
    /// Addresses that failed, one after another, since there was a wait.
    failed: usize,
    /// What the log calls the server.
    server: String,
    /// What the client says who it is with. That of the file when it could be read last.
    token: Option<Secret>,
    /// Number of connections so far.
    connections: u64,
    backoff: Backoff,
    /// How often to ping the server.
    keepalive: Duration,
    /// How long the next try to connect may take.
    connect_timeout: Duration,
    /// When the log says that the server said nothing yet.
    silent_at: Option<Instant>,
    try_at: Instant,
    renew_at: Instant,
    received: Received,
    stopping: bool,
    /// The stream is open with [`Pipe::stopping_options`].
    narrowed: bool,
    /// Set while stopping, when the last handler has ended: until when results are still sent.
    give_up_at: Option<Instant>,
    verdict: Result<(), Error>,
}

/// What came over the connection so far.
#[derive(Default)]
struct Received {
    anything: bool,
    heartbeats: bool,
    /// When something came, or when the stream was not being read.
    last: Option<Instant>,
}

impl State {
    pub(super) fn new(config: &Config, token: Option<Secret>, rng: &mut impl Rng) -> State {
        let now = Instant::now();
        let servers: Vec<String> = config.servers().map(str::to_owned).collect();
        let at = rng.random_range(..servers.len());
        let waker = ChannelWaker::new();
        State {
            progress: Progress::new(waker.waker.clone()),
            progress_at: now,
            waker,
            ledger: Ledger::new(config.announce_begin),
            beginning: HashMap::new(),
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            connection: None,
            coming: None,
            server: servers[at].clone(),
            servers,
            at,
            failed: 0,
            token,
            connections: 0,
            backoff: Backoff::new(config.first_backoff, config.most_backoff),
            keepalive: target::KEEPALIVE,
            connect_timeout: FIRST_CONNECT,
            silent_at: None,
            try_at: now,
            renew_at: now,
            received: Received::default(),
            stopping: false,
            narrowed: false,
            give_up_at: None,
            verdict: Ok(()),
        }
    }

    /// Has the server told how far handlers are, if some said so and it is time.
    fn note_progress(&mut self, now: Instant) {
        if now >= self.progress_at && !self.progress.is_empty() {
            self.progress_at = now + PROGRESS;
            let all = self.progress.take();
            all.into_iter().for_each(|((id, copy), said)| self.ledger.progress(id, copy, said, now));
        }
    }

    /// The next address is to be tried. Says whether at once: another may be well, so a round of all counts as one try.
    fn go_on_to_next(&mut self) -> bool {
        if self.servers.len() < 2 {
            return false;
        }
        self.at = (self.at + 1) % self.servers.len();
        self.failed = (self.failed + 1) % self.servers.len();
        self.failed != 0
    }

    fn inbox_has_room(&self) -> bool {
        self.inbox.len() < INBOX_TASKS && self.inbox_bytes < INBOX_BYTES
    }
}

impl Pipe {
    pub(super) fn run(mut self) -> Result<(), Error> {
        loop {
            let now = Instant::now();
            self.state.note_progress(now);
            for task in self.state.ledger.give_up(now) {
                log::warn!("task {task} takes longer than it may, and its handler does not end: the server was told");
            }
            self.connect(now);
            self.drive(now);
            self.hand_out();
            if self.is_over(now) {
                return self.end();
            }
            self.wait();
        }
    }

    fn connect(&mut self, now: Instant) {
        if self.listener.is_some() {
            return self.take_stream(now);
        }
        let state = &mut self.state;
        let wanted = !state.stopping || state.ledger.unreported() > 0 || state.ledger.held() > 0;
        if state.connection.is_some() || !wanted || now < state.try_at {
            return;
        }
        state.connections += 1;
        state.received = Received::default();
        state.ledger.renew();
        let options = self.options.clone();
        let (keepalive, connect_timeout) = (state.keepalive, state.connect_timeout);
        state.server.clone_from(&state.servers[state.at]);
        if let Some(Ok((token, _))) = self.config.token_file.as_deref().map(secret::read) {
            state.token = Some(token);
        }
        let token = state.token.clone();
        let to = (&*state.server, self.dials.get(state.at));
        let connection = Connection::open(&self.config, to, &self.env, options, token, keepalive, connect_timeout);
        state.connection = Some(connection);
    }

    /// The stream that the server opened last is the connection: one before it may be dead without a word.
    fn take_stream(&mut self, now: Instant) {
        let Some(coming) = self.accepted.try_iter().last().or(self.state.coming.take()) else { return };
        if let Some(before) = self.state.connection.take() {
            self.lost(&before, "another stream took its place", None, false, now);
            before.give_way();
        }
        let state = &mut self.state;
        state.connections += 1;
        state.received = Received::default();
        state.ledger.takes_back();
        state.ledger.renew();
        state.server = coming.peer.clone();
        state.connection = Some(Connection::accepted(coming, self.config.confirm_every));
    }

    /// Does all that the streams allow, and sees when the connection ends.
    fn drive(&mut self, now: Instant) {
        let Some(mut connection) = self.state.connection.take() else { return };
        match self.poll(&mut connection, now) {
            Ok(()) => self.state.connection = Some(connection),
            Err(End::Lost { reason, retry_after, refused }) => {
                // What C-core knows of TLS is that its socket was closed.
                let trouble = self.dials.get(self.state.at).and_then(Dial::trouble).filter(|_| !refused);
                let reason = trouble.unwrap_or(reason);
                self.lost(&connection, &reason, retry_after, refused, now);
            }
            Err(End::Fatal(error)) => {
                // A server that refuses this client takes no results from it either. One that gave its place to another
                // client does.
                if !matches!(error, Error::TakenOver(_)) {
                    self.state.give_up_at = Some(now);
                }
                connection.leave();
                self.state.connection = Some(connection);
                self.state.verdict = Err(error);
                self.begin_stop();
            }
        }
    }

    fn poll(&mut self, connection: &mut Connection, now: Instant) -> Result<(), End> {
        let waker = self.state.waker.waker.clone();
        let cx = &mut Context::from_waker(&waker);
        if connection.poll_ready(cx, now) {
            self.state.connect_timeout = FIRST_CONNECT;
            self.state.silent_at = Some(now + SILENT);
            self.offer(connection.link.clone());
        }
        if self.state.silent_at.is_some_and(|at| now >= at) {
            self.state.silent_at = None;
            log::info!("{} is reached, and has not answered yet", self.shown());
        }
        // First report the old tasks, finished or still worked on, and then ask for new ones: so the server does not deliver
        // the old ones again.
        let state = &mut self.state;
        let has_reports = |ledger: &Ledger, connection: &Connection| {
            let unreported = ledger.unreported() > 0 || ledger.has_next() || !connection.results.is_idle();
            !connection.is_registered() && unreported
        };
        if has_reports(&state.ledger, connection) {
            connection.results.poll(cx, now, &mut state.ledger, true)?;
        }
        if !has_reports(&state.ledger, connection) && !state.stopping && connection.register(cx)? {
            // Renew once more: only now does the server know the stream that holds them.
            state.renew_at = now;
        }
        // A worker that stops is to be given no more. The stream stays, so that what runs keeps its lease; only one with an id can
        // have another take its place.
        let narrows = connection.link.is_some()
            && state.stopping
            && !state.narrowed
            && self.config.id.is_some()
            && state.ledger.held() > 0;
        if narrows && connection.is_registered() {
            connection.narrow(self.stopping_options.clone())?;
            state.narrowed = true;
            state.renew_at = now;
        }
        let renew_every = if state.stopping { RENEW_STOPPING } else { LONGEST }.min(self.config.renew_every);
        if state.ledger.held() == 0 {
            state.renew_at = now + renew_every;
        } else if now >= state.renew_at && (connection.is_registered() || state.stopping) {
            if state.ledger.renew() {
                Self::take_back_released(state, &self.not_started);
            }
            state.renew_at = now + renew_every;
        }
        connection.results.poll(cx, now, &mut state.ledger, !connection.is_registered() || state.stopping)?;
        for id in connection.results.begun.drain(..) {
            // It waits, and for nothing else.
            let _ = state.beginning.remove(&id).map(|go| go.send(()));
        }
        self.note_answer(connection);
        // A server that does not take tasks back keeps those that are not read.
        while self.state.inbox_has_room() && (!self.state.stopping || self.state.ledger.can_release()) {
            let polled = connection.poll_task(cx);
            self.state.ledger.max_result = connection.max_result;
            self.note_answer(connection);
            let Poll::Ready(message) = polled else { return self.check_silence(now) };
            let message = message?;
            self.state.received.anything = true;
            self.note_answer(connection);
            connection.results.batch |= !message.batch.is_empty();
            if message.confirmed > 0 {
                connection.results.confirmed(message.confirmed);
                // What waits for that was asked already.
                waker.wake_by_ref();
            }
            if let Some(refused) = message.refused.as_ref() {
                let status = rpc_status::of_words(&refused.reason, &refused.message);
                connection.results.poll(cx, now, &mut self.state.ledger, true)?;
                refused_over_shared(&status, &mut self.state.ledger);
                return Err(End::lost_with(&status));
            }
            self.receive(message, now);
        }
        self.state.received.last = Some(now);
        Ok(())
    }

    /// The server as the log names it.
    fn shown(&self) -> Cow<'_, str> {
        let server = &self.state.server;
        if self.listener.is_some() { Cow::Borrowed(server) } else { target::shown(server) }
    }

    /// The first word of the server: a message, or the answer to results.
    fn note_answer(&mut self, connection: &mut Connection) {
        let is_answer = connection.results.answered || connection.greeted || self.state.received.anything;
        if !connection.answered && is_answer {
            connection.answered = true;
            self.state.silent_at = None;
            log::info!("connected to {}", self.shown());
            (self.observer)(&Event::Connected { server: &self.state.server });
        }
        // Results may have been answered before tasks were asked for.
        if let Some(from) = connection.new_group.take() {
            self.note_new_group(from);
        }
    }

    /// A name that was mistyped is new, too: so this is said.
    fn note_new_group(&self, from: StartAt) {
        let Config { id, group, .. } = &*self.config;
        let Some(name) = group.as_ref().or(id.as_ref()) else { return };
        let gets = match from {
            StartAt::New => "what is broadcast from now on (--from first: also what is kept)",
            StartAt::First => "what is kept, and what is broadcast from now on",
        };
        log::info!("group {name:?} is new here: it gets {gets}");
        (self.observer)(&Event::NewGroup { group: name, from: from.as_str() });
    }

    fn receive(&mut self, mut message: pb::ServerMsg, now: Instant) {
        let state = &mut self.state;
        state.received.last = Some(now);
        let is_task = |message: &pb::ServerMsg| message.id != 0 || !message.task.is_empty();
        state.received.heartbeats |= message.batch.is_empty()
            && message.revoked.is_empty()
            && message.watched.is_empty()
            && message.confirmed == 0
            && !is_task(&message);
        for revoked in mem::take(&mut message.revoked) {
            self.revoke(&revoked);
        }
        let state = &mut self.state;
        for watched in mem::take(&mut message.watched) {
            state.ledger.watch(watched.id, watched.attempt, watched.anew, now);
        }
        let batch = mem::take(&mut message.batch);
        for message in batch.into_iter().chain([message]).filter(is_task) {
            let accepted = state.ledger.accept(message.id, message.attempt, message.receipt);
            let Some(Entry { copy, revocation, printed }) = accepted else {
                log::debug!("task {} came again while it is being worked on", message.id);
                continue;
            };
            if state.stopping {
                state.ledger.release(message.id, copy);
                continue;
            }
            let attachment = attachment(message.id, message.headers, message.data);
            state.inbox_bytes += message.task.len() + attachment.bytes();
            state.inbox.push_back(Task {
                attachment,
                id: message.id,
                attempt: message.attempt,
                text: message.task,
                spent: message.spent,
                key: message.key,
                time_limit: time_limit(message.timeout_ms, message.timeout_fails),
                deadline: None,
                max_attempts: message.max_attempts,
                connection: state.connections,
                stopper: self.stopper.clone(),
                copy,
                revocation,
                progress: state.progress.of(printed),
                expires: time_left(message.expires_at).map(|left| now + left),
            });
        }
    }

    /// A task was taken from this client.
    fn revoke(&mut self, revoked: &pb::Revoked) {
        let why = match revoked.reason.enum_value() {
            Ok(pb::revoked::Reason::CANCELLED) => Revoked::Cancelled,
            Ok(pb::revoked::Reason::EXPIRED) => Revoked::Expired,
            // A newer reason: it is not this client's any more, in any case.
            Ok(pb::revoked::Reason::GIVEN_TO_ANOTHER) | Err(_) => Revoked::GivenToAnother,
        };
        log::info!("task {} was taken back ({why:?})", revoked.id);
        let state = &mut self.state;
        if state.ledger.revoke(revoked.id, revoked.attempt, why) {
            state.beginning.remove(&revoked.id);
            Self::take_back_released(state, &self.not_started);
        }
    }

    fn check_silence(&self, now: Instant) -> Result<(), End> {
        match self.silence_deadline() {
            Some(deadline) if now >= deadline => Err(End::lost("the server's heartbeats stopped")),
            _ => Ok(()),
        }
    }

    fn silence_deadline(&self) -> Option<Instant> {
        let every = self.config.heartbeat.filter(|_| self.state.received.heartbeats && !self.state.stopping)?;
        Some(self.state.received.last? + every * MISSED_HEARTBEATS)
    }

    fn lost(
        &mut self,
        connection: &Connection,
        reason: &str,
        retry_after: Option<Duration>,
        refused: bool,
        now: Instant,
    ) {
        let state = &mut self.state;
        state.ledger.disconnected();
        // Those who wait hear that it is not to be.
        state.beginning.clear();
        Self::take_back_released(state, &self.not_started);
        // The next connection's server sends them again.
        state.inbox.retain(|task| task.id != 0);
        state.inbox_bytes = state.inbox.iter().map(Task::bytes).sum();
        state.narrowed = false;
        let ready_since = connection.ready_since();
        if ready_since.is_some_and(|since| connection.answered || refused || now >= since + WORKED) {
            state.backoff.reset();
            state.failed = 0;
        }
        if ready_since.is_none() {
            state.connect_timeout = MOST_CONNECT.min(state.connect_timeout * 2);
        }
        state.silent_at = None;
        if reason.contains(target::TOO_MANY_PINGS) {
            log::info!("{} wants no pings: from now on one every {} s", state.server, target::RARE_KEEPALIVE.as_secs());
            state.keepalive = target::RARE_KEEPALIVE;
        }
        let said = reason;
        let reason = &*unreached::in_words(said);
        let at_once = state.go_on_to_next() && retry_after.is_none();
        let wait = if at_once { Duration::ZERO } else { state.backoff.next_after(retry_after, &mut rand::rng()) };
        state.try_at = now + wait;
        let what = match ready_since {
            _ if connection.answered => "lost the connection to",
            _ if refused => "turned away by",
            Some(_) => "no answer of a Contact server from",
            None => "cannot reach",
        };
        if self.listener.is_some() {
            log::warn!("{what} {}: {reason}; until it dials again, this waits", self.shown());
        } else {
            log::warn!("{what} {}: {reason}; next try in {:.1} s", self.shown(), wait.as_secs_f64());
        }
        let server = &self.state.server;
        let http2 = ready_since.is_some();
        let is_plain = self.dials.is_empty() && self.listener.is_none();
        // One that speaks gRPC, and knows no getTask, was asked already.
        let is_strange = http2 && !said.contains(LISTEN) || unreached::is_no_grpc(said);
        if is_plain && is_strange && !connection.answered && !refused && target::proxy(server).is_none() {
            unreached::log_what_answers(server, http2);
        }
        (self.observer)(&Event::Disconnected { server, reason, retry_ms: wait.as_millis() as u64 });
        self.offer(None);
    }

    /// Gives the status thread the connection to use. Replaces one that it has not taken yet.
    fn offer(&self, mut link: Option<Link>) {
        while let Err(TrySendError::Full(newest)) = self.links.try_send(link) {
            let _ = self.outdated.try_recv();
            link = newest;
        }
    }

    /// Forgets the tasks that the ledger gives back, where they wait.
    fn take_back_released(state: &mut State, not_started: &Receiver<Task>) {
        let waiting: Vec<Task> = not_started.try_iter().chain(state.inbox.drain(..)).collect();
        state.inbox.extend(waiting.into_iter().filter(|task| state.ledger.holds(task.id, task.copy)));
        state.inbox_bytes = state.inbox.iter().map(Task::bytes).sum();
    }

    /// Moves tasks from the inbox to the handlers.
    fn hand_out(&mut self) {
        let Some(tasks) = &self.tasks else { return };
        while let Some(task) = self.state.inbox.pop_front() {
            let bytes = task.bytes();
            if let Err(TrySendError::Full(task) | TrySendError::Disconnected(task)) = tasks.try_send(task) {
                self.state.inbox.push_front(task);
                return;
            }
            self.state.inbox_bytes -= bytes;
        }
    }

    fn finish(&mut self, finished: Finished) {
        let state = &mut self.state;
        match finished {
            Finished::NotStarted(id, copy) => state.ledger.release(id, copy),
            Finished::Begins(id, copy, go) => match state.ledger.begin(id, copy) {
                Begin::WhenWritten if state.connection.is_some() => drop(state.beginning.insert(id, go)),
                Begin::Now => go.send(()).unwrap_or_default(),
                Begin::WhenWritten | Begin::Never => {}
            },
            Finished::Limited(id, copy, deadline, limit) => state.ledger.limit(id, copy, deadline, limit),
            Finished::Handled(result, _, connection) if result.id == 0 && connection != state.connections => {
                log::debug!("dropped a result without an id for an earlier connection");
            }
            Finished::Handled(result, copy, _) => state.ledger.finish(result, copy),
        }
    }

    /// While stopping, room does not matter: what is still to come is bounded by the channel and the handlers.
    fn takes_results(&self) -> bool {
        self.state.stopping || self.state.ledger.has_room()
    }

    /// Waits until something can go on.
    fn wait(&mut self) {
        let deadline = self.deadline();
        let timeout = deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
        let closed = never();
        let results = if self.takes_results() { &self.results } else { &closed };
        select! {
            recv(self.state.waker.woken) -> _ => {}
            recv(results) -> finished => match finished {
                Ok(finished) => {
                    self.finish(finished);
                    while self.takes_results() {
                        let Ok(finished) = self.results.try_recv() else { break };
                        self.finish(finished);
                    }
                }
                Err(_) => {
                    self.results = never();
                    self.state.give_up_at.get_or_insert(Instant::now() + self.config.stop_grace);
                }
            },
            recv(self.accepted) -> accepted => match accepted {
                Ok(accepted) => self.state.coming = Some(accepted),
                Err(_) => self.accepted = never(),
            },
            recv(self.stopped) -> _ => self.begin_stop(),
            default(timeout) => {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let state = &self.state;
        let of_connection = match &state.connection {
            None if self.listener.is_some() => None,
            None => {
                (!state.stopping || state.ledger.unreported() > 0 || state.ledger.held() > 0).then_some(state.try_at)
            }
            Some(connection) => {
                let renews = (connection.is_registered() || state.stopping) && state.ledger.held() > 0;
                let renewal = renews.then_some(state.renew_at);
                let progress = (!state.progress.is_empty()).then_some(state.progress_at);
                let due = [renewal, connection.results.deadline(), self.silence_deadline(), state.silent_at, progress];
                due.into_iter().flatten().min()
            }
        };
        of_connection.into_iter().chain(state.give_up_at).chain(state.ledger.next_limit()).min()
    }

    /// Gives back the tasks that no handler has begun, and lets the handlers end. getTask stays open, so that running tasks keep
    /// their leases. What comes on it goes back at once.
    fn begin_stop(&mut self) {
        if self.state.stopping {
            return;
        }
        self.state.stopping = true;
        self.stopped = never();
        self.stopper.stop();
        self.tasks = None;
        for task in self.not_started.try_iter().chain(self.state.inbox.drain(..)) {
            self.state.ledger.release(task.id, task.copy);
        }
        for id in self.state.ledger.cancel_begins() {
            // The handler says that it did not begin, and the task goes back.
            self.state.beginning.remove(&id);
        }
        log::info!("stopping; what runs is finished first");
    }

    fn is_over(&self, now: Instant) -> bool {
        let state = &self.state;
        let (true, Some(give_up_at)) = (state.stopping, state.give_up_at) else { return false };
        let is_told = |c: &Connection| c.ready_since().is_none() || c.results.is_idle() && !state.ledger.has_next();
        let reported = state.ledger.unreported() == 0 && state.connection.as_ref().is_none_or(is_told);
        reported || now >= give_up_at
    }

    fn end(mut self) -> Result<(), Error> {
        if let Some(connection) = &mut self.state.connection {
            connection.leave();
        }
        match (self.state.verdict, self.state.ledger.unreported()) {
            (Ok(()), 0) => Ok(()),
            (Ok(()), unreported) => Err(Error::Unreported(unreported)),
            (Err(error), _) => Err(error),
        }
    }
}

/// What a task has beside its text. A server checks headers before it accepts them; those of one with other bounds are left out.
fn attachment(task: TaskId, headers: HashMap<String, String>, data: Vec<u8>) -> Attachment {
    let headers = Headers::new(headers).unwrap_or_else(|why| {
        log::warn!("the headers of task {task} are left out: {why}");
        Headers::default()
    });
    Attachment::new(headers, data)
}

fn time_limit(millis: u32, fails: bool) -> Option<TimeLimit> {
    let then = if fails { Outcome::Failed } else { Outcome::Retry };
    (millis > 0).then(|| TimeLimit { lasts: Duration::from_millis(millis.into()), then })
}

/// How long a task may still be begun, if its time is bounded. The server sends none whose time is over: where this clock says so,
/// it is not the server's, and says nothing.
fn time_left(expires_at: i64) -> Option<Duration> {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(expires_at).ok()?))?;
    at.duration_since(SystemTime::now()).ok().filter(|left| !left.is_zero() && *left < LONGEST)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn clients_begin_evenly_at_all_addresses_and_each_tries_all_of_them_in_turn_before_it_waits() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut begun = [0; 3];
        for _ in 0..3_000 {
            let mut state = State::new(&Config::new("a:1,b:1,c:1"), None, &mut rng);
            let first = state.at;
            begun[first] += 1;
            assert_eq!(state.server, state.servers[first]);
            let next = [(); 3].map(|()| (state.go_on_to_next(), state.at));
            assert_eq!(next, [(true, (first + 1) % 3), (true, (first + 2) % 3), (false, first)]);
        }
        assert!(begun.iter().all(|clients| (850..1_150).contains(clients)), "{begun:?}");
    }

    #[test]
    fn one_address_is_tried_again_after_a_wait() {
        let mut state = State::new(&Config::new("a:1"), None, &mut rand::rng());
        assert_eq!((state.at, state.go_on_to_next(), state.at), (0, false, 0));
    }
}
