//! Makes tasks as the article's server does: ten at once, and ten more from time to time.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use futures::executor::block_on;
use log::warn;
use rand::RngExt as _;

use crate::broker;
use crate::task::NewTask;

/// The thread that makes them. Owns it until [`Demo::stop`].
pub(super) struct Demo {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Demo {
    pub(super) fn start(broker: broker::Handle, every: Duration) -> std::io::Result<Demo> {
        let (stop, stopped) = bounded(0);
        let make = move || {
            loop {
                if let Err(e) = block_on(broker.submit(ten_tasks())) {
                    warn!("the demo's tasks were not accepted: {e}");
                }
                if stopped.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        Ok(Demo { stop, thread: std::thread::Builder::new().name("demo".into()).spawn(make)? })
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            warn!("the demo thread panicked");
        }
    }
}

fn ten_tasks() -> Vec<NewTask> {
    let mut rng = rand::rng();
    (0..10).map(|_| NewTask { text: format!("任务:{}", rng.random_range(100..=200)), ..NewTask::default() }).collect()
}
