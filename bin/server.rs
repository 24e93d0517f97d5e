//! `contact-server`: pushes tasks to the clients that connect, and keeps their results.

#[cfg(feature = "cluster")]
#[path = "server/cluster.rs"]
mod cluster;

use std::env;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser};
use contact::broker::{self, BrokerError};
use contact::config::{self, FileArgs, Settings, time};
use contact::logger::{self, LogArgs};
use contact::retry::Retry;
use contact::server::{
    Auth, CallLimits, Config, DialConfig, DialTls, GRPC_MEMORY, LARGEST_MAX_TASK, Limit, Limits, Most, Retention,
    Server, ServerTls, host,
};
use contact::task::{Name, NameOf, StartAt};
use log::{error, info, warn};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Pushes tasks to many clients over connections that the clients opened, and keeps their results.
///
/// Clients connect to --listen and wait for tasks; operators submit tasks and look at results through --control, with
/// contactctl. What was accepted is on disk, in the folder --data, and goes on after a restart.
///
/// Each flag is also a variable of the environment, CONTACT_ACK_TIMEOUT for --ack-timeout, and a key of the file --config. The
/// flag counts, else the variable, else the file.
#[derive(Debug, Parser)]
#[command(
    name = "contact-server",
    version,
    after_help = "Examples:
  contact-server                          serve on 127.0.0.1:50051, keep everything in ./contact-data
  contact-server --demo                   make ten tasks every 40 s, as the article's server does
  contact-server --listen 0.0.0.0:50051 --tls-cert server.pem --tls-key server.key --tls-client-ca ca.pem
                                          serve clients on other machines, too, if they show a certificate
  contact-server --public agents.example:50051    the same with certificates of its own: contactctl invite
  contact-server --print-config > contact.toml    a file to begin with: every setting, what it means and what it is
  contact-server --config contact.toml    set by that file; SIGHUP reads it again, and says what needs a restart

Exit status: 0 stopped by a signal, 1 could not start or failed, 2 wrong usage, 130 stopped by a second signal."
)]
struct Args {
    /// Where clients connect. Port 0 takes any that is free
    #[arg(long, value_name = "HOST:PORT", default_value = LISTEN)]
    listen: String,
    /// Where operators connect. Anyone who reaches it can submit tasks and read everything
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50052")]
    control: String,
    /// Where the page for operators is, with its API, /metrics and /healthz; `off`: nowhere. An address that other machines reach is one
    /// of https. Without TLS, anyone who reaches it can submit tasks and read everything
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50080")]
    http: String,
    /// A name by which browsers may call the page, besides localhost and addresses. May be given several times
    #[arg(long, value_name = "NAME")]
    http_host: Vec<String>,
    /// The certificate by which --listen, --control and --http speak TLS, in PEM, with those between it and its authority. To the last
    /// two, those on this machine may do without. The files are read again when they change, and on SIGHUP
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The key of --tls-cert, in PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Let only those in who show a certificate of these authorities, in PEM. It names its client: contact://FLEET/agent/NAME. On --http
    /// a token, or contactctl login, does as well
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Where clients reach this server. It then has an authority of its own, in the folder --data, speaks TLS by it, lets in only those
    /// who were given a certificate (contactctl invite, contactctl cert issue), and listens on all addresses unless --listen says where
    #[arg(long, value_name = "HOST:PORT")]
    public: Option<String>,
    /// Serve other machines also without TLS, and without certificates of operators: whoever gets there, or is between, can read
    /// and do everything
    #[arg(long)]
    insecure: bool,
    /// When callers have to say who they are, by a certificate or a token (contactctl token create): `auto`, when a port is for other
    /// machines, with TLS; `required`, always. Operators on this machine then use the file operator.token in --data
    #[arg(long, value_name = "WHEN", default_value = Auth::Auto.as_str())]
    auth: Auth,
    /// The folder that keeps tasks and results. Made if it is missing; one server for a folder
    #[arg(long, value_name = "DIR", default_value = "contact-data")]
    data: PathBuf,
    /// Make ten tasks at the start, and ten more from time to time
    #[arg(long)]
    demo: bool,
    /// How often --demo makes ten tasks
    #[arg(long, value_name = "TIME", default_value = "40s", value_parser = humantime::parse_duration)]
    demo_every: Duration,
    /// Where a group that is new starts to read, unless its first client says so (contact-client --from): at the next task for
    /// everyone, or at the first that is kept. Tasks that are addressed to it wait for it in any case
    #[arg(long, value_name = "WHERE", default_value = broker::Config::default().groups_from.as_str())]
    groups_from: StartAt,
    /// Where anonymous clients start to read: at the first task that is kept, or at the next new one
    #[arg(long, value_name = "WHERE", default_value = broker::Config::default().anonymous_from.as_str())]
    anonymous_from: StartAt,
    /// Share the tasks between all anonymous clients, as one group of this name, instead of giving each of them everything
    #[arg(long, value_name = "GROUP", value_parser = |name: &str| Name::new(NameOf::ClientOrGroup, name))]
    anonymous_group: Option<Name>,
    /// How long a client may keep a task without a word before it is given to another
    #[arg(long, value_name = "TIME", default_value = time(broker::Config::default().ack_timeout), value_parser = humantime::parse_duration)]
    ack_timeout: Duration,
    /// How long, after a start, tasks that were with a client are held back for it: it may still be at work on them. No longer
    /// than --ack-timeout
    #[arg(long, value_name = "TIME", default_value = time(broker::Config::default().restart_grace), value_parser = humantime::parse_duration)]
    restart_grace: Duration,
    /// How often work on a task may begin, for a group, before it is given up, unless the task says otherwise. For a client
    /// that does not say when it begins, each delivery counts
    #[arg(long, value_name = "N", default_value = broker::Config::default().max_attempts.to_string(), value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: u32,
    /// Give a task up when this many clients, one after another, were not heard of again after they had been given it
    #[arg(long, value_name = "N", default_value = broker::Config::default().max_deliveries.to_string(), value_parser = clap::value_parser!(u32).range(1..))]
    max_deliveries: u32,
    /// Most tasks that a client has at the same time without having said what came of them. One that wants more has this many, and
    /// hears so
    #[arg(long, value_name = "N", default_value = broker::Config::default().max_window.to_string(), value_parser = clap::value_parser!(u32).range(1..))]
    max_window: u32,
    /// Most groups, named clients included. A client whose group would be one too many is refused; those that are there go on
    #[arg(long, value_name = "N", default_value = broker::Config::default().max_groups.to_string(), value_parser = some)]
    max_groups: usize,
    /// How long a task waits before it is tried again, unless it says otherwise: the first wait, what each further one is
    /// multiplied with, the longest, and by which part they vary. A first loss costs no wait. `first=0s`: none does
    #[arg(long, value_name = "POLICY", default_value = broker::Config::default().retry.to_string())]
    retry: Retry,
    /// The longest that a client can have a task wait with RETRY; what it asks for beyond that is cut
    #[arg(long, value_name = "TIME", default_value = time(broker::Config::default().max_retry_delay), value_parser = humantime::parse_duration)]
    max_retry_delay: Duration,
    /// The longest task or result, in bytes; a status is 16 KiB at most. An article client takes messages up to 4 MiB
    #[arg(long, value_name = "BYTES", default_value = "1048576", value_parser = max_task)]
    max_task: usize,
    /// Most calls that one connection may have open at once. A client that knows waits with the next
    #[arg(long, value_name = "N", default_value = CallLimits::default().per_connection.to_string(), value_parser = clap::value_parser!(u32).range(1..))]
    max_calls_per_connection: u32,
    /// Most calls that one address may have open at once, over all its connections to a port. A /64 of IPv6 counts as one. Where
    /// all come through one proxy, set it as high as there are clients, times three: with more than the default, an address may have a
    /// third as many connections to a port that other machines reach
    #[arg(long, value_name = "N", default_value = CallLimits::default().per_address.to_string(), value_parser = clap::value_parser!(u32).range(1..))]
    max_calls_per_address: u32,
    /// A group that agents with certificates may name, beside their own ids and those that are granted to each of them (contactctl identity
    /// grant). May be given several times
    #[arg(long, value_name = "GROUP", value_parser = |name: &str| Name::new(NameOf::ClientOrGroup, name))]
    agent_group: Vec<Name>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Most memory for the connections and messages under way of each gRPC port, as gRPC counts it, in bytes. When it is used up, gRPC
    /// ends calls, whosever they are, and takes no new connections
    #[arg(long, value_name = "BYTES", default_value = GRPC_MEMORY.to_string(), value_parser = clap::value_parser!(u64).range(1..))]
    grpc_memory: u64,
    /// Dial workers (contactctl dial) by TLS, and take one for the right one if its certificate comes from an authority in this file, in PEM;
    /// `system`: from one that this machine trusts. Without it, only workers on this machine are dialled, unless --insecure is set
    #[arg(long, value_name = "FILE")]
    dial_tls_ca: Option<PathBuf>,
    /// Show workers this certificate, in PEM. Read again for each connection, as its key is
    #[arg(long, value_name = "FILE")]
    dial_tls_cert: Option<PathBuf>,
    /// The key of --dial-tls-cert, in PEM
    #[arg(long, value_name = "FILE")]
    dial_tls_key: Option<PathBuf>,
    /// Show workers the token in this file, which they know the server by (contact-client --serve --token-file). Read again for each
    /// connection
    #[arg(long, value_name = "FILE")]
    dial_token_file: Option<PathBuf>,
    /// How long tasks that every group has settled are kept, and their results
    #[arg(long, value_name = "TIME", default_value = time(Retention::default().retain), value_parser = humantime::parse_duration)]
    retain: Duration,
    /// Remove settled tasks earlier when the store takes more than this
    #[arg(long, value_name = "BYTES")]
    retain_bytes: Option<u64>,
    /// How much of the disk is to stay free. With less, statuses and late results are not stored, and with less than half of it no tasks are
    /// accepted; what comes of the tasks that are out always is. Without it: 1 GiB, or a twentieth of the file system if that is less
    #[arg(long, value_name = "BYTES")]
    min_free: Option<u64>,
    /// A group that no client has used for this long ends, with tasks that it has not settled
    #[arg(long, value_name = "TIME", default_value = time(Retention::default().group_ttl), value_parser = humantime::parse_duration)]
    group_ttl: Duration,
    /// A group of which no client is connected ends when the oldest task that it has not settled is older than this: until then it
    /// keeps that task and those after it from being removed. Without it, only --group-ttl ends groups
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_lag: Option<Duration>,
    /// How long clients may still report results when the server is stopped. It ends sooner when no client has more to report
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    grace: Duration,
    #[cfg(feature = "cluster")]
    #[command(flatten)]
    cluster: cluster::ClusterArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    file: FileArgs,
}

/// What each identity may have that is known by its certificate or token, unless its grant says otherwise.
#[derive(Debug, clap::Args)]
struct LimitArgs {
    /// Most connections of one identity at once, unless its grant says otherwise; `none`: no limit. As all limits of identities, it is for
    /// those who say who they are, by a certificate or a token
    #[arg(long, value_name = "N", default_value = default_of(Limit::Connections))]
    limit_connections: Most,
    /// Most streams of tasks (getTask) of one identity at once; `none`: no limit
    #[arg(long, value_name = "N", default_value = default_of(Limit::Streams))]
    limit_streams: Most,
    /// Most tasks that each stream of an identity has without having said what came of them: one that wants more has this many, and hears
    /// so; `none`: as many as --max-window
    #[arg(long, value_name = "N", default_value = default_of(Limit::Window))]
    limit_window: Most,
    /// Most bytes of tasks that one identity has without having settled them, over all its streams. With more it is given no others until it
    /// has settled some; one task may be longer. `none`: no limit
    #[arg(long, value_name = "BYTES", default_value = default_of(Limit::Bytes))]
    limit_bytes: Most,
    /// Most results a second of one identity, WORKING included. Its streams are held up; `none`: no limit
    #[arg(long, value_name = "N", default_value = default_of(Limit::Results))]
    limit_results: Most,
    /// Most statuses a second of one identity, over all its clients. Its streams are held up; `none`: no limit
    #[arg(long, value_name = "N", default_value = default_of(Limit::Statuses))]
    limit_statuses: Most,
    /// Most tasks a second that one identity submits. Streams are held up, single calls are refused with the time to wait; `none`: no limit
    #[arg(long, value_name = "N", default_value = default_of(Limit::Submits))]
    limit_submits: Most,
}

fn default_of(limit: Limit) -> String {
    Limits::default().get(limit).to_string()
}

impl LimitArgs {
    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        for (limit, most) in [
            (Limit::Connections, self.limit_connections),
            (Limit::Streams, self.limit_streams),
            (Limit::Window, self.limit_window),
            (Limit::Bytes, self.limit_bytes),
            (Limit::Results, self.limit_results),
            (Limit::Statuses, self.limit_statuses),
            (Limit::Submits, self.limit_submits),
        ] {
            limits.set(limit, most);
        }
        limits
    }
}

/// Where clients connect unless it is said.
const LISTEN: &str = "127.0.0.1:50051";

/// The settings that SIGHUP can change.
const LIVE: [&str; 22] = [
    "ack-timeout",
    "max-attempts",
    "max-deliveries",
    "max-window",
    "max-groups",
    "retry",
    "max-retry-delay",
    "groups-from",
    "anonymous-from",
    "retain",
    "retain-bytes",
    "min-free",
    "group-ttl",
    "max-lag",
    "limit-connections",
    "limit-streams",
    "limit-window",
    "limit-bytes",
    "limit-results",
    "limit-statuses",
    "limit-submits",
    "log",
];

fn some(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "must be a whole number from 1".into())
}

fn max_task(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (1..=LARGEST_MAX_TASK).contains(&bytes) => Ok(bytes),
        _ => Err(format!("must be a number of bytes from 1 to {LARGEST_MAX_TASK}")),
    }
}

impl Args {
    fn broker(&self) -> broker::Config {
        broker::Config {
            ack_timeout: self.ack_timeout,
            max_attempts: self.max_attempts,
            max_deliveries: self.max_deliveries,
            max_window: self.max_window,
            max_groups: self.max_groups,
            retry: self.retry,
            restart_grace: self.restart_grace,
            max_retry_delay: self.max_retry_delay,
            groups_from: self.groups_from,
            anonymous_from: self.anonymous_from,
            anonymous_group: self.anonymous_group.clone(),
            ..broker::Config::default()
        }
    }

    /// A server that is public listens to everybody, unless it is told where.
    fn listens(&self) -> String {
        match self.public.as_ref().and_then(|public| public.rsplit_once(':')) {
            Some((_, port)) if self.listen == LISTEN => format!("0.0.0.0:{port}"),
            _ => self.listen.clone(),
        }
    }

    fn tls(&self) -> anyhow::Result<Option<ServerTls>> {
        if self.public.is_some() && (self.tls_cert.is_some() || self.tls_client_ca.is_some()) {
            anyhow::bail!(
                "a server that is --public has certificates of its own: leave out --tls-cert and --tls-client-ca, or --public"
            );
        }
        let [cert, key, client_ca] = [&self.tls_cert, &self.tls_key, &self.tls_client_ca].map(Clone::clone);
        ServerTls::of(cert, key, client_ca).map_err(anyhow::Error::msg)
    }

    fn dial(&self) -> anyhow::Result<DialConfig> {
        let [ca, cert, key] = [&self.dial_tls_ca, &self.dial_tls_cert, &self.dial_tls_key].map(Clone::clone);
        // As a client says it, of other settings.
        let tls =
            DialTls::of(ca, cert, key).map_err(|why| anyhow::anyhow!("{}", why.replace("--tls-", "--dial-tls-")))?;
        Ok(DialConfig { tls, token_file: self.dial_token_file.clone() })
    }

    fn retention(&self) -> Retention {
        Retention {
            retain: self.retain,
            retain_bytes: self.retain_bytes,
            min_free: self.min_free,
            group_ttl: self.group_ttl,
            max_lag: self.max_lag,
            ..Retention::default()
        }
    }
}

fn load() -> Result<Settings<Args>, config::Error> {
    Settings::load("server", env::args_os(), env::vars_os())
}

fn main() -> ExitCode {
    if let Some(code) = contact::manual::asked(Args::command()) {
        return code;
    }
    let settings = match load() {
        Ok(settings) => settings,
        Err(e) => return e.report("contact-server"),
    };
    if settings.args.file.print_config {
        let _ = std::io::stdout().write_all(settings.to_toml().as_bytes());
        return ExitCode::SUCCESS;
    }
    logger::set(&settings.args.log.log);
    grpcio::redirect_log();
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    let code = match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error!("{e}");
            ExitCode::FAILURE
        }
    };
    logger::flush();
    code
}

fn run(mut settings: Settings<Args>) -> anyhow::Result<()> {
    host::keep_files_private();
    host::take_open_files();
    let args = &settings.args;
    let tls = args.tls()?;
    host::check_data(&args.data)?;
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    // Without a file there is nothing to read again, and SIGHUP means the end of a terminal, as usual.
    if args.file.config.is_some() || tls.is_some() || args.public.is_some() {
        signals.add_signal(SIGHUP)?;
    }
    let config = Config {
        listen: args.listens(),
        control: args.control.clone(),
        http: Some(args.http.clone()).filter(|http| http != "off"),
        http_hosts: args.http_host.clone(),
        tls,
        public: args.public.clone(),
        insecure: args.insecure,
        auth: args.auth,
        data: args.data.clone(),
        max_task: args.max_task,
        calls: CallLimits {
            per_connection: args.max_calls_per_connection as usize,
            per_address: args.max_calls_per_address as usize,
        },
        limits: args.limits.limits(),
        agent_groups: args.agent_group.clone(),
        grpc_memory: usize::try_from(args.grpc_memory).unwrap_or(usize::MAX),
        demo: args.demo.then_some(args.demo_every),
        dial: args.dial()?,
        broker: args.broker(),
        retention: args.retention(),
        grace: args.grace,
    };
    #[cfg(feature = "cluster")]
    if let Some(cluster) = args.cluster.config()? {
        if let Some(from) = &args.cluster.import {
            return cluster::import(from, &cluster);
        }
        return cluster::run(config, cluster, settings, signals);
    }
    let server = Server::start(config)?;
    let http = server.http().map_or(String::new(), |http| format!(", http on {http}"));
    let addresses = format!("listening on {}, control on {}{http}", server.listen(), server.control());
    // On standard output, for scripts that chose port 0. It may have no reader.
    let mut stdout = std::io::stdout();
    let first_steps = if stdout.is_terminal() { server.first_steps() } else { String::new() };
    let _ = write!(stdout, "{addresses}\n{first_steps}");
    tell_systemd(&[NotifyState::Ready, NotifyState::Status(&addresses)]);

    let pulse = server.pulse();
    feed_watchdog(move || pulse.stands_still())?;
    while signals.forever().next() == Some(SIGHUP) {
        server.reload_tls();
        reload(&mut settings, |args| server.reconfigure(args.broker(), args.retention(), args.limits.limits()));
    }
    info!("stopping: clients have a moment to tell their results; once more to stop at once");
    tell_systemd(&[NotifyState::Stopping]);
    end_at_second_signal(signals)?;
    server.stop()?;
    info!("stopped");
    Ok(())
}

fn end_at_second_signal(mut signals: Signals) -> std::io::Result<()> {
    let work = move || {
        if signals.forever().any(|signal| signal != SIGHUP) {
            logger::flush();
            std::process::exit(130);
        }
    };
    std::thread::Builder::new().name("second-signal".into()).spawn(work).map(drop)
}

/// Takes over settings that can change while the server runs, and names the others. If any is wrong, all stay as they are.
fn reload(settings: &mut Settings<Args>, reconfigure: impl FnOnce(&Args) -> Result<(), BrokerError>) {
    let newer = match load() {
        Ok(newer) => newer,
        Err(e) => return error!("not reloaded, all stays as it is: {e}"),
    };
    for warning in &newer.warnings {
        warn!("{warning}");
    }
    let args = &newer.args;
    if let Err(e) = reconfigure(args) {
        return error!("not reloaded: {e}");
    }
    logger::set(&newer.args.log.log);
    let changes = settings.adopt(newer, &LIVE);
    for change in &changes {
        let config::Change { key, from, to, live } = change;
        if *live {
            info!("{key} is {to} now, and was {from}");
        } else {
            warn!("{key} changed from {from} to {to}: needs a restart");
        }
    }
    info!("reloaded: {}", if changes.is_empty() { "nothing changed" } else { "the rest is as it was" });
}

/// If systemd watches over this: tells it that the server moves, twice in the time it waits for that.
fn feed_watchdog(stands_still: impl Fn() -> Option<String> + Send + 'static) -> std::io::Result<()> {
    let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(()) };
    let work = move || {
        loop {
            match stands_still() {
                None => tell_systemd(&[NotifyState::Watchdog]),
                Some(what) => error!("systemd is not told that the server moves: {what}"),
            }
            std::thread::sleep(limit / 2);
        }
    };
    std::thread::Builder::new().name("systemd-watchdog".into()).spawn(work).map(drop)
}

/// If systemd started this, and waits for it.
fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        warn!("systemd cannot be told: {e}");
    }
}
