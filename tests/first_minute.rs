//! What somebody meets who tries this for the first time: the first lines of a server, and the errors of a wrong address.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::common::authority::Authority;
use crate::common::program::Program;
use crate::common::server::{CLIENT, Server};
use crate::ctl::eventually;
use crate::ctl::top::Terminal;

/// A server on a terminal, in a folder of its own, and the three lines by which it says how to go on.
fn on_a_terminal(folder: &Path, args: &[&str]) -> (Terminal, [String; 3]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contact-server"));
    command.current_dir(folder).args(["--control", "127.0.0.1:0", "--http", "127.0.0.1:0"]).args(args);
    let terminal = Terminal::of(command, (400, 30));
    let says = |what: &str| terminal.text().lines().find_map(|line| line.strip_prefix(what).map(str::to_owned));
    eventually("its first lines", || says("the page:  ").is_some());
    let lines = ["a worker:  ", "a task:    ", "the page:  "].map(|what| says(what).unwrap());
    (terminal, lines)
}

/// Runs a line of a shell as somebody does who has the programs: that becomes a program, or goes to its end.
fn shell(folder: &Path, line: &str) -> Command {
    let programs = Path::new(CLIENT).parent().unwrap().display();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-ec", line]).current_dir(folder).env("PATH", path).env_remove("CONTACT_CONTROL");
    command
}

#[track_caller]
fn printed(folder: &Path, line: &str) -> String {
    let output = shell(folder, line).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_first_lines_of_a_server_on_a_terminal_are_commands_that_work_as_it_was_started() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let public = port.replace("127.0.0.1", "localhost");
    for args in [
        &["--listen", "127.0.0.1:0"][..],
        &["--listen", "0.0.0.0:0", "--insecure"],
        &["--listen", "127.0.0.1:0", "--auth", "required", "--data", "some data"],
        &["--public", &public, "--auth", "required"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (_terminal, [worker, task, page]) = on_a_terminal(folder.path(), args);
        let worker = match worker.starts_with("contactctl invite") {
            true => printed(folder.path(), &worker).trim().replace("./work.sh", "'tr a-z A-Z'"),
            false => worker,
        };
        let worker = worker.replace("contact-client ", "exec contact-client ");
        let worker = Program::spawn(&worker, &mut shell(folder.path(), &worker)).unwrap();
        worker.err.wait_for("that it works", |line| line.contains("connected to"));
        let done = printed(folder.path(), &format!("{task} --wait --timeout 60s"));
        assert!(done.contains("HELLO, WORLD"), "{args:?}: {done}");
        match page.strip_prefix("http://") {
            Some(page) => assert_eq!(
                crate::http::client::exchange(page, b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").status,
                200
            ),
            None => assert!(printed(folder.path(), &page).starts_with("http://127.0.0.1:"), "{page}"),
        }
    }
}

/// A line that a client logs of a server to which it does not get has all of these words.
#[track_caller]
fn client_says(args: &[&str], what: &[&str]) {
    let mut command = Command::new(CLIENT);
    let program = Program::spawn("contact-client", command.args(args)).unwrap();
    program.err.wait_for(&format!("{what:?}"), |line| what.iter().all(|what| line.contains(what)));
}

/// The same of contactctl, which ends with that code.
#[track_caller]
fn ctl_says(args: &[&str], code: i32, what: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
    let output = command.args(["tasks"]).args(args).env("CONTACT_DATA", "nowhere").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(what.iter().all(|what| said.contains(what)) && said.lines().count() == 1, "{said}, and not {what:?}");
    assert_eq!(output.status.code(), Some(code), "{said}");
}

/// A certificate for 127.0.0.1 with its key, and its authority's.
fn files(authority: &Authority) -> ([String; 2], String) {
    let (cert, key) = authority.server("server");
    let text = |path: &Path| path.display().to_string();
    ([text(&cert), text(&key)], text(&authority.ca()))
}

#[test]
fn where_nobody_listens_both_ask_whether_the_server_runs() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    client_says(&["--server", &nobody], &["nobody listens there", "contact-server is not running", "--listen"]);
    ctl_says(&["--server", &nobody], 3, &["no server answers", "is contact-server running", "--control"]);
    let authority = Authority::new();
    let (_, ca) = files(&authority);
    let tls = ["--server", &nobody, "--tls-ca", &ca];
    client_says(&tls, &["nobody listens at", "contact-server is not running"]);
    ctl_says(&tls, 1, &["nobody listens at", "contact-server is not running"]);
}

#[test]
fn a_name_that_is_not_known_is_told_as_such() {
    let says = ["not known here", "misspelt"];
    client_says(&["--server", "contact.invalid:50051"], &says);
    ctl_says(&["--server", "contact.invalid:50052"], 3, &says);
    client_says(&["--server", "contact.invalid:50051", "--tls-ca", "system"], &says);
}

#[test]
fn the_port_of_the_page_is_told_from_those_of_grpc_with_tls_and_without() {
    let server = Server::start(&[]);
    client_says(&["--server", &server.http], &["is the page of a Contact server", "--listen address, port 50051"]);
    ctl_says(&["--server", &server.http], 1, &["is the page of a Contact server", "--control address, port 50052"]);
    let authority = Authority::new();
    let ([cert, key], ca) = files(&authority);
    let server = Server::start_with_page("0.0.0.0:0", &["--tls-cert", &cert, "--tls-key", &key]);
    let page = server.http.replace("0.0.0.0", "127.0.0.1");
    let tls = ["--server", &page, "--tls-ca", &ca];
    let says = ["speaks TLS, and no gRPC", "the page (--http)", "--listen", "--control"];
    client_says(&tls, &says);
    ctl_says(&tls, 1, &says);
}

#[test]
fn another_web_server_is_named_with_what_it_says() {
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = web.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for stream in web.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nno page");
        }
    });
    let says = ["is no Contact server", "HTTP 404 Not Found: no page"];
    client_says(&["--server", &address], &says);
    ctl_says(&["--server", &address], 1, &says);
}

#[test]
fn the_port_of_operators_and_that_of_clients_are_told_apart() {
    let server = Server::start(&[]);
    client_says(&["--server", &server.control], &["is it a --control address?", "--listen address, port 50051"]);
    ctl_says(&["--server", &server.listen], 1, &["is that its --listen address, for clients?", "--control"]);
}

#[test]
fn tls_where_none_is_spoken_and_none_where_it_is_are_told_with_what_to_give() {
    let authority = Authority::new();
    let plain = Server::start(&[]);
    let ([cert, key], ca) = files(&authority);
    let says = ["does not speak TLS on this port", "leave out --tls-ca"];
    client_says(&["--server", &plain.listen, "--tls-ca", &ca], &says);
    ctl_says(&["--server", &plain.control, "--tls-ca", &ca], 1, &says);

    let server = Server::start(&["--tls-cert", &cert, "--tls-key", &key]);
    client_says(&["--server", &server.listen], &["speaks TLS", "give --tls-ca, or --join", "contactctl invite"]);
    ctl_says(&["--server", &server.listen], 1, &["this port speaks TLS", "give --tls-ca"]);
}

#[test]
fn a_token_that_is_missing_wrong_or_no_file_is_told_with_where_to_get_one() {
    let server = Server::start(&["--auth", "required"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, format!("ct1_{}\n", "a".repeat(64))).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let wrong = ["--token-file", file.to_str().unwrap()];
    let missing = ["--token-file", "/nowhere/token"];
    for (ctl, address) in [(false, &server.listen), (true, &server.control)] {
        let says = |args: &[&str], code, what: &[&str]| {
            let args = [&["--server", address], args].concat();
            if ctl { ctl_says(&args, code, what) } else { client_says(&args, what) }
        };
        says(&[], 4, &["give a token with --token-file", "contactctl token create"]);
        says(&missing, 2, &["the token cannot be read: /nowhere/token"]);
        says(&wrong, 4, &["the token is not known here", "contactctl token create"]);
    }
}
