//! Headers and data with `contactctl`, against the real server and a real client.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::common::program::Program;
use crate::common::server::Server;

const BYTES: &[u8] = b"\0\xff\x1b[2J\n";

fn contactctl(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    command.args(args).args(["--server", &server.control]).env("CONTACT_DATA", server.data()).stdin(Stdio::null());
    command
}

#[track_caller]
fn ctl(server: &Server, args: &[&str]) -> Vec<u8> {
    let Output { status, stdout, stderr } = contactctl(server, args).output().unwrap();
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
    stdout
}

#[track_caller]
fn text(server: &Server, args: &[&str]) -> String {
    String::from_utf8(ctl(server, args)).unwrap()
}

/// The exit code, and what is said on standard error.
#[track_caller]
fn refused(server: &Server, args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = contactctl(server, args).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn client(server: &Server, exec: &str) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contact-client"));
    command.args(["--server", &server.listen, "--id", "w", "--group", "g", "--exec", exec]);
    Program::spawn("w", &mut command).unwrap()
}

#[test]
fn a_file_goes_to_a_command_and_out_of_the_server_again_byte_for_byte() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("in"), BYTES).unwrap();
    let header = ["--header", "content-type=x/y", "--header", "x.trace-1=a=b c"];
    let data = ["--data-file", &path("in")];
    let exec = r#"od -An -tx1; echo "$CONTACT_HEADER_CONTENT_TYPE|$CONTACT_HEADER_X_TRACE_1""#;
    let _client = client(&server, exec);
    let said = text(&server, &[&["submit", "--to", "g", "--wait", "--timeout", "20s"][..], &header, &data].concat());
    assert_eq!(said.lines().skip(1).map(str::trim).collect::<Vec<_>>(), ["g:  00 ff 1b 5b 32 4a 0a", "g: x/y|a=b c"]);
    // The text wins where there is one.
    let said = text(&server, &[&["submit", "--to", "g", "--wait", "--timeout", "20s", "hello"][..], &data].concat());
    assert_eq!(said.lines().nth(1).unwrap(), "g:  68 65 6c 6c 6f 0a");
    let said = text(&server, &[&["run", "--to", "g"][..], &header, &data].concat());
    assert!(said.starts_with("g:  00 ff 1b"), "{said}");

    assert_eq!(ctl(&server, &["task", "1", "--data-out", "-"]), BYTES);
    ctl(&server, &["task", "1", "--data-out", &path("out")]);
    assert_eq!(fs::read(path("out")).unwrap(), BYTES);
    let (code, said) = refused(&server, &["task", "1", "--data-out", &path("out")]);
    assert!(code == Some(1) && said.contains("out"), "it is there already: {said}");
    let shown = text(&server, &["task", "1"]);
    for line in [
        "header        content-type: x/y",
        "header        x.trace-1: a=b c",
        "data          7 B, x/y; --data-out FILE writes it",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
    let shown: Value = serde_json::from_str(&text(&server, &["task", "1", "--json"])).unwrap();
    assert_eq!(shown["headers"], json!({"content-type": "x/y", "x.trace-1": "a=b c"}));
    assert_eq!((&shown["data"], &shown["data_size"]), (&json!("AP8bWzJKCg=="), &json!(7)));
    let listed = text(&server, &["tasks", "--json"]);
    let listed: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    assert_eq!((&listed["data_size"], &listed["data"]), (&json!(7), &Value::Null));
    assert!(text(&server, &["tasks"]).contains("[content-type=x/y, x.trace-1=a=b c, 7 B of data]"));
    let (code, said) = refused(&server, &["task", "1", "--result", "1", "--data-out", "-"]);
    assert!(code == Some(4) && said.contains("result 1 has no data"), "{said}");
}

#[test]
fn each_line_is_a_task_with_the_headers_and_what_makes_no_sense_is_a_usage_error() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("lines"), "a\nb\n").unwrap();
    fs::write(path("empty"), "").unwrap();
    ctl(&server, &["submit", "--file", &path("lines"), "--header", "k=v"]);
    let listed = text(&server, &["tasks", "--json"]);
    let headers: Vec<Value> =
        listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["headers"].clone()).collect();
    assert_eq!(headers, [json!({"k": "v"}), json!({"k": "v"})]);
    for (args, says) in [
        (&["submit", "x", "--header", "k"][..], "a key and a value"),
        (&["submit", "x", "--header", "K=v"], "a-z"),
        (&["submit", "x", "--header", "k=1", "--header", "k=2"], "twice"),
        (&["submit", "-", "--data-file", "-"], "standard input"),
        (&["submit", "x", "--data-file", &path("empty")], "empty"),
        (&["run", "--to", "g", "--header", "k=v"], "what is to be done"),
    ] {
        let (code, said) = refused(&server, args);
        assert!(code == Some(2) && said.contains(says), "{args:?}: {said}");
    }
    let (code, said) = refused(&server, &["submit", "x", "--data-file", &path("nowhere")]);
    assert!(code == Some(1) && said.contains("nowhere"), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn data_is_not_written_to_a_terminal_which_would_take_it_for_commands() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    let server = Server::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in").to_str().unwrap().to_owned();
    fs::write(&path, BYTES).unwrap();
    ctl(&server, &["submit", "--data-file", &path]);
    let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&keyboard).unwrap();
    unlockpt(&keyboard).unwrap();
    let name = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
    let terminal = fs::File::options().read(true).write(true).open(name).unwrap();
    let mut command = contactctl(&server, &["task", "1", "--data-out", "-"]);
    let child = command.stdout(terminal).stderr(Stdio::piped()).spawn().unwrap();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert!(status.code() == Some(2) && said.contains("not written to a terminal"), "{said}");
}
