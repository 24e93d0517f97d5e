//! Who gets which task. One thread owns every group and session, so there are no locks.
//!
//! [`Core`] is a state machine without I/O: commands, commits and the time go in, actions come out. The rest is its shell:
//!
//! ```text
//!  gRPC, HTTP                                                                  streams of clients
//!      │ verbs                                                                         ▲ tasks
//!  ┌───▼────┐  commands   ┌───────────────────────┐  deliveries   ┌────────┐   ┌───────┴────────┐
//!  │ Handle ├────────────▶│     BrokerThread      ├──────────────▶│ Outbox ├──▶│ Inbox (a poll) │
//!  └────────┘   mailbox   │  ┌──────┐   actions   │               └────────┘   └────────────────┘
//!                         │  │ Core ├──────────▶  │  outcomes, checkpoints
//!  ┌────────┐   WakeUp    │  └──────┘             ├──────────────────────────────▶ store-writer
//!  │ commit ├────────────▶│  new tasks: from Tail │
//!  └────────┘             │                       │  pages and texts to read    ┌───────────────┐
//!                         │                       ├────────────────────────────▶│ broker-reader │
//!                         └───────────────────────┘◀────────────────────────────┴───────────────┘
//!                                                    tasks, through the mailbox
//! ```
//!
//! What can block what: streams and operators wait, as futures, for room in the broker's mailbox; the broker waits for room in
//! the store's mailbox. The store waits for neither: it wakes the broker, and the broker fetches from the
//! [tail](crate::store::Tail) what is new.

mod core;
mod handle;
mod holds;
mod outbox;
mod reader;
mod thread;
mod wakeup;
mod watches;

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::bounded;
use log::error;

#[cfg(feature = "cluster")]
pub(crate) use self::core::SEND_BUFFER;
pub use self::core::{
    Action, Cancelled, ClientInfo, Closed, Config, ContestedId, Core, Counted, Delivery, Disconnected, DrainError,
    Drained, Draining, GroupError, GroupInfo, Held, Holder, Holders, Join, JoinError, LONGEST_NOTE, LONGEST_SAID,
    MAX_MESSAGE, MISSING_AFTER, MOST_DRAINS, MOST_KNOWN, MOST_LATE, MOST_WATCHED, Meter, NotYourTurn, Note,
    OutcomeReport, Overview, Piece, Printed, Quota, Receipt, Reporter, Resume, RevokeReason, Revoked, Said, SessionId,
    Sessions, Standing, Tally, TaskState, Undelivered, WaitReason, Watched,
};
use self::handle::{Command, DisconnectedReporters};
pub use self::handle::{Handle, Joined, Reporting, TasksWithState};
pub use self::holds::{AllHolds, Holds};
#[cfg(feature = "cluster")]
pub(crate) use self::outbox::{Gauge, Outbox, outbox};
pub use self::outbox::{Inbox, Push};
pub use self::reader::count;
use self::thread::BrokerThread;
use self::watches::Watches;
pub use self::watches::{MOST_WATCHES, Watch};
use crate::mailbox;
use crate::now::Now;
use crate::store::{self, Recovered, StoreError};
pub use crate::task::StartAt;

/// Why the broker did not do something.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// It is stopping: come back when the server is up again.
    #[error("the server is stopping")]
    Stopped,
    /// What was to be written down could not be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another process has the id of this client.
    #[error(transparent)]
    NotYourTurn(#[from] NotYourTurn),
    /// The group is not there, or is being used.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The client cannot be drained.
    #[error(transparent)]
    Drain(#[from] DrainError),
}

impl From<JoinError> for BrokerError {
    fn from(error: JoinError) -> BrokerError {
        match error {
            JoinError::NotYourTurn(error) => error.into(),
            JoinError::Group(error) => error.into(),
        }
    }
}

/// Most commands that wait for the broker. When it is full, their senders wait, and so does the client of each call.
const MAILBOX: usize = 4096;
/// Bytes of results that wait for it, all clients together, beside one message: half a second of what two cores work off. Then clients
/// wait as well.
const MAILBOX_BYTES: usize = 32 << 20;

/// The broker's threads. Owns them until [`Broker::stop`].
pub struct Broker {
    handle: Handle,
    threads: Vec<JoinHandle<()>>,
}

impl Broker {
    /// Starts on what the store recovered.
    pub fn start(config: Config, store: store::Handle, recovered: Recovered) -> Result<Broker, StoreError> {
        let (mailbox, commands) = mailbox::bounded_in_bytes(MAILBOX, MAILBOX_BYTES);
        let (wake_up, wake_ups) = wakeup::wake_up();
        let disconnected = Arc::<DisconnectedReporters>::default();
        let watches = Watches::default();
        let handle = Handle {
            mailbox,
            store: store.clone(),
            disconnected: disconnected.clone(),
            watches: watches.clone(),
            wake_up: wake_up.clone(),
        };
        let ring = wake_up.clone();
        store.tail().subscribe(Box::new(move |_| ring.wake()));
        let (jobs, todo) = bounded(1);
        let reader = store.reader()?;
        let answers = handle.mailbox.clone();
        let answer = move |answer, bytes| answers.send_weighed(Command::Read(answer), bytes).is_ok();
        let core = Core::new(config, recovered, Now::read());
        let broker = BrokerThread::new(core, store, disconnected, watches, jobs, wake_up);
        let spawn =
            |name: &str, work: Box<dyn FnOnce() + Send>| std::thread::Builder::new().name(name.into()).spawn(work);
        let threads = [
            spawn("broker", Box::new(move || broker.run(&commands, &wake_ups))),
            spawn("broker-reader", Box::new(move || reader::run(reader, &todo, answer))),
        ];
        let threads = threads.into_iter().collect::<Result<_, _>>().map_err(StoreError::no_thread)?;
        Ok(Broker { handle, threads })
    }

    /// Talks to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends every stream with a clear status and opens no new one. Clients keep the tasks they hold: their reports are still
    /// taken, and will be after the restart.
    pub fn drain(&self) {
        let _ = self.handle.mailbox.send(Command::Drain);
    }

    /// Keeps the state of all groups, and joins the threads. Dropping it does the same.
    pub fn stop(self) {}
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.handle.mailbox.send(Command::Stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                error!("a thread of the broker panicked");
            }
        }
    }
}
