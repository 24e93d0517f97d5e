//! Dead letters: outcomes by which a task was given up, and that an operator has neither dropped nor given out again since.

use crate::store::{Reader, StoreError};
use crate::task::{GroupName, TaskResult};

/// Those before a position, newest first; and whether there are more.
pub(in crate::server) fn latest_dead(
    reader: &mut dyn Reader,
    mut before: u64,
    group: Option<&GroupName>,
    limit: usize,
) -> Result<(Vec<TaskResult>, bool), StoreError> {
    let mut dead = Vec::new();
    // A page may end early, for its texts.
    while dead.len() <= limit
        && let page = reader.latest_dead(before, group, limit + 1 - dead.len())?
        && let Some(last) = page.last()
    {
        before = last.seq;
        dead.extend(page);
    }
    let more = dead.len() > limit;
    dead.truncate(limit);
    Ok((dead, more))
}
