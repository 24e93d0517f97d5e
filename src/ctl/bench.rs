//! `contactctl bench`: how fast a server is, on this machine, with everything on disk that counts.
//!
//! Each measurement has its file. They find a server (`target`, `cluster`), put load on it (`load`, whose messages are `raw`) on a few
//! threads that gRPC owns (`join_set`), and report figures (`report`) beside the machine's own limits (`limits`).

mod args;
mod article;
mod backlog;
mod broadcast;
mod clients;
mod cluster;
mod crowd;
mod delayed;
mod fanout;
mod groups;
mod idle;
mod join_set;
mod latency;
mod limits;
mod load;
mod nats;
mod process;
mod progress;
mod raw;
mod report;
mod retention;
mod submit;
mod target;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use args::Bench;
use grpcio::{CallOption, Client, EnvBuilder, Environment};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::args::Which;
use self::load::Kind;
use self::progress::Watch;
use self::report::Report;
use self::target::Target;
use super::Error;
use super::link::{Link, To};
use super::out::Out;
use crate::task::Time;
use crate::wire::control as pb;

/// How long an answer is waited for that is itself measured.
const LONG: Duration = Duration::from_secs(120);

/// One run of one measurement.
struct Run {
    /// Dropped first: processes that end with it would complain of a server that has gone.
    watch: Watch,
    target: Target,
    env: Arc<Environment>,
    report: Report,
}

type Measure = Box<dyn FnOnce(&mut Run) -> Result<(), Error>>;

/// Measures, and prints what came of it.
pub(super) fn run(bench: Bench, to: To<'_>, mut out: Out) -> Result<(), Error> {
    take_open_files();
    let Bench { common, which } = bench;
    common.check(&which, to.tls.is_some())?;
    let watch = Watch::new(out.json)?;
    let target = Target::find(&common, to, which.addresses(), &watch)?;
    let env = EnvBuilder::new().cq_count(common.threads as usize).name_prefix("load").build();
    let env = Arc::new(env);
    let ours = !matches!(&which, Which::Article(article) if article.own_tasks);
    let (name, measure): (_, Measure) = match which {
        Which::Submit(args) => ("submit", Box::new(move |run| submit::run(run, &args))),
        Which::Work(args) => ("work", Box::new(move |run| work::run(run, &args))),
        Which::Article(args) => ("article", Box::new(move |run| article::run(run, &args))),
        Which::Latency(args) => ("latency", Box::new(move |run| latency::run(run, &args))),
        Which::Idle(args) => ("idle", Box::new(move |run| idle::run(run, &args))),
        Which::Fanout(args) => ("fanout", Box::new(move |run| fanout::run(run, &args))),
        Which::Broadcast(args) => ("broadcast", Box::new(move |run| broadcast::run(run, &args))),
        Which::Backlog(args) => ("backlog", Box::new(move |run| backlog::run(run, &args))),
        Which::Delayed(args) => ("delayed", Box::new(move |run| delayed::run(run, &args))),
        Which::Groups(args) => ("groups", Box::new(move |run| groups::run(run, &args))),
        Which::Retention(args) => ("retention", Box::new(move |run| retention::run(run, &args))),
        // A part of a measurement.
        Which::Crowd(args) => {
            let run = Run { watch: watch.quiet(), target, env, report: Report::new("crowd") };
            return crowd::run(&run, &args);
        }
    };
    let limits = limits::measure(&target.dir, &watch)?;
    let before = process::own_vitals();
    let mut run = Run { watch, target, env, report: Report::new(name) };
    measure(&mut run)?;
    if let Some(vitals) = run.target.vitals() {
        run.report.number("rss_mb", vitals.peak_kb as f64 / 1024.0, "MB of memory, the most the server took");
        run.report.count("threads", vitals.threads, "threads of the server");
        // What a server that was killed took before is not known any more.
        run.report.number("server_cpu_s", vitals.cpu.as_secs_f64(), "seconds of CPU the server took, from its start");
        let others = run.watch.others_cpu();
        if let (Some(before), Some(after), Some(others)) = (before, process::own_vitals(), others) {
            let took = (after.cpu - before.cpu + others).as_secs_f64();
            run.report.number("load_cpu_s", took, "seconds of CPU the load generator took");
        }
    }
    if let Some(cluster) = run.target.cluster() {
        cluster.report(&mut run.report)?;
    }
    // Contact knows no other: it is not an option of the server.
    let fsync = if ours { "always" } else { "unknown" };
    run.report.text("fsync", fsync, "fsync before a task counts as accepted, and a result as settled");
    limits.report(&mut run.report);
    Ok(run.report.print(&mut out)?)
}

impl Run {
    /// The operators' side of the server.
    fn link(&self) -> Result<Link, Error> {
        Link::connect(self.target.operators())
    }

    /// Connections of clients.
    fn clients(&self, count: u32) -> Result<Vec<Client>, Error> {
        load::connect_in_turn(&self.env, &self.target.contacts, self.target.dial(), count, &self.watch)
    }

    /// Connections of operators.
    fn submitters(&self, count: u32) -> Result<Vec<Client>, Error> {
        let addresses = [self.target.control.clone()];
        load::connect_in_turn(&self.env, &addresses, self.target.operators_dial(), count, &self.watch)
    }

    /// Kills the server and starts it again on its data. Returns how long it was from that start to its first answer.
    fn ready_after_kill(&mut self) -> Result<Duration, Error> {
        self.target.restart()?;
        let started = self.target.started().unwrap_or_else(Instant::now);
        loop {
            let answer = self.link().and_then(|link| {
                link.wait(link.client.list_clients(&pb::ListClientsRequest::new(), CallOption::default().timeout(LONG)))
            });
            match answer {
                Ok(_) => return Ok(started.elapsed()),
                // It may be so busy with what it has that no connection comes about yet.
                Err(Error::NoServer(_)) if started.elapsed() < LONG => {}
                Err(why) => return Err(why),
            }
        }
    }

    /// A group for this measurement alone.
    fn group(&self) -> String {
        if self.target.is_ours() { "bench".into() } else { format!("bench-{:08x}", rand::random::<u32>()) }
    }

    /// Tasks of `size` bytes for a group, or for everyone.
    fn kind(&self, to: &str, size: u32) -> Kind {
        // On somebody's server, what is for everyone is not to stay there.
        let expires = !self.target.is_ours() && to.is_empty();
        let expires_at = if expires { Time::now().after(Duration::from_secs(3600)).0 } else { 0 };
        Kind { to: to.into(), size, expires_at, delay: None, lanes: 0 }
    }

    /// Removes a group that was made for this measurement. Its clients have gone, but the server may not know yet; and if it
    /// cannot be removed now, it ends by itself after a while.
    fn remove(&self, group: &str) -> Result<(), Error> {
        if !self.target.is_ours() {
            let link = self.link()?;
            let request = pb::RemoveGroupRequest { group: group.into(), ..pb::RemoveGroupRequest::default() };
            let _ = link.wait(link.client.remove_group(&request, Link::answer_soon()));
        }
        Ok(())
    }
}

/// Each client takes an open file, and shells begin with 1,024: take all there may be. Where that is too few, connecting
/// says so.
fn take_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// So many in such a time, a second.
fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
