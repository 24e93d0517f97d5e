//! Frames as messages of `proto/link.proto`, and back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use protobuf::MessageField;

use super::frame::{Down, Failed, Up, Welcome};
use crate::attachment::{Attachment, Headers};
use crate::broker::{
    Closed, Delivery, Draining, Held, Join, Note, OutcomeReport, Piece, Push, Quota, Receipt, Reporter, Resume,
    RevokeReason, Revoked, Watched,
};
use crate::store::{read_record_lane, read_record_priority, read_record_task, record_priority, record_task};
use crate::task::{Name, NameOf, NewStatus, Outcome, Priority, Progress, StartAt, Task, TaskId, Time};
use crate::wire::link as pb;
use crate::wire::link::down::What as DownWhat;
use crate::wire::link::noted::What as NotedWhat;
use crate::wire::link::up::What as UpWhat;
use crate::wire::log as log_pb;

/// What cannot be read, in a few words.
type Read<T> = Result<T, String>;

fn name(text: Option<String>) -> Read<Option<Name>> {
    text.map(|text| Name::new(NameOf::Metadata, &text).map_err(|error| error.to_string())).transpose()
}

fn text(name: Option<&Name>) -> Option<String> {
    name.map(ToString::to_string)
}

pub(super) fn to_leader(ups: Vec<Up>) -> pb::ToLeader {
    let ups = ups.into_iter().map(|up| pb::Up { what: Some(self::up(up)), ..pb::Up::new() });
    pb::ToLeader { ups: ups.collect(), ..pb::ToLeader::new() }
}

pub(super) fn read_to_leader(message: pb::ToLeader) -> Read<Vec<Up>> {
    // What a newer server says is passed over.
    message.ups.into_iter().filter_map(|up| up.what).map(read_up).collect()
}

fn up(up: Up) -> UpWhat {
    match up {
        Up::Join(session, join) => UpWhat::Join(self::join(session, *join)),
        Up::Leave(session, why) => UpWhat::Leave(pb::Leave { session, why, ..pb::Leave::new() }),
        Up::Took(session, bytes) => UpWhat::Took(pb::Took { session, bytes, ..pb::Took::new() }),
        Up::Teller(number, Reporter { client, group, peer }) => UpWhat::Teller(pb::Teller {
            number,
            client: text(client.as_ref()),
            group: text(group.as_ref()),
            peer: peer.to_string(),
            ..pb::Teller::new()
        }),
        Up::TellerGone(number) => UpWhat::TellerGone(number),
        Up::Told(teller, reports) => {
            UpWhat::Told(pb::Told { teller, reports: reports.into_iter().map(report).collect(), ..pb::Told::new() })
        }
        Up::Flush(ask) => UpWhat::Flush(ask),
        Up::Statuses(ask, statuses) => {
            let statuses = statuses.into_iter().map(|NewStatus { client, msg, at }| log_pb::Status {
                client: client.to_string(),
                msg,
                at: at.0,
                ..log_pb::Status::new()
            });
            UpWhat::Statuses(pb::Statuses { ask, statuses: statuses.collect(), ..pb::Statuses::new() })
        }
        Up::Quota(quota) => UpWhat::Quota(self::quota(quota)),
        Up::Here => UpWhat::Here(true),
    }
}

fn read_up(up: UpWhat) -> Read<Up> {
    Ok(match up {
        UpWhat::Join(join) => Up::Join(join.session, Box::new(read_join(join)?)),
        UpWhat::Leave(leave) => Up::Leave(leave.session, leave.why),
        UpWhat::Took(took) => Up::Took(took.session, took.bytes),
        UpWhat::Teller(teller) => Up::Teller(
            teller.number,
            Reporter { client: name(teller.client)?, group: name(teller.group)?, peer: teller.peer.into() },
        ),
        UpWhat::TellerGone(number) => Up::TellerGone(number),
        UpWhat::Told(told) => Up::Told(told.teller, told.reports.into_iter().map(read_report).collect::<Read<_>>()?),
        UpWhat::Flush(ask) => Up::Flush(ask),
        UpWhat::Statuses(statuses) => {
            let all = statuses.statuses.into_iter();
            let all =
                all.map(|status| NewStatus { client: status.client.into(), msg: status.msg, at: Time(status.at) });
            Up::Statuses(statuses.ask, all.collect())
        }
        UpWhat::Quota(quota) => Up::Quota(read_quota(&quota)),
        UpWhat::Here(_) => Up::Here,
    })
}

fn join(session: u64, join: Join) -> pb::Join {
    let Join {
        client,
        instance,
        group,
        window,
        from,
        begins,
        revoke,
        output,
        receipts,
        stopping,
        heartbeat,
        max_message,
        labels,
        version,
        system,
        peer,
        quota,
        resume,
    } = join;
    let resume = resume.map(|resume| pb::Resume {
        holds: resume.holds.into_iter().map(held).collect(),
        read: resume.read.to_vec(),
        awaits: resume.awaits.into_iter().map(|(task, priority)| awaited(task, priority)).collect(),
        draining: resume.draining.map(draining).into(),
        ..pb::Resume::new()
    });
    pb::Join {
        session,
        client: text(client.as_ref()),
        instance: text(instance.as_ref()),
        group: text(group.as_ref()),
        window,
        from: from.map(|from| from.as_str().to_owned()),
        begins,
        revoke,
        output,
        receipts,
        stopping,
        heartbeat_ms: heartbeat.map(|every| every.as_millis() as u64),
        max_message,
        labels: labels.to_string(),
        version: text(version.as_ref()),
        system: text(system.as_ref()),
        peer: peer.to_string(),
        quota: quota.map(self::quota).into(),
        resume: resume.into(),
        ..pb::Join::new()
    }
}

fn held(held: Held) -> pb::Held {
    let Held { task, priority, lane, attempt, begun } = held;
    pb::Held { task, priority: record_priority(priority), lane: text(lane.as_ref()), attempt, begun, ..pb::Held::new() }
}

fn read_held(held: pb::Held) -> Read<Held> {
    let pb::Held { task, priority, lane, attempt, begun, .. } = held;
    let lane = lane.map(|lane| read_record_lane(&lane)).transpose()?;
    Ok(Held { task, priority: read_record_priority(priority)?, lane, attempt, begun })
}

fn awaited(task: TaskId, priority: Priority) -> pb::Awaited {
    pb::Awaited { task, priority: record_priority(priority), ..pb::Awaited::new() }
}

fn read_awaited(awaited: &pb::Awaited) -> Read<(TaskId, Priority)> {
    Ok((awaited.task, read_record_priority(awaited.priority)?))
}

fn draining(Draining { since, until, note, .. }: Draining) -> pb::Draining {
    let until = until.map(|until| until.0);
    pb::Draining { since: since.0, until, note: note.as_ref().to_owned(), ..pb::Draining::new() }
}

fn read_draining(draining: pb::Draining) -> Draining {
    Draining::new(Time(draining.since), draining.until.map(Time), draining.note.into())
}

fn read_join(join: pb::Join) -> Read<Join> {
    let from = |text: String| StartAt::of(&text).ok_or_else(|| format!("the start {text:?}"));
    let resume = |resume: pb::Resume| {
        let read = resume.read.try_into().map_err(|_| "a stream without its places".to_owned())?;
        let holds = resume.holds.into_iter().map(read_held).collect::<Read<_>>()?;
        let awaits = resume.awaits.iter().map(read_awaited).collect::<Read<_>>()?;
        Read::Ok(Box::new(Resume { holds, read, awaits, draining: resume.draining.0.map(|it| read_draining(*it)) }))
    };
    let labels = if join.labels.is_empty() { Ok(Default::default()) } else { join.labels.parse() };
    Ok(Join {
        client: name(join.client)?,
        instance: join.instance.map(|text| Name::new(NameOf::Key, &text).map_err(|e| e.to_string())).transpose()?,
        group: name(join.group)?,
        window: join.window,
        from: join.from.map(from).transpose()?,
        begins: join.begins,
        revoke: join.revoke,
        output: join.output,
        receipts: join.receipts,
        stopping: join.stopping,
        heartbeat: join.heartbeat_ms.map(Duration::from_millis),
        max_message: join.max_message,
        labels: labels.map_err(|error: crate::labels::LabelError| error.to_string())?,
        version: name(join.version)?,
        system: name(join.system)?,
        peer: join.peer.into(),
        quota: join.quota.0.map(|quota| read_quota(&quota)),
        resume: join.resume.0.map(|it| resume(*it)).transpose()?,
    })
}

fn quota(Quota { of, window, bytes }: Quota) -> pb::Quota {
    pb::Quota { of, window, bytes, ..pb::Quota::new() }
}

fn read_quota(quota: &pb::Quota) -> Quota {
    Quota { of: quota.of, window: quota.window, bytes: quota.bytes }
}

fn report(report: OutcomeReport) -> pb::Report {
    let OutcomeReport { task, attempt, outcome, ret, attachment, progress, delay, receipt, printed } = report;
    pb::Report {
        task,
        attempt,
        outcome: outcome as u32,
        ret,
        headers: attachment.headers().to_map(),
        data: attachment.data().to_vec(),
        progress: progress.map(Progress::part),
        delay_ms: delay.as_millis() as u64,
        receipt: match receipt {
            Receipt::Missing => 0,
            Receipt::Good => 1,
            Receipt::Bad => 2,
        },
        printed: printed.map(|Piece { from, bytes }| pb::Piece { from, bytes, ..pb::Piece::new() }).into(),
        ..pb::Report::new()
    }
}

fn read_report(report: pb::Report) -> Read<OutcomeReport> {
    let outcome = Outcome::from_number(report.outcome.into());
    Ok(OutcomeReport {
        task: report.task,
        attempt: report.attempt,
        outcome: outcome.ok_or_else(|| format!("the outcome {}", report.outcome))?,
        ret: report.ret,
        attachment: attachment(report.headers, report.data)?,
        progress: report.progress.and_then(Progress::of),
        delay: Duration::from_millis(report.delay_ms),
        receipt: match report.receipt {
            0 => Receipt::Missing,
            1 => Receipt::Good,
            _ => Receipt::Bad,
        },
        printed: report.printed.0.map(|piece| Piece { from: piece.from, bytes: piece.bytes }),
    })
}

fn attachment(headers: HashMap<String, String>, data: Vec<u8>) -> Read<Attachment> {
    if headers.is_empty() && data.is_empty() {
        return Ok(Attachment::default());
    }
    Ok(Attachment::new(Headers::new(headers).map_err(|error| error.to_string())?, data))
}

/// One message. A task that several are given stands in it once.
pub(super) fn from_leader(downs: Vec<Down>) -> pb::FromLeader {
    let mut message = pb::FromLeader::new();
    let mut places = HashMap::new();
    for down in downs {
        let what = match down {
            Down::Joined(session, Ok(Welcome { new_group, window, after })) => DownWhat::Joined(pb::Joined {
                session,
                new_group: new_group.map(|from| from.as_str().to_owned()),
                window,
                after,
                ..pb::Joined::new()
            }),
            Down::Joined(session, Err(why)) => {
                DownWhat::Joined(pb::Joined { session, failed: MessageField::some(failed(why)), ..pb::Joined::new() })
            }
            Down::Push(session, push) => {
                let mut place = |task: &Arc<Task>| {
                    *places.entry(task.id).or_insert_with(|| {
                        message.tasks.push(record_task(task));
                        message.tasks.len() as u32 - 1
                    })
                };
                self::push(session, push, &mut place, &mut message.downs);
                continue;
            }
            Down::Done(ask, done) => {
                DownWhat::Done(pb::Done { ask, failed: done.err().map(failed).into(), ..pb::Done::new() })
            }
            Down::State(trouble) => DownWhat::State(pb::State { trouble, ..pb::State::new() }),
        };
        message.downs.push(pb::Down { what: Some(what), ..pb::Down::new() });
    }
    message
}

fn push(session: u64, push: Push, place: &mut impl FnMut(&Arc<Task>) -> u32, into: &mut Vec<pb::Down>) {
    let mut say = |what| into.push(pb::Down { what: Some(what), ..pb::Down::new() });
    match push {
        Push::Tasks(deliveries) => {
            let delivery = |Delivery { task, attempt, spent, max_attempts }: &Delivery| pb::Delivery {
                at: place(task),
                attempt: *attempt,
                spent: *spent,
                max_attempts: *max_attempts,
                ..pb::Delivery::new()
            };
            let deliveries = deliveries.iter().map(delivery).collect();
            say(DownWhat::Tasks(pb::Tasks { session, deliveries, ..pb::Tasks::new() }));
        }
        Push::Revoked(all) => all.into_iter().for_each(|Revoked { task, attempt, reason }| {
            let reason = match reason {
                RevokeReason::Cancelled => 0,
                RevokeReason::Expired => 1,
                RevokeReason::GivenToAnother => 2,
            };
            say(DownWhat::Revoked(pb::Revoked { session, task, attempt, reason, ..pb::Revoked::new() }));
        }),
        Push::Watched(all) => all.into_iter().for_each(|Watched { task, attempt, anew }| {
            say(DownWhat::Watched(pb::Watched { session, task, attempt, anew, ..pb::Watched::new() }));
        }),
        Push::Notes(all) => all.into_iter().for_each(|note| {
            let what = match note {
                Note::Awaits(task, priority) => NotedWhat::Awaits(awaited(task, priority)),
                Note::Draining(Some(is)) => NotedWhat::Draining(draining(is)),
                Note::Draining(None) => NotedWhat::Undrained(true),
            };
            say(DownWhat::Noted(pb::Noted { session, what: Some(what), ..pb::Noted::new() }));
        }),
        Push::Heartbeat => {
            // All that follow one another are one.
            if let Some(pb::Down { what: Some(DownWhat::Heartbeat(last)), .. }) = into.last_mut() {
                return last.sessions.push(session);
            }
            let sessions = vec![session];
            into.push(pb::Down {
                what: Some(DownWhat::Heartbeat(pb::Sessions { sessions, ..pb::Sessions::new() })),
                ..pb::Down::new()
            });
        }
        Push::Close(why) => {
            say(DownWhat::Close(pb::Close { session, taken_over: why == Closed::TakenOver, ..pb::Close::new() }));
        }
    }
}

fn failed(Failed { reason, message, details }: Failed) -> pb::Failed {
    pb::Failed { reason: reason.name().into(), message, details, ..pb::Failed::new() }
}

fn read_failed(failed: pb::Failed) -> Failed {
    Failed::read(&failed.reason, failed.message, failed.details)
}

pub(super) fn read_from_leader(message: pb::FromLeader) -> Read<Vec<Down>> {
    let tasks = message.tasks.into_iter().map(|task| read_record_task(task).map(Arc::new)).collect::<Read<Vec<_>>>()?;
    let mut downs = Vec::with_capacity(message.downs.len());
    for what in message.downs.into_iter().filter_map(|down| down.what) {
        downs.push(match what {
            DownWhat::Joined(joined) => Down::Joined(joined.session, read_joined(joined)?),
            DownWhat::Tasks(given) => {
                let delivery = |one: pb::Delivery| {
                    let task = tasks.get(one.at as usize).cloned().ok_or("a task that is not there")?;
                    let pb::Delivery { attempt, spent, max_attempts, .. } = one;
                    Read::Ok(Delivery { task, attempt, spent, max_attempts })
                };
                let deliveries = given.deliveries.into_iter().map(delivery).collect::<Read<_>>()?;
                Down::Push(given.session, Push::Tasks(deliveries))
            }
            DownWhat::Revoked(pb::Revoked { session, task, attempt, reason, .. }) => {
                let reason = match reason {
                    0 => RevokeReason::Cancelled,
                    1 => RevokeReason::Expired,
                    _ => RevokeReason::GivenToAnother,
                };
                Down::Push(session, Push::Revoked(vec![Revoked { task, attempt, reason }]))
            }
            DownWhat::Watched(pb::Watched { session, task, attempt, anew, .. }) => {
                Down::Push(session, Push::Watched(vec![Watched { task, attempt, anew }]))
            }
            DownWhat::Noted(noted) => {
                let note = match noted.what {
                    Some(NotedWhat::Awaits(task)) => read_awaited(&task).map(|(task, of)| Note::Awaits(task, of))?,
                    Some(NotedWhat::Draining(is)) => Note::Draining(Some(read_draining(is))),
                    Some(NotedWhat::Undrained(_)) => Note::Draining(None),
                    // A newer server has others.
                    None => continue,
                };
                Down::Push(noted.session, Push::Notes(vec![note]))
            }
            DownWhat::Heartbeat(all) => {
                downs.extend(all.sessions.into_iter().map(|session| Down::Push(session, Push::Heartbeat)));
                continue;
            }
            DownWhat::Close(close) => {
                let why = if close.taken_over { Closed::TakenOver } else { Closed::Stopping };
                Down::Push(close.session, Push::Close(why))
            }
            DownWhat::Done(done) => Down::Done(done.ask, done.failed.0.map_or(Ok(()), |it| Err(read_failed(*it)))),
            DownWhat::State(state) => Down::State(state.trouble),
        });
    }
    Ok(downs)
}

fn read_joined(joined: pb::Joined) -> Read<Result<Welcome, Failed>> {
    let from = |text: String| StartAt::of(&text).ok_or_else(|| format!("the start {text:?}"));
    let new_group = joined.new_group.map(from).transpose()?;
    let welcome = Welcome { new_group, window: joined.window, after: joined.after };
    Ok(joined.failed.0.map_or(Ok(welcome), |failed| Err(read_failed(*failed))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::sample::select;
    use protobuf::Message as _;

    use super::*;
    use crate::codec::read;
    use crate::fuzz::{any_bytes, cases};
    use crate::reason::Reason;
    use crate::server::proxy::link::weight_of;
    use crate::task::{NewTask, Priority};

    fn name(text: &str) -> Name {
        Name::new(NameOf::Metadata, text).unwrap()
    }

    fn drained() -> Draining {
        Draining::new(Time(7), Some(Time(-8)), "new disk".into())
    }

    fn some_join() -> Join {
        let held = |task, lane: Option<&str>| {
            let lane = lane.map(|lane| Name::new(NameOf::KeptLane, lane).unwrap());
            Held { task, priority: Priority::Low, attempt: 3, begun: lane.is_some(), lane }
        };
        Join {
            client: Some(name("web/1")),
            instance: Some(name("a1")),
            group: Some(name("工人")),
            window: Some(7),
            from: Some(StartAt::New),
            begins: true,
            revoke: true,
            output: true,
            receipts: true,
            stopping: true,
            heartbeat: Some(Duration::from_secs(5)),
            max_message: Some(1 << 40),
            labels: "os=linux".parse().unwrap(),
            version: Some(name("0.1.0")),
            system: Some(name("linux")),
            peer: "ipv4:192.0.2.1:5".into(),
            quota: Some(Quota { of: 3, window: 5, bytes: 9 }),
            resume: Some(Box::new(Resume {
                holds: vec![held(8, Some("\u{1}disk")), held(9, None)],
                read: [1, 2, 3],
                awaits: vec![(2, Priority::Low)],
                draining: Some(drained()),
            })),
        }
    }

    fn ups() -> Vec<Up> {
        let report = OutcomeReport {
            task: 5,
            attempt: 2,
            outcome: Outcome::Working,
            ret: "half".into(),
            attachment: Attachment::new(Headers::new([("k", "v")]).unwrap(), vec![0, 255]),
            progress: Progress::of(0.5),
            delay: Duration::from_millis(1500),
            receipt: Receipt::Good,
            printed: Some(Piece { from: 4, bytes: vec![1] }),
        };
        vec![
            Up::Join(1, Box::default()),
            Up::Join(2, Box::new(some_join())),
            Up::Leave(1, "its stream ended".into()),
            Up::Took(2, 1 << 40),
            Up::Teller(4, Reporter { client: Some(name("c")), group: None, peer: "p".into() }),
            Up::Told(4, vec![report.clone(), OutcomeReport { receipt: Receipt::Bad, printed: None, ..report }]),
            Up::TellerGone(4),
            Up::Flush(8),
            Up::Statuses(9, vec![NewStatus { client: "c".into(), msg: "well".into(), at: Time(-1) }]),
            Up::Quota(Quota { of: 1, window: 2, bytes: 3 }),
            Up::Here,
        ]
    }

    fn downs() -> Vec<Down> {
        let spec = NewTask { text: "all".into(), priority: Priority::Low, ..NewTask::default() };
        let task = Arc::new(Task { id: 7, accepted_at: Time(3), spec });
        let delivery = |max_attempts| Delivery { task: task.clone(), attempt: 2, spent: 1, max_attempts };
        let revoked = |reason| Revoked { task: 7, attempt: 2, reason };
        let failed = Failed::read(Reason::DISK_LOW.name(), "low".into(), vec![8, 1]);
        vec![
            Down::Joined(1, Ok(Welcome { new_group: Some(StartAt::First), window: Some(3), after: 4 })),
            Down::Joined(2, Err(failed.clone())),
            Down::Push(1, Push::Tasks(vec![delivery(Some(4))])),
            Down::Push(3, Push::Tasks(vec![delivery(None)])),
            Down::Push(1, Push::Revoked(vec![revoked(RevokeReason::Cancelled)])),
            Down::Push(1, Push::Revoked(vec![revoked(RevokeReason::Expired)])),
            Down::Push(1, Push::Revoked(vec![revoked(RevokeReason::GivenToAnother)])),
            Down::Push(1, Push::Watched(vec![Watched { task: 7, attempt: 2, anew: true }])),
            Down::Push(1, Push::Notes(vec![Note::Awaits(7, Priority::High)])),
            Down::Push(1, Push::Notes(vec![Note::Draining(Some(drained()))])),
            Down::Push(1, Push::Notes(vec![Note::Draining(None)])),
            Down::Push(1, Push::Heartbeat),
            Down::Push(3, Push::Heartbeat),
            Down::Push(1, Push::Close(Closed::TakenOver)),
            Down::Push(3, Push::Close(Closed::Stopping)),
            Down::Done(5, Ok(())),
            Down::Done(6, Err(failed)),
            Down::State(None),
            Down::State(Some("full".into())),
        ]
    }

    #[test]
    fn what_is_said_is_heard_as_it_was_said() {
        let sent = to_leader(ups()).write_to_bytes().unwrap();
        let heard = read_to_leader(pb::ToLeader::parse_from_bytes(&sent).unwrap()).unwrap();
        assert_eq!(format!("{heard:?}"), format!("{:?}", ups()));
        let sent = from_leader(downs()).write_to_bytes().unwrap();
        let heard = read_from_leader(pb::FromLeader::parse_from_bytes(&sent).unwrap()).unwrap();
        assert_eq!(format!("{heard:?}"), format!("{:?}", downs()));
    }

    #[test]
    fn what_goes_up_is_no_longer_than_it_counts() {
        let lane = Some(Name::new(NameOf::KeptLane, &format!("\u{1}{}", "x".repeat(128))).unwrap());
        let (task, attempt, priority) = (u64::MAX, u32::MAX, Priority::Low);
        let held = Held { task, priority, attempt, begun: true, lane };
        let resume = Resume {
            holds: vec![held; 2048],
            read: [u64::MAX; 3],
            awaits: vec![(task, priority); 2048],
            draining: Some(Draining::new(Time(-1), Some(Time(-1)), "x".repeat(256).into())),
        };
        let join = Join { resume: Some(Box::new(resume)), ..some_join() };
        for up in ups().into_iter().chain([Up::Join(u64::MAX, Box::new(join))]) {
            let (what, counts) = (format!("{up:?}"), weight_of(&up));
            let bytes = to_leader(vec![up]).compute_size();
            assert!(bytes <= counts as u64, "{bytes} bytes count as {counts}: {what:.100}");
        }
    }

    #[test]
    fn a_task_that_several_are_given_goes_over_once() {
        assert_eq!(from_leader(downs()).tasks.len(), 1);
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let seeds = [to_leader(ups()).write_to_bytes().unwrap(), from_leader(downs()).write_to_bytes().unwrap()];
        // An entry takes two bytes there, and its server is one of the cluster.
        let memory = |length| (1 << 20) + 1_024 * length;
        any_bytes(cases(), select(seeds.to_vec()), memory, |bytes| {
            let _ = read::<pb::ToLeader>(&mut &*bytes, bytes.len()).map(read_to_leader);
            let _ = read::<pb::FromLeader>(&mut &*bytes, bytes.len()).map(read_from_leader);
        });
    }
}
