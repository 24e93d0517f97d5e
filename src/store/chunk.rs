//! The log in chunks: how what one transaction appends is cut.
//!
//! A *segment* is a part of the log: positions that follow one another, at most [`ROWS`] of them and about [`BYTES`] of text. No
//! two segments overlap. What is of one class in a segment stands in one *chunk*: tasks of one group and priority, outcomes of
//! one [block](block_of) of tasks. So one class is read without the others. To find one entry, or to read all in order, no more has
//! to be looked at than the chunks of one segment.

use std::hash::Hash;
use std::sync::Arc;

use foldhash::HashMap;

use crate::task::{Priority, Task, TaskId, TaskResult};

/// Most entries of a segment. What a database does for a row is done once for as many, at best. To read one entry, a line about each
/// of as many is decoded.
pub(super) const ROWS: usize = 512;
/// Bytes of text at which a segment ends.
pub(super) const BYTES: usize = 256 << 10;

/// An entry of the log.
pub(super) trait Entry {
    /// Those of one class stand in one chunk.
    type Class<'a>: Eq + Hash
    where
        Self: 'a;

    fn class(&self) -> Self::Class<'_>;

    /// Bytes of text, headers and data in it.
    fn bytes(&self) -> usize;
}

/// The group, if any, and the priority.
impl Entry for Arc<Task> {
    type Class<'a> = (Option<&'a str>, Priority);

    fn class(&self) -> (Option<&str>, Priority) {
        (self.spec.to.as_ref().map(|to| to.as_str()), self.spec.priority)
    }

    fn bytes(&self) -> usize {
        self.spec.bytes()
    }
}

/// The block of the task.
impl Entry for TaskResult {
    type Class<'a> = i64;

    fn class(&self) -> i64 {
        block_of(self.result.task)
    }

    fn bytes(&self) -> usize {
        self.result.bytes()
    }
}

/// The block of a task: 256 ids. What came of no task is in a block of its own, before the others.
pub(super) fn block_of(task: TaskId) -> i64 {
    if task == 0 { -1 } else { i64::try_from(task >> 8).unwrap_or(i64::MAX) }
}

/// Cuts the log into segments.
pub(super) fn segments<E: Entry>(mut entries: &[E]) -> impl Iterator<Item = &[E]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = entries.iter().take(ROWS).take_while(|entry| {
            let fits = bytes < BYTES;
            bytes += entry.bytes();
            fits
        });
        let segment = entries.split_off(..fits.count())?;
        (!segment.is_empty()).then_some(segment)
    })
}

/// Cuts a segment into chunks, in the order of their first entries.
pub(super) fn chunks<E: Entry>(segment: &[E]) -> Vec<Vec<&E>> {
    let mut chunks: Vec<Vec<&E>> = Vec::new();
    let mut of_class: HashMap<E::Class<'_>, usize> = HashMap::default();
    for entry in segment {
        // Most often all are of one class.
        let last = chunks.last_mut().filter(|chunk| chunk[0].class() == entry.class());
        match last {
            Some(chunk) => chunk.push(entry),
            None => match of_class.entry(entry.class()) {
                std::collections::hash_map::Entry::Occupied(at) => chunks[*at.get()].push(entry),
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(chunks.len());
                    chunks.push(vec![entry]);
                }
            },
        }
    }
    chunks
}
