//! Ctrl-C, as a future.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use futures::channel::oneshot;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

/// Is ready at the first SIGINT or SIGTERM. The second one ends the process.
pub(super) struct Interrupt {
    told: oneshot::Receiver<()>,
    signals: Handle,
    watcher: Option<JoinHandle<()>>,
}

impl Interrupt {
    /// Begins to watch, until dropped.
    pub(super) fn watch() -> io::Result<Interrupt> {
        let (tell, told) = oneshot::channel();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let handle = signals.handle();
        let watcher = thread::Builder::new().name("signals".into()).spawn(move || {
            let mut signals = signals.forever();
            if signals.next().is_some() {
                let _ = tell.send(());
            }
            if let Some(signal) = signals.next() {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        })?;
        Ok(Interrupt { told, signals: handle, watcher: Some(watcher) })
    }
}

impl Future for Interrupt {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.told).poll(cx).map(|_| ())
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.signals.close();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}
