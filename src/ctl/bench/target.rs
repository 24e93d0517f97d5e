//! The server that is measured.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use tempfile::TempDir;

use super::args::Common;
use crate::ctl::Error;
use crate::ctl::link::{self, To};
use crate::front::{Dial, Tls};

/// A server that runs already, or one of our own.
pub(super) struct Target {
    /// Where operators connect.
    pub(super) control: String,
    /// Where clients connect.
    pub(super) contact: String,
    /// How TLS is spoken there.
    tls: Option<Tls>,
    dial: Option<Dial>,
    operators_dial: Option<Dial>,
    spawned: Option<Spawned>,
    /// Where files are made. On the disk of a server of our own.
    pub(super) dir: PathBuf,
    /// Where a server of our own listens for clients.
    host: &'static str,
}

struct Spawned {
    // Dropped before its folder.
    process: Process,
    began: Instant,
    folder: TempDir,
}

/// Killed when dropped.
struct Process(Child);

/// What the system says of a process.
pub(super) struct Vitals {
    /// In memory now.
    pub(super) rss_kb: u64,
    /// The most it ever had there.
    pub(super) peak_kb: u64,
    pub(super) threads: u64,
    /// The time that it was on a processor.
    pub(super) cpu: Duration,
}

impl Target {
    /// `addresses`: at how many of 127.0.0.x clients are to reach it.
    pub(super) fn find(common: &Common, to: To<'_>, addresses: u8) -> Result<Target, Error> {
        let host = if addresses > 1 { "0.0.0.0" } else { "127.0.0.1" };
        let dir = common.dir.clone().unwrap_or_else(env::temp_dir);
        let mut target = Target {
            control: to.address.into(),
            contact: common.contact.clone(),
            tls: to.tls.cloned(),
            dial: None,
            operators_dial: None,
            spawned: None,
            dir,
            host,
        };
        if common.tls && (!common.spawn || addresses > 1) {
            let why = "--tls is for a server of our own, at one address: use it with --spawn; else give --tls-ca";
            return Err(Error::Usage(why.into()));
        }
        if common.spawn {
            let folder = tempfile::Builder::new().prefix("contact-bench-").tempdir_in(&target.dir);
            let folder =
                folder.map_err(|e| failed(&format!("cannot make a folder in {}", target.dir.display()), &e))?;
            target.dir = folder.path().to_owned();
            target.tls = common.tls.then(|| certificate(&target.dir)).transpose()?;
            target.start(folder)?;
        } else {
            target.make_ways()?;
        }
        Ok(target)
    }

    /// Starts our own server and waits until it listens.
    fn start(&mut self, folder: TempDir) -> Result<(), Error> {
        let program = beside_us()?;
        let mut command = Command::new(&program);
        command
            .args([
                "--listen",
                &format!("{}:0", self.host),
                "--control",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(folder.path().join("data"))
            // The window that is measured is the one that was asked for.
            .args(["--max-window", &super::args::LARGEST_WINDOW.to_string()]);
        if let Some(tls) = &self.tls {
            command.arg("--tls-cert").arg(&tls.ca).arg("--tls-key").arg(key_beside(&tls.ca));
        } else if self.host != "127.0.0.1" {
            command.arg("--insecure");
        }
        if env::var_os("RUST_LOG").is_none() {
            // It is not ten thousand clients' coming and going that is of interest.
            command.env("RUST_LOG", "warn,grpcio=error");
        }
        // What is measured is a server as it comes, not as somebody's environment has it.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONTACT_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let began = Instant::now();
        let mut child = command.spawn().map_err(|e| failed(&format!("cannot start {}", program.display()), &e))?;
        let mut line = String::new();
        let said = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        self.spawned = Some(Spawned { process: Process(child), began, folder });
        let addresses = line.trim_end().strip_prefix("listening on ").and_then(|line| line.split_once(", control on "));
        let addresses =
            addresses.map(|(contact, rest)| (contact, rest.split_once(", ").map_or(rest, |(control, _)| control)));
        let (Some(Ok(_)), Some((contact, control))) = (said, addresses) else {
            return Err(Error::NotMeasured(format!("{} did not start; it says why above", program.display())));
        };
        // Where all addresses are listened on, ours is one of them.
        (self.contact, self.control) = (contact.replacen("0.0.0.0", "127.0.0.1", 1), control.into());
        self.make_ways()
    }

    /// The ways to a server with TLS.
    fn make_ways(&mut self) -> Result<(), Error> {
        self.dial = link::dial(To { address: &self.contact, tls: self.tls.as_ref(), token: None })?;
        self.operators_dial = link::dial(self.operators())?;
        Ok(())
    }

    /// Where operators connect. A server of our own lets those of this machine in without TLS.
    pub(super) fn operators(&self) -> To<'_> {
        To { address: &self.control, tls: self.tls.as_ref().filter(|_| !self.is_spawned()), token: None }
    }

    /// The way of clients, if it is one with TLS.
    pub(super) fn dial(&self) -> Option<&Dial> {
        self.dial.as_ref()
    }

    /// The same of operators.
    pub(super) fn operators_dial(&self) -> Option<&Dial> {
        self.operators_dial.as_ref()
    }

    /// Whether it is ours, to be killed and looked into.
    pub(super) fn is_spawned(&self) -> bool {
        self.spawned.is_some()
    }

    /// When our own server was started.
    pub(super) fn started(&self) -> Option<Instant> {
        self.spawned.as_ref().map(|spawned| spawned.began)
    }

    /// So many addresses of 127.0.0.x at which clients connect.
    pub(super) fn addresses(&self, count: u8) -> Vec<String> {
        match (count, self.contact.rsplit_once(':')) {
            (2.., Some((_, port))) => (1..=count).map(|last| format!("127.0.0.{last}:{port}")).collect(),
            _ => vec![self.contact.clone()],
        }
    }

    /// Kills our own server (SIGKILL) and starts it again on the same folder.
    pub(super) fn restart(&mut self) -> Result<(), Error> {
        let Some(Spawned { process, folder, .. }) = self.spawned.take() else {
            return Err(Error::Usage("only a server of our own can be killed: use --spawn".into()));
        };
        drop(process);
        self.start(folder)
    }

    /// Of our own server, where the system tells.
    pub(super) fn vitals(&self) -> Option<Vitals> {
        vitals(&self.spawned.as_ref()?.process.0.id().to_string())
    }
}

/// Of this process, where the system tells.
pub(super) fn own_vitals() -> Option<Vitals> {
    vitals("self")
}

fn vitals(process: &str) -> Option<Vitals> {
    let folder = Path::new("/proc").join(process);
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    // What comes before the last bracket has spaces where the program's name has some. Then user and system time are the
    // twelfth and thirteenth.
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let ticks = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>().ok()? as f64;
    let cpu = Duration::from_secs_f64(ticks / rustix::param::clock_ticks_per_second() as f64);
    Some(Vitals { rss_kb: number("VmRSS")?, peak_kb: number("VmHWM")?, threads: number("Threads")?, cpu })
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes a certificate for this machine, which is its own authority.
fn certificate(folder: &Path) -> Result<Tls, Error> {
    let ca = folder.join("server.pem");
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]);
    let made = made.map_err(|e| Error::NotMeasured(format!("cannot make a certificate: {e}")))?;
    let write = |path: &Path, text: String| {
        fs::write(path, text).map_err(|e| failed(&format!("cannot write {}", path.display()), &e))
    };
    write(&ca, made.cert.pem())?;
    write(&key_beside(&ca), made.signing_key.serialize_pem())?;
    Ok(Tls { ca, identity: None })
}

fn key_beside(certificate: &Path) -> PathBuf {
    certificate.with_extension("key")
}

fn beside_us() -> Result<PathBuf, Error> {
    let us = env::current_exe().map_err(|e| failed("cannot find out where this program is", &e))?;
    let program = us.with_file_name(format!("contact-server{}", env::consts::EXE_SUFFIX));
    if program.is_file() {
        return Ok(program);
    }
    let missing = format!("--spawn needs contact-server beside contactctl, and there is no {}", program.display());
    Err(Error::NotMeasured(missing))
}

fn failed(what: &str, why: &std::io::Error) -> Error {
    Error::NotMeasured(format!("{what}: {why}"))
}
