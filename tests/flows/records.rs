//! The list of all sandboxes, one sandbox in full, and bulk removal of records: on a whole fleet, over both transports.

use contract::Verb;
use domain::{Cause, SandboxId, StateName};
use harness::http::Answer;
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use ports::bus::EventLog as _;
use reqwest::Method;
use serde_json::{Value, json};
use simulator::{Fault, FaultKind, Operation};
use std::collections::BTreeSet;

/// Pages of one walk after which it counts as endless.
const PAGES_MAX: usize = 200;

async fn list(rig: &Rig, query: &str) -> Answer {
    rig.api.admin(Method::GET, &format!("/v1/admin/sandboxes?{query}")).await
}

/// The ids of a complete walk over HTTP.
async fn walked(rig: &Rig, filters: &str, limit: usize) -> BTreeSet<String> {
    walked_from(rig, filters, limit, String::new()).await
}

async fn walked_from(rig: &Rig, filters: &str, limit: usize, mut cursor: String) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for _ in 0..PAGES_MAX {
        let page = list(rig, &format!("{filters}&limit={limit}{cursor}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        let sandboxes = page.body["sandboxes"].as_array().unwrap();
        assert!(sandboxes.len() <= limit && page.body["count"] == sandboxes.len());
        for sandbox in sandboxes {
            let id = sandbox["sandbox_id"].as_str().unwrap().to_owned();
            assert!(found.insert(id), "shown twice: {sandbox}");
        }
        match page.body["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
    panic!("the walk does not end");
}

async fn asked(rig: &Rig, verb: Verb, body: Value) -> Value {
    let reply = rig.ask(verb, body).await.expect("an answer");
    serde_json::from_slice(&reply.body).unwrap()
}

#[tokio::test]
async fn sandboxes_are_listed_in_pages_with_their_history() {
    let mut rig = Plan::new(40).set("POOLS", "first=lab-0000,main").start().await;
    let mut held = BTreeSet::new();
    for number in 0..9 {
        let lab = ("X-Instruqt-Track-ID", ["dns-basics", "dhcp"][number % 2]);
        let claim = rig.api.allocate_with(&format!("student-{number}"), &[lab]).await;
        assert_eq!(claim.status, 201, "{claim:?}");
        held.insert(claim.sandbox().to_owned());
    }
    assert_eq!(walked(&rig, "", 7).await.len(), 40);
    assert_eq!(walked(&rig, "status=allocated", 2).await, held);
    assert_eq!(walked(&rig, "lab=dns-basics", 2).await.len(), 5);
    assert_eq!(walked(&rig, "lab=dns-basics&owner=student-1", 2).await.len(), 0);
    assert_eq!(walked(&rig, "owner=student-2&status=allocated&pool=main", 1).await.len(), 1);
    assert_eq!(walked(&rig, "status=available&name_prefix=lab-0003", 3).await.len(), {
        let free = walked(&rig, "status=available", 100).await;
        let mut count = 0;
        for id in free {
            let name = rig.sandbox(&id).await.unwrap().name;
            count += usize::from(name.as_str().starts_with("lab-0003"));
        }
        count
    });
    let first = list(&rig, "limit=5").await;
    let cursor = first.body["cursor"].as_str().unwrap().to_owned();
    for query in [
        format!("limit=5&pool=main&cursor={cursor}"),
        format!("limit=5&cursor={cursor}0"),
        "cursor=available.main.0..00".to_owned(),
        "limit=0".to_owned(),
        "limit=101".to_owned(),
        "status=gone".to_owned(),
    ] {
        let refused = list(&rig, &query).await;
        assert_eq!((refused.status, refused.code()), (400, "INVALID_REQUEST"), "{query}");
    }

    let one = held.first().unwrap();
    let shown = rig.api.admin(Method::GET, &format!("/v1/admin/sandboxes/{one}")).await;
    assert_eq!((shown.status, &shown.body["lease"]["is_live"]), (200, &json!(true)), "{shown:?}");
    assert_eq!(shown.body["history"][1]["cause"], "claimed");
    assert_eq!(asked(&rig, Verb::Sandbox, json!({"sandbox_id": one})).await, shown.body, "over NATS as well");
    assert_eq!(rig.api.admin(Method::GET, "/v1/admin/sandboxes/4711").await.code(), "NOT_FOUND");

    // New processes on the same table continue the walk.
    rig.stop_fleet().await.expect("the fleet ends in order");
    rig.start_again().await;
    eventually("workers that are back", TIMEOUT, || async {
        let next = list(&rig, &format!("limit=5&cursor={cursor}")).await;
        if next.status == 200 { Ok(()) } else { Err(next) }
    })
    .await;
    let mut shown = walked_from(&rig, "", 9, format!("&cursor={cursor}")).await;
    for sandbox in first.body["sandboxes"].as_array().unwrap() {
        assert!(shown.insert(sandbox["sandbox_id"].as_str().unwrap().to_owned()), "shown twice: {sandbox}");
    }
    assert_eq!(shown, walked(&rig, "", 100).await);
    let (over_nats, over_http) =
        (asked(&rig, Verb::Sandboxes, json!({"limit": 3})).await, list(&rig, "limit=3").await);
    assert_eq!(over_nats, over_http.body, "over NATS as well");
    rig.stop().await;
}

#[tokio::test]
async fn bulk_delete_removes_only_stale_records() {
    let rig = Plan::new(12).set("SYNC_STALE_PERCENT_MAX", 100).set("DELETION_ATTEMPTS_MAX", 1).start().await;
    let held = rig.api.allocate("student-1").await;
    let free: Vec<_> = walked(&rig, "status=available", 100).await.into_iter().collect();
    for id in &free[..3] {
        rig.delete_at_csp(id).await;
    }
    assert_eq!(rig.sync().await.marked_stale, 3);
    let bulk = |query: &'static str| rig.api.admin(Method::POST, query);
    for (query, status, code) in [
        ("/v1/admin/bulk-delete", 400, "INVALID_REQUEST"),
        ("/v1/admin/bulk-delete?status=lost", 400, "INVALID_REQUEST"),
        ("/v1/admin/bulk-delete?status=allocated", 409, "INVALID_STATE"),
        ("/v1/admin/bulk-delete?status=available", 409, "INVALID_STATE"),
    ] {
        let refused = bulk(query).await;
        assert_eq!((refused.status, refused.code()), (status, code), "{query}");
    }
    let dry = bulk("/v1/admin/bulk-delete?status=stale&dry_run=true").await;
    assert_eq!((dry.status, &dry.body["removed"], &dry.body["dry_run"]), (200, &json!(3), &json!(true)));
    assert_eq!(rig.count(StateName::Stale).await, 3, "a dry run");
    let real = bulk("/v1/admin/bulk-delete?status=stale").await;
    assert_eq!((&real.body["removed"], &real.body["sandboxes"]), (&json!(3), &dry.body["sandboxes"]));
    let event_log = rig.another_bus().await;
    for id in &free[..3] {
        let gone = rig.sandbox(id).await.unwrap();
        let entry = gone.history.last().unwrap();
        assert_eq!((entry.cause, entry.by.as_ref().map(|by| by.as_str())), (Cause::Forgotten, Some("admin")));
        let mark = event_log.last_event(&SandboxId::parse(id).unwrap()).await.unwrap();
        assert_eq!(mark.map(|mark| mark.version), Some(gone.version));
    }
    event_log.close().await;
    let report = rig.sync().await;
    assert_eq!((report.inserted, report.restored, rig.count(StateName::Available).await), (0, 0, 8));
    assert_eq!(rig.deletes_at_csp(), 0, "nothing was deleted at the provider");

    // A parked deletion: its account exists, and only a replay ends it.
    let kind = FaultKind::Status {
        status: 409,
        message: None,
        retry_after_seconds: None,
        retry_after_as_date: false,
    };
    rig.csp.fail(Operation::Delete, Fault::always(kind)).unwrap();
    rig.api.release(held.sandbox(), "student-1").await;
    rig.until_state(held.sandbox(), StateName::DeletionFailed).await;
    let counted = bulk("/v1/admin/bulk-delete?status=deletion_failed").await;
    assert_eq!((&counted.body["refused"], &counted.body["removed"]), (&json!(1), &json!(0)), "{counted:?}");
    assert_eq!(rig.sandbox(held.sandbox()).await.unwrap().state.name(), StateName::DeletionFailed);
    rig.csp.clear_faults();
    let replayed = rig.api.admin(Method::POST, "/v1/admin/deletions/replay?all=true").await;
    assert_eq!(replayed.status, 200, "{replayed:?}");
    rig.until_state(held.sandbox(), StateName::Deleted).await;
    assert!(walked(&rig, "status=deleted", 1).await.contains(held.sandbox()));
    rig.stop().await;
}
