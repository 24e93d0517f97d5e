//! A file of settings: what stands in a program's table, and where.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{LIMITS, TABLES};
use crate::nearest::nearest;

/// A place in a file, both counted from 1; columns are characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    path: PathBuf,
    line: usize,
    column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}

/// What a key stands for. Several texts: an array.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) texts: Vec<OsString>,
    pub(super) place: Place,
}

/// What is wrong at a place.
pub(super) type Problem = (Place, String);

/// The entries of a table, and all that is wrong with the file. The content of other programs' tables is not looked at.
pub(super) fn read(path: &Path, table: &str, keys: &[&str]) -> io::Result<(Vec<Entry>, Vec<Problem>)> {
    let text = fs::read_to_string(path)?;
    let mut reading = Reading { path, text: &text, entries: Vec::new(), problems: Vec::new() };
    match DeTable::parse(&text) {
        Ok(root) => reading.root(root.get_ref(), table, keys),
        Err(e) => reading.problem(e.span().unwrap_or_default(), e.message()),
    }
    Ok((reading.entries, reading.problems))
}

struct Reading<'a> {
    path: &'a Path,
    text: &'a str,
    entries: Vec<Entry>,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn root(&mut self, root: &DeTable<'_>, table: &str, keys: &[&str]) {
        let prefix = LIMITS.1;
        let limits: Vec<&str> = keys.iter().filter_map(|key| key.strip_prefix(prefix)).collect();
        let keys: Vec<&str> = keys.iter().filter(|key| !key.starts_with(prefix)).copied().collect();
        let keys = keys.as_slice();
        for (name, value) in root {
            let (at, name) = (name.span(), name.get_ref().as_ref());
            match value.get_ref() {
                DeValue::Table(content) if name == table => self.table(content, keys, ""),
                DeValue::Table(content) if name == LIMITS.0 && !limits.is_empty() => {
                    self.table(content, &limits, prefix);
                }
                DeValue::Table(_) if TABLES.contains(&name) => {}
                DeValue::Table(_) => self.unknown(at, "table", name, &TABLES),
                _ if keys.contains(&name) => {
                    self.problem(at, format!("\"{name}\" must stand in a table: write [{table}] above it"));
                }
                _ => self.unknown(at, "key", name, keys),
            }
        }
    }

    /// `prefix`: what the keys of this table have before them elsewhere.
    fn table(&mut self, content: &DeTable<'_>, keys: &[&str], prefix: &str) {
        for (key, value) in content {
            let (at, key) = (key.span(), key.get_ref().as_ref());
            if !keys.contains(&key) {
                self.unknown(at, "key", key, keys);
                continue;
            }
            match texts(value) {
                Some(texts) => {
                    let place = self.place(value.span());
                    self.entries.push(Entry { key: format!("{prefix}{key}"), texts, place });
                }
                None => self.problem(value.span(), format!("{key} must be a text, a number, or true or false")),
            }
        }
    }

    fn unknown(&mut self, at: Range<usize>, kind: &str, name: &str, known: &[&str]) {
        let hint = match nearest(name, known.iter().copied()) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => {
                let mut known = known.to_vec();
                known.sort_unstable();
                format!("there are {}", known.join(", "))
            }
        };
        self.problem(at, format!("unknown {kind} \"{name}\"; {hint}"));
    }

    fn problem(&mut self, at: Range<usize>, what: impl Into<String>) {
        let place = self.place(at);
        self.problems.push((place, what.into()));
    }

    fn place(&self, at: Range<usize>) -> Place {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let (line, column) =
            (before.matches('\n').count() + 1, before.rsplit('\n').next().unwrap_or("").chars().count() + 1);
        Place { path: self.path.into(), line, column }
    }
}

/// As it would stand on a command line.
fn texts(value: &Spanned<DeValue<'_>>) -> Option<Vec<OsString>> {
    match value.get_ref() {
        DeValue::Array(items) => items.iter().map(|item| text(item.get_ref()).map(Into::into)).collect(),
        one => Some(vec![text(one)?.into()]),
    }
}

fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(on) => Some(on.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Integer(number) => {
            let small = i64::from_str_radix(number.as_str(), number.radix());
            Some(small.map_or_else(|_| number.as_str().to_owned(), |small| small.to_string()))
        }
        _ => None,
    }
}
