//! One command, from its start until it is over.

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use process_wrap::std::ChildWrapper;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::children::Children;
use super::output::Output;
use super::progress_lines::ProgressLines;
use crate::client::{Revoked, Task, TimeLimit};

/// How long a command that was told to end may take, before it is killed.
pub(super) const KILL_AFTER: Duration = Duration::from_secs(5);
/// How long after a command's exit its outputs are still read, where another process holds them open.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often it is asked whether the command has to end.
const TICK: Duration = Duration::from_millis(200);
/// POSIX's PIPE_BUF, or less: what a pipe that can be written to takes without a wait.
const WRITE: usize = 4096;

/// What bounds a command.
pub(super) struct Limits {
    pub(super) timeout: Option<Duration>,
    pub(super) stop_timeout: Duration,
    /// How much is kept of each output, in bytes.
    pub(super) keep: usize,
}

/// How a command ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) output: Output,
    pub(super) errors: Output,
    /// Why it was told to end, if it was.
    pub(super) told: Option<Told>,
    /// A process that it left behind still held its outputs.
    pub(super) held_open: bool,
}

/// Why a command was told to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    TimedOut,
    /// It took longer than its task may.
    OverTime(TimeLimit),
    Stopped,
    Revoked(Revoked),
}

/// Starts the command, gives it its input, and waits until it is over. An error: it could not be started, or not be waited for.
pub(super) fn run(
    children: &Children,
    command: Command,
    input: &[u8],
    limits: &Limits,
    task: &Task,
) -> io::Result<Ended> {
    let mut child = children.spawn(command)?;
    let group = Group::of(&*child);
    let watched = thread::scope(|scope| {
        let watched = io::pipe().and_then(|(exited, exits)| {
            let waiter = thread::Builder::new().name("exec-wait".into());
            waiter.spawn_scoped(scope, move || {
                group.wait();
                drop(exits);
            })?;
            Watch::new(&mut *child, group, input, exited, limits).until_over(task)
        });
        // The waiter is waited for here, and so the command: it must not go on without anybody who reads what it says.
        if watched.is_err() {
            group.send(Signal::KILL);
        }
        watched
    });
    group.wait();
    let status = children.reap(child)?;
    let Watch { output, errors, told, held_open, .. } = watched?;
    Ok(Ended { status, output, errors, told, held_open })
}

/// The process group of a command: it, and what it has started and did not put elsewhere.
#[derive(Clone, Copy)]
struct Group(Option<Pid>);

impl Group {
    fn of(leader: &dyn ChildWrapper) -> Group {
        Group(i32::try_from(leader.id()).ok().and_then(Pid::from_raw))
    }

    fn send(self, signal: Signal) {
        // Nobody is there any more: that was the aim.
        let _ = self.0.map(|group| kill_process_group(group, signal));
    }

    /// Waits until the leader has exited. Until it is reaped, its number stays its own.
    fn wait(self) {
        let Some(leader) = self.0 else { return };
        let exited = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(leader), exited), Err(Errno::INTR)) {}
    }
}

/// The pipes of a command, and how far it is.
struct Watch<'a> {
    group: Group,
    limits: &'a Limits,
    started: Instant,
    /// What it has not read yet.
    input: &'a [u8],
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// Ends when it has exited.
    exit: Option<PipeReader>,
    output: Output,
    errors: Output,
    progress: ProgressLines,
    told: Option<Told>,
    /// When a running command has to end, since this process is stopping.
    stop_at: Option<Instant>,
    /// When one that was told to end is killed.
    kill_at: Option<Instant>,
    /// When its outputs are not waited for any more: set when it has exited.
    cut_at: Option<Instant>,
    held_open: bool,
}

/// What can be ready.
#[derive(Clone, Copy)]
enum Part {
    Stdin,
    Stdout,
    Stderr,
    Exit,
}

impl<'a> Watch<'a> {
    fn new(child: &mut dyn ChildWrapper, group: Group, input: &'a [u8], exit: PipeReader, limits: &'a Limits) -> Self {
        Watch {
            group,
            limits,
            started: Instant::now(),
            input,
            stdin: child.stdin().take(),
            stdout: child.stdout().take(),
            stderr: child.stderr().take(),
            exit: Some(exit),
            output: Output::new(limits.keep),
            errors: Output::new(limits.keep),
            progress: ProgressLines::default(),
            told: None,
            stop_at: None,
            kill_at: None,
            cut_at: None,
            held_open: false,
        }
    }

    fn until_over(mut self, task: &Task) -> io::Result<Self> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let now = Instant::now();
            if self.exit.is_some() {
                self.end_if_due(now, task);
            }
            if let Some(cut_at) = self.cut_at {
                self.held_open = now >= cut_at && (self.stdout.is_some() || self.stderr.is_some());
                if self.held_open || (self.stdout.is_none() && self.stderr.is_none()) {
                    self.progress.end(|rest| print(&mut self.errors, rest, task));
                    return Ok(self);
                }
            }
            for part in self.ready(now, task)? {
                self.go_on(part, &mut buffer, task);
            }
        }
    }

    /// Tells the command to end, and later kills it.
    fn end_if_due(&mut self, now: Instant, task: &Task) {
        if self.told.is_none() {
            if task.is_stopping() {
                self.stop_at.get_or_insert(now + self.limits.stop_timeout);
            }
            if let Some(why) = task.revoked() {
                self.told = Some(Told::Revoked(why));
            } else if self.stop_at.is_some_and(|at| now >= at) {
                self.told = Some(Told::Stopped);
            } else if task.deadline().is_some_and(|at| now >= at) {
                self.told = task.time_limit.map(Told::OverTime);
            } else if self.times_out_at().is_some_and(|at| now >= at) {
                self.told = Some(Told::TimedOut);
            }
            if self.told.is_some() {
                self.group.send(Signal::TERM);
                // One that is stopped hears nothing else.
                self.group.send(Signal::CONT);
                self.stop_at = None;
                self.kill_at = Some(now + KILL_AFTER);
            }
        } else if self.kill_at.is_some_and(|at| now >= at) {
            self.group.send(Signal::KILL);
            self.kill_at = None;
        }
    }

    fn times_out_at(&self) -> Option<Instant> {
        Some(self.started + self.limits.timeout?)
    }

    /// Waits until something can go on.
    fn ready(&self, now: Instant, task: &Task) -> io::Result<Vec<Part>> {
        let limits = [self.times_out_at(), task.deadline()].into_iter().flatten().filter(|_| self.told.is_none());
        let moments = [limits.min(), self.stop_at, self.kill_at, self.cut_at];
        let wait = moments.into_iter().flatten().map(|at| at.saturating_duration_since(now)).fold(TICK, Duration::min);
        let stdin = self.stdin.as_ref().map(|pipe| (Part::Stdin, PollFd::new(pipe, PollFlags::OUT)));
        let pipes = [
            self.stdout.as_ref().map(|pipe| (Part::Stdout, pipe.as_fd())),
            self.stderr.as_ref().map(|pipe| (Part::Stderr, pipe.as_fd())),
            self.exit.as_ref().map(|pipe| (Part::Exit, pipe.as_fd())),
        ];
        let pipes = pipes.into_iter().flatten();
        let pipes = pipes.map(|(part, pipe)| (part, PollFd::from_borrowed_fd(pipe, PollFlags::IN)));
        let (parts, mut files): (Vec<Part>, Vec<PollFd<'_>>) = stdin.into_iter().chain(pipes).unzip();
        let wait = Timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos() as _ };
        match poll(&mut files, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = parts.into_iter().zip(&files).filter(|(_, file)| !file.revents().is_empty());
        Ok(ready.map(|(part, _)| part).collect())
    }

    fn go_on(&mut self, part: Part, buffer: &mut [u8], task: &Task) {
        match part {
            Part::Stdin => {
                let next = &self.input[..self.input.len().min(WRITE)];
                let written = self.stdin.as_mut().map(|stdin| stdin.write(next));
                match written {
                    Some(Ok(count)) => self.input = &self.input[count..],
                    Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    // A command that does not want its input closes it; that is no error.
                    _ => self.input = &[],
                }
                if self.input.is_empty() {
                    self.stdin = None;
                }
            }
            Part::Stdout => print(&mut self.output, read(&mut self.stdout, buffer), task),
            Part::Stderr => {
                let printed = read(&mut self.stderr, buffer);
                let pass = |rest: &[u8]| print(&mut self.errors, rest, task);
                self.progress.take(printed, pass, |part, words| task.progress(part, words));
            }
            Part::Exit => {
                self.exit = None;
                self.stdin = None;
                self.cut_at = Some(Instant::now() + LAST_WORDS);
                self.kill_at = None;
                self.stop_at = None;
                // What is told to end leaves nothing behind.
                if self.told.is_some() {
                    self.group.send(Signal::KILL);
                }
            }
        }
    }
}

/// Keeps what was printed, and shows it to those who watch.
fn print(output: &mut Output, bytes: &[u8], task: &Task) {
    if !bytes.is_empty() {
        output.push(bytes);
        task.print(bytes);
    }
}

/// Reads what is there. At the end the pipe is closed.
fn read<'a>(pipe: &mut Option<impl Read>, buffer: &'a mut [u8]) -> &'a [u8] {
    let Some(from) = pipe else { return &[] };
    match from.read(buffer) {
        Ok(count) if count > 0 => &buffer[..count],
        Err(error) if error.kind() == io::ErrorKind::Interrupted => &[],
        _ => {
            *pipe = None;
            &[]
        }
    }
}
