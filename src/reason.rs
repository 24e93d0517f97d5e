//! The causes of a refusal that programs can tell apart: each with its status code, and with what it means to the caller.
//! `docs/errors.md` explains them to users.

use grpcio::RpcStatusCode;

/// Who defines the reasons, as `ErrorInfo.domain` names it.
pub(crate) const DOMAIN: &str = "contact";

/// What a failed call means for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Another stream with the same client id took this one's place.
    TakenOver,
    /// The server takes nothing from this client.
    ClientRefused,
    /// The same call would be refused again, whatever it carries.
    CallRefused,
    /// What the call carried would be refused again. The call itself may be made.
    MessageRefused,
    /// The server is away, or stopping: the same may work later.
    Unavailable,
    /// Nothing that says whether the same would work.
    Unclear,
}

macro_rules! reasons {
    ($($reason:ident: $code:ident, $meaning:ident;)*) => {
        /// Their names are part of the wire: none is changed.
        #[allow(non_camel_case_types)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Reason { $($reason,)* }

        impl Reason {
            /// All of them.
            pub(crate) const ALL: &[Reason] = &[$(Reason::$reason,)*];

            /// As it stands on the wire.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Reason::$reason => stringify!($reason),)* }
            }

            /// The code of the call's status.
            pub(crate) fn code(self) -> RpcStatusCode {
                match self { $(Reason::$reason => RpcStatusCode::$code,)* }
            }

            /// What it means to the caller.
            pub(crate) fn meaning(self) -> Meaning {
                match self { $(Reason::$reason => Meaning::$meaning,)* }
            }
        }
    };
}

reasons! {
    MESSAGE_UNDECODABLE: INVALID_ARGUMENT, CallRefused;
    MESSAGE_MISSING: DEADLINE_EXCEEDED, Unavailable;
    CALLS_FULL: RESOURCE_EXHAUSTED, Unavailable;
    TASK_TOO_LONG: INVALID_ARGUMENT, MessageRefused;
    RESULT_TOO_LONG: INVALID_ARGUMENT, MessageRefused;
    STATUS_TOO_LONG: INVALID_ARGUMENT, MessageRefused;
    TASK_EMPTY: INVALID_ARGUMENT, MessageRefused;
    HEADERS_INVALID: INVALID_ARGUMENT, MessageRefused;
    WINDOW_EMPTY: INVALID_ARGUMENT, MessageRefused;
    BATCH_NESTED: INVALID_ARGUMENT, MessageRefused;
    BATCH_TOO_LARGE: RESOURCE_EXHAUSTED, MessageRefused;
    ENUM_VALUE_UNKNOWN: INVALID_ARGUMENT, MessageRefused;
    METADATA_INVALID: INVALID_ARGUMENT, CallRefused;
    NAME_INVALID: INVALID_ARGUMENT, CallRefused;
    KEY_REUSED: ALREADY_EXISTS, MessageRefused;
    RETRY_INVALID: INVALID_ARGUMENT, MessageRefused;
    REPLACE_INVALID: INVALID_ARGUMENT, MessageRefused;
    TASK_REPLACED: FAILED_PRECONDITION, MessageRefused;
    LIMITS_INVALID: INVALID_ARGUMENT, MessageRefused;
    SELECTOR_INVALID: INVALID_ARGUMENT, MessageRefused;
    TARGETS_TOO_MANY: INVALID_ARGUMENT, MessageRefused;
    TASK_UNKNOWN: NOT_FOUND, MessageRefused;
    RESULT_UNKNOWN: NOT_FOUND, MessageRefused;
    DEAD_LETTER_UNKNOWN: NOT_FOUND, MessageRefused;
    GROUP_UNKNOWN: NOT_FOUND, MessageRefused;
    CLIENT_UNKNOWN: NOT_FOUND, MessageRefused;
    NOTE_TOO_LONG: INVALID_ARGUMENT, MessageRefused;
    DRAINS_FULL: FAILED_PRECONDITION, MessageRefused;
    SERVICE_UNKNOWN: NOT_FOUND, MessageRefused;
    GROUP_IN_USE: FAILED_PRECONDITION, MessageRefused;
    GROUPS_FULL: RESOURCE_EXHAUSTED, Unavailable;
    BACKUP_REFUSED: FAILED_PRECONDITION, MessageRefused;
    CLIENT_NOT_ALLOWED: PERMISSION_DENIED, ClientRefused;
    CREDENTIAL_MISSING: UNAUTHENTICATED, ClientRefused;
    TOKEN_UNKNOWN: UNAUTHENTICATED, ClientRefused;
    TOKEN_EXPIRED: UNAUTHENTICATED, ClientRefused;
    ROLE_NOT_ALLOWED: PERMISSION_DENIED, ClientRefused;
    GROUP_NOT_ALLOWED: PERMISSION_DENIED, ClientRefused;
    TARGET_NOT_ALLOWED: PERMISSION_DENIED, MessageRefused;
    RATE_EXCEEDED: RESOURCE_EXHAUSTED, Unavailable;
    LIMIT_REACHED: RESOURCE_EXHAUSTED, Unavailable;
    LIMIT_INVALID: INVALID_ARGUMENT, MessageRefused;
    GRANT_INVALID: INVALID_ARGUMENT, MessageRefused;
    TOKEN_INVALID: INVALID_ARGUMENT, MessageRefused;
    TOKEN_EXISTS: ALREADY_EXISTS, MessageRefused;
    TOKEN_NOT_FOUND: NOT_FOUND, MessageRefused;
    TOKENS_FULL: FAILED_PRECONDITION, MessageRefused;
    CERTIFICATE_REFUSED: FAILED_PRECONDITION, MessageRefused;
    IDENTITY_UNKNOWN: NOT_FOUND, MessageRefused;
    NOT_PUBLIC: FAILED_PRECONDITION, MessageRefused;
    GROUPS_TOO_MANY: FAILED_PRECONDITION, MessageRefused;
    WATCHES_FULL: RESOURCE_EXHAUSTED, Unavailable;
    RUN_UNKNOWN: NOT_FOUND, MessageRefused;
    RUN_INVALID: INVALID_ARGUMENT, MessageRefused;
    RUN_WITHOUT_TARGETS: FAILED_PRECONDITION, MessageRefused;
    RUNS_FULL: FAILED_PRECONDITION, MessageRefused;
    RUN_STATE: FAILED_PRECONDITION, MessageRefused;
    SCHEDULE_UNKNOWN: NOT_FOUND, MessageRefused;
    SCHEDULE_INVALID: INVALID_ARGUMENT, MessageRefused;
    SCHEDULES_FULL: FAILED_PRECONDITION, MessageRefused;
    ADDRESS_INVALID: INVALID_ARGUMENT, MessageRefused;
    WORKER_UNKNOWN: NOT_FOUND, MessageRefused;
    WORKER_REMOVED: UNAVAILABLE, Unavailable;
    WORKERS_FULL: FAILED_PRECONDITION, MessageRefused;
    CLIENT_TAKEN_OVER: ABORTED, TakenOver;
    CLIENT_ID_CONTESTED: UNAVAILABLE, Unavailable;
    SERVER_STOPPING: UNAVAILABLE, Unavailable;
    NO_LEADER: UNAVAILABLE, Unavailable;
    SERVER_BEHIND: UNAVAILABLE, Unavailable;
    STORE_FAILED: UNAVAILABLE, Unavailable;
    DISK_LOW: UNAVAILABLE, Unavailable;
}

impl Reason {
    /// `None`: it is newer than this program.
    pub(crate) fn named(name: &str) -> Option<Reason> {
        Reason::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}
