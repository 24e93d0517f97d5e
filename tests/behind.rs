//! Behind a proxy, with the very snippets of docs/running.md.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::program::Program;
use crate::common::server::Server;
use crate::common::{DEADLINE, free_port, skipped};

/// How many tasks go through. More than a client's window.
const TASKS: usize = 100;

#[test]
fn a_worker_behind_nginx_gets_its_tasks_and_its_results_arrive_and_the_page_is_live() {
    let Some(proxy) = Proxy::nginx() else { return };
    proxy.works("a worker behind nginx");
    let state = events(proxy.page.as_ref().unwrap());
    assert_eq!(state["totals"]["results"], TASKS, "{state}");
}

#[test]
fn a_worker_behind_haproxy_gets_its_tasks_and_its_results_arrive() {
    let Some(proxy) = Proxy::haproxy() else { return };
    proxy.works("a worker behind HAProxy");
}

/// A proxy before a server.
struct Proxy {
    server: Server,
    /// Where clients connect.
    clients: String,
    /// Where browsers do, if it has that.
    page: Option<String>,
    _program: Program,
    _folder: TempDir,
}

impl Proxy {
    fn nginx() -> Option<Proxy> {
        is_there("nginx", "-v")?;
        let (server, folder) = (Server::start(&[]), tempfile::tempdir().unwrap());
        let [clients, page] = [free_port(), free_port()];
        let addresses = [
            ("listen 50061", format!("listen {clients}")),
            ("listen 50081", format!("listen {page}")),
            ("127.0.0.1:50051", server.listen.clone()),
            ("127.0.0.1:50080", server.http.clone()),
        ];
        let dir = folder.path().display();
        let temp =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|of| format!("{of}_temp_path {dir}/{of};\n"));
        // One process: none is left when that is killed.
        let config = format!(
            "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{}{}}}\n",
            temp.concat(),
            snippet("nginx", &addresses)
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        let program = Program::spawn("nginx", Command::new("nginx").arg("-c").arg(&file)).unwrap();
        Some(Proxy { server, clients, page: Some(page), _program: program, _folder: folder })
    }

    fn haproxy() -> Option<Proxy> {
        is_there("haproxy", "-v")?;
        let (server, folder) = (Server::start(&[]), tempfile::tempdir().unwrap());
        let clients = free_port();
        let addresses = [("bind :50061", format!("bind {clients}")), ("127.0.0.1:50051", server.listen.clone())];
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, snippet("haproxy", &addresses)).unwrap();
        let program = Program::spawn("haproxy", Command::new("haproxy").arg("-db").arg("-f").arg(&file)).unwrap();
        Some(Proxy { server, clients, page: None, _program: program, _folder: folder })
    }

    /// A worker through the proxy does all tasks, each once.
    #[track_caller]
    fn works(&self, what: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_contact-client"));
        command.args([
            "--server",
            &self.clients,
            "--id",
            "w1",
            "--group",
            "workers",
            "--from",
            "first",
            "--raw-input",
            "--exec",
            "tr a-z A-Z",
        ]);
        let _worker = Program::spawn(what, &mut command).unwrap();
        let tasks: Vec<String> = (0..TASKS).map(|n| format!("task {n}")).collect();
        self.server.submit(&tasks);
        let results = self.server.at_least(TASKS, "results");
        for (n, result) in results.iter().enumerate() {
            assert_eq!((&result["outcome"], &result["attempt"]), (&json!("DONE"), &json!(1)), "{what}: {n}: {result}");
        }
        let mut rets: Vec<&str> = results.iter().map(|result| result["ret"].as_str().unwrap()).collect();
        let mut expected: Vec<String> = tasks.iter().map(|task| task.to_uppercase()).collect();
        rets.sort_unstable();
        expected.sort_unstable();
        assert_eq!(rets, expected);
    }
}

/// The newest state that comes first over the page's events.
#[track_caller]
fn events(page: &str) -> Value {
    let mut stream = TcpStream::connect(page).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /api/events HTTP/1.0\r\nHost: page.example\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    lines.find(|line| line == "event: state").expect("there is a state");
    let data = lines.next().unwrap();
    serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap()
}

/// What stands in docs/running.md as an example of that language, with other addresses, each of which must be there.
#[track_caller]
fn snippet(language: &str, addresses: &[(&str, String)]) -> String {
    let doc = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/running.md")).unwrap();
    let (_, rest) = doc.split_once(&format!("```{language}\n")).expect("the document has one");
    let mut snippet = rest.split_once("```").unwrap().0.to_owned();
    for (from, to) in addresses {
        assert!(snippet.contains(from), "{from} is not in {snippet}");
        snippet = snippet.replace(from, to);
    }
    snippet
}

/// Whether a program can be run; where it cannot, that is said.
fn is_there(program: &str, version: &str) -> Option<()> {
    let found = Command::new(program).arg(version).output().is_ok_and(|output| output.status.success());
    if !found {
        skipped(&format!("there is no {program} on the PATH; the example of docs/running.md is not tried"));
    }
    found.then_some(())
}
