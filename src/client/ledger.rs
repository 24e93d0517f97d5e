//! What is open between this client and the server: tasks held, results not sent yet, results sent and not confirmed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::time::{Duration, Instant};

use protobuf::EnumOrUnknown;

use super::handler::{Outcome, TimeLimit};
use super::printed::{Piece, Printed};
use super::progress::Said;
use super::revocation::{Revocation, Revoked};
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
/// The longest text of a result that replaces one that was too long, in bytes.
const REASON: usize = 512;
/// How long after the end of its time a handler is given up: a command is ended and killed by then.
const OVER_TIME: Duration = Duration::from_secs(10);
/// What is said of tasks without settling them: it is not said again if it was lost.
const NOT_FINAL: [EnumOrUnknown<pb::Outcome>; 2] =
    [EnumOrUnknown::from_i32(pb::Outcome::WORKING as i32), EnumOrUnknown::from_i32(pb::Outcome::RELEASED as i32)];

/// The tasks and results of one worker, by how far they are. Plain data: no gRPC, no threads, no clock.
///
/// - *held*: its task is with a handler, or waits for one; *begun*, if the server may be told that work began;
/// - *unsent*: it waits for the tellResult stream;
/// - *unconfirmed*: it was sent on a stream that has not been answered.
///
/// When the stream is answered, its results are forgotten. When the connection is lost first, they go back to unsent: the server
/// may have them or not, and takes a repeated one as late. Results without an id are forgotten when they are sent: a server
/// that knows no ids could not distinguish a repeated one from a new one.
///
/// When the server refuses a stream, its results are sent again, each on a stream of its own. Only a result that is refused
/// alone is dropped.
///
/// A task that is held and not begun spends no attempt. So it is not renewed, which would be a word on it, but given back with
/// RELEASED when it has waited for long, when the connection is lost, and at a stop. A server that does not know RELEASED counts
/// what was delivered as begun: for it, what waits is renewed like the rest.
pub(super) struct Ledger {
    /// Whether the server is told before a task is begun. Else what was delivered counts as begun.
    announces: bool,
    /// Whether the server takes tasks back, once it has answered a RELEASED. Until then one is sent on a stream without results,
    /// so that a refusal costs none.
    takes_back: Option<bool>,
    /// The longest text of a result, in bytes, if the server has said so.
    pub(super) max_result: Option<usize>,
    /// Tasks without an id can be neither renewed nor recognised: not here.
    held: HashMap<TaskId, Held>,
    copies: CopyNumber,
    /// When a handler that has not ended is given up, if its task has a time limit.
    limits: BTreeMap<(Instant, TaskId), (CopyNumber, TimeLimit)>,
    /// Tasks to say that they are begun.
    begins: VecDeque<TaskId>,
    /// That was said, and is perhaps not yet on its way.
    announced: Vec<TaskId>,
    /// Tasks that go back: RELEASED, with the attempts that were not made.
    releases: VecDeque<pb::Result>,
    /// The open stream carries a RELEASED.
    released: bool,
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

/// Which time it is that this worker has a task: one that was given back may come again, while the old one is still around.
pub(super) type CopyNumber = u64;

struct Held {
    copy: CopyNumber,
    /// The newest that came, and its receipt.
    attempt: u32,
    receipt: Vec<u8>,
    begun: bool,
    /// It was not begun at the last renewal.
    waited: bool,
    /// Shared with its handler.
    revocation: Revocation,
    /// How far it is, as its handler said last.
    said: Said,
    /// Shared with its handler.
    printed: Printed,
    /// What was printed and goes out next, if somebody watches.
    piece: Option<Piece>,
}

/// A task that this worker did not have.
pub(super) struct Entry {
    pub(super) copy: CopyNumber,
    pub(super) revocation: Revocation,
    pub(super) printed: Printed,
}

impl Ledger {
    pub(super) fn new(announces: bool) -> Ledger {
        Ledger {
            announces,
            takes_back: None,
            max_result: None,
            held: HashMap::new(),
            copies: 0,
            limits: BTreeMap::new(),
            begins: VecDeque::new(),
            announced: Vec::new(),
            releases: VecDeque::new(),
            released: false,
            unsent: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            unconfirmed_bytes: 0,
            renewals: VecDeque::new(),
            to_send_alone: 0,
            sent_alone: false,
        }
    }

    /// Adds a task that came. None: it is held already, and must not be handled twice. Its result will name the newest
    /// attempt.
    pub(super) fn accept(&mut self, id: TaskId, attempt: u32, receipt: Vec<u8>) -> Option<Entry> {
        if let Some(held) = self.held.get_mut(&id) {
            (held.attempt, held.receipt) = (attempt, receipt);
            return None;
        }
        self.copies += 1;
        let (copy, revocation, printed) = (self.copies, Revocation::new(), Printed::default());
        if id != 0 {
            let held = Held {
                copy,
                attempt,
                receipt,
                begun: !self.announces,
                waited: false,
                revocation: revocation.clone(),
                said: Said::default(),
                printed: printed.clone(),
                piece: None,
            };
            self.held.insert(id, held);
        }
        Some(Entry { copy, revocation, printed })
    }

    /// Whether a task is still to be handled: it was not given back meanwhile.
    pub(super) fn holds(&self, id: TaskId, copy: CopyNumber) -> bool {
        id == 0 || self.held.get(&id).is_some_and(|held| held.copy == copy)
    }

    /// A handler wants to begin with a task.
    pub(super) fn begin(&mut self, id: TaskId, copy: CopyNumber) -> Begin {
        match self.held.get_mut(&id) {
            Some(held) if held.copy == copy => {
                let counts_already = self.takes_back == Some(false) || held.begun;
                held.begun = true;
                if counts_already {
                    return Begin::Now;
                }
                self.begins.push_back(id);
                Begin::WhenWritten
            }
            _ => Begin::Never,
        }
    }

    /// What was sent so far is on its way: the tasks that handlers may begin with.
    pub(super) fn written(&mut self) -> Vec<TaskId> {
        mem::take(&mut self.announced)
    }

    /// The tasks that are not said to be begun, and will not be: they can be given back.
    pub(super) fn cancel_begins(&mut self) -> Vec<TaskId> {
        self.begins.drain(..).collect()
    }

    /// Gives back a task that no handler has begun.
    pub(super) fn release(&mut self, id: TaskId, copy: CopyNumber) {
        if self.holds(id, copy)
            && let Some(held) = self.held.remove(&id)
            && self.takes_back != Some(false)
            && held.revocation.why().is_none()
        {
            let outcome = pb::Outcome::RELEASED.into();
            let Held { attempt, receipt, .. } = held;
            self.releases.push_back(pb::Result { id, attempt, outcome, receipt, ..Default::default() });
        }
    }

    /// The server took an attempt away. One that is begun is the handler's to end; its lease is not renewed any more. Returns
    /// whether it was another: that is not to be begun.
    pub(super) fn revoke(&mut self, id: TaskId, attempt: u32, why: Revoked) -> bool {
        let Some(held) = self.held.get(&id).filter(|held| held.attempt == attempt) else { return false };
        held.revocation.revoke(why);
        let announces = self.begins.iter().position(|begins| *begins == id);
        let is_begun = held.begun && announces.is_none();
        if !is_begun {
            self.held.remove(&id);
            announces.map(|at| self.begins.remove(at));
        }
        !is_begun
    }

    /// A handler says how far it is: the server is told, and again with each renewal, as it may be another then. What was printed since
    /// goes with it, if somebody watches.
    pub(super) fn progress(&mut self, id: TaskId, copy: CopyNumber, said: Said, now: Instant) {
        let Some(held) = self.held.get_mut(&id).filter(|held| held.copy == copy) else { return };
        held.said.and(said);
        held.will_show(held.printed.take(now));
        // What was not begun may not be spoken of, and what was revoked is nobody's business any more.
        if held.begun && held.revocation.why().is_none() && !self.renewals.contains(&id) {
            self.renewals.push_back(id);
        }
    }

    /// The server says that somebody watches what an attempt prints, for some time.
    pub(super) fn watch(&mut self, id: TaskId, attempt: u32, anew: bool, now: Instant) {
        let Some(held) = self.held.get(&id).filter(|held| held.attempt == attempt) else { return };
        held.printed.watch(anew, now);
        self.progress(id, held.copy, Said::default(), now);
    }

    /// A handler that begins a task should have ended by then.
    pub(super) fn limit(&mut self, id: TaskId, copy: CopyNumber, deadline: Instant, limit: TimeLimit) {
        if id != 0 {
            self.limits.insert((deadline + OVER_TIME, id), (copy, limit));
        }
    }

    /// When a handler is given up next, if it does not end.
    pub(super) fn next_limit(&self) -> Option<Instant> {
        self.limits.first_key_value().map(|((at, _), _)| *at)
    }

    /// Gives up the handlers that have not ended though their time was over long ago: the server is told, and they are. Returns which.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<TaskId> {
        let later = self.limits.split_off(&(now, TaskId::MAX));
        let over = mem::replace(&mut self.limits, later);
        let mut given_up = Vec::new();
        for ((_, id), (copy, limit)) in over {
            let is_at_work = |held: &&Held| held.copy == copy && held.revocation.why().is_none();
            let Some(held) = self.held.get(&id).filter(is_at_work) else { continue };
            held.revocation.revoke(Revoked::TimedOut);
            let lasts = humantime::format_duration(limit.lasts);
            let ret = format!("timed out after {lasts}, and its handler had not ended {} s later", OVER_TIME.as_secs());
            let outcome = if limit.then == Outcome::Failed { pb::Outcome::FAILED } else { pb::Outcome::RETRY };
            self.finish(pb::Result { id, ret, outcome: outcome.into(), ..Default::default() }, copy);
            given_up.push(id);
        }
        given_up
    }

    /// Adds the result of a task. It names the newest attempt, if the task is still that copy.
    pub(super) fn finish(&mut self, mut result: pb::Result, copy: CopyNumber) {
        if self.held.get(&result.id).is_some_and(|held| held.copy == copy)
            && let Some(mut held) = self.held.remove(&result.id)
        {
            let last = Piece { from: result.output_from, bytes: mem::take(&mut result.output) };
            held.will_show(Some(last).filter(|last| !last.bytes.is_empty()));
            let shown = held.piece.unwrap_or_default();
            (result.output_from, result.output) = (shown.from, shown.bytes);
            (result.attempt, result.receipt) = (held.attempt, held.receipt);
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

    /// The server takes tasks back, which was not tried.
    pub(super) fn takes_back(&mut self) {
        self.takes_back = Some(true);
    }

    /// Whether the server takes tasks back, as far as is known.
    pub(super) fn can_release(&self) -> bool {
        self.takes_back != Some(false)
    }

    /// Results that are not known to have arrived.
    pub(super) fn unreported(&self) -> usize {
        self.unsent.len() + self.unconfirmed.len()
    }

    /// Renews the lease of every task that is begun, with the next messages, and gives back what has waited since the last time.
    /// Returns whether there was any of that.
    pub(super) fn renew(&mut self) -> bool {
        self.renewals.clear();
        let mut late = Vec::new();
        for (id, held) in &mut self.held {
            if held.revocation.why().is_some() {
                // It is not this client's any more.
            } else if held.begun || self.takes_back == Some(false) {
                self.renewals.push_back(*id);
            } else if mem::replace(&mut held.waited, true) {
                late.push((*id, held.copy));
            }
        }
        late.iter().for_each(|(id, copy)| self.release(*id, *copy));
        !late.is_empty()
    }

    /// Whether [`Ledger::next`] has something.
    pub(super) fn has_next(&self) -> bool {
        !self.unsent.is_empty() || !self.begins.is_empty() || !self.releases.is_empty() || !self.renewals.is_empty()
    }

    /// The next message for the tellResult stream.
    pub(super) fn next(&mut self, batch: bool) -> Option<pb::Result> {
        self.sent_alone = self.to_send_alone > 0;
        self.to_send_alone = self.to_send_alone.saturating_sub(1);
        let most = if batch && !self.sent_alone { BATCH } else { 1 };
        let (mut results, mut bytes) = (Vec::new(), 0);
        while results.len() < most && bytes < BATCH_BYTES {
            let Some(result) = self.next_one() else { break };
            bytes += bytes_of(&result) + result.output.len();
            let is_final = !NOT_FINAL.contains(&result.outcome);
            if result.id != 0 && is_final {
                self.unconfirmed_bytes += bytes_of(&result);
                // Those who watch have seen it, or miss it.
                let output = Vec::new();
                self.unconfirmed.push_back(pb::Result { output, output_from: 0, ..result.clone() });
            }
            results.push(result);
        }
        match results.len() {
            0 | 1 => results.pop(),
            _ => Some(pb::Result { batch: results, ..Default::default() }),
        }
    }

    fn next_one(&mut self) -> Option<pb::Result> {
        if self.sent_alone {
            return self.next_result();
        }
        let unknown = self.takes_back.is_none();
        if unknown && self.released {
            return self.next_release();
        }
        while let Some(id) = self.begins.pop_front() {
            if let Some(word) = self.word_on(id) {
                self.announced.push(id);
                return Some(word);
            }
        }
        if unknown && self.unconfirmed.is_empty() && !self.releases.is_empty() {
            // A server that does not know RELEASED reads no further.
            return self.next_renewal().or_else(|| self.next_release());
        }
        // Results first: after them, a WORKING for the same task is not sent any more.
        let next = self.next_result().or_else(|| self.next_renewal());
        if unknown { next } else { next.or_else(|| self.next_release()) }
    }

    fn next_release(&mut self) -> Option<pb::Result> {
        let release = self.releases.pop_front()?;
        self.released = true;
        Some(release)
    }

    fn next_result(&mut self) -> Option<pb::Result> {
        let mut result = self.unsent.pop_front()?;
        if let Some(most) = self.max_result {
            shorten(&mut result, most);
        }
        Some(result)
    }

    fn next_renewal(&mut self) -> Option<pb::Result> {
        while let Some(id) = self.renewals.pop_front() {
            if let Some(result) = self.word_on(id) {
                return Some(result);
            }
        }
        None
    }

    /// WORKING, for a task that is held.
    fn word_on(&mut self, id: TaskId) -> Option<pb::Result> {
        let Held { attempt, receipt, said, piece, .. } = self.held.get_mut(&id)?;
        let (attempt, receipt, ret, progress) = (*attempt, receipt.clone(), said.text.clone(), said.part);
        let Piece { from: output_from, bytes: output } = piece.take().unwrap_or_default();
        let outcome = pb::Outcome::WORKING.into();
        Some(pb::Result { id, attempt, outcome, ret, progress, receipt, output, output_from, ..Default::default() })
    }

    /// Whether a confirmation is awaited.
    pub(super) fn has_unconfirmed(&self) -> bool {
        !self.unconfirmed.is_empty()
    }

    /// Whether the stream must be answered before more results are sent.
    pub(super) fn is_full(&self) -> bool {
        let alone = self.to_send_alone > 0 || self.sent_alone;
        let asks =
            self.takes_back.is_none() && (self.released || !self.releases.is_empty() && !self.unconfirmed.is_empty());
        asks || self.unconfirmed.len() >= if alone { 1 } else { UNCONFIRMED }
            || self.unconfirmed_bytes >= UNCONFIRMED_BYTES
    }

    /// The stream was answered: its results are not sent again.
    pub(super) fn confirm(&mut self) {
        if mem::take(&mut self.released) {
            self.takes_back = Some(true);
        }
        self.unconfirmed.clear();
        self.unconfirmed_bytes = 0;
    }

    /// The stream was refused; `too_long`: for the length of a text. Returns the result that was alone on it. That is dropped, or,
    /// if it is too long, told with `why` as its text, and a DONE as FAILED: else the task would be tried again for nothing.
    pub(super) fn refuse(&mut self, too_long: bool, why: &str) -> Option<pb::Result> {
        self.announced.drain(..).rev().for_each(|id| self.begins.push_front(id));
        if mem::take(&mut self.released) && self.takes_back.is_none() {
            self.takes_back = Some(false);
            self.releases.clear();
            // What waits was not renewed so far.
            self.renew();
            return None;
        }
        let count = self.unconfirmed.len();
        if count == 1 {
            self.unconfirmed_bytes = 0;
            let refused = self.unconfirmed.pop_front()?;
            // What is that short was not refused for its length, whatever the server says.
            if too_long && bytes_of(&refused) > REASON {
                let said = refused.outcome.enum_value_or_default();
                let outcome = if said == pb::Outcome::DONE { pb::Outcome::FAILED } else { said };
                let bytes = refused.ret.len() + refused.data.len();
                let ret = cut(&format!("the result ({said:?}, {bytes} bytes) was refused: {why}"), REASON);
                let again = pb::Result { ret, outcome: outcome.into(), ..refused.clone() };
                self.unsent.push_front(pb::Result { headers: HashMap::new(), data: Vec::new(), ..again });
            }
            return Some(refused);
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
    /// the next connection has another order. What is not begun goes back.
    pub(super) fn disconnected(&mut self) {
        self.renewals.clear();
        for held in self.held.values_mut() {
            held.printed.unwatch();
            held.piece = None;
        }
        // Also over the next connection: one of them would be refused again with all others.
        self.to_send_alone += if mem::take(&mut self.sent_alone) { self.unconfirmed.len() } else { 0 };
        self.released = false;
        self.unsent.retain(|result| result.id != 0);
        self.take_back();
        self.to_send_alone = self.to_send_alone.min(self.unsent.len());
        for id in self.begins.drain(..).chain(self.announced.drain(..)) {
            if let Some(held) = self.held.get_mut(&id) {
                held.begun = false;
            }
        }
        let idle: Vec<_> =
            self.held.iter().filter(|(_, held)| !held.begun).map(|(id, held)| (*id, held.copy)).collect();
        idle.iter().for_each(|(id, copy)| self.release(*id, *copy));
        // The next server may be another.
        self.takes_back = None;
    }
}

impl Held {
    fn will_show(&mut self, newer: Option<Piece>) {
        match (&mut self.piece, newer) {
            (Some(piece), Some(newer)) => piece.and(newer),
            (piece @ None, newer) => *piece = newer,
            (Some(_), None) => {}
        }
    }
}

/// What a result takes while it waits, in bytes.
fn bytes_of(result: &pb::Result) -> usize {
    let headers = result.headers.iter().map(|(key, value)| key.len() + value.len());
    result.ret.len() + result.data.len() + headers.sum::<usize>()
}

/// Makes text and data no longer than the server takes, together: data that finds no room beside the text is left out, and the text says
/// so; a text that is longer by itself is cut. What came of the task is told in any case.
fn shorten(result: &mut pb::Result, most: usize) {
    let (id, text, data) = (result.id, result.ret.len(), result.data.len());
    if text + data <= most {
        return;
    }
    if data > 0 {
        log::warn!(
            "the data of the result of task {id} is left out: {text} bytes of text and {data} of data, and {most} are taken"
        );
        result.data = Vec::new();
        result.ret += &format!("\n[left out: {data} bytes of data]\n");
    }
    if result.ret.len() > most {
        log::warn!("the result of task {id} is cut from {} to {most} bytes", result.ret.len());
        result.ret = cut(&result.ret, most);
    }
}

/// At most that many bytes of a text: its beginning and its end, with a note between them if there is room for that.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let note = format!("\n[cut: {} bytes in all]\n", text.len());
    let kept = most.saturating_sub(note.len());
    let head = (0..=kept.div_ceil(2)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let tail = (text.len() - kept / 2..).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    if kept == 0 { String::new() } else { [&text[..head], &note, &text[tail..]].concat() }
}

/// When a handler may begin with a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// At once.
    Now,
    /// When [`Ledger::written`] names it.
    WhenWritten,
    /// It was given back.
    Never,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Of the copy that is held, if one is.
    fn finish(ledger: &mut Ledger, result: pb::Result) {
        let copy = ledger.held.get(&result.id).map_or(0, |held| held.copy);
        ledger.finish(result, copy);
    }

    fn result(id: TaskId) -> pb::Result {
        pb::Result { id, ret: format!("r{id}"), ..Default::default() }
    }

    fn next_ids(ledger: &mut Ledger, batch: bool) -> Vec<TaskId> {
        let Some(message) = ledger.next(batch) else { return Vec::new() };
        if message.batch.is_empty() { vec![message.id] } else { message.batch.iter().map(|r| r.id).collect() }
    }

    #[test]
    fn what_was_not_confirmed_is_told_again_first_and_what_was_is_not() {
        let mut ledger = Ledger::new(false);
        (1..=4).for_each(|id| finish(&mut ledger, result(id)));
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
        let mut ledger = Ledger::new(false);
        finish(&mut ledger, result(0));
        finish(&mut ledger, result(0));
        assert_eq!(next_ids(&mut ledger, false), [0]);
        assert!(!ledger.has_unconfirmed());
        ledger.disconnected();
        assert!(!ledger.has_next());
    }

    #[test]
    fn a_task_that_comes_again_while_it_is_held_is_answered_with_the_newest_attempt() {
        let mut ledger = Ledger::new(false);
        assert!(ledger.accept(7, 1, vec![]).is_some());
        assert!(ledger.accept(7, 2, vec![]).is_none());
        finish(&mut ledger, pb::Result { attempt: 1, ..result(7) });
        assert_eq!(ledger.next(false).map(|message| message.attempt), Some(2));
        assert!(ledger.accept(7, 3, vec![]).is_some(), "it is no longer held");
    }

    #[test]
    fn no_working_is_sent_for_a_task_that_is_finished() {
        let mut ledger = Ledger::new(false);
        ledger.accept(1, 1, vec![]);
        ledger.accept(2, 1, vec![]);
        ledger.renew();
        finish(&mut ledger, result(1));
        assert_eq!(next_ids(&mut ledger, true), [1, 2]);
        assert!(!ledger.has_next());
        assert_eq!(ledger.unreported(), 1, "a WORKING waits for no confirmation");
    }

    #[test]
    fn a_refused_stream_costs_only_the_result_that_is_refused_by_itself() {
        let mut ledger = Ledger::new(false);
        (1..=3).for_each(|id| finish(&mut ledger, result(id)));
        assert_eq!(next_ids(&mut ledger, true), [1, 2, 3]);
        assert_eq!(ledger.refuse(false, ""), None);
        finish(&mut ledger, result(4));
        for id in 1..=3 {
            assert_eq!(next_ids(&mut ledger, true), [id]);
            assert!(ledger.is_full(), "each is alone on its stream");
            if id == 2 {
                assert_eq!(ledger.refuse(false, "").map(|result| result.id), Some(2));
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
        let mut ledger = Ledger::new(false);
        (1..=300).for_each(|id| finish(&mut ledger, result(id)));
        assert_eq!(next_ids(&mut ledger, true).len(), BATCH);
        assert_eq!(next_ids(&mut ledger, true).len(), 300 - BATCH);
        (1..=4).for_each(|id| finish(&mut ledger, pb::Result { ret: "x".repeat(BATCH_BYTES / 2), ..result(id) }));
        assert_eq!(next_ids(&mut ledger, true).len(), 2);
    }

    fn announcing(ids: std::ops::RangeInclusive<TaskId>) -> Ledger {
        let mut ledger = Ledger::new(true);
        ids.for_each(|id| assert_eq!(ledger.accept(id, 1, vec![]).map(|it| it.copy), Some(id)));
        ledger
    }

    /// The messages that are left: ids and outcomes.
    fn said(ledger: &mut Ledger) -> Vec<(TaskId, pb::Outcome)> {
        std::iter::from_fn(|| ledger.next(false)).map(|it| (it.id, it.outcome.enum_value_or_default())).collect()
    }

    #[test]
    fn a_handler_begins_when_the_word_is_written_and_only_what_is_begun_is_renewed() {
        let mut ledger = announcing(1..=2);
        assert_eq!(ledger.begin(1, 1), Begin::WhenWritten);
        assert!(ledger.written().is_empty(), "it was not sent yet");
        assert_eq!(said(&mut ledger), [(1, pb::Outcome::WORKING)]);
        assert_eq!(ledger.written(), [1]);
        assert!(!ledger.renew());
        assert_eq!(said(&mut ledger), [(1, pb::Outcome::WORKING)]);
    }

    #[test]
    fn what_waits_from_one_renewal_to_the_next_goes_back_and_an_old_copy_of_it_is_not_begun() {
        let mut ledger = announcing(1..=1);
        assert!(!ledger.renew());
        assert!(ledger.renew());
        assert_eq!(said(&mut ledger), [(1, pb::Outcome::RELEASED)]);
        assert!(!ledger.holds(1, 1));
        let again = ledger.accept(1, 2, vec![]).map(|it| it.copy).expect("it is not held");
        assert_eq!(ledger.begin(1, 1), Begin::Never);
        ledger.release(1, 1);
        assert!(ledger.holds(1, again), "the old copy is not the new one");
        assert_eq!(ledger.begin(1, again), Begin::WhenWritten);
    }

    #[test]
    fn when_the_connection_is_lost_what_is_not_surely_begun_goes_back() {
        let mut ledger = announcing(1..=4);
        ledger.begin(1, 1);
        said(&mut ledger);
        ledger.written();
        ledger.begin(2, 2);
        said(&mut ledger);
        ledger.begin(3, 3);
        ledger.disconnected();
        ledger.renew();
        let mut said = said(&mut ledger);
        said.sort_by_key(|(id, _)| *id);
        let released = |id| (id, pb::Outcome::RELEASED);
        assert_eq!(said, [(1, pb::Outcome::WORKING), released(2), released(3), released(4)]);
    }

    #[test]
    fn what_is_revoked_is_not_begun_or_its_handler_hears_of_it_and_a_newer_attempt_stands() {
        let mut ledger = Ledger::new(true);
        let revocations: Vec<_> = (1..=3).filter_map(|id| Some(ledger.accept(id, 1, vec![])?.revocation)).collect();
        ledger.begin(1, 1);
        said(&mut ledger);
        ledger.begin(2, 2);
        assert!(!ledger.revoke(1, 1, Revoked::Cancelled), "it is begun");
        assert!(ledger.revoke(2, 1, Revoked::Expired), "nobody was told that it is");
        assert!(!ledger.revoke(3, 7, Revoked::GivenToAnother), "it has another attempt");
        let why: Vec<_> = revocations.iter().map(Revocation::why).collect();
        assert_eq!(why, [Some(Revoked::Cancelled), Some(Revoked::Expired), None]);
        assert_eq!([ledger.holds(1, 1), ledger.holds(2, 2), ledger.holds(3, 3)], [true, false, true]);
        ledger.renew();
        assert_eq!(said(&mut ledger), []);
    }

    #[test]
    fn what_goes_back_waits_for_the_answer_to_results_until_a_server_has_answered_one() {
        let mut ledger = announcing(1..=4);
        finish(&mut ledger, result(1));
        assert_eq!(said(&mut ledger), [(1, pb::Outcome::DONE)]);
        assert!(!ledger.is_full());
        ledger.release(2, 2);
        assert!(ledger.is_full());
        ledger.confirm();
        finish(&mut ledger, result(3));
        assert_eq!(said(&mut ledger), [(2, pb::Outcome::RELEASED)]);
        ledger.confirm();
        ledger.release(4, 4);
        assert_eq!(said(&mut ledger), [(3, pb::Outcome::DONE), (4, pb::Outcome::RELEASED)]);
        assert!(!ledger.is_full());
    }

    #[test]
    fn a_server_that_does_not_take_tasks_back_costs_no_result_and_counts_what_waits_as_begun() {
        let mut ledger = announcing(1..=3);
        finish(&mut ledger, result(1));
        ledger.release(2, 2);
        assert_eq!(said(&mut ledger), [(2, pb::Outcome::RELEASED)], "no result is on its stream");
        assert!(ledger.is_full());
        assert_eq!(ledger.refuse(false, ""), None);
        assert!(!ledger.is_full());
        assert_eq!(said(&mut ledger), [(1, pb::Outcome::DONE), (3, pb::Outcome::WORKING)]);
        ledger.confirm();
        assert!(!ledger.renew() && !ledger.renew());
        assert_eq!(said(&mut ledger), [(3, pb::Outcome::WORKING)]);
        assert_eq!(ledger.begin(3, 3), Begin::Now);
    }

    #[test]
    fn a_result_longer_than_the_server_takes_is_cut_between_characters_in_the_middle() {
        let mut ledger = Ledger { max_result: Some(40), ..Ledger::new(false) };
        let long = format!("begins{}任务 ends", "任".repeat(1000));
        for (text, sent) in
            [("任".repeat(13), "任".repeat(13)), (long, "begins\n[cut: 3017 bytes in all]\n ends".into())]
        {
            finish(&mut ledger, pb::Result { ret: text, ..result(1) });
            let ret = ledger.next(true).map(|message| message.ret).unwrap_or_default();
            assert!(ret.len() <= 40);
            assert_eq!(ret, sent);
        }
        assert_eq!(cut("0123456789", 3), "");
    }

    #[test]
    fn data_that_finds_no_room_beside_the_text_is_left_out_and_the_text_says_so() {
        let mut ledger = Ledger { max_result: Some(40), ..Ledger::new(false) };
        let headers = HashMap::from([("content-type".to_owned(), "image/png".to_owned())]);
        let note = "\n[left out: 36 bytes of data]\n";
        for (text, data, sent, sent_data) in [
            ("text", 36, "text".to_owned(), 36),
            ("text!", 36, format!("text!{note}"), 0),
            ("", 41, "\n[left out: 41 bytes of data]\n".to_owned(), 0),
        ] {
            let result = pb::Result { ret: text.into(), data: vec![7; data], headers: headers.clone(), ..result(1) };
            finish(&mut ledger, result);
            let told = ledger.next(true).unwrap();
            assert_eq!((told.ret, told.data.len(), &told.headers), (sent, sent_data, &headers));
        }
        finish(&mut ledger, pb::Result { ret: "x".repeat(40), data: vec![7], ..result(1) });
        let told = ledger.next(true).unwrap();
        assert!(told.ret.len() <= 40 && told.ret.starts_with('x') && told.data.is_empty(), "{told:?}");
    }

    #[test]
    fn a_result_whose_data_is_refused_as_too_long_is_told_without_it() {
        let mut ledger = Ledger::new(false);
        let headers = HashMap::from([("k".to_owned(), "v".to_owned())]);
        finish(&mut ledger, pb::Result { data: vec![7; 1000], headers, ..result(1) });
        ledger.next(true);
        assert!(ledger.refuse(true, "the limit is 600").is_some());
        let again = ledger.next(true).expect("it is told");
        assert_eq!(again.ret, "the result (DONE, 1002 bytes) was refused: the limit is 600");
        assert_eq!((again.outcome.unwrap(), again.data.len(), again.headers.len()), (pb::Outcome::FAILED, 0, 0));
    }

    #[test]
    fn a_result_that_is_refused_as_too_long_is_told_as_failed_with_the_reason() {
        let mut ledger = Ledger::new(false);
        for (outcome, told) in [(pb::Outcome::DONE, pb::Outcome::FAILED), (pb::Outcome::RETRY, pb::Outcome::RETRY)] {
            finish(&mut ledger, pb::Result { ret: "x".repeat(1000), outcome: outcome.into(), attempt: 3, ..result(1) });
            ledger.next(true);
            assert!(ledger.refuse(true, "the limit is 600").is_some());
            let again = ledger.next(true).expect("it is told");
            assert_eq!((again.attempt, again.outcome), (3, told.into()));
            assert_eq!(again.ret, format!("the result ({outcome:?}, 1000 bytes) was refused: the limit is 600"));
            assert!(ledger.refuse(true, "the limit is 1").is_some());
            assert!(!ledger.has_next(), "that was all that could be done");
        }
    }

    #[test]
    fn a_handler_that_has_not_ended_long_after_its_time_is_given_up_and_what_it_says_later_is_of_its_own_attempt() {
        let mut ledger = Ledger::new(false);
        let begun = Instant::now();
        let limit = |then| TimeLimit { lasts: Duration::from_secs(1), then };
        let mut begin = |id, then| {
            let Entry { copy, revocation, .. } = ledger.accept(id, 1, vec![]).unwrap();
            ledger.limit(id, copy, begun + Duration::from_secs(1), limit(then));
            (copy, revocation)
        };
        let (first, told) = begin(1, Outcome::Failed);
        begin(2, Outcome::Retry);
        begin(3, Outcome::Failed);
        finish(&mut ledger, result(3));
        assert_eq!(ledger.next_limit(), Some(begun + Duration::from_secs(11)));
        assert!(ledger.give_up(begun + Duration::from_secs(10)).is_empty());
        assert_eq!(ledger.give_up(begun + Duration::from_secs(11)), [1, 2], "the third has ended");
        assert_eq!((told.why(), ledger.held(), ledger.next_limit()), (Some(Revoked::TimedOut), 0, None));
        let said: Vec<_> = std::iter::from_fn(|| ledger.next(false)).collect();
        let outcomes: Vec<_> = said.iter().map(|it| (it.id, it.outcome.unwrap())).collect();
        assert_eq!(outcomes, [(3, pb::Outcome::DONE), (1, pb::Outcome::FAILED), (2, pb::Outcome::RETRY)]);
        assert_eq!(said[1].ret, "timed out after 1s, and its handler had not ended 10 s later");
        // It comes again, while the handler of before is still there.
        ledger.accept(1, 2, vec![]).unwrap();
        ledger.finish(pb::Result { attempt: 1, ..result(1) }, first);
        assert_eq!((ledger.next(false).unwrap().attempt, ledger.held()), (1, 1));
    }
}
