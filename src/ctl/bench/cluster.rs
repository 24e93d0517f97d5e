//! A cluster of our own: servers of which one leads, and the NATS servers that keep their log.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use grpcio::CallOption;

use super::args::{At, Common};
use super::nats::{self, Nats, free_ports};
use super::process::{Process, Vitals, until};
use super::progress::{Progress, Watch};
use super::report::Report;
use super::target::{Target, beside_us};
use crate::ctl::Error;
use crate::ctl::link::{Link, To};
use crate::wire::control as pb;
use crate::wire::control::cluster_server::Role;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(1);

pub(super) struct Cluster {
    // Dropped before what they write to. The one that is measured comes first.
    servers: Vec<Server>,
    nats: Nats,
    nats_version: String,
    at: At,
    /// In which all of it is measured.
    term: u64,
}

pub(super) struct Server {
    process: Process,
    pub(super) contact: String,
    pub(super) control: String,
}

/// Which server leads.
struct Lead {
    /// Where its clients connect.
    name: String,
    /// Another one for each time that a server begins to lead.
    term: u64,
    /// How many others have nothing left to apply.
    following: usize,
}

impl Cluster {
    /// Returns when one of the servers leads, and the others follow with nothing left to apply.
    pub(super) fn start(target: &Target, common: &Common, watch: &Watch) -> Result<Cluster, Error> {
        let nats_server = common.nats_server.as_deref().unwrap_or(Path::new("nats-server"));
        let nats_version = nats::version(nats_server)?;
        let program = beside_us()?;
        knows_clusters(&program)?;
        let at = common.at.unwrap_or(At::Leader);
        let count = if at == At::Each { 3 } else { 2 };
        let mut progress = watch.progress("starting a cluster", (nats::SERVERS + count) as u64);
        let nats = Nats::start(nats_server, &target.dir, &mut progress)?;
        // One after the other: the first one makes the stream.
        let mut servers = vec![Server::start(&program, target, &nats)?];
        wait(&mut servers, &mut progress)?;
        for _ in 1..count {
            servers.push(Server::start(&program, target, &nats)?);
        }
        let lead = wait(&mut servers, &mut progress)?;
        servers.sort_by_key(|server| (server.contact == lead.name) == (at == At::Follower));
        Ok(Cluster { servers, nats, nats_version, at, term: lead.term })
    }

    /// The server that is measured.
    pub(super) fn measured(&self) -> &Server {
        &self.servers[0]
    }

    /// Where clients connect, in turn.
    pub(super) fn contacts(&self) -> Vec<String> {
        let count = if self.at == At::Each { self.servers.len() } else { 1 };
        self.servers[..count].iter().map(|server| server.contact.clone()).collect()
    }

    /// Waits until the servers, which say it once a second, have so many clients in all. Returns how many each has.
    pub(super) fn clients(&self, all: u64, watch: &Watch) -> Result<Vec<u64>, Error> {
        let look = || {
            let each: Vec<u64> =
                servers_seen_by(&self.measured().control)?.iter().map(|server| server.clients.into()).collect();
            (each.iter().sum::<u64>() == all).then_some(each)
        };
        until(&mut watch.progress("counting clients", 1), "contact-server", [], look)
    }

    /// Also an error: another server took the lead meanwhile, and did a part of what was measured.
    pub(super) fn report(&self, report: &mut Report) -> Result<(), Error> {
        if Lead::seen_by(&self.measured().control).is_none_or(|lead| lead.term != self.term) {
            let why =
                "the lead of the cluster has changed meanwhile, or nobody says who has it: this machine was too busy";
            return Err(Error::NotMeasured(why.into()));
        }
        let at = match self.at {
            At::Leader => "leader",
            At::Follower => "follower",
            At::Each => "each server",
        };
        report.text("at", at, "is what everything was connected to, in a cluster");
        report.count("servers", self.servers.len() as u64, "servers of it");
        report.count("nats_servers", nats::SERVERS as u64, "NATS servers, which keep its log");
        report.text("nats", &self.nats_version, "is their version");
        let others: Vec<Vitals> = self.servers[1..].iter().filter_map(Server::vitals).collect();
        if let Some(most) = others.iter().map(|other| other.peak_kb).max() {
            let cpu: Duration = others.iter().map(|other| other.cpu).sum();
            report.number("other_cpu_s", cpu.as_secs_f64(), "seconds of CPU the other servers took, from their start");
            report.number("other_rss_mb", most as f64 / 1024.0, "MB of memory, the most that one of them took");
        }
        let nats = self.nats.servers.iter().map(|server| Some(server.vitals()?.cpu));
        if let Some(cpu) = nats.sum::<Option<Duration>>() {
            report.number("nats_cpu_s", cpu.as_secs_f64(), "seconds of CPU the NATS servers took, from their start");
        }
        Ok(())
    }
}

impl Server {
    fn start(program: &Path, target: &Target, nats: &Nats) -> Result<Server, Error> {
        let ports @ [contact, control] = free_ports()?;
        let [contact, control] = [contact, control].map(|port| format!("127.0.0.1:{port}"));
        let mut command = target.server(program, ports);
        command.args(["--nats", &nats.urls, "--cluster", "bench", "--advertise", &contact]);
        if let Some(tls) = &target.tls {
            command.arg("--cluster-ca").arg(&tls.ca);
        }
        let process = Process::start(command.stdout(Stdio::null()), None)?;
        Ok(Server { process, contact, control })
    }

    pub(super) fn vitals(&self) -> Option<Vitals> {
        self.process.vitals()
    }
}

/// Waits until one of these servers leads, and the others follow.
fn wait(servers: &mut [Server], progress: &mut Progress) -> Result<Lead, Error> {
    let (control, following) = (servers[0].control.clone(), servers.len() - 1);
    let processes = servers.iter_mut().map(|server| &mut server.process);
    until(progress, "contact-server", processes, || Lead::seen_by(&control).filter(|lead| lead.following == following))
}

impl Lead {
    /// `control`: of any server of the cluster.
    fn seen_by(control: &str) -> Option<Lead> {
        let there = servers_seen_by(control)?;
        let is = |server: &pb::ClusterServer, role: Role| server.role == role.into() && !server.silent;
        let leads = there.iter().find(|server| is(server, Role::LEADING))?;
        let following = there.iter().filter(|server| is(server, Role::FOLLOWING) && server.lag == 0).count();
        Some(Lead { name: leads.name.clone(), term: leads.epoch, following })
    }
}

/// All servers of a cluster. `control`: of any of them.
fn servers_seen_by(control: &str) -> Option<Vec<pb::ClusterServer>> {
    let link = Link::connect(To { address: control, tls: None, token: None }).ok()?;
    let options = CallOption::default().timeout(ANSWER);
    Some(link.wait(link.client.list_servers(&pb::ListServersRequest::new(), options)).ok()?.servers)
}

/// An error: it was built without the feature.
fn knows_clusters(program: &Path) -> Result<(), Error> {
    let said = Command::new(program).arg("--help").output();
    if said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("--nats ")) {
        return Ok(());
    }
    let why = "does not know --nats: it has to be built with `cargo build --release --features cluster`";
    Err(Error::NotMeasured(format!("{} {why}", program.display())))
}
