//! Words of messages: counted nouns, and names as a shell takes them.

pub(super) use crate::terminal::quote;

/// "1 task", "2 tasks".
pub(super) fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
