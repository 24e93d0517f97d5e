//! NATS servers for tests: real ones, made on first use as Python's environment is.

use std::fmt::Display;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};

use contact::store::{JetStream, JetStreamConfig, JetStreamError};

/// Some servers, that end with this process: they see that its end of a pipe is closed.
pub(crate) struct Nats {
    urls: String,
    monitors: String,
    /// As many as there are servers: 1 or 3.
    replicas: usize,
    process: Mutex<(Child, BufReader<ChildStdout>)>,
}

impl Nats {
    #[allow(dead_code, reason = "one program of tests does")]
    /// One, which all tests of the process share. `None`, said loudly, where there is no network to have it from; with `CI=true` that is a
    /// failure.
    pub(crate) fn one() -> Option<&'static Nats> {
        static ONE: OnceLock<Result<Nats, String>> = OnceLock::new();
        or_skipped(ONE.get_or_init(|| Nats::start(1, &[], None)).as_ref())
    }

    /// The same of three, which keep each record together.
    pub(crate) fn three() -> Option<&'static Nats> {
        static THREE: OnceLock<Result<Nats, String>> = OnceLock::new();
        or_skipped(THREE.get_or_init(|| Nats::start(3, &[], None)).as_ref())
    }

    /// Three that no other test has, to do anything with.
    #[allow(dead_code, reason = "one program of tests does")]
    pub(crate) fn three_alone() -> Option<Nats> {
        or_skipped(Nats::start(3, &[], None))
    }

    /// The same, each in the network of a process: `address@process`.
    #[allow(dead_code, reason = "one program of tests does")]
    pub(crate) fn three_at(places: &[String]) -> Option<Nats> {
        or_skipped(Nats::start(3, places, None))
    }

    /// One that has more settings, which are in a file.
    #[allow(dead_code, reason = "one program of tests does")]
    pub(crate) fn one_with(settings: &Path) -> Option<Nats> {
        or_skipped(Nats::start(1, &[], Some(settings)))
    }

    fn start(count: usize, places: &[String], settings: Option<&Path>) -> Result<Nats, String> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("nats");
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nats/serve.py");
        let mut command = Command::new("python3");
        command
            .arg(program)
            .arg(folder)
            .arg(count.to_string())
            .args(settings.map(|file| format!("--settings={}", file.display())))
            .args(places)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().map_err(|error| format!("python3: {error}"))?;
        let (mut urls, mut monitors) = (String::new(), String::new());
        let mut out = BufReader::new(process.stdout.take().expect("it is piped"));
        for line in [&mut urls, &mut monitors] {
            out.read_line(line).map_err(|error| error.to_string())?;
        }
        if urls.is_empty() {
            return Err("serve.py started no NATS server".into());
        }
        let [urls, monitors] = [urls, monitors].map(|line| line.trim().to_owned());
        Ok(Nats { urls, monitors, replicas: count, process: Mutex::new((process, out)) })
    }

    /// Has one of them killed, or started again.
    #[allow(dead_code, reason = "one program of tests does")]
    pub(crate) fn order(&self, what: &str, place: usize) {
        let mut process = self.process.lock().expect("nobody panicked with it");
        let input = process.0.stdin.as_mut().expect("it is piped");
        writeln!(input, "{what} {place}").expect("serve.py reads");
        process.1.read_line(&mut String::new()).expect("serve.py answers");
    }

    /// Where they are.
    #[allow(dead_code, reason = "one program of tests does")]
    pub(crate) fn urls(&self) -> &str {
        &self.urls
    }

    /// Where they say how they are set.
    #[allow(dead_code, reason = "one program of tests does")]
    pub(crate) fn monitors(&self) -> &str {
        &self.monitors
    }

    /// A log that nobody else has.
    pub(crate) fn config(&self) -> JetStreamConfig {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        JetStreamConfig {
            urls: self.urls.parse().expect("serve.py says where they are"),
            cluster: format!("t{}", NUMBER.fetch_add(1, SeqCst)).parse().expect("a name"),
            credentials: None,
            ca: None,
            replicas: self.replicas,
            secret: None,
            monitors: Vec::new(),
        }
    }
}

/// Connects as soon as the servers have found each other.
pub(crate) fn open(config: &JetStreamConfig) -> JetStream {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        match JetStream::open(config) {
            Ok(log) => return log,
            Err(error @ JetStreamError::Unreachable { .. }) if std::time::Instant::now() < deadline => {
                eprintln!("{error}; again");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn or_skipped<T>(ready: Result<T, impl Display>) -> Option<T> {
    match ready {
        Ok(nats) => Some(nats),
        Err(why) if std::env::var("CI").is_ok_and(|ci| ci == "true") => panic!("{why}"),
        Err(why) => {
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}
