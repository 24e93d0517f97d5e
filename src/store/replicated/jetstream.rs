//! The log as a stream of NATS JetStream.
//!
//! Each message is published with the sequence number that the last one is to have (`Nats-Expected-Last-Sequence`): the stream takes it
//! behind that one or not at all. It is acknowledged when a majority of the replicas has it.
//!
//! Beside the stream, the server that leads says so over core NATS four times a second, with the last message of the log. Nothing depends
//! on these beats but how soon another one tries to lead.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{Consumer, DeliverPolicy, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, LastRawMessageErrorKind, RetentionPolicy, StorageType, Stream,
};
use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::StreamExt as _;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{interval, timeout};

use super::log::{Log, LogError, Messages};

/// How long an answer of a NATS server is waited for.
const ANSWER: Duration = Duration::from_millis(400);
/// The same where a stream is made or looked for: its leader may be elected first.
const SETUP: Duration = Duration::from_secs(5);
/// How often the server that leads says so.
const BEAT: Duration = Duration::from_millis(250);
/// A reader that was given nothing for so long, while there is more, is made anew: one of NATS may hang.
const HUNG: Duration = Duration::from_secs(1);
/// Most messages that one reading gives.
const AT_ONCE: usize = 64;
/// The oldest NATS with which this was tried, by its major and minor version.
const OLDEST: (u32, u32) = (2, 14);
/// Under these names the stream's metadata has the number by which the log is known, and a secret that its servers share.
const ID: &str = "contact_log";
const SECRET: &str = "contact_secret";

/// Where the log is, and how it is reached.
#[derive(Debug, Clone)]
pub struct JetStreamConfig {
    /// The NATS servers, as URLs. Any of them will do.
    pub urls: Vec<String>,
    /// By which the streams of several clusters are told apart.
    pub cluster: ClusterName,
    /// The file that says who this is to NATS (`.creds`).
    pub credentials: Option<PathBuf>,
    /// Authorities that NATS servers are trusted by, in PEM, beside those of this machine.
    pub ca: Option<PathBuf>,
    /// How many NATS servers keep each message, if the stream is yet to be made: 1, 3 or 5.
    pub replicas: usize,
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
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
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
    stream: Stream<()>,
    identity: Identity,
    subject: String,
    reader: Option<Reader>,
}

/// What reads the stream on.
struct Reader {
    messages: pull::Ordered,
    /// The last message that it gave.
    at: u64,
    last_heard: Instant,
}

/// A connection, the thread that drives it, and what is heard of others.
struct Nats {
    runtime: Runtime,
    client: Client,
    context: Context,
    beat_subject: String,
    /// The last message of the log that is known of here.
    last: AtomicU64,
    /// This server says that it leads, and is reached there.
    beats: Mutex<Option<Arc<str>>>,
    heard: Mutex<Option<Heard>>,
}

/// What the server that leads said last.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The last message of the log.
    pub place: u64,
    /// Where it is reached.
    pub server: Arc<str>,
    /// When it was heard here.
    pub at: Instant,
}

impl JetStream {
    /// Connects, and finds the stream, or makes it.
    pub fn open(config: &JetStreamConfig) -> Result<JetStream, JetStreamError> {
        let cannot =
            |why: &dyn fmt::Display| JetStreamError::Unreachable { urls: config.urls.join(", "), why: why.to_string() };
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("nats").enable_all().build();
        let runtime = runtime.map_err(|error| cannot(&error))?;
        let client = runtime.block_on(connect(config))?;
        // It starts a task of its own.
        let context =
            runtime.block_on(async { ContextBuilder::new().timeout(ANSWER).ack_timeout(ANSWER).build(client.clone()) });
        check_version(&client)?;
        let mut patient = context.clone();
        patient.set_timeout(SETUP);
        let identity = runtime.block_on(find_stream(&patient, config))?;
        let stream =
            runtime.block_on(context.get_stream_no_info(stream_name(config))).map_err(|error| cannot(&error))?;
        let nats = Arc::new(Nats {
            runtime,
            client,
            context,
            beat_subject: format!("contact.{}.beat", config.cluster),
            last: AtomicU64::new(0),
            beats: Mutex::default(),
            heard: Mutex::default(),
        });
        nats.start().map_err(|why| cannot(&why))?;
        Ok(JetStream { nats, stream, identity, subject: subject(config), reader: None })
    }

    /// A secret that all servers of the cluster know, and whoever may see the settings of the stream.
    pub fn secret(&self) -> [u8; 16] {
        self.identity.secret
    }

    /// What the servers say to one another beside the log.
    pub fn beats(&self) -> Beats {
        Beats(self.nats.clone())
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

fn stream_name(config: &JetStreamConfig) -> String {
    format!("CONTACT_{}", config.cluster)
}

fn subject(config: &JetStreamConfig) -> String {
    format!("contact.{}.log", config.cluster)
}

async fn connect(config: &JetStreamConfig) -> Result<Client, JetStreamError> {
    let mut options = ConnectOptions::new()
        .name("contact-server")
        .connection_timeout(Duration::from_secs(1))
        .ping_interval(Duration::from_secs(1))
        .max_reconnects(None)
        .reconnect_delay_callback(|tries| Duration::from_millis((20 * tries as u64).min(200)));
    if let Some(path) = &config.credentials {
        let file = |why: std::io::Error| JetStreamError::File { path: path.clone(), why: why.to_string() };
        let text = std::fs::read_to_string(path).map_err(file)?;
        options = options.credentials(&text).map_err(file)?;
    }
    if let Some(path) = &config.ca {
        options = options.add_root_certificates(path.clone());
    }
    let connected = timeout(SETUP, options.connect(&config.urls[..])).await;
    let cannot = |why: String| JetStreamError::Unreachable { urls: config.urls.join(", "), why };
    connected.map_err(|_| cannot("no connection".into()))?.map_err(|error| cannot(error.to_string()))
}

fn check_version(client: &Client) -> Result<(), JetStreamError> {
    let info = client.server_info();
    let mut numbers = info.version.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= OLDEST {
        return Ok(());
    }
    Err(JetStreamError::TooOld { server: info.server_name, found: info.version })
}

/// How the stream must be. Whatever it does not say is as NATS has it.
fn wanted(config: &JetStreamConfig) -> Config {
    Config {
        name: stream_name(config),
        subjects: vec![subject(config)],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: config.replicas,
        // Else it would make room by deleting tasks.
        discard: DiscardPolicy::New,
        deny_delete: true,
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        metadata: HashMap::from([
            (ID.to_owned(), (rand::random::<u64>() | 1).to_string()),
            (SECRET.to_owned(), HEXLOWER.encode(&rand::random::<[u8; 16]>())),
        ]),
        ..Config::default()
    }
}

/// What the metadata of the stream says.
#[derive(Clone, Copy)]
struct Identity {
    id: u64,
    secret: [u8; 16],
}

impl Identity {
    fn read(config: &Config) -> Option<Identity> {
        let secret = HEXLOWER.decode(config.metadata.get(SECRET)?.as_bytes()).ok()?;
        Some(Identity { id: config.metadata.get(ID)?.parse().ok()?, secret: secret.try_into().ok()? })
    }
}

/// Finds the stream, or makes it.
async fn find_stream(context: &Context, config: &JetStreamConfig) -> Result<Identity, JetStreamError> {
    let cannot = |why: String| JetStreamError::Unreachable { urls: config.urls.join(", "), why };
    let wanted = wanted(config);
    let stream = match context.get_stream(&wanted.name).await {
        Ok(stream) => stream,
        Err(absent) => match context.create_stream(wanted.clone()).await {
            Ok(stream) => stream,
            // Another server may have made it just now.
            Err(error) => match context.get_stream(&wanted.name).await {
                Ok(stream) => stream,
                Err(_) => {
                    return Err(cannot(format!(
                        "the stream {} is not there ({absent}), and cannot be made: {error}",
                        wanted.name
                    )));
                }
            },
        },
    };
    let found = &stream.cached_info().config;
    let mut differences = differences(found, &wanted);
    let identity = Identity::read(found);
    if identity.is_none() {
        differences.push(format!("its metadata has no {ID} or no {SECRET}, as a stream that Contact made has"));
    }
    match identity {
        Some(identity) if differences.is_empty() => Ok(identity),
        _ => Err(JetStreamError::OtherSettings { stream: wanted.name, differences: differences.join("; ") }),
    }
}

/// What is otherwise than it must be. The number of replicas may be changed with NATS's own tools.
fn differences(found: &Config, wanted: &Config) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, found: &dyn fmt::Debug, wanted: &dyn fmt::Debug| {
        let (found, wanted) = (format!("{found:?}"), format!("{wanted:?}"));
        if found != wanted {
            differences.push(format!("{what} is {found} and must be {wanted}"));
        }
    };
    compare("subjects", &found.subjects, &wanted.subjects);
    compare("retention", &found.retention, &wanted.retention);
    compare("storage", &found.storage, &wanted.storage);
    compare("discard", &found.discard, &wanted.discard);
    compare("deny_delete", &found.deny_delete, &wanted.deny_delete);
    compare("deny_purge", &found.deny_purge, &wanted.deny_purge);
    compare("max_msgs", &found.max_messages, &wanted.max_messages);
    compare("max_bytes", &found.max_bytes, &wanted.max_bytes);
    compare("max_msgs_per_subject", &found.max_messages_per_subject, &wanted.max_messages_per_subject);
    compare("max_age", &found.max_age, &wanted.max_age);
    compare("no_ack", &found.no_ack, &wanted.no_ack);
    compare("sealed", &found.sealed, &wanted.sealed);
    compare("mirror", &found.mirror.is_some(), &false);
    compare("sources", &found.sources.as_ref().is_some_and(|sources| !sources.is_empty()), &false);
    if found.max_message_size != -1 && (found.max_message_size as usize) < super::LONGEST_MESSAGE + 1_024 {
        compare("max_msg_size", &found.max_message_size, &-1);
    }
    differences
}

impl Nats {
    /// Listens to beats, and gives them while this server leads.
    fn start(self: &Arc<Nats>) -> Result<(), String> {
        let mut beats =
            self.runtime.block_on(self.client.subscribe(self.beat_subject.clone())).map_err(|e| e.to_string())?;
        let nats = Arc::downgrade(self);
        self.runtime.spawn(async move {
            while let Some(beat) = beats.next().await {
                let Some(nats) = nats.upgrade() else { return };
                if let Some((place, server)) = beat.payload.split_first_chunk() {
                    let place = u64::from_be_bytes(*place);
                    let server = String::from_utf8_lossy(server).into();
                    *nats.heard.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(Heard { place, server, at: Instant::now() });
                }
            }
        });
        let nats = Arc::downgrade(self);
        self.runtime.spawn(async move {
            let mut every = interval(BEAT);
            loop {
                every.tick().await;
                let Some(nats) = nats.upgrade() else { return };
                let server = nats.beats.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(server) = server {
                    let beat = [&nats.last.load(SeqCst).to_be_bytes()[..], server.as_bytes()].concat();
                    let _ = nats.client.publish(nats.beat_subject.clone(), Bytes::from(beat)).await;
                }
            }
        });
        Ok(())
    }

    fn heard(&self) -> Option<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What servers say beside the log.
#[derive(Clone)]
pub struct Beats(Arc<Nats>);

impl Beats {
    /// Says that this server leads, and where it is reached; or no more.
    pub fn give(&self, server: Option<&str>) {
        *self.0.beats.lock().unwrap_or_else(PoisonError::into_inner) = server.map(Arc::from);
    }

    /// Whether somebody says that they lead who knows a message that this server does not.
    pub fn others_lead(&self) -> bool {
        self.heard().is_some_and(|heard| heard.place > self.0.last.load(SeqCst))
    }

    /// What was heard last of the one who leads, this server included.
    pub fn heard(&self) -> Option<Heard> {
        self.0.heard()
    }
}

impl Log for JetStream {
    fn id(&mut self) -> Result<u64, LogError> {
        Ok(self.identity.id)
    }

    fn send(&mut self, after: u64, message: &[u8]) -> Result<u64, LogError> {
        let publish = PublishMessage::build().payload(Bytes::copy_from_slice(message)).expected_last_sequence(after);
        let (context, subject) = (&self.nats.context, self.subject.clone());
        let sent = self.nats.runtime.block_on(async { context.send_publish(subject, publish).await?.await });
        let place = sent.map_err(LogError::new)?.sequence;
        self.nats.last.store(place, SeqCst);
        Ok(place)
    }

    fn at(&mut self, place: u64) -> Result<Option<Vec<u8>>, LogError> {
        let asked = async { timeout(ANSWER, self.stream.get_raw_message(place)).await };
        match self.nats.runtime.block_on(asked) {
            Ok(Ok(message)) => Ok(Some(message.payload.to_vec())),
            Ok(Err(error)) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Ok(Err(error)) => Err(LogError::new(error)),
            Err(_) => Err(LogError::new("NATS does not answer")),
        }
    }

    fn read(&mut self, after: u64, wait: Duration) -> Result<Messages, LogError> {
        let nats = self.nats.clone();
        let behind = nats.heard().is_some_and(|heard| heard.place > after && heard.at.elapsed() < HUNG);
        let goes_on = |reader: &Reader| reader.at == after && !(behind && reader.last_heard.elapsed() > HUNG);
        nats.runtime.block_on(async {
            let mut reader = match self.reader.take().filter(goes_on) {
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
                    Ok(Some(Err(_)) | None) if !messages.is_empty() => return Ok(messages),
                    Ok(Some(Err(error))) => return Err(LogError::new(error)),
                    Ok(None) => return Err(LogError::new("the reader ended")),
                }
            }
            nats.last.fetch_max(reader.at, SeqCst);
            self.reader = Some(reader);
            Ok(messages)
        })
    }

    fn purge(&mut self, before: u64) -> Result<(), LogError> {
        let purge = self.stream.purge().sequence(before);
        self.nats
            .runtime
            .block_on(async { timeout(SETUP, purge).await })
            .map_err(LogError::new)?
            .map_err(LogError::new)?;
        Ok(())
    }
}
