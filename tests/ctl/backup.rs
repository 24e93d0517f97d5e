//! `contactctl backup`, and the way back.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

use contact::wire::control::BackupRequest;
use futures::StreamExt as _;
use futures::executor::block_on;
use serde_json::{Value, json};

use super::fake::Fake;
use super::{Ran, contactctl, ok, run};
use crate::common::DEADLINE;
use crate::common::server::Server;
use crate::rig::Rig;

#[test]
fn what_was_answered_before_a_backup_under_load_is_there_when_it_is_restored() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy.db");
    let (answered, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let done = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                let first = server.submit(&vec!["x".repeat(10_000); 10]);
                answered.store(first + 9, SeqCst);
            }
        });
        while answered.load(SeqCst) < 100 {
            thread::yield_now();
        }
        let before = answered.load(SeqCst);
        let done = server.ctl(&["backup", file.to_str().unwrap()]).remove(0);
        stop.store(true, SeqCst);
        assert!(done["last_task"].as_u64().unwrap() >= before, "{done}");
        done
    });
    assert_eq!(done["bytes"], fs::metadata(&file).unwrap().len());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");

    // As docs/running.md has it.
    let restored = folder.path().join("restored");
    fs::create_dir(&restored).unwrap();
    fs::copy(&file, restored.join("contact.db")).unwrap();
    let server = Server::start_in(&restored, &[]);
    let ids = server.ctl(&["tasks", "--all"]).into_iter().map(|task| task["id"].as_u64().unwrap());
    let last = done["last_task"].as_u64().unwrap();
    assert!(ids.eq(1..=last));
    assert_eq!(server.submit(&["next"]), last + 1);
    server.ctl(&["backup", folder.path().join("second.db").to_str().unwrap()]);
}

#[test]
fn a_backup_is_said_to_be_there_and_why_there_is_none() {
    let fake = Fake::new();
    let text = ok(&fake, &["backup", "/backups/a.db"]);
    let begin = "/backups/a.db is a backup with all up to task 7 and result 5: 4.00 KiB in ";
    assert!(text.starts_with(begin) && text.ends_with(", checked; it is on the server's machine\n"), "{text}");
    let mut object: Value = serde_json::from_str(&ok(&fake, &["backup", "/backups/a.db", "--json"])).unwrap();
    object["took_ms"].take();
    let said = json!({"file": "/backups/a.db", "bytes": 4096, "last_task": 7, "last_result": 5, "took_ms": null});
    assert_eq!(object, said);
    let half = run(&fake, &["backup", "/backups/half.db"]);
    assert_eq!((half.code, half.out.as_str()), (Some(3), ""));
    assert!(half.err.contains("had not come to its end"), "{}", half.err);

    let server = Server::start(&[]);
    let relative: Ran = contactctl(&server.control, &["backup", "here.db"]).output().unwrap().into();
    assert_eq!(relative.code, Some(4));
    assert!(relative.err.contains("here.db is not an absolute path"), "{}", relative.err);
}

#[test]
fn a_backup_that_is_interrupted_is_removed() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let whole = vec!["x".repeat(100_000); 10];
    // At 64 MiB a second it takes a while.
    for _ in 0..60 {
        server.submit(&whole);
    }
    let file = folder.path().join("copy.db");
    let mut ctl = server.ctl_running(&["backup", file.to_str().unwrap()]);
    until(|| fs::read_dir(folder.path()).unwrap().count() > 0);
    ctl.signal("INT");
    assert_eq!(ctl.ended().code(), Some(130));
    until(|| fs::read_dir(folder.path()).unwrap().count() == 0);
    // And the next one may be made.
    until(|| contactctl(&server.control, &["backup", file.to_str().unwrap()]).status().unwrap().success());
}

#[test]
fn a_server_that_stops_leaves_no_half_backup() {
    let mut rig = Rig::start();
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..60 {
        rig.operator.submit(&["x".repeat(1_000_000)]);
    }
    let path = folder.path().join("copy.db").to_str().unwrap().to_owned();
    let request = BackupRequest { path, ..BackupRequest::default() };
    let mut progress = rig.operator.control.backup(&request, crate::rig::patient()).unwrap();
    assert!(block_on(progress.next()).unwrap().unwrap().copied_bytes > 0);
    rig.stop();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn until(is: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is() {
        assert!(Instant::now() < deadline, "it never was so");
        thread::yield_now();
    }
}
