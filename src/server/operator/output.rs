//! What a task prints while clients are at work on it, as one who watches is told it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::{self, Either};
use futures_timer::Delay;

use super::{BROKER_SHARE, Operator};
use crate::broker::{Holder, MOST_WATCHED, MOST_WATCHES, Piece, Printed, Watch};
use crate::server::refusal::Refusal;
use crate::task::{GroupName, Task, TaskId};

/// How often it is looked who has the task: a client is told at the latest then that somebody watches it. It counts ten seconds for it.
const LOOK: Duration = Duration::from_millis(500);

/// One part of it; or, with an empty piece, who has the task now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) struct Output {
    pub(in crate::server) group: GroupName,
    pub(in crate::server) client: Arc<str>,
    pub(in crate::server) attempt: u32,
    pub(in crate::server) piece: Piece,
    /// The client does not say what it prints.
    pub(in crate::server) silent: bool,
}

/// Follows a task until its groups have settled it.
pub(in crate::server) struct Following {
    operator: Operator,
    task: Task,
    group: Option<GroupName>,
    watch: Watch,
    seen: HashMap<GroupName, Seen>,
    /// To be told next.
    told: VecDeque<Output>,
    look_at: Instant,
    /// All have settled it.
    over: bool,
}

/// What was told of one group.
struct Seen {
    client: Arc<str>,
    attempt: u32,
    /// So many bytes of what that attempt printed.
    next: u64,
}

impl Operator {
    /// Follows what a task prints: with one group, or with all that have not settled it.
    pub(in crate::server) async fn follow(&self, id: TaskId, group: Option<GroupName>) -> Result<Following, Refusal> {
        let task = self.task(id).await?;
        let watch = self.broker.watch(id).ok_or(Refusal::TooManyWatches(MOST_WATCHES))?;
        let (seen, told, look_at) = (HashMap::new(), VecDeque::new(), Instant::now());
        let mut following = Following { operator: self.clone(), task, group, watch, seen, told, look_at, over: false };
        // Whether it can be followed is said at once.
        following.look().await?;
        Ok(following)
    }
}

impl Following {
    /// What comes next; `None`: the task is settled, and everything was told. Nothing is lost if this is dropped before it resolves.
    pub(in crate::server) async fn next(&mut self) -> Result<Option<Output>, Refusal> {
        loop {
            if let Some(output) = self.told.pop_front() {
                return Ok(Some(output));
            }
            if self.over {
                let Ok(printed) = self.watch.pieces.try_recv() else { return Ok(None) };
                self.note(printed);
                continue;
            }
            let wait = self.look_at.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                self.look().await?;
                continue;
            }
            match future::select(self.watch.pieces.next(), Delay::new(wait)).await {
                Either::Left((Some(printed), _)) => self.note(printed),
                Either::Left((None, _)) | Either::Right(_) => {}
            }
        }
    }

    /// Sees who has the task, and has them told that it is watched.
    async fn look(&mut self) -> Result<(), Refusal> {
        let seen = self.seen.iter().map(|(group, seen)| (group.clone(), seen.attempt)).collect();
        let broker = &self.operator.broker;
        let (holders, looked) = broker.tell_of_watch(self.task.clone(), self.group.clone(), seen).await?;
        let holders = holders.map_err(|count| Refusal::TooManyToWatch(self.task.id, count, MOST_WATCHED))?;
        if holders.is_empty() {
            // What was printed last is on its way.
            broker.flushed().await?;
            self.over = true;
        }
        if holders.iter().all(|(_, holder)| holder.is_none()) {
            // It may have been cancelled while it waits.
            self.task = self.operator.task(self.task.id).await?;
        }
        for (group, holder) in holders {
            let Some(Holder { client, attempt, says }) = holder else { continue };
            self.meets(&group, &client, attempt, !says);
        }
        self.look_at = Instant::now() + LOOK.max(looked * BROKER_SHARE);
        Ok(())
    }

    /// That client has the task now.
    fn meets(&mut self, group: &GroupName, client: &Arc<str>, attempt: u32, silent: bool) {
        if self.seen.get(group).is_some_and(|seen| seen.attempt == attempt && seen.client == *client) {
            return;
        }
        self.seen.insert(group.clone(), Seen { client: client.clone(), attempt, next: 0 });
        let (group, client) = (group.clone(), client.clone());
        self.told.push_back(Output { group, client, attempt, piece: Piece::default(), silent });
    }

    /// It printed something; what of it was told already is left out.
    fn note(&mut self, printed: Printed) {
        let Printed { group, client, attempt, mut piece, .. } = printed;
        if self.group.as_ref().is_some_and(|only| *only != group) {
            return;
        }
        self.meets(&group, &client, attempt, false);
        let Some(seen) = self.seen.get_mut(&group) else { return };
        let end = piece.from.saturating_add(piece.bytes.len() as u64);
        if end <= seen.next {
            return;
        }
        let known = seen.next.saturating_sub(piece.from);
        piece.bytes.drain(..known as usize);
        piece.from += known;
        seen.next = end;
        self.told.push_back(Output { group, client, attempt, piece, silent: false });
    }
}
