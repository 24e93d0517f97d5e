//! Who may be connected: a bounded number, in all and from one address. While all places are taken, a new connection gets the place
//! of one that keeps the server waiting. So neither silence, nor half a request, nor an answer that nobody reads keeps others out.
//!
//! Taking and leaving a place costs the same however many there are, but for a logarithm.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// What a connection is at. The first is cut first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It has not said yet what it wants.
    Asking,
    /// It was answered: it reads the answer, or may ask again.
    Answered,
    /// The server is at work for it: it is not cut.
    AtWork,
}

/// Places for connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Places(Arc<Shared>);

struct Shared {
    in_all: usize,
    for_each: usize,
    /// Those of this machine may come by way of a proxy, for many people: then they are bounded in all.
    spares_this_machine: bool,
    guests: Mutex<Guests>,
}

#[derive(Default)]
struct Guests {
    /// Numbers guests, and what they come to: what is later is greater.
    last: u64,
    there: HashMap<u64, Guest>,
    /// How many are from each address.
    of: HashMap<IpAddr, usize>,
    /// Those that may be cut, of each address and of all, the first first.
    waiting_of: BTreeSet<(IpAddr, Turn)>,
    waiting: BTreeSet<Turn>,
}

/// The stage, since when, and the number of the guest.
type Turn = (Stage, u64, u64);

struct Guest {
    address: IpAddr,
    stage: Stage,
    since: u64,
    task: Option<AbortHandle>,
}

/// A place, until it is dropped or given to another.
pub(crate) struct Place {
    shared: Arc<Shared>,
    number: u64,
    /// Another connection had to go for it.
    pub(crate) was_taken: bool,
}

impl Places {
    /// For so many connections, and for so many from one address.
    pub(crate) fn new(in_all: usize, for_each: usize) -> Places {
        Places::of(in_all, for_each, false)
    }

    /// The same, where addresses of this machine may be those of proxies: such are bounded in all alone.
    pub(crate) fn behind_proxies(in_all: usize, for_each: usize) -> Places {
        Places::of(in_all, for_each, true)
    }

    fn of(in_all: usize, for_each: usize, spares_this_machine: bool) -> Places {
        Places(Arc::new(Shared { in_all, for_each, spares_this_machine, guests: Mutex::default() }))
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.0.lock().there.len()
    }

    /// A place for a connection from there. `None`: all are taken by connections that the server is at work for.
    pub(crate) fn take(&self, address: IpAddr, stage: Stage) -> Option<Place> {
        let address = holder(address);
        let mut guests = self.0.lock();
        let is_spared = self.0.spares_this_machine && address.is_loopback();
        let is_full_here = !is_spared && guests.of.get(&address).is_some_and(|count| *count >= self.0.for_each);
        let was_taken = match (is_full_here, guests.there.len() >= self.0.in_all) {
            (false, false) => false,
            (true, _) if guests.cut(Some(address)) => true,
            (false, true) if guests.cut(None) => true,
            _ => return None,
        };
        let number = guests.enter(address, stage);
        Some(Place { shared: self.0.clone(), number, was_taken })
    }

    /// Ends a connection that keeps the server waiting, for the sake of its file.
    pub(crate) fn cut_one(&self) -> bool {
        self.0.lock().cut(None)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    fn enter(&mut self, address: IpAddr, stage: Stage) -> u64 {
        self.last += 1;
        let number = self.last;
        self.there.insert(number, Guest { address, stage: Stage::AtWork, since: number, task: None });
        *self.of.entry(address).or_default() += 1;
        self.comes_to(number, stage);
        number
    }

    fn comes_to(&mut self, number: u64, stage: Stage) {
        let Some(guest) = self.there.get_mut(&number) else { return };
        let before = (guest.stage, guest.since, number);
        self.last += 1;
        (guest.stage, guest.since) = (stage, self.last);
        self.waiting.remove(&before);
        self.waiting_of.remove(&(guest.address, before));
        if stage != Stage::AtWork {
            let turn = (stage, self.last, number);
            self.waiting.insert(turn);
            self.waiting_of.insert((guest.address, turn));
        }
    }

    fn leave(&mut self, number: u64) -> Option<Guest> {
        self.comes_to(number, Stage::AtWork);
        let guest = self.there.remove(&number)?;
        if let Some(count) = self.of.get_mut(&guest.address) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&guest.address);
            }
        }
        Some(guest)
    }

    /// Ends the one, of an address or of all, that has kept the server waiting for the longest time.
    fn cut(&mut self, of: Option<IpAddr>) -> bool {
        let first = match of {
            None => self.waiting.first().copied(),
            Some(address) => {
                let first = self.waiting_of.range((address, (Stage::Asking, 0, 0))..).next();
                first.filter(|(of, _)| *of == address).map(|(_, turn)| *turn)
            }
        };
        let Some(guest) = first.and_then(|(_, _, number)| self.leave(number)) else { return false };
        if let Some(task) = guest.task {
            task.abort();
        }
        true
    }
}

impl Place {
    /// Says which task has the connection: it is ended when the place is given to another.
    pub(crate) fn is_of(&self, task: AbortHandle) {
        match self.shared.lock().there.get_mut(&self.number) {
            Some(guest) => guest.task = Some(task),
            None => task.abort(),
        }
    }

    pub(crate) fn is_at(&self, stage: Stage) {
        self.shared.lock().comes_to(self.number, stage);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.lock().leave(self.number);
    }
}

/// Whom to count an address for. Who has one of IPv6 mostly has all of its network, the 64 bits after it.
pub(crate) fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn has(places: &Places, place: &Place) -> bool {
        places.0.lock().there.contains_key(&place.number)
    }

    #[track_caller]
    fn nothing_is_left(places: &Places) {
        let guests = places.0.lock();
        assert!(guests.there.is_empty() && guests.of.is_empty());
        assert!(guests.waiting.is_empty() && guests.waiting_of.is_empty());
    }

    #[test]
    fn who_keeps_the_server_waiting_longest_goes_for_a_new_one_and_who_is_at_work_stays() {
        let places = Places::new(3, 3);
        let take = || places.take(ip("127.0.0.1"), Stage::Asking);
        let has = |place: &Place| has(&places, place);
        let [first, second, third] = [(); 3].map(|()| take().unwrap());
        first.is_at(Stage::Answered);
        second.is_at(Stage::AtWork);
        assert!(!third.was_taken);

        let fourth = take().unwrap();
        assert!(fourth.was_taken);
        assert_eq!([&first, &second, &third].map(has), [true, true, false], "half a request goes first");
        fourth.is_at(Stage::AtWork);
        let fifth = take().unwrap();
        assert_eq!([&first, &second, &fourth].map(has), [false, true, true]);
        fifth.is_at(Stage::AtWork);
        assert!(take().is_none());
        assert!(!places.cut_one());
        drop((first, third));
        assert_eq!(places.taken(), 3, "their places are those of others");
        drop(second);
        assert!(take().is_some());
        drop((fourth, fifth));
        nothing_is_left(&places);
    }

    #[test]
    fn an_address_has_its_share_and_takes_no_place_of_others() {
        let places = Places::behind_proxies(4, 2);
        let take = |from| places.take(ip(from), Stage::Asking).unwrap();
        let has = |place: &Place| has(&places, place);
        let other = take("10.0.0.1");
        let [first, second] = ["2001:db8::1", "2001:db8::ffff:2"].map(take);
        let third = take("2001:db8::3");
        assert_eq!([&other, &first, &second, &third].map(has), [true, false, true, true]);
        let [fourth, fifth] = ["127.0.0.1", "127.0.0.1"].map(take);
        assert!(has(&fourth) && has(&fifth) && !has(&other), "the oldest goes when all are taken");
    }

    #[test]
    fn who_is_at_work_from_the_beginning_is_bounded_in_all_and_for_each_address() {
        let places = Places::new(3, 2);
        let take = |from| places.take(ip(from), Stage::AtWork);
        let first = take("10.0.0.1").unwrap();
        let second = take("::ffff:10.0.0.1").unwrap();
        assert!(take("10.0.0.1").is_none());
        let third = take("10.0.0.2").unwrap();
        assert!(take("10.0.0.3").is_none());
        drop(first);
        let again = take("10.0.0.1").unwrap();
        drop((second, third, again));
        nothing_is_left(&places);
        let alone = Places::new(9, 1);
        let _one = alone.take(ip("2001:db8::1"), Stage::AtWork).unwrap();
        assert!(alone.take(ip("2001:db8::ffff:2"), Stage::AtWork).is_none());
        assert!(alone.take(ip("2001:db8:0:1::1"), Stage::AtWork).is_some());
        let _here = alone.take(ip("127.0.0.1"), Stage::AtWork).unwrap();
        assert!(alone.take(ip("127.0.0.1"), Stage::AtWork).is_none(), "this machine is bounded as others are");
    }
}
