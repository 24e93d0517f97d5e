//! The article's Python programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, io};

use contact::client::Tls;

use crate::common::program::Program;

/// How many times shorter the programs sleep: 0.1 s instead of 2 before they reconnect, 3 s instead of 60 between the
/// rounds of statuses, 2 s instead of 40 between the server's tasks.
const PACE: &str = "20";

/// How a field of `Result` is called: the article has it both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// `ret`, as in its proto.
    Ret,
    /// `result`, as in part of its code.
    Result,
    /// `ret` in the proto, and in the code as printed.
    AsPrinted,
}

/// A Python with grpcio, and the article's stubs.
pub struct Python {
    folder: PathBuf,
}

impl Python {
    /// Made in the target folder on first use. `None`, said loudly, where there is no Python or no network to make it
    /// with; with `CI=true` that is a failure.
    #[track_caller]
    pub fn ready() -> Option<&'static Python> {
        static READY: OnceLock<Result<Python, String>> = OnceLock::new();
        crate::common::or_skipped(READY.get_or_init(prepare))
    }

    /// The article's client.
    #[track_caller]
    pub fn client(&self, spelling: Spelling, server: &str) -> Program {
        self.clients(1, spelling, server)
    }

    /// The same by TLS.
    #[track_caller]
    pub fn client_with(&self, tls: &Tls, server: &str) -> Program {
        let (cert, key) = tls.identity.as_ref().unwrap();
        let files = env::join_paths([&tls.ca, key, cert]).unwrap();
        let mut command = self.command("contact_client.py", Spelling::Ret, server);
        Program::spawn("contact_client.py", command.env("CONTACT_TLS", files)).unwrap()
    }

    /// So many of the article's clients in one process, each on its own connection; what the third one prints begins
    /// with `3 `.
    #[track_caller]
    pub fn clients(&self, count: usize, spelling: Spelling, server: &str) -> Program {
        let mut command = self.command("contact_client.py", spelling, server);
        Program::spawn("contact_client.py", command.env("CONTACT_COPIES", count.to_string())).unwrap()
    }

    /// The article's server, and the address it listens at.
    #[track_caller]
    pub fn server(&self, spelling: Spelling, listen: &str) -> (Program, String) {
        let mut command = self.command("contact_server.py", spelling, listen);
        listening(Program::spawn("contact_server.py", &mut command).unwrap())
    }

    /// The server that Contact is measured beside, and the address it listens at.
    #[track_caller]
    pub fn bench_server(&self) -> (Program, String) {
        let mut command = self.python("ret");
        let command = command.arg(here("../bench/article_server.py"));
        listening(Program::spawn("article_server.py", command).unwrap())
    }

    /// Python's own libraries for what every gRPC service does, as `tests/interop/conventions.py` uses them.
    #[track_caller]
    pub fn conventions(&self, args: &[&str]) -> Program {
        let mut command = self.python("ret");
        command.arg(here("conventions.py")).args(args).env("PYTHONIOENCODING", "utf-8");
        Program::spawn("conventions.py", &mut command).unwrap()
    }

    /// A program that uses the whole of `proto/contact.proto`.
    #[track_caller]
    pub fn program(&self, name: &str, file: &Path, args: &[&str]) -> Program {
        let mut command = self.python("whole");
        Program::spawn(name, command.arg(file).args(args).env("PYTHONIOENCODING", "utf-8")).unwrap()
    }

    /// A Python that finds the stubs.
    fn python(&self, stubs: &str) -> Command {
        let stubs = self.folder.join(stubs);
        // The generated code imports its messages from `contact/` as well as through it.
        let path = env::join_paths([stubs.clone(), stubs.join("contact")]).unwrap();
        let mut command = Command::new(self.folder.join("python/bin/python"));
        command.env("PYTHONPATH", path).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    fn command(&self, program: &str, spelling: Spelling, address: &str) -> Command {
        let mut command = self.python(if spelling == Spelling::Result { "result" } else { "ret" });
        command.arg(here("run.py")).arg(here(program));
        command.env("PYTHONIOENCODING", "utf-8").env("CONTACT_ADDRESS", address).env("CONTACT_PACE", PACE);
        match spelling {
            Spelling::Ret => command.env("CONTACT_FIELD", "ret"),
            Spelling::Result => command.env("CONTACT_FIELD", "result"),
            Spelling::AsPrinted => command.env_remove("CONTACT_FIELD"),
        };
        command
    }
}

/// A server that says which port it took.
#[track_caller]
fn listening(program: Program) -> (Program, String) {
    let port = program.out.wait_for("its port", |line| line.starts_with("port "));
    (program, format!("127.0.0.1:{}", port.trim_start_matches("port ")))
}

fn here(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(file)
}

/// An error is what keeps Python from being had; a failure of what is tested panics.
fn prepare() -> Result<Python, String> {
    // Cargo names only a folder in the target folder, not the target folder itself.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("interop");
    let output = match Command::new("python3").arg(here("prepare.py")).arg(&folder).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err("there is no python3 on the PATH".into()),
        output => output.unwrap(),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    const UNAVAILABLE: i32 = 69;
    match output.status.code() {
        Some(0) => Ok(Python { folder }),
        Some(UNAVAILABLE) => Err(format!("{}; so there is no Python with grpcio", said.trim())),
        _ => panic!("prepare.py: {}\n{said}", output.status),
    }
}
