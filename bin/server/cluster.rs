//! `contact-server` as one of several.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use contact::config::{Settings, time};
use contact::server::{ClusterConfig, Config, DialTls, Member, SHORTEST_TAKEOVER};
use contact::store::{ClusterName, JetStreamConfig};
use log::info;
use sd_notify::NotifyState;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use crate::{Args, end_at_second_signal, feed_watchdog, reload, tell_systemd};

/// What makes a server one of several.
#[derive(Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// Be one of several servers, of which one leads: what they write goes through a stream of these NATS servers (2.14 or later, with
    /// JetStream), URLs with commas between them. With --cluster and --advertise
    #[arg(long, value_name = "URL,…")]
    nats: Option<String>,
    /// The name of the cluster: all its servers have the same, and no other servers at these NATS servers. It names the stream
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// Where others reach this server, for people who read the log of the cluster
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Try to lead when nothing was heard of the server that leads for so long. At least 2 s
    #[arg(long, value_name = "TIME", default_value = time(SHORTEST_TAKEOVER), value_parser = takeover)]
    takeover_after: Duration,
    /// Show NATS the user in this file (.creds)
    #[arg(long, value_name = "FILE")]
    nats_credentials: Option<PathBuf>,
    /// Take NATS servers for the right ones if their certificates come from an authority in this file, in PEM, too
    #[arg(long, value_name = "FILE")]
    nats_ca: Option<PathBuf>,
    /// Speak TLS with the other servers of the cluster, and take them for the right ones if their certificates come from an authority in this file,
    /// in PEM, or, with "system", from one that this machine trusts. Without it they are spoken to in the clear
    #[arg(long, value_name = "FILE")]
    cluster_ca: Option<PathBuf>,
    /// How many NATS servers keep each record, when the stream is made. An existing stream is changed with NATS's own tools
    #[arg(long, value_name = "N", default_value = "3", value_parser = replicas)]
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

fn replicas(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| [1, 3, 5].contains(n)).ok_or_else(|| "must be 1, 3 or 5".into())
}

impl ClusterArgs {
    /// `None`: the server is alone.
    pub(crate) fn config(&self) -> anyhow::Result<Option<ClusterConfig>> {
        let (urls, cluster, advertise) = match (&self.nats, &self.cluster, &self.advertise) {
            (Some(urls), Some(cluster), Some(advertise)) => (urls, cluster, advertise),
            (None, None, None) => return Ok(None),
            _ => anyhow::bail!("a server that is one of several needs all of --nats, --cluster and --advertise"),
        };
        let tls = DialTls::of(self.cluster_ca.clone(), None, None)
            .map_err(|why| anyhow::anyhow!("{}", why.replace("--tls-", "--cluster-")))?;
        let log = JetStreamConfig {
            urls: urls.split(',').map(|url| url.trim().to_owned()).collect(),
            cluster: cluster.clone(),
            credentials: self.nats_credentials.clone(),
            ca: self.nats_ca.clone(),
            replicas: self.nats_replicas,
        };
        Ok(Some(ClusterConfig { log, advertise: advertise.clone(), takeover_after: self.takeover_after, tls }))
    }
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
    let what = format!("one of the cluster {name}, on {listen} when it leads");
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
