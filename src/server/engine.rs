//! What works on the store: the broker, the runs, what is removed, the page. A server that is alone always has it, one of a cluster while it
//! leads.

use std::net::TcpListener;
use std::sync::Arc;

use futures::executor::block_on;
use log::{info, warn};

use super::about::About;
use super::config::{Config, Retention, ServerError};
use super::contact::ContactService;
use super::control::ControlService;
use super::demo;
use super::dial::Dialler;
use super::doors::Doors;
use super::health::Health;
use super::http::{HttpThread, Reception};
use super::operator::{Identities, Operator};
use super::port;
use super::query::Pool;
use super::retention::RetentionThread;
use super::runs::RunsThread;
use super::schedules::SchedulesThread;
use super::tls::Tls;
use super::watchdog::{Pulse, Watchdog};
use super::watchers::Watchers;
use super::{bind, newest_entry};
use crate::broker::{self, Broker, BrokerError};
use crate::front::{Entrance, Speaks};
#[cfg(feature = "cluster")]
use crate::store;
use crate::store::{Dialled, Recovered, Store, StoreError};
use crate::task::Time;

/// Owns its threads until [`Engine::drain`], and [`Drained::end`].
pub(super) struct Engine {
    operator: Operator,
    pub(super) contact: ContactService,
    watchers: Watchers,
    runs: RunsThread,
    schedules: SchedulesThread,
    dialler: Dialler,
    dialled: Vec<Dialled>,
    broker: Broker,
    pool: Pool,
    store: Store,
    jobs: Option<Jobs>,
}

/// What begins when clients can come.
struct Jobs {
    retention: RetentionThread,
    watchdog: Watchdog,
}

/// The port of the page.
pub(super) struct Page {
    listener: TcpListener,
    address: String,
    entrance: Entrance,
}

impl Page {
    /// Takes it, if there is to be one.
    pub(super) fn bind(config: &Config, tls: Option<&Tls>, about: &About) -> Result<Option<Page>, ServerError> {
        let Some(http) = config.http.as_deref() else { return Ok(None) };
        let (listener, address) = bind(http, "--http")?;
        let is_here = port::is_of_this_machine(&listener);
        // As operators' gRPC: who is on this machine needs no TLS.
        let port = (is_here, &*address, "--http");
        let entrance = port::entrance(tls, config.insecure, port, is_here, Speaks::Http)?;
        let _ = about.http_by_tls.set(!entrance.plain && !entrance.plain_here);
        Ok(Some(Page { listener, address, entrance }))
    }

    /// Begins to answer there.
    pub(super) fn open(self, doors: &Doors) -> Result<HttpThread, ServerError> {
        let Page { listener, address, entrance } = self;
        let _ = doors.about.http.set(address.clone());
        let reception = Reception {
            entrance,
            connections: doors.connections.clone(),
            grants: doors.grants.clone(),
            counts: doors.about.front.clone(),
        };
        HttpThread::start(listener, address, reception).map_err(|error| ServerError::Start(error.to_string()))
    }
}

impl Engine {
    /// Takes up what the store has. `contact`: what clients call, with this broker.
    pub(super) fn start(
        config: &Config,
        (store, recovered): (Store, Recovered),
        doors: &Doors,
        contact: impl FnOnce(broker::Handle) -> ContactService,
    ) -> Result<Engine, ServerError> {
        let at = &recovered.positions;
        let (tasks, results) = (at.task, at.result);
        info!("store {}: {tasks} tasks and {results} results accepted so far", config.data.display());
        let handle = store.handle();
        handle.set_min_free(config.retention.min_free);
        handle.keep_reserve();
        if let Some(newest) = newest_entry(&recovered) {
            doors.about.clock.start_after(newest);
        }
        let pool = Pool::start(&handle)?;
        let watchers = Watchers::subscribe(handle.tail());
        let dialled = recovered.dialled.clone();
        let broker = Broker::start(config.broker.clone(), handle.clone(), recovered)?;
        let (runs, runs_handle) = RunsThread::start(handle.clone(), broker.handle(), pool.queries())?;
        let (schedules, schedules_handle) = SchedulesThread::start(handle.clone(), pool.queries(), config.max_task)?;
        let contact = contact(broker.handle());
        let dialler =
            Dialler::new(contact.clone(), handle.clone(), doors.env.clone(), config.dial.clone(), config.insecure);
        let dialler = dialler.map_err(ServerError::Dial)?;
        let operator = Operator {
            dialler: dialler.clone(),
            broker: broker.handle(),
            upstream: contact.upstream.clone(),
            store: handle,
            queries: pool.queries(),
            changes: pool.changes(),
            runs: runs_handle,
            schedules: schedules_handle,
            about: doors.about.clone(),
            access: doors.access.clone(),
            traffic: doors.traffic.clone(),
            status_rate: doors.status_rate.clone(),
            limit: config.max_task,
            admissions: doors.admissions.clone(),
            identities: Identities { authority: doors.authority.clone(), connections: doors.connections.clone() },
            never_came: Arc::default(),
            idle_since: Arc::default(),
        };
        Ok(Engine { operator, contact, watchers, runs, schedules, dialler, dialled, broker, pool, store, jobs: None })
    }

    /// Begins with what it does by itself, now that clients can come.
    pub(super) fn begin(
        mut self,
        config: &Config,
        doors: &Doors,
        http: Option<&HttpThread>,
        health: &Health,
    ) -> Result<Engine, ServerError> {
        let (store, broker) = (self.store.handle(), self.broker.handle());
        self.dialler.start(std::mem::take(&mut self.dialled));
        let retention =
            RetentionThread::start(config.retention.clone(), store.clone(), broker.clone(), doors.about.clone())?;
        let demo = config.demo.map_or(Ok(Vec::new()), |every| demo::schedules(every, Time::now()));
        let demo = demo.map_err(|e| ServerError::Start(e.to_string()))?;
        if let Err(why) = block_on(self.operator.schedules.demo(demo)) {
            warn!("the schedules of --demo are not as they should be: {why}");
        }
        let watchdog = Watchdog::start(broker, store, &doors.env);
        let watchdog = watchdog.map_err(|error| ServerError::Start(error.to_string()))?;
        http.iter().for_each(|http| http.leads(self.operator.clone(), health.clone(), watchdog.pulse()));
        self.jobs = Some(Jobs { retention, watchdog });
        Ok(self)
    }

    pub(super) fn pulse(&self) -> Pulse {
        self.jobs.as_ref().map_or_else(Pulse::default, |jobs| jobs.watchdog.pulse())
    }

    /// What operators call.
    pub(super) fn control(&self, doors: &Doors) -> ControlService {
        let (operator, watchers) = (self.operator.clone(), self.watchers.clone());
        ControlService { operator, watchers, calls: doors.calls.clone() }
    }

    #[cfg(feature = "cluster")]
    pub(super) fn broker(&self) -> broker::Handle {
        self.broker.handle()
    }

    #[cfg(feature = "cluster")]
    pub(super) fn store(&self) -> store::Handle {
        self.store.handle()
    }

    /// See [`Server::reconfigure`](super::Server::reconfigure).
    pub(super) fn reconfigure(
        &self,
        doors: &Doors,
        broker: broker::Config,
        retention: Retention,
    ) -> Result<(), BrokerError> {
        doors.about.set_retention(retention.clone());
        self.store.handle().set_min_free(retention.min_free);
        self.jobs.iter().for_each(|jobs| jobs.retention.set(retention.clone()));
        block_on(self.broker.handle().reconfigure(broker))
    }

    /// Does nothing by itself any more, and ends the streams of tasks; `so_many`: is told before how many there are. What clients report
    /// is still written down.
    pub(super) fn drain(self, so_many: impl FnOnce(usize)) -> Drained {
        let Engine { watchers, runs, schedules, dialler, broker, pool, mut store, jobs, .. } = self;
        // Who waits for a store that is locked or full waits no longer: the broker may be among them.
        store.begin_close();
        schedules.stop();
        let watchdog = jobs.map(|Jobs { retention, watchdog }| {
            retention.stop();
            watchdog
        });
        runs.stop();
        // A broker that is gone has no clients.
        so_many(block_on(broker.handle().connected()).unwrap_or(0));
        dialler.stop();
        broker.drain();
        watchers.stop();
        Drained { broker, pool, store, watchdog }
    }
}

/// What still takes reports, and is shown by the page.
pub(super) struct Drained {
    broker: Broker,
    pool: Pool,
    store: Store,
    watchdog: Option<Watchdog>,
}

impl Drained {
    /// Ends the broker. The store is left, to be closed.
    pub(super) fn end(self) -> Closing {
        let Drained { broker, pool, store, watchdog } = self;
        broker.stop();
        watchdog.into_iter().for_each(Watchdog::stop);
        Closing { pool, store }
    }
}

/// What is left when nobody asks anything any more.
pub(super) struct Closing {
    pool: Pool,
    store: Store,
}

impl Closing {
    pub(super) fn close(self) -> Result<(), StoreError> {
        self.pool.stop();
        self.store.close()
    }
}
