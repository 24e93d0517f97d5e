//! `contact-server` as one of several.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use contact::config::{Settings, time};
use contact::server::{ClusterConfig, Config, DialTls, Imported, Member, SHORTEST_TAKEOVER};
use contact::store::{ClusterName, JetStreamConfig, NatsUrls};
use log::{info, warn};
use sd_notify::NotifyState;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use crate::{Args, end_at_second_signal, feed_watchdog, reload, tell_systemd};

/// What makes a server one of several.
#[derive(Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// Be one of several servers, of which one leads: what they write goes through a stream of these NATS servers (2.14 or later, with
    /// JetStream), nats:// or tls:// URLs with commas between them. With --cluster and --advertise
    #[arg(long, value_name = "URL[,URL...]")]
    nats: Option<String>,
    /// The name of the cluster: all its servers have the same, and no other servers at these NATS servers. It names the stream
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// Where the other servers of the cluster reach the --listen of this one: while it leads, they pass on there what their clients do
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Try to lead when nothing was heard of the server that leads for so long. At least 2 s
    #[arg(long, value_name = "TIME", default_value = time(SHORTEST_TAKEOVER), value_parser = takeover)]
    takeover_after: Duration,
    /// Show NATS the user in this file (.creds)
    #[arg(long, value_name = "FILE")]
    nats_credentials: Option<PathBuf>,
    /// Take NATS servers for the right ones if their certificates come from an authority in this file, in PEM. Without it those of this
    /// machine count
    #[arg(long, value_name = "FILE")]
    nats_ca: Option<PathBuf>,
    /// Look whether NATS writes each record to the disk before it acknowledges it: at these monitoring ports (NATS's `http:`), URLs with
    /// commas between them, as http://10.0.0.1:8222. `contactctl doctor` says what they say
    #[arg(long, value_name = "URL[,URL...]", value_delimiter = ',', value_parser = monitor)]
    nats_monitor: Vec<String>,
    /// Begin the cluster with the store in this folder, which a server wrote alone, and end: its database goes into the log, which must be
    /// empty. No server may use the folder, and it stays as it is. Then start the servers without this, each with an empty --data
    #[arg(long, value_name = "DIR")]
    pub(crate) import: Option<PathBuf>,
    /// Speak TLS with the other servers of the cluster, and take them for the right ones if their certificates come from an authority in this file,
    /// in PEM, or, with "system", from one that this machine trusts. Without it they are spoken to in the clear
    #[arg(long, value_name = "FILE")]
    cluster_ca: Option<PathBuf>,
    /// How many NATS servers keep each record, when the stream is made. An existing stream is changed with NATS's own tools
    #[arg(long, value_name = "1|3|5", default_value = "3", value_parser = replicas)]
    nats_replicas: usize,
}

fn takeover(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= SHORTEST_TAKEOVER => Ok(time),
        Ok(_) => {
            Err("must be 2 s or longer: a server that leads may go on for 1.5 s before it notices that it does not"
                .into())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn monitor(text: &str) -> Result<String, String> {
    match text.trim().strip_prefix("http://") {
        Some(address) if address.contains(':') => Ok(text.trim().to_owned()),
        _ => Err("must be http://HOST:PORT".into()),
    }
}

fn replicas(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| [1, 3, 5].contains(n)).ok_or_else(|| "must be 1, 3 or 5".into())
}

impl ClusterArgs {
    /// `None`: the server is alone.
    pub(crate) fn config(&self) -> anyhow::Result<Option<ClusterConfig>> {
        let (urls, cluster, advertise) = match (&self.nats, &self.cluster, &self.advertise) {
            (Some(urls), Some(cluster), Some(advertise)) => (urls, cluster, advertise),
            (None, None, None) if self.import.is_none() => return Ok(None),
            _ => anyhow::bail!(
                "a server that is one of several, and --import, need all of --nats, --cluster and --advertise"
            ),
        };
        let tls = DialTls::of(self.cluster_ca.clone(), None, None)
            .map_err(|why| anyhow::anyhow!("{}", why.replace("--tls-", "--cluster-")))?;
        let log = JetStreamConfig {
            // Not by clap, which would show what may have a password in it.
            urls: urls.parse::<NatsUrls>().map_err(|why| anyhow::anyhow!("--nats {why}"))?,
            cluster: cluster.clone(),
            credentials: self.nats_credentials.clone(),
            ca: self.nats_ca.clone(),
            replicas: self.nats_replicas,
            secret: None,
            monitors: self.nats_monitor.clone(),
        };
        Ok(Some(ClusterConfig { log, advertise: advertise.clone(), takeover_after: self.takeover_after, tls }))
    }
}

/// Begins the cluster with the store in a folder.
pub(crate) fn import(from: &Path, cluster: &ClusterConfig) -> anyhow::Result<()> {
    let name = &cluster.log.cluster;
    info!("importing the store in {} into the cluster {name}", from.display());
    let (mut said, began) = (Instant::now(), Instant::now());
    let imported = contact::server::import(from, cluster, |there, of| {
        if said.elapsed() >= Duration::from_secs(5) {
            said = Instant::now();
            info!("{there} of {of} bytes are in the log");
        }
    })?;
    let Imported { positions, bytes, place, keeps_receipts } = imported;
    let (tasks, results, seconds) = (positions.task, positions.result, began.elapsed().as_secs_f64());
    if !keeps_receipts {
        warn!(
            "the stream was there before: what clients are at work on now they do again, since the cluster does not know the receipts of \
             the old server"
        );
    }
    let _ = writeln!(
        std::io::stdout(),
        "the cluster {name} begins with the store in {}: tasks up to {tasks} and results up to {results}, {bytes} bytes (message {place} of \
         its log) in {seconds:.1} s\nstart its servers now, without --import and each with an empty --data; keep that folder until they run",
        from.display()
    );
    Ok(())
}

/// Runs until a signal comes.
pub(crate) fn run(
    config: Config,
    cluster: ClusterConfig,
    mut settings: Settings<Args>,
    mut signals: Signals,
) -> anyhow::Result<()> {
    if config.public.is_some() {
        anyhow::bail!(
            "a server that is --public has an authority of its own, which others of a cluster do not know: use --tls-cert and \
             --tls-client-ca"
        );
    }
    let (name, listen) = (cluster.log.cluster.clone(), config.listen.clone());
    let handle = signals.handle();
    let member = Member::start(config, cluster, move || handle.close())?;
    let what = format!("one of the cluster {name}, on {listen}");
    let _ = writeln!(std::io::stdout(), "{what}");
    tell_systemd(&[NotifyState::Ready, NotifyState::Status(&what)]);
    feed_watchdog(member.pulse())?;
    while signals.forever().next() == Some(SIGHUP) {
        member.reload_tls();
        reload(&mut settings, |args| {
            member.reconfigure(args.broker(), args.retention(), args.limits.limits());
            Ok(())
        });
    }
    info!("stopping: if this server leads, another one does in a moment; once more to stop at once");
    tell_systemd(&[NotifyState::Stopping]);
    end_at_second_signal(signals)?;
    member.stop()?;
    info!("stopped");
    Ok(())
}
