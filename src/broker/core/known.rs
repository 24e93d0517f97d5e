//! The clients that have an id and were here: what each said that it is, and when it was last seen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::Core;
use super::session::Join;
use crate::now::Now;
use crate::store::KnownClient;
use crate::task::{ClientId, GroupName, Time};

/// Most clients that are known: about as many as groups. Who was seen longest ago, and is not here, makes room.
pub const MOST_KNOWN: usize = 20_000;
/// A client that is away for longer is missing, if it is a group of its own: longer than a weekend.
pub const MISSING_AFTER: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// What is known, and what of it the next checkpoint writes.
#[derive(Debug, Default)]
pub(super) struct KnownClients {
    clients: HashMap<ClientId, KnownClient>,
    changed: BTreeSet<ClientId>,
}

impl KnownClients {
    /// As a store has it. Who was here when the server ended was seen until then, and that was not long before now.
    pub(super) fn recover(&mut self, clients: Vec<KnownClient>, now: Now) {
        for mut client in clients {
            if client.here {
                (client.here, client.last_seen) = (false, client.last_seen.max(now.wall));
                self.changed.insert(client.client.clone());
            }
            self.clients.insert(client.client.clone(), client);
        }
    }

    /// What changed since the last checkpoint; `None`: it is known no more.
    pub(super) fn take_changed(&mut self) -> BTreeMap<ClientId, Option<KnownClient>> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|client| (client.clone(), self.clients.get(&client).cloned())).collect()
    }

    /// The last stream of a client ended.
    pub(super) fn went(&mut self, client: &ClientId, now: Now) {
        if let Some(known) = self.clients.get_mut(client) {
            (known.here, known.last_seen) = (false, now.wall);
            self.changed.insert(client.clone());
        }
    }

    fn forget(&mut self, which: impl Fn(&KnownClient) -> bool) -> usize {
        let gone: Vec<ClientId> =
            self.clients.values().filter(|known| which(known)).map(|known| known.client.clone()).collect();
        gone.iter().for_each(|client| drop(self.clients.remove(client)));
        let count = gone.len();
        self.changed.extend(gone);
        count
    }

    /// Room for one that is new; `false`: all that are known are here.
    fn make_room(&mut self) -> bool {
        if self.clients.len() < MOST_KNOWN {
            return true;
        }
        let away = self.clients.values().filter(|known| !known.here);
        let Some(oldest) = away.min_by_key(|known| known.last_seen).map(|known| known.client.clone()) else {
            return false;
        };
        self.forget(|known| known.client == oldest) > 0
    }
}

impl Core {
    /// A client opened its stream.
    pub(super) fn client_came(&mut self, join: &Join, group: Option<&GroupName>, now: Now) {
        let (Some(client), Some(group)) = (&join.client, group) else { return };
        let before = self.known.clients.get(client);
        let first_seen = before.map_or(now.wall, |known| known.first_seen);
        if before.is_none() && !self.known.make_room() {
            return;
        }
        let known = KnownClient {
            client: client.clone(),
            group: group.clone(),
            labels: join.labels.clone(),
            version: join.version.clone(),
            system: join.system.clone(),
            first_seen,
            last_seen: now.wall,
            here: true,
        };
        self.known.clients.insert(client.clone(), known);
        self.known.changed.insert(client.clone());
        self.checkpoints.changed(now.steady);
    }

    /// The clients that are known, by id.
    pub fn known(&self, now: Now) -> Vec<KnownClient> {
        let seen = |known: &KnownClient| KnownClient {
            last_seen: if known.here { now.wall } else { known.last_seen },
            ..known.clone()
        };
        let mut known: Vec<_> = self.known.clients.values().map(seen).collect();
        known.sort_unstable_by(|a, b| a.client.cmp(&b.client));
        known
    }

    /// The clients that are missing, each with how long it has been away, in no order: those that are a group of their own, are not
    /// drained, and were not here for [`MISSING_AFTER`].
    pub fn missing(&self, now: Now) -> Vec<(ClientId, Duration)> {
        let away = |known: &KnownClient| now.wall.since(known.last_seen);
        let is_missing = |known: &&KnownClient| {
            !known.here
                && known.client == known.group
                && away(known) > MISSING_AFTER
                && !self.has_drained(&known.client)
        };
        self.known.clients.values().filter(is_missing).map(|known| (known.client.clone(), away(known))).collect()
    }

    /// Forgets the clients that were last seen before; says how many there were.
    pub fn forget_clients(&mut self, before: Time, now: Now) -> usize {
        let count = self.known.forget(|known| !known.here && known.last_seen < before);
        if count > 0 {
            self.checkpoints.changed(now.steady);
        }
        count
    }

    /// A group is removed, and with it those who were in it.
    pub(super) fn forget_clients_of(&mut self, group: &GroupName, now: Now) {
        if self.known.forget(|known| !known.here && known.group == *group) > 0 {
            self.checkpoints.changed(now.steady);
        }
    }
}
