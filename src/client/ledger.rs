//! What this client owes the server: tasks it holds, results it has not told, results that nobody confirmed.

use std::collections::{HashMap, VecDeque};

use crate::task::TaskId;
use crate::wire::contact as pb;

/// Results that may wait to be told. When there are more, handlers wait with theirs.
const UNTOLD: usize = 256;
/// Results, and bytes of them, that are told before a confirmation is asked for. Bounds what is kept.
const TOLD: usize = 10_000;
const TOLD_BYTES: usize = 8 << 20;
/// Most results in one message, and about how many bytes of them.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// The book of one worker. Plain data: no gRPC, no threads, no clock.
///
/// A result goes from *held* (its task is with a handler, or waits for one) to *untold*, to *told* (sent on a tellResult
/// stream that has not been answered), and is forgotten when that stream is. When the connection is lost first, what was
/// told goes back to untold: the server may have it or not, and takes a repeated one as late. Results without an id are
/// forgotten as soon as they are sent: a server that knows no ids could not tell a repeated one from a new one.
///
/// A stream that the server refuses does not take all its results along: they are told again one a stream, and only the
/// one that is refused by itself is dropped.
#[derive(Default)]
pub(super) struct Ledger {
    /// The newest attempt of each task held. Tasks without an id can be neither renewed nor recognised: not here.
    held: HashMap<TaskId, u32>,
    untold: VecDeque<pb::Result>,
    /// In the order of sending.
    told: VecDeque<pb::Result>,
    told_bytes: usize,
    /// Tasks to send a WORKING for.
    renewals: VecDeque<TaskId>,
    /// So many of the first untold were on a stream that was refused, because of one of them at least.
    suspects: usize,
    /// What was told last was a suspect.
    alone: bool,
}

impl Ledger {
    /// Notes a task that came. False: it is here already, and must not be handled twice; its result will then name
    /// the newest attempt.
    pub(super) fn admit(&mut self, id: TaskId, attempt: u32) -> bool {
        id == 0 || self.held.insert(id, attempt).is_none()
    }

    /// Lets go of a task that no handler has begun with.
    pub(super) fn release(&mut self, id: TaskId) {
        self.held.remove(&id);
    }

    /// Notes what came of a task.
    pub(super) fn finish(&mut self, mut result: pb::Result) {
        if let Some(attempt) = self.held.remove(&result.id) {
            result.attempt = attempt;
        }
        self.untold.push_back(result);
    }

    /// Whether more results may come.
    pub(super) fn has_room(&self) -> bool {
        self.untold.len() < UNTOLD
    }

    /// Tasks held.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Results that are not known to have arrived.
    pub(super) fn owed(&self) -> usize {
        self.untold.len() + self.told.len()
    }

    /// Renews the lease of every task held, with the next messages.
    pub(super) fn renew(&mut self) {
        self.renewals.clear();
        self.renewals.extend(self.held.keys());
    }

    /// Whether [`Ledger::next`] has something.
    pub(super) fn has_next(&self) -> bool {
        !self.untold.is_empty() || !self.renewals.is_empty()
    }

    /// The next message for the tellResult stream.
    pub(super) fn next(&mut self, batch: bool) -> Option<pb::Result> {
        self.alone = self.suspects > 0;
        self.suspects = self.suspects.saturating_sub(1);
        let most = if batch && !self.alone { BATCH } else { 1 };
        let (mut results, mut bytes) = (Vec::new(), 0);
        while results.len() < most && bytes < BATCH_BYTES {
            // Results first: after them, a WORKING for the same task is not sent any more.
            let Some(result) = self.untold.pop_front().or_else(|| self.next_renewal()) else { break };
            bytes += result.ret.len();
            if result.id != 0 && result.outcome != pb::Outcome::WORKING.into() {
                self.told_bytes += result.ret.len();
                self.told.push_back(result.clone());
            }
            results.push(result);
        }
        match results.len() {
            0 | 1 => results.pop(),
            _ => Some(pb::Result { batch: results, ..Default::default() }),
        }
    }

    fn next_renewal(&mut self) -> Option<pb::Result> {
        while let Some(id) = self.renewals.pop_front() {
            if let Some(&attempt) = self.held.get(&id) {
                return Some(pb::Result { id, attempt, outcome: pb::Outcome::WORKING.into(), ..Default::default() });
            }
        }
        None
    }

    /// Whether something was told that a confirmation is awaited for.
    pub(super) fn has_told(&self) -> bool {
        !self.told.is_empty()
    }

    /// Whether nothing more may be told before the stream was answered.
    pub(super) fn is_full(&self) -> bool {
        let suspect = self.suspects > 0 || self.alone;
        self.told.len() >= if suspect { 1 } else { TOLD } || self.told_bytes >= TOLD_BYTES
    }

    /// The stream was answered: what was told is not told again.
    pub(super) fn confirm(&mut self) {
        self.told.clear();
        self.told_bytes = 0;
    }

    /// The stream was refused. Returns the result that was alone on it, and is dropped.
    pub(super) fn refuse(&mut self) -> Option<pb::Result> {
        let count = self.told.len();
        if count == 1 {
            self.told_bytes = 0;
            return self.told.pop_front();
        }
        self.take_back();
        self.suspects += count;
        None
    }

    fn take_back(&mut self) {
        for result in self.told.drain(..).rev() {
            self.untold.push_front(result);
        }
        self.told_bytes = 0;
    }

    /// The connection was lost: what was told and not confirmed will be told again, before the others. Results without
    /// an id are dropped, for the next connection has a different order.
    pub(super) fn lost(&mut self) {
        self.renewals.clear();
        self.suspects = 0;
        self.untold.retain(|result| result.id != 0);
        self.take_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(id: TaskId) -> pb::Result {
        pb::Result { id, ret: format!("r{id}"), ..Default::default() }
    }

    fn next_ids(ledger: &mut Ledger, batch: bool) -> Vec<TaskId> {
        let Some(message) = ledger.next(batch) else { return Vec::new() };
        if message.batch.is_empty() { vec![message.id] } else { message.batch.iter().map(|r| r.id).collect() }
    }

    #[test]
    fn what_was_not_confirmed_is_told_again_first_and_what_was_is_not() {
        let mut ledger = Ledger::default();
        (1..=4).for_each(|id| ledger.finish(result(id)));
        assert_eq!(next_ids(&mut ledger, false), [1]);
        ledger.confirm();
        assert_eq!(next_ids(&mut ledger, false), [2]);
        assert_eq!(next_ids(&mut ledger, false), [3]);
        ledger.lost();
        assert_eq!(ledger.owed(), 3);
        assert_eq!(next_ids(&mut ledger, true), [2, 3, 4]);
        ledger.confirm();
        assert_eq!(ledger.owed(), 0);
    }

    #[test]
    fn results_without_an_id_are_told_once() {
        let mut ledger = Ledger::default();
        ledger.finish(result(0));
        ledger.finish(result(0));
        assert_eq!(next_ids(&mut ledger, false), [0]);
        assert!(!ledger.has_told());
        ledger.lost();
        assert!(!ledger.has_next());
    }

    #[test]
    fn a_task_that_comes_again_while_it_is_held_is_answered_with_the_newest_attempt() {
        let mut ledger = Ledger::default();
        assert!(ledger.admit(7, 1));
        assert!(!ledger.admit(7, 2));
        ledger.finish(pb::Result { attempt: 1, ..result(7) });
        assert_eq!(ledger.next(false).map(|message| message.attempt), Some(2));
        assert!(ledger.admit(7, 3), "it is no longer held");
    }

    #[test]
    fn no_working_is_sent_for_a_task_that_is_finished() {
        let mut ledger = Ledger::default();
        ledger.admit(1, 1);
        ledger.admit(2, 1);
        ledger.renew();
        ledger.finish(result(1));
        assert_eq!(next_ids(&mut ledger, true), [1, 2]);
        assert!(!ledger.has_next());
        assert_eq!(ledger.owed(), 1, "a WORKING waits for no confirmation");
    }

    #[test]
    fn a_refused_stream_costs_only_the_result_that_is_refused_by_itself() {
        let mut ledger = Ledger::default();
        (1..=3).for_each(|id| ledger.finish(result(id)));
        assert_eq!(next_ids(&mut ledger, true), [1, 2, 3]);
        assert_eq!(ledger.refuse(), None);
        ledger.finish(result(4));
        for id in 1..=3 {
            assert_eq!(next_ids(&mut ledger, true), [id]);
            assert!(ledger.is_full(), "each is alone on its stream");
            if id == 2 {
                assert_eq!(ledger.refuse().map(|result| result.id), Some(2));
            } else {
                ledger.confirm();
            }
            assert!(!ledger.is_full());
        }
        assert_eq!(next_ids(&mut ledger, true), [4]);
        assert!(!ledger.is_full());
        assert_eq!(ledger.owed(), 1);
    }

    #[test]
    fn batches_are_bounded_in_number_and_in_bytes() {
        let mut ledger = Ledger::default();
        (1..=300).for_each(|id| ledger.finish(result(id)));
        assert_eq!(next_ids(&mut ledger, true).len(), BATCH);
        assert_eq!(next_ids(&mut ledger, true).len(), 300 - BATCH);
        (1..=4).for_each(|id| ledger.finish(pb::Result { ret: "x".repeat(BATCH_BYTES / 2), ..result(id) }));
        assert_eq!(next_ids(&mut ledger, true).len(), 2);
    }
}
