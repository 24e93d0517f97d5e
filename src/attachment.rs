//! What a task or a result carries beside its text: headers, and bytes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most headers of a task or a result.
pub const MOST_HEADERS: usize = 32;
/// The longest key of a header, in bytes.
pub const LONGEST_KEY: usize = 64;
/// The longest value of a header, in bytes.
pub const LONGEST_VALUE: usize = 1024;
/// Most bytes of keys and values of all headers together.
pub const LONGEST_HEADERS: usize = 4096;
/// The header that says what the data is.
pub const CONTENT_TYPE: &str = "content-type";

/// Headers that say how a task was submitted, not what is to be done: the context of a trace (W3C Trace Context, W3C Baggage).
const OF_TRACES: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// What a header takes in memory beside its key and its value: two strings in a map.
const AROUND: usize = 64;

/// Why headers are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// There are more than [`MOST_HEADERS`].
    #[error("there are {0} headers, and may be {MOST_HEADERS} at most")]
    TooMany(usize),
    /// A key is empty, or longer than [`LONGEST_KEY`].
    #[error("the key of a header is 1 to {LONGEST_KEY} bytes long, and one has {0}")]
    KeyLength(usize),
    /// A key has a character that is none of those that it may have.
    #[error("the key of a header is of a-z, 0-9, '-', '_' and '.', and {0:?} is not")]
    Key(String),
    /// The value of this key is longer than [`LONGEST_VALUE`].
    #[error(
        "the value of a header has {LONGEST_VALUE} bytes at most, and that of {0} has {1}: put what is longer into the data"
    )]
    ValueLength(String, usize),
    /// The value of this key has a control character.
    #[error("the value of a header has no control characters, and that of {0} has U+{code:04X}: put such bytes into the data", code = u32::from(*.1))]
    Control(String, char),
    /// Keys and values are longer than [`LONGEST_HEADERS`] together.
    #[error(
        "headers have {LONGEST_HEADERS} bytes at most, keys and values of all together, and these have {0}: put what is longer into the data"
    )]
    TooLong(usize),
}

/// Headers of a task or a result: values by keys, within the bounds of this module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Headers(BTreeMap<String, String>);

/// What those have that have none.
static NONE: Headers = Headers(BTreeMap::new());

impl Headers {
    /// Checks them. Of two with one key, the last counts.
    pub fn new<K, V>(headers: impl IntoIterator<Item = (K, V)>) -> Result<Headers, HeaderError>
    where
        K: Into<String>,
        V: Into<String>,
    {
        headers.into_iter().map(|(key, value)| (key.into(), value.into())).collect::<BTreeMap<_, _>>().try_into()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// What the data is, as its sender says. It is a claim: nothing is checked.
    pub fn content_type(&self) -> Option<&str> {
        self.get(CONTENT_TYPE)
    }

    /// All of them, by their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// All of them, as messages have them.
    pub fn to_map(&self) -> HashMap<String, String> {
        self.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// About what they take in memory, and more than on the wire, in bytes.
    fn bytes(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.len() + AROUND).sum()
    }
}

impl TryFrom<BTreeMap<String, String>> for Headers {
    type Error = HeaderError;

    fn try_from(headers: BTreeMap<String, String>) -> Result<Headers, HeaderError> {
        if headers.len() > MOST_HEADERS {
            return Err(HeaderError::TooMany(headers.len()));
        }
        headers.iter().try_for_each(|(key, value)| check(key, value))?;
        match headers.iter().map(|(key, value)| key.len() + value.len()).sum() {
            all if all > LONGEST_HEADERS => Err(HeaderError::TooLong(all)),
            _ => Ok(Headers(headers)),
        }
    }
}

fn check(key: &str, value: &str) -> Result<(), HeaderError> {
    if key.is_empty() || key.len() > LONGEST_KEY {
        return Err(HeaderError::KeyLength(key.len()));
    }
    if !key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')) {
        return Err(HeaderError::Key(key.to_owned()));
    }
    if value.len() > LONGEST_VALUE {
        return Err(HeaderError::ValueLength(key.to_owned(), value.len()));
    }
    match value.chars().find(|c| c.is_control()) {
        Some(control) => Err(HeaderError::Control(key.to_owned(), control)),
        None => Ok(()),
    }
}

/// Headers and bytes, beside a text. Most texts have neither: that costs a pointer. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Attachment(Option<Arc<Parts>>);

#[derive(PartialEq, Eq)]
struct Parts {
    headers: Headers,
    data: Vec<u8>,
}

impl Attachment {
    /// These.
    pub fn new(headers: Headers, data: Vec<u8>) -> Attachment {
        let is_nothing = headers.is_empty() && data.is_empty();
        Attachment((!is_nothing).then(|| Arc::new(Parts { headers, data })))
    }

    /// The headers, which may be none.
    pub fn headers(&self) -> &Headers {
        self.0.as_ref().map_or(&NONE, |parts| &parts.headers)
    }

    /// The bytes, which may be none.
    pub fn data(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |parts| &parts.data)
    }

    /// Whether both ask for the same: they may be of different traces.
    pub fn asks_for_the_same(&self, other: &Attachment) -> bool {
        fn asked(of: &Attachment) -> impl Iterator<Item = (&str, &str)> {
            of.headers().iter().filter(|(key, _)| !OF_TRACES.contains(key))
        }
        self.data() == other.data() && asked(self).eq(asked(other))
    }

    /// Whether there is neither.
    pub fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    /// What it counts for, in bytes: its data, and about what its headers take in memory, which is more than on the wire.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |parts| parts.headers.bytes() + parts.data.len())
    }
}

/// Without the bytes themselves: there may be a megabyte of them.
impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} and {} bytes", self.headers().0, self.data().len())
    }
}

/// As it stands in JSON: the bytes in base64.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Headers::is_empty")]
    headers: Headers,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    data: String,
}

impl Serialize for Attachment {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Written { headers: self.headers().clone(), data: to_base64(self.data()) }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Attachment {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Attachment, D::Error> {
        let Written { headers, data } = Written::deserialize(from)?;
        let data = from_base64(&data).ok_or_else(|| serde::de::Error::custom("the data is not in base64"))?;
        Ok(Attachment::new(headers, data))
    }
}

/// Bytes as they stand in JSON: in base64 of RFC 4648, with padding.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}

/// What [`to_base64`] was given.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    data_encoding::BASE64.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn numbered(count: usize, value: &str) -> Result<Headers, HeaderError> {
        Headers::new((0..count).map(|n| (format!("k{n:02}"), value)))
    }

    #[test]
    fn headers_are_taken_up_to_each_bound_and_refused_beyond_it_with_what_is_wrong() {
        assert_eq!(numbered(MOST_HEADERS, "v").unwrap().iter().len(), MOST_HEADERS);
        assert_eq!(numbered(MOST_HEADERS + 1, "v"), Err(HeaderError::TooMany(33)));
        let one = |key: &str, value: &str| Headers::new([(key, value)]);
        assert!(one(&"k".repeat(LONGEST_KEY), "").is_ok());
        assert_eq!(one(&"k".repeat(LONGEST_KEY + 1), ""), Err(HeaderError::KeyLength(65)));
        assert_eq!(one("", "v"), Err(HeaderError::KeyLength(0)));
        assert!(one("content-type", &"工".repeat(LONGEST_VALUE / 3)).is_ok());
        assert_eq!(one("k", &"工".repeat(342)), Err(HeaderError::ValueLength("k".into(), 1026)));
        // 4 keys of 3 bytes, and values.
        assert!(numbered(4, &"v".repeat(1021)).is_ok());
        assert_eq!(numbered(4, &"v".repeat(1022)), Err(HeaderError::TooLong(4100)));
    }

    #[test]
    fn a_key_is_a_word_in_lower_case_and_a_value_has_no_control_characters() {
        for key in ["content-type", "a", "0", "x_y.z-1"] {
            assert!(Headers::new([(key, "v")]).is_ok(), "{key}");
        }
        for key in ["Content-Type", "a b", "a:b", "a=b", "a/b", "工", "a\n", "a\0"] {
            assert_eq!(Headers::new([(key, "v")]), Err(HeaderError::Key(key.into())));
        }
        for control in ['\0', '\t', '\n', '\r', '\u{1b}', '\u{7f}', '\u{85}', '\u{9b}'] {
            let said = Headers::new([("k", format!("a{control}b"))]);
            assert_eq!(said, Err(HeaderError::Control("k".into(), control)));
            assert!(said.unwrap_err().to_string().contains(&format!("U+{:04X}", u32::from(control))));
        }
        assert!(Headers::new([("k", " 任务; charset=\"utf-8\" ")]).is_ok());
    }

    #[test]
    fn nothing_beside_a_text_costs_a_pointer() {
        assert_eq!(size_of::<Attachment>(), size_of::<usize>());
        let nothing = Attachment::new(Headers::default(), Vec::new());
        assert!(nothing.is_nothing() && nothing == Attachment::default());
        assert_eq!((nothing.bytes(), nothing.headers().iter().len(), nothing.data()), (0, 0, &[][..]));
    }

    #[cfg(feature = "server")]
    #[test]
    fn any_text_is_a_header_or_is_refused_in_a_sentence_and_what_is_written_is_read() {
        crate::fuzz::any_text(&["content-type", "text/plain; charset=utf-8", "x.y_z-1", "工"], 4096, |text| {
            for (key, value) in [(text, "v"), ("k", text), (text, text)] {
                match Headers::new([(key, value)]) {
                    Err(why) => assert!(why.to_string().len() <= 512, "{why}"),
                    Ok(headers) => {
                        let attachment = Attachment::new(headers, text.as_bytes().to_vec());
                        let written = serde_json::to_string(&attachment).unwrap();
                        assert_eq!(serde_json::from_str::<Attachment>(&written).unwrap(), attachment);
                    }
                }
            }
        });
        for wrong in [r#"{"headers":{"K":"v"}}"#, r#"{"data":"*"}"#, r#"{"data":"QQ"}"#, r#"{"body":""}"#] {
            assert!(serde_json::from_str::<Attachment>(wrong).is_err(), "{wrong}");
        }
    }
}
