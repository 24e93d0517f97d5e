//! What the status of a failed call means to the caller: whether another try may work, and when.
//!
//! A Contact server says why in `google.rpc.ErrorInfo`, among the details. Proxies, other servers and gRPC itself give a code
//! alone. That may be different a moment later, as while a proxy is set up anew: no caller gives up because of it.
//! The reasons stand in [`reason`](crate::reason).

use std::time::Duration;

use grpcio::{RpcStatus, RpcStatusCode as Code};
use protobuf::{Message as _, MessageFull};

pub(crate) use crate::reason::Meaning;
use crate::reason::{DOMAIN, Reason};
use crate::wire::google_rpc::error_details::{ErrorInfo, RetryInfo};
use crate::wire::google_rpc::status::Status;

/// How gRPC says, in C and Python, in Go and in Java, that a message is longer than the receiver takes.
const TOO_LONG: [&str; 3] =
    ["eceived message larger than max", "trying to send message larger", "exceeds maximum size"];

/// The reason that a Contact server gave.
#[cfg(feature = "cluster")]
pub(crate) fn reason(status: &RpcStatus) -> Option<Reason> {
    detail::<ErrorInfo>(status).filter(|info| info.domain == DOMAIN).and_then(|info| Reason::named(&info.reason))
}

impl Meaning {
    /// By the reason that a Contact server gave; by its code, if the reason is newer than this program. Else it is no answer of
    /// a Contact server.
    pub(crate) fn of(status: &RpcStatus) -> Meaning {
        match detail::<ErrorInfo>(status).filter(|info| info.domain == DOMAIN) {
            Some(info) => Reason::named(&info.reason).map_or_else(|| Meaning::of_code(status.code()), Reason::meaning),
            None => Meaning::of_other(status),
        }
    }

    fn of_other(status: &RpcStatus) -> Meaning {
        match status.code() {
            Code::UNAVAILABLE | Code::CANCELLED | Code::DEADLINE_EXCEEDED => Meaning::Unavailable,
            // gRPC itself refuses messages that are too long, before a service sees them.
            Code::RESOURCE_EXHAUSTED if says_too_long(status) => Meaning::MessageRefused,
            _ => Meaning::Unclear,
        }
    }

    fn of_code(code: Code) -> Meaning {
        match code {
            Code::ABORTED => Meaning::TakenOver,
            Code::UNAUTHENTICATED | Code::PERMISSION_DENIED => Meaning::ClientRefused,
            Code::INVALID_ARGUMENT | Code::UNIMPLEMENTED => Meaning::CallRefused,
            // The last one: the message is longer than the server takes.
            Code::NOT_FOUND
            | Code::ALREADY_EXISTS
            | Code::FAILED_PRECONDITION
            | Code::OUT_OF_RANGE
            | Code::RESOURCE_EXHAUSTED => Meaning::MessageRefused,
            Code::UNAVAILABLE | Code::CANCELLED | Code::DEADLINE_EXCEEDED => Meaning::Unavailable,
            _ => Meaning::Unclear,
        }
    }
}

fn says_too_long(status: &RpcStatus) -> bool {
    TOO_LONG.iter().any(|words| status.message().contains(words))
}

/// Whether what the call carried was refused for its length.
pub(crate) fn is_too_long(status: &RpcStatus) -> bool {
    match detail::<ErrorInfo>(status).filter(|info| info.domain == DOMAIN) {
        Some(info) => info.reason == Reason::RESULT_TOO_LONG.name(),
        None => status.code() == Code::RESOURCE_EXHAUSTED && says_too_long(status),
    }
}

/// What a Contact server said in the words of a status, to one that it called: as the status would be.
pub(crate) fn of_words(reason: &str, message: &str) -> RpcStatus {
    let info = ErrorInfo { reason: reason.into(), domain: DOMAIN.into(), ..ErrorInfo::default() };
    let code = Reason::named(reason).map_or(Code::UNKNOWN, Reason::code);
    let details = protobuf::well_known_types::any::Any::pack(&info).into_iter().collect();
    let status = Status { code: code.into(), message: message.into(), details, ..Status::default() };
    RpcStatus::with_details(code, message.into(), status.write_to_bytes().unwrap_or_default())
}

/// Whether a Contact server said that.
pub(crate) fn is_of_contact(status: &RpcStatus) -> bool {
    detail::<ErrorInfo>(status).is_some_and(|info| info.domain == DOMAIN)
}

/// After how long the server wants the next try, if it said so.
pub(crate) fn retry_after(status: &RpcStatus) -> Option<Duration> {
    let delay = detail::<RetryInfo>(status)?.retry_delay.into_option()?;
    Some(Duration::new(delay.seconds.try_into().ok()?, delay.nanos.try_into().ok()?))
}

/// The first of the details that is such a message.
fn detail<T: MessageFull>(status: &RpcStatus) -> Option<T> {
    let details = Status::parse_from_bytes(status.details()).ok()?.details;
    details.iter().find_map(|any| any.unpack().ok().flatten())
}

/// The status that a failed call ended with.
pub(crate) fn status_of(error: grpcio::Error) -> RpcStatus {
    match error {
        grpcio::Error::RpcFailure(status) | grpcio::Error::RpcFinished(Some(status)) => status,
        other => RpcStatus::with_message(Code::UNKNOWN, other.to_string()),
    }
}

/// A status as a reader wants it: `UNAVAILABLE: Socket closed`.
pub(crate) fn text(status: &RpcStatus) -> String {
    match status.message() {
        "" => code_name(status),
        message => format!("{}: {message}", code_name(status)),
    }
}

/// `UNAVAILABLE`, where grpcio writes `14-UNAVAILABLE`.
pub(crate) fn code_name(status: &RpcStatus) -> String {
    status.code().to_string().trim_start_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use protobuf::well_known_types::any::Any;

    use super::*;

    fn status(code: Code, domain: &str, reason: &str) -> RpcStatus {
        let info = ErrorInfo { domain: domain.into(), reason: reason.into(), ..ErrorInfo::default() };
        let details = Status { details: vec![Any::pack(&info).unwrap()], ..Status::default() };
        RpcStatus::with_details(code, "no".into(), details.write_to_bytes().unwrap())
    }

    #[test]
    fn a_reason_of_contact_counts_more_than_the_code() {
        let meaning = |code, domain, reason| Meaning::of(&status(code, domain, reason));
        assert_eq!(meaning(Code::ABORTED, "contact", "SERVER_STOPPING"), Meaning::Unavailable);
        assert_eq!(meaning(Code::ABORTED, "contact", "OF_A_LATER_VERSION"), Meaning::TakenOver);
        assert_eq!(Meaning::of(&RpcStatus::new(Code::UNAVAILABLE)), Meaning::Unavailable);
    }

    #[test]
    fn nobody_but_a_contact_server_can_turn_a_client_away_for_good() {
        for code in 0..=16 {
            for status in [
                RpcStatus::with_message(Code::from(code), "Received http2 header with status: 404".into()),
                status(Code::from(code), "another", "METADATA_INVALID"),
            ] {
                assert!(matches!(Meaning::of(&status), Meaning::Unavailable | Meaning::Unclear), "{status:?}");
            }
        }
        let long = "Received message larger than max (5000000 vs. 4194304)";
        assert_eq!(
            Meaning::of(&RpcStatus::with_message(Code::RESOURCE_EXHAUSTED, long.into())),
            Meaning::MessageRefused
        );
    }
}
