//! Who may come in: `contactctl invite`, `cert issue` and `identity`.

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
    let Invite { group, label, ttl, uses } = invite;
    let request = pb::InviteRequest {
        group: group.unwrap_or_default(),
        labels: label.join(","),
        lasts_ms: millis(ttl),
        uses,
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
    let Cert::Issue { name, operator, ttl, dir } = cert;
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
    issued_at: Moment,
    until: Moment,
    revoked: bool,
}

impl Row for One {
    const COLUMNS: &'static [Column] = &[
        Column::Name("NAME"),
        Column::Word("ROLE"),
        Column::Name("GROUP"),
        Column::Word("ISSUED"),
        Column::Word("UNTIL"),
        Column::Word("STATE"),
    ];

    fn cells(&self, times: Times) -> Vec<String> {
        let state = if self.revoked { "revoked" } else { "let in" };
        let group = self.group.clone().unwrap_or_else(|| "any".into());
        let (issued, until) = (times.show(self.issued_at), self.until.exact());
        vec![self.name.clone(), self.role.into(), group, issued, until, state.into()]
    }
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
                issued_at: Moment(one.issued_at),
                until: Moment(one.until),
                revoked: one.revoked,
            });
            Ok(out.rows(&mut Table::default(), &all.collect::<Vec<_>>())?)
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
