//! Which token may call which route: tests every route of the table.

use crate::support::{ADMIN, ADMIN_TOKEN, Answer, LAB, LAB_TOKEN, Rig, Step, and, request};
use axum::body::Body;
use contract::FaultCode;
use domain::PoolName;
use ingress::routes::{ROUTES, Route};
use ingress::tokens::{file, fingerprint, parse_name};
use ingress::{Role, Scope};
use std::fs;
use strum::IntoEnumIterator as _;
use tempfile::TempDir;

const NO_TOKEN: &str = "a valid token is needed: `Authorization: Bearer <token>`";
const NOT_HELD: &str = "this token is for some pools only, and this request is about all pools";
const READ_ONLY_TOKEN: &str = "read-only-token-1";
const BOUND_TOKEN: &str = "bound-token-1";
const NO_RIGHT: &str = "this token does not give the right to do this";

pub(crate) fn path_of(route: &Route) -> String {
    let path = route
        .path
        .replace("{id}", "7")
        .replace("{kind}", "sync")
        .replace("{tick}", "1")
        .replace("{name}", "labs");
    let path = path.replace("{file}", "main.js");
    match route.path.as_str() {
        // This route needs an explicit confirmation.
        path if path.ends_with("/deletions/replay") => format!("{path}?all=true"),
        // Without this it would never end.
        "/v1/admin/events" => format!("{path}?follow=false"),
        _ => path,
    }
}

/// Pause and resume use the queue's own switch; no worker gets a request.
fn is_switch(route: &Route) -> bool {
    route.path.ends_with("/pause") || route.path.ends_with("/resume")
}

fn rig() -> Rig {
    Rig::new([Step::Say(None, r#"{"store":"ok"}"#)])
}

/// A token of every scope, and one that is restricted to a pool, each named after its scope.
fn tokens() -> (TempDir, [(Scope, &'static str); 3]) {
    let folder = tempfile::tempdir().unwrap();
    let line = |name: &str, token: &str, scope, pools: &[PoolName]| {
        file::line(&parse_name(name).unwrap(), &[scope], &fingerprint(token.as_bytes()), pools).unwrap()
    };
    let main = PoolName::parse("main").unwrap();
    let lines = [
        line("lab", LAB_TOKEN, Scope::Lab, &[]),
        line("admin", ADMIN_TOKEN, Scope::Admin, &[]),
        line("looker", READ_ONLY_TOKEN, Scope::ReadOnly, &[]),
        line("bound", BOUND_TOKEN, Scope::Lab, &[main]),
    ];
    fs::write(folder.path().join("tokens"), lines.join("\n")).unwrap();
    (folder, [(Scope::Lab, LAB_TOKEN), (Scope::Admin, ADMIN_TOKEN), (Scope::ReadOnly, READ_ONLY_TOKEN)])
}

#[tokio::test(start_paused = true)]
async fn every_route_admits_exactly_its_scopes() {
    let (folder, tokens) = tokens();
    let file = folder.path().join("tokens");
    let settings =
        [("TOKENS_FILE", file.to_str().unwrap()), ("BROKER_API_TOKEN", ""), ("BROKER_ADMIN_TOKEN", "")];
    let rig = Rig::with(&settings, [Step::Say(None, r#"{"store":"ok"}"#)]);
    rig.show_itself().await;
    let mut walked = 0;
    for route in ROUTES.iter().filter(|route| route.role != Role::None) {
        let (method, path) = (route.method.as_str(), path_of(route));
        for authorization in [None, Some("Bearer unknown"), Some("Basic bGFiOg=="), Some(LAB_TOKEN)] {
            let headers: Vec<_> = authorization.into_iter().map(|value| ("Authorization", value)).collect();
            let answer = rig.ask(method, &path, &headers).await;
            answer.assert_fault(FaultCode::Unauthorized, NO_TOKEN);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{method} {path}");
        }
        for (scope, token) in tokens {
            let before = rig.workers.seen().len();
            let answer = ask_with(&rig, route, token).await;
            if !route.admits(scope) {
                answer.assert_fault(FaultCode::Forbidden, NO_RIGHT);
                assert_eq!(answer.header("www-authenticate"), None);
                assert_eq!(rig.workers.seen().len(), before, "{method} {path}: a worker was asked");
                continue;
            }
            assert!(answer.status.is_success(), "{method} {path} as {scope:?}: {answer:?}");
            let is_relayed = route.role == Role::Lab
                || route.path == "/v1/admin/stats"
                || route.path.starts_with("/v1/admin/sandboxes")
                || route.path == "/v1/admin/bulk-delete"
                || route.path.starts_with("/v1/pools")
                || (route.path.starts_with("/v1/admin/deletions") && !is_switch(route));
            assert_eq!(rig.workers.seen().len() - before, usize::from(is_relayed), "{method} {path}");
        }
        let answer = ask_with(&rig, route, BOUND_TOKEN).await;
        match (route.admits(Scope::Lab), route.is_limited_to_pools()) {
            (true, true) => assert!(answer.status.is_success(), "{method} {path}: {answer:?}"),
            (true, false) => answer.assert_fault(FaultCode::Forbidden, NOT_HELD),
            (false, _) => answer.assert_fault(FaultCode::Forbidden, NO_RIGHT),
        }
        walked += 1;
    }
    assert_eq!(walked, 32);
}

async fn ask_with(rig: &Rig, route: &Route, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    // The parameters that a route may need to be relayed; the others ignore them.
    let (owner, hours) = (("X-Instruqt-Sandbox-ID", "p-1"), ("X-Lab-Duration", "6"));
    let asked = request(route.method.as_str(), &path_of(route), &[("Authorization", &bearer), owner, hours]);
    rig.send(asked.map(|_| body_for(route))).await
}

/// A body that every route takes which needs one: settings of a pool, or a reason.
pub(crate) fn body_for(route: &Route) -> Body {
    Body::from(if route.method == "PUT" { "{}" } else { r#"{"reason":"smoke in it"}"# })
}

#[tokio::test(start_paused = true)]
async fn open_routes_need_no_token() {
    let rig = rig();
    for route in ROUTES.iter().filter(|route| route.role == Role::None) {
        let answer = rig.ask(route.method.as_str(), &path_of(route), &[]).await;
        assert_eq!(answer.status, 200, "{}", route.path);
    }
}

#[test]
fn read_only_scope_is_admitted_only_to_get_routes() {
    for route in ROUTES.iter() {
        let admitted: Vec<_> = Scope::iter().filter(|scope| route.admits(*scope)).collect();
        let expected = match (route.role, route.method.as_str()) {
            (Role::None, _) => Scope::iter().collect(),
            (Role::Lab, _) => vec![Scope::Lab],
            (Role::Admin, "GET") => vec![Scope::Admin, Scope::ReadOnly],
            (Role::Admin, _) => vec![Scope::Admin],
        };
        assert_eq!(admitted, expected, "{} {}", route.method, route.path);
        assert!(!route.is_limited_to_pools() || route.role == Role::Lab, "{}", route.path);
    }
}

#[test]
fn v1_routes_need_a_token_and_admin_routes_an_admin_token() {
    for route in ROUTES.iter() {
        let expected = match route.path.as_str() {
            path if path.starts_with("/v1/admin/") || path.starts_with("/v1/pools") => Role::Admin,
            // The API's own description is public.
            path if path == "/v1/openapi.json" || path.starts_with("/v1/docs") => Role::None,
            path if path.starts_with("/v1/") => Role::Lab,
            _ => Role::None,
        };
        assert_eq!(route.role, expected, "{}", route.path);
    }
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
