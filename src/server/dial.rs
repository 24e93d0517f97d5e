//! Workers that the server dials: the article's first way. Only who opens the connection differs: the session, the [`Pump`] and the
//! [`Intake`] are those of clients that connect. A future for each worker on a completion queue; with TLS one thread for all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{self, BoxFuture, Either, Shared};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use futures_timer::Delay;
use grpcio::{
    CallOption, ChannelBuilder, Client, ClientDuplexSender, Environment, Method, MethodType, RpcStatusCode, WriteFlags,
};
use log::{debug, info, warn};

use super::access::Caller;
use super::calls::Ended;
use super::contact::{ContactService, Intake};
use super::health;
use super::metadata::Metadata;
use super::port;
use super::pump::{Confirmed, Pump};
use super::refusal::Refusal;
use crate::backoff::Backoff;
use crate::codec::{Decoded, dialled_method};
use crate::front::{Called, Dial, DialThread, Tls};
use crate::labels::Labels;
use crate::rpc_status;
use crate::secret;
use crate::store::{self, Dialled};
use crate::target;
use crate::task::{Name, NameOf, Time};
use crate::wire::contact as pb;

/// Most workers that are dialled. Each costs a connection, which is a file or, with TLS, four, and some 100 KB.
pub(super) const MOST: usize = 1_000;

const WORK: Method<pb::ServerMsg, Decoded<pb::Result>> = dialled_method(MethodType::Duplex, "/Worker/work");

const CALLED: Called = Called { other: "worker", this: "server", flags: "--dial-tls" };
/// The waits between two tries, as those of clients.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MOST_BACKOFF: Duration = Duration::from_secs(30);
/// How long one address of a worker may take.
const CONNECT_EACH: Duration = Duration::from_secs(5);
/// How long a worker may take until its first word, and from one to the next, until it says that it takes tasks.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a worker may still tell results when the server has ended the stream.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How workers are dialled.
#[derive(Debug, Clone, Default)]
pub struct DialConfig {
    /// How TLS is spoken with them. `None`: not at all, and only those on this machine are dialled, unless the server is `insecure`.
    pub tls: Option<Tls>,
    /// The file with the token by which workers know the server. It is read for each connection.
    pub token_file: Option<PathBuf>,
}

/// Dials workers, and knows how that goes. Cheap to clone.
#[derive(Clone)]
pub(super) struct Dialler(Arc<Inner>);

struct Inner {
    contact: ContactService,
    store: store::Handle,
    env: Arc<Environment>,
    config: DialConfig,
    insecure: bool,
    tls: Option<Arc<DialThread>>,
    workers: Mutex<Workers>,
}

#[derive(Default)]
struct Workers {
    of: BTreeMap<Name, Arc<Worker>>,
    /// Those that are on their way into the store.
    coming: usize,
    stopping: bool,
}

/// One worker.
struct Worker {
    dialled: Dialled,
    state: Mutex<State>,
    /// Dropped when it is to be dialled no more.
    goes_on: Mutex<Option<oneshot::Sender<()>>>,
    ended: Shared<BoxFuture<'static, ()>>,
}

/// How it goes with a worker.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// Since when it is connected, and what it is called.
    pub(super) connected: Option<(Time, Arc<str>)>,
    /// Why it is not, or was not the last time; and since when that is so.
    pub(super) trouble: Option<(String, Time)>,
    /// When it is tried again, while that is waited for.
    pub(super) again: Option<Time>,
}

/// Why a connection came to its end.
enum End {
    /// It did not come about, or broke, or the worker ended it; `contested`: because another server dialled it, too.
    Lost { why: String, contested: bool },
    /// The server ended it.
    Refused(Refusal),
}

impl End {
    fn lost(why: impl Into<String>) -> End {
        End::Lost { why: why.into(), contested: false }
    }
}

impl Dialler {
    pub(super) fn new(
        contact: ContactService,
        store: store::Handle,
        env: Arc<Environment>,
        config: DialConfig,
        insecure: bool,
    ) -> Result<Dialler, String> {
        let tls = config.tls.as_ref().map(|_| DialThread::start()).transpose().map_err(|e| e.to_string())?;
        if let Some(file) = &config.token_file {
            let (_, warning) = secret::read(file)?;
            warning.into_iter().for_each(|warning| warn!("{warning}"));
        }
        let workers = Mutex::default();
        Ok(Dialler(Arc::new(Inner { contact, store, env, config, insecure, tls, workers })))
    }

    /// Begins with those that the store has.
    pub(super) fn start(&self, all: Vec<Dialled>) {
        for dialled in all {
            self.dial(dialled, |_| {});
        }
    }

    /// Dials a worker from now on, also after a restart. Says whether that is new; if it was dialled already, this is how it is now.
    pub(super) async fn add(&self, address: &str, group: Option<Name>, client: Option<Name>) -> Result<bool, Refusal> {
        let refused = |why| Refusal::NoSuchAddress(address.to_owned(), why);
        target::check(address).map_err(refused)?;
        self.0.check_exposed(address).map_err(refused)?;
        let address = Name::new(NameOf::ClientOrGroup, address).map_err(|why| refused(why.to_string()))?;
        {
            let mut workers = self.lock();
            let is_known = workers.of.contains_key(&address);
            if !is_known && workers.of.len() + workers.coming >= MOST {
                return Err(Refusal::TooManyDialled(MOST));
            }
            workers.coming += 1;
        }
        let dialled = Dialled { address: address.clone(), group, client, since: Time::now() };
        let stored = self.0.store.dial(address, Some(dialled.clone())).await;
        if let Err(error) = stored {
            self.lock().coming -= 1;
            return Err(error.into());
        }
        // In one step it is no more on its way, and there: it never counts twice, or not at all.
        Ok(self.dial(dialled, |workers| workers.coming -= 1))
    }

    /// Dials a worker no more, and ends its connection. What it has goes to others.
    pub(super) async fn remove(&self, address: &str) -> Result<(), Refusal> {
        let unknown = || Refusal::NotDialled(address.to_owned());
        let address = Name::new(NameOf::ClientOrGroup, address).map_err(|_| unknown())?;
        if !self.lock().of.contains_key(&address) {
            return Err(unknown());
        }
        self.0.store.dial(address.clone(), None).await?;
        if let Some(worker) = self.lock().of.remove(&address) {
            info!("{address} is dialled no more");
            worker.stop();
        }
        Ok(())
    }

    /// All of them, by address.
    pub(super) fn all(&self) -> Vec<(Dialled, State)> {
        self.lock().of.values().map(|worker| (worker.dialled.clone(), worker.lock().clone())).collect()
    }

    /// How many there are, and how many of them are connected.
    pub(super) fn count(&self) -> (usize, usize) {
        let workers = self.lock();
        (workers.of.len(), workers.of.values().filter(|worker| worker.lock().connected.is_some()).count())
    }

    /// Ends all connections, and makes no others.
    pub(super) fn stop(&self) {
        let mut workers = self.lock();
        workers.stopping = true;
        workers.of.values().for_each(|worker| worker.stop());
    }

    fn lock(&self) -> MutexGuard<'_, Workers> {
        self.0.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether it is new. `first`: what else changes with that.
    fn dial(&self, dialled: Dialled, first: impl FnOnce(&mut Workers)) -> bool {
        let (goes_on, ended) = oneshot::channel::<()>();
        let ended = ended.map(drop).boxed().shared();
        let (state, goes_on) = (Mutex::default(), Mutex::new(Some(goes_on)));
        let worker = Arc::new(Worker { dialled, state, goes_on, ended });
        let before = {
            let mut workers = self.lock();
            first(&mut workers);
            if workers.stopping {
                return false;
            }
            workers.of.insert(worker.dialled.address.clone(), worker.clone())
        };
        if let Some(before) = &before {
            before.stop();
        }
        // Its completion queue is what counts: a channel connects when it is called over, and this one never is.
        let queue = Client::new(ChannelBuilder::new(self.0.env.clone()).connect("unix:/dev/null"));
        let (inner, kept) = (self.0.clone(), queue.clone());
        queue.spawn(async move {
            inner.keep(&worker).await;
            drop(kept);
        });
        before.is_none()
    }
}

impl Worker {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        drop(self.goes_on.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn is_stopped(&self) -> bool {
        self.ended.peek().is_some() || self.goes_on.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

/// What the server says to a worker, and hears of it.
struct Call {
    sink: ClientDuplexSender<pb::ServerMsg>,
    told: BoxStream<'static, grpcio::Result<Decoded<pb::Result>>>,
}

impl Inner {
    /// Without TLS, whoever is between could read and answer.
    fn check_exposed(&self, address: &str) -> Result<(), String> {
        if self.tls.is_some() || self.insecure || target::is_here(address) {
            return Ok(());
        }
        Err("it is not on this machine, and would be dialled without TLS: set the server's --dial-tls-ca, or --insecure if nobody \
             else can get between"
            .into())
    }

    /// Connects again and again, until it is stopped.
    async fn keep(self: Arc<Self>, worker: &Arc<Worker>) {
        let address = worker.dialled.address.clone();
        let mut backoff = Backoff::new(FIRST_BACKOFF, MOST_BACKOFF);
        let mut keepalive = target::KEEPALIVE;
        loop {
            // Boxed, so that one that waits does not keep the memory that only its coming takes.
            let end = Box::pin(self.once(worker, keepalive)).await;
            let connected = worker.lock().connected.take().is_some();
            if worker.is_stopped() {
                return;
            }
            let (why, contested) = match end {
                End::Lost { why, contested } => (why, contested),
                End::Refused(refusal) => (refusal.to_string(), matches!(refusal, Refusal::TakenOver(_))),
            };
            if why.contains(target::TOO_MANY_PINGS) {
                info!("{address} wants no pings: from now on one every {} s", target::RARE_KEEPALIVE.as_secs());
                keepalive = target::RARE_KEEPALIVE;
            }
            // Two servers, or two processes with one id, would take it from each other as fast as they can.
            if connected && !contested {
                backoff.reset();
            }
            let wait = backoff.next(&mut rand::rng());
            let is_news = {
                let mut state = worker.lock();
                state.again = Some(Time::now().after(wait));
                let is_news = connected || state.trouble.as_ref().is_none_or(|(before, _)| *before != why);
                if is_news {
                    state.trouble = Some((why.clone(), Time::now()));
                }
                is_news
            };
            // Said once, and not with each try: there may be a thousand.
            if is_news {
                let what = if connected { "lost the connection to" } else { "no worker can be reached at" };
                warn!("{what} {address}: {why}; it is tried again, at least every {} s", MOST_BACKOFF.as_secs());
            }
            future::select(Delay::new(wait), worker.ended.clone()).await;
            if worker.is_stopped() {
                return;
            }
            worker.lock().again = None;
        }
    }

    /// One connection, from its beginning to its end.
    async fn once(&self, worker: &Worker, keepalive: Duration) -> End {
        let address = &worker.dialled.address;
        if let Err(why) = self.check_exposed(address.as_str()) {
            return End::lost(why);
        }
        let dial = match (&self.config.tls, &self.tls) {
            (Some(tls), Some(thread)) => match Dial::on(thread, address.as_str(), tls, CONNECT_EACH, CALLED) {
                Ok(dial) => Some(dial),
                Err(why) => return End::lost(why.to_string()),
            },
            _ => None,
        };
        // It counts among the calls that a server waits for when it stops.
        let _call = self.contact.calls.begin();
        let end = self.converse(worker, dial.as_ref(), keepalive).await;
        match (end, dial.as_ref().and_then(Dial::trouble)) {
            // What C-core knows of TLS is that its socket was closed.
            (End::Lost { .. }, Some(trouble)) => End::lost(trouble),
            (end, _) => end,
        }
    }

    async fn converse(&self, worker: &Worker, dial: Option<&Dial>, keepalive: Duration) -> End {
        let address = worker.dialled.address.as_str();
        let options = match self.options() {
            Ok(options) => options,
            Err(why) => return End::lost(why),
        };
        let channel = target::channel_builder(self.env.clone(), address, keepalive, CONNECT_EACH)
            .keepalive_permit_without_calls(true)
            .http2_max_pings_without_data(0);
        let channel = port::bounded(channel, self.contact.limit + port::BESIDE_TEXT);
        let client = Client::new(target::connect(channel, address, dial));
        let (sink, mut told) = match client.duplex_streaming(&WORK, options) {
            Ok(call) => call,
            Err(error) => return End::lost(error.to_string()),
        };
        // What a worker says of itself comes with its first word.
        let first = match self.patiently(worker, told.next()).await {
            Ok(Some(Ok(first))) => first,
            Ok(Some(Err(error))) => return lost(error),
            Ok(None) => return End::lost("it ended the stream before it said that it takes tasks"),
            Err(end) => return end,
        };
        let said = match told.headers().await {
            Ok(said) => said.clone(),
            Err(error) => return lost(error),
        };
        let told = stream::iter([Ok(first)]).chain(told).boxed();
        let mut call = Call { sink, told };
        let confirmed = Confirmed::default();
        let end = match self.metadata(&worker.dialled, &said) {
            Ok(metadata) => self.serve(worker, metadata, &mut call, &confirmed).await,
            Err(refusal) => End::Refused(refusal),
        };
        if let End::Refused(refusal) = &end {
            call.end(confirmed.all(), refusal.into()).await;
        }
        end
    }

    /// Why a worker is dialled no more.
    fn stopped(&self, worker: &Worker) -> Refusal {
        match self.contact.health.state() {
            health::State::Draining => self.contact.health.stopping(),
            _ => Refusal::DialledNoMore(worker.dialled.address.to_string()),
        }
    }

    /// What the server says of itself, and by what the worker knows it.
    fn options(&self) -> Result<CallOption, String> {
        let token = self.config.token_file.as_deref().map(secret::read).transpose()?.map(|(token, _)| token);
        let options = CallOption::default().headers(self.contact.introduction(None, None));
        Ok(secret::signed(options, token.as_ref()))
    }

    /// Waits for a word of a worker that does not take tasks yet.
    async fn patiently<T>(&self, worker: &Worker, word: impl Future<Output = T>) -> Result<T, End> {
        let enough = future::select(Delay::new(PATIENCE), worker.ended.clone());
        match future::select(pin!(word), enough).await {
            Either::Left((word, _)) => Ok(word),
            Either::Right((Either::Left(_), _)) => Err(End::lost(format!(
                "it does not say that it takes tasks, by an empty Result, for {} s",
                PATIENCE.as_secs()
            ))),
            Either::Right((Either::Right(_), _)) => Err(End::Refused(self.stopped(worker))),
        }
    }

    /// What a worker says of itself, completed by what it is dialled for, which it must not contradict.
    fn metadata(&self, dialled: &Dialled, said: &grpcio::Metadata) -> Result<Metadata, Refusal> {
        let peer = dialled.address.shared();
        let access = &self.contact.access;
        let mut metadata = Metadata::of(said, Caller::nobody(peer), access)?;
        let join = &mut metadata.join;
        // It shows no token that labels could be bound to: of keys that are bound it is not believed.
        join.labels = std::mem::take(&mut join.labels).overridden(&Labels::default(), |key| access.binds(key));
        for (key, wanted, says) in
            [("contact-group", &dialled.group, &mut join.group), ("contact-client", &dialled.client, &mut join.client)]
        {
            match (wanted, &says) {
                (Some(wanted), Some(other)) if wanted != other => {
                    let problem =
                        format!("the worker says {:?}, and is dialled for {:?}", other.as_str(), wanted.as_str());
                    return Err(Refusal::Metadata { key, problem });
                }
                (Some(wanted), _) => *says = Some(wanted.clone()),
                (None, _) => {}
            }
        }
        // Its address stays the same, so that a worker which says no name has one.
        join.client.get_or_insert_with(|| dialled.address.clone());
        Ok(metadata)
    }

    /// Hears what the worker still has, and then gives it tasks.
    async fn serve(&self, worker: &Worker, metadata: Metadata, call: &mut Call, confirmed: &Confirmed) -> End {
        let address = &worker.dialled.address;
        let mut intake = match self.contact.intake(metadata.clone()).await {
            Ok(intake) => intake,
            Err(refusal) => return End::Refused(refusal),
        };
        intake.awaits_ready = true;
        while intake.awaits_ready {
            let ended = match self.patiently(worker, take(&mut intake, &mut call.told, confirmed)).await {
                Ok(ended) => ended,
                Err(end) => return end,
            };
            if let Some(ended) = ended {
                return over(ended);
            }
            let so_far = pb::ServerMsg { confirmed: confirmed.all(), ..pb::ServerMsg::default() };
            if let Err(error) = call.sink.send((so_far, WriteFlags::default())).await {
                return lost(error);
            }
        }
        let entered = match self.contact.enter(metadata).await {
            Ok(entered) => entered,
            Err(refusal) => return End::Refused(refusal),
        };
        info!("{address} is connected, as {:?}", &*entered.client);
        {
            let mut state = worker.lock();
            (state.connected, state.trouble) = (Some((Time::now(), entered.client.clone())), None);
        }
        call.sink.enhance_batch(true);
        let mut pump: Pump<_> = entered.pump(self.contact.clone(), &mut call.sink, None, Some(confirmed.clone()));
        let told = &mut call.told;
        let taking = async {
            loop {
                if let Some(ended) = take(&mut intake, told, confirmed).await {
                    break ended;
                }
            }
        };
        let ended = {
            let carrying = pin!(pump.carry());
            let taking = pin!(taking);
            let streams = future::select(taking, carrying);
            match future::select(streams, worker.ended.clone()).await {
                Either::Left((Either::Left((Ok(()), _)), _)) => Ended::Disconnected(grpcio::Error::RemoteStopped),
                Either::Left((Either::Left((Err(ended), _)) | Either::Right((ended, _)), _)) => ended,
                Either::Right(_) => Ended::Refused(self.stopped(worker)),
            }
        };
        pump.leave(&ended).await;
        over(Err(ended))
    }
}

/// Takes what a worker tells, and confirms it when it is on disk. Says how the stream ended, if it has.
async fn take(
    intake: &mut Intake,
    told: &mut BoxStream<'static, grpcio::Result<Decoded<pb::Result>>>,
    confirmed: &Confirmed,
) -> Option<Result<(), Ended>> {
    let (messages, ended) = intake.take(told).await;
    if messages > 0 {
        if let Err(error) = intake.flushed().await {
            return Some(Err(error.into()));
        }
        confirmed.add(messages);
    }
    ended
}

fn over(ended: Result<(), Ended>) -> End {
    match ended {
        Ok(()) => End::lost("it ended the stream"),
        Err(Ended::Refused(refusal)) => End::Refused(refusal),
        Err(Ended::Disconnected(error)) => lost(error),
    }
}

fn lost(error: grpcio::Error) -> End {
    let ended = matches!(error, grpcio::Error::RemoteStopped | grpcio::Error::RpcFinished(None));
    let status = rpc_status::status_of(error);
    let why = match status.code() {
        _ if ended => "it ended the stream".into(),
        RpcStatusCode::UNIMPLEMENTED => format!("what is there is no worker: {}", rpc_status::text(&status)),
        _ => match rpc_status::text(&status) {
            text if text.contains(target::HTTP_1) => {
                "what is there does not speak HTTP/2 without TLS; one that speaks TLS is dialled with --dial-tls-ca"
                    .into()
            }
            text => text,
        },
    };
    End::Lost { why, contested: status.code() == RpcStatusCode::ABORTED }
}

impl Call {
    /// Says why the server ends the stream, and lets the worker end its side. What that still tells is not heard any more: it tells it again,
    /// or its tasks come again.
    async fn end(mut self, confirmed: u64, refused: pb::Refused) {
        let ending = async {
            let last = pb::ServerMsg { confirmed, refused: Some(refused).into(), ..pb::ServerMsg::default() };
            self.sink.send((last, WriteFlags::default())).await?;
            self.sink.close().await?;
            while let Some(Ok(_)) = self.told.next().await {}
            Ok::<_, grpcio::Error>(())
        };
        if let Either::Left((Err(error), _)) = future::select(pin!(ending), Delay::new(LAST_WORDS)).await {
            debug!("a dialled stream ended early: {error}");
        }
    }
}
