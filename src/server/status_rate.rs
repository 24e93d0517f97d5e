//! How often clients may report statuses: each is stored, and more are read by nobody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::rate::Rate;

/// The longest status, in bytes: some pages of text. Statuses are shown in lists, and a thousand of each client are kept.
pub(super) const LONGEST: usize = 16 * 1024;
/// Statuses a second of one client: ten times what the article's client sends.
const A_SECOND: u32 = 10;
/// And so many at once: what gathers while a client that sends one a second is cut off for a minute and a half.
const AT_ONCE: u32 = 100;
/// Bytes a second of all clients of one host, so that names are no way around that: of eight thousand clients that send one a second.
const HOST_A_SECOND: u64 = 1 << 20;
/// And so many at once.
const HOST_AT_ONCE: u64 = 16 << 20;
/// What a status counts for beside its text, in bytes.
const OVERHEAD: u64 = 100;
/// Clients and hosts that are told apart, of those that reported lately: some 100 bytes each. Those that come when there are more
/// share one rate.
const TOLD_APART: usize = 10_000;
/// Between two looks for what can be forgotten.
const SWEPT_EVERY: Duration = Duration::from_secs(1);
/// Between two lines of the log.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// The rates of all clients. In memory: after a restart each begins anew.
#[derive(Debug, Default)]
pub(super) struct StatusRate {
    rates: Mutex<Rates>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Rates {
    of: HashMap<Arc<str>, Rate>,
    swept: Option<Instant>,
    said: Option<Instant>,
}

impl StatusRate {
    /// Whether a status of this client, at this address, is stored now; else after how long one would be.
    pub(super) fn take(&self, client: &Arc<str>, peer: &str, bytes: usize, now: Instant) -> Result<(), Duration> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let one = Duration::from_secs(1) / A_SECOND;
        let taken = rates.spend(client, one, one * AT_ONCE, now).and_then(|()| {
            let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
            let lasts = |bytes: u64| Duration::from_secs_f64(bytes as f64 / HOST_A_SECOND as f64);
            // A client may be called like a host.
            rates.spend(&format!("host {host}").into(), lasts(bytes as u64 + OVERHEAD), lasts(HOST_AT_ONCE), now)
        });
        if taken.is_err() {
            let dropped = self.dropped.fetch_add(1, Relaxed) + 1;
            if rates.said.is_none_or(|said| now.duration_since(said) >= SAID_EVERY) {
                rates.said = Some(now);
                log::warn!(
                    "statuses are not stored, such as one of {client:?}: a client may send {A_SECOND} a second, and the clients of \
                     one host {} KiB together; {dropped} so far",
                    HOST_A_SECOND >> 10
                );
            }
        }
        taken
    }

    /// How many were not stored because of that.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

impl Rates {
    /// Uses a part of what somebody may use, which is `at_once` when nothing was used for long.
    fn spend(&mut self, who: &Arc<str>, part: Duration, at_once: Duration, now: Instant) -> Result<(), Duration> {
        let who = if self.has_room_for(who, now) { who.clone() } else { "".into() };
        self.of.entry(who).or_default().spend(part, part, at_once, now)
    }

    fn has_room_for(&mut self, who: &Arc<str>, now: Instant) -> bool {
        if self.of.len() < TOLD_APART || self.of.contains_key(who) {
            return true;
        }
        if self.swept.is_none_or(|swept| now.duration_since(swept) >= SWEPT_EVERY) {
            self.swept = Some(now);
            self.of.retain(|_, rate| !rate.is_idle(now));
        }
        self.of.len() < TOLD_APART
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(rate: &StatusRate, client: &str, peer: &str, bytes: usize, now: Instant, tries: u32) -> u32 {
        let client: Arc<str> = client.into();
        (0..tries).map(|_| u32::from(rate.take(&client, peer, bytes, now).is_ok())).sum()
    }

    #[test]
    fn a_client_may_send_some_at_once_and_then_ten_a_second_and_others_are_not_held_up() {
        let (rate, now) = (StatusRate::default(), Instant::now());
        assert_eq!(taken(&rate, "a", "ipv4:10.0.0.1:1", 10, now, 500), AT_ONCE);
        assert_eq!(rate.take(&"a".into(), "ipv4:10.0.0.1:1", 10, now), Err(Duration::from_millis(100)));
        assert_eq!(rate.dropped(), 401);
        assert_eq!(taken(&rate, "b", "ipv4:10.0.0.1:1", 10, now, 1), 1);
        assert_eq!(taken(&rate, "a", "ipv4:10.0.0.1:1", 10, now + Duration::from_secs(2), 500), 20);
        assert_eq!(taken(&rate, "a", "ipv4:10.0.0.1:1", 10, now + Duration::from_secs(60), 500), AT_ONCE);
    }

    #[test]
    fn a_host_sends_no_more_by_giving_its_clients_other_names() {
        let (rate, now) = (StatusRate::default(), Instant::now());
        let all = (0..2_000).map(|n| taken(&rate, &n.to_string(), &format!("ipv4:10.0.0.1:{n}"), LONGEST, now, 1));
        let all = all.sum::<u32>();
        assert!((1_000..1_024).contains(&all), "16 MiB are {all} of the longest");
        assert_eq!(taken(&rate, "0", "ipv4:10.0.0.2:1", LONGEST, now, 1), 1);
    }

    #[test]
    fn what_is_known_of_clients_is_bounded_and_those_who_find_no_room_share_a_rate() {
        let (rate, now) = (StatusRate::default(), Instant::now());
        let from = |n: usize| format!("ipv4:10.{}.{}.{}:1", n >> 16, (n >> 8) & 255, n & 255);
        let all = (0..3 * TOLD_APART).map(|n| taken(&rate, &n.to_string(), &from(n), 10, now, 1)).sum::<u32>();
        assert!((all as usize) < TOLD_APART, "{all}: half of the places are those of hosts");
        let known = |rate: &StatusRate| rate.rates.lock().unwrap_or_else(PoisonError::into_inner).of.len();
        assert_eq!(known(&rate), TOLD_APART + 1);
        // What has passed is forgotten.
        assert_eq!(taken(&rate, "new", "ipv6:[::1]:1", 10, now + Duration::from_secs(60), 500), AT_ONCE);
        assert!(known(&rate) < 4);
    }
}
