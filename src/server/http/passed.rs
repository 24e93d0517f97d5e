//! Requests that another server of the cluster passed on: it saw who asks, this one knows what is asked for.

use std::convert::Infallible;
use std::pin::pin;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use futures::channel::mpsc;
use futures::future::{self, Either};
use futures::{SinkExt as _, StreamExt as _, stream};
use grpcio::{DuplexSink, RpcContext, RpcStatusCode, WriteFlags};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::runtime::Handle;

use super::HttpThread;
use super::answer::Refused;
use super::desk::Desk;
use super::guard::Way;
use crate::codec::Requests;
use crate::server::access::Access;
use crate::server::proxy::{Call, PassOn};
use crate::server::refusal::Refusal;
use crate::wire::link as pb;

/// What goes in one message of a body, in bytes.
const PART: usize = 64 * 1024;
/// Messages of an answer that wait to be sent.
const WAITING: usize = 4;
/// What is of one connection, and not of what is asked.
const OF_CONNECTION: [HeaderName; 4] = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::EXPECT];

/// Has the server that leads answer.
pub(super) async fn ask(elsewhere: &PassOn, access: &Access, request: Request) -> Result<Response, Refused> {
    let (head, body) = to_head(access, request);
    let mut call = elsewhere.http().await?;
    let asking = async {
        call.sink.send((head, WriteFlags::default())).await?;
        let mut body = body.into_data_stream();
        // What does not come is missed there.
        while let Some(Ok(bytes)) = body.next().await {
            for part in bytes.chunks(PART) {
                let part = pb::HttpRequest { body: part.into(), ..pb::HttpRequest::new() };
                call.sink.send((part, WriteFlags::default())).await?;
            }
        }
        call.sink.close().await
    };
    let first = match future::select(call.answers.next(), pin!(asking)).await {
        Either::Left((first, _)) => first,
        Either::Right((_, first)) => first.await,
    };
    let first = match first {
        Some(Ok(first)) => first,
        Some(Err(grpcio::Error::RpcFailure(status))) if status.code() == RpcStatusCode::UNIMPLEMENTED => {
            let why = "the server that leads has no page: it was started without --http, or is of an older version";
            return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, "HTTP_NO_PAGE", why));
        }
        _ => return Err(Refusal::NoLeader.into()),
    };
    let (status, headers) = (first.status, headers(first.headers));
    let Call { sink, answers, there } = call;
    let rest = answers.map(move |answer| {
        let _kept = (&sink, &there);
        answer.map(|answer| Bytes::from(answer.body))
    });
    let mut response = Response::new(Body::from_stream(stream::iter([Ok(Bytes::from(first.body))]).chain(rest)));
    *response.status_mut() =
        u16::try_from(status).ok().and_then(|it| StatusCode::from_u16(it).ok()).unwrap_or_default();
    *response.headers_mut() = headers;
    Ok(response)
}

fn to_head(access: &Access, request: Request) -> (pb::HttpRequest, Body) {
    let (mut parts, body) = request.into_parts();
    // The one that leads does not know the credential of operators on this machine.
    let mut shown = parts.headers.get_all(header::AUTHORIZATION).iter();
    let alone = shown.next().filter(|_| shown.next().is_none());
    let local = alone.and_then(|value| access.local(value.as_bytes()));
    if local.is_some() {
        // Nor is it somebody else by a session.
        parts.headers.remove(header::AUTHORIZATION);
        parts.headers.remove(header::COOKIE);
    }
    let way = parts.extensions.get::<Way>();
    let certified = way.and_then(|way| way.origin.known.as_ref()).map(|known| known.identity.uri());
    let head = pb::HttpRequest {
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        headers: to_headers(&parts.headers),
        peer: way.map(|way| way.origin.peer.to_string()).unwrap_or_default(),
        identity: local.or(certified),
        is_tls: way.is_some_and(|way| way.is_tls),
        ..pb::HttpRequest::new()
    };
    (head, body)
}

fn to_headers(headers: &HeaderMap) -> Vec<pb::HttpHeader> {
    let header = |(name, value): (&HeaderName, &HeaderValue)| pb::HttpHeader {
        name: name.to_string(),
        value: value.as_bytes().into(),
        ..pb::HttpHeader::new()
    };
    headers.iter().filter(|(name, _)| !OF_CONNECTION.contains(name)).map(header).collect()
}

/// Without those that are none.
fn headers(said: Vec<pb::HttpHeader>) -> HeaderMap {
    let header = |header: pb::HttpHeader| {
        let name = HeaderName::try_from(header.name).ok()?;
        Some((name, HeaderValue::try_from(header.value).ok()?))
    };
    let mut headers = HeaderMap::new();
    said.into_iter().filter_map(header).for_each(|(name, value)| {
        headers.append(name, value);
    });
    headers
}

/// Answers what others pass on, while this server leads. Cheap to clone.
#[derive(Clone)]
pub(in crate::server) struct Inside {
    desk: Desk,
    runtime: Handle,
    access: Access,
}

impl HttpThread {
    /// By what others that follow ask it.
    pub(in crate::server) fn inside(&self, access: &Access) -> Inside {
        Inside { desk: self.desk.clone(), runtime: self.runtime.clone(), access: access.clone() }
    }
}

impl Inside {
    /// Answers a call.
    pub(in crate::server) fn answer(
        &self,
        ctx: &RpcContext<'_>,
        mut requests: Requests<pb::HttpRequest>,
        mut sink: DuplexSink<pb::HttpAnswer>,
    ) {
        let this = self.clone();
        ctx.spawn(async move {
            let Some(Ok(Ok(first))) = requests.next().await else { return };
            let ((mut bodies, body), (answers, mut waiting)) = (mpsc::channel(WAITING), mpsc::channel(WAITING));
            // There it has timers.
            let runtime = this.runtime.clone();
            runtime.spawn(this.work(first, body, answers));
            let asking = async {
                while let Some(Ok(Ok(message))) = requests.next().await {
                    if bodies.send(Bytes::from(message.body)).await.is_err() {
                        break;
                    }
                }
                drop(bodies);
                future::pending::<()>().await
            };
            let answering = async {
                while let Some(answer) = waiting.next().await {
                    match answer {
                        Ok(answer) => sink.send((answer, WriteFlags::default())).await?,
                        Err(refusal) => return sink.fail(Refusal::into(refusal)).await,
                    }
                }
                sink.close().await
            };
            let _ = future::select(pin!(answering), pin!(asking)).await;
        });
    }

    async fn work(
        self,
        first: pb::HttpRequest,
        rest: mpsc::Receiver<Bytes>,
        mut answers: mpsc::Sender<Result<pb::HttpAnswer, Refusal>>,
    ) {
        let answer = match self.response(first, rest).await {
            Ok(response) => response,
            Err(refusal) => return drop(answers.send(Err(refusal)).await),
        };
        let (parts, body) = answer.into_parts();
        let (status, headers) = (parts.status.as_u16().into(), to_headers(&parts.headers));
        let head = pb::HttpAnswer { status, headers, ..pb::HttpAnswer::new() };
        let mut gone = answers.send(Ok(head)).await.is_err();
        let mut body = body.into_data_stream();
        while !gone && let Some(Ok(bytes)) = body.next().await {
            for part in bytes.chunks(PART) {
                let part = pb::HttpAnswer { body: part.into(), ..pb::HttpAnswer::new() };
                gone |= answers.send(Ok(part)).await.is_err();
            }
        }
    }

    async fn response(&self, first: pb::HttpRequest, rest: mpsc::Receiver<Bytes>) -> Result<Response, Refusal> {
        let router = self.desk.passed_on().ok_or(Refusal::NoLeader)?;
        let origin = self.access.passed_by(&first.peer, first.identity.as_deref())?;
        let body = stream::iter([Bytes::from(first.body)]).chain(rest).map(Ok::<_, Infallible>);
        let mut request = Request::new(Body::from_stream(body));
        // What is none is what nobody asks for.
        *request.method_mut() = Method::try_from(first.method.as_str()).unwrap_or_default();
        *request.uri_mut() = Uri::try_from(first.path).unwrap_or_default();
        *request.headers_mut() = headers(first.headers);
        request.extensions_mut().insert(Way { origin, is_tls: first.is_tls });
        let Ok(response) = TowerToHyperService::new(router).call(request).await;
        Ok(response)
    }
}
