//! Who may be connected: a bounded number, in all and from one address. While all places are taken, a new connection gets the place
//! of one that keeps the server waiting. So neither silence, nor half a request, nor an answer that nobody reads keeps others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::task::AbortHandle;

use crate::front::holder;

/// What a connection is at. The first is cut first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It has not sent a whole request yet.
    Asking,
    /// It was answered: it reads the answer, or may ask again.
    Answered,
    /// The server is at work for it, or sends it events: it is not cut.
    AtWork,
}

/// Places for connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Places(Arc<Shared>);

struct Shared {
    in_all: usize,
    for_each: usize,
    guests: Mutex<Guests>,
}

#[derive(Default)]
struct Guests {
    next: u64,
    there: HashMap<u64, Guest>,
}

struct Guest {
    address: IpAddr,
    stage: Stage,
    since: Instant,
    task: Option<AbortHandle>,
}

/// A place, until it is dropped or given to another.
pub(super) struct Place {
    shared: Arc<Shared>,
    number: u64,
    /// Another connection had to go for it.
    pub(super) was_taken: bool,
}

impl Places {
    /// For so many connections, and for so many from one address. Those of this machine may come by way of a proxy, for many people:
    /// they are bounded in all.
    pub(super) fn new(in_all: usize, for_each: usize) -> Places {
        Places(Arc::new(Shared { in_all, for_each, guests: Mutex::default() }))
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.0.lock().there.len()
    }

    /// A place for a connection from there. `None`: all are taken by connections that the server is at work for.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        let address = holder(address);
        let mut guests = self.0.lock();
        let of_this = guests.there.values().filter(|guest| guest.address == address).count();
        let is_full_here = of_this >= self.0.for_each && !address.is_loopback();
        let is_full = guests.there.len() >= self.0.in_all;
        let was_taken = match (is_full_here, is_full) {
            (true, _) => guests.cut(|guest| guest.address == address),
            (false, true) => guests.cut(|_| true),
            (false, false) => false,
        };
        ((!is_full_here && !is_full) || was_taken).then(|| self.0.place(&mut guests, address, was_taken))
    }

    /// Ends a connection that keeps the server waiting, for the sake of its file.
    pub(super) fn cut_one(&self) -> bool {
        self.0.lock().cut(|_| true)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(self: &Arc<Self>, guests: &mut Guests, address: IpAddr, was_taken: bool) -> Place {
        let number = guests.next;
        guests.next += 1;
        guests.there.insert(number, Guest { address, stage: Stage::Asking, since: Instant::now(), task: None });
        Place { shared: self.clone(), number, was_taken }
    }
}

impl Guests {
    /// Ends the one of these that has kept the server waiting for the longest time.
    fn cut(&mut self, of: impl Fn(&Guest) -> bool) -> bool {
        let waiting = self.there.iter().filter(|(_, guest)| of(guest) && guest.stage != Stage::AtWork);
        // The number tells those apart that came at the same moment.
        let first =
            waiting.min_by_key(|(number, guest)| (guest.stage, guest.since, **number)).map(|(number, _)| *number);
        let Some(guest) = first.and_then(|number| self.there.remove(&number)) else { return false };
        if let Some(task) = guest.task {
            task.abort();
        }
        true
    }
}

impl Place {
    /// Says which task has the connection: it is ended when the place is given to another.
    pub(super) fn is_of(&self, task: AbortHandle) {
        match self.shared.lock().there.get_mut(&self.number) {
            Some(guest) => guest.task = Some(task),
            None => task.abort(),
        }
    }

    pub(super) fn is_at(&self, stage: Stage) {
        if let Some(guest) = self.shared.lock().there.get_mut(&self.number) {
            (guest.stage, guest.since) = (stage, Instant::now());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.lock().there.remove(&self.number);
    }
}

/// The body of a request. When all of it is there, the server is at work.
pub(super) struct Received {
    pub(super) body: Incoming,
    pub(super) place: Arc<Place>,
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.place.is_at(Stage::AtWork);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_keeps_the_server_waiting_longest_goes_for_a_new_one_and_who_is_at_work_stays() {
        let places = Places::new(3, 3);
        let has = |place: &Place| places.0.lock().there.contains_key(&place.number);
        let [first, second, third] = [(); 3].map(|()| places.take(ip("127.0.0.1")).unwrap());
        first.is_at(Stage::Answered);
        second.is_at(Stage::AtWork);
        assert!(!third.was_taken);

        let fourth = places.take(ip("127.0.0.1")).unwrap();
        assert!(fourth.was_taken);
        assert_eq!([&first, &second, &third].map(has), [true, true, false], "half a request goes first");
        fourth.is_at(Stage::AtWork);
        let fifth = places.take(ip("127.0.0.1")).unwrap();
        assert_eq!([&first, &second, &fourth].map(has), [false, true, true]);
        fifth.is_at(Stage::AtWork);
        assert!(places.take(ip("127.0.0.1")).is_none());
        assert!(!places.cut_one());
        drop((first, third));
        assert_eq!(places.taken(), 3, "their places are those of others");
        drop(second);
        assert!(places.take(ip("127.0.0.1")).is_some());
    }

    #[test]
    fn an_address_has_its_share_and_takes_no_place_of_others() {
        let places = Places::new(4, 2);
        let has = |place: &Place| places.0.lock().there.contains_key(&place.number);
        let other = places.take(ip("10.0.0.1")).unwrap();
        let [first, second] = ["2001:db8::1", "2001:db8::ffff:2"].map(|from| places.take(ip(from)).unwrap());
        let third = places.take(ip("2001:db8::3")).unwrap();
        assert_eq!([&other, &first, &second, &third].map(has), [true, false, true, true]);
        let [fourth, fifth] = ["127.0.0.1", "127.0.0.1"].map(|from| places.take(ip(from)).unwrap());
        assert!(has(&fourth) && has(&fifth) && !has(&other), "the oldest goes when all are taken");
    }
}
