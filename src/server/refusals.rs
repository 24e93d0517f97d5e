//! How often this process refused something, by cause.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::status::Refusal;
use crate::broker::{BrokerError, GroupError};
use crate::store::StoreError;

/// Of the process, like everything that stands in its metrics, and because errors become statuses where no server is at hand.
static REFUSALS: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

fn refusals() -> MutexGuard<'static, BTreeMap<&'static str, u64>> {
    REFUSALS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts one.
pub(super) fn count(cause: &'static str) {
    *refusals().entry(cause).or_default() += 1;
}

/// All so far. The causes are few: they are named in this program.
pub(super) fn all() -> BTreeMap<&'static str, u64> {
    refusals().clone()
}

impl Refusal {
    /// What it is called among the metrics.
    pub(super) fn cause(&self) -> &'static str {
        match self {
            Refusal::Undecodable(_) => "MESSAGE_UNDECODABLE",
            Refusal::TooLong { what: "the result", .. } => "RESULT_TOO_LONG",
            Refusal::TooLong { what: "the status", .. } => "STATUS_TOO_LONG",
            Refusal::TooLong { .. } => "TASK_TOO_LONG",
            Refusal::EmptyTask => "TASK_EMPTY",
            Refusal::NestedBatch => "BATCH_NESTED",
            Refusal::UnknownNumber { .. } => "ENUM_VALUE_UNKNOWN",
            Refusal::Metadata { .. } => "METADATA_INVALID",
            Refusal::Name(_) => "NAME_INVALID",
            Refusal::InRequest { why, .. } => why.cause(),
            Refusal::NoSuchTask(..) => "TASK_UNKNOWN",
            Refusal::TakenOver(_) => "CLIENT_TAKEN_OVER",
            Refusal::Stopping | Refusal::Broker(BrokerError::Stopped) | Refusal::Store(StoreError::Closed) => {
                "SERVER_STOPPING"
            }
            Refusal::NotDead(..) => "DEAD_LETTER_UNKNOWN",
            Refusal::Group(GroupError::Unknown(_)) => "GROUP_UNKNOWN",
            Refusal::Group(GroupError::InUse(..)) => "GROUP_IN_USE",
            Refusal::Broker(BrokerError::Store(_)) | Refusal::Store(_) => "STORE_FAILED",
        }
    }
}
