//! Which calls are let in: those that may do what they ask for, and so many of one connection, and of one address. Asked before
//! anything is read of a call.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(feature = "cluster")]
use grpcio::RpcContext;

use super::access::{Access, Caller};
use super::limits::Held;
use super::refusal::Refusal;
use super::roles::Row;
use crate::codec::{Admit, First, Requests};
use crate::front::holder;

/// How many calls may be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimits {
    /// Over one connection. Clients are told (`SETTINGS_MAX_CONCURRENT_STREAMS`), and wait with the next.
    pub per_connection: usize,
    /// From one IPv4 address, or one network of IPv6 (a /64), over all its connections to one port.
    pub per_address: usize,
}

impl Default for CallLimits {
    /// A client has one to three calls open. Room for a proxy, or a program, that is some hundred clients over one connection, and for a
    /// machine that plays ten thousand.
    fn default() -> CallLimits {
        CallLimits { per_connection: 1_000, per_address: 50_000 }
    }
}

/// Counts the calls of one port.
pub(super) struct Admission {
    limits: CallLimits,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    total: usize,
    /// By address and port, and by address alone, with port 0. Those that have none are not here.
    of: HashMap<(IpAddr, u16), usize>,
}

impl Admission {
    pub(super) fn of(limits: CallLimits) -> Arc<Admission> {
        Arc::new(Admission { limits, open: Mutex::default() })
    }

    /// How many calls are open.
    pub(super) fn open(&self) -> usize {
        self.lock().total
    }

    /// As the services ask, of calls by those who have this access.
    pub(super) fn asked(self: &Arc<Self>, access: &Access) -> Admit {
        let (admission, access) = (self.clone(), access.clone());
        Arc::new(move |ctx| {
            let (caller, row) = access.let_in(ctx)?;
            let held = caller.hold(row)?;
            let permit = admission.admit(&caller.peer)?;
            Ok(Box::new(LetIn { caller, row, _held: held, _permit: permit }))
        })
    }

    /// The same of calls that other servers of the cluster pass on. `is_server`: whether such a one calls.
    #[cfg(feature = "cluster")]
    pub(super) fn asked_by_servers(
        self: &Arc<Self>,
        access: &Access,
        is_server: impl Fn(&RpcContext<'_>) -> Result<(), Refusal> + Send + Sync + 'static,
    ) -> Admit {
        let (admission, access) = (self.clone(), access.clone());
        Arc::new(move |ctx| {
            is_server(ctx)?;
            let (caller, row) = access.passed_on(ctx)?;
            let held = caller.hold(row)?;
            let permit = admission.admit(&caller.peer)?;
            Ok(Box::new(LetIn { caller, row, _held: held, _permit: permit }))
        })
    }

    /// Lets a call in, for as long as the permit is kept.
    fn admit(self: &Arc<Self>, peer: &str) -> Result<Permit, Refusal> {
        // What comes over a socket of this machine has no address: whoever accepted it for us counts.
        let keys = address(peer).map(|(ip, port)| [(ip, port), (ip, 0)]);
        let mut open = self.lock();
        let CallLimits { per_connection, per_address } = self.limits;
        let bounds = [("connection", per_connection), ("address", per_address)];
        for (key, (of, limit)) in keys.iter().flatten().zip(bounds) {
            if open.of.get(key).is_some_and(|count| *count >= limit) {
                return Err(Refusal::TooManyCalls { of, limit });
            }
        }
        keys.iter().flatten().for_each(|key| *open.of.entry(*key).or_default() += 1);
        open.total += 1;
        drop(open);
        Ok(Permit { admission: self.clone(), keys })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that was let in: whose it is, and what it asks for. Both were found out once, with the call.
pub(super) struct LetIn {
    caller: Caller,
    row: &'static Row,
    _held: Option<Held>,
    _permit: Permit,
}

impl LetIn {
    fn caller(let_in: Option<&LetIn>) -> Result<(Caller, &'static Row), Refusal> {
        // All services ask. One that does not would serve nobody.
        let let_in = let_in.ok_or(Refusal::NoCredential { file: None })?;
        Ok((let_in.caller.clone(), let_in.row))
    }

    /// Of a call with one message.
    pub(super) fn of<T>(request: &First<T>) -> Result<(Caller, &'static Row), Refusal> {
        LetIn::caller(request.permit())
    }

    /// Of a call with many: whose it is.
    pub(super) fn of_many<T>(requests: &Requests<T>) -> Result<Caller, Refusal> {
        Ok(LetIn::caller(requests.permit())?.0)
    }
}

/// One call that is counted.
struct Permit {
    admission: Arc<Admission>,
    keys: Option<[(IpAddr, u16); 2]>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.admission.lock();
        open.total -= 1;
        for key in self.keys.iter().flatten() {
            if let Some(count) = open.of.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    open.of.remove(key);
                }
            }
        }
    }
}

/// Whom to count a peer as gRPC names it to: `ipv4:127.0.0.1:50`, `ipv6:%5B::1%5D:50`.
fn address(peer: &str) -> Option<(IpAddr, u16)> {
    let (kind, rest) = peer.split_once(':')?;
    if !["ipv4", "ipv6"].contains(&kind) {
        return None;
    }
    let plain = rest.replace("%5B", "[").replace("%5D", "]");
    // One that cannot be read counts with all others that cannot.
    let address = plain.parse().unwrap_or(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    Some((holder(address.ip()), address.port()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn calls_are_counted_by_connection_and_by_address_and_those_that_ended_no_more() {
        let admission = Admission::of(CallLimits { per_connection: 2, per_address: 3 });
        let refused = |peer: &str| match admission.admit(peer) {
            Err(Refusal::TooManyCalls { of, .. }) => of,
            Err(other) => panic!("{other}"),
            Ok(_) => "nobody",
        };
        let first = admission.admit("ipv4:192.0.2.1:5").unwrap();
        let second = admission.admit("ipv4:192.0.2.1:5").unwrap();
        assert_eq!(refused("ipv4:192.0.2.1:5"), "connection");
        let third = admission.admit("ipv4:192.0.2.1:6").unwrap();
        assert_eq!(refused("ipv4:192.0.2.1:7"), "address");
        assert_eq!(refused("ipv4:192.0.2.2:5"), "nobody");
        drop(second);
        assert_eq!(refused("ipv4:192.0.2.1:7"), "nobody");
        assert_eq!(admission.open(), 2);
        drop((first, third));
        assert_eq!((admission.open(), admission.lock().of.len()), (0, 0), "nothing is kept of who is gone");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_and_a_socket_of_this_machine_is_not_counted() {
        let at = |peer: &str| address(peer).map(|(ip, port)| (ip.to_string(), port));
        assert_eq!(at("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:50"), Some(("2001:db8:1:2::".into(), 50)));
        assert_eq!(at("ipv6:[::ffff:192.0.2.1]:50"), Some(("192.0.2.1".into(), 50)));
        assert_eq!(at("ipv6:%5Bfe80::1%25eth0%5D:50"), Some(("::".into(), 0)));
        assert_eq!((at("unix:"), at("fd:7"), at("unknown")), (None, None, None));
    }
}
