//! What servers say of themselves to one another, beside the log.

use std::collections::BTreeMap;
use std::time::Duration;

use protobuf::Message as _;

use super::sight::{Saying, ServerSeen};
use crate::codec;
use crate::task::{Time, cut};
use crate::wire::log as pb;

/// Most servers that are known, and the longest word of one, in bytes: whoever may write to the subject can say what they like.
const MOST: usize = 64;
const LONGEST: usize = 1_024;
/// A server that was silent for so long is not shown any more.
const FORGOTTEN: Duration = Duration::from_secs(60 * 60);

/// The others do not hear a word that is too long.
fn short(text: &str) -> String {
    let mut text = text.to_owned();
    cut(&mut text, LONGEST / 4);
    text
}

impl Saying {
    /// As bytes, said at `now`.
    pub(super) fn to_bytes(&self, now: Time) -> Vec<u8> {
        let Saying { server, leads, epoch, lag, clients, version, started_at, trouble } = self;
        let saying = pb::Saying {
            server: short(server),
            leads: *leads,
            epoch: *epoch,
            lag: *lag,
            clients: *clients,
            version: version.clone(),
            now: now.0,
            started_at: started_at.0,
            trouble: short(trouble),
            ..pb::Saying::new()
        };
        saying.write_to_bytes().unwrap_or_default()
    }

    /// And back, with when it was said. `None`: it is no such word.
    fn read(bytes: &[u8]) -> Option<(Saying, Time)> {
        if bytes.len() > LONGEST {
            return None;
        }
        let saying: pb::Saying = codec::read(&mut &*bytes, bytes.len()).ok()?;
        let pb::Saying { server, leads, epoch, lag, clients, version, now, started_at, trouble, .. } = saying;
        let started_at = Time(started_at);
        (!server.is_empty())
            .then_some((Saying { server, leads, epoch, lag, clients, version, started_at, trouble }, Time(now)))
    }
}

/// The servers that were heard of.
#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<String, ServerSeen>);

impl Peers {
    /// Hears what one said. Says whether that is another one of the name of `this`.
    pub(super) fn hear(&mut self, bytes: &[u8], this: &Saying, heard_at: Time) -> bool {
        let Some((says, said_at)) = Saying::read(bytes) else { return false };
        if says.server == this.server {
            // The other servers know one of a name.
            return says.started_at != this.started_at;
        }
        self.0.retain(|_, seen| heard_at.since(seen.heard_at) < FORGOTTEN);
        if self.0.len() >= MOST && !self.0.contains_key(&says.server) {
            let silent =
                self.0.iter().min_by_key(|(_, seen)| seen.heard_at).filter(|(_, seen)| !seen.is_here(heard_at));
            let Some(name) = silent.map(|(name, _)| name.clone()) else { return false };
            self.0.remove(&name);
        }
        let ahead = said_at.0.saturating_sub(heard_at.0);
        self.0.insert(says.server.clone(), ServerSeen { says, is_this: false, heard_at, ahead });
        false
    }

    /// Where the term began of the server that leads, as far as that was heard; 0: it was not.
    pub(super) fn epoch(&self) -> u64 {
        self.0.values().filter(|seen| seen.says.leads).map(|seen| seen.says.epoch).max().unwrap_or(0)
    }

    /// All of them; this one as it is now.
    pub(super) fn all(&self, this: Saying, now: Time) -> Vec<ServerSeen> {
        let this = ServerSeen { says: this, is_this: true, heard_at: now, ahead: 0 };
        let mut all: Vec<_> = self.0.values().cloned().chain([this]).collect();
        all.sort_by(|a, b| a.says.server.cmp(&b.says.server));
        all
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn saying(server: &str) -> Saying {
        let (version, started_at) = ("1.2.3".into(), Time(-5));
        let trouble = "a disk".into();
        Saying { server: server.into(), leads: true, epoch: 7, lag: 3, clients: 9, version, started_at, trouble }
    }

    fn names(peers: &Peers, now: Time) -> Vec<String> {
        peers.all(saying("me"), now).into_iter().map(|seen| seen.says.server).collect()
    }

    #[test]
    fn what_a_server_says_is_heard_with_how_far_its_clock_is_ahead() {
        let mut peers = Peers::default();
        peers.hear(&saying("b").to_bytes(Time(10_500)), &saying("me"), Time(10_000));
        peers.hear(&saying("a").to_bytes(Time(7_000)), &saying("me"), Time(10_000));
        let seen = |at: usize| peers.all(saying("me"), Time(14_999))[at].clone();
        assert_eq!((seen(0).says, seen(0).ahead, seen(0).heard_at), (saying("a"), -3_000, Time(10_000)));
        assert_eq!((seen(1).says, seen(1).ahead, seen(1).is_here(Time(14_999))), (saying("b"), 500, true));
        assert!(!seen(1).is_here(Time(15_000)));
        assert!(seen(2).is_this && seen(2).is_here(Time(14_999)));
        assert_eq!(peers.epoch(), 7);
        peers.hear(&Saying { leads: false, ..saying("a") }.to_bytes(Time(1)), &saying("me"), Time(1));
        peers.hear(&Saying { leads: false, epoch: 8, ..saying("b") }.to_bytes(Time(1)), &saying("me"), Time(1));
        assert_eq!(peers.epoch(), 0, "nobody leads");
    }

    #[test]
    fn another_server_of_the_same_name_is_noticed() {
        let mut peers = Peers::default();
        let mut is_twice = |says: &Saying| peers.hear(&says.to_bytes(Time(0)), &saying("me"), Time(0));
        assert!(!is_twice(&saying("me")) && !is_twice(&saying("other")));
        assert!(is_twice(&Saying { started_at: Time(-4), ..saying("me") }));
        assert_eq!(names(&peers, Time(0)), ["me", "other"]);
    }

    #[test]
    fn what_is_said_takes_no_more_room_however_much_it_is() {
        let mut peers = Peers::default();
        for strange in [
            &b""[..],
            b"hello",
            &pb::Saying { server: "x".repeat(LONGEST), ..pb::Saying::new() }.write_to_bytes().unwrap(),
            &saying("").to_bytes(Time(0)),
        ] {
            peers.hear(strange, &saying("me"), Time(0));
        }
        assert_eq!(names(&peers, Time(0)), ["me"]);
        for n in 0..3 * MOST {
            peers.hear(&saying(&format!("s{n:04}")).to_bytes(Time(0)), &saying("me"), Time(0));
        }
        assert_eq!(peers.0.len(), MOST);
        assert!(!peers.0.contains_key("s0100"), "those that are there stay");
        peers.hear(&saying("new").to_bytes(Time(0)), &saying("me"), Time(6_000));
        assert!(peers.0.contains_key("new") && peers.0.len() == MOST, "one that is silent makes room");
        peers.hear(&saying("late").to_bytes(Time(0)), &saying("me"), Time(6_000 + FORGOTTEN.as_millis() as i64));
        assert_eq!(names(&peers, Time(0)), ["late", "me"]);
    }
}
