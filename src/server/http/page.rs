//! The page itself: hand-written files in the binary, which a browser reads as they are.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::answer::Refused;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// By their paths below `/assets/`. A test sees to it that no file of the folder is missing.
        static FILES: &[(&str, &[u8])] = &[$(($name, include_bytes!(concat!("../../page/", $name)))),*];
    };
}

files! {
    "api.js",
    "charts.js",
    "dom.js",
    "early.js",
    "format.js",
    "i18n.js",
    "icon.svg",
    "index.html",
    "live.js",
    "main.js",
    "parts.js",
    "stream.js",
    "style.css",
    "texts/en.js",
    "texts/zh.js",
    "uplot/LICENSE",
    "uplot/README.md",
    "uplot/uPlot.esm.js",
    "uplot/uPlot.min.css",
    "verdict.js",
    "views/begin.js",
    "views/clients.js",
    "views/dead.js",
    "views/dialled.js",
    "views/servers.js",
    "views/groups.js",
    "views/list.js",
    "views/overview.js",
    "views/output.js",
    "views/runs.js",
    "views/schedules.js",
    "views/submit.js",
    "views/task.js",
    "views/tasks.js",
    "worker.js",
}

/// Scripts and styles are files of this server, and it is asked for data; there is nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `/`, and what it is made of under `/assets/`.
pub(super) fn router() -> Router {
    Router::new()
        .route("/", get(async |headers: HeaderMap| answer("index.html", &headers)))
        .route("/assets/{*name}", get(async |Path(name): Path<String>, headers: HeaderMap| answer(&name, &headers)))
}

fn answer(name: &str, headers: &HeaderMap) -> Response {
    let Some((name, bytes)) = FILES.iter().find(|(it, _)| *it == name) else {
        let why = format!("the page has no file {name:?}; it begins at /");
        return Refused::new(StatusCode::NOT_FOUND, "HTTP_NOT_FOUND", why).into_response();
    };
    let tag = tag(bytes);
    // A browser asks each time whether it still has the right one: a new version of the server is seen at once.
    let about: [(HeaderName, &str); 3] =
        [(header::CACHE_CONTROL, "no-cache"), (header::ETAG, &tag), (header::CONTENT_SECURITY_POLICY, POLICY)];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (about, [(header::CONTENT_TYPE, kind(name))], *bytes).into_response()
}

/// The same bytes have the same one, whichever server sends them.
fn tag(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

fn kind(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn ask(name: &str, known: Option<&str>) -> Response {
        let mut headers = HeaderMap::new();
        if let Some(known) = known {
            headers.insert(header::IF_NONE_MATCH, known.parse().unwrap());
        }
        answer(name, &headers)
    }

    fn files_below(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true => files_below(&entry.path(), &format!("{name}/"), found),
                false => assert!(found.insert(name)),
            }
        }
    }

    #[test]
    fn every_file_of_the_folder_is_in_the_binary() {
        let mut there = BTreeSet::new();
        files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/page"), "", &mut there);
        assert_eq!(FILES.iter().map(|(name, _)| (*name).to_owned()).collect::<BTreeSet<_>>(), there);
    }

    #[test]
    fn every_file_says_what_it_is_and_lets_nothing_in_from_elsewhere() {
        for (name, _) in FILES {
            let response = ask(name, None);
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
            let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
            assert_eq!(kind.starts_with("text/javascript"), name.ends_with(".js"), "{name}: {kind}");
        }
        assert!(!POLICY.contains("unsafe"));
    }

    #[test]
    fn a_file_that_a_browser_has_already_is_not_sent_again() {
        let first = ask("main.js", None);
        let tag = first.headers()[header::ETAG].to_str().unwrap();
        let again = ask("main.js", Some(tag));
        assert_eq!(
            (again.status(), again.headers().get(header::ETAG)),
            (StatusCode::NOT_MODIFIED, first.headers().get(header::ETAG))
        );
        assert_eq!(ask("main.js", Some("\"another\"")).status(), StatusCode::OK);
    }

    #[test]
    fn what_is_no_file_is_not_found() {
        for name in ["", "missing.js", "../page.rs", "views", "views/", "views/../main.js"] {
            assert_eq!(ask(name, None).status(), StatusCode::NOT_FOUND, "{name}");
        }
    }
}
