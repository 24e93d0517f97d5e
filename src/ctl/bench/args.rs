//! What a measurement can be told. The defaults are what the project's own figures are measured with.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};

use crate::ctl::args::address;

/// Measure how fast a server is.
///
/// One that runs already, or, with --spawn, one of its own in a temporary folder.
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
    /// Where --spawn makes its temporary folder. Mind that there are systems whose /tmp is no disk.
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// Where clients connect, the server's --listen. Operators' calls go to --server.
    #[arg(long, global = true, value_name = "ADDR", default_value = "127.0.0.1:50051", value_parser = address)]
    pub(super) contact: String,
    /// Threads of the load generator.
    #[arg(long, global = true, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) threads: u32,
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
    /// What clients cost that are connected and do nothing: memory and threads of the server, time to connect.
    Idle(Idle),
    /// From submitting one task to every client's having it.
    Fanout(Fanout),
    /// A long queue: how soon a server is there again after it was killed, how much memory it takes, how fast it drains.
    Backlog(Backlog),
}

const LONGEST: i64 = 1024 * 1024;

fn size() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(16..=LONGEST)
}

fn some() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

fn few() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=100_000)
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
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = few())]
    pub(super) batch: u32,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Work {
    /// Tasks in all.
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = some())]
    pub(super) tasks: u64,
    /// Submit no more after this time.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) duration: Option<Duration>,
    #[command(flatten)]
    pub(super) workers: Workers,
}

/// A group of workers that settle everything at once.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Workers {
    /// Bytes of a task's text.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = size())]
    pub(super) size: u32,
    /// Workers, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = few())]
    pub(super) clients: u32,
    /// Most tasks in a message, both ways. 1: no batches.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = few())]
    pub(super) batch: u32,
    /// Most tasks a worker holds.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = few())]
    pub(super) window: u32,
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
    #[arg(long, conflicts_with = "spawn")]
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
