//! The stream of events.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::api::rig;
use super::client::{Events, get, state_until};
use crate::common::DEADLINE;
use crate::rig::Rig;

#[test]
fn the_history_comes_once_and_then_the_state_again_and_again() {
    let rig = rig();
    let mut events = Events::of(&rig);
    assert_eq!(events.expect("history"), json!({"points": [], "hour": []}));
    let mut times = Vec::new();
    for n in 0..3 {
        rig.operator.submit(&["one"]);
        // The next one may have been on its way already.
        loop {
            let state = events.expect("state");
            assert_eq!(state["at"], state["point"]["at"]);
            times.push(state["at"].as_i64().unwrap());
            if state["totals"]["tasks"].as_u64().unwrap() > n {
                break;
            }
        }
    }
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");

    // One that comes later is told what was, up to where its states begin.
    let mut later = Events::of(&rig);
    let history = later.expect("history");
    let mut told: Vec<i64> =
        history["points"].as_array().unwrap().iter().map(|point| point["at"].as_i64().unwrap()).collect();
    told.push(later.expect("state")["at"].as_i64().unwrap());
    assert!(told.starts_with(&times[..2]) && told.is_sorted_by(|a, b| a < b), "{told:?} after {times:?}");
}

#[test]
fn nothing_between_is_to_gather_the_events() {
    let rig = rig();
    assert_eq!(Events::of(&rig).header("x-accel-buffering"), "no");
}

#[test]
fn while_nobody_watches_a_step_of_the_history_is_made_all_the_same() {
    let rig = rig();
    let mut events = Events::of(&rig);
    events.expect("history");
    let mut left = events.expect("state")["at"].as_i64().unwrap();
    let deadline = Instant::now() + DEADLINE;
    loop {
        drop(events);
        rig.operator.submit(&["one", "two", "three"]);
        // Nobody is to look in that time: it is not what is waited for.
        thread::sleep(Duration::from_secs(13));
        events = Events::of(&rig);
        let history = events.expect("history");
        let back = events.expect("state")["at"].as_i64().unwrap();
        // The last one for those who watched may be later than what they saw.
        let unwatched = left + 3000..back - 1000;
        let mut hour = history["hour"].as_array().unwrap().iter();
        if let Some(step) = hour.find(|step| unwatched.contains(&step["at"].as_i64().unwrap())) {
            assert!(step["accepted"].as_f64().unwrap() > 0.0, "{step}");
            break;
        }
        assert!(Instant::now() < deadline, "no step in {unwatched:?}: {history}");
        left = back;
    }
}

#[test]
fn what_happens_shows_in_the_rates() {
    let rig = rig();
    let mut events = Events::of(&rig);
    events.expect("history");
    events.expect("state");
    let mut reader = rig.anonymous().tasks();
    rig.operator.submit(&["one", "two", "three"]);
    reader.take(3);
    let until = |events: &mut Events, name: &str| loop {
        let point = events.expect("state")["point"].clone();
        if point[name].as_f64().unwrap() > 0.0 {
            return point;
        }
    };
    let point = until(&mut events, "accepted");
    assert!(point["commit_p99_ms"].as_f64().unwrap() > 0.0, "{point}");
    let worker = rig.named("worker");
    let mut tasks = worker.tasks();
    worker.tell(tasks.take(3).iter().map(crate::rig::done));
    let point = until(&mut events, "settled");
    assert!(point["work_p99_ms"].is_number(), "{point}");
}

#[test]
fn all_listeners_are_sent_the_same_bytes() {
    let rig = rig();
    let mut listeners: Vec<_> = (0..50).map(|_| Events::of(&rig)).collect();
    let mut nth = |_| -> Vec<_> {
        let next = |listener: &mut Events| loop {
            let (name, data) = listener.next().unwrap();
            if name == "state" {
                return data;
            }
        };
        listeners.iter_mut().map(next).collect()
    };
    let rounds: Vec<Vec<String>> = (0..3).map(&mut nth).collect();
    // Those that connected in another second than the first are one behind it.
    let at = |data: &String| serde_json::from_str::<serde_json::Value>(data).unwrap()["at"].as_i64().unwrap();
    for data in rounds.iter().flatten() {
        let same: Vec<_> = rounds.iter().flatten().filter(|other| at(other) == at(data)).collect();
        assert!(same.iter().all(|other| *other == data), "one moment, one text");
    }
    let moments: BTreeSet<i64> = rounds.iter().flatten().map(at).collect();
    assert!(moments.len() <= 6, "fifty listeners, {} snapshots", moments.len());
}

#[test]
fn one_that_does_not_read_keeps_nobody_else_from_it() {
    let rig = rig();
    rig.operator.submit(&vec!["长".repeat(1000); 20]);
    let _deaf: Vec<_> = (0..20).map(|_| Events::unread(&rig)).collect();
    let mut events = Events::of(&rig);
    events.expect("history");
    // More than the buffers of the sockets hold.
    for _ in 0..8 {
        assert_eq!(events.expect("state")["recent"].as_array().unwrap().len(), 20);
    }
    assert_eq!(get(&rig, "/healthz").status, 200);
    assert_eq!(rig.named("worker").tasks().next().id, 1, "nor anybody from his tasks");
}

#[test]
fn there_is_an_end_to_listeners_and_a_place_is_free_again_when_one_goes() {
    let rig = rig();
    let mut listeners: Vec<_> = (0..100).map(|_| Events::of(&rig)).collect();
    assert_eq!(one_more(&rig), 503);
    assert!(get(&rig, "/api/events").error().contains("100 listeners"));
    assert_eq!(get(&rig, "/api/state").status, 200, "others are served");
    listeners.pop();
    let deadline = Instant::now() + DEADLINE;
    while one_more(&rig) != 200 {
        assert!(Instant::now() < deadline, "the place is never free again");
    }
}

/// What one more listener is answered, who does not stay.
fn one_more(rig: &Rig) -> u16 {
    let mut stream = TcpStream::connect(rig.http()).unwrap();
    stream.write_all(b"GET /api/events HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut head = [0; "HTTP/1.0 200".len()];
    stream.read_exact(&mut head).unwrap();
    String::from_utf8_lossy(&head[9..]).parse().unwrap()
}

#[test]
fn a_server_that_stops_is_not_ready_says_why_and_ends_the_streams() {
    let mut rig = rig();
    let address = rig.http().to_owned();
    rig.operator.submit(&["one"]);
    let worker = rig.named("worker");
    let (mut tasks, mut telling) = (worker.tasks(), worker.telling());
    let given = tasks.next();
    let mut events = Events::of(&rig);
    events.expect("history");
    events.expect("state");
    // It waits for what this client still has to tell.
    let stopping = thread::spawn(move || rig.stop());
    let request = b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n";
    let not_ready = loop {
        let reply = super::client::exchange(&address, request);
        if reply.status != 200 {
            break reply;
        }
    };
    assert_eq!((not_ready.status, not_ready.body.as_str()), (503, "the server is stopping"));
    let last = std::iter::from_fn(|| events.next()).inspect(|(name, _)| assert_eq!(name, "state"));
    assert!(telling.say(crate::rig::done(&given)));
    telling.end().unwrap();
    drop(last.last());
    stopping.join().unwrap();
}

#[test]
fn a_server_whose_store_is_locked_for_long_is_not_ready_and_says_why() {
    let rig = rig();
    rig.operator.submit(&["one"]);
    // Another program holds the database, against all advice.
    let other = rusqlite::Connection::open(rig.config.data.join("contact.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let metric = |name: &str| {
        let metrics = get(&rig, "/metrics").body;
        let value = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        value.map(|value| value.parse::<f64>().unwrap())
    };
    let until_ready_is = |status: u16| {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let ready = get(&rig, "/readyz");
            if ready.status == status {
                return ready;
            }
            assert!(Instant::now() < deadline, "{ready:?}");
            thread::sleep(Duration::from_millis(50));
        }
    };
    thread::scope(|scope| {
        let submitter = scope.spawn(|| rig.operator.submit(&["waits"]));
        let not_ready = until_ready_is(503);
        assert!(not_ready.body.contains("another process") && not_ready.body.contains("contact.db"), "{not_ready:?}");
        assert_eq!(get(&rig, "/healthz").status, 200, "it is alive");
        state_until(&rig, |state| state["server"]["ready"] == json!(false));
        assert_eq!(metric("contact_store_failed"), Some(1.0));
        assert!(metric("contact_store_locked_seconds").unwrap() >= 10.0);
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(submitter.join().unwrap(), 2);
    });
    until_ready_is(200);
    assert_eq!(metric("contact_store_failed"), Some(0.0));
    assert_eq!(metric("contact_store_locked_seconds"), Some(0.0));
}
