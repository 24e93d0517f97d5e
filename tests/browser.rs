//! The page for operators, in a real browser, on real servers and clients.
//!
//! What is done and seen in the browser stands in `tests/browser/scenes.mjs`; here stands what happens meanwhile. How each
//! view looks is kept as pictures, in `browser/` of the target folder.

pub mod driver;

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use serde_json::json;

use crate::common::named_pipe;
use crate::common::program::Program;
use crate::common::server::{CLIENT, Server};
use crate::rig::{Client, ack};
use driver::Browser;

#[test]
fn a_task_submitted_on_the_page_reaches_a_worker_and_its_result_shows_up() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let scene = browser.plays("submitting", &server);
    scene.comes_to("nothing has happened yet");
    let _worker = worker(&server, "w1", "workers", "tr a-z A-Z");
    scene.ends_well();
    let tasks = server.ctl(&["tasks", "--all"]);
    assert_eq!((&tasks[0]["task"], &tasks[0]["to"]), (&json!("hello page"), &json!("workers")));
    assert_eq!(tasks[0]["lane"], "tenant 7");
}

#[test]
fn a_client_that_is_killed_goes_grey() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let mut worker = worker(&server, "w1", "workers", "cat");
    let scene = browser.plays("killedClient", &server);
    scene.comes_to("the client is shown");
    worker.kill();
    scene.ends_well();
}

#[test]
fn a_dead_letter_is_retried_and_done_and_another_is_dropped() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let part = server.data().join("part");
    let command = format!("test -e '{}' && cat || {{ echo the part is missing >&2; exit 1; }}", part.display());
    let _worker = worker(&server, "w1", "workers", &command);
    server.submit(&["mend me", "drop me"]);
    server.at_least(2, "results");
    browser.plays_with("deadLetters", &server, &[("CONTACT_PART", &part)]).ends_well();
    assert_eq!(server.ctl(&["dead"]), Vec::<serde_json::Value>::new());
}

#[test]
fn dead_letters_with_one_error_are_dropped_together_and_the_others_stay() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let why = "case $(cat) in mail*) echo 'connection refused';; *) echo 'disk full';; esac >&2; exit 1";
    let _worker = worker(&server, "w1", "workers", why);
    server.submit(&["mail 1", "copy 2", "mail 3", "mail 4", "copy 5"]);
    server.at_least(5, "results");
    let scene = browser.plays("manyDead", &server);
    scene.comes_to("the mails are dropped");
    let left: Vec<_> = server.ctl(&["dead"]).iter().map(|letter| letter["task_id"].clone()).collect();
    assert_eq!(left, [2, 5]);
    scene.ends_well();
    assert_eq!(server.ctl(&["dead"]), Vec::<serde_json::Value>::new());
    let dropped = server.ctl(&["results", "--all"]).iter().filter(|result| result["outcome"] == "DROPPED").count();
    assert_eq!(dropped, 5, "what came of them stays in the log");
}

#[test]
fn tasks_are_narrowed_to_a_group_and_a_state() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let _worker = worker(&server, "w1", "workers", "cat");
    server.submit(&["for everyone"]);
    server.at_least(1, "results");
    server.ctl(&["pause", "workers"]);
    server.ctl(&["submit", "--to", "workers", "held back"]);
    server.ctl(&["submit", "--to", "others", "nobody there"]);
    browser.plays("narrowing", &server).ends_well();
}

#[test]
fn the_charts_show_the_last_minutes_or_the_last_hour() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let _worker = worker(&server, "w1", "workers", "cat");
    server.submit(&["before"]);
    server.at_least(1, "results");
    let scene = browser.plays("theHour", &server);
    scene.comes_to("the charts are shown");
    server.submit(&["one", "two", "three"]);
    scene.ends_well();
}

#[test]
fn a_group_whose_clients_will_not_come_again_is_removed() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let mut retired = worker(&server, "w1", "retired", "cat");
    let _worker = worker(&server, "w2", "workers", "cat");
    server.submit(&["for both"]);
    server.at_least(2, "results");
    retired.kill();
    server.ctl(&["submit", "--to", "retired", "too late"]);
    browser.plays("removing", &server).ends_well();
    let groups = server.ctl(&["groups"]);
    let names = groups.iter().map(|group| (group["group"].as_str().unwrap(), group["never_came"] == true));
    assert_eq!(names.collect::<Vec<_>>(), [("workers", false), ("retired", true)]);
}

#[test]
fn a_group_that_never_came_is_said_with_the_name_that_was_meant() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let _worker = worker(&server, "w1", "emails", "cat");
    server.submit(&["for everyone"]);
    server.at_least(1, "results");
    server.ctl(&["submit", "--to", "emials", "a", "b"]);
    browser.plays("neverCame", &server).ends_well();
}

#[test]
fn of_many_groups_more_are_shown_when_they_are_asked_for() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    // Each of these clients is a group of its own, which stays.
    server.ctl(&["bench", "idle", "--clients", "150", "--contact", &server.listen]);
    browser.plays("manyGroups", &server).ends_well();
}

#[test]
fn a_run_that_was_stopped_is_seen_resumed_and_done_again() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let run = |id, exec| {
        let mut command = Command::new(CLIENT);
        command.args(["--server", &server.listen, "--id", id, "--label", "role=web", "--exec", exec]);
        Program::spawn(id, &mut command).unwrap()
    };
    let _workers = [run("bad", "exit 1"), run("good", "cat")];
    server.at_least_clients(2);
    server.ctl(&["run", "--select", "role=web", "--canary", "1", "--detach", "upgrade"]);
    server.at_least(1, "results");
    let scene = browser.plays("runs", &server);
    scene.comes_to("the run was done again");
    scene.ends_well();
}

#[test]
fn a_schedule_is_set_run_paused_and_removed_on_the_page() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let nightly = ["--cron", "0 3 * * *", "--zone", "Europe/Berlin", "--to", "workers", "reindex"];
    server.ctl(&[&["schedule", "set", "nightly"], &nightly[..]].concat());
    server.ctl(&["schedule", "set", "often", "--every", "90m", "x"]);
    browser.plays("schedules", &server).ends_well();
    let names: Vec<_> = server.ctl(&["schedule", "list"]).into_iter().map(|it| it["schedule"].clone()).collect();
    assert_eq!(names, ["often", "weekly"]);
}

#[test]
fn what_a_command_prints_is_shown_while_it_runs() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let gate = named_pipe(folder.path());
    server.submit(&["work"]);
    let mut client = Command::new(CLIENT);
    client.env("GATE", &gate);
    let work = r#"printf '\033[32mgreen\033[0m <b>bold</b>\n'; cat "$GATE""#;
    let _client = server.client_by(client, &["--id", "w1", "--exec-env", "GATE", "--exec", work]);
    let scene = browser.plays("output", &server);
    scene.comes_to("the first line is shown");
    fs::write(&gate, "the last line").unwrap();
    scene.ends_well();
}

#[test]
fn a_run_is_begun_when_somebody_agrees_to_how_many_it_is_for() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let web = |id| server.client(&["--id", id, "--label", "role=web", "--exec", "tr a-z A-Z"]);
    let (_good, _better, mut away) = (web("good"), web("better"), web("away"));
    server.at_least_clients(3);
    away.kill();
    server.clients_until(|connected| connected == 2);
    browser.plays("begin", &server).ends_well();
}

#[test]
fn a_worker_is_dialled_from_the_page_and_removed_there() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let address = crate::dialled::free();
    let scene = browser.plays_with("dialled", &server, &[("CONTACT_WORKER", Path::new(&address))]);
    scene.comes_to("it is dialled");
    let mut command = Command::new(CLIENT);
    let _worker = Program::spawn("worker", command.args(["--serve", &address, "--exec", "cat"])).unwrap();
    scene.ends_well();
    assert_eq!(server.ctl(&["dial", "list"]), Vec::<serde_json::Value>::new());
}

#[test]
fn a_group_is_paused_and_resumed() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let _worker = worker(&server, "w1", "workers", "cat");
    server.submit(&["before"]);
    server.at_least(1, "results");
    server.ctl(&["group", "retry", "workers", "max=5"]);
    let scene = browser.plays("pausing", &server);
    scene.comes_to("the group is paused");
    server.submit(&["held back"]);
    server.at_least(2, "results");
    scene.ends_well();
}

#[test]
fn lost_contact_is_said_and_is_over_when_the_server_is_back() {
    let Some(browser) = Browser::ready() else { return };
    let mut server = Server::start(&[]);
    let scene = browser.plays("lostContact", &server);
    scene.comes_to("contact");
    server.kill();
    scene.comes_to("lost contact");
    server.restart();
    scene.ends_well();
}

#[test]
fn many_tabs_share_one_stream_and_none_is_open_when_nobody_looks() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let _worker = worker(&server, "w1", "workers", "cat");
    server.submit(&["before"]);
    server.at_least(1, "results");
    browser.plays("manyTabs", &server).ends_well();
}

#[test]
fn a_browser_without_shared_workers_has_a_stream_for_the_tab_that_is_looked_at() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    browser.plays("noSharedWorker", &server).ends_well();
}

#[test]
fn both_languages_are_complete_and_the_choice_is_remembered() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let _worker = worker(&server, "w1", "workers", "cat");
    server.submit(&["a task"]);
    server.at_least(1, "results");
    browser.plays("languages", &server).ends_well();
}

#[test]
fn on_a_phone_nothing_scrolls_sideways() {
    let Some(browser) = Browser::ready() else { return };
    let (server, _workers) = a_lively_fleet();
    browser.plays("phone", &server).ends_well();
}

#[test]
fn everything_can_be_done_from_the_keyboard() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let _worker = worker(&server, "w1", "workers", "cat");
    server.submit(&["a task"]);
    server.at_least(1, "results");
    browser.plays("keyboard", &server).ends_well();
}

#[test]
fn what_users_write_is_shown_as_text_and_never_as_html() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let nasty = "<img src=x onerror=hit=true>";
    let _worker = worker(&server, nasty, nasty, "cat; echo '<script>hit=true</script>' >&2; exit 1");
    let text = format!("{nasty}<script>document.title='hit'</script>\u{202e}turned\u{200b}");
    server.submit(&[&text]);
    server.at_least(1, "results");
    server.ctl(&["schedule", "set", nasty, "--every", "90m", "--to", "nobody", &text]);
    // Its number is the id of its task.
    server.ctl(&["run", "--to", nasty, "--detach", &text]);
    let page = server.data().join("page");
    fs::write(&page, "<script>hit=true</script>").unwrap();
    let header = format!("x={nasty}");
    let data = ["--header", "content-type=text/html", "--header", &header, "--data-file", page.to_str().unwrap()];
    server.ctl(&[&["submit", "--to", "nobody"][..], &data].concat());
    let client = Client::of(&server.listen, &[]);
    let hostile =
        format!("{nasty}\u{1b}[2Jb\u{1b}]0;owned\u{7}c\u{9b}31md\re\u{202e}f\u{200b}g\u{feff}\u{2028}\u{ad}h");
    let mut statuses = client.statuses();
    assert!(statuses.say(&hostile));
    statuses.answer().unwrap();
    client.tell([ack(&hostile)]);
    browser.plays("textIsText", &server).ends_well();
}

#[test]
fn what_the_server_refuses_is_said_in_its_words_beside_what_failed() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&["--max-task", "1000"]);
    browser.plays("refused", &server).ends_well();
}

#[test]
fn every_view_can_be_read_in_light_and_dark_and_on_a_phone() {
    let Some(browser) = Browser::ready() else { return };
    let (server, _workers) = a_lively_fleet();
    server.ctl(&["run", "--to", "letters", "--detach", "send them again"]);
    browser.plays("looks", &server).ends_well();
}

/// The picture in the README. `CONTACT_PICTURE=docs/page.png` makes it anew, of five minutes of work. It takes a font with Chinese
/// characters, for the button that changes the language.
#[test]
fn the_picture_of_the_page_shows_a_fleet_at_work() {
    let Some(browser) = Browser::ready() else { return };
    let server = Server::start(&[]);
    let work = "sleep 0.3; tr a-z A-Z";
    let letters = "case $(cat) in *nobody*) echo 'no such address' >&2; exit 1;; *) sleep 0.1; echo sent;; esac";
    let _workers = [
        worker(&server, "berlin-1", "thumbnails", work),
        worker(&server, "berlin-2", "thumbnails", work),
        worker(&server, "oslo-1", "thumbnails", work),
        worker(&server, "mail-1", "letters", letters),
        worker(&server, "search-1", "search", work),
        worker(&server, "search-2", "search", work),
    ];
    let file = env::var_os("CONTACT_PICTURE");
    let seconds = if file.is_some() { "300" } else { "3" };
    browser.plays_with("picture", &server, &[("CONTACT_SECONDS", Path::new(seconds))]).ends_well();
    let picture = browser.picture("picture");
    assert!(fs::metadata(&picture).unwrap().len() < 300_000, "the README is to load fast");
    if let Some(file) = file {
        fs::copy(picture, Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    }
}

/// Clients at work and one that is gone, groups of every kind, long names and texts, dead letters.
#[track_caller]
fn a_lively_fleet() -> (Server, Vec<Program>) {
    let server = Server::start(&[]);
    let long = "a-name-that-somebody-made-very-long-because-nothing-forbids-it-".repeat(3);
    let mut workers = vec![
        worker(&server, "berlin-1", "thumbnails", "sleep 0.2; tr a-z A-Z"),
        worker(&server, "berlin-2", "thumbnails", "sleep 0.1; tr a-z A-Z"),
        worker(&server, &long, "letters", "echo 'connection refused by smtp.example.net:25' >&2; exit 1"),
        worker(&server, "site-oslo", &long, "cat"),
    ];
    let text = "{\"kind\":\"firmware\",\"url\":\"https://updates.example.net/fw/4.18.2.bin\"} ".repeat(20);
    server.submit(&["resize IMG_4711.CR2", "send the letters", &text]);
    // All three for each of the three groups.
    server.at_least(9, "results");
    workers.pop();
    server.ctl(&["pause", "thumbnails"]);
    let nightly = ["--cron", "0 3 * * *", "--zone", "America/Argentina/Buenos_Aires", "--to", &long, &text];
    server.ctl(&[&["schedule", "set", &long], &nightly[..]].concat());
    server.ctl(&["schedule", "set", "letters", "--every", "36h", "send the letters"]);
    server.ctl(&["schedule", "pause", "letters"]);
    server.submit(&["resize IMG_4712.CR2"]);
    server.at_least(10, "results");
    (server, workers)
}

#[track_caller]
fn worker(server: &Server, id: &str, group: &str, exec: &str) -> Program {
    server.client(&["--id", id, "--group", group, "--exec-attempts", "1", "--exec", exec])
}
