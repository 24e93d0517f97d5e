//! What needs neither a server nor a client: the broker's state machine, the store, and the documents.
#![allow(clippy::unwrap_used)]

mod broker;
mod docs;
#[cfg(feature = "cluster")]
mod nats;
mod replicated;
mod schedules;
mod store;
