//! What a task prints while its clients are at work on it.

use std::collections::BTreeMap;

use console::strip_ansi_codes;
use futures::executor::block_on;
use futures::{FutureExt as _, StreamExt as _, select};
use grpcio::CallOption;
use serde::Serialize;

use super::Error;
use super::interrupt::Interrupt;
use super::link::Link;
use super::manage::ledger_of;
use super::out::Out;
use super::rows::enum_name;
use super::words::count;
use crate::attachment::to_base64;
use crate::wire::control as pb;

/// Groups of which it is said how it ended.
const NAMED: usize = 16;
/// A line without an end is printed in parts of this many bytes.
const LONGEST_LINE: usize = 64 << 10;

/// A part of it, for a program.
#[derive(Serialize)]
struct Part<'a> {
    task: u64,
    group: &'a str,
    client: &'a str,
    attempt: u32,
    /// How many bytes were printed before these.
    from: u64,
    /// What was printed; as it is, since it may be no text.
    base64: String,
    /// The client does not say what it prints.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    silent: bool,
}

/// Prints what comes of it, until its groups, or this one, have settled it.
pub(super) fn follow(link: &Link, id: u64, group: Option<&str>, out: Out) -> Result<(), Error> {
    // A task that is for one group has nothing to tell apart.
    let named = group.is_none() && block_on(ledger_of(link, id))?.groups.len() > 1;
    let mut printer = Printer { out, id, named, of: BTreeMap::new() };
    let followed = block_on(pieces(link, id, group, &mut printer));
    printer.end()?;
    followed?;
    let ledger = block_on(ledger_of(link, id))?;
    for it in ledger.groups.iter().filter(|it| group.is_none_or(|group| it.group == group)).take(NAMED) {
        let word = it.outcome.map_or_else(|| enum_name(it.state), enum_name).to_lowercase();
        let by = if it.client.is_empty() { String::new() } else { format!(", by {}", it.client) };
        printer.out.remark(&format!("{}: {word}{by}, attempt {}", it.group, it.attempt));
    }
    Ok(())
}

async fn pieces(link: &Link, id: u64, group: Option<&str>, printer: &mut Printer) -> Result<(), Error> {
    let request = pb::WatchOutputRequest { id, group: group.unwrap_or_default().to_owned(), ..Default::default() };
    let mut interrupt = Interrupt::watch()?.fuse();
    let call = link.client.watch_output(&request, CallOption::default());
    let mut pieces = call.map_err(|e| link.error(e))?.fuse();
    loop {
        let piece = select! {
            piece = pieces.next() => piece,
            () = interrupt => {
                printer.out.remark(&format!("task {id} goes on: contactctl task {id}, or contactctl cancel {id}"));
                return Err(Error::Interrupted);
            }
        };
        let Some(piece) = piece else { return Ok(()) };
        printer.piece(&piece.map_err(|e| link.error(e))?)?;
    }
}

struct Printer {
    out: Out,
    id: u64,
    /// Lines begin with the name of their group.
    named: bool,
    of: BTreeMap<String, Of>,
}

/// What one group prints.
#[derive(Default)]
struct Of {
    client: String,
    attempt: u32,
    /// How many bytes of it came, or were missed.
    next: u64,
    /// A line that has no end yet.
    line: Vec<u8>,
}

impl Printer {
    fn piece(&mut self, piece: &pb::TaskOutput) -> Result<(), Error> {
        if self.out.json {
            let pb::TaskOutput { group, client, attempt, from, bytes, silent, .. } = piece;
            let (task, base64) = (self.id, to_base64(bytes));
            let part = Part { task, group, client, attempt: *attempt, from: *from, base64, silent: *silent };
            return Ok(self.out.object(&part, "")?);
        }
        let mut of = self.of.remove(&piece.group).unwrap_or_default();
        if (&of.client, of.attempt) != (&piece.client, piece.attempt) {
            self.line(&piece.group, &std::mem::take(&mut of.line))?;
            of = Of { client: piece.client.clone(), attempt: piece.attempt, ..Of::default() };
            let silent = if piece.silent { "; its client does not say what it prints" } else { "" };
            self.out.remark(&format!("{}: with {}, attempt {}{silent}", piece.group, piece.client, piece.attempt));
        }
        if piece.from > of.next {
            self.line(&piece.group, &std::mem::take(&mut of.line))?;
            self.out.remark(&format!("{}: {} before this", piece.group, count(piece.from - of.next, "byte")));
        }
        if !piece.bytes.is_empty() {
            of.next = piece.from + piece.bytes.len() as u64;
        }
        for part in piece.bytes.split_inclusive(|byte| *byte == b'\n') {
            of.line.extend(part);
            if part.ends_with(b"\n") || of.line.len() >= LONGEST_LINE {
                self.line(&piece.group, &std::mem::take(&mut of.line))?;
            }
        }
        self.of.insert(piece.group.clone(), of);
        Ok(self.out.flush()?)
    }

    /// Prints a line as a terminal would show it at its end, without colours.
    fn line(&mut self, group: &str, line: &[u8]) -> Result<(), Error> {
        if line.is_empty() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\r', '\n']);
        let text = strip_ansi_codes(text.rsplit('\r').next().unwrap_or_default()).replace('\t', "    ");
        let name = if self.named { format!("{group}: ") } else { String::new() };
        Ok(self.out.text(&format!("{name}{text}"))?)
    }

    fn end(&mut self) -> Result<(), Error> {
        for (group, of) in std::mem::take(&mut self.of) {
            self.line(&group, &of.line)?;
        }
        Ok(self.out.flush()?)
    }
}
