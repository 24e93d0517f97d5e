//! Removes what is old, from time to time.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use futures::executor::block_on;
use log::{info, warn};

use super::about::About;
use super::config::Retention;
use super::operator::{Group, count_groups};
use super::refusal::Refusal;
use crate::broker::{self, GroupInfo};
use crate::store::{self, ChunkOfTasks, Reader, Removable, Removal, StoreError};
use crate::task::{GroupName, TaskId, Time};

/// Tasks removed by one commit: it holds up other commits for no longer than that.
const AT_ONCE: usize = 1000;
/// Tasks that are looked for at once. That costs a look at each group, but not in the thread that writes.
const NAMED: usize = 50_000;
/// How long after the start no group ends: a fleet that was stopped for maintenance, too, has come back by then.
const COME_BACK: Duration = Duration::from_secs(60 * 60);
/// A group whose last client went within this is not ended for being behind: its clients may be starting again.
const AWAY: Duration = Duration::from_secs(60 * 60);
/// How often the clock is looked at, so that a step is seen that is soon taken back.
const LOOK: Duration = Duration::from_secs(5);

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
        about: Arc<About>,
    ) -> Result<RetentionThread, StoreError> {
        let (stop, stopped) = bounded::<()>(0);
        let shared = Arc::new(Mutex::new(retention.clone()));
        let groups_end_from = Instant::now() + retention.group_ttl.min(COME_BACK);
        let mut round =
            Round { retention, reader: store.reader()?, store, broker, about, groups_end_from, warned: HashSet::new() };
        let newest = shared.clone();
        let work = move || {
            let mut last = Instant::now();
            while stopped.recv_timeout(round.retention.every.min(LOOK)) == Err(RecvTimeoutError::Timeout) {
                round.about.clock.look();
                if last.elapsed() < round.retention.every {
                    continue;
                }
                last = Instant::now();
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
    about: Arc<About>,
    groups_end_from: Instant,
    /// The groups of which it was said that they are about to end because they are behind.
    warned: HashSet<GroupName>,
}

impl Round {
    fn run(&mut self, stopped: impl Fn() -> bool) -> Result<(), Refusal> {
        self.end_groups()?;
        let (mut tasks, mut others) = (0, 0);
        let mut by_size = false;
        let (mut named, mut reopened) = (VecDeque::new(), 0);
        while !stopped() {
            let now = self.about.clock.for_removal();
            let before = |age| before(now, age);
            let limit = if by_size { now } else { before(self.retention.retain) };
            // What was named may be owed to somebody again.
            let reopened_now = block_on(self.broker.reopened())?;
            if std::mem::replace(&mut reopened, reopened_now) != reopened_now {
                named.clear();
            }
            if named.is_empty() {
                let removable = Removable {
                    floors: block_on(self.broker.settled_floors())?,
                    before: limit,
                    unclaimed_before: before(self.retention.group_ttl),
                    now,
                    limit: NAMED,
                };
                named.extend(self.reader.removable(&removable)?);
            }
            let removal = Removal { chunks: next(&mut named), before: limit, now, limit: AT_ONCE };
            let removed = block_on(self.store.remove(removal))?;
            tasks += removed.tasks.len();
            others += removed.others;
            let too_large = self.retention.retain_bytes.is_some_and(|most| removed.used > most);
            let found_some = !removed.is_nothing();
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
        let limit = before(self.about.clock.for_removal(), self.retention.group_ttl);
        // After a start clients have some time to come back: that they were there may have been written down a day ago.
        if Instant::now() < self.groups_end_from {
            return Ok(());
        }
        block_on(self.broker.forget_clients(limit))?;
        let groups: Vec<_> = block_on(self.broker.groups())?.into_iter().filter(|info| info.clients == 0).collect();
        let (unused, absent): (Vec<_>, Vec<_>) = groups.into_iter().partition(|info| info.last_used < limit);
        for info in unused {
            let (name, owed) = (info.name, info.lag);
            // A client may have come meanwhile: then it stays.
            if block_on(self.broker.remove_group(name.clone())).is_ok() {
                let ttl = humantime::format_duration(self.retention.group_ttl);
                info!("group {name:?} ends: no client used it for {ttl}; it still owed {owed} tasks");
            }
        }
        match self.retention.max_lag {
            Some(most) => self.end_absent(absent, most),
            None => Ok(()),
        }
    }

    /// Ends those of these groups, of which no client is connected, that are too far behind; says when one has come half as far.
    fn end_absent(&mut self, absent: Vec<GroupInfo>, most: Duration) -> Result<(), Refusal> {
        let now = self.about.clock.for_removal();
        let shown = humantime::format_duration(most);
        let behind = absent.into_iter().filter(|info| info.lag > 0).collect();
        let mut warned = HashSet::new();
        for Group { info, lag, oldest, .. } in count_groups(self.reader.as_mut(), behind)? {
            // A group that is of today has not been away for long, however old what it is to read.
            let away = |age| info.last_used < before(now, age);
            let Some((task, at)) = oldest else { continue };
            let name = info.name.clone();
            if at < before(now, most) && away(most.min(AWAY)) {
                // A client may have come meanwhile: then it stays.
                if block_on(self.broker.remove_group(name.clone())).is_ok() {
                    warn!(
                        "group {name} ends: no client is connected, and task {task} is older than {shown} (--max-lag); it still owed {lag} tasks"
                    );
                }
            } else if at < before(now, most / 2) {
                if !self.warned.contains(&name) {
                    warn!(
                        "group {name} ends when task {task} is older than {shown} (--max-lag), unless a client of it comes; it owes {lag} tasks"
                    );
                }
                warned.insert(name);
            }
        }
        self.warned = warned;
        Ok(())
    }
}

/// Takes the chunks that one commit removes.
fn next(named: &mut VecDeque<ChunkOfTasks>) -> Vec<TaskId> {
    let mut count = 0;
    let fits = |chunk: &&ChunkOfTasks| {
        count += chunk.count;
        count <= AT_ONCE
    };
    let fits = named.iter().take_while(fits).count().max(1).min(named.len());
    named.drain(..fits).map(|chunk| chunk.first).collect()
}

fn before(now: Time, duration: Duration) -> Time {
    Time(now.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::clock::tests::{DAY, MINUTE, Machine};
    use super::*;
    use crate::broker::{Broker, Join, Joined};
    use crate::server::{Auth, CallLimits, Config, GRPC_MEMORY};
    use crate::store::Store;
    use crate::task::{Name, NameOf, NewTask};

    fn config() -> Config {
        Config {
            listen: String::new(),
            control: String::new(),
            http: None,
            http_hosts: Vec::new(),
            tls: None,
            public: None,
            insecure: false,
            auth: Auth::Auto,
            data: "nowhere".into(),
            max_task: 1024,
            limits: crate::server::Limits::default(),
            agent_groups: Vec::new(),
            calls: CallLimits::default(),
            grpc_memory: GRPC_MEMORY,
            dial: crate::server::DialConfig::default(),
            demo: None,
            broker: broker::Config::default(),
            retention: Retention::default(),
            grace: Duration::ZERO,
        }
    }

    /// What rounds work on, without the server around it.
    fn server() -> (Store, Broker, Machine, Arc<About>) {
        let (store, recovered) = Store::in_memory();
        let broker = Broker::start(broker::Config::default(), store.handle(), recovered).unwrap();
        let machine = Machine::at(Time::now());
        let mut about = About::new(&config());
        about.clock = machine.clock();
        (store, broker, machine, Arc::new(about))
    }

    #[test]
    fn a_clock_that_stepped_removes_nothing_until_that_has_held_or_is_said_to_be_right() {
        for said in [false, true] {
            let (running, broker, machine, about) = server();
            let store = running.handle();
            // Settled by all groups, since there are none yet.
            block_on(store.submit(vec![NewTask { text: "old".into(), ..NewTask::default() }; 3])).unwrap();
            let name = Name::new(NameOf::Group, "idle").unwrap();
            let join = Join {
                client: Some(name.clone()),
                from: Some(broker::StartAt::New),
                peer: "here".into(),
                ..Join::default()
            };
            let Joined { session, inbox, .. } = block_on(broker.handle().join(join)).unwrap();
            drop(inbox);
            block_on(broker.handle().leave(session, "it is done"));
            let mut round = Round {
                retention: Retention::default(),
                store: store.clone(),
                broker: broker.handle(),
                reader: store.reader().unwrap(),
                about: about.clone(),
                groups_end_from: Instant::now(),
                warned: HashSet::new(),
            };
            let mut left = || {
                round.run(|| false).unwrap();
                let groups = block_on(round.broker.groups()).unwrap().len();
                (groups, round.reader.tasks(0, 10).unwrap().len())
            };
            machine.steps(40 * DAY);
            assert_eq!(left(), (1, 3), "as if it had not stepped");
            machine.passes(MINUTE);
            machine.steps(-40 * DAY);
            assert_eq!(left(), (1, 3), "nor after it stepped back");
            machine.steps(40 * DAY);
            assert_eq!(left(), (1, 3));
            match said {
                true => assert_eq!(about.clock.accept(), 40 * DAY),
                false => machine.passes(60 * MINUTE),
            }
            assert_eq!(left(), (0, 0), "now it counts");
        }
    }

    #[test]
    fn a_group_that_is_absent_and_far_behind_ends_and_what_it_held_up_is_removed() {
        let (running, broker, machine, about) = server();
        let store = running.handle();
        let come = |name: &str| {
            let client = Some(Name::new(NameOf::Group, name).unwrap());
            let join = Join { client, peer: name.into(), ..Join::default() };
            block_on(broker.handle().join(join)).unwrap()
        };
        // One goes, one stays, and neither settles anything.
        let Joined { session, inbox, .. } = come("once");
        let stays = come("stays");
        block_on(store.submit(vec![NewTask { text: "old".into(), ..NewTask::default() }; 3])).unwrap();
        drop(inbox);
        block_on(broker.handle().leave(session, "it is done"));
        let day = Duration::from_millis(DAY as u64);
        let mut round = Round {
            retention: Retention { retain: day, max_lag: Some(4 * day), ..Retention::default() },
            store: store.clone(),
            broker: broker.handle(),
            reader: store.reader().unwrap(),
            about,
            groups_end_from: Instant::now(),
            warned: HashSet::new(),
        };
        let mut left = || {
            round.run(|| false).unwrap();
            let groups = block_on(round.broker.groups()).unwrap();
            let names = groups.iter().map(|info| info.name.to_string()).collect::<Vec<_>>();
            (names, round.warned.len(), round.reader.tasks(0, 10).unwrap().len())
        };
        let both = || vec!["once".to_owned(), "stays".to_owned()];
        assert_eq!(left(), (both(), 0, 3));
        machine.passes(DAY * 3);
        assert_eq!(left(), (both(), 1, 3), "it is said before");
        machine.passes(DAY * 2);
        assert_eq!(left(), (vec!["stays".to_owned()], 0, 3), "what is connected may be as far behind as it likes");
        block_on(broker.handle().leave(stays.session, "it is done"));
        assert_eq!(left(), (vec![], 0, 0), "nothing holds up the tasks any more");
    }
}
