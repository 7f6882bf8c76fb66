//! The API's description: every route with exactly the statuses that it can return.

use crate::support::{ADMIN_TOKEN, Answer, LAB_TOKEN, Rig, Step, TICK, request};
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::ConnectInfo;
use contract::{Action, FaultBody, FaultCode, Outcome, Report, Role, RunReport, RunStatus, SyncReport};
use futures_util::stream;
use ingress::Peer;
use ingress::routes::{ROUTES, Route};
use ports::bus::RequestError;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use strum::IntoEnumIterator as _;

const OWNER: (&str, &str) = ("X-Instruqt-Sandbox-ID", "p-1");
const HOURS: (&str, &str) = ("X-Lab-Duration", "6");

async fn document() -> Value {
    let answer = Rig::new([Step::Hang]).ask("GET", "/v1/openapi.json", &[]).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

fn is_of_labs(route: &Route) -> bool {
    route.action.is_some_and(Action::is_for_owner)
}

fn operation<'a>(document: &'a Value, route: &Route) -> &'a Value {
    &document["paths"][route.path.as_str()][route.method.as_str().to_lowercase()]
}

/// Faults that workers may answer to a route, besides those that they may answer to every route.
fn of_workers(route: &Route) -> &'static [FaultCode] {
    use FaultCode::{
        AllocationExpired, Contended, InvalidState, MissingSandboxId, NotFound, NotSandboxOwner,
        PoolExhausted,
    };
    match (route.method.as_str(), route.path.as_str()) {
        (_, "/v1/allocate") => &[
            MissingSandboxId,
            PoolExhausted,
            AllocationExpired,
            Contended,
            NotFound,
            NotSandboxOwner,
            InvalidState,
        ],
        (_, "/v1/sandboxes/{id}") => &[MissingSandboxId, NotFound, NotSandboxOwner],
        (_, "/v1/sandboxes/{id}/mark-for-deletion") => {
            &[MissingSandboxId, NotFound, NotSandboxOwner, InvalidState]
        }
        (_, "/v1/sandboxes/{id}/extend") => {
            &[MissingSandboxId, NotFound, NotSandboxOwner, InvalidState, AllocationExpired, Contended]
        }
        (_, "/v1/sandboxes/{id}/executions") => {
            &[MissingSandboxId, NotFound, NotSandboxOwner, InvalidState, AllocationExpired]
        }
        (_, "/v1/claims" | "/v1/sandboxes/{id}/replicate") if route.method != "GET" => &[
            MissingSandboxId,
            PoolExhausted,
            AllocationExpired,
            Contended,
            NotFound,
            NotSandboxOwner,
            InvalidState,
        ],
        ("GET", "/v1/claims") => &[MissingSandboxId],
        ("GET", "/v1/claims/{id}") => &[MissingSandboxId, NotFound, NotSandboxOwner],
        ("DELETE", "/v1/claims/{id}") => &[MissingSandboxId, NotFound, NotSandboxOwner, InvalidState],
        (_, "/v1/claims/{id}/extend")
        | ("POST", "/v1/sandboxes/{id}/start" | "/v1/sandboxes/{id}/stop" | "/v1/sandboxes/{id}/restart")
        | ("POST", "/v1/sandboxes/{id}/pause" | "/v1/sandboxes/{id}/resume") => {
            &[MissingSandboxId, NotFound, NotSandboxOwner, InvalidState, AllocationExpired, Contended]
        }
        ("GET", "/v1/nodes/{name}") => &[NotFound],
        ("POST", "/v1/nodes/{name}/drain" | "/v1/nodes/{name}/activate") => &[NotFound, Contended],
        ("GET", "/v1/admin/deletions/{id}" | "/v1/admin/sandboxes/{id}") => &[NotFound],
        (_, "/v1/admin/bulk-delete") => &[InvalidState],
        ("GET", "/v1/pools/{name}") => &[NotFound],
        ("PUT", "/v1/pools/{name}") => &[InvalidState, Contended],
        (_, "/v1/pools/{name}" | "/v1/pools/{name}/drain") => &[NotFound, InvalidState, Contended],
        ("GET", "/v1/templates/{id}" | "/v1/templates/{id}/versions") => &[NotFound],
        ("POST" | "PUT", "/v1/templates" | "/v1/templates/{id}") => &[InvalidState, Contended],
        ("DELETE", "/v1/templates/{id}") => &[NotFound, InvalidState, Contended],
        (
            _,
            "/v1/admin/deletions/{id}"
            | "/v1/admin/deletions/{id}/replay"
            | "/v1/admin/provisions/{id}/replay",
        ) => &[NotFound, InvalidState],
        (_, path) if path.starts_with("/v1/admin/sandboxes/") => &[NotFound, InvalidState, Contended],
        _ => &[],
    }
}

/// Sends a valid request to a route, with a token of the right scope.
async fn ask(rig: &Rig, route: &Route, body: Body) -> Answer {
    let token = if is_of_labs(route) { LAB_TOKEN } else { ADMIN_TOKEN };
    let bearer = format!("Bearer {token}");
    let path = crate::callers::path_of(route);
    let headers = [("Authorization", bearer.as_str()), OWNER, HOURS, ("X-Lease-Epoch", "1")];
    let mut request = request(route.method.as_str(), &path, &headers[usize::from(route.action.is_none())..]);
    // The header that an HTTP caller must send.
    if let Some(bytes) = body.size_hint().exact() {
        request.headers_mut().insert("Content-Length", bytes.into());
    }
    request.extensions_mut().insert(ConnectInfo(Peer("1.1.1.1:1".parse().unwrap())));
    rig.send(request.map(|_| body)).await
}

/// The answers that come before any worker is asked, whatever the worker would answer.
async fn at_the_gate(route: &Route) -> Vec<Answer> {
    let rig = Rig::new([Step::Say(None, r#"{"store":"ok"}"#)]);
    let path = crate::callers::path_of(route);
    let mut answers = vec![
        ask(&rig, route, Body::from(vec![b'x'; 70_000])).await,
        ask(&rig, route, Body::from_stream(stream::iter([Err::<Bytes, _>(std::io::Error::other("reset"))])))
            .await,
        ask(&rig, route, Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>())).await,
    ];
    if route.action.is_some() {
        answers.push(rig.ask(route.method.as_str(), &path, &[]).await);
        let wrong = if is_of_labs(route) { ADMIN_TOKEN } else { LAB_TOKEN };
        let bearer = format!("Bearer {wrong}");
        answers.push(rig.ask(route.method.as_str(), &path, &[("Authorization", &bearer)]).await);
    }
    let narrow = [("PEER_RATE_PER_SECOND", "1"), ("PEER_RATE_BURST", "1")];
    let rig = Rig::with(&narrow, [Step::Say(None, r#"{"store":"ok"}"#)]);
    answers.push(ask(&rig, route, crate::callers::body_of(route)).await);
    answers.push(ask(&rig, route, crate::callers::body_of(route)).await);
    answers
}

/// The answers to a request that is relayed, for every outcome.
async fn behind_the_gate(route: &Route) -> Vec<Answer> {
    let mut steps: Vec<Step> = [
        FaultCode::InvalidRequest,
        FaultCode::Forbidden,
        FaultCode::StoreUnavailable,
        FaultCode::NoWorkers,
        FaultCode::Timeout,
        FaultCode::InternalError,
    ]
    .iter()
    .chain(of_workers(route))
    .map(|code| Step::Refuse(*code, "no"))
    .collect();
    steps.extend([
        Step::Say(Some(Outcome::Existing), r#"{"store":"ok"}"#),
        Step::Say(Some(Outcome::Created), r#"{"store":"ok"}"#),
        Step::Fail(RequestError::NoResponders),
        Step::Fail(RequestError::TimedOut),
        Step::Fail(RequestError::Disconnected),
        Step::Panic,
    ]);
    let mut answers = Vec::new();
    // A readiness check asks workers too, and a worker's panic would be reported as its own.
    let is_readiness = route.path == "/readyz";
    for step in steps {
        if is_readiness && matches!(step, Step::Panic) {
            continue;
        }
        let rig = Rig::new([step]);
        rig.show_itself().await;
        answers.push(ask(&rig, route, crate::callers::body_of(route)).await);
    }
    let rig = Rig::new([Step::Say(None, "{}")]);
    rig.bus.set_connected(false);
    rig.ticks.is_broken.store(true, Ordering::SeqCst);
    answers.push(ask(&rig, route, crate::callers::body_of(route)).await);
    for status in [RunStatus::Completed, RunStatus::Failed] {
        let rig = Rig::new([Step::Say(None, "{}")]);
        let report = Report::Sync(SyncReport { status, ..SyncReport::default() });
        *rig.ticks.report.lock() = Some(RunReport { tick: TICK, duration_ms: 1, report });
        answers.push(ask(&rig, route, crate::callers::body_of(route)).await);
    }
    if route.path.contains("{file}") {
        answers.push(rig.ask("GET", "/console/nothing.js", &[]).await);
        answers.push(rig.ask("GET", "/console/%ff", &[]).await);
    }
    if route.path.contains("{kind}") {
        let headers = [("Authorization", "Bearer admin-token-1")];
        answers.push(rig.ask("GET", "/v1/admin/reports/nothing/1", &headers).await);
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn every_route_documents_exactly_its_statuses() {
    let document = document().await;
    for route in ROUTES.iter() {
        let described = operation(&document, route)["responses"].as_object();
        let described =
            described.unwrap_or_else(|| panic!("{} {} is not described", route.method, route.path));
        let described: BTreeSet<u16> = described.keys().map(|status| status.parse().unwrap()).collect();
        let answers = [at_the_gate(route).await, behind_the_gate(route).await].concat();
        let shown: BTreeSet<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
        assert_eq!(described, shown, "{} {}", route.method, route.path);
    }
    let operations: usize =
        document["paths"].as_object().unwrap().values().map(|item| item.as_object().unwrap().len()).sum();
    assert_eq!(operations, ROUTES.len(), "nothing is described that is not there");
}

#[tokio::test(start_paused = true)]
async fn every_route_documents_its_roles() {
    let document = document().await;
    assert_eq!(document["openapi"].as_str().unwrap().split_once('.').unwrap().0, "3");
    for route in ROUTES.iter() {
        let security = operation(&document, route)["security"].as_array().cloned().unwrap_or_default();
        let named: BTreeSet<String> =
            security.iter().flat_map(|one| one.as_object().unwrap().keys().cloned()).collect();
        let admitted = Role::iter().filter(|role| route.action.is_some() && route.admits(*role));
        let admitted: BTreeSet<String> = admitted.map(|role| role.as_str().to_owned()).collect();
        let is_limited = operation(&document, route).get("x-pool-scope").is_some();
        assert_eq!(is_limited, route.is_limited_to_pools(), "{}", route.path);
        assert_eq!(named, admitted, "{} {}", route.method, route.path);
        for scheme in named {
            assert_eq!(document["components"]["securitySchemes"][&scheme]["scheme"], "bearer");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_error_has_an_example_for_each_code() {
    let document = document().await;
    let mut shown = BTreeSet::new();
    for route in ROUTES.iter() {
        for (status, response) in operation(&document, route)["responses"].as_object().unwrap() {
            let content = &response["content"]["application/json"];
            if route.path == "/readyz" && status == "503" || status.parse::<u16>().unwrap() < 400 {
                continue;
            }
            assert_eq!(
                content["schema"]["$ref"], "#/components/schemas/FaultBody",
                "{} {status}",
                route.path
            );
            let examples = content["examples"].as_object().unwrap();
            assert!(!examples.is_empty());
            for (name, example) in examples {
                let body: FaultBody = serde_json::from_value(example["value"].clone()).unwrap();
                let code = body.detail.code;
                assert_eq!((code.as_str(), code.status().to_string()), (name.as_str(), status.clone()));
                assert_eq!(response["headers"]["Retry-After"].is_object(), has_retry(response));
                shown.insert(code.as_str());
            }
        }
    }
    let unshown: Vec<_> = FaultCode::iter().filter(|code| !shown.contains(code.as_str())).collect();
    // No route returns the fault for a wrong method, and a head that is too long has not named a route yet.
    assert_eq!(unshown, [FaultCode::MethodNotAllowed, FaultCode::HeadTooLarge]);
}

fn has_retry(response: &Value) -> bool {
    let examples = response["content"]["application/json"]["examples"].as_object().unwrap();
    examples.values().any(|example| example["value"]["detail"].get("retry_after").is_some())
}

#[tokio::test(start_paused = true)]
async fn operation_ids_are_unique() {
    let document = document().await;
    let names: BTreeSet<_> = ROUTES
        .iter()
        .map(|route| operation(&document, route)["operationId"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(names.len(), ROUTES.len(), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn summaries_and_tags_say_what_operations_are_for() {
    let document = document().await;
    let tags: Vec<_> = document["tags"].as_array().unwrap().iter().collect();
    assert_eq!(tags[0]["name"], "labs", "labs come first");
    for tag in &tags {
        assert!(tag["description"].as_str().is_some_and(|text| text.len() > 20), "{tag}");
    }
    for route in ROUTES.iter() {
        let operation = operation(&document, route);
        let summary = operation["summary"].as_str().unwrap_or_else(|| panic!("{} has none", route.path));
        assert!(summary.contains(' ') && !summary.contains("/v1/"), "{}: {summary}", route.path);
        let used = operation["tags"].as_array().unwrap();
        assert!(!used.is_empty() && used.iter().all(|used| tags.iter().any(|tag| tag["name"] == *used)));
    }
}

#[tokio::test(start_paused = true)]
async fn referenced_schemas_exist() {
    let document = document().await;
    let text = document.to_string();
    let named: BTreeSet<_> =
        text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn docs_page_loads_nothing_external_and_has_no_inline_script() {
    let rig = Rig::new([Step::Hang]);
    let page = rig.ask("GET", "/v1/docs", &[]).await;
    assert_eq!(rig.ask("GET", "/v1/redoc", &[]).await.body, page.body);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert_eq!(page.headers.get_all("content-security-policy").iter().count(), 1);
    let own =
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';";
    assert!(policy.starts_with(own), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(!text.contains("<style") && !text.contains("style=") && !text.contains("<script>"), "{text}");
    let mut linked = 0;
    for attribute in ["href=\"", "src=\""] {
        for rest in text.split(attribute).skip(1) {
            let path = rest.split('"').next().unwrap();
            // An empty icon, so that browsers do not ask for one.
            if path == "data:," {
                continue;
            }
            assert_eq!(rig.ask("GET", path, &[]).await.status, 200, "{path}");
            linked += 1;
        }
    }
    assert_eq!(linked, 4, "style sheet, two scripts, and the description itself");
    let script = rig.ask("GET", "/v1/docs/page.js", &[]).await;
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    let script = String::from_utf8(script.body.to_vec()).unwrap();
    for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval", "Function(", "://"] {
        assert!(!script.contains(word), "{word}");
    }
    for (file, kind) in [("swagger-ui.css", "text/css"), ("swagger-ui-bundle.js", "text/javascript")] {
        let answer = rig.ask("GET", &format!("/v1/docs/{file}"), &[]).await;
        assert_eq!(answer.header("content-type"), Some(format!("{kind}; charset=utf-8").as_str()));
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
        let is_gzip = answer.body.starts_with(&[0x1f, 0x8b]);
        assert!(is_gzip && answer.body.len() > 10_000, "{file} has {} bytes", answer.body.len());
    }
}
