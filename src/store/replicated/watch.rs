//! Looks at the stream, and at the NATS servers that keep it, from time to time.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::stream::{Info, Stream};
use log::info;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::jetstream::{ANSWER, JetStreamConfig};
use super::nats::{Nats, check_version, locked};
use super::sight::{LogSeen, ReplicaSeen};
use super::stream::{differences, wanted};
use crate::task::Time;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);
/// A NATS server that does not say who leads the stream, so often one time after another, is left for another server: it may be cut off from
/// those that keep the stream. Most elections are over before.
const LEADERLESS: u32 = 3;
/// How long the page of a monitoring port may take, and be.
const PAGE: Duration = Duration::from_secs(2);
const LONGEST_PAGE: u64 = 1 << 20;
/// The page that says how JetStream is set.
const PATH: &str = "/jsz?config=1";

/// Looks, until the runtime ends. What NATS does not say stays as it was said last.
pub(super) async fn stream(nats: Arc<Nats>, stream: Stream<()>, config: JetStreamConfig) {
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leaderless = 0;
    loop {
        every.tick().await;
        let mut of_monitors = Vec::new();
        for url in &config.monitors {
            of_monitors.extend(monitor(url).await.err());
        }
        let info = timeout(ANSWER, stream.get_info()).await.ok().and_then(Result::ok);
        let is_connected = nats.client.connection_state() == State::Connected;
        leaderless = if info.as_ref().is_some_and(is_led) || !is_connected { 0 } else { leaderless + 1 };
        if leaderless >= LEADERLESS {
            leaderless = 0;
            let server = nats.client.server_info().server_name;
            info!("the NATS server {server} does not say who leads the stream: another one is tried");
            let _ = nats.client.force_reconnect().await;
        }
        let Some(info) = info else { continue };
        let server = nats.client.server_info();
        let mut seen = seen(&info, &server.server_name);
        // The first connection is refused to one that is too old, and later ones are not.
        seen.trouble.extend(check_version(&server).err().map(|error| error.to_string()));
        let differences = differences(&info.config, &wanted(&config));
        seen.trouble.extend(differences.into_iter().map(|one| format!("of the stream, {one}")));
        seen.trouble.extend(of_monitors);
        *locked(&nats.log) = Some(seen);
    }
}

/// Whether anybody leads the stream. Where NATS is no cluster nobody needs to.
fn is_led(info: &Info) -> bool {
    info.cluster.as_ref().is_none_or(|cluster| cluster.leader.as_ref().is_some_and(|leader| !leader.is_empty()))
}

/// `connected`: the server that answered, which is the only one where NATS is no cluster.
fn seen(info: &Info, connected: &str) -> LogSeen {
    let (cluster, state) = (info.cluster.as_ref(), &info.state);
    let leader = cluster.map_or(Some(connected), |cluster| cluster.leader.as_deref()).filter(|name| !name.is_empty());
    let leader =
        leader.map(|name| ReplicaSeen { name: name.to_owned(), leads: true, current: true, ..ReplicaSeen::default() });
    let others = cluster.into_iter().flat_map(|cluster| &cluster.replicas).map(|peer| ReplicaSeen {
        name: peer.name.clone(),
        leads: false,
        current: peer.current && !peer.offline,
        offline: peer.offline,
        lag: peer.lag.unwrap_or(0),
    });
    LogSeen {
        stream: info.config.name.clone(),
        replicas: leader.into_iter().chain(others).collect(),
        messages: state.messages,
        bytes: state.bytes,
        first: state.first_sequence,
        last: state.last_sequence,
        seen_at: Time::now(),
        trouble: Vec::new(),
    }
}

#[derive(Deserialize)]
struct Jsz {
    config: Option<JszConfig>,
}

#[derive(Deserialize)]
struct JszConfig {
    /// Left out where it is not so.
    #[serde(default)]
    sync_always: bool,
}

/// Looks at one monitoring port. An error is what is not well, in words.
async fn monitor(url: &str) -> Result<(), String> {
    let page = timeout(PAGE, page(url)).await.unwrap_or_else(|_| Err("it does not answer".into()));
    let page = page.map_err(|why| format!("the monitoring port {url} cannot be asked: {why}"))?;
    judge(&page).map_err(|why| format!("{why} (says {url}{PATH})"))
}

/// What the answer of a monitoring port says.
fn judge(answer: &[u8]) -> Result<(), &'static str> {
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").map(|at| &answer[at + 4..]);
    let jsz: Option<Jsz> = body.and_then(|body| serde_json::from_slice(body).ok());
    match jsz {
        None => Err("what answers there is no monitoring port of NATS"),
        Some(Jsz { config: None }) => Err("this NATS server has no JetStream"),
        Some(Jsz { config: Some(JszConfig { sync_always: false }) }) => {
            Err("NATS does not write each message to the disk before it acknowledges it: sync_interval must be always")
        }
        Some(_) => Ok(()),
    }
}

async fn page(url: &str) -> Result<Vec<u8>, String> {
    let address = url.strip_prefix("http://").ok_or("it must be http://HOST:PORT")?.trim_end_matches('/');
    let mut answer = Vec::new();
    let ask = async {
        let mut connection = TcpStream::connect(address).await?;
        let request = format!("GET {PATH} HTTP/1.0\r\nhost: {address}\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        connection.take(LONGEST_PAGE).read_to_end(&mut answer).await
    };
    ask.await.map_err(|error: std::io::Error| error.to_string())?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitoring_port_says_whether_each_message_is_on_the_disk() {
        let said = |body: &str| judge(format!("HTTP/1.0 200 OK\r\n\r\n{body}").as_bytes()).map_err(|why| &why[..15]);
        assert_eq!(said(r#"{"config": {"sync_interval": 120000000000, "sync_always": true}, "total": 1}"#), Ok(()));
        assert_eq!(said(r#"{"config": {"sync_interval": 120000000000}}"#), Err("NATS does not w"));
        assert_eq!(said(r#"{"config": {"sync_always": false}}"#), Err("NATS does not w"));
        assert_eq!(said(r#"{"disabled": true}"#), Err("this NATS serve"));
        assert_eq!(said("<html>"), Err("what answers th"));
        assert!(judge(b"SSH-2.0").is_err());
    }
}
