//! The operators' routes for deletions.

use crate::support::{ADMIN, Headers, Rig, Step, request};
use axum::http::HeaderValue;
use contract::{FaultCode, Verb};
use ports::bus::{DeletionControl as _, RequestError};
use serde_json::{Value, json};

const BY_ALICE: Headers<'static> = &[("Authorization", "Bearer admin-token-1"), ("X-Operator", "alice")];

fn page(replayed: u64, cursor: &'static str) -> Step {
    let body = format!(
        r#"{{"replayed":{replayed},"already_on_the_way":1,"gone":2,"unreadable":3,"failed":0,"cursor":{cursor}}}"#
    );
    Step::Say(None, body.leak())
}

#[tokio::test(start_paused = true)]
async fn each_route_calls_its_verb_and_returns_the_reply() {
    let cases = [
        ("GET", "/v1/admin/deletions", Verb::Deletions, json!({})),
        (
            "GET",
            "/v1/admin/deletions?pool=main&status=deletion_failed&limit=7&cursor=main.x",
            Verb::Deletions,
            json!({"pool": "main", "status": "deletion_failed", "limit": 7, "cursor": "main.x"}),
        ),
        ("GET", "/v1/admin/deletions/parked", Verb::Parked, json!({})),
        (
            "GET",
            "/v1/admin/deletions/parked?pool=main&reason=status+500&limit=7&cursor=40",
            Verb::Parked,
            json!({"pool": "main", "reason": "status 500", "limit": 7, "cursor": 40}),
        ),
        ("GET", "/v1/admin/deletions/2000000", Verb::Deletion, json!({"sandbox_id": "2000000"})),
        (
            "POST",
            "/v1/admin/deletions/2000000/replay",
            Verb::Replay,
            json!({"key": "2000000", "by": "admin/alice"}),
        ),
        (
            "DELETE",
            "/v1/admin/deletions/_unreadable.7",
            Verb::Remove,
            json!({"key": "_unreadable.7", "by": "admin/alice"}),
        ),
    ];
    for (method, path, verb, body) in cases {
        let rig = Rig::new([Step::Say(None, r#"{"as":"it stands"}"#)]);
        let answer = rig.ask(method, path, BY_ALICE).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.as_ref()),
            (200, br#"{"as":"it stands"}"#.as_slice())
        );
        let seen = rig.workers.seen();
        assert_eq!(seen.len(), 1, "{path}");
        assert_eq!((seen[0].verb, serde_json::from_slice::<Value>(&seen[0].body).unwrap()), (verb, body));
    }
}

#[tokio::test(start_paused = true)]
async fn actor_is_the_token_name_with_the_operator_header() {
    let rig = Rig::new([Step::Say(None, "{}")]);
    rig.ask("POST", "/v1/admin/deletions/1/replay", ADMIN).await;
    let body: Value = serde_json::from_slice(&rig.workers.seen()[0].body).unwrap();
    assert_eq!(body["by"], "admin");
    for bad in ["two words", "\u{e9}"] {
        let headers = [("Authorization", "Bearer admin-token-1"), ("X-Operator", bad)];
        let answer = rig.ask("POST", "/v1/admin/deletions/1/replay", &headers).await;
        assert_eq!(answer.status, 400, "{bad:?}");
    }
    assert_eq!(rig.workers.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn replay_all_sums_the_counts_of_its_pages() {
    let rig = Rig::new([page(50, "90"), page(50, "190"), page(7, "null")]);
    let answer = rig.ask("POST", "/v1/admin/deletions/replay?all=true&pool=main", ADMIN).await;
    assert_eq!(answer.status, 200);
    let counts = json!({
        "replayed": 107, "already_on_the_way": 3, "gone": 6, "unreadable": 9, "failed": 0, "cursor": null,
    });
    assert_eq!(answer.json(), counts);
    let cursors: Vec<Value> = rig
        .workers
        .seen()
        .iter()
        .map(|seen| serde_json::from_slice::<Value>(&seen.body).unwrap())
        .inspect(|body| assert_eq!(body["pool"], "main"))
        .map(|body| body["cursor"].clone())
        .collect();
    assert_eq!(cursors, [Value::Null, json!(90), json!(190)]);
}

#[tokio::test(start_paused = true)]
async fn failed_replay_page_returns_counts_and_cursor() {
    let rig = Rig::new([page(50, "90"), Step::Refuse(FaultCode::StoreUnavailable, "no table")]);
    let answer = rig.ask("POST", "/v1/admin/deletions/replay?all=true", ADMIN).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["cursor"]), (200, &json!(90)));
    assert_eq!(answer.json()["replayed"], 50);
    let rig = Rig::new([Step::Refuse(FaultCode::StoreUnavailable, "no table")]);
    let answer = rig.ask("POST", "/v1/admin/deletions/replay?all=true", ADMIN).await;
    assert_eq!(answer.status, 503);
    let rig = Rig::new([Step::Fail(RequestError::Disconnected)]);
    let answer = rig.ask("POST", "/v1/admin/deletions/replay?all=true", ADMIN).await;
    assert_eq!(answer.status, 503);
}

#[tokio::test(start_paused = true)]
async fn replay_all_must_be_explicit_with_a_valid_query() {
    let rig = Rig::new([Step::Say(None, "{}")]);
    for path in [
        "/v1/admin/deletions/replay",
        "/v1/admin/deletions/replay?all=false",
        "/v1/admin/deletions/replay?all=yes",
        "/v1/admin/deletions/replay?all=true&cursor=x",
    ] {
        assert_eq!(rig.ask("POST", path, ADMIN).await.status, 400, "{path}");
    }
    for path in ["/v1/admin/deletions/parked?limit=-1", "/v1/admin/deletions?limit=many"] {
        assert_eq!(rig.ask("GET", path, ADMIN).await.status, 400, "{path}");
    }
    assert!(rig.workers.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn limit_bounds_the_replay_and_the_cursor_continues() {
    let rig = Rig::new([page(1, "90")]);
    let answer = rig.ask("POST", "/v1/admin/deletions/replay?all=true&limit=1&cursor=40", ADMIN).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["replayed"]), (200, &json!(1)));
    assert_eq!(answer.json()["cursor"], 90);
    let body: Value = serde_json::from_slice(&rig.workers.only_seen().body).unwrap();
    assert_eq!(body, json!({"limit": 1, "cursor": 40, "by": "admin"}));
}

#[tokio::test(start_paused = true)]
async fn unknown_query_parameter_is_rejected_without_side_effects() {
    let rig = Rig::new([Step::Say(None, "{}")]);
    for (method, path) in [
        ("POST", "/v1/admin/deletions/replay?all=true&pol=events"),
        ("POST", "/v1/admin/deletions/1/replay?all=true"),
        ("DELETE", "/v1/admin/deletions/_unreadable.7?dry_run=true"),
        ("POST", "/v1/admin/deletions/pause?until_seconds=60"),
        ("POST", "/v1/admin/deletions/resume?pool=dns"),
        ("POST", "/v1/admin/sync?forse=true"),
        ("POST", "/v1/admin/expire?dry_run=true"),
        ("POST", "/v1/admin/cleanup?pool=dns"),
        ("POST", "/v1/admin/census?x"),
        ("POST", "/v1/admin/auto-delete-stale?grace=24"),
        ("POST", "/v1/admin/sandboxes/7/quarantine?reason=smoke"),
        ("POST", "/v1/admin/sandboxes/7/unquarantine?reason=smoke"),
        ("POST", "/v1/admin/sandboxes/7/release?reason=smoke"),
        ("POST", "/v1/admin/bulk-delete?status=stale&dryrun=true"),
        ("GET", "/v1/admin/stats?pool=main"),
        ("GET", "/v1/admin/reports/sync/1?wait=true"),
        ("GET", "/v1/admin/deletions?state=parked"),
        ("GET", "/v1/admin/deletions/parked?all=true"),
        ("GET", "/v1/admin/deletions/7?x=1"),
        ("GET", "/v1/admin/sandboxes/7?x=1"),
        ("GET", "/v1/admin/fleet?role=reaper"),
    ] {
        let mut request = request(method, path, ADMIN);
        *request.body_mut() = axum::body::Body::from(r#"{"reason":"smoke"}"#);
        let answer = rig.send(request).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        assert_eq!(answer.json()["detail"]["code"], "INVALID_REQUEST", "{path}");
    }
    assert!(rig.workers.seen().is_empty() && rig.ticks.asked.lock().is_empty());
    assert_eq!(rig.bus.status().await.unwrap().paused, None);
}

#[tokio::test(start_paused = true)]
async fn invalid_query_names_the_parameter_and_what_is_expected() {
    let rig = Rig::new([Step::Say(None, "{}")]);
    for (path, message) in [
        ("stats?x=1", "the query: unknown parameter `x`, this request takes none"),
        ("fleet?role", "the query: unknown parameter `role`, this request takes none"),
        (
            "deletions/parked?pol=dns",
            "the query: unknown parameter `pol`, expected one of `pool`, `reason`, `cursor`, `limit`",
        ),
        ("deletions?pool=a&pool=b", "the query: repeated parameter `pool`"),
        ("deletions?limit=many", "limit must be a whole number"),
        ("deletions?limit=", "limit must be a whole number"),
        ("deletions?limit=4294967296", "limit is too large"),
        ("events?follow=maybe", "follow must be true or false"),
    ] {
        let answer = rig.ask("GET", &format!("/v1/admin/{path}"), ADMIN).await;
        answer.assert_fault(FaultCode::InvalidRequest, message);
    }
    assert!(rig.workers.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn invalid_id_is_rejected_on_every_route() {
    let long = "x".repeat(129);
    let rig = Rig::new([Step::Say(None, "{}")]);
    let keys = ["a%20b", "a.b", long.as_str(), "%FF", "_unreadable.x", "_unreadable.+7", "_unreadable."];
    for key in keys {
        for (method, way) in [("GET", ""), ("DELETE", ""), ("POST", "/replay")] {
            let answer = rig.ask(method, &format!("/v1/admin/deletions/{key}{way}"), ADMIN).await;
            assert_eq!(answer.status, 400, "{method} {key}: {answer:?}");
            assert_eq!(answer.json()["detail"]["code"], "INVALID_REQUEST", "{method} {key}");
        }
    }
    assert!(rig.workers.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn invalid_operator_header_is_rejected_on_every_route() {
    let rig = Rig::new([Step::Say(None, "{}")]);
    let orders = [
        ("POST", "/v1/admin/deletions/pause"),
        ("POST", "/v1/admin/deletions/resume"),
        ("POST", "/v1/admin/deletions/1/replay"),
        ("DELETE", "/v1/admin/deletions/_unreadable.7"),
        ("POST", "/v1/admin/deletions/replay?all=true"),
        ("POST", "/v1/admin/sync"),
        ("POST", "/v1/admin/sync?force=true"),
        ("POST", "/v1/admin/expire"),
        ("POST", "/v1/admin/cleanup"),
        ("POST", "/v1/admin/census"),
        ("POST", "/v1/admin/auto-delete-stale"),
        ("POST", "/v1/admin/bulk-delete?status=stale"),
        ("POST", "/v1/admin/sandboxes/7/quarantine"),
        ("POST", "/v1/admin/sandboxes/7/unquarantine"),
        ("POST", "/v1/admin/sandboxes/7/release"),
    ];
    let body = r#"{"reason":"smoke"}"#;
    for (method, path) in orders {
        for names in [&["two words"][..], &["\u{e9}"], &["alice", "bob"], &["alice", "alice"]] {
            let mut request = request(method, path, ADMIN);
            for name in names {
                request.headers_mut().append("X-Operator", HeaderValue::from_bytes(name.as_bytes()).unwrap());
            }
            *request.body_mut() = body.into();
            let answer = rig.send(request).await;
            assert_eq!(answer.status, 400, "{path} {names:?}: {answer:?}");
        }
    }
    assert!(rig.workers.seen().is_empty() && rig.ticks.asked.lock().is_empty());
    assert_eq!(rig.bus.status().await.unwrap().paused, None);
}

#[tokio::test(start_paused = true)]
async fn pause_actor_comes_from_header_or_body() {
    let rig = Rig::new([Step::Say(None, "{}")]);
    for (header, body, by) in [
        ("alice", "", Some("admin/alice")),
        ("alice", r#"{"by":"alice"}"#, Some("admin/alice")),
        ("", r#"{"by":"bob b"}"#, Some("admin/bob b")),
        ("", r#"{"by":" "}"#, Some("admin")),
        ("alice", r#"{"by":"bob"}"#, None),
    ] {
        let mut request = request("POST", "/v1/admin/deletions/pause", ADMIN);
        request.headers_mut().append("X-Operator", HeaderValue::from_static(header));
        *request.body_mut() = body.into();
        let answer = rig.send(request).await;
        assert_eq!(answer.status, if by.is_some() { 200 } else { 400 }, "{header} {body}: {answer:?}");
        if let Some(by) = by {
            assert_eq!(answer.json()["paused"]["by"], by, "{header} {body}");
        }
    }
}
