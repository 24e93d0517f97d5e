//! How a proxy reaches the server that leads: in this process, or by a stream of gRPC.

use std::hash::Hasher as _;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures::channel::mpsc;
use futures::future::{self, Either};
use futures::{SinkExt as _, StreamExt as _, sink};
use grpcio::{
    CallOption, Channel, ChannelBuilder, Client, DuplexSink, Environment, MetadataBuilder, RpcContext, RpcStatus,
    RpcStatusCode, WriteFlags,
};
use log::debug;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::frame::Up;
use super::serve::Leads;
use super::{Command, Leader, convert};
use crate::broker::{Held, OutcomeReport, Resume};
use crate::codec::{Admit, Requests};
use crate::front::{Called, Dial, DialThread, Tls};
use crate::mailbox;
use crate::rpc_status;
use crate::server::http::Inside;
use crate::server::refusal::Refusal;
use crate::target;
use crate::task::weight;
use crate::wire::link as pb;
use crate::wire::link_grpc::{Link as LinkCalls, LinkClient};

/// The metadata by which servers of a cluster know one another.
const KEY: &str = "contact-link";
/// What goes up in one message, in bytes of [`weight`], beside one thing: servers take as much on the port of clients.
const TOGETHER: usize = 256 * 1024;
const CONNECT: Duration = Duration::from_secs(1);
const CALLED: Called = Called { other: "server", this: "server", flags: "--cluster-ca" };

/// What servers of a cluster show one another: made of the secret that they share, and of nothing else.
fn token(secret: &[u8; 16]) -> String {
    let mut hasher = SipHasher24::new_with_key(secret);
    hasher.write(b"contact.link");
    HEXLOWER.encode(&hasher.finish128().as_bytes())
}

/// How other servers are reached.
pub(in crate::server) struct Way {
    env: Arc<Environment>,
    token: String,
    tls: Option<(Tls, Arc<DialThread>)>,
}

impl Way {
    pub(in crate::server) fn new(env: Arc<Environment>, secret: &[u8; 16], tls: Option<Tls>) -> std::io::Result<Way> {
        let tls = tls.map(|tls| Ok::<_, std::io::Error>((tls, DialThread::start()?))).transpose()?;
        Ok(Way { env, token: token(secret), tls })
    }

    /// Opens a link. What comes of it goes into the mailbox. An error says why it cannot be opened now.
    pub(super) fn open(&self, leader: &Leader, number: u64, mailbox: mailbox::Sender<Command>) -> Result<Link, String> {
        let (ups, waiting) = mpsc::unbounded();
        match leader {
            Leader::Nobody => return Err(super::NOBODY.into()),
            Leader::Here(leads) => {
                let leads = leads.clone();
                // Its completion queue is what counts: a channel connects when it is called over, and this one never is.
                let queue = Client::new(ChannelBuilder::new(self.env.clone()).connect("unix:/dev/null"));
                let kept = queue.clone();
                queue.spawn(async move {
                    let downs = sink::unfold(&mailbox, async |mailbox, downs| {
                        mailbox.send_async(Command::Downs(number, downs)).await.map(|()| mailbox)
                    });
                    leads.serve(waiting.map(Ok::<_, ()>), pin!(downs)).await;
                    let _ = mailbox.send_async(Command::LinkOver(number, "this server leads no more".into())).await;
                    drop(kept);
                });
            }
            Leader::There(address) => {
                let (channel, dial) = self.connect(address)?;
                let mut metadata = MetadataBuilder::with_capacity(1);
                self.sign(&mut metadata);
                let (calls, options) = (LinkClient::new(channel), CallOption::default().headers(metadata.build()));
                let queue = calls.clone();
                queue.spawn(async move {
                    let over = call(&calls, options, number, waiting, &mailbox).await;
                    drop((calls, dial));
                    let _ = mailbox.send_async(Command::LinkOver(number, over)).await;
                });
            }
        }
        Ok(Link { ups })
    }

    /// A way to another server, for as long as the second is kept.
    pub(super) fn connect(&self, address: &str) -> Result<(Channel, Option<Dial>), String> {
        let dial = match &self.tls {
            Some((tls, thread)) => Some(Dial::on(thread, address, tls, CONNECT, CALLED).map_err(|e| e.to_string())?),
            None => None,
        };
        let channel = target::channel_builder(self.env.clone(), address, target::KEEPALIVE, CONNECT)
            // Else C-core waits up to two minutes with the next try, after a server was away for long.
            .initial_reconnect_backoff(CONNECT)
            .max_reconnect_backoff(CONNECT);
        Ok((target::connect(channel, address, dial.as_ref()), dial))
    }

    /// By what the other one knows that this is a server of the cluster.
    pub(super) fn sign(&self, metadata: &mut MetadataBuilder) {
        let _ = metadata.add_str(KEY, &self.token);
    }
}

/// Runs until either end is over; says why.
async fn call(
    calls: &LinkClient,
    options: CallOption,
    number: u64,
    ups: mpsc::UnboundedReceiver<Vec<Up>>,
    mailbox: &mailbox::Sender<Command>,
) -> String {
    let (sink, downs) = match calls.attach(options) {
        Ok(streams) => streams,
        Err(error) => return error.to_string(),
    };
    let writing = ups.map(|ups| Ok((convert::to_leader(ups), WriteFlags::default()))).forward(sink);
    let reading = async {
        let mut downs = downs;
        while let Some(message) = downs.next().await {
            let downs = match message.map(convert::read_from_leader) {
                Ok(Ok(downs)) => downs,
                Ok(Err(why)) => return format!("what it says makes no sense: {why}"),
                Err(error) => return rpc_status::text(&rpc_status::status_of(error)),
            };
            if mailbox.send_async(Command::Downs(number, downs)).await.is_err() {
                return "this server is stopping".into();
            }
        }
        "it ended the link".to_owned()
    };
    match future::select(pin!(reading), pin!(writing)).await {
        Either::Left((why, _)) => why,
        // The link was dropped here, or its status comes with what is read.
        Either::Right((Ok(()), _)) => "it is not needed any more".into(),
        Either::Right((Err(_), reading)) => reading.await,
    }
}

/// The way up. Ends when it is dropped.
pub(super) struct Link {
    ups: mpsc::UnboundedSender<Vec<Up>>,
}

impl Link {
    /// Never waits. What is under way is bounded by who sends: results by what may be unconfirmed, the rest by the streams that are open.
    pub(super) fn send(&self, ups: Vec<Up>) {
        let (mut together, mut bytes) = (Vec::new(), 0);
        for up in ups.into_iter().flat_map(parts) {
            bytes += weight_of(&up);
            together.push(up);
            if bytes >= TOGETHER {
                bytes = 0;
                let _ = self.ups.unbounded_send(std::mem::take(&mut together));
            }
        }
        if !together.is_empty() {
            let _ = self.ups.unbounded_send(together);
        }
    }
}

/// Each is no larger than a message, and what a client may tell at once.
fn parts(up: Up) -> Vec<Up> {
    let Up::Told(teller, reports) = up else { return vec![up] };
    let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    for report in reports {
        bytes += report.weight();
        part.push(report);
        if bytes >= TOGETHER {
            bytes = 0;
            parts.push(Up::Told(teller, std::mem::take(&mut part)));
        }
    }
    if !part.is_empty() {
        parts.push(Up::Told(teller, part));
    }
    parts
}

/// In bytes, and no less than it takes in a message.
pub(super) fn weight_of(up: &Up) -> usize {
    match up {
        Up::Told(_, reports) => reports.iter().map(OutcomeReport::weight).sum(),
        Up::Statuses(_, statuses) => statuses.iter().map(|status| weight(status.msg.len())).sum(),
        Up::Join(_, join) => weight(1024) + join.resume.as_ref().map_or(0, |resume| weight_of_resume(resume)),
        _ => 64,
    }
}

fn weight_of_resume(Resume { holds, awaits, draining, .. }: &Resume) -> usize {
    let lane = |held: &Held| held.lane.as_ref().map_or(0, |lane| lane.as_str().len());
    let holds: usize = holds.iter().map(|held| 32 + lane(held)).sum();
    holds + 16 * awaits.len() + draining.as_ref().map_or(0, |draining| draining.note.len())
}

/// Takes the links of other servers, while this one leads.
#[derive(Clone, Default)]
pub(in crate::server) struct LinkService {
    leads: Arc<Mutex<Option<Leads>>>,
    page: Option<Inside>,
}

impl LinkService {
    /// `page`: what is asked over HTTP, if there is anything.
    pub(in crate::server) fn new(page: Option<Inside>) -> LinkService {
        LinkService { page, ..LinkService::default() }
    }

    /// Whether this server leads, and its broker.
    pub(in crate::server) fn set(&self, leads: Option<Leads>) {
        *self.leads.lock().unwrap_or_else(PoisonError::into_inner) = leads;
    }

    /// Lets in servers of the cluster, and nobody else.
    pub(in crate::server) fn asked(secret: &[u8; 16]) -> Admit {
        let is_server = is_server(secret);
        Arc::new(move |ctx| Ok(is_server(ctx).map(Box::new)?))
    }
}

/// Whether a server of the cluster calls.
pub(in crate::server) fn is_server(secret: &[u8; 16]) -> impl Fn(&RpcContext<'_>) -> Result<(), Refusal> + use<> {
    let token = token(secret);
    move |ctx| {
        let said = ctx.request_headers().iter().find(|(key, _)| *key == KEY).map(|(_, value)| value);
        // In the same time wherever it differs.
        let is_good =
            |said: &[u8]| said.iter().zip(token.bytes()).fold(0, |all, (one, other)| all | (one ^ other)) == 0;
        match said {
            Some(said) if said.len() == token.len() && is_good(said) => Ok(()),
            _ => Err(Refusal::NotOfTheCluster),
        }
    }
}

impl LinkCalls for LinkService {
    fn attach(&mut self, ctx: RpcContext<'_>, requests: Requests<pb::ToLeader>, sink: DuplexSink<pb::FromLeader>) {
        let leads = self.leads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ctx.spawn(async move {
            let Some(leads) = leads else {
                let _ = sink.fail(Refusal::NoLeader.into()).await;
                return;
            };
            let ups = requests.map(|message| match message {
                Ok(Ok(message)) => convert::read_to_leader(message),
                Ok(Err(why)) => Err(why.to_string()),
                Err(error) => Err(error.to_string()),
            });
            let ups = ups.inspect(|ups| {
                if let Err(why) = ups {
                    debug!("a link is over: {why}");
                }
            });
            let mut sink = sink;
            sink.enhance_batch(true);
            let downs = (&mut sink)
                .with(async |downs| Ok::<_, grpcio::Error>((convert::from_leader(downs), WriteFlags::default())));
            leads.serve(pin!(ups), pin!(downs)).await;
            let _ = sink.fail(RpcStatus::new(RpcStatusCode::UNAVAILABLE)).await;
        });
    }

    fn http(&mut self, ctx: RpcContext<'_>, requests: Requests<pb::HttpRequest>, sink: DuplexSink<pb::HttpAnswer>) {
        match &self.page {
            Some(page) => page.answer(&ctx, requests, sink),
            None => ctx.spawn(async move {
                let _ = sink.fail(RpcStatus::new(RpcStatusCode::UNIMPLEMENTED)).await;
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use futures::executor::block_on;
    use grpcio::{EnvBuilder, ServerBuilder, ServerCredentials};

    use super::*;

    #[test]
    fn a_server_that_was_away_for_long_is_reached_soon_after_it_is_back() {
        let env = Arc::new(EnvBuilder::new().cq_count(1).build());
        let way = Way::new(env.clone(), &[0; 16], None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (channel, _) = way.connect(&address).unwrap();
        let (tell, told) = mpsc::channel();
        let (tried, reached) = (tell.clone(), tell);
        let trying = thread::spawn(move || (0..6).for_each(|_| drop((listener.accept(), tried.send("tried")))));
        thread::spawn(move || {
            while !block_on(channel.wait_for_connected(Duration::from_secs(1))) {}
            reached.send("reached")
        });
        (0..6).for_each(|_| assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok("tried")));
        // It keeps the port.
        trying.join().unwrap();
        let mut server = ServerBuilder::new(env).build().unwrap();
        server.add_listening_port(address, ServerCredentials::insecure()).unwrap();
        server.start();
        // C-core's own pause is 10 s and more by then.
        assert_eq!(told.recv_timeout(Duration::from_secs(5)), Ok("reached"));
    }
}
