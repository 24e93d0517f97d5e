//! Whether the server serves: `grpc.health.v1.Health`, for load balancers, orchestrators and clients that ask.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use futures::SinkExt as _;
use grpcio::{ClientStreamingSink, DuplexSink, RpcContext, WriteFlags};

use super::access::Standing;
use super::calls::{Ended, answer, first};
#[cfg(feature = "cluster")]
use super::proxy::Trouble;
use super::refusal::Refusal;
use super::watchers::Watchers;
use crate::codec::First;
use crate::store;
use crate::wire::grpc_health_v1::health as pb;
use crate::wire::grpc_health_v1::health::health_check_response::ServingStatus;
use crate::wire::grpc_health_v1::health_grpc::Health as HealthService;

/// What can be asked for by name; the empty one is the whole server. They share a store, so they serve or fail together.
const SERVICES: [&str; 3] = ["", "Contact", "contact.control.v1.Control"];

/// A name that is not known is shown up to this length.
const SHOWN: usize = 100;

/// What a server is up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It takes tasks and gives them to clients.
    Serving,
    /// It is stopping.
    Draining,
    /// The store takes nothing now, and this is why. It may pass.
    StoreFailed(String),
}

/// Knows what the server is up to. Cheap to clone.
#[derive(Clone)]
pub(super) struct Health {
    /// Why nothing is taken now.
    trouble: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    drain: Arc<Drain>,
    watchers: Watchers,
}

#[derive(Default)]
struct Drain {
    begun: AtomicBool,
    /// How many clients are sent away.
    clients: AtomicUsize,
}

impl Health {
    pub(super) fn of(store: store::Handle) -> Health {
        let watchers = Watchers::default();
        let (failing, to_wake) = (store.clone(), watchers.clone());
        // Commits are many, and only when they begin to fail or work again does anything change.
        let known = AtomicBool::new(false);
        store.tail().subscribe(Box::new(move |_| {
            let fails = failing.failure().is_some();
            if known.swap(fails, SeqCst) != fails {
                to_wake.wake();
            }
        }));
        Health { trouble: Arc::new(move || store.failure()), drain: Arc::default(), watchers }
    }

    /// In a cluster: of whoever leads.
    #[cfg(feature = "cluster")]
    pub(super) fn of_cluster() -> (Health, Trouble) {
        let watchers = Watchers::default();
        let to_wake = watchers.clone();
        let trouble = Trouble::new(move || to_wake.wake());
        let known = trouble.clone();
        (Health { trouble: Arc::new(move || known.get()), drain: Arc::default(), watchers }, trouble)
    }

    pub(super) fn state(&self) -> State {
        if self.drain.begun.load(SeqCst) {
            return State::Draining;
        }
        (self.trouble)().map_or(State::Serving, State::StoreFailed)
    }

    /// From now on the server is stopping. Watchers are told.
    pub(super) fn begin_drain(&self) {
        self.drain.begun.store(true, SeqCst);
        self.watchers.wake();
    }

    /// This number of clients is going to be sent away: the more, the longer the time over which they are to come back.
    pub(super) fn sends_away(&self, clients: usize) {
        self.drain.clients.store(clients, SeqCst);
    }

    /// The refusal for one of the clients that are sent away.
    pub(super) fn stopping(&self) -> Refusal {
        Refusal::stopping(self.drain.clients.load(SeqCst))
    }

    /// Ends the watchers' streams, after the last news.
    pub(super) fn stop(&self) {
        self.watchers.stop();
    }

    fn status(&self, service: &str) -> ServingStatus {
        match self.state() {
            _ if !SERVICES.contains(&service) => ServingStatus::SERVICE_UNKNOWN,
            State::Serving => ServingStatus::SERVING,
            State::Draining | State::StoreFailed(_) => ServingStatus::NOT_SERVING,
        }
    }

    /// Reports the status of a service, now and at each change, until the watcher goes or the server stops.
    async fn report(
        &self,
        request: &mut First<pb::HealthCheckRequest>,
        sink: &mut DuplexSink<pb::HealthCheckResponse>,
    ) -> Result<Infallible, Ended> {
        let asked = first(request).await?.service;
        // A name that is not known may be long, and the stream may live for long.
        let service = SERVICES.into_iter().find(|service| *service == asked).unwrap_or("unknown");
        drop(asked);
        loop {
            let status = self.status(service);
            sink.send((response(status), WriteFlags::default())).await?;
            if !self.watchers.wait(sink, || self.status(service) != status, &mut Standing::of_nobody()).await? {
                return Err(self.stopping().into());
            }
        }
    }
}

fn response(status: ServingStatus) -> pb::HealthCheckResponse {
    pb::HealthCheckResponse { status: status.into(), ..pb::HealthCheckResponse::default() }
}

impl HealthService for Health {
    fn check(
        &mut self,
        ctx: RpcContext<'_>,
        mut request: First<pb::HealthCheckRequest>,
        sink: ClientStreamingSink<pb::HealthCheckResponse>,
    ) {
        let health = self.clone();
        ctx.spawn(async move {
            let request = first(&mut request).await;
            let answered = request.and_then(|request| match health.status(&request.service) {
                ServingStatus::SERVICE_UNKNOWN => {
                    Err(Refusal::NoSuchService(request.service.chars().take(SHOWN).collect()))
                }
                status => Ok(response(status)),
            });
            answer(sink, answered).await;
        });
    }

    fn list(
        &mut self,
        ctx: RpcContext<'_>,
        mut request: First<pb::HealthListRequest>,
        sink: ClientStreamingSink<pb::HealthListResponse>,
    ) {
        let health = self.clone();
        ctx.spawn(async move {
            let status = |name: &str| (name.to_owned(), response(health.status(name)));
            let answered = first(&mut request).await.map(|_| pb::HealthListResponse {
                statuses: SERVICES.into_iter().map(status).collect(),
                ..pb::HealthListResponse::default()
            });
            answer(sink, answered).await;
        });
    }

    fn watch(
        &mut self,
        ctx: RpcContext<'_>,
        mut request: First<pb::HealthCheckRequest>,
        mut sink: DuplexSink<pb::HealthCheckResponse>,
    ) {
        let health = self.clone();
        ctx.spawn(async move {
            let Err(ended) = health.report(&mut request, &mut sink).await;
            ended.tell("a watch of health", |status| sink.fail(status)).await;
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::{Duration, Instant};

    use futures::StreamExt as _;
    use futures::executor::block_on;
    use grpcio::{CallOption, ChannelBuilder, Environment, ServerBuilder, ServerCredentials};

    use super::*;
    use crate::codec::all_calls;
    use crate::store::Store;
    use crate::wire::grpc_health_v1::health_grpc::{HealthClient, create_health};

    #[test]
    fn a_watcher_that_goes_leaves_nothing_behind() {
        let (store, _) = Store::in_memory();
        let health = Health::of(store.handle());
        let env = Arc::new(Environment::new(1));
        let mut server = ServerBuilder::new(env.clone())
            .register_service(create_health(health.clone(), &all_calls()))
            .build()
            .unwrap();
        let port = server.add_listening_port("127.0.0.1:0", ServerCredentials::insecure()).unwrap();
        server.start();
        let client = HealthClient::new(ChannelBuilder::new(env).connect(&format!("127.0.0.1:{port}")));
        let known_by = Arc::strong_count(&health.drain);

        let watch = |_| client.watch(&pb::HealthCheckRequest::new(), CallOption::default()).unwrap();
        let mut watchers: Vec<_> = (0..20).map(watch).collect();
        for watcher in &mut watchers {
            assert_eq!(block_on(watcher.next()).unwrap().unwrap().status, ServingStatus::SERVING.into());
        }
        assert_eq!(Arc::strong_count(&health.drain), known_by + 20);
        drop(watchers);
        let deadline = Instant::now() + Duration::from_secs(60);
        while Arc::strong_count(&health.drain) > known_by || health.watchers.count() > 0 {
            assert!(Instant::now() < deadline, "they are still there: {}", health.watchers.count());
            std::thread::yield_now();
        }
    }
}
