//! NATS servers that speak TLS, and let in whom they know.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::members::{Member, PROGRAM};
use super::nats::Nats;
use crate::common::authority::Authority;

/// Whom the servers let in: those that an account of an operator has signed, as NATS's own tools make them.
struct Operator {
    account: KeyPair,
    /// Of the servers.
    settings: String,
}

/// What is said of `subject`, and by whom. `nats`: what NATS adds to what any such token has.
fn token(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: Value) -> String {
    let head = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let claims = json!({"jti": name, "iat": 1_600_000_000, "iss": issuer.public_key(), "name": name, "sub": subject.public_key(), "nats": nats});
    let signed = [head, claims].map(|part| BASE64URL_NOPAD.encode(part.to_string().as_bytes())).join(".");
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

impl Operator {
    fn new() -> Operator {
        let (operator, system, account) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
        let any = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1});
        let mut with_streams = any.clone();
        for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
            with_streams[limit] = json!(-1);
        }
        let account_of =
            |key, name, limits| token(&operator, key, name, json!({"type": "account", "version": 2, "limits": limits}));
        let settings = format!(
            "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}\n",
            token(&operator, &operator, "operator", json!({"type": "operator", "version": 2})),
            system.public_key(),
            system.public_key(),
            account_of(&system, "system", any),
            account.public_key(),
            account_of(&account, "contact", with_streams),
        );
        Operator { account, settings }
    }

    /// The file by which somebody is let in.
    fn credentials(&self, folder: &Path, name: &str) -> PathBuf {
        let user = KeyPair::new_user();
        let claims = json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
        let (token, seed) = (token(&self.account, &user, name, claims), user.seed().unwrap());
        let file = folder.join(format!("{name}.creds"));
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        fs::write(&file, text).unwrap();
        file
    }
}

#[test]
fn nats_servers_are_asked_for_their_certificates_and_shown_who_the_server_is() {
    let (authority, operator, folder) = (Authority::new(), Operator::new(), tempfile::tempdir().unwrap());
    let (certificate, key) = authority.server("nats");
    let settings = folder.path().join("nats.conf");
    let tls = format!("tls {{ cert_file: \"{}\", key_file: \"{}\" }}\n", certificate.display(), key.display());
    fs::write(&settings, operator.settings.clone() + &tls).unwrap();
    let Some(nats) = Nats::one_with(&settings) else { return };
    let urls = nats.urls().replace("nats://", "tls://");
    let of_others = Authority::new();
    let strangers = Operator::new();
    let say = |what: &str, path: PathBuf| format!("--nats-{what}={}", path.display());
    let (ca, other_ca) = (say("ca", authority.ca()), say("ca", of_others.ca()));
    let user = say("credentials", operator.credentials(folder.path(), "server"));
    let stranger = say("credentials", strangers.credentials(folder.path(), "stranger"));
    let start = |more: &[&str]| Member::start_with(&urls, "guarded", &[&["--nats-replicas", "1"], more].concat());

    let server = start(&[&ca, &user]);
    server.until_ready_says("leading");
    let said = server.ctl(&["--json", "submit", "x"]);
    assert!(said.contains(r#""accepted":1"#), "{said}");
    // What may pass is tried again, and said.
    for (more, why) in [
        (&[&*user][..], "look at --nats-ca"),
        (&[&*other_ca, &user], "look at --nats-ca"),
        (&[&*ca], "not let in: look at --nats-credentials"),
        (&[&*ca, &stranger], "not let in: look at --nats-credentials"),
    ] {
        let refused = start(more);
        let line = refused.program.err.wait_for(why, |line| line.contains(why));
        assert!(line.contains(&urls) && line.ends_with("trying again"), "{line}");
    }
    for (more, why) in [
        ("--nats-ca=/nowhere", "/nowhere: it cannot be read"),
        (&say("ca", key), "there is no certificate in it"),
        ("--nats-credentials=/nowhere", "/nowhere: it cannot be read"),
        (&say("credentials", authority.ca()), "it has no credentials of a user of NATS"),
    ] {
        let mut refused = start(&[more]);
        assert!(!refused.program.ended().success());
        assert!(refused.program.err.so_far().iter().any(|line| line.contains(why)), "{why}");
    }
}

#[test]
fn what_is_wrong_with_the_urls_of_nats_is_said_without_a_password() {
    let of_cluster = ["--cluster", "c", "--advertise", "a:1", "--nats", "nats://ann:secret@a:x"];
    let output = Command::new(PROGRAM).args(of_cluster).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("--nats must be nats://HOST:PORT") && !said.contains("secret"), "{said}");
}
