//! The `Control` service: what operators call. It only decodes, makes one call to the [`Operator`], and encodes.

use std::time::{Duration, Instant};

use futures::{SinkExt as _, StreamExt as _};
use futures_timer::Delay;
use grpcio::{ClientStreamingSink, DuplexSink, RpcContext, WriteFlags};

use super::about;
use super::access::Caller;
use super::admission::LetIn;
use super::calls::{Calls, Ended, answer, first, message};
use super::convert;
use super::limits::Limit;
use super::operator::{
    BROKER_SHARE, DeadLetters, Log, MOST, MOST_MOMENTS, MOST_MOMENTS_IN_LIST, Operator, Part, Range, Results, Statuses,
    Tasks, if_set, retry_policy, schedule_name,
};
use super::refusal::Refusal;
use super::roles::{Role, Row};
use super::traffic::Flow;
use super::watchers::Watchers;
use crate::broker::Cancelled;
use crate::codec::{Decoded, First, Requests};
use crate::run::Wish;
use crate::store::{Accepted, PAGE_BYTES, StoreError};
use crate::task::{Name, NameOf, NewTask, TaskId};
use crate::wire::control as pb;
use crate::wire::control_grpc::Control;

/// Requests of a submitting stream that are being written at once.
const UNDER_WAY: usize = 8;

/// Between two looks at a task that is watched.
const LEAST_REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// One clone for each completion queue.
#[derive(Clone)]
pub(super) struct ControlService {
    pub(super) operator: Operator,
    pub(super) watchers: Watchers,
    pub(super) calls: Calls,
}

/// The unary calls, each with its work.
macro_rules! unary {
    ($operator:ident, $caller:ident, $request:ident: $($call:ident($Request:ident) -> $Response:ident = $work:expr;)*) => {$(
        fn $call(&mut self, ctx: RpcContext<'_>, mut request: First<pb::$Request>, sink: ClientStreamingSink<pb::$Response>) {
            let ($operator, call, caller) = (self.operator.clone(), self.calls.begin(), LetIn::of(&request));
            ctx.spawn(async move {
                let _call = call;
                let work = async {
                    let ($caller, row) = caller?;
                    let $request = first(&mut request).await?;
                    let said = row.recorded.then(|| convert::said(&$request));
                    let work = async {
                        // Some ask for nothing in particular, and of some it does not matter who asks.
                        let _ = (&$request, &$caller);
                        Ok::<_, Refusal>($work)
                    };
                    let answer = work.await;
                    if let Some(said) = said {
                        $caller.record(row, &said, answer.as_ref().err());
                    }
                    answer
                };
                answer(sink, work.await).await;
            });
        }
    )*};
}

/// The lists, each with what is wanted of which log, and how its rows are encoded.
macro_rules! lists {
    ($request:ident: $($call:ident($Request:ident) -> $Page:ident = $wanted:expr, $encode:path;)*) => {$(
        fn $call(&mut self, ctx: RpcContext<'_>, request: First<pb::$Request>, sink: DuplexSink<pb::$Page>) {
            self.list(&ctx, request, |$request| Ok($wanted), sink, $encode);
        }
    )*};
}

impl Control for ControlService {
    unary! { operator, caller, request:
        submit(SubmitRequest) -> SubmitResponse = accept_all(&operator, &caller, request).await?;
        find_tasks(FindTasksRequest) -> FoundTasks = {
            let (found, looked) = convert::wanted(request)?.find(&operator).await?;
            convert::found(found, looked)
        };
        list_clients(ListClientsRequest) -> ListClientsResponse = {
            if request.known {
                convert::known_clients(operator.known_clients(request.offline_ms.map(Duration::from_millis)).await?)
            } else {
                let (connected, drained_away) = operator.clients().await?;
                convert::clients(connected, drained_away)
            }
        };
        describe_task(DescribeTaskRequest) -> TaskLedger =
            convert::ledger(operator.describe(request.id, convert::part(&request)?).await?);
        get_data(GetDataRequest) -> Data = convert::data(&match request.result {
            0 => operator.attachment_of_task(request.task).await?,
            result => operator.attachment_of_result(result).await?,
        });
        list_groups(ListGroupsRequest) -> ListGroupsResponse = convert::fleet(operator.fleet().await?);
        drop_dead(DropDeadRequest) -> DropDeadResponse = {
            operator.drop_dead(request.id, Name::new(NameOf::Group, &request.group)?).await?;
            pb::DropDeadResponse::new()
        };
        cancel_task(CancelTaskRequest) -> CancelTaskResponse = {
            let (cancelled, already) = operator.cancel(request.id).await?;
            let Cancelled { told, untold, .. } = cancelled;
            pb::CancelTaskResponse { groups: cancelled.groups(), already, told, untold, ..Default::default() }
        };
        retry_task(RetryTaskRequest) -> RetryTaskResponse = {
            let groups = operator.retry(request.id, if_set(NameOf::Group, &request.group)?).await? as u32;
            pb::RetryTaskResponse { groups, ..Default::default() }
        };
        pause_group(PauseGroupRequest) -> PauseGroupResponse = {
            let is_new = operator.pause(Name::new(NameOf::Group, &request.group)?, request.paused).await?;
            pb::PauseGroupResponse { is_new, ..Default::default() }
        };
        drain_client(DrainClientRequest) -> DrainClientResponse = {
            let lasts = Some(Duration::from_millis(request.for_ms)).filter(|lasts| !lasts.is_zero());
            convert::drained(operator.drain(request.client, lasts, request.note).await?)
        };
        undrain_client(UndrainClientRequest) -> UndrainClientResponse =
            convert::undrained(operator.undrain(request.client).await?);
        set_group_retry(SetGroupRetryRequest) -> SetGroupRetryResponse = {
            let policy = retry_policy(&request.retry)?;
            let is_new = operator.set_retry(Name::new(NameOf::Group, &request.group)?, policy).await?;
            pb::SetGroupRetryResponse { is_new, retry: policy.to_string(), ..Default::default() }
        };
        set_group_limits(SetGroupLimitsRequest) -> SetGroupLimitsResponse = {
            let change = convert::limits_change(&request)?;
            let (limits, is_new) = operator.set_limits(Name::new(NameOf::Group, &request.group)?, change).await?;
            convert::limits_set(limits, is_new)
        };
        remove_group(RemoveGroupRequest) -> RemoveGroupResponse = {
            let owed = operator.remove_group(Name::new(NameOf::Group, &request.group)?).await?;
            pb::RemoveGroupResponse { owed, ..Default::default() }
        };
        invite(InviteRequest) -> InviteResponse = {
            let lasts = Duration::from_millis(request.lasts_ms);
            let grant = convert::granted(&request)?;
            pb::InviteResponse { invitation: operator.invite(grant, lasts, request.uses).await?, ..Default::default() }
        };
        issue_certificate(IssueCertificateRequest) -> IssueCertificateResponse = {
            let name = Name::new(NameOf::ClientOrGroup, &request.name)?;
            let lasts = Duration::from_millis(request.lasts_ms);
            let role = if request.operator { Role::Operator } else { Role::Agent };
            let more = convert::change(request.groups, Vec::new(), &request.limits, &[])?;
            let issued = operator.issue(role, name, request.csr, lasts, more).await?;
            pb::IssueCertificateResponse { certificate: issued.certificate, ca: issued.ca, ..Default::default() }
        };
        list_identities(ListIdentitiesRequest) -> ListIdentitiesResponse = convert::identities(operator.enrolled()?);
        describe_identity(DescribeIdentityRequest) -> DescribeIdentityResponse =
            convert::known(&request.name, operator.known(&request.name)?);
        change_identity(ChangeIdentityRequest) -> DescribeIdentityResponse = {
            let pb::ChangeIdentityRequest { name, add_groups, remove_groups, limits, unset, .. } = request;
            let change = convert::change(add_groups, remove_groups, &limits, &unset)?;
            convert::known(&name, operator.change_identity(name.clone(), change).await?)
        };
        revoke_identity(RevokeIdentityRequest) -> RevokeIdentityResponse = {
            let connections = operator.revoke(request.name).await? as u32;
            pb::RevokeIdentityResponse { connections, ..Default::default() }
        };
        accept_clock(AcceptClockRequest) -> AcceptClockResponse = {
            pb::AcceptClockResponse { ahead_ms: operator.accept_clock(), ..Default::default() }
        };
        get_server(GetServerRequest) -> Server = convert::server(operator.server(request.counted).await?);
        create_token(CreateTokenRequest) -> CreateTokenResponse = {
            let (token, secret) = operator.create_token(convert::new_token(request)?).await?;
            pb::CreateTokenResponse { token: Some(convert::token(&token)).into(), secret, ..Default::default() }
        };
        list_tokens(ListTokensRequest) -> ListTokensResponse = {
            let tokens = operator.access.tokens().list().iter().map(|token| convert::token(token)).collect();
            pb::ListTokensResponse { tokens, required: operator.access.is_on(), ..Default::default() }
        };
        revoke_token(RevokeTokenRequest) -> RevokeTokenResponse = {
            operator.revoke_token(request.name).await?;
            pb::RevokeTokenResponse::new()
        };
        begin_run(BeginRunRequest) -> BegunRun = {
            let dry = request.dry_run;
            operator.traffic.count(Flow::Submitted, 1, request.task.len() + request.data.len());
            let view = operator.begin_run(convert::new_run(request)?, caller.submitter()).await?;
            if !dry {
                caller.began(view.run.number, view.targets.len());
            }
            convert::begun_run(&view)
        };
        get_run(GetRunRequest) -> RunDetails = {
            convert::run_details(&*operator.runs.view(request.number).await?, &request)?
        };
        list_runs(ListRunsRequest) -> ListRunsResponse = {
            let before = if request.before == 0 { TaskId::MAX } else { request.before };
            let limit = if request.limit == 0 { MOST } else { request.limit as usize };
            convert::run_list(operator.runs.list(before, limit.min(MOST)).await?)
        };
        change_run(ChangeRunRequest) -> Run = {
            convert::run(&*operator.change_run(request.number, convert::wish(request.change)?).await?)
        };
        cancel_run(CancelRunRequest) -> Run = {
            convert::run(&*operator.change_run(request.number, Wish::Cancel).await?)
        };
        retry_failed(RetryFailedRequest) -> BegunRun = {
            let lasts = Duration::from_millis(request.deadline_ms);
            convert::begun_run(&*operator.retry_run(request.number, lasts, caller.submitter()).await?)
        };
        add_dialled(AddDialledRequest) -> AddDialledResponse = {
            let group = if_set(NameOf::ClientOrGroup, &request.group)?;
            let client = if_set(NameOf::ClientOrGroup, &request.client)?;
            let is_new = operator.dialler.add(&request.address, group, client).await?;
            pb::AddDialledResponse { is_new, ..Default::default() }
        };
        list_servers(ListServersRequest) -> ListServersResponse = convert::servers(operator.list_servers().await?);
        list_dialled(ListDialledRequest) -> ListDialledResponse = convert::dialled(operator.dialler.all());
        remove_dialled(RemoveDialledRequest) -> RemoveDialledResponse = {
            operator.dialler.remove(&request.address).await?;
            pb::RemoveDialledResponse::new()
        };
        set_schedule(SetScheduleRequest) -> SetScheduleResponse = {
            let set = operator.set_schedule(convert::new_schedule(request)?, caller.submitter()).await?;
            caller.set_schedule(&set.0.name);
            convert::schedule_set(set)
        };
        list_schedules(ListSchedulesRequest) -> ListSchedulesResponse = {
            let after = if_set(NameOf::Schedule, &request.after)?;
            let moments = (request.moments as usize).clamp(1, MOST_MOMENTS_IN_LIST);
            convert::schedule_list(operator.schedules.list(after.as_ref(), moments, PAGE_BYTES).await?)
        };
        get_schedule(GetScheduleRequest) -> Schedule = {
            let moments = (request.moments as usize).clamp(1, MOST_MOMENTS);
            convert::schedule(operator.schedules.view(schedule_name(&request.name)?, moments).await?)
        };
        change_schedule(ChangeScheduleRequest) -> Schedule =
            convert::schedule(operator.schedules.pause(schedule_name(&request.name)?, request.paused).await?);
        run_schedule(RunScheduleRequest) -> RunScheduleResponse = {
            let id = operator.schedules.run(schedule_name(&request.name)?).await?;
            pb::RunScheduleResponse { id, ..Default::default() }
        };
        remove_schedule(RemoveScheduleRequest) -> RemoveScheduleResponse = {
            operator.schedules.remove(schedule_name(&request.name)?).await?;
            pb::RemoveScheduleResponse::new()
        };
        create_login(CreateLoginRequest) -> CreateLoginResponse = {
            let (path, lasts) = operator.access.login(caller.clone());
            let (http, lasts_ms) = (operator.about.http(), about::millis(lasts));
            let (tls, host) = operator.about.page();
            let host = host.unwrap_or_default().to_owned();
            pb::CreateLoginResponse { path, http, lasts_ms, tls, host, ..Default::default() }
        };
    }

    fn submit_stream(
        &mut self,
        ctx: RpcContext<'_>,
        mut requests: Requests<pb::SubmitRequest>,
        mut sink: DuplexSink<pb::SubmitResponse>,
    ) {
        let (operator, call, caller) = (self.operator.clone(), self.calls.begin(), LetIn::of_many(&requests));
        ctx.spawn(async move {
            let _call = call;
            // Lent, not given: a stream of requests that is dropped before its end cancels the call, refusal and all.
            match accept_stream(operator, caller, &mut requests, &mut sink).await {
                Ok(()) => drop(sink.close().await),
                Err(ended) => ended.tell("a submitting stream", |status| sink.fail(status)).await,
            }
        });
    }

    fn backup(
        &mut self,
        ctx: RpcContext<'_>,
        mut request: First<pb::BackupRequest>,
        mut sink: DuplexSink<pb::BackupProgress>,
    ) {
        let (operator, call, caller) = (self.operator.clone(), self.calls.begin(), LetIn::of(&request));
        ctx.spawn(async move {
            let _call = call;
            match back_up(&operator, caller, &mut request, &mut sink).await {
                Ok(()) => drop(sink.close().await),
                Err(ended) => ended.tell("a backup", |status| sink.fail(status)).await,
            }
        });
    }

    fn watch_task(
        &mut self,
        ctx: RpcContext<'_>,
        mut request: First<pb::WatchTaskRequest>,
        mut sink: DuplexSink<pb::TaskNews>,
    ) {
        let (service, call, caller) = (self.clone(), self.calls.begin(), LetIn::of(&request));
        ctx.spawn(async move {
            let _call = call;
            match service.send_task(caller.map(|(caller, _)| caller), &mut request, &mut sink).await {
                Ok(()) => drop(sink.close().await),
                Err(ended) => ended.tell("a watched task", |status| sink.fail(status)).await,
            }
        });
    }

    fn watch_run(
        &mut self,
        ctx: RpcContext<'_>,
        mut request: First<pb::WatchRunRequest>,
        mut sink: DuplexSink<pb::RunNews>,
    ) {
        let (service, call, caller) = (self.clone(), self.calls.begin(), LetIn::of(&request));
        ctx.spawn(async move {
            let _call = call;
            match service.send_run(caller.map(|(caller, _)| caller), &mut request, &mut sink).await {
                Ok(()) => drop(sink.close().await),
                Err(ended) => ended.tell("a watched run", |status| sink.fail(status)).await,
            }
        });
    }

    fn watch_output(
        &mut self,
        ctx: RpcContext<'_>,
        mut request: First<pb::WatchOutputRequest>,
        mut sink: DuplexSink<pb::TaskOutput>,
    ) {
        let (service, call, caller) = (self.clone(), self.calls.begin(), LetIn::of(&request));
        ctx.spawn(async move {
            let _call = call;
            match service.send_output(caller.map(|(caller, _)| caller), &mut request, &mut sink).await {
                Ok(()) => drop(sink.close().await),
                Err(ended) => ended.tell("watched output", |status| sink.fail(status)).await,
            }
        });
    }

    lists! { request:
        list_tasks(ListRequest) -> TaskPage = (Tasks, convert::range(&request)?), convert::task_page;
        list_results(ListRequest) -> ResultPage = (Results, convert::range(&request)?), convert::result_page;
        list_statuses(ListRequest) -> StatusPage = (Statuses, convert::range(&request)?), convert::status_page;
        list_dead(ListDeadRequest) -> ResultPage = {
            (DeadLetters(if_set(NameOf::Group, &request.group)?), convert::range(&request.list)?)
        }, convert::result_page;
    }
}

/// Makes a backup, and tells how it goes. When nobody listens any more, it stops.
async fn back_up(
    operator: &Operator,
    caller: Result<(Caller, &Row), Refusal>,
    request: &mut First<pb::BackupRequest>,
    sink: &mut DuplexSink<pb::BackupProgress>,
) -> Result<(), Ended> {
    let (caller, row) = caller?;
    let request = first(request).await?;
    let said = convert::said(&request);
    let backup = operator.back_up(request.path);
    caller.record(row, &said, backup.as_ref().err());
    let mut backup = backup?;
    while let Some(progress) = backup.progress.next().await {
        sink.send((convert::backup_progress(progress), WriteFlags::default())).await?;
    }
    sink.send((convert::backed_up(backup.end().await?), WriteFlags::default())).await?;
    Ok(())
}

/// Accepts all tasks of a request, or none.
async fn accept_all(
    operator: &Operator,
    caller: &Caller,
    request: pb::SubmitRequest,
) -> Result<pb::SubmitResponse, Refusal> {
    operator.traffic.count(Flow::Submitted, 1, convert::bytes(&request));
    let (tasks, refused) = convert::new_tasks(request, operator.limit, caller.submits());
    if let Some((index, why)) = refused.into_iter().next() {
        return Err(Refusal::InRequest { index, why: Box::new(why) });
    }
    let count = tasks.len();
    caller.spend(count)?;
    let accepted = operator.submit(tasks).await?;
    caller.submitted(accepted.first_id, count);
    Ok(convert::accepted(accepted, Vec::new()))
}

async fn accept_stream(
    operator: Operator,
    caller: Result<Caller, Refusal>,
    requests: &mut Requests<pb::SubmitRequest>,
    sink: &mut DuplexSink<pb::SubmitResponse>,
) -> Result<(), Ended> {
    let caller = caller?;
    let (submitter, mut standing) = (caller.clone(), caller.standing());
    // One request is decoded while those before it are being written: they share syncs. What was begun is answered.
    let requests = requests.take_until(async move { standing.end().await });
    let answers =
        requests.then(move |item| begin_accepting(operator.clone(), caller.clone(), item)).buffered(UNDER_WAY);
    futures::pin_mut!(answers);
    while let Some(answer) = answers.next().await {
        sink.send((answer?, WriteFlags::default())).await?;
    }
    Ok(submitter.check()?)
}

/// Takes the tasks of a request that can be, and names the others: resolves when they have their place after those of the
/// requests before, to what resolves when they are accepted.
async fn begin_accepting(
    operator: Operator,
    caller: Caller,
    item: grpcio::Result<Decoded<pb::SubmitRequest>>,
) -> impl Future<Output = Result<pb::SubmitResponse, Ended>> + Send + use<> {
    let begun = match message(item) {
        Ok(request) => {
            operator.traffic.count(Flow::SubmittedByStream, 1, convert::bytes(&request));
            let (tasks, refused) = convert::new_tasks(request, operator.limit, caller.submits());
            submit_some(&operator, &caller, tasks, refused).await.map_err(Ended::from)
        }
        Err(ended) => Err(ended),
    };
    async move {
        let (accepted, refused, count) = begun?;
        let accepted = accepted.await?;
        caller.submitted(accepted.first_id, count);
        Ok(convert::accepted(accepted, refused))
    }
}

/// Submits those of the tasks that can be: says which cannot, beside those that are `refused` already, and how many it were.
async fn submit_some(
    operator: &Operator,
    caller: &Caller,
    mut tasks: Vec<NewTask>,
    mut refused: Vec<(usize, Refusal)>,
) -> Result<(impl Future<Output = Result<Accepted, StoreError>> + Send + use<>, Vec<(usize, Refusal)>, usize), Refusal>
{
    let unknown = operator.take_unknown(&mut tasks).await?;
    convert::refuse_more(&mut refused, unknown);
    let count = tasks.len();
    caller.in_turn(Limit::Submits, count).await?;
    Ok((operator.begin_submit(tasks).await?, refused, count))
}

impl ControlService {
    /// Streams a list page by page.
    fn list<Q: Send + 'static, L: Log, P: Send + 'static>(
        &self,
        ctx: &RpcContext<'_>,
        mut request: First<Q>,
        wanted: fn(Q) -> Result<(L, Range), Refusal>,
        mut sink: DuplexSink<P>,
        encode: fn(Vec<L::Row>) -> P,
    ) {
        let (service, call, caller) = (self.clone(), self.calls.begin(), LetIn::of(&request));
        ctx.spawn(async move {
            let _call = call;
            let wanted = first(&mut request).await.and_then(wanted).and_then(|wanted| Ok((caller?.0, wanted)));
            match service.send_list(wanted, &mut sink, encode).await {
                Ok(()) => drop(sink.close().await),
                Err(ended) => ended.tell("a list", |status| sink.fail(status)).await,
            }
        });
    }

    /// Sends what is new of a task until all groups have settled it. A step is made when the one before has gone out.
    async fn send_task(
        &self,
        caller: Result<Caller, Refusal>,
        request: &mut First<pb::WatchTaskRequest>,
        sink: &mut DuplexSink<pb::TaskNews>,
    ) -> Result<(), Ended> {
        let (caller, request) = (caller?, first(request).await?);
        let mut standing = caller.standing();
        let (id, mut after, mut last) = (request.id, request.after, None);
        loop {
            caller.check()?;
            // What comes after this look is news.
            let seen = self.operator.store.tail().positions();
            let part = Part { limit: MOST, without_results: true, ..Part::default() };
            let began = Instant::now();
            let ledger = self.operator.describe(id, part).await?;
            if ledger.counts.waiting + ledger.counts.in_flight == 0 {
                // What settled it is written down before it is read.
                self.operator.broker.flushed().await?;
            }
            let seqs = self.operator.news_of_task(id, after).await?;
            let took = began.elapsed();
            let (counts, mut left) = (ledger.counts, &seqs[..]);
            let may_be_replaced = ledger.task.spec.replace.is_some();
            let ledger = convert::ledger(ledger);
            while !left.is_empty() || last != Some(counts) {
                let (results, taken) = self.operator.results(left).await?;
                left = &left[taken..];
                after = results.last().map_or(after, |entry| entry.seq);
                last = Some(counts);
                sink.send((convert::task_news(ledger.clone(), results), WriteFlags::default())).await?;
            }
            if counts.waiting + counts.in_flight == 0 {
                return Ok(());
            }
            Delay::new((took * BROKER_SHARE).clamp(LEAST_REST, LONGEST_REST)).await;
            let tail = self.operator.store.tail();
            // A task that takes its place leaves no result with a group that is away.
            let changed = || {
                let now = tail.positions();
                now.result != seen.result || (may_be_replaced && now.task != seen.task)
            };
            if !self.watchers.wait(sink, changed, &mut standing).await? {
                return Err(Refusal::stopping(1).into());
            }
        }
    }

    /// Sends what a task prints until all groups have settled it.
    async fn send_output(
        &self,
        caller: Result<Caller, Refusal>,
        request: &mut First<pb::WatchOutputRequest>,
        sink: &mut DuplexSink<pb::TaskOutput>,
    ) -> Result<(), Ended> {
        let (caller, request) = (caller?, first(request).await?);
        let mut standing = caller.standing();
        let mut following = self.operator.follow(request.id, if_set(NameOf::Group, &request.group)?).await?;
        loop {
            caller.check()?;
            let next = self.watchers.unless_over(following.next(), sink, &mut standing).await?;
            let Some(output) = next.ok_or_else(|| Refusal::stopping(1))?? else { return Ok(()) };
            sink.send((convert::output(output), WriteFlags::default())).await?;
        }
    }

    /// Sends what is new of a run until it ends, likewise.
    async fn send_run(
        &self,
        caller: Result<Caller, Refusal>,
        request: &mut First<pb::WatchRunRequest>,
        sink: &mut DuplexSink<pb::RunNews>,
    ) -> Result<(), Ended> {
        let (caller, request) = (caller?, first(request).await?);
        let mut standing = caller.standing();
        let runs = &self.operator.runs;
        let (number, mut after) = (request.number, request.after);
        loop {
            caller.check()?;
            let view = runs.view(number).await?;
            let mut seqs: Vec<u64> = view.targets.iter().map(|target| target.seq).filter(|seq| *seq > after).collect();
            seqs.sort_unstable();
            let mut left = &seqs[..];
            loop {
                let (results, taken) = self.operator.results(left).await?;
                left = &left[taken..];
                after = results.last().map_or(after, |entry| entry.seq);
                sink.send((convert::run_news(&view, results), WriteFlags::default())).await?;
                if left.is_empty() {
                    break;
                }
            }
            if view.run.ended_at.is_some() {
                return Ok(());
            }
            let changed = || runs.version(number) != Some(view.version);
            if !runs.watchers().wait(sink, changed, &mut standing).await? {
                return Err(Refusal::stopping(1).into());
            }
        }
    }

    async fn send_list<L: Log, P: Send + 'static>(
        &self,
        wanted: Result<(Caller, (L, Range)), Refusal>,
        sink: &mut DuplexSink<P>,
        encode: fn(Vec<L::Row>) -> P,
    ) -> Result<(), Ended> {
        let (caller, (log, range)) = wanted?;
        let mut list = self.operator.list(log, range).await?;
        let mut standing = caller.standing();
        while let Some(rows) = list.next().await? {
            standing.check()?;
            if !rows.is_empty() {
                sink.send((encode(rows), WriteFlags::default())).await?;
            }
            if list.waits() && !self.watchers.wait(sink, || list.has_news(), &mut standing).await? {
                return Err(Refusal::stopping(1).into());
            }
        }
        Ok(())
    }
}
