//! Contact pushes tasks to many clients over gRPC connections the clients opened.
pub mod client;
pub mod codec;
pub mod task;
pub mod wire;
