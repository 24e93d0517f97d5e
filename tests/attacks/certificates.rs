//! Certificates of the server's own authority: what one that has one, or would like one, may try.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use contact::client::{Invitation, JoinState, Tls};
use contact::server::ServerTls;
use contact::wire::contact::{JoinRequest, JoinResponse};
use contact::wire::control as pb;
use futures::executor::block_on;
use protobuf::Message as _;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, HandshakeKind};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::bystander::Bystander;
use super::door::{Raw, Watched, invite, joined, public, uri};
use crate::common::http2::{PREFACE, SETTINGS, frame, read_frame};
use crate::common::program::Program;
use crate::common::server::Server;
use crate::rig::{Operator, Rig, patient, to};
use crate::server::memory::Memory;

/// Speaks HTTP/2 until the server has said something; an error if it would not.
fn speaks(server: &str, config: &Arc<ClientConfig>) -> Result<Option<HandshakeKind>, String> {
    let mut stream = Raw::over(server, config);
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&begin).map_err(|e| e.to_string())?;
    let first = read_frame(&mut stream).map_err(|e| e.to_string())?;
    assert_eq!(first.kind, SETTINGS, "the server says how it is set");
    Ok(stream.conn.handshake_kind())
}

/// A client that keeps whatever would let it come back without its certificate.
#[test]
fn no_session_of_tls_is_resumed_so_that_who_is_revoked_does_not_come_back_by_one() {
    let rig = public();
    let (_folder, tls) = joined(&invite(&rig, "", 1, 60_000), "web-1");
    let clients = [&rustls::version::TLS12, &rustls::version::TLS13].map(|version| {
        let mut config = Raw::config(&tls, &[version]);
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(8)));
        Arc::new(config)
    });
    for client in &clients {
        for _ in 0..3 {
            assert_eq!(speaks(rig.listen(), client), Ok(Some(HandshakeKind::Full)));
        }
    }
    let request = pb::RevokeIdentityRequest { name: "web-1".into(), ..Default::default() };
    block_on(rig.operator.control.revoke_identity(&request, patient()).unwrap()).unwrap();
    for client in &clients {
        let refused = speaks(rig.listen(), client).unwrap_err();
        assert!(refused.contains("CertificateRevoked"), "{refused}");
    }
}

/// Asks for a certificate, with the request as it is.
fn ask(server: &str, config: &Arc<ClientConfig>, request: &JoinRequest) -> JoinResponse {
    let mut stream = Raw::over(server, config);
    let request = request.write_to_bytes().unwrap();
    stream.write_all(&[&(request.len() as u32).to_be_bytes()[..], &request].concat()).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    JoinResponse::parse_from_bytes(&answer).unwrap()
}

/// The secret of an invitation.
fn secret(invitation: &str) -> &str {
    invitation.rsplit_once('.').unwrap().1
}

fn invitation(rig: &Rig, uses: u32) -> String {
    let request = pb::InviteRequest { uses, lasts_ms: 60_000, ..Default::default() };
    block_on(rig.operator.control.invite(&request, patient()).unwrap()).unwrap().invitation
}

/// For one who joins: it knows the authority, and shows nothing.
fn joining(rig: &Rig) -> Arc<ClientConfig> {
    let tls = Tls { ca: rig.config.data.join("tls/ca.pem"), identity: None };
    let mut config = Raw::config(&Tls { identity: None, ..tls }, rustls::DEFAULT_VERSIONS);
    config.alpn_protocols = vec![b"contact-join/1".to_vec()];
    Arc::new(config)
}

#[test]
fn a_request_for_a_certificate_gets_a_key_certified_and_none_of_the_names_it_asks_for() {
    let rig = public();
    let line = invitation(&rig, 1);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".into(), "agents.example".into()]).unwrap();
    params.subject_alt_names.extend([uri("contact://fleet/operator/root"), uri("contact://fleet/agent/other")]);
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    params.distinguished_name.push(DnType::CommonName, "root");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any];
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let request = |csr: &str, name: &str| JoinRequest {
        secret: secret(&line).into(),
        name: name.into(),
        csr: csr.into(),
        ..JoinRequest::default()
    };
    // What is wrong uses nothing up.
    for (csr, name) in [("", "web-1"), ("garbage", "web-1"), (&csr, ""), (&csr, "a\u{202e}b"), (&csr, "a\nb")] {
        assert_ne!(ask(rig.listen(), &joining(&rig), &request(csr, name)).refused, "", "{name:?}");
    }
    let answer = ask(rig.listen(), &joining(&rig), &request(&csr, "web-1"));
    assert_eq!((answer.refused.as_str(), answer.name.as_str()), ("", "web-1"));
    let der = CertificateDer::from_pem_slice(answer.certificate.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap().value;
    assert_eq!(names.general_names, [GeneralName::URI("contact://fleet/agent/web-1")]);
    assert_eq!(certificate.subject().to_string(), "CN=web-1");
    assert!(!certificate.is_ca());
    let purposes = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && !purposes.server_auth && !purposes.any, "{purposes:?}");

    // Nor is it taken for the server by other agents of the same authority, whatever stands in the way to the real one.
    let folder = tempfile::tempdir().unwrap();
    let (cert, pem_key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&cert, &answer.certificate).unwrap();
    fs::write(&pem_key, key.serialize_pem()).unwrap();
    let false_one = Rig::with(|config| config.tls = Some(ServerTls { cert, key: pem_key, client_ca: None }));
    let (_other, tls) = joined(&Invitation::parse(&invitation(&rig, 1)).unwrap(), "web-2");
    let worker = Watched::start(false_one.listen(), Some("web-2"), Some(tls));
    let trouble = worker.trouble();
    assert!(trouble.contains("certificate") && trouble.contains("server"), "{trouble}");
    false_one.operator.clients_until(|all| all.is_empty());
}

#[test]
fn who_guesses_at_invitations_gets_in_nowhere_and_costs_others_little() {
    const GUESSES: usize = 400;
    let (mut server, dir) = public_server();
    let address = server.listen.clone();
    let line = server.ctl(&["invite"])[0]["invitation"].as_str().unwrap().to_owned();
    server.ctl(&["cert", "issue", "other", "--dir", dir.to_str().unwrap()]);
    let at = |name: &str| dir.join(name);
    let tls = Tls { ca: at("ca.pem"), identity: Some((at("other.pem"), at("other.key"))) };
    let worker = Watched::start(&address, Some("other"), Some(tls.clone()));
    let operator = Operator::of(&server.control);
    let others = Bystander::doing(move || {
        operator.submit_all(vec![to("other", "beside")]);
        assert_eq!(worker.task(), "beside");
    });
    let before = Memory::of(server.program()).now;
    let good = secret(&line);
    let close = [
        String::new(),
        good[..good.len() - 1].to_owned(),
        format!("{good}0"),
        good.to_lowercase(),
        good.chars().rev().collect(),
        format!("{good}\n"),
    ];
    let csr = CertificateParams::new(Vec::new()).unwrap();
    let csr = csr.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let mut config = Raw::config(&Tls { identity: None, ..tls }, rustls::DEFAULT_VERSIONS);
    config.alpn_protocols = vec![b"contact-join/1".to_vec()];
    let config = Arc::new(config);
    let (config, csr, close, address) = (&config, &csr, &close, &address);
    thread::scope(|scope| {
        for guesser in 0..4 {
            scope.spawn(move || {
                for n in 0..GUESSES / 4 {
                    let made_up = format!("{:0>43}", guesser * GUESSES + n);
                    let secret = close.get(n).unwrap_or(&made_up).clone();
                    let request =
                        JoinRequest { secret, name: "evil".into(), csr: csr.clone(), ..JoinRequest::default() };
                    let answer = ask(address, config, &request);
                    assert!(answer.refused.contains("is not known here") && answer.certificate.is_empty(), "{answer}");
                }
            });
        }
    });
    others.felt_little("guesses at an invitation");
    let grown = Memory::of(server.program()).most.saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
    // They fill no log: a line a second at most, and the next says how many there were.
    let said = server.program().err.so_far().iter().filter(|line| line.contains("no certificate")).count();
    assert!((1..GUESSES / 4).contains(&said), "{said} lines");
    // And it is still good for the one who has it.
    assert_eq!(Invitation::parse(&line).unwrap().join("web-1").unwrap().name, "web-1");
}

/// What an operator elsewhere has open ends, and contactctl says why nothing can be opened any more.
#[test]
fn an_operator_that_is_revoked_is_out_at_once() {
    let (mut server, dir) = public_server();
    server.ctl(&["cert", "issue", "ann", "--operator", "--dir", dir.to_str().unwrap()]);
    let files = ["--tls-ca", "ca.pem", "--tls-cert", "ann.pem", "--tls-key", "ann.key"];
    let files =
        files.map(|word| if word.starts_with('-') { word.into() } else { dir.join(word).display().to_string() });
    let running = |args: &[&str]| {
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        server.ctl_running(&[args, &files].concat())
    };
    server.submit(&["before"]);
    let mut follows = running(&["tasks", "--all", "--follow"]);
    follows.out.wait_for("a task", |line| line.contains("before"));
    let revoked = server.ctl(&["identity", "revoke", "ann"]).remove(0);
    assert_eq!(revoked["connections"], 1, "{revoked}");
    assert_eq!(follows.ended().code(), Some(3), "the server went away");
    let mut again = running(&["groups"]);
    assert_ne!(again.ended().code(), Some(0));
    again.err.wait_for("why", |line| line.contains("it was revoked"));
    let mut doctor = running(&["doctor"]);
    assert_ne!(doctor.ended().code(), Some(0));
    doctor.out.wait_for("why", |line| line.contains("it was revoked"));
    let record = |line: &str| line.contains("IssueCertificate name: \"ann\" operator: true lasts_ms: ");
    let line = server.program().err.wait_for("who did that", record);
    assert!(!line.contains("csr"), "{line}");
}

/// A server with an authority, and its data folder.
fn public_server() -> (Server, PathBuf) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let server = Server::start_at(&address, &["--public", &address]);
    let dir = server.data();
    (server, dir)
}

/// Names and modes of the files in a folder and below it that others may read.
fn open_to_others(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let of = |entry: fs::DirEntry| {
        let (path, mode) = (entry.path(), entry.metadata().unwrap().permissions().mode() & 0o777);
        let mut open = if path.is_dir() { open_to_others(&path) } else { Vec::new() };
        if mode & 0o077 != 0 {
            open.push(format!("{} {mode:o}", path.display()));
        }
        open
    };
    entries.flat_map(of).collect()
}

#[test]
fn keys_tokens_and_what_a_client_keeps_are_for_their_owner_alone_whatever_the_umask() {
    let umask_000 = |program: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", "umask 000; exec \"$0\" \"$@\"", program]);
        command
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let folder = tempfile::tempdir().unwrap();
    let (data, state, issued) = (folder.path().join("data"), folder.path().join("state"), folder.path().join("issued"));
    fs::create_dir(&issued).unwrap();
    let flags = ["--public", &address, "--auth", "required", "--listen", &address];
    let mut command = umask_000(env!("CARGO_BIN_EXE_contact-server"));
    command.args(flags).args(["--control", "127.0.0.1:0", "--http", "off", "--data"]).arg(&data);
    let server = Program::spawn("contact-server", &mut command).unwrap();
    let line = server.out.wait_for("its addresses", |line| line.starts_with("listening on"));
    let control = line.split("control on ").nth(1).unwrap().to_owned();
    let ctl = |args: &[&str]| {
        let mut command = umask_000(env!("CARGO_BIN_EXE_contactctl"));
        let output = command.args(args).args(["--server", &control]).env("CONTACT_DATA", &data).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    ctl(&["token", "create", "ci", "--role", "submit"]);
    ctl(&["cert", "issue", "python-1", "--dir", issued.to_str().unwrap()]);
    let line = ctl(&["invite"]);
    let invitation = line.split(' ').find(|word| word.starts_with(&address)).unwrap();
    let mut client = umask_000(env!("CARGO_BIN_EXE_contact-client"));
    client.args(["--join", invitation, "--state"]).arg(&state);
    let client = Program::spawn("contact-client", &mut client).unwrap();
    client.err.wait_for("that it is in", |line| line.contains("connected to"));
    for folder in [&data, &state, &issued] {
        assert_eq!(open_to_others(folder), [""; 0]);
        assert!(fs::read_dir(folder).unwrap().count() >= 3);
    }
    assert!(JoinState(&state).read().is_some());
}
