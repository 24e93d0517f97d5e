//! How often this process refused something, by cause.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Of the process, as its metrics are, and because errors become statuses where no server is at hand.
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
