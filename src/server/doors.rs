//! What others come in by: the ports for clients and for operators, and what is known of who comes. It is the same whoever leads.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future;
use grpcio::{EnvBuilder, Environment, Service};
use log::{info, warn};

use super::about::About;
use super::access::{Access, is_on};
use super::admission::Admission;
use super::authority::Authority;
use super::calls::Calls;
use super::config::{Config, ServerError};
use super::contact::ContactService;
use super::first_steps::FirstSteps;
use super::grants::Grants;
use super::health::Health;
use super::identity::Connections;
use super::kept::Kept;
use super::limits::Accounts;
use super::port::{self, Kind, Port, Ports};
use super::receipts::Receipts;
use super::reflection::Reflection;
use super::roles::Role;
use super::status_rate::StatusRate;
use super::tls::Tls;
use super::traffic::Traffic;
use super::upstream::Upstream;
use super::within;
use crate::broker;
use crate::codec::Admit;
use crate::front::TlsThread;
use crate::task::Name;
use crate::wire;
use crate::wire::contact_grpc::create_contact;
use crate::wire::grpc_health_v1::health_grpc::create_health;

/// What some hundred clients take, and a few long messages, in bytes.
const LEAST_MEMORY: usize = 64 * 1024 * 1024;

/// The longest request of operators, in bytes, unless one task may be longer.
const LONGEST_REQUEST: usize = 16 * 1024 * 1024;

/// Before the ports are taken.
pub(super) struct Doors {
    pub(super) about: Arc<About>,
    pub(super) tls: Option<Tls>,
    pub(super) authority: Option<Authority>,
    pub(super) env: Arc<Environment>,
    pub(super) calls: Calls,
    pub(super) connections: Connections,
    pub(super) accounts: Accounts,
    pub(super) grants: Grants,
    pub(super) access: Access,
    /// Of clients, and of operators.
    pub(super) admissions: [Arc<Admission>; 2],
    pub(super) traffic: Arc<Traffic>,
    pub(super) status_rate: Arc<StatusRate>,
    receipts: Receipts,
    anonymous_group: Option<Name>,
    limit: usize,
    callers_say_who_they_are: bool,
    pub(super) first_steps: FirstSteps,
}

impl Doors {
    /// Reads what says who may come; `kept`: where that stands which is granted. `first`: what is to be done, as soon as TLS is known, before anything is written to [`Config::data`].
    pub(super) fn new<T>(
        config: &Config,
        kept: Kept,
        first: impl FnOnce(Option<&Tls>, &About) -> Result<T, ServerError>,
    ) -> Result<(Doors, T), ServerError> {
        let about = Arc::new(About::new(config));
        let callers_say_who_they_are = is_on(config);
        let authority = config.public.as_deref().map(|public| Authority::open(&config.data, public)).transpose();
        let authority = authority.map_err(|why| ServerError::Authority { path: config.data.join("tls"), why })?;
        let files = authority.as_ref().map(Authority::files).or(config.tls.clone());
        let tls = files.map(|files| Tls::read(files, authority.clone())).transpose()?;
        about.set_tls(tls.clone());
        let first = first(tls.as_ref(), &about)?;
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
        let receipts = Receipts::open(&config.data);
        let receipts = receipts.map_err(|why| ServerError::Data { path: config.data.join("receipt-key"), why })?;
        let (connections, accounts) = (Connections::default(), Accounts::new(config.limits));
        let takes_certificates = tls.as_ref().is_some_and(Tls::asks_for_certificates);
        let first_steps = FirstSteps {
            invites: authority.is_some(),
            has_tls: tls.is_some(),
            takes_certificates,
            asks_who: callers_say_who_they_are,
            data: config.data.clone(),
        };
        let groups: Vec<String> = config.agent_groups.iter().map(ToString::to_string).collect();
        let grants =
            Grants::open(&config.data, kept.clone(), authority.clone(), takes_certificates, &groups, accounts.clone());
        let grants = grants.map_err(ServerError::Tokens)?;
        let access = Access::of(
            callers_say_who_they_are,
            &config.data,
            kept,
            connections.clone(),
            grants.clone(),
            accounts.clone(),
        );
        let access = access.map_err(ServerError::Tokens)?;
        let doors = Doors {
            about,
            tls,
            authority,
            env: Arc::new(EnvBuilder::new().name_prefix("grpc-poll").build()),
            calls: Calls::default(),
            connections,
            accounts,
            grants,
            access,
            admissions: [Admission::of(config.calls), Admission::of(config.calls)],
            traffic: Arc::default(),
            status_rate: Arc::default(),
            receipts,
            anonymous_group: config.broker.anonymous_group.clone(),
            limit: config.max_task,
            callers_say_who_they_are,
            first_steps,
        };
        Ok((doors, first))
    }

    /// What clients call.
    pub(super) fn contact(&self, upstream: Upstream, health: Health) -> ContactService {
        ContactService {
            upstream,
            access: self.access.clone(),
            health,
            calls: self.calls.clone(),
            limit: self.limit,
            traffic: self.traffic.clone(),
            status_rate: self.status_rate.clone(),
            receipts: self.receipts.clone(),
            anonymous_group: self.anonymous_group.clone(),
        }
    }

    /// Who is let in on the port of these.
    pub(super) fn let_in(&self, role: Role) -> Admit {
        self.admissions[usize::from(role == Role::Operator)].asked(&self.access)
    }

    /// Takes the ports. `beside`: what other servers call on that of clients, if there are any.
    pub(super) fn open(
        &self,
        config: &Config,
        health: &Health,
        contact: ContactService,
        beside: Vec<Service>,
        control: Service,
    ) -> Result<OpenDoors, ServerError> {
        let of_client = self.limit + port::BESIDE_TEXT;
        let of_operator = of_client.max(LONGEST_REQUEST);
        // Other servers pass on what operators ask.
        let message = if beside.is_empty() { of_client } else { of_operator };
        let common = |file, calls: &Admit| {
            let [v1, v1alpha] = Reflection::of(file).services(calls);
            [create_health(health.clone(), calls), v1, v1alpha]
        };
        let ports = Ports {
            env: &self.env,
            tls: self.tls.as_ref(),
            insecure: config.insecure,
            callers_say_who_they_are: self.callers_say_who_they_are,
            connections: self.connections.clone(),
            grants: self.grants.clone(),
            counts: self.about.front.clone(),
            calls: config.calls,
            memory: config.grpc_memory,
        };
        let let_in = &self.let_in(Role::Agent);
        let services = common(wire::contact::file_descriptor(), let_in)
            .into_iter()
            .chain([create_contact(contact, let_in)])
            .chain(beside);
        let contact =
            ports.open(services, &config.listen, Kind { flag: "--listen", role: Role::Agent, slots: 512, message })?;
        let _ = self.about.listen.set(contact.address().to_owned());
        let let_in = &self.let_in(Role::Operator);
        let services = common(wire::control::file_descriptor(), let_in).into_iter().chain([control]);
        let control = ports.open(
            services,
            &config.control,
            Kind { flag: "--control", role: Role::Operator, slots: 64, message: of_operator },
        )?;
        let _ = self.about.control.set(control.address().to_owned());
        let watched = |tls: Tls| Ok((tls.clone(), TlsThread::start(move || tls.look(false))?));
        let tls = self.tls.clone().map(watched).transpose();
        let tls = tls.map_err(|e: std::io::Error| ServerError::Start(e.to_string()))?;
        Ok(OpenDoors { contact, control, tls })
    }
}

/// The ports. To be closed at the end.
pub(super) struct OpenDoors {
    contact: Port,
    control: Port,
    tls: Option<(Tls, TlsThread)>,
}

impl OpenDoors {
    pub(super) fn listen(&self) -> &str {
        self.contact.address()
    }

    pub(super) fn control(&self) -> &str {
        self.control.address()
    }

    pub(super) fn reload_tls(&self) {
        if let Some((tls, _)) = &self.tls {
            tls.look(true);
        }
    }

    /// Waits until nobody reports, submits or asks anything, and takes no more; for `grace` at most. Then calls that are left are
    /// cancelled.
    pub(super) fn wait(&self, calls: &Calls, health: &Health, grace: Duration) {
        let begun = Instant::now();
        within(grace, pin!(calls.none_open()));
        let all_ended = future::try_join(self.contact.shutdown(), self.control.shutdown());
        health.stop();
        if !within(grace.saturating_sub(begun.elapsed()), all_ended) {
            info!("some clients are still connected: their calls are cancelled");
            self.contact.cancel();
            self.control.cancel();
        }
    }

    /// Ends the connections that are left.
    pub(super) fn close(self) {
        self.contact.close();
        self.control.close();
        if let Some((_, thread)) = self.tls {
            thread.stop();
        }
    }
}
