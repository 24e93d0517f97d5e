//! Submitting: a thread reads lines into requests, several of which are under way at a time, over one call.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::iter;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Instant;

use futures::channel::mpsc;
use futures::executor::block_on;
use futures::future::{self, Either};
use futures::{FutureExt, SinkExt, StreamExt, select};
use grpcio::{CallOption, ClientDuplexReceiver, ClientDuplexSender, WriteFlags};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Error;
use super::args;
use super::batch::{Batch, Batches, Spec};
use super::follow_up;
use super::interrupt::Interrupt;
use super::lines::{self, Line, Lines};
use super::link::{Link, To};
use super::manage::stands;
use super::moment::{Moment, Times};
use super::out::Out;
use super::run as runs;
use super::tally::Tally;
use super::words::quote;
use crate::task::Time;
use crate::terminal::escape;
use crate::wire::control as pb;

/// How many requests may be under way. When it is reached, reading waits.
const UNDER_WAY: usize = 8;
/// How many requests are made ahead.
const AHEAD: usize = 1;

/// What is told with --json.
#[derive(Serialize)]
#[serde(untagged)]
enum Printed<'a> {
    Accepted {
        first_id: u64,
        count: u64,
        #[serde(skip_serializing_if = "<[u64]>::is_empty")]
        ids: &'a [u64],
        /// Those of them that were accepted before.
        #[serde(skip_serializing_if = "<[u64]>::is_empty")]
        known: &'a [u64],
    },
    Failed {
        line: u64,
        error: &'a str,
        /// The server's reason, if it was the server.
        #[serde(skip_serializing_if = "str::is_empty")]
        cause: &'a str,
    },
    /// The last line, of a submission that came to its end.
    Done {
        done: bool,
        /// Without those that were known.
        accepted: u64,
        failed: u64,
        #[serde(skip_serializing_if = "super::rows::is_zero")]
        known: u64,
    },
}

/// Where tasks come from.
struct Input {
    lines: Box<dyn Iterator<Item = io::Result<(Line, u64)>> + Send>,
    /// In errors.
    name: String,
    /// What one of them is called.
    noun: &'static str,
    /// In bytes, where it is known.
    size: Option<u64>,
    /// The file, if it is one that can be read again.
    file: Option<String>,
}

impl Input {
    fn open(submit: &args::Submit) -> Result<Input, Error> {
        match &submit.file {
            Some(path) if path == Path::new("-") => Ok(Input::stdin(submit.whole)),
            Some(path) => Input::file(path, submit.whole),
            None if submit.texts == ["-"] => Ok(Input::stdin(submit.whole)),
            None => Ok(Input {
                lines: Box::new(submit.texts.clone().into_iter().map(|text| Ok((Line::Task(text), 0)))),
                name: "the arguments".into(),
                noun: "task",
                size: None,
                file: None,
            }),
        }
    }

    fn stdin(whole: bool) -> Input {
        Input {
            lines: Input::lines(io::stdin(), true, whole),
            name: "standard input".into(),
            noun: if whole { "task" } else { "line" },
            size: None,
            file: None,
        }
    }

    fn lines(
        input: impl Read + Send + 'static,
        live: bool,
        whole: bool,
    ) -> Box<dyn Iterator<Item = io::Result<(Line, u64)>> + Send> {
        if whole { Box::new(iter::once_with(|| lines::whole(input))) } else { Box::new(Lines::new(input, live)) }
    }

    fn file(path: &Path, whole: bool) -> Result<Input, Error> {
        let name = escape(&path.to_string_lossy()).into_owned();
        let open = || -> io::Result<(File, std::fs::Metadata)> {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            Ok((file, metadata))
        };
        let (file, metadata) = open().map_err(|source| Error::Input { name: name.clone(), source })?;
        let regular = metadata.is_file();
        Ok(Input {
            // A named pipe may be as slow as someone who types.
            lines: Input::lines(file, !regular, whole),
            size: regular.then_some(metadata.len()),
            file: (regular && !whole).then(|| quote(&name)),
            name,
            noun: if whole { "task" } else { "line" },
        })
    }

    /// How to submit what comes after `line`.
    fn go_on(&self, line: u64) -> String {
        match &self.file {
            Some(file) => {
                format!("; to go on, with the same options: tail -n +{} {file} | contactctl submit -", line + 1)
            }
            None => format!("; to go on, submit again from {} {} on", self.noun, line + 1),
        }
    }
}

/// Submits all of the input.
pub(super) fn run(mut submit: args::Submit, to: To<'_>, out: Out) -> Result<(), Error> {
    let mut named = BTreeSet::new();
    submit.task.to.retain(|to| named.insert(to.clone()));
    if submit.texts.is_empty() && submit.file.is_none() {
        // The data alone.
        submit.texts.push(String::new());
    }
    let is_stdin = submit.texts == ["-"] || submit.file.as_deref() == Some(Path::new("-"));
    if is_stdin && submit.task.beside.is_stdin() {
        return Err(Error::Usage("standard input has the tasks, or their data, and not both: name a file".into()));
    }
    if submit.key.is_some() && !submit.whole && (submit.texts.len() != 1 || submit.texts == ["-"]) {
        let how = "give its text as the one argument, or --whole";
        return Err(Error::Usage(format!("--key is for a single task: {how}")));
    }
    if submit.wait
        && (submit.texts.len() != 1 || submit.texts == ["-"] || (submit.task.to.len() > 1 && !submit.task.together))
    {
        return Err(Error::Usage(
            "--wait is for a single task: give its text as the one argument, and one --to, or --together; for many machines see \
             contactctl run"
                .into(),
        ));
    }
    if submit.whole && submit.file.is_none() && submit.texts != ["-"] {
        return Err(Error::Usage("--whole is for what comes from --file, or with - from standard input".into()));
    }
    if submit.key.is_some() && submit.task.to.len() > 1 && !submit.task.together {
        return Err(Error::Usage(
            "--key is for a single task: give one --to, --together, or a key to each group's task".into(),
        ));
    }
    let spec = Spec::new(&submit)?;
    let mut input = Input::open(&submit)?;
    let link = Link::connect(to)?;
    let began = Instant::now();
    // A channel holds one more for each sender.
    let (places, taken) = mpsc::channel(UNDER_WAY - 1);
    let report = RefCell::new(Report::new(&input, out, taken));

    let lines = std::mem::replace(&mut input.lines, Box::new(std::iter::empty()));
    let most = submit.batch as usize;
    let batches = Batches::new(lines, spec, most);
    let (mut batches_in, batches_out) = mpsc::channel(AHEAD - 1);
    let reader = thread::Builder::new().name("lines".into()).spawn(move || {
        for batch in batches {
            let last = batch.is_err();
            if block_on(batches_in.send(batch)).is_err() || last {
                break;
            }
        }
    })?;

    let ended = block_on(converse(&link, batches_out, most, places, &report));
    let mut report = report.into_inner();
    report.bar.finish_and_clear();
    if let Err(e) = ended {
        // The reader is not joined here: it may be waiting for a line that never comes, and ends with the process.
        return Err(match e {
            Error::Unimplemented { .. } => e,
            e => {
                let how_far = format!("{}{}", report.tally.how_far(), input.go_on(report.tally.answered));
                Error::CutOff { cause: Box::new(e), how_far }
            }
        });
    }
    if let Err(panic) = reader.join() {
        std::panic::resume_unwind(panic);
    }
    if let Some(source) = report.unreadable.take() {
        let cause = Box::new(Error::Input { name: input.name.clone(), source });
        return Err(Error::CutOff { cause, how_far: report.tally.how_far() });
    }
    report.window = window(&submit);
    let known = report.known.and_then(|id| stands(&link, id).ok());
    // For people: a program asks for what it wants to know.
    let first = report.tally.first().filter(|_| !report.out.json && report.known.is_none());
    let to_wait_for = report.known.or_else(|| report.tally.first()).filter(|_| submit.wait);
    let json = report.out.json;
    let done = report.finish(began, known);
    if let Some(first) = first {
        follow_up::say(&link, to.address, first, if submit.task.together { 1 } else { submit.task.to.len() });
    }
    match to_wait_for {
        Some(id) if done.is_ok() => {
            let answers = args::Answers { full: true, fold: false };
            runs::wait_for_task(&link, id, submit.timeout, &answers, Out::stdout(json))
        }
        _ => done,
    }
}

/// Sends requests and takes answers, until all is answered or something breaks.
async fn converse(
    link: &Link,
    batches: mpsc::Receiver<io::Result<Batch>>,
    most: usize,
    places: mpsc::Sender<()>,
    report: &RefCell<Report>,
) -> Result<(), Error> {
    let (mut sink, answers) = link.client.submit_stream(CallOption::default()).map_err(|e| link.error(e))?;
    let mut interrupt = Interrupt::watch()?.fuse();
    // When sending has ended, there are still answers to come.
    // The sink is lent, and lives as long as the answers: one that is dropped unclosed cancels the call, and hides why the server
    // ended it.
    let send = send(batches, most, &mut sink, places, report).then(|()| future::pending::<()>()).fuse();
    let receive = receive(link, answers, report).fuse();
    futures::pin_mut!(send, receive);
    select! {
        ended = receive => ended,
        () = send => unreachable!("pending for good"),
        () = interrupt => Err(Error::Interrupted),
    }
}

/// Ends when everything is sent, or nothing more can be; then `receive` learns why.
async fn send(
    batches: mpsc::Receiver<io::Result<Batch>>,
    most: usize,
    sink: &mut ClientDuplexSender<pb::SubmitRequest>,
    mut places: mpsc::Sender<()>,
    report: &RefCell<Report>,
) {
    let mut batches = batches.peekable();
    while let Some(batch) = batches.next().await {
        let mut batch = match batch {
            Ok(batch) => batch,
            Err(e) => {
                report.borrow_mut().unreadable = Some(e);
                break;
            }
        };
        // What comes while a request is under way goes together into the next one.
        while !batch.end && !batch.is_full(most) {
            let fits = |next: &io::Result<Batch>| next.as_ref().is_ok_and(|next| batch.takes(next, most));
            let next = Pin::new(&mut batches).next_if(fits);
            let next = match future::select(next, pin!(idle(report))).await {
                Either::Left((Some(Ok(next)), _)) => next,
                _ => break,
            };
            batch.append(next);
        }
        // Not `send`, which also waits for room after this one.
        if places.feed(()).await.is_err() {
            return;
        }
        let request = std::mem::take(&mut batch.request);
        let empty = request.tasks.is_empty();
        report.borrow_mut().begin(batch);
        if !empty && sink.send((request, WriteFlags::default())).await.is_err() {
            return;
        }
    }
    report.borrow_mut().close();
    let _ = sink.close().await;
}

/// Resolves when no request is under way.
async fn idle(report: &RefCell<Report>) {
    future::poll_fn(|cx| {
        let mut report = report.borrow_mut();
        if report.under_way.is_empty() {
            return Poll::Ready(());
        }
        report.when_idle = Some(cx.waker().clone());
        Poll::Pending
    })
    .await
}

async fn receive(
    link: &Link,
    mut answers: ClientDuplexReceiver<pb::SubmitResponse>,
    report: &RefCell<Report>,
) -> Result<(), Error> {
    while let Some(answer) = answers.next().await {
        let answer = answer.map_err(|e| link.error(e))?;
        report.borrow_mut().answered(answer)?;
    }
    let report = report.borrow();
    if report.closed && report.under_way.is_empty() {
        Ok(())
    } else {
        Err(link.went_away("it ended the call before all was answered"))
    }
}

/// A line that is no accepted task.
struct Failure {
    line: u64,
    reason: String,
    /// The server's, if it refused it.
    cause: String,
}

/// Tells, as it comes in, what became of the lines.
struct Report {
    tally: Tally,
    /// Batches whose lines are not told of yet. Each waits for its answer, or, without a task, for those before it: lines
    /// are told of in their order.
    under_way: VecDeque<Batch>,
    /// Who waits for none to be under way.
    when_idle: Option<Waker>,
    /// Has an entry for each batch that is under way; taking it makes room for another.
    taken: mpsc::Receiver<()>,
    out: Out,
    bar: ProgressBar,
    /// Why the input could not be read to its end.
    unreadable: Option<io::Error>,
    /// We have ended our side of the call.
    closed: bool,
    /// The times that were named, as they were understood.
    window: String,
    /// A task that was known by its key. There is one at most, since a key is for a single task.
    known: Option<u64>,
    /// Why standard output could not be written. Nobody's listening is no reason to stop submitting.
    unprinted: Option<io::Error>,
}

impl Report {
    fn new(input: &Input, out: Out, taken: mpsc::Receiver<()>) -> Report {
        // The bar hides itself where standard error is no terminal.
        let bar = match input.size {
            _ if out.json && io::stdout().is_terminal() => ProgressBar::hidden(),
            Some(size) => ProgressBar::new(size).with_style(style("{wide_bar} {percent:>3} %  {msg}  {eta} left")),
            None if input.noun == "line" => ProgressBar::no_length().with_style(style("{spinner} {msg}")),
            None => ProgressBar::hidden(),
        };
        Report {
            tally: Tally::new(input.noun),
            under_way: VecDeque::new(),
            when_idle: None,
            taken,
            out,
            bar,
            unreadable: None,
            closed: false,
            window: String::new(),
            known: None,
            unprinted: None,
        }
    }

    /// The batch is about to be sent.
    fn begin(&mut self, batch: Batch) {
        if !batch.lines.is_empty() {
            self.tally.sent = batch.last;
        }
        self.tally.all_sent = batch.end;
        self.under_way.push_back(batch);
        self.pass_fruitless();
    }

    /// There is nothing more to send.
    fn close(&mut self) {
        self.closed = true;
        self.tally.all_sent = self.unreadable.is_none();
    }

    /// Tells of the batches that wait for no answer, as far as it is their turn.
    fn pass_fruitless(&mut self) {
        while self.under_way.front().is_some_and(|batch| batch.lines.is_empty())
            && let Some(batch) = self.under_way.pop_front()
        {
            self.settle(&batch, Vec::new());
        }
    }

    fn answered(&mut self, answer: pb::SubmitResponse) -> Result<(), Error> {
        let nonsense = |what: String| Err(Error::Nonsense(what));
        let Some(batch) = self.under_way.pop_front() else { return nonsense("an answer to no request".into()) };
        let (tasks, refused) = (batch.lines.len() as u64, answer.refused.len() as u64);
        let accepted = if answer.ids.is_empty() { answer.count.into() } else { answer.ids.len() as u64 };
        if accepted + refused != tasks {
            return nonsense(format!("{tasks} tasks were sent, {accepted} accepted and {refused} refused"));
        }
        let mut known = Vec::new();
        for &place in &answer.known {
            let before = answer.refused.iter().filter(|refusal| refusal.index < place).count();
            let nth = (place as usize).saturating_sub(before);
            let consecutive = answer.ids.is_empty().then(|| answer.first_id.saturating_add(nth as u64));
            match answer.ids.get(nth).copied().or(consecutive) {
                Some(id) if u64::from(place) < tasks => known.push(id),
                _ => return nonsense(format!("task {place} of {tasks} is known")),
            }
        }
        let mut failed = Vec::new();
        for refusal in answer.refused {
            match batch.lines.get(refusal.index as usize) {
                Some(&line) => failed.push(Failure { line, reason: refusal.reason, cause: refusal.cause }),
                None => return nonsense(format!("task {} of {tasks} is refused", refusal.index)),
            }
        }
        if answer.ids.is_empty() {
            self.tally.accept(answer.first_id, accepted);
        }
        for &id in &answer.ids {
            self.tally.accept(id, 1);
        }
        self.tally.recognize(known.len() as u64);
        if accepted > 0 && self.out.json {
            let (first_id, ids) = (answer.first_id, &answer.ids);
            self.print(&Printed::Accepted { first_id, count: accepted, ids, known: &known }, "");
        }
        self.known = known.first().copied().or(self.known);
        self.settle(&batch, failed);
        self.pass_fruitless();
        Ok(())
    }

    /// The batch is done with; its `refused` lines failed beside its bad ones.
    fn settle(&mut self, batch: &Batch, refused: Vec<Failure>) {
        let mut failed = refused;
        let bad =
            |(line, reason): &(u64, String)| Failure { line: *line, reason: reason.clone(), cause: String::new() };
        failed.extend(batch.bad.iter().map(bad));
        failed.sort_by_key(|failure| failure.line);
        for failure in failed {
            self.fail(&failure);
        }
        self.tally.empty += batch.empty;
        self.tally.answered = batch.last;
        self.bar.set_message(format!("{} accepted", self.tally.accepted));
        self.bar.inc(batch.bytes);
        let _ = self.taken.next().now_or_never();
        if self.under_way.is_empty() {
            self.when_idle.take().into_iter().for_each(Waker::wake);
        }
    }

    fn fail(&mut self, Failure { line, reason, cause }: &Failure) {
        let line = *line;
        self.tally.fail(line);
        if self.out.json {
            self.print(&Printed::Failed { line, error: reason, cause }, "");
        } else {
            let noun = self.tally.noun;
            self.bar.suspend(|| _ = writeln!(io::stderr(), "{noun} {line}: {}", escape(reason)));
        }
    }

    fn print(&mut self, object: &Printed<'_>, text: &str) {
        if self.unprinted.is_none() {
            self.unprinted = self.out.object(object, text).err();
        }
    }

    /// The whole input was gone through. `known`: where the task stands that was known.
    fn finish(mut self, began: Instant, known: Option<String>) -> Result<(), Error> {
        let (accepted, failed, repeated) = (self.tally.accepted, self.tally.failed.count, self.tally.known);
        let done = Printed::Done { done: true, accepted: accepted - repeated, failed, known: repeated };
        let summary = match (self.known, known) {
            (Some(id), Some(stands)) => format!("known: task {id}, {stands}; nothing was submitted again"),
            _ => self.tally.summary(began.elapsed()) + &self.window,
        };
        self.print(&done, &summary);
        match (self.tally.failures(), self.unprinted) {
            (Some(failures), _) => Err(Error::LinesFailed(failures)),
            (None, Some(e)) => Err(Error::Output(e)),
            (None, None) => Ok(()),
        }
    }
}

/// The times that the operator named, in UTC, and how far off they are.
fn window(submit: &args::Submit) -> String {
    let now = Times::Ago(Time::now());
    let named = [("not before", submit.not_before), ("expires", submit.expires_at)];
    let said = named.into_iter().filter_map(|(what, at)| Some(format!("; {what} {}", now.both(Moment(at?.0)))));
    said.collect()
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
