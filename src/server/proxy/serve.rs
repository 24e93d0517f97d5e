//! The end of a proxy's stream at the server that leads: does with the broker what clients of the other one do.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use futures::future::{BoxFuture, FutureExt as _, Shared};
use futures::stream::FuturesUnordered;
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use futures_timer::Delay;
use log::warn;

use super::SILENT;
use super::frame::{Ask, Down, Failed, Teller, Up, Welcome};
use crate::broker::{self, BrokerError, Gauge, Inbox, Join, Joined, OutcomeReport, Push, Quota, Reporting, SessionId};
use crate::server::refusal::Refusal;
use crate::task::{StartAt, TaskId, weight};

/// How often the state is said, at least: by that the other end knows that this one is there.
pub(super) const STATE: Duration = Duration::from_millis(500);
/// A proxy that has not heard it for so long does not hear of tasks, either.
const LATE: Duration = Duration::from_secs(1);
/// What is sent together, in bytes of [`weight`], beside one push.
const TOGETHER: usize = 256 * 1024;
/// How many pushes.
const PUSHES: usize = 1024;

/// Identities are counted by each server by itself: so many numbers are for those of one.
const ACCOUNTS: u64 = 1 << 40;
static PROXIES: AtomicU64 = AtomicU64::new(1);

/// This server, while it leads. Cheap to clone.
#[derive(Clone)]
pub(in crate::server) struct Leads {
    broker: broker::Handle,
    /// Why it takes nothing now.
    trouble: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    /// Where clients without a group begin.
    anonymous_from: StartAt,
    over: Shared<BoxFuture<'static, ()>>,
}

impl Leads {
    /// Until what this gives beside it is dropped.
    pub(in crate::server) fn new(
        broker: broker::Handle,
        anonymous_from: StartAt,
        trouble: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> (Leads, oneshot::Sender<()>) {
        let (goes_on, over) = oneshot::channel::<()>();
        let (over, trouble) = (over.map(drop).boxed().shared(), Arc::new(trouble));
        (Leads { broker, trouble, anonymous_from, over }, goes_on)
    }

    /// Serves a proxy until either end is over.
    pub(super) async fn serve<U, D, E>(self, ups: U, downs: D)
    where
        U: Stream<Item = Result<Vec<Up>, E>> + Unpin,
        D: Sink<Vec<Down>> + Unpin,
    {
        let accounts = PROXIES.fetch_add(1, Relaxed) * ACCOUNTS;
        let serving = Serving {
            leads: self,
            accounts,
            sessions: HashMap::new(),
            tellers: HashMap::new(),
            pushes: FuturesUnordered::new(),
            answers: FuturesUnordered::new(),
            out: Vec::new(),
            state: Delay::new(Duration::ZERO),
            heard: None,
        };
        serving.run(ups, downs).await;
    }
}

struct Serving {
    leads: Leads,
    /// What the numbers of identities begin with here.
    accounts: u64,
    /// By the number that the proxy gave them.
    sessions: HashMap<SessionId, Session>,
    tellers: HashMap<Teller, Reporting>,
    pushes: FuturesUnordered<NextPush>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Goes out next.
    out: Vec<Down>,
    state: Delay,
    /// When the proxy last heard the state, if it is one that says so.
    heard: Option<Instant>,
}

enum Session {
    /// Its client may have left meanwhile, and why.
    Joining(Option<String>),
    Open(SessionId, Gauge),
}

enum Answer {
    Joined(SessionId, TaskId, Result<Joined, BrokerError>),
    Done(Ask, Result<(), BrokerError>),
}

/// The next of a session's [`Inbox`].
struct NextPush(Option<(SessionId, Inbox)>);

impl Future for NextPush {
    type Output = (SessionId, Inbox, Push);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some((_, inbox)) = &mut self.0 else { return Poll::Pending };
        let push = std::task::ready!(inbox.poll_next(cx));
        self.0.take().map_or(Poll::Pending, |(session, inbox)| Poll::Ready((session, inbox, push)))
    }
}

enum News {
    Ups(Vec<Up>),
    Answer(Answer),
    /// Something went out.
    Out,
    /// The proxy hears nothing.
    Silence,
    Over,
}

impl Serving {
    async fn run<U, D, E>(mut self, mut ups: U, mut downs: D)
    where
        U: Stream<Item = Result<Vec<Up>, E>> + Unpin,
        D: Sink<Vec<Down>> + Unpin,
    {
        loop {
            match std::future::poll_fn(|cx| self.poll_news(cx, &mut ups, &mut downs)).await {
                News::Ups(ups) => {
                    for up in ups {
                        if self.up(up).await.is_err() {
                            // The broker is stopping.
                            return;
                        }
                    }
                }
                News::Answer(answer) => self.answered(answer).await,
                News::Out => {}
                // Leases go on meanwhile, and end: that is none of its clients' silence.
                News::Silence => self.leads.broker.keep_waiting().await,
                News::Over => break,
            }
        }
        for (_, session) in self.sessions.drain() {
            if let Session::Open(id, _) = session {
                self.leads.broker.lose(id).await;
            }
        }
    }

    fn poll_news<U, D, E>(&mut self, cx: &mut Context<'_>, ups: &mut U, downs: &mut D) -> Poll<News>
    where
        U: Stream<Item = Result<Vec<Up>, E>> + Unpin,
        D: Sink<Vec<Down>> + Unpin,
    {
        if self.leads.over.poll_unpin(cx).is_ready() {
            return Poll::Ready(News::Over);
        }
        if self.state.poll_unpin(cx).is_ready() {
            self.state.reset(STATE);
            let _ = self.state.poll_unpin(cx);
            self.out.push(Down::State((self.leads.trouble)()));
            match self.heard.map(|heard| heard.elapsed()) {
                // It has given the link up by now, or cannot. What its clients have is for others.
                Some(silent) if silent > SILENT => return Poll::Ready(News::Over),
                Some(silent) if silent > LATE => return Poll::Ready(News::Silence),
                _ => {}
            }
        }
        if let Poll::Ready(Some(answer)) = self.answers.poll_next_unpin(cx) {
            return Poll::Ready(News::Answer(answer));
        }
        match ups.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(ups))) => return Poll::Ready(News::Ups(ups)),
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(News::Over),
            Poll::Pending => {}
        }
        match downs.poll_ready_unpin(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(News::Over),
            Poll::Pending => return Poll::Pending,
        }
        self.fill(cx);
        let sent = match self.out.is_empty() {
            true => downs.poll_flush_unpin(cx).map(|flushed| flushed.map(|()| false)),
            false => Poll::Ready(downs.start_send_unpin(std::mem::take(&mut self.out)).map(|()| true)),
        };
        match sent {
            Poll::Ready(Ok(true)) => Poll::Ready(News::Out),
            Poll::Ready(Ok(false)) | Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => Poll::Ready(News::Over),
        }
    }

    /// Takes what there is for sessions, until it is much.
    fn fill(&mut self, cx: &mut Context<'_>) {
        let mut bytes = 0;
        while bytes < TOGETHER && self.out.len() < PUSHES {
            let Poll::Ready(Some((session, inbox, push))) = self.pushes.poll_next_unpin(cx) else { return };
            // What is still there for one that left is nobody's.
            if !self.sessions.contains_key(&session) {
                continue;
            }
            if let Push::Tasks(deliveries) = &push {
                bytes += deliveries.iter().map(|delivery| weight(delivery.task.spec.bytes())).sum::<usize>();
            }
            match push {
                Push::Close(_) => drop(self.sessions.remove(&session)),
                _ => self.pushes.push(NextPush(Some((session, inbox)))),
            }
            self.out.push(Down::Push(session, push));
        }
    }

    async fn up(&mut self, up: Up) -> Result<(), BrokerError> {
        let broker = &self.leads.broker;
        match up {
            Up::Join(session, mut join) => {
                join.quota = join.quota.map(|quota| self.own(quota));
                self.sessions.insert(session, Session::Joining(None));
                self.answers.push(self.join(session, *join));
            }
            Up::Leave(session, why) => match self.sessions.remove(&session) {
                Some(Session::Open(id, _)) => broker.leave(id, why).await,
                Some(Session::Joining(_)) => drop(self.sessions.insert(session, Session::Joining(Some(why)))),
                None => {}
            },
            Up::Took(session, bytes) => {
                if let Some(Session::Open(id, gauge)) = self.sessions.get(&session)
                    && let Some(taken) = gauge.took_in_all(bytes)
                {
                    broker.stream_took(*id, taken).await;
                }
            }
            Up::Teller(number, reporter) => drop(self.tellers.insert(number, broker.reporting(reporter).await?)),
            Up::TellerGone(number) => drop(self.tellers.remove(&number)),
            Up::Told(number, reports) => {
                if let Some(teller) = self.tellers.get(&number) {
                    teller.report(checked(broker, reports)).await?;
                }
            }
            Up::Flush(ask) => {
                let broker = broker.clone();
                self.answers.push(async move { Answer::Done(ask, broker.flushed().await) }.boxed());
            }
            Up::Statuses(ask, statuses) => {
                let broker = broker.clone();
                self.answers.push(async move { Answer::Done(ask, broker.record_statuses(statuses).await) }.boxed());
            }
            Up::Quota(quota) => broker.set_quotas(vec![self.own(quota)]).await?,
            Up::Here => self.heard = Some(Instant::now()),
        }
        Ok(())
    }

    fn own(&self, quota: Quota) -> Quota {
        Quota { of: self.accounts + quota.of % ACCOUNTS, ..quota }
    }

    fn join(&self, session: SessionId, join: Join) -> BoxFuture<'static, Answer> {
        let broker = self.leads.broker.clone();
        let from = join.from.unwrap_or(self.leads.anonymous_from);
        let joining = async move {
            // One that comes while it joins is given twice, if another server leads then: better than not at all.
            let after = if from == StartAt::New { broker.newest_task() } else { 0 };
            Answer::Joined(session, after, broker.join(join).await)
        };
        joining.boxed()
    }

    async fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Done(ask, done) => self.out.push(Down::Done(ask, done.map_err(|why| Failed::of(&why.into())))),
            Answer::Joined(session, _, Err(why)) => {
                self.sessions.remove(&session);
                self.out.push(Down::Joined(session, Err(Failed::of(&Refusal::from(why)))));
            }
            Answer::Joined(session, after, Ok(Joined { session: id, inbox, new_group, window })) => {
                if let Some(Session::Joining(Some(why))) = self.sessions.remove(&session) {
                    return self.leads.broker.leave(id, why).await;
                }
                self.sessions.insert(session, Session::Open(id, inbox.gauge()));
                self.out.push(Down::Joined(session, Ok(Welcome { new_group, window, after })));
                self.pushes.push(NextPush(Some((session, inbox))));
            }
        }
    }
}

/// Those that can be about a task: which tasks there are only the server that leads knows.
fn checked(broker: &broker::Handle, mut reports: Vec<OutcomeReport>) -> Vec<OutcomeReport> {
    let newest = broker.newest_task();
    let before = reports.len();
    reports.retain(|report| report.task <= newest);
    if reports.len() < before {
        warn!("{} results name tasks that there are not yet, and are left out", before - reports.len());
    }
    for report in &mut reports {
        report.printed = report.printed.take().filter(|_| broker.is_watched(report.task));
    }
    reports
}
