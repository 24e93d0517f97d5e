//! What stands in the log, as bytes: `proto/log.proto`.

use std::io;

use protobuf::Message as _;
use protobuf::MessageField;

use super::convert;
use crate::codec::{self, Unreadable};
use crate::store::{Appended, Batch, Cut, GroupState, Removal};
use crate::wire::log as pb;
use crate::wire::log::record::Kind as PbKind;

/// The newest version of records that is read.
pub const VERSION: u32 = 5;

/// Most bytes in one message of the log: NATS takes up to 1 MiB with its headers, unless it is set otherwise.
pub const LONGEST_MESSAGE: usize = 900_000;
/// What a message takes beside the bytes of a part.
const BESIDE_PART: usize = 64;
/// Bytes of a file in one message.
pub(super) const FILE_PART: usize = LONGEST_MESSAGE - BESIDE_PART;
/// Most parts of one record: what a transaction holds at most, several times.
const MOST_PARTS: u32 = 1_024;

/// One entry of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Which term it is of: a random number. No two terms that ever were tried have the same.
    pub term: u64,
    /// Its place among the messages of the term, from 1. With the term it makes the bytes of each message unlike those of any other.
    pub number: u64,
    /// What it says.
    pub kind: Kind,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// What one transaction writes; its tasks and results as they are appended.
    Batch(Batch, Appended),
    /// What one transaction removes.
    Removal(Removal),
    /// All that is kept beside tasks, results and statuses, in the place of what there was; and what was said of the log before a cut.
    State(Batch, Option<Cut>),
    /// A term begins; who leads in it.
    Lead(String),
    /// The term is over.
    Resign,
    /// The term goes on.
    Nothing,
    /// A part of a record that is too long for one message.
    Part(Part),
    /// A part of a database, which with the last one is all that there is.
    File(FilePart),
}

impl Kind {
    /// Whether something else may be granted with it.
    pub(super) fn changes_grants(&self) -> bool {
        match self {
            Kind::Batch(batch, _) => !batch.grants.is_empty(),
            Kind::State(..) => true,
            _ => false,
        }
    }

    /// The version that whoever reads it must know.
    fn version(&self) -> u32 {
        match self {
            Kind::File(_) => 2,
            Kind::Batch(batch, appended) => version_of(batch, appended),
            // A server that reads the log from the cut on would leave them out.
            Kind::State(batch, Some(cut)) if !cut.rows.is_empty() => version_of(batch, &Appended::default()).max(4),
            Kind::State(batch, _) => version_of(batch, &Appended::default()),
            _ => 1,
        }
    }
}

/// Without the fifth one a server would forget what is granted, without the third one leave out what is appended. Without the second one it would give out what waits in a lane, or was
/// replaced, and forget what was scheduled.
fn version_of(batch: &Batch, appended: &Appended) -> u32 {
    if !batch.grants.is_empty() {
        5
    } else if *appended != Appended::default() {
        3
    } else if has_policies(batch) {
        2
    } else {
        1
    }
}

/// Some bytes of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePart {
    /// Bytes before these.
    pub offset: u64,
    /// Bytes of all of it.
    pub size: u64,
    /// These.
    pub bytes: Vec<u8>,
}

impl FilePart {
    /// Whether all of it is there with these.
    pub fn is_last(&self) -> bool {
        self.offset + self.bytes.len() as u64 == self.size
    }
}

/// Some bytes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    place: u32,
    count: u32,
    bytes: Vec<u8>,
}

/// Why a message of the log is no record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A later version of Contact wrote it.
    #[error(
        "the log has records of version {found}, and this server knows versions up to {known}: run the version of Contact that wrote them"
    )]
    Newer {
        /// Its version.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// It is something else.
    #[error("the log holds what is no record of Contact ({0}): another program may have written to its stream")]
    Strange(String),
}

impl From<Unreadable> for RecordError {
    fn from(error: Unreadable) -> RecordError {
        RecordError::Strange(error.to_string())
    }
}

/// The messages of a record, of which most have one. `number` is that of the last message before them, and becomes that of the last
/// of them.
pub(super) fn messages(term: u64, number: &mut u64, kind: &Kind) -> io::Result<Vec<Vec<u8>>> {
    let cut = match kind {
        Kind::State(_, Some(cut)) => Some(convert::cut(cut)?),
        _ => None,
    };
    messages_of(term, number, kind.version(), kind_to_pb(kind)?, cut)
}

/// Those of a [`Kind::Batch`].
pub(super) fn batch_messages(
    term: u64,
    number: &mut u64,
    batch: &Batch,
    appended: &Appended,
) -> io::Result<Vec<Vec<u8>>> {
    messages_of(term, number, version_of(batch, appended), PbKind::Batch(convert::batch(batch, appended)?), None)
}

fn messages_of(
    term: u64,
    number: &mut u64,
    version: u32,
    kind: PbKind,
    cut: Option<pb::Cut>,
) -> io::Result<Vec<Vec<u8>>> {
    let mut message = |kind, cut: Option<pb::Cut>| {
        *number += 1;
        let (kind, cut) = (Some(kind), cut.into());
        let record = pb::Record { version, term, number: *number, kind, cut, ..pb::Record::new() };
        record.write_to_bytes().map_err(io::Error::other)
    };
    let whole = message(kind, cut)?;
    if whole.len() <= LONGEST_MESSAGE {
        return Ok(vec![whole]);
    }
    let parts = whole.chunks(LONGEST_MESSAGE - BESIDE_PART);
    let count = u32::try_from(parts.len()).ok().filter(|count| *count <= MOST_PARTS);
    let count = count.ok_or_else(|| io::Error::other(format!("a transaction of {} bytes is too long", whole.len())))?;
    let part = |(place, bytes): (usize, &[u8])| pb::Part {
        place: place as u32,
        count,
        bytes: bytes.to_vec(),
        ..pb::Part::new()
    };
    parts.enumerate().map(|part_of| message(PbKind::Part(part(part_of)), None)).collect()
}

/// Whether a schedule is in it; or a group that has limits, or tasks that wait in lanes.
fn has_policies(batch: &Batch) -> bool {
    let limits = |group: &GroupState| !group.limits.is_default() || !group.lanes.is_empty();
    let mut open = batch.open.values().flat_map(|rows| rows.values().flatten());
    !batch.schedules.is_empty() || batch.groups.values().any(limits) || open.any(|task| task.lane.is_some())
}

fn kind_to_pb(kind: &Kind) -> io::Result<PbKind> {
    Ok(match kind {
        Kind::Batch(batch, appended) => PbKind::Batch(convert::batch(batch, appended)?),
        Kind::State(batch, _) => PbKind::State(convert::batch(batch, &Appended::default())?),
        Kind::Removal(removal) => PbKind::Removal(convert::removal(removal)),
        Kind::Lead(server) => PbKind::Lead(pb::Lead { server: server.clone(), ..pb::Lead::new() }),
        Kind::Resign => PbKind::Resign(pb::Resign::new()),
        Kind::Nothing => PbKind::Nothing(pb::Nothing::new()),
        Kind::File(FilePart { offset, size, bytes }) => {
            PbKind::File(pb::File { offset: *offset, size: *size, bytes: bytes.clone(), ..pb::File::new() })
        }
        Kind::Part(Part { place, count, bytes }) => {
            PbKind::Part(pb::Part { place: *place, count: *count, bytes: bytes.clone(), ..pb::Part::new() })
        }
    })
}

impl Record {
    /// Reads a message of the log.
    pub fn read(bytes: &[u8]) -> Result<Record, RecordError> {
        let record: pb::Record = codec::read(&mut &*bytes, bytes.len())?;
        if record.version > VERSION {
            return Err(RecordError::Newer { found: record.version, known: VERSION });
        }
        if record.version == 0 {
            return Err(RecordError::Strange("it has no version".into()));
        }
        let strange = |why: String| RecordError::Strange(why);
        let kind = match record.kind {
            Some(PbKind::Batch(batch)) => {
                let (batch, appended) = convert::read_batch(batch).map_err(strange)?;
                Kind::Batch(batch, appended)
            }
            Some(PbKind::State(batch)) => {
                let cut = record.cut.0.map(|cut| convert::read_cut(*cut)).transpose().map_err(strange)?;
                Kind::State(convert::read_batch(batch).map_err(strange)?.0, cut)
            }
            Some(PbKind::Removal(removal)) => Kind::Removal(convert::read_removal(removal)),
            Some(PbKind::Lead(lead)) => Kind::Lead(lead.server),
            Some(PbKind::Resign(_)) => Kind::Resign,
            Some(PbKind::Nothing(_)) => Kind::Nothing,
            Some(PbKind::Part(pb::Part { place, count, bytes, .. })) => {
                if place >= count || count > MOST_PARTS {
                    return Err(strange(format!("part {place} of {count}")));
                }
                Kind::Part(Part { place, count, bytes })
            }
            Some(PbKind::File(pb::File { offset, size, bytes, .. })) => {
                if bytes.is_empty() || offset.checked_add(bytes.len() as u64).is_none_or(|end| end > size) {
                    return Err(strange(format!("{} bytes behind {offset} of {size}", bytes.len())));
                }
                Kind::File(FilePart { offset, size, bytes })
            }
            None => return Err(strange("it says nothing".into())),
        };
        Ok(Record { term: record.term, number: record.number, kind })
    }
}

/// Puts records together of their parts.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    term: u64,
    next: u32,
    bytes: Vec<u8>,
}

impl Gathering {
    /// Takes the next record of the log. `None`: it is a part, and not the last, or one whose beginning is void.
    pub(super) fn take(&mut self, record: Record) -> Result<Option<Kind>, RecordError> {
        let Kind::Part(part) = record.kind else {
            *self = Gathering::default();
            return Ok(Some(record.kind));
        };
        if part.place == 0 {
            *self = Gathering { term: record.term, ..Gathering::default() };
        } else if self.next != part.place || self.term != record.term {
            *self = Gathering::default();
            return Ok(None);
        }
        self.next += 1;
        self.bytes.extend(part.bytes);
        if self.next < part.count {
            return Ok(None);
        }
        let whole = std::mem::take(self).bytes;
        match Record::read(&whole)?.kind {
            Kind::Part(_) => Err(RecordError::Strange("a part that is made of parts".into())),
            kind => Ok(Some(kind)),
        }
    }

    /// Whether a record has begun whose other parts did not come.
    pub(super) fn has_begun(&self) -> bool {
        self.next > 0
    }
}

/// Whether that is set which each record must have.
pub(super) fn some<T>(field: MessageField<T>, what: &str) -> Result<T, String> {
    field.0.map(|value| *value).ok_or_else(|| format!("it has no {what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::{BTreeMap, BTreeSet};
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use proptest::sample::select;
    use rusqlite::types::Value;

    use super::*;
    use crate::attachment::{Attachment, Headers};
    use crate::attempts::Attempts;
    use crate::fuzz::{any_bytes, cases};
    use crate::run::{self, Run, TargetState};
    use crate::schedule::{self, Schedule};
    use crate::store::{
        Backend as _, Dialled, Drain, Grantee, GroupState, KnownClient, LanePlace, OpenTask, Positions, Rows, Shows,
        Sqlite, WaitingLane,
    };
    use crate::task::{
        Audience, Made, Name, NameOf, NewResult, NewStatus, NewTask, Outcome, Priority, Quiet, Replace, Status,
        Submitter, Task, TaskResult, Time, TimeLimit,
    };

    fn name(name: &str) -> Name {
        Name::new(NameOf::Group, name).unwrap()
    }

    fn attachment() -> Attachment {
        Attachment::new(Headers::new([("content-type", "image/png")]).unwrap(), b"\0\xff".to_vec())
    }

    /// One of everything, with everything, and one of most with nothing.
    fn full() -> Batch {
        let quiet = Quiet { millis: 10_000, most_millis: Some(60_000), since: Time(-2) };
        let replace = Replace::new("配置", Some(quiet)).unwrap();
        let spec = NewTask {
            text: "任务:\0\u{1F980}".into(),
            attachment: attachment(),
            to: Some(name("组 ")),
            audience: Some(Arc::new(Audience::groups(vec![name("b"), name("a")]))),
            key: Some("k".into()),
            not_before: Some(Time(i64::MIN)),
            expires_at: Some(Time(-7)),
            max_attempts: Some(u32::MAX),
            retry: "first=10s,factor=1.5,cap=1h,jitter=0.25"
                .parse::<crate::retry::RetryPolicy>()
                .unwrap()
                .backoff
                .map(Box::new),
            priority: Priority::Low,
            by: Some(Arc::new(Submitter { name: "ann".into(), role: "operator".into() })),
            time_limit: Some(TimeLimit { millis: NonZeroU32::MAX, fails: true }),
            replace: Some(Box::new(replace.taken(Some(6), None))),
            lane: Some(name("tenant 7")),
            made: Some(Arc::new(Made { schedule: name("nightly"), moment: Some(Time(-9)) })),
        };
        let audience = Some(Arc::new(Audience::Matching("os in (linux,bsd),!canary".parse().unwrap())));
        let matching = NewTask { audience, priority: Priority::High, ..NewTask::default() };
        let tasks = [spec, matching, NewTask::default()].into_iter().zip(7..);
        let attempts = Attempts { deliveries: 9, spent: 4, begun: true, silent: 2 };
        let open = OpenTask {
            id: 5,
            attempts,
            not_before: Some(Time(-1)),
            lane: Some(name("tenant 7")),
            place: LanePlace::Dead,
        };
        let all_outcomes = Outcome::ALL.into_iter().zip(1..).map(|(outcome, seq)| TaskResult {
            seq,
            result: NewResult {
                task: seq / 2,
                group: (seq > 1).then(|| name("g")),
                client: "client".into(),
                attempt: seq as u32,
                outcome,
                ret: "结果".into(),
                attachment: if seq == 2 { attachment() } else { Attachment::default() },
                at: Time(1 << 50),
                not_before: (seq > 2).then_some(Time(3)),
                late: seq == 3,
            },
        });
        let group = GroupState {
            name: name("g"),
            created_at: Time(77),
            broadcast_after: u64::MAX,
            paused: true,
            retry: "max=5,first=10s".parse().unwrap(),
            limits: "max-in-flight=3,lane-max=2,lane-on-dead=hold".parse().unwrap(),
            labels: "os=linux,a".parse().unwrap(),
            last_used: Time(7),
            cursors: [9, 5, 6],
            taken_up: vec![(7, 9), (11, 11)],
            open: vec![open.clone()],
            lanes: vec![WaitingLane { lane: name("tenant 7"), priority: Priority::Low, after: 3, upto: 9, count: 4 }],
        };
        let plain =
            GroupState { name: name("h"), retry: Default::default(), labels: Default::default(), ..group.clone() };
        let drain = Drain { client: name("c"), since: Time(1), until: Some(Time(2)), note: "disk".into() };
        let dialled = Dialled { address: name("h:1"), group: Some(name("g")), client: None, since: Time(4) };
        let known = KnownClient {
            client: name("c"),
            group: name("g"),
            labels: "os=linux".parse().unwrap(),
            version: Some(name("0.1.0")),
            system: None,
            first_seen: Time(1),
            last_seen: Time(2),
            here: true,
        };
        let run = Run {
            number: 7,
            what: run::What { text: "uptime".into(), ..run::What::default() },
            rollout: run::Rollout { canary: Some(run::Share::Count(1)), ..Default::default() },
            began_at: Time(1),
            deadline: Time(2),
            by: Some(Submitter { name: "ann".into(), role: "operator".into() }),
            course: run::Course::default(),
            tasks: vec![(7, 2)],
            ended_at: Some(Time(3)),
            tally: run::Tally::default(),
            targets: vec![name("g"), name("h")],
            ended: vec![TargetState::Done, TargetState::Expired],
        };
        let every = schedule::When::Every { millis: 1, since: Time(-2) };
        let what = schedule::What { text: "任务".into(), attachment: attachment(), ..Default::default() };
        let schedule = Schedule::new(every, schedule::Missed::All, what, None, Time(3));
        Batch {
            tasks: tasks.map(|(spec, id)| Arc::new(Task { id, accepted_at: Time(id as i64), spec })).collect(),
            results: all_outcomes.collect(),
            statuses: vec![Status {
                seq: 3,
                status: NewStatus { client: "c".into(), msg: "here".into(), at: Time(5) },
            }],
            forgotten: BTreeSet::from([name("gone")]),
            groups: [group, plain].into_iter().map(|group| (group.name.clone(), group)).collect(),
            open: BTreeMap::from([
                (name("g"), BTreeMap::from([(5, Some(open)), (6, None)])),
                (name("h"), BTreeMap::new()),
            ]),
            drains: BTreeMap::from([(name("c"), Some(drain)), (name("d"), None)]),
            runs: BTreeMap::from([(7, run)]),
            schedules: BTreeMap::from([(name("nightly"), Some(schedule)), (name("gone"), None)]),
            dialled: BTreeMap::from([(name("h:1"), Some(dialled)), (name("h:2"), None)]),
            clients: BTreeMap::from([(name("c"), Some(known)), (name("d"), None)]),
            // Records that have some are of a version of their own.
            grants: BTreeMap::new(),
            expiries: vec![(1, Some(Time(-3))), (2, None)],
            freed: BTreeSet::from([1]),
            mark: Some(0),
            positions: Positions { task: 9, result: 13, status: 3 },
        }
    }

    /// The same with tasks and results of one class each, which differ.
    fn several() -> Batch {
        let mut batch = full();
        let ann = Some(Arc::new(Submitter { name: "ann".into(), role: "operator".into() }));
        let task = |(id, text, at, by): (u64, &str, i64, _)| {
            let spec = NewTask { text: text.into(), to: Some(name("g")), by, ..NewTask::default() };
            Arc::new(Task { id, accepted_at: Time(at), spec })
        };
        let tasks = [(10, "one", 50, ann.clone()), (12, "任务", 70, ann), (13, "", 60, None), (14, "four", 70, None)];
        batch.tasks.extend(tasks.into_iter().map(task));
        let last = batch.results[3].result.clone();
        let result = |(seq, client): (u64, &str)| {
            let result = NewResult { client: client.into(), task: 13, at: Time(seq as i64), ..last.clone() };
            TaskResult { seq, result }
        };
        let first = batch.results.len() as u64 + 1;
        batch.results.extend([(first, "a"), (first + 2, "b"), (first + 3, "a")].map(result));
        batch.positions = Positions { task: 14, result: first + 3, ..batch.positions };
        batch
    }

    /// As it is in a record.
    fn of(batch: Batch) -> (Batch, Appended) {
        let appended = Appended::of(&batch.tasks, &batch.results).unwrap();
        (Batch { tasks: Vec::new(), results: Vec::new(), ..batch }, appended)
    }

    fn of_batch(batch: Batch) -> Kind {
        let (batch, appended) = of(batch);
        Kind::Batch(batch, appended)
    }

    fn long(bytes: usize) -> Kind {
        let result = NewResult { ret: "x".repeat(bytes), ..full().results[0].result.clone() };
        of_batch(Batch { results: vec![TaskResult { seq: 1, result }], ..Batch::default() })
    }

    /// Something is granted, to one more, and to one less.
    fn granted() -> Batch {
        let to = |shows, of| Grantee { shows, name: name(of) };
        let grants = [(to(Shows::Token, "网"), Some("{}".to_owned())), (to(Shows::Certificate, "web"), None)];
        Batch { grants: grants.into(), positions: several().positions, ..Batch::default() }
    }

    fn kinds() -> Vec<Kind> {
        let removal = Removal { chunks: vec![1, 900], before: Time(-1), now: Time(i64::MAX), limit: usize::MAX };
        vec![
            of_batch(full()),
            of_batch(several()),
            of_batch(granted()),
            of_batch(Batch::default()),
            Kind::State(of(full()).0, None),
            Kind::State(of(full()).0, Some(cut())),
            Kind::State(granted(), Some(cut())),
            Kind::Removal(removal),
            Kind::Lead("web-1".into()),
            Kind::Resign,
            Kind::Nothing,
            Kind::Part(Part { place: 1, count: 2, bytes: vec![0, 255] }),
            Kind::File(FilePart { offset: 3, size: 5, bytes: vec![0, 255] }),
        ]
    }

    fn cut() -> Cut {
        let of_result = vec![Value::Integer(-7), Value::Text("任务".into()), Value::Blob(vec![0, 255]), Value::Null];
        let columns = ["first", "head", "texts", "segment"].map(str::to_owned).to_vec();
        let rows = Rows { table: "result_chunks".into(), columns, rows: vec![of_result] };
        Cut { place: 7, block: -1, rows: vec![rows] }
    }

    fn one_message(kind: &Kind) -> Vec<u8> {
        let mut messages = messages(9, &mut 4, kind).unwrap();
        assert_eq!(messages.len(), 1);
        messages.remove(0)
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for kind in kinds() {
            let record = Record::read(&one_message(&kind)).unwrap();
            assert_eq!(record, Record { term: 9, number: 5, kind });
        }
    }

    #[test]
    fn what_servers_wrote_before_tasks_stood_in_chunks_is_read() {
        let bytes = include_bytes!("../../../tests/fixtures/log-2.bin");
        let record = Record::read(bytes).unwrap();
        assert_eq!(record, Record { term: 9, number: 5, kind: of_batch(full()) });
    }

    /// Where it is not, servers that know this version would not know what they read: then the version is a new one, and this file stays.
    #[test]
    fn what_is_written_is_what_this_version_has() {
        assert_eq!(one_message(&of_batch(several())), include_bytes!("../../../tests/fixtures/log-3.bin"));
        let state = Batch { positions: several().positions, ..Batch::default() };
        let cut = one_message(&Kind::State(state, Some(cut())));
        assert_eq!(cut, include_bytes!("../../../tests/fixtures/log-4.bin"));
        assert_eq!(one_message(&of_batch(granted())), include_bytes!("../../../tests/fixtures/log-5.bin"));
    }

    #[test]
    fn a_server_that_would_forget_what_is_granted_refuses_the_record() {
        for kind in [of_batch(granted()), Kind::State(granted(), None), Kind::State(granted(), Some(cut()))] {
            assert_eq!(kind.version(), 5);
        }
    }

    #[test]
    fn rows_before_a_cut_that_the_store_could_not_have_are_refused() {
        let refused = |change: fn(&mut Rows)| {
            let mut cut = cut();
            change(&mut cut.rows[0]);
            let record = Record::read(&one_message(&Kind::State(of(full()).0, Some(cut))));
            assert!(matches!(record, Err(RecordError::Strange(_))), "{record:?}");
        };
        refused(|rows| rows.table = "meta".into());
        refused(|rows| rows.columns[0] = "first) VALUES (1); --".into());
        refused(|rows| drop(rows.rows[0].pop()));
    }

    #[test]
    fn what_is_read_of_a_record_is_written_as_a_server_alone_writes_it() {
        let rows = |folder: &tempfile::TempDir| {
            let database = rusqlite::Connection::open(folder.path().join("contact.db")).unwrap();
            let all = |sql: &str| -> Vec<String> {
                let mut select = database.prepare(sql).unwrap();
                let columns = select.column_count();
                let row = |row: &rusqlite::Row<'_>| {
                    (0..columns).map(|at| row.get_ref(at).map(|value| format!("{value:?}"))).collect::<Result<_, _>>()
                };
                select.query_map([], row).unwrap().map(|row: Result<Vec<_>, _>| row.unwrap().join("|")).collect()
            };
            let mut select = database.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
            let tables = select.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap);
            let of_table = |table: String| {
                let rows = match table.as_str() {
                    "log_places" => Vec::new(),
                    "meta" => all("SELECT * FROM meta WHERE name NOT IN ('log', 'log_id')"),
                    _ => all(&format!("SELECT * FROM {table}")),
                };
                (table, rows)
            };
            tables.map(of_table).filter(|(_, rows)| !rows.is_empty()).collect::<Vec<_>>()
        };
        let (alone, one_of_several) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut database = Sqlite::open(alone.path()).unwrap();
        let all = Batch { grants: granted().grants, ..several() };
        database.commit(&all).unwrap();
        let mut view = Sqlite::open_view(one_of_several.path()).unwrap();
        let Kind::Batch(batch, appended) = Record::read(&one_message(&of_batch(all))).unwrap().kind else {
            panic!("it is a batch")
        };
        view.commit_at(&batch, &appended, 1).unwrap();
        let alone = rows(&alone);
        assert!(alone.len() > 15, "all kinds of rows: {}", alone.len());
        assert_eq!(rows(&one_of_several), alone);
    }

    #[test]
    fn rows_that_the_store_could_not_have_are_refused() {
        let chunk = |change: fn(&mut pb::TaskChunk)| {
            let mut chunk = pb::TaskChunk { first: 7, last: 8, segment: 7, count: 2, ..pb::TaskChunk::new() };
            change(&mut chunk);
            pb::Batch { task_chunks: vec![chunk], ..pb::Batch::new() }
        };
        let results = |change: fn(&mut pb::ResultChunk)| {
            let mut chunk = pb::ResultChunk { first: 7, last: 8, segment: 7, count: 2, ..pb::ResultChunk::new() };
            change(&mut chunk);
            pb::Batch { result_chunks: vec![chunk], ..pb::Batch::new() }
        };
        let one_by_one = |ids: [u64; 2]| {
            let task = |id| pb::Task { id, ..pb::Task::new() };
            pb::Batch { tasks: ids.map(task).into(), ..pb::Batch::new() }
        };
        let both = pb::Batch { tasks: one_by_one([7, 8]).tasks, ..results(|_| {}) };
        let read = |batch: pb::Batch| {
            let batch = pb::Batch { positions: MessageField::some(pb::Positions::new()), ..batch };
            let record = pb::Record { version: 3, kind: Some(PbKind::Batch(batch)), ..pb::Record::new() };
            Record::read(&record.write_to_bytes().unwrap())
        };
        for good in [chunk(|_| {}), results(|_| {}), one_by_one([7, 8])] {
            read(good).unwrap();
        }
        let bad = [
            chunk(|it| it.segment = 8),
            chunk(|it| it.last = 6),
            chunk(|it| it.last = u64::MAX),
            chunk(|it| it.count = 0),
            chunk(|it| it.count = 3),
            results(|it| it.count = 3),
            results(|it| it.last_task = 256),
            results(|it| it.first_task = 1),
            one_by_one([8, 7]),
            both,
        ];
        for (at, bad) in bad.into_iter().enumerate() {
            assert!(matches!(read(bad), Err(RecordError::Strange(_))), "{at}");
        }
    }

    #[test]
    fn no_two_messages_are_the_same() {
        let mut number = 0;
        let of = |term, number: &mut u64| messages(term, number, &Kind::Nothing).unwrap();
        let all: BTreeSet<_> = [of(1, &mut number), of(1, &mut number), of(2, &mut 0)].into_iter().flatten().collect();
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn a_record_of_a_later_version_is_refused_with_what_to_do() {
        let later = pb::Record { version: VERSION + 1, ..pb::Record::new() };
        let error = Record::read(&later.write_to_bytes().unwrap()).unwrap_err();
        assert!(matches!(error, RecordError::Newer { found: 6, known: 5 }), "{error}");
        assert!(error.to_string().contains("run the version of Contact"), "{error}");
        for bytes in [&b""[..], b"hello", &pb::Record { version: 1, ..pb::Record::new() }.write_to_bytes().unwrap()] {
            assert!(matches!(Record::read(bytes), Err(RecordError::Strange(_))), "{bytes:?}");
        }
    }

    #[test]
    fn a_long_record_goes_in_parts_that_are_put_together_again() {
        let kind = long(3 * LONGEST_MESSAGE);
        let parts = messages(9, &mut 0, &kind).unwrap();
        assert_eq!(parts.len(), 4);
        assert!(parts.iter().all(|part| part.len() <= LONGEST_MESSAGE));
        let read = |part: &Vec<u8>| Record::read(part).unwrap();
        let mut gathering = Gathering::default();
        for part in &parts[..3] {
            assert_eq!(gathering.take(read(part)).unwrap(), None);
            assert!(gathering.has_begun());
        }
        assert_eq!(gathering.take(read(&parts[3])).unwrap(), Some(kind.clone()));
        assert!(!gathering.has_begun());
        // What comes between them, or is of another term, voids them.
        let other = messages(8, &mut 0, &kind).unwrap();
        for between in [&one_message(&Kind::Lead("other".into())), &other[1], &parts[2]] {
            let mut gathering = Gathering::default();
            assert_eq!(gathering.take(read(&parts[0])).unwrap(), None);
            gathering.take(read(between)).unwrap();
            assert_eq!(parts[1..].iter().map(|part| gathering.take(read(part)).unwrap()).find(Option::is_some), None);
        }
    }

    #[test]
    fn a_list_of_numbers_takes_no_memory_before_they_are_there() {
        // A removal of chunks, of which there are said to be 2^60 bytes.
        let bytes = [8, 1, 24, 1, 42, 10, 10, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
        let taken = allocation_counter::measure(|| assert!(Record::read(&bytes).is_err()));
        assert!(taken.bytes_max < 1 << 20, "{taken:?}");
    }

    #[test]
    fn any_bytes_of_a_log_are_a_record_or_are_refused() {
        let mut valid: Vec<_> = kinds().iter().map(one_message).collect();
        valid.push(include_bytes!("../../../tests/fixtures/log-2.bin").to_vec());
        // An entry takes two bytes in the log.
        any_bytes(
            cases(),
            select(valid),
            |length| (1 << 20) + 1_024 * length,
            |bytes| {
                let Ok(record) = Record::read(bytes) else { return };
                if let [whole] = &messages(record.term, &mut 0, &record.kind).unwrap()[..] {
                    assert_eq!(Record::read(whole).unwrap().kind, record.kind);
                }
            },
        );
    }
}
