//! What answers requests now: of a server that is one of several that changes, and connections stay.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::http::StatusCode;

use super::answer::Refused;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Desk(Arc<Mutex<Desks>>);

/// For connections that have a place, and for those beside them.
pub(super) struct Desks {
    pub(super) all: Router,
    pub(super) beside: Router,
    /// For what other servers let in, if this one answers that.
    #[cfg(feature = "cluster")]
    pub(super) passed_on: Option<Router>,
}

impl Default for Desk {
    /// Nobody is there yet.
    fn default() -> Desk {
        let begins = async || Refused::new(StatusCode::SERVICE_UNAVAILABLE, "HTTP_BEGINS", "the server is starting");
        let router = Router::new().fallback(begins);
        Desk(Arc::new(Mutex::new(Desks {
            all: router.clone(),
            beside: router,
            #[cfg(feature = "cluster")]
            passed_on: None,
        })))
    }
}

impl Desk {
    fn desks(&self) -> MutexGuard<'_, Desks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, desks: Desks) {
        *self.desks() = desks;
    }

    pub(super) fn router(&self, is_beside: bool) -> Router {
        let desks = self.desks();
        if is_beside { desks.beside.clone() } else { desks.all.clone() }
    }

    #[cfg(feature = "cluster")]
    pub(super) fn passed_on(&self) -> Option<Router> {
        self.desks().passed_on.clone()
    }
}
