//! The generated messages, client stubs and service traits of `proto/`.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, rustdoc::bare_urls)]

include!(concat!(env!("OUT_DIR"), "/wire/mod.rs"));
