//! The servers of a cluster.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::program::Program;
use crate::common::{DEADLINE, free_port};

pub(super) const PROGRAM: &str = env!("CARGO_BIN_EXE_contact-server");
const CONTACTCTL: &str = env!("CARGO_BIN_EXE_contactctl");

/// One of the servers.
pub(super) struct Member {
    command: Command,
    pub(super) listen: String,
    pub(super) control: String,
    pub(super) http: String,
    pub(super) data: PathBuf,
    /// What it lies in.
    pub(super) _folder: Option<TempDir>,
    pub(super) program: Program,
}

impl Member {
    pub(super) fn start(nats: &str, cluster: &str) -> Member {
        Member::start_with(nats, cluster, &[])
    }

    pub(super) fn start_with(nats: &str, cluster: &str, more: &[&str]) -> Member {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_owned();
        Member { _folder: Some(folder), ..Member::start_in(&data, nats, cluster, more) }
    }

    pub(super) fn start_in(data: &Path, nats: &str, cluster: &str, more: &[&str]) -> Member {
        Member::run(Command::new(PROGRAM), "127.0.0.1", data, nats, cluster, more)
    }

    /// By a command that is the program, perhaps on another machine, which has this address.
    pub(super) fn start_on(command: Command, host: &str, nats: &str, cluster: &str) -> Member {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_owned();
        Member { _folder: Some(folder), ..Member::run(command, host, &data, nats, cluster, &["--insecure"]) }
    }

    fn run(mut command: Command, host: &str, data: &Path, nats: &str, cluster: &str, more: &[&str]) -> Member {
        let [listen, control, http] = [(); 3].map(|()| free_port().replace("127.0.0.1", host));
        let folder = data.to_str().unwrap();
        let args = [
            ["--listen", &listen],
            ["--control", &control],
            ["--data", folder],
            ["--http", &http],
            ["--nats", nats],
            ["--cluster", cluster],
            ["--advertise", &listen],
            // As the campaign of one server has it.
            ["--ack-timeout", "1s"],
            ["--max-attempts", "1000"],
            ["--max-deliveries", "4"],
        ];
        command.args(args.concat()).args(more);
        let program = Program::spawn("contact-server", &mut command).unwrap();
        Member { command, listen, control, http, data: data.to_owned(), _folder: None, program }
    }

    /// Starts it again, with what it has on its disk.
    pub(super) fn restart(&mut self) {
        self.program = Program::spawn("contact-server", &mut self.command).unwrap();
    }

    /// Takes away what it has there.
    pub(super) fn lose_data(&self) {
        fs::remove_dir_all(&self.data).unwrap();
        fs::create_dir(&self.data).unwrap();
    }

    /// Waits until /readyz says this.
    #[track_caller]
    pub(super) fn until_ready_says(&self, what: &str) {
        self.until("/readyz", |answer| answer.contains(what));
    }

    /// Waits until it answers so to a request over HTTP.
    #[track_caller]
    pub(super) fn until(&self, path: &str, is_so: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = self.asked(path);
            if is_so(&answer) {
                return;
            }
            assert!(Instant::now() < deadline, "it says {answer}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What contactctl prints, with and without an error.
    pub(super) fn ctl(&self, args: &[&str]) -> String {
        let output = Command::new(CONTACTCTL).args(["--server", &self.control]).args(args).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }

    /// Waits until `contactctl doctor` says this.
    #[track_caller]
    pub(super) fn until_doctor_says(&self, what: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let said = self.ctl(&["doctor"]);
            if said.contains(what) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: it says {said}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub(super) fn leads(&self) -> bool {
        self.asked("/readyz").ends_with("leading")
    }

    fn asked(&self, path: &str) -> String {
        asked(&self.http, path)
    }
}

/// What a server answers over HTTP, as far as it does at once.
pub(super) fn asked(address: &str, path: &str) -> String {
    let mut answer = String::new();
    let patience = Duration::from_millis(200);
    if let Ok(mut stream) = TcpStream::connect_timeout(&address.parse().unwrap(), patience) {
        let _ = stream.set_read_timeout(Some(patience));
        let _ = write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
        let _ = stream.read_to_string(&mut answer);
    }
    answer
}

/// The place of the one that leads; `but` is not looked at.
#[track_caller]
pub(super) fn leader(members: &[Member], but: Option<usize>) -> usize {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(at) = (0..members.len()).find(|at| Some(*at) != but && members[*at].leads()) {
            return at;
        }
        assert!(Instant::now() < deadline, "nobody leads");
        thread::sleep(Duration::from_millis(5));
    }
}
