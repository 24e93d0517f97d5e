//! Contact pushes tasks from a server to many clients over gRPC connections that the clients opened, and gets their
//! acknowledgements, results and statuses back.
//!
//! The layers, each knowing only those below it:
//!
//! - [`server`], [`client`] and [`ctl`]: gRPC, and the threads at its edge.
//! - [`broker`]: who gets which task. Its core is a plain state machine.
//! - [`store`]: the log of tasks and the log of outcomes, on disk.
//! - [`config`] and [`logger`]: how a program is set, and what it logs.
//! - [`task`], [`task_state`]: the leaf types. [`mailbox`]: how threads and futures hand each other things. [`latency`]: how long things took.
//!   [`wire`], [`codec`]: messages. [`manual`]: completions and man pages of the programs.

pub mod broker;
pub mod client;
pub mod codec;
pub mod config;
pub mod ctl;
pub mod latency;
pub mod logger;
pub mod mailbox;
pub mod manual;
pub mod server;
pub mod store;
pub mod task;
pub mod task_state;
pub mod wire;
