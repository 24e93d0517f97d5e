//! Lines on their way to standard output. Whoever prints never waits for its reader.
//!
//! A thread of its own writes. While nobody reads what it writes, up to [`MOST`] bytes wait; lines beyond that are dropped and
//! counted.

use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

/// The most bytes that wait. A reader that stops for a second at 10,000 lines a second of 200 bytes misses none.
pub const MOST: usize = 8 << 20;

/// A queue, and what writes it.
#[derive(Debug)]
pub struct PrintQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whole lines.
    waiting: Vec<u8>,
    /// What was taken out is not written yet.
    writing: bool,
    dropped: u64,
}

impl PrintQueue {
    /// Starts the thread that writes to `to`. It lives as long as the process. `note` makes a line of the number of lines that were
    /// dropped; it is written as soon as the reader goes on.
    pub fn start(
        mut to: impl Write + Send + 'static,
        note: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<&'static PrintQueue> {
        let queue = PrintQueue { state: Mutex::default(), changed: Condvar::new() };
        let queue: &'static PrintQueue = Box::leak(Box::new(queue));
        let write = move || {
            let mut state = queue.lock();
            loop {
                let lines = mem::take(&mut state.waiting);
                let dropped = mem::take(&mut state.dropped);
                state.writing = !lines.is_empty();
                if lines.is_empty() {
                    queue.changed.notify_all();
                    state = queue.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                drop(state);
                // Its reader may be gone for good; then there is nothing to be done.
                let _ = to.write_all(&lines);
                if dropped > 0 {
                    let _ = writeln!(to, "{}", note(dropped));
                }
                let _ = to.flush();
                state = queue.lock();
            }
        };
        thread::Builder::new().name("print".into()).spawn(write)?;
        Ok(queue)
    }

    /// Prints a line, behind the others, or drops it if too much waits. A line end is added.
    pub fn print(&self, line: &str) {
        let mut state = self.lock();
        if state.waiting.len() + line.len() < MOST {
            state.waiting.extend_from_slice(line.as_bytes());
            state.waiting.push(b'\n');
            drop(state);
            self.changed.notify_all();
        } else {
            state.dropped += 1;
        }
    }

    /// Waits until all is written, but not for longer than that. For the end of a program.
    pub fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while state.writing || !state.waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{BufRead, BufReader};

    use super::*;

    #[test]
    fn while_nobody_reads_printing_goes_on_and_what_was_dropped_is_counted() {
        let (reader, writer) = io::pipe().unwrap();
        let (counted, count) = std::sync::mpsc::channel();
        let queue =
            PrintQueue::start(writer, move |dropped| counted.send(dropped).map_or("", |()| "note").into()).unwrap();
        let line = "x".repeat((1 << 20) - 1);
        queue.print(&line);
        // It is on its way, and longer than what a pipe holds.
        while !queue.lock().writing {
            thread::yield_now();
        }
        (0..20).for_each(|_| queue.print(&line));
        queue.flush(Duration::ZERO);
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        assert_eq!(lines.by_ref().take_while(|read| *read == line).count(), 1 + 8);
        assert_eq!(count.recv(), Ok(20 - 8));
        queue.print("the end");
        assert_eq!(lines.next().unwrap(), "the end");
        queue.flush(Duration::from_secs(60));
        assert!(!queue.lock().writing);
    }
}
