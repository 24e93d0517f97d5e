//! What operators see and change.

use super::Core;
use crate::broker::session::{ClientInfo, Session, SessionId};

impl Core {
    /// The connected clients, oldest stream first.
    pub fn clients(&self) -> Vec<ClientInfo> {
        let mut sessions: Vec<_> = self.sessions.iter().collect();
        sessions.sort_unstable_by_key(|(id, _)| **id);
        sessions.into_iter().map(|(_, session)| self.info(session)).collect()
    }

    /// The client of this session.
    pub fn client(&self, id: SessionId) -> Option<ClientInfo> {
        self.sessions.get(&id).map(|session| self.info(session))
    }

    fn info(&self, session: &Session) -> ClientInfo {
        ClientInfo {
            client: session.join.client.clone(),
            group: self.groups.get(&session.group).and_then(|group| group.name.clone()),
            peer: session.join.peer.clone(),
            since: session.since,
            window: Some(session.window).filter(|window| *window != usize::MAX),
            in_flight: session.held.len(),
            delivered: session.delivered,
        }
    }
}
