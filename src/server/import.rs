//! A cluster that begins with the store of a server that was alone.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use super::member::PAUSE;
use super::{ClusterConfig, ServerError, kept, receipts};
use crate::store::{self, JetStream, JetStreamConfig, JetStreamError, Positions};

/// How long NATS is waited for, which may be starting; and how long each message is sent again and again, since it may elect another leader
/// of the stream meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the cluster begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// How far the logs of the store go.
    pub positions: Positions,
    /// The size of its database.
    pub bytes: u64,
    /// The message of the log with which all of it is there.
    pub place: u64,
    /// What clients are at work on when the old server ends they may tell the new ones.
    pub keeps_receipts: bool,
}

/// Sends the store in the folder `from` into the log of a new cluster. `tell` is told how many bytes of how many are there. The folder stays
/// as it is, and so does a cluster that is not new; what is interrupted can be done again.
pub fn import(from: &Path, cluster: &ClusterConfig, tell: impl FnMut(u64, u64)) -> Result<Imported, ServerError> {
    let refused = |why: &dyn ToString| ServerError::Start(why.to_string());
    let granted = kept::in_files(from).map_err(ServerError::Tokens)?;
    let secret = receipts::key(from);
    let log = reach(&JetStreamConfig { secret, ..cluster.log.clone() }).map_err(|why| refused(&why))?;
    let keeps_receipts = secret == Some(log.secret());
    let beats = log.beats();
    // Servers that are there already wait for the end.
    beats.give(Some(""));
    let imported = store::import(log, from, granted, &cluster.advertise, PATIENCE, tell);
    beats.give(None);
    let store::Imported { positions, bytes, place } = imported.map_err(|why| refused(&why))?;
    Ok(Imported { positions, bytes, place, keeps_receipts })
}

fn reach(log: &JetStreamConfig) -> Result<JetStream, JetStreamError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match JetStream::open(log) {
            Err(why) if why.may_pass() && Instant::now() < until => warn!("{why}; trying again"),
            reached => return reached,
        }
        thread::sleep(PAUSE);
    }
}
