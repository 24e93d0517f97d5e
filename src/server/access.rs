//! Who calls, and what they may do: the one place where a certificate or a token becomes an identity, and is held against the
//! [table of roles](super::roles).

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use grpcio::RpcContext;
use log::info;

use super::config::Config;
use super::identity::{Connections, Identity, Origin};
use super::logins::{self, Logins};
use super::refusal::Refusal;
use super::roles::{Role, Row, row};
use super::tokens::{OPERATOR_FILE, Token, Tokens};
use crate::broker::Join;
use crate::secret::Secret;
use crate::task::{Name, NameOf, NewTask, Submitter};

/// Whether callers have to say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Auth {
    /// When a port is for other machines, with TLS. Where everything is for this machine, or `insecure`, they need not.
    #[default]
    Auto,
    /// In any case.
    Required,
}

impl Auth {
    /// As it is written in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Auth::Auto => "auto",
            Auth::Required => "required",
        }
    }
}

impl std::str::FromStr for Auth {
    type Err = String;

    fn from_str(text: &str) -> Result<Auth, String> {
        [Auth::Auto, Auth::Required]
            .into_iter()
            .find(|auth| auth.as_str() == text)
            .ok_or_else(|| "must be auto or required".into())
    }
}

/// Whether callers of a server that is set so have to say who they are.
pub(super) fn is_on(config: &Config) -> bool {
    let ports = [Some(&config.listen), Some(&config.control), config.http.as_ref()];
    let reaches_others = |address: &String| match address.to_socket_addrs() {
        Ok(mut all) => all.any(|address| !address.ip().to_canonical().is_loopback()),
        // It cannot be taken, and nothing is served.
        Err(_) => false,
    };
    let has_tls = config.tls.is_some() || config.public.is_some();
    let is_open = has_tls && !config.insecure && ports.into_iter().flatten().any(reaches_others);
    config.auth == Auth::Required || is_open
}

/// Says who calls. Cheap to clone.
#[derive(Clone)]
pub(super) struct Access(Arc<Shared>);

struct Shared {
    /// Whether callers have to say who they are.
    is_on: bool,
    connections: Connections,
    tokens: Tokens,
    logins: Logins,
    /// Where operators on this machine find their credential.
    operator_file: PathBuf,
}

/// Somebody who calls.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The address.
    pub(super) peer: Arc<str>,
    who: Option<Who>,
}

#[derive(Clone, Debug)]
enum Who {
    /// With the one group that it may name, if it may not name any.
    Certificate(Arc<Identity>, Option<String>),
    Token(Arc<Token>),
}

impl Who {
    fn identity(&self) -> &Identity {
        match self {
            Who::Certificate(identity, _) => identity,
            Who::Token(token) => &token.identity,
        }
    }
}

/// As the record names it.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Some(who) => write!(f, "{:?} ({}) at {}", who.identity().name.as_str(), who.identity().role, self.peer),
            None => self.peer.fmt(f),
        }
    }
}

impl Access {
    /// Reads the tokens, if callers have to say who they are. An error says what is wrong with which file.
    pub(super) fn of(is_on: bool, data: &Path, connections: Connections) -> Result<Access, String> {
        let tokens = if is_on { Tokens::open(data)? } else { Tokens::none(data) };
        let operator_file = std::path::absolute(data.join(OPERATOR_FILE)).unwrap_or_default();
        Ok(Access(Arc::new(Shared { is_on, connections, tokens, logins: Logins::default(), operator_file })))
    }

    /// Nobody has to say anything.
    #[cfg(test)]
    pub(super) fn open(connections: Connections) -> Access {
        let tokens = Tokens::none(Path::new(""));
        let (logins, operator_file) = (Logins::default(), PathBuf::new());
        Access(Arc::new(Shared { is_on: false, connections, tokens, logins, operator_file }))
    }

    pub(super) fn is_on(&self) -> bool {
        self.0.is_on
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    pub(super) fn logins(&self) -> &Logins {
        &self.0.logins
    }

    /// Lets a call in that may do what it asks for.
    pub(super) fn let_in(&self, ctx: &RpcContext<'_>) -> Result<Caller, Refusal> {
        let row = asked(ctx);
        if row.needs.is_none() {
            let Origin { peer, .. } = self.0.connections.origin(ctx.peer())?;
            return Ok(Caller { peer, who: None });
        }
        let caller = self.caller(ctx)?;
        self.check(&caller, row)?;
        Ok(caller)
    }

    /// Whose call it is.
    pub(super) fn caller(&self, ctx: &RpcContext<'_>) -> Result<Caller, Refusal> {
        let Origin { peer, identity, group } = self.0.connections.origin(ctx.peer())?;
        let mut who = identity.map(|identity| Who::Certificate(Arc::new(identity), group));
        if self.0.is_on {
            let mut said = ctx.request_headers().iter().filter(|(key, _)| *key == "authorization");
            if let Some((_, value)) = said.next() {
                if said.next().is_some() {
                    return Err(Refusal::WrongToken);
                }
                who = Some(Who::Token(self.by_token(value)?));
            }
        }
        Ok(Caller { peer, who })
    }

    /// Whose call it is, and what it asks for.
    pub(super) fn begin(&self, ctx: &RpcContext<'_>) -> Result<(Caller, &'static Row), Refusal> {
        Ok((self.caller(ctx)?, asked(ctx)))
    }

    /// Makes a link to the page for somebody: its path, and how long it works.
    pub(super) fn login(&self, caller: Caller) -> (String, Duration) {
        if !self.0.is_on {
            return ("/".into(), logins::LINK);
        }
        (format!("/login?code={}", self.0.logins.link(caller, Instant::now())), logins::LINK)
    }

    /// The token that a value of `authorization` is, `Bearer ct1_…`.
    fn by_token(&self, value: &[u8]) -> Result<Arc<Token>, Refusal> {
        let text = std::str::from_utf8(value).unwrap_or_default();
        let (scheme, rest) = text.split_once(' ').unwrap_or_default();
        let secret = scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(rest.trim_start())).flatten();
        self.0.tokens.find(secret.ok_or(Refusal::WrongToken)?.expose())
    }

    /// Whose request over HTTP it is: by what its header `authorization` says, or by the cookie of a session.
    pub(super) fn browser(
        &self,
        peer: Arc<str>,
        authorization: &[&[u8]],
        session: Option<&str>,
    ) -> Result<Caller, Refusal> {
        match (self.0.is_on, authorization) {
            (false, _) => Ok(Caller { peer, who: None }),
            (true, [value]) => Ok(Caller { peer, who: Some(Who::Token(self.by_token(value)?)) }),
            (true, []) => {
                let entered = session.and_then(|session| self.0.logins.session(session));
                let caller = Caller { peer, who: entered.and_then(|caller| caller.who) };
                caller.check()?;
                Ok(caller)
            }
            (true, _) => Err(Refusal::WrongToken),
        }
    }

    /// Whether somebody may do that.
    pub(super) fn check(&self, caller: &Caller, row: &'static Row) -> Result<(), Refusal> {
        let Some(needed) = row.needs else { return Ok(()) };
        match caller.who.as_ref().map(Who::identity) {
            None if self.0.is_on => {
                let file = Some(self.0.operator_file.clone()).filter(|_| is_of_this_machine(&caller.peer));
                Err(Refusal::NoCredential { file })
            }
            None => Ok(()),
            Some(identity) if identity.role.includes(needed) => Ok(()),
            Some(identity) => Err(Refusal::RoleNotAllowed {
                identity: identity.to_string(),
                role: identity.role,
                needed,
                what: row.name,
            }),
        }
    }
}

/// What a call asks for.
fn asked(ctx: &RpcContext<'_>) -> &'static Row {
    std::str::from_utf8(ctx.method()).map_or_else(|_| row(""), row)
}

/// Whether an address, as gRPC writes it or without a port, is of this machine.
fn is_of_this_machine(peer: &str) -> bool {
    let plain = peer.trim_start_matches("ipv4:").trim_start_matches("ipv6:").replace("%5B", "[").replace("%5D", "]");
    let ip = plain.parse().map(|address: SocketAddr| address.ip()).or_else(|_| plain.parse());
    ip.is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

impl Caller {
    /// One who does not have to say who it is.
    pub(super) fn nobody(peer: Arc<str>) -> Caller {
        Caller { peer, who: None }
    }

    /// Whether it still is who it was: its token may have been revoked, or be over.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        match &self.who {
            Some(Who::Token(token)) => token.check(),
            _ => Ok(()),
        }
    }

    /// Completes what a client says of itself by what is known of it, and refuses what it must not say.
    pub(super) fn complete(&self, join: &mut Join) -> Result<(), Refusal> {
        let Some(who) = &self.who else { return Ok(()) };
        let identity = who.identity();
        if identity.role != Role::Agent {
            return Ok(());
        }
        if let Some(client) = &join.client
            && !identity.covers(client.as_str())
        {
            return Err(Refusal::NotItsId { client: client.to_string(), identity: identity.to_string() });
        }
        let granted = match who {
            Who::Certificate(_, group) => group.as_ref().map(std::slice::from_ref),
            Who::Token(token) => Some(token.grant.groups.as_slice()),
        };
        let may_have = |group: &str| match granted {
            None => true,
            Some(granted) => identity.covers(group) || granted.iter().any(|one| one == group),
        };
        if let Some(group) = join.group.as_ref().filter(|group| !may_have(group.as_str())) {
            return Err(Refusal::GroupNotAllowed { group: group.to_string(), identity: identity.to_string() });
        }
        match granted.and_then(<[String]>::first) {
            Some(first) if join.group.is_none() => join.group = Some(Name::new(NameOf::ClientOrGroup, first)?),
            None if join.group.is_none() && join.client.is_none() => join.client = Some(identity.name.clone()),
            _ => {}
        }
        Ok(())
    }

    /// What it is called, if it is known; else nothing.
    pub(super) fn name(&self) -> &str {
        self.who.as_ref().map_or("", |who| who.identity().name.as_str())
    }

    /// Whether [`Caller::check`] may say something else one day.
    pub(super) fn may_end(&self) -> bool {
        matches!(self.who, Some(Who::Token(_)))
    }

    /// What makes tasks its own that it may submit, and refuses the others.
    pub(super) fn submits(&self) -> impl Fn(NewTask) -> Result<NewTask, Refusal> {
        let submitter = |identity: &Identity| Submitter {
            name: identity.name.as_str().to_owned(),
            role: identity.role.as_str().to_owned(),
        };
        let by = self.who.as_ref().map(|who| Arc::new(submitter(who.identity())));
        move |task| {
            if let Some(Who::Token(token)) = &self.who {
                token.allows(&task)?;
            }
            Ok(NewTask { by: by.clone(), ..task })
        }
    }

    /// Who it is, for what it begins.
    pub(super) fn submitter(&self) -> Option<Submitter> {
        let who = self.who.as_ref()?.identity();
        Some(Submitter { name: who.name.as_str().to_owned(), role: who.role.as_str().to_owned() })
    }

    /// Writes down which run it began, if it is known who it is.
    pub(super) fn began(&self, number: u64, targets: usize) {
        if self.who.is_some() {
            info!("record: {self}: BeginRun {number} for {targets} groups");
        }
    }

    /// Counts tasks that it submits, or says how long to wait with them.
    pub(super) fn spend(&self, tasks: usize) -> Result<(), Refusal> {
        match &self.who {
            Some(Who::Token(token)) => token.spend(tasks, Instant::now()),
            _ => Ok(()),
        }
    }

    /// Writes down what it did, or tried to. `said` has no secrets and no texts of tasks.
    pub(super) fn record(&self, row: &Row, said: &str, refused: Option<&Refusal>) {
        let what = row.name.rsplit('/').next().filter(|_| row.name.starts_with('/')).unwrap_or(row.name);
        match refused {
            None => info!("record: {self}: {what} {said}"),
            Some(why) => info!("record: {self}: {what} {said}: refused, {}", why.cause()),
        }
    }

    /// Writes down what it did over HTTP, or tried to.
    pub(super) fn record_answer(&self, method: &str, path: &str, status: u16) {
        info!("record: {self}: {method} {path}: {status}");
    }

    /// Writes down which tasks it submitted, if it is known who it is.
    pub(super) fn submitted(&self, first: u64, count: usize) {
        if self.who.is_some() && count > 0 {
            info!("record: {self}: Submit {count} tasks from {first}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::tokens::NewToken;
    use super::*;

    fn caller(groups: &[&str]) -> Caller {
        let folder = tempfile::tempdir().unwrap();
        let groups = groups.iter().map(ToString::to_string).collect();
        let new = NewToken { name: "web".into(), role: "agent".into(), groups, targets: vec![], rate: 0, ttl: None };
        let (token, _) = Tokens::open(folder.path()).unwrap().create(new).unwrap();
        Caller { peer: "ipv4:192.0.2.1:5".into(), who: Some(Who::Token(token)) }
    }

    fn completed(caller: &Caller, client: Option<&str>, group: Option<&str>) -> Result<(String, String), &'static str> {
        let name = |text: &str| Name::new(NameOf::ClientOrGroup, text).unwrap();
        let mut join = Join { client: client.map(name), group: group.map(name), ..Join::default() };
        caller.complete(&mut join).map_err(|refusal| refusal.cause())?;
        let text = |name: Option<Name>| name.map(|name| name.to_string()).unwrap_or_default();
        Ok((text(join.client), text(join.group)))
    }

    #[test]
    fn what_an_agent_does_not_say_is_taken_from_its_token_and_what_it_must_not_say_is_refused() {
        let workers = caller(&["workers", "others"]);
        let said = |client, group| completed(&workers, client, group);
        assert_eq!(said(None, None), Ok((String::new(), "workers".into())));
        assert_eq!(said(Some("web/1"), None), Ok(("web/1".into(), "workers".into())));
        assert_eq!(said(Some("web"), Some("others")), Ok(("web".into(), "others".into())));
        assert_eq!(said(None, Some("web")), Ok((String::new(), "web".into())));
        assert_eq!(said(Some("web2"), None), Err("CLIENT_NOT_ALLOWED"));
        assert_eq!(said(Some("workers"), None), Err("CLIENT_NOT_ALLOWED"), "an id is no group");
        assert_eq!(said(None, Some("secret")), Err("GROUP_NOT_ALLOWED"));
        let alone = caller(&[]);
        assert_eq!(completed(&alone, None, None), Ok(("web".into(), String::new())));
        assert_eq!(completed(&alone, None, Some("workers")), Err("GROUP_NOT_ALLOWED"));
    }
}
