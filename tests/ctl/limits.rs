//! Limits of a group, with the real program and the real server.

use contact::wire::contact::Outcome;
use serde_json::{Value, json};

use super::{Ran, contactctl};
use crate::common::server::Server;
use crate::rig::{Client, told};

fn said(server: &Server, args: &[&str]) -> Ran {
    contactctl(&server.control, args).output().unwrap().into()
}

#[track_caller]
fn set(server: &Server, options: &[&str]) -> Value {
    server.ctl(&[&["group", "set", "g"], options].concat()).remove(0)
}

/// What stands below LIMITS.
#[track_caller]
fn listed(server: &Server) -> String {
    let listed = said(server, &["groups"]).out;
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines.len(), 2, "{listed}");
    lines[1][lines[0].find("LIMITS").unwrap()..].to_owned()
}

#[test]
fn a_group_is_given_limits_which_are_listed_and_taken_back() {
    let server = Server::start(&[]);
    let first = said(&server, &["group", "set", "g", "--max-in-flight", "10", "--max-begun-per-second", "2.5"]);
    let new = "group g has at most 10 in flight, 2.5 a second, before its first client; if it is misspelt: contactctl group rm g\n";
    assert_eq!((first.code, first.out.as_str()), (Some(0), new));
    assert_eq!(listed(&server), "10 in flight, 2.5 a second");

    // What is not named stays as it was.
    let lanes = set(&server, &["--lane-max", "2", "--lane-on-dead", "hold"]);
    let whole = json!({"max_in_flight": 10, "max_begun_per_second": 2.5, "lane_max": 2, "lane_on_dead": "hold"});
    assert_eq!(lanes, json!({"group": "g", "limits": whole}));
    assert_eq!(listed(&server), "10 in flight, 2.5 a second, 2 of a lane, dead letters hold their lane");
    assert_eq!(server.ctl(&["groups"])[0]["limits"], whole);

    let none = said(&server, &["group", "set", "g", "--max-in-flight", "none", "--max-begun-per-second", "none"]);
    assert_eq!(none.out, "group g has at most 2 of a lane, dead letters hold their lane\n");
    set(&server, &["--lane-max", "1"]);
    let last = said(&server, &["group", "set", "g", "--lane-on-dead", "release"]);
    assert_eq!(last.out, "group g has no limits\n");
    assert_eq!((listed(&server).as_str(), server.ctl(&["groups"])[0].get("limits")), ("-", None));
}

#[test]
fn a_lane_that_a_dead_letter_holds_is_listed_with_the_limits() {
    let server = Server::start(&[]);
    set(&server, &["--lane-on-dead", "hold"]);
    server.ctl(&["submit", "--to", "g", "--lane", "l", "dies", "waits"]);
    let member = Client::of(&server.listen, &[("contact-group", "g"), ("contact-client", "m")]);
    let mut tasks = member.tasks();
    member.tell([told(&tasks.next(), Outcome::FAILED, "")]);
    assert_eq!(listed(&server), "dead letters hold their lane, 1 lane held");
    let waits = said(&server, &["task", "2"]).out;
    assert!(waits.contains("by dead letter 1"), "{waits}");
    server.ctl(&["dead", "--drop"]);
    assert_eq!(tasks.next().task, "waits");
    assert_eq!(listed(&server), "dead letters hold their lane");
}

#[test]
fn limits_that_make_no_sense_are_refused_with_what_to_do() {
    let server = Server::start(&[]);
    let refused = |options: &[&str], why: &str| {
        let ran = said(&server, &[&["group", "set", "g"], options].concat());
        assert!(ran.code == Some(2) && ran.err.contains(why), "{options:?}: {ran:?}");
    };
    refused(&[], "--max-in-flight");
    refused(&["--max-in-flight", "many"], "it is a number, or none");
    refused(&["--max-in-flight", "-1"], "-1");
    for rate in ["0.0001", "1000001", "NaN", "inf", "fast"] {
        refused(&["--max-begun-per-second", rate], "it is a number from 0.001 to 1000000, or none");
    }
    refused(&["--lane-max", "0"], "1..");
    refused(&["--lane-on-dead", "burn"], "release, hold");
    let unknown = said(&server, &["group", "set", "nobody", "--max-in-flight", "none"]);
    assert!(unknown.code == Some(4) && unknown.err.contains("no group nobody"), "{unknown:?}");
    assert_eq!(said(&server, &["groups"]).out, "", "none of them made a group");
}
