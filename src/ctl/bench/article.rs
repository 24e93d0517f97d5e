//! What the article's clients do: no names, a task in a message, an acknowledgement for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Instant;

use futures::{SinkExt as _, StreamExt as _, future};
use grpcio::{CallOption, Client, WriteFlags};

use super::args::Article;
use super::join_set::JoinSet;
use super::load::{Plan, Worked, failed, submit};
use super::raw::{self, Encoded};
use super::{Run, rate};
use crate::ctl::Error;
use crate::wire::contact;

/// Tasks in a request. Submitting them is not measured.
const BATCH: u32 = 1000;

pub(super) fn run(run: &mut Run, args: &Article) -> Result<(), Error> {
    if !args.own_tasks {
        let submitter = run.submitters(1)?.remove(0);
        let kind = run.kind("", args.size);
        let mut progress = run.watch.progress("submitting", args.tasks);
        let plan = Plan::new(args.tasks, None);
        let mut running = JoinSet::new(1);
        running.spawn(&submitter, submit(submitter.clone(), kind, BATCH, plan, progress.count.clone()));
        running.wait(&mut progress)?;
    }
    let clients = run.clients(args.clients)?;
    let all = args.tasks * u64::from(args.clients);
    let mut progress = run.watch.progress("delivered, acknowledged", all);
    let ret = format!("客户端接收到任务:{}", raw::text(0, args.size));
    let acknowledgement = Encoded::new(&contact::Result { ret, ..contact::Result::default() });
    let began = Instant::now();
    let mut running = JoinSet::new(clients.len());
    for client in &clients {
        let count = progress.count.clone();
        running.spawn(client, converse(client.clone(), acknowledgement.clone(), args.tasks, count));
    }
    let worked: Vec<Worked> = running.wait(&mut progress)?;
    let sum = |of: fn(&Worked) -> u64| worked.iter().map(of).sum();
    let took = worked.iter().map(|one| one.ended).max().map_or_else(|| began.elapsed(), |at| at - began);
    let settled = sum(|one| one.settled);
    run.report.number("tasks_per_s", rate(settled, took), "tasks delivered and acknowledged a second");
    run.report.count("clients", args.clients.into(), "clients");
    run.report.count("tasks", args.tasks, "tasks for each of them");
    run.report.count("delivered", sum(|one| one.delivered), "deliveries");
    run.report.count("settled", settled, "acknowledgements taken");
    run.report.number("seconds", took.as_secs_f64(), "seconds");
    Ok(())
}

/// Takes that many tasks and acknowledges each. Neither waits for the other.
async fn converse(
    client: Client,
    acknowledgement: Encoded,
    tasks: u64,
    count: Arc<AtomicU64>,
) -> Result<Worked, Error> {
    let nothing = Encoded::new(&contact::Empty::new());
    let call = client.server_streaming(&raw::GET_TASK, &nothing, CallOption::default());
    let mut stream = call.map_err(failed("getting tasks"))?;
    let call = client.client_streaming(&raw::ACKNOWLEDGE, CallOption::default());
    let (mut sink, receipt) = call.map_err(failed("acknowledging"))?;
    sink.enhance_batch(true);
    let (mut delivered, mut settled, mut last) = (0, 0, 0);
    future::poll_fn(|cx| {
        loop {
            let mut waits = true;
            if delivered < tasks
                && let Poll::Ready(message) = stream.poll_next_unpin(cx)
            {
                let Some(message) = message.transpose().map_err(failed("getting tasks"))? else {
                    return Poll::Ready(Err(Error::NotMeasured("the server ended the stream of tasks".into())));
                };
                for task in &message {
                    // Servers of the article's shape give no ids.
                    if task.id != 0 && task.id <= last {
                        let why = format!("task {} came after task {last}", task.id);
                        return Poll::Ready(Err(Error::NotMeasured(why)));
                    }
                    last = task.id;
                }
                delivered += message.len() as u64;
                waits = false;
            }
            // An error of the sink is explained by the receipt.
            if settled < delivered
                && let Poll::Ready(ready) = sink.poll_ready_unpin(cx)
            {
                if ready.is_err() || sink.start_send_unpin((acknowledgement.clone(), WriteFlags::default())).is_err() {
                    return Poll::Ready(Ok(()));
                }
                settled += 1;
                count.fetch_add(1, Relaxed);
                waits = false;
            }
            if settled >= tasks {
                return Poll::Ready(Ok(()));
            }
            if waits {
                let _ = sink.poll_flush_unpin(cx);
                return Poll::Pending;
            }
        }
    })
    .await?;
    let _ = sink.close().await;
    receipt.await.map_err(failed("acknowledging"))?;
    Ok(Worked { delivered, settled, ended: Instant::now() })
}
