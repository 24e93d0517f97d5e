//! Who says wrong things of itself, or nothing, or does what is not for its role.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use contact::codec::client_method;
use contact::server::Auth;
use contact::wire;
use contact::wire::contact::{Empty, Result as Told};
use contact::wire::control::{self as pb, NewTask};
use contact::wire::google_rpc::error_details::{ErrorInfo, RetryInfo};
use contact::wire::google_rpc::status::Status;
use futures::executor::block_on;
use futures::{SinkExt as _, StreamExt as _};
use grpcio::{CallOption, Client as Raw, Error, MetadataBuilder, MethodType, RpcStatus, WriteFlags};
use protobuf::reflect::FileDescriptor;
use protobuf::{Message as _, MessageFull};

use crate::common::DEADLINE;
use crate::common::program::Program;
use crate::common::server::Server;
use crate::http::client::{Reply, exchange};
use crate::rig::{Client, Rig, channel};

const CLIENT: &str = env!("CARGO_BIN_EXE_contact-client");
const CTL: &str = env!("CARGO_BIN_EXE_contactctl");

fn rig() -> Rig {
    Rig::with(|config| {
        config.auth = Auth::Required;
        config.http = Some("127.0.0.1:0".into());
    })
}

/// The credential of operators on this machine.
pub(super) fn operator(rig: &Rig) -> String {
    let file = rig.config.data.join("operator.token");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    fs::read_to_string(file).unwrap().trim().to_owned()
}

/// Calls that say this, as often as it stands here.
fn saying(values: &[String]) -> CallOption {
    let mut metadata = MetadataBuilder::new();
    for value in values {
        metadata.add_str("authorization", value).unwrap();
    }
    CallOption::default().timeout(DEADLINE).headers(metadata.build())
}

pub(super) fn bearer(token: &str) -> CallOption {
    saying(&[format!("Bearer {token}")])
}

pub(super) fn new(name: &str, role: &str) -> pb::CreateTokenRequest {
    pb::CreateTokenRequest { name: name.into(), role: role.into(), ..Default::default() }
}

#[track_caller]
pub(super) fn create(rig: &Rig, request: pb::CreateTokenRequest) -> String {
    let answer = rig.operator.control.create_token(&request, bearer(&operator(rig))).unwrap();
    block_on(answer).unwrap().secret
}

#[track_caller]
fn revoke(rig: &Rig, name: &str) {
    let request = pb::RevokeTokenRequest { name: name.into(), ..Default::default() };
    block_on(rig.operator.control.revoke_token(&request, bearer(&operator(rig))).unwrap()).unwrap();
}

pub(super) fn detail<T: MessageFull>(status: &RpcStatus) -> Option<T> {
    let details = Status::parse_from_bytes(status.details()).ok()?.details;
    details.iter().find_map(|any| any.unpack().ok().flatten())
}

pub(super) fn reason(status: &RpcStatus) -> String {
    detail::<ErrorInfo>(status).map_or_else(|| format!("{status:?}"), |info| info.reason)
}

#[track_caller]
pub(super) fn refused<T>(answer: grpcio::Result<T>) -> RpcStatus {
    match answer {
        Err(Error::RpcFailure(status) | Error::RpcFinished(Some(status))) => status,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("not refused"),
    }
}

/// All methods of both ports, each with its port.
fn methods(rig: &Rig) -> BTreeMap<&'static str, Raw> {
    let [clients, operators] = [rig.listen(), rig.control()].map(|address| Raw::new(channel(address)));
    let common = [
        wire::grpc_health_v1::health::file_descriptor(),
        wire::grpc_reflection_v1::reflection::file_descriptor(),
        wire::grpc_reflection_v1alpha::reflection::file_descriptor(),
    ];
    let mut all = BTreeMap::new();
    let mut add = |file: &FileDescriptor, port: &Raw| {
        // What workers serve that listen is called on no port of a server.
        for service in file.proto().service.iter().filter(|service| service.name() != "Worker") {
            for method in &service.method {
                let package = file.package();
                let dot = if package.is_empty() { "" } else { "." };
                let path = format!("/{package}{dot}{}/{}", service.name(), method.name());
                all.insert(&*Box::leak(path.into_boxed_str()), port.clone());
            }
        }
    };
    common.into_iter().for_each(|file| add(file, &operators));
    add(wire::contact::file_descriptor(), &clients);
    add(wire::control::file_descriptor(), &operators);
    all
}

/// Calls it without a message. What is refused for who calls, is so before that is missed.
fn call(port: &Raw, method: &'static str, options: CallOption) -> String {
    let method = client_method::<Empty, Empty>(MethodType::Duplex, method);
    let (mut sink, mut answers) = port.duplex_streaming(&method, options).unwrap();
    block_on(async {
        let _ = sink.close().await;
        match answers.next().await {
            None | Some(Ok(_)) => "OK".into(),
            Some(Err(Error::RpcFailure(status) | Error::RpcFinished(Some(status)))) => reason(&status),
            Some(Err(other)) => other.to_string(),
        }
    })
}

/// As docs/security.md has it, and not as the table of the server does.
fn may(role: &str, method: &str) -> bool {
    let (service, name) = method.rsplit_once('/').unwrap();
    let looks = ["List", "Find", "Describe", "Get", "Watch", "CreateLogin"].iter().any(|word| name.starts_with(word));
    match service {
        "/Contact" => matches!(role, "agent" | "operator"),
        "/contact.control.v1.Control" => match role {
            "operator" => true,
            "submit" => name.starts_with("Submit"),
            "read" => looks && name != "ListTokens",
            _ => false,
        },
        _ => true,
    }
}

const REFUSED: [&str; 4] = ["CREDENTIAL_MISSING", "TOKEN_UNKNOWN", "TOKEN_EXPIRED", "ROLE_NOT_ALLOWED"];

#[test]
fn each_role_may_call_what_is_for_it_and_no_other_method() {
    let rig = rig();
    let methods = methods(&rig);
    assert!(methods.len() > 30);
    for role in ["agent", "submit", "read", "operator"] {
        let token = create(&rig, new(role, role));
        for (method, port) in &methods {
            let said = call(port, method, bearer(&token));
            match may(role, method) {
                true => assert!(!REFUSED.contains(&&*said), "{role} {method}: {said}"),
                false => assert_eq!(said, "ROLE_NOT_ALLOWED", "{role} {method}"),
            }
        }
    }
}

#[test]
fn no_method_is_for_those_whose_token_is_wrong_or_over_or_who_have_none() {
    let rig = rig();
    let good = create(&rig, new("good", "operator"));
    let ended = create(&rig, pb::CreateTokenRequest { ttl_ms: Some(1), ..new("ended", "operator") });
    let revoked = create(&rig, new("revoked", "operator"));
    revoke(&rig, "revoked");
    rig.operator.passed(crate::rig::now() + 2);
    let one = |value: String| vec![value];
    let wrong = [
        (vec![], "CREDENTIAL_MISSING"),
        (one(format!("Bearer ct1_{}", "0".repeat(64))), "TOKEN_UNKNOWN"),
        (one(format!("Bearer {}", &good[..good.len() - 1])), "TOKEN_UNKNOWN"),
        (one(format!("Bearer {good}0")), "TOKEN_UNKNOWN"),
        (one(format!("Bearer {}", good.to_uppercase())), "TOKEN_UNKNOWN"),
        (one(format!("Bearer {}", &good[4..])), "TOKEN_UNKNOWN"),
        (one(format!("Basic {good}")), "TOKEN_UNKNOWN"),
        (one(good.clone()), "TOKEN_UNKNOWN"),
        (one("Bearer".into()), "TOKEN_UNKNOWN"),
        (vec![format!("Bearer {good}"), format!("Bearer {good}")], "TOKEN_UNKNOWN"),
        (one(format!("Bearer {ended}")), "TOKEN_EXPIRED"),
        (one(format!("Bearer {revoked}")), "TOKEN_UNKNOWN"),
    ];
    for (method, port) in &methods(&rig) {
        for (values, expected) in &wrong {
            let said = call(port, method, saying(values));
            match may("nobody", method) {
                true => assert!(!REFUSED.contains(&&*said), "{method}: {said}"),
                false => assert_eq!(said, *expected, "{method} {values:?}"),
            }
        }
    }
}

fn get(rig: &Rig, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-contact: 1\r\nconnection: close\r\n");
    headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
    let body = if method == "POST" { "content-length: 2\r\n\r\n{}" } else { "\r\n" };
    exchange(rig.http(), (request + body).as_bytes())
}

/// All routes but `/api/events`, which does not end.
const ROUTES: [(&str, &str, &str); 34] = [
    ("GET", "/", "read"),
    ("GET", "/metrics", "read"),
    ("GET", "/api/state", "read"),
    ("GET", "/api/tasks", "read"),
    ("GET", "/api/tasks/1", "read"),
    ("GET", "/api/dead", "read"),
    ("GET", "/api/clients", "read"),
    ("GET", "/api/dialled", "read"),
    ("POST", "/api/dialled/add", "operator"),
    ("POST", "/api/dialled/remove", "operator"),
    ("GET", "/api/servers", "read"),
    ("GET", "/api/groups", "read"),
    ("GET", "/api/runs", "read"),
    ("GET", "/api/runs/1", "read"),
    ("POST", "/api/runs", "operator"),
    ("POST", "/api/runs/1/pause", "operator"),
    ("POST", "/api/runs/1/resume", "operator"),
    ("POST", "/api/runs/1/abort", "operator"),
    ("POST", "/api/runs/1/cancel", "operator"),
    ("POST", "/api/runs/1/retry", "operator"),
    ("POST", "/api/tasks", "submit"),
    ("POST", "/api/tasks/1/cancel", "operator"),
    ("POST", "/api/tasks/1/retry", "operator"),
    ("POST", "/api/tasks/1/drop", "operator"),
    ("POST", "/api/clients/drain", "operator"),
    ("POST", "/api/clients/undrain", "operator"),
    ("POST", "/api/groups/pause", "operator"),
    ("POST", "/api/groups/retry", "operator"),
    ("POST", "/api/groups/limits", "operator"),
    ("POST", "/api/groups/remove", "operator"),
    ("GET", "/healthz", ""),
    ("GET", "/readyz", ""),
    ("GET", "/assets/main.js", ""),
    ("GET", "/nothing", ""),
];

#[test]
fn each_role_may_ask_over_http_for_what_is_for_it_and_nothing_else() {
    let rig = rig();
    let tokens = ["agent", "submit", "read", "operator"].map(|role| (role, create(&rig, new(role, role))));
    let wrong = format!("Bearer ct1_{}", "0".repeat(64));
    for (method, path, needs) in ROUTES {
        let is_open = needs.is_empty();
        for values in [vec![], vec![("authorization", &*wrong)], vec![("cookie", "contact-session=00")]] {
            let status = get(&rig, method, path, &values).status;
            assert_eq!(status == 401, !is_open, "{method} {path}: {status}");
        }
        for (role, token) in &tokens {
            let status = get(&rig, method, path, &[("authorization", &format!("Bearer {token}"))]).status;
            let may = is_open || needs == *role || *role == "operator";
            assert_eq!(status == 403, !may, "{role} {method} {path}: {status}");
            assert_ne!(status, 401, "{role} {method} {path}");
        }
    }
    let events = get(&rig, "GET", "/api/events", &[]);
    assert_eq!((events.status, events.header("www-authenticate")), (401, "Bearer realm=\"contact\""));
}

#[test]
fn a_link_lets_one_browser_in_as_who_made_it_and_other_sites_use_no_session() {
    let rig = rig();
    let token = create(&rig, new("ann", "operator"));
    let link = |token: &str| {
        let answer = rig.operator.control.create_login(&pb::CreateLoginRequest::new(), bearer(token)).unwrap();
        block_on(answer).unwrap().path
    };
    let path = link(&token);
    let page = get(&rig, "GET", "/", &[]);
    assert!(page.status == 401 && page.body.contains("contactctl login"), "{page:?}");
    let first = get(&rig, "GET", &path, &[]);
    let set = first.header("set-cookie").to_owned();
    assert!(first.status == 200 && set.contains("; HttpOnly; SameSite=Strict; Path=/"), "{first:?}");
    let cookie = set.split(';').next().unwrap();
    let again = get(&rig, "GET", &path, &[]);
    assert!(again.status == 403 && again.header("set-cookie").is_empty(), "{again:?}");
    for guessed in ["/login", "/login?code=", "/login?code=00", &path[..path.len() - 1]] {
        let reply = get(&rig, "GET", guessed, &[]);
        assert!(reply.status == 403 && reply.header("set-cookie").is_empty(), "{guessed}: {reply:?}");
    }
    assert_eq!(get(&rig, "GET", "/", &[("cookie", cookie)]).status, 200);
    let pause = |headers: &[(&str, &str)]| {
        get(&rig, "POST", "/api/tasks/1/cancel", &[&[("cookie", cookie)], headers].concat()).status
    };
    assert_eq!(pause(&[]), 404, "there is no such task");
    assert_eq!(pause(&[("origin", "http://127.0.0.1")]), 404);
    assert_eq!(pause(&[("origin", "http://127.0.0.1"), ("sec-fetch-site", "same-origin")]), 404);
    for foreign in [
        [("origin", "http://evil.example"), ("accept", "*/*")],
        [("origin", "null"), ("accept", "*/*")],
        [("origin", "http://127.0.0.1"), ("sec-fetch-site", "cross-site")],
        [("origin", "http://127.0.0.1"), ("sec-fetch-site", "same-site")],
    ] {
        assert_eq!(pause(&foreign), 401, "{foreign:?}");
    }
    let other_host =
        format!("GET /api/state HTTP/1.1\r\nhost: evil.example\r\ncookie: {cookie}\r\nconnection: close\r\n\r\n");
    assert_eq!(exchange(rig.http(), other_host.as_bytes()).status, 403);
    // Behind TLS the cookie is for this host and for TLS alone.
    let secure = get(&rig, "GET", &link(&token), &[("x-forwarded-proto", "https")]);
    let set = secure.header("set-cookie");
    assert!(set.starts_with("__Host-contact-session=") && set.ends_with("; Secure"), "{set}");
    // A session is worth as much as the token it was made with.
    let reader = create(&rig, new("reader", "read"));
    let read = get(&rig, "GET", &link(&reader), &[]);
    let read = read.header("set-cookie").split(';').next().unwrap().to_owned();
    assert_eq!(get(&rig, "GET", "/api/state", &[("cookie", &read)]).status, 200);
    assert_eq!(get(&rig, "POST", "/api/tasks", &[("cookie", &read)]).status, 403);
    revoke(&rig, "reader");
    assert_eq!(get(&rig, "GET", "/api/state", &[("cookie", &read)]).status, 401);
}

/// On every route: names of other hosts, so that no page of another site becomes one of ours by its DNS; and a session that is used from
/// elsewhere.
#[test]
fn no_route_answers_under_another_host_and_none_changes_anything_for_another_site() {
    let rig = rig();
    let token = create(&rig, new("ann", "operator"));
    let link = rig.operator.control.create_login(&pb::CreateLoginRequest::new(), bearer(&token)).unwrap();
    let first = get(&rig, "GET", &block_on(link).unwrap().path, &[]);
    let cookie = first.header("set-cookie").split(';').next().unwrap().to_owned();
    let ask = |method: &str, path: &str, lines: &str| {
        let body = if method == "POST" { "content-length: 2\r\n\r\n{}" } else { "\r\n" };
        let request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\nx-contact: 1\r\n{lines}{body}");
        exchange(rig.http(), request.as_bytes()).status
    };
    let who = [format!("authorization: Bearer {token}\r\n"), format!("cookie: {cookie}\r\n"), String::new()];
    let events = [("GET", "/api/events", "read"), ("GET", "/login?code=00", "")];
    for (method, path, _) in ROUTES.into_iter().chain(events) {
        for hosts in [
            "",
            "host: \r\n",
            "host: evil.example\r\n",
            "host: localhost.evil.example\r\n",
            "host: 127.0.0.1.evil.example\r\n",
            "host: evil.example:127.0.0.1\r\n",
            "host: localhost@evil.example\r\n",
            "host: evil.example\r\nx-forwarded-host: localhost\r\n",
            "host: localhost\r\nhost: evil.example\r\n",
        ] {
            for who in &who {
                let status = ask(method, path, &format!("{hosts}{who}"));
                assert!([400, 403].contains(&status), "{method} {path} {hosts:?} {who:?}: {status}");
            }
        }
        if method != "POST" {
            continue;
        }
        for from in [
            "origin: http://evil.example\r\n",
            "origin: null\r\n",
            "origin: \r\n",
            "origin: http://127.0.0.1.evil.example\r\n",
            "origin: http://127.0.0.1:1\r\n",
            "origin: http://127.0.0.1\r\nsec-fetch-site: cross-site\r\n",
            "sec-fetch-site: same-site\r\n",
        ] {
            let status = ask(method, path, &format!("host: 127.0.0.1\r\ncookie: {cookie}\r\n{from}"));
            assert_eq!(status, 401, "{method} {path} {from:?}");
        }
        let ours = format!("host: 127.0.0.1\r\ncookie: {cookie}\r\norigin: http://127.0.0.1\r\n");
        let status = ask(method, path, &ours);
        assert!(![401, 403].contains(&status), "{method} {path}: {status}");
    }
    let described =
        rig.operator.control.get_server(&pb::GetServerRequest { counted: true, ..Default::default() }, bearer(&token));
    assert_eq!(block_on(described.unwrap()).unwrap().tasks, 0);
}

pub(super) fn agent(rig: &Rig, token: &str, metadata: &[(&str, &str)]) -> Client {
    metadata.iter().fold(rig.client(&[("authorization", &format!("Bearer {token}"))]), |client, (key, value)| {
        client.saying(key, value)
    })
}

#[track_caller]
pub(super) fn submit(rig: &Rig, text: &str, to: &str) {
    let task = NewTask { task: text.into(), to: to.into(), ..Default::default() };
    let request = pb::SubmitRequest { tasks: vec![task], ..Default::default() };
    block_on(rig.operator.control.submit(&request, bearer(&operator(rig))).unwrap()).unwrap();
}

#[test]
fn an_agent_is_who_its_token_says_and_in_no_group_that_it_does_not_name() {
    let rig = rig();
    let token = create(&rig, pb::CreateTokenRequest { groups: vec!["workers".into()], ..new("web", "agent") });
    submit(&rig, "for workers", "workers");
    submit(&rig, "for others", "secret");
    for (metadata, expected) in [
        (("contact-client", "other"), "CLIENT_NOT_ALLOWED"),
        (("contact-client", "workers"), "CLIENT_NOT_ALLOWED"),
        (("contact-client", "web2"), "CLIENT_NOT_ALLOWED"),
        (("contact-group", "secret"), "GROUP_NOT_ALLOWED"),
    ] {
        let client = agent(&rig, &token, &[metadata]);
        assert_eq!(reason(&client.tasks().end()), expected, "{metadata:?}");
        let done = Told { id: 1, attempt: 1, ..Told::default() };
        assert_eq!(reason(&client.try_tell([done]).unwrap_err()), expected, "{metadata:?}");
        assert_eq!(reason(&client.statuses().end().unwrap_err()), expected, "{metadata:?}");
    }
    let task = agent(&rig, &token, &[]).tasks().next();
    assert_eq!(task.task, "for workers");
}

#[test]
fn a_stream_whose_token_is_revoked_gets_no_task_and_tells_nothing_any_more() {
    let rig = rig();
    let token = create(&rig, pb::CreateTokenRequest { groups: vec!["workers".into()], ..new("web", "agent") });
    let client = agent(&rig, &token, &[("contact-client", "web")]);
    let (mut tasks, mut telling) = (client.tasks(), client.telling());
    submit(&rig, "before", "workers");
    let before = tasks.next();
    revoke(&rig, "web");
    telling.say(crate::rig::done(&before));
    assert_eq!(reason(&telling.end().unwrap_err()), "TOKEN_UNKNOWN");
    submit(&rig, "after", "workers");
    assert_eq!(reason(&tasks.end()), "TOKEN_UNKNOWN");
    let next = create(&rig, pb::CreateTokenRequest { groups: vec!["workers".into()], ..new("next", "agent") });
    let mut tasks = agent(&rig, &next, &[("contact-client", "next")]).tasks();
    let mut texts = tasks.texts(2);
    texts.sort_unstable();
    assert_eq!(texts, ["after", "before"], "neither was settled");
}

/// Everything that can be open with nothing going over it, of one agent and one operator. How each ends, without a word from us.
fn silent_ends(rig: &Rig, agent_token: &str, operator_token: &str, begun: impl FnOnce()) -> Vec<String> {
    let client = agent(rig, agent_token, &[("contact-client", "web"), ("contact-heartbeat", "3600")]);
    let mut tasks = client.tasks();
    // The empty message that says who answers: the stream is open.
    assert_eq!(tasks.next().task, "");
    let (telling, mut statuses) = (client.telling(), client.statuses());
    assert!(statuses.say("here") && statuses.answer().is_ok());
    let control = &rig.operator.control;
    let follow = pb::ListRequest { follow: true, ..Default::default() };
    let mut list = control.list_tasks(&follow, bearer(operator_token)).unwrap();
    let (mut requests, mut answers) = control.submit_stream(bearer(operator_token)).unwrap();
    let task = NewTask { task: "x".into(), to: "nobody".into(), ..Default::default() };
    let request = pb::SubmitRequest { tasks: vec![task], ..Default::default() };
    block_on(async {
        requests.send((request, WriteFlags::default())).await.unwrap();
        answers.next().await.unwrap().unwrap();
        list.next().await.unwrap().unwrap();
    });
    begun();
    let last = [
        tasks.end(),
        telling.cut_short().unwrap_err(),
        statuses.answer().unwrap_err(),
        refused(block_on(async {
            // What it was to list comes first, in one part or several.
            while !list.next().await.unwrap()?.tasks.is_empty() {}
            Ok(())
        })),
        refused(block_on(answers.next()).unwrap()),
    ];
    last.iter().map(reason).collect()
}

#[test]
fn a_stream_on_which_nothing_happens_ends_when_its_token_is_revoked_or_over() {
    let rig = rig();
    let token = |name: &str, role: &str, ttl_ms| create(&rig, pb::CreateTokenRequest { ttl_ms, ..new(name, role) });
    let (web, ann) = (token("web", "agent", None), token("ann", "operator", None));
    let ends = silent_ends(&rig, &web, &ann, || {
        revoke(&rig, "web");
        revoke(&rig, "ann");
    });
    assert_eq!(ends, ["TOKEN_UNKNOWN"; 5]);
    let (web, ann) = (token("web", "agent", Some(3_000)), token("ann", "operator", Some(3_000)));
    assert_eq!(silent_ends(&rig, &web, &ann, || {}), ["TOKEN_EXPIRED"; 5]);
}

#[test]
fn who_submits_does_so_for_whom_the_token_names_and_no_faster_than_it_says() {
    let rig = rig();
    let request = pb::CreateTokenRequest { targets: vec!["workers".into()], rate: 3, ..new("ci", "submit") };
    let token = create(&rig, request);
    let tasks = |count: usize, to: &str| {
        let task = NewTask { task: "x".into(), to: to.into(), ..Default::default() };
        pb::SubmitRequest { tasks: vec![task; count], ..Default::default() }
    };
    let control = &rig.operator.control;
    for to in ["", "others"] {
        let status = refused(block_on(control.submit(&tasks(1, to), bearer(&token)).unwrap()));
        assert_eq!(reason(&status), "TARGET_NOT_ALLOWED", "{to}");
        let body = format!("{{\"text\":\"x\",\"to\":\"{to}\"}}");
        let request = format!(
            "POST /api/tasks HTTP/1.1\r\nhost: 127.0.0.1\r\nx-contact: 1\r\nauthorization: Bearer {token}\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(exchange(rig.http(), request.as_bytes()).status, 403, "{to}");
    }
    block_on(control.submit(&tasks(30, "workers"), bearer(&token)).unwrap()).unwrap();
    let status = refused(block_on(control.submit(&tasks(1, "workers"), bearer(&token)).unwrap()));
    assert_eq!(reason(&status), "RATE_EXCEEDED");
    let wait = detail::<RetryInfo>(&status).unwrap().retry_delay.unwrap();
    assert!((1..=10).contains(&wait.seconds), "{wait}");
    // A stream is held up, and told of what is not for it.
    let quick = create(&rig, pb::CreateTokenRequest { rate: 50, ..new("quick", "submit") });
    let (mut requests, mut answers) = control.submit_stream(bearer(&quick)).unwrap();
    block_on(async {
        for _ in 0..3 {
            requests.send((tasks(40, "workers"), WriteFlags::default())).await.unwrap();
        }
        requests.close().await.unwrap();
        for _ in 0..3 {
            answers.next().await.unwrap().unwrap();
        }
    });
}

#[test]
fn who_submitted_a_task_stands_in_its_ledger_wherever_one_looks() {
    let server = Server::start(&["--auth", "required"]);
    let operator = fs::read_to_string(server.data().join("operator.token")).unwrap().trim().to_owned();
    let made = server.ctl(&["token", "create", "ci", "--role", "submit"]).remove(0);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ci.token");
    fs::write(&file, made["secret"].as_str().unwrap()).unwrap();
    server.ctl(&["submit", "by an operator"]);
    server.ctl(&["submit", "by ci", "--token-file", file.to_str().unwrap()]);
    let body = "{\"text\":\"by ci, over HTTP\"}";
    let request = format!(
        "POST /api/tasks HTTP/1.1\r\nhost: 127.0.0.1\r\nx-contact: 1\r\nauthorization: Bearer {}\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        made["secret"].as_str().unwrap(),
        body.len()
    );
    assert_eq!(exchange(&server.http, request.as_bytes()).status, 200);
    for (id, name, role) in [("1", "local", "operator"), ("2", "ci", "submit"), ("3", "ci", "submit")] {
        let task = server.ctl(&["task", id]).remove(0);
        let by = |value: &serde_json::Value| (value["submitted_by"].clone(), value["submitted_role"].clone());
        assert_eq!(by(&task), (name.into(), role.into()), "{task}");
        let request = format!(
            "GET /api/tasks/{id} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {operator}\r\nconnection: close\r\n\r\n"
        );
        let reply = exchange(&server.http, request.as_bytes());
        assert_eq!(by(&serde_json::from_str(&reply.body).unwrap()), (name.into(), role.into()), "{reply:?}");
    }
    let mut ctl = Command::new(CTL);
    ctl.args(["task", "2", "--server", &server.control]).env("CONTACT_DATA", server.data());
    let shown = String::from_utf8(ctl.output().unwrap().stdout).unwrap();
    assert!(shown.contains("submitted by") && shown.contains("ci (submit)"), "{shown}");
}

#[test]
fn labels_that_a_token_has_are_believed_and_nobody_else_who_says_them() {
    let rig = rig();
    let bound = pb::CreateTokenRequest { labels: "role=db".into(), ..new("db", "agent") };
    let (db, other) = (create(&rig, bound), create(&rig, new("other", "agent")));
    let wrong = pb::CreateTokenRequest { labels: "role=db".into(), ..new("wrong", "submit") };
    let status = refused(block_on(rig.operator.control.create_token(&wrong, bearer(&operator(&rig))).unwrap()));
    assert_eq!(reason(&status), "TOKEN_INVALID");
    let mut at_db = agent(&rig, &db, &[("contact-labels", "role=web,os=linux")]).tasks();
    let mut at_other = agent(&rig, &other, &[("contact-labels", "role=db,os=linux")]).tasks();
    rig.operator.passed(crate::rig::now() + 1);
    let select = |selector: &str, text: &str| {
        let task = NewTask { task: text.into(), select: selector.into(), ..Default::default() };
        let request = pb::SubmitRequest { tasks: vec![task], ..Default::default() };
        block_on(rig.operator.control.submit(&request, bearer(&operator(&rig))).unwrap()).unwrap();
    };
    // Both are there when these are accepted, or wait for them.
    submit(&rig, "there", "db");
    submit(&rig, "there", "other");
    assert_eq!((at_db.texts(1), at_other.texts(1)), (vec!["there".to_owned()], vec!["there".to_owned()]));
    select("role=db", "the password");
    select("os=linux", "for both");
    assert_eq!(at_db.texts(2), ["the password", "for both"]);
    assert_eq!(at_other.texts(1), ["for both"], "it says that it is a db, and nobody believes it");
    // When the token is revoked, nothing is bound any more.
    revoke(&rig, "db");
    let mut again = agent(&rig, &other, &[("contact-labels", "role=db")]).tasks();
    assert_eq!(reason(&at_other.end()), "CLIENT_TAKEN_OVER");
    select("role=db", "for whoever says so");
    // Behind what it had not settled.
    assert_eq!(again.texts(3).last().unwrap(), "for whoever says so");
}

/// Where a token may not stand: what the programs print and log, what they hand to commands, and how they are called.
#[test]
fn a_token_stands_in_no_log_no_settings_no_environment_and_no_command_line() {
    let mut server = Server::start(&["--auth", "required", "--log", "debug"]);
    let made = server.ctl(&["token", "create", "web", "--role", "agent", "--group", "workers"]).remove(0);
    let secret = made["secret"].as_str().unwrap().to_owned();
    let local = fs::read_to_string(server.data().join("operator.token")).unwrap().trim().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.token");
    fs::write(&file, &secret).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();

    server.ctl(&["submit", "look around", "--to", "workers"]);
    let args = ["--server", &server.listen, "--token-file", file.to_str().unwrap()];
    let mut client = Command::new(CLIENT);
    let look = "env; tr '\\0' ' ' < /proc/self/cmdline; tr '\\0' ' ' < /proc/$PPID/cmdline";
    client.args(args).args(["--group", "workers", "--id", "web", "--log", "debug", "--exec", look]);
    let client = Program::spawn("contact-client", &mut client).unwrap();
    client.err.wait_for("that others can read it", |line| line.contains("chmod 600"));
    let result = server.done(1).remove(0);
    let settings = Command::new(CLIENT).args(args).arg("--print-config").output().unwrap();
    let tokens = Command::new(CTL)
        .args(["token", "list", "--server", &server.control])
        .env("CONTACT_DATA", server.data())
        .output()
        .unwrap();
    let listed = String::from_utf8(tokens.stdout).unwrap();
    assert!(listed.contains("web") && listed.contains("workers"), "{listed}");
    server.ctl(&["token", "revoke", "web"]);
    server.program().err.wait_for("who did that", |line| {
        line.contains("record: \"local\" (operator) at ipv4:127.0.0.1:") && line.contains("RevokeToken name: \"web\"")
    });
    let text = [
        result.to_string(),
        String::from_utf8(settings.stdout).unwrap(),
        listed,
        client.err.so_far().join("\n"),
        client.out.so_far().join("\n"),
        server.program().err.so_far().join("\n"),
        server.program().out.so_far().join("\n"),
        fs::read_to_string(server.data().join("tokens.json")).unwrap(),
    ];
    assert!(text[1].contains("web.token"), "{}", text[1]);
    for text in &text {
        assert!(!text.contains(&secret[4..]) && !text.contains(&local[4..]), "{text}");
    }
}

#[test]
fn contactctl_says_where_it_looked_for_the_credential_and_takes_the_file_it_is_given() {
    let server = Server::start(&["--auth", "required"]);
    let run = |args: &[&str], data: &str| {
        let mut ctl = Command::new(CTL);
        ctl.args(["groups", "--server", &server.control]).args(args).env("CONTACT_DATA", data);
        let output = ctl.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(&[], "/nowhere");
    let file = server.data().join("operator.token");
    assert_eq!(code, Some(4));
    for part in [file.to_str().unwrap(), "--token-file", "CONTACT_DATA"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(run(&["--token-file", file.to_str().unwrap()], "/nowhere").0, Some(0));
    assert_eq!(run(&[], server.data().to_str().unwrap()).0, Some(0));
    let (code, said) = run(&["--token-file", "/nowhere/token"], "/nowhere");
    assert!(code == Some(2) && said.contains("/nowhere/token"), "{said}");
}

#[test]
fn on_a_server_of_this_machine_nobody_is_asked_and_there_are_no_tokens() {
    let server = Server::start(&[]);
    server.submit(&["as ever"]);
    assert!(!server.data().join("operator.token").exists() && !server.data().join("tokens.json").exists());
    assert_eq!(server.ctl(&["login"])[0]["url"], format!("http://{}/", server.http));
}
