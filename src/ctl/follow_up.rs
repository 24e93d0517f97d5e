//! What follows from a submission: whether somebody has to do something before its tasks are worked on.

use super::doctor::seen_from_here;
use super::link::Link;
use super::out::Out;
use super::words::quote;
use super::{Error, manage};
use crate::wire::control as pb;

/// Where `contact-client` connects unless it is told otherwise.
const CLIENTS: &str = "127.0.0.1:50051";

/// Says of which groups the tasks wait for somebody. `first` is the id of the first task; one for each group follows; none if they
/// are for everyone.
///
/// The tasks are accepted whatever comes of this: if it cannot be found out, nothing is said.
pub(super) fn say(link: &Link, server: &str, first: u64, groups: usize) {
    let out = Out::stdout(false);
    if groups == 0 {
        // What is for everyone is for the groups that there are, and for anonymous clients.
        let server = link.wait(link.client.get_server(&pb::GetServerRequest::new(), Link::answer_soon()));
        if server.is_ok_and(|server| server.groups == 0 && server.clients == 0) {
            out.remark("no client has come yet: a group that is new gets them if its client starts with --from first");
        }
        return;
    }
    for id in first..first.saturating_add(groups as u64) {
        for said in manage::ledger(link, id).into_iter().flat_map(|ledger| ledger.groups) {
            if let Ok(Some(text)) = waits_for(link, server, &said) {
                out.remark(&text);
            }
        }
    }
}

fn waits_for(link: &Link, server: &str, task: &pb::TaskInGroup) -> Result<Option<String>, Error> {
    use pb::WaitReason::{NEVER_CAME, NO_CLIENT, PAUSED};
    let group = &task.group;
    let known = task.wait.and_then(|wait| wait.enum_value().ok());
    Ok(match known {
        Some(NEVER_CAME) => {
            let listen = link.wait(link.client.get_server(&pb::GetServerRequest::new(), Link::answer_soon()))?.listen;
            let address = seen_from_here(server, &listen);
            let address = if address == CLIENTS { String::new() } else { format!("--server {} ", quote(&address)) };
            let start = format!("contact-client {address}--group {} --exec COMMAND", quote(group));
            Some(format!("group {group} has no client yet: they wait; start one with: {start}"))
        }
        Some(NO_CLIENT) => Some(format!("no client of group {group} is connected: they wait until one comes back")),
        Some(PAUSED) => {
            let resume = format!("contactctl resume {}", quote(group));
            Some(format!("group {group} is paused: they wait; give it tasks again with: {resume}"))
        }
        _ => None,
    })
}
