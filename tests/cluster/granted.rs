//! Who may come in at the servers of a cluster: what is granted at one of them counts at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use contact::wire::contact as pb;
use contact::wire::contact_grpc::ContactClient;
use futures::StreamExt as _;
use futures::executor::block_on;
use grpcio::{ClientSStreamReceiver, RpcStatus, RpcStatusCode};

use super::members::{Member, PROGRAM, leader};
use super::nats::Nats;
use super::{channel, options, two_with};
use crate::common::DEADLINE;
use crate::common::server::Server;
use crate::conventions::reason;
use crate::http::client::get_with;

/// A stream of tasks, or why there is none: of one who shows a token, and is of a group.
fn opens(member: &Member, secret: &str, group: &str) -> Result<ClientSStreamReceiver<pb::ServerMsg>, RpcStatus> {
    let said = format!("Bearer {secret}");
    let said = [("authorization", &*said), ("contact-group", group), ("contact-heartbeat", "1")];
    let client = ContactClient::new(channel(&member.listen));
    let mut stream = client.get_task(&pb::Empty::new(), options(&said)).unwrap();
    // The first message greets a client that knows heartbeats.
    match block_on(stream.next()).unwrap() {
        Ok(_) => Ok(stream),
        Err(error) => Err(refused(error)),
    }
}

fn refused(error: grpcio::Error) -> RpcStatus {
    match error {
        grpcio::Error::RpcFailure(status) => status,
        other => panic!("{other}"),
    }
}

/// Waits until that is so at a server, which may be a moment behind the one that leads.
#[track_caller]
fn until<T>(mut is_so: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(so) = is_so() {
            return so;
        }
        assert!(Instant::now() < deadline, "it does not come to that");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The credential of operators on the machine of a server.
fn local(data: &Path) -> PathBuf {
    data.join("operator.token")
}

fn ctl(member: &Member, args: &[&str]) -> String {
    member.ctl(&[&["--json", "--token-file", local(&member.data).to_str().unwrap()], args].concat())
}

/// Makes a token for an agent of the group `workers`; its secret.
#[track_caller]
fn create(member: &Member, name: &str) -> String {
    let said = ctl(member, &["token", "create", name, "--role", "agent", "--group", "workers"]);
    let made: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
    made["secret"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[test]
fn a_token_counts_at_all_servers_and_no_more_at_any_when_it_is_revoked_whichever_leads() {
    let Some(nats) = Nats::three() else { return };
    let mut members = two_with(nats, &["--auth", "required"]);
    // Operators use the credential of the machine on which they are, at that server.
    let secret = create(&members[1], "web");
    let tasks = |members: &[Member]| [0, 1].map(|at| until(|| opens(&members[at], &secret, "workers").ok()));
    let open = tasks(&members);
    let answer = fs::read_to_string(local(&members[1].data)).unwrap();
    let who = format!("Authorization: Bearer {}\r\n", answer.trim());
    assert_eq!(get_with(&members[1].http, "/api/clients", &who).status, 200);
    assert_eq!(get_with(&members[0].http, "/api/clients", &who).status, 401, "another machine's");

    // Its limits change for the stream at the other server, too.
    let said = ctl(&members[0], &["identity", "limits", "web", "streams=1"]);
    assert!(said.contains(r#""streams":"#), "{said}");
    until(|| opens(&members[1], &secret, "workers").err().filter(|status| reason(status) == "LIMIT_REACHED"));
    ctl(&members[0], &["identity", "limits", "web", "streams=none"]);
    let again = until(|| opens(&members[1], &secret, "workers").ok());

    // Without the server that made it, and for one that begins with nothing.
    members[0].program.kill();
    members[1].until_ready_says("leading");
    drop((open, again));
    drop(until(|| opens(&members[1], &secret, "workers").ok()));
    members[0].lose_data();
    members[0].restart();
    // As long as it does not know whom it lets in, it says that, and nothing that ends a client for good.
    until(|| match opens(&members[0], &secret, "workers") {
        Ok(_) => Some(()),
        Err(status) => {
            assert_eq!(status.code(), RpcStatusCode::UNAVAILABLE, "{status:?}");
            None
        }
    });
    let mut open = tasks(&members);
    let said = ctl(&members[0], &["token", "revoke", "web"]);
    assert!(said.contains("web"), "{said}");
    for stream in &mut open {
        let ended = until(|| block_on(stream.next()).unwrap().err());
        assert_eq!(reason(&refused(ended)), "TOKEN_UNKNOWN");
    }
    for member in &members {
        until(|| opens(member, &secret, "workers").err().filter(|status| reason(status) == "TOKEN_UNKNOWN"));
    }
}

#[test]
fn tokens_go_with_a_store_into_a_cluster_and_from_there_to_a_server_that_is_alone() {
    let Some(nats) = Nats::three() else { return };
    let cluster = nats.config().cluster.to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut alone = Server::start_in(&data, &["--auth", "required"]);
    let token = |control: &str, data: &Path, args: &[&str]| {
        let of =
            ["--json", "--server", control, "--token-file", local(data).to_str().unwrap(), "token"].map(String::from);
        let command = env!("CARGO_BIN_EXE_contactctl");
        let output = Command::new(command).args(of).args(args).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let said = token(&alone.control, &data, &["create", "ci", "--role", "submit"]);
    assert!(said.contains("ct1_"), "{said}");
    alone.program().signal("TERM");
    assert!(alone.program().ended().success());
    let of = ["--nats", nats.urls(), "--cluster", &cluster, "--advertise", "importer:1", "--import"];
    let imported = Command::new(PROGRAM).args(of).arg(&data).output().unwrap();
    assert!(imported.status.success(), "{imported:?}");

    let members = [(); 2].map(|()| Member::start_with(nats.urls(), &cluster, &["--auth", "required"]));
    let leads = leader(&members, None);
    members[1 - leads].until_ready_says("following (lag 0)");
    create(&members[1 - leads], "web");
    let said = ctl(&members[1 - leads], &["token", "list"]);
    assert!(said.contains("\"ci\"") && said.contains("\"web\""), "{said}");

    let [Member { mut program, data, _folder, .. }, other] = members;
    drop(other);
    program.signal("TERM");
    assert!(program.ended().success());
    let back = Server::start_in(&data, &["--auth", "required"]);
    let said = token(&back.control, &data, &["list"]);
    assert!(said.contains("\"ci\"") && said.contains("\"web\""), "{said}");
    token(&back.control, &data, &["revoke", "web"]);
    drop(back);
    let back = Server::start_in(&data, &["--auth", "required"]);
    let said = token(&back.control, &data, &["list"]);
    assert!(said.contains("\"ci\"") && !said.contains("\"web\""), "{said}");
}

#[test]
fn limits_that_change_count_for_streams_at_all_servers_also_when_another_leads() {
    let Some(nats) = Nats::three() else { return };
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("contact.toml");
    let write = |window: &str| fs::write(&settings, format!("[limits]\nwindow = {window}\n")).unwrap();
    write("5");
    let mut members = two_with(nats, &["--auth", "required", "--config", settings.to_str().unwrap()]);
    let secret = create(&members[0], "web");
    let _open = [0, 1].map(|at| until(|| opens(&members[at], &secret, "workers").ok()));
    let until_windows_are = |members: &[Member], windows: &[u64]| {
        until(|| {
            let clients = ctl(members.last().unwrap(), &["clients"]);
            let window = |line| serde_json::from_str::<serde_json::Value>(line).ok()?["window"].as_u64();
            let mut have = clients.lines().filter_map(window).collect::<Vec<_>>();
            have.sort_unstable();
            (have == windows).then_some(())
        })
    };
    until_windows_are(&members, &[5, 5]);
    // In the settings of a server, for the streams at it.
    write("4");
    members[1].program.signal("HUP");
    until_windows_are(&members, &[4, 5]);
    members[0].program.signal("HUP");
    until_windows_are(&members, &[4, 4]);
    // What is granted counts for all.
    ctl(&members[1], &["identity", "limits", "web", "window=3"]);
    until_windows_are(&members, &[3, 3]);
    members[0].program.kill();
    members[1].until_ready_says("leading");
    until_windows_are(&members, &[3]);
    ctl(&members[1], &["identity", "limits", "web", "window=2"]);
    until_windows_are(&members, &[2]);
}
