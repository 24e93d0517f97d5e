//! The status thread: reports, and hands over the answers, over one connection after another.

use std::collections::VecDeque;
use std::fmt;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, never, select};
use futures::StreamExt;
use grpcio::{ClientCStreamSender, ClientDuplexReceiver, RpcStatus};

use super::channel_waker::ChannelWaker;
use super::connection::Link;
use super::outgoing::{Outgoing, Sends as _};
use super::stopper::Stopped;
use super::{Backoff, Event, Observer};
use crate::rpc_status::{self, Meaning};
use crate::wire::contact as pb;

/// Statuses that may wait for their answer. With more, the source is not read.
const UNANSWERED: usize = 256;

/// Where statuses come from.
pub(super) enum Source {
    /// Made at the start and then in intervals, while there is a connection.
    Every(Duration, Box<dyn FnMut() -> Vec<String> + Send>),
    /// Sent through a channel. When it disconnects, there are no more.
    Channel(Receiver<String>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Every(period, _) => write!(f, "Every({period:?})"),
            Source::Channel(_) => f.write_str("Channel"),
        }
    }
}

/// What the status thread owns.
///
/// A sendStatus call is opened when there are statuses, and ended when they are sent: a server with a thread for each call has
/// the thread back in between. Statuses that were not answered before the connection was lost are sent again over the next.
pub(super) struct StatusSender {
    source: Source,
    links: Receiver<Option<Link>>,
    stopped: Stopped,
    stop_grace: Duration,
    observer: Observer,
    waker: ChannelWaker,
    backoff: Backoff,
    link: Option<Link>,
    call: Option<Call>,
    unanswered: VecDeque<String>,
    /// No call is made before.
    try_at: Instant,
    /// When [`Source::Every`] is asked next.
    due_at: Instant,
    /// While stopping: until when answers are waited for.
    give_up_at: Option<Instant>,
}

struct Call {
    sink: Outgoing<ClientCStreamSender<pb::ClientMsg>>,
    answers: ClientDuplexReceiver<pb::Result>,
    /// How many of the unanswered statuses were sent.
    sent: usize,
    ending: bool,
}

impl StatusSender {
    pub(super) fn new(
        source: Source,
        links: Receiver<Option<Link>>,
        stopped: Stopped,
        observer: Observer,
        config: &super::Config,
    ) -> StatusSender {
        let now = Instant::now();
        StatusSender {
            source,
            links,
            stopped,
            stop_grace: config.stop_grace,
            observer,
            waker: ChannelWaker::new(),
            backoff: Backoff::new(config.first_backoff, config.most_backoff),
            link: None,
            call: None,
            unanswered: VecDeque::new(),
            try_at: now,
            due_at: now,
            give_up_at: None,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let now = Instant::now();
            self.collect(now);
            self.talk(now);
            let quiet = self.unanswered.is_empty() && self.call.is_none();
            if self.give_up_at.is_some_and(|at| quiet || now >= at) {
                return;
            }
            self.wait();
        }
    }

    fn has_room(&self) -> bool {
        self.unanswered.len() < UNANSWERED
    }

    fn collect(&mut self, now: Instant) {
        let due = now >= self.due_at && self.link.is_some() && self.unanswered.is_empty() && self.give_up_at.is_none();
        match &mut self.source {
            Source::Every(period, make) if due => {
                self.unanswered.extend(make());
                self.due_at = now + *period;
            }
            Source::Every(..) => {}
            Source::Channel(channel) => {
                while self.unanswered.len() < UNANSWERED {
                    match channel.try_recv() {
                        Ok(status) => self.unanswered.push_back(status),
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Disconnected) => {
                            *channel = never();
                            break;
                        }
                    }
                }
            }
        }
    }

    fn talk(&mut self, now: Instant) {
        if self.call.is_none() && !self.unanswered.is_empty() && now >= self.try_at {
            let Some(link) = &self.link else { return };
            match link.client.send_status(link.options.clone()) {
                Ok((sink, answers)) => {
                    self.call = Some(Call { sink: Outgoing::new(sink), answers, sent: 0, ending: false });
                }
                Err(error) => return self.ended(Err(rpc_status::status_of(error)), 0, now),
            }
        }
        let waker = self.waker.waker.clone();
        let cx = &mut Context::from_waker(&waker);
        let Some(call) = &mut self.call else { return };
        call.poll_send(cx, &self.unanswered);
        while let Poll::Ready(next) = call.answers.poll_next_unpin(cx) {
            let end = match next {
                Some(Ok(answer)) => {
                    // An answer to nothing is passed over.
                    if call.sent > 0
                        && let Some(status) = self.unanswered.pop_front()
                    {
                        call.sent -= 1;
                        self.backoff.reset();
                        (self.observer)(&Event::Status { status: &status, answer: &answer.ret });
                    }
                    continue;
                }
                Some(Err(error)) => Err(rpc_status::status_of(error)),
                None => Ok(()),
            };
            let sent = call.sent;
            self.call = None;
            return self.ended(end, sent, now);
        }
    }

    /// The call ended. It had the first `sent` of the unanswered statuses.
    fn ended(&mut self, end: Result<(), RpcStatus>, sent: usize, now: Instant) {
        match end {
            Ok(()) if sent == 0 => {}
            Ok(()) => {
                log::warn!("the server ended sendStatus without an answer to {sent} statuses");
                self.unanswered.drain(..sent);
            }
            // The server takes them in order, so it refused the first that has no answer.
            Err(status) => match Meaning::of(&status) {
                Meaning::ClientRefused | Meaning::CallRefused | Meaning::MessageRefused => {
                    log::warn!("the server refused a status ({}); it is dropped", rpc_status::text(&status));
                    self.unanswered.pop_front();
                }
                Meaning::TakenOver | Meaning::Unavailable | Meaning::Unclear => {
                    log::debug!("sendStatus ended: {}", rpc_status::text(&status));
                    let asked = rpc_status::retry_after(&status);
                    self.try_at = now + self.backoff.next_after(asked, &mut rand::rng());
                }
            },
        }
    }

    fn wait(&mut self) {
        let retry = (self.call.is_none() && self.link.is_some() && !self.unanswered.is_empty()).then_some(self.try_at);
        let due = match self.source {
            Source::Every(..) if self.link.is_some() && self.unanswered.is_empty() && self.give_up_at.is_none() => {
                Some(self.due_at)
            }
            _ => None,
        };
        let deadline = [retry, due, self.give_up_at].into_iter().flatten().min();
        let timeout = deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
        let closed = never();
        let source = match &self.source {
            Source::Channel(channel) if self.has_room() => channel,
            _ => &closed,
        };
        select! {
            recv(self.waker.woken) -> _ => {}
            recv(source) -> status => match status {
                Ok(status) => self.unanswered.push_back(status),
                Err(_) => self.source = Source::Channel(never()),
            },
            recv(self.links) -> link => match link {
                Ok(link) => {
                    self.link = link;
                    self.call = None;
                    self.try_at = Instant::now();
                }
                // The pipe thread has ended: there will be no other connection.
                Err(_) => {
                    self.links = never();
                    if self.link.is_none() {
                        self.give_up_at = Some(Instant::now());
                    }
                }
            },
            recv(self.stopped) -> _ => {
                self.stopped = never();
                self.give_up_at.get_or_insert(Instant::now() + self.stop_grace);
            }
            default(timeout) => {}
        }
    }
}

impl Call {
    /// Sends what was not sent yet, and then ends the sending: a server may answer only after that.
    fn poll_send(&mut self, cx: &mut Context<'_>, unanswered: &VecDeque<String>) {
        while let Some(status) = unanswered.get(self.sent).filter(|_| !self.ending) {
            if !self.sink.poll_ready(cx) {
                return;
            }
            self.sink.send(pb::ClientMsg { msg: status.clone(), ..Default::default() });
            self.sent += 1;
        }
        self.ending = true;
        let _ = self.sink.poll_end(cx);
    }
}
