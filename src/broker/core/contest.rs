//! Processes that fight for one client id. Each that comes takes the id from the other, and nothing gets done: so they take turns.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::session::Join;
use crate::now::{Now, Steady};
use crate::task::{ClientId, GroupName, Name};

/// So many takeovers by another process, each within [`WITHIN`] of the first, are a fight. Fewer are a client that is replaced, or
/// started again while the server has not noticed yet that its stream is dead.
const FIGHT: usize = 3;
const WITHIN: Duration = Duration::from_secs(60);
/// How long the first turn is, and the longest: each is twice the one before. Our client waits 30 s at most between two tries, and
/// so it can wait for a turn and a bit longer.
const FIRST_TURN: Duration = Duration::from_secs(5);
const LONGEST_TURN: Duration = Duration::from_secs(20);
/// Processes whose turn is remembered, for each id. One that comes when there are more is told when to ask again.
const WAITING: usize = 8;

/// What tells one process from another: what it says of itself, or else its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Process {
    Instance(Name),
    Connection(Arc<str>),
}

impl Process {
    /// What its turn is remembered by. One that is started again has another connection, and comes from the same host.
    fn in_line(&self) -> Process {
        match self {
            Process::Connection(peer) => {
                Process::Connection(peer.rsplit_once(':').map_or(&**peer, |(host, _)| host).into())
            }
            instance => instance.clone(),
        }
    }

    fn of(join: &Join) -> Process {
        match &join.instance {
            Some(instance) => Process::Instance(instance.clone()),
            None => Process::Connection(join.peer.clone()),
        }
    }
}

/// Why a stream was not opened: another process has the id, and it is its turn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "another process uses the client id {client} too, and has it now; your turn comes in {} s. Give each process an id of its own (--id), \
     or let them share one group (--group)",
    wait.as_secs_f64().ceil()
)]
pub struct NotYourTurn {
    /// The id.
    pub client: ClientId,
    /// After this time the process may have it.
    pub wait: Duration,
}

/// A client id that several processes fight for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContestedId {
    /// The id.
    pub client: ClientId,
    /// The group of its client.
    pub group: Option<GroupName>,
    /// How often it was taken over.
    pub changes: u32,
    /// For how long they have fought.
    pub lasts: Duration,
}

/// What is known of takeovers of one client id. It belongs to the session that has the id, goes over to the one that takes it, and
/// ends with it. It holds at most [`FIGHT`] times and [`WAITING`] processes.
#[derive(Debug, Default)]
pub(super) struct Contest {
    /// The last takeovers, before it is a fight.
    takeovers: VecDeque<Steady>,
    fight: Option<Fight>,
}

#[derive(Debug)]
struct Fight {
    since: Steady,
    changes: u32,
    /// How long turns are now.
    turn: Duration,
    /// When the turn ends of the process that has the id.
    until: Steady,
    /// Who waits, and when its turn begins; in this order.
    waiting: VecDeque<(Process, Steady)>,
    /// When another process last asked for the id.
    asked: Steady,
}

impl Fight {
    /// It is over when nobody has asked for the id for a while, and nobody is to come.
    fn is_over(&self, now: Steady) -> bool {
        self.asked.after(WITHIN) <= now && self.waiting.back().is_none_or(|(_, begins)| is_missed(*begins, now))
    }

    /// Whether the process may take the id now; or after what time.
    fn ask(&mut self, process: &Process, now: Steady) -> Result<(), Duration> {
        self.asked = now;
        self.waiting.retain(|(_, begins)| !is_missed(*begins, now));
        let process = process.in_line();
        if let Some(at) = self.waiting.iter().position(|(waits, _)| *waits == process) {
            let begins = self.waiting[at].1;
            if begins > now {
                return Err(begins.since(now));
            }
            self.waiting.remove(at);
            return Ok(());
        }
        let begins = self.waiting.back().map_or(self.until, |(_, last)| last.after(self.turn));
        if begins <= now {
            return Ok(());
        }
        if self.waiting.len() < WAITING {
            self.waiting.push_back((process, begins));
        }
        Err(begins.since(now))
    }
}

/// Whether a process that was to come then has had its time to do so.
fn is_missed(begins: Steady, now: Steady) -> bool {
    begins.after(LONGEST_TURN) <= now
}

impl Contest {
    /// Another process asks for the id. If it may have it, this is what is known from now on; says whether a fight begins.
    fn take_over(&mut self, process: &Process, now: Steady) -> Result<bool, Duration> {
        if self.fight.as_ref().is_some_and(|fight| fight.is_over(now)) {
            *self = Contest::default();
        }
        if let Some(fight) = &mut self.fight {
            fight.ask(process, now)?;
            fight.changes += 1;
            fight.turn = LONGEST_TURN.min(fight.turn * 2);
            fight.until = now.after(fight.turn);
            return Ok(false);
        }
        self.takeovers.push_back(now);
        self.takeovers.retain(|at| at.after(WITHIN) > now);
        let begins = self.takeovers.len() >= FIGHT;
        if begins {
            let since = self.takeovers.front().copied().unwrap_or(now);
            let (turn, until, asked) = (FIRST_TURN, now.after(FIRST_TURN), now);
            let changes = self.takeovers.len() as u32;
            self.fight = Some(Fight { since, changes, turn, until, waiting: VecDeque::new(), asked });
        }
        Ok(begins)
    }
}

impl Core {
    /// What is known of takeovers of the id of a stream that opens, if a session has it. The stream takes that along.
    pub(super) fn contest(&mut self, join: &Join, now: Now) -> Result<Option<Box<Contest>>, NotYourTurn> {
        let Some((client, holder)) = join.client.as_ref().and_then(|client| Some((client, self.clients.get(client)?)))
        else {
            return Ok(None);
        };
        let Some(holder) = self.sessions.get_mut(holder) else { return Ok(None) };
        let process = Process::of(join);
        if process == Process::of(&holder.join) {
            return Ok(holder.contest.take());
        }
        let mut contest = holder.contest.take().unwrap_or_default();
        match contest.take_over(&process, now.steady) {
            Ok(begins) => {
                self.meter.fights += u64::from(begins);
                Ok(Some(contest))
            }
            Err(wait) => {
                holder.contest = Some(contest);
                Err(NotYourTurn { client: client.clone(), wait })
            }
        }
    }

    /// The ids that several processes fight for, in no order.
    pub fn contested(&self, now: Now) -> Vec<ContestedId> {
        let contested = self.sessions.values().filter_map(|session| {
            let fight = session.contest.as_ref()?.fight.as_ref().filter(|fight| !fight.is_over(now.steady))?;
            let group = self.groups.get(&session.group).and_then(|group| group.name.clone());
            let client = session.join.client.clone()?;
            Some(ContestedId { client, group, changes: fight.changes, lasts: now.steady.since(fight.since) })
        });
        contested.collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn process(n: usize) -> Process {
        Process::Connection(format!("host {n}:1").into())
    }

    /// Seconds after some time.
    fn at(seconds: u64) -> Steady {
        Steady(1_000_000).after(Duration::from_secs(seconds))
    }

    fn fought() -> Contest {
        let mut contest = Contest::default();
        assert_eq!([1, 2, 3].map(|n| contest.take_over(&process(n), at(0))), [Ok(false), Ok(false), Ok(true)]);
        contest
    }

    #[test]
    fn fewer_takeovers_or_slower_ones_are_no_fight() {
        let mut contest = Contest::default();
        for n in 0..100 {
            assert_eq!(contest.take_over(&process(n), at(30 * n as u64)), Ok(false));
        }
        assert!(contest.takeovers.len() < FIGHT);
    }

    #[test]
    fn turns_become_longer_up_to_a_bound() {
        let mut contest = fought();
        let mut now = at(0);
        let mut turns = Vec::new();
        for n in 0..5 {
            let wait = contest.take_over(&process(n % 2), now).unwrap_err();
            now = now.after(wait);
            assert_eq!(contest.take_over(&process(n % 2), now), Ok(false));
            turns.push(wait.as_secs());
        }
        assert_eq!(turns, [5, 10, 20, 20, 20]);
    }

    #[test]
    fn each_of_many_has_its_turn_though_others_ask_all_the_time() {
        let mut contest = fought();
        let mut had = [0; 4];
        // Three of them ask every second, whatever they are told; the last does as it is told.
        let mut comes = at(0);
        let mut holder = 0;
        for second in 0..600 {
            for n in (0..4).filter(|n| *n != holder) {
                if n == 3 && at(second) < comes {
                    continue;
                }
                match contest.take_over(&process(n), at(second)) {
                    Ok(_) => {
                        holder = n;
                        had[n] += 1;
                        break;
                    }
                    Err(wait) if n == 3 => comes = at(second).after(wait),
                    Err(_) => {}
                }
            }
        }
        assert!(had.iter().all(|times| *times >= 4), "{had:?}");
    }

    #[test]
    fn what_is_known_of_a_fight_is_bounded() {
        let mut contest = fought();
        for n in 10..1_000 {
            assert!(contest.take_over(&process(n), at(1)).is_err());
        }
        assert_eq!(contest.fight.as_ref().unwrap().waiting.len(), WAITING);
        assert!(contest.takeovers.len() <= FIGHT);
        // Who does not come when it is its turn is forgotten.
        let later = at(1 + 20 * (WAITING as u64 + 2));
        assert_eq!(contest.take_over(&process(2_000), later), Ok(false));
    }

    #[test]
    fn who_is_started_again_while_it_waits_keeps_its_turn() {
        let mut contest = fought();
        let connection = |port| Process::Connection(format!("[::1]:{port}").into());
        for port in 1..=4 {
            assert_eq!(contest.take_over(&connection(port), at(port)), Err(Duration::from_secs(5 - port)));
        }
        assert_eq!(contest.take_over(&connection(5), at(5)), Ok(false));
    }

    #[test]
    fn a_fight_is_over_when_nobody_asks_for_a_minute() {
        let mut contest = fought();
        assert!(contest.take_over(&process(1), at(2)).is_err());
        assert!(!contest.fight.as_ref().unwrap().is_over(at(61)));
        assert!(contest.fight.as_ref().unwrap().is_over(at(62)));
        assert_eq!(contest.take_over(&process(1), at(62)), Ok(false));
        assert!(contest.fight.is_none(), "and what comes then is a takeover like any first one");
    }
}
