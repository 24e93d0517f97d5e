//! How a server is set, and why it does not start.

use std::path::PathBuf;
use std::time::Duration;

use super::access::Auth;
use super::admission::CallLimits;
use super::dial::DialConfig;
use super::limits::Limits;
use crate::broker;
use crate::front::{FileError, ServerTls};
use crate::store::StoreError;
use crate::task::Name;

/// How a server is set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect, `host:port`; port 0: any that is free.
    pub listen: String,
    /// Where operators connect, `host:port`.
    pub control: String,
    /// Where the page, its API and the metrics are, `host:port`; `None`: nowhere.
    pub http: Option<String>,
    /// Names by which browsers may call that, besides `localhost` and addresses.
    pub http_hosts: Vec<String>,
    /// The files by which [`Config::listen`] speaks TLS, and [`Config::control`] and [`Config::http`] where they are not for this machine
    /// alone.
    pub tls: Option<ServerTls>,
    /// Where clients reach this server, `host:port`, if it is to have an authority of its own, which issues certificates to them. Then
    /// it speaks TLS by that, and `tls` does not matter.
    pub public: Option<String>,
    /// Whether ports that other machines reach may do without.
    pub insecure: bool,
    /// Whether callers have to say who they are.
    pub auth: Auth,
    /// The folder of the store.
    pub data: PathBuf,
    /// The longest text of a task, a status or a result, in bytes.
    pub max_task: usize,
    /// How many calls may be open at once.
    pub calls: CallLimits,
    /// What each identity may have, unless its grant says otherwise.
    pub limits: Limits,
    /// The groups that all agents with certificates may name, beside those that are granted to each.
    pub agent_groups: Vec<Name>,
    /// Most memory for the connections, calls and messages under way of one port, as gRPC counts it, in bytes.
    pub grpc_memory: usize,
    /// Has ten schedules, each of which makes a task at the start, and one more each time this has passed.
    pub demo: Option<Duration>,
    /// How workers are dialled.
    pub dial: DialConfig,
    /// How the delivery of tasks is set.
    pub broker: broker::Config,
    /// What is kept for how long.
    pub retention: Retention,
    /// How long clients have to report what came of the tasks they hold when the server stops.
    pub grace: Duration,
}

/// The longest [`Config::max_task`]: what a batch may hold beside one task must still fit into a message.
pub const LARGEST_MAX_TASK: usize = 16 * 1024 * 1024;

/// [`Config::grpc_memory`], if nothing else is said.
pub const GRPC_MEMORY: usize = 1024 * 1024 * 1024;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The store could not be opened.
    #[error("{0} (--data)")]
    Open(#[source] StoreError),
    /// The store failed at once.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder of the store is there, but takes nothing.
    #[error(
        "nothing can be written to {} ({why}); make room on its disk, see to its permissions, or use another folder (--data)",
        path.display()
    )]
    Data {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        why: std::io::Error,
    },
    /// Another program listens there, or it is no address of this machine.
    #[error("cannot listen on {address}: {why}; choose another with {flag}")]
    Listen {
        /// What was asked for.
        address: String,
        /// The flag that sets it.
        flag: &'static str,
        /// What the system said.
        why: String,
    },
    /// Others would reach it, and it has no TLS.
    #[error(
        "{address} can be reached by other machines, and by whoever is between: give it a certificate with --tls-cert and --tls-key, \
         and ask for those of clients with --tls-client-ca, or have it make its own with --public; or choose an address of this \
         machine with {flag}; or say --insecure if nobody else can get there"
    )]
    Exposed {
        /// What was asked for.
        address: String,
        /// The flag that sets it.
        flag: &'static str,
    },
    /// The authority cannot be made, or read.
    #[error("the authority in {} cannot be used: {why}", path.display())]
    Authority {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        #[source]
        why: std::io::Error,
    },
    /// A file of TLS cannot be used.
    #[error("{0} (--tls-cert, --tls-key, --tls-client-ca)")]
    Tls(#[from] FileError),
    /// The file of tokens, or the credential of operators on this machine, cannot be used.
    #[error("{0}")]
    Tokens(String),
    /// Workers cannot be dialled as it is set.
    #[error("{0} (--dial-tls-ca, --dial-tls-cert, --dial-tls-key, --dial-token-file)")]
    Dial(String),
    /// gRPC or the system refused something that should always work.
    #[error("the server could not be started: {0}")]
    Start(String),
}

/// What is kept for how long.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Tasks that every group has settled are removed when they are older, with what came of them; statuses, too.
    pub retain: Duration,
    /// They are removed earlier, oldest first, when the store takes more bytes than this.
    pub retain_bytes: Option<u64>,
    /// A group that no client has used for this time ends; a task for a group that never came is kept as long.
    pub group_ttl: Duration,
    /// Bytes that are to stay free on the disk: below, nothing is taken that can be done without. `None`: 1 GiB, or a twentieth of the
    /// file system, if that is less.
    pub min_free: Option<u64>,
    /// A group that no client of is connected ends when the oldest task it has not settled is older than this.
    pub max_lag: Option<Duration>,
    /// How often what is old is looked for.
    pub every: Duration,
}

impl Default for Retention {
    /// A week, however much that is; groups a month, however far they are behind; looked for every minute.
    fn default() -> Retention {
        let day = Duration::from_secs(24 * 60 * 60);
        Retention {
            retain: 7 * day,
            retain_bytes: None,
            group_ttl: 30 * day,
            min_free: None,
            max_lag: None,
            every: Duration::from_secs(60),
        }
    }
}
