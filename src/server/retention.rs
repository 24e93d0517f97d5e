//! Removes what is old, from time to time.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use futures::executor::block_on;
use log::{info, warn};

use super::config::Retention;
use super::operator::count_group;
use super::refusal::Refusal;
use crate::broker;
use crate::store::{self, Reader, Removal, StoreError};
use crate::task::{GroupName, Time};

/// Tasks removed by one commit: it holds up other commits for no longer than that.
const AT_ONCE: usize = 1000;

/// The thread that does it. Owns it until [`RetentionThread::stop`].
pub(super) struct RetentionThread {
    stop: Sender<()>,
    retention: Arc<Mutex<Retention>>,
    thread: JoinHandle<()>,
}

impl RetentionThread {
    pub(super) fn start(
        retention: Retention,
        store: store::Handle,
        broker: broker::Handle,
    ) -> Result<RetentionThread, StoreError> {
        let (stop, stopped) = bounded::<()>(0);
        let shared = Arc::new(Mutex::new(retention.clone()));
        let mut round = Round { retention, reader: store.reader()?, store, broker };
        let newest = shared.clone();
        let work = move || {
            while stopped.recv_timeout(round.retention.every) == Err(RecvTimeoutError::Timeout) {
                round.retention = newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
                match round.run(|| stopped.try_recv() != Err(crossbeam_channel::TryRecvError::Empty)) {
                    Ok(()) => {}
                    // The server is stopping, or the store said so already.
                    Err(Refusal::Broker(_) | Refusal::Store(StoreError::Closed | StoreError::Failed { .. })) => {}
                    Err(e) => warn!("removing what is old: {e}"),
                }
            }
        };
        let thread = std::thread::Builder::new().name("retention".into()).spawn(work).map_err(StoreError::no_thread)?;
        Ok(RetentionThread { stop, retention: shared, thread })
    }

    /// For the rounds to come.
    pub(super) fn set(&self, retention: Retention) {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner) = retention;
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            warn!("the retention thread panicked");
        }
    }
}

struct Round {
    retention: Retention,
    store: store::Handle,
    broker: broker::Handle,
    reader: Box<dyn Reader>,
}

impl Round {
    fn run(&mut self, stopped: impl Fn() -> bool) -> Result<(), Refusal> {
        self.end_groups()?;
        let (mut tasks, mut others) = (0, 0);
        let mut by_size = false;
        while !stopped() {
            let now = Time::now();
            let removal = Removal {
                upto: block_on(self.broker.settled_floor())?,
                before: if by_size { now } else { before(now, self.retention.retain) },
                unclaimed_before: before(now, self.retention.group_ttl),
                limit: AT_ONCE,
            };
            let removed = block_on(self.store.remove(removal))?;
            tasks += removed.tasks.len();
            others += removed.others;
            let too_large = self.retention.retain_bytes.is_some_and(|most| removed.used > most);
            let found_some = removed.tasks.len() + removed.others > 0;
            if !removed.tasks.is_empty() {
                block_on(self.broker.removed(removed.tasks))?;
            }
            // First what is old; then, if that was not enough, what is not.
            match (found_some, too_large) {
                (true, _) if !by_size => {}
                (_, true) if !by_size || found_some => by_size = true,
                _ => break,
            }
        }
        if tasks + others > 0 {
            info!("removed {tasks} settled tasks, and {others} statuses and results without a task, that were old");
        }
        Ok(())
    }

    /// Ends the groups that no client has used for long.
    fn end_groups(&mut self) -> Result<(), Refusal> {
        let limit = before(Time::now(), self.retention.group_ttl);
        for info in block_on(self.broker.groups())? {
            if info.clients > 0 || info.last_used >= limit {
                continue;
            }
            let name: GroupName = info.name.clone();
            let owed = count_group(self.reader.as_mut(), info)?.lag;
            // A client may have come meanwhile: then it stays.
            if block_on(self.broker.remove_group(name.clone())).is_ok() {
                let ttl = humantime::format_duration(self.retention.group_ttl);
                info!("group {name} ends: no client used it for {ttl}; it still owed {owed} tasks");
            }
        }
        Ok(())
    }
}

fn before(now: Time, duration: Duration) -> Time {
    Time(now.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
}
