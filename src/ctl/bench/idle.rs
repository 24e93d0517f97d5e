//! Many clients that wait for a task: what they cost, and how soon all of them have it.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use futures::StreamExt as _;
use futures::executor::block_on;
use grpcio::{CallOption, Client, ClientSStreamReceiver, WriteFlags};

use super::args::{Fanout, Idle, IdleClients};
use super::join_set::JoinSet;
use super::load::{connect, failed, metadata};
use super::raw::{self, Encoded, Results, Tasks};
use super::{Run, millis, rate};
use crate::ctl::Error;
use crate::ctl::link::Link;
use crate::wire::{contact, control as pb};

pub(super) fn idle(run: &mut Run, args: &Idle) -> Result<(), Error> {
    let before = run.target.vitals();
    let began = Instant::now();
    let waiting = gather(run, &args.idle)?;
    let took = began.elapsed();
    let clients = waiting.len() as u64;
    run.report.count("clients", clients, "clients connected, each waiting for a task");
    run.report.number("connects_per_s", rate(clients, took), "of them came a second");
    if let (Some(before), Some(after)) = (before, run.target.vitals()) {
        let each = after.rss_kb.saturating_sub(before.rss_kb) as f64 / clients as f64;
        run.report.number("kb_per_client", each, "kB of the server's memory each");
    }
    Ok(())
}

/// A client on its stream.
struct Waiting {
    client: Client,
    options: CallOption,
    tasks: ClientSStreamReceiver<Tasks>,
}

/// Connects them, and returns when the server has all of them.
fn gather(run: &Run, args: &IdleClients) -> Result<Vec<Waiting>, Error> {
    let link = run.link()?;
    let connected = || -> Result<u64, Error> {
        let clients = link.client.list_clients(&pb::ListClientsRequest::new(), Link::answer_soon());
        Ok(link.wait(clients)?.clients.len() as u64)
    };
    let before = connected()?;
    let group = run.group();
    let nothing = Encoded::new(&contact::Empty::new());
    let mut waiting = Vec::with_capacity(args.clients as usize);
    for (number, client) in connect(&run.env, &run.target.contact, args.clients, &run.watch)?.into_iter().enumerate() {
        let name = format!("{group}-{number}");
        let named = [("contact-from", "new"), ("contact-client", name.as_str())];
        let options = metadata(if args.anonymous { &named[..1] } else { &named })?;
        let tasks = client.server_streaming(&raw::GET_TASK, &nothing, options.clone());
        waiting.push(Waiting { tasks: tasks.map_err(failed("getting tasks"))?, client, options });
    }
    let mut progress = run.watch.progress("opening streams", args.clients.into());
    loop {
        let now = connected()?.saturating_sub(before);
        progress.count.store(now, SeqCst);
        progress.show()?;
        if now >= args.clients.into() {
            return Ok(waiting);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The task of one round, on its way.
struct Round {
    /// Numbered from 1: what others submit to a running server has no such number.
    number: u64,
    began: Instant,
    arrived: Vec<Duration>,
}

pub(super) fn fanout(run: &mut Run, args: &Fanout) -> Result<(), Error> {
    let waiting = gather(run, &args.idle)?;
    let size = waiting.len();
    let link = run.link()?;
    let kind = run.kind("", args.size);
    let round = Round { number: 0, began: Instant::now(), arrived: Vec::new() };
    let round = Arc::new(Mutex::new(round));
    let (all_have_it, have_it) = bounded(1);
    let settled = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new(size);
    let mut clients = Vec::with_capacity(size);
    for Waiting { client, options, mut tasks } in waiting {
        let (round, all_have_it, settled) = (round.clone(), all_have_it.clone(), settled.clone());
        let (rounds, anonymous) = (args.rounds as usize, args.idle.anonymous);
        clients.push(client.clone());
        let caller = client.clone();
        running.spawn(&client, async move {
            let mut got = Tasks::new();
            while got.len() < rounds {
                let Some(message) = tasks.next().await else {
                    return Err(Error::NotMeasured("the server ended the stream of tasks".into()));
                };
                for task in message.map_err(failed("getting tasks"))? {
                    let mut round = round.lock().unwrap_or_else(PoisonError::into_inner);
                    if task.number == round.number {
                        let after = round.began.elapsed();
                        round.arrived.push(after);
                        got.push(task);
                        if round.arrived.len() == size {
                            let _ = all_have_it.try_send(());
                        }
                    }
                }
            }
            if !anonymous {
                let call = caller.client_streaming(&raw::TELL_RESULTS, options);
                let (mut sink, receipt) = call.map_err(failed("telling results"))?;
                let _ = futures::SinkExt::send(&mut sink, (Results::done(&got), WriteFlags::default())).await;
                let _ = futures::SinkExt::close(&mut sink).await;
                receipt.await.map_err(failed("telling results"))?;
                settled.fetch_add(got.len() as u64, SeqCst);
            }
            Ok(got.len() as u64)
        });
    }

    let mut progress = run.watch.progress("delivering", args.rounds.into());
    let mut rounds = Vec::new();
    for number in 1..=u64::from(args.rounds) {
        let request = kind.request(number..number + 1);
        let arrived = Vec::with_capacity(size);
        *round.lock().unwrap_or_else(PoisonError::into_inner) = Round { number, began: Instant::now(), arrived };
        let answer = link.client.submit(&request, Link::answer_soon());
        block_on(async { answer?.await }).map_err(|e| link.error(e))?;
        progress.wait(&have_it)?;
        progress.count.fetch_add(1, SeqCst);
        rounds.push(std::mem::take(&mut round.lock().unwrap_or_else(PoisonError::into_inner).arrived));
    }
    let delivered: u64 = running.wait(&mut progress)?.iter().sum();
    rounds.sort_by_key(|arrived| arrived.last().copied());
    // They came in this order.
    let middle = &rounds[rounds.len() / 2];
    let quantile = |q: f64| millis(middle[((size as f64 * q).ceil() as usize).clamp(1, size) - 1]);
    run.report.number("all_ms", quantile(1.0), "ms from submission until every client has the task");
    run.report.number("p50_ms", quantile(0.5), "ms until half of them have it");
    run.report.number("p99_ms", quantile(0.99), "ms until 99 % of them have it");
    let each = rate(size as u64, middle[size - 1]);
    run.report.number("tasks_per_s", each, "deliveries a second meanwhile");
    run.report.count("clients", size as u64, "clients");
    run.report.count("tasks", args.rounds.into(), "tasks, one after the other; times are of the one in the middle");
    run.report.count("delivered", delivered, "deliveries");
    run.report.count("settled", settled.load(SeqCst), "results settled, after that");
    Ok(())
}
