//! Who is let in, and what strangers at the door cost.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contact::client::{Config, Error, Event, Invitation, JoinState, Running, StartAt, Tls, Worker, renew};
use contact::server::{CallLimits, ServerTls};
use contact::wire::control as pb;
use crossbeam_channel::{Receiver, unbounded};
use futures::executor::block_on;
use rcgen::SanType;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;

use super::bystander::Bystander;
use crate::common::DEADLINE;
use crate::common::authority::{Authority, Valid};
use crate::common::http2::{
    self, ACK, CONTINUATION, DATA, END_HEADERS, Frame, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PING, PREFACE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, frame, read_frame,
};
use crate::common::program::Program;
use crate::common::server::Server;
use crate::rig::{Operator, Rig, patient, to};
use crate::server::memory::Memory;

/// A worker, and what it learns.
pub(super) struct Watched {
    running: Option<Running>,
    pub(super) tasks: Receiver<String>,
    /// Why there is no connection.
    pub(super) lost: Receiver<String>,
}

impl Watched {
    pub(super) fn start(server: &str, id: Option<&str>, tls: Option<Tls>) -> Watched {
        let id = id.map(str::to_owned);
        Watched::with(Config { id, tls, from: Some(StartAt::First), ..Config::new(server) })
    }

    pub(super) fn with(config: Config) -> Watched {
        let (done, tasks) = unbounded();
        let (tell, lost) = unbounded();
        let (first_backoff, most_backoff) = (Duration::from_millis(50), Duration::from_millis(100));
        let config = Config { first_backoff, most_backoff, ..config };
        let worker = Worker::new(config, move |task| {
            let _ = done.send(task.text.clone());
            "done"
        });
        let worker = worker.observe(move |event| {
            if let Event::Disconnected { reason, .. } = event {
                let _ = tell.send((*reason).to_owned());
            }
        });
        Watched { running: Some(worker.start().unwrap()), tasks, lost }
    }

    #[track_caller]
    pub(super) fn task(&self) -> String {
        self.tasks.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no task came: {:?}", self.lost.try_iter().last()))
    }

    #[track_caller]
    pub(super) fn trouble(&self) -> String {
        self.lost.recv_timeout(DEADLINE).unwrap()
    }

    pub(super) fn join(mut self) -> Result<(), Error> {
        ended(self.running.take().unwrap())
    }
}

/// How it ended by itself.
#[track_caller]
pub(super) fn ended(running: Running) -> Result<(), Error> {
    let (tell, told) = unbounded();
    std::thread::spawn(move || tell.send(running.join()));
    told.recv_timeout(DEADLINE).expect("it goes on")
}

pub(super) fn server_tls(authority: &Authority) -> ServerTls {
    let (cert, key) = authority.server("server");
    ServerTls { cert, key, client_ca: Some(authority.ca()) }
}

pub(super) fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

#[test]
fn a_client_with_a_certificate_gets_tasks_and_has_no_other_id_than_its_own() {
    let authority = Authority::new();
    let rig = Rig::with(|config| config.tls = Some(server_tls(&authority)));
    rig.operator.submit(&["a task"]);
    let tls = authority.client("contact://fleet/agent/web-1");
    let worker = Watched::start(rig.listen(), Some("web-1"), Some(tls.clone()));
    assert_eq!(worker.task(), "a task");
    let peer = rig.operator.clients_until(|all| !all.is_empty())[0].peer.clone();
    assert!(peer.starts_with("ipv4:127.0.0.1:"), "{peer}: the address is the client's own");
    let below = Watched::start(rig.listen(), Some("web-1/2"), Some(tls.clone()));
    assert_eq!(below.task(), "a task");
    let foreign = Watched::start(rig.listen(), Some("web-2"), Some(tls));
    let refused = foreign.join().unwrap_err().to_string();
    assert!(refused.contains("PERMISSION_DENIED") && refused.contains("web-2"), "{refused}");
}

/// C-core does not know where a connection with TLS comes from.
#[test]
fn calls_over_tls_count_for_the_address_they_come_from() {
    let authority = Authority::new();
    let rig = Rig::with(|config| {
        config.tls = Some(server_tls(&authority));
        config.calls = CallLimits { per_address: 1, ..CallLimits::default() };
    });
    let one = Watched::start(rig.listen(), Some("one"), Some(authority.client("contact://fleet/agent/one")));
    rig.operator.clients_until(|all| all.len() == 1);
    let other = Watched::start(rig.listen(), Some("other"), Some(authority.client("contact://fleet/agent/other")));
    let trouble = other.trouble();
    assert!(trouble.contains("address"), "{trouble}");
    assert!(one.lost.is_empty());
}

/// Each is told to the client in words, and lets nobody in.
#[test]
fn certificates_that_are_wrong_let_nobody_in_and_the_client_says_why() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let rig = Rig::with(|config| config.tls = Some(server_tls(&authority)));
    rig.operator.submit(&["a secret"]);
    let ours = |file: &str, names, server| Tls {
        ca: authority.ca(),
        identity: Some(authority.issue(file, names, server, Valid::Now)),
    };
    let good = "contact://fleet/agent/web-1";
    let foreign = Tls { ca: authority.ca(), ..stranger.client(good) };
    for (tls, words) in [
        (Tls { ca: authority.ca(), identity: None }, "wants a certificate"),
        (foreign, "an authority that the server does not know"),
        (ours("of-a-server", vec![uri(good)], true), "refuses this client's certificate"),
        (ours("two", vec![uri(good), uri("contact://fleet/agent/web-2")], false), "does not name one identity"),
        (ours("none", vec![SanType::DnsName("web-1".try_into().unwrap())], false), "does not name one identity"),
        (ours("nul", vec![uri("contact://fleet/agent/web-1%00")], false), "does not name one identity"),
        (ours("raw-nul", vec![uri("contact://fleet/agent/web-1\0x")], false), "does not name one identity"),
        (ours("encoded", vec![uri("contact://fleet/agent/%77eb-1")], false), "does not name one identity"),
        (Tls { ca: stranger.ca(), ..authority.client(good) }, "an authority that is not in --tls-ca"),
    ] {
        let worker = Watched::start(rig.listen(), Some("web-1"), Some(tls));
        let trouble = worker.trouble();
        assert!(trouble.contains(words), "{words:?} is not in {trouble:?}");
        assert!(worker.tasks.is_empty());
    }
    rig.operator.clients_until(|all| all.is_empty());
    let plain = Watched::start(rig.listen(), Some("web-1"), None);
    let trouble = plain.trouble();
    assert!(trouble.contains("speaks no gRPC"), "{trouble}: so the client asks what is there");
    let mut stream = TcpStream::connect(rig.listen()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("this port speaks TLS"), "{said}");
}

/// The client would see before it connects that its own is over: so the server is shown such a one by hand.
#[test]
fn certificates_out_of_their_time_are_refused() {
    let authority = Authority::new();
    let rig = Rig::with(|config| config.tls = Some(server_tls(&authority)));
    for valid in [Valid::Before, Valid::Later] {
        let files = authority.issue("late", vec![uri("contact://fleet/agent/web-1")], false, valid);
        let mut stream = Raw::tls(rig.listen(), &authority.ca(), Some(&files));
        let error = stream.read(&mut [0; 1]).unwrap_err().to_string();
        assert!(error.contains("CertificateExpired"), "{error}");
        let said = Worker::new(
            Config { tls: Some(Tls { ca: authority.ca(), identity: Some(files) }), ..Config::new(rig.listen()) },
            |_| "",
        );
        let said = said.start().unwrap_err().to_string();
        assert!(said.contains("expired") || said.contains("not valid before"), "{said}");
    }
}

#[test]
fn a_server_with_a_wrong_certificate_gets_no_word_of_a_client() {
    let authority = Authority::new();
    for (names, server, valid, words) in [
        (vec![SanType::DnsName("a.example".try_into().unwrap())], true, Valid::Now, "not for the name 127.0.0.1"),
        (vec![SanType::IpAddress([127, 0, 0, 1].into())], false, Valid::Now, "no certificate of a server"),
    ] {
        let (cert, key) = authority.issue("server", names, server, valid);
        let rig = Rig::with(|config| config.tls = Some(ServerTls { cert, key, client_ca: None }));
        let worker = Watched::start(rig.listen(), None, Some(Tls { ca: authority.ca(), identity: None }));
        let trouble = worker.trouble();
        assert!(trouble.contains(words), "{words:?} is not in {trouble:?}");
    }
}

/// Replaced on disk, and by a signal; what is wrong changes nothing.
#[test]
fn new_files_count_for_connections_from_then_on_and_wrong_ones_change_nothing() {
    let (authority, next) = (Authority::new(), Authority::new());
    let tls = ServerTls { client_ca: None, ..server_tls(&authority) };
    let mut server = Server::start(&[
        "--tls-cert",
        tls.cert.to_str().unwrap(),
        "--tls-key",
        tls.key.to_str().unwrap(),
        "--log",
        "info",
    ]);
    let (old, new) = (Tls { ca: authority.ca(), identity: None }, Tls { ca: next.ca(), identity: None });
    server.submit(&["a task"]);
    let stays = Watched::start(&server.listen, Some("stays"), Some(old.clone()));
    assert_eq!(stays.task(), "a task");
    let other_key = authority.server("other").1;
    let over = authority.issue("over", vec![SanType::IpAddress([127, 0, 0, 1].into())], true, Valid::Before);
    let log = |server: &mut Server, words: &str| {
        server.program().err.wait_for(words, |line| line.contains(words));
    };
    let read = |path: &PathBuf| fs::read(path).unwrap();
    let (good_cert, good_key) = (read(&tls.cert), read(&tls.key));
    let garbage = || b"garbage".to_vec();
    for (cert, key, words) in [
        (garbage(), good_key.clone(), "there is no certificate in it"),
        (good_cert.clone(), read(&other_key), "it is not the key of the certificate"),
        (good_cert.clone(), garbage(), "there is no private key in it"),
        (read(&over.0), read(&over.1), "the certificate expired"),
    ] {
        fs::write(&tls.cert, cert).unwrap();
        fs::write(&tls.key, key).unwrap();
        server.program().signal("HUP");
        log(&mut server, words);
        fs::write(&tls.cert, &good_cert).unwrap();
        fs::write(&tls.key, &good_key).unwrap();
        let comes = Watched::start(&server.listen, Some("comes"), Some(old.clone()));
        assert!(comes.lost.is_empty());
    }
    fs::remove_file(&tls.key).unwrap();
    log(&mut server, "it cannot be read");
    let comes = Watched::start(&server.listen, Some("comes too"), Some(old.clone()));
    assert_eq!(comes.task(), "a task");
    let (cert, key) = next.server("server");
    fs::copy(cert, &tls.cert).unwrap();
    fs::copy(key, &tls.key).unwrap();
    log(&mut server, "a new certificate is used");
    let comes = Watched::start(&server.listen, Some("comes later"), Some(new));
    assert_eq!(comes.task(), "a task");
    let trouble = Watched::start(&server.listen, Some("late"), Some(old)).trouble();
    assert!(trouble.contains("not in --tls-ca"), "{trouble}");
    server.submit(&["another"]);
    assert_eq!(stays.task(), "another");
    assert!(stays.lost.is_empty(), "who was there stays connected");
}

/// A connection that says what it likes.
pub(super) struct Raw;

impl Raw {
    pub(super) fn tls(
        server: &str,
        ca: &Path,
        files: Option<&(PathBuf, PathBuf)>,
    ) -> StreamOwned<ClientConnection, TcpStream> {
        let tls = Tls { ca: ca.to_owned(), identity: files.cloned() };
        Raw::over(server, &Arc::new(Raw::config(&tls, rustls::DEFAULT_VERSIONS)))
    }

    /// By whom the server is known, and what the client shows of itself.
    pub(super) fn config(tls: &Tls, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&tls.ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let Some((cert, key)) = &tls.identity else { return builder.with_no_client_auth() };
        let chain = vec![CertificateDer::from_pem_file(cert).unwrap()];
        builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
    }

    pub(super) fn over(server: &str, config: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let socket = TcpStream::connect(server).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), socket)
    }
}

const GET_TASK: &str = "/Contact/getTask";

/// Sends until it is cut off; how many bytes that took.
fn flood(mut stream: impl std::io::Write, mut next: impl FnMut(u32) -> Vec<u8>) -> usize {
    let mut sent = 0;
    let began = Instant::now();
    let mut send = |bytes: &[u8]| stream.write_all(bytes).map(|()| sent += bytes.len());
    let mut ended = send(PREFACE).and_then(|()| send(&frame(SETTINGS, 0, 0, &[])));
    let mut number = 1;
    while ended.is_ok() {
        assert!(began.elapsed() < DEADLINE, "it was not cut off");
        let some: Vec<u8> = (0..100)
            .flat_map(|_| {
                number += 2;
                next(number)
            })
            .collect();
        ended = send(&some);
    }
    sent
}

#[test]
fn floods_of_frames_are_cut_off_before_they_cost_anything_and_others_notice_nothing() {
    let authority = Authority::new();
    let files = authority.issue("bad", vec![uri("contact://fleet/agent/bad")], false, Valid::Now);
    let tls = authority.client("contact://fleet/agent/other");
    let server = Server::start(&authority.args().iter().map(String::as_str).collect::<Vec<_>>());
    are_cut_off(server, Some(tls), |listen| Raw::tls(listen, &authority.ca(), Some(&files)));
}

/// Where no certificates are asked for, everybody gets as far as that.
#[test]
fn floods_of_those_without_a_certificate_are_cut_off_too() {
    let authority = Authority::new();
    let args = authority.args();
    // All but --tls-client-ca.
    let server = Server::start(&args[..4].iter().map(String::as_str).collect::<Vec<_>>());
    let tls = Tls { ca: authority.ca(), identity: None };
    are_cut_off(server, Some(tls), |listen| Raw::tls(listen, &authority.ca(), None));
}

/// Where others reach a port without TLS, they do not reach C-core either.
#[test]
fn floods_of_frames_are_cut_off_without_tls_too_where_others_reach_a_port() {
    let server = Server::start_at("0.0.0.0:0", &["--insecure"]);
    are_cut_off(server, None, |listen| {
        let stream = TcpStream::connect(listen).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    });
}

/// Floods of each kind end early, while others work as before.
fn are_cut_off<S: std::io::Write>(mut server: Server, tls: Option<Tls>, connect: impl Fn(&str) -> S) {
    let listen = server.listen.replace("0.0.0.0", "127.0.0.1");
    let other = Watched::start(&listen, Some("other"), tls.clone());
    server.submit(&["before"]);
    assert_eq!(other.task(), "before");
    let others = bystander(&server, &listen, tls);
    let before = Memory::of(server.program()).most;
    let headers = http2::headers(GET_TASK, &[]);
    let reset = |stream: u32| {
        [frame(HEADERS, END_HEADERS, stream, &headers), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    let continuation = |stream: u32| match stream {
        3 => frame(HEADERS, 0, 3, &headers),
        _ => frame(CONTINUATION, 0, 3, b"\0\x01a\x01b"),
    };
    let ping = |_| frame(PING, 0, 0, &[0; 8]);
    let settings = |_| frame(SETTINGS, 0, 0, &[]);
    let empty = |_| frame(DATA, 0, 1, &[]);
    type Attack<'a> = &'a dyn Fn(u32) -> Vec<u8>;
    let attacks: [(&str, Attack<'_>); 5] = [
        ("rapid reset", &reset),
        ("CONTINUATION", &continuation),
        ("PING", &ping),
        ("SETTINGS", &settings),
        ("empty DATA", &empty),
    ];
    for (name, attack) in attacks {
        for _ in 0..3 {
            let sent = flood(connect(&listen), attack);
            // What fits into buffers of sockets on the way is sent before the end is seen.
            assert!(sent < 16 << 20, "{name}: {sent} bytes");
        }
        server.submit(&[name]);
        assert_eq!(other.task(), name);
    }
    assert!(other.lost.is_empty());
    others.felt_little("floods of frames");
    // C-core ends some of those with pings, and others, before.
    assert!(refused(&server, "flood") >= 9, "{}", refused(&server, "flood"));
    let took = Memory::of(server.program()).most - before;
    assert!(took < 96 << 20, "{} MiB", took >> 20);
}

/// One that works, over connections of its own.
fn bystander(server: &Server, listen: &str, tls: Option<Tls>) -> Bystander {
    let operator = Operator::of(&server.control);
    let worker = Watched::start(listen, Some("other/beside"), tls);
    Bystander::doing(move || {
        operator.submit_all(vec![to("other/beside", "beside")]);
        // What is for everyone comes to it, too.
        while worker.task() != "beside" {}
    })
}

/// How many connections the server says it refused, for that reason.
pub(super) fn refused(server: &Server, reason: &str) -> u64 {
    metric(server, &format!("contact_front_connections_refused_total{{reason=\"{reason}\"}}"))
}

fn metric(server: &Server, name: &str) -> u64 {
    let mut stream = TcpStream::connect(&server.http).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(' ')).unwrap().parse().unwrap()
}

/// Connections that say nothing, from several addresses: more than may be there at once.
#[test]
fn who_says_nothing_keeps_nobody_out() {
    let authority = Authority::new();
    let args = authority.args();
    let mut server = Server::start(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let address: SocketAddr = server.listen.parse().unwrap();
    let before = Memory::of(server.program()).now;
    let mut silent = Vec::new();
    for last in 2..=8 {
        for number in 0..200 {
            let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            bind(&socket, &SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
            connect(&socket, &address).unwrap();
            let mut stream = TcpStream::from(socket);
            if number % 2 == 0 {
                // The head of a record of TLS, and no more. The oldest are closed meanwhile.
                let _ = stream.write_all(&[0x16, 3, 1, 1]);
            }
            silent.push(stream);
        }
    }
    server.submit(&["a task"]);
    let began = Instant::now();
    let worker = Watched::start(&server.listen, Some("web-1"), Some(authority.client("contact://fleet/agent/web-1")));
    assert_eq!(worker.task(), "a task");
    assert!(worker.lost.is_empty());
    let took = Memory::of(server.program()).now.saturating_sub(before);
    assert!(took < 64 << 20, "{} MiB", took >> 20);
    // The oldest made room: that is counted.
    assert!(refused(&server, "slow") >= 300, "{}", refused(&server, "slow"));
    // All of them are closed within ten seconds of their coming.
    for mut stream in silent {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let ended = stream.read_to_end(&mut Vec::new());
        let waited = |e: &std::io::Error| [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&e.kind());
        assert!(!ended.as_ref().is_err_and(waited), "{ended:?} after {:?}", began.elapsed());
    }
}

/// One address has its share, in which the oldest make room for the newest, and those of others are not touched.
#[test]
fn who_comes_too_often_from_one_address_cuts_its_own_and_no_others() {
    let authority = Authority::new();
    let args = authority.args();
    let server = Server::start(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let address: SocketAddr = server.listen.parse().unwrap();
    let other = TcpStream::connect(address).unwrap();
    let mut silent = Vec::new();
    for _ in 0..300 {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
        connect(&socket, &address).unwrap();
        silent.push(TcpStream::from(socket));
    }
    server.submit(&["a task"]);
    let worker = Watched::start(&server.listen, Some("web-1"), Some(authority.client("contact://fleet/agent/web-1")));
    assert_eq!(worker.task(), "a task");
    assert!(refused(&server, "slow") >= 44);
    let is_there = |mut stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        stream.read(&mut [0; 1]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    };
    assert!(is_there(&other));
    assert_eq!(silent[..44].iter().filter(|stream| is_there(stream)).count(), 0);
}

/// As with TLS; and each client keeps its own address, though C-core has it from a front.
#[test]
fn a_port_without_tls_that_others_reach_bounds_connections_and_one_of_this_machine_alone_has_no_front() {
    let mut server = Server::start_at("0.0.0.0:0", &["--insecure", "--log", "info"]);
    let listen = server.listen.replace("0.0.0.0", "127.0.0.1");
    let silent: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(&listen).unwrap()).collect();
    server.submit(&["a task"]);
    let worker = Watched::start(&listen, Some("web-1"), None);
    assert_eq!(worker.task(), "a task");
    assert!(worker.lost.is_empty());
    assert!(refused(&server, "slow") >= 44, "the oldest made room");
    server.program().err.wait_for("its address", |line| line.contains("\"web-1\" at ipv4:127.0.0.1:"));
    assert_eq!(metric(&server, "contact_front_connections"), 1);
    drop(silent);
    // One that speaks TLS is told what is wrong.
    let mut stream = TcpStream::connect(&listen).unwrap();
    stream.write_all(&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("this port does not speak TLS: leave out --tls-ca"), "{said}");

    let here = Server::start(&[]);
    here.submit(&["a task"]);
    let worker = Watched::start(&here.listen, Some("web-1"), None);
    assert_eq!(worker.task(), "a task");
    assert_eq!(metric(&here, "contact_front_connections"), 0);
}

/// A server with an authority of its own, and a port that was free.
pub(super) fn public() -> Rig {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    Rig::with(|config| {
        config.listen = format!("127.0.0.1:{port}");
        config.public = Some(config.listen.clone());
    })
}

pub(super) fn invite(rig: &Rig, group: &str, uses: u32, lasts_ms: u64) -> Invitation {
    let request = pb::InviteRequest { group: group.into(), uses, lasts_ms, ..Default::default() };
    let answer = block_on(rig.operator.control.invite(&request, patient()).unwrap()).unwrap();
    Invitation::parse(&answer.invitation).unwrap()
}

/// Joins, and keeps what came of it in a folder.
pub(super) fn joined(invitation: &Invitation, name: &str) -> (TempDir, Tls) {
    let folder = tempfile::tempdir().unwrap();
    let state = JoinState(folder.path());
    state.keep(&invitation.join(name).unwrap(), &invitation.server).unwrap();
    let tls = state.tls();
    (folder, tls)
}

#[test]
fn who_was_invited_joins_works_renews_and_is_revoked_at_once() {
    let rig = public();
    let invitation = invite(&rig, "workers", 1, 60_000);
    let (folder, tls) = joined(&invitation, "web-1");
    let state = JoinState(folder.path());
    assert_eq!(state.read(), Some(("web-1".into(), Some("workers".into()), rig.listen().into())));
    assert!(!state.is_due());
    let private = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o077 == 0;
    let all = [folder.path().to_owned(), rig.config.data.join("tls")];
    for folder in all {
        let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        assert!(files.filter(|path| !private(path)).count() == 0 && fs::read_dir(&folder).unwrap().count() >= 3);
    }
    rig.operator.submit(&["a task"]);
    let worker = Watched::start(rig.listen(), Some("web-1"), Some(tls.clone()));
    assert_eq!(worker.task(), "a task");

    // The one use is used up, and no secret that was made up is taken.
    let refused = invitation.join("web-2").err().unwrap().to_string();
    assert!(refused.contains("used up"), "{refused}");
    let late = invite(&rig, "", 9, 0);
    assert!(late.join("web-3").err().unwrap().to_string().contains("is over"));

    // Another group is not its own.
    let config = Config {
        group: Some("others".into()),
        id: Some("web-1".into()),
        tls: Some(tls.clone()),
        ..Config::new(rig.listen())
    };
    let refused = ended(Worker::new(config, |_| "").start().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("takes no part in the group others"), "{refused}");

    // Another certificate for another key; the old one goes on until it is over.
    let renewed = renew(rig.listen(), &tls).unwrap();
    let kept = || fs::read_to_string(folder.path().join("client.pem")).unwrap();
    assert!(!kept().contains(&renewed.key));
    state.keep(&renewed, rig.listen()).unwrap();
    assert_eq!(kept(), format!("{}{}", renewed.certificate, renewed.key), "both in one file, which is changed at once");

    let list = || {
        block_on(rig.operator.control.list_identities(&pb::ListIdentitiesRequest::new(), patient()).unwrap())
            .unwrap()
            .identities
    };
    assert_eq!(list().iter().map(|one| (one.name.as_str(), one.revoked)).collect::<Vec<_>>(), [("web-1", false)]);
    while worker.lost.try_recv().is_ok() {}
    let request = pb::RevokeIdentityRequest { name: "web-1".into(), ..Default::default() };
    let ended = block_on(rig.operator.control.revoke_identity(&request, patient()).unwrap()).unwrap();
    assert!(ended.connections >= 1);
    // First its connection ends, then the next is refused.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let trouble = worker.trouble();
        if trouble.contains("it was revoked") {
            break;
        }
        assert!(Instant::now() < deadline, "{trouble}");
    }
    rig.operator.clients_until(|all| all.is_empty());
    let refused = renew(rig.listen(), &tls).err().unwrap().to_string();
    assert!(refused.contains("it was revoked"), "{refused}");
    assert!(list()[0].revoked);
}

#[test]
fn an_invitation_is_good_for_as_many_as_it_says_however_many_come_at_once() {
    let rig = public();
    let invitation = invite(&rig, "", 3, 60_000);
    let came = std::thread::scope(|scope| {
        let joining: Vec<_> =
            (0..8).map(|_| scope.spawn(|| invitation.join("same").map(|joined| joined.name))).collect();
        joining.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
    });
    let mut names: Vec<_> = came.into_iter().flatten().collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3, "{names:?}: each has a name of its own");
    assert!(names.iter().all(|name| name == "same" || name.starts_with("same-")));
}

/// After a restart it is the same authority, and knows whom it has revoked.
#[test]
fn what_was_issued_and_revoked_stays_so_after_a_restart() {
    let mut rig = public();
    let invitation = invite(&rig, "", 2, 3_600_000);
    let (_one, good) = joined(&invitation, "good");
    let (_other, bad) = joined(&invitation, "bad");
    let request = pb::RevokeIdentityRequest { name: "bad".into(), ..Default::default() };
    block_on(rig.operator.control.revoke_identity(&request, patient()).unwrap()).unwrap();
    rig.restart();
    rig.operator.submit(&["a task"]);
    let worker = Watched::start(rig.listen(), Some("good"), Some(good));
    assert_eq!(worker.task(), "a task");
    let worker = Watched::start(rig.listen(), Some("bad"), Some(bad));
    let trouble = worker.trouble();
    assert!(trouble.contains("it was revoked"), "{trouble}");
    assert!(invitation.join("late").err().unwrap().to_string().contains("used up"));
}

/// As a user would: three commands.
#[test]
fn a_fleet_is_set_up_by_an_invitation() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let server = Server::start_at(&address, &["--public", &address]);
    let invited = server.ctl(&["invite", "--group", "workers"]);
    let line = invited[0]["invitation"].as_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let client = |join: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_contact-client"));
        command.args(["--state", state.to_str().unwrap(), "--exec", "tr a-z A-Z"]).args(join);
        Program::spawn("contact-client", &mut command).unwrap()
    };
    server.ctl(&["submit", "--to", "workers", "hello"]);
    let mut first = client(&["--join", line]);
    let text = |results: Vec<serde_json::Value>| results.last().unwrap()["ret"].as_str().unwrap().to_owned();
    assert_eq!(text(server.done(1)).trim(), "HELLO");
    first.signal("TERM");
    assert!(first.ended().success());
    // As it was kept before certificate and key were one file.
    let one_file = fs::read_to_string(state.join("client.pem")).unwrap();
    let (certificate, key) = one_file.split_at(one_file.find("-----BEGIN PRIVATE KEY").unwrap());
    fs::write(state.join("client.pem"), certificate).unwrap();
    fs::write(state.join("client.key"), key).unwrap();
    let _second = client(&[]);
    server.ctl(&["submit", "--to", "workers", "again"]);
    assert_eq!(text(server.done(2)).trim(), "AGAIN");
    assert_eq!(fs::read_to_string(state.join("client.pem")).unwrap(), one_file);
    assert!(!state.join("client.key").exists());

    let mut third = client(&[]);
    assert_eq!(third.ended().code(), Some(2));
    let said = third.err.so_far().join("\n");
    assert!(said.contains("another client runs with --state") && said.contains("a folder of its own"), "{said}");
    assert_eq!(server.ctl(&["identity", "list"]).len(), 1);

    // Where no folder is said, and with the same line again though it is used up. Another one joins anew.
    let place = folder.path().join("place");
    fs::create_dir(&place).unwrap();
    let invite = || server.ctl(&["invite"])[0]["invitation"].as_str().unwrap().to_owned();
    let joins = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_contact-client"));
        command.args(["--join", line, "--id", "moved"]).current_dir(&place);
        let client = Program::spawn("contact-client", &mut command).unwrap();
        client.err.wait_for("that it is in", |line| line.contains("connected to"));
        let identities = server.ctl(&["identity", "list"]);
        let moved = identities.iter().filter(|one| one["name"].as_str().unwrap().starts_with("moved")).count();
        let joined =
            client.err.so_far().iter().any(|line| line.contains("later starts need only --state contact-state"));
        (moved, joined)
    };
    let line = invite();
    assert_eq!([joins(&line), joins(&line)], [(1, true), (1, false)]);
    server.ctl(&["identity", "revoke", "moved"]);
    assert_eq!(joins(&invite()), (2, true));

    // One for a client of another kind.
    let dir = folder.path().to_str().unwrap();
    server.ctl(&["cert", "issue", "python-1", "--dir", dir]);
    let at = |name: &str| folder.path().join(name);
    let tls = Tls { ca: at("ca.pem"), identity: Some((at("python-1.pem"), at("python-1.key"))) };
    server.ctl(&["submit", "for everyone"]);
    assert_eq!(Watched::start(&address, Some("python-1"), Some(tls)).task(), "for everyone");
}

/// Who issues the first operator's certificate: the operator's token on this machine is enough, also where others reach the port.
#[test]
fn operators_of_this_machine_need_no_tls_where_others_do() {
    let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (public, control) = (port(), port());
    let public = format!("127.0.0.1:{public}");
    let rig = Rig::with(|config| {
        config.listen.clone_from(&public);
        config.public = Some(public.clone());
        config.control = format!("0.0.0.0:{control}");
    });
    let ctl = |data: &Path, server: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
        command.args(["--server", server]).args(args).env("CONTACT_DATA", data);
        command.output().unwrap()
    };
    let (here, folder) = (format!("127.0.0.1:{control}"), tempfile::tempdir().unwrap());
    let dir = folder.path().to_str().unwrap();
    let issue = ["cert", "issue", "ann", "--operator", "--dir", dir];
    let without = ctl(folder.path(), &here, &issue);
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(!without.status.success() && said.contains("token"), "{said}");
    let issued = ctl(&rig.config.data, &here, &issue);
    assert!(issued.status.success(), "{}", String::from_utf8_lossy(&issued.stderr));
    // From elsewhere there is no way without TLS, and with it the certificate is the credential.
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (at("ca.pem"), at("ann.pem"), at("ann.key"));
    let shown = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key, "groups"];
    let by_tls = ctl(folder.path(), &here, &shown);
    assert!(by_tls.status.success(), "{}", String::from_utf8_lossy(&by_tls.stderr));
    let elsewhere = local_address();
    if let Some(address) = elsewhere {
        let refused = ctl(&rig.config.data, &format!("{address}:{control}"), &["groups"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("TLS"), "{said}");
    }
}

/// An address of this machine that others reach, if it has one. Nothing is sent to find out.
fn local_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then_some(address)
}

/// What a connection was given to send, and has not sent yet, as its peer counts it.
struct Windows {
    connection: u32,
    streams: Vec<u32>,
    answered: u64,
}

impl Windows {
    /// Reads until the server has answered this ping. All streams are those with odd numbers.
    fn hear(&mut self, stream: &mut (impl std::io::Read + std::io::Write), ping: u64) {
        stream.write_all(&frame(PING, 0, 0, &ping.to_be_bytes())).unwrap();
        while self.answered < ping {
            let Frame { kind, flags, stream: of, payload } =
                read_frame(stream).unwrap_or_else(|e| panic!("the server ended the connection: {e}"));
            match (kind, flags, of) {
                (RST_STREAM | GOAWAY, ..) => panic!("the server refused: {kind} of {of}: {payload:?}"),
                (SETTINGS, 0, _) => {
                    for setting in payload.chunks(6).filter(|setting| setting[..2] == INITIAL_WINDOW_SIZE) {
                        self.streams.fill(http2::number(&setting[2..]));
                    }
                    stream.write_all(&frame(SETTINGS, ACK, 0, &[])).unwrap();
                }
                (PING, ACK, _) => self.answered = u64::from_be_bytes(payload.try_into().unwrap()),
                (PING, ..) => stream.write_all(&frame(PING, ACK, 0, &payload)).unwrap(),
                (WINDOW_UPDATE, _, 0) => self.connection += http2::number(&payload),
                (WINDOW_UPDATE, ..) => self.streams[of as usize / 2] += http2::number(&payload),
                _ => {}
            }
        }
    }
}

/// Long links need windows of megabytes. Of who sends over streams that nobody reads, next to nothing of each is taken all the same.
#[test]
fn streams_that_nobody_reads_take_a_bounded_memory_though_a_connection_has_a_large_window() {
    const STREAMS: usize = 200;
    const CONNECTIONS: usize = 4;
    let authority = Authority::new();
    let files = authority.issue("bad", vec![uri("contact://fleet/agent/bad")], false, Valid::Now);
    let mut server = Server::start(&authority.args().iter().map(String::as_str).collect::<Vec<_>>());
    let tls = authority.client("contact://fleet/agent/other");
    let listen = server.listen.clone();
    let other = Watched::start(&listen, Some("other"), Some(tls.clone()));
    server.submit(&["before"]);
    assert_eq!(other.task(), "before");
    let others = bystander(&server, &listen, Some(tls));
    let before = Memory::of(server.program()).now;
    let mut open = Vec::new();
    for connection in 0..CONNECTIONS {
        let mut stream = Raw::tls(&listen, &authority.ca(), Some(&files));
        let mut windows = Windows { connection: 65_535, streams: vec![65_535; STREAMS], answered: 0 };
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).unwrap();
        windows.hear(&mut stream, 1);
        // It becomes smaller when memory is taken.
        let least = if connection == 0 { 1 << 20 } else { 64 << 10 };
        assert!(windows.connection >= least, "{} bytes are too few for a long link", windows.connection);
        let number = |of: usize| of as u32 * 2 + 1;
        // A message that is read, for each: then it has its tasks, and reads nothing more.
        for of in 0..STREAMS {
            let id = format!("bad/{connection}/{of}");
            let headers = http2::headers(GET_TASK, &[("contact-client", id.as_bytes())]);
            let message = frame(DATA, 0, number(of), &[0; 5]);
            stream.write_all(&[frame(HEADERS, END_HEADERS, number(of), &headers), message].concat()).unwrap();
            (windows.connection, windows.streams[of]) = (windows.connection - 5, windows.streams[of] - 5);
        }
        let (mut sent, mut ping, mut full) = ([0; STREAMS], 1, 0);
        // Messages of 60 kB, for as long as there is room for a whole frame; that there is none, it says twice.
        while full < 2 {
            full += 1;
            for (of, sent) in sent.iter_mut().enumerate() {
                while windows.streams[of] >= 15_000 && windows.connection >= 15_000 {
                    let mut data = vec![b'x'; 15_000];
                    if *sent % 4 == 0 {
                        data[..5].copy_from_slice(&[0, 0, 0, 0xea, 0x5b]);
                    }
                    stream.write_all(&frame(DATA, 0, number(of), &data)).unwrap();
                    (windows.connection, windows.streams[of]) =
                        (windows.connection - 15_000, windows.streams[of] - 15_000);
                    (*sent, full) = (*sent + 1, 0);
                }
            }
            ping += 1;
            windows.hear(&mut stream, ping);
        }
        let taken = sent.iter().sum::<usize>() * 15_000 / STREAMS;
        // Beside the window a message or two that C-core reads ahead, and eight streams with 1 MiB.
        assert!((45_000..=256 << 10).contains(&taken), "{taken} bytes of a stream");
        open.push(stream);
    }
    let took = Memory::of(server.program()).now.saturating_sub(before);
    println!("{} unread streams take {} MiB", CONNECTIONS * STREAMS, took >> 20);
    assert!(took < (CONNECTIONS * STREAMS * 320) << 10, "{} MiB", took >> 20);
    others.felt_little("unread streams");
    drop(open);
}
