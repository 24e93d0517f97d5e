//! Many clients that wait for tasks: connected, and given one task after another.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use futures::{SinkExt as _, StreamExt as _};
use grpcio::{CallOption, Client, ClientSStreamReceiver, WriteFlags};

use super::Run;
use super::args::Reach;
use super::join_set::JoinSet;
use super::load::{Kind, connect_in_turn, failed, metadata};
use super::progress::Progress;
use super::raw::{self, Encoded, Results, Tasks};
use crate::ctl::Error;
use crate::ctl::link::Link;
use crate::wire::{contact, control as pb};

/// A client on its stream.
pub(super) struct Waiting {
    pub(super) client: Client,
    pub(super) options: CallOption,
    pub(super) tasks: ClientSStreamReceiver<Tasks>,
}

/// Whether they have names. Each that has one is a group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Anonymous,
    Named,
}

impl Names {
    /// The name of one of them, and so of its group.
    pub(super) fn of(group: &str, number: u32) -> String {
        format!("{group}-{number}")
    }
}

/// Connects them, and returns when the server has all of them.
pub(super) fn gather(run: &Run, count: u32, names: Names, reach: &Reach) -> Result<Vec<Waiting>, Error> {
    let group = run.group();
    let heartbeat = reach.heartbeat.to_string();
    let nothing = Encoded::new(&contact::Empty::new());
    let addresses = run.target.addresses(reach.addresses);
    let wait = |(number, client): (u32, Client)| {
        let name = Names::of(&group, number);
        let mut pairs = vec![("contact-from", "new")];
        if reach.heartbeat > 0 {
            pairs.push(("contact-heartbeat", &heartbeat));
        }
        if names == Names::Named {
            pairs.push(("contact-client", &name));
        }
        let options = metadata(&pairs)?;
        let tasks = client.server_streaming(&raw::GET_TASK, &nothing, options.clone());
        Ok(Waiting { tasks: tasks.map_err(failed("getting tasks"))?, client, options })
    };
    until_connected(run, count, || {
        (0..).zip(connect_in_turn(&run.env, &addresses, run.target.dial(), count, &run.watch)?).map(wait).collect()
    })
}

/// Has so many clients connect, and returns when the server has all of them.
pub(super) fn until_connected<T>(
    run: &Run,
    count: u32,
    connect: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    // Before the server is busy with them.
    let link = run.link()?;
    let before = connected(&link)?;
    let made = connect()?;
    until(run, &link, "opening streams", |now| now.saturating_sub(before), count.into())?;
    Ok(made)
}

/// Lets them go, and returns when the server knows.
pub(super) fn disperse(run: &Run, waiting: Vec<Waiting>) -> Result<(), Error> {
    let link = run.link()?;
    let before = connected(&link)?;
    let count = waiting.len() as u64;
    drop(waiting);
    until(run, &link, "closing streams", |now| before.saturating_sub(now), count)
}

/// Looks at how many clients are connected until what is made of that is enough.
fn until(run: &Run, link: &Link, what: &'static str, made: impl Fn(u64) -> u64, enough: u64) -> Result<(), Error> {
    let mut progress = run.watch.progress(what, enough);
    loop {
        let began = Instant::now();
        let made = made(connected(link)?);
        progress.count.store(made, SeqCst);
        progress.show()?;
        if made >= enough {
            return Ok(());
        }
        // A list of many clients is work for the server, which is busy with them.
        std::thread::sleep((began.elapsed() * 10).max(Duration::from_millis(20)));
    }
}

fn connected(link: &Link) -> Result<u64, Error> {
    let clients = link.client.list_clients(&pb::ListClientsRequest::new(), Link::answer_soon());
    Ok(link.wait(clients)?.clients.len() as u64)
}

/// When they say that they are done with their tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settle {
    Never,
    /// With each task.
    AtOnce,
    /// After the last one, so that it is not measured.
    AtEnd,
}

/// The task of one round, on its way.
struct Round {
    /// Numbered from 1: what others submit to a running server has no such number.
    number: u64,
    began: Instant,
    /// When each client had it, in that order.
    arrived: Vec<Duration>,
}

/// Clients that are all given the same tasks, one after another.
pub(super) struct Crowd {
    pub(super) size: usize,
    round: Arc<Mutex<Round>>,
    all_have_it: Receiver<()>,
    settled: Arc<AtomicU64>,
    running: JoinSet<(u64, ClientSStreamReceiver<Tasks>)>,
    /// They end with their connections.
    clients: Vec<Client>,
}

/// What came of all of them.
pub(super) struct Outcome {
    pub(super) delivered: u64,
    pub(super) settled: u64,
    /// They are connected as long as this is kept.
    _streams: Vec<ClientSStreamReceiver<Tasks>>,
}

impl Crowd {
    /// Each of them takes the tasks of that many rounds.
    pub(super) fn start(waiting: Vec<Waiting>, rounds: u32, settle: Settle) -> Crowd {
        let size = waiting.len();
        let round = Round { number: 0, began: Instant::now(), arrived: Vec::new() };
        let round = Arc::new(Mutex::new(round));
        let (have_it, all_have_it) = bounded(1);
        let settled = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new(size);
        let mut clients = Vec::with_capacity(size);
        for Waiting { client, options, mut tasks } in waiting {
            let (round, have_it, settled) = (round.clone(), have_it.clone(), settled.clone());
            clients.push(client.clone());
            let caller = client.clone();
            running.spawn(&client, async move {
                let tell = || caller.client_streaming(&raw::TELL_RESULTS, options).map_err(failed("telling results"));
                let (mut got, mut telling, mut tell) = (Tasks::new(), None, Some(tell));
                if settle == Settle::AtOnce {
                    telling = tell.take().map(|tell| tell()).transpose()?;
                }
                while got.len() < rounds as usize {
                    let Some(message) = tasks.next().await else {
                        return Err(Error::NotMeasured("the server ended the stream of tasks".into()));
                    };
                    for task in message.map_err(failed("getting tasks"))? {
                        {
                            let mut round = lock(&round);
                            if task.number != round.number {
                                continue;
                            }
                            let after = round.began.elapsed();
                            round.arrived.push(after);
                            if round.arrived.len() == size {
                                let _ = have_it.try_send(());
                            }
                        }
                        got.push(task);
                        if let Some((sink, _)) = &mut telling {
                            // If it failed, the receipt says why.
                            let _ = sink.send((Results::done(&[task]), WriteFlags::default())).await;
                        }
                    }
                }
                if settle == Settle::AtEnd
                    && let Some(tell) = tell
                {
                    let (sink, receipt) = tell()?;
                    let (sink, _) = telling.insert((sink, receipt));
                    let _ = sink.send((Results::done(&got), WriteFlags::default())).await;
                }
                if let Some((mut sink, receipt)) = telling {
                    let _ = sink.close().await;
                    receipt.await.map_err(failed("telling results"))?;
                    settled.fetch_add(got.len() as u64, SeqCst);
                }
                Ok((got.len() as u64, tasks))
            });
        }
        Crowd { size, round, all_have_it, settled, running, clients }
    }

    /// Submits the task of a round for everyone. Returns its id, and when that began.
    pub(super) fn submit(&self, link: &Link, kind: &Kind, number: u64) -> Result<(u64, Instant), Error> {
        let request = kind.request(number..number + 1);
        let (began, arrived) = (Instant::now(), Vec::with_capacity(self.size));
        *lock(&self.round) = Round { number, began, arrived };
        let answer = link.wait(link.client.submit(&request, Link::answer_soon()))?;
        Ok((answer.first_id, began))
    }

    /// Begins a run for them. Returns its number, and when that began.
    pub(super) fn begin(
        &self,
        link: &Link,
        request: &pb::BeginRunRequest,
        number: u64,
    ) -> Result<(u64, Instant), Error> {
        let (began, arrived) = (Instant::now(), Vec::with_capacity(self.size));
        *lock(&self.round) = Round { number, began, arrived };
        let begun = link.wait(link.client.begin_run(request, Link::answer_soon()))?;
        Ok((begun.run.number, began))
    }

    /// Waits until each of them has the task. Returns how long that took for each, in the order in which they got it.
    pub(super) fn all_have_it(&self, progress: &mut Progress) -> Result<Vec<Duration>, Error> {
        progress.wait(&self.all_have_it)?;
        Ok(std::mem::take(&mut lock(&self.round).arrived))
    }

    /// Runs a future beside them.
    pub(super) fn beside<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> JoinSet<T> {
        let mut running = JoinSet::new(1);
        running.spawn(&self.clients[0], work);
        running
    }

    /// After the last round: waits until all they said is on disk.
    pub(super) fn end(self, progress: &mut Progress) -> Result<Outcome, Error> {
        let (delivered, streams): (Vec<u64>, Vec<_>) = self.running.wait(progress)?.into_iter().unzip();
        Ok(Outcome { delivered: delivered.iter().sum(), settled: self.settled.load(SeqCst), _streams: streams })
    }
}

fn lock(round: &Mutex<Round>) -> MutexGuard<'_, Round> {
    round.lock().unwrap_or_else(PoisonError::into_inner)
}
