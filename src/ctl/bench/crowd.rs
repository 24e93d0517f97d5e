//! Clients of a measurement that are in processes of their own: more than one process may have open files.

use std::io::{self, Read as _};
use std::process::Stdio;

use crossbeam_channel::bounded;
use futures::{SinkExt as _, StreamExt as _};
use grpcio::{ClientCStreamSender, ClientSStreamReceiver, WriteFlags};

use super::Run;
use super::args::{CrowdArgs, Reach};
use super::clients::{Names, gather, until_connected};
use super::load::failed;
use super::process::Process;
use super::raw::{self, Results, Tasks};
use super::target::{this_program, untold};
use crate::ctl::Error;

/// Starts processes that have so many clients each, and returns when the server has all of those.
pub(super) fn start(run: &Run, clients: &[u32], reach: &Reach) -> Result<(), Error> {
    let us = this_program()?;
    let start = |clients: &u32| {
        let mut command = untold(&us);
        command.args(["bench", "--contact", &run.target.contacts.join(","), "--server", &run.target.control]);
        command.args(["--threads", &run.env.completion_queues().len().to_string()]);
        if let Some(tls) = &run.target.tls {
            command.arg("--tls-ca").arg(&tls.ca);
            if let Some((certificate, key)) = &tls.identity {
                command.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key);
            }
        }
        command.args(["crowd", "--clients", &clients.to_string(), "--heartbeat", &reach.heartbeat.to_string()]);
        command.args(["--addresses", &reach.addresses.to_string()]);
        // It ends when nothing can come from there any more.
        run.watch.add(Process::start(command.stdin(Stdio::piped()).stdout(Stdio::null()), None)?);
        Ok(())
    };
    until_connected(run, clients.iter().sum(), || clients.iter().try_for_each(start))
}

/// Such a process: its clients are done at once with each task that they are given, until whoever started it is. An error: a stream of
/// theirs ended before.
pub(super) fn run(run: &Run, args: &CrowdArgs) -> Result<(), Error> {
    let waiting = gather(run, args.clients, Names::Named, &args.reach)?;
    let (end, ended) = bounded(1);
    let mut clients = Vec::with_capacity(waiting.len());
    for waiting in waiting {
        let telling = waiting.client.client_streaming(&raw::TELL_RESULTS, waiting.options);
        let (sink, receipt) = telling.map_err(failed("telling results"))?;
        let end = end.clone();
        waiting.client.spawn(async move {
            // The first one says why.
            let _ = end.try_send(settle(waiting.tasks, sink).await);
            drop(receipt);
        });
        clients.push(waiting.client);
    }
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = end.try_send(Ok(()));
    });
    ended.recv().unwrap_or(Ok(()))
}

/// Is done with each task of a client, until one of its streams ends.
async fn settle(mut tasks: ClientSStreamReceiver<Tasks>, mut sink: ClientCStreamSender<Results>) -> Result<(), Error> {
    while let Some(message) = tasks.next().await {
        for task in message.map_err(failed("getting tasks"))? {
            let told = sink.send((Results::done(&[task]), WriteFlags::default())).await;
            told.map_err(failed("telling results"))?;
        }
    }
    Err(Error::NotMeasured("the server ended the stream of tasks".into()))
}
