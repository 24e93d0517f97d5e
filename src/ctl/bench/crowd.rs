//! Clients of a measurement that are in processes of their own: more than one process may have open files.

use std::io::{self, Read as _};
use std::process::{Command, Stdio};

use futures::{SinkExt as _, StreamExt as _};
use grpcio::WriteFlags;

use super::Run;
use super::args::{CrowdArgs, Reach};
use super::clients::{Names, gather, until_connected};
use super::load::failed;
use super::process::Process;
use super::raw::{self, Results};
use crate::ctl::Error;

/// The other processes. They end with this.
pub(super) struct Crowds {
    _processes: Vec<Process>,
}

impl Crowds {
    /// Starts processes that have so many clients each, and returns when the server has all of those.
    pub(super) fn gather(run: &Run, clients: &[u32], reach: &Reach) -> Result<Crowds, Error> {
        let failed = |why: io::Error| Error::NotMeasured(format!("cannot find out where this program is: {why}"));
        let us = std::env::current_exe().map_err(failed)?;
        let start = |clients: &u32| {
            let mut command = Command::new(&us);
            command.args(["bench", "--contact", &run.target.contacts.join(","), "--server", &run.target.control]);
            if let Some(tls) = &run.target.tls {
                command.arg("--tls-ca").arg(&tls.ca);
            }
            command.args(["crowd", "--clients", &clients.to_string(), "--heartbeat", &reach.heartbeat.to_string()]);
            command.args(["--addresses", &reach.addresses.to_string()]);
            // It ends when nothing can come from there any more.
            Process::start(command.stdin(Stdio::piped()).stdout(Stdio::null()), None)
        };
        let mut crowds = Crowds { _processes: Vec::new() };
        until_connected(run, clients.iter().sum(), || {
            crowds._processes = clients.iter().map(start).collect::<Result<_, _>>()?;
            Ok(())
        })?;
        Ok(crowds)
    }
}

/// Such a process: its clients are done at once with each task that they are given, until whoever started it is.
pub(super) fn run(run: &Run, args: &CrowdArgs) -> Result<(), Error> {
    let waiting = gather(run, args.clients, Names::Named, &args.reach)?;
    let mut clients = Vec::with_capacity(waiting.len());
    for mut waiting in waiting {
        let telling = waiting.client.client_streaming(&raw::TELL_RESULTS, waiting.options);
        let (mut sink, receipt) = telling.map_err(failed("telling results"))?;
        clients.push(waiting.client.clone());
        waiting.client.spawn(async move {
            // What ends early is missed by whoever waits for its results.
            while let Some(Ok(tasks)) = waiting.tasks.next().await {
                for task in tasks {
                    let _ = sink.send((Results::done(&[task]), WriteFlags::default())).await;
                }
            }
            drop(receipt);
        });
    }
    let _ = io::stdin().read_to_end(&mut Vec::new());
    Ok(())
}
