//! Servers, and the NATS servers that keep their log, are killed and stopped again and again under load.
//!
//! Each dies once in each way. For a long run, in which the order of deaths is another one in each round:
//! `CONTACT_DEATHS=100 CONTACT_SERVERS=3 cargo test --features cluster --test system cluster:: -- --nocapture`.

use std::thread;
use std::time::Duration;

use rand::seq::IndexedRandom as _;

use super::campaign::{Campaign, leads_the_stream, number, rounds};
use super::members::{Member, leader};
use super::nats::{self, Nats};

/// What happens to whom.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// Of the server that leads: `kill -9`.
    Leader,
    /// Of the NATS server that leads the stream: `kill -9`, and started again when work goes on.
    Nats,
    /// Of another NATS server: the same.
    NatsFollower,
    /// Of that one and another one at once, for a moment: two of three.
    MostNats,
    /// Of another server, with all that it has on its disk.
    LostView,
    /// The server that leads stops for longer than its term lasts, and goes on.
    Zombie,
    /// Of all NATS servers at once, for a moment.
    AllNats,
    /// The server that leads is told to end.
    Stop,
    /// Of another server: `kill -9`.
    Follower,
}

const DEATHS: [Death; 9] = [
    Death::Leader,
    Death::Nats,
    Death::LostView,
    Death::MostNats,
    Death::Zombie,
    Death::AllNats,
    Death::Stop,
    Death::NatsFollower,
    Death::Follower,
];

impl Death {
    /// The place of the server that ends by itself and is to be started again then, if there is one.
    fn befall(self, campaign: &mut Campaign, leads: usize, nats: &Nats) -> Option<usize> {
        let Campaign { members, witness, log, .. } = campaign;
        let others: Vec<usize> = (0..members.len()).filter(|at| *at != leads).collect();
        let other = *others.choose(&mut rand::rng()).unwrap();
        match self {
            Death::Leader => {
                members[leads].program.kill();
                leader(members, Some(leads));
                members[leads].restart();
            }
            Death::LostView | Death::Follower => {
                members[other].program.kill();
                if let Death::LostView = self {
                    members[other].lose_data();
                }
                members[other].restart();
            }
            Death::Zombie => {
                members[leads].program.signal("STOP");
                leader(members, Some(leads));
                members[leads].program.signal("CONT");
            }
            Death::Nats | Death::NatsFollower => {
                let stream = leads_the_stream(nats, log);
                let place = if let Death::Nats = self { stream } else { another(stream) };
                nats.order("kill", place);
                witness.until_settled(witness.settled() + 20);
                nats.order("start", place);
            }
            Death::MostNats | Death::AllNats => {
                let stream = leads_the_stream(nats, log);
                let places = if let Death::AllNats = self { vec![0, 1, 2] } else { vec![stream, another(stream)] };
                places.iter().for_each(|place| nats.order("kill", *place));
                thread::sleep(Duration::from_millis(rand::random_range(0..3_000)));
                places.iter().for_each(|place| nats.order("start", *place));
            }
            Death::Stop => {
                members[leads].program.signal("TERM");
                leader(members, Some(leads));
                return Some(leads);
            }
        }
        None
    }
}

/// Another NATS server than this one.
fn another(place: usize) -> usize {
    (place + rand::random_range(1..3)) % 3
}

#[test]
fn nothing_accepted_is_missing_and_nothing_settled_comes_again_whoever_dies() {
    let Some(nats) = Nats::three_alone() else { return };
    let deaths = number("CONTACT_DEATHS").unwrap_or(DEATHS.len() as u32);
    let servers = number("CONTACT_SERVERS").unwrap_or(2);
    let log = nats.config();
    // The stream is there when the first one needs it.
    drop(nats::open(&log));
    let cluster = log.cluster.to_string();
    let members = (0..servers).map(|_| Member::start(nats.urls(), &cluster)).collect();
    let mut campaign = Campaign::begin(log, members, deaths);
    let mut failovers = Vec::new();
    for death in rounds(DEATHS).take(deaths as usize) {
        let (ends, took) = campaign.befall(|campaign, leads| death.befall(campaign, leads, &nats));
        println!("{death:?}: {:.2} s until a worker is through with a task", took.as_secs_f64());
        if let Death::Leader = death {
            failovers.push(took);
        }
        if let Some(member) = ends.map(|at| &mut campaign.members[at]) {
            member.program.ended();
            member.restart();
        }
    }
    let ledger = campaign.end();
    failovers.sort_unstable();
    println!("{deaths} deaths of {servers} servers, {ledger}; after kill -9 of the leader: {failovers:.2?}");
}
