//! What the machine can do at most, measured in the same run.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::{SinkExt as _, StreamExt as _};
use grpcio::{
    CallOption, EnvBuilder, RpcContext, ServerBuilder, ServerCredentials, ServerStreamingSink, ServiceBuilder,
    WriteFlags,
};

use super::load::{connect, failed};
use super::progress::Watch;
use super::raw::{self, Encoded};
use super::report::Report;
use crate::ctl::Error;
use crate::wire::contact::ServerMsg;

/// How long each limit is measured.
const TIME: Duration = Duration::from_millis(500);
/// Tasks in one of the large messages.
const BATCH: usize = 256;

/// All of it is a second.
pub(super) struct Limits {
    fsyncs: f64,
    messages: f64,
    batched: f64,
}

/// Measures them: before the load, whose writes the disk is busy with for a while afterwards.
pub(super) fn measure(dir: &Path, watch: &Watch) -> Result<Limits, Error> {
    let fsyncs = fsyncs(dir).map_err(|e| Error::NotMeasured(format!("cannot write in {}: {e}", dir.display())))?;
    let task = || ServerMsg { task: raw::text(0, 100), id: 1, attempt: 1, ..ServerMsg::default() };
    let messages = rate(&Encoded::new(&task()), watch)?;
    let many = ServerMsg { batch: (0..BATCH).map(|_| task()).collect(), ..ServerMsg::default() };
    let batched = rate(&Encoded::new(&many), watch)? * BATCH as f64;
    Ok(Limits { fsyncs, messages, batched })
}

impl Limits {
    pub(super) fn report(&self, report: &mut Report) {
        report.number("fsyncs_per_s", self.fsyncs, "fsyncs a second, of 4 kB appended to a file there");
        report.number("bare_messages_per_s", self.messages, "tasks a second on a bare gRPC stream, one in a message");
        report.number("bare_batched_per_s", self.batched, "tasks a second on a bare gRPC stream, 256 in a message");
    }
}

fn fsyncs(dir: &Path) -> std::io::Result<f64> {
    let mut file = tempfile::tempfile_in(dir)?;
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < TIME {
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

/// How many times a second a message comes out of a stream, with both its ends in this process.
fn rate(message: &Encoded, watch: &Watch) -> Result<f64, Error> {
    let env = Arc::new(EnvBuilder::new().cq_count(2).name_prefix("bare").build());
    let builder = ServiceBuilder::new().add_server_streaming_handler(&raw::BARE, send_for_a_while);
    let server = ServerBuilder::new(env.clone()).register_service(builder.build()).build();
    let mut server = server.map_err(failed("the bare stream"))?;
    let port = server.add_listening_port("127.0.0.1:0", ServerCredentials::insecure());
    let port = port.map_err(failed("the bare stream"))?;
    server.start();
    let client = connect(&env, &format!("127.0.0.1:{port}"), 1, watch)?.remove(0);
    let began = Instant::now();
    let call = client.server_streaming(&raw::BARE, message, CallOption::default());
    let mut messages = call.map_err(failed("the bare stream"))?;
    let (ended, end) = crossbeam_channel::bounded(1);
    client.spawn(async move {
        let mut count = 0;
        while let Some(Ok(_)) = messages.next().await {
            count += 1;
        }
        let _ = ended.try_send(count);
    });
    let count: u32 = watch.progress("the machine's own limits", 0).wait(&end)?;
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    let _ = block_on(server.shutdown());
    Ok(rate)
}

fn send_for_a_while(ctx: RpcContext<'_>, message: Encoded, mut sink: ServerStreamingSink<Encoded>) {
    sink.enhance_batch(true);
    ctx.spawn(async move {
        let began = Instant::now();
        while began.elapsed() < TIME {
            if sink.feed((message.clone(), WriteFlags::default())).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    });
}
