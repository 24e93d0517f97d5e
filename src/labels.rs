//! What clients say that they are, and what tasks say for whom they are: labels, and selectors of labels in the syntax of Kubernetes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::task::is_unseen;

/// Most labels of a client.
pub const MOST_LABELS: usize = 32;
/// The longest key or value of a label, in bytes of UTF-8: what Kubernetes allows.
pub const LONGEST_LABEL: usize = 63;
/// The longest selector, in bytes of UTF-8.
pub const LONGEST_SELECTOR: usize = 1024;
/// Most keys and values of a selector together: each takes some fifty bytes of memory beside its text.
pub const MOST_WORDS: usize = 128;

/// What a client is, by keys: `os=linux,role=web`. By key, each once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Labels(Vec<(String, String)>);

/// What is wrong with labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A key is empty.
    #[error("a label is KEY=VALUE, and the key is missing before {}", shown(.0))]
    NoKey(String),
    /// A key or a value is too long.
    #[error("a key and a value have {max} bytes of UTF-8 at most, and {} has {}", shown(.0), .0.len(), max = LONGEST_LABEL)]
    Length(String),
    /// A key or a value has a character that none may have.
    #[error(
        "a label has letters and digits of any script, and - _ . / : @ + after the first character of a key; {} has {}",
        shown(.0),
        spelt(.1)
    )]
    Character(String, char),
    /// A key is there twice.
    #[error("{} is said twice", shown(.0))]
    Twice(String),
    /// There are too many.
    #[error("there are {max} labels at most", max = MOST_LABELS)]
    TooMany,
}

/// The beginning of a text of any length, as an error shows it.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(24).collect::<String>())
}

/// A character that may be one that nobody sees.
fn spelt(c: &char) -> String {
    let is_shown = c.is_ascii_graphic() || *c == ' ';
    if is_shown { format!("{c:?}") } else { format!("U+{:04X}", u32::from(*c)) }
}

/// Whether it may stand in a key or a value. What selectors have a meaning for may not, nor what nobody sees.
fn is_plain(c: char) -> bool {
    matches!(c, '-' | '_' | '.' | '/' | ':' | '@' | '+')
        || c.is_ascii_alphanumeric()
        || (!c.is_ascii() && c.is_alphanumeric() && !is_unseen(c))
}

fn check(text: &str, is_key: bool) -> Result<(), LabelError> {
    if is_key && text.is_empty() {
        return Err(LabelError::NoKey(String::new()));
    }
    if let Some(other) = text.chars().find(|c| !is_plain(*c)) {
        return Err(LabelError::Character(text.chars().take(LONGEST_LABEL).collect(), other));
    }
    if text.len() > LONGEST_LABEL {
        return Err(LabelError::Length(text.into()));
    }
    match text.chars().next().filter(|first| is_key && !first.is_alphanumeric()) {
        Some(first) => Err(LabelError::Character(text.into(), first)),
        None => Ok(()),
    }
}

impl Labels {
    /// Adds a label: `KEY=VALUE`, `KEY=` or `KEY`. Blanks around it do not count.
    pub fn add(&mut self, text: &str) -> Result<(), LabelError> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() {
            return Err(LabelError::NoKey(text.trim().chars().take(LONGEST_LABEL).collect()));
        }
        check(key, true)?;
        check(value, false)?;
        match self.0.binary_search_by(|(there, _)| there.as_str().cmp(key)) {
            Ok(_) => Err(LabelError::Twice(key.into())),
            Err(_) if self.0.len() == MOST_LABELS => Err(LabelError::TooMany),
            Err(at) => {
                self.0.insert(at, (key.into(), value.into()));
                Ok(())
            }
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(there, _)| there.as_str().cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each key with its value, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The same without its own of those keys, and with these. What is too many is left out, of its own first.
    #[must_use]
    pub fn overridden(mut self, by: &Labels, is_bound: impl Fn(&str) -> bool) -> Labels {
        self.0.retain(|(key, _)| by.get(key).is_none() && !is_bound(key));
        self.0.truncate(MOST_LABELS.saturating_sub(by.0.len()));
        self.0.extend(by.0.iter().cloned());
        self.0.sort_unstable();
        self
    }
}

impl From<Labels> for String {
    fn from(labels: Labels) -> String {
        labels.to_string()
    }
}

impl TryFrom<String> for Labels {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Labels, LabelError> {
        text.parse()
    }
}

/// As it is written: `os=linux,role=web`. Empty: there is none.
impl FromStr for Labels {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Labels, LabelError> {
        let mut labels = Labels::default();
        if !text.trim().is_empty() {
            text.split(',').try_for_each(|label| labels.add(label))?;
        }
        Ok(labels)
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

/// Which labels somebody must have: requirements, of which all must be met. `os=linux,role in (web,api),!canary`.
///
/// One that names a value (`=`, `==`, `in`) is not met where there is no such key; `!=` and `notin` are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Requirement {
    key: String,
    wants: Wants,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Wants {
    /// One of these values. Never empty.
    In(Vec<String>),
    /// Another value, or none.
    NotIn(Vec<String>),
    Exists,
    Missing,
}

impl Requirement {
    fn is_met(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let is_one = |values: &[String]| value.is_some_and(|value| values.iter().any(|one| one == value));
        match &self.wants {
            Wants::In(values) => is_one(values),
            Wants::NotIn(values) => !is_one(values),
            Wants::Exists => value.is_some(),
            Wants::Missing => value.is_none(),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.wants {
            Wants::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
            Wants::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0]),
            Wants::In(values) => write!(f, "{key} in ({})", values.join(",")),
            Wants::NotIn(values) => write!(f, "{key} notin ({})", values.join(",")),
            Wants::Exists => write!(f, "{key}"),
            Wants::Missing => write!(f, "!{key}"),
        }
    }
}

impl Selector {
    /// Whether these labels are wanted.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|wanted| wanted.is_met(labels))
    }

    /// About what it takes in memory, in bytes.
    pub fn size(&self) -> usize {
        let values = |wanted: &Requirement| match &wanted.wants {
            Wants::In(values) | Wants::NotIn(values) => values.iter().map(|value| value.len() + 24).sum(),
            Wants::Exists | Wants::Missing => 0,
        };
        self.0.iter().map(|wanted| wanted.key.len() + size_of::<Requirement>() + values(wanted)).sum()
    }

    /// Why these labels are not wanted, in a line: the first requirement that is not met, and what there is.
    pub fn why_not(&self, labels: &Labels) -> Option<String> {
        let unmet = self.0.iter().find(|wanted| !wanted.is_met(labels))?;
        let key = &unmet.key;
        Some(match labels.get(key) {
            Some("") => format!("{unmet}: {key} is there, without a value"),
            Some(value) => format!("{unmet}: {key} is {value}"),
            None => format!("{unmet}: there is no {key}"),
        })
    }
}

/// In one way, whatever blanks and operators it was written with.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, wanted) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{wanted}")?;
        }
        Ok(())
    }
}

/// What is wrong with a selector, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {problem}")]
pub struct SelectorError {
    /// The character of the text, from 1. One more than there are: at its end.
    pub at: usize,
    /// What is wrong there.
    pub problem: String,
}

/// A piece of a selector, and where it begins, in bytes.
type Token<'t> = (usize, &'t str);

/// The pieces of a selector: words, and the signs between them.
fn tokens(text: &str) -> impl Iterator<Item = Token<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        let first = rest.chars().next()?;
        let length = match first {
            _ if rest.starts_with("==") || rest.starts_with("!=") => 2,
            first if is_plain(first) => rest.find(|c| !is_plain(c)).unwrap_or(rest.len()),
            other => other.len_utf8(),
        };
        let token = (at, &rest[..length]);
        at += length;
        Some(token)
    })
}

struct Parser<'t, I: Iterator<Item = Token<'t>>> {
    text: &'t str,
    tokens: std::iter::Peekable<I>,
    /// Keys and values so far.
    words: usize,
}

impl<'t, I: Iterator<Item = Token<'t>>> Parser<'t, I> {
    /// The next piece is not what is to stand there.
    fn wrong<T>(&mut self, wanted: &str) -> Result<T, SelectorError> {
        let (at, found) = self.tokens.peek().copied().unwrap_or((self.text.len(), ""));
        let found = if found.is_empty() { "the selector ends".into() } else { format!("there is {}", shown(found)) };
        Err(self.problem(at, format!("{found} where {wanted} should be")))
    }

    fn problem(&self, at: usize, problem: String) -> SelectorError {
        SelectorError { at: self.text[..at].chars().count() + 1, problem }
    }

    /// Takes the next piece, if it is this one.
    fn takes(&mut self, sign: &str) -> bool {
        self.tokens.next_if(|(_, token)| *token == sign).is_some()
    }

    /// A key, or a value.
    fn word(&mut self, is_key: bool) -> Result<String, SelectorError> {
        let is_word = |token: &Token<'_>| token.1.chars().all(is_plain);
        let Some((at, word)) = self.tokens.next_if(is_word) else {
            return self.wrong(if is_key { "a key" } else { "a value" });
        };
        check(word, is_key).map_err(|error| self.problem(at, error.to_string()))?;
        self.words += 1;
        if self.words > MOST_WORDS {
            return Err(self.problem(at, format!("a selector has {MOST_WORDS} keys and values at most")));
        }
        Ok(word.into())
    }

    /// A value behind a sign of equality: there may be none.
    fn value(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.tokens.peek() {
            None | Some((_, ",")) => Ok(vec![String::new()]),
            Some(_) => Ok(vec![self.word(false)?]),
        }
    }

    /// Values in brackets.
    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        if !self.takes("(") {
            return self.wrong("\"(\"");
        }
        let mut values = Vec::new();
        loop {
            // `in (a,)` asks for a or for the empty value, as in Kubernetes; `in ()` for nothing.
            let is_empty = matches!(self.tokens.peek(), Some((_, ",")))
                || (!values.is_empty() && matches!(self.tokens.peek(), Some((_, ")"))));
            let value = if is_empty { String::new() } else { self.word(false)? };
            if !values.contains(&value) {
                values.push(value);
            }
            if self.takes(")") {
                return Ok(values);
            }
            if !self.takes(",") {
                return self.wrong("\",\" or \")\"");
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.takes("!") {
            return Ok(Requirement { key: self.word(true)?, wants: Wants::Missing });
        }
        let key = self.word(true)?;
        let wants = match self.tokens.peek().map(|(_, token)| *token) {
            None | Some(",") => Wants::Exists,
            Some("=" | "==") => {
                self.tokens.next();
                Wants::In(self.value()?)
            }
            Some("!=") => {
                self.tokens.next();
                Wants::NotIn(self.value()?)
            }
            Some("in") => {
                self.tokens.next();
                Wants::In(self.values()?)
            }
            Some("notin") => {
                self.tokens.next();
                Wants::NotIn(self.values()?)
            }
            Some(_) => return self.wrong("=, ==, !=, in, notin or \",\""),
        };
        Ok(Requirement { key, wants })
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Selector, SelectorError> {
        if text.len() > LONGEST_SELECTOR {
            let at = text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= LONGEST_SELECTOR).count() + 1;
            let problem = format!("a selector has {LONGEST_SELECTOR} bytes at most, and this one has {}", text.len());
            return Err(SelectorError { at, problem });
        }
        let mut parser = Parser { text, tokens: tokens(text).peekable(), words: 0 };
        let mut requirements = vec![parser.requirement()?];
        while parser.takes(",") {
            requirements.push(parser.requirement()?);
        }
        match parser.tokens.peek() {
            None => Ok(Selector(requirements)),
            Some(_) => parser.wrong("\",\""),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn labels(text: &str) -> Labels {
        text.parse().unwrap()
    }

    fn selector(text: &str) -> Selector {
        text.parse().unwrap()
    }

    #[test]
    fn labels_are_keys_with_values_by_key_and_each_once() {
        assert_eq!(labels(" zone=eu , os=linux,canary,empty=").to_string(), "canary=,empty=,os=linux,zone=eu");
        assert_eq!(labels("").to_string(), "");
        assert_eq!(
            labels("app.kubernetes.io/name=contact:1.0+b@c").get("app.kubernetes.io/name"),
            Some("contact:1.0+b@c")
        );
        assert_eq!(labels("角色=工人").get("角色"), Some("工人"));
        let long = "x".repeat(LONGEST_LABEL + 1);
        for (wrong, part) in [
            ("=linux".to_owned(), "the key is missing"),
            ("os=linux,".into(), "the key is missing"),
            ("os=linux,os=mac".into(), "\"os\" is said twice"),
            ("a b=c".into(), "' '"),
            ("a=b=c".into(), "'='"),
            ("a=(b)".into(), "'('"),
            ("-a=b".into(), "'-'"),
            ("a=b\u{200b}".into(), "U+200B"),
            ("a=\u{3164}".into(), "U+3164"),
            (format!("{long}=a"), "63 bytes"),
            (format!("a={long}"), "63 bytes"),
        ] {
            let error = wrong.parse::<Labels>().unwrap_err().to_string();
            assert!(error.contains(part), "{wrong}: {error}");
        }
        let many = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        assert_eq!(labels(&many(MOST_LABELS)).iter().count(), MOST_LABELS);
        assert_eq!(many(MOST_LABELS + 1).parse::<Labels>(), Err(LabelError::TooMany));
        assert_eq!(labels(&format!("{0}={0}", &long[1..])).iter().count(), 1);
    }

    #[test]
    fn labels_that_are_given_go_before_those_that_are_said() {
        let given = labels("role=web,zone=eu");
        assert_eq!(
            labels("os=linux,role=db,env=a").overridden(&given, |key| key == "env"),
            labels("os=linux,role=web,zone=eu")
        );
        let many = labels(&(0..MOST_LABELS).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(","));
        let both = many.overridden(&given, |_| false);
        assert_eq!((both.iter().count(), both.get("role")), (MOST_LABELS, Some("web")));
        assert_eq!(both.to_string().parse(), Ok(both));
    }

    #[test]
    fn a_selector_wants_what_it_says_as_in_kubernetes() {
        let web = labels("os=linux,role=web,empty=,in=notin");
        for (text, matches) in [
            ("os=linux", true),
            ("os==linux", true),
            (" os = linux ", true),
            ("os=mac", false),
            ("os!=mac", true),
            ("os != linux", false),
            ("gpu!=a", true),
            ("gpu=a", false),
            ("role in (web,api)", true),
            ("role in(db, api )", false),
            ("gpu in (a)", false),
            ("role notin (db)", true),
            ("role notin (db,web)", false),
            ("gpu notin (a,b)", true),
            ("role", true),
            ("gpu", false),
            ("!gpu", true),
            ("! role", false),
            ("empty=", true),
            ("empty", true),
            ("os=", false),
            ("empty in (a,)", true),
            ("empty in (,a)", true),
            ("os in (a,)", false),
            ("in=notin,in in (notin),notin notin (in)", true),
            ("os=linux,role in (web,api),!canary", true),
            ("os=linux,role in (web,api),!empty", false),
        ] {
            assert_eq!(selector(text).matches(&web), matches, "{text}");
            assert_eq!(selector(text).why_not(&web).is_none(), matches, "{text}");
        }
    }

    #[test]
    fn a_selector_says_why_somebody_is_not_wanted() {
        let web = labels("os=linux,role=web,canary=");
        let why = |text: &str| selector(text).why_not(&web).unwrap();
        assert_eq!(why("os=linux,role in (db,api)"), "role in (db,api): role is web");
        assert_eq!(why("gpu == a"), "gpu=a: there is no gpu");
        assert_eq!(why("!canary"), "!canary: canary is there, without a value");
    }

    #[test]
    fn a_selector_that_makes_no_sense_is_refused_with_the_place() {
        let long = "x".repeat(LONGEST_LABEL + 1);
        for (text, at, part) in [
            ("".to_owned(), 1, "the selector ends where a key"),
            ("  ".into(), 3, "a key"),
            ("os=linux,".into(), 10, "a key"),
            (",os".into(), 1, "there is \",\" where a key"),
            ("os linux".into(), 4, "there is \"linux\" where ="),
            ("os=linux role=web".into(), 10, "there is \"role\" where \",\""),
            ("os==linux=web".into(), 10, "there is \"=\" where \",\""),
            ("角色 in 工".into(), 7, "there is \"工\" where \"(\""),
            ("role in ()".into(), 10, "there is \")\" where a value"),
            ("role in (web".into(), 13, "the selector ends where \",\" or \")\""),
            ("role in (web api)".into(), 14, "there is \"api\" where"),
            ("role in (web))".into(), 14, "there is \")\" where \",\""),
            ("!".into(), 2, "a key"),
            ("!!os".into(), 2, "there is \"!\" where a key"),
            ("a>1".into(), 2, "there is \">\" where ="),
            ("-a=b".into(), 1, "'-'"),
            (format!("os={long}"), 4, "63 bytes"),
            ("a,".repeat(MOST_WORDS) + "b", 2 * MOST_WORDS + 1, "128 keys"),
            ("a,".repeat(LONGEST_SELECTOR), LONGEST_SELECTOR + 1, "1024 bytes"),
        ] {
            let error = text.parse::<Selector>().unwrap_err();
            assert_eq!(error.at, at, "{text}: {error}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    #[cfg(feature = "server")]
    #[test]
    fn any_text_of_labels_and_selectors_is_read_or_refused_and_means_the_same_when_it_is_written() {
        const VALID: &[&str] = &[
            "os=linux,role in (web,api),!canary",
            "a==b,c!=d,e notin (f,,g),h,i=",
            "角色 in (工人, 工头),!区",
            "os=linux,role=web,zone=eu",
            "in in (in),notin notin (notin)",
        ];
        crate::fuzz::any_text(VALID, 128 * 1024, |text| {
            let some = labels("os=linux,role=web,canary=,in=in");
            match text.parse::<Selector>() {
                Ok(read) => {
                    let again = selector(&read.to_string());
                    assert_eq!(again, read);
                    assert_eq!(read.why_not(&some).is_none(), read.matches(&some));
                }
                Err(why) => {
                    assert!(why.to_string().len() <= 1024, "{why}");
                    assert!((1..=text.chars().count() + 1).contains(&why.at), "{why}");
                }
            }
            match text.parse::<Labels>() {
                Ok(read) => {
                    assert!(read.iter().count() <= MOST_LABELS);
                    assert_eq!(read.to_string().parse(), Ok(read));
                }
                Err(why) => assert!(why.to_string().len() <= 1024, "{why}"),
            }
        });
    }
}
