//! Where the calls of clients go: to the broker of this server, or, in a cluster, to that of the server that leads.

use std::borrow::Cow;

#[cfg(feature = "cluster")]
use super::proxy::{self, Proxy};
use super::refusal::Refusal;
use crate::broker::{self, BrokerError, Join, Joined, OutcomeReport, Quota, Reporter, Reporting, SessionId};
use crate::task::{NewStatus, TaskId};

/// Cheap to clone.
#[derive(Clone)]
pub(super) enum Upstream {
    Broker(broker::Handle),
    #[cfg(feature = "cluster")]
    Proxy(Proxy),
}

/// One call that tells results. The broker knows of it until this is dropped.
pub(super) enum Telling {
    Broker(Reporting),
    #[cfg(feature = "cluster")]
    Proxy(proxy::Telling),
}

impl Telling {
    pub(super) async fn report(&self, reports: Vec<OutcomeReport>) -> Result<(), Refusal> {
        match self {
            Telling::Broker(reporting) => Ok(reporting.report(reports).await?),
            #[cfg(feature = "cluster")]
            Telling::Proxy(telling) => telling.report(reports).await,
        }
    }

    /// Resolves when everything that was told so far is on disk.
    pub(super) async fn flushed(&self) -> Result<(), Refusal> {
        match self {
            Telling::Broker(reporting) => Ok(reporting.flushed().await?),
            #[cfg(feature = "cluster")]
            Telling::Proxy(telling) => telling.flushed().await,
        }
    }
}

impl Upstream {
    /// Opens a session. `None`: none is opened any more.
    pub(super) async fn join(&self, join: Join) -> Option<Result<Joined, Refusal>> {
        match self {
            Upstream::Broker(broker) => match broker.join(join).await {
                Ok(joined) => Some(Ok(joined)),
                Err(error @ (BrokerError::NotYourTurn(_) | BrokerError::Group(_))) => Some(Err(error.into())),
                Err(_) => None,
            },
            #[cfg(feature = "cluster")]
            Upstream::Proxy(proxy) => match proxy.join(join).await {
                Err(Refusal::Store(_)) => None,
                joined => Some(joined),
            },
        }
    }

    pub(super) async fn leave(&self, session: SessionId, why: impl Into<Cow<'static, str>>) {
        match self {
            Upstream::Broker(broker) => broker.leave(session, why).await,
            #[cfg(feature = "cluster")]
            Upstream::Proxy(proxy) => proxy.leave(session, &why.into()).await,
        }
    }

    /// The stream of this session has taken `taken` bytes in all.
    pub(super) async fn stream_took(&self, session: SessionId, taken: u64) {
        match self {
            Upstream::Broker(broker) => broker.stream_took(session, taken).await,
            #[cfg(feature = "cluster")]
            Upstream::Proxy(proxy) => proxy.stream_took(session, taken).await,
        }
    }

    pub(super) async fn reporting(&self, reporter: Reporter) -> Result<Telling, Refusal> {
        match self {
            Upstream::Broker(broker) => Ok(Telling::Broker(broker.reporting(reporter).await?)),
            #[cfg(feature = "cluster")]
            Upstream::Proxy(proxy) => Ok(Telling::Proxy(proxy.reporting(reporter).await?)),
        }
    }

    /// Writes down what clients say of themselves, and resolves when it is on disk.
    pub(super) async fn record_statuses(&self, statuses: Vec<NewStatus>) -> Result<(), Refusal> {
        match self {
            Upstream::Broker(broker) => Ok(broker.record_statuses(statuses).await?),
            #[cfg(feature = "cluster")]
            Upstream::Proxy(proxy) => proxy.record_statuses(statuses).await,
        }
    }

    /// Other bounds for identities.
    pub(super) async fn set_quotas(&self, quotas: Vec<Quota>) -> Result<(), BrokerError> {
        match self {
            Upstream::Broker(broker) => broker.set_quotas(quotas).await,
            #[cfg(feature = "cluster")]
            Upstream::Proxy(proxy) => {
                proxy.set_quotas(quotas).await;
                Ok(())
            }
        }
    }

    /// The newest task that was accepted, if it is known here.
    pub(super) fn newest_task(&self) -> Option<TaskId> {
        match self {
            Upstream::Broker(broker) => Some(broker.newest_task()),
            #[cfg(feature = "cluster")]
            Upstream::Proxy(_) => None,
        }
    }

    /// Whether somebody may watch what a task prints.
    pub(super) fn is_watched(&self, task: TaskId) -> bool {
        match self {
            Upstream::Broker(broker) => broker.is_watched(task),
            #[cfg(feature = "cluster")]
            Upstream::Proxy(_) => true,
        }
    }
}
