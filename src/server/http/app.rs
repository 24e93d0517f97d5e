//! What the handlers of requests work with.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use super::live::Live;
use crate::front::Places;
use crate::server::health::Health;
use crate::server::operator::Operator;
use crate::server::watchdog::Pulse;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct AppState {
    pub(super) operator: Operator,
    pub(super) health: Health,
    pub(super) pulse: Pulse,
    pub(super) live: Live,
    /// Becomes true, or is closed, when the server stops.
    pub(super) stopped: watch::Receiver<bool>,
    /// Places for listeners to events.
    pub(super) listeners: Arc<Semaphore>,
    /// Places for large bodies that are being read.
    pub(super) bodies: Arc<Semaphore>,
    /// Places for connections.
    pub(super) places: Places,
}
