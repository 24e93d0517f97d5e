//! How much goes over the wire: counted where messages come and go, on any thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The messages that carry tasks, results and statuses: their call, and which way they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Tasks,
    Statuses,
    StatusAnswers,
    Results,
    Submitted,
    SubmittedByStream,
}

impl Flow {
    pub(super) const ALL: [Flow; 6] =
        [Flow::Tasks, Flow::Statuses, Flow::StatusAnswers, Flow::Results, Flow::Submitted, Flow::SubmittedByStream];

    /// The call as the proto has it, and `in` or `out` as the server sees it.
    pub(super) fn names(self) -> (&'static str, &'static str) {
        match self {
            Flow::Tasks => ("getTask", "out"),
            Flow::Statuses => ("sendStatus", "in"),
            Flow::StatusAnswers => ("sendStatus", "out"),
            Flow::Results => ("tellResult", "in"),
            Flow::Submitted => ("Submit", "in"),
            Flow::SubmittedByStream => ("SubmitStream", "in"),
        }
    }
}

/// Messages, and bytes of the texts in them, since the start of the server.
#[derive(Debug, Default)]
pub(super) struct Traffic([(AtomicU64, AtomicU64); Flow::ALL.len()]);

impl Traffic {
    /// Counts a number of messages at once.
    pub(super) fn count(&self, flow: Flow, messages: usize, bytes: usize) {
        let (counted, texts) = &self.0[flow as usize];
        counted.fetch_add(messages as u64, Relaxed);
        texts.fetch_add(bytes as u64, Relaxed);
    }

    /// Messages and bytes so far.
    pub(super) fn of(&self, flow: Flow) -> (u64, u64) {
        let (counted, texts) = &self.0[flow as usize];
        (counted.load(Relaxed), texts.load(Relaxed))
    }
}
