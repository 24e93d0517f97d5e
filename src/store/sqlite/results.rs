//! Results in chunks.

use std::sync::Arc;

use rusqlite::{Connection, Row, Transaction, params};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::chunks::{self, Chunk, Ordered, attachment, is_default, json, position, size, strange, text};
use super::int;
use super::removal::has_tasks;
use crate::attachment::Headers;
use crate::store::chunk::{Entry as _, block_of, chunks, segments};
use crate::task::{GroupName, Name, NameOf, NewResult, Outcome, TaskId, TaskResult, Time};

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT segment, first, last, first_task, newest, names, head, texts FROM result_chunks WHERE ", $rest)
    };
}
/// The chunks from that on in which there may be something after a position.
pub(super) const AFTER: &str = select!(
    "first >= coalesce((SELECT segment FROM result_chunks WHERE first <= ?1 ORDER BY first DESC LIMIT 1), 0) ORDER BY first"
);
/// The chunks in which a result may be.
pub(super) const AROUND: &str = select!(
    "first <= ?1 AND last >= ?1
        AND first >= (SELECT segment FROM result_chunks WHERE first <= ?1 ORDER BY first DESC LIMIT 1) ORDER BY first DESC"
);
/// The chunks in which something may be that came of a task. Those of one block do not overlap.
pub(super) const OF_TASK: &str = select!("block = ?1 AND first_task <= ?2 AND last_task >= ?2 ORDER BY first");
pub(super) const OF_TASK_LATEST: &str =
    select!("block = ?1 AND first_task <= ?2 AND last_task >= ?2 ORDER BY first DESC");

/// The chunk that begins with a result.
pub(super) const AT: &str = select!("first = ?1");
/// The next chunk of a block after a position and up to another, unless it is stray.
pub(super) const OF_BLOCK: &str =
    select!("block = ?1 AND first > ?2 AND first <= ?3 AND stray = 0 ORDER BY first LIMIT 1");

/// A chunk of results.
#[derive(Debug)]
pub(super) struct ResultChunk {
    segment: i64,
    first: u64,
    first_task: TaskId,
    newest: i64,
    /// Of groups and clients. Those that are of groups are checked names as well.
    names: Vec<(Arc<str>, Option<GroupName>)>,
    heads: Vec<Head>,
    texts: Vec<u8>,
}

/// A result in the head of its chunk: its distance from the first; where its text begins, and how long it is; which task, from
/// the lowest; places of the names of group and client; the outcome; by how many milliseconds it came before the newest; what only
/// some have.
#[derive(Debug, Serialize, Deserialize)]
struct Head(
    u64,
    u32,
    u32,
    u64,
    Option<u32>,
    u32,
    u8,
    i64,
    #[serde(default, skip_serializing_if = "Option::is_none")] Option<Box<Rare>>,
);

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rare {
    #[serde(skip_serializing_if = "is_one")]
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<i64>,
    #[serde(skip_serializing_if = "is_default")]
    late: u8,
    #[serde(skip_serializing_if = "Headers::is_empty")]
    headers: Headers,
    /// How many bytes of data stand behind its text.
    #[serde(skip_serializing_if = "is_default")]
    data: u32,
}

impl Default for Rare {
    fn default() -> Rare {
        Rare { attempt: 1, not_before: None, late: 0, headers: Headers::default(), data: 0 }
    }
}

fn is_one(number: &u32) -> bool {
    *number == 1
}

impl Rare {
    fn of(result: &NewResult) -> rusqlite::Result<Option<Box<Rare>>> {
        let NewResult { attempt, not_before, late, attachment, .. } = result;
        if *attempt == 1 && not_before.is_none() && !late && attachment.is_nothing() {
            return Ok(None);
        }
        Ok(Some(Box::new(Rare {
            attempt: *attempt,
            not_before: not_before.map(|time| time.0),
            late: (*late).into(),
            headers: attachment.headers().clone(),
            data: size(attachment.data().len())?,
        })))
    }
}

impl Chunk for ResultChunk {
    type Entry = TaskResult;

    fn read(row: &Row<'_>) -> rusqlite::Result<ResultChunk> {
        let heads: Vec<Head> = json(row, 6)?;
        let (first, last) = (position(row, 1)?, position(row, 2)?);
        chunks::check(6, first, last, heads.iter().map(|head| head.0))?;
        let names: Vec<String> = json(row, 5)?;
        let mut names: Vec<_> = names.into_iter().map(|name| (Arc::<str>::from(name), None)).collect();
        for Head(_, _, _, _, group, client, ..) in &heads {
            if *client as usize >= names.len() {
                return Err(strange(6, "a client without a name"));
            }
            if let Some(place) = group {
                let (text, group) =
                    names.get_mut(*place as usize).ok_or_else(|| strange(6, "a group without a name"))?;
                if group.is_none() {
                    *group = Some(Name::new(NameOf::Group, text).map_err(|error| strange(5, error))?);
                }
            }
        }
        Ok(ResultChunk {
            segment: row.get(0)?,
            first,
            first_task: position(row, 3)?,
            newest: row.get(4)?,
            names,
            heads,
            texts: row.get_ref(7)?.as_blob()?.to_vec(),
        })
    }

    fn segment(&self) -> i64 {
        self.segment
    }

    fn len(&self) -> usize {
        self.heads.len()
    }

    fn position(&self, at: usize) -> u64 {
        self.first + self.heads[at].0
    }

    fn entry(&self, at: usize) -> rusqlite::Result<TaskResult> {
        let Head(_, start, length, _, group, client, outcome, ago, rare) = &self.heads[at];
        let beside = |rare: &Rare| attachment(7, &self.texts, start.saturating_add(*length), &rare.headers, rare.data);
        let result = NewResult {
            attachment: rare.as_deref().map(beside).transpose()?.unwrap_or_default(),
            task: self.task(at),
            group: group.and_then(|place| self.names[place as usize].1.clone()),
            client: self.names[*client as usize].0.clone(),
            attempt: rare.as_ref().map_or(1, |rare| rare.attempt),
            outcome: Outcome::from_number((*outcome).into()).ok_or_else(|| strange(6, "an unknown outcome"))?,
            ret: text(7, &self.texts, *start, *length)?.into(),
            at: Time(self.newest.saturating_sub(*ago)),
            not_before: rare.as_ref().and_then(|rare| rare.not_before).map(Time),
            late: rare.as_ref().is_some_and(|rare| rare.late != 0),
        };
        Ok(TaskResult { seq: self.position(at), result })
    }
}

impl ResultChunk {
    /// The task that its result at this place is of.
    pub(super) fn task(&self, at: usize) -> TaskId {
        self.first_task.saturating_add(self.heads[at].3)
    }

    /// Whether a task may have been given up by its result at this place.
    pub(super) fn is_dead(&self, at: usize) -> bool {
        Outcome::from_number(self.heads[at].6.into()).is_some_and(Outcome::is_dead)
    }

    /// The places of what came of one task.
    fn places_of(&self, task: TaskId) -> impl DoubleEndedIterator<Item = usize> {
        (0..self.len()).filter(move |at| self.task(*at) == task)
    }
}

/// What of all that came of a task.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// All of it, in order.
    All,
    /// The same without what was said.
    WithoutTexts,
    /// As many of the last, newest first.
    Latest(usize),
}

/// What came of a task.
pub(super) fn of_task(conn: &Connection, task: TaskId, what: What) -> rusqlite::Result<Vec<TaskResult>> {
    let (sql, limit) = match what {
        What::All | What::WithoutTexts => (OF_TASK, usize::MAX),
        What::Latest(limit) => (OF_TASK_LATEST, limit),
    };
    let mut select = conn.prepare_cached(sql)?;
    let mut found = Vec::new();
    let mut chunks = select.query_map([block_of(task), int(task)], ResultChunk::read)?;
    while found.len() < limit
        && let Some(chunk) = chunks.next().transpose()?
    {
        let mut places: Vec<usize> = chunk.places_of(task).collect();
        if matches!(what, What::Latest(_)) {
            places.reverse();
        }
        places.truncate(limit - found.len());
        for at in places {
            let mut entry = chunk.entry(at)?;
            if what == What::WithoutTexts {
                entry.result.say_nothing();
            }
            found.push(entry);
        }
    }
    Ok(found)
}

/// Where a task stands with a group: the last outcome that was not late. That an operator has seen a dead letter changes nothing.
pub(super) fn last_outcome(conn: &Connection, group: &GroupName, task: TaskId) -> rusqlite::Result<Option<Outcome>> {
    let mut select = conn.prepare_cached(OF_TASK_LATEST)?;
    for chunk in select.query_map([block_of(task), int(task)], ResultChunk::read)? {
        let chunk = chunk?;
        for at in chunk.places_of(task).rev() {
            let result = chunk.entry(at)?.result;
            if result.group.as_ref() == Some(group) && !result.late && result.outcome != Outcome::Dropped {
                return Ok(Some(result.outcome));
            }
        }
    }
    Ok(None)
}

/// The results of named groups after `mark`.
pub(super) fn replay(conn: &Connection, mark: u64) -> rusqlite::Result<Vec<TaskResult>> {
    let mut select = conn.prepare(AFTER)?;
    let after = Ordered::<ResultChunk>::after(select.query([int(mark)])?, mark);
    after.filter(|entry| entry.as_ref().map_or(true, |entry| entry.result.group.is_some())).collect()
}

/// A chunk of results as it is written: at least one, all of one block.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::store) struct ResultRow {
    pub(in crate::store) first: u64,
    pub(in crate::store) last: u64,
    pub(in crate::store) segment: u64,
    pub(in crate::store) count: u32,
    pub(in crate::store) first_task: TaskId,
    pub(in crate::store) last_task: TaskId,
    pub(in crate::store) newest: Time,
    /// JSON: the names in it.
    pub(in crate::store) names: String,
    /// JSON: a [`Head`] of each.
    pub(in crate::store) head: String,
    pub(in crate::store) texts: Vec<u8>,
}

/// The chunks of results that follow one another.
pub(super) fn rows(results: &[TaskResult]) -> impl Iterator<Item = rusqlite::Result<ResultRow>> {
    segments(results).flat_map(|segment| chunks(segment).into_iter().map(|chunk| ResultRow::of(&chunk, segment[0].seq)))
}

impl ResultRow {
    pub(super) fn of(chunk: &[&TaskResult], segment: u64) -> rusqlite::Result<ResultRow> {
        let tasks = || chunk.iter().map(|entry| entry.result.task);
        let (first_task, last_task) = (tasks().min().unwrap_or(0), tasks().max().unwrap_or(0));
        let newest = chunk.iter().map(|entry| entry.result.at.0).max().unwrap_or(0);
        let mut names = Names::default();
        let mut texts = Vec::with_capacity(chunk.iter().map(|entry| entry.bytes()).sum());
        let mut heads = Vec::with_capacity(chunk.len());
        let (first, last) = (chunk[0].seq, chunk[chunk.len() - 1].seq);
        for TaskResult { seq, result } in chunk.iter().copied() {
            heads.push(Head(
                seq.checked_sub(first).ok_or_else(|| strange(6, "results out of order"))?,
                size(texts.len())?,
                size(result.ret.len())?,
                result.task - first_task,
                result.group.as_ref().map(|group| names.place(group.as_str())),
                names.place(&result.client),
                result.outcome as u8,
                newest.saturating_sub(result.at.0),
                Rare::of(result)?,
            ));
            texts.extend_from_slice(result.ret.as_bytes());
            texts.extend_from_slice(result.attachment.data());
        }
        let json = |result: serde_json::Result<String>| result.map_err(|error| strange(6, error));
        Ok(ResultRow {
            first,
            last,
            segment,
            count: size(chunk.len())?,
            first_task,
            last_task,
            newest: Time(newest),
            names: json(serde_json::to_string(&names.list))?,
            head: json(serde_json::to_string(&heads))?,
            texts,
        })
    }

    /// Writes what came of tasks now: those of the same transaction are written already.
    pub(super) fn append(&self, change: &Transaction<'_>) -> rusqlite::Result<()> {
        let stray = !has_tasks(change, block_of(self.first_task))?;
        self.write(change, stray)
    }

    pub(super) fn write(&self, change: &Transaction<'_>, stray: bool) -> rusqlite::Result<()> {
        let ResultRow { first, last, segment, count, first_task, last_task, newest, names, head, texts } = self;
        let block = block_of(*first_task);
        let mut insert = change.prepare_cached(
            "INSERT INTO result_chunks
                (first, last, segment, count, block, first_task, last_task, stray, newest, names, head, texts)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?;
        let (first, last, segment) = (int(*first), int(*last), int(*segment));
        let (first_task, last_task) = (int(*first_task), int(*last_task));
        insert.execute(params![
            first, last, segment, count, block, first_task, last_task, stray, newest.0, names, head, texts
        ])?;
        Ok(())
    }
}

/// Names, each once.
#[derive(Default)]
struct Names<'a> {
    list: Vec<&'a str>,
    places: FxHashMap<&'a str, u32>,
}

impl<'a> Names<'a> {
    fn place(&mut self, name: &'a str) -> u32 {
        *self.places.entry(name).or_insert_with(|| {
            self.list.push(name);
            self.list.len() as u32 - 1
        })
    }
}
