//! All who submit to some servers and work for them, while something happens to these again and again; then what every party saw is held
//! against the ledger, and the views against each other.

use std::env;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use contact::store::{JetStreamConfig, Standby};
use rand::seq::SliceRandom as _;
use serde_json::Value;

use super::members::{Member, asked, leader};
use super::nats::{self, Nats};
use super::rows::rows;
use crate::common::DEADLINE;
use crate::common::program::Program;
use crate::crash::ledger::Ledger;
use crate::crash::witness::Witness;
use crate::crash::{anonymous, operators, python_workers, submitters, workers};
use crate::interop::python::{Python, Spelling};

pub(super) struct Campaign {
    pub(super) members: Vec<Member>,
    pub(super) witness: Arc<Witness>,
    pub(super) log: JetStreamConfig,
    submitting: Vec<JoinHandle<()>>,
    working: Vec<workers::Worker>,
    /// The client of the article, where Python can be had. It connects to any of the servers.
    articles: Option<Program>,
}

impl Campaign {
    /// Begins when one of the servers leads. So many times something is to happen.
    pub(super) fn begin(log: JetStreamConfig, members: Vec<Member>, times: u32) -> Campaign {
        let all = |of: fn(&Member) -> &str| members.iter().map(of).collect::<Vec<_>>().join(",");
        let witness = Arc::new(Witness::new(&all(|it| &it.listen), &all(|it| &it.control), times));
        leader(&members, None);
        let mut submitting = submitters::start(&witness);
        submitting.extend(operators::start(&witness));
        let mut working = workers::start(&witness);
        working.extend(python_workers::start(&witness));
        working.push(anonymous::start(&witness));
        let articles = Python::ready().map(|python| python.client(Spelling::Ret, &format!("ipv4:{}", witness.listen)));
        Campaign { members, witness, log, submitting, working, articles }
    }

    /// Waits until work is under way, has something happen to them, of which the place of the one that leads is known, and waits until a
    /// worker is through with a task. What came of it, and how long that took.
    pub(super) fn befall<T>(&mut self, what: impl FnOnce(&mut Campaign, usize) -> T) -> (T, Duration) {
        self.witness.until_settled(self.witness.settled() + 100);
        thread::sleep(Duration::from_millis(rand::random_range(0..500)));
        let leads = leader(&self.members, None);
        let began = Instant::now();
        let what = what(self, leads);
        if leader(&self.members, None) != leads {
            self.witness.life_is_over();
        }
        self.witness.until_settled(self.witness.settled() + 1);
        (what, began.elapsed())
    }

    /// Waits until more is accepted, and settled, than was under way.
    #[track_caller]
    pub(super) fn until_work_goes_on(&self) {
        self.witness.until_more_accepted(50);
        self.witness.until_settled(self.witness.settled() + 300);
    }

    /// Holds all against each other. What there is in the ledger.
    pub(super) fn end(mut self) -> Ledger {
        self.until_work_goes_on();
        self.witness.stop_submitting();
        self.submitting.into_iter().for_each(|submitter| submitter.join().unwrap());
        let ledger = Ledger::drained(&self.witness);
        ledger.assert_each_anonymous_stream_was_given_all_broadcasts(&self.witness);
        if let Some(client) = &self.articles {
            ledger.assert_the_anonymous_client_saw_all_broadcasts(&client.out);
        }
        self.witness.stop_working();
        self.members.iter_mut().for_each(|member| member.program.kill());
        self.working.into_iter().for_each(workers::Worker::join);
        ledger.assert_consistent(&self.witness);
        ledger.assert_runs(&self.witness);
        ledger.assert_cancelled_stays_so(&self.witness);
        assert_views_are_the_same(&self.log, &self.members);
        ledger
    }
}

/// Once each has read all of the log.
fn assert_views_are_the_same(log: &JetStreamConfig, members: &[Member]) {
    let view = |member: &Member| {
        let mut standby = Standby::open(nats::open(log), &member.data).unwrap();
        // Nobody writes any more, and three NATS servers say what there is within this.
        while standby.follow(Duration::from_secs(3)).unwrap().messages > 0 {}
        let place = standby.place();
        drop(standby);
        (place, rows(&member.data))
    };
    let views: Vec<_> = members.iter().map(view).collect();
    for other in &views[1..] {
        assert_eq!(other.0, views[0].0, "each has read as much of the log");
        assert!(other.1 == views[0].1, "the views are the same row for row");
    }
}

/// The place of the NATS server that leads the stream, as NATS says.
#[track_caller]
pub(super) fn leads_the_stream(nats: &Nats, log: &JetStreamConfig) -> usize {
    let name = format!("CONTACT_{}", log.cluster);
    let leader = |monitor: &str| {
        let answer = asked(monitor.strip_prefix("http://")?, "/jsz?streams=true");
        let all: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        let accounts = all["account_details"].as_array()?.iter();
        let mut streams = accounts.filter_map(|it| it["stream_detail"].as_array()).flatten();
        let stream = streams.find(|it| it["name"] == *name)?;
        stream["cluster"]["leader"].as_str()?.strip_prefix('n')?.parse().ok()
    };
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(place) = nats.monitors().split(',').find_map(leader) {
            return place;
        }
        assert!(Instant::now() < deadline, "none leads {name}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A number that the environment may say.
pub(super) fn number(name: &str) -> Option<u32> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// All of them again and again, from the second round on in any order.
pub(super) fn rounds<T: Copy, const N: usize>(all: [T; N]) -> impl Iterator<Item = T> {
    (0..).flat_map(move |round| {
        let mut all = all;
        if round > 0 {
            all.shuffle(&mut rand::rng());
        }
        all
    })
}
