//! One getTask stream, as the state machine sees it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::GroupId;
use super::contest::Contest;
use super::drains::Draining;
use super::open::Said;
use super::quotas::Quota;
use crate::attempts::Attempts;
use crate::labels::Labels;
use crate::now::Steady;
use crate::task::{ClientId, GroupName, Name, Priority, StartAt, Task, TaskId, Time, weight};

/// Names one stream for good: a later stream of the same client has a larger one.
pub type SessionId = u64;

/// Orders the sessions of a group: by free window; among equals, the one that was served longest ago is last.
pub(super) type Rank = (usize, Reverse<u64>, SessionId);

/// What a client says of itself when its stream opens. All of it is optional.
#[derive(Debug, Clone, Default)]
pub struct Join {
    /// Its stable id.
    pub client: Option<ClientId>,
    /// Random, one for each process.
    pub instance: Option<Name>,
    /// The group it shares tasks with; without one, a client with an id is a group of its own.
    pub group: Option<GroupName>,
    /// Most unacknowledged tasks it wants to hold.
    pub window: Option<u32>,
    /// Where its group starts if it is new; without it, as [`Config`](super::Config) has it.
    pub from: Option<StartAt>,
    /// It says when it begins a task, with `WORKING` or an outcome: a task that it was given is not begun before.
    pub begins: bool,
    /// It wants to hear that a task which it has was taken from it.
    pub revoke: bool,
    /// It can say what work prints, while it hears that somebody watches.
    pub output: bool,
    /// It is given a receipt with each task, and shows it with what it tells of that.
    pub receipts: bool,
    /// It is about to stop, and wants no more tasks.
    pub stopping: bool,
    /// How long a silence is before it wants a heartbeat.
    pub heartbeat: Option<Duration>,
    /// The longest message it takes, in bytes; without it, [`MAX_MESSAGE`].
    pub max_message: Option<u64>,
    /// What it is: its group has these labels from now on.
    pub labels: Labels,
    /// The version of its program.
    pub version: Option<Name>,
    /// The system that it runs on.
    pub system: Option<Name>,
    /// Its address.
    pub peer: Arc<str>,
    /// What it may have, together with all other streams of the same identity. `None`: it need not say who it is.
    pub quota: Option<Quota>,
    /// Its stream was open before another server led, and goes on.
    pub resume: Option<Box<Resume>>,
}

/// What a stream had that was open under another server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resume {
    /// What its client was given and has not told the end of, oldest first.
    pub holds: Vec<Held>,
    /// Of a client without a group: the newest task of each priority that it was given. Less, if it was given none: where it began.
    pub read: [TaskId; 3],
    /// Of such a client: older ones that it is to be given when their time has come.
    pub awaits: Vec<(TaskId, Priority)>,
    /// It is drained, and not by its id.
    pub draining: Option<Draining>,
}

/// What only the broker knows of a session. It is kept beside the stream, for the broker of the server that leads next: see [`Resume`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A client without a group is to be given this task when its time has come, and goes on behind it.
    Awaits(TaskId, Priority),
    /// It is drained, and not by its id; or not any more.
    Draining(Option<Draining>),
}

/// A task that a client has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The task.
    pub task: TaskId,
    /// Its priority.
    pub priority: Priority,
    /// The lane that it [waits in](crate::task::NewTask::waits_in).
    pub lane: Option<Name>,
    /// Which delivery.
    pub attempt: u32,
    /// It has begun it, or does not say so.
    pub begun: bool,
}

/// What a gRPC library takes in one message unless it is told otherwise, in bytes.
pub const MAX_MESSAGE: u64 = 4 << 20;

/// One task on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The task.
    pub task: Arc<Task>,
    /// Which delivery to this group this is, from 1.
    pub attempt: u32,
    /// Attempts that were spent before this delivery.
    pub spent: u32,
    /// Attempts that may be spent on it, if the task or its group says so.
    pub max_attempts: Option<u32>,
}

/// A task that its client should not go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// The task.
    pub task: TaskId,
    /// Which delivery: a later one still stands.
    pub attempt: u32,
    /// Why.
    pub reason: RevokeReason,
}

/// Why a client should not go on with a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokeReason {
    /// An operator took it back.
    Cancelled,
    /// Its time is over.
    Expired,
    /// Another client has it, or settled it.
    GivenToAnother,
}

impl Delivery {
    /// What it counts for while it is on its way to a client, in bytes: its text, headers and data, and about what it takes beside these.
    pub fn cost(&self) -> u64 {
        weight(self.task.spec.bytes()) as u64
    }
}

/// How much may be on its way to a client that its stream has not taken, in bytes of [`Delivery::cost`]. Enough to keep a
/// connection busy; ten thousand clients that do not read cost 640 MB at most.
pub(crate) const SEND_BUFFER: u64 = 64 * 1024;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) group: GroupId,
    pub(super) join: Join,
    /// The client's id, or its address: what the log of outcomes names it by.
    pub(super) label: Arc<str>,
    pub(super) since: Time,
    pub(super) window: usize,
    /// The tasks it has a lease on.
    pub(super) held: BTreeSet<TaskId>,
    /// Bytes of these, as they count for its quota.
    pub(super) bytes: u64,
    /// Its quota is full.
    pub(super) over: bool,
    /// Cancelled tasks that its client began and has not said anything of since, each with its attempt.
    pub(super) ending: BTreeMap<TaskId, u32>,
    /// How many of these its client has not begun.
    pub(super) unbegun: usize,
    /// Of these, there is one that must be alone with it: the client before it fell silent.
    pub(super) alone: bool,
    /// It gets no more tasks, and finishes what it has.
    pub(super) draining: Option<Draining>,
    /// It gave tasks back unbegun, and gets none for a while.
    pub(super) rests: bool,
    /// How often that happened since it finished one, while it was at work on others.
    pub(super) gave_back: u32,
    /// The last delivery, of all, that was made when its client said something of a task.
    pub(super) heard: u64,
    /// Bytes of [`Delivery::cost`] given to the stream so far.
    pub(super) sent: u64,
    /// Of these, how many the stream has taken, as far as it has said so.
    pub(super) taken: u64,
    /// Tasks given to the stream so far.
    pub(super) delivered: u64,
    pub(super) last_sent: Steady,
    /// Deliveries of the event that is being handled.
    pub(super) outgoing: Vec<Delivery>,
    /// What is known of takeovers of its client's id.
    pub(super) contest: Option<Box<Contest>>,
    /// The number of its last delivery, counted for all sessions together: a smaller one was served longer ago.
    pub(super) turn: u64,
    /// `Some` if it is among the sessions of its group that can take a task: its rank there.
    pub(super) rank: Option<Rank>,
}

impl Session {
    /// How many more tasks its client wants.
    pub(super) fn free(&self) -> usize {
        self.window.saturating_sub(self.held.len())
    }

    /// Whether it may be given a task now.
    pub(super) fn can_take(&self) -> bool {
        self.free() > 0 && self.has_room() && !self.over && !self.alone && !self.rests && self.draining.is_none()
    }

    /// Its client is at work on this attempt of a task that was cancelled, and is to end it.
    pub(super) fn is_to_end(&mut self, task: TaskId, attempt: u32) {
        if self.ending.len() < MOST_ENDING {
            self.ending.insert(task, attempt);
        }
    }

    /// Its client says what came of an attempt. Without a number it is the last one.
    pub(super) fn ended(&mut self, task: TaskId, attempt: u32) {
        if self.ending.get(&task).is_some_and(|ending| attempt == 0 || attempt >= *ending) {
            self.ending.remove(&task);
        }
    }

    /// Whether an operator wants it to get no more tasks.
    pub(super) fn is_drained(&self) -> bool {
        self.draining.as_ref().is_some_and(|draining| !draining.stopping)
    }

    /// It has this task now.
    pub(super) fn hold(&mut self, task: TaskId, attempts: Attempts) {
        self.held.insert(task);
        if !attempts.begun {
            self.unbegun += 1;
            self.alone |= attempts.silent > 0;
        }
    }

    /// It begins a task, or has it no more.
    pub(super) fn begin(&mut self, attempts: Attempts) {
        if !attempts.begun {
            self.unbegun -= 1;
            self.alone &= attempts.silent == 0;
        }
    }

    /// Whether its client takes a message with this task: one that is too long would end its stream.
    pub(super) fn takes(&self, task: &Task) -> bool {
        weight(task.spec.bytes()) as u64 <= self.join.max_message.unwrap_or(MAX_MESSAGE)
    }

    /// Whether another task may be sent. One that is larger than the buffer goes out alone, when nothing else is on its way.
    pub(super) fn has_room(&self) -> bool {
        self.sent - self.taken < SEND_BUFFER
    }
}

/// Cancelled tasks of which it is remembered that a client is still at work on them. One that never says anything of them would have
/// more and more.
const MOST_ENDING: usize = 1024;

/// A connected client.
#[derive(Debug, Clone)]
pub struct ClientInfo {
    /// Its id, if it has one.
    pub client: Option<ClientId>,
    /// Its group, unless it is anonymous.
    pub group: Option<GroupName>,
    /// What it says that it is.
    pub labels: Labels,
    /// The version of its program, if it says so.
    pub version: Option<Name>,
    /// The system that it runs on, if it says so.
    pub system: Option<Name>,
    /// Its address.
    pub peer: Arc<str>,
    /// Since when it is connected.
    pub since: Time,
    /// Most unacknowledged tasks it takes; `None`: no bound.
    pub window: Option<usize>,
    /// How many it holds.
    pub in_flight: usize,
    /// How many it was given over this stream.
    pub delivered: u64,
    /// It gets no more tasks, and finishes what it has.
    pub draining: Option<Draining>,
    /// The oldest of its tasks of which it said how far it is.
    pub working: Option<(TaskId, Said)>,
}
