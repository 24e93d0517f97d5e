//! A log in memory, that does what a log of several machines may do to those who write to it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::log::{Log, LogError, Messages};

/// Most messages that one reading gives.
const AT_ONCE: usize = 64;

/// A log that ends with the process. Clones are the same log.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    faults: Faults,
}

#[derive(Debug, Default)]
struct Shared {
    id: Option<u64>,
    messages: BTreeMap<u64, Vec<u8>>,
    last: u64,
    /// What is yet to land: after how many calls, behind which message, and what.
    late: Vec<(u32, u64, Vec<u8>)>,
}

/// What happens to a call of [`Log::begin`] or [`Log::at`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// What is sent is lost; what is asked for is not known.
    Lost,
    /// What is sent lands, and nobody says so; what is asked for is not known.
    Unsaid,
    /// What is sent lands after so many more calls, if nothing else has by then, and nobody says so; what is asked for is not known.
    Late(u32),
}

/// What is to happen to the calls of one who writes, one after another. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<VecDeque<Fault>>>);

impl Faults {
    /// This, after all that was said before.
    pub fn push(&self, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
    }

    /// From now on nothing happens.
    pub fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn next(&self) -> Fault {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(Fault::None)
    }
}

impl Shared {
    fn land(&mut self, after: u64, message: &[u8]) -> Result<u64, LogError> {
        if after != self.last {
            return Err(LogError::new(format!("the last message is {}", self.last)));
        }
        self.last += 1;
        self.messages.insert(self.last, message.to_vec());
        Ok(self.last)
    }

    /// One more call.
    fn pass(&mut self) {
        let due: Vec<_> = self.late.extract_if(.., |(calls, ..)| *calls == 0).collect();
        self.late.iter_mut().for_each(|(calls, ..)| *calls -= 1);
        for (_, after, message) in due {
            let _ = self.land(after, &message);
        }
    }
}

impl MemoryLog {
    /// The same log for somebody to whom these faults happen.
    #[must_use]
    pub fn with(&self, faults: &Faults) -> MemoryLog {
        MemoryLog { shared: self.shared.clone(), faults: faults.clone() }
    }

    /// The first message that is there, and the last that was.
    pub fn ends(&self) -> (Option<u64>, u64) {
        let shared = self.lock();
        (shared.messages.keys().next().copied(), shared.last)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more call, by one to whom something may happen.
    fn call(&self) -> (MutexGuard<'_, Shared>, Fault) {
        let mut shared = self.lock();
        shared.pass();
        self.shared.1.notify_all();
        (shared, self.faults.next())
    }
}

impl Log for MemoryLog {
    type Sent = Result<u64, LogError>;

    fn id(&mut self) -> Result<u64, LogError> {
        Ok(*self.lock().id.get_or_insert_with(|| rand::random::<u64>() | 1))
    }

    fn begin(&mut self, after: u64, message: &[u8]) -> Self::Sent {
        let (mut shared, fault) = self.call();
        match fault {
            Fault::None => return shared.land(after, message),
            Fault::Lost => {}
            Fault::Unsaid => drop(shared.land(after, message)),
            Fault::Late(calls) => shared.late.push((calls, after, message.to_vec())),
        }
        Err(LogError::new("no acknowledgement came"))
    }

    fn landed(&mut self, sent: Self::Sent) -> Result<u64, LogError> {
        sent
    }

    fn at(&mut self, place: u64) -> Result<Option<Vec<u8>>, LogError> {
        let (shared, fault) = self.call();
        Ok(shared.messages.get(&place).filter(|_| fault == Fault::None).cloned())
    }

    fn read(&mut self, after: u64, wait: Duration) -> Result<Messages, LogError> {
        let nothing = |shared: &mut Shared| shared.last <= after;
        let wait_for_some = self.shared.1.wait_timeout_while(self.lock(), wait, nothing);
        let (shared, _) = wait_for_some.unwrap_or_else(PoisonError::into_inner);
        let behind = shared.messages.range(after + 1..).take(AT_ONCE);
        Ok(behind.map(|(place, message)| (*place, message.clone())).collect())
    }

    fn purge(&mut self, before: u64) -> Result<(), LogError> {
        let mut shared = self.lock();
        shared.messages = shared.messages.split_off(&before);
        Ok(())
    }
}
