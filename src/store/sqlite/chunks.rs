//! What chunks of tasks and of results have in common: how they are read.

use std::error::Error;
use std::iter;

use rusqlite::types::Type;
use rusqlite::{Row, Rows, Statement};
use serde::de::DeserializeOwned;

use super::int;
use crate::attachment::{Attachment, Headers};
use crate::task::{GroupName, Name, NameOf};

/// A chunk as it was read: entries in the order of their positions.
pub(super) trait Chunk: Sized {
    /// What stands in it.
    type Entry;

    fn read(row: &Row<'_>) -> rusqlite::Result<Self>;

    /// The position at which its segment begins.
    fn segment(&self) -> i64;

    fn len(&self) -> usize;

    /// The position of its entry at this place.
    fn position(&self, at: usize) -> u64;

    fn entry(&self, at: usize) -> rusqlite::Result<Self::Entry>;

    /// The place of the entry with this position.
    fn find(&self, position: u64) -> Option<usize> {
        let (mut at, mut end) = (0, self.len());
        while at < end {
            let middle = at + (end - at) / 2;
            if self.position(middle) < position { at = middle + 1 } else { end = middle }
        }
        (at < self.len() && self.position(at) == position).then_some(at)
    }
}

/// The chunk that an entry is in, and its place there, out of those in which it may be.
pub(super) fn find<C: Chunk>(around: &mut Statement<'_>, position: u64) -> rusqlite::Result<Option<(C, usize)>> {
    for chunk in around.query_map([int(position)], C::read)? {
        let chunk = chunk?;
        if let Some(at) = chunk.find(position) {
            return Ok(Some((chunk, at)));
        }
    }
    Ok(None)
}

/// The entries of chunks that do not overlap, one after another: those that `wants`, by their places.
pub(super) fn entries<C: Chunk>(
    chunks: impl Iterator<Item = rusqlite::Result<C>>,
    after: u64,
    upto: u64,
    wants: impl Fn(&C, usize) -> bool + Copy,
) -> impl Iterator<Item = rusqlite::Result<C::Entry>> {
    chunks.flat_map(move |chunk| {
        let (chunk, error) = match chunk {
            Ok(chunk) => (Some(chunk), None),
            Err(error) => (None, Some(error)),
        };
        let entries = chunk.into_iter().flat_map(move |chunk| {
            let is_wanted =
                |at: &usize| after < chunk.position(*at) && chunk.position(*at) <= upto && wants(&chunk, *at);
            let wanted: Vec<usize> = (0..chunk.len()).filter(is_wanted).collect();
            wanted.into_iter().map(move |at| chunk.entry(at))
        });
        entries.chain(error.map(Err))
    })
}

/// Entries in the order of their positions, out of chunks that come segment by segment.
pub(super) struct Ordered<'s, C> {
    chunks: Rows<'s>,
    /// The first chunk of the next segment.
    next: Option<C>,
    /// The chunks of this one, and what is left of it: position, chunk, place. The next one last.
    segment: Vec<C>,
    left: Vec<(u64, usize, usize)>,
    after: u64,
    before: u64,
    backwards: bool,
    ended: bool,
}

impl<'s, C: Chunk> Ordered<'s, C> {
    /// What comes after a position, out of chunks in their order.
    pub(super) fn after(chunks: Rows<'s>, after: u64) -> Ordered<'s, C> {
        Ordered::new(chunks, after, u64::MAX, false)
    }

    /// What comes before a position, newest first, out of chunks in the reverse of their order.
    pub(super) fn before(chunks: Rows<'s>, before: u64) -> Ordered<'s, C> {
        Ordered::new(chunks, 0, before, true)
    }

    fn new(chunks: Rows<'s>, after: u64, before: u64, backwards: bool) -> Ordered<'s, C> {
        let (next, segment, left, ended) = (None, Vec::new(), Vec::new(), false);
        Ordered { chunks, next, segment, left, after, before, backwards, ended }
    }

    /// Reads the next segment; `false`: there is none.
    fn read(&mut self) -> rusqlite::Result<bool> {
        self.segment.clear();
        self.segment.extend(self.next.take());
        while let Some(row) = self.chunks.next()? {
            let chunk = C::read(row)?;
            if self.segment.first().is_some_and(|first| first.segment() != chunk.segment()) {
                self.next = Some(chunk);
                break;
            }
            self.segment.push(chunk);
        }
        let places = self.segment.iter().enumerate().flat_map(|(n, chunk)| {
            let place = move |at| (chunk.position(at), n, at);
            (0..chunk.len()).map(place)
        });
        self.left = places.filter(|(position, ..)| self.after < *position && *position < self.before).collect();
        self.left.sort_unstable();
        if !self.backwards {
            self.left.reverse();
        }
        Ok(!self.segment.is_empty())
    }
}

impl<C: Chunk> Iterator for Ordered<'_, C> {
    type Item = rusqlite::Result<C::Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            if let Some((_, n, at)) = self.left.pop() {
                return Some(self.segment[n].entry(at));
            }
            match self.read() {
                Ok(is_there) => self.ended = !is_there,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// Two sequences, each in the order of positions, as one.
pub(super) fn merge<T>(
    a: impl Iterator<Item = rusqlite::Result<T>>,
    b: impl Iterator<Item = rusqlite::Result<T>>,
    position: fn(&T) -> u64,
) -> impl Iterator<Item = rusqlite::Result<T>> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    iter::from_fn(move || {
        let takes_a = match (a.peek(), b.peek()) {
            (Some(Ok(a)), Some(Ok(b))) => position(a) < position(b),
            (_, None) | (Some(Err(_)), _) => true,
            (None, _) | (_, Some(Err(_))) => false,
        };
        if takes_a { a.next() } else { b.next() }
    })
}

/// Whether positions are as they must be: in order, from the first to the last.
pub(super) fn check(
    column: usize,
    first: u64,
    last: u64,
    mut distances: impl Iterator<Item = u64>,
) -> rusqlite::Result<()> {
    let wrong = || strange(column, "entries out of order");
    let mut before = distances.next().filter(|distance| *distance == 0).ok_or_else(wrong)?;
    for distance in distances {
        if distance <= before {
            return Err(wrong());
        }
        before = distance;
    }
    if last.checked_sub(first) == Some(before) { Ok(()) } else { Err(wrong()) }
}

/// The position in a column.
pub(super) fn position(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|error| strange(column, error))
}

/// A text out of those of the chunk.
pub(super) fn text(column: usize, texts: &[u8], start: u32, length: u32) -> rusqlite::Result<&str> {
    std::str::from_utf8(part(column, texts, start, length)?).map_err(|error| strange(column, error))
}

fn part(column: usize, texts: &[u8], start: u32, length: u32) -> rusqlite::Result<&[u8]> {
    let part = texts.get(start as usize..(start as usize).saturating_add(length as usize));
    part.ok_or_else(|| strange(column, "a text that ends too early"))
}

/// What an entry has beside its text, which ends at `end`: the headers in its head, and so many bytes of data behind its text.
pub(super) fn attachment(
    column: usize,
    texts: &[u8],
    end: u32,
    headers: &Headers,
    data: u32,
) -> rusqlite::Result<Attachment> {
    Ok(Attachment::new(headers.clone(), part(column, texts, end, data)?.to_vec()))
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A number of bytes. No message is as long as 4 GiB.
pub(super) fn size(bytes: usize) -> rusqlite::Result<u32> {
    u32::try_from(bytes).map_err(|error| strange(0, error))
}

/// The JSON in a column.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| strange(column, error))
}

/// The name in a column, if there is one.
pub(super) fn name(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<GroupName>> {
    let name = row.get_ref(column)?.as_str_or_null()?;
    name.map(|name| Name::new(NameOf::Group, name)).transpose().map_err(|error| strange(column, error))
}

/// What stands in the column is not what it should be.
pub(super) fn strange(column: usize, what: impl Into<Box<dyn Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, what.into())
}
