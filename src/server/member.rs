//! A server that is one of several: it follows the log that they share, and leads when nobody else does.
//!
//! ```text
//!            follows ──▶ (nobody leads, and it has read all) ──▶ leads: has an [`Engine`]
//!               ▲                                                  │
//!               └───────── (another one has begun to lead) ◀───────┘
//! ```
//!
//! The ports for clients and operators are open in both cases, and what is called there goes to the server that leads: see
//! [`proxy`](super::proxy). So does what is asked over HTTP, but for how the server is itself.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use futures::executor::block_on;
use log::{info, warn};

use super::control::ControlService;
use super::doors::{Doors, OpenDoors};
use super::engine::{Engine, Page};
use super::health::Health;
use super::http::{Following, HttpThread};
use super::kept::{self, Kept};
use super::limits::Limits;
use super::operator::Servers;
use super::port::{self, is_of_this_machine};
use super::proxy::{Leader, Leads, LinkService, PATIENCE, PassOn, ProxyThread, Way, is_server};
use super::roles::Role;
use super::tokens::Knows;
use super::upstream::Upstream;
use super::{Config, Pulse, Retention, ServerError, bind, receipts};
use crate::broker::{self, Quota};
use crate::front::Tls;
use crate::store::{
    Beats, FollowError, Granted, Handle, Heard, JetStream, JetStreamConfig, Replicated, Room, Saying, Space, Standby,
    Store, StoreError,
};
use crate::task::Time;
use crate::wire::control_grpc::create_control_or_pass;
use crate::wire::link_grpc::create_link;

/// The shortest time after which a server may take over: longer than one that leads can go on without having proved that it does, and than
/// some beats.
pub const SHORTEST_TAKEOVER: Duration = Duration::from_secs(2);
/// How long one reading of the log waits: so soon orders are heard.
const LOOK: Duration = Duration::from_millis(100);
/// Between two tries to reach NATS.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// A server that leads and has nothing to write proves so often that it still does.
const PROVE: Duration = Duration::from_secs(5);
/// How often a server that leads counts its clients for the others.
const COUNT: Duration = Duration::from_secs(1);
/// A server that leads and cannot write its own disk for so long leaves that to another one.
const UNFIT: Duration = Duration::from_secs(2);
/// A request to a server that has not reached the log: how long it may take, and be.
const REQUEST: Duration = Duration::from_secs(1);
const LONGEST_REQUEST: usize = 4096;

/// How a server is one of several.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Where their log is.
    pub log: JetStreamConfig,
    /// By which others know this server, `host:port`.
    pub advertise: String,
    /// How long nothing must have been heard of the one who leads before this one tries. At least [`SHORTEST_TAKEOVER`].
    pub takeover_after: Duration,
    /// How TLS is spoken with other servers. `None`: not at all.
    pub tls: Option<Tls>,
}

/// The thread that follows and leads. Owns it until [`Member::stop`].
pub struct Member {
    orders: Sender<Order>,
    thread: JoinHandle<Result<(), ServerError>>,
    shared: Arc<Shared>,
}

/// What the server is told while it runs.
enum Order {
    Stop,
    Reconfigure(Box<(broker::Config, Retention, Limits)>),
    ReloadTls,
}

#[derive(Default)]
struct Shared {
    /// In words.
    role: Mutex<String>,
    leads: AtomicBool,
    /// Of the server, while it leads.
    pulse: Mutex<Option<Pulse>>,
}

impl Shared {
    fn set_role(&self, role: String) {
        *locked(&self.role) = role;
    }

    fn role(&self) -> String {
        locked(&self.role).clone()
    }

    fn set_pulse(&self, pulse: Option<Pulse>) {
        self.leads.store(pulse.is_some(), SeqCst);
        *locked(&self.pulse) = pulse;
    }
}

impl Member {
    /// Begins to follow. `ended` is called on its thread when that comes to its end, for whatever reason. An error: a port cannot be taken
    /// as it is set.
    pub fn start(
        config: Config,
        cluster: ClusterConfig,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Member, ServerError> {
        port::check_all(&config)?;
        let shared = Arc::new(Shared::default());
        let (orders, taken) = bounded(16);
        let run = Run { config, cluster, orders: taken, shared: shared.clone(), started_at: Time::now() };
        let work = move || {
            // Also if it panics.
            let _ended = AtTheEnd(Some(ended));
            run.run()
        };
        let thread = thread::Builder::new().name("member".into()).spawn(work).map_err(StoreError::no_thread)?;
        Ok(Member { orders, thread, shared })
    }

    /// What it does, for people: `leading`, or `following (lag 3)`.
    pub fn role(&self) -> String {
        self.shared.role()
    }

    /// Whether it takes calls.
    pub fn leads(&self) -> bool {
        self.shared.leads.load(SeqCst)
    }

    /// What [`Pulse::stands_still`] says of the server that leads.
    pub fn pulse(&self) -> impl Fn() -> Option<String> + Send + use<> {
        let shared = self.shared.clone();
        move || locked(&shared.pulse).as_ref().and_then(Pulse::stands_still)
    }

    /// See [`Server::reconfigure`](super::Server::reconfigure). Holds for all the time that it leads from now on, too.
    pub fn reconfigure(&self, broker: broker::Config, retention: Retention, limits: Limits) {
        let _ = self.orders.send(Order::Reconfigure(Box::new((broker, retention, limits))));
    }

    /// See [`Server::reload_tls`](super::Server::reload_tls).
    pub fn reload_tls(&self) {
        let _ = self.orders.send(Order::ReloadTls);
    }

    /// Ends it. If it leads, another one may at once.
    pub fn stop(self) -> Result<(), ServerError> {
        let _ = self.orders.send(Order::Stop);
        self.thread.join().unwrap_or_else(|_| Err(ServerError::Start("the thread of the cluster panicked".into())))
    }
}

/// Calls it when it is dropped.
struct AtTheEnd<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for AtTheEnd<F> {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|ended| ended());
    }
}

struct Run {
    config: Config,
    cluster: ClusterConfig,
    orders: Receiver<Order>,
    shared: Arc<Shared>,
    started_at: Time,
}

/// What comes after following, or leading.
enum Next<T> {
    Goes(T),
    Stops,
}

/// What is there whoever leads.
struct Station {
    doors: Doors,
    open: OpenDoors,
    health: Health,
    proxy: ProxyThread,
    link: LinkService,
    /// What operators call, while this server leads; and else.
    control: Arc<Mutex<Option<ControlService>>>,
    elsewhere: PassOn,
    /// What is granted goes there, while this server leads.
    granted: kept::Log,
    http: Option<HttpThread>,
    following: Following,
    /// Of the connection to NATS that was made last.
    beats: Arc<Mutex<Beats>>,
    /// The newest message that one who said that it leads knew.
    newest: AtomicU64,
}

impl Station {
    fn beats(&self) -> Beats {
        locked(&self.beats).clone()
    }

    /// Has those come in that the log names, if these may be others than before.
    fn take_granted(&self, standby: &mut Standby<JetStream>) -> Result<(), FollowError> {
        if let Some(granted) = standby.newly_granted()? {
            self.set_quotas(self.doors.access.take(&granted));
        }
        Ok(())
    }

    /// The same while this server leads, where it is not known what stands there.
    fn settle_doubt(&self, store: &Handle) {
        if store.failure().is_none() && self.granted.was_in_doubt() {
            match self.doors.access.try_take(|| store.reader()?.granted()) {
                Some(Ok(quotas)) => {
                    self.doors.access.tokens().set_knows(Knows::All);
                    return self.set_quotas(quotas);
                }
                Some(Err(why)) => warn!("it is not known yet what is granted: {why}"),
                None => {}
            }
            self.granted.is_in_doubt();
        }
    }

    fn set_quotas(&self, quotas: Vec<Quota>) {
        block_on(self.proxy.handle().set_quotas(quotas));
    }

    /// Has clients and operators go on with the server that says that it leads. What this one said itself while it did is over.
    fn note_leader(&self, beat: &Heard, cluster: &ClusterConfig) {
        // One that was stopped for a while may still say so, and knows less.
        let is_newest = beat.place >= self.newest.fetch_max(beat.place, SeqCst) && !beat.server.is_empty();
        if is_newest && *beat.server != *cluster.advertise && beat.at.elapsed() < cluster.takeover_after {
            self.elsewhere.set(Some(&beat.server));
            self.proxy.handle().set_leader(Leader::There(beat.server.clone()));
        }
    }
}

impl Run {
    fn run(mut self) -> Result<(), ServerError> {
        self.shared.set_role("following (the log was not reached yet)".into());
        let waiting = Waiting::start(self.config.http.as_deref(), self.shared.clone())?;
        let Next::Goes(log) = self.reach(None)? else { return Ok(()) };
        let (secret, beats) = (log.secret(), log.beats());
        // Before anybody is let in, or not.
        let Next::Goes(mut standby) = self.standby(Some(log), None)? else { return Ok(()) };
        let granted = standby.newly_granted()?.unwrap_or_default();
        drop(waiting);
        let station = self.open(secret, beats, granted)?;
        let followed = self.work(standby, &station);
        let stopped = self.close(station);
        followed.and(stopped)
    }

    /// Follows and leads until it is to stop.
    fn work(&mut self, mut standby: Standby<JetStream>, station: &Station) -> Result<(), ServerError> {
        loop {
            let Next::Goes(backend) = self.follow(standby, station)? else { return Ok(()) };
            let Next::Goes(()) = self.lead(backend, station)? else { return Ok(()) };
            let Next::Goes(next) = self.standby(None, Some(station))? else { return Ok(()) };
            standby = next;
        }
    }

    /// Opens the log and the view of it. A server that has a station has led.
    fn standby(
        &mut self,
        mut reached: Option<JetStream>,
        station: Option<&Station>,
    ) -> Result<Next<Standby<JetStream>>, ServerError> {
        loop {
            // The connection to NATS goes with the backend that led.
            let log = match reached.take() {
                Some(log) => log,
                None => match self.reach(station)? {
                    Next::Goes(log) => log,
                    Next::Stops => return Ok(Next::Stops),
                },
            };
            station.iter().for_each(|station| *locked(&station.beats) = log.beats());
            match Standby::open(log, &self.config.data) {
                Ok(standby) => return Ok(Next::Goes(standby)),
                // It may be its disk that ended its term.
                Err(error) if station.is_some() && error.may_pass() => {
                    warn!("this server cannot follow: {error}; trying again");
                }
                Err(error) => return Err(of_follow(error)),
            }
            if self.pause(station) {
                return Ok(Next::Stops);
            }
        }
    }

    /// Takes the ports; `granted`: what the view says of who may come.
    fn open(&mut self, secret: [u8; 16], beats: Beats, granted: Granted) -> Result<Station, ServerError> {
        receipts::set_key(&self.config.data, secret)
            .map_err(|why| ServerError::Data { path: self.config.data.join("receipt-key"), why })?;
        let kept = kept::Log::default();
        let (doors, ()) = Doors::new(&self.config, Kept::in_log(kept.clone()), |_, _| Ok(()))?;
        doors.access.take(&granted);
        let (health, trouble) = Health::of_cluster();
        let start = |error: std::io::Error| ServerError::Start(error.to_string());
        let way = Arc::new(Way::new(doors.env.clone(), &secret, self.cluster.tls.clone()).map_err(start)?);
        let elsewhere = PassOn::by(way.clone());
        let anonymous_group = self.config.broker.anonymous_group.is_some();
        let proxy = ProxyThread::start(way.clone(), trouble, anonymous_group).map_err(start)?;
        let contact = doors.contact(Upstream::Proxy(proxy.handle()), health.clone());
        let page = Page::bind(&self.config, doors.tls.as_ref(), &doors.about)?;
        let http = page.map(|page| page.open(&doors)).transpose()?;
        let (beats, shared) = (Arc::new(Mutex::new(beats)), self.shared.clone());
        let following = {
            let (beats, health) = (beats.clone(), health.clone());
            Following {
                health,
                about: doors.about.clone(),
                access: doors.access.clone(),
                role: Arc::new(move || shared.role()),
                servers: Arc::new(move || Servers { now: Time::now(), alone: false, view: locked(&beats).view() }),
                elsewhere: elsewhere.clone(),
            }
        };
        http.iter().for_each(|http| http.follows(&following));
        let link = LinkService::new(http.as_ref().map(|http| http.inside(&doors.access)));
        let control = Arc::<Mutex<Option<ControlService>>>::default();
        let here = {
            let control = control.clone();
            move || locked(&control).clone()
        };
        // What others pass on is for this server, or for nobody: it does not go round.
        let from_servers = doors.admissions[1].asked_by_servers(&doors.access, is_server(&secret));
        let beside = vec![
            create_link(link.clone(), &LinkService::asked(&secret)),
            create_control_or_pass(here.clone(), &PassOn::by(way.clone()), &from_servers),
        ];
        let operators = create_control_or_pass(here, &elsewhere, &doors.let_in(Role::Operator));
        let open = doors.open(&self.config, &health, contact, beside, operators)?;
        // The same ports the next time.
        self.config.listen = open.listen().to_owned();
        self.config.control = open.control().to_owned();
        Ok(Station {
            doors,
            open,
            health,
            proxy,
            link,
            control,
            elsewhere,
            granted: kept,
            http,
            following,
            beats,
            newest: AtomicU64::new(0),
        })
    }

    /// Follows until this server leads.
    fn follow(
        &mut self,
        mut standby: Standby<JetStream>,
        station: &Station,
    ) -> Result<Next<Replicated<JetStream>>, ServerError> {
        let beats = station.beats();
        info!("following the log of the cluster {} from message {} on", self.cluster.log.cluster, standby.place());
        // The last word of the cluster, be it a record or that somebody leads; and that, or the last try to lead.
        let (mut word, mut heard) = (Instant::now(), Instant::now());
        let mut reads = true;
        // Whether the view has all that the one knew who led, since then; and whether it was made anew, so that it knows less than before.
        let (mut knows_most, mut is_anew) = (false, false);
        loop {
            station.doors.access.tokens().set_knows(if knows_most { Knows::Most } else { Knows::Little });
            if self.stops(station) {
                return Ok(Next::Stops);
            }
            let clients = station.proxy.handle().clients() as u32;
            let mut resigned = false;
            let followed = standby.follow(LOOK).and_then(|news| {
                is_anew |= news.anew;
                (!is_anew).then(|| station.take_granted(&mut standby)).transpose()?;
                Ok(news)
            });
            match followed {
                Ok(news) if news.messages > 0 => (word, resigned) = (Instant::now(), news.resigned),
                Ok(_) => reads = true,
                Err(why) if why.may_pass() => {
                    if std::mem::take(&mut reads) {
                        warn!("the log of the cluster is not followed for now: {why}");
                    }
                    if let FollowError::Store(why) = why {
                        beats.say(Saying { trouble: why.to_string(), clients, ..self.says() });
                    }
                    self.shared.set_role(following(None, word));
                    knows_most &= word.elapsed() < PATIENCE;
                    // Nor could it lead.
                    thread::sleep(LOOK);
                    continue;
                }
                Err(error) => return Err(of_follow(error)),
            }
            let beat = beats.heard();
            if let Some(beat) = &beat {
                station.note_leader(beat, &self.cluster);
                word = word.max(beat.at);
            }
            heard = heard.max(word);
            let has_all = beat.as_ref().is_some_and(|beat| beat.place <= standby.place());
            knows_most = (has_all || knows_most && !is_anew) && word.elapsed() < PATIENCE;
            is_anew &= !has_all;
            let lag = beat.map_or(0, |beat| beat.place.saturating_sub(standby.place()));
            self.shared.set_role(following(Some(lag), word));
            let trouble = self.no_room().unwrap_or_default();
            beats.say(Saying { epoch: standby.epoch(), lag, trouble, clients, ..self.says() });
            if !resigned && heard.elapsed() < self.cluster.takeover_after {
                continue;
            }
            match standby.lead(&self.cluster.advertise) {
                Ok(leading) => return Ok(Next::Goes(leading)),
                Err(not) => {
                    info!("this server does not lead: {}", not.why);
                    standby = not.standby;
                    heard = Instant::now();
                }
            }
        }
    }

    /// Connects to NATS, however long that takes.
    fn reach(&mut self, station: Option<&Station>) -> Result<Next<JetStream>, ServerError> {
        loop {
            match JetStream::open(&self.cluster.log) {
                Ok(log) => return Ok(Next::Goes(log)),
                Err(error) if error.may_pass() => {
                    warn!("{error}; trying again");
                    self.shared.set_role(format!("following ({error})"));
                }
                Err(error) => return Err(ServerError::Start(error.to_string())),
            }
            if self.pause(station) {
                return Ok(Next::Stops);
            }
        }
    }

    /// Waits before something is tried again; says whether the server is to stop.
    fn pause(&mut self, station: Option<&Station>) -> bool {
        let again = Instant::now() + PAUSE;
        while Instant::now() < again {
            match self.orders.recv_timeout(LOOK) {
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return true,
                Ok(order) => self.obey(order, station, None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        false
    }

    /// Leads until another server does.
    fn lead(&mut self, backend: Replicated<JetStream>, station: &Station) -> Result<Next<()>, ServerError> {
        let beats = station.beats();
        info!("leading the cluster {}", self.cluster.log.cluster);
        beats.give(Some(&self.cluster.advertise));
        let says = Saying { leads: true, epoch: backend.epoch(), ..self.says() };
        beats.say(says.clone());
        let engine = self.engine(backend, station).inspect_err(|_| beats.give(None))?;
        let store = engine.store();
        station.granted.set(Some(store.clone()));
        let (leads, over) = {
            let failing = store.clone();
            Leads::new(engine.broker(), self.config.broker.anonymous_from, move || failing.failure())
        };
        station.link.set(Some(leads.clone()));
        *locked(&station.control) = Some(engine.control(&station.doors));
        station.proxy.handle().set_leader(Leader::Here(leads));
        self.shared.set_role("leading".into());
        self.shared.set_pulse(Some(engine.pulse()));
        let (mut proved, mut counted, mut fit) = (Instant::now(), Instant::now(), Instant::now());
        let next = loop {
            station.settle_doubt(&store);
            let trouble = self.trouble(&store);
            if counted.elapsed() >= COUNT {
                counted = Instant::now();
                let (trouble, clients) = (trouble.clone().unwrap_or_default(), station.proxy.handle().clients() as u32);
                beats.say(Saying { clients, trouble, ..says.clone() });
            }
            fit = if trouble.is_none() { Instant::now() } else { fit };
            if let Some(why) = trouble.filter(|_| fit.elapsed() >= UNFIT && stands_by(&beats)) {
                warn!("this server leads no more, since another one can write its disk: {why}");
                break Next::Goes(());
            }
            match self.orders.recv_timeout(LOOK) {
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => break Next::Stops,
                Ok(order) => self.obey(order, Some(station), Some(&engine)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if store.is_fenced() {
                warn!("another server leads: this one follows now");
                break Next::Goes(());
            }
            if store.leads() {
                proved = Instant::now();
            } else if beats.others_lead() || proved.elapsed() >= PROVE {
                // Whether it does is found out by writing.
                proved = Instant::now();
                store.flush(Box::new(|_| {}));
            }
        };
        self.shared.set_role(if matches!(next, Next::Stops) { "stopping" } else { "following" }.into());
        self.shared.set_pulse(None);
        beats.give(None);
        *locked(&station.control) = None;
        station.granted.set(None);
        station.doors.access.tokens().set_knows(Knows::Little);
        station.elsewhere.set(None);
        station.http.iter().for_each(|http| http.follows(&station.following));
        station.link.set(None);
        if let Next::Stops = next {
            // Clients are told to go elsewhere before another server leads: what they still tell goes to that one.
            self.begin_stop(station);
        }
        // Before this nobody else may lead.
        let drained = engine.drain(|_| {});
        drop(over);
        station.proxy.handle().set_leader(Leader::Nobody);
        if let Err(error) = drained.end().close() {
            match next {
                Next::Stops => return Err(error.into()),
                Next::Goes(()) => info!("the store of the term that is over: {error}"),
            }
        }
        Ok(next)
    }

    /// Why this server's own disk takes nothing, if it does not.
    fn trouble(&self, store: &Handle) -> Option<String> {
        store.disk_failure().or_else(|| self.no_room())
    }

    /// The same of what it has room for: no tasks would be accepted.
    fn no_room(&self) -> Option<String> {
        let space = Space::of(&self.config.data)?;
        let is_full = space.room(self.config.retention.min_free) == Room::Least;
        is_full.then(|| format!("{} bytes are left for {}", space.free, self.config.data.display()))
    }

    /// What it says of itself to others, but for what changes.
    fn says(&self) -> Saying {
        let (server, version) = (self.cluster.advertise.clone(), env!("CARGO_PKG_VERSION").to_owned());
        Saying { server, version, started_at: self.started_at, ..Saying::default() }
    }

    fn engine(&self, backend: Replicated<JetStream>, station: &Station) -> Result<Engine, ServerError> {
        let Station { doors, health, proxy, http, .. } = station;
        let opened = Store::with_backend(Box::new(backend)).map_err(ServerError::Open)?;
        let contact = |_| doors.contact(Upstream::Proxy(proxy.handle()), health.clone());
        Engine::start(&self.config, opened, doors, contact)?.begin(&self.config, doors, http.as_ref(), health)
    }

    fn begin_stop(&self, station: &Station) {
        station.health.begin_drain();
        station.health.sends_away(station.doors.admissions[0].open());
        station.proxy.handle().drain();
    }

    /// Ends what clients are connected to. What they still tell goes to the server that leads now.
    fn close(&self, station: Station) -> Result<(), ServerError> {
        self.begin_stop(&station);
        let beats = station.beats();
        // It is none of the servers any more, and hears on who leads.
        beats.say(Saying::default());
        let closed = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !closed.load(SeqCst) {
                    beats.heard().iter().for_each(|beat| station.note_leader(beat, &self.cluster));
                    thread::sleep(LOOK / 4);
                }
            });
            station.open.wait(&station.doors.calls, &station.health, self.config.grace);
            closed.store(true, SeqCst);
        });
        let Station { open, proxy, http, .. } = station;
        http.into_iter().for_each(HttpThread::stop);
        proxy.stop();
        open.close();
        Ok(())
    }

    /// Takes the orders that wait; says whether one is to stop.
    fn stops(&mut self, station: &Station) -> bool {
        while let Ok(order) = self.orders.try_recv() {
            if let Order::Stop = order {
                return true;
            }
            self.obey(order, Some(station), None);
        }
        false
    }

    /// Without a station nothing is open yet.
    fn obey(&mut self, order: Order, station: Option<&Station>, engine: Option<&Engine>) {
        match (order, station) {
            (Order::Reconfigure(settings), _) => {
                let (broker, retention, limits) = *settings;
                (self.config.broker, self.config.retention) = (broker.clone(), retention.clone());
                self.config.limits = limits;
                let Some(station) = station else { return };
                station.set_quotas(station.doors.accounts.set_limits(limits));
                let taken = engine.map(|engine| engine.reconfigure(&station.doors, broker, retention));
                if let Some(Err(error)) = taken {
                    warn!("not all of the settings are taken over: {error}");
                }
            }
            (Order::ReloadTls, Some(station)) => station.open.reload_tls(),
            (Order::ReloadTls | Order::Stop, _) => {}
        }
    }
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether another server would lead at once.
fn stands_by(beats: &Beats) -> bool {
    let now = Time::now();
    beats.view().servers.iter().any(|seen| seen.stands_by(now))
}

/// What a server says of itself that last heard of the cluster then; `lag`: so many messages behind, if it reads the log. After
/// [`PATIENCE`] it does not know.
fn following(lag: Option<u64>, heard: Instant) -> String {
    match (lag, heard.elapsed()) {
        (_, silent) if silent >= PATIENCE => format!("alone (nothing heard of the others for {} s)", silent.as_secs()),
        (Some(lag), _) => format!("following (lag {lag})"),
        (None, _) => "following (the log cannot be read now)".into(),
    }
}

fn of_follow(error: FollowError) -> ServerError {
    match error {
        FollowError::Store(error) => ServerError::Open(error),
        error => ServerError::Start(error.to_string()),
    }
}

/// Answers /healthz and /readyz until the log is reached, if that needs no TLS. One request after another.
struct Waiting {
    address: Option<std::net::SocketAddr>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Waiting {
    fn start(http: Option<&str>, shared: Arc<Shared>) -> Result<Waiting, ServerError> {
        let listener = http.map(|http| bind(http, "--http")).transpose()?.map(|(listener, _)| listener);
        let stop = Arc::new(AtomicBool::new(false));
        let Some(listener) = listener.filter(is_of_this_machine) else {
            return Ok(Waiting { address: None, stop, thread: None });
        };
        let (address, stopped) = (listener.local_addr().ok(), stop.clone());
        let work = move || wait_on(&listener, &shared, &stopped);
        let thread = thread::Builder::new().name("following".into()).spawn(work).map_err(StoreError::no_thread)?;
        Ok(Waiting { address, stop, thread: Some(thread) })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        // The thread waits for a connection.
        let _ = self.address.map(|address| TcpStream::connect_timeout(&address, REQUEST));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn wait_on(listener: &TcpListener, shared: &Shared, stopped: &AtomicBool) {
    for connection in listener.incoming() {
        if stopped.load(SeqCst) {
            return;
        }
        if let Ok(connection) = connection {
            // Whoever went away has no use for the answer.
            let _ = answer(connection, &shared.role());
        }
    }
}

fn answer(mut connection: TcpStream, role: &str) -> std::io::Result<()> {
    connection.set_read_timeout(Some(REQUEST))?;
    connection.set_write_timeout(Some(REQUEST))?;
    let (began, mut head, mut some) = (Instant::now(), Vec::new(), [0; 1024]);
    // What is not read of a request ends the connection before the answer is there.
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST_REQUEST && began.elapsed() < REQUEST {
        match connection.read(&mut some)? {
            0 => break,
            count => head.extend(&some[..count]),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let (status, body) = match head.split(' ').nth(1) {
        Some("/healthz") => ("200 OK", "ok"),
        Some("/readyz") => ("503 Service Unavailable", role),
        _ => ("503 Service Unavailable", "this server has not reached the log of the cluster yet"),
    };
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}
