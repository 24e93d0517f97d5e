//! How often this process refused something, by cause.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::status::Refusal;

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
            Refusal::Undecodable(_) => "undecodable",
            Refusal::TooLong { .. } => "too_long",
            Refusal::EmptyTask => "empty_task",
            Refusal::NestedBatch => "nested_batch",
            Refusal::UnknownNumber { .. } => "unknown_number",
            Refusal::Metadata { .. } => "metadata",
            Refusal::Name(_) => "name",
            Refusal::InRequest { why, .. } => why.cause(),
            Refusal::NoSuchTask(..) => "no_such_task",
            Refusal::TakenOver(_) => "taken_over",
            Refusal::Stopping | Refusal::Broker(_) => "stopping",
            Refusal::NotDead(..) => "not_dead",
            Refusal::Group(_) => "group",
            Refusal::Store(_) => "store",
        }
    }
}
