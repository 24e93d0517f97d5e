//! What load is made of: connections, submitters, workers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::{mpsc, oneshot};
use futures::executor::block_on;
use futures::future::{self, Either};
use futures::{SinkExt as _, StreamExt as _, stream};
use grpcio::{CallOption, ChannelBuilder, Client, ConnectivityState, Environment, MetadataBuilder, WriteFlags};

use super::progress::Watch;
use super::raw::{self, Encoded, Got, Results};
use crate::ctl::Error;
use crate::front::Dial;
use crate::target;
use crate::wire::{contact, control as pb};

/// Requests of a submitter that are under way.
pub(super) const UNDER_WAY: usize = 8;
/// Connections that are being opened at once.
const OPENING: usize = 128;
/// How long one of them may take.
const CONNECT: Duration = Duration::from_secs(20);

/// Opens that many connections, and returns when all of them are ready.
pub(super) fn connect(env: &Arc<Environment>, address: &str, count: u32, watch: &Watch) -> Result<Vec<Client>, Error> {
    connect_in_turn(env, &[address.to_owned()], None, count, watch)
}

/// The same, to several addresses in turn.
pub(super) fn connect_in_turn(
    env: &Arc<Environment>,
    addresses: &[String],
    dial: Option<&Dial>,
    count: u32,
    watch: &Watch,
) -> Result<Vec<Client>, Error> {
    let mut progress = watch.progress("connecting", count.into());
    let open = |number: u32| async move {
        let address = addresses[number as usize % addresses.len()].as_str();
        let channel = ChannelBuilder::new(env.clone())
            // Otherwise all channels to one address share a connection.
            .use_local_subchannel_pool(true)
            .max_receive_message_len(-1)
            .max_send_message_len(-1)
            .enable_http_proxy(target::proxy(address).is_some());
        let channel = target::connect(channel, address, dial);
        let deadline = Instant::now() + CONNECT;
        loop {
            match channel.check_connectivity_state(true) {
                ConnectivityState::GRPC_CHANNEL_READY => return Ok(Client::new(channel)),
                ConnectivityState::GRPC_CHANNEL_TRANSIENT_FAILURE => break,
                state => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if !channel.wait_for_state_change(state, left).await {
                        break;
                    }
                }
            }
        }
        let why = dial.and_then(Dial::trouble).unwrap_or_else(|| "is that where clients connect?".into());
        Err(Error::NotMeasured(format!("no connection to {}; {why}", target::shown(address))))
    };
    block_on(async {
        let mut clients = Vec::with_capacity(count as usize);
        let mut opening = stream::iter(0..count).map(open).buffer_unordered(OPENING);
        while let Some(client) = opening.next().await {
            clients.push(client.map_err(|why| match (why, clients.len()) {
                (Error::NotMeasured(why), open @ 1..) => Error::NotMeasured(format!(
                    "{why} {open} others came about: perhaps ports (--addresses) or open files (ulimit -n) are used up, at either end"
                )),
                (why, _) => why,
            })?);
            progress.count.fetch_add(1, SeqCst);
            progress.show()?;
        }
        Ok(clients)
    })
}

/// A failed call.
pub(super) fn failed(what: &str) -> impl Fn(grpcio::Error) -> Error {
    move |error| Error::NotMeasured(format!("{what} failed: {}", crate::terminal::escape(&error.to_string())))
}

/// Tasks to submit, as they are all alike.
#[derive(Clone)]
pub(super) struct Kind {
    /// The group they are for. Empty: for everyone.
    pub(super) to: String,
    pub(super) size: u32,
    /// Milliseconds since 1970; 0: never.
    pub(super) expires_at: i64,
    /// Milliseconds from when it is submitted.
    pub(super) delay: Option<u64>,
    /// Over how many lanes they go in turn. 0: they are in none.
    pub(super) lanes: u64,
}

impl Kind {
    /// A request with the tasks of these numbers.
    pub(super) fn request(&self, numbers: std::ops::Range<u64>) -> pb::SubmitRequest {
        let task = |number| pb::NewTask {
            task: raw::text(number, self.size),
            to: self.to.clone(),
            expires_at: self.expires_at,
            delay_ms: self.delay,
            lane: number.checked_rem(self.lanes).map_or(String::new(), |lane| lane.to_string()),
            ..pb::NewTask::default()
        };
        pb::SubmitRequest { tasks: numbers.map(task).collect(), ..pb::SubmitRequest::default() }
    }
}

/// How many tasks are to be submitted, by all submitters together.
pub(super) struct Plan {
    left: AtomicU64,
    until: Option<Instant>,
}

impl Plan {
    pub(super) fn new(tasks: u64, duration: Option<Duration>) -> Arc<Plan> {
        Arc::new(Plan { left: tasks.into(), until: duration.map(|duration| Instant::now() + duration) })
    }

    pub(super) fn take(&self, most: u64) -> u64 {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return 0;
        }
        let left = self.left.fetch_update(SeqCst, SeqCst, |left| Some(left.saturating_sub(most)));
        left.unwrap_or(0).min(most)
    }
}

/// Submits until the plan is used up, and resolves when all of that is accepted: how much, and when.
pub(super) async fn submit(
    client: Client,
    kind: Kind,
    batch: u32,
    plan: Arc<Plan>,
    count: Arc<AtomicU64>,
) -> Result<(u64, Instant), Error> {
    let full = Encoded::new(&kind.request(0..batch.into()));
    let call = client.duplex_streaming(&raw::SUBMIT, CallOption::default());
    let (mut sink, mut answers) = call.map_err(failed("submitting"))?;
    let (mut begun, mut under_way) = mpsc::channel(UNDER_WAY - 1);
    let sending = async {
        let mut first = 0;
        loop {
            let tasks = plan.take(batch.into());
            if tasks == 0 || begun.send(tasks).await.is_err() {
                break;
            }
            let is_full = kind.lanes == 0 && tasks == u64::from(batch);
            let request = if is_full { full.clone() } else { Encoded::new(&kind.request(first..first + tasks)) };
            first += tasks;
            sink.feed((request, WriteFlags::default())).await?;
        }
        drop(begun);
        sink.close().await
    };
    let receiving = async {
        let mut accepted = 0;
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(failed("submitting"))?;
            let asked = under_way.next().await.unwrap_or(0);
            if u64::from(answer.count) != asked {
                let why = answer.refused.first().map_or("", |refusal| refusal.reason.as_str());
                return Err(Error::NotMeasured(format!("{} of {asked} tasks were accepted {why}", answer.count)));
            }
            accepted += asked;
            count.fetch_add(asked, SeqCst);
        }
        Ok(accepted)
    };
    // Of two errors, that of the answers says why.
    let (sent, accepted) = future::join(sending, receiving).await;
    let accepted = accepted?;
    sent.map_err(failed("submitting"))?;
    Ok((accepted, Instant::now()))
}

/// The tasks that have been seen, by blocks of 64 ids.
#[derive(Default)]
struct Seen(HashMap<u64, u64>);

impl Seen {
    /// Returns how many of them are new.
    fn add(&mut self, tasks: &[Got]) -> u64 {
        let mut new = 0;
        for task in tasks {
            let block = self.0.entry(task.id / 64).or_default();
            let bit = 1 << (task.id % 64);
            new += u64::from(*block & bit == 0);
            *block |= bit;
        }
        new
    }
}

/// What all workers of a measurement share: when they have seen enough, all of them stop.
pub(super) struct Goal {
    enough: AtomicU64,
    seen: Mutex<Seen>,
    /// Tasks seen, each once.
    pub(super) count: Arc<AtomicU64>,
    stops: Mutex<Vec<oneshot::Sender<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Goal {
    /// `enough`: `u64::MAX` while it is not known.
    pub(super) fn new(enough: u64, count: Arc<AtomicU64>) -> Arc<Goal> {
        Arc::new(Goal { enough: enough.into(), seen: Mutex::default(), count, stops: Mutex::default() })
    }

    pub(super) fn set(&self, enough: u64) {
        self.enough.store(enough, SeqCst);
        self.check();
    }

    fn check(&self) {
        if self.count.load(SeqCst) >= self.enough.load(SeqCst) {
            lock(&self.stops).clear();
        }
    }

    fn add(&self, tasks: &[Got]) {
        let new = lock(&self.seen).add(tasks);
        self.count.fetch_add(new, SeqCst);
        self.check();
    }

    fn stop(&self) -> oneshot::Receiver<()> {
        let (stop, stopped) = oneshot::channel();
        lock(&self.stops).push(stop);
        stopped
    }
}

/// Who a worker says it is.
pub(super) fn metadata(pairs: &[(&str, &str)]) -> Result<CallOption, Error> {
    let mut metadata = MetadataBuilder::with_capacity(pairs.len());
    for (key, value) in pairs {
        metadata.add_str(key, value).map_err(failed("naming the worker"))?;
    }
    Ok(CallOption::default().headers(metadata.build()))
}

/// What came of one worker.
pub(super) struct Worked {
    pub(super) delivered: u64,
    pub(super) settled: u64,
    pub(super) ended: Instant,
}

/// Takes tasks and says at once that they are done, until the goal is reached; resolves when all it said is on disk.
/// `see` is shown the tasks as they come.
pub(super) async fn work(
    client: Client,
    options: CallOption,
    goal: Arc<Goal>,
    mut see: impl FnMut(&[Got]) + Send,
) -> Result<Worked, Error> {
    let mut stop = goal.stop();
    goal.check();
    let nothing = Encoded::new(&contact::Empty::new());
    let tasks = client.server_streaming(&raw::GET_TASK, &nothing, options.clone());
    let mut tasks = tasks.map_err(failed("getting tasks"))?;
    let call = client.client_streaming(&raw::TELL_RESULTS, options);
    let (mut sink, receipt) = call.map_err(failed("telling results"))?;
    let (mut delivered, mut settled) = (0, 0);
    while let Either::Left((message, _)) = future::select(tasks.next(), &mut stop).await {
        let Some(message) = message else {
            return Err(Error::NotMeasured("the server ended the stream of tasks".into()));
        };
        let message = message.map_err(failed("getting tasks"))?;
        delivered += message.len() as u64;
        see(&message);
        if !message.is_empty() {
            if sink.feed((Results::done(&message), WriteFlags::default())).await.is_err() {
                break;
            }
            settled += message.len() as u64;
        }
        goal.add(&message);
    }
    // If it failed, the receipt says why.
    let _ = sink.close().await;
    receipt.await.map_err(failed("telling results"))?;
    Ok(Worked { delivered, settled, ended: Instant::now() })
}
