//! What the streams of one identity may have together.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::session::SessionId;

/// What one that is known may have. All its streams share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Whose it is: a number that stands for the same one until the end of the process.
    pub of: u64,
    /// Most unacknowledged tasks of each of its streams.
    pub window: u32,
    /// Most bytes of tasks that it was given and has not settled, of all its streams together; one task may go beyond.
    pub bytes: u64,
}

/// All that are in use.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    used: FxHashMap<u64, Used>,
    /// Those that are not full any more, and whose sessions have to hear so.
    freed: BTreeSet<u64>,
}

#[derive(Debug)]
struct Used {
    quota: Quota,
    bytes: u64,
    /// Its sessions are given nothing more.
    full: bool,
    sessions: BTreeSet<SessionId>,
}

impl Used {
    /// Whether enough was settled since it was full: an eighth. All its sessions hear of it, and so not of each task.
    fn has_room(&self) -> bool {
        let most = self.quota.bytes;
        self.bytes < most && self.bytes <= most - most / 8
    }
}

impl Quotas {
    /// A session comes. Says what counts for it: what is said of an identity stands until its last stream ends.
    pub(super) fn enter(&mut self, quota: Quota, session: SessionId) -> Quota {
        let used = self.used.entry(quota.of).or_insert_with(|| Used {
            quota,
            bytes: 0,
            full: false,
            sessions: BTreeSet::new(),
        });
        used.sessions.insert(session);
        used.quota
    }

    pub(super) fn leave(&mut self, of: u64, session: SessionId) {
        let Some(used) = self.used.get_mut(&of) else { return };
        used.sessions.remove(&session);
        if used.sessions.is_empty() {
            self.used.remove(&of);
            self.freed.remove(&of);
        }
    }

    /// Other bounds, if it has a stream; says which sessions it has.
    pub(super) fn set(&mut self, quota: Quota) -> Vec<SessionId> {
        let Some(used) = self.used.get_mut(&quota.of) else { return Vec::new() };
        used.quota = quota;
        used.sessions.iter().copied().collect()
    }

    /// So many bytes more are under way. Says which sessions are to be given nothing more, if that makes it full.
    pub(super) fn charge(&mut self, of: u64, bytes: u64) -> Vec<SessionId> {
        let Some(used) = self.used.get_mut(&of) else { return Vec::new() };
        used.bytes += bytes;
        if used.full || used.bytes < used.quota.bytes {
            return Vec::new();
        }
        used.full = true;
        used.sessions.iter().copied().collect()
    }

    /// So many bytes are not under way any more.
    pub(super) fn release(&mut self, of: u64, bytes: u64) {
        let Some(used) = self.used.get_mut(&of) else { return };
        used.bytes -= bytes;
        if used.full && used.has_room() {
            self.freed.insert(of);
        }
    }

    /// Whether its sessions are given nothing more.
    pub(super) fn is_full(&self, of: u64) -> bool {
        self.used.get(&of).is_some_and(|used| used.full)
    }

    /// The sessions of one that has room again, if there is one.
    pub(super) fn next_freed(&mut self) -> Option<Vec<SessionId>> {
        while let Some(of) = self.freed.pop_first() {
            if let Some(used) = self.used.get_mut(&of).filter(|used| used.full && used.has_room()) {
                used.full = false;
                return Some(used.sessions.iter().copied().collect());
            }
        }
        None
    }

    /// Each with its sessions, and the bytes they have together, for tests.
    pub(super) fn all(&self) -> impl Iterator<Item = (&u64, &BTreeSet<SessionId>, u64)> {
        self.used.iter().map(|(of, used)| (of, &used.sessions, used.bytes))
    }
}
