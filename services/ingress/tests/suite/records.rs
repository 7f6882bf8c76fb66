//! The operators' routes for all sandboxes: which parameters are relayed, and which are refused before a worker is
//! asked.

use crate::support::{ADMIN, LAB, Rig, Step, and};
use contract::{FaultCode, Verb};
use serde_json::{Value, json};

const NOT_OURS: &str = "cursor is not one of this listing with these filters; start again without a cursor";

async fn sent(method: &str, path: &str) -> (Verb, Value) {
    let rig = Rig::new([Step::Say(None, r#"{"as":"it stands"}"#)]);
    let answer = rig.ask(method, path, &and(ADMIN, &[("X-Operator", "alice")])).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_ref()), (200, br#"{"as":"it stands"}"#.as_slice()));
    let seen = rig.workers.only_seen();
    (seen.verb, serde_json::from_slice(&seen.body).unwrap())
}

#[tokio::test(start_paused = true)]
async fn list_filters_are_passed_to_the_worker() {
    assert_eq!(sent("GET", "/v1/admin/sandboxes").await, (Verb::Sandboxes, json!({})));
    let path = "/v1/admin/sandboxes?status=allocated&pool=main&lab=dns-basics&owner=student%2F1%3Fx&\
                name_prefix=lab-%2B&limit=7&cursor=allocated.main.3.0a.ff";
    let body = json!({
        "status": "allocated", "pool": "main", "lab": "dns-basics", "owner": "student/1?x",
        "name_prefix": "lab-+", "limit": 7, "cursor": "allocated.main.3.0a.ff",
    });
    assert_eq!(sent("GET", path).await, (Verb::Sandboxes, body));
    for limit in [0, 1, 100, 101] {
        let asked = sent("GET", &format!("/v1/admin/sandboxes?limit={limit}")).await;
        assert_eq!(asked, (Verb::Sandboxes, json!({"limit": limit})), "the workers know the bounds");
    }
}

#[tokio::test(start_paused = true)]
async fn worker_refusal_is_passed_through() {
    for (method, path, code, message) in [
        ("GET", "/v1/admin/sandboxes?limit=101", FaultCode::InvalidRequest, "limit must be from 1 to 100"),
        ("GET", "/v1/admin/sandboxes?cursor=forged", FaultCode::InvalidRequest, NOT_OURS),
        ("GET", "/v1/admin/sandboxes/7", FaultCode::NotFound, "there is no such sandbox"),
        ("GET", "/v1/admin/sandboxes", FaultCode::StoreUnavailable, "no table"),
        ("POST", "/v1/admin/bulk-delete", FaultCode::InvalidRequest, "status has to be said"),
        ("POST", "/v1/admin/bulk-delete?status=allocated", FaultCode::InvalidState, "never"),
    ] {
        let rig = Rig::new([Step::Refuse(code, message)]);
        rig.ask(method, path, ADMIN).await.assert_fault(code, message);
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_query_parameter_is_rejected() {
    let rig = Rig::new([Step::Say(None, "{}")]);
    for (method, path) in [
        ("GET", "/v1/admin/sandboxes?state=stale"),
        ("GET", "/v1/admin/sandboxes?limit=many"),
        ("GET", "/v1/admin/sandboxes?limit=-1"),
        ("GET", "/v1/admin/sandboxes?pool=main&pool=dns"),
        ("POST", "/v1/admin/bulk-delete?status=stale&dryrun=true"),
        ("POST", "/v1/admin/bulk-delete?status=stale&dry_run=yes"),
        ("POST", "/v1/admin/bulk-delete?status=stale&dry_run"),
        ("POST", "/v1/admin/bulk-delete?status=stale&dry_run=true&dry_run=false"),
        ("POST", "/v1/admin/bulk-delete?status=stale&limit=all"),
        ("GET", "/v1/admin/sandboxes/a.b"),
    ] {
        let answer = rig.ask(method, path, ADMIN).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        assert_eq!(answer.json()["detail"]["code"], "INVALID_REQUEST", "{path}");
    }
    assert!(rig.workers.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn sandbox_is_requested_by_id() {
    assert_eq!(sent("GET", "/v1/admin/sandboxes/7").await, (Verb::Sandbox, json!({"sandbox_id": "7"})));
}

#[tokio::test(start_paused = true)]
async fn bulk_delete_passes_filters_and_actor() {
    let (verb, body) = sent("POST", "/v1/admin/bulk-delete?status=stale").await;
    let expected = json!({"status": "stale", "dry_run": false, "by": "admin/alice"});
    assert_eq!((verb, body), (Verb::BulkDelete, expected));
    let path = "/v1/admin/bulk-delete?status=stale&pool=dns&dry_run=true&limit=9&cursor=x.y";
    let expected = json!({
        "status": "stale", "pool": "dns", "dry_run": true, "limit": 9, "cursor": "x.y", "by": "admin/alice",
    });
    assert_eq!(sent("POST", path).await, (Verb::BulkDelete, expected));
}

#[tokio::test(start_paused = true)]
async fn lab_token_is_forbidden() {
    let rig = Rig::new([Step::Say(None, "{}")]);
    for (method, path) in [
        ("GET", "/v1/admin/sandboxes"),
        ("GET", "/v1/admin/sandboxes/7"),
        ("POST", "/v1/admin/bulk-delete?status=stale"),
    ] {
        assert_eq!(rig.ask(method, path, LAB).await.status, 403, "{path}");
    }
    assert!(rig.workers.seen().is_empty());
}
