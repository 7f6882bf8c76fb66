//! Who may ask what: the table of routes, walked.

use crate::support::{ADMIN, ADMIN_TOKEN, LAB, LAB_TOKEN, Rig, Step, and, request};
use axum::body::Body;
use common::contract::FaultCode;
use ingress::Role;
use ingress::routes::{ROUTES, Route};

const NO_TOKEN: &str = "a valid token is needed: `Authorization: Bearer <token>`";
const NO_RIGHT: &str = "this token does not give the right to do this";

fn path_of(route: &Route) -> String {
    let path = route.path.replace("{id}", "7").replace("{kind}", "sync").replace("{tick}", "1");
    // The one route that wants to be asked twice whether it is meant.
    if path.ends_with("/deletions/replay") { format!("{path}?all=true") } else { path }
}

/// The switch of all deletions is the queue's own, and no worker is asked.
fn is_switch(route: &Route) -> bool {
    route.path.ends_with("/pause") || route.path.ends_with("/resume")
}

fn rig() -> Rig {
    Rig::new([Step::Say(None, r#"{"store":"ok"}"#)])
}

#[tokio::test(start_paused = true)]
async fn every_route_lets_in_its_role_and_nobody_else() {
    let rig = rig();
    let mut walked = 0;
    for route in ROUTES {
        let (method, path) = (route.method.as_str(), path_of(route));
        let bearer = |token: &str| format!("Bearer {token}");
        let (right, wrong_role) = match route.role {
            Role::None => {
                let answer = rig.ask(method, &path, &[]).await;
                assert_eq!(answer.status, 200, "{method} {path}");
                continue;
            }
            Role::Lab => (LAB_TOKEN, ADMIN_TOKEN),
            Role::Admin => (ADMIN_TOKEN, LAB_TOKEN),
        };
        for authorization in [None, Some("Bearer nobody"), Some("Basic bGFiOg=="), Some(LAB_TOKEN)] {
            let headers: Vec<_> = authorization.into_iter().map(|value| ("Authorization", value)).collect();
            let answer = rig.ask(method, &path, &headers).await;
            answer.assert_fault(FaultCode::Unauthorized, NO_TOKEN);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{method} {path}");
        }
        let answer = rig.ask(method, &path, &[("Authorization", &bearer(wrong_role))]).await;
        answer.assert_fault(FaultCode::Forbidden, NO_RIGHT);
        assert_eq!(answer.header("www-authenticate"), None);
        let before = rig.workers.seen().len();
        let authorization = bearer(right);
        // What a route needs to be relayed; who does not need it does not mind.
        let (owner, hours) = (("X-Instruqt-Sandbox-ID", "p-1"), ("X-Lab-Duration", "6"));
        let asked = request(method, &path, &[("Authorization", &authorization), owner, hours]);
        let answer = rig.send(asked.map(|_| Body::from(r#"{"reason":"smoke in it"}"#))).await;
        assert!(answer.status.is_success(), "{method} {path}: {answer:?}");
        let is_relayed = route.role == Role::Lab
            || route.path == "/v1/admin/stats"
            || route.path.starts_with("/v1/admin/sandboxes/")
            || (route.path.starts_with("/v1/admin/deletions") && !is_switch(route));
        assert_eq!(rig.workers.seen().len() - before, usize::from(is_relayed), "{method} {path}");
        walked += 1;
    }
    assert_eq!(walked, 22);
}

#[test]
fn everything_below_v1_needs_a_token_and_admin_routes_an_admin_one() {
    for route in ROUTES {
        let expected = match route.path {
            path if path.starts_with("/v1/admin/") => Role::Admin,
            path if path.starts_with("/v1/") => Role::Lab,
            _ => Role::None,
        };
        assert_eq!(route.role, expected, "{}", route.path);
    }
}

#[tokio::test(start_paused = true)]
async fn every_token_of_a_list_is_good_and_the_scheme_may_be_in_any_case() {
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
async fn two_authorization_headers_are_none() {
    let headers = and(LAB, &[("Authorization", "Bearer lab-token-1")]);
    rig().ask("POST", "/v1/allocate", &headers).await.assert_fault(FaultCode::Unauthorized, NO_TOKEN);
}

#[tokio::test(start_paused = true)]
async fn the_token_is_checked_before_headers_path_and_body() {
    let rig = rig();
    // Each of these is wrong in another way as well, and the caller is told nothing about it.
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
