//! Contact pushes tasks to many clients over gRPC connections the clients opened.
pub mod codec;
pub mod ctl;
pub mod task;
pub mod wire;
