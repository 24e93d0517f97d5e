//! How far a task has come with a group, and why: the words that the page, its API and `contactctl` have for it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::task::{Outcome, TaskId, Time};

/// How far a task has come with a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// To be delivered, or delivered again.
    Waiting,
    /// With a client.
    #[serde(rename = "in flight")]
    InFlight,
    /// The group is through with it.
    Settled,
    /// Settled by being given up: a dead letter.
    Dead,
}

/// The same word as in JSON.
impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Why a task is not with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// Its time has not come.
    NotBefore(Time),
    /// Something newer may still take its place: until then none is to have come.
    Quiet(Time),
    /// The group was stopped.
    Paused,
    /// No client of the group is connected.
    NoClient,
    /// Every client holds as many tasks as it wants.
    WindowsFull,
    /// Every client of the group is drained, or about to stop.
    Draining,
    /// The clients do not read what they were sent.
    NotReading,
    /// It is about to go out.
    Queued,
    /// There is no such group: no client of that name has ever come, or it was removed.
    NeverCame,
    /// A client fell silent over tasks that go before it: each of these goes out alone.
    OneAtATime,
    /// No client of the group that is there takes so long a message.
    TooLong,
    /// Its lane has no place for it before this task is settled.
    InLane(TaskId),
    /// The same, and that task is a dead letter: an operator has to give it out again, or to drop it.
    LaneHeld(TaskId),
    /// As many tasks of the group are with clients as may be.
    GroupFull,
    /// As many deliveries of the group have begun as may begin in a second.
    RateReached,
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WaitReason::NotBefore(at) => return write!(f, "not before {at}"),
            WaitReason::Quiet(at) => {
                return write!(f, "waits for quiet until {at}: something newer may take its place");
            }
            WaitReason::InLane(before) => return write!(f, "it waits, in its lane, behind task {before}"),
            WaitReason::LaneHeld(before) => {
                return write!(f, "its lane is held, until that is retried or dropped, by dead letter {before}");
            }
            WaitReason::GroupFull => "the group has as many tasks in flight as it may (--max-in-flight)",
            WaitReason::RateReached => "the group begins as many tasks a second as it may (--max-begun-per-second)",
            WaitReason::Paused => "the group is paused",
            WaitReason::NoClient => "no client of the group is connected",
            WaitReason::WindowsFull => "every client of the group holds as many tasks as it wants",
            WaitReason::Draining => "every client of the group is drained, or about to stop",
            WaitReason::NotReading => "the clients of the group do not read what they were sent",
            WaitReason::Queued => "next, after those before it",
            WaitReason::NeverCame => "there is no such group: no client of that name has come, or it was removed",
            WaitReason::OneAtATime => "tasks that a client fell silent over go out one at a time",
            WaitReason::TooLong => "it is longer than any client of the group takes (contact-max-message)",
        })
    }
}

/// Why a task is in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateReason {
    /// It waits for this.
    Waits(WaitReason),
    /// A client has it, and must say something before this time.
    Leased(Time),
    /// This came of it. `None`: the log does not say, or no longer.
    Settled(Option<Outcome>),
}

impl StateReason {
    /// The state.
    pub fn state(self) -> TaskState {
        match self {
            StateReason::Waits(_) => TaskState::Waiting,
            StateReason::Leased(_) => TaskState::InFlight,
            StateReason::Settled(Some(outcome)) if outcome.is_dead() => TaskState::Dead,
            StateReason::Settled(_) => TaskState::Settled,
        }
    }
}

impl fmt::Display for StateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateReason::Waits(reason) => reason.fmt(f),
            StateReason::Leased(until) => write!(f, "its lease ends at {until}"),
            StateReason::Settled(outcome) => outcome.map_or(Ok(()), |outcome| outcome.fmt(f)),
        }
    }
}
