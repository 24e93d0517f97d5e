//! Tasks in chunks.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

use super::chunks::{self, Chunk, attachment, is_default, json, name, position, size, strange, text};
use super::int;
use super::rows::{priority, priority_number};
use crate::attachment::Headers;
use crate::retry::Retry;
use crate::store::chunk::{Entry as _, chunks, segments};
use crate::store::{Batch, Slot};
use crate::task::{
    Audience, GroupName, Made, Name, NameOf, NewTask, Priority, Quiet, Replace, Submitter, Task, TaskId, Time,
    TimeLimit,
};

macro_rules! select {
    ($($rest:literal),+ $(,)?) => {
        concat!(
            "SELECT segment, first, last, target, priority, newest, head, texts, (SELECT
                 json_group_array(json_array(task_id, expires_at, keyless, replaced_by)) FROM changes WHERE task_id BETWEEN first AND last)
             FROM task_chunks WHERE ",
            $($rest),+
        )
    };
}
/// The chunks from that on in which there may be something after a position.
pub(super) const AFTER: &str = select!(
    "first >= coalesce((SELECT segment FROM task_chunks WHERE first <= ?1 ORDER BY first DESC LIMIT 1), 0) ORDER BY first"
);
pub(super) const BEFORE: &str = select!("first < ?1 ORDER BY first DESC");
/// The chunks in which a task may be.
pub(super) const AROUND: &str = select!(
    "first <= ?1 AND last >= ?1
        AND first >= (SELECT segment FROM task_chunks WHERE first <= ?1 ORDER BY first DESC LIMIT 1) ORDER BY first DESC"
);
/// The chunk that begins with a task.
pub(super) const AT: &str = select!("first = ?1");
macro_rules! class {
    ($target:literal) => {
        select!(
            $target,
            " AND priority = ?2 AND first <= ?4 AND first >= coalesce((SELECT first FROM task_chunks WHERE ",
            $target,
            " AND priority = ?2 AND first <= ?3 ORDER BY first DESC LIMIT 1), 0) ORDER BY first"
        )
    };
}
/// The chunks of one group and priority, from that on in which there may be something after a position, up to another.
pub(super) const OF_GROUP: &str = class!("target = ?1");
/// The same of what is for everyone.
pub(super) const OF_EVERYONE: &str = class!("target IS NULL");
/// The chunks of one group and priority (?1, empty: for everyone; ?2) that have tasks of a lane (?5), likewise.
pub(super) const OF_LANE: &str = select!(
    "first IN (SELECT first FROM lanes WHERE lane = ?5 AND target = ?1 AND priority = ?2 AND first <= ?4
        AND first >= coalesce((SELECT first FROM lanes WHERE lane = ?5 AND target = ?1 AND priority = ?2 AND first <= ?3
            ORDER BY first DESC LIMIT 1), 0)) ORDER BY first"
);
/// How many tasks of a group and priority there are in the chunks that lie between two positions.
pub(super) const WITHIN: &str = "SELECT coalesce(sum(count), 0) FROM task_chunks INDEXED BY task_chunks_class
    WHERE target IS ?1 AND priority = ?2 AND first > ?3 AND first <= ?4 AND last <= ?4";
/// The chunks of which only a part does.
pub(super) const ACROSS: &str = select!(
    "first IN (
        (SELECT first FROM task_chunks WHERE target IS ?1 AND priority = ?2 AND first <= ?3 ORDER BY first DESC LIMIT 1),
        (SELECT first FROM task_chunks WHERE target IS ?1 AND priority = ?2 AND first <= ?4 ORDER BY first DESC LIMIT 1))
    AND last > ?3 AND NOT (first > ?3 AND last <= ?4)"
);

/// The chunks that reach into a range of ids.
pub(super) const OF_BLOCK: &str = "SELECT first, head FROM task_chunks WHERE first <= ?2 AND last >= ?1
    AND first >= coalesce((SELECT segment FROM task_chunks WHERE first <= ?1 ORDER BY first DESC LIMIT 1), 0)";

/// A chunk of tasks.
#[derive(Debug)]
pub(super) struct TaskChunk {
    segment: i64,
    first: TaskId,
    target: Option<GroupName>,
    priority: Priority,
    newest: i64,
    heads: Vec<Head>,
    texts: Vec<u8>,
    /// From which place on who submitted them; `None`: nobody who is known. Empty where callers need not say who they are.
    submitters: Vec<(usize, Option<Arc<Submitter>>)>,
    changes: BTreeMap<TaskId, Changed>,
}

/// What counts of a task that was changed.
#[derive(Debug)]
struct Changed {
    expires_at: Option<i64>,
    /// Its key was freed.
    keyless: bool,
    replaced_by: Option<TaskId>,
}

/// A task in the head of its chunk: its distance from the first; where its text begins, and how long it is; what only some have.
#[derive(Debug, Serialize, Deserialize)]
struct Head(u64, u32, u32, #[serde(default, skip_serializing_if = "Option::is_none")] Option<Box<Rare>>);

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rare {
    /// Milliseconds by which it was accepted before the newest of its chunk.
    #[serde(skip_serializing_if = "is_default")]
    ago: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<String>,
    /// Name and role of who submitted it, if that is not who submitted the one before it in the chunk. Empty: nobody who is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<(String, String)>,
    /// Of a broadcast: the groups that it is for, if it names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<String>>,
    /// Which labels these must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    select: Option<String>,
    /// How many milliseconds work on it may take, and whether it has failed then.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<(NonZeroU32, bool)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<String>,
    #[serde(skip_serializing_if = "Headers::is_empty")]
    headers: Headers,
    /// How many bytes of data stand behind its text.
    #[serde(skip_serializing_if = "is_default")]
    data: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    replace: Option<Replacing>,
    /// Which schedule made it, and for which moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    made: Option<(String, Option<i64>)>,
}

/// The key by which a task replaces others; for how long nothing newer is to come, at most, and since when; whose place it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Replacing(String, Option<(u64, Option<u64>, i64)>, Option<TaskId>);

impl Replacing {
    fn of(replace: &Replace) -> Replacing {
        let quiet = replace.quiet.map(|Quiet { millis, most_millis, since }| (millis, most_millis, since.0));
        Replacing(replace.key().to_owned(), quiet, replace.replaces)
    }

    fn read(&self, by: Option<TaskId>) -> rusqlite::Result<Box<Replace>> {
        let Replacing(key, quiet, replaces) = self;
        let quiet = quiet.map(|(millis, most_millis, since)| Quiet { millis, most_millis, since: Time(since) });
        let read = Replace::new(key, quiet).map_err(|error| strange(6, error))?;
        Ok(Box::new(read.taken(*replaces, by)))
    }
}

impl Rare {
    /// `before`: who submitted the one before it.
    fn of(task: &Task, newest: i64, before: Option<&Arc<Submitter>>) -> rusqlite::Result<Option<Box<Rare>>> {
        let NewTask {
            key,
            not_before,
            expires_at,
            max_attempts,
            retry,
            by,
            audience,
            time_limit,
            lane,
            replace,
            attachment,
            made,
            ..
        } = &task.spec;
        let audience = audience.as_deref();
        let said = || by.as_ref().map(|by| (by.name.clone(), by.role.clone())).unwrap_or_default();
        let by = (by.as_ref() != before).then(said);
        let ago = newest.saturating_sub(task.accepted_at.0);
        let is_plain = ago == 0
            && key.is_none()
            && not_before.is_none()
            && expires_at.is_none()
            && max_attempts.is_none()
            && retry.is_none()
            && by.is_none()
            && audience.is_none()
            && time_limit.is_none()
            && replace.is_none()
            && lane.is_none()
            && attachment.is_nothing()
            && made.is_none();
        if is_plain {
            return Ok(None);
        }
        let rare = Rare {
            ago,
            key: key.clone(),
            not_before: not_before.map(|time| time.0),
            expires_at: expires_at.map(|time| time.0),
            max_attempts: *max_attempts,
            retry: retry.as_ref().map(|retry| retry.to_string()),
            by,
            limit: time_limit.map(|limit| (limit.millis, limit.fails)),
            replace: replace.as_deref().map(Replacing::of),
            lane: lane.as_ref().map(|lane| lane.as_str().to_owned()),
            headers: attachment.headers().clone(),
            data: size(attachment.data().len())?,
            made: made.as_ref().map(|made| (made.schedule.to_string(), made.moment.map(|at| at.0))),
            groups: match audience {
                Some(Audience::Groups(names)) => Some(names.iter().map(|name| name.as_str().to_owned()).collect()),
                _ => None,
            },
            select: match audience {
                Some(Audience::Matching(selector)) => Some(selector.to_string()),
                _ => None,
            },
        };
        Ok(Some(Box::new(rare)))
    }
}

impl Rare {
    /// See [`NewTask::waits_in`].
    fn waits_in(&self) -> Option<Cow<'_, str>> {
        let replace = || Some(Cow::Owned(Replace::new(&self.replace.as_ref()?.0, None).ok()?.lane().to_string()));
        self.lane.as_deref().map(Cow::Borrowed).or_else(replace)
    }

    fn audience(&self) -> rusqlite::Result<Option<Audience>> {
        if let Some(select) = &self.select {
            return select
                .parse()
                .map(|selector| Some(Audience::Matching(selector)))
                .map_err(|error| strange(6, error));
        }
        let Some(names) = &self.groups else { return Ok(None) };
        let names = names.iter().map(|name| Name::new(NameOf::Group, name)).collect::<Result<_, _>>();
        Ok(Some(Audience::groups(names.map_err(|error| strange(6, error))?)))
    }

    fn made(&self) -> rusqlite::Result<Option<Made>> {
        let Some((schedule, moment)) = &self.made else { return Ok(None) };
        let schedule = Name::new(NameOf::Schedule, schedule).map_err(|error| strange(6, error))?;
        Ok(Some(Made { schedule, moment: moment.map(Time) }))
    }
}

impl Chunk for TaskChunk {
    type Entry = Task;

    fn read(row: &Row<'_>) -> rusqlite::Result<TaskChunk> {
        let heads: Vec<Head> = json(row, 6)?;
        let (first, last) = (position(row, 1)?, position(row, 2)?);
        chunks::check(6, first, last, heads.iter().map(|head| head.0))?;
        let changes: Vec<(TaskId, Option<i64>, u8, Option<TaskId>)> = json(row, 8)?;
        let changed = |(id, expires_at, keyless, replaced_by)| {
            (id, Changed { expires_at, keyless: keyless != 0_u8, replaced_by })
        };
        let submitters = heads.iter().enumerate().filter_map(|(at, head)| {
            let (name, role) = head.3.as_ref()?.by.clone()?;
            Some((at, (!name.is_empty()).then(|| Arc::new(Submitter { name, role }))))
        });
        let submitters = submitters.collect();
        Ok(TaskChunk {
            segment: row.get(0)?,
            first,
            target: name(row, 3)?,
            priority: priority(row.get(4)?).ok_or_else(|| strange(4, "an unknown priority"))?,
            newest: row.get(5)?,
            heads,
            submitters,
            texts: row.get_ref(7)?.as_blob()?.to_vec(),
            changes: changes.into_iter().map(changed).collect(),
        })
    }

    fn segment(&self) -> i64 {
        self.segment
    }

    fn len(&self) -> usize {
        self.heads.len()
    }

    fn position(&self, at: usize) -> TaskId {
        self.first + self.heads[at].0
    }

    fn entry(&self, at: usize) -> rusqlite::Result<Task> {
        let Head(_, start, length, rare) = &self.heads[at];
        let id = self.position(at);
        let mut spec = NewTask {
            text: text(7, &self.texts, *start, *length)?.into(),
            to: self.target.clone(),
            priority: self.priority,
            by: self.submitter(at),
            ..NewTask::default()
        };
        let mut ago = 0;
        if let Some(rare) = rare {
            ago = rare.ago;
            spec.key.clone_from(&rare.key);
            spec.not_before = rare.not_before.map(Time);
            spec.expires_at = rare.expires_at.map(Time);
            spec.max_attempts = rare.max_attempts;
            let retry = rare.retry.as_deref().map(|retry| retry.parse::<Retry>()).transpose();
            spec.retry = retry.map_err(|error| strange(6, error))?.map(Box::new);
            spec.audience = rare.audience()?.map(Arc::new);
            spec.attachment = attachment(7, &self.texts, start.saturating_add(*length), &rare.headers, rare.data)?;
            spec.made = rare.made()?.map(Arc::new);
            spec.time_limit = rare.limit.map(|(millis, fails)| TimeLimit { millis, fails });
            let replaced_by = self.changes.get(&id).and_then(|changed| changed.replaced_by);
            spec.replace = rare.replace.as_ref().map(|replace| replace.read(replaced_by)).transpose()?;
            let lane = rare.lane.as_deref().map(|lane| Name::new(NameOf::Lane, lane)).transpose();
            spec.lane = lane.map_err(|error| strange(6, error))?;
        }
        if let Some(changed) = self.changes.get(&id) {
            spec.expires_at = changed.expires_at.map(Time);
            spec.key = spec.key.filter(|_| !changed.keyless);
        }
        Ok(Task { id, accepted_at: Time(self.newest.saturating_sub(ago)), spec })
    }
}

impl TaskChunk {
    /// Who submitted the task at this place.
    fn submitter(&self, at: usize) -> Option<Arc<Submitter>> {
        let until = self.submitters.partition_point(|(from, _)| *from <= at);
        self.submitters[..until].last()?.1.clone()
    }

    /// The ids of its tasks, and when they expire.
    pub(super) fn expiries(&self) -> impl Iterator<Item = (TaskId, Option<Time>)> {
        (0..self.len()).map(|at| {
            let written = || self.heads[at].3.as_ref().and_then(|rare| rare.expires_at);
            let id = self.position(at);
            (id, self.changes.get(&id).map_or_else(written, |changed| changed.expires_at).map(Time))
        })
    }

    /// The keys of its tasks, as they were written.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&str, TaskId)> {
        let key = |at: usize| Some((self.heads[at].3.as_ref()?.key.as_deref()?, self.position(at)));
        (0..self.len()).filter_map(key)
    }

    /// The tasks of it that replace others.
    pub(super) fn replacing(&self) -> impl Iterator<Item = rusqlite::Result<Task>> {
        let replaces = |at: &usize| self.heads[*at].3.as_ref().is_some_and(|rare| rare.replace.is_some());
        (0..self.len()).filter(replaces).map(|at| self.entry(at))
    }

    /// The lanes of its tasks, each once, and where these are noted.
    pub(super) fn lanes(&self) -> (BTreeSet<Cow<'_, str>>, &str, i64) {
        let lanes = self.heads.iter().filter_map(|head| head.3.as_ref()?.waits_in()).collect();
        (lanes, self.target.as_ref().map_or("", GroupName::as_str), priority_number(self.priority))
    }

    /// Whether the task at this place is in a lane.
    pub(super) fn is_in(&self, at: usize, lane: &str) -> bool {
        self.heads[at].3.as_ref().is_some_and(|rare| rare.waits_in().as_deref() == Some(lane))
    }

    /// Which of its tasks were changed.
    pub(super) fn changed(&self) -> impl Iterator<Item = TaskId> {
        self.changes.keys().copied().filter(|id| self.find(*id).is_some())
    }
}

/// The chunk that a task is in, and its place there.
pub(super) fn find(conn: &Connection, task: TaskId) -> rusqlite::Result<Option<(TaskChunk, usize)>> {
    chunks::find(&mut *conn.prepare_cached(AROUND)?, task)
}

/// The ids of those tasks of a block that are kept.
pub(super) fn ids_of_block(conn: &Connection, block: i64) -> rusqlite::Result<FxHashSet<TaskId>> {
    let mut select = conn.prepare_cached(OF_BLOCK)?;
    let (first, mut ids) = (block.saturating_mul(256), FxHashSet::default());
    let mut rows = select.query([first, first.saturating_add(255)])?;
    while let Some(row) = rows.next()? {
        let (from, heads) = (position(row, 0)?, json::<Vec<Head>>(row, 1)?);
        ids.extend(heads.iter().map(|head| from.saturating_add(head.0)));
    }
    Ok(ids)
}

/// The task with a key.
pub(super) fn keyed(conn: &Connection, key: &str) -> rusqlite::Result<Option<Task>> {
    let mut select = conn.prepare_cached("SELECT task_id FROM keys WHERE key = ?")?;
    let Some(id) = select.query_row([key], |row| row.get::<_, i64>(0)).optional()? else { return Ok(None) };
    find(conn, id as TaskId)?.map(|(chunk, at)| chunk.entry(at)).transpose()
}

/// The newest task of a slot.
pub(super) fn newest_of(conn: &Connection, slot: &Slot) -> rusqlite::Result<Option<Task>> {
    let mut select = conn.prepare_cached("SELECT task_id FROM slots WHERE key = ? AND address = ?")?;
    let id = select.query_row([&slot.key, &slot.address], |row| row.get::<_, i64>(0)).optional()?;
    let Some(id) = id else { return Ok(None) };
    find(conn, id as TaskId)?.map(|(chunk, at)| chunk.entry(at)).transpose()
}

/// How many tasks of a group (or for everyone) and a priority there are after a position, up to another.
pub(super) fn count(
    conn: &Connection,
    target: Option<&GroupName>,
    priority: Priority,
    after: TaskId,
    upto: TaskId,
) -> rusqlite::Result<u64> {
    let params = (target.map(GroupName::as_str), priority_number(priority), int(after), int(upto));
    let within = conn.prepare_cached(WITHIN)?.query_row(params, |row| row.get::<_, i64>(0))?;
    let mut count = within as u64;
    for chunk in conn.prepare_cached(ACROSS)?.query_map(params, TaskChunk::read)? {
        let chunk = chunk?;
        count += (0..chunk.len()).filter(|at| (after + 1..=upto).contains(&chunk.position(*at))).count() as u64;
    }
    Ok(count)
}

/// A chunk of tasks as it is written.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::store) struct TaskRow {
    pub(in crate::store) first: TaskId,
    pub(in crate::store) last: TaskId,
    pub(in crate::store) segment: TaskId,
    pub(in crate::store) count: u32,
    pub(in crate::store) target: Option<GroupName>,
    pub(in crate::store) priority: Priority,
    pub(in crate::store) newest: Time,
    /// JSON: a [`Head`] of each.
    pub(in crate::store) head: String,
    pub(in crate::store) texts: Vec<u8>,
    /// Those of its tasks, each once, in their order.
    pub(in crate::store) lanes: Vec<String>,
}

/// The chunks of tasks that follow one another.
pub(super) fn rows(tasks: &[Arc<Task>]) -> impl Iterator<Item = rusqlite::Result<TaskRow>> {
    segments(tasks).flat_map(|segment| chunks(segment).into_iter().map(|chunk| TaskRow::of(&chunk, segment[0].id)))
}

impl TaskRow {
    fn of(chunk: &[&Arc<Task>], segment: TaskId) -> rusqlite::Result<TaskRow> {
        let newest = chunk.iter().map(|task| task.accepted_at.0).max().unwrap_or(0);
        let mut texts = Vec::with_capacity(chunk.iter().map(|task| task.bytes()).sum());
        let mut heads = Vec::with_capacity(chunk.len());
        let (first, last) = (chunk[0], chunk[chunk.len() - 1]);
        let mut before = None;
        for task in chunk {
            let text = task.spec.text.as_bytes();
            heads.push(Head(
                task.id.checked_sub(first.id).ok_or_else(|| strange(6, "tasks out of order"))?,
                size(texts.len())?,
                size(text.len())?,
                Rare::of(task, newest, before)?,
            ));
            before = task.spec.by.as_ref();
            texts.extend_from_slice(text);
            texts.extend_from_slice(task.spec.attachment.data());
        }
        let lanes: BTreeSet<&str> = chunk.iter().filter_map(|task| Some(task.spec.waits_in()?.as_str())).collect();
        Ok(TaskRow {
            first: first.id,
            last: last.id,
            segment,
            count: size(chunk.len())?,
            target: first.spec.to.clone(),
            priority: first.spec.priority,
            newest: Time(newest),
            head: serde_json::to_string(&heads).map_err(|error| strange(7, error))?,
            texts,
            lanes: lanes.into_iter().map(str::to_owned).collect(),
        })
    }

    pub(super) fn write(&self, change: &Transaction<'_>) -> rusqlite::Result<()> {
        let TaskRow { first, last, segment, count, target, priority, newest, head, texts, lanes } = self;
        let (first, target, priority) =
            (int(*first), target.as_ref().map(GroupName::as_str), priority_number(*priority));
        let mut insert = change.prepare_cached(
            "INSERT INTO task_chunks (first, last, segment, count, target, priority, newest, head, texts)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?;
        insert.execute(params![first, int(*last), int(*segment), count, target, priority, newest.0, head, texts])?;
        if lanes.is_empty() {
            return Ok(());
        }
        let mut keep =
            change.prepare_cached("INSERT INTO lanes (lane, target, priority, first) VALUES (?, ?, ?, ?)")?;
        for lane in lanes {
            keep.execute(params![lane, target.unwrap_or(""), priority, first])?;
        }
        Ok(())
    }
}

/// Notes which task has a key.
pub(super) fn keep_key(change: &Transaction<'_>, key: &str, task: TaskId) -> rusqlite::Result<()> {
    change.prepare_cached("INSERT INTO keys (key, task_id) VALUES (?, ?)")?.execute(params![key, int(task)]).map(drop)
}

/// A task is the newest of its slot now, and has taken the place of another one, if it has.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::store) struct SlotTaken {
    pub(in crate::store) slot: Slot,
    pub(in crate::store) task: TaskId,
    pub(in crate::store) at: Time,
    pub(in crate::store) replaces: Option<TaskId>,
}

impl SlotTaken {
    pub(super) fn by(task: &Task) -> Option<SlotTaken> {
        let slot = Slot::of(&task.spec)?;
        Some(SlotTaken { slot, task: task.id, at: task.accepted_at, replaces: task.spec.replaces() })
    }

    pub(super) fn write(&self, change: &Transaction<'_>) -> rusqlite::Result<()> {
        let SlotTaken { slot, task, at, replaces } = self;
        let mut take = change.prepare_cached("REPLACE INTO slots (key, address, task_id) VALUES (?, ?, ?)")?;
        take.execute(params![slot.key, slot.address, int(*task)])?;
        let Some(old) = *replaces else { return Ok(()) };
        let Some((chunk, place)) = find(change, old)? else { return Ok(()) };
        let keyless = chunk.entry(place)?.spec.key.is_none();
        let mut replace = change
            .prepare_cached("REPLACE INTO changes (task_id, expires_at, keyless, replaced_by) VALUES (?, ?, ?, ?)")?;
        replace.execute(params![int(old), NewTask::cancelled(*at).0, keyless, int(*task)]).map(drop)
    }
}

/// Writes what the batch changes of tasks that stand in the log already.
pub(super) fn change(change: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let freed = batch.freed.iter().map(|id| (*id, None));
    for (id, expires_at) in freed.chain(batch.expiries.iter().map(|(id, at)| (*id, Some(*at)))) {
        let Some((chunk, at)) = find(change, id)? else { continue };
        let spec = chunk.entry(at)?.spec;
        if expires_at.is_none()
            && let Some(key) = &spec.key
        {
            change.prepare_cached("DELETE FROM keys WHERE key = ?")?.execute([key])?;
        }
        let keyless = expires_at.is_none() || spec.key.is_none();
        let expires_at = expires_at.unwrap_or(spec.expires_at).map(|time| time.0);
        let mut replace =
            change.prepare_cached("REPLACE INTO changes (task_id, expires_at, keyless) VALUES (?, ?, ?)")?;
        replace.execute(params![int(id), expires_at, keyless])?;
    }
    Ok(())
}
