//! The page, its API and health by TLS: who gets in, and what strangers there cost.

use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use contact::server::ServerTls;
use contact::wire::control as pb;
use futures::executor::block_on;
use grpcio::{CallOption, MetadataBuilder};
use rcgen::SanType;
use rustls::{ClientConnection, StreamOwned};

use super::door::Raw;
use crate::common::DEADLINE;
use crate::common::authority::{Authority, Valid};
use crate::common::server::Server;
use crate::http::client::{Reply, exchange, exchange_over};
use crate::rig::Rig;

type Files = (PathBuf, PathBuf);

/// As a client of TLS begins: a record of 200 bytes, and some of it.
const HELLO: &[u8] = &[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];

/// Somebody who speaks TLS with a page.
struct Browser {
    page: String,
    ca: PathBuf,
    /// What it shows.
    certificate: Option<Files>,
}

impl Browser {
    fn connect(&self) -> StreamOwned<ClientConnection, TcpStream> {
        Raw::tls(&self.page, &self.ca, self.certificate.as_ref())
    }

    fn try_asking(&self, line: &str, headers: &str) -> io::Result<Reply> {
        let task = r#"{"text": "by https"}"#;
        let body = match line.starts_with("POST") {
            true => format!("content-length: {}\r\n\r\n{task}", task.len()),
            false => "\r\n".into(),
        };
        let head = format!("{line} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-contact: 1\r\nconnection: close\r\n{headers}");
        exchange_over(self.connect(), (head + &body).as_bytes())
    }

    #[track_caller]
    fn asks(&self, line: &str, headers: &str) -> Reply {
        self.try_asking(line, headers).unwrap()
    }

    #[track_caller]
    fn status(&self, line: &str, headers: &str) -> u16 {
        self.asks(line, headers).status
    }
}

/// As it is reached from this machine.
fn here(address: &str) -> String {
    address.replace("0.0.0.0", "127.0.0.1")
}

/// A server whose page alone is for others.
fn rig(authority: &Authority) -> Rig {
    let (cert, key) = authority.server("server");
    Rig::with(|config| {
        config.tls = Some(ServerTls { cert, key, client_ca: Some(authority.ca()) });
        config.http = Some("0.0.0.0:0".into());
    })
}

/// What operators of its machine say.
fn credential(rig: &Rig) -> String {
    format!("Bearer {}", fs::read_to_string(rig.config.data.join("operator.token")).unwrap().trim())
}

/// A call of theirs.
fn operators(rig: &Rig) -> CallOption {
    let mut headers = MetadataBuilder::new();
    headers.add_str("authorization", &credential(rig)).unwrap();
    CallOption::default().timeout(DEADLINE).headers(headers.build())
}

#[test]
fn over_https_a_caller_is_known_by_a_certificate_a_token_or_the_cookie_of_a_link() {
    let authority = Authority::new();
    let rig = rig(&authority);
    let browser = |certificate: Option<Files>| Browser { page: here(rig.http()), ca: authority.ca(), certificate };
    let shows = |uri: &str| browser(authority.client(uri).identity);

    let stranger = browser(None);
    assert_eq!(
        [("/healthz", 200), ("/readyz", 200), ("/api/state", 401), ("/metrics", 401)]
            .map(|(path, expected)| { (stranger.status(&format!("GET {path}"), ""), expected) })
            .iter()
            .filter(|(status, expected)| status != expected)
            .count(),
        0
    );
    assert_eq!(stranger.status("POST /api/tasks", ""), 401);

    let operator = shows("contact://fleet/operator/ann");
    assert_eq!(operator.status("GET /api/state", ""), 200);
    assert_eq!(operator.status("POST /api/tasks", ""), 200);
    // A browser shows a certificate to whoever makes it ask.
    for foreign in ["sec-fetch-site: cross-site\r\n", "origin: https://evil.example\r\n", "origin: null\r\n"] {
        assert_eq!(operator.status("POST /api/tasks", foreign), 401, "{foreign}");
    }
    let reader = shows("contact://fleet/read/bob");
    assert_eq!([reader.status("GET /api/state", ""), reader.status("POST /api/tasks", "")], [200, 403]);
    assert_eq!(shows("contact://fleet/agent/web-1").status("GET /api/state", ""), 403);

    let token = format!("authorization: {}\r\n", credential(&rig));
    assert_eq!(stranger.status("POST /api/tasks", &token), 200);
    // A token counts more than a certificate.
    assert_eq!(operator.status("GET /api/state", "authorization: Bearer ct1_00\r\n"), 401);

    let login = pb::CreateLoginRequest::new();
    let link = block_on(rig.operator.control.create_login(&login, operators(&rig)).unwrap()).unwrap();
    assert!(link.tls && link.host.is_empty(), "{link:?}");
    let entered = stranger.asks(&format!("GET {}", link.path), "");
    let set = entered.header("set-cookie");
    assert!(set.starts_with("__Host-contact-session=") && set.ends_with("; Secure"), "{set}");
    let cookie = set.split(';').next().unwrap();
    assert_eq!(stranger.status("POST /api/tasks", &format!("cookie: {cookie}\r\n")), 200);
    // Another host of the domain, or a page without TLS, could have set such a one.
    let other = cookie.strip_prefix("__Host-").unwrap();
    assert_eq!(stranger.status("GET /api/state", &format!("cookie: {other}\r\n")), 401);
}

#[test]
fn a_certificate_that_is_wrong_opens_no_page() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let rig = rig(&authority);
    let uri = |uri: &str| vec![SanType::URI(uri.try_into().unwrap())];
    let good = "contact://fleet/operator/ann";
    for files in [
        foreign.issue("ann", uri(good), false, Valid::Now),
        authority.issue("over", uri(good), false, Valid::Before),
        authority.issue("server-s", uri(good), true, Valid::Now),
        authority.issue("none", uri("https://example.com"), false, Valid::Now),
    ] {
        let browser = Browser { page: here(rig.http()), ca: authority.ca(), certificate: Some(files) };
        assert!(browser.try_asking("GET /healthz", "").is_err());
    }
}

#[test]
fn who_speaks_otherwise_than_the_port_is_told_so() {
    let authority = Authority::new();
    let tls = rig(&authority);
    let reply = exchange(&here(tls.http()), b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
    assert_eq!((reply.status, reply.body.trim()), (400, "this port speaks TLS: ask with https://"));

    let plain = Rig::with(|config| config.http = Some("127.0.0.1:0".into()));
    // Libraries show some of what comes instead of TLS.
    let reply = exchange(plain.http(), HELLO);
    assert_eq!((reply.status, reply.body.trim()), (400, "this port does not speak TLS: ask with http://"));

    // Where a server has TLS, its page for this machine takes both.
    let (cert, key) = authority.server("both");
    let both = Rig::with(|config| {
        config.tls = Some(ServerTls { cert, key, client_ca: None });
        config.http = Some("127.0.0.1:0".into());
    });
    let browser = Browser { page: both.http().into(), ca: authority.ca(), certificate: None };
    assert_eq!(browser.status("GET /api/state", ""), 200);
    let reply = exchange(both.http(), b"GET /api/state HTTP/1.0\r\nhost: localhost\r\n\r\n");
    assert_eq!(reply.status, 200);
}

/// A server with an authority of its own: what it issued opens the page until it is revoked, at once.
#[test]
fn a_revoked_certificate_ends_the_connections_to_the_page_that_it_opened() {
    let rig = Rig::with(|config| {
        config.public = Some("agents.example:1".into());
        config.http = Some("0.0.0.0:0".into());
    });
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::new(Vec::new()).unwrap().serialize_request(&key).unwrap().pem().unwrap();
    let request = pb::IssueCertificateRequest {
        name: "ann".into(),
        csr,
        operator: true,
        lasts_ms: 3_600_000,
        ..Default::default()
    };
    let issued = block_on(rig.operator.control.issue_certificate(&request, operators(&rig)).unwrap()).unwrap();
    let files = ["ann.pem", "ann.key"].map(|name| folder.path().join(name));
    fs::write(&files[0], issued.certificate).unwrap();
    fs::write(&files[1], key.serialize_pem()).unwrap();
    let [cert, key] = files;
    let browser =
        Browser { page: here(rig.http()), ca: rig.config.data.join("tls/ca.pem"), certificate: Some((cert, key)) };
    // By its public name, too.
    let mut events = browser.connect();
    events.write_all(b"GET /api/events HTTP/1.0\r\nhost: agents.example:50080\r\n\r\n").unwrap();
    let mut some = [0; 64];
    let read = events.read(&mut some).unwrap();
    assert!(some[..read].starts_with(b"HTTP/1.0 200"));
    assert_eq!(browser.status("POST /api/tasks", ""), 200);

    let revoke = pb::RevokeIdentityRequest { name: "ann".into(), ..Default::default() };
    let revoked = block_on(rig.operator.control.revoke_identity(&revoke, operators(&rig)).unwrap()).unwrap();
    assert_eq!(revoked.connections, 1);
    let deadline = Instant::now() + DEADLINE;
    loop {
        match events.read(&mut [0; 4096]) {
            Ok(0) => break,
            Ok(_) => assert!(Instant::now() < deadline, "it goes on"),
            Err(e) => {
                assert!(!matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{e}");
                break;
            }
        }
    }
    assert!(browser.try_asking("GET /healthz", "").is_err());
}

fn server(authority: &Authority) -> Server {
    Server::start_with_page("0.0.0.0:0", &authority.args().iter().map(String::as_str).collect::<Vec<_>>())
}

/// Each is a connection that goes no further.
#[test]
fn connections_by_tls_that_ask_nothing_keep_nobody_from_the_page_or_from_health() {
    let authority = Authority::new();
    let server = server(&authority);
    let page = here(&server.http);
    let browser = Browser {
        page: page.clone(),
        ca: authority.ca(),
        certificate: authority.client("contact://fleet/operator/ann").identity,
    };
    for sent in [b"", HELLO] {
        let _open: Vec<TcpStream> = (0..300)
            .map(|_| {
                let mut stream = TcpStream::connect(&page).unwrap();
                let _ = stream.write_all(sent);
                stream
            })
            .collect();
        for path in ["/healthz", "/readyz", "/api/state"] {
            assert_eq!(browser.status(&format!("GET {path}"), ""), 200, "{path}");
        }
    }
    for sent in [
        "",
        "GET / HTTP/1.1\r\nhost: 127",
        "POST /api/tasks HTTP/1.1\r\nhost: 127.0.0.1\r\nx-contact: 1\r\ncontent-length: 10\r\n\r\n{",
    ] {
        let _open: Vec<_> = (0..300)
            .map(|_| {
                let mut stream = browser.connect();
                // The last have cut the first.
                let _ = stream.write_all(sent.as_bytes()).and_then(|()| stream.flush());
                stream
            })
            .collect();
        for path in ["/healthz", "/readyz", "/api/state"] {
            assert_eq!(browser.status(&format!("GET {path}"), ""), 200, "{path}");
        }
    }
    let metrics = browser.asks("GET /metrics", "").body;
    let cut = metrics.lines().find_map(|line| line.strip_prefix("contact_refusals_total{cause=\"HTTP_CONNECTIONS\"} "));
    assert!(cut.unwrap().parse::<u64>().unwrap() >= 200, "{cut:?}");
    assert_eq!(server.ctl(&["tasks", "--all"]).len(), 0, "half a request does nothing");
}

/// A byte now and then, so that none is silent.
#[test]
fn slow_handshakes_heads_and_bodies_are_cut() {
    let authority = Authority::new();
    let server = server(&authority);
    let page = here(&server.http);
    let browser = Browser { page: page.clone(), ca: authority.ca(), certificate: None };
    let mut handshake = TcpStream::connect(&page).unwrap();
    // A record of 16 KiB, of which a byte comes each time.
    handshake.write_all(&[0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb]).unwrap();
    handshake.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut slow = [browser.connect(), browser.connect()];
    slow[1]
        .write_all(b"POST /api/tasks HTTP/1.1\r\nhost: 127.0.0.1\r\nx-contact: 1\r\ncontent-length: 1000\r\n\r\n")
        .unwrap();
    let mut answers = [Vec::new(), Vec::new()];
    let mut over = [false; 3];
    let deadline = Instant::now() + DEADLINE;
    let is_over = |read: io::Result<usize>, kept: &mut Vec<u8>, buffer: &[u8]| match read {
        Ok(0) => true,
        Ok(read) => {
            kept.extend_from_slice(&buffer[..read]);
            false
        }
        Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    };
    while over != [true; 3] {
        assert!(Instant::now() < deadline, "{over:?}");
        let mut buffer = [0; 1000];
        over[2] = over[2] || handshake.write_all(&[0]).is_err();
        over[2] = over[2] || is_over(handshake.read(&mut buffer), &mut Vec::new(), &[0; 1000]);
        for n in 0..2 {
            slow[n].sock.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            over[n] = over[n] || slow[n].write_all(b"x").and_then(|()| slow[n].flush()).is_err();
            over[n] = over[n] || is_over(slow[n].read(&mut buffer), &mut answers[n], &buffer.clone());
        }
    }
    assert_eq!(server.ctl(&["tasks", "--all"]).len(), 0);
}

/// The link that contactctl prints, as a user on another machine opens it.
#[test]
fn a_link_to_a_page_for_others_is_one_of_https_by_the_public_name() {
    let server = Server::start_with_page("0.0.0.0:0", &["--public", "agents.example:1"]);
    let port = server.http.rsplit_once(':').unwrap().1;
    let link = server.ctl(&["login"])[0]["url"].as_str().unwrap().to_owned();
    assert!(link.starts_with(&format!("https://agents.example:{port}/login?code=")), "{link}");
    let authority = Authority::new();
    let other = self::server(&authority);
    let link = other.ctl(&["login"])[0]["url"].as_str().unwrap().to_owned();
    assert!(link.starts_with(&format!("https://{}/login?code=", here(&other.http))), "{link}");
}

/// New files count for the page as for the other ports.
#[test]
fn new_files_count_for_the_page_too() {
    let (authority, next) = (Authority::new(), Authority::new());
    let mut server = server(&authority);
    let page = here(&server.http);
    let asks = |ca: PathBuf| Browser { page: page.clone(), ca, certificate: None }.try_asking("GET /healthz", "");
    assert_eq!(asks(authority.ca()).unwrap().status, 200);
    assert!(asks(next.ca()).is_err());
    let (cert, key) = next.server("server");
    fs::copy(cert, authority.ca().with_file_name("server.pem")).unwrap();
    fs::copy(key, authority.ca().with_file_name("server.key")).unwrap();
    server.program().err.wait_for("new files", |line| line.contains("a new certificate is used"));
    assert_eq!(asks(next.ca()).unwrap().status, 200);
    assert!(asks(authority.ca()).is_err());
}
