//! Lines on their way to standard error. Whoever logs never waits for its reader.
//!
//! A thread of its own writes. While nobody reads what it writes, [`LINES`] lines wait; what comes beyond them is dropped and counted,
//! and the log says how much it was when it flows again.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The most lines that wait.
pub const LINES: usize = 1024;
/// The longest line, in bytes: a longer one is cut. So what waits takes 8 MiB at most.
pub const LONGEST: usize = 8 << 10;
/// How long [`flush`] waits for a reader.
const PATIENCE: Duration = Duration::from_secs(1);

static QUEUE: Queue = Queue {
    state: Mutex::new(State { lines: VecDeque::new(), writing: false, noted: 0, writer: Writer::None }),
    changed: Condvar::new(),
};
static DROPPED: AtomicU64 = AtomicU64::new(0);

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    lines: VecDeque<Vec<u8>>,
    /// A line has left the queue, and is not written yet.
    writing: bool,
    /// Of the dropped lines, those that the log has spoken of.
    noted: u64,
    writer: Writer,
}

/// Makes a line of the number of lines that were dropped.
pub type Note = fn(u64) -> String;

#[derive(Clone, Copy, PartialEq)]
enum Writer {
    None,
    Thread,
    /// There cannot be one: whoever logs writes.
    Impossible,
}

/// Lines that were dropped since the process was started.
pub fn dropped() -> u64 {
    DROPPED.load(Relaxed)
}

/// Puts a line into the queue, with its line end, behind a note where others before it were dropped.
pub fn push(mut line: Vec<u8>, note: Note) {
    if line.len() > LONGEST {
        line.truncate(line[..LONGEST].utf8_chunks().map(|chunk| chunk.valid().len()).next().unwrap_or(0));
        line.extend_from_slice(" [cut]\n".as_bytes());
    }
    let mut state = QUEUE.lock();
    if state.writer == Writer::None {
        let spawned = thread::Builder::new().name("log".into()).spawn(move || QUEUE.write(note));
        state.writer = if spawned.is_ok() { Writer::Thread } else { Writer::Impossible };
    }
    if state.writer == Writer::Impossible {
        drop(state);
        let _ = io::stderr().write_all(&line);
    } else if state.lines.len() < LINES {
        state.note(note);
        state.lines.push_back(line);
        drop(state);
        QUEUE.changed.notify_all();
    } else {
        DROPPED.fetch_add(1, Relaxed);
    }
}

/// Waits until all that was logged is written, for a second at most. For the end of a program.
pub fn flush() {
    let deadline = Instant::now() + PATIENCE;
    let mut state = QUEUE.lock();
    while state.writing || !state.lines.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        state = QUEUE.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, note: Note) {
        let mut state = self.lock();
        loop {
            if state.lines.is_empty() {
                state.note(note);
            }
            let Some(line) = state.lines.pop_front() else {
                state.writing = false;
                self.changed.notify_all();
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.writing = true;
            drop(state);
            // Its reader may be gone for good; then there is nothing to be done.
            let _ = io::stderr().write_all(&line);
            state = self.lock();
        }
    }
}

impl State {
    /// Says what was dropped, as soon as there is room for it.
    fn note(&mut self, note: Note) {
        let dropped = dropped();
        if dropped > self.noted {
            self.lines.push_back(note(dropped - self.noted).into_bytes());
            self.noted = dropped;
        }
    }
}
