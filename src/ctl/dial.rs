//! The workers that the server dials.

use serde::Serialize;

use super::link::Link;
use super::moment::{Moment, Times};
use super::out::Out;
use super::table::{Column, Row, Table};
use super::{Error, args};
use crate::wire::control as pb;

#[derive(Serialize)]
struct Added {
    address: String,
    is_new: bool,
}

#[derive(Serialize)]
struct Removed {
    address: String,
    removed: bool,
}

#[derive(Serialize)]
struct Dialled {
    address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    client: String,
    since: Moment,
    connected: bool,
    connected_since: Option<Moment>,
    #[serde(skip_serializing_if = "String::is_empty")]
    connected_as: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    trouble: String,
    trouble_since: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    again_at: Option<Moment>,
}

impl From<pb::Dialled> for Dialled {
    fn from(dialled: pb::Dialled) -> Dialled {
        let connected_since = Moment::if_set(dialled.connected_since);
        Dialled {
            address: dialled.address,
            group: dialled.group,
            client: dialled.client,
            since: Moment(dialled.since),
            connected: connected_since.is_some(),
            connected_since,
            connected_as: dialled.connected_as,
            trouble: dialled.trouble,
            trouble_since: Moment::if_set(dialled.trouble_since),
            again_at: Moment::if_set(dialled.again_at),
        }
    }
}

impl Row for Dialled {
    const COLUMNS: &'static [Column] = &[
        Column::Name("ADDRESS"),
        Column::Name("GROUP"),
        Column::Name("CLIENT"),
        Column::Word("SINCE"),
        Column::Text("STATE"),
    ];

    fn cells(&self, times: Times) -> Vec<String> {
        let state = match (self.connected, &*self.trouble) {
            (true, _) => "connected".to_owned(),
            (false, "") => "connecting".to_owned(),
            (false, trouble) => trouble.to_owned(),
        };
        let since = self.connected_since.or(self.trouble_since).unwrap_or(self.since);
        let client = if self.connected { &self.connected_as } else { &self.client };
        let dash = |text: &String| if text.is_empty() { "-".to_owned() } else { text.clone() };
        vec![self.address.clone(), dash(&self.group), dash(client), times.show(since), state]
    }
}

/// Has the server dial a worker.
pub(super) fn add(link: &Link, dial: args::NewDial, mut out: Out) -> Result<(), Error> {
    let (address, group) = (dial.address, dial.group.unwrap_or_default());
    let client = dial.client.unwrap_or_default();
    let request = pb::AddDialledRequest { address: address.clone(), group, client, ..Default::default() };
    let answer = link.wait(link.client.add_dialled(&request, Link::answer_soon()))?;
    let text = match answer.is_new {
        true => format!("{address} is dialled from now on; contactctl dial list shows how that goes"),
        false => format!("{address} was dialled already, and is now as you say"),
    };
    Ok(out.object(&Added { address, is_new: answer.is_new }, &text)?)
}

/// Lists them.
pub(super) fn list(link: &Link, mut out: Out) -> Result<(), Error> {
    let answer = link.wait(link.client.list_dialled(&pb::ListDialledRequest::new(), Link::answer_soon()))?;
    let dialled: Vec<Dialled> = answer.dialled.into_iter().map(Dialled::from).collect();
    if dialled.is_empty() {
        out.remark("no worker is dialled: those there are connect themselves");
    }
    Ok(out.rows(&mut Table::default(), &dialled)?)
}

/// Has it dial one no more.
pub(super) fn remove(link: &Link, address: String, mut out: Out) -> Result<(), Error> {
    let request = pb::RemoveDialledRequest { address: address.clone(), ..Default::default() };
    link.wait(link.client.remove_dialled(&request, Link::answer_soon()))?;
    let text = format!("{address} is dialled no more");
    Ok(out.object(&Removed { address, removed: true }, &text)?)
}
