//! Words of messages: counted nouns, and names as a shell takes them.

/// "1 task", "2 tasks".
pub(super) fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// A path, or a name, as a shell takes it.
pub(super) fn quote(path: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if path.chars().all(plain) && !path.starts_with('-') {
        return path.to_owned();
    }
    let path = if path.starts_with('-') { format!("./{path}") } else { path.to_owned() };
    format!("'{}'", path.replace('\'', r"'\''"))
}
