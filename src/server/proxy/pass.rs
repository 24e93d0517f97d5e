//! Passes calls of operators on to the server that leads.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{self, Either};
use futures::{Sink, SinkExt as _, StreamExt as _};
use futures_timer::Delay;
use grpcio::{
    CallOption, Channel, Client, ClientDuplexReceiver, ClientDuplexSender, ClientStreamingSink, DuplexSink,
    MetadataBuilder, Method, MethodType, RpcContext, WriteFlags,
};
use protobuf::Message;

use super::PATIENCE;
use super::frame::Failed;
use super::link::Way;
use crate::codec::{Elsewhere, Requests, client_method};
use crate::front::Dial;
use crate::server::admission::LetIn;
use crate::server::calls::{Ended, message};
use crate::server::refusal::Refusal;
use crate::wire::link as pb;
use crate::wire::link_grpc::LinkClient;

/// How often it is looked whether another server leads.
const LOOK: Duration = Duration::from_millis(200);

/// Knows where the server is that leads. Cheap to clone.
#[derive(Clone)]
pub(in crate::server) struct PassOn(Arc<Inner>);

struct Inner {
    way: Arc<Way>,
    /// Where, and the way there.
    to: Mutex<Option<(Arc<str>, Arc<There>)>>,
}

/// The way to a server.
pub(in crate::server) struct There {
    channel: Channel,
    client: Client,
    _dial: Option<Dial>,
}

impl PassOn {
    /// To nobody yet.
    pub(in crate::server) fn by(way: Arc<Way>) -> PassOn {
        PassOn(Arc::new(Inner { way, to: Mutex::default() }))
    }

    /// From now on to this server. `None`: to nobody.
    pub(in crate::server) fn set(&self, address: Option<&Arc<str>>) {
        let mut to = self.0.to.lock().unwrap_or_else(PoisonError::into_inner);
        if to.as_ref().map(|(address, _)| address) != address {
            *to = address.and_then(|address| {
                let (channel, dial) = self.0.way.connect(address).ok()?;
                let there = There { client: Client::new(channel.clone()), channel, _dial: dial };
                Some((address.clone(), Arc::new(there)))
            });
        }
    }

    fn to(&self) -> Option<Arc<There>> {
        let to = self.0.to.lock().unwrap_or_else(PoisonError::into_inner);
        to.as_ref().map(|(_, there)| there.clone())
    }

    /// Waits until there is a connection to the server that leads, whichever that is then: for [`PATIENCE`] at most.
    async fn connected(&self) -> Result<Arc<There>, Refusal> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.to() {
                Some(there) if there.channel.wait_for_connected(LOOK).await => return Ok(there),
                Some(_) => {}
                None => Delay::new(LOOK).await,
            }
        }
        Err(Refusal::NoLeader)
    }

    /// Begins to ask something over HTTP there.
    pub(in crate::server) async fn http(&self) -> Result<Call<pb::HttpRequest, pb::HttpAnswer>, Refusal> {
        let there = self.connected().await?;
        let mut metadata = MetadataBuilder::with_capacity(1);
        self.0.way.sign(&mut metadata);
        let calls = LinkClient::new(there.channel.clone());
        let call = calls.http(CallOption::default().headers(metadata.build()));
        let (sink, answers) = call.map_err(|_| Refusal::NoLeader)?;
        Ok(Call { sink, answers, there })
    }

    /// What goes along with a call: who calls, and that a server says so.
    fn options<Q>(&self, ctx: &RpcContext<'_>, requests: &Requests<Q>) -> Result<CallOption, Refusal> {
        let caller = LetIn::of_many(requests)?;
        let mut metadata = MetadataBuilder::with_capacity(4);
        self.0.way.sign(&mut metadata);
        let authorization = ctx.request_headers().iter().filter(|(key, _)| *key == "authorization");
        caller.pass_on(authorization.map(|(_, value)| value), &mut |key, value| {
            let _ = metadata.add_str(key, value);
        });
        Ok(CallOption::default().headers(metadata.build()))
    }

    /// Begins a call there. On the wire each is a stream of messages both ways.
    fn call<Q: Message, P: Message>(
        &self,
        method: &Method<Q, P>,
        ctx: &RpcContext<'_>,
        requests: &Requests<Q>,
    ) -> impl Future<Output = Result<Call<Q, P>, Refusal>> + Send + use<Q, P> {
        let (this, name, options) = (self.clone(), method.name, self.options(ctx, requests));
        async move {
            let (options, there) = (options?, this.connected().await?);
            let method = client_method(MethodType::Duplex, name);
            let (sink, answers) = there.client.duplex_streaming(&method, options).map_err(|_| Refusal::NoLeader)?;
            Ok(Call { sink, answers, there })
        }
    }
}

/// A call at the server that leads. All of it is to be kept as long as something comes back.
pub(in crate::server) struct Call<Q, P> {
    pub(in crate::server) sink: ClientDuplexSender<Q>,
    pub(in crate::server) answers: ClientDuplexReceiver<P>,
    pub(in crate::server) there: Arc<There>,
}

impl<Q: Message, P: Message> Call<Q, P> {
    /// Passes everything on, until the call is over there; `sink` takes the answers. An error is how it ended, or that nobody
    /// takes them any more.
    async fn run<S: Sink<P, Error = grpcio::Error> + Unpin>(
        mut self,
        requests: &mut Requests<Q>,
        sink: &mut S,
    ) -> Result<(), Ended> {
        let (to, answers) = (&mut self.sink, &mut self.answers);
        let asking = async {
            while let Some(request) = requests.next().await {
                to.send((message(request)?, WriteFlags::default())).await?;
            }
            to.close().await?;
            Ok::<(), Ended>(())
        };
        let answering = async {
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(answer) => sink.send(answer).await?,
                    Err(error) => return Err(over(error)),
                }
            }
            Ok(())
        };
        match future::select(pin!(answering), pin!(asking)).await {
            Either::Left((answered, _)) => answered,
            Either::Right((Ok(()), answering)) => answering.await,
            // How the call ended comes with the answers, unless it is what was asked.
            Either::Right((Err(Ended::Disconnected(_)), answering)) => answering.await,
            Either::Right((Err(refused), _)) => Err(refused),
        }
    }
}

/// How a call ended there: as it would have here, had it been made here.
fn over(error: grpcio::Error) -> Ended {
    match error {
        grpcio::Error::RpcFailure(status) => Ended::Refused(Refusal::FromLeader(Failed::of_status(&status))),
        _ => Ended::Refused(Refusal::NoLeader),
    }
}

impl Elsewhere for PassOn {
    fn pass_one<Q: Message, P: Message>(
        &self,
        method: &Method<Q, P>,
        ctx: RpcContext<'_>,
        mut requests: Requests<Q>,
        sink: ClientStreamingSink<P>,
    ) {
        let call = self.call(method, &ctx, &requests);
        ctx.spawn(async move {
            let mut last = None;
            let passed = match call.await {
                Ok(call) => {
                    let keep = futures::sink::unfold(&mut last, async |last, answer| {
                        *last = Some(answer);
                        Ok(last)
                    });
                    call.run(&mut requests, &mut pin!(keep)).await
                }
                Err(refusal) => Err(refusal.into()),
            };
            match (passed, last) {
                (Ok(()), Some(last)) => drop(sink.success(last).await),
                (Ok(()), None) => drop(sink.fail(Refusal::NoLeader.into()).await),
                (Err(ended), _) => ended.tell("a call that was passed on", |status| sink.fail(status)).await,
            }
        });
    }

    fn pass_many<Q: Message, P: Message>(
        &self,
        method: &Method<Q, P>,
        ctx: RpcContext<'_>,
        mut requests: Requests<Q>,
        mut sink: DuplexSink<P>,
    ) {
        let call = self.call(method, &ctx, &requests);
        ctx.spawn(async move {
            sink.enhance_batch(true);
            let passed = match call.await {
                Ok(call) => {
                    let with = (&mut sink).with(async |answer| Ok::<_, grpcio::Error>((answer, WriteFlags::default())));
                    call.run(&mut requests, &mut pin!(with)).await
                }
                Err(refusal) => Err(refusal.into()),
            };
            match passed {
                Ok(()) => drop(sink.close().await),
                Err(ended) => ended.tell("a call that was passed on", |status| sink.fail(status)).await,
            }
        });
    }
}
