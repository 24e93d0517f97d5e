//! `contactctl backup`: has the server copy its store, and shows how that goes.

use std::time::Instant;

use futures::executor::block_on;
use futures::{FutureExt as _, StreamExt as _, select};
use grpcio::CallOption;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Error;
use super::interrupt::Interrupt;
use super::link::Link;
use super::moment::span;
use super::out::Out;
use crate::wire::control as pb;

#[derive(Serialize)]
struct BackedUp {
    file: String,
    bytes: u64,
    last_task: u64,
    last_result: u64,
    took_ms: u64,
}

pub(super) fn run(link: &Link, file: String, mut out: Out) -> Result<(), Error> {
    let began = Instant::now();
    let bar = if out.json { ProgressBar::hidden() } else { ProgressBar::new(0) };
    bar.set_style(
        ProgressStyle::with_template("{msg} {bar:40} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let done = block_on(follow(link, &file, &bar));
    bar.finish_and_clear();
    let done = done?;
    let took = began.elapsed();
    let text = format!(
        "{file} is a backup with all up to task {} and result {}: {} in {}, checked; it is on the server's machine",
        done.last_task,
        done.last_result,
        HumanBytes(done.bytes),
        span(took),
    );
    let took_ms = took.as_millis() as u64;
    let pb::BackedUp { bytes, last_task, last_result, .. } = done;
    Ok(out.object(&BackedUp { file, bytes, last_task, last_result, took_ms }, &text)?)
}

/// Until it is there. When this ends before, the call does, too, and the server removes what it had begun.
async fn follow(link: &Link, file: &str, bar: &ProgressBar) -> Result<pb::BackedUp, Error> {
    let request = pb::BackupRequest { path: file.to_owned(), ..Default::default() };
    let call = link.client.backup(&request, CallOption::default());
    let mut progress = call.map_err(|e| link.error(e))?.fuse();
    let mut interrupt = Interrupt::watch()?.fuse();
    loop {
        let progress = select! {
            progress = progress.next() => progress,
            () = interrupt => return Err(Error::Interrupted),
        };
        let Some(progress) = progress else { return Err(link.went_away("the backup had not come to its end")) };
        let progress = progress.map_err(|e| link.error(e))?;
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.copied_bytes);
        bar.set_message(if progress.checking { "checking" } else { "copying" });
        if let Some(done) = progress.done.into_option() {
            return Ok(done);
        }
    }
}
