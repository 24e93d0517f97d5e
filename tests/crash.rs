//! The real server is killed again and again under load; then what every party saw is held against the ledger.
//!
//! `cargo test` kills it five times. For a long run: `CONTACT_CRASHES=100 cargo test --test system crash:: -- --nocapture`.

#[cfg(feature = "cluster")]
pub mod anonymous;
pub mod ledger;
pub mod operators;
#[cfg(feature = "cluster")]
pub mod python_workers;
mod runs;
pub mod submitters;
pub mod witness;
pub mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, thread};

use crate::common::server::Server;
use crate::interop::python::{Python, Spelling};
use ledger::Ledger;
use witness::Witness;

/// The group that shares tasks.
const QUEUE: &str = "work";
/// Another one, whose workers say when they begin a task.
const CAREFUL: &str = "careful";
/// So many clients, one after another, may fall silent over a task.
const MAX_DELIVERIES: usize = 4;
/// Named clients, each a group of its own, from the start.
const BROADCAST: [&str; 3] = ["east", "north", "west"];

#[test]
fn nothing_accepted_is_missing_and_nothing_settled_comes_again_however_often_the_server_is_killed() {
    let crashes =
        env::var("CONTACT_CRASHES").map_or(5, |text| text.parse::<u32>().expect("CONTACT_CRASHES is a number"));
    let began = Instant::now();
    // Short leases, so that the slow workers lose theirs; attempts enough for all the kills.
    let deliveries = MAX_DELIVERIES.to_string();
    let mut server = Server::start(&["--ack-timeout", "1s", "--max-attempts", "1000", "--max-deliveries", &deliveries]);
    let witness = Arc::new(Witness::new(&server.listen, &server.control, crashes));
    let python = Python::ready().map(|python| python.client(Spelling::Ret, &server.listen));

    let mut submitting = submitters::start(&witness);
    submitting.extend(operators::start(&witness));
    let mut working = workers::start(&witness);
    for crash in 0..crashes {
        // Any moment is as good as another; now and then one is awaited when work is under way.
        let progress = if crash % 3 == 0 { 200 } else { 0 };
        witness.until_settled(witness.settled() + progress);
        thread::sleep(Duration::from_millis(rand::random_range(0..500)));
        server.kill();
        witness.life_is_over();
        if crash % 7 == 1 {
            // A group that is new to the server, among others with a past.
            working.push(workers::newcomer(&witness, crash));
        }
        server.restart();
    }
    witness.until_settled(witness.settled() + 200);
    witness.stop_submitting();
    submitting.into_iter().for_each(|submitter| submitter.join().unwrap());

    let ledger = Ledger::drained(&witness);
    if let Some(python) = &python {
        ledger.assert_the_anonymous_client_saw_all_broadcasts(&python.out);
    }
    // Ends all streams, and so the workers, whatever they wait for.
    witness.stop_working();
    server.kill();
    working.into_iter().for_each(workers::Worker::join);
    ledger.assert_consistent(&witness);
    ledger.assert_runs(&witness);
    ledger.assert_cancelled_stays_so(&witness);
    println!("{crashes} crashes, {ledger}: {:.1} s", began.elapsed().as_secs_f64());
}
