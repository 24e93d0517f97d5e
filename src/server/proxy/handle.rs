//! Talks to the thread of a proxy.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;

use super::frame::Teller;
use super::{Command, Leader, NOBODY};
use crate::broker::{Join, Joined, OutcomeReport, Quota, Reporter, SessionId};
use crate::mailbox;
use crate::server::refusal::Refusal;
use crate::store::StoreError;
use crate::task::NewStatus;

/// Talks to the thread. Cheap to clone.
#[derive(Clone)]
pub(in crate::server) struct Proxy {
    pub(super) mailbox: mailbox::Sender<Command>,
    numbers: Arc<AtomicU64>,
    gone: Arc<Gone>,
    clients: Arc<AtomicUsize>,
}

/// Tellers that are gone. Beside the mailbox, because what is dropped cannot wait for room there. At most as many as calls were open.
#[derive(Default)]
struct Gone(Mutex<Vec<Teller>>);

impl Gone {
    fn lock(&self) -> MutexGuard<'_, Vec<Teller>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call of a client that tells results. The broker knows of it until this is dropped.
pub(in crate::server) struct Telling {
    proxy: Proxy,
    teller: Teller,
}

impl Telling {
    pub(in crate::server) async fn report(&self, reports: Vec<OutcomeReport>) -> Result<(), Refusal> {
        let bytes = reports.iter().map(OutcomeReport::weight).sum();
        let (reply, taken) = oneshot::channel();
        let command = Command::Told(self.teller, reports, reply);
        self.proxy.mailbox.send_weighed_async(command, bytes).await.map_err(|_| over())?;
        taken.await.map_err(|_| over())
    }

    pub(in crate::server) async fn flushed(&self) -> Result<(), Refusal> {
        self.proxy.ask(Command::Flush).await
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.proxy.gone.lock().push(self.teller);
    }
}

fn over() -> Refusal {
    Refusal::Store(StoreError::Closed)
}

impl Proxy {
    pub(super) fn of(mailbox: mailbox::Sender<Command>) -> Proxy {
        Proxy { mailbox, numbers: Arc::new(AtomicU64::new(1)), gone: Arc::default(), clients: Arc::default() }
    }

    /// The tellers that are gone since this was last asked.
    pub(super) fn take_gone(&self) -> Vec<Teller> {
        std::mem::take(&mut *self.gone.lock())
    }

    pub(super) fn set_clients(&self, clients: usize) {
        self.clients.store(clients, SeqCst);
    }

    pub(in crate::server) async fn join(&self, join: Join) -> Result<Joined, Refusal> {
        self.ask(|reply| Command::Join(Box::new(join), reply)).await
    }

    pub(in crate::server) async fn leave(&self, session: SessionId, why: &str) {
        let _ = self.mailbox.send_async(Command::Leave(session, why.to_owned())).await;
    }

    pub(in crate::server) async fn stream_took(&self, session: SessionId, taken: u64) {
        let _ = self.mailbox.send_async(Command::Took(session, taken)).await;
    }

    pub(in crate::server) async fn reporting(&self, reporter: Reporter) -> Result<Telling, Refusal> {
        let teller = self.numbers.fetch_add(1, SeqCst);
        self.mailbox.send_async(Command::Teller(teller, reporter)).await.map_err(|_| over())?;
        Ok(Telling { proxy: self.clone(), teller })
    }

    pub(in crate::server) async fn record_statuses(&self, statuses: Vec<NewStatus>) -> Result<(), Refusal> {
        self.ask(|reply| Command::Statuses(statuses, reply)).await
    }

    pub(in crate::server) async fn set_quotas(&self, quotas: Vec<Quota>) {
        if !quotas.is_empty() {
            let _ = self.mailbox.send_async(Command::Quotas(quotas)).await;
        }
    }

    /// How many streams of tasks are open.
    pub(in crate::server) fn clients(&self) -> usize {
        self.clients.load(SeqCst)
    }

    /// Another server leads, or none that is known.
    pub(in crate::server) fn set_leader(&self, leader: Leader) {
        let _ = self.mailbox.send(Command::Leader(leader));
    }

    /// Ends all streams, and opens none. What is told is still passed on.
    pub(in crate::server) fn drain(&self) {
        let _ = self.mailbox.send(Command::Drain);
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send_async(command(reply)).await.map_err(|_| over())?;
        answer.await.map_err(|_| over())?
    }
}

/// Whether clients are served. Cheap to clone.
#[derive(Clone)]
pub(in crate::server) struct Trouble(Arc<Why>);

struct Why {
    /// Why they are not.
    trouble: Mutex<Option<String>>,
    /// Called when that changes.
    changed: Box<dyn Fn() + Send + Sync>,
}

impl Trouble {
    pub(in crate::server) fn new(changed: impl Fn() + Send + Sync + 'static) -> Trouble {
        Trouble(Arc::new(Why { trouble: Mutex::new(Some(NOBODY.into())), changed: Box::new(changed) }))
    }

    pub(in crate::server) fn get(&self) -> Option<String> {
        self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, trouble: Option<String>) {
        let before = {
            let mut shown = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *shown, trouble.clone())
        };
        if before != trouble {
            (self.0.changed)();
        }
    }
}
