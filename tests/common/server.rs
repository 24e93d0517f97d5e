//! The real contact-server, and contactctl to look into it.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use tempfile::TempDir;

use super::program::Program;

const PROGRAM: &str = env!("CARGO_BIN_EXE_contact-server");
/// The client's program.
pub const CLIENT: &str = env!("CARGO_BIN_EXE_contact-client");
/// An address of this machine alone.
const HERE: &str = "127.0.0.1:0";

/// A server on ports and in a folder of its own.
pub struct Server {
    program: Program,
    args: Vec<String>,
    /// Where clients connect.
    pub listen: String,
    /// Where operators connect.
    pub control: String,
    /// Where the page is.
    pub http: String,
    data: PathBuf,
    _folder: TempDir,
}

impl Server {
    /// Starts one with these arguments besides its addresses and its folder, and waits until it listens.
    #[track_caller]
    pub fn start(args: &[&str]) -> Server {
        Server::start_by(Command::new(PROGRAM), args, None)
    }

    /// The same, on this data folder.
    #[track_caller]
    pub fn start_in(data: &Path, args: &[&str]) -> Server {
        Server::start_by(Command::new(PROGRAM), args, Some(data))
    }

    /// The same, for a test that [breaks the disk](Server::break_disk).
    #[track_caller]
    pub fn start_on_a_disk_that_breaks(args: &[&str]) -> Server {
        let mut command = Command::new("sh");
        // Writing beyond a limit then fails, instead of killing the server.
        command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", PROGRAM]);
        Server::start_by(command, args, None)
    }

    /// From now on every write to a file fails, or works again.
    #[track_caller]
    pub fn break_disk(&self, broken: bool) {
        let pid = Pid::from_raw(self.program.id() as i32);
        let limit = Rlimit { current: broken.then_some(0), maximum: None };
        prlimit(pid, Resource::Fsize, limit).unwrap();
    }

    /// The same, by a command that becomes the server.
    #[track_caller]
    pub fn start_by(command: Command, args: &[&str], data: Option<&Path>) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let data = data.map_or_else(|| folder.path().join("data"), Path::to_path_buf);
        let (program, [listen, control, http]) = launch(command, [HERE; 3], &data, &args);
        Server { program, args, listen, control, http, data, _folder: folder }
    }

    /// The same, where clients connect to this address.
    #[track_caller]
    pub fn start_at(listen: &str, args: &[&str]) -> Server {
        Server::start_on([listen, HERE, HERE], args)
    }

    /// The same, with the page at this address.
    #[track_caller]
    pub fn start_with_page(http: &str, args: &[&str]) -> Server {
        Server::start_on([HERE, HERE, http], args)
    }

    #[track_caller]
    fn start_on(addresses: [&str; 3], args: &[&str]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let data = folder.path().join("data");
        let (program, [listen, control, http]) = launch(Command::new(PROGRAM), addresses, &data, &args);
        Server { program, args, listen, control, http, data, _folder: folder }
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// The process.
    pub fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    /// SIGKILL: no time to put anything in order.
    pub fn kill(&mut self) {
        self.program.kill();
    }

    /// Starts it again after its end, at the same addresses and on the same folder.
    #[track_caller]
    pub fn restart(&mut self) {
        let addresses = [&self.listen, &self.control, &self.http].map(String::clone);
        let again = addresses.each_ref().map(String::as_str);
        let (program, again) = launch(Command::new(PROGRAM), again, &self.data(), &self.args);
        assert_eq!(again, addresses);
        self.program = program;
    }

    /// Runs contactctl to its end, and returns what it printed with `--json`.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> Vec<Value> {
        let mut program = self.ctl_running(args);
        let status = program.ended();
        assert!(status.success(), "contactctl {args:?}: {status}");
        program.out.so_far().iter().map(|line| json(line)).collect()
    }

    /// Starts contactctl with `--json`, for commands that go on, such as those with `--follow`.
    #[track_caller]
    pub fn ctl_running(&self, args: &[&str]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
        let (subcommand, rest) = args.split_first().unwrap();
        command.args([subcommand, "--json", "--server", &self.control]).args(rest).env("CONTACT_DATA", &self.data);
        Program::spawn("contactctl", &mut command).unwrap()
    }

    /// Starts contact-client, which begins with the first task that is kept.
    #[track_caller]
    pub fn client(&self, args: &[&str]) -> Program {
        self.client_by(Command::new(CLIENT), args)
    }

    /// The same, by a command that becomes the client: that, or [`CLIENT`] with an environment of its own.
    #[track_caller]
    pub fn client_by(&self, mut command: Command, args: &[&str]) -> Program {
        command.args(["--server", &self.listen, "--from", "first"]).args(args);
        Program::spawn("contact-client", &mut command).unwrap()
    }

    /// Submits tasks, and returns the id of the first one.
    #[track_caller]
    pub fn submit<S: AsRef<str>>(&self, tasks: &[S]) -> u64 {
        // What follows `--` is a task, whatever it looks like.
        let mut args = vec!["submit", "--"];
        args.extend(tasks.iter().map(AsRef::as_ref));
        let said = self.ctl(&args);
        let (done, batches) = said.split_last().unwrap();
        assert_eq!(*done, serde_json::json!({"done": true, "accepted": tasks.len(), "failed": 0}));
        batches[0]["first_id"].as_u64().unwrap()
    }

    /// Waits until so many entries are in a log (`tasks`, `results` or `statuses`), and returns all that are.
    #[track_caller]
    pub fn at_least(&self, count: usize, log: &str) -> Vec<Value> {
        let follow = self.ctl_running(&[log, "--all", "--follow"]);
        follow.out.at_least(count, log, |line| Some(json(line)));
        drop(follow);
        self.ctl(&[log, "--all"])
    }

    /// Waits until so many clients are connected.
    #[track_caller]
    pub fn at_least_clients(&self, count: usize) {
        self.clients_until(|connected| connected >= count);
    }

    /// Waits until it is like that with the number of clients that are connected.
    #[track_caller]
    pub fn clients_until(&self, like: impl Fn(usize) -> bool) {
        let begun = std::time::Instant::now();
        while !like(self.ctl(&["clients"]).len()) {
            assert!(begun.elapsed() < super::DEADLINE, "so many clients");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Waits until there are results that say DONE, so many; gives all results.
    #[track_caller]
    pub fn done(&self, count: usize) -> Vec<Value> {
        let follow = self.ctl_running(&["results", "--all", "--follow"]);
        follow.out.at_least(count, "results", |line| Some(json(line)).filter(|result| result["outcome"] == "DONE"));
        drop(follow);
        self.ctl(&["results", "--all"])
    }
}

/// Its one line on standard output, when it is ready: `listening on 127.0.0.1:1, control on 127.0.0.1:2, http on 127.0.0.1:3`.
#[track_caller]
fn launch(mut command: Command, addresses: [&str; 3], data: &Path, args: &[String]) -> (Program, [String; 3]) {
    let [listen, control, http] = addresses;
    command.args(["--listen", listen, "--control", control, "--http", http, "--data"]).arg(data).args(args);
    let program = Program::spawn("contact-server", &mut command).unwrap();
    let addresses = program.out.until("the line that says it listens", |lines| {
        let (listen, rest) = lines.first()?.strip_prefix("listening on ")?.split_once(", control on ")?;
        let (control, http) = rest.split_once(", http on ")?;
        Some([listen, control, http].map(ToOwned::to_owned))
    });
    (program, addresses)
}

#[track_caller]
fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?} is no JSON: {error}"))
}
