//! What stands before every request: who may ask at all, how much, and for how long; and what every answer carries.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
#[cfg(feature = "cluster")]
use axum::handler::Handler;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};

use super::answer::Refused;
use super::login;
use super::runs::LONGEST_WAIT;
use crate::front::HTTP_MARK;
use crate::server::about::About;
use crate::server::access::{Access, Caller};
use crate::server::identity::Origin;
use crate::server::refusal::Refusal;
use crate::server::roles::{Row, row};

/// For an answer. What an operator asked for may still be done after that.
const ANSWER: Duration = Duration::from_secs(15);

/// Puts it around the routes, but for what [`admitting`] does: around those of `endless`, whose answers go on, all but the limit of time.
pub(super) fn around(timed: Router, endless: Router, access: Access) -> Router {
    let missing = async |request: Request| {
        let why = format!("there is nothing at {}; the page is at /, the API under /api", request.uri().path());
        Refused::new(StatusCode::NOT_FOUND, "HTTP_NOT_FOUND", why)
    };
    let other_method = async |request: Request| {
        let why = format!("{} is not asked for with {}", request.uri().path(), request.method());
        Refused::new(StatusCode::METHOD_NOT_ALLOWED, "HTTP_METHOD", why)
    };
    timed
        .layer(middleware::from_fn(in_time))
        .merge(endless)
        .fallback(missing)
        .method_not_allowed_fallback(other_method)
        .layer(middleware::from_fn_with_state(access, identify))
}

/// Looks first what a browser may ask at all, whoever asks; and at last at what every answer carries.
pub(super) fn admitting(router: Router, about: Arc<About>) -> Router {
    router.layer(middleware::from_fn_with_state(about, admit)).layer(middleware::map_response(harden))
}

/// These routes for those alone who may ask for them, in time; and `others` for all the rest.
#[cfg(feature = "cluster")]
pub(super) fn around_some<T: 'static>(routes: Router, access: Access, others: impl Handler<T, ()>) -> Router {
    let identified = routes.layer(middleware::from_fn_with_state(access, identify));
    identified.fallback(others).layer(middleware::from_fn(in_time))
}

/// What answers when all places are taken: whether the server is well, to those who start it again if it is not, and nothing else.
pub(super) fn too_many_connections(health: Router, most: usize, for_address: usize) -> Router {
    let full = async move || {
        let why = format!(
            "more than {most} connections to the page are open, or {for_address} from one address; close some, and try again"
        );
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "HTTP_CONNECTIONS", why)
    };
    let close = async |mut response: Response| {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    };
    health.fallback(full).layer(middleware::map_response(close)).layer(middleware::map_response(harden))
}

async fn admit(State(about): State<Arc<About>>, request: Request, next: Next) -> Result<Response, Refused> {
    let forbidden = |cause, why: String| Err(Refused::new(StatusCode::FORBIDDEN, cause, why));
    if let Err(why) = check_host(request.headers(), &about.hosts) {
        return forbidden("HTTP_HOST", why);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) && !has_our_mark(request.headers()) {
        return forbidden("HTTP_HEADER", format!("what changes something needs the header `{HTTP_MARK}: 1`"));
    }
    Ok(next.run(request).await)
}

/// How a request came.
#[derive(Clone)]
pub(super) struct Way {
    /// Where from, and whose certificate the connection showed, if it did.
    pub(super) origin: Origin,
    /// By TLS of this server.
    pub(super) is_tls: bool,
}

impl Way {
    /// Whether the browser speaks TLS: with this server, or with a proxy before it that says so.
    pub(super) fn is_private(&self, headers: &HeaderMap) -> bool {
        self.is_tls || headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https")
    }
}

/// Lets those pass who may do what they ask for, and says with the request who asks. Where nothing is, nobody has to be known.
async fn identify(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let Some(path) = request.extensions().get::<MatchedPath>().cloned() else { return next.run(request).await };
    let method = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
    let row = row(&format!("{method} {}", path.as_str()));
    let caller = match may(&access, &request, row) {
        Ok(caller) => caller,
        Err(why) if path.as_str() == "/" => {
            let refused = Refused::from(why);
            return login::page(refused.status(), "This page is for those who say who they are.");
        }
        Err(why) => return Refused::from(why).into_response(),
    };
    let recorded = row.recorded.then(|| (caller.clone(), request.uri().path().to_owned()));
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    if let Some((caller, path)) = recorded {
        caller.record_answer(method.as_str(), &path, response.status().as_u16());
    }
    response
}

fn may(access: &Access, request: &Request, row: &'static Row) -> Result<Caller, Refusal> {
    let headers = request.headers();
    let Some(Way { origin, is_tls }) = request.extensions().get::<Way>().cloned() else {
        return Err(Refusal::NoCredential { file: None });
    };
    if row.needs.is_none() {
        return Ok(Caller::nobody(origin.peer));
    }
    let authorization: Vec<&[u8]> = headers.get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes).collect();
    // A browser shows a cookie and a certificate by itself, whoever made it ask.
    let is_ours = is_of_our_page(request.method(), headers);
    let session = login::session(headers, is_tls).filter(|_| is_ours);
    let origin = if is_ours { origin } else { Origin { known: None, ..origin } };
    let caller = access.browser(origin, &authorization, session)?;
    access.check(&caller, row)?;
    Ok(caller)
}

/// Whether a browser may use its session, or its certificate, for this: what changes something comes from the page itself. The cookie is not sent for others,
/// and they cannot send our mark; this holds if one of these fails.
fn is_of_our_page(method: &Method, headers: &HeaderMap) -> bool {
    if matches!(*method, Method::GET | Method::HEAD) {
        return true;
    }
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    match (text(HeaderName::from_static("sec-fetch-site")), text(header::ORIGIN)) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => {
            let of = origin.split_once("://").map_or("", |(_, host)| host);
            text(header::HOST) == Some(of)
        }
        // No browser.
        (None, None) => true,
    }
}

async fn in_time(request: Request, next: Next) -> Result<Response, Refused> {
    // One that asks to wait is given that time, too.
    let waits = request.uri().query().is_some_and(|query| query.contains("wait="));
    let longest = if waits { ANSWER + LONGEST_WAIT } else { ANSWER };
    tokio::time::timeout(longest, next.run(request)).await.map_err(|_| {
        let why = "this took too long, and may still be done; look at the state, or try again";
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "HTTP_TIMEOUT", why)
    })
}

/// A page of somebody else cannot send it without asking us first, which we do not answer.
fn has_our_mark(headers: &HeaderMap) -> bool {
    headers.get(HTTP_MARK).is_some_and(|value| value == "1")
}

/// Against DNS rebinding: a page of somebody else can make its own name point here, but not take the name away.
fn check_host(headers: &HeaderMap, known: &[String]) -> Result<(), String> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    if hosts.next().is_some() {
        return Err("a request names one host, and this one names several".into());
    }
    let name = without_port(host);
    let is_known = name.eq_ignore_ascii_case("localhost") || known.iter().any(|known| known.eq_ignore_ascii_case(name));
    match is_known || name.parse::<IpAddr>().is_ok() {
        true => Ok(()),
        false => Err(format!(
            "{name:?} is no name that this server knows itself by; use its IP address or localhost, or start it with \
             --http-host NAME"
        )),
    }
}

/// `[::1]:80` and `host:80`, and the same without a port.
fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

/// For the page's own files this is too much, and it says so itself.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");

async fn harden(mut response: Response) -> Response {
    let status = response.status();
    let headers = response.headers_mut();
    let defaults: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"contact\""));
    }
    for (name, value) in defaults {
        headers.entry(name).or_insert(value);
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_session_changes_something_from_the_page_alone() {
        let may = |pairs: &[(&'static str, &'static str)]| {
            let pairs =
                pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            is_of_our_page(&Method::POST, &HeaderMap::from_iter(pairs))
        };
        let host = ("host", "contact.example:80");
        assert!(may(&[host]));
        assert!(may(&[host, ("origin", "http://contact.example:80")]));
        assert!(may(&[("host", "inside"), ("origin", "https://contact.example"), ("sec-fetch-site", "same-origin")]));
        for wrong in ["null", "http://evil.example", "http://contact.example:81", "contact.example:80", ""] {
            assert!(!may(&[host, ("origin", wrong)]), "{wrong}");
        }
        for site in ["cross-site", "same-site", ""] {
            assert!(!may(&[host, ("origin", "http://contact.example:80"), ("sec-fetch-site", site)]), "{site}");
        }
    }

    #[test]
    fn only_addresses_and_known_names_are_called() {
        let called = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
            check_host(&headers, &["Contact.example".to_owned()]).is_ok()
        };
        for host in ["localhost", "LOCALHOST:50080", "127.0.0.1:1", "[::1]:50080", "[::1]", "contact.example:80"] {
            assert!(called(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:50080", "", "[evil]", "::1"] {
            assert!(!called(host), "{host}");
        }
        assert!(check_host(&HeaderMap::new(), &[]).is_err());
    }
}
