//! Those who watch what tasks print: from the broker's thread, past the store, to operators.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::mpsc;

use super::core::Printed;
use crate::task::TaskId;

/// Most who watch at once, of all tasks together.
pub const MOST_WATCHES: usize = 32;
/// Pieces that wait for one who reads slowly. What comes then is left out, which the next one shows by its number. With
/// [`MOST_WATCHES`] and pieces of 64 KiB it is 64 MiB at most.
const QUEUED: usize = 32;

/// Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Watches(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// How many there are: with none, nothing else is looked at.
    count: AtomicUsize,
    by_task: Mutex<ByTask>,
}

#[derive(Default)]
struct ByTask {
    next: u64,
    all: HashMap<TaskId, Vec<(u64, mpsc::Sender<Printed>)>>,
}

/// One who watches. Dropped, it leaves nothing behind.
pub struct Watch {
    watches: Watches,
    task: TaskId,
    number: u64,
    /// What the task printed, as it comes.
    pub pieces: mpsc::Receiver<Printed>,
}

impl Watches {
    /// `None`: there are too many already.
    pub(super) fn watch(&self, task: TaskId) -> Option<Watch> {
        let mut by_task = self.by_task();
        if self.0.count.load(SeqCst) >= MOST_WATCHES {
            return None;
        }
        let (sender, pieces) = mpsc::channel(QUEUED);
        let number = by_task.next;
        by_task.next += 1;
        by_task.all.entry(task).or_default().push((number, sender));
        self.0.count.fetch_add(1, SeqCst);
        Some(Watch { watches: self.clone(), task, number, pieces })
    }

    pub(super) fn is_watched(&self, task: TaskId) -> bool {
        self.0.count.load(SeqCst) > 0 && self.by_task().all.contains_key(&task)
    }

    pub(super) fn show(&self, printed: &Printed) {
        if let Some(all) = self.by_task().all.get_mut(&printed.task) {
            // Full: it is left out.
            all.iter_mut().for_each(|(_, sender)| drop(sender.try_send(printed.clone())));
        }
    }

    fn by_task(&self) -> MutexGuard<'_, ByTask> {
        self.0.by_task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut by_task = self.watches.by_task();
        if let Some(all) = by_task.all.get_mut(&self.task) {
            all.retain(|(number, _)| *number != self.number);
            if all.is_empty() {
                by_task.all.remove(&self.task);
            }
        }
        self.watches.0.count.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::broker::Piece;
    use crate::task::NameOf;

    fn printed(task: TaskId, from: u64) -> Printed {
        let piece = Piece { from, bytes: vec![b'x'] };
        let group = crate::task::Name::new(NameOf::Group, "g").unwrap();
        Printed { task, group, client: "c".into(), attempt: 1, piece }
    }

    #[test]
    fn one_who_reads_nothing_is_kept_a_bounded_number_of_pieces_and_hears_of_no_other_task() {
        let watches = Watches::default();
        let mut watch = watches.watch(1).unwrap();
        (0..10_000).for_each(|from| watches.show(&printed(1, from)));
        watches.show(&printed(2, 0));
        let kept: Vec<u64> = std::iter::from_fn(|| watch.pieces.try_recv().ok()).map(|it| it.piece.from).collect();
        // A channel keeps one more for each sender.
        assert_eq!(kept, (0..=QUEUED as u64).collect::<Vec<_>>());
    }

    #[test]
    fn there_are_only_so_many_and_those_that_go_make_room() {
        let watches = Watches::default();
        let mut all: Vec<_> = (0..MOST_WATCHES).map(|_| watches.watch(1).unwrap()).collect();
        assert!(watches.watch(2).is_none());
        all.pop();
        assert!(watches.watch(2).is_some());
        assert!(watches.is_watched(1) && !watches.is_watched(2));
        drop(all);
        assert!(!watches.is_watched(1));
        assert!(watches.by_task().all.is_empty());
    }
}
