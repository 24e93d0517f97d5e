//! The one door to the broker: every verb that a gRPC handler, a page or a thread of the server may use.

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::oneshot;

use super::BrokerError;
use super::core::{
    Cancelled, ClientInfo, Config, ContestedId, Core, Disconnected, Drained, GroupInfo, Holders, Join, JoinError,
    Meter, OutcomeReport, Overview, Quota, Reporter, SessionId, Standing, TaskState,
};
use super::outbox::Inbox;
use super::reader::ReadAnswer;
use super::wakeup::WakeUp;
use super::watches::{Watch, Watches};
use crate::group_limits::{GroupLimits, LimitsChange};
use crate::labels::Selector;
use crate::mailbox;
use crate::now::Now;
use crate::retry::RetryPolicy;
use crate::store::{self, Accepted, Drain, Floors, KnownClient, StoreError};
use crate::task::{ClientId, GroupName, NewStatus, NewTask, StartAt, Task, TaskId, Time};

pub(super) type Reply<T> = oneshot::Sender<T>;

/// What is done with the state machine, at that moment.
type Work = Box<dyn FnOnce(&mut Core, Now) + Send>;

/// What the broker's thread is asked.
pub(super) enum Command {
    Join(Box<Join>, Reply<Result<Joined, JoinError>>),
    Leave(SessionId, Cow<'static, str>),
    /// With its client's server.
    #[cfg(feature = "cluster")]
    Lose(SessionId),
    #[cfg(feature = "cluster")]
    KeepWaiting,
    StreamTook(SessionId, u64),
    ReporterConnected(Arc<str>),
    Report(Arc<Reporter>, Vec<OutcomeReport>),
    /// A short look at the state, or a change of it.
    With(Work),
    Flush(Reply<Result<(), StoreError>>),
    Read(ReadAnswer),
    Drain,
    Stop,
}

/// A session that was opened.
pub struct Joined {
    /// Its id.
    pub session: SessionId,
    /// Its tasks.
    pub inbox: Inbox,
    /// Where its group starts, if it has a name and is new.
    pub new_group: Option<StartAt>,
    /// The window it has, if that is less than its client wanted.
    pub window: Option<u32>,
}

/// Reporters that disconnected, by their address. The broker's thread takes them at its next round.
///
/// Beside the mailbox, because a guard that is dropped cannot wait for room there. At most as many as calls were open.
#[derive(Default)]
pub(super) struct DisconnectedReporters(Mutex<Vec<Arc<str>>>);

impl DisconnectedReporters {
    fn push(&self, peer: Arc<str>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
    }

    pub(super) fn take(&self) -> Vec<Arc<str>> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Talks to the broker. Cheap to clone. Its futures never wait on their thread.
#[derive(Clone)]
pub struct Handle {
    pub(super) mailbox: mailbox::Sender<Command>,
    pub(super) store: store::Handle,
    pub(super) disconnected: Arc<DisconnectedReporters>,
    pub(super) watches: Watches,
    pub(super) wake_up: WakeUp,
}

/// One call that reports outcomes. The broker knows of it until this is dropped, whatever ends the call.
///
/// To be dropped after [`Reporting::flushed`]: that it is gone is told beside the mailbox, before reports that still wait in it.
pub struct Reporting {
    broker: Handle,
    reporter: Arc<Reporter>,
}

impl Reporting {
    /// A client says what came of tasks. [`Reporting::flushed`] says when that is on disk.
    pub async fn report(&self, reports: Vec<OutcomeReport>) -> Result<(), BrokerError> {
        let bytes = reports.iter().map(OutcomeReport::weight).sum();
        let command = Command::Report(self.reporter.clone(), reports);
        self.broker.mailbox.send_weighed_async(command, bytes).await.map_err(|_| BrokerError::Stopped)
    }

    /// Resolves when everything that was reported so far is on disk.
    pub async fn flushed(&self) -> Result<(), BrokerError> {
        self.broker.flushed().await
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.broker.disconnected.push(self.reporter.peer.clone());
        self.broker.wake_up.wake();
    }
}

/// For the streams of clients.
impl Handle {
    /// Opens a session: tasks come out of its [`Inbox`] until [`Handle::leave`]. Refused while several processes fight for the
    /// client's id, and it is the turn of another; or if its group would be one too many.
    pub async fn join(&self, join: Join) -> Result<Joined, BrokerError> {
        Ok(self.ask(|reply| Command::Join(Box::new(join), reply)).await??)
    }

    /// The stream of this session ended; `why` goes into the log.
    pub async fn leave(&self, session: SessionId, why: impl Into<Cow<'static, str>>) {
        let _ = self.send(Command::Leave(session, why.into())).await;
    }

    /// The server that the client of this session is connected to was lost.
    #[cfg(feature = "cluster")]
    pub(crate) async fn lose(&self, session: SessionId) {
        let _ = self.send(Command::Lose(session)).await;
    }

    /// See [`Core::keep_waiting`](super::Core::keep_waiting).
    #[cfg(feature = "cluster")]
    pub(crate) async fn keep_waiting(&self) {
        let _ = self.send(Command::KeepWaiting).await;
    }

    /// The stream of this session has taken `taken` bytes in all.
    pub async fn stream_took(&self, session: SessionId, taken: u64) {
        let _ = self.send(Command::StreamTook(session, taken)).await;
    }

    /// A client is going to report outcomes.
    pub async fn reporting(&self, reporter: Reporter) -> Result<Reporting, BrokerError> {
        self.send(Command::ReporterConnected(reporter.peer.clone())).await?;
        Ok(Reporting { broker: self.clone(), reporter: Arc::new(reporter) })
    }

    /// Writes down what clients say of themselves, and resolves when it is on disk.
    pub async fn record_statuses(&self, statuses: Vec<NewStatus>) -> Result<(), BrokerError> {
        Ok(self.store.record_statuses(statuses).await?)
    }

    /// The newest task that was accepted; 0 before the first.
    pub fn newest_task(&self) -> TaskId {
        self.store.tail().positions().task
    }
}

/// For those who submit.
impl Handle {
    /// See [`store::Handle::submit`].
    pub async fn submit(&self, tasks: Vec<NewTask>) -> Result<Accepted, BrokerError> {
        Ok(self.store.submit(tasks).await?)
    }

    /// See [`store::Handle::begin_submit`].
    pub async fn begin_submit(
        &self,
        tasks: Vec<NewTask>,
    ) -> Result<impl Future<Output = Result<Accepted, StoreError>> + Send + use<>, BrokerError> {
        Ok(self.store.begin_submit(tasks).await?)
    }
}

/// What operators change. Each verb resolves when the change is on disk.
impl Handle {
    /// Takes a task back from every group that has not settled it, and keeps it from those that come later.
    pub async fn cancel(&self, task: Task) -> Result<Cancelled, BrokerError> {
        // First in the store, for groups that have not read the task yet or do not exist yet.
        let at = task.spec.cancelled_at().unwrap_or_else(Time::now);
        self.store.cancel(task.id, at).await?;
        self.change(move |core, now| core.cancel(&task, now)).await
    }

    /// Gives a task to groups again that have settled it, with fresh attempts; says to how many.
    pub async fn revive(&self, task: Task, groups: Vec<GroupName>) -> Result<usize, BrokerError> {
        if task.spec.expires_at.is_some_and(|at| at <= Time::now()) {
            self.store.expire(task.id, None).await?;
        }
        self.change(move |core, now| groups.iter().filter(|name| core.revive(name, &task, now)).count()).await
    }

    /// Takes a task from those of these groups whose client has not begun it; see [`Core::take_back`].
    pub async fn take_back(&self, task: Task, groups: Vec<GroupName>) -> Result<usize, BrokerError> {
        self.change(move |core, now| core.take_back(&task, &groups, now)).await
    }

    /// Acknowledgements without an id that matched nothing, so far, and when the last came.
    pub async fn unmatched(&self) -> Result<(u64, Option<Time>), BrokerError> {
        self.with(|core, _| (core.unmatched(), core.last_unmatched())).await
    }

    /// The ids that several processes fight for.
    pub async fn contested(&self) -> Result<Vec<ContestedId>, BrokerError> {
        self.with(|core, now| core.contested(now)).await
    }

    /// These tasks were removed from the store: no client is given them any more.
    pub async fn removed(&self, tasks: Vec<TaskId>) -> Result<(), BrokerError> {
        self.with(move |core, now| core.removed(&tasks, now)).await
    }

    /// Takes a dead letter off the list.
    pub async fn drop_dead(&self, task: TaskId, group: GroupName) -> Result<(), BrokerError> {
        self.change(move |core, now| core.drop_dead(&group, task, now)).await
    }

    /// Stops or resumes the delivery of tasks to a group.
    pub async fn set_paused(&self, group: GroupName, paused: bool) -> Result<bool, BrokerError> {
        Ok(self.change(move |core, now| core.pause(&group, paused, now)).await??)
    }

    /// Gives a client no more tasks, for that long; see [`Core::drain`].
    pub async fn drain_client(
        &self,
        who: String,
        lasts: Option<Duration>,
        note: String,
    ) -> Result<Drained, BrokerError> {
        Ok(self.change(move |core, now| core.drain(&who, lasts, &note, now)).await??)
    }

    /// Gives tasks to a client again that was drained; see [`Core::undrain`].
    pub async fn undrain_client(&self, who: String) -> Result<Drained, BrokerError> {
        Ok(self.change(move |core, now| core.undrain(&who, now)).await??)
    }

    /// Sets limits of a group anew; says how they are, and whether the group was made for that.
    pub async fn set_limits(&self, group: GroupName, change: LimitsChange) -> Result<(GroupLimits, bool), BrokerError> {
        Ok(self.change(move |core, now| core.set_limits(&group, change, now)).await??)
    }

    /// Says how the tasks of a group are tried again; says whether the group was made for that.
    pub async fn set_retry(&self, group: GroupName, retry: RetryPolicy) -> Result<bool, BrokerError> {
        Ok(self.change(move |core, now| core.set_retry(&group, retry, now)).await??)
    }

    /// Removes a group that no client uses.
    pub async fn remove_group(&self, group: GroupName) -> Result<(), BrokerError> {
        Ok(self.change(move |core, now| core.remove_group(&group, now)).await??)
    }

    /// Other bounds for identities, also for the streams that they have.
    pub async fn set_quotas(&self, quotas: Vec<Quota>) -> Result<(), BrokerError> {
        self.with(move |core, now| core.set_quotas(&quotas, now)).await
    }

    /// Takes other settings, for what comes from now on.
    pub async fn reconfigure(&self, config: Config) -> Result<(), BrokerError> {
        self.with(move |core, _| core.reconfigure(config)).await
    }
}

/// What there is to see.
impl Handle {
    /// How it is set now.
    pub async fn config(&self) -> Result<Config, BrokerError> {
        self.with(|core, _| core.config().clone()).await
    }

    /// The connected clients, oldest stream first; and those that are drained and not connected, by name.
    pub async fn clients(&self) -> Result<(Vec<ClientInfo>, Vec<Drain>), BrokerError> {
        self.with(|core, _| (core.clients(), core.drained_away().cloned().collect())).await
    }

    /// The clients that have an id and are known, by id, whether they are connected or not.
    pub async fn known(&self) -> Result<Vec<KnownClient>, BrokerError> {
        self.with(|core, now| core.known(now)).await
    }

    /// The clients that are missing; see [`Core::missing`].
    pub async fn missing(&self) -> Result<Vec<(ClientId, Duration)>, BrokerError> {
        self.with(|core, now| core.missing(now)).await
    }

    /// Forgets the clients that were last seen before that; says how many there were.
    pub async fn forget_clients(&self, before: Time) -> Result<usize, BrokerError> {
        self.with(move |core, now| core.forget_clients(before, now)).await
    }

    /// How many clients are connected.
    pub async fn connected(&self) -> Result<usize, BrokerError> {
        self.with(|core, _| core.connected()).await
    }

    /// The groups that have a name, by name.
    pub async fn groups(&self) -> Result<Vec<GroupInfo>, BrokerError> {
        self.with(|core, now| core.groups(now)).await
    }

    /// The groups whose labels match now; see [`Core::matching`].
    pub async fn matching(&self, selector: Selector) -> Result<Vec<GroupName>, BrokerError> {
        self.with(move |core, _| core.matching(&selector)).await
    }

    /// Those of the names that are none of a group.
    pub async fn unknown(&self, names: Vec<GroupName>) -> Result<Vec<GroupName>, BrokerError> {
        self.with(move |core, _| core.unknown(names)).await
    }

    /// Where a task stands with each group that it is for; by name.
    pub async fn task_states(&self, task: Task) -> Result<Vec<(GroupName, TaskState)>, BrokerError> {
        self.with(move |core, now| core.task_states(&task, now)).await
    }

    /// Whether somebody watches what a task prints.
    pub fn is_watched(&self, task: TaskId) -> bool {
        self.watches.is_watched(task)
    }

    /// What a task prints comes out of this from now on, while its clients are [told](Handle::tell_of_watch) so. `None`:
    /// [`MOST_WATCHES`](super::MOST_WATCHES) watch already.
    pub fn watch(&self, task: TaskId) -> Option<Watch> {
        self.watches.watch(task)
    }

    /// Has the clients that have a task say what it prints; see [`Core::watch`]. With how long the broker was kept from other work.
    pub async fn tell_of_watch(
        &self,
        task: Task,
        group: Option<GroupName>,
        seen: HashMap<GroupName, u32>,
    ) -> Result<(Result<Holders, usize>, Duration), BrokerError> {
        self.timed(move |core, now| core.watch(&task, group.as_ref(), &seen, now)).await
    }

    /// Whether something is owed again; see [`Core::reopened`].
    pub async fn reopened(&self) -> Result<u64, BrokerError> {
        self.with(|core, _| core.reopened()).await
    }

    /// Up to where everything is settled; see [`Core::settled_floors`].
    pub async fn settled_floors(&self) -> Result<Floors, BrokerError> {
        self.with(|core, _| core.settled_floors()).await
    }

    /// What was counted since the start.
    pub async fn meter(&self) -> Result<Meter, BrokerError> {
        self.with(|core, _| core.meter().clone()).await
    }
}

/// The same for lists that are made again and again. Each says how long it kept the broker from other work, so that the
/// caller can leave it alone for long enough.
impl Handle {
    /// Everything at this moment, with at most `clients` clients; see [`Overview`].
    pub async fn overview(&self, tasks: Vec<Task>, clients: usize) -> Result<(Overview, Duration), BrokerError> {
        self.timed(move |core, now| core.overview(&tasks, clients, now)).await
    }

    /// The connected clients, oldest stream first; and those that went not long ago, newest first.
    pub async fn all_clients(&self) -> Result<((Vec<ClientInfo>, Vec<Disconnected>), Duration), BrokerError> {
        self.timed(|core, now| (core.clients(), core.disconnected(now))).await
    }

    /// See [`Overview::task_states`].
    pub async fn overall_states(&self, tasks: Vec<Task>) -> Result<(TasksWithState, Duration), BrokerError> {
        let work = |core: &mut Core, now: Now| {
            let states = core.overall_states(&tasks, now);
            tasks.into_iter().zip(states).collect()
        };
        self.timed(work).await
    }

    /// Where each task stands with the groups beside it; see [`Core::standings`].
    pub async fn standings(
        &self,
        asked: Vec<(Option<Task>, Vec<GroupName>)>,
    ) -> Result<(Vec<Vec<Standing>>, Duration), BrokerError> {
        let work = move |core: &mut Core, now: Now| {
            asked.iter().map(|(task, names)| core.standings(task.as_ref(), names, now)).collect()
        };
        self.timed(work).await
    }

    /// Where each task stands with this group. `None`: it is not for it, or there is no such group.
    pub async fn states_in(
        &self,
        group: GroupName,
        tasks: Vec<Task>,
    ) -> Result<(TasksWithState, Duration), BrokerError> {
        let work = move |core: &mut Core, now: Now| {
            let states = core.states_in(&group, &tasks, now);
            tasks.into_iter().zip(states).collect()
        };
        self.timed(work).await
    }
}

/// Tasks, each with where it stands.
pub type TasksWithState = Vec<(Task, Option<TaskState>)>;

impl Handle {
    /// Resolves when everything that was recorded so far is on disk.
    pub async fn flushed(&self) -> Result<(), BrokerError> {
        Ok(self.ask(Command::Flush).await??)
    }

    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Core, Now) -> T + Send + 'static,
    ) -> Result<T, BrokerError> {
        let changed = self.with(work).await?;
        self.flushed().await?;
        Ok(changed)
    }

    async fn timed<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Core, Now) -> T + Send + 'static,
    ) -> Result<(T, Duration), BrokerError> {
        self.with(|core, now| {
            let began = Instant::now();
            (work(core, now), began.elapsed())
        })
        .await
    }

    /// `work` runs on the broker's thread: it is to be short.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Core, Now) -> T + Send + 'static,
    ) -> Result<T, BrokerError> {
        self.ask(|reply| Command::With(Box::new(move |core, now| drop(reply.send(work(core, now)))))).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, BrokerError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| BrokerError::Stopped)
    }

    async fn send(&self, command: Command) -> Result<(), BrokerError> {
        self.mailbox.send_async(command).await.map_err(|_| BrokerError::Stopped)
    }
}
