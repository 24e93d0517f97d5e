//! What the programs print of others' texts: nothing that could steer a terminal, hide in it, or turn it around.

use std::process::Command;

use contact::terminal::is_hidden;

use crate::common::program::Program;
use crate::common::server::Server;

/// Clears the screen, sets the title, a C1 that begins a sequence, goes back in its line, turns the text, has no width.
const HOSTILE: &str = "a\u{1b}[2Jb\u{1b}]0;owned\u{7}c\u{9b}31md\re\u{202e}f\u{200b}g";

#[test]
fn nor_can_a_command_line_that_is_wrong() {
    for (program, args) in [
        (env!("CARGO_BIN_EXE_contactctl"), &["submit", "x", "--to"][..]),
        (env!("CARGO_BIN_EXE_contactctl"), &["task"]),
        (env!("CARGO_BIN_EXE_contact-client"), &["--window"]),
        (env!("CARGO_BIN_EXE_contact-client"), &["--config"]),
        (env!("CARGO_BIN_EXE_contact-server"), &["--ack-timeout"]),
    ] {
        let ran = Command::new(program).args(args).arg(HOSTILE).output().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!((ran.status.code(), said.contains(r"\u{9b}31m")), (Some(2), true), "{said:?}");
        assert!(!said.replace('\n', "").contains(is_hidden), "{said:?}");
    }
}

#[test]
fn a_task_cannot_steer_the_terminal_of_a_client() {
    let server = Server::start(&[]);
    server.submit(&[HOSTILE]);
    let client = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_contact-client"));
        Program::spawn("contact-client", command.args(["--server", &server.listen]).args(args)).unwrap()
    };

    let plain = client(&["--log", "debug"]);
    let line = plain.out.wait_for("the task", |line| line.starts_with("客户端已接收到服务端任务:"));
    let expected = r"a\u{1b}[2Jb\u{1b}]0;owned\u{7}c\u{9b}31md\re\u{202e}f\u{200b}g";
    assert_eq!(line, format!("客户端已接收到服务端任务:{expected}"));

    let json = client(&["--json"]);
    let line = json.out.wait_for("the task's event", |line| line.contains("owned"));
    assert!(!line.contains(is_hidden), "{line:?}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["task"], HOSTILE);

    // A name that a client gives itself is logged by the server, an error of a command by the client.
    let exec = client(&["--group", "g", "--exec", "cat >&2; exit 1"]);
    let line = exec.err.wait_for("the failure", |line| line.contains("owned"));
    assert!(!line.contains(is_hidden) && line.contains(r"\u{9b}31m"), "{line:?}");

    let tasks = server.ctl_running(&["tasks"]).out.wait_for("the task", |line| line.contains("owned"));
    assert!(!tasks.contains(is_hidden), "{tasks:?}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&tasks).unwrap()["task"], HOSTILE);
}
