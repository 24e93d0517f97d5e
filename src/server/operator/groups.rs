//! How far groups have come, with what only the store can count.

use crate::broker::GroupInfo;
use crate::store::{Reader, StoreError};
use crate::task::{TaskId, Time};

/// A group, counted.
#[derive(Debug, Clone)]
pub(in crate::server) struct Group {
    pub(in crate::server) info: GroupInfo,
    /// Tasks it has not settled.
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

/// Counts a group, but not its dead letters.
pub(in crate::server) fn count_group(reader: &mut dyn Reader, info: GroupInfo) -> Result<Group, StoreError> {
    let mut lag = (info.in_flight + info.waiting + info.ready) as u64;
    let mut oldest = info.oldest;
    for backlog in &info.backlog {
        lag += reader.count(backlog)?;
        let first = reader.backlog(backlog)?.tasks.first().map(|task| task.id);
        oldest = [oldest, first].into_iter().flatten().min();
    }
    lag = lag.saturating_sub(info.taken_up as u64);
    let oldest = match oldest.filter(|_| lag > 0) {
        Some(id) => Some((id, reader.tasks_by_id(&[id])?.first().map_or(Time(0), |task| task.accepted_at))),
        None => None,
    };
    Ok(Group { info, lag, oldest, dead: 0 })
}

/// Counts groups, with their dead letters.
pub(super) fn count_groups(reader: &mut dyn Reader, infos: Vec<GroupInfo>) -> Result<Vec<Group>, StoreError> {
    let mut dead = reader.dead_counts()?;
    let mut count = |info: GroupInfo| {
        let dead = dead.remove(&info.name).unwrap_or(0);
        Ok(Group { dead, ..count_group(reader, info)? })
    };
    infos.into_iter().map(&mut count).collect()
}
