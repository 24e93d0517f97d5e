//! Contact pushes tasks from a server to many clients over gRPC connections that the clients opened, and gets their
//! acknowledgements, results and statuses back.
//!
//! The layers, each knowing only those below it:
//!
//! - [`server`], [`client`] and [`ctl`]: gRPC, and the threads at its edge.
//! - `front`: TLS, and bounds on connections, between them and the network.
//! - [`broker`]: who gets which task. Its core is a plain state machine.
//! - [`store`]: the log of tasks and the log of outcomes, on disk.
//! - [`config`], [`logger`], [`log_queue`] and [`print_queue`]: how a program is set, what it logs, and what it prints.
//! - [`task`], [`attachment`], [`task_state`], [`attempts`], [`retry`], [`run`], [`schedule`], [`now`]: the leaf types. [`mailbox`]: how threads and futures hand each other things.
//!   [`latency`]: how long things took. [`wire`], [`codec`]: messages. [`terminal`]: text of others on a terminal.
//!   [`manual`]: completions and man pages of the programs.
//!
//! Each of the first three is a cargo feature. A program of one's own that takes tasks needs `client` alone, and builds
//! no database, no HTTP and no terminal:
//!
//! ```toml
//! contact = { version = "0.1", default-features = false, features = ["client"] }
//! ```

pub mod attachment;
#[cfg(feature = "server")]
pub mod attempts;
#[cfg(any(feature = "client", feature = "server"))]
#[cfg_attr(not(feature = "client"), allow(dead_code, unreachable_pub, reason = "servers need a part of it"))]
mod backoff;
#[cfg(feature = "server")]
pub mod broker;
#[cfg(feature = "client")]
pub mod client;
pub mod codec;
#[cfg(feature = "cli")]
pub mod config;
#[cfg(feature = "ctl")]
pub mod ctl;
#[cfg(feature = "front")]
#[cfg_attr(
    not(all(feature = "client", feature = "server", feature = "ctl")),
    allow(dead_code, unreachable_pub, unused_imports, reason = "each part needs one side of it")
)]
mod front;
#[cfg(all(test, feature = "server"))]
mod fuzz;
pub mod group_limits;
pub mod labels;
#[cfg(feature = "server")]
pub mod latency;
#[cfg(feature = "door")]
mod log_limit;
pub mod log_queue;
#[cfg(feature = "cli")]
pub mod logger;
#[cfg(feature = "server")]
pub mod mailbox;
#[cfg(feature = "cli")]
pub mod manual;
#[cfg(any(feature = "cli", feature = "server"))]
mod nearest;
#[cfg(feature = "server")]
pub mod now;
#[cfg(feature = "cli")]
pub mod print_queue;
#[cfg(any(feature = "client", feature = "server", feature = "ctl"))]
mod private_file;
#[cfg(any(feature = "client", feature = "ctl"))]
mod probe;
#[cfg_attr(
    not(all(feature = "client", feature = "server")),
    allow(dead_code, reason = "one side gives them, the other reads them")
)]
mod reason;
pub mod retry;
#[cfg(any(feature = "client", feature = "ctl", feature = "server"))]
#[cfg_attr(not(feature = "client"), allow(dead_code, reason = "operators and servers need a part of it"))]
mod rpc_status;
pub mod run;
#[cfg(feature = "server")]
pub mod schedule;
#[cfg_attr(
    not(any(feature = "client", feature = "ctl", feature = "server")),
    allow(dead_code, reason = "each of these reads tokens")
)]
mod secret;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod store;
#[cfg(any(feature = "client", feature = "ctl", feature = "server"))]
#[cfg_attr(not(feature = "client"), allow(dead_code, reason = "operators and servers need a part of it"))]
mod target;
pub mod task;
pub mod task_state;
pub mod terminal;
pub mod wire;
