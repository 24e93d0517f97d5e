//! Whether the parts of the server move: each is asked a trifle again and again, on a thread of its own. A part that does not answer
//! for ten seconds stands still, and whoever watches the process should start it again.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use futures::channel::oneshot;
use futures::executor::LocalPool;
use futures::task::LocalSpawnExt as _;
use grpcio::{ChannelBuilder, Client, Environment};

use crate::{broker, store};

/// Nothing in the server takes as long: a commit on a very busy disk takes a second or two.
const STANDS_STILL: Duration = Duration::from_secs(10);
/// How often each part is asked, and looked whether it has answered.
const EVERY: Duration = Duration::from_secs(1);

type Answer = Pin<Box<dyn Future<Output = ()>>>;

/// Something that is to move.
struct Part {
    name: String,
    /// A question that it answers at once if it moves.
    ask: Box<dyn Fn() -> Answer + Send>,
}

/// The thread that asks. Owns it until [`Watchdog::stop`].
pub(super) struct Watchdog {
    stop: Sender<()>,
    pulse: Pulse,
    thread: JoinHandle<()>,
}

/// Says whether all of it moves. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pulse {
    parts: Arc<[Beat]>,
    /// When the thread that asks asked last.
    asked: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
    limit: Duration,
}

struct Beat {
    name: String,
    /// When it was asked what it has not answered yet. 0: it has.
    since: AtomicU64,
}

/// Milliseconds since the first call, from 1.
fn now() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

impl Pulse {
    /// The parts that stand still, in words. `None`: all move, or the server has stopped.
    pub fn stands_still(&self) -> Option<String> {
        if self.stopped.load(SeqCst) {
            return None;
        }
        let limit = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
        let is_long = |since: u64| since > 0 && now().saturating_sub(since) >= limit;
        let beats = self.parts.iter().filter(|part| is_long(part.since.load(SeqCst))).map(|part| part.name.as_str());
        let asker = is_long(self.asked.load(SeqCst)).then_some("the watchdog");
        let still: Vec<&str> = beats.chain(asker).collect();
        let seconds = self.limit.as_secs();
        (!still.is_empty()).then(|| format!("stands still for {seconds} s or longer: {}", still.join(", ")))
    }
}

impl Watchdog {
    /// For the broker, the writer of the store, and each completion queue.
    pub(super) fn start(
        broker: broker::Handle,
        store: store::Handle,
        env: &Arc<Environment>,
    ) -> std::io::Result<Watchdog> {
        let writer = store.clone();
        let mut parts = vec![
            Part::new("the broker", move || {
                let (broker, store) = (broker.clone(), store.clone());
                Box::pin(async move {
                    // One that waits for a store that is locked or has failed would not move after a restart, either.
                    if store.is_good() {
                        let _ = broker.connected().await;
                    }
                })
            }),
            Part::new("the writer of the store", move || {
                let store = writer.clone();
                Box::pin(async move { _ = store.flushed().await })
            }),
        ];
        // Each channel is given the next queue. None of them connects: they only run what is spawned.
        for n in 0..env.completion_queues().len() {
            let client = Client::new(ChannelBuilder::new(env.clone()).connect("127.0.0.1:9"));
            parts.push(Part::new(&format!("completion queue {n}"), move || {
                let (begin, begun) = oneshot::channel::<()>();
                let (tell, told) = oneshot::channel::<()>();
                // It is polled here first; what wakes it takes it to the queue.
                client.spawn(async move {
                    let _ = begun.await;
                    let _ = tell.send(());
                });
                let _ = begin.send(());
                Box::pin(async move { _ = told.await })
            }));
        }
        Watchdog::of(parts, STANDS_STILL, EVERY)
    }

    fn of(parts: Vec<Part>, limit: Duration, every: Duration) -> std::io::Result<Watchdog> {
        let beat = |part: &Part| Beat { name: part.name.clone(), since: AtomicU64::new(0) };
        let pulse = Pulse {
            parts: parts.iter().map(beat).collect(),
            asked: Arc::new(AtomicU64::new(now())),
            stopped: Arc::default(),
            limit,
        };
        let (stop, stopped) = bounded::<()>(0);
        let beats = pulse.clone();
        let work = move || {
            let mut answers = LocalPool::new();
            let spawner = answers.spawner();
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                beats.asked.store(now(), SeqCst);
                for (n, part) in parts.iter().enumerate() {
                    // One question at a time: a part that stands still is not asked more.
                    if beats.parts[n].since.load(SeqCst) == 0 {
                        beats.parts[n].since.store(now(), SeqCst);
                        let (answer, beats) = ((part.ask)(), beats.parts.clone());
                        let answered = async move {
                            answer.await;
                            beats[n].since.store(0, SeqCst);
                        };
                        // Fails when the pool is gone, and it is here.
                        let _ = spawner.spawn_local(answered);
                    }
                }
                answers.run_until_stalled();
            }
            beats.stopped.store(true, SeqCst);
        };
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(work)?;
        Ok(Watchdog { stop, pulse, thread })
    }

    pub(super) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            log::error!("the watchdog panicked");
        }
    }
}

impl Part {
    fn new(name: &str, ask: impl Fn() -> Answer + Send + 'static) -> Part {
        Part { name: name.to_owned(), ask: Box::new(ask) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::executor::block_on;
    use grpcio::EnvBuilder;

    use super::*;
    use crate::broker::Broker;
    use crate::store::Store;
    use crate::task::NewTask;

    /// Waits for `like` of what stands still.
    #[track_caller]
    fn until(pulse: &Pulse, like: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !like(&pulse.stands_still().unwrap_or_default()) {
            assert!(Instant::now() < deadline, "{:?}", pulse.stands_still());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_part_that_does_not_answer_stands_still_until_it_does() {
        let (go_on, waits) = crossbeam_channel::unbounded::<oneshot::Sender<()>>();
        let parts = vec![
            Part::new("good", || Box::pin(std::future::ready(()))),
            Part::new("bad", move || {
                let (answer, answered) = oneshot::channel();
                let _ = go_on.send(answer);
                Box::pin(async move { _ = answered.await })
            }),
        ];
        // So long that only what never answers stands still.
        let watchdog = Watchdog::of(parts, Duration::from_secs(2), Duration::from_millis(5)).unwrap();
        until(&watchdog.pulse(), |still| still.ends_with(": bad"));
        waits.recv().unwrap().send(()).unwrap();
        until(&watchdog.pulse(), str::is_empty);
        let pulse = watchdog.pulse();
        watchdog.stop();
        assert_eq!(pulse.stands_still(), None);
    }

    #[test]
    fn a_broker_a_writer_and_completion_queues_that_move_answer_and_a_writer_that_hangs_is_named() {
        let (store, recovered) = Store::in_memory();
        let broker = Broker::start(broker::Config::default(), store.handle(), recovered).unwrap();
        let env = Arc::new(EnvBuilder::new().cq_count(2).build());
        let watchdog = Watchdog::start(broker.handle(), store.handle(), &env).unwrap();
        let pulse = watchdog.pulse();
        let asked = pulse.asked.load(SeqCst);
        let deadline = Instant::now() + Duration::from_secs(60);
        // Asked at least twice, and each has answered.
        while pulse.asked.load(SeqCst) < asked + 2_000 || pulse.parts.iter().any(|part| part.since.load(SeqCst) != 0) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(pulse.parts.len(), 4);
        assert_eq!(pulse.stands_still(), None);

        // What the writer tells of a commit must not wait. This does.
        let (go_on, waits) = bounded::<()>(0);
        store.handle().tail().subscribe(Box::new(move |_| _ = waits.recv()));
        block_on(store.handle().submit(vec![NewTask { text: "one".into(), ..NewTask::default() }])).unwrap();
        until(&pulse, |still| still.contains("the writer of the store") && !still.contains("queue"));
        drop(go_on);
        until(&pulse, str::is_empty);
        watchdog.stop();
    }
}
