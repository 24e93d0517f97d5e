//! `contactctl top`, and tables, on a terminal that the test looks at.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use contact::wire::contact::Outcome;
use contact::wire::control as pb;
use contact::wire::control::finding::Code;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::fake::{Fake, found};
use super::{contactctl, eventually, ok, run};
use crate::common::program::send;
use crate::common::server::Server;
use crate::rig::{Client, told};

/// A program on a terminal.
pub struct Terminal {
    child: Child,
    keyboard: File,
    /// Keeps the terminal open, and its modes to be looked at, when the program has ended.
    line: File,
    screen: Arc<Mutex<vt100::Parser>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    fn run(address: &str, args: &[&str], size: (u16, u16), environment: &[(&str, &str)]) -> Terminal {
        let mut command = contactctl(address, args);
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR").envs(environment.iter().copied());
        Terminal::of(command, size)
    }

    pub fn of(mut command: Command, size: (u16, u16)) -> Terminal {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let path = ptsname(&keyboard, Vec::new()).unwrap();
        let line = File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
        for set in [Command::stdin, Command::stdout, Command::stderr] {
            set(&mut command, line.try_clone().unwrap());
        }
        let (columns, rows) = size;
        let keyboard = File::from(keyboard);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let mut terminal =
            Terminal { child: command_on(&keyboard, size, command), keyboard, line, screen, reader: None };
        let (mut output, screen) = (terminal.keyboard.try_clone().unwrap(), terminal.screen.clone());
        terminal.reader = Some(thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = output.read(&mut bytes)
                && length > 0
            {
                screen.lock().unwrap().process(&bytes[..length]);
            }
        }));
        terminal
    }

    pub fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    #[track_caller]
    fn shows(&self, what: &str) {
        eventually(&format!("{what:?} on the screen"), || self.text().contains(what));
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Whether the terminal is as a shell wants it: not raw, and not on its second screen.
    fn is_restored(&self) -> bool {
        let modes = tcgetattr(&self.line).unwrap().local_modes;
        let second = self.screen.lock().unwrap().screen().alternate_screen();
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG) && !second
    }

    fn resize(&self, (columns, rows): (u16, u16)) {
        set_size(&self.keyboard, (columns, rows));
        self.screen.lock().unwrap().screen_mut().set_size(rows, columns);
        self.signal("WINCH");
    }

    fn signal(&self, name: &str) {
        send(name, &self.child);
    }

    /// Waits for the end of the program.
    fn end(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the screen ---\n{}", self.text());
        }
        // The reader ends when the last one that holds the line is gone.
        self.line = File::open("/dev/null").unwrap();
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

fn set_size(terminal: &File, (columns, rows): (u16, u16)) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

fn command_on(terminal: &File, size: (u16, u16), mut command: Command) -> Child {
    set_size(terminal, size);
    command.spawn().unwrap()
}

fn group(name: &str, lag: u64) -> pb::Group {
    pb::Group { name: name.into(), clients: 1, lag, in_flight: lag, oldest: 4711, ..Default::default() }
}

#[test]
fn the_fleet_is_shown_moved_through_and_a_group_paused_after_a_yes() {
    let fake = Fake::new();
    fake.state().groups = vec![group("缩略图", 12), group("mail", 3)];
    fake.state().clients = vec![pb::Client { client: "worker-7".into(), group: "mail".into(), ..Default::default() }];
    let mut top = Terminal::run(&fake.address, &["top", "--interval", "100ms"], (100, 30), &[]);
    top.shows("缩略图        1   12");
    top.shows("in flight 15   lag 15");
    top.press("2");
    top.shows("worker-7");
    top.press("1/mai\r");
    eventually("only what was filtered", || top.text().contains("with \"mai\"") && !top.text().contains("缩略图"));
    top.press("p");
    top.shows("pause mail? y / n");
    top.press("n");
    top.shows("q quit");
    top.press("p");
    top.shows("pause mail? y / n");
    assert!(!fake.state().asked.contains(&"pause mail true".to_owned()));
    top.press("y");
    eventually("the group paused", || fake.state().asked.contains(&"pause mail true".to_owned()));
    fake.state().groups = vec![pb::Group { paused: true, ..group("mail", 3) }];
    fake.state().findings = vec![found(Code::PAUSED, "mail")];
    top.shows("mail is paused  contactctl resume mail");
    top.press("?");
    top.shows("pause or resume the group");
    top.press("xq");
    assert_eq!(top.end(), Some(0));
    eventually("the terminal as it was", || top.is_restored());
}

#[test]
fn a_dead_letter_is_found_and_opened() {
    let server = Server::start(&[]);
    let member =
        Client::of(&server.listen, &[("contact-group", "mail"), ("contact-client", "m1"), ("contact-from", "first")]);
    let mut tasks = member.tasks();
    server.submit(&["send this"]);
    member.tell([told(&tasks.next(), Outcome::FAILED, "no such address")]);
    let mut top = Terminal::run(&server.control, &["top", "--interval", "100ms"], (100, 30), &[]);
    top.shows("dead 1");
    top.press("4");
    // The heading: the latest outcomes have none, and are there before.
    top.shows("RESULT");
    top.press("\r");
    top.shows("text          send this");
    top.shows("any key goes back");
    top.press("x");
    top.shows("enter task");
    top.press("q");
    assert_eq!(top.end(), Some(0));
}

#[test]
fn the_terminal_is_given_back_whatever_ends_the_program() {
    let fake = Fake::new();
    for end in ["\u{3}", "TERM", "INT"] {
        let mut top = Terminal::run(&fake.address, &["top"], (100, 30), &[]);
        top.shows("nothing needs attention");
        assert!(!top.is_restored(), "it was taken");
        if end.len() == 1 {
            top.press(end)
        } else {
            top.signal(end)
        }
        assert_eq!(top.end(), Some(0), "{end:?}");
        eventually("the terminal as it was", || top.is_restored());
    }
}

#[test]
fn a_server_that_goes_away_is_waited_for_in_sight() {
    let mut server = Server::start(&[]);
    server.submit(&["a"]);
    let mut top = Terminal::run(&server.control, &["top", "--interval", "100ms"], (100, 30), &[]);
    top.shows("nothing needs attention");
    server.kill();
    top.shows("lost contact since ");
    server.restart();
    eventually("contact again", || !top.text().contains("lost contact") && top.text().contains("up "));
    top.press("q");
    assert_eq!(top.end(), Some(0));
}

#[test]
fn the_frame_follows_the_size_of_the_terminal() {
    let fake = Fake::new();
    fake.state().groups = vec![group("mail", 3)];
    let top = Terminal::run(&fake.address, &["top", "--interval", "100ms"], (100, 30), &[]);
    top.shows("OLDEST");
    top.resize((60, 18));
    eventually("a narrow table", || top.text().contains("mail") && !top.text().contains("OLDEST"));
    top.resize((120, 40));
    top.shows("OLDEST");
}

#[test]
fn no_color_switches_colours_off() {
    let fake = Fake::new();
    fake.state().groups = vec![pb::Group { paused: true, dead: 5, ..group("mail", 3) }];
    fake.state().findings = vec![found(Code::PAUSED, "mail")];
    let coloured = |environment: &[(&str, &str)]| {
        let top = Terminal::run(&fake.address, &["top"], (100, 30), environment);
        top.shows("mail is paused");
        let parser = top.screen.lock().unwrap();
        let cells = (0..30).flat_map(|y| (0..100).map(move |x| (y, x)));
        cells.filter(|&(y, x)| parser.screen().cell(y, x).unwrap().fgcolor() != vt100::Color::Default).count()
    };
    assert!(coloured(&[]) > 0);
    assert_eq!(coloured(&[("NO_COLOR", "1")]), 0);
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    let fake = Fake::new();
    let ran = run(&fake, &["top"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    assert!(ran.err.contains("contactctl groups, contactctl clients, or contactctl top --once"), "{}", ran.err);
    let ran = run(&fake, &["top", "--json"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("--once"), "{}", ran.err);
    let mut dumb = Terminal::run(&fake.address, &["top"], (100, 30), &[("TERM", "dumb")]);
    assert_eq!(dumb.end(), Some(2));
}

#[test]
fn one_frame_is_plain_text_or_one_object() {
    let fake = Fake::new();
    fake.state().groups = (0..40).map(|n| group(&format!("group {n}"), n)).collect();
    fake.state().groups[0].paused = true;
    fake.state().findings = vec![found(Code::PAUSED, "group 0")];
    let frame = ok(&fake, &["top", "--once"]);
    assert!(!frame.contains('\u{1b}'), "{frame}");
    assert!(
        frame.lines().any(|line| line == "paused        group 0 is paused  contactctl resume 'group 0'"),
        "{frame}"
    );
    assert_eq!(frame.lines().filter(|line| line.starts_with("group ")).count(), 40, "{frame}");
    let object: serde_json::Value = serde_json::from_str(&ok(&fake, &["top", "--once", "--json"])).unwrap();
    assert_eq!(object["groups"].as_array().unwrap().len(), 40);
    assert_eq!(object["attention"][0]["check"], "paused");
}

#[test]
fn a_table_fits_the_terminal_and_tells_how_long_ago_and_is_whole_in_a_pipe() {
    let fake = Fake::new();
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let text = "一个很长的任务".repeat(20);
    fake.state().tasks = vec![pb::Task { id: 7, task: text.clone(), accepted_at: now - 200_000, ..Default::default() }];
    let mut shown = Terminal::run(&fake.address, &["tasks"], (60, 10), &[]);
    assert_eq!(shown.end(), Some(0));
    shown.shows("…");
    let lines: Vec<_> = shown.text().lines().map(str::to_owned).collect();
    assert!(lines[1].starts_with(" 7  3 min ago  -   一个很长的任务") && lines.len() == 2, "{lines:?}");
    assert!(ok(&fake, &["tasks"]).contains(&text), "whole in a pipe");
}
