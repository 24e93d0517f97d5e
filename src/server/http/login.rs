//! How a browser gets in, where callers have to say who they are: a link of `contactctl login`, which becomes a cookie.

use std::time::Instant;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{self, HeaderMap};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use log::info;
use serde::Deserialize;

use super::app::AppState;
use super::guard::Way;
use crate::server::logins::SESSION;
use crate::server::refusal_counts;

/// The name of the cookie; behind TLS with `__Host-` before it, which browsers take from this host alone and by TLS alone.
const COOKIE: &str = "contact-session";

pub(super) fn router() -> Router<AppState> {
    Router::new().route("/login", get(login))
}

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    code: String,
}

async fn login(
    State(app): State<AppState>,
    Extension(way): Extension<Way>,
    query: Result<Query<Link>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let access = &app.operator.access;
    if !access.is_on() {
        return entered(None);
    }
    let code = query.map(|Query(link)| link.code).unwrap_or_default();
    match access.logins().enter(&code, Instant::now()) {
        Some((caller, session)) => {
            info!("record: {caller}: login");
            entered(cookie(&session, way.is_private(&headers)))
        }
        None => {
            refusal_counts::count("HTTP_LOGIN");
            page(StatusCode::FORBIDDEN, "This link was used before, or its minute is over.")
        }
    }
}

fn cookie(session: &str, is_https: bool) -> Option<HeaderValue> {
    let (before, after) = if is_https { ("__Host-", "; Secure") } else { ("", "") };
    let age = SESSION.as_secs();
    let cookie = format!("{before}{COOKIE}={session}; HttpOnly; SameSite=Strict; Path=/; Max-Age={age}{after}");
    HeaderValue::from_str(&cookie).ok()
}

/// Goes on to the page. By a page and not by a redirect: after a click in another site, a browser would not send the cookie with that.
fn entered(cookie: Option<HeaderValue>) -> Response {
    let html = "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=\"0;url=/\"><title>Contact</title>";
    let mut response = ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response();
    cookie.into_iter().for_each(|cookie| drop(response.headers_mut().insert(header::SET_COOKIE, cookie)));
    response
}

/// What a browser sees that is not let in.
pub(super) fn page(status: StatusCode, why: &str) -> Response {
    let html = format!(
        "<!doctype html><meta charset=utf-8><title>Contact</title><p>{why}</p>\
         <p><code>contactctl login</code> makes a link that opens this page once, within a minute.</p>\
         <p lang=zh>请用 <code>contactctl login</code> 获取登录链接：一分钟内有效，只能用一次。</p>"
    );
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}

/// The secret of the session that a browser says it has. `is_tls`: this server speaks TLS with it. Then the name begins with `__Host-`: a
/// cookie of another name may have been put there by another host of the domain, or by a page without TLS.
pub(super) fn session(headers: &HeaderMap, is_tls: bool) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let is_it = |name: &str| match name.strip_prefix("__Host-") {
        Some(rest) => rest == COOKIE,
        None => name == COOKIE && !is_tls,
    };
    pairs.find(|(name, _)| is_it(name)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_cookie_is_for_this_host_and_no_script_and_read_again() {
        let set = cookie("5e5e", true).unwrap();
        let expected = "__Host-contact-session=5e5e; HttpOnly; SameSite=Strict; Path=/; Max-Age=43200; Secure";
        assert_eq!(set.to_str().unwrap(), expected);
        assert!(!cookie("5e5e", false).unwrap().to_str().unwrap().contains("Secure"));
        for (sent, plain, tls) in [
            ("contact-session=1", Some("1"), None),
            ("a=b; __Host-contact-session=2; c", Some("2"), Some("2")),
            ("contact-session=1; __Host-contact-session=2", Some("1"), Some("2")),
            ("xcontact-session=3", None, None),
            ("contact-session", None, None),
        ] {
            let headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_str(sent).unwrap())]);
            assert_eq!([session(&headers, false), session(&headers, true)], [plain, tls], "{sent}");
        }
    }
}
