//! The servers of a cluster, what they share, and what is not well with that.

use super::Operator;
use super::findings::{Code, Finding, Severity};
use crate::server::refusal::Refusal;
use crate::store::{ClusterView, LogSeen, Saying, ServerSeen};
use crate::task::Time;

/// With fewer the log ends at the first NATS server that dies, or is lost with it.
const REPLICAS: u64 = 3;
/// So many messages behind, a server needs seconds to lead.
const FAR_BEHIND: u64 = 10_000;
/// Clocks that differ by more matter: what is delayed or expires goes by that of the server that leads.
const CLOCKS: u64 = 1_000;
const CLOCKS_GRAVE: u64 = 60_000;

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Duty {
    Alone,
    Leading,
    Following,
}

/// The servers, as the one that is asked sees them.
#[derive(Debug, Clone)]
pub(in crate::server) struct Servers {
    pub(in crate::server) now: Time,
    /// There are no others, and never were.
    pub(in crate::server) alone: bool,
    pub(in crate::server) view: ClusterView,
}

impl Servers {
    pub(in crate::server) fn duty(&self, seen: &ServerSeen) -> Duty {
        match (self.alone, seen.says.leads) {
            (true, _) => Duty::Alone,
            (false, true) => Duty::Leading,
            (false, false) => Duty::Following,
        }
    }
}

impl Operator {
    /// The servers that share the store. One that is alone is there by itself, with all clients that the broker has.
    pub(in crate::server) fn servers(&self, clients: usize) -> Servers {
        let (now, clients) = (Time::now(), u32::try_from(clients).unwrap_or(u32::MAX));
        let Some(view) = self.store.cluster() else {
            let says = Saying {
                server: self.about.listen(),
                clients,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started_at: self.about.started_at,
                ..Saying::default()
            };
            let this = ServerSeen { says, is_this: true, heard_at: now, ahead: 0 };
            let view = ClusterView { servers: vec![this], ..ClusterView::default() };
            return Servers { now, alone: true, view };
        };
        Servers { now, alone: false, view }
    }

    /// The same, with the clients counted now.
    pub(in crate::server) async fn list_servers(&self) -> Result<Servers, Refusal> {
        Ok(self.servers(self.broker.connected().await?))
    }
}

/// What is not well with a cluster.
pub(super) fn judge_servers(servers: &Servers) -> Vec<Finding> {
    let (now, view) = (servers.now, &servers.view);
    if servers.alone {
        return Vec::new();
    }
    let warning = Finding::new;
    let (here, silent): (Vec<_>, Vec<_>) = view.servers.iter().partition(|seen| seen.is_here(now));
    let others = || here.iter().filter(|seen| !seen.is_this);
    let mut found = Vec::new();
    if !here.iter().any(|seen| seen.stands_by(now)) {
        let unfit: Vec<_> = others().map(|seen| format!("{}: {}", seen.says.server, seen.says.trouble)).collect();
        let text = Some(unfit.join("; ")).filter(|text| !text.is_empty());
        found.push(Finding { count: silent.len() as u64, text, ..warning(Code::Standby) });
    }
    found.extend(view.log.as_ref().and_then(replicas));
    let trouble = view.log.as_ref().map(|log| log.trouble.join("; ")).filter(|trouble| !trouble.is_empty());
    found.extend(trouble.map(|text| Finding { text: Some(text), ..warning(Code::Log) }));
    if here.iter().any(|seen| seen.says.version != here[0].says.version) {
        let each = here.iter().map(|seen| format!("{} is {}", seen.says.server, seen.says.version));
        let text = Some(each.collect::<Vec<_>>().join(", "));
        found.push(Finding { text, ..warning(Code::Versions) });
    }
    found.extend(others().filter(|seen| seen.ahead.unsigned_abs() >= CLOCKS).map(|seen| {
        let millis = seen.ahead.unsigned_abs();
        let severity = if millis < CLOCKS_GRAVE { Severity::Warning } else { Severity::Failure };
        let (text, limit) = (Some(seen.says.server.clone()), u64::from(seen.ahead > 0));
        Finding { severity, text, millis, limit, ..warning(Code::Clocks) }
    }));
    found.extend(others().filter(|seen| seen.says.lag >= FAR_BEHIND).map(|seen| {
        let text = Some(seen.says.server.clone());
        Finding { text, count: seen.says.lag, ..warning(Code::Behind) }
    }));
    found
}

fn replicas(log: &LogSeen) -> Option<Finding> {
    let absent: Vec<_> = log.replicas.iter().filter(|one| !one.current).map(|one| one.name.as_str()).collect();
    let (count, limit) = (log.current(), REPLICAS.max(log.replicas.len() as u64));
    let text = Some(absent.join(", ")).filter(|names| !names.is_empty());
    (count < limit).then(|| Finding { count, limit, text, ..Finding::new(Code::Replicas) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::ReplicaSeen;

    const NOW: Time = Time(1_777_536_000_000);

    fn seen(server: &str, change: impl FnOnce(&mut ServerSeen)) -> ServerSeen {
        let says = Saying { server: server.into(), version: "1.0.0".into(), ..Saying::default() };
        let mut seen = ServerSeen { says, is_this: server == "a", heard_at: NOW, ahead: 0 };
        change(&mut seen);
        seen
    }

    fn log(change: impl FnOnce(&mut LogSeen)) -> Option<LogSeen> {
        let one = |name: &str| ReplicaSeen { name: name.into(), current: true, ..ReplicaSeen::default() };
        let mut log = LogSeen { replicas: vec![one("n0"), one("n1"), one("n2")], ..LogSeen::default() };
        change(&mut log);
        Some(log)
    }

    #[track_caller]
    fn judged(servers: Vec<ServerSeen>, log: Option<LogSeen>) -> Vec<Finding> {
        judge_servers(&Servers { now: NOW, alone: false, view: ClusterView { servers, log, ..ClusterView::default() } })
    }

    #[track_caller]
    fn one(mut found: Vec<Finding>) -> Finding {
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    fn two() -> Vec<ServerSeen> {
        vec![seen("a", |_| {}), seen("b", |_| {})]
    }

    #[test]
    fn nothing_is_found_where_a_standby_follows_and_three_servers_keep_the_log() {
        assert_eq!(judged(two(), log(|_| {})), []);
        assert_eq!(judged(two(), None), [], "what is not known is not judged");
        let alone = Servers { now: NOW, alone: true, view: ClusterView::default() };
        assert_eq!(judge_servers(&alone), []);
    }

    #[test]
    fn a_server_without_a_standby_says_so() {
        let found = one(judged(vec![seen("a", |_| {})], log(|_| {})));
        assert_eq!((found.code, found.count), (Code::Standby, 0));
        let silent = seen("b", |seen| {
            seen.heard_at = Time(NOW.0 - 5_000);
            seen.says.version = "0.9.0".into();
            seen.ahead = 100_000;
        });
        let found = one(judged(vec![seen("a", |_| {}), silent], log(|_| {})));
        assert_eq!((found.code, found.count), (Code::Standby, 1), "nothing else is said of one that is silent");
    }

    #[test]
    fn a_server_that_cannot_write_its_own_disk_is_no_standby() {
        let full = seen("b", |seen| seen.says.trouble = "it is full".into());
        let found = one(judged(vec![seen("a", |_| {}), full.clone()], None));
        assert_eq!((found.code, found.count, found.text.as_deref()), (Code::Standby, 0, Some("b: it is full")));
        assert_eq!(judged(vec![seen("a", |_| {}), full, seen("c", |_| {})], None), [], "another one does");
    }

    #[test]
    fn a_log_with_fewer_than_three_replicas_that_have_all_of_it_is_found() {
        let found = one(judged(two(), log(|log| log.replicas[1].current = false)));
        assert_eq!((found.code, found.count, found.limit), (Code::Replicas, 2, 3));
        assert_eq!(found.text.as_deref(), Some("n1"));
        let found = one(judged(two(), log(|log| log.replicas.truncate(1))));
        assert_eq!((found.count, found.limit, found.text), (1, 3, None));
        let mut five = log(|log| log.replicas.extend(log.replicas.clone()[..2].to_vec())).unwrap();
        five.replicas[4].current = false;
        assert_eq!((one(judged(two(), Some(five.clone()))).count, 5), (4, five.replicas.len()));
    }

    #[test]
    fn what_may_lose_tasks_is_found() {
        let found = one(judged(two(), log(|log| log.trouble = vec!["this".into(), "that".into()])));
        assert_eq!((found.code, found.text.as_deref()), (Code::Log, Some("this; that")));
    }

    #[test]
    fn servers_that_differ_are_found() {
        let found = one(judged(vec![seen("a", |_| {}), seen("b", |seen| seen.says.version = "1.1.0".into())], None));
        assert_eq!((found.code, found.text.as_deref()), (Code::Versions, Some("a is 1.0.0, b is 1.1.0")));
        for (ahead, severity, limit) in
            [(-1_000, Severity::Warning, 0), (59_999, Severity::Warning, 1), (60_000, Severity::Failure, 1)]
        {
            let found = one(judged(vec![seen("a", |_| {}), seen("b", |seen| seen.ahead = ahead)], None));
            assert_eq!((found.code, found.severity, found.limit), (Code::Clocks, severity, limit));
            assert_eq!((found.millis, found.text.as_deref()), (ahead.unsigned_abs(), Some("b")));
        }
        assert_eq!(judged(vec![seen("a", |_| {}), seen("b", |seen| seen.ahead = -999)], None), []);
        let found = one(judged(vec![seen("a", |_| {}), seen("b", |seen| seen.says.lag = 10_000)], None));
        assert_eq!((found.code, found.count), (Code::Behind, 10_000));
    }
}
