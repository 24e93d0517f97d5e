//! The `Control` service: what operators call.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::{SinkExt as _, StreamExt as _};
use grpcio::{DuplexSink, RequestStream, RpcContext, RpcStatus, ServerStreamingSink, UnarySink, WriteFlags};
use log::debug;

use super::about::About;
use super::calls::Calls;
use super::contact::Ended;
use super::convert;
use super::follow::{self, Followers};
use super::groups::Removed;
use super::operate;
use super::query::Queries;
use super::refusal::{Refusal, answer};
use super::traffic::{Flow, Traffic};
use crate::broker;
use crate::codec::Decoded;
use crate::store::{self, Positions, Reader, StoreError};
use crate::task::{GroupName, Name};
use crate::wire::control as pb;
use crate::wire::control_grpc::Control;

/// Requests of a submitting stream that are being written at once.
const UNDER_WAY: usize = 8;
/// Rows read at once.
const PAGE: usize = 500;

/// One clone for each completion queue.
#[derive(Clone)]
pub(super) struct ControlService {
    pub(super) broker: broker::Handle,
    pub(super) store: store::Handle,
    pub(super) queries: Queries,
    pub(super) followers: Followers,
    pub(super) calls: Calls,
    /// The longest text of a task, in bytes.
    pub(super) limit: usize,
    pub(super) about: Arc<About>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) removed: Arc<Removed>,
}

/// The unary calls, each with the work behind it.
macro_rules! unary {
    ($($call:ident($request:ident) -> $response:ident = $work:ident;)*) => {$(
        fn $call(&mut self, ctx: RpcContext<'_>, request: Decoded<pb::$request>, sink: UnarySink<pb::$response>) {
            let (service, call) = (self.clone(), self.calls.begin());
            ctx.spawn(async move {
                let _call = call;
                let answered = match request {
                    Ok(request) => service.$work(request).await,
                    Err(e) => Err(Refusal::Undecodable(e)),
                };
                answer(sink, answered).await;
            });
        }
    )*};
}

impl Control for ControlService {
    unary! {
        submit(SubmitRequest) -> SubmitResponse = accept_all;
        list_clients(ListClientsRequest) -> ListClientsResponse = clients;
        describe_task(DescribeTaskRequest) -> TaskLedger = describe;
        list_groups(ListGroupsRequest) -> ListGroupsResponse = groups;
        drop_dead(DropDeadRequest) -> DropDeadResponse = drop_dead_letter;
        cancel_task(CancelTaskRequest) -> CancelTaskResponse = cancel;
        retry_task(RetryTaskRequest) -> RetryTaskResponse = retry;
        pause_group(PauseGroupRequest) -> PauseGroupResponse = pause;
        remove_group(RemoveGroupRequest) -> RemoveGroupResponse = forget;
        get_server(GetServerRequest) -> Server = about;
    }

    fn submit_stream(
        &mut self,
        ctx: RpcContext<'_>,
        requests: RequestStream<Decoded<pb::SubmitRequest>>,
        mut sink: DuplexSink<pb::SubmitResponse>,
    ) {
        let (service, call) = (self.clone(), self.calls.begin());
        ctx.spawn(async move {
            let _call = call;
            // One request is decoded while those before it are being written: they share syncs.
            let answers = requests.then(move |item| service.clone().begin_accepting(item)).buffered(UNDER_WAY);
            futures::pin_mut!(answers);
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(response) => {
                        if let Err(e) = sink.send((response, WriteFlags::default())).await {
                            return debug!("a submitting stream ended early: {e}");
                        }
                    }
                    Err(Ended::Refused(refusal)) => return drop(sink.fail(refusal.into()).await),
                    Err(Ended::Gone(e)) => return debug!("a submitting stream ended early: {e}"),
                }
            }
            let _ = sink.close().await;
        });
    }

    fn list_tasks(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::ListRequest>,
        sink: ServerStreamingSink<pb::TaskPage>,
    ) {
        self.list(
            &ctx,
            request,
            sink,
            |at| at.task,
            None,
            |reader, after, limit| {
                let tasks = reader.tasks(after, limit)?;
                Ok(tasks.last().map(|task| task.id).map(|last| (last, tasks.len(), convert::task_page(tasks))))
            },
        );
    }

    fn list_results(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::ListRequest>,
        sink: ServerStreamingSink<pb::ResultPage>,
    ) {
        self.list(
            &ctx,
            request,
            sink,
            |at| at.result,
            None,
            |reader, after, limit| {
                let results = reader.results(after, limit)?;
                Ok(results
                    .last()
                    .map(|result| result.seq)
                    .map(|last| (last, results.len(), convert::result_page(results))))
            },
        );
    }

    fn list_statuses(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::ListRequest>,
        sink: ServerStreamingSink<pb::StatusPage>,
    ) {
        self.list(
            &ctx,
            request,
            sink,
            |at| at.status,
            None,
            |reader, after, limit| {
                let statuses = reader.statuses(after, limit)?;
                Ok(statuses.last().map(|s| s.seq).map(|last| (last, statuses.len(), convert::status_page(statuses))))
            },
        );
    }

    fn list_dead(
        &mut self,
        ctx: RpcContext<'_>,
        request: Decoded<pb::ListDeadRequest>,
        sink: ServerStreamingSink<pb::ResultPage>,
    ) {
        let request = match request
            .map_err(Refusal::Undecodable)
            .and_then(|request| Ok((optional_group(&request.group)?, request)))
        {
            Ok(request) => request,
            Err(refusal) => return ctx.spawn(async move { drop(sink.fail(refusal.into()).await) }),
        };
        let (group, request) = request;
        let list = Ok(request.list.unwrap_or_default());
        self.list(
            &ctx,
            list,
            sink,
            |at| at.result,
            Some(|page: &pb::ResultPage| page.results.iter().map(|result| result.seq).collect()),
            move |reader, after, limit| {
                let (last, dead) = operate::dead(reader, after, group.as_ref(), limit)?;
                Ok(last.map(|last| (last, dead.len(), convert::result_page(dead))))
            },
        );
    }
}

/// A group by its name; none by an empty one.
pub(super) fn optional_group(name: &str) -> Result<Option<GroupName>, Refusal> {
    Ok(if name.is_empty() { None } else { Some(Name::new("the group", name)?) })
}

impl ControlService {
    /// Accepts all tasks of a request, or none.
    pub(super) async fn accept_all(&self, request: pb::SubmitRequest) -> Result<pb::SubmitResponse, Refusal> {
        self.traffic.count(Flow::Submitted, 1, convert::bytes(&request));
        let (tasks, refused) = convert::new_tasks(request, self.limit);
        match refused.into_iter().next() {
            Some((index, why)) => Err(Refusal::InRequest { index, why: Box::new(why) }),
            None => Ok(convert::accepted(self.broker.submit(tasks).await?)),
        }
    }

    /// Takes the tasks of a request that can be, and names the others: resolves when they have their place behind those of the
    /// requests before, to what resolves when they are accepted.
    async fn begin_accepting(
        self,
        item: grpcio::Result<Decoded<pb::SubmitRequest>>,
    ) -> impl Future<Output = Result<pb::SubmitResponse, Ended>> + Send + use<> {
        let begun = match item {
            Ok(Ok(request)) => {
                self.traffic.count(Flow::SubmittedByStream, 1, convert::bytes(&request));
                let (tasks, refused) = convert::new_tasks(request, self.limit);
                self.broker.begin_submit(tasks).await.map(|accepted| (accepted, refused)).map_err(Ended::from)
            }
            Ok(Err(e)) => Err(Ended::Refused(Refusal::Undecodable(e))),
            Err(e) => Err(Ended::Gone(e)),
        };
        async move {
            let (accepted, refused) = begun?;
            let mut response = convert::accepted(accepted.await?);
            response.refused = refused.into_iter().map(|(index, why)| convert::refusal(index, &why)).collect();
            Ok(response)
        }
    }

    /// Streams a log page by page. `read` gives a page behind a position: its last position, its length, the message.
    fn list<P: Send + 'static>(
        &self,
        ctx: &RpcContext<'_>,
        request: Decoded<pb::ListRequest>,
        mut sink: ServerStreamingSink<P>,
        newest: fn(&Positions) -> u64,
        sparse: Sparse<P>,
        read: impl Fn(&mut dyn Reader, u64, usize) -> Result<Option<(u64, usize, P)>, StoreError> + Clone + Send + 'static,
    ) {
        let (service, call) = (self.clone(), self.calls.begin());
        ctx.spawn(async move {
            let _call = call;
            match service.pages(request, &mut sink, newest, sparse, read).await {
                Ok(()) => drop(sink.close().await),
                Err(Listing::Refused(refusal)) => drop(sink.fail(RpcStatus::from(refusal)).await),
                Err(Listing::Gone) => {}
            }
        });
    }

    async fn pages<P: Send + 'static>(
        &self,
        request: Decoded<pb::ListRequest>,
        sink: &mut ServerStreamingSink<P>,
        newest: fn(&Positions) -> u64,
        sparse: Sparse<P>,
        read: impl Fn(&mut dyn Reader, u64, usize) -> Result<Option<(u64, usize, P)>, StoreError> + Clone + Send + 'static,
    ) -> Result<(), Listing> {
        let request = request.map_err(Refusal::Undecodable)?;
        let newest = || newest(&self.store.tail().positions());
        // Without `follow`, what comes in meanwhile is not waited for: the list ends.
        let end = newest();
        let mut after = request.after;
        if request.latest > 0 {
            let before = match sparse {
                None => end.saturating_sub(request.latest.into()),
                Some(rows) => self.before_latest(request.latest as usize, rows, read.clone()).await?,
            };
            after = after.max(before);
        }
        let mut left = if request.limit == 0 { usize::MAX } else { request.limit as usize };
        while left > 0 {
            let limit = left.min(PAGE);
            // Up to here, what the list does not show by now was removed, or is not of its kind: it counts as read.
            let upto = newest();
            let read = read.clone();
            match self.queries.run(move |reader| read(reader, after, limit)).await? {
                Some((last, count, page)) => {
                    (after, left) = (last, left.saturating_sub(count));
                    sink.send((page, WriteFlags::default())).await.map_err(|_| Listing::Gone)?;
                }
                None => after = after.max(upto),
            }
            if request.follow && left > 0 {
                self.followers.wait(sink, || newest() > after).await?;
            } else if after >= end {
                break;
            }
        }
        Ok(())
    }

    /// The position before the latest so many rows of a sparse list, which is gone through for it.
    async fn before_latest<P: Send + 'static>(
        &self,
        latest: usize,
        rows: fn(&P) -> Vec<u64>,
        read: impl Fn(&mut dyn Reader, u64, usize) -> Result<Option<(u64, usize, P)>, StoreError> + Clone + Send + 'static,
    ) -> Result<u64, StoreError> {
        let (mut after, mut seqs) = (0, VecDeque::new());
        loop {
            let read = read.clone();
            let Some((last, _, page)) = self.queries.run(move |reader| read(reader, after, PAGE)).await? else { break };
            after = last;
            seqs.extend(rows(&page));
            seqs.drain(..seqs.len().saturating_sub(latest));
        }
        Ok(seqs.front().map_or(0, |first| first - 1))
    }
}

/// What a list shows that is not of every position of its log: the positions in a page. `None`: a list of all of it.
type Sparse<P> = Option<fn(&P) -> Vec<u64>>;

/// Why a list did not come to its end.
enum Listing {
    Refused(Refusal),
    Gone,
}

impl From<follow::End> for Listing {
    fn from(end: follow::End) -> Listing {
        match end {
            follow::End::Gone => Listing::Gone,
            follow::End::Stopping => Listing::Refused(Refusal::stopping(1)),
        }
    }
}

impl From<StoreError> for Listing {
    fn from(e: StoreError) -> Listing {
        Listing::Refused(e.into())
    }
}

impl From<Refusal> for Listing {
    fn from(e: Refusal) -> Listing {
        Listing::Refused(e)
    }
}
