//! Help, completions, man pages and docs/cli.md: each knows every command.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use contact::ctl::Args;

use super::fake::Fake;
use super::{Ran, ok};

/// Every command, as it is typed behind `contactctl`.
fn commands() -> Vec<String> {
    fn add(command: &clap::Command, before: &str, all: &mut Vec<String>) {
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = format!("{before}{}", command.get_name());
            add(command, &format!("{name} "), all);
            all.push(name);
        }
    }
    let mut all = Vec::new();
    add(&Args::command(), "", &mut all);
    assert!(all.len() > 20 && all.contains(&"group rm".into()), "{all:?}");
    all
}

#[test]
fn every_command_explains_itself_with_an_example() {
    fn check(command: &clap::Command, path: &str) {
        for command in command.get_subcommands() {
            let path = format!("{path} {}", command.get_name());
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            // What `bench` measures stands in the help of `bench`, with its examples.
            assert!(example.contains(&path) || path.starts_with("contactctl bench "), "no example for {path}");
            check(command, &path);
        }
    }
    check(&Args::command(), "contactctl");
}

#[test]
fn every_shell_completes_every_command() {
    let fake = Fake::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ok(&fake, &["completions", shell]);
        for command in commands() {
            let word = command.rsplit(' ').next().unwrap();
            assert!(script.contains(word), "{shell} does not complete {command}");
        }
    }
}

#[test]
fn there_is_a_man_page_for_every_command() {
    let fake = Fake::new();
    assert!(ok(&fake, &["man"]).contains(".TH contactctl 1"));
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("share/man/man1");
    assert_eq!(ok(&fake, &["man", "--dir", dir.to_str().unwrap()]), "");
    let pages: BTreeSet<_> =
        dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let page = |command: &String| format!("contactctl-{}.1", command.replace(' ', "-"));
    let mut expected: BTreeSet<_> = commands().iter().map(page).collect();
    expected.insert("contactctl.1".into());
    assert_eq!(pages, expected);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let ran = super::run(&fake, &["man", "--dir", file.to_str().unwrap()]);
    assert!(ran.code == Some(1) && ran.err.starts_with("contactctl: cannot write "), "{ran:?}");
}

#[test]
fn the_other_programs_print_theirs_too() {
    for program in [env!("CARGO_BIN_EXE_contact-server"), env!("CARGO_BIN_EXE_contact-client")] {
        let name = Path::new(program).file_name().unwrap().to_str().unwrap();
        let run = |args: &[&str]| Ran::from(Command::new(program).args(args).output().unwrap());
        assert!(run(&["--man"]).out.contains(&format!(".TH {name} 1")), "{name}");
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let ran = run(&["--completions", shell]);
            assert!(ran.code == Some(0) && ran.out.contains(name), "{name} for {shell}");
        }
        let ran = run(&["--completions", "tcsh"]);
        assert!(ran.code == Some(2) && ran.err.contains("only for bash, "), "{ran:?}");
        assert!(!run(&["--help"]).out.contains("--completions"), "who packages them knows");
    }
}

#[test]
fn the_reference_has_every_command_and_no_other() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md")).unwrap();
    let commands: BTreeSet<String> = commands().into_iter().collect();
    // Commands stand in code, spans or blocks, behind the name of the program.
    let mut named = BTreeSet::new();
    for rest in text.split("contactctl ").skip(1) {
        let words: Vec<_> = rest.split(|c: char| !c.is_alphanumeric() && c != '-').take(2).collect();
        let two = words.join(" ");
        let known = if commands.contains(&two) { two } else { words[0].to_owned() };
        assert!(commands.contains(&known), "there is no contactctl {known}");
        named.insert(known);
    }
    // One that only has others under it is named with them.
    let above = |command: &str| commands.iter().any(|other| other.starts_with(&format!("{command} ")));
    let missing: Vec<_> = commands.difference(&named).filter(|command| !above(command)).collect();
    assert!(missing.is_empty(), "not in docs/cli.md: {missing:?}");
}

#[test]
fn colours_are_for_terminals() {
    let fake = Fake::new();
    for args in [&["--help"][..], &["submit", "--help"], &["doctor", "--help"]] {
        assert!(!ok(&fake, args).contains('\u{1b}'));
    }
}
