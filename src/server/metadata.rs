//! Who a client is, from the metadata of its call.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use grpcio::RpcContext;

use super::refusal::Refusal;
use crate::broker::{Join, Reporter, StartAt};
use crate::task::{Name, NameOf};

/// Most tasks in one message, whatever the client asks for.
const MAX_BATCH: usize = 4096;

/// The metadata of one call, checked.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) join: Join,
    /// Most tasks the client wants in one message; 1: it knows no batches.
    pub(super) batch: usize,
}

impl Metadata {
    /// Reads what a client says of itself. What it does not say is left open; what makes no sense is refused.
    pub(super) fn read(ctx: &RpcContext<'_>) -> Result<Metadata, Refusal> {
        let mut metadata = Metadata { join: Join { peer: ctx.peer().into(), ..Join::default() }, batch: 1 };
        for (key, value) in ctx.request_headers().iter() {
            metadata.set(key, value)?;
        }
        Ok(metadata)
    }

    pub(super) fn reporter(self) -> Reporter {
        Reporter { client: self.join.client, group: self.join.group, peer: self.join.peer }
    }

    /// What the log names the client by.
    pub(super) fn label(&self) -> Arc<str> {
        self.join.client.as_ref().map_or_else(|| self.join.peer.clone(), |client| client.as_str().into())
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Refusal> {
        let join = &mut self.join;
        match key {
            "contact-client" => join.client = Some(name("contact-client", value)?),
            "contact-instance" => join.instance = Some(name("contact-instance", value)?),
            "contact-group" => join.group = Some(name("contact-group", value)?),
            "contact-window" => join.window = Some(number("contact-window", value)?),
            "contact-batch" => self.batch = (number::<usize>("contact-batch", value)?).min(MAX_BATCH),
            "contact-revoke" => join.revoke = flag("contact-revoke", value)?,
            "contact-begins" => join.begins = flag("contact-begins", value)?,
            "contact-heartbeat" => {
                join.heartbeat = Some(Duration::from_secs(number::<u32>("contact-heartbeat", value)?.into()));
            }
            "contact-from" => {
                join.from = Some(match value {
                    b"first" => StartAt::First,
                    b"new" => StartAt::New,
                    _ => return Err(problem("contact-from", "must be \"first\" or \"new\"".into())),
                });
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

fn name(key: &'static str, value: &[u8]) -> Result<Name, Refusal> {
    Name::new(NameOf::Metadata, text(key, value)?).map_err(|e| problem(key, e.to_string()))
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

    fn set(key: &str, value: &[u8]) -> Result<Metadata, String> {
        let mut metadata = Metadata { join: Join::default(), batch: 1 };
        metadata.set(key, value).map_err(|refusal| refusal.to_string())?;
        Ok(metadata)
    }

    #[test]
    fn what_a_client_says_of_itself_is_read() {
        assert_eq!(set("contact-client", b"a").unwrap().join.client.unwrap().as_str(), "a");
        assert_eq!(set("contact-window", b"7").unwrap().join.window, Some(7));
        assert_eq!(set("contact-batch", b"999999999").unwrap().batch, MAX_BATCH);
        assert_eq!(set("contact-from", b"new").unwrap().join.from, Some(StartAt::New));
        assert_eq!(set("contact-heartbeat", b"5").unwrap().join.heartbeat, Some(Duration::from_secs(5)));
        assert!(set("contact-revoke", b"1").unwrap().join.revoke);
        assert!(set("contact-begins", b"1").unwrap().join.begins);
        assert_eq!(set("user-agent", b"\xff").unwrap().batch, 1, "keys of others are passed over");
    }

    #[test]
    fn junk_is_refused_with_the_name_of_its_key() {
        let long = [b'x'; Name::MAX + 1];
        let junk: [(&str, &[u8]); 9] = [
            ("contact-begins", b"yes"),
            ("contact-client", b""),
            ("contact-client", b"a\nb"),
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
}
