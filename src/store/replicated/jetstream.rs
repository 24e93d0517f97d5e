//! The log as a stream of NATS JetStream.
//!
//! Each message is published with the sequence number that the last one is to have (`Nats-Expected-Last-Sequence`): the stream takes it
//! behind that one or not at all. It is acknowledged when a majority of the replicas has it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{Consumer, DeliverPolicy, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::log::{Log, LogError, Messages};
use super::nats::{Beats, Nats, OLDEST, check_version, connect, locked};
use super::sight::Look;
use super::stream::{Identity, find_stream, stream_name, subject};
use super::urls::NatsUrls;
use super::watch;
use crate::front::FileError;

/// How long an answer of a NATS server is waited for.
pub(super) const ANSWER: Duration = Duration::from_millis(400);
/// The same where a stream is made or looked for: its leader may be elected first.
pub(super) const SETUP: Duration = Duration::from_secs(5);
/// A reader that was given nothing for so long, while there is more, is made anew: one of NATS may hang.
const HUNG: Duration = Duration::from_secs(1);
/// Most messages that one reading gives.
const AT_ONCE: usize = 64;

/// Where the log is, and how it is reached.
#[derive(Debug, Clone)]
pub struct JetStreamConfig {
    /// The NATS servers. Any of them will do.
    pub urls: NatsUrls,
    /// By which the streams of several clusters are told apart.
    pub cluster: ClusterName,
    /// The file that says who this is to NATS (`.creds`).
    pub credentials: Option<PathBuf>,
    /// The authorities that NATS servers are trusted by, in PEM. `None`: those of this machine.
    pub ca: Option<PathBuf>,
    /// How many NATS servers keep each message, if the stream is yet to be made: 1, 3 or 5.
    pub replicas: usize,
    /// The secret that the servers share, if the stream is yet to be made; `None`: any.
    pub secret: Option<[u8; 16]>,
    /// Where NATS servers say over HTTP how they are set (`http_port`), as URLs. None: that is not looked at.
    pub monitors: Vec<String>,
}

/// The name of a cluster: 1 to 32 letters, digits, `-` and `_` of ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterName(String);

impl std::str::FromStr for ClusterName {
    type Err = String;

    fn from_str(name: &str) -> Result<ClusterName, String> {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if (1..=32).contains(&name.len()) && plain {
            return Ok(ClusterName(name.into()));
        }
        Err("the name of a cluster is 1 to 32 letters, digits, - and _".into())
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a stream cannot be the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JetStreamError {
    /// NATS does not answer, or not as it should. It may be tried again.
    #[error("NATS at {urls}: {why}")]
    Unreachable {
        /// Its servers.
        urls: String,
        /// What was said.
        why: String,
    },
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its servers are too old.
    #[error("the NATS server {server} is of version {found}, and at least {}.{} is needed", OLDEST.0, OLDEST.1)]
    TooOld {
        /// Its name.
        server: String,
        /// Its version.
        found: String,
    },
    /// The stream is there, and is none that could be the log.
    #[error(
        "the stream {stream} is set so that it could lose tasks, or is another program's: {differences}; set it right, or \
         use another --cluster"
    )]
    OtherSettings {
        /// Its name.
        stream: String,
        /// What is otherwise, and how it must be.
        differences: String,
    },
}

impl JetStreamError {
    /// Whether it may pass by itself.
    pub fn may_pass(&self) -> bool {
        matches!(self, JetStreamError::Unreachable { .. })
    }
}

/// The log, as one server has it.
pub struct JetStream {
    nats: Arc<Nats>,
    context: Context,
    stream: Stream<()>,
    identity: Identity,
    subject: String,
    reader: Option<Reader>,
    /// Drives the connection, on a thread of its own.
    runtime: Arc<Runtime>,
}

/// What reads the stream on.
struct Reader {
    messages: pull::Ordered,
    /// The last message that it gave.
    at: u64,
    last_heard: Instant,
}

impl JetStream {
    /// Connects, and finds the stream, or makes it.
    pub fn open(config: &JetStreamConfig) -> Result<JetStream, JetStreamError> {
        let cannot = |why: &dyn fmt::Display| JetStreamError::Unreachable {
            urls: config.urls.to_string(),
            why: why.to_string(),
        };
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("nats").enable_all().build();
        let runtime = Arc::new(runtime.map_err(|error| cannot(&error))?);
        let client = runtime.block_on(connect(config))?;
        // It starts a task of its own.
        let context =
            runtime.block_on(async { ContextBuilder::new().timeout(ANSWER).ack_timeout(ANSWER).build(client.clone()) });
        check_version(&client.server_info())?;
        let mut patient = context.clone();
        patient.set_timeout(SETUP);
        let identity = runtime.block_on(find_stream(&patient, config))?;
        let stream =
            runtime.block_on(context.get_stream_no_info(stream_name(config))).map_err(|error| cannot(&error))?;
        let nats = Arc::new(Nats::new(client, config));
        runtime.block_on(nats.clone().start()).map_err(|why| cannot(&why))?;
        runtime.spawn(watch::stream(nats.clone(), stream.clone(), config.clone()));
        Ok(JetStream { nats, context, stream, identity, subject: subject(config), reader: None, runtime })
    }

    /// A secret that all servers of the cluster know, and whoever may see the settings of the stream.
    pub fn secret(&self) -> [u8; 16] {
        self.identity.secret
    }

    /// What the servers say to one another beside the log.
    pub fn beats(&self) -> Beats {
        Beats { nats: self.nats.clone(), _runtime: self.runtime.clone() }
    }

    /// Makes what reads the stream on, behind a message.
    async fn reader(&self, after: u64) -> Result<Reader, LogError> {
        let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: after + 1 };
        let config = pull::OrderedConfig { deliver_policy, ..pull::OrderedConfig::default() };
        let make = async {
            let consumer: Consumer<pull::OrderedConfig> =
                self.stream.create_consumer(config).await.map_err(LogError::new)?;
            consumer.messages().await.map_err(LogError::new)
        };
        let messages = timeout(SETUP, make).await.map_err(|_| LogError::new("NATS does not answer"))??;
        Ok(Reader { messages, at: after, last_heard: Instant::now() })
    }
}

impl Log for JetStream {
    /// The place where it stands, and how long that took.
    type Sent = Result<JoinHandle<Result<(u64, Duration), LogError>>, LogError>;

    fn id(&mut self) -> Result<u64, LogError> {
        Ok(self.identity.id)
    }

    fn begin(&mut self, after: u64, message: &[u8]) -> Self::Sent {
        let publish = PublishMessage::build().payload(Bytes::copy_from_slice(message)).expected_last_sequence(after);
        let began = Instant::now();
        let sent = self.runtime.block_on(self.context.send_publish(self.subject.clone(), publish));
        let sent = sent.map_err(LogError::new)?;
        Ok(self.runtime.spawn(async move {
            let place = sent.await.map_err(LogError::new)?.sequence;
            Ok((place, began.elapsed()))
        }))
    }

    fn landed(&mut self, sent: Self::Sent) -> Result<u64, LogError> {
        let (place, took) = self.runtime.block_on(sent?).map_err(LogError::new)??;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        locked(&self.nats.appends).record(micros);
        self.nats.last.store(place, SeqCst);
        Ok(place)
    }

    fn at(&mut self, place: u64) -> Result<Option<Vec<u8>>, LogError> {
        let asked = async { timeout(ANSWER, self.stream.get_raw_message(place)).await };
        match self.runtime.block_on(asked) {
            Ok(Ok(message)) => Ok(Some(message.payload.to_vec())),
            Ok(Err(error)) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Ok(Err(error)) => Err(LogError::new(error)),
            Err(_) => Err(LogError::new("NATS does not answer")),
        }
    }

    fn read(&mut self, after: u64, wait: Duration) -> Result<Messages, LogError> {
        let behind = self.nats.heard().is_some_and(|heard| heard.place > after && heard.at.elapsed() < HUNG);
        let goes_on = |reader: &Reader| reader.at == after && !(behind && reader.last_heard.elapsed() > HUNG);
        let kept = self.reader.take();
        let (reader, messages) = self.runtime.block_on(async {
            let mut reader = match kept.filter(goes_on) {
                Some(reader) => reader,
                None => self.reader(after).await?,
            };
            let until = Instant::now() + wait;
            let mut messages = Messages::new();
            while messages.len() < AT_ONCE {
                let left =
                    if messages.is_empty() { until.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
                match timeout(left, reader.messages.next()).await {
                    Err(_) => break,
                    Ok(Some(Ok(message))) => {
                        let place = message.info().map_err(LogError::new)?.stream_sequence;
                        reader.last_heard = Instant::now();
                        if place > reader.at {
                            reader.at = place;
                            messages.push((place, message.payload.to_vec()));
                        }
                    }
                    // It is made anew with the next reading.
                    Ok(Some(Err(_)) | None) if !messages.is_empty() => return Ok((None, messages)),
                    Ok(Some(Err(error))) => return Err(LogError::new(error)),
                    Ok(None) => return Err(LogError::new("the reader ended")),
                }
            }
            self.nats.last.fetch_max(reader.at, SeqCst);
            Ok((Some(reader), messages))
        })?;
        self.reader = reader;
        Ok(messages)
    }

    fn purge(&mut self, before: u64) -> Result<(), LogError> {
        let purge = self.stream.purge().sequence(before);
        let purged = self.runtime.block_on(async { timeout(SETUP, purge).await });
        purged.map_err(LogError::new)?.map_err(LogError::new)?;
        Ok(())
    }

    fn look(&self) -> Option<Look> {
        let nats = self.nats.clone();
        Some(Arc::new(move || nats.view()))
    }
}
