//! Lists that take a look at the broker: each is made once for a snapshot, for all who ask, and they are made one after
//! another, with pauses.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// The broker is looked at for at most a fiftieth of the time: when a look takes longer than 20 ms, with many clients and groups,
/// snapshots come less often, too.
pub(super) const BROKER_SHARE: u32 = 50;
/// Lists of one snapshot that are kept.
const KEPT: usize = 16;

/// Those of one kind, by what was asked for.
pub(super) struct Lists<K, V>(Mutex<Made<K, V>>);

struct Made<K, V> {
    /// The newest snapshot that was seen by a caller. Lists that were made before it are not given out any more.
    since: Instant,
    lists: HashMap<K, Arc<V>>,
    /// When the next one may be made.
    next: Instant,
}

impl<K, V> Default for Lists<K, V> {
    fn default() -> Self {
        let (since, next) = (Instant::now(), Instant::now());
        Lists(Mutex::new(Made { since, lists: HashMap::new(), next }))
    }
}

impl<K: Eq + Hash, V> Lists<K, V> {
    /// The list as it was after the snapshot that was made at `since`. `make` says how long the broker was looked at for it.
    /// Before the next list is made, [`BROKER_SHARE`] times that goes by, and at least the time that this one took in all. So
    /// all of them together have at most half of one query thread.
    pub(super) async fn get<E>(
        &self,
        since: Instant,
        key: K,
        make: impl Future<Output = Result<(V, Duration), E>>,
    ) -> Result<Arc<V>, E> {
        let mut made = self.0.lock().await;
        if made.since < since {
            made.since = since;
            made.lists.clear();
        }
        if let Some(list) = made.lists.get(&key) {
            return Ok(list.clone());
        }
        tokio::time::sleep_until(made.next.into()).await;
        let began = Instant::now();
        let (list, looked) = make.await?;
        made.next = Instant::now() + began.elapsed().max(looked * BROKER_SHARE);
        if made.lists.len() >= KEPT {
            made.lists.clear();
        }
        let list = Arc::new(list);
        made.lists.insert(key, list.clone());
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_list_is_made_once_for_a_snapshot_whoever_asks() {
        let (lists, times) = (Lists::<&str, u32>::default(), Cell::new(0));
        let make = async || {
            times.set(times.get() + 1);
            Ok::<_, ()>((times.get(), Duration::ZERO))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let ask = |since, key| *runtime.block_on(lists.get(since, key, make())).unwrap();
        let first = Instant::now();
        assert_eq!([ask(first, "a"), ask(first, "a"), ask(first, "b"), ask(first, "a")], [1, 1, 2, 1]);
        let second = first + Duration::from_secs(1);
        assert_eq!([ask(second, "a"), ask(second, "a")], [3, 3]);
        assert_eq!(ask(first, "a"), 3, "newer than what this caller has seen");
    }

    #[test]
    fn the_broker_is_left_alone_for_fifty_times_as_long_as_it_was_looked_at() {
        let lists = Lists::<u32, ()>::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let looked = Duration::from_secs(1);
        let before = Instant::now();
        runtime.block_on(lists.get(before, 1, async { Ok::<_, ()>(((), looked)) })).unwrap();
        assert!(lists.0.blocking_lock().next >= before + looked * 50);
        let another = lists.get(before, 2, async { Err::<((), Duration), _>("made too soon") });
        let waited = runtime.block_on(async { tokio::time::timeout(Duration::from_millis(10), another).await });
        assert!(waited.is_err(), "{waited:?}");
    }
}
