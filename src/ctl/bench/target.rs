//! The server that is measured.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, fs};

use tempfile::TempDir;

use super::args::Common;
use super::cluster::Cluster;
use super::process::{Process, Vitals};
use super::progress::Watch;
use crate::ctl::Error;
use crate::ctl::link::{self, To};
use crate::front::{Dial, Tls};

/// A server that runs already, or one of our own.
pub(super) struct Target {
    /// Where operators connect.
    pub(super) control: String,
    /// Where clients connect, in turn.
    pub(super) contacts: Vec<String>,
    /// How TLS is spoken there.
    pub(super) tls: Option<Tls>,
    dial: Option<Dial>,
    operators_dial: Option<Dial>,
    spawned: Option<Spawned>,
    cluster: Option<Cluster>,
    /// Where files are made. On the disk of a server of our own.
    pub(super) dir: PathBuf,
    /// That one, if it goes with the measurement. Dropped after what writes there.
    folder: Option<TempDir>,
    /// Where a server of our own listens for clients.
    host: &'static str,
}

struct Spawned {
    process: Process,
    began: Instant,
}

impl Target {
    /// `addresses`: at how many of 127.0.0.x clients are to reach it.
    pub(super) fn find(common: &Common, to: To<'_>, addresses: u8, watch: &Watch) -> Result<Target, Error> {
        let host = if addresses > 1 { "0.0.0.0" } else { "127.0.0.1" };
        let dir = common.dir.clone().unwrap_or_else(env::temp_dir);
        let mut target = Target {
            control: to.address.into(),
            contacts: common.contact.clone(),
            tls: to.tls.cloned(),
            dial: None,
            operators_dial: None,
            spawned: None,
            cluster: None,
            dir,
            folder: None,
            host,
        };
        if common.spawn || common.spawn_cluster {
            let folder = tempfile::Builder::new().prefix("contact-bench-").tempdir_in(&target.dir);
            let folder =
                folder.map_err(|e| failed(&format!("cannot make a folder in {}", target.dir.display()), &e))?;
            target.dir = folder.path().to_owned();
            target.folder = Some(folder);
            target.tls = common.tls.then(|| certificate(&target.dir)).transpose()?;
        }
        if common.spawn {
            target.start()?;
        } else if common.spawn_cluster {
            let cluster = Cluster::start(&target, common, watch)?;
            (target.contacts, target.control) = (cluster.contacts(), cluster.measured().control.clone());
            target.cluster = Some(cluster);
        }
        target.make_ways()?;
        Ok(target)
    }

    /// What starts a server of our own, at these ports of clients and of operators (0: any).
    pub(super) fn server(&self, program: &Path, [contact, control]: [u16; 2]) -> Command {
        let mut command = untold(program);
        command
            .arg("--listen")
            .arg(format!("{}:{contact}", self.host))
            .arg("--control")
            .arg(format!("127.0.0.1:{control}"))
            .args(["--http", "127.0.0.1:0", "--data"])
            .arg(self.dir.join(format!("data-{contact}")))
            // The window that is measured is the one that was asked for, and so are the clients: each that has a name is a group.
            .args(["--max-window", &super::args::MOST.to_string()])
            .args(["--max-groups", &super::args::MOST.to_string()]);
        if let Some(tls) = &self.tls {
            command.arg("--tls-cert").arg(&tls.ca).arg("--tls-key").arg(key_beside(&tls.ca));
        } else if self.host != "127.0.0.1" {
            command.arg("--insecure");
        }
        if env::var_os("RUST_LOG").is_none() {
            // It is not ten thousand clients' coming and going that is of interest.
            command.env("RUST_LOG", "warn,grpcio=error");
        }
        command.stdin(Stdio::null());
        command
    }

    /// Starts our own server and waits until it listens.
    fn start(&mut self) -> Result<(), Error> {
        let program = beside_us()?;
        let began = Instant::now();
        let mut process = Process::start(self.server(&program, [0, 0]).stdout(Stdio::piped()), None)?;
        let mut line = String::new();
        let said = process.out().map(|out| BufReader::new(out).read_line(&mut line));
        self.spawned = Some(Spawned { process, began });
        let addresses = line.trim_end().strip_prefix("listening on ").and_then(|line| line.split_once(", control on "));
        let addresses =
            addresses.map(|(contact, rest)| (contact, rest.split_once(", ").map_or(rest, |(control, _)| control)));
        let (Some(Ok(_)), Some((contact, control))) = (said, addresses) else {
            return Err(Error::NotMeasured(format!("{} did not start; it says why above", program.display())));
        };
        // Where all addresses are listened on, ours is one of them.
        (self.contacts, self.control) = (vec![contact.replacen("0.0.0.0", "127.0.0.1", 1)], control.into());
        Ok(())
    }

    /// The ways to a server with TLS.
    fn make_ways(&mut self) -> Result<(), Error> {
        self.dial = link::dial(To { address: &self.contacts[0], tls: self.tls.as_ref(), token: None })?;
        self.operators_dial = link::dial(self.operators())?;
        Ok(())
    }

    /// Where operators connect. A server of our own lets those of this machine in without TLS.
    pub(super) fn operators(&self) -> To<'_> {
        To { address: &self.control, tls: self.tls.as_ref().filter(|_| !self.is_ours()), token: None }
    }

    /// The way of clients, if it is one with TLS.
    pub(super) fn dial(&self) -> Option<&Dial> {
        self.dial.as_ref()
    }

    /// The same of operators.
    pub(super) fn operators_dial(&self) -> Option<&Dial> {
        self.operators_dial.as_ref()
    }

    /// Whether it goes with the measurement.
    pub(super) fn is_ours(&self) -> bool {
        self.folder.is_some()
    }

    /// The cluster that it is of, if that is ours.
    pub(super) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// When our own server was started, if it is alone.
    pub(super) fn started(&self) -> Option<Instant> {
        self.spawned.as_ref().map(|spawned| spawned.began)
    }

    /// Where clients connect: with one server, at so many addresses of 127.0.0.x.
    pub(super) fn addresses(&self, count: u8) -> Vec<String> {
        match (count, self.contacts[0].rsplit_once(':')) {
            (2.., Some((_, port))) => (1..=count).map(|last| format!("127.0.0.{last}:{port}")).collect(),
            _ => self.contacts.clone(),
        }
    }

    /// Kills our own server (SIGKILL) and starts it again on the same folder. There is one: see [`Common::check`].
    pub(super) fn restart(&mut self) -> Result<(), Error> {
        drop(self.spawned.take());
        self.start()?;
        self.make_ways()
    }

    /// Of our own server, where the system tells.
    pub(super) fn vitals(&self) -> Option<Vitals> {
        match (&self.spawned, &self.cluster) {
            (Some(spawned), _) => spawned.process.vitals(),
            (None, cluster) => cluster.as_ref()?.measured().vitals(),
        }
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

/// What starts a program of ours as it comes, not as somebody's environment has it.
pub(super) fn untold(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONTACT_")) {
        command.env_remove(name);
    }
    command
}

pub(super) fn this_program() -> Result<PathBuf, Error> {
    env::current_exe().map_err(|e| failed("cannot find out where this program is", &e))
}

pub(super) fn beside_us() -> Result<PathBuf, Error> {
    let program = this_program()?.with_file_name(format!("contact-server{}", env::consts::EXE_SUFFIX));
    if program.is_file() {
        return Ok(program);
    }
    let missing = format!("contact-server has to be beside contactctl, and there is no {}", program.display());
    Err(Error::NotMeasured(missing))
}

fn failed(what: &str, why: &std::io::Error) -> Error {
    Error::NotMeasured(format!("{what}: {why}"))
}
