//! Servers that run well and do not hear each other, under load.
//!
//! Each machine has one server. A long run, with long cuts, in which the order is another one in each round:
//! `CONTACT_PARTITIONS=50 CONTACT_PARTITION_SECONDS=20 cargo test --features cluster --test system cluster::partitions -- --nocapture`.

use std::thread;
use std::time::{Duration, Instant};

use super::campaign::{Campaign, leads_the_stream, number, rounds};
use super::members::{Member, PROGRAM, leader};
use super::nats::{self, Nats};
use crate::common::{DEADLINE, skipped};
use crate::network::machines::Lan;

/// The machines of NATS, and those of Contact.
const NATS: [usize; 3] = [0, 1, 2];
const CONTACT: [usize; 3] = [3, 4, 5];

/// Who does not hear whom.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// The server that leads and NATS: none the other.
    LeaderOff,
    /// The NATS server that leads the stream and the other two: none the other. All hear the servers, which hear all.
    NatsOff,
    /// The server that leads does not hear NATS, which hears it.
    LeaderDeaf,
    /// NATS does not hear it.
    LeaderMute,
    /// The NATS server that leads the stream does not hear the other two, which hear it.
    NatsDeaf,
    /// They do not hear it.
    NatsMute,
    /// The servers: none another one.
    ServersApart,
}

const CUTS: [Cut; 7] =
    [Cut::LeaderOff, Cut::NatsOff, Cut::LeaderMute, Cut::ServersApart, Cut::NatsDeaf, Cut::LeaderDeaf, Cut::NatsMute];

impl Cut {
    /// How long it takes until work goes on, if it has to before all hear each other again. It lasts a while longer.
    fn befall(self, campaign: &mut Campaign, leads: usize, nats: &Nats, lan: &Lan, longest: Duration) -> Duration {
        let began = Instant::now();
        let stream = NATS[leads_the_stream(nats, &campaign.log)];
        let others = NATS.into_iter().filter(|it| *it != stream).collect::<Vec<_>>();
        let (server, stream, others) = (&[CONTACT[leads]][..], &[stream][..], &others[..]);
        let deaf = |who: &[usize], to: &[usize]| who.iter().for_each(|one| lan.deafen(*one, to));
        match self {
            Cut::LeaderDeaf => deaf(server, &NATS),
            Cut::LeaderMute => deaf(&NATS, server),
            Cut::LeaderOff => [(server, &NATS[..]), (&NATS[..], server)].iter().for_each(|(who, to)| deaf(who, to)),
            Cut::NatsDeaf => deaf(stream, others),
            Cut::NatsMute => deaf(others, stream),
            Cut::NatsOff => [(stream, others), (others, stream)].iter().for_each(|(who, to)| deaf(who, to)),
            Cut::ServersApart => deaf(&CONTACT, &CONTACT),
        }
        if let Cut::LeaderOff | Cut::LeaderDeaf | Cut::LeaderMute = self {
            leader(&campaign.members, Some(leads));
        }
        // Of these two NATS may elect nobody for as long as they last.
        if !matches!(self, Cut::NatsDeaf | Cut::NatsMute) {
            campaign.until_work_goes_on();
        }
        let took = began.elapsed();
        thread::sleep(rand::random_range(longest / 2..longest));
        lan.heal();
        took
    }
}

#[test]
fn nothing_accepted_is_missing_and_nothing_settled_comes_again_whoever_hears_nothing_of_whom() {
    let lan = match Lan::new(&["nats-a", "nats-b", "nats-c", "a", "b", "c"]) {
        Ok(lan) => lan,
        Err(why) => return skipped(&format!("it needs root, network namespaces and nftables: {why}")),
    };
    let places = NATS.map(|machine| format!("{}@{}", lan.address(machine), lan.process(machine)));
    let Some(nats) = Nats::three_at(&places) else { return };
    let cuts = number("CONTACT_PARTITIONS").unwrap_or(4);
    let longest = Duration::from_secs(number("CONTACT_PARTITION_SECONDS").unwrap_or(1).into());
    let log = nats.config();
    drop(nats::open(&log));
    let cluster = log.cluster.to_string();
    let member =
        |machine: usize| Member::start_on(lan.command(machine, PROGRAM), &lan.address(machine), nats.urls(), &cluster);
    let members = CONTACT.map(member).into();
    // Less is submitted in the same time the longer it takes.
    let mut campaign = Campaign::begin(log, members, cuts * (1 + longest.as_secs() as u32 / 3));
    for cut in rounds(CUTS).take(cuts as usize) {
        let (took, lasted) = campaign.befall(|campaign, leads| cut.befall(campaign, leads, &nats, &lan, longest));
        println!("{cut:?} for {lasted:.1?}: work goes on after {took:.2?}");
    }
    println!("{cuts} partitions, {}", campaign.end());
}

#[test]
fn a_server_whose_nats_server_is_cut_off_from_the_others_goes_on_with_another_one() {
    let lan = match Lan::new(&["nats-a", "nats-b", "nats-c", "a"]) {
        Ok(lan) => lan,
        Err(why) => return skipped(&format!("it needs root, network namespaces and nftables: {why}")),
    };
    let places = NATS.map(|machine| format!("{}@{}", lan.address(machine), lan.process(machine)));
    let Some(nats) = Nats::three_at(&places) else { return };
    let log = nats.config();
    drop(nats::open(&log));
    // The others are known to it by what the first one says.
    let urls = nats.urls();
    let first = urls.split(',').next().unwrap();
    let server = Member::start_on(lan.command(3, PROGRAM), &lan.address(3), first, &log.cluster.to_string());
    server.until_ready_says("leading");
    let submit = || server.ctl(&["--json", "submit", "x"]);
    let is_accepted = |said: &str| said.contains(r#""done":true,"accepted":1"#);
    let said = submit();
    assert!(is_accepted(&said), "{said}");
    let led = leads_the_stream(&nats, &log) == 0;
    lan.deafen(0, &[1, 2]);
    [1, 2].iter().for_each(|other| lan.deafen(*other, &[0]));
    let (began, deadline) = (Instant::now(), Instant::now() + 2 * DEADLINE);
    while let said = submit()
        && !is_accepted(&said)
    {
        assert!(Instant::now() < deadline, "it goes on with nobody: {said}");
        thread::sleep(Duration::from_millis(200));
    }
    let which = if led { "the one that led the stream" } else { "another one" };
    println!("{which} was cut off: after {:.1?} it goes on with another one", began.elapsed());
}
