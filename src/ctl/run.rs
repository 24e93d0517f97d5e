//! Runs: one thing on many machines. Begun, watched to their end, and changed.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::{FutureExt as _, StreamExt as _, select};
use futures_timer::Delay;
use grpcio::CallOption;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Error;
use super::args::{Answers, OnTimeout, Priority, Run, RunVerb, Shown};
use super::data::in_brackets;
use super::interrupt::Interrupt;
use super::link::Link;
use super::moment::{Moment, Times, span};
use super::out::Out;
use super::rows::{beside, enum_name, is_zero};
use super::table::{Column, Row, Table};
use super::words::count;
use crate::run::{Tally, TargetState};
use crate::terminal::escape;
use crate::wire::control as pb;

/// On more machines than this nothing is begun before somebody at a terminal has said yes.
const ASKED_ABOVE: u32 = 10;
/// For how long a server that went away is waited for: time for it to start again.
const AWAY: Duration = Duration::from_secs(60);
/// Runs on a page of the list.
const PAGE: u32 = 200;

/// Begins a run, or does something with one.
pub(super) fn run(link: &Link, run: Run, out: Out) -> Result<(), Error> {
    if run.verb.is_some() && (run.text.is_some() || run.select.is_some() || !run.to.is_empty()) {
        return Err(Error::Usage(
            "a verb such as run list stands alone; a text that is called so comes after --".into(),
        ));
    }
    match run.verb {
        None => begin(link, &run, out),
        Some(RunVerb::List) => list(link, out),
        Some(RunVerb::Show { number, targets }) => show(link, number, targets, out),
        Some(RunVerb::Watch { number, shown }) => watch(link, number, &shown, out),
        Some(RunVerb::Pause { number }) => change(link, number, pb::change_run_request::Change::PAUSE, out),
        Some(RunVerb::Resume { number }) => change(link, number, pb::change_run_request::Change::RESUME, out),
        Some(RunVerb::Abort { number }) => change(link, number, pb::change_run_request::Change::ABORT, out),
        Some(RunVerb::Cancel { number }) => change(link, number, pb::change_run_request::Change::CANCEL, out),
        Some(RunVerb::RetryFailed { number, detach, shown }) => {
            let request = pb::RetryFailedRequest { number, ..Default::default() };
            let begun = link.wait(link.client.retry_failed(&request, Link::answer_soon()))?;
            begun_now(link, &begun.run, detach, &shown, out)
        }
    }
}

fn begin(link: &Link, run: &Run, out: Out) -> Result<(), Error> {
    if run.text.is_none() && run.beside.data_file.is_none() {
        return Err(Error::Usage(
            "what is to be done? Give the text, as in: contactctl run --select role=web uptime".into(),
        ));
    }
    if run.select.is_none() && run.to.is_empty() {
        let which = "on which machines? Choose them by their labels (--select), or name them (--to)";
        return Err(Error::Usage(which.into()));
    }
    let millis =
        |duration: Option<Duration>| duration.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
    let share = |share: &Option<crate::run::Share>| share.map(|share| share.to_string()).unwrap_or_default();
    let rollout = pb::Rollout {
        canary: share(&run.canary),
        batch: share(&run.batch),
        soak_ms: millis(run.soak),
        max_failed: share(&run.max_failed),
        ..Default::default()
    };
    let mut request = pb::BeginRunRequest {
        task: run.text.clone().unwrap_or_default(),
        headers: run.beside.headers()?,
        data: run.beside.data()?,
        select: run.select.clone().unwrap_or_default(),
        to: run.to.clone(),
        include_new: run.include_new,
        deadline_ms: millis(run.deadline),
        rollout: Some(rollout).into(),
        max_attempts: run.max_attempts,
        retry: run.retry.clone().unwrap_or_default(),
        timeout_ms: run.task_timeout.unwrap_or(0),
        timeout_fails: run.on_timeout == OnTimeout::Failed,
        priority: match run.priority {
            Priority::High => pb::Priority::HIGH,
            Priority::Normal => pb::Priority::NORMAL,
            Priority::Low => pb::Priority::LOW,
        }
        .into(),
        dry_run: true,
        ..Default::default()
    };
    let at_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    if run.dry_run || (at_terminal && !run.yes) {
        let would = link.wait(link.client.begin_run(&request, Link::answer_soon()))?.run;
        let targets: u32 = would.counts.iter().sum();
        let whom = for_whom(&would);
        if run.dry_run {
            let mut out = out;
            return Ok(out.object(&WouldRun { would_run: targets }, &format!("would run on {whom}"))?);
        }
        if targets > ASKED_ABOVE && !agreed(&whom)? {
            return Err(Error::Refused("nothing was begun".into()));
        }
    }
    request.dry_run = false;
    let begun = link.wait(link.client.begin_run(&request, Link::answer_soon()))?;
    begun_now(link, &begun.run, run.detach, &run.shown, out)
}

#[derive(Serialize)]
struct WouldRun {
    would_run: u32,
}

#[derive(Serialize)]
struct Begun {
    run: u64,
    targets: u32,
}

fn begun_now(link: &Link, run: &pb::Run, detach: bool, shown: &Shown, mut out: Out) -> Result<(), Error> {
    let number = run.number;
    if detach {
        let text = format!("run {number} has begun on {}; see it with: contactctl run watch {number}", for_whom(run));
        return Ok(out.object(&Begun { run: number, targets: run.counts.iter().sum() }, &text)?);
    }
    out.remark(&format!("run {number} on {}", for_whom(run)));
    watch(link, number, shown, out)
}

/// `10 groups, 2 of them away`.
fn for_whom(run: &pb::Run) -> String {
    let away = tally(run).get(TargetState::Offline);
    let all = count(run.counts.iter().sum::<u32>().into(), "group");
    if away > 0 { format!("{all}, {away} of them away") } else { all }
}

fn agreed(whom: &str) -> Result<bool, Error> {
    let mut stderr = io::stderr();
    write!(stderr, "run it on {whom}? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// How many targets are in each state.
fn tally(run: &pb::Run) -> Tally {
    Tally(std::array::from_fn(|state| run.counts.get(state).copied().unwrap_or(0)))
}

fn has_ended(run: &pb::Run) -> bool {
    run.ended_at != 0
}

/// `going`, `completed`.
fn phase(run: &pb::Run) -> String {
    enum_name(run.phase).trim_start_matches("RUN_").to_lowercase()
}

/// What came of one target.
#[derive(Serialize)]
struct Answer<'a> {
    run: u64,
    group: &'a str,
    state: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    client: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ret: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'a String, &'a String>,
    #[serde(skip_serializing_if = "is_zero")]
    data_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
}

/// How a run is: the last line.
#[derive(Serialize)]
struct Stands {
    run: u64,
    phase: String,
    counts: BTreeMap<&'static str, u32>,
    /// It was waited for no longer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    timed_out: bool,
}

/// Prints results as they come.
struct Printer {
    out: Out,
    bar: ProgressBar,
    full: bool,
    /// Equal outputs, with those that said them, in the order in which they came.
    folded: Option<Vec<(String, Vec<String>)>>,
    places: HashMap<String, usize>,
    number: u64,
}

impl Printer {
    fn new(out: Out, number: u64, answers: &Answers) -> Printer {
        // The bar hides itself where standard error is no terminal.
        let bar = if out.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        let style = ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        let folded = answers.fold.then(Vec::new);
        Printer { out, bar, full: answers.full, folded, places: HashMap::new(), number }
    }

    fn progress(&self, run: &pb::Run) {
        let of = |state| tally(run).get(state);
        let answered = of(TargetState::Done) + of(TargetState::Failed);
        let running = of(TargetState::Sent) + of(TargetState::Begun);
        let mut message = format!(
            "{answered} of {} answered, {running} running, {} away",
            run.counts.iter().sum::<u32>(),
            of(TargetState::Offline)
        );
        if of(TargetState::Failed) > 0 {
            message += &format!(", {} failed", of(TargetState::Failed));
        }
        if phase(run) != "going" {
            message += &format!("; {}", phase(run));
        }
        self.bar.set_message(message);
    }

    fn result(&mut self, result: &pb::TaskResult) -> Result<(), Error> {
        let (state, word) = match result.outcome.enum_value() {
            Ok(pb::Outcome::DONE) => ("done", ""),
            Ok(pb::Outcome::FAILED | pb::Outcome::EXHAUSTED) => ("failed", "failed: "),
            Ok(pb::Outcome::EXPIRED) => ("expired", "expired: "),
            Ok(pb::Outcome::CANCELLED) => ("cancelled", "cancelled"),
            Ok(pb::Outcome::REPLACED) => ("replaced", ""),
            _ => ("", ""),
        };
        if self.out.json {
            let answer = Answer {
                run: self.number,
                group: &result.group,
                state,
                client: &result.client,
                outcome: Some(enum_name(result.outcome)),
                ret: Some(&result.ret),
                headers: result.headers.iter().collect(),
                data_size: result.data_size,
                seq: Some(result.seq),
            };
            return Ok(self.out.object(&answer, "")?);
        }
        let brackets = in_brackets(&result.headers, result.data_size);
        let text = if result.ret.is_empty() { &brackets } else { result.ret.trim_end_matches('\n') };
        let lines: Vec<&str> = if self.full { text.split('\n').collect() } else { text.split('\n').take(1).collect() };
        let shown: Vec<String> = lines
            .iter()
            .enumerate()
            .map(|(at, line)| if at == 0 { format!("{word}{line}") } else { (*line).to_owned() })
            .collect();
        match &mut self.folded {
            Some(folded) => {
                let shown = shown.join("\n");
                let at = *self.places.entry(shown.clone()).or_insert_with(|| {
                    folded.push((shown, Vec::new()));
                    folded.len() - 1
                });
                folded[at].1.push(result.group.clone());
            }
            None => self.lines(&result.group, &shown)?,
        }
        Ok(())
    }

    /// Lines of one group, or of some.
    fn lines(&mut self, who: &str, lines: &[String]) -> Result<(), Error> {
        let out = &mut self.out;
        self.bar.suspend(|| -> io::Result<()> {
            for line in lines {
                out.text(&format!("{who}: {line}"))?;
            }
            out.flush()
        })?;
        Ok(())
    }

    /// One that has not answered.
    fn silent(&mut self, group: &str, state: &str) -> Result<(), Error> {
        if self.out.json {
            let (client, outcome, ret, headers, data_size, seq) = ("", None, None, BTreeMap::new(), 0, None);
            let answer = Answer { run: self.number, group, state, client, outcome, ret, headers, data_size, seq };
            return Ok(self.out.object(&answer, "")?);
        }
        self.lines(group, &[format!("no answer ({state})")])
    }

    fn unfold(&mut self) -> Result<(), Error> {
        for (text, mut groups) in self.folded.take().into_iter().flatten() {
            groups.sort_unstable();
            let who = match groups.len() {
                1 => groups.join(", "),
                many => format!("{} ({many})", groups.join(", ")),
            };
            let lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
            self.lines(&who, &lines)?;
        }
        Ok(())
    }
}

/// Prints what comes of a run until it ends.
fn watch(link: &Link, number: u64, shown: &Shown, out: Out) -> Result<(), Error> {
    let mut printer = Printer::new(out, number, &shown.answers);
    let followed = block_on(follow(link, number, shown.timeout, &mut printer));
    printer.bar.finish_and_clear();
    printer.unfold()?;
    let (run, stopped, timed_out) = match followed? {
        Followed::Interrupted => {
            printer.out.remark(&format!(
                "run {number} goes on: see it with contactctl run watch {number}, take it back with contactctl run cancel {number}"
            ));
            return Err(Error::Interrupted);
        }
        Followed::Ended(run) => (run, false, false),
        Followed::Stopped(run) => (run, true, false),
        Followed::TimedOut(run) => (run, false, true),
    };
    let silent =
        [TargetState::Queued, TargetState::Offline, TargetState::Sent, TargetState::Begun, TargetState::Expired];
    for (group, state) in targets(link, number, &silent)? {
        printer.silent(&group, &state)?;
    }
    let mut out = printer.out;
    let counts = TargetState::ALL.into_iter().map(|state| (state.as_str(), tally(&run).get(state)));
    let stands =
        Stands { run: number, phase: phase(&run), counts: counts.filter(|(_, count)| *count > 0).collect(), timed_out };
    if out.json {
        out.object(&stands, "")?;
    }
    let how = tally(&run);
    let failed = tally(&run).get(TargetState::Failed);
    if timed_out {
        let after = span(shown.timeout.unwrap_or_default());
        return Err(Error::TimedOut(format!(
            "run {number} is not at its end after {after} and goes on: {how}; contactctl run watch {number}, or cancel {number}"
        )));
    }
    if stopped {
        return Err(Error::SomeFailed(format!(
            "run {number} is {}: {how}; go on with contactctl run resume {number}, or end it with contactctl run abort {number}",
            phase(&run)
        )));
    }
    if failed > 0 {
        let again = format!("contactctl run retry-failed {number}");
        return Err(Error::SomeFailed(format!("run {number} is {}: {how}; to do those again: {again}", phase(&run))));
    }
    match run.phase.enum_value() {
        Ok(pb::RunPhase::RUN_EXPIRED) if tally(&run).get(TargetState::Expired) > 0 => Err(Error::TimedOut(format!(
            "run {number} ended at its deadline: {how}; to do those again: contactctl run retry-failed {number}"
        ))),
        Ok(pb::RunPhase::RUN_COMPLETED | pb::RunPhase::RUN_EXPIRED) if tally(&run).get(TargetState::Cancelled) == 0 => {
            out.remark(&format!("run {number} is {}: {how}", phase(&run)));
            Ok(())
        }
        _ => Err(Error::SomeFailed(format!("run {number} is {}: {how}", phase(&run)))),
    }
}

enum Followed {
    Ended(pb::Run),
    /// It goes on only when somebody says so.
    Stopped(pb::Run),
    TimedOut(pb::Run),
    Interrupted,
}

/// Reads what is new until the run ends. When the server goes away, it is waited for, and asked for what came after the last result.
async fn follow(link: &Link, number: u64, timeout: Option<Duration>, printer: &mut Printer) -> Result<Followed, Error> {
    let mut interrupt = Interrupt::watch()?.fuse();
    let mut over = match timeout {
        Some(timeout) => Delay::new(timeout).boxed().fuse(),
        None => futures::future::pending().boxed().fuse(),
    };
    let (mut after, mut last, mut gone) = (0, pb::Run::default(), None::<Instant>);
    loop {
        let request = pb::WatchRunRequest { number, after, ..Default::default() };
        let mut news = link.client.watch_run(&request, CallOption::default()).map_err(|e| link.error(e))?;
        let why = loop {
            let next = select! {
                next = news.next().fuse() => next,
                () = interrupt => return Ok(Followed::Interrupted),
                () = over => return Ok(Followed::TimedOut(last)),
            };
            match next {
                Some(Ok(news)) => {
                    gone = None;
                    for result in &news.results {
                        printer.result(result)?;
                        after = result.seq;
                    }
                    last = news.run.unwrap_or_default();
                    printer.progress(&last);
                    let nobody_runs = tally(&last).get(TargetState::Sent) + tally(&last).get(TargetState::Begun) == 0;
                    if last.phase.enum_value() == Ok(pb::RunPhase::RUN_STOPPED) && nobody_runs {
                        return Ok(Followed::Stopped(last));
                    }
                }
                Some(Err(e)) => break link.error(e),
                None if has_ended(&last) => return Ok(Followed::Ended(last)),
                None => break link.went_away("it ended the call"),
            }
        };
        let since = *gone.get_or_insert_with(Instant::now);
        match why {
            Error::WentAway { .. } if since.elapsed() < AWAY => {
                printer.bar.set_message("the server is away: waiting for it");
            }
            Error::WentAway { server, reason, .. } => {
                let hint = format!("; the run goes on: contactctl run watch {number}");
                return Err(Error::WentAway { server, reason, hint });
            }
            why => return Err(why),
        }
        select! {
            () = Delay::new(Duration::from_secs(1)).fuse() => {}
            () = interrupt => return Ok(Followed::Interrupted),
            () = over => return Ok(Followed::TimedOut(last)),
        }
    }
}

/// The targets in these states.
fn targets(link: &Link, number: u64, states: &[TargetState]) -> Result<Vec<(String, String)>, Error> {
    let states: Vec<_> = states.iter().map(|state| protobuf::EnumOrUnknown::from_i32(*state as i32)).collect();
    let (mut all, mut skip) = (Vec::new(), 0);
    loop {
        let request = pb::GetRunRequest { number, skip, states: states.clone(), ..Default::default() };
        let part = link.wait(link.client.get_run(&request, Link::answer_soon()))?;
        all.extend(part.targets.into_iter().map(|target| {
            let state = enum_name(target.state).trim_start_matches("TARGET_").to_lowercase();
            (target.group, state)
        }));
        match part.next {
            0 => return Ok(all),
            next => skip = next,
        }
    }
}

/// A run in a list.
#[derive(Serialize)]
struct RunRow {
    run: u64,
    phase: String,
    began_at: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Moment>,
    deadline: Moment,
    targets: u32,
    counts: BTreeMap<&'static str, u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    select: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    submitted_by: String,
    task: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_zero")]
    data_size: u64,
    #[serde(skip)]
    how: String,
}

impl From<&pb::Run> for RunRow {
    fn from(run: &pb::Run) -> RunRow {
        let counts = TargetState::ALL.into_iter().map(|state| (state.as_str(), tally(run).get(state)));
        RunRow {
            run: run.number,
            phase: phase(run),
            began_at: Moment(run.began_at),
            ended_at: Moment::if_set(run.ended_at),
            deadline: Moment(run.deadline),
            targets: run.counts.iter().sum(),
            counts: counts.filter(|(_, count)| *count > 0).collect(),
            select: run.select.clone(),
            submitted_by: run.submitted_by.clone(),
            task: run.task.clone(),
            headers: run.headers.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            data_size: run.data_size,
            how: tally(run).to_string(),
        }
    }
}

impl Row for RunRow {
    const COLUMNS: &'static [Column] = &[
        Column::Number("RUN"),
        Column::Word("STATE"),
        Column::Word("BEGAN"),
        Column::Number("GROUPS"),
        Column::Name("OF THEM"),
        Column::Text("TASK"),
    ];

    fn cells(&self, times: Times) -> Vec<String> {
        vec![
            self.run.to_string(),
            self.phase.clone(),
            times.show(self.began_at),
            self.targets.to_string(),
            self.how.clone(),
            beside(&self.task, &self.headers, self.data_size),
        ]
    }
}

/// A target of a run.
#[derive(Serialize)]
struct TargetRow {
    group: String,
    state: String,
}

impl Row for TargetRow {
    const COLUMNS: &'static [Column] = &[Column::Name("GROUP"), Column::Word("STATE")];

    fn cells(&self, _: Times) -> Vec<String> {
        vec![self.group.clone(), self.state.clone()]
    }
}

fn list(link: &Link, mut out: Out) -> Result<(), Error> {
    let (mut table, mut before, mut any) = (Table::default(), 0, false);
    loop {
        let request = pb::ListRunsRequest { before, limit: PAGE, ..Default::default() };
        let page = link.wait(link.client.list_runs(&request, Link::answer_soon()))?;
        any |= !page.runs.is_empty();
        out.rows(&mut table, &page.runs.iter().map(RunRow::from).collect::<Vec<_>>())?;
        match page.runs.last().filter(|_| page.more) {
            Some(last) => before = last.number,
            None => break,
        }
    }
    if !any {
        out.remark("no runs");
    }
    Ok(())
}

fn show(link: &Link, number: u64, all: bool, mut out: Out) -> Result<(), Error> {
    let request = pb::GetRunRequest { number, limit: 1, ..Default::default() };
    let run = link.wait(link.client.get_run(&request, Link::answer_soon()))?.run.unwrap_or_default();
    let row = RunRow::from(&run);
    if out.json {
        out.object(&row, "")?;
    } else {
        let times = out.times;
        let mut properties = vec![
            ("run", number.to_string()),
            ("task", run.task.clone()),
            ("state", row.phase.clone()),
            ("groups", format!("{}: {}", row.targets, row.how)),
            ("began", times.both(row.began_at)),
            ("deadline", times.both(row.deadline)),
        ];
        let tasks: Vec<_> = run.tasks.iter().map(u64::to_string).collect();
        properties.extend(row.ended_at.map(|at| ("ended", times.both(at))));
        properties.extend((!run.select.is_empty()).then(|| ("chosen by", run.select.clone())));
        properties.extend(run.rollout.as_ref().map(|rollout| ("in parts", parts(rollout, run.parts))));
        properties.extend((run.again != 0).then(|| ("again of", format!("run {}", run.again))));
        properties.extend((!run.submitted_by.is_empty()).then(|| ("begun by", run.submitted_by.clone())));
        properties.push(("tasks", tasks.join(", ")));
        out.properties(&properties)?;
    }
    let states: Vec<TargetState> =
        TargetState::ALL.into_iter().filter(|state| all || *state != TargetState::Done).collect();
    let rows: Vec<_> =
        targets(link, number, &states)?.into_iter().map(|(group, state)| TargetRow { group, state }).collect();
    if out.json {
        out.rows(&mut Table::default(), &rows)?;
    } else {
        out.section(if all { "Groups" } else { "Groups that are not done" }, &rows)?;
    }
    Ok(())
}

fn parts(rollout: &pb::Rollout, gone: u32) -> String {
    let mut text = Vec::new();
    for (what, value) in
        [("first", &rollout.canary), ("then", &rollout.batch), ("most that may fail", &rollout.max_failed)]
    {
        if !value.is_empty() {
            text.push(format!("{what} {value}"));
        }
    }
    if rollout.soak_ms > 0 {
        text.push(format!("{} between", span(Duration::from_millis(rollout.soak_ms))));
    }
    text.push(format!("{} out so far", count(gone.into(), "part")));
    text.join(", ")
}

#[derive(Serialize)]
struct Changed {
    run: u64,
    phase: String,
}

fn change(link: &Link, number: u64, what: pb::change_run_request::Change, mut out: Out) -> Result<(), Error> {
    let request = pb::ChangeRunRequest { number, change: what.into(), ..Default::default() };
    let run = link.wait(link.client.change_run(&request, Link::answer_soon()))?;
    let text = format!("run {number} is {}: {}", phase(&run), tally(&run));
    Ok(out.object(&Changed { run: number, phase: phase(&run) }, &text)?)
}

/// Waits for a task that was submitted, and prints what comes of it.
pub(super) fn wait_for_task(
    link: &Link,
    id: u64,
    timeout: Option<Duration>,
    answers: &Answers,
    out: Out,
) -> Result<(), Error> {
    let mut printer = Printer::new(out, id, answers);
    let waited = block_on(follow_task(link, id, timeout, &mut printer));
    printer.bar.finish_and_clear();
    printer.unfold()?;
    let Waited { ledger, failed, done } = waited?;
    if failed > 0 || ledger.dead > 0 {
        let dead = count(ledger.dead.max(failed), "group");
        return Err(Error::SomeFailed(format!("task {id} failed with {dead}; contactctl task {id}")));
    }
    let (replaced_by, others) = (ledger.task.replaced_by, ledger.settled.saturating_sub(done));
    if replaced_by != 0 && (others > 0 || ledger.settled == 0) {
        let with = if done > 0 { format!(" with {}", count(others, "group")) } else { String::new() };
        return Err(Error::Replaced(format!("task {id} was replaced by task {replaced_by} before it began{with}")));
    }
    Ok(())
}

/// A task that its groups have settled.
struct Waited {
    ledger: pb::TaskLedger,
    /// With how many groups it failed, and with how many it was done, of those of which that came while it was waited for.
    failed: u64,
    done: u64,
}

async fn follow_task(link: &Link, id: u64, timeout: Option<Duration>, printer: &mut Printer) -> Result<Waited, Error> {
    let mut interrupt = Interrupt::watch()?.fuse();
    let mut over = match timeout {
        Some(timeout) => Delay::new(timeout).boxed().fuse(),
        None => futures::future::pending().boxed().fuse(),
    };
    let request = pb::WatchTaskRequest { id, ..Default::default() };
    let mut news = link.client.watch_task(&request, CallOption::default()).map_err(|e| link.error(e))?;
    let (mut last, mut failed, mut done) = (pb::TaskLedger::default(), 0, 0);
    loop {
        let next = select! {
            next = news.next().fuse() => next,
            () = interrupt => {
                printer.out.remark(&format!("task {id} goes on: contactctl task {id}, or contactctl cancel {id}"));
                return Err(Error::Interrupted);
            }
            () = over => {
                let open = count(last.waiting + last.in_flight, "group");
                let after = span(timeout.unwrap_or_default());
                return Err(Error::TimedOut(format!("after {after}, {open} had not settled task {id}, which goes on")));
            }
        };
        let Some(next) = next else { return Ok(Waited { ledger: last, failed, done }) };
        let next = next.map_err(|e| link.error(e))?;
        for result in next.results.iter().filter(|result| !result.late) {
            use pb::Outcome::{CANCELLED, DONE, EXHAUSTED, EXPIRED, FAILED};
            match result.outcome.enum_value() {
                Ok(DONE) => {
                    done += 1;
                    printer.result(result)?;
                }
                Ok(FAILED | EXHAUSTED | EXPIRED | CANCELLED) => {
                    failed += 1;
                    printer.result(result)?;
                }
                _ => {}
            }
        }
        last = next.ledger.unwrap_or_default();
        let open = last.waiting + last.in_flight;
        printer.bar.set_message(escape(&format!("{} settled, {open} open", last.settled + last.dead)).into_owned());
    }
}
