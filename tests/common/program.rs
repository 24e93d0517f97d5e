//! A child process that ends with the test, and its output, line by line.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use std::{io, mem};

use super::DEADLINE;

/// A running child. Killed when dropped; if the test has failed, what it said is shown.
pub struct Program {
    child: Child,
    /// Its standard output.
    pub out: Lines,
    /// Its standard error.
    pub err: Lines,
}

impl Program {
    /// Starts `command`, with nothing on its standard input.
    pub fn spawn(name: &str, command: &mut Command) -> io::Result<Program> {
        let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn()?;
        let out = Lines::of(format!("{name} out"), child.stdout.take().unwrap());
        let err = Lines::of(format!("{name} err"), child.stderr.take().unwrap());
        Ok(Program { child, out, err })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `INT`.
    #[track_caller]
    pub fn signal(&self, signal: &str) {
        send(signal, &self.child);
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        self.out.ended();
        self.err.ended();
        self.child.wait().unwrap()
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end, and returns what it printed; what it says when it fails is the error.
pub fn said(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!("there is no {program} on the PATH")),
        Err(error) => Err(format!("{program}: {error}")),
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            let complaint = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            Err(format!("{program}: {}: {complaint}", output.status))
        }
    }
}

/// Sends a signal by its name, such as `INT`.
#[track_caller]
pub fn send(signal: &str, child: &Child) {
    // The shell's own kill: the program of that name is missing on small systems.
    let status = Command::new("sh").args(["-c", &format!("kill -s {signal} {}", child.id())]).status().unwrap();
    assert!(status.success(), "{} could not be sent {signal}", child.id());
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// All lines of an output so far, read by a thread of their own, so that the child never waits for the test.
pub struct Lines {
    name: String,
    seen: Arc<Seen>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    transcript: Mutex<Transcript>,
    changed: Condvar,
}

#[derive(Default)]
struct Transcript {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn of(name: String, pipe: impl Read + Send + 'static) -> Lines {
        let seen = Arc::new(Seen::default());
        let reader = thread::Builder::new().name(name.clone()).spawn({
            let seen = Arc::clone(&seen);
            move || {
                for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                    seen.change(|transcript| transcript.lines.push(String::from_utf8_lossy(&line).into_owned()));
                }
                seen.change(|transcript| transcript.ended = true);
            }
        });
        Lines { name, seen, reader: Some(reader.unwrap()) }
    }

    /// Waits until `found` makes something of all the lines so far.
    #[track_caller]
    pub fn until<T>(&self, what: &str, mut found: impl FnMut(&[String]) -> Option<T>) -> T {
        match self.wait(|transcript| found(&transcript.lines), false) {
            Ok(it) => it,
            Err(why) => panic!("{}: {why} waiting for {what}", self.name),
        }
    }

    /// Waits for a line like that, or finds it among the ones so far.
    #[track_caller]
    pub fn wait_for(&self, what: &str, like: impl Fn(&str) -> bool) -> String {
        self.until(what, |lines| lines.iter().find(|line| like(line)).cloned())
    }

    /// Waits until there are `count` lines of a kind, and returns what `kind` makes of all that there are.
    #[track_caller]
    pub fn at_least<T>(&self, count: usize, what: &str, kind: impl Fn(&str) -> Option<T>) -> Vec<T> {
        self.until(&format!("{count} {what}"), |lines| {
            let found: Vec<T> = lines.iter().filter_map(|line| kind(line)).collect();
            (found.len() >= count).then_some(found)
        })
    }

    /// The lines so far.
    pub fn so_far(&self) -> Vec<String> {
        self.seen.transcript.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    #[track_caller]
    fn ended(&self) {
        if let Err(why) = self.wait(|transcript| transcript.ended.then_some(()), true) {
            panic!("{}: {why} waiting for its end", self.name);
        }
    }

    fn wait<T>(&self, mut found: impl FnMut(&Transcript) -> Option<T>, end_is_fine: bool) -> Result<T, &'static str> {
        let deadline = Instant::now() + DEADLINE;
        let mut transcript = self.seen.transcript.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(it) = found(&transcript) {
                return Ok(it);
            }
            if transcript.ended && !end_is_fine {
                return Err("ended");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("took too long");
            }
            transcript = self.seen.changed.wait_timeout(transcript, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Lines {
    /// By now the child is gone, and with it the pipe.
    fn drop(&mut self) {
        let _ = mem::take(&mut self.reader).map(JoinHandle::join);
        if thread::panicking() {
            let lines = self.so_far();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- {} ({} lines) ---\n{}", self.name, lines.len(), tail.join("\n"));
        }
    }
}

impl Seen {
    fn change(&self, change: impl FnOnce(&mut Transcript)) {
        change(&mut self.transcript.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}
