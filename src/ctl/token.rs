//! Tokens, and the way to the page: who may do what where callers have to say who they are.

use std::env;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::identity::Limits;
use super::link::Link;
use super::moment::{Moment, Times};
use super::out::Out;
use super::table::{Column, Row, Table};
use super::{Error, args, doctor};
use crate::secret::{self, Secret};

use crate::wire::control as pb;

/// The folder that a server keeps its data in unless it is told otherwise, and the variable that tells it.
const DATA: (&str, &str) = ("contact-data", "CONTACT_DATA");
/// The credential of operators in that folder.
const OPERATOR_FILE: &str = "operator.token";

/// Where contactctl looks when it is not told. For errors.
pub(super) const LOOKED: &str = "contactctl looks by itself for operator.token in the server's data folder, if that is ./contact-data or CONTACT_DATA names it";

/// The token to say who we are with: that of the file, or the one that a server on this machine made for its operators.
pub(super) fn mine(file: Option<&Path>, server: &str, out: &Out) -> Result<Option<Secret>, Error> {
    let (secret, warning) = match file {
        Some(file) => secret::read(file).map_err(Error::Usage)?,
        // Nobody else is shown it.
        None if !is_of_this_machine(server) => return Ok(None),
        None => {
            let folder = env::var_os(DATA.1).filter(|folder| !folder.is_empty());
            let folder = folder.map_or_else(|| DATA.0.into(), PathBuf::from);
            match secret::read(&folder.join(OPERATOR_FILE)) {
                Ok(found) => found,
                // It may be of no use to this server, or there may be none.
                Err(_) => return Ok(None),
            }
        }
    };
    warning.into_iter().for_each(|warning| out.remark(&warning));
    Ok(Some(secret))
}

fn is_of_this_machine(server: &str) -> bool {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    server.starts_with("unix:") || host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[derive(Serialize)]
struct Made {
    #[serde(flatten)]
    token: Token,
    secret: String,
}

#[derive(Serialize)]
struct Token {
    name: String,
    role: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    targets: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    labels: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    #[serde(skip_serializing_if = "Limits::is_empty")]
    limits: Limits,
    created_at: Moment,
    expires_at: Option<Moment>,
}

#[derive(Serialize)]
struct Revoked {
    name: String,
    revoked: bool,
}

#[derive(Serialize)]
struct Login {
    url: String,
}

impl From<pb::Token> for Token {
    fn from(token: pb::Token) -> Token {
        let pb::Token { name, role, groups, targets, labels, rate, limits, created_at, expires_at, .. } = token;
        let expires_at = Moment::if_set(expires_at);
        let rate = Some(rate).filter(|rate| *rate > 0);
        let limits = Limits::of(limits);
        Token { name, role, groups, targets, labels, rate, limits, created_at: Moment(created_at), expires_at }
    }
}

impl Row for Token {
    const COLUMNS: &'static [Column] =
        &[Column::Name("NAME"), Column::Word("ROLE"), Column::Word("MADE"), Column::Word("ENDS"), Column::Text("FOR")];
    fn cells(&self, times: Times) -> Vec<String> {
        let names = [&self.groups, &self.targets].into_iter().flatten().cloned().collect::<Vec<_>>().join(", ");
        let what = [names, self.labels.clone(), self.limits.to_string()];
        let what: Vec<String> = what.into_iter().filter(|what| !what.is_empty()).collect();
        let ends = self.expires_at.map_or_else(|| "-".into(), |at| Times::Exact.show(at));
        vec![self.name.clone(), self.role.clone(), times.show(self.created_at), ends, what.join("; ")]
    }
}

/// Makes one, and prints it.
pub(super) fn create(link: &Link, new: args::NewToken, mut out: Out) -> Result<(), Error> {
    let request = pb::CreateTokenRequest {
        name: new.name,
        role: new.role,
        groups: new.group,
        targets: new.to,
        labels: new.label.join(","),
        rate: new.rate.unwrap_or(0),
        limits: new.limits.of(),
        ttl_ms: new.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        ..Default::default()
    };
    let answer = link.wait(link.client.create_token(&request, Link::answer_soon()))?;
    let token: Token = answer.token.into_option().unwrap_or_default().into();
    out.remark(&format!(
        "the token of {}, which is shown this once; keep it in a file for its owner alone, for --token-file:",
        token.name
    ));
    let text = answer.secret.clone();
    Ok(out.object(&Made { token, secret: answer.secret }, &text)?)
}

/// Lists them.
pub(super) fn list(link: &Link, mut out: Out) -> Result<(), Error> {
    let answer = link.wait(link.client.list_tokens(&pb::ListTokensRequest::new(), Link::answer_soon()))?;
    let tokens: Vec<Token> = answer.tokens.into_iter().map(Token::from).collect();
    if tokens.is_empty() {
        out.remark("there are no tokens");
    }
    if !answer.required {
        out.remark("this server asks nobody who they are, and looks at no token: start it with --auth required");
    }
    Ok(out.rows(&mut Table::default(), &tokens)?)
}

/// Has one count no more.
pub(super) fn revoke(link: &Link, name: String, mut out: Out) -> Result<(), Error> {
    let request = pb::RevokeTokenRequest { name: name.clone(), ..Default::default() };
    link.wait(link.client.revoke_token(&request, Link::answer_soon()))?;
    let text = format!("the token of {name} counts no more");
    Ok(out.object(&Revoked { name, revoked: true }, &text)?)
}

/// Prints a link to the page.
pub(super) fn login(link: &Link, server: &str, url: Option<String>, mut out: Out) -> Result<(), Error> {
    let answer = link.wait(link.client.create_login(&pb::CreateLoginRequest::new(), Link::answer_soon()))?;
    if url.is_none() && answer.http.is_empty() {
        return Err(Error::Refused("the server has no page (--http off)".into()));
    }
    let base = url.unwrap_or_else(|| {
        let scheme = if answer.tls { "https" } else { "http" };
        let (_, port) = answer.http.rsplit_once(':').unwrap_or_default();
        match &*answer.host {
            "" => format!("{scheme}://{}", doctor::seen_from_here(server, &answer.http)),
            address if address.contains(':') => format!("{scheme}://[{address}]:{port}"),
            name => format!("{scheme}://{name}:{port}"),
        }
    });
    let url = format!("{}{}", base.trim_end_matches('/'), answer.path);
    out.remark("open this in a browser within a minute; it works once:");
    let text = url.clone();
    Ok(out.object(&Login { url }, &text)?)
}
