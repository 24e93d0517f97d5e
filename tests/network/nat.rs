//! The minute's set-up of docs/security.md, word by word, across a router that translates addresses.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

use serde_json::Value;

use super::machines::{Internet, Machine, ROUTER, documented};
use crate::common::program::Program;
use crate::common::{DEADLINE, skipped};

/// What the agents run: text in capitals, when they may.
const WORK: &str = "#!/bin/sh\nread text\necho \"$text\" >> begun\n\
                    case $text in wait*) until [ -e go ]; do sleep 0.1; done;; esac\n\
                    echo \"$text\" | tr a-z A-Z\n";

/// A command as it stands in the documentation, on this machine.
fn shell(machine: &Machine, line: &str) -> Command {
    let programs = PathBuf::from(env!("CARGO_BIN_EXE_contact-client"));
    let mut path = vec![programs.parent().unwrap().to_owned()];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap()));
    let mut command = machine.command("sh");
    command.args(["-c", &format!("exec {line}")]).env("PATH", env::join_paths(path).unwrap());
    command
}

#[track_caller]
fn spawn(machine: &Machine, line: &str) -> Program {
    let name = line.split(' ').next().unwrap();
    Program::spawn(name, &mut shell(machine, line)).unwrap()
}

/// Runs it to its end: what it printed, when it went well.
#[track_caller]
fn run(machine: &Machine, line: &str) -> String {
    let output = shell(machine, line).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs it to its end, which is to be a bad one: what it said.
#[track_caller]
fn fails(machine: &Machine, line: &str) -> String {
    let output = shell(machine, line).output().unwrap();
    assert!(!output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// The objects that a command prints with --json.
#[track_caller]
fn objects(machine: &Machine, line: &str) -> Vec<Value> {
    run(machine, &format!("{line} --json")).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until the text was done; whether it was done once.
#[track_caller]
fn done(server: &Machine, text: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let all = objects(server, "contactctl results --all");
        let of_text = |result: &&Value| result["outcome"] == "DONE" && result["ret"].as_str().unwrap().trim() == text;
        let done: Vec<&Value> = all.iter().filter(of_text).collect();
        if let [only] = done.as_slice() {
            return assert_eq!(only["late"], false, "{all:?}");
        }
        assert!(done.is_empty() && Instant::now() < deadline, "{text}: {all:?}");
    }
}

#[test]
fn a_fleet_across_the_internet_is_set_up_as_documented_and_outlives_its_router_and_its_server() {
    let net = match Internet::new("agents.example", &["web-1", "web-2"]) {
        Ok(net) => net,
        Err(why) => return skipped(&format!("it needs root, network namespaces and nftables: {why}")),
    };
    let lines = documented("In a minute");
    let [serve, invite, join] = lines.as_slice() else { panic!("{lines:?}") };
    let (server, [one, two]) = (&net.server, net.agents.as_slice()) else { unreachable!() };
    assert!(!net.gets_in("192.168.0.2"), "nobody gets in from outside");

    let mut serving = spawn(server, serve);
    serving.out.wait_for("that it listens", |line| line.starts_with("listening on"));
    let line = run(server, invite);
    let invitation = line.split(' ').find(|word| word.starts_with("agents.example:50051.")).unwrap();
    let join = join.replace("agents.example:50051.MIIB…", invitation);
    let agent = |machine: &Machine| {
        let work = machine.home().join("work.sh");
        fs::write(&work, WORK).unwrap();
        fs::set_permissions(&work, fs::Permissions::from_mode(0o755)).unwrap();
        spawn(machine, &join)
    };
    let first = agent(one);
    first.err.wait_for("that it works", |line| line.contains("connected to agents.example:50051"));
    run(server, "contactctl submit --to workers hello");
    done(server, "HELLO");
    let clients = objects(server, "contactctl clients");
    assert_eq!((clients.len(), &clients[0]["client"]), (1, &"web-1".into()), "{clients:?}");
    let peer = clients[0]["peer"].as_str().unwrap();
    assert!(peer.starts_with(&format!("ipv4:{}:", ROUTER[0])), "{peer}: the router's address");

    // Operators' ports are not for others, and who speaks no TLS is told so.
    let said = fails(one, "contactctl groups --server agents.example:50052");
    assert!(said.contains("agents.example:50052"), "{said}");
    let plain = spawn(one, "contact-client --server agents.example:50051");
    plain.err.wait_for("what is wrong", |line| line.contains("speaks TLS: give --tls-ca, or --join"));
    drop(plain);

    // A task is at work when the router forgets its connections.
    run(server, "contactctl submit --to workers 'wait for the router'");
    let begun = |machine: &Machine| fs::read_to_string(machine.home().join("begun")).unwrap_or_default();
    let deadline = Instant::now() + DEADLINE;
    while !begun(one).contains("router") {
        assert!(Instant::now() < deadline, "it is not begun");
    }
    net.router_forgets();
    first.err.wait_for("that it is cut off", |line| line.contains("lost the connection to"));
    let connected = |line: &str| line.contains("connected to agents.example").then_some(());
    first.err.at_least(2, "connections", connected);
    fs::write(one.home().join("go"), "").unwrap();
    done(server, "WAIT FOR THE ROUTER");
    assert_eq!(begun(one).matches("router").count(), 1, "it was worked on once");

    // The second has the same invitation, and the server is started again.
    let second = agent(two);
    second.err.wait_for("that it works", |line| line.contains("connected to agents.example:50051"));
    serving.signal("TERM");
    assert!(serving.ended().success());
    serving = spawn(server, serve);
    serving.out.wait_for("that it listens", |line| line.starts_with("listening on"));
    first.err.at_least(3, "connections", connected);
    second.err.at_least(2, "connections", connected);
    run(server, "contactctl submit --to workers again");
    done(server, "AGAIN");

    let identities = objects(server, "contactctl identity list");
    let names: Vec<&Value> = identities.iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["web-1", "web-2"], "each is called as its machine is");
    run(server, "contactctl identity revoke web-1");
    first.err.wait_for("that it is out", |line| line.contains("it was revoked"));
    run(server, "contactctl submit --to workers 'who is left?'");
    done(server, "WHO IS LEFT?");
    assert!(begun(two).contains("left") && !begun(one).contains("left"));
    assert_eq!(objects(server, "contactctl clients").len(), 1);
}
