//! Who a client is, from the metadata of its call.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use grpcio::RpcContext;
use percent_encoding::percent_decode;

use super::access::{Access, Caller, Standing};
use super::refusal::Refusal;
use crate::broker::{Join, Reporter, StartAt};
use crate::labels::{LabelError, Labels};
use crate::task::{Name, NameError, NameOf};

/// Most tasks in one message, whatever the client asks for.
const MAX_BATCH: usize = 4096;

/// The metadata of one call, checked.
#[derive(Debug, Clone)]
pub(super) struct Metadata {
    pub(super) join: Join,
    /// Most tasks the client wants in one message; 1: it knows no batches.
    pub(super) batch: usize,
    /// Who it is. `None` only in tests.
    caller: Option<Caller>,
}

impl Metadata {
    /// Whether the client knows messages without a task: one that does not would take it for a task.
    pub(super) fn knows_heartbeats(&self) -> bool {
        self.join.heartbeat.is_some()
    }
}

impl Metadata {
    /// Reads what a client that is known says of itself. What it does not say is taken from its identity, or left open; what makes no sense, and
    /// what it must not say, is refused.
    pub(super) fn read(ctx: &RpcContext<'_>, caller: Caller, access: &Access) -> Result<Metadata, Refusal> {
        Metadata::of(ctx.request_headers(), caller, access)
    }

    /// The same of what came by another way.
    pub(super) fn of(said: &grpcio::Metadata, caller: Caller, access: &Access) -> Result<Metadata, Refusal> {
        let join = Join { peer: caller.peer.clone(), ..Join::default() };
        let mut metadata = Metadata { join, batch: 1, caller: Some(caller) };
        for (key, value) in said.iter() {
            metadata.set(key, value)?;
        }
        if let Some(caller) = &metadata.caller {
            caller.complete(&mut metadata.join, |key| access.binds(key))?;
        }
        Ok(metadata)
    }

    /// What is to be watched while the call is open.
    pub(super) fn standing(&self) -> Standing {
        self.caller.as_ref().map_or_else(Standing::of_nobody, Caller::standing)
    }

    pub(super) fn reporter(self) -> Reporter {
        Reporter { client: self.join.client, group: self.join.group, peer: self.join.peer }
    }

    /// The group whose tasks the client is given, and tells of: the one it names, or else its own, or that of all anonymous clients.
    pub(super) fn group<'a>(&'a self, of_anonymous: Option<&'a Name>) -> Option<&'a Name> {
        self.join.group.as_ref().or(self.join.client.as_ref()).or(of_anonymous)
    }

    /// Who the client is known to be, and not only says; empty where nobody has to be known. A receipt counts only for the identity
    /// that it was given to.
    pub(super) fn identity(&self) -> &str {
        self.caller.as_ref().map_or("", Caller::name)
    }

    /// What the log names the client by.
    pub(super) fn label(&self) -> Arc<str> {
        self.join.client.as_ref().map_or_else(|| self.join.peer.clone(), Name::shared)
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Refusal> {
        let join = &mut self.join;
        match key {
            "contact-client" => join.client = Some(name("contact-client", value)?),
            "contact-instance" => join.instance = Some(instance("contact-instance", value)?),
            "contact-group" => join.group = Some(name("contact-group", value)?),
            "contact-window" => join.window = Some(number("contact-window", value)?),
            "contact-batch" => self.batch = (number::<usize>("contact-batch", value)?).min(MAX_BATCH),
            "contact-revoke" => join.revoke = flag("contact-revoke", value)?,
            "contact-output" => join.output = flag("contact-output", value)?,
            "contact-receipts" => join.receipts = flag("contact-receipts", value)?,
            "contact-drain" => join.stopping = flag("contact-drain", value)?,
            "contact-begins" => join.begins = flag("contact-begins", value)?,
            "contact-max-message" => join.max_message = Some(number("contact-max-message", value)?),
            "contact-heartbeat" => {
                join.heartbeat = Some(Duration::from_secs(number::<u32>("contact-heartbeat", value)?.into()));
            }
            "contact-version" => join.version = Some(name("contact-version", value)?),
            "contact-system" => join.system = Some(name("contact-system", value)?),
            "contact-labels" => join.labels = labels("contact-labels", value)?,
            "contact-from" => {
                let from = std::str::from_utf8(value).ok().and_then(StartAt::of);
                join.from = Some(from.ok_or_else(|| problem("contact-from", "must be \"first\" or \"new\"".into()))?);
            }
            _ => {}
        }
        Ok(())
    }
}

fn problem(key: &'static str, problem: String) -> Refusal {
    Refusal::Metadata { key, problem }
}

fn text<'a>(key: &'static str, value: &'a [u8]) -> Result<&'a str, Refusal> {
    std::str::from_utf8(value).map_err(|_| problem(key, "must be UTF-8".into()))
}

/// A name, percent-encoded where it is not ASCII. A `%` that begins no escape stands for itself: older clients encode nothing.
fn name(key: &'static str, value: &[u8]) -> Result<Name, Refusal> {
    let decoded = percent_decode(value).decode_utf8();
    let name = decoded.map_err(|_| problem(key, "must be UTF-8, percent-encoded as in a URL".into()))?;
    Name::new(NameOf::Metadata, &name).map_err(|e| problem(key, e.to_string()))
}

/// Labels, percent-encoded where they are not ASCII.
fn labels(key: &'static str, value: &[u8]) -> Result<Labels, Refusal> {
    let decoded = percent_decode(value).decode_utf8();
    let labels = decoded.map_err(|_| problem(key, "must be UTF-8, percent-encoded as in a URL".into()))?;
    labels.parse().map_err(|error: LabelError| problem(key, error.to_string()))
}

/// What tells processes apart. Nobody reads it, so it is taken as it comes.
fn instance(key: &'static str, value: &[u8]) -> Result<Name, Refusal> {
    Name::new(NameOf::Key, text(key, value)?)
        .map_err(|e| problem(key, NameError { of: NameOf::Metadata, ..e }.to_string()))
}

/// 1 for yes, 0 for no.
fn flag(key: &'static str, value: &[u8]) -> Result<bool, Refusal> {
    match value {
        b"1" => Ok(true),
        b"0" => Ok(false),
        _ => Err(problem(key, "must be 1 or 0".into())),
    }
}

/// A whole number from 1.
fn number<T: FromStr + PartialOrd + From<u8>>(key: &'static str, value: &[u8]) -> Result<T, Refusal> {
    let text = text(key, value)?;
    let number = text.trim().parse().ok().filter(|number| *number >= T::from(1));
    number.ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        problem(key, format!("must be a whole number from 1, not {shown:?}"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::fuzz::any_text;

    fn set(key: &str, value: &[u8]) -> Result<Metadata, String> {
        let mut metadata = Metadata { join: Join::default(), batch: 1, caller: None };
        metadata.set(key, value).map_err(|refusal| refusal.to_string())?;
        Ok(metadata)
    }

    #[test]
    fn what_a_client_says_of_itself_is_read() {
        assert_eq!(set("contact-client", b"a").unwrap().join.client.unwrap().as_str(), "a");
        assert_eq!(set("contact-window", b"7").unwrap().join.window, Some(7));
        assert_eq!(set("contact-batch", b"999999999").unwrap().batch, MAX_BATCH);
        assert_eq!(set("contact-max-message", b"67108864").unwrap().join.max_message, Some(64 << 20));
        assert_eq!(set("contact-from", b"new").unwrap().join.from, Some(StartAt::New));
        assert_eq!(set("contact-heartbeat", b"5").unwrap().join.heartbeat, Some(Duration::from_secs(5)));
        let labels = set("contact-labels", b"role=web, os=linux,%E5%8C%BA=%E4%B8%80").unwrap().join.labels;
        assert_eq!(labels.to_string(), "os=linux,role=web,区=一");
        assert!(set("contact-revoke", b"1").unwrap().join.revoke);
        assert!(set("contact-output", b"1").unwrap().join.output);
        assert!(set("contact-receipts", b"1").unwrap().join.receipts);
        assert!(set("contact-begins", b"1").unwrap().join.begins);
        assert_eq!(set("user-agent", b"\xff").unwrap().batch, 1, "keys of others are passed over");
    }

    #[test]
    fn names_are_percent_encoded_and_a_percent_sign_that_begins_no_escape_stands_for_itself() {
        for (sent, name) in [
            ("%E5%B7%A5%e4%ba%ba", "工人"),
            ("工人", "工人"),
            ("a%20b%2Cc", "a b,c"),
            ("50%25", "50%"),
            ("50%", "50%"),
            ("50%-%4", "50%-%4"),
        ] {
            assert_eq!(set("contact-client", sent.as_bytes()).unwrap().join.client.unwrap().as_str(), name);
            assert_eq!(set("contact-group", sent.as_bytes()).unwrap().join.group.unwrap().as_str(), name);
        }
        assert_eq!(set("contact-instance", b"%41").unwrap().join.instance.unwrap().as_str(), "%41");
    }

    #[test]
    fn junk_is_refused_with_the_name_of_its_key() {
        let long = [b'x'; Name::MAX + 1];
        let junk: [(&str, &[u8]); 18] = [
            ("contact-labels", b"=web"),
            ("contact-labels", b"role=web,role=db"),
            ("contact-labels", b"%ff=a"),
            ("contact-begins", b"yes"),
            ("contact-client", b""),
            ("contact-client", b"a\nb"),
            ("contact-client", b"a%0Ab"),
            ("contact-client", b"a%E2%80%8Bb"),
            ("contact-client", b" a"),
            ("contact-group", b"a%20"),
            ("contact-group", b"%b9%a4"),
            ("contact-instance", b""),
            ("contact-client", &long),
            ("contact-group", b"\xff\xfe"),
            ("contact-window", b"0"),
            ("contact-window", b"-3"),
            ("contact-batch", b"many"),
            ("contact-from", b"yesterday"),
        ];
        for (key, value) in junk {
            let error = set(key, value).expect_err(key);
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn any_bytes_of_metadata_are_read_or_refused_in_a_sentence() {
        const KEYS: [&str; 16] = [
            "contact-version",
            "contact-system",
            "contact-labels",
            "contact-client",
            "contact-instance",
            "contact-group",
            "contact-window",
            "contact-batch",
            "contact-revoke",
            "contact-receipts",
            "contact-drain",
            "contact-begins",
            "contact-max-message",
            "contact-heartbeat",
            "contact-from",
            "user-agent",
        ];
        any_text(
            &[
                "os=linux,role=web,canary",
                "%E5%B7%A5%e4%ba%ba",
                "web-1/3",
                "50%-%4",
                "1",
                "18446744073709551615",
                "first",
            ],
            4096,
            |text| {
                for key in KEYS {
                    // As bytes, which need not be text: without their first.
                    for value in [text.as_bytes(), text.as_bytes().get(1..).unwrap_or_default()] {
                        match set(key, value) {
                            Err(why) => assert!(why.len() <= 512 && why.contains(key), "{why}"),
                            Ok(read) => {
                                let join = read.join;
                                assert!((1..=MAX_BATCH).contains(&read.batch));
                                assert!(join.window != Some(0) && join.max_message != Some(0));
                                for name in [join.client, join.group, join.instance].into_iter().flatten() {
                                    assert!(!name.as_str().contains(char::is_control));
                                }
                            }
                        }
                    }
                }
            },
        );
    }
}
