//! What a replicated store needs of a log.

use std::sync::Arc;
use std::time::Duration;

use super::sight::Look;

/// The messages of a log, each with its place: after another one, the next number.
pub type Messages = Vec<(u64, Vec<u8>)>;

/// One log, which many read, and to which whoever knows its last message may append.
///
/// That is all that keeps two servers from leading at once: a message is appended behind one that is named, and only if that is the last.
/// Nothing here rests on a clock.
pub trait Log: Send {
    /// A message that is on its way.
    type Sent;

    /// A number by which this log is told apart from any other, not 0.
    fn id(&mut self) -> Result<u64, LogError>;

    /// Sends one message, to be appended if that at `after` is the last (0: if there never was one). It is there before those that are
    /// sent after it.
    fn begin(&mut self, after: u64, message: &[u8]) -> Self::Sent;

    /// Its place, which is that behind `after`, once as many have it as are to have it.
    ///
    /// An error says nothing of what became of the message. It may stand there already; it may yet come to stand there, for as long as
    /// nothing else does.
    fn landed(&mut self, sent: Self::Sent) -> Result<u64, LogError>;

    /// The message at this place. `None`: there is none as far as is known to whoever answered, who may know little. So `Some` can be
    /// relied on, and `None` cannot.
    fn at(&mut self, place: u64) -> Result<Option<Vec<u8>>, LogError>;

    /// Messages after `after`, in their order; waits up to `wait` for the first of them. The first has a higher place than the next
    /// where the log was cut. Not all of them need to come at once. Empty: none came in that time.
    fn read(&mut self, after: u64, wait: Duration) -> Result<Messages, LogError>;

    /// Cuts off the messages before `before`.
    fn purge(&mut self, before: u64) -> Result<(), LogError>;

    /// How to see who else has this log, and how it is kept; `None`: nobody can say.
    fn look(&self) -> Option<Look> {
        None
    }
}

/// Why a log did not do something. It may be tried again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct LogError(Arc<str>);

impl LogError {
    /// With what was said about it.
    pub fn new(why: impl ToString) -> LogError {
        LogError(why.to_string().into())
    }
}
