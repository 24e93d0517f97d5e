//! How far a measurement has come, shown by the one thread that waits for it.

use std::cell::RefCell;
use std::io::{self, IsTerminal as _};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::process::Process;
use crate::ctl::Error;

/// How often the progress line is drawn, and Ctrl-C looked for.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// A measurement in which nothing has moved for this time is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the measurement is to go on.
#[derive(Clone)]
pub(super) struct Watch {
    interrupted: Arc<AtomicBool>,
    quiet: bool,
    /// Processes with a part of its clients: it does not go on without them.
    others: Rc<RefCell<Vec<Process>>>,
}

impl Watch {
    pub(super) fn new(json: bool) -> io::Result<Watch> {
        let interrupted = Arc::default();
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        Ok(Watch { interrupted, quiet: json && io::stdout().is_terminal(), others: Rc::default() })
    }

    /// The same, without lines that say how far it is.
    pub(super) fn quiet(self) -> Watch {
        Watch { quiet: true, ..self }
    }

    /// From now on it takes this process, too, which ends with it.
    pub(super) fn add(&self, other: Process) {
        self.others.borrow_mut().push(other);
    }

    /// The CPU that all of them took, where the system tells.
    pub(super) fn others_cpu(&self) -> Option<Duration> {
        self.others.borrow().iter().map(|other| Some(other.vitals()?.cpu)).sum()
    }

    /// Lets some time pass, in seconds that are counted.
    pub(super) fn pause(&self, what: &'static str, time: Duration) -> Result<(), Error> {
        let (began, mut progress) = (Instant::now(), self.progress(what, time.as_secs()));
        while let Some(left) = time.checked_sub(began.elapsed()) {
            std::thread::sleep(left.min(LOOK));
            progress.count.store(began.elapsed().as_secs(), Relaxed);
            progress.show()?;
        }
        Ok(())
    }

    /// A line that says how far a part of the measurement has come. Hides itself where standard error is no terminal.
    pub(super) fn progress(&self, what: &'static str, of: u64) -> Progress {
        let style = ProgressStyle::with_template("{msg} {bar:40} {human_pos}  {per_sec}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = if self.quiet { ProgressBar::hidden() } else { ProgressBar::new(of) };
        let bar = bar.with_style(style).with_message(what);
        Progress { watch: self.clone(), what, bar, count: Arc::default(), moved: (0, Instant::now()) }
    }
}

/// See [`Watch::progress`].
pub(super) struct Progress {
    watch: Watch,
    what: &'static str,
    bar: ProgressBar,
    pub(super) count: Arc<AtomicU64>,
    /// The count when it last changed, and when that was seen.
    moved: (u64, Instant),
}

impl Progress {
    /// Shows how far it is. An error: it is not to go on.
    pub(super) fn show(&mut self) -> Result<(), Error> {
        let count = self.count.load(Relaxed);
        self.bar.set_position(count);
        if self.watch.interrupted.load(Relaxed) {
            return Err(Error::Interrupted);
        }
        self.watch.others.borrow_mut().iter_mut().try_for_each(|other| other.runs("a process with clients"))?;
        if count != self.moved.0 {
            self.moved = (count, Instant::now());
        }
        if self.moved.1.elapsed() > PATIENCE {
            let seconds = PATIENCE.as_secs();
            let Progress { what, .. } = self;
            return Err(Error::NotMeasured(format!("{what}: stuck at {count}, nothing moved for {seconds} s")));
        }
        Ok(())
    }

    /// Waits for a message.
    pub(super) fn wait<T>(&mut self, messages: &Receiver<T>) -> Result<T, Error> {
        loop {
            match messages.recv_timeout(LOOK) {
                Ok(message) => return Ok(message),
                Err(_) => self.show()?,
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
