//! The client that `docs/protocol.md` shows, against the real server: the text is taken from the page and run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::program::Program;
use crate::common::server::Server;
use crate::interop::python::Python;
use serde_json::Value;
use tempfile::TempDir;

/// What the client on the page does with a task.
const HANDLER: &str = "    return text.upper()\n";
const HEARTBEAT: &str = "(\"contact-heartbeat\", \"15\")]";
const RENEWAL: &str = "AT_ONCE, RENEW_SECONDS = 4, 10\n";

/// Says that it has begun, and ends when there is a file named like the task.
const GATED: &str = r#"
    print("begun", text, flush=True)
    while not (pathlib.Path(__file__).parent / text).exists():
        time.sleep(0.05)
    return text.upper()
"#;

/// The page's client in a folder of its own, where it can be changed.
struct Page {
    folder: TempDir,
    source: String,
}

impl Page {
    fn client() -> Page {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
        let page = fs::read_to_string(page).unwrap();
        let (_, rest) = page.split_once("```python\n").unwrap();
        let source = rest.split_once("```").unwrap().0.to_owned();
        let page = Page { folder: tempfile::tempdir().unwrap(), source };
        // Else what is submitted before it has come would be for nobody.
        page.with(HEARTBEAT, "(\"contact-heartbeat\", \"15\"), (\"contact-from\", \"first\")]")
    }

    /// Another piece of text in the place of one that stands there once.
    fn with(mut self, piece: &str, other: &str) -> Page {
        assert_eq!(self.source.matches(piece).count(), 1, "the page has this once: {piece}");
        self.source = self.source.replace(piece, other);
        self
    }

    /// Handles tasks by [`GATED`], and renews their leases as often as that.
    fn gated(self, renew_seconds: &str) -> Page {
        let renewal = format!("import pathlib\nAT_ONCE, RENEW_SECONDS = 4, {renew_seconds}\n");
        self.with(HANDLER, GATED.trim_start_matches('\n')).with(RENEWAL, &renewal)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    #[track_caller]
    fn run(&self, python: &Python, server: &Server, client: &str, group: &str) -> Program {
        fs::write(self.file("worker.py"), &self.source).unwrap();
        python.program(client, &self.file("worker.py"), &[&server.listen, client, group])
    }
}

#[test]
fn the_client_on_the_page_takes_tasks_and_acknowledges_them() {
    let Some(python) = Python::ready() else { return };
    let server = Server::start(&[]);
    let page = Page::client();
    let _client = page.run(python, &server, "p1", "页面 50%");
    server.submit(&["one", "two", "three"]);
    let mut results = server.at_least(3, "results");
    results.sort_by_key(|result| result["task_id"].as_u64());
    let said: Vec<_> = results.iter().map(|result| (text(result, "ret"), text(result, "outcome"))).collect();
    assert_eq!(said, [("ONE", "DONE"), ("TWO", "DONE"), ("THREE", "DONE")]);
    assert!(
        results.iter().all(|it| text(it, "client") == "p1" && text(it, "group") == "页面 50%" && it["attempt"] == 1)
    );
}

#[test]
fn what_the_client_on_the_page_cannot_do_it_puts_back() {
    let Some(python) = Python::ready() else { return };
    let server = Server::start(&[]);
    let fails_once = "    tried.append(text)\n    return text.upper() if tried[1:] else tried[1]\n";
    let page = Page::client().with(HANDLER, fails_once).with(RENEWAL, &format!("tried = []\n{RENEWAL}"));
    let _client = page.run(python, &server, "p1", "pages");
    server.submit(&["again"]);
    let results = server.at_least(2, "results");
    assert_eq!((text(&results[0], "outcome"), text(&results[1], "outcome")), ("RETRY", "DONE"));
    assert!(text(&results[0], "ret").starts_with("IndexError"), "{results:?}");
    assert_eq!(results[1]["attempt"], 2);
}

#[test]
fn the_client_on_the_page_keeps_its_lease_for_as_long_as_it_works() {
    let Some(python) = Python::ready() else { return };
    let server = Server::start(&["--ack-timeout", "4s"]);
    let renewing = Page::client().gated("0.3");
    let client = renewing.run(python, &server, "renewing", "renewing");
    server.submit(&["long"]);
    client.out.wait_for("its beginning", |line| line == "begun long");
    // Its lease would have ended before the one of another that begins now and says nothing.
    let silent = Page::client().gated("1000");
    let _silent = silent.run(python, &server, "silent", "silent");
    let results = server.ctl_running(&["results", "--all", "--follow"]);
    let first = results.out.wait_for("the end of a lease", |line| line.contains("TIMED_OUT"));
    assert!(first.contains("\"silent\""), "{first}");
    fs::write(renewing.file("long"), "").unwrap();
    let done = results.out.wait_for("its result", |line| line.contains("\"renewing\""));
    assert!(done.contains("\"DONE\"") && done.contains("\"attempt\":1"), "{done}");
}

#[test]
fn the_client_on_the_page_comes_back_and_does_nothing_twice_when_the_server_was_killed() {
    let Some(python) = Python::ready() else { return };
    let mut server = Server::start(&[]);
    let page = Page::client().gated("10");
    let client = page.run(python, &server, "p1", "pages");
    server.submit(&["long"]);
    client.out.wait_for("its beginning", |line| line == "begun long");
    server.kill();
    server.restart();
    server.submit(&["next"]);
    client.out.wait_for("the next task", |line| line == "begun next");
    for task in ["long", "next"] {
        fs::write(page.file(task), "").unwrap();
    }
    let results = server.at_least(2, "results");
    let mut done: Vec<_> = results.iter().map(|result| (text(result, "outcome"), text(result, "ret"))).collect();
    done.sort_unstable();
    assert_eq!(done, [("DONE", "LONG"), ("DONE", "NEXT")]);
    assert_eq!(client.out.so_far(), ["begun long", "begun next"]);
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry[field].as_str().unwrap()
}
