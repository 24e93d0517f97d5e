//! What is on the machine: its files and their limit, its environment, and names that are to deceive who reads them.

use std::collections::BTreeSet;
use std::process::Command;

use crate::common::program::Program;
use crate::common::server::Server;

const CLIENT: &str = env!("CARGO_BIN_EXE_contact-client");

#[test]
fn a_command_gets_no_secret_of_its_client() {
    let server = Server::start(&[]);
    server.submit(&["what do you have?"]);
    let mut client = Command::new(CLIENT);
    client.args(["--server", &server.listen, "--id", "a", "--from", "first", "--exec", "env"]);
    client.args(["--exec-env", "AWS_REGION,LD_LIBRARY_PATH", "--exec-env", "NOT_SET"]);
    client.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    client.envs([("LANG", "C.UTF-8"), ("LC_TIME", "C"), ("TZ", "UTC"), ("HOME", "/"), ("AWS_REGION", "eu-central-1")]);
    client.envs([("LD_LIBRARY_PATH", "/nowhere"), ("AWS_SECRET_ACCESS_KEY", "secret-1"), ("PASSWORD", "secret-2")]);
    client.envs([("CONTACT_TOKEN", "secret-3"), ("CONTACT_WINDOW", "7"), ("http_proxy", "http://me:secret-4@nowhere")]);
    let client = Program::spawn("contact-client", client.env("no_proxy", "127.0.0.1")).unwrap();
    client.err.wait_for("what is not set", |line| line.contains("--exec-env names NOT_SET, which is not set here"));

    let results = server.done(1);
    let text = results[0]["ret"].as_str().unwrap();
    let names: BTreeSet<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    // What shells set themselves.
    let shells = ["PWD", "OLDPWD", "SHLVL", "_"];
    let names: Vec<&str> = names.into_iter().filter(|name| !shells.contains(name)).collect();
    let passed = [
        "AWS_REGION",
        "CONTACT_ATTEMPT",
        "CONTACT_TASK_ID",
        "HOME",
        "LANG",
        "LC_TIME",
        "LD_LIBRARY_PATH",
        "PATH",
        "TZ",
    ];
    assert_eq!(names, passed, "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn a_variable_of_contact_cannot_be_named_for_a_command() {
    for (name, why) in [("CONTACT_TOKEN", "a command never gets CONTACT_TOKEN"), ("A=b", "no name of a variable")] {
        let mut client = Command::new(CLIENT);
        client.args(["--server", "127.0.0.1:1", "--exec", "env", "--exec-env", name]);
        let mut client = Program::spawn("contact-client", &mut client).unwrap();
        assert_eq!(client.ended().code(), Some(2));
        client.err.wait_for("why", |line| line.contains(why));
    }
}
