//! Who calls, and what they may do: the one place where a certificate or a token becomes an identity, and is held against the
//! [table of roles](super::roles).

use std::fmt;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures_timer::Delay;
use grpcio::RpcContext;
use log::info;

use super::config::Config;
use super::grants::{Grants, Known};
use super::identity::{Connections, Identity, Origin};
use super::kept::Kept;
use super::limits::{Account, Accounts, Held, Limit, Wait};
use super::logins::{self, Logins};
use super::refusal::Refusal;
use super::roles::{Role, Row, row};
use super::tokens::{End, OPERATOR_FILE, Token, Tokens};
use crate::broker::{Join, Quota};
use crate::labels::Labels;
use crate::secret::Secret;
#[cfg(feature = "cluster")]
use crate::store::{Granted, StoreError};
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

/// How long one that is held up waits before it is looked again whether it still may.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The method by which tasks are taken.
const TAKES_TASKS: &str = "/Contact/getTask";

/// Metadata of a call that another server of the cluster passed on: who called it, by a certificate, and from where.
#[cfg(feature = "cluster")]
const PASSED_FOR: &str = "contact-passed-for";
#[cfg(feature = "cluster")]
const PASSED_FROM: &str = "contact-passed-from";

/// Says who calls. Cheap to clone.
#[derive(Clone)]
pub(super) struct Access(Arc<Shared>);

struct Shared {
    /// Whether callers have to say who they are.
    is_on: bool,
    connections: Connections,
    #[cfg(feature = "cluster")]
    kept: Kept,
    tokens: Tokens,
    grants: Grants,
    accounts: Accounts,
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
    Certificate(Arc<Known>),
    Token(Arc<Token>),
}

impl Who {
    fn identity(&self) -> &Identity {
        match self {
            Who::Certificate(known) => &known.identity,
            Who::Token(token) => &token.identity,
        }
    }

    /// The groups that are granted to it.
    fn groups(&self) -> &[String] {
        match self {
            Who::Certificate(known) => &known.groups,
            Who::Token(token) => &token.groups,
        }
    }

    /// Those that are granted to all who came so.
    fn common_groups(&self) -> &[String] {
        match self {
            Who::Certificate(known) => &known.common_groups,
            Who::Token(_) => &[],
        }
    }

    /// What it is, whatever it says.
    fn labels(&self) -> &Labels {
        match self {
            Who::Certificate(known) => &known.labels,
            Who::Token(token) => &token.labels,
        }
    }

    fn account(&self) -> &Arc<Account> {
        match self {
            Who::Certificate(known) => &known.account,
            Who::Token(token) => &token.account,
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
    pub(super) fn of(
        is_on: bool,
        data: &Path,
        kept: Kept,
        connections: Connections,
        grants: Grants,
        accounts: Accounts,
    ) -> Result<Access, String> {
        let tokens = match is_on {
            true => Tokens::open(data, kept.clone(), accounts.clone())?,
            false => Tokens::none(kept.clone(), accounts.clone()),
        };
        let (logins, operator_file) =
            (Logins::default(), std::path::absolute(data.join(OPERATOR_FILE)).unwrap_or_default());
        let shared = Shared {
            is_on,
            connections,
            #[cfg(feature = "cluster")]
            kept,
            tokens,
            grants,
            accounts,
            logins,
            operator_file,
        };
        Ok(Access(Arc::new(shared)))
    }

    /// Nobody has to say anything.
    #[cfg(test)]
    pub(super) fn open(connections: Connections) -> Access {
        let accounts = Accounts::new(super::limits::Limits::default());
        let (data, kept) = (Path::new(""), Kept::in_files(Path::new("")));
        let grants = Grants::open(data, kept.clone(), None, false, &[], accounts.clone());
        let grants = grants.unwrap_or_else(|why| panic!("{why}"));
        Access::of(false, data, kept, connections, grants, accounts).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Grants what stands in the log of a cluster, and nothing else. Says what that makes for the broker.
    #[cfg(feature = "cluster")]
    pub(super) fn take(&self, granted: &Granted) -> Vec<Quota> {
        let _changing = self.0.kept.changing();
        self.take_now(granted)
    }

    /// The same, of what the log says now. `None`: somebody changes something, which may wait for the log.
    #[cfg(feature = "cluster")]
    pub(super) fn try_take(
        &self,
        read: impl FnOnce() -> Result<Granted, StoreError>,
    ) -> Option<Result<Vec<Quota>, StoreError>> {
        // Else what is made between the two would count no more.
        let _changing = self.0.kept.try_changing()?;
        Some(read().map(|granted| self.take_now(&granted)))
    }

    #[cfg(feature = "cluster")]
    fn take_now(&self, granted: &Granted) -> Vec<Quota> {
        let (mut quotas, regrouped) = self.0.grants.take(granted);
        quotas.extend(self.0.tokens.take(granted));
        // They come again at once, and are looked at anew.
        for name in &regrouped {
            self.0.connections.end(name);
        }
        quotas
    }

    pub(super) fn is_on(&self) -> bool {
        self.0.is_on
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    pub(super) fn grants(&self) -> &Grants {
        &self.0.grants
    }

    pub(super) fn accounts(&self) -> &Accounts {
        &self.0.accounts
    }

    pub(super) fn logins(&self) -> &Logins {
        &self.0.logins
    }

    /// Lets a call in that may do what it asks for; says who calls, and what that is.
    pub(super) fn let_in(&self, ctx: &RpcContext<'_>) -> Result<(Caller, &'static Row), Refusal> {
        let row = asked(ctx);
        if row.needs.is_none() {
            let Origin { peer, .. } = self.0.connections.origin(ctx.peer())?;
            return Ok((Caller { peer, who: None }, row));
        }
        let caller = self.caller(ctx)?;
        self.check(&caller, row)?;
        Ok((caller, row))
    }

    /// Whose call it is.
    fn caller(&self, ctx: &RpcContext<'_>) -> Result<Caller, Refusal> {
        let Origin { peer, known } = self.0.connections.origin(ctx.peer())?;
        #[cfg(feature = "cluster")]
        if known.as_ref().is_some_and(|known| known.identity.role == Role::Agent) && self.0.tokens.knows_little() {
            return Err(Refusal::ServerBehind);
        }
        let mut who = known.map(Who::Certificate);
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

    /// Whose call it is that another server of the cluster passed on: it saw who called. A token comes along, and is known here, too.
    #[cfg(feature = "cluster")]
    pub(super) fn passed_on(&self, ctx: &RpcContext<'_>) -> Result<(Caller, &'static Row), Refusal> {
        let said = |wanted: &str| {
            let mut all = ctx.request_headers().iter().filter(|(key, _)| *key == wanted);
            all.next().and_then(|(_, value)| std::str::from_utf8(value).ok())
        };
        let row = asked(ctx);
        let (peer, who) = match said(PASSED_FOR) {
            Some(uri) => (self.0.connections.origin(ctx.peer())?.peer, Some(Who::Certificate(self.certified(uri)?))),
            None => {
                let Caller { peer, who } = self.caller(ctx)?;
                (peer, who.filter(|who| matches!(who, Who::Token(_))))
            }
        };
        let caller = Caller { peer: said(PASSED_FROM).map_or(peer, Arc::from), who };
        self.check(&caller, row)?;
        Ok((caller, row))
    }

    /// Where a request over HTTP comes from that another server of the cluster passed on. `identity`: whose certificate that one saw.
    #[cfg(feature = "cluster")]
    pub(super) fn passed_by(&self, peer: &str, identity: Option<&str>) -> Result<Origin, Refusal> {
        Ok(Origin { peer: peer.into(), known: identity.map(|uri| self.certified(uri)).transpose()? })
    }

    #[cfg(feature = "cluster")]
    fn certified(&self, uri: &str) -> Result<Arc<Known>, Refusal> {
        let known = Identity::from_uri(uri).and_then(|identity| self.0.grants.known(identity));
        known.map(Arc::new).ok_or(Refusal::WrongToken)
    }

    /// The identity of one who shows the credential of operators on this machine, which no other server knows. `None`: it is not that.
    #[cfg(feature = "cluster")]
    pub(super) fn local(&self, authorization: &[u8]) -> Option<String> {
        let token = self.by_token(authorization).ok().filter(|token| self.0.is_on && token.is_local());
        token.map(|token| token.identity.uri())
    }

    /// Whether some identity says what is of this key of a label: then nobody is believed who says it himself.
    pub(super) fn binds(&self, key: &str) -> bool {
        self.0.tokens.binds(key) || self.0.grants.binds(key)
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

    /// Whose request over HTTP it is: by what its header `authorization` says, by the cookie of a session, or by a certificate.
    pub(super) fn browser(
        &self,
        origin: Origin,
        authorization: &[&[u8]],
        session: Option<&str>,
    ) -> Result<Caller, Refusal> {
        let Origin { peer, known } = origin;
        let by_certificate = known.map(Who::Certificate);
        match (self.0.is_on, authorization) {
            (false, _) => Ok(Caller { peer, who: by_certificate }),
            (true, [value]) => Ok(Caller { peer, who: Some(Who::Token(self.by_token(value)?)) }),
            (true, []) => {
                let entered = session.and_then(|session| self.0.logins.session(session));
                let caller = Caller { peer, who: entered.and_then(|caller| caller.who).or(by_certificate) };
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
    /// How another server of the cluster is told whose call it is. What a token is good for it finds out itself, so that goes along
    /// (`authorization`), unless it is that of operators on this machine.
    #[cfg(feature = "cluster")]
    pub(super) fn pass_on<'a>(&self, authorization: impl Iterator<Item = &'a [u8]>, add: &mut dyn FnMut(&str, &str)) {
        add(PASSED_FROM, &self.peer);
        match &self.who {
            Some(who @ Who::Certificate(_)) => add(PASSED_FOR, &who.identity().uri()),
            Some(who @ Who::Token(token)) if token.is_local() => add(PASSED_FOR, &who.identity().uri()),
            _ => authorization.for_each(|value| add("authorization", &String::from_utf8_lossy(value))),
        }
    }

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

    /// Completes what a client says of itself by what is known of it, and refuses what it must not say. Its labels are those that its
    /// identity has, and what it says itself of keys that no identity has (`is_bound`).
    pub(super) fn complete(&self, join: &mut Join, is_bound: impl Fn(&str) -> bool) -> Result<(), Refusal> {
        let Some(who) = &self.who else { return Ok(()) };
        join.quota = Some(who.account().quota());
        let identity = who.identity();
        if identity.role != Role::Agent {
            return Ok(());
        }
        if let Some(client) = &join.client
            && !identity.covers(client.as_str())
        {
            return Err(Refusal::NotItsId { client: client.to_string(), identity: identity.to_string() });
        }
        let granted = who.groups();
        let may_have =
            |group: &str| identity.covers(group) || granted.iter().chain(who.common_groups()).any(|one| one == group);
        join.labels = std::mem::take(&mut join.labels).overridden(who.labels(), is_bound);
        if let Some(group) = join.group.as_ref().filter(|group| !may_have(group.as_str())) {
            return Err(Refusal::GroupNotAllowed {
                group: group.to_string(),
                identity: identity.to_string(),
                by_token: matches!(who, Who::Token(_)),
            });
        }
        match granted.first() {
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

    /// What is to be watched while a stream of it is open.
    pub(super) fn standing(&self) -> Standing {
        match &self.who {
            Some(Who::Token(token)) => Standing { caller: Some(self.clone()), end: Some(token.end()) },
            // The connection of a certificate ends with it.
            Some(Who::Certificate(_)) => Standing { caller: Some(self.clone()), end: None },
            None => Standing::of_nobody(),
        }
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

    /// Writes down which schedule it set, likewise.
    pub(super) fn set_schedule(&self, name: &Name) {
        if self.who.is_some() {
            info!("record: {self}: SetSchedule {:?}", name.as_str());
        }
    }

    /// Its account is charged with a call, if it is known, for as long as what this gives is kept.
    pub(super) fn hold(&self, row: &Row) -> Result<Option<Held>, Refusal> {
        let hold = |who: &Who| who.account().hold(&self.peer, row.name == TAKES_TASKS);
        self.who.as_ref().map(hold).transpose()
    }

    /// Counts tasks that it submits, or says how long to wait with them.
    pub(super) fn spend(&self, tasks: usize) -> Result<(), Refusal> {
        let Some(who) = &self.who else { return Ok(()) };
        who.account().spend(Limit::Submits, tasks, Instant::now()).map_err(|Wait { limit, wait }| {
            who.account().reached(Limit::Submits);
            Refusal::TooFast { identity: who.identity().to_string(), rate: limit, wait }
        })
    }

    /// Waits until it may have so much more of what is limited by the second: whoever sends is held up meanwhile.
    pub(super) async fn in_turn(&self, of: Limit, count: usize) -> Result<(), Refusal> {
        let Some(who) = &self.who else { return Ok(()) };
        self.check()?;
        let mut was_held_up = false;
        while let Err(Wait { wait, .. }) = who.account().spend(of, count, Instant::now()) {
            if !std::mem::replace(&mut was_held_up, true) {
                who.account().reached(of);
            }
            Delay::new(wait.min(LONGEST_WAIT)).await;
            // It may have ended while it waited.
            self.check()?;
        }
        Ok(())
    }

    /// It was given less than it wanted because of its account.
    pub(super) fn has_window(&self, window: u32) {
        let of = self.who.as_ref().map(Who::account);
        if let Some(account) = of.filter(|account| account.quota().window == window) {
            account.reached(Limit::Window);
        }
    }

    /// What its account makes for the broker.
    pub(super) fn quota(&self) -> Option<Quota> {
        self.who.as_ref().map(|who| who.account().quota())
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

/// Whether somebody still may do what it began, for as long as a stream of it is open.
pub(super) struct Standing {
    caller: Option<Caller>,
    end: Option<End>,
}

impl Standing {
    /// Of one who need not say who it is.
    pub(super) fn of_nobody() -> Standing {
        Standing { caller: None, end: None }
    }

    /// Whether it still is who it was: its token may have been revoked, or be over.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        self.caller.as_ref().map_or(Ok(()), Caller::check)
    }

    /// See [`Caller::in_turn`].
    pub(super) async fn in_turn(&self, of: Limit, count: usize) -> Result<(), Refusal> {
        match &self.caller {
            Some(caller) => caller.in_turn(of, count).await,
            None => Ok(()),
        }
    }

    /// Who it is, if it has to be known.
    pub(super) fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    /// Ready when it is not any more, with the reason.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        let Some(end) = &mut self.end else { return Poll::Pending };
        std::task::ready!(end.poll_unpin(cx));
        self.end = None;
        self.check().map_or_else(Poll::Ready, |()| Poll::Pending)
    }

    /// Resolves then.
    pub(super) async fn end(&mut self) -> Refusal {
        poll_fn(|cx| self.poll_end(cx)).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::limits::{Limits, Own};
    use super::super::tokens::NewToken;
    use super::*;

    fn caller(groups: &[&str]) -> Caller {
        let folder = tempfile::tempdir().unwrap();
        let groups = groups.iter().map(ToString::to_string).collect();
        let (name, role, labels) = ("web".into(), "agent".into(), "role=web".into());
        let new = NewToken { name, role, groups, targets: vec![], labels, rate: 0, limits: Own::new(), ttl: None };
        let accounts = Accounts::new(Limits::default());
        let (token, _) =
            Tokens::open(folder.path(), Kept::in_files(folder.path()), accounts).unwrap().create(new).unwrap();
        Caller { peer: "ipv4:192.0.2.1:5".into(), who: Some(Who::Token(token)) }
    }

    fn completed(caller: &Caller, client: Option<&str>, group: Option<&str>) -> Result<(String, String), &'static str> {
        let name = |text: &str| Name::new(NameOf::ClientOrGroup, text).unwrap();
        let mut join = Join { client: client.map(name), group: group.map(name), ..Join::default() };
        caller.complete(&mut join, |key| key == "env").map_err(|refusal| refusal.cause())?;
        let text = |name: Option<Name>| name.map(|name| name.to_string()).unwrap_or_default();
        Ok((text(join.client), text(join.group)))
    }

    #[test]
    fn the_labels_of_an_agent_are_those_of_its_token_and_what_it_says_of_keys_that_no_token_has() {
        let said = |labels: &str| {
            let mut join = Join { labels: labels.parse().unwrap(), ..Join::default() };
            caller(&["workers"]).complete(&mut join, |key| key == "env").unwrap();
            join.labels.to_string()
        };
        assert_eq!(said(""), "role=web");
        assert_eq!(said("os=linux,role=db"), "os=linux,role=web");
        assert_eq!(said("env=production,os=linux"), "os=linux,role=web", "others have that from their tokens");
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
