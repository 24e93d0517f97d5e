//! What each client said last.

use std::collections::HashMap;
use std::sync::Arc;

use crate::store::{Positions, Reader, StoreError};
use crate::task::{Outcome, Time};

/// The newest rows of a log that a round looks at. Where more come in a second, what is shown may be some seconds old: it is for
/// people to look at, and costs the same however much clients report.
const NEWEST: u64 = 1000;
/// Clients that are remembered, connected or gone.
const CLIENTS: usize = 10_000;
/// Characters that are remembered.
const CHARS: usize = 200;

/// What a client said last.
#[derive(Debug, Clone, Default)]
pub(super) struct LastReport {
    pub(super) status: Option<(String, Time)>,
    pub(super) result: Option<(String, Outcome, Time)>,
}

impl LastReport {
    fn at(&self) -> Time {
        let (status, result) = (self.status.as_ref().map(|s| s.1), self.result.as_ref().map(|r| r.2));
        status.max(result).unwrap_or_default()
    }
}

/// By the name that the log has for a client: its id, or its address.
#[derive(Default)]
pub(super) struct LastReports {
    clients: HashMap<Arc<str>, LastReport>,
    seen: Positions,
}

/// What came since the last round, as far as it is looked at.
pub(super) struct News {
    clients: HashMap<Arc<str>, LastReport>,
    upto: Positions,
}

impl News {
    /// Reads it.
    pub(super) fn read(reader: &mut dyn Reader, seen: Positions, newest: Positions) -> Result<News, StoreError> {
        let from = |seen: u64, newest: u64| seen.max(newest.saturating_sub(NEWEST));
        let (mut result, mut status) = (from(seen.result, newest.result), from(seen.status, newest.status));
        let mut clients: HashMap<Arc<str>, LastReport> = HashMap::new();
        // A page may end early, when its texts are long.
        while result < newest.result {
            let page = reader.results(result, NEWEST as usize)?;
            result = page.last().map_or(newest.result, |last| last.seq);
            // What the server says of a task names no client.
            for entry in page.into_iter().map(|entry| entry.result).filter(|result| !result.client.is_empty()) {
                clients.entry(entry.client).or_default().result = Some((cut(entry.ret), entry.outcome, entry.at));
            }
        }
        while status < newest.status {
            let page = reader.statuses(status, NEWEST as usize)?;
            status = page.last().map_or(newest.status, |last| last.seq);
            for entry in page.into_iter().map(|entry| entry.status) {
                clients.entry(entry.client).or_default().status = Some((cut(entry.msg), entry.at));
            }
        }
        Ok(News { clients, upto: Positions { task: newest.task, result, status } })
    }
}

impl LastReports {
    /// How far it was looked.
    pub(super) fn seen(&self) -> Positions {
        self.seen
    }

    /// Remembers what came.
    pub(super) fn take(&mut self, news: News) {
        self.seen = news.upto;
        for (client, said) in news.clients {
            let last = self.clients.entry(client).or_default();
            last.status = said.status.or(last.status.take());
            last.result = said.result.or(last.result.take());
        }
        self.forget();
    }

    /// Those that said nothing for longest, when there are too many.
    fn forget(&mut self) {
        if self.clients.len() <= CLIENTS {
            return;
        }
        let mut at: Vec<Time> = self.clients.values().map(LastReport::at).collect();
        let (_, median, _) = at.select_nth_unstable(CLIENTS / 2);
        let median = *median;
        self.clients.retain(|_, last| last.at() > median);
    }

    /// What this client said last.
    pub(super) fn last(&self, client: &str) -> LastReport {
        self.clients.get(client).cloned().unwrap_or_default()
    }
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(CHARS) {
        text.truncate(end);
        text.shrink_to_fit();
    }
    text
}
