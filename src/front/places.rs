//! How many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places for connections.
pub(super) struct Places(Arc<Shared>);

struct Shared {
    in_all: usize,
    for_each: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    in_all: usize,
    of: HashMap<IpAddr, usize>,
}

/// One place, until it is dropped.
pub(super) struct Place {
    places: Arc<Shared>,
    of: IpAddr,
}

/// Why there is no place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    InAll,
    ForThisAddress,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    pub(super) fn new(in_all: usize, for_each: usize) -> Places {
        Places(Arc::new(Shared { in_all, for_each, taken: Mutex::default() }))
    }

    pub(super) fn are_free(&self) -> bool {
        self.0.lock().in_all == 0
    }

    pub(super) fn take(&self, address: IpAddr) -> Result<Place, Full> {
        let of = holder(address);
        let mut taken = self.0.lock();
        if taken.in_all >= self.0.in_all {
            return Err(Full::InAll);
        }
        let count = taken.of.entry(of).or_default();
        if *count >= self.0.for_each {
            return Err(Full::ForThisAddress);
        }
        *count += 1;
        taken.in_all += 1;
        Ok(Place { places: self.0.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.in_all -= 1;
        if let Some(count) = taken.of.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                taken.of.remove(&self.of);
            }
        }
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

    #[test]
    fn places_are_bounded_in_all_and_for_each_address_and_are_given_back() {
        let places = Places::new(3, 2);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = places.take(ip("10.0.0.1")).unwrap();
        let _second = places.take(ip("::ffff:10.0.0.1")).unwrap();
        assert_eq!(places.take(ip("10.0.0.1")).err(), Some(Full::ForThisAddress));
        let _third = places.take(ip("10.0.0.2")).unwrap();
        assert_eq!(places.take(ip("10.0.0.3")).err(), Some(Full::InAll));
        drop(first);
        assert!(places.take(ip("10.0.0.1")).is_ok());
        assert_eq!(places.0.lock().of.len(), 2);
    }

    #[test]
    fn addresses_of_ipv6_count_by_their_network() {
        let places = Places::new(9, 1);
        let _one = places.take("2001:db8::1".parse().unwrap()).unwrap();
        assert_eq!(places.take("2001:db8::ffff:2".parse().unwrap()).err(), Some(Full::ForThisAddress));
        assert!(places.take("2001:db8:0:1::1".parse().unwrap()).is_ok());
    }
}
