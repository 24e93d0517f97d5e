//! `contact-server`: pushes tasks to the clients that connect, and keeps what they say came of them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use contact::broker::{self, From};
use contact::server::{Config, LARGEST_MAX_TASK, Retention, Server};
use contact::task::Name;
use log::{error, info, warn};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Pushes tasks to many clients over connections that the clients opened, and keeps what they say came of them.
///
/// Clients connect to --listen and wait for tasks; operators submit tasks and look at results through --control, with
/// contactctl. What was accepted is on disk, in the folder --data, and goes on after a restart.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  contact-server                          serve on 127.0.0.1:50051, keep everything in ./contact-data
  contact-server --demo                   make ten tasks every 40 s, as the article's server does
  contact-server --listen 0.0.0.0:50051   serve clients on other machines, too (no encryption yet: mind the network)
  RUST_LOG=debug contact-server           say more

Exit status: 0 stopped by a signal, 1 could not start or failed, 2 wrong usage, 130 stopped by a second signal."
)]
struct Args {
    /// Where clients connect. Port 0 takes any that is free
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051")]
    listen: String,
    /// Where operators connect. Whoever reaches it can submit tasks and read everything
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50052")]
    control: String,
    /// Where the page for operators is, with its API, /metrics and /healthz; `off`: nowhere. Whoever reaches it can submit
    /// tasks and read everything
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50080")]
    http: String,
    /// A name by which browsers may call the page, besides localhost and addresses. May be given several times
    #[arg(long, value_name = "NAME")]
    http_host: Vec<String>,
    /// The folder that keeps tasks and results. Made if it is missing; one server for a folder
    #[arg(long, value_name = "DIR", default_value = "contact-data")]
    data: PathBuf,
    /// Make ten tasks at the start, and ten more from time to time
    #[arg(long)]
    demo: bool,
    /// How often --demo makes ten tasks
    #[arg(long, value_name = "TIME", default_value = "40s", value_parser = humantime::parse_duration)]
    demo_every: Duration,
    /// Where anonymous clients start to read: at the first task that is kept, or at the next new one
    #[arg(long, value_name = "WHERE", default_value = "first")]
    anonymous_from: Start,
    /// Share the tasks between all anonymous clients, as one group of this name, instead of giving each of them everything
    #[arg(long, value_name = "GROUP", value_parser = |name: &str| Name::new("the group", name))]
    anonymous_group: Option<Name>,
    /// How long a client may keep a task without a word before it is given to another
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    ack_timeout: Duration,
    /// How long, after a start, tasks that were with a client are held back for it: it may still be at work on them. No longer
    /// than --ack-timeout
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    restart_grace: Duration,
    /// How often a task is delivered to a group before it is given up, unless the task says otherwise
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: u32,
    /// The longest task, status or result, in bytes. An article client takes messages up to 4 MiB
    #[arg(long, value_name = "BYTES", default_value = "1048576", value_parser = max_task)]
    max_task: usize,
    /// How long tasks are kept that every group has settled, and what came of them
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration)]
    retain: Duration,
    /// Remove settled tasks earlier when the store takes more than this
    #[arg(long, value_name = "BYTES")]
    retain_bytes: Option<u64>,
    /// A group that no client has used for so long ends, whatever it still owes
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = humantime::parse_duration)]
    group_ttl: Duration,
    /// How long clients may still tell results when the server is stopped. It ends sooner if none has anything more to tell
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    grace: Duration,
}

#[derive(Clone, Copy, ValueEnum)]
enum Start {
    First,
    New,
}

fn max_task(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (1..=LARGEST_MAX_TASK).contains(&bytes) => Ok(bytes),
        _ => Err(format!("must be a number of bytes from 1 to {LARGEST_MAX_TASK}")),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    // C-core says little that is of use to anyone who does not debug it.
    let filter = env_logger::Env::default().default_filter_or("info,grpcio=error");
    env_logger::Builder::from_env(filter).format_target(false).init();
    grpcio::redirect_log();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Each client takes an open file, and shells and service managers begin with 1,024: take all there may be.
fn take_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        let current = limit.current.map_or("unlimited".into(), |files| files.to_string());
        warn!("the limit of open files stays at {current}, and so does that of clients: {e}");
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    take_open_files();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let server = Server::start(Config {
        listen: args.listen,
        control: args.control,
        http: Some(args.http).filter(|http| http != "off"),
        http_hosts: args.http_host,
        data: args.data,
        max_task: args.max_task,
        demo: args.demo.then_some(args.demo_every),
        broker: broker::Config {
            ack_timeout: args.ack_timeout,
            max_attempts: args.max_attempts,
            restart_grace: args.restart_grace,
            anonymous_from: match args.anonymous_from {
                Start::First => From::First,
                Start::New => From::New,
            },
            anonymous_group: args.anonymous_group,
            ..broker::Config::default()
        },
        retention: Retention {
            retain: args.retain,
            retain_bytes: args.retain_bytes,
            group_ttl: args.group_ttl,
            ..Retention::default()
        },
        grace: args.grace,
    })?;
    // On standard output, for scripts that chose port 0. Nobody may be reading it.
    let http = server.http().map_or(String::new(), |http| format!(", http on {http}"));
    let _ = writeln!(std::io::stdout(), "listening on {}, control on {}{http}", server.listen(), server.control());

    signals.forever().next();
    info!("stopping: clients have a moment to tell their results; once more to stop at once");
    std::thread::Builder::new().name("second-signal".into()).spawn(move || {
        signals.forever().next();
        std::process::exit(130);
    })?;
    server.stop()?;
    info!("stopped");
    Ok(())
}
