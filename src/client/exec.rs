//! Tasks for a shell command.

use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use super::{Reply, Task};

/// The exit code that asks for another try: EX_TEMPFAIL of sysexits.h.
const EX_TEMPFAIL: i32 = 75;
/// The longest wait before another try.
const MOST_RETRY_DELAY: Duration = Duration::from_secs(600);

/// A shell command that handles tasks.
///
/// It is run by `sh -c` with the task on its standard input and with `CONTACT_TASK_ID` and `CONTACT_ATTEMPT` in its
/// environment, in a process group of its own, so that a Ctrl-C in the terminal stops the client and not the command.
/// It is finished when it has exited and no process holds its outputs open any more. Exit code 0 makes its standard output
/// the result and the outcome DONE. 75 means RETRY and everything else FAILED; the result is then its standard output
/// followed by its standard error.
///
/// ```
/// # use contact::client::{Config, Exec, Worker};
/// let exec = Exec::new("tr a-z A-Z");
/// let worker = Worker::new(Config::new("127.0.0.1:50051"), move |task| exec.run(task));
/// ```
#[derive(Debug, Clone)]
pub struct Exec {
    command: String,
    max_output: usize,
    retry_delay: Duration,
}

impl Exec {
    /// The longest output that is kept, unless [`Exec::max_output`] says otherwise: 64 KiB.
    pub const MAX_OUTPUT: usize = 64 << 10;
    /// The wait before the second try, unless [`Exec::retry_delay`] says otherwise.
    pub const RETRY_DELAY: Duration = Duration::from_secs(1);

    /// A command for `sh -c`.
    pub fn new(command: impl Into<String>) -> Exec {
        Exec { command: command.into(), max_output: Exec::MAX_OUTPUT, retry_delay: Exec::RETRY_DELAY }
    }

    /// Has the server wait for this before the second try of a task, twice as long before the third, and so on up to ten
    /// minutes.
    pub fn retry_delay(mut self, delay: Duration) -> Exec {
        self.retry_delay = delay;
        self
    }

    /// Cuts the output to this length, between two characters. The result then ends with a note that it was cut. Bytes that are
    /// no UTF-8 are replaced by U+FFFD before.
    pub fn max_output(mut self, bytes: usize) -> Exec {
        self.max_output = bytes;
        self
    }

    /// Runs the command for a task, and waits for it.
    pub fn run(&self, task: &Task) -> Reply {
        match self.output(task) {
            Ok((status, output, errors)) => self.reply(task, status, output, errors),
            // The machine is short of something, which may pass: another try is worth it.
            Err(error) => Reply::retry(format!("cannot run sh: {error}"), self.delay(task)),
        }
    }

    fn delay(&self, task: &Task) -> Duration {
        let doubled = 2_u32.saturating_pow(task.attempt.saturating_sub(1));
        self.retry_delay.saturating_mul(doubled).min(MOST_RETRY_DELAY)
    }

    fn output(&self, task: &Task) -> io::Result<(ExitStatus, Captured, Captured)> {
        let mut child = Command::new("sh")
            .args(["-c", &self.command])
            .env("CONTACT_TASK_ID", task.id.to_string())
            .env("CONTACT_ATTEMPT", task.attempt.to_string())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // All three pipes at once: a command may answer before it has read everything, or say much before it is done.
        let said = thread::scope(|scope| {
            let errors = thread::Builder::new().name("exec-stderr".into());
            let errors = errors.spawn_scoped(scope, || self.capture(stderr))?;
            let input = thread::Builder::new().name("exec-stdin".into());
            // A command that does not want its input closes it; that is no error.
            input.spawn_scoped(scope, || stdin.map(|mut stdin| stdin.write_all(task.text.as_bytes())))?;
            let output = self.capture(stdout);
            io::Result::Ok((output, errors.join().unwrap_or_default()))
        });
        if said.is_err() {
            let _ = child.kill();
        }
        let status = child.wait()?;
        let (output, errors) = said?;
        Ok((status, output, errors))
    }

    /// Reads to the end, but keeps no more than can be of use.
    fn capture(&self, from: Option<impl Read>) -> Captured {
        let Some(mut from) = from else { return Captured::default() };
        let mut kept = Vec::new();
        // Four bytes more, so that a character is cut where the text is, not here.
        let _ = from.by_ref().take((self.max_output as u64).saturating_add(4)).read_to_end(&mut kept);
        let rest = io::copy(&mut from, &mut io::sink()).unwrap_or(0);
        Captured { total: kept.len() as u64 + rest, kept }
    }

    fn reply(&self, task: &Task, status: ExitStatus, mut output: Captured, errors: Captured) -> Reply {
        if !status.success() {
            output.kept.extend(errors.kept);
            output.total += errors.total;
        }
        let mut text = String::from_utf8_lossy(&output.kept).into_owned();
        if text.len() > self.max_output {
            let cut = (0..=self.max_output).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(cut);
            text += &format!("\n[cut: {} bytes in all]", output.total);
        }
        if let Some(signal) = status.signal() {
            text += &format!("\n[killed by signal {signal}]");
        } else if text.is_empty() && !status.success() {
            text = format!("[{status}]");
        }
        match status.code() {
            Some(0) => Reply::done(text),
            Some(EX_TEMPFAIL) => Reply::retry(text, self.delay(task)),
            _ => Reply::failed(text.trim_start_matches('\n')),
        }
    }
}

/// What a command wrote.
#[derive(Default)]
struct Captured {
    kept: Vec<u8>,
    total: u64,
}
