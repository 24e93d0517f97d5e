//! The HTTP face of the real server: what it shows, what it does, and what it refuses.

mod api;
pub mod client;
mod data;
mod events;
mod limits;
mod metrics;
mod refusals;
mod runs;
mod schedules;
mod tasks;
