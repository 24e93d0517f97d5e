//! What can happen to a server, at random.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use contact::attachment::{Attachment, Headers};
use contact::broker::{Config, Join, OutcomeReport, Quota, Receipt, Reporter, StartAt};
use contact::group_limits::{LimitsChange, OnDead, PerSecond};
use contact::retry::RetryPolicy;
use contact::run::{Rollout, Share, Wish};
use contact::task::{Audience, NewTask, Outcome, Priority, Progress, Replace, TaskId, TimeLimit};
use proptest::prelude::*;
use proptest::sample::Index;

use super::world::{World, name, outcome_report};

/// Groups that tasks are addressed to. Some never come.
pub(crate) const GROUPS: [&str; 7] = ["a", "b", "c", "g", "h", "anonymous", "nobody"];

/// How long tasks wait before they go out again.
const POLICIES: [&str; 3] = ["first=0s", "first=2s,factor=3,cap=5s,jitter=0", "first=1s,jitter=0.5"];
/// The same of groups.
const OF_GROUPS: [&str; 4] = ["", "max=2", "max=6,first=3s", "first=4s,factor=1,jitter=0"];

/// What some tasks have to do with.
/// By which tasks take each other's place.
const KEYS: [&str; 2] = ["config", "rate"];

const LANES: [&str; 3] = ["x", "y", "z"];

/// What clients say that they are, and for whom tasks are.
const LABELS: [&str; 4] = ["", "os=linux", "os=linux,role=web", "role=db,canary"];
const SELECTORS: [&str; 4] = ["os=linux", "role in (web,db),!canary", "canary", "role notin (db)"];

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Submit(Vec<Spec>, News),
    /// With so many lanes; 0: in none.
    Flood(usize, Priority, usize, News),
    Announce,
    Join(Who),
    Leave(Index),
    /// With the server that it is connected to.
    Lose(Index),
    /// The client reads only when it is told to.
    Slow(Index),
    Read(Index, u64),
    Fast(Index),
    Report(ReportOp),
    ReportOldest(u8, Outcome),
    ReporterConnected(u8),
    ReporterDisconnected(u8),
    Wait(u64),
    /// By so many milliseconds the time of day is another.
    Step(i64),
    WaitForDue,
    Answer(Index, bool),
    Checkpoint,
    Sync,
    Crash(Index),
    /// Another server leads: the streams of which a bit is set stay.
    ChangeLeader(Index, u64),
    /// Whether this server leads is not known, or known again.
    HoldBack(bool),
    /// Clients wait for an answer of the server, or are refused one.
    KeepWaiting,
    Restart,
    Hold(usize),
    Pause(usize, bool),
    Drain(u8, Option<u64>),
    Undrain(u8),
    SetRetry(usize, &'static str),
    SetLimits(usize, LimitsChange),
    RemoveGroup(usize),
    Cancel(Index),
    Revive(usize, Index),
    DropDead(usize, Index),
    /// What retention may remove.
    Floor,
    /// A page is read, and comes later.
    ReadEarly(Index),
    BeginRun(RunSpec),
    /// What the server's thread does for a run, again and again.
    Round(Index),
    Wish(Index, Wish),
}

/// A run, for the groups that match, or for some of those that are there.
#[derive(Debug, Clone)]
pub(crate) struct RunSpec {
    pub(crate) select: Option<&'static str>,
    pub(crate) to: Vec<usize>,
    pub(crate) include_new: bool,
    pub(crate) rollout: Rollout,
    pub(crate) lasts: u64,
}

/// How the core hears of tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum News {
    Committed,
    Advanced,
    Later,
}

#[derive(Debug, Clone)]
pub(crate) struct Spec {
    to: Option<usize>,
    priority: Priority,
    not_before: Option<u64>,
    expires: Option<u64>,
    max_attempts: Option<u32>,
    retry: Option<usize>,
    large: bool,
    audience: Option<Aim>,
    limit: Option<TimeLimit>,
    lane: Option<&'static str>,
    replace: Option<&'static str>,
}

/// For whom a broadcast is.
#[derive(Debug, Clone)]
enum Aim {
    Groups(Vec<usize>),
    Matching(&'static str),
}

#[derive(Debug, Clone)]
pub(crate) struct Who {
    /// Which of the identities below.
    who: usize,
    instance: Option<usize>,
    window: Option<u32>,
    from: Option<StartAt>,
    heartbeat: bool,
    begins: bool,
    stopping: bool,
    labels: &'static str,
    /// Shares the address of the first anonymous client.
    shared: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct ReportOp {
    whose: Whose,
    of: Index,
    attempt: Attempt,
    outcome: Outcome,
    delay: Option<u64>,
    progress: Option<Progress>,
    /// OutcomeReport by any client rather than by who holds it.
    by: Option<Index>,
}

/// Which tasks are reported on: if there is none of these, any.
#[derive(Debug, Clone, Copy)]
enum Whose {
    Held,
    Waiting,
    Any,
}

#[derive(Debug, Clone, Copy)]
enum Attempt {
    Unsaid,
    Right,
    Stale,
}

/// Client and group.
/// What some of them have together: enough for three of most tasks.
const QUOTA: Quota = Quota { of: 1, window: 4, bytes: 450 };

const WHO: [(Option<&str>, Option<&str>); 10] = [
    (None, None),
    (None, None),
    (Some("a"), None),
    (Some("b"), None),
    (Some("c"), None),
    (Some("w1"), Some("g")),
    (Some("w2"), Some("g")),
    (Some("w3"), Some("g")),
    (Some("a"), Some("h")),
    (None, Some("h")),
];

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![1 => Just(Priority::High), 3 => Just(Priority::Normal), 1 => Just(Priority::Low)]
}

fn rarely<T: Clone + std::fmt::Debug>(some: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.15, some)
}

fn spec() -> impl Strategy<Value = Spec> {
    spec_of(0.4, 0.25)
}

/// Of which so many are in lanes, and so many replace others.
fn spec_of(lanes: f64, replaces: f64) -> impl Strategy<Value = Spec> {
    let seconds = || rarely(1..60_u64);
    (
        prop::option::weighted(0.4, 0..GROUPS.len()),
        priority(),
        seconds(),
        seconds(),
        rarely(1..4_u32),
        rarely(0..POLICIES.len()),
        prop::bool::weighted(0.1),
        (
            prop::option::weighted(0.4, aim()),
            rarely(limit()),
            prop::option::weighted(lanes, prop::sample::select(&LANES[..])),
            prop::option::weighted(replaces, prop::sample::select(&KEYS[..])),
        ),
    )
        .prop_map(
            |(to, priority, not_before, expires, max_attempts, retry, large, (audience, limit, lane, replace))| Spec {
                limit,
                lane,
                replace,
                audience: audience.filter(|_| to.is_none()),
                to,
                priority,
                not_before,
                expires,
                max_attempts,
                retry,
                large,
            },
        )
}

fn limits() -> impl Strategy<Value = LimitsChange> {
    let per_second = |thousandths| PerSecond::of_thousandths(thousandths).unwrap();
    let max_begun =
        prop_oneof![2 => Just(None), 1 => Just(Some(per_second(2_500))), 1 => Just(Some(per_second(90_000)))];
    let on_dead = prop_oneof![Just(OnDead::Hold), Just(OnDead::Release)];
    (
        prop::option::of(prop::option::of((1..4_u32).prop_map(|max| NonZeroU32::new(max).unwrap()))),
        rarely(max_begun),
        prop::option::of((1..3_u32).prop_map(|max| NonZeroU32::new(max).unwrap())),
        prop::option::of(on_dead),
    )
        .prop_map(|(max_in_flight, max_begun, lane_max, on_dead)| LimitsChange {
            max_in_flight,
            max_begun,
            lane_max,
            on_dead,
        })
}

fn limit() -> impl Strategy<Value = TimeLimit> {
    (1..100_u32, any::<bool>())
        .prop_map(|(millis, fails)| TimeLimit { millis: NonZeroU32::new(millis).unwrap(), fails })
}

fn aim() -> impl Strategy<Value = Aim> {
    let groups = prop::collection::vec(0..GROUPS.len(), 2..4).prop_map(Aim::Groups);
    prop_oneof![1 => groups, 2 => prop::sample::select(&SELECTORS[..]).prop_map(Aim::Matching)]
}

fn news() -> impl Strategy<Value = News> {
    prop_oneof![8 => Just(News::Committed), 1 => Just(News::Advanced), 2 => Just(News::Later)]
}

fn who() -> impl Strategy<Value = Who> {
    let from = prop_oneof![Just(StartAt::First), Just(StartAt::New)];
    (
        0..WHO.len(),
        prop::option::of(0..2_usize),
        prop::option::of(1..6_u32),
        rarely(from),
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        prop::sample::select(&LABELS[..]),
    )
        .prop_map(|(who, instance, window, from, heartbeat, begins, stopping, shared, labels)| Who {
            labels,
            who,
            instance,
            window,
            from,
            heartbeat,
            begins,
            stopping,
            // An outcome without a name counts for the group of the last stream from its address.
            shared: shared && WHO[who] == (None, None),
        })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        6 => Just(Outcome::Done),
        2 => Just(Outcome::Retry),
        2 => Just(Outcome::Failed),
        3 => Just(Outcome::Working),
        2 => Just(Outcome::Released),
    ]
}

fn report() -> impl Strategy<Value = ReportOp> {
    let attempt = prop_oneof![1 => Just(Attempt::Unsaid), 3 => Just(Attempt::Right), 1 => Just(Attempt::Stale)];
    let whose = prop_oneof![6 => Just(Whose::Held), 3 => Just(Whose::Waiting), 1 => Just(Whose::Any)];
    let progress = prop::option::of((0..=100_u8).prop_map(|part| Progress::of(f32::from(part) / 100.0).unwrap()));
    (whose, any::<Index>(), attempt, outcome(), rarely(1..30_u64), progress, rarely(any::<Index>())).prop_map(
        |(whose, of, attempt, outcome, delay, progress, by)| ReportOp {
            whose,
            of,
            attempt,
            outcome,
            delay,
            progress,
            by,
        },
    )
}

/// A correction, a leap within what tasks wait for, the hour of a wrong time zone, and a machine that knew no time.
fn step() -> impl Strategy<Value = i64> {
    const HOUR: i64 = 3_600_000;
    let by = prop_oneof![3 => 1..2_000_i64, 4 => 2_000..90_000_i64, 2 => Just(HOUR), 1 => Just(40 * 24 * HOUR)];
    (by, any::<bool>()).prop_map(|(by, back)| if back { -by } else { by })
}

fn run() -> impl Strategy<Value = RunSpec> {
    let share =
        || prop::option::of(prop_oneof![(1..4_u32).prop_map(Share::Count), (0..10_000_u32).prop_map(Share::Part)]);
    let rollout = (share(), share(), 0..20_000_u64, share()).prop_map(|(canary, batch, soak_ms, max_failed)| Rollout {
        canary,
        batch,
        soak_ms,
        max_failed,
    });
    let whom = (
        prop::option::of(prop::sample::select(&SELECTORS[..])),
        prop::collection::vec(0..GROUPS.len(), 1..6),
        prop::bool::weighted(0.2),
    );
    // The first is over before anything can come of it.
    (whom, rollout, prop_oneof![1 => Just(1), 9 => 1_000..120_000_u64]).prop_map(
        |((select, to, include_new), rollout, lasts)| RunSpec {
            include_new: include_new && select.is_some(),
            select,
            to,
            rollout,
            lasts,
        },
    )
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![2 => Just(Wish::Pause), 4 => Just(Wish::Resume), 2 => Just(Wish::Abort), 1 => Just(Wish::Cancel)]
}

fn change_leader() -> impl Strategy<Value = Op> {
    // Most stay.
    (any::<Index>(), any::<u64>(), any::<u64>()).prop_map(|(at, some, others)| Op::ChangeLeader(at, some | others))
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<Index>;
    prop_oneof![
        1 => run().prop_map(Op::BeginRun),
        4 => index().prop_map(Op::Round),
        1 => (index(), wish()).prop_map(|(at, wish)| Op::Wish(at, wish)),
        2 => index().prop_map(Op::ReadEarly),
        8 => (prop::collection::vec(spec(), 1..5), news()).prop_map(|(specs, news)| Op::Submit(specs, news)),
        1 => (250..600_usize, priority(), prop::sample::select(&[0_usize, 0, 1, 3, 1_000][..]), news())
            .prop_map(|(count, class, lanes, news)| Op::Flood(count, class, lanes, news)),
        1 => Just(Op::Announce),
        8 => who().prop_map(Op::Join),
        4 => index().prop_map(Op::Leave),
        1 => index().prop_map(Op::Lose),
        2 => index().prop_map(Op::Slow),
        3 => (index(), 0..=100_u64).prop_map(|(at, percent)| Op::Read(at, percent)),
        1 => index().prop_map(Op::Fast),
        14 => report().prop_map(Op::Report),
        4 => (0..WHO.len() as u8, outcome()).prop_map(|(peer, outcome)| Op::ReportOldest(peer, outcome)),
        1 => (0..WHO.len() as u8).prop_map(Op::ReporterConnected),
        1 => (0..WHO.len() as u8).prop_map(Op::ReporterDisconnected),
        3 => (1..20_000_u64).prop_map(Op::Wait),
        3 => Just(Op::WaitForDue),
        3 => step().prop_map(Op::Step),
        8 => (index(), prop::bool::weighted(0.8)).prop_map(|(at, ok)| Op::Answer(at, ok)),
        2 => Just(Op::Checkpoint),
        2 => Just(Op::Sync),
        2 => index().prop_map(Op::Crash),
        2 => change_leader(),
        2 => any::<bool>().prop_map(Op::HoldBack),
        2 => Just(Op::KeepWaiting),
        2 => Just(Op::Restart),
        2 => (1..6_usize).prop_map(Op::Hold),
        1 => (0..GROUPS.len(), any::<bool>()).prop_map(|(group, paused)| Op::Pause(group, paused)),
        1 => (0..GROUPS.len(), prop::sample::select(&OF_GROUPS[..])).prop_map(|(group, text)| Op::SetRetry(group, text)),
        2 => (0..GROUPS.len(), limits()).prop_map(|(group, change)| Op::SetLimits(group, change)),
        1 => (0..GROUPS.len()).prop_map(Op::RemoveGroup),
        2 => (0..WHO.len() as u8, prop::option::of(1..60_u64)).prop_map(|(who, lasts)| Op::Drain(who, lasts)),
        2 => (0..WHO.len() as u8).prop_map(Op::Undrain),
        1 => index().prop_map(Op::Cancel),
        1 => (0..GROUPS.len(), index()).prop_map(|(group, task)| Op::Revive(group, task)),
        1 => (0..GROUPS.len(), index()).prop_map(|(group, task)| Op::DropDead(group, task)),
        1 => Just(Op::Floor),
    ]
}

/// Where there is little but runs, and clients that work on them.
fn op_of_runs() -> impl Strategy<Value = Op> {
    let index = any::<Index>;
    prop_oneof![
        5 => run().prop_map(Op::BeginRun),
        20 => index().prop_map(Op::Round),
        3 => (index(), wish()).prop_map(|(at, wish)| Op::Wish(at, wish)),
        8 => who().prop_map(Op::Join),
        2 => index().prop_map(Op::Leave),
        20 => report().prop_map(Op::Report),
        2 => (1..20_000_u64).prop_map(Op::Wait),
        1 => Just(Op::WaitForDue),
        4 => index().prop_map(|at| Op::Answer(at, true)),
        1 => step().prop_map(Op::Step),
        1 => Just(Op::Checkpoint),
        1 => index().prop_map(Op::Crash),
        1 => change_leader(),
        1 => any::<bool>().prop_map(Op::HoldBack),
        1 => Just(Op::Restart),
        1 => (0..GROUPS.len()).prop_map(Op::RemoveGroup),
        1 => (0..GROUPS.len(), index()).prop_map(|(group, task)| Op::Revive(group, task)),
    ]
}

/// Where most tasks take the place of others.
fn op_of_replacement() -> impl Strategy<Value = Op> {
    let index = any::<Index>;
    prop_oneof![
        20 => (prop::collection::vec(spec_of(0.001, 0.8), 1..4), news()).prop_map(|(specs, news)| Op::Submit(specs, news)),
        1 => Just(Op::Announce),
        6 => who().prop_map(Op::Join),
        3 => index().prop_map(Op::Leave),
        1 => index().prop_map(Op::Slow),
        2 => (index(), 0..=100_u64).prop_map(|(at, percent)| Op::Read(at, percent)),
        20 => report().prop_map(Op::Report),
        2 => (1..20_000_u64).prop_map(Op::Wait),
        2 => Just(Op::WaitForDue),
        1 => step().prop_map(Op::Step),
        8 => (index(), prop::bool::weighted(0.8)).prop_map(|(at, ok)| Op::Answer(at, ok)),
        4 => index().prop_map(Op::ReadEarly),
        2 => Just(Op::Checkpoint),
        2 => Just(Op::Sync),
        2 => index().prop_map(Op::Crash),
        2 => change_leader(),
        2 => any::<bool>().prop_map(Op::HoldBack),
        2 => Just(Op::KeepWaiting),
        2 => Just(Op::Restart),
        1 => (1..6_usize).prop_map(Op::Hold),
        1 => (0..GROUPS.len(), any::<bool>()).prop_map(|(group, paused)| Op::Pause(group, paused)),
        1 => (0..GROUPS.len()).prop_map(Op::RemoveGroup),
        1 => index().prop_map(Op::Cancel),
        1 => (0..GROUPS.len(), index()).prop_map(|(group, task)| Op::Revive(group, task)),
        1 => Just(Op::Floor),
    ]
}

/// A whole life: how the server is set, whether reading from the store is instant, and what happens.
pub(crate) fn life(most: usize) -> impl Strategy<Value = (Config, bool, Vec<Op>)> {
    life_of(op(), most)
}

/// One of runs, above all.
pub(crate) fn life_of_runs(most: usize) -> impl Strategy<Value = (Config, bool, Vec<Op>)> {
    life_of(op_of_runs(), most)
}

/// One of tasks that replace others, above all.
pub(crate) fn life_of_replacement(most: usize) -> impl Strategy<Value = (Config, bool, Vec<Op>)> {
    life_of(op_of_replacement(), most)
}

fn life_of(ops: impl Strategy<Value = Op>, most: usize) -> impl Strategy<Value = (Config, bool, Vec<Op>)> {
    let new = || any::<bool>().prop_map(|new| if new { StartAt::New } else { StartAt::First });
    let config = (prop::bool::weighted(0.3), new(), new(), 0..3_u64, 0..POLICIES.len());
    let config = config.prop_map(|(shared, groups_from, anonymous_from, grace, policy)| Config {
        ack_timeout: Duration::from_secs(10),
        max_attempts: 4,
        max_deliveries: 2,
        max_window: 4,
        max_groups: 100,
        retry: POLICIES[policy].parse().unwrap(),
        restart_grace: Duration::from_secs(grace * 6),
        max_retry_delay: Config::default().max_retry_delay,
        window: 3,
        groups_from,
        anonymous_from,
        anonymous_group: shared.then(|| name("anonymous")),
    });
    (config, any::<bool>(), prop::collection::vec(ops, 1..most))
}

/// Lives it, and then everybody behaves.
pub(crate) fn live(config: Config, eager: bool, ops: &[Op]) {
    let mut world = World::new(config);
    world.eager = eager;
    for op in ops {
        world.happens(op);
    }
    world.finish();
    world.restart();
    world.finish();
}

fn peer(at: usize) -> Arc<str> {
    format!("peer {at}").into()
}

/// What an operator calls it: its id, or else its address.
fn called(who: u8) -> String {
    let client = WHO[usize::from(who)].0;
    client.map_or_else(|| peer(who.into()).to_string(), str::to_owned)
}

impl World {
    fn happens(&mut self, op: &Op) {
        let sessions: Vec<_> = self.streams.keys().copied().collect();
        let pick = |at: &Index| (!sessions.is_empty()).then(|| sessions[at.index(sessions.len())]);
        match op {
            Op::Submit(specs, news) => {
                let specs = specs.iter().map(|spec| self.spec(spec)).collect();
                self.accept(specs);
                self.hears(*news);
            }
            Op::Flood(count, priority, lanes, news) => {
                let lane = |n: usize| (*lanes > 0).then(|| name(&format!("lane {}", n % lanes)));
                let flood =
                    |n| NewTask { text: "flood".into(), priority: *priority, lane: lane(n), ..NewTask::default() };
                self.accept((0..*count).map(flood).collect());
                self.hears(*news);
            }
            Op::Announce => self.announce(),
            Op::Join(who) => drop(self.try_join(self.identity(who))),
            Op::Leave(at) => drop(pick(at).map(|id| self.leave(id))),
            Op::Lose(at) => drop(pick(at).map(|id| self.lose(id))),
            Op::Slow(at) => {
                self.flush();
                if let Some(id) = pick(at) {
                    self.streams.get_mut(&id).unwrap().slow = true;
                }
            }
            Op::Fast(at) => {
                if let Some(id) = pick(at) {
                    self.streams.get_mut(&id).unwrap().slow = false;
                    self.read(id, 100);
                }
            }
            Op::Read(at, percent) => drop(pick(at).map(|id| self.read(id, *percent))),
            Op::Report(report) => self.report_one(report),
            Op::ReportOldest(at, outcome) => self.report_oldest(usize::from(*at), *outcome),
            Op::ReporterConnected(at) => self.reporter_connected(&peer((*at).into())),
            Op::ReporterDisconnected(at) => {
                self.flush();
                self.reporter_disconnected(&peer((*at).into()));
            }
            Op::Wait(time) => self.wait(Duration::from_millis(*time)),
            Op::WaitForDue => self.wait_for_due(),
            Op::Step(millis) => self.step(*millis),
            Op::Answer(at, ok) => {
                if !self.reads.is_empty() {
                    self.answer(at.index(self.reads.len()), *ok);
                }
            }
            Op::Checkpoint => self.checkpoint(),
            Op::Sync => self.sync(),
            Op::Crash(at) => self.crash(at.index(self.unsynced() + 1)),
            Op::ChangeLeader(at, stay) => {
                let survive = at.index(self.unsynced() + 1);
                self.change_leader(survive, |id| stay >> (id % 64) & 1 == 1);
            }
            Op::HoldBack(held) => self.hold_back(*held),
            Op::KeepWaiting => {
                self.flush();
                self.keep_waiting();
            }
            Op::Restart => self.restart(),
            Op::Hold(events) => self.hold(*events),
            Op::Pause(at, paused) => self.pause(GROUPS[*at], *paused),
            Op::Drain(who, lasts) => {
                drop(self.drain(&called(*who), lasts.map(Duration::from_secs)));
            }
            Op::Undrain(who) => drop(self.undrain(&called(*who))),
            Op::SetRetry(at, "") => self.set_retry(GROUPS[*at], RetryPolicy::default()),
            Op::SetRetry(at, text) => self.set_retry(GROUPS[*at], text.parse().unwrap()),
            Op::SetLimits(at, change) => self.set_limits(GROUPS[*at], *change),
            Op::RemoveGroup(at) => drop(self.remove_group(GROUPS[*at])),
            Op::Cancel(at) => {
                self.announce();
                if !self.tasks.is_empty() {
                    self.cancel(at.index(self.tasks.len()) as TaskId + 1);
                }
            }
            Op::Revive(group, at) => {
                self.announce();
                // One whose place was taken is refused.
                if !self.tasks.is_empty() && self.tasks[at.index(self.tasks.len())].spec.replaced_by().is_none() {
                    self.revive(GROUPS[*group], at.index(self.tasks.len()) as TaskId + 1);
                }
            }
            Op::DropDead(group, at) => {
                if self.announced > 0 {
                    self.drop_dead(GROUPS[*group], at.index(self.announced) as TaskId + 1);
                }
            }
            Op::Floor => self.floor(),
            Op::ReadEarly(at) => {
                if !self.reads.is_empty() {
                    self.read_early(at.index(self.reads.len()));
                }
            }
            Op::BeginRun(spec) => self.begin_run(spec),
            Op::Round(at) => {
                let numbers: Vec<_> = self.runs.keys().copied().collect();
                if !numbers.is_empty() {
                    self.round(numbers[at.index(numbers.len())]);
                }
            }
            Op::Wish(at, wish) => {
                let numbers: Vec<_> = self.runs.keys().copied().collect();
                if !numbers.is_empty() {
                    self.wish(numbers[at.index(numbers.len())], *wish);
                }
            }
        }
    }

    fn hears(&mut self, news: News) {
        match news {
            News::Committed => self.announce(),
            News::Advanced => self.jump(),
            News::Later => {}
        }
    }

    fn spec(&self, spec: &Spec) -> NewTask {
        let at = |seconds: u64| self.now.wall.after(Duration::from_secs(seconds));
        NewTask {
            // Of the large ones that go to a group, the bytes are data, and there is no text.
            text: match (spec.large, spec.to) {
                (true, None) => "large ".repeat(6_000),
                (true, Some(_)) => String::new(),
                (false, _) => "small".into(),
            },
            attachment: match (spec.large, spec.to) {
                (true, Some(_)) => Attachment::new(Headers::new([("k", "v")]).unwrap(), vec![7; 36_000]),
                _ => Attachment::default(),
            },
            to: spec.to.map(|to| name(GROUPS[to])),
            key: None,
            not_before: spec.not_before.map(at),
            expires_at: spec.expires.map(at),
            max_attempts: spec.max_attempts,
            retry: spec.retry.map(|policy| Box::new(POLICIES[policy].parse().unwrap())),
            priority: spec.priority,
            by: None,
            time_limit: spec.limit,
            lane: spec.lane.map(name).filter(|_| spec.replace.is_none()),
            replace: spec.replace.map(|key| Box::new(Replace::new(key, None).unwrap())),
            made: None,
            audience: spec.audience.as_ref().map(|aim| {
                Arc::new(match aim {
                    Aim::Groups(groups) => Audience::groups(groups.iter().map(|at| name(GROUPS[*at])).collect()),
                    Aim::Matching(selector) => Audience::Matching(selector.parse().unwrap()),
                })
            }),
        }
    }

    fn identity(&self, who: &Who) -> Join {
        let (client, group) = WHO[who.who];
        Join {
            client: client.map(name),
            instance: who.instance.map(|at| name(["x", "y"][at])),
            group: group.map(name),
            window: who.window,
            from: who.from,
            begins: who.begins,
            stopping: who.stopping,
            revoke: who.heartbeat,
            output: false,
            heartbeat: who.heartbeat.then_some(Duration::from_secs(7)),
            peer: peer(if who.shared { 0 } else { who.who }),
            max_message: None,
            receipts: false,
            labels: who.labels.parse().unwrap(),
            quota: [3, 5, 6].contains(&who.who).then_some(QUOTA),
            resume: None,
            version: None,
            system: None,
        }
    }

    fn report_one(&mut self, op: &ReportOp) {
        let (leases, waiting) = (self.model.leases(), self.model.waiting());
        // Who speaks, if it is not connected.
        let mut absent: Vec<usize> = (0..WHO.len()).collect();
        let (task, attempt, by) = match op.whose {
            Whose::Held if !leases.is_empty() => {
                let (_, task, session, attempt) = leases[op.of.index(leases.len())];
                (task, attempt, session)
            }
            Whose::Waiting if !waiting.is_empty() => {
                let (ref group, task, attempt) = waiting[op.of.index(waiting.len())];
                let of_group = |at: &usize| WHO[*at].1.or(WHO[*at].0).unwrap_or("anonymous") == group.as_str();
                absent.retain(of_group);
                let of_group = self.streams.iter().find(|(_, stream)| stream.group.as_ref() == Some(group));
                (task, attempt, of_group.map(|(id, _)| *id))
            }
            // Two of them do not exist.
            _ => (op.of.index(self.announced + 2) as TaskId + 1, 1, None),
        };
        let sessions: Vec<_> = self.streams.keys().copied().collect();
        let by = match op.by {
            None => by.filter(|id| self.streams.contains_key(id)).map(|id| self.reporter(id)),
            Some(at) if !sessions.is_empty() => Some(self.reporter(sessions[at.index(sessions.len())])),
            Some(_) => None,
        };
        // Or by one that is not connected.
        let by = by.unwrap_or_else(|| {
            let at = absent[op.of.index(absent.len())];
            Reporter { client: WHO[at].0.map(name), group: WHO[at].1.map(name), peer: peer(at) }
        });
        let attempt = match op.attempt {
            Attempt::Unsaid => 0,
            Attempt::Right => attempt,
            Attempt::Stale => attempt.saturating_sub(1),
        };
        // As from clients with receipts; what counts without is tested by itself.
        let mut report = OutcomeReport { receipt: Receipt::Good, ..outcome_report(task, attempt, op.outcome) };
        if op.outcome == Outcome::Working {
            report.progress = op.progress;
        }
        if op.outcome == Outcome::Retry {
            report.delay = Duration::from_secs(op.delay.unwrap_or(0));
        }
        self.report(&by, report);
    }

    fn report_oldest(&mut self, at: usize, outcome: Outcome) {
        let (client, group) = WHO[at];
        let by = Reporter { client: client.map(name), group: group.map(name), peer: peer(at) };
        self.report(&by, OutcomeReport { receipt: Receipt::Good, ..outcome_report(0, 0, outcome) });
    }
}
