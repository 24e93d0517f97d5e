//! What a stranger, or a client that was let in, may try, and what others notice of it: one module for each area.

#[cfg(target_os = "linux")]
mod bounds;
#[cfg(target_os = "linux")]
mod bystander;
#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod certificates;
#[cfg(target_os = "linux")]
mod door;
#[cfg(target_os = "linux")]
mod files;
mod http;
#[cfg(target_os = "linux")]
mod https;
mod limits;
mod receipts;
#[cfg(target_os = "linux")]
mod roles;
