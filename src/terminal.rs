//! Text of others on a terminal: spelled out where it could steer it, hide in it, or turn it around.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text in one line, with every character that is [hidden](is_hidden) spelled out as Rust does: `\n`, `\u{1b}`.
pub fn escape(text: &str) -> Cow<'_, str> {
    spelled_out(text, |c, to| to.extend(c.escape_default()))
}

/// The same for a line of JSON, where such characters are in strings only: `\u001b`. To a reader of JSON nothing changes.
pub fn escape_json(line: &str) -> Cow<'_, str> {
    spelled_out(line, |c, to| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(to, "\\u{unit:04x}");
        }
    })
}

/// A path, or a name, as a shell takes it.
#[cfg(any(feature = "ctl", feature = "server"))]
pub(crate) fn quote(path: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if path.chars().all(plain) && !path.starts_with('-') {
        return path.to_owned();
    }
    let path = if path.starts_with('-') { format!("./{path}") } else { path.to_owned() };
    format!("'{}'", path.replace('\'', r"'\''"))
}

/// Prints what clap says of a command line, which repeats parts of it: if it has [hidden](is_hidden) characters, spelled out and
/// without colours.
#[cfg(feature = "cli")]
pub fn print_usage(error: &clap::Error) {
    let plain = error.render().to_string();
    let is_steered = |text: &str| text.replace('\n', "").contains(is_hidden);
    if is_steered(&plain) || std::env::args_os().any(|arg| is_steered(&arg.to_string_lossy())) {
        plain.split('\n').for_each(|line| eprintln!("{}", escape(line)));
    } else {
        let _ = error.print();
    }
}

fn spelled_out(text: &str, spell: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) { spell(c, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Whether a character is a control (C0, C1, DEL, line ends), has no width, or turns the direction of the text around it.
///
/// Beside the controls these are what Unicode lists as ignorable by default, its line ends, and the marks of interlinear text. The
/// selectors U+FE00 to U+FE0F are shown: usual text chooses with them between ❤ and ❤️, or between forms of a 漢字.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_steers_hides_or_turns_is_spelled_out_and_what_people_write_is_not() {
        assert_eq!(escape("a\tb\u{1b}[2J\r\n\u{202e}c"), "a\\tb\\u{1b}[2J\\r\\n\\u{202e}c");
        for hidden in
            "\u{7f}\u{85}\u{9b}\u{9d}\u{ad}\u{61c}\u{200b}\u{200d}\u{200f}\u{2028}\u{2060}\u{2066}\u{feff}\u{e0041}"
                .chars()
        {
            assert_eq!(escape(&format!("a{hidden}b")), format!("a\\u{{{:x}}}b", u32::from(hidden)));
        }
        for shown in ["任务:1 é 🎉", "❤\u{fe0f}", "e\u{301}", "שלום", "a b", "\u{3000}"] {
            assert!(matches!(escape(shown), Cow::Borrowed(_)), "{shown}");
        }
    }

    #[test]
    fn json_is_the_same_to_its_reader() {
        let text = "a\u{9b}31m\u{202e}\u{7f}\u{e0041}\"\\任务\n";
        let line = serde_json::to_string(text).unwrap();
        let escaped = escape_json(&line);
        assert!(!escaped.contains(is_hidden), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
    }
}
