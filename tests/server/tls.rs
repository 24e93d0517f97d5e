//! Which ports are served how.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use contact::client::Tls;
use contact::server::{Server as InProcess, ServerError, ServerTls};
use rcgen::SanType;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::common::authority::{Authority, Valid};
use crate::common::program::Program;
use crate::common::server::Server;
use crate::rig::Rig;

/// A server that shows this certificate to all who come, and speaks no more.
struct Shown {
    address: String,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Shown {
    fn start((cert, key): (PathBuf, PathBuf)) -> Shown {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let chain = vec![CertificateDer::from_pem_file(cert).unwrap()];
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, over) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicBool::new(false)));
        let is_over = over.clone();
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream.unwrap());
                // Until the other side has had enough of it.
                let _ = tls.read(&mut [0]);
            }
        });
        Shown { address, over, thread: Some(thread) }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn what_is_wrong_with_a_servers_certificate_is_said_in_words_by_all_programs() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let here = || vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let named = |name: &str| vec![SanType::DnsName(name.try_into().unwrap())];
    let tls = Tls { ca: authority.ca(), identity: None };
    for (files, words) in [
        (stranger.server("foreign"), "comes from an authority that is not in --tls-ca"),
        (authority.issue("over", here(), true, Valid::Before), "has expired (2021-01-01T00:00:00Z)"),
        (authority.issue("later", here(), true, Valid::Later), "is not valid yet (2110-01-01T00:00:00Z); is the clock"),
        (authority.issue("other", named("a.example"), true, Valid::Now), "is not for the name 127.0.0.1, but for"),
        (authority.issue("client", here(), false, Valid::Now), "is no certificate of a server"),
    ] {
        let server = Shown::start(files);
        let mut client = Command::new(env!("CARGO_BIN_EXE_contact-client"));
        client.args(["--server", &server.address, "--tls-ca"]).arg(&tls.ca);
        let client = Program::spawn("contact-client", &mut client).unwrap();
        client.err.wait_for(words, |line| line.contains(words));
        drop(client);
        for args in [&["doctor", "--server", &server.address][..], &["groups", "--server", &server.address]] {
            let (code, said) = ctl(args, Some(&tls));
            assert!(said.contains(words), "{args:?}: {words:?} is not in {said:?}");
            assert_ne!(code, Some(0), "{said}");
        }
    }
}

/// contactctl to its end: its exit code, and what it said.
fn ctl(args: &[&str], tls: Option<&Tls>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    command.args(args);
    if let Some(Tls { ca, identity }) = tls {
        command.arg("--tls-ca").arg(ca);
        if let Some((cert, key)) = identity {
            command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
        }
    }
    let mut program = Program::spawn("contactctl", &mut command).unwrap();
    let code = program.ended().code();
    let said: Vec<String> = [program.out.so_far(), program.err.so_far()].into_iter().flatten().collect();
    (code, said.join("\n"))
}

#[test]
fn a_port_that_others_reach_is_refused_without_tls() {
    let rig = Rig::start();
    for (listen, control, http, flag) in [
        ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.1:0", "--listen"),
        ("[::]:0", "127.0.0.1:0", "127.0.0.1:0", "--listen"),
        ("127.0.0.1:0", "0.0.0.0:0", "127.0.0.1:0", "--control"),
        ("127.0.0.1:0", "127.0.0.1:0", "0.0.0.0:0", "--http"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = rig.config.clone();
        config.data = folder.path().join("data");
        (config.listen, config.control, config.http) = (listen.into(), control.into(), Some(http.into()));
        let refused = InProcess::start(config.clone()).err().unwrap();
        assert!(matches!(refused, ServerError::Exposed { flag: named, .. } if named == flag), "{refused}");
        assert!(refused.to_string().contains("--insecure"), "{refused}");
        config.insecure = true;
        let served = InProcess::start(config).unwrap();
        served.stop().unwrap();
    }
}

/// As soon as one port is for others, on all of them.
#[test]
fn with_tls_and_no_certificates_of_clients_callers_on_a_port_for_others_need_tokens() {
    let authority = Authority::new();
    let (cert, key) = authority.server("server");
    let folder = tempfile::tempdir().unwrap();
    let mut config = Rig::start().config.clone();
    config.tls = Some(ServerTls { cert, key, client_ca: None });
    (config.listen, config.data) = ("0.0.0.0:0".into(), folder.path().join("data"));
    let file = config.data.join("operator.token");
    for control in ["0.0.0.0:0", "127.0.0.1:0"] {
        config.control = control.into();
        let server = InProcess::start(config.clone()).unwrap();
        let control = server.control().replace("0.0.0.0", "127.0.0.1");
        let tls = Tls { ca: authority.ca(), identity: None };
        let submit = ["submit", "--server", &control, "a task"];
        let (code, said) = ctl(&submit, Some(&tls));
        assert!(code == Some(4) && said.contains("--token-file"), "{said}");
        let named = ["--token-file", file.to_str().unwrap()];
        assert_eq!(ctl(&[&submit[..], &named].concat(), Some(&tls)).0, Some(0));
        server.stop().unwrap();
    }
    config.insecure = true;
    let server = InProcess::start(config).unwrap();
    assert_eq!(ctl(&["submit", "--server", server.control(), "a task"], None).0, Some(0));
    server.stop().unwrap();
}

#[test]
fn operators_elsewhere_show_a_certificate_of_an_operator() {
    let authority = Authority::new();
    let (cert, key) = authority.server("server");
    let tls = ServerTls { cert, key, client_ca: Some(authority.ca()) };
    let folder = tempfile::tempdir().unwrap();
    let mut config = Rig::start().config.clone();
    (config.control, config.tls, config.data) = ("0.0.0.0:0".into(), Some(tls), folder.path().join("data"));
    let server = InProcess::start(config).unwrap();
    let control = server.control().replace("0.0.0.0", "127.0.0.1");
    let (operator, agent) =
        (authority.client("contact://fleet/operator/ann"), authority.client("contact://fleet/agent/web-1"));
    let submit = ["submit", "--server", &control, "a task"];
    assert_eq!(ctl(&submit, Some(&operator)).0, Some(0));
    let (code, said) = ctl(&submit, Some(&agent));
    assert_ne!(code, Some(0), "{said}");
    let (code, said) = ctl(&submit, Some(&Tls { ca: authority.ca(), identity: None }));
    assert!(code != Some(0) && said.contains("wants a certificate"), "{said}");
    let (code, said) = ctl(&submit, None);
    assert!(code == Some(1) && said.contains("this port speaks TLS: give --tls-ca"), "{said}");
    assert!(ctl(&["tasks", "--all", "--server", &control], Some(&operator)).1.contains("a task"));
    // An operator takes no tasks.
    let (_, said) = ctl(&["doctor", "--server", &control, "--listen", server.listen()], Some(&operator));
    assert!(said.contains("clients"), "{said}");
    server.stop().unwrap();
}

#[test]
fn the_doctor_says_what_is_wrong_with_certificates() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let args = authority.args();
    let server = Server::start(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let doctor = ["doctor", "--server", &server.control];
    // Operators of this machine need no TLS, but use it if they say so.
    let agent = authority.client("contact://fleet/agent/web-1");
    let (_, said) = ctl(&doctor, None);
    assert!(said.contains("--tls-ca"), "{said}");
    let (_, said) = ctl(&doctor, Some(&Tls { ca: stranger.ca(), ..agent }));
    assert!(said.contains("an authority that is not in --tls-ca"), "{said}");
}
