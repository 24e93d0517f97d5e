//! What the parties say they saw.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use contact::wire::contact as pb;
use grpcio::{Channel, ChannelBuilder, EnvBuilder, Environment};

use crate::common::DEADLINE;

/// A task that a submitter was told is accepted.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub id: u64,
    pub text: String,
    pub to: String,
    pub key: String,
}

/// A task that reached a worker.
#[derive(Debug)]
pub struct Delivered {
    pub group: String,
    pub id: u64,
    pub text: String,
    /// Which delivery, and how many attempts were spent before it.
    pub attempt: u32,
    pub spent: u32,
    pub timeout_ms: u32,
    /// The server's life in which the stream was opened, or an earlier one.
    pub life: u64,
    /// A moment before the stream was opened.
    pub opened: u64,
    /// When, in the order of all that the parties saw.
    pub at: u64,
}

/// When a stream was opened, or before: in which of the server's lives, and when in the order of all that the parties saw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Opened {
    pub life: u64,
    pub at: u64,
}

/// A task that a worker was about to say that it begins.
#[derive(Debug)]
pub struct Begun {
    pub group: String,
    pub id: u64,
    /// When, in the order of all that the parties saw.
    pub at: u64,
}

/// A result whose tellResult was answered.
#[derive(Debug, Clone)]
pub struct Confirmed {
    pub group: String,
    pub id: u64,
    pub attempt: u32,
    pub outcome: &'static str,
    pub ret: String,
    /// The server's life in which it was answered, or a later one.
    pub life: u64,
    /// When, in the order of all that the parties saw.
    pub at: u64,
}

/// A task that an operator was told is cancelled.
#[derive(Debug)]
pub struct Cancelled {
    pub id: u64,
    /// The server's life in which it was answered, or a later one.
    pub life: u64,
}

/// Takes down what the parties see.
pub struct Witness {
    pub listen: String,
    pub control: String,
    /// Between two requests of a submitter.
    pub pause: Duration,
    /// How long the last tasks may take.
    pub patience: Duration,
    env: Arc<Environment>,
    life: AtomicU64,
    order: AtomicU64,
    submitting: AtomicBool,
    working: AtomicBool,
    pub accepted: Mutex<Vec<Accepted>>,
    pub delivered: Mutex<Vec<Delivered>>,
    pub begun: Mutex<Vec<Begun>>,
    pub confirmed: Mutex<Vec<Confirmed>>,
    /// All texts that anybody ever tried to submit, and how the task was addressed.
    pub tried: Mutex<HashMap<String, String>>,
    /// The runs that an operator was told have begun: by number their texts.
    pub runs: Mutex<HashMap<u64, String>>,
    /// The texts of all runs that anybody ever tried to begin.
    pub runs_tried: Mutex<HashSet<String>>,
    pub cancelled: Mutex<Vec<Cancelled>>,
    /// What a client that says nothing of itself was given: over each of its streams the ids.
    #[cfg(feature = "cluster")]
    pub anonymous: Mutex<Vec<Vec<u64>>>,
    settled: Mutex<u64>,
    progress: Condvar,
}

impl Witness {
    /// For a run with so many crashes: in a longer one less is submitted in the same time, since each client that comes
    /// anew is given everything.
    pub fn new(listen: &str, control: &str, crashes: u32) -> Witness {
        let scale = 1 + crashes / 20;
        Witness {
            listen: listen.into(),
            control: control.into(),
            pause: Duration::from_millis(15) * scale,
            patience: DEADLINE * scale,
            env: Arc::new(EnvBuilder::new().cq_count(1).name_prefix("parties").build()),
            life: AtomicU64::new(0),
            submitting: AtomicBool::new(true),
            working: AtomicBool::new(true),
            accepted: Mutex::default(),
            delivered: Mutex::default(),
            begun: Mutex::default(),
            order: AtomicU64::new(0),
            confirmed: Mutex::default(),
            tried: Mutex::default(),
            runs: Mutex::default(),
            runs_tried: Mutex::default(),
            cancelled: Mutex::default(),
            #[cfg(feature = "cluster")]
            anonymous: Mutex::default(),
            settled: Mutex::default(),
            progress: Condvar::new(),
        }
    }

    /// Whether there are several servers.
    pub fn sees_several(&self) -> bool {
        self.listen.contains(',')
    }

    /// Which life of the server this is; it grows when one is over.
    pub fn life(&self) -> u64 {
        self.life.load(Ordering::SeqCst)
    }

    pub fn life_is_over(&self) {
        self.life.fetch_add(1, Ordering::SeqCst);
    }

    pub fn is_submitting(&self) -> bool {
        self.submitting.load(Ordering::SeqCst)
    }

    pub fn stop_submitting(&self) {
        self.submitting.store(false, Ordering::SeqCst);
    }

    pub fn is_working(&self) -> bool {
        self.working.load(Ordering::SeqCst)
    }

    pub fn stop_working(&self) {
        self.working.store(false, Ordering::SeqCst);
    }

    /// A connection of its own. Of several addresses, with commas between them, to any that takes it.
    pub fn connect(&self, address: &str) -> Channel {
        let mut all: Vec<&str> = address.split(',').collect();
        let first = rand::random_range(0..all.len());
        all.rotate_left(first);
        let (scheme, address) = (if all.len() > 1 { "ipv4:" } else { "" }, all.join(","));
        ChannelBuilder::new(self.env.clone())
            .use_local_subchannel_pool(true)
            .initial_reconnect_backoff(Duration::from_millis(100))
            .max_reconnect_backoff(Duration::from_millis(200))
            .connect(&format!("{scheme}{address}"))
    }

    /// The place of something that is seen now among all that is seen.
    pub fn next_place(&self) -> u64 {
        self.order.fetch_add(1, Ordering::SeqCst)
    }

    /// To be called before a stream is opened.
    pub fn opens(&self) -> Opened {
        Opened { life: self.life(), at: self.next_place() }
    }

    pub fn deliver(&self, group: &str, task: &pb::ServerMsg, Opened { life, at: opened }: Opened) {
        let (group, text, at) = (group.into(), task.task.clone(), self.next_place());
        let &pb::ServerMsg { id, attempt, spent, timeout_ms, .. } = task;
        let delivered = Delivered { group, id, text, attempt, spent, timeout_ms, life, opened, at };
        self.delivered.lock().unwrap().push(delivered);
    }

    /// To be called when it was answered.
    pub fn confirm(&self, group: &str, id: u64, attempt: u32, outcome: &'static str, ret: String) {
        let (group, life, at) = (group.into(), self.life(), self.next_place());
        self.confirmed.lock().unwrap().push(Confirmed { group, id, attempt, outcome, ret, life, at });
    }

    /// To be called before the server can hear of it.
    pub fn begin(&self, group: &str, id: u64) {
        self.begun.lock().unwrap().push(Begun { group: group.into(), id, at: self.next_place() });
    }

    /// Counts a task that a worker is through with.
    pub fn settle(&self) {
        *self.settled.lock().unwrap() += 1;
        self.progress.notify_all();
    }

    pub fn settled(&self) -> u64 {
        *self.settled.lock().unwrap()
    }

    /// Between two requests of a submitter, of which the last one comes to so many settled tasks, in all groups together. There are three of them:
    /// where workers come to little, no more is submitted.
    pub fn pace(&self, settles: u64) {
        let enough = self.settled() + 3 * settles;
        thread::sleep(self.pause);
        let settled = self.settled.lock().unwrap();
        let wait = |settled: &mut u64| *settled < enough && self.is_submitting();
        drop(self.progress.wait_timeout_while(settled, Duration::from_secs(1), wait).unwrap());
    }

    /// Waits until so many more tasks were accepted than have been.
    #[track_caller]
    #[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "tests of several servers use it"))]
    pub fn until_more_accepted(&self, more: usize) {
        let count = || self.accepted.lock().unwrap().len();
        let (enough, deadline) = (count() + more, Instant::now() + DEADLINE);
        while count() < enough {
            assert!(Instant::now() < deadline, "nothing is accepted: {} of {enough}", count());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the workers are through with so many tasks in all.
    #[track_caller]
    pub fn until_settled(&self, count: u64) {
        let settled = self.settled.lock().unwrap();
        let (settled, _) = self.progress.wait_timeout_while(settled, DEADLINE, |settled| *settled < count).unwrap();
        assert!(*settled >= count, "nothing is being worked on: {settled} of {count}");
    }
}
