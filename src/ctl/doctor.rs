//! `contactctl doctor`: checks a server from outside, and says what to change.

use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::{FutureExt, StreamExt, select};
use grpcio::{CallOption, Channel, ConnectivityState, MetadataBuilder, RpcStatusCode};
use humantime::format_duration;

use super::Error;
use super::args;
use super::finding::{self, Finding, Status};
use super::interrupt::Interrupt;
use super::link::{self, Link, To, Wire};
use super::out::Out;
use super::words::count;
use crate::task::Time;
use crate::terminal::escape;
use crate::wire::contact::{ClientMsg, Empty, Result as OutcomeReport};
use crate::wire::contact_grpc::ContactClient;
use crate::wire::control as pb;

/// The shortest time between two pings that C-core sends.
const PING: Duration = Duration::from_secs(10);
/// How long the port of the clients may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Clocks that differ by this need attention: contactctl makes points in time of --delay and --ttl.
const CLOCK_WARNING: i64 = 1_000;
const CLOCK_FAILED: i64 = 60_000;
/// How many of the latest outcomes are looked at.
const OUTCOMES: u32 = 200;
/// The share of them that may be leases that ended, as its inverse.
const ENDED_LEASES: u64 = 20;

/// Checks, and tells of each check as soon as it is done.
pub(super) fn run(doctor: &args::Doctor, to: To<'_>, out: Out) -> Result<(), Error> {
    let mut told = Findings { out, failed: 0, warnings: 0 };
    block_on(check(doctor, to, &mut told))?;
    match (told.failed, told.warnings) {
        (0, 0) => Ok(()),
        (0, warnings) if doctor.strict => Err(Error::Unwell(format!("{}, and --strict", count(warnings, "warning")))),
        (0, _) => Ok(()),
        (failed, _) => Err(Error::Unwell(format!("{} failed", count(failed, "check")))),
    }
}

/// Prints findings, and counts the bad ones.
struct Findings {
    out: Out,
    failed: u64,
    warnings: u64,
}

impl Findings {
    fn tell(&mut self, finding: &Finding) -> Result<(), Error> {
        match finding.status {
            Status::Ok => {}
            Status::Warning => self.warnings += 1,
            Status::Failed => self.failed += 1,
        }
        Ok(self.out.finding(finding)?)
    }
}

async fn check(doctor: &args::Doctor, to: To<'_>, told: &mut Findings) -> Result<(), Error> {
    let began = Instant::now();
    let address = to.address;
    let link = match Link::open(to).await {
        Ok(link) => link,
        Err(error @ Error::Usage(_)) => return Err(error),
        Err(Error::NoConnection { server, reason }) => {
            let remedy = match to.tls.is_some() || reason.contains("TLS") {
                true => {
                    "give --tls-ca, --tls-cert and --tls-key as the server's --tls-client-ca and certificate want it"
                }
                false => "name the server's --control address with --server",
            };
            return told.tell(&Finding::bad("control", Status::Failed, format!("{server}: {reason}"), remedy));
        }
        Err(error) => {
            let remedy = "start contact-server, or name its --control address with --server";
            let says = match error {
                Error::NoName { .. } => error.to_string(),
                _ => format!("no server answers at {address}"),
            };
            return told.tell(&Finding::bad("control", Status::Failed, says, remedy));
        }
    };
    let connected = began.elapsed();
    let asked = Time::now();
    let ask = async |counted| {
        let request = pb::GetServerRequest { counted, ..Default::default() };
        link.answer(link.client.get_server(&request, Link::answer_soon())).await
    };
    let server = match ask(false).await {
        Ok(server) => server,
        Err(e) => return told.tell(&no_answer(&e)),
    };
    let answered = Time::now();
    told.tell(&Finding::ok("control", format!("answers at {address}, {} ms to connect", connected.as_millis())))?;
    told.tell(&version(&server))?;
    told.tell(&clock(server.now, asked, answered))?;
    let clients = doctor.listen.clone().unwrap_or_else(|| seen_from_here(address, &server.listen));
    let needs_tls = server.tls && to.tls.is_none();
    let wire = Wire::new(To { address: &clients, ..to }, PING)?;
    let channel = &wire.channel;
    let port = match needs_tls {
        true => Finding::bad(
            "clients",
            Status::Warning,
            format!("not looked at: clients connect to {clients} by TLS"),
            "look with --tls-ca, and with --tls-cert and --tls-key if the server asks for certificates",
        ),
        false => client_port(&wire, &clients, &server.listen).await,
    };
    let reachable = port.status == Status::Ok;
    told.tell(&port)?;
    if let Some(how_long) = doctor.keepalive
        && reachable
    {
        told.tell(&hold(channel, how_long).await?)?;
    }
    // Counting takes its time, so the clock was read before.
    let server = ask(true).await?;
    finding::checks(&server).iter().try_for_each(|finding| told.tell(finding))?;
    told.tell(&leases(&link, &server).await?)
}

/// Somebody listens there who is of no help.
fn no_answer(error: &Error) -> Finding {
    Finding::bad("control", Status::Failed, error.to_string(), "name the server's --control address with --server")
}

fn version(server: &pb::Server) -> Finding {
    const OURS: &str = env!("CARGO_PKG_VERSION");
    if server.version == OURS {
        return Finding::ok("version", format!("{OURS}, like this contactctl"));
    }
    let says = format!("the server is {}, this contactctl {OURS}", escape(&server.version));
    Finding::bad("version", Status::Warning, says, "install the same version of both")
}

/// The server said `theirs` between `asked` and `answered`.
fn clock(theirs: i64, asked: Time, answered: Time) -> Finding {
    // As much as is certain.
    let ahead = if theirs > answered.0 { theirs - answered.0 } else { (theirs - asked.0).min(0) };
    let which = if ahead > 0 { "ahead of" } else { "behind" };
    let says = format!("the server's is {}.{:03} s {which} this one", ahead.abs() / 1000, ahead.abs() % 1000);
    match ahead.abs() {
        ..CLOCK_WARNING => Finding::ok("clock", "the server's and this one agree"),
        difference => {
            let status = if difference < CLOCK_FAILED { Status::Warning } else { Status::Failed };
            Finding::bad(
                "clock",
                status,
                says,
                "keep both right: timedatectl set-ntp true; delays and expiries go by them",
            )
        }
    }
}

/// Where clients connect, if that is on the machine of the control address.
pub(super) fn seen_from_here(control: &str, listen: &str) -> String {
    let host = match control.rsplit_once(':') {
        Some((host, _)) if !control.starts_with("unix:") => host,
        _ => "127.0.0.1",
    };
    format!("{host}:{}", listen.rsplit_once(':').map_or("50051", |(_, port)| port))
}

/// Whether getTask answers, in a way that takes no task: a window of 0 is what it must refuse.
async fn client_port(wire: &Wire, address: &str, listen: &str) -> Finding {
    let failed = |says: String, remedy: &str| Finding::bad("clients", Status::Failed, says, remedy);
    let channel = &wire.channel;
    if !link::connected(channel).await {
        if let Some(trouble) = wire.trouble() {
            return failed(
                format!("{address}: {}", escape(&trouble)),
                "see to certificates and keys: docs/security.md",
            );
        }
        let (host, port) = listen.rsplit_once(':').unwrap_or_default();
        let loopback = |address: &str| ["127.", "localhost:", "[::1]:"].iter().any(|own| address.starts_with(own));
        let remedy = if loopback(listen) && !loopback(address) {
            format!("the server listens on {host} alone: start it with --listen 0.0.0.0:{port}")
        } else {
            "open that port on the way, or say where clients connect with --listen".into()
        };
        return failed(format!("no connection to {address}"), &remedy);
    }
    let mut metadata = MetadataBuilder::new();
    if let Err(e) = metadata.add_str("contact-window", "0") {
        return failed(e.to_string(), "this is a fault of contactctl");
    }
    let options = CallOption::default().timeout(ANSWER).headers(metadata.build());
    let answer = match ContactClient::new(channel.clone()).get_task(&Empty::new(), options) {
        Ok(mut tasks) => tasks.next().await,
        Err(e) => Some(Err(e)),
    };
    let fine = |what: &str| Finding::ok("clients", format!("getTask {what} at {address}"));
    match answer {
        Some(Err(grpcio::Error::RpcFailure(status))) => match status.code() {
            RpcStatusCode::INVALID_ARGUMENT => fine("answers"),
            RpcStatusCode::UNAUTHENTICATED | RpcStatusCode::PERMISSION_DENIED => {
                fine("answers, and asks for credentials")
            }
            RpcStatusCode::UNIMPLEMENTED => failed(
                format!("there is no getTask at {address}"),
                "name the server's --listen address with --listen, not its --control address",
            ),
            _ => failed(
                format!("getTask at {address} ended with {}: {}", status.code(), escape(status.message())),
                "see what the server logs",
            ),
        },
        Some(Err(e)) => failed(format!("getTask at {address}: {e}"), "see what the server logs"),
        Some(Ok(_)) | None => fine("answers"),
    }
}

/// Holds a call open on which nothing is said. It is sendStatus, because that leaves nothing behind on the server.
async fn hold(channel: &Channel, how_long: Duration) -> Result<Finding, Error> {
    let began = Instant::now();
    let mut interrupt = Interrupt::watch()?.fuse();
    let cut = |reason: String| {
        let after = began.elapsed().as_secs();
        let heartbeat = (after / 2).clamp(1, 20);
        let says = format!("an idle connection was cut after {after} s ({})", escape(&reason));
        let remedy =
            format!("start clients with --heartbeat {heartbeat}s, or let what is on the way keep idle streams longer");
        Finding::bad("keepalive", Status::Failed, says, remedy)
    };
    let (_sink, mut answers): (grpcio::ClientDuplexSender<ClientMsg>, grpcio::ClientDuplexReceiver<OutcomeReport>) =
        match ContactClient::new(channel.clone()).send_status(CallOption::default()) {
            Ok(call) => call,
            Err(e) => return Ok(cut(e.to_string())),
        };
    let mut answer = answers.next().fuse();
    let mut change = channel.wait_for_state_change(ConnectivityState::GRPC_CHANNEL_READY, how_long).boxed().fuse();
    Ok(select! {
        ended = answer => cut(match ended {
            Some(Err(grpcio::Error::RpcFailure(status))) => status.message().to_owned(),
            Some(Err(e)) => e.to_string(),
            Some(Ok(_)) | None => "the call ended".into(),
        }),
        changed = change => if changed { cut("the connection broke".into()) } else {
            let pings = how_long.as_secs() / PING.as_secs();
            let says = format!("an idle connection lived {}, with {}", format_duration(how_long), count(pings, "ping"));
            Finding::ok("keepalive", says)
        },
        () = interrupt => return Err(Error::Interrupted),
    })
}

/// Whether clients let leases end.
async fn leases(link: &Link, server: &pb::Server) -> Result<Finding, Error> {
    let request = pb::ListRequest { latest: OUTCOMES, ..Default::default() };
    let pages = link.pages(link.client.list_results(&request, Link::answer_soon())).await?;
    let outcomes = || pages.iter().flat_map(|page| &page.results).map(|result| result.outcome);
    let all = outcomes().count() as u64;
    let ended = outcomes().filter(|outcome| *outcome == pb::Outcome::TIMED_OUT.into()).count() as u64;
    let says = match all {
        0 => "no outcomes yet".to_owned(),
        _ => format!("{ended} of the latest {} are leases that ended", count(all, "outcome")),
    };
    if ended * ENDED_LEASES <= all {
        return Ok(Finding::ok("leases", says));
    }
    let lease = format_duration(Duration::from_millis(server.ack_timeout_ms));
    let remedy =
        format!("a higher --ack-timeout of the server (now {lease}), or a shorter --renew-every of the clients");
    Ok(Finding::bad("leases", Status::Warning, says, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_the_clients_is_looked_for_on_the_host_of_the_control_address() {
        assert_eq!(seen_from_here("10.0.0.5:50052", "0.0.0.0:50051"), "10.0.0.5:50051");
        assert_eq!(seen_from_here("[::1]:1", "127.0.0.1:2"), "[::1]:2");
        assert_eq!(seen_from_here("unix:/run/contact.sock", "0.0.0.0:7"), "127.0.0.1:7");
    }

    #[test]
    fn clocks_differ_only_by_what_is_certain() {
        let at = |theirs| clock(theirs, Time(10_000), Time(12_000)).status;
        assert_eq!(at(9_500), Status::Ok);
        assert_eq!(at(12_999), Status::Ok);
        assert_eq!(at(8_000), Status::Warning);
        assert_eq!(at(13_500), Status::Warning);
        assert_eq!(at(100_000), Status::Failed);
        assert!(clock(8_500, Time(10_000), Time(12_000)).says.contains("1.500 s behind"));
        assert_eq!(at(i64::MAX), Status::Failed);
    }
}
