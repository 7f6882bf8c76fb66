//! Which token may call which route: tests every route of the table.

use crate::support::{ADMIN, ADMIN_TOKEN, Answer, LAB, LAB_TOKEN, Rig, Step, and, request};
use axum::body::Body;
use contract::{Action, FaultCode, Principal, Role, Scope, Verb};
use domain::PoolName;
use ingress::routes::{ROUTES, Route};
use ingress::tokens::{file, fingerprint, parse_name};
use std::fs;
use strum::IntoEnumIterator as _;
use tempfile::TempDir;

const NO_TOKEN: &str = "a valid token is needed: `Authorization: Bearer <token>`";
const NOT_HELD: &str = "this token is for some pools only, and this request is about all pools";
const BOUND_TOKEN: &str = "bound-token-1";
const NO_RIGHT: &str = "this token does not give the right to do this";

pub(crate) fn path_of(route: &Route) -> String {
    let path = route
        .path
        .replace("{id}", "7")
        .replace("{name}", "main")
        .replace("{kind}", "sync")
        .replace("{tick}", "1");
    let path = path.replace("{file}", "main.js");
    match route.path.as_str() {
        // This route needs an explicit confirmation.
        path if path.ends_with("s/replay") => format!("{path}?all=true"),
        "/v1/claims/{id}/extend" => format!("{path}?lease_minutes=60"),
        // Without this it would never end.
        "/v1/admin/events" => format!("{path}?follow=false"),
        _ => path,
    }
}

/// A body that the route accepts; those that read none ignore it.
pub(crate) fn body_of(route: &Route) -> Body {
    Body::from(match (route.action, route.method.as_str()) {
        (Some(Action::Ask(Verb::PutPool)), _) => "{}",
        (Some(Action::Ask(Verb::PutTemplate)), "PUT") => r#"{"image":"host"}"#,
        (Some(Action::Ask(Verb::PutTemplate)), _) => r#"{"template":"python","settings":{"image":"host"}}"#,
        (Some(Action::Ask(Verb::Execute)), _) => r#"{"command":["true"]}"#,
        (Some(Action::Ask(Verb::Claim)), _) if route.path.ends_with("/replicate") => r#"{"key":"k"}"#,
        (Some(Action::Ask(Verb::Claim)), _) => "{}",
        _ => r#"{"reason":"smoke in it"}"#,
    })
}

/// Pause and resume use the queue's own switch; no worker gets a request.
fn is_switch(route: &Route) -> bool {
    ["/v1/admin/deletions/pause", "/v1/admin/deletions/resume"].contains(&route.path.as_str())
}

fn rig() -> Rig {
    Rig::new([Step::Say(None, r#"{"store":"ok"}"#)])
}

/// The token of a role.
const fn token_of(role: Role) -> &'static str {
    match role {
        Role::Lab => LAB_TOKEN,
        // The owner of every request here, because it acts for itself.
        Role::User => "p-1",
        Role::Operator => "operator-token-1",
        Role::Admin => ADMIN_TOKEN,
        Role::ReadOnly => "read-only-token-1",
    }
}

/// A file with a token of every role, and one that is restricted to a pool; each is named after itself.
fn tokens() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let line = |token: &str, role, scope| {
        let holder = Principal::of(parse_name(token).unwrap(), &[role]);
        file::line(&Principal { scope, ..holder }, &fingerprint(token.as_bytes())).unwrap()
    };
    let main = Scope::of(&[PoolName::parse("main").unwrap()]);
    let lines = Role::iter().map(|role| line(token_of(role), role, Scope::Every));
    let lines: Vec<_> = lines.chain([line(BOUND_TOKEN, Role::Lab, main)]).collect();
    fs::write(folder.path().join("tokens"), lines.join("\n")).unwrap();
    folder
}

#[tokio::test(start_paused = true)]
async fn every_route_admits_exactly_its_roles() {
    let folder = tokens();
    let file = folder.path().join("tokens");
    let settings =
        [("TOKENS_FILE", file.to_str().unwrap()), ("BROKER_API_TOKEN", ""), ("BROKER_ADMIN_TOKEN", "")];
    let rig = Rig::with(&settings, [Step::Say(None, r#"{"store":"ok"}"#)]);
    rig.show_itself().await;
    let mut walked = 0;
    for route in ROUTES.iter().filter(|route| route.action.is_some()) {
        let (method, path) = (route.method.as_str(), path_of(route));
        for authorization in [None, Some("Bearer unknown"), Some("Basic bGFiOg=="), Some(LAB_TOKEN)] {
            let headers: Vec<_> = authorization.into_iter().map(|value| ("Authorization", value)).collect();
            let answer = rig.ask(method, &path, &headers).await;
            answer.assert_fault(FaultCode::Unauthorized, NO_TOKEN);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{method} {path}");
        }
        for role in Role::iter() {
            let before = rig.workers.seen().len();
            let answer = ask_with(&rig, route, token_of(role)).await;
            if !route.admits(role) {
                answer.assert_fault(FaultCode::Forbidden, NO_RIGHT);
                assert_eq!(answer.header("www-authenticate"), None);
                assert_eq!(rig.workers.seen().len(), before, "{method} {path}: a worker was asked");
                continue;
            }
            assert!(answer.status.is_success(), "{method} {path} as {role:?}: {answer:?}");
            let is_relayed = matches!(route.action, Some(Action::Ask(_))) && !is_switch(route);
            assert_eq!(rig.workers.seen().len() - before, usize::from(is_relayed), "{method} {path}");
        }
        let answer = ask_with(&rig, route, BOUND_TOKEN).await;
        match (route.admits(Role::Lab), route.is_limited_to_pools()) {
            (true, true) => assert!(answer.status.is_success(), "{method} {path}: {answer:?}"),
            (true, false) => answer.assert_fault(FaultCode::Forbidden, NOT_HELD),
            (false, _) => answer.assert_fault(FaultCode::Forbidden, NO_RIGHT),
        }
        walked += 1;
    }
    assert_eq!(walked, 56);
}

async fn ask_with(rig: &Rig, route: &Route, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    // The parameters that a route may need to be relayed; the others ignore them.
    let (owner, hours) = (("X-Instruqt-Sandbox-ID", "p-1"), ("X-Lab-Duration", "6"));
    let epoch = ("X-Lease-Epoch", "1");
    let headers = [("Authorization", bearer.as_str()), owner, hours, epoch];
    let asked = request(route.method.as_str(), &path_of(route), &headers);
    rig.send(asked.map(|_| body_of(route))).await
}

#[tokio::test(start_paused = true)]
async fn open_routes_need_no_token() {
    let rig = rig();
    for route in ROUTES.iter().filter(|route| route.action.is_none()) {
        let answer = rig.ask(route.method.as_str(), &path_of(route), &[]).await;
        assert_eq!(answer.status, 200, "{}", route.path);
    }
}

#[test]
fn tokens_of_former_builds_keep_their_rights() {
    let is_of_operators = |path: &str| path.starts_with("/v1/admin/") || path.starts_with("/v1/pools");
    // Former builds had no templates and no nodes.
    let is_new =
        |route: &&Route| ["/v1/templates", "/v1/nodes"].iter().any(|new| route.path.starts_with(new));
    for route in ROUTES.iter().filter(|route| !is_new(route)) {
        let former = [Role::Lab, Role::Admin, Role::ReadOnly];
        let admitted: Vec<_> = former.into_iter().filter(|role| route.admits(*role)).collect();
        let expected = match (route.path.as_str(), route.method.as_str()) {
            (path, "GET") if is_of_operators(path) => vec![Role::Admin, Role::ReadOnly],
            (path, _) if is_of_operators(path) => vec![Role::Admin],
            // The API's own description is public.
            ("/v1/openapi.json" | "/v1/redoc", _) => former.to_vec(),
            (path, _) if path.starts_with("/v1/docs") => former.to_vec(),
            (path, _) if path.starts_with("/v1/") => vec![Role::Lab],
            _ => former.to_vec(),
        };
        assert_eq!(admitted, expected, "{} {}", route.method, route.path);
        assert_eq!(route.action.is_none(), expected.len() == former.len(), "{}", route.path);
    }
}

#[test]
fn every_action_of_callers_has_a_route() {
    let routed: Vec<_> = ROUTES.iter().filter_map(|route| route.action).collect();
    let of_callers = Action::all().filter(|action| !action.roles().is_empty());
    let without: Vec<_> = of_callers.filter(|action| !routed.contains(action)).collect();
    assert_eq!(without, [Action::Ask(Verb::Health)], "which is for readiness");
}

#[tokio::test(start_paused = true)]
async fn every_listed_token_is_accepted_with_any_scheme_case() {
    let rig = rig();
    for authorization in
        ["Bearer lab-token-1", "Bearer lab-token-2", "bearer lab-token-1", "BEARER lab-token-2"]
    {
        let headers = [("Authorization", authorization), ("X-Track-ID", "p-1")];
        assert_eq!(rig.ask("POST", "/v1/allocate", &headers).await.status, 200, "{authorization}");
    }
    let headers = [("Authorization", "Bearer lab-token-1,lab-token-2"), ("X-Track-ID", "p-1")];
    assert_eq!(rig.ask("POST", "/v1/allocate", &headers).await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn duplicate_authorization_header_is_rejected() {
    let headers = and(LAB, &[("Authorization", "Bearer lab-token-1")]);
    rig().ask("POST", "/v1/allocate", &headers).await.assert_fault(FaultCode::Unauthorized, NO_TOKEN);
}

#[tokio::test(start_paused = true)]
async fn the_token_is_checked_before_headers_path_and_body() {
    let rig = rig();
    // Each of these requests has a second fault, which the answer must not reveal.
    let no_owner = request("POST", "/v1/allocate", &[]);
    let bad_owner = request("POST", "/v1/allocate", &[("X-Track-ID", "größe")]);
    let bad_id = request("GET", "/v1/sandboxes/%FF", &[]);
    let bad_kind = request("GET", "/v1/admin/reports/nothing/x", &[]);
    let mut too_large = request("POST", "/v1/allocate", &[("Content-Length", "70000")]);
    *too_large.body_mut() = Body::from(vec![b'x'; 70_000]);
    for request in [no_owner, bad_owner, bad_id, bad_kind, too_large] {
        rig.send(request).await.assert_fault(FaultCode::Unauthorized, NO_TOKEN);
    }
    assert!(rig.workers.seen().is_empty());
    let mut forbidden = request("POST", "/v1/allocate", ADMIN);
    *forbidden.body_mut() = Body::from(vec![b'x'; 70_000]);
    rig.send(forbidden).await.assert_fault(FaultCode::Forbidden, NO_RIGHT);
}
