//! Who may come in: `contactctl invite`, `cert issue` and `identity`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::Error;
use super::args::{Cert, Identity, Invite};
use super::link::Link;
use super::moment::{Moment, Times};
use super::out::Out;
use super::table::{Column, Row, Table};
use super::words::{count, quote};
use crate::wire::control as pb;

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Serialize)]
struct Invited {
    invitation: String,
}

/// Prints the line by which others join.
pub(super) fn invite(link: &Link, invite: Invite, mut out: Out) -> Result<(), Error> {
    let Invite { group, label, ttl, uses, limits } = invite;
    let request = pb::InviteRequest {
        group: group.unwrap_or_default(),
        labels: label.join(","),
        lasts_ms: millis(ttl),
        uses,
        limits: limits.of(),
        ..pb::InviteRequest::default()
    };
    let answer = link.wait(link.client.invite(&request, Link::answer_soon()))?;
    let times = if uses == 1 { "once".to_owned() } else { format!("{uses} times") };
    let lasts = humantime::format_duration(ttl);
    out.remark(&format!("Good {times}, for {lasts}. Who has this line can join: keep it to yourself."));
    let text = format!("contact-client --join {} --exec ./work.sh", answer.invitation);
    Ok(out.object(&Invited { invitation: answer.invitation }, &text)?)
}

#[derive(Serialize)]
struct Issued {
    name: String,
    certificate: String,
    key: String,
    ca: String,
}

/// Makes a key here, and writes it with its certificate.
pub(super) fn issue(link: &Link, cert: Cert, mut out: Out) -> Result<(), Error> {
    let Cert::Issue { name, operator, group, limits, ttl, dir } = cert;
    let failed = |e: rcgen::Error| Error::Refused(format!("no key can be made: {e}"));
    let pair = rcgen::KeyPair::generate().map_err(failed)?;
    let params = rcgen::CertificateParams::new(Vec::new()).map_err(failed)?;
    let csr = params.serialize_request(&pair).and_then(|csr| csr.pem()).map_err(failed)?;
    let file = name.replace('/', "-");
    let at = |ending: &str| dir.join(format!("{file}.{ending}"));
    // Before the server counts it as given out.
    write(&at("key"), &pair.serialize_pem())?;
    let request = pb::IssueCertificateRequest {
        name: name.clone(),
        operator,
        csr,
        lasts_ms: millis(ttl),
        groups: group,
        limits: limits.of(),
        ..pb::IssueCertificateRequest::default()
    };
    let answer = link.wait(link.client.issue_certificate(&request, Link::answer_soon()))?;
    write(&at("pem"), &answer.certificate)?;
    write(&dir.join("ca.pem"), &answer.ca)?;
    let shown = |path: &Path| path.display().to_string();
    let issued =
        Issued { name, certificate: shown(&at("pem")), key: shown(&at("key")), ca: shown(&dir.join("ca.pem")) };
    let text = format!(
        "--tls-ca {} --tls-cert {} --tls-key {}",
        quote(&issued.ca),
        quote(&issued.certificate),
        quote(&issued.key)
    );
    Ok(out.object(&issued, &text)?)
}

/// For its owner alone.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    written
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| Error::File { name: path.display().to_string(), source })
}

#[derive(Serialize)]
struct One {
    name: String,
    role: &'static str,
    group: Option<String>,
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Limits::is_empty")]
    limits: Limits,
    issued_at: Option<Moment>,
    until: Option<Moment>,
    revoked: bool,
}

/// What one may have, by name; 0: no limit.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Limits(BTreeMap<String, u64>);

impl Limits {
    pub(super) fn of(limits: HashMap<String, u64>) -> Limits {
        Limits(limits.into_iter().collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// As `--limit` has it.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (key, most)) in self.0.iter().enumerate() {
            let space = if nth == 0 { "" } else { " " };
            match most {
                0 => write!(f, "{space}{key}=none")?,
                _ => write!(f, "{space}{key}={most}")?,
            }
        }
        Ok(())
    }
}

impl Row for One {
    const COLUMNS: &'static [Column] = &[
        Column::Name("NAME"),
        Column::Word("ROLE"),
        Column::Name("GROUPS"),
        Column::Word("ISSUED"),
        Column::Word("UNTIL"),
        Column::Word("STATE"),
        Column::Text("LIMITS"),
    ];

    fn cells(&self, times: Times) -> Vec<String> {
        let state = if self.revoked { "revoked" } else { "let in" };
        // Of another authority's certificates it is not known when they were issued.
        let at = |at: Option<Moment>, times: Times| at.map_or_else(|| "-".into(), |at| times.show(at));
        let (issued, until) = (at(self.issued_at, times), at(self.until, Times::Exact));
        let groups = if self.groups.is_empty() { "-".into() } else { self.groups.join(", ") };
        vec![self.name.clone(), self.role.into(), groups, issued, until, state.into(), self.limits.to_string()]
    }
}

/// One that is known by a certificate, or by a token.
#[derive(Serialize)]
struct Known {
    name: String,
    by: &'static str,
    groups: Vec<String>,
    connections: u64,
    streams: u64,
    /// What counts for it.
    limits: Limits,
    /// What it has of its own.
    own: Limits,
}

impl Row for Known {
    const COLUMNS: &'static [Column] = &[
        Column::Name("NAME"),
        Column::Word("BY"),
        Column::Name("GROUPS"),
        Column::Number("CONNECTIONS"),
        Column::Number("STREAMS"),
        Column::Text("LIMITS"),
    ];

    fn cells(&self, _: Times) -> Vec<String> {
        let groups = if self.groups.is_empty() { "-".into() } else { self.groups.join(", ") };
        let (connections, streams) = (self.connections.to_string(), self.streams.to_string());
        vec![self.name.clone(), self.by.into(), groups, connections, streams, self.limits.to_string()]
    }
}

fn show(answer: pb::DescribeIdentityResponse, mut out: Out) -> Result<(), Error> {
    let known = answer.known.into_iter().map(|one| Known {
        name: one.name,
        by: if one.by_token { "token" } else { "certificate" },
        groups: one.groups,
        connections: one.connections,
        streams: one.streams,
        limits: Limits::of(one.limits),
        own: Limits::of(one.own),
    });
    Ok(out.rows(&mut Table::default(), &known.collect::<Vec<_>>())?)
}

#[derive(Serialize)]
struct Revoked {
    name: String,
    connections: u32,
}

/// Lists them, or lets one in no more.
pub(super) fn identity(link: &Link, identity: Identity, mut out: Out) -> Result<(), Error> {
    match identity {
        Identity::List => {
            let call = link.client.list_identities(&pb::ListIdentitiesRequest::new(), Link::answer_soon());
            let all = link.wait(call)?.identities.into_iter().map(|one| One {
                name: one.name,
                role: if one.operator { "operator" } else { "agent" },
                group: Some(one.group).filter(|group| !group.is_empty()),
                groups: one.groups,
                limits: Limits::of(one.limits),
                issued_at: Moment::if_set(one.issued_at),
                until: Moment::if_set(one.until),
                revoked: one.revoked,
            });
            Ok(out.rows(&mut Table::default(), &all.collect::<Vec<_>>())?)
        }
        Identity::Limits { name, limits } if limits.is_empty() => {
            let request = pb::DescribeIdentityRequest { name, ..Default::default() };
            show(link.wait(link.client.describe_identity(&request, Link::answer_soon()))?, out)
        }
        Identity::Limits { name, limits } => {
            let (set, unset): (Vec<_>, Vec<_>) = limits.into_iter().partition(|(_, most)| most.is_some());
            let limits = set.into_iter().filter_map(|(key, most)| Some((key, most?))).collect();
            let unset = unset.into_iter().map(|(key, _)| key).collect();
            let request = pb::ChangeIdentityRequest { name, limits, unset, ..Default::default() };
            show(link.wait(link.client.change_identity(&request, Link::answer_soon()))?, out)
        }
        Identity::Grant { name, group, remove } => {
            let request =
                pb::ChangeIdentityRequest { name, add_groups: group, remove_groups: remove, ..Default::default() };
            show(link.wait(link.client.change_identity(&request, Link::answer_soon()))?, out)
        }
        Identity::Revoke { name } => {
            let request = pb::RevokeIdentityRequest { name: name.clone(), ..Default::default() };
            let connections = link.wait(link.client.revoke_identity(&request, Link::answer_soon()))?.connections;
            let ended = count(connections.into(), "connection");
            let text = format!("{name} is let in no more; {ended} ended");
            Ok(out.object(&Revoked { name, connections }, &text)?)
        }
    }
}
