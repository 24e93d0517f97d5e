//! What is open between this client and the server: tasks held, results not sent yet, results sent and not confirmed.

use std::collections::{HashMap, VecDeque};

use crate::task::TaskId;
use crate::wire::contact as pb;

/// Results that may wait to be sent. When there are more, handlers wait with theirs.
const UNSENT: usize = 256;
/// Results, and bytes of them, that are sent before a confirmation is asked for. Bounds what is kept.
const UNCONFIRMED: usize = 10_000;
const UNCONFIRMED_BYTES: usize = 8 << 20;
/// Most results in one message, and about how many bytes of them.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// The results of one worker, by how far they are. Plain data: no gRPC, no threads, no clock.
///
/// - *held*: its task is with a handler, or waits for one;
/// - *unsent*: it waits for the tellResult stream;
/// - *unconfirmed*: it was sent on a stream that has not been answered.
///
/// When the stream is answered, its results are forgotten. When the connection is lost first, they go back to unsent: the server
/// may have them or not, and takes a repeated one as late. Results without an id are forgotten when they are sent: a server
/// that knows no ids could not distinguish a repeated one from a new one.
///
/// When the server refuses a stream, its results are sent again, each on a stream of its own. Only a result that is refused
/// alone is dropped.
#[derive(Default)]
pub(super) struct Ledger {
    /// The newest attempt of each task held. Tasks without an id can be neither renewed nor recognised: not here.
    held: HashMap<TaskId, u32>,
    unsent: VecDeque<pb::Result>,
    /// In the order of sending.
    unconfirmed: VecDeque<pb::Result>,
    unconfirmed_bytes: usize,
    /// Tasks to send a WORKING for.
    renewals: VecDeque<TaskId>,
    /// How many of the first unsent were on a refused stream: at least one of them is the reason.
    to_send_alone: usize,
    /// The last message had one of them, and no other result.
    sent_alone: bool,
}

impl Ledger {
    /// Adds a task that came. False: it is held already, and must not be handled twice. Its result will name the newest
    /// attempt.
    pub(super) fn accept(&mut self, id: TaskId, attempt: u32) -> bool {
        id == 0 || self.held.insert(id, attempt).is_none()
    }

    /// Removes a task that no handler has started.
    pub(super) fn release(&mut self, id: TaskId) {
        self.held.remove(&id);
    }

    /// Adds the result of a task.
    pub(super) fn finish(&mut self, mut result: pb::Result) {
        if let Some(attempt) = self.held.remove(&result.id) {
            result.attempt = attempt;
        }
        self.unsent.push_back(result);
    }

    /// Whether more results may come.
    pub(super) fn has_room(&self) -> bool {
        self.unsent.len() < UNSENT
    }

    /// Tasks held.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Results that are not known to have arrived.
    pub(super) fn unreported(&self) -> usize {
        self.unsent.len() + self.unconfirmed.len()
    }

    /// Renews the lease of every task held, with the next messages.
    pub(super) fn renew(&mut self) {
        self.renewals.clear();
        self.renewals.extend(self.held.keys());
    }

    /// Whether [`Ledger::next`] has something.
    pub(super) fn has_next(&self) -> bool {
        !self.unsent.is_empty() || !self.renewals.is_empty()
    }

    /// The next message for the tellResult stream.
    pub(super) fn next(&mut self, batch: bool) -> Option<pb::Result> {
        self.sent_alone = self.to_send_alone > 0;
        self.to_send_alone = self.to_send_alone.saturating_sub(1);
        let most = if batch && !self.sent_alone { BATCH } else { 1 };
        let (mut results, mut bytes) = (Vec::new(), 0);
        while results.len() < most && bytes < BATCH_BYTES {
            // Results first: after them, a WORKING for the same task is not sent any more.
            let Some(result) = self.unsent.pop_front().or_else(|| self.next_renewal()) else { break };
            bytes += result.ret.len();
            if result.id != 0 && result.outcome != pb::Outcome::WORKING.into() {
                self.unconfirmed_bytes += result.ret.len();
                self.unconfirmed.push_back(result.clone());
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

    /// Whether a confirmation is awaited.
    pub(super) fn has_unconfirmed(&self) -> bool {
        !self.unconfirmed.is_empty()
    }

    /// Whether the stream must be answered before more results are sent.
    pub(super) fn is_full(&self) -> bool {
        let alone = self.to_send_alone > 0 || self.sent_alone;
        self.unconfirmed.len() >= if alone { 1 } else { UNCONFIRMED } || self.unconfirmed_bytes >= UNCONFIRMED_BYTES
    }

    /// The stream was answered: its results are not sent again.
    pub(super) fn confirm(&mut self) {
        self.unconfirmed.clear();
        self.unconfirmed_bytes = 0;
    }

    /// The stream was refused. Returns the result that was alone on it, which is dropped.
    pub(super) fn refuse(&mut self) -> Option<pb::Result> {
        let count = self.unconfirmed.len();
        if count == 1 {
            self.unconfirmed_bytes = 0;
            return self.unconfirmed.pop_front();
        }
        self.take_back();
        self.to_send_alone += count;
        None
    }

    fn take_back(&mut self) {
        for result in self.unconfirmed.drain(..).rev() {
            self.unsent.push_front(result);
        }
        self.unconfirmed_bytes = 0;
    }

    /// The connection was lost: unconfirmed results will be sent again, before the others. Results without an id are dropped:
    /// the next connection has another order.
    pub(super) fn disconnected(&mut self) {
        self.renewals.clear();
        self.to_send_alone = 0;
        self.unsent.retain(|result| result.id != 0);
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
        ledger.disconnected();
        assert_eq!(ledger.unreported(), 3);
        assert_eq!(next_ids(&mut ledger, true), [2, 3, 4]);
        ledger.confirm();
        assert_eq!(ledger.unreported(), 0);
    }

    #[test]
    fn results_without_an_id_are_told_once() {
        let mut ledger = Ledger::default();
        ledger.finish(result(0));
        ledger.finish(result(0));
        assert_eq!(next_ids(&mut ledger, false), [0]);
        assert!(!ledger.has_unconfirmed());
        ledger.disconnected();
        assert!(!ledger.has_next());
    }

    #[test]
    fn a_task_that_comes_again_while_it_is_held_is_answered_with_the_newest_attempt() {
        let mut ledger = Ledger::default();
        assert!(ledger.accept(7, 1));
        assert!(!ledger.accept(7, 2));
        ledger.finish(pb::Result { attempt: 1, ..result(7) });
        assert_eq!(ledger.next(false).map(|message| message.attempt), Some(2));
        assert!(ledger.accept(7, 3), "it is no longer held");
    }

    #[test]
    fn no_working_is_sent_for_a_task_that_is_finished() {
        let mut ledger = Ledger::default();
        ledger.accept(1, 1);
        ledger.accept(2, 1);
        ledger.renew();
        ledger.finish(result(1));
        assert_eq!(next_ids(&mut ledger, true), [1, 2]);
        assert!(!ledger.has_next());
        assert_eq!(ledger.unreported(), 1, "a WORKING waits for no confirmation");
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
        assert_eq!(ledger.unreported(), 1);
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
