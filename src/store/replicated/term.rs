//! The right to write to the log, for as long as nobody else begins to.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use super::log::{Log, LogError};
use super::record::{Kind, batch_messages, messages};
use crate::now::{Now, Steady};
use crate::store::{Appended, Batch};

/// So long after it was sent, a message that landed shows that nobody else leads: others wait for longer before they try.
pub(super) const PROOF: Duration = Duration::from_millis(1_500);
/// How long a message is sent again and again before the store says that it takes nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// The same for a server that stops.
const HURRY: Duration = Duration::from_millis(500);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(30);

/// Until when it is known that nobody else leads. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Lease(Arc<AtomicU64>);

impl Lease {
    /// Whether that is known for now.
    pub fn is_valid(&self) -> bool {
        Now::read().steady < Steady(self.0.load(SeqCst))
    }

    fn until(&self, moment: Steady) {
        self.0.store(moment.0, SeqCst);
    }
}

/// Why a record was not appended.
#[derive(Debug, thiserror::Error)]
pub(super) enum TermError {
    /// Somebody else writes: the term is over, for good.
    #[error("another server leads: its record stands at {0}")]
    Over(u64),
    /// Nobody says what became of it.
    #[error("the log does not answer: {0}")]
    Unknown(LogError),
    /// It cannot be written as a record.
    #[error(transparent)]
    Unwritable(#[from] io::Error),
}

/// One server's time as the one that writes.
pub(super) struct Term {
    /// Chosen at random: the bytes of its messages are like no others.
    id: u64,
    /// Of its last message.
    number: u64,
    /// The last message of the log.
    last: u64,
    /// A message that may stand behind it, or may yet come to: nobody said.
    doubtful: Option<Doubtful>,
    lease: Lease,
    patience: Duration,
    over: bool,
}

/// A record that is on its way: its messages, each as the log has begun to send it.
pub(super) struct Begun<S> {
    since: Steady,
    /// Where its last message is to stand.
    place: u64,
    messages: Vec<(Vec<u8>, S)>,
}

impl<S> Begun<S> {
    pub(super) fn place(&self) -> u64 {
        self.place
    }
}

struct Doubtful {
    message: Vec<u8>,
    /// Says nothing. One of the two will stand there, and the other never.
    instead: Vec<u8>,
    /// The record is whole with it.
    completes: bool,
}

/// What stands behind the last message now.
enum Landed {
    This,
    TheDoubtful,
}

/// What became of a record about which nothing was known.
pub(super) enum Settled {
    /// There was none.
    NoDoubt,
    /// It stands at this place.
    Stands(u64),
    /// It does not and never will: a record that says nothing stands at this place.
    Instead(u64),
    /// The same, and a part of it stands there that means nothing.
    Void,
}

impl Term {
    /// A term that would begin behind the message at `last`. It does with the first record that is appended.
    pub(super) fn behind(last: u64, patience: Duration) -> Term {
        let (doubtful, lease) = (None, Lease::default());
        Term { id: rand::random(), number: 0, last, doubtful, lease, patience, over: false }
    }

    pub(super) fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// The last message of the log, as far as this term knows.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Appends a record; returns the place of its last message. After [`TermError::Unknown`], [`settle`](Term::settle) comes first.
    pub(super) fn append(&mut self, log: &mut impl Log, kind: &Kind) -> Result<u64, TermError> {
        let messages = messages(self.id, &mut self.number, kind)?;
        let begun = self.begin(log, messages)?;
        self.finish(log, begun)
    }

    /// Begins to append a batch: it is on its way, and to be [finished](Term::finish) before anything else is appended.
    pub(super) fn begin_batch<L: Log>(
        &mut self,
        log: &mut L,
        batch: &Batch,
        appended: &Appended,
    ) -> Result<Begun<L::Sent>, TermError> {
        let messages = batch_messages(self.id, &mut self.number, batch, appended)?;
        self.begin(log, messages)
    }

    fn begin<L: Log>(&self, log: &mut L, messages: Vec<Vec<u8>>) -> Result<Begun<L::Sent>, TermError> {
        self.check()?;
        let (since, place) = (Now::read().steady, self.last + messages.len() as u64);
        let begin = |(after, message): (u64, Vec<u8>)| {
            let sent = log.begin(after, &message);
            (message, sent)
        };
        Ok(Begun { since, place, messages: (self.last..).zip(messages).map(begin).collect() })
    }

    fn check(&self) -> Result<(), TermError> {
        if self.over { Err(TermError::Over(self.last + 1)) } else { Ok(()) }
    }

    /// Waits until what was begun stands in the log; returns the place of its last message.
    pub(super) fn finish<L: Log>(&mut self, log: &mut L, begun: Begun<L::Sent>) -> Result<u64, TermError> {
        debug_assert!(self.doubtful.is_none(), "that is settled first");
        let Begun { since, messages, .. } = begun;
        let all = messages.len();
        for (at, (message, sent)) in messages.into_iter().enumerate() {
            if let Err(error) = self.land(log, &message, since, sent) {
                if matches!(error, TermError::Unknown(_)) {
                    let instead = self::messages(self.id, &mut self.number, &Kind::Nothing)?.concat();
                    self.doubtful = Some(Doubtful { message, instead, completes: at + 1 == all });
                }
                return Err(error);
            }
        }
        Ok(self.last)
    }

    /// The next records are sent for a short time only: the server stops.
    pub(super) fn hurry(&mut self) {
        self.patience = self.patience.min(HURRY);
    }

    /// Finds out what became of the record that is in doubt.
    pub(super) fn settle(&mut self, log: &mut impl Log) -> Result<Settled, TermError> {
        let Some(Doubtful { instead, completes, .. }) = &self.doubtful else { return Ok(Settled::NoDoubt) };
        let (instead, completes) = (instead.clone(), *completes);
        self.check()?;
        let (since, sent) = (Now::read().steady, log.begin(self.last, &instead));
        let landed = self.land(log, &instead, since, sent)?;
        self.doubtful = None;
        Ok(match landed {
            Landed::This => Settled::Instead(self.last),
            Landed::TheDoubtful if completes => Settled::Stands(self.last),
            Landed::TheDoubtful => Settled::Void,
        })
    }

    /// Sends a message, which was sent once, until it is known what stands behind the last one. `first`: since when.
    fn land<L: Log>(
        &mut self,
        log: &mut L,
        message: &[u8],
        first: Steady,
        mut sent: L::Sent,
    ) -> Result<Landed, TermError> {
        let place = self.last + 1;
        let (began, mut since) = (Instant::now(), first);
        loop {
            let error = match log.landed(sent) {
                Ok(at) if at == place => return Ok(self.landed(Some(since), Landed::This)),
                Ok(at) => LogError::new(format!("it says that what was to be message {place} is message {at}")),
                Err(error) => error,
            };
            // What is there can be relied on; that nothing is there cannot.
            match log.at(place) {
                Ok(Some(there)) if there == message => return Ok(self.landed(Some(first), Landed::This)),
                Ok(Some(there)) if self.doubtful.as_ref().is_some_and(|doubtful| doubtful.message == there) => {
                    // It was sent before.
                    return Ok(self.landed(None, Landed::TheDoubtful));
                }
                Ok(Some(_)) => {
                    self.over = true;
                    self.lease.until(Steady(0));
                    return Err(TermError::Over(place));
                }
                Ok(None) | Err(_) if began.elapsed() >= self.patience => return Err(TermError::Unknown(error)),
                Ok(None) | Err(_) => thread::sleep(PAUSE.min(self.patience / 8)),
            }
            since = Now::read().steady;
            sent = log.begin(self.last, message);
        }
    }

    fn landed(&mut self, since: Option<Steady>, what: Landed) -> Landed {
        self.last += 1;
        if let Some(since) = since {
            self.lease.until(since.after(PROOF));
        }
        what
    }
}
