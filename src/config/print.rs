//! The settings in effect, as a file that has them.

use super::{LIMITS, Origin, Settings, Value, variable};

/// The longest line of a comment, in characters.
const WIDTH: usize = 100;

impl<A> Settings<A> {
    /// As a file for `--config`. Defaults are commented out: a later version may have better ones.
    pub fn to_toml(&self) -> String {
        let example = self.values.iter().map(|value| value.key.as_str()).find(|key| key.contains('-')).unwrap_or("key");
        let mut file = comment(&format!(
            "Settings of {}. Each is also a flag, such as --{example}, and a variable of the environment, such as {}. The flag \
             counts, else the variable, else this file. What is commented out is the default.",
            self.program,
            variable(example),
        ));
        let (limits, others): (Vec<_>, Vec<_>) = self.values.iter().partition(|value| value.key.starts_with(LIMITS.1));
        for (table, values) in [(self.table, others), (LIMITS.0, limits)] {
            if !values.is_empty() {
                file += &format!("\n[{table}]\n");
            }
            for value in values {
                file += "\n";
                file += &comment(&value.help);
                file += &line(value);
            }
        }
        file
    }
}

fn line(value: &Value) -> String {
    let Value { key, origin, wanted, .. } = value;
    let key = key.strip_prefix(LIMITS.1).unwrap_or(key);
    let text = match value.texts.as_slice() {
        [one] if !value.list => quoted(one),
        [] if value.list => return format!("#{key} = [{wanted}]\n"),
        [] => return format!("#{key} = {wanted}\n"),
        several => format!("[{}]", several.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ")),
    };
    match origin {
        Origin::Default => format!("#{key} = {text}\n"),
        _ => format!("{key} = {text} # {origin}\n"),
    }
}

/// Numbers and truth values as such, if they are read back as the same text; else a string.
fn quoted(text: &str) -> String {
    let plain = text.parse::<i64>().is_ok_and(|number| number.to_string() == text) || text == "true" || text == "false";
    if plain { text.to_owned() } else { toml::Value::from(text).to_string() }
}

fn comment(text: &str) -> String {
    let mut lines = String::new();
    for paragraph in text.lines() {
        let mut room = 0;
        for word in paragraph.split_whitespace() {
            let width = word.chars().count() + 1;
            if width > room {
                lines += if lines.is_empty() { "#" } else { "\n#" };
                room = WIDTH;
            }
            lines += " ";
            lines += word;
            room = room.saturating_sub(width);
        }
    }
    lines + "\n"
}
