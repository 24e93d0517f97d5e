//! Those who work: the library's workers, and ones that know exactly which of their results were answered.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use contact::client::{self, Labels, Reply, Running};
use contact::wire::contact as pb;
use contact::wire::contact_grpc::ContactClient;
use futures::executor::block_on;
use futures::{SinkExt, StreamExt};
use grpcio::{CallOption, MetadataBuilder, WriteFlags};

use super::witness::{Opened, Witness};
use super::{BROADCAST, CAREFUL, QUEUE};

/// How a worker is.
#[derive(Clone, Copy, PartialEq)]
enum Nature {
    Plain,
    /// Now and then it takes longer than its lease, without a word.
    Slow,
    /// It leaves its stream from time to time, with what it holds.
    Restless,
    /// It forgets what was not confirmed, instead of telling it again.
    Forgetful,
    /// It says when it begins a task, and gives one back now and then that it has not begun. Poison ends its stream before that.
    Careful,
}

/// Whether a careful worker leaves without a word when it is given that task, each time.
pub fn is_poison(id: u64) -> bool {
    id % 150 == 77
}

pub enum Worker {
    OfTheLibrary(Running),
    /// A thread that ends when nobody works any more.
    Thread(JoinHandle<()>),
}

impl Worker {
    pub fn join(self) {
        match self {
            // It cannot tell any more: the server is gone.
            Worker::OfTheLibrary(running) => drop(running.stop()),
            Worker::Thread(thread) => thread.join().unwrap(),
        }
    }
}

/// What the clients of a group say that they are.
pub fn labels(group: &str) -> Labels {
    format!("name={group}").parse().unwrap()
}

/// A work queue of eight, one of three that are careful, and broadcast clients.
pub fn start(witness: &Arc<Witness>) -> Vec<Worker> {
    let natures = [Nature::Plain, Nature::Slow, Nature::Restless, Nature::Forgetful];
    let mut workers = Vec::new();
    for (n, nature) in natures.into_iter().enumerate() {
        workers.push(of_the_library(witness, &format!("worker-{n}"), QUEUE, nature));
        workers.push(exact(witness, &format!("worker-{}", n + natures.len()), QUEUE, nature));
    }
    workers.extend((0..3).map(|n| exact(witness, &format!("careful-{n}"), CAREFUL, Nature::Careful)));
    for (n, name) in BROADCAST.into_iter().enumerate() {
        workers.push(if n % 2 == 0 {
            of_the_library(witness, name, "", Nature::Plain)
        } else {
            exact(witness, name, "", Nature::Plain)
        });
    }
    workers
}

/// A named client that comes later.
pub fn newcomer(witness: &Arc<Witness>, n: u32) -> Worker {
    exact(witness, &format!("newcomer-{n}"), "", Nature::Plain)
}

/// What comes of a task. The same for the same delivery, so that a result can be held against the log.
fn reply(id: u64, attempt: u32) -> Reply {
    let ret = format!("task {id}, attempt {attempt}");
    match (id % 100, attempt) {
        (3, _) | (7, ..3) => Reply::retry(ret, Duration::from_millis(id % 3 * 50)).at_most(attempt),
        (13, _) => Reply::failed(ret),
        _ => Reply::done(ret),
    }
}

trait AtMost {
    fn at_most(self, attempt: u32) -> Reply;
}

impl AtMost for Reply {
    /// Nobody retries for ever.
    fn at_most(self, attempt: u32) -> Reply {
        if attempt < 5 { self } else { Reply::done(self.text) }
    }
}

fn of_the_library(witness: &Arc<Witness>, id: &str, group: &str, nature: Nature) -> Worker {
    let config = client::Config {
        id: Some(id.into()),
        labels: labels(if group.is_empty() { id } else { group }),
        group: (!group.is_empty()).then(|| group.into()),
        window: NonZeroU32::new(16),
        from: Some(client::StartAt::First),
        batch: NonZeroU32::new(if nature == Nature::Plain { 8 } else { 1 }),
        concurrency: 2,
        first_backoff: Duration::from_millis(100),
        most_backoff: Duration::from_millis(300),
        renew_every: Duration::from_millis(300),
        confirm_every: Duration::from_millis(50),
        stop_grace: Duration::from_millis(1),
        ..client::Config::new(&witness.listen)
    };
    let (witness, group) = (witness.clone(), if group.is_empty() { id } else { group }.to_owned());
    let worker = client::Worker::new(config, move |task| {
        // In which life it was sent is not known to a handler: the first is always right.
        let (id, attempt, text) = (task.id, task.attempt, task.text.clone());
        let timeout_ms = task.time_limit.map_or(0, |limit| limit.lasts.as_millis() as u32);
        witness.deliver(
            &group,
            &pb::ServerMsg { id, attempt, task: text, timeout_ms, ..Default::default() },
            Opened::default(),
        );
        if nature == Nature::Slow && task.id % 50 == 0 {
            thread::sleep(Duration::from_millis(1200));
        }
        witness.settle();
        reply(task.id, task.attempt)
    });
    Worker::OfTheLibrary(worker.start().unwrap())
}

fn exact(witness: &Arc<Witness>, id: &str, group: &str, nature: Nature) -> Worker {
    let mut metadata = MetadataBuilder::new();
    metadata.add_str("contact-client", id).unwrap().add_str("contact-window", "16").unwrap();
    let labels = labels(if group.is_empty() { id } else { group }).to_string();
    metadata.add_str("contact-from", "first").unwrap().add_str("contact-labels", &labels).unwrap();
    if nature == Nature::Careful {
        metadata.add_str("contact-begins", "1").unwrap();
    }
    // Of several servers nobody may lead for longer than the next one believes who shows none.
    if witness.sees_several() {
        metadata.add_str("contact-receipts", "1").unwrap();
    }
    if !group.is_empty() {
        metadata.add_str("contact-group", group).unwrap();
    }
    let options = CallOption::default().headers(metadata.build());
    let (witness, group) = (witness.clone(), if group.is_empty() { id } else { group }.to_owned());
    let exact = Exact { witness, group, nature, options, untold: Vec::new() };
    Worker::Thread(thread::Builder::new().name(id.into()).spawn(move || exact.run()).unwrap())
}

/// One task at a time, one tellResult for each.
struct Exact {
    witness: Arc<Witness>,
    group: String,
    nature: Nature,
    options: CallOption,
    /// Told without an answer.
    untold: Vec<pb::Result>,
}

impl Exact {
    fn run(mut self) {
        while self.witness.is_working() {
            let opened = self.witness.opens();
            let channel = self.witness.connect(&self.witness.listen);
            if block_on(channel.wait_for_connected(Duration::from_millis(500))) {
                // `None`: the connection is gone, or left.
                let _ = self.work(&ContactClient::new(channel), opened);
            }
        }
    }

    fn work(&mut self, client: &ContactClient, opened: Opened) -> Option<()> {
        for result in std::mem::take(&mut self.untold) {
            self.tell(client, result)?;
        }
        let mut tasks = client.get_task(&pb::Empty::new(), self.options.clone()).ok()?;
        for n in 0.. {
            let task = block_on(tasks.next())?.ok()?;
            self.witness.deliver(&self.group, &task, opened);
            // A stream that outlives a server that led is opened anew soon, so that what comes over it is known to come later.
            let outlived = self.witness.life() > opened.life;
            if self.nature == Nature::Restless && n > 20 && task.id % 20 == 0 {
                return None;
            }
            if self.nature == Nature::Slow && task.id % 50 == 0 {
                thread::sleep(Duration::from_millis(1200));
            }
            if self.nature == Nature::Careful {
                if is_poison(task.id) {
                    return None;
                }
                let outcome = if rand::random_ratio(1, 40) { pb::Outcome::RELEASED } else { pb::Outcome::WORKING };
                if outcome == pb::Outcome::WORKING {
                    self.witness.begin(&self.group, task.id);
                }
                let (id, attempt, outcome) = (task.id, task.attempt, outcome.into());
                let (ret, receipt) = ("not begun".into(), task.receipt.clone());
                self.tell(client, pb::Result { id, attempt, outcome, ret, receipt, ..Default::default() })?;
                if outcome != pb::Outcome::WORKING.into() {
                    continue;
                }
            }
            let reply = reply(task.id, task.attempt);
            let outcome = match reply.outcome {
                client::Outcome::Done => pb::Outcome::DONE,
                client::Outcome::Retry => pb::Outcome::RETRY,
                client::Outcome::Failed => pb::Outcome::FAILED,
            };
            self.witness.settle();
            self.tell(
                client,
                pb::Result {
                    id: task.id,
                    attempt: task.attempt,
                    outcome: outcome.into(),
                    ret: reply.text,
                    receipt: task.receipt,
                    delay_ms: reply.delay.as_millis() as u32,
                    ..Default::default()
                },
            )?;
            if outlived {
                return None;
            }
        }
        None
    }

    fn tell(&mut self, client: &ContactClient, result: pb::Result) -> Option<()> {
        let told = block_on(async {
            let (mut sink, answer) = client.tell_result(self.options.clone()).ok()?;
            sink.send((result.clone(), WriteFlags::default())).await.ok()?;
            sink.close().await.ok()?;
            answer.await.ok()
        });
        let outcome = result.outcome.enum_value().unwrap();
        if told.is_none() {
            // What was not told to be begun is not begun.
            if self.nature != Nature::Forgetful && outcome != pb::Outcome::WORKING {
                self.untold.push(result);
            }
            return None;
        }
        let outcome = match outcome {
            pb::Outcome::DONE => "DONE",
            pb::Outcome::RETRY => "RETRY",
            pb::Outcome::RELEASED => "RELEASED",
            pb::Outcome::FAILED => "FAILED",
            // Nothing of it is written down.
            pb::Outcome::WORKING => return Some(()),
        };
        self.witness.confirm(&self.group, result.id, result.attempt, outcome, result.ret);
        Some(())
    }
}
