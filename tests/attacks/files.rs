//! What is on the machine: its files and their limit, its environment, and names that are to deceive who reads them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::common::program::Program;
use crate::common::server::Server;

const SERVER: &str = env!("CARGO_BIN_EXE_contact-server");
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

/// The files in a folder, and what others may do with each.
fn modes(folder: &Path) -> Vec<(String, u32)> {
    let mut modes: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().permissions().mode() & 0o777))
        .collect();
    modes.sort();
    modes
}

const STORE: [&str; 4] = ["contact.db", "contact.db-shm", "contact.db-wal", "lock"];

#[test]
fn the_files_of_a_store_are_for_their_owner_alone_whatever_the_umask_and_whoever_made_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
    let private = STORE.map(|name| (name.to_owned(), 0o600)).to_vec();
    let umask_000 = || {
        let mut command = Command::new("sh");
        command.args(["-c", "umask 000; exec \"$0\" \"$@\"", SERVER]);
        command
    };

    let mut server = Server::start_by(umask_000(), &[], Some(&data));
    server.submit(&["a secret"]);
    assert_eq!(modes(&data), private);
    server.program().err.wait_for("the folder", |line| line.contains("others on this machine may put files into"));
    let copy = folder.path().join("copy.db");
    server.ctl(&["backup", copy.to_str().unwrap()]);
    assert_eq!(modes(folder.path()), [("copy.db".into(), 0o600), ("data".into(), 0o777)]);
    // So that the log stays beside the database.
    server.kill();

    for name in STORE {
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o666)).unwrap();
    }
    let mut server = Server::start_by(umask_000(), &[], Some(&data));
    assert_eq!(modes(&data), private);
    server.program().err.wait_for("what was open", |line| line.contains("contact.db is for its owner alone now"));
}

#[test]
fn a_name_cannot_pass_for_a_line_of_the_log() {
    let mut server = Server::start(&[]);
    let name = "a at 10.0.0.1 went: its stream ended; client \"root";
    let mut client = Command::new(CLIENT);
    client.args(["--server", &server.listen, "--id", name, "--group", "x came; 7 connected"]);
    let _client = Program::spawn("contact-client", &mut client).unwrap();
    let line = server.program().err.wait_for("who came", |line| line.contains(" came; 1 connected"));
    let shown = format!("client {name:?} of group \"x came; 7 connected\" at ipv4:127.0.0.1:");
    assert!(line.contains(&shown), "{line}");
}

#[test]
fn a_name_that_hides_or_turns_text_is_refused() {
    let mut server = Server::start(&[]);
    for hidden in ['\u{202e}', '\u{2066}', '\u{200b}', '\u{200d}', '\u{2028}', '\u{feff}', '\u{85}', '\u{1b}'] {
        let spelt = format!("U+{:04X}", u32::from(hidden));
        let name = format!("a{hidden}b");
        for flag in ["--id", "--group"] {
            let mut client = Command::new(CLIENT);
            client.args(["--server", &server.listen, flag, &name]);
            let mut client = Program::spawn("contact-client", &mut client).unwrap();
            assert_eq!(client.ended().code(), Some(2), "{spelt}");
            client.err.wait_for("why", |line| line.contains(&spelt));
        }
        let mut submit = server.ctl_running(&["submit", "--to", &name, "task"]);
        assert!(!submit.ended().success(), "{spelt}");
    }
    assert!(server.program().err.so_far().iter().all(|line| !line.contains(" came")));
}
