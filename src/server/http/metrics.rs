//! `/metrics`, in the text format of Prometheus. docs/monitoring.md says what each means.
//!
//! Nothing is counted here: the broker, the store and the services count as they go, and their numbers are put into the format
//! when somebody asks for them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse as _;
use axum::routing::get;
use log::warn;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder as _, TEXT_FORMAT, TextEncoder};
use tokio::sync::Mutex;

use super::answer::{Answer, Refused};
use super::app::AppState;
use super::events;
use super::live::{Snapshot, not_ready};
use crate::broker::Tally;
use crate::latency::Latency;
use crate::server::about::About;
use crate::server::limits::Limit;
use crate::server::machine::Process;
use crate::server::operator::{Group, Servers};
use crate::server::refusal_counts;
use crate::server::traffic::Flow;
use crate::store::Unwritten;
use crate::task::{GroupName, Outcome};

/// Groups that have a label of their own: the first that were there. All others together are [`OTHERS`], with those that are not
/// there: a misspelt name takes no label.
const LABELLED: usize = 200;
const OTHERS: &str = "_other";
/// The clients that said nothing of themselves.
const ANONYMOUS: &str = "_anonymous";

pub(super) fn router() -> Router<AppState> {
    let labelled = Arc::new(Mutex::new(Labelled::default()));
    Router::new().route("/metrics", get(async move |app: State<AppState>| scrape(app, &labelled).await))
}

async fn scrape(State(app): State<AppState>, labelled: &Mutex<Labelled>) -> Answer {
    // Before there is a snapshot: they are counted on from in their order.
    let mut labelled = labelled.lock().await;
    let snapshot = app.live.fresh().await?;
    let process = app.operator.queries.run(|_| Ok(Process::now())).await?;
    let mut families = Families::default();
    server(&mut families, &app, &snapshot);
    cluster(&mut families, &snapshot.servers);
    machine(&mut families, &process);
    groups(&mut families, &labelled.sort(&snapshot), &snapshot);
    answer(families)
}

/// Of a server that follows: what it knows itself.
#[cfg(feature = "cluster")]
pub(super) fn of_follower(about: &About, ready: bool, servers: &Servers) -> Answer {
    let mut families = Families::default();
    build(&mut families, ready);
    front(&mut families, about);
    cluster(&mut families, servers);
    machine(&mut families, &Process::now());
    answer(families)
}

fn answer(families: Families) -> Answer {
    match families.text() {
        Ok(text) => Ok(([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response()),
        Err(e) => {
            warn!("the metrics cannot be written: {e}");
            let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
            Err(Refused::new(status, "HTTP_METRICS", format!("the metrics cannot be written: {e}")))
        }
    }
}

fn build(to: &mut Families, ready: bool) {
    let version = ("version", env!("CARGO_PKG_VERSION"));
    to.gauge("contact_build_info", "Always 1; the version of the server is a label.", &[version], 1.0);
    to.gauge("contact_ready", "1 if the server takes work, as /readyz says.", &[], f64::from(u8::from(ready)));
}

fn front(to: &mut Families, about: &About) {
    let text = "Connections that are open through a front: by TLS, or on a port that others reach.";
    to.gauge("contact_front_connections", text, &[], about.front.open() as f64);
    for (reason, count) in about.front.refused() {
        let text = "Connections that were not let in by a front, or were cut.";
        to.counter("contact_front_connections_refused_total", text, &[("reason", reason)], count);
    }
}

fn server(to: &mut Families, app: &AppState, now: &Snapshot) {
    build(to, not_ready(&app.health).is_none());
    front(to, &app.operator.about);
    let failed = app.operator.store.failure().is_some();
    let text = "1 if the store takes nothing now: a write failed, or its lock is held by another program for 10 s.";
    to.gauge("contact_store_failed", text, &[], f64::from(u8::from(failed)));
    let locked = app.operator.store.locked_for().unwrap_or_default();
    let text = "For how long another program has held the lock of the database that a write waits for; 0: it does not.";
    to.gauge("contact_store_locked_seconds", text, &[], locked.as_secs_f64());

    let at = now.positions;
    let logs = [
        ("contact_tasks_accepted_total", "Tasks accepted since the store was made.", at.task),
        ("contact_results_total", "Results written down since the store was made.", at.result),
        ("contact_statuses_total", "Statuses written down since the store was made.", at.status),
    ];
    logs.into_iter().for_each(|(name, help, count)| to.counter(name, help, &[], count));

    let sessions = now.overview.sessions;
    let kinds = [("anonymous", sessions.anonymous), ("named", sessions.named), ("member", sessions.members)];
    for (kind, count) in kinds {
        let text = "Clients that are connected: anonymous, with an id, or members of a group.";
        to.gauge("contact_sessions", text, &[("kind", kind)], count as f64);
    }

    let (dialled, connected) = app.operator.dialler.count();
    for (state, count) in [("connected", connected), ("not_connected", dialled - connected)] {
        let text = "Workers that the server dials, by whether they are connected.";
        to.gauge("contact_dialled_workers", text, &[("state", state)], count as f64);
    }

    let listeners = events::LISTENERS - app.listeners.available_permits();
    let text = "Streams of events that are open, for pages and others. No more than 100 at once.";
    to.gauge("contact_event_listeners", text, &[], listeners as f64);

    let text = "Connections to the page, its API and metrics. No more than 256 at once, and 32 beside them.";
    to.gauge("contact_http_connections", text, &[], app.places.taken() as f64);

    let meter = &now.overview.meter;
    let text = "From when a task could first go to a group to its first delivery there.";
    to.histogram("contact_wait_seconds", text, &[], &meter.wait);
    let text = "From a delivery to the client's word that settled the task.";
    to.histogram("contact_work_seconds", text, &[], &meter.work);
    let text = "Acknowledgements without an id that no delivery to their address was waiting for.";
    to.counter("contact_unmatched_acknowledgements_total", text, &[], meter.unmatched);
    let text = "Outcomes that did not count: who told them did not hold the task, or showed no receipt.";
    to.counter("contact_foreign_outcomes_total", text, &[], meter.foreign);
    let text = "Results that came too late and were not written down: their task has 64 such of the group.";
    to.counter("contact_late_results_dropped_total", text, &[], meter.late_dropped);
    let text = "Client ids that several processes fight for.";
    to.gauge("contact_contested_clients", text, &[], now.overview.contested.len() as f64);
    let runs = &app.operator.runs;
    to.gauge("contact_runs_open", "Runs that go on. No more than 100 at once.", &[], runs.going() as f64);
    for (phase, count) in runs.ended() {
        let text = "Runs that ended since the start, by how.";
        to.counter("contact_runs_ended_total", text, &[("how", phase.as_str())], count as u64);
    }
    let schedules = &app.operator.schedules;
    to.gauge("contact_schedules", "Schedules. No more than 1,000.", &[], schedules.count() as f64);
    let (made, passed) = schedules.made();
    to.counter("contact_schedule_tasks_total", "Tasks that schedules made, since the start.", &[], made);
    let text = "Moments of schedules that were missed and have no task, since the start.";
    to.counter("contact_schedule_missed_total", text, &[], passed);
    let text = "Clients that are a group of their own and were away for more than three days.";
    to.gauge("contact_clients_missing", text, &[], now.overview.missing.len() as f64);
    to.histogram("contact_commit_seconds", "A transaction of the store, with its sync to the disk.", &[], &now.commits);

    for flow in Flow::ALL {
        let ((rpc, direction), (messages, bytes)) = (flow.names(), app.operator.traffic.of(flow));
        let labels = [("rpc", rpc), ("direction", direction)];
        to.counter("contact_messages_total", "Messages from clients (in) and to them (out).", &labels, messages);
        to.counter("contact_text_bytes_total", "Bytes of the texts in these messages.", &labels, bytes);
    }
    for (port, admission) in ["listen", "control"].into_iter().zip(&app.operator.admissions) {
        let text = "Calls that are open over gRPC, by the port of clients (listen) or operators (control).";
        to.gauge("contact_calls_open", text, &[("port", port)], admission.open() as f64);
    }
    for (cause, count) in refusal_counts::all() {
        to.counter(
            "contact_refusals_total",
            "Calls and requests that were refused, or ended.",
            &[("cause", cause)],
            count,
        );
    }

    for (limit, count) in app.operator.access.accounts().reached() {
        let text = "How often an identity was refused, held up or given less because of a limit of its own.";
        let count = if limit == Limit::Bytes { meter.quotas_filled } else { count };
        to.counter("contact_identity_limits_total", text, &[("limit", limit.name())], count);
    }
    let text = "Lines of the log that were dropped, since nobody read standard error.";
    to.counter("contact_log_lines_dropped_total", text, &[], crate::log_queue::dropped());

    let text = "Statuses that were not stored, since their client or its host sent too many.";
    to.counter("contact_statuses_dropped_total", text, &[], app.operator.status_rate.dropped());
    for what in Unwritten::ALL {
        let text =
            "Tasks, statuses and late results that were not stored, since the disk had less room than --min-free.";
        let count = app.operator.store.unwritten(what);
        to.counter("contact_disk_low_unwritten_total", text, &[("what", what.name())], count);
    }

    for (file, bytes) in [("db", now.disk.db), ("wal", now.disk.wal)] {
        let text = "What the store takes: the database, and the log that is not in it yet.";
        to.gauge("contact_store_bytes", text, &[("file", file)], bytes as f64);
    }
    if let Some(bytes) = now.disk.free {
        to.gauge("contact_disk_free_bytes", "What may still be written to the store's disk.", &[], bytes as f64);
        let text =
            "What is to stay free there: below, statuses are not stored, and below half of it no tasks are accepted.";
        to.gauge("contact_disk_min_free_bytes", text, &[], now.disk.floor as f64);
    }
    let started = now.server.started_at as f64 / 1000.0;
    to.gauge("process_start_time_seconds", "When the server was started, in seconds since 1970.", &[], started);
}

/// Of a server that is alone there is nothing.
fn cluster(to: &mut Families, servers: &Servers) {
    if servers.alone {
        return;
    }
    let (now, view) = (servers.now, &servers.view);
    let cluster = ("cluster", view.cluster.as_str());
    let this = view.servers.iter().find(|seen| seen.is_this).map(|seen| &seen.says);
    let leads = this.is_some_and(|says| says.leads);
    to.gauge(
        "contact_cluster_is_leader",
        "1 if this server leads the cluster.",
        &[cluster],
        f64::from(u8::from(leads)),
    );
    let epoch = this.map_or(0, |says| says.epoch);
    let text = "The place in the log at which the present term began.";
    to.gauge("contact_cluster_epoch", text, &[cluster], epoch as f64);
    let here = || view.servers.iter().filter(|seen| seen.is_here(now));
    for role in ["leading", "following"] {
        let count = here().filter(|seen| seen.says.leads == (role == "leading")).count();
        let text = "Servers that were heard of within 5 s.";
        to.gauge("contact_cluster_servers", text, &[cluster, ("role", role)], count as f64);
    }
    for seen in here().filter(|seen| !seen.says.leads) {
        let text = "How many messages of the log a server that follows has yet to apply.";
        to.gauge("contact_cluster_log_lag", text, &[cluster, ("server", &seen.says.server)], seen.says.lag as f64);
    }
    let text = "From when a record was sent to the log until NATS had acknowledged it.";
    to.histogram("contact_cluster_append_seconds", text, &[cluster], &view.appends);
    let text = "How often this server began to lead since its start.";
    to.counter("contact_cluster_takeovers_total", text, &[cluster], view.takeovers);
    let Some(log) = &view.log else { return };
    let text = "NATS servers that keep the log, are there and have all of it.";
    to.gauge("contact_cluster_log_replicas", text, &[cluster], log.current() as f64);
    to.gauge("contact_cluster_log_messages", "Messages that the log has.", &[cluster], log.messages as f64);
    to.gauge("contact_cluster_log_bytes", "Bytes that the log takes on each of them.", &[cluster], log.bytes as f64);
    let text = "What NATS is set to that may lose tasks, or stop the servers.";
    to.gauge("contact_cluster_log_troubles", text, &[cluster], log.trouble.len() as f64);
}

/// Under the names that all programs have them by.
fn machine(to: &mut Families, process: &Process) {
    let gauges = [
        ("process_open_fds", "Files that are open; each client is one.", process.open_fds),
        ("process_max_fds", "Files that may be open.", process.max_fds),
        ("process_resident_memory_bytes", "Memory that is in use.", process.resident_bytes),
        ("process_threads", "Threads, C-core's included.", process.threads),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            to.gauge(name, help, &[], value as f64);
        }
    }
    if let Some(seconds) = process.cpu_seconds {
        to.add("process_cpu_seconds_total", "Time on the processors.", &[], count_of(seconds));
    }
}

fn groups(to: &mut Families, parts: &[(&str, Part)], now: &Snapshot) {
    let never_came = now.groups.iter().filter(|group| group.info.never_came).count();
    to.gauge("contact_groups", "Groups that there are.", &[], (now.groups.len() - never_came) as f64);
    let text = "Groups that tasks wait for and that are not there: perhaps the name is misspelt.";
    to.gauge("contact_groups_never_came", text, &[], never_came as f64);
    for (name, part) in parts {
        let label = [("group", *name)];
        to.counter("contact_deliveries_total", "Tasks put on streams.", &label, part.tally.delivered);
        // Also those that there were none of yet: from nothing to one is an increase only if nothing was there.
        for outcome in Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Working) {
            let called = outcome.to_string().to_lowercase();
            let labels = [("group", *name), ("outcome", called.as_str())];
            to.counter("contact_outcomes_total", "What came of deliveries.", &labels, part.tally.of(outcome));
        }
        let text = "Outcomes that came when the task was settled already.";
        to.counter("contact_late_outcomes_total", text, &label, part.tally.late);
        let Some(state) = &part.state else { continue };
        let gauges = [
            ("contact_group_clients", "Clients that are connected.", state.clients as f64),
            ("contact_group_in_flight", "Tasks that are with a client.", state.in_flight as f64),
            ("contact_group_lag", "Tasks that are not settled, in flight or waiting.", state.lag as f64),
            ("contact_group_dead_letters", "Tasks that were given up.", state.dead as f64),
            ("contact_group_paused", "1 if delivery is stopped; of others together, how many.", state.paused as f64),
            ("contact_group_oldest_age_seconds", "How old the oldest task is that is not settled.", state.oldest_age),
        ];
        gauges.into_iter().for_each(|(name, help, value)| to.gauge(name, help, &label, value));
    }
}

/// A group, or several together.
#[derive(Default)]
struct Part {
    tally: Tally,
    /// Not of anonymous clients, which owe nothing.
    state: Option<GroupGauges>,
}

#[derive(Default)]
struct GroupGauges {
    clients: usize,
    in_flight: usize,
    lag: u64,
    dead: u64,
    paused: usize,
    oldest_age: f64,
}

impl Part {
    fn add(&mut self, group: &Group, at: i64) {
        let state = self.state.get_or_insert_default();
        state.clients += group.info.clients;
        state.in_flight += group.info.in_flight;
        state.lag += group.lag;
        state.dead += group.dead;
        state.paused += usize::from(group.info.paused);
        let age = group.oldest.map_or(0.0, |(_, accepted_at)| (at - accepted_at.0).max(0) as f64 / 1000.0);
        state.oldest_age = state.oldest_age.max(age);
    }
}

/// The groups with a label of their own. A group keeps its label for as long as it is there.
///
/// What the others did is added up from scrape to scrape: what came in all, without what came of those with labels. A difference
/// of totals would rise by all that a group ever did when it is removed, and fall when one of the others gets a label.
#[derive(Default)]
struct Labelled {
    /// As they were last shown.
    tallies: HashMap<GroupName, Tally>,
    /// Of all groups that are not anonymous clients, at that time.
    total: Tally,
    others: Tally,
}

impl Labelled {
    /// Each label and what it stands for.
    fn sort<'a>(&mut self, now: &'a Snapshot) -> Vec<(&'a str, Part)> {
        let is_there = |group: &&Group| !group.info.never_came;
        let there: HashSet<&GroupName> = now.groups.iter().filter(is_there).map(|group| &group.info.name).collect();
        self.tallies.retain(|name, _| there.contains(name));
        let anonymous = Part { tally: now.overview.meter.anonymous.clone(), state: None };
        let total = fieldwise(&now.overview.meter.total, &anonymous.tally, u64::saturating_sub);
        let mut grown = fieldwise(&total, &self.total, u64::saturating_sub);
        self.total = total;
        let mut others = Part { tally: Tally::default(), state: Some(GroupGauges::default()) };
        let mut parts = Vec::new();
        for group in &now.groups {
            let (name, tally) = (&group.info.name, &group.info.tally);
            let is_free =
                is_there(&group) && ![OTHERS, ANONYMOUS].contains(&name.as_str()) && self.tallies.len() < LABELLED;
            if !self.tallies.contains_key(name) && !is_free {
                others.add(group, now.at());
                continue;
            }
            let last = self.tallies.insert(name.clone(), tally.clone()).unwrap_or_default();
            grown = fieldwise(&grown, &fieldwise(tally, &last, increase), u64::saturating_sub);
            let mut part = Part { tally: tally.clone(), state: None };
            part.add(group, now.at());
            parts.push((name.as_str(), part));
        }
        self.others = fieldwise(&self.others, &grown, u64::saturating_add);
        others.tally = self.others.clone();
        parts.extend([(OTHERS, others), (ANONYMOUS, anonymous)]);
        parts
    }
}

/// How much a count rose. One that fell began again: another group has the name now.
fn increase(now: u64, last: u64) -> u64 {
    now.checked_sub(last).unwrap_or(now)
}

fn fieldwise(one: &Tally, other: &Tally, of: impl Fn(u64, u64) -> u64) -> Tally {
    let mut outcomes = one.outcomes;
    outcomes.iter_mut().zip(other.outcomes).for_each(|(one, other)| *one = of(*one, other));
    Tally { delivered: of(one.delivered, other.delivered), late: of(one.late, other.late), outcomes }
}

/// What is exposed, by name.
#[derive(Default)]
struct Families(BTreeMap<&'static str, (&'static str, MetricType, Vec<Metric>)>);

/// Upper ends of the buckets, in microseconds.
const BUCKETS: [u64; 20] = [
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    3_600_000_000,
    86_400_000_000,
];

impl Families {
    fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::default();
        metric.set_gauge(gauge);
        self.put(name, help, MetricType::GAUGE, labels, metric);
    }

    fn counter(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)], value: u64) {
        self.add(name, help, labels, count_of(value as f64));
    }

    fn add(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)], counter: Counter) {
        let mut metric = Metric::default();
        metric.set_counter(counter);
        self.put(name, help, MetricType::COUNTER, labels, metric);
    }

    fn histogram(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)], latency: &Latency) {
        let seconds = |micros: u64| micros as f64 / 1e6;
        let bucket = |micros: u64| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(seconds(micros));
            bucket.set_cumulative_count(latency.upto(micros));
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(BUCKETS.into_iter().map(bucket).collect());
        histogram.set_sample_count(latency.count());
        histogram.set_sample_sum(seconds(latency.sum()));
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.put(name, help, MetricType::HISTOGRAM, labels, metric);
    }

    fn put(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: MetricType,
        labels: &[(&str, &str)],
        mut metric: Metric,
    ) {
        let label = |(name, value): &(&str, &str)| {
            let mut label = LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value((*value).to_owned());
            label
        };
        metric.set_label(labels.iter().map(label).collect());
        self.0.entry(name).or_insert_with(|| (help, kind, Vec::new())).2.push(metric);
    }

    fn text(self) -> prometheus::Result<Vec<u8>> {
        let family = |(name, (help, kind, metrics)): (&str, (&str, MetricType, Vec<Metric>))| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family.set_metric(metrics);
            family
        };
        let families: Vec<MetricFamily> = self.0.into_iter().map(family).collect();
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}

fn count_of(value: f64) -> Counter {
    let mut counter = Counter::default();
    counter.set_value(value);
    counter
}
