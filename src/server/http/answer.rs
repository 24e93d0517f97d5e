//! What requests are answered with.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use grpcio::RpcStatusCode as Code;

use crate::server::refusal::Refusal;
use crate::server::refusal_counts;
use crate::task::cut;

/// The longest refusal, in bytes: some repeat a part of what was sent.
const LONGEST_WHY: usize = 1024;

/// What every handler answers with.
pub(super) type Answer = Result<Response, Refused>;

/// Why a request is refused: one sentence that says what to do.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    why: String,
}

impl Refused {
    /// `cause` is for the metrics.
    pub(super) fn new(status: StatusCode, cause: &'static str, why: impl ToString) -> Refused {
        refusal_counts::count(cause);
        let mut why = why.to_string();
        cut(&mut why, LONGEST_WHY);
        Refused { status, why }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// What was sent cannot be understood.
    pub(super) fn bad(why: impl ToString) -> Refused {
        Refused::new(StatusCode::BAD_REQUEST, "HTTP_BAD_REQUEST", why)
    }
}

#[cfg(test)]
impl Refused {
    pub(super) fn why(&self) -> &str {
        &self.why
    }
}

impl<E: Into<Refusal>> From<E> for Refused {
    fn from(refusal: E) -> Refused {
        let refusal = refusal.into();
        let status = match refusal.code() {
            Code::UNAUTHENTICATED => StatusCode::UNAUTHORIZED,
            Code::PERMISSION_DENIED => StatusCode::FORBIDDEN,
            Code::NOT_FOUND => StatusCode::NOT_FOUND,
            Code::FAILED_PRECONDITION | Code::ABORTED | Code::ALREADY_EXISTS => StatusCode::CONFLICT,
            Code::UNAVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
            Code::RESOURCE_EXHAUSTED => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::BAD_REQUEST,
        };
        Refused::new(status, refusal.cause(), refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        json(self.status, &serde_json::json!({ "error": self.why }))
    }
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, body: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}
