//! The workers in other languages, which know nothing but the proto.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::here;
use crate::common::node;
use crate::common::program::{Program, said};
use crate::common::server::Server;

/// What of a worker is replaced, with what, so that tests can hold it up.
type Changes = [(&'static str, &'static str); 2];

const NODE_HELD_UP: Changes = [
    (
        "  return text.toUpperCase();\n",
        r"  console.log('begun', text);
  while (!require('node:fs').existsSync(`${process.env.GATE}/${text}`)) await sleep(50);
  return text.toUpperCase();
",
    ),
    ("RENEW_MS = 10_000", "RENEW_MS = Number(process.env.RENEW_MS)"),
];

const GO_HELD_UP: Changes = [
    (
        "\treturn strings.ToUpper(text), nil\n",
        r#"	fmt.Println("begun", text)
	for {
		if _, err := os.Stat(os.Getenv("GATE") + "/" + text); err == nil {
			return strings.ToUpper(text), nil
		}
		time.Sleep(50 * time.Millisecond)
	}
"#,
    ),
    (
        "\trenewEvery  = 10 * time.Second\n\tmostBackoff = 30 * time.Second\n)\n",
        r#"	mostBackoff = 30 * time.Second
)

var renewEvery, _ = time.ParseDuration(os.Getenv("RENEW_MS") + "ms")
"#,
    ),
];

/// What it takes to build the worker in Go on Debian.
const GO_PACKAGES: &str = "golang-go golang-google-grpc-dev golang-google-protobuf-dev golang-github-golang-protobuf-1-5-dev \
    protobuf-compiler protoc-gen-go protoc-gen-go-grpc";

/// A worker as it is printed, and one that tests can hold up.
struct Worker {
    printed: Vec<OsString>,
    held_up: Vec<OsString>,
}

/// Where a worker that is held up finds a file with the name of a task that it may finish.
struct Gate(TempDir);

impl Gate {
    fn new() -> Gate {
        Gate(tempfile::tempdir().unwrap())
    }

    fn open(&self, task: &str) {
        fs::write(self.0.path().join(task), "").unwrap();
    }
}

impl Worker {
    #[track_caller]
    fn start(&self, server: &Server, client: &str, group: &str) -> Program {
        spawn(&self.printed, server, client, group, &[])
    }

    /// Prints `begun TASK` for each task, and renews leases as often as that.
    #[track_caller]
    fn start_held_up(&self, server: &Server, client: &str, group: &str, gate: &Gate, renew_ms: &str) -> Program {
        let more = [("GATE", gate.0.path().as_os_str()), ("RENEW_MS", renew_ms.as_ref())];
        spawn(&self.held_up, server, client, group, &more)
    }

    fn does_tasks_and_tells_what_came_of_them(&self) {
        let server = Server::start(&[]);
        submit(&server, "工 50%", &["one", "two", "three", "four", "five", "six"]);
        let _worker = self.start(&server, "w 1", "工 50%");
        let results = server.done(6);
        let mut told: Vec<_> = results.iter().map(|it| it["ret"].as_str().unwrap()).collect();
        told.sort_unstable();
        assert_eq!(told, ["FIVE", "FOUR", "ONE", "SIX", "THREE", "TWO"]);
        assert!(results.iter().all(|it| it["client"] == "w 1" && it["group"] == "工 50%" && it["attempt"] == 1));
    }

    fn keeps_its_lease_for_as_long_as_it_works(&self) {
        let server = Server::start(&["--ack-timeout", "4s"]);
        let gate = Gate::new();
        submit(&server, "renewing", &["long"]);
        let renewing = self.start_held_up(&server, "renewing", "renewing", &gate, "300");
        renewing.out.wait_for("its beginning", |line| line == "begun long");
        // Its lease would have ended before the one of another that begins now and says nothing.
        submit(&server, "silent", &["long"]);
        let _silent = self.start_held_up(&server, "silent", "silent", &gate, "1000000");
        let results = server.ctl_running(&["results", "--all", "--follow"]);
        let first = results.out.wait_for("the end of a lease", |line| line.contains("TIMED_OUT"));
        assert!(first.contains("\"silent\""), "{first}");
        gate.open("long");
        let done = results.out.wait_for("its result", |line| line.contains("\"renewing\""));
        assert!(done.contains("\"DONE\"") && done.contains("\"attempt\":1"), "{done}");
    }

    fn goes_on_and_does_nothing_twice_when_the_server_was_killed(&self) {
        let mut server = Server::start(&[]);
        let gate = Gate::new();
        submit(&server, "workers", &["long"]);
        let worker = self.start_held_up(&server, "w1", "workers", &gate, "10000");
        worker.out.wait_for("its beginning", |line| line == "begun long");
        server.kill();
        server.restart();
        submit(&server, "workers", &["next"]);
        worker.out.wait_for("the next task", |line| line == "begun next");
        gate.open("long");
        gate.open("next");
        let results = server.at_least(2, "results");
        let mut told: Vec<_> = results.iter().map(|it| (it["outcome"].as_str(), it["ret"].as_str())).collect();
        told.sort_unstable();
        assert_eq!(told, [(Some("DONE"), Some("LONG")), (Some("DONE"), Some("NEXT"))]);
        assert_eq!(worker.out.so_far(), ["begun long", "begun next"]);
    }

    fn loses_what_it_has_to_another_when_it_is_killed(&self) {
        let server = Server::start(&[]);
        let gate = Gate::new();
        submit(&server, "workers", &["long"]);
        let mut killed = self.start_held_up(&server, "w1", "workers", &gate, "10000");
        killed.out.wait_for("its beginning", |line| line == "begun long");
        let _other = self.start(&server, "w2", "workers");
        server.at_least_clients(2);
        killed.kill();
        let results = server.done(1);
        let told: Vec<_> = results.iter().map(|it| (it["client"].as_str(), it["outcome"].as_str())).collect();
        assert_eq!(told, [(Some("w1"), Some("LOST")), (Some("w2"), Some("DONE"))]);
    }
}

macro_rules! tests {
    ($language:ident: $($test:ident, $what:ident;)+) => { $(
        #[test]
        fn $test() {
            if let Some(worker) = $language() {
                worker.$what();
            }
        }
    )+ };
}

tests! { in_node:
    a_worker_in_node_does_tasks_and_tells_what_came_of_them, does_tasks_and_tells_what_came_of_them;
    a_worker_in_node_keeps_its_lease_for_as_long_as_it_works, keeps_its_lease_for_as_long_as_it_works;
    a_worker_in_node_goes_on_when_the_server_was_killed, goes_on_and_does_nothing_twice_when_the_server_was_killed;
    a_worker_in_node_loses_what_it_has_to_another_when_it_is_killed, loses_what_it_has_to_another_when_it_is_killed;
}

tests! { in_go:
    a_worker_in_go_does_tasks_and_tells_what_came_of_them, does_tasks_and_tells_what_came_of_them;
    a_worker_in_go_keeps_its_lease_for_as_long_as_it_works, keeps_its_lease_for_as_long_as_it_works;
    a_worker_in_go_goes_on_when_the_server_was_killed, goes_on_and_does_nothing_twice_when_the_server_was_killed;
    a_worker_in_go_loses_what_it_has_to_another_when_it_is_killed, loses_what_it_has_to_another_when_it_is_killed;
}

/// With Node. `None`, said loudly, where there is none, or no network to get its packages with; with `CI=true` that is a failure.
#[track_caller]
fn in_node() -> Option<&'static Worker> {
    static READY: OnceLock<Result<Worker, String>> = OnceLock::new();
    crate::common::or_skipped(READY.get_or_init(|| {
        node::ready()?;
        let folder = target("node-example");
        node::modules(&here("node"), &folder)?;
        // The packages are found above them.
        let run = |file: PathBuf| vec!["node".into(), file.into()];
        Ok(Worker {
            printed: run(lay_out(&folder.join("printed"), "node/worker.js", &[])),
            held_up: run(lay_out(&folder.join("held-up"), "node/worker.js", &NODE_HELD_UP)),
        })
    }))
}

/// With Go, and the gRPC of a Debian. `None`, said loudly, where that is not installed.
#[track_caller]
fn in_go() -> Option<&'static Worker> {
    static READY: OnceLock<Result<Worker, String>> = OnceLock::new();
    let ready = READY.get_or_init(|| {
        go_is_there().map_err(|why| format!("{why} (apt install {GO_PACKAGES})"))?;
        let folder = target("go-example");
        Ok(Worker {
            printed: build(&lay_out(&folder.join("printed"), "go/worker.go", &[])),
            held_up: build(&lay_out(&folder.join("held-up"), "go/worker.go", &GO_HELD_UP)),
        })
    });
    ready.as_ref().map_err(|why| crate::common::skipped(why)).ok()
}

/// That this Go has gRPC, and that there is what makes stubs for it.
fn go_is_there() -> Result<(), String> {
    for program in ["protoc", "protoc-gen-go", "protoc-gen-go-grpc"] {
        // An old protoc-gen-go knows no --version, nor optional fields.
        said(Command::new(program).arg("--version"))?;
    }
    said(&mut go(&["list", "google.golang.org/grpc", "google.golang.org/protobuf/proto"])).map(drop)
}

/// Go with the sources that Debian's packages bring.
fn go(args: &[&str]) -> Command {
    let mut command = Command::new("go");
    command.args(args).envs([("GO111MODULE", "off"), ("GOPATH", "/usr/share/gocode"), ("GOFLAGS", "")]);
    command
}

/// As the head of the worker has it.
fn build(file: &Path) -> Vec<OsString> {
    let folder = file.parent().unwrap();
    for args in [&["generate"][..], &["build", "-o", "worker"]] {
        said(go(args).current_dir(folder)).unwrap();
    }
    vec![folder.join("worker").into()]
}

/// A worker beside the proto, as in a checkout, with other text in the place of some that it has once.
#[track_caller]
fn lay_out(folder: &Path, file: &str, with: &[(&str, &str)]) -> PathBuf {
    let mut source = fs::read_to_string(here(file)).unwrap();
    for (piece, other) in with {
        assert_eq!(source.matches(piece).count(), 1, "{file} has this once: {piece}");
        source = source.replace(piece, other);
    }
    let to = folder.join("examples").join(file);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::create_dir_all(folder.join("proto")).unwrap();
    fs::copy(here("../proto/contact.proto"), folder.join("proto/contact.proto")).unwrap();
    fs::write(&to, source).unwrap();
    to
}

/// A folder in the target folder, of which cargo names only another one.
fn target(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(name)
}

#[track_caller]
fn spawn(command: &[OsString], server: &Server, client: &str, group: &str, more: &[(&str, &OsStr)]) -> Program {
    let mut worker = Command::new(&command[0]);
    worker.args(&command[1..]).args([&server.listen, client, group]).envs(more.iter().copied());
    Program::spawn(client, &mut worker).unwrap()
}

/// For a group, which need not be there.
#[track_caller]
fn submit(server: &Server, group: &str, tasks: &[&str]) {
    server.ctl(&[&["submit", "--to", group, "--"], tasks].concat());
}
