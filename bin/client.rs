//! `contact-client`: the article's client, for a shell.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory as _, Parser};
use contact::client::{
    Config, Error, Event, Exec, Invitation, JoinState, Reply, ServerTls, StartAt, Task, Tls, Variable, Worker,
};
use contact::config::{FileArgs, Settings, time};
use contact::labels::{LabelError, Labels};
use contact::logger::{self, LogArgs};
use contact::print_queue::PrintQueue;
use contact::terminal::{escape, escape_json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Takes tasks from a Contact server, has them handled, and reports the results.
///
/// The connection goes out from here, so this works behind NAT and firewalls. When the server goes away, the client connects
/// again. The first try is within a second, or within a second after the time that a stopping server names. Later ones are at
/// most 30 seconds apart.
///
/// Without --exec it does what the client of the article does: it prints each task and acknowledges it.
///
/// Each flag is also a variable of the environment, CONTACT_RETRY_DELAY for --retry-delay, and a key of the file --config. The
/// flag counts, else the variable, else the file.
///
/// Ctrl-C or SIGTERM finishes what runs, commands within --stop-timeout, reports the results and exits with 0. A second one exits
/// at once with 130, and kills commands that run. Exit codes: 0 stopped, 1 failed or refused by the server, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "contact-client", version, after_help = EXAMPLES)]
struct Args {
    /// Where the server is. Several with commas between them, of servers of a cluster, any of which serves: the client begins at a random
    /// one, and goes on to the next when one does not serve it
    #[arg(long, value_name = "ADDR", default_value = Config::default().server)]
    server: String,

    /// Listen here, HOST:PORT, and have the server dial this worker (contactctl dial add), instead of connecting to it.
    ///
    /// Whoever gets there can give it tasks, unless --tls-client-ca or --token-file say what a server has to show. An address that other
    /// machines reach needs TLS (--tls-cert, --tls-key), or --insecure. Port 0 takes any that is free.
    #[arg(long, value_name = "ADDR")]
    serve: Option<String>,

    /// Listen (--serve) where other machines get, though there is no TLS: who is between can read and change what is said.
    #[arg(long)]
    insecure: bool,

    /// Speak TLS with it, and take it for the right one if its certificate comes from an authority in this file, in PEM. `system`:
    /// from one that this machine trusts.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// Show this certificate, in PEM, with those between it and its authority. Read again for each connection, as its key is.
    ///
    /// With --serve it is the one by which the worker speaks TLS, for the name or the address by which it is dialled. It is read again when
    /// it changes.
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The key of --tls-cert, in PEM.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// With --serve: serve a server only if its certificate (its --dial-tls-cert) comes from an authority in this file, in PEM.
    ///
    /// The certificate of a client, contact://FLEET/agent/NAME, is none of a server.
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,

    /// Say who the client is with the token in this file, which contactctl token create makes. Read again for each connection.
    ///
    /// With --serve: the token that a server has to show, ct1_ and 64 hexadecimal digits (its --dial-token-file).
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Join the fleet of a server, by the line that contactctl invite printed, or by the file that has it.
    ///
    /// The client makes a key, gets a certificate for it, and keeps both in --state, where it renews them before they are over. Later
    /// starts need only --state; with the same invitation they do the same, and with another one the client joins anew. --server and
    /// --group are what the invitation says; the client is called --id, or else as this machine, and something is added if that is taken.
    #[arg(long, value_name = "INVITATION", hide_env_values = true)]
    join: Option<String>,

    /// The folder for what came of --join, made for its owner alone. Without it: ./contact-state.
    ///
    /// One client at a time has it: two with one certificate would have one id, and each would end the streams of the other.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// Report 15 statuses 数据:N (N from 1 to 20) at the start, print the answers, and again every --status-every.
    #[arg(long)]
    demo: bool,

    /// How often --demo reports.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    status_every: Duration,

    /// Have each task handled by a shell command.
    ///
    /// It is run by `sh -c` with the task's text on its standard input, or its data if there is no text, and CONTACT_TASK_ID,
    /// CONTACT_TASK_ATTEMPT and, where there is one, CONTACT_TASK_KEY and CONTACT_TASK_DEADLINE (in seconds since 1970) in its
    /// environment, and each header, as in CONTACT_HEADER_CONTENT_TYPE (--exec-env says what else is), in a session of its own, without
    /// a terminal. It is done when it has exited. Exit code 0: DONE, and what it
    /// printed on standard output is the result. 75: RETRY, the task comes again. Anything else, or death by a signal: it failed,
    /// and is tried again, up to --exec-attempts; then FAILED. The result then has the exit code, its standard error and its
    /// standard output. If the client is killed, so is the command.
    ///
    /// A line `::progress 0.4 resizing` on its standard error tells operators how far it is: a number from 0 to 1, and words.
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,

    /// Give commands these variables of the client's environment, too. May be given several times.
    ///
    /// Without it they get what says which task it is, and of the client's environment PATH, HOME, USER, LOGNAME, SHELL, LANG,
    /// LANGUAGE, LC_*, TZ and TMPDIR. So secrets of the client do not reach a command, whose output others read. What begins with
    /// CONTACT_ is never given.
    #[arg(long, value_name = "NAME[,NAME...]", value_delimiter = ',')]
    exec_env: Vec<Variable>,

    /// How often a task is tried whose command fails. With 1 it is a dead letter at once.
    ///
    /// Without this it is what the task says (contactctl submit --retry), or its group (contactctl group retry), or else 3.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    exec_attempts: Option<u32>,

    /// The longest that a command may take; then it has failed, and is ended by SIGTERM to its process group, and by SIGKILL five
    /// seconds later. Without it there is no limit.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    exec_timeout: Option<Duration>,

    /// How long commands that run may go on when the client is told to stop; then they are ended, like those that take too long,
    /// and their tasks go back to the server.
    #[arg(long, value_name = "TIME", default_value = time(Exec::STOP_TIMEOUT), value_parser = humantime::parse_duration)]
    stop_timeout: Duration,

    /// Give --exec the task as it is. Without this a newline follows a task that does not end with one: `while read line` loses
    /// a last line that has none.
    #[arg(long)]
    raw_input: bool,

    /// How long the server waits before the second try of a task whose command failed or exited with 75. It doubles with each
    /// try, up to ten minutes.
    ///
    /// Without this it waits as the retry policy of the task says, or else that of its group, or else the server's: 1 s, 2 s, 4 s and so on.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    retry_delay: Option<Duration>,

    /// The longest output of --exec that is kept: of a longer one, the beginning and the end, with a note between them.
    #[arg(long, value_name = "BYTES", default_value_t = Exec::MAX_OUTPUT)]
    max_output: usize,

    /// How many tasks are handled at the same time, 4096 at most.
    #[arg(long, value_name = "N", default_value = Config::default().concurrency.to_string())]
    concurrency: NonZeroU32,

    /// A stable name for this client: 1 to 256 bytes of characters that can be seen, in any script.
    ///
    /// The server keeps the place of a named client, and delivers each task to it until it reports the outcome. Without
    /// --id and --group the client is anonymous: each time it connects it gets every task that the server still has.
    #[arg(long, value_name = "NAME")]
    id: Option<String>,

    /// Share tasks with the other clients that name this group: each task goes to one of them.
    ///
    /// Without --id the client is then called by its machine and its process, such as berlin-4711-3f9a: results say so. With a token or a
    /// certificate of its own it is called by its address.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,

    /// What this client is: tasks may be for those whose labels match. May be given several times.
    ///
    /// A key and a value have letters and digits of any script, and - _ . / : @ +, 63 bytes at most; there are 32 labels at most. The
    /// server keeps them with the group, as the client said them that came last.
    #[arg(long, value_name = "KEY=VALUE[,KEY=VALUE...]", value_delimiter = ',', value_parser = label)]
    label: Vec<String>,

    /// The most tasks to hold that are not finished.
    ///
    /// Without it: one more than --concurrency, or as many as --batch if that is more. So the next task is there when one is
    /// finished, and other clients get the rest. Where tasks take less time than a message, more is faster.
    #[arg(long, value_name = "N")]
    window: Option<NonZeroU32>,

    /// Do not tell the server before each task is begun.
    ///
    /// That is faster where tasks take less than a millisecond. But then each task that was sent here spends an attempt when this
    /// client dies, though it was never begun.
    #[arg(long)]
    unannounced: bool,

    /// The most tasks to take in one message; the results then go back in batches, too. For many small tasks.
    #[arg(long, value_name = "N")]
    batch: Option<NonZeroU32>,

    /// Where to start when the server does not know this --id or --group yet: at the first task it still has, or at the
    /// next one for everyone. Tasks that are addressed to it wait for it in any case. Without it: as the server is set, at the
    /// next one. A group that the server knows goes on where it was.
    #[arg(long, value_name = "WHERE")]
    from: Option<StartAt>,

    /// Ask the server for a message at least this often, and give the connection up when three are missing; 0: do not.
    ///
    /// Proxies cut streams on which nothing comes: nginx after 60 s, some after 15 s. Choose less than that.
    #[arg(long, value_name = "TIME", default_value = time(Config::default().heartbeat.unwrap_or_default()), value_parser = humantime::parse_duration)]
    heartbeat: Duration,

    /// How often to report that a task is still being worked on. Must be well below its --ack-timeout.
    #[arg(long, value_name = "TIME", default_value = time(Config::default().renew_every), value_parser = humantime::parse_duration)]
    renew_every: Duration,

    /// Print one JSON object a line: for each task handled, each status answered, each connection made or lost.
    ///
    /// A task is printed when its result is on its way. Nothing waits for the reader: while it takes nothing, 8 MiB of lines wait,
    /// and what comes beyond is dropped. A line {"event":"dropped","lines":N} then says so.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    log: LogArgs,

    #[command(flatten)]
    file: FileArgs,
}

/// A label, if it is one.
fn label(text: &str) -> Result<String, LabelError> {
    Labels::default().add(text).map(|()| text.to_owned())
}

const EXAMPLES: &str = "\
Examples:
  contact-client --demo
      The article's conversation: tasks are printed and acknowledged, statuses reported.
  contact-client --group thumbnails --concurrency 4 --exec './thumbnail.sh'
      One of several workers that share the tasks; four commands at a time.
  contact-client --id \"$(hostname)\" --exec 'sh'
      Run each task as a shell script, on every machine that does this.
  contact-client --id \"$(hostname)\" --label os=linux --label role=web --exec 'sh'
      The same for tasks that are submitted with --select role=web.
  contact-client --serve 127.0.0.1:50061 --group thumbnails --exec './thumbnail.sh'
      A worker that the server dials (contactctl dial add 127.0.0.1:50061).
  contact-client --id audit --from first --json >> tasks.jsonl
      Keep a record of every task, those from before included.";

/// How long the end waits for the reader of standard output.
const PRINTING: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if let Some(code) = contact::manual::asked(Args::command()) {
        return code;
    }
    let settings = match Settings::<Args>::load("client", env::args_os(), env::vars_os()) {
        Ok(settings) => settings,
        Err(e) => return e.report("contact-client"),
    };
    if settings.args.file.print_config {
        let _ = io::stdout().write_all(settings.to_toml().as_bytes());
        return ExitCode::SUCCESS;
    }
    logger::set(&settings.args.log.log);
    grpcio::redirect_log();
    for warning in &settings.warnings {
        log::warn!("{warning}");
    }
    let verdict = run(settings.args);
    logger::flush();
    match verdict {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logger::last_word(&format!("contact-client: {error:#}"));
            let usage = matches!(error.downcast_ref(), Some(Error::Config(_)));
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

/// How a client that has joined comes in.
struct Enrolled {
    server: String,
    tls: Tls,
    name: String,
    group: Option<String>,
    /// The folder with what came of it is this client's for as long as this is here.
    lock: File,
}

/// Where what came of --join is kept unless --state says where.
const STATE: &str = "contact-state";

/// Joins, if that was not done yet by this invitation, and has a thread renew the certificate.
fn enrol(join: Option<&str>, folder: Option<&Path>, id: Option<&str>) -> anyhow::Result<Option<Enrolled>> {
    let Some(folder) = folder.or(join.map(|_| Path::new(STATE))) else { return Ok(None) };
    let state = JoinState(folder);
    let lock = state.lock().map_err(|e| match e.kind() {
        io::ErrorKind::ResourceBusy => Error::Config(in_use(folder)).into(),
        _ => anyhow::Error::from(e).context(format!("cannot write to {}", folder.display())),
    })?;
    let invitation = join.map(|text| match std::fs::read_to_string(text) {
        Ok(text) => Invitation::parse(&text),
        Err(_) => Invitation::parse(text),
    });
    let (name, group, server) = match (state.read(), invitation) {
        // A file that had the invitation may be gone by now.
        (Some(joined), None | Some(Err(_))) => joined,
        (Some(joined), Some(Ok(invitation))) if state.is_by(&invitation) => joined,
        (_, Some(invitation)) => {
            let invitation = invitation.map_err(|e| Error::Config(e.to_string()))?;
            let joined = invitation.join(id.map_or_else(machine, str::to_owned).as_str())?;
            state.keep(&joined, &invitation.server).with_context(|| format!("cannot write to {}", folder.display()))?;
            let (server, name, kept) = (&invitation.server, &joined.name, folder.display());
            log::info!("joined {server} as {name}; the key is in {kept}, and later starts need only --state {kept}");
            (joined.name, joined.group, invitation.server)
        }
        (None, None) => {
            let missing = format!("nothing was joined with --state {}: give --join, too", folder.display());
            return Err(Error::Config(missing).into());
        }
    };
    let tls = state.tls();
    let (folder, of) = (folder.to_owned(), (server.clone(), tls.clone()));
    let renewing = move || loop {
        renew_if_due(&folder, &of.0, &of.1);
        thread::sleep(RENEW_LOOK);
    };
    // First here: a client that slept for long has its new one before it connects.
    renew_if_due(state.0, &server, &tls);
    thread::Builder::new().name("renewal".into()).spawn(renewing).context("cannot start a thread")?;
    Ok(Some(Enrolled { server, tls, name, group, lock }))
}

fn in_use(folder: &Path) -> String {
    format!(
        "another client runs with --state {}. With one certificate they would have one id, and each would end the streams of the other. Stop \
         that one, or give this one a folder of its own, with --state and --join: contactctl invite --uses 2 lets two join",
        folder.display()
    )
}

/// How often it is looked whether the certificate is due.
const RENEW_LOOK: Duration = Duration::from_secs(600);

fn renew_if_due(folder: &Path, server: &str, tls: &Tls) {
    let state = JoinState(folder);
    if !state.is_due() {
        return;
    }
    let renewed = contact::client::renew(server, tls).map_err(anyhow::Error::from);
    match renewed.and_then(|joined| Ok(state.keep(&joined, server)?)) {
        Ok(()) => log::info!("the certificate was renewed"),
        Err(e) => log::warn!("the certificate could not be renewed, and is tried again: {e}"),
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let connects = [
        ("--join", args.join.is_some()),
        ("--state", args.state.is_some()),
        ("--tls-ca", args.tls_ca.is_some()),
        ("--demo", args.demo),
    ];
    if let (true, Some((flag, _))) = (args.serve.is_some(), connects.iter().find(|(_, is_set)| *is_set)) {
        let why = format!("{flag} is for a client that connects to a server; with --serve the server connects to it");
        return Err(Error::Config(why).into());
    }
    if args.insecure && args.serve.is_none() {
        return Err(Error::Config("--insecure is about the address of --serve, which is not set".into()).into());
    }
    if args.tls_client_ca.is_some() && args.serve.is_none() {
        return Err(Error::Config("--tls-client-ca is about who dials --serve, which is not set".into()).into());
    }
    let (tls, serve_tls) = match &args.serve {
        None => (Tls::of(args.tls_ca, args.tls_cert, args.tls_key).map_err(Error::Config)?, None),
        Some(_) => (None, ServerTls::of(args.tls_cert, args.tls_key, args.tls_client_ca).map_err(Error::Config)?),
    };
    let enrolled = enrol(args.join.as_deref(), args.state.as_deref(), args.id.as_deref())?;
    // A client without a group would be one of its own with it. One that shows who it is has its id from that, and may have no other.
    let is_known = args.token_file.is_some() || tls.as_ref().is_some_and(|tls| tls.identity.is_some());
    // One that is dialled has the name of its address, which stays the same.
    let is_known = is_known || args.serve.is_some();
    let id = args.id.or_else(|| args.group.as_ref().filter(|_| !is_known).map(|_| own_name()));
    let (server, tls, id, group, _lock) = match enrolled {
        Some(Enrolled { server, tls, name, group, lock }) => {
            // What the certificate says, or one below it: another id would be refused.
            let is_below = |id: &String| id.strip_prefix(&name).is_some_and(|rest| rest.starts_with('/'));
            (server, Some(tls), id.filter(is_below).or(Some(name.clone())), args.group.or(group), Some(lock))
        }
        None => (args.server, tls, id, args.group, None),
    };
    let mut labels = Labels::default();
    args.label.iter().try_for_each(|label| labels.add(label)).map_err(|e| Error::Config(format!("--label: {e}")))?;
    let config = Config {
        serve: args.serve,
        serve_tls,
        insecure: args.insecure,
        tls,
        token_file: args.token_file,
        id,
        group,
        labels,
        window: args.window,
        batch: args.batch,
        from: args.from,
        heartbeat: Some(args.heartbeat),
        announce_begin: !args.unannounced,
        concurrency: args.concurrency.get() as usize,
        renew_every: args.renew_every,
        ..Config::new(server)
    };
    let json = args.json;
    let note = move |dropped| match json {
        true => serde_json::json!({ "event": "dropped", "lines": dropped }).to_string(),
        false => format!("[{dropped} lines were dropped: nobody read standard output]"),
    };
    let queue = PrintQueue::start(io::stdout(), note).context("cannot start a thread")?;
    let worker = match args.exec {
        Some(command) => {
            let exec = Exec::new(command).max_output(args.max_output).stop_timeout(args.stop_timeout);
            let exec = args.retry_delay.into_iter().fold(exec.raw_input(args.raw_input), Exec::retry_delay);
            for unset in args.exec_env.iter().filter(|variable| !variable.is_set()) {
                log::warn!("--exec-env names {unset}, which is not set here: commands do not get it");
            }
            let exec = args.exec_env.into_iter().fold(exec, Exec::env);
            let exec = args.exec_attempts.into_iter().fold(exec, Exec::attempts);
            let exec = args.exec_timeout.into_iter().fold(exec, Exec::timeout);
            Worker::new(config, move |task| exec.run(task))
        }
        None => Worker::new(config, move |task| acknowledge(task, (!json).then_some(queue))),
    };
    let worker = if args.demo { worker.statuses_every(args.status_every, made_up_statuses) } else { worker };
    let worker = worker.observe(move |event| if json { print_json(event, queue) } else { print_plain(event, queue) });

    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot wait for signals")?;
    let handle = signals.handle();
    let running = worker.start()?;
    let stopper = running.stopper();
    let waiter = thread::Builder::new().name("signals".into()).spawn(move || {
        let mut signals = signals.forever();
        if signals.next().is_some() {
            stopper.stop();
        }
        if signals.next().is_some() {
            logger::flush();
            // Commands that run are killed when this process is gone: see `Exec`.
            std::process::exit(130);
        }
    })?;
    let verdict = running.join();
    handle.close();
    let _ = waiter.join();
    queue.flush(PRINTING);
    Ok(verdict?)
}

/// What a member of a group is called that says no name: its machine, its process, and a word by which containers differ that have
/// both in common.
fn own_name() -> String {
    format!("{}-{}-{:04x}", machine(), std::process::id(), rand::random::<u16>())
}

/// What this machine is called, as far as a name of a client may be called so.
fn machine() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host.chars().filter(|c| contact::client::is_name(c.encode_utf8(&mut [0; 4]))).collect();
    if host.is_empty() { "client".into() } else { host }
}

/// The answer of the article's client.
fn acknowledge(task: &Task, queue: Option<&PrintQueue>) -> Reply {
    if let Some(queue) = queue {
        queue.print(&escape(&format!("客户端已接收到服务端任务:{}", task.text)));
    }
    Reply::done(format!("客户端接收到任务:{}", task.text))
}

/// The statuses of the article's client.
fn made_up_statuses() -> Vec<String> {
    (0..15).map(|_| format!("数据:{}", rand::random_range(1..=20))).collect()
}

fn print_plain(event: &Event<'_>, queue: &PrintQueue) {
    match event {
        Event::Status { answer, .. } => queue.print(&escape(answer)),
        Event::Task { id, attempt, outcome, ms, .. } => {
            log::debug!("task {id}, attempt {attempt}: {outcome:?} after {ms} ms");
        }
        _ => {}
    }
}

fn print_json(event: &Event<'_>, queue: &PrintQueue) {
    if let Ok(line) = serde_json::to_string(event) {
        queue.print(&escape_json(&line));
    }
}
