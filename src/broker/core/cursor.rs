//! How far a group has come in the log, for the tasks of one priority.

use std::collections::VecDeque;
use std::sync::Arc;

use super::replacing::marked;
use super::session::SEND_BUFFER;
use crate::task::{Task, TaskId, Time};

/// The position of a group in the tasks of one priority, and what it has read beyond it.
#[derive(Debug)]
pub(super) struct LogCursor {
    /// Every task of the priority up to here was taken up: it is settled, or open. With nothing in `ready` and no backlog
    /// that holds for the whole log, and this field is not kept up: see [`LogCursor::position`].
    position: TaskId,
    /// Every task of the priority up to here was taken up, or stands in `ready`. Kept only while there is a backlog.
    read: TaskId,
    /// Read ahead, oldest first.
    ready: Page,
    /// The log may hold more than `ready`. Without a backlog, what is committed goes straight into `ready`.
    has_backlog: bool,
    /// The page after `read` was asked for and has not come yet.
    fetching: bool,
    /// The broadcasts of the priority that were accepted, less the tasks after `read`: see [`LogCursor::unread`]. Kept only while
    /// there is a backlog.
    passed: i64,
    /// The count by which `passed` is to be corrected, and how many of its parts are still to come. Only with a backlog.
    awaited: Option<(Ticket, u8)>,
    /// The first task after `read`, and when it was accepted, if that is known.
    first: Option<(TaskId, Time)>,
}

/// Names a count, so that one that is overtaken is not taken for the newest.
pub(super) type Ticket = u64;

impl LogCursor {
    /// A cursor that has taken up every task up to `position`, and knows of no other.
    pub(super) fn new(position: TaskId) -> LogCursor {
        LogCursor {
            position,
            read: position,
            ready: Page::default(),
            has_backlog: true,
            fetching: false,
            passed: 0,
            awaited: None,
            first: None,
        }
    }

    /// Every task of the priority up to here was taken up, where `head` is the newest task of the log.
    pub(super) fn position(&self, head: TaskId) -> TaskId {
        if self.has_backlog || !self.ready.tasks.is_empty() { self.position } else { head }
    }

    pub(super) fn has_backlog(&self) -> bool {
        self.has_backlog
    }

    /// Where the part of the log begins that is not read: `Some` while there is a backlog.
    pub(super) fn unread_after(&self) -> Option<TaskId> {
        self.has_backlog.then_some(self.read)
    }

    /// Where to read the next page; `None`: there is no backlog, or the page was asked for already.
    pub(super) fn next_page(&self) -> Option<TaskId> {
        self.unread_after().filter(|_| !self.fetching)
    }

    /// Whether a task, if it has this priority, was not taken up.
    pub(super) fn is_unread(&self, task: TaskId) -> bool {
        self.unread_after().is_some_and(|read| task > read) || self.is_ready(task)
    }

    pub(super) fn is_ready(&self, task: TaskId) -> bool {
        self.ready.find(task).is_ok()
    }

    /// How many tasks are read ahead.
    pub(super) fn ready_len(&self) -> usize {
        self.ready.tasks.len()
    }

    /// How many tasks of the log are not read, where so many broadcasts of the priority were accepted. So a broadcast is
    /// counted once, for all groups; and what is counted still is not among them.
    pub(super) fn unread(&self, accepted: i64) -> u64 {
        if self.has_backlog { u64::try_from(accepted - self.passed).unwrap_or(0) } else { 0 }
    }

    /// The count of what is not read is not complete.
    pub(super) fn is_counting(&self) -> bool {
        self.awaited.is_some()
    }

    /// The oldest task that is not taken up, and when it was accepted, if that is known.
    pub(super) fn first(&self) -> Option<(TaskId, Time)> {
        self.ready.tasks.front().map(|task| (task.id, task.accepted_at)).or(self.first.filter(|_| self.has_backlog))
    }

    /// Adds a task that was just committed. `false`: `ready` is full, and the task stays in the log as backlog.
    pub(super) fn append(&mut self, task: &Arc<Task>, room: usize) -> bool {
        if self.ready.is_full(room) {
            return false;
        }
        if self.ready.tasks.is_empty() {
            self.position = task.id - 1;
        }
        self.ready.push(task.clone());
        true
    }

    /// What comes after this task is not in memory from now on: it is backlog. There was none before. `accepted` broadcasts of the
    /// priority came up to there; `first` is the first task of the backlog, if it is known.
    pub(super) fn leave_in_log(&mut self, after: TaskId, accepted: i64, first: Option<(TaskId, Time)>) {
        self.has_backlog = true;
        self.read = after;
        (self.passed, self.awaited, self.first) = (accepted, None, first);
        if self.ready.tasks.is_empty() {
            self.position = after;
        }
    }

    /// So many tasks for this group alone came into its backlog.
    pub(super) fn add_unread(&mut self, own: u64) {
        self.passed -= own as i64;
    }

    /// What is not read is counted anew, in so many parts. Until they come, it is what comes from now on.
    pub(super) fn count_anew(&mut self, ticket: Ticket, parts: u8, accepted: i64) {
        self.passed = accepted;
        self.awaited = (parts > 0).then_some((ticket, parts));
    }

    /// A part of that count: so many tasks are not read beside those that are known. `complete`: it was the last of this part.
    pub(super) fn counted(&mut self, ticket: Ticket, unread: i64, complete: bool) {
        if let Some((_, parts)) = self.awaited.filter(|(awaited, _)| *awaited == ticket) {
            self.passed -= unread;
            let parts = parts - u8::from(complete);
            self.awaited = (parts > 0).then_some((ticket, parts));
        }
    }

    /// The first task after `read` is this one.
    pub(super) fn found_first(&mut self, read: TaskId, first: (TaskId, Time)) {
        if self.read == read && self.first.is_none() {
            self.first = Some(first);
        }
    }

    /// The page was asked for, or could not be read.
    pub(super) fn set_fetching(&mut self, fetching: bool) {
        self.fetching = fetching;
    }

    /// Takes the next page of the backlog, with which everything up to `read` is read; so many broadcasts were left out of it, which are
    /// for others. Says whether that was all there is.
    pub(super) fn fill(&mut self, page: Page, left_out: usize, read: TaskId, head: TaskId) -> bool {
        debug_assert!(self.ready.tasks.is_empty(), "a page is read when the one before is used up");
        self.fetching = false;
        self.passed += (page.tasks.len() + left_out) as i64;
        self.first = None;
        self.ready = page;
        self.read = read;
        self.has_backlog = read < head;
        if !self.has_backlog {
            self.awaited = None;
        }
        !self.has_backlog
    }

    /// The next task, of those that are read.
    pub(super) fn next(&self) -> Option<&Arc<Task>> {
        self.ready.tasks.front()
    }

    /// Takes up the next task.
    pub(super) fn pop(&mut self) -> Option<Arc<Task>> {
        let task = self.ready.pop()?;
        self.position = task.id;
        Some(task)
    }

    /// Takes the tasks out of what was read ahead. Most cursors have read nothing ahead, and cost nothing.
    pub(super) fn forget(&mut self, tasks: &[TaskId]) {
        if !self.ready.tasks.is_empty() {
            tasks.iter().for_each(|task| self.ready.remove(*task));
        }
    }

    /// Marks a task as one whose place was taken, if it was read ahead.
    pub(super) fn replace(&mut self, task: TaskId, by: TaskId, at: Time) {
        if let Ok(place) = self.ready.find(task) {
            self.ready.replace(place, marked(&self.ready.tasks[place], by, at));
        }
    }

    /// Whether the fields agree; an error says what does not.
    pub(super) fn check(&self, head: TaskId) -> Result<(), String> {
        let ids: Vec<TaskId> = self.ready.tasks.iter().map(|task| task.id).collect();
        let end = self.unread_after().unwrap_or(head);
        let in_order = ids.is_sorted_by(|a, b| a < b) && ids.first().is_none_or(|first| *first > self.position);
        let holds = in_order && ids.last().is_none_or(|last| *last <= end) && (!self.fetching || ids.is_empty());
        if holds { Ok(()) } else { Err(format!("a cursor is not consistent: {self:?}")) }
    }
}

/// Tasks that are read ahead, by ascending id: no more than a group will soon take, whatever their size.
///
/// How large a page may be is `room`, in bytes of text: see [`Page::room`].
#[derive(Debug, Default)]
pub(super) struct Page {
    tasks: VecDeque<Arc<Task>>,
    bytes: usize,
}

impl Page {
    /// Tasks and bytes of text at which a page takes no more, however much is taken. Pages of 256 drained a backlog at 0.7 of the rate of these.
    pub(super) const TASKS: usize = 2048;
    pub(super) const BYTES: usize = 512 * 1024;

    /// How much a group may read ahead whose streams have taken so many bytes: what may be on its way to a client, and then as much
    /// as was taken. So who reads nothing keeps next to nothing in memory.
    pub(super) fn room(taken: u64) -> usize {
        usize::try_from(taken.max(SEND_BUFFER)).unwrap_or(Page::BYTES).min(Page::BYTES)
    }

    /// The number of tasks that goes with it.
    pub(super) fn tasks(room: usize) -> usize {
        room * Page::TASKS / Page::BYTES
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn is_full(&self, room: usize) -> bool {
        self.tasks.len() >= Page::tasks(room) || self.bytes >= room
    }

    pub(super) fn push(&mut self, task: Arc<Task>) {
        self.bytes += task.spec.bytes();
        self.tasks.push_back(task);
    }

    fn pop(&mut self) -> Option<Arc<Task>> {
        let task = self.tasks.pop_front()?;
        self.bytes -= task.spec.bytes();
        Some(task)
    }

    fn find(&self, task: TaskId) -> Result<usize, usize> {
        self.tasks.binary_search_by_key(&task, |ready| ready.id)
    }

    fn replace(&mut self, at: usize, task: Arc<Task>) {
        self.bytes = self.bytes - self.tasks[at].spec.bytes() + task.spec.bytes();
        self.tasks[at] = task;
    }

    fn remove(&mut self, task: TaskId) {
        if let Ok(at) = self.find(task) {
            self.bytes -= self.tasks.remove(at).map_or(0, |task| task.spec.bytes());
        }
    }
}

impl FromIterator<Task> for Page {
    fn from_iter<I: IntoIterator<Item = Task>>(tasks: I) -> Page {
        let mut page = Page::default();
        tasks.into_iter().for_each(|task| page.push(Arc::new(task)));
        page
    }
}
