//! Tasks for a shell command.

mod children;
mod environment;
mod output;
mod progress_lines;
mod running;

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::children::Children;
use self::environment::Environment;
pub use self::environment::{NotForCommands, Variable};
use self::running::{Ended, Limits, Told};
use super::{LONGEST, Outcome, Reply, Revoked, Task, TimeLimit};
use crate::task::Time;

/// The exit code that asks for another try: EX_TEMPFAIL of sysexits.h.
const EX_TEMPFAIL: i32 = 75;
/// The longest wait before another try.
const MOST_RETRY_DELAY: Duration = Duration::from_secs(600);
/// When a task whose command was ended by a stop may go out again: when its client is gone, and cannot be given it once more.
const AFTER_STOP: Duration = Duration::from_secs(1);
/// The shell of a command waits for its first line before it becomes the command: by then the guard knows of it. A command whose
/// client was killed meanwhile does not begin.
const SHELL: &str = r#"read -r begin && exec sh -c "$1""#;
/// That line.
const BEGIN: &str = "begin\n";

/// A shell command that handles tasks.
///
/// It is run by `sh -c` with the text of the task on its standard input, or, if that is empty, with its data. Its environment is
/// `CONTACT_TASK_ID`, `CONTACT_ATTEMPT`, for each header a variable (`content-type` is in `CONTACT_HEADER_CONTENT_TYPE`), and of this
/// process's PATH, HOME, USER, LOGNAME, SHELL, LANG, LANGUAGE, `LC_*`, TZ, TMPDIR and what [`Exec::env`] names: what else stands
/// there is often a secret, and a command's output is read by others. A text that does not end with a newline gets one there, as
/// `read` wants it; [`Exec::raw_input`] leaves it as it is.
///
/// It has a session of its own, so that a Ctrl-C in the terminal stops the client and not the command, and no terminal to ask
/// somebody. If the client is killed, so is the command, with all that it has started and not put into a session of its own.
///
/// It is finished when it has exited. Exit code 0 makes its standard output the result and the outcome DONE. 75 means RETRY. With
/// anything else it has failed: the task is tried again, up to [`Exec::attempts`], and then FAILED. So it is after
/// [`Exec::timeout`]. The result then says how it ended, and has its standard error and its standard output, apart:
///
/// ```text
/// exit code 2
/// --- standard error:
/// ls: cannot access 'nowhere': No such file or directory
/// --- standard output:
/// looking
/// ```
///
/// A process that the command left behind goes on. If it holds the outputs open, they are read for one more second, and the result
/// says so.
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
    retry_delay: Option<Duration>,
    attempts: Option<u32>,
    timeout: Option<Duration>,
    stop_timeout: Duration,
    raw_input: bool,
    environment: Environment,
    children: Arc<Children>,
}

impl Exec {
    /// The longest output that is kept, unless [`Exec::max_output`] says otherwise: 64 KiB.
    pub const MAX_OUTPUT: usize = 64 << 10;
    /// How often a task is tried whose command fails, unless [`Exec::attempts`], the task or its group says otherwise.
    pub const ATTEMPTS: u32 = 3;
    /// How long commands may go on when the worker stops, unless [`Exec::stop_timeout`] says otherwise: with the five seconds until
    /// they are killed, it is within the 30 seconds that Kubernetes gives by default.
    pub const STOP_TIMEOUT: Duration = Duration::from_secs(20);

    /// A command for `sh -c`.
    pub fn new(command: impl Into<String>) -> Exec {
        let children = Arc::default();
        #[cfg(target_os = "linux")]
        children::reap_what_is_inherited(&children);
        Exec {
            command: command.into(),
            max_output: Exec::MAX_OUTPUT,
            retry_delay: None,
            attempts: None,
            timeout: None,
            stop_timeout: Exec::STOP_TIMEOUT,
            raw_input: false,
            environment: Environment::default(),
            children,
        }
    }

    /// Has the server wait for this before the second try of a task, twice as long before the third, and so on up to ten
    /// minutes. Without this it waits as the retry policy of the task says, or else that of its group, or else the server's.
    pub fn retry_delay(mut self, delay: Duration) -> Exec {
        self.retry_delay = Some(delay);
        self
    }

    /// How often a task is tried whose command fails. With 1 it is a dead letter at once. Without this it is what the task or its
    /// group says ([`Task::max_attempts`]), or else [`Exec::ATTEMPTS`]. A server that does not say how many attempts were spent
    /// ([`Task::spent`]) ends it by its own count.
    pub fn attempts(mut self, attempts: u32) -> Exec {
        self.attempts = Some(attempts);
        self
    }

    /// Ends a command that takes longer: with SIGTERM to its process group, and with SIGKILL after five seconds more. It has failed
    /// then. Without this there is no limit.
    pub fn timeout(mut self, timeout: Duration) -> Exec {
        self.timeout = Some(timeout.min(LONGEST));
        self
    }

    /// How long a command may go on when the worker stops. (When its task is [revoked](Task::revoked), it is ended at once.) Then it is ended like one that takes too long, and its task goes back
    /// to the server as RETRY.
    pub fn stop_timeout(mut self, timeout: Duration) -> Exec {
        self.stop_timeout = timeout.min(LONGEST);
        self
    }

    /// Whether the command gets the task as it is, without a final newline where it has none.
    pub fn raw_input(mut self, raw: bool) -> Exec {
        self.raw_input = raw;
        self
    }

    /// Gives commands one more variable of this process's environment, if it is set when they begin.
    pub fn env(mut self, variable: Variable) -> Exec {
        self.environment.add(variable);
        self
    }

    /// Cuts the output to this length: its beginning and its end are kept, with a note between them. Where there are two outputs,
    /// each has at least half of it. Bytes that are no UTF-8 are replaced by U+FFFD.
    pub fn max_output(mut self, bytes: usize) -> Exec {
        self.max_output = bytes;
        self
    }

    /// Runs the command for a task, and waits for it.
    pub fn run(&self, task: &Task) -> Reply {
        match self.ended(task) {
            Ok(ended) => self.reply(task, &ended),
            // The machine is short of something, which may pass: another try is worth it.
            Err(error) => {
                log::warn!("task {}, attempt {}: cannot run sh: {error}", task.id, task.attempt);
                Reply::retry(format!("cannot run sh: {error}"), self.delay(task).unwrap_or_default())
            }
        }
    }

    fn ended(&self, task: &Task) -> io::Result<Ended> {
        let mut input = format!("{BEGIN}{}", task.text).into_bytes();
        if task.text.is_empty() {
            input.extend_from_slice(task.data());
        } else if !self.raw_input && !task.text.ends_with('\n') {
            input.push(b'\n');
        }
        let mut command = Command::new("sh");
        command.args(["-c", SHELL, "sh", &self.command]);
        self.environment.leave(&mut command);
        command.env("CONTACT_TASK_ID", task.id.to_string());
        // The first was there before there were others.
        for name in ["CONTACT_ATTEMPT", "CONTACT_TASK_ATTEMPT"] {
            command.env(name, task.attempt.to_string());
        }
        if !task.key.is_empty() {
            command.env("CONTACT_TASK_KEY", &task.key);
        }
        if let Some(left) = task.deadline().map(|at| at.saturating_duration_since(Instant::now())) {
            command.env("CONTACT_TASK_DEADLINE", (Time::now().after(left).0 / 1000).to_string());
        }
        command.envs(task.headers().iter().map(|(key, value)| (environment::of_header(key), value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let limits = Limits { timeout: self.timeout, stop_timeout: self.stop_timeout, keep: self.max_output };
        running::run(&self.children, command, &input, &limits, task)
    }

    /// How long the server is to wait; `None`: as the retry policy says.
    fn delay(&self, task: &Task) -> Option<Duration> {
        let doubled = 2_u32.saturating_pow(task.spent);
        Some(self.retry_delay?.saturating_mul(doubled).min(MOST_RETRY_DELAY))
    }

    fn most_attempts(&self, task: &Task) -> u32 {
        let said = Some(task.max_attempts).filter(|most| *most > 0);
        self.attempts.or(said).unwrap_or(Exec::ATTEMPTS)
    }

    fn reply(&self, task: &Task, ended: &Ended) -> Reply {
        if ended.told.is_none() && ended.status.success() {
            let text = with_note(ended.output.text(self.max_output), ended);
            if ended.held_open {
                log::warn!("task {}, attempt {}: done, but {}", task.id, task.attempt, HELD_OPEN);
            }
            return Reply::done(text);
        }
        let how = self.how(ended);
        let text = self.report(&how, ended);
        let asks = ended.told.is_none() && ended.status.code() == Some(EX_TEMPFAIL);
        // A server that does not count attempts would try it for ever.
        let is_last = task.attempt == 0 || task.spent.saturating_add(1) >= self.most_attempts(task);
        let (reply, what_now) = if let Some(Told::Revoked(_)) = ended.told {
            // Whatever is said of it now changes nothing.
            (Reply::retry(text, AFTER_STOP), "nothing is left to do here".to_owned())
        } else if let Some(Told::OverTime(TimeLimit { then: Outcome::Failed, .. })) = ended.told {
            (Reply::failed(text), "that is the end of it, as its submitter said".to_owned())
        } else if ended.told == Some(Told::Stopped) {
            (Reply::retry(text, AFTER_STOP), "it goes back to the server".to_owned())
        } else if asks || !is_last {
            let delay = self.delay(task);
            let when = delay.map_or("later".to_owned(), |delay| format!("in {}", seconds(delay)));
            (Reply::retry(text, delay.unwrap_or_default()), format!("again {when}"))
        } else {
            (Reply::failed(text), "that was its last try".to_owned())
        };
        let error = ended.errors.first_line().map_or(String::new(), |line| format!(": {line}"));
        log::warn!("task {}, attempt {}: {how}{error}; {what_now}", task.id, task.attempt);
        reply
    }

    /// How a command ended that did not succeed.
    fn how(&self, ended: &Ended) -> String {
        let how = exit(ended.status);
        match ended.told {
            Some(Told::TimedOut) => {
                format!("timed out after {} ({how})", seconds(self.timeout.unwrap_or_default()))
            }
            Some(Told::OverTime(limit)) => {
                format!("timed out after {}, as its task says ({how})", seconds(limit.lasts))
            }
            Some(Told::Stopped) => format!("ended because its client stops ({how})"),
            Some(Told::Revoked(Revoked::Expired)) => format!("ended because the task's time is over ({how})"),
            Some(Told::Revoked(Revoked::GivenToAnother)) => format!("ended because another has the task now ({how})"),
            Some(Told::Revoked(Revoked::TimedOut)) => format!("ended because it was given up ({how})"),
            Some(Told::Revoked(Revoked::Cancelled)) => format!("ended because the task was cancelled ({how})"),
            None => how,
        }
    }

    fn report(&self, how: &str, ended: &Ended) -> String {
        let mut text = how.to_owned();
        let half = self.max_output / 2;
        let outputs = [("error", &ended.errors, &ended.output), ("output", &ended.output, &ended.errors)];
        for (name, output, other) in outputs.into_iter().filter(|(_, output, _)| !output.is_empty()) {
            let shown = output.text(self.max_output.saturating_sub(other.len()).max(half));
            text += &format!("\n--- standard {name}:\n{}", shown.strip_suffix('\n').unwrap_or(&shown));
        }
        with_note(text, ended)
    }
}

/// What is said where outputs were cut a second after the exit.
const HELD_OPEN: &str = "a process that the command left behind held its outputs open";

fn with_note(mut text: String, ended: &Ended) -> String {
    if ended.held_open {
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        text += &format!("{newline}[cut: {HELD_OPEN}]");
    }
    text
}

fn exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}
