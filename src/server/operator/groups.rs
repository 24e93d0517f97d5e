//! How far groups have come, with what only the store knows.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::broker::GroupInfo;
use crate::store::{Reader, StoreError};
use crate::task::{TaskId, Time};

/// A group, with what the store knows of it.
#[derive(Debug, Clone)]
pub(in crate::server) struct Group {
    pub(in crate::server) info: GroupInfo,
    /// Tasks it has not settled: see [`GroupInfo::lag`].
    pub(in crate::server) lag: u64,
    /// The oldest of them, and when it was accepted.
    pub(in crate::server) oldest: Option<(TaskId, Time)>,
    /// Its dead letters.
    pub(in crate::server) dead: u64,
}

impl Group {
    /// Tasks that are with no client, though their time has come.
    pub(super) fn due(&self) -> u64 {
        self.lag.saturating_sub((self.info.in_flight + self.info.delayed) as u64)
    }

    /// Its clients could take what is due, have nothing, and settled nothing lately.
    pub(super) fn is_idle(&self) -> bool {
        let info = &self.info;
        info.clients > 0 && !info.paused && self.due() > 0 && info.held_since.is_none() && info.rate <= 0.0
    }
}

/// How long backlogs are looked at whose first task the broker does not know. Of what is not looked at then, the oldest task is not
/// said.
const UNSEEN: Duration = Duration::from_millis(20);

/// The groups, each with its oldest task and its dead letters.
pub(in crate::server) fn count_groups(
    reader: &mut dyn Reader,
    infos: Vec<GroupInfo>,
) -> Result<Vec<Group>, StoreError> {
    let deadline = Instant::now() + UNSEEN;
    let mut dead = reader.dead_counts()?;
    // Most open tasks were for everyone, and are open in many groups.
    let mut open: Vec<TaskId> = infos.iter().filter_map(|info| info.oldest_open).collect();
    open.sort_unstable();
    open.dedup();
    let open: HashMap<TaskId, Time> =
        reader.tasks_by_id(&open)?.into_iter().map(|task| (task.id, task.accepted_at)).collect();
    let mut group = |mut info: GroupInfo| {
        for backlog in std::mem::take(&mut info.unseen) {
            if Instant::now() < deadline {
                let first = reader.backlog(&backlog)?.tasks.into_iter().next();
                let first = first.map(|task| (task.id, task.accepted_at));
                info.oldest_new = info.oldest_new.into_iter().chain(first).min();
            }
        }
        let open = info.oldest_open.map(|id| (id, open.get(&id).copied().unwrap_or_default()));
        let oldest = open.into_iter().chain(info.oldest_new).min().filter(|_| info.lag > 0);
        Ok(Group { lag: info.lag, oldest, dead: dead.remove(&info.name).unwrap_or(0), info })
    };
    infos.into_iter().map(&mut group).collect()
}
