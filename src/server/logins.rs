//! How a browser gets in: by a link that works once, which becomes a session. Both are in memory alone: a start ends them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::access::Caller;
use super::tokens::{hash, new_secret};

/// How long a link works.
pub(super) const LINK: Duration = Duration::from_secs(60);
/// How long a session lasts.
pub(super) const SESSION: Duration = Duration::from_secs(12 * 60 * 60);
/// Most links, and most sessions. For one more, the one that ends first ends.
const MOST: usize = 1_000;

/// The links and the sessions.
#[derive(Default)]
pub(super) struct Logins {
    links: Mutex<Passes>,
    sessions: Mutex<Passes>,
}

/// By the hash of a secret: whose it is, and until when.
#[derive(Default)]
struct Passes(HashMap<[u8; 32], (Caller, Instant)>);

impl Passes {
    fn give(&mut self, caller: Caller, lasts: Duration, now: Instant) -> String {
        self.0.retain(|_, (_, until)| *until > now);
        if self.0.len() >= MOST
            && let Some(first) = self.0.iter().min_by_key(|(_, (_, until))| *until).map(|(hash, _)| *hash)
        {
            self.0.remove(&first);
        }
        let secret = new_secret();
        self.0.insert(hash(secret.as_bytes()), (caller, now + lasts));
        secret
    }
}

impl Logins {
    /// The secret of a link for somebody.
    pub(super) fn link(&self, caller: Caller, now: Instant) -> String {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).give(caller, LINK, now)
    }

    /// Begins a session by the secret of a link, which then works no more. `None`: it never did, or not any more.
    pub(super) fn enter(&self, link: &str, now: Instant) -> Option<(Caller, String)> {
        let found = self.links.lock().unwrap_or_else(PoisonError::into_inner).0.remove(&hash(link.as_bytes()));
        let (caller, _) = found.filter(|(caller, until)| *until > now && caller.check().is_ok())?;
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        Some((caller.clone(), sessions.give(caller, SESSION, now)))
    }

    /// Whose session it is.
    pub(super) fn session(&self, secret: &str) -> Option<Caller> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let (caller, until) = sessions.0.get(&hash(secret.as_bytes()))?;
        (*until > Instant::now()).then(|| caller.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::access::Access;
    use super::super::identity::{Connections, Origin};
    use super::*;

    #[test]
    fn a_link_works_once_and_for_a_minute_and_there_are_bounded_many() {
        let access = Access::open(Connections::default());
        let caller = access.browser(Origin::unnamed("somewhere"), &[], None).unwrap();
        let (logins, now) = (Logins::default(), Instant::now());
        let link = logins.link(caller.clone(), now);
        let (_, session) = logins.enter(&link, now).unwrap();
        assert!(logins.session(&session).is_some());
        assert!(logins.enter(&link, now).is_none());
        assert!(logins.session(&link).is_none() && logins.enter(&session, now).is_none());
        let late = logins.link(caller.clone(), now);
        assert!(logins.enter(&late, now + LINK).is_none());
        let first = logins.link(caller.clone(), now);
        for _ in 0..MOST {
            logins.link(caller.clone(), now + Duration::from_secs(1));
        }
        assert!(logins.enter(&first, now).is_none());
        assert_eq!(logins.links.lock().unwrap().0.len(), MOST);
    }
}
