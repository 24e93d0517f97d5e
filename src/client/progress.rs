//! What handlers say while they are at work, on its way to the server: how far they are, and what they print.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Instant;

use super::ledger::CopyNumber;
use super::printed::Printed;
use crate::task::TaskId;

/// How far a task is, as its handler said last.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Said {
    /// From 0 to 1.
    pub(super) part: Option<f32>,
    pub(super) text: String,
}

impl Said {
    /// What this says nothing of stays as it was said before.
    pub(super) fn and(&mut self, newer: Said) {
        self.part = newer.part.or(self.part);
        if !newer.text.is_empty() {
            self.text = newer.text;
        }
    }
}

/// What handlers said that the pipe has not taken yet: of each task the newest, so that one that says very much costs no more.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    said: Arc<Mutex<BTreeMap<(TaskId, CopyNumber), Said>>>,
    /// Of the pipe.
    waker: Waker,
    /// Of the one task that this is for.
    printed: Printed,
}

impl Progress {
    pub(super) fn new(waker: Waker) -> Progress {
        Progress { said: Arc::default(), waker, printed: Printed::default() }
    }

    /// For a task that printed this.
    pub(super) fn of(&self, printed: Printed) -> Progress {
        Progress { printed, ..self.clone() }
    }

    /// What its task prints is kept, and goes out if somebody watches.
    pub(super) fn print(&self, task: TaskId, copy: CopyNumber, bytes: &[u8]) {
        if self.printed.push(bytes, Instant::now()) {
            self.say(task, copy, Said::default());
        }
    }

    /// What its task printed.
    pub(super) fn printed(&self) -> &Printed {
        &self.printed
    }

    pub(super) fn say(&self, task: TaskId, copy: CopyNumber, said: Said) {
        let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let first = all.is_empty();
        all.entry((task, copy)).or_default().and(said);
        drop(all);
        if first {
            self.waker.wake_by_ref();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What was said since this was asked last.
    pub(super) fn take(&self) -> BTreeMap<(TaskId, CopyNumber), Said> {
        std::mem::take(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// It is no part of what a task is.
impl PartialEq for Progress {
    fn eq(&self, _: &Progress) -> bool {
        true
    }
}

impl Eq for Progress {}
