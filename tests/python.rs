//! The Python package in `clients/python`, installed from its wheel: its own tests, with the servers of this build.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs, io};

/// A Python that has the package, and the folder that it is in.
pub struct Package {
    folder: PathBuf,
}

impl Package {
    /// Made in the target folder on first use. `None`, said loudly, where there is no Python or no network to make it with; with
    /// `CI=true` that is a failure.
    #[track_caller]
    pub fn ready() -> Option<&'static Package> {
        static READY: OnceLock<Result<Package, String>> = OnceLock::new();
        crate::common::or_skipped(READY.get_or_init(prepare))
    }

    /// The Python, which leaves nothing in the sources.
    pub fn python(&self) -> Command {
        let mut command = Command::new(self.folder.join("python/bin/python"));
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONIOENCODING", "utf-8");
        command
    }
}

/// Runs a module of the package's tests.
#[track_caller]
fn passes(module: &str) {
    let Some(package) = Package::ready() else { return };
    let mut command = package.python();
    // Files and threads that are left behind are errors, too.
    command.args(["-X", "dev", "-W", "error::ResourceWarning", "-m", "unittest", module]);
    command.current_dir(here("tests"));
    command.env("PACKAGE_SERVER", env!("CARGO_BIN_EXE_contact-server"));
    command.env("PACKAGE_CTL", env!("CARGO_BIN_EXE_contactctl"));
    command.env("PACKAGE_DIST", package.folder.join("dist"));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{module}: {}\n{}{said}", output.status, String::from_utf8_lossy(&output.stdout));
    assert!(said.contains("\nRan ") && !said.contains("\nRan 0 "), "{module} has no tests: {said}");
}

#[test]
fn the_ledger_of_the_python_worker_keeps_what_is_open() {
    passes("test_ledger");
}

#[test]
fn a_python_worker_takes_tasks_and_reports_what_came_of_them() {
    passes("test_worker");
}

#[test]
fn a_python_worker_loses_nothing_when_either_side_or_the_network_fails() {
    passes("test_faults");
}

#[test]
fn each_task_of_python_workers_is_settled_once_whatever_fails() {
    passes("test_chaos");
}

#[test]
fn a_python_worker_heeds_signals_and_refuses_forks() {
    passes("test_process");
}

#[test]
fn a_python_worker_works_with_asyncio() {
    passes("test_aio");
}

#[test]
fn the_python_client_submits_and_shows_what_became_of_it() {
    passes("test_client");
}

#[test]
fn a_python_worker_speaks_tls_and_shows_who_it_is() {
    passes("test_tls");
}

#[test]
fn traces_ride_with_tasks_of_python() {
    passes("test_traces");
}

#[test]
fn the_readme_of_the_python_package_works_as_it_is_printed() {
    passes("test_readme");
}

#[test]
fn the_python_package_has_the_version_of_the_server() {
    let settings = fs::read_to_string(here("src/contact_worker/_settings.py")).unwrap();
    assert!(settings.contains(&format!("\nVERSION = \"{}\"\n", env!("CARGO_PKG_VERSION"))), "{settings}");
}

fn here(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python").join(file)
}

/// An error is what keeps Python from being had; a failure of what is tested panics.
fn prepare() -> Result<Package, String> {
    // Cargo names only a folder in the target folder, not the target folder itself.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("python-client");
    let output = match Command::new("python3").arg(here("prepare.py")).arg(&folder).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err("there is no python3 on the PATH".into()),
        output => output.unwrap(),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    const UNAVAILABLE: i32 = 69;
    match output.status.code() {
        Some(0) => Ok(Package { folder }),
        Some(UNAVAILABLE) => Err(format!("{}; so there is no Python with the package", said.trim())),
        _ => panic!("prepare.py: {}\n{said}", output.status),
    }
}
