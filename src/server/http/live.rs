//! What is going on now: one snapshot a second for all that watch; while none does, one for each step of the history.

use std::mem::take;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use futures::future;
use log::warn;
use tokio::sync::{Notify, watch};

use super::answer::Refused;
use super::history::{History, STEP, Sample};
use super::json::{self, Point, State, Totals};
use super::last_reports::{LastReports, News};
use super::lists::Lists;
use super::servers;
use crate::broker::{BrokerError, ClientInfo, Disconnected, Meter, Overview};
use crate::latency::Latency;
use crate::server::about::millis;
use crate::server::health::{self, Health};
use crate::server::machine::{Disk, Process};
use crate::server::operator::{
    BROKER_SHARE, Facts, Finding, Group, Operator, Servers, Standing, Wanted, count_groups, judge, latest_results,
};
use crate::server::refusal::Refusal;
use crate::store::Positions;
use crate::task::{TaskId, Time};

/// How often there is one.
const EVERY: Duration = Duration::from_secs(1);
/// Clients, groups and tasks in a state.
const SHOWN: usize = 100;
const RECENT: usize = 20;
/// Rates are of what came since the last snapshot, if that is not older; else of a moment.
const LOOK_BACK: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_millis(250);

/// The newest snapshot, if there ever was one.
pub(super) type Newest = Option<Arc<Snapshot>>;

/// The way to it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Live(Arc<Inner>);

struct Inner {
    operator: Operator,
    health: Health,
    /// A receiver of it is somebody who watches.
    newest: watch::Sender<Newest>,
    has_watcher: Notify,
    history: Mutex<History>,
    last_reports: Mutex<LastReports>,
    clients: Lists<(), Vec<json::Client>>,
    tasks: Lists<Wanted, json::FoundTasks>,
}

/// Everything at one moment.
pub(super) struct Snapshot {
    made: Instant,
    pub(super) positions: Positions,
    pub(super) overview: Overview,
    pub(super) groups: Vec<Group>,
    pub(super) commits: Latency,
    pub(super) disk: Disk,
    pub(super) server: json::Server,
    clients: Vec<json::Client>,
    recent: Vec<json::TaskRow>,
    findings: Vec<Finding>,
    pub(super) servers: Servers,
    totals: Totals,
    point: Point,
    /// The newest step of the history.
    step: Option<Point>,
    /// Made when it is first asked for.
    event: OnceLock<Bytes>,
}

impl Live {
    pub(super) fn new(operator: Operator, health: Health) -> Live {
        Live(Arc::new(Inner {
            operator,
            health,
            newest: watch::Sender::new(None),
            has_watcher: Notify::new(),
            history: Mutex::default(),
            last_reports: Mutex::default(),
            clients: Lists::default(),
            tasks: Lists::default(),
        }))
    }

    /// Watches until the receiver is dropped.
    pub(super) fn subscribe(&self) -> watch::Receiver<Newest> {
        let newest = self.0.newest.subscribe();
        self.0.has_watcher.notify_one();
        newest
    }

    /// A snapshot that is not older than a second.
    pub(super) async fn fresh(&self) -> Result<Arc<Snapshot>, Refused> {
        let mut newest = self.subscribe();
        let found = newest.wait_for(|newest| newest.as_ref().is_some_and(|newest| newest.is_fresh())).await;
        let fresh = found.ok().and_then(|newest| newest.clone());
        fresh.ok_or_else(|| BrokerError::Stopped.into())
    }

    /// See [`History::json`].
    pub(super) fn history(&self, before: Option<i64>) -> serde_json::Value {
        self.past().json(before)
    }

    fn past(&self) -> MutexGuard<'_, History> {
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes them, until it is dropped.
    pub(super) async fn produce(self) {
        let mut last: Option<Sample> = None;
        let mut failed = false;
        let mut began = Instant::now();
        loop {
            self.until_it_is_time(began).await;
            began = Instant::now();
            let looked = match self.snapshot(&mut last).await {
                Ok((snapshot, looked)) => {
                    failed = false;
                    self.0.newest.send_replace(Some(Arc::new(snapshot)));
                    looked
                }
                // Said once, and not when the server stops, which others say.
                Err(Refusal::Broker(_)) => Duration::ZERO,
                Err(e) => {
                    if !std::mem::replace(&mut failed, true) {
                        warn!("the state cannot be shown: {e}");
                    }
                    Duration::ZERO
                }
            };
            let pause = EVERY.saturating_sub(began.elapsed()).max(looked * BROKER_SHARE);
            tokio::time::sleep(pause).await;
        }
    }

    /// There is a watcher, or the last one is a step ago.
    async fn until_it_is_time(&self, last: Instant) {
        let step_is_over = tokio::time::sleep_until((last + STEP).into());
        let has_watcher = async {
            while self.0.newest.receiver_count() == 0 {
                self.0.has_watcher.notified().await;
            }
        };
        future::select(pin!(step_is_over), pin!(has_watcher)).await;
    }

    /// Counts, without looking at anything else.
    async fn sample(&self) -> Result<Sample, Refusal> {
        let meter = self.0.operator.broker.meter().await?;
        Ok(self.sample_of(meter))
    }

    fn sample_of(&self, meter: Meter) -> Sample {
        let store = &self.0.operator.store;
        Sample { made: Instant::now(), positions: store.tail().positions(), meter, commits: store.commits() }
    }

    /// One snapshot, and how long the broker was looked at for it.
    async fn snapshot(&self, last: &mut Option<Sample>) -> Result<(Snapshot, Duration), Refusal> {
        let before = match last.take().filter(|last| last.made.elapsed() <= LOOK_BACK) {
            Some(last) => last,
            None => {
                let sample = self.sample().await?;
                tokio::time::sleep(MOMENT).await;
                sample
            }
        };
        let operator = &self.0.operator;
        let recent = operator.queries.run(|reader| reader.latest_tasks(TaskId::MAX, RECENT)).await?;
        let (mut overview, looked) = operator.broker.overview(recent.clone(), SHOWN).await?;
        overview.groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let now = self.sample_of(overview.meter.clone());

        let (about, seen) = (operator.about.clone(), self.last_reports().seen());
        let (positions, mut infos) = (now.positions, take(&mut overview.groups));
        let (never_came, idle_since) = (operator.never_came.clone(), operator.idle_since.clone());
        let (contested, missing) = (overview.contested.clone(), overview.missing.clone());
        let in_trouble = operator.schedules.in_trouble();
        let servers = operator.servers(overview.sessions.total());
        let seen_servers = servers.clone();
        let max_groups = operator.broker.config().await?.max_groups;
        let unmatched = (overview.meter.unmatched, overview.meter.last_unmatched);
        let (why, clients) = (not_ready(&self.0.health), overview.sessions.total());
        let read = move |reader: &mut dyn crate::store::Reader| {
            let now = Time::now();
            never_came.add_to(&mut infos, reader, positions.task, now)?;
            let groups = count_groups(reader, infos)?;
            let news = News::read(reader, seen, positions)?;
            let outcomes = recent.iter().map(|task| latest_results(reader, task.id, None));
            let outcomes = outcomes.collect::<Result<Vec<_>, _>>()?;
            let disk = Disk::of(&about.data, about.retention().min_free);
            let findings = judge(&Facts {
                now,
                not_ready: why.as_deref(),
                disk: disk.clone(),
                process: Process::now(),
                retention: about.retention(),
                step: about.clock.look(),
                certificate: about.certificate(),
                tasks: positions.task,
                results: positions.result,
                clients,
                groups: &groups,
                max_groups,
                idle_since: &idle_since,
                unmatched,
                contested,
                missing,
                in_trouble,
                servers: &seen_servers,
            });
            Ok((groups, news, outcomes, recent, disk, findings))
        };
        let (groups, news, outcomes, recent, disk, findings) = operator.queries.run(read).await?;
        self.last_reports().take(news);
        let clients = self.with_last(&overview.clients, &overview.disconnected).take(SHOWN).collect();
        let recent = recent.into_iter().zip(take(&mut overview.task_states)).zip(outcomes);
        let recent = recent
            .map(|((task, state), outcomes)| json::TaskRow::from(&Standing::of(task, state, outcomes, Time::now())))
            .collect();

        let totals = totals(&now.positions, &overview, &groups);
        let point = Point::between(&before, &now, &totals);
        self.past().remember(&now, point.clone(), &totals);
        let snapshot = Snapshot {
            // Counting is part of it: what has just been made is fresh, however long that took.
            made: Instant::now(),
            positions: now.positions,
            commits: now.commits.clone(),
            server: self.server(&disk, &overview),
            point,
            step: self.past().step(),
            overview,
            groups,
            clients,
            recent,
            findings,
            totals,
            disk,
            servers,
            event: OnceLock::new(),
        };
        *last = Some(now);
        Ok((snapshot, looked))
    }

    fn server(&self, disk: &Disk, overview: &Overview) -> json::Server {
        let about = &self.0.operator.about;
        let why = not_ready(&self.0.health);
        json::Server {
            version: env!("CARGO_PKG_VERSION"),
            started_at: about.started_at.0,
            listen: about.listen(),
            control: about.control(),
            ready: why.is_none(),
            why,
            data: about.data(),
            store_bytes: disk.store_bytes(),
            disk_free_bytes: disk.free,
            ack_timeout_ms: millis(overview.ack_timeout),
            max_attempts: overview.max_attempts,
        }
    }

    /// Clients, connected or gone, with what they said last as far as it is known; not older than [`Live::fresh`].
    pub(super) async fn clients(&self) -> Result<Arc<Vec<json::Client>>, Refused> {
        let newest = self.fresh().await?;
        let clients = async {
            let ((connected, gone), looked) = self.0.operator.broker.all_clients().await?;
            Ok::<_, Refusal>((self.with_last(connected.iter().rev(), &gone).collect(), looked))
        };
        Ok(self.0.clients.get(newest.made, (), clients).await?)
    }

    /// Tasks, not older than [`Live::fresh`].
    pub(super) async fn tasks(&self, wanted: Wanted) -> Result<Arc<json::FoundTasks>, Refused> {
        let newest = self.fresh().await?;
        let found = async {
            let (found, looked) = wanted.clone().find(&self.0.operator).await?;
            Ok::<_, Refusal>((json::FoundTasks::from(found), looked))
        };
        Ok(self.0.tasks.get(newest.made, wanted.clone(), found).await?)
    }

    fn with_last<'a>(
        &'a self,
        connected: impl IntoIterator<Item = &'a ClientInfo>,
        gone: &'a [Disconnected],
    ) -> impl Iterator<Item = json::Client> {
        let last_reports = self.last_reports();
        let connected = connected.into_iter().map(|client| (client, None));
        let clients = connected.chain(gone.iter().map(|gone| (&gone.client, Some(gone.at.0))));
        clients.map(move |(client, gone_at)| json::Client::of(client, gone_at, last_reports.last(label(client))))
    }

    /// Only ever locked on this thread, and not for long.
    fn last_reports(&self) -> MutexGuard<'_, LastReports> {
        self.0.last_reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the log of results calls a client.
fn label(client: &ClientInfo) -> &str {
    client.client.as_ref().map_or(&client.peer, |id| id.as_str())
}

/// Why the server takes no work, if it does not.
pub(super) fn not_ready(health: &Health) -> Option<String> {
    match health.state() {
        health::State::Serving => None,
        health::State::Draining => Some("the server is stopping".into()),
        health::State::StoreFailed(why) => Some(why),
    }
}

fn totals(positions: &Positions, overview: &Overview, groups: &[Group]) -> Totals {
    Totals {
        tasks: positions.task,
        results: positions.result,
        statuses: positions.status,
        clients: overview.sessions.total(),
        groups: groups.iter().filter(|group| !group.info.never_came).count(),
        in_flight: groups.iter().map(|group| group.info.in_flight as u64).sum(),
        lag: groups.iter().map(|group| group.lag).sum(),
        dead: groups.iter().map(|group| group.dead).sum(),
    }
}

impl Snapshot {
    /// Whether it says how things are now.
    pub(super) fn is_fresh(&self) -> bool {
        self.made.elapsed() < EVERY
    }

    /// When it was made.
    pub(super) fn at(&self) -> i64 {
        self.point.at
    }

    /// The event that every listener is sent.
    pub(super) fn event(&self) -> Bytes {
        self.event.get_or_init(|| event("state", &self.state())).clone()
    }

    /// The state alone: what stands in the event.
    pub(super) fn json(&self) -> Bytes {
        let event = self.event();
        event.slice(EVENT_HEAD + "state".len()..event.len() - EVENT_END.len())
    }

    /// The groups, first those that want attention, then those with most to do; at last those that are not there, so that they push
    /// none out of what is shown.
    pub(super) fn by_attention(&self) -> Vec<&Group> {
        let mut groups: Vec<&Group> = self.groups.iter().collect();
        groups.sort_by_key(|group| {
            let alone = group.lag > 0 && group.info.clients == 0;
            let attention = (!group.info.paused, !alone, group.dead == 0);
            (group.info.never_came, attention, std::cmp::Reverse(group.lag))
        });
        groups
    }

    fn state(&self) -> State<'_> {
        let groups = self.by_attention();
        let shown = SHOWN.min(groups.len());
        State {
            at: self.at(),
            server: &self.server,
            totals: &self.totals,
            point: &self.point,
            step: self.step.as_ref(),
            groups: groups[..shown].iter().map(|group| json::Group::from(*group)).collect(),
            groups_left_out: groups.len() - shown,
            clients_left_out: self.overview.sessions.total() + self.overview.disconnected.len() - self.clients.len(),
            clients: self.clients.clone(),
            recent: &self.recent,
            findings: self.findings.iter().map(json::Finding::from).collect(),
            cluster: (!self.servers.alone).then(|| servers::Servers::from(&self.servers)),
        }
    }
}

const EVENT_HEAD: usize = "event: \ndata: ".len();
const EVENT_END: &str = "\n\n";

/// A server-sent event. JSON has no line breaks in it.
pub(super) fn event(name: &str, data: &impl serde::Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}{EVENT_END}").into()
}
