//! Submitting.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use contact::wire::control as pb;
use futures::channel::mpsc;
use tempfile::TempDir;

use super::fake::Fake;
use super::{Ran, Running, contactctl, eventually, ok, run, run_with};

fn file(text: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.txt");
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn lines(n: u64) -> String {
    (1..=n).map(|i| format!("task {i}\n")).collect()
}

fn accepted(fake: &Fake) -> Vec<String> {
    fake.state().tasks.iter().map(|task| task.task.clone()).collect()
}

fn sizes(fake: &Fake) -> Vec<usize> {
    fake.state().submitted.iter().map(|request| request.tasks.len()).collect()
}

/// The output without the time that it took.
#[track_caller]
fn timeless(out: &str) -> String {
    let (head, tail) = out.rsplit_once(", in ").unwrap_or_else(|| panic!("no time in {out}"));
    let (_, tail) = tail.split_once(" s").unwrap_or_else(|| panic!("no seconds in {out}"));
    format!("{head}{tail}")
}

#[test]
fn each_argument_is_a_task() {
    let fake = Fake::new();
    assert_eq!(timeless(&ok(&fake, &["submit", "任务:1", "b c", ""])), "accepted 3 tasks, ids 1 to 3\n");
    assert_eq!(timeless(&ok(&fake, &["submit", "--", "--odd"])), "accepted 1 task, id 4\n");
    assert_eq!(accepted(&fake), ["任务:1", "b c", "", "--odd"]);
    let out = ok(&fake, &["submit", "--json", "x"]);
    assert_eq!(out, "{\"first_id\":5,\"count\":1}\n{\"done\":true,\"accepted\":1,\"failed\":0}\n");
}

#[test]
fn what_is_said_about_the_tasks_reaches_the_server() {
    let fake = Fake::new();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let before = now();
    ok(&fake, &["submit", "x", "--to", "g", "--key", "k", "--delay", "10s", "--ttl", "1h", "--max-attempts", "3"]);
    let after = now();
    let task = fake.state().submitted[0].tasks[0].clone();
    assert_eq!((task.to.as_str(), task.key.as_str(), task.max_attempts), ("g", "k", 3));
    assert!((before..=after).contains(&(task.not_before - 10_000)), "{task}");
    assert!((before..=after).contains(&(task.expires_at - 3_600_000)), "{task}");

    assert_eq!((task.delay_ms, task.ttl_ms), (Some(10_000), Some(3_600_000)), "the server adds them to its clock");

    let (from, to) = ("2096-04-30T16:00:00+08:00", "2096-04-30 08:00:01.5Z");
    let out = ok(&fake, &["submit", "x", "--not-before", from, "--expires-at", to, "--priority", "high"]);
    let times = ["; not before 2096-04-30T08:00:00.000Z (in ", "; expires 2096-04-30T08:00:01.500Z (in "];
    assert!(times.iter().all(|time| out.contains(time)), "they are echoed as they were understood: {out}");
    let task = fake.state().submitted[1].tasks[0].clone();
    assert_eq!((task.not_before, task.expires_at), (3_986_611_200_000, 3_986_611_201_500));
    assert_eq!((task.delay_ms, task.ttl_ms), (None, None));
    assert_eq!(task.priority.enum_value(), Ok(pb::Priority::HIGH));
}

#[test]
fn several_groups_get_a_task_each_and_a_list_of_them_in_one_name_is_refused() {
    let fake = Fake::new();
    let (_folder, path) = file("one\ntwo\n");
    let out = ok(&fake, &["submit", "--to", "工人", "--to", "b c", "--batch", "1", "--file", path.to_str().unwrap()]);
    assert_eq!(timeless(&out), "accepted 4 tasks, ids 1 to 4\n");
    let tasks: Vec<_> = fake.state().tasks.iter().map(|task| (task.task.clone(), task.to.clone())).collect();
    let expected = [("one", "工人"), ("one", "b c"), ("two", "工人"), ("two", "b c")];
    assert_eq!(tasks, expected.map(|(text, to)| (text.to_owned(), to.to_owned())));
    assert_eq!(sizes(&fake), [2, 2], "what is for several groups is not torn apart");
    let out = ok(&fake, &["submit", "--to", "a", "--to", "a", "--key", "k", "once"]);
    assert_eq!(timeless(&out), "accepted 1 task, id 5\n", "a group that is named twice is one group");

    let long = "x".repeat(8 << 20);
    let ran = run_with(&fake, &["submit", "-", "--to", "a", "--to", "b"], format!("{long}\nshort\n").as_bytes());
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("line 1: it is too long for 2 groups at once"), "{}", ran.err);
    assert_eq!(fake.state().tasks.len(), 7, "the other line is accepted");

    for (args, says) in [
        (&["submit", "x", "--to", "a,b c"][..], "repeat the option: --to a --to 'b c'"),
        (&["submit", "x", "--to", "a,"], "no comma"),
        (&["submit", "x", "--to", "workers "], "not begin or end with a blank"),
        (&["submit", "x", "--to", " "], "not begin or end with a blank"),
        (&["submit", "x", "--to", "a\u{200b}"], "U+200B"),
        (&["submit", "x", "--to", "a", "--to", "b", "--key", "k"], "a key to each group's task"),
    ] {
        let ran = run(&fake, args);
        assert_eq!(ran.code, Some(2), "{args:?}");
        assert!(ran.err.contains(says), "{}", ran.err);
    }
    assert_eq!(fake.state().tasks.len(), 7);
}

#[test]
fn each_line_of_a_file_is_a_task_and_ids_are_in_their_order() {
    let fake = Fake::new();
    let (_folder, path) = file(lines(2500));
    let out = ok(&fake, &["submit", "--file", path.to_str().unwrap()]);
    assert_eq!(timeless(&out), "accepted 2500 tasks, ids 1 to 2500\n");
    assert_eq!(accepted(&fake), (1..=2500).map(|i| format!("task {i}")).collect::<Vec<_>>());
    assert_eq!(sizes(&fake), [1000, 1000, 500]);
}

#[test]
fn a_request_is_bounded_in_bytes_too() {
    let fake = Fake::new();
    let (_folder, path) = file(format!("{}\n", "x".repeat(100_000)).repeat(30));
    ok(&fake, &["submit", "--file", path.to_str().unwrap()]);
    assert_eq!(sizes(&fake), [11, 11, 8]);
}

#[test]
fn empty_lines_are_skipped_and_counted() {
    let fake = Fake::new();
    let ran = run_with(&fake, &["submit", "-"], b"a\r\n\r\n\nb\n\n c");
    assert_eq!(ran.code, Some(0));
    assert_eq!(timeless(&ran.out), "accepted 3 tasks, ids 1 to 3; skipped 3 empty lines\n");
    assert_eq!(accepted(&fake), ["a", "b", " c"]);
    let ran = run_with(&fake, &["submit", "-"], b"");
    assert_eq!((ran.code, timeless(&ran.out).as_str()), (Some(0), "accepted 0 tasks\n"));
}

#[test]
fn each_batch_is_reported_as_soon_as_it_is_durable() {
    let fake = Fake::new();
    let mut running = Running::new({
        let mut command = contactctl(&fake.address, &["submit", "-", "--json"]);
        command.stdin(Stdio::piped());
        command
    });
    let mut stdin = running.child.stdin.take().unwrap();
    stdin.write_all(b"a\nb\nhalf ").unwrap();
    assert_eq!(running.line(), r#"{"first_id":1,"count":2}"#);
    stdin.write_all(b"a line\n").unwrap();
    assert_eq!(running.line(), r#"{"first_id":3,"count":1}"#);
    drop(stdin);
    assert_eq!(running.line(), r#"{"done":true,"accepted":3,"failed":0}"#);
    assert_eq!(running.end(), Ran { code: Some(0), out: "".into(), err: "".into() });
    assert_eq!(accepted(&fake), ["a", "b", "half a line"]);
}

#[test]
fn lines_that_come_while_a_request_is_under_way_go_together_into_the_next() {
    let fake = Fake::new();
    let (answer, answers) = mpsc::unbounded();
    fake.state().answers = Some(answers);
    let mut command = contactctl(&fake.address, &["submit", "-", "--batch", "30"]);
    let mut running = Running::new({
        command.stdin(Stdio::piped());
        command
    });
    let mut stdin = running.child.stdin.take().unwrap();
    let mut line = |n| {
        writeln!(stdin, "task {n}").unwrap();
        let is_read = || rustix::io::ioctl_fionread(&stdin).unwrap() == 0;
        eventually("the line is read", is_read);
    };
    line(1);
    eventually("the first is under way", || sizes(&fake) == [1]);
    (2..=20).for_each(&mut line);
    assert_eq!(sizes(&fake), [1]);
    drop(answer);
    eventually("all are accepted", || accepted(&fake).len() == 20);
    assert!(sizes(&fake).len() < 5, "{:?}", sizes(&fake));
    (21..=25).for_each(&mut line);
    eventually("all are accepted", || accepted(&fake).len() == 25);
    drop(stdin);
    assert_eq!(timeless(&running.end().out), "accepted 25 tasks, ids 1 to 25\n");
    assert_eq!(accepted(&fake), (1..=25).map(|i| format!("task {i}")).collect::<Vec<_>>());
}

#[test]
fn ids_that_do_not_follow_one_another_are_each_given() {
    let fake = Fake::new();
    fake.state().scattered = true;
    let out = ok(&fake, &["submit", "--json", "a", "b"]);
    assert_eq!(out.lines().next().unwrap(), r#"{"first_id":2,"count":2,"ids":[2,4]}"#);
    assert_eq!(timeless(&ok(&fake, &["submit", "c", "d"])), "accepted 2 tasks, ids between 6 and 8\n");
}

#[test]
fn a_task_that_was_known_by_its_key_is_not_said_to_be_accepted() {
    let fake = Fake::new();
    let with = |groups: &[(&str, Option<pb::Outcome>)]| pb::TaskLedger {
        groups: groups
            .iter()
            .map(|(group, outcome)| pb::TaskInGroup {
                group: (*group).into(),
                state: if outcome.is_some() { pb::TaskState::SETTLED } else { pb::TaskState::IN_FLIGHT }.into(),
                outcome: outcome.map(Into::into),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let submit = ["submit", "x", "--key", "k"];
    assert_eq!(timeless(&ok(&fake, &submit)), "accepted 1 task, id 1\n");
    assert_eq!(ok(&fake, &submit), "known: task 1, waiting; nothing was submitted again\n");
    fake.state().ledger = with(&[("a", Some(pb::Outcome::CANCELLED))]);
    assert_eq!(ok(&fake, &submit), "known: task 1, cancelled; nothing was submitted again\n");
    fake.state().ledger = with(&[("a", Some(pb::Outcome::DONE)), ("b", None)]);
    let says = "known: task 1, done with a, in flight with b; nothing was submitted again\n";
    assert_eq!(ok(&fake, &submit), says);
    let out = ok(&fake, &["submit", "x", "--key", "k", "--json"]);
    let accepted = r#"{"first_id":1,"count":1,"ids":[1],"known":[1]}"#;
    assert_eq!(out, format!("{accepted}\n{{\"done\":true,\"accepted\":0,\"failed\":0,\"known\":1}}\n"));

    let ran = run(&fake, &["submit", "refuse", "--key", "k", "--json"]);
    assert_eq!(ran.code, Some(1));
    let failed = r#"{"line":1,"error":"no, not \"refuse\"","cause":"KEY_REUSED"}"#;
    assert_eq!(ran.out.lines().next(), Some(failed));
}

#[test]
fn lines_that_fail_are_named_and_the_others_go_on() {
    let fake = Fake::new();
    let (_folder, path) = file(b"a\n\xff\xfe\n\nrefuse me\nb\n\xe4\xbb");
    let path = path.to_str().unwrap();
    let ran = run(&fake, &["submit", "--file", path, "--batch", "2"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(timeless(&ran.out), "accepted 2 tasks, ids 1 to 2; skipped 1 empty line\n");
    assert_eq!(
        ran.err,
        "\
line 2: not UTF-8, from byte 1 on
line 4: no, not \"refuse me\"
line 6: not UTF-8, from byte 1 on
contactctl: 3 lines failed: 2, 4, 6
"
    );
    assert_eq!(accepted(&fake), ["a", "b"]);

    let ran = run(&fake, &["submit", "--json", "--file", path]);
    assert_eq!(
        ran.out,
        r#"{"first_id":3,"count":2}
{"line":2,"error":"not UTF-8, from byte 1 on"}
{"line":4,"error":"no, not \"refuse me\""}
{"line":6,"error":"not UTF-8, from byte 1 on"}
{"done":true,"accepted":2,"failed":3}
"#
    );
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "{\"error\":\"3 lines failed: 2, 4, 6\"}\n"));
}

#[test]
fn a_file_without_any_task_in_it_names_its_lines_too() {
    let fake = Fake::new();
    let ran = run_with(&fake, &["submit", "-"], &b"\xff\n".repeat(2100));
    assert_eq!((ran.code, timeless(&ran.out).as_str()), (Some(1), "accepted 0 tasks\n"));
    assert_eq!(ran.err.lines().count(), 2101);
    assert!(ran.err.lines().last().unwrap().starts_with("contactctl: 2100 lines failed: 1, 2, 3, "), "{}", ran.err);
}

#[test]
fn a_submission_that_is_cut_off_says_how_far_it_came() {
    let fake = Fake::new();
    fake.state().break_off = Some((3, 8));
    let (_folder, path) = file(lines(500));
    let path = path.to_str().unwrap();
    let went = format!("contactctl: the server at {} went away (stopping): ", fake.address);
    let ran = run(&fake, &["submit", "--batch", "10", "--file", path]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""));
    // Eight requests under way is as many as there may be.
    assert_eq!(
        ran.err,
        format!(
            "{went}lines 1 to 30 are accepted (ids 1 to 30), lines 31 to 110 may or may not be, the rest was not sent; \
             to go on, with the same options: tail -n +31 {path} | contactctl submit -\n"
        )
    );
    let ran = run(&fake, &["submit", "--batch", "10", "--json", "--file", path]);
    assert_eq!(ran.code, Some(3));
    let objects: Vec<_> = ran.out.lines().collect();
    assert_eq!(
        objects,
        [r#"{"first_id":31,"count":10}"#, r#"{"first_id":41,"count":10}"#, r#"{"first_id":51,"count":10}"#]
    );

    fake.state().break_off = Some((0, 1));
    let ran = run(&fake, &["submit", "x"]);
    assert!(ran.err.starts_with(&format!("{went}task 1 may or may not be accepted; ")), "{}", ran.err);
}

#[test]
fn a_submission_whose_server_dies_while_it_waits_for_input_ends() {
    let mut fake = Fake::new();
    let mut running = Running::new({
        let mut command = contactctl(&fake.address, &["submit", "-", "--json"]);
        command.stdin(Stdio::piped());
        command
    });
    let mut stdin = running.child.stdin.take().unwrap();
    stdin.write_all(b"a\nb\n").unwrap();
    running.line();
    fake.stop();
    let ran = running.end();
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""));
    assert!(ran.err.contains("lines 1 to 2 are accepted (ids 1 to 2), the rest was not sent"), "{}", ran.err);
    assert!(ran.err.ends_with("; to go on, submit again from line 3 on\"}\n"), "{}", ran.err);
}

#[test]
fn an_interrupted_submission_says_how_far_it_came() {
    let fake = Fake::new();
    fake.state().break_off = Some((2, usize::MAX - 2));
    let (_folder, path) = file(lines(500));
    let running =
        Running::new(contactctl(&fake.address, &["submit", "--batch", "10", "--file", path.to_str().unwrap()]));
    eventually("two requests answered and eight under way", || fake.state().submitted.len() == 10);
    running.signal("INT");
    let ran = running.end();
    assert_eq!(ran.code, Some(130));
    let says = "contactctl: interrupted: lines 1 to 20 are accepted (ids 1 to 20), lines 21 to 100 may or may not be, ";
    assert!(ran.err.starts_with(says), "{}", ran.err);
}

#[test]
fn an_input_that_cannot_be_read_is_named() {
    let fake = Fake::new();
    let ran = run(&fake, &["submit", "--file", "/no/such/file"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.starts_with("contactctl: cannot read /no/such/file: No such file"), "{}", ran.err);
    let ran = run(&fake, &["submit", "--file", "/"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.starts_with("contactctl: cannot read /: Is a directory"), "{}", ran.err);
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_input() {
    let fake = Fake::new();
    fake.state().forgetful = true;
    let mut running = Running::new({
        let mut command = contactctl(&fake.address, &["submit", "-"]);
        command.stdin(Stdio::piped());
        command
    });
    let mut stdin = running.child.stdin.take().unwrap();
    let lines = format!("{}\n", "x".repeat(999)).repeat(1000);
    let mut peak_after = |megabytes: u64, so_far: u64| {
        (0..megabytes).for_each(|_| stdin.write_all(lines.as_bytes()).unwrap());
        eventually("all is accepted", || fake.state().counted == 1000 * (so_far + megabytes));
        let status = fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1000
    };
    let (little, much) = (peak_after(20, 0), peak_after(100, 20));
    assert!(much < little + 30, "{little} MB after 20 MB, {much} MB after 120 MB");
}

#[test]
fn a_submission_goes_on_when_nobody_listens() {
    let fake = Fake::new();
    let (_folder, path) = file(lines(20_000));
    let mut child = contactctl(&fake.address, &["submit", "--json", "--batch", "1", "--file", path.to_str().unwrap()])
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(accepted(&fake).len(), 20_000);
}

#[test]
fn a_whole_file_is_one_task_as_it_stands() {
    let fake = Fake::new();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let text = "\u{feff}one\r\n\ntwo\n";
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    assert!(ok(&fake, &["submit", "--whole", "--file", path]).starts_with("accepted 1 task"));
    ok(&fake, &["submit", "--whole", "--file", path, "--key", "k", "--to", "g"]);
    let tasks: Vec<_> = fake.state().submitted.iter().flat_map(|request| request.tasks.clone()).collect();
    assert_eq!((tasks[0].task.as_str(), tasks[1].task.as_str(), tasks[1].key.as_str()), (text, text, "k"));

    for (args, said) in [
        (&["submit", "--whole", "a"][..], "--whole is for what comes from --file"),
        (&["submit", "--key", "k", "--file", path], "--key is for a single task"),
    ] {
        let ran = run(&fake, args);
        assert!(ran.code == Some(2) && ran.err.contains(said), "{ran:?}");
    }
    for (bytes, said) in [(&b""[..], "it is empty"), (b"a\xff", "not UTF-8, from byte 2 on")] {
        let other = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(other.path(), bytes).unwrap();
        let ran = run(&fake, &["submit", "--whole", "--file", other.path().to_str().unwrap()]);
        assert!(ran.code == Some(1) && ran.err.contains(said), "{ran:?}");
    }
    assert_eq!(fake.state().submitted.iter().map(|request| request.tasks.len()).sum::<usize>(), 2);
}
