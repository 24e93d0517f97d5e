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
mod limits;
mod logins;
mod machine;
#[cfg(feature = "cluster")]
mod member;
mod metadata;
mod operator;
mod port;
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
mod watchdog;
mod watchers;

use std::net::TcpListener;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::future::{self, Either};
use grpcio::EnvBuilder;
use log::{info, warn};

use self::about::About;
pub use self::access::Auth;
use self::access::{Access, is_on};
use self::admission::Admission;
pub use self::admission::CallLimits;
use self::authority::Authority;
use self::calls::Calls;
pub use self::config::{Config, GRPC_MEMORY, LARGEST_MAX_TASK, Retention, ServerError};
use self::contact::ContactService;
use self::control::ControlService;
pub use self::dial::DialConfig;
use self::dial::Dialler;
use self::first_steps::{At, FirstSteps};
use self::grants::Grants;
use self::health::Health;
use self::http::{HttpThread, Reception};
use self::identity::Connections;
#[cfg(feature = "cluster")]
pub use self::import::{Imported, import};
use self::limits::Accounts;
pub use self::limits::{Limit, Limits, Most};
#[cfg(feature = "cluster")]
pub use self::member::{ClusterConfig, Member, SHORTEST_TAKEOVER};
use self::operator::{Identities, Operator};
use self::port::{Kind, Port, Ports};
use self::query::Pool;
use self::receipts::Receipts;
use self::reflection::Reflection;
use self::retention::RetentionThread;
use self::roles::Role;
use self::runs::RunsThread;
use self::schedules::SchedulesThread;
use self::status_rate::StatusRate;
use self::tls::Tls;
use self::traffic::Traffic;
pub use self::watchdog::Pulse;
use self::watchdog::Watchdog;
use self::watchers::Watchers;
use crate::broker::{self, Broker, BrokerError};
use crate::codec::Admit;
pub use crate::front::{FileError, ServerTls, Tls as DialTls};
use crate::front::{Speaks, TlsThread};
use crate::store::{Backend, Newest, Recovered, Sqlite, Store, StoreError};
use crate::task::Time;
use crate::wire;
use crate::wire::contact_grpc::create_contact;
use crate::wire::control_grpc::create_control;
use crate::wire::grpc_health_v1::health_grpc::create_health;

/// What some hundred clients take, and a few long messages, in bytes.
const LEAST_MEMORY: usize = 64 * 1024 * 1024;

/// A running server. Owns all its threads until [`Server::stop`].
pub struct Server {
    contact: Port,
    control: Port,
    tls: Option<(Tls, TlsThread)>,
    http_address: Option<String>,
    about: Arc<About>,
    health: Health,
    http: Option<HttpThread>,
    retention_thread: RetentionThread,
    runs: RunsThread,
    schedules: SchedulesThread,
    watchdog: Watchdog,
    watchers: Watchers,
    dialler: Dialler,
    calls: Calls,
    accounts: Accounts,
    broker: Broker,
    pool: Pool,
    store: Store,
    grace: Duration,
    first_steps: FirstSteps,
}

impl Server {
    /// Opens the store and begins to listen. Returns when clients can connect.
    pub fn start(config: Config) -> Result<Server, ServerError> {
        Server::start_on(config, |data| Ok(Box::new(Sqlite::open(data)?)))
    }

    /// The same on the store that `open` gives for [`Config::data`].
    fn start_on(
        config: Config,
        open: impl FnOnce(&Path) -> Result<Box<dyn Backend>, StoreError>,
    ) -> Result<Server, ServerError> {
        let about = Arc::new(About::new(&config));
        let callers_say_who_they_are = is_on(&config);
        let authority = config.public.as_deref().map(|public| Authority::open(&config.data, public)).transpose();
        let authority = authority.map_err(|why| ServerError::Authority { path: config.data.join("tls"), why })?;
        let files = authority.as_ref().map(Authority::files).or(config.tls);
        let tls = files.map(|files| Tls::read(files, authority.clone())).transpose()?;
        about.set_tls(tls.clone());
        let http = config.http.as_deref().map(|address| bind(address, "--http")).transpose()?;
        let http = http.map(|(listener, address)| {
            let is_here = port::is_of_this_machine(&listener);
            // As operators' gRPC: who is on this machine needs no TLS.
            let port = (is_here, &*address, "--http");
            let entrance = port::entrance(tls.as_ref(), config.insecure, port, is_here, Speaks::Http)?;
            let _ = about.http_by_tls.set(!entrance.plain && !entrance.plain_here);
            Ok::<_, ServerError>((listener, address, entrance))
        });
        let http = http.transpose()?;
        let (store, recovered) = open(&config.data).and_then(Store::with_backend).map_err(ServerError::Open)?;
        let at = &recovered.positions;
        let (tasks, results) = (at.task, at.result);
        info!("store {}: {tasks} tasks and {results} results accepted so far", config.data.display());
        let handle = store.handle();
        handle.set_min_free(config.retention.min_free);
        handle.keep_reserve();
        if let Some(newest) = newest_entry(&recovered) {
            about.clock.start_after(newest);
        }
        let pool = Pool::start(&handle)?;
        let watchers = Watchers::subscribe(handle.tail());
        let health = Health::of(handle.clone());
        let (traffic, status_rate) = (Arc::new(Traffic::default()), Arc::new(StatusRate::default()));
        let anonymous_group = config.broker.anonymous_group.clone();
        let receipts = Receipts::open(&config.data);
        let receipts = receipts.map_err(|why| ServerError::Data { path: config.data.join("receipt-key"), why })?;
        let dialled = recovered.dialled.clone();
        let broker = Broker::start(config.broker, handle.clone(), recovered)?;
        let (runs_thread, runs) = RunsThread::start(handle.clone(), broker.handle(), pool.queries())?;
        let (schedules_thread, schedules) = SchedulesThread::start(handle.clone(), pool.queries(), config.max_task)?;

        if config.max_task as u64 > broker::MAX_MESSAGE {
            warn!(
                "--max-task is {} bytes: a client that does not say that it takes such messages (contact-max-message), as those of \
                 other languages, is sent no task above 4 MiB",
                config.max_task
            );
        }
        if config.grpc_memory < LEAST_MEMORY {
            warn!(
                "--grpc-memory is {} bytes: below {LEAST_MEMORY}, gRPC ends calls of clients that do no harm",
                config.grpc_memory
            );
        }
        let env = Arc::new(EnvBuilder::new().name_prefix("grpc-poll").build());
        let limit = config.max_task;
        let calls = Calls::default();
        let connections = Connections::default();
        let accounts = Accounts::new(config.limits);
        let takes_certificates = tls.as_ref().is_some_and(Tls::asks_for_certificates);
        let first_steps = FirstSteps {
            invites: authority.is_some(),
            has_tls: tls.is_some(),
            takes_certificates,
            asks_who: callers_say_who_they_are,
            data: config.data.clone(),
        };
        let groups: Vec<String> = config.agent_groups.iter().map(ToString::to_string).collect();
        let grants = Grants::open(&config.data, authority.clone(), takes_certificates, &groups, accounts.clone());
        let grants = grants.map_err(ServerError::Tokens)?;
        let access =
            Access::of(callers_say_who_they_are, &config.data, connections.clone(), grants.clone(), accounts.clone());
        let access = access.map_err(ServerError::Tokens)?;
        let admissions = [Admission::of(config.calls), Admission::of(config.calls)];
        let [clients_let_in, operators_let_in] = admissions.each_ref().map(|admission| admission.asked(&access));
        let contact = ContactService {
            broker: broker.handle(),
            access: access.clone(),
            health: health.clone(),
            calls: calls.clone(),
            limit,
            traffic: traffic.clone(),
            status_rate: status_rate.clone(),
            receipts,
            anonymous_group,
        };
        let dialler = Dialler::new(contact.clone(), handle.clone(), env.clone(), config.dial, config.insecure);
        let dialler = dialler.map_err(ServerError::Dial)?;
        let operator = Operator {
            dialler: dialler.clone(),
            broker: broker.handle(),
            store: handle.clone(),
            queries: pool.queries(),
            runs,
            schedules,
            about: about.clone(),
            access: access.clone(),
            traffic,
            status_rate,
            limit,
            admissions,
            identities: Identities { authority, connections: connections.clone() },
            never_came: Arc::default(),
            idle_since: Arc::default(),
        };
        let control = ControlService { operator: operator.clone(), watchers: watchers.clone(), calls: calls.clone() };
        let message = limit + port::BESIDE_TEXT;
        let common = |file, calls: &Admit| {
            let [v1, v1alpha] = Reflection::of(file).services(calls);
            [create_health(health.clone(), calls), v1, v1alpha]
        };
        let ports = Ports {
            env: &env,
            tls: tls.as_ref(),
            insecure: config.insecure,
            callers_say_who_they_are,
            connections: connections.clone(),
            grants: grants.clone(),
            counts: about.front.clone(),
            calls: config.calls,
            memory: config.grpc_memory,
        };
        let let_in = &clients_let_in;
        let services =
            common(wire::contact::file_descriptor(), let_in).into_iter().chain([create_contact(contact, let_in)]);
        let contact =
            ports.open(services, &config.listen, Kind { flag: "--listen", role: Role::Agent, slots: 512, message })?;
        let _ = about.listen.set(contact.address().to_owned());
        let let_in = &operators_let_in;
        let services =
            common(wire::control::file_descriptor(), let_in).into_iter().chain([create_control(control, let_in)]);
        let control = ports.open(
            services,
            &config.control,
            Kind { flag: "--control", role: Role::Operator, slots: 64, message: message.max(16 * 1024 * 1024) },
        )?;
        let _ = about.control.set(control.address().to_owned());
        dialler.start(dialled);
        let retention_thread =
            RetentionThread::start(config.retention, handle.clone(), broker.handle(), about.clone())?;
        let demo = config.demo.map_or(Ok(Vec::new()), |every| demo::schedules(every, Time::now()));
        let demo = demo.map_err(|e| ServerError::Start(e.to_string()))?;
        if let Err(why) = block_on(operator.schedules.demo(demo)) {
            warn!("the schedules of --demo are not as they should be: {why}");
        }
        let http_address = http.as_ref().map(|(_, address, _)| address.clone());
        let _ = about.http.set(http_address.clone().unwrap_or_default());
        let watchdog = Watchdog::start(broker.handle(), handle.clone(), &env);
        let watchdog = watchdog.map_err(|e| ServerError::Start(e.to_string()))?;
        let pulse = watchdog.pulse();
        let http = http.map(|(listener, _, entrance)| {
            let reception = Reception { entrance, connections, grants, counts: about.front.clone() };
            HttpThread::start(listener, reception, operator, health.clone(), pulse)
        });
        let http = http.transpose();
        let http = http.map_err(|e| ServerError::Start(e.to_string()))?;
        let watched = |tls: Tls| Ok((tls.clone(), TlsThread::start(move || tls.look(false))?));
        let tls = tls.map(watched).transpose();
        let tls = tls.map_err(|e: std::io::Error| ServerError::Start(e.to_string()))?;
        let grace = config.grace;
        Ok(Server {
            contact,
            control,
            tls,
            http_address,
            about,
            health,
            dialler,
            calls,
            accounts,
            http,
            schedules: schedules_thread,
            retention_thread,
            runs: runs_thread,
            watchdog,
            watchers,
            broker,
            pool,
            store,
            grace,
            first_steps,
        })
    }

    /// Where clients connect.
    pub fn listen(&self) -> &str {
        self.contact.address()
    }

    /// Where operators connect.
    pub fn control(&self) -> &str {
        self.control.address()
    }

    /// Where the page is, if it is anywhere.
    pub fn http(&self) -> Option<&str> {
        self.http_address.as_deref()
    }

    /// What to do with it first, as commands for this machine: a line for a worker, for a task, and for the page.
    pub fn first_steps(&self) -> String {
        self.first_steps.text(&At { listen: self.listen(), control: self.control(), http: self.http() })
    }

    #[cfg(feature = "cluster")]
    fn store(&self) -> crate::store::Handle {
        self.store.handle()
    }

    /// Clients that are connected. A broker that is gone has none.
    #[cfg(feature = "cluster")]
    fn clients(&self) -> u32 {
        block_on(self.broker.handle().connected()).map_or(0, |clients| clients as u32)
    }

    /// Whether it moves.
    pub fn pulse(&self) -> Pulse {
        self.watchdog.pulse()
    }

    /// Takes other settings while it runs, for what comes from now on. The group of anonymous clients stays what it is; what is
    /// kept for how long counts with the next round of removing, within [`Retention::every`].
    pub fn reconfigure(&self, broker: broker::Config, retention: Retention, limits: Limits) -> Result<(), BrokerError> {
        self.about.set_retention(retention.clone());
        self.store.handle().set_min_free(retention.min_free);
        self.retention_thread.set(retention);
        let handle = self.broker.handle();
        block_on(handle.reconfigure(broker))?;
        block_on(handle.set_quotas(self.accounts.set_limits(limits)))
    }

    /// Reads the files of TLS again, if there are any. Those that are wrong change nothing, and the log says what is wrong.
    pub fn reload_tls(&self) {
        if let Some((tls, _)) = &self.tls {
            tls.look(true);
        }
    }

    /// Ends the streams with a clear status, writes down what clients still report, stops accepting, and joins all threads.
    ///
    /// Health goes first, so that load balancers send no client here any more. Then the streams of tasks are ended, each with the
    /// time to come back. While a client reports, submits or asks something, new calls are answered too, for [`Config::grace`] at
    /// most: results are taken, health is not serving, and there are no tasks.
    pub fn stop(self) -> Result<(), StoreError> {
        let Server {
            contact,
            control,
            tls,
            health,
            dialler,
            calls,
            http,
            schedules,
            retention_thread,
            runs,
            watchers,
            broker,
            ..
        } = self;
        let mut store = self.store;
        health.begin_drain();
        // Who waits for a store that is locked or full waits no longer: the broker may be among them.
        store.begin_close();
        schedules.stop();
        retention_thread.stop();
        runs.stop();
        // A broker that is gone has no clients to send away.
        health.sends_away(block_on(broker.handle().connected()).unwrap_or(0));
        dialler.stop();
        broker.drain();
        watchers.stop();
        let begun = Instant::now();
        within(self.grace, pin!(calls.none_open()));
        let all_ended = future::try_join(contact.shutdown(), control.shutdown());
        health.stop();
        if !within(self.grace.saturating_sub(begun.elapsed()), all_ended) {
            info!("some clients are still connected: their calls are cancelled");
            contact.cancel();
            control.cancel();
        }
        // Until here the page could be looked at, which says that the server is stopping.
        if let Some(http) = http {
            http.stop();
        }
        // What is still reported finds the broker's mailbox closed, and is reported again after the reconnect.
        broker.stop();
        self.watchdog.stop();
        contact.close();
        control.close();
        if let Some((_, thread)) = tls {
            thread.stop();
        }
        self.pool.stop();
        store.close()
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
